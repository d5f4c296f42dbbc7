//! Simulated time. The one real clock reading only gives an `Instant` to count from.

use std::time::{Duration, Instant};

/// A clock that moves when told to, and never back.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: Instant,
    now: Instant,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    /// A clock at zero.
    pub fn new() -> Clock {
        let epoch = Instant::now();
        Clock { epoch, now: epoch }
    }

    /// The simulated instant.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Simulated time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.epoch
    }

    /// The instant `after` the start.
    pub fn at(&self, after: Duration) -> Instant {
        self.epoch + after
    }

    /// Moves on to `to`; an instant of the past changes nothing.
    pub fn advance_to(&mut self, to: Instant) {
        self.now = self.now.max(to);
    }

    /// Moves on by `by`.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back() {
        let mut clock = Clock::new();
        clock.advance(Duration::from_secs(5));
        clock.advance_to(clock.at(Duration::from_secs(3)));
        assert_eq!(clock.elapsed(), Duration::from_secs(5));
        clock.advance_to(clock.at(Duration::from_secs(7)));
        assert_eq!(clock.elapsed(), Duration::from_secs(7));
    }
}
