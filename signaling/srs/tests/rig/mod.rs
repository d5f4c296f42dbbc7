//! One server, fed by hand: messages in, what it sends and asks of capture out,
//! and a trace of it all for snapshots.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod moves;

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_simnet::{Clock, sip_label};
use ferric_sip::dialog::SessionTimerConfig;
use ferric_sip::flow::Destination;
use ferric_sip::sdp::Format;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::TrustTable;
use ferric_sip::{Flow, Message, Transport};
use ferric_srs::offer::MediaPolicy;
use ferric_srs::port::{
    AssignedStream, CaptureEvent, Command, Part, RecordingId, RefuseReason, ReleaseCause, StreamSpec,
};
use ferric_srs::{Srs, SrsConfig, SrsEvent, SrsOutput, TakeoverConfig};

pub const SDP: &str = "v=0\r\no=- 1 1 IN IP4 198.51.100.20\r\ns=-\r\nc=IN IP4 198.51.100.20\r\nt=0 0\r\n\
    m=audio 16000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\na=label:1\r\n\
    m=audio 16002 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\na=label:2\r\n";

pub struct Rig {
    pub srs: Srs,
    pub clock: Clock,
    pub flow: Flow,
    /// What the server sent, and has not been looked at.
    pub sent: Vec<Message>,
    pub commands: Vec<Command>,
    pub events: Vec<SrsEvent>,
    pub trace: String,
    /// From's URI.
    pub from: String,
    cseq: u32,
    branch: u32,
    call: String,
    to_tag: String,
    contact: String,
}

pub fn storable(format: &Format) -> Option<u32> {
    let known = [("pcmu", 1), ("pcma", 1), ("g722", 4), ("opus", 12), ("l16", 1), ("ilbc", 60)];
    known.into_iter().find(|(name, _)| format.name.eq_ignore_ascii_case(name)).map(|(_, cost)| cost)
}

pub const SUITES: &[(&str, usize)] = &[("AES_CM_128_HMAC_SHA1_80", 30), ("AEAD_AES_128_GCM", 28)];

