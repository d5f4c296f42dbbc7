//! The databases under the catalogue: SQLite in a file, or PostgreSQL shared by several nodes.
//!
//! One text of SQL serves both. What makes that possible: parameters are written
//! `$1` (both read that), there are two types of value (text and integer), text is
//! compared by its bytes on both (`COLLATE "C"` in the tables of PostgreSQL), and
//! `ON CONFLICT` is spelled alike. A [`Statement`] is such a text with its values, a
//! [`Session`] a connection with a transaction around it. Only opening, locking and
//! the migrations (`migrations/sqlite`, `migrations/postgres`) differ.
//!
//! Nothing waits for ever: to get a connection takes at most [`ACQUIRE`], each
//! statement at most [`STATEMENT`], told by our own clock, as a cut network is
//! silent. A session that is dropped before its end closes its connection
//! instead of giving it back, because nobody knows what is under way on it;
//! the server takes that for a rollback.
//!
//! The tables are brought up to date by the first node that comes, under an
//! advisory lock of the server, so any number of nodes may start at once. Tables of a
//! newer program are refused ([`CatalogError::TooNew`]).

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgSslMode};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _, Sqlite, SqlitePool};

use crate::catalog::CatalogError;

/// Connections that this node has at most.
const CONNECTIONS: u32 = 8;
/// Longest wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(3);
/// Longest wait for a statement.
const STATEMENT: Duration = Duration::from_secs(10);
/// Longest wait for a migration: another node may be at it with large tables.
const MIGRATION: Duration = Duration::from_secs(600);
/// What each connection to PostgreSQL says first. The server's own limits end what a node has left behind; and plans are
/// made for the values at hand, as a prefix may find one row or all of them.
const GREETING: &str = "SET statement_timeout = 10000; SET lock_timeout = 5000;
    SET idle_in_transaction_session_timeout = 30000; SET plan_cache_mode = force_custom_plan";

static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

/// A value of a statement or a row.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Value {
        // PostgreSQL takes no NUL in a text, and what cannot be written would be tried for ever.
        Value::Text(text.map(|text| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Some(text).into()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        text.to_owned().into()
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Integer(Some(number))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Value {
        Value::Integer(number)
    }
}

/// SQL and the values of its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    sql: String,
    values: Vec<Value>,
}

impl Statement {
    pub(crate) fn new(sql: &str) -> Statement {
        Statement { sql: sql.to_owned(), values: Vec::new() }
    }

    /// The value of the next parameter that the text names already.
    pub(crate) fn with(mut self, value: impl Into<Value>) -> Statement {
        self.values.push(value.into());
        self
    }

    pub(crate) fn push(&mut self, sql: &str) -> &mut Statement {
        self.sql.push_str(sql);
        self
    }

    /// A new parameter at the end of the text.
    pub(crate) fn bind(&mut self, value: impl Into<Value>) -> &mut Statement {
        self.values.push(value.into());
        self.sql.push_str(&format!("${}", self.values.len()));
        self
    }

    /// New parameters, with commas between them.
    pub(crate) fn bind_all<V: Into<Value>>(&mut self, values: impl IntoIterator<Item = V>) -> &mut Statement {
        for (number, value) in values.into_iter().enumerate() {
            self.push(if number == 0 { "" } else { ", " }).bind(value);
        }
        self
    }
}

/// A row of either database.
#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(crate) fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => row.try_get(column),
        }
    }

    pub(crate) fn integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => row.try_get(column),
        }
    }
}

/// Where PostgreSQL is and how to log in; shown without the password.
#[derive(Clone)]
pub(crate) struct PostgresAt {
    options: PgConnectOptions,
}

impl std::fmt::Debug for PostgresAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for PostgresAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options = &self.options;
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        write!(f, "postgres://{}:{}/{database}", options.get_host(), options.get_port())
    }
}

