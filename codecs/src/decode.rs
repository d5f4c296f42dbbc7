//! One face for every codec that a call may send: RTP payload in, mono samples out.

use thiserror::Error;

use crate::opus::{OpusDecoder, OpusError};
use crate::opus_packet;
use crate::plc::Plc;
use crate::{g711, g722};

/// A payload that is not what its payload type says.
#[derive(Debug, Error)]
pub enum CodecError {
    /// libopus refused it.
    #[error(transparent)]
    Opus(#[from] OpusError),
    /// A length that the codec cannot have.
    #[error("{codec} payload of {length} bytes")]
    Length {
        /// The codec's name.
        codec: &'static str,
        /// Bytes that came.
        length: usize,
    },
    /// More than a packet may hold.
    #[error("payload of {0} ms is longer than a packet may be")]
    TooLong(usize),
}

/// The audio codecs that we store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodecKind {
    /// G.711 mu-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// G.722 at 64 kbit/s.
    G722,
    /// Linear 16-bit PCM in network order.
    L16 {
        /// Sampling rate in Hz.
        rate: u32,
        /// 1 or 2.
        channels: u8,
    },
    /// Opus.
    Opus,
    /// Comfort noise (RFC 3389).
    ComfortNoise,
}

/// The longest packet accepted, in ms.
const MAX_PACKET_MS: usize = 200;

impl CodecKind {
    /// From the fields of `a=rtpmap`; `None` for what we cannot decode.
    pub fn from_rtpmap(name: &str, clock_rate: u32, channels: u8) -> Option<CodecKind> {
        let name = name.to_ascii_uppercase();
        match (name.as_str(), clock_rate, channels.max(1)) {
            ("PCMU", 8_000, 1) => Some(CodecKind::Pcmu),
            ("PCMA", 8_000, 1) => Some(CodecKind::Pcma),
            // Some write the true 16000; both mean the same bytes.
            ("G722", 8_000 | 16_000, 1) => Some(CodecKind::G722),
            ("L16", 8_000 | 11_025 | 16_000 | 22_050 | 24_000 | 32_000 | 44_100 | 48_000, channels @ 1..=2) => {
                Some(CodecKind::L16 { rate: clock_rate, channels })
            }
            ("OPUS", 48_000, 1..=2) => Some(CodecKind::Opus),
            ("CN", _, 1) => Some(CodecKind::ComfortNoise),
            _ => None,
        }
    }

    /// A payload type with a fixed meaning (RFC 3551 6; 19 is an old comfort noise).
    pub fn static_payload_type(payload_type: u8) -> Option<CodecKind> {
        match payload_type {
            0 => Some(CodecKind::Pcmu),
            8 => Some(CodecKind::Pcma),
            9 => Some(CodecKind::G722),
            10 => Some(CodecKind::L16 { rate: 44_100, channels: 2 }),
            11 => Some(CodecKind::L16 { rate: 44_100, channels: 1 }),
            13 | 19 => Some(CodecKind::ComfortNoise),
            _ => None,
        }
    }

    /// The encoding name of the registry.
    pub fn name(self) -> &'static str {
        match self {
            CodecKind::Pcmu => "PCMU",
            CodecKind::Pcma => "PCMA",
            CodecKind::G722 => "G722",
            CodecKind::L16 { .. } => "L16",
            CodecKind::Opus => "opus",
            CodecKind::ComfortNoise => "CN",
        }
    }

    /// Ticks of the RTP timestamp per second.
    pub fn rtp_clock_rate(self) -> u32 {
        match self {
            CodecKind::Pcmu | CodecKind::Pcma | CodecKind::G722 | CodecKind::ComfortNoise => 8_000,
            CodecKind::L16 { rate, .. } => rate,
            CodecKind::Opus => 48_000,
        }
    }

    /// Samples per second that its decoder gives, in Hz.
    pub fn audio_rate(self) -> u32 {
        match self {
            CodecKind::Pcmu | CodecKind::Pcma | CodecKind::ComfortNoise => 8_000,
            CodecKind::G722 | CodecKind::Opus => 16_000,
            CodecKind::L16 { rate, .. } => rate,
        }
    }

    /// True when it carries more than the telephone band.
    pub fn is_wideband(self) -> bool {
        self.audio_rate() > 8_000
    }
}

/// The decoder of one source.
#[derive(Debug)]
pub struct AudioDecoder {
    kind: CodecKind,
    state: State,
}

#[derive(Debug)]
enum State {
    Plain(Plc),
    G722(Box<g722::Decoder>, Plc),
    Opus(Box<OpusDecoder>),
    Noise(Noise),
}

