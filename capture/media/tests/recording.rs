//! A whole recording: datagrams in, sealed files out, opened with the tenant's key.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod common;

use std::sync::OnceLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::{Datagram, PCMU, Path, Sender, address, stream};
use ferric_codecs::ogg::OggReader;
use ferric_codecs::opus::OpusDecoder;
use ferric_codecs::opus_packet::split_two;
use ferric_codecs::testing::{correlation, syllables};
use ferric_media::keys::PrivateKey;
use ferric_media::manifest::{Digest, RecordingState};
use ferric_media::metadata::{MetadataState, Participant, RecordingMetadata, SessionInfo};
use ferric_media::open::{Opener, open_all};
use ferric_media::part::Part;
use ferric_media::recorder::{Output, Recorder, RecorderConfig, RecorderEvent};
use ferric_media::rtcp::{self, RtcpItem, SenderReport, write_sender_report};
use ferric_media::rtp::{Ssrc, StreamIndex};
use ferric_media::sender_clock::ntp_from_us;
use ferric_media::stream::StreamEvent;
use ferric_media::timestamp::Timestamp;
use rand::SeedableRng;
use rand::rngs::StdRng;
use uuid::Uuid;

fn key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(&mut StdRng::seed_from_u64(5)).unwrap())
}

fn config() -> RecorderConfig {
    let session = SessionInfo { source: Some("sbc".into()), ..SessionInfo::default() };
    RecorderConfig {
        session,
        ..RecorderConfig::new(Uuid::from_u128(7), "acme", "edge-a1", vec![key().public().clone()], [9; 32])
    }
}

/// A recording that runs in simulated time and keeps what it puts out.
struct Run {
    start: Instant,
    recorder: Recorder,
    audio: Vec<u8>,
    metadata: Vec<Vec<u8>>,
    rtcp: Vec<(u16, std::net::SocketAddr, bool, Vec<u8>)>,
    events: Vec<RecorderEvent>,
    frames: Vec<u64>,
    now_ms: u64,
}

