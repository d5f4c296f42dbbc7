//! Which recording goes next: oldest first, fair between tenants, none held up by another's trouble.
//!
//! A decision table without input or output; time comes in.
//!
//! * Within a tenant the oldest recording that is due goes first (ids are
//!   UUIDv7: their order is that of the calls).
//! * Between tenants the one with the fewest uploads under way goes first, then
//!   the one that was served longest ago.
//! * A failed recording waits: exponential backoff with full jitter, from a
//!   second to five minutes, for ever.
//! * A tenant whose last [`TRIPPED`] attempts all failed is *failing*: its store
//!   is the likely cause. It is tried with one recording at a time, with a
//!   backoff of its own, outside the `concurrency` slots, so that neither a
//!   store that refuses nor one that never answers takes slots from the
//!   others. One success and everything of it is due at once.
//! * With several tenants none may fill the last quarter of the slots: a store
//!   that has just stopped answering leaves room until it is known to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, RngExt as _};
use tokio::time::Instant;
use uuid::Uuid;

use ferric_media::timestamp::Timestamp;

/// Attempts in a row that fail before a tenant's store counts as failing.
pub(crate) const TRIPPED: u32 = 3;
/// First and longest wait of a recording.
const RECORDING_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// First and longest wait between tries of a failing store.
const STORE_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A recording's place in the queue.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) bytes: u64,
    pub(crate) ended_at: Timestamp,
    attempts: u32,
    wait_until: Option<Instant>,
    under_way: bool,
}

/// One tenant's recordings.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) entries: BTreeMap<Uuid, Entry>,
    due: BTreeSet<Uuid>,
    later: BTreeSet<(Instant, Uuid)>,
    pub(crate) under_way: usize,
    /// Bytes of all entries.
    pub(crate) bytes: u64,
    failures: u32,
    tries_at: Option<Instant>,
    served: u64,
    pub(crate) last_error: Option<Arc<str>>,
}

impl Lane {
    /// Whether its store counts as failing.
    pub(crate) fn failing(&self) -> bool {
        self.failures >= TRIPPED
    }

    fn wake(&mut self, now: Instant) {
        while let Some((at, id)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, id));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.wait_until = None;
                self.due.insert(id);
            }
        }
    }

    fn all_due(&mut self) {
        for (_, id) in std::mem::take(&mut self.later) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.wait_until = None;
                self.due.insert(id);
            }
        }
    }
}

/// The queue of a node.
#[derive(Debug)]
pub(crate) struct UploadQueue {
    pub(crate) lanes: BTreeMap<Arc<str>, Lane>,
    concurrency: usize,
    limit: usize,
    count: usize,
    turns: u64,
    /// Recordings were left out because the queue was full; they are in the spool.
    pub(crate) overflowed: bool,
}

impl UploadQueue {
    pub(crate) fn new(concurrency: usize, limit: usize) -> UploadQueue {
        UploadQueue {
            lanes: BTreeMap::new(),
            concurrency: concurrency.max(1),
            limit: limit.max(1),
            count: 0,
            turns: 0,
            overflowed: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Half empty again: time to look into the spool for what was left out.
    pub(crate) fn has_room(&self) -> bool {
        self.count * 2 <= self.limit
    }

    pub(crate) fn push(&mut self, tenant: &str, id: Uuid, bytes: u64, ended_at: Timestamp) {
        if self.lanes.get(tenant).is_some_and(|lane| lane.entries.contains_key(&id)) {
            return;
        }
        if self.count >= self.limit {
            self.overflowed = true;
            return;
        }
        let lane = self.lanes.entry(tenant.into()).or_default();
        let entry = Entry { bytes, ended_at, attempts: 0, wait_until: None, under_way: false };
        lane.entries.insert(id, entry);
        lane.bytes += bytes;
        lane.due.insert(id);
        self.count += 1;
    }

    /// Takes the next recording to upload, if one may start now.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(Arc<str>, Uuid)> {
        let busy: usize = self.lanes.values().filter(|lane| !lane.failing()).map(|lane| lane.under_way).sum();
        let share = if self.lanes.len() > 1 { (self.concurrency * 3 / 4).max(1) } else { self.concurrency };
        let mut best: Option<(usize, u64, Arc<str>)> = None;
        for (tenant, lane) in &mut self.lanes {
            lane.wake(now);
            let may_start = if lane.failing() {
                lane.under_way == 0 && lane.tries_at.is_none_or(|at| at <= now)
            } else {
                busy < self.concurrency && lane.under_way < share
            };
            if lane.due.is_empty() || !may_start {
                continue;
            }
            let rank = (lane.under_way, lane.served, Arc::clone(tenant));
            if best.as_ref().is_none_or(|best| rank < *best) {
                best = Some(rank);
            }
        }
        let (_, _, tenant) = best?;
        self.turns += 1;
        let lane = self.lanes.get_mut(&tenant)?;
        let id = lane.due.pop_first()?;
        lane.entries.get_mut(&id)?.under_way = true;
        lane.under_way += 1;
        lane.served = self.turns;
        Some((tenant, id))
    }

    /// When to ask again, if nothing else happens.
    pub(crate) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let lanes = self.lanes.values().filter(|lane| lane.under_way == 0 || !lane.failing());
        let wakes = lanes.filter_map(|lane| {
            let tries_at = lane.tries_at.filter(|at| lane.failing() && *at > now);
            let due = (!lane.due.is_empty()).then_some(tries_at).flatten();
            let later = lane.later.first().map(|(at, _)| tries_at.map_or(*at, |tries_at| tries_at.max(*at)));
            due.into_iter().chain(later).min()
        });
        wakes.min()
    }

