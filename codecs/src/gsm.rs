//! GSM 06.10 full rate, the decoder: 33 bytes for 160 samples at 8 kHz (RFC 3551 4.5.8).
//!
//! ```text
//! 0xd, LARs of 6 6 5 5 4 4 3 3 bits, then four times: lag 7, gain 2, grid 2, maximum 6, thirteen pulses of 3
//! pulses -> long-term prediction -> reflection-coefficient lattice -> de-emphasis
//! ```
//!
//! The 16-bit arithmetic of the standard, saturating where it saturates.

/// Bytes of a frame.
pub const FRAME_BYTES: usize = 33;
/// Samples of a frame.
pub const FRAME_SAMPLES: usize = 160;

const LAR_BITS: [u32; 8] = [6, 6, 5, 5, 4, 4, 3, 3];
const LAR_B: [i16; 8] = [0, 0, 2_048, -2_560, 94, -1_792, -341, -1_144];
const LAR_MINIMUM: [i16; 8] = [-32, -32, -16, -16, -8, -8, -4, -4];
const LAR_INVERSE: [i16; 8] = [13_107, 13_107, 13_107, 13_107, 19_223, 17_476, 31_454, 29_708];
const GAIN: [i16; 4] = [3_277, 11_469, 21_299, 32_767];
const PULSE_SCALE: [i16; 8] = [18_431, 20_479, 22_527, 24_575, 26_623, 28_671, 30_719, 32_767];

fn multiply(a: i16, b: i16) -> i16 {
    if a == i16::MIN && b == i16::MIN {
        return i16::MAX;
    }
    ((i32::from(a) * i32::from(b) + 16_384) >> 15) as i16
}

/// Arithmetic shift; left by a negative count.
fn shift_right(value: i16, by: i16) -> i16 {
    match by {
        16.. => {
            if value < 0 {
                -1
            } else {
                0
            }
        }
        0..=15 => value >> by,
        -15..=-1 => (i32::from(value) << -by) as i16,
        _ => 0,
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> i16 {
        let mut value = 0;
        for _ in 0..count {
            let bit = self.bytes.get(self.at / 8).map_or(0, |byte| byte >> (7 - self.at % 8) & 1);
            value = value << 1 | i16::from(bit);
            self.at += 1;
        }
        value
    }
}

/// The decoder of one source.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// The last 120 samples of the long-term residual, and room for a sub-frame.
    residual: [i16; 160],
    lag: i16,
    lars: [i16; 8],
    lattice: [i16; 9],
    emphasis: i16,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { residual: [0; 160], lag: 40, lars: [0; 8], lattice: [0; 9], emphasis: 0 }
    }
}

impl Decoder {
    /// Appends the 160 samples of a frame.
    pub fn decode(&mut self, frame: &[u8], out: &mut Vec<i16>) {
        let mut bits = Bits { bytes: frame, at: 4 };
        let coded = LAR_BITS.map(|count| bits.take(count));
        let mut excitation = [0_i16; FRAME_SAMPLES];
        for sub in excitation.chunks_exact_mut(40) {
            let (lag, gain, grid) = (bits.take(7), bits.take(2), bits.take(2));
            let maximum = bits.take(6);
            let pulses: [i16; 13] = std::array::from_fn(|_| bits.take(3));
            self.long_term(lag, gain, &pulse_train(grid, maximum, &pulses), sub);
        }
        self.short_term(&coded, &excitation, out);
    }

    /// Adds what the pitch repeats (4.3.2).
    fn long_term(&mut self, lag: i16, gain: i16, pulses: &[i16; 40], sub: &mut [i16]) {
        if (40..=120).contains(&lag) {
            self.lag = lag;
        }
        let gain = GAIN[usize::try_from(gain & 3).unwrap_or(0)];
        for (at, (pulse, out)) in pulses.iter().zip(sub).enumerate() {
            let back = 120 + at - usize::try_from(self.lag).unwrap_or(40);
            let sample = pulse.saturating_add(multiply(gain, self.residual[back]));
            self.residual[120 + at] = sample;
            *out = sample;
        }
        self.residual.copy_within(40..160, 0);
    }

