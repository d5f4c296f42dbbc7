//! RFC 3261 16.8: an INVITE that rings for ever is cancelled, and comes to an end even if nobody answers that.

mod rig;

use std::time::Duration;

use rig::{Bench, CALLER, by_uri, element, grouped, request};

const PEER: &str = "192.168.2.1:5060";

#[test]
fn ringing_for_three_minutes_ends_it() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.clear();
    bench.pass(Duration::from_secs(180));
    assert!(bench.sent.is_empty(), "more than three minutes");
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.to(PEER).line(), "CANCEL sip:x@192.168.2.1");
    bench.answer(&sent, 487);
    assert_eq!(bench.statuses(), [487]);
    bench.settles();
}

#[test]
fn every_ring_begins_it_anew_and_100_does_not() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.pass(Duration::from_secs(120));
    bench.answer(&sent, 183);
    bench.clear();
    bench.pass(Duration::from_secs(120));
    assert!(bench.sent.is_empty(), "four minutes after the first ring, two after the last");
    bench.answer(&sent, 100);
    bench.pass(Duration::from_secs(62));
    assert_eq!(bench.next().line(), "CANCEL sip:x@192.168.2.1");
}

#[test]
fn who_does_not_answer_the_cancel_either_is_given_up() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.statuses();
    bench.pass(Duration::from_secs(181 + 33));
    assert_eq!(bench.statuses()[..1], [408]);
    assert_eq!((bench.done.len(), bench.done[0].status), (1, 408));
    bench.settles();
}

#[test]
fn what_rang_out_at_one_element_does_not_ring_at_the_next() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)]));
    bench.put(CALLER, request("INVITE", "sip:x@y", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.pass(Duration::from_secs(220));
    assert!(bench.sent.iter().all(|sent| sent.to.to_string() != "192.168.2.2:5060"), "{:?}", bench.lines());
    assert_eq!(bench.done[0].status, 408);
    assert!(bench.events.is_empty(), "it rang: that is life");
    bench.settles();
}

#[test]
fn each_copy_of_a_fork_has_its_own() {
    let mut bench =
        rig::bob_at(vec![rig::contact("sip:bob@192.168.3.1", 1_000), rig::contact("sip:bob@192.168.3.2", 1_000)]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let (one, two) = (bench.to("192.168.3.1:5060"), bench.to("192.168.3.2:5060"));
    bench.answer(&one, 180);
    bench.answer(&two, 180);
    bench.pass(Duration::from_secs(100));
    bench.answer(&two, 180);
    bench.clear();
    bench.pass(Duration::from_secs(82));
    assert_eq!(bench.next().line(), "CANCEL sip:bob@192.168.3.1");
    bench.answer(&one, 487);
    bench.statuses();
    assert_eq!(bench.done.len(), 0, "the other one still rings");
    bench.answer(&two, 200);
    assert_eq!(bench.statuses(), [200]);
    bench.settles();
}
