//! A simulated call: senders with their own clocks, a lossy path, a recording,
//! and ears that compare what was recorded with what was said.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_codecs::decode::CodecKind;
use ferric_codecs::opus::{OpusDecoder, OpusEncoder, OpusSettings};
use ferric_codecs::testing::correlation;
use ferric_codecs::{g711, g722};
use ferric_media::pipeline::{MediaPipeline, PipelineConfig};
use ferric_media::rtp::{RtpPacket, Ssrc, StreamIndex};
use ferric_media::stats::{Channel, RecordingStats};
use ferric_media::stream::{PayloadKind, StreamConfig, StreamEvent};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub const PCMU: u8 = 0;
pub const PCMA: u8 = 8;
pub const G722: u8 = 9;
pub const CN: u8 = 13;
pub const DTMF: u8 = 101;
pub const OPUS: u8 = 111;
pub const L16: u8 = 97;

pub fn kind(payload_type: u8) -> CodecKind {
    match payload_type {
        PCMU => CodecKind::Pcmu,
        PCMA => CodecKind::Pcma,
        G722 => CodecKind::G722,
        OPUS => CodecKind::Opus,
        L16 => CodecKind::L16 { rate: 16_000, channels: 1 },
        _ => CodecKind::ComfortNoise,
    }
}

pub fn stream(index: u16, payload_types: &[u8]) -> StreamConfig {
    let mut payloads: Vec<_> = payload_types.iter().map(|&pt| (pt, PayloadKind::Audio(kind(pt)))).collect();
    payloads.push((DTMF, PayloadKind::TelephoneEvent { clock_rate: 8_000 }));
    StreamConfig {
        index: StreamIndex(index),
        label: (index + 1).to_string(),
        channel: if index == 0 { Channel::Left } else { Channel::Right },
        payloads,
        active: true,
        expected_source: None,
        srtp: None,
    }
}

pub fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 4_000))
}

/// A datagram on its way.
#[derive(Clone)]
pub struct Datagram {
    pub arrival_us: i64,
    pub stream: u16,
    pub source: SocketAddr,
    pub bytes: Vec<u8>,
}

/// One sender of RTP.
pub struct Sender {
    pub stream: u16,
    pub source: SocketAddr,
    pub payload_type: u8,
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
    pub ptime_ms: u32,
    pub marker: bool,
    g722: g722::Encoder,
    opus: OpusEncoder,
}

impl Sender {
    pub fn new(stream: u16, payload_type: u8, seed: u64) -> Sender {
        let mut rng = StdRng::seed_from_u64(seed + u64::from(stream) * 77);
        Sender {
            stream,
            source: address(stream as u8 + 1),
            payload_type,
            ssrc: rng.random(),
            sequence: rng.random(),
            timestamp: rng.random(),
            ptime_ms: 20,
            marker: false,
            g722: g722::Encoder::new(),
            opus: OpusEncoder::new(16_000, OpusSettings { bitrate: 32_000, complexity: 5, frame_ms: 20 }).unwrap(),
        }
    }

    pub fn codec(&self) -> CodecKind {
        kind(self.payload_type)
    }

    /// Ticks of the RTP clock in one packet.
    pub fn ticks(&self) -> u32 {
        self.codec().rtp_clock_rate() / 1_000 * self.ptime_ms
    }

    pub fn raw(&mut self, arrival_us: i64, payload_type: u8, payload: &[u8]) -> Datagram {
        let mut bytes = Vec::new();
        let packet = RtpPacket {
            marker: std::mem::take(&mut self.marker),
            payload_type,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: Ssrc(self.ssrc),
            payload,
        };
        packet.write(&mut bytes);
        self.sequence = self.sequence.wrapping_add(1);
        Datagram { arrival_us, stream: self.stream, source: self.source, bytes }
    }

