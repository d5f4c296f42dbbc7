//! Health of a group's elements: what counts as life and as death, who is asked when, and what limits hold.

mod rig;

use std::time::Duration;

use ferric_proxy::ProxyConfig;
use ferric_proxy::group::{
    DownCause, ElementConfig, ElementState, GroupConfig, GroupEvent, Heartbeat, Outcome, Policy,
};
use ferric_proxy::routing::Action;
use ferric_sip::flow::Transport;
use rig::{Bench, CALLER, address, all_to, call, config, element, group, request, request_as, response_with};

const NAME: &str = "recorders.example.com";
const ONE: &str = "192.168.2.1:5060";
const TWO: &str = "192.168.2.2:5060";

fn with(groups: Vec<GroupConfig>) -> ProxyConfig {
    ProxyConfig { groups, routes: all_to(Action::Group(NAME.into())), ..config() }
}

fn two() -> GroupConfig {
    group(vec![element(ONE, 1, 1), element(TWO, 2, 1)])
}

const BEAT: Heartbeat =
    Heartbeat { up: Duration::from_secs(5), down: Duration::from_secs(2), misses: 3, adaptive: true };

fn states(bench: &mut Bench) -> Vec<&'static str> {
    let now = bench.now;
    bench.proxy.groups().view(now)[0].elements.iter().map(|element| element.state.as_str()).collect()
}

fn open(bench: &mut Bench) -> Vec<u32> {
    let now = bench.now;
    bench.proxy.groups().view(now)[0].elements.iter().map(|element| element.open).collect()
}

/// Where the next call goes; the element answers with that status.
fn calls(bench: &mut Bench, number: u32, status: u16) -> String {
    bench.clear();
    bench.put(CALLER, call(number, "INVITE", "sip:rec@x"));
    let sent = bench.next_request();
    bench.answer(&sent, status);
    bench.clear();
    sent.to.to_string()
}

#[test]
fn probes_travel_by_the_elements_own_transport() {
    let tcp = "192.168.2.1:5060;transport=tcp";
    let tls = "192.168.2.2:5061;transport=tls";
    let mut bench = Bench::new(with(vec![GroupConfig {
        heartbeat: Some(BEAT),
        ..group(vec![element(tcp, 1, 1), element(tls, 1, 1)])
    }]));
    bench.pass_ms(200);
    let probe = bench.to(ONE);
    assert_eq!(
        (probe.transport, probe.line().as_str()),
        (Transport::Tcp, "OPTIONS sip:192.168.2.1:5060;transport=tcp")
    );
    assert_eq!(bench.to("192.168.2.2:5061").transport, Transport::Tls);
    bench.unreachable(&probe);
    for _ in 0..2 {
        bench.pass_ms(5_000);
        let probe = bench.to(ONE);
        bench.unreachable(&probe);
    }
    assert_eq!(bench.events, [GroupEvent::Down { group: NAME.into(), element: tcp.into(), cause: DownCause::Misses }]);
}

#[test]
fn a_late_answer_to_a_probe_is_life() {
    let mut bench = Bench::new(with(vec![GroupConfig { heartbeat: Some(Heartbeat { misses: 1, ..BEAT }), ..two() }]));
    bench.pass_ms(200);
    let (probe, other) = (bench.to(ONE), bench.to(TWO));
    bench.answer(&other, 200);
    bench.pass_ms(1_500);
    assert_eq!(states(&mut bench), ["down", "up"]);
    bench.answer(&probe, 200);
    assert_eq!(states(&mut bench), ["up", "up"]);
}

#[test]
fn a_dead_element_is_down_since_it_died_however_often_it_is_asked() {
    let mut bench = Bench::new(with(vec![GroupConfig { heartbeat: Some(BEAT), ..two() }]));
    let died = loop {
        bench.pass_ms(100);
        if states(&mut bench)[0] == "down" {
            break bench.now;
        }
    };
    bench.pass_ms(60_000);
    let now = bench.now;
    let since = bench.proxy.groups().view(now)[0].elements[0].since.unwrap();
    assert!(since + Duration::from_millis(100) >= now - died, "{since:?}");
}

