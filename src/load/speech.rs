//! What the parties say, as RTP payloads of 20 ms, encoded once for all calls.

use ferric_codecs::opus::{OpusEncoder, OpusSettings};
use ferric_codecs::resample::Resampler;
use ferric_codecs::{g711, g722};

use super::config::{LoadCodec, LoadError};

/// Milliseconds of audio in one packet.
pub(super) const FRAME_MS: u32 = 20;

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

    /// The payload of packet `index` of a party, round after round.
    pub(super) fn payload(&self, party: usize, index: u64) -> &[u8] {
        let Some(packets) = self.parties.get(party) else { return &[] };
        let at = index % (packets.len().max(1) as u64);
        usize::try_from(at).ok().and_then(|at| packets.get(at)).map_or(&[], |payload| payload)
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
        assert_eq!(speech.payload(0, 0).len(), 160);
        assert_eq!(speech.payload(1, 49), &[0xff; 160][..], "padded with silence");
        assert_eq!(speech.payload(0, 3), speech.payload(0, 53));
    }

    #[test]
    fn every_codec_has_packets_of_20_ms() {
        let samples = [syllables(16_000, 32_000, 1), syllables(16_000, 32_000, 2)];
        for (codec, ticks, bytes) in
            [(LoadCodec::Pcma, 160, Some(160)), (LoadCodec::G722, 160, Some(160)), (LoadCodec::Opus, 960, None)]
        {
            let speech = Speech::encode(&samples, 16_000, codec).unwrap();
            assert_eq!((speech.len(), speech.ticks), (100, ticks));
            assert!(bytes.is_none_or(|bytes| speech.payload(0, 7).len() == bytes));
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
