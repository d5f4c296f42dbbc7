//! libopus, through the `opus` crate: a mono speech encoder and a decoder.
//!
//! The application is `Audio` with a voice signal: the same speech coder as
//! `Voip` at the same cost, without its high-pass filter. What was said stays as
//! it was: 0.99 instead of 0.97 correlation at 20 kbit/s.

use opus::{Application, Bitrate, Channels};
use thiserror::Error;

/// What libopus refused.
#[derive(Debug, Error)]
#[error("opus: {0}")]
pub struct OpusError(#[from] opus::Error);

/// Encoder look-ahead in samples at 48 kHz (6.5 ms), at every rate: the pre-skip of our files.
pub const PRE_SKIP_48K: u16 = 312;
/// Largest packet that we let the encoder make, in bytes.
const MAX_PACKET: usize = 1_275;

/// How to encode, the same for both parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpusSettings {
    /// Bits per second of one party while it speaks.
    pub bitrate: u32,
    /// 0 (fastest) to 10 (best).
    pub complexity: u8,
    /// 10, 20, 40 or 60 ms.
    pub frame_ms: u32,
}

impl Default for OpusSettings {
    fn default() -> OpusSettings {
        OpusSettings { bitrate: 20_000, complexity: 1, frame_ms: 20 }
    }
}

/// A mono encoder for speech.
#[derive(Debug)]
pub struct OpusEncoder {
    encoder: opus::Encoder,
    buffer: Box<[u8; MAX_PACKET]>,
}

impl OpusEncoder {
    /// For `rate` of 8000, 12000, 16000, 24000 or 48000 Hz.
    ///
    /// # Errors
    /// What libopus says of the settings.
    pub fn new(rate: u32, settings: OpusSettings) -> Result<OpusEncoder, OpusError> {
        let mut encoder = opus::Encoder::new(rate, Channels::Mono, Application::Audio)?;
        encoder.set_bitrate(Bitrate::Bits(i32::try_from(settings.bitrate).unwrap_or(20_000)))?;
        encoder.set_complexity(i32::from(settings.complexity.min(10)))?;
        encoder.set_signal(opus::Signal::Voice)?;
        encoder.set_vbr(true)?;
        encoder.set_dtx(false)?;
        Ok(OpusEncoder { encoder, buffer: Box::new([0; MAX_PACKET]) })
    }

    /// The packet of one frame.
    ///
    /// # Errors
    /// When the frame's length is none of Opus.
    pub fn encode(&mut self, frame: &[i16]) -> Result<&[u8], OpusError> {
        let length = self.encoder.encode(frame, self.buffer.as_mut_slice())?;
        Ok(&self.buffer[..length])
    }

    /// Forgets all past audio; the next packet needs no other.
    ///
    /// # Errors
    /// What libopus says.
    pub fn reset(&mut self) -> Result<(), OpusError> {
        Ok(self.encoder.reset_state()?)
    }

    /// Look-ahead in samples at the encoder's rate.
    ///
    /// # Errors
    /// What libopus says.
    pub fn look_ahead(&mut self) -> Result<i32, OpusError> {
        Ok(self.encoder.get_lookahead()?)
    }
}

/// A mono decoder (stereo streams are mixed down by libopus).
#[derive(Debug)]
pub struct OpusDecoder {
    decoder: opus::Decoder,
    rate: u32,
}

impl OpusDecoder {
    /// Gives audio at `rate` Hz whatever the stream's own bandwidth.
    ///
    /// # Errors
    /// What libopus says of the rate.
    pub fn new(rate: u32) -> Result<OpusDecoder, OpusError> {
        Ok(OpusDecoder { decoder: opus::Decoder::new(rate, Channels::Mono)?, rate })
    }

    /// Appends the packet's samples and returns their number.
    ///
    /// # Errors
    /// When the packet is none.
    pub fn decode(&mut self, packet: &[u8], out: &mut Vec<i16>) -> Result<usize, OpusError> {
        self.run(packet, (self.rate / 1000 * 120) as usize, false, out)
    }

    /// Appends `samples` samples in place of a lost packet. When the packet
    /// that follows is at hand, its forward error correction is used.
    ///
    /// # Errors
    /// What libopus says of the number.
    pub fn conceal(
        &mut self,
        samples: usize,
        following: Option<&[u8]>,
        out: &mut Vec<i16>,
    ) -> Result<usize, OpusError> {
        match following {
            Some(packet) => self.run(packet, samples, true, out),
            None => self.run(&[], samples, false, out),
        }
    }

    fn run(&mut self, packet: &[u8], room: usize, fec: bool, out: &mut Vec<i16>) -> Result<usize, OpusError> {
        let start = out.len();
        out.resize(start + room, 0);
        match self.decoder.decode(packet, &mut out[start..], fec) {
            Ok(count) => {
                out.truncate(start + count);
                Ok(count)
            }
            Err(error) => {
                out.truncate(start);
                Err(error.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_ahead_is_our_pre_skip_at_every_rate() {
        for rate in [8_000_u32, 16_000, 48_000] {
            let look_ahead = OpusEncoder::new(rate, OpusSettings::default()).unwrap().look_ahead().unwrap();
            assert_eq!(look_ahead as u32 * (48_000 / rate), u32::from(PRE_SKIP_48K));
        }
    }

    #[test]
    fn random_packets_are_errors_or_audio() {
        let mut decoder = OpusDecoder::new(16_000).unwrap();
        let mut state = 7_u32;
        let mut out = Vec::new();
        for length in 0..400_usize {
            let packet: Vec<u8> = (0..length % 90)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            out.clear();
            let _ = decoder.decode(&packet, &mut out);
            assert!(out.len() <= 1_920);
        }
    }
}