    /// Sends all of `pcm` (at the codec's rate), the first packet at `start_us`,
    /// the sender's clock off by `ppm`.
    pub fn say(&mut self, start_us: i64, pcm: &[i16], ppm: f64) -> Vec<Datagram> {
        let samples = (self.codec().audio_rate() / 1_000 * self.ptime_ms) as usize;
        let mut out = Vec::new();
        for (n, part) in pcm.chunks_exact(samples).enumerate() {
            let mut payload = Vec::new();
            match self.payload_type {
                PCMA => g711::encode_alaw(part, &mut payload),
                G722 => self.g722.encode(part, &mut payload),
                OPUS => payload.extend_from_slice(self.opus.encode(part).unwrap()),
                L16 => payload.extend(part.iter().flat_map(|s| s.to_be_bytes())),
                _ => g711::encode_ulaw(part, &mut payload),
            }
            let sent = n as f64 * f64::from(self.ptime_ms) * 1_000.0 / (1.0 + ppm / 1e6);
            out.push(self.raw(start_us + sent as i64, self.payload_type, &payload));
            self.timestamp = self.timestamp.wrapping_add(self.ticks());
        }
        out
    }

    /// Time passes without packets.
    pub fn skip_ms(&mut self, ms: u32) {
        self.timestamp = self.timestamp.wrapping_add(self.codec().rtp_clock_rate() / 1_000 * ms);
    }
}

/// What a path does to packets.
#[derive(Clone, Copy, Default)]
pub struct Path {
    pub loss: f64,
    pub reorder: f64,
    pub duplicate: f64,
    pub jitter_ms: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub lost: u64,
    pub duplicated: u64,
}

impl Path {
    pub fn send(&self, packets: Vec<Datagram>, seed: u64) -> (Vec<Datagram>, Done) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut done = Done::default();
        let mut out = Vec::new();
        let last = packets.len().saturating_sub(1);
        for (n, mut packet) in packets.into_iter().enumerate() {
            // A loss at the very ends cannot be known to the receiver.
            if n != 0 && n != last && rng.random_bool(self.loss) {
                done.lost += 1;
                continue;
            }
            packet.arrival_us += (rng.random::<f64>() * self.jitter_ms * 1_000.0) as i64;
            if rng.random_bool(self.reorder) {
                packet.arrival_us += 45_000;
            }
            if rng.random_bool(self.duplicate) {
                done.duplicated += 1;
                let mut copy = packet.clone();
                copy.arrival_us += 5_000;
                out.push(copy);
            }
            out.push(packet);
        }
        out.sort_by_key(|packet| packet.arrival_us);
        (out, done)
    }
}

/// Something done to the recording while it runs.
pub type Action = Box<dyn FnOnce(&mut MediaPipeline, Instant)>;

/// A call to record.
#[derive(Default)]
pub struct Call {
    pub streams: Vec<StreamConfig>,
    pub packets: Vec<Datagram>,
    pub actions: Vec<(i64, Action)>,
    pub step_ms: u64,
    pub config: PipelineConfig,
}

/// What came of it.
pub struct Recorded {
    /// Rate of the channels below, in Hz.
    pub rate: u32,
    pub channels: [Vec<i16>; 2],
    /// Packets of each frame.
    pub frames: Vec<[Vec<u8>; 2]>,
    pub stats: RecordingStats,
    pub events: Vec<StreamEvent>,
}

impl Call {
    pub fn new(streams: Vec<StreamConfig>) -> Call {
        Call { streams, packets: Vec::new(), actions: Vec::new(), step_ms: 60, config: PipelineConfig::default() }
    }

    pub fn add(&mut self, packets: Vec<Datagram>) -> &mut Call {
        self.packets.extend(packets);
        self
    }

    pub fn at(&mut self, ms: i64, action: impl FnOnce(&mut MediaPipeline, Instant) + 'static) -> &mut Call {
        self.actions.push((ms * 1_000, Box::new(action)));
        self
    }

