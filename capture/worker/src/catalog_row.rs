//! News in the form in which it is stored, and how it is written.
//!
//! Between hearing and writing news may lie in a queue on disk ([`crate::catalog_outbox`]). So it is turned into what
//! the tables hold before that: where parties are hashed, the queue knows their hashes only.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use ferric_media::metadata::MetadataState;
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;

use crate::catalog::{CatalogError, state_text};
use crate::catalog_engine::{Session, Statement};
use crate::catalog_party::{PartyPolicy, address_tokens, correlator_token, name_token};
use crate::catalog_update::{Party, RecordingUpdate, UploadState};
use crate::catalog_writer::News;

/// News that can be written, now or after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum StoredNews {
    Part(Box<PartRow>),
    /// `id` is that of the files.
    Upload {
        id: Uuid,
        state: UploadState,
        key: Option<String>,
        error: Option<String>,
    },
    Dropped(Part),
}

/// News of a part; what is absent stays as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartRow {
    #[serde(flatten)]
    part: Part,
    tenant: String,
    node: String,
    state: MetadataState,
    started_at: i64,
    ended_at: Option<i64>,
    duration_ms: Option<i64>,
    #[serde(default)]
    lost_ms: Option<i64>,
    audio_bytes: Option<i64>,
    sip_call_id: Option<String>,
    participants: Option<String>,
    party_tokens: Option<Vec<String>>,
    correlators: Option<String>,
    correlator_tokens: Option<Vec<String>>,
    tags: Option<Vec<(String, String)>>,
    quality: Option<String>,
    manifest: Option<String>,
    previous: Option<String>,
    upload: Option<UploadState>,
}

impl StoredNews {
    pub(crate) fn new(news: &News, parties: &PartyPolicy) -> StoredNews {
        match news {
            News::Recording(update) => StoredNews::of_update(update, parties),
            News::Upload { file, state, key, error } => {
                StoredNews::Upload { id: *file, state: *state, key: key.clone(), error: error.clone() }
            }
            News::Dropped(part) => StoredNews::Dropped(*part),
        }
    }

    pub(crate) fn of_update(update: &RecordingUpdate, policy: &PartyPolicy) -> StoredNews {
        let clear = policy.is_clear();
        let integer = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let stored = |tokens: Vec<String>| tokens.iter().map(|token| policy.stored(token)).collect();
        let ids = |correlators: &Vec<ferric_media::metadata::Correlator>| {
            correlators.iter().map(|correlator| correlator_token(&correlator.value)).collect()
        };
        StoredNews::Part(Box::new(PartRow {
            part: update.part,
            tenant: update.tenant.clone(),
            node: update.node.clone(),
            state: update.state,
            started_at: update.started_at.unix_ms(),
            ended_at: update.ended_at.map(Timestamp::unix_ms),
            duration_ms: update.duration_ms.map(integer),
            lost_ms: update.lost_ms.map(integer),
            audio_bytes: update.audio_bytes.map(integer),
            sip_call_id: update.sip_call_id.clone(),
            participants: update.parties.as_ref().filter(|_| clear).map(json),
            party_tokens: update.parties.as_ref().map(|parties| stored(tokens(parties, clear))),
            correlators: update.correlators.as_ref().filter(|_| clear).map(json),
            correlator_tokens: update.correlators.as_ref().map(|correlators| stored(ids(correlators))),
            tags: update.tags.clone(),
            quality: update.quality.as_ref().map(json),
            manifest: update.manifest.map(|(digest, _)| digest.to_string()),
            previous: update.manifest.and_then(|(_, previous)| previous).map(|digest| digest.to_string()),
            upload: update.upload,
        }))
    }

    /// The recording, or the files where only they are told of: nobody else writes of those.
    pub(crate) fn recording(&self) -> Uuid {
        match self {
            StoredNews::Part(row) => row.part.recording,
            StoredNews::Upload { id, .. } => *id,
            StoredNews::Dropped(part) => part.recording,
        }
    }

    pub(crate) async fn write(&self, session: &mut Session) -> Result<(), CatalogError> {
        match self {
            StoredNews::Part(row) => row.write(session).await,
            StoredNews::Upload { id, state, key, error } => {
                let update = Statement::new(
                    "UPDATE parts SET upload = $1, store_key = coalesce($2, store_key), upload_error = $3
                     WHERE file = $4",
                );
                let update = update.with(state.as_str()).with(key.clone()).with(error.clone());
                session.execute(&update.with(id.to_string())).await.map(|_| ())
            }
            StoredNews::Dropped(part) => {
                let drop = Statement::new("DELETE FROM parts WHERE file = $1").with(part.file.to_string());
                session.execute(&drop).await?;
                follow(session, &part.recording.to_string()).await
            }
        }
    }
}

