//! RFC 3261 9, 16.10: CANCEL at every moment that it can come.

mod rig;

use std::time::Duration;

use ferric_proxy::ProxyConfig;
use rig::{Bench, CALLER, ack_to, by_uri, cancel_of, config, element, grouped, request};

const PEER: &str = "192.168.2.1:5060";

#[test]
fn before_any_provisional_it_waits_for_one() {
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", "sip:x@192.168.2.1", "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.put(CALLER, cancel_of(&invite));
    assert_eq!(bench.statuses(), [200], "the CANCEL is answered at once");
    assert!(bench.sent.is_empty(), "9.1: the peer may not have the INVITE yet");
    bench.answer(&sent, 100);
    let cancel = bench.to(PEER);
    assert_eq!(cancel.line(), "CANCEL sip:x@192.168.2.1");
    bench.answer(&cancel, 200);
    bench.answer(&sent, 487);
    assert_eq!(bench.to(PEER).line(), "ACK sip:x@192.168.2.1");
    let answer = bench.answered();
    assert_eq!(answer.line(), "487");
    bench.put(CALLER, ack_to(&invite, &answer));
    bench.settles();
}

#[test]
fn it_is_of_the_same_shape_as_its_invite() {
    let mut bench = Bench::new(by_uri());
    let invite = request(
        "INVITE",
        "sip:x@192.168.2.1",
        "Route: <sip:192.168.0.5;lr>, <sip:192.168.2.1;lr>\nRequire: 100rel\nProxy-Require: privacy\n",
    );
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.put(CALLER, cancel_of(&invite));
    let cancel = bench.to(PEER);
    for name in ["Via", "From", "To", "Call-ID", "Route"] {
        let first = |message: &ferric_sip::message::Message| message.header(name).map(|value| value.into_owned());
        assert_eq!(first(&cancel.message), first(&sent.message), "{name}");
    }
    assert_eq!(cancel.message.values("Via").len(), 1);
    assert_eq!(cancel.message.header("CSeq").unwrap(), "1 CANCEL");
    assert!(cancel.message.header("Require").is_none() && cancel.message.header("Proxy-Require").is_none());
}

#[test]
fn crossing_a_200_it_changes_nothing() {
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", "sip:x@192.168.2.1", "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.statuses();
    bench.put(CALLER, cancel_of(&invite));
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200, 200], "of the CANCEL, and of the INVITE all the same");
    let cancel = bench.to(PEER);
    bench.answer(&cancel, 481);
    assert!(bench.sent.is_empty());
    assert_eq!((bench.done.len(), bench.done[0].status), (1, 200));
    bench.settles();
}

#[test]
fn after_the_final_answer_it_is_answered_and_has_no_effect() {
    for status in [200, 404] {
        let mut bench = Bench::new(by_uri());
        let invite = request("INVITE", "sip:x@192.168.2.1", "");
        bench.put(CALLER, invite.clone());
        let sent = bench.to(PEER);
        bench.answer(&sent, status);
        bench.clear();
        bench.put(CALLER, cancel_of(&invite));
        assert_eq!(bench.lines(), [format!("{CALLER} 200")]);
        bench.settles();
    }
}

#[test]
fn one_that_comes_again_is_answered_again() {
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", "sip:x@192.168.2.1", "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.statuses();
    for _ in 0..3 {
        bench.put(CALLER, cancel_of(&invite));
    }
    assert_eq!(bench.statuses(), [200, 200, 200]);
    assert_eq!(bench.sent.iter().filter(|sent| sent.line().starts_with("CANCEL")).count(), 1);
}

#[test]
fn of_nothing_that_is_known_it_goes_on_or_is_refused() {
    // 16.10: it may belong to an INVITE that was forwarded without state.
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, cancel_of(&request("INVITE", "sip:x@192.168.2.1", "")));
    let cancel = bench.to(PEER);
    assert_eq!((cancel.line().as_str(), bench.proxy.transactions()), ("CANCEL sip:x@192.168.2.1", 0));
    bench.answer(&cancel, 481);
    assert_eq!(bench.statuses(), [481]);
    // Among several elements nobody knows which one it would be for.
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 1, 1)]));
    bench.put(CALLER, cancel_of(&request("INVITE", "sip:x@y", "")));
    assert_eq!(bench.statuses(), [481]);
    bench.settles();
}