    /// The vocal tract: a lattice of eight reflection coefficients, interpolated at the frame's beginning (4.3.3).
    fn short_term(&mut self, coded: &[i16; 8], excitation: &[i16; FRAME_SAMPLES], out: &mut Vec<i16>) {
        let old = self.lars;
        let mut new = [0_i16; 8];
        for (at, lar) in new.iter_mut().enumerate() {
            let value = coded[at].saturating_add(LAR_MINIMUM[at]) << 10;
            let value = value.saturating_sub(LAR_B[at] << 1);
            let value = multiply(LAR_INVERSE[at], value);
            *lar = value.saturating_add(value);
        }
        self.lars = new;
        let mix = |weights: fn(i16, i16) -> i16| -> [i16; 8] {
            std::array::from_fn(|at| reflection(weights(old[at], new[at])))
        };
        let stretches = [
            (0..13, mix(|old, new| (old >> 2).saturating_add(new >> 2).saturating_add(old >> 1))),
            (13..27, mix(|old, new| (old >> 1).saturating_add(new >> 1))),
            (27..40, mix(|old, new| (old >> 2).saturating_add(new >> 2).saturating_add(new >> 1))),
            (40..160, mix(|_, new| new)),
        ];
        for (range, coefficients) in stretches {
            for sample in &excitation[range] {
                let mut value = *sample;
                for at in (0..8).rev() {
                    value = value.saturating_sub(multiply(coefficients[at], self.lattice[at]));
                    self.lattice[at + 1] = self.lattice[at].saturating_add(multiply(coefficients[at], value));
                }
                self.lattice[0] = value;
                // De-emphasis; the two lowest bits are not the codec's (4.3.4, 4.3.5).
                self.emphasis = value.saturating_add(multiply(self.emphasis, 28_180));
                out.push(self.emphasis.saturating_add(self.emphasis) & !7);
            }
        }
    }
}

/// The thirteen pulses on their grid (4.2.15 to 4.2.17).
fn pulse_train(grid: i16, maximum: i16, pulses: &[i16; 13]) -> [i16; 40] {
    let mut exponent = if maximum > 15 { (maximum >> 3) - 1 } else { 0 };
    let mut mantissa = maximum - (exponent << 3);
    if mantissa == 0 {
        (exponent, mantissa) = (-4, 7);
    } else {
        while mantissa <= 7 {
            mantissa = mantissa << 1 | 1;
            exponent -= 1;
        }
        mantissa -= 8;
    }
    let scale = PULSE_SCALE[usize::try_from(mantissa & 7).unwrap_or(0)];
    let shift = 6 - exponent;
    let rounding = shift_right(1, 1 - shift);
    let mut train = [0; 40];
    for (at, pulse) in pulses.iter().enumerate() {
        let value = multiply(scale, ((pulse << 1) - 7) << 12);
        train[usize::try_from(grid & 3).unwrap_or(0) + 3 * at] = shift_right(value.saturating_add(rounding), shift);
    }
    train
}

/// A log area ratio as reflection coefficient (4.2.9.2).
fn reflection(lar: i16) -> i16 {
    let magnitude = if lar == i16::MIN { i16::MAX } else { lar.abs() };
    let value = match magnitude {
        i16::MIN..11_059 => magnitude << 1,
        11_059..20_070 => magnitude + 11_059,
        _ => (magnitude >> 2).saturating_add(26_112),
    };
    if lar < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_another_implementation_come_out_bit_by_bit() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/codecs/");
        let coded = std::fs::read(format!("{folder}gsm.bin")).unwrap();
        let expected = std::fs::read(format!("{folder}gsm.raw")).unwrap();
        let expected: Vec<i16> = expected.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        coded.chunks_exact(FRAME_BYTES).for_each(|frame| decoder.decode(frame, &mut out));
        let length = out.len().min(expected.len());
        assert!(length > 7_000);
        let wrong = out.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!(wrong, 0, "of {length}");
    }

    #[test]
    fn any_bits_are_a_frame() {
        let mut state = 7_u32;
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for _ in 0..2_000 {
            let frame: Vec<u8> = (0..FRAME_BYTES)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            decoder.decode(&frame, &mut out);
        }
        assert_eq!(out.len(), 2_000 * FRAME_SAMPLES);
    }
}
