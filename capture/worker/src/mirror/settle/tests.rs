#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]
use std::sync::{Mutex, OnceLock};

use ferric_media::eopus::Content;
use ferric_media::keys::{NodeKey, PrivateKey};
use ferric_media::manifest::SignedManifest;
use ferric_media::part::Part;
use ferric_media::seal::{SealHeader, Sealer};
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng as _};

use super::*;
use crate::recover::recover;
use crate::spool_index::RecordingStart;
use crate::spool_writer::RecordingEnd;
use crate::store::Target;
use crate::upload_limit::Limiter;
use crate::upload_transfer::{PART, Transfer};

const START_MS: i64 = 1_772_352_538_250;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(START_MS + seconds * 1_000)
}

fn outcome(state: RecordingState, from: i64, to: i64) -> Outcome {
    Outcome { state, started_at: at(from), ended_at: at(to) }
}

#[test]
fn what_is_deleted_was_seen_in_the_store_and_whatever_is_better_is_kept() {
    use RecordingState::{Complete, Partial, Recovered};
    let patience = Patience::default();
    let (mine, long) = (outcome(Complete, 0, 60), Duration::from_secs(100_000));
    let judged = |role, found: Found, word, held_for| judge(role, &mine, held_for, &found, word, patience);
    let stored = |state, from, to| Found::Stored(outcome(state, from, to));
    let words = [Word::Coming, Word::Held(Some(mine)), Word::Held(None), Word::Gone, Word::Silent];
    for role in [Role::Original, Role::Copy] {
        for word in words {
            for held_for in [Duration::ZERO, long] {
                // A store that says nothing keeps everything where it is.
                assert_eq!(judged(role, Found::Unknown, word, held_for), Verdict::Wait);
                assert_ne!(judged(role, Found::Absent, word, held_for), Verdict::Drop);
                assert_eq!(judged(role, stored(Complete, 0, 60), word, held_for), Verdict::Drop);
                assert_eq!(judged(role, stored(Recovered, 0, 60), word, held_for), Verdict::Drop);
                for (state, from, to) in [(Recovered, 0, 58), (Complete, 2, 60), (Partial, 0, 60)] {
                    let verdict = judged(role, stored(state, from, to), word, held_for);
                    assert!(matches!(verdict, Verdict::Release(_)), "{state:?} {from} {to}");
                }
            }
        }
        assert_eq!(judged(role, Found::Absent, Word::Coming, long), Verdict::Wait);
        assert!(matches!(judged(role, Found::Absent, Word::Gone, Duration::ZERO), Verdict::Release(_)));
    }
    let silent = |role, minutes: u64| judged(role, Found::Absent, Word::Silent, Duration::from_secs(minutes * 60));
    assert_eq!([silent(Role::Copy, 9), silent(Role::Original, 19)], [Verdict::Wait; 2]);
    assert!(matches!(silent(Role::Copy, 10), Verdict::Release(_)));
    assert!(matches!(silent(Role::Original, 20), Verdict::Release(_)));
}

#[test]
fn a_node_says_what_it_has_of_some_files() {
    let node = Node::new("edge-a");
    let file = Uuid::from_u128(7);
    assert_eq!(Word::of(node.spool(), file), Word::Gone);
    for (stage, word) in [
        (Stage::Recording, Word::Coming),
        (Stage::Ready, Word::Coming),
        (Stage::Held, Word::Held(None)),
        // It may be damaged for good.
        (Stage::Aside, Word::Gone),
    ] {
        let folder = node.spool().folder(stage, file);
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(Word::of(node.spool(), file), word, "{stage:?}");
        std::fs::remove_dir(folder).unwrap();
    }
}

#[test]
fn of_two_that_wait_for_each_other_exactly_one_goes_first() {
    use RecordingState::{Complete, Partial, Recovered};
    let all = [Complete, Recovered, Partial].into_iter().flat_map(|state| [30, 60].map(|to| outcome(state, 0, to)));
    for original in all.clone() {
        for copy in all.clone() {
            let first = goes_first(Role::Original, &original, &copy);
            assert_ne!(first, goes_first(Role::Copy, &copy, &original), "{original:?} {copy:?}");
        }
    }
    assert!(goes_first(Role::Copy, &outcome(Complete, 0, 30), &outcome(Recovered, 0, 30)));
}

fn tenant() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(&mut StdRng::seed_from_u64(1)).unwrap())
}

/// A node of the model: a folder that outlives its crashes.
struct Node {
    dir: tempfile::TempDir,
    name: &'static str,
    alive: bool,
    spool: Option<Spool>,
    /// Released and not yet committed: lost in a crash.
    submitted: Arc<Mutex<Vec<FinishedRecording>>>,
    /// What the catalogue heard of.
    dropped: Arc<Mutex<Vec<Part>>>,
    committer: Option<crate::spool_commit::Committer>,
}

