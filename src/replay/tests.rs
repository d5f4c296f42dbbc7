//! Logs made up with known shares, replayed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::Duration;

use ferric_proxy::group::{ElementConfig, GroupConfig};
use ferric_proxy::routing::{Action, Condition, Rewrite, RouteTable, Rule};
use ferric_proxy::{Listener, ProxyConfig};
use ferric_sight::RequestDone;
use ferric_sip::flow::Transport;
use ferric_sip::trust::TrustTable;
use proptest::prelude::*;

use super::*;

/// 2023-11-14T10:00:00Z.
const TEN: u64 = 1_699_956_000;

fn element(address: &str, priority: u16, weight: u16) -> ElementConfig {
    ElementConfig { priority, weight, ..ElementConfig::parse(address).unwrap() }
}

fn group(name: &str, elements: &[(&str, u16, u16)]) -> GroupConfig {
    let mut group = GroupConfig::named(name);
    group.elements = elements.iter().map(|(address, priority, weight)| element(address, *priority, *weight)).collect();
    group
}

fn rule(name: &str, conditions: Vec<Condition>, action: Action) -> Rule {
    Rule { name: name.to_owned(), conditions, rewrite: Rewrite::default(), action }
}

fn config(groups: Vec<GroupConfig>, rules: Vec<Rule>) -> ProxyConfig {
    let listeners =
        vec![Listener { transport: Transport::Udp, address: "10.0.0.5:5060".parse().unwrap(), advertise: None }];
    let mut config = ProxyConfig::new(listeners, TrustTable::private("acme"), |_| false);
    config.groups = groups;
    config.routes = RouteTable::new(rules);
    config
}

fn to_pool(groups: Vec<GroupConfig>) -> ProxyConfig {
    config(groups, vec![rule("calls", vec![], Action::Group("pool".into()))])
}

/// A call that the first element of the pool took.
fn call(number: u64, at_ms: u64) -> RequestDone {
    RequestDone {
        at_unix: Duration::from_secs(TEN) + Duration::from_millis(at_ms),
        method: "INVITE".into(),
        call_id: format!("call-{number}"),
        request_uri: format!("sip:+1555{number:04}@example.com"),
        from_uri: Some("sip:alice@example.com".into()),
        source: "10.9.9.9:5060".parse().unwrap(),
        listener: "udp:10.0.0.5:5060".parse().unwrap(),
        siprec: false,
        is_initial: true,
        headers: BTreeMap::new(),
        rule: Some("calls".into()),
        group: Some("pool".into()),
        element: Some("10.0.0.1:5060".into()),
        tries: 1,
        status: 200,
        elapsed: Duration::from_millis(20),
        cause: "upstream".into(),
    }
}

/// One call every `every_ms`, for ten minutes.
fn ten_minutes(every_ms: u64) -> Vec<RequestDone> {
    (0..600_000 / every_ms).map(|number| call(number, number * every_ms)).collect()
}

fn text(lines: &[RequestDone]) -> String {
    lines.iter().map(|line| format!("{}\n", line.to_line())).collect()
}

fn replay_texts(config: &ProxyConfig, down: &[&str], texts: Vec<String>) -> Result<Report, ReplayError> {
    let settings = Settings { seed: 7, down: down.iter().map(|text| text.parse().unwrap()).collect() };
    let input =
        |(number, text): (usize, String)| Input { name: format!("log{number}"), reader: Box::new(Cursor::new(text)) };
    run(config, &settings, texts.into_iter().enumerate().map(input).collect(), &mut |_| {})
}

fn replay(config: &ProxyConfig, down: &[&str], lines: &[RequestDone]) -> Report {
    replay_texts(config, down, vec![text(lines)]).unwrap()
}

fn share<'a>(report: &'a Report, element: &str) -> &'a ElementShare {
    report.elements.iter().find(|row| row.element == element).unwrap()
}

#[test]
fn shares_follow_the_weights() {
    let report = replay(
        &to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 75), ("10.0.0.2:5060", 1, 25)])]),
        &[],
        &ten_minutes(50),
    );
    let (one, two) = (share(&report, "10.0.0.1:5060"), share(&report, "10.0.0.2:5060"));
    assert_eq!((one.before, two.before, one.after + two.after), (12_000, 0, 12_000));
    assert!((8_760..9_240).contains(&one.after), "{}", one.after);
    assert_eq!((report.same_route, report.new_failures, one.peak_before_per_s), (12_000, 0, 20));
    assert!(
        report.notes.iter().any(|note| note == "not in the log, taken to be healthy: 10.0.0.2:5060"),
        "{:?}",
        report.notes
    );
}

