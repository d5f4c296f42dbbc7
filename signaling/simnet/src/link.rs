//! What becomes of a packet: lost, delayed, doubled, overtaken; all from a seed.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Payload.
    pub bytes: Bytes,
}

/// How a link treats packets. Probabilities are from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkProfile {
    /// One-way delay of every packet.
    pub delay: Duration,
    /// Up to this much more delay, drawn for each packet; more than the gap between two packets reorders them.
    pub jitter: Duration,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is held back by three delays, so that later ones overtake it.
    pub reorder: f64,
}

impl Default for LinkProfile {
    /// 10 ms each way and no trouble.
    fn default() -> LinkProfile {
        LinkProfile {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
        }
    }
}

impl LinkProfile {
    /// The default with this probability of loss.
    pub fn lossy(loss: f64) -> LinkProfile {
        LinkProfile { loss, ..LinkProfile::default() }
    }
}

#[derive(Debug)]
struct InFlight {
    at: Instant,
    order: u64,
    packet: Packet,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &InFlight) -> bool {
        self.order == other.order
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &InFlight) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    fn cmp(&self, other: &InFlight) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

type Rule = Box<dyn FnMut(&Packet) -> bool>;

/// The way between endpoints, with the packets that are on it.
pub struct Link {
    profile: LinkProfile,
    rng: SmallRng,
    rules: Vec<Rule>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    order: u64,
    sent: u64,
    lost: u64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("profile", &self.profile)
            .field("in_flight", &self.in_flight.len())
            .field("sent", &self.sent)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A link whose every choice comes from `seed`.
    pub fn new(profile: LinkProfile, seed: u64) -> Link {
        Link {
            profile,
            rng: SmallRng::seed_from_u64(seed),
            rules: Vec::new(),
            in_flight: BinaryHeap::new(),
            order: 0,
            sent: 0,
            lost: 0,
        }
    }

    /// Changes how packets fare from now on.
    pub fn set_profile(&mut self, profile: LinkProfile) {
        self.profile = profile;
    }

    /// Loses every packet for which `rule` is true, beside what the profile loses.
    pub fn lose_if(&mut self, rule: impl FnMut(&Packet) -> bool + 'static) {
        self.rules.push(Box::new(rule));
    }

    /// Loses the first `count` packets for which `matches` is true.
    pub fn lose_first(&mut self, count: usize, mut matches: impl FnMut(&Packet) -> bool + 'static) {
        let mut left = count;
        self.lose_if(move |packet| {
            let lose = left > 0 && matches(packet);
            left -= usize::from(lose);
            lose
        });
    }

    /// Forgets all rules.
    pub fn clear_rules(&mut self) {
        self.rules.clear();
    }

    /// Puts a packet on the way; false if it is lost.
    pub fn send(&mut self, now: Instant, packet: Packet) -> bool {
        self.sent += 1;
        let chance = |probability: f64, rng: &mut SmallRng| probability > 0.0 && rng.random::<f64>() < probability;
        let by_rule = self.rules.iter_mut().fold(false, |lost, rule| lost | rule(&packet));
        if chance(self.profile.loss, &mut self.rng) || by_rule {
            self.lost += 1;
            return false;
        }
        if chance(self.profile.duplicate, &mut self.rng) {
            self.launch(now, packet.clone());
        }
        self.launch(now, packet);
        true
    }

    fn launch(&mut self, now: Instant, packet: Packet) {
        let mut delay = self.profile.delay + self.profile.jitter.mul_f64(self.rng.random::<f64>());
        if self.profile.reorder > 0.0 && self.rng.random::<f64>() < self.profile.reorder {
            delay += self.profile.delay * 3;
        }
        self.order += 1;
        self.in_flight.push(Reverse(InFlight { at: now + delay, order: self.order, packet }));
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.peek().map(|Reverse(flight)| flight.at)
    }

    /// Takes a packet that has arrived by `now`.
    pub fn receive(&mut self, now: Instant) -> Option<Packet> {
        if self.next_arrival()? > now {
            return None;
        }
        self.in_flight.pop().map(|Reverse(flight)| flight.packet)
    }

    /// Packets sent and packets lost so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.sent, self.lost)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn packet(n: u16) -> Packet {
        let from = "192.0.2.1:5060".parse().unwrap();
        let to = "192.0.2.2:5060".parse().unwrap();
        Packet { from, to, bytes: Bytes::copy_from_slice(&n.to_be_bytes()) }
    }

    fn run(profile: LinkProfile, seed: u64) -> Vec<u16> {
        let start = Instant::now();
        let mut link = Link::new(profile, seed);
        for n in 0..1_000 {
            link.send(start + Duration::from_millis(u64::from(n)), packet(n));
        }
        let end = start + Duration::from_secs(60);
        std::iter::from_fn(|| link.receive(end)).map(|p| u16::from_be_bytes([p.bytes[0], p.bytes[1]])).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let profile = LinkProfile { loss: 0.3, duplicate: 0.1, reorder: 0.1, ..LinkProfile::default() };
        assert_eq!(run(profile, 7), run(profile, 7));
        assert_ne!(run(profile, 7), run(profile, 8));
    }

    #[test]
    fn loss_doubling_and_reordering_come_at_their_rates() {
        assert_eq!(run(LinkProfile::default(), 1), (0..1_000).collect::<Vec<_>>());
        let kept = run(LinkProfile::lossy(0.3), 1).len();
        assert!((640..760).contains(&kept), "{kept}");
        let doubled = run(LinkProfile { duplicate: 0.2, ..LinkProfile::default() }, 1).len();
        assert!((1_140..1_260).contains(&doubled), "{doubled}");
        let order = run(LinkProfile { reorder: 0.1, ..LinkProfile::default() }, 1);
        let late = order.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!(late > 30, "{late}");
    }

    #[test]
    fn a_rule_loses_what_it_names_and_no_more_than_it_counts() {
        let mut link = Link::new(LinkProfile::default(), 1);
        link.lose_first(2, |packet| packet.bytes[1] == 5);
        let now = Instant::now();
        let kept: Vec<bool> = [5, 6, 5, 5].into_iter().map(|n| link.send(now, packet(n))).collect();
        assert_eq!(kept, [false, true, false, true]);
        assert_eq!(link.counts(), (4, 2));
    }
}