#[test]
fn changes_in_quick_succession_put_no_probe_off() {
    let config = || with(vec![GroupConfig { heartbeat: Some(BEAT), ..two() }]);
    let mut bench = Bench::new(config());
    let mut probes = 0;
    for _ in 0..60 {
        bench.pass_ms(1_000);
        let now = bench.now;
        bench.proxy.apply(now, config());
        for sent in std::mem::take(&mut bench.sent) {
            probes += u32::from(sent.line().starts_with("OPTIONS"));
            bench.answer(&sent, 200);
        }
    }
    assert!((22..=26).contains(&probes), "two elements, every five seconds, for a minute: {probes}");
}

#[test]
fn without_heartbeat_one_request_a_rest_tries_a_dead_element() {
    let mut bench = Bench::new(with(vec![two()]));
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    let sent = bench.to(ONE);
    bench.unreachable(&sent);
    assert_eq!(states(&mut bench)[0], "down");
    assert_eq!(calls(&mut bench, 2, 200), TWO);
    bench.pass_ms(5_000);
    bench.clear();
    bench.put(CALLER, call(3, "INVITE", "sip:rec@x"));
    assert_eq!(bench.next_request().to.to_string(), ONE, "is it back?");
    assert_eq!(calls(&mut bench, 4, 200), TWO, "one request is enough to find out");
    bench.pass_ms(1_000);
    assert_eq!(calls(&mut bench, 5, 200), TWO);
    bench.pass_ms(5_000);
    assert_eq!(calls(&mut bench, 6, 200), ONE, "it is");
    assert_eq!(calls(&mut bench, 7, 200), ONE);
}

#[test]
fn a_failover_code_is_a_miss_and_several_are_death() {
    let mut bench = Bench::new(with(vec![two()]));
    for number in 0..3 {
        assert_eq!(states(&mut bench)[0], "up");
        assert_eq!(calls(&mut bench, number, 500), ONE);
    }
    assert_eq!(bench.events, [GroupEvent::Down { group: NAME.into(), element: ONE.into(), cause: DownCause::Misses }]);
    // Any other answer is life, and the count begins anew.
    let mut bench = Bench::new(with(vec![two()]));
    for (number, status) in [500, 500, 486, 500, 500, 200, 500, 500].into_iter().enumerate() {
        calls(&mut bench, number as u32, status);
    }
    assert!(bench.events.is_empty());
}

#[test]
fn a_hundred_of_an_element_that_fell_silent_is_worth_nothing() {
    let mut bench = Bench::new(with(vec![two()]));
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    let first = bench.to(ONE);
    bench.answer(&first, 100);
    bench.pass_ms(100);
    bench.put(CALLER, call(2, "INVITE", "sip:rec@x"));
    bench.clear();
    bench.pass_ms(1_000);
    let moved: Vec<_> = bench
        .sent
        .iter()
        .filter(|sent| sent.to == address(TWO))
        .map(|sent| sent.message.call_id().unwrap().into_owned())
        .collect();
    assert!(moved.contains(&"1@caller".to_owned()) && moved.contains(&"2@caller".to_owned()), "{moved:?}");
    assert!(bench.lines().contains(&format!("{ONE} CANCEL sip:rec@x")), "should it come back");
}

#[test]
fn a_hundred_of_an_element_that_refuses_others_is_a_promise() {
    let mut bench = Bench::new(with(vec![two()]));
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    let first = bench.to(ONE);
    bench.answer(&first, 100);
    for number in 2..5 {
        calls(&mut bench, number, 503);
    }
    assert_eq!(states(&mut bench)[0], "down");
    bench.clear();
    bench.answer(&first, 200);
    assert_eq!(bench.statuses(), [200], "it was let finish");
}

