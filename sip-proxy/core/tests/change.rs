//! Change while running: another configuration in the middle of requests.

mod rig;

use std::time::Duration;

use ferric_proxy::ProxyConfig;
use ferric_proxy::group::{GroupConfig, GroupEvent};
use ferric_proxy::routing::{Action, RouteTable};
use rig::{Bench, CALLER, all_to, bob_at, call, cancel_of, config, contact, element, group, grouped, request};

const ONE: &str = "192.168.2.1:5060";
const TWO: &str = "192.168.2.2:5060";
const THREE: &str = "192.168.2.3:5060";

fn apply(bench: &mut Bench, config: ProxyConfig) {
    let now = bench.now;
    bench.proxy.apply(now, config);
    bench.collect();
}

#[test]
fn what_is_under_way_ends_as_it_began() {
    // The new configuration has neither the element, nor the group, nor the rule.
    for others in [
        grouped(vec![element(TWO, 1, 1)]),
        config(),
        ProxyConfig { routes: all_to(Action::Reject { code: 403, reason: None }), ..config() },
    ] {
        let mut bench = Bench::new(grouped(vec![element(ONE, 1, 1)]));
        let invite = request("INVITE", "sip:rec@x", "");
        bench.put(CALLER, invite.clone());
        let sent = bench.to(ONE);
        apply(&mut bench, others.clone());
        bench.answer(&sent, 180);
        bench.put(CALLER, invite.clone());
        bench.answer(&sent, 200);
        assert_eq!(bench.statuses(), [180, 180, 200], "the repeated INVITE is still known");
        assert_eq!((bench.done.len(), bench.done[0].status), (1, 200));
        bench.settles();
    }
}

#[test]
fn a_request_whose_element_was_removed_moves_on_within_the_new_group() {
    let mut bench = Bench::new(grouped(vec![element(ONE, 1, 1), element(TWO, 2, 1)]));
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    let sent = bench.to(ONE);
    apply(&mut bench, grouped(vec![element(THREE, 1, 1)]));
    bench.answer(&sent, 503);
    let sent = bench.to(THREE);
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200]);
    bench.settles();
    // By silence as well.
    let mut bench = Bench::new(grouped(vec![element(ONE, 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    apply(&mut bench, grouped(vec![element(THREE, 1, 1)]));
    bench.pass_ms(1_000);
    let sent = bench.to(THREE);
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200]);
    bench.settles();
}

#[test]
fn a_group_that_is_gone_altogether_still_gives_an_answer() {
    let mut bench = Bench::new(grouped(vec![element(ONE, 1, 1), element(TWO, 2, 1)]));
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    let sent = bench.to(ONE);
    apply(&mut bench, config());
    bench.unreachable(&sent);
    assert_eq!(bench.statuses(), [503]);
    bench.settles();
}

#[test]
fn elements_that_stay_keep_their_health_and_counters() {
    let mut bench = Bench::new(grouped(vec![element(ONE, 1, 1), element(TWO, 2, 1)]));
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    let sent = bench.to(ONE);
    bench.unreachable(&sent);
    let sent = bench.to(TWO);
    bench.answer(&sent, 200);
    bench.put(CALLER, call(2, "INVITE", "sip:rec@x"));
    bench.proxy.groups().set_drained("recorders.example.com", TWO, true);
    // Other weights, another order, one more.
    apply(&mut bench, grouped(vec![element(THREE, 3, 1), element(TWO, 1, 7), element(ONE, 1, 9)]));
    let now = bench.now;
    let view = bench.proxy.groups().view(now).remove(0).elements;
    let seen: Vec<_> = view
        .iter()
        .map(|element| {
            (element.address.as_str(), element.state.as_str(), element.open, element.counters.succeeded, element.weight)
        })
        .collect();
    assert_eq!(seen, [(THREE, "up", 0, 0, 1), (TWO, "drained", 1, 1, 7), (ONE, "down", 0, 0, 9)]);
    assert!(matches!(bench.events[..], [GroupEvent::Down { .. }]), "no news by a change");
}

#[test]
fn calls_remember_their_element_over_changes() {
    let mut bench = Bench::new(grouped(vec![element(ONE, 1, 1), element(TWO, 1, 1)]));
    bench.put(CALLER, request("INVITE", "sip:rec@recorders.example.com", ""));
    let sent = bench.next_request();
    bench.answer(&sent, 200);
    for n in 0..5 {
        apply(&mut bench, grouped(vec![element(TWO, 1, n), element(THREE, 1, 50), element(ONE, 1, n)]));
        bench.clear();
        bench.put(
            CALLER,
            rig::request_as(
                &format!("z9hG4bKi{n}"),
                "INFO",
                "sip:rec@recorders.example.com",
                "To: <sip:x@y>;tag=at5060\n",
            ),
        );
        assert_eq!(bench.next_request().to, sent.to);
    }
}

#[test]
fn a_cancel_after_the_change_finds_its_invite() {
    let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1", 1_000)]);
    let invite = request("INVITE", "sip:bob@example.com", "");
    bench.put(CALLER, invite.clone());
    let sent = bench.next_request();
    bench.answer(&sent, 180);
    apply(&mut bench, config());
    bench.put(CALLER, cancel_of(&invite));
    let cancel = bench.sent.iter().position(|sent| sent.line().starts_with("CANCEL"));
    assert!(cancel.is_some(), "{:?}", bench.lines());
    bench.answer(&sent, 487);
    assert_eq!(bench.statuses(), [180, 200, 487]);
    bench.settles();
}

#[test]
fn a_name_that_is_found_after_the_change_is_gone_to() {
    let mut bench = Bench::new(rig::by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@example.org", ""));
    let (ticket, _) = bench.asked.pop_front().unwrap();
    apply(&mut bench, config());
    bench.located(ticket, &[(ONE, ferric_sip::flow::Transport::Udp)]);
    let sent = bench.to(ONE);
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200]);
    bench.settles();
}

