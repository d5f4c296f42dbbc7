//! Names and entries.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::kind::Kind;
use crate::stamp::Stamp;

/// Longest key, in bytes.
pub const MOST_KEY_BYTES: usize = 512;
/// Longest value, in bytes.
pub const MOST_VALUE_BYTES: usize = 16 << 10;

/// What an entry is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The kind.
    pub kind: Kind,
    /// The key, opaque.
    pub key: Bytes,
}

impl Name {
    /// A number for the name, the same on every node and in every version: FNV-1a of 128 bits over kind and key. It
    /// spreads names and tells them apart in an exchange; nodes of one cluster do not attack one another with it.
    pub fn id(&self) -> u128 {
        fnv(fnv(FNV_START, &[self.kind.number()]), &self.key)
    }

    /// The bucket it is in.
    pub fn bucket(&self) -> u16 {
        let buckets = self.kind.buckets();
        let among = u64::from(buckets.end - buckets.start);
        buckets.start + u16::try_from(mixed(self.id()) % among).unwrap_or(0)
    }
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stamp: Stamp,
    pub(crate) state: State,
    /// When it goes on to its next state.
    pub(crate) ends: Instant,
}

/// Live -> removed -> spent -> nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// There, with its value.
    Live(Bytes),
    /// Removed, or its life is over: a tombstone.
    Removed,
    /// A tombstone whose life is over. It is not sent and not in the digest; it only keeps a copy that another node holds a
    /// moment longer from coming back, and then again to that one, for ever.
    Spent,
}

impl Entry {
    /// What it adds to the digest of its bucket.
    pub(crate) fn digest(&self, id: u128) -> u64 {
        if self.state == State::Spent {
            return 0;
        }
        let stamp = &self.stamp;
        let mut sum = fnv(FNV_START, &id.to_be_bytes());
        for part in [stamp.logical, stamp.owner.incarnation, stamp.sequence] {
            sum = fnv(sum, &part.to_be_bytes());
        }
        sum = fnv(sum, stamp.owner.node.as_str().as_bytes());
        // Never the 0 of nothing.
        mixed(sum).max(1)
    }
}

/// A live entry as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Who wrote it, and when in the order of writes.
    pub stamp: Stamp,
    /// How long it still lives unless it is written again.
    pub remaining: Duration,
}

const FNV_START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

fn fnv(mut sum: u128, bytes: &[u8]) -> u128 {
    for byte in bytes {
        sum = (sum ^ u128::from(*byte)).wrapping_mul(FNV_PRIME);
    }
    sum
}

/// Half as long, and every bit depends on all: FNV alone leaves short keys close together.
fn mixed(sum: u128) -> u64 {
    let half = |part: u128| u64::try_from(part & u128::from(u64::MAX)).unwrap_or(0);
    let mut mix = half(sum >> 64) ^ half(sum);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        mix = (mix ^ (mix >> 33)).wrapping_mul(factor);
    }
    mix ^ (mix >> 33)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn ids_are_those_of_fnv_and_never_change() {
        // The published vector for "a".
        assert_eq!(fnv(FNV_START, b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        let name = Name { kind: Kind::Registration, key: Bytes::from_static(b"sip:alice@example.com") };
        assert_eq!(name.id(), fnv(FNV_START, b"\x01sip:alice@example.com"));
    }

    #[test]
    fn names_spread_over_the_buckets_of_their_kind() {
        for (kind, long) in Kind::ALL.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let mut filled: BTreeMap<u16, usize> = BTreeMap::new();
            let buckets = kind.buckets().len();
            for number in 0..buckets * 50 {
                let key = if long { format!("sip:{number}@example.com") } else { number.to_string() };
                let name = Name { kind, key: key.into() };
                assert!(kind.buckets().contains(&name.bucket()));
                *filled.entry(name.bucket()).or_default() += 1;
            }
            assert_eq!(filled.len(), buckets);
            assert!(filled.values().all(|count| (10..150).contains(count)), "{kind:?} {filled:?}");
        }
    }
}
