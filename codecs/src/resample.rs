//! Streaming change of the sampling rate by a polyphase windowed sinc.
//!
//! For every output sample one phase of the filter is applied to the newest
//! inputs. The response, relative to the Nyquist frequency of the lower rate:
//!
//! ```text
//! 0 to 0.86   flat within 0.1 dB (3.4 kHz at 8 kHz)
//! 1.0 and up  below -60 dB: nothing folds back, no images
//! ```
//!
//! The price is a constant delay of 28 samples at the lower rate (3.5 ms at 8 kHz).

use std::f64::consts::PI;

/// Filter zero crossings on each side at the lower of both rates.
const HALF_WIDTH: usize = 28;
/// Middle of the transition, relative to the lower Nyquist frequency.
const CUT_OFF: f64 = 0.926;
/// Shape of the Kaiser window: 65 dB of attenuation.
const BETA: f64 = 6.2;

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
                let value = sinc * kaiser(t / half as f64);
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

/// Eight running sums, so that the compiler can use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0.0_f32; LANES];
    for (x, y) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The window at `at`, which runs from -1 to 1.
fn kaiser(at: f64) -> f64 {
    let inside = 1.0 - at * at;
    if inside < 0.0 { 0.0 } else { bessel_i0(BETA * inside.sqrt()) / bessel_i0(BETA) }
}

/// Modified Bessel function of the first kind and order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..32 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
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
        for (from, to) in
            [(8_000, 16_000), (16_000, 8_000), (48_000, 16_000), (48_000, 8_000), (44_100, 16_000), (32_000, 8_000)]
        {
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

    /// Gain in dB at a frequency given relative to the lower Nyquist frequency.
    fn gain_db(from: u32, to: u32, relative: f64) -> f64 {
        let hz = relative * f64::from(from.min(to)) / 2.0;
        let tone = chirp(from, from as usize, hz, hz, 30_000.0);
        let (output, _) = resample(from, to, &tone);
        dbfs(&output[output.len() / 4..output.len() * 3 / 4]) - dbfs(&tone)
    }

    #[test]
    fn the_passband_is_flat_and_nothing_folds_back_into_it() {
        for (from, to) in
            [(16_000, 8_000), (32_000, 16_000), (48_000, 16_000), (48_000, 8_000), (44_100, 16_000), (44_100, 8_000)]
        {
            for relative in [0.05, 0.3, 0.6, 0.8, 0.86] {
                let gain = gain_db(from, to, relative);
                assert!(gain.abs() < 0.1, "{from} to {to} at {relative}: {gain:.2} dB");
            }
            for relative in [1.0, 1.03, 1.07, 1.15, 1.4, 1.8] {
                let gain = gain_db(from, to, relative);
                assert!(gain < -60.0, "{from} to {to} at {relative}: {gain:.1} dB");
            }
        }
    }

    #[test]
    fn going_up_adds_no_images() {
        // Down again by leaving out samples: an image would fold onto the tone's mirror.
        for hz in [300.0, 2_000.0, 3_400.0] {
            assert!(gain_db(8_000, 16_000, hz / 4_000.0).abs() < 0.1, "{hz} Hz");
            let tone = chirp(8_000, 8_000, hz, hz, 20_000.0);
            let (output, delay) = resample(8_000, 16_000, &tone);
            let direct = chirp(16_000, 16_000, hz, hz, 20_000.0);
            assert_eq!(delay, 56);
            // The chirp's phase begins one step in, and a step is half as long here.
            let snr = snr_db(&direct[2_001..14_000], &output[2_000 + delay..]);
            assert!(snr > 60.0, "{hz} Hz: {snr:.1} dB");
        }
    }

    #[test]
    fn equal_rates_pass_through() {
        let input = chirp(8_000, 500, 300.0, 900.0, 8_000.0);
        assert_eq!(resample(8_000, 8_000, &input), (input, 0));
    }
}
