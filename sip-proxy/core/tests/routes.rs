//! Rules: every condition and every action, and what the explanation says.

mod rig;

use ferric_proxy::ProxyConfig;
use ferric_proxy::routing::{Action, Condition, Incoming, Rewrite, RouteTable, Rule};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use regex::Regex;
use rig::{Bench, CALLER, US, address, bob_at, call, config, contact, element, group, request, request_as, rule};

const MARK: Action = Action::Reject { code: 488, reason: None };

fn holds(condition: Condition, message: &Message) -> bool {
    let mut bench = Bench::new(ProxyConfig { routes: RouteTable::new(vec![rule(vec![condition], MARK)]), ..config() });
    bench.put(CALLER, message.clone());
    bench.statuses() == [488]
}

#[test]
fn each_condition_holds_and_fails() {
    let message =
        request("INVITE", "sip:+4922112345@pbx.Example.com", "X-Tenant: gold\nX-Tenant: silver, blue\nSubject: hi\n");
    let regex = |text: &str| Regex::new(text).unwrap();
    for (condition, expected) in [
        (Condition::Method(vec!["MESSAGE".into(), "INVITE".into()]), true),
        (Condition::Method(vec!["invite".into()]), false),
        (Condition::User(regex(r"^\+49221")), true),
        (Condition::User(regex("^49")), false),
        (Condition::UserPrefix("+49".into()), true),
        (Condition::UserPrefix("49".into()), false),
        (Condition::Domain("PBX.example.COM".into()), true),
        (Condition::Domain("*.example.com".into()), true),
        (Condition::Domain("example.com".into()), false),
        (Condition::From(regex("^sip:caller@")), true),
        (Condition::From(regex("bob")), false),
        (Condition::Source("192.168.1.0/24".parse().unwrap()), true),
        (Condition::Source("192.168.2.0/24".parse().unwrap()), false),
        (Condition::Listener(Transport::Udp, address(US)), true),
        (Condition::Listener(Transport::Tcp, address(US)), false),
        (Condition::Header("x-tenant".into(), None), true),
        (Condition::Header("x-tenant".into(), Some(regex("blue"))), true),
        (Condition::Header("X-Tenant".into(), Some(regex("^bronze"))), false),
        (Condition::Header("X-Other".into(), None), false),
        (Condition::Header("s".into(), None), true),
        (Condition::Recording(false), true),
        (Condition::Recording(true), false),
    ] {
        assert_eq!(holds(condition.clone(), &message), expected, "{condition:?}");
    }
    let recording = request("INVITE", "sip:x@y", "Require: siprec\n");
    assert!(holds(Condition::Recording(true), &recording));
    let escaped = request("INVITE", "sip:%2B49@y", "");
    assert!(holds(Condition::UserPrefix("+49".into()), &escaped), "19.1.4: escaped or not");
    let number = request("INVITE", "tel:+49-221-(123).45;ext=7", "To: <sip:x@y>\n");
    assert!(holds(Condition::User(regex(r"^\+4922112345$")), &number), "without separators and parameters");
}

#[test]
fn all_conditions_must_hold_and_the_first_rule_decides() {
    let rules = vec![
        rule(
            vec![Condition::Method(vec!["INVITE".into()]), Condition::UserPrefix("1".into())],
            Action::Reject { code: 401, reason: Some("First".into()) },
        ),
        rule(vec![Condition::UserPrefix("1".into())], Action::Reject { code: 402, reason: None }),
        rule(vec![], Action::Reject { code: 403, reason: None }),
        rule(vec![], Action::Reject { code: 404, reason: None }),
    ];
    let mut bench = Bench::new(ProxyConfig { routes: RouteTable::new(rules), ..config() });
    bench.put(CALLER, call(1, "INVITE", "sip:1@x"));
    bench.put(CALLER, call(2, "MESSAGE", "sip:1@x"));
    bench.put(CALLER, call(3, "INVITE", "sip:2@x"));
    assert_eq!(bench.sent[0].message.reason().unwrap(), "First");
    assert_eq!(bench.statuses(), [401, 402, 403]);
    assert_eq!(bench.done[0].rule.as_deref(), Some("to reject 401"));
}

#[test]
fn each_action_leads_where_it_says() {
    let acts = |action: Action| {
        let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1", 1_000)]);
        let groups = vec![group(vec![element("192.168.2.1:5060", 1, 1)])];
        let now = bench.now;
        let routes = RouteTable::new(vec![rule(vec![], action)]);
        bench.proxy.apply(now, ProxyConfig { groups, routes, domains: vec!["example.com".into()], ..config() });
        let taken = bench.put(CALLER, request("INVITE", "sip:bob@192.168.9.9", ""));
        (bench, taken)
    };
    let (mut bench, _) = acts(Action::Group("recorders.example.com".into()));
    assert_eq!(bench.next_request().to, address("192.168.2.1:5060"));
    let (mut bench, _) = acts(Action::Group("missing.example.com".into()));
    assert_eq!(bench.statuses(), [500]);
    let (mut bench, _) = acts(Action::Uri("sip:192.168.8.8:5070".into()));
    assert_eq!(bench.next_request().to, address("192.168.8.8:5070"));
    let (mut bench, _) = acts(Action::Uri("sip:recorders.example.com".into()));
    assert_eq!(bench.next_request().to, address("192.168.2.1:5060"), "a group's name is the group");
    let (mut bench, _) = acts(Action::RequestUri);
    assert_eq!(bench.next_request().to, address("192.168.9.9:5060"));
    let (mut bench, _) = acts(Action::Registrar);
    assert_eq!(bench.next_request().line(), "INVITE sip:bob@192.168.3.1");
    let (bench, taken) = acts(Action::Srs);
    assert!(!taken && bench.sent.is_empty());
    let (mut bench, _) = acts(Action::Reject { code: 607, reason: Some("Not \u{e4}t all".into()) });
    assert_eq!(bench.statuses(), [607]);
    let (mut bench, _) = acts(Action::Redirect("sip:else@192.0.2.1".into()));
    let answer = bench.answered().message;
    assert_eq!((answer.status(), answer.header("Contact").unwrap().as_ref()), (Some(302), "<sip:else@192.0.2.1>"));
}

