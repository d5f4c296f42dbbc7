//! RFC 3261 16.4, 16.6 steps 4 and 6, 16.12; RFC 5658: what Route says, and what Record-Route makes of it later.

mod rig;

use std::time::Duration;

use ferric_proxy::routing::Action;
use ferric_proxy::{Listener, ProxyConfig};
use ferric_sip::flow::Transport;
use rig::{
    Bench, CALLER, US, address, all_to, bob_at, by_uri, config, contact, element, group, grouped, parse_bytes, request,
    response_with,
};

const PEER: &str = "192.168.2.1:5060";

#[test]
fn our_own_route_is_taken_off_and_the_next_one_followed() {
    let mut bench = Bench::new(config());
    bench.put(
        CALLER,
        request(
            "BYE",
            "sip:bob@192.168.3.1",
            "Route: <sip:192.168.0.5;lr>, <sip:192.168.2.1;lr>\nTo: <sip:b@x>;tag=1\n",
        ),
    );
    let sent = bench.to(PEER);
    assert_eq!(sent.line(), "BYE sip:bob@192.168.3.1");
    assert_eq!(sent.message.values("Route"), ["<sip:192.168.2.1;lr>"]);
}

#[test]
fn the_last_route_is_us_and_the_request_goes_to_its_uri() {
    let mut bench = Bench::new(config());
    bench.put(
        CALLER,
        request("BYE", "sip:bob@192.168.3.1:5070", "Route: <sip:192.168.0.5:5060;lr>\nTo: <sip:b@x>;tag=1\n"),
    );
    let sent = bench.to("192.168.3.1:5070");
    assert!(sent.message.header("Route").is_none());
}

#[test]
fn a_route_of_others_is_followed_untouched() {
    let mut bench = Bench::new(config());
    bench.put(
        CALLER,
        request(
            "OPTIONS",
            "sip:bob@192.168.3.1",
            "Route: <sip:192.168.2.1;lr>\nRoute: \"B\" <sip:b.example.net;lr>;x=y\n",
        ),
    );
    assert_eq!(bench.to(PEER).message.values("Route"), ["<sip:192.168.2.1;lr>", "\"B\" <sip:b.example.net;lr>;x=y"]);
}

#[test]
fn a_strict_router_before_us_put_us_into_the_uri() {
    let mut bench = Bench::new(config());
    let routes = "Route: <sip:192.168.2.1;lr>, <sip:bob@192.168.3.1>\nTo: <sip:b@x>;tag=1\n";
    bench.put(CALLER, request("BYE", "sip:192.168.0.5;lr", routes));
    let sent = bench.to(PEER);
    assert_eq!(sent.line(), "BYE sip:bob@192.168.3.1", "the last Route is the true target");
    assert_eq!(sent.message.values("Route"), ["<sip:192.168.2.1;lr>"]);
}

#[test]
fn a_strict_router_behind_us_gets_itself_as_uri() {
    let mut bench = Bench::new(config());
    let routes = "Route: <sip:192.168.0.5;lr>, <sip:192.168.2.1>, <sip:192.168.2.9;lr>\nTo: <sip:b@x>;tag=1\n";
    bench.put(CALLER, request("BYE", "sip:bob@192.168.3.1", routes));
    let sent = bench.to(PEER);
    assert_eq!(sent.line(), "BYE sip:192.168.2.1");
    assert_eq!(sent.message.values("Route"), ["<sip:192.168.2.9;lr>", "<sip:bob@192.168.3.1>"]);
}

#[test]
fn lr_with_a_value_or_outside_of_the_brackets_counts() {
    for route in ["<sip:192.168.2.1;lr=on>", "<sip:192.168.2.1;LR>", "<sip:192.168.2.1>;lr", "sip:192.168.2.1;lr"] {
        let mut bench = Bench::new(config());
        bench.put(CALLER, request("BYE", "sip:bob@192.168.3.1", &format!("Route: {route}\nTo: <sip:b@x>;tag=1\n")));
        assert_eq!(bench.to(PEER).line(), "BYE sip:bob@192.168.3.1", "{route}");
    }
}

#[test]
fn a_route_that_cannot_be_read_is_refused() {
    let mut bench = Bench::new(config());
    bench.put(CALLER, request("BYE", "sip:bob@192.168.3.1", "Route: <sip:192.168.2.1:port;lr>\nTo: <sip:b@x>;tag=1\n"));
    assert_eq!(bench.statuses(), [400]);
}

#[test]
fn a_domain_of_ours_as_route_is_us() {
    let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1", 1_000)]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", "Route: <sip:example.com;lr>\n"));
    let sent = bench.to("192.168.3.1:5060");
    assert!(sent.message.header("Route").is_none());
    assert!(bench.asked.is_empty(), "we need no DNS to know ourselves");
}

