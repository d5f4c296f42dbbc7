//! One media stream: packets in, audio on the timeline out.
//!
//! ```text
//! datagram -> RtpPacket -> payload type -> SourceLock -> SSRC -> Reception
//!          -> ClockMap (learns) -> JitterBuffer ... drain -> Voice
//! ```
//!
//! A *segment* is a stretch of packets with one SSRC, one run of sequence
//! numbers and one timestamp clock. When a source changes any of them (hold,
//! transfer, a media server taking over) a new segment begins on the same
//! channel, anchored at its arrival; what waits of the old one is placed first.
//! A new SSRC, or a sequence that jumps, is believed when a second packet
//! follows with none of the old in between: the first is held, not lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_codecs::decode::CodecKind;

use crate::burst::LossCounter;
use crate::clock_map::{ClockMap, Fit, ticks_to_us};
use crate::dtmf_mask::DtmfMask;
use crate::jitter::{JitterBuffer, Waiting};
use crate::quality::{Conditions, QualityTrack, mos};
use crate::reception::{Place, Reception};
use crate::round_trip::RoundTrip;
use crate::rtcp::{ReportBlock, RtcpItem};
use crate::rtp::{RtpPacket, Ssrc};
use crate::sender_clock::SenderClock;
use crate::source::{SourceLock, Verdict};
use crate::srtp::{Opened, Reject, SrtpReceiver};
use crate::stats::{Bursts, LAST_SCORES, StreamStats};
use crate::telephone_event::{TelephoneEvents, duration_us};
use crate::voice::{Placed, Voice};

pub use crate::stream_config::{PayloadKind, StreamConfig, StreamEvent};

/// A timestamp that falls back by more than this began anew, in ms.
const BACK_MS: i64 = 200;
/// So many packets in a row prove a clock of twice the rate.
const DOUBLE_CLOCK: u32 = 4;
/// An event's packet may be so much later than the audio's best, in µs.
const MOST_JITTER_US: i64 = 150_000;
/// Sources listed.
const MAX_SSRCS: usize = 16;
/// The second packet of a newcomer may be this far from its first.
const FOLLOWS: u16 = 10;

/// Arrival of a datagram, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// As the kernel stamped it.
    pub(crate) at: Instant,
    /// µs since the recording began; negative before.
    pub(crate) us: i64,
    /// The recording is paused: digits are not noted.
    pub(crate) secret: bool,
}

/// How a packet follows the newest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Next,
    AfterGap,
    Reordered,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    ssrc: Ssrc,
    sequence: u16,
    timestamp: u32,
    payload_type: u8,
    codec: CodecKind,
    us: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    bytes: u64,
    late: u64,
    reordered: u64,
    wrong_payload_type: u64,
    malformed: u64,
    undecodable: u64,
    stranger: u64,
    other_ssrc: u64,
    overflow: u64,
    segments: u64,
    undecryptable: u64,
    unprotected: u64,
    replayed: u64,
}

/// State of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    config: StreamConfig,
    lock: SourceLock,
    stranger_told: bool,
    reception: Reception,
    jitter: JitterBuffer,
    map: Option<ClockMap>,
    /// Newest timestamp of the segment, extended.
    newest: i64,
    /// Number of the packet that follows the last one placed.
    next: Option<u64>,
    /// The next packet begins a stretch of timestamps.
    fresh: bool,
    /// Packets in a row whose timestamps count twice what they should.
    double_clock: u32,
    /// Numbers below belong to an earlier stretch.
    oldest: u64,
    held: Option<Held>,
    held_payload: Vec<u8>,
    voice: Voice,
    events: TelephoneEvents,
    sender_clock: SenderClock,
    srtp: Option<SrtpReceiver>,
    mask: Option<Box<DtmfMask>>,
    quality: QualityTrack,
    /// Packets whose turn came.
    losses: LossCounter,
    round_trip: RoundTrip,
    /// The packet at hand, opened.
    plain: Vec<u8>,
    first_us: Option<i64>,
    last_us: Option<i64>,
    count: Counters,
    /// Followed so far.
    ssrcs: Vec<u32>,
}

