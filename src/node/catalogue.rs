//! The node's books: what happens to recordings, told to the catalogue.
//!
//! Telling never waits; the catalogue can be slow, locked or lost without a call
//! noticing. What it misses can be rebuilt from the manifests.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use ferric_media::manifest::{Digest, SignedManifest};
use ferric_media::metadata::{MetadataState, SessionInfo};
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;
use ferric_worker::Ending;
use ferric_worker::catalog::{Catalog, CatalogError, Party, Quality, RecordingUpdate, UploadState};
use ferric_worker::catalog_party::{HashKey, PartyPolicy};
use ferric_worker::catalog_search::{CatalogPart, CatalogRecording, Search};
use ferric_worker::catalog_writer::{CatalogWriter, News};
use ferric_worker::upload::UploadEvent;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::config::Config;
use crate::console::{Alarm, BackendError, PartView, RecordingView, RecordingsPage, RecordingsQuery};

/// Longest wait for the writer at the end: longer than a database is waited for, so that what it holds gets to disk.
const CLOSE: Duration = Duration::from_secs(15);

/// A handle to the books; clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct Bookkeeper {
    node: String,
    catalog: Catalog,
    writer: CatalogWriter,
}

/// Opens the catalogue.
pub(super) async fn connect(config: &Config, party_key: [u8; 32]) -> anyhow::Result<Catalog> {
    let settings = &config.catalog;
    let url = if Catalog::is_shared(&settings.url) {
        settings.url.clone()
    } else {
        let file = settings.url.strip_prefix("sqlite:").unwrap_or(&settings.url);
        format!("sqlite:{}", config.node.data_dir.join(file).display())
    };
    let password = settings.password_file.as_deref().map(secret).transpose()?;
    let party_key = match settings.party_key.as_deref().map(secret).transpose()? {
        Some(text) => <sha2::Sha256 as sha2::Digest>::digest(text.as_bytes()).into(),
        None => party_key,
    };
    let policy = if settings.hashed { PartyPolicy::Hashed(HashKey(party_key)) } else { PartyPolicy::Clear };
    Catalog::open(&url, password.as_deref(), policy).await.context("the catalogue cannot be opened")
}

/// Opens the catalogue and starts its writer.
pub(super) async fn open(config: &Config, party_key: [u8; 32]) -> anyhow::Result<(Bookkeeper, JoinHandle<()>)> {
    let catalog = connect(config, party_key).await?;
    let (writer, task) = if Catalog::is_shared(&config.catalog.url) {
        let queue = config.node.data_dir.join("catalog.queue");
        CatalogWriter::start_queued(catalog.clone(), &queue, config.catalog.queue_bytes).await?
    } else {
        CatalogWriter::start(catalog.clone())
    };
    Ok((Bookkeeper { node: config.node.id.clone(), catalog, writer }, task))
}

/// The text of a file that holds a secret.
fn secret(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let text = text.trim();
    anyhow::ensure!(!text.is_empty(), "{} is empty: it should hold a secret", file.display());
    Ok(text.to_owned())
}

/// Where the files of a part lie.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) tenant: String,
    /// The node that wrote them.
    pub(super) node: String,
    pub(super) file: Uuid,
    /// Their folder in the store, once they are there.
    pub(super) key: Option<String>,
}

impl Bookkeeper {
    fn update(&self, part: Part, tenant: &str, state: MetadataState, started_at: Timestamp) -> RecordingUpdate {
        RecordingUpdate {
            part,
            tenant: tenant.to_owned(),
            node: self.node.clone(),
            state,
            started_at,
            ended_at: None,
            duration_ms: None,
            lost_ms: None,
            audio_bytes: None,
            sip_call_id: None,
            parties: None,
            tags: None,
            correlators: None,
            quality: None,
            manifest: None,
            upload: None,
        }
    }

    fn tell(&self, update: RecordingUpdate) {
        self.writer.tell(News::Recording(Box::new(update)));
    }

