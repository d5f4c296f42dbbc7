//! RFC 3261 16.3 step 4 and RFC 5393: circles are cut, spirals go on, and forks do not multiply without bound.

mod rig;

use ferric_proxy::ProxyConfig;
use ferric_proxy::routing::{Action, Condition};
use ferric_sip::message::Message;
use rig::{Bench, CALLER, Sent, bob_at, by_uri, config, contact, parse_bytes, request, rule};

const OTHER: &str = "192.168.2.1:5060";

/// What another proxy makes of a request that it sends back to us.
fn back(sent: &Sent, branch: &str, change: impl FnOnce(&mut Message)) -> Message {
    let mut message = sent.message.clone();
    change(&mut message);
    message.push_header_front("Via", &format!("SIP/2.0/UDP {OTHER};branch=z9hG4bK{branch}"));
    parse_bytes(&message)
}

#[test]
fn a_request_that_comes_back_as_it_was_went_in_a_circle() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("OPTIONS", "sip:x@192.168.2.1", ""));
    let sent = bench.to(OTHER);
    bench.put(OTHER, back(&sent, "other1", |_| {}));
    assert_eq!(bench.to(OTHER).line(), "482");
}

#[test]
fn one_that_comes_back_changed_is_a_spiral() {
    for field in ["uri", "Route", "Proxy-Authorization", "From"] {
        let mut bench = Bench::new(by_uri());
        bench.put(CALLER, request("OPTIONS", "sip:x@192.168.2.1", ""));
        let sent = bench.to(OTHER);
        let changed = back(&sent, "other1", |message| match field {
            "uri" => message.set_request_uri("sip:y@192.168.2.9"),
            "Route" => message.add_header("Route", "<sip:192.168.2.9;lr>"),
            "From" => message.set_header("From", "<sip:other@example.net>;tag=c1"),
            name => message.add_header(name, "Digest username=\"a\""),
        });
        bench.put(OTHER, changed);
        let again = bench.next_request();
        assert_eq!(again.message.values("Via").len(), 4, "{field}");
        assert_ne!(again.message.top_via().unwrap().branch(), sent.message.top_via().unwrap().branch());
    }
}

#[test]
fn what_rules_look_at_decides_the_way_too() {
    // From the other proxy it goes to the gateway: the same request twice, and no circle.
    let routes = vec![
        rule(vec![Condition::Source("192.168.2.1/32".parse().unwrap())], Action::Uri("sip:192.168.9.9".into())),
        rule(vec![Condition::Header("X-Done".into(), None)], Action::Uri("sip:192.168.8.8".into())),
        rule(vec![], Action::Uri("sip:192.168.2.1".into())),
    ];
    let mut bench = Bench::new(ProxyConfig { routes: ferric_proxy::routing::RouteTable::new(routes), ..config() });
    bench.put(CALLER, request("OPTIONS", "sip:x@example.org", ""));
    let sent = bench.to(OTHER);
    bench.put(OTHER, back(&sent, "o1", |_| {}));
    let gateway = bench.to("192.168.9.9:5060");
    assert_eq!(gateway.message.values("Via").len(), 4);
    bench.put("192.168.9.9:5060", back(&gateway, "o2", |message| message.add_header("X-Done", "1")));
    assert_eq!(bench.to("192.168.8.8:5060").message.values("Via").len(), 6);
    // The other proxy again: that is a circle.
    bench.put(OTHER, back(&sent, "o3", |_| {}));
    bench.clear();
    bench.put(OTHER, back(&gateway, "o4", |_| {}));
    assert_eq!(bench.to(OTHER).line(), "482");
}

#[test]
fn branches_that_only_look_like_ours_are_nobodys() {
    let mut bench = Bench::new(by_uri());
    let forged = format!("Via: SIP/2.0/UDP 192.168.0.5:5060;branch=z9hG4bKf-{}\n", "0".repeat(40));
    bench.put(CALLER, request("OPTIONS", "sip:x@192.168.2.1", &forged));
    assert_eq!(bench.to(OTHER).line(), "OPTIONS sip:x@192.168.2.1");
}

fn three_phones() -> Bench {
    bob_at(vec![
        contact("sip:bob@192.168.3.1", 1_000),
        contact("sip:bob@192.168.3.2", 1_000),
        contact("sip:bob@192.168.3.3", 1_000),
    ])
}

#[test]
fn breadth_is_shared_out_among_the_copies() {
    let mut bench = three_phones();
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", "Max-Breadth: 8\n"));
    let shares: Vec<String> = (1..=3)
        .map(|n| bench.to(&format!("192.168.3.{n}:5060")).message.header("Max-Breadth").unwrap().into_owned())
        .collect();
    assert_eq!(shares, ["3", "3", "2"]);
    let mut bench = three_phones();
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let sum: u32 = (1..=3)
        .map(|n| {
            bench.to(&format!("192.168.3.{n}:5060")).message.header("Max-Breadth").unwrap().parse::<u32>().unwrap()
        })
        .sum();
    assert_eq!(sum, 60, "as if it had said so");
}

#[test]
fn copies_beyond_the_breadth_wait_for_the_others() {
    let mut bench = three_phones();
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", "Max-Breadth: 2\n"));
    let first = bench.to("192.168.3.1:5060");
    let second = bench.to("192.168.3.2:5060");
    assert_eq!(bench.sent.iter().filter(|sent| sent.message.is_request()).count(), 0);
    bench.answer(&first, 486);
    bench.answer(&second, 486);
    let third = bench.to("192.168.3.3:5060");
    assert_eq!(third.message.header("Max-Breadth").unwrap(), "2", "alone it has it all");
    bench.answer(&third, 200);
    assert_eq!(bench.statuses(), [200]);
}

#[test]
fn without_breadth_left_nothing_is_forwarded() {
    let mut bench = three_phones();
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", "Max-Breadth: 0\n"));
    assert_eq!(bench.statuses(), [440]);
    assert!(bench.sent.is_empty());
}

#[test]
fn a_request_that_is_not_forked_keeps_its_breadth_as_it_is() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("OPTIONS", "sip:x@192.168.2.1", "Max-Breadth :  7\n"));
    assert!(rig::text_of(&bench.to(OTHER)).contains("\r\nMax-Breadth :  7\r\n"));
}

#[test]
fn two_proxies_that_send_each_other_everything_stop() {
    // RFC 5393's attack in small: each hop is ours again, so it must end by itself.
    let mut bench = bob_at(vec![contact("sip:bob@192.168.2.1", 1_000), contact("sip:eve@192.168.2.1", 1_000)]);
    bench.put(CALLER, request("OPTIONS", "sip:bob@example.com", "Max-Forwards: 10\n"));
    let mut messages = 0;
    while let Some(at) = bench.sent.iter().position(|sent| sent.to.to_string() == OTHER && sent.message.is_request()) {
        let sent = bench.sent.remove(at).unwrap();
        messages += 1;
        assert!(messages < 50, "it multiplies");
        bench
            .put(OTHER, back(&sent, &format!("o{messages}"), |message| message.set_request_uri("sip:bob@example.com")));
    }
    assert!(messages <= 4, "{messages}");
}
