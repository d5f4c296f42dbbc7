//! Both codecs against ffmpeg's decoders, in both packings, in gaps and on any bytes; where the system has no library, that
//! the codec is refused.

use super::payload::tests::pack;
use super::*;
use crate::decode::{AudioDecoder, CodecKind};
use crate::level::dbfs;
use crate::testing::{align, correlation};
use proptest::prelude::*;

const NB_CODED: &[u8] = include_bytes!("../../../testdata/codecs/amr-nb.bin");
const NB_DECODED: &[u8] = include_bytes!("../../../testdata/codecs/amr-nb.raw");
const WB_CODED: &[u8] = include_bytes!("../../../testdata/codecs/amr-wb.bin");
const WB_DECODED: &[u8] = include_bytes!("../../../testdata/codecs/amr-wb.raw");

/// A second of speech as 50 stored frames, and what ffmpeg makes of it.
fn golden(wideband: bool) -> (Vec<&'static [u8]>, Vec<i16>) {
    let (coded, decoded, bytes) = if wideband { (WB_CODED, WB_DECODED, 33) } else { (NB_CODED, NB_DECODED, 32) };
    (
        coded.chunks_exact(bytes).collect(),
        decoded.as_chunks::<2>().0.iter().map(|&pair| i16::from_le_bytes(pair)).collect(),
    )
}

/// The codecs that can be tested here.
fn here() -> impl Iterator<Item = bool> {
    [false, true].into_iter().filter(|&wideband| {
        if !is_available(wideband) {
            let (name, rate) = if wideband { ("AMR-WB", 16_000) } else { ("AMR", 8_000) };
            println!("no library for {name} here: only its refusal is tested");
            assert_eq!(CodecKind::from_sdp(name, rate, 1, None), None);
            assert!(Decoder::new(Format { wideband, octet_aligned: false }).is_none());
        }
        is_available(wideband)
    })
}

fn kind(wideband: bool, octet_aligned: bool) -> CodecKind {
    if wideband { CodecKind::AmrWb { octet_aligned } } else { CodecKind::Amr { octet_aligned } }
}

/// The samples of stored frames, so many a payload.
fn heard(stored: &[&[u8]], format: Format, together: usize) -> Vec<i16> {
    let mut decoder = AudioDecoder::new(kind(format.wideband, format.octet_aligned)).unwrap();
    let mut out = Vec::new();
    for frames in stored.chunks(together) {
        let given = decoder.decode(&pack(frames, format), &mut out).unwrap();
        assert_eq!(given, frames.len() * format.frame_samples());
    }
    out
}

#[test]
fn speech_is_what_another_decoder_makes_of_it() {
    for wideband in here() {
        let (stored, expected) = golden(wideband);
        let out = heard(&stored, Format { wideband, octet_aligned: false }, 1);
        assert_eq!(out.len(), expected.len());
        let (forth, back) = (align(&expected[..8_000], &out, 200), align(&out[..8_000], &expected, 200));
        let alike = correlation(&expected, &out[forth..]).max(correlation(&out, &expected[back..]));
        println!("wideband {wideband}: {alike:.5}, delay {forth} or {back}");
        assert!(alike > 0.95, "wideband {wideband}: {alike:.3}");
        assert!((dbfs(&out) - dbfs(&expected)).abs() < 1.0);
    }
}

#[test]
fn both_packings_and_any_number_of_frames_give_the_same_samples() {
    for wideband in here() {
        let (stored, _) = golden(wideband);
        let of = |octet_aligned, together| heard(&stored, Format { wideband, octet_aligned }, together);
        let expected = of(false, 1);
        assert!([of(true, 1), of(false, 3), of(true, 10)].into_iter().all(|out| out == expected));
    }
}

#[test]
fn more_than_200_ms_are_refused_as_is_the_other_packing() {
    for wideband in here() {
        let (stored, _) = golden(wideband);
        let [compact, aligned] =
            [false, true].map(|octet_aligned| pack(&stored[..11], Format { wideband, octet_aligned }));
        let one = pack(&stored[..1], Format { wideband, octet_aligned: true });
        let mut out = Vec::new();
        for (payload, octet_aligned) in
            [(compact, false), (aligned, true), (one, false), (vec![], true), (vec![0xf0], true)]
        {
            let mut decoder = AudioDecoder::new(kind(wideband, octet_aligned)).unwrap();
            assert!(decoder.decode(&payload, &mut out).is_err());
        }
        assert!(out.is_empty());
    }
}

#[test]
fn lost_speech_is_concealed_and_then_silent() {
    for wideband in here() {
        let (format, (stored, _)) = (Format { wideband, octet_aligned: true }, golden(wideband));
        let packet = format.frame_samples();
        // A gap after the loudest frame.
        let whole = heard(&stored, format, 1);
        let loud = (5..40)
            .max_by(|&a, &b| dbfs(&whole[a * packet..][..packet]).total_cmp(&dbfs(&whole[b * packet..][..packet])));
        let loud = loud.unwrap() + 1;
        let mut decoder = Decoder::new(format).unwrap();
        let mut out = Vec::new();
        stored[..loud].iter().for_each(|frame| decoder.decode(&pack(&[frame], format), &mut out));
        let (start, before) = (out.len(), dbfs(&out[out.len() - packet..]));
        // Gaps come in odd pieces.
        for piece in [packet, packet / 2 + 7, packet / 2 - 7, packet, packet, packet, packet, 4 * packet] {
            decoder.conceal(piece, &mut out);
        }
        let gap = &out[start..];
        assert_eq!(gap.len(), 10 * packet);
        println!(
            "wideband {wideband}: {before:.1}, {:?}",
            gap.chunks(packet).map(|f| dbfs(f).round()).collect::<Vec<_>>()
        );
        assert!(dbfs(&gap[..packet]) > before - 6.0, "not concealed");
        assert!(dbfs(&gap[4 * packet..5 * packet]) < before - 20.0, "not faded");
        assert!(gap[6 * packet..].iter().all(|&sample| sample == 0));
        // It recovers, and a frame that is marked bad is a lost one.
        let mut bad = stored[loud].to_vec();
        bad[0] &= !4;
        decoder.decode(&pack(&[&bad], format), &mut out);
        assert!(out[start + 10 * packet..].iter().all(|&sample| sample == 0));
        let rest = out.len();
        stored[loud + 1..].iter().for_each(|frame| decoder.decode(&pack(&[frame], format), &mut out));
        let later = correlation(&out[rest + 3 * packet..], &whole[(loud + 4) * packet..]);
        assert!(later > 0.8, "wideband {wideband}: {later:.2} after the gap");
    }
}

