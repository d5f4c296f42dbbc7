//! All calls of a run as a session recording client sees them, without I/O.
//!
//! ```text
//! start --INVITE--> Calling --200, ACK--> Talking --hold over, BYE--> Leaving --200--> Completed
//!                      |  3xx-6xx: Refused    |  BYE from the server: EndedByServer
//!                      |  timer B: NoAnswer   |  OPTIONS, UPDATE, INFO, re-INVITE: answered
//! ```
//!
//! A 2xx that comes again is acknowledged again. The session is refreshed by UPDATE
//! at half time when the server makes us the refresher (RFC 4028). A re-INVITE or
//! UPDATE with SDP is answered with the same two streams, sent to where it says from
//! then on ([`peer`]); a stream that the server no longer receives falls silent, as
//! on a pause by the server.
//!
//! Requests go where RFC 3261 12.2.1.1 sends them, over RFC 3263 ([`ways`]). One that
//! meets a transport error, silence or 503 goes on to the next server, if there is
//! one, as a transaction of its own. An INVITE that was left behind may still be
//! answered: the first 2xx makes the call, any other dialog is acknowledged and ended
//! (RFC 3261 13.2.2.4).
//!
//! Contract: `start`, `handle_message`, `handle_timeout` or `stop`, then
//! `poll_output` until `None`, then `poll_timeout`.

mod attempts;
mod invite;
mod peer;
mod ways;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_locate::{Answer, DnsClient, DnsFailure, QueryId};
use ferric_sip::deadline::DeadlineQueue;
use ferric_sip::dialog::{AcceptedInvite, Dialog, DialogId};
use ferric_sip::flow::Destination;
use ferric_sip::header::{Refresher, SessionExpires};
use ferric_sip::sdp::{Direction, Sdp};
use ferric_sip::transaction::{
    ClientTransactionId, Timers, TransactionEvent, TransactionLayer, TransactionLimits, TransactionOutput,
};
use ferric_sip::{Flow, Message, Method};

use self::ways::{Attempt, Ways};
use super::config::LoadCodec;
use super::offer::{Identity, contact};
use super::report::Outcome;

pub(super) use self::ways::Ends;

/// A request that was heard of may take so many times longer than one that was not before the next server is tried.
const HEARD_PATIENCE: u32 = 3;

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
    /// Send bytes.
    Transmit { to: Destination, bytes: Bytes },
    /// The server answered; RTP begins.
    Answered { call: CallNumber, set_up: Duration, targets: Targets },
    /// The server moved or stopped streams.
    Changed { call: CallNumber, method: Method, targets: Targets },
    /// The server wanted to move streams and was refused.
    Declined { call: CallNumber, method: Method },
    /// The call is over.
    Ended { call: CallNumber, outcome: Outcome },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Due {
    HangUp,
    Refresh,
    Accepted,
    /// Nothing, or nothing more, was heard of a request.
    Silent(ClientTransactionId),
}

/// What a request of ours was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Invite,
    Refresh,
    Bye,
    Cancel,
    /// The ACK to a 2xx.
    Ack,
    /// An INVITE that was tried elsewhere, and the BYE of the call that it made all the same.
    Surplus,
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
    /// The INVITE's latest transaction, whose 2xx may come again; none before it was sent.
    id: Option<ClientTransactionId>,
    state: State,
    started: Instant,
    dialog: Option<Dialog>,
    /// Where the last word of the dialog came from.
    known: Option<Flow>,
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
    /// What servers must prove to be under TLS, if not the host of the URI.
    pub(super) server_name: Option<Arc<str>>,
    /// After so long without an answer the next server is tried.
    pub(super) patience: Duration,
    /// UPDATE is understood.
    pub(super) update: bool,
    /// Offers of the server are refused with 488.
    pub(super) refuse_moves: bool,
}

impl AgentConfig {
    /// The methods that the source answers.
    pub(super) fn allow(&self) -> &'static str {
        if self.update {
            "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO"
        } else {
            "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO"
        }
    }
}

