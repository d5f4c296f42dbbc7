//! The crash model: a recording is cut at every byte and at every step, and
//! what comes back must open, be as long as its index says, and lose nothing whole.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

use super::*;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use ferric_media::eopus::Content;
use ferric_media::keys::PrivateKey;
use ferric_media::manifest::verify_chain;
use ferric_media::open::{OpenError, Opener, open_all};
use ferric_media::part::Part;
use ferric_media::seal::{SealHeader, Sealer, seal_document};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use uuid::Uuid;

use crate::spool::{make_dir, write_whole};
use crate::spool_chain::{CHAIN, stored_head};
use crate::spool_commit::{Finisher, Step};
use crate::spool_writer::RecordingEnd;
use crate::spool_writer::tests::start;

fn tenant() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(&mut StdRng::seed_from_u64(1)).unwrap())
}

fn node() -> Arc<NodeKey> {
    Arc::new(NodeKey::generate(&mut StdRng::seed_from_u64(2)).unwrap())
}

fn header(number: u128, content: Content) -> SealHeader {
    SealHeader { part: start(number).part, tenant: "acme".into(), content, created: start(number).started_at }
}

fn metadata(number: u128) -> Vec<u8> {
    let recipients = [tenant().public().clone()];
    seal_document(&header(number, Content::Json), &recipients, b"{}", &mut StdRng::seed_from_u64(3)).unwrap().0
}

/// Plaintext of a segment.
fn second(n: u32) -> Vec<u8> {
    vec![n as u8; 40]
}

/// Records `seconds` segments and leaves the call running, or ends it.
fn record(spool: &Spool, number: u128, seconds: u32, end: bool) -> Option<FinishedRecording> {
    let recipients = [tenant().public().clone()];
    let mut rng = StdRng::seed_from_u64(number as u64);
    let (mut sealer, first) = Sealer::new(&header(number, Content::OggOpus), &recipients, &mut rng).unwrap();
    let mut writer = spool.begin(start(number), &first, &metadata(number)).unwrap();
    for n in 1..=seconds {
        let mut sealed = Vec::new();
        sealer.seal(&second(n), &mut sealed).unwrap();
        writer.append(sealed, sealer.segments(), u64::from(n) * 1000).unwrap();
    }
    end.then(|| {
        let mut sealed = Vec::new();
        let summary = sealer.finish(&second(seconds + 1), &mut sealed).unwrap();
        let duration_ms = u64::from(seconds) * 1000 + 460;
        let ended_at = Timestamp::from_unix_ms(start(number).started_at.unix_ms() + duration_ms as i64 + 3);
        writer.finish(RecordingEnd { sealed, summary, duration_ms, ended_at, metadata: Some(metadata(number)) })
    })
}

/// Everything a reader with the key can get, and how it ends.
fn open_ready(spool: &Spool, number: u128) -> (Vec<u8>, Result<(), OpenError>) {
    let file = fs::read(spool.folder(Stage::Ready, Uuid::from_u128(number)).join(AUDIO)).unwrap();
    let (mut opener, mut out) = (Opener::new(tenant()), Vec::new());
    let result = opener.push(&file, &mut out).and_then(|()| opener.finish().map(drop));
    (out, result)
}

fn manifests(spool: &Spool) -> Vec<SignedManifest> {
    let mut all = Vec::new();
    for stage in [Stage::Recording, Stage::Ready] {
        for folder in spool.entries(stage).unwrap() {
            all.extend(fs::read(folder.join(MANIFEST)).ok().map(|file| SignedManifest::parse(&file).unwrap()));
        }
    }
    all
}

