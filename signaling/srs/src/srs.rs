//! The server itself: requests in, sessions kept, answers out.

mod adopt;
mod answer;
mod end;
mod moving;
mod place;
mod reoffer;
mod replicate;
mod requests;
mod send;
mod snapshot;
mod takeover;
mod timers;

pub use adopt::{AdoptedRecording, Ownership};

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_sip::deadline::DeadlineQueue;
use ferric_sip::dialog::{DialogId, SessionTimerConfig};
use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::transaction::{
    ClientTransactionId, ServerTransactionId, Timers, TransactionEvent, TransactionLayer, TransactionLimits,
    TransactionOutput,
};
use rand::rngs::{SmallRng, StdRng};
use rand::{RngExt, SeedableRng};

use crate::event::{InviteId, SrsEvent};
use crate::offer::MediaPolicy;
use crate::port::{CaptureEvent, Command, RecordingId, RefuseReason, ReleaseCause};
use crate::recording::Recording;
use crate::session::{Session, SessionKey};
use crate::tracked::Tracked;
use ferric_sip::trust::TrustTable;
use moving::Pace;
pub use takeover::TakeoverConfig;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct SrsConfig {
    /// Transaction timers.
    pub timers: Timers,
    /// Bounds of the transaction layer.
    pub limits: TransactionLimits,
    /// Who may send.
    pub trust: TrustTable,
    /// What can be stored, and under which conditions.
    pub media: MediaPolicy,
    /// Session timers.
    pub session_timer: SessionTimerConfig,
    /// Calls end after this (`recording.max_call`).
    pub max_call: Duration,
    /// Dialogs without a session timer are probed this often.
    pub probe_interval: Duration,
    /// Sessions at once; beyond, 503.
    pub max_sessions: usize,
    /// When a worker is lost.
    pub takeover: TakeoverConfig,
    /// `host:port` for Via and Contact by the listener's address, where it is configured.
    pub advertise: Vec<(Transport, std::net::SocketAddr, String)>,
    /// The name that stands in Contact instead of the listener's address: one that partners serve too, of SRV records.
    pub contact: Option<String>,
    /// Listeners of this node, for dialogs that began at another.
    pub listeners: Vec<(Transport, std::net::SocketAddr)>,
    /// Seed of tags, ids and branches.
    pub seed: u64,
    /// Seed of our SRTP keys.
    pub key_seed: [u8; 32],
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

/// INVITEs that could not be read whose repetitions are known.
const MALFORMED_KNOWN: usize = 64;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Due {
    /// Repeat the 200, or give up waiting for its ACK.
    Accepted,
    /// Capture should have answered.
    Capture,
    /// Session timer.
    SessionTimer,
    /// The call is too long.
    End,
    /// Is the peer still there?
    Probe,
    /// A peer that put our offer off is asked again.
    Move,
    /// The peer of a dialog that was taken over should know where it is.
    Announce,
}

/// Whose deadline it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Deadline {
    /// Of a dialog.
    Session(SessionKey, Due),
    /// A recording waits for the other half of its call no longer.
    Linger(RecordingId),
    /// A recording whose worker is lost: the next attempt, or its end.
    Takeover(RecordingId),
    /// The next offers may leave.
    Pace,
}

/// What a request of ours was sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Probe,
    Refresh,
    Snapshot,
    Move,
    Announce,
    Bye,
}

/// The session recording server of one node.
#[derive(Debug)]
pub struct Srs {
    config: SrsConfig,
    layer: TransactionLayer,
    rng: SmallRng,
    keys: StdRng,
    /// The same moment on both clocks.
    clock: (Instant, SystemTime),
    draining: bool,
    refusing: Option<RefuseReason>,
    sessions: Tracked<SessionKey, Session>,
    recordings: Tracked<RecordingId, Recording>,
    replication: replicate::Replication,
    /// Recordings of one half of a call, by tenant and key of the pair.
    halves: HashMap<(String, String), RecordingId>,
    by_dialog: HashMap<DialogId, SessionKey>,
    by_invite: HashMap<ServerTransactionId, SessionKey>,
    /// By Call-ID and the peer's tag: an INVITE that comes once more is not a second call.
    by_call: HashMap<(String, String), SessionKey>,
    own_requests: HashMap<ClientTransactionId, (SessionKey, Purpose)>,
    /// Dialogs that are to be told of other sockets, each once.
    moves: VecDeque<SessionKey>,
    pace: Pace,
    deadlines: DeadlineQueue<Deadline>,
    next_session: u64,
    /// Call-IDs of the last INVITEs that could not be read.
    malformed: VecDeque<String>,
    outputs: VecDeque<SrsOutput>,
}

