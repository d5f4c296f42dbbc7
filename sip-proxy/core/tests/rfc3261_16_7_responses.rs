//! RFC 3261 16.7: which responses go back, when, and as what.

mod rig;

use std::time::Duration;

use ferric_sip::message::Message;
use rig::{Bench, CALLER, Sent, bob_at, by_uri, call, contact, element, grouped, request, response_with};

const PEER: &str = "192.168.2.1:5060";

fn phones() -> (Bench, Vec<Sent>) {
    let mut bench = bob_at((1..=3).map(|n| contact(&format!("sip:bob@192.168.3.{n}"), 1_000)).collect());
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let sent = (1..=3).map(|n| bench.to(&format!("192.168.3.{n}:5060"))).collect();
    (bench, sent)
}

/// What the caller gets when three phones answer so.
fn best_of(statuses: [u16; 3]) -> Vec<u16> {
    let (mut bench, sent) = phones();
    for (request, status) in sent.iter().zip(statuses) {
        bench.answer(request, status);
    }
    let got = bench.statuses();
    bench.settles();
    got
}

#[test]
fn the_best_response_is_chosen() {
    for (statuses, best) in [
        // 6xx before all.
        ([404, 603, 302], 603),
        ([600, 486, 404], 600),
        // The lowest class.
        ([500, 486, 302], 302),
        ([500, 404, 501], 404),
        ([503, 504, 500], 504),
        // Within 4xx what helps to try again.
        ([404, 486, 401], 401),
        ([486, 407, 404], 407),
        ([486, 415, 404], 415),
        ([486, 420, 404], 420),
        ([404, 484, 486], 484),
        // Anything before silence.
        ([408, 486, 408], 486),
        ([480, 486, 404], 480),
    ] {
        assert_eq!(best_of(statuses), [best], "{statuses:?}");
    }
}

#[test]
fn a_503_does_not_go_upstream() {
    assert_eq!(best_of([503, 503, 503]), [500], "one hop's overload is not ours");
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.put(PEER, response_with(&sent, 503, "t", &[("Retry-After", "60")]));
    let answer = bench.answered();
    assert_eq!((answer.message.status(), answer.message.header("Retry-After")), (Some(500), None));
}

#[test]
fn nothing_goes_back_before_all_have_answered() {
    let (mut bench, sent) = phones();
    bench.answer(&sent[0], 486);
    bench.answer(&sent[1], 404);
    assert_eq!(bench.statuses(), []);
    bench.answer(&sent[2], 480);
    assert_eq!(bench.statuses(), [486]);
}

#[test]
fn challenges_of_all_are_put_together() {
    let (mut bench, sent) = phones();
    bench.put(
        "192.168.3.1:5060",
        response_with(&sent[0], 401, "1", &[("WWW-Authenticate", "Digest realm=\"a\", nonce=\"1\""), ("X-Own", "1")]),
    );
    bench.put(
        "192.168.3.2:5060",
        response_with(&sent[1], 407, "2", &[("Proxy-Authenticate", "Digest realm=\"b\", nonce=\"2\"")]),
    );
    bench.put(
        "192.168.3.3:5060",
        response_with(&sent[2], 401, "3", &[("WWW-Authenticate", "Digest realm=\"c\", nonce=\"3\"")]),
    );
    let answer = bench.answered().message;
    assert_eq!((answer.status(), answer.header("X-Own").unwrap().as_ref()), (Some(401), "1"));
    let lines: Vec<String> = answer.headers("WWW-Authenticate").map(Into::into).collect();
    assert_eq!(lines, ["Digest realm=\"a\", nonce=\"1\"", "Digest realm=\"c\", nonce=\"3\""]);
    assert_eq!(answer.header("Proxy-Authenticate").unwrap(), "Digest realm=\"b\", nonce=\"2\"");
}

#[test]
fn a_single_challenge_goes_back_as_it_came() {
    let (mut bench, sent) = phones();
    bench.answer(&sent[0], 404);
    bench.put(
        "192.168.3.2:5060",
        response_with(&sent[1], 401, "2", &[("www-AUTHENTICATE", "Digest   realm=\"a\""), ("X-Last", "1")]),
    );
    bench.answer(&sent[2], 404);
    let answer = rig::text_of(&bench.answered());
    assert!(answer.contains("www-AUTHENTICATE: Digest   realm=\"a\"\r\nX-Last: 1\r\n"), "{answer}");
}

