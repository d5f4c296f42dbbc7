//! The catalogue: what search needs of every recording, in SQLite or PostgreSQL.
//!
//! It is an index and never the truth. The truth is the spool and the store:
//! every row can be made again from the manifests there (times, state, sizes,
//! keys: [`crate::catalog_rebuild`]) and, by somebody who holds the
//! tenant's key, from the sealed metadata (parties, tags, ids). So losing the
//! catalogue costs search, not recordings, and nothing on the way of a call
//! waits for it: capture and upload talk to it through
//! [`crate::catalog_writer::CatalogWriter`].
//!
//! A recording has one row for each pair of files that belongs to it ([`ferric_media::part`]), and a node
//! writes of its own files only: nodes that share a catalogue never overwrite one another.
//! What is sorted and filtered by (tenant, start, state) is kept once for each
//! recording and follows from its parts; the rest is joined when it is read
//! ([`crate::catalog_search`]).
//!
//! Parties are stored as search tokens ([`crate::catalog_party`]), in clear or as
//! keyed hashes; tags and SIP ids are stored as they are. An SQLite file has mode 0600.
//!
//! SQLite runs in WAL with `synchronous = NORMAL`: a power failure may cost the last
//! transactions and never the file. Updates may come in any order and twice:
//! what is absent in an update keeps its value, and a finished part does
//! not run again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::OnceCell;
use uuid::Uuid;

use ferric_media::manifest::Digest;
use ferric_media::metadata::MetadataState;

use crate::catalog_engine::{Engine, PostgresAt, Session, Statement};
use crate::catalog_party::PartyPolicy;
use crate::catalog_row::StoredNews;
pub use crate::catalog_update::{Party, Quality, RecordingUpdate, UploadState};
use crate::catalog_writer::News;

/// A node does not wait longer than this for PostgreSQL before it starts without it.
const START: Duration = Duration::from_secs(10);

/// Why the catalogue does not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The URL is not one of this build's. It is not repeated: it may hold a password.
    #[error("the catalogue's URL is not right: {0}; write sqlite:catalog.db or postgres://user@host/database")]
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
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The database said nothing.
    #[error("the database did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// PostgreSQL was not there yet since this node started.
    #[error("the database was not reached since the start")]
    NotReached,
    /// Its tables cannot be brought up to date.
    #[error("its tables cannot be brought up to date: {0}")]
    Migration(sqlx::migrate::MigrateError),
    /// A newer program has changed the tables.
    #[error(
        "its tables are of version {found}, and this program knows them up to {known}: start the newer program, or name another database"
    )]
    TooNew {
        /// Version of the tables.
        found: i64,
        /// The last that this program knows.
        known: i64,
    },
    /// The database cannot hold every name.
    #[error("its encoding is {0}: create the database with ENCODING 'UTF8'")]
    Encoding(String),
    /// Nodes would not find one another's recordings, or tell what others hide.
    #[error(
        "other nodes write parties {theirs}, and this one {ours}: all nodes of a catalogue need the same `parties` and `party_key`"
    )]
    Parties {
        /// How the rows that are there are written.
        theirs: String,
        /// How this node would write.
        ours: String,
    },
    /// What is queued on disk cannot be read.
    #[error("the queue of the catalogue {path}: {source}")]
    Queue {
        /// Which file.
        path: String,
        /// What went wrong.
        source: Box<CatalogError>,
    },
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

impl CatalogError {
    /// The database works and does not take these values: trying again does not help.
    pub(crate) fn is_refusal(&self) -> bool {
        let CatalogError::Database(sqlx::Error::Database(error)) = self else {
            return matches!(self, CatalogError::Database(sqlx::Error::Encode(_)));
        };
        let code = error.code().unwrap_or_default();
        match code.parse::<u32>() {
            // SQLite: too big, constraint, mismatch; PostgreSQL's codes are five characters.
            Ok(number) if code.len() < 5 => matches!(number & 0xff, 18..=20),
            // PostgreSQL: data, integrity, limits of the program (Appendix A of its manual).
            _ => ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
        }
    }

    /// The node must not start with this: it is no question of waiting.
    pub fn is_wrong_setup(&self) -> bool {
        matches!(
            self,
            CatalogError::Url(_)
                | CatalogError::TooNew { .. }
                | CatalogError::Encoding(_)
                | CatalogError::Parties { .. }
                | CatalogError::Migration(_)
        )
    }
}

/// The catalogue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub(crate) engine: Engine,
    pub(crate) parties: PartyPolicy,
    prepared: Arc<OnceCell<()>>,
}

impl Catalog {
    /// Opens `sqlite:PATH` (relative to the working directory unless it begins with `/`), making it if need be, or
    /// `postgres://…`, and brings its tables up to date. `password` goes before the URL's.
    ///
    /// A PostgreSQL that is not there is no error: the catalogue is prepared when it comes.
    ///
    /// # Errors
    /// The URL is no such, the file cannot be made, read or migrated, or the tables are not for this program.
    pub async fn open(url: &str, password: Option<&str>, parties: PartyPolicy) -> Result<Catalog, CatalogError> {
        if Catalog::is_shared(url) {
            let at = PostgresAt::new(url, password)?;
            let place = at.to_string();
            let catalog = Catalog { engine: Engine::postgres(at), parties, prepared: Arc::default() };
            match tokio::time::timeout(START, catalog.prepare()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.is_wrong_setup() => return Err(error),
                Ok(Err(error)) => {
                    tracing::error!(%place, %error, "the catalogue is not there; the node starts without")
                }
                Err(_) => tracing::error!(%place, "the catalogue does not answer; the node starts without"),
            }
            return Ok(catalog);
        }
        let path = url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
        let path = path.filter(|path| !path.is_empty()).ok_or_else(|| CatalogError::Url("no such kind".to_owned()))?;
        let engine = Engine::sqlite(sqlite_file(path)?).await?;
        let catalog = Catalog { engine, parties, prepared: Arc::default() };
        catalog.prepare().await?;
        Ok(catalog)
    }

