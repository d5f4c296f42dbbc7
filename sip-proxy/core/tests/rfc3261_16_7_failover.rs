//! Failover within a server group: RFC 3261 16.7 (the next target when one refuses), RFC 3263 4.3.

mod rig;

use std::time::Duration;

use ferric_proxy::ProxyConfig;
use ferric_proxy::group::{DownCause, ElementState, GroupConfig, GroupEvent, Heartbeat};
use ferric_proxy::routing::Action;
use rig::{Bench, CALLER, Sent, all_to, call, config, element, group, grouped, request, request_as};

const ONE: &str = "192.168.2.1:5060";
const TWO: &str = "192.168.2.2:5060";
const THREE: &str = "192.168.2.3:5060";

fn three() -> ProxyConfig {
    grouped(vec![element(ONE, 1, 50), element(TWO, 2, 50), element(THREE, 3, 50)])
}

#[test]
fn an_invite_goes_to_the_lowest_priority_and_its_answers_come_back() {
    let mut bench = Bench::new(three());
    assert!(bench.put(CALLER, request("INVITE", "sip:rec@recorders.example.com", "X-Odd :  kept \n")));
    assert_eq!(bench.to(CALLER).line(), "100", "at once");
    let invite = bench.to(ONE);
    assert_eq!(invite.line(), "INVITE sip:rec@recorders.example.com");
    assert_eq!(invite.message.header("Max-Forwards").unwrap(), "69");
    assert_eq!(invite.message.values("Via").len(), 2);
    assert!(String::from_utf8_lossy(&invite.message.to_bytes()).contains("\r\nX-Odd :  kept \r\n"), "byte for byte");
    assert!(invite.message.header("Record-Route").is_none());
    bench.answer(&invite, 180);
    assert_eq!(bench.to(CALLER).line(), "180");
    bench.answer(&invite, 200);
    let ok = bench.to(CALLER);
    assert_eq!((ok.line().as_str(), ok.message.values("Via").len()), ("200", 1));
    assert!(bench.sent.is_empty());
    assert_eq!(bench.done.len(), 1);
    let done = &bench.done[0];
    assert_eq!((done.status, done.tries, done.element.as_deref(), done.side), (200, 1, Some(ONE), "upstream"));
    assert_eq!(bench.proxy.open(), 0);
}

#[test]
fn silence_moves_on_after_the_timeout_and_costs_the_next_call_nothing() {
    let mut bench = Bench::new(three());
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    bench.clear();
    bench.pass_ms(990);
    assert_eq!(bench.lines(), [format!("{ONE} INVITE sip:rec@x")], "once more at 500 ms");
    bench.clear();
    bench.pass_ms(10);
    let second = bench.to(TWO);
    assert_eq!(
        bench.events,
        [GroupEvent::Down { group: "recorders.example.com".into(), element: ONE.into(), cause: DownCause::Timeout }]
    );
    bench.answer(&second, 200);
    assert_eq!(bench.to(CALLER).line(), "200");
    let mut second_call = request_as("z9hG4bKcaller2", "INVITE", "sip:rec@x", "");
    second_call.replace_header("Call-ID", "two@caller");
    bench.clear();
    bench.put(CALLER, second_call);
    assert_eq!(bench.to(CALLER).line(), "100");
    assert_eq!(bench.next().to.to_string(), TWO);
}

#[test]
fn who_waits_for_an_element_that_goes_down_moves_on_at_once() {
    let mut bench = Bench::new(three());
    for call in 0..3 {
        let mut invite = request_as(&format!("z9hG4bKcaller{call}"), "INVITE", "sip:rec@x", "");
        invite.replace_header("Call-ID", &format!("{call}@caller"));
        bench.put(CALLER, invite);
        bench.pass_ms(100);
    }
    bench.clear();
    bench.pass_ms(700);
    let moved = bench.sent.iter().filter(|sent| sent.to.to_string() == TWO).count();
    assert_eq!(moved, 3, "{:?}", bench.lines());
}

