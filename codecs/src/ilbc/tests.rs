use super::*;
use crate::level::dbfs;
use crate::testing::correlation;
use proptest::prelude::*;

/// Frames of another implementation's encoder and the samples of its decoder: libilbc 3, in fixed point, on a second of
/// `speech/caller.wav` from 22 s on. (ffmpeg 5 clips to full scale in places where this speech is far from it.)
fn golden(frame_ms: u8) -> (Vec<u8>, Vec<i16>) {
    let (coded, raw): (&[u8], &[u8]) = if frame_ms == 20 {
        (include_bytes!("../../../testdata/codecs/ilbc-20.bin"), include_bytes!("../../../testdata/codecs/ilbc-20.raw"))
    } else {
        (include_bytes!("../../../testdata/codecs/ilbc-30.bin"), include_bytes!("../../../testdata/codecs/ilbc-30.raw"))
    };
    (coded.to_vec(), raw.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect())
}

#[test]
fn frames_of_another_implementation_sound_alike() {
    for frame_ms in [20, 30] {
        let (coded, expected) = golden(frame_ms);
        let (mut decoder, mut out) = (Decoder::new(frame_ms), Vec::new());
        assert_eq!(samples(&coded, frame_ms), Some(expected.len()));
        decoder.decode(&coded, &mut out);
        assert_eq!(out.len(), expected.len());
        let likeness = correlation(&out, &expected);
        assert!(likeness > 0.98, "{frame_ms} ms: {likeness:.4}");
        assert!((dbfs(&out) - dbfs(&expected)).abs() < 0.2);
    }
}

/// A decoder that has heard speech up to a loud place, and what it said.
fn in_speech(frame_ms: u8) -> (Decoder, Vec<i16>, Vec<u8>) {
    let (coded, expected) = golden(frame_ms);
    let (bytes, length) = if frame_ms == 20 { (38, 160) } else { (50, 240) };
    let loud = expected.chunks_exact(length).skip(4).take(expected.len() / length - 16);
    let at = 5 + loud.map(dbfs).enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    let (mut decoder, mut out) = (Decoder::new(frame_ms), Vec::new());
    decoder.decode(&coded[..at * bytes], &mut out);
    (decoder, out, coded[at * bytes..].to_vec())
}

#[test]
fn a_gap_is_concealed_and_fades_to_silence() {
    for frame_ms in [20, 30] {
        let (mut decoder, mut out, _) = in_speech(frame_ms);
        let (start, before) = (out.len(), dbfs(&out[out.len() - 160..]));
        // Gaps come in odd pieces.
        for piece in [160, 87, 73, 160, 160, 160, 160, 640] {
            decoder.conceal(piece, &mut out);
        }
        let gap = &out[start..];
        assert_eq!(gap.len(), 1_600);
        assert!(dbfs(&gap[..160]) > before - 6.0, "{frame_ms} ms: not concealed");
        assert!(dbfs(&gap[640..800]) < before - 20.0, "{frame_ms} ms: not faded");
        assert!(dbfs(&gap[920..960]) < before - 60.0, "{frame_ms} ms: stops instead of fading");
        assert!(gap[960..].iter().all(|&sample| sample == 0), "{frame_ms} ms: not silent");
    }
}

#[test]
fn a_lost_frame_is_missed_little_and_forgotten_soon() {
    for (frame_ms, bytes, length) in [(20, 38, 160), (30, 50, 240)] {
        let (coded, expected) = golden(frame_ms);
        let (mut all, mut worst) = (0.0, 1.0_f64);
        for lost in 0..10 {
            let (mut decoder, mut out) = (Decoder::new(frame_ms), Vec::new());
            for (number, frame) in coded.chunks_exact(bytes).enumerate() {
                if number % 10 == lost { decoder.conceal(length, &mut out) } else { decoder.decode(frame, &mut out) }
            }
            let (mut later, mut later_expected) = (Vec::new(), Vec::new());
            for (number, (a, b)) in out.chunks_exact(length).zip(expected.chunks_exact(length)).enumerate() {
                if (number + 10 - lost) % 10 > 1 {
                    later.extend_from_slice(a);
                    later_expected.extend_from_slice(b);
                }
            }
            all += correlation(&out, &expected) / 10.0;
            worst = worst.min(correlation(&later, &later_expected));
        }
        assert!(all > 0.9, "{frame_ms} ms: {all:.3}");
        assert!(worst > 0.95, "{frame_ms} ms: {worst:.3}");
    }
}

