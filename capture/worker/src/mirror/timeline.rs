//! Local time to a recorder's time.
//!
//! A call that began here has its recorder on the local clock. A copy's recorder has the journal's; when the copy is
//! promoted it goes on with local packets, so local moments are shifted onto its timeline. That never runs backwards.

use std::time::Instant;

/// How the local clock stands to a recorder's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timeline(Option<Shift>);

#[derive(Debug, Clone, Copy)]
struct Shift {
    /// The same moment, locally and for the recorder.
    here: Instant,
    there: Instant,
    /// The recorder was here already.
    least: Instant,
}

impl Timeline {
    /// `here` is `there` for the recorder, which has come to `least`.
    pub(crate) fn shifted(here: Instant, there: Instant, least: Instant) -> Timeline {
        Timeline(Some(Shift { here, there, least }))
    }

    /// When something arrived, for the recorder.
    pub(crate) fn arrival(&self, at: Instant) -> Instant {
        let Some(shift) = self.0 else { return at };
        let before = shift.here.saturating_duration_since(at);
        let after = at.saturating_duration_since(shift.here);
        shift.there.checked_sub(before).unwrap_or(shift.there) + after
    }

    /// Now, for the recorder.
    pub(crate) fn now(&self, now: Instant) -> Instant {
        let moment = self.arrival(now);
        self.0.map_or(moment, |shift| moment.max(shift.least))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn local_moments_come_onto_the_recorders_timeline_and_not_before_where_it_is() {
        let second = Duration::from_secs(1);
        let start = Instant::now() + second * 100;
        assert_eq!(Timeline::default().now(start), start);
        let timeline = Timeline::shifted(start, start + second * 50, start + second * 52);
        assert_eq!(timeline.arrival(start + second), start + second * 51);
        assert_eq!(timeline.arrival(start - second), start + second * 49);
        assert_eq!(timeline.now(start + second), start + second * 52);
        assert_eq!(timeline.now(start + second * 3), start + second * 53);
    }
}