/// All recordings lie in `ready`, agree with their manifests, and hang on one chain that ends at the stored head.
fn assert_sound(spool: &Spool, count: usize) {
    assert!(spool.entries(Stage::Recording).unwrap().is_empty());
    let all = manifests(spool);
    assert_eq!(all.len(), count);
    for signed in &all {
        let folder = spool.folder(Stage::Ready, signed.manifest.part.file);
        let measured = measure(&folder.join(AUDIO)).unwrap();
        let file = fs::read(folder.join(AUDIO)).unwrap();
        signed.check_audio(file.len() as u64, Digest::of(&file), Some(measured.position.segments)).unwrap();
        let metadata = fs::read(folder.join(METADATA)).unwrap();
        signed.check_metadata(Some((metadata.len() as u64, Digest::of(&metadata)))).unwrap();
        assert_eq!(open_all(tenant(), &metadata).unwrap(), b"{}");
    }
    let chain = verify_chain(&all, node().public()).unwrap();
    assert!(chain.is_whole(), "{chain:?}");
    assert!(chain.missing.is_empty(), "{chain:?}");
    let named: Vec<Digest> = all.iter().filter_map(|signed| signed.manifest.previous).collect();
    let tails: Vec<Digest> = all.iter().map(SignedManifest::digest).filter(|digest| !named.contains(digest)).collect();
    assert_eq!(tails, stored_head(spool).into_iter().collect::<Vec<_>>());
}

/// The files of a folder tree.
fn snapshot(root: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn restore(files: &BTreeMap<std::path::PathBuf, Vec<u8>>) -> (tempfile::TempDir, Spool) {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = dir.path().join(path);
        make_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let spool = Spool::open(dir.path()).unwrap();
    (dir, spool)
}

fn recovered(spool: &Spool) -> Recovery {
    recover(spool, node(), "edge-a1", None).unwrap().1
}

#[test]
fn the_audio_may_be_cut_at_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    record(&spool, 1, 3, false);
    let files = snapshot(dir.path());
    let audio = Path::new("recording").join(Uuid::from_u128(1).to_string()).join(AUDIO);
    let whole = &files[&audio];
    let segment = 4 + 40 + 16;
    let header = whole.len() - 3 * segment;
    for cut in 0..=whole.len() {
        let mut files = files.clone();
        files.insert(audio.clone(), whole[..cut].to_vec());
        let (_dir, spool) = restore(&files);
        let recovery = recovered(&spool);
        if cut < header {
            assert_eq!((recovery.finished.len(), recovery.aside.len()), (0, 1), "cut at {cut}");
            assert!(recovery.aside[0].1.contains("nothing was recorded yet"));
            continue;
        }
        let kept = (cut - header) / segment;
        let manifest = &recovery.finished[0].manifest;
        assert_eq!(
            (manifest.state, manifest.duration_ms),
            (RecordingState::Recovered, kept as u64 * 1000),
            "cut at {cut}"
        );
        assert_eq!(manifest.started_at.plus(std::time::Duration::from_millis(manifest.duration_ms)), manifest.ended_at);
        assert_eq!(manifest.audio.segments as usize, kept);
        let (plain, result) = open_ready(&spool, 1);
        assert_eq!(plain, (1..=kept as u32).flat_map(second).collect::<Vec<_>>(), "cut at {cut}");
        assert!(matches!(result, Err(OpenError::Cut { .. })), "{result:?}");
        assert_sound(&spool, 1);
    }
}

#[test]
fn the_index_may_be_cut_at_any_byte_or_end_in_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    record(&spool, 1, 3, false);
    let files = snapshot(dir.path());
    let index = Path::new("recording").join(Uuid::from_u128(1).to_string()).join(INDEX);
    for cut in 0..files[&index].len() {
        for zeros in [0, 64] {
            let mut files = files.clone();
            let mut bytes = files[&index][..cut].to_vec();
            bytes.extend(vec![0; zeros]);
            files.insert(index.clone(), bytes);
            let (_dir, spool) = restore(&files);
            let recovery = recovered(&spool);
            let manifest = &recovery.finished[0].manifest;
            assert_eq!((manifest.tenant.as_str(), manifest.node.as_str()), ("acme", "edge-a1"));
            assert_eq!(open_ready(&spool, 1).0.len(), 120, "no audio hangs on the index");
        }
    }
}

