//! RFC 3261 10.3: what a registrar does with a REGISTER, a rule a test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use std::time::Duration;

use ferric_registrar::RegistrarConfig;
use rig::{Rig, contacts, request, status};

#[test]
fn step_2_an_unknown_option_tag_is_answered_with_420() {
    let mut rig = Rig::open();
    let response = rig.send(request().line("Require: path, foo, outbound, bar").contact("<sip:alice@10.0.0.7>"));
    assert_eq!((status(&response), response.header("Unsupported").unwrap().as_ref()), (420, "foo, bar"));
    assert!(rig.alice().is_empty());
}

#[test]
fn step_5_a_user_of_no_domain_of_ours_is_answered_with_404() {
    let mut rig = Rig::open();
    for to in ["<sip:alice@example.org>", "<sip:example.com>", "<tel:+1555>", "<sip:@example.com>"] {
        assert_eq!(status(&rig.send(request().to(to).contact("<sip:alice@10.0.0.7>"))), 404, "{to}");
    }
    assert!(rig.registrar.is_empty());
    assert_eq!(status(&rig.send(request().to("<sips:%61lice@EXAMPLE.com;x=y>").contact("<sip:alice@10.0.0.7>"))), 200);
    assert_eq!(rig.uris(), ["sip:alice@10.0.0.7"]);
}

#[test]
fn step_6_without_contacts_the_bindings_are_told_and_stay() {
    let mut rig = Rig::open();
    rig.send(request().contact("<sip:alice@10.0.0.7>;q=0.70"));
    rig.pass(Duration::from_secs(600));
    let response = rig.send(request().line("Expires: 0"));
    assert_eq!(contacts(&response), ["<sip:alice@10.0.0.7>;expires=3000;q=0.7"]);
    assert_eq!(response.header("Date").unwrap(), "Tue, 14 Nov 2023 22:23:20 GMT");
    assert_eq!(rig.uris().len(), 1);
}

#[test]
fn step_6_a_star_removes_all_and_stands_alone_with_expires_0() {
    let mut rig = Rig::open();
    rig.send(request().contact("<sip:alice@10.0.0.7>, <sip:alice@10.0.0.8>"));
    rig.send(request().call_id("other").contact("<sip:alice@10.0.0.9>"));
    for wrong in [
        request().contact("*"),
        request().contact("*").line("Expires: 60"),
        request().contact("*").line("Expires: soon"),
        request().contact("*, <sip:alice@10.0.0.7>").line("Expires: 0"),
        request().contact("*").contact("*").line("Expires: 0"),
    ] {
        assert_eq!(status(&rig.send(wrong)), 400);
    }
    assert_eq!(rig.uris().len(), 3);
    let response = rig.send(request().contact("*").line("Expires: 0"));
    assert_eq!((status(&response), contacts(&response).len(), rig.registrar.len()), (200, 0, 0));
    assert_eq!(rig.registrar.poll_change(), None);
}

#[test]
fn step_6_a_star_obeys_the_order_rule_for_all_or_none() {
    let mut rig = Rig::open();
    rig.send(request().cseq(5).contact("<sip:alice@10.0.0.7>"));
    rig.send(request().call_id("other").cseq(9).contact("<sip:alice@10.0.0.8>"));
    assert_eq!(status(&rig.send(request().call_id("other").cseq(9).contact("*").line("Expires: 0"))), 500);
    assert_eq!(rig.uris().len(), 2);
    assert_eq!(status(&rig.send(request().call_id("other").cseq(10).contact("*").line("Expires: 0"))), 200);
}

#[test]
fn step_7_the_contacts_own_expiry_goes_before_the_header_and_that_before_the_default() {
    let mut config = RegistrarConfig::new(["example.com"]);
    (config.max_expires, config.default_expires) = (Duration::from_secs(7_200), Duration::from_secs(1_800));
    let mut rig = Rig::with(config, None);
    let response =
        rig.send(request().line("Expires: 300").contact("<sip:alice@10.0.0.7>;expires=120, <sip:alice@10.0.0.8>"));
    assert_eq!(contacts(&response), ["<sip:alice@10.0.0.7>;expires=120", "<sip:alice@10.0.0.8>;expires=300"]);
    let response = rig.send(
        request()
            .user("bob")
            .contact("<sip:bob@10.0.0.7>, <sip:bob@10.0.0.8>;expires=99999, <sip:bob@10.0.0.9>;expires=soon"),
    );
    let expected =
        ["<sip:bob@10.0.0.7>;expires=1800", "<sip:bob@10.0.0.8>;expires=7200", "<sip:bob@10.0.0.9>;expires=3600"];
    assert_eq!(contacts(&response), expected);
}

