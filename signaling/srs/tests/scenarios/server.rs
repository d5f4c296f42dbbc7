//! The server with a capture that says yes after a while.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use ferric_simnet::{Endpoint, Packet};
use ferric_sip::dialog::SessionTimerConfig;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::TrustTable;
use ferric_sip::{Flow, Message, Transport};
use ferric_srs::offer::MediaPolicy;
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId, ReleaseCause, StreamSpec};
use ferric_srs::{Srs, SrsConfig, SrsEvent, SrsOutput, TakeoverConfig};

pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10)), 5060);

/// Where a part is.
fn host(part: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9 + u8::try_from(part).unwrap()))
}

pub(crate) struct Server {
    pub(crate) srs: Srs,
    pub(crate) assigned: usize,
    pub(crate) released: Vec<ReleaseCause>,
    /// Between a command and its answer.
    pub(crate) capture_takes: Duration,
    answers: VecDeque<(Instant, CaptureEvent)>,
    current: Option<RecordingId>,
    /// The part that was assigned last; each is on a host of its own.
    part: u32,
    /// Where the first stream of it is, if those are the sockets of an earlier one.
    restored: Option<SocketAddr>,
    pub(crate) moved: usize,
    out: VecDeque<Packet>,
    config: SrsConfig,
}

impl Server {
    pub(crate) fn new(seed: u64) -> Server {
        let config = SrsConfig {
            timers: Timers::default(),
            limits: TransactionLimits::default(),
            trust: TrustTable::private("default"),
            media: MediaPolicy {
                storable: |format| format.name.eq_ignore_ascii_case("PCMU").then_some(1),
                suites: &[],
                srtp_required: Vec::new(),
                sdes_without_tls: false,
            },
            session_timer: SessionTimerConfig::default(),
            max_call: Duration::from_secs(12 * 3_600),
            probe_interval: Duration::from_secs(7_200),
            max_sessions: 10,
            takeover: TakeoverConfig::default(),
            advertise: Vec::new(),
            contact: None,
            listeners: Vec::new(),
            seed,
            key_seed: [3; 32],
        };
        Server {
            srs: Srs::new(config.clone(), Instant::now(), SystemTime::UNIX_EPOCH),
            assigned: 0,
            released: Vec::new(),
            capture_takes: Duration::ZERO,
            answers: VecDeque::new(),
            current: None,
            part: 1,
            restored: None,
            moved: 0,
            out: VecDeque::new(),
            config,
        }
    }

    /// Begins at the clock of the simulation.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.srs = Srs::new(self.config.clone(), now, SystemTime::UNIX_EPOCH);
    }

    /// Capture hears nothing any more.
    pub(crate) fn media_silent(&mut self, now: Instant) {
        if let Some(session) = self.current {
            self.srs.handle_capture(now, CaptureEvent::MediaSilent { recording: session });
            self.pump(now);
        }
    }

    /// The worker is gone.
    pub(crate) fn lose(&mut self, now: Instant) {
        if let Some(recording) = self.current {
            self.answers.clear();
            self.srs.handle_capture(now, CaptureEvent::Lost { recording, part: self.part });
            self.pump(now);
        }
    }

    /// The worker is back.
    pub(crate) fn give_back(&mut self, now: Instant) {
        if let Some(recording) = self.current {
            self.srs.handle_capture(now, CaptureEvent::Returned { recording });
            self.pump(now);
        }
    }

    /// Where capture listens for the first stream.
    pub(crate) fn socket(&self) -> SocketAddr {
        self.restored.unwrap_or(SocketAddr::new(host(self.part), 40_000))
    }

    fn ready(&mut self, now: Instant, session: RecordingId, streams: &[StreamSpec]) {
        let (part, host) = (self.part, self.socket().ip());
        let assign = |stream: &StreamSpec| {
            let port = 40_000 + 2 * u16::try_from(stream.index).unwrap();
            AssignedStream { index: stream.index, address: SocketAddr::new(host, port) }
        };
        let streams = streams.iter().map(assign).collect();
        self.answers.push_back((now + self.capture_takes, CaptureEvent::Ready { recording: session, part, streams }));
    }

    fn pump(&mut self, now: Instant) {
        loop {
            while let Some(output) = self.srs.poll_output() {
                match output {
                    SrsOutput::Transmit { flow, bytes } => {
                        self.out.push_back(Packet { from: SERVER, to: flow.remote, bytes });
                    }
                    SrsOutput::Capture(Command::Assign { recording, part, streams, .. }) => {
                        self.assigned += usize::from(part.number == 1);
                        self.current = Some(recording);
                        self.part = part.number;
                        self.restored = part.restore.first().map(|stream| stream.address);
                        self.ready(now, recording, &streams);
                    }
                    SrsOutput::Capture(Command::Change { recording, streams, .. }) => {
                        self.ready(now, recording, &streams)
                    }
                    SrsOutput::Capture(Command::Release { cause, .. }) if cause.is_of_part() => {}
                    SrsOutput::Capture(Command::Release { cause, .. }) => {
                        self.released.push(cause);
                        self.current = None;
                    }
                    SrsOutput::Event(SrsEvent::Moved { .. }) => self.moved += 1,
                    SrsOutput::Capture(Command::Info { .. } | Command::Park { .. }) | SrsOutput::Event(_) => {}
                }
            }
            let Some((_, answer)) = self.answers.pop_front_if(|(at, _)| *at <= now) else { break };
            self.srs.handle_capture(now, answer);
        }
    }
}

impl Endpoint for Server {
    fn handle_packet(&mut self, now: Instant, packet: Packet) {
        let flow = Flow { transport: Transport::Udp, local: SERVER, remote: packet.from, connection: 0 };
        self.srs.handle_message(now, Message::parse(packet.bytes).unwrap(), flow);
        self.pump(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.srs.handle_timeout(now);
        self.pump(now);
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        [self.srs.poll_timeout(), self.answers.front().map(|(at, _)| *at)].into_iter().flatten().min()
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<Packet> {
        self.out.pop_front()
    }
}
