//! How good a link is, from its heartbeats: round trip, jitter, loss.
//!
//! - Round trip: smoothed by 1/8 a sample (RFC 6298 2.3); what lay at the peer is taken off.
//! - Jitter: the change of transit time between heartbeats, smoothed by 1/16 (RFC 3550 6.4.1).
//! - Loss: what is missing among the last 128 sequence numbers; a late one counts as received.

use std::time::Duration;

use crate::heartbeat::Heartbeat;

const WINDOW: u64 = 128;

/// The state of a link as others read it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkQuality {
    /// Smoothed round trip; `None` until one was measured.
    pub rtt: Option<Duration>,
    /// Smoothed change of transit time.
    pub jitter: Duration,
    /// Lost heartbeats among the last 128, from 0 to 1.
    pub loss: f64,
}

/// Measures one direction of a link.
#[derive(Debug, Default)]
pub struct QualityMeter {
    highest: u64,
    /// Bit n: whether `highest - n` came.
    came: u128,
    transit_us: Option<i64>,
    jitter_us: f64,
    rtt_us: Option<f64>,
}

impl QualityMeter {
    /// A heartbeat came `now_us` after this node's start; says whether it is the newest so far.
    pub fn handle_heartbeat(&mut self, now_us: u64, beat: &Heartbeat) -> bool {
        let newest = beat.seq > self.highest;
        if newest {
            let ahead = beat.seq - self.highest;
            self.came = if ahead >= WINDOW { 1 } else { (self.came << ahead) | 1 };
            self.highest = beat.seq;
        } else {
            let behind = self.highest - beat.seq;
            if behind < WINDOW {
                self.came |= 1 << behind;
            }
            return false;
        }
        let transit_us = now_us.cast_signed().wrapping_sub(beat.sent_us.cast_signed());
        if let Some(before) = self.transit_us.replace(transit_us) {
            let change = transit_us.wrapping_sub(before).unsigned_abs();
            self.jitter_us += (micros(change) - self.jitter_us) / 16.0;
        }
        let since = now_us.checked_sub(beat.echo_us).and_then(|age| age.checked_sub(u64::from(beat.held_us)));
        if let Some(rtt_us) = since.filter(|_| beat.echo_us != 0).map(micros) {
            self.rtt_us = Some(self.rtt_us.map_or(rtt_us, |smooth| smooth + (rtt_us - smooth) / 8.0));
        }
        true
    }

    /// What was measured so far.
    pub fn quality(&self) -> LinkQuality {
        let expected = self.highest.min(WINDOW);
        let came = u64::from(self.came.count_ones()).min(expected);
        let loss = if expected == 0 { 0.0 } else { micros(expected - came) / micros(expected) };
        let duration = |us: f64| Duration::try_from_secs_f64(us / 1e6).unwrap_or(Duration::MAX);
        LinkQuality { rtt: self.rtt_us.map(duration), jitter: duration(self.jitter_us), loss }
    }
}

/// A count as a float; past 2^53 its last digits do not matter here.
#[allow(clippy::cast_precision_loss)]
fn micros(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn beat(seq: u64, sent_us: u64) -> Heartbeat {
        Heartbeat { seq, sent_us, echo_us: 0, held_us: 0, wall_ms: 0 }
    }

    #[test]
    fn loss_counts_what_is_missing_and_forgives_what_is_late() {
        let mut meter = QualityMeter::default();
        for seq in (1..=100).filter(|seq| seq % 4 != 0) {
            meter.handle_heartbeat(seq * 1000, &beat(seq, seq * 1000));
        }
        assert!((meter.quality().loss - 0.24).abs() < 0.02, "{:?}", meter.quality());
        for seq in (1..=100).filter(|seq| seq % 4 == 0) {
            meter.handle_heartbeat(101_000, &beat(seq, seq * 1000));
        }
        assert_eq!(meter.quality().loss, 0.0);
        meter.handle_heartbeat(9, &beat(u64::MAX, 0));
        assert!(meter.quality().loss > 0.99);
    }

    #[test]
    fn the_round_trip_is_without_the_time_at_the_peer() {
        let mut meter = QualityMeter::default();
        assert_eq!(meter.quality().rtt, None);
        for seq in 1..=50 {
            let sent_us = seq * 100_000;
            let answer = Heartbeat { echo_us: sent_us, held_us: 70_000, ..beat(seq, sent_us + 5_000) };
            meter.handle_heartbeat(sent_us + 80_000, &answer);
        }
        let rtt = meter.quality().rtt.unwrap();
        assert!(rtt.abs_diff(Duration::from_millis(10)) < Duration::from_micros(10), "{rtt:?}");
    }

    #[test]
    fn an_even_path_has_no_jitter_and_an_uneven_one_has() {
        let mut even = QualityMeter::default();
        let mut uneven = QualityMeter::default();
        for seq in 1..=100 {
            even.handle_heartbeat(seq * 1000 + 40, &beat(seq, seq * 1000));
            uneven.handle_heartbeat(seq * 1000 + (seq % 2) * 500, &beat(seq, seq * 1000));
        }
        assert_eq!(even.quality().jitter, Duration::ZERO);
        assert!(uneven.quality().jitter > Duration::from_micros(400), "{:?}", uneven.quality());
    }

    #[test]
    fn nonsense_from_a_peer_does_no_harm() {
        let mut meter = QualityMeter::default();
        for (seq, sent_us, echo_us, held_us) in [(0, 0, 0, 0), (1, u64::MAX, u64::MAX, u32::MAX), (2, 0, 1, u32::MAX)] {
            meter.handle_heartbeat(5, &Heartbeat { seq, sent_us, echo_us, held_us, wall_ms: 0 });
        }
        assert_eq!(meter.quality().rtt, None);
    }
}
