//! A day of traffic in simulated time: eight new calls a second, two thousand at once, lengths as people talk, and every kind
//! of fault in one call of a hundred. Every INVITE has one end, and nothing is left: no session, no timer, no port.
//!
//! Four workers record; each hour one is lost and comes back a little later, and at times all are. The media of every call
//! move, or the reason why not is known.
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
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_sip::dialog::SessionTimerConfig;
use ferric_sip::sdp::{Media, Sdp};
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::TrustTable;
use ferric_sip::{Flow, Message, Method, Transport};
use ferric_srs::event::InviteId;
use ferric_srs::offer::MediaPolicy;
use ferric_srs::port::{
    AssignedStream, CaptureEvent, Command, Part, RecordingId, RefuseReason, ReleaseCause, StreamSpec,
};
use ferric_srs::{Srs, SrsConfig, SrsEvent, SrsOutput, TakeoverConfig};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const CALLS_PER_SECOND: f64 = 8.0;
/// Lengths: lognormal with this median and sigma, the mean being some 250 s.
const MEDIAN_S: f64 = 180.0;
const SIGMA: f64 = 0.8;
const FAULT: f64 = 0.01;
const PORTS: usize = 16_000;
const WORKERS: u64 = 4;
/// After a loss, the media of a call may go wrong for so long.
const MOVE_MS: u64 = 10_000;

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
    /// A worker is gone, with all that it had.
    Kill,
    /// It is back, with nothing.
    Back,
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
    /// The client takes no offer of the server's.
    Stays,
}

const FAULTS: [Fault; 13] = [
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
    Fault::Stays,
];

struct Client {
    fault: Fault,
    timer: bool,
    to_tag: String,
    cseq: u32,
    ends_ms: u64,
    answered: bool,
    /// Where its first stream goes.
    sends_to: Option<SocketAddr>,
}

impl Client {
    fn new() -> Client {
        Client {
            fault: Fault::None,
            timer: false,
            to_tag: String::new(),
            cseq: 1,
            ends_ms: 0,
            answered: false,
            sends_to: None,
        }
    }
}

/// A part of a recording at a worker.
struct Placed {
    worker: u64,
    part: u32,
    streams: Vec<AssignedStream>,
}

/// A question to capture, and the answer that it will get: `Err` is a refusal.
struct Question {
    recording: RecordingId,
    part: u32,
    answer: Result<(), RefuseReason>,
}

