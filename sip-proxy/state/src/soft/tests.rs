//! One or two nodes, by hand. Many nodes on a bad bus: `tests/convergence.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn node(name: &str, incarnation: u64, now: Instant, wall_ms: u64) -> Soft {
    let owner = Identity { node: NodeId::new(name).unwrap(), incarnation };
    let mut soft = Soft::new(SoftConfig::default(), owner, now, wall_ms, 1);
    soft.handle_link(now, true);
    soft
}

/// What a node sends when it does what is due at `now`.
fn sends(soft: &mut Soft, now: Instant) -> Vec<Bytes> {
    soft.handle_timeout(now);
    std::iter::from_fn(|| soft.poll_output())
        .filter_map(|output| match output {
            Output::Send(_, bytes) => Some(bytes),
            Output::Changed(..) | Output::Keep { .. } | Output::Joined { .. } => None,
        })
        .collect()
}

fn tell(from: &mut Soft, to: &mut Soft, now: Instant) {
    for bytes in sends(from, now) {
        to.handle_message(now, &bytes);
    }
}

fn value(soft: &Soft, now: Instant, kind: Kind, key: &[u8]) -> Option<Bytes> {
    soft.get(now, kind, key).map(|view| view.value)
}

#[test]
fn a_write_is_told_and_read_elsewhere_and_its_life_is_what_remained() {
    let now = Instant::now();
    let (mut a, mut b) = (node("a", 1, now, 0), node("b", 1, now, 0));
    a.put(now, Kind::Registration, b"alice", b"contact", 60 * SECOND).unwrap();
    let later = now + SECOND;
    tell(&mut a, &mut b, later);
    let view = b.get(later, Kind::Registration, b"alice").unwrap();
    assert_eq!((view.value, view.remaining), (Bytes::from_static(b"contact"), 59 * SECOND));
    let end = now + 60 * SECOND;
    assert_eq!(value(&b, end, Kind::Registration, b"alice"), None);
    while b.poll_output().is_some() {}
    b.handle_timeout(end);
    let changed = std::iter::from_fn(|| b.poll_output()).any(
        |output| matches!(output, Output::Changed(name, Change::Expired) if name.key == Bytes::from_static(b"alice")),
    );
    assert!(changed);
}

#[test]
fn a_removal_wins_over_the_write_it_removed_in_any_order() {
    let now = Instant::now();
    let (mut a, mut b) = (node("a", 1, now, 90_000), node("b", 1, now, 0));
    a.put(now, Kind::Registration, b"alice", b"1", 60 * SECOND).unwrap();
    let first = sends(&mut a, now + GATHER);
    for bytes in &first {
        b.handle_message(now + GATHER, bytes);
    }
    // The wall clock of b is 90 s behind.
    assert!(b.remove(now + GATHER, Kind::Registration, b"alice"));
    assert!(!b.remove(now + GATHER, Kind::Registration, b"alice"));
    tell(&mut b, &mut a, now + 2 * GATHER);
    for bytes in &first {
        a.handle_message(now + 2 * GATHER, bytes);
        b.handle_message(now + 2 * GATHER, bytes);
    }
    for soft in [&a, &b] {
        assert_eq!(value(soft, now + 2 * GATHER, Kind::Registration, b"alice"), None);
    }
    assert_eq!(a.digests(), b.digests());
}

#[test]
fn a_tombstone_outlives_every_copy_of_what_it_removed() {
    let now = Instant::now();
    let (mut a, mut cut_off) = (node("a", 1, now, 0), node("b", 1, now, 0));
    let most = SoftConfig::default().life[Kind::Registration.place()];
    a.put(now, Kind::Registration, b"alice", b"1", most).unwrap();
    tell(&mut a, &mut cut_off, now + GATHER);
    let copy = cut_off.table.get(&Name { kind: Kind::Registration, key: "alice".into() }).unwrap().ends;
    a.remove(now + GATHER, Kind::Registration, b"alice");
    assert!(a.table.get(&Name { kind: Kind::Registration, key: "alice".into() }).unwrap().ends > copy);
}

