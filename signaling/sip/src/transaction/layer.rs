//! Matches messages to transactions, keeps their timers, carries out their actions.
//!
//! - A transaction that only lingers keeps its last bytes, the hash of its key and
//!   a deadline: the request goes as soon as no ACK, CANCEL or 100 can need it.
//! - The tables have the room for all transactions from the start: a table that
//!   grows under load stands still while it moves. Requests beyond the limit get 503.
//!   Requests of our own always find room: the core that sends them has its own limits.
//! - An error of a flow is told once to each request that waits on it ([`Waiting`]), and only
//!   while no final response is there. It ends no INVITE that was heard of: that one's
//!   answer comes over another connection (RFC 3261 17.1.4, 18.2.2; RFC 5923).
//! - Answers that we owe are nothing to this index: whoever carries them finds the way
//!   back when a connection is gone ([`way_back`](super::way_back)).

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::arrival::Arrival;
use super::carrier::Waiting;
use super::client_invite::ClientInvite;
use super::client_non_invite::ClientNonInvite;
use super::event::{ClientTransactionId, ServerTransactionId, TransactionEvent, TransactionOutput};
use super::key::{Key, KeyMaker};
use super::outgoing::{cancel_of, failure_ack, push_via, suit_stream};
use super::server_invite::ServerInvite;
use super::server_non_invite::ServerNonInvite;
use super::{Action, Actions, Class, Timer, Timers};
use crate::deadline::DeadlineQueue;
use crate::flow::{Destination, Flow};
use crate::header::HeaderError;
use crate::ids::IdMap;
use crate::message::Message;
use crate::method::Method;

/// Bounds of the layer.
#[derive(Debug, Clone, Copy)]
pub struct TransactionLimits {
    /// Transactions kept at once, lingering ones included; beyond, requests get 503.
    pub transactions: usize,
}

impl Default for TransactionLimits {
    fn default() -> TransactionLimits {
        TransactionLimits { transactions: 200_000 }
    }
}

/// One of the four machines, by their names in the RFC.
#[derive(Debug)]
#[allow(clippy::enum_variant_names)]
enum Machine {
    ClientInvite(ClientInvite),
    ClientNonInvite(ClientNonInvite),
    ServerInvite(ServerInvite),
    ServerNonInvite(ServerNonInvite),
}

#[derive(Debug)]
struct Transaction {
    machine: Machine,
    key: Key,
    merged: Option<Key>,
    /// Where requests or responses of it go.
    to: Destination,
    /// The request as sent, or the last response.
    bytes: Bytes,
    /// The request while it is needed: for ACK and CANCEL, or for a 100.
    request: Option<Box<Message>>,
    /// A client without a final response: listed under its flow.
    waiting: bool,
}

/// Tables are made for at most this many transactions; larger limits grow into theirs.
const MOST_ROOM: usize = 1 << 18;
/// Timers run by one call, so that the outputs stay few; the rest is due at once.
const TIMERS_PER_CALL: usize = 1_024;

/// All transactions of one node.
#[derive(Debug)]
pub struct TransactionLayer {
    timers: Timers,
    limits: TransactionLimits,
    keys: KeyMaker,
    rng: SmallRng,
    next_id: u64,
    detects_merged: bool,
    by_key: IdMap<Key, u64>,
    merged: IdMap<Key, u64>,
    transactions: IdMap<u64, Box<Transaction>>,
    /// Client transactions without a final response, by what carries them.
    waiting: Waiting,
    deadlines: DeadlineQueue<(u64, Timer)>,
    outputs: VecDeque<TransactionOutput>,
}

/// The message at hand while actions are carried out, if there is one.
type Subject = Option<(Message, Flow)>;

impl TransactionLayer {
    /// An empty layer; `seed` makes branches and the secret of the keys.
    pub fn new(timers: Timers, limits: TransactionLimits, seed: u64) -> TransactionLayer {
        let mut rng = SmallRng::seed_from_u64(seed);
        let secret = rng.random();
        let room = limits.transactions.min(MOST_ROOM);
        TransactionLayer {
            timers,
            limits,
            keys: KeyMaker { secret },
            rng,
            next_id: 0,
            detects_merged: true,
            by_key: IdMap::with_capacity_and_hasher(room, Default::default()),
            merged: IdMap::with_capacity_and_hasher(room, Default::default()),
            transactions: IdMap::with_capacity_and_hasher(room, Default::default()),
            waiting: Waiting::default(),
            deadlines: DeadlineQueue::with_capacity(room),
            outputs: VecDeque::new(),
        }
    }

