//! A recording and its mirror: two recorders, the second fed by the first over a link that loses, doubles and delays.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod common;

use std::sync::OnceLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use common::{Datagram, G722, PCMA, PCMU, Path, Sender, stream};
use ferric_codecs::testing::syllables;
use ferric_media::keys::PrivateKey;
use ferric_media::manifest::RecordingState;
use ferric_media::metadata::SessionInfo;
use ferric_media::mirror::{Begin, Control, Feed, Outgoing, Port, Replay, Report, Streams, Tap, moment, play};
use ferric_media::recorder::{Output, Recorder, RecorderConfig};
use ferric_media::rtp::StreamIndex;
use ferric_media::srtp::{SrtpConfig, SrtpKey, SrtpSender, SrtpSuite};
use ferric_media::stream::StreamConfig;
use ferric_media::timestamp::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

const COPY: Uuid = Uuid::from_u128(8);
const VISIT_MS: u64 = 100;

fn key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(&mut StdRng::seed_from_u64(5)).unwrap())
}

fn config(id: u128) -> RecorderConfig {
    let recipients = vec![key().public().clone()];
    RecorderConfig::new(Uuid::from_u128(id), "acme", "edge", recipients, [id as u8; 32])
}

/// Packets of Opus, in order.
type Frames = Vec<(u64, [Bytes; 2])>;

fn frames(recorder: &mut Recorder, into: &mut Frames) {
    while let Some(output) = recorder.poll_output() {
        if let Output::Frame(frame) = output {
            into.push((frame.position_48k, frame.packets));
        }
    }
}

/// Something that happens to the call at a time, in ms.
type Event = (u64, Control);

/// How the way between the nodes behaves.
#[derive(Clone, Copy)]
struct Way {
    loss: f64,
    delay_ms: u64,
    jitter_ms: u64,
}

struct Copied {
    original: Frames,
    copy: Frames,
    stats: [ferric_media::stats::RecordingStats; 2],
    pauses: [Vec<(u64, u64)>; 2],
}

enum Flying {
    Frame(Bytes),
    Report(Report),
}

