//! Records that wait to be kept: the last of each name, bounded, in the order in which the names came.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::health::lock;

/// Names that wait.
const MOST_WAITING: usize = 100_000;

/// A record on its way to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) bytes: Bytes,
    pub(crate) life: Duration,
    /// When the record was made: its lives count from here.
    pub(crate) made: Instant,
}

#[derive(Debug, Default)]
struct Queue {
    records: BTreeMap<u128, Record>,
    order: VecDeque<u128>,
}

#[derive(Debug, Default)]
pub(crate) struct Keeper {
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Keeper {
    /// Puts a record in the place of an older one; `false`: there is no room.
    pub(crate) fn push(&self, id: u128, record: Record) -> bool {
        let mut queue = lock(&self.queue);
        if queue.records.insert(id, record).is_none() {
            if queue.order.len() >= MOST_WAITING {
                queue.records.remove(&id);
                return false;
            }
            queue.order.push_back(id);
        }
        drop(queue);
        self.wake.notify_one();
        true
    }

    /// The next ones, which do not wait here any more.
    pub(crate) fn take(&self, most: usize) -> Vec<(u128, Record)> {
        let mut queue = lock(&self.queue);
        let many = most.min(queue.order.len());
        let ids: Vec<u128> = queue.order.drain(..many).collect();
        ids.into_iter().filter_map(|id| queue.records.remove(&id).map(|record| (id, record))).collect()
    }

    /// Takes back what could not be kept, unless there is a newer one.
    pub(crate) fn give_back(&self, id: u128, record: Record) {
        let Queue { records, order } = &mut *lock(&self.queue);
        if let Entry::Vacant(place) = records.entry(id) {
            place.insert(record);
            order.push_front(id);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        lock(&self.queue).order.len()
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn record(text: &'static str) -> Record {
        let made = Instant::now();
        Record { bytes: Bytes::from_static(text.as_bytes()), life: Duration::from_secs(1), made }
    }

    #[test]
    fn the_last_record_of_a_name_is_kept_and_what_failed_does_not_replace_it() {
        let keeper = Keeper::default();
        assert!(keeper.push(1, record("old")) && keeper.push(2, record("two")) && keeper.push(1, record("new")));
        let taken = keeper.take(1);
        assert_eq!((taken[0].0, &taken[0].1.bytes[..]), (1, &b"new"[..]));
        keeper.push(1, record("newest"));
        keeper.give_back(1, taken[0].1.clone());
        keeper.give_back(3, record("three"));
        let texts: Vec<Bytes> = keeper.take(9).into_iter().map(|(_, record)| record.bytes).collect();
        assert_eq!(texts, ["three", "two", "newest"]);
        assert_eq!(keeper.waiting(), 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let keeper = Keeper::default();
        for id in 0..MOST_WAITING as u128 {
            assert!(keeper.push(id, record("x")));
        }
        assert!(!keeper.push(u128::MAX, record("x")));
        assert!(keeper.push(0, record("y")));
        assert_eq!(keeper.waiting(), MOST_WAITING);
    }
}