#[test]
fn who_rings_at_an_element_moves_on_when_a_probe_finds_it_dead_too() {
    let mut config = three();
    config.groups[0].heartbeat =
        Some(Heartbeat { up: Duration::from_secs(30), down: Duration::from_secs(2), misses: 3, adaptive: true });
    let mut bench = Bench::new(config);
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    bench.to(CALLER);
    let rings = bench.to(ONE);
    bench.answer(&rings, 180);
    assert_eq!(bench.to(CALLER).line(), "180");
    bench.pass_ms(100);
    bench.put(CALLER, call(2, "INVITE", "sip:rec@x"));
    bench.pass_ms(1_100);
    assert!(matches!(bench.events[..], [GroupEvent::Down { cause: DownCause::Timeout, .. }]), "{:?}", bench.events);
    let moved: Vec<Sent> = bench
        .sent
        .iter()
        .filter(|sent| sent.to.to_string() == TWO && sent.line().starts_with("INVITE"))
        .cloned()
        .collect();
    assert_eq!(moved.len(), 1, "the other one; one request's silence ends no ringing: {:?}", bench.lines());
    bench.answer(&moved[0], 200);
    bench.clear();
    // The probe after two seconds, and the second in which it is not answered.
    bench.pass_ms(3_100);
    let moved: Vec<_> =
        bench.sent.iter().filter(|sent| sent.message.call_id() == rings.message.call_id()).map(Sent::line).collect();
    assert!(
        moved.contains(&"CANCEL sip:rec@x".to_owned()) && moved.contains(&"INVITE sip:rec@x".to_owned()),
        "{moved:?}"
    );
}

#[test]
fn a_failover_code_moves_on_and_the_caller_does_not_see_it() {
    for status in [408, 500, 502, 503, 504] {
        let mut bench = Bench::new(three());
        bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
        bench.to(CALLER);
        let first = bench.to(ONE);
        bench.answer(&first, 100);
        bench.answer(&first, status);
        assert_eq!(bench.to(ONE).line(), "ACK sip:rec@x");
        let second = bench.to(TWO);
        bench.answer(&second, 200);
        assert_eq!(bench.lines(), [format!("{CALLER} 200")]);
    }
}

#[test]
fn any_other_refusal_is_the_answer() {
    for status in [404, 486, 603] {
        let mut bench = Bench::new(three());
        bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
        bench.to(CALLER);
        let first = bench.to(ONE);
        bench.answer(&first, status);
        bench.to(ONE);
        assert_eq!(bench.lines(), [format!("{CALLER} {status}")]);
    }
}

#[test]
fn an_unreachable_port_moves_on_at_once() {
    let mut bench = Bench::new(three());
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    bench.to(CALLER);
    let first = bench.to(ONE);
    bench.unreachable(&first);
    let second = bench.to(TWO);
    bench.unreachable(&second);
    let third = bench.to(THREE);
    bench.unreachable(&third);
    let answer = bench.to(CALLER);
    assert_eq!(answer.line(), "503", "nobody is left");
    assert!(answer.message.header("Retry-After").is_some());
    assert_eq!(bench.done[0].side, "no-element");
}

#[test]
fn when_all_refuse_the_last_refusal_is_told() {
    let mut bench = Bench::new(three());
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    for whom in [ONE, TWO, THREE] {
        let sent = bench.to(whom);
        bench.answer(&sent, 503);
    }
    bench.to(CALLER);
    assert_eq!(bench.to(CALLER).line(), "503");
}

#[test]
fn retry_after_is_believed() {
    let mut bench = Bench::new(three());
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    let first = bench.to(ONE);
    let mut busy = rig::response_to(&first, 503);
    busy.add_header("Retry-After", "7 (overload);duration=10");
    bench.put(ONE, busy);
    bench.clear();
    let call = |bench: &mut Bench, n: u32| {
        let mut invite = request_as(&format!("z9hG4bKc{n}"), "INVITE", "sip:rec@x", "");
        invite.replace_header("Call-ID", &format!("{n}@caller"));
        bench.put(CALLER, invite);
        let to = bench.sent.iter().find(|sent| sent.message.is_request()).unwrap().to.to_string();
        bench.clear();
        to
    };
    assert_eq!(call(&mut bench, 10), TWO);
    bench.now += Duration::from_millis(6_900);
    assert_eq!(call(&mut bench, 11), TWO);
    bench.now += Duration::from_millis(200);
    assert_eq!(call(&mut bench, 12), ONE);
}