#[test]
fn requests_under_way_are_counted_exactly() {
    let mut bench = Bench::new(with(vec![two()]));
    for number in 0..6 {
        bench.put(CALLER, call(number, "INVITE", "sip:rec@x"));
    }
    let sent: Vec<_> = (0..6).map(|_| bench.next_request()).collect();
    assert_eq!(open(&mut bench), [6, 0]);
    bench.answer(&sent[0], 200);
    bench.answer(&sent[1], 486);
    bench.answer(&sent[2], 180);
    // Two are silent; the element lives, so they are waited for as nobody else is there.
    assert!(bench.proxy.groups().set_drained(NAME, TWO, true));
    bench.pass_ms(1_000);
    bench.answer(&sent[3], 200);
    assert_eq!(open(&mut bench), [3, 0], "one answered after it had counted as silent is counted once");
    bench.proxy.groups().set_drained(NAME, TWO, false);
    bench.answer(&sent[2], 503);
    assert_eq!(open(&mut bench), [2, 1]);
    bench.settles();
    assert_eq!(open(&mut bench), [0, 0]);
    assert!(bench.proxy.tables().iter().all(|(_, count)| *count == 0), "{:?}", bench.proxy.tables());
}

#[test]
fn silence_of_an_element_that_lives_leaves_nothing_behind() {
    let mut bench = Bench::new(with(vec![two()]));
    for number in 0..50 {
        bench.put(CALLER, call(number, "INVITE", "sip:rec@x"));
        bench.clear();
        bench.pass_ms(900);
        // Something else is answered meanwhile: it lives, the silent one moves on.
        bench.put(CALLER, call(1_000 + number, "MESSAGE", "sip:rec@x"));
        let sent = bench.sent.iter().rposition(|sent| sent.line().starts_with("MESSAGE")).unwrap();
        let sent = bench.sent.remove(sent).unwrap();
        bench.answer(&sent, 200);
        bench.pass_ms(100);
        let moved = bench.to(TWO);
        bench.answer(&moved, 200);
    }
    assert_eq!(states(&mut bench)[0], "up");
    bench.settles();
    assert!(bench.proxy.tables().iter().all(|(_, count)| *count == 0), "{:?}", bench.proxy.tables());
}

#[test]
fn one_that_comes_back_takes_its_share_slowly() {
    for policy in [Policy::PriorityWeight, Policy::RoundRobin, Policy::LeastLoaded, Policy::CallIdHash] {
        let elements = vec![element(ONE, 1, 50), element(TWO, 1, 50)];
        let mut bench =
            Bench::new(with(vec![GroupConfig { policy, slow_start: Duration::from_secs(100), ..group(elements) }]));
        bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
        let sent = bench.next_request();
        let dead = sent.to;
        bench.unreachable(&sent);
        let other = bench.next_request();
        bench.answer(&other, 200);
        bench.pass_ms(5_000);
        // Until it is tried and answers.
        for number in 10..60 {
            calls(&mut bench, number, 200);
        }
        assert_eq!(states(&mut bench), ["up", "up"], "{policy:?}");
        let mut share =
            |from: u32| (from..from + 400).filter(|number| calls(&mut bench, *number, 200) == dead.to_string()).count();
        let early = share(1_000);
        assert!((10..130).contains(&early), "{policy:?}: a tenth of its weight at first: {early} of 400");
        bench.pass(Duration::from_secs(100));
        let mut share =
            |from: u32| (from..from + 400).filter(|number| calls(&mut bench, *number, 200) == dead.to_string()).count();
        let late = share(2_000);
        assert!((130..=300).contains(&late), "{policy:?}: {late} of 400");
    }
}

#[test]
fn a_limit_of_calls_holds_where_their_end_is_seen() {
    let limited = ElementConfig { max_calls: Some(2), ..element(ONE, 1, 1) };
    let mut bench =
        Bench::new(ProxyConfig { record_route: true, ..with(vec![group(vec![limited, element(TWO, 2, 1)])]) });
    assert_eq!(calls(&mut bench, 1, 200), ONE);
    assert_eq!(calls(&mut bench, 2, 200), ONE);
    assert_eq!(calls(&mut bench, 3, 200), TWO);
    let bye = |n: u32, status: u16, bench: &mut Bench| {
        let mut bye = request_as(
            &format!("z9hG4bKbye{n}{status}"),
            "BYE",
            "sip:rec@192.168.2.1",
            "Route: <sip:192.168.0.5;lr>\nTo: <sip:rec@x>;tag=at5060\n",
        );
        bye.replace_header("Call-ID", &format!("{n}@caller"));
        bench.put(CALLER, rig::parse_bytes(&bye));
        let sent = bench.next_request();
        bench.answer(&sent, status);
    };
    bye(1, 401, &mut bench);
    assert_eq!(calls(&mut bench, 4, 200), TWO, "a BYE that wants a password ended nothing");
    bye(1, 200, &mut bench);
    assert_eq!(calls(&mut bench, 5, 200), ONE);
    assert_eq!(calls(&mut bench, 6, 200), TWO);
    bye(2, 481, &mut bench);
    assert_eq!(calls(&mut bench, 7, 486), ONE);
    assert_eq!(calls(&mut bench, 8, 200), ONE, "a refused call is none");
}

