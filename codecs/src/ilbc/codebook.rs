//! The residual of a frame: a start state, and sub-frames that a codebook of what is decoded already predicts
//! forwards and backwards from it (RFC 3951 3.5, 3.6, 4.2 to 4.4).
//!
//! ```text
//! |  sub-frame 1  |  2  |   start state, 80 samples   |  5  |  6  |
//!   <- backwards, time reversed                         forwards ->
//! ```
//!
//! Nothing goes from one frame to the next, so a lost frame spoils only itself.

use super::FrameSize;
use super::bits::{Parameters, STATE_MOST, Vector};
use super::lsf::{Filter, LOUDEST, synthesise};
use super::tables::{CODEBOOK_FADE, CODEBOOK_FILTER, GAIN_THIRD, ORDER, STATE_MAXIMUM, STATE_SAMPLE};

/// Samples of a sub-frame.
pub(super) const SUB_FRAME: usize = 40;
/// Samples of the longest frame.
pub(super) const FRAME_MOST: usize = 240;
/// Samples of the start state.
const STATE: usize = 2 * SUB_FRAME;
/// What the codebook remembers.
const MEMORY: usize = 147;
/// What it remembers for the rest of the start state.
const STATE_MEMORY: usize = 85;
/// The shortest lag of a codebook vector.
const SHORTEST_LAG: usize = 20;

/// The residual, of which as much as the frame is long has a meaning; `None` for indices that cannot be.
pub(super) fn residual(read: &Parameters, filters: &[Filter; 6], size: FrameSize) -> Option<[f32; FRAME_MOST]> {
    let mut out = [0.0; FRAME_MOST];
    let [rest_vector, vectors @ ..] = &read.vectors;
    let mut vectors = vectors.iter();
    let first = (read.start - 1) * SUB_FRAME;
    let (scalar, rest) = (size.state_samples(), STATE - size.state_samples());

    let state = out.get_mut(first..first + STATE)?;
    let decoded = start_state(read, filters.get(read.start - 1)?, scalar);
    let decoded = decoded.get(..scalar)?;
    if read.state_first {
        state[..scalar].copy_from_slice(decoded);
        let mut memory = Memory::new(decoded.iter().copied());
        memory.extend(rest_vector, STATE_MEMORY, &mut state[scalar..])?;
    } else {
        state[rest..].copy_from_slice(decoded);
        let mut memory = Memory::new(decoded.iter().rev().copied());
        memory.extend(rest_vector, STATE_MEMORY, &mut state[..rest])?;
        state[..rest].reverse();
    }

    let (before, after) = out.get_mut(..size.samples())?.split_at_mut(first);
    let (known, after) = after.split_at_mut(STATE);
    let mut memory = Memory::new(known.iter().copied());
    for sub_frame in after.chunks_exact_mut(SUB_FRAME) {
        memory.extend(vectors.next()?, MEMORY, sub_frame)?;
    }
    // Backwards, the newest is what is earliest.
    let mut memory = Memory::new(known.iter().chain(after.iter()).copied().rev());
    for sub_frame in before.rchunks_exact_mut(SUB_FRAME) {
        memory.extend(vectors.next()?, MEMORY, sub_frame)?;
        sub_frame.reverse();
    }
    Some(out)
}

/// The scalar part of the start state: its samples, dispersed by an all-pass that runs backwards and in a circle (4.2).
fn start_state(read: &Parameters, filter: &Filter, length: usize) -> [f32; STATE_MOST] {
    let scale = STATE_MAXIMUM[read.maximum & 63] / 8_192.0;
    let mut samples = [0.0; 2 * STATE_MOST];
    for (to, &index) in samples.iter_mut().zip(read.samples[..length].iter().rev()) {
        *to = scale * f32::from(STATE_SAMPLE[index & 7]);
    }
    // The numerator is the denominator read from its end.
    let mut passed: [f32; 2 * STATE_MOST] = std::array::from_fn(|at| {
        let back = |by: usize| at.checked_sub(by).map_or(0.0, |at| samples[at]);
        back(ORDER) + (0..ORDER).map(|by| filter[ORDER - 1 - by] * back(by)).sum::<f32>()
    });
    synthesise(filter, &mut [0.0; ORDER], &mut passed[..2 * length]);
    let mut state = [0.0; STATE_MOST];
    for (at, to) in state.iter_mut().enumerate().take(length) {
        *to = passed[length - 1 - at] + passed[2 * length - 1 - at];
    }
    state
}

