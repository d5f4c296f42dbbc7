//! Soft state in this node's memory: the core behind a lock that is held for a look-up or a message, never across a wait.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_state::{Change, Kind, Name, NodeId, Output, PutError, Soft, View};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, broadcast};

use crate::health::lock;

/// Changes a follower may be behind.
const FOLLOWER_BEHIND: usize = 4096;
/// Buckets that are listed without letting others in.
const BUCKETS_AT_ONCE: u16 = 16;

pub(crate) struct Memory {
    soft: Mutex<Soft>,
    wake: Notify,
    /// Whether NATS is there, and whether anybody is reached by the way beside it.
    ways: Mutex<[bool; 2]>,
    changes: broadcast::Sender<(Name, Change)>,
}

impl Memory {
    pub(crate) fn new(soft: Soft) -> Memory {
        let changes = broadcast::channel(FOLLOWER_BEHIND).0;
        Memory { soft: Mutex::new(soft), wake: Notify::new(), ways: Mutex::default(), changes }
    }

    pub(crate) fn put(&self, kind: Kind, key: &[u8], value: &[u8], life: Duration) -> Result<(), PutError> {
        let done = lock(&self.soft).put(Instant::now(), kind, key, value, life);
        self.wake.notify_one();
        done
    }

    pub(crate) fn remove(&self, kind: Kind, key: &[u8]) -> bool {
        let done = lock(&self.soft).remove(Instant::now(), kind, key);
        self.wake.notify_one();
        done
    }

    pub(crate) fn get(&self, kind: Kind, key: &[u8]) -> Option<View> {
        lock(&self.soft).get(Instant::now(), kind, key)
    }

    pub(crate) fn is_removed(&self, kind: Kind, key: &[u8]) -> bool {
        lock(&self.soft).is_removed(kind, key)
    }

    pub(crate) fn list(&self, kind: Kind) -> Vec<View> {
        let (mut list, mut start, end) = (Vec::new(), kind.buckets().start, kind.buckets().end);
        // In parts: a call that looks up one entry does not wait for all of them.
        while start < end {
            let next = (start + BUCKETS_AT_ONCE).min(end);
            list.extend(lock(&self.soft).part(Instant::now(), start..next));
            start = next;
        }
        list
    }

    pub(crate) fn node(&self, node: &NodeId, up: bool) {
        lock(&self.soft).handle_node(Instant::now(), node, up);
        self.wake.notify_one();
    }

    pub(crate) fn restore(&self, record: &[u8], age: Duration) {
        lock(&self.soft).restore(Instant::now(), record, age);
        self.wake.notify_one();
    }

    /// NATS is there, or is not.
    pub(crate) fn nats(&self, up: bool) {
        self.ways(|[nats, _]| *nats = up);
    }

    /// Somebody is reached by the way beside NATS, or nobody.
    pub(crate) fn beside(&self, up: bool) {
        self.ways(|[_, beside]| *beside = up);
    }

    fn ways(&self, change: impl FnOnce(&mut [bool; 2])) {
        let mut ways = lock(&self.ways);
        change(&mut ways);
        lock(&self.soft).handle_link(Instant::now(), ways.contains(&true));
        drop(ways);
        self.wake.notify_one();
    }

    /// A message; whoever calls this takes the next [`Memory::turn`] too.
    pub(crate) fn message(&self, bytes: &[u8]) {
        lock(&self.soft).handle_message(Instant::now(), bytes);
    }

    /// A message that came by another way.
    pub(crate) fn received(&self, bytes: &[u8]) {
        self.message(bytes);
        self.wake.notify_one();
    }

    /// Something of the soft state itself.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Soft) -> T) -> T {
        question(&lock(&self.soft))
    }

    /// Does what is due, tells followers, and hands out what else is to be done.
    pub(crate) fn turn(&self) -> (Vec<Output>, Option<Instant>) {
        let now = Instant::now();
        let (outputs, next) = {
            let mut soft = lock(&self.soft);
            soft.handle_timeout(now);
            let outputs: Vec<Output> = std::iter::from_fn(|| soft.poll_output()).collect();
            (outputs, soft.poll_timeout())
        };
        let mut left = Vec::new();
        for output in outputs {
            if let Output::Changed(name, change) = output {
                // Nobody follows: that is no error.
                let _ = self.changes.send((name, change));
            } else {
                left.push(output);
            }
        }
        (left, next)
    }

    /// Waits until something was written here.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn follow(&self) -> Follower {
        Follower { changes: self.changes.subscribe() }
    }
}

/// Hears what other nodes change, and what ends.
#[derive(Debug)]
pub struct Follower {
    changes: broadcast::Receiver<(Name, Change)>,
}

/// What a [`Follower`] hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// This entry changed.
    Changed {
        /// Its kind.
        kind: Kind,
        /// Its key.
        key: Bytes,
        /// How.
        change: Change,
    },
    /// The follower was too slow for so many changes: read the list anew.
    Missed(u64),
}

impl Follower {
    /// The next change; `None`: the shared state is gone.
    pub async fn next(&mut self) -> Option<Followed> {
        match self.changes.recv().await {
            Ok((name, change)) => Some(Followed::Changed { kind: name.kind, key: name.key, change }),
            Err(RecvError::Lagged(missed)) => Some(Followed::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next change that is there already.
    pub fn try_next(&mut self) -> Option<Followed> {
        match self.changes.try_recv() {
            Ok((name, change)) => Some(Followed::Changed { kind: name.kind, key: name.key, change }),
            Err(TryRecvError::Lagged(missed)) => Some(Followed::Missed(missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}
