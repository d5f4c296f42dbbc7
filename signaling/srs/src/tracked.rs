//! A table that remembers which of its entries may have changed.
//!
//! Everything that changes an entry goes through [`Tracked::get_mut`], [`Tracked::insert`] or [`Tracked::remove`]: there is no
//! other way to one, so no change can be forgotten. While nobody wants to know, that costs one comparison.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::ops::Deref;

/// Entries that are remembered; whoever is so far behind begins anew.
const MOST_TOUCHED: usize = 65_536;

/// A map by small keys.
#[derive(Debug)]
pub(crate) struct Tracked<K, V> {
    entries: HashMap<K, V>,
    touched: Option<Touched<K>>,
}

/// Entries that may have changed, each once, in the order in which they first did.
#[derive(Debug)]
struct Touched<K> {
    order: VecDeque<K>,
    known: HashSet<K>,
    overflowed: bool,
}

impl<K: Copy + Eq + Hash> Touched<K> {
    fn note(&mut self, key: K) {
        if self.order.len() >= MOST_TOUCHED {
            self.overflowed = true;
        } else if self.known.insert(key) {
            self.order.push_back(key);
        }
    }
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Tracked<K, V> {
        Tracked { entries: HashMap::new(), touched: None }
    }
}

impl<K: Copy + Eq + Hash, V> Tracked<K, V> {
    /// Remembers changes from now on, with every entry as changed; or remembers nothing.
    pub(crate) fn follow(&mut self, on: bool) {
        self.touched = on.then(|| Touched {
            order: self.entries.keys().copied().collect(),
            known: self.entries.keys().copied().collect(),
            overflowed: false,
        });
    }

    /// An entry that may have changed since it was last named here, or that is gone.
    pub(crate) fn next_touched(&mut self) -> Option<K> {
        let touched = self.touched.as_mut()?;
        let key = touched.order.pop_front()?;
        touched.known.remove(&key);
        Some(key)
    }

    /// True while [`Tracked::next_touched`] has something.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched.as_ref().is_some_and(|touched| !touched.order.is_empty())
    }

    /// True when changes were forgotten, because too many waited.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.touched.as_ref().is_some_and(|touched| touched.overflowed)
    }

    /// Counts an entry among those that changed.
    pub(crate) fn touch(&mut self, key: K) {
        if let Some(touched) = &mut self.touched {
            touched.note(key);
        }
    }

    /// The entry, to be changed.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.touch(*key);
        self.entries.get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.touch(key);
        self.entries.insert(key, value)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.touch(*key);
        self.entries.remove(key)
    }
}

/// To look.
impl<K, V> Deref for Tracked<K, V> {
    type Target = HashMap<K, V>;

    fn deref(&self) -> &HashMap<K, V> {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn touched(table: &mut Tracked<u64, u64>) -> Vec<u64> {
        std::iter::from_fn(|| table.next_touched()).collect()
    }

    #[test]
    fn each_changed_entry_is_named_once_and_those_that_were_looked_at_are_not() {
        let mut table = Tracked::default();
        table.insert(1, 10);
        assert!(!table.is_touched(), "nobody wants to know");
        table.insert(2, 20);
        table.follow(true);
        let mut all = touched(&mut table);
        all.sort_unstable();
        assert_eq!(all, [1, 2], "who begins hears of everything");
        table.insert(3, 30);
        *table.get_mut(&1).unwrap() += 1;
        *table.get_mut(&1).unwrap() += 1;
        assert_eq!(table.get(&2), Some(&20));
        assert_eq!(table.remove(&3), Some(30));
        assert_eq!(touched(&mut table), [3, 1]);
        table.follow(false);
        table.insert(4, 40);
        assert!(touched(&mut table).is_empty());
    }

    #[test]
    fn who_falls_too_far_behind_hears_so() {
        let mut table: Tracked<u64, u64> = Tracked::default();
        table.follow(true);
        for key in 0..=MOST_TOUCHED as u64 {
            table.insert(key, 0);
        }
        assert!(table.has_overflowed());
        table.follow(true);
        assert!(!table.has_overflowed());
    }
}
