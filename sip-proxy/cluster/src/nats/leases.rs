//! Leases over a stream that holds the last record of each name.
//!
//! ```text
//! ferric.CLUSTER.lease.NAME   Nats-TTL: the lease's life   { "holder", "incarnation", "ttl_ms", "expires_at" }
//!                             or Ferric-Released: true
//! ```
//!
//! - Taking and renewing expect the last sequence of the subject, so of two nodes one wins. The fence is the sequence with
//!   which the lease was taken: sequences of a stream only grow.
//! - The server drops a record after its time to live, and the name is free. `create_with_ttl` of the KV interface loses the
//!   time to live on a key that was deleted: the record is published with its header here.
//! - Should a server not drop it: whoever sees the same record stand for half as long again as it should, by its own
//!   monotonic clock, takes the name over. `expires_at` is for people; no wall clock decides anything.
//! - The holder counts from before it asked, and stops a fifth early.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_nats::{Client, HeaderMap, header};
use ferric_state::Identity;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::link::Link;
use super::{last_message, last_of_each, publish_expecting};
use crate::error::StoreError;
use crate::health::lock;
use crate::lease::Lease;

const RELEASED: &str = "Ferric-Released";
/// Names whose records are remembered.
const MOST_SEEN: usize = 1000;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    holder: String,
    incarnation: u64,
    ttl_ms: u64,
    expires_at: u64,
}

/// What stands on a subject.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nobody holds it; the sequence to expect.
    Free(u64),
    /// Somebody does.
    Held(u64, Option<Record>),
}

#[derive(Clone)]
pub(crate) struct Leases {
    pub(crate) identity: Identity,
    /// `FERRIC-CLUSTER-LEASES`
    pub(crate) stream: String,
    /// `ferric.CLUSTER.lease.`
    pub(crate) prefix: String,
    pub(crate) replicas: usize,
    pub(crate) link: Link,
    /// The records of others, and since when each stands.
    pub(crate) seen: Arc<Mutex<BTreeMap<String, (u64, Instant)>>>,
    /// What this process holds.
    pub(crate) held: Arc<Mutex<BTreeSet<String>>>,
}

impl Leases {
    /// Takes a lease unless somebody holds it.
    pub(crate) async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        if lock(&self.held).contains(name) {
            return Ok(None);
        }
        let before = Instant::now();
        let expected = match self.find(name).await? {
            Found::Free(expected) => expected,
            // An earlier attempt was written though its answer did not come.
            Found::Held(sequence, Some(record)) if self.is_own(&record) => sequence,
            Found::Held(sequence, record) => {
                let life = record.map_or(ttl, |record| Duration::from_millis(record.ttl_ms));
                if !self.stands_too_long(name, sequence, life) {
                    return Ok(None);
                }
                sequence
            }
        };
        let fence = match self.write(name, expected, ttl, false).await {
            Ok(fence) => fence,
            Err(StoreError::Conflict) => return Ok(None),
            Err(error) => return Err(error),
        };
        lock(&self.held).insert(name.to_owned());
        let (certain, until) = watch::channel(Some(before + certain_for(ttl)));
        let (release, released) = oneshot::channel();
        let renewing = tokio::spawn(self.clone().renew(name.to_owned(), fence, ttl, certain, released));
        Ok(Some(Lease::renewed(name.to_owned(), fence, until, renewing.abort_handle(), release)))
    }

    async fn renew(
        self,
        name: String,
        mut sequence: u64,
        ttl: Duration,
        certain: watch::Sender<Option<Instant>>,
        mut released: oneshot::Receiver<()>,
    ) {
        let mut pause = ttl / 3;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut released => {
                    // Should this fail, the record ends by itself.
                    let _ = self.write(&name, sequence, Duration::from_secs(1), true).await;
                    lock(&self.held).remove(&name);
                    return;
                }
            }
            let before = Instant::now();
            pause = ttl / 3;
            match self.write(&name, sequence, ttl, false).await {
                Ok(next) => sequence = next,
                Err(StoreError::Conflict) => match self.find(&name).await {
                    // An attempt that seemed to fail was written.
                    Ok(Found::Held(next, Some(record))) if self.is_own(&record) => {
                        sequence = next;
                        pause = Duration::ZERO;
                        continue;
                    }
                    Ok(Found::Free(_) | Found::Held(..)) => break,
                    Err(_) => {
                        pause = ttl / 20;
                        continue;
                    }
                },
                Err(_) => {
                    pause = ttl / 20;
                    if certain.borrow().is_none_or(|until| until <= Instant::now()) {
                        break;
                    }
                    continue;
                }
            }
            certain.send_replace(Some(before + certain_for(ttl)));
        }
        tracing::warn!(lease = %name, "a lease was lost");
        lock(&self.held).remove(&name);
        certain.send_replace(None);
    }

    fn is_own(&self, record: &Record) -> bool {
        record.holder == self.identity.node.as_str() && record.incarnation == self.identity.incarnation
    }

    /// Notes a record of somebody else; whether it outlived its life by half.
    fn stands_too_long(&self, name: &str, sequence: u64, life: Duration) -> bool {
        let mut seen = lock(&self.seen);
        if seen.len() >= MOST_SEEN && !seen.contains_key(name) {
            seen.clear();
        }
        let since = seen.entry(name.to_owned()).or_insert((sequence, Instant::now()));
        if since.0 != sequence {
            *since = (sequence, Instant::now());
        }
        since.1.elapsed() > life + life / 2
    }

    fn client(&self) -> Result<Client, StoreError> {
        self.link.borrow().clone().ok_or_else(|| StoreError::Unavailable("not connected".to_owned()))
    }

    async fn find(&self, name: &str) -> Result<Found, StoreError> {
        let client = self.client()?;
        let stream = last_of_each(&client, self.stream.clone(), format!("{}*", self.prefix), self.replicas);
        let stream = stream.await.map_err(StoreError::Unavailable)?;
        match last_message(&stream, &format!("{}{name}", self.prefix)).await? {
            None => Ok(Found::Free(0)),
            // Without a payload it is a marker of the server's, in the place of what it dropped.
            Some(message) if message.headers.get(RELEASED).is_some() || message.payload.is_empty() => {
                Ok(Found::Free(message.sequence))
            }
            Some(message) => Ok(Found::Held(message.sequence, serde_json::from_slice(&message.payload).ok())),
        }
    }

    async fn write(&self, name: &str, expected: u64, ttl: Duration, released: bool) -> Result<u64, StoreError> {
        let client = self.client()?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            holder: self.identity.node.to_string(),
            incarnation: self.identity.incarnation,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            expires_at: (since_1970 + ttl).as_secs(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_TTL, ttl.as_secs().max(1).to_string());
        if released {
            headers.insert(RELEASED, "true");
        }
        let payload = serde_json::to_vec(&record).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        publish_expecting(client, format!("{}{name}", self.prefix), headers, expected, payload.into()).await
    }
}

/// How long a holder relies on a record that lives for `ttl`.
fn certain_for(ttl: Duration) -> Duration {
    ttl - ttl / 5
}
