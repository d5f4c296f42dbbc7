//! One face for every codec that a call may send: RTP payload in, mono samples out.

use thiserror::Error;

use crate::comfort_noise::Noise;
pub use crate::kind::CodecKind;
use crate::opus::{OpusDecoder, OpusError};
use crate::plc::Plc;
use crate::{amr, g711, g722, g726, g729, gsm, ilbc, l16, opus_packet};

/// A payload that is not what its payload type says.
#[derive(Debug, Error)]
pub enum CodecError {
    /// libopus refused it.
    #[error(transparent)]
    Opus(#[from] OpusError),
    /// The system has no library for it.
    #[error("no library for {0}")]
    Unavailable(&'static str),
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

/// The longest packet accepted, in ms.
const MAX_PACKET_MS: usize = 200;

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
    Opus(Box<OpusSource>),
    G729(g729::Decoder),
    Gsm(Box<gsm::Decoder>, Plc),
    G726(Box<g726::Decoder>, Plc),
    Ilbc(Box<ilbc::Decoder>),
    Amr(Box<amr::Decoder>),
    Noise(Noise),
}

impl AudioDecoder {
    /// A fresh decoder.
    ///
    /// # Errors
    /// When libopus gives none (out of memory), or the system has no library for AMR.
    pub fn new(kind: CodecKind) -> Result<AudioDecoder, CodecError> {
        let plc = Plc::new(kind.audio_rate());
        let state = match kind {
            CodecKind::Pcmu | CodecKind::Pcma | CodecKind::L16 { .. } => State::Plain(plc),
            CodecKind::G722 => State::G722(Box::default(), plc),
            CodecKind::Opus => State::Opus(Box::new(OpusSource::new(kind.audio_rate())?)),
            CodecKind::ComfortNoise => State::Noise(Noise::default()),
            CodecKind::G729 => State::G729(g729::Decoder::default()),
            CodecKind::Gsm => State::Gsm(Box::default(), plc),
            CodecKind::G726 { bits, aal2 } => State::G726(Box::new(g726::Decoder::new(bits, aal2)), plc),
            CodecKind::Ilbc { frame_ms } => State::Ilbc(Box::new(ilbc::Decoder::new(frame_ms))),
            CodecKind::Amr { octet_aligned } => amr_state(kind, amr::Format { wideband: false, octet_aligned })?,
            CodecKind::AmrWb { octet_aligned } => amr_state(kind, amr::Format { wideband: true, octet_aligned })?,
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
        let wrong = || CodecError::Length { codec: self.kind.name(), length: payload.len() };
        let samples = match self.kind {
            CodecKind::Pcmu | CodecKind::Pcma => payload.len(),
            CodecKind::G722 => payload.len() * 2,
            CodecKind::L16 { channels, .. } => {
                l16::samples(payload, channels).ok_or(CodecError::Length { codec: "L16", length: payload.len() })?
            }
            CodecKind::Opus => {
                opus_packet::samples_48k(payload)
                    .map_err(|_| CodecError::Length { codec: "opus", length: payload.len() })? as usize
                    / 3
            }
            CodecKind::ComfortNoise => 0,
            CodecKind::G729 => g729::samples(payload).ok_or_else(wrong)?,
            CodecKind::Gsm => {
                let whole = !payload.is_empty() && payload.len().is_multiple_of(gsm::FRAME_BYTES);
                if whole { payload.len() / gsm::FRAME_BYTES * gsm::FRAME_SAMPLES } else { return Err(wrong()) }
            }
            CodecKind::Ilbc { frame_ms } => ilbc::samples(payload, frame_ms).ok_or_else(wrong)?,
            CodecKind::Amr { octet_aligned } => {
                amr::samples(payload, amr::Format { wideband: false, octet_aligned }).ok_or_else(wrong)?
            }
            CodecKind::AmrWb { octet_aligned } => {
                amr::samples(payload, amr::Format { wideband: true, octet_aligned }).ok_or_else(wrong)?
            }
            CodecKind::G726 { bits, .. } => payload.len() * 8 / usize::from(bits.max(1)),
        };
        let milliseconds = samples / (self.kind.audio_rate() / 1000).max(1) as usize;
        if milliseconds > MAX_PACKET_MS { Err(CodecError::TooLong(milliseconds)) } else { Ok(samples) }
    }

    /// Appends the payload's samples at [`CodecKind::audio_rate`] and returns
    /// their number. A comfort-noise payload gives none: it sets the level that [`AudioDecoder::conceal`] fills with.
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
                    CodecKind::L16 { channels, .. } => l16::decode(payload, channels, out),
                    CodecKind::Pcmu
                    | CodecKind::G722
                    | CodecKind::Opus
                    | CodecKind::G729
                    | CodecKind::Gsm
                    | CodecKind::G726 { .. }
                    | CodecKind::Ilbc { .. }
                    | CodecKind::Amr { .. }
                    | CodecKind::AmrWb { .. }
                    | CodecKind::ComfortNoise => g711::decode_ulaw(payload, out),
                }
                plc.good(&mut out[start..]);
            }
            State::G722(decoder, plc) => {
                decoder.decode(payload, out);
                plc.good(&mut out[start..]);
            }
            State::Opus(source) => source.decode(payload, out)?,
            State::G729(decoder) => decoder.decode(payload, out),
            State::Gsm(decoder, plc) => {
                payload.chunks_exact(gsm::FRAME_BYTES).for_each(|frame| decoder.decode(frame, out));
                plc.good(&mut out[start..]);
            }
            State::G726(decoder, plc) => {
                decoder.decode(payload, out);
                plc.good(&mut out[start..]);
            }
            State::Ilbc(decoder) => decoder.decode(payload, out),
            State::Amr(decoder) => decoder.decode(payload, out),
            State::Noise(noise) => noise.set(payload),
        }
        Ok(out.len() - start)
    }

    /// Appends `samples` samples in place of lost packets: concealed, then faded to silence.
    pub fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) {
        match &mut self.state {
            State::Plain(plc) | State::G722(_, plc) | State::Gsm(_, plc) | State::G726(_, plc) => {
                plc.conceal(samples, out)
            }
            State::G729(decoder) => decoder.conceal(samples, out),
            State::Ilbc(decoder) => decoder.conceal(samples, out),
            State::Amr(decoder) => decoder.conceal(samples, out),
            State::Opus(source) => source.conceal(samples, out),
            State::Noise(noise) => noise.fill(samples, out),
        }
    }

    /// As [`AudioDecoder::conceal`], when the payload that follows the gap is at
    /// hand: the end of the gap comes from its forward error correction, if it
    /// carries any (Opus). The payload itself is decoded afterwards as ever.
    pub fn decode_fec(&mut self, samples: usize, following: &[u8], out: &mut Vec<i16>) {
        match &mut self.state {
            State::Opus(source) => source.decode_fec(samples, following, out),
            State::Plain(_)
            | State::G722(..)
            | State::G729(_)
            | State::Gsm(..)
            | State::G726(..)
            | State::Ilbc(_)
            | State::Amr(_)
            | State::Noise(_) => self.conceal(samples, out),
        }
    }
}

