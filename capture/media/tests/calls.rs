//! What happens to calls: holds, transfers, strangers, codecs that change, pauses, many streams.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{CN, Call, DTMF, G722, PCMA, PCMU, Path, Recorded, Sender, address, stream};
use ferric_codecs::testing::syllables;
use ferric_media::gaps::GapCause;
use ferric_media::rtp::StreamIndex;
use ferric_media::stats::TelephoneEvent;
use ferric_media::stream::{PayloadKind, StreamConfig, StreamEvent};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn two() -> Call {
    Call::new(vec![stream(0, &[PCMU]), stream(1, &[PCMU])])
}

/// Ann on the left for all of the call, so that a test can look at the other side.
fn with_ann(seconds: usize) -> Call {
    let mut call = two();
    call.add(Sender::new(0, PCMU, 1).say(0, &syllables(8_000, seconds * 8_000, 1), 0.0));
    call
}

fn silence_between(recorded: &Recorded, from_ms: usize, to_ms: usize) {
    let level = recorded.level(1, from_ms, to_ms);
    assert!(level < 1.0, "{level} between {from_ms} and {to_ms} ms");
}

#[test]
fn suppressed_silence_is_silence_and_no_loss() {
    for comfort in [true, false] {
        let bob = syllables(8_000, 80_000, 2);
        let mut sender = Sender::new(1, PCMU, 1);
        let mut call = with_ann(10);
        call.add(sender.say(0, &bob[..24_000], 0.0));
        if comfort {
            call.add(vec![sender.raw(3_000_000, CN, &[70, 1, 2, 3])]);
        }
        sender.skip_ms(3_500);
        sender.marker = true;
        call.add(sender.say(6_500_000, &bob[24_000..48_000], 0.0));
        let recorded = call.record(10_000, 8_000);
        recorded.assert_same(1, 0, &bob[..24_000], 8.0, 0.93);
        recorded.assert_same(1, 6_500, &bob[24_000..48_000], 8.0, 0.93);
        silence_between(&recorded, 3_600, 6_450);
        let stats = &recorded.stats.streams[1];
        assert_eq!((stats.lost, stats.lost_ms, stats.segments, stats.late), (0, 0, 1, 0));
        assert!(stats.gaps.iter().all(|gap| gap.cause == GapCause::NoMedia), "{:?}", stats.gaps);
    }
}

#[test]
fn a_hold_is_silence_with_a_mark_and_the_call_goes_on_after_it() {
    let bob = syllables(8_000, 80_000, 2);
    let mut call = with_ann(20);
    let mut sender = Sender::new(1, PCMU, 1);
    call.add(sender.say(0, &bob[..40_000], 0.0));
    let mut held = stream(1, &[PCMU]);
    held.active = false;
    let both = vec![stream(0, &[PCMU]), held];
    call.at(5_000, move |pipeline, now| pipeline.update_streams(now, both));
    call.at(14_900, |pipeline, now| pipeline.update_streams(now, vec![stream(0, &[PCMU]), stream(1, &[PCMU])]));
    // Back with another source, as after a transfer.
    call.add(Sender::new(1, PCMU, 33).say(15_000_000, &bob[40_000..], 0.0));
    let recorded = call.record(20_000, 8_000);
    recorded.assert_same(1, 0, &bob[..40_000], 8.0, 0.93);
    recorded.assert_same(1, 15_000, &bob[40_000..], 8.0, 0.93);
    silence_between(&recorded, 5_600, 14_950);
    let stats = &recorded.stats.streams[1];
    assert_eq!(stats.gaps.len(), 1, "{:?}", stats.gaps);
    assert_eq!((stats.gaps[0].start_ms, stats.gaps[0].end_ms, stats.gaps[0].cause), (5_000, 14_900, GapCause::Hold));
    // The other party heard nothing of it.
    recorded.assert_same(0, 0, &syllables(8_000, 160_000, 1), 8.0, 0.93);
}

