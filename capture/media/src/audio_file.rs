//! `audio.eopus` as it grows: frames to Ogg pages, a page to a sealed segment.
//!
//! A page is closed and sealed every `segment` of audio, so that is what a crash
//! costs. The Ogg headers are a segment of their own, there from the first byte:
//! a file cut at any segment is a playable stream.

use std::time::Duration;

use ferric_codecs::ogg::OpusWriter;
use ferric_codecs::opus_packet::{self_delimit, silence};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::keys::Recipient;
use crate::pipeline::EncodedFrame;
use crate::seal::{SealError, SealHeader, SealSummary, Sealer};

/// Everything between frames and sealed bytes.
#[derive(Debug)]
pub(crate) struct AudioFile {
    writer: OpusWriter,
    sealer: Sealer,
    frame_ms: u32,
    segment_frames: u64,
    packet: Vec<u8>,
    plain: Vec<u8>,
    failure: Option<SealError>,
}

impl AudioFile {
    /// Begins a file; its first bytes come with it. `rate` is informative, in Hz.
    ///
    /// # Errors
    /// The file key cannot be wrapped.
    pub(crate) fn new(
        header: &SealHeader,
        recipients: &[Recipient],
        frame_ms: u32,
        segment: Duration,
        rate: u32,
        rng: &mut StdRng,
    ) -> Result<(AudioFile, Vec<u8>), SealError> {
        let (mut sealer, mut first) = Sealer::new(header, recipients, rng)?;
        let mut writer = OpusWriter::new(rng.random());
        let mut plain = Vec::new();
        let (recording, number) = (header.part.recording.to_string(), header.part.number.to_string());
        let tags = [("RECORDING_ID", recording.as_str()), ("PART", number.as_str())];
        writer.headers(rate, &tags, &mut plain);
        sealer.seal(&plain, &mut first)?;
        plain.clear();
        let frame_ms = frame_ms.max(1);
        let segment_ms = u64::try_from(segment.as_millis()).unwrap_or(1_000);
        let segment_frames = (segment_ms / u64::from(frame_ms)).max(1);
        Ok((AudioFile { writer, sealer, frame_ms, segment_frames, packet: Vec::new(), plain, failure: None }, first))
    }

    /// Takes a frame; gives the sealed bytes of the segment that it ends by beginning the next.
    pub(crate) fn push(&mut self, frame: &EncodedFrame<'_>) -> Option<Vec<u8>> {
        // Not sooner: the last page must hold a packet, for its position is where players cut.
        let begins = frame.number > 0 && frame.number.is_multiple_of(self.segment_frames);
        let sealed = if begins { self.seal() } else { None };
        let [left, right] = frame.packets;
        self.packet.clear();
        if self_delimit(left, &mut self.packet).is_err() {
            self.packet.clear();
            // Cannot happen to a packet of libopus; the frame must be there all the same.
            let _ = self_delimit(silence(self.frame_ms, 8_000), &mut self.packet);
        }
        self.packet.extend_from_slice(right);
        self.writer.push(&self.packet, self.frame_ms * 48, &mut self.plain);
        sealed
    }

    fn seal(&mut self) -> Option<Vec<u8>> {
        self.writer.flush(&mut self.plain);
        let mut sealed = Vec::with_capacity(self.plain.len() + 64);
        let done = self.sealer.seal(&self.plain, &mut sealed);
        self.plain.clear();
        self.note(done)?;
        Some(sealed)
    }

    /// Ends the file after `length_48k` samples; its last bytes, and its measures.
    pub(crate) fn finish(&mut self, length_48k: u64) -> (Vec<u8>, SealSummary) {
        self.writer.finish(length_48k, &mut self.plain);
        let mut sealed = Vec::with_capacity(self.plain.len() + 64);
        let done = self.sealer.finish(&self.plain, &mut sealed);
        self.plain.clear();
        self.note(done);
        (sealed, self.sealer.summary())
    }

    fn note<T>(&mut self, done: Result<T, SealError>) -> Option<T> {
        done.map_err(|error| self.failure = self.failure.take().or(Some(error))).ok()
    }

    /// Segments so far, and how much audio those hold that are not the headers.
    pub(crate) fn sealed(&self) -> (u32, Duration) {
        let segments = self.sealer.segments();
        let frames = u64::from(segments.saturating_sub(1)) * self.segment_frames;
        (segments, Duration::from_millis(frames * u64::from(self.frame_ms)))
    }

    /// The first failure since it was asked for.
    pub(crate) fn take_failure(&mut self) -> Option<SealError> {
        self.failure.take()
    }
}
