//! All calls of a run as a session recording client sees them, without I/O.
//!
//! ```text
//! start --INVITE--> Calling --200, ACK--> Talking --hold over, BYE--> Leaving --200--> Completed
//!                      |  3xx-6xx: Refused    |  BYE from the server: EndedByServer
//!                      |  timer B: NoAnswer   |  OPTIONS, UPDATE, INFO, re-INVITE: answered
//! ```
//!
//! Requests in the dialog go over the flow of the INVITE, whatever the server's
//! Contact says: the source knows one server. A 2xx that comes again is
//! acknowledged again. The session is refreshed by UPDATE at half time when the
//! server makes us the refresher (RFC 4028). A re-INVITE or UPDATE with SDP is
//! answered with the same two streams; a stream that the server no longer
//! receives falls silent, as on a pause by the server.
//!
//! Contract: `start`, `handle_message`, `handle_timeout` or `stop`, then
//! `poll_output` until `None`, then `poll_timeout`.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_sip::deadline::DeadlineQueue;
use ferric_sip::dialog::{AcceptedInvite, AcceptedStep, Dialog, DialogId};
use ferric_sip::header::{Refresher, SessionExpires};
use ferric_sip::sdp::{Direction, Sdp};
use ferric_sip::transaction::{
    ClientTransactionId, ServerTransactionId, Timers, TransactionEvent, TransactionLayer, TransactionLimits,
    TransactionOutput,
};
use ferric_sip::{Flow, Message, Method};

use super::config::LoadCodec;
use super::offer::{Identity, contact};
use super::report::Outcome;

/// Methods that the source answers.
pub(super) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO";

/// The number of a call within its run.
pub(super) type CallNumber = usize;

/// Where one stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) rtp: SocketAddr,
    pub(super) rtcp: SocketAddr,
}

/// Both streams; `None` is refused or on hold.
pub(super) type Targets = [Option<Target>; 2];

/// What the agent wants done.
#[derive(Debug)]
pub(super) enum AgentOutput {
    /// Send bytes over the wire.
    Transmit(Bytes),
    /// The server answered; RTP begins.
    Answered { call: CallNumber, set_up: Duration, targets: Targets },
    /// The server moved or stopped streams.
    Changed { call: CallNumber, targets: Targets },
    /// The call is over.
    Ended { call: CallNumber, outcome: Outcome },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Due {
    HangUp,
    Refresh,
    Accepted,
}

/// What a request of ours was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Invite,
    Refresh,
    Bye,
    Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Calling { ringing: bool, cancelled: bool },
    Talking,
    Leaving(BecauseOf),
}

/// Why we said BYE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BecauseOf {
    HoldOver,
    BadAnswer,
    Cancelled,
}

#[derive(Debug)]
struct Call {
    identity: Identity,
    invite: Message,
    ports: [u16; 2],
    /// The INVITE's transaction, whose 2xx may come again.
    id: ClientTransactionId,
    state: State,
    started: Instant,
    dialog: Option<Dialog>,
    sdp_version: u32,
    /// The 2xx that we sent to a re-INVITE and that has no ACK yet.
    accepted: Option<AcceptedInvite>,
    refresh_every: Option<Duration>,
}

/// What all calls of a run have in common.
#[derive(Debug, Clone)]
pub(super) struct AgentConfig {
    pub(super) uri: String,
    pub(super) codec: LoadCodec,
    pub(super) media_address: IpAddr,
    pub(super) hold: Duration,
    pub(super) calls: usize,
    pub(super) timers: Timers,
    pub(super) seed: u64,
}

/// All calls of a run.
#[derive(Debug)]
pub(super) struct Agent {
    config: AgentConfig,
    flow: Flow,
    layer: TransactionLayer,
    calls: HashMap<CallNumber, Call>,
    dialogs: HashMap<DialogId, CallNumber>,
    requests: HashMap<ClientTransactionId, (CallNumber, Purpose)>,
    deadlines: DeadlineQueue<(CallNumber, Due)>,
    outputs: VecDeque<AgentOutput>,
}

