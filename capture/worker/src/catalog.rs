//! The catalogue: what search needs of every recording, in SQLite.
//!
//! It is an index and never the truth. The truth is the spool and the store:
//! every row can be made again from the manifests there (times, state, sizes,
//! keys: [`crate::catalog_writer::rebuild`]) and, by somebody who holds the
//! tenant's key, from the sealed metadata (parties, tags, ids). So losing the
//! catalogue costs search, not recordings, and nothing on the way of a call
//! waits for it: capture and upload talk to it through
//! [`crate::catalog_writer::CatalogWriter`], a bounded queue that drops and counts.
//!
//! Parties are stored as search tokens ([`crate::catalog_party`]), in clear or as
//! keyed hashes; tags and SIP ids are stored as they are. The file has mode 0600.
//!
//! WAL with `synchronous = NORMAL`: a power failure may cost the last
//! transactions and never the file. Updates may come in any order and twice:
//! what is absent in an update keeps its value, and a finished recording does
//! not run again.

use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use uuid::Uuid;

use ferric_media::manifest::{Digest, SignedManifest};
use ferric_media::metadata::{Correlator, MetadataState, RecordingMetadata};
use ferric_media::timestamp::Timestamp;

use crate::catalog_party::{PartyPolicy, address_tokens, correlator_token, name_token};

/// Why the catalogue does not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The URL is not one of this build's.
    #[error("`{0}` is no catalogue URL; write sqlite:catalog.db")]
    Url(String),
    /// The file cannot be made.
    #[error("cannot create the catalogue {path}: {source}")]
    Create {
        /// Which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("the catalogue failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Its tables cannot be brought up to date.
    #[error("the catalogue's tables cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A cursor that was not made here.
    #[error("`{0}` is no cursor of a previous page")]
    Cursor(String),
    /// A row holds what no version of this program writes.
    #[error("recording {id}: column {column} is damaged")]
    Row {
        /// Which recording.
        id: String,
        /// Which column.
        column: &'static str,
    },
}

/// Where a recording stands on its way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadState {
    /// The call still runs.
    None,
    /// It waits in the spool.
    Waiting,
    /// It is verified in the store.
    Stored,
    /// The last attempt failed; it will be repeated.
    Failing,
    /// It was set aside and needs a person.
    Aside,
}

impl UploadState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            UploadState::None => "none",
            UploadState::Waiting => "waiting",
            UploadState::Stored => "stored",
            UploadState::Failing => "failing",
            UploadState::Aside => "aside",
        }
    }
}

/// A participant as the catalogue shows them; nobody is shown where parties are hashed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Address of record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aor: Option<String>,
    /// Channel of the file, 0 = left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
}

/// Reception of all streams together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Packets received.
    pub packets: u64,
    /// Packets lost.
    pub lost: u64,
    /// Worst interarrival jitter, in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Worst estimated listening quality, 1.0 to 4.5.
    pub mos: Option<f64>,
}

/// News of a recording. What is `None` stays as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingUpdate {
    /// The recording.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// The node that records it.
    pub node: String,
    /// Running, or how it ended.
    pub state: MetadataState,
    /// When its timeline begins.
    pub started_at: Timestamp,
    /// When it ends.
    pub ended_at: Option<Timestamp>,
    /// Length of the audio, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Length of the sealed audio, in bytes.
    pub audio_bytes: Option<u64>,
    /// Call-ID of the recording session.
    pub sip_call_id: Option<String>,
    /// Who spoke.
    pub parties: Option<Vec<Party>>,
    /// Tags, all of them.
    pub tags: Option<Vec<(String, String)>>,
    /// Ids by which others know the call.
    pub correlators: Option<Vec<Correlator>>,
    /// Reception.
    pub quality: Option<Quality>,
    /// SHA-256 of the manifest, and of the one before.
    pub manifest: Option<(Digest, Option<Digest>)>,
    /// Where it stands on its way to the store.
    pub upload: Option<UploadState>,
}

