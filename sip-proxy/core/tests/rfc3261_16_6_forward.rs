//! RFC 3261 16.6 and 18.1: what a copy looks like, and by which transport it leaves.

mod rig;

use bytes::Bytes;
use ferric_proxy::ProxyConfig;
use ferric_sip::flow::Transport;
use ferric_sip::message::Message;
use rig::{Bench, CALLER, address, by_uri, call, element, grouped, parse, request, text_of};

const PEER: &str = "192.168.2.1:5060";

/// Every line but the ones that a proxy has to touch.
fn untouched(text: &str) -> Vec<&str> {
    text.split("\r\n")
        .filter(|line| !["Via:", "v:", "Max-Forwards:"].iter().any(|name| line.starts_with(name)))
        .collect()
}

#[test]
fn bytes_pass_through_in_order_case_and_form() {
    let head = "FROBNICATE sip:x@192.168.2.1;weird=%41?h=v SIP/2.0\r\n\
        v: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bKodd;rport\r\n\
        v: SIP/2.0/UDP farther.example.com;branch=old, SIP/2.0/TCP farthest\r\n\
        Max-Forwards: 9\r\nX-Zebra:no blank\r\nx-ANT  :  many blanks  \r\nSubject: folded\r\n over\r\n\tthree lines\r\n\
        t: \"B, ob\" <sip:bob@example.org;p=q>\r\nF: <sip:a@example.org>;TAG=1\r\ni: odd@id\r\nCSeq:   07  FROBNICATE\r\n\
        k: 100rel,timer\r\nm: <sip:a@192.168.1.10>;+sip.src\r\nX-Latin: caf\u{e9}\r\nX-Zebra: again\r\nc: application/octet-stream\r\n";
    let mut bytes = head.as_bytes().to_vec();
    // Not UTF-8 at all.
    bytes.extend_from_slice(b"X-Bytes: \xff\xfe\r\nl: 6\r\n\r\n\x00\xff\r\n\r\n");
    let mut bench = Bench::new(by_uri());
    assert!(bench.put(CALLER, Message::parse(Bytes::from(bytes.clone())).unwrap()));
    let sent = bench.to(PEER).message.to_bytes();
    let (before, after) = (String::from_utf8_lossy(&bytes).into_owned(), String::from_utf8_lossy(&sent).into_owned());
    assert_eq!(untouched(&before), untouched(&after));
    assert!(after.contains("\r\nMax-Forwards: 8\r\nX-Zebra:no blank\r\n"), "in its place");
    assert!(after.contains("\r\nv: SIP/2.0/UDP farther.example.com;branch=old, SIP/2.0/TCP farthest\r\n"));
    assert!(sent.ends_with(b"X-Bytes: \xff\xfe\r\nl: 6\r\n\r\n\x00\xff\r\n\r\n"));
}

#[test]
fn a_response_passes_untouched_but_for_our_via() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("OPTIONS", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    let text = text_of(&rig::Sent { message: rig::response_to(&sent, 200), ..sent.clone() });
    let odd = text
        .replace("Content-Length: 0\r\n", "x-odd :  kept\r\nX-Fold: a\r\n b\r\nl: 3\r\n")
        .replace("200 OK", "299 Quite  Fine")
        + "abc";
    bench.put(PEER, Message::parse(Bytes::from(odd.clone())).unwrap());
    let back = text_of(&bench.to(CALLER));
    let our_via = odd.lines().nth(1).unwrap();
    assert_eq!(back, odd.replace(&format!("{our_via}\r\n"), ""));
}

#[test]
fn our_via_tells_transport_address_and_a_fresh_branch() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("OPTIONS", "sip:x@192.168.2.1;transport=tcp", ""));
    let via = bench.to(PEER).message.top_via().unwrap();
    assert_eq!((via.transport.as_str(), via.host.as_str(), via.port), ("TCP", "192.168.0.5", Some(5_060)));
    assert!(via.branch().unwrap().starts_with("z9hG4bK"));
    bench.put(CALLER, call(2, "OPTIONS", "sip:x@192.168.2.1;transport=tcp"));
    assert_ne!(bench.to(PEER).message.top_via().unwrap().branch(), via.branch());
}