#[test]
fn one_lost_frame_in_ten_is_missed_little() {
    for wideband in here() {
        let (format, (stored, _)) = (Format { wideband, octet_aligned: true }, golden(wideband));
        let (whole, packet) = (heard(&stored, format, 1), format.frame_samples());
        let mut alike = [0.0; 2];
        for lost in 0..10 {
            let (mut decoder, mut out) = (Decoder::new(format).unwrap(), Vec::new());
            for (number, frame) in stored.iter().enumerate() {
                let gap = number > 2 && number % 10 == lost;
                if gap { decoder.conceal(packet, &mut out) } else { decoder.decode(&pack(&[frame], format), &mut out) }
            }
            for (alike, within) in alike.iter_mut().zip([true, false]) {
                let part = |samples: &[i16]| -> Vec<i16> {
                    let frames = samples.chunks(packet).enumerate().skip(3);
                    frames
                        .filter(|(number, _)| (number % 10 == lost) == within)
                        .flat_map(|(_, frame)| frame.to_vec())
                        .collect()
                };
                *alike += correlation(&part(&out), &part(&whole)) / 10.0;
            }
        }
        println!("wideband {wideband}: {:.2} in the gap, {:.2} elsewhere", alike[0], alike[1]);
        assert!(alike[0] > 0.6 && alike[1] > 0.82, "wideband {wideband}: {alike:?}");
    }
}

#[test]
fn described_silence_is_noise_that_goes_on() {
    for wideband in here() {
        let format = Format { wideband, octet_aligned: false };
        let (stored, _) = golden(wideband);
        let mut decoder = Decoder::new(format).unwrap();
        let mut out = Vec::new();
        stored[..20].iter().for_each(|frame| decoder.decode(&pack(&[frame], format), &mut out));
        let start = out.len();
        // Beginning of silence (STI 0), then nothing.
        let first: &[u8] = if wideband { &[9 << 3 | 4, 0, 0, 0, 0, 0x0f] } else { &[8 << 3 | 4, 0, 0, 0, 0, 0x0e] };
        decoder.decode(&pack(&[first], format), &mut out);
        decoder.decode(&pack(&[&[15 << 3 | 4]], format), &mut out);
        decoder.conceal(5 * format.frame_samples() + 1, &mut out);
        let noise = &out[start..];
        assert_eq!(noise.len(), 7 * format.frame_samples() + 1);
        println!("wideband {wideband}: noise of {:.1} dBFS after {:.1}", dbfs(noise), dbfs(&out[..start]));
        let levels: Vec<f64> = noise.chunks_exact(format.frame_samples()).map(dbfs).collect();
        assert!(levels.iter().all(|level| (-90.0..-5.0).contains(level)), "{levels:?}");
    }
}

#[test]
fn before_the_first_frame_there_is_silence() {
    for wideband in here() {
        let mut decoder = Decoder::new(Format { wideband, octet_aligned: true }).unwrap();
        let mut out = Vec::new();
        decoder.conceal(1_000, &mut out);
        assert_eq!(out, vec![0; 1_000]);
    }
}

proptest! {
    #[test]
    fn no_bytes_do_harm(
        payloads in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..80), proptest::collection::vec((0..16_u8, any::<bool>()), 0..6), 0..700_usize), 1..20),
        wideband in any::<bool>(), octet_aligned in any::<bool>(),
    ) {
        let format = Format { wideband, octet_aligned };
        if is_available(wideband) {
            let mut decoder = AudioDecoder::new(kind(wideband, octet_aligned)).unwrap();
            let mut out = Vec::new();
            for (bytes, table, gap) in payloads {
                // Any bytes, and any bytes in frames of the right form.
                let rates = if wideband { 10 } else { 9 };
                let frames: Vec<Vec<u8>> = table.iter().map(|&(frame_type, good)| {
                    let frame_type = if frame_type < rates { frame_type } else { 15 };
                    let speech = (0..60_usize).map(|at| bytes.get(at % bytes.len().max(1)).map_or(0, |b| b.wrapping_mul(at as u8 | 1)));
                    std::iter::once(frame_type << 3 | u8::from(good) << 2).chain(speech).collect()
                }).collect();
                let made = pack(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>(), format);
                for payload in [&bytes, &made] {
                    let (before, said) = (out.len(), decoder.samples(payload).ok());
                    let given = decoder.decode(payload, &mut out).ok();
                    prop_assert_eq!(given, said);
                    prop_assert_eq!(out.len() - before, given.unwrap_or(0));
                    prop_assert!(given.unwrap_or(0) <= 10 * format.frame_samples());
                    prop_assert!(frames.is_empty() || payload == &bytes || given == Some(frames.len() * format.frame_samples()));
                }
                let before = out.len();
                decoder.conceal(gap, &mut out);
                prop_assert_eq!(out.len(), before + gap);
            }
        }
    }
}
