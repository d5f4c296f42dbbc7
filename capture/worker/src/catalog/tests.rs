#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

mod nodes;
mod postgres;

use super::*;
use std::path::PathBuf;

use ferric_media::keys::NodeKey;
use ferric_media::manifest::{AudioEntry, Manifest, RecordingState, SignedManifest};
use ferric_media::metadata::{Correlator, Participant, RecordingMetadata, SessionInfo, SipIds, StreamReport, Tag};
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;
use object_store::ObjectStoreExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::catalog_party::HashKey;
use crate::catalog_rebuild::{Rebuilt, rebuild};
use crate::catalog_search::{CatalogRecording, Search};
use crate::catalog_writer::CatalogWriter;
use crate::store::Target;
use postgres::Server;

/// A database of a test's own.
enum Db {
    Sqlite(tempfile::TempDir),
    Postgres(Server),
}

impl Db {
    fn url(&self) -> String {
        match self {
            Db::Sqlite(dir) => format!("sqlite:{}", dir.path().join("catalog.db").display()),
            Db::Postgres(server) => server.url(),
        }
    }

    async fn open(&self, parties: PartyPolicy) -> Catalog {
        Catalog::open(&self.url(), None, parties).await.unwrap()
    }

    /// Nine recordings of one node.
    async fn filled(&self, parties: PartyPolicy) -> Catalog {
        let catalog = self.open(parties).await;
        let updates: Vec<_> = (1..=9)
            .map(|number| {
                RecordingUpdate::from_metadata(&metadata(number, &format!("sip:+1555010{number}@sbc.example")))
            })
            .collect();
        catalog.upsert(&updates).await.unwrap();
        catalog
    }

    /// Every file of the database.
    fn files(&self) -> Vec<PathBuf> {
        let mut folders = vec![match self {
            Db::Sqlite(dir) => dir.path().to_owned(),
            Db::Postgres(server) => server.folder(),
        }];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files
    }
}

/// Each test once for each database.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $test() { super::$test(super::Db::Sqlite(tempfile::tempdir().unwrap())).await })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $test() { super::$test(super::Db::Postgres(super::Server::start())).await })+
        }
    };
}

on_both!(
    a_recording_is_told_of_in_any_order_and_comes_back,
    pages_cover_everything_once_newest_first,
    filters_narrow_and_combine,
    text_is_compared_by_its_bytes,
    whatever_text_comes_can_be_written,
    hashed_parties_are_found_exactly_and_stand_nowhere_in_the_files,
    the_last_manifest_of_a_node_is_known,
    the_writer_never_blocks_and_goes_on_when_the_lock_is_gone,
    a_lost_catalogue_is_rebuilt_from_the_manifests_in_the_store,
    parts_of_several_nodes_stand_side_by_side,
    parts_of_one_node_and_copies_of_another_are_one_recording,
    what_the_tenants_key_opens_is_rebuilt_with_its_parties,
    news_of_before_parts_can_still_be_written,
    tables_of_a_newer_program_are_refused,
);

fn metadata(number: u128, aor: &str) -> RecordingMetadata {
    let participant =
        Participant { name: Some("Ann Lee".into()), aor: Some(aor.into()), channel: Some(1), ..Participant::default() };
    let correlator = Correlator { name: "Cisco-Guid".into(), value: "1-2".into() };
    let session = SessionInfo {
        sip: SipIds { call_id: format!("call-{number}"), correlators: vec![correlator], ..SipIds::default() },
        participants: vec![participant],
        ..SessionInfo::default()
    };
    let started_at = Timestamp::from_unix_ms(1_000_000 + (number as i64 / 2) * 1000);
    let mut metadata =
        RecordingMetadata::new(Part::first(Uuid::from_u128(number)), "acme", "edge-a1", started_at, session);
    metadata.tags.push(Tag { name: "case".into(), value: number.to_string(), at_ms: 0 });
    let stream = |lost, mos| StreamReport {
        packets: 100,
        lost,
        jitter_ms: Some(2.0),
        mos: Some(mos),
        ..StreamReport::default()
    };
    metadata.streams = vec![stream(1, 4.0), stream(2, 3.5)];
    metadata
}

