//! G.711: 8 kHz companded PCM, one byte a sample (ITU-T G.711, payload types
//! 0 and 8 of RFC 3551).
//!
//! Decoding is one table look-up a sample; the tables are made at compile time
//! from the definition of the companding laws.

const ULAW: [i16; 256] = build_ulaw();
const ALAW: [i16; 256] = build_alaw();

/// What one mu-law byte stands for.
const fn expand_ulaw(byte: u8) -> i16 {
    let byte = !byte;
    let segment = ((byte >> 4) & 7) as i16;
    let step = (byte & 15) as i16;
    let magnitude = (((step << 3) + 132) << segment) - 132;
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

/// What one A-law byte stands for.
const fn expand_alaw(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let segment = ((byte >> 4) & 7) as i16;
    let step = (byte & 15) as i16;
    let magnitude = match segment {
        0 => (step << 4) + 8,
        _ => ((step << 4) + 264) << (segment - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

const fn build_ulaw() -> [i16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        table[index] = expand_ulaw(index as u8);
        index += 1;
    }
    table
}

const fn build_alaw() -> [i16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        table[index] = expand_alaw(index as u8);
        index += 1;
    }
    table
}

/// Appends the 8 kHz samples of a mu-law payload.
pub fn decode_ulaw(payload: &[u8], out: &mut Vec<i16>) {
    out.extend(payload.iter().map(|&byte| ULAW[usize::from(byte)]));
}

/// Appends the 8 kHz samples of an A-law payload.
pub fn decode_alaw(payload: &[u8], out: &mut Vec<i16>) {
    out.extend(payload.iter().map(|&byte| ALAW[usize::from(byte)]));
}

/// Appends the mu-law bytes of 8 kHz samples.
pub fn encode_ulaw(samples: &[i16], out: &mut Vec<u8>) {
    out.extend(samples.iter().map(|&sample| {
        let sign = if sample < 0 { 0x80 } else { 0 };
        let magnitude = i32::from(sample).unsigned_abs().min(32_635) + 132;
        let segment = (24 - magnitude.leading_zeros()).min(7);
        let step = (magnitude >> (segment + 3)) & 15;
        !(sign | (low_byte(segment) << 4) | low_byte(step))
    }));
}

/// Appends the A-law bytes of 8 kHz samples.
pub fn encode_alaw(samples: &[i16], out: &mut Vec<u8>) {
    out.extend(samples.iter().map(|&sample| {
        let (sign, magnitude) = if sample < 0 {
            (0, u32::from(sample.unsigned_abs()) - 1)
        } else {
            (0x80, u32::from(sample.unsigned_abs()))
        };
        let magnitude = magnitude.min(32_767);
        let coded = if magnitude < 256 {
            low_byte(magnitude >> 4)
        } else {
            let segment = 24 - magnitude.leading_zeros();
            let step = (magnitude >> (segment + 3)) & 15;
            (low_byte(segment) << 4) | low_byte(step)
        };
        (sign | coded) ^ 0x55
    }));
}

fn low_byte(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corner_values_are_those_of_the_recommendation() {
        let decoded = |law: fn(&[u8], &mut Vec<i16>), byte| {
            let mut out = Vec::new();
            law(&[byte], &mut out);
            out[0]
        };
        assert_eq!(decoded(decode_ulaw, 0xff), 0);
        assert_eq!(decoded(decode_ulaw, 0x80), 32_124);
        assert_eq!(decoded(decode_ulaw, 0x00), -32_124);
        assert_eq!(decoded(decode_alaw, 0xd5), 8);
        assert_eq!(decoded(decode_alaw, 0xaa), 32_256);
        assert_eq!(decoded(decode_alaw, 0x2a), -32_256);
    }

    #[test]
    fn encoding_a_decoded_byte_gives_the_same_value_back() {
        for byte in 0..=255_u8 {
            let (mut pcm, mut again, mut coded) = (Vec::new(), Vec::new(), Vec::new());
            decode_ulaw(&[byte], &mut pcm);
            encode_ulaw(&pcm, &mut coded);
            decode_ulaw(&coded, &mut again);
            assert_eq!(pcm, again, "mu-law {byte:#x}");
            let (mut pcm, mut again, mut coded) = (Vec::new(), Vec::new(), Vec::new());
            decode_alaw(&[byte], &mut pcm);
            encode_alaw(&pcm, &mut coded);
            decode_alaw(&coded, &mut again);
            assert_eq!(pcm, again, "A-law {byte:#x}");
        }
    }

    #[test]
    fn the_error_stays_within_half_a_step_of_the_segment() {
        for sample in (-32_000..32_000).step_by(37) {
            for (encode, decode) in [
                (encode_ulaw as fn(&[i16], &mut Vec<u8>), decode_ulaw as fn(&[u8], &mut Vec<i16>)),
                (encode_alaw, decode_alaw),
            ] {
                let (mut coded, mut back) = (Vec::new(), Vec::new());
                encode(&[sample], &mut coded);
                decode(&coded, &mut back);
                let error = (i32::from(back[0]) - i32::from(sample)).abs();
                assert!(error <= 8 + i32::from(sample).abs() / 30, "{sample} -> {}", back[0]);
            }
        }
    }
}
