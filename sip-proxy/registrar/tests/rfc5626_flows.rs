//! RFC 5626 (outbound) and phones behind a NAT: contacts that are reached along the flow they came over.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use std::time::Duration;

use ferric_proxy::Location;
use rig::{Request, Rig, contacts, request, status, tcp, udp};

const ONE: &str = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";
const TWO: &str = "+sip.instance=\"<urn:uuid:11111111-0000-1000-8000-000A95A0E128>\"";

fn outbound(contact: &str) -> Request {
    request().via("SIP/2.0/TCP 192.168.1.7:5060;branch=z9hG4bK1").line("Supported: path, outbound").contact(contact)
}

#[test]
fn a_phone_behind_a_nat_is_reached_where_it_came_from() {
    let mut rig = Rig::open();
    let home =
        || request().via("SIP/2.0/UDP 192.168.1.7:5060;branch=z9hG4bK1;rport").contact("<sip:alice@192.168.1.7:5060>");
    let outside = udp("203.0.113.9:40001");
    assert_eq!(status(&rig.send_over(home(), &outside)), 200);
    assert_eq!((rig.alice()[0].uri.as_str(), rig.alice()[0].flow), ("sip:alice@192.168.1.7:5060", Some(outside)));
    let moved = udp("203.0.113.9:50002");
    rig.send_over(home(), &moved);
    assert_eq!((rig.alice().len(), rig.alice()[0].flow), (1, Some(moved)));
    rig.send_over(home(), &udp("192.168.1.7:5060"));
    assert_eq!(rig.alice()[0].flow, None, "no NAT any more");
}

#[test]
fn a_phone_on_tcp_is_reached_on_its_connection_and_by_its_uri_when_that_is_gone() {
    let mut rig = Rig::open();
    let via = "SIP/2.0/TCP 10.0.0.7:5060;branch=z9hG4bK1";
    let connection = tcp("10.0.0.7:40001", 3);
    rig.send_over(request().via(via).contact("<sip:alice@10.0.0.7:5060;transport=tcp>"), &connection);
    assert_eq!(rig.alice()[0].flow, Some(connection));
    rig.registrar.flow_failed(rig.now, &tcp("10.0.0.7:40001", 4));
    assert_eq!(rig.alice()[0].flow, Some(connection), "another connection");
    rig.registrar.flow_failed(rig.now, &connection);
    assert_eq!((rig.alice().len(), rig.alice()[0].flow), (1, None));
}

#[test]
fn behind_a_nat_a_binding_goes_with_its_connection() {
    let mut rig = Rig::open();
    let connection = tcp("203.0.113.9:40001", 3);
    let via = "SIP/2.0/TCP 192.168.1.7:5060;branch=z9hG4bK1";
    for user in ["alice", "bob"] {
        let contact = format!("<sip:{user}@192.168.1.7:5060;transport=tcp>, <sip:{user}@sip.example.net>");
        rig.send_over(request().user(user).via(via).contact(&contact), &connection);
    }
    rig.registrar.flow_failed(rig.now, &connection);
    assert_eq!(rig.uris(), ["sip:alice@sip.example.net"], "what was somebody else's stays");
    assert_eq!((rig.registrar.len(), rig.registrar.counters().flow_lost), (2, 2));
}

#[test]
fn section_6_a_new_registration_of_the_same_instance_and_reg_id_takes_the_place_of_the_old_one() {
    let mut rig = Rig::open();
    let response =
        rig.send_over(outbound(&format!("<sip:alice@192.168.1.7:40001>;{ONE};reg-id=1")), &tcp("203.0.113.9:40001", 1));
    assert_eq!((status(&response), response.header("Require").unwrap().as_ref()), (200, "outbound"));
    assert_eq!(contacts(&response), [format!("<sip:alice@192.168.1.7:40001>;expires=3600;{ONE};reg-id=1")]);
    let again = outbound(&format!("<sip:alice@192.168.1.8:40009>;{ONE};reg-id=1")).call_id("after a restart");
    let response = rig.send_over(again, &tcp("203.0.113.9:40009", 2));
    assert_eq!(contacts(&response), [format!("<sip:alice@192.168.1.8:40009>;expires=3600;{ONE};reg-id=1")]);
    rig.registrar.flow_failed(rig.now, &tcp("203.0.113.9:40001", 1));
    assert_eq!(rig.registrar.len(), 1, "the old connection is no matter any more");
}

#[test]
fn section_7_an_instance_with_two_flows_rings_once_and_along_the_other_when_one_is_gone() {
    let mut rig = Rig::open();
    let (first, second) = (tcp("203.0.113.9:40001", 1), tcp("203.0.113.9:40002", 2));
    for (reg_id, flow) in [(1, &first), (2, &second)] {
        let request = outbound(&format!("<sip:alice@192.168.1.7:40001>;{ONE};reg-id={reg_id}"))
            .call_id(&format!("call-{reg_id}"));
        rig.send_over(request, flow);
    }
    rig.send_over(
        outbound(&format!("<sip:alice@192.168.1.9>;{TWO};reg-id=1")).call_id("two"),
        &tcp("203.0.113.9:40003", 3),
    );
    assert_eq!(rig.registrar.len(), 3);
    let flows: Vec<u64> = rig.alice().iter().map(|contact| contact.flow.unwrap().connection).collect();
    assert_eq!(flows, [3, 2]);
    rig.registrar.flow_failed(rig.now, &second);
    let flows: Vec<u64> = rig.alice().iter().map(|contact| contact.flow.unwrap().connection).collect();
    assert_eq!(flows, [3, 1]);
}

