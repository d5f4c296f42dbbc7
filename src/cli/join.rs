//! Several parts of a recording as one piece of sound.
//!
//! Each sealed file says which part of which recording it is and when it began; how long it is shows when it is opened.
//! [`plan`] lays the parts beside each other on one timeline: silence where nobody recorded, what two parts both have is
//! taken from the earlier one. Of a part and its copy one is taken, the copy only where it has clearly more. Numbers tell
//! the order: a later part whose clock says that it began before the earlier one follows it without a gap instead of being
//! cut away.
//!
//! Nothing is held in memory: each file is opened twice, first to measure it, then to decode it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;

/// A copy must have this much more than its original to be taken in its place.
const CLEARLY_LONGER: Duration = Duration::from_secs(1);
/// Deepest folder in which parts are looked for.
const DEPTH: usize = 8;

/// A part as its file tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: PathBuf,
    pub(crate) part: Part,
    pub(crate) started_at: Timestamp,
    pub(crate) length: Duration,
}

/// A part in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) piece: Piece,
    /// Nobody recorded between what lies before it and it.
    pub(crate) gap: Duration,
    /// Its beginning that an earlier part has too, and that is left out.
    pub(crate) overlap: Duration,
    /// Its clock says that it began before the part before it.
    pub(crate) is_early: bool,
}

/// A recording's parts on one timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) stretches: Vec<Stretch>,
    /// Files that are not taken: another has the same part.
    pub(crate) spare: Vec<PathBuf>,
    /// Numbers between 1 and the last that no file has.
    pub(crate) absent: Vec<u32>,
}

impl Plan {
    /// Length of the whole.
    pub(crate) fn length(&self) -> Duration {
        self.stretches.iter().map(|stretch| stretch.gap + (stretch.piece.length - stretch.overlap)).sum()
    }

    /// What nobody recorded.
    pub(crate) fn gaps(&self) -> Duration {
        self.stretches.iter().map(|stretch| stretch.gap).sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
        for stretch in &self.stretches {
            let Piece { file, part, started_at, length } = &stretch.piece;
            if !stretch.gap.is_zero() {
                writeln!(f, "  gap     {} of silence: nobody recorded", seconds(stretch.gap))?;
            }
            let copy = if part.copy { ", a copy" } else { "" };
            writeln!(f, "  part {:<2} {} from {started_at}{copy}  {}", part.number, seconds(*length), file.display())?;
            if !stretch.overlap.is_zero() {
                writeln!(f, "          its first {} are in the part before too", seconds(stretch.overlap))?;
            }
            if stretch.is_early {
                writeln!(f, "          its clock was behind: it follows the part before without a gap")?;
            }
        }
        for spare in &self.spare {
            writeln!(f, "  left out {}: another file has the same part", spare.display())?;
        }
        for number in &self.absent {
            writeln!(f, "  there is no part {number}: nothing came of it, or its file is not among these")?;
        }
        write!(f, "  {} in all, {} of it missing", seconds(self.length()), seconds(self.gaps()))
    }
}

/// Lays parts of one recording on a timeline; they come in any order.
///
/// # Errors
/// They are of several recordings.
pub(crate) fn plan(mut pieces: Vec<Piece>) -> anyhow::Result<Plan> {
    let Some(recording) = pieces.first().map(|piece| piece.part.recording) else { return Ok(Plan::default()) };
    if let Some(other) = pieces.iter().find(|piece| piece.part.recording != recording) {
        bail!("these are parts of two recordings, {recording} and {}: give those of one", other.part.recording);
    }
    pieces.sort_by_key(|piece| (piece.part.number, piece.part.copy, piece.started_at, piece.part.file));
    let mut plan = Plan::default();
    let mut chosen: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match chosen.last_mut().filter(|before| before.part.number == piece.part.number) {
            Some(before) if piece.length > before.length + CLEARLY_LONGER => {
                plan.spare.push(std::mem::replace(before, piece).file);
            }
            Some(_) => plan.spare.push(piece.file),
            None => chosen.push(piece),
        }
    }
    let mut expected = 1;
    let mut before: Option<(Timestamp, Timestamp)> = None;
    for piece in chosen {
        plan.absent.extend(expected..piece.part.number.get());
        expected = piece.part.number.get().saturating_add(1);
        let (start, until) = before.unwrap_or((piece.started_at, piece.started_at));
        let is_early = piece.started_at < start;
        let from = if is_early { until } else { piece.started_at };
        let overlap = until.since(from).min(piece.length);
        before = Some((from, until.max(from.plus(piece.length))));
        plan.stretches.push(Stretch { gap: from.since(until), overlap, is_early, piece });
    }
    Ok(plan)
}

