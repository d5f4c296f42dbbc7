//! Whole uploads against a store that fails on command, under a clock that the runtime moves.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

use super::faulty::{Fault, Faulty};
use super::*;

use std::path::PathBuf;

use ferric_media::keys::NodeKey;
use ferric_media::manifest::{AudioEntry, Digest, Manifest, MetadataEntry, RecordingState};
use ferric_media::part::Part;
use object_store::ObjectStoreExt as _;
use rand::rngs::StdRng;

use crate::spool::{AUDIO, METADATA, make_dir, write_whole};

pub(crate) fn body(number: u128, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at as u128 * 31 + number) as u8).collect()
}

/// Puts a finished recording into the spool.
pub(crate) fn ready(spool: &Spool, tenant: &str, number: u128, bytes: usize) -> SignedManifest {
    let key = NodeKey::generate(&mut StdRng::seed_from_u64(1)).unwrap();
    let (audio, metadata) = (body(number, bytes), b"sealed metadata".to_vec());
    let started_at: Timestamp = "2026-02-03T04:05:06Z".parse().unwrap();
    let signed = Manifest {
        part: Part::first(Uuid::from_u128(number)),
        tenant: tenant.into(),
        node: "edge-a1".into(),
        state: RecordingState::Complete,
        started_at,
        ended_at: started_at.plus(Duration::from_secs(number as u64)),
        duration_ms: 1000,
        audio: AudioEntry { bytes: audio.len() as u64, sha256: Digest::of(&audio), segments: 1 },
        metadata: Some(MetadataEntry { bytes: metadata.len() as u64, sha256: Digest::of(&metadata) }),
        previous: None,
        key_id: key.public().id().clone(),
    }
    .sign(&key)
    .unwrap();
    let folder = spool.folder(Stage::Ready, signed.manifest.part.file);
    make_dir(&folder).unwrap();
    for (name, bytes) in [(AUDIO, &audio[..]), (METADATA, &metadata), (MANIFEST, signed.as_bytes())] {
        write_whole(&folder.join(name), bytes).unwrap();
    }
    signed
}

pub(crate) fn key(number: u128, file: &str) -> String {
    format!("acme/2026/02/03/{}/{file}", Uuid::from_u128(number))
}