fn manifest(number: u128, previous: Option<Digest>) -> SignedManifest {
    let key = NodeKey::generate(&mut StdRng::seed_from_u64(1)).unwrap();
    let started_at = Timestamp::from_unix_ms(1_000_000 + (number as i64 / 2) * 1000);
    Manifest {
        part: Part::first(Uuid::from_u128(number)),
        tenant: "acme".into(),
        node: "edge-a1".into(),
        state: RecordingState::Complete,
        started_at,
        ended_at: started_at.plus(Duration::from_secs(60)),
        duration_ms: 60_000,
        audio: AudioEntry { bytes: 5000, sha256: Digest::of(b"a"), segments: 60 },
        metadata: None,
        previous,
        key_id: key.public().id().clone(),
    }
    .sign(&key)
    .unwrap()
}

fn ids(page: &crate::catalog_search::Page) -> Vec<u128> {
    page.recordings.iter().map(|recording| recording.id.as_u128()).collect()
}

async fn a_recording_is_told_of_in_any_order_and_comes_back(db: Db) {
    let catalog = db.open(PartyPolicy::Clear).await;
    let signed = manifest(1, None);
    let waiting = RecordingUpdate::from_manifest(&signed, UploadState::Waiting);
    // The end before the beginning.
    catalog.upsert(&[waiting.clone(), RecordingUpdate::from_metadata(&metadata(1, "sip:+15550101@h"))]).await.unwrap();
    catalog.set_upload(Uuid::from_u128(1), UploadState::Stored, Some("acme/2026/x"), None).await.unwrap();
    catalog.upsert(&[waiting]).await.unwrap();
    let found = catalog.get(Uuid::from_u128(1)).await.unwrap().unwrap();
    let part = &found.parts[0];
    assert_eq!((found.state, part.upload, found.is_stored()), (MetadataState::Complete, UploadState::Stored, true));
    assert_eq!((found.duration_ms, part.audio_bytes), (Some(60_000), Some(5000)));
    assert_eq!(found.ended_at, Some(signed.manifest.ended_at));
    assert_eq!(found.participants[0].aor.as_deref(), Some("sip:+15550101@h"));
    assert_eq!(found.tags, [("case".to_owned(), "1".to_owned())]);
    assert_eq!(found.correlators[0].name, "Cisco-Guid");
    assert_eq!(found.quality, Some(Quality { packets: 200, lost: 3, jitter_ms: Some(2.0), mos: Some(3.5) }));
    assert_eq!(part.store_key.as_deref(), Some("acme/2026/x"));
    assert_eq!(catalog.get(Uuid::from_u128(2)).await.unwrap(), None);
}