impl RecordingUpdate {
    /// What the metadata document tells.
    pub fn from_metadata(metadata: &RecordingMetadata) -> RecordingUpdate {
        let session = &metadata.session;
        let party = |participant: &ferric_media::metadata::Participant| Party {
            name: participant.name.clone(),
            aor: participant.aor.clone(),
            channel: participant.channel,
        };
        let tag = |tag: &ferric_media::metadata::Tag| (tag.name.clone(), tag.value.clone());
        let streams = &metadata.streams;
        let worst = |values: &mut dyn Iterator<Item = f64>, sign: f64| {
            values.map(|value| value * sign).reduce(f64::max).map(|value| value * sign)
        };
        let quality = (!streams.is_empty()).then(|| Quality {
            packets: streams.iter().map(|stream| stream.packets).sum(),
            lost: streams.iter().map(|stream| stream.lost).sum(),
            jitter_ms: worst(&mut streams.iter().filter_map(|stream| stream.jitter_ms), 1.0),
            mos: worst(&mut streams.iter().filter_map(|stream| stream.mos), -1.0),
        });
        RecordingUpdate {
            id: metadata.id,
            tenant: metadata.tenant.clone(),
            node: metadata.nodes.last().map(|part| part.node.clone()).unwrap_or_default(),
            state: metadata.state,
            started_at: metadata.started_at,
            ended_at: metadata.ended_at,
            duration_ms: metadata.duration_ms,
            audio_bytes: None,
            sip_call_id: Some(session.sip.call_id.clone()).filter(|id| !id.is_empty()),
            parties: Some(session.participants.iter().map(party).collect()),
            tags: Some(metadata.tags.iter().map(tag).collect()),
            correlators: Some(session.sip.correlators.clone()),
            quality,
            manifest: None,
            upload: None,
        }
    }

    /// What the manifest tells; `upload` is where its files are.
    pub fn from_manifest(signed: &SignedManifest, upload: UploadState) -> RecordingUpdate {
        let manifest = &signed.manifest;
        RecordingUpdate {
            id: manifest.id,
            tenant: manifest.tenant.clone(),
            node: manifest.node.clone(),
            state: manifest.state.into(),
            started_at: manifest.started_at,
            ended_at: Some(manifest.ended_at),
            duration_ms: Some(manifest.duration_ms),
            audio_bytes: Some(manifest.audio.bytes),
            sip_call_id: None,
            parties: None,
            tags: None,
            correlators: None,
            quality: None,
            manifest: Some((signed.digest(), manifest.previous)),
            upload: Some(upload),
        }
    }
}

/// The catalogue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub(crate) pool: SqlitePool,
    pub(crate) parties: PartyPolicy,
}