#[test]
fn a_late_answer_of_one_that_was_given_up_is_cancelled_or_passed_on() {
    let mut bench = Bench::new(three());
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    let first = bench.to(ONE);
    bench.pass_ms(1_000);
    let second = bench.to(TWO);
    bench.clear();
    bench.answer(&first, 180);
    assert_eq!(bench.to(ONE).line(), "CANCEL sip:rec@x");
    bench.answer(&second, 200);
    assert_eq!(bench.to(CALLER).line(), "200");
    bench.answer(&first, 487);
    assert_eq!(bench.to(ONE).line(), "ACK sip:rec@x");
    assert!(bench.sent.is_empty());
}

#[test]
fn a_2xx_of_one_that_was_given_up_reaches_the_caller_too() {
    let mut bench = Bench::new(three());
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    let first = bench.to(ONE);
    bench.pass_ms(1_000);
    let second = bench.to(TWO);
    bench.clear();
    bench.answer(&second, 200);
    bench.answer(&first, 200);
    assert_eq!(bench.lines(), [format!("{CALLER} 200"), format!("{CALLER} 200")], "16.7 step 5: every 2xx");
}

#[test]
fn heartbeats_take_down_and_revive() {
    let heartbeat = Heartbeat { up: Duration::from_secs(5), down: Duration::from_secs(2), misses: 3, adaptive: true };
    let groups =
        vec![GroupConfig { heartbeat: Some(heartbeat), ..group(vec![element(ONE, 1, 1), element(TWO, 2, 1)]) }];
    let mut bench =
        Bench::new(ProxyConfig { groups, routes: all_to(Action::Group("recorders.example.com".into())), ..config() });
    bench.pass_ms(200);
    let (first, second) = (bench.to(ONE), bench.to(TWO));
    assert!(first.line().starts_with("OPTIONS sip:192.168.2.1:5060"));
    bench.answer(&first, 200);
    bench.answer(&second, 404);
    // Three misses of the first; the second answers, 404 is life as well.
    for _ in 0..4 {
        bench.pass_ms(1_250 * 4);
        let probe = bench.to(TWO);
        bench.answer(&probe, 404);
    }
    assert_eq!(
        bench.events,
        [GroupEvent::Down { group: "recorders.example.com".into(), element: ONE.into(), cause: DownCause::Misses }]
    );
    bench.clear();
    bench.pass_ms(2_100);
    let probe = bench.to(ONE);
    bench.answer(&probe, 503);
    assert_eq!(bench.events.len(), 1, "503 is no sign of life");
    bench.clear();
    bench.pass_ms(2_100);
    let probe = bench.to(ONE);
    bench.answer(&probe, 200);
    assert_eq!(bench.events.len(), 2);
    let now = bench.now;
    assert_eq!(bench.proxy.groups().view(now)[0].elements[0].state, ElementState::Up);
}

#[test]
fn traffic_stands_for_probes() {
    let heartbeat = Heartbeat { up: Duration::from_secs(5), down: Duration::from_secs(5), misses: 3, adaptive: true };
    let groups = vec![GroupConfig { heartbeat: Some(heartbeat), ..group(vec![element(ONE, 1, 1)]) }];
    let mut bench =
        Bench::new(ProxyConfig { groups, routes: all_to(Action::Group("recorders.example.com".into())), ..config() });
    bench.pass_ms(200);
    let probe = bench.to(ONE);
    bench.answer(&probe, 200);
    for call in 0..10 {
        let mut invite = request_as(&format!("z9hG4bKc{call}"), "INVITE", "sip:rec@x", "");
        invite.replace_header("Call-ID", &format!("{call}@caller"));
        bench.put(CALLER, invite);
        let sent = bench.to(ONE);
        bench.answer(&sent, 200);
        bench.clear();
        bench.pass_ms(3_000);
        assert!(bench.sent.iter().all(|sent| !sent.line().starts_with("OPTIONS")), "{:?}", bench.lines());
    }
    bench.pass_ms(6_000);
    assert!(bench.to(ONE).line().starts_with("OPTIONS"));
}