#[test]
fn where_a_request_came_from_is_noted_in_its_via() {
    let mut bench = Bench::new(by_uri());
    let mut behind_nat = request("OPTIONS", "sip:x@192.168.2.1", "");
    behind_nat.set_top_via("SIP/2.0/UDP 10.0.0.1:5070;rport;branch=z9hG4bKnat");
    bench.put("192.168.1.10:41000", behind_nat);
    let sent = bench.to(PEER);
    let vias = sent.message.values("Via");
    assert!(vias[1].contains("rport=41000") && vias[1].contains("received=192.168.1.10"), "{vias:?}");
    bench.answer(&sent, 200);
    assert_eq!(bench.to("192.168.1.10:41000").line(), "200");
    // Without rport: to the source address, at the port of sent-by.
    let mut plain = request("OPTIONS", "sip:x@192.168.2.1", "");
    plain.set_top_via("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKplain");
    bench.put("192.168.1.10:41000", plain);
    let sent = bench.to(PEER);
    bench.answer(&sent, 200);
    assert_eq!(bench.to("192.168.1.10:5070").line(), "200");
}

#[test]
fn on_a_stream_the_length_of_the_body_is_told() {
    let text = "MESSAGE sip:x@192.168.2.1;transport=tcp SIP/2.0\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bKlen;rport\nMax-Forwards: 70\n\
        From: <sip:a@b>;tag=1\nTo: <sip:x@y>\nCall-ID: len\nCSeq: 1 MESSAGE\nContent-Type: text/plain\n\nhello";
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, parse(text));
    let sent = bench.to(PEER);
    assert_eq!((sent.message.header("Content-Length").unwrap(), &sent.message.body()[..]), ("5".into(), &b"hello"[..]));
    // And to a caller on a stream, whatever the other side sent.
    let mut bench = Bench::new(by_uri());
    let mut request = request("OPTIONS", "sip:x@192.168.2.1", "");
    request.set_top_via("SIP/2.0/TCP 192.168.1.10:5060;branch=z9hG4bKtcp");
    bench.put_by(Transport::Tcp, CALLER, rig::parse_bytes(&request));
    let sent = bench.to(PEER);
    let mut response = rig::response_to(&sent, 200);
    response.remove_header("Content-Length");
    bench.put(PEER, response);
    assert_eq!(bench.to(CALLER).message.header("Content-Length").unwrap(), "0");
}

#[test]
fn what_follows_the_body_of_a_datagram_is_cut_off() {
    let mut text = text_of(&rig::Sent {
        to: address(PEER),
        transport: Transport::Udp,
        message: request("OPTIONS", "sip:x@192.168.2.1", ""),
    });
    text.push_str("trailing octets");
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, Message::parse(Bytes::from(text)).unwrap());
    assert!(text_of(&bench.to(PEER)).ends_with("\r\n\r\n"));
}

fn big(number: u32, size: usize) -> Message {
    let mut invite = call(number, "INVITE", "sip:rec@192.168.2.1");
    invite.add_header("X-Long", &"x".repeat(size));
    rig::parse_bytes(&invite)
}

#[test]
fn a_large_request_goes_by_tcp_and_a_small_one_does_not() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, big(1, 1_300));
    let sent = bench.to(PEER);
    assert_eq!((sent.transport, sent.message.top_via().unwrap().transport.as_str()), (Transport::Tcp, "TCP"));
    bench.put(CALLER, big(2, 500));
    assert_eq!(bench.to(PEER).transport, Transport::Udp);
    let mut bench = Bench::new(ProxyConfig { udp_mtu: 0, ..by_uri() });
    bench.put(CALLER, big(1, 9_000));
    assert_eq!(bench.to(PEER).transport, Transport::Udp, "switched off");
}

#[test]
fn the_size_with_our_own_via_decides() {
    let mut bench = Bench::new(by_uri());
    let room = 1_300 - big(1, 0).to_bytes().len();
    bench.put(CALLER, big(1, room - 10));
    let sent = bench.to(PEER);
    assert_eq!(
        sent.transport,
        Transport::Tcp,
        "within the limit as it came, beyond as it goes: {}",
        sent.message.to_bytes().len()
    );
}

