//! The state machine of one node: writes, merges, ends of lives, and when to say what to whom.
//!
//! ```text
//! put, remove -> table, `fresh` --5 ms--> Changes to all          (a burst is one message)
//! own entries of kinds that live with their owner: written again at a third of their life
//! digest to all: when the link comes up, then every `digest_interval`, give or take a fifth
//! joining: until a digest of a peer that has joined was answered in full, or nobody was there for `join_wait`
//! ```

mod answer;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::entry::{Entry, MOST_KEY_BYTES, MOST_VALUE_BYTES, Name, State, View};
use crate::kind::Kind;
use crate::stamp::{Clock, Identity, NodeId, Stamp};
use crate::table::{Ended, Table};
use crate::wire::{Body, MOST_LIFE, Message, Sent, sent, size};
use sync::Sync;

/// How long fresh writes wait for one another.
const GATHER: Duration = Duration::from_millis(5);
/// A message of changes is closed past this, in bytes.
const MESSAGE_BYTES: usize = 32 << 10;
/// Messages of fresh writes at once; the rest waits for the next turn: who writes meanwhile waits for one turn at most.
const MESSAGES_AT_ONCE: usize = 8;
/// Lives ended and entries written again in one timeout.
const WORK_AT_ONCE: usize = 250;
/// Peers remembered.
const MOST_PEERS: usize = 256;
/// A peer that was silent for so many digests is forgotten.
const SILENT_DIGESTS: u32 = 12;

/// How the soft state behaves: alike on all nodes.
#[derive(Debug, Clone)]
pub struct SoftConfig {
    /// The longest life of an entry by kind: registration, session, load. At most seven days. What ends or is removed
    /// leaves a tombstone for as long, so it is no longer than needed.
    pub life: [Duration; Kind::ALL.len()],
    /// Live entries by kind: registration, session, load.
    pub most: [usize; Kind::ALL.len()],
    /// Tombstones and what is left of ended lives, all kinds.
    pub most_left: usize,
    /// How much longer a tombstone lives than what it removed could; more than a message may be late.
    pub grace: Duration,
    /// How often a node tells its digests.
    pub digest_interval: Duration,
    /// How long a node that joins waits for one that knows more.
    pub join_wait: Duration,
}

impl Default for SoftConfig {
    fn default() -> SoftConfig {
        SoftConfig {
            life: [Duration::from_secs(2 * 3600), Duration::from_secs(600), Duration::from_secs(15)],
            most: [200_000, 50_000, 1_000],
            most_left: 200_000,
            grace: Duration::from_secs(300),
            digest_interval: Duration::from_secs(5),
            join_wait: Duration::from_secs(3),
        }
    }
}

impl SoftConfig {
    fn life(&self, kind: Kind) -> Duration {
        self.life.get(kind.place()).copied().unwrap_or_default().min(MOST_LIFE - self.grace.min(MOST_LIFE / 2))
    }

    /// Longer than any copy of an older write of the same name can live.
    fn tombstone(&self, kind: Kind) -> Duration {
        self.life(kind) + self.grace
    }
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Every node.
    All,
    /// One node.
    Node(NodeId),
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is there, or has another value: read it.
    Set,
    /// It was removed.
    Removed,
    /// Its life is over.
    Expired,
}

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a message over the bus; losing it is no harm.
    Send(Destination, Bytes),
    /// Somebody else's write, or the end of a life, changed this entry.
    Changed(Name, Change),
    /// Keep this under the number of its name in a store, in the place of what this node kept there before, for as long as
    /// told: see [`Soft::restore`].
    Keep {
        /// [`Name::id`].
        id: u128,
        /// The entry, or that it was removed.
        record: Bytes,
        /// After this the record is of no use.
        life: Duration,
    },
    /// The node has what the others have, or there are no others.
    Joined {
        /// Nobody who had joined was there: a store may know more.
        alone: bool,
    },
}