/// Records `packets` twice: at the original, and at a copy that hears only what crosses `way`.
fn mirrored(streams: Vec<StreamConfig>, mut packets: Vec<Datagram>, events: Vec<Event>, ms: u64, way: Way) -> Copied {
    packets.sort_by_key(|packet| packet.arrival_us);
    let mut rng = StdRng::seed_from_u64(3);
    // The clocks of two nodes have nothing in common.
    let start = Instant::now() + Duration::from_secs(7_200);
    let base = start - Duration::from_secs(3_000);
    let mut original = Recorder::new(start, UNIX_EPOCH, config(7), streams.clone()).unwrap();
    original.set_tap(true);
    let mut tap = Tap::new(COPY, start, 1_100);
    let begin = Begin {
        recording: Uuid::from_u128(7),
        part: 1,
        original: Uuid::from_u128(7),
        node: "edge".into(),
        tenant: "acme".into(),
        original_started_at: Timestamp::from_unix_ms(0),
        started_at: Timestamp::from_unix_ms(0),
        session: SessionInfo::default(),
        streams,
        tags: Vec::new(),
        paused: false,
    };
    tap.control(start, &Control::Begin(Box::new(begin)));
    let mut feed = Feed::new(base, COPY);
    let mut copy: Option<Recorder> = None;
    let (mut frames_of_original, mut frames_of_copy) = (Vec::new(), Vec::new());
    let mut flying: Vec<(u64, Flying)> = Vec::new();
    let (mut packets, mut events) = (packets.into_iter().peekable(), events.into_iter().peekable());
    let mut copy_ended = false;
    for now_ms in (VISIT_MS..=ms + 8_000).step_by(VISIT_MS as usize) {
        let now = start + Duration::from_millis(now_ms);
        if now_ms <= ms {
            while let Some((_, control)) = events.next_if(|(at, _)| *at <= now_ms) {
                play(&mut original, start, &Replay::Control((now_ms - VISIT_MS) as i64 * 1_000, control.clone()));
                tap.control(moment(start, (now_ms - VISIT_MS) as i64 * 1_000), &control);
            }
            tap.begin_visit(now);
            while let Some(packet) = packets.next_if(|packet| packet.arrival_us <= now_ms as i64 * 1_000) {
                let at = moment(start, packet.arrival_us);
                original.handle_rtp(at, StreamIndex(packet.stream), packet.source, &packet.bytes);
                tap.datagram(at, StreamIndex(packet.stream), Port::Rtp, packet.source, &packet.bytes);
            }
            original.advance(now);
            tap.end_visit();
            if now_ms == ms {
                original.stop(now, RecordingState::Complete, "BYE");
                tap.control(now, &Control::Stop { reason: "BYE".into() });
            }
            frames(&mut original, &mut frames_of_original);
        }
        while let Some(output) = tap.poll_output() {
            let arrives = now_ms + way.delay_ms;
            match output {
                Outgoing::Datagram(_) if rng.random_bool(way.loss) => {}
                Outgoing::Datagram(frame) => {
                    flying.push((arrives + rng.random_range(0..=way.jitter_ms), Flying::Frame(frame)))
                }
                Outgoing::Message(frame) => flying.push((arrives, Flying::Frame(frame))),
            }
        }
        flying.sort_by_key(|(at, _)| *at);
        for (at, flying) in flying.extract_if(.., |(at, _)| *at <= now_ms).collect::<Vec<_>>() {
            match flying {
                Flying::Frame(frame) => feed.handle_frame(base + Duration::from_millis(at), &frame).unwrap(),
                Flying::Report(report) => tap.handle_report(&report),
            }
        }
        let there = base + Duration::from_millis(now_ms);
        feed.handle_timeout(there);
        while let Some(input) = feed.poll_replay() {
            match (&input, &mut copy) {
                (Replay::Control(0, Control::Begin(begin)), None) => {
                    let mut recorder = Recorder::new(base, UNIX_EPOCH, config(8), begin.streams.clone()).unwrap();
                    recorder.set_tap(true);
                    copy = Some(recorder);
                }
                (Replay::Control(at, Control::Stop { reason }), Some(copy)) => {
                    copy.stop(moment(base, *at), RecordingState::Complete, reason);
                    copy_ended = true;
                }
                (_, Some(copy)) => play(copy, base, &input),
                (_, None) => panic!("{input:?} before the beginning"),
            }
        }
        if let Some(copy) = &mut copy {
            frames(copy, &mut frames_of_copy);
        }
        if let Some(report) = feed.poll_report(there) {
            flying.push((now_ms + way.delay_ms, Flying::Report(report)));
        }
    }
    assert!(copy_ended && tap.is_done() && !tap.is_broken());
    let copy = copy.unwrap();
    let stats = [original.stats(), copy.stats()];
    let pauses = stats.each_ref().map(|stats| stats.pauses.iter().map(|gap| (gap.start_ms, gap.end_ms)).collect());
    Copied { original: frames_of_original, copy: frames_of_copy, stats, pauses }
}

impl Copied {
    /// The audio is the same bit by bit, and so is what is told of it.
    fn assert_same(&self) {
        assert!(!self.original.is_empty());
        assert_eq!(self.original.len(), self.copy.len());
        let differ = self.original.iter().zip(&self.copy).filter(|(one, other)| one != other).count();
        assert_eq!(differ, 0, "of {} frames", self.copy.len());
        assert_eq!(self.pauses[0], self.pauses[1]);
        let [original, copy] = self.stats.each_ref().map(|stats| serde_json::to_value(&stats.streams).unwrap());
        assert_eq!(original, copy);
    }
}

