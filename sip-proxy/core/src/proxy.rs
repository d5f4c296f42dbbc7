//! The proxy itself: messages in, what is to be done out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::deadline::DeadlineQueue;
use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip::ids::IdMap;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::transaction::{
    ClientTransactionId, ServerTransactionId, Timers, TransactionEvent, TransactionLayer, TransactionLimits,
    TransactionOutput,
};
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::SmallVec;

use crate::branch::{Branches, Deciding};
use crate::config::{Fork, ProxyConfig};
use crate::context::{Context, ContextId};
use crate::done::RequestDone;
use crate::failover::{Client, Due, Failed, Silence};
use crate::flow_token;
use crate::forward::count_hop;
use crate::group::{GroupEvent, Groups};
use crate::identity::Identity;
use crate::location::{Contact, Location};
use crate::preprocess::{Preprocessed, preprocess};
use crate::rescue::Trouble;
use crate::stateless::Lookup;
use crate::target::{
    Decided, Decision, LocateTarget, Next, Routed, Router, Target, Ticket, as_request_uri, headers_of, next_of,
};
use crate::validate::{fit_to_forward, well_formed};
use crate::witnessed::{Witnessed, dialog_of, is_sealed, may_begin};

/// What the proxy wants done.
#[derive(Debug)]
pub enum ProxyOutput {
    /// Send bytes.
    Transmit {
        /// Where.
        to: Destination,
        /// What.
        bytes: Bytes,
    },
    /// Look a name up (RFC 3263); the answer goes to [`Proxy::handle_located`].
    Locate {
        /// To answer with.
        ticket: Ticket,
        /// What.
        target: LocateTarget,
    },
    /// A request is over.
    Done(Box<RequestDone>),
    /// Something about a group.
    Group(GroupEvent),
    /// A request was refused or dropped before it got anywhere.
    Rejected {
        /// Why, as a metric's label.
        reason: &'static str,
        /// Who sent it.
        source: IpAddr,
    },
}

/// Who takes a message.
#[derive(Debug)]
pub enum Handled {
    /// The proxy took it.
    Taken,
    /// It is for this node's recorder, untouched.
    Local(Message),
}

/// In units of T1: when timer E of a client has grown to T2, a request that is no INVITE gets its 100 (RFC 4320 4.1).
const TRYING_OTHERS: u32 = 7;

/// New calls counted for the limit over all.
#[derive(Debug, Default)]
struct Rate {
    from: Option<Instant>,
    count: u32,
}

/// The proxy of one node.
#[derive(Debug)]
pub struct Proxy {
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) identity: Identity,
    pub(crate) branches: Branches,
    pub(crate) layer: TransactionLayer,
    pub(crate) rng: SmallRng,
    pub(crate) groups: Groups,
    location: Option<Box<dyn Location>>,
    pub(crate) contexts: IdMap<ContextId, Box<Context>>,
    pub(crate) by_server: IdMap<ServerTransactionId, ContextId>,
    pub(crate) clients: IdMap<ClientTransactionId, Client>,
    /// Attempts without a final answer, by element.
    pub(crate) waiting: BTreeSet<(crate::group::ElementId, ClientTransactionId)>,
    pub(crate) lookups: IdMap<Ticket, Lookup>,
    pub(crate) deadlines: DeadlineQueue<Due>,
    /// Hops that did not take TCP, until when they are not asked again.
    pub(crate) without_tcp: HashMap<SocketAddr, Instant>,
    /// Dialogs that requests may say they belong to.
    pub(crate) witnessed: Witnessed,
    decided: Option<Decided>,
    next_context: u64,
    pub(crate) next_ticket: u64,
    rate: Rate,
    /// What rules look at.
    pub(crate) deciding: Deciding,
    /// Requests without state that wait for a name.
    pub(crate) stateless_lookups: usize,
    pub(crate) timers: Timers,
    /// The same moment on both clocks.
    clock: (Instant, u64),
    draining: bool,
    /// Messages wait: calls that begin are turned away unread.
    pub(crate) crowded: bool,
    pub(crate) outputs: VecDeque<ProxyOutput>,
}