#[test]
fn a_finished_recording_whose_manifest_was_not_written_is_complete_if_all_of_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let (mut committer, _) = recover(&spool, node(), "edge-a1", None).unwrap();
    let finished = record(&spool, 1, 2, true).unwrap();
    let result = committer.commit_with(vec![finished], &mut |step| match step {
        Step::Filled => Err(SpoolError::Exists(Uuid::nil())),
        Step::Manifest | Step::FirstSync | Step::Head | Step::Moved | Step::SecondSync => Ok(()),
    });
    assert_eq!(result.failed.len(), 1);
    drop((result, committer));
    let recovery = recovered(&spool);
    let manifest = &recovery.finished[0].manifest;
    assert_eq!((manifest.state, manifest.duration_ms), (RecordingState::Complete, 2460));
    assert_eq!(manifest.ended_at.unix_ms() - manifest.started_at.unix_ms(), 2463);
    assert_eq!(open_ready(&spool, 1).1, Ok(()));
    assert_sound(&spool, 1);
}

/// Runs a batch of three behind one earlier recording and stops after step `stop`; the state then on disk.
fn stopped_after(stop: usize) -> Option<BTreeMap<std::path::PathBuf, Vec<u8>>> {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let (mut committer, _) = recover(&spool, node(), "edge-a1", None).unwrap();
    let first = record(&spool, 1, 1, true).unwrap();
    assert_eq!(committer.commit(vec![first]).ready.len(), 1);
    let batch = [2, 3, 4].map(|number| record(&spool, number, 2, true).unwrap());
    let (mut steps, mut at_stop) = (0, None);
    let _ = committer.commit_with(batch.into(), &mut |_| {
        if steps == stop {
            at_stop = Some(snapshot(dir.path()));
        }
        steps += 1;
        Ok(())
    });
    at_stop
}

#[test]
fn the_commit_of_a_batch_may_stop_after_any_step() {
    let mut stop = 0;
    while let Some(files) = stopped_after(stop) {
        let (_dir, spool) = restore(&files);
        let recovery = recovered(&spool);
        assert_eq!(recovery.aside, [], "stopped after step {stop}");
        assert_eq!(recovery.finished.len() + recovery.ready.len(), 4, "stopped after step {stop}");
        assert_sound(&spool, 4);
        for number in 1..=4 {
            let all = manifests(&spool);
            let state = all.iter().find(|m| m.manifest.part.file == Uuid::from_u128(number)).unwrap().manifest.state;
            // What was not yet filled when it stopped lacks its last segment.
            assert!(state == RecordingState::Complete || stop < 6, "{state:?} after step {stop}");
        }
        stop += 1;
    }
    assert_eq!(stop, 12, "three fills, three manifests, two syncs, the head and three moves");
}

#[test]
fn moves_and_the_head_may_reach_the_disk_in_any_order() {
    // A disk that kept any selection of the moves after the manifests were synced, with or without the head.
    let last = stopped_after(11).unwrap();
    let manifests_only = stopped_after(6).unwrap();
    for moved in 0..8u32 {
        for head in [true, false] {
            let mut files = if head { last.clone() } else { manifests_only.clone() };
            for (bit, number) in [2u128, 3, 4].into_iter().enumerate() {
                let (ready, recording) = (Path::new("ready"), Path::new("recording"));
                let id = Uuid::from_u128(number).to_string();
                let (to, from) = if moved & (1 << bit) != 0 { (ready, recording) } else { (recording, ready) };
                let there: Vec<_> = files.keys().filter(|path| path.starts_with(from.join(&id))).cloned().collect();
                for path in there {
                    let bytes = files.remove(&path).unwrap();
                    files.insert(to.join(path.strip_prefix(from).unwrap()), bytes);
                }
            }
            let (_dir, spool) = restore(&files);
            recovered(&spool);
            assert!(spool.entries(Stage::Recording).unwrap().is_empty());
            let all = manifests(&spool);
            let chain = verify_chain(&all, node().public()).unwrap();
            assert!(all.len() == 4 && chain.is_whole(), "moved {moved:03b}, head {head}: {chain:?}");
        }
    }
}

