//! Protection: strangers, scanners, too much at once. Nobody gets more out of the proxy than he put in.

mod rig;

use std::time::Duration;

use ferric_proxy::ProxyConfig;
use ferric_sip::validate::Reject;
use rig::{Bench, CALLER, ack_to, by_uri, call, element, grouped, parse_bytes, request, request_as};

const PEER: &str = "192.168.2.1:5060";
const STRANGER: &str = "203.0.113.7:5060";

#[test]
fn strangers_get_nothing_of_the_proxy() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    for method in ["INVITE", "OPTIONS", "REGISTER", "BYE", "ACK", "CANCEL", "FROB"] {
        let taken = bench
            .put(STRANGER, request_as(&format!("z9hG4bKs{method}"), method, "sip:x@192.168.2.1", "Max-Forwards: 0\n"));
        assert!(!taken, "the recorder knows how to refuse");
    }
    bench.pass(Duration::from_secs(100));
    assert!(bench.sent.is_empty() && bench.done.is_empty(), "{:?}", bench.lines());
    assert_eq!(bench.proxy.transactions(), 0);
}

/// A recorder ends a call: nobody lists recorders among the SBCs.
#[test]
fn an_element_of_a_group_is_no_stranger() {
    let mut bench = Bench::new(grouped(vec![element(STRANGER, 1, 1)]));
    assert!(bench.put("203.0.113.7:40000", request_as("z9hG4bKown", "BYE", "sip:caller@192.168.1.10:5060", "")));
    assert!(!bench.put("203.0.113.8:5060", request_as("z9hG4bKother", "BYE", "sip:caller@192.168.1.10:5060", "")));
}

#[test]
fn responses_out_of_nowhere_are_no_way_through() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@192.168.2.1", ""));
    let sent = bench.to(PEER);
    bench.clear();
    // A callee that makes up responses which would go to somebody else.
    for status in [100, 200, 404] {
        for method in ["INVITE", "BYE", "CANCEL", "OPTIONS"] {
            let mut forged = rig::response_to(&sent, status);
            forged.set_header("CSeq", &format!("1 {method}"));
            forged.set_header(
                "Via",
                "SIP/2.0/UDP 192.168.0.5:5060;branch=z9hG4bKf-00000000000000000000000000000000deadbeef",
            );
            forged.add_header("Via", "SIP/2.0/UDP 203.0.113.99:5060;branch=z9hG4bKvictim");
            bench.put(STRANGER, parse_bytes(&forged));
        }
    }
    assert!(bench.sent.is_empty(), "{:?}", bench.lines());
}

#[test]
fn scanners_are_dropped_and_counted() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    for agent in ["friendly-scanner", "SIPVicious 0.3", "sipcli/v1", "VaxSIPUserAgent/3.1"] {
        let known = agent != "sipcli/v1";
        bench.clear();
        let before = bench.rejected.len();
        assert!(bench.put(
            CALLER,
            request_as(&format!("z9hG4bK{}", agent.len()), "OPTIONS", "sip:x@y", &format!("User-Agent: {agent}\n"))
        ));
        assert_eq!(bench.sent.is_empty(), known, "{agent}");
        assert_eq!(bench.rejected.len() - before, usize::from(known));
    }
    assert_eq!(bench.rejected[0], "scanner");
}

#[test]
fn too_many_requests_at_once_are_refused_and_told_when_to_come_back() {
    let mut bench = Bench::new(ProxyConfig { max_open: 8, ..grouped(vec![element(PEER, 1, 1)]) });
    for number in 0..9 {
        bench.put(CALLER, call(number, "INVITE", "sip:rec@x"));
    }
    let answer = bench.answered().message;
    assert_eq!((answer.status(), answer.header("Retry-After").unwrap().as_ref()), (Some(503), "1"));
    assert_eq!((bench.proxy.open(), bench.done[0].side), (8, "overload"));
    // What belongs to a running call still comes through, up to a limit of its own.
    for number in 0..5 {
        let bye = request_as(&format!("z9hG4bKb{number}"), "BYE", "sip:x@192.168.2.1", "To: <sip:x@y>;tag=1\n");
        bench.put(CALLER, bye);
    }
    assert_eq!(bench.proxy.open(), 10);
    assert_eq!(bench.done.len(), 1 + 3);
    bench.settles();
}