impl Run {
    fn new(config: RecorderConfig) -> Run {
        let start = Instant::now();
        let recorder = Recorder::new(
            start,
            UNIX_EPOCH + Duration::from_secs(1_000),
            config,
            vec![stream(0, &[PCMU]), stream(1, &[PCMU])],
        );
        let mut run = Run {
            start,
            recorder: recorder.unwrap(),
            audio: Vec::new(),
            metadata: Vec::new(),
            rtcp: Vec::new(),
            events: Vec::new(),
            frames: Vec::new(),
            now_ms: 0,
        };
        run.drain();
        run
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    fn drain(&mut self) {
        while let Some(output) = self.recorder.poll_output() {
            match output {
                Output::Audio(bytes) => self.audio.extend(bytes),
                Output::Metadata(bytes) => self.metadata.push(bytes),
                Output::Rtcp { stream, to, muxed, bytes } => self.rtcp.push((stream.0, to, muxed, bytes)),
                Output::Frame(frame) => self.frames.push(frame.position_48k),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// Runs until `ms` with what arrives until then.
    fn until(&mut self, ms: u64, packets: &[Datagram]) {
        let mut packets = packets.iter().peekable();
        while self.now_ms < ms {
            self.now_ms = (self.now_ms + 60).min(ms);
            while let Some(packet) = packets.next_if(|packet| packet.arrival_us <= self.now_ms as i64 * 1_000) {
                let at = self.start + Duration::from_micros(packet.arrival_us as u64);
                self.recorder.handle_rtp(at, StreamIndex(packet.stream), packet.source, &packet.bytes);
            }
            self.recorder.advance(self.now());
            self.drain();
        }
    }

    fn stop(&mut self) {
        self.recorder.stop(self.now(), RecordingState::Complete, "bye");
        self.drain();
        assert_eq!(self.recorder.poll_timeout(), None);
    }

    fn last_metadata(&self) -> RecordingMetadata {
        RecordingMetadata::from_json(&open_all(key(), self.metadata.last().unwrap()).unwrap()).unwrap()
    }
}

fn conversation(seconds: usize) -> ([Vec<i16>; 2], Vec<Datagram>) {
    let voices = [syllables(8_000, seconds * 8_000, 1), syllables(8_000, seconds * 8_000, 2)];
    let mut packets = Sender::new(0, PCMU, 1).say(0, &voices[0], 0.0);
    packets.extend(Sender::new(1, PCMU, 1).say(0, &voices[1], 0.0));
    packets.sort_by_key(|packet| packet.arrival_us);
    (voices, packets)
}

/// Decodes an Ogg file to two channels at 8 kHz, pre-skip and end applied.
fn decode(ogg: &[u8]) -> [Vec<i16>; 2] {
    let mut reader = OggReader::new();
    reader.push(ogg);
    let (mut left, mut right) = (OpusDecoder::new(8_000).unwrap(), OpusDecoder::new(8_000).unwrap());
    let mut channels = [Vec::new(), Vec::new()];
    let mut end = 0;
    for n in 0.. {
        let Some(packet) = reader.next_packet().unwrap() else { break };
        end = packet.granule.unwrap_or(end);
        if n >= 2 {
            let (first, second) = split_two(&packet.data).unwrap();
            left.decode(&first, &mut channels[0]).unwrap();
            right.decode(second, &mut channels[1]).unwrap();
        }
    }
    channels.map(|mut channel| {
        channel.truncate(end as usize / 6);
        channel.drain(..52);
        channel
    })
}

#[test]
fn a_call_is_sealed_as_it_runs_and_opens_whole() {
    let (voices, packets) = conversation(10);
    let mut run = Run::new(config());
    assert_eq!(run.metadata.len(), 1, "the parties are sealed before any audio");
    assert_eq!(run.last_metadata().session.source.as_deref(), Some("sbc"));
    run.until(10_000, &packets);
    run.stop();

    let totals = run.recorder.totals().unwrap().clone();
    assert_eq!(totals.duration_ms, 10_000);
    assert_eq!((totals.audio.bytes, totals.audio.sha256), (run.audio.len() as u64, Digest::of(&run.audio)));
    let metadata = run.metadata.last().unwrap();
    assert_eq!((totals.metadata.bytes, totals.metadata.sha256), (metadata.len() as u64, Digest::of(metadata)));
    assert_eq!(totals.ended_at.unix_ms() - totals.started_at.unix_ms(), 10_000);

    let channels = decode(&open_all(key(), &run.audio).unwrap());
    for (channel, voice) in channels.iter().zip(&voices) {
        assert_eq!(channel.len(), 80_000);
        assert!(correlation(channel, voice) > 0.95, "{}", correlation(channel, voice));
    }
    let metadata = run.last_metadata();
    assert_eq!(
        (metadata.state, metadata.duration_ms, metadata.end_reason.as_deref()),
        (MetadataState::Complete, Some(10_000), Some("bye"))
    );
    assert_eq!(metadata.streams.len(), 2);
    assert_eq!((metadata.streams[1].packets, metadata.streams[1].lost, metadata.streams[1].channel), (500, 0, Some(1)));
    assert!(metadata.gaps.is_empty());
}

#[test]
fn every_length_has_its_end_on_a_page_with_audio() {
    for ms in [0, 1, 20, 980, 993, 994, 1_000, 1_980, 1_993, 2_000] {
        let mut run = Run::new(config());
        run.until(ms, &[]);
        run.stop();
        let channels = decode(&open_all(key(), &run.audio).unwrap());
        assert_eq!(channels.map(|channel| channel.len() as u64), [ms * 8; 2], "{ms} ms");
    }
}

#[test]
fn a_crash_costs_a_second_and_the_delay() {
    let (_, packets) = conversation(10);
    let mut run = Run::new(config());
    run.until(9_500, &packets);
    // What is on disk at this moment, without any end.
    let mut plain = Vec::new();
    let mut opener = Opener::new(key());
    opener.push(&run.audio, &mut plain).unwrap();
    let channels = decode(&plain);
    assert!(channels[0].len() >= (9_500 - 1_200) * 8, "{} ms", channels[0].len() / 8);
    assert!(run.recorder.poll_timeout().unwrap() <= run.now() + Duration::from_millis(40));
}

#[test]
fn controls_leave_their_marks_in_the_metadata() {
    let (_, packets) = conversation(10);
    let mut run = Run::new(config());
    run.until(3_000, &packets);
    assert!(run.recorder.pause(run.now(), Some("api")));
    assert!(!run.recorder.pause(run.now(), None));
    assert!(run.recorder.add_tag(run.now(), "case", "12"));
    assert!(run.recorder.add_tag(run.now(), "case", "13"));
    run.recorder.add_warning("odd");
    let session = SessionInfo {
        participants: vec![Participant { name: Some("Ann".into()), ..Participant::default() }],
        ..SessionInfo::default()
    };
    run.recorder.set_session(session);
    run.until(3_060, &[]);
    let metadata = run.last_metadata();
    assert_eq!(run.metadata.len(), 2, "several changes are sealed once");
    assert_eq!((metadata.pauses[0].at.from_ms, metadata.pauses[0].at.to_ms), (3_000, None));
    assert_eq!(metadata.session.participants[0].name.as_deref(), Some("Ann"));
    run.until(5_000, &[]);
    assert!(run.recorder.resume(run.now()));
    assert!(!run.recorder.resume(run.now()));
    run.until(8_000, &[]);
    run.stop();
    let metadata = run.last_metadata();
    assert_eq!((metadata.pauses[0].at.to_ms, metadata.pauses[0].by.as_deref()), (Some(5_000), Some("api")));
    assert_eq!((metadata.tags.len(), metadata.tags[0].value.as_str(), metadata.tags[0].at_ms), (1, "13", 3_000));
    assert_eq!(metadata.warnings, ["odd"]);
    assert!(metadata.gaps.iter().any(|gap| gap.reason == "no-rtp" && gap.channel == Some(1)));
}

#[test]
fn silence_of_all_streams_is_told_each_time_out_and_its_end_once() {
    let (_, packets) = conversation(4);
    let mut run = Run::new(RecorderConfig { rtp_timeout: Duration::from_secs(5), ..config() });
    run.until(4_000, &packets);
    run.until(8_500, &[]);
    assert!(run.events.iter().all(|event| matches!(event, RecorderEvent::Stream(StreamEvent::FirstMedia { .. }))));
    run.until(20_000, &[]);
    let more = Sender::new(0, PCMU, 1).say(20_020_000, &syllables(8_000, 8_000, 1), 0.0);
    run.until(21_000, &more);
    let told: Vec<_> = run
        .events
        .iter()
        .filter(|event| !matches!(event, RecorderEvent::Stream(_)))
        .map(|event| format!("{event:?}"))
        .collect();
    assert_eq!(told, ["MediaSilent", "MediaSilent", "MediaSilent", "MediaBack"]);
}

#[test]
fn silence_on_hold_and_in_a_pause_is_none() {
    let mut run = Run::new(RecorderConfig { rtp_timeout: Duration::from_secs(5), ..config() });
    let mut held = [stream(0, &[PCMU]), stream(1, &[PCMU])];
    held.iter_mut().for_each(|stream| stream.active = false);
    run.recorder.update_streams(run.now(), held.to_vec());
    run.until(20_000, &[]);
    held.iter_mut().for_each(|stream| stream.active = true);
    run.recorder.update_streams(run.now(), held.to_vec());
    run.recorder.pause(run.now(), None);
    run.until(40_000, &[]);
    assert!(run.events.is_empty(), "{:?}", run.events);
    run.recorder.resume(run.now());
    run.until(46_000, &[]);
    assert_eq!(format!("{:?}", run.events), "[MediaSilent]");
}

#[test]
fn receiver_reports_go_to_the_peer_and_a_bye_ends_them() {
    let (_, packets) = conversation(20);
    let path = Path { loss: 0.1, ..Path::default() };
    let (packets, done) = path.send(packets, 3);
    let mut run = Run::new(config());
    run.until(2_000, &packets);
    let at = packets.iter().position(|packet| packet.arrival_us > 2_000_000).unwrap();
    let ssrc = Ssrc(u32::from_be_bytes(
        packets.iter().find(|packet| packet.stream == 0).unwrap().bytes[8..12].try_into().unwrap(),
    ));
    let mut report = Vec::new();
    write_sender_report(
        &SenderReport { ssrc, ntp: ntp_from_us(5_000_000), rtp_timestamp: 0, packets: 1, octets: 1 },
        "a",
        &mut report,
    );
    // On the RTP port: the peer multiplexes.
    run.recorder.handle_rtp(run.now(), StreamIndex(0), address(1), &report);
    // A stranger's report changes nothing.
    run.recorder.handle_rtcp(run.now(), StreamIndex(1), address(66), &report);
    run.until(20_100, &packets[at..]);
    run.stop();
    assert!(run.rtcp.iter().any(|(stream, to, muxed, _)| *stream == 0 && *to == address(1) && *muxed));
    let next_port = std::net::SocketAddr::from(([10, 0, 0, 2], 4_001));
    assert!(run.rtcp.iter().filter(|(stream, ..)| *stream == 1).all(|(_, to, muxed, _)| *to == next_port && !muxed));
    let reports = run.rtcp.len();
    assert!((6..=16).contains(&reports), "{reports}");
    let mut goodbye = false;
    let (.., last) = run.rtcp.last().unwrap();
    assert!(rtcp::parse(last, |item| goodbye |= matches!(item, RtcpItem::Bye { .. })));
    assert!(goodbye);
    // Cumulative loss of the last two reports is what the path lost.
    let lost: u64 = run.rtcp[reports - 2..]
        .iter()
        .map(|(.., bytes)| u64::from(u32::from_be_bytes([0, bytes[13], bytes[14], bytes[15]])))
        .sum();
    assert_eq!(lost, done.lost);
}

#[test]
fn the_round_trip_is_told_where_the_peer_answers() {
    let (_, packets) = conversation(40);
    let ssrc = Ssrc(u32::from_be_bytes(
        packets.iter().find(|packet| packet.stream == 0).unwrap().bytes[8..12].try_into().unwrap(),
    ));
    let mut run = Run::new(config());
    let mut fed = 0;
    for second in 1..=40_u64 {
        let until = packets.partition_point(|packet| packet.arrival_us <= second as i64 * 1_000_000);
        run.until(second * 1_000, &packets[fed..until]);
        fed = until;
        let mut report = Vec::new();
        write_sender_report(
            &SenderReport {
                ssrc,
                ntp: ntp_from_us(second as i64 * 1_000_000),
                rtp_timestamp: 0,
                packets: 1,
                octets: 1,
            },
            "a",
            &mut report,
        );
        // The last reference time, as it came to the peer: the answer takes 80 ms there and back, and waits with the peer for the rest.
        let asked = run.rtcp.iter().rev().find_map(|(stream, .., bytes)| {
            let block = bytes.windows(4).position(|part| part == [4, 0, 0, 2])?;
            let (ours, middle) = (&bytes[block - 4..block], &bytes[block + 6..block + 10]);
            let number = |part: &[u8]| u32::from_be_bytes(part.try_into().unwrap());
            assert_eq!(*stream, 0, "only a peer that speaks RTCP is asked");
            Some((Ssrc(number(ours)), number(middle)))
        });
        if let Some((ours, reference)) = asked {
            let now = ((86_400_000 + run.now_ms) * 65_536 / 1_000) as u32;
            let waited = now.wrapping_sub(reference).wrapping_sub(80 * 65_536 / 1_000);
            rtcp::write_reference_answer(ssrc, ours, reference, waited, &mut report);
            // An answer to somebody else says nothing.
            rtcp::write_reference_answer(ssrc, Ssrc(ours.0 ^ 1), reference, 0, &mut report);
        }
        run.recorder.handle_rtcp(run.now(), StreamIndex(0), address(1), &report);
    }
    run.stop();
    let streams = run.last_metadata().streams;
    let told = streams[0].rtt_ms.unwrap();
    assert!((told - 80.0).abs() < 0.5, "{told}");
    assert_eq!(streams[1].rtt_ms, None, "never invented");
    // Forty seconds: four values; the way of 40 ms costs a little.
    assert_eq!((streams[0].mos_over_time.len(), streams[1].mos_over_time.len()), (4, 4));
    assert!(streams[0].mos_over_time[3].unwrap() < streams[1].mos_over_time[3].unwrap());
}

#[test]
fn a_call_without_media_is_partial_and_says_why() {
    let mut run = Run::new(config());
    run.until(20_000, &[]);
    assert_eq!(run.recorder.verdict(RecordingState::Complete), (RecordingState::Partial, Some("no media came")));
    assert_eq!(run.recorder.verdict(RecordingState::Recovered), (RecordingState::Recovered, Some("no media came")));
    let (state, reason) = run.recorder.verdict(RecordingState::Complete);
    run.recorder.stop(run.now(), state, reason.unwrap_or("bye"));
    run.drain();
    assert_eq!(decode(&open_all(key(), &run.audio).unwrap()).map(|channel| channel.len()), [160_000; 2]);
    let metadata = run.last_metadata();
    assert_eq!((metadata.state, metadata.end_reason.as_deref()), (MetadataState::Partial, Some("no media came")));
    let gaps: Vec<_> =
        metadata.gaps.iter().map(|gap| (gap.channel, gap.at.from_ms, gap.at.to_ms, gap.reason.as_str())).collect();
    assert_eq!(gaps, [(Some(0), 0, Some(20_000), "no-rtp"), (Some(1), 0, Some(20_000), "no-rtp")]);
}

#[test]
fn one_silent_side_is_a_complete_recording_of_two_channels() {
    let (voices, packets) = conversation(10);
    let one: Vec<_> = packets.into_iter().filter(|packet| packet.stream == 0).collect();
    let mut run = Run::new(config());
    run.until(10_000, &one);
    assert_eq!(run.recorder.verdict(RecordingState::Complete), (RecordingState::Complete, None));
    run.stop();
    let [left, right] = decode(&open_all(key(), &run.audio).unwrap());
    assert!(correlation(&left, &voices[0]) > 0.95);
    assert_eq!(right.len(), 80_000);
    assert!(right.iter().all(|sample| sample.abs() <= 1));
    let metadata = run.last_metadata();
    assert_eq!(metadata.gaps.len(), 1);
    assert_eq!(
        (metadata.gaps[0].channel, metadata.gaps[0].at.from_ms, metadata.gaps[0].at.to_ms),
        (Some(1), 0, Some(10_000))
    );
    assert_eq!((metadata.streams[1].mos, metadata.streams[1].mos_over_time.as_slice()), (None, [None].as_slice()));
}

#[test]
fn a_side_in_a_codec_that_was_not_agreed_makes_it_partial() {
    let (_, mut packets) = conversation(10);
    packets.iter_mut().filter(|packet| packet.stream == 1).for_each(|packet| packet.bytes[1] = 118);
    let mut run = Run::new(config());
    run.until(10_000, &packets);
    let (state, reason) = run.recorder.verdict(RecordingState::Complete);
    assert_eq!((state, reason), (RecordingState::Partial, Some("media came in payload types that were not agreed")));
    run.stop();
    assert_eq!(
        run.last_metadata().warnings,
        ["stream 2: 500 packets of payload types that were not agreed, not recorded"]
    );
}

#[test]
fn the_tap_hands_out_every_frame_while_it_is_open() {
    let (_, packets) = conversation(4);
    let mut run = Run::new(config());
    run.until(1_000, &packets);
    run.recorder.set_tap(true);
    let at = packets.iter().position(|packet| packet.arrival_us > 1_000_000).unwrap();
    run.until(2_000, &packets[at..]);
    run.recorder.set_tap(false);
    run.until(3_000, &[]);
    assert!((48..=52).contains(&run.frames.len()), "{}", run.frames.len());
    assert!(run.frames.windows(2).all(|pair| pair[1] == pair[0] + 960));
}

#[test]
fn a_later_part_measures_what_nobody_recorded() {
    let part = Part::new(Uuid::from_u128(7), 2, Uuid::from_u128(8));
    let second = |lost_ms: i64| {
        let lost_at = Some(Timestamp::from_unix_ms(1_000_000 + lost_ms));
        Run::new(RecorderConfig { part, lost_at, ..config() })
    };
    let took_over = |run: &Run| {
        let told = run.events.iter().filter_map(|event| match event {
            RecorderEvent::TookOver { lost_ms } => Some(*lost_ms),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let mut run = second(-700);
    let begun = run.last_metadata();
    assert_eq!((begun.part, begun.hand_overs.len(), begun.hand_overs[0].lost_ms), (part, 1, None));
    let (_, mut packets) = conversation(2);
    packets.retain(|packet| packet.arrival_us >= 100_000);
    let first_ms = packets[0].arrival_us as u64 / 1_000;
    run.until(3_000, &packets);
    assert_eq!(took_over(&run), [700 + first_ms], "from the loss to the first packet, once");
    run.stop();
    let hand_over = run.last_metadata().hand_overs[0].clone();
    assert_eq!((hand_over.part, hand_over.lost_ms, hand_over.cause.as_str()), (2, Some(700 + first_ms), "worker-lost"));
    let mut opener = Opener::new(key());
    opener.push(&run.audio, &mut Vec::new()).unwrap();
    assert_eq!(opener.header().unwrap().part, part);

    // A clock that is behind the other's makes no gap that is shorter than nothing.
    let mut behind = second(60_000);
    behind.until(3_000, &packets);
    assert_eq!(took_over(&behind), [0]);

    // Nothing came: all of it is missing.
    let mut deaf = second(-700);
    deaf.until(4_000, &[]);
    assert_eq!(took_over(&deaf), [0_u64; 0]);
    deaf.stop();
    assert_eq!(deaf.last_metadata().hand_overs[0].lost_ms, Some(4_700));

    // Nobody knows when the part before ended.
    let mut unknown = Run::new(RecorderConfig { part, ..config() });
    unknown.until(3_000, &packets);
    unknown.stop();
    assert_eq!((took_over(&unknown), unknown.last_metadata().hand_overs[0].lost_ms), (vec![], None));
    assert!(Run::new(config()).last_metadata().hand_overs.is_empty());
}

#[test]
fn without_a_recipient_there_is_no_recording() {
    let refused =
        Recorder::new(Instant::now(), UNIX_EPOCH, RecorderConfig { recipients: Vec::new(), ..config() }, Vec::new());
    assert!(refused.unwrap_err().to_string().contains("public key"));
}

#[test]
fn no_datagram_makes_it_panic_or_grow() {
    let mut run = Run::new(config());
    let mut state = 99_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    for ms in (0..20_000).step_by(60) {
        run.until(ms, &[]);
        for _ in 0..40 {
            let mut bytes: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
            if let [first, second, ..] = bytes.as_mut_slice() {
                (*first, *second) = (0x80 | *first & 0x3f, [0, 200, 201, 202, 203, 204][random() as usize % 6]);
            }
            let (stream, source) = (StreamIndex((random() % 3) as u16), address((random() % 3) as u8));
            if random() % 2 == 0 {
                run.recorder.handle_rtp(run.now(), stream, source, &bytes);
            } else {
                run.recorder.handle_rtcp(run.now(), stream, source, &bytes);
            }
        }
    }
    run.stop();
    assert_eq!(decode(&open_all(key(), &run.audio).unwrap())[0].len() / 8, run.now_ms as usize);
    assert!(run.metadata.last().unwrap().len() < 64 * 1024);
}