impl Proxy {
    /// A proxy; `unix_s` is what the wall clock shows at `now`.
    pub fn new(
        config: ProxyConfig,
        timers: Timers,
        limits: TransactionLimits,
        now: Instant,
        unix_s: u64,
        seed: u64,
    ) -> Proxy {
        let mut rng = SmallRng::seed_from_u64(seed);
        let layer = TransactionLayer::new(timers, limits, rng.random()).for_proxy();
        let branches = Branches::new(rng.random(), rng.random());
        let mut proxy = Proxy {
            identity: Identity::new(&config),
            branches,
            layer,
            rng,
            groups: Groups::new(Duration::from_secs(4 * 3_600)),
            location: None,
            contexts: IdMap::default(),
            by_server: IdMap::default(),
            clients: IdMap::default(),
            waiting: BTreeSet::new(),
            lookups: IdMap::default(),
            deadlines: DeadlineQueue::default(),
            without_tcp: HashMap::new(),
            witnessed: Witnessed::default(),
            decided: None,
            next_context: 0,
            next_ticket: 0,
            rate: Rate::default(),
            deciding: Deciding::default(),
            stateless_lookups: 0,
            timers,
            clock: (now, unix_s),
            draining: false,
            crowded: false,
            outputs: VecDeque::new(),
            config: Arc::new(config.clone()),
        };
        proxy.apply(now, config);
        proxy
    }

    /// The same under a secret that outlives the process: answers to requests that were forwarded before a restart, and
    /// Record-Routes made before it, are known as ours.
    pub fn with_secret(mut self, secret: u64) -> Proxy {
        self.branches = self.branches.under(secret);
        self
    }

    /// Takes over another configuration. Requests under way go on as they were decided; whoever they ask next is of the new one.
    pub fn apply(&mut self, now: Instant, config: ProxyConfig) {
        self.identity = Identity::new(&config);
        self.groups.apply(now, config.groups.clone(), config.record_route);
        self.deciding = Deciding::of(&config.routes);
        self.config = Arc::new(config);
    }

    /// Puts a registrar to work, and gives back the one before.
    pub fn set_location(&mut self, location: Option<Box<dyn Location>>) -> Option<Box<dyn Location>> {
        std::mem::replace(&mut self.location, location)
    }

    /// The registrar.
    pub fn location(&mut self) -> Option<&mut (dyn Location + 'static)> {
        self.location.as_deref_mut()
    }

    /// A value of Route by which another node of the cluster reaches a phone that registered over this flow: requests come
    /// here and go along it (RFC 5626 5.3). `None`: there is no listener for it.
    pub fn hop(&self, flow: &Flow) -> Option<String> {
        let (host, transport) = self.identity.hand_over(flow)?;
        Some(format!("<sip:{}@{host}{transport};lr>", flow_token::seal_hop(&self.branches, flow)))
    }

    /// Follows the wall clock.
    pub fn set_clock(&mut self, now: Instant, unix_s: u64) {
        self.clock = (now, unix_s);
    }

    /// Takes no new calls from now on.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Tells whether more messages wait than there should: calls that begin get 503 then, at little cost, so that those
    /// that run are served.
    pub fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// The server groups.
    pub fn groups(&mut self) -> &mut Groups {
        &mut self.groups
    }

    /// The configuration at work.
    pub fn config(&self) -> &Arc<ProxyConfig> {
        &self.config
    }

    /// What a node that goes down should wait for: requests under way, and calls whose end passes here.
    pub fn unfinished(&self) -> usize {
        self.contexts.len() + if self.config.record_route { self.groups.dialogs() } else { 0 }
    }

    /// Requests under way.
    pub fn open(&self) -> usize {
        self.contexts.len()
    }

    /// Transactions kept, lingering ones included.
    pub fn transactions(&self) -> usize {
        self.layer.len()
    }