/// What the codebook's vectors are cut from, the newest last.
struct Memory([f32; MEMORY]);

impl Memory {
    /// Of samples, the newest last; zeros before them.
    fn new(samples: impl DoubleEndedIterator<Item = f32>) -> Memory {
        let mut memory = [0.0; MEMORY];
        memory.iter_mut().rev().zip(samples.rev()).for_each(|(to, sample)| *to = sample);
        Memory(memory)
    }

    /// Fills `out` from three stages of the codebook over the newest `reach` samples, and remembers it.
    fn extend(&mut self, vector: &Vector, reach: usize, out: &mut [f32]) -> Option<()> {
        let memory = self.0.get(MEMORY - reach..)?;
        let filtered = filtered(memory);
        let first = 0.0375 * (vector.gain[0] + 1) as f32;
        let second = (0.15 * vector.gain[1] as f32 - 1.05) * first.abs().max(0.1);
        let third = GAIN_THIRD.get(vector.gain[2])? * second.abs().max(0.1);
        let mut sum = [0.0; SUB_FRAME];
        for (&index, gain) in vector.index.iter().zip([first, second, third]) {
            let shape = shape(memory, filtered.get(..reach)?, index, out.len())?;
            sum.iter_mut().zip(shape).for_each(|(sum, sample)| *sum += gain * sample);
        }
        out.iter_mut().zip(sum).for_each(|(to, sample)| *to = sample.clamp(-LOUDEST, LOUDEST));
        self.0.copy_within(out.len().., 0);
        self.0.iter_mut().rev().zip(out.iter().rev()).for_each(|(to, sample)| *to = *sample);
        Some(())
    }
}

/// The memory of the codebook's second half.
fn filtered(memory: &[f32]) -> [f32; MEMORY] {
    std::array::from_fn(|at| {
        let taps = CODEBOOK_FILTER.iter().enumerate();
        let sum: f32 = taps
            .map(|(tap, &weight)| {
                let sample = (at + 4).checked_sub(tap).and_then(|at| memory.get(at)).copied().unwrap_or_default();
                f32::from(weight) * sample
            })
            .sum();
        sum / 4_096.0
    })
}

/// A vector of the codebook: in each half one for each whole lag, then, for whole sub-frames, one for each lag that is
/// shorter than the vector.
fn shape(memory: &[f32], filtered: &[f32], index: usize, length: usize) -> Option<[f32; SUB_FRAME]> {
    let whole = memory.len().checked_sub(length)? + 1;
    let section = if length == SUB_FRAME { whole + SHORTEST_LAG } else { whole };
    let (memory, index) = if index < section { (memory, index) } else { (filtered, index - section) };
    if index < whole {
        let start = memory.len() - length - index;
        let mut shape = [0.0; SUB_FRAME];
        shape.get_mut(..length)?.copy_from_slice(memory.get(start..start + length)?);
        Some(shape)
    } else if index < section {
        repeated(memory, index - whole + SHORTEST_LAG)
    } else {
        None
    }
}

/// The last `lag` samples and their repetition, cross-faded over four samples.
fn repeated(memory: &[f32], lag: usize) -> Option<[f32; SUB_FRAME]> {
    let fade = CODEBOOK_FADE.len();
    let cycle = memory.get(memory.len().checked_sub(lag)?..)?;
    let before = memory.get(memory.len().checked_sub(lag + fade)?..)?;
    let mut shape: [f32; SUB_FRAME] = std::array::from_fn(|at| cycle.get(at % lag).copied().unwrap_or_default());
    let ends = shape.get_mut(lag - fade..lag)?;
    for ((to, early), weight) in ends.iter_mut().zip(before).zip(CODEBOOK_FADE) {
        *to = weight * early + (1.0 - weight) * *to;
    }
    Some(shape)
}
