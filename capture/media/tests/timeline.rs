//! What was said at second 61.0 is at second 61.0 of the recording, whatever the path did.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod common;

use common::{Call, Datagram, G722, L16, OPUS, PCMA, PCMU, Path, Sender, stream};
use ferric_codecs::testing::syllables;
use ferric_media::gaps::GapCause;
use ferric_media::rtcp::{SenderReport, write_sender_report};
use ferric_media::rtp::{Ssrc, StreamIndex};
use ferric_media::sender_clock::ntp_from_us;

fn two(first: u8, second: u8) -> Call {
    Call::new(vec![stream(0, &[first]), stream(1, &[second])])
}

#[test]
fn a_clean_call_is_recorded_as_it_was() {
    for (payload_type, rate) in [(PCMU, 8_000), (PCMA, 8_000), (G722, 16_000), (L16, 16_000), (OPUS, 16_000)] {
        let (ann, bob) = (syllables(rate, rate as usize * 10, 1), syllables(rate, rate as usize * 10, 2));
        let mut call = two(payload_type, payload_type);
        call.add(Sender::new(0, payload_type, 1).say(0, &ann, 0.0));
        call.add(Sender::new(1, payload_type, 1).say(0, &bob, 0.0));
        let recorded = call.record(10_000, rate);
        println!("{payload_type}: {:?} {:?}", recorded.compare(0, 0, &ann), recorded.compare(1, 0, &bob));
        // An Opus sender has a look-ahead of its own.
        let least = if payload_type == OPUS { 0.85 } else { 0.93 };
        recorded.assert_same(0, 0, &ann, 8.0, least);
        recorded.assert_same(1, 0, &bob, 8.0, least);
        for stream in &recorded.stats.streams {
            assert_eq!((stream.packets, stream.lost, stream.late, stream.duplicate), (500, 0, 0, 0));
            assert_eq!((stream.segments, stream.lost_ms, stream.undecodable), (1, 0, 0));
            assert!(stream.gaps.is_empty(), "{:?}", stream.gaps);
            assert!(stream.mos.unwrap() > 4.2);
        }
        assert_eq!(recorded.stats.duration_ms, 10_000);
    }
}

#[test]
fn loss_reordering_and_copies_leave_the_timeline_alone_and_are_told_exactly() {
    for seed in 1..=5 {
        let (ann, bob) = (syllables(8_000, 160_000, 1), syllables(8_000, 160_000, 2));
        let path = Path { loss: 0.05, reorder: 0.1, duplicate: 0.01, jitter_ms: 5.0 };
        let mut call = two(PCMU, PCMA);
        let (to_ann, ann_done) = path.send(Sender::new(0, PCMU, seed).say(0, &ann, 0.0), seed);
        let (to_bob, bob_done) = path.send(Sender::new(1, PCMA, seed).say(0, &bob, 0.0), seed + 100);
        call.add(to_ann).add(to_bob);
        let recorded = call.record(20_100, 8_000);
        println!("seed {seed}: {:?} {:?}", recorded.compare(0, 0, &ann), recorded.compare(1, 0, &bob));
        recorded.assert_same(0, 0, &ann, 12.0, 0.8);
        recorded.assert_same(1, 0, &bob, 12.0, 0.8);
        for (stream, done) in recorded.stats.streams.iter().zip([ann_done, bob_done]) {
            assert_eq!((stream.lost, stream.duplicate, stream.late), (done.lost, done.duplicated, 0), "seed {seed}");
            assert_eq!(stream.packets, 1_000 - done.lost);
            assert!(stream.lost_ms.abs_diff(done.lost * 20) <= 40, "{} ms for {} packets", stream.lost_ms, done.lost);
        }
    }
}

#[test]
fn jitter_up_to_the_delay_loses_nothing() {
    for seed in 1..=10_u64 {
        let ann = syllables(8_000, 160_000, seed as u32);
        let mut call = two(PCMU, PCMU);
        let path = Path { jitter_ms: 70.0, ..Path::default() };
        call.add(path.send(Sender::new(0, PCMU, seed).say(0, &ann, 0.0), seed).0);
        let recorded = call.record(20_100, 8_000);
        let (offset, same) = recorded.compare(0, 0, &ann);
        println!("seed {seed}: {offset} {same}");
        assert!((0.0..20.0).contains(&offset), "seed {seed}: {offset}");
        let stats = &recorded.stats.streams[0];
        assert_eq!((stats.lost, stats.late, stats.lost_ms), (0, 0, 0), "seed {seed}");
        assert!((10.0..40.0).contains(&stats.jitter_ms));
    }
}

