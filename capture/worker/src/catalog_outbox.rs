//! News on its way to a catalogue that other nodes share, in a file of this node.
//!
//! All news goes through here, also while the database is well, so that a node that is killed, or a database that is
//! away for a day, costs none of it. What is written in the catalogue is deleted here; written twice after a crash
//! between the two, it makes no difference.
//!
//! SQLite, WAL, mode 0600; one row for each news in the order in which it came, as JSON of [`StoredNews`]. What is
//! deleted is overwritten (`secure_delete`), as it may name people, and its room is given back when all is gone. The file
//! has a limit; what comes past it is dropped, and the caller counts.

use std::path::Path;

use sqlx::sqlite::SqliteAutoVacuum;

use crate::catalog::{CatalogError, sqlite_file};
use crate::catalog_engine::{Engine, Statement};
use crate::catalog_row::StoredNews;

/// Room of a file that is kept when it is empty, in bytes.
const KEPT: u64 = 4 * 1024 * 1024;

/// The queue. One task uses it.
#[derive(Debug)]
pub(crate) struct Outbox {
    engine: Engine,
    limit_bytes: u64,
    /// News and bytes that wait; bytes are those of the JSON.
    waiting: (u64, u64),
    /// Most bytes that waited since room was given back.
    peak: u64,
}

impl Outbox {
    /// Opens the file or makes it.
    pub(crate) async fn open(path: &Path, limit_bytes: u64) -> Result<Outbox, CatalogError> {
        let text = path.display().to_string();
        let failed = |source| CatalogError::Queue { path: text.clone(), source: Box::new(source) };
        Outbox::open_file(path, limit_bytes).await.map_err(failed)
    }

    async fn open_file(path: &Path, limit_bytes: u64) -> Result<Outbox, CatalogError> {
        let options = sqlite_file(&path.display().to_string())?;
        let options = options.auto_vacuum(SqliteAutoVacuum::Incremental).pragma("secure_delete", "ON");
        let engine = Engine::sqlite(options).await?;
        let mut session = engine.begin().await?;
        let table = "CREATE TABLE IF NOT EXISTS news (seq INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL)";
        session.execute(&Statement::new(table)).await?;
        let count = "SELECT count(*) AS news, coalesce(sum(length(CAST(body AS BLOB))), 0) AS bytes FROM news";
        let rows = session.fetch(&Statement::new(count)).await?;
        session.commit().await?;
        let number = |column| -> Result<u64, CatalogError> {
            let value = rows.first().map(|row| row.integer(column)).transpose()?.flatten();
            Ok(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0))
        };
        let waiting = (number("news")?, number("bytes")?);
        Ok(Outbox { engine, limit_bytes, waiting, peak: waiting.1 })
    }

    /// News that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.0
    }

    /// Takes news to the end, all that has room; returns how many had none.
    pub(crate) async fn push(&mut self, news: &[StoredNews]) -> Result<u64, CatalogError> {
        let (mut count, mut bytes) = self.waiting;
        let mut dropped = 0;
        let mut session = self.engine.begin().await?;
        for one in news {
            let body = serde_json::to_string(one).unwrap_or_default();
            if body.is_empty() || bytes.saturating_add(body.len() as u64) > self.limit_bytes {
                dropped += 1;
                continue;
            }
            (count, bytes) = (count + 1, bytes + body.len() as u64);
            session.execute(&Statement::new("INSERT INTO news (body) VALUES ($1)").with(body)).await?;
        }
        session.commit().await?;
        self.waiting = (count, bytes);
        self.peak = self.peak.max(bytes);
        Ok(dropped)
    }

    /// The oldest news, at most so many, in their order, and the place of the last. A row that this program cannot read
    /// is passed over.
    pub(crate) async fn oldest(&self, most: u32) -> Result<(Vec<StoredNews>, Option<Place>), CatalogError> {
        let select = Statement::new("SELECT seq, body FROM news ORDER BY seq LIMIT $1").with(i64::from(most));
        let mut session = self.engine.read().await?;
        let rows = session.fetch(&select).await?;
        session.finish();
        let mut news = Vec::with_capacity(rows.len());
        let mut place: Option<Place> = None;
        for row in rows {
            let body = row.text("body")?.unwrap_or_default();
            let before = place.unwrap_or_default();
            let seq = row.integer("seq")?.unwrap_or_default();
            place = Some(Place { seq, rows: before.rows + 1, bytes: before.bytes + body.len() as u64 });
            match serde_json::from_str(&body) {
                Ok(one) => news.push(one),
                Err(error) => tracing::error!(%error, "news that waited for the catalogue cannot be read"),
            }
        }
        Ok((news, place))
    }

    /// Deletes what [`Outbox::oldest`] gave.
    pub(crate) async fn remove(&mut self, through: Place) -> Result<(), CatalogError> {
        let mut session = self.engine.begin().await?;
        session.execute(&Statement::new("DELETE FROM news WHERE seq <= $1").with(through.seq)).await?;
        session.commit().await?;
        let (count, bytes) = self.waiting;
        self.waiting = (count.saturating_sub(through.rows), bytes.saturating_sub(through.bytes));
        if self.waiting.0 == 0 && self.peak > KEPT {
            let mut session = self.engine.read().await?;
            session.execute(&Statement::new("PRAGMA incremental_vacuum")).await?;
            session.execute(&Statement::new("PRAGMA wal_checkpoint(TRUNCATE)")).await?;
            session.finish();
            self.peak = 0;
        }
        Ok(())
    }

    pub(crate) async fn close(&self) {
        self.engine.close().await;
    }
}