#[test]
fn strangers_are_dropped_and_a_new_source_follows_a_silent_one() {
    let bob = syllables(8_000, 80_000, 2);
    let mut call = with_ann(10);
    let mut sender = Sender::new(1, PCMU, 1);
    call.add(sender.say(0, &bob[..40_000], 0.0));
    let mut stranger = Sender::new(1, PCMU, 66);
    stranger.source = address(99);
    call.add(stranger.say(2_000_000, &syllables(8_000, 8_000, 9), 0.0));
    // The same phone behind another address, after 1.2 s of nothing.
    sender.source = address(50);
    sender.skip_ms(1_200);
    call.add(sender.say(6_200_000, &bob[49_600..], 0.0));
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(1, 0, &bob[..40_000], 8.0, 0.93);
    recorded.assert_same(1, 6_200, &bob[49_600..], 8.0, 0.93);
    let stats = &recorded.stats.streams[1];
    assert_eq!((stats.stranger, stats.lost, stats.segments), (50, 0, 1));
    let of_bob: Vec<_> =
        recorded.events.iter().filter(|event| format!("{event:?}").contains("StreamIndex(1)")).collect();
    assert_eq!(
        of_bob,
        [
            &StreamEvent::FirstMedia { stream: StreamIndex(1), from: address(2) },
            &StreamEvent::StrangerDropped { stream: StreamIndex(1), from: address(99) },
            &StreamEvent::SourceMoved { stream: StreamIndex(1), from: address(2), to: address(50) },
        ]
    );
}

#[test]
fn signalling_moves_a_source_at_once() {
    let bob = syllables(8_000, 80_000, 2);
    let mut call = with_ann(10);
    call.add(Sender::new(1, PCMU, 1).say(0, &bob[..40_000], 0.0));
    let mut moved = stream(1, &[PCMU]);
    moved.expected_source = Some(IpAddr::from([10, 0, 0, 77]));
    call.at(4_990, move |pipeline, now| pipeline.update_streams(now, vec![stream(0, &[PCMU]), moved]));
    let mut after = Sender::new(1, PCMU, 4);
    after.source = address(77);
    call.add(after.say(5_000_000, &bob[40_000..], 0.0));
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(1, 0, &bob, 8.0, 0.93);
}

#[test]
fn a_wrong_payload_type_is_counted_and_shuts_nobody_out() {
    let bob = syllables(8_000, 80_000, 2);
    let mut call = with_ann(10);
    let mut wrong = Sender::new(1, PCMA, 66);
    wrong.source = address(99);
    call.add(wrong.say(0, &bob, 0.0));
    call.add(Sender::new(1, PCMU, 1).say(40_000, &bob, 0.0));
    let recorded = call.record(10_100, 8_000);
    recorded.assert_same(1, 40, &bob, 8.0, 0.93);
    let stats = &recorded.stats.streams[1];
    assert_eq!((stats.wrong_payload_type, stats.lost, stats.packets), (500, 0, 500));
}

#[test]
fn a_codec_may_change_and_the_file_follows_to_wideband() {
    let narrow = syllables(8_000, 40_000, 2);
    let wide = syllables(16_000, 80_000, 7);
    let ann = syllables(8_000, 80_000, 1);
    let mut call = with_ann(10);
    let mut sender = Sender::new(1, PCMU, 1);
    call.add(sender.say(0, &narrow, 0.0));
    sender.payload_type = G722;
    call.add(sender.say(5_000_000, &wide, 0.0));
    call.at(4_930, |pipeline, now| pipeline.update_streams(now, vec![stream(0, &[PCMU]), stream(1, &[PCMU, G722])]));
    let recorded = call.record(10_000, 16_000);
    recorded.assert_same(1, 5_000, &wide, 8.0, 0.9);
    assert_eq!(recorded.stats.encoder_rate, 16_000);
    let stats = &recorded.stats.streams[1];
    assert_eq!((stats.lost, stats.late, stats.segments, stats.lost_ms), (0, 0, 1, 0));
    assert_eq!(
        (stats.codec, stats.codecs.clone()),
        (Some("G722"), vec!["PCMU/8000".to_owned(), "G722/8000".to_owned()])
    );
    // Heard at 8 kHz, the other party goes through the change unharmed.
    let heard = Recorded {
        rate: 8_000,
        channels: recorded.channels.map(|channel| channel.iter().step_by(2).copied().collect()),
        ..recorded
    };
    heard.assert_same(0, 0, &ann, 8.0, 0.93);
    heard.assert_same(1, 0, &narrow, 8.0, 0.93);
}

