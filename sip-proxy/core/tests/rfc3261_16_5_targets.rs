//! RFC 3261 16.5 and 19: what kinds of targets there are, and where they lead.

mod rig;

use ferric_proxy::routing::Action;
use ferric_proxy::{Contact, Fork, LocateTarget, ProxyConfig};
use ferric_sip::flow::{Flow, Transport};
use rig::{Bench, CALLER, US, address, all_to, bob_at, by_uri, call, config, contact, element, grouped, request};

#[test]
fn addresses_in_a_uri_are_gone_to_without_dns() {
    for (uri, to, transport) in [
        ("sip:x@192.168.2.1", "192.168.2.1:5060", Transport::Udp),
        ("sip:x@192.168.2.1:5090", "192.168.2.1:5090", Transport::Udp),
        ("sip:x@192.168.2.1;transport=TCP", "192.168.2.1:5060", Transport::Tcp),
        ("sip:x@192.168.2.1;transport=tls", "192.168.2.1:5061", Transport::Tls),
        ("sips:x@192.168.2.1", "192.168.2.1:5061", Transport::Tls),
        ("sips:x@192.168.2.1;transport=tcp", "192.168.2.1:5061", Transport::Tls),
        ("sip:x@[fd00::9]", "[fd00::9]:5060", Transport::Udp),
        ("sip:x@[fd00::9]:5070;transport=udp", "[fd00::9]:5070", Transport::Udp),
    ] {
        let mut bench = Bench::new(by_uri());
        bench.put(CALLER, request("OPTIONS", uri, ""));
        let sent = bench.to(to);
        assert_eq!((sent.transport, sent.line()), (transport, format!("OPTIONS {uri}")), "{uri}");
        assert!(bench.asked.is_empty());
    }
}

#[test]
fn names_are_looked_up_with_what_the_uri_says() {
    let target = |host: &str, port, transport, secure| LocateTarget { host: host.into(), port, transport, secure };
    for (uri, asked) in [
        ("sip:x@example.org", target("example.org", None, None, false)),
        ("sip:x@example.org:5070", target("example.org", Some(5_070), None, false)),
        ("sip:x@example.org;transport=tcp", target("example.org", None, Some(Transport::Tcp), false)),
        ("sips:x@example.org", target("example.org", None, Some(Transport::Tls), true)),
    ] {
        let mut bench = Bench::new(by_uri());
        bench.put(CALLER, request("OPTIONS", uri, ""));
        assert_eq!(bench.asked.pop_front().unwrap().1, asked, "{uri}");
    }
}

#[test]
fn a_transport_that_is_not_spoken_is_said_so() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("OPTIONS", "sip:x@192.168.2.1;transport=sctp", ""));
    assert_eq!(bench.statuses(), [500]);
}

#[test]
fn sips_never_goes_by_udp() {
    for uri in ["sips:x@192.168.2.1;transport=udp", "sips:x@example.org;transport=UDP"] {
        let mut bench = Bench::new(by_uri());
        bench.put(CALLER, request("OPTIONS", uri, ""));
        assert_eq!(bench.statuses(), [500], "{uri}");
        assert!(bench.asked.is_empty());
    }
}

#[test]
fn an_ipv6_caller_is_answered_over_ipv6() {
    let mut bench = Bench::new(by_uri());
    let text = "INVITE sip:x@[fd00::9] SIP/2.0\nVia: SIP/2.0/UDP [fd00::10]:5060;branch=z9hG4bKsix;rport\nMax-Forwards: 70\n\
        From: <sip:a@[fd00::10]>;tag=1\nTo: <sip:x@[fd00::9]>\nCall-ID: six\nCSeq: 1 INVITE\nContent-Length: 0\n\n";
    bench.text("[fd00::10]:5060", text);
    assert_eq!(bench.to("[fd00::10]:5060").line(), "100");
    let sent = bench.to("[fd00::9]:5060");
    let vias = sent.message.values("Via");
    assert!(vias[0].starts_with("SIP/2.0/UDP [fd00::5]:5060;branch="), "{vias:?}");
    assert!(vias[1].contains("received=fd00::10"), "{vias:?}");
    bench.answer(&sent, 200);
    assert_eq!(bench.to("[fd00::10]:5060").line(), "200");
}

