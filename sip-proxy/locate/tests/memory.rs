//! What the locator remembers, for how long, and what it does while DNS fails, in simulated time.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use ferric_locate::{DnsFailure, LocateError, Located, LocatorConfig};
use ferric_sip::Transport;
use sim::{Dns, SECOND, Sim, show};

const ZONE: &str = "
    _sip._udp.example.com 100 SRV 1 1 5060 a.example.com
    a.example.com 100 A 192.0.2.1
";
const URI: &str = "sip:example.com;transport=udp";
const HOP: &str = "UDP 192.0.2.1:5060";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn known(pinned: bool) -> Sim {
    let mut sim = Sim::new(LocatorConfig::default(), ZONE);
    if pinned {
        sim.locator.pin("example.com");
    }
    assert_eq!(sim.locate(URI).0, HOP);
    sim.asked.clear();
    sim
}

#[test]
fn answers_are_asked_for_again_at_four_fifths_of_their_ttl() {
    let mut sim = known(true);
    sim.advance(79 * SECOND);
    assert!(sim.asked.is_empty(), "{:?}", sim.asked);
    sim.advance(2 * SECOND);
    assert_eq!(sim.asked.len(), 2);
    let Located::Ready(hops) = sim.now(URI) else { panic!() };
    assert!(hops.iter().all(|hop| hop.ttl_left > 90 * SECOND));
    // And so on: a change is there after a TTL at most, and nobody ever waits.
    sim.remove("a.example.com");
    sim.add("a.example.com 100 A 192.0.2.7");
    sim.advance(100 * SECOND);
    assert_eq!(show(&sim.now(URI)), "UDP 192.0.2.7:5060");
}

#[test]
fn a_name_nobody_asks_for_is_forgotten_unless_it_is_pinned() {
    for (pinned, entries) in [(false, 0), (true, 2)] {
        let mut sim = known(pinned);
        sim.advance(2 * HOUR);
        assert_eq!(sim.locator.stats().entries, entries);
        sim.locator.unpin("example.com");
        sim.advance(2 * HOUR);
        assert_eq!(sim.locator.stats().entries, 0);
        assert_eq!(sim.locator.poll_timeout(), None, "idle costs nothing");
    }
}

#[test]
fn dead_dns_costs_known_names_nothing_for_a_day_and_is_not_bombarded() {
    for dead in [Dns::Dead, Dns::Fails(DnsFailure::ServFail), Dns::Fails(DnsFailure::Refused)] {
        let mut sim = known(true);
        sim.dns = dead;
        for _ in 0..23 * 60 {
            sim.advance(MINUTE);
            assert_eq!(show(&sim.now(URI)), HOP, "{dead:?}");
        }
        // Two names, each half a minute.
        assert!(sim.asked.len() < 2 * 23 * 130, "{}", sim.asked.len());
        sim.dns = Dns::Up;
        sim.advance(MINUTE);
        let Located::Ready(hops) = sim.now(URI) else { panic!() };
        assert!(hops.iter().all(|hop| !hop.ttl_left.is_zero()), "fresh again within a minute");
        sim.dns = dead;
        sim.advance(25 * HOUR);
        assert!(!matches!(sim.now(URI), Located::Ready(_)), "older than a day is no answer");
    }
}

#[test]
fn slow_dns_costs_known_names_nothing_and_others_two_seconds() {
    let mut sim = known(true);
    sim.dns = Dns::Slow(5 * SECOND);
    for _ in 0..600 {
        sim.advance(SECOND);
        assert_eq!(show(&sim.now(URI)), HOP);
    }
    let (failed, took) = sim.locate("sip:other.example:5060");
    assert_eq!((failed.as_str(), took), ("failed: no DNS server answered", 2 * SECOND));
}

#[test]
fn a_sudden_denial_is_not_believed_for_a_minute() {
    for failure in [DnsFailure::NxDomain, DnsFailure::NoData] {
        let mut sim = known(true);
        sim.dns = Dns::Fails(failure);
        sim.advance(130 * SECOND);
        assert_eq!(show(&sim.now(URI)), HOP, "denied since second 80");
        sim.dns = Dns::Up;
        sim.advance(10 * SECOND);
        sim.dns = Dns::Fails(failure);
        sim.advance(130 * SECOND);
        assert_eq!(show(&sim.now(URI)), HOP, "the minute began anew");
        assert!(sim.locator.stats().distrusted > 0);
        sim.advance(30 * SECOND);
        // Without SRV the domain itself may have an address, which is asked for once.
        assert_eq!(sim.locate(URI).0, format!("failed: {failure}"));
    }
}

#[test]
fn one_who_waits_is_answered_by_the_first_answer_and_never_twice() {
    let mut sim = Sim::new(LocatorConfig::default(), ZONE);
    sim.dns = Dns::Slow(SECOND / 2);
    let waiting: Vec<Located> = (0..100).map(|_| sim.now(URI)).collect();
    assert!(waiting.iter().all(|located| matches!(located, Located::Wait(_))));
    sim.advance(10 * SECOND);
    assert_eq!(sim.asked.len(), 2, "one question for all");
    assert_eq!(sim.ready.len(), 100);
    assert!(sim.ready.iter().all(|(_, located)| show(located) == HOP));
    assert_eq!(sim.locator.waiting(), 0);
}