#[test]
fn a_lost_chain_file_is_read_out_of_the_manifests() {
    let mut files = stopped_after(11).unwrap();
    files.remove(Path::new(CHAIN));
    let (_dir, spool) = restore(&files);
    let (mut committer, _) = recover(&spool, node(), "edge-a1", None).unwrap();
    let next = record(&spool, 5, 1, true).unwrap();
    assert_eq!(committer.commit(vec![next]).ready.len(), 1);
    assert_sound(&spool, 5);

    let empty = tempfile::tempdir().unwrap();
    let spool = Spool::open(empty.path()).unwrap();
    let hint = Digest::of(b"the catalogue knows it");
    let (mut committer, _) = recover(&spool, node(), "edge-a1", Some(hint)).unwrap();
    let next = record(&spool, 6, 1, true).unwrap();
    assert_eq!(committer.commit(vec![next]).ready[0].manifest.previous, Some(hint));
}

#[test]
fn a_head_that_was_read_out_of_manifests_outlives_them() {
    let mut files = stopped_after(11).unwrap();
    files.insert(CHAIN.into(), stopped_after(0).unwrap()[Path::new(CHAIN)].clone());
    let (_dir, spool) = restore(&files);
    recovered(&spool);
    let last =
        manifests(&spool).into_iter().find(|signed| signed.manifest.part.file == Uuid::from_u128(4)).unwrap().digest();
    for (id, _) in spool.ready().unwrap() {
        spool.remove_sent(id).unwrap();
    }
    let (mut committer, _) = recover(&spool, node(), "edge-a1", None).unwrap();
    let next = record(&spool, 5, 1, true).unwrap();
    assert_eq!(committer.commit(vec![next]).ready[0].manifest.previous, Some(last));
}

#[test]
fn two_parts_of_a_recording_come_back_as_what_they_are() {
    for keeps_index in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let second = Part::new(Uuid::from_u128(1), 2, Uuid::from_u128(2));
        record(&spool, 1, 2, false);
        let head = SealHeader { part: second, ..header(1, Content::OggOpus) };
        let recipients = [tenant().public().clone()];
        let (mut sealer, first) = Sealer::new(&head, &recipients, &mut StdRng::seed_from_u64(7)).unwrap();
        let begun = RecordingStart { part: second, ..start(1) };
        let mut writer = spool.begin(begun, &first, &metadata(1)).unwrap();
        let mut sealed = Vec::new();
        sealer.seal(&self::second(1), &mut sealed).unwrap();
        writer.append(sealed, sealer.segments(), 1_000).unwrap();
        drop((writer, spool));
        // The node is dead; another life of it begins.
        let spool = Spool::open(dir.path()).unwrap();
        if !keeps_index {
            fs::remove_file(spool.folder(Stage::Recording, second.file).join(INDEX)).unwrap();
        }
        let (_, recovery) = recover(&spool, node(), "edge-a1", None).unwrap();
        let parts: Vec<Part> = recovery.finished.iter().map(|signed| signed.manifest.part).collect();
        assert_eq!(parts, [Part::first(Uuid::from_u128(1)), second], "index kept: {keeps_index}");
        assert!(verify_chain(&recovery.finished, node().public()).unwrap().is_whole());
        assert_eq!(open_ready(&spool, 2).0, self::second(1));
    }
}