    /// How many entries each table has, for those who watch for growth.
    pub fn tables(&self) -> [(&'static str, usize); 9] {
        [
            ("requests", self.contexts.len()),
            ("servers", self.by_server.len()),
            ("clients", self.clients.len()),
            ("waiting", self.waiting.len()),
            ("lookups", self.lookups.len()),
            ("deadlines", self.deadlines.len()),
            ("without-tcp", self.without_tcp.len()),
            ("witnessed", self.witnessed.len()),
            ("transactions", self.layer.len()),
        ]
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<ProxyOutput> {
        if let Some(event) = self.groups.poll_event() {
            return Some(ProxyOutput::Group(event));
        }
        self.outputs.pop_front()
    }

    /// When [`Proxy::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let location = self.location.as_mut().and_then(|location| location.poll_timeout());
        let own = [self.layer.poll_timeout(), self.deadlines.next_deadline(), self.groups.poll_timeout(), location];
        own.into_iter().flatten().min()
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.drain(now);
        while let Some(due) = self.deadlines.pop_due(now) {
            match due {
                Due::Answer(client) => self.handle_no_answer(now, client),
                Due::Trying(context) => self.send_trying(now, context),
            }
        }
        self.probe(now);
        if let Some(location) = &mut self.location {
            location.handle_timeout(now);
        }
        self.drain(now);
    }

    /// A flow broke.
    pub fn handle_transport_error(&mut self, now: Instant, to: impl Into<Destination>) {
        let to = to.into();
        let flow = &to.flow;
        self.layer.handle_transport_error(now, &to);
        if flow.transport == Transport::Tcp && flow.connection == 0 {
            // A large request without state is never heard of again: what comes next goes as a datagram.
            self.note_without_tcp(now, flow.remote);
        }
        if flow.transport.is_reliable()
            && flow.connection != 0
            && let Some(location) = &mut self.location
        {
            location.flow_failed(now, flow);
        }
        self.drain(now);
    }

    /// Takes a message from a transport. `is_local` tells whether the recorder waits for it: a request that comes again, an ACK.
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
        flow: Flow,
        is_local: impl Fn(&Message) -> bool,
    ) -> Handled {
        if !message.is_request() {
            if let Some(stray) = self.layer.handle_awaited(now, message, flow) {
                if is_local(&stray) {
                    return Handled::Local(stray);
                }
                self.layer.handle_message(now, stray, flow);
            }
            self.drain(now);
            return Handled::Taken;
        }
        if self.is_scanner(&message) {
            self.outputs.push_back(ProxyOutput::Rejected { reason: "scanner", source: flow.remote.ip() });
            return Handled::Taken;
        }
        let arrival = match self.layer.arrival(&message, &flow) {
            Ok(arrival) if self.layer.knows(&arrival) => {
                self.layer.handle_request(now, message, flow, arrival);
                self.drain(now);
                return Handled::Taken;
            }
            Ok(arrival) => Some(arrival),
            Err(_) => None,
        };
        // The recorder refuses strangers itself, and knows what it has begun.
        if self.is_stranger(&flow) || is_local(&message) {
            return Handled::Local(message);
        }
        let Some(message) = self.shed(message, &flow, arrival.as_ref()) else {
            self.drain(now);
            return Handled::Taken;
        };
        let mut decided = self.decide(now, &message, &flow);
        if matches!(decided.decision, Decision::Local) {
            return Handled::Local(message);
        }
        let method = message.method();
        if method == Method::Ack {
            self.forward_stateless(now, message, flow, decided.decision, &decided.before);
            return Handled::Taken;
        }
        if method == Method::Cancel
            && let Decision::Forward(sets) = &decided.decision
            && sets.iter().flatten().all(|target| matches!(target.next, Next::Hops(_)))
        {
            self.forward_stateless(now, message, flow, decided.decision, &decided.before);
            return Handled::Taken;
        }
        let Some(arrival) = arrival else {
            self.refuse_unreadable(&message, flow, decided.decision);
            return Handled::Taken;
        };
        if matches!(decided.decision, Decision::Register)
            && let Some(challenge) = self.challenge(now, &message, &flow)
        {
            let done =
                RequestDone { status: challenge.status, side: "registrar", ..self.done(&message, &flow, &mut decided) };
            self.layer.respond_stateless(message, &arrival, |request| {
                let mut response = challenge.response(request);
                response.set_to_tag(&arrival.tag());
                response
            });
            self.drain(now);
            self.outputs.push_back(ProxyOutput::Done(Box::new(done)));
            return Handled::Taken;
        }
        self.decided = Some(decided);
        self.layer.handle_request(now, message, flow, arrival);
        self.drain(now);
        self.decided = None;
        Handled::Taken
    }

    /// Without a Via that can be read there is no transaction; the way back is the way that it came (RFC 4475 3.1.2.1).
    fn refuse_unreadable(&mut self, request: &Message, flow: Flow, decision: Decision) {
        let Decision::Reject(reject, _) = decision else { return };
        self.outputs.push_back(ProxyOutput::Rejected { reason: "invalid", source: flow.remote.ip() });
        if request.header("Via").is_none() {
            return;
        }
        let mut response = reject.response(request);
        response.set_to_tag("malformed");
        self.outputs.push_back(ProxyOutput::Transmit { to: flow.into(), bytes: response.to_bytes() });
    }

    /// Nobody that we trust, and none of the elements that we send to.
    pub(crate) fn is_stranger(&self, flow: &Flow) -> bool {
        let address = flow.remote.ip();
        self.config.trust.tenant_of(address).is_none() && !self.groups.has_element_at(address)
    }