#[test]
fn so_many_may_wait_and_no_more() {
    let mut sim = Sim::new(LocatorConfig { max_waiting: 10, ..LocatorConfig::default() }, ZONE);
    sim.dns = Dns::Dead;
    for _ in 0..10 {
        assert!(matches!(sim.now("sip:other.example:5060"), Located::Wait(_)));
    }
    assert_eq!(sim.now("sip:other.example:5060"), Located::Failed(LocateError::Overloaded));
    // What needs no wait is served all the same.
    assert_eq!(show(&sim.now("sip:192.0.2.5")), "UDP 192.0.2.5:5060");
    sim.advance(3 * SECOND);
    assert_eq!((sim.ready.len(), sim.locator.waiting()), (10, 0));
}

#[test]
fn a_flood_of_invented_names_pushes_out_nothing_that_is_good() {
    let mut sim = Sim::new(LocatorConfig { max_entries: 64, ..LocatorConfig::default() }, ZONE);
    assert_eq!(sim.locate(URI).0, HOP);
    for name in 0..5_000 {
        let _ = sim.now(&format!("sip:x{name}.example:5060"));
        if name % 10 == 0 {
            sim.advance(SECOND / 10);
        }
        assert!(sim.locator.stats().entries <= 64);
    }
    sim.dns = Dns::Dead;
    sim.advance(3 * SECOND);
    assert_eq!(show(&sim.now(URI)), HOP);
    assert!(sim.locator.stats().evicted > 0);
}

#[test]
fn a_day_of_traffic_leaves_nothing_behind() {
    let mut sim = known(true);
    let mut most = 0;
    for second in 0..24 * 3_600_u32 {
        let _ = sim.now(&format!("sip:x{second}.example:5060"));
        sim.dns = match second / 600 % 4 {
            0 => Dns::Up,
            1 => Dns::Slow(SECOND * 5),
            2 => Dns::Dead,
            _ => Dns::Fails(DnsFailure::ServFail),
        };
        sim.advance(SECOND);
        assert_eq!(show(&sim.now(URI)), HOP, "second {second}");
        most = most.max(sim.locator.stats().entries);
        sim.asked.clear();
        sim.ready.clear();
    }
    assert!(most <= 4_000, "{most} names: an hour's at most");
    sim.dns = Dns::Up;
    sim.advance(2 * HOUR);
    assert_eq!((sim.locator.stats().entries, sim.locator.waiting()), (2, 0));
}

#[test]
fn what_was_known_outlives_a_restart() {
    let mut before = known(true);
    let _ = before.locate("sip:invented.example");
    before.advance(10 * SECOND);
    let last = before.locator.snapshot(before.now, 1_000_000).last_good();
    assert_eq!(
        last.records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(),
        ["_sip._udp.example.com", "a.example.com"]
    );
    let text = serde_json::to_string(&last).unwrap();
    for away in [5, 600, 23 * 3_600] {
        let mut after = Sim::new(LocatorConfig::default(), "");
        after.dns = Dns::Dead;
        assert_eq!(after.locator.import(after.now, 1_000_000 + away, &serde_json::from_str(&text).unwrap()), 2);
        after.advance(5 * SECOND);
        assert_eq!(show(&after.now(URI)), HOP, "{away} s later");
    }
    let mut after = Sim::new(LocatorConfig::default(), "");
    assert_eq!(after.locator.import(after.now, 1_000_000 + 26 * 3_600, &last), 0, "older than a day");
}

#[test]
fn while_no_server_answers_nobody_waits_for_a_fresher_answer() {
    let mut sim = known(false);
    // Not asked for in so long that its refresh was put off past its TTL.
    sim.add("pinned.example 10 A 192.0.2.3");
    sim.locator.pin("pinned.example");
    sim.locate("sip:pinned.example:5060");
    sim.advance(40 * MINUTE);
    sim.dns = Dns::Dead;
    sim.advance(MINUTE);
    assert!(sim.locator.is_silent());
    assert_eq!(show(&sim.now(URI)), HOP);
}

#[test]
fn groups_hear_of_changes_of_pinned_names_only() {
    let mut sim = known(true);
    let begin = sim.locator.pinned_generation();
    sim.locate("sip:other.example");
    sim.advance(10 * MINUTE);
    assert_eq!(sim.locator.pinned_generation(), begin);
    sim.add("_sip._udp.example.com 100 SRV 2 1 5060 b.example.com\nb.example.com 100 A 192.0.2.2");
    sim.advance(2 * MINUTE);
    let changed = sim.locator.pinned_generation();
    assert!(changed > begin);
    // The new host is asked for by whoever looks at the set, and then it is pinned too.
    let set = |sim: &mut Sim| sim.locator.peek_srv(sim.now, "example.com", Transport::Udp).map(|set| show(&set));
    assert_eq!(set(&mut sim).as_deref(), Some("a.example.com:5060 1/1 [192.0.2.1:5060], b.example.com:5060 2/1 []"));
    sim.settle();
    assert!(sim.locator.pinned_generation() > changed);
    assert_eq!(
        set(&mut sim).as_deref(),
        Some("a.example.com:5060 1/1 [192.0.2.1:5060], b.example.com:5060 2/1 [192.0.2.2:5060]")
    );
    assert!(sim.ready.is_empty(), "nobody waited");
}