impl PostgresAt {
    /// Reads `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?sslmode=…&sslrootcert=…]`. A password given apart goes
    /// before the URL's. Without `sslmode`, a server that is not on this machine must show a certificate of its name.
    pub(crate) fn new(url: &str, password: Option<&str>) -> Result<PostgresAt, CatalogError> {
        // What the parser says may repeat the password.
        let parsed = url::Url::parse(url).map_err(|_| CatalogError::Url("it is no URL".to_owned()))?;
        if parsed.host_str().is_none_or(str::is_empty) && !parsed.query_pairs().any(|(key, _)| key == "host") {
            return Err(CatalogError::Url("it names no host".to_owned()));
        }
        if parsed.path().trim_matches('/').is_empty() {
            return Err(CatalogError::Url("it names no database".to_owned()));
        }
        const KNOWN: [&str; 6] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "application_name"];
        if let Some((key, _)) = parsed.query_pairs().find(|(key, _)| !KNOWN.contains(&key.as_ref())) {
            return Err(CatalogError::Url(format!("`{key}` is none of its options, which are {}", KNOWN.join(", "))));
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            CatalogError::Url(
                "an option is wrong; sslmode is disable, prefer, require, verify-ca or verify-full".into(),
            )
        })?;
        let mut options = options.application_name("ferric");
        if let Some(password) = password {
            options = options.password(password);
        }
        let host = options.get_host();
        let is_near = options.get_socket().is_some()
            || host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        if !is_near && !parsed.query_pairs().any(|(key, _)| key == "sslmode") {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        Ok(PostgresAt { options })
    }
}

/// A pool of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Sqlite(SqlitePool),
    Postgres(PgPool, PostgresAt),
}

impl Engine {
    /// An SQLite file; the tables are not touched.
    pub(crate) async fn sqlite(options: SqliteConnectOptions) -> Result<Engine, CatalogError> {
        use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new().max_connections(4).acquire_timeout(ACQUIRE).connect_with(options).await?;
        Ok(Engine::Sqlite(pool))
    }

    /// Does not connect yet.
    pub(crate) fn postgres(at: PostgresAt) -> Engine {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE)
            .idle_timeout(Duration::from_secs(300))
            .after_connect(|connection, _| Box::pin(async { greet(connection).await }))
            .connect_lazy_with(at.options.clone());
        Engine::Postgres(pool, at)
    }

    /// Makes the tables or brings them up to date.
    pub(crate) async fn migrate(&self) -> Result<(), CatalogError> {
        match self {
            Engine::Sqlite(pool) => SQLITE.run(pool).await.map_err(|error| too_new(error, &SQLITE)),
            Engine::Postgres(_, at) => {
                // A connection of its own: no limit of time ends its statements half way, nor its lock early.
                let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE).test_before_acquire(false);
                let pool = pool.connect_lazy_with(at.options.clone());
                let ask = sqlx::query_scalar("SHOW server_encoding").fetch_one(&pool);
                let encoding: String =
                    tokio::time::timeout(ACQUIRE, ask).await.map_err(|_| CatalogError::Silent(ACQUIRE))??;
                if encoding != "UTF8" {
                    return Err(CatalogError::Encoding(encoding));
                }
                let run = POSTGRES.run(&pool);
                let done = tokio::time::timeout(MIGRATION, run).await.map_err(|_| CatalogError::Silent(MIGRATION))?;
                done.map_err(|error| too_new(error, &POSTGRES))?;
                // Politeness only: the server forgets us anyway.
                let _ = tokio::time::timeout(ACQUIRE, pool.close()).await;
                Ok(())
            }
        }
    }

    /// A session that reads.
    pub(crate) async fn read(&self) -> Result<Session, CatalogError> {
        let connection = match self {
            Engine::Sqlite(pool) => pool.acquire().await.map(Connection::Sqlite),
            Engine::Postgres(pool, _) => pool.acquire().await.map(Connection::Postgres),
        };
        let connection = connection.map_err(|error| match error {
            // The pool tells its own name for it.
            sqlx::Error::PoolTimedOut => CatalogError::Silent(ACQUIRE),
            error => CatalogError::Database(error),
        })?;
        Ok(Session { connection: Some(connection) })
    }

    /// A session that writes: all until [`Session::commit`], or nothing.
    pub(crate) async fn begin(&self) -> Result<Session, CatalogError> {
        let mut session = self.read().await?;
        // SQLite: the lock at once, or two writers could each wait for the other.
        let begin = if matches!(self, Engine::Sqlite(_)) { "BEGIN IMMEDIATE" } else { "BEGIN" };
        session.execute(&Statement::new(begin)).await?;
        Ok(session)
    }

    /// Ends all connections; what is under way is finished first, or cut after [`STATEMENT`].
    pub(crate) async fn close(&self) {
        match self {
            Engine::Sqlite(pool) => pool.close().await,
            Engine::Postgres(pool, _) => {
                let _ = tokio::time::timeout(STATEMENT, pool.close()).await;
            }
        }
    }
}

