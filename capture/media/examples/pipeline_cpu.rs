//! What recording costs beside bare encoding of the same audio: CPU seconds per
//! call-hour, and memory per call.
//!
//! `cargo run --release -p ferric-media --example pipeline_cpu [CALLS] [SECONDS]`
//!
//! Both sides see the same two-party conversation in G.711 mu-law and the same
//! encoder settings and silence gate. "Pipeline" is datagrams to encoded
//! frames, "masking keys" the same with the search for key tones, "recorder" adds Ogg, sealing, metadata and RTCP. The calls run side
//! by side and are visited every 60 ms, so caches are as cold as in a worker.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use ferric_codecs::decode::CodecKind;
use ferric_codecs::g711;
use ferric_codecs::opus::OpusSettings;
use ferric_codecs::party::PartyEncoder;
use ferric_codecs::testing::syllables;
use ferric_media::keys::PrivateKey;
use ferric_media::pipeline::{MediaPipeline, PipelineConfig};
use ferric_media::recorder::{Output, Recorder, RecorderConfig};
use ferric_media::rtp::{RtpPacket, Ssrc, StreamIndex};
use ferric_media::stats::Channel;
use ferric_media::stream::{PayloadKind, StreamConfig};
use rand::SeedableRng;
use rand::rngs::StdRng;
use uuid::Uuid;

const VISIT_MS: usize = 60;

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// Resident memory of this process in KiB.
fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// Two people who take turns of two to four seconds.
fn conversation(seconds: usize) -> [Vec<i16>; 2] {
    let mut voices = [syllables(8_000, seconds * 8_000, 1), syllables(8_000, seconds * 8_000, 2)];
    let (mut at, mut speaker, mut turn) = (0, 0, 2);
    while at < seconds {
        let end = (at + turn).min(seconds);
        voices[1 - speaker][at * 8_000..end * 8_000].fill(0);
        (at, speaker, turn) = (end, 1 - speaker, 2 + (turn + 1) % 3);
    }
    voices
}

fn streams() -> Vec<StreamConfig> {
    [(0, Channel::Left), (1, Channel::Right)]
        .map(|(index, channel)| StreamConfig {
            index: StreamIndex(index),
            label: index.to_string(),
            channel,
            payloads: vec![(0, PayloadKind::Audio(CodecKind::Pcmu))],
            active: true,
            expected_source: None,
            srtp: None,
        })
        .to_vec()
}

/// The datagrams of both streams, in order: arrival in ms, stream, bytes.
fn datagrams(voices: &[Vec<i16>; 2]) -> Vec<(usize, u16, Vec<u8>)> {
    let mut out = Vec::new();
    for n in 0..voices[0].len() / 160 {
        for stream in 0..2_u16 {
            let mut payload = Vec::new();
            g711::encode_ulaw(&voices[usize::from(stream)][n * 160..(n + 1) * 160], &mut payload);
            let packet = RtpPacket {
                marker: false,
                payload_type: 0,
                sequence: n as u16,
                timestamp: n as u32 * 160,
                ssrc: Ssrc(u32::from(stream) + 1),
                payload: &payload,
            };
            let mut bytes = Vec::new();
            packet.write(&mut bytes);
            out.push((n * 20, stream, bytes));
        }
    }
    out
}

fn bare(voices: &[Vec<i16>; 2], calls: usize) -> Duration {
    let mut encoders: Vec<_> =
        (0..calls).map(|_| [(); 2].map(|()| PartyEncoder::new(8_000, OpusSettings::default()))).collect();
    let before = cpu();
    let frames = VISIT_MS / 20 * 160;
    let mut bytes = 0;
    for at in (0..voices[0].len()).step_by(frames) {
        for call in &mut encoders {
            for (encoder, voice) in call.iter_mut().zip(voices) {
                for frame in voice[at..(at + frames).min(voice.len())].chunks_exact(160) {
                    bytes += encoder.encode(frame).unwrap().len();
                }
            }
        }
    }
    assert!(bytes > 0);
    cpu() - before
}

