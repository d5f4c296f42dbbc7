//! Streaming change of the sampling rate by a polyphase windowed sinc.
//!
//! For every output sample one phase of the filter is applied to the newest
//! inputs. Passband flat to 0.9 of the lower Nyquist frequency, aliases below
//! -60 dB.

use std::f64::consts::PI;

/// Filter zero crossings on each side at the lower of both rates.
const HALF_WIDTH: usize = 20;
/// Cut-off relative to the lower Nyquist frequency; the rest is transition.
const CUT_OFF: f64 = 0.93;

/// A resampler from one fixed rate to another.
#[derive(Debug, Clone)]
pub struct Resampler {
    /// Interpolation and decimation, reduced.
    up: usize,
    down: usize,
    taps: usize,
    /// `up` phases of `taps` coefficients.
    phases: Vec<f32>,
    history: Vec<f32>,
    /// Position of the next output in units of 1/up input samples past the history's start.
    position: usize,
}

impl Resampler {
    /// From `from` Hz to `to` Hz. Equal rates pass through.
    pub fn new(from: u32, to: u32) -> Resampler {
        let (from, to) = (from.max(1) as usize, to.max(1) as usize);
        let divisor = gcd(from, to);
        let (up, down) = (to / divisor, from / divisor);
        if up == down {
            return Resampler { up: 1, down: 1, taps: 0, phases: Vec::new(), history: Vec::new(), position: 0 };
        }
        // Cut-off in cycles per input sample.
        let scale = (up as f64 / down as f64).min(1.0);
        let cut_off = 0.5 * scale * CUT_OFF;
        let half = (HALF_WIDTH as f64 / scale).ceil() as usize;
        let taps = 2 * half;
        let mut phases = vec![0.0; up * taps];
        for phase in 0..up {
            let row = &mut phases[phase * taps..(phase + 1) * taps];
            let centre = (half - 1) as f64 + phase as f64 / up as f64;
            let mut sum = 0.0;
            for (n, tap) in row.iter_mut().enumerate() {
                let t = n as f64 - centre;
                let sinc = if t.abs() < 1e-9 { 2.0 * cut_off } else { (2.0 * PI * cut_off * t).sin() / (PI * t) };
                let value = sinc * blackman(t / half as f64);
                *tap = value as f32;
                sum += value;
            }
            row.iter_mut().for_each(|tap| *tap /= sum as f32);
        }
        Resampler { up, down, taps, phases, history: vec![0.0; taps - 1], position: 0 }
    }

    /// How far the output lags behind the input, in output samples (rounded).
    pub fn delay_samples(&self) -> usize {
        if self.taps == 0 { 0 } else { (self.taps / 2) * self.up / self.down }
    }

    /// Takes all of `input` and appends what comes out.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        if self.taps == 0 {
            out.extend_from_slice(input);
            return;
        }
        self.history.extend(input.iter().map(|&s| f32::from(s)));
        loop {
            let start = self.position / self.up;
            let Some(window) = self.history.get(start..start + self.taps) else { break };
            let phase = self.position % self.up;
            let row = &self.phases[phase * self.taps..(phase + 1) * self.taps];
            let sum: f32 = dot(window, row);
            out.push(sum.round().clamp(-32_768.0, 32_767.0) as i16);
            self.position += self.down;
        }
        let used = (self.position / self.up).min(self.history.len());
        self.history.drain(..used);
        self.position -= used * self.up;
    }
}

/// Four running sums, so that the compiler can use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 4];
    for (x, y) in a.chunks_exact(4).zip(b.chunks_exact(4)) {
        for lane in 0..4 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 =
        a.chunks_exact(4).remainder().iter().zip(b.chunks_exact(4).remainder()).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

fn blackman(at: f64) -> f64 {
    if at.abs() >= 1.0 { 0.0 } else { 0.42 + 0.5 * (PI * at).cos() + 0.08 * (2.0 * PI * at).cos() }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::dbfs;
    use crate::testing::{align, chirp, snr_db};

    fn resample(from: u32, to: u32, input: &[i16]) -> (Vec<i16>, usize) {
        let mut resampler = Resampler::new(from, to);
        let mut out = Vec::new();
        for part in input.chunks(37) {
            resampler.process(part, &mut out);
        }
        (out, resampler.delay_samples())
    }

    #[test]
    fn a_tone_in_the_passband_keeps_level_phase_and_length() {
        for (from, to) in [(8_000, 16_000), (16_000, 8_000), (48_000, 16_000), (48_000, 8_000), (44_100, 16_000), (32_000, 8_000)] {
            let input = chirp(from, from as usize, 300.0, 3_200.0, 8_000.0);
            let (output, delay) = resample(from, to, &input);
            assert!(output.len().abs_diff(to as usize) <= 1, "{from} to {to}: {} samples", output.len());
            let wanted = chirp(to, to as usize, 300.0, 3_200.0, 8_000.0);
            let measured = align(&wanted[..to as usize / 2], &output, 80);
            assert!(measured.abs_diff(delay) <= 1, "{from} to {to}: delay {measured}, said {delay}");
            assert!((dbfs(&output[800..]) - dbfs(&wanted[800..])).abs() < 0.2, "{from} to {to}");
        }
        let input = chirp(16_000, 16_000, 300.0, 3_000.0, 8_000.0);
        let (output, delay) = resample(16_000, 8_000, &input);
        let wanted: Vec<i16> = input.iter().step_by(2).copied().collect();
        assert!(snr_db(&wanted[..7_000], &output[delay..]) > 40.0);
    }

    #[test]
    fn what_does_not_fit_the_new_rate_is_gone() {
        let input = chirp(16_000, 16_000, 4_600.0, 7_900.0, 16_000.0);
        let (output, _) = resample(16_000, 8_000, &input);
        assert!(dbfs(&output[200..]) < -66.0, "{}", dbfs(&output[200..]));
    }

    #[test]
    fn equal_rates_pass_through() {
        let input = chirp(8_000, 500, 300.0, 900.0, 8_000.0);
        assert_eq!(resample(8_000, 8_000, &input), (input, 0));
    }
}
