//! Any sequence of REGISTERs leaves the bindings that a simple model of RFC 3261 10.3 has, and the changes that were told
//! build the same bindings elsewhere.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use ferric_proxy::Location;
use ferric_registrar::{Change, Registrar, RegistrarConfig, Saved, SavedKey};
use proptest::prelude::*;
use rig::{Rig, request, status, tcp, udp};

/// Contacts by number: URI, Call-ID, CSeq, end in seconds, q.
type Model = BTreeMap<u8, (u8, u32, u64, Option<u16>)>;

#[derive(Debug, Clone)]
enum Act {
    Register { user: u8, call: u8, cseq: u32, contacts: Vec<(u8, u16, Option<u16>)> },
    Star { user: u8, call: u8, cseq: u32 },
    Pass(u16),
    Break(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let contact = (0..4_u8, prop_oneof![Just(0_u16), 30..400_u16], proptest::option::of(0..=1_000_u16));
    let act = prop_oneof![
        6 => (0..2_u8, 0..2_u8, 1..12_u32, proptest::collection::vec(contact, 0..4))
            .prop_map(|(user, call, cseq, contacts)| Act::Register { user, call, cseq, contacts }),
        1 => (0..2_u8, 0..2_u8, 1..12_u32).prop_map(|(user, call, cseq)| Act::Star { user, call, cseq }),
        2 => (1..300_u16).prop_map(Act::Pass),
        1 => (0..2_u8).prop_map(Act::Break),
    ];
    proptest::collection::vec(act, 1..40)
}

const MOST: usize = 3;

/// Contacts 0 and 1 are behind a NAT on a connection of the user's, 2 and 3 somewhere else.
fn uri(contact: u8) -> String {
    if contact < 2 {
        format!("sip:c{contact}@192.168.1.7:5060")
    } else {
        format!("sip:c{contact}@sip{contact}.example.org")
    }
}

fn order_is_kept(model: &Model, contact: u8, call: u8, cseq: u32) -> bool {
    model.get(&contact).is_none_or(|(have, last, ..)| *have != call || cseq > *last)
}

/// The status that the model answers with, and what it is afterwards.
fn register(model: &Model, now: u64, call: u8, cseq: u32, contacts: &[(u8, u16, Option<u16>)]) -> (u16, Model) {
    let mut next = model.clone();
    if contacts.iter().any(|(_, expires, _)| (1..60).contains(expires)) {
        return (423, next);
    }
    for (contact, expires, q) in contacts {
        if !order_is_kept(model, *contact, call, cseq) {
            return (500, model.clone());
        }
        if *expires == 0 {
            next.remove(contact);
        } else {
            next.insert(*contact, (call, cseq, now + u64::from(*expires), *q));
        }
    }
    let added = next.keys().any(|contact| !model.contains_key(contact));
    if added && next.len() > MOST { (403, model.clone()) } else { (200, next) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn bindings_are_those_of_the_model(acts in acts()) {
        let mut config = RegistrarConfig::new(["example.com"]);
        (config.max_contacts, config.max_changes) = (MOST, 10_000);
        let mut rig = Rig::with(config.clone(), None);
        let mut models: [Model; 2] = Default::default();
        let mut elsewhere: BTreeMap<SavedKey, Saved> = BTreeMap::new();
        let mut time = 0;
        for act in acts {
            match act {
                Act::Register { user, call, cseq, contacts } => {
                    let mut wanted = request().user(&format!("u{user}")).call_id(&format!("call-{call}")).cseq(cseq);
                    wanted.vias = vec!["SIP/2.0/TCP 192.168.1.7:5060;branch=z9hG4bK1".to_owned()];
                    for (contact, expires, q) in &contacts {
                        let q = q.map_or(String::new(), |q| format!(";q={}.{:03}", q / 1_000, q % 1_000));
                        wanted = wanted.contact(&format!("<{}>;expires={expires}{q}", uri(*contact)));
                    }
                    let (expected, next) = register(&models[usize::from(user)], time, call, cseq, &contacts);
                    let flow = tcp("203.0.113.9:40001", u64::from(user) + 1);
                    prop_assert_eq!(status(&rig.send_over(wanted, &flow)), expected);
                    models[usize::from(user)] = next;
                }
                Act::Star { user, call, cseq } => {
                    let star = request().user(&format!("u{user}")).call_id(&format!("call-{call}")).cseq(cseq).contact("*").line("Expires: 0");
                    let model = &mut models[usize::from(user)];
                    let fine = model.keys().all(|contact| order_is_kept(model, *contact, call, cseq));
                    prop_assert_eq!(status(&rig.send(star)), if fine { 200 } else { 500 });
                    if fine {
                        model.clear();
                    }
                }
                Act::Pass(seconds) => {
                    time += u64::from(seconds);
                    rig.pass(Duration::from_secs(u64::from(seconds)));
                    models.iter_mut().for_each(|model| model.retain(|_, (_, _, end, _)| *end > time));
                }
                Act::Break(user) => {
                    let now = rig.now;
                    rig.registrar.flow_failed(now, &tcp("203.0.113.9:40001", u64::from(user) + 1));
                    models[usize::from(user)].retain(|contact, _| *contact >= 2);
                }
            }
            while let Some(change) = rig.registrar.poll_change() {
                match change {
                    Change::Set(saved) => drop(elsewhere.insert(saved.key(), *saved)),
                    Change::Remove(key) | Change::Expired(key) => prop_assert!(elsewhere.remove(&key).is_some(), "{:?} was not there", key),
                    Change::Lost => prop_assert!(false, "nothing was lost"),
                }
            }
            for (user, model) in models.iter().enumerate() {
                let mut found: Vec<(String, u16)> = rig.lookup(&format!("sip:u{user}@example.com")).unwrap().into_iter().map(|c| (c.uri, c.q)).collect();
                prop_assert!(found.is_sorted_by(|a, b| a.1 >= b.1));
                found.sort();
                let mut expected: Vec<(String, u16)> = model.iter().map(|(contact, (.., q))| (uri(*contact), q.unwrap_or(1_000))).collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
            let count = models.iter().map(BTreeMap::len).sum::<usize>();
            prop_assert_eq!((rig.registrar.len(), elsewhere.len()), (count, count));
        }
        // Whoever followed the changes has what an export says.
        let (exported, next) = rig.registrar.export(rig.now, rig.unix_s(), 0, 1_000);
        prop_assert_eq!(next, None);
        let exported: BTreeMap<SavedKey, Saved> = exported.into_iter().map(|saved| (saved.key(), saved)).collect();
        prop_assert_eq!(&exported, &elsewhere);
        // And a new process takes back those that do not hang on a connection.
        let mut restored = Registrar::new(config, None, &[9; 32]);
        for saved in exported.into_values() {
            let stays = saved.flow.is_none();
            prop_assert_eq!(restored.restore(rig.now, rig.unix_s(), saved), stays);
        }
    }
}

#[test]
fn a_restart_keeps_order_time_path_and_the_way_through_a_nat() {
    let mut rig = Rig::open();
    rig.send(request().cseq(7).contact("<sip:old@10.0.0.7>;q=0.5"));
    rig.pass(Duration::from_secs(100));
    let behind_nat = request()
        .call_id("new")
        .via("SIP/2.0/UDP 192.168.1.7:5060;branch=z9hG4bK1;rport")
        .contact("<sip:new@192.168.1.7:5060>;q=0.5");
    rig.send_over(behind_nat, &udp("203.0.113.9:40001"));
    let through = request()
        .call_id("path")
        .behind("SIP/2.0/UDP p1.example.com;branch=z9hG4bK2")
        .line("Path: <sip:p1.example.com;lr>");
    rig.send(through.contact("<sip:path@10.0.0.9>;q=0.1"));
    let before = rig.alice();
    let (mut exported, _) = rig.registrar.export(rig.now, rig.unix_s(), 0, 1_000);
    let text = serde_json::to_string(&exported).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Saved>>(&text).unwrap(), exported);

    exported.reverse();
    rig.registrar = Registrar::new(RegistrarConfig::new(["example.com"]), None, &[9; 32]);
    rig.pass(Duration::from_secs(1_000));
    for saved in exported.clone() {
        assert!(rig.registrar.restore(rig.now, rig.unix_s(), saved));
    }
    assert_eq!(rig.alice(), before);
    assert_eq!(status(&rig.send(request().cseq(7).contact("<sip:old@10.0.0.7>"))), 500, "the order rule goes on");
    rig.pass(Duration::from_secs(2_500));
    assert_eq!(rig.uris(), ["sip:new@192.168.1.7:5060", "sip:path@10.0.0.9"]);
    let mut other = exported[0].clone();
    other.aor = "alice@example.org".to_owned();
    assert!(!rig.registrar.restore(rig.now, rig.unix_s(), other));
    rig.pass(Duration::from_secs(1_000));
    assert!(!rig.registrar.restore(rig.now, rig.unix_s(), exported.remove(0)), "over");
}

#[test]
fn changes_that_nobody_fetches_are_given_up_and_said_to_be() {
    let mut config = RegistrarConfig::new(["example.com"]);
    config.max_changes = 5;
    let mut rig = Rig::with(config, None);
    for n in 0..100 {
        rig.send(request().user(&format!("u{n}")).contact("<sip:x@10.0.0.7>"));
    }
    let changes: Vec<Change> = std::iter::from_fn(|| rig.registrar.poll_change()).collect();
    assert!(changes.len() <= 5 && changes[0] == Change::Lost, "{changes:?}");
}
