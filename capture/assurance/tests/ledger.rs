//! Every INVITE has one outcome, whatever happens to the process and to the files.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferric_assurance::{Depth, Finished, GapEntry, Ledger, Outcome, Report, read, verify};
use ferric_media::keys::NodeKey;
use ferric_media::manifest::RecordingState;
use ferric_media::timestamp::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

type Told = Arc<Mutex<Vec<(Uuid, Outcome)>>>;

fn key() -> Arc<NodeKey> {
    Arc::new(NodeKey::generate(&mut StdRng::seed_from_u64(1)).unwrap())
}

fn open(folder: &Path) -> (Ledger, Told) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let on_outcome = Box::new(move |entry: &ferric_assurance::Entry| {
        tell.lock().unwrap().push((entry.invite.unwrap(), entry.outcome.unwrap()))
    });
    (Ledger::open(folder, key(), [7; 32], on_outcome).unwrap(), told)
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn done(state: RecordingState) -> Finished {
    Finished { part: 1, state, duration_ms: 5_000, manifest: None }
}

fn all(folder: &Path) -> Report {
    read(folder, Timestamp::from_unix_ms(0), Timestamp::from_unix_ms(i64::from(u32::MAX) * 1_000)).unwrap()
}

/// Both ways of looking must see the same.
fn check(folder: &Path) -> std::io::Result<ferric_assurance::Verification> {
    let every = verify(folder, key().public(), None, Depth::Every)?;
    let last = verify(folder, key().public(), None, Depth::Last)?;
    assert_eq!(every.broken.is_some(), last.broken.is_some(), "{every:?} {last:?}");
    Ok(every)
}

fn outcomes(report: &Report) -> HashMap<Uuid, Option<Outcome>> {
    report.calls.iter().map(|call| (call.invite, call.outcome)).collect()
}

#[test]
fn each_way_of_a_call_has_its_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, told) = open(folder.path());
    for number in 1..=6 {
        ledger.received(id(number), "acme", &format!("call-{number}"), "siprec");
    }
    // 1: whole. 2: in two recordings, one of them in part. 3 and 4: two halves of one call. 5: refused. 6: cancelled.
    ledger.recorded_by(id(1), id(101));
    ledger.ended(id(1), "bye");
    assert!(told.lock().unwrap().is_empty(), "its recording is not finished");
    ledger.finished(id(101), &done(RecordingState::Complete));
    for recording in [102, 103] {
        ledger.recorded_by(id(2), id(recording));
    }
    ledger.details(
        id(103),
        1,
        vec![GapEntry { channel: 1, from_ms: 5, to_ms: 900, reason: "no-rtp".into() }],
        Some("no media came".into()),
    );
    ledger.finished(id(103), &done(RecordingState::Partial));
    ledger.finished(id(102), &done(RecordingState::Complete));
    ledger.ended(id(2), "bye");
    for half in [3, 4] {
        ledger.recorded_by(id(half), id(104));
        ledger.ended(id(half), "bye");
    }
    ledger.finished(id(104), &done(RecordingState::Complete));
    ledger.refused(id(5), 503, "capacity");
    ledger.ended(id(6), "cancelled");
    // Told again, nothing changes.
    ledger.finished(id(101), &done(RecordingState::Partial));
    ledger.ended(id(1), "bye");
    ledger.refused(id(1), 500, "late");
    let report = all(folder.path());
    assert!(report.adds_up, "{:?}", report.problems);
    let totals = report.totals;
    assert_eq!((totals.received, totals.complete, totals.partial, totals.refused, totals.open), (6, 3, 1, 2, 0));
    let second = &report.calls[1];
    assert_eq!((second.cause.as_deref(), second.gap_count, second.recordings.len()), (Some("no media came"), 1, 2));
    assert_eq!(report.calls[4].status, Some(503));
    assert_eq!(told.lock().unwrap().len(), 6);
    assert_eq!(ledger.health(), (0, 0, 1), "the late refusal is a contradiction");
    let text =
        std::fs::read_to_string(std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path()).unwrap();
    assert!(!text.contains("call-1"), "a Call-ID stands there as a hash only");
    assert!(text.contains(&ferric_assurance::call_hash(&[7; 32], "call-1")));
}