    /// For a proxy: the same request may come on several paths, which only a user agent refuses with 482
    /// (RFC 3261 8.2.2.2; a proxy has its own look-out for loops, 16.3).
    pub fn for_proxy(mut self) -> TransactionLayer {
        self.detects_merged = false;
        self
    }

    /// Reads the top Via of a request: what the layer must know of it.
    ///
    /// # Errors
    /// When it is missing or malformed: no transaction can be made of the request, and nobody answered.
    pub fn arrival(&self, request: &Message, flow: &Flow) -> Result<Arrival, HeaderError> {
        Arrival::of(&self.keys, request, flow)
    }

    /// True for a request that comes again, for the ACK to a failure and for the CANCEL of an INVITE that is known here.
    pub fn knows(&self, arrival: &Arrival) -> bool {
        self.by_key.contains_key(&arrival.key) || arrival.invite.is_some_and(|invite| self.by_key.contains_key(&invite))
    }

    /// True for a response to a request that was sent from here.
    pub fn awaits(&self, response: &Message) -> bool {
        self.client_of(response).is_some()
    }

    /// The client transaction of a response.
    fn client_of(&self, response: &Message) -> Option<u64> {
        let (branch, method) = (response.top_branch()?, response.cseq().ok()?.method);
        self.by_key.get(&self.keys.client(&branch, &method)).copied()
    }

    /// Transactions kept, lingering ones included.
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// True without any transaction.
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<TransactionOutput> {
        self.outputs.pop_front()
    }