#[test]
fn a_limit_of_calls_a_second_holds() {
    let limited = ElementConfig { calls_per_second: Some(3), ..element(ONE, 1, 1) };
    let mut bench = Bench::new(with(vec![group(vec![limited, element(TWO, 2, 1)])]));
    let went: Vec<String> = (0..5).map(|number| calls(&mut bench, number, 200)).collect();
    assert_eq!(went, [ONE, ONE, ONE, TWO, TWO]);
    bench.pass_ms(1_000);
    assert_eq!(calls(&mut bench, 9, 200), ONE);
}

#[test]
fn all_at_their_limits_is_503_with_retry_after() {
    let limited = |at| ElementConfig { calls_per_second: Some(1), ..element(at, 1, 1) };
    let mut bench = Bench::new(with(vec![group(vec![limited(ONE), limited(TWO)])]));
    calls(&mut bench, 1, 200);
    calls(&mut bench, 2, 200);
    bench.put(CALLER, call(3, "INVITE", "sip:rec@x"));
    let answer = bench.answered().message;
    assert_eq!((answer.status(), answer.header("Retry-After").is_some()), (Some(503), true));
}

#[test]
fn fallbacks_of_fallbacks_and_circles_of_them() {
    let named = |name: &str, at: &str, next: &str| GroupConfig {
        heartbeat: None,
        elements: vec![element(at, 1, 1)],
        fallback: Some(next.into()),
        ..GroupConfig::named(name)
    };
    let groups = vec![
        named(NAME, ONE, "Second.example.com"),
        named("second.example.com", TWO, "third.example.com"),
        named("third.example.com", "192.168.2.3:5060", NAME),
    ];
    let mut bench = Bench::new(with(groups));
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    for at in [ONE, TWO, "192.168.2.3:5060"] {
        let sent = bench.to(at);
        bench.unreachable(&sent);
    }
    assert_eq!(bench.statuses(), [503], "the circle ends");
}

#[test]
fn a_drained_element_of_the_file_keeps_its_calls() {
    let mut bench = Bench::new(with(vec![two()]));
    assert_eq!(calls(&mut bench, 1, 200), ONE);
    let drained = group(vec![ElementConfig { drain: true, ..element(ONE, 1, 1) }, element(TWO, 2, 1)]);
    let now = bench.now;
    bench.proxy.apply(now, with(vec![drained]));
    assert_eq!(states(&mut bench), ["drained", "up"]);
    assert_eq!(calls(&mut bench, 2, 200), TWO);
    let mut info = request_as("z9hG4bKi", "INFO", &format!("sip:rec@{NAME}"), "To: <sip:rec@x>;tag=at5060\n");
    info.replace_header("Call-ID", "1@caller");
    bench.put(CALLER, rig::parse_bytes(&info));
    assert_eq!(bench.next_request().to.to_string(), ONE);
}