#[test]
fn a_pause_is_digital_silence_of_its_length_and_keeps_no_digit() {
    let bob = syllables(8_000, 80_000, 2);
    let ann = syllables(8_000, 80_000, 1);
    let mut call = with_ann(10);
    let mut sender = Sender::new(1, PCMU, 1);
    call.add(sender.say(0, &bob, 0.0));
    let mut keys = Sender::new(1, PCMU, 1);
    keys.sequence = sender.sequence;
    keys.timestamp = sender.timestamp;
    call.add(vec![keys.raw(5_000_000, DTMF, &[4, 0x8a, 0x03, 0x20])]);
    call.at(4_000, |pipeline, now| assert_eq!(pipeline.pause(now), Some(4_000)));
    call.at(4_500, |pipeline, now| assert_eq!(pipeline.pause(now), None));
    call.at(6_010, |pipeline, now| assert_eq!(pipeline.resume(now), Some(6_020)));
    let recorded = call.record(10_000, 8_000);
    for channel in 0..2 {
        // All frames of the pause are the same three bytes.
        let silent = &recorded.frames[200][channel];
        assert_eq!(silent.len(), 3);
        assert!(recorded.frames[200..301].iter().all(|frame| &frame[channel] == silent));
        // The first one still fades what came before.
        let pcm = &recorded.channels[channel][4_020 * 8..6_010 * 8];
        assert!(pcm.iter().all(|&sample| sample == 0));
    }
    recorded.assert_same(0, 0, &ann[..32_000], 8.0, 0.93);
    recorded.assert_same(1, 6_020, &bob[48_160..], 8.0, 0.93);
    let stats = &recorded.stats;
    assert_eq!((stats.pauses.len(), stats.pauses[0].start_ms, stats.pauses[0].end_ms), (1, 4_000, 6_020));
    assert_eq!(stats.streams[1].telephone_events, [TelephoneEvent { at_ms: 4_900, duration_ms: 100, digit: None }]);
    assert_eq!(stats.streams[1].gaps, []);
}

#[test]
fn digits_are_noted_and_never_heard() {
    let bob = syllables(8_000, 24_000, 2);
    let mut call = with_ann(10);
    let mut sender = Sender::new(1, PCMU, 1);
    call.add(sender.say(0, &bob, 0.0));
    let pressed = sender.timestamp;
    for n in 0..10_u16 {
        let [high, low] = (n.min(7) * 160).to_be_bytes();
        let end = if n >= 7 { 0x80 } else { 0 };
        sender.timestamp = pressed;
        call.add(vec![sender.raw(3_000_000 + i64::from(n) * 20_000, DTMF, &[5, end | 10, high, low])]);
    }
    sender.timestamp = pressed;
    sender.skip_ms(200);
    call.add(sender.say(3_200_000, &bob, 0.0));
    let recorded = call.record(10_000, 8_000);
    let stats = &recorded.stats.streams[1];
    assert_eq!(stats.telephone_events, [TelephoneEvent { at_ms: 3_000, duration_ms: 140, digit: Some('5') }]);
    assert_eq!((stats.lost, stats.lost_ms, stats.segments, stats.late), (0, 0, 1, 0));
    recorded.assert_same(1, 0, &bob, 8.0, 0.93);
    recorded.assert_same(1, 3_200, &bob, 8.0, 0.93);
    // Within the gate's hang-over the encoder still runs: silence but for its own noise.
    let level = recorded.level(1, 3_050, 3_190);
    assert!(level < 40.0, "{level}");
}

#[test]
fn one_mixed_stream_lies_left() {
    let ann = syllables(8_000, 80_000, 1);
    let mut call = Call::new(vec![stream(0, &[PCMU])]);
    call.add(Sender::new(0, PCMU, 1).say(0, &ann, 0.0));
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.93);
    silence_between(&recorded, 0, 10_000);
}

#[test]
fn eight_streams_are_one_left_and_seven_mixed_right() {
    let mut call = Call::new((0..8).map(|index| stream(index, &[PCMU])).collect());
    // They speak one after the other, a second each; the last two together.
    let voice = |index: u16| syllables(8_000, 8_000, u32::from(index) + 1);
    for index in 0..8_u16 {
        let start = i64::from(index.min(6)) * 1_000_000;
        call.add(Sender::new(index, PCMU, 1).say(start, &voice(index), 0.0));
    }
    let recorded = call.record(8_000, 8_000);
    recorded.assert_same(0, 0, &voice(0), 8.0, 0.93);
    for index in 1..6_u16 {
        recorded.assert_same(1, i64::from(index) * 1_000, &voice(index), 8.0, 0.85);
    }
    let together: Vec<i16> = voice(6).iter().zip(voice(7)).map(|(a, b)| a.saturating_add(b)).collect();
    recorded.assert_same(1, 6_000, &together, 8.0, 0.85);
    assert_eq!(recorded.stats.streams.len(), 8);
}

