//! Maps by numbers that this process makes itself: ids that count up, hashes under a secret.
//!
//! Nobody outside chooses such keys, so a multiplication spreads them well enough; a hash
//! that withstands chosen keys would cost more than the rest of the look-up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys nobody outside chooses.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Spreads numbers. Not for anything that comes from the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdHasher(u64);

/// Odd, with its bits well mixed.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // Tables look at the lowest and at the highest bits.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(SPREAD);
    }

    #[allow(clippy::cast_possible_truncation)]
    fn write_u128(&mut self, number: u128) {
        self.write_u64((number >> 64) as u64);
        self.write_u64(number as u64);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    #[allow(clippy::cast_sign_loss)]
    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;
    use std::hash::{BuildHasher, Hash};

    fn spread(keys: impl Iterator<Item = impl Hash>) -> usize {
        let build = BuildHasherDefault::<IdHasher>::default();
        let mut buckets = vec![0_usize; 4_096];
        let mut tags = [0_usize; 128];
        for key in keys {
            let hash = build.hash_one(key);
            buckets[(hash & 0xfff) as usize] += 1;
            tags[(hash >> 57) as usize] += 1;
        }
        let (least, most) = (*tags.iter().min().unwrap(), *tags.iter().max().unwrap());
        assert!(most < 4 * least.max(1), "tags {least} to {most}");
        *buckets.iter().max().unwrap()
    }

    #[test]
    fn numbers_that_count_up_are_spread() {
        // 16 a bucket on average.
        assert!(spread(0..65_536_u64) < 48);
        assert!(spread((0..16_384_u64).flat_map(|id| (0..4_u8).map(move |timer| (id, timer)))) < 48);
        assert!(spread((0..65_536_u64).map(|id| id * 1_024)) < 48);
        assert!(spread((0..65_536_u64).map(|id| u128::from(id) << 64)) < 48);
    }
}