#[test]
fn an_element_that_dies_delays_a_few_and_fails_none() {
    let config = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 1, 50)])]);
    let report = replay(&config, &["10.0.0.1:5060@10:05"], &ten_minutes(50));
    let (one, two) = (share(&report, "10.0.0.1:5060"), share(&report, "10.0.0.2:5060"));
    assert_eq!((one.after + two.after, report.new_failures), (12_000, 0));
    assert!((2_800..3_200).contains(&one.after), "half of the first five minutes: {}", one.after);
    // The time until the first timeout, and no more.
    let delayed = &report.delayed[0];
    assert_eq!((delayed.element.as_str(), report.delayed.len()), ("10.0.0.1:5060", 1));
    assert!((1..=20).contains(&delayed.requests) && (900..=1_000).contains(&delayed.longest_ms), "{delayed:?}");
    assert!((298_000..300_000).contains(&one.down_ms), "{}", one.down_ms);
    assert!(report.notes[0].contains("dead from 2023-11-14T10:05:00.000Z to the end"), "{:?}", report.notes);
}

#[test]
fn an_element_that_comes_back_gets_its_share_again() {
    let config = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 2, 50)])]);
    let report = replay(&config, &["10.0.0.1@10:02-10:04"], &ten_minutes(100));
    let (one, two) = (share(&report, "10.0.0.1:5060"), share(&report, "10.0.0.2:5060"));
    assert!((1_190..=1_260).contains(&two.after), "two minutes until the next probe: {}", two.after);
    assert!((119_000..=125_000).contains(&one.down_ms), "{}", one.down_ms);
    assert_eq!(report.new_failures, 0);
}

#[test]
fn what_rings_at_an_element_that_dies_is_lost() {
    let mut lines = ten_minutes(1_000);
    lines.iter_mut().for_each(|line| line.elapsed = Duration::from_millis(4_500));
    let config = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 2, 50)])]);
    let report = replay(&config, &["10.0.0.1:5060@10:05:00"], &lines);
    assert_eq!((report.new_failures, report.failures.len()), (4, 1));
    let failure = &report.failures[0];
    assert_eq!(
        (failure.reason.as_str(), failure.example.as_str()),
        ("the element dies while it rings there", "call-296")
    );
    assert_eq!(
        (failure.first.to_string(), failure.last.to_string()),
        ("2023-11-14T10:04:56.000Z".into(), "2023-11-14T10:04:59.000Z".into())
    );
}

#[test]
fn the_fallback_takes_over_when_a_group_dies_and_without_one_calls_fail() {
    let mut pool = group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 1, 50)]);
    pool.fallback = Some("spare".into());
    let spare = group("spare", &[("10.0.0.9:5060", 1, 50)]);
    let report = replay(&to_pool(vec![pool.clone(), spare]), &["pool/*@10:05"], &ten_minutes(100));
    assert_eq!((report.new_failures, report.same_route), (0, 6_000));
    assert!((2_990..=3_000).contains(&share(&report, "10.0.0.9:5060").after));

    pool.fallback = None;
    let report = replay(&to_pool(vec![pool]), &["pool/*@10:05"], &ten_minutes(100));
    assert_eq!(report.new_failures, 3_000, "every one from 10:05 on");
    let row = report.failures.iter().find(|row| row.reason == "503 no element can take it").unwrap();
    assert_eq!((row.route.as_str(), row.last.to_string().as_str()), ("calls -> pool", "2023-11-14T10:09:59.900Z"));
    assert_eq!(report.failures.iter().map(|row| row.requests).sum::<u64>(), 3_000);
}

#[test]
fn limits_hold() {
    let mut pool = group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 2, 50)]);
    pool.elements[0].calls_per_second = Some(6);
    let report = replay(&to_pool(vec![pool.clone()]), &[], &ten_minutes(100));
    let (one, two) = (share(&report, "10.0.0.1:5060"), share(&report, "10.0.0.2:5060"));
    assert_eq!((one.after, two.after, one.peak_after_per_s), (3_600, 2_400, 6));

    let mut config = to_pool(vec![pool.clone()]);
    config.calls_per_second = Some(9);
    let report = replay(&config, &[], &ten_minutes(100));
    assert_eq!((report.new_failures, report.failures[0].reason.as_str()), (600, "503 over the limit of the node"));

    pool.elements[0].drain = true;
    let report = replay(&to_pool(vec![pool]), &[], &ten_minutes(100));
    assert_eq!(share(&report, "10.0.0.1:5060").after, 0, "drained");
}