#[test]
fn from_ipv4_to_ipv6_both_sides_are_recorded() {
    let mut bench = Bench::new(ProxyConfig { record_route: true, ..by_uri() });
    bench.put(CALLER, request("INVITE", "sip:x@[fd00::9]", ""));
    assert_eq!(
        bench.to("[fd00::9]:5060").message.values("Record-Route"),
        ["<sip:[fd00::5]:5060;lr;twin>", "<sip:192.168.0.5:5060;lr;twin>"]
    );
}

#[test]
fn numbers_go_where_rules_send_them() {
    let mut bench = Bench::new(grouped(vec![element("192.168.2.1:5060", 1, 1)]));
    bench.put(CALLER, request("INVITE", "tel:+1-555-0100;phone-context=example.com", "To: <tel:+15550100>\n"));
    assert_eq!(bench.to("192.168.2.1:5060").line(), "INVITE tel:+1-555-0100;phone-context=example.com", "untouched");
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "tel:+15550100", "To: <tel:+15550100>\n"));
    assert_eq!(bench.statuses(), [416], "it names no place");
    let mut bench = Bench::new(config());
    bench.put(CALLER, request("INVITE", "tel:+15550100", "To: <tel:+15550100>\n"));
    assert_eq!(bench.statuses(), [404], "without a rule");
}

#[test]
fn without_a_rule_strangers_are_not_found_and_we_are() {
    let mut bench = Bench::new(config());
    bench.put(CALLER, request("INVITE", "sip:x@example.org", ""));
    assert_eq!(bench.statuses(), [404]);
    for message in [
        call(2, "OPTIONS", &format!("sip:{US}")),
        call(3, "INVITE", "sip:srs@192.168.0.5"),
        rig::request_as("z9hG4bKrec", "INVITE", "sip:x@example.org", "Require: siprec\n"),
    ] {
        assert!(!bench.put(CALLER, message), "for the recorder");
    }
    assert!(bench.sent.is_empty());
}

#[test]
fn the_name_of_a_group_leads_to_it_in_any_case() {
    let mut bench = Bench::new(ProxyConfig {
        routes: ferric_proxy::routing::RouteTable::default(),
        ..grouped(vec![element("192.168.2.1:5060", 1, 1)])
    });
    bench.put(CALLER, request("INVITE", "sip:x@Recorders.EXAMPLE.com", ""));
    assert_eq!(bench.to("192.168.2.1:5060").line(), "INVITE sip:x@Recorders.EXAMPLE.com");
}

#[test]
fn a_user_who_is_nowhere_and_one_whom_nobody_knows() {
    let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1", 1_000)]);
    bench.put(CALLER, request("INVITE", "sip:nowhere@example.com", ""));
    assert_eq!(bench.statuses(), [480]);
    bench.put(CALLER, call(2, "INVITE", "sip:stranger@example.com"));
    assert_eq!(bench.statuses(), [404]);
}

