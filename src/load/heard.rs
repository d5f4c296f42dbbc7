//! What of marked audio came out in the recordings of a call: which 20 ms are missing, which are there twice, and what
//! is there that the call never said.
//!
//! Each part of a recording lies on the clock by its start, so a frame has a place where it must be. It is looked for
//! there, to the sample, by correlation with what was sent; codecs shift it by a few milliseconds, which is found once
//! and then followed. A frame counts as heard when the likeness is above [`ALIKE`]: noise of other frames stays far
//! below. Sound in which no frame was found is concealment of a loss, or does not belong there.

use super::marks::{FRAME, frame};

/// Samples per second at which recordings are compared.
pub(crate) const RATE: u64 = 8_000;
/// Likeness from which on two pieces of 20 ms are the same.
const ALIKE: f32 = 0.5;
/// The codec's own delay changes by no more than this from frame to frame, in samples.
const STEP: i64 = 12;
/// What a clock correction or a jitter buffer may move audio by, in samples: 60 ms.
const JUMP: i64 = 480;
/// How far from its place a part may lie altogether, in samples: half a second.
const ASTRAY: i64 = 4_000;
/// Sound louder than this is no silence, as root mean square.
const LOUD: f32 = 250.0;
/// Every so many frames that are not found, the part is searched further around.
const SEARCH_EVERY: u64 = 10;
/// So many pieces of strange sound of a stream are compared with all others of the run; it takes long.
const COMPARED: u32 = 20;

/// What one stream of a call said.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// Its mark.
    pub(crate) mark: u64,
    /// When frame 0 was sent, in microseconds since 1970.
    pub(crate) began_us: u64,
    /// Frames that had their time.
    pub(crate) steps: u64,
    /// First and last of the runs of frames that were not sent.
    pub(crate) held: Vec<(u64, u64)>,
}

/// One channel of a part of a recording.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// When it begins, in microseconds since 1970.
    pub(crate) began_us: u64,
    /// At [`RATE`].
    pub(crate) samples: Vec<f32>,
}

/// What became of one stream. Runs are first and last frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Frames that are in no part.
    pub(crate) lost: Vec<(u64, u64)>,
    /// Frames that are in two parts.
    pub(crate) doubled: Vec<(u64, u64)>,
    /// Milliseconds of sound that is no frame of the stream.
    pub(crate) strange_ms: u64,
    /// Milliseconds of it that another stream of the run said at that time, as far as [`COMPARED`] goes.
    pub(crate) foreign_ms: u64,
    /// The most that a frame lay away from its place on the clock, in milliseconds.
    pub(crate) astray_ms: u64,
}

/// Milliseconds of some runs.
pub(crate) fn total_ms(runs: &[(u64, u64)]) -> u64 {
    runs.iter().map(|(first, last)| (last - first + 1) * 20).sum()
}

/// Milliseconds of the longest run.
pub(crate) fn longest_ms(runs: &[(u64, u64)]) -> u64 {
    runs.iter().map(|(first, last)| (last - first + 1) * 20).max().unwrap_or(0)
}

/// Looks for all that a stream said in the parts of its channel; `others` are the streams whose words must not be there.
pub(crate) fn listen(said: &Said, parts: &[Part], others: &[Said]) -> Heard {
    let mut heard = Heard::default();
    let mut found = vec![0_u32; usize::try_from(said.steps).unwrap_or(0)];
    for part in parts {
        let places = places(said, part);
        for (place, number) in places.iter().zip(&mut found) {
            *number += u32::from(place.is_some());
        }
        let expected = |index: u64| place_of(said, part, index);
        let off = (0..).zip(&places).filter_map(|(index, place)| place.map(|place| (place - expected(index)).abs()));
        heard.astray_ms = heard.astray_ms.max(off.max().unwrap_or(0).unsigned_abs() * 1_000 / RATE);
        listen_between(part, &places, others, &mut heard);
    }
    let held = |index: u64| said.held.iter().any(|(first, last)| (*first..=*last).contains(&index));
    for (index, number) in (0..).zip(&found) {
        match number {
            0 if !held(index) => extend(&mut heard.lost, index),
            0 | 1 => {}
            _ => extend(&mut heard.doubled, index),
        }
    }
    heard
}

