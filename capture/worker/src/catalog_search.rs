//! Finding recordings: filters, newest first, keyset pages.
//!
//! A page is continued from the last row's place (start, id) and not from a
//! row number, so that new recordings at the top neither shift nor repeat rows,
//! and the hundredth page costs what the first does. The cursor is that place
//! in base64url; it is opaque to clients, valid for the same filters, and the same
//! on both databases.
//!
//! A recording of several parts is one row of a page: it is found by what any of
//! its parts has, and shown joined by time (`catalog_join`).

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use uuid::Uuid;

use ferric_media::metadata::{Correlator, MetadataState};
use ferric_media::timestamp::Timestamp;

use crate::catalog::{Catalog, CatalogError, Party, Quality, UploadState, state_text};
use crate::catalog_engine::{Row, Session, Statement};
use crate::catalog_join::{audible_ms, one_of_each, state_gaps};
use crate::catalog_party::{address_tokens, correlator_token, name_token};

/// Rows of a page if nobody asks for a number.
pub const DEFAULT_LIMIT: u32 = 100;
/// Most rows of a page.
pub const MAX_LIMIT: u32 = 1000;

/// What is looked for; all given filters must match.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Search {
    /// Started at or after.
    pub from: Option<Timestamp>,
    /// Started before.
    pub to: Option<Timestamp>,
    /// A number, address or name; a beginning of one is enough where parties are in clear.
    pub party: Option<String>,
    /// Whose; several mean any of them (what a user may see), none means all.
    pub tenants: Vec<String>,
    /// A tag's name, with its value if given.
    pub tag: Option<(String, Option<String>)>,
    /// Running, or how it ended.
    pub state: Option<MetadataState>,
    /// Call-ID of the recording session.
    pub sip_call_id: Option<String>,
    /// An id by which another system knows the call, whole.
    pub correlator: Option<String>,
    /// Rows of the page, 1 to [`MAX_LIMIT`].
    pub limit: Option<u32>,
    /// Continue after this place.
    pub cursor: Option<String>,
}

/// A part of a recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CatalogPart {
    /// Which, counted from 1.
    pub number: u32,
    /// Its files.
    pub file: Uuid,
    /// Another node wrote the same part, and this is what it has of it.
    pub copy: bool,
    /// The node that recorded it.
    pub node: String,
    /// Running, or how it ended.
    pub state: MetadataState,
    /// When its timeline begins.
    pub started_at: Timestamp,
    /// When it ends.
    pub ended_at: Option<Timestamp>,
    /// Length of the audio, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Audio that nobody recorded before it, in milliseconds, as it measured it.
    pub lost_ms: Option<u64>,
    /// Audio missing between what lies before it and it, in milliseconds.
    pub gap_ms: u64,
    /// Reception.
    pub quality: Option<Quality>,
    /// Length of the sealed audio, in bytes.
    pub audio_bytes: Option<u64>,
    /// Where it stands on its way to the store.
    pub upload: UploadState,
    /// The last upload error.
    pub upload_error: Option<String>,
    /// Key of its folder in the store.
    pub store_key: Option<String>,
}

/// A recording as the catalogue knows it, its parts joined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CatalogRecording {
    /// The recording.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// Running, or how it ended.
    pub state: MetadataState,
    /// When its first part begins.
    pub started_at: Timestamp,
    /// When its last part ends; absent while it runs.
    pub ended_at: Option<Timestamp>,
    /// Time of which there is audio, in milliseconds: what two parts have counts once, gaps do not count.
    pub duration_ms: Option<u64>,
    /// Audio missing between its parts, in milliseconds.
    pub lost_ms: u64,
    /// Call-ID of the recording session.
    pub sip_call_id: Option<String>,
    /// Who spoke; empty where parties are hashed.
    pub participants: Vec<Party>,
    /// Tags by name.
    pub tags: Vec<(String, String)>,
    /// Ids by which others know the call.
    pub correlators: Vec<Correlator>,
    /// Reception.
    pub quality: Option<Quality>,
    /// The parts by their number, one of each; at least one.
    pub parts: Vec<CatalogPart>,
}

impl CatalogRecording {
    /// Whether all of it is verified in the store.
    pub fn is_stored(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.upload == UploadState::Stored)
    }
}

/// A page of results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    /// Newest first.
    pub recordings: Vec<CatalogRecording>,
    /// Where the next page begins; absent on the last.
    pub next_cursor: Option<String>,
}

impl Catalog {
    /// One recording.
    ///
    /// # Errors
    /// The database failed.
    pub async fn get(&self, id: Uuid) -> Result<Option<CatalogRecording>, CatalogError> {
        let mut session = self.read().await?;
        let found = Statement::new("SELECT id, tenant, state, started_at FROM recordings WHERE id = $1");
        let rows = session.fetch(&found.with(id.to_string())).await?;
        let mut found = rows.iter().map(recording).collect::<Result<Vec<_>, _>>()?;
        fill(&mut session, &mut found).await?;
        session.finish();
        Ok(found.pop())
    }

