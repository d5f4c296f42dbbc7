#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
use std::net::SocketAddr;

use super::*;
use crate::flow::Transport;
use std::time::Duration;

const UDP: Flow = Flow {
    transport: Transport::Udp,
    local: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), 5060),
    remote: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 20)), 5070),
    connection: 0,
};

fn layer() -> TransactionLayer {
    TransactionLayer::new(Timers::default(), TransactionLimits { transactions: 50 }, 1)
}

fn request(method: &str, branch: &str, to_tag: &str) -> Message {
    let text = format!(
        "{method} sip:srs@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5070;{branch}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@example.com>;tag=f\r\nTo: <sip:b@example.com>{to_tag}\r\nCall-ID: c1\r\nCSeq: 7 {method}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    Message::parse(Bytes::from(text)).unwrap()
}

fn drain(layer: &mut TransactionLayer) -> (Vec<Message>, Vec<TransactionEvent>) {
    let (mut sent, mut events) = (Vec::new(), Vec::new());
    while let Some(output) = layer.poll_output() {
        match output {
            TransactionOutput::Transmit { bytes, .. } => sent.push(Message::parse(bytes).unwrap()),
            TransactionOutput::Event(event) => events.push(event),
        }
    }
    (sent, events)
}

fn server_id(events: &[TransactionEvent]) -> ServerTransactionId {
    match events {
        [TransactionEvent::Request { id, .. }] => *id,
        other => panic!("not one request: {other:?}"),
    }
}

#[test]
fn a_retransmitted_request_is_answered_again_and_not_delivered_twice() {
    let now = Instant::now();
    let mut layer = layer();
    layer.handle_message(now, request("OPTIONS", "branch=z9hG4bKa;rport", ""), UDP);
    let (_, events) = drain(&mut layer);
    let id = server_id(&events);
    let TransactionEvent::Request { request: seen, .. } = &events[0] else { panic!() };
    assert_eq!(seen.top_via().unwrap().params.get("rport"), Some("5070"));
    assert_eq!(seen.top_via().unwrap().params.get("received"), Some("198.51.100.20"));
    layer.respond(now, id, Message::response(seen, 200, None));
    layer.handle_message(now, request("OPTIONS", "branch=z9hG4bKa;rport", ""), UDP);
    let (sent, events) = drain(&mut layer);
    assert_eq!(sent.iter().filter_map(Message::status).collect::<Vec<_>>(), [200, 200]);
    assert!(events.is_empty());
    layer.handle_timeout(now + Duration::from_secs(33));
    assert!(layer.is_empty());
}

#[test]
fn without_rport_the_response_goes_to_the_port_of_sent_by() {
    let mut layer = layer();
    let mut message = request("OPTIONS", "branch=z9hG4bKb", "");
    message.set_top_via("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKb");
    layer.handle_message(Instant::now(), message, UDP);
    let (_, events) = drain(&mut layer);
    let flow = layer.flow_of(server_id(&events)).unwrap();
    assert_eq!(flow.remote, "198.51.100.20:5060".parse().unwrap());
}

#[test]
fn branches_that_are_only_the_cookie_do_not_mix_calls_up() {
    let now = Instant::now();
    let mut layer = layer();
    layer.handle_message(now, request("OPTIONS", "branch=z9hG4bK", ""), UDP);
    let mut other = request("OPTIONS", "branch=z9hG4bK", "");
    other.set_header("Call-ID", "c2");
    layer.handle_message(now, other, UDP);
    assert_eq!(drain(&mut layer).1.len(), 2);
}

#[test]
fn a_merged_request_gets_482() {
    let now = Instant::now();
    let mut layer = layer();
    layer.handle_message(now, request("INVITE", "branch=z9hG4bKc", ""), UDP);
    layer.handle_message(now, request("INVITE", "branch=z9hG4bKd", ""), UDP);
    let (sent, events) = drain(&mut layer);
    assert_eq!(sent[0].status(), Some(482));
    assert_eq!(events.len(), 1);
}

#[test]
fn a_slow_core_gets_its_100_sent() {
    let now = Instant::now();
    let mut layer = layer();
    layer.handle_message(now, request("INVITE", "branch=z9hG4bKe", ""), UDP);
    drain(&mut layer);
    assert_eq!(layer.poll_timeout(), Some(now + Duration::from_millis(200)));
    layer.handle_timeout(now + Duration::from_millis(200));
    assert_eq!(drain(&mut layer).0[0].status(), Some(100));
}

#[test]
fn cancel_finds_its_invite_and_is_answered_itself() {
    let now = Instant::now();
    let mut layer = layer();
    layer.handle_message(now, request("INVITE", "branch=z9hG4bKf", ""), UDP);
    let invite = server_id(&drain(&mut layer).1);
    layer.handle_message(now, request("CANCEL", "branch=z9hG4bKf", ""), UDP);
    let (sent, events) = drain(&mut layer);
    assert_eq!(sent[0].status(), Some(200));
    assert!(matches!(events[..], [TransactionEvent::Cancel { id, .. }] if id == invite));
    layer.handle_message(now, request("CANCEL", "branch=z9hG4bKnone", ""), UDP);
    assert_eq!(drain(&mut layer).0[0].status(), Some(481));
}

#[test]
fn a_failure_is_retransmitted_until_its_ack() {
    let now = Instant::now();
    let mut layer = layer();
    let invite = request("INVITE", "branch=z9hG4bKg", "");
    layer.handle_message(now, invite.clone(), UDP);
    let id = server_id(&drain(&mut layer).1);
    layer.respond(now, id, Message::response(&invite, 486, None));
    layer.handle_timeout(now + Duration::from_millis(500));
    assert_eq!(drain(&mut layer).0.len(), 2);
    layer.handle_message(now, request("ACK", "branch=z9hG4bKg", ";tag=x"), UDP);
    assert!(drain(&mut layer).1.is_empty(), "the ACK to a failure ends here");
    layer.handle_timeout(now + Duration::from_millis(1_500));
    assert!(drain(&mut layer).0.is_empty());
    layer.handle_timeout(now + Duration::from_secs(10));
    assert!(layer.is_empty());
}

#[test]
fn our_invite_is_acknowledged_when_it_fails_and_cancelled_on_wish() {
    let now = Instant::now();
    let mut layer = layer();
    let mut invite = request("INVITE", "branch=z9hG4bKh", "");
    invite.remove_header("Via");
    let id = layer.send_request(now, invite, UDP, Some("sip.example.com:5060"));
    let (sent, _) = drain(&mut layer);
    let branch = sent[0].top_via().unwrap().branch().unwrap().to_owned();
    assert_eq!(sent[0].top_via().unwrap().host, "sip.example.com");
    assert_eq!(layer.send_cancel(now, id), None, "nothing heard of it yet");
    layer.handle_message(now, Message::response(&sent[0], 180, None), UDP);
    drain(&mut layer);
    layer.send_cancel(now, id).unwrap();
    let (cancel, _) = drain(&mut layer);
    assert_eq!(cancel[0].top_via().unwrap().branch(), Some(branch.as_str()));
    layer.handle_message(now, Message::response(&sent[0], 487, None), UDP);
    let (ack, events) = drain(&mut layer);
    assert_eq!(ack[0].method(), Method::Ack);
    assert!(matches!(&events[..], [TransactionEvent::Response { response, .. }] if response.status() == Some(487)));
}

#[test]
fn silence_times_out_once() {
    let now = Instant::now();
    let mut layer = layer();
    let mut options = request("OPTIONS", "branch=z9hG4bKi", "");
    options.remove_header("Via");
    let id = layer.send_request(now, options, UDP, None);
    let mut sent = 0;
    while let Some(due) = layer.poll_timeout() {
        layer.handle_timeout(due);
        let (messages, events) = drain(&mut layer);
        sent += messages.len();
        if let [TransactionEvent::TimedOut { id: timed_out }] = events[..] {
            assert_eq!((timed_out, due), (id, now + Duration::from_secs(32)));
        }
    }
    assert_eq!(sent, 11, "the request and ten retransmissions in 32 s");
    assert!(layer.is_empty());
}

#[test]
fn a_full_table_refuses_with_503() {
    let now = Instant::now();
    let mut layer = layer();
    for n in 0..51 {
        let mut message = request("OPTIONS", &format!("branch=z9hG4bKj{n}"), "");
        message.set_header("Call-ID", &format!("c{n}"));
        layer.handle_message(now, message, UDP);
    }
    let (sent, events) = drain(&mut layer);
    assert_eq!((sent[0].status(), sent.len(), events.len()), (Some(503), 1, 51));
    assert_eq!(sent[0].header("Retry-After").unwrap(), "5");
}

fn tcp(connection: u64) -> Flow {
    Flow { transport: Transport::Tcp, connection, ..UDP }
}

fn our(method: &str) -> Message {
    let mut message = request(method, "branch=x", "");
    message.remove_header("Via");
    message
}

#[test]
fn a_failure_that_comes_again_is_acknowledged_again_with_the_same_bytes() {
    let now = Instant::now();
    let mut layer = layer();
    layer.send_request(now, our("INVITE"), UDP, None);
    let invite = drain(&mut layer).0.remove(0);
    let mut busy = Message::response(&invite, 486, None);
    busy.set_to_tag("x");
    let acks: Vec<Bytes> = (0..2)
        .map(|_| {
            layer.handle_message(now, busy.clone(), UDP);
            drain(&mut layer).0.remove(0).to_bytes()
        })
        .collect();
    assert_eq!(acks[0], acks[1]);
    layer.handle_timeout(now + Duration::from_secs(32));
    assert!(layer.is_empty());
}

#[test]
fn a_broken_connection_fails_what_waits_on_it_once_and_nothing_else() {
    let now = Instant::now();
    let mut layer = layer();
    let answered = layer.send_request(now, our("INVITE"), tcp(1), None);
    let invite = drain(&mut layer).0.remove(0);
    layer.handle_message(now, Message::response(&invite, 200, None), tcp(1));
    let waiting = layer.send_request(now, our("BYE"), tcp(1), None);
    let elsewhere = layer.send_request(now, our("OPTIONS"), tcp(2), None);
    drain(&mut layer);
    for _ in 0..2 {
        layer.handle_transport_error(now, tcp(1));
    }
    let (_, events) = drain(&mut layer);
    assert!(matches!(events[..], [TransactionEvent::TransportError { id }] if id == waiting), "{events:?}");
    assert_ne!(answered, waiting);
    layer.handle_transport_error(now, tcp(2));
    let (_, events) = drain(&mut layer);
    assert!(matches!(events[..], [TransactionEvent::TransportError { id }] if id == elsewhere));
}

#[test]
fn an_invite_that_rings_outlives_its_connection_and_is_cancelled_over_another() {
    let now = Instant::now();
    let mut layer = layer();
    let id = layer.send_request(now, our("INVITE"), tcp(1), None);
    let invite = drain(&mut layer).0.remove(0);
    layer.handle_message(now, Message::response(&invite, 180, None), tcp(1));
    drain(&mut layer);
    for _ in 0..2 {
        layer.handle_transport_error(now, tcp(1));
    }
    let (_, events) = drain(&mut layer);
    assert!(matches!(events[..], [TransactionEvent::ConnectionLost { id: lost }] if lost == id), "{events:?}");
    layer.send_cancel(now, id).unwrap();
    let Some(TransactionOutput::Transmit { to, .. }) = layer.poll_output() else { panic!() };
    assert_eq!(to.flow, tcp(0), "a new connection to the same peer");
    layer.handle_message(now, Message::response(&invite, 487, None), tcp(9));
    let (sent, events) = drain(&mut layer);
    assert_eq!(sent[0].method(), Method::Ack);
    assert!(matches!(events[..], [TransactionEvent::Response { id: answered, .. }] if answered == id));
}

#[test]
fn two_names_at_one_address_do_not_disturb_each_other() {
    let now = Instant::now();
    let mut layer = layer();
    let to =
        |name: &str| Destination { flow: Flow { transport: Transport::Tls, ..UDP }, server_name: Some(name.into()) };
    let id = layer.send_request(now, our("INVITE"), to("one.example"), None);
    layer.send_request(now, our("INVITE"), to("two.example"), None);
    let Some(TransactionOutput::Transmit { to: first, .. }) = layer.poll_output() else { panic!() };
    assert_eq!(first, to("one.example"));
    drain(&mut layer);
    layer.handle_transport_error(now, to("one.example"));
    let (_, events) = drain(&mut layer);
    assert!(matches!(events[..], [TransactionEvent::TransportError { id: failed }] if failed == id), "{events:?}");
}

#[test]
fn an_unreachable_port_fails_also_what_was_heard_of() {
    let now = Instant::now();
    let mut layer = layer();
    layer.send_request(now, our("INVITE"), UDP, None);
    let invite = drain(&mut layer).0.remove(0);
    layer.handle_message(now, Message::response(&invite, 180, None), UDP);
    drain(&mut layer);
    layer.handle_transport_error(now, UDP);
    assert!(matches!(drain(&mut layer).1[..], [TransactionEvent::TransportError { .. }]));
}

#[test]
fn the_ack_to_a_refusal_of_another_copy_ends_the_one_that_rings() {
    let now = Instant::now();
    let mut layer = layer();
    layer.handle_message(now, request("INVITE", "branch=z9hG4bKk", ""), UDP);
    let id = server_id(&drain(&mut layer).1);
    layer.handle_message(now, request("ACK", "branch=z9hG4bKk", ";tag=refused"), UDP);
    let (_, events) = drain(&mut layer);
    assert!(matches!(events[..], [TransactionEvent::Cancel { id: of, .. }] if of == id), "{events:?}");
    layer.respond(now, id, Message::response(&request("INVITE", "branch=z9hG4bKk", ""), 487, None));
    layer.handle_message(now, request("ACK", "branch=z9hG4bKk", ";tag=refused"), UDP);
    assert!(drain(&mut layer).1.is_empty());
    layer.handle_timeout(now + Duration::from_secs(5));
    assert!(layer.is_empty(), "the same ACK ends the 487 as well");
}

#[test]
fn the_way_back_is_the_source_and_the_port_of_sent_by() {
    let mut message = request("INVITE", "branch=z9hG4bKk", "");
    message.set_top_via("SIP/2.0/TCP 10.0.0.1:5090;branch=z9hG4bKk");
    let response = Message::response(&message, 486, None);
    let flow = crate::transaction::way_back(&response, &tcp(4)).unwrap();
    assert_eq!((flow.remote, flow.connection), ("198.51.100.20:5090".parse().unwrap(), 0));
    assert_eq!(crate::transaction::way_back(&message, &tcp(4)), None, "requests have their own ways");
    assert_eq!(crate::transaction::way_back(&response, &UDP), None);
}

#[test]
fn a_request_that_failed_may_come_again_by_another_way() {
    let now = Instant::now();
    let mut layer = layer();
    let first = request("INVITE", "branch=z9hG4bKl", "");
    layer.handle_message(now, first.clone(), UDP);
    let id = server_id(&drain(&mut layer).1);
    layer.respond(now, id, Message::response(&first, 503, None));
    drain(&mut layer);
    layer.handle_message(now, request("INVITE", "branch=z9hG4bKm", ""), tcp(1));
    server_id(&drain(&mut layer).1);
}

#[test]
fn an_invite_that_rings_for_ever_ends() {
    let now = Instant::now();
    let mut layer = layer();
    let id = layer.send_request(now, our("INVITE"), UDP, None);
    let invite = drain(&mut layer).0.remove(0);
    layer.handle_message(now, Message::response(&invite, 180, None), UDP);
    drain(&mut layer);
    let mut methods = Vec::new();
    let mut ended = None;
    while let Some(due) = layer.poll_timeout() {
        layer.handle_timeout(due);
        let (sent, events) = drain(&mut layer);
        methods.extend(sent.iter().map(Message::method));
        if events.iter().any(|event| matches!(event, TransactionEvent::TimedOut { id: timed_out } if *timed_out == id))
        {
            ended = Some(due);
        }
    }
    assert_eq!(methods.first(), Some(&Method::Cancel));
    assert_eq!(ended, Some(now + Timers::default().c + Timers::default().b));
    assert!(layer.is_empty());
}

#[test]
fn a_stray_response_and_the_ack_to_a_2xx_reach_the_core() {
    let now = Instant::now();
    let mut layer = layer();
    layer.handle_message(now, Message::response(&request("BYE", "branch=z9hG4bKq", ""), 200, None), UDP);
    layer.handle_message(now, request("ACK", "branch=z9hG4bKr", ";tag=x"), UDP);
    let (sent, events) = drain(&mut layer);
    assert!(sent.is_empty());
    assert!(matches!(events[..], [TransactionEvent::StrayResponse { .. }, TransactionEvent::Ack { .. }]));
}

#[test]
fn peers_of_rfc_2543_are_matched_without_a_branch() {
    let now = Instant::now();
    let mut layer = layer();
    let invite = request("INVITE", "branch=1", "");
    layer.handle_message(now, invite.clone(), UDP);
    let id = server_id(&drain(&mut layer).1);
    layer.handle_message(now, invite.clone(), UDP);
    layer.handle_message(now, request("CANCEL", "branch=1", ""), UDP);
    let (sent, events) = drain(&mut layer);
    assert_eq!(sent[0].status(), Some(200));
    assert!(matches!(events[..], [TransactionEvent::Cancel { id: invite, .. }] if invite == id));
    layer.respond(now, id, Message::response(&invite, 487, None));
    layer.handle_message(now, request("ACK", "branch=1", ";tag=x"), UDP);
    assert!(drain(&mut layer).1.is_empty(), "the ACK to a failure ends here");
}

/// A walk over all transactions a tick would take minutes here, not milliseconds.
#[test]
fn a_hundred_thousand_lingering_transactions_cost_nothing_per_tick() {
    let now = Instant::now();
    let mut layer = TransactionLayer::new(Timers::default(), TransactionLimits::default(), 1);
    for n in 0..100_000 {
        let mut message = request("OPTIONS", &format!("branch=z9hG4bK{n}"), "");
        message.set_header("Call-ID", &format!("c{n}"));
        layer.handle_message(now, message.clone(), UDP);
        let id = server_id(&drain(&mut layer).1);
        layer.respond(now, id, Message::response(&message, 200, None));
        drain(&mut layer);
    }
    let ticks = 1_000_000;
    let begun = Instant::now();
    for n in 0..ticks {
        layer.handle_timeout(now + Duration::from_micros(n));
        layer.handle_transport_error(now, tcp(1));
    }
    let spent = begun.elapsed();
    assert_eq!(layer.len(), 100_000);
    assert!(spent < Duration::from_secs(2), "{spent:?} for {ticks} ticks");
    while layer.poll_timeout().is_some() {
        layer.handle_timeout(now + Duration::from_secs(40));
    }
    assert!(layer.is_empty());
}
