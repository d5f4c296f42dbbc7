//! News in the form in which it is stored, and how it is written.
//!
//! Between hearing and writing news may lie in a queue on disk ([`crate::catalog_outbox`]). So it is turned into what
//! the tables hold before that: where parties are hashed, the queue knows their hashes only.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use ferric_media::metadata::MetadataState;
use ferric_media::timestamp::Timestamp;

use crate::catalog::{CatalogError, state_text};
use crate::catalog_engine::{Session, Statement};
use crate::catalog_party::{PartyPolicy, address_tokens, correlator_token, name_token};
use crate::catalog_update::{Party, RecordingUpdate, UploadState};
use crate::catalog_writer::News;

/// News that can be written, now or after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum StoredNews {
    Part(Box<Part>),
    Upload { id: Uuid, node: String, state: UploadState, key: Option<String>, error: Option<String> },
}

/// News of a part; what is absent stays as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    id: Uuid,
    tenant: String,
    node: String,
    state: MetadataState,
    started_at: i64,
    ended_at: Option<i64>,
    duration_ms: Option<i64>,
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
            News::Upload { id, node, state, key, error } => StoredNews::Upload {
                id: *id,
                node: node.clone(),
                state: *state,
                key: key.clone(),
                error: error.clone(),
            },
        }
    }

    pub(crate) fn of_update(update: &RecordingUpdate, policy: &PartyPolicy) -> StoredNews {
        let clear = policy.is_clear();
        let integer = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let stored = |tokens: Vec<String>| tokens.iter().map(|token| policy.stored(token)).collect();
        let ids = |correlators: &Vec<ferric_media::metadata::Correlator>| {
            correlators.iter().map(|correlator| correlator_token(&correlator.value)).collect()
        };
        StoredNews::Part(Box::new(Part {
            id: update.id,
            tenant: update.tenant.clone(),
            node: update.node.clone(),
            state: update.state,
            started_at: update.started_at.unix_ms(),
            ended_at: update.ended_at.map(Timestamp::unix_ms),
            duration_ms: update.duration_ms.map(integer),
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

    /// The recording.
    pub(crate) fn id(&self) -> Uuid {
        match self {
            StoredNews::Part(part) => part.id,
            StoredNews::Upload { id, .. } => *id,
        }
    }

    pub(crate) async fn write(&self, session: &mut Session) -> Result<(), CatalogError> {
        match self {
            StoredNews::Part(part) => part.write(session).await,
            StoredNews::Upload { id, node, state, key, error } => {
                let update = Statement::new(
                    "UPDATE parts SET upload = $1, store_key = coalesce($2, store_key), upload_error = $3
                     WHERE recording_id = $4 AND node = $5",
                );
                let update = update.with(state.as_str()).with(key.clone()).with(error.clone());
                session.execute(&update.with(id.to_string()).with(node.as_str())).await.map(|_| ())
            }
        }
    }
}

impl Part {
    async fn write(&self, session: &mut Session) -> Result<(), CatalogError> {
        let id = self.id.to_string();
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
                                participants, correlators, quality, manifest, previous, upload)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, coalesce($14, 'none'))
             ON CONFLICT (recording_id, node) DO UPDATE SET
                started_at = excluded.started_at,
                state = CASE WHEN excluded.state = 'recording' THEN parts.state ELSE excluded.state END,
                ended_at = coalesce(excluded.ended_at, parts.ended_at),
                duration_ms = coalesce(excluded.duration_ms, parts.duration_ms),
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
        session.execute(&part.with(self.upload.map(|upload| upload.as_str().to_owned()))).await?;
        // A recording begins with its first part and runs while its last one does. When that is over, a part that never
        // ended died with its node: until the node returns, something is missing.
        let follow = Statement::new(
            "UPDATE recordings SET
                started_at = (SELECT min(started_at) FROM parts WHERE recording_id = $1),
                state = (SELECT CASE
                    WHEN (SELECT state FROM parts WHERE recording_id = $1 ORDER BY started_at DESC, node DESC LIMIT 1)
                         = 'recording' THEN 'recording'
                    WHEN max(CASE WHEN state IN ('recording', 'partial') THEN 1 ELSE 0 END) = 1 THEN 'partial'
                    WHEN max(CASE WHEN state = 'recovered' THEN 1 ELSE 0 END) = 1 THEN 'recovered'
                    ELSE 'complete' END FROM parts WHERE recording_id = $1)
             WHERE id = $1",
        );
        session.execute(&follow.with(id.as_str())).await?;
        if let Some(tokens) = &self.party_tokens {
            self.replace(session, &id, "parties", "token", tokens.iter().map(|token| vec![token.as_str()])).await?;
        }
        if let Some(tokens) = &self.correlator_tokens {
            self.replace(session, &id, "correlators", "token", tokens.iter().map(|token| vec![token.as_str()])).await?;
        }
        if let Some(tags) = &self.tags {
            // A tag that was set twice has the value it was given last.
            let last: std::collections::BTreeMap<_, _> = tags.iter().map(|(name, value)| (name, value)).collect();
            let rows = last.into_iter().map(|(name, value)| vec![name.as_str(), value.as_str()]);
            self.replace(session, &id, "tags", "name, value", rows).await?;
        }
        Ok(())
    }

    /// Puts rows in the place of this part's rows in a table.
    async fn replace<'a>(
        &self,
        session: &mut Session,
        id: &str,
        table: &str,
        columns: &str,
        rows: impl Iterator<Item = Vec<&'a str>>,
    ) -> Result<(), CatalogError> {
        let mut delete = Statement::new("DELETE FROM ");
        delete.push(table).push(" WHERE recording_id = $1 AND node = $2");
        session.execute(&delete.with(id).with(self.node.as_str())).await?;
        let mut insert = Statement::new("INSERT INTO ");
        insert.push(table).push(" (recording_id, node, ").push(columns).push(") VALUES ");
        let mut is_empty = true;
        for row in rows {
            insert.push(if is_empty { "(" } else { ", (" });
            insert.bind_all([id, self.node.as_str()].into_iter().chain(row)).push(")");
            is_empty = false;
        }
        if !is_empty {
            insert.push(" ON CONFLICT DO NOTHING");
            session.execute(&insert).await?;
        }
        Ok(())
    }
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
