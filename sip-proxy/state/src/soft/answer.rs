//! The exchange with one peer, by the side that answers. It keeps nothing between two messages.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Destination, MESSAGE_BYTES, Soft};
use crate::entry::State;
use crate::kind::BUCKETS;
use crate::stamp::NodeId;
use crate::wire::{Body, Held, Sent, sent, size};

/// Entries sent in answer to one message, in bytes; what is left differs still at the next digest.
const ANSWER_BYTES: usize = 4 << 20;
/// Entries asked for in one answer.
const MOST_WANTED: usize = 2000;
/// Outputs that nobody fetched yet; past this, questions are not answered.
const MOST_WAITING: usize = 4096;

impl Soft {
    pub(super) fn handle_have(&mut self, now: Instant, from: NodeId, round: u32, theirs: Vec<Held>) {
        if self.outputs.len() > MOST_WAITING {
            return;
        }
        let (mut newer, mut bytes, mut wanted) = (Vec::new(), 0, Vec::new());
        for held in theirs {
            let stamps: BTreeMap<u128, _> = held.stamps.iter().map(|(id, stamp)| (*id, stamp)).collect();
            let mut own = BTreeMap::new();
            for (name, entry) in self.table.bucket(held.bucket) {
                let id = name.id();
                own.insert(id, &entry.stamp);
                let known = stamps.get(&id).is_some_and(|stamp| **stamp >= entry.stamp);
                if known || entry.state == State::Spent || bytes > ANSWER_BYTES {
                    continue;
                }
                if let Some(sent) = sent(now, name, entry) {
                    bytes += size(&sent);
                    newer.push(sent);
                }
            }
            let missing = stamps.into_iter().filter(|(id, stamp)| own.get(id).is_none_or(|own| own < stamp));
            wanted.extend(missing.map(|(id, _)| (held.bucket, id)));
        }
        wanted.truncate(MOST_WANTED);
        self.send_entries(&from, newer);
        if !wanted.is_empty() {
            self.send(Destination::Node(from.clone()), Body::Want(wanted));
        }
        self.send(Destination::Node(from), Body::Done { round });
    }

    pub(super) fn handle_want(&mut self, now: Instant, from: NodeId, names: &[(u16, u128)]) {
        if self.outputs.len() > MOST_WAITING {
            return;
        }
        let mut asked: BTreeMap<u16, Vec<u128>> = BTreeMap::new();
        for (bucket, id) in names.iter().take(MOST_WANTED).filter(|(bucket, _)| *bucket < BUCKETS) {
            asked.entry(*bucket).or_default().push(*id);
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (bucket, mut ids) in asked {
            ids.sort_unstable();
            for (name, entry) in self.table.bucket(bucket) {
                if ids.binary_search(&name.id()).is_ok()
                    && bytes <= ANSWER_BYTES
                    && let Some(sent) = sent(now, name, entry)
                {
                    bytes += size(&sent);
                    found.push(sent);
                }
            }
        }
        self.send_entries(&from, found);
    }

    fn send_entries(&mut self, to: &NodeId, entries: Vec<Sent>) {
        let (mut message, mut bytes) = (Vec::new(), 0);
        for sent in entries {
            bytes += size(&sent);
            message.push(sent);
            if bytes >= MESSAGE_BYTES {
                self.send(Destination::Node(to.clone()), Body::Changes(std::mem::take(&mut message)));
                bytes = 0;
            }
        }
        if !message.is_empty() {
            self.send(Destination::Node(to.clone()), Body::Changes(message));
        }
    }
}
