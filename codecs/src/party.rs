//! One party's encoder: a gate in front of libopus.
//!
//! While the gate is closed no libopus code runs; each frame is a canned silence
//! of a few bytes, the very packet that libopus makes of silence. By then the
//! encoder has coded the silence of the hang-over, so its memory is what the
//! decoder's is after any number of canned frames: both go on from there with
//! the next speech. The hang-over is also longer than the look-ahead: nothing is cut.
//!
//! Silence keeps to the coder and bandwidth of the last packet, whatever libopus
//! chose there: a change of coder at each turn would click. From about 70 kbit/s
//! on libopus codes speech in CELT, and silence is a CELT frame too.

use crate::level::Gate;
use crate::opus::{OpusEncoder, OpusError, OpusSettings};
use crate::opus_packet::{silence, true_silence};

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
    /// First byte of the last packet that libopus made: its coder and bandwidth.
    last_toc: Option<u8>,
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
            last_toc: None,
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
            return Ok(self.silence());
        }
        if self.encoder.is_none() {
            self.encoder = Some(OpusEncoder::new(self.rate, self.settings)?);
        }
        let Some(encoder) = self.encoder.as_mut() else { return Ok(silence(self.settings.frame_ms, self.rate)) };
        let packet = encoder.encode(frame)?;
        self.coded += 1;
        self.last_toc = packet.first().copied();
        Ok(packet)
    }

    fn silence(&self) -> &'static [u8] {
        let frame_ms = self.settings.frame_ms;
        match self.last_toc {
            Some(toc) if is_celt(toc) => true_silence(frame_ms),
            Some(toc) => silence(frame_ms, if is_narrowband(toc) { 8_000 } else { 16_000 }),
            None => silence(frame_ms, self.rate),
        }
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

/// Configurations 16 to 31 (RFC 6716 3.1, table 2).
fn is_celt(toc: u8) -> bool {
    toc >> 3 >= 16
}

/// Configurations 0 to 3: SILK at 8 kHz.
fn is_narrowband(toc: u8) -> bool {
    toc >> 3 < 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opus::{OpusDecoder, PRE_SKIP_48K};
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

    /// Noise of a line, just below what opens the gate.
    fn line_noise(length: usize, seed: u32) -> Vec<i16> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 24) % 49) as i16 - 24
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn speech_after_silence_is_as_good_as_without_a_gate() {
        for (rate, bitrate, frame_ms) in [
            (8_000, 20_000, 20),
            (8_000, 20_000, 10),
            (8_000, 20_000, 40),
            (8_000, 20_000, 60),
            (16_000, 20_000, 20),
            (16_000, 16_000, 60),
            (8_000, 96_000, 20),
            (16_000, 96_000, 20),
            (16_000, 96_000, 10),
            (16_000, 128_000, 60),
        ] {
            let settings = OpusSettings { bitrate, complexity: if bitrate > 100_000 { 10 } else { 1 }, frame_ms };
            let second = rate as usize;
            for seed in 1..5 {
                let frame = (rate / 1_000 * frame_ms) as usize;
                let whole = |samples: usize| samples / frame * frame;
                let first = syllables(rate, whole(2 * second), seed);
                let pause = line_noise(whole(2 * second), seed);
                let speech = [first, pause, syllables(rate, whole(2 * second), seed + 40)].concat();
                let again = 2 * whole(2 * second);
                let onset = again + speech[again..].iter().position(|s| s.abs() > 300).unwrap();

                let (mut gated, mut plain) =
                    (PartyEncoder::new(rate, settings), OpusEncoder::new(rate, settings).unwrap());
                let (mut decoder, mut reference) = (OpusDecoder::new(rate).unwrap(), OpusDecoder::new(rate).unwrap());
                let (mut out, mut wanted) = (Vec::new(), Vec::new());
                for frame in speech.chunks_exact(frame) {
                    decoder.decode(gated.encode(frame).unwrap(), &mut out).unwrap();
                    reference.decode(plain.encode(frame).unwrap(), &mut wanted).unwrap();
                }
                assert!(gated.frames_silent() > 1_500 / u64::from(frame_ms));
                let delay = (rate * u32::from(PRE_SKIP_48K) / 48_000) as usize;
                let likeness =
                    |out: &[i16], length: usize| correlation(&speech[onset..onset + length], &out[onset + delay..]);
                for length in [rate as usize * 3 / 50, second] {
                    let (with, without) = (likeness(&out, length), likeness(&wanted, length));
                    assert!(
                        with > without - 0.02,
                        "{rate} Hz, {bitrate} bit/s, {frame_ms} ms, seed {seed}: {with:.3}, {without:.3} without"
                    );
                }
            }
        }
    }

    #[test]
    fn silence_keeps_to_the_coder_and_bandwidth_of_the_speech_before_it() {
        // Four configurations each: 0 narrowband SILK, 2 wideband SILK, 4 to 7 CELT by bandwidth.
        for (rate, bitrate, wanted) in [
            (8_000, 20_000, (0, 0)),
            (16_000, 20_000, (2, 2)),
            (16_000, 8_000, (0, 0)),
            (8_000, 96_000, (4, 7)),
            (16_000, 96_000, (5, 7)),
        ] {
            let mut encoder = PartyEncoder::new(rate, OpusSettings { bitrate, ..OpusSettings::default() });
            let frame = (rate / 50) as usize;
            let speech = syllables(rate, rate as usize, 6);
            let coded = speech.chunks_exact(frame).map(|frame| encoder.encode(frame).unwrap()[0]).last().unwrap();
            let silent = (0..20).map(|_| encoder.encode(&vec![0; frame]).unwrap()[0]).last().unwrap();
            assert!(encoder.frames_silent() > 0);
            assert_eq!((coded >> 5, silent >> 5), wanted, "{rate} Hz, {bitrate} bit/s");
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
