//! The copy's end: a feed, and the clock of the recorder that it drives.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferric_media::mirror::{Feed, moment};
use ferric_media::stream::StreamConfig;

use super::{MirrorLink, MirrorStats, Timeline};

/// A copy, beside its recorder.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) feed: Feed,
    /// Where the recorder's timeline begins.
    pub(crate) base: Instant,
    /// The streams that the call has now.
    pub(crate) streams: Vec<StreamConfig>,
    pub(crate) link: Arc<dyn MirrorLink>,
    stats: Arc<MirrorStats>,
    given_up: u64,
}

impl Follower {
    pub(crate) fn new(
        feed: Feed,
        base: Instant,
        streams: Vec<StreamConfig>,
        link: Arc<dyn MirrorLink>,
        stats: Arc<MirrorStats>,
    ) -> Follower {
        stats.copies.fetch_add(1, Ordering::Relaxed);
        Follower { feed, base, streams, link, stats, given_up: 0 }
    }

    /// Tells the original how far it is, when it is time to.
    pub(crate) fn report(&mut self, now: Instant) {
        if let Some(report) = self.feed.poll_report(now) {
            self.link.report(&report);
        }
        let given_up = self.feed.stats().given_up;
        self.stats.given_up.fetch_add(given_up - self.given_up, Ordering::Relaxed);
        self.given_up = given_up;
    }

    /// How far its recorder was advanced.
    pub(crate) fn reached(&self) -> Instant {
        moment(self.base, self.feed.advanced_us().unwrap_or(0))
    }

    /// The timeline for what is heard here from now on; frames took at least `delay` on their way.
    pub(crate) fn timeline(&self, now: Instant, delay: Duration) -> Timeline {
        let reached = self.reached();
        let zero = self.feed.zero().map(|zero| zero.checked_sub(delay).unwrap_or(zero));
        match zero {
            Some(zero) => Timeline::shifted(zero, self.base, reached),
            None => Timeline::shifted(now, reached, reached),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stats.copies.fetch_sub(1, Ordering::Relaxed);
    }
}