impl PartRow {
    async fn write(&self, session: &mut Session) -> Result<(), CatalogError> {
        let (id, file) = (self.part.recording.to_string(), self.part.file.to_string());
        let state = state_text(self.state);
        // First, and also when nothing changes: it is the lock under which the recording follows from its parts.
        let recording = Statement::new(
            "INSERT INTO recordings (id, tenant, state, started_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant",
        );
        let recording = recording.with(id.as_str()).with(self.tenant.as_str()).with(state).with(self.started_at);
        session.execute(&recording).await?;
        let part = Statement::new(
            "INSERT INTO parts (recording_id, node, state, started_at, ended_at, duration_ms, audio_bytes, sip_call_id,
                                participants, correlators, quality, manifest, previous, upload, file, part, is_copy,
                                lost_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, coalesce($14, 'none'), $15, $16, $17, $18)
             ON CONFLICT (file) DO UPDATE SET
                started_at = excluded.started_at,
                is_copy = excluded.is_copy,
                state = CASE WHEN excluded.state = 'recording' THEN parts.state ELSE excluded.state END,
                ended_at = coalesce(excluded.ended_at, parts.ended_at),
                duration_ms = coalesce(excluded.duration_ms, parts.duration_ms),
                lost_ms = coalesce(excluded.lost_ms, parts.lost_ms),
                audio_bytes = coalesce(excluded.audio_bytes, parts.audio_bytes),
                sip_call_id = coalesce(excluded.sip_call_id, parts.sip_call_id),
                participants = coalesce(excluded.participants, parts.participants),
                correlators = coalesce(excluded.correlators, parts.correlators),
                quality = coalesce(excluded.quality, parts.quality),
                manifest = coalesce(excluded.manifest, parts.manifest),
                previous = coalesce(excluded.previous, parts.previous),
                -- What was stored does not wait again because a start-up read its manifest.
                upload = CASE WHEN $14 IS NULL OR ($14 = 'waiting' AND parts.upload = 'stored')
                              THEN parts.upload ELSE $14 END",
        );
        let part = part.with(id.as_str()).with(self.node.as_str()).with(state).with(self.started_at);
        let part = part.with(self.ended_at).with(self.duration_ms).with(self.audio_bytes);
        let part = part.with(self.sip_call_id.clone()).with(self.participants.clone()).with(self.correlators.clone());
        let part = part.with(self.quality.clone()).with(self.manifest.clone()).with(self.previous.clone());
        let part = part.with(self.upload.map(|upload| upload.as_str().to_owned()));
        let part = part.with(file.as_str()).with(i64::from(self.part.number.get())).with(i64::from(self.part.copy));
        session.execute(&part.with(self.lost_ms)).await?;
        follow(session, &id).await?;
        if let Some(tokens) = &self.party_tokens {
            self.replace(session, "parties", "token", tokens.iter().map(|token| vec![token.as_str()])).await?;
        }
        if let Some(tokens) = &self.correlator_tokens {
            self.replace(session, "correlators", "token", tokens.iter().map(|token| vec![token.as_str()])).await?;
        }
        if let Some(tags) = &self.tags {
            // A tag that was set twice has the value it was given last.
            let last: std::collections::BTreeMap<_, _> = tags.iter().map(|(name, value)| (name, value)).collect();
            let rows = last.into_iter().map(|(name, value)| vec![name.as_str(), value.as_str()]);
            self.replace(session, "tags", "name, value", rows).await?;
        }
        Ok(())
    }

    /// Puts rows in the place of this part's rows in a table.
    async fn replace<'a>(
        &self,
        session: &mut Session,
        table: &str,
        columns: &str,
        rows: impl Iterator<Item = Vec<&'a str>>,
    ) -> Result<(), CatalogError> {
        let mut delete = Statement::new("DELETE FROM ");
        delete.push(table).push(" WHERE file = $1");
        let (id, file) = (self.part.recording.to_string(), self.part.file.to_string());
        session.execute(&delete.with(file.as_str())).await?;
        let mut insert = Statement::new("INSERT INTO ");
        insert.push(table).push(" (recording_id, file, ").push(columns).push(") VALUES ");
        let mut is_empty = true;
        for row in rows {
            insert.push(if is_empty { "(" } else { ", (" });
            insert.bind_all([id.as_str(), file.as_str()].into_iter().chain(row)).push(")");
            is_empty = false;
        }
        if !is_empty {
            insert.push(" ON CONFLICT DO NOTHING");
            session.execute(&insert).await?;
        }
        Ok(())
    }
}

/// Brings a recording's own row up to date with its parts.
///
/// It begins with its first part and runs while its last one does. When that is over, a part that never ended died with
/// its node: until the node returns, something is missing. Of the files of a part the best count.
async fn follow(session: &mut Session, recording: &str) -> Result<(), CatalogError> {
    let follow = Statement::new(
        "UPDATE recordings SET
            started_at = coalesce((SELECT min(started_at) FROM parts WHERE recording_id = $1), started_at),
            state = coalesce((SELECT CASE
                WHEN max(CASE WHEN part = last THEN best END) = 2 THEN 'recording'
                WHEN max(best) >= 2 THEN 'partial'
                WHEN max(best) = 1 THEN 'recovered'
                WHEN max(best) = 0 THEN 'complete' END
                FROM (SELECT part, max(part) OVER () AS last, min(CASE state
                        WHEN 'complete' THEN 0 WHEN 'recovered' THEN 1 WHEN 'recording' THEN 2 ELSE 3 END) AS best
                      FROM parts WHERE recording_id = $1 GROUP BY part) AS numbered), state)
         WHERE id = $1",
    );
    session.execute(&follow.with(recording)).await.map(|_| ())
}

/// All tokens of a recording's parties. Names are tokens only where they are stored in clear.
fn tokens(parties: &[Party], clear: bool) -> Vec<String> {
    let addresses = parties.iter().filter_map(|party| party.aor.as_deref()).flat_map(address_tokens);
    let names = parties.iter().filter(|_| clear).filter_map(|party| party.name.as_deref()).filter_map(name_token);
    addresses.chain(names).collect()
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
