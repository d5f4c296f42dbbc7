//! What the parts of a recording come to, joined by time.
//!
//! Each node tells the times of its files by its own clock. Those of a cluster are
//! kept close (a node whose clock is far off is not let in), so what is computed from
//! two nodes' times is right to the difference of their clocks; a part's own `lost_ms` depends
//! on one clock less. Where the two disagree, the greater one is shown: a gap is never made smaller
//! than somebody measured it.

use std::cmp::Reverse;

use ferric_media::metadata::MetadataState;
use ferric_media::timestamp::Timestamp;

use crate::catalog_search::CatalogPart;

/// A copy must have this much more than its original to be shown in its place, in ms: they never end in the same moment.
const CLEARLY_LONGER_MS: u64 = 1_000;

/// Keeps one pair of files of each part: of several, those that ended best; of equals, those that have clearly more;
/// else the original. Parts come by number, originals first.
pub(crate) fn one_of_each(parts: &mut Vec<CatalogPart>) {
    let mut kept: Vec<CatalogPart> = Vec::with_capacity(parts.len());
    for part in parts.drain(..) {
        match kept.last_mut() {
            Some(before) if before.number == part.number => {
                if is_better(&part, before) {
                    *before = part;
                }
            }
            _ => kept.push(part),
        }
    }
    *parts = kept;
}

fn is_better(one: &CatalogPart, other: &CatalogPart) -> bool {
    let rank = |part: &CatalogPart| match part.state {
        MetadataState::Complete => 0,
        MetadataState::Recovered => 1,
        MetadataState::Recording => 2,
        MetadataState::Partial => 3,
    };
    let length = |part: &CatalogPart| part.duration_ms.unwrap_or(0);
    match rank(one).cmp(&rank(other)) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Equal => length(one) > length(other).saturating_add(CLEARLY_LONGER_MS),
        std::cmp::Ordering::Greater => false,
    }
}

/// Writes down what is missing before each part.
pub(crate) fn state_gaps(parts: &mut [CatalogPart]) {
    let mut until: Option<Timestamp> = None;
    for part in parts {
        let by_times = until.map_or(0, |until| ms(part.started_at.since(until)));
        part.gap_ms = by_times.max(part.lost_ms.unwrap_or(0));
        until = until.max(part.ended_at);
    }
}

/// Length of the time that any part covers.
pub(crate) fn audible_ms(parts: &[CatalogPart]) -> Option<u64> {
    let mut spans: Vec<(i64, i64)> = parts
        .iter()
        .filter_map(|part| {
            let start = part.started_at.unix_ms();
            let length = i64::try_from(part.duration_ms?).unwrap_or(i64::MAX);
            Some((start, start.saturating_add(length)))
        })
        .collect();
    spans.sort_by_key(|(start, end)| (*start, Reverse(*end)));
    let mut total = None;
    let mut until = i64::MIN;
    for (start, end) in spans {
        let new = end.saturating_sub(start.max(until)).max(0);
        total = Some(total.unwrap_or(0_u64).saturating_add(new.unsigned_abs()));
        until = until.max(end);
    }
    total
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use uuid::Uuid;

    use crate::catalog_update::UploadState;

    fn part(number: u32, start_ms: i64, length_ms: u64) -> CatalogPart {
        let started_at = Timestamp::from_unix_ms(start_ms);
        CatalogPart {
            number,
            file: Uuid::from_u128(u128::from(number)),
            copy: false,
            node: format!("node-{number}"),
            state: MetadataState::Complete,
            started_at,
            ended_at: Some(started_at.plus(std::time::Duration::from_millis(length_ms))),
            duration_ms: Some(length_ms),
            lost_ms: None,
            gap_ms: 0,
            quality: None,
            audio_bytes: None,
            upload: UploadState::Stored,
            upload_error: None,
            store_key: None,
        }
    }

    fn gaps(mut parts: Vec<CatalogPart>) -> Vec<u64> {
        state_gaps(&mut parts);
        parts.iter().map(|part| part.gap_ms).collect()
    }

    #[test]
    fn a_gap_is_what_the_times_or_the_part_itself_say_whichever_is_more() {
        let two = |lost_ms| vec![part(1, 0, 10_000), CatalogPart { lost_ms, ..part(2, 10_400, 5_000) }];
        assert_eq!(gaps(two(None)), [0, 400]);
        assert_eq!(gaps(two(Some(900))), [0, 900], "its media came later than it was ready");
        assert_eq!(gaps(two(Some(100))), [0, 400], "the crash cost the last second of the one before");
        assert_eq!(gaps(vec![part(1, 0, 10_000), part(2, 9_000, 5_000), part(3, 14_100, 10)]), [0, 0, 100]);
        let gone = CatalogPart { ended_at: None, duration_ms: None, state: MetadataState::Recording, ..part(1, 0, 0) };
        assert_eq!(gaps(vec![gone.clone(), part(2, 9_000, 1)]), [0, 0], "nobody knows when it ended");
        assert_eq!(gaps(vec![gone, CatalogPart { lost_ms: Some(700), ..part(2, 9_000, 1) }]), [0, 700]);
    }

    #[test]
    fn a_copy_shows_only_where_it_is_better_than_the_original() {
        let shown = |original: CatalogPart, copy: CatalogPart| {
            let mut parts = vec![original, CatalogPart { copy: true, ..copy }];
            one_of_each(&mut parts);
            assert_eq!(parts.len(), 1);
            parts[0].copy
        };
        let ended = |state, length_ms| CatalogPart { state, ..part(1, 0, length_ms) };
        use MetadataState::{Complete, Partial, Recording, Recovered};
        assert!(!shown(ended(Complete, 10_000), ended(Complete, 10_900)));
        assert!(shown(ended(Complete, 10_000), ended(Complete, 11_001)), "the original was cut off and did not know");
        assert!(shown(ended(Recovered, 10_000), ended(Complete, 20_000)));
        assert!(!shown(ended(Recovered, 10_000), ended(Recording, 0)));
        assert!(shown(ended(Recording, 0), ended(Complete, 20_000)), "the original's node is gone");
        assert!(shown(ended(Partial, 10_000), ended(Recording, 0)));
        assert!(!shown(ended(Partial, 10_000), ended(Partial, 10_000)));
    }

    /// Against a count of every millisecond.
    #[test]
    fn overlaps_count_once_and_gaps_not_at_all() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let count = rng.random_range(1..6);
            let parts: Vec<CatalogPart> =
                (1..=count).map(|number| part(number, rng.random_range(0..300), rng.random_range(0..120))).collect();
            let covered = (0..500_i64)
                .filter(|at| {
                    parts.iter().any(|part| {
                        let start = part.started_at.unix_ms();
                        (start..start + part.duration_ms.unwrap() as i64).contains(at)
                    })
                })
                .count();
            assert_eq!(audible_ms(&parts), Some(covered as u64), "seed {seed}");
        }
        let running = CatalogPart { duration_ms: None, ..part(1, 0, 0) };
        assert_eq!(audible_ms(&[running]), None);
    }
}
