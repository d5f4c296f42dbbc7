//! RFC 3261 16.11, 17.1.1.3: what goes through without a transaction.

mod rig;

use ferric_proxy::Proxy;
use ferric_sip::flow::Transport;
use ferric_sip::transaction::{Timers, TransactionLimits};
use rig::{Bench, CALLER, by_uri, config, element, grouped, request, request_as};

const PEER: &str = "192.168.2.1:5060";

fn ack(branch: &str, uri: &str, more: &str) -> ferric_sip::message::Message {
    request_as(branch, "ACK", uri, &format!("To: <sip:x@y>;tag=t1\n{more}"))
}

#[test]
fn an_ack_to_a_success_goes_where_it_says() {
    let mut bench = Bench::new(config());
    bench.put(CALLER, ack("z9hG4bKa", "sip:x@192.168.2.1", "Route: <sip:192.168.0.5;lr>\n"));
    let sent = bench.to(PEER);
    assert_eq!((sent.line().as_str(), sent.message.values("Via").len()), ("ACK sip:x@192.168.2.1", 2));
    assert_eq!((sent.message.header("Max-Forwards").unwrap().as_ref(), sent.message.header("Route")), ("69", None));
    assert_eq!((bench.proxy.transactions(), bench.proxy.open()), (0, 0));
    bench.pass_ms(60_000);
    assert!(bench.sent.is_empty(), "it is never sent again");
}

#[test]
fn the_same_ack_again_has_the_same_branch_and_another_one_another() {
    let mut bench = Bench::new(config());
    let mut branch = |name: &str| {
        bench.put(CALLER, ack(name, "sip:x@192.168.2.1", ""));
        bench.to(PEER).message.top_via().unwrap().branch().unwrap().to_owned()
    };
    let (one, again, other) = (branch("z9hG4bKa"), branch("z9hG4bKa"), branch("z9hG4bKb"));
    assert_eq!(one, again, "16.11: so that the next hop knows it again");
    assert_ne!(one, other);
}

#[test]
fn an_ack_to_a_call_of_a_group_reaches_the_element_that_has_it() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 2, 1)]));
    bench.put(CALLER, request("INVITE", "sip:rec@recorders.example.com", ""));
    let sent = bench.to(PEER);
    bench.unreachable(&sent);
    let sent = bench.to("192.168.2.2:5060");
    bench.answer(&sent, 200);
    bench.clear();
    bench.put(CALLER, request_as("z9hG4bKack", "ACK", "sip:rec@recorders.example.com", "To: <sip:x@y>;tag=at5060\n"));
    assert_eq!(bench.next().to.to_string(), "192.168.2.2:5060");
}

#[test]
fn an_ack_to_a_failure_stays_here() {
    let mut bench = Bench::new(by_uri());
    let invite = request("INVITE", "sip:x@192.168.2.1", "");
    bench.put(CALLER, invite.clone());
    let sent = bench.to(PEER);
    bench.answer(&sent, 404);
    assert_eq!(bench.to(PEER).line(), "ACK sip:x@192.168.2.1", "ours");
    let answer = bench.answered();
    bench.put(CALLER, rig::ack_to(&invite, &answer));
    assert!(bench.sent.is_empty(), "theirs ends here");
}

#[test]
fn an_ack_of_an_unknown_call_to_a_group_is_nobodys() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1), element("192.168.2.2:5060", 1, 1)]));
    bench.put(CALLER, ack("z9hG4bKa", "sip:x@recorders.example.com", ""));
    assert!(bench.sent.is_empty() && bench.done.is_empty());
}

#[test]
fn an_ack_that_is_broken_or_turns_in_circles_is_dropped() {
    let mut bench = Bench::new(config());
    bench.put(CALLER, ack("z9hG4bKa", "sip:x@192.168.2.1", "Max-Forwards: 0\n"));
    bench.put(CALLER, ack("z9hG4bKb", "foo:x", ""));
    bench.put(CALLER, ack("z9hG4bKc", "sip:x@192.168.2.1", "Route: <sip:1.2.3.4:x>\n"));
    assert!(bench.sent.is_empty());
    bench.put(CALLER, ack("z9hG4bKd", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.put(PEER, sent.message);
    assert!(bench.sent.is_empty(), "{:?}", bench.lines());
}

#[test]
fn an_ack_to_a_name_waits_for_dns_and_not_for_ever() {
    let mut bench = Bench::new(config());
    bench.put(CALLER, ack("z9hG4bKa", "sip:x@peer.example.org", ""));
    let (ticket, target) = bench.asked.pop_front().unwrap();
    assert_eq!(target.host, "peer.example.org");
    bench.located(ticket, &[("192.168.2.9:5070", Transport::Tcp)]);
    let sent = bench.to("192.168.2.9:5070");
    assert_eq!((sent.transport, sent.line().as_str()), (Transport::Tcp, "ACK sip:x@peer.example.org"));
    bench.put(CALLER, ack("z9hG4bKb", "sip:x@peer.example.org", ""));
    let (ticket, _) = bench.asked.pop_front().unwrap();
    let now = bench.now;
    bench.proxy.handle_located(now, ticket, Err(true));
    bench.proxy.handle_located(now, ticket, Err(true));
    assert!(bench.sent.is_empty());
    // Requests that wait for DNS must not push ACKs out, and ACKs are bounded by themselves.
    let mut bench = Bench::new(by_uri());
    for n in 0..2_000 {
        bench.put(CALLER, rig::call(n, "OPTIONS", "sip:x@slow.example.org"));
    }
    bench.asked.clear();
    for n in 0..1_500 {
        bench.put(CALLER, ack(&format!("z9hG4bKm{n}"), "sip:x@slow.example.org", ""));
    }
    assert_eq!(bench.asked.len(), 1_000);
    while let Some((ticket, _)) = bench.asked.pop_front() {
        bench.located(ticket, &[(PEER, Transport::Udp)]);
    }
    bench.put(CALLER, ack("z9hG4bKlast", "sip:x@slow.example.org", ""));
    assert_eq!(bench.asked.len(), 1, "there is room again");
}

/// The caller heard our 100 and asks no more; the callee repeats its 200. Whoever forwards it need not be who forwarded the
/// INVITE, as long as the branch proves that it was us.
#[test]
fn the_answer_to_an_invite_of_the_life_before_finds_its_way() {
    let life = |seed, secret| {
        let mut bench = Bench::new(by_uri());
        let limits = TransactionLimits { transactions: 100 };
        bench.proxy =
            Proxy::new(by_uri(), Timers::default(), limits, bench.now, 1_800_000_000, seed).with_secret(secret);
        bench
    };
    let mut before = life(1, 99);
    before.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let invite = before.to(PEER);
    for (status, arrives) in [(180, false), (200, true), (486, true)] {
        let mut after = life(2, 99);
        after.put(PEER, rig::response_to(&invite, status));
        assert_eq!(after.sent.len(), usize::from(arrives), "{status}");
        if let Some(sent) = after.sent.pop_front() {
            assert_eq!((sent.to, sent.message.status()), (rig::address(CALLER), Some(status)));
            assert_eq!(sent.message.values("Via").len(), 1);
        }
    }
    let mut stranger = life(2, 98);
    stranger.put(PEER, rig::response_to(&invite, 200));
    assert!(stranger.sent.is_empty(), "not our branch");
}