impl Stream {
    /// A stream that joins at `start_us`, when so many intervals of quality are over; `rate` is the encoder's.
    pub(crate) fn new(config: StreamConfig, rate: u32, start_us: i64, intervals: u64, takeover: Duration) -> Stream {
        Stream {
            lock: SourceLock::new(config.expected_source, takeover),
            stranger_told: false,
            reception: Reception::new(),
            jitter: JitterBuffer::new(),
            map: None,
            newest: 0,
            next: None,
            fresh: true,
            double_clock: 0,
            oldest: 0,
            held: None,
            held_payload: Vec::new(),
            voice: Voice::new(rate, start_us, config.active),
            events: TelephoneEvents::default(),
            sender_clock: SenderClock::default(),
            srtp: config.srtp.clone().map(SrtpReceiver::new),
            mask: None,
            quality: QualityTrack::new(intervals),
            losses: LossCounter::default(),
            round_trip: RoundTrip::default(),
            plain: Vec::new(),
            first_us: None,
            last_us: None,
            count: Counters::default(),
            ssrcs: Vec::new(),
            config,
        }
    }

    /// What signalling said last.
    pub(crate) fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// The audio side.
    pub(crate) fn voice(&self) -> &Voice {
        &self.voice
    }

    /// The audio side.
    pub(crate) fn voice_mut(&mut self) -> &mut Voice {
        &mut self.voice
    }

    /// Arrival of the newest packet of the stream's source, µs since the recording began.
    pub(crate) fn last_us(&self) -> Option<i64> {
        self.last_us
    }

