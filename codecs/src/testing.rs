//! Signals and measures that the tests of several crates share.

use std::f64::consts::TAU;

/// A swept tone from `low_hz` to `high_hz` over `length` samples.
pub fn chirp(rate: u32, length: usize, low_hz: f64, high_hz: f64, amplitude: f64) -> Vec<i16> {
    let mut phase = 0.0;
    (0..length)
        .map(|n| {
            let at = n as f64 / length as f64;
            phase += TAU * (low_hz + (high_hz - low_hz) * at) / f64::from(rate);
            (phase.sin() * amplitude) as i16
        })
        .collect()
}

/// Something like speech: a buzz of changing pitch in syllables of 240 ms with
/// pauses, different for each `seed`.
pub fn syllables(rate: u32, length: usize, seed: u32) -> Vec<i16> {
    let rate_f = f64::from(rate);
    let mut noise = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let (mut phase, mut smooth) = (0.0_f64, 0.0_f64);
    (0..length)
        .map(|n| {
            let t = n as f64 / rate_f;
            let syllable = (t / 0.24) as u32;
            let within = t / 0.24 - f64::from(syllable);
            let pick = syllable.wrapping_add(seed.wrapping_mul(97)).wrapping_mul(2_246_822_519) >> 16;
            let pitch = 110.0 + f64::from(pick % 90) + 25.0 * within;
            phase = (phase + pitch / rate_f).fract();
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let white = f64::from(noise >> 8) / f64::from(1_u32 << 24) - 0.5;
            let formant = 400.0 + f64::from(pick % 7) * 180.0;
            let voiced = (1..12)
                .map(|k| {
                    let f = f64::from(k) * pitch;
                    (TAU * f64::from(k) * phase).sin() / (1.0 + ((f - formant) / 300.0).powi(2))
                })
                .sum::<f64>();
            smooth += 0.3 * (voiced + 0.1 * white - smooth);
            let envelope = (within * std::f64::consts::PI).sin().max(0.0);
            let pause = if pick.is_multiple_of(5) { 0.0 } else { 1.0 };
            (smooth * envelope * pause * 9_000.0) as i16
        })
        .collect()
}

/// The shift of `output` against `input` (0 to `most` samples) with the highest correlation.
pub fn align(input: &[i16], output: &[i16], most: usize) -> usize {
    (0..=most)
        .max_by(|&a, &b| {
            correlation(input, &output[a.min(output.len())..])
                .total_cmp(&correlation(input, &output[b.min(output.len())..]))
        })
        .unwrap_or(0)
}

/// Normalised correlation of two signals over their common length.
pub fn correlation(a: &[i16], b: &[i16]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x), f64::from(y));
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa == 0.0 || bb == 0.0 { 0.0 } else { ab / (aa * bb).sqrt() }
}

/// Signal-to-noise ratio of `output` against `input` in dB, after the best gain.
pub fn snr_db(input: &[i16], output: &[i16]) -> f64 {
    let c = correlation(input, output);
    10.0 * (c * c / (1.0 - c * c).max(1e-12)).log10()
}