fn talk(stream: u16, payload_type: u8, seconds: usize) -> Vec<Datagram> {
    let rate = if payload_type == G722 { 16_000 } else { 8_000 };
    let pcm = syllables(rate, rate as usize * seconds, stream.into());
    Sender::new(stream, payload_type, 11).say(30_000, &pcm, 40.0)
}

const BAD: Way = Way { loss: 0.2, delay_ms: 40, jitter_ms: 120 };
const SBC: Path = Path { loss: 0.02, reorder: 0.03, duplicate: 0.01, jitter_ms: 25.0 };

#[test]
fn a_copy_over_a_bad_link_is_the_original_bit_by_bit() {
    let mut packets = SBC.send(talk(0, PCMU, 20), 1).0;
    packets.extend(SBC.send(talk(1, PCMA, 20), 2).0);
    let copied = mirrored(vec![stream(0, &[PCMU]), stream(1, &[PCMA])], packets, Vec::new(), 20_500, BAD);
    copied.assert_same();
    assert!(copied.stats[0].streams[0].lost > 0);
}

#[test]
fn pauses_changes_and_new_streams_come_where_they_were() {
    let mut packets = SBC.send(talk(0, PCMU, 20), 3).0;
    packets.extend(SBC.send(talk(1, G722, 20), 4).0);
    let held = StreamConfig { active: false, ..stream(0, &[PCMU]) };
    let events = vec![
        (2_000, Control::Streams(Streams(vec![stream(0, &[PCMU]), stream(1, &[G722])]))),
        (5_000, Control::Pause { by: Some("agent".into()) }),
        (8_000, Control::Resume),
        (9_000, Control::Tags(vec![("case".into(), "17".into())])),
        (12_000, Control::Streams(Streams(vec![held, stream(1, &[G722])]))),
        (14_000, Control::Streams(Streams(vec![stream(0, &[PCMU]), stream(1, &[G722])]))),
    ];
    let copied = mirrored(vec![stream(0, &[PCMU])], packets, events, 20_500, BAD);
    copied.assert_same();
    assert_eq!(copied.stats[1].pauses.len(), 1);
}

#[test]
fn srtp_travels_sealed_and_its_keys_change_where_they_changed() {
    let suite = SrtpSuite::AesCm128HmacSha1_80;
    let mut rng = StdRng::seed_from_u64(4);
    let keys = [(); 3].map(|()| SrtpKey::random(suite, &mut rng));
    let secured = |at: usize| {
        let srtp = SrtpConfig { suite, keys: vec![keys[at].clone()], ours: keys[2].clone() };
        vec![StreamConfig { srtp: Some(srtp), ..stream(0, &[PCMU]) }]
    };
    let mut senders = [0, 1].map(|at| SrtpSender::new(suite, &keys[at]));
    let mut packets = talk(0, PCMU, 12);
    for packet in &mut packets {
        let sender = &mut senders[usize::from(packet.arrival_us > 6_000_000)];
        packet.bytes = sender.seal(&packet.bytes);
    }
    let events = vec![(6_000, Control::Streams(Streams(secured(1))))];
    let copied = mirrored(secured(0), packets, events, 12_500, BAD);
    copied.assert_same();
    assert_eq!(copied.stats[1].streams[0].undecryptable, 0);
    assert!(copied.stats[1].streams[0].packets > 590);
}

#[test]
fn what_the_link_loses_for_good_is_a_gap_of_the_copy_alone() {
    // No report is heard in time: nothing is sent again.
    let way = Way { loss: 0.05, delay_ms: 2_500, jitter_ms: 0 };
    let copied = mirrored(vec![stream(0, &[PCMU])], talk(0, PCMU, 15), Vec::new(), 15_500, way);
    assert_eq!(copied.original.len(), copied.copy.len());
    let [original, copy] = copied.stats;
    assert_eq!(original.streams[0].lost, 0);
    assert!(copy.streams[0].lost > 0 && copy.streams[0].packets > 600, "{:?}", copy.streams[0]);
    assert_eq!(original.duration_ms, copy.duration_ms);
}