pub fn config() -> SrsConfig {
    SrsConfig {
        timers: Timers::default(),
        limits: TransactionLimits { transactions: 1_000 },
        trust: TrustTable::new(vec![("198.51.100.0/24".parse().unwrap(), "acme".to_owned())]),
        media: MediaPolicy { storable, suites: SUITES, srtp_required: Vec::new(), sdes_without_tls: false },
        session_timer: SessionTimerConfig::default(),
        max_call: Duration::from_secs(12 * 3_600),
        probe_interval: Duration::from_secs(7_200),
        max_sessions: 100,
        takeover: TakeoverConfig::default(),
        advertise: Vec::new(),
        contact: None,
        listeners: Vec::new(),
        seed: 1,
        key_seed: [7; 32],
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(config())
    }

    pub fn with(config: SrsConfig) -> Rig {
        let clock = Clock::new();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_438_400);
        Rig {
            srs: Srs::new(config, clock.now(), wall),
            clock,
            // A stream: no retransmissions of the transactions blur the picture.
            flow: Flow {
                transport: Transport::Tcp,
                local: "192.0.2.10:5060".parse().unwrap(),
                remote: "198.51.100.20:5060".parse().unwrap(),
                connection: 1,
            },
            sent: Vec::new(),
            commands: Vec::new(),
            events: Vec::new(),
            trace: String::new(),
            from: "sip:src@198.51.100.20".to_owned(),
            cseq: 0,
            branch: 0,
            call: "call-1".to_owned(),
            to_tag: String::new(),
            contact: "<sip:src@198.51.100.20:5060>;+sip.src".to_owned(),
        }
    }

    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    fn line(&mut self, text: &str) {
        let at = self.clock.elapsed().as_secs_f64();
        let _ = writeln!(self.trace, "{at:>10.3}  {text}");
    }

    /// Call-ID and CSeq of the last request.
    pub fn last_request(&self, method: &str) -> (String, String) {
        (self.call.clone(), format!("{} {method}", self.cseq))
    }

    /// A fresh call from the same client.
    pub fn next_call(&mut self) {
        self.call = format!("call-{}", self.branch);
        self.to_tag.clear();
    }

    /// Sends raw text with LF or CRLF; `Content-Length: AUTO` is filled in.
    pub fn raw(&mut self, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        let text = text.replacen("Content-Length: AUTO", &format!("Content-Length: {body}"), 1);
        let text = text.replacen("Content-Length:AUTO", &format!("Content-Length:{body}"), 1);
        self.line(&format!("--> {}", sip_label(text.as_bytes())));
        let message = Message::parse(Bytes::from(text)).unwrap();
        self.srs.handle_message(self.clock.now(), message, self.flow);
        self.drain();
    }

    pub fn request_text(&mut self, method: &str, headers: &[(&str, &str)], body: &str) -> String {
        if method != "ACK" && method != "CANCEL" {
            self.cseq += 1;
            self.branch += 1;
        }
        let branch = if method == "ACK" { format!("{}a", self.branch) } else { self.branch.to_string() };
        let tag = if self.to_tag.is_empty() { String::new() } else { format!(";tag={}", self.to_tag) };
        let mut text = format!(
            "{method} sip:srs@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/TCP 198.51.100.20:5060;branch=z9hG4bK{branch};rport\r\n\
             Max-Forwards: 70\r\nFrom: <{}>;tag=src\r\nTo: <sip:srs@192.0.2.10>{tag}\r\n\
             Call-ID: {}\r\nCSeq: {} {method}\r\nContact: {}\r\n",
            self.from, self.call, self.cseq, self.contact
        );
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if !body.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Type")) {
            let media_type =
                if body.trim_start().starts_with('<') { "application/rs-metadata+xml" } else { "application/sdp" };
            let _ = write!(text, "Content-Type: {media_type}\r\n");
        }
        let _ = write!(text, "Content-Length: AUTO\r\n\r\n{body}");
        text
    }

    pub fn request(&mut self, method: &str, headers: &[(&str, &str)], body: &str) {
        let text = self.request_text(method, headers, body);
        self.raw(&text);
    }

    /// Sends a request and returns its one answer.
    pub fn ask(&mut self, method: &str, headers: &[(&str, &str)], body: &str) -> Message {
        self.sent.clear();
        self.request(method, headers, body);
        self.answer()
    }

    /// The one message that the server sent since the last look.
    pub fn answer(&mut self) -> Message {
        assert_eq!(self.sent.len(), 1, "{:?}\n{}", self.sent, self.trace);
        self.sent.remove(0)
    }

    /// Takes what the server put out by itself.
    pub fn ask_nothing(&mut self) {
        self.drain();
    }

    /// Answers a request of the server's.
    pub fn respond(&mut self, request: &Message, status: u16, body: &str) {
        let mut response = Message::response(request, status, None);
        if !body.is_empty() {
            response.set_body("application/sdp", Bytes::from(body.to_owned()));
        }
        self.line(&format!("--> {}", sip_label(&response.to_bytes())));
        let response = Message::parse(response.to_bytes()).unwrap();
        self.srs.handle_message(self.clock.now(), response, self.flow);
        self.drain();
    }

    pub fn capture(&mut self, event: CaptureEvent) {
        self.srs.handle_capture(self.clock.now(), event);
        self.drain();
    }

    /// The session of the last Assign.
    pub fn session(&self) -> RecordingId {
        let assigned = self.commands.iter().rev().find_map(|command| match command {
            Command::Assign { recording, .. } | Command::Change { recording, .. } => Some(*recording),
            _ => None,
        });
        assigned.unwrap()
    }

    /// The part that was asked for last.
    pub fn part(&self) -> Part {
        let part = self.commands.iter().rev().find_map(|command| match command {
            Command::Assign { part, .. } => Some(part.clone()),
            _ => None,
        });
        // What this server took over is in its first part, unless somebody says otherwise.
        part.unwrap_or_else(|| Part::first(self.session()))
    }

    pub fn streams(&self) -> Vec<StreamSpec> {
        let streams = self.commands.iter().rev().find_map(|command| match command {
            Command::Assign { streams, .. } | Command::Change { streams, .. } => Some(streams.clone()),
            _ => None,
        });
        streams.unwrap()
    }

    pub fn info(&self) -> ferric_srs::port::SessionInfo {
        let info = self.commands.iter().rev().find_map(|command| match command {
            Command::Assign { info, .. } | Command::Info { info, .. } => Some(info.clone()),
            _ => None,
        });
        info.unwrap()
    }

    /// The sockets for the streams that capture was asked for last; each part is on a host of its own.
    pub fn sockets(&self) -> Vec<AssignedStream> {
        let part = self.part();
        let host = [192, 0, 2, 9 + u8::try_from(part.number).unwrap()];
        let address = |index: usize| {
            let restored = part.restore.iter().find(|stream| stream.index == index).map(|stream| stream.address);
            restored.unwrap_or_else(|| SocketAddr::new(host.into(), u16::try_from(40_000 + 2 * index).unwrap()))
        };
        self.streams()
            .iter()
            .map(|stream| AssignedStream { index: stream.index, address: address(stream.index) })
            .collect()
    }

    /// Capture does as it was asked last.
    pub fn ready(&mut self) {
        let (recording, part, streams) = (self.session(), self.part().number, self.sockets());
        self.line("capture: ready");
        self.capture(CaptureEvent::Ready { recording, part, streams });
    }

    /// Capture does not take what it was asked last.
    pub fn refused(&mut self, reason: RefuseReason) {
        let (recording, part) = (self.session(), self.part().number);
        self.line(&format!("capture: refused ({})", reason.as_str()));
        self.capture(CaptureEvent::Refused { recording, part, reason });
    }

    /// The worker that has the recording assigned last is gone.
    pub fn lost(&mut self) {
        let (recording, part) = (self.session(), self.part().number);
        self.line("capture: lost");
        self.capture(CaptureEvent::Lost { recording, part });
    }

    /// The connection to the client breaks, and no other can be had.
    pub fn unreachable(&mut self) {
        let to = Destination { flow: self.flow, server_name: None };
        self.srs.handle_transport_error(self.clock.now(), &to);
        self.drain();
    }

    /// The old worker of the recording assigned last is back.
    pub fn returned(&mut self) {
        let recording = self.session();
        self.line("capture: returned");
        self.capture(CaptureEvent::Returned { recording });
    }

    /// A call that is recorded.
    pub fn recorded(&mut self, headers: &[(&str, &str)], body: &str) -> RecordingId {
        self.request("INVITE", headers, body);
        self.ready();
        let ok = self.answer();
        assert_eq!(ok.status(), Some(200), "{}", self.trace);
        self.established(&ok);
        self.ack("");
        self.session()
    }

    pub fn established(&mut self, ok: &Message) {
        self.to_tag = ok.to().unwrap().tag().unwrap().to_owned();
    }

    pub fn ack(&mut self, body: &str) {
        self.request("ACK", &[], body);
    }

    /// Lets time pass, doing what is due on the way.
    pub fn wait(&mut self, span: Duration) {
        let end = self.clock.now() + span;
        while let Some(due) = self.srs.poll_timeout().filter(|due| *due <= end) {
            self.clock.advance_to(due);
            self.srs.handle_timeout(self.clock.now());
            self.drain();
        }
        self.clock.advance_to(end);
    }

    /// Releases so far.
    pub fn released(&self) -> Vec<ReleaseCause> {
        let cause = |command: &Command| match command {
            Command::Release { cause, .. } => Some(*cause),
            _ => None,
        };
        self.commands.iter().filter_map(cause).collect()
    }

    fn drain(&mut self) {
        while let Some(output) = self.srs.poll_output() {
            match output {
                SrsOutput::Transmit { bytes, .. } => {
                    self.line(&format!("<-- {}", sip_label(&bytes)));
                    self.sent.push(Message::parse(bytes).unwrap());
                }
                SrsOutput::Capture(command) => {
                    let text = describe(&command);
                    self.line(&text);
                    self.commands.push(command);
                }
                SrsOutput::Event(event) => self.events.push(event),
            }
        }
    }
}

fn describe(command: &Command) -> String {
    let list = |streams: &[StreamSpec]| {
        let one = |stream: &StreamSpec| {
            let state = if stream.active { "" } else { " held" };
            format!("{}:{}{state}", stream.index, stream.label.as_deref().unwrap_or("-"))
        };
        streams.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    match command {
        Command::Assign { part, streams, .. } => {
            let which = if part.number > 1 { format!(" part {}", part.number) } else { String::new() };
            let restore = if part.restore.is_empty() { "" } else { ", the old sockets" };
            format!("capture: assign{which} [{}]{restore}", list(streams))
        }
        Command::Change { streams, .. } => format!("capture: change [{}]", list(streams)),
        Command::Info { info, .. } => {
            format!("capture: info, {} parties, {} documents", info.participants.len(), info.documents.len())
        }
        Command::Park { .. } => "capture: park".to_owned(),
        Command::Release { cause, .. } => format!("capture: release ({})", cause.as_str()),
    }
}