#[test]
fn calls_at_once_are_limited_when_the_log_shows_their_ends() {
    let mut pool = group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 2, 50)]);
    pool.elements[0].max_calls = Some(5);
    let mut config = to_pool(vec![pool]);
    config.record_route = true;
    // Ten calls at once: one a second, of nearly ten seconds each.
    let calls = ten_minutes(1_000);
    let mut lines = calls.clone();
    for call in &calls {
        let mut bye = call.clone();
        (bye.method, bye.is_initial, bye.rule) = ("BYE".into(), false, None);
        bye.at_unix += Duration::from_millis(9_900);
        lines.push(bye);
    }
    lines.sort_by_key(|line| line.at_unix);
    let report = replay(&config, &[], &lines);
    let first = share(&report, "10.0.0.1:5060").after;
    assert!((290..320).contains(&first), "{first}");
    assert_eq!((report.requests, report.lines), (600, 1_200));

    let report = replay(&config, &[], &calls);
    assert_eq!(share(&report, "10.0.0.1:5060").after, 600);
    assert!(report.notes.iter().any(|note| note.contains("max_calls was not judged")), "{:?}", report.notes);
}

#[test]
fn an_element_does_again_what_it_did() {
    // It refuses every other call with 503, which is no answer of the callee's.
    let mut lines = ten_minutes(100);
    lines.iter_mut().step_by(2).for_each(|line| line.status = 503);
    // One that is busy is so everywhere.
    lines.iter_mut().skip(1).step_by(20).for_each(|line| line.status = 486);
    let alone = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50)])]);
    let report = replay(&alone, &[], &lines);
    assert_eq!((report.failed_before, report.failed_after, report.new_failures, report.healed), (3_300, 3_300, 0, 0));
    let moved = to_pool(vec![group("pool", &[("10.0.0.2:5060", 1, 50)])]);
    let report = replay(&moved, &[], &lines);
    assert_eq!((report.failed_after, report.new_failures, report.healed), (300, 0, 3_000));
    let both = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 2, 50)])]);
    let report = replay(&both, &[], &lines);
    assert_eq!((report.failed_after, report.new_failures), (300, 0), "what is refused is taken by the next one");
}

#[test]
fn other_routes_are_told_with_their_number() {
    let mut lines = ten_minutes(1_000);
    let pool = || group("pool", &[("10.0.0.1:5060", 1, 50)]);
    let other = || group("other", &[("10.0.0.7:5060", 1, 50)]);
    lines.iter_mut().take(10).for_each(|line| {
        (line.rule, line.group, line.element, line.status, line.cause) = (None, None, None, 404, "no-route".into());
    });
    let rules = vec![
        rule("block", vec![Condition::UserPrefix("+155501".into())], Action::Reject { code: 403, reason: None }),
        rule("moved", vec![Condition::UserPrefix("+155502".into())], Action::Group("other".into())),
        rule("calls", vec![Condition::UserPrefix("+1".into())], Action::Group("pool".into())),
    ];
    let report = replay(&config(vec![pool(), other()], rules), &[], &lines);
    let rows: Vec<(u64, &str, &str)> =
        report.routes.iter().map(|row| (row.requests, row.was.as_str(), row.would_be.as_str())).collect();
    assert_eq!(
        rows,
        [
            (100, "calls -> pool", "block: reject 403"),
            (100, "calls -> pool", "moved -> other"),
            (10, "no rule: 404", "calls -> pool"),
        ]
    );
    assert_eq!((report.same_route, report.new_failures, report.healed), (390, 100, 10));
    assert_eq!(
        (report.failures[0].route.as_str(), report.failures[0].reason.as_str()),
        ("block: reject 403", "answered 403")
    );
}