    /// Whether a URL leads to a database that several nodes share.
    pub fn is_shared(url: &str) -> bool {
        ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
    }

    /// Checks a URL without connecting.
    ///
    /// # Errors
    /// It cannot be a catalogue's.
    pub fn check_url(url: &str) -> Result<(), CatalogError> {
        if Catalog::is_shared(url) {
            return PostgresAt::new(url, None).map(|_| ());
        }
        match url.strip_prefix("sqlite:") {
            Some(file) if !file.is_empty() => Ok(()),
            _ => Err(CatalogError::Url("no such kind".to_owned())),
        }
    }

    /// Brings the tables up to date, once.
    async fn prepare(&self) -> Result<(), CatalogError> {
        let prepare = async {
            self.engine.migrate().await?;
            self.agree().await
        };
        self.prepared.get_or_try_init(|| prepare).await.map(|_| ())
    }

    /// All who share a catalogue write parties alike.
    async fn agree(&self) -> Result<(), CatalogError> {
        if !matches!(self.engine, Engine::Postgres(..)) {
            return Ok(());
        }
        let ours = self.parties.mark();
        let mut session = self.engine.begin().await?;
        let claim = "INSERT INTO facts (name, value) VALUES ('parties', $1) ON CONFLICT (name) DO NOTHING";
        session.execute(&Statement::new(claim).with(ours.clone())).await?;
        let rows = session.fetch(&Statement::new("SELECT value FROM facts WHERE name = 'parties'")).await?;
        session.commit().await?;
        let theirs = rows.first().map(|row| row.text("value")).transpose()?.flatten().unwrap_or_default();
        if theirs == ours { Ok(()) } else { Err(CatalogError::Parties { theirs, ours }) }
    }

    /// Whether the database is there.
    pub(crate) async fn look(&self) -> Result<(), CatalogError> {
        self.prepare().await?;
        let mut session = self.engine.read().await?;
        session.fetch(&Statement::new("SELECT 1 AS here")).await?;
        session.finish();
        Ok(())
    }

    /// A session that reads; it does not wait for a database that was never there.
    pub(crate) async fn read(&self) -> Result<Session, CatalogError> {
        if !self.prepared.initialized() {
            return Err(CatalogError::NotReached);
        }
        self.engine.read().await
    }

    /// Writes news in one transaction, all of it or nothing.
    ///
    /// Recordings are taken in the order of their ids, so that nodes which write about the same ones wait for each other
    /// and never in a circle; what is said of one recording keeps its order.
    pub(crate) async fn apply(&self, news: &[StoredNews]) -> Result<(), CatalogError> {
        self.prepare().await?;
        let mut order: Vec<&StoredNews> = news.iter().collect();
        order.sort_by_key(|news| news.recording());
        let mut session = self.engine.begin().await?;
        for news in order {
            news.write(&mut session).await?;
        }
        session.commit().await
    }

    /// Writes news of recordings, all of it or nothing.
    ///
    /// # Errors
    /// The database failed or is locked for too long.
    pub async fn upsert(&self, updates: &[RecordingUpdate]) -> Result<(), CatalogError> {
        let news: Vec<StoredNews> = updates.iter().map(|update| StoredNews::of_update(update, &self.parties)).collect();
        self.apply(&news).await
    }

    /// Where files stand on their way to the store. Files that are not in the catalogue are left out.
    ///
    /// # Errors
    /// The database failed.
    pub async fn set_upload(
        &self,
        file: Uuid,
        upload: UploadState,
        store_key: Option<&str>,
        error: Option<&str>,
    ) -> Result<(), CatalogError> {
        let news =
            News::Upload { file, state: upload, key: store_key.map(str::to_owned), error: error.map(str::to_owned) };
        self.apply(&[StoredNews::new(&news, &self.parties)]).await
    }

    /// The node's manifest that no other names: a hint for a spool that lost its chain file.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_manifest(&self, node: &str) -> Result<Option<Digest>, CatalogError> {
        let tail = Statement::new(
            "SELECT manifest FROM parts AS last WHERE node = $1 AND manifest IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM parts AS next WHERE next.previous = last.manifest)
             ORDER BY ended_at DESC LIMIT 1",
        );
        let mut session = self.read().await?;
        let rows = session.fetch(&tail.with(node)).await?;
        session.finish();
        let tail = rows.first().map(|row| row.text("manifest")).transpose()?.flatten();
        Ok(tail.and_then(|text| Digest::from_hex(&text)))
    }

    /// Ends it: what is written is on disk.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}

/// Options for a file that nobody else may read.
pub(crate) fn sqlite_file(path: &str) -> Result<SqliteConnectOptions, CatalogError> {
    if !path.contains(":memory:") {
        // Made here, so that neither it nor the journals beside it can be read by others.
        use std::os::unix::fs::OpenOptionsExt as _;
        let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(Path::new(path));
        made.map_err(|source| CatalogError::Create { path: path.to_owned(), source })?;
    }
    Ok(SqliteConnectOptions::new().filename(path))
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
