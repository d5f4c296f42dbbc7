//! The sender's clock, from its reports (RFC 3550 6.4.1), and what it is good for.
//!
//! An SR ties an RTP timestamp to the sender's NTP clock. Drift needs no help
//! from it: arrivals against our own clock show it. But when two streams come
//! from one sender (one CNAME on one host), their reports say which samples
//! were taken at the same moment; arrivals know that only up to the difference
//! of both paths' delay. Senders' clocks are often nonsense, so reports are
//! believed only when they agree with each other over some time, and with the
//! arrivals within 150 ms.

use crate::clock_map::{ClockMap, us_to_ticks};

/// Reports that must agree before any is believed.
const AGREEING: u32 = 2;
/// How far reports of one stream may disagree, in µs.
const AGREEMENT_US: i64 = 5_000;
/// Largest correction, in µs.
const MAX_BIAS_US: i64 = 150_000;
/// Smaller differences are left alone, in µs.
const DEAD_BAND_US: i64 = 5_000;
/// Two streams' reports must be this close in time to be compared, in µs.
const MAX_DISTANCE_US: i64 = 30_000_000;
/// Bytes kept of a canonical name.
const MAX_NAME: usize = 64;

/// What one stream's reports say.
#[derive(Debug, Clone, Default)]
pub(crate) struct SenderClock {
    /// NTP time of the last report and where arrivals put its timestamp, both in µs.
    last: Option<(i64, i64)>,
    agreeing: u32,
    name: Vec<u8>,
}

impl SenderClock {
    /// Takes a report; its timestamp is extended.
    pub(crate) fn report(&mut self, ntp: u64, timestamp: i64, map: &ClockMap) {
        let seconds = i64::try_from(ntp >> 32).unwrap_or(0);
        let micros = i64::try_from(((ntp & 0xffff_ffff) * 1_000_000) >> 32).unwrap_or(0);
        let sent_us = seconds * 1_000_000 + micros;
        let position_us = map.arrival_position_us(timestamp);
        let agrees = self.last.is_some_and(|(sent, position)| {
            sent_us > sent && ((sent_us - sent) - (position_us - position)).abs() <= AGREEMENT_US
        });
        self.agreeing = if agrees { self.agreeing.saturating_add(1) } else { 0 };
        self.last = Some((sent_us, position_us));
    }

    /// Takes the sender's canonical name.
    pub(crate) fn set_name(&mut self, name: &[u8]) {
        if self.name != name {
            self.name = name.get(..name.len().min(MAX_NAME)).unwrap_or_default().to_vec();
        }
    }

    /// Call time less sender time, in µs, when the reports are to be believed.
    fn offset_us(&self) -> Option<(i64, i64)> {
        self.last.filter(|_| self.agreeing >= AGREEING).map(|(sent, position)| (sent, position - sent))
    }

    /// How much `self` must be delayed to match `other`, in µs; 0 when it is
    /// the later one, `None` when nothing can be said.
    pub(crate) fn bias_us(&self, other: &SenderClock) -> Option<i64> {
        if self.name != other.name {
            return None;
        }
        let ((sent, own), (other_sent, others)) = (self.offset_us()?, other.offset_us()?);
        let difference = others - own;
        if (sent - other_sent).abs() > MAX_DISTANCE_US || difference.abs() > MAX_BIAS_US {
            return None;
        }
        Some(if difference > DEAD_BAND_US { difference } else { 0 })
    }
}

/// Microseconds since 1900 as an NTP time, for whoever sends reports.
pub fn ntp_from_us(us: i64) -> u64 {
    let seconds = us.div_euclid(1_000_000).cast_unsigned();
    let fraction = us_to_ticks(us.rem_euclid(1_000_000), 1 << 32).cast_unsigned();
    (seconds << 32) | (fraction & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn clock(delay_us: i64, name: &[u8], wrong_us: &[i64]) -> SenderClock {
        let map = ClockMap::new(8_000, 0, delay_us);
        let mut clock = SenderClock::default();
        clock.set_name(name);
        for (n, wrong) in wrong_us.iter().enumerate() {
            let sent = n as i64 * 5_000_000;
            clock.report(ntp_from_us(3_900_000_000_000_000 + sent + wrong), sent * 8 / 1_000, &map);
        }
        clock
    }

    #[test]
    fn the_faster_stream_of_a_sender_waits_for_the_slower() {
        let (fast, slow) = (clock(10_000, b"a", &[0, 0, 0]), clock(70_000, b"a", &[0, 0, 0]));
        let bias = fast.bias_us(&slow).unwrap();
        assert!((bias - 60_000).abs() < 1_000, "{bias}");
        assert_eq!(slow.bias_us(&fast), Some(0));
    }

    #[test]
    fn reports_that_do_not_agree_are_not_believed() {
        let good = clock(10_000, b"a", &[0, 0, 0]);
        assert_eq!(good.bias_us(&clock(70_000, b"a", &[0, 40_000, 0])), None);
        assert_eq!(good.bias_us(&clock(70_000, b"b", &[0, 0, 0])), None);
        assert_eq!(good.bias_us(&clock(400_000, b"a", &[0, 0, 0])), None);
        assert_eq!(good.bias_us(&clock(70_000, b"a", &[0, 0])), None);
    }
}