#[test]
fn a_sequence_wrap_is_nothing() {
    let ann = syllables(8_000, 80_000, 3);
    let mut sender = Sender::new(0, PCMU, 1);
    sender.sequence = 65_300;
    sender.timestamp = u32::MAX - 20_000;
    let mut call = two(PCMU, PCMU);
    call.add(Path { reorder: 0.2, ..Path::default() }.send(sender.say(0, &ann, 0.0), 4).0);
    let recorded = call.record(10_100, 8_000);
    recorded.assert_same(0, 0, &ann, 12.0, 0.93);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.packets, stats.lost, stats.segments), (500, 0, 1));
}

#[test]
fn a_new_ssrc_goes_on_on_the_same_channel() {
    let ann = syllables(8_000, 80_000, 3);
    let mut call = two(PCMU, PCMU);
    let mut first = Sender::new(0, PCMU, 1);
    call.add(first.say(0, &ann[..40_000], 0.0));
    let mut second = Sender::new(0, PCMU, 9);
    call.add(second.say(5_000_000, &ann[40_000..], 0.0));
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.93);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.packets, stats.lost, stats.segments, stats.other_ssrc), (500, 0, 2, 0));
    assert_eq!(stats.ssrcs, [first.ssrc, second.ssrc]);
}

#[test]
fn many_sources_after_each_other_lose_nobody() {
    let ann = syllables(8_000, 160_000, 3);
    let mut call = two(PCMU, PCMU);
    for (n, part) in ann.chunks(8_000).enumerate() {
        call.add(Sender::new(0, PCMU, 50 + n as u64).say(n as i64 * 1_000_000, part, 0.0));
    }
    let recorded = call.record(20_000, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.93);
    assert_eq!((recorded.stats.streams[0].segments, recorded.stats.streams[0].lost), (20, 0));
}

#[test]
fn two_sources_at_once_do_not_tear_the_channel() {
    let (ann, other) = (syllables(8_000, 80_000, 3), syllables(8_000, 80_000, 4));
    let mut call = two(PCMU, PCMU);
    call.add(Sender::new(0, PCMU, 1).say(0, &ann, 0.0));
    let mut second = Sender::new(0, PCMU, 9);
    second.source = common::address(1);
    call.add(second.say(2_010_000, &other[..32_000], 0.0));
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.93);
    assert_eq!(recorded.stats.streams[0].other_ssrc, 200);
}

#[test]
fn a_sequence_reset_is_no_loss() {
    let ann = syllables(8_000, 80_000, 3);
    let mut sender = Sender::new(0, PCMU, 1);
    sender.sequence = 40_000;
    let mut packets = sender.say(0, &ann[..40_000], 0.0);
    sender.sequence = 3;
    packets.extend(sender.say(5_000_000, &ann[40_000..], 0.0));
    let mut call = two(PCMU, PCMU);
    call.add(packets);
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.93);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.packets, stats.lost, stats.segments), (500, 0, 2));
}

#[test]
fn a_timestamp_jump_does_not_move_the_audio() {
    for jump in [1_000_000_u32, 0_u32.wrapping_sub(1_000_000), 8_000, 0_u32.wrapping_sub(8_000)] {
        let ann = syllables(8_000, 80_000, 3);
        let mut sender = Sender::new(0, PCMU, 1);
        let mut packets = sender.say(0, &ann[..40_000], 0.0);
        sender.timestamp = sender.timestamp.wrapping_add(jump);
        packets.extend(sender.say(5_000_000, &ann[40_000..], 0.0));
        let mut call = two(PCMU, PCMU);
        call.add(packets);
        let recorded = call.record(10_000, 8_000);
        recorded.assert_same(0, 0, &ann, 8.0, 0.93);
        let stats = &recorded.stats.streams[0];
        assert_eq!((stats.lost, stats.late, stats.segments), (0, 0, 2), "jump {jump}");
    }
}