impl Agent {
    /// An agent that reaches its server over `flow`.
    pub(super) fn new(config: AgentConfig, flow: Flow) -> Agent {
        // A call lingers as INVITE, BYE and what the server asked meanwhile.
        let limits = TransactionLimits { transactions: config.calls.saturating_mul(8).saturating_add(1_000) };
        Agent {
            layer: TransactionLayer::new(config.timers, limits, config.seed),
            config,
            flow,
            calls: HashMap::new(),
            dialogs: HashMap::new(),
            requests: HashMap::new(),
            deadlines: DeadlineQueue::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Begins a call whose RTP sockets have these ports.
    pub(super) fn start(
        &mut self,
        now: Instant,
        wall: SystemTime,
        call: CallNumber,
        identity: Identity,
        ports: [u16; 2],
    ) {
        let directions = [Direction::SendOnly; 2];
        let sdp = identity.sdp(1, self.config.media_address, ports, self.config.codec, directions);
        let contact = contact(self.flow.local, self.flow.transport);
        let invite = identity.invite(&self.config.uri, &contact, &sdp, wall);
        let id = self.send(now, call, Purpose::Invite, invite.clone());
        let state = State::Calling { ringing: false, cancelled: false };
        let started = now;
        let call_state = Call {
            identity,
            invite,
            ports,
            id,
            state,
            started,
            dialog: None,
            sdp_version: 1,
            accepted: None,
            refresh_every: None,
        };
        self.calls.insert(call, call_state);
    }

    /// Ends all calls: answered ones by BYE, others by CANCEL.
    pub(super) fn stop(&mut self, now: Instant) {
        let calls: Vec<CallNumber> = self.calls.keys().copied().collect();
        for call in calls {
            match self.calls.get_mut(&call).map(|call| (call.id, &mut call.state)) {
                Some((_, State::Talking)) => self.hang_up(now, call, BecauseOf::HoldOver),
                Some((id, State::Calling { ringing, cancelled })) => {
                    let cancel = *ringing && !*cancelled;
                    *cancelled = true;
                    if cancel {
                        self.cancel(now, call, id);
                    }
                }
                Some((_, State::Leaving(_))) | None => {}
            }
        }
    }

    /// Gives all calls up: the server cannot be reached any more.
    pub(super) fn abandon(&mut self) {
        let calls: Vec<CallNumber> = self.calls.keys().copied().collect();
        calls.into_iter().for_each(|call| self.end(call, Outcome::Unreachable));
    }

    /// Calls that are not over.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The wire broke and was replaced: unanswered requests have failed.
    pub(super) fn handle_broken(&mut self, now: Instant, new: Flow) {
        let old = std::mem::replace(&mut self.flow, new);
        self.layer.handle_transport_error(now, old);
        self.drain(now);
    }

    /// Takes a message from the server.
    pub(super) fn handle_message(&mut self, now: Instant, message: Message) {
        self.layer.handle_message(now, message, self.flow);
        self.drain(now);
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.drain(now);
        while let Some((call, due)) = self.deadlines.pop_due(now) {
            match due {
                Due::HangUp => self.hang_up(now, call, BecauseOf::HoldOver),
                Due::Refresh => self.refresh(now, call),
                Due::Accepted => self.repeat_accepted(now, call),
            }
        }
        self.drain(now);
    }

    /// When [`Agent::handle_timeout`] is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        [self.layer.poll_timeout(), self.deadlines.next_deadline()].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub(super) fn poll_output(&mut self) -> Option<AgentOutput> {
        // Sending happens in many places; what the layer holds is collected here.
        self.collect();
        self.outputs.pop_front()
    }

    fn collect(&mut self) {
        // Events only come out of the layer's `handle_*`, after which `drain` has run.
        while let Some(output) = self.layer.poll_output() {
            match output {
                TransactionOutput::Transmit { bytes, .. } => self.outputs.push_back(AgentOutput::Transmit(bytes)),
                TransactionOutput::Event(event) => tracing::debug!(?event, "event outside of its turn"),
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll_output() {
            match output {
                TransactionOutput::Transmit { bytes, .. } => self.outputs.push_back(AgentOutput::Transmit(bytes)),
                TransactionOutput::Event(event) => self.handle_event(now, event),
            }
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)]
    fn handle_event(&mut self, now: Instant, event: TransactionEvent) {
        match event {
            TransactionEvent::Response { id, response, .. } => self.handle_response(now, id, &response),
            TransactionEvent::TimedOut { id } => self.handle_failure(id, Outcome::NoAnswer),
            TransactionEvent::TransportError { id } | TransactionEvent::ConnectionLost { id } => {
                self.handle_failure(id, Outcome::Unreachable)
            }
            TransactionEvent::Request { id, request, .. } => self.handle_request(now, id, &request),
            TransactionEvent::Ack { request, .. } => self.handle_ack(&request),
            // Strays and lingering transactions are the server's affair.
            _ => {}
        }
    }

    fn send(&mut self, now: Instant, call: CallNumber, purpose: Purpose, request: Message) -> ClientTransactionId {
        let id = self.layer.send_request(now, request, self.flow, None);
        self.requests.insert(id, (call, purpose));
        id
    }

    fn cancel(&mut self, now: Instant, call: CallNumber, invite: ClientTransactionId) {
        if let Some(id) = self.layer.send_cancel(now, invite) {
            self.requests.insert(id, (call, Purpose::Cancel));
        }
    }

    fn handle_response(&mut self, now: Instant, id: ClientTransactionId, response: &Message) {
        let Some(&(call, purpose)) = self.requests.get(&id) else { return };
        let status = response.status().unwrap_or(500);
        match purpose {
            Purpose::Invite => self.handle_invite_response(now, call, id, status, response),
            Purpose::Cancel => {
                if status >= 200 {
                    self.requests.remove(&id);
                }
            }
            Purpose::Refresh if status >= 200 => {
                self.requests.remove(&id);
                // 2xx: once more at half time. Else the next try comes as soon, and the session may expire.
                if let Some(every) = self.calls.get(&call).and_then(|call| call.refresh_every) {
                    self.deadlines.set((call, Due::Refresh), now + every);
                }
            }
            Purpose::Bye if status >= 200 => {
                self.requests.remove(&id);
                let outcome = match self.calls.get(&call).map(|call| call.state) {
                    Some(State::Leaving(BecauseOf::BadAnswer)) => Outcome::BadAnswer,
                    Some(State::Leaving(BecauseOf::Cancelled)) => Outcome::Cancelled,
                    _ if status < 300 => Outcome::Completed,
                    _ => Outcome::ByeFailed(status),
                };
                self.end(call, outcome);
            }
            Purpose::Refresh | Purpose::Bye => {}
        }
    }

    fn handle_invite_response(
        &mut self,
        now: Instant,
        number: CallNumber,
        id: ClientTransactionId,
        status: u16,
        response: &Message,
    ) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        match (call.state, status) {
            (State::Calling { ringing, cancelled }, 0..200) => {
                call.state = State::Calling { ringing: true, cancelled };
                if cancelled && !ringing {
                    self.cancel(now, number, id);
                }
            }
            (State::Calling { cancelled, .. }, 200..300) => self.answered(now, number, response, cancelled),
            (State::Calling { cancelled, .. }, _) => {
                self.end(number, if cancelled { Outcome::Cancelled } else { Outcome::Refused(status) });
            }
            // The 2xx came again: its ACK was lost.
            (State::Talking | State::Leaving(_), 200..300) => self.acknowledge(number),
            (State::Talking | State::Leaving(_), _) => {}
        }
    }

    fn answered(&mut self, now: Instant, number: CallNumber, response: &Message, cancelled: bool) {
        let fallback = self.flow.remote.ip();
        let Some(call) = self.calls.get_mut(&number) else { return };
        let set_up = now.duration_since(call.started);
        let Ok(dialog) = Dialog::uac(&call.invite, response) else {
            return self.end(number, Outcome::BadAnswer);
        };
        self.dialogs.insert(dialog.id.clone(), number);
        call.dialog = Some(dialog);
        call.state = State::Talking;
        call.refresh_every = refresh_interval(response);
        let refresh_every = call.refresh_every;
        let targets = targets(response.body(), fallback);
        self.acknowledge(number);
        if cancelled {
            return self.hang_up(now, number, BecauseOf::Cancelled);
        }
        let Some(targets) = targets.filter(|targets| targets.iter().any(Option::is_some)) else {
            return self.hang_up(now, number, BecauseOf::BadAnswer);
        };
        if let Some(every) = refresh_every {
            self.deadlines.set((number, Due::Refresh), now + every);
        }
        self.deadlines.set((number, Due::HangUp), now + self.config.hold);
        self.outputs.push_back(AgentOutput::Answered { call: number, set_up, targets });
    }

    fn acknowledge(&mut self, number: CallNumber) {
        let Some(call) = self.calls.get(&number) else { return };
        if let (Some(dialog), Ok(cseq)) = (&call.dialog, call.invite.cseq()) {
            self.layer.send_ack(dialog.ack(cseq.number), self.flow, None);
        }
    }

    fn handle_failure(&mut self, id: ClientTransactionId, outcome: Outcome) {
        match self.requests.remove(&id) {
            Some((call, Purpose::Invite)) => self.end(call, outcome),
            Some((call, Purpose::Bye)) => self.end(call, Outcome::ByeFailed(408)),
            Some((_, Purpose::Refresh | Purpose::Cancel)) | None => {}
        }
    }

    fn hang_up(&mut self, now: Instant, number: CallNumber, why: BecauseOf) {
        let Some(call) = self.calls.get_mut(&number).filter(|call| call.state == State::Talking) else { return };
        let Some(dialog) = &mut call.dialog else { return };
        let bye = dialog.request(&Method::Bye);
        call.state = State::Leaving(why);
        self.send(now, number, Purpose::Bye, bye);
    }

    fn refresh(&mut self, now: Instant, number: CallNumber) {
        let contact = contact(self.flow.local, self.flow.transport);
        let Some(call) = self.calls.get_mut(&number).filter(|call| call.state == State::Talking) else { return };
        let (Some(dialog), Some(every)) = (&mut call.dialog, call.refresh_every) else { return };
        let mut update = dialog.request(&Method::Update);
        update.add_header("Contact", &contact);
        update.add_header("Supported", "timer");
        update.add_header("Session-Expires", &format!("{};refresher=uac", every.as_secs() * 2));
        self.send(now, number, Purpose::Refresh, update);
    }

    fn repeat_accepted(&mut self, now: Instant, number: CallNumber) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let Some(accepted) = &mut call.accepted else { return };
        match accepted.handle_timeout(now) {
            AcceptedStep::Retransmit(_, bytes) => self.outputs.push_back(AgentOutput::Transmit(bytes)),
            AcceptedStep::GaveUp => {
                call.accepted = None;
                return;
            }
            AcceptedStep::Wait => {}
        }
        let due = accepted.poll_timeout();
        self.deadlines.set((number, Due::Accepted), due);
    }

    fn handle_ack(&mut self, ack: &Message) {
        let number = DialogId::of_request(ack).and_then(|id| self.dialogs.get(&id).copied());
        let Some((number, cseq)) = number.zip(ack.cseq().ok()) else { return };
        if let Some(call) = self.calls.get_mut(&number)
            && call.accepted.as_ref().is_some_and(|accepted| accepted.cseq() == cseq.number)
        {
            call.accepted = None;
            self.deadlines.cancel(&(number, Due::Accepted));
        }
    }

    fn handle_request(&mut self, now: Instant, id: ServerTransactionId, request: &Message) {
        let dialog = DialogId::of_request(request);
        let number = dialog.as_ref().and_then(|id| self.dialogs.get(id).copied());
        let Some((number, call)) = number.and_then(|number| Some((number, self.calls.get_mut(&number)?))) else {
            let status = if dialog.is_none() && request.method() == Method::Options { 200 } else { 481 };
            return self.layer.respond(now, id, Message::response(request, status, None));
        };
        if let Some(Err(reject)) = call.dialog.as_mut().map(|dialog| dialog.check_request(request)) {
            return self.layer.respond(now, id, reject.response(request));
        }
        let method = request.method();
        match method {
            Method::Bye => {
                self.layer.respond(now, id, Message::response(request, 200, None));
                // A BYE that crosses our own is no complaint.
                let leaving = matches!(call.state, State::Leaving(_));
                self.end(number, if leaving { Outcome::Completed } else { Outcome::EndedByServer });
            }
            Method::Invite | Method::Update => self.handle_change(now, id, number, request),
            Method::Options | Method::Info => {
                let mut response = Message::response(request, 200, None);
                response.add_header("Allow", ALLOW);
                self.layer.respond(now, id, response);
            }
            Method::Ack
            | Method::Cancel
            | Method::Register
            | Method::Prack
            | Method::Subscribe
            | Method::Notify
            | Method::Refer
            | Method::Message
            | Method::Publish
            | Method::Other(_) => {
                let mut response = Message::response(request, 405, None);
                response.add_header("Allow", ALLOW);
                self.layer.respond(now, id, response);
            }
        }
    }

    /// A re-INVITE or an UPDATE: a session refresh, or the server moves or pauses streams.
    fn handle_change(&mut self, now: Instant, id: ServerTransactionId, number: CallNumber, request: &Message) {
        let fallback = self.flow.remote.ip();
        let contact = contact(self.flow.local, self.flow.transport);
        let is_invite = request.method() == Method::Invite;
        let Some(call) = self.calls.get_mut(&number) else { return };
        if let Some(dialog) = &mut call.dialog {
            dialog.refresh_target(request);
        }
        let mut response = Message::response(request, 200, None);
        response.add_header("Contact", &contact);
        response.add_header("Allow", ALLOW);
        response.add_header("Supported", "timer");
        if let Some(expires) = request.header("Session-Expires").and_then(|text| SessionExpires::parse(&text)) {
            let refresher = Some(expires.refresher.unwrap_or(Refresher::Uac));
            response.add_header("Session-Expires", &SessionExpires { refresher, ..expires }.to_string());
        }
        let offered = targets(request.body(), fallback).filter(|_| !request.body().is_empty());
        if offered.is_some() || is_invite {
            let mut directions = [Direction::SendOnly; 2];
            if let Some(offered) = &offered {
                for (direction, target) in directions.iter_mut().zip(offered) {
                    *direction = if target.is_some() { Direction::SendOnly } else { Direction::Inactive };
                }
                call.sdp_version += 1;
            }
            let Call { identity, ports, sdp_version, .. } = call;
            let sdp = identity.sdp(*sdp_version, self.config.media_address, *ports, self.config.codec, directions);
            response.set_body("application/sdp", Bytes::from(sdp));
        }
        if is_invite && let Ok(cseq) = request.cseq() {
            let accepted = AcceptedInvite::new(now, cseq.number, self.flow, response.to_bytes(), &self.config.timers);
            self.deadlines.set((number, Due::Accepted), accepted.poll_timeout());
            call.accepted = Some(accepted);
        }
        self.layer.respond(now, id, response);
        if let Some(targets) = offered {
            self.outputs.push_back(AgentOutput::Changed { call: number, targets });
        }
    }

    fn end(&mut self, number: CallNumber, outcome: Outcome) {
        let Some(call) = self.calls.remove(&number) else { return };
        if let Some(dialog) = call.dialog {
            self.dialogs.remove(&dialog.id);
        }
        for due in [Due::HangUp, Due::Refresh, Due::Accepted] {
            self.deadlines.cancel(&(number, due));
        }
        self.requests.remove(&call.id);
        self.outputs.push_back(AgentOutput::Ended { call: number, outcome });
    }
}

/// Where the server wants the two streams; `None` if `body` is no SDP.
fn targets(body: &[u8], fallback: IpAddr) -> Option<Targets> {
    let sdp = Sdp::parse(body).ok()?;
    let mut targets = [None, None];
    for (target, media) in targets.iter_mut().zip(&sdp.media) {
        let receives = matches!(media.direction, Direction::RecvOnly | Direction::SendRecv);
        let on_hold = media.address.is_some_and(|address| address.is_unspecified());
        if receives && !on_hold && media.port != 0 {
            let rtp = media.rtp_address().unwrap_or(SocketAddr::new(fallback, media.port));
            *target = Some(Target { rtp, rtcp: media.rtcp_address().unwrap_or(rtp) });
        }
    }
    Some(targets)
}

/// Half of the session interval, if the server made us its refresher.
fn refresh_interval(response: &Message) -> Option<Duration> {
    let expires = SessionExpires::parse(&response.header("Session-Expires")?)?;
    let ours = expires.refresher != Some(Refresher::Uas);
    (ours && expires.seconds >= 10).then(|| Duration::from_secs(u64::from(expires.seconds) / 2))
}

#[cfg(test)]
mod tests;
