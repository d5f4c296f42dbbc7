//! RFC 3261 17, RFC 6026, as seen from outside: retransmissions, lost messages, lingering.

mod rig;

use std::time::Duration;

use ferric_sip::flow::Transport;
use rig::{Bench, CALLER, ack_to, by_uri, parse_bytes, request};

const PEER: &str = "192.168.2.1:5060";
const URI: &str = "sip:x@192.168.2.1";

/// When messages to somebody leave, in milliseconds from now, within that time.
fn times(bench: &mut Bench, whom: &str, line: &str, seconds: u64) -> Vec<u128> {
    let start = bench.now;
    let mut found = Vec::new();
    let until = start + Duration::from_secs(seconds);
    while let Some(due) = bench.proxy.poll_timeout().filter(|due| *due <= until) {
        bench.now = bench.now.max(due);
        let now = bench.now;
        bench.proxy.handle_timeout(now);
        bench.collect();
        found.extend(
            bench
                .sent
                .drain(..)
                .filter(|sent| sent.to == rig::address(whom) && sent.line().starts_with(line))
                .map(|_| now.duration_since(start).as_millis()),
        );
    }
    bench.now = until;
    found
}

#[test]
fn an_invite_is_repeated_at_timer_a_and_given_up_at_timer_b() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", URI, ""));
    bench.clear();
    assert_eq!(times(&mut bench, PEER, "INVITE", 31), [500, 1_500, 3_500, 7_500, 15_500]);
    assert_eq!(times(&mut bench, CALLER, "408", 1), [1_000]);
}

#[test]
fn a_provisional_answer_ends_the_repetition() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", URI, ""));
    let sent = bench.to(PEER);
    bench.pass_ms(600);
    bench.answer(&sent, 100);
    bench.clear();
    assert!(times(&mut bench, PEER, "INVITE", 100).is_empty());
}

#[test]
fn other_requests_are_repeated_at_timer_e_also_after_a_provisional() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("OPTIONS", URI, ""));
    let sent = bench.to(PEER);
    assert_eq!(times(&mut bench, PEER, "OPTIONS", 12), [500, 1_500, 3_500, 7_500, 11_500]);
    bench.answer(&sent, 100);
    assert_eq!(times(&mut bench, PEER, "OPTIONS", 10), [3_500, 7_500], "every T2");
}

#[test]
fn on_a_stream_nothing_is_repeated() {
    for method in ["INVITE", "OPTIONS"] {
        let mut bench = Bench::new(by_uri());
        bench.put(CALLER, request(method, "sip:x@192.168.2.1;transport=tcp", ""));
        bench.clear();
        assert!(times(&mut bench, PEER, method, 31).is_empty());
    }
}

#[test]
fn an_invite_that_comes_again_gets_the_last_answer_again() {
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", URI, "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.clear();
    bench.put(CALLER, invite.clone());
    assert_eq!(bench.lines(), [format!("{CALLER} 100")]);
    bench.answer(&sent, 183);
    bench.clear();
    bench.put(CALLER, invite.clone());
    assert_eq!(bench.lines(), [format!("{CALLER} 183")]);
    bench.answer(&sent, 404);
    bench.clear();
    bench.put(CALLER, invite.clone());
    assert_eq!(bench.lines(), [format!("{CALLER} 404")]);
    assert_eq!(bench.done.len(), 1);
}

#[test]
fn an_invite_that_comes_again_after_its_2xx_is_swallowed() {
    // RFC 6026 7.1: it is no new request
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", URI, "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 200);
    bench.clear();
    for _ in 0..5 {
        bench.pass_ms(5_000);
        bench.put(CALLER, invite.clone());
        assert!(bench.sent.is_empty(), "{:?}", bench.lines());
    }
    assert_eq!(bench.done.len(), 1);
    bench.pass_ms(8_000);
    assert_eq!(bench.proxy.transactions(), 0, "timers L and M");
}

#[test]
fn a_failure_is_repeated_until_the_ack_comes() {
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", URI, "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 486);
    let answer = bench.answered();
    bench.clear();
    assert_eq!(times(&mut bench, CALLER, "486", 12), [500, 1_500, 3_500, 7_500, 11_500]);
    bench.put(CALLER, ack_to(&invite, &answer));
    assert!(times(&mut bench, CALLER, "486", 60).is_empty());
    assert_eq!(bench.proxy.transactions(), 0);
}

#[test]
fn an_ack_that_never_comes_is_waited_for_64_t1() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", URI, ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 486);
    bench.clear();
    assert_eq!(times(&mut bench, CALLER, "486", 120).len(), 10);
    assert_eq!(bench.proxy.transactions(), 0);
}

#[test]
fn a_failure_that_comes_again_is_acknowledged_again() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", URI, ""));
    let sent = bench.to(PEER);
    let mut acks = Vec::new();
    for _ in 0..3 {
        bench.answer(&sent, 486);
        acks.push(rig::text_of(&bench.to(PEER)));
        bench.pass_ms(1_000);
    }
    assert!(acks.windows(2).all(|pair| pair[0] == pair[1]));
    let ack = rig::parse(&acks[0].replace("\r\n", "\n"));
    assert_eq!(ack.top_via().unwrap().branch(), sent.message.top_via().unwrap().branch(), "17.1.1.3");
    assert_eq!(ack.to().unwrap().tag(), Some("at5060"));
    assert_eq!(
        bench.statuses().iter().filter(|status| **status == 486).count(),
        3,
        "to the caller: timer G, not the element's repetitions"
    );
}