#[test]
fn a_clock_that_stood_still_on_hold_goes_on_where_the_call_is() {
    let ann = syllables(8_000, 80_000, 3);
    let mut sender = Sender::new(0, PCMU, 1);
    let mut call = two(PCMU, PCMU);
    call.add(sender.say(0, &ann[..40_000], 0.0));
    // Ten seconds later the timestamps go on as if nothing had been.
    call.add(sender.say(15_000_000, &ann[40_000..], 0.0));
    let recorded = call.record(20_000, 8_000);
    recorded.assert_same(0, 0, &ann[..40_000], 8.0, 0.93);
    recorded.assert_same(0, 15_000, &ann[40_000..], 8.0, 0.93);
    assert!(recorded.level(0, 5_600, 14_900) < 1.0);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.lost, stats.late, stats.segments), (0, 0, 2));
    assert_eq!(stats.gaps.len(), 1);
    assert_eq!(stats.gaps[0].cause, GapCause::NoMedia);
    assert!(stats.gaps[0].start_ms.abs_diff(5_000) < 40 && stats.gaps[0].end_ms.abs_diff(15_000) < 40);
}

#[test]
fn a_stall_of_the_network_is_late_and_changes_nothing_after() {
    let ann = syllables(8_000, 80_000, 3);
    let mut packets = Sender::new(0, PCMU, 1).say(0, &ann, 0.0);
    for (n, packet) in packets.iter_mut().enumerate() {
        if (100..125).contains(&n) {
            packet.arrival_us = 2_500_000 + n as i64 * 100;
        }
    }
    let mut call = two(PCMU, PCMU);
    call.add(packets);
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(0, 3_000, &ann[24_000..], 8.0, 0.93);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.lost, stats.segments, stats.packets), (0, 1, 500));
    assert!((15..=20).contains(&stats.late), "{}", stats.late);
}

#[test]
fn drift_is_followed_for_half_an_hour() {
    let half_hour = 1_800;
    for ppm in [100.0, -150.0] {
        let minute = syllables(8_000, 480_000, 6);
        let mut sender = Sender::new(0, PCMU, 1);
        let mut packets: Vec<Datagram> = Vec::new();
        for n in 0..half_hour / 60 {
            let start = f64::from(n) * 60e6 / (1.0 + ppm / 1e6);
            packets.extend(sender.say(start as i64, &minute, ppm));
        }
        let mut call = two(PCMU, PCMU);
        call.add(Path { jitter_ms: 10.0, ..Path::default() }.send(packets, 3).0);
        let recorded = call.record(1_800_000, 8_000);
        for at in [2, 10, 20, 28] {
            // A second of minute `at`, from its 10th on: longer would show the drift itself.
            let start_ms = ((f64::from(at) * 60_000.0 + 10_000.0) / (1.0 + ppm / 1e6)) as i64;
            let (offset, same) = recorded.compare(0, start_ms, &minute[80_000..88_000]);
            println!("{ppm} ppm, minute {at}: {offset} ms, {same}");
            assert!(offset.abs() < 15.0 && same > 0.85, "{ppm} ppm, minute {at}: {offset} ms, {same}");
        }
        assert_eq!(recorded.stats.streams[0].late, 0);
        assert_eq!(recorded.stats.streams[0].segments, 1);
    }
}

#[test]
fn a_party_that_starts_late_is_where_it_spoke() {
    let (ann, bob) = (syllables(8_000, 80_000, 1), syllables(8_000, 40_000, 2));
    let mut call = two(PCMU, PCMU);
    call.add(Sender::new(0, PCMU, 1).say(40_000, &ann, 0.0));
    call.add(Sender::new(1, PCMU, 1).say(4_321_000, &bob, 0.0));
    let recorded = call.record(10_100, 8_000);
    recorded.assert_same(0, 40, &ann, 8.0, 0.93);
    recorded.assert_same(1, 4_321, &bob, 8.0, 0.93);
    assert!(recorded.level(1, 0, 4_250) < 1.0);
    let gaps = &recorded.stats.streams[1].gaps;
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].start_ms, gaps[0].end_ms.abs_diff(4_321) < 2, gaps[0].cause), (0, true, GapCause::NoMedia));
}

#[test]
fn packets_before_the_beginning_and_after_the_end_do_no_harm() {
    let ann = syllables(8_000, 80_000, 1);
    let mut call = two(PCMU, PCMU);
    call.add(Sender::new(0, PCMU, 1).say(-500_000, &ann, 0.0));
    let recorded = call.record(8_000, 8_000);
    recorded.assert_same(0, 0, &ann[4_000..68_000], 8.0, 0.93);
    assert_eq!((recorded.stats.streams[0].late, recorded.stats.streams[0].lost_ms), (0, 0));
}

