//! RFC 5626 5.3: what follows in a dialog finds a phone whose contact leads nowhere, along the flow that it was called on.
#![allow(clippy::indexing_slicing)]

mod rig;

use ferric_proxy::{Contact, ProxyConfig};
use ferric_sip::flow::{Flow, Transport};
use rig::{Bench, CALLER, US, address, bob_at, contact, request, request_as};

const HIDDEN: &str = "sip:bob@10.9.9.9:5060;transport=tcp";
const PHONE: &str = "192.168.3.1:40000";

fn flow() -> Flow {
    Flow { transport: Transport::Tcp, local: address(US), remote: address(PHONE), connection: 77 }
}

fn bench(uri: &str) -> Bench {
    let mut bench = bob_at(vec![Contact { flow: Some(flow()), ..contact(uri, 1_000) }]);
    let config = ProxyConfig { record_route: true, ..(**bench.proxy.config()).clone() };
    let now = bench.now;
    bench.proxy.apply(now, config);
    bench
}

/// The Record-Routes of the INVITE that the phone gets.
fn recorded(bench: &mut Bench) -> Vec<String> {
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    bench.to(PHONE).message.values("Record-Route")
}

fn within(method: &str, routes: &[String]) -> ferric_sip::message::Message {
    let routes: Vec<&str> = routes.iter().rev().map(String::as_str).collect();
    request_as(
        &format!("z9hG4bK{method}"),
        method,
        HIDDEN,
        &format!("Route: {}\nTo: <sip:bob@example.com>;tag=b\n", routes.join(", ")),
    )
}

#[test]
fn a_dialog_with_a_hidden_phone_stays_on_its_flow() {
    let mut bench = bench(HIDDEN);
    let routes = recorded(&mut bench);
    assert_eq!(routes.len(), 2, "{routes:?}");
    assert!(routes[0].starts_with("<sip:f") && routes[0].contains("@192.168.0.5:5060;transport=tcp;lr"), "{routes:?}");
    assert_eq!(routes[1], "<sip:192.168.0.5:5060;lr;twin>", "the caller can be reached");
    for method in ["ACK", "BYE", "INFO"] {
        bench.clear();
        bench.put(CALLER, within(method, &routes));
        let sent = bench.to(PHONE);
        assert_eq!((sent.line(), sent.transport), (format!("{method} {HIDDEN}"), Transport::Tcp));
        assert!(sent.message.header("Route").is_none());
    }
}

#[test]
fn a_flow_that_somebody_else_wrote_counts_for_nothing() {
    let mut bench = bench(HIDDEN);
    let mut routes = recorded(&mut bench);
    bench.clear();
    routes[0] = routes[0].replacen("<sip:f0", "<sip:f1", 1).replacen("<sip:f02", "<sip:f01", 1);
    bench.put(CALLER, within("BYE", &routes));
    assert_eq!(bench.to("10.9.9.9:5060").transport, Transport::Tcp, "the contact is all there is");
}

#[test]
fn a_phone_in_reach_needs_no_flow() {
    let mut bench = bench("sip:bob@192.168.3.1:5060;transport=tcp");
    let routes = recorded(&mut bench);
    assert!(routes.iter().all(|route| !route.contains('@')), "{routes:?}");
}

/// An INVITE for bob by that user, who gives that contact.
fn invite_of(user: &str, number: u32) -> String {
    format!(
        "INVITE sip:bob@example.com SIP/2.0\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bK{number};rport\nMax-Forwards: 70\nFrom: <sip:{user}>;tag=a\n\
         To: <sip:bob@example.com>\nCall-ID: {number}\nCSeq: 1 INVITE\nContact: <sip:there@10.7.7.7>\nContent-Length: 0\n\n"
    )
}

#[test]
fn a_hidden_phone_that_calls_is_found_by_the_callee() {
    let mut bench = bench(HIDDEN);
    bench.text(CALLER, &invite_of("alice@example.com", 1));
    let routes = bench.to(PHONE).message.values("Record-Route");
    assert!(routes.len() == 2 && routes.iter().all(|route| route.contains('@')), "{routes:?}");
    bench.clear();
    let more = format!("Route: {}\nTo: <sip:alice@example.com>;tag=a\n", routes.join(", "));
    bench.put_by(Transport::Tcp, PHONE, request_as("z9hG4bKbye", "BYE", "sip:there@10.7.7.7", &more));
    let sent = bench.to(CALLER);
    assert_eq!((sent.line().as_str(), sent.transport), ("BYE sip:there@10.7.7.7", Transport::Udp));
    // An SBC that gives an address of its own choice knows what it does.
    bench.clear();
    bench.text(CALLER, &invite_of("sbc@elsewhere.example", 2));
    let routes = bench.to(PHONE).message.values("Record-Route");
    assert!(!routes[1].contains('@'), "{routes:?}");
}

/// A request as another node of the cluster hands it over.
fn handed_over(method: &str, hop: &str) -> ferric_sip::message::Message {
    request_as(&format!("z9hG4bK{method}"), method, HIDDEN, &format!("Route: {hop}\nTo: <sip:bob@example.com>\n"))
}

#[test]
fn section_5_3_another_node_hands_over_what_is_for_a_flow_of_this_one() {
    let mut bench = bench(HIDDEN);
    let hop = bench.proxy.hop(&flow()).unwrap();
    assert!(hop.starts_with("<sip:h01") && hop.ends_with("@192.168.0.5:5060;lr>"), "{hop}");
    // No rule and no contact of our domains: the hop alone leads there.
    bench.put(CALLER, handed_over("INVITE", &hop));
    let sent = bench.to(PHONE);
    assert_eq!((sent.line(), sent.transport), (format!("INVITE {HIDDEN}"), Transport::Tcp));
    assert!(sent.message.header("Route").is_none());
    let routes = sent.message.values("Record-Route");
    assert!(routes[0].starts_with("<sip:f"), "what follows in the dialog finds the phone, too: {routes:?}");
}

#[test]
fn section_5_3_a_flow_that_is_gone_or_was_never_ours_is_answered_with_430() {
    let mut bench = bench(HIDDEN);
    let hop = bench.proxy.hop(&flow()).unwrap();
    // What phones see of a flow begins nothing.
    let seen = recorded(&mut bench)[0].replace(";twin", "").replacen("<sip:f", "<sip:h", 1);
    for forged in [hop.replacen("<sip:h01", "<sip:h00", 1), hop.replacen("<sip:h0100", "<sip:h0101", 1), seen] {
        bench.clear();
        bench.put(CALLER, handed_over("OPTIONS", &forged));
        assert_eq!(bench.to(CALLER).message.status(), Some(430), "{forged}");
    }
}