#[test]
fn a_group_as_route_is_the_group() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:bob@192.168.3.1", "Route: <sip:Recorders.Example.com;lr>\n"));
    let sent = bench.to(PEER);
    assert_eq!((sent.line().as_str(), sent.message.values("Route").len()), ("INVITE sip:bob@192.168.3.1", 1));
}

#[test]
fn maddr_that_is_ours_is_taken_off() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:bob@example.org:5060;maddr=192.168.0.5;transport=udp;x=y", ""));
    assert_eq!(bench.to(PEER).line(), "INVITE sip:bob@example.org;x=y");
}

#[test]
fn maddr_of_others_is_where_it_goes() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:bob@example.org:5070;maddr=192.168.2.1", ""));
    let sent = bench.to("192.168.2.1:5070");
    assert_eq!(sent.line(), "INVITE sip:bob@example.org:5070;maddr=192.168.2.1");
    bench.put(CALLER, rig::call(2, "INVITE", "sip:bob@192.168.3.1;maddr=host.example.org"));
    assert_eq!(bench.asked.pop_front().unwrap().1.host, "host.example.org");
}

fn recording_route(elements: Vec<ferric_proxy::group::ElementConfig>) -> ProxyConfig {
    ProxyConfig { record_route: true, ..grouped(elements) }
}