fn extend(runs: &mut Vec<(u64, u64)>, index: u64) {
    match runs.last_mut() {
        Some((_, last)) if *last + 1 == index => *last = index,
        _ => runs.push((index, index)),
    }
}

/// Where in a part a frame must begin, by the clock, in samples.
fn place_of(said: &Said, part: &Part, index: u64) -> i64 {
    let signed = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    (signed(said.began_us) + signed(index * 20_000) - signed(part.began_us)) * 8 / 1_000
}

/// Where in a part each frame begins, if it is there.
fn places(said: &Said, part: &Part) -> Vec<Option<i64>> {
    let length = i64::try_from(part.samples.len()).unwrap_or(i64::MAX);
    let mut places = Vec::new();
    let (mut shift, mut missed) = (None, 0_u64);
    for index in 0..said.steps {
        let place = place_of(said, part, index);
        if place < -ASTRAY || place > length + ASTRAY {
            places.push(None);
            continue;
        }
        let wanted = frame(said.mark, index).map(f32::from);
        let near = |around: i64, by: i64| best(&wanted, &part.samples, place + around, by);
        let around = shift.unwrap_or(0);
        let is_near = (-JUMP..length + JUMP).contains(&place);
        let hit = if is_near { near(around, STEP).or_else(|| near(around, JUMP)) } else { None };
        let hit = match hit {
            None if missed.is_multiple_of(SEARCH_EVERY) => near(0, ASTRAY),
            hit => hit,
        };
        missed = if hit.is_some() { 1 } else { missed + 1 };
        shift = hit.map(|at| at - place).or(shift);
        places.push(hit);
    }
    places
}

/// Where `wanted` is in `samples`, within `by` of `around`.
fn best(wanted: &[f32; FRAME], samples: &[f32], around: i64, by: i64) -> Option<i64> {
    let alike = (around - by..=around + by).filter_map(|at| Some((at, likeness(wanted, samples, at)?)));
    alike.max_by(|(_, a), (_, b)| a.total_cmp(b)).filter(|(_, alike)| *alike >= ALIKE).map(|(at, _)| at)
}

/// How alike two pieces are: 1 if they are the same but for loudness. None for silence, and outside of the samples.
fn likeness(wanted: &[f32; FRAME], samples: &[f32], at: i64) -> Option<f32> {
    let at = usize::try_from(at).ok()?;
    let piece = samples.get(at..at + FRAME)?;
    let (mut both, mut ours, mut theirs) = (0.0, 0.0, 0.0);
    for (a, b) in wanted.iter().zip(piece) {
        both += a * b;
        ours += a * a;
        theirs += b * b;
    }
    #[allow(clippy::cast_precision_loss)]
    let loud = theirs > LOUD * LOUD * FRAME as f32;
    loud.then(|| both / (ours * theirs).sqrt())
}

/// Sound of a part in which no frame was found.
fn listen_between(part: &Part, places: &[Option<i64>], others: &[Said], heard: &mut Heard) {
    let mut covered = vec![false; part.samples.len()];
    for at in places.iter().flatten().filter_map(|at| usize::try_from(*at).ok()) {
        covered.iter_mut().skip(at).take(FRAME).for_each(|sample| *sample = true);
    }
    let mut compared = 0;
    let (pieces, covers) = (part.samples.chunks_exact(FRAME), covered.chunks_exact(FRAME));
    for (number, (piece, covered)) in pieces.zip(covers).enumerate() {
        #[allow(clippy::cast_precision_loss)]
        let energy = piece.iter().map(|sample| sample * sample).sum::<f32>() / FRAME as f32;
        if covered.iter().any(|covered| *covered) || energy < LOUD * LOUD {
            continue;
        }
        heard.strange_ms += 20;
        let at = i64::try_from(number * FRAME).unwrap_or(i64::MAX);
        if compared < COMPARED {
            compared += 1;
            heard.foreign_ms += if others.iter().any(|other| says(other, part, at)) { 20 } else { 0 };
        }
    }
}