impl Node {
    fn new(name: &'static str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Node {
            dir,
            name,
            alive: false,
            spool: None,
            submitted: Arc::default(),
            dropped: Arc::default(),
            committer: None,
        };
        node.start();
        node
    }

    fn start(&mut self) {
        let spool = Spool::open(self.dir.path()).unwrap();
        let key = Arc::new(NodeKey::generate(&mut StdRng::seed_from_u64(2)).unwrap());
        let (committer, recovery) = recover(&spool, key, self.name, None).unwrap();
        assert!(recovery.aside.is_empty(), "{:?}", recovery.aside);
        (self.spool, self.committer, self.alive) = (Some(spool), Some(committer), true);
    }

    fn crash(&mut self) {
        self.alive = false;
        self.submitted.lock().unwrap().clear();
        (self.spool, self.committer) = (None, None);
    }

    fn spool(&self) -> &Spool {
        self.spool.as_ref().unwrap()
    }

    /// Records so many seconds from the start; `end` says whether the call ended or the node died.
    fn record(&mut self, part: Part, twin: Twin, seconds: u32, end: bool) {
        let header = SealHeader { part, tenant: "acme".into(), content: Content::OggOpus, created: at(0) };
        let recipients = [tenant().public().clone()];
        let mut rng = StdRng::seed_from_u64(7);
        let (mut sealer, first) = Sealer::new(&header, &recipients, &mut rng).unwrap();
        let start = RecordingStart { part, tenant: "acme".into(), node: self.name.into(), started_at: at(0) };
        let mut writer = self.spool().begin(start, &first, b"metadata").unwrap();
        twin.store(writer.folder()).unwrap();
        for n in 1..=seconds {
            let mut sealed = Vec::new();
            sealer.seal(&[n as u8; 40], &mut sealed).unwrap();
            writer.append(sealed, sealer.segments(), u64::from(n) * 1_000).unwrap();
        }
        if !end {
            drop(writer);
            return self.crash();
        }
        let mut sealed = Vec::new();
        let summary = sealer.finish(b"", &mut sealed).unwrap();
        let duration_ms = u64::from(seconds) * 1_000;
        let ended_at = at(seconds.into());
        let finished = writer.finish(RecordingEnd { sealed, summary, duration_ms, ended_at, metadata: None });
        self.submitted.lock().unwrap().push(finished);
    }

    fn commit(&mut self) {
        let batch = std::mem::take(&mut *self.submitted.lock().unwrap());
        let result = self.committer.as_mut().unwrap().commit(batch);
        assert!(result.failed.is_empty());
    }

    /// Puts everything that is ready into the store; stops before it is deleted here if `crash`.
    async fn upload(&mut self, target: &Target, crash: bool) {
        for folder in self.spool().entries(Stage::Ready).unwrap() {
            let manifest = std::fs::read(folder.join(crate::spool::MANIFEST)).unwrap();
            let signed = SignedManifest::parse(&manifest).unwrap();
            let limiter = Limiter::new(None);
            let transfer = Transfer { target, limiter: &limiter, verify: Verify::ReadBack, again: true, part: PART };
            transfer.run(&folder, &signed).await.unwrap();
            if !crash {
                self.spool().remove_sent(signed.manifest.part.file).unwrap();
            }
        }
        if crash {
            self.crash();
        }
    }

    async fn settle(&self, target: &Target, word: Word, now: Timestamp) {
        let stores = Stores::default();
        stores.set("acme", target.clone());
        let (submitted, told) = (Arc::clone(&self.submitted), Arc::clone(&self.dropped));
        let settler = Settler {
            spool: self.spool().clone(),
            stores,
            verify: Verify::ReadBack,
            node: self.name.to_owned(),
            patience: Patience::default(),
            ask: Arc::new(move |_, _| Box::pin(async move { word })),
            submit: Box::new(move |finished| submitted.lock().unwrap().push(finished)),
            dropped: Box::new(move |part| told.lock().unwrap().push(part)),
            clock: Arc::new(move || now),
            stats: Arc::default(),
        };
        for id in settler.held() {
            settler.settle(id).await;
        }
    }

    fn is_empty(&self) -> bool {
        let stages = [Stage::Recording, Stage::Held, Stage::Ready, Stage::Aside];
        self.submitted.lock().unwrap().is_empty()
            && stages.into_iter().all(|stage| self.spool().entries(stage).unwrap().is_empty())
    }
}