#[test]
fn another_request_that_comes_again_gets_its_answer_again() {
    let mut bench = Bench::new(by_uri());
    let message = request("MESSAGE", URI, "");
    bench.put(CALLER, message.clone());
    let sent = bench.to(PEER);
    bench.put(CALLER, message.clone());
    assert!(bench.sent.is_empty(), "17.2.2: in Trying it is dropped");
    bench.answer(&sent, 202);
    bench.put(CALLER, message.clone());
    bench.pass(Duration::from_secs(31));
    bench.put(CALLER, message.clone());
    assert_eq!(bench.statuses(), [202, 202, 202]);
    assert_eq!(bench.done.len(), 1);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.proxy.transactions(), 0, "timer J");
}

#[test]
fn the_same_branch_of_another_sender_is_another_transaction() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("OPTIONS", URI, ""));
    let mut other = request("OPTIONS", URI, "");
    other.set_top_via("SIP/2.0/UDP 192.168.1.11:5060;branch=z9hG4bKcaller1;rport");
    bench.put("192.168.1.11:5060", parse_bytes(&other));
    assert_eq!(bench.sent.iter().filter(|sent| sent.to.to_string() == PEER).count(), 2);
}

#[test]
fn a_caller_of_before_rfc_3261_is_served() {
    let mut bench = Bench::new(by_uri());
    let old = |method: &str, tag: &str| {
        rig::parse(&format!(
            "{method} {URI} SIP/2.0\nVia: SIP/2.0/UDP 192.168.1.10:5060\nFrom: <sip:a@b>;tag=1\nTo: <sip:x@y>{tag}\nCall-ID: old\nCSeq: 1 {method}\n\n"
        ))
    };
    bench.put(CALLER, old("INVITE", ""));
    bench.put(CALLER, old("INVITE", ""));
    let sent = bench.to(PEER);
    assert_eq!(bench.sent.iter().filter(|sent| sent.to.to_string() == PEER).count(), 0, "once");
    bench.answer(&sent, 486);
    bench.clear();
    bench.put(CALLER, old("ACK", ";tag=at5060"));
    assert!(times(&mut bench, CALLER, "486", 60).is_empty());
}

#[test]
fn a_connection_that_breaks_before_any_answer_fails_what_waits_on_it_at_once() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1;transport=tcp", ""));
    let sent = bench.to(PEER);
    bench.unreachable(&sent);
    assert_eq!(bench.statuses(), [500]);
    bench.settles();
}

/// 17.1.4, 18.2.2: the answer of what rings comes over another connection.
#[test]
fn a_phone_that_rings_outlives_the_connection_of_its_invite() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1;transport=tcp", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.unreachable(&sent);
    bench.pass_ms(5_000);
    bench.put_by(Transport::Tcp, "192.168.2.1:40321", rig::response_to(&sent, 200));
    assert_eq!(bench.statuses(), [180, 200]);
    bench.settles();
}

#[test]
fn what_was_only_taken_note_of_goes_to_the_next_element_and_is_cancelled_over_a_new_connection() {
    let elements = ["192.168.2.1:5060;transport=tcp", "192.168.2.2:5060"];
    let mut bench = Bench::new(rig::grouped(vec![rig::element(elements[0], 1, 1), rig::element(elements[1], 2, 1)]));
    bench.put(CALLER, request("INVITE", "sip:x@y", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 100);
    bench.unreachable(&sent);
    assert!(bench.to(PEER).line().starts_with("CANCEL"));
    let next = bench.to("192.168.2.2:5060");
    assert!(bench.events.is_empty(), "a connection that ends is no death of an element");
    bench.answer(&next, 200);
    assert_eq!(bench.statuses(), [200]);
    // The one element there is may still keep its promise.
    let mut bench = Bench::new(rig::grouped(vec![rig::element(elements[0], 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:x@y", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 100);
    bench.unreachable(&sent);
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200]);
}

#[test]
fn a_caller_that_hangs_up_its_connection_costs_no_call() {
    // 16.9: no client may make others' requests fail by its own connection
    let mut bench = Bench::new(by_uri());
    let mut invite = request("INVITE", URI, "");
    invite.set_top_via("SIP/2.0/TCP 192.168.1.10:5060;branch=z9hG4bKtcp");
    bench.put_by(Transport::Tcp, "192.168.1.10:40123", parse_bytes(&invite));
    let sent = bench.to(PEER);
    let flow = ferric_sip::flow::Flow {
        transport: Transport::Tcp,
        local: rig::address(rig::US),
        remote: rig::address("192.168.1.10:40123"),
        connection: 1,
    };
    let now = bench.now;
    bench.proxy.handle_transport_error(now, flow);
    bench.clear();
    bench.answer(&sent, 200);
    assert_eq!(bench.lines(), ["192.168.1.10:40123 200"], "18.2.2: the sockets find the way back");
}
