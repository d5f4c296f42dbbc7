//! The server itself: requests in, sessions kept, answers out.

mod requests;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_sip::deadline::DeadlineQueue;
use ferric_sip::dialog::{AcceptedInvite, DialogId, SessionTimerConfig};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::{AcceptedMedia, Direction, write_answer, write_offer};
use ferric_sip::transaction::{
    ClientTransactionId, ServerTransactionId, Timers, TransactionEvent, TransactionLayer, TransactionLimits, TransactionOutput,
};
use ferric_sip::validate::Reject;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::event::SrsEvent;
use crate::offer::{self, Storable};
use crate::port::{AssignedStream, CaptureEvent, Command, RefuseReason, ReleaseCause, SessionId};
use crate::rescue;
use crate::session::{Pending, Session, State};
use crate::trust::TrustTable;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct SrsConfig {
    /// Transaction timers.
    pub timers: Timers,
    /// Bounds of the transaction layer.
    pub limits: TransactionLimits,
    /// Who may send.
    pub trust: TrustTable,
    /// What can be stored.
    pub storable: Storable,
    /// Session timers.
    pub session_timer: SessionTimerConfig,
    /// Calls end after this (`recording.max_call`).
    pub max_call: Duration,
    /// Dialogs without a session timer are probed this often.
    pub probe_interval: Duration,
    /// Sessions at once; beyond, 503.
    pub max_sessions: usize,
    /// `host:port` for Via and Contact by the listener's address, where it is configured.
    pub advertise: Vec<(Transport, std::net::SocketAddr, String)>,
    /// Seed of tags, ids and branches.
    pub seed: u64,
}

/// What the server wants done.
#[derive(Debug)]
pub enum SrsOutput {
    /// Send bytes.
    Transmit {
        /// Where.
        flow: Flow,
        /// What.
        bytes: Bytes,
    },
    /// Ask capture.
    Capture(Command),
    /// For logs and counters.
    Event(SrsEvent),
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Due {
    /// Repeat the 200, or give up waiting for its ACK.
    Accepted,
    /// Session timer.
    SessionTimer,
    /// The call is too long.
    End,
    /// Is the peer still there?
    Probe,
}

/// What a request of ours was sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Probe,
    Refresh,
    Bye,
}

/// The session recording server of one node.
#[derive(Debug)]
pub struct Srs {
    config: SrsConfig,
    layer: TransactionLayer,
    rng: SmallRng,
    /// The same moment on both clocks.
    clock: (Instant, SystemTime),
    draining: bool,
    sessions: HashMap<SessionId, Session>,
    by_dialog: HashMap<DialogId, SessionId>,
    by_invite: HashMap<ServerTransactionId, SessionId>,
    own_requests: HashMap<ClientTransactionId, (SessionId, Purpose)>,
    deadlines: DeadlineQueue<(SessionId, Due)>,
    outputs: VecDeque<SrsOutput>,
}