/// A mirrored recording of 30 seconds ends in all kinds of ways, and nodes crash between any two steps.
async fn model(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let target = Target::new(Arc::new(InMemory::new()), "acme").unwrap();
    let part = Part::first(Uuid::from_u128(7));
    let copy = part.copied(Uuid::from_u128(8));
    let mut nodes = [Node::new("edge-a"), Node::new("edge-b")];
    let twin = |role, file: Part, node: &str, promoted| Twin {
        role,
        file: file.file,
        node: node.to_owned(),
        started_at: at(0),
        promoted,
        outcome: None,
    };
    // The original ends, or its node dies on the way; then the copy may be promoted.
    let original_lives = rng.random_bool(0.5);
    let first = if original_lives { 30 } else { rng.random_range(1..30) };
    nodes[0].record(part, twin(Role::Original, copy, "edge-b", false), first, original_lives);
    let copy_lives = rng.random_bool(0.7);
    let promoted = !original_lives && copy_lives && rng.random_bool(0.7);
    let second = match (copy_lives, promoted) {
        (_, true) => 30,
        (true, false) => first,
        (false, _) => rng.random_range(1..=first),
    };
    let of_copy = if promoted { Part { copy: false, ..copy } } else { copy };
    nodes[1].record(of_copy, twin(Role::Copy, part, "edge-a", promoted), second, copy_lives);

    let mut now = at(40);
    for step in 0..400 {
        let quiet = step >= 200;
        let who = rng.random_range(0..2);
        let other = 1 - who;
        if !nodes[who].alive {
            if quiet || rng.random_bool(0.2) {
                nodes[who].start();
            }
            continue;
        }
        match rng.random_range(0..5) {
            0 => nodes[who].commit(),
            1 => {
                let file = if other == 0 { part.file } else { copy.file };
                let reached = nodes[other].alive && (quiet || rng.random_bool(0.7));
                let word = if reached { Word::of(nodes[other].spool(), file) } else { Word::Silent };
                nodes[who].settle(&target, word, now).await;
            }
            2 => {
                let crash = !quiet && rng.random_bool(0.3);
                nodes[who].upload(&target, crash).await;
            }
            3 if !quiet => nodes[who].crash(),
            _ => now = now.plus(Duration::from_secs(rng.random_range(1..120))),
        }
    }
    for node in &mut nodes {
        assert!(node.alive && node.is_empty(), "seed {seed}: {} is not done", node.name);
    }
    let mut stored = Vec::new();
    for file in [part.file, copy.file] {
        if let Found::Stored(outcome) = look_up(&target, at(0), file, Verify::ReadBack).await {
            stored.push(outcome.ended_at.since(outcome.started_at).as_secs() as u32);
        }
    }
    assert_eq!(stored.iter().max(), Some(&first.max(second)), "seed {seed}: {stored:?} of {first} and {second}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn no_crash_between_any_two_steps_loses_the_better_twin(seed in any::<u64>()) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(model(seed));
    }
}

#[tokio::test]
async fn a_copy_goes_when_the_original_is_whole_in_the_store_and_not_before() {
    let target = Target::new(Arc::new(InMemory::new()), "acme").unwrap();
    let part = Part::first(Uuid::from_u128(7));
    let copy = part.copied(Uuid::from_u128(8));
    let mut nodes = [Node::new("edge-a"), Node::new("edge-b")];
    let twin = |role, file: Part| Twin {
        role,
        file: file.file,
        node: "edge".to_owned(),
        started_at: at(0),
        promoted: false,
        outcome: None,
    };
    nodes[0].record(part, twin(Role::Original, copy), 10, true);
    nodes[1].record(copy, twin(Role::Copy, part), 10, true);
    nodes.iter_mut().for_each(Node::commit);
    assert_eq!(nodes[1].spool().entries(Stage::Held).unwrap().len(), 1);
    nodes[1].settle(&target, Word::Coming, at(100_000)).await;
    assert_eq!(nodes[1].spool().entries(Stage::Held).unwrap().len(), 1, "its node has it");
    nodes[0].upload(&target, false).await;
    let audio = target.key(at(0), part.file, crate::spool::AUDIO);
    let whole = target.store.get(&audio).await.unwrap().bytes().await.unwrap();
    target.store.put(&audio, whole.slice(..whole.len() - 1).into()).await.unwrap();
    nodes[1].settle(&target, Word::Coming, at(100_000)).await;
    assert_eq!(nodes[1].spool().entries(Stage::Held).unwrap().len(), 1, "it is cut in the store");
    target.store.put(&audio, whole.into()).await.unwrap();
    nodes[1].settle(&target, Word::Silent, at(50)).await;
    assert!(nodes[1].is_empty(), "nobody had to be asked");
    assert_eq!(*nodes[1].dropped.lock().unwrap(), [copy]);
    assert_eq!(nodes[1].spool().usage().bytes(), 0);
}