    /// It is in the store, or out of the way.
    pub(crate) fn done(&mut self, tenant: &str, id: Uuid, stored: bool) {
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        if let Some(entry) = lane.entries.remove(&id) {
            self.count -= 1;
            lane.bytes = lane.bytes.saturating_sub(entry.bytes);
            lane.under_way -= usize::from(entry.under_way);
            lane.due.remove(&id);
            if let Some(at) = entry.wait_until {
                lane.later.remove(&(at, id));
            }
        }
        if stored {
            if lane.failing() {
                lane.all_due();
            }
            lane.failures = 0;
            lane.tries_at = None;
            lane.last_error = None;
        }
        if lane.entries.is_empty() && lane.failures == 0 {
            self.lanes.remove(tenant);
        }
    }

    /// The attempt failed; when it will be tried again.
    pub(crate) fn failed<R: Rng + ?Sized>(
        &mut self,
        tenant: &str,
        id: Uuid,
        error: &str,
        now: Instant,
        rng: &mut R,
    ) -> Option<Instant> {
        let lane = self.lanes.get_mut(tenant)?;
        let entry = lane.entries.get_mut(&id)?;
        let error: Arc<str> = error.into();
        entry.attempts = entry.attempts.saturating_add(1);
        lane.under_way -= usize::from(std::mem::take(&mut entry.under_way));
        let at = now + jittered(RECORDING_WAIT, entry.attempts, rng);
        entry.wait_until = Some(at);
        lane.later.insert((at, id));
        lane.failures = lane.failures.saturating_add(1);
        lane.last_error = Some(error);
        lane.tries_at = lane.failing().then(|| now + jittered(STORE_WAIT, lane.failures - TRIPPED + 1, rng));
        Some(at)
    }

    /// Everything, or one recording, is due at once.
    pub(crate) fn retry_now(&mut self, only: Option<Uuid>) {
        for lane in self.lanes.values_mut() {
            match only {
                None => {
                    lane.all_due();
                    lane.tries_at = None;
                }
                Some(id) => {
                    let Some(entry) = lane.entries.get_mut(&id) else { continue };
                    if let Some(at) = entry.wait_until.take() {
                        lane.later.remove(&(at, id));
                        lane.due.insert(id);
                        lane.tries_at = None;
                    }
                }
            }
        }
    }
}