impl Catalog {
    /// Opens `sqlite:PATH` (relative to the working directory unless it begins with `/`), making it if need be, and
    /// brings its tables up to date.
    ///
    /// # Errors
    /// The URL is no such, or the file cannot be made, read or migrated.
    pub async fn open(url: &str, parties: PartyPolicy) -> Result<Catalog, CatalogError> {
        let path = url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
        let path = path.filter(|path| !path.is_empty()).ok_or_else(|| CatalogError::Url(url.to_owned()))?;
        if !path.contains(":memory:") {
            // Made here, so that neither it nor the journals beside it can be read by others.
            use std::os::unix::fs::OpenOptionsExt as _;
            let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(Path::new(path));
            made.map_err(|source| CatalogError::Create { path: path.to_owned(), source })?;
        }
        let options = SqliteConnectOptions::from_str("sqlite:")?
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Catalog { pool, parties })
    }

    /// Writes news of recordings, all of it or nothing.
    ///
    /// # Errors
    /// The database failed or is locked for too long.
    pub async fn upsert(&self, updates: &[RecordingUpdate]) -> Result<(), CatalogError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for update in updates {
            self.upsert_one(&mut transaction, update).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn upsert_one(
        &self,
        transaction: &mut Transaction<'_, Sqlite>,
        update: &RecordingUpdate,
    ) -> Result<(), CatalogError> {
        let id = update.id.to_string();
        let clear = self.parties.is_clear();
        let integer = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let participants = update.parties.as_ref().filter(|_| clear).map(json);
        sqlx::query(
            "INSERT INTO recordings (id, tenant, node, state, started_at, ended_at, duration_ms, audio_bytes,
                                     sip_call_id, participants, correlators, quality, manifest, previous, upload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, coalesce(?15, 'none'))
             ON CONFLICT (id) DO UPDATE SET
                tenant = excluded.tenant, node = excluded.node, started_at = excluded.started_at,
                state = CASE WHEN excluded.state = 'recording' THEN state ELSE excluded.state END,
                ended_at = coalesce(excluded.ended_at, ended_at),
                duration_ms = coalesce(excluded.duration_ms, duration_ms),
                audio_bytes = coalesce(excluded.audio_bytes, audio_bytes),
                sip_call_id = coalesce(excluded.sip_call_id, sip_call_id),
                participants = coalesce(excluded.participants, participants),
                correlators = coalesce(excluded.correlators, correlators),
                quality = coalesce(excluded.quality, quality),
                manifest = coalesce(excluded.manifest, manifest),
                previous = coalesce(excluded.previous, previous),
                -- What was stored or set aside does not wait again because a start-up read its manifest.
                upload = CASE WHEN ?15 IS NULL OR (?15 = 'waiting' AND upload = 'stored') THEN upload ELSE ?15 END",
        )
        .bind(&id)
        .bind(&update.tenant)
        .bind(&update.node)
        .bind(state_text(update.state))
        .bind(update.started_at.unix_ms())
        .bind(update.ended_at.map(Timestamp::unix_ms))
        .bind(update.duration_ms.map(integer))
        .bind(update.audio_bytes.map(integer))
        .bind(update.sip_call_id.as_ref())
        .bind(participants)
        .bind(update.correlators.as_ref().filter(|_| clear).map(json))
        .bind(update.quality.as_ref().map(json))
        .bind(update.manifest.map(|(digest, _)| digest.to_string()))
        .bind(update.manifest.and_then(|(_, previous)| previous).map(|digest| digest.to_string()))
        .bind(update.upload.map(UploadState::as_str))
        .execute(&mut **transaction)
        .await?;
        if let Some(parties) = &update.parties {
            sqlx::query("DELETE FROM parties WHERE recording_id = ?").bind(&id).execute(&mut **transaction).await?;
            for token in tokens(parties, clear) {
                sqlx::query("INSERT OR IGNORE INTO parties (token, recording_id) VALUES (?, ?)")
                    .bind(self.parties.stored(&token))
                    .bind(&id)
                    .execute(&mut **transaction)
                    .await?;
            }
        }
        if let Some(correlators) = &update.correlators {
            sqlx::query("DELETE FROM correlators WHERE recording_id = ?").bind(&id).execute(&mut **transaction).await?;
            for correlator in correlators {
                sqlx::query("INSERT OR IGNORE INTO correlators (token, recording_id) VALUES (?, ?)")
                    .bind(self.parties.stored(&correlator_token(&correlator.value)))
                    .bind(&id)
                    .execute(&mut **transaction)
                    .await?;
            }
        }
        if let Some(tags) = &update.tags {
            sqlx::query("DELETE FROM tags WHERE recording_id = ?").bind(&id).execute(&mut **transaction).await?;
            for (name, value) in tags {
                // A tag that was set twice has the value it was given last.
                sqlx::query("INSERT OR REPLACE INTO tags (recording_id, name, value) VALUES (?, ?, ?)")
                    .bind(&id)
                    .bind(name)
                    .bind(value)
                    .execute(&mut **transaction)
                    .await?;
            }
        }
        Ok(())
    }

    /// Where a recording stands on its way to the store. A recording that is not in the catalogue is left out.
    ///
    /// # Errors
    /// The database failed.
    pub async fn set_upload(
        &self,
        id: Uuid,
        upload: UploadState,
        store_key: Option<&str>,
        error: Option<&str>,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "UPDATE recordings SET upload = ?, store_key = coalesce(?, store_key), upload_error = ? WHERE id = ?",
        )
        .bind(upload.as_str())
        .bind(store_key)
        .bind(error)
        .bind(id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The node's manifest that no other names: a hint for a spool that lost its chain file.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_manifest(&self, node: &str) -> Result<Option<Digest>, CatalogError> {
        let tails: Vec<String> = sqlx::query_scalar(
            "SELECT manifest FROM recordings AS last WHERE node = ? AND manifest IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM recordings AS next WHERE next.previous = last.manifest)
             ORDER BY ended_at DESC LIMIT 1",
        )
        .bind(node)
        .fetch_all(&self.pool)
        .await?;
        Ok(tails.first().and_then(|text| Digest::from_hex(text)))
    }

    /// Ends it: what is written is on disk.
    pub async fn close(&self) {
        self.pool.close().await;
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

pub(crate) fn state_text(state: MetadataState) -> &'static str {
    match state {
        MetadataState::Recording => "recording",
        MetadataState::Complete => "complete",
        MetadataState::Recovered => "recovered",
        MetadataState::Partial => "partial",
    }
}

#[cfg(test)]
pub(crate) mod tests;
