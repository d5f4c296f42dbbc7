//! Matches messages to transactions, keeps their timers, carries out their actions.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::client_invite::ClientInvite;
use super::client_non_invite::ClientNonInvite;
use super::key::{Key, KeyMaker};
use super::server_invite::ServerInvite;
use super::server_non_invite::ServerNonInvite;
use super::{Action, Class, Timer, Timers};
use crate::deadline::DeadlineQueue;
use crate::flow::{Flow, Transport};
use crate::header::Via;
use crate::message::Message;
use crate::method::Method;

/// A transaction that we began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientTransactionId(u64);

/// A transaction that a peer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerTransactionId(u64);

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

/// What the layer wants done.
#[derive(Debug)]
pub enum TransactionOutput {
    /// Send bytes.
    Transmit {
        /// Where.
        flow: Flow,
        /// What.
        bytes: Bytes,
    },
    /// Tell the core.
    Event(TransactionEvent),
}

/// What the core must know.
#[derive(Debug)]
pub enum TransactionEvent {
    /// A new request.
    Request {
        /// To respond with.
        id: ServerTransactionId,
        /// With `received` and `rport` in its top Via.
        request: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// A CANCEL of an INVITE that has no final response yet. The CANCEL itself is answered.
    Cancel {
        /// The INVITE's transaction.
        id: ServerTransactionId,
        /// The CANCEL.
        request: Message,
    },
    /// The ACK to a 2xx.
    Ack {
        /// The ACK.
        request: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// A response to a request of ours.
    Response {
        /// Which request.
        id: ClientTransactionId,
        /// The response.
        response: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// A response that belongs to nothing.
    StrayResponse {
        /// The response.
        response: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// No final response came in time (408).
    TimedOut {
        /// Which request.
        id: ClientTransactionId,
    },
    /// The request could not be sent (503).
    TransportError {
        /// Which request.
        id: ClientTransactionId,
    },
    /// No ACK to a failure came.
    AckTimedOut {
        /// Which INVITE.
        id: ServerTransactionId,
    },
    /// A request was refused here because the table is full.
    Overloaded,
}

#[derive(Debug)]
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
    flow: Flow,
    /// The request as sent, or the last response.
    bytes: Bytes,
    /// The request while it is needed: for ACK and CANCEL, or for a 100.
    request: Option<Box<Message>>,
}

/// All transactions of one node.
#[derive(Debug)]
pub struct TransactionLayer {
    timers: Timers,
    limits: TransactionLimits,
    keys: KeyMaker,
    rng: SmallRng,
    next_id: u64,
    by_key: HashMap<Key, u64>,
    merged: HashMap<Key, u64>,
    transactions: HashMap<u64, Transaction>,
    deadlines: DeadlineQueue<(u64, Timer)>,
    outputs: VecDeque<TransactionOutput>,
}

/// The message at hand while actions are carried out.
enum Subject {
    None,
    Message(Message, Flow),
}

impl TransactionLayer {
    /// An empty layer; `seed` makes branches and the secret of the keys.
    pub fn new(timers: Timers, limits: TransactionLimits, seed: u64) -> TransactionLayer {
        let mut rng = SmallRng::seed_from_u64(seed);
        let secret = rng.random();
        let room = limits.transactions.min(4_096);
        TransactionLayer {
            timers,
            limits,
            keys: KeyMaker { secret },
            rng,
            next_id: 0,
            by_key: HashMap::with_capacity(room),
            merged: HashMap::new(),
            transactions: HashMap::with_capacity(room),
            deadlines: DeadlineQueue::default(),
            outputs: VecDeque::new(),
        }
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
        if message.is_request() { self.handle_request(now, message, flow) } else { self.handle_response(now, message, flow) }
    }

    fn handle_request(&mut self, now: Instant, mut request: Message, flow: Flow) {
        let Ok(mut via) = request.top_via() else { return };
        if stamp_via(&mut via, &flow) {
            request.set_top_via(&via.to_string());
        }
        let method = request.method();
        if method == Method::Ack {
            let key = self.keys.server(&request, &via, &Method::Invite);
            match self.by_key.get(&key).copied() {
                Some(id) => self.step(now, id, Subject::Message(request, flow), |machine, timers| match machine {
                    Machine::ServerInvite(machine) => machine.ack(timers),
                    _ => vec![],
                }),
                None => self.event(TransactionEvent::Ack { request, flow }),
            }
            return;
        }
        let key = self.keys.server(&request, &via, &method);
        if let Some(&id) = self.by_key.get(&key) {
            self.step(now, id, Subject::None, |machine, _| match machine {
                Machine::ServerInvite(machine) => machine.again(),
                Machine::ServerNonInvite(machine) => machine.again(),
                Machine::ClientInvite(_) | Machine::ClientNonInvite(_) => vec![],
            });
            return;
        }
        let reply_to = response_flow(&via, &flow);
        if self.transactions.len() >= self.limits.transactions {
            let mut response = Message::response(&request, 503, Some("Too many transactions"));
            response.add_header("Retry-After", "5");
            self.transmit(reply_to, response.to_bytes());
            self.event(TransactionEvent::Overloaded);
            return;
        }
        let merged = self.keys.merged(&request);
        if merged.is_some_and(|merged| self.merged.contains_key(&merged)) && method != Method::Cancel {
            self.transmit(reply_to, Message::response(&request, 482, None).to_bytes());
            return;
        }
        let reliable = flow.transport.is_reliable();
        let (machine, actions) = if method == Method::Invite {
            let (machine, actions) = ServerInvite::start(reliable);
            (Machine::ServerInvite(machine), actions)
        } else {
            let (machine, actions) = ServerNonInvite::start(reliable);
            (Machine::ServerNonInvite(machine), actions)
        };
        let kept = (method == Method::Invite).then(|| Box::new(request.clone()));
        let id = self.insert(Transaction { machine, key, merged, flow: reply_to, bytes: Bytes::new(), request: kept });
        if method == Method::Cancel {
            self.handle_cancel(now, id, request, &via);
        } else {
            self.perform(now, id, actions, Subject::Message(request, flow));
        }
    }

    fn handle_cancel(&mut self, now: Instant, id: u64, cancel: Message, via: &Via) {
        let invite_key = self.keys.server(&cancel, via, &Method::Invite);
        let invite = self.by_key.get(&invite_key).copied();
        let status = if invite.is_some() { 200 } else { 481 };
        let mut response = Message::response(&cancel, status, None);
        response.set_to_tag(&format!("{:08x}", self.rng.random::<u32>()));
        self.respond(now, ServerTransactionId(id), response);
        let waits = invite.filter(|id| match self.transactions.get(id).map(|t| &t.machine) {
            Some(Machine::ServerInvite(machine)) => machine.is_proceeding(),
            _ => false,
        });
        if let Some(invite) = waits {
            self.event(TransactionEvent::Cancel { id: ServerTransactionId(invite), request: cancel });
        }
    }

    fn handle_response(&mut self, now: Instant, response: Message, flow: Flow) {
        let (Ok(via), Ok(cseq), Some(status)) = (response.top_via(), response.cseq(), response.status()) else { return };
        let key = via.branch().map(|branch| self.keys.client(branch, &cseq.method));
        match key.and_then(|key| self.by_key.get(&key).copied()) {
            Some(id) => {
                let class = Class::of(status);
                self.step(now, id, Subject::Message(response, flow), |machine, timers| match machine {
                    Machine::ClientInvite(machine) => machine.response(class, timers),
                    Machine::ClientNonInvite(machine) => machine.response(class, timers),
                    Machine::ServerInvite(_) | Machine::ServerNonInvite(_) => vec![],
                });
            }
            None => self.event(TransactionEvent::StrayResponse { response, flow }),
        }
    }

    /// The flow is broken: requests that wait for an answer over it have failed.
    pub fn handle_transport_error(&mut self, now: Instant, flow: &Flow) {
        let same = |have: &Flow| {
            have.transport == flow.transport
                && have.remote == flow.remote
                && (have.connection == flow.connection || have.connection == 0 || flow.connection == 0)
        };
        let failed: Vec<u64> = self
            .transactions
            .iter()
            .filter(|(_, t)| matches!(t.machine, Machine::ClientInvite(_) | Machine::ClientNonInvite(_)) && same(&t.flow))
            .map(|(id, _)| *id)
            .collect();
        let _ = now;
        for id in failed {
            self.event(TransactionEvent::TransportError { id: ClientTransactionId(id) });
            self.remove(id);
        }
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((id, timer)) = self.deadlines.pop_due(now) {
            if timer == Timer::Trying {
                self.send_trying(now, id);
                continue;
            }
            self.step(now, id, Subject::None, |machine, timers| match machine {
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
    pub fn send_request(&mut self, now: Instant, mut request: Message, flow: Flow, sent_by: Option<&str>) -> ClientTransactionId {
        let branch = format!("z9hG4bK{:016x}{:08x}", self.rng.random::<u64>(), self.rng.random::<u32>());
        let local = flow.local.to_string();
        let sent_by = sent_by.unwrap_or(&local);
        request.push_header_front("Via", &format!("SIP/2.0/{} {sent_by};branch={branch};rport", flow.transport));
        let method = request.method();
        let key = self.keys.client(&branch, &method);
        self.begin_client(now, request, flow, key)
    }

    fn begin_client(&mut self, now: Instant, request: Message, flow: Flow, key: Key) -> ClientTransactionId {
        let reliable = flow.transport.is_reliable();
        let (machine, actions) = if request.method() == Method::Invite {
            let (machine, actions) = ClientInvite::start(&self.timers, reliable);
            (Machine::ClientInvite(machine), actions)
        } else {
            let (machine, actions) = ClientNonInvite::start(&self.timers, reliable);
            (Machine::ClientNonInvite(machine), actions)
        };
        let bytes = request.to_bytes();
        let id = self.insert(Transaction { machine, key, merged: None, flow, bytes, request: Some(Box::new(request)) });
        self.perform(now, id, actions, Subject::None);
        ClientTransactionId(id)
    }

    /// Cancels an INVITE of ours (RFC 3261 9.1). The core calls it after a provisional response.
    pub fn send_cancel(&mut self, now: Instant, id: ClientTransactionId) -> Option<ClientTransactionId> {
        let transaction = self.transactions.get(&id.0)?;
        let invite = transaction.request.as_deref()?;
        let flow = transaction.flow;
        let mut cancel = Message::request(&Method::Cancel, &invite.request_uri()?);
        let via = invite.top_via().ok()?;
        cancel.add_header("Via", &via.to_string());
        for name in ["Max-Forwards", "From", "To", "Call-ID", "Route"] {
            cancel.copy_lines(invite, name);
        }
        cancel.add_header("CSeq", &format!("{} CANCEL", invite.cseq().ok()?.number));
        cancel.add_header("Content-Length", "0");
        let key = self.keys.client(via.branch()?, &Method::Cancel);
        Some(self.begin_client(now, cancel, flow, key))
    }

    /// Responds to a request; responses of one transaction after its final one are ignored.
    pub fn respond(&mut self, now: Instant, id: ServerTransactionId, response: Message) {
        let class = Class::of(response.status().unwrap_or(500));
        let Some(transaction) = self.transactions.get(&id.0) else { return };
        let flow = transaction.flow;
        self.step(now, id.0, Subject::Message(response, flow), |machine, timers| match machine {
            Machine::ServerInvite(machine) => machine.respond(class, timers),
            Machine::ServerNonInvite(machine) => machine.respond(class, timers),
            Machine::ClientInvite(_) | Machine::ClientNonInvite(_) => vec![],
        });
    }

    /// Sends outside of transactions: the ACK to a 2xx gets a branch of its own.
    pub fn send_ack(&mut self, mut ack: Message, flow: Flow, sent_by: Option<&str>) {
        let branch = format!("z9hG4bK{:016x}", self.rng.random::<u64>());
        let local = flow.local.to_string();
        let sent_by = sent_by.unwrap_or(&local);
        ack.push_header_front("Via", &format!("SIP/2.0/{} {sent_by};branch={branch};rport", flow.transport));
        self.transmit(flow, ack.to_bytes());
    }

    /// Sends a message as it is.
    pub fn send(&mut self, message: &Message, flow: Flow) {
        self.transmit(flow, message.to_bytes());
    }

    /// Where the responses of a server transaction go, while it is known.
    pub fn flow_of(&self, id: ServerTransactionId) -> Option<Flow> {
        self.transactions.get(&id.0).map(|transaction| transaction.flow)
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
        self.transactions.insert(id, transaction);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(transaction) = self.transactions.remove(&id) else { return };
        self.by_key.remove(&transaction.key);
        if let Some(merged) = transaction.merged {
            self.merged.remove(&merged);
        }
        for timer in [Timer::A, Timer::B, Timer::D, Timer::E, Timer::F, Timer::G, Timer::H, Timer::I, Timer::J, Timer::K, Timer::L, Timer::M, Timer::Trying] {
            self.deadlines.cancel(&(id, timer));
        }
    }

    fn step(&mut self, now: Instant, id: u64, subject: Subject, input: impl FnOnce(&mut Machine, &Timers) -> Vec<Action>) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        let actions = input(&mut transaction.machine, &self.timers);
        self.perform(now, id, actions, subject);
    }

    fn perform(&mut self, now: Instant, id: u64, actions: Vec<Action>, subject: Subject) {
        let mut subject = Some(subject);
        for action in actions {
            match action {
                Action::Retransmit => {
                    if let Some(transaction) = self.transactions.get(&id) {
                        let (flow, bytes) = (transaction.flow, transaction.bytes.clone());
                        self.transmit(flow, bytes);
                    }
                }
                Action::Send => self.send_first(id, subject.as_ref()),
                Action::Acknowledge => self.acknowledge(id, subject.as_ref()),
                Action::Deliver => {
                    if let Some(Subject::Message(message, flow)) = subject.take() {
                        self.deliver(id, message, flow);
                    }
                }
                Action::Set(timer, after) => self.deadlines.set((id, timer), now + after),
                Action::Stop(timer) => self.deadlines.cancel(&(id, timer)),
                Action::TimedOut => {
                    let client = self.transactions.get(&id).is_some_and(|t| {
                        matches!(t.machine, Machine::ClientInvite(_) | Machine::ClientNonInvite(_))
                    });
                    self.event(if client {
                        TransactionEvent::TimedOut { id: ClientTransactionId(id) }
                    } else {
                        TransactionEvent::AckTimedOut { id: ServerTransactionId(id) }
                    });
                }
                Action::Terminate => self.remove(id),
            }
        }
    }

    /// Sends the request of a client, or the response that the core gave a server.
    fn send_first(&mut self, id: u64, subject: Option<&Subject>) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        if let Some(Subject::Message(response, _)) = subject {
            transaction.bytes = response.to_bytes();
            if response.status().is_some_and(|status| status >= 200) {
                transaction.request = None;
            }
        }
        let (flow, bytes) = (transaction.flow, transaction.bytes.clone());
        self.transmit(flow, bytes);
    }

    /// ACK to a failure (RFC 3261 17.1.1.3).
    fn acknowledge(&mut self, id: u64, subject: Option<&Subject>) {
        let Some(transaction) = self.transactions.get(&id) else { return };
        let (Some(invite), Some(Subject::Message(response, _))) = (transaction.request.as_deref(), subject) else { return };
        let (Some(uri), Ok(via), Ok(cseq)) = (invite.request_uri(), invite.top_via(), invite.cseq()) else { return };
        let mut ack = Message::request(&Method::Ack, &uri);
        ack.add_header("Via", &via.to_string());
        for name in ["Max-Forwards", "From"] {
            ack.copy_lines(invite, name);
        }
        ack.copy_lines(response, "To");
        for name in ["Call-ID", "Route"] {
            ack.copy_lines(invite, name);
        }
        ack.add_header("CSeq", &format!("{} ACK", cseq.number));
        ack.add_header("Content-Length", "0");
        let flow = transaction.flow;
        self.transmit(flow, ack.to_bytes());
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

    fn transmit(&mut self, flow: Flow, bytes: Bytes) {
        self.outputs.push_back(TransactionOutput::Transmit { flow, bytes });
    }
}

/// Notes the true source in the top Via (RFC 3261 18.2.1, RFC 3581 4); true if it changed.
fn stamp_via(via: &mut Via, flow: &Flow) -> bool {
    let source = flow.remote.ip();
    let wants_port = via.params.has("rport") && via.params.get("rport") == Some("");
    if wants_port {
        via.params.set("rport", Some(&flow.remote.port().to_string()));
    }
    let differs = via.address() != Some(source);
    if differs || wants_port {
        via.params.set("received", Some(&source.to_string()));
    }
    differs || wants_port
}

/// Where responses go (RFC 3261 18.2.2, RFC 3581 4).
fn response_flow(via: &Via, flow: &Flow) -> Flow {
    if flow.transport != Transport::Udp || via.params.has("rport") {
        return *flow;
    }
    let port = via.port.unwrap_or(5060);
    Flow { remote: SocketAddr::new(flow.remote.ip(), port), ..*flow }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    const UDP: Flow = Flow {
        transport: Transport::Udp,
        local: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), 5060),
        remote: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 20)), 5070),
        connection: 0,
    };

    fn layer() -> TransactionLayer {
        TransactionLayer::new(Timers::default(), TransactionLimits { transactions: 50 }, 1)
    }

    fn request(method: &str, branch: &str, to_tag: &str) -> Message {
        let text = format!(
            "{method} sip:srs@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5070;{branch}\r\nMax-Forwards: 70\r\n\
             From: <sip:a@example.com>;tag=f\r\nTo: <sip:b@example.com>{to_tag}\r\nCall-ID: c1\r\nCSeq: 7 {method}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).unwrap()
    }

    fn drain(layer: &mut TransactionLayer) -> (Vec<Message>, Vec<TransactionEvent>) {
        let (mut sent, mut events) = (Vec::new(), Vec::new());
        while let Some(output) = layer.poll_output() {
            match output {
                TransactionOutput::Transmit { bytes, .. } => sent.push(Message::parse(bytes).unwrap()),
                TransactionOutput::Event(event) => events.push(event),
            }
        }
        (sent, events)
    }

    fn server_id(events: &[TransactionEvent]) -> ServerTransactionId {
        match events {
            [TransactionEvent::Request { id, .. }] => *id,
            other => panic!("not one request: {other:?}"),
        }
    }

    #[test]
    fn a_retransmitted_request_is_answered_again_and_not_delivered_twice() {
        let now = Instant::now();
        let mut layer = layer();
        layer.handle_message(now, request("OPTIONS", "branch=z9hG4bKa;rport", ""), UDP);
        let (_, events) = drain(&mut layer);
        let id = server_id(&events);
        let TransactionEvent::Request { request: seen, .. } = &events[0] else { panic!() };
        assert_eq!(seen.top_via().unwrap().params.get("rport"), Some("5070"));
        assert_eq!(seen.top_via().unwrap().params.get("received"), Some("198.51.100.20"));
        layer.respond(now, id, Message::response(seen, 200, None));
        layer.handle_message(now, request("OPTIONS", "branch=z9hG4bKa;rport", ""), UDP);
        let (sent, events) = drain(&mut layer);
        assert_eq!(sent.iter().filter_map(Message::status).collect::<Vec<_>>(), [200, 200]);
        assert!(events.is_empty());
        layer.handle_timeout(now + Duration::from_secs(33));
        assert!(layer.is_empty());
    }

    #[test]
    fn without_rport_the_response_goes_to_the_port_of_sent_by() {
        let mut layer = layer();
        let mut message = request("OPTIONS", "branch=z9hG4bKb", "");
        message.set_top_via("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKb");
        layer.handle_message(Instant::now(), message, UDP);
        let (_, events) = drain(&mut layer);
        let flow = layer.flow_of(server_id(&events)).unwrap();
        assert_eq!(flow.remote, "198.51.100.20:5060".parse().unwrap());
    }

    #[test]
    fn branches_that_are_only_the_cookie_do_not_mix_calls_up() {
        let now = Instant::now();
        let mut layer = layer();
        layer.handle_message(now, request("OPTIONS", "branch=z9hG4bK", ""), UDP);
        let mut other = request("OPTIONS", "branch=z9hG4bK", "");
        other.set_header("Call-ID", "c2");
        layer.handle_message(now, other, UDP);
        assert_eq!(drain(&mut layer).1.len(), 2);
    }

    #[test]
    fn a_merged_request_gets_482() {
        let now = Instant::now();
        let mut layer = layer();
        layer.handle_message(now, request("INVITE", "branch=z9hG4bKc", ""), UDP);
        layer.handle_message(now, request("INVITE", "branch=z9hG4bKd", ""), UDP);
        let (sent, events) = drain(&mut layer);
        assert_eq!(sent[0].status(), Some(482));
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_slow_core_gets_its_100_sent() {
        let now = Instant::now();
        let mut layer = layer();
        layer.handle_message(now, request("INVITE", "branch=z9hG4bKe", ""), UDP);
        drain(&mut layer);
        assert_eq!(layer.poll_timeout(), Some(now + Duration::from_millis(200)));
        layer.handle_timeout(now + Duration::from_millis(200));
        assert_eq!(drain(&mut layer).0[0].status(), Some(100));
    }

    #[test]
    fn cancel_finds_its_invite_and_is_answered_itself() {
        let now = Instant::now();
        let mut layer = layer();
        layer.handle_message(now, request("INVITE", "branch=z9hG4bKf", ""), UDP);
        let invite = server_id(&drain(&mut layer).1);
        layer.handle_message(now, request("CANCEL", "branch=z9hG4bKf", ""), UDP);
        let (sent, events) = drain(&mut layer);
        assert_eq!(sent[0].status(), Some(200));
        assert!(matches!(events[..], [TransactionEvent::Cancel { id, .. }] if id == invite));
        layer.handle_message(now, request("CANCEL", "branch=z9hG4bKnone", ""), UDP);
        assert_eq!(drain(&mut layer).0[0].status(), Some(481));
    }

    #[test]
    fn a_failure_is_retransmitted_until_its_ack() {
        let now = Instant::now();
        let mut layer = layer();
        let invite = request("INVITE", "branch=z9hG4bKg", "");
        layer.handle_message(now, invite.clone(), UDP);
        let id = server_id(&drain(&mut layer).1);
        layer.respond(now, id, Message::response(&invite, 486, None));
        layer.handle_timeout(now + Duration::from_millis(500));
        assert_eq!(drain(&mut layer).0.len(), 2);
        layer.handle_message(now, request("ACK", "branch=z9hG4bKg", ";tag=x"), UDP);
        assert!(drain(&mut layer).1.is_empty(), "the ACK to a failure ends here");
        layer.handle_timeout(now + Duration::from_millis(1_500));
        assert!(drain(&mut layer).0.is_empty());
        layer.handle_timeout(now + Duration::from_secs(10));
        assert!(layer.is_empty());
    }

    #[test]
    fn our_invite_is_acknowledged_when_it_fails_and_cancelled_on_wish() {
        let now = Instant::now();
        let mut layer = layer();
        let mut invite = request("INVITE", "branch=z9hG4bKh", "");
        invite.remove_header("Via");
        let id = layer.send_request(now, invite, UDP, Some("sip.example.com:5060"));
        let (sent, _) = drain(&mut layer);
        let branch = sent[0].top_via().unwrap().branch().unwrap().to_owned();
        assert_eq!(sent[0].top_via().unwrap().host, "sip.example.com");
        layer.send_cancel(now, id).unwrap();
        let (cancel, _) = drain(&mut layer);
        assert_eq!(cancel[0].top_via().unwrap().branch(), Some(branch.as_str()));
        layer.handle_message(now, Message::response(&sent[0], 487, None), UDP);
        let (ack, events) = drain(&mut layer);
        assert_eq!(ack[0].method(), Method::Ack);
        assert!(matches!(&events[..], [TransactionEvent::Response { response, .. }] if response.status() == Some(487)));
    }

    #[test]
    fn silence_times_out_once() {
        let now = Instant::now();
        let mut layer = layer();
        let mut options = request("OPTIONS", "branch=z9hG4bKi", "");
        options.remove_header("Via");
        let id = layer.send_request(now, options, UDP, None);
        let mut sent = 0;
        while let Some(due) = layer.poll_timeout() {
            layer.handle_timeout(due);
            let (messages, events) = drain(&mut layer);
            sent += messages.len();
            if let [TransactionEvent::TimedOut { id: timed_out }] = events[..] {
                assert_eq!((timed_out, due), (id, now + Duration::from_secs(32)));
            }
        }
        assert_eq!(sent, 11, "the request and ten retransmissions in 32 s");
        assert!(layer.is_empty());
    }

    #[test]
    fn a_full_table_refuses_with_503() {
        let now = Instant::now();
        let mut layer = layer();
        for n in 0..51 {
            let mut message = request("OPTIONS", &format!("branch=z9hG4bKj{n}"), "");
            message.set_header("Call-ID", &format!("c{n}"));
            layer.handle_message(now, message, UDP);
        }
        let (sent, events) = drain(&mut layer);
        assert_eq!((sent[0].status(), sent.len(), events.len()), (Some(503), 1, 51));
        assert_eq!(sent[0].header("Retry-After").unwrap(), "5");
    }
}