/// All calls of a run.
#[derive(Debug)]
pub(super) struct Agent {
    config: AgentConfig,
    ways: Ways,
    layer: TransactionLayer,
    calls: HashMap<CallNumber, Call>,
    dialogs: HashMap<DialogId, CallNumber>,
    requests: HashMap<ClientTransactionId, Attempt>,
    deadlines: DeadlineQueue<(CallNumber, Due)>,
    outputs: VecDeque<AgentOutput>,
}

impl Agent {
    /// An agent with these sockets.
    pub(super) fn new(config: AgentConfig, ends: Ends) -> Agent {
        // A call lingers as INVITE, BYE and what the server asked meanwhile.
        let limits = TransactionLimits { transactions: config.calls.saturating_mul(8).saturating_add(1_000) };
        Agent {
            layer: TransactionLayer::new(config.timers, limits, config.seed),
            ways: Ways::new(ends, config.server_name.clone(), config.seed),
            config,
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
        let mut invite = identity.invite(&self.config.uri, &self.contact(), &sdp, wall);
        invite.add_header("Allow", self.config.allow());
        let call_state = Call {
            identity,
            invite: invite.clone(),
            ports,
            id: None,
            state: State::Calling { ringing: false, cancelled: false },
            started: now,
            dialog: None,
            known: None,
            sdp_version: 1,
            accepted: None,
            refresh_every: None,
        };
        self.calls.insert(call, call_state);
        let uri = self.config.uri.clone();
        self.send(now, call, Purpose::Invite, invite, &uri);
    }

    fn contact(&self) -> String {
        let ends = self.ways.ends();
        contact(ends.of(ends.transport), ends.transport)
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
                    if let Some(id) = id.filter(|_| cancel) {
                        self.cancel(now, call, id);
                    }
                }
                Some((_, State::Leaving(_))) | None => {}
            }
        }
    }

    /// Calls that are not over.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// What was sent there did not arrive, or its answer will not.
    pub(super) fn handle_broken(&mut self, now: Instant, to: Destination) {
        self.ways.avoid(now, to.flow.remote);
        self.layer.handle_transport_error(now, to);
        self.drain(now);
    }

    /// Takes a message.
    pub(super) fn handle_message(&mut self, now: Instant, message: Message, flow: Flow) {
        self.layer.handle_message(now, message, flow);
        self.drain(now);
    }

    /// Takes the answer of a DNS server.
    pub(super) fn handle_answer(&mut self, now: Instant, id: QueryId, answer: Result<Answer, DnsFailure>) {
        self.ways.handle_answer(now, id, answer);
        self.send_found(now);
    }

    /// Asks DNS what is to be known.
    pub(super) fn pump(&mut self, now: Instant, dns: &DnsClient) {
        self.ways.pump(now, dns);
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.drain(now);
        self.ways.handle_timeout(now);
        self.send_found(now);
        while let Some((call, due)) = self.deadlines.pop_due(now) {
            match due {
                Due::HangUp => self.hang_up(now, call, BecauseOf::HoldOver),
                Due::Refresh => self.refresh(now, call),
                Due::Accepted => self.repeat_accepted(now, call),
                Due::Silent(id) => self.handle_silence(now, call, id),
            }
        }
        self.drain(now);
    }

    /// When [`Agent::handle_timeout`] is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let due = [self.layer.poll_timeout(), self.deadlines.next_deadline(), self.ways.poll_timeout()];
        due.into_iter().flatten().min()
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
                TransactionOutput::Transmit { to, bytes } => {
                    self.outputs.push_back(AgentOutput::Transmit { to, bytes })
                }
                TransactionOutput::Event(event) => tracing::debug!(?event, "event outside of its turn"),
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll_output() {
            match output {
                TransactionOutput::Transmit { to, bytes } => {
                    self.outputs.push_back(AgentOutput::Transmit { to, bytes })
                }
                TransactionOutput::Event(event) => self.handle_event(now, event),
            }
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)]
    fn handle_event(&mut self, now: Instant, event: TransactionEvent) {
        match event {
            TransactionEvent::Response { id, response, flow } => self.handle_response(now, id, &response, flow),
            TransactionEvent::TimedOut { id } => self.handle_failure(now, id, Outcome::NoAnswer),
            TransactionEvent::TransportError { id } | TransactionEvent::ConnectionLost { id } => {
                self.handle_failure(now, id, Outcome::Unreachable)
            }
            TransactionEvent::Request { id, request, flow } => self.handle_request(now, id, &request, flow),
            TransactionEvent::Ack { request, .. } => self.handle_ack(&request),
            // Strays and lingering transactions are the server's affair.
            _ => {}
        }
    }

    fn handle_response(&mut self, now: Instant, id: ClientTransactionId, response: &Message, flow: Flow) {
        let Some((call, purpose)) = self.requests.get(&id).map(|attempt| (attempt.call, attempt.purpose)) else {
            return;
        };
        let status = response.status().unwrap_or(500);
        if let Some(call) = self.calls.get_mut(&call).filter(|call| call.dialog.is_some()) {
            call.known = Some(flow);
        }
        if status == 503 && self.go_on(now, id) {
            self.requests.remove(&id);
            return self.deadlines.cancel(&(call, Due::Silent(id)));
        }
        match purpose {
            Purpose::Invite | Purpose::Surplus if response.method() == Method::Invite => {
                self.handle_invite_response(now, call, id, status, response, flow);
            }
            Purpose::Refresh if status >= 200 => {
                self.requests.remove(&id);
                self.deadlines.cancel(&(call, Due::Silent(id)));
                let Some(call_state) = self.calls.get_mut(&call) else { return };
                if let Some(dialog) = call_state.dialog.as_mut().filter(|_| status < 300) {
                    dialog.refresh_target(response);
                }
                // 2xx: once more at half time. Else the next try comes as soon, and the session may expire.
                if let Some(every) = call_state.refresh_every {
                    self.deadlines.set((call, Due::Refresh), now + every);
                }
            }
            Purpose::Bye if status >= 200 => {
                self.requests.remove(&id);
                self.deadlines.cancel(&(call, Due::Silent(id)));
                let outcome = match self.calls.get(&call).map(|call| call.state) {
                    Some(State::Leaving(BecauseOf::BadAnswer)) => Outcome::BadAnswer,
                    Some(State::Leaving(BecauseOf::Cancelled)) => Outcome::Cancelled,
                    _ if status < 300 => Outcome::Completed,
                    _ => Outcome::ByeFailed(status),
                };
                self.end(call, outcome);
            }
            Purpose::Cancel | Purpose::Surplus if status >= 200 => {
                self.requests.remove(&id);
            }
            Purpose::Refresh | Purpose::Bye | Purpose::Cancel | Purpose::Ack | Purpose::Invite | Purpose::Surplus => {}
        }
    }

    fn hang_up(&mut self, now: Instant, number: CallNumber, why: BecauseOf) {
        let Some(call) = self.calls.get_mut(&number).filter(|call| call.state == State::Talking) else { return };
        let Some(dialog) = &mut call.dialog else { return };
        let (bye, next_hop) = (dialog.request(&Method::Bye), dialog.next_hop().to_owned());
        call.state = State::Leaving(why);
        self.send(now, number, Purpose::Bye, bye, &next_hop);
    }

    fn refresh(&mut self, now: Instant, number: CallNumber) {
        let contact = self.contact();
        let Some(call) = self.calls.get_mut(&number).filter(|call| call.state == State::Talking) else { return };
        let (Some(dialog), Some(every)) = (&mut call.dialog, call.refresh_every) else { return };
        let (mut update, next_hop) = (dialog.request(&Method::Update), dialog.next_hop().to_owned());
        update.add_header("Contact", &contact);
        update.add_header("Supported", "timer");
        update.add_header("Session-Expires", &format!("{};refresher=uac", every.as_secs() * 2));
        self.send(now, number, Purpose::Refresh, update, &next_hop);
    }

    fn end(&mut self, number: CallNumber, outcome: Outcome) {
        let Some(call) = self.calls.remove(&number) else { return };
        if let Some(dialog) = call.dialog {
            self.dialogs.remove(&dialog.id);
        }
        for due in [Due::HangUp, Due::Refresh, Due::Accepted] {
            self.deadlines.cancel(&(number, due));
        }
        if let Some(id) = call.id {
            self.deadlines.cancel(&(number, Due::Silent(id)));
            self.requests.remove(&id);
        }
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
