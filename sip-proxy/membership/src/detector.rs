//! The failure detector of one link: alive, suspect, dead.
//!
//! ```text
//! heard           half of the misses        all of the misses
//!   |-- Alive --------|-- Suspect ---------------|-- Dead
//! ```
//!
//! A heartbeat heard brings a suspect back; from dead only a new link leads back.
//!
//! **A node that was itself asleep** (stopped, swapped out, a paused virtual machine) finds every deadline passed at
//! once, while the heartbeats lie unread in its sockets. So the one that drives detectors says how late it woke
//! ([`Detector::forgive`]), and that time counts for nobody.

use std::time::{Duration, Instant};

/// How often heartbeats are sent, and how many may be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The time between two heartbeats.
    pub interval: Duration,
    /// So many missed in a row mean death.
    pub misses: u32,
}

impl Beat {
    /// Inside a site: 500 ms until death.
    pub const INSIDE: Self = Self { interval: Duration::from_millis(100), misses: 5 };
    /// Between sites: 2 s until death.
    pub const BETWEEN: Self = Self { interval: Duration::from_millis(400), misses: 5 };

    /// A beat within what makes sense: 10 ms to 10 s, 2 to 100 misses. Peers say theirs, so it is checked.
    pub fn bounded(interval: Duration, misses: u32) -> Self {
        let interval = interval.clamp(Duration::from_millis(10), Duration::from_secs(10));
        Self { interval, misses: misses.clamp(2, 100) }
    }

    /// What two differently configured nodes use: the more patient values.
    #[must_use]
    pub fn agree(self, other: Self) -> Self {
        Self { interval: self.interval.max(other.interval), misses: self.misses.max(other.misses) }
    }

    /// Silence that means death.
    pub fn dead_after(self) -> Duration {
        self.interval * self.misses
    }

    /// Silence that raises suspicion: half of the misses, rounded up, and more than one heartbeat lost.
    pub fn suspect_after(self) -> Duration {
        (self.interval * self.misses.div_ceil(2).max(2)).min(self.dead_after())
    }
}

/// What a look at the clock found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Became suspect just now.
    Suspect,
    /// Silent for too long.
    Dead {
        /// For how long.
        silent: Duration,
    },
}

/// Judges one link by its heartbeats.
#[derive(Debug)]
pub struct Detector {
    beat: Beat,
    heard: Instant,
    suspect: bool,
}

impl Detector {
    /// A detector of a link that came up now.
    pub fn new(now: Instant, beat: Beat) -> Self {
        Self { beat, heard: now, suspect: false }
    }

    /// The beat of the link.
    pub fn beat(&self) -> Beat {
        self.beat
    }

    /// Whether the peer is under suspicion.
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// When the peer was heard last.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// A heartbeat came; says whether it ended a suspicion.
    pub fn handle_heartbeat(&mut self, now: Instant) -> bool {
        self.heard = self.heard.max(now);
        std::mem::take(&mut self.suspect)
    }

    /// This node itself was late by `late`: that time is not the peer's silence.
    pub fn forgive(&mut self, now: Instant, late: Duration) {
        self.heard = self.heard.checked_add(late).map_or(now, |at| at.min(now).max(self.heard));
    }

    /// Looks at the clock.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Verdict> {
        let silent = now.saturating_duration_since(self.heard);
        if silent >= self.beat.dead_after() {
            return Some(Verdict::Dead { silent });
        }
        if !self.suspect && silent >= self.beat.suspect_after() {
            self.suspect = true;
            return Some(Verdict::Suspect);
        }
        None
    }

    /// When to look at the clock next.
    pub fn poll_timeout(&self) -> Instant {
        self.heard + if self.suspect { self.beat.dead_after() } else { self.beat.suspect_after() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_default_beats_are_half_a_second_and_two() {
        assert_eq!(Beat::INSIDE.dead_after(), 500 * MS);
        assert_eq!(Beat::BETWEEN.dead_after(), 2000 * MS);
        assert_eq!(Beat::INSIDE.suspect_after(), 300 * MS);
        assert_eq!(Beat::bounded(Duration::ZERO, 0).suspect_after(), 20 * MS);
    }

    #[test]
    fn silence_is_suspect_then_dead_and_each_is_said_once() {
        let start = Instant::now();
        let mut detector = Detector::new(start, Beat::INSIDE);
        let mut said = Vec::new();
        for at in 0..=500 {
            if let Some(verdict) = detector.handle_timeout(start + at * MS) {
                said.push((at, verdict));
            }
        }
        assert_eq!(said, [(300, Verdict::Suspect), (500, Verdict::Dead { silent: 500 * MS })]);
    }

    #[test]
    fn four_losses_in_a_row_are_survived() {
        let start = Instant::now();
        let mut detector = Detector::new(start, Beat::INSIDE);
        let mut dead = false;
        for beat in 1..200u32 {
            let now = start + beat * 100 * MS;
            if beat % 5 == 0 {
                assert!(detector.handle_heartbeat(now - MS), "it had become suspect");
            }
            dead |= matches!(detector.handle_timeout(now), Some(Verdict::Dead { .. }));
        }
        assert!(!dead);
    }

    #[test]
    fn the_deadline_is_when_the_verdict_falls() {
        let start = Instant::now();
        let mut detector = Detector::new(start, Beat::BETWEEN);
        let at = detector.poll_timeout();
        assert_eq!(detector.handle_timeout(at - MS), None);
        assert_eq!(detector.handle_timeout(at), Some(Verdict::Suspect));
        let at = detector.poll_timeout();
        assert_eq!(detector.handle_timeout(at - MS), None);
        assert!(matches!(detector.handle_timeout(at), Some(Verdict::Dead { .. })));
    }

    #[test]
    fn own_sleep_is_no_silence_of_the_peer() {
        let start = Instant::now();
        let mut detector = Detector::new(start, Beat::INSIDE);
        let woke = start + 10_000 * MS;
        detector.forgive(woke, 9_900 * MS); // it was due at 100 ms
        assert_eq!(detector.handle_timeout(woke), None);
        assert!(
            matches!(detector.handle_timeout(woke + 400 * MS), Some(Verdict::Dead { .. })),
            "silence before and after counts"
        );
        detector.forgive(woke, Duration::MAX);
        assert_eq!(detector.heard(), woke, "never into the future");
    }
}