/// Up to where the oldest news were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    seq: i64,
    rows: u64,
    bytes: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use uuid::Uuid;

    use crate::catalog::UploadState;

    fn news(number: u128) -> StoredNews {
        let error = Some("x".repeat(1000));
        StoredNews::Upload { id: Uuid::from_u128(number), state: UploadState::Failing, key: None, error }
    }

    #[tokio::test]
    async fn news_wait_in_order_over_a_restart_and_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        let mut outbox = Outbox::open(&path, 4000).await.unwrap();
        assert_eq!(outbox.push(&[news(9), news(1)]).await.unwrap(), 0);
        outbox.close().await;
        let mut outbox = Outbox::open(&path, 4000).await.unwrap();
        assert_eq!(outbox.waiting(), 2);
        assert_eq!(outbox.push(&[news(5), news(6), news(7)]).await.unwrap(), 2, "no room for two");
        let (some, place) = outbox.oldest(2).await.unwrap();
        assert_eq!(some, [news(9), news(1)]);
        outbox.remove(place.unwrap()).await.unwrap();
        assert_eq!((outbox.oldest(9).await.unwrap().0, outbox.waiting()), (vec![news(5)], 1));
        assert_eq!(outbox.push(&[news(6), news(7)]).await.unwrap(), 0, "there is room again");
    }

    #[tokio::test]
    async fn a_row_of_another_program_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(&dir.path().join("queue.db"), 4000).await.unwrap();
        let mut session = outbox.engine.begin().await.unwrap();
        session.execute(&Statement::new("INSERT INTO news (body) VALUES ('{\"Else\":1}')")).await.unwrap();
        session.commit().await.unwrap();
        outbox.push(&[news(1)]).await.unwrap();
        let (some, place) = outbox.oldest(9).await.unwrap();
        assert_eq!(some, [news(1)]);
        outbox.remove(place.unwrap()).await.unwrap();
        assert_eq!(outbox.oldest(9).await.unwrap(), (vec![], None));
    }

    #[tokio::test]
    async fn the_room_of_a_long_queue_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        let mut outbox = Outbox::open(&path, 1 << 30).await.unwrap();
        let all: Vec<StoredNews> = (0..6000).map(news).collect();
        outbox.push(&all).await.unwrap();
        let (_, place) = outbox.oldest(6000).await.unwrap();
        outbox.remove(place.unwrap()).await.unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < KEPT);
    }
}