    fn with_session(&self, mut update: RecordingUpdate, session: &SessionInfo) -> RecordingUpdate {
        let party = |participant: &ferric_media::metadata::Participant| Party {
            name: participant.name.clone(),
            aor: participant.aor.clone(),
            channel: participant.channel,
        };
        update.sip_call_id = Some(session.sip.call_id.clone());
        update.parties = Some(session.participants.iter().map(party).collect());
        update.correlators = Some(session.sip.correlators.clone());
        update
    }

    /// A part has begun, or more is known of a running one.
    pub(super) fn running(&self, part: Part, tenant: &str, started: SystemTime, session: &SessionInfo) {
        let update = self.update(part, tenant, MetadataState::Recording, Timestamp::from(started));
        self.tell(self.with_session(update, session));
    }

    /// A part is over.
    pub(super) fn finished(&self, part: Part, tenant: &str, ending: &Ending) {
        let totals = &ending.totals;
        let mut update = self.update(part, tenant, ending.state.into(), totals.started_at);
        update.ended_at = Some(totals.ended_at);
        update.duration_ms = Some(totals.duration_ms);
        update.lost_ms = ending.lost_ms;
        update.audio_bytes = Some(totals.audio.bytes);
        update.tags = Some(ending.tags.clone());
        let streams = &ending.quality.streams;
        update.quality = Some(Quality {
            packets: streams.iter().map(|stream| stream.packets).sum(),
            lost: streams.iter().map(|stream| stream.lost).sum(),
            jitter_ms: streams.iter().map(|stream| stream.jitter_ms).reduce(f64::max),
            mos: streams.iter().filter_map(|stream| stream.mos).reduce(f64::min),
        });
        self.tell(self.with_session(update, &ending.session));
    }

    /// A recording waits for the store.
    pub(super) fn ready(&self, manifest: &SignedManifest) {
        self.tell(RecordingUpdate::from_manifest(manifest, UploadState::Waiting));
    }

    /// Files were deleted, as others have what they had.
    pub(super) fn dropped(&self, part: Part) {
        self.writer.tell(News::Dropped(part));
    }

    /// Tags of a running recording.
    pub(super) fn tagged(&self, part: Part, tenant: &str, started_at: Timestamp, tags: Vec<(String, String)>) {
        let mut update = self.update(part, tenant, MetadataState::Recording, started_at);
        update.tags = Some(tags);
        self.tell(update);
    }

    /// Something happened on the way to the store.
    pub(super) fn upload(&self, event: &UploadEvent) {
        for news in News::from_upload(event) {
            self.writer.tell(news);
        }
    }

    /// The last manifest of this node that the catalogue knows.
    pub(super) async fn last_manifest(&self, node: &str) -> Option<Digest> {
        self.catalog.last_manifest(node).await.ok().flatten()
    }

    pub(super) async fn search(&self, query: RecordingsQuery) -> Result<RecordingsPage, BackendError> {
        let page = self.catalog.search(&search(query)?).await.map_err(unavailable)?;
        Ok(RecordingsPage {
            recordings: page.recordings.into_iter().map(view).collect(),
            next_cursor: page.next_cursor,
        })
    }

    pub(super) async fn find(&self, id: Uuid) -> Result<RecordingView, BackendError> {
        Ok(view(self.row(id).await?))
    }

    /// Where a part of a recording lies.
    pub(super) async fn place(&self, id: Uuid, number: NonZeroU32) -> Result<Place, BackendError> {
        let CatalogRecording { tenant, parts, .. } = self.row(id).await?;
        let count = parts.len();
        let part = parts.into_iter().find(|part| part.number == number.get()).ok_or_else(|| {
            BackendError::NotFound(format!("the recording has no part {number}; it has {count}, and names them"))
        })?;
        Ok(Place { tenant, node: part.node, file: part.file, key: part.store_key })
    }

    async fn row(&self, id: Uuid) -> Result<CatalogRecording, BackendError> {
        let row = self.catalog.get(id).await.map_err(unavailable)?;
        row.ok_or_else(|| BackendError::NotFound("no recording has this id".into()))
    }