/// Every sealed recording at or below a path.
pub(crate) fn find(path: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if path.is_dir() { walk(path, 0, found) } else { Ok(found.push(path.to_owned())) }
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() && depth < DEPTH {
            walk(&path, depth + 1, found)?;
        } else if path.is_file() && path.extension().is_some_and(|extension| extension == "eopus") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom as _;
    use rand::{RngExt as _, SeedableRng as _};
    use uuid::Uuid;

    fn piece(number: u32, start_ms: i64, length_ms: u64) -> Piece {
        Piece {
            file: format!("{number}.eopus").into(),
            part: Part::new(Uuid::from_u128(7), number, Uuid::from_u128(u128::from(number))),
            started_at: Timestamp::from_unix_ms(start_ms),
            length: Duration::from_millis(length_ms),
        }
    }

    /// Number, gap and overlap of each.
    fn laid(pieces: Vec<Piece>) -> Vec<(u32, u64, u64)> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
        let plan = plan(pieces).unwrap();
        plan.stretches.iter().map(|one| (one.piece.part.number.get(), ms(one.gap), ms(one.overlap))).collect()
    }

    #[test]
    fn gaps_are_silence_and_overlaps_are_taken_once() {
        assert_eq!(laid(vec![piece(2, 10_700, 5_000), piece(1, 0, 10_000)]), [(1, 0, 0), (2, 700, 0)]);
        assert_eq!(laid(vec![piece(1, 0, 10_000), piece(2, 9_000, 5_000)]), [(1, 0, 0), (2, 0, 1_000)]);
        // The part before went on for longer than this one lasted.
        assert_eq!(
            laid(vec![piece(1, 0, 60_000), piece(2, 9_000, 5_000), piece(3, 60_500, 1)]),
            [(1, 0, 0), (2, 0, 5_000), (3, 500, 0)]
        );
        assert_eq!(laid(vec![piece(1, 0, 0)]), [(1, 0, 0)]);
        assert_eq!(plan(Vec::new()).unwrap(), Plan::default());
    }

    #[test]
    fn a_clock_that_is_behind_cuts_nothing_away() {
        let plan = plan(vec![piece(1, 100_000, 10_000), piece(2, 20_000, 5_000), piece(3, 116_000, 1_000)]).unwrap();
        assert!(plan.stretches[1].is_early && !plan.stretches[2].is_early);
        assert_eq!((plan.length(), plan.gaps()), (Duration::from_secs(17), Duration::from_secs(1)));
        assert_eq!(plan.stretches[1].overlap, Duration::ZERO);
    }

    #[test]
    fn a_copy_is_taken_where_the_original_is_missing_or_has_less() {
        let copy = |mut of: Piece| {
            of.part = of.part.copied(Uuid::from_u128(99));
            of.file = "copy.eopus".into();
            of
        };
        let taken = |pieces: Vec<Piece>| {
            let plan = plan(pieces).unwrap();
            (plan.stretches[0].piece.part.copy, plan.spare.len())
        };
        assert_eq!(taken(vec![copy(piece(1, 5, 10_000)), piece(1, 0, 10_000)]), (false, 1));
        assert_eq!(taken(vec![copy(piece(1, 0, 10_900)), piece(1, 0, 10_000)]), (false, 1));
        assert_eq!(taken(vec![copy(piece(1, 0, 12_000)), piece(1, 0, 10_000)]), (true, 1));
        assert_eq!(taken(vec![copy(piece(1, 0, 12_000))]), (true, 0));
    }

    #[test]
    fn parts_of_two_recordings_are_refused_and_absent_ones_named() {
        let mut other = piece(2, 0, 1);
        other.part.recording = Uuid::from_u128(8);
        assert!(plan(vec![piece(1, 0, 1), other]).unwrap_err().to_string().contains("two recordings"));
        assert_eq!(plan(vec![piece(5, 9, 1), piece(2, 0, 1)]).unwrap().absent, [1, 3, 4]);
    }

    /// Every millisecond that some part has is in the result once and in its place, whatever the order of the files.
    #[test]
    fn nothing_is_lost_or_doubled() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut start = 0;
            let mut pieces = Vec::new();
            for number in 1..=rng.random_range(1..7) {
                pieces.push(piece(number, start, rng.random_range(0..100)));
                start += rng.random_range(0..120);
            }
            let covered = |at: u64| {
                pieces.iter().any(|piece| {
                    let start = u64::try_from(piece.started_at.unix_ms()).unwrap();
                    (start..start + u64::try_from(piece.length.as_millis()).unwrap()).contains(&at)
                })
            };
            let mut shuffled = pieces.clone();
            shuffled.shuffle(&mut rng);
            let plan = plan(shuffled).unwrap();
            let mut audible = Vec::new();
            for stretch in &plan.stretches {
                audible.extend(vec![false; usize::try_from(stretch.gap.as_millis()).unwrap()]);
                let rest = stretch.piece.length - stretch.overlap;
                audible.extend(vec![true; usize::try_from(rest.as_millis()).unwrap()]);
            }
            for (at, heard) in audible.iter().enumerate() {
                assert_eq!(*heard, covered(at as u64), "seed {seed}, {at} ms");
            }
            assert!(!(audible.len() as u64..2_000).any(covered), "seed {seed}: nothing is missing at the end");
            assert_eq!(plan.length().as_millis(), audible.len() as u128);
        }
    }
}
