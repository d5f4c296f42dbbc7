//! ITU-T G.726 ADPCM at 16, 24, 32 and 40 kbit/s, the decoder; packed as RFC 3551 4.5.4 has it
//! (first code in the low bits) or as ATM AAL2 does (first code in the high bits).
//!
//! Integer arithmetic of the recommendation, with the floating-point format of its multiplier (FMULT).

/// Codes per second; one sample each.
pub const RATE: u32 = 8_000;

/// Log magnitudes of the quantiser, multipliers of the scale factor (W) and of the speed control (F), by code.
struct Tables {
    log: &'static [i32],
    scale: &'static [i32],
    speed: &'static [i32],
}

/// The upper halves mirror the lower ones.
const BITS_2: Tables = Tables { log: &[116, 365], scale: &[-704, 14_048], speed: &[0, 0xe00] };
const BITS_3: Tables =
    Tables { log: &[-2_048, 135, 273, 373], scale: &[-128, 960, 4_384, 18_624], speed: &[0, 0x200, 0x400, 0xe00] };
const BITS_4: Tables = Tables {
    log: &[-2_048, 4, 135, 213, 273, 323, 373, 425],
    scale: &[-384, 576, 1_312, 2_048, 3_584, 6_336, 11_360, 35_904],
    speed: &[0, 0, 0, 0x200, 0x200, 0x200, 0x600, 0xe00],
};
const BITS_5: Tables = Tables {
    log: &[-2_048, -66, 28, 104, 169, 224, 274, 318, 358, 395, 429, 459, 488, 514, 539, 566],
    scale: &[
        448, 448, 768, 1_248, 1_280, 1_312, 1_856, 3_200, 4_512, 5_728, 7_008, 8_960, 11_456, 14_080, 16_928, 22_272,
    ],
    speed: &[0, 0, 0, 0, 0, 0x200, 0x200, 0x200, 0x200, 0x200, 0x400, 0x600, 0x800, 0xa00, 0xc00, 0xc00],
};

/// The decoder of one source.
#[derive(Debug, Clone)]
pub struct Decoder {
    bits: u8,
    /// First code in the high bits.
    aal2: bool,
    /// How fast the zeros' coefficients fade: slower at 40 kbit/s.
    leak: u32,
    /// Scale factor, slow.
    yl: i32,
    /// Scale factor, fast.
    yu: i32,
    dms: i32,
    dml: i32,
    ap: i32,
    a: [i32; 2],
    b: [i32; 6],
    /// Signs of the last two partial reconstructions.
    pk: [bool; 2],
    /// Last quantised differences, as small floats.
    dq: [i32; 6],
    /// Last reconstructed signals, as small floats.
    sr: [i32; 2],
    tone: bool,
}

/// Position of the highest set bit, counted from 1.
fn width(value: i32) -> i32 {
    32 - i32::try_from(value.leading_zeros()).unwrap_or(32)
}

/// Sign, exponent and mantissa in one word.
fn float(magnitude: i32, negative: bool) -> i32 {
    let exponent = width(magnitude);
    let mantissa = if magnitude == 0 { 0x20 } else { (magnitude << 6) >> exponent };
    let value = (exponent << 6) + mantissa;
    if negative { value - 0x400 } else { value }
}

/// A coefficient times a small float (FMULT).
fn multiply(coefficient: i32, small: i32) -> i32 {
    let magnitude = if coefficient > 0 { coefficient } else { -coefficient & 0x1fff };
    let exponent = width(magnitude) - 6;
    let mantissa = match exponent {
        _ if magnitude == 0 => 32,
        0.. => magnitude >> exponent,
        _ => magnitude << -exponent,
    };
    let sum = exponent + ((small >> 6) & 0xf) - 13;
    let product = (mantissa * (small & 0x3f) + 0x30) >> 4;
    let value = if sum >= 0 { (product << sum) & 0x7fff } else { product >> -sum };
    if (coefficient ^ small) < 0 { -value } else { value }
}

