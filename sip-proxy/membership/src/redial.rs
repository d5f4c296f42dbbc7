//! Addresses and when to dial them: back-off that doubles, with jitter, so that a cluster that comes back does not dial
//! in step.
//!
//! A seed is an address from the configuration: it is dialled for ever. Other addresses belong to a node and go with it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::identity::NodeId;

/// The most connections that are being dialled at once.
pub const MAX_DIALLING: usize = 16;

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy)]
pub struct BackOff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
    /// After a refusal, which does not mend itself in a moment.
    pub refused: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), most: Duration::from_secs(5), refused: Duration::from_secs(15) }
    }
}

#[derive(Debug)]
struct Target {
    node: Option<NodeId>,
    seed: bool,
    /// It leads to this node itself.
    own: bool,
    dialling: bool,
    failures: u32,
    next: Instant,
}

/// All addresses that may be dialled.
#[derive(Debug)]
pub struct Redial {
    back_off: BackOff,
    targets: HashMap<SocketAddr, Target>,
    random: SmallRng,
}

impl Redial {
    /// A book with its seeds, all due now.
    pub fn new(now: Instant, seeds: &[SocketAddr], back_off: BackOff, seed: u64) -> Self {
        let target = |at: &SocketAddr| {
            (*at, Target { node: None, seed: true, own: false, dialling: false, failures: 0, next: now })
        };
        Self { back_off, targets: seeds.iter().map(target).collect(), random: SmallRng::seed_from_u64(seed) }
    }

    /// These are the addresses of a node, and no others.
    pub fn set_addresses(&mut self, now: Instant, node: &NodeId, addresses: &[SocketAddr]) {
        self.targets.retain(|at, target| target.seed || target.node.as_ref() != Some(node) || addresses.contains(at));
        for at in addresses {
            let target = self.targets.entry(*at).or_insert(Target {
                node: None,
                seed: false,
                own: false,
                dialling: false,
                failures: 0,
                next: now,
            });
            target.node = Some(node.clone());
        }
    }

    /// The node is gone for good: its addresses are forgotten; seeds are tried after the longest wait.
    pub fn forget(&mut self, now: Instant, node: &NodeId) {
        self.targets.retain(|_, target| target.seed || target.node.as_ref() != Some(node));
        let wait = self.back_off.most;
        self.put_off(now + wait, node);
    }

    /// The node refused this one after it had let it in.
    pub fn refused(&mut self, now: Instant, node: &NodeId) {
        let wait = self.back_off.refused.mul_f64(self.random.random_range(0.5..1.0));
        self.put_off(now + wait, node);
    }

    fn put_off(&mut self, until: Instant, node: &NodeId) {
        for target in self.targets.values_mut().filter(|target| target.node.as_ref() == Some(node)) {
            target.next = until;
        }
    }

    /// The link to a node was lost: its addresses are tried soon, each after a random part of the first wait.
    pub fn hurry(&mut self, now: Instant, node: &NodeId) {
        for target in self.targets.values_mut().filter(|target| target.node.as_ref() == Some(node)) {
            target.failures = 0;
            target.next = now + self.back_off.first.mul_f64(self.random.random_range(0.0..1.0));
        }
    }

    /// The address leads to this node itself.
    pub fn is_own(&mut self, at: SocketAddr) {
        if let Some(target) = self.targets.get_mut(&at) {
            target.own = true;
            target.dialling = false;
        }
    }

    /// An attempt led to this node, whatever became of it.
    pub fn reached(&mut self, now: Instant, at: SocketAddr, node: &NodeId) {
        if let Some(target) = self.targets.get_mut(&at) {
            target.node = Some(node.clone());
            target.dialling = false;
            target.failures = 0;
            target.next = now + self.back_off.first;
        }
    }

    /// An attempt failed, or was refused by one of the two.
    pub fn failed(&mut self, now: Instant, at: SocketAddr, refused: bool) {
        if let Some(target) = self.targets.get_mut(&at) {
            target.dialling = false;
            target.failures = target.failures.saturating_add(1);
            let doubled = self.back_off.first.saturating_mul(1 << (target.failures - 1).min(16));
            let wait = if refused { self.back_off.refused } else { doubled.min(self.back_off.most) };
            target.next = now + wait.mul_f64(self.random.random_range(0.5..1.0));
        }
    }