    /// A page of recordings, newest first.
    ///
    /// # Errors
    /// The cursor is none of ours, or the database failed.
    pub async fn search(&self, search: &Search) -> Result<Page, CatalogError> {
        let limit = search.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let Some(mut query) = self.query(search)? else {
            return Ok(Page { recordings: Vec::new(), next_cursor: None });
        };
        query.push(" ORDER BY started_at DESC, id DESC LIMIT ").bind(i64::from(limit) + 1);
        let mut session = self.read().await?;
        let rows = session.fetch(&query).await?;
        let has_more = rows.len() > limit as usize;
        let mut recordings =
            rows.iter().take(limit as usize).map(recording).collect::<Result<Vec<_>, CatalogError>>()?;
        fill(&mut session, &mut recordings).await?;
        session.finish();
        let next_cursor = recordings.last().filter(|_| has_more).map(cursor);
        Ok(Page { recordings, next_cursor })
    }

    /// The query without order and limit; `None` if nothing can match.
    fn query(&self, search: &Search) -> Result<Option<Statement>, CatalogError> {
        let mut query = Statement::new("SELECT id, tenant, state, started_at FROM recordings WHERE 1 = 1");
        if let Some(from) = search.from {
            query.push(" AND started_at >= ").bind(from.unix_ms());
        }
        if let Some(to) = search.to {
            query.push(" AND started_at < ").bind(to.unix_ms());
        }
        if !search.tenants.is_empty() {
            query.push(" AND tenant IN (").bind_all(search.tenants.iter().map(String::as_str)).push(")");
        }
        if let Some(state) = search.state {
            query.push(" AND state = ").bind(state_text(state));
        }
        if let Some(call_id) = &search.sip_call_id {
            query
                .push(" AND id IN (SELECT recording_id FROM parts WHERE sip_call_id = ")
                .bind(call_id.clone())
                .push(")");
        }
        if let Some(value) = &search.correlator {
            let token = self.parties.stored(&correlator_token(value));
            query.push(" AND id IN (SELECT recording_id FROM correlators WHERE token = ").bind(token).push(")");
        }
        if let Some((name, value)) = &search.tag {
            query.push(" AND id IN (SELECT recording_id FROM tags WHERE name = ").bind(name.clone());
            if let Some(value) = value {
                query.push(" AND value = ").bind(value.clone());
            }
            query.push(")");
        }
        if let Some(party) = &search.party {
            let mut tokens = address_tokens(party);
            if self.parties.is_clear() {
                tokens.extend(name_token(party));
            } else {
                // The most exact one: `user@host` where a host was given.
                tokens.truncate(1);
            }
            tokens.dedup();
            if tokens.is_empty() {
                return Ok(None);
            }
            query.push(" AND id IN (");
            for (number, token) in tokens.into_iter().enumerate() {
                let stored = self.parties.stored(&token);
                // A union and not an OR: each branch is a range of the index.
                query
                    .push(if number == 0 { "" } else { " UNION " })
                    .push("SELECT recording_id FROM parties WHERE token ");
                if self.parties.is_clear() {
                    // A prefix as a range: LIKE would not use the index for bound values.
                    query.push(">= ").bind(stored.clone());
                    query.push(" AND token < ").bind(format!("{stored}\u{10ffff}"));
                } else {
                    query.push("= ").bind(stored);
                }
            }
            query.push(")");
        }
        if let Some(text) = &search.cursor {
            let (started_at, id) = read_cursor(text).ok_or_else(|| CatalogError::Cursor(text.clone()))?;
            query.push(" AND (started_at, id) < (").bind(started_at).push(", ").bind(id.to_string()).push(")");
        }
        Ok(Some(query))
    }
}

fn cursor(last: &CatalogRecording) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", last.started_at.unix_ms(), last.id))
}

fn read_cursor(text: &str) -> Option<(i64, Uuid)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (started_at, id) = std::str::from_utf8(&bytes).ok()?.split_once(' ')?;
    Some((started_at.parse().ok()?, id.parse().ok()?))
}

/// What the recording's own row tells.
fn recording(row: &Row) -> Result<CatalogRecording, CatalogError> {
    let id = row.text("id")?.unwrap_or_default();
    let damaged = |column| CatalogError::Row { id: id.clone(), column };
    Ok(CatalogRecording {
        id: id.parse().map_err(|_| damaged("id"))?,
        tenant: row.text("tenant")?.unwrap_or_default(),
        state: word(row, "state").map_err(|_| damaged("state"))?,
        started_at: Timestamp::from_unix_ms(row.integer("started_at")?.unwrap_or_default()),
        ended_at: None,
        duration_ms: None,
        lost_ms: 0,
        sip_call_id: None,
        participants: Vec::new(),
        tags: Vec::new(),
        correlators: Vec::new(),
        quality: None,
        parts: Vec::new(),
    })
}

