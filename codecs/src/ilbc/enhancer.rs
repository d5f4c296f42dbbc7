//! The enhancer: makes the residual more periodic before it is filtered (RFC 3951 4.6).
//!
//! Each block of 80 samples is compared with up to three cycles of the pitch before and three after it, each found to a
//! quarter of a sample; their weighted sum replaces the block as far as it does not differ by more than a twentieth of
//! its energy. To know what comes after, the enhancer is 40 (20 ms) or 80 samples (30 ms) late.

use super::FrameSize;
use super::codebook::FRAME_MOST;
use super::tables::{CYCLE_WEIGHT, HALF_RATE_FILTER, QUARTERS};

/// Samples of a block.
const BLOCK: usize = 80;
/// Blocks that are remembered.
const BLOCKS: usize = 8;
/// Samples that are remembered.
const LENGTH: usize = BLOCKS * BLOCK;
/// Differences of the upsampled position to the expected one, in samples.
const SLOP: usize = 2;
/// Positions of whole samples that are tried.
const TRIED: usize = 2 * SLOP + 1;
/// Half of the samples that the quarter-sample filter needs around one.
const OVERHANG: usize = 3;
/// Share of the block's energy by which it may change.
const CHANGE: f32 = 0.05;

/// The residual's past, with what is known of its pitch. Positions that are counted in quarters of a sample say so.
#[derive(Debug, Clone)]
pub(super) struct Enhancer {
    residual: [f32; LENGTH],
    /// Of each block, in quarters of a sample.
    period: [i32; BLOCKS],
}

impl Default for Enhancer {
    fn default() -> Enhancer {
        Enhancer { residual: [0.0; LENGTH], period: [160; BLOCKS] }
    }
}

impl Enhancer {
    /// The samples that came last, at most the longest frame's.
    pub(super) fn last(&self) -> &[f32] {
        &self.residual[LENGTH - FRAME_MOST..]
    }

    /// Takes a frame and gives the one that lies [`FrameSize::delay`] samples before it, and the pitch's lag at its end.
    /// After a loss the concealed end of the past is led over to the new frame.
    pub(super) fn enhance(&mut self, frame: &[f32], after_loss: bool, size: FrameSize) -> ([f32; FRAME_MOST], usize) {
        let new = size.samples();
        let start = LENGTH - new;
        self.residual.copy_within(new.., 0);
        self.residual[start..].copy_from_slice(&frame[..new]);

        let blocks = new / BLOCK;
        self.period.copy_within(blocks.., 0);
        let half = self.half_rate(start - 120);
        let mut lags = [0; 3];
        for (block, lag) in lags.iter_mut().enumerate().take(blocks) {
            *lag = 2 * pitch(&half, 60 + block * BLOCK / 2);
            self.period[BLOCKS - blocks + block] = 4 * *lag as i32;
        }
        let mut lag = lags[blocks - 1];
        if after_loss {
            lag = self.lead_over(start, size.delay(), lags[0]);
        }

        let mut out = [0.0; FRAME_MOST];
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate().take(blocks) {
            let at = start - size.delay() + block * BLOCK;
            let others = self.cycles_around(at);
            out.copy_from_slice(&smooth(&self.residual[at..at + BLOCK], &others));
        }
        (out, lag)
    }

    /// Every other sample from `start` on, low-passed; zeros at the end.
    fn half_rate(&self, start: usize) -> [f32; (FRAME_MOST + 120) / 2] {
        std::array::from_fn(|at| {
            let taps = HALF_RATE_FILTER.iter().enumerate();
            let sum: f32 = taps
                .map(|(tap, &weight)| {
                    let sample = self.residual.get(start + 2 * at + OVERHANG - tap).copied().unwrap_or_default();
                    f32::from(weight) * sample
                })
                .sum();
            sum / 4_096.0
        })
    }

    /// Mixes the `length` samples before `start`, which were concealed, with what the frame from there on
    /// predicts them to be; returns the lag of that.
    fn lead_over(&mut self, start: usize, length: usize, about: usize) -> usize {
        let target = &self.residual[start..start + length];
        let likeness = |lag: usize| dot(target, &self.residual[start + lag..start + lag + length]);
        let lag = (about - 1..=about + 1)
            .fold((f32::MIN, about), |best, lag| {
                let likeness = likeness(lag);
                if likeness > best.0 { (likeness, lag) } else { best }
            })
            .1;
        let mut predicted = [0.0; BLOCK];
        let predicted = &mut predicted[..length];
        predicted.copy_from_slice(&self.residual[start - length + lag..start + lag]);
        let concealed = &mut self.residual[start - length..start];
        let (energy, limit) = (dot(predicted, predicted), 4.0 * dot(concealed, concealed));
        if energy > limit {
            // No louder than twice what was concealed, but for the last samples.
            let gain = (limit / energy).sqrt();
            let ramp = length - 16;
            for (at, sample) in predicted.iter_mut().enumerate() {
                *sample *= gain + (1.0 - gain) * at.saturating_sub(ramp) as f32 / 16.0;
            }
        }
        for (at, (sample, predicted)) in concealed.iter_mut().zip(predicted).enumerate() {
            let weight = (at + 1) as f32 / (length + 1) as f32;
            *sample += weight * (*predicted - *sample);
        }
        lag
    }