/// Why a write was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The key is empty or too long.
    #[error("a key has 1 to {MOST_KEY_BYTES} bytes, this one has {0}")]
    Key(usize),
    /// The value is too long.
    #[error("a value has at most {MOST_VALUE_BYTES} bytes, this one has {0}")]
    Value(usize),
    /// The life is none, or longer than the limit of the kind.
    #[error("a life is more than 0 and at most {most:?}, this one is {life:?}")]
    Life {
        /// What was asked for.
        life: Duration,
        /// The limit.
        most: Duration,
    },
    /// There are as many entries of this kind as there may be.
    #[error("there are {0} entries already, which is the limit")]
    Full(usize),
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Own writes and removals.
    pub written: u64,
    /// Entries taken from others.
    pub merged: u64,
    /// Entries of others that were known, or older than what is known.
    pub known: u64,
    /// Entries of others for which there was no room.
    pub full: u64,
    /// Lives that ended.
    pub expired: u64,
    /// Tombstones that had to go before their time: something removed could come back.
    pub left_early: u64,
    /// Messages that could not be read.
    pub unreadable: u64,
    /// Messages of a newer version or type, passed over.
    pub newer: u64,
    /// Digests of peers that differed.
    pub differed: u64,
    /// Exchanges that came to their end.
    pub exchanges: u64,
    /// Exchanges that were given up: answers did not come.
    pub abandoned: u64,
    /// Messages from another process under this node's own name.
    pub twins: u64,
    /// How far the clock of another node was ahead at most, in milliseconds.
    pub ahead_most_ms: u64,
}

#[derive(Debug)]
struct Peer {
    incarnation: u64,
    heard: Instant,
    down: bool,
}

/// An own entry that is written again in time.
#[derive(Debug, Clone, Copy)]
struct Held {
    life: Duration,
    again: Instant,
}