struct Bench {
    _dir: tempfile::TempDir,
    spool: Spool,
    stores: Stores,
    events: Arc<Mutex<Vec<UploadEvent>>>,
    stop: CancellationToken,
    running: Option<(UploadHandle, tokio::task::JoinHandle<()>)>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool")).unwrap();
        Bench {
            _dir: dir,
            spool,
            stores: Stores::default(),
            events: Arc::default(),
            stop: CancellationToken::new(),
            running: None,
        }
    }

    fn store(&self, tenant: &str, put_if_absent: bool) -> Faulty {
        let store = Faulty::default();
        let mut target = Target::new(Arc::new(store.clone()), tenant).unwrap();
        target.put_if_absent = put_if_absent;
        self.stores.set(tenant, target);
        store
    }

    fn start(&mut self, config: UploadConfig) -> UploadHandle {
        let events = Arc::clone(&self.events);
        let sink = Box::new(move |event| events.lock().unwrap().push(event));
        let begun = Instant::now();
        let noon: Timestamp = "2026-02-03T12:00:00Z".parse().unwrap();
        let clock = Arc::new(move || noon.plus(begun.elapsed()));
        self.stop = CancellationToken::new();
        let (spool, stores, stop) = (self.spool.clone(), self.stores.clone(), self.stop.clone());
        let (handle, task) = Uploader::start_with(spool, stores, config, sink, stop, clock, 7);
        self.running = Some((handle.clone(), task));
        handle
    }

    async fn halt(&mut self) {
        self.stop.cancel();
        let (_, task) = self.running.take().unwrap();
        task.await.unwrap();
    }

    /// Lets (simulated) time pass until it is so.
    async fn until(&self, what: &str, mut so: impl FnMut(&Bench) -> bool) {
        let begun = Instant::now();
        while !so(self) {
            assert!(begun.elapsed() < Duration::from_secs(100_000), "{what}: {:?}", self.running);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_stored(&self, count: usize) {
        self.until("stored", |bench| bench.stored().len() >= count).await;
    }

    fn stored(&self) -> Vec<u128> {
        let events = self.events.lock().unwrap();
        let stored = events.iter().filter_map(|event| match event {
            UploadEvent::Stored { manifest, .. } => Some(manifest.manifest.part.file.as_u128()),
            UploadEvent::Failed { .. } | UploadEvent::Aside { .. } => None,
        });
        stored.collect()
    }

    fn folders(&self, stage: Stage) -> Vec<PathBuf> {
        self.spool.entries(stage).unwrap()
    }
}

fn one_at_a_time() -> UploadConfig {
    UploadConfig { concurrency: 1, ..UploadConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn recordings_go_oldest_first_with_the_manifest_last_and_leave_the_spool() {
    let mut bench = Bench::new();
    let store = bench.store("acme", true);
    for number in [3, 1, 2] {
        ready(&bench.spool, "acme", number, 1000);
    }
    let handle = bench.start(one_at_a_time());
    bench.until_stored(3).await;
    assert_eq!(bench.stored(), [1, 2, 3]);
    let files: Vec<String> = store.order();
    assert_eq!(files[..3], [key(1, AUDIO), key(1, METADATA), key(1, MANIFEST)]);
    let objects = store.objects().await;
    assert_eq!(objects.len(), 9);
    assert_eq!(objects[&key(2, AUDIO)], body(2, 1000));
    assert!(bench.folders(Stage::Ready).is_empty() && bench.folders(Stage::Sent).is_empty());
    let stats = handle.stats();
    assert_eq!((stats.waiting, stats.stored, stats.failures), (0, 3, 0));
    // Those that come later are told of, and go too.
    handle.submit(&ready(&bench.spool, "acme", 4, 10));
    bench.until_stored(4).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_to_a_put_it_arrives_once_and_whole() {
    for put_if_absent in [true, false] {
        for fault in [Fault::Refuse, Fault::Half, Fault::LoseAnswer, Fault::Spoil, Fault::Hang] {
            for at in 0..3 {
                let mut bench = Bench::new();
                let store = bench.store("acme", put_if_absent);
                store.then(&vec![Fault::None; at]);
                store.then(&[fault, fault]);
                let signed = ready(&bench.spool, "acme", 1, 1000);
                bench.start(one_at_a_time());
                bench.until_stored(1).await;
                let objects = store.objects().await;
                let case = format!("{fault:?} at put {at}, put-if-absent {put_if_absent}");
                assert_eq!(objects.len(), 3, "{case}");
                assert_eq!(objects[&key(1, AUDIO)], body(1, 1000), "{case}");
                assert_eq!(objects[&key(1, METADATA)], &b"sealed metadata"[..], "{case}");
                assert_eq!(objects[&key(1, MANIFEST)], signed.as_bytes(), "{case}");
                assert!(bench.folders(Stage::Ready).is_empty() && bench.folders(Stage::Aside).is_empty(), "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_for_an_hour_loses_nothing_and_is_not_hammered() {
    let mut bench = Bench::new();
    let store = bench.store("acme", true);
    store.set_down(true);
    for number in 1..=20 {
        ready(&bench.spool, "acme", number, 100);
    }
    let handle = bench.start(UploadConfig::default());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let stats = handle.stats();
    assert_eq!((stats.waiting, stats.stored), (20, 0));
    assert!(stats.tenants[0].failing && stats.tenants[0].last_error.as_ref().unwrap().contains("connection refused"));
    assert!((100..600).contains(&stats.failures), "{} attempts in an hour", stats.failures);
    assert_eq!(stats.oldest, Some("2026-02-03T04:05:07Z".parse().unwrap()));
    assert!(stats.waiting_bytes > 2000);
    store.set_down(false);
    let back = Instant::now();
    bench.until_stored(20).await;
    assert!(back.elapsed() < Duration::from_secs(40), "{:?}", back.elapsed());
    assert_eq!(store.objects().await.len(), 60);
    assert!(!handle.stats().tenants.iter().any(|tenant| tenant.failing));
}

#[tokio::test(start_paused = true)]
async fn one_refused_object_holds_up_nobody() {
    let mut bench = Bench::new();
    let store = bench.store("acme", true);
    store.refuse_keys_with(&Uuid::from_u128(1).to_string());
    for number in 1..=10 {
        ready(&bench.spool, "acme", number, 100);
    }
    let handle = bench.start(one_at_a_time());
    let begun = Instant::now();
    bench.until_stored(9).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(handle.stats().waiting, 1);
    store.refuse_keys_with("nothing");
    handle.retry_now(Some(Uuid::from_u128(1)));
    let asked = Instant::now();
    bench.until_stored(10).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "at once, not after its backoff");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_whose_store_hangs_does_not_slow_the_others() {
    let mut bench = Bench::new();
    let hanging = bench.store("hanging", true);
    hanging.then(&[Fault::Hang; 10_000]);
    bench.store("acme", true);
    for number in 1..=200 {
        ready(&bench.spool, "hanging", number, 100);
        ready(&bench.spool, "acme", 1000 + number, 100);
    }
    ready(&bench.spool, "nobody", 5000, 100);
    let handle = bench.start(UploadConfig { concurrency: 4, ..UploadConfig::default() });
    let begun = Instant::now();
    bench.until_stored(200).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(bench.stored().iter().all(|number| (1001..=1200).contains(number)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stats = handle.stats();
    assert_eq!(stats.waiting, 201);
    let nobody = stats.tenants.iter().find(|tenant| tenant.tenant == "nobody").unwrap();
    assert_eq!(nobody.last_error.as_deref(), Some("tenant nobody has no store"));
    // A store that is configured later takes what waited.
    bench.store("nobody", false);
    handle.retry_now(None);
    bench.until_stored(201).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_it_goes_on_and_nothing_is_sent_twice() {
    let mut bench = Bench::new();
    let store = bench.store("acme", false);
    for number in 1..=3 {
        ready(&bench.spool, "acme", number, 1000);
    }
    // The manifest of the first never gets through, then the process ends.
    store.then(&[Fault::None, Fault::None, Fault::Hang]);
    bench.start(one_at_a_time());
    bench.until("hanging", |_| store.puts(&key(1, MANIFEST)) == 1).await;
    bench.halt().await;
    assert!(bench.stored().is_empty());
    assert_eq!(bench.folders(Stage::Ready).len(), 3);
    bench.start(one_at_a_time());
    bench.until_stored(3).await;
    assert_eq!(store.puts(&key(1, AUDIO)), 1, "it was there and identical");
    assert_eq!(store.puts(&key(1, MANIFEST)), 2);
    assert_eq!(store.objects().await.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_object_is_not_overwritten_and_the_recording_is_set_aside() {
    for put_if_absent in [true, false] {
        let mut bench = Bench::new();
        let store = bench.store("acme", put_if_absent);
        store.inner.put(&key(1, AUDIO).into(), b"somebody else's".to_vec().into()).await.unwrap();
        ready(&bench.spool, "acme", 1, 1000);
        ready(&bench.spool, "acme", 2, 1000);
        let handle = bench.start(one_at_a_time());
        bench.until_stored(1).await;
        assert_eq!(store.objects().await[&key(1, AUDIO)], &b"somebody else's"[..]);
        let aside = bench.folders(Stage::Aside);
        let reason = std::fs::read_to_string(aside[0].join("reason.txt")).unwrap();
        assert!(reason.contains("exists in the store with other contents (15 bytes, ours has 1000)"), "{reason}");
        assert_eq!(std::fs::read(aside[0].join(AUDIO)).unwrap(), body(1, 1000));
        assert_eq!(handle.stats().aside, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_comes_after_its_recording_was_found_and_stored_is_no_failure() {
    let mut bench = Bench::new();
    bench.store("acme", true);
    let first = ready(&bench.spool, "acme", 1, 1000);
    let handle = bench.start(one_at_a_time());
    bench.until_stored(1).await;
    handle.submit(&first);
    handle.submit(&ready(&bench.spool, "acme", 2, 1000));
    bench.until_stored(2).await;
    assert_eq!((handle.stats().failures, handle.stats().aside, handle.stats().stored), (0, 0, 2));
    assert!(bench.folders(Stage::Aside).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_rotted_in_the_spool_is_set_aside_and_never_committed() {
    for bytes in [1000, 50_000] {
        let mut bench = Bench::new();
        let store = bench.store("acme", false);
        ready(&bench.spool, "acme", 1, bytes);
        let audio = bench.spool.folder(Stage::Ready, Uuid::from_u128(1)).join(AUDIO);
        let mut rotten = std::fs::read(&audio).unwrap();
        rotten[bytes / 2] ^= 1;
        std::fs::write(&audio, rotten).unwrap();
        bench.start(UploadConfig { part_bytes: 8000, ..one_at_a_time() });
        bench.until("aside", |bench| bench.folders(Stage::Aside).len() == 1).await;
        assert!(store.objects().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_big_file_goes_in_parts_and_a_failed_part_begins_anew() {
    let mut bench = Bench::new();
    let store = bench.store("acme", true);
    store.then(&[Fault::None, Fault::None, Fault::Refuse]);
    ready(&bench.spool, "acme", 1, 50_000);
    bench.start(UploadConfig { part_bytes: 8000, ..one_at_a_time() });
    bench.until_stored(1).await;
    assert_eq!(store.objects().await[&key(1, AUDIO)], body(1, 50_000));
    assert_eq!(store.puts(&key(1, AUDIO)), 3 + 7);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_so_many_go_at_a_time() {
    let mut bench = Bench::new();
    let store = bench.store("acme", true);
    for number in 1..=50 {
        ready(&bench.spool, "acme", number, 100);
    }
    bench.start(UploadConfig { concurrency: 3, ..UploadConfig::default() });
    bench.until_stored(50).await;
    assert!((2..=3).contains(&store.most_parallel()), "{}", store.most_parallel());
}

#[tokio::test(start_paused = true)]
async fn outside_its_window_nothing_goes() {
    let mut bench = Bench::new();
    let store = bench.store("acme", true);
    ready(&bench.spool, "acme", 1, 100);
    // The bench's clock starts at noon.
    bench.start(UploadConfig { window: "13:00-14:00".parse().unwrap(), ..UploadConfig::default() });
    tokio::time::sleep(Duration::from_secs(3590)).await;
    assert!(store.order().is_empty());
    bench.until_stored(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_too_small_takes_the_rest_from_the_spool() {
    let mut bench = Bench::new();
    bench.store("acme", true);
    for number in 1..=40 {
        ready(&bench.spool, "acme", number, 100);
    }
    let handle = bench.start(UploadConfig { queue_limit: 4, ..UploadConfig::default() });
    bench.until_stored(40).await;
    assert!(handle.stats().waiting == 0 && bench.folders(Stage::Ready).is_empty());
}

#[tokio::test]
async fn a_folder_as_store_holds_what_the_spool_held() {
    let mut bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let mut target = crate::store::open_target(&format!("file://{}", dir.path().display()), "acme").unwrap();
    crate::store_probe::probe(&mut target).await.unwrap();
    bench.stores.set("acme", target);
    let signed = ready(&bench.spool, "acme", 1, 30_000);
    bench.start(UploadConfig { part_bytes: 8000, ..UploadConfig::default() });
    bench.until_stored(1).await;
    assert_eq!(std::fs::read(dir.path().join(key(1, AUDIO))).unwrap(), body(1, 30_000));
    assert_eq!(std::fs::read(dir.path().join(key(1, MANIFEST))).unwrap(), signed.as_bytes());
    bench.halt().await;
}