    /// When [`TransactionLayer::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.deadlines.next_deadline()
    }

    /// Takes a message from a transport.
    pub fn handle_message(&mut self, now: Instant, message: Message, flow: Flow) {
        if !message.is_request() {
            return self.handle_response(now, message, flow);
        }
        if let Ok(arrival) = self.arrival(&message, &flow) {
            self.handle_request(now, message, flow, arrival);
        }
    }

    /// Takes a request from a transport, with what [`TransactionLayer::arrival`] said of it.
    pub fn handle_request(&mut self, now: Instant, mut request: Message, flow: Flow, arrival: Arrival) {
        arrival.stamp(&mut request);
        let Arrival { method, key, invite, reply_to, .. } = arrival;
        if method == Method::Ack {
            match self.by_key.get(&key).copied() {
                Some(id) => self.step(now, id, Some((request, flow)), |machine, timers| match machine {
                    Machine::ServerInvite(machine) => machine.ack(timers),
                    Machine::ServerNonInvite(_) | Machine::ClientInvite(_) | Machine::ClientNonInvite(_) => {
                        Actions::none()
                    }
                }),
                None => self.event(TransactionEvent::Ack { request, flow }),
            }
            return;
        }
        if let Some(&id) = self.by_key.get(&key) {
            self.step(now, id, None, |machine, _| match machine {
                Machine::ServerInvite(machine) => machine.again(),
                Machine::ServerNonInvite(machine) => machine.again(),
                Machine::ClientInvite(_) | Machine::ClientNonInvite(_) => Actions::none(),
            });
            return;
        }
        // What ends a call, or belongs to one, finds room beyond the limit.
        let belongs = method == Method::Cancel || request.to_tag().is_some();
        let room = self.limits.transactions + if belongs { self.limits.transactions / 4 } else { 0 };
        if self.transactions.len() >= room {
            let mut response = Message::response(&request, 503, Some("Too many transactions"));
            response.set_to_tag(&key.tag());
            response.add_header("Retry-After", "5");
            self.transmit(reply_to, response.to_bytes());
            self.event(TransactionEvent::Overloaded);
            return;
        }
        let merged = if self.detects_merged { self.keys.merged(&request) } else { None };
        if merged.is_some_and(|merged| self.merged.contains_key(&merged)) && method != Method::Cancel {
            let mut response = Message::response(&request, 482, None);
            response.set_to_tag(&key.tag());
            self.transmit(reply_to, response.to_bytes());
            return;
        }
        let reliable = flow.transport.is_reliable();
        let (machine, actions) = if method == Method::Invite {
            let (machine, actions) = ServerInvite::start(&self.timers, reliable);
            (Machine::ServerInvite(machine), actions)
        } else {
            let (machine, actions) = ServerNonInvite::start(reliable);
            (Machine::ServerNonInvite(machine), actions)
        };
        let kept = (method == Method::Invite).then(|| Box::new(request.clone()));
        let id = self.insert(Transaction {
            machine,
            key,
            merged,
            to: reply_to.into(),
            bytes: Bytes::new(),
            request: kept,
            waiting: false,
        });
        match invite {
            Some(invite) => self.handle_cancel(now, id, request, invite),
            None => self.perform(now, id, actions, Some((request, flow))),
        }
    }

    fn handle_cancel(&mut self, now: Instant, id: u64, cancel: Message, invite: Key) {
        let invite = self.by_key.get(&invite).copied();
        let status = if invite.is_some() { 200 } else { 481 };
        let mut response = Message::response(&cancel, status, None);
        response.set_to_tag(&format!("{:08x}", self.rng.random::<u32>()));
        self.respond(now, ServerTransactionId(id), response);
        let waits = invite.filter(|id| match self.transactions.get(id).map(|t| &t.machine) {
            Some(Machine::ServerInvite(machine)) => machine.is_proceeding(),
            Some(Machine::ServerNonInvite(_) | Machine::ClientInvite(_) | Machine::ClientNonInvite(_)) | None => false,
        });
        if let Some(invite) = waits {
            self.event(TransactionEvent::Cancel { id: ServerTransactionId(invite), request: cancel });
        }
    }

    /// Takes a response to a request that was sent from here; gives back any other, untouched.
    pub fn handle_awaited(&mut self, now: Instant, response: Message, flow: Flow) -> Option<Message> {
        match self.client_of(&response) {
            Some(id) => {
                self.handle_own_response(now, id, response, flow);
                None
            }
            None => Some(response),
        }
    }

    fn handle_response(&mut self, now: Instant, response: Message, flow: Flow) {
        if response.cseq().is_err() {
            return;
        }
        match self.client_of(&response) {
            Some(id) => self.handle_own_response(now, id, response, flow),
            // Without a Via that can be read it belongs to nobody.
            None if response.check_top_via().is_err() => {}
            None => self.event(TransactionEvent::StrayResponse { response, flow }),
        }
    }

    fn handle_own_response(&mut self, now: Instant, id: u64, response: Message, flow: Flow) {
        let Some(status) = response.status() else { return };
        let class = Class::of_received(status);
        if class.is_final() {
            self.settle(id);
        }
        self.step(now, id, Some((response, flow)), |machine, timers| match machine {
            Machine::ClientInvite(machine) => machine.response(class, timers),
            Machine::ClientNonInvite(machine) => machine.response(class, timers),
            Machine::ServerInvite(_) | Machine::ServerNonInvite(_) => Actions::none(),
        });
        if class.is_final() {
            self.shrink(id);
        }
    }

    /// The flow is broken: requests that wait for an answer over it have failed. An INVITE that was heard of goes on over
    /// a stream that broke: its answer comes over another one, and a CANCEL of it opens one.
    pub fn handle_transport_error(&mut self, _now: Instant, to: impl Into<Destination>) {
        let to = to.into();
        for id in self.waiting.on(&to) {
            self.settle(id);
            let Some(transaction) = self.transactions.get_mut(&id) else { continue };
            let is_heard = matches!(&transaction.machine, Machine::ClientInvite(machine) if machine.is_proceeding());
            let id = ClientTransactionId(id);
            if is_heard && to.flow.transport.is_reliable() {
                transaction.to.flow.connection = 0;
                self.event(TransactionEvent::ConnectionLost { id });
            } else {
                self.event(TransactionEvent::TransportError { id });
                self.remove(id.0);
            }
        }
    }

    /// Runs the timers that are due. When very many are, some stay due: call again
    /// as long as [`TransactionLayer::poll_timeout`] is not in the future.
    pub fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..TIMERS_PER_CALL {
            let Some((id, timer)) = self.deadlines.pop_due(now) else { break };
            if timer == Timer::Trying {
                self.send_trying(now, id);
                continue;
            }
            self.step(now, id, None, |machine, timers| match machine {
                Machine::ClientInvite(machine) => machine.timer(timer),
                Machine::ClientNonInvite(machine) => machine.timer(timer, timers),
                Machine::ServerInvite(machine) => machine.timer(timer, timers),
                Machine::ServerNonInvite(machine) => machine.timer(timer),
            });
        }
    }

    fn send_trying(&mut self, now: Instant, id: u64) {
        let request = self.transactions.get(&id).and_then(|t| t.request.as_deref());
        if let Some(trying) = request.map(|request| Message::response(request, 100, None)) {
            self.respond(now, ServerTransactionId(id), trying);
        }
    }

    /// Sends a request under a fresh branch. `sent_by` is the host and port of
    /// our Via; `None` takes the flow's local address.
    pub fn send_request(
        &mut self,
        now: Instant,
        request: Message,
        to: impl Into<Destination>,
        sent_by: Option<&str>,
    ) -> ClientTransactionId {
        let branch = format!("z9hG4bK{:016x}{:08x}", self.rng.random::<u64>(), self.rng.random::<u32>());
        self.send_request_as(now, request, to, sent_by, &branch)
    }

    /// As [`TransactionLayer::send_request`], under a branch that the caller made and uses for nothing else. Sent again by
    /// another way under the same one, after [`TransactionLayer::forget_client`], it is one request to whoever gets both.
    pub fn send_request_as(
        &mut self,
        now: Instant,
        mut request: Message,
        to: impl Into<Destination>,
        sent_by: Option<&str>,
        branch: &str,
    ) -> ClientTransactionId {
        let to = to.into();
        push_via(&mut request, &to.flow, sent_by, branch);
        suit_stream(&mut request, &to.flow);
        let method = request.method();
        let key = self.keys.client(branch, &method);
        self.begin_client(now, request, to, key)
    }

    fn begin_client(&mut self, now: Instant, request: Message, to: Destination, key: Key) -> ClientTransactionId {
        let reliable = to.flow.transport.is_reliable();
        let (machine, actions) = if request.method() == Method::Invite {
            let (machine, actions) = ClientInvite::start(&self.timers, reliable);
            (Machine::ClientInvite(machine), actions)
        } else {
            let (machine, actions) = ClientNonInvite::start(&self.timers, reliable);
            (Machine::ClientNonInvite(machine), actions)
        };
        let bytes = request.to_bytes();
        let id = self.insert(Transaction {
            machine,
            key,
            merged: None,
            to,
            bytes,
            request: Some(Box::new(request)),
            waiting: true,
        });
        self.perform(now, id, actions, None);
        ClientTransactionId(id)
    }

    /// Ends a request of ours that is sent again under the same branch.
    pub fn forget_client(&mut self, id: ClientTransactionId) {
        self.remove(id.0);
    }

    /// Repeats a request no more; an answer that still comes is heard.
    pub fn quieten(&mut self, id: ClientTransactionId) {
        self.deadlines.cancel(&(id.0, Timer::A));
        self.deadlines.cancel(&(id.0, Timer::E));
    }

    /// Cancels an INVITE of ours (RFC 3261 9.1). `None` when there is nothing to cancel:
    /// before the first provisional response (the peer may not know the INVITE yet: wait
    /// for it) and after the final one. The INVITE ends by its own final response, usually
    /// 487, or is given up after 64*T1.
    pub fn send_cancel(&mut self, now: Instant, id: ClientTransactionId) -> Option<ClientTransactionId> {
        let transaction = self.transactions.get_mut(&id.0)?;
        let Machine::ClientInvite(machine) = &mut transaction.machine else { return None };
        let actions = machine.cancel(&self.timers)?;
        self.perform(now, id.0, actions, None);
        let transaction = self.transactions.get(&id.0)?;
        let invite = transaction.request.as_deref()?;
        let to = transaction.to.clone();
        let cancel = cancel_of(invite)?;
        let key = self.keys.client(&cancel.top_branch()?, &Method::Cancel);
        Some(self.begin_client(now, cancel, to, key))
    }

    /// Responds to a request; responses of one transaction after its final one are ignored.
    pub fn respond(&mut self, now: Instant, id: ServerTransactionId, mut response: Message) {
        let class = Class::of(response.status().unwrap_or(500));
        let Some(transaction) = self.transactions.get(&id.0) else { return };
        let flow = transaction.to.flow;
        suit_stream(&mut response, &flow);
        if class == Class::Failure {
            self.forget_merged(id.0);
        }
        self.step(now, id.0, Some((response, flow)), |machine, timers| match machine {
            Machine::ServerInvite(machine) => machine.respond(class, timers),
            Machine::ServerNonInvite(machine) => machine.respond(class, timers),
            Machine::ClientInvite(_) | Machine::ClientNonInvite(_) => Actions::none(),
        });
    }

    /// Answers a request without a transaction, the same way whenever it comes again (RFC 3261 8.2.7). `respond` makes the
    /// answer from the request with `received` and `rport` in its top Via.
    pub fn respond_stateless(
        &mut self,
        mut request: Message,
        arrival: &Arrival,
        respond: impl FnOnce(&Message) -> Message,
    ) {
        arrival.stamp(&mut request);
        let response = respond(&request);
        self.transmit(arrival.reply_to, response.to_bytes());
    }

    /// Sends outside of transactions: the ACK to a 2xx gets a branch of its own.
    pub fn send_ack(&mut self, mut ack: Message, flow: Flow, sent_by: Option<&str>) {
        let branch = format!("z9hG4bK{:016x}", self.rng.random::<u64>());
        push_via(&mut ack, &flow, sent_by, &branch);
        self.transmit(flow, ack.to_bytes());
    }

    /// Sends a message as it is.
    pub fn send(&mut self, message: &Message, flow: Flow) {
        self.transmit(flow, message.to_bytes());
    }

    /// Where the responses of a server transaction go, while it is known.
    pub fn flow_of(&self, id: ServerTransactionId) -> Option<Flow> {
        self.transactions.get(&id.0).map(|transaction| transaction.to.flow)
    }

    /// The flow over which a response goes on from a proxy: that of the server transaction which its first Via names, once
    /// the proxy's own Via is off. `None` when that transaction is over.
    pub fn flow_for(&self, response: &Message) -> Option<Flow> {
        let key = response.with_top_via(|via| self.keys.server(response, via, &response.method())).ok()?;
        let id = self.by_key.get(&key)?;
        self.transactions.get(id).map(|transaction| transaction.to.flow)
    }

    /// Ends a server transaction without a response: what is not an INVITE is not answered when the answer would come too
    /// late (RFC 4320 4.2).
    pub fn forget(&mut self, id: ServerTransactionId) {
        self.remove(id.0);
    }

    /// True while the core owes the request a final response.
    pub fn is_open(&self, id: ServerTransactionId) -> bool {
        match self.transactions.get(&id.0).map(|transaction| &transaction.machine) {
            Some(Machine::ServerInvite(machine)) => machine.is_proceeding(),
            Some(Machine::ServerNonInvite(machine)) => machine.is_proceeding(),
            Some(Machine::ClientInvite(_) | Machine::ClientNonInvite(_)) | None => false,
        }
    }

    fn insert(&mut self, transaction: Transaction) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        self.by_key.insert(transaction.key, id);
        if let Some(merged) = transaction.merged {
            self.merged.insert(merged, id);
        }
        if transaction.waiting {
            self.waiting.insert(&transaction.to, id);
        }
        self.transactions.insert(id, Box::new(transaction));
        id
    }

    /// The final response is there: what happens to the flow is no matter any more.
    fn settle(&mut self, id: u64) {
        let Some(transaction) = self.transactions.get_mut(&id).filter(|transaction| transaction.waiting) else {
            return;
        };
        transaction.waiting = false;
        self.waiting.remove(&transaction.to, id);
    }

    /// Drops what a client transaction needs no more after its final response. The
    /// ACK to a failure was kept as bytes by then.
    fn shrink(&mut self, id: u64) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        let acknowledges = matches!(&transaction.machine, Machine::ClientInvite(machine) if machine.is_completed());
        if !acknowledges {
            transaction.bytes = Bytes::new();
        }
        transaction.request = None;
    }

    /// A request that failed may come again by another way, and is not merged then:
    /// a source that got 503 over UDP tries TCP with the same Call-ID and CSeq (RFC 3263 4.3).
    fn forget_merged(&mut self, id: u64) {
        if let Some(merged) = self.transactions.get_mut(&id).and_then(|transaction| transaction.merged.take()) {
            self.merged.remove(&merged);
        }
    }

    fn remove(&mut self, id: u64) {
        self.settle(id);
        let Some(transaction) = self.transactions.remove(&id) else { return };
        self.by_key.remove(&transaction.key);
        if let Some(merged) = transaction.merged {
            self.merged.remove(&merged);
        }
        let timers: &[Timer] = match transaction.machine {
            Machine::ClientInvite(_) => &[Timer::A, Timer::B, Timer::C, Timer::D, Timer::M],
            Machine::ClientNonInvite(_) => &[Timer::E, Timer::F, Timer::K],
            Machine::ServerInvite(_) => &[Timer::G, Timer::H, Timer::I, Timer::L, Timer::Trying],
            Machine::ServerNonInvite(_) => &[Timer::J],
        };
        for timer in timers {
            self.deadlines.cancel(&(id, *timer));
        }
    }

    fn step(&mut self, now: Instant, id: u64, subject: Subject, input: impl FnOnce(&mut Machine, &Timers) -> Actions) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        let actions = input(&mut transaction.machine, &self.timers);
        self.perform(now, id, actions, subject);
    }

    fn perform(&mut self, now: Instant, id: u64, actions: Actions, mut subject: Subject) {
        for action in actions {
            match action {
                Action::Retransmit => {
                    if let Some(transaction) = self.transactions.get(&id) {
                        let (to, bytes) = (transaction.to.clone(), transaction.bytes.clone());
                        self.transmit(to, bytes);
                    }
                }
                Action::Send => self.send_first(id, subject.as_ref()),
                Action::Acknowledge => self.acknowledge(id, subject.as_ref()),
                Action::Deliver => {
                    if let Some((message, flow)) = subject.take() {
                        self.deliver(id, message, flow);
                    }
                }
                Action::Set(timer, after) => self.deadlines.set((id, timer), now + after),
                Action::Stop(timer) => self.deadlines.cancel(&(id, timer)),
                Action::Abandon => {
                    if let Some((request, _)) = subject.take() {
                        self.event(TransactionEvent::Cancel { id: ServerTransactionId(id), request });
                    }
                }
                Action::TimedOut => {
                    let client = self
                        .transactions
                        .get(&id)
                        .is_some_and(|t| matches!(t.machine, Machine::ClientInvite(_) | Machine::ClientNonInvite(_)));
                    self.event(if client {
                        TransactionEvent::TimedOut { id: ClientTransactionId(id) }
                    } else {
                        TransactionEvent::AckTimedOut { id: ServerTransactionId(id) }
                    });
                }
                Action::Cancel => {
                    self.send_cancel(now, ClientTransactionId(id));
                }
                Action::Terminate => self.remove(id),
            }
        }
    }

    /// Sends the request of a client, or the response that the core gave a server.
    fn send_first(&mut self, id: u64, subject: Option<&(Message, Flow)>) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        if let Some((response, _)) = subject {
            transaction.bytes = response.to_bytes();
            if response.status().is_some_and(|status| status >= 200) {
                transaction.request = None;
            }
        }
        // A 2xx is the core's to repeat: the transaction only lingers, with nothing in hand.
        let lingers = matches!(&transaction.machine, Machine::ServerInvite(machine) if machine.is_accepted());
        let bytes = if lingers { std::mem::take(&mut transaction.bytes) } else { transaction.bytes.clone() };
        let to = transaction.to.clone();
        self.transmit(to, bytes);
    }

    /// ACK to a failure (RFC 3261 17.1.1.3), made once and kept for failures that come again.
    fn acknowledge(&mut self, id: u64, subject: Option<&(Message, Flow)>) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        if let (Some(invite), Some((response, _))) = (transaction.request.take(), subject) {
            let Some(ack) = failure_ack(&invite, response) else { return };
            transaction.bytes = ack.to_bytes();
        }
        let (to, bytes) = (transaction.to.clone(), transaction.bytes.clone());
        self.transmit(to, bytes);
    }

    fn deliver(&mut self, id: u64, message: Message, flow: Flow) {
        let event = if !message.is_request() {
            TransactionEvent::Response { id: ClientTransactionId(id), response: message, flow }
        } else if message.method() == Method::Ack {
            TransactionEvent::Ack { request: message, flow }
        } else {
            TransactionEvent::Request { id: ServerTransactionId(id), request: message, flow }
        };
        self.event(event);
    }

    fn event(&mut self, event: TransactionEvent) {
        self.outputs.push_back(TransactionOutput::Event(event));
    }

    fn transmit(&mut self, to: impl Into<Destination>, bytes: Bytes) {
        self.outputs.push_back(TransactionOutput::Transmit { to: to.into(), bytes });
    }
}

#[cfg(test)]
mod tests;