/// The soft state of one node.
#[derive(Debug)]
pub struct Soft {
    config: SoftConfig,
    clock: Clock,
    table: Table,
    peers: BTreeMap<NodeId, Peer>,
    fresh: BTreeSet<Name>,
    flush_at: Option<Instant>,
    held: BTreeMap<Name, Held>,
    again: BTreeSet<(Instant, Name)>,
    link: bool,
    joined: bool,
    join_by: Option<Instant>,
    digest_at: Option<Instant>,
    sync: Option<Sync>,
    round: u32,
    random: SmallRng,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Soft {
    /// `wall_ms`: milliseconds since 1970 at `now`.
    pub fn new(config: SoftConfig, owner: Identity, now: Instant, wall_ms: u64, seed: u64) -> Soft {
        Soft {
            clock: Clock::new(owner, now, wall_ms),
            table: Table::new(config.most_left),
            config,
            peers: BTreeMap::new(),
            fresh: BTreeSet::new(),
            flush_at: None,
            held: BTreeMap::new(),
            again: BTreeSet::new(),
            link: false,
            joined: false,
            join_by: None,
            digest_at: None,
            sync: None,
            round: 0,
            random: SmallRng::seed_from_u64(seed),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Writes an entry for everybody. It lives for `life`, and as long as this process if its kind lives with its owner.
    ///
    /// # Errors
    /// When a limit is met; nothing changed then.
    pub fn put(&mut self, now: Instant, kind: Kind, key: &[u8], value: &[u8], life: Duration) -> Result<(), PutError> {
        if key.is_empty() || key.len() > MOST_KEY_BYTES {
            return Err(PutError::Key(key.len()));
        }
        if value.len() > MOST_VALUE_BYTES {
            return Err(PutError::Value(value.len()));
        }
        let most = self.config.life(kind);
        if life.as_millis() == 0 || life > most {
            return Err(PutError::Life { life, most });
        }
        let name = Name { kind, key: Bytes::copy_from_slice(key) };
        if !self.room(&name) {
            return Err(PutError::Full(self.table.live(kind)));
        }
        self.write(now, &name, State::Live(Bytes::copy_from_slice(value)), life);
        if kind.with_owner() {
            self.hold(now, name, life);
        }
        Ok(())
    }

    /// Removes an entry everywhere, whoever wrote it; `false` when there is none.
    pub fn remove(&mut self, now: Instant, kind: Kind, key: &[u8]) -> bool {
        let name = Name { kind, key: Bytes::copy_from_slice(key) };
        if !self.is_live(&name) {
            return false;
        }
        self.let_go(&name);
        self.write(now, &name, State::Removed, self.config.tombstone(kind));
        true
    }

    /// An entry, unless it is not there or its owner is gone and its kind goes with it.
    pub fn get(&self, now: Instant, kind: Kind, key: &[u8]) -> Option<View> {
        let name = Name { kind, key: Bytes::copy_from_slice(key) };
        self.view(now, &name, self.table.get(&name)?)
    }

    /// Whether an entry was there and is known to have been removed, or to have ended, which is more than not to know it.
    pub fn is_removed(&self, kind: Kind, key: &[u8]) -> bool {
        let name = Name { kind, key: Bytes::copy_from_slice(key) };
        self.table.get(&name).is_some_and(|entry| entry.state == State::Removed)
    }

    /// All entries of a kind that [`Soft::get`] would show.
    pub fn iter(&self, now: Instant, kind: Kind) -> impl Iterator<Item = View> {
        self.part(now, kind.buckets())
    }

    /// Those of some buckets ([`Kind::buckets`]), for whoever reads a long list in parts.
    pub fn part(&self, now: Instant, buckets: Range<u16>) -> impl Iterator<Item = View> {
        let entries = buckets.flat_map(|bucket| self.table.bucket(bucket));
        entries.filter_map(move |(name, entry)| self.view(now, name, entry))
    }

    /// The bus is there, or is not.
    pub fn handle_link(&mut self, now: Instant, up: bool) {
        if up == self.link {
            return;
        }
        self.link = up;
        self.sync = None;
        self.digest_at = up.then_some(now);
        self.flush_at = (up && !self.fresh.is_empty()).then_some(now);
        self.join_by = (up && !self.joined).then(|| now + self.config.join_wait);
    }

    /// A node is known, from elsewhere, to be dead or alive.
    pub fn handle_node(&mut self, now: Instant, node: &NodeId, up: bool) {
        if let Some(peer) = self.peers.get_mut(node) {
            // Who was away is compared with at once: both may have written meanwhile.
            self.digest_at = if up && peer.down && self.link { Some(now) } else { self.digest_at };
            peer.down = !up;
        } else if !up {
            self.note_peer(now, &Identity { node: node.clone(), incarnation: 0 });
            if let Some(peer) = self.peers.get_mut(node) {
                peer.down = true;
            }
        }
    }

    /// A message from the bus.
    pub fn handle_message(&mut self, now: Instant, bytes: &[u8]) {
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(crate::wire::WireError::Damaged) => {
                self.counters.unreadable += 1;
                return;
            }
            Err(_) => {
                self.counters.newer += 1;
                return;
            }
        };
        let own = self.clock.owner();
        if message.from == *own {
            return;
        }
        if message.from.node == own.node {
            self.counters.twins += 1;
        }
        self.note_peer(now, &message.from);
        match message.body {
            Body::Changes(entries) => self.merge_all(now, entries),
            Body::Digest { joining, buckets } => self.handle_digest(now, message.from.node, joining, &buckets),
            Body::Have { round, buckets } => self.handle_have(now, message.from.node, round, buckets),
            Body::Want(names) => self.handle_want(now, message.from.node, &names),
            Body::Done { round } => self.handle_done(now, &message.from.node, round),
        }
    }

    /// A record of [`Output::Keep`] that a store gives back, `age` after it was kept. It is one more copy: the order of
    /// writes decides, so any number of records may come at any time and in any order.
    pub fn restore(&mut self, now: Instant, record: &[u8], age: Duration) {
        let Ok(Message { body: Body::Changes(mut entries), .. }) = Message::decode(record) else {
            self.counters.unreadable += 1;
            return;
        };
        for sent in &mut entries {
            let past = age.saturating_sub(sent.remaining);
            sent.remaining = sent.remaining.saturating_sub(age);
            if sent.remaining.is_zero() && sent.value.take().is_some() {
                // As in the table: a life that is over leaves a tombstone.
                sent.remaining = self.config.tombstone(sent.name.kind).saturating_sub(past);
            }
        }
        entries.retain(|sent| sent.remaining.as_millis() > 0);
        self.merge_all(now, entries);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..WORK_AT_ONCE {
            let config = &self.config;
            match self.table.end(now, |kind| config.tombstone(kind), config.grace) {
                Some(Ended::Expired(name)) => {
                    self.counters.expired += 1;
                    self.let_go(&name);
                    self.outputs.push_back(Output::Changed(name, Change::Expired));
                }
                Some(Ended::Forgotten) => {}
                None => break,
            }
        }
        self.write_again(now);
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush(now);
        }
        if self.digest_at.is_some_and(|at| at <= now) {
            self.tell_digest(now);
        }
        self.sync_timeout(now);
        if self.join_by.is_some_and(|at| at <= now) && self.sync.is_none() {
            self.join(true);
        }
    }

    /// What the caller is to do next; `None`: nothing more for now.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Soft::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let again = self.again.first().map(|(at, _)| *at);
        let sync = self.sync.as_ref().map(Sync::deadline);
        // While an exchange runs it decides whether the node is alone.
        let join = self.join_by.filter(|_| self.sync.is_none());
        [self.table.deadline(), again, self.flush_at, self.digest_at, sync, join].into_iter().flatten().min()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        Counters { left_early: self.table.left_early(), ..self.counters }
    }