impl AudioDecoder {
    /// A fresh decoder.
    ///
    /// # Errors
    /// When libopus gives none (out of memory).
    pub fn new(kind: CodecKind) -> Result<AudioDecoder, CodecError> {
        let plc = Plc::new(kind.audio_rate());
        let state = match kind {
            CodecKind::Pcmu | CodecKind::Pcma | CodecKind::L16 { .. } => State::Plain(plc),
            CodecKind::G722 => State::G722(Box::new(g722::Decoder::new()), plc),
            CodecKind::Opus => State::Opus(Box::new(OpusDecoder::new(kind.audio_rate())?)),
            CodecKind::ComfortNoise => State::Noise(Noise::default()),
        };
        Ok(AudioDecoder { kind, state })
    }

    /// What it decodes.
    pub fn kind(&self) -> CodecKind {
        self.kind
    }

    /// Samples at [`CodecKind::audio_rate`] that a payload will give, without decoding it.
    ///
    /// # Errors
    /// When the payload cannot be of this codec.
    pub fn samples(&self, payload: &[u8]) -> Result<usize, CodecError> {
        let samples = match self.kind {
            CodecKind::Pcmu | CodecKind::Pcma => payload.len(),
            CodecKind::G722 => payload.len() * 2,
            CodecKind::L16 { channels, .. } => {
                let frame = 2 * usize::from(channels.max(1));
                if !payload.len().is_multiple_of(frame) {
                    return Err(CodecError::Length { codec: "L16", length: payload.len() });
                }
                payload.len() / frame
            }
            CodecKind::Opus => opus_packet::samples_48k(payload)
                .map_err(|_| CodecError::Length { codec: "opus", length: payload.len() })? as usize
                / 3,
            CodecKind::ComfortNoise => 0,
        };
        let milliseconds = samples / (self.kind.audio_rate() / 1000).max(1) as usize;
        if milliseconds > MAX_PACKET_MS { Err(CodecError::TooLong(milliseconds)) } else { Ok(samples) }
    }

    /// Appends the payload's samples at [`CodecKind::audio_rate`] and returns
    /// their number. A comfort-noise payload gives none: it sets the level of [`AudioDecoder::noise`].
    ///
    /// # Errors
    /// When the payload cannot be of this codec; nothing is appended then.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<usize, CodecError> {
        self.samples(payload)?;
        let start = out.len();
        match &mut self.state {
            State::Plain(plc) => {
                match self.kind {
                    CodecKind::Pcma => g711::decode_alaw(payload, out),
                    CodecKind::L16 { channels, .. } => decode_l16(payload, channels, out),
                    CodecKind::Pcmu | CodecKind::G722 | CodecKind::Opus | CodecKind::ComfortNoise => {
                        g711::decode_ulaw(payload, out);
                    }
                }
                plc.good(&mut out[start..]);
            }
            State::G722(decoder, plc) => {
                decoder.decode(payload, out);
                plc.good(&mut out[start..]);
            }
            State::Opus(decoder) => {
                decoder.decode(payload, out)?;
            }
            State::Noise(noise) => noise.set(payload),
        }
        Ok(out.len() - start)
    }

    /// Appends `samples` samples in place of lost packets: concealed, then faded to silence.
    pub fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) {
        let wanted = out.len() + samples;
        match &mut self.state {
            State::Plain(plc) | State::G722(_, plc) => plc.conceal(samples, out),
            State::Opus(decoder) => {
                // libopus takes multiples of 2.5 ms, 120 ms at most; its own fade ends in silence.
                while out.len() < wanted {
                    let part = (wanted - out.len()).min(320).next_multiple_of(40);
                    if decoder.conceal(part, None, out).is_err() {
                        break;
                    }
                }
                out.resize(wanted, 0);
            }
            State::Noise(noise) => noise.fill(samples, out),
        }
    }
}

fn decode_l16(payload: &[u8], channels: u8, out: &mut Vec<i16>) {
    let sample = |bytes: &[u8]| i16::from_be_bytes([bytes[0], bytes[1]]);
    if channels == 2 {
        out.extend(payload.chunks_exact(4).map(|frame| {
            let sum = i32::from(sample(&frame[..2])) + i32::from(sample(&frame[2..]));
            (sum / 2) as i16
        }));
    } else {
        out.extend(payload.chunks_exact(2).map(sample));
    }
}

/// Comfort noise at the level that a CN payload told (RFC 3389; its spectrum is not followed).
#[derive(Debug, Clone)]
pub struct Noise {
    amplitude: f64,
    state: u32,
}

impl Default for Noise {
    fn default() -> Noise {
        Noise { amplitude: 0.0, state: 0x2545_f491 }
    }
}

