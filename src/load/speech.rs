//! What the parties say, as RTP payloads of 20 ms: speech that is encoded once for all calls, or marks.

use std::borrow::Cow;

use ferric_codecs::opus::{OpusEncoder, OpusSettings};
use ferric_codecs::resample::Resampler;
use ferric_codecs::{g711, g722};

use super::config::{LoadCodec, LoadError};
use super::marks;

/// Milliseconds of audio in one packet.
pub(super) const FRAME_MS: u32 = 20;

/// What one stream of a call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// The speech of a party, beginning at this packet of it.
    Party { party: usize, offset: u64 },
    /// The frames of a mark.
    Marked(u64),
}

/// Payloads of both parties; both loops are of the same length, so that the
/// parties stay in step however often they repeat.
#[derive(Debug)]
pub(super) struct Speech {
    pub(super) codec: LoadCodec,
    /// RTP clock ticks of one packet.
    pub(super) ticks: u32,
    parties: [Vec<Box<[u8]>>; 2],
}

impl Speech {
    /// Encodes mono samples of `rate` Hz.
    pub(super) fn encode(samples: &[Vec<i16>; 2], rate: u32, codec: LoadCodec) -> Result<Speech, LoadError> {
        let resampled = samples.each_ref().map(|party| resample(party, rate, codec.audio_rate()));
        let frame = (codec.audio_rate() * FRAME_MS / 1_000) as usize;
        let frames = resampled.iter().map(|party| party.len().div_ceil(frame)).max().unwrap_or(0);
        if frames == 0 {
            return Err(LoadError::Config("there is no speech to send"));
        }
        let [first, second] = resampled.map(|mut party| {
            party.resize(frames * frame, 0);
            encode(&party, frame, codec)
        });
        Ok(Speech { codec, ticks: codec.rtp_clock() * FRAME_MS / 1_000, parties: [first?, second?] })
    }

    /// Packets of one round.
    pub(super) fn len(&self) -> usize {
        self.parties.first().map_or(0, Vec::len)
    }

    /// The payload of packet `index` of a voice; speech repeats round after round.
    pub(super) fn payload(&self, voice: Voice, index: u64) -> Cow<'_, [u8]> {
        let (party, index) = match voice {
            Voice::Party { party, offset } => (party, index + offset),
            Voice::Marked(mark) => {
                let (frame, mut payload) = (marks::frame(mark, index), Vec::with_capacity(marks::FRAME));
                match self.codec {
                    LoadCodec::Pcma => g711::encode_alaw(&frame, &mut payload),
                    LoadCodec::Pcmu | LoadCodec::G722 | LoadCodec::Opus => g711::encode_ulaw(&frame, &mut payload),
                }
                return payload.into();
            }
        };
        let Some(packets) = self.parties.get(party) else { return Cow::Borrowed(&[]) };
        let at = index % (packets.len().max(1) as u64);
        usize::try_from(at).ok().and_then(|at| packets.get(at)).map_or(&[][..], |payload| payload).into()
    }
}

fn resample(samples: &[i16], from: u32, to: u32) -> Vec<i16> {
    let mut resampler = Resampler::new(from, to);
    let mut out = Vec::with_capacity(samples.len() * 2);
    resampler.process(samples, &mut out);
    // What the filter still holds, and without the lag that it brings.
    let delay = resampler.delay_samples();
    resampler.process(&vec![0; delay * 2 + 64], &mut out);
    out.drain(..delay.min(out.len()));
    out.truncate(samples.len() * to as usize / from.max(1) as usize);
    out
}

fn encode(samples: &[i16], frame: usize, codec: LoadCodec) -> Result<Vec<Box<[u8]>>, LoadError> {
    let mut packets = Vec::with_capacity(samples.len() / frame);
    let mut wideband = g722::Encoder::new();
    let mut opus = match codec {
        LoadCodec::Opus => {
            let settings = OpusSettings { bitrate: 24_000, complexity: 5, frame_ms: FRAME_MS };
            Some(OpusEncoder::new(codec.audio_rate(), settings).map_err(|error| LoadError::Encode(error.to_string()))?)
        }
        LoadCodec::Pcmu | LoadCodec::Pcma | LoadCodec::G722 => None,
    };
    for frame in samples.chunks_exact(frame) {
        let mut payload = Vec::new();
        match (codec, &mut opus) {
            (LoadCodec::Pcmu, _) => g711::encode_ulaw(frame, &mut payload),
            (LoadCodec::Pcma, _) => g711::encode_alaw(frame, &mut payload),
            (LoadCodec::G722, _) => wideband.encode(frame, &mut payload),
            (LoadCodec::Opus, Some(opus)) => {
                let packet = opus.encode(frame).map_err(|error| LoadError::Encode(error.to_string()))?;
                payload.extend_from_slice(packet);
            }
            (LoadCodec::Opus, None) => {}
        }
        packets.push(payload.into_boxed_slice());
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use ferric_codecs::testing::syllables;

    #[test]
    fn both_parties_repeat_after_the_longer_one() {
        let speech = [syllables(8_000, 8_000, 1), syllables(8_000, 5_000, 2)];
        let speech = Speech::encode(&speech, 8_000, LoadCodec::Pcmu).unwrap();
        assert_eq!((speech.len(), speech.ticks), (50, 160));
        let party = |party, offset| Voice::Party { party, offset };
        assert_eq!(speech.payload(party(0, 0), 0).len(), 160);
        assert_eq!(speech.payload(party(1, 0), 49), &[0xff; 160][..], "padded with silence");
        assert_eq!(speech.payload(party(0, 0), 3), speech.payload(party(0, 50), 3));
        assert_eq!(speech.payload(party(0, 2), 1), speech.payload(party(0, 0), 3));
        assert_ne!(speech.payload(Voice::Marked(1), 0), speech.payload(Voice::Marked(1), 50));
    }

    #[test]
    fn every_codec_has_packets_of_20_ms() {
        let samples = [syllables(16_000, 32_000, 1), syllables(16_000, 32_000, 2)];
        for (codec, ticks, bytes) in
            [(LoadCodec::Pcma, 160, Some(160)), (LoadCodec::G722, 160, Some(160)), (LoadCodec::Opus, 960, None)]
        {
            let speech = Speech::encode(&samples, 16_000, codec).unwrap();
            assert_eq!((speech.len(), speech.ticks), (100, ticks));
            assert!(bytes.is_none_or(|bytes| speech.payload(Voice::Party { party: 0, offset: 0 }, 7).len() == bytes));
        }
        assert!(Speech::encode(&[vec![], vec![]], 8_000, LoadCodec::Pcmu).is_err());
    }

    #[test]
    fn resampling_keeps_length_and_place() {
        let samples = syllables(16_000, 16_000, 3);
        let half = resample(&samples, 16_000, 8_000);
        assert_eq!(half.len(), 8_000);
        let back = resample(&half, 8_000, 16_000);
        assert!(ferric_codecs::testing::correlation(&samples, &back) > 0.7);
    }
}