    /// Live entries of a kind, hidden ones too.
    pub fn live(&self, kind: Kind) -> usize {
        self.table.live(kind)
    }

    /// Tombstones and what is left of ended lives.
    pub fn left(&self) -> usize {
        self.table.left()
    }

    /// Whether the node has what the others have, or found nobody.
    pub fn is_joined(&self) -> bool {
        self.joined
    }

    /// The digests of all buckets: two nodes that have the same entries have the same.
    pub fn digests(&self) -> Vec<u64> {
        self.table.digests()
    }

    /// Whom this node hears, with their incarnations.
    pub fn peers(&self) -> impl Iterator<Item = (&NodeId, u64)> {
        self.peers.iter().filter(|(_, peer)| !peer.down).map(|(node, peer)| (node, peer.incarnation))
    }

    fn is_live(&self, name: &Name) -> bool {
        self.table.get(name).is_some_and(|entry| matches!(entry.state, State::Live(_)))
    }

    fn room(&self, name: &Name) -> bool {
        let most = self.config.most.get(name.kind.place()).copied().unwrap_or(0);
        self.table.live(name.kind) < most || self.is_live(name)
    }

    fn view(&self, now: Instant, name: &Name, entry: &Entry) -> Option<View> {
        let State::Live(value) = &entry.state else { return None };
        if entry.ends <= now || (name.kind.dies_with_owner() && self.is_gone(&entry.stamp.owner)) {
            return None;
        }
        Some(View {
            key: name.key.clone(),
            value: value.clone(),
            stamp: entry.stamp.clone(),
            remaining: entry.ends.saturating_duration_since(now),
        })
    }

    /// Whether a process is dead, or its node has started anew since.
    fn is_gone(&self, owner: &Identity) -> bool {
        let own = self.clock.owner();
        if owner.node == own.node {
            return owner.incarnation != own.incarnation;
        }
        self.peers.get(&owner.node).is_some_and(|peer| peer.down || owner.incarnation < peer.incarnation)
    }

    fn note_peer(&mut self, now: Instant, from: &Identity) {
        if !self.peers.contains_key(&from.node) && self.peers.len() >= MOST_PEERS {
            return;
        }
        let fresh = Peer { incarnation: from.incarnation, heard: now, down: false };
        let peer = self.peers.entry(from.node.clone()).or_insert(fresh);
        peer.heard = now;
        if from.incarnation > peer.incarnation {
            peer.incarnation = from.incarnation;
            peer.down = false;
        }
    }

    fn write(&mut self, now: Instant, name: &Name, state: State, life: Duration) {
        let entry = Entry { stamp: self.clock.stamp(now), state, ends: now + life };
        if name.kind.kept()
            && let Some(sent) = sent(now, name, &entry)
        {
            let after = if sent.value.is_some() { self.config.tombstone(name.kind) } else { Duration::ZERO };
            let life = life + after;
            let record = self.message(Body::Changes(vec![sent]));
            self.outputs.push_back(Output::Keep { id: name.id(), record, life });
        }
        self.table.set(name.clone(), entry);
        self.counters.written += 1;
        self.fresh.insert(name.clone());
        if self.link {
            self.flush_at.get_or_insert(now + GATHER);
        } else if self.fresh.len() > WORK_AT_ONCE {
            // Digests will find them when the link is back.
            self.fresh.clear();
        }
    }

