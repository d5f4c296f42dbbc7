//! Documents over a KV bucket.
//!
//! ```text
//! connected -> list (the last of each key) -> what is there is what is known -> watch -> after `LIST_EVERY` list again
//! ```
//!
//! A watcher may stand still for seconds after the death of a leader and says nothing of it, so it is never trusted for
//! longer than `LIST_EVERY`. A bucket whose last revision is lower than one that was seen has lost its contents: then this
//! node writes what it knows into it, instead of believing that everything was deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{Config, Operation, Store};
use async_nats::{Client, HeaderMap, jetstream};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::Instant;

use super::link::{Link, down, up};
use super::{AGAIN_AFTER, last_message, publish_expecting, within};
use crate::documents::{Documents, Stored};
use crate::error::StoreError;
use crate::health::Gauges;

/// How long a watcher is trusted.
const LIST_EVERY: Duration = Duration::from_secs(10);
/// Older values that the bucket keeps of each key.
const HISTORY: i64 = 5;
/// The header by which the KV interface marks a key as deleted, and its value.
const OPERATION: &str = "KV-Operation";
const DELETE: &str = "DEL";

#[derive(Clone)]
pub(crate) struct Kv {
    pub(crate) documents: Arc<Documents>,
    pub(crate) gauges: Arc<Gauges>,
    /// `ferric-CLUSTER`
    pub(crate) bucket: String,
    pub(crate) replicas: usize,
}

impl Kv {
    /// Follows the bucket for as long as the node runs.
    pub(crate) async fn run(self, mut link: Link) {
        while let Some(client) = up(&mut link).await {
            tokio::select! {
                result = self.list_and_watch(&client) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "documents are the last-known-good ones");
                        self.documents.set_current(false);
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                }
                () = down(link.clone()) => self.documents.set_current(false),
            }
        }
    }

    async fn store(&self, client: &Client) -> Result<Store, String> {
        let context = jetstream::new(client.clone());
        if let Ok(store) = within(context.get_key_value(&self.bucket)).await {
            return Ok(store);
        }
        let config =
            Config { bucket: self.bucket.clone(), history: HISTORY, num_replicas: self.replicas, ..Config::default() };
        within(context.create_key_value(config)).await
    }

    async fn list_and_watch(&self, client: &Client) -> Result<(), String> {
        let store = self.store(client).await?;
        let state = within(store.status()).await?.info.state;
        if state.last_sequence < self.documents.revision() {
            return self.write_anew(client, &store).await;
        }
        let mut watch = within(store.watch_with_history(">")).await?;
        let mut list = BTreeMap::new();
        let mut complete = state.messages == 0;
        while !complete {
            let next = async { watch.next().await.ok_or("the list ended early") };
            let entry = within(next).await?.map_err(|error| error.to_string())?;
            complete = entry.seen_current;
            match entry.operation {
                Operation::Put => list.insert(entry.key, Stored { revision: entry.revision, value: entry.value }),
                Operation::Delete | Operation::Purge => list.remove(&entry.key),
            };
        }
        self.documents.replace(&list, state.last_sequence);
        self.documents.set_current(true);
        let until = Instant::now() + LIST_EVERY.mul_f64(rand::random_range(0.8..1.2));
        while let Ok(next) = tokio::time::timeout_at(until, watch.next()).await {
            let entry = next.ok_or("the watch ended")?.map_err(|error| error.to_string())?;
            let value = match entry.operation {
                Operation::Put => Some(entry.value),
                Operation::Delete | Operation::Purge => None,
            };
            self.documents.apply(&entry.key, entry.revision, value);
        }
        Ok(())
    }

    /// The bucket began anew. Whoever comes first writes a key, the others take it from there.
    async fn write_anew(&self, client: &Client, store: &Store) -> Result<(), String> {
        tracing::error!(bucket = %self.bucket, "the store lost its documents: they are written anew from this node");
        let mut list = BTreeMap::new();
        for (key, stored) in self.documents.all() {
            match self.write(Some(client.clone()), &key, 0, Some(stored.value.clone())).await {
                Ok(revision) => {
                    list.insert(key, Stored { revision, value: stored.value });
                }
                Err(StoreError::Conflict) => {
                    if let Some(entry) = within(store.entry(key.as_str())).await? {
                        list.insert(key, Stored { revision: entry.revision, value: entry.value });
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        self.documents.renumber(list);
        self.gauges.documents_reseeded.add(1);
        Ok(())
    }

    /// Writes if the revision is still `expected` (0: not there); the new revision.
    pub(crate) async fn write(
        &self,
        client: Option<Client>,
        key: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<u64, StoreError> {
        let client = client.ok_or_else(|| StoreError::Unavailable("not connected".to_owned()))?;
        let subject = format!("$KV.{}.{key}", self.bucket);
        let headers = || {
            let mut headers = HeaderMap::new();
            if value.is_none() {
                headers.insert(OPERATION, DELETE);
            }
            headers
        };
        let payload = value.clone().unwrap_or_default();
        let publish =
            |expected| publish_expecting(client.clone(), subject.clone(), headers(), expected, payload.clone());
        let written = publish(expected).await;
        if expected > 0 || written != Err(StoreError::Conflict) {
            return written;
        }
        // What was deleted is not there, but its marker is.
        let context = jetstream::new(client.clone());
        let stream =
            within(context.get_stream(format!("KV_{}", self.bucket))).await.map_err(StoreError::Unavailable)?;
        match last_message(&stream, &subject).await? {
            Some(marker) if marker.headers.get(OPERATION).is_some() => publish(marker.sequence).await,
            Some(_) | None => Err(StoreError::Conflict),
        }
    }
}