#[test]
fn one_bad_folder_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let (mut committer, _) = recover(&spool, node(), "edge-a1", None).unwrap();
    for number in [1, 2, 3] {
        let finished = record(&spool, number, 1, true).unwrap();
        committer.commit(vec![finished]);
    }
    let ready = |number: u128, name: &str| spool.folder(Stage::Ready, Uuid::from_u128(number)).join(name);
    fs::write(ready(1, AUDIO), b"short").unwrap();
    let manifest = fs::read_to_string(ready(2, MANIFEST)).unwrap().replace("acme", "acne");
    fs::write(ready(2, MANIFEST), manifest).unwrap();
    record(&spool, 4, 1, false);
    write_whole(&spool.folder(Stage::Recording, Uuid::from_u128(4)).join(AUDIO), b"garbage").unwrap();
    record(&spool, 5, 2, false);
    fs::write(spool.stage(Stage::Recording).join("stray"), b"x").unwrap();
    make_dir(&spool.folder(Stage::Recording, Uuid::from_u128(6)).with_extension("new")).unwrap();
    make_dir(&spool.folder(Stage::Sent, Uuid::from_u128(7))).unwrap();
    drop((committer, spool));

    let spool = Spool::open(dir.path()).unwrap();
    let recovery = recovered(&spool);
    let reasons: BTreeMap<&str, &str> =
        recovery.aside.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
    let why = |number: u128| reasons[Uuid::from_u128(number).to_string().as_str()];
    assert_eq!(why(1), "audio.eopus is 5 bytes long; the manifest says 769 bytes long");
    assert!(why(2).contains("altered after it was signed"));
    assert!(why(4).contains("not an EOPUS file"));
    assert_eq!(reasons["stray"], "this is no recording");
    assert_eq!(reasons.len(), 4);
    assert_eq!(recovery.ready.len(), 1);
    assert_eq!(recovery.finished[0].manifest.part.file, Uuid::from_u128(5));
    assert_eq!(open_ready(&spool, 5).0.len(), 80);
    assert!(spool.entries(Stage::Sent).unwrap().is_empty());
    assert_eq!(spool.ready().unwrap().len(), 2);
    let bytes: u64 = spool.ready().unwrap().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!((spool.usage().recordings(), spool.usage().bytes()), (2, bytes));
}

#[test]
fn an_altered_length_field_ends_the_whole_part() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    record(&spool, 1, 3, false);
    let path = spool.folder(Stage::Recording, Uuid::from_u128(1)).join(AUDIO);
    let mut file = fs::read(&path).unwrap();
    let at = file.len() - 60;
    file[at] = 0xff;
    fs::write(&path, file).unwrap();
    let recovery = recovered(&spool);
    assert_eq!(recovery.finished[0].manifest.duration_ms, 2000);
    assert_eq!(open_ready(&spool, 1).0.len(), 80);
}

#[test]
fn the_finisher_commits_what_it_is_given_and_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let (committer, _) = recover(&spool, node(), "edge-a1", None).unwrap();
    let (sender, ready) = crossbeam_channel::unbounded();
    let finisher = Finisher::start(committer, move |signed| {
        let _ = sender.send(signed.manifest.part.file);
    })
    .unwrap();
    finisher.submit(record(&spool, 1, 1, true).unwrap());
    assert_eq!(ready.recv().unwrap(), Uuid::from_u128(1));
    // A folder in the way of the move: the manifest stands, and the move is made up for at the end.
    let second = record(&spool, 2, 1, true).unwrap();
    let blocker = spool.folder(Stage::Ready, Uuid::from_u128(2));
    make_dir(&blocker).unwrap();
    fs::write(blocker.join("in the way"), b"").unwrap();
    finisher.submit(second);
    finisher.submit(record(&spool, 3, 1, true).unwrap());
    assert_eq!(ready.recv().unwrap(), Uuid::from_u128(3), "the others go on");
    fs::remove_dir_all(&blocker).unwrap();
    let committer = finisher.stop().unwrap();
    assert_eq!(ready.recv().unwrap(), Uuid::from_u128(2));
    assert_eq!(committer.head(), stored_head(&spool));
    assert_sound(&spool, 3);
    let bytes: u64 = spool.ready().unwrap().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!((spool.usage().recordings(), spool.usage().bytes()), (3, bytes));
}