    fn hold(&mut self, now: Instant, name: Name, life: Duration) {
        self.let_go(&name);
        let again = now + life / 3;
        self.again.insert((again, name.clone()));
        self.held.insert(name, Held { life, again });
    }

    fn let_go(&mut self, name: &Name) {
        if let Some(held) = self.held.remove(name) {
            self.again.remove(&(held.again, name.clone()));
        }
    }

    fn write_again(&mut self, now: Instant) {
        for _ in 0..WORK_AT_ONCE {
            let Some((_, name)) = self.again.first().filter(|(at, _)| *at <= now).cloned() else { break };
            let held = self.held.get(&name).copied();
            let value = self.table.get(&name).and_then(|entry| match &entry.state {
                State::Live(value) => Some(value.clone()),
                State::Removed | State::Spent => None,
            });
            self.let_go(&name);
            if let (Some(held), Some(value)) = (held, value) {
                self.write(now, &name, State::Live(value), held.life);
                self.hold(now, name, held.life);
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        self.flush_at = None;
        let mut messages = 0;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while messages < MESSAGES_AT_ONCE {
            let Some(name) = self.fresh.pop_first() else { break };
            let Some(sent) = self.table.get(&name).and_then(|entry| sent(now, &name, entry)) else { continue };
            bytes += size(&sent);
            entries.push(sent);
            if bytes >= MESSAGE_BYTES {
                self.send(Destination::All, Body::Changes(std::mem::take(&mut entries)));
                (bytes, messages) = (0, messages + 1);
            }
        }
        if !entries.is_empty() {
            self.send(Destination::All, Body::Changes(entries));
        }
        if !self.fresh.is_empty() {
            self.flush_at = Some(now + GATHER);
        }
    }

    fn tell_digest(&mut self, now: Instant) {
        let buckets = self.table.digests();
        self.send(Destination::All, Body::Digest { joining: !self.joined, buckets });
        // Nodes that started together drift apart. One that joins asks more often: its first question may have been lost.
        let interval = if self.joined { self.config.digest_interval } else { self.config.join_wait / 3 };
        self.digest_at = Some(now + interval.mul_f64(self.random.random_range(0.8..1.2)));
        let silent = self.config.digest_interval * SILENT_DIGESTS;
        self.peers.retain(|_, peer| now.saturating_duration_since(peer.heard) < silent);
    }

    fn join(&mut self, alone: bool) {
        self.join_by = None;
        if !self.joined {
            self.joined = true;
            self.outputs.push_back(Output::Joined { alone });
        }
    }

    fn merge_all(&mut self, now: Instant, entries: Vec<Sent>) {
        for sent in entries {
            self.merge(now, sent);
        }
    }

    fn merge(&mut self, now: Instant, sent: Sent) {
        let Sent { name, stamp, value, remaining } = sent;
        let ahead = self.clock.observe(now, stamp.logical);
        self.counters.ahead_most_ms =
            self.counters.ahead_most_ms.max(u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX));
        if self.table.get(&name).is_some_and(|entry| entry.stamp >= stamp) {
            self.counters.known += 1;
            return;
        }
        if value.is_some() && !self.room(&name) {
            self.counters.full += 1;
            return;
        }
        self.counters.merged += 1;
        let was_live = self.is_live(&name);
        // Another node took it over: it is not ours to write again.
        self.let_go(&name);
        self.fresh.remove(&name);
        let change = if value.is_some() { Change::Set } else { Change::Removed };
        let state = value.map_or(State::Removed, State::Live);
        self.table.set(name.clone(), Entry { stamp, state, ends: now + remaining });
        if was_live || change == Change::Set {
            self.outputs.push_back(Output::Changed(name, change));
        }
    }

    fn message(&self, body: Body) -> Bytes {
        Message { from: self.clock.owner().clone(), body }.encode()
    }

    fn send(&mut self, to: Destination, body: Body) {
        if self.link {
            let message = self.message(body);
            self.outputs.push_back(Output::Send(to, message));
        }
    }

    /// The stamp of an entry, for those who compare nodes.
    pub fn stamp(&self, kind: Kind, key: &[u8]) -> Option<&Stamp> {
        self.table.get(&Name { kind, key: Bytes::copy_from_slice(key) }).map(|entry| &entry.stamp)
    }
}

#[cfg(test)]
mod tests;
