//! G.729 with Annexes A and B: ten bytes for 10 ms, and a last frame of two bytes that
//! describes silence (RFC 3551 4.5.6). In silence nothing comes; the decoder makes the
//! noise that was described.

use std::fmt;

/// Samples of a frame.
pub const FRAME_SAMPLES: usize = 80;
/// Bytes of a frame of speech, and of one that describes silence.
const SPEECH: usize = 10;
const SILENCE: usize = 2;

/// The decoder of one source.
pub struct Decoder {
    inner: Box<g729_sys::Decoder>,
    /// The last frame described silence.
    silent: bool,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { inner: Box::default(), silent: false }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("g729::Decoder").field("silent", &self.silent).finish_non_exhaustive()
    }
}

/// Samples of a payload; `None` when its length cannot be.
pub fn samples(payload: &[u8]) -> Option<usize> {
    match (payload.len() / SPEECH, payload.len() % SPEECH) {
        (frames @ 1.., 0) => Some(frames * FRAME_SAMPLES),
        (frames, SILENCE) => Some((frames + 1) * FRAME_SAMPLES),
        _ => None,
    }
}

impl Decoder {
    /// Appends a payload's samples.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        for frame in payload.chunks(SPEECH) {
            self.silent = frame.len() == SILENCE;
            if frame.len() == SPEECH || self.silent {
                out.extend_from_slice(&self.inner.decode(frame, false, self.silent, false));
            }
        }
    }

    /// Appends samples in place of lost frames, or the noise of a silence.
    pub fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) {
        let end = out.len() + samples;
        while out.len() < end {
            let frame = self.inner.decode(&[], !self.silent, self.silent, false);
            let part = (end - out.len()).min(FRAME_SAMPLES);
            out.extend_from_slice(frame.get(..part).unwrap_or(&frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::dbfs;
    use crate::testing::{align, correlation, syllables};

    fn coded(speech: &[i16], silence: bool) -> Vec<Vec<u8>> {
        let mut encoder = g729_sys::Encoder::new(silence);
        speech.chunks_exact(FRAME_SAMPLES).map(|frame| encoder.encode(frame.try_into().unwrap())).collect()
    }

    #[test]
    fn speech_is_speech_again() {
        let speech = syllables(8_000, 16_000, 3);
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for payload in coded(&speech, false).chunks_exact(2) {
            let payload = payload.concat();
            assert_eq!(samples(&payload), Some(160));
            decoder.decode(&payload, &mut out);
        }
        assert_eq!(out.len(), 16_000);
        let delay = align(&speech[..6_000], &out, 120);
        assert!(
            correlation(&speech[..15_000], &out[delay..]) > 0.6,
            "{}",
            correlation(&speech[..15_000], &out[delay..])
        );
        let levels = dbfs(&speech) - dbfs(&out);
        assert!(levels.abs() < 2.0, "{levels:.1} dB");
    }

    #[test]
    fn described_silence_is_quiet_noise() {
        let speech = syllables(8_000, 8_000, 3);
        let quiet: Vec<i16> = (0..16_000_i32).map(|n| i16::try_from((n * 7_919) % 41 - 20).unwrap()).collect();
        let payloads = coded(&[speech, quiet].concat(), true);
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        let mut descriptions = 0;
        for payload in &payloads {
            if payload.is_empty() {
                decoder.conceal(FRAME_SAMPLES, &mut out);
            } else {
                descriptions += usize::from(payload.len() == SILENCE);
                decoder.decode(payload, &mut out);
            }
        }
        assert!(descriptions > 0);
        assert_eq!(out.len(), 24_000);
        assert!(dbfs(&out[20_000..]) < -50.0, "{:.1}", dbfs(&out[20_000..]));
    }

    #[test]
    fn lengths_that_cannot_be_are_told() {
        assert_eq!(
            [0, 2, 10, 12, 20, 22].map(|length| samples(&vec![0; length])),
            [None, Some(80), Some(80), Some(160), Some(160), Some(240)]
        );
        assert!([1, 3, 9, 11, 13].into_iter().all(|length| samples(&vec![0; length]).is_none()));
    }
}