impl Decoder {
    /// A decoder of codes of 2 to 5 bits.
    pub fn new(bits: u8, aal2: bool) -> Decoder {
        Decoder {
            bits: bits.clamp(2, 5),
            aal2,
            leak: if bits == 5 { 9 } else { 8 },
            yl: 34_816,
            yu: 544,
            dms: 0,
            dml: 0,
            ap: 0,
            a: [0; 2],
            b: [0; 6],
            pk: [false; 2],
            dq: [32; 6],
            sr: [32; 2],
            tone: false,
        }
    }

    /// Samples that a payload holds; codes do not cross octets unless eight of them fill whole ones.
    pub fn samples(&self, payload: &[u8]) -> usize {
        payload.len() * 8 / usize::from(self.bits)
    }

    /// Appends a payload's samples.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        let bits = u32::from(self.bits);
        let mask = (1_u32 << bits) - 1;
        let (mut held, mut count) = (0_u32, 0);
        for byte in payload {
            held = if self.aal2 { held << 8 | u32::from(*byte) } else { held | u32::from(*byte) << count };
            count += 8;
            while count >= bits {
                let code = if self.aal2 { held >> (count - bits) & mask } else { held & mask };
                if !self.aal2 {
                    held >>= bits;
                }
                count -= bits;
                out.push(self.sample(code));
            }
            if self.aal2 {
                held &= (1 << count) - 1;
            }
        }
    }

    /// Scale factor of the present sample (MIX).
    fn step(&self) -> i32 {
        if self.ap >= 256 {
            return self.yu;
        }
        let (y, difference, share) = (self.yl >> 6, self.yu - (self.yl >> 6), self.ap >> 2);
        match difference {
            1.. => y + ((difference * share) >> 6),
            0 => y,
            _ => y + ((difference * share + 0x3f) >> 6),
        }
    }

    fn sample(&mut self, code: u32) -> i16 {
        let tables = match self.bits {
            2 => &BITS_2,
            3 => &BITS_3,
            4 => &BITS_4,
            _ => &BITS_5,
        };
        let negative = code >> (self.bits - 1) & 1 == 1;
        let ones = (1_u32 << self.bits) - 1;
        let magnitude = usize::try_from(if negative { !code & ones } else { code }).unwrap_or(0);
        let look = |table: &[i32]| table.get(magnitude).copied().unwrap_or(0);
        let (log, scale, speed) = (look(tables.log), look(tables.scale), look(tables.speed));

        let zeros: i32 = self.b.iter().zip(&self.dq).map(|(b, dq)| multiply(b >> 2, *dq)).sum();
        let sez = zeros >> 1;
        let poles: i32 = self.a.iter().zip(&self.sr).map(|(a, sr)| multiply(a >> 2, *sr)).sum();
        let se = (zeros + poles) >> 1;
        let y = self.step();
        let dql = log + (y >> 2);
        let dq = if dql < 0 { 0 } else { ((128 + (dql & 127)) << 7) >> (14 - ((dql >> 7) & 15)) };
        let signed = if negative { -dq } else { dq };
        let sr = se + signed;
        self.update(y, scale, speed, dq, negative, sr, sr - se + sez);
        (sr << 2).clamp(-32_768, 32_767) as i16
    }

    /// Adapts scale factor, speed control and both predictors.
    #[allow(clippy::too_many_arguments)]
    fn update(&mut self, y: i32, scale: i32, speed: i32, dq: i32, negative: bool, sr: i32, dqsez: i32) {
        let pk0 = dqsez < 0;
        // A partial band signal that jumps: a modem is about to change its tone.
        let (whole, part) = (self.yl >> 15, (self.yl >> 10) & 0x1f);
        let threshold = if whole > 9 { 31 << 10 } else { (32 + part) << whole };
        let transition = self.tone && dq > (threshold + (threshold >> 1)) >> 1;

        self.yu = (y + ((scale - y) >> 5)).clamp(544, 5_120);
        self.yl += self.yu + (-self.yl >> 6);

        if transition {
            self.a = [0; 2];
            self.b = [0; 6];
        } else {
            self.adapt_predictors(dq, negative, dqsez, pk0);
        }
        self.dq.rotate_right(1);
        if let Some(newest) = self.dq.first_mut() {
            *newest = if dq == 0 { if negative { 0x20 - 0x400 } else { 0x20 } } else { float(dq, negative) };
        }
        let newest = match sr {
            0 => 0x20,
            1.. => float(sr, false),
            -32_767.. => float(-sr, true),
            _ => 0x20 - 0x400,
        };
        self.sr = [newest, self.sr[0]];
        self.pk = [pk0, self.pk[0]];

        self.tone = !transition && self.a[1] < -11_776;
        self.dms += (speed - self.dms) >> 5;
        self.dml += ((speed << 2) - self.dml) >> 7;
        if transition {
            self.ap = 256;
        } else if y < 1_536 || self.tone || ((self.dms << 2) - self.dml).abs() >= self.dml >> 3 {
            self.ap += (0x200 - self.ap) >> 4;
        } else {
            self.ap += -self.ap >> 4;
        }
    }

    fn adapt_predictors(&mut self, dq: i32, negative: bool, dqsez: i32, pk0: bool) {
        let first_differs = pk0 != self.pk[0];
        let mut a2 = self.a[1] - (self.a[1] >> 7);
        if dqsez != 0 {
            let fa1 = if first_differs { self.a[0] } else { -self.a[0] };
            a2 += match fa1 {
                i32::MIN..-8_191 => -0x100,
                8_192.. => 0xff,
                _ => fa1 >> 5,
            };
            if pk0 != self.pk[1] {
                a2 = if a2 <= -12_160 {
                    -12_288
                } else if a2 >= 12_416 {
                    12_288
                } else {
                    a2 - 0x80
                };
            } else {
                a2 = if a2 <= -12_416 {
                    -12_288
                } else if a2 >= 12_160 {
                    12_288
                } else {
                    a2 + 0x80
                };
            }
        }
        self.a[1] = a2;
        self.a[0] -= self.a[0] >> 8;
        if dqsez != 0 {
            self.a[0] += if first_differs { -192 } else { 192 };
        }
        let limit = 15_360 - a2;
        self.a[0] = self.a[0].clamp(-limit, limit);
        for (b, old) in self.b.iter_mut().zip(&self.dq) {
            *b -= *b >> self.leak;
            if dq != 0 {
                *b += if negative == (*old < 0) { 128 } else { -128 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::correlation;

    /// `testdata/codecs`: a second of speech-like sound, coded by another implementation.
    fn golden(bits: u8, aal2: bool) -> f64 {
        let name = format!("g726-{}{}", u32::from(bits) * 8, if aal2 { "-aal2" } else { "" });
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/codecs/");
        let coded = std::fs::read(format!("{folder}{name}.bin")).unwrap();
        let expected = std::fs::read(format!("{folder}{name}.raw")).unwrap();
        let expected: Vec<i16> = expected.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        let (mut decoder, mut out) = (Decoder::new(bits, aal2), Vec::new());
        // The other implementation has one leak for all rates.
        decoder.leak = 8;
        for payload in coded.chunks(usize::from(bits) * 20) {
            decoder.decode(payload, &mut out);
        }
        assert_eq!(out.len(), decoder.samples(&coded));
        let length = out.len().min(expected.len());
        correlation(&out[..length], &expected[..length])
    }

    #[test]
    fn all_rates_and_both_packings_sound_as_in_another_implementation() {
        for (bits, aal2) in [(2, false), (3, false), (4, false), (5, false), (4, true)] {
            let alike = golden(bits, aal2);
            assert!(alike > 0.999, "{bits} bits, aal2 {aal2}: {alike:.5}");
        }
    }

    #[test]
    fn any_codes_stay_within_16_bits_and_keep_their_number() {
        let mut state = 1_u32;
        for bits in 2..=5 {
            let mut decoder = Decoder::new(bits, bits % 2 == 0);
            let bytes: Vec<u8> = (0..20_000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            let mut out = Vec::new();
            decoder.decode(&bytes, &mut out);
            assert_eq!(out.len(), decoder.samples(&bytes));
        }
    }
}