#[test]
fn step_7_too_short_a_time_is_answered_with_423_and_min_expires() {
    let mut rig = Rig::open();
    let response = rig.send(request().contact("<sip:alice@10.0.0.7>, <sip:alice@10.0.0.8>;expires=30"));
    assert_eq!((status(&response), response.header("Min-Expires").unwrap().as_ref()), (423, "60"));
    assert!(rig.alice().is_empty(), "not the first one either");
}

#[test]
fn step_7_an_older_cseq_of_the_same_call_id_changes_nothing() {
    let mut rig = Rig::open();
    rig.send(request().cseq(10).contact("<sip:alice@10.0.0.7>;q=0.5"));
    for cseq in [9, 10] {
        let late = request().cseq(cseq).contact("<sip:alice@10.0.0.8>, <sip:alice@10.0.0.7>;expires=0");
        assert_eq!(status(&rig.send(late)), 500);
        assert_eq!(rig.uris(), ["sip:alice@10.0.0.7"]);
    }
    assert_eq!(status(&rig.send(request().cseq(11).contact("<sip:alice@10.0.0.7>;q=0.6"))), 200);
    assert_eq!(
        status(&rig.send(request().call_id("after a restart").cseq(1).contact("<sip:alice@10.0.0.7>;q=0.7"))),
        200
    );
    assert_eq!(rig.alice()[0].q, 700);
}

#[test]
fn step_7_contacts_are_compared_as_uris_and_not_as_text() {
    let mut rig = Rig::open();
    rig.send(request().contact("<sip:%61lice@phone.example.com;transport=TCP>"));
    let response = rig.send(request().contact("<sip:alice@PHONE.example.com;Transport=tcp;x=1>;expires=60"));
    assert_eq!(contacts(&response), ["<sip:alice@PHONE.example.com;Transport=tcp;x=1>;expires=60"]);
    let response = rig.send(request().contact("<sip:alice@phone.example.com>"));
    assert_eq!(contacts(&response).len(), 2);
    let response = rig.send(request().contact("<sip:alice@phone.example.com;transport=tcp>;expires=0"));
    assert_eq!(contacts(&response), ["<sip:alice@phone.example.com>;expires=3600"]);
}

#[test]
fn step_7_one_wrong_contact_stops_all_of_them() {
    let mut rig = Rig::open();
    for wrong in [
        "<sip:alice@10.0.0.8>;q=1.5",
        "<sip:alice@10.0.0.8>;q=0.1234",
        "<alice>",
        "<sip:>",
        "\"open <sip:alice@10.0.0.8>",
        "<sip:alice@10.0.0.8>;+sip.instance=\"<urn:uuid:1>\";reg-id=0",
        &format!("<sip:{}@10.0.0.8>", "a".repeat(1_100)),
    ] {
        let response = rig.send(request().contact(&format!("<sip:alice@10.0.0.7>, {wrong}")));
        assert_eq!(status(&response), 400, "{wrong}");
        assert!(rig.alice().is_empty(), "{wrong}");
    }
}

#[test]
fn step_7_the_later_one_of_a_contact_that_stands_twice_counts() {
    let mut rig = Rig::open();
    rig.send(request().contact("<sip:alice@10.0.0.7>;q=0.1, <sip:ALICE@10.0.0.7>, <sip:alice@10.0.0.7;x>;q=0.2"));
    let found: Vec<(String, u16)> = rig.alice().into_iter().map(|contact| (contact.uri, contact.q)).collect();
    assert_eq!(found, [("sip:ALICE@10.0.0.7".to_owned(), 1_000), ("sip:alice@10.0.0.7;x".to_owned(), 200)]);
    rig.send(request().contact("<sip:alice@10.0.0.7>;expires=0, <sip:alice@10.0.0.7>"));
    assert_eq!(rig.uris().len(), 2);
    rig.send(request().contact("<sip:alice@10.0.0.7>, <sip:alice@10.0.0.7>;expires=0"));
    assert_eq!(rig.uris(), ["sip:ALICE@10.0.0.7"]);
}

