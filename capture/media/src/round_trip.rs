//! The round trip to a peer, by extended reports (RFC 3611 4.4 and 4.5).
//!
//! We send no media, so nobody reports on us and LSR and DLSR of RFC 3550 never come back. Instead we send a receiver
//! reference time; a peer that knows it answers with its delay:
//!
//! ```text
//! us   RRTR: T          ------------>  peer
//! us   at A             <------------  DLRR: T, D       round trip = A - T - D
//! ```
//!
//! T is the middle of our own clock's NTP form, and an answer counts only when it names one of the last that we sent. A peer that
//! does not answer leaves the round trip unknown.

/// Reference times remembered; peers may answer an older one.
const REMEMBERED: usize = 4;
/// Our clock's reading when the recording begins, in s: nothing before it is negative, and it says nothing of the time of day.
const EPOCH_S: i64 = 86_400;
/// A round trip beyond this is a mistake, in ms.
const LONGEST_MS: f64 = 10_000.0;

/// Our clock in NTP form, `us` after the recording began.
pub(crate) fn reference_time(us: i64) -> u64 {
    crate::sender_clock::ntp_from_us(us.saturating_add(EPOCH_S * 1_000_000))
}

/// The middle 32 bits of an NTP time, in 1/65536 s.
fn middle(ntp: u64) -> u32 {
    u32::try_from(ntp >> 16 & 0xffff_ffff).unwrap_or(0)
}

/// What is known of a stream's peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoundTrip {
    sent: [Option<u32>; REMEMBERED],
    at: usize,
    measured: u64,
    sum_ms: f64,
}

impl RoundTrip {
    /// The reference time to send at `us`; it will be known when its answer comes.
    pub(crate) fn refer(&mut self, us: i64) -> u64 {
        let ntp = reference_time(us);
        if let Some(slot) = self.sent.get_mut(self.at % REMEMBERED) {
            *slot = Some(middle(ntp));
        }
        self.at = self.at.wrapping_add(1);
        ntp
    }

    /// A peer's answer, which came at `us`. False when it answers nothing that we asked.
    pub(crate) fn answer(&mut self, us: i64, reference: u32, delay: u32) -> bool {
        let Some(slot) = self.sent.iter_mut().find(|sent| **sent == Some(reference)) else { return false };
        let elapsed = middle(reference_time(us)).wrapping_sub(reference).wrapping_sub(delay).cast_signed();
        let ms = f64::from(elapsed) * 1_000.0 / 65_536.0;
        // A peer's clock may run a little fast: just below zero is zero.
        if !(-5.0..LONGEST_MS).contains(&ms) {
            return false;
        }
        *slot = None;
        self.measured += 1;
        self.sum_ms += ms.max(0.0);
        true
    }

    /// Mean of what was measured, in ms; `None` when nothing was.
    pub(crate) fn mean_ms(&self) -> Option<f64> {
        (self.measured > 0).then(|| self.sum_ms / self.measured as f64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn the_answer_gives_the_round_trip() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.mean_ms(), None);
        let reference = middle(trip.refer(5_000_000));
        // 40 ms there and back, two seconds at the peer.
        assert!(trip.answer(7_040_000, reference, 2 * 65_536));
        assert!((trip.mean_ms().unwrap() - 40.0).abs() < 0.1);
        assert!(!trip.answer(7_040_000, reference, 2 * 65_536), "once");
        let reference = middle(trip.refer(10_000_000));
        assert!(trip.answer(10_080_000, reference, 0));
        assert!((trip.mean_ms().unwrap() - 60.0).abs() < 0.1);
    }

    #[test]
    fn what_was_not_asked_is_no_answer() {
        let mut trip = RoundTrip::default();
        assert!(!trip.answer(1_000_000, 0, 0));
        let old = middle(trip.refer(0));
        for second in 1..=4 {
            trip.refer(second * 1_000_000);
        }
        assert!(!trip.answer(5_000_000, old, 0), "too old");
        let last = middle(reference_time(4_000_000));
        assert!(!trip.answer(4_100_000, last, 65_536), "the peer says that it held it longer than it was away");
        assert!(!trip.answer(40_000_000, last, 0));
        assert_eq!(trip.mean_ms(), None);
    }
}