impl Srs {
    /// A server without calls; `wall` is what the wall clock shows at `now`.
    pub fn new(config: SrsConfig, now: Instant, wall: SystemTime) -> Srs {
        let mut rng = SmallRng::seed_from_u64(config.seed);
        let layer = TransactionLayer::new(config.timers, config.limits, rng.random());
        let keys = StdRng::from_seed(config.key_seed);
        Srs {
            config,
            layer,
            rng,
            keys,
            clock: (now, wall),
            draining: false,
            refusing: None,
            sessions: Tracked::default(),
            recordings: Tracked::default(),
            replication: replicate::Replication::default(),
            halves: HashMap::new(),
            by_dialog: HashMap::new(),
            by_invite: HashMap::new(),
            by_call: HashMap::new(),
            own_requests: HashMap::new(),
            moves: VecDeque::new(),
            pace: Pace::new(now),
            deadlines: DeadlineQueue::default(),
            next_session: 0,
            malformed: VecDeque::new(),
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

    /// Refuses new calls, and says so to OPTIONS, for a reason that capture has
    /// told beforehand; `None` takes calls again.
    pub fn set_refusing(&mut self, reason: Option<RefuseReason>) {
        self.refusing = reason;
    }

    /// Why no new calls are taken, if so.
    fn closed(&self) -> Option<RefuseReason> {
        if self.draining { Some(RefuseReason::Draining) } else { self.refusing }
    }

    /// Sessions that are offered or recorded.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Recordings that run, those that wait for the other half of their call included.
    pub fn recordings(&self) -> usize {
        self.recordings.len()
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

    /// True for what belongs to something that is under way here: a request that comes again, an ACK, a request within a
    /// dialog of ours, a response to a request of ours.
    pub fn expects(&self, message: &Message, flow: &Flow) -> bool {
        if self.layer.is_empty() && self.by_dialog.is_empty() {
            return false;
        }
        if !message.is_request() {
            return self.layer.awaits(message);
        }
        let is_ours = || DialogId::of_request(message).is_some_and(|dialog| self.by_dialog.contains_key(&dialog));
        let is_known = self.layer.arrival(message, flow).is_ok_and(|arrival| self.layer.knows(&arrival));
        is_known || (!self.by_dialog.is_empty() && is_ours())
    }

    /// Takes over who may send.
    pub fn set_trust(&mut self, trust: TrustTable) {
        self.config.trust = trust;
    }

    /// A flow broke.
    pub fn handle_transport_error(&mut self, now: Instant, to: &Destination) {
        self.layer.handle_transport_error(now, to);
        self.drain_layer(now);
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.drain_layer(now);
        while let Some(deadline) = self.deadlines.pop_due(now) {
            match deadline {
                Deadline::Session(session, due) => self.handle_due(now, session, due),
                Deadline::Linger(recording) => self.release(recording, ReleaseCause::Bye),
                Deadline::Takeover(recording) => self.take_over_again(now, recording),
                Deadline::Pace => self.send_moves(now),
            }
            self.drain_layer(now);
        }
    }

    /// An INVITE came that could not even be read, and was answered by the transport: the books hear of it, once
    /// however often it is repeated.
    pub fn note_malformed(&mut self, now: Instant, call_id: &str, status: u16, flow: &Flow) {
        let Some(tenant) = self.config.trust.tenant_of(flow.remote.ip()).map(str::to_owned) else { return };
        if self.malformed.iter().any(|known| known == call_id) {
            return;
        }
        if self.malformed.len() >= MALFORMED_KNOWN {
            self.malformed.pop_front();
        }
        self.malformed.push_back(call_id.to_owned());
        let invite = InviteId(self.new_uuid(now));
        self.event(SrsEvent::Offered {
            invite,
            tenant,
            call_id: call_id.to_owned(),
            source_kind: Cow::Borrowed("unknown"),
        });
        self.event(SrsEvent::Refused { invite, status, cause: "malformed" });
    }

    /// Hears from capture.
    pub fn handle_capture(&mut self, now: Instant, event: CaptureEvent) {
        match event {
            CaptureEvent::Ready { recording, part, streams } => self.handle_ready(now, recording, part, streams),
            CaptureEvent::Refused { recording, part, reason } => self.handle_refused(now, recording, part, reason),
            CaptureEvent::Lost { recording, part } => self.handle_lost(now, recording, part),
            CaptureEvent::Returned { recording } => self.handle_returned(now, recording),
            CaptureEvent::Promoted { recording, part, streams } => {
                self.handle_promoted(now, recording, part, streams);
            }
            CaptureEvent::MediaHeard { recording } => self.handle_media(recording),
            CaptureEvent::MediaSilent { recording } => self.handle_silence(now, recording),
            CaptureEvent::Died { recording } => self.handle_death(now, recording),
        }
        self.drain_layer(now);
    }

    /// Ends a recording from our side (the API asks).
    pub fn stop(&mut self, now: Instant, recording: RecordingId) {
        self.stop_recording(now, recording);
        self.drain_layer(now);
    }

    /// Ends every call: the node goes down and will not wait longer.
    pub fn stop_all(&mut self, now: Instant) {
        let all: Vec<SessionKey> = self.sessions.keys().copied().collect();
        for session in all {
            self.end(now, session, ReleaseCause::Stopped, true);
        }
        let lingering: Vec<RecordingId> = self.recordings.keys().copied().collect();
        for recording in lingering {
            self.release(recording, ReleaseCause::Stopped);
        }
        self.drain_layer(now);
    }

    /// Strangers get an answer without state, and no help beyond it; over UDP none that is longer than what came.
    fn refuse_stranger(&mut self, message: &Message, flow: Flow) {
        self.outputs.push_back(SrsOutput::Event(SrsEvent::Untrusted { source: flow.remote.ip() }));
        if message.method() == Method::Ack {
            return;
        }
        let mut response = Message::response(message, 403, None);
        response.set_to_tag("stranger");
        let bytes = response.to_bytes();
        // Who forges a source must not hit it harder through us than by themselves.
        if flow.transport == Transport::Udp && bytes.len() > message.wire_length() {
            return;
        }
        self.outputs.push_back(SrsOutput::Transmit { flow, bytes });
    }

    fn drain_layer(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll_output() {
            match output {
                TransactionOutput::Transmit { to, bytes } => {
                    self.outputs.push_back(SrsOutput::Transmit { flow: to.flow, bytes })
                }
                TransactionOutput::Event(event) => self.handle_event(now, event),
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: TransactionEvent) {
        match event {
            TransactionEvent::Request { id, request, flow } => self.handle_request(now, id, request, flow),
            TransactionEvent::Cancel { id, .. } => {
                self.event(SrsEvent::RequestDone { method: "CANCEL".to_owned(), status: 200 });
                if let Some(session) = self.by_invite.get(&id).copied() {
                    self.handle_cancel(now, session);
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
            TransactionEvent::ConnectionLost { .. }
            | TransactionEvent::StrayResponse { .. }
            | TransactionEvent::AckTimedOut { .. } => {}
        }
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

    fn new_uuid(&mut self, now: Instant) -> uuid::Uuid {
        let random: [u8; 10] = self.rng.random();
        uuid::Builder::from_unix_timestamp_millis(self.unix_ms(now), &random).into_uuid()
    }

    /// Notes that an INVITE asks for a recording.
    fn note_offer(&mut self, now: Instant, request: &Message, flow: &Flow, source_kind: Cow<'static, str>) -> InviteId {
        let invite = InviteId(self.new_uuid(now));
        let tenant = self.config.trust.tenant_of(flow.remote.ip()).unwrap_or("").to_owned();
        let call_id = request.call_id().unwrap_or_default().into_owned();
        self.event(SrsEvent::Offered { invite, tenant, call_id, source_kind });
        invite
    }
}