async fn pages_cover_everything_once_newest_first(db: Db) {
    let catalog = db.filled(PartyPolicy::Clear).await;
    let mut search = Search { limit: Some(2), ..Search::default() };
    let mut seen = Vec::new();
    loop {
        let page = catalog.search(&search).await.unwrap();
        seen.extend(ids(&page));
        // A new recording on top does not move the pages below.
        let newer = RecordingUpdate::from_metadata(&metadata(100 + seen.len() as u128, "sip:x@h"));
        catalog.upsert(&[newer]).await.unwrap();
        let Some(cursor) = page.next_cursor else { break };
        search.cursor = Some(cursor);
    }
    assert_eq!(seen, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    search.cursor = Some("nonsense".into());
    assert!(matches!(catalog.search(&search).await, Err(CatalogError::Cursor(_))));
}

async fn filters_narrow_and_combine(db: Db) {
    let catalog = db.filled(PartyPolicy::Clear).await;
    let found = async |search: Search| ids(&catalog.search(&search).await.unwrap());
    let all = Search::default;
    let at = |ms| Some(Timestamp::from_unix_ms(ms));
    assert_eq!(found(Search { from: at(1_002_000), to: at(1_004_000), ..all() }).await, [7, 6, 5, 4]);
    assert_eq!(found(Search { party: Some("001 555 0104".into()), ..all() }).await, [4]);
    assert_eq!(found(Search { party: Some("+155501".into()), ..all() }).await.len(), 9, "a prefix");
    assert_eq!(found(Search { party: Some("ann".into()), from: at(1_004_000), ..all() }).await, [9, 8]);
    assert!(found(Search { party: Some("1%".into()), ..all() }).await.is_empty(), "no wildcard");
    assert!(found(Search { party: Some("sip:".into()), ..all() }).await.is_empty());
    assert_eq!(found(Search { tag: Some(("case".into(), Some("3".into()))), ..all() }).await, [3]);
    assert_eq!(found(Search { tag: Some(("case".into(), None)), ..all() }).await.len(), 9);
    assert_eq!(found(Search { sip_call_id: Some("call-5".into()), ..all() }).await, [5]);
    assert!(found(Search { tenants: vec!["other".into()], ..all() }).await.is_empty());
    assert_eq!(found(Search { tenants: vec!["other".into(), "acme".into()], ..all() }).await.len(), 9);
    assert!(found(Search { state: Some(MetadataState::Complete), ..all() }).await.is_empty());
    catalog.upsert(&[RecordingUpdate::from_manifest(&manifest(4, None), UploadState::Waiting)]).await.unwrap();
    assert_eq!(found(Search { state: Some(MetadataState::Complete), ..all() }).await, [4]);
}

async fn hashed_parties_are_found_exactly_and_stand_nowhere_in_the_files(db: Db) {
    let catalog = db.filled(PartyPolicy::Hashed(HashKey([7; 32]))).await;
    let found = async |party: &str| {
        ids(&catalog.search(&Search { party: Some(party.into()), ..Search::default() }).await.unwrap())
    };
    assert_eq!(found("+1-555-0104").await, [4]);
    assert!(found("+155501").await.is_empty());
    assert!(found("ann lee").await.is_empty());
    assert!(catalog.get(Uuid::from_u128(4)).await.unwrap().unwrap().participants.is_empty());
    catalog.close().await;
    for file in db.files() {
        let bytes = std::fs::read(&file).unwrap();
        for secret in [&b"5550104"[..], b"Ann Lee", b"ann lee", b"sbc.example"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{file:?}");
        }
    }
}

#[tokio::test]
async fn nobody_else_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let db = Db::Sqlite(tempfile::tempdir().unwrap());
    let catalog = db.filled(PartyPolicy::Clear).await;
    for file in db.files() {
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    drop(catalog);
    assert!(matches!(Catalog::open("mysql://h/x", None, PartyPolicy::Clear).await, Err(CatalogError::Url(_))));
}

async fn the_last_manifest_of_a_node_is_known(db: Db) {
    let catalog = db.open(PartyPolicy::Clear).await;
    assert_eq!(catalog.last_manifest("edge-a1").await.unwrap(), None);
    let first = manifest(8, None);
    let second = manifest(2, Some(first.digest()));
    for signed in [&second, &first] {
        catalog.upsert(&[RecordingUpdate::from_manifest(signed, UploadState::Stored)]).await.unwrap();
    }
    assert_eq!(catalog.last_manifest("edge-a1").await.unwrap(), Some(second.digest()));
}

async fn the_writer_never_blocks_and_goes_on_when_the_lock_is_gone(db: Db) {
    let catalog = db.open(PartyPolicy::Clear).await;
    let mut lock = catalog.engine.begin().await.unwrap();
    if matches!(db, Db::Postgres(_)) {
        lock.execute(&Statement::new("LOCK TABLE recordings")).await.unwrap();
    }
    let (writer, task) = CatalogWriter::with_queue(catalog.clone(), 4);
    let news = |number| News::Recording(Box::new(RecordingUpdate::from_metadata(&metadata(number, "sip:1@h"))));
    let told: Vec<bool> = (1..=12).map(|number| writer.tell(news(number))).collect();
    assert_eq!(told.iter().filter(|told| **told).count(), 4);
    assert!(writer.is_stale() && writer.dropped() == 8);
    lock.commit().await.unwrap();
    let counters = writer.clone();
    drop(writer);
    while counters.written() < 4 {
        tokio::task::yield_now().await;
    }
    drop(counters);
    task.await.unwrap();
    assert_eq!(catalog.search(&Search::default()).await.unwrap().recordings.len(), 4);
}

async fn a_lost_catalogue_is_rebuilt_from_the_manifests_in_the_store(db: Db) {
    let store = Arc::new(object_store::memory::InMemory::new());
    let target = Target::new(store.clone(), "acme").unwrap();
    let mut previous = None;
    for number in 1..=3 {
        let signed = manifest(number, previous);
        previous = Some(signed.digest());
        let key = |file| target.key(signed.manifest.started_at, signed.manifest.part.file, file);
        store.put(&key("manifest.json"), signed.as_bytes().to_vec().into()).await.unwrap();
        store.put(&key("audio.eopus"), b"sealed".to_vec().into()).await.unwrap();
    }
    store.put(&target.prefix.clone().join("x").join("manifest.json"), b"{}".to_vec().into()).await.unwrap();
    let catalog = db.open(PartyPolicy::Clear).await;
    catalog.upsert(&[RecordingUpdate::from_metadata(&metadata(2, "sip:+15550102@h"))]).await.unwrap();
    let mut told = Vec::new();
    let rebuilt = rebuild(&catalog, &target, [].into(), |sums| told.push(sums)).await.unwrap();
    assert_eq!(rebuilt, Rebuilt { manifests: 3, metadata: 0, damaged: 1 });
    assert_eq!(told.last(), Some(&rebuilt));
    let page = catalog.search(&Search::default()).await.unwrap();
    assert_eq!(ids(&page), [3, 2, 1]);
    assert!(page.recordings.iter().all(CatalogRecording::is_stored));
    assert_eq!(page.recordings[1].participants.len(), 1, "what was known of the parties stays");
    assert!(page.recordings[0].parts[0].store_key.as_deref().unwrap().starts_with("acme/1970/01/01/"));
    assert_eq!(catalog.last_manifest("edge-a1").await.unwrap(), previous);
}

async fn text_is_compared_by_its_bytes(db: Db) {
    let catalog = db.open(PartyPolicy::Clear).await;
    // Where a language sorts, these lie between one another.
    let names = ["ab", "a b", "aB", "äb", "a-b", "a_b", "a%b", "\u{10ffff}a"];
    for (number, name) in names.iter().enumerate() {
        let mut update = RecordingUpdate::from_metadata(&metadata(number as u128, "sip:x@h"));
        update.parties = Some(vec![Party { aor: Some(format!("sip:{name}@h")), ..Party::default() }]);
        catalog.upsert(&[update]).await.unwrap();
    }
    let found = async |party: &str| {
        ids(&catalog.search(&Search { party: Some(party.into()), ..Search::default() }).await.unwrap())
    };
    assert_eq!(found("ab").await, [2, 0], "addresses are searched in lower case");
    assert_eq!(found("a-").await, [4]);
    assert_eq!(found("a_").await, [5], "no wildcard");
    assert_eq!(found("ä").await, [3]);
    assert_eq!(found("a").await, [6, 5, 4, 2, 1, 0]);
}

async fn whatever_text_comes_can_be_written(db: Db) {
    let catalog = db.open(PartyPolicy::Clear).await;
    let mut seed = 1_u64;
    // Nothing that a database could make small.
    let long: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (seed >> 40) as u8 % 26)
    })
    .take(30_000)
    .collect();
    let mut update = RecordingUpdate::from_metadata(&metadata(1, &format!("sip:{long}@h\0")));
    update.sip_call_id = Some(format!("{long}\0"));
    update.correlators = Some(vec![Correlator { name: "x\0".into(), value: long.clone() }]);
    update.tags = Some(vec![("a\0b".into(), "\0".into()), ("a\0b".into(), "last".into())]);
    catalog.upsert(&[update]).await.unwrap();
    let found = async |search: Search| ids(&catalog.search(&search).await.unwrap());
    assert_eq!(found(Search { party: Some(long.clone()), ..Search::default() }).await, [1]);
    assert_eq!(found(Search { correlator: Some(long.clone()), ..Search::default() }).await, [1]);
    assert_eq!(found(Search { sip_call_id: Some(format!("{long}\0")), ..Search::default() }).await, [1]);
    assert_eq!(found(Search { tag: Some(("a\0b".into(), Some("last".into()))), ..Search::default() }).await, [1]);
}