#[test]
fn contacts_of_a_user_are_tried_by_q() {
    let mut bench = bob_at(vec![
        contact("sip:bob@192.168.3.1", 500),
        contact("sip:bob@192.168.3.2;x=y", 1_000),
        contact("sip:bob@192.168.3.3", 500),
    ]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let best = bench.next_request();
    assert_eq!(best.line(), "INVITE sip:bob@192.168.3.2;x=y");
    assert!(bench.sent.iter().all(|sent| !sent.message.is_request()));
    bench.answer(&best, 480);
    bench.to("192.168.3.2:5060");
    assert_eq!(bench.next_request().line(), "INVITE sip:bob@192.168.3.1");
    assert_eq!(bench.next_request().line(), "INVITE sip:bob@192.168.3.3");
}

#[test]
fn one_by_one_when_so_configured() {
    let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1", 1_000), contact("sip:bob@192.168.3.2", 1_000)]);
    let now = bench.now;
    bench.proxy.apply(now, ProxyConfig { domains: vec!["example.com".into()], fork: Fork::Sequential, ..config() });
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let first = bench.next_request();
    assert!(bench.sent.iter().all(|sent| !sent.message.is_request()));
    bench.answer(&first, 486);
    bench.to("192.168.3.1:5060");
    let second = bench.next_request();
    bench.answer(&second, 200);
    assert_eq!(bench.statuses(), [200]);
}

#[test]
fn a_contact_is_fit_for_a_request_line() {
    let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1;method=INVITE;x=y?Subject=hello", 1_000)]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    assert_eq!(bench.next_request().line(), "INVITE sip:bob@192.168.3.1;x=y");
}

#[test]
fn a_contact_with_a_path_is_reached_along_it() {
    // RFC 3327 5.1
    let path = vec!["<sip:192.168.4.1;lr>".to_owned(), "<sip:p2.example.com;lr>".to_owned()];
    let mut bench = bob_at(vec![Contact { path, ..contact("sip:bob@10.9.9.9", 1_000) }]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", "Route: <sip:192.168.0.5;lr>\n"));
    let sent = bench.to("192.168.4.1:5060");
    assert_eq!(sent.line(), "INVITE sip:bob@10.9.9.9");
    assert_eq!(sent.message.values("Route"), ["<sip:192.168.4.1;lr>", "<sip:p2.example.com;lr>"]);
}

#[test]
fn a_contact_with_a_flow_is_reached_over_it_or_not_at_all() {
    let flow =
        Flow { transport: Transport::Tcp, local: address(US), remote: address("192.168.3.1:40000"), connection: 77 };
    let mut bench = bob_at(vec![Contact { flow: Some(flow), ..contact("sip:bob@10.9.9.9:5060;transport=tcp", 1_000) }]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let sent = bench.to("192.168.3.1:40000");
    assert_eq!(sent.line(), "INVITE sip:bob@10.9.9.9:5060;transport=tcp");
    let now = bench.now;
    bench.proxy.handle_transport_error(now, flow);
    bench.collect();
    assert_eq!(bench.statuses(), [500]);
    bench.put(CALLER, call(2, "INVITE", "sip:bob@example.com"));
    assert_eq!(bench.statuses(), [480], "its registration went with the connection");
}

#[test]
fn a_rule_to_a_uri_changes_the_next_hop_only() {
    let mut bench =
        Bench::new(ProxyConfig { routes: all_to(Action::Uri("sip:192.168.2.1;transport=tcp".into())), ..config() });
    bench.put(CALLER, request("INVITE", "sip:x@example.org", ""));
    let sent = bench.to("192.168.2.1:5060");
    assert_eq!((sent.transport, sent.line().as_str()), (Transport::Tcp, "INVITE sip:x@example.org"));
}

#[test]
fn a_contact_without_a_connection_is_reached_over_the_transport_that_it_names() {
    for (uri, to, transport) in [
        ("sip:bob@192.168.3.1:5070;transport=tcp", "192.168.3.1:5070", Transport::Tcp),
        ("sip:bob@192.168.3.1;transport=tls", "192.168.3.1:5061", Transport::Tls),
        ("sip:bob@10.9.9.9;maddr=192.168.3.1", "192.168.3.1:5060", Transport::Udp),
    ] {
        let mut bench = bob_at(vec![contact(uri, 1_000)]);
        bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
        let sent = bench.to(to);
        assert_eq!((sent.transport, sent.line()), (transport, format!("INVITE {uri}")));
    }
}
