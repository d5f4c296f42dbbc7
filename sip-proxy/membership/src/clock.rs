//! Wall clocks that differ. Nothing in the cluster is ordered by wall clocks, but certificates, recordings and logs carry
//! them: a clock 2 s off raises an alarm, and a node that comes with one 60 s off is refused. A link that is up stays up.

use std::time::{Duration, Instant};

/// Off by more than this raises the alarm.
pub const ALARM: Duration = Duration::from_secs(2);
/// Off by more than this refuses a newcomer.
pub const REFUSE: Duration = Duration::from_secs(60);
/// The alarm goes on or off when its cause has lasted for this.
pub const PERSIST: Duration = Duration::from_secs(3);
/// The alarm ends below this, so that it does not flicker.
const CALM: Duration = Duration::from_millis(1500);

/// By how many milliseconds the peer's clock is ahead of ours (negative: behind), if its reading took half of `rtt` here.
pub fn ahead_ms(theirs_ms: u64, ours_ms: u64, rtt: Duration) -> i64 {
    let way = i64::try_from(rtt.as_millis() / 2).unwrap_or(i64::MAX);
    theirs_ms.cast_signed().saturating_sub(ours_ms.cast_signed()).saturating_add(way)
}

/// Whether a difference is larger than a limit.
pub fn exceeds(ahead_ms: i64, limit: Duration) -> bool {
    u128::from(ahead_ms.unsigned_abs()) > limit.as_millis()
}

/// Remembers whether the alarm of one peer is on.
///
/// A single reading proves nothing: a heartbeat that lay in the socket of a node that slept seems to come from a clock
/// that is behind. So a change has to last for [`PERSIST`].
#[derive(Debug, Default)]
pub struct ClockWatch {
    alarm: bool,
    ahead_ms: i64,
    otherwise_since: Option<Instant>,
}

impl ClockWatch {
    /// A new reading; `Some` if the alarm goes on or off by it.
    pub fn handle_reading(&mut self, now: Instant, ahead_ms: i64) -> Option<bool> {
        self.ahead_ms = ahead_ms;
        let alarm = exceeds(ahead_ms, if self.alarm { CALM } else { ALARM });
        if alarm == self.alarm {
            self.otherwise_since = None;
            return None;
        }
        let since = *self.otherwise_since.get_or_insert(now);
        if now.saturating_duration_since(since) < PERSIST {
            return None;
        }
        self.otherwise_since = None;
        self.alarm = alarm;
        Some(alarm)
    }

    /// The last reading, in milliseconds.
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn half_of_the_round_trip_is_taken_off() {
        assert_eq!(ahead_ms(10_000, 10_100, Duration::from_millis(200)), 0);
        assert_eq!(ahead_ms(130_000, 10_000, Duration::ZERO), 120_000);
        assert_eq!(ahead_ms(0, 120_000, Duration::ZERO), -120_000);
        assert!(exceeds(i64::MIN, REFUSE) && exceeds(-60_001, REFUSE) && !exceeds(60_000, REFUSE));
        ahead_ms(u64::MAX, 0, Duration::MAX);
    }

    #[test]
    fn the_alarm_goes_on_once_and_off_once() {
        let start = Instant::now();
        let mut watch = ClockWatch::default();
        let readings = [0, 1900, 2100, 2100, 1900, 2100, -2100, 2100, 2100, 1400, 1900, 1400, 1400, 1400, 1400, 1900];
        let mut said = Vec::new();
        for (second, ms) in (0u32..).zip(readings) {
            said.extend(watch.handle_reading(start + second * Duration::from_secs(1), ms).map(|alarm| (second, alarm)));
        }
        assert_eq!(said, [(8, true), (14, false)]);
        assert_eq!(watch.ahead_ms(), 1900);
    }

    #[test]
    fn heartbeats_that_lay_in_the_socket_raise_nothing() {
        let start = Instant::now();
        let mut watch = ClockWatch::default();
        for late in (0..100).rev() {
            assert_eq!(watch.handle_reading(start, -100 * late), None);
        }
        assert_eq!(watch.handle_reading(start + PERSIST, -2100), None);
    }
}