async fn tables_of_a_newer_program_are_refused(db: Db) {
    let catalog = db.filled(PartyPolicy::Clear).await;
    let mut session = catalog.engine.begin().await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations SELECT 9000, description, installed_on, success, checksum, execution_time
                 FROM _sqlx_migrations WHERE version = 1";
    session.execute(&Statement::new(newer)).await.unwrap();
    session.commit().await.unwrap();
    let error = Catalog::open(&db.url(), None, PartyPolicy::Clear).await.unwrap_err();
    assert!(matches!(error, CatalogError::TooNew { found: 9000, .. }), "{error}");
    assert!(error.is_wrong_setup() && error.to_string().contains("newer program"), "{error}");
    // Who was there before goes on.
    assert_eq!(catalog.search(&Search::default()).await.unwrap().recordings.len(), 9);
}

async fn parts_of_several_nodes_stand_side_by_side(db: Db) {
    let second = Part::new(Uuid::from_u128(1), 2, Uuid::from_u128(2));
    let catalog = db.open(PartyPolicy::Clear).await;
    let part = |node: &str, start_s: i64, state, party: &str| {
        let mut update = RecordingUpdate::from_metadata(&metadata(1, party));
        if node == "b" {
            update.part = second;
        }
        update.node = node.to_owned();
        update.state = state;
        update.started_at = Timestamp::from_unix_ms(start_s * 1000);
        update.tags = Some(vec![("node".into(), node.into()), ("case".into(), "7".into())]);
        update
    };
    let ended = |mut update: RecordingUpdate, seconds: u64| {
        update.duration_ms = Some(seconds * 1000);
        update.ended_at = Some(update.started_at.plus(Duration::from_secs(seconds)));
        update.audio_bytes = Some(seconds);
        update
    };
    let id = Uuid::from_u128(1);
    let get = async || catalog.get(id).await.unwrap().unwrap();
    let searched = async |state| {
        let search = Search { state: Some(state), ..Search::default() };
        catalog.search(&search).await.unwrap().recordings.len()
    };
    // The second node is heard of first.
    catalog.upsert(&[part("b", 30, MetadataState::Recording, "sip:200@h")]).await.unwrap();
    catalog.upsert(&[part("a", 10, MetadataState::Recording, "sip:100@h")]).await.unwrap();
    let found = get().await;
    assert_eq!((found.state, found.started_at.unix_ms(), found.ended_at), (MetadataState::Recording, 10_000, None));
    assert_eq!(found.parts.iter().map(|part| part.node.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    // The first node is gone; the call ends on the second.
    catalog.upsert(&[ended(part("b", 30, MetadataState::Complete, "sip:200@h"), 20)]).await.unwrap();
    assert_eq!(get().await.state, MetadataState::Partial, "what the first node has is missing");
    assert_eq!((searched(MetadataState::Partial).await, searched(MetadataState::Recording).await), (1, 0));
    // It comes back with what it had: 10 to 35, five seconds of which the second has too.
    catalog.upsert(&[ended(part("a", 10, MetadataState::Recovered, "sip:100@h"), 25)]).await.unwrap();
    catalog.set_upload(id, UploadState::Stored, Some("acme/a"), None).await.unwrap();
    let found = get().await;
    assert_eq!((found.state, found.is_stored()), (MetadataState::Recovered, false));
    assert_eq!((found.duration_ms, found.ended_at.map(|time| time.unix_ms())), (Some(40_000), Some(50_000)));
    assert_eq!(found.parts.iter().map(|part| part.audio_bytes).collect::<Vec<_>>(), [Some(25), Some(20)]);
    assert_eq!(found.parts.iter().map(|part| part.store_key.as_deref()).collect::<Vec<_>>(), [Some("acme/a"), None]);
    assert_eq!(found.quality.unwrap().packets, 400);
    let tags = [("case", "7"), ("node", "a"), ("node", "b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(found.tags, tags);
    assert_eq!(found.participants.len(), 2);
    catalog.set_upload(second.file, UploadState::Stored, Some("acme/b"), None).await.unwrap();
    assert!(get().await.is_stored());
    for party in ["100", "200", "ann"] {
        let page = catalog.search(&Search { party: Some(party.into()), ..Search::default() }).await.unwrap();
        assert_eq!(page.recordings.len(), 1, "{party}");
        assert_eq!(page.recordings[0], get().await);
    }
    // The same again changes nothing.
    let before = get().await;
    catalog.upsert(&[ended(part("a", 10, MetadataState::Recovered, "sip:100@h"), 25)]).await.unwrap();
    assert_eq!(get().await, before);
}

async fn parts_of_one_node_and_copies_of_another_are_one_recording(db: Db) {
    let catalog = db.open(PartyPolicy::Clear).await;
    let id = Uuid::from_u128(1);
    let (first, second) = (Part::first(id), Part::new(id, 2, Uuid::from_u128(2)));
    let copy = second.copied(Uuid::from_u128(3));
    let at = |part, node: &str, start_s: i64, length_s: u64, state| {
        let mut update = RecordingUpdate::from_metadata(&metadata(1, "sip:100@h"));
        (update.part, update.node, update.state) = (part, node.to_owned(), state);
        update.started_at = Timestamp::from_unix_ms(start_s * 1000);
        update.duration_ms = Some(length_s * 1000);
        update.ended_at = Some(update.started_at.plus(Duration::from_secs(length_s)));
        update
    };
    let get = async || catalog.get(id).await.unwrap().unwrap();
    let shown =
        |recording: &CatalogRecording| recording.parts.iter().map(|part| part.file.as_u128()).collect::<Vec<_>>();
    let mut back = at(second, "a", 12, 8, MetadataState::Complete);
    back.lost_ms = Some(2_500);
    let ended = at(first, "a", 0, 10, MetadataState::Complete);
    let copied = at(copy, "b", 12, 8, MetadataState::Complete);
    catalog.upsert(&[copied, back.clone(), ended]).await.unwrap();
    let found = get().await;
    assert_eq!((shown(&found), found.state), (vec![1, 2], MetadataState::Complete));
    assert_eq!((found.parts[1].gap_ms, found.lost_ms, found.duration_ms), (2_500, 2_500, Some(18_000)));
    assert_eq!(found.quality.unwrap().packets, 400, "a copy is not counted");
    // What it measured stays when the manifest tells of it.
    back.lost_ms = None;
    back.state = MetadataState::Recovered;
    catalog.upsert(&[back.clone()]).await.unwrap();
    let found = get().await;
    assert_eq!((shown(&found), found.lost_ms), (vec![1, 3], 2_000), "a copy is better than a recovered original");
    assert_eq!(found.state, MetadataState::Complete);
    back.state = MetadataState::Complete;
    catalog.upsert(&[back]).await.unwrap();
    catalog.apply(&[StoredNews::Dropped(copy)]).await.unwrap();
    assert_eq!((shown(&get().await), get().await.lost_ms), (vec![1, 2], 2_500));
    // The later of two is gone: the recording ends with what is left.
    catalog.apply(&[StoredNews::Dropped(second), StoredNews::Dropped(second)]).await.unwrap();
    assert_eq!((shown(&get().await), get().await.lost_ms), (vec![1], 0));
    let mut session = catalog.engine.read().await.unwrap();
    let left = session.fetch(&Statement::new("SELECT DISTINCT file FROM tags")).await.unwrap();
    assert_eq!(left.len(), 1, "tags go with their part");
}

async fn what_the_tenants_key_opens_is_rebuilt_with_its_parties(db: Db) {
    use ferric_media::eopus::Content;
    use ferric_media::keys::PrivateKey;
    use ferric_media::manifest::MetadataEntry;
    use ferric_media::seal::{SealHeader, seal_document};
    let mut rng = StdRng::seed_from_u64(4);
    let (ours, other) = (PrivateKey::generate(&mut rng).unwrap(), PrivateKey::generate(&mut rng).unwrap());
    let node = NodeKey::generate(&mut StdRng::seed_from_u64(1)).unwrap();
    let target = Target::new(Arc::new(object_store::memory::InMemory::new()), "acme").unwrap();
    for (number, recipient) in [(1, &ours), (2, &other), (3, &ours)] {
        let about = metadata(number, &format!("sip:+1555010{number}@h"));
        let header =
            SealHeader { part: about.part, tenant: "acme".into(), content: Content::Json, created: about.started_at };
        let recipients = [recipient.public().clone()];
        let (sealed, summary) = seal_document(&header, &recipients, &about.to_json().unwrap(), &mut rng).unwrap();
        let entry = MetadataEntry { bytes: summary.bytes, sha256: Digest(summary.sha256) };
        let signed = Manifest { metadata: Some(entry), ..manifest(number, None).manifest }.sign(&node).unwrap();
        let key = |file| target.key(signed.manifest.started_at, signed.manifest.part.file, file);
        target.store.put(&key("manifest.json"), signed.as_bytes().to_vec().into()).await.unwrap();
        // The third's metadata is gone.
        if number != 3 {
            target.store.put(&key("metadata.ejson"), sealed.into()).await.unwrap();
        }
    }
    let catalog = db.open(PartyPolicy::Clear).await;
    let rebuilt = rebuild(&catalog, &target, [other, ours].into(), |_| ()).await.unwrap();
    assert_eq!(rebuilt, Rebuilt { manifests: 3, metadata: 2, damaged: 0 });
    let page = catalog.search(&Search { party: Some("+15550102".into()), ..Search::default() }).await.unwrap();
    assert_eq!(ids(&page), [2]);
    assert_eq!((page.recordings[0].state, page.recordings[0].is_stored()), (MetadataState::Complete, true));
    assert_eq!(ids(&catalog.search(&Search::default()).await.unwrap()), [3, 2, 1]);
}

async fn news_of_before_parts_can_still_be_written(db: Db) {
    let catalog = db.open(PartyPolicy::Clear).await;
    let id = "00000000-0000-0000-0000-000000000007";
    let part = format!(
        r#"{{"Part":{{"id":"{id}","tenant":"acme","node":"a","state":"complete","started_at":5,"ended_at":9,
            "duration_ms":4,"audio_bytes":3,"sip_call_id":null,"participants":null,"party_tokens":["100"],
            "correlators":null,"correlator_tokens":null,"tags":null,"quality":null,"manifest":null,"previous":null,
            "upload":"waiting"}}}}"#
    );
    let upload = format!(r#"{{"Upload":{{"id":"{id}","node":"a","state":"stored","key":"k","error":null}}}}"#);
    let news: Vec<StoredNews> = [part, upload].iter().map(|json| serde_json::from_str(json).unwrap()).collect();
    catalog.apply(&news).await.unwrap();
    let found = catalog.get(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((found.parts[0].number, found.parts[0].file, found.is_stored()), (1, found.id, true));
}

#[tokio::test]
async fn tables_of_the_version_before_keep_what_two_nodes_wrote() {
    let db = Db::Postgres(Server::start());
    let pool = sqlx::PgPool::connect(&db.url()).await.unwrap();
    sqlx::migrate!("./migrations/postgres").run_to(1, &pool).await.unwrap();
    let id = "00000000-0000-0000-0000-000000000007";
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "INSERT INTO recordings VALUES ('{id}', 'acme', 'complete', 5000);
         INSERT INTO parts (recording_id, node, state, started_at, ended_at, duration_ms, store_key, upload) VALUES
            ('{id}', 'b', 'complete', 9000, 12000, 3000, 'key-b', 'stored'),
            ('{id}', 'c', 'complete', 5000, 8000, 3000, 'key-c', 'stored');
         INSERT INTO parties VALUES ('100', '{id}', 'b'), ('100', '{id}', 'c'), ('200', '{id}', 'c');
         INSERT INTO correlators VALUES ('1-2', '{id}', 'b');
         INSERT INTO tags VALUES ('{id}', 'b', 'case', '7'), ('{id}', 'c', 'case', '7');"
    )))
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    let catalog = db.open(PartyPolicy::Clear).await;
    for party in ["100", "200"] {
        let all = Search { party: Some(party.into()), correlator: Some("1-2".into()), ..Search::default() };
        let page = catalog.search(&all).await.unwrap();
        assert_eq!(ids(&page), [7]);
        let parts = &page.recordings[0].parts;
        let shown = |place: usize| (parts[place].number, parts[place].node.as_str(), parts[place].store_key.as_deref());
        assert_eq!([shown(0), shown(1)], [(1, "c", Some("key-c")), (2, "b", Some("key-b"))]);
        assert_eq!((parts[0].file.as_u128(), parts[1].gap_ms), (7, 1_000));
        assert_ne!(parts[1].file, parts[0].file);
        assert_eq!(page.recordings[0].tags, [("case".to_owned(), "7".to_owned())]);
    }
    // And it goes on with them.
    let more = Part::new(Uuid::from_u128(7), 3, Uuid::from_u128(8));
    let update = RecordingUpdate { part: more, ..RecordingUpdate::from_metadata(&metadata(7, "sip:300@h")) };
    catalog.upsert(&[update]).await.unwrap();
    assert_eq!(catalog.get(more.recording).await.unwrap().unwrap().parts.len(), 3);
}

