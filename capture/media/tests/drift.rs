//! Two hours, the parties' clocks 50 ppm apart and both off ours: channels stay together, and nothing clicks.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod common;

use std::time::{Duration, Instant};

use common::{PCMU, address, stream};
use ferric_codecs::g711;
use ferric_codecs::opus::OpusDecoder;
use ferric_media::pipeline::{MediaPipeline, PipelineConfig};
use ferric_media::rtp::{RtpPacket, Ssrc, StreamIndex};
use ferric_media::stats::LAST_SCORES;

const RATE: usize = 8_000;
const HOURS: u64 = 2;
const PPM: [f64; 2] = [30.0, -20.0];
const HUM: f64 = 180.0;
const HUM_LEVEL: f64 = 3_000.0;

/// What both parties hear at a true moment of the call: a hum, and 30 ms of a higher tone each minute.
fn sound(seconds: f64) -> f64 {
    let wave = |hz: f64| (2.0 * std::f64::consts::PI * hz * seconds).sin();
    let mark = (seconds % 60.0) < 0.030 && seconds > 1.0;
    HUM_LEVEL * wave(HUM) + if mark { 9_000.0 * wave(1_000.0) } else { 0.0 }
}

/// One channel as it is heard, a second at a time.
struct Ear {
    decoder: OpusDecoder,
    heard: Vec<i16>,
    /// Position of `heard[0]`.
    at: usize,
    last: i16,
    largest_step: u16,
    /// Where each mark was heard, in ms of the call.
    marks: Vec<f64>,
}

impl Ear {
    fn new() -> Ear {
        Ear {
            decoder: OpusDecoder::new(RATE as u32).unwrap(),
            heard: Vec::new(),
            at: 0,
            last: 0,
            largest_step: 0,
            marks: Vec::new(),
        }
    }

    fn hear(&mut self, packet: &[u8]) {
        self.decoder.decode(packet, &mut self.heard).unwrap();
        while self.heard.len() >= 2 * RATE {
            self.look();
            self.heard.drain(..RATE);
            self.at += RATE;
        }
    }

    /// Looks at the second in the middle of what is heard.
    fn look(&mut self) {
        // Half a second around each mark is the mark's.
        for (n, sample) in self.heard[..RATE].iter().enumerate() {
            let phase = (self.at + n) as f64 / RATE as f64 % 60.0;
            if self.at + n > RATE && (0.5..59.5).contains(&phase) {
                self.largest_step = self.largest_step.max(sample.abs_diff(self.last));
            }
            self.last = *sample;
        }
        let minute = (self.at + RATE) % (60 * RATE) == 0;
        if minute && self.at > RATE {
            // The mark begins at the end of this second, give or take: find where 1 kHz sets in.
            let window = RATE / 100;
            let energy = |from: usize| {
                let step = 2.0 * std::f64::consts::PI * 1_000.0 / RATE as f64;
                let (mut re, mut im) = (0.0, 0.0);
                for (n, sample) in self.heard[from..from + window].iter().enumerate() {
                    re += f64::from(*sample) * (step * n as f64).cos();
                    im += f64::from(*sample) * (step * n as f64).sin();
                }
                re * re + im * im
            };
            let from = RATE - RATE / 5;
            let energies: Vec<f64> = (0..RATE * 2 / 5).step_by(8).map(|offset| energy(from + offset)).collect();
            let half = energies.iter().copied().fold(0.0, f64::max) / 2.0;
            let first = energies.iter().position(|energy| *energy > half).unwrap();
            self.marks.push((self.at + from + first * 8 + window / 2) as f64 * 1_000.0 / RATE as f64);
        }
    }
}

#[test]
fn two_hours_with_three_clocks() {
    let start = Instant::now() + Duration::from_secs(3_600);
    let mut pipeline =
        MediaPipeline::new(start, PipelineConfig::default(), vec![stream(0, &[PCMU]), stream(1, &[PCMU])]);
    let mut ears = [Ear::new(), Ear::new()];
    let mut sent = [0_u64; 2];
    let mut payload = Vec::new();
    let mut bytes = Vec::new();
    let mut frames = 0_u64;
    for visit in 1..=HOURS * 36_000 {
        let now_us = visit * 100_000;
        // Packets of both, up to now, each by its own clock.
        for (party, ppm) in PPM.iter().enumerate() {
            loop {
                let true_seconds = sent[party] as f64 * 0.020 / (1.0 + ppm / 1e6);
                let arrival_us = (true_seconds * 1e6) as u64 + 20_000;
                if arrival_us > now_us {
                    break;
                }
                let samples: Vec<i16> = (0..160)
                    .map(|n| sound((sent[party] * 160 + n) as f64 / RATE as f64 / (1.0 + ppm / 1e6)) as i16)
                    .collect();
                payload.clear();
                g711::encode_ulaw(&samples, &mut payload);
                let packet = RtpPacket {
                    marker: sent[party] == 0,
                    payload_type: PCMU,
                    sequence: (sent[party] & 0xffff) as u16,
                    timestamp: (sent[party] * 160) as u32,
                    ssrc: Ssrc(party as u32 + 1),
                    payload: &payload,
                };
                bytes.clear();
                packet.write(&mut bytes);
                let at = start + Duration::from_micros(arrival_us);
                pipeline.handle_rtp(at, StreamIndex(party as u16), address(party as u8 + 1), &bytes, &mut |_| ());
                sent[party] += 1;
            }
        }
        pipeline.advance(start + Duration::from_micros(now_us), &mut |frame| {
            frames += 1;
            ears.iter_mut().zip(frame.packets).for_each(|(ear, packet)| ear.hear(packet));
        });
    }
    assert!(frames >= HOURS * 180_000 - 20);
    let [left, right] = &ears;
    assert_eq!(left.marks.len(), (HOURS * 60 - 1) as usize);
    let mut worst: f64 = 0.0;
    for (n, (a, b)) in left.marks.iter().zip(&right.marks).enumerate() {
        worst = worst.max((a - b).abs());
        let minute = (n + 1) as f64 * 60_000.0;
        assert!((a - minute).abs() < 80.0, "minute {}: heard at {a} ms", n + 1);
    }
    // The hum's own steepest step, what G.711 and the encoder add, and nothing like a lost or doubled sample.
    let steepest = HUM_LEVEL * 2.0 * std::f64::consts::PI * HUM / RATE as f64;
    println!(
        "channels apart at most {worst:.1} ms; largest steps {} and {}, of the source {steepest:.0}",
        left.largest_step, right.largest_step
    );
    assert!(worst < 20.0, "channels {worst:.1} ms apart");
    for ear in &ears {
        assert!(f64::from(ear.largest_step) < 2.0 * steepest + 150.0, "a click of {}", ear.largest_step);
    }
    let stats = pipeline.stats();
    assert!(stats.streams.iter().all(|stream| stream.lost + stream.late == 0 && stream.gaps.is_empty()));
    assert_eq!(stats.streams[0].mos_over_time.len(), LAST_SCORES);
    assert_eq!(pipeline.scores().iter().map(Vec::len).collect::<Vec<_>>(), [(HOURS * 360 - 1) as usize; 2]);
}
