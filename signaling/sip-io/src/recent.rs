//! A map that forgets what was not used lately, at a cost that does not depend on what it holds.
//!
//! Two generations: what is used moves to the younger one; when that one is full
//! (or old, if the caller says so) the older one is dropped as a whole. An entry
//! survives at least `room / 2` newer ones.

use std::collections::HashMap;
use std::hash::Hash;

/// At most `room` entries.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    room: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(room: usize) -> Recent<K, V> {
        Recent { room: room.max(2), young: HashMap::new(), old: HashMap::new() }
    }

    /// The entry of `key`, which counts as used; made when there is none.
    pub(crate) fn get_or(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key).unwrap_or_else(make);
            self.make_room();
            return self.young.entry(key).or_insert(value);
        }
        self.young.entry(key).or_insert_with(make)
    }

    /// Drops what was not used since the last time.
    pub(crate) fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    fn make_room(&mut self) {
        if self.young.len() >= self.room / 2 {
            self.age();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut map = Recent::new(100);
        map.get_or(0, || "kept");
        for n in 1..100_000 {
            map.get_or(n, || "passing");
            assert_eq!(*map.get_or(0, || "made again"), "kept");
            assert!(map.len() <= 101, "{}", map.len());
        }
        assert_eq!(*map.get_or(1, || "made again"), "made again");
    }

    #[test]
    fn two_ages_forget() {
        let mut map = Recent::new(10);
        map.get_or(1, || "first");
        map.age();
        assert_eq!(*map.get_or(1, || "second"), "first", "one age later it is still there, and used again");
        map.age();
        map.age();
        assert_eq!(*map.get_or(1, || "second"), "second");
    }
}
