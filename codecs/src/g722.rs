//! G.722 at 64 kbit/s: 16 kHz wideband speech in two ADPCM sub-bands, one byte
//! for two samples (ITU-T G.722; payload type 9, whose RTP clock is 8000 Hz by
//! historical accident, RFC 3551 4.5.2).
//!
//! A quadrature mirror filter splits the band at 4 kHz. The lower half is coded
//! with 6 bits a sample, the upper with 2; each has an adaptive quantiser and a
//! predictor of two poles and six zeros. Names follow the recommendation's
//! block diagram.

/// Coefficients of the quadrature mirror filter (table 11, first half; it is symmetric).
const QMF: [i32; 12] = [3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11];
/// Inverse quantiser of the lower band, 4 bits (predictor's view).
const QM4: [i32; 16] =
    [0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0];
/// Inverse quantiser of the lower band, 6 bits.
const QM6: [i32; 64] = [
    -136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232, -9360, -8576,
    -7856, -7192, -6576, -6000, -5456, -4944, -4464, -4008, -3576, -3168, -2776, -2400, -2032, -1688, -1360, -1040,
    -728, 24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456,
    4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728, 432, 136, -432, -136,
];
/// Inverse quantiser of the upper band, 2 bits.
const QM2: [i32; 4] = [-7408, -1616, 7408, 1616];
/// Scale-factor steps of the lower band by 4-bit code.
const WL: [i32; 16] = [-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60];
/// Scale-factor steps of the upper band by 2-bit code.
const WH: [i32; 4] = [798, -214, 798, -214];
/// Mantissas of the logarithmic scale factor.
const ILB: [i32; 32] = [
    2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834, 2896, 2960, 3025,
    3091, 3158, 3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
];
/// Decision levels of the lower band's quantiser.
const Q6: [i32; 31] = [
    0,
    35,
    72,
    110,
    150,
    190,
    233,
    276,
    323,
    370,
    422,
    473,
    530,
    587,
    650,
    714,
    786,
    858,
    940,
    1023,
    1121,
    1219,
    1339,
    1458,
    1612,
    1765,
    1980,
    2195,
    2557,
    2919,
    i32::MAX,
];

fn saturate(value: i32) -> i32 {
    value.clamp(-32_768, 32_767)
}

fn to_sample(value: i32) -> i16 {
    i16::try_from(saturate(value)).unwrap_or(0)
}

/// One sub-band's adaptive predictor and scale factor.
#[derive(Debug, Clone)]
struct Band {
    /// Signal estimate.
    s: i32,
    /// Its pole part.
    sp: i32,
    /// Its zero part.
    sz: i32,
    /// Reconstructed signal, newest first.
    r: [i32; 3],
    /// Pole coefficients.
    a: [i32; 3],
    /// Partially reconstructed signal.
    p: [i32; 3],
    /// Quantised differences, newest first.
    d: [i32; 7],
    /// Zero coefficients.
    b: [i32; 7],
    /// Logarithmic scale factor.
    nb: i32,
    /// Scale factor.
    det: i32,
}

impl Band {
    fn new(det: i32) -> Band {
        Band { s: 0, sp: 0, sz: 0, r: [0; 3], a: [0; 3], p: [0; 3], d: [0; 7], b: [0; 7], nb: 0, det }
    }

    fn scale(&mut self, step: i32, limit: i32, shift_base: i32) {
        self.nb = ((self.nb * 127) >> 7).saturating_add(step).clamp(0, limit);
        let mantissa = ILB[usize::try_from((self.nb >> 6) & 31).unwrap_or(0)];
        let shift = shift_base - (self.nb >> 11);
        let value = if shift < 0 { mantissa << -shift } else { mantissa >> shift };
        self.det = value << 2;
    }

    /// Adapts both predictors to the quantised difference `d` (blocks 4).
    fn adapt(&mut self, d: i32) {
        self.d[0] = d;
        self.r[0] = saturate(self.s + d);
        self.p[0] = saturate(self.sz + d);
        let sign = |value: i32| value >> 15;
        let same = |x: i32, y: i32| sign(x) == sign(y);

        // Second pole.
        let first = saturate(self.a[1] << 2);
        let mut wd = if same(self.p[0], self.p[1]) { -first } else { first };
        wd = wd.min(32_767);
        let mut a2 = (wd >> 7) + if same(self.p[0], self.p[2]) { 128 } else { -128 };
        a2 += (self.a[2] * 32_512) >> 15;
        let a2 = a2.clamp(-12_288, 12_288);
        // First pole, kept stable against the second.
        let step = if same(self.p[0], self.p[1]) { 192 } else { -192 };
        let limit = saturate(15_360 - a2);
        let a1 = saturate(step + ((self.a[1] * 32_640) >> 15)).clamp(-limit, limit);
        // Zeros.
        let step = if d == 0 { 0 } else { 128 };
        for i in 1..7 {
            let gradient = if sign(self.d[i]) == sign(d) { step } else { -step };
            self.b[i] = saturate(gradient + ((self.b[i] * 32_640) >> 15));
        }
        self.d.copy_within(0..6, 1);
        self.r.copy_within(0..2, 1);
        self.p.copy_within(0..2, 1);
        self.a[1] = a1;
        self.a[2] = a2;
        // Prediction of the next sample.
        let pole = |r: i32, a: i32| (a * saturate(r + r)) >> 15;
        self.sp = saturate(pole(self.r[1], a1) + pole(self.r[2], a2));
        let zeros: i32 = (1..7).map(|i| (self.b[i] * saturate(self.d[i] + self.d[i])) >> 15).sum();
        self.sz = saturate(zeros);
        self.s = saturate(self.sp + self.sz);
    }