#[test]
fn a_stream_that_joins_and_leaves_disturbs_nobody() {
    let (ann, bob, eve) = (syllables(8_000, 160_000, 1), syllables(8_000, 80_000, 2), syllables(8_000, 40_000, 3));
    let mut call = Call::new(vec![stream(0, &[PCMU])]);
    call.add(Sender::new(0, PCMU, 1).say(0, &ann, 0.0));
    call.add(Sender::new(1, PCMU, 1).say(5_030_000, &bob, 0.0));
    call.add(Sender::new(2, PCMU, 1).say(15_090_000, &eve, 0.0));
    call.at(5_000, |pipeline, now| pipeline.update_streams(now, vec![stream(0, &[PCMU]), stream(1, &[PCMU])]));
    call.at(15_050, |pipeline, now| pipeline.update_streams(now, vec![stream(0, &[PCMU]), stream(2, &[PCMU])]));
    let recorded = call.record(20_100, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.93);
    recorded.assert_same(1, 5_030, &bob[..80_000], 8.0, 0.93);
    recorded.assert_same(1, 15_090, &eve, 8.0, 0.93);
    let gone = &recorded.stats.streams[1];
    assert!(!gone.active);
    assert_eq!(gone.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [GapCause::Hold]);
}

#[test]
fn a_party_speaking_leaves_the_other_channel_clean() {
    let recorded = with_ann(10).record(10_000, 8_000);
    assert!(recorded.level(0, 0, 10_000) > 300.0);
    assert!(recorded.channels[1].iter().all(|&sample| sample.abs() <= 1));
}

#[test]
fn a_visit_may_come_late() {
    let ann = syllables(8_000, 160_000, 1);
    let mut call = two();
    call.step_ms = 4_000;
    call.add(Path { reorder: 0.1, ..Path::default() }.send(Sender::new(0, PCMU, 1).say(0, &ann, 0.0), 5).0);
    let recorded = call.record(20_100, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.93);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.lost, stats.overflow, stats.lost_ms), (0, 0, 0));
}

#[test]
fn nothing_that_arrives_makes_it_panic() {
    let mut rng = StdRng::seed_from_u64(77);
    let kinds = [PCMU, G722, common::OPUS, common::L16, CN, DTMF, PCMA];
    for round in 0..30 {
        let mut configs: Vec<StreamConfig> =
            (0..3).map(|index| stream(index, &[PCMU, G722, common::OPUS, common::L16])).collect();
        configs[2]
            .payloads
            .push((98, PayloadKind::Audio(ferric_codecs::decode::CodecKind::L16 { rate: 44_100, channels: 2 })));
        let mut call = Call::new(configs);
        for n in 0..3_000_i64 {
            let mut sender = Sender::new(rng.random_range(0..4), PCMU, 1);
            sender.ssrc = rng.random_range(0..3);
            if rng.random_bool(0.7) {
                // Mostly plausible numbers, so that the packets get far.
                sender.sequence = (n / 2) as u16;
                sender.timestamp = (n as u32 / 2).wrapping_mul(160);
            }
            sender.source = address(rng.random_range(1..3));
            let payload: Vec<u8> = (0..rng.random_range(0..400)).map(|_| rng.random()).collect();
            let payload_type = if rng.random_bool(0.1) { 98 } else { kinds[rng.random_range(0..kinds.len())] };
            let mut datagram = sender.raw(n * rng.random_range(0..4_000), payload_type, &payload);
            if rng.random_bool(0.05) {
                datagram.bytes = payload;
            }
            call.add(vec![datagram]);
        }
        for ms in [500, 900, 2_000, 2_500, 4_000] {
            let keep = rng.random_range(0..=3);
            call.at(ms, move |pipeline, now| {
                pipeline.pause(now);
                let configs = (0..keep).map(|index| stream(index, &[PCMU, G722, common::OPUS])).collect();
                pipeline.update_streams(now + Duration::from_millis(3), configs);
                pipeline.resume(now + Duration::from_millis(77));
            });
        }
        call.step_ms = [20, 60, 100, 700][round % 4];
        let recorded = call.record(6_000, 16_000);
        assert!(recorded.stats.streams.iter().map(|stream| stream.packets).sum::<u64>() > 0);
    }
}