/// Adds what parts and tags tell.
async fn fill(session: &mut Session, recordings: &mut [CatalogRecording]) -> Result<(), CatalogError> {
    if recordings.is_empty() {
        return Ok(());
    }
    let places: HashMap<String, usize> =
        recordings.iter().enumerate().map(|(place, recording)| (recording.id.to_string(), place)).collect();
    let mut parts = Statement::new(
        "SELECT recording_id, file, part, is_copy, node, state, started_at, ended_at, duration_ms, lost_ms, audio_bytes,
                sip_call_id, participants,
                correlators, quality, upload, upload_error, store_key
         FROM parts WHERE recording_id IN (",
    );
    parts.bind_all(places.keys().map(String::as_str)).push(") ORDER BY recording_id, part, is_copy, started_at, file");
    let place = |row: &Row| -> Result<Option<usize>, CatalogError> {
        Ok(row.text("recording_id")?.and_then(|id| places.get(&id).copied()))
    };
    for row in session.fetch(&parts).await? {
        if let Some(recording) = place(&row)?.and_then(|place| recordings.get_mut(place)) {
            join(recording, &row)?;
        }
    }
    let mut tags = Statement::new("SELECT DISTINCT recording_id, name, value FROM tags WHERE recording_id IN (");
    tags.bind_all(places.keys().map(String::as_str)).push(") ORDER BY recording_id, name, value");
    for row in session.fetch(&tags).await? {
        if let Some(recording) = place(&row)?.and_then(|place| recordings.get_mut(place)) {
            recording.tags.push((row.text("name")?.unwrap_or_default(), row.text("value")?.unwrap_or_default()));
        }
    }
    for recording in recordings {
        one_of_each(&mut recording.parts);
        state_gaps(&mut recording.parts);
        let parts = &recording.parts;
        recording.lost_ms = parts.iter().fold(0, |sum, part| sum.saturating_add(part.gap_ms));
        if recording.state != MetadataState::Recording {
            recording.ended_at = parts.iter().filter_map(|part| part.ended_at).max();
        }
        recording.duration_ms = audible_ms(parts);
        recording.quality = parts.iter().filter_map(|part| part.quality).reduce(both);
    }
    Ok(())
}

/// Takes a part's row into its recording; rows come by their number.
fn join(recording: &mut CatalogRecording, row: &Row) -> Result<(), CatalogError> {
    let id = recording.id;
    let damaged = |column| CatalogError::Row { id: id.to_string(), column };
    let unsigned = |column: &'static str| -> Result<Option<u64>, CatalogError> {
        Ok(row.integer(column)?.and_then(|value| u64::try_from(value).ok()))
    };
    let parties: Vec<Party> = list(row.text("participants")?).map_err(|_| damaged("participants"))?;
    let correlators: Vec<Correlator> = list(row.text("correlators")?).map_err(|_| damaged("correlators"))?;
    add_new(&mut recording.participants, parties);
    add_new(&mut recording.correlators, correlators);
    if recording.sip_call_id.is_none() {
        recording.sip_call_id = row.text("sip_call_id")?;
    }
    let file = row.text("file")?.unwrap_or_default();
    recording.parts.push(CatalogPart {
        number: unsigned("part")?.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| damaged("part"))?,
        file: file.parse().map_err(|_| damaged("file"))?,
        copy: row.integer("is_copy")?.unwrap_or_default() != 0,
        node: row.text("node")?.unwrap_or_default(),
        state: word(row, "state").map_err(|_| damaged("state"))?,
        started_at: Timestamp::from_unix_ms(row.integer("started_at")?.unwrap_or_default()),
        ended_at: row.integer("ended_at")?.map(Timestamp::from_unix_ms),
        duration_ms: unsigned("duration_ms")?,
        lost_ms: unsigned("lost_ms")?,
        gap_ms: 0,
        quality: row
            .text("quality")?
            .map(|json| serde_json::from_str(&json).map_err(|_| damaged("quality")))
            .transpose()?,
        audio_bytes: unsigned("audio_bytes")?,
        upload: word(row, "upload").map_err(|_| damaged("upload"))?,
        upload_error: row.text("upload_error")?,
        store_key: row.text("store_key")?,
    });
    Ok(())
}

fn add_new<T: PartialEq>(known: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !known.contains(&one) {
            known.push(one);
        }
    }
}

/// Counts add up, the worst of the rest.
fn both(a: Quality, b: Quality) -> Quality {
    let pick = |a: Option<f64>, b: Option<f64>, better: fn(f64, f64) -> f64| match (a, b) {
        (Some(a), Some(b)) => Some(better(a, b)),
        (a, b) => a.or(b),
    };
    Quality {
        packets: a.packets.saturating_add(b.packets),
        lost: a.lost.saturating_add(b.lost),
        jitter_ms: pick(a.jitter_ms, b.jitter_ms, f64::max),
        mos: pick(a.mos, b.mos, f64::min),
    }
}

fn word<T: serde::de::DeserializeOwned>(row: &Row, column: &'static str) -> Result<T, serde_json::Error> {
    let text = row.text(column).ok().flatten().unwrap_or_default();
    serde_json::from_value(serde_json::Value::String(text))
}

fn list<T: serde::de::DeserializeOwned>(json: Option<String>) -> Result<Vec<T>, serde_json::Error> {
    json.map_or(Ok(Vec::new()), |json| serde_json::from_str(&json))
}
