//! Nonce counts that were used (RFC 7616 3.4: `nc`): each may come once.
//!
//! A nonce has a window of the last 64 counts, so requests sent at once may overtake each other. Nonces live in two
//! generations that change when a nonce's lifetime is over: no walk, and what is dropped is too old to be used. When more
//! nonces are in use than fit, the older half is dropped early and every nonce of that time which is not remembered
//! counts as stale: it costs its owner one more challenge.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Nonces of one generation.
const MOST: usize = 200_000;

/// Counts of one nonce.
#[derive(Debug, Clone, Copy)]
struct Window {
    highest: u32,
    /// Bit n: `highest - n` was used.
    used: u64,
}

/// Counts of all nonces in use.
#[derive(Debug)]
pub(super) struct Replay {
    current: HashMap<u64, Window>,
    previous: HashMap<u64, Window>,
    since: Option<Instant>,
    lifetime: Duration,
    /// Nonces up to this time were forgotten early.
    forgotten: Option<u64>,
    most: usize,
}

impl Replay {
    pub(super) fn new(lifetime: Duration) -> Replay {
        Replay { current: HashMap::new(), previous: HashMap::new(), since: None, lifetime, forgotten: None, most: MOST }
    }

    pub(super) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = self.lifetime.max(lifetime);
    }

    /// True the first time that `count` comes with a nonce.
    pub(super) fn admit(&mut self, now: Instant, id: u64, issued: u64, unix_s: u64, count: u32) -> bool {
        let since = *self.since.get_or_insert(now);
        // One second more: times of nonces are whole seconds.
        if now.saturating_duration_since(since) > self.lifetime + Duration::from_secs(1) {
            self.previous = std::mem::take(&mut self.current);
            self.since = Some(now);
        }
        let known = self.current.get(&id).or_else(|| self.previous.get(&id)).copied();
        let window = match known {
            None if self.forgotten.is_some_and(|forgotten| issued <= forgotten) => return false,
            None => Window { highest: count, used: 1 },
            Some(Window { highest, used }) if count > highest => {
                let shift = count - highest;
                Window { highest: count, used: used.checked_shl(shift).unwrap_or(0) | 1 }
            }
            Some(Window { highest, used }) => {
                let bit = 1_u64.checked_shl(highest - count).unwrap_or(0);
                if bit == 0 || used & bit != 0 {
                    return false;
                }
                Window { highest, used: used | bit }
            }
        };
        if self.current.len() >= self.most && !self.current.contains_key(&id) {
            self.forgotten = Some(unix_s & 0xffff_ffff);
            self.previous = std::mem::take(&mut self.current);
            self.since = Some(now);
        }
        self.current.insert(id, window);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_comes_once_and_may_be_overtaken() {
        let now = Instant::now();
        let mut replay = Replay::new(Duration::from_secs(300));
        let mut admit = |id, count| replay.admit(now, id, 1_000, 1_000, count);
        assert!(admit(1, 1) && !admit(1, 1));
        assert!(admit(1, 5) && admit(1, 3) && !admit(1, 3) && !admit(1, 5));
        assert!(admit(2, 1));
        assert!(admit(1, 100) && admit(1, 37) && !admit(1, 36));
        assert!(admit(1, u32::MAX) && !admit(1, 100));
    }

    #[test]
    fn counts_are_remembered_for_as_long_as_their_nonce_lives() {
        let start = Instant::now();
        let lifetime = Duration::from_secs(300);
        let mut replay = Replay::new(lifetime);
        for second in 0..2_000_u64 {
            let now = start + Duration::from_secs(second);
            assert!(replay.admit(now, second, second, second, 1));
            let oldest = second.saturating_sub(300);
            assert!(!replay.admit(now, oldest, oldest, second, 1), "the nonce of second {oldest} at {second}");
        }
        assert!(replay.current.len() + replay.previous.len() <= 604);
    }

    #[test]
    fn when_there_are_too_many_the_forgotten_ones_are_stale_and_not_free() {
        let now = Instant::now();
        let mut replay = Replay::new(Duration::from_secs(300));
        replay.most = 10;
        for id in 0..35 {
            assert!(replay.admit(now, id, 1_000 + id, 1_000 + id, 1));
        }
        assert!((0..35).all(|id| !replay.admit(now, id, 1_000 + id, 1_035, 1)));
        assert!(replay.current.len() + replay.previous.len() <= 20);
    }
}