#[test]
fn provisional_responses_go_back_at_once_and_100_never() {
    let (mut bench, sent) = phones();
    bench.to(CALLER);
    bench.answer(&sent[0], 100);
    assert!(bench.sent.is_empty());
    for status in [180, 181, 182, 183, 199] {
        bench.answer(&sent[1], status);
        let answer = bench.to(CALLER);
        assert_eq!((answer.message.status(), answer.message.values("Via").len()), (Some(status), 1));
    }
}

#[test]
fn every_2xx_goes_back_and_the_others_are_cancelled() {
    let (mut bench, sent) = phones();
    bench.answer(&sent[0], 180);
    bench.answer(&sent[1], 180);
    bench.clear();
    bench.answer(&sent[1], 200);
    assert_eq!(bench.statuses(), [200]);
    assert_eq!(bench.to("192.168.3.1:5060").line(), "CANCEL sip:bob@192.168.3.1");
    assert!(bench.sent.is_empty(), "the third was not heard of yet: {:?}", bench.lines());
    // The first was picked up at the same moment.
    bench.put("192.168.3.1:5060", response_with(&sent[0], 200, "first", &[]));
    let second = bench.answered();
    assert_eq!((second.message.status(), second.message.to().unwrap().tag()), (Some(200), Some("first")));
    // The third rings only now.
    bench.answer(&sent[2], 180);
    assert_eq!(bench.lines(), ["192.168.3.3:5060 CANCEL sip:bob@192.168.3.3"], "and nobody hears it ring");
    assert_eq!(bench.done.len(), 1);
    bench.settles();
}

#[test]
fn a_2xx_after_other_failures_wins() {
    assert_eq!(best_of([486, 603, 200]), [200], "RFC 3261 16.7 step 5: 2xx goes back whatever came before");
}

#[test]
fn a_6xx_cancels_the_others_also_those_that_ring_later() {
    let (mut bench, sent) = phones();
    bench.answer(&sent[0], 180);
    bench.clear();
    bench.answer(&sent[1], 603);
    assert_eq!(bench.statuses(), [], "it waits for them");
    assert_eq!(bench.to("192.168.3.1:5060").line(), "CANCEL sip:bob@192.168.3.1");
    bench.clear();
    bench.answer(&sent[2], 180);
    assert_eq!(bench.to("192.168.3.3:5060").line(), "CANCEL sip:bob@192.168.3.3");
    bench.answer(&sent[0], 487);
    bench.answer(&sent[2], 487);
    assert_eq!(bench.statuses().last(), Some(&603));
    bench.settles();
}

#[test]
fn a_6xx_ends_the_search() {
    let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1", 1_000), contact("sip:bob@192.168.3.2", 500)]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let first = bench.next_request();
    bench.answer(&first, 600);
    assert_eq!(bench.statuses(), [600]);
    assert!(bench.sent.iter().all(|sent| sent.line().starts_with("ACK")), "{:?}", bench.lines());
}

#[test]
fn the_element_that_gave_the_best_answer_is_named() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)]));
    bench.put(CALLER, request("INVITE", "sip:x@y", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 500);
    let sent = bench.to("192.168.2.2:5060");
    bench.answer(&sent, 486);
    assert_eq!(
        (bench.done[0].element.as_deref(), bench.done[0].status, bench.done[0].tries),
        (Some("192.168.2.2:5060"), 486, 2)
    );
}

#[test]
fn a_2xx_that_comes_again_goes_back_again() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    for at in [0, 500, 1_500, 3_500, 7_500] {
        let ms = at - bench.now.duration_since(bench.start).as_millis() as u64;
        bench.pass_ms(ms);
        bench.answer(&sent, 200);
        assert_eq!(bench.statuses(), [200], "at {at}");
    }
    bench.pass(Duration::from_secs(40));
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [], "long after its transaction (RFC 6026)");
}