#[test]
fn too_many_new_calls_a_second_are_refused_and_other_requests_are_not() {
    let mut bench = Bench::new(ProxyConfig { calls_per_second: Some(5), ..grouped(vec![element(PEER, 1, 1)]) });
    for number in 0..20 {
        bench.put(CALLER, call(number, "INVITE", "sip:rec@x"));
    }
    assert_eq!(bench.statuses(), [503; 15]);
    for sent in std::mem::take(&mut bench.sent) {
        bench.answer(&sent, 180);
    }
    bench.clear();
    bench.put(CALLER, call(100, "MESSAGE", "sip:rec@x"));
    assert_eq!(bench.statuses(), []);
    let sent = bench.to(PEER);
    bench.answer(&sent, 200);
    bench.pass_ms(1_000);
    bench.put(CALLER, call(101, "INVITE", "sip:rec@x"));
    assert_eq!(bench.proxy.open(), 6);
}

#[test]
fn one_that_is_refused_costs_a_transaction_and_no_more() {
    let mut bench = Bench::new(ProxyConfig { calls_per_second: Some(0), ..grouped(vec![element(PEER, 1, 1)]) });
    let invite = call(1, "INVITE", "sip:rec@x");
    bench.put(CALLER, invite.clone());
    let answer = bench.answered();
    bench.put(CALLER, ack_to(&invite, &answer));
    bench.pass(Duration::from_secs(6));
    assert!(bench.sent.is_empty());
    assert!(bench.proxy.tables().iter().all(|(_, count)| *count == 0), "{:?}", bench.proxy.tables());
}

#[test]
fn a_full_table_of_transactions_refuses_and_says_who_asked() {
    let mut bench = Bench::new(by_uri());
    for number in 0..10_000 {
        bench.put(CALLER, call(number, "OPTIONS", "sip:x@y.example.org"));
        bench.clear();
    }
    bench.put(CALLER, call(10_001, "OPTIONS", "sip:x@y.example.org"));
    assert_eq!(bench.statuses(), [503]);
    assert_eq!(bench.rejected, ["transactions"]);
    assert_eq!(bench.proxy.open(), 10_000);
}

#[test]
fn who_drains_takes_no_new_calls_and_ends_what_runs() {
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    bench.put(CALLER, call(1, "INVITE", "sip:rec@x"));
    let sent = bench.to(PEER);
    bench.proxy.set_draining(true);
    bench.clear();
    bench.put(CALLER, call(2, "INVITE", "sip:rec@x"));
    assert_eq!(bench.statuses(), [503]);
    bench.answer(&sent, 200);
    bench.put(CALLER, request_as("z9hG4bKbye", "BYE", "sip:rec@192.168.2.1", "To: <sip:x@y>;tag=at5060\n"));
    let bye = bench.sent.iter().rposition(|sent| sent.line().starts_with("BYE")).unwrap();
    let bye = bench.sent.remove(bye).unwrap();
    bench.answer(&bye, 200);
    assert_eq!(bench.statuses(), [200, 200]);
}

#[test]
fn answers_to_a_flood_are_smaller_than_the_flood() {
    // Every request that is refused gets one answer, with nothing in it that the request did not have but a tag and a reason.
    let mut bench = Bench::new(ProxyConfig { calls_per_second: Some(0), ..by_uri() });
    for number in 0..100 {
        let message = call(number, "OPTIONS", "foo:bar");
        let size = message.to_bytes().len();
        bench.put(CALLER, message);
        let answer = bench.answered().message;
        assert!(answer.to_bytes().len() < size + 60, "{} for {size}", answer.to_bytes().len());
        assert!(bench.sent.is_empty());
    }
    bench.pass(Duration::from_secs(60));
    assert!(bench.sent.is_empty(), "and not again by itself");
}

/// Asks everybody for a password.
#[derive(Debug)]
struct Doorman;

impl ferric_proxy::Location for Doorman {
    fn register(
        &mut self,
        _: std::time::Instant,
        _: u64,
        request: &ferric_sip::Message,
        _: &ferric_sip::Flow,
    ) -> ferric_sip::Message {
        ferric_sip::Message::response(request, 200, None)
    }

    fn challenge(&mut self, _: u64, request: &ferric_sip::Message, _: &ferric_sip::Flow) -> Option<Reject> {
        request.header("Authorization").is_none().then(|| Reject::new(401))
    }

    fn lookup(&self, _: std::time::Instant, _: &ferric_sip::Uri) -> Option<Vec<ferric_proxy::Contact>> {
        None
    }

    fn authenticate(
        &mut self,
        _: std::time::Instant,
        _: u64,
        request: &ferric_sip::Message,
        _: &ferric_sip::Flow,
    ) -> Option<ferric_sip::Message> {
        Some(ferric_sip::Message::response(request, 407, None))
    }