    fn is_scanner(&self, message: &Message) -> bool {
        let Some(agent) = message.header("User-Agent") else { return false };
        let begins = |name: &String| agent.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        self.config.scanners.iter().any(begins)
    }

    /// Steps 1 to 3: what becomes of a request.
    fn decide(&mut self, now: Instant, request: &Message, flow: &Flow) -> Decided {
        let source = flow.remote.ip();
        let before = self.preprocessed(request);
        let call = self.call_hash(request);
        let (in_dialog, is_proven) = self.belonging(request, flow, &before);
        let router = Router { config: &self.config, identity: &self.identity, groups: &self.groups, call, in_dialog };
        let Routed { decision, rule, is_initial, is_recording } = router.decide(request, flow, &before);
        if matches!(decision, Ok(Decision::Local)) {
            let decision = Decision::Local;
            return Decided { decision, rule, before, is_initial, is_recording, in_dialog, is_proven, source };
        }
        let decision = match well_formed(request) {
            Err(reject) => Decision::Reject(reject, "invalid"),
            // Along a hop it was let in by the node that took it.
            Ok(()) => self.permit(now, request, flow, in_dialog || before.is_hop()).unwrap_or_else(|| match decision {
                Ok(decision) => decision,
                Err(aor) => self.contacts(now, &aor, request),
            }),
        };
        let decision = match decision {
            Decision::Forward(sets) => {
                match fit_to_forward(request, &self.branches, || self.branches.way_of(request, flow, &self.deciding)) {
                    Ok(()) => Decision::Forward(sets),
                    Err(reject) => Decision::Reject(reject, "invalid"),
                }
            }
            Decision::Local | Decision::Reply(..) | Decision::Reject(..) | Decision::Register => decision,
        };
        if is_proven && let Some(dialog) = dialog_of(&self.branches, request) {
            self.witnessed.note(now, dialog);
        }
        Decided { decision, rule, before, is_initial, is_recording, in_dialog, is_proven, source }
    }

    /// Whether a request is believed to belong to a dialog, and whether it proves it.
    pub(crate) fn belonging(&self, request: &Message, flow: &Flow, before: &Preprocessed) -> (bool, bool) {
        let (claims, proof) = (is_in_dialog(request), self.config.wants_proof());
        if !claims || !proof || !may_begin(&request.method()) {
            return (claims, false);
        }
        let is_proven = self.groups.has_element_at(flow.remote.ip())
            || dialog_of(&self.branches, request).is_some_and(|dialog| self.witnessed.has(dialog))
            || before.seal.as_ref().is_some_and(|seal| is_sealed(&self.branches, request, seal));
        (is_proven || !self.config.authenticate, is_proven)
    }

    /// What its Route says, and the flow that a Record-Route of ours remembers.
    pub(crate) fn preprocessed(&self, request: &Message) -> Preprocessed {
        let mut before = preprocess(request, &self.identity);
        let within = |token: &String| flow_token::open(&self.branches, token);
        let hop = |hop: &String| flow_token::open_hop(&self.branches, hop);
        let opened = before.token.as_ref().and_then(within).or_else(|| before.hop.as_ref().and_then(hop));
        before.along = opened.map(|(transport, remote, connection)| {
            let (local, _) = self.identity.outgoing(transport, remote, None, before.leaves_by);
            Flow { transport, local, remote, connection }
        });
        before
    }

    /// Requests that begin something may need a password; `None` lets it pass. A Route of its own makes none belong to a dialog.
    fn permit(&mut self, now: Instant, request: &Message, flow: &Flow, in_dialog: bool) -> Option<Decision> {
        let asked = matches!(request.method(), Method::Register | Method::Ack | Method::Cancel);
        if !self.config.authenticate || in_dialog || asked {
            return None;
        }
        let from = Uri::parse(&request.from_uri().ok()?).ok()?;
        if !self.config.domains.iter().any(|domain| domain.eq_ignore_ascii_case(&from.host)) {
            return None;
        }
        let unix_s = self.unix_s(now);
        let Some(location) = self.location.as_mut() else {
            // Nobody can tell whether the password is right.
            return Some(Decision::Reject(
                Reject::because(503, "Registrar Not Available").with("Retry-After", "5"),
                "registrar",
            ));
        };
        let challenge = location.authenticate(now, unix_s, request, flow)?;
        Some(Decision::Reply(Box::new(challenge), "challenge"))
    }