#[test]
fn of_an_invite_that_is_the_recorders_it_is_the_recorders_too() {
    let mut bench = Bench::new(config());
    let invite = request("INVITE", "sip:srs@192.168.0.5", "Require: siprec\n");
    assert!(!bench.put(CALLER, invite.clone()));
    assert!(!bench.put(CALLER, cancel_of(&invite)), "addressed to us");
    // Addressed elsewhere: who waits for it says so.
    let invite = rig::request_as("z9hG4bKelse", "INVITE", "sip:bob@example.org", "Require: siprec\n");
    assert!(!bench.put(CALLER, invite.clone()));
    let flow = ferric_sip::flow::Flow {
        transport: ferric_sip::flow::Transport::Udp,
        local: rig::address(rig::US),
        remote: rig::address(CALLER),
        connection: 0,
    };
    let now = bench.now;
    let handled = bench.proxy.handle_message(now, cancel_of(&invite), flow, |message| message.call_id().is_some());
    assert!(matches!(handled, ferric_proxy::Handled::Local(_)));
}

#[test]
fn while_a_name_is_looked_up_it_ends_the_request() {
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", "sip:x@example.org", "");
    bench.put(CALLER, invite.clone());
    let (ticket, _) = bench.asked.pop_front().unwrap();
    bench.put(CALLER, cancel_of(&invite));
    assert_eq!(bench.statuses(), [200, 487]);
    bench.located(ticket, &[(PEER, ferric_sip::flow::Transport::Udp)]);
    assert!(bench.sent.is_empty(), "too late");
    bench.settles();
}

#[test]
fn a_name_that_is_found_after_the_cancel_is_not_asked() {
    // One contact rings, the other's name is still being looked up.
    let mut bench =
        rig::bob_at(vec![rig::contact("sip:bob@192.168.3.1", 1_000), rig::contact("sip:bob@phone.example.org", 1_000)]);
    let invite = request("INVITE", "sip:bob@example.com", "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to("192.168.3.1:5060");
    bench.answer(&sent, 180);
    bench.put(CALLER, cancel_of(&invite));
    bench.clear();
    let (ticket, _) = bench.asked.pop_front().unwrap();
    bench.located(ticket, &[("192.168.3.2:5060", ferric_sip::flow::Transport::Udp)]);
    assert!(bench.sent.is_empty(), "{:?}", bench.lines());
    bench.answer(&sent, 487);
    assert_eq!(bench.statuses(), [487]);
    bench.settles();
}

#[test]
fn it_stops_the_search_for_another_element() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)]));
    let invite = request("INVITE", "sip:x@y", "");
    bench.put(CALLER, invite.clone());
    bench.to(PEER);
    bench.put(CALLER, cancel_of(&invite));
    bench.clear();
    bench.pass_ms(1_000);
    assert_eq!(bench.statuses(), [487], "the element is silent, and nobody else is asked");
    assert!(bench.sent.iter().all(|sent| sent.to.to_string() == PEER), "{:?}", bench.lines());
    bench.settles();
}

#[test]
fn an_element_that_refuses_a_cancelled_request_is_the_last_one() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)]));
    let invite = request("INVITE", "sip:x@y", "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 100);
    bench.put(CALLER, cancel_of(&invite));
    bench.answer(&sent, 503);
    assert!(bench.sent.iter().all(|sent| sent.to.to_string() != "192.168.2.2:5060"), "{:?}", bench.lines());
    assert_eq!(bench.done.len(), 1);
    bench.settles();
}

#[test]
fn of_what_is_no_invite_it_is_refused() {
    let mut bench = Bench::new(ProxyConfig { ..grouped(vec![element(PEER, 1, 1)]) });
    let message = request("MESSAGE", "sip:x@y", "");
    bench.put(CALLER, message.clone());
    let sent = bench.to(PEER);
    bench.put(CALLER, cancel_of(&message));
    assert_eq!(bench.statuses(), [481]);
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200], "which goes on");
    bench.pass(Duration::from_secs(40));
    bench.settles();
}