    fn flow_failed(&mut self, _: std::time::Instant, _: &ferric_sip::Flow) {}

    fn poll_timeout(&mut self) -> Option<std::time::Instant> {
        None
    }

    fn handle_timeout(&mut self, _: std::time::Instant) {}
}

#[test]
fn a_route_is_no_way_around_the_password_and_the_limits() {
    let config = || ProxyConfig {
        authenticate: true,
        domains: vec!["example.net".into()],
        ..grouped(vec![element(PEER, 1, 1)])
    };
    let with_route = "Route: <sip:recorders.example.com;lr>\n";
    let mut bench = Bench::new(config());
    bench.proxy.set_location(Some(Box::new(Doorman)));
    bench.put(CALLER, request("INVITE", "sip:+1900@example.net", with_route));
    assert_eq!(bench.answered().message.status(), Some(407));
    // Without anybody who could tell a password nobody gets through.
    let mut bench = Bench::new(config());
    bench.put(CALLER, request("INVITE", "sip:+1900@example.net", with_route));
    assert_eq!(bench.answered().message.status(), Some(503));
    let mut bench = Bench::new(ProxyConfig { calls_per_second: Some(1), ..grouped(vec![element(PEER, 1, 1)]) });
    for n in 0..2 {
        bench.put(CALLER, request_as(&format!("z9hG4bKr{n}"), "INVITE", "sip:+1900@example.net", with_route));
    }
    let refused = bench.sent.iter().filter(|sent| sent.message.status() == Some(503)).count();
    assert_eq!(refused, 1, "{:?}", bench.lines());
}

#[test]
fn rfc3261_8_2_7_who_registers_without_a_password_is_asked_for_it_and_nothing_is_kept() {
    let mut bench = Bench::new(ProxyConfig { domains: vec!["example.net".into()], ..rig::config() });
    bench.proxy.set_location(Some(Box::new(Doorman)));
    let register = |branch: &str, more: &str| {
        let via = format!("Via: SIP/2.0/UDP 192.168.1.10:5060;branch={branch};rport\n");
        rig::parse(&format!(
            "REGISTER sip:example.net SIP/2.0\n{via}From: <sip:a@example.net>;tag=1\nTo: <sip:a@example.net>\n\
             Call-ID: r\nCSeq: 1 REGISTER\n{more}\n"
        ))
    };
    let mut tags = Vec::new();
    for branch in ["z9hG4bKr1", "z9hG4bKr1", "z9hG4bKr2"] {
        bench.put(CALLER, register(branch, ""));
        let asked = bench.answered().message;
        assert_eq!(asked.status(), Some(401));
        assert_eq!(
            asked.top_via().unwrap().params.get("received"),
            Some("192.168.1.10"),
            "{}",
            asked.top_via().unwrap()
        );
        tags.push(asked.to().unwrap().tag().unwrap().to_owned());
        assert_eq!(bench.proxy.transactions(), 0);
    }
    assert!(tags[0] == tags[1] && tags[1] != tags[2], "{tags:?}");
    let done: Vec<_> = bench.done.iter().map(|done| (done.method.as_str(), done.status, done.side)).collect();
    assert_eq!(done, [("REGISTER", 401, "registrar"); 3]);
    bench.put(CALLER, register("z9hG4bKr3", "Authorization: Digest x=y\n"));
    assert_eq!((bench.answered().message.status(), bench.proxy.transactions()), (Some(200), 1));
}

/// A made-up To tag, as of somebody who wants to be taken for part of a call.
fn forged(branch: &str, method: &str, uri: &str, more: &str) -> ferric_sip::Message {
    request_as(branch, method, uri, &format!("To: <sip:x@y>;tag=made-up\n{more}"))
}

/// Phones of example.net with passwords, and gateways that one rule keeps from them.
fn guarded(record_route: bool) -> ProxyConfig {
    use ferric_proxy::routing::{Action, Condition, RouteTable};
    let dear = rig::rule(vec![Condition::UserPrefix("+1900".into())], Action::Reject { code: 403, reason: None });
    let all = rig::rule(vec![], Action::Group("recorders.example.com".into()));
    ProxyConfig {
        authenticate: true,
        record_route,
        domains: vec!["example.org".into()],
        routes: RouteTable::new(vec![dear, all]),
        ..grouped(vec![element(PEER, 1, 1)])
    }
}

