//! Two endpoints and the link between them, driven from event to event.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::ladder::{Ladder, sip_label};
use crate::link::{Link, LinkProfile, Packet};

/// A sans-IO endpoint under test.
pub trait Endpoint {
    /// Takes a packet.
    fn handle_packet(&mut self, now: Instant, packet: Packet);
    /// Runs what is due.
    fn handle_timeout(&mut self, now: Instant);
    /// When [`Endpoint::handle_timeout`] is due.
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// The next packet to send; called until `None` after every other call.
    fn poll_transmit(&mut self, now: Instant) -> Option<Packet>;
}

/// More events than this without an end is a storm, and a bug.
const MAX_EVENTS: usize = 1_000_000;

/// Two endpoints. A panic while it lives prints the seed and the ladder.
#[derive(Debug)]
pub struct Pair<A, B> {
    /// The left endpoint.
    pub a: A,
    /// The right endpoint.
    pub b: B,
    /// Simulated time.
    pub clock: Clock,
    /// The way between them.
    pub link: Link,
    /// What happened so far.
    pub ladder: Ladder,
    a_address: SocketAddr,
    b_address: SocketAddr,
    seed: u64,
    label: fn(&[u8]) -> String,
    events: usize,
}

impl<A: Endpoint, B: Endpoint> Pair<A, B> {
    /// Joins two endpoints by a link. Packets to other addresses than theirs are lost.
    pub fn new(a: (A, SocketAddr), b: (B, SocketAddr), profile: LinkProfile, seed: u64) -> Pair<A, B> {
        Pair {
            a: a.0,
            b: b.0,
            clock: Clock::new(),
            link: Link::new(profile, seed),
            ladder: Ladder::new("a", "b"),
            a_address: a.1,
            b_address: b.1,
            seed,
            label: sip_label,
            events: 0,
        }
    }

    /// Names the sides of the ladder.
    #[must_use]
    pub fn named(mut self, left: &str, right: &str) -> Pair<A, B> {
        self.ladder = Ladder::new(left, right);
        self
    }

    /// Labels packets by another function than [`sip_label`].
    #[must_use]
    pub fn labelled(mut self, label: fn(&[u8]) -> String) -> Pair<A, B> {
        self.label = label;
        self
    }

    /// The simulated instant.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Writes a remark into the ladder.
    pub fn note(&mut self, text: &str) {
        self.ladder.note(self.clock.elapsed(), text);
    }

    /// Sends what the endpoints have to send.
    pub fn flush(&mut self) {
        let now = self.clock.now();
        while let Some(packet) = self.a.poll_transmit(now) {
            self.launch(packet, true);
        }
        while let Some(packet) = self.b.poll_transmit(now) {
            self.launch(packet, false);
        }
    }

    fn launch(&mut self, packet: Packet, to_right: bool) {
        let label = (self.label)(&packet.bytes);
        let kept = self.link.send(self.clock.now(), packet);
        self.ladder.packet(self.clock.elapsed(), to_right, &label, !kept);
    }

    /// When anything happens next.
    pub fn next_event(&mut self) -> Option<Instant> {
        [self.link.next_arrival(), self.a.poll_timeout(), self.b.poll_timeout()].into_iter().flatten().min()
    }

    /// Goes to the next event and lets it happen; false when nothing waits.
    pub fn step(&mut self) -> bool {
        self.flush();
        let Some(at) = self.next_event() else { return false };
        self.events += 1;
        assert!(self.events < MAX_EVENTS, "the endpoints never come to rest");
        self.clock.advance_to(at);
        let now = self.clock.now();
        if let Some(packet) = self.link.receive(now) {
            if packet.to == self.b_address {
                self.b.handle_packet(now, packet);
            } else if packet.to == self.a_address {
                self.a.handle_packet(now, packet);
            }
        } else if self.a.poll_timeout().is_some_and(|due| due <= now) {
            self.a.handle_timeout(now);
        } else {
            self.b.handle_timeout(now);
        }
        self.flush();
        true
    }

    /// Runs until nothing waits any more.
    pub fn run_to_rest(&mut self) {
        while self.step() {}
    }

    /// Runs all events of the next `span` and ends exactly there.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.clock.now() + span;
        self.flush();
        while self.next_event().is_some_and(|at| at <= end) {
            self.step();
        }
        self.clock.advance_to(end);
    }

    /// Runs until `done`; false if nothing waits any more, or `limit` has passed, before it is.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut A, &mut B) -> bool) -> bool {
        let end = self.clock.now() + limit;
        self.flush();
        while !done(&mut self.a, &mut self.b) {
            if self.next_event().is_none_or(|at| at > end) {
                return false;
            }
            self.step();
        }
        true
    }
}

impl<A, B> Drop for Pair<A, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simnet: seed {} after {:?}\n{}", self.seed, self.clock.elapsed(), self.ladder);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use bytes::Bytes;

    /// Sends a number each second, five times, and remembers what came.
    struct Counter {
        me: SocketAddr,
        peer: SocketAddr,
        next: Option<(Instant, u8)>,
        out: Vec<Packet>,
        seen: Vec<(Instant, u8)>,
    }

    impl Endpoint for Counter {
        fn handle_packet(&mut self, now: Instant, packet: Packet) {
            self.seen.push((now, packet.bytes[0]));
        }
        fn handle_timeout(&mut self, now: Instant) {
            let Some((at, n)) = self.next.filter(|(at, _)| *at <= now) else { return };
            self.out.push(Packet { from: self.me, to: self.peer, bytes: Bytes::copy_from_slice(&[n]) });
            self.next = (n < 4).then(|| (at + Duration::from_secs(1), n + 1));
        }
        fn poll_timeout(&mut self) -> Option<Instant> {
            self.next.map(|(at, _)| at)
        }
        fn poll_transmit(&mut self, _: Instant) -> Option<Packet> {
            self.out.pop()
        }
    }

    fn pair() -> Pair<Counter, Counter> {
        let (a, b): (SocketAddr, SocketAddr) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
        let counter = |me, peer| Counter { me, peer, next: None, out: vec![], seen: vec![] };
        let mut pair = Pair::new((counter(a, b), a), (counter(b, a), b), LinkProfile::default(), 1)
            .labelled(|bytes| bytes[0].to_string());
        pair.a.next = Some((pair.now(), 0));
        pair
    }

    #[test]
    fn the_clock_jumps_from_event_to_event() {
        let mut pair = pair();
        pair.run_to_rest();
        assert_eq!(pair.clock.elapsed(), Duration::from_millis(4_010));
        let times: Vec<Duration> = pair.b.seen.iter().map(|(at, _)| *at - pair.clock.at(Duration::ZERO)).collect();
        assert_eq!(times, [10, 1_010, 2_010, 3_010, 4_010].map(Duration::from_millis));
        assert_eq!(pair.ladder.labels(true), ["0", "1", "2", "3", "4"]);
    }

    #[test]
    fn a_span_ends_where_it_should() {
        let mut pair = pair();
        pair.run_for(Duration::from_millis(2_500));
        assert_eq!((pair.b.seen.len(), pair.clock.elapsed()), (3, Duration::from_millis(2_500)));
        assert!(pair.run_until(Duration::from_secs(9), |_, b| b.seen.len() == 4));
        assert!(!pair.run_until(Duration::from_secs(9), |_, b| b.seen.len() == 9));
    }
}