struct World {
    rng: SmallRng,
    srs: Srs,
    start: Instant,
    now_ms: u64,
    due: BinaryHeap<Reverse<(u64, Step, u64)>>,
    calls: HashMap<u64, Client>,
    /// Questions to capture, with what it will say.
    questions: VecDeque<Question>,
    /// What runs, and where.
    placed: HashMap<RecordingId, Placed>,
    /// Recordings that no worker took; nobody may have said so yet.
    unplaced: HashSet<RecordingId>,
    /// Recordings that were lost: where they were, and when.
    homes: HashMap<RecordingId, (u64, u64)>,
    up: [bool; WORKERS as usize],
    moved: u64,
    stayed: u64,
    orphaned: u64,
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

fn socket(message: &Message) -> Option<SocketAddr> {
    Sdp::parse(message.body()).ok()?.media.iter().find_map(Media::rtp_address)
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
            placed: HashMap::new(),
            unplaced: HashSet::new(),
            homes: HashMap::new(),
            up: [true; WORKERS as usize],
            moved: 0,
            stayed: 0,
            orphaned: 0,
            ports: HashMap::new(),
            free: (1_000..1_000 + PORTS as u16).rev().collect(),
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
        self.calls.insert(call, Client { fault, timer, ends_ms: self.now_ms + length_ms, ..Client::new() });
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
        if matches!(step, Step::Kill | Step::Back) {
            self.turn(call, step == Step::Back);
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
        let Some(Question { recording, part, answer }) = self.questions.pop_front() else { return };
        let event = match answer {
            Err(reason) => CaptureEvent::Refused { recording, part, reason },
            Ok(()) => match self.placed.get(&recording).filter(|placed| placed.part == part) {
                Some(placed) => CaptureEvent::Ready { recording, part, streams: placed.streams.clone() },
                None => return,
            },
        };
        let now = self.now();
        self.srs.handle_capture(now, event);
        self.drain();
    }

    /// A worker goes or comes back.
    fn turn(&mut self, worker: u64, up: bool) {
        self.up[worker as usize] = up;
        let mut events: Vec<(RecordingId, CaptureEvent)> = if up {
            let back = self.homes.iter().filter(|(id, (home, _))| *home == worker && !self.placed.contains_key(*id));
            back.map(|(id, _)| (*id, CaptureEvent::Returned { recording: *id })).collect()
        } else {
            let had = self.placed.iter().filter(|(_, placed)| placed.worker == worker);
            had.map(|(id, placed)| (*id, CaptureEvent::Lost { recording: *id, part: placed.part })).collect()
        };
        events.sort_by_key(|(id, _)| *id);
        for (id, event) in events {
            if !up {
                self.free_ports(id);
                self.placed.remove(&id);
                self.homes.insert(id, (worker, self.now_ms));
            }
            let now = self.now();
            self.srs.handle_capture(now, event);
            self.drain();
        }
    }

    fn free_ports(&mut self, recording: RecordingId) {
        let ports = self.ports.remove(&recording).expect("freed once, and only what was taken");
        self.free.extend(ports.into_iter().map(|(_, port)| port));
    }

    /// A worker for a part: the one that had the sockets, or any that is there.
    fn choose(&mut self, part: &Part) -> Option<u64> {
        let of =
            |stream: &AssignedStream| stream.address.to_string().split('.').nth(3)?.split(':').next()?.parse().ok();
        if let Some(home) = part.restore.first().and_then(of) {
            let _: u64 = home;
            return Some(home - 10).filter(|worker| self.up[*worker as usize]);
        }
        let there: Vec<u64> = (0..WORKERS).filter(|worker| self.up[*worker as usize]).collect();
        (!there.is_empty()).then(|| there[self.rng.random_range(0..there.len())])
    }

    /// The sockets of a part: its own ports, or those that it had before.
    fn place(&mut self, recording: RecordingId, worker: u64, part: &Part, streams: &[StreamSpec]) {
        self.take_ports(recording, streams);
        let host = [192, 0, 2, 10 + worker as u8];
        let had = self.placed.get(&recording).map(|placed| placed.streams.clone()).unwrap_or_default();
        let socket = |(index, port): &(usize, u16)| {
            let known = part.restore.iter().chain(&had).find(|stream| stream.index == *index);
            known.copied().unwrap_or(AssignedStream { index: *index, address: (host, *port).into() })
        };
        let streams = self.ports[&recording].iter().map(socket).collect();
        self.placed.insert(recording, Placed { worker, part: part.number, streams });
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
                SrsOutput::Capture(Command::Assign { recording, part, streams, info, .. }) => {
                    let call: u64 = info.sip_call_id[1..].parse().unwrap();
                    let refuse = std::mem::take(&mut self.refuse_next);
                    let answer = match self.choose(&part).filter(|_| !refuse) {
                        Some(worker) => {
                            assert!(!self.placed.contains_key(&recording), "assigned twice");
                            self.place(recording, worker, &part, &streams);
                            self.owner.insert(recording, call);
                            Ok(())
                        }
                        None => {
                            self.unplaced.insert(recording);
                            Err(RefuseReason::NoWorker)
                        }
                    };
                    if !std::mem::take(&mut self.silent_next) {
                        self.questions.push_back(Question { recording, part: part.number, answer });
                        self.later(2, Step::Capture, 0);
                    }
                }
                SrsOutput::Capture(Command::Change { recording, streams, .. }) => {
                    let Placed { worker, part, .. } = self.placed[&recording];
                    let part = Part { number: part, ..Part::first(recording) };
                    self.place(recording, worker, &part, &streams);
                    self.questions.push_back(Question { recording, part: part.number, answer: Ok(()) });
                    self.later(2, Step::Capture, 0);
                }
                SrsOutput::Capture(Command::Release { recording, cause }) => {
                    self.is_heard(recording, cause);
                    let was_placed = self.placed.remove(&recording).is_some();
                    let was_lost = self.homes.contains_key(&recording);
                    let was_asked = self.unplaced.remove(&recording);
                    assert!(
                        was_placed || was_asked || (was_lost && !cause.is_of_part()),
                        "released once, and only what was taken"
                    );
                    if was_placed {
                        self.free_ports(recording);
                    }
                    if !cause.is_of_part() {
                        self.owner.remove(&recording);
                        self.homes.remove(&recording);
                    } else if let Some((home, _)) =
                        self.homes.get(&recording).filter(|(home, _)| self.up[*home as usize])
                    {
                        self.later(1, Step::Back, *home);
                    }
                }
                SrsOutput::Capture(Command::Info { .. } | Command::Park { .. }) => {}
                SrsOutput::Event(event) => self.note(&event),
            }
        }
    }

    /// When a call ends as it should, its media went where they are recorded.
    fn is_heard(&self, recording: RecordingId, cause: ReleaseCause) {
        let client = self.owner.get(&recording).and_then(|call| self.calls.get(call));
        let Some(client) = client.filter(|client| cause == ReleaseCause::Bye && client.fault != Fault::Stays) else {
            return;
        };
        let lost_ms = self.homes.get(&recording).map_or(0, |(_, at)| *at);
        let outage = self.up.contains(&false) || self.now_ms < lost_ms + MOVE_MS;
        let sockets = self.placed.get(&recording).map(|placed| placed.streams.as_slice()).unwrap_or_default();
        let hears = sockets.iter().any(|stream| Some(stream.address) == client.sends_to);
        assert!(hears || (outage && lost_ms > 0), "{recording}: {:?}, not {sockets:?}", client.sends_to);
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
            SrsEvent::Moved { .. } => self.moved += 1,
            SrsEvent::MoveRefused { .. } => self.stayed += 1,
            SrsEvent::Ended { cause: ReleaseCause::Orphaned, .. } => self.orphaned += 1,
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
                let offers = !message.body().is_empty();
                let stays = offers && client.fault == Fault::Stays;
                let mut response = Message::response(message, if stays { 488 } else { 200 }, None);
                if offers && !stays {
                    client.sends_to = socket(message);
                    response.set_body("application/sdp", Bytes::from(sdp(call, "sendonly", 0)));
                }
                let response = Message::parse(response.to_bytes()).unwrap();
                let (now, flow) = (self.now(), self.flow());
                self.srs.handle_message(now, response, flow);
            }
            return;
        }
        if message.method() == Method::Invite && message.status() == Some(200) {
            client.to_tag = message.to().unwrap().tag().unwrap().to_owned();
            client.sends_to = socket(message);
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
            world.calls.insert(call, Client { ends_ms: u64::MAX, ..Client::new() });
            at += -(1.0 - world.rng.random::<f64>()).ln() / CALLS_PER_SECOND * 1_000.0;
        }
        match minute % 60 {
            // One each hour, and all of them at noon: for a while, and so long that calls are given up.
            _ if minute == 12 * 60 + 10 || minute == 12 * 60 + 40 => {
                for worker in 0..WORKERS {
                    world.later(worker, Step::Kill, worker);
                    world.later(if minute % 60 == 10 { 20_000 } else { 90_000 }, Step::Back, worker);
                }
            }
            30 => {
                let worker = minute / 60 % WORKERS;
                world.later(500, Step::Kill, worker);
                world.later(20_000, Step::Back, worker);
            }
            _ => {}
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
    println!("{} moved, {} refused to, {} given up", world.moved, world.stayed, world.orphaned);
    assert!(hours < 24 || (world.moved > 8_000 && world.stayed > 50 && world.orphaned > 1_000));
    assert!(world.most_sessions > 1_500 || hours < 1, "the day is what it should be");
    // Nobody calls any more: all that is left ends by itself.
    world.run_until((hours + 16) * 3_600_000);
    assert_eq!((world.srs.sessions(), world.srs.recordings(), world.srs.transactions()), (0, 0, 0));
    assert_eq!(world.srs.poll_timeout(), None, "no timer is left");
    assert_eq!((world.placed.len(), world.homes.len()), (0, 0));
    assert_eq!((world.ports.len(), world.free.len()), (0, PORTS), "every port is back");
    assert!(world.offered >= call, "an INVITE that comes twice in two transactions would be counted");
    assert_eq!(world.offered, world.refused + world.closed);
    assert!(world.books.values().all(|ends| ends.iter().sum::<u32>() == 1));
    assert!(hours < 3 || late_kib < early_kib + early_kib / 2 + 50_000, "memory grows: {early_kib} to {late_kib} KiB");
}