#[test]
fn section_6_one_request_registers_one_flow() {
    let mut rig = Rig::open();
    let two = outbound(&format!("<sip:alice@192.168.1.7>;{ONE};reg-id=1, <sip:alice@192.168.1.7>;{ONE};reg-id=2"));
    assert_eq!(status(&rig.send_over(two, &tcp("203.0.113.9:40001", 1))), 400);
}

#[test]
fn section_6_without_the_option_or_on_udp_the_reg_id_means_nothing() {
    let mut rig = Rig::open();
    let contact = format!("<sip:alice@192.168.1.7>;{ONE};reg-id=1");
    let via = "SIP/2.0/TCP 192.168.1.7:5060;branch=z9hG4bK1";
    let response = rig.send_over(request().via(via).contact(&contact), &tcp("203.0.113.9:40001", 1));
    assert_eq!(
        (response.header("Require"), contacts(&response)),
        (None, vec![format!("<sip:alice@192.168.1.7>;expires=3600;{ONE}")])
    );
    let over_udp = request()
        .via("SIP/2.0/UDP 192.168.1.7:5060;branch=z9hG4bK1;rport")
        .line("Supported: outbound")
        .contact(&contact);
    let response = rig.send_over(over_udp, &udp("203.0.113.9:40001"));
    assert_eq!(
        (status(&response), response.header("Require")),
        (200, None),
        "STUN is not spoken, so this is no outbound flow"
    );
    assert_eq!(rig.alice()[0].flow, Some(udp("203.0.113.9:40001")));
}

#[test]
fn section_6_a_first_hop_without_outbound_is_answered_with_439() {
    let mut rig = Rig::open();
    let edge = "SIP/2.0/TCP edge.example.com;branch=z9hG4bK2";
    let through = |path: &[&str]| {
        let base = outbound(&format!("<sip:alice@192.168.1.7>;{ONE};reg-id=1")).behind(edge);
        path.iter().fold(base, |request, value| request.line(&format!("Path: {value}")))
    };
    let flow = tcp("10.0.0.2:40001", 1);
    assert_eq!(status(&rig.send_over(through(&[]), &flow)), 439);
    assert_eq!(status(&rig.send_over(through(&["<sip:edge.example.com;lr>"]), &flow)), 439);
    assert_eq!(
        status(&rig.send_over(through(&["<sip:in.example.com;lr;ob>", "<sip:edge.example.com;lr>"]), &flow)),
        439,
        "the last is the first hop"
    );
    let response = rig.send_over(through(&["<sip:in.example.com;lr>", "<sip:tok@edge.example.com;lr;ob>"]), &flow);
    assert_eq!((status(&response), response.header("Require").unwrap().as_ref()), (200, "outbound"));
    assert_eq!(rig.alice()[0].path, ["<sip:in.example.com;lr>", "<sip:tok@edge.example.com;lr;ob>"]);
    assert_eq!(rig.alice()[0].flow, None, "the edge knows the flow");
    rig.registrar.flow_failed(rig.now, &flow);
    assert_eq!(rig.alice().len(), 1);
}

#[test]
fn rfc3327_5_3_path_is_kept_with_the_binding_and_told_to_who_understands_it() {
    let mut rig = Rig::open();
    let via = "SIP/2.0/UDP p1.example.com;branch=z9hG4bK2";
    let through = |path: &str| request().behind(via).line(&format!("Path: {path}")).contact("<sip:alice@192.168.1.7>");
    let response = rig.send(through("<sip:p1.example.com;lr>, <sip:p2.example.com;lr>").line("Supported: path"));
    assert_eq!(response.header("Path").unwrap(), "<sip:p1.example.com;lr>, <sip:p2.example.com;lr>");
    assert_eq!(rig.alice()[0].path, ["<sip:p1.example.com;lr>", "<sip:p2.example.com;lr>"]);
    let response = rig.send(through("<sip:p3.example.com;lr>"));
    assert_eq!((status(&response), response.header("Path")), (200, None));
    assert_eq!(rig.alice()[0].path, ["<sip:p3.example.com;lr>"]);
    for wrong in ["<tel:+1555>", "<sip:>", "\"open <sip:p1>", &format!("<sip:{}.example.com;lr>", "a".repeat(5_000))] {
        assert_eq!(status(&rig.send(through(wrong))), 400, "{wrong}");
    }
    rig.send(request().contact("<sip:alice@192.168.1.7>"));
    assert!(rig.alice()[0].path.is_empty(), "it came directly this time");
}

#[test]
fn through_a_proxy_without_path_the_contact_is_reached_by_its_uri() {
    let mut rig = Rig::open();
    let via = "SIP/2.0/UDP p1.example.com;branch=z9hG4bK2";
    rig.send_over(request().behind(via).contact("<sip:alice@192.168.1.7>"), &udp("203.0.113.9:5060"));
    assert_eq!(rig.alice()[0].flow, None);
    rig.pass(Duration::from_secs(3_600));
    assert!(rig.registrar.is_empty());
}