#[test]
fn what_belongs_to_a_process_is_written_again_while_it_runs_and_not_after_another_took_it() {
    let mut now = Instant::now();
    let (mut a, mut b) = (node("a", 1, now, 0), node("b", 1, now, 0));
    a.put(now, Kind::Session, b"call", b"at a", 60 * SECOND).unwrap();
    for _ in 0..20 {
        now += 10 * SECOND;
        tell(&mut a, &mut b, now);
        tell(&mut a, &mut b, now + GATHER);
        assert_eq!(value(&b, now + GATHER, Kind::Session, b"call").as_deref(), Some(&b"at a"[..]));
    }
    b.put(now + GATHER, Kind::Session, b"call", b"at b", 60 * SECOND).unwrap();
    tell(&mut b, &mut a, now + 2 * GATHER);
    assert!(a.held.is_empty() && a.again.is_empty());
    assert_eq!(value(&a, now + 2 * GATHER, Kind::Session, b"call").as_deref(), Some(&b"at b"[..]));
}

#[test]
fn load_goes_with_its_worker_and_sessions_stay() {
    let now = Instant::now();
    let (mut a, mut b) = (node("a", 1, now, 0), node("b", 1, now, 0));
    a.put(now, Kind::Load, b"a", b"7", 10 * SECOND).unwrap();
    a.put(now, Kind::Session, b"call", b"at a", 60 * SECOND).unwrap();
    let now = now + GATHER;
    tell(&mut a, &mut b, now);
    let name = NodeId::new("a").unwrap();
    b.handle_node(now, &name, false);
    assert_eq!((b.iter(now, Kind::Load).count(), b.iter(now, Kind::Session).count()), (0, 1));
    b.handle_node(now, &name, true);
    assert_eq!(b.iter(now, Kind::Load).count(), 1);
    // The node starts anew: what its last process told of itself is void, what it carried may be taken over.
    let mut anew = node("a", 2, now, 0);
    tell(&mut anew, &mut b, now);
    assert_eq!((b.iter(now, Kind::Load).count(), b.iter(now, Kind::Session).count()), (0, 1));
}

#[test]
fn limits_are_kept_and_told() {
    let now = Instant::now();
    let owner = Identity { node: NodeId::new("a").unwrap(), incarnation: 1 };
    let config = SoftConfig { most: [1, 1, 1], ..SoftConfig::default() };
    let mut soft = Soft::new(config, owner, now, 0, 1);
    let mut put = |key: &[u8], value: &[u8], life| soft.put(now, Kind::Load, key, value, life);
    assert_eq!(put(b"", b"", SECOND), Err(PutError::Key(0)));
    assert_eq!(put(&[0; 513], b"", SECOND), Err(PutError::Key(513)));
    assert_eq!(put(b"k", &[0; 16_385], SECOND), Err(PutError::Value(16_385)));
    assert!(matches!(put(b"k", b"", Duration::ZERO), Err(PutError::Life { .. })));
    assert!(matches!(put(b"k", b"", 16 * SECOND), Err(PutError::Life { .. })));
    assert_eq!(put(b"k", b"", SECOND), Ok(()));
    assert_eq!(put(b"other", b"", SECOND), Err(PutError::Full(1)));
    assert_eq!(put(b"k", b"again", SECOND), Ok(()));
    let mut b = node("b", 1, now, 0);
    b.put(now, Kind::Load, b"theirs", b"", SECOND).unwrap();
    for bytes in sends(&mut b, now + GATHER) {
        soft.handle_message(now + GATHER, &bytes);
    }
    assert_eq!(soft.counters().full, 1);
}

