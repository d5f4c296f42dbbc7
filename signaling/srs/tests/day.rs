//! A day of traffic in simulated time: eight new calls a second, two thousand at once, lengths as people talk, and every kind
//! of fault in one call of a hundred. Every INVITE has one end, and nothing is left: no session, no timer, no port.
//!
//! `FERRIC_DAY_HOURS` changes the length, `FERRIC_DAY_SEED` the dice; both are printed.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs
)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_sip::dialog::SessionTimerConfig;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::TrustTable;
use ferric_sip::{Flow, Message, Method, Transport};
use ferric_srs::event::InviteId;
use ferric_srs::offer::MediaPolicy;
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId, RefuseReason, StreamSpec};
use ferric_srs::{Srs, SrsConfig, SrsEvent, SrsOutput, TakeoverConfig};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const CALLS_PER_SECOND: f64 = 8.0;
/// Lengths: lognormal with this median and sigma, the mean being some 250 s.
const MEDIAN_S: f64 = 180.0;
const SIGMA: f64 = 0.8;
const FAULT: f64 = 0.01;
const PORTS: usize = 16_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Invite,
    InviteAgain,
    Ack,
    Update,
    Hold,
    Resume,
    Cancel,
    Bye,
    ByeAgain,
    /// Capture answers its oldest question.
    Capture,
    MediaHeard,
    MediaSilent,
    CaptureDies,
}

/// What goes wrong with a call, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    InviteTwice,
    AckLost,
    AckLostAndSilent,
    Cancelled,
    /// The client dies: no BYE, no answer to anything.
    Vanishes,
    ByeTwice,
    BadMetadata,
    NoCodec,
    CaptureRefuses,
    CaptureSilent,
    CaptureDies,
    OneHalf,
}

const FAULTS: [Fault; 12] = [
    Fault::InviteTwice,
    Fault::AckLost,
    Fault::AckLostAndSilent,
    Fault::Cancelled,
    Fault::Vanishes,
    Fault::ByeTwice,
    Fault::BadMetadata,
    Fault::NoCodec,
    Fault::CaptureRefuses,
    Fault::CaptureSilent,
    Fault::CaptureDies,
    Fault::OneHalf,
];

struct Client {
    fault: Fault,
    timer: bool,
    to_tag: String,
    cseq: u32,
    ends_ms: u64,
    answered: bool,
}

struct World {
    rng: SmallRng,
    srs: Srs,
    start: Instant,
    now_ms: u64,
    due: BinaryHeap<Reverse<(u64, Step, u64)>>,
    calls: HashMap<u64, Client>,
    /// Questions to capture, with what it will say.
    questions: VecDeque<(RecordingId, Vec<StreamSpec>, bool, Option<u64>)>,
    ports: HashMap<RecordingId, Vec<(usize, u16)>>,
    free: Vec<u16>,
    /// INVITEs by what became of them: offered, refused, closed.
    books: HashMap<InviteId, [u32; 2]>,
    offered: u64,
    refused: u64,
    closed: u64,
    most_sessions: usize,
    refuse_next: bool,
    silent_next: bool,
    owner: HashMap<RecordingId, u64>,
}

fn sdp(call: u64, direction: &str, codec: u8) -> String {
    let port = 10_000 + call % 20_000 * 2;
    let line = |label: u32| {
        format!(
            "m=audio {port} RTP/AVP {codec} 101\r\na=rtpmap:101 telephone-event/8000\r\na={direction}\r\na=label:{label}\r\n"
        )
    };
    format!(
        "v=0\r\no=- {call} 1 IN IP4 198.51.100.20\r\ns=-\r\nc=IN IP4 198.51.100.20\r\nt=0 0\r\n{}{}",
        line(1),
        line(2)
    )
}

const METADATA: &str = "<recording xmlns='urn:ietf:params:xml:ns:recording:1'><datamode>complete</datamode><session session_id='s1'/>\
    <participant participant_id='p1'><nameID aor='sip:ann@example.com'/></participant><participant participant_id='p2'><nameID aor='sip:bob@example.com'/></participant>\
    <stream stream_id='t1' session_id='s1'><label>1</label></stream><stream stream_id='t2' session_id='s1'><label>2</label></stream>\
    <participantstreamassoc participant_id='p1'><send>t1</send></participantstreamassoc><participantstreamassoc participant_id='p2'><send>t2</send></participantstreamassoc></recording>";

