//! Wrong passwords are counted by name and source, whether the name is there or not. Beyond [`LIMIT`] within a minute or
//! two nothing is checked for that pair any more; a stranger who guesses does not lock the user's own phone out.
//!
//! Nor does one who writes the phone's address into his datagrams: answers to a nonce that was given to their source are
//! counted apart from all others, and the forger never sees such a nonce.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures before a pair is shut out.
pub(super) const LIMIT: u32 = 10;
/// How long they count: one to two of these.
const WINDOW: Duration = Duration::from_secs(60);
/// Pairs of one generation.
const MOST: usize = 20_000;

/// Failures of one pair, in two generations.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    current: HashMap<(u64, IpAddr), u32>,
    previous: HashMap<(u64, IpAddr), u32>,
    since: Option<Instant>,
    hasher: RandomState,
}

impl Throttle {
    pub(super) fn is_blocked(&mut self, now: Instant, name: &str, source: IpAddr, is_own: bool) -> bool {
        self.turn(now);
        let pair = self.pair(name, source, is_own);
        let count = |generation: &HashMap<_, u32>| generation.get(&pair).copied().unwrap_or(0);
        count(&self.current) + count(&self.previous) >= LIMIT
    }

    pub(super) fn note_failure(&mut self, now: Instant, name: &str, source: IpAddr, is_own: bool) {
        self.turn(now);
        if self.current.len() >= MOST {
            self.previous = std::mem::take(&mut self.current);
            self.since = Some(now);
        }
        *self.current.entry(self.pair(name, source, is_own)).or_default() += 1;
    }

    pub(super) fn note_success(&mut self, now: Instant, name: &str, source: IpAddr, is_own: bool) {
        self.turn(now);
        if self.current.is_empty() && self.previous.is_empty() {
            return;
        }
        let pair = self.pair(name, source, is_own);
        self.current.remove(&pair);
        self.previous.remove(&pair);
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let past = now.saturating_duration_since(since);
        if past < WINDOW {
            return;
        }
        let last = std::mem::take(&mut self.current);
        self.previous = if past < 2 * WINDOW { last } else { HashMap::new() };
        self.since = Some(now);
    }

    /// A host has a whole /64 of IPv6 addresses.
    fn pair(&self, name: &str, source: IpAddr, is_own: bool) -> (u64, IpAddr) {
        let source = match source.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        };
        (self.hasher.hash_one((name, is_own)), source)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pair_is_shut_out_after_ten_failures_and_let_in_again_after_two_minutes() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let (here, there) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut throttle = Throttle::default();
        for n in 0..10 {
            assert!(!throttle.is_blocked(at(n), "alice", here, true));
            throttle.note_failure(at(n), "alice", here, true);
        }
        assert!(throttle.is_blocked(at(10), "alice", here, true) && throttle.is_blocked(at(61), "alice", here, true));
        assert!(!throttle.is_blocked(at(61), "alice", there, true) && !throttle.is_blocked(at(61), "bob", here, true));
        assert!(!throttle.is_blocked(at(61), "alice", here, false));
        assert!(!throttle.is_blocked(at(122), "alice", here, true));
    }

    #[test]
    fn a_right_password_wipes_the_slate_and_memory_has_a_bound() {
        let start = Instant::now();
        let source = "2001:db8::1".parse().unwrap();
        let mut throttle = Throttle::default();
        (0..10).for_each(|_| throttle.note_failure(start, "alice", source, true));
        assert!(throttle.is_blocked(start, "alice", "2001:db8::2".parse().unwrap(), true));
        throttle.note_success(start, "alice", source, true);
        assert!(!throttle.is_blocked(start, "alice", source, true));
        (0..100_000).for_each(|n| throttle.note_failure(start, &n.to_string(), source, true));
        assert!(throttle.current.len() + throttle.previous.len() <= 2 * MOST);
    }
}