#[test]
fn a_ledger_cut_at_any_byte_goes_on_and_loses_no_whole_line() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = open(folder.path());
    for number in 1..=4 {
        ledger.received(id(number), "acme", "c", "siprec");
        ledger.recorded_by(id(number), id(100 + number));
        ledger.ended(id(number), "bye");
        ledger.finished(id(100 + number), &done(RecordingState::Complete));
    }
    drop(ledger);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    let mut state = 5_u64;
    for _ in 0..120 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let cut = usize::try_from(state >> 33).unwrap() % whole.len();
        std::fs::write(&path, &whole[..cut]).unwrap();
        let kept = whole[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        let (ledger, _) = open(folder.path());
        // What the spool still knows is told again, then everything is settled.
        for number in 1..=4 {
            ledger.finished(id(100 + number), &done(RecordingState::Recovered));
        }
        ledger.settle("the node stopped", "edge-a1");
        drop(ledger);
        let report = all(folder.path());
        assert!(report.adds_up && report.totals.open == 0, "cut at {cut}: {:?}", report.problems);
        let verified = check(folder.path()).unwrap();
        assert_eq!(verified.broken, None, "cut at {cut}");
        assert!(verified.lines >= kept);
    }
}

#[test]
fn a_node_that_dies_settles_at_its_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = open(folder.path());
    for number in 1..=3 {
        ledger.received(id(number), "acme", "c", "siprec");
    }
    ledger.recorded_by(id(1), id(101));
    ledger.recorded_by(id(2), id(102));
    drop(ledger);
    let (ledger, told) = open(folder.path());
    ledger.finished(id(101), &done(RecordingState::Recovered));
    assert_eq!(ledger.settle("the node stopped", "edge-a1"), 3);
    let report = all(folder.path());
    let found = outcomes(&report);
    assert_eq!(found[&id(1)], Some(Outcome::Recovered));
    assert_eq!((found[&id(2)], found[&id(3)]), (Some(Outcome::Partial), Some(Outcome::Partial)));
    assert!(report.calls[1].cause.as_deref().unwrap().contains("the spool has nothing"));
    assert!(report.adds_up);
    assert_eq!(told.lock().unwrap().len(), 3);
    assert_eq!(ledger.settle("again", "edge-a1"), 0);
}

fn done_part(part: u32, state: RecordingState) -> Finished {
    Finished { part, ..done(state) }
}

#[test]
fn an_invite_waits_for_every_part_wherever_it_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = open(folder.path());
    ledger.received(id(1), "acme", "c", "siprec");
    ledger.recorded_by(id(1), id(101));
    ledger.placed(id(101), 1, "worker-1");
    ledger.placed(id(101), 2, "worker-2");
    // The other half of the call joins late.
    ledger.received(id(2), "acme", "d", "siprec");
    ledger.recorded_by(id(2), id(101));
    ledger.ended(id(1), "bye");
    ledger.ended(id(2), "bye");
    ledger.finished(id(101), &done_part(2, RecordingState::Complete));
    assert_eq!(outcomes(&all(folder.path()))[&id(1)], None);
    drop(ledger);
    // Over a restart: what another node has is not lost because this one stopped.
    let (ledger, _) = open(folder.path());
    assert_eq!(ledger.settle("the node stopped", "edge-a1"), 2);
    assert_eq!(outcomes(&all(folder.path()))[&id(1)], None);
    ledger.finished(id(101), &done_part(1, RecordingState::Recovered));
    let report = all(folder.path());
    for invite in [id(1), id(2)] {
        assert_eq!(outcomes(&report)[&invite], Some(Outcome::Recovered));
    }
    assert_eq!(report.calls[0].recordings, [id(101)], "one recording");
    assert!(report.adds_up && check(folder.path()).unwrap().broken.is_none());
}

#[test]
fn a_part_that_nobody_began_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = open(folder.path());
    ledger.received(id(1), "acme", "c", "siprec");
    ledger.recorded_by(id(1), id(101));
    ledger.placed(id(101), 2, "worker-2");
    ledger.placed(id(101), 4, "worker-3");
    // The other half joins what begins with its second part.
    ledger.received(id(3), "acme", "e", "siprec");
    ledger.recorded_by(id(3), id(101));
    ledger.finished(id(101), &done_part(2, RecordingState::Complete));
    ledger.finished(id(101), &done_part(3, RecordingState::Partial));
    ledger.ended(id(1), "bye");
    ledger.ended(id(3), "bye");
    assert_eq!(outcomes(&all(folder.path()))[&id(1)], None);
    ledger.finished(id(101), &done_part(4, RecordingState::Complete));
    assert_eq!(outcomes(&all(folder.path()))[&id(1)], Some(Outcome::Complete));
    assert_eq!(outcomes(&all(folder.path()))[&id(3)], Some(Outcome::Complete));
    // What this node itself should have is settled with its own start.
    ledger.received(id(2), "acme", "c", "siprec");
    ledger.recorded_by(id(2), id(201));
    ledger.placed(id(201), 1, "edge-a1");
    assert_eq!(ledger.settle("the node stopped", "edge-a1"), 1);
    assert_eq!(outcomes(&all(folder.path()))[&id(2)], Some(Outcome::Partial));
}