impl Noise {
    /// Takes a CN payload: its first byte is the level in -dBov.
    pub fn set(&mut self, payload: &[u8]) {
        let level = payload.first().map_or(127, |byte| byte & 0x7f);
        // Uniform noise of amplitude A has a power of A*A/3.
        self.amplitude = 32_768.0 * 3.0_f64.sqrt() * 10.0_f64.powf(-f64::from(level) / 20.0);
    }

    /// Appends `samples` samples.
    pub fn fill(&mut self, samples: usize, out: &mut Vec<i16>) {
        for _ in 0..samples {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 17;
            self.state ^= self.state << 5;
            let unit = f64::from(self.state) / f64::from(u32::MAX) * 2.0 - 1.0;
            out.push((unit * self.amplitude).clamp(-32_768.0, 32_767.0) as i16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::dbfs;
    use crate::opus::{OpusEncoder, OpusSettings};
    use crate::testing::{align, correlation, syllables};
    use proptest::prelude::*;

    #[test]
    fn names_match_in_any_case_and_unknown_ones_do_not() {
        assert_eq!(CodecKind::from_rtpmap("pcmu", 8_000, 1), Some(CodecKind::Pcmu));
        assert_eq!(CodecKind::from_rtpmap("Opus", 48_000, 2), Some(CodecKind::Opus));
        assert_eq!(CodecKind::from_rtpmap("G722", 8_000, 1).map(CodecKind::audio_rate), Some(16_000));
        assert_eq!(CodecKind::from_rtpmap("L16", 16_000, 1), Some(CodecKind::L16 { rate: 16_000, channels: 1 }));
        assert_eq!(CodecKind::from_rtpmap("EVS", 16_000, 1), None);
        assert_eq!(CodecKind::from_rtpmap("PCMU", 16_000, 1), None);
        assert_eq!(CodecKind::static_payload_type(18), None);
    }

    #[test]
    fn opus_from_the_wire_comes_out_at_16_khz() {
        let speech = syllables(16_000, 16_000, 1);
        let mut encoder = OpusEncoder::new(16_000, OpusSettings::default()).unwrap();
        let mut decoder = AudioDecoder::new(CodecKind::Opus).unwrap();
        let mut out = Vec::new();
        for frame in speech.chunks_exact(320) {
            let packet = encoder.encode(frame).unwrap().to_vec();
            assert_eq!(decoder.decode(&packet, &mut out).unwrap(), 320);
        }
        let delay = align(&speech[..8_000], &out, 250);
        assert!(correlation(&speech[..15_000], &out[delay..]) > 0.9);
    }

    #[test]
    fn l16_stereo_is_mixed_down_and_odd_lengths_are_refused() {
        let mut decoder = AudioDecoder::new(CodecKind::L16 { rate: 16_000, channels: 2 }).unwrap();
        let mut out = Vec::new();
        decoder.decode(&[0x10, 0, 0x20, 0], &mut out).unwrap();
        assert_eq!(out, vec![0x1800]);
        assert!(decoder.decode(&[1, 2, 3], &mut out).is_err());
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn every_codec_fades_to_silence_when_nothing_comes() {
        for kind in [CodecKind::Pcmu, CodecKind::G722, CodecKind::Opus] {
            let mut decoder = AudioDecoder::new(kind).unwrap();
            let mut out = Vec::new();
            if kind != CodecKind::Opus {
                for byte in 0..20_u8 {
                    decoder.decode(&[byte.wrapping_mul(97); 160], &mut out).unwrap();
                }
            }
            let start = out.len();
            for _ in 0..20 {
                decoder.conceal(kind.audio_rate() as usize / 50, &mut out);
            }
            assert_eq!(out.len() - start, kind.audio_rate() as usize * 2 / 5);
            assert!(out[out.len() - 1_000..].iter().all(|s| s.abs() < 2), "{kind:?}");
        }
    }

    #[test]
    fn comfort_noise_has_the_level_it_was_told() {
        let mut decoder = AudioDecoder::new(CodecKind::ComfortNoise).unwrap();
        let mut out = Vec::new();
        assert_eq!(decoder.decode(&[50], &mut out).unwrap(), 0);
        decoder.conceal(8_000, &mut out);
        assert!((dbfs(&out) + 50.0).abs() < 1.0);
    }

    proptest! {
        #[test]
        fn no_payload_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), pick in 0..6_usize) {
            let kind = [CodecKind::Pcmu, CodecKind::Pcma, CodecKind::G722, CodecKind::L16 { rate: 44_100, channels: 2 },
                CodecKind::Opus, CodecKind::ComfortNoise][pick];
            let mut decoder = AudioDecoder::new(kind).unwrap();
            let mut out = Vec::new();
            let _ = decoder.decode(&bytes, &mut out);
            decoder.conceal(160, &mut out);
        }
    }
}
