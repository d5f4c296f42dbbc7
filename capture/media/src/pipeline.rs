//! All streams of a recording onto one timeline, and from there into two
//! encoders.
//!
//! Call time is divided into frames of `frame_ms`. A frame is encoded once it
//! lies `jitter_delay` in the past: what has not arrived by then is lost.
//! Frames leave in order, none is skipped, so the number of a frame is its
//! time. Left is the first labelled stream, right the second; further streams
//! are mixed into the right one, a single (mixed) stream leaves the right
//! channel silent. Both encoders run at 8 kHz until a wideband codec is
//! negotiated, from then on at 16 kHz.
//!
//! Everything works in batches: the caller hands in the packets of the last
//! 40 to 100 ms with their arrival stamps, then calls [`MediaPipeline::advance`].
//! In a running call nothing is allocated per packet or frame.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_codecs::opus::{OpusSettings, PRE_SKIP_48K};
use ferric_codecs::opus_packet::{silence, true_silence};
use ferric_codecs::party::PartyEncoder;

use crate::dtmf_mask::LOOK_AHEAD_MS;
use crate::gaps::{GapCause, GapList};
use crate::mix::Mix;
use crate::quality::INTERVAL_MS;
use crate::rtcp::{self, ReportBlock, RtcpItem};
use crate::rtp::{Ssrc, StreamIndex};
use crate::stats::{Channel, RecordingStats};
use crate::stream::{Arrival, Stream, StreamConfig, StreamEvent};

/// Frames decoded before any is encoded: bounds what a late call of `advance` holds at once.
const BATCH: u64 = 25;
/// Streams of one recording; further ones are ignored.
pub const MAX_STREAMS: usize = 32;
const NARROWBAND: u32 = 8_000;
const WIDEBAND: u32 = 16_000;

/// How to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineConfig {
    /// Encoder settings, for each party.
    pub opus: OpusSettings,
    /// How long packets may be late.
    pub jitter_delay: Duration,
    /// Key tones are silenced (`dtmf = "mask"`). [`PipelineConfig::jitter_delay`] should be longer then: audio is looked at
    /// before it is encoded.
    pub mask_dtmf: bool,
    /// Silence after which a stream's source may change.
    pub takeover: Duration,
    /// Ours in RTCP.
    pub ssrc: Ssrc,
}

impl Default for PipelineConfig {
    fn default() -> PipelineConfig {
        PipelineConfig {
            opus: OpusSettings::default(),
            jitter_delay: Duration::from_millis(120),
            mask_dtmf: false,
            takeover: Duration::from_millis(1_000),
            ssrc: Ssrc(0),
        }
    }
}

/// One frame of both parties, as live listeners and the file get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedFrame<'a> {
    /// Counts from 0 at the beginning of the recording.
    pub number: u64,
    /// Beginning, in samples at 48 kHz since the recording began.
    pub position_48k: u64,
    /// Left and right: an Opus packet each, mono.
    pub packets: [&'a [u8]; 2],
}

/// The media of one recording.
#[derive(Debug)]
pub struct MediaPipeline {
    start: Instant,
    config: PipelineConfig,
    rate: u32,
    /// The next frame to encode.
    next: u64,
    streams: Vec<Stream>,
    encoders: [PartyEncoder; 2],
    mix: Mix,
    /// Frames of pauses not yet passed, end exclusive.
    silenced: Vec<(u64, u64)>,
    paused_from: Option<u64>,
    pauses: GapList,
    encoders_fresh: bool,
    unknown_stream: u64,
    counted: (u64, u64),
    ended_us: Option<i64>,
    /// Intervals of quality that are over.
    intervals: u64,
}