fn amr_state(kind: CodecKind, format: amr::Format) -> Result<State, CodecError> {
    let decoder = amr::Decoder::new(format).ok_or(CodecError::Unavailable(kind.name()))?;
    Ok(State::Amr(Box::new(decoder)))
}

/// An Opus decoder whose own concealment is brought to silence: libopus alone
/// goes on with a noise of about -60 dBFS.
#[derive(Debug)]
struct OpusSource {
    decoder: OpusDecoder,
    per_ms: usize,
    /// Samples concealed since the last good packet.
    lost: usize,
}

/// libopus' own fade is left alone for this long.
const OPUS_HOLD_MS: usize = 60;
/// Silent from here on.
const OPUS_SILENT_MS: usize = 120;

impl OpusSource {
    fn new(rate: u32) -> Result<OpusSource, OpusError> {
        Ok(OpusSource { decoder: OpusDecoder::new(rate)?, per_ms: (rate / 1000) as usize, lost: 0 })
    }

    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<(), OpusError> {
        self.decoder.decode(payload, out)?;
        self.lost = 0;
        Ok(())
    }

    fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) {
        let start = out.len();
        let (hold, silent) = (OPUS_HOLD_MS * self.per_ms, OPUS_SILENT_MS * self.per_ms);
        let audible = silent.saturating_sub(self.lost).min(samples);
        while out.len() < start + audible {
            // libopus takes multiples of 2.5 ms.
            let part = (start + audible - out.len()).min(20 * self.per_ms).next_multiple_of(self.per_ms * 5 / 2);
            if self.decoder.conceal(part, None, out).is_err() {
                break;
            }
        }
        out.resize(start + audible, 0);
        for (sample, at) in out[start..].iter_mut().zip(self.lost..).skip_while(|&(_, at)| at < hold) {
            *sample = (i64::from(*sample) * (silent - at) as i64 / (silent - hold) as i64) as i16;
        }
        out.resize(start + samples, 0);
        self.lost = self.lost.saturating_add(samples);
    }

    fn decode_fec(&mut self, samples: usize, following: &[u8], out: &mut Vec<i16>) {
        let covered = opus_packet::fec_samples_48k(following).map_or(0, |covered| covered as usize * self.per_ms / 48);
        if covered == 0 || covered > samples {
            return self.conceal(samples, out);
        }
        self.conceal(samples - covered, out);
        if self.decoder.conceal(covered, Some(following), out).is_ok() {
            self.lost = 0;
        } else {
            self.conceal(covered, out);
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

    /// A decoder that has heard speech up to the middle of a loud syllable.
    fn in_speech(kind: CodecKind) -> (AudioDecoder, Vec<i16>) {
        let rate = kind.audio_rate();
        let speech = syllables(rate, rate as usize * 84 / 100, 2);
        let (mut decoder, mut out) = (AudioDecoder::new(kind).unwrap(), Vec::new());
        let mut wideband = g722::Encoder::new();
        let mut opus = OpusEncoder::new(16_000, OpusSettings::default()).unwrap();
        for frame in speech.chunks_exact(rate as usize / 50) {
            let mut payload = Vec::new();
            match kind {
                CodecKind::G722 => wideband.encode(frame, &mut payload),
                CodecKind::L16 { .. } => l16::encode(frame, &mut payload),
                CodecKind::Opus => payload.extend_from_slice(opus.encode(frame).unwrap()),
                CodecKind::Pcmu
                | CodecKind::Pcma
                | CodecKind::G729
                | CodecKind::Gsm
                | CodecKind::G726 { .. }
                | CodecKind::Ilbc { .. }
                | CodecKind::Amr { .. }
                | CodecKind::AmrWb { .. }
                | CodecKind::ComfortNoise => g711::encode_ulaw(frame, &mut payload),
            }
            decoder.decode(&payload, &mut out).unwrap();
        }
        (decoder, out)
    }

    #[test]
    fn every_codec_fades_to_silence_when_nothing_comes() {
        for kind in [CodecKind::Pcmu, CodecKind::G722, CodecKind::L16 { rate: 44_100, channels: 1 }, CodecKind::Opus] {
            let (mut decoder, mut out) = in_speech(kind);
            let packet = kind.audio_rate() as usize / 50;
            let (start, before) = (out.len(), dbfs(&out[out.len() - packet..]));
            // Gaps come in odd pieces.
            for piece in [packet, packet / 2 + 7, packet / 2 - 7, packet, packet, packet, packet, 4 * packet] {
                decoder.conceal(piece, &mut out);
            }
            let gap = &out[start..];
            assert_eq!(gap.len(), 10 * packet);
            assert!(dbfs(&gap[..packet]) > before - 6.0, "{kind:?} is not concealed");
            assert!(dbfs(&gap[4 * packet..5 * packet]) < before - 20.0, "{kind:?} is not faded");
            assert!(dbfs(&gap[23 * packet / 4..6 * packet]) < before - 60.0, "{kind:?} stops instead of fading");
            assert!(gap[6 * packet..].iter().all(|&s| s == 0), "{kind:?} is not silent");
        }
    }

    #[test]
    fn the_packet_after_a_gap_repairs_its_end() {
        let speech = syllables(16_000, 32_000, 5);
        let mut encoder = ::opus::Encoder::new(16_000, ::opus::Channels::Mono, ::opus::Application::Voip).unwrap();
        encoder.set_bitrate(::opus::Bitrate::Bits(32_000)).unwrap();
        encoder.set_inband_fec(true).unwrap();
        encoder.set_packet_loss_perc(25).unwrap();
        let packets: Vec<Vec<u8>> =
            speech.chunks_exact(320).map(|frame| encoder.encode_vec(frame, 1_275).unwrap()).collect();
        let hear = |fec: bool| {
            let (mut decoder, mut out) = (AudioDecoder::new(CodecKind::Opus).unwrap(), Vec::new());
            let mut lost = false;
            for (number, packet) in packets.iter().enumerate() {
                if number % 5 == 3 {
                    lost = true;
                    continue;
                }
                if std::mem::take(&mut lost) {
                    if fec { decoder.decode_fec(320, packet, &mut out) } else { decoder.conceal(320, &mut out) }
                }
                decoder.decode(packet, &mut out).unwrap();
            }
            assert_eq!(out.len(), speech.len());
            let delay = align(&speech[..8_000], &out, 250);
            correlation(&speech[..31_000], &out[delay..])
        };
        let (with, without) = (hear(true), hear(false));
        assert!(with > 0.9 && with > without + 0.05, "{with:.3} with, {without:.3} without");
    }

    #[test]
    fn a_long_gap_before_a_packet_without_fec_stays_silent() {
        let (mut decoder, mut out) = in_speech(CodecKind::Opus);
        decoder.decode_fec(16_000, &[0x48, 0x07, 0xc9], &mut out);
        assert!(out[out.len() - 14_000..].iter().all(|&s| s == 0));
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
        fn no_payload_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), pick in 0..12_usize) {
            let kind = [CodecKind::Pcmu, CodecKind::Pcma, CodecKind::G722, CodecKind::L16 { rate: 44_100, channels: 2 },
                CodecKind::Opus, CodecKind::ComfortNoise, CodecKind::G729, CodecKind::Gsm,
                CodecKind::G726 { bits: 4, aal2: false }, CodecKind::G726 { bits: 3, aal2: true },
                CodecKind::Ilbc { frame_ms: 20 }, CodecKind::Ilbc { frame_ms: 30 }][pick];
            let mut decoder = AudioDecoder::new(kind).unwrap();
            let mut out = Vec::new();
            let said = decoder.samples(&bytes).ok();
            if let Ok(given) = decoder.decode(&bytes, &mut out) {
                prop_assert_eq!(Some(given), said);
                prop_assert_eq!(given, out.len());
            } else {
                prop_assert!(out.is_empty());
            }
            decoder.decode_fec(700, &bytes, &mut out);
            let before = out.len();
            decoder.conceal(161, &mut out);
            prop_assert_eq!(out.len(), before + 161);
        }
    }
}