    /// The weighted sum of the cycles before and after the block at `at`.
    fn cycles_around(&self, at: usize) -> [f32; BLOCK] {
        let mut sum = [0.0; BLOCK];
        let half_block = 2 * BLOCK as i32;
        let middle = |block: usize| (160 + 320 * block) as i32;
        let nearest = |place: i32, of: &dyn Fn(usize) -> i32| {
            self.period[(0..BLOCKS).min_by_key(|&block| (of(block) - place).abs()).unwrap_or_default()]
        };
        let own = nearest((4 * at + 2 * BLOCK - 2) as i32, &middle);

        let (mut place, mut period) = (4 * at as i32, own);
        for weight in CYCLE_WEIGHT.iter().rev() {
            if place < period + 4 * SLOP as i32 {
                break;
            }
            place -= period;
            let next = nearest((place + half_block - period).max(0), &middle);
            place = self.add_cycle(at, place, *weight, &mut sum);
            period = next;
        }
        let mut place = 4 * at as i32;
        for weight in CYCLE_WEIGHT.iter().rev() {
            place += nearest(place + half_block, &|block| middle(block) - self.period[block]);
            if place + 4 * ((BLOCK + SLOP) as i32) < 4 * LENGTH as i32 {
                place = self.add_cycle(at, place, *weight, &mut sum);
            }
        }
        sum
    }

    /// Adds the cycle about `place` (quarters) that is most like the block at `at`; returns its place.
    fn add_cycle(&self, at: usize, place: i32, weight: f32, sum: &mut [f32; BLOCK]) -> i32 {
        let rounded = usize::try_from((place - 2) >> 2).unwrap_or_default();
        let first = rounded.saturating_sub(SLOP);
        let last = (rounded + SLOP).min(LENGTH - BLOCK - 1);
        let block = &self.residual[at..at + BLOCK];
        let mut likeness = [0.0; TRIED];
        for (start, likeness) in (first..=last).zip(&mut likeness) {
            *likeness = dot(block, &self.residual[start..start + BLOCK]);
        }
        let tried = 4 * (last + 1).saturating_sub(first).min(TRIED);
        let best = (0..tried)
            .map(|quarter| quarter_of(&likeness, quarter))
            .enumerate()
            .fold((0, f32::MIN), |best, (at, value)| if value > best.1 { (at, value) } else { best })
            .0;

        let whole = best.div_ceil(4);
        let taps = QUARTERS[whole * 4 - best];
        for (at, sum) in sum.iter_mut().enumerate() {
            let sample: f32 = taps
                .iter()
                .enumerate()
                .map(|(tap, &coefficient)| {
                    let sample = (first + whole + at + tap).checked_sub(OVERHANG).and_then(|at| self.residual.get(at));
                    f32::from(coefficient) * sample.copied().unwrap_or_default()
                })
                .sum();
            *sum += weight * sample / 4_096.0;
        }
        (4 * first + best + 4) as i32
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A value between whole samples, `quarter` quarters after one before the first; zeros outside.
fn quarter_of(values: &[f32; TRIED], quarter: usize) -> f32 {
    let taps = QUARTERS[quarter % 4].iter().enumerate();
    taps.skip(1)
        .take(TRIED)
        .map(|(tap, &weight)| {
            let value = (quarter / 4 + OVERHANG).checked_sub(tap).and_then(|at| values.get(at));
            f32::from(weight) * value.copied().unwrap_or_default()
        })
        .sum()
}

/// The lag (10 to 59 samples at 4 kHz) of the pitch in the 40 samples from `at` on: of the three with the highest
/// correlation the one whose normalised correlation is highest.
fn pitch(half: &[f32], at: usize) -> usize {
    let target = &half[at..at + BLOCK / 2];
    let past = |lag: usize| &half[at - lag..at - lag + BLOCK / 2];
    let mut correlation: [f32; 50] = std::array::from_fn(|lag| dot(target, past(lag + 10)));
    let mut best = (f32::MIN, 10);
    for _ in 0..3 {
        let (peak, height) = correlation
            .iter()
            .enumerate()
            .fold((0, f32::MIN), |best, (at, &height)| if height > best.1 { (at, height) } else { best });
        let score = height * height / dot(past(peak + 10), past(peak + 10)).max(1e-9);
        if score > best.0 {
            best = (score, peak + 10);
        }
        correlation[peak.saturating_sub(2)..(peak + 3).min(50)].fill(0.0);
    }
    best.1
}

/// The block as its neighbouring cycles would have it, no further from what it was than [`CHANGE`] (4.6.4).
fn smooth(block: &[f32], others: &[f32; BLOCK]) -> [f32; BLOCK] {
    let (own, other, both) = (dot(block, block), dot(others, others), dot(others, block));
    let mix =
        |theirs: f32, ours: f32| -> [f32; BLOCK] { std::array::from_fn(|at| theirs * others[at] + ours * block[at]) };
    let gain = if other > 1.0 { (own / other).sqrt() } else { 0.0 };
    let louder = mix(gain, 0.0);
    let error: f32 = louder.iter().zip(block).map(|(a, b)| (a - b) * (a - b)).sum();
    if error <= CHANGE * own {
        return louder;
    }
    let own = own.max(1.0);
    let unlike = ((other * own - both * both) / (own * own)).max(0.0);
    if unlike < 1e-4 || both <= 0.0 {
        return mix(0.0, 1.0);
    }
    let theirs = ((CHANGE - CHANGE * CHANGE / 4.0) / unlike).sqrt();
    mix(theirs, 1.0 - CHANGE / 2.0 - theirs * both / own)
}
