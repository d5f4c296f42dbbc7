//! More comes than can be done: calls that begin are turned away at once, calls that run go on.

mod rig;

use ferric_proxy::ProxyConfig;
use rig::{Bench, CALLER, ack_to, element, grouped, request, request_as};

const PEER: &str = "192.168.2.1:5060";

#[test]
fn calls_that_begin_are_turned_away_without_a_trace() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    bench.proxy.set_crowded(true);
    let invite = request("INVITE", "sip:x@192.168.2.1", "");
    assert!(bench.put(CALLER, invite.clone()));
    let refused = bench.to(CALLER);
    assert_eq!(refused.message.status(), Some(503));
    assert_eq!(refused.message.header("Retry-After").as_deref(), Some("1"));
    assert_eq!(bench.rejected, ["overload"]);
    assert!(bench.done.is_empty() && bench.proxy.transactions() == 0 && bench.proxy.open() == 0);
    // The same answer whenever it comes again, and the ACK goes nowhere.
    bench.clear();
    bench.put(CALLER, invite.clone());
    assert_eq!(bench.to(CALLER).message.to_bytes(), refused.message.to_bytes());
    bench.clear();
    assert!(bench.put(CALLER, ack_to(&invite, &refused)));
    assert!(bench.sent.is_empty(), "{:?}", bench.lines());
    bench.proxy.set_crowded(false);
    assert!(bench.put(CALLER, ack_to(&invite, &refused)), "nor later");
    assert!(bench.sent.is_empty(), "{:?}", bench.lines());
    bench.put(CALLER, request_as("z9hG4bKnext", "INVITE", "sip:x@192.168.2.1", ""));
    assert_eq!(bench.to(PEER).message.header("CSeq").as_deref(), Some("1 INVITE"));
}

#[test]
fn what_runs_or_is_recorded_goes_on() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    let invite = request("INVITE", "sip:x@192.168.2.1", "");
    bench.put(CALLER, invite.clone());
    bench.proxy.set_crowded(true);
    bench.clear();
    bench.put(CALLER, invite);
    assert_eq!(bench.to(CALLER).message.status(), Some(100), "it comes again, and is known");
    let mut within = request_as("z9hG4bKin", "INVITE", "sip:x@192.168.2.1", "");
    within.set_to_tag("there");
    for request in [
        within,
        request_as("z9hG4bKbye", "BYE", "sip:x@192.168.2.1", ""),
        request_as("z9hG4bKo", "OPTIONS", "sip:x@192.168.2.1", ""),
    ] {
        bench.clear();
        bench.put(CALLER, request);
        assert!(!bench.lines().iter().any(|line| line.contains("503")), "{:?}", bench.lines());
        assert!(bench.rejected.is_empty());
    }
    let mut bench = Bench::new(ProxyConfig { is_recording: |_| true, ..grouped(vec![element(PEER, 1, 1)]) });
    bench.proxy.set_crowded(true);
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    assert!(bench.rejected.is_empty());
}

/// The caller heard 503 and asks elsewhere; a copy of its INVITE that waited longer must not ring for nobody.
#[test]
fn the_ack_to_a_503_ends_the_copy_that_was_taken_later() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    let invite = request("INVITE", "sip:x@192.168.2.1", "");
    bench.proxy.set_crowded(true);
    bench.put(CALLER, invite.clone());
    let refused = bench.to(CALLER);
    assert_eq!(refused.message.status(), Some(503));
    bench.proxy.set_crowded(false);
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 180);
    bench.put(CALLER, ack_to(&invite, &refused));
    let cancel = bench.to(PEER);
    assert!(cancel.line().starts_with("CANCEL"));
    bench.answer(&cancel, 200);
    bench.answer(&sent, 487);
    // Whatever comes to it, the caller acknowledges as it did before.
    bench.put(CALLER, ack_to(&invite, &refused));
    bench.settles();
}