    /// Who holds the stream.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        self.lock.address()
    }

    /// Takes over what signalling changed; everything that runs goes on.
    pub(crate) fn update(&mut self, now: Instant, config: StreamConfig, now_us: i64) {
        match (&mut self.srtp, &config.srtp) {
            (Some(receiver), Some(keys)) => receiver.rekey(now, keys.clone()),
            (receiver, keys) => *receiver = keys.clone().map(SrtpReceiver::new),
        }
        self.voice.set_active(config.active, ms(now_us));
        if config.expected_source.is_some() {
            self.lock.expect(config.expected_source);
        }
        self.config = StreamConfig { channel: self.config.channel, ..config };
    }

    /// The stream left the call: what waits is placed, nothing more comes.
    pub(crate) fn leave(&mut self, now_us: i64) {
        self.drain(i64::MAX, now_us);
        self.voice.set_active(false, ms(now_us));
        self.config.active = false;
    }

    fn kind(&self, payload_type: u8) -> Option<PayloadKind> {
        let found = self.config.payloads.iter().find(|(known, _)| *known == payload_type).map(|(_, kind)| *kind);
        found.or_else(|| matches!(payload_type, 13 | 19).then_some(PayloadKind::Audio(CodecKind::ComfortNoise)))
    }

    /// Takes a datagram.
    pub(crate) fn handle_rtp(
        &mut self,
        arrival: Arrival,
        from: SocketAddr,
        bytes: &[u8],
        events: &mut impl FnMut(StreamEvent),
    ) {
        let Some(receiver) = &mut self.srtp else { return self.handle_plain(arrival, from, bytes, events) };
        let mut plain = std::mem::take(&mut self.plain);
        let stream = self.config.index;
        match receiver.open_rtp(arrival.at, bytes, &mut plain) {
            Opened::Plain => self.handle_plain(arrival, from, &plain, events),
            Opened::Again => {
                events(StreamEvent::Decryptable { stream });
                self.handle_plain(arrival, from, &plain, events);
            }
            Opened::Dropped(reject) => self.count_reject(reject),
            Opened::Alarm(reject) => {
                self.count_reject(reject);
                events(StreamEvent::Undecryptable { stream, from, in_clear: reject == Reject::Unprotected });
            }
        }
        self.plain = plain;
    }

    fn count_reject(&mut self, reject: Reject) {
        match reject {
            Reject::Undecryptable => self.count.undecryptable += 1,
            Reject::Unprotected => self.count.unprotected += 1,
            Reject::Replay => self.count.replayed += 1,
        }
    }

    /// Opens an RTCP datagram where it is protected; `None` when it cannot be.
    pub(crate) fn open_rtcp(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.srtp.as_mut().map_or_else(|| Some(bytes.to_vec()), |receiver| receiver.open_rtcp(bytes))
    }

    /// Protects a report of ours where the stream is.
    pub(crate) fn seal_rtcp(&mut self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        match &mut self.srtp {
            Some(receiver) => receiver.seal_rtcp(&bytes),
            None => Some(bytes),
        }
    }

    fn handle_plain(&mut self, arrival: Arrival, from: SocketAddr, bytes: &[u8], events: &mut impl FnMut(StreamEvent)) {
        let Ok(packet) = RtpPacket::parse(bytes) else {
            self.count.malformed += 1;
            return;
        };
        let Some(kind) = self.kind(packet.payload_type) else {
            self.count.wrong_payload_type += 1;
            return;
        };
        let stream = self.config.index;
        match self.lock.check(arrival.at, from) {
            Verdict::Known => {}
            Verdict::First => events(StreamEvent::FirstMedia { stream, from }),
            Verdict::Moved { from: before } => {
                self.stranger_told = false;
                events(StreamEvent::SourceMoved { stream, from: before, to: from });
            }
            Verdict::Stranger => {
                self.count.stranger += 1;
                if !std::mem::replace(&mut self.stranger_told, true) {
                    events(StreamEvent::StrangerDropped { stream, from });
                }
                return;
            }
        }
        self.first_us.get_or_insert(arrival.us);
        self.last_us = self.last_us.max(Some(arrival.us));
        if let PayloadKind::TelephoneEvent { clock_rate } = kind {
            let secret = arrival.secret || self.mask.is_some();
            if !self.events.handle(packet.timestamp, arrival.us, clock_rate, packet.payload, secret) {
                self.count.undecodable += 1;
            }
            if let Some(mask) = &mut self.mask {
                let begins = arrival.us - duration_us(packet.payload, clock_rate);
                // The timestamp is that of its beginning, and free of the path's jitter; unless the sender's is nonsense.
                let stamped = self.map.as_ref().filter(|_| packet.ssrc == self.reception.ssrc()).map(|map| {
                    ticks_to_us(map.position(extend(self.newest, packet.timestamp)), i64::from(map.clock_rate()))
                });
                let stamped = stamped.filter(|stamped| (begins - MOST_JITTER_US..=begins).contains(stamped));
                mask.event(stamped.unwrap_or(begins), arrival.us);
            }
        }
        self.sort(arrival.us, &packet, kind);
    }

    /// From now on key tones are silenced.
    pub(crate) fn mask_tones(&mut self) {
        let rate = self.voice.track().rate();
        self.mask.get_or_insert_with(|| Box::new(DtmfMask::new(rate)));
    }

    /// Looks for key tones in what waits to be encoded.
    pub(crate) fn find_tones(&mut self) {
        let Some(mask) = &mut self.mask else { return };
        let track = self.voice.track();
        let (at, samples) = track.waiting();
        mask.scan(at, track.rate(), samples);
        for (from, to) in mask.take_found() {
            self.events.note_tone(ms(from), ms(to));
        }
    }

    /// Silences key tones in the next frame.
    pub(crate) fn silence_tones(&mut self, samples: usize) {
        let Some(mask) = &mut self.mask else { return };
        let track = self.voice.track_mut();
        let (rate, (at, _)) = (track.rate(), track.waiting());
        let at_us = at * 1_000_000 / i64::from(rate.max(1));
        if let Some(frame) = track.frame_mut(samples) {
            mask.apply(at_us, rate, frame);
        }
    }

    /// Which segment a packet belongs to.
    fn sort(&mut self, us: i64, packet: &RtpPacket<'_>, kind: PayloadKind) {
        let current = self.map.is_some() && packet.ssrc == self.reception.ssrc();
        let place = if current { self.reception.place(packet.sequence, us) } else { Place::Jump };
        if place != Place::Jump {
            if let Some(held) = self.held.take() {
                self.reject(&held);
            }
            self.take(place, us, packet, kind);
            return;
        }
        // Digits alone make no segment.
        let PayloadKind::Audio(codec) = kind else {
            self.count.other_ssrc += 1;
            return;
        };
        if self.map.is_none() {
            self.begin(packet.ssrc, packet.sequence, packet.timestamp, codec, us);
            self.store(self.reception.highest(), self.newest, packet.payload_type, packet.payload);
            return;
        }
        let followed = self.held.take().filter(|held| {
            let ahead = packet.sequence.wrapping_sub(held.sequence);
            held.ssrc == packet.ssrc && (1..=FOLLOWS).contains(&ahead)
        });
        let Some(held) = followed else {
            self.hold(us, packet, codec);
            return;
        };
        self.begin(held.ssrc, held.sequence, held.timestamp, held.codec, held.us);
        let payload = std::mem::take(&mut self.held_payload);
        self.store(self.reception.highest(), self.newest, held.payload_type, &payload);
        self.held_payload = payload;
        let place = self.reception.place(packet.sequence, us);
        self.take(place, us, packet, kind);
    }

    /// Counts a packet of the segment, and keeps it if it is none that was here before.
    fn take(&mut self, place: Place, us: i64, packet: &RtpPacket<'_>, kind: PayloadKind) {
        let before = self.reception.highest();
        self.reception.count(place);
        match place {
            Place::Newer(number) => {
                let order = if number == before + 1 { Order::Next } else { Order::AfterGap };
                self.accept(number, order, us, packet, kind);
            }
            Place::Older(number) => self.accept(number, Order::Reordered, us, packet, kind),
            Place::Duplicate | Place::Jump => {}
        }
    }

    fn hold(&mut self, us: i64, packet: &RtpPacket<'_>, codec: CodecKind) {
        if let Some(before) = self.held.take() {
            self.reject(&before);
        }
        self.held_payload.clear();
        self.held_payload.extend_from_slice(packet.payload);
        let (ssrc, sequence, timestamp, payload_type) =
            (packet.ssrc, packet.sequence, packet.timestamp, packet.payload_type);
        self.held = Some(Held { ssrc, sequence, timestamp, payload_type, codec, us });
    }

    /// A packet that was held had no follower.
    fn reject(&mut self, _held: &Held) {
        self.count.other_ssrc += 1;
    }

    /// A new segment begins with this packet.
    fn begin(&mut self, ssrc: Ssrc, sequence: u16, timestamp: u32, codec: CodecKind, us: i64) {
        self.drain(i64::MAX, us);
        let clock_rate = codec.rtp_clock_rate();
        let number = self.reception.restart(ssrc, sequence, clock_rate);
        self.reception.observe(us, timestamp, false);
        self.events.restart();
        self.double_clock = 0;
        if self.ssrcs.len() < MAX_SSRCS && !self.ssrcs.contains(&ssrc.0) {
            self.ssrcs.push(ssrc.0);
        }
        self.next = None;
        self.anchor(number, timestamp, clock_rate, us);
        // Packets that this one overtook are still to come.
        self.oldest = 0;
    }

    /// A new stretch of timestamps begins with this packet.
    fn anchor(&mut self, number: u64, timestamp: u32, clock_rate: u32, us: i64) {
        self.newest = i64::from(timestamp);
        self.map = Some(ClockMap::new(clock_rate, self.newest, us));
        self.oldest = number;
        self.fresh = true;
        self.sender_clock = SenderClock::default();
        self.count.segments += 1;
    }

    /// Takes a packet of the segment.
    fn accept(&mut self, number: u64, order: Order, us: i64, packet: &RtpPacket<'_>, kind: PayloadKind) {
        self.count.bytes += packet.payload.len() as u64;
        let Some(map) = self.map.as_ref() else { return };
        let codec = match kind {
            PayloadKind::Audio(codec) => codec,
            // Its timestamp is that of the press: it only keeps the sequence whole.
            PayloadKind::TelephoneEvent { .. } => return self.store(number, self.newest, packet.payload_type, &[]),
        };
        if order == Order::Reordered {
            if number < self.oldest {
                self.count.late += 1;
                return;
            }
            let timestamp = extend(self.newest, packet.timestamp);
            if timestamp > self.newest {
                // It would wait for a time that is far off, and all packets behind it.
                self.count.undecodable += 1;
                return;
            }
            self.count.reordered += 1;
            return self.store(number, timestamp, packet.payload_type, packet.payload);
        }
        let rate = map.clock_rate();
        let clock_rate = self.true_clock_rate(codec, order, packet);
        let Some(map) = self.map.as_mut() else { return };
        if codec == CodecKind::ComfortNoise && rate != clock_rate {
            return self.store(number, self.newest, packet.payload_type, &[]);
        }
        let timestamp = extend(self.newest, packet.timestamp);
        let back = (timestamp - self.newest) * 1_000 < -BACK_MS * i64::from(rate);
        let fit = if rate != clock_rate || back { Fit::Jumped } else { map.observe(number, timestamp, us) };
        self.reception.observe(us, packet.timestamp, order == Order::Next);
        match fit {
            Fit::Fits | Fit::Behind => {
                self.newest = self.newest.max(timestamp);
                self.store(number, timestamp, packet.payload_type, packet.payload);
            }
            Fit::Jumped => {
                self.drain(i64::MAX, us);
                if rate != clock_rate {
                    self.reception.set_clock_rate(clock_rate);
                }
                self.anchor(number, packet.timestamp, clock_rate, us);
                self.store(number, self.newest, packet.payload_type, packet.payload);
            }
            Fit::BehindSince(since) => {
                self.newest = self.newest.max(timestamp);
                self.store(number, timestamp, packet.payload_type, packet.payload);
                self.shift(since, us);
            }
        }
    }

    /// The codec's clock rate, save for senders of G.722 that count its 16 kHz
    /// samples: RFC 3551 4.5.2 has 8 kHz for historical reasons, and not all know.
    fn true_clock_rate(&mut self, codec: CodecKind, order: Order, packet: &RtpPacket<'_>) -> u32 {
        if codec != CodecKind::G722 {
            return codec.rtp_clock_rate();
        }
        let samples = i64::try_from(packet.payload.len() * 2).unwrap_or(0);
        if order == Order::Next && self.double_clock < DOUBLE_CLOCK {
            let doubled = samples > 0 && extend(self.newest, packet.timestamp) - self.newest == samples;
            self.double_clock = if doubled { self.double_clock + 1 } else { 0 };
        }
        if self.double_clock >= DOUBLE_CLOCK { 16_000 } else { codec.rtp_clock_rate() }
    }

    fn store(&mut self, number: u64, timestamp: i64, payload_type: u8, payload: &[u8]) {
        if !self.jitter.push(number, timestamp, payload_type, payload) {
            self.count.overflow += 1;
        }
    }

    /// Late packets turned out to be a new clock.
    fn shift(&mut self, since: u64, now_us: i64) {
        self.drain_before(i64::MAX, since);
        if let Some(map) = self.map.as_mut() {
            map.shift_behind(now_us);
        }
        self.oldest = since;
        self.fresh = true;
        self.sender_clock = SenderClock::default();
        self.count.segments += 1;
    }

    /// Puts onto the timeline all packets that begin before `limit_us`.
    pub(crate) fn drain(&mut self, limit_us: i64, now_us: i64) {
        let Some(map) = self.map.as_ref() else { return };
        if let Some(since) = map.decide(now_us) {
            self.shift(since, now_us);
        }
        let last = if limit_us == i64::MAX { None } else { self.map.as_ref().and_then(ClockMap::undecided) };
        self.drain_before(limit_us, last.unwrap_or(u64::MAX));
    }

    fn drain_before(&mut self, limit_us: i64, number: u64) {
        loop {
            let (Some(map), Some(front)) = (self.map.as_ref(), self.jitter.front()) else { return };
            let due = ticks_to_us(map.position(front.timestamp), i64::from(map.clock_rate())) < limit_us;
            if !due || front.number >= number {
                return;
            }
            let Some(packet) = self.jitter.pop() else { return };
            self.place(&packet);
            self.jitter.recycle(packet);
        }
    }

    fn place(&mut self, packet: &Waiting) {
        let missing = match self.next {
            Some(next) if packet.number < next => {
                self.count.late += 1;
                return;
            }
            Some(next) => packet.number - next,
            None => 0,
        };
        self.next = Some(packet.number + 1);
        if missing > 0 {
            self.note_missing(missing, packet.timestamp);
        }
        let Some(map) = self.map.as_mut() else { return };
        let found = self.config.payloads.iter().find(|(known, _)| *known == packet.payload_type).map(|(_, kind)| *kind);
        match found {
            Some(PayloadKind::Audio(codec)) if codec != CodecKind::ComfortNoise => {
                match self.voice.place(codec, &packet.payload, packet.timestamp, missing, self.fresh, map) {
                    Placed::Audio => self.fresh = false,
                    Placed::Early => {}
                    Placed::Late => {
                        self.count.late += 1;
                        return self.losses.gone(1);
                    }
                    Placed::Undecodable => self.count.undecodable += 1,
                }
            }
            Some(PayloadKind::Audio(_) | PayloadKind::TelephoneEvent { .. }) | None => self.voice.set_quiet(missing),
        }
        self.losses.there();
    }

    /// Packets before the one of `timestamp` are not there.
    fn note_missing(&mut self, missing: u64, timestamp: i64) {
        let Some(map) = self.map.as_ref() else { return };
        let at_us = ticks_to_us(map.position(timestamp), i64::from(map.clock_rate()));
        // An interval in which nothing came has the worst score at any delay.
        let conditions = self.conditions(0.0);
        self.quality.run_ends(missing, at_us, self.reception.step_us(), conditions);
        self.losses.gone(missing);
    }

    /// Takes what a peer's RTCP says; true when it is about this stream.
    pub(crate) fn handle_rtcp(&mut self, us: i64, item: &RtcpItem<'_>) -> bool {
        let ours = |ssrc: Ssrc| self.map.is_some() && ssrc == self.reception.ssrc();
        match item {
            RtcpItem::SenderReport(report) if ours(report.ssrc) => {
                self.reception.sender_report(report.middle(), us);
                let timestamp = extend(self.newest, report.rtp_timestamp);
                if let Some(map) = self.map.as_ref() {
                    self.sender_clock.report(report.ntp, timestamp, map);
                }
                true
            }
            RtcpItem::Cname { ssrc, name } if ours(*ssrc) => {
                self.sender_clock.set_name(name);
                false
            }
            RtcpItem::SenderReport(_) | RtcpItem::Cname { .. } | RtcpItem::Bye { .. } | RtcpItem::Reference { .. } => {
                false
            }
        }
    }

    /// The sender's own clock, to align streams of one sender.
    pub(crate) fn sender_clock(&self) -> &SenderClock {
        &self.sender_clock
    }

    /// Delays the stream to match another of the same sender.
    pub(crate) fn set_bias_us(&mut self, bias_us: i64) {
        if let Some(map) = self.map.as_mut() {
            map.set_bias_us(bias_us);
        }
    }

    /// A report block for the source, once there is one.
    pub(crate) fn report(&mut self, now_us: i64) -> Option<ReportBlock> {
        self.map.as_ref()?;
        Some(self.reception.report(now_us))
    }

    /// The reference time to ask the peer with, for the round trip.
    pub(crate) fn refer(&mut self, now_us: i64) -> u64 {
        self.round_trip.refer(now_us)
    }

    /// A peer's answer to it.
    pub(crate) fn take_reference(&mut self, us: i64, reference: u32, delay: u32) {
        self.round_trip.answer(us, reference, delay);
    }

    fn conditions(&self, reorder_delay_ms: f64) -> Conditions {
        Conditions {
            codec: self.voice.codec(),
            delay_ms: reorder_delay_ms + self.round_trip.mean_ms().unwrap_or(0.0) / 2.0,
        }
    }

    /// Ten seconds are over.
    pub(crate) fn close_interval(&mut self, reorder_delay_ms: f64) {
        let conditions = self.conditions(reorder_delay_ms);
        self.quality.close(self.losses.loss(), conditions);
    }

    /// The scores of all intervals that are over.
    pub(crate) fn scores(&self) -> Vec<Option<f64>> {
        self.quality.values(usize::MAX)
    }

    fn bursts(&self) -> Option<Bursts> {
        let counts = self.losses.bursts()?;
        let packet_ms = self.reception.step_us() as f64 / 1_000.0;
        let round = |value: f64, places: f64| (value * places).round() / places;
        Some(Bursts {
            count: counts.bursts,
            density: round(counts.burst_density, 1e4),
            gap_density: round(counts.gap_density, 1e4),
            mean_ms: round(counts.mean_burst * packet_ms, 10.0),
            mean_gap_ms: round(counts.mean_gap * packet_ms, 10.0),
        })
    }

    /// Everything up to `now_ms`; `reorder_delay_ms` counts into the score.
    pub(crate) fn stats(&self, reorder_delay_ms: f64, now_ms: u64) -> StreamStats {
        let totals = self.reception.totals();
        let count = &self.count;
        let (loss, conditions) = (self.losses.loss(), self.conditions(reorder_delay_ms));
        let score = (loss.expected > 0).then(|| mos(conditions.codec, loss, conditions.delay_ms));
        StreamStats {
            stream: self.config.index,
            label: self.config.label.clone(),
            channel: self.config.channel,
            codec: self.voice.codec().map(CodecKind::name),
            codecs: self.voice.codecs().map(|codec| format!("{}/{}", codec.name(), codec.rtp_clock_rate())).collect(),
            ssrcs: self.ssrcs.clone(),
            packets: totals.received,
            bytes: count.bytes,
            lost: totals.lost(),
            late: count.late,
            duplicate: totals.duplicate + count.replayed,
            reordered: count.reordered,
            wrong_payload_type: count.wrong_payload_type,
            malformed: count.malformed,
            undecodable: count.undecodable,
            stranger: count.stranger,
            other_ssrc: count.other_ssrc,
            overflow: count.overflow,
            segments: count.segments,
            srtp: self.srtp.as_ref().map(SrtpReceiver::suite),
            undecryptable: count.undecryptable,
            unprotected: count.unprotected,
            jitter_ms: (self.reception.jitter_ms() * 100.0).round() / 100.0,
            mos: score,
            mos_over_time: self.quality.values(LAST_SCORES),
            burst_ratio: (loss.burst_ratio() * 100.0).round() / 100.0,
            bursts: self.bursts(),
            rtt_ms: self.round_trip.mean_ms().map(|ms| (ms * 10.0).round() / 10.0),
            lost_ms: self.voice.gaps().total_ms(crate::gaps::GapCause::Loss),
            first_packet_ms: self.first_us.map(ms),
            last_packet_ms: self.last_us.map(ms),
            source: self.lock.address(),
            active: self.config.active,
            active_ms: self.voice.active_ms(now_ms),
            gaps: self.voice.gaps().list().to_vec(),
            telephone_events: self.events.list().to_vec(),
        }
    }
}

/// The 64-bit timestamp closest to `newest` that ends in `timestamp`.
fn extend(newest: i64, timestamp: u32) -> i64 {
    let low = u32::try_from(newest & 0xffff_ffff).unwrap_or(0);
    newest + i64::from(timestamp.wrapping_sub(low).cast_signed())
}

fn ms(us: i64) -> u64 {
    u64::try_from(us / 1_000).unwrap_or(0)
}