#[test]
fn without_a_rule_the_defaults_of_the_proxy_apply() {
    let mut lines = ten_minutes(100_000);
    for (line, uri) in lines.iter_mut().zip([
        "sip:a@example.com",
        "sip:b@pool",
        "sip:10.0.0.5",
        "sip:c@elsewhere.example",
        "tel:+1555",
        "no uri",
    ]) {
        (line.rule, line.request_uri) = (None, uri.to_owned());
    }
    lines[5].source = "192.0.2.1:5060".parse().unwrap();
    let mut config = config(vec![group("pool", &[("10.0.0.1:5060", 1, 50)])], vec![]);
    config.domains = vec!["example.com".into()];
    let report = replay(&config, &[], &lines);
    assert_eq!((report.unmatched, report.same_route), (5, 1));
    let mut ways: Vec<&str> = report.routes.iter().map(|row| row.would_be.as_str()).collect();
    ways.sort_unstable();
    assert_eq!(
        ways,
        ["no rule -> registrar", "no rule -> this node's recorder", "no rule: 404", "no rule: bad Request-URI"]
    );
    lines[5].request_uri = "sip:x@example.com".into();
    let report = replay(&config, &[], &lines);
    assert!(report.routes.iter().any(|row| row.would_be == "no rule: 192.0.2.1 is not in [[sip.trust]]"));
}

#[test]
fn what_the_log_does_not_show_is_said() {
    let mut lines = ten_minutes(1_000);
    lines.iter_mut().take(50).for_each(|line| line.request_uri = "sip:***@example.com".into());
    lines[0].from_uri = Some("sip:alice:secret@example.com".into());
    let rules = vec![
        rule("tenant", vec![Condition::Header("X-Tenant".into(), None)], Action::Reject { code: 403, reason: None }),
        rule(
            "from",
            vec![Condition::From(regex::Regex::new("bob").unwrap())],
            Action::Reject { code: 403, reason: None },
        ),
        rule("calls", vec![Condition::UserPrefix("+1".into())], Action::Group("pool".into())),
    ];
    let config = config(vec![group("pool", &[("10.0.0.1:5060", 1, 50)])], rules);
    let report = replay(&config, &[], &lines);
    assert_eq!(report.redacted, 50);
    assert!(report.notes.iter().any(|note| note.starts_with("50 lines hide (***)")), "{:?}", report.notes);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.starts_with("no line of the log has x-tenant") && note.contains("600 requests"))
    );
    lines[7].headers.insert("x-tenant".into(), "blue".into());
    let report = replay(&config, &[], &lines);
    assert!(!report.notes.iter().any(|note| note.contains("x-tenant")) && report.new_failures >= 1);
}

#[test]
fn damaged_lines_are_named_and_what_is_no_log_is_refused() {
    let config = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50)])]);
    let lines: Vec<String> = ten_minutes(10_000).iter().map(RequestDone::to_line).collect();
    let mut text = lines.join("\n");
    text.insert_str(0, "\n{\"t\":1}\n");
    text.push_str(&format!("\nhalf a li\n{}\n", "x".repeat(700_000)));
    let report = replay_texts(&config, &[], vec![text]).unwrap();
    assert_eq!((report.requests, report.damaged.count), (60, 3));
    let places: Vec<String> =
        report.damaged.first.iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(places, ["log0:2", "log0:63", "log0:64"]);
    assert!(report.damaged.first[2].contains("longer than"), "{:?}", report.damaged.first);

    let wrong = replay_texts(&config, &[], vec!["[proxy]\n".repeat(5_000)]).unwrap_err().to_string();
    assert!(
        wrong.starts_with("log0 is no log of finished requests: none of its first 1000 lines is one; line 1: "),
        "{wrong}"
    );
    assert!(matches!(replay_texts(&config, &[], vec!["x".into(), String::new()]), Err(ReplayError::NoLog { .. })));
    assert!(matches!(replay_texts(&config, &[], vec![String::new()]), Err(ReplayError::Empty)));
    let unknown = replay_texts(&config, &["10.0.0.3@10:05"], vec![lines.join("\n")]).unwrap_err().to_string();
    assert_eq!(unknown, "no server group has an element 10.0.0.3; there are 10.0.0.1:5060, pool/*");
}