#[test]
fn a_made_up_tag_is_no_way_around_password_rules_and_rate() {
    for method in ["INVITE", "SUBSCRIBE", "REFER", "MESSAGE", "OPTIONS"] {
        let mut bench = Bench::new(guarded(false));
        bench.put(CALLER, forged("z9hG4bKf1", method, "sip:+1900@192.168.2.1", ""));
        assert_eq!(bench.answered().message.status(), Some(403), "{method} by the rules");
        bench.put(
            CALLER,
            forged("z9hG4bKf2", method, "sip:+1900@192.168.2.1", "Route: <sip:192.168.0.5;lr;in=00000000>\n"),
        );
        assert_eq!(bench.answered().message.status(), Some(403), "{method} with a Route of ours that is none");
        let mut bench = Bench::new(ProxyConfig { domains: vec!["example.net".into()], ..guarded(false) });
        bench.proxy.set_location(Some(Box::new(Doorman)));
        bench.put(CALLER, forged("z9hG4bKf3", method, "sip:x@192.168.2.1", ""));
        assert_eq!(bench.answered().message.status(), Some(407), "{method} with a password");
    }
    let mut bench = Bench::new(ProxyConfig { calls_per_second: Some(1), ..by_uri() });
    for n in 0..3 {
        bench.put(CALLER, forged(&format!("z9hG4bKr{n}"), "INVITE", "sip:x@192.168.2.1", ""));
    }
    assert_eq!(bench.statuses(), [503, 503]);
}

/// What belongs to a call, and shows it, comes through from both sides: also to numbers that no rule lets call.
#[test]
fn a_call_that_began_here_goes_on() {
    for (record_route, restarted) in [(false, false), (true, false), (true, true)] {
        let mut bench = Bench::new(guarded(record_route));
        bench.proxy = std::mem::replace(&mut bench.proxy, Bench::new(guarded(record_route)).proxy).with_secret(5);
        bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
        let sent = bench.to(PEER);
        bench.answer(&sent, 200);
        let ok = bench.answered();
        let routes: String =
            ok.message.values("Record-Route").iter().map(|value| format!("Route: {value}\n")).collect();
        assert_eq!(routes.contains(";in="), record_route);
        if restarted {
            bench.proxy = Bench::new(guarded(record_route)).proxy.with_secret(5);
        }
        bench.clear();
        // The contact of the other side is not one that a call could begin to.
        let again = |branch: &str, to_tag: &str, routes: &str| {
            let more = format!("To: <sip:rec@x>;tag={to_tag}\n{routes}");
            request_as(branch, "INVITE", "sip:+1900@192.168.2.9", &more)
        };
        bench.put(CALLER, again("z9hG4bKg1", "at5060", &routes));
        assert_eq!(bench.to("192.168.2.9:5060").line(), "INVITE sip:+1900@192.168.2.9", "{record_route} {restarted}");
        if !record_route {
            bench.clear();
            bench.put(CALLER, again("z9hG4bKg2", "made-up", &routes));
            assert_eq!(bench.answered().message.status(), Some(403), "the tags count, not the Call-ID");
        }
        // From the other side, which is a phone somewhere.
        let mut back = request_as("z9hG4bKg3", "INVITE", "sip:+1900@192.168.1.10", &routes);
        back.set_header("From", "<sip:rec@x>;tag=at5060");
        back.set_header("To", "<sip:caller@example.net>;tag=c1");
        bench.clear();
        bench.put("192.168.7.7:5060", parse_bytes(&back));
        assert!(bench.sent.iter().any(|sent| sent.line().starts_with("INVITE")), "{:?}", bench.lines());
    }
}

#[test]
fn a_call_that_is_over_proves_nothing_and_an_element_is_believed() {
    let mut bench = Bench::new(guarded(false));
    bench.put(CALLER, request("INVITE", "sip:rec@x", ""));
    let sent = bench.to(PEER);
    bench.answer(&sent, 200);
    let within =
        |method: &str, branch: &str, uri: &str| request_as(branch, method, uri, "To: <sip:rec@x>;tag=at5060\n");
    bench.put(CALLER, within("BYE", "z9hG4bKb1", "sip:rec@192.168.2.1"));
    let bye = loop {
        let sent = bench.next_request();
        if sent.line().starts_with("BYE") {
            break sent;
        }
    };
    bench.answer(&bye, 200);
    bench.clear();
    bench.put(CALLER, within("INVITE", "z9hG4bKb2", "sip:+1900@192.168.2.1"));
    assert_eq!(bench.answered().message.status(), Some(403));
    bench.clear();
    bench.put(PEER, forged("z9hG4bKb3", "INVITE", "sip:+1900@192.168.2.9", ""));
    assert_eq!(bench.to("192.168.2.9:5060").line(), "INVITE sip:+1900@192.168.2.9");
}