#[test]
fn a_change_every_second_under_load_loses_nothing() {
    let variants = || -> Vec<ProxyConfig> {
        let slow = GroupConfig {
            timeout: Duration::from_millis(700),
            ..group(vec![element(TWO, 1, 10), element(ONE, 1, 90)])
        };
        vec![
            grouped(vec![element(ONE, 1, 50), element(TWO, 1, 50), element(THREE, 2, 1)]),
            ProxyConfig {
                groups: vec![slow],
                routes: all_to(Action::Group("recorders.example.com".into())),
                ..config()
            },
            ProxyConfig { record_route: true, ..grouped(vec![element(THREE, 1, 1), element(ONE, 2, 1)]) },
            ProxyConfig {
                routes: RouteTable::new(vec![rig::rule(vec![], Action::Uri("sip:recorders.example.com".into()))]),
                ..grouped(vec![element(TWO, 1, 1)])
            },
        ]
    };
    let mut bench = Bench::new(variants().remove(0));
    let mut begun = 0;
    for second in 0..60 {
        for n in 0..20 {
            begun += 1;
            bench.put(CALLER, call(begun, "INVITE", "sip:rec@x"));
            if n % 4 == 0 {
                // One that is answered after the next change.
                continue;
            }
            let at = bench.sent.iter().rposition(|sent| sent.message.is_request()).unwrap();
            let sent = bench.sent.remove(at).unwrap();
            bench.answer(&sent, 200);
        }
        apply(&mut bench, variants().remove((second + 1) % 4));
        let waiting: Vec<_> = bench.sent.drain(..).filter(|sent| sent.line().starts_with("INVITE")).collect();
        for sent in waiting {
            bench.answer(&sent, 200);
        }
        bench.clear();
        bench.pass_ms(1_000);
    }
    assert_eq!(bench.done.len(), begun as usize);
    assert!(bench.done.iter().all(|done| done.status == 200));
    assert!(bench.events.is_empty());
    bench.settles();
}
