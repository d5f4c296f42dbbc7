//! The original's end: a tap and the link that its frames take.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ferric_media::mirror::{Report, Tap};

use super::{BEHIND, MirrorLink, MirrorStats};

/// A call's mirror, where the call is.
#[derive(Debug)]
pub(crate) struct Original {
    pub(crate) tap: Tap,
    link: Arc<dyn MirrorLink>,
    stats: Arc<MirrorStats>,
    again: u64,
    /// The copy has said that it follows.
    pub(crate) followed: bool,
    behind: bool,
}

impl Original {
    pub(crate) fn new(tap: Tap, link: Arc<dyn MirrorLink>, stats: Arc<MirrorStats>) -> Original {
        stats.originals.fetch_add(1, Ordering::Relaxed);
        Original { tap, link, stats, again: 0, followed: false, behind: false }
    }

    /// Sends what the tap made. A frame of media that cannot go is asked for again; so is a control.
    pub(crate) fn flush(&mut self, now: Instant) {
        while let Some(frame) = self.tap.poll_output() {
            if !self.link.frame(frame) {
                self.stats.unsent.fetch_add(1, Ordering::Relaxed);
            }
        }
        let again = self.tap.stats().again;
        self.stats.again.fetch_add(again - self.again, Ordering::Relaxed);
        self.again = again;
        let behind = self.tap.silent_for(now) >= BEHIND;
        if behind != self.behind {
            self.behind = behind;
            match behind {
                true => self.stats.behind.fetch_add(1, Ordering::Relaxed),
                false => self.stats.behind.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }

    /// Takes a report, and sends what it lacks.
    pub(crate) fn report(&mut self, now: Instant, report: &Report) {
        self.followed |= report.next > 0;
        self.tap.handle_report(report);
        self.flush(now);
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        self.stats.originals.fetch_sub(1, Ordering::Relaxed);
        if self.behind {
            self.stats.behind.fetch_sub(1, Ordering::Relaxed);
        }
        if self.tap.is_broken() {
            self.stats.broken.fetch_add(1, Ordering::Relaxed);
        }
    }
}