/// Whether a stream of another call said what a part has at this place.
fn says(other: &Said, part: &Part, at: i64) -> bool {
    let place = |index: u64| place_of(other, part, index);
    let first = place(0);
    let near = (at - first) / i64::try_from(FRAME).unwrap_or(1);
    let frames =
        (near - 5..near + 5).filter_map(|index| u64::try_from(index).ok()).filter(|index| *index < other.steps);
    frames.into_iter().any(|index| best(&frame(other.mark, index).map(f32::from), &part.samples, at, 160).is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ferric_codecs::g711;
    use ferric_codecs::opus::{OpusDecoder, OpusEncoder, OpusSettings};

    use super::super::marks::mark;
    use super::*;

    fn said(call: u64, steps: u64) -> Said {
        Said { mark: mark(1, call, 0), began_us: 1_000_000_000, steps, held: vec![] }
    }

    /// What a recorder makes of frames that come `late_ms` after its start: mu-law, then Opus of 20 kbit/s.
    fn record(pieces: &[(&Said, std::ops::Range<u64>)], late_ms: u64) -> Part {
        let mut heard = vec![0_i16; usize::try_from(late_ms * 8).unwrap()];
        for (said, frames) in pieces {
            for index in frames.clone() {
                let mut coded = Vec::new();
                g711::encode_ulaw(&frame(said.mark, index), &mut coded);
                g711::decode_ulaw(&coded, &mut heard);
            }
        }
        let settings = OpusSettings { bitrate: 20_000, complexity: 1, frame_ms: 20 };
        let (mut encoder, mut decoder) = (OpusEncoder::new(8_000, settings).unwrap(), OpusDecoder::new(8_000).unwrap());
        let mut out = Vec::new();
        heard.resize(heard.len().next_multiple_of(FRAME) + FRAME, 0);
        for frame in heard.chunks_exact(FRAME) {
            decoder.decode(encoder.encode(frame).unwrap(), &mut out).unwrap();
        }
        let began_us = 1_000_000_000 + pieces[0].1.start * 20_000 - late_ms * 1_000;
        Part { began_us, samples: out.into_iter().map(f32::from).collect() }
    }

    #[test]
    fn a_whole_call_is_heard_as_a_whole() {
        let said = said(0, 500);
        let heard = listen(&said, &[record(&[(&said, 0..500)], 47)], &[]);
        assert!(heard.astray_ms < 10, "{heard:?}");
        assert_eq!((heard.lost, heard.doubled, heard.foreign_ms), (vec![], vec![], 0));
    }

    #[test]
    fn what_is_missing_between_two_parts_is_counted_to_the_frame() {
        let said = Said { held: vec![(350, 359)], ..said(0, 400) };
        for second in 131..141 {
            let parts =
                [record(&[(&said, 0..100)], 40), record(&[(&said, second..350)], 13), record(&[(&said, 360..400)], 0)];
            let heard = listen(&said, &parts, &[]);
            assert_eq!(heard.lost, [(100, second - 1)], "a part is heard from its first frame on");
            assert_eq!((total_ms(&heard.lost), longest_ms(&heard.lost)), ((second - 100) * 20, (second - 100) * 20));
        }
    }

    #[test]
    fn what_two_parts_have_is_doubled() {
        let said = said(0, 300);
        let parts = [record(&[(&said, 0..200)], 40), record(&[(&said, 190..300)], 0)];
        let heard = listen(&said, &parts, &[]);
        assert_eq!((heard.lost, heard.doubled), (vec![], vec![(190, 199)]));
    }

    #[test]
    fn the_words_of_another_call_are_found() {
        let (own, other) = (said(0, 300), said(1, 300));
        let part = record(&[(&own, 0..100), (&other, 100..150), (&own, 150..300)], 20);
        let heard = listen(&own, std::slice::from_ref(&part), std::slice::from_ref(&other));
        assert_eq!(heard.lost, [(100, 149)]);
        assert!((300..=400).contains(&heard.foreign_ms), "{heard:?}");
        assert_eq!(listen(&own, &[part], &[]).foreign_ms, 0);
    }
}
