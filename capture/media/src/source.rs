//! Whose packets a stream takes: the address that came first, until it falls silent.
//!
//! SDP rarely names the address that media really comes from, so the first
//! source of a stream locks it. A stranger is counted and dropped. The lock
//! moves when its holder has been silent for a while, when signalling announced
//! a change, or when the address that SDP named turns up after all. A source
//! with a single packet holds nothing: a port scan that hits before the call
//! does cannot shut it out.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Packets after which a source holds its lock.
const PROBATION: u32 = 2;
/// How often a source with fewer can be pushed aside: two that alternate must not do so for ever.
const MAX_PUSHED: u32 = 3;

/// What becomes of a packet, by its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The source that holds the stream.
    Known,
    /// The first source of the stream.
    First,
    /// The stream moved here from another source.
    Moved {
        /// Who held it before.
        from: SocketAddr,
    },
    /// Somebody else; drop it.
    Stranger,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    address: SocketAddr,
    last: Instant,
    packets: u32,
}

/// The lock of one stream.
#[derive(Debug)]
pub struct SourceLock {
    holder: Option<Holder>,
    expected: Option<IpAddr>,
    /// Signalling announced that the source changes.
    open: bool,
    pushed: u32,
    takeover: Duration,
}

impl SourceLock {
    /// A stream whose SDP named `expected`; another source takes over after `takeover` of silence.
    pub fn new(expected: Option<IpAddr>, takeover: Duration) -> SourceLock {
        SourceLock { holder: None, expected, open: false, pushed: 0, takeover }
    }

    /// SDP names a new address: the next stranger may take over at once.
    pub fn expect(&mut self, expected: Option<IpAddr>) {
        if self.expected != expected {
            self.expected = expected;
            self.open = true;
        }
    }

    /// Who holds the stream.
    pub fn address(&self) -> Option<SocketAddr> {
        self.holder.map(|holder| holder.address)
    }

    /// Judges a well-formed packet of a known payload type.
    pub fn check(&mut self, arrival: Instant, from: SocketAddr) -> Verdict {
        let Some(holder) = self.holder.as_mut() else {
            self.take(arrival, from);
            return Verdict::First;
        };
        if holder.address == from {
            holder.packets = holder.packets.saturating_add(1);
            holder.last = holder.last.max(arrival);
            return Verdict::Known;
        }
        let silent = arrival.saturating_duration_since(holder.last) >= self.takeover;
        let named = |address: SocketAddr| self.expected == Some(address.ip());
        let preferred = named(from) && !named(holder.address);
        let weak = holder.packets < PROBATION && self.pushed < MAX_PUSHED;
        if silent || preferred || self.open || weak {
            self.pushed += u32::from(weak);
            let before = holder.address;
            self.take(arrival, from);
            return Verdict::Moved { from: before };
        }
        Verdict::Stranger
    }

    fn take(&mut self, arrival: Instant, from: SocketAddr) {
        self.open = false;
        self.holder = Some(Holder { address: from, last: arrival, packets: 1 });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn locked(now: Instant) -> SourceLock {
        let mut lock = SourceLock::new(None, Duration::from_secs(1));
        assert_eq!(lock.check(now, at(1)), Verdict::First);
        assert_eq!(lock.check(now, at(1)), Verdict::Known);
        lock
    }

    #[test]
    fn a_stranger_waits_until_the_holder_is_silent() {
        let now = Instant::now();
        let mut lock = locked(now);
        assert_eq!(lock.check(now + Duration::from_millis(999), at(2)), Verdict::Stranger);
        assert_eq!(lock.check(now + Duration::from_millis(1_000), at(2)), Verdict::Moved { from: at(1) });
        assert_eq!(lock.address(), Some(at(2)));
    }

    #[test]
    fn a_single_packet_holds_nothing() {
        let now = Instant::now();
        let mut lock = SourceLock::new(None, Duration::from_secs(1));
        assert_eq!(lock.check(now, at(9)), Verdict::First);
        assert_eq!(lock.check(now, at(1)), Verdict::Moved { from: at(9) });
        assert_eq!(lock.check(now, at(1)), Verdict::Known);
        assert_eq!(lock.check(now, at(9)), Verdict::Stranger);
    }

    #[test]
    fn two_that_alternate_settle() {
        let now = Instant::now();
        let mut lock = SourceLock::new(None, Duration::from_secs(1));
        let moved = (0..100).filter(|n| matches!(lock.check(now, at(n % 2)), Verdict::Moved { .. })).count();
        assert_eq!(moved, 3);
    }

    #[test]
    fn signalling_opens_the_lock_once() {
        let now = Instant::now();
        let mut lock = locked(now);
        lock.expect(Some(IpAddr::from([10, 0, 0, 7])));
        assert_eq!(lock.check(now, at(2)), Verdict::Moved { from: at(1) });
        assert_eq!(lock.check(now, at(2)), Verdict::Known);
        assert_eq!(lock.check(now, at(1)), Verdict::Stranger);
    }

    #[test]
    fn the_address_of_the_sdp_wins_over_one_that_was_faster() {
        let now = Instant::now();
        let mut lock = SourceLock::new(Some(IpAddr::from([10, 0, 0, 7])), Duration::from_secs(1));
        lock.check(now, at(1));
        lock.check(now, at(1));
        let named = SocketAddr::from(([10, 0, 0, 7], 4_000));
        assert_eq!(lock.check(now, named), Verdict::Moved { from: at(1) });
        assert_eq!(lock.check(now, named), Verdict::Known);
        assert_eq!(lock.check(now, at(1)), Verdict::Stranger);
    }
}