/// Visits every call every 60 ms with the packets since.
fn visit(
    packets: &[(usize, u16, Vec<u8>)],
    calls: usize,
    seconds: usize,
    mut each: impl FnMut(usize, usize, &[(usize, u16, Vec<u8>)]),
) {
    let mut from = 0;
    for now_ms in (VISIT_MS..=seconds * 1_000).step_by(VISIT_MS) {
        let to = from + packets[from..].iter().take_while(|(at, ..)| *at < now_ms).count();
        for call in 0..calls {
            each(call, now_ms, &packets[from..to]);
        }
        from = to;
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().unwrap());
    let calls = arguments.next().unwrap_or(100);
    let seconds = arguments.next().unwrap_or(60);
    let voices = conversation(seconds);
    let packets = datagrams(&voices);
    let start = Instant::now();
    let source = [SocketAddr::from(([10, 0, 0, 1], 4_000)), SocketAddr::from(([10, 0, 0, 2], 4_000))];
    let at = |ms: usize| start + Duration::from_millis(ms as u64);
    let per_hour = |spent: Duration| spent.as_secs_f64() * 3_600.0 / (calls * seconds) as f64;

    // First of all, while memory is fresh.
    let key = PrivateKey::generate(&mut StdRng::seed_from_u64(1)).unwrap();
    let resident = resident_kib();
    let before = cpu();
    let mut recorders: Vec<_> = (0..calls)
        .map(|call| {
            let config = RecorderConfig::new(
                Uuid::from_u128(call as u128),
                "bench",
                "bench",
                vec![key.public().clone()],
                [call as u8; 32],
            );
            Recorder::new(start, SystemTime::UNIX_EPOCH, config, streams()).unwrap()
        })
        .collect();
    let mut file_bytes = 0;
    visit(&packets, calls, seconds, |call, now_ms, packets| {
        let recorder = &mut recorders[call];
        for (ms, stream, packet) in packets {
            recorder.handle_rtp(at(*ms), StreamIndex(*stream), source[usize::from(*stream)], packet);
        }
        recorder.advance(at(now_ms));
        while let Some(output) = recorder.poll_output() {
            if let Output::Audio(bytes) = output {
                file_bytes += bytes.len();
            }
        }
    });
    let recorder_spent = cpu() - before;
    let grown = resident_kib().saturating_sub(resident);
    drop(recorders);

    let bare_spent = bare(&voices, calls);

    let piped = |config: PipelineConfig| {
        let mut pipelines: Vec<_> = (0..calls).map(|_| MediaPipeline::new(start, config, streams())).collect();
        let before = cpu();
        let mut bytes = 0;
        visit(&packets, calls, seconds, |call, now_ms, packets| {
            let pipeline = &mut pipelines[call];
            for (ms, stream, packet) in packets {
                pipeline.handle_rtp(at(*ms), StreamIndex(*stream), source[usize::from(*stream)], packet, &mut |_| {});
            }
            pipeline.advance(at(now_ms), &mut |frame| bytes += frame.packets[0].len() + frame.packets[1].len());
        });
        assert!(bytes > 0);
        cpu() - before
    };
    let pipeline_spent = piped(PipelineConfig::default());
    let masking_spent = piped(PipelineConfig {
        mask_dtmf: true,
        jitter_delay: Duration::from_millis(200),
        ..PipelineConfig::default()
    });

    println!("{calls} calls of {seconds} s, two parties, PCMU, 20 kbit/s, complexity 1");
    println!("                 CPU s per call-hour   of bare libopus   calls a core");
    for (name, spent) in [
        ("bare libopus", bare_spent),
        ("pipeline", pipeline_spent),
        ("  masking keys", masking_spent),
        ("recorder", recorder_spent),
    ] {
        let hour = per_hour(spent);
        println!(
            "{name:<16} {hour:>19.3} {:>16.1}% {:>14.0}",
            100.0 * bare_spent.as_secs_f64() / spent.as_secs_f64(),
            3_600.0 / hour
        );
    }
    println!("sealed audio     {:>19.1} kbit/s a call", file_bytes as f64 * 8.0 / 1_000.0 / (calls * seconds) as f64);
    println!("memory           {:>19} KiB a call (grown resident set)", grown / calls as u64);
}