#[test]
fn the_element_of_a_dialog_is_asked_first_even_when_it_counts_as_dead() {
    let mut bench = Bench::new(with(vec![two()]));
    assert_eq!(calls(&mut bench, 1, 200), ONE);
    bench.put(CALLER, call(2, "INVITE", "sip:rec@x"));
    let sent = bench.to(ONE);
    bench.unreachable(&sent);
    let other = bench.to(TWO);
    bench.answer(&other, 200);
    assert_eq!(states(&mut bench)[0], "down");
    let info = |n: u32| {
        let mut info =
            request_as(&format!("z9hG4bKi{n}"), "INFO", &format!("sip:rec@{NAME}"), "To: <sip:rec@x>;tag=at5060\n");
        info.replace_header("Call-ID", "1@caller");
        rig::parse_bytes(&info)
    };
    bench.clear();
    bench.put(CALLER, info(1));
    let sent = bench.to(ONE);
    bench.answer(&sent, 200);
    assert_eq!(states(&mut bench)[0], "up", "it was not so dead");
    // And when it is, another one may know of the dialog: after 7 * T1, as one that works may be silent until then.
    bench.clear();
    bench.put(CALLER, info(2));
    bench.pass_ms(3_000);
    assert!(!bench.lines().iter().any(|line| line.starts_with(TWO)), "it may only be slow");
    bench.pass_ms(1_000);
    let other = bench.to(TWO);
    bench.answer(&other, 481);
    assert_eq!(bench.statuses(), [481]);
}

#[test]
fn a_busy_element_is_left_alone_and_nobody_for_too_long() {
    let mut bench = Bench::new(with(vec![two()]));
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    let sent = bench.to(ONE);
    bench.put(ONE, response_with(&sent, 503, "t", &[("Retry-After", "99999999999")]));
    let now = bench.now;
    let view = bench.proxy.groups().view(now);
    assert_eq!(view[0].elements[0].state, ElementState::Busy(Duration::from_secs(300)), "five minutes at most");
}

#[test]
fn elements_from_dns_keep_what_is_known_of_them() {
    let dns = GroupConfig {
        dns: Some(Transport::Udp),
        heartbeat: None,
        rest: Duration::from_secs(60),
        ..GroupConfig::named(NAME)
    };
    let mut bench = Bench::new(with(vec![dns.clone()]));
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    assert_eq!(bench.statuses(), [503], "none yet");
    let now = bench.now;
    bench.proxy.groups().set_elements(now, NAME, vec![element(ONE, 1, 1), element(TWO, 2, 1)]);
    bench.put(CALLER, call(2, "INVITE", "sip:rec@x"));
    let sent = bench.to(ONE);
    bench.unreachable(&sent);
    bench.clear();
    bench.proxy.groups().set_elements(
        now,
        NAME,
        vec![element("192.168.2.3:5060", 1, 1), element(TWO, 3, 1), element(ONE, 1, 5)],
    );
    assert_eq!(states(&mut bench), ["up", "up", "down"]);
    bench.proxy.apply(now, with(vec![dns]));
    assert_eq!(states(&mut bench), ["up", "up", "down"], "a change of configuration does not forget DNS");
    assert_eq!(calls(&mut bench, 3, 200), "192.168.2.3:5060");
    // One that is gone finishes what it has.
    bench.put(CALLER, call(4, "INVITE", "sip:rec@x"));
    let sent = bench.next_request();
    bench.proxy.groups().set_elements(now, NAME, vec![element(TWO, 1, 1)]);
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200]);
    assert_eq!(calls(&mut bench, 5, 200), TWO);
    bench.settles();
}

#[test]
fn what_a_person_drained_outlives_the_element() {
    let dns = GroupConfig { dns: Some(Transport::Udp), heartbeat: None, ..GroupConfig::named(NAME) };
    let mut bench = Bench::new(with(vec![dns.clone()]));
    let now = bench.now;
    let both = || vec![element(ONE, 1, 1), element(TWO, 2, 1)];
    bench.proxy.groups().set_elements(now, NAME, both());
    assert!(bench.proxy.groups().set_drained(NAME, ONE, true));
    assert!(!bench.proxy.groups().set_drained(NAME, "192.168.2.9:5060", true), "there is none");
    // DNS forgets it for a while; then the group leaves the configuration for a while.
    bench.proxy.groups().set_elements(now, NAME, vec![element(TWO, 2, 1)]);
    bench.proxy.groups().set_elements(now, NAME, both());
    assert_eq!(states(&mut bench), ["drained", "up"]);
    bench.proxy.apply(now, with(vec![]));
    bench.proxy.apply(now, with(vec![dns.clone()]));
    bench.proxy.groups().set_elements(now, NAME, both());
    assert_eq!(states(&mut bench), ["drained", "up"]);
    assert_eq!(calls(&mut bench, 1, 200), TWO);
    // Another life of the node, before DNS has said anything.
    let known = bench.proxy.groups().drained().clone();
    assert_eq!(known.iter().collect::<Vec<_>>(), [(NAME, ONE, true)]);
    let mut bench = Bench::new(with(vec![dns]));
    bench.proxy.groups().restore_drained(known);
    bench.proxy.groups().set_elements(now, NAME, both());
    assert_eq!(states(&mut bench), ["drained", "up"]);
    assert!(bench.proxy.groups().set_drained(NAME, ONE, false));
    assert_eq!(states(&mut bench), ["up", "up"]);
}