    /// What stands in the way of the catalogue.
    pub(super) fn find_alarms(&self, alarms: &mut Vec<Alarm>) {
        if let Some(error) = self.writer.trouble() {
            alarms.push(Alarm {
                name: "catalog-away",
                text: format!("the catalogue cannot be written, {} entries wait: {error}", self.writer.waiting()),
                advice: "Calls and recordings go on; only search waits. Check the database, its network and its disk: what waits is written when it is back.",
            });
        }
        if self.writer.is_stale() {
            let (dropped, refused) = (self.writer.dropped(), self.writer.refused());
            alarms.push(Alarm {
                name: "catalog-incomplete",
                text: format!(
                    "search does not know everything: {dropped} entries had no room while the catalogue was away, {refused} were not accepted by it"
                ),
                advice: "No recording is lost: their files are in the store, and `ferric catalog rebuild` reads them back. A larger [catalog] queue bears a longer outage; the log names what was refused.",
            });
        }
    }

    /// For the gauges: entries that wait, and entries lost since the start.
    pub(super) fn backlog(&self) -> (u64, u64) {
        (self.writer.waiting(), self.writer.dropped() + self.writer.refused())
    }

    /// Writes what was told and closes the catalogue.
    pub(super) async fn close(self, task: JoinHandle<()>) {
        let Bookkeeper { catalog, writer, .. } = self;
        drop(writer);
        // Other handles may outlive us for a moment; what is not written by then is in the queue or the manifests.
        let _ = tokio::time::timeout(CLOSE, task).await;
        catalog.close().await;
    }
}

fn unavailable(error: CatalogError) -> BackendError {
    match error {
        CatalogError::Cursor(_) => BackendError::Invalid(error.to_string()),
        error => BackendError::Unavailable(format!("the catalogue does not answer: {error}")),
    }
}

fn search(query: RecordingsQuery) -> Result<Search, BackendError> {
    let time = |text: Option<String>, name: &str| -> Result<Option<Timestamp>, BackendError> {
        let wrong =
            |text: &str| BackendError::Invalid(format!("{name} = \"{text}\" is no time such as 2026-01-31T08:00:00Z"));
        text.map(|text| text.parse().map_err(|_| wrong(&text))).transpose()
    };
    let state = query.state.map(|state| match state.as_str() {
        "recording" => Ok(MetadataState::Recording),
        "complete" => Ok(MetadataState::Complete),
        "recovered" => Ok(MetadataState::Recovered),
        "partial" => Ok(MetadataState::Partial),
        _ => Err(BackendError::Invalid("state is recording, complete, recovered or partial".into())),
    });
    Ok(Search {
        from: time(query.from, "from")?,
        to: time(query.to, "to")?,
        party: query.party,
        tenants: query.tenant.into_iter().collect(),
        tag: query.tag.map(|tag| match tag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (tag, None),
        }),
        state: state.transpose()?,
        sip_call_id: None,
        correlator: query.correlator,
        limit: query.limit,
        cursor: query.cursor,
    })
}

fn word(state: MetadataState) -> String {
    let word = match state {
        MetadataState::Recording => "recording",
        MetadataState::Complete => "complete",
        MetadataState::Recovered => "recovered",
        MetadataState::Partial => "partial",
    };
    word.to_owned()
}

fn part_view(part: CatalogPart) -> PartView {
    PartView {
        part: part.number,
        id: part.file,
        node: part.node,
        state: word(part.state),
        started_at: part.started_at.to_string(),
        ended_at: part.ended_at.map(|time| time.to_string()),
        duration_ms: part.duration_ms,
        gap_ms: part.gap_ms,
        copy: part.copy,
        stored: part.upload == UploadState::Stored,
    }
}

fn view(row: CatalogRecording) -> RecordingView {
    RecordingView {
        id: row.id,
        stored: row.is_stored(),
        tenant: row.tenant,
        state: word(row.state),
        started_at: row.started_at.to_string(),
        ended_at: row.ended_at.map(|time| time.to_string()),
        duration_ms: row.duration_ms,
        lost_ms: row.lost_ms,
        sip_call_id: row.sip_call_id,
        parties: row.participants.into_iter().filter_map(|party| party.aor.or(party.name)).collect(),
        tags: row.tags.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        parts: row.parts.into_iter().map(part_view).collect(),
    }
}