#[test]
fn a_group_hands_over_to_its_fallback() {
    let mut first = group(vec![element(ONE, 1, 1)]);
    first.fallback = Some("backup.example.com".into());
    let second =
        GroupConfig { heartbeat: None, elements: vec![element(TWO, 1, 1)], ..GroupConfig::named("backup.example.com") };
    let routes = all_to(Action::Group("recorders.example.com".into()));
    let mut bench = Bench::new(ProxyConfig { groups: vec![first, second], routes, ..config() });
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    let sent = bench.to(ONE);
    bench.unreachable(&sent);
    let sent = bench.to(TWO);
    bench.answer(&sent, 200);
    assert_eq!(bench.done[0].group.as_deref(), Some("backup.example.com"));
}

#[test]
fn a_drained_element_gets_no_new_calls_and_keeps_its_own() {
    let mut bench = Bench::new(three());
    bench.put(CALLER, request("INVITE", "sip:rec@recorders.example.com", ""));
    let sent = bench.to(ONE);
    bench.answer(&sent, 200);
    bench.clear();
    assert!(bench.proxy.groups().set_drained("recorders.example.com", ONE, true));
    let mut other = request_as("z9hG4bKother", "INVITE", "sip:rec@recorders.example.com", "");
    other.replace_header("Call-ID", "two@caller");
    bench.put(CALLER, other);
    bench.to(CALLER);
    assert_eq!(bench.next().to.to_string(), TWO);
    bench.clear();
    bench.put(CALLER, request_as("z9hG4bKbye", "BYE", "sip:rec@recorders.example.com", "To: <sip:rec@x>;tag=at5060\n"));
    assert_eq!(bench.next().to.to_string(), ONE);
}

#[test]
fn a_non_invite_never_gets_408() {
    let mut bench = Bench::new(grouped(vec![element(ONE, 1, 1)]));
    bench.put(CALLER, request("MESSAGE", "sip:rec@x", ""));
    let sent = bench.to(ONE);
    bench.answer(&sent, 408);
    assert_eq!(bench.to(CALLER).line(), "504");
}

/// It was slow for once. What it says late is a sign of life, and the next call need not wait for a probe.
#[test]
fn a_late_answer_brings_an_element_back() {
    let mut bench = Bench::new(grouped(vec![element("192.168.2.1:5060", 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:x@recorders.example.com", ""));
    let first = bench.to("192.168.2.1:5060");
    bench.pass(Duration::from_millis(1_100));
    assert_eq!(bench.answered().message.status(), Some(503));
    bench.put("192.168.2.1:5060", rig::response_to(&first, 180));
    bench.clear();
    bench.put(CALLER, rig::call(2, "INVITE", "sip:x@recorders.example.com"));
    assert_eq!(bench.next_request().to, rig::address("192.168.2.1:5060"));
}

/// Nothing was heard when the caller gave up. A copy that arrives later rings nobody for long.
#[test]
fn what_rings_after_the_caller_is_gone_is_cancelled() {
    let mut bench = Bench::new(grouped(vec![element("192.168.2.1:5060", 1, 1)]));
    let invite = request("INVITE", "sip:x@recorders.example.com", "");
    bench.put(CALLER, invite.clone());
    let first = bench.to("192.168.2.1:5060");
    bench.put(CALLER, rig::cancel_of(&invite));
    bench.pass(Duration::from_millis(1_200));
    assert!(bench.sent.iter().any(|sent| sent.message.status() == Some(487)), "{:?}", bench.lines());
    bench.clear();
    bench.put("192.168.2.1:5060", rig::response_to(&first, 180));
    assert!(bench.lines().iter().any(|line| line.contains("CANCEL")), "{:?}", bench.lines());
}