#[test]
fn a_reordered_packet_from_the_future_holds_nobody_up() {
    let ann = syllables(8_000, 80_000, 3);
    let mut packets = Sender::new(0, PCMU, 1).say(0, &ann, 0.0);
    // It comes after its successor, its timestamp damaged.
    packets[100].arrival_us += 25_000;
    packets[100].bytes[4] ^= 0x20;
    let mut call = two(PCMU, PCMU);
    call.add(packets);
    let recorded = call.record(10_000, 8_000);
    recorded.assert_same(0, 0, &ann, 8.0, 0.9);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.lost, stats.late, stats.undecodable, stats.overflow), (0, 0, 1, 0));
}

#[test]
fn a_g722_sender_that_counts_16_khz_is_understood() {
    let ann = syllables(16_000, 160_000, 3);
    let mut packets = Sender::new(0, G722, 1).say(0, &ann, 0.0);
    for (n, packet) in packets.iter_mut().enumerate() {
        packet.bytes[4..8].copy_from_slice(&(n as u32 * 320).to_be_bytes());
    }
    let mut call = two(G722, PCMU);
    call.add(packets);
    let recorded = call.record(10_000, 16_000);
    recorded.assert_same(0, 1_000, &ann[16_000..], 8.0, 0.93);
    let stats = &recorded.stats.streams[0];
    assert_eq!((stats.lost, stats.segments), (0, 2));
    assert!(stats.late <= 5 && stats.jitter_ms < 1.0);
}

#[test]
fn two_streams_of_one_sender_are_aligned_by_its_reports() {
    let (ann, bob) = (syllables(8_000, 320_000, 1), syllables(8_000, 320_000, 2));
    for reported in [false, true] {
        let mut call = two(PCMU, PCMU);
        for (index, voice, delay_us) in [(0_u16, &ann, 0_i64), (1, &bob, 60_000)] {
            let mut sender = Sender::new(index, PCMU, 1);
            sender.source = common::address(1);
            let (ssrc, first) = (Ssrc(sender.ssrc), sender.timestamp);
            call.add(sender.say(delay_us, voice, 0.0));
            for n in 1..8_i64 {
                let sent_us = n * 1_500_000 + i64::from(index) * 400_000;
                let report = SenderReport {
                    ssrc,
                    ntp: ntp_from_us(3_900_000_000_000_000 + sent_us),
                    rtp_timestamp: first.wrapping_add((sent_us * 8 / 1_000) as u32),
                    packets: 0,
                    octets: 0,
                };
                let mut bytes = Vec::new();
                write_sender_report(&report, "sbc", &mut bytes);
                if reported {
                    call.at((sent_us + delay_us) / 1_000, move |pipeline, now| {
                        assert!(pipeline.handle_rtcp(now, StreamIndex(index), common::address(1), &bytes));
                        assert!(!pipeline.handle_rtcp(now, StreamIndex(index), common::address(5), &bytes));
                    });
                }
            }
        }
        let recorded = call.record(40_100, 8_000);
        // Well after the reports, the two lie side by side as they were spoken.
        let (early, late) = (
            recorded.compare(0, 30_060, &ann[240_000..300_000]).0,
            recorded.compare(1, 30_060, &bob[240_000..300_000]).0,
        );
        println!("reported {reported}: {early} {late}");
        let apart = late - early;
        assert!(
            if reported { apart.abs() < 5.0 } else { (apart - 60.0).abs() < 5.0 },
            "reported {reported}: {early} {late}"
        );
        assert!(recorded.stats.streams.iter().all(|stream| (stream.late, stream.lost_ms) == (0, 0)));
    }
}

#[test]
fn what_opus_repeats_fills_the_gap_before_it() {
    let ann = syllables(16_000, 160_000, 5);
    let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(32_000)).unwrap();
    encoder.set_inband_fec(true).unwrap();
    encoder.set_packet_loss_perc(25).unwrap();
    let mut sender = Sender::new(0, OPUS, 1);
    let mut packets = Vec::new();
    for (n, frame) in ann.chunks_exact(320).enumerate() {
        let payload = encoder.encode_vec(frame, 1_275).unwrap();
        let packet = sender.raw(n as i64 * 20_000, OPUS, &payload);
        sender.skip_ms(20);
        if n % 5 != 3 {
            packets.push(packet);
        }
    }
    let mut call = Call::new(vec![stream(0, &[OPUS])]);
    call.add(packets);
    let recorded = call.record(10_000, 16_000);
    let (offset, same) = recorded.compare(0, 0, &ann);
    println!("{offset} {same}");
    assert_eq!(recorded.stats.streams[0].lost, 100);
    // One packet of five is gone, and heard all the same.
    assert!(same > 0.85, "{same}");
}