#[tokio::test]
async fn a_file_of_the_version_before_keeps_what_it_has() {
    let db = Db::Sqlite(tempfile::tempdir().unwrap());
    let path = db.url().trim_start_matches("sqlite:").to_owned();
    let engine = Engine::sqlite(sqlite_file(&path).unwrap()).await.unwrap();
    let Engine::Sqlite(pool) = &engine else { panic!("a file was opened as {engine:?}") };
    sqlx::migrate!("./migrations/sqlite").run_to(2, pool).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO recordings (id, tenant, node, state, started_at, ended_at, duration_ms, audio_bytes, sip_call_id, upload)
            VALUES ('00000000-0000-0000-0000-000000000007', 'acme', 'edge-a1', 'complete', 5, 9, 4, 3, 'call-7', 'stored');
         INSERT INTO parties VALUES ('100', '00000000-0000-0000-0000-000000000007');
         INSERT INTO correlators VALUES ('1-2', '00000000-0000-0000-0000-000000000007');
         INSERT INTO tags VALUES ('00000000-0000-0000-0000-000000000007', 'case', '7');",
    )
    .execute(pool)
    .await
    .unwrap();
    engine.close().await;
    let catalog = db.open(PartyPolicy::Clear).await;
    let all = Search {
        party: Some("100".into()),
        correlator: Some("1-2".into()),
        tag: Some(("case".into(), Some("7".into()))),
        sip_call_id: Some("call-7".into()),
        ..Search::default()
    };
    let page = catalog.search(&all).await.unwrap();
    assert_eq!((ids(&page), page.recordings[0].duration_ms), (vec![7], Some(4)));
    assert!(page.recordings[0].is_stored());
}
