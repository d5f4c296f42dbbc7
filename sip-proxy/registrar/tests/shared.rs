//! Bindings that several nodes have: merged, removed, reached over the node that has the connection.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use ferric_proxy::Location as _;
use ferric_registrar::{Change, RegistrarConfig, Saved, SavedHome, SavedKey};
use rig::{Rig, request, status, tcp};
use std::time::Duration;

const VIA: &str = "SIP/2.0/TCP 192.168.1.7:5060;branch=z9hG4bK1";
const HOP: &str = "<sip:h01@10.0.0.5:5060;lr>";

fn changes(rig: &mut Rig) -> Vec<Change> {
    std::iter::from_fn(|| rig.registrar.poll_change()).collect()
}

/// A registrar whose changes are read.
fn registrar() -> Rig {
    let mut config = RegistrarConfig::new(["example.com"]);
    config.max_changes = 100;
    let mut rig = Rig::with(config, None);
    rig.registrar.set_there("edge-a1", true);
    rig
}

/// What a node tells of alice, who registered there over TCP.
fn told(contact: &str) -> Saved {
    let mut rig = registrar();
    rig.send_over(request().via(VIA).contact(contact).cseq(5), &tcp("203.0.113.9:40001", 3));
    let Some(Change::Set(saved)) = changes(&mut rig).pop() else { panic!("a REGISTER is a change") };
    let flow = saved.flow.as_ref().and_then(|flow| flow.live()).unwrap();
    assert_eq!(flow.connection, 3, "the flow is still known, so that its hop can be made");
    Saved { home: Some(SavedHome { node: "edge-a1".to_owned(), hop: HOP.to_owned() }), ..*saved }
}

#[test]
fn a_phone_is_reached_over_the_node_that_has_its_connection() {
    let mut rig = registrar();
    let (now, unix_s) = (rig.now, rig.unix_s());
    assert!(rig.registrar.merge(now, unix_s, told("<sip:alice@192.168.1.7:40001;transport=tcp>")));
    let alice = rig.alice();
    assert_eq!((alice[0].path.as_slice(), alice[0].flow), (&[HOP.to_owned()][..], None));
    // The journal has it, so that it outlives this node; and again from there.
    let [Change::Set(saved)] = &changes(&mut rig)[..] else { panic!("merging is a change") };
    let line = serde_json::to_string(saved).unwrap();
    let mut again = registrar();
    assert!(again.registrar.restore(now, unix_s, serde_json::from_str(&line).unwrap()));
    assert_eq!(again.alice()[0].path, [HOP]);
    // Without that node nothing leads there.
    rig.registrar.set_there("edge-a1", false);
    assert!(rig.alice().is_empty());
    rig.registrar.set_there("edge-a1", true);
    assert_eq!(rig.alice().len(), 1);
}

#[test]
fn a_contact_in_reach_is_called_directly_while_its_node_is_away() {
    let mut rig = registrar();
    let saved = Saved { reachable: true, outbound: false, ..told("<sip:alice@203.0.113.9:5060;transport=tcp>") };
    assert!(rig.registrar.merge(rig.now, rig.unix_s(), saved));
    assert_eq!(rig.alice()[0].path, [HOP]);
    rig.registrar.set_there("edge-a1", false);
    assert!(rig.alice()[0].path.is_empty());
}

#[test]
fn a_register_that_moves_keeps_its_order_and_takes_the_place_of_what_is_elsewhere() {
    let mut rig = registrar();
    let contact = "<sip:alice@192.168.1.7:40001;transport=tcp>";
    rig.registrar.merge(rig.now, rig.unix_s(), told(contact));
    let flow = tcp("203.0.113.9:40002", 9);
    let old = request().via(VIA).contact(contact).cseq(5);
    assert_eq!(status(&rig.send_over(old, &flow)), 500, "the same CSeq was taken by the other node");
    let new = request().via(VIA).contact(contact).cseq(6);
    assert_eq!(status(&rig.send_over(new, &flow)), 200);
    assert_eq!((rig.alice()[0].flow, rig.alice()[0].path.len()), (Some(flow), 0));
}

#[test]
fn what_another_node_removed_is_gone_and_what_ends_is_not_told_as_removed() {
    let mut rig = registrar();
    let saved = told("<sip:alice@192.168.1.7:40001;transport=tcp>");
    rig.registrar.merge(rig.now, rig.unix_s(), saved.clone());
    changes(&mut rig);
    let other = SavedKey { contact: "sip:alice@192.168.1.8".to_owned(), ..saved.key() };
    assert!(!rig.registrar.forget(&other) && rig.registrar.forget(&saved.key()));
    assert_eq!(changes(&mut rig), [Change::Remove(saved.key())]);
    rig.registrar.merge(rig.now, rig.unix_s(), saved.clone());
    changes(&mut rig);
    rig.pass(Duration::from_secs(7_200));
    assert_eq!(changes(&mut rig), [Change::Expired(saved.key())]);
    let (now, unix_s) = (rig.now, rig.unix_s());
    assert!(!rig.registrar.merge(now, unix_s, saved), "its life is over");
}

#[test]
fn a_contact_that_loses_its_connection_and_stays_is_told_anew() {
    let mut rig = registrar();
    let flow = tcp("10.0.0.7:40001", 3);
    rig.send_over(
        request().via("SIP/2.0/TCP 10.0.0.7:5060;branch=z9hG4bK1").contact("<sip:alice@10.0.0.7:5060;transport=tcp>"),
        &flow,
    );
    changes(&mut rig);
    rig.registrar.flow_failed(rig.now, &flow);
    let [Change::Set(saved)] = &changes(&mut rig)[..] else { panic!("it stays, without its flow") };
    assert_eq!(saved.flow, None);
}