    /// The addresses to dial now. `wanted` says whether a link to this node is missing.
    pub fn due(&mut self, now: Instant, wanted: impl Fn(&NodeId) -> bool) -> Vec<SocketAddr> {
        let room = MAX_DIALLING.saturating_sub(self.targets.values().filter(|target| target.dialling).count());
        let mut due: Vec<_> = self
            .targets
            .iter_mut()
            .filter(|(_, target)| target.next <= now && target.is_wanted(&wanted))
            .map(|(at, target)| (target.next, *at, target))
            .collect();
        due.sort_by_key(|(next, at, _)| (*next, *at)); // who waits longest goes first, and tests repeat
        due.into_iter()
            .take(room)
            .map(|(_, at, target)| {
                target.dialling = true;
                at
            })
            .collect()
    }

    /// When an address becomes due.
    pub fn poll_timeout(&self, wanted: impl Fn(&NodeId) -> bool) -> Option<Instant> {
        if self.targets.values().filter(|target| target.dialling).count() >= MAX_DIALLING {
            return None; // an attempt that ends asks again
        }
        self.targets.values().filter(|target| target.is_wanted(&wanted)).map(|target| target.next).min()
    }
}

impl Target {
    fn is_wanted(&self, wanted: impl Fn(&NodeId) -> bool) -> bool {
        !self.dialling && !self.own && self.node.as_ref().is_none_or(wanted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn waits_double_up_to_a_limit_and_differ() {
        let mut now = Instant::now();
        let mut redial = Redial::new(now, &[at(1)], BackOff::default(), 7);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(redial.due(now, |_| true), [at(1)]);
            assert_eq!(redial.due(now, |_| true), [], "one attempt at a time");
            redial.failed(now, at(1), false);
            let next = redial.poll_timeout(|_| true).unwrap();
            waits.push(next - now);
            now = next;
        }
        for (n, wait) in waits.iter().enumerate() {
            let full = Duration::from_millis(100 << n.min(10)).min(Duration::from_secs(5));
            assert!(*wait >= full / 2 && *wait <= full, "{n}: {wait:?}");
        }
        assert!(waits.last() != waits.iter().rev().nth(1));
        redial.failed(now, at(1), true);
        assert!(redial.poll_timeout(|_| true).unwrap() - now > Duration::from_secs(7));
    }

    #[test]
    fn a_node_with_a_link_is_not_dialled_and_after_its_loss_soon() {
        let now = Instant::now();
        let mut redial = Redial::new(now, &[at(1)], BackOff::default(), 7);
        redial.due(now, |_| true);
        redial.reached(now, at(1), &node("b"));
        let later = now + Duration::from_secs(60);
        assert_eq!(redial.due(later, |_| false), []);
        assert_eq!(redial.poll_timeout(|_| false), None);
        redial.hurry(later, &node("b"));
        assert!(redial.poll_timeout(|_| true).unwrap() - later <= Duration::from_millis(100));
    }

    #[test]
    fn addresses_go_with_their_node_and_seeds_stay() {
        let now = Instant::now();
        let mut redial = Redial::new(now, &[at(1)], BackOff::default(), 7);
        redial.set_addresses(now, &node("b"), &[at(1), at(2), at(3)]);
        redial.set_addresses(now, &node("b"), &[at(3), at(4)]);
        assert_eq!(redial.due(now, |_| true), [at(1), at(3), at(4)]);
        redial.failed(now, at(1), false);
        redial.forget(now, &node("b"));
        assert_eq!(redial.due(now + Duration::from_secs(1), |_| true), []);
        let later = now + Duration::from_secs(60);
        assert_eq!(redial.due(later, |_| true), [at(1)]);
        redial.is_own(at(1));
        assert_eq!(redial.due(later, |_| true), []);
    }

    #[test]
    fn attempts_at_once_are_bounded() {
        let now = Instant::now();
        let seeds: Vec<_> = (1..=40).map(at).collect();
        let mut redial = Redial::new(now, &seeds, BackOff::default(), 7);
        assert_eq!(redial.due(now, |_| true).len(), MAX_DIALLING);
        assert_eq!(redial.poll_timeout(|_| true), None);
        redial.failed(now, at(1), false);
        assert_eq!(redial.due(now, |_| true).len(), 1);
    }
}