impl MediaPipeline {
    /// A recording that begins now.
    pub fn new(now: Instant, config: PipelineConfig, streams: Vec<StreamConfig>) -> MediaPipeline {
        let mut pipeline = MediaPipeline {
            start: now,
            config,
            rate: NARROWBAND,
            next: 0,
            streams: Vec::new(),
            encoders: [PartyEncoder::new(NARROWBAND, config.opus), PartyEncoder::new(NARROWBAND, config.opus)],
            mix: Mix::default(),
            silenced: Vec::new(),
            paused_from: None,
            pauses: GapList::default(),
            encoders_fresh: true,
            unknown_stream: 0,
            counted: (0, 0),
            ended_us: None,
            intervals: 0,
        };
        pipeline.update_streams(now, streams);
        pipeline
    }

    /// When the recording began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// µs since the recording began, negative before.
    pub fn call_us(&self, at: Instant) -> i64 {
        let us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4);
        match at.checked_duration_since(self.start) {
            Some(after) => us(after),
            None => -us(self.start.saturating_duration_since(at)),
        }
    }

    fn frame_us(&self) -> i64 {
        i64::from(self.config.opus.frame_ms.max(1)) * 1_000
    }

    fn stream_mut(&mut self, index: StreamIndex) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.config().index == index)
    }

    /// Takes the streams that the call has from now on. Streams that stay keep
    /// their state, streams no longer there end; those may come back.
    pub fn update_streams(&mut self, now: Instant, streams: Vec<StreamConfig>) {
        let now_us = self.call_us(now);
        let (rate, takeover, intervals) = (self.rate, self.config.takeover, self.intervals);
        // What is already encoded is past: a new stream begins at the next frame.
        let begin_us = i64::try_from(self.next).unwrap_or(0) * self.frame_us();
        for stream in &mut self.streams {
            if !streams.iter().any(|config| config.index == stream.config().index) {
                stream.leave(now_us);
            }
        }
        for config in streams {
            if let Some(stream) = self.stream_mut(config.index) {
                stream.update(now, config, now_us);
            } else if self.streams.len() < MAX_STREAMS {
                let mut stream = Stream::new(config, rate, begin_us, intervals, takeover);
                if self.config.mask_dtmf {
                    stream.mask_tones();
                }
                self.streams.push(stream);
            }
        }
        if self.streams.iter().any(|stream| stream.config().is_wideband()) {
            self.set_rate(WIDEBAND);
        }
    }

    fn set_rate(&mut self, rate: u32) {
        if rate != self.rate {
            self.rate = rate;
            self.encoders.iter_mut().for_each(|encoder| encoder.set_rate(rate));
            self.streams.iter_mut().for_each(|stream| stream.voice_mut().track_mut().set_rate(rate));
        }
    }

    /// Takes a datagram of a stream's RTP port.
    pub fn handle_rtp(
        &mut self,
        arrival: Instant,
        stream: StreamIndex,
        from: SocketAddr,
        bytes: &[u8],
        events: &mut impl FnMut(StreamEvent),
    ) {
        if self.ended_us.is_some() {
            return;
        }
        let arrival = Arrival { at: arrival, us: self.call_us(arrival), secret: self.paused_from.is_some() };
        match self.stream_mut(stream) {
            Some(stream) => stream.handle_rtp(arrival, from, bytes, events),
            None => self.unknown_stream += 1,
        }
    }

    /// Takes a datagram of a stream's RTCP port; true when it is from the stream's host and of use.
    pub fn handle_rtcp(&mut self, arrival: Instant, stream: StreamIndex, from: SocketAddr, bytes: &[u8]) -> bool {
        let (us, ours) = (self.call_us(arrival), self.config.ssrc);
        let Some(stream) =
            self.stream_mut(stream).filter(|stream| stream.source().is_some_and(|source| source.ip() == from.ip()))
        else {
            return false;
        };
        let Some(plain) = stream.open_rtcp(bytes) else { return false };
        let mut reported = false;
        let valid = rtcp::parse(&plain, |item| match item {
            RtcpItem::Reference { ssrc, reference, delay } if ssrc == ours => {
                stream.take_reference(us, reference, delay)
            }
            RtcpItem::SenderReport(_) | RtcpItem::Cname { .. } | RtcpItem::Bye { .. } | RtcpItem::Reference { .. } => {
                reported |= stream.handle_rtcp(us, &item);
            }
        });
        if reported {
            self.align();
        }
        valid
    }

    /// Protects a report of ours for a stream that is.
    pub(crate) fn seal_rtcp(&mut self, stream: StreamIndex, bytes: Vec<u8>) -> Option<Vec<u8>> {
        self.stream_mut(stream)?.seal_rtcp(bytes)
    }

    /// Streams of one sender are laid side by side as it sampled them.
    fn align(&mut self) {
        for at in 0..self.streams.len() {
            let Some(stream) = self.streams.get(at) else { return };
            let host = stream.source().map(|source| source.ip());
            let bias = self
                .streams
                .iter()
                .filter(|other| other.config().index != stream.config().index)
                .filter(|other| other.source().map(|source| source.ip()) == host)
                .filter_map(|other| stream.sender_clock().bias_us(other.sender_clock()))
                .max();
            if let (Some(bias), Some(stream)) = (bias, self.streams.get_mut(at)) {
                stream.set_bias_us(bias);
            }
        }
    }

    /// Encodes every frame that is due and hands it to `sink`.
    pub fn advance(&mut self, now: Instant, sink: &mut impl FnMut(EncodedFrame<'_>)) {
        if self.ended_us.is_some() {
            return;
        }
        let now_us = self.call_us(now);
        let delay_us = i64::try_from(self.config.jitter_delay.as_micros()).unwrap_or(0);
        let due = u64::try_from((now_us - delay_us) / self.frame_us()).unwrap_or(0);
        self.run(due, now_us, sink);
        self.close_intervals(now_us - delay_us);
    }

    /// Closes the intervals of quality that end by `until_us`.
    fn close_intervals(&mut self, until_us: i64) {
        while i64::try_from((self.intervals + 1) * INTERVAL_MS * 1_000).unwrap_or(i64::MAX) <= until_us {
            self.close_interval();
        }
    }

    fn close_interval(&mut self) {
        self.intervals += 1;
        let delay_ms = self.reorder_delay_ms();
        self.streams.iter_mut().for_each(|stream| stream.close_interval(delay_ms));
    }

    /// What counts into the scores: looking ahead for key tones delays no listener.
    fn reorder_delay_ms(&self) -> f64 {
        let ahead_ms = if self.config.mask_dtmf { f64::from(LOOK_AHEAD_MS) } else { 0.0 };
        (self.config.jitter_delay.as_secs_f64() * 1_000.0 - ahead_ms).max(0.0)
    }

    /// Ends the recording: encodes the rest, without waiting for more. Returns its length in samples at 48 kHz.
    pub fn finish(&mut self, now: Instant, sink: &mut impl FnMut(EncodedFrame<'_>)) -> u64 {
        if let Some(ended) = self.ended_us {
            return samples_48k(ended);
        }
        let now_us = self.call_us(now).max(0);
        self.resume(now);
        // The encoder's look-ahead must be pushed through as well.
        let whole = u64::try_from(now_us).unwrap_or(0) * 48 / 1_000 + u64::from(PRE_SKIP_48K);
        let frames = whole.div_ceil(u64::from(self.config.opus.frame_ms.max(1)) * 48);
        // A second on, so that nothing stays undecided.
        self.run(frames, now_us + 1_000_000, sink);
        self.close_intervals(now_us);
        if now_us > i64::try_from(self.intervals * INTERVAL_MS * 1_000).unwrap_or(i64::MAX) {
            // The last one is shorter.
            self.close_interval();
        }
        let end_ms = u64::try_from(now_us / 1_000).unwrap_or(0);
        self.streams.iter_mut().for_each(|stream| stream.voice_mut().finish(end_ms));
        self.ended_us = Some(now_us);
        samples_48k(now_us)
    }

    fn run(&mut self, until: u64, now_us: i64, sink: &mut impl FnMut(EncodedFrame<'_>)) {
        let frame_us = self.frame_us();
        let ahead_us = if self.config.mask_dtmf { i64::from(LOOK_AHEAD_MS) * 1_000 } else { 0 };
        while self.next < until {
            let batch = until.min(self.next + BATCH);
            let end_us = i64::try_from(batch).unwrap_or(0) * frame_us;
            for stream in &mut self.streams {
                let lag_us = stream.voice().track().lag_us();
                stream.drain(end_us + lag_us + ahead_us, now_us);
                stream.voice_mut().fill_until(end_us);
                stream.find_tones();
            }
            while self.next < batch {
                self.encode(sink);
            }
            self.streams.iter_mut().for_each(|stream| stream.voice_mut().track_mut().compact());
        }
    }

    fn encode(&mut self, sink: &mut impl FnMut(EncodedFrame<'_>)) {
        let number = self.next;
        let (frame_ms, rate) = (self.config.opus.frame_ms, self.rate);
        let samples = (self.rate * frame_ms / 1_000) as usize;
        self.next += 1;
        let position_48k = number * u64::from(frame_ms) * 48;
        self.streams.iter_mut().for_each(|stream| stream.silence_tones(samples));
        if self.is_silenced(number) {
            if !self.encoders_fresh {
                // What was said before the pause shall not colour what comes after.
                self.counted = self.frames();
                self.encoders =
                    [PartyEncoder::new(self.rate, self.config.opus), PartyEncoder::new(self.rate, self.config.opus)];
                self.encoders_fresh = true;
            }
            sink(EncodedFrame { number, position_48k, packets: [true_silence(frame_ms); 2] });
        } else {
            self.encoders_fresh = false;
            let [left, right] = &mut self.encoders;
            let frame = self.mix.frame(parts(&self.streams, Channel::Left, samples), samples);
            let left = left.encode(frame).unwrap_or_else(|_| silence(frame_ms, rate));
            let frame = self.mix.frame(parts(&self.streams, Channel::Right, samples), samples);
            let right = right.encode(frame).unwrap_or_else(|_| silence(frame_ms, rate));
            sink(EncodedFrame { number, position_48k, packets: [left, right] });
        }
        self.streams.iter_mut().for_each(|stream| stream.voice_mut().track_mut().consume(samples));
    }

    fn is_silenced(&mut self, number: u64) -> bool {
        if self.silenced.is_empty() {
            return false;
        }
        self.silenced.retain(|&(_, end)| end > number);
        self.silenced.iter().any(|&(start, _)| start <= number)
    }

    /// From now on both channels are silent, whole frames. Returns the beginning
    /// of the silence in ms, `None` when it is silent already.
    pub fn pause(&mut self, now: Instant) -> Option<u64> {
        if self.paused_from.is_some() || self.ended_us.is_some() {
            return None;
        }
        let from = u64::try_from(self.call_us(now) / self.frame_us()).unwrap_or(0);
        self.paused_from = Some(from);
        self.silenced.push((from, u64::MAX));
        Some(from * u64::from(self.config.opus.frame_ms))
    }

    /// From now on audio is recorded again. Returns the end of the silence in ms,
    /// `None` when there was no pause.
    pub fn resume(&mut self, now: Instant) -> Option<u64> {
        let from = self.paused_from.take()?;
        let frame_us = self.frame_us();
        let to = u64::try_from((self.call_us(now) + frame_us - 1) / frame_us).unwrap_or(0);
        if let Some(open) = self.silenced.last_mut() {
            open.1 = to;
        }
        let frame_ms = u64::from(self.config.opus.frame_ms);
        self.pauses.add(from * frame_ms, to * frame_ms, GapCause::Pause);
        Some(to * frame_ms)
    }

    /// True between pause and resume.
    pub fn is_paused(&self) -> bool {
        self.paused_from.is_some()
    }

    /// Encoded so far.
    pub fn encoded(&self) -> Duration {
        Duration::from_millis(self.next * u64::from(self.config.opus.frame_ms))
    }

    /// When the next frame is due.
    pub fn next_frame_at(&self) -> Option<Instant> {
        let end = u32::try_from(self.next + 1)
            .ok()
            .map(|frames| Duration::from_millis(u64::from(self.config.opus.frame_ms)) * frames)?;
        self.ended_us.is_none().then(|| self.start + end + self.config.jitter_delay)
    }

    /// Arrival of the newest packet of any active stream, µs since the recording
    /// began; `Err` when signalling has none active.
    pub fn last_media_us(&self) -> Result<Option<i64>, AllInactive> {
        let mut active = self.streams.iter().filter(|stream| stream.config().active).peekable();
        if active.peek().is_none() {
            return Err(AllInactive);
        }
        Ok(active.filter_map(Stream::last_us).max())
    }

    /// The reference time to send to a stream's peer, which may answer it: that gives the round trip (RFC 3611 4.4).
    pub fn reference_time(&mut self, now: Instant, stream: StreamIndex) -> Option<u64> {
        let now_us = self.call_us(now);
        Some(self.stream_mut(stream)?.refer(now_us))
    }

    /// Report blocks for every stream that has a source, with where they go.
    pub fn reports(&mut self, now: Instant, mut report: impl FnMut(StreamIndex, SocketAddr, ReportBlock)) {
        let now_us = self.call_us(now);
        for stream in &mut self.streams {
            if let (Some(to), Some(block)) = (stream.source(), stream.report(now_us)) {
                report(stream.config().index, to, block);
            }
        }
    }

    fn frames(&self) -> (u64, u64) {
        self.encoders.iter().fold(self.counted, |(coded, silent), encoder| {
            (coded + encoder.frames_coded(), silent + encoder.frames_silent())
        })
    }

    /// Everything up to now.
    pub fn stats(&self) -> RecordingStats {
        let delay_ms = self.reorder_delay_ms();
        let (frames_coded, frames_silent) = self.frames();
        let mut pauses = self.pauses.clone();
        if let Some(from) = self.paused_from {
            let frame_ms = u64::from(self.config.opus.frame_ms);
            pauses.add(from * frame_ms, (self.next.max(from + 1)) * frame_ms, GapCause::Pause);
        }
        let duration_ms = match self.ended_us {
            Some(ended) => u64::try_from(ended / 1_000).unwrap_or(0),
            None => u64::try_from(self.encoded().as_millis()).unwrap_or(0),
        };
        RecordingStats {
            duration_ms,
            encoder_rate: self.rate,
            paused: self.is_paused(),
            frames_coded,
            frames_silent,
            unknown_stream: self.unknown_stream,
            pauses: pauses.list().to_vec(),
            streams: self.streams.iter().map(|stream| stream.stats(delay_ms, duration_ms)).collect(),
        }
    }

    /// The scores of the whole recording, of each stream in order: a value for each ten seconds, `None` where nothing came.
    pub fn scores(&self) -> Vec<Vec<Option<f64>>> {
        self.streams.iter().map(Stream::scores).collect()
    }
}

/// No stream is active by signalling: silence is no fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllInactive;

fn samples_48k(us: i64) -> u64 {
    u64::try_from(us).unwrap_or(0) * 48 / 1_000
}

/// What the streams of a channel say in the next frame.
fn parts(streams: &[Stream], channel: Channel, samples: usize) -> impl Iterator<Item = &[i16]> {
    let here = streams.iter().filter(move |stream| stream.config().channel == channel);
    here.filter_map(move |stream| stream.voice().track().frame(samples))
}