    /// The challenge for a REGISTER of our domains that shows no password where one is needed.
    fn challenge(&mut self, now: Instant, request: &Message, flow: &Flow) -> Option<Reject> {
        let unix_s = self.unix_s(now);
        self.location.as_mut()?.challenge(unix_s, request, flow)
    }

    /// The registered contacts as targets: sets by q, or one by one.
    fn contacts(&self, now: Instant, aor: &Uri, request: &Message) -> Decision {
        let is_invite = request.method() == Method::Invite;
        let refuse = |trouble: Trouble| Decision::Reject(trouble.reject(is_invite), trouble.as_str());
        let Some(location) = &self.location else { return refuse(Trouble::NoUser) };
        let Some(contacts) = location.lookup(now, aor) else { return refuse(Trouble::NoUser) };
        let mut sets: Vec<(u16, Vec<Target>)> = Vec::new();
        for Contact { uri, q, path, flow } in contacts {
            // A contact is a URI by itself: what follows a semicolon is its own. A Path value is in brackets.
            let first = path.first().map_or_else(|| uri.clone(), |value| crate::preprocess::uri_of(value));
            let next = match flow {
                Some(flow) => Ok(Next::Flow(flow)),
                None => Uri::parse(&first).map_err(|_| Trouble::BadUri).and_then(|uri| next_of(&uri)),
            };
            let Ok(next) = next else { continue };
            let target = Target { uri: Some(as_request_uri(uri)), routes: path, next };
            match sets.last_mut().filter(|(have, _)| *have == q && self.config.fork == Fork::Parallel) {
                Some((_, set)) => set.push(target),
                None => sets.push((q, vec![target])),
            }
        }
        if sets.is_empty() {
            refuse(Trouble::NotRegistered)
        } else {
            Decision::Forward(sets.into_iter().map(|(_, set)| set).collect())
        }
    }

    pub(crate) fn call_hash(&self, request: &Message) -> u64 {
        self.branches.keyed(&request.call_id().unwrap_or_default())
    }

    fn unix_s(&self, now: Instant) -> u64 {
        self.clock.1 + now.saturating_duration_since(self.clock.0).as_secs()
    }