#[test]
fn lines_are_put_in_order_of_time_across_files() {
    let config = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50), ("10.0.0.2:5060", 1, 50)])]);
    let mut lines = ten_minutes(100);
    lines.iter_mut().step_by(7).for_each(|line| line.elapsed = Duration::from_secs(90));
    let sorted = replay(&config, &["10.0.0.1@10:05"], &lines);
    // As a node writes them: when they are finished.
    lines.sort_by_key(|line| line.at_unix + line.elapsed);
    let (even, odd): (Vec<_>, Vec<_>) = lines.iter().cloned().enumerate().partition(|(place, _)| place % 2 == 0);
    let part = |lines: Vec<(usize, RequestDone)>| text(&lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>());
    let merged = replay_texts(&config, &["10.0.0.1@10:05"], vec![part(even), part(odd)]).unwrap();
    assert_eq!(merged, sorted);
    assert_eq!(merged.late, 0);
}

#[test]
fn long_gaps_cost_nothing_and_lines_of_another_century_do_no_harm() {
    let config = to_pool(vec![group("pool", &[("10.0.0.1:5060", 1, 50)])]);
    let mut lines = ten_minutes(100_000);
    lines[0].at_unix = Duration::from_secs(1);
    lines[5].at_unix = Duration::from_secs(4_000_000_000);
    lines[5].elapsed = Duration::from_secs(u64::from(u32::MAX));
    let report = replay(&config, &["10.0.0.1@2030-01-01T00:00:00Z-2031-01-01T00:00:00Z"], &lines);
    assert_eq!((report.requests, share(&report, "10.0.0.1:5060").after, report.new_failures), (6, 6, 0));
}

#[test]
fn the_table_for_people() {
    let mut pool = group("pool", &[("10.0.0.1:5060", 1, 75), ("10.0.0.2:5060", 1, 25)]);
    pool.fallback = Some("spare".into());
    let rules = vec![
        rule("block", vec![Condition::UserPrefix("+155500".into())], Action::Reject { code: 403, reason: None }),
        rule("calls", vec![], Action::Group("pool".into())),
    ];
    let config = config(vec![pool, group("spare", &[("10.0.0.9:5060", 1, 50)])], rules);
    let mut log = text(&ten_minutes(500));
    log.push_str("half a line");
    let report = replay_texts(&config, &["10.0.0.1:5060@10:05-10:07", "pool/*@10:08"], vec![log]).unwrap();
    insta::assert_snapshot!(report.to_string());
    let document = serde_json::to_value(&report).unwrap();
    assert_eq!(document["from"], "2023-11-14T10:00:00.000Z");
    assert_eq!(document["routes"][0]["would_be"], "block: reject 403");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn shares_sum_up_to_the_requests(
        calls in proptest::collection::vec((0u64..600_000, 0u64..200_000, 0u8..4, prop::sample::select(vec![200u16, 404, 486, 503, 408, 302]), 0u8..5), 1..150),
        weights in proptest::collection::vec((1u16..3, 0u16..4, prop::option::of(1u32..3)), 1..4),
        from in 0u64..9,
    ) {
        let lines: Vec<RequestDone> = calls.iter().enumerate().map(|(number, (at, elapsed, to, status, kind))| {
            let mut line = call(number as u64, *at);
            line.elapsed = Duration::from_millis(*elapsed);
            line.status = *status;
            match kind {
                0 => (line.rule, line.group, line.element, line.cause) = (None, None, None, "no-route".into()),
                1 => line.method = "OPTIONS".into(),
                2 => line.cause = "timeout".into(),
                _ => line.element = Some(format!("10.0.0.{to}:5060")),
            }
            line
        }).collect();
        let mut pool = group("pool", &[]);
        pool.elements = weights.iter().enumerate().map(|(number, (priority, weight, rate))| {
            let mut element = element(&format!("10.0.0.{}:5060", number + 1), *priority, *weight);
            element.calls_per_second = *rate;
            element
        }).collect();
        let config = to_pool(vec![pool]);
        let down = format!("10.0.0.1:5060@10:0{from}");
        let report = replay(&config, &[&down], &lines);
        prop_assert_eq!(report.elements.iter().map(|row| row.before).sum::<u64>(), report.requests);
        prop_assert_eq!(report.elements.iter().map(|row| row.after).sum::<u64>(), report.requests);
        prop_assert_eq!(report.failures.iter().map(|row| row.requests).sum::<u64>(), report.new_failures);
        prop_assert_eq!(report.failed_after + report.healed, report.failed_before + report.new_failures);
        prop_assert_eq!(report.same_route + report.routes.iter().map(|row| row.requests).sum::<u64>(), report.requests);
        prop_assert_eq!(replay(&config, &[&down], &lines), report);
    }
}