#[test]
fn a_peer_that_refuses_tcp_gets_the_datagram_and_is_remembered() {
    for config in [by_uri(), grouped(vec![element(PEER, 1, 1)])] {
        let mut bench = Bench::new(config);
        bench.put(CALLER, big(1, 2_000));
        let sent = bench.to(PEER);
        assert_eq!(sent.transport, Transport::Tcp);
        let first = sent.message.top_branch();
        bench.unreachable(&sent);
        let sent = bench.to(PEER);
        assert_eq!((sent.transport, sent.message.top_via().unwrap().transport.as_str()), (Transport::Udp, "UDP"));
        assert_eq!(sent.message.top_branch(), first, "the same request to whoever gets both");
        assert!(bench.events.is_empty(), "it lives, it speaks no TCP");
        bench.answer(&sent, 200);
        assert_eq!(bench.statuses(), [200]);
        bench.put(CALLER, big(2, 2_000));
        assert_eq!(bench.to(PEER).transport, Transport::Udp);
        bench.now += std::time::Duration::from_secs(301);
        bench.put(CALLER, big(3, 2_000));
        assert_eq!(bench.to(PEER).transport, Transport::Tcp, "asked again after a while");
    }
}

#[test]
fn a_peer_whose_tcp_is_swallowed_gets_the_datagram_too() {
    for config in [by_uri(), grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)])] {
        let mut bench = Bench::new(config);
        bench.put(CALLER, big(1, 2_000));
        let stream = bench.to(PEER);
        assert_eq!(stream.transport, Transport::Tcp);
        bench.pass_ms(1_000);
        let sent = bench.to(PEER);
        assert_eq!((sent.transport, sent.message.top_branch()), (Transport::Udp, stream.message.top_branch()));
        // The connection fails in the end, or stood after all and was answered first: it is one transaction.
        bench.unreachable(&stream);
        bench.put_by(Transport::Tcp, PEER, rig::response_to(&stream, 180));
        assert_eq!(bench.statuses(), [180]);
        assert!(bench.events.is_empty(), "a firewall is no reason to call it dead");
        bench.answer(&sent, 200);
        assert_eq!(bench.statuses(), [200]);
        bench.settles();
        let now = bench.now;
        assert!(
            bench.proxy.groups().view(now).iter().flat_map(|group| &group.elements).all(|element| element.open == 0)
        );
    }
}

#[test]
fn a_request_without_a_listener_of_its_family_fails_at_once() {
    let listeners = rig::listeners().into_iter().filter(|listener| listener.address.is_ipv4()).collect();
    let mut bench = Bench::new(ProxyConfig { listeners, ..by_uri() });
    bench.put(CALLER, request("INVITE", "sip:x@[fd00::9]", ""));
    assert_eq!(bench.statuses(), [500]);
}

#[test]
fn a_large_ack_takes_a_stream_like_any_request_and_the_next_one_a_datagram_where_none_is_to_be_had() {
    let mut bench = Bench::new(by_uri());
    let mut ack = call(1, "ACK", "sip:rec@192.168.2.1");
    ack.set_to_tag("there");
    ack.add_header("X-Long", &"x".repeat(2_000));
    let ack = rig::parse_bytes(&ack);
    bench.put(CALLER, ack.clone());
    let sent = bench.to(PEER);
    assert_eq!((sent.transport, sent.message.top_via().unwrap().transport.as_str()), (Transport::Tcp, "TCP"));
    bench.unreachable(&sent);
    bench.put(CALLER, ack);
    assert_eq!(bench.to(PEER).transport, Transport::Udp);
}

#[test]
fn the_ack_to_a_failure_and_the_cancel_go_where_their_invite_went() {
    for (size, transport) in [(2_000, Transport::Tcp), (10, Transport::Udp)] {
        let mut bench = Bench::new(by_uri());
        // The INVITE decides: its CANCEL and ACK are smaller.
        let invite = big(1, size);
        bench.put(CALLER, invite.clone());
        let sent = bench.to(PEER);
        bench.answer(&sent, 180);
        bench.put(CALLER, rig::cancel_of(&invite));
        let cancel = bench.to(PEER);
        assert_eq!((cancel.line().split(' ').next(), cancel.transport), (Some("CANCEL"), transport));
        bench.answer(&sent, 487);
        let ack = bench.to(PEER);
        assert_eq!((ack.line().split(' ').next(), ack.transport), (Some("ACK"), transport));
    }
}