    pub(crate) fn drain(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll_output() {
            match output {
                TransactionOutput::Transmit { to, bytes } => {
                    self.outputs.push_back(ProxyOutput::Transmit { to, bytes })
                }
                TransactionOutput::Event(event) => self.handle_event(now, event),
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: TransactionEvent) {
        match event {
            TransactionEvent::Request { id, request, flow } => self.handle_request(now, id, request, flow),
            TransactionEvent::Cancel { id, .. } => self.handle_cancel(now, id),
            TransactionEvent::Response { id, response, .. } => self.handle_response(now, id, response),
            TransactionEvent::StrayResponse { response, .. } => self.respond_stateless(response),
            TransactionEvent::TimedOut { id } => match self.clients.remove(&id) {
                Some(Client::Attempt(context, at)) => self.silent(now, id, context, at, Silence::Over),
                Some(Client::Probe(_) | Client::GivenUp(..)) | None => {}
            },
            TransactionEvent::TransportError { id } => match self.clients.remove(&id) {
                Some(Client::Attempt(context, at)) => self.fail(now, context, at, Failed::Unreachable),
                Some(Client::Probe(element)) => {
                    self.deadlines.cancel(&Due::Answer(id));
                    self.probe_missed(now, element);
                }
                Some(Client::GivenUp(..)) | None => {}
            },
            TransactionEvent::ConnectionLost { id } => self.connection_lost(now, id),
            TransactionEvent::Overloaded => {
                if let Some(decided) = &self.decided {
                    self.outputs.push_back(ProxyOutput::Rejected { reason: "transactions", source: decided.source });
                }
            }
            // The ACK to a 2xx that was sent under the INVITE's branch: it goes on like any other.
            TransactionEvent::Ack { request, flow } => {
                let decided = self.decide(now, &request, &flow);
                self.forward_stateless(now, request, flow, decided.decision, &decided.before);
            }
            TransactionEvent::AckTimedOut { .. } => {}
        }
    }

    fn handle_request(&mut self, now: Instant, id: ServerTransactionId, request: Message, flow: Flow) {
        let Some(mut decided) = self.decided.take() else { return };
        let is_invite = request.method() == Method::Invite;
        let done = self.done(&request, &flow, &mut decided);
        let Decided { decision, before, in_dialog, is_proven, .. } = decided;
        let sets = match decision {
            Decision::Forward(sets) => match self.overload(now, in_dialog, is_invite, is_proven) {
                None => sets,
                Some(trouble) => {
                    let reject = trouble.reject(is_invite);
                    return self.answer(now, id, reject.response(&request), done, trouble.as_str());
                }
            },
            Decision::Reject(reject, side) => return self.answer(now, id, reject.response(&request), done, side),
            Decision::Reply(response, side) => return self.answer(now, id, *response, done, side),
            Decision::Register => {
                let unix_s = self.unix_s(now);
                let response = match &mut self.location {
                    Some(location) => location.register(now, unix_s, &request, &flow),
                    None => Reject::new(405).response(&request),
                };
                return self.answer(now, id, response, done, "registrar");
            }
            Decision::Local => return,
        };
        if is_invite {
            let trying = Message::response(&request, 100, None);
            self.layer.respond(now, id, trying);
        }
        let call = self.call_hash(&request);
        let way = self.branches.way_of(&request, &flow, &self.deciding);
        let mut copy = request;
        before.apply(&mut copy);
        count_hop(&mut copy);
        let in_dialog = is_in_dialog(&copy);
        // A NOTIFY may come before the answer to its SUBSCRIBE, and then makes the dialog (RFC 6665 4.3).
        let makes_dialog = matches!(copy.method(), Method::Invite | Method::Subscribe | Method::Refer) && !in_dialog
            || copy.method() == Method::Notify;
        self.next_context += 1;
        let context = ContextId(self.next_context);
        self.by_server.insert(id, context);
        self.contexts.insert(
            context,
            Box::new(Context {
                server: id,
                request: copy,
                flow,
                received: now,
                is_invite,
                begins_call: is_invite && !in_dialog,
                call,
                way,
                leaves_by: before.leaves_by,
                records_route: self.config.record_route && makes_dialog,
                sets: sets.into(),
                branches: SmallVec::new(),
                best: None,
                stopped: false,
                done,
            }),
        );
        if !is_invite {
            self.deadlines.set(Due::Trying(context), now + self.timers.t1 * TRYING_OTHERS);
        }
        self.next_set(now, context);
    }

    /// Too many requests at once, or too many new calls. What belongs to a call that runs finds room beyond the limit.
    fn overload(&mut self, now: Instant, in_dialog: bool, is_invite: bool, is_proven: bool) -> Option<Trouble> {
        let room = if in_dialog { self.config.max_open + self.config.max_open / 4 } else { self.config.max_open };
        if self.contexts.len() >= room || (self.draining && is_invite && !in_dialog) {
            return Some(Trouble::Overload);
        }
        // An INVITE that only says it belongs to a call counts as one.
        let most = self.config.calls_per_second.filter(|_| is_invite && !is_proven)?;
        if self.rate.from.is_none_or(|from| now.saturating_duration_since(from) >= Duration::from_secs(1)) {
            self.rate = Rate { from: Some(now), count: 0 };
        }
        self.rate.count += 1;
        (self.rate.count > most).then_some(Trouble::Overload)
    }

    /// What is told of a request that is answered here or goes on, its end left open.
    fn done(&self, request: &Message, flow: &Flow, decided: &mut Decided) -> RequestDone {
        RequestDone {
            method: request.method().as_str().to_owned(),
            call_id: request.call_id().unwrap_or_default().into_owned(),
            from: request.from_uri().unwrap_or_default().into_owned(),
            request_uri: request.request_uri().unwrap_or_default().into_owned(),
            source: flow.remote,
            transport: flow.transport,
            listener: flow.local,
            is_recording: decided.is_recording,
            is_initial: decided.is_initial,
            headers: headers_of(request, &self.deciding.headers),
            rule: decided.rule.take(),
            group: None,
            element: None,
            tries: 0,
            status: 0,
            side: "",
            elapsed: Duration::ZERO,
        }
    }

    /// Answers a request that was not forwarded.
    fn answer(
        &mut self,
        now: Instant,
        id: ServerTransactionId,
        mut response: Message,
        mut done: RequestDone,
        side: &'static str,
    ) {
        let status = response.status().unwrap_or(500);
        let tag: u64 = self.rng.random();
        response.set_to_tag(&format!("{tag:016x}"));
        self.layer.respond(now, id, response);
        (done.status, done.side) = (status, side);
        self.outputs.push_back(ProxyOutput::Done(Box::new(done)));
    }
}

/// It belongs to a dialog, or says so.
fn is_in_dialog(request: &Message) -> bool {
    request.to_tag().is_some()
}