    /// Records `duration_ms` and decodes the result at `rate`.
    pub fn record(mut self, duration_ms: u64, rate: u32) -> Recorded {
        let start = Instant::now() + Duration::from_secs(3_600);
        let moment = |us: i64| {
            if us >= 0 {
                start + Duration::from_micros(us as u64)
            } else {
                start - Duration::from_micros(us.unsigned_abs())
            }
        };
        let mut pipeline = MediaPipeline::new(start, self.config, self.streams);
        self.packets.sort_by_key(|packet| packet.arrival_us);
        self.actions.sort_by_key(|(us, _)| *us);
        let mut actions = self.actions.into_iter().peekable();
        let mut packets = self.packets.into_iter().peekable();
        let mut frames = Vec::new();
        let mut events = Vec::new();
        let mut now_ms = 0;
        loop {
            now_ms = (now_ms + self.step_ms).min(duration_ms);
            let now_us = now_ms as i64 * 1_000;
            loop {
                let action_us = actions.peek().map_or(i64::MAX, |(us, _)| *us);
                let packet_us = packets.peek().map_or(i64::MAX, |packet| packet.arrival_us);
                if action_us.min(packet_us) > now_us {
                    break;
                }
                if action_us <= packet_us {
                    let (us, action) = actions.next().unwrap();
                    action(&mut pipeline, moment(us));
                } else {
                    let packet = packets.next().unwrap();
                    let at = moment(packet.arrival_us);
                    pipeline.handle_rtp(at, StreamIndex(packet.stream), packet.source, &packet.bytes, &mut |event| {
                        events.push(event)
                    });
                }
            }
            let mut take = |frame: ferric_media::pipeline::EncodedFrame<'_>| {
                assert_eq!(frame.number, frames.len() as u64);
                frames.push(frame.packets.map(<[u8]>::to_vec));
            };
            if now_ms == duration_ms {
                assert_eq!(pipeline.finish(start + Duration::from_millis(now_ms), &mut take), duration_ms * 48);
                break;
            }
            pipeline.advance(start + Duration::from_millis(now_ms), &mut take);
        }
        let stats = pipeline.stats();
        let channels = [0, 1].map(|channel| {
            let mut decoder = OpusDecoder::new(rate).unwrap();
            let mut out = Vec::new();
            for frame in &frames {
                decoder.decode(&frame[channel], &mut out).unwrap();
            }
            // Pre-skip, and what lies beyond the end.
            out.drain(..rate as usize * 65 / 10_000);
            let length = duration_ms as usize * rate as usize / 1_000;
            assert!(out.len() >= length, "{} samples of {length}", out.len());
            out.truncate(length);
            out
        });
        Recorded { rate, channels, frames, stats, events }
    }
}

impl Recorded {
    /// Compares a channel with what was said from `start_ms` on: by how much it
    /// is off in ms, and the correlation there.
    pub fn compare(&self, channel: usize, start_ms: i64, said: &[i16]) -> (f64, f64) {
        let rate = i64::from(self.rate);
        let heard = &self.channels[channel];
        let reach = rate * 60 / 1_000;
        let base = start_ms * rate / 1_000;
        // The last seconds tell where it lies, all of it how alike it is.
        let searched = said.len().saturating_sub(self.rate as usize * 4);
        let alike = |shift: i64, skip: usize| {
            let at = base + shift + skip as i64;
            let skip = skip + usize::try_from(-at).unwrap_or(0);
            let at = at.max(0) as usize;
            if at >= heard.len() || skip >= said.len() { 0.0 } else { correlation(&said[skip..], &heard[at..]) }
        };
        let best = (-reach..=reach).max_by(|&a, &b| alike(a, searched).total_cmp(&alike(b, searched))).unwrap();
        (best as f64 * 1_000.0 / rate as f64, alike(best, 0))
    }

    /// Root mean square of a part of a channel.
    pub fn level(&self, channel: usize, from_ms: usize, to_ms: usize) -> f64 {
        let at = |ms: usize| ms * self.rate as usize / 1_000;
        let part = &self.channels[channel][at(from_ms)..at(to_ms)];
        (part.iter().map(|&s| f64::from(s) * f64::from(s)).sum::<f64>() / part.len() as f64).sqrt()
    }

    /// Asserts that a channel is what was said, within `offset_ms`.
    pub fn assert_same(&self, channel: usize, start_ms: i64, said: &[i16], offset_ms: f64, least: f64) {
        let (offset, same) = self.compare(channel, start_ms, said);
        assert!(offset.abs() < offset_ms && same > least, "channel {channel}: off by {offset} ms, correlation {same}");
    }
}
