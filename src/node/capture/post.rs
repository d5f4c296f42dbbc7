//! Messages to other nodes. What finds no room waits here, in order, and goes as soon as there is some; what is for a node
//! whose link is down is dropped, since both ends settle what they have when it is up again.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_fabric::{Fabric, Kind, NodeId, SendError};
use serde::Serialize;

/// To a worker: a [`ferric_srs::placement::ToWorker`].
pub(super) const TO_WORKER: u8 = 1;
/// To an SRS node: a [`ferric_srs::placement::ToServer`].
pub(super) const TO_SERVER: u8 = 2;
/// A question of the API: a [`super::live::Question`].
pub(super) const QUESTION: u8 = 3;

/// Messages that wait for one node: some for each of thousands of calls.
const MOST_WAITING: usize = 20_000;
/// And their bytes.
const MOST_BYTES: usize = 64 << 20;
/// What waits is tried again after this.
const AGAIN: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Waiting {
    bodies: VecDeque<Bytes>,
    bytes: usize,
}

/// Sends messages of one kind to others.
pub(in crate::node) struct Post {
    fabric: Fabric,
    kind: Kind,
    waiting: HashMap<NodeId, Waiting>,
    again: Option<Instant>,
}

impl Post {
    pub(in crate::node) fn new(fabric: Fabric, kind: Kind) -> Post {
        Post { fabric, kind, waiting: HashMap::new(), again: None }
    }

    /// Sends; `false`: it will not arrive.
    pub(in crate::node) fn send(&mut self, now: Instant, to: &NodeId, message: &impl Serialize) -> bool {
        let body = match serde_json::to_vec(message) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                tracing::error!(%error, "a message cannot be written");
                return false;
            }
        };
        if self.waiting.contains_key(to) {
            return self.keep(now, to, body);
        }
        match self.fabric.send(to, self.kind, body.clone()) {
            Ok(()) => true,
            Err(SendError::Full) => self.keep(now, to, body),
            // That the link is down is heard, and acted upon, by another way.
            Err(SendError::NoLink(_)) => false,
            Err(error @ SendError::TooLarge { .. }) => {
                tracing::error!(%to, %error, "a message cannot be sent");
                false
            }
        }
    }

    fn keep(&mut self, now: Instant, to: &NodeId, body: Bytes) -> bool {
        let queue = self.waiting.entry(to.clone()).or_default();
        if queue.bodies.len() >= MOST_WAITING || queue.bytes + body.len() > MOST_BYTES {
            tracing::error!(%to, "too many messages wait for this node; one is dropped");
            return false;
        }
        queue.bytes += body.len();
        queue.bodies.push_back(body);
        self.again.get_or_insert(now + AGAIN);
        true
    }

    /// The link to a node is down.
    pub(in crate::node) fn forget(&mut self, node: &NodeId) {
        self.waiting.remove(node);
    }

    /// When [`Post::handle_timeout`] is due.
    pub(in crate::node) fn poll_timeout(&self) -> Option<Instant> {
        self.again
    }

    /// Sends what waits, as far as there is room.
    pub(in crate::node) fn handle_timeout(&mut self, now: Instant) {
        if self.again.is_none_or(|at| at > now) {
            return;
        }
        let kind = self.kind;
        let fabric = &self.fabric;
        self.waiting.retain(|node, queue| {
            while let Some(body) = queue.bodies.front() {
                match fabric.send(node, kind, body.clone()) {
                    Ok(()) | Err(SendError::TooLarge { .. }) => {
                        queue.bytes -= body.len();
                        queue.bodies.pop_front();
                    }
                    Err(SendError::Full) => return true,
                    Err(SendError::NoLink(_)) => return false,
                }
            }
            false
        });
        self.again = (!self.waiting.is_empty()).then(|| now + AGAIN);
    }
}