#[test]
fn what_is_within_a_dialog_asks_no_rule() {
    let mut bench = Bench::new(ProxyConfig { routes: RouteTable::new(vec![rule(vec![], MARK)]), ..config() });
    bench.put(CALLER, request("BYE", "sip:x@192.168.2.1", "To: <sip:x@y>;tag=1\n"));
    assert_eq!(bench.next_request().line(), "BYE sip:x@192.168.2.1");
    bench.put(CALLER, request_as("z9hG4bKr", "OPTIONS", "sip:x@y", "Route: <sip:192.168.2.2;lr>\n"));
    assert_eq!(bench.next_request().to, address("192.168.2.2:5060"), "nor what brings its own route");
}

#[test]
fn numbers_are_rewritten_before_they_leave() {
    let rewrite = Rewrite { strip: 1, prefix: "+49".into(), ..Rewrite::default() };
    let rules = vec![Rule {
        name: "national".into(),
        conditions: vec![Condition::UserPrefix("0".into())],
        rewrite,
        action: Action::Group("recorders.example.com".into()),
    }];
    let groups = vec![group(vec![element("192.168.2.1:5060", 1, 1), element("192.168.2.2:5060", 2, 1)])];
    let mut bench = Bench::new(ProxyConfig { groups, routes: RouteTable::new(rules), ..config() });
    bench.put(CALLER, request("INVITE", "sip:0221@x;user=phone", ""));
    let sent = bench.next_request();
    assert_eq!(sent.line(), "INVITE sip:+49221@x;user=phone");
    bench.unreachable(&sent);
    assert_eq!(bench.next_request().line(), "INVITE sip:+49221@x;user=phone", "and so at the next element");
    // To another host, whose name is looked up.
    let rewrite = Rewrite { host: Some("gw.example.net:5070".into()), ..Rewrite::default() };
    let rules = vec![Rule { name: "out".into(), conditions: vec![], rewrite, action: Action::RequestUri }];
    let mut bench = Bench::new(ProxyConfig { routes: RouteTable::new(rules), ..config() });
    bench.put(CALLER, request("INVITE", "tel:+15550100", "To: <tel:+15550100>\n"));
    let (ticket, target) = bench.asked.pop_front().unwrap();
    assert_eq!((target.host.as_str(), target.port), ("gw.example.net", Some(5_070)));
    bench.located(ticket, &[("192.168.7.7:5070", Transport::Udp)]);
    assert_eq!(bench.next_request().line(), "INVITE sip:+15550100@gw.example.net:5070;user=phone");
}

#[test]
fn the_explanation_walks_as_the_decision_does() {
    let rules = vec![
        rule(
            vec![Condition::Method(vec!["REGISTER".into()]), Condition::UserPrefix("never seen".into())],
            Action::Registrar,
        ),
        rule(
            vec![
                Condition::UserPrefix("1".into()),
                Condition::Header("X-Tenant".into(), Some(Regex::new("gold").unwrap())),
            ],
            MARK,
        ),
        rule(
            vec![Condition::Domain("*.example.com".into()), Condition::Source("192.168.0.0/16".parse().unwrap())],
            Action::RequestUri,
        ),
        rule(vec![], Action::Srs),
    ];
    let table = RouteTable::new(rules);
    let message = request("INVITE", "sip:123@pbx.example.com", "X-Tenant: silver\n");
    let uri = Uri::parse("sip:123@pbx.example.com").unwrap();
    let flow = Flow { transport: Transport::Udp, local: address(US), remote: address(CALLER), connection: 0 };
    let subject = Incoming { message: &message, uri: &uri, flow: &flow, is_recording: rig::is_recording(&message) };
    let traces = table.explain(&subject);
    let text: Vec<String> =
        traces
            .iter()
            .flat_map(|trace| {
                let head = format!("{}: {}", trace.rule, if trace.matched { "this one" } else { "no" });
                std::iter::once(head).chain(trace.conditions.iter().map(|seen| {
                    format!("  {} {}: saw {}", if seen.holds { "+" } else { "-" }, seen.condition, seen.saw)
                }))
            })
            .collect();
    insta::assert_snapshot!(text.join("\n"));
    assert_eq!(table.route(&subject).unwrap().name, traces.last().unwrap().rule);
}
