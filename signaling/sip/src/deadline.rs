//! One queue of deadlines a layer. Setting, moving and cancelling cost the same
//! whatever waits; looking costs nothing while nothing is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hash;
use std::time::Instant;

use crate::ids::IdMap;

/// Deadlines by key; each key has at most one. Keys are of our own making (see [`crate::ids`]).
#[derive(Debug)]
pub struct DeadlineQueue<K> {
    heap: BinaryHeap<Reverse<(Instant, u64, K)>>,
    live: IdMap<K, (Instant, u64)>,
    next: u64,
}

impl<K: Copy + Eq + Hash + Ord> Default for DeadlineQueue<K> {
    fn default() -> DeadlineQueue<K> {
        DeadlineQueue { heap: BinaryHeap::new(), live: IdMap::default(), next: 0 }
    }
}

impl<K: Copy + Eq + Hash + Ord> DeadlineQueue<K> {
    /// An empty queue with room for `count` deadlines.
    pub fn with_capacity(count: usize) -> DeadlineQueue<K> {
        DeadlineQueue {
            heap: BinaryHeap::with_capacity(count),
            live: IdMap::with_capacity_and_hasher(count, Default::default()),
            next: 0,
        }
    }

    /// Sets the deadline of `key`, in place of an earlier one.
    pub fn set(&mut self, key: K, at: Instant) {
        self.next += 1;
        self.live.insert(key, (at, self.next));
        self.heap.push(Reverse((at, self.next, key)));
        // Entries of moved deadlines are dropped when they outnumber the live ones.
        if self.heap.len() > 64 && self.heap.len() > 4 * self.live.len() {
            let live = &self.live;
            self.heap.retain(|Reverse((_, id, key))| live.get(key).is_some_and(|(_, current)| current == id));
        }
    }

    /// Forgets the deadline of `key`.
    pub fn cancel(&mut self, key: &K) {
        self.live.remove(key);
    }

    /// The earliest deadline.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, id, key))) = self.heap.peek() {
            if self.live.get(key).is_some_and(|(_, current)| current == id) {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes a key whose deadline has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next_deadline()? > now {
            return None;
        }
        let Reverse((_, _, key)) = self.heap.pop()?;
        self.live.remove(&key);
        Some(key)
    }

    /// Deadlines that wait.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_come_in_order_and_only_the_latest_of_a_key_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = DeadlineQueue::default();
        queue.set('a', at(30));
        queue.set('b', at(10));
        queue.set('a', at(20));
        queue.set('c', at(5));
        queue.cancel(&'c');
        assert_eq!(queue.next_deadline(), Some(at(10)));
        assert_eq!(queue.pop_due(at(9)), None);
        assert_eq!(queue.pop_due(at(50)), Some('b'));
        assert_eq!(queue.pop_due(at(50)), Some('a'));
        assert_eq!(queue.pop_due(at(50)), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn moving_one_deadline_for_ever_takes_no_memory() {
        let start = Instant::now();
        let mut queue = DeadlineQueue::default();
        for n in 0..100_000 {
            queue.set(1, start + Duration::from_millis(n));
        }
        assert!(queue.heap.len() < 200);
    }
}
