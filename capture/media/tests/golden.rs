//! What is heard when, on which channel: calls that change, against a table that a person can read.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod common;

use common::{Call, Datagram, G722, OPUS, PCMA, PCMU, Recorded, Sender, address, stream};
use ferric_media::srtp::{SrtpConfig, SrtpKey, SrtpSender, SrtpSuite};
use ferric_media::stats::Channel;
use ferric_media::stream::StreamConfig;
use rand::SeedableRng;
use rand::rngs::StdRng;

const L: usize = 0;
const R: usize = 1;

/// From, to (in ms), channel, tones in Hz; no tones is silence.
type Row<'a> = (usize, usize, usize, &'a [f64]);

fn tone(hz: f64, rate: u32, ms: usize) -> Vec<i16> {
    let step = 2.0 * std::f64::consts::PI * hz / f64::from(rate);
    (0..rate as usize * ms / 1_000).map(|n| (5_000.0 * (step * n as f64).sin()) as i16).collect()
}

/// Says a tone for some time, as the codec of the sender has it.
fn say(sender: &mut Sender, from_ms: i64, ms: usize, hz: f64) -> Vec<Datagram> {
    let rate = sender.codec().audio_rate();
    sender.say(from_ms * 1_000, &tone(hz, rate, ms), 0.0)
}

/// Share of a window's energy at a frequency.
fn share(part: &[i16], hz: f64, rate: u32) -> f64 {
    let step = 2.0 * std::f64::consts::PI * hz / f64::from(rate);
    let (mut re, mut im, mut all) = (0.0, 0.0, 1e-9);
    for (n, sample) in part.iter().enumerate() {
        let x = f64::from(*sample);
        re += x * (step * n as f64).cos();
        im += x * (step * n as f64).sin();
        all += x * x;
    }
    2.0 * (re * re + im * im) / (part.len() as f64 * all)
}

