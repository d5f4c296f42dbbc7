//! RFC 3261 16.3: what is refused instead of forwarded, and what is none of a proxy's business.

mod rig;

use rig::{Bench, CALLER, bob_at, by_uri, contact, element, grouped, parse, request};

const PEER: &str = "192.168.2.1:5060";
const URI: &str = "sip:x@192.168.2.1";

/// The status that the caller gets, and how many requests went on.
fn fate(message: ferric_sip::message::Message) -> (Vec<u16>, usize) {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, message);
    let statuses = bench.statuses();
    let forwarded = bench.sent.iter().filter(|sent| sent.message.is_request()).count();
    (statuses, forwarded)
}

#[test]
fn without_hops_left_nothing_is_forwarded() {
    for method in ["INVITE", "OPTIONS", "REGISTER", "BYE", "FROBNICATE"] {
        assert_eq!(fate(request(method, URI, "Max-Forwards: 0\n")), (vec![483], 0), "{method}");
    }
    assert_eq!(fate(request("ACK", URI, "Max-Forwards: 0\n")), (vec![], 0), "an ACK is never answered");
}

#[test]
fn what_is_answered_here_needs_no_hops() {
    let mut bench = bob_at(vec![contact("sip:bob@192.168.3.1", 1_000)]);
    let register =
        "To: <sip:bob@example.com>\nMax-Forwards: 0\nContact: <sip:bob@192.168.3.2>\nProxy-Require: unheard-of\n";
    bench.put(CALLER, request("REGISTER", "sip:example.com", register));
    assert_eq!(bench.statuses(), [200], "the registrar is where it was meant to end");
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", "Max-Forwards: 0\n"));
    assert_eq!(bench.statuses(), [483]);
}

#[test]
fn hops_count_down_and_begin_at_70() {
    for (sent, forwarded) in [("Max-Forwards: 70\n", "69"), ("Max-Forwards: 1\n", "0"), ("Max-Forwards: 255\n", "254")]
    {
        let mut bench = Bench::new(by_uri());
        bench.put(CALLER, request("OPTIONS", URI, sent));
        assert_eq!(bench.to(PEER).message.header("Max-Forwards").unwrap(), forwarded);
    }
    let mut bench = Bench::new(by_uri());
    bench.text(CALLER, "OPTIONS sip:x@192.168.2.1 SIP/2.0\nVia: SIP/2.0/UDP 192.168.1.10;branch=z9hG4bKq\nFrom: <sip:a@b>;tag=1\nTo: <sip:x@y>\nCall-ID: 1\nCSeq: 1 OPTIONS\n\n");
    let sent = bench.to(PEER);
    assert_eq!(sent.message.headers("Max-Forwards").collect::<Vec<_>>(), ["70"]);
}

#[test]
fn hops_that_are_no_number_are_refused() {
    for hops in ["256", "-1", "many", ""] {
        assert_eq!(fate(request("OPTIONS", URI, &format!("Max-Forwards: {hops}\n"))), (vec![400], 0), "{hops}");
    }
}

#[test]
fn extensions_asked_of_proxies_are_listed_when_unknown() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", URI, "Proxy-Require: privacy, unheard-of\nProxy-Require: foo\n"));
    let answer = bench.answered();
    assert_eq!(answer.message.status(), Some(420));
    assert_eq!(answer.message.values("Unsupported"), ["unheard-of", "foo"]);
    assert_eq!(fate(request("INVITE", URI, "Proxy-Require: privacy\n")).1, 1);
    assert_eq!(
        fate(request("INVITE", URI, "Require: unheard-of, 100rel\n")),
        (vec![], 1),
        "Require is for user agents"
    );
    assert_eq!(
        fate(request("ACK", URI, "Proxy-Require: foo\nTo: <sip:x@y>;tag=1\n")),
        (vec![], 1),
        "8.2.2.3: never for ACK"
    );
}

#[test]
fn a_scheme_that_leads_nowhere_is_refused() {
    for uri in ["foo:bar", "http://example.com/", "mailto:a@b"] {
        assert_eq!(fate(request("OPTIONS", uri, "To: <sip:x@y>\n")), (vec![416], 0), "{uri}");
    }
    // With a rule that looks at no URI, numbers and services go their way.
    for uri in ["tel:+15550100", "urn:service:sos", "TEL:+15550100"] {
        let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
        bench.put(CALLER, request("INVITE", uri, "To: <sip:x@y>\n"));
        assert_eq!(bench.to(PEER).line(), format!("INVITE {uri}"));
    }
    let mut bench = Bench::new(grouped(vec![element(PEER, 1, 1)]));
    bench.put(CALLER, request("INVITE", "foo:bar", "To: <sip:x@y>\n"));
    assert_eq!(bench.statuses(), [416], "not even along a rule for all");
}

#[test]
fn what_makes_no_transaction_is_refused_or_dropped() {
    let broken = |line: &str, with: &str| {
        let text = String::from_utf8(request("OPTIONS", URI, "").to_bytes().to_vec()).unwrap().replace("\r\n", "\n");
        let from = text.lines().find(|have| have.starts_with(line)).unwrap().to_owned();
        parse(&text.replace(&from, with).replace("\n\n\n", "\n\n"))
    };
    for (line, with) in [
        ("From", "X-From: gone"),
        ("From", "From: \"open <sip:a@b>"),
        ("To", "X-To: gone"),
        ("Call-ID", "X-Call-ID: gone"),
        ("CSeq", "CSeq: 1 INVITE"),
        ("CSeq", "CSeq: first OPTIONS"),
        ("CSeq", "X-CSeq: gone"),
        ("To", "To: <sip:x@y>\nTo: <sip:z@y>"),
        ("Call-ID", "Call-ID: a\ni: b"),
    ] {
        assert_eq!(fate(broken(line, with)), (vec![400], 0), "{with}");
    }
    assert_eq!(fate(broken("Via", "X-Via: gone")), (vec![], 0), "nobody to answer");
    assert_eq!(fate(broken("Via", "Via: nonsense")).1, 0);
}

#[test]
fn what_forwarding_does_not_need_is_not_looked_at() {
    for odd in [
        "Contact: \"open <sip:a@b>\n",
        "Date: yesterday\n",
        "Content-Type: a/b\nContent-Type: c/d\n",
        "Via: some nonsense farther down\n",
        "Expires: never\nRetry-After: ,\n",
        "Record-Route: <<<>>>\n",
        "Authorization: \n",
    ] {
        assert_eq!(fate(request("INVITE", URI, odd)), (vec![], 1), "{odd}");
    }
}

#[test]
fn a_via_that_nobody_can_read_is_refused_on_the_way_it_came() {
    let text = |via: &str, method: &str| {
        format!(
            "{method} {URI} SIP/2.0\n{via}From: <sip:a@b>;tag=1\nTo: <sip:x@y>\nCall-ID: 1\nCSeq: 1 {method}\nMax-Forwards: 7\n\n"
        )
    };
    for (via, method, statuses) in [
        ("Via: SIP/2.0/UDP 192.0.2.15;;,;,,\n", "INVITE", vec![400]),
        ("Via: SIP/2.0/UDP 192.0.2.15;;,;,,\n", "ACK", vec![]),
        ("", "INVITE", vec![]),
    ] {
        let mut bench = Bench::new(by_uri());
        bench.text(CALLER, &text(via, method));
        assert_eq!(bench.statuses(), statuses, "{method} {via}");
        assert!(!bench.sent.iter().any(|sent| sent.message.is_request()));
    }
}
