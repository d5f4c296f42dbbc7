//! Entries by bucket, with a digest of each bucket and two deadline queues.
//!
//! ```text
//! Live --removed, or its life is over--> Removed --the longest life of its kind, and the grace--> Spent --grace--> nothing
//! ```
//!
//! An entry whose life is over leaves a tombstone too, under its own stamp: it may have been a short one in the place of
//! a longer one, of which another node has a copy still.
//!
//! Live entries are bounded by kind, what is left of entries by one number for all: when it is met, what ends soonest goes
//! first. The digest of a bucket is the exclusive or of its entries', so a change costs one entry's work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::entry::{Entry, Name, State};
use crate::kind::{BUCKETS, Kind};

#[derive(Debug, Default)]
struct Bucket {
    digest: u64,
    entries: BTreeMap<Name, Entry>,
}

/// All entries of a node.
#[derive(Debug)]
pub(crate) struct Table {
    buckets: Vec<Bucket>,
    live: BTreeSet<(Instant, Name)>,
    left: BTreeSet<(Instant, Name)>,
    counts: [usize; Kind::ALL.len()],
    most_left: usize,
    left_early: u64,
}

/// What became of an entry whose deadline passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was live.
    Expired(Name),
    /// A tombstone, or what is left of a life.
    Forgotten,
}

impl Table {
    pub(crate) fn new(most_left: usize) -> Table {
        Table {
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            live: BTreeSet::new(),
            left: BTreeSet::new(),
            counts: [0; Kind::ALL.len()],
            most_left,
            left_early: 0,
        }
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Entry> {
        self.buckets.get(usize::from(name.bucket()))?.entries.get(name)
    }

    /// The entries of a bucket.
    pub(crate) fn bucket(&self, number: u16) -> impl Iterator<Item = (&Name, &Entry)> {
        self.buckets.get(usize::from(number)).into_iter().flat_map(|bucket| &bucket.entries)
    }

    /// The digests of all buckets.
    pub(crate) fn digests(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.digest).collect()
    }

    /// Live entries of a kind.
    pub(crate) fn live(&self, kind: Kind) -> usize {
        self.counts.get(kind.place()).copied().unwrap_or(0)
    }

    /// Tombstones and what is left of lives.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    /// Of those, how many had to go before their time.
    pub(crate) fn left_early(&self) -> u64 {
        self.left_early
    }

    /// Puts an entry in the place of what is there.
    pub(crate) fn set(&mut self, name: Name, entry: Entry) {
        self.take(&name);
        if matches!(entry.state, State::Live(_)) {
            self.live.insert((entry.ends, name.clone()));
            if let Some(count) = self.counts.get_mut(name.kind.place()) {
                *count += 1;
            }
        } else {
            self.left.insert((entry.ends, name.clone()));
        }
        if let Some(bucket) = self.buckets.get_mut(usize::from(name.bucket())) {
            bucket.digest ^= entry.digest(name.id());
            bucket.entries.insert(name, entry);
        }
        while self.left.len() > self.most_left {
            let Some((_, soonest)) = self.left.first().cloned() else { break };
            self.take(&soonest);
            self.left_early += 1;
        }
    }

    /// The next deadline of all.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [&self.live, &self.left].into_iter().filter_map(|queue| queue.first().map(|(at, _)| *at)).min()
    }

    /// Ends one entry whose deadline has passed. `tombstone`: how long a tombstone of a kind lives.
    pub(crate) fn end(&mut self, now: Instant, tombstone: impl Fn(Kind) -> Duration, grace: Duration) -> Option<Ended> {
        if let Some((_, name)) = self.live.first().filter(|(at, _)| *at <= now).cloned() {
            let entry = self.take(&name)?;
            self.set(name.clone(), Entry { state: State::Removed, ends: now + tombstone(name.kind), ..entry });
            return Some(Ended::Expired(name));
        }
        let (_, name) = self.left.first().filter(|(at, _)| *at <= now).cloned()?;
        let entry = self.take(&name)?;
        if entry.state == State::Removed {
            self.set(name, Entry { state: State::Spent, ends: now + grace, ..entry });
        }
        Some(Ended::Forgotten)
    }

    fn take(&mut self, name: &Name) -> Option<Entry> {
        let bucket = self.buckets.get_mut(usize::from(name.bucket()))?;
        let entry = bucket.entries.remove(name)?;
        bucket.digest ^= entry.digest(name.id());
        let at = (entry.ends, name.clone());
        if self.live.remove(&at) {
            if let Some(count) = self.counts.get_mut(name.kind.place()) {
                *count -= 1;
            }
        } else {
            self.left.remove(&at);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
    use super::*;
    use crate::stamp::{Identity, NodeId, Stamp};
    use bytes::Bytes;

    const GRACE: Duration = Duration::from_secs(60);

    fn name(key: &str) -> Name {
        Name { kind: Kind::Load, key: key.to_owned().into() }
    }

    fn entry(sequence: u64, state: State, ends: Instant) -> Entry {
        let owner = Identity { node: NodeId::new("a").unwrap(), incarnation: 1 };
        Entry { stamp: Stamp { logical: sequence, owner, sequence }, state, ends }
    }

    #[test]
    fn an_entry_is_live_then_a_tombstone_then_spent_then_gone() {
        let (now, mut table) = (Instant::now(), Table::new(10));
        let empty = table.digests();
        table.set(name("w1"), entry(1, State::Live(Bytes::new()), now + GRACE));
        assert_ne!(table.digests(), empty);
        assert_eq!((table.live(Kind::Load), table.left(), table.deadline()), (1, 0, Some(now + GRACE)));
        let alive = table.digests();
        let end = |table: &mut Table, graces| table.end(now + GRACE * graces, |_| GRACE * 2, GRACE);
        assert_eq!(end(&mut table, 0), None);
        assert_eq!(end(&mut table, 1), Some(Ended::Expired(name("w1"))));
        assert_eq!(table.get(&name("w1")).unwrap().state, State::Removed);
        assert_eq!(table.digests(), alive, "nodes that end it a moment apart do not differ");
        assert_eq!((table.live(Kind::Load), table.left()), (0, 1));
        assert_eq!(end(&mut table, 2), None);
        assert_eq!(end(&mut table, 3), Some(Ended::Forgotten));
        assert_eq!(table.get(&name("w1")).unwrap().state, State::Spent);
        assert_eq!(table.digests(), empty);
        assert_eq!(end(&mut table, 4), Some(Ended::Forgotten));
        assert_eq!((table.left(), table.deadline()), (0, None));
    }

    #[test]
    fn the_same_entries_give_the_same_digest_in_any_order() {
        let now = Instant::now();
        let (mut one, mut other) = (Table::new(10), Table::new(10));
        for number in 0..20 {
            one.set(name(&number.to_string()), entry(number, State::Live(Bytes::new()), now));
            other.set(name(&(19 - number).to_string()), entry(90, State::Live(Bytes::new()), now));
        }
        assert_ne!(one.digests(), other.digests());
        for number in (0..20).rev() {
            other.set(name(&number.to_string()), entry(number, State::Live(Bytes::new()), now + GRACE));
        }
        assert_eq!(one.digests(), other.digests());
    }

    #[test]
    fn tombstones_are_bounded_and_what_ends_soonest_goes() {
        let (now, mut table) = (Instant::now(), Table::new(2));
        for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
            let ends = now + GRACE * u32::try_from(number).unwrap();
            table.set(name(key), entry(1, State::Removed, ends));
        }
        assert_eq!((table.left(), table.left_early()), (2, 1));
        assert!(table.get(&name("a")).is_none() && table.get(&name("c")).is_some());
    }
}