#[test]
fn an_empty_frame_is_a_lost_one() {
    for frame_ms in [20, 30] {
        let (mut told, mut out, rest) = in_speech(frame_ms);
        let (mut lost, mut expected) = (told.clone(), out.clone());
        let bytes = if frame_ms == 20 { 38 } else { 50 };
        let mut frame = rest[..bytes].to_vec();
        frame[bytes - 1] |= 1;
        told.decode(&frame, &mut out);
        lost.conceal(usize::from(frame_ms) * 8, &mut expected);
        told.decode(&rest[bytes..2 * bytes], &mut out);
        lost.decode(&rest[bytes..2 * bytes], &mut expected);
        assert_eq!(out, expected);
    }
}

#[test]
fn the_length_tells_the_frames() {
    let of = |length, frame_ms| samples(&vec![0; length], frame_ms);
    assert_eq!(
        [of(38, 20), of(38, 30), of(76, 20), of(50, 20), of(50, 30), of(100, 30)],
        [Some(160), Some(160), Some(320), Some(240), Some(240), Some(480)]
    );
    assert_eq!([of(950, 20), of(950, 30)], [Some(4_000), Some(4_560)]);
    assert!([0, 1, 37, 39, 49, 51, 88].into_iter().all(|length| of(length, 20).is_none() && of(length, 30).is_none()));
    // 20 ms where 30 were agreed sound as they should.
    let (coded, expected) = golden(20);
    let (mut decoder, mut out) = (Decoder::new(30), Vec::new());
    coded.chunks_exact(38).for_each(|frame| decoder.decode(frame, &mut out));
    assert!(correlation(&out, &expected) > 0.98);
}

#[test]
fn a_gap_that_ends_within_a_frame_does_not_click() {
    let step = |samples: &[i16]| samples.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max();
    for frame_ms in [20, 30] {
        let (mut decoder, mut out, rest) = in_speech(frame_ms);
        let (start, natural) = (out.len(), step(&golden(frame_ms).1));
        decoder.conceal(100, &mut out);
        decoder.decode(&rest[..if frame_ms == 20 { 76 } else { 100 }], &mut out);
        assert!(step(&out[start - 1..]) <= natural, "{:?}, in speech {natural:?}", step(&out[start - 1..]));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_bounded(
        payloads in proptest::collection::vec((any::<[u8; 32]>(), any::<bool>(), 1..4_usize, 0..500_usize), 1..12),
        frame_ms in prop_oneof![Just(20_u8), Just(30)],
    ) {
        let (mut decoder, mut out) = (Decoder::new(frame_ms), Vec::new());
        for (seed, long, frames, gap) in payloads {
            let bytes = if long { 50 } else { 38 } * frames;
            let mut payload: Vec<u8> = (0..bytes).map(|at| seed[at % 32].wrapping_mul(at as u8 | 1)).collect();
            // Most frames shall not be empty.
            payload[bytes - 1] &= 0xfe;
            let before = out.len();
            decoder.decode(&payload, &mut out);
            prop_assert_eq!(Some(out.len() - before), samples(&payload, frame_ms));
            decoder.conceal(gap, &mut out);
            prop_assert!(decoder.synthesis.iter().all(|value| value.abs() <= lsf::LOUDEST));
            prop_assert!(decoder.high_pass.output.iter().all(|value| value.is_finite()));
        }
        let start = out.len();
        decoder.conceal(1_200, &mut out);
        prop_assert!(out[start + 960..].iter().all(|&sample| sample == 0));
    }
}