impl Srs {
    /// A server without calls; `wall` is what the wall clock shows at `now`.
    pub fn new(config: SrsConfig, now: Instant, wall: SystemTime) -> Srs {
        let mut rng = SmallRng::seed_from_u64(config.seed);
        let layer = TransactionLayer::new(config.timers, config.limits, rng.random());
        Srs {
            config,
            layer,
            rng,
            clock: (now, wall),
            draining: false,
            sessions: HashMap::new(),
            by_dialog: HashMap::new(),
            by_invite: HashMap::new(),
            own_requests: HashMap::new(),
            deadlines: DeadlineQueue::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Follows the wall clock when it was set.
    pub fn set_clock(&mut self, now: Instant, wall: SystemTime) {
        self.clock = (now, wall);
    }

    /// Takes no new calls from now on, or takes them again.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Sessions that are offered or recorded.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Transactions kept, lingering ones included.
    pub fn transactions(&self) -> usize {
        self.layer.len()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<SrsOutput> {
        self.outputs.pop_front()
    }

    /// When [`Srs::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        match (self.layer.poll_timeout(), self.deadlines.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes a message from a transport.
    pub fn handle_message(&mut self, now: Instant, message: Message, flow: Flow) {
        if message.is_request() && self.config.trust.tenant_of(flow.remote.ip()).is_none() {
            self.refuse_stranger(&message, flow);
            return;
        }
        self.layer.handle_message(now, message, flow);
        self.drain_layer(now);
    }

    /// A flow broke.
    pub fn handle_transport_error(&mut self, now: Instant, flow: &Flow) {
        self.layer.handle_transport_error(now, flow);
        self.drain_layer(now);
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.drain_layer(now);
        while let Some((session, due)) = self.deadlines.pop_due(now) {
            self.handle_due(now, session, due);
            self.drain_layer(now);
        }
    }

    /// Hears from capture.
    pub fn handle_capture(&mut self, now: Instant, event: CaptureEvent) {
        match event {
            CaptureEvent::Ready { session, streams } => self.handle_ready(now, session, streams),
            CaptureEvent::Refused { session, reason } => self.handle_refused(now, session, reason),
            CaptureEvent::MediaSilent { session } => {
                if self.sessions.get(&session).is_some_and(|session| !session.is_on_hold() && !session.own_request) {
                    self.probe(now, session);
                }
            }
        }
        self.drain_layer(now);
    }

    /// Ends a call from our side (the API asks).
    pub fn stop(&mut self, now: Instant, session: SessionId) {
        self.end(now, session, ReleaseCause::Stopped, true);
        self.drain_layer(now);
    }

    /// Ends every call: the node goes down and will not wait longer.
    pub fn stop_all(&mut self, now: Instant) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in all {
            self.stop(now, session);
        }
    }

    /// Strangers get an answer without state, and no help beyond it.
    fn refuse_stranger(&mut self, message: &Message, flow: Flow) {
        self.outputs.push_back(SrsOutput::Event(SrsEvent::Untrusted { source: flow.remote.ip() }));
        if message.method() == Method::Ack {
            return;
        }
        let mut response = Message::response(message, 403, None);
        response.set_to_tag("stranger");
        self.outputs.push_back(SrsOutput::Transmit { flow, bytes: response.to_bytes() });
    }

    fn drain_layer(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll_output() {
            match output {
                TransactionOutput::Transmit { flow, bytes } => self.outputs.push_back(SrsOutput::Transmit { flow, bytes }),
                TransactionOutput::Event(event) => self.handle_event(now, event),
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: TransactionEvent) {
        match event {
            TransactionEvent::Request { id, request, flow } => self.handle_request(now, id, request, flow),
            TransactionEvent::Cancel { id, .. } => {
                if let Some(session) = self.by_invite.get(&id).copied() {
                    self.answer_pending(now, session, &Reject::new(487));
                    self.end(now, session, ReleaseCause::Cancelled, false);
                }
            }
            TransactionEvent::Ack { request, .. } => self.handle_ack(now, &request),
            TransactionEvent::Response { id, response, .. } => {
                let status = response.status().unwrap_or(500);
                self.handle_own_response(now, id, status, Some(&response));
            }
            TransactionEvent::TimedOut { id } => self.handle_own_response(now, id, 408, None),
            TransactionEvent::TransportError { id } => self.handle_own_response(now, id, 503, None),
            TransactionEvent::Overloaded => {
                let detail = "the transaction table is full".to_owned();
                self.event(SrsEvent::Rejected { status: 503, reason: "transactions", detail });
            }
            TransactionEvent::StrayResponse { .. } | TransactionEvent::AckTimedOut { .. } => {}
        }
    }

    // ---- towards capture -------------------------------------------------

    fn handle_ready(&mut self, now: Instant, id: SessionId, assigned: Vec<AssignedStream>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.assigned = assigned;
        let Some(pending) = session.pending.take() else { return };
        if let Some(address) = session.assigned.first().map(|stream| stream.address.ip()) {
            session.origin.address = address;
        }
        let write = |session: &Session| match &pending.offer {
            Some(sdp) => {
                let answers = offer::answer(sdp, &session.streams, &session.assigned, self.config.storable);
                write_answer(sdp, &answers, &session.origin)
            }
            None => {
                let streams: Vec<AcceptedMedia> = session
                    .assigned
                    .iter()
                    .map(|stream| AcceptedMedia {
                        address: stream.address,
                        formats: offer::own_formats(self.config.storable),
                        direction: Direction::RecvOnly,
                    })
                    .collect();
                write_offer(&streams, &session.origin)
            }
        };
        // The version goes up with every change and stays otherwise (RFC 3264 8).
        let mut body = write(session);
        if body != session.last_sdp {
            session.origin.version += 1;
            body = write(session);
        }
        session.last_sdp.clone_from(&body);
        session.awaits_answer = pending.offer.is_none();
        let mut response = self.ok(&pending.request, id);
        response.set_body("application/sdp", Bytes::from(body));
        self.send_ok(now, id, &pending, response);
    }

    /// Sends the 2xx of an INVITE or UPDATE with an offer.
    fn send_ok(&mut self, now: Instant, id: SessionId, pending: &Pending, response: Message) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let first = session.state == State::Assigning;
        session.state = State::Recording;
        if pending.request.method() == Method::Invite {
            let flow = self.layer.flow_of(pending.transaction).unwrap_or(session.flow);
            let cseq = pending.request.cseq().map_or(0, |cseq| cseq.number);
            let accepted = AcceptedInvite::new(now, cseq, flow, response.to_bytes(), &self.config.timers);
            self.deadlines.set((id, Due::Accepted), accepted.poll_timeout());
            session.accepted = Some(accepted);
        }
        self.by_invite.remove(&pending.transaction);
        self.respond(now, pending.transaction, &pending.request, response);
        if first {
            self.event(SrsEvent::Started { session: id });
        }
    }

    fn handle_refused(&mut self, now: Instant, id: SessionId, reason: RefuseReason) {
        let Some(session) = self.sessions.get(&id) else { return };
        let first = session.state == State::Assigning;
        self.answer_pending(now, id, &rescue::refused(reason));
        let detail = format!("capture refused: {}", reason.as_str());
        self.event(SrsEvent::Rejected { status: 503, reason: reason.as_str(), detail });
        if first {
            self.forget(id);
        }
    }

    /// Refuses the request that waits, if one does.
    fn answer_pending(&mut self, now: Instant, id: SessionId, reject: &Reject) {
        let pending = self.sessions.get_mut(&id).and_then(|session| session.pending.take());
        if let Some(pending) = pending {
            self.by_invite.remove(&pending.transaction);
            let response = reject.response(&pending.request);
            self.respond(now, pending.transaction, &pending.request, response);
        }
    }

    // ---- ends ------------------------------------------------------------

    /// Ends a session: tells capture, and the peer if `bye`.
    fn end(&mut self, now: Instant, id: SessionId, cause: ReleaseCause, bye: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let recorded = session.state == State::Recording;
        if bye && recorded {
            let request = session.dialog.request(&Method::Bye);
            let flow = session.request_flow();
            self.send_own(now, id, request, flow, Purpose::Bye);
        } else if bye {
            self.answer_pending(now, id, &Reject::new(480));
        }
        self.outputs.push_back(SrsOutput::Capture(Command::Release { session: id, cause }));
        self.event(SrsEvent::Ended { session: id, cause });
        self.forget(id);
    }

    fn forget(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.by_dialog.remove(&session.dialog.id);
        if let Some(pending) = session.pending {
            self.by_invite.remove(&pending.transaction);
        }
        for due in [Due::Accepted, Due::SessionTimer, Due::End, Due::Probe] {
            self.deadlines.cancel(&(id, due));
        }
    }

    // ---- messages of ours --------------------------------------------------

    /// A 2xx with what every 2xx of a dialog carries.
    fn ok(&self, request: &Message, id: SessionId) -> Message {
        let mut response = Message::response(request, 200, None);
        response.copy_lines(request, "Record-Route");
        if let Some(session) = self.sessions.get(&id) {
            response.set_to_tag(&session.dialog.id.local_tag);
            response.add_header("Contact", &self.contact(&session.flow));
            if let Some(timer) = &session.timer {
                timer.write(&mut response);
            }
        }
        response.add_header("Allow", rescue::ALLOW);
        response.add_header("Supported", "siprec, timer");
        response
    }

    /// Our Contact. The feature tag stands outside of the brackets: it belongs to the field, not to the URI.
    fn contact(&self, flow: &Flow) -> String {
        let transport = match flow.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        };
        format!("<sip:srs@{}{transport}>;+sip.srs", self.host(flow))
    }

    fn host(&self, flow: &Flow) -> String {
        let same = |local: &std::net::SocketAddr| {
            local.port() == flow.local.port() && (local.ip() == flow.local.ip() || local.ip().is_unspecified())
        };
        let named = self.config.advertise.iter().find(|(transport, local, _)| *transport == flow.transport && same(local));
        named.map_or_else(|| flow.local.to_string(), |(_, _, host)| host.clone())
    }

    fn respond(&mut self, now: Instant, transaction: ServerTransactionId, request: &Message, mut response: Message) {
        let tag = format!("{:016x}", self.rng.random::<u64>());
        response.set_to_tag(&tag);
        response.add_header("Server", concat!("Ferric/", env!("CARGO_PKG_VERSION")));
        let status = response.status().unwrap_or(500);
        self.event(SrsEvent::RequestDone { method: request.method().to_string(), status });
        self.layer.respond(now, transaction, response);
    }

    fn reject(&mut self, now: Instant, transaction: ServerTransactionId, request: &Message, reject: &Reject, reason: &'static str) {
        let detail = reject.reason.clone().unwrap_or_default();
        self.event(SrsEvent::Rejected { status: reject.status, reason, detail });
        self.respond(now, transaction, request, reject.response(request));
    }

    /// Sends a request of a dialog.
    fn send_own(&mut self, now: Instant, id: SessionId, mut request: Message, flow: Flow, purpose: Purpose) {
        if purpose != Purpose::Bye {
            request.add_header("Contact", &self.contact(&flow));
        }
        request.add_header("User-Agent", concat!("Ferric/", env!("CARGO_PKG_VERSION")));
        let host = self.host(&flow);
        let transaction = self.layer.send_request(now, request, flow, Some(&host));
        self.own_requests.insert(transaction, (id, purpose));
    }

    fn event(&mut self, event: SrsEvent) {
        self.outputs.push_back(SrsOutput::Event(event));
    }

    fn unix_ms(&self, now: Instant) -> u64 {
        let (anchor, wall) = self.clock;
        let wall = wall + now.saturating_duration_since(anchor);
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn new_session_id(&mut self, now: Instant) -> SessionId {
        let random: [u8; 10] = self.rng.random();
        SessionId(uuid::Builder::from_unix_timestamp_millis(self.unix_ms(now), &random).into_uuid())
    }
}

/// The nil id never names a session.
pub(crate) const NO_SESSION: SessionId = SessionId(Uuid::nil());
