//! How many messages a source may send: a token bucket each, kept as one number.
//!
//! The number is the moment at which the bucket will be full again (the "theoretical
//! arrival time" of GCRA): a message moves it by one interval, and is over the rate
//! when that would lie more than a second ahead. So the burst is one second's worth.
//!
//! The addresses of one IPv6 network share a bucket, as a host may take any of them.
//! Requests and responses have buckets of their own: responses answer what was sent
//! from here, and the limit on them is there for floods only.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferric_sip::trust::Network;

use crate::recent::Recent;
use crate::source;

/// Sources remembered at once.
const MAX_SOURCES: usize = 131_072;
/// Sources that sent nothing for one to two of these are forgotten.
const AGE: Duration = Duration::from_secs(60);
/// Locks, so that sockets served by different threads do not wait for each other.
const SHARDS: usize = 8;
/// The burst: messages of one second.
const BURST_NS: u64 = 1_000_000_000;

/// The rate that means "no limit".
pub(crate) const UNLIMITED: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Nanoseconds between messages; 0 without a limit.
    interval: u64,
    /// When it will be full again, in nanoseconds since the start.
    full_at: u64,
}

impl Bucket {
    fn new(per_second: u32) -> Bucket {
        let interval = if per_second == UNLIMITED { 0 } else { BURST_NS / u64::from(per_second.max(1)) };
        Bucket { interval, full_at: 0 }
    }

    fn take(&mut self, now: u64) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let allowed = full_at <= now + BURST_NS;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[derive(Debug)]
struct Shard {
    buckets: Recent<(IpAddr, bool), Bucket>,
    aged: Instant,
}

/// The rates of all sources.
#[derive(Debug)]
pub(crate) struct RateLimit {
    requests: u32,
    responses: u32,
    networks: Vec<(Network, u32)>,
    start: Instant,
    shards: [Mutex<Shard>; SHARDS],
}

impl RateLimit {
    /// Requests a second, responses a second, and networks with a rate of requests of their own (the first that holds counts).
    pub(crate) fn new(requests: u32, responses: u32, networks: Vec<(Network, u32)>) -> RateLimit {
        let start = Instant::now();
        let shard = || Mutex::new(Shard { buckets: Recent::new(MAX_SOURCES / SHARDS), aged: start });
        RateLimit { requests, responses, networks, start, shards: std::array::from_fn(|_| shard()) }
    }

    /// Takes a token of `source`, if it has one.
    pub(crate) fn allows(&self, source: IpAddr, is_request: bool, now: Instant) -> bool {
        let at = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX / 2);
        let of = source::of(source);
        let mut shard = self.shard(of);
        if now.saturating_duration_since(shard.aged) > AGE {
            shard.aged = now;
            shard.buckets.age();
        }
        shard.buckets.get_or((of, is_request), || self.bucket(source, is_request)).take(at)
    }

    fn bucket(&self, source: IpAddr, is_request: bool) -> Bucket {
        let own = self.networks.iter().find(|(network, _)| network.contains(source)).map(|(_, rate)| *rate);
        let requests = own.unwrap_or(self.requests);
        // Who may send many requests gets as many responses.
        Bucket::new(if is_request { requests } else { requests.max(self.responses) })
    }

    fn shard(&self, source: IpAddr) -> MutexGuard<'_, Shard> {
        let sum = match source {
            IpAddr::V4(address) => address.octets().iter().map(|byte| usize::from(*byte)).sum::<usize>(),
            IpAddr::V6(address) => address.octets().iter().map(|byte| usize::from(*byte)).sum(),
        };
        let [first, ..] = &self.shards;
        self.shards.get(sum % SHARDS).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_gets_its_rate_and_no_more_and_others_are_not_touched() {
        let limit = RateLimit::new(10, 1_000, Vec::new());
        let now = Instant::now();
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!((0..30).filter(|_| limit.allows(a, true, now)).count(), 10);
        assert!(limit.allows(b, true, now));
        let later = now + Duration::from_millis(500);
        assert_eq!((0..30).filter(|_| limit.allows(a, true, later)).count(), 5);
        let minutes_later = now + Duration::from_secs(600);
        assert_eq!((0..30).filter(|_| limit.allows(a, true, minutes_later)).count(), 10);
    }

    #[test]
    fn responses_have_a_limit_of_their_own() {
        let limit = RateLimit::new(10, 1_000, Vec::new());
        let (now, source) = (Instant::now(), address("2001:db8::1"));
        assert_eq!((0..3_000).filter(|_| limit.allows(source, false, now)).count(), 1_000);
        assert_eq!((0..30).filter(|_| limit.allows(source, true, now)).count(), 10);
    }

    #[test]
    fn the_addresses_of_one_network_of_ipv6_share_a_rate() {
        let limit = RateLimit::new(10, 1_000, Vec::new());
        let now = Instant::now();
        let allowed = |host: u16| limit.allows(address(&format!("2001:db8::{host:x}")), true, now);
        assert_eq!((1..=30).filter(|host| allowed(*host)).count(), 10);
        assert!(limit.allows(address("2001:db8:0:1::1"), true, now));
    }

    #[test]
    fn a_network_may_have_its_own_rate_or_none() {
        let networks = vec![("192.0.2.128/25".parse().unwrap(), UNLIMITED), ("192.0.2.0/24".parse().unwrap(), 50)];
        let limit = RateLimit::new(10, 20, networks);
        let now = Instant::now();
        let allowed = |source, is_request| (0..200).filter(|_| limit.allows(address(source), is_request, now)).count();
        assert_eq!(allowed("192.0.2.129", true), 200);
        assert_eq!(allowed("192.0.2.1", true), 50);
        assert_eq!(allowed("192.0.2.1", false), 50);
        assert_eq!(allowed("198.51.100.1", true), 10);
    }

    #[test]
    fn a_flood_of_invented_sources_costs_no_memory() {
        let limit = RateLimit::new(10, 20, Vec::new());
        let now = Instant::now();
        for n in 0..500_000_u32 {
            assert!(limit.allows(IpAddr::from(n.to_be_bytes()), true, now));
        }
        let held: usize = limit.shards.iter().map(|shard| shard.lock().unwrap().buckets.len()).sum();
        assert!(held <= MAX_SOURCES + SHARDS, "{held}");
    }
}