#[test]
fn any_changed_byte_shows() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = open(folder.path());
    for number in 1..=3 {
        ledger.received(id(number), "acme", "c", "siprec");
        ledger.refused(id(number), 488, "no-codec");
    }
    drop(ledger);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(check(folder.path()).unwrap().lines, 6);
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        std::fs::write(&path, &changed).unwrap();
        assert!(check(folder.path()).unwrap().broken.is_some(), "byte {at}");
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for gone in 1..lines.len() - 1 {
        let rest: Vec<u8> =
            lines.iter().enumerate().filter(|(at, _)| *at != gone).flat_map(|(_, line)| line.to_vec()).collect();
        std::fs::write(&path, rest).unwrap();
        assert!(check(folder.path()).unwrap().broken.is_some(), "without line {gone}");
    }
}

#[test]
fn what_has_no_outcome_in_time_is_overdue() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = open(folder.path());
    ledger.received(id(1), "acme", "c", "siprec");
    assert!(ledger.overdue(Duration::from_secs(3_600)).is_empty());
    assert_eq!(ledger.health().0, 1);
}

#[test]
fn many_calls_from_many_threads_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = open(folder.path());
    let threads: Vec<_> = (0..8_u128)
        .map(|thread| {
            let ledger = ledger.clone();
            std::thread::spawn(move || {
                let mut rng = StdRng::seed_from_u64(u64::try_from(thread).unwrap());
                for number in 0..250 {
                    let invite = id(thread * 10_000 + number + 1);
                    let recording = id(1_000_000 + thread * 10_000 + number);
                    ledger.received(invite, "acme", "c", "siprec");
                    if rng.random_bool(0.1) {
                        ledger.refused(invite, 503, "capacity");
                        continue;
                    }
                    ledger.recorded_by(invite, recording);
                    if rng.random_bool(0.5) {
                        ledger.finished(recording, &done(RecordingState::Complete));
                        ledger.ended(invite, "bye");
                    } else {
                        ledger.ended(invite, "bye");
                        ledger.finished(recording, &done(RecordingState::Complete));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    ledger.sync();
    let report = all(folder.path());
    assert!(report.adds_up, "{:?}", report.problems);
    assert_eq!((report.totals.received, report.totals.open), (2_000, 0));
    assert_eq!(check(folder.path()).unwrap().broken, None);
}

#[test]
fn a_call_that_changes_its_node_has_its_outcome_there() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ledger, _) = open(first.path());
    ledger.received(id(1), "acme", "c", "siprec");
    ledger.recorded_by(id(1), id(101));
    ledger.received(id(2), "acme", "d", "siprec");
    drop(ledger);
    let (partner, _) = open(second.path());
    partner.adopted(id(1), "acme", "c", "siprec");
    partner.recorded_by(id(1), id(101));
    partner.ended(id(1), "bye");
    partner.finished(id(101), &done(RecordingState::Complete));
    assert_eq!(ferric_assurance::adopted(second.path(), &[id(1), id(2)]).unwrap(), [id(1)]);
    // The first node is back and asks who has its calls.
    let (ledger, _) = open(first.path());
    let open_invites = ledger.open_invites();
    assert_eq!(open_invites, [id(1), id(2)]);
    ledger.moved(id(1), "edge-a2");
    ledger.settle_these(&open_invites, "the node stopped", "edge-a1");
    ledger.moved(id(1), "edge-a2");
    let (here, there) = (all(first.path()), all(second.path()));
    assert_eq!(outcomes(&here)[&id(1)], Some(Outcome::Moved));
    assert_eq!(here.calls[0].cause.as_deref(), Some("taken over by edge-a2"));
    assert_eq!(outcomes(&here)[&id(2)], Some(Outcome::Partial));
    assert_eq!(outcomes(&there)[&id(1)], Some(Outcome::Complete));
    assert_eq!((here.totals.received, here.totals.moved, there.totals.received, there.totals.adopted), (2, 1, 0, 1));
    assert!(here.adds_up && there.adds_up);
    // And it may come back.
    ledger.adopted(id(1), "acme", "c", "siprec");
    assert_eq!(ledger.health().0, 1);
    ledger.ended(id(1), "bye");
    let report = all(first.path());
    assert!(report.adds_up, "{:?}", report.problems);
    assert_eq!(report.totals.received, 2);
}
