//! Finding recordings: filters, newest first, keyset pages.
//!
//! A page is continued from the last row's place (start, id) and not from a
//! row number, so that new recordings at the top neither shift nor repeat rows,
//! and the hundredth page costs what the first does. The cursor is that place
//! in base64url; it is opaque to clients and valid for the same filters.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use uuid::Uuid;

use ferric_media::metadata::{Correlator, MetadataState};
use ferric_media::timestamp::Timestamp;

use crate::catalog::{Catalog, CatalogError, Party, Quality, UploadState, state_text};
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

/// A recording as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CatalogRecording {
    /// The recording.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
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
    /// Length of the sealed audio, in bytes.
    pub audio_bytes: Option<u64>,
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
    /// Where it stands on its way to the store.
    pub upload: UploadState,
    /// The last upload error.
    pub upload_error: Option<String>,
    /// Key of its folder in the store.
    pub store_key: Option<String>,
}

/// A page of results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    /// Newest first.
    pub recordings: Vec<CatalogRecording>,
    /// Where the next page begins; absent on the last.
    pub next_cursor: Option<String>,
}

const COLUMNS: &str =
    "id, tenant, node, state, started_at, ended_at, duration_ms, audio_bytes, sip_call_id, participants,
    correlators, quality, upload, upload_error, store_key";

impl Catalog {
    /// One recording.
    ///
    /// # Errors
    /// The database failed.
    pub async fn get(&self, id: Uuid) -> Result<Option<CatalogRecording>, CatalogError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(COLUMNS).push(" FROM recordings WHERE id = ").push_bind(id.to_string());
        let Some(row) = query.build().fetch_optional(&self.pool).await? else { return Ok(None) };
        let mut found = vec![recording(&row)?];
        self.add_tags(&mut found).await?;
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
        query.push(" ORDER BY started_at DESC, id DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query.build().fetch_all(&self.pool).await?;
        let mut recordings = rows.iter().map(recording).collect::<Result<Vec<_>, _>>()?;
        let more = recordings.len() > limit as usize;
        recordings.truncate(limit as usize);
        let next_cursor = recordings.last().filter(|_| more).map(cursor);
        self.add_tags(&mut recordings).await?;
        Ok(Page { recordings, next_cursor })
    }

    /// The query without order and limit; `None` if nothing can match.
    fn query(&self, search: &Search) -> Result<Option<QueryBuilder<Sqlite>>, CatalogError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(COLUMNS).push(" FROM recordings WHERE 1 = 1");
        if let Some(from) = search.from {
            query.push(" AND started_at >= ").push_bind(from.unix_ms());
        }
        if let Some(to) = search.to {
            query.push(" AND started_at < ").push_bind(to.unix_ms());
        }
        if !search.tenants.is_empty() {
            query.push(" AND tenant IN (");
            let mut list = query.separated(", ");
            search.tenants.iter().for_each(|tenant| {
                list.push_bind(tenant.clone());
            });
            query.push(")");
        }
        if let Some(state) = search.state {
            query.push(" AND state = ").push_bind(state_text(state));
        }
        if let Some(call_id) = &search.sip_call_id {
            query.push(" AND sip_call_id = ").push_bind(call_id.clone());
        }
        if let Some(value) = &search.correlator {
            let token = self.parties.stored(&correlator_token(value));
            query.push(" AND id IN (SELECT recording_id FROM correlators WHERE token = ").push_bind(token).push(")");
        }
        if let Some((name, value)) = &search.tag {
            query.push(" AND id IN (SELECT recording_id FROM tags WHERE name = ").push_bind(name.clone());
            if let Some(value) = value {
                query.push(" AND value = ").push_bind(value.clone());
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
                    query.push(">= ").push_bind(stored.clone());
                    query.push(" AND token < ").push_bind(format!("{stored}\u{10ffff}"));
                } else {
                    query.push("= ").push_bind(stored);
                }
            }
            query.push(")");
        }
        if let Some(text) = &search.cursor {
            let (started_at, id) = read_cursor(text).ok_or_else(|| CatalogError::Cursor(text.clone()))?;
            query
                .push(" AND (started_at, id) < (")
                .push_bind(started_at)
                .push(", ")
                .push_bind(id.to_string())
                .push(")");
        }
        Ok(Some(query))
    }

    async fn add_tags(&self, recordings: &mut [CatalogRecording]) -> Result<(), CatalogError> {
        if recordings.is_empty() {
            return Ok(());
        }
        let mut query =
            QueryBuilder::<Sqlite>::new("SELECT recording_id, name, value FROM tags WHERE recording_id IN (");
        let mut list = query.separated(", ");
        for recording in recordings.iter() {
            list.push_bind(recording.id.to_string());
        }
        query.push(") ORDER BY recording_id, name");
        for row in query.build().fetch_all(&self.pool).await? {
            let (id, name, value): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if let Some(recording) = recordings.iter_mut().find(|recording| recording.id.to_string() == id) {
                recording.tags.push((name, value));
            }
        }
        Ok(())
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

fn recording(row: &SqliteRow) -> Result<CatalogRecording, CatalogError> {
    let id: String = row.try_get("id")?;
    let damaged = |column: &'static str| CatalogError::Row { id: id.clone(), column };
    let word = |column: &'static str| -> Result<serde_json::Value, CatalogError> {
        Ok(serde_json::Value::String(row.try_get::<String, _>(column)?))
    };
    let unsigned = |column: &'static str| -> Result<Option<u64>, CatalogError> {
        Ok(row.try_get::<Option<i64>, _>(column)?.and_then(|value| u64::try_from(value).ok()))
    };
    let text = |column: &'static str| -> Result<Option<String>, CatalogError> { Ok(row.try_get(column)?) };
    Ok(CatalogRecording {
        id: id.parse().map_err(|_| damaged("id"))?,
        tenant: row.try_get("tenant")?,
        node: row.try_get("node")?,
        state: serde_json::from_value(word("state")?).map_err(|_| damaged("state"))?,
        started_at: Timestamp::from_unix_ms(row.try_get("started_at")?),
        ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(Timestamp::from_unix_ms),
        duration_ms: unsigned("duration_ms")?,
        audio_bytes: unsigned("audio_bytes")?,
        sip_call_id: text("sip_call_id")?,
        participants: list(text("participants")?).map_err(|_| damaged("participants"))?,
        tags: Vec::new(),
        correlators: list(text("correlators")?).map_err(|_| damaged("correlators"))?,
        quality: text("quality")?
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|_| damaged("quality"))?,
        upload: serde_json::from_value(word("upload")?).map_err(|_| damaged("upload"))?,
        upload_error: text("upload_error")?,
        store_key: text("store_key")?,
    })
}

fn list<T: serde::de::DeserializeOwned>(json: Option<String>) -> Result<Vec<T>, serde_json::Error> {
    json.map_or(Ok(Vec::new()), |json| serde_json::from_str(&json))
}