#[test]
fn what_is_configured_no_more_is_forgotten_with_the_next_wish() {
    let mut bench = Bench::new(with(vec![group(vec![element(ONE, 1, 1), element(TWO, 2, 1)])]));
    let now = bench.now;
    bench.proxy.groups().set_drained(NAME, ONE, true);
    bench.proxy.apply(now, with(vec![group(vec![element(TWO, 2, 1)])]));
    bench.proxy.groups().set_drained(NAME, TWO, true);
    assert_eq!(bench.proxy.groups().drained().iter().collect::<Vec<_>>(), [(NAME, TWO, true)]);
}

#[test]
fn names_of_elements_lead_to_their_addresses() {
    let named = ElementConfig { host: "rec1.example.com".into(), ..element("rec1.example.com:5060", 1, 1) };
    let mut bench = Bench::new(with(vec![group(vec![named, element(TWO, 2, 1)])]));
    assert_eq!(states(&mut bench), ["unresolved", "up"]);
    assert_eq!(calls(&mut bench, 1, 200), TWO);
    let id = bench.proxy.groups().names().map(|(id, _)| id).next().unwrap();
    bench.proxy.groups().set_addresses(id, &[address("192.168.6.1:5060"), address("192.168.6.2:5060")]);
    assert_eq!(calls(&mut bench, 2, 200), "192.168.6.1:5060");
    bench.proxy.groups().set_addresses(id, &[address("192.168.6.3:5060"), address("192.168.6.1:5060")]);
    assert_eq!(calls(&mut bench, 3, 200), "192.168.6.1:5060", "it stays while the name still leads there");
    let now = bench.now;
    let known: Vec<_> = bench.proxy.groups().hops().map(|hop| hop.address.to_string()).collect();
    assert_eq!(known, ["192.168.6.1:5060", "192.168.6.3:5060", TWO], "those behind it are the new ones");
    bench.proxy.groups().note_outcome(now, id, Outcome::Unreachable);
    assert_eq!(bench.proxy.groups().hop(id).unwrap().address, address("192.168.6.3:5060"));
    bench.proxy.groups().note_alive(now, id);
    bench.proxy.groups().set_addresses(id, &[address("192.168.6.1:5060")]);
    bench.proxy.groups().set_addresses(id, &[]);
    assert_eq!(calls(&mut bench, 4, 200), "192.168.6.1:5060", "no answer takes nothing away");
}

#[test]
fn a_node_that_is_away_is_asked_when_nobody_else_can_be() {
    let mut bench = Bench::new(with(vec![two()]));
    assert_eq!(calls(&mut bench, 1, 200), ONE);
    bench.proxy.groups().set_away(address(ONE), true);
    assert_eq!(calls(&mut bench, 2, 200), TWO, "though its priority is lower");
    // Another configuration makes no difference.
    let now = bench.now;
    bench.proxy.apply(now, with(vec![two()]));
    assert_eq!(calls(&mut bench, 3, 200), TWO);
    // Whoever says that it is away may have another way to it than the calls.
    bench.proxy.groups().set_away(address(TWO), true);
    assert_eq!(calls(&mut bench, 4, 200), ONE);
    assert_eq!(states(&mut bench), ["up", "up"]);
    bench.proxy.groups().set_away(address(TWO), false);
    assert_eq!(calls(&mut bench, 5, 200), TWO);
    bench.proxy.groups().set_away(address(ONE), false);
    assert_eq!(calls(&mut bench, 6, 200), ONE);
}