/// Holds every window of 40 ms against the table; 80 ms around each change are nobody's.
fn check(recorded: &Recorded, table: &[Row<'_>]) {
    let rate = recorded.rate;
    for &(from, to, channel, tones) in table {
        for at in (from + 80..to - 120).step_by(40) {
            let place = |ms: usize| ms * rate as usize / 1_000;
            let part = &recorded.channels[channel][place(at)..place(at + 40)];
            let side = ["left", "right"][channel];
            if tones.is_empty() {
                let loudest = part.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
                assert!(loudest < 120, "{at} ms {side}: {loudest} where there should be silence");
                continue;
            }
            let sum: f64 = tones.iter().map(|hz| share(part, *hz, rate)).sum();
            assert!(sum > 0.8, "{at} ms {side}: only {sum:.2} of it is {tones:?} Hz");
            for hz in tones {
                let own = share(part, *hz, rate);
                assert!(own > 0.3 / tones.len() as f64, "{at} ms {side}: {hz} Hz has {own:.2}");
            }
        }
    }
}

fn held(mut config: StreamConfig) -> StreamConfig {
    config.active = false;
    config
}

#[test]
fn hold_and_resume() {
    let mut call = Call::new(vec![stream(0, &[PCMU]), stream(1, &[PCMU])]);
    let (mut ann, mut bob) = (Sender::new(0, PCMU, 1), Sender::new(1, PCMU, 1));
    call.add(say(&mut ann, 0, 2_000, 400.0)).add(say(&mut bob, 0, 6_000, 700.0));
    ann.skip_ms(2_000);
    call.add(say(&mut ann, 4_000, 2_000, 400.0));
    call.at(2_000, |pipeline, now| pipeline.update_streams(now, vec![held(stream(0, &[PCMU])), stream(1, &[PCMU])]));
    call.at(4_000, |pipeline, now| pipeline.update_streams(now, vec![stream(0, &[PCMU]), stream(1, &[PCMU])]));
    let recorded = call.record(6_000, 8_000);
    check(
        &recorded,
        &[(0, 2_000, L, &[400.0]), (2_000, 4_000, L, &[]), (4_000, 6_000, L, &[400.0]), (0, 6_000, R, &[700.0])],
    );
    let hold =
        recorded.stats.streams[0].gaps.iter().find(|gap| gap.cause == ferric_media::gaps::GapCause::Hold).unwrap();
    assert!(hold.start_ms.abs_diff(2_000) < 30 && hold.end_ms.abs_diff(4_000) < 30, "{hold:?}");
}

#[test]
fn a_transfer_changes_address_source_and_codec_of_one_side() {
    let mut call = Call::new(vec![stream(0, &[PCMU]), stream(1, &[PCMU])]);
    let (mut ann, mut bob, mut carol) = (Sender::new(0, PCMU, 1), Sender::new(1, PCMU, 1), Sender::new(1, G722, 9));
    carol.source = address(77);
    call.add(say(&mut ann, 0, 6_000, 400.0))
        .add(say(&mut bob, 0, 3_000, 700.0))
        .add(say(&mut carol, 3_040, 2_960, 1_000.0));
    call.at(3_000, |pipeline, now| {
        let mut second = stream(1, &[PCMU, G722]);
        second.expected_source = Some(address(77).ip());
        pipeline.update_streams(now, vec![stream(0, &[PCMU]), second]);
    });
    let recorded = call.record(6_000, 16_000);
    check(&recorded, &[(0, 6_000, L, &[400.0]), (0, 3_000, R, &[700.0]), (3_040, 6_000, R, &[1_000.0])]);
    assert_eq!(recorded.stats.streams[1].codecs, ["PCMU/8000", "G722/8000"]);
}

#[test]
fn a_third_party_joins_on_the_right_and_leaves() {
    let mut call = Call::new(vec![stream(0, &[PCMU]), stream(1, &[PCMA])]);
    let (mut ann, mut bob, mut carol) = (Sender::new(0, PCMU, 1), Sender::new(1, PCMA, 1), Sender::new(2, PCMU, 1));
    call.add(say(&mut ann, 0, 7_000, 400.0))
        .add(say(&mut bob, 0, 7_000, 700.0))
        .add(say(&mut carol, 2_000, 3_000, 1_100.0));
    let three = || vec![stream(0, &[PCMU]), stream(1, &[PCMA]), stream(2, &[PCMU])];
    call.at(1_900, move |pipeline, now| pipeline.update_streams(now, three()));
    call.at(5_000, |pipeline, now| pipeline.update_streams(now, vec![stream(0, &[PCMU]), stream(1, &[PCMA])]));
    let recorded = call.record(7_000, 8_000);
    check(
        &recorded,
        &[
            (0, 7_000, L, &[400.0]),
            (0, 2_000, R, &[700.0]),
            (2_000, 5_000, R, &[700.0, 1_100.0]),
            (5_000, 7_000, R, &[700.0]),
        ],
    );
}

#[test]
fn the_far_end_alone_lies_right() {
    let mut far = stream(0, &[PCMU]);
    far.channel = Channel::Right;
    let mut call = Call::new(vec![far]);
    call.add(say(&mut Sender::new(0, PCMU, 1), 0, 3_000, 500.0));
    check(&call.record(3_000, 8_000), &[(0, 3_000, R, &[500.0]), (0, 3_000, L, &[])]);
}

#[test]
fn pause_and_resume() {
    let mut call = Call::new(vec![stream(0, &[PCMU]), stream(1, &[PCMU])]);
    call.add(say(&mut Sender::new(0, PCMU, 1), 0, 6_000, 400.0)).add(say(
        &mut Sender::new(1, PCMU, 1),
        0,
        6_000,
        700.0,
    ));
    call.at(2_000, |pipeline, now| assert!(pipeline.pause(now).is_some()));
    call.at(4_000, |pipeline, now| assert!(pipeline.resume(now).is_some()));
    let recorded = call.record(6_000, 8_000);
    check(
        &recorded,
        &[
            (0, 2_000, L, &[400.0]),
            (2_000, 4_000, L, &[]),
            (4_000, 6_000, L, &[400.0]),
            (2_000, 4_000, R, &[]),
            (4_000, 6_000, R, &[700.0]),
        ],
    );
}

#[test]
fn codecs_change_under_way() {
    let mut call = Call::new(vec![stream(0, &[PCMU, G722, OPUS])]);
    let mut sender = Sender::new(0, PCMU, 1);
    call.add(say(&mut sender, 0, 2_000, 400.0));
    sender.payload_type = G722;
    call.add(say(&mut sender, 2_000, 2_000, 700.0));
    sender.payload_type = OPUS;
    call.add(say(&mut sender, 4_000, 2_000, 1_000.0));
    let recorded = call.record(6_000, 16_000);
    check(
        &recorded,
        &[(0, 2_000, L, &[400.0]), (2_000, 4_000, L, &[700.0]), (4_000, 6_000, L, &[1_000.0]), (0, 6_000, R, &[])],
    );
}

#[test]
fn srtp_keys_change_and_foreign_keys_are_never_heard() {
    let keys = |suite: SrtpSuite, seed: u64| {
        let mut rng = StdRng::seed_from_u64(seed);
        SrtpConfig { suite, keys: vec![SrtpKey::random(suite, &mut rng)], ours: SrtpKey::random(suite, &mut rng) }
    };
    let (first, second) = (keys(SrtpSuite::AesCm128HmacSha1_80, 1), keys(SrtpSuite::AeadAes256Gcm, 2));
    let foreign = keys(SrtpSuite::AesCm128HmacSha1_80, 3);
    let sealed = |packets: Vec<Datagram>, config: &SrtpConfig| -> Vec<Datagram> {
        let mut sender = SrtpSender::new(config.suite, &config.keys[0]);
        packets.into_iter().map(|packet| Datagram { bytes: sender.seal(&packet.bytes), ..packet }).collect()
    };
    let secured = |config: &SrtpConfig, index| StreamConfig { srtp: Some(config.clone()), ..stream(index, &[PCMU]) };
    let mut call = Call::new(vec![secured(&first, 0), secured(&first, 1)]);
    let (mut ann, mut bob) = (Sender::new(0, PCMU, 1), Sender::new(1, PCMU, 1));
    // Numbers that will not wrap: the counter stays at zero on both sides.
    (ann.sequence, bob.sequence) = (100, 200);
    call.add(sealed(say(&mut ann, 0, 3_000, 400.0), &first)).add(sealed(say(&mut ann, 3_000, 3_000, 600.0), &second));
    call.add(sealed(say(&mut bob, 0, 6_000, 700.0), &foreign));
    let after = (second.clone(), first.clone());
    call.at(2_950, move |pipeline, now| pipeline.update_streams(now, vec![secured(&after.0, 0), secured(&after.1, 1)]));
    let recorded = call.record(6_000, 8_000);
    check(&recorded, &[(0, 3_000, L, &[400.0]), (3_000, 6_000, L, &[600.0]), (0, 6_000, R, &[])]);
    let right = &recorded.stats.streams[1];
    assert_eq!((right.packets, right.undecryptable, right.source), (0, 300, None), "it moves nothing");
    assert_eq!(recorded.stats.streams[0].srtp, Some("AEAD_AES_256_GCM"));
}

#[test]
fn a_source_moves_with_another_clock() {
    let mut call = Call::new(vec![stream(0, &[PCMU]), stream(1, &[PCMU])]);
    let (mut before, mut after) = (Sender::new(0, PCMU, 1), Sender::new(0, PCMU, 50));
    after.source = address(99);
    call.add(say(&mut before, 0, 3_000, 400.0)).add(say(&mut after, 4_500, 3_500, 600.0)).add(say(
        &mut Sender::new(1, PCMU, 1),
        0,
        8_000,
        700.0,
    ));
    let recorded = call.record(8_000, 8_000);
    check(
        &recorded,
        &[(0, 3_000, L, &[400.0]), (3_200, 4_500, L, &[]), (4_500, 8_000, L, &[600.0]), (0, 8_000, R, &[700.0])],
    );
}