impl World {
    fn new(seed: u64) -> World {
        let start = Instant::now() + Duration::from_secs(3_600);
        let config = SrsConfig {
            timers: Timers::default(),
            limits: TransactionLimits::default(),
            trust: TrustTable::new(vec![("198.51.100.0/24".parse().unwrap(), "acme".to_owned())]),
            media: MediaPolicy {
                storable: |format| ["pcmu", "pcma"].contains(&format.name.to_ascii_lowercase().as_str()).then_some(1),
                suites: &[],
                srtp_required: Vec::new(),
                sdes_without_tls: false,
            },
            session_timer: SessionTimerConfig::default(),
            max_call: Duration::from_secs(12 * 3_600),
            probe_interval: Duration::from_secs(7_200),
            max_sessions: 10_000,
            takeover: TakeoverConfig::default(),
            advertise: Vec::new(),
            contact: None,
            listeners: Vec::new(),
            seed,
            key_seed: [1; 32],
        };
        World {
            rng: SmallRng::seed_from_u64(seed),
            srs: Srs::new(config, start, SystemTime::UNIX_EPOCH),
            start,
            now_ms: 0,
            due: BinaryHeap::new(),
            calls: HashMap::new(),
            questions: VecDeque::new(),
            ports: HashMap::new(),
            free: (0..PORTS as u16).rev().collect(),
            books: HashMap::new(),
            offered: 0,
            refused: 0,
            closed: 0,
            most_sessions: 0,
            refuse_next: false,
            silent_next: false,
            owner: HashMap::new(),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    fn later(&mut self, ms: u64, step: Step, call: u64) {
        self.due.push(Reverse((self.now_ms + ms, step, call)));
    }

    fn flow(&self) -> Flow {
        let local: SocketAddr = "192.0.2.10:5060".parse().unwrap();
        Flow { transport: Transport::Udp, local, remote: "198.51.100.20:5060".parse().unwrap(), connection: 0 }
    }

    fn send(&mut self, call: u64, method: &str, cseq: u32, branch: &str, extra: &str, body: &str) {
        let client = &self.calls[&call];
        let tag = if client.to_tag.is_empty() || method == "CANCEL" {
            String::new()
        } else {
            format!(";tag={}", client.to_tag)
        };
        let half = if client.fault == Fault::OneHalf {
            format!(";x-nearend;x-refci={call};x-nearendaddr=2001")
        } else {
            String::new()
        };
        let timer = if client.timer && method == "INVITE" {
            "Supported: timer\r\nSession-Expires: 1800;refresher=uas\r\nAllow: INVITE, UPDATE\r\n"
        } else {
            ""
        };
        let kind = if body.starts_with("--") {
            "Content-Type: multipart/mixed;boundary=b\r\n"
        } else if body.starts_with('<') {
            "Content-Type: application/rs-metadata+xml\r\n"
        } else if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let text = format!(
            "{method} sip:srs@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bK{call}-{branch};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:src@198.51.100.20{half}>;tag=s{call}\r\nTo: <sip:srs@192.0.2.10>{tag}\r\nCall-ID: c{call}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:src@198.51.100.20>;+sip.src\r\n{timer}{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let message = Message::parse(Bytes::from(text)).unwrap();
        let (now, flow) = (self.now(), self.flow());
        self.srs.handle_message(now, message, flow);
        self.drain();
    }

    fn invite(&mut self, call: u64) {
        let client = &self.calls[&call];
        let codec = if client.fault == Fault::NoCodec { 4 } else { 0 };
        let metadata = if client.fault == Fault::BadMetadata { "<recording><par" } else { METADATA };
        let body = if client.fault == Fault::OneHalf {
            sdp(call, "sendonly", codec).split("m=audio").take(2).collect::<Vec<_>>().join("m=audio")
        } else {
            format!(
                "--b\r\nContent-Type: application/sdp\r\n\r\n{}\r\n--b\r\nContent-Type: application/rs-metadata+xml\r\n\r\n{metadata}\r\n--b--\r\n",
                sdp(call, "sendonly", codec)
            )
        };
        self.send(call, "INVITE", 1, "1", "", &body);
    }

    fn begin(&mut self, call: u64) {
        let roll: f64 = self.rng.random();
        let fault = FAULTS.get((roll / FAULT) as usize).copied().unwrap_or(Fault::None);
        // Lognormal by the sum of twelve.
        let normal: f64 = (0..12).map(|_| self.rng.random::<f64>()).sum::<f64>() - 6.0;
        let length_ms = (MEDIAN_S * (SIGMA * normal).exp() * 1_000.0) as u64;
        let timer = self.rng.random_bool(0.6);
        self.calls.insert(
            call,
            Client { fault, timer, to_tag: String::new(), cseq: 1, ends_ms: self.now_ms + length_ms, answered: false },
        );
        self.refuse_next = fault == Fault::CaptureRefuses;
        self.silent_next = fault == Fault::CaptureSilent;
        self.invite(call);
        match fault {
            Fault::InviteTwice => self.later(3, Step::InviteAgain, call),
            Fault::Cancelled => self.later(1, Step::Cancel, call),
            Fault::CaptureDies => self.later(length_ms / 2, Step::CaptureDies, call),
            Fault::AckLostAndSilent => {}
            _ => self.later(40, Step::MediaHeard, call),
        }
    }

    fn step(&mut self, step: Step, call: u64) {
        if step == Step::Capture {
            self.capture_answers();
            return;
        }
        let Some(client) = self.calls.get(&call) else { return };
        let (fault, established) = (client.fault, !client.to_tag.is_empty());
        let recording = || self.owner.iter().find(|(_, of)| **of == call).map(|(recording, _)| *recording);
        match step {
            Step::Invite => self.begin(call),
            Step::InviteAgain => self.invite(call),
            Step::Ack if established && !matches!(fault, Fault::AckLost | Fault::AckLostAndSilent) => {
                let cseq = self.calls[&call].cseq;
                self.send(call, "ACK", cseq, &format!("a{cseq}"), "", "");
            }
            Step::Update | Step::Hold | Step::Resume if established => {
                let client = self.calls.get_mut(&call).unwrap();
                client.cseq += 1;
                let cseq = client.cseq;
                match step {
                    Step::Update => self.send(call, "UPDATE", cseq, &cseq.to_string(), "", METADATA),
                    Step::Hold => self.send(call, "INVITE", cseq, &cseq.to_string(), "", &sdp(call, "inactive", 0)),
                    _ => self.send(call, "INVITE", cseq, &cseq.to_string(), "", &sdp(call, "sendonly", 0)),
                }
            }
            Step::Cancel => self.send(call, "CANCEL", 1, "1", "", ""),
            Step::Bye if established => {
                let client = self.calls.get_mut(&call).unwrap();
                client.cseq += 1;
                let cseq = client.cseq;
                self.send(call, "BYE", cseq, "bye", "", "");
                if fault == Fault::ByeTwice {
                    self.later(200, Step::ByeAgain, call);
                }
                // Long after everybody has forgotten it.
                self.calls.get_mut(&call).unwrap().ends_ms = 0;
            }
            Step::ByeAgain => {
                let cseq = self.calls[&call].cseq;
                self.send(call, "BYE", cseq, "bye", "", "");
            }
            Step::MediaHeard | Step::MediaSilent | Step::CaptureDies => {
                if let Some(recording) = recording() {
                    let event = match step {
                        Step::MediaHeard => CaptureEvent::MediaHeard { recording },
                        Step::MediaSilent => CaptureEvent::MediaSilent { recording },
                        _ => CaptureEvent::Died { recording },
                    };
                    let now = self.now();
                    self.srs.handle_capture(now, event);
                    self.drain();
                }
            }
            _ => {}
        }
    }

    fn capture_answers(&mut self) {
        let Some((recording, streams, refuse, _)) = self.questions.pop_front() else { return };
        let event = if refuse {
            CaptureEvent::Refused { recording, part: 1, reason: RefuseReason::Capacity }
        } else if let Some(ports) = self.ports.get(&recording) {
            let of =
                |stream: &StreamSpec| ports.iter().find(|(index, _)| *index == stream.index).map(|(_, port)| *port);
            let assigned = streams.iter().filter_map(|stream| {
                Some(AssignedStream { index: stream.index, address: ([192, 0, 2, 10], of(stream)?).into() })
            });
            CaptureEvent::Ready { recording, part: 1, streams: assigned.collect() }
        } else {
            return;
        };
        let now = self.now();
        self.srs.handle_capture(now, event);
        self.drain();
    }

    fn take_ports(&mut self, recording: RecordingId, streams: &[StreamSpec]) {
        let held = self.ports.entry(recording).or_default();
        let free = &mut self.free;
        held.retain(|(index, port)| {
            let stays = streams.iter().any(|stream| stream.index == *index);
            if !stays {
                free.push(*port);
            }
            stays
        });
        for stream in streams {
            if !held.iter().any(|(index, _)| *index == stream.index) {
                held.push((stream.index, free.pop().expect("a port is free")));
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.srs.poll_output() {
            match output {
                SrsOutput::Transmit { bytes, .. } => self.hear(&Message::parse(bytes).unwrap()),
                SrsOutput::Capture(Command::Assign { recording, streams, info, .. }) => {
                    let call: u64 = info.sip_call_id[1..].parse().unwrap();
                    let refuse = std::mem::take(&mut self.refuse_next);
                    if !refuse {
                        self.take_ports(recording, &streams);
                        self.owner.insert(recording, call);
                    }
                    if !std::mem::take(&mut self.silent_next) {
                        self.questions.push_back((recording, streams, refuse, Some(call)));
                        self.later(2, Step::Capture, 0);
                    }
                }
                SrsOutput::Capture(Command::Change { recording, streams, .. }) => {
                    self.take_ports(recording, &streams);
                    self.questions.push_back((recording, streams, false, None));
                    self.later(2, Step::Capture, 0);
                }
                SrsOutput::Capture(Command::Release { recording, .. }) => {
                    let ports = self.ports.remove(&recording).expect("released once, and only what was taken");
                    self.free.extend(ports.into_iter().map(|(_, port)| port));
                    self.owner.remove(&recording);
                }
                SrsOutput::Capture(Command::Info { .. } | Command::Park { .. }) => {}
                SrsOutput::Event(event) => self.note(&event),
            }
        }
    }

    fn note(&mut self, event: &SrsEvent) {
        let mut end = |invite: &InviteId, which: usize| {
            let books = self.books.get_mut(invite).expect("offered before");
            books[which] += 1;
            assert_eq!(books.iter().sum::<u32>(), 1, "one end each");
        };
        match event {
            SrsEvent::Offered { invite, .. } => {
                assert!(self.books.insert(*invite, [0, 0]).is_none());
                self.offered += 1;
            }
            SrsEvent::Refused { invite, .. } => {
                end(invite, 0);
                self.refused += 1;
            }
            SrsEvent::Closed { invite, .. } => {
                end(invite, 1);
                self.closed += 1;
            }
            _ => {}
        }
        // What has its end is forgotten here too, or the day would not fit into memory.
        if let SrsEvent::Refused { invite, .. } | SrsEvent::Closed { invite, .. } = event {
            self.books.insert(*invite, [1, 0]);
        }
    }

    /// The client takes what the server sends.
    fn hear(&mut self, message: &Message) {
        let call_id = message.call_id().unwrap().into_owned();
        let Ok(call) = call_id[1..].parse::<u64>() else { return };
        let Some(client) = self.calls.get_mut(&call) else { return };
        if message.is_request() {
            let gone = client.fault == Fault::Vanishes && self.now_ms > client.ends_ms;
            if message.method() != Method::Ack && !gone {
                let response = Message::response(message, 200, None);
                let response = Message::parse(response.to_bytes()).unwrap();
                let (now, flow) = (self.now(), self.flow());
                self.srs.handle_message(now, response, flow);
            }
            return;
        }
        if message.method() == Method::Invite && message.status() == Some(200) {
            client.to_tag = message.to().unwrap().tag().unwrap().to_owned();
            let first = !std::mem::replace(&mut client.answered, true);
            let (fault, ends_ms) = (client.fault, client.ends_ms);
            self.later(5, Step::Ack, call);
            if first {
                let rest = ends_ms.saturating_sub(self.now_ms).max(50);
                match fault {
                    Fault::Vanishes => self.later(rest + 60_000, Step::MediaSilent, call),
                    _ => self.later(rest, Step::Bye, call),
                }
                if call.is_multiple_of(4) {
                    self.later(rest / 3, Step::Update, call);
                }
                if call.is_multiple_of(7) && rest > 20_000 {
                    self.later(rest / 3 + 50, Step::Hold, call);
                    self.later(rest / 2 + 50, Step::Resume, call);
                }
            }
        } else if message.method() == Method::Invite && message.status().is_some_and(|status| status >= 300) {
            let cseq = message.cseq().unwrap().number;
            let branch = if cseq == 1 { "1".to_owned() } else { cseq.to_string() };
            let tag = message.to().unwrap().tag().unwrap_or("").to_owned();
            let before = std::mem::replace(&mut client.to_tag, tag);
            self.send(call, "ACK", cseq, &branch, "", "");
            if let Some(client) = self.calls.get_mut(&call) {
                client.to_tag = before;
            }
        }
    }

    fn run_until(&mut self, end_ms: u64) {
        loop {
            let timer = self
                .srs
                .poll_timeout()
                .map(|at| at.saturating_duration_since(self.start).as_micros().div_ceil(1_000) as u64);
            let step = self.due.peek().map(|Reverse((at, ..))| *at);
            let next = timer.into_iter().chain(step).min();
            let Some(next) = next.filter(|next| *next <= end_ms) else { break };
            self.now_ms = self.now_ms.max(next);
            if timer.is_some_and(|timer| timer <= self.now_ms) {
                let now = self.now();
                self.srs.handle_timeout(now);
                self.drain();
            }
            while let Some(Reverse((at, step, call))) =
                self.due.peek().copied().filter(|Reverse((at, ..))| *at <= self.now_ms)
            {
                let _ = at;
                self.due.pop();
                self.step(step, call);
            }
            self.most_sessions = self.most_sessions.max(self.srs.sessions());
        }
        self.now_ms = self.now_ms.max(end_ms);
    }

    /// Calls that are over, and what the books say of ended INVITEs, are forgotten.
    fn forget(&mut self) {
        let old = self.now_ms.saturating_sub(4 * 3_600_000);
        self.calls.retain(|_, client| client.ends_ms != 0 && client.ends_ms > old);
        self.books.retain(|_, ends| *ends == [0, 0]);
    }
}

fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn every_call_of_a_day_is_accounted_for() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (hours, seed) = (number("FERRIC_DAY_HOURS", 24), number("FERRIC_DAY_SEED", 7));
    println!("{hours} hours, seed {seed}");
    let mut world = World::new(seed);
    let mut at = 0.0;
    let (mut call, mut early_kib) = (0_u64, 0);
    for minute in 1..=hours * 60 {
        // Exponential gaps: calls do not keep step.
        while at < minute as f64 * 60_000.0 {
            call += 1;
            world.due.push(Reverse((at as u64, Step::Invite, call)));
            world.calls.insert(
                call,
                Client {
                    fault: Fault::None,
                    timer: false,
                    to_tag: String::new(),
                    cseq: 1,
                    ends_ms: u64::MAX,
                    answered: false,
                },
            );
            at += -(1.0 - world.rng.random::<f64>()).ln() / CALLS_PER_SECOND * 1_000.0;
        }
        world.run_until(minute * 60_000);
        if minute % 10 == 0 {
            world.forget();
        }
        if minute == 60 {
            early_kib = resident_kib();
        }
    }
    let late_kib = resident_kib();
    println!(
        "{call} calls, {} at once, {} refused, {early_kib} KiB after an hour, {late_kib} KiB at the end",
        world.most_sessions, world.refused
    );
    assert!(world.most_sessions > 1_500 || hours < 1, "the day is what it should be");
    // Nobody calls any more: all that is left ends by itself.
    world.run_until((hours + 16) * 3_600_000);
    assert_eq!((world.srs.sessions(), world.srs.recordings(), world.srs.transactions()), (0, 0, 0));
    assert_eq!(world.srs.poll_timeout(), None, "no timer is left");
    assert_eq!((world.ports.len(), world.free.len()), (0, PORTS), "every port is back");
    assert!(world.offered >= call, "an INVITE that comes twice in two transactions would be counted");
    assert_eq!(world.offered, world.refused + world.closed);
    assert!(world.books.values().all(|ends| ends.iter().sum::<u32>() == 1));
    assert!(hours < 3 || late_kib < early_kib + early_kib / 2 + 50_000, "memory grows: {early_kib} to {late_kib} KiB");
}
