//! Every rate in both packings, there and back, and any bytes.

use super::*;
use proptest::prelude::*;

const FORMATS: [Format; 4] = [
    Format { wideband: false, octet_aligned: false },
    Format { wideband: false, octet_aligned: true },
    Format { wideband: true, octet_aligned: false },
    Format { wideband: true, octet_aligned: true },
];

/// Packs stored frames, each behind its header byte.
pub(in crate::amr) fn pack(stored: &[&[u8]], format: Format) -> Vec<u8> {
    let mut bits = vec![true; 4];
    let align = |bits: &mut Vec<bool>| {
        if format.octet_aligned {
            bits.resize(bits.len().next_multiple_of(8), false);
        }
    };
    let push = |bits: &mut Vec<bool>, byte: u8, count: usize| bits.extend((0..count).map(|n| byte >> (7 - n) & 1 == 1));
    align(&mut bits);
    for (number, frame) in stored.iter().enumerate() {
        let more = u8::from(number + 1 < stored.len()) << 7;
        push(&mut bits, frame[0] & 0x7c | more, 6);
        align(&mut bits);
    }
    for frame in stored {
        let mut left = format.speech_bits(frame[0] >> 3 & 15).unwrap();
        for &byte in &frame[1..] {
            push(&mut bits, byte, left.min(8));
            left -= left.min(8);
        }
        assert_eq!(left, 0);
        align(&mut bits);
    }
    bits.chunks(8)
        .map(|byte| byte.iter().enumerate().fold(0, |all, (n, &bit)| all | u8::from(bit) << (7 - n)))
        .collect()
}

#[test]
fn every_rate_of_both_codecs_has_its_length() {
    for format in FORMATS {
        for frame_type in 0..16_u8 {
            // RFC 4867 3.6, 4.3 and 4.4; its example of one AMR frame at 12.2 kbit/s has 32 bytes.
            let bits = match (format.wideband, frame_type) {
                (false, 0..=8) => NARROW[usize::from(frame_type)],
                (true, 0..=9) => WIDE[usize::from(frame_type)],
                (_, 15) | (true, 14) => 0,
                _ => {
                    let bytes = [if format.octet_aligned { 0xf0 } else { 0xf0 | frame_type >> 1 }, frame_type << 3 | 4];
                    let entry = if format.octet_aligned { bytes[1] } else { frame_type << 7 | 0x40 };
                    assert!((2..70).all(|length| {
                        let mut payload = vec![0; length];
                        (payload[0], payload[1]) = (bytes[0], entry);
                        Payload::read(&payload, format).is_none()
                    }));
                    continue;
                }
            };
            let stored = [vec![frame_type << 3 | 4], vec![0xff; bits.div_ceil(8)]].concat();
            let payload = pack(&[&stored], format);
            let length = if format.octet_aligned { 2 + bits.div_ceil(8) } else { (10 + bits).div_ceil(8) };
            assert_eq!(payload.len(), length);
            let read = Payload::read(&payload, format).unwrap();
            assert_eq!((read.len(), read.frames().count()), (1, 1));
            let frame = read.frames().next().unwrap();
            let ones: usize = frame.stored()[1..].iter().map(|byte| byte.count_ones() as usize).sum();
            assert_eq!(ones, bits, "{format:?} {frame_type}");
            for wrong in [&payload[..length - 1], &[payload.as_slice(), &[0]].concat()] {
                assert!(Payload::read(wrong, format).is_none());
            }
        }
    }
}

#[test]
fn frames_say_what_they_are() {
    for format in FORMATS {
        let (silence, rate) = (format.silence(), 2_u8);
        let bytes = format.speech_bits(rate).unwrap().div_ceil(8);
        let speech = |good: u8| [vec![rate << 3 | good << 2], vec![0x55; bytes]].concat();
        let described = [silence << 3 | 4, 1, 2, 3, 4, 5];
        let stored: Vec<&[u8]> = vec![&[15 << 3 | 4], &described];
        let (good, bad) = (speech(1), speech(0));
        let payload = pack(&[&stored[..], &[&good, &bad]].concat(), format);
        let contents: Vec<Content> = Payload::read(&payload, format).unwrap().frames().map(|f| f.content()).collect();
        assert_eq!(contents, [Content::Nothing, Content::Silence, Content::Speech, Content::Bad]);
    }
    let wide = Format { wideband: true, octet_aligned: true };
    let lost = Payload::read(&[0xf0, 14 << 3 | 4], wide).unwrap().frames().next().unwrap();
    assert_eq!(lost, Frame::none());
}

proptest! {
    #[test]
    fn any_bytes_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..400), pick in 0..4_usize) {
        let format = FORMATS[pick];
        if let Some(payload) = Payload::read(&bytes, format) {
            prop_assert!(payload.len() * 6 <= bytes.len() * 8);
            prop_assert_eq!(payload.frames().count(), payload.len());
            for frame in payload.frames() {
                prop_assert!(format.speech_bits(frame.stored()[0] >> 3).is_some());
            }
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in(
        rates in proptest::collection::vec((0..8_u8, any::<[u8; 60]>()), 1..6), pick in 0..4_usize,
    ) {
        let format = FORMATS[pick];
        let stored: Vec<Vec<u8>> = rates.iter().map(|(rate, bits)| {
            let length = format.speech_bits(*rate).unwrap();
            let mut frame = [&[rate << 3 | 4], &bits[..length.div_ceil(8)]].concat();
            *frame.last_mut().unwrap() &= 0xff << (length.next_multiple_of(8) - length);
            frame
        }).collect();
        let payload = pack(&stored.iter().map(Vec::as_slice).collect::<Vec<_>>(), format);
        let read: Vec<Vec<u8>> = Payload::read(&payload, format).unwrap().frames().zip(&stored)
            .map(|(frame, stored)| frame.stored()[..stored.len()].to_vec()).collect();
        prop_assert_eq!(read, stored);
    }
}