#[test]
fn a_2xx_goes_back_over_the_connection_of_its_invite() {
    use ferric_sip::flow::Transport;
    let mut bench = Bench::new(by_uri());
    let mut invite = request("INVITE", "sip:x@192.168.2.1", "");
    invite.set_top_via("SIP/2.0/TCP 10.0.0.9:5060;branch=z9hG4bKtcp");
    bench.put_by(Transport::Tcp, "192.168.1.10:40123", rig::parse_bytes(&invite));
    let sent = bench.to(PEER);
    bench.answer(&sent, 200);
    bench.clear();
    bench.answer(&sent, 200);
    assert_eq!(bench.lines(), ["192.168.1.10:40123 200"], "not to the address that it has behind its NAT");
}

#[test]
fn what_belongs_to_nothing_is_dropped() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.clear();
    let with_via = |via: &str| {
        let mut response = rig::response_to(&sent, 200);
        response.set_top_via(via);
        rig::parse_bytes(&response)
    };
    let strays = [
        with_via("SIP/2.0/UDP 192.168.0.5:5060;branch=z9hG4bKnobody"),
        with_via("SIP/2.0/UDP 192.168.9.9:5060;branch=z9hG4bKother"),
        with_via("SIP/2.0/UDP 192.168.0.5:5060"),
    ];
    for stray in strays {
        bench.put(PEER, stray);
    }
    assert!(bench.sent.is_empty());
    assert_eq!(bench.proxy.open(), 1, "it still waits for its own");
}

#[test]
fn a_response_for_another_method_is_none_of_the_transaction() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.clear();
    let mut response = rig::response_to(&sent, 200);
    response.set_header("CSeq", "1 BYE");
    bench.put(PEER, rig::parse_bytes(&response));
    assert!(bench.sent.is_empty());
}

#[test]
fn a_late_success_of_one_that_was_given_up_ends_the_request() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)]));
    bench.name(PEER, "slow");
    bench.name("192.168.2.2:5060", "next");
    bench.put(CALLER, request("INVITE", "sip:x@y", ""));
    let first = bench.to(PEER);
    bench.pass_ms(1_000);
    let second = bench.to("192.168.2.2:5060");
    bench.answer(&second, 180);
    bench.pass_ms(200);
    bench.answer(&first, 200);
    assert_eq!(bench.done.len(), 1);
    assert_eq!((bench.done[0].status, bench.done[0].element.as_deref()), (200, Some(PEER)));
    bench.answer(&second, 487);
    insta::assert_snapshot!(bench.ladder());
    assert!(!bench.statuses().contains(&487));
    bench.settles();
}

#[test]
fn to_other_requests_than_invite_only_final_responses_go_back() {
    // RFC 4320 4.1
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("MESSAGE", "sip:x@192.168.2.1", ""));
    assert!(bench.sent.iter().all(|sent| sent.message.is_request()), "no 100 at once");
    let sent = bench.to(PEER);
    for status in [100, 180, 183] {
        bench.answer(&sent, status);
    }
    assert!(bench.sent.is_empty(), "{:?}", bench.lines());
    bench.pass_ms(3_499);
    assert!(bench.sent.iter().all(|sent| sent.message.is_request()));
    bench.pass_ms(1);
    assert_eq!(bench.to(CALLER).line(), "100", "when its timer E has grown to T2");
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200]);
}

#[test]
fn to_other_requests_than_invite_nothing_goes_back_too_late() {
    // RFC 4320 4.2: no 408, and no other answer after 64*T1
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("MESSAGE", "sip:x@192.168.2.1", ""));
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.statuses(), []);
    assert_eq!((bench.done.len(), bench.done[0].status, bench.done[0].side), (1, 504, "timeout"));
    assert_eq!(bench.proxy.transactions(), 0);
}

#[test]
fn an_invite_that_nobody_answers_gets_408() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    bench.pass(Duration::from_secs(31));
    assert_eq!(bench.statuses(), []);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.statuses()[0], 408);
    bench.settles();
}

#[test]
fn a_response_without_a_to_tag_gets_one_and_a_tag_stays() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    let bare = Message::response(&sent.message, 404, None);
    bench.put(PEER, rig::parse_bytes(&bare));
    assert!(bench.answered().message.to().unwrap().tag().is_some());
    bench.put(CALLER, call(2, "INVITE", "sip:x@192.168.2.1"));
    let sent = bench.to(PEER);
    let sent = if sent.line().starts_with("ACK") { bench.to(PEER) } else { sent };
    bench.put(PEER, response_with(&sent, 404, "theirs", &[]));
    assert_eq!(bench.answered().message.to().unwrap().tag(), Some("theirs"));
}