#[test]
fn bindings_end_when_their_time_is_over_and_a_refresh_puts_that_off() {
    let mut rig = Rig::open();
    rig.send(request().contact("<sip:alice@10.0.0.7>;expires=100, <sip:alice@10.0.0.8>;expires=200"));
    rig.pass(Duration::from_secs(99));
    assert_eq!(rig.uris().len(), 2);
    rig.send(request().contact("<sip:alice@10.0.0.7>;expires=300"));
    rig.pass(Duration::from_secs(101));
    assert_eq!(rig.uris(), ["sip:alice@10.0.0.7"]);
    assert_eq!(rig.registrar.len(), 1);
    rig.pass(Duration::from_secs(200));
    assert_eq!((rig.registrar.len(), rig.registrar.registered_users(), rig.registrar.counters().expired), (0, 0, 2));
    assert_eq!(rig.lookup("sip:alice@example.com"), Some(vec![]));
}

#[test]
fn more_contacts_than_allowed_are_refused_and_those_there_can_be_refreshed() {
    let mut config = RegistrarConfig::new(["example.com"]);
    config.max_contacts = 2;
    let mut rig = Rig::with(config, None);
    rig.send(request().contact("<sip:alice@10.0.0.7>, <sip:alice@10.0.0.8>"));
    let response = rig.send(request().contact("<sip:alice@10.0.0.9>"));
    assert_eq!((status(&response), response.reason().unwrap().as_ref()), (403, "More than 2 contacts"));
    assert_eq!(status(&rig.send(request().contact("<sip:alice@10.0.0.8>"))), 200);
    assert_eq!(status(&rig.send(request().contact("<sip:alice@10.0.0.8>;expires=0, <sip:alice@10.0.0.9>"))), 200);
    let many: Vec<String> = (0..65).map(|n| format!("<sip:alice@10.0.1.{n}>;expires=0")).collect();
    assert_eq!(status(&rig.send(request().contact(&many.join(", ")))), 403);
}

#[test]
fn a_full_registrar_says_503_and_goes_on_for_those_who_are_in() {
    let mut config = RegistrarConfig::new(["example.com"]);
    config.max_bindings = 3;
    let mut rig = Rig::with(config, None);
    for user in ["a", "b", "c"] {
        assert_eq!(status(&rig.send(request().user(user).contact("<sip:x@10.0.0.7>"))), 200);
    }
    let response = rig.send(request().user("d").contact("<sip:x@10.0.0.7>"));
    assert_eq!((status(&response), response.header("Retry-After").unwrap().as_ref()), (503, "60"));
    assert_eq!(status(&rig.send(request().user("a").contact("<sip:x@10.0.0.7>"))), 200);
    assert_eq!(status(&rig.send(request().user("b").contact("*").line("Expires: 0"))), 200);
    assert_eq!(status(&rig.send(request().user("d").contact("<sip:x@10.0.0.7>"))), 200);
}

#[test]
fn rfc3261_16_6_contacts_come_by_q_and_then_the_latest_first() {
    let mut rig = Rig::open();
    rig.send(request().contact("<sip:old@10.0.0.1>;q=0.5, <sip:none@10.0.0.2>, <sip:low@10.0.0.3>;q=0"));
    rig.pass(Duration::from_secs(1));
    rig.send(request().contact("<sip:new@10.0.0.4>;q=0.5"));
    let found: Vec<(String, u16)> = rig.alice().into_iter().map(|contact| (contact.uri, contact.q)).collect();
    let expected =
        [("sip:none@10.0.0.2", 1_000), ("sip:new@10.0.0.4", 500), ("sip:old@10.0.0.1", 500), ("sip:low@10.0.0.3", 0)];
    assert_eq!(found, expected.map(|(uri, q)| (uri.to_owned(), q)));
}

#[test]
fn rfc5630_5_3_a_sips_request_goes_to_sips_contacts_only() {
    let mut rig = Rig::open();
    rig.send(request().contact("<sip:alice@10.0.0.7>, <sips:alice@10.0.0.7>"));
    assert_eq!(rig.lookup("sips:alice@example.com").unwrap()[0].uri, "sips:alice@10.0.0.7");
    assert_eq!(rig.lookup("sips:alice@example.com").unwrap().len(), 1);
    assert_eq!(rig.alice().len(), 2);
    assert_eq!(rig.lookup("sip:alice@example.org"), None);
}