#[test]
fn records_bring_back_what_was_there_less_their_age_and_nothing_that_was_removed() {
    let now = Instant::now();
    let mut before = node("a", 1, now, 0);
    before.put(now, Kind::Registration, b"alice", b"1", 60 * SECOND).unwrap();
    before.put(now, Kind::Registration, b"bob", b"1", 60 * SECOND).unwrap();
    before.put(now, Kind::Load, b"w", b"1", SECOND).unwrap();
    before.remove(now, Kind::Registration, b"bob");
    let mut records: Vec<_> = std::iter::from_fn(|| before.poll_output())
        .filter_map(|output| match output {
            Output::Keep { id, record, .. } => Some((id, record)),
            Output::Send(..) | Output::Changed(..) | Output::Joined { .. } => None,
        })
        .collect();
    assert_eq!(records.len(), 3, "alice, bob, bob removed; no load");
    for _ in 0..2 {
        records.reverse();
        let mut after = node("a", 2, now, 0);
        for (_, record) in &records {
            after.restore(now, record, 20 * SECOND);
        }
        assert_eq!(after.get(now, Kind::Registration, b"alice").unwrap().remaining, 40 * SECOND);
        assert_eq!(after.live(Kind::Registration), 1);
        let mut late = node("a", 3, now, 0);
        late.restore(now, &records[0].1, 90_000 * SECOND);
        assert_eq!(late.live(Kind::Registration) + late.left(), 0);
    }
}

#[test]
fn a_node_alone_says_so_after_a_while_and_one_that_joins_has_the_snapshot() {
    let now = Instant::now();
    let mut a = node("a", 1, now, 0);
    let joined = |soft: &mut Soft| {
        std::iter::from_fn(|| soft.poll_output()).find_map(|output| match output {
            Output::Joined { alone } => Some(alone),
            Output::Send(..) | Output::Changed(..) | Output::Keep { .. } => None,
        })
    };
    a.handle_timeout(now);
    assert_eq!(joined(&mut a), None);
    a.handle_timeout(now + 3 * SECOND);
    assert_eq!(joined(&mut a), Some(true));
    for number in 0..5000 {
        let key = format!("user{number}");
        a.put(now, Kind::Registration, key.as_bytes(), b"contact", 600 * SECOND).unwrap();
    }
    let now = now + 4 * SECOND;
    sends(&mut a, now);
    let mut b = node("b", 1, now, 0);
    b.handle_timeout(now);
    let mut told = None;
    loop {
        let from_b: Vec<_> = std::iter::from_fn(|| b.poll_output()).collect();
        if from_b.is_empty() {
            break;
        }
        for output in from_b {
            match output {
                Output::Send(_, bytes) => a.handle_message(now, &bytes),
                Output::Joined { alone } => told = Some(alone),
                Output::Changed(..) | Output::Keep { .. } => {}
            }
        }
        while let Some(output) = a.poll_output() {
            if let Output::Send(_, bytes) = output {
                b.handle_message(now, &bytes);
            }
        }
    }
    assert_eq!((told, b.live(Kind::Registration)), (Some(false), 5000));
    assert_eq!(a.digests(), b.digests());
}

#[test]
fn twins_strangers_and_own_echoes_are_told_apart() {
    let now = Instant::now();
    let (mut a, mut twin) = (node("a", 1, now, 0), node("a", 2, now, 0));
    let own = sends(&mut a, now);
    for bytes in own {
        a.handle_message(now, &bytes);
    }
    a.handle_message(now, b"\x09");
    a.handle_message(now, b"noise");
    assert_eq!((a.counters().twins, a.counters().newer, a.counters().unreadable), (0, 2, 0));
    tell(&mut twin, &mut a, now);
    assert_eq!(a.counters().twins, 1);
}

#[test]
fn a_node_that_comes_back_is_compared_with_at_once() {
    let now = Instant::now();
    let (mut a, mut b) = (node("a", 1, now, 0), node("b", 1, now, 0));
    tell(&mut b, &mut a, now);
    tell(&mut a, &mut b, now);
    let peer = NodeId::new("b").unwrap();
    a.handle_node(now, &peer, false);
    // b writes what nobody hears.
    b.put(now, Kind::Registration, b"alice", b"contact", 60 * SECOND).unwrap();
    sends(&mut b, now + GATHER);
    let back = now + SECOND;
    assert!(sends(&mut a, back).is_empty(), "the next digest is not due");
    a.handle_node(back, &peer, true);
    for _ in 0..4 {
        tell(&mut a, &mut b, back);
        tell(&mut b, &mut a, back);
    }
    assert_eq!(value(&a, back, Kind::Registration, b"alice"), Some(Bytes::from_static(b"contact")));
}