/// Full jitter: anything between nothing and the doubled wait, but never so short that it spins.
fn jittered<R: Rng + ?Sized>((first, longest): (Duration, Duration), attempt: u32, rng: &mut R) -> Duration {
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(longest);
    let ms = u64::try_from(doubled.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rng.random_range(ms / 10..=ms))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    fn queue(recordings: &[(&str, u128)]) -> UploadQueue {
        let mut queue = UploadQueue::new(4, 100);
        for (tenant, number) in recordings {
            queue.push(tenant, Uuid::from_u128(*number), 10, Timestamp::default());
        }
        queue
    }

    fn starts(queue: &mut UploadQueue, now: Instant) -> Vec<u128> {
        std::iter::from_fn(|| queue.next(now)).map(|(_, id)| id.as_u128()).collect()
    }

    #[test]
    fn oldest_first_and_no_more_than_the_slots() {
        let now = Instant::now();
        let mut queue = queue(&[("a", 5), ("a", 1), ("a", 3), ("a", 2), ("a", 4), ("a", 1)]);
        assert_eq!(queue.len(), 5);
        assert_eq!(starts(&mut queue, now), [1, 2, 3, 4]);
        queue.done("a", Uuid::from_u128(2), true);
        assert_eq!(starts(&mut queue, now), [5]);
    }

    #[test]
    fn tenants_share_the_slots_whatever_their_number_of_recordings() {
        let now = Instant::now();
        let mut queue = queue(&[("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 11), ("c", 21)]);
        assert_eq!(starts(&mut queue, now), [1, 11, 21, 2]);
        for id in [1, 11, 21, 2] {
            let tenant = if id < 10 {
                "a"
            } else if id < 20 {
                "b"
            } else {
                "c"
            };
            queue.done(tenant, Uuid::from_u128(id), true);
        }
        assert_eq!(starts(&mut queue, now), [3, 4]);
    }

    #[test]
    fn a_refused_recording_waits_and_the_next_goes() {
        let mut rng = SmallRng::seed_from_u64(1);
        let now = Instant::now();
        let mut queue = queue(&[("a", 1), ("a", 2)]);
        queue.next(now);
        let again = queue.failed("a", Uuid::from_u128(1), "500", now, &mut rng).unwrap();
        assert!(again > now && again <= now + Duration::from_secs(1));
        assert_eq!(queue.next(now).unwrap().1, Uuid::from_u128(2));
        assert_eq!(queue.next_wake(now), Some(again));
        queue.done("a", Uuid::from_u128(2), true);
        assert_eq!(queue.next(again).unwrap().1, Uuid::from_u128(1));
    }

    #[test]
    fn a_failing_store_is_tried_one_at_a_time_and_takes_no_slot() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut now = Instant::now();
        let mut queue = UploadQueue::new(4, 100);
        for number in 1..=20 {
            queue.push("down", Uuid::from_u128(number), 1, Timestamp::default());
            queue.push("up", Uuid::from_u128(100 + number), 1, Timestamp::default());
        }
        let first: Vec<_> = std::iter::from_fn(|| queue.next(now)).collect();
        assert_eq!(first.iter().filter(|(tenant, _)| tenant.as_ref() == "down").count(), 2);
        for (tenant, id) in &first {
            if tenant.as_ref() == "up" {
                queue.done("up", *id, true)
            } else {
                queue.failed("down", *id, "refused", now, &mut rng).map(drop).unwrap()
            }
        }
        for (tenant, id) in std::iter::from_fn(|| queue.next(now)).collect::<Vec<_>>() {
            if tenant.as_ref() == "up" {
                queue.done("up", id, true)
            } else {
                queue.failed("down", id, "refused", now, &mut rng).map(drop).unwrap()
            }
        }
        assert!(queue.lanes["down"].failing());
        for _ in 0..200 {
            now += Duration::from_secs(1);
            for (tenant, id) in std::iter::from_fn(|| queue.next(now)).collect::<Vec<_>>() {
                assert!(queue.lanes["down"].under_way <= 1);
                if tenant.as_ref() == "up" {
                    queue.done("up", id, true)
                } else {
                    queue.failed("down", id, "refused", now, &mut rng).map(drop).unwrap()
                }
            }
        }
        assert!(!queue.lanes.contains_key("up"), "the other tenant's recordings all went");
        assert_eq!(queue.lanes["down"].entries.len(), 20, "nothing is given up");
        now += Duration::from_secs(400);
        let (_, id) = std::iter::from_fn(|| queue.next(now)).find(|(tenant, _)| tenant.as_ref() == "down").unwrap();
        queue.done("down", id, true);
        assert!(!queue.lanes["down"].failing());
        assert_eq!(starts(&mut queue, now).len(), 4, "after a success all of it is due");
    }

    #[test]
    fn waits_grow_to_their_longest_and_are_spread() {
        let mut rng = SmallRng::seed_from_u64(3);
        let waits: Vec<Duration> = (0..100).map(|_| jittered(RECORDING_WAIT, 40, &mut rng)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(300) && *wait >= Duration::from_secs(30)));
        assert!(waits.iter().max().unwrap().as_secs() - waits.iter().min().unwrap().as_secs() > 200);
    }

    #[test]
    fn a_full_queue_leaves_the_rest_in_the_spool() {
        let mut queue = UploadQueue::new(1, 2);
        for number in 1..=3 {
            queue.push("a", Uuid::from_u128(number), 1, Timestamp::default());
        }
        assert!(queue.overflowed && queue.len() == 2 && !queue.has_room());
        queue.done("a", Uuid::from_u128(1), true);
        assert!(queue.has_room());
    }

    #[test]
    fn retry_now_skips_every_wait() {
        let mut rng = SmallRng::seed_from_u64(1);
        let now = Instant::now();
        let mut queue = queue(&[("a", 1), ("a", 2), ("a", 3)]);
        for (tenant, id) in std::iter::from_fn(|| queue.next(now)).collect::<Vec<_>>() {
            queue.failed(&tenant, id, "x", now, &mut rng);
        }
        assert_eq!(queue.next(now), None);
        queue.retry_now(Some(Uuid::from_u128(2)));
        assert_eq!(starts(&mut queue, now), [2]);
        queue.failed("a", Uuid::from_u128(2), "x", now, &mut rng);
        queue.retry_now(None);
        assert_eq!(starts(&mut queue, now), [1]);
    }
}
