#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

use super::*;
use std::sync::Arc;

use ferric_media::keys::NodeKey;
use ferric_media::manifest::{AudioEntry, Manifest, RecordingState};
use ferric_media::metadata::{Participant, SessionInfo, SipIds, StreamReport, Tag};
use object_store::ObjectStoreExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::catalog_party::HashKey;
use crate::catalog_search::Search;
use crate::catalog_writer::{CatalogWriter, News, rebuild};
use crate::store::Target;

async fn open(dir: &Path, parties: PartyPolicy) -> Catalog {
    Catalog::open(&format!("sqlite:{}", dir.join("catalog.db").display()), parties).await.unwrap()
}

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
    let mut metadata = RecordingMetadata::new(Uuid::from_u128(number), "acme", "edge-a1", started_at, session);
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
        id: Uuid::from_u128(number),
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

async fn filled(dir: &Path, parties: PartyPolicy) -> Catalog {
    let catalog = open(dir, parties).await;
    let updates: Vec<_> = (1..=9)
        .map(|number| RecordingUpdate::from_metadata(&metadata(number, &format!("sip:+1555010{number}@sbc.example"))))
        .collect();
    catalog.upsert(&updates).await.unwrap();
    catalog
}

#[tokio::test]
async fn a_recording_is_told_of_in_any_order_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path(), PartyPolicy::Clear).await;
    let signed = manifest(1, None);
    let waiting = RecordingUpdate::from_manifest(&signed, UploadState::Waiting);
    // The end before the beginning.
    catalog.upsert(&[waiting.clone(), RecordingUpdate::from_metadata(&metadata(1, "sip:+15550101@h"))]).await.unwrap();
    catalog.set_upload(Uuid::from_u128(1), UploadState::Stored, Some("acme/2026/x"), None).await.unwrap();
    catalog.upsert(&[waiting]).await.unwrap();
    let found = catalog.get(Uuid::from_u128(1)).await.unwrap().unwrap();
    assert_eq!((found.state, found.upload), (MetadataState::Complete, UploadState::Stored));
    assert_eq!((found.duration_ms, found.audio_bytes), (Some(60_000), Some(5000)));
    assert_eq!(found.participants[0].aor.as_deref(), Some("sip:+15550101@h"));
    assert_eq!(found.tags, [("case".to_owned(), "1".to_owned())]);
    assert_eq!(found.correlators[0].name, "Cisco-Guid");
    assert_eq!(found.quality, Some(Quality { packets: 200, lost: 3, jitter_ms: Some(2.0), mos: Some(3.5) }));
    assert_eq!(found.store_key.as_deref(), Some("acme/2026/x"));
    assert_eq!(catalog.get(Uuid::from_u128(2)).await.unwrap(), None);
}

#[tokio::test]
async fn pages_cover_everything_once_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = filled(dir.path(), PartyPolicy::Clear).await;
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

#[tokio::test]
async fn filters_narrow_and_combine() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = filled(dir.path(), PartyPolicy::Clear).await;
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

#[tokio::test]
async fn hashed_parties_are_found_exactly_and_stand_nowhere_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = filled(dir.path(), PartyPolicy::Hashed(HashKey([7; 32]))).await;
    let found = async |party: &str| {
        ids(&catalog.search(&Search { party: Some(party.into()), ..Search::default() }).await.unwrap())
    };
    assert_eq!(found("+1-555-0104").await, [4]);
    assert!(found("+155501").await.is_empty());
    assert!(found("ann lee").await.is_empty());
    assert!(catalog.get(Uuid::from_u128(4)).await.unwrap().unwrap().participants.is_empty());
    catalog.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        for secret in [&b"5550104"[..], b"Ann Lee", b"ann lee", b"sbc.example"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{:?}", entry.path());
        }
    }
}

#[tokio::test]
async fn nobody_else_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let catalog = filled(dir.path(), PartyPolicy::Clear).await;
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    drop(catalog);
    assert!(matches!(Catalog::open("mysql://h/x", PartyPolicy::Clear).await, Err(CatalogError::Url(_))));
}

#[tokio::test]
async fn the_last_manifest_of_a_node_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path(), PartyPolicy::Clear).await;
    assert_eq!(catalog.last_manifest("edge-a1").await.unwrap(), None);
    let first = manifest(8, None);
    let second = manifest(2, Some(first.digest()));
    for signed in [&second, &first] {
        catalog.upsert(&[RecordingUpdate::from_manifest(signed, UploadState::Stored)]).await.unwrap();
    }
    assert_eq!(catalog.last_manifest("edge-a1").await.unwrap(), Some(second.digest()));
}

#[tokio::test]
async fn the_writer_never_blocks_and_goes_on_when_the_lock_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path(), PartyPolicy::Clear).await;
    let lock = catalog.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let (writer, task) = CatalogWriter::with_queue(catalog.clone(), 4);
    let news = |number| News::Recording(Box::new(RecordingUpdate::from_metadata(&metadata(number, "sip:1@h"))));
    let told: Vec<bool> = (1..=12).map(|number| writer.tell(news(number))).collect();
    assert_eq!(told.iter().filter(|told| **told).count(), 4);
    assert!(writer.is_stale() && writer.dropped() == 8);
    lock.rollback().await.unwrap();
    let counters = writer.clone();
    drop(writer);
    while counters.written() < 4 {
        tokio::task::yield_now().await;
    }
    drop(counters);
    task.await.unwrap();
    assert_eq!(catalog.search(&Search::default()).await.unwrap().recordings.len(), 4);
}

#[tokio::test]
async fn a_lost_catalogue_is_rebuilt_from_the_manifests_in_the_store() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let target = Target::new(store.clone(), "acme").unwrap();
    let mut previous = None;
    for number in 1..=3 {
        let signed = manifest(number, previous);
        previous = Some(signed.digest());
        let key = |file| target.key(signed.manifest.started_at, signed.manifest.id, file);
        store.put(&key("manifest.json"), signed.as_bytes().to_vec().into()).await.unwrap();
        store.put(&key("audio.eopus"), b"sealed".to_vec().into()).await.unwrap();
    }
    store.put(&target.prefix.clone().join("x").join("manifest.json"), b"{}".to_vec().into()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path(), PartyPolicy::Clear).await;
    catalog.upsert(&[RecordingUpdate::from_metadata(&metadata(2, "sip:+15550102@h"))]).await.unwrap();
    assert_eq!(rebuild(&catalog, &target).await.unwrap(), (3, 1));
    let page = catalog.search(&Search::default()).await.unwrap();
    assert_eq!(ids(&page), [3, 2, 1]);
    assert!(page.recordings.iter().all(|recording| recording.upload == UploadState::Stored));
    assert_eq!(page.recordings[1].participants.len(), 1, "what was known of the parties stays");
    assert!(page.recordings[0].store_key.as_deref().unwrap().starts_with("acme/1970/01/01/"));
    assert_eq!(catalog.last_manifest("edge-a1").await.unwrap(), previous);
}