#[test]
fn record_route_is_off_by_default_and_stands_before_others_when_on() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:x@y", "Record-Route: <sip:other;lr>\n"));
    assert_eq!(bench.to(PEER).message.values("Record-Route"), ["<sip:other;lr>"]);
    let mut bench = Bench::new(recording_route(vec![element(PEER, 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:x@y", "Record-Route: <sip:other;lr>\n"));
    assert_eq!(bench.to(PEER).message.values("Record-Route"), ["<sip:192.168.0.5:5060;lr>", "<sip:other;lr>"]);
}

#[test]
fn only_what_makes_a_dialog_is_recorded() {
    for (method, more, recorded) in [
        ("INVITE", "", true),
        ("SUBSCRIBE", "", true),
        ("REFER", "", true),
        ("OPTIONS", "", false),
        ("MESSAGE", "", false),
        ("INVITE", "Route: <sip:192.168.0.5;lr>\nTo: <sip:b@x>;tag=1\n", false),
    ] {
        let mut bench = Bench::new(recording_route(vec![element(PEER, 1, 1)]));
        bench.put(CALLER, request(method, "sip:x@192.168.2.1", more));
        assert_eq!(bench.to(PEER).message.header("Record-Route").is_some(), recorded, "{method} {more}");
    }
}

#[test]
fn two_transports_are_recorded_with_both_sides() {
    let mut bench = Bench::new(recording_route(vec![element("192.168.2.1:5060;transport=tcp", 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:rec@y", ""));
    let invite = bench.to(PEER);
    let recorded = invite.message.values("Record-Route");
    assert_eq!(recorded, ["<sip:192.168.0.5:5060;transport=tcp;lr;twin>", "<sip:192.168.0.5:5060;lr;twin>"]);
    // The caller's BYE: the way is reversed, and leaves by TCP.
    bench.clear();
    let route =
        "Route: <sip:192.168.0.5:5060;lr;twin>, <sip:192.168.0.5:5060;transport=tcp;lr;twin>\nTo: <sip:b@x>;tag=1\n";
    bench.put(CALLER, request("BYE", "sip:rec@192.168.2.1:5060;transport=tcp", route));
    let bye = bench.to(PEER);
    assert_eq!((bye.transport, bye.message.header("Route")), (Transport::Tcp, None));
    // The callee's BYE comes by TCP and leaves by UDP.
    let route =
        "Route: <sip:192.168.0.5:5060;transport=tcp;lr;twin>, <sip:192.168.0.5:5060;lr;twin>\nTo: <sip:b@x>;tag=1\n";
    let mut bye = request("BYE", "sip:caller@192.168.1.10", route);
    bye.set_top_via("SIP/2.0/TCP 192.168.2.1:5060;branch=z9hG4bKcallee");
    bench.put_by(Transport::Tcp, PEER, parse_bytes(&bye));
    let bye = bench.to("192.168.1.10:5060");
    assert_eq!((bye.transport, bye.message.header("Route")), (Transport::Udp, None));
}

#[test]
fn two_addresses_of_one_transport_leave_by_the_one_that_was_named() {
    let mut listeners = rig::listeners();
    listeners.push(Listener { transport: Transport::Udp, address: address("192.168.0.5:5080"), advertise: None });
    let mut bench = Bench::new(ProxyConfig { listeners, ..config() });
    let route = "Route: <sip:192.168.0.5:5060;lr;twin>, <sip:192.168.0.5:5080;lr;twin>\nTo: <sip:b@x>;tag=1\n";
    bench.put(CALLER, request("BYE", "sip:rec@192.168.2.1", route));
    let bye = bench.to(PEER);
    assert!(bye.message.header("Via").unwrap().contains("192.168.0.5:5080"), "{:?}", bye.message.header("Via"));
}

#[test]
fn sips_is_recorded_as_sips() {
    let mut bench = Bench::new(recording_route(vec![element("192.168.2.1:5061;transport=tls", 1, 1)]));
    let mut invite = request("INVITE", "sips:rec@y", "");
    invite.set_top_via("SIP/2.0/TLS 192.168.1.10:5060;branch=z9hG4bKs");
    bench.put_by(Transport::Tls, CALLER, parse_bytes(&invite));
    let invite = bench.to("192.168.2.1:5061");
    assert_eq!(invite.message.values("Record-Route"), ["<sips:192.168.0.5:5061;lr>"]);
    let mut bye = request("BYE", "sips:rec@192.168.2.1", "Route: <sips:192.168.0.5:5061;lr>\nTo: <sip:b@x>;tag=1\n");
    bye.set_top_via("SIP/2.0/TLS 192.168.1.10:5060;branch=z9hG4bKt");
    bench.put_by(Transport::Tls, CALLER, parse_bytes(&bye));
    assert_eq!(bench.to("192.168.2.1:5061").message.header("Route"), None, "ours");
}

#[test]
fn a_dialog_over_us_goes_both_ways() {
    let mut bench = Bench::new(recording_route(vec![element(PEER, 1, 1)]));
    bench.name(PEER, "element");
    let invite = request("INVITE", "sip:rec@recorders.example.com", "Contact: <sip:caller@192.168.1.10>\n");
    bench.put(CALLER, invite);
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.pass(Duration::from_millis(1_200));
    bench.put(
        PEER,
        response_with(
            &sent,
            200,
            "e1",
            &[("Contact", "<sip:rec@192.168.2.1>"), ("Record-Route", &sent.message.header("Record-Route").unwrap())],
        ),
    );
    let ok = bench.answered();
    let ok = if ok.message.status() == Some(180) { bench.answered() } else { ok };
    assert_eq!(ok.message.values("Record-Route"), [format!("<sip:{US};lr>")]);
    let in_dialog = |method: &str, cseq: u32| {
        let mut request = rig::request_as(
            &format!("z9hG4bKd{cseq}"),
            method,
            "sip:rec@192.168.2.1",
            "Route: <sip:192.168.0.5:5060;lr>\nTo: <sip:rec@recorders.example.com>;tag=e1\n",
        );
        request.set_header("CSeq", &format!("{cseq} {method}"));
        parse_bytes(&request)
    };
    bench.put(CALLER, in_dialog("ACK", 1));
    bench.put(CALLER, in_dialog("INVITE", 2));
    let again = bench.sent.iter().rposition(|sent| sent.line().starts_with("INVITE")).unwrap();
    let again = bench.sent.remove(again).unwrap();
    bench.answer(&again, 200);
    bench.put(CALLER, in_dialog("ACK", 2));
    let bye = "BYE sip:caller@192.168.1.10 SIP/2.0\nVia: SIP/2.0/UDP 192.168.2.1:5060;branch=z9hG4bKbye\nRoute: <sip:192.168.0.5:5060;lr>\nMax-Forwards: 70\n\
        From: <sip:rec@recorders.example.com>;tag=e1\nTo: <sip:caller@example.net>;tag=c1\nCall-ID: one@caller\nCSeq: 7 BYE\n\n";
    bench.text(PEER, bye);
    let bye = bench.sent.iter().rposition(|sent| sent.line().starts_with("BYE")).unwrap();
    let bye = bench.sent.remove(bye).unwrap();
    bench.answer(&bye, 200);
    insta::assert_snapshot!(bench.ladder());
    assert_eq!(bench.proxy.groups().dialogs(), 0, "its end was seen");
    bench.settles();
}

#[test]
fn without_record_route_what_comes_anyway_is_routed() {
    let groups = vec![group(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)])];
    let mut bench =
        Bench::new(ProxyConfig { groups, routes: all_to(Action::Group("recorders.example.com".into())), ..config() });
    bench.put(CALLER, request("INVITE", "sip:rec@192.168.0.5", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 200);
    bench.clear();
    // A peer that does not keep to Contact: to us, to the group, and to the element itself.
    for (n, uri) in ["sip:rec@192.168.0.5", "sip:rec@recorders.example.com", "sip:rec@192.168.2.1"].iter().enumerate() {
        bench.put(CALLER, rig::request_as(&format!("z9hG4bKin{n}"), "INFO", uri, "To: <sip:rec@x>;tag=at5060\n"));
        let info = bench.next_request();
        assert_eq!((info.to.to_string().as_str(), info.line()), (PEER, format!("INFO {uri}")));
    }
    // A dialog that nobody knows, addressed to us, is the recorder's to refuse.
    let mut other = rig::request_as("z9hG4bKother", "BYE", "sip:rec@192.168.0.5", "To: <sip:rec@x>;tag=zzz\n");
    other.replace_header("Call-ID", "unheard-of");
    assert!(!bench.put(CALLER, parse_bytes(&other)));
}