async fn greet(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(GREETING).execute(connection).await.map(|_| ())
}

fn too_new(error: MigrateError, known: &Migrator) -> CatalogError {
    match error {
        MigrateError::VersionMissing(found) => {
            CatalogError::TooNew { found, known: known.iter().map(|migration| migration.version).max().unwrap_or(0) }
        }
        // The database failed half way and took it back: it can be tried again.
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => CatalogError::Database(error),
        error => CatalogError::Migration(error),
    }
}

#[derive(Debug)]
enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// A connection in use. [`Session::commit`] or [`Session::finish`] give it back; dropped before, it is closed.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Option<Connection>,
}

impl Session {
    /// Runs a statement and returns how many rows it changed.
    pub(crate) async fn execute(&mut self, statement: &Statement) -> Result<u64, CatalogError> {
        let run = async {
            // The text is ours in full; what comes from outside is in the values.
            let sql = AssertSqlSafe(statement.sql.as_str());
            Ok(match self.connection.as_mut() {
                Some(Connection::Sqlite(connection)) => {
                    let arguments = sqlite_arguments(&statement.values)?;
                    sqlx::query_with(sql, arguments).execute(&mut **connection).await?.rows_affected()
                }
                Some(Connection::Postgres(connection)) => {
                    let arguments = postgres_arguments(&statement.values)?;
                    sqlx::query_with(sql, arguments).execute(&mut **connection).await?.rows_affected()
                }
                None => return Err(sqlx::Error::PoolClosed),
            })
        };
        let done = tokio::time::timeout(STATEMENT, run).await.map_err(|_| CatalogError::Silent(STATEMENT))?;
        done.map_err(CatalogError::Database)
    }

    /// Runs a statement and returns its rows.
    pub(crate) async fn fetch(&mut self, statement: &Statement) -> Result<Vec<Row>, CatalogError> {
        let run = async {
            let sql = AssertSqlSafe(statement.sql.as_str());
            Ok(match self.connection.as_mut() {
                Some(Connection::Sqlite(connection)) => {
                    let arguments = sqlite_arguments(&statement.values)?;
                    let rows = sqlx::query_with(sql, arguments).fetch_all(&mut **connection).await?;
                    rows.into_iter().map(Row::Sqlite).collect()
                }
                Some(Connection::Postgres(connection)) => {
                    let arguments = postgres_arguments(&statement.values)?;
                    let rows = sqlx::query_with(sql, arguments).fetch_all(&mut **connection).await?;
                    rows.into_iter().map(Row::Postgres).collect()
                }
                None => return Err(sqlx::Error::PoolClosed),
            })
        };
        let done = tokio::time::timeout(STATEMENT, run).await.map_err(|_| CatalogError::Silent(STATEMENT))?;
        done.map_err(CatalogError::Database)
    }

    /// Makes what was written last.
    pub(crate) async fn commit(mut self) -> Result<(), CatalogError> {
        self.execute(&Statement::new("COMMIT")).await?;
        self.finish();
        Ok(())
    }

    /// Ends a session that has read.
    pub(crate) fn finish(mut self) {
        // The pool takes it back when it is dropped.
        drop(self.connection.take());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Connection::Sqlite(connection)) => drop(connection.detach()),
            Some(Connection::Postgres(connection)) => drop(connection.detach()),
            None => {}
        }
    }
}

fn sqlite_arguments(values: &[Value]) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    values.iter().try_for_each(|value| add(&mut arguments, value))?;
    Ok(arguments)
}

fn postgres_arguments(values: &[Value]) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    values.iter().try_for_each(|value| add(&mut arguments, value))?;
    Ok(arguments)
}

fn add<'q, A>(arguments: &mut A, value: &Value) -> Result<(), sqlx::Error>
where
    A: sqlx::Arguments,
    Option<String>: sqlx::Encode<'q, A::Database> + sqlx::Type<A::Database>,
    Option<i64>: sqlx::Encode<'q, A::Database> + sqlx::Type<A::Database>,
{
    let added = match value {
        Value::Text(text) => arguments.add(text.clone()),
        Value::Integer(number) => arguments.add(*number),
    };
    added.map_err(sqlx::Error::Encode)
}
