//! Where a channel holds no audio of its party, and why.
//!
//! A bounded list: neighbours of one cause that lie close together merge, and
//! when the list is full so do the closest two. Totals stay exact whatever merges.

use serde::Serialize;

/// Intervals kept of one stream.
const MAX_GAPS: usize = 256;
/// Gaps closer than this are one, in ms.
const CLOSE_MS: u64 = 20;

/// Why there is no audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// Packets were lost or came too late.
    Loss,
    /// Nothing was sent although the stream was active.
    NoMedia,
    /// The stream was inactive by signalling.
    Hold,
    /// The recording was paused.
    Pause,
}

/// An interval of call time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Beginning, ms since the recording began.
    pub start_ms: u64,
    /// End, ms since the recording began.
    pub end_ms: u64,
    /// Why.
    pub cause: GapCause,
}

/// The gaps of one stream, or the pauses of a recording.
#[derive(Debug, Clone, Default)]
pub struct GapList {
    gaps: Vec<Gap>,
    total_ms: [u64; 4],
}

impl GapList {
    /// Adds an interval; empty ones are ignored.
    pub fn add(&mut self, start_ms: u64, end_ms: u64, cause: GapCause) {
        if end_ms <= start_ms {
            return;
        }
        if let Some(total) = self.total_ms.get_mut(cause as usize) {
            *total += end_ms - start_ms;
        }
        if let Some(last) =
            self.gaps.last_mut().filter(|last| last.cause == cause && start_ms <= last.end_ms + CLOSE_MS)
        {
            last.end_ms = last.end_ms.max(end_ms);
            return;
        }
        self.gaps.push(Gap { start_ms, end_ms, cause });
        if self.gaps.len() > MAX_GAPS {
            self.merge_closest();
        }
    }

    /// Makes room: the two neighbours with the least between them become one,
    /// two of one cause before two that differ.
    fn merge_closest(&mut self) {
        let pairs = self.gaps.iter().zip(self.gaps.iter().skip(1)).enumerate();
        let closest = pairs.min_by_key(|(_, (a, b))| (a.cause != b.cause, b.start_ms.saturating_sub(a.end_ms)));
        let Some((at, (first, second))) = closest.map(|(at, (a, b))| (at, (*a, *b))) else { return };
        let longer = if second.end_ms - second.start_ms > first.end_ms - first.start_ms { second } else { first };
        self.gaps.remove(at + 1);
        if let Some(merged) = self.gaps.get_mut(at) {
            *merged = Gap { start_ms: first.start_ms, end_ms: second.end_ms.max(first.end_ms), cause: longer.cause };
        }
    }

    /// In order of time.
    pub fn list(&self) -> &[Gap] {
        &self.gaps
    }

    /// Exact total of a cause, in ms.
    pub fn total_ms(&self, cause: GapCause) -> u64 {
        self.total_ms.get(cause as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn neighbours_of_one_cause_merge() {
        let mut list = GapList::default();
        list.add(100, 120, GapCause::Loss);
        list.add(120, 160, GapCause::Loss);
        list.add(170, 190, GapCause::Pause);
        list.add(190, 190, GapCause::Loss);
        assert_eq!(list.list().len(), 2);
        assert_eq!(list.list()[0], Gap { start_ms: 100, end_ms: 160, cause: GapCause::Loss });
        assert_eq!(list.total_ms(GapCause::Loss), 60);
    }

    #[test]
    fn any_number_of_gaps_stays_bounded_and_counted() {
        let mut list = GapList::default();
        for n in 0..100_000 {
            list.add(n * 400, n * 400 + 20, if n % 3 == 0 { GapCause::Loss } else { GapCause::NoMedia });
        }
        assert!(list.list().len() <= MAX_GAPS);
        assert_eq!(list.total_ms(GapCause::Loss) + list.total_ms(GapCause::NoMedia), 2_000_000);
    }
}