    /// Takes a lower-band code of 6 bits; returns the band's signal.
    fn low(&mut self, code: usize) -> i32 {
        let output = saturate(self.s + ((self.det * QM6[code & 63]) >> 15)).clamp(-16_384, 16_383);
        self.low_adapt(code);
        output
    }

    fn low_adapt(&mut self, code: usize) {
        let short = (code & 63) >> 2;
        let d = (self.det * QM4[short]) >> 15;
        self.scale(WL[short], 18_432, 8);
        self.adapt(d);
    }

    /// Takes an upper-band code of 2 bits; returns the band's signal.
    fn high(&mut self, code: usize) -> i32 {
        let d = (self.det * QM2[code & 3]) >> 15;
        let output = saturate(self.s + d).clamp(-16_384, 16_383);
        self.high_adapt(code);
        output
    }

    fn high_adapt(&mut self, code: usize) {
        let d = (self.det * QM2[code & 3]) >> 15;
        self.scale(WH[code & 3], 22_528, 10);
        self.adapt(d);
    }
}

/// Decoder state of one stream.
#[derive(Debug, Clone)]
pub struct Decoder {
    low: Band,
    high: Band,
    delay: [i32; 24],
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A fresh decoder.
    pub fn new() -> Decoder {
        Decoder { low: Band::new(32), high: Band::new(8), delay: [0; 24] }
    }

    /// Appends two 16 kHz samples for each byte.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        for &byte in payload {
            let low = self.low.low(usize::from(byte & 63));
            let high = self.high.high(usize::from(byte >> 6));
            self.delay.copy_within(2.., 0);
            self.delay[22] = low + high;
            self.delay[23] = low - high;
            let (mut even, mut odd) = (0, 0);
            for i in 0..12 {
                odd += self.delay[2 * i] * QMF[i];
                even += self.delay[2 * i + 1] * QMF[11 - i];
            }
            out.push(to_sample(even >> 11));
            out.push(to_sample(odd >> 11));
        }
    }
}

/// Encoder state of one stream.
#[derive(Debug, Clone)]
pub struct Encoder {
    low: Band,
    high: Band,
    delay: [i32; 24],
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// A fresh encoder.
    pub fn new() -> Encoder {
        Encoder { low: Band::new(32), high: Band::new(8), delay: [0; 24] }
    }

    /// Appends one byte for each pair of 16 kHz samples; an odd last sample is left out.
    pub fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) {
        for pair in samples.chunks_exact(2) {
            self.delay.copy_within(2.., 0);
            self.delay[22] = i32::from(pair[0]);
            self.delay[23] = i32::from(pair[1]);
            let (mut even, mut odd) = (0, 0);
            for i in 0..12 {
                odd += self.delay[2 * i] * QMF[i];
                even += self.delay[2 * i + 1] * QMF[11 - i];
            }
            let low = (even + odd) >> 14;
            let high = (even - odd) >> 14;
            let low_code = quantise_low(saturate(low - self.low.s), self.low.det);
            self.low.low_adapt(low_code);
            let high_code = quantise_high(saturate(high - self.high.s), self.high.det);
            self.high.high_adapt(high_code);
            out.push(u8::try_from((high_code << 6) | low_code).unwrap_or(0));
        }
    }
}

/// The 6-bit code of a difference (block 1L).
fn quantise_low(difference: i32, det: i32) -> usize {
    let magnitude = if difference >= 0 { difference } else { -(difference + 1) };
    let interval = (1..30).find(|&i| magnitude < (Q6[i] * det) >> 12).unwrap_or(30);
    if difference < 0 {
        // Codes of negative differences run 63, 62, then 31 down to 4.
        match interval {
            1 => 63,
            2 => 62,
            _ => 34 - interval,
        }
    } else {
        62 - interval
    }
}

/// The 2-bit code of a difference (block 1H).
fn quantise_high(difference: i32, det: i32) -> usize {
    let magnitude = if difference >= 0 { difference } else { -(difference + 1) };
    let outer = magnitude >= (564 * det) >> 12;
    match (difference < 0, outer) {
        (true, true) => 0,
        (true, false) => 1,
        (false, true) => 2,
        (false, false) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{align, chirp, snr_db};

    #[test]
    fn speech_band_comes_back_with_the_codecs_quality() {
        let input = chirp(16_000, 16_000, 200.0, 6_500.0, 8_000.0);
        let (mut coded, mut output) = (Vec::new(), Vec::new());
        Encoder::new().encode(&input, &mut coded);
        assert_eq!(coded.len(), input.len() / 2);
        Decoder::new().decode(&coded, &mut output);
        assert_eq!(output.len(), input.len());
        let delay = align(&input, &output, 64);
        assert!((20..=24).contains(&delay), "the two filters delay by {delay} samples");
        let snr = snr_db(&input[..input.len() - delay], &output[delay..]);
        assert!(snr > 12.0, "signal to noise {snr:.1} dB");
    }

    #[test]
    fn silence_stays_near_silence() {
        let (mut coded, mut output) = (Vec::new(), Vec::new());
        Encoder::new().encode(&[0; 3_200], &mut coded);
        Decoder::new().decode(&coded, &mut output);
        assert!(output.iter().all(|sample| sample.abs() < 16));
    }

    #[test]
    fn any_bytes_decode() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut output = Vec::new();
        Decoder::new().decode(&bytes, &mut output);
        assert_eq!(output.len(), 40_000);
    }
}
