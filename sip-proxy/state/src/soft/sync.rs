//! The exchange with one peer, by the side that asks.
//!
//! ```text
//! digest differs -> Have(round, what I hold of some buckets) -> Changes, Want, Done(round) -> the next buckets -> ...
//! no Done within `ANSWER_WITHIN` -> the same again, `TRIES` times, then the exchange is given up: the next digest starts
//! another
//! ```
//!
//! One exchange at a time, in steps of at most `BUCKETS_AT_ONCE`, keeps what a node has in the air small, however much
//! differs. A node that joins asks for everything in this way, so the snapshot needs no second protocol.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Destination, Soft};
use crate::entry::State;
use crate::stamp::NodeId;
use crate::wire::{Body, Held};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often the same question is asked.
const TRIES: u32 = 3;
/// Buckets of one question.
const BUCKETS_AT_ONCE: usize = 32;
/// Entries told in one question, unless one bucket has more.
const TOLD_AT_ONCE: usize = 1000;

/// An exchange that runs.
#[derive(Debug)]
pub(super) struct Sync {
    peer: NodeId,
    /// The peer had joined: what it has is what there is.
    complete: bool,
    waiting: VecDeque<u16>,
    asked: Vec<u16>,
    round: u32,
    tries: u32,
    deadline: Instant,
}

impl Sync {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Soft {
    pub(super) fn handle_digest(&mut self, now: Instant, from: NodeId, joining: bool, theirs: &[u64]) {
        if joining {
            // Whoever joins need not wait for the next regular one; whoever joins as well knows nothing yet.
            if self.joined {
                let buckets = self.table.digests();
                self.send(Destination::Node(from.clone()), Body::Digest { joining: false, buckets });
            }
        }
        if self.sync.is_some() || !self.link {
            return;
        }
        let own = self.table.digests();
        let differing = own.iter().zip(theirs).zip(0u16..).filter(|((own, theirs), _)| own != theirs);
        let waiting: VecDeque<u16> = differing.map(|(_, bucket)| bucket).collect();
        if waiting.is_empty() {
            if !joining {
                self.join(false);
            }
            return;
        }
        self.counters.differed += 1;
        let complete = !joining;
        self.sync = Some(Sync { peer: from, complete, waiting, asked: Vec::new(), round: 0, tries: 0, deadline: now });
        self.next_step(now);
    }

    pub(super) fn handle_done(&mut self, now: Instant, from: &NodeId, round: u32) {
        if self.sync.as_ref().is_some_and(|sync| sync.peer == *from && sync.round == round) {
            self.next_step(now);
        }
    }

    pub(super) fn sync_timeout(&mut self, now: Instant) {
        let Some(sync) = self.sync.as_mut().filter(|sync| sync.deadline <= now) else { return };
        if sync.tries >= TRIES {
            self.counters.abandoned += 1;
            self.sync = None;
            return;
        }
        for bucket in sync.asked.drain(..).rev() {
            sync.waiting.push_front(bucket);
        }
        let tries = sync.tries;
        self.next_step(now);
        if let Some(sync) = &mut self.sync {
            sync.tries = tries + 1;
        }
    }

    fn next_step(&mut self, now: Instant) {
        let Some(sync) = &mut self.sync else { return };
        sync.asked.clear();
        let (mut buckets, mut told) = (Vec::new(), 0);
        while buckets.len() < BUCKETS_AT_ONCE && told < TOLD_AT_ONCE {
            let Some(bucket) = sync.waiting.pop_front() else { break };
            let entries = self.table.bucket(bucket).filter(|(_, entry)| entry.state != State::Spent);
            let stamps: Vec<_> = entries.map(|(name, entry)| (name.id(), entry.stamp.clone())).collect();
            told += stamps.len();
            sync.asked.push(bucket);
            buckets.push(Held { bucket, stamps });
        }
        if buckets.is_empty() {
            let complete = sync.complete;
            self.sync = None;
            self.counters.exchanges += 1;
            if complete {
                self.join(false);
            }
            return;
        }
        self.round = self.round.wrapping_add(1);
        sync.round = self.round;
        sync.tries = 0;
        sync.deadline = now + ANSWER_WITHIN;
        let (peer, round) = (sync.peer.clone(), self.round);
        self.send(Destination::Node(peer), Body::Have { round, buckets });
    }
}
