//! One party's encoder: a gate in front of libopus.
//!
//! While the gate is closed no libopus code runs; each frame is a canned silence
//! of a few bytes, the very packet that libopus makes of silence. By then the
//! encoder has coded the silence of the hang-over, so its memory is what the
//! decoder's is after any number of canned frames: both go on from there with
//! the next speech. The hang-over is also longer than the look-ahead: nothing is cut.

use crate::level::Gate;
use crate::opus::{OpusEncoder, OpusError, OpusSettings};
use crate::opus_packet::silence;

/// The gate stays open this long after speech.
const HANG_OVER_MS: u32 = 300;

/// Encodes one party's frames at 8 or 16 kHz.
#[derive(Debug)]
pub struct PartyEncoder {
    settings: OpusSettings,
    rate: u32,
    /// Made with the first speech: a party that never speaks has none.
    encoder: Option<OpusEncoder>,
    gate: Gate,
    coded: u64,
    silent: u64,
}

impl PartyEncoder {
    /// Frames will be `settings.frame_ms` long at `rate` Hz (8000 or 16000).
    pub fn new(rate: u32, settings: OpusSettings) -> PartyEncoder {
        PartyEncoder {
            settings,
            rate,
            encoder: None,
            gate: Gate::new(HANG_OVER_MS / settings.frame_ms.max(1)),
            coded: 0,
            silent: 0,
        }
    }

    /// From the next frame on, frames come at `rate` Hz. A decoder follows
    /// without a break: bandwidth is a property of each packet.
    pub fn set_rate(&mut self, rate: u32) {
        if self.rate != rate {
            self.rate = rate;
            self.encoder = None;
        }
    }

    /// The rate of the frames, in Hz.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// The packet of the next frame.
    ///
    /// # Errors
    /// When the frame's length does not fit the settings.
    pub fn encode(&mut self, frame: &[i16]) -> Result<&[u8], OpusError> {
        if !self.gate.is_open(frame) {
            self.silent += 1;
            return Ok(silence(self.settings.frame_ms, self.rate));
        }
        if self.encoder.is_none() {
            self.encoder = Some(OpusEncoder::new(self.rate, self.settings)?);
        }
        let Some(encoder) = self.encoder.as_mut() else { return Ok(silence(self.settings.frame_ms, self.rate)) };
        self.coded += 1;
        encoder.encode(frame)
    }

    /// Frames that went through libopus.
    pub fn frames_coded(&self) -> u64 {
        self.coded
    }

    /// Frames that were silence.
    pub fn frames_silent(&self) -> u64 {
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opus::OpusDecoder;
    use crate::testing::{align, correlation, syllables};

    fn through(encoder: &mut PartyEncoder, decoder: &mut OpusDecoder, pcm: &[i16]) -> Vec<i16> {
        let mut out = Vec::new();
        for frame in pcm.chunks_exact((encoder.rate() / 50) as usize) {
            let packet = encoder.encode(frame).unwrap().to_vec();
            decoder.decode(&packet, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn a_silent_party_costs_a_few_bytes_a_frame_and_is_silent() {
        let mut encoder = PartyEncoder::new(8_000, OpusSettings::default());
        let mut decoder = OpusDecoder::new(8_000).unwrap();
        through(&mut encoder, &mut decoder, &syllables(8_000, 8_000, 3));
        let tail = through(&mut encoder, &mut decoder, &[0; 16_000]);
        // Hang-over, and the last of the decoder's memory.
        assert!(tail[18 * 160..].iter().all(|&s| s.abs() <= 1));
        assert_eq!(encoder.encode(&[0; 160]).unwrap().len(), 6);
        assert!(encoder.frames_silent() > 80);
    }

    #[test]
    fn speech_after_silence_is_as_good_as_without_a_gate() {
        let speech = [syllables(8_000, 16_000, 3), vec![0; 16_000], syllables(8_000, 16_000, 4)].concat();
        let mut encoder = PartyEncoder::new(8_000, OpusSettings::default());
        let mut decoder = OpusDecoder::new(8_000).unwrap();
        let gated = through(&mut encoder, &mut decoder, &speech);
        assert!(encoder.frames_silent() > 70);
        let mut plain = OpusEncoder::new(8_000, OpusSettings::default()).unwrap();
        let (mut decoder, mut ungated) = (OpusDecoder::new(8_000).unwrap(), Vec::new());
        for frame in speech.chunks_exact(160) {
            let packet = plain.encode(frame).unwrap().to_vec();
            decoder.decode(&packet, &mut ungated).unwrap();
        }
        let likeness = |out: &[i16], from: usize, to: usize| correlation(&speech[from..to], &out[from + 52..to + 52]);
        for (from, to) in [(32_000, 34_000), (32_000, 47_000)] {
            assert!(likeness(&gated, from, to) > likeness(&ungated, from, to) - 0.02, "{from}..{to}");
        }
    }

    #[test]
    fn the_bandwidth_changes_without_a_break() {
        let wide = syllables(16_000, 32_000, 5);
        let narrow: Vec<i16> = wide.iter().step_by(2).copied().collect();
        let mut encoder = PartyEncoder::new(8_000, OpusSettings::default());
        let mut decoder = OpusDecoder::new(16_000).unwrap();
        let mut out = through(&mut encoder, &mut decoder, &narrow[..8_000]);
        encoder.set_rate(16_000);
        out.extend(through(&mut encoder, &mut decoder, &wide[16_000..]));
        assert_eq!(out.len(), 32_000);
        let delay = align(&wide[16_000..20_000], &out[16_000..], 200);
        assert!((80..=130).contains(&delay), "delay {delay}");
        assert!(correlation(&wide[16_000..31_000], &out[16_000 + delay..]) > 0.9);
    }
}
