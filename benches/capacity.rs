//! Calls a core for the whole path, beside a bare libopus loop in the same run.
//!
//! RTP over loopback into real sockets, through the capture worker, sealed into
//! a real spool; the sender is a process of its own, so its CPU time does not
//! count. Both sides encode the same conversation at the same settings behind
//! the same gate. Prints CPU seconds per call-hour and memory a call.
//!
//! `cargo bench --bench capacity -- [CALLS] [SECONDS]`
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::indexing_slicing, missing_docs)]

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ferric::speech;
use ferric_codecs::decode::CodecKind;
use ferric_codecs::opus::OpusSettings;
use ferric_codecs::party::PartyEncoder;
use ferric_codecs::resample::Resampler;
use ferric_codecs::{g711, opus_packet};
use ferric_media::keys::PrivateKey;
use ferric_media::metadata::SessionInfo;
use ferric_media::part::Part;
use ferric_media::rtp::StreamIndex;
use ferric_media::stats::Channel;
use ferric_media::stream::{PayloadKind, StreamConfig};
use ferric_worker::call::Assignment;
use ferric_worker::spool::Spool;
use ferric_worker::sync::GroupSync;
use ferric_worker::worker::{TenantKeys, Worker, WorkerConfig};

const FRAME: usize = 160;

/// Both parties as 8 kHz samples of whole frames.
fn conversation() -> [Vec<i16>; 2] {
    speech::conversation().map(|party| {
        let mut out = Vec::new();
        Resampler::new(speech::RATE, 8_000).process(&party, &mut out);
        out.truncate(out.len() / FRAME * FRAME);
        out
    })
}

fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The sender: RTP to every port that comes in on standard input, until it closes.
fn send(seconds: u64) {
    let parties = conversation().map(|party| {
        let mut coded = Vec::new();
        g711::encode_ulaw(&party, &mut coded);
        coded
    });
    let ports: Vec<u16> = std::io::stdin().lock().lines().map(|line| line.unwrap().parse().unwrap()).collect();
    let sockets: Vec<UdpSocket> = ports
        .iter()
        .map(|port| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(("127.0.0.1", *port)).unwrap();
            socket
        })
        .collect();
    let begun = Instant::now();
    let frames = parties[0].len() / FRAME;
    for n in 0..seconds * 50 {
        // The sockets are spread over the 20 ms, as real calls are.
        for (index, socket) in sockets.iter().enumerate() {
            if index % 16 == 0 {
                let due = begun + Duration::from_micros(n * 20_000 + index as u64 * 20_000 / sockets.len() as u64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            // Every call is at another place of the conversation.
            let at = (n as usize + index / 2 * 37) % frames * FRAME;
            let mut packet = vec![0x80, 0];
            packet.extend((n as u16).to_be_bytes());
            packet.extend((n as u32 * 160).to_be_bytes());
            packet.extend((index as u32 + 1).to_be_bytes());
            packet.extend(&parties[index % 2][at..at + FRAME]);
            let _ = socket.send(&packet);
        }
    }
}

/// CPU seconds a call-hour of libopus alone: gate and encoder, nothing else.
fn bare(seconds: usize) -> f64 {
    let parties = conversation();
    let mut encoders =
        [PartyEncoder::new(8_000, OpusSettings::default()), PartyEncoder::new(8_000, OpusSettings::default())];
    let frames = parties[0].len() / FRAME;
    let mut bytes = 0;
    let before = cpu_seconds();
    for n in 0..seconds * 50 {
        let at = n % frames * FRAME;
        for (encoder, party) in encoders.iter_mut().zip(&parties) {
            bytes += encoder.encode(&party[at..at + FRAME]).unwrap().len();
        }
    }
    let spent = cpu_seconds() - before;
    assert!(bytes > seconds * 50 && opus_packet::samples_48k(opus_packet::silence(20, 8_000)).is_ok());
    spent * 3_600.0 / seconds as f64
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if arguments.first().is_some_and(|first| first == "send") {
        return send(arguments[1].parse().unwrap());
    }
    let calls: usize = arguments.first().map_or(200, |text| text.parse().unwrap());
    let seconds: u64 = arguments.get(1).map_or(30, |text| text.parse().unwrap());

    let folder = std::env::temp_dir().join(format!("ferric-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let spool = Spool::open(&folder).unwrap();
    let _sync = GroupSync::start(spool.clone(), Duration::from_millis(700)).unwrap();
    let key = PrivateKey::generate(&mut rand::rng()).unwrap();
    let tenant = TenantKeys { recipients: vec![key.public().clone()], mask_dtmf: false };
    let config = WorkerConfig {
        node: "bench".into(),
        rtp_address: "127.0.0.1".parse().unwrap(),
        advertise: None,
        rtp_ports: (30_000, 39_400),
        max_calls: calls,
        opus: OpusSettings::default(),
        segment: Duration::from_secs(1),
        rtp_timeout: Duration::from_secs(60),
        shards: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        tenants: HashMap::from([("t".to_owned(), tenant)]),
    };
    let (worker, _events) = Worker::start(config, spool, |_, _| ()).unwrap();
    let memory_before = resident_kib();
    let program = std::env::current_exe().unwrap();
    let mut sender =
        Command::new(program).args(["send", &(seconds + 4).to_string()]).stdin(Stdio::piped()).spawn().unwrap();
    let mut ports = sender.stdin.take().unwrap();
    for number in 0..calls {
        let stream = |index: u16, channel| StreamConfig {
            index: StreamIndex(index),
            label: (index + 1).to_string(),
            channel,
            payloads: vec![(0, PayloadKind::Audio(CodecKind::Pcmu))],
            active: true,
            expected_source: None,
            srtp: None,
        };
        let assignment = Assignment {
            part: Part::first(uuid::Uuid::from_u128(number as u128 + 1)),
            lost: None,
            tenant: "t".into(),
            started: SystemTime::now(),
            session: SessionInfo::default(),
            streams: vec![stream(0, Channel::Left), stream(1, Channel::Right)],
            takes: Vec::new(),
            restore: Vec::new(),
            beside: None,
        };
        for address in worker.assign(assignment).unwrap() {
            writeln!(ports, "{}", address.address.port()).unwrap();
        }
    }
    drop(ports);
    // The beginning of the calls is not what is measured.
    std::thread::sleep(Duration::from_secs(3));
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let call_hours = calls as f64 * wall.elapsed().as_secs_f64() / 3_600.0;
    let whole = (cpu_seconds() - cpu) / call_hours;
    let memory = (resident_kib() - memory_before) / calls as f64;
    let lost: u64 = worker.calls().iter().flat_map(|call| &call.stats.streams).map(|stream| stream.lost).sum();
    let alone = bare(calls * seconds as usize);
    worker.shut_down();
    let _ = sender.wait();
    let _ = std::fs::remove_dir_all(&folder);

    println!("{calls} calls of two G.711 parties for {seconds} s; {lost} packets lost");
    println!("{:<28} {:>22} {:>14} {:>8}", "", "CPU s per call-hour", "calls a core", "");
    println!("{:<28} {alone:>22.2} {:>14.0}", "bare libopus, same gate", 3_600.0 / alone);
    println!(
        "{:<28} {whole:>22.2} {:>14.0} {:>7.0}%",
        "RTP in, sealed spool out",
        3_600.0 / whole,
        100.0 * alone / whole
    );
    println!("{:<28} {memory:>18.0} KiB", "memory a call");
}
