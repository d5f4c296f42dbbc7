//! A proxy on a table: messages are handed to it as text, what it sends lies in a list, time is moved by hand. What passes is
//! noted as a ladder.
#![allow(dead_code, unreachable_pub, clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_proxy::group::{ElementConfig, GroupConfig, GroupEvent, Hop};
use ferric_proxy::routing::{Action, Condition, Rewrite, RouteTable, Rule};
use ferric_proxy::{
    Contact, Handled, Listener, LocateTarget, Location, Proxy, ProxyConfig, ProxyOutput, RequestDone, Ticket,
};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::TrustTable;
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;

pub const US: &str = "192.168.0.5:5060";
pub const CALLER: &str = "192.168.1.10:5060";

/// Something that the proxy sent.
#[derive(Debug, Clone)]
pub struct Sent {
    pub to: SocketAddr,
    pub transport: Transport,
    pub message: Message,
}

impl Sent {
    pub fn line(&self) -> String {
        match self.message.status() {
            Some(status) => status.to_string(),
            None => format!("{} {}", self.message.method(), self.message.request_uri().unwrap()),
        }
    }
}

pub struct Bench {
    pub now: Instant,
    pub start: Instant,
    pub proxy: Proxy,
    pub sent: VecDeque<Sent>,
    pub done: Vec<RequestDone>,
    pub events: Vec<GroupEvent>,
    pub asked: VecDeque<(Ticket, LocateTarget)>,
    pub rejected: Vec<&'static str>,
    /// Who is who on the ladder.
    names: Vec<(SocketAddr, String)>,
    rungs: Vec<String>,
}

/// Users and where they are; whoever registers is believed.
#[derive(Debug, Default)]
pub struct Phones(pub HashMap<String, Vec<Contact>>);

impl Location for Phones {
    fn register(&mut self, _: Instant, _: u64, request: &Message, flow: &Flow) -> Message {
        let user = request.to().unwrap().parsed_uri().unwrap().user.unwrap_or_default();
        let path = request.values("Path");
        let contacts = request.contacts().unwrap().into_iter().map(|contact| {
            let q = contact.params.get("q").and_then(|q| q.parse::<f32>().ok()).map_or(1_000, |q| (q * 1_000.0) as u16);
            let flow = flow.transport.is_reliable().then_some(*flow);
            Contact { uri: contact.uri, q, path: path.clone(), flow }
        });
        self.0.insert(user, contacts.collect());
        Message::response(request, 200, None)
    }

    fn challenge(&mut self, _: u64, _: &Message, _: &Flow) -> Option<Reject> {
        None
    }

    fn lookup(&self, _: Instant, aor: &Uri) -> Option<Vec<Contact>> {
        let mut contacts = self.0.get(aor.user.as_deref()?)?.clone();
        contacts.sort_by_key(|contact| std::cmp::Reverse(contact.q));
        Some(contacts)
    }

    fn authenticate(&mut self, _: Instant, _: u64, _: &Message, _: &Flow) -> Option<Message> {
        None
    }

    fn flow_failed(&mut self, _: Instant, flow: &Flow) {
        self.0.values_mut().for_each(|contacts| contacts.retain(|contact| contact.flow != Some(*flow)));
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _: Instant) {}
}

/// A contact by UDP.
pub fn contact(uri: &str, q: u16) -> Contact {
    Contact { uri: uri.to_owned(), q, path: vec![], flow: None }
}

/// Registrar of example.com, with bob at these contacts.
pub fn bob_at(contacts: Vec<Contact>) -> Bench {
    let mut bench = Bench::new(ProxyConfig { domains: vec!["example.com".into()], ..config() });
    bench.proxy.set_location(Some(Box::new(Phones(HashMap::from([
        ("bob".to_owned(), contacts),
        ("nowhere".to_owned(), vec![]),
    ])))));
    bench
}

/// Where the Request-URI leads.
pub fn by_uri() -> ProxyConfig {
    ProxyConfig { routes: all_to(Action::RequestUri), ..config() }
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn listeners() -> Vec<Listener> {
    let listener = |transport, at: &str| Listener { transport, address: address(at), advertise: None };
    vec![
        listener(Transport::Udp, US),
        listener(Transport::Tcp, US),
        listener(Transport::Tls, "192.168.0.5:5061"),
        listener(Transport::Udp, "[fd00::5]:5060"),
    ]
}

pub fn is_recording(message: &Message) -> bool {
    message.has_option("Require", "siprec")
}

pub fn config() -> ProxyConfig {
    ProxyConfig::new(listeners(), TrustTable::private("acme"), is_recording)
}

pub fn rule(conditions: Vec<Condition>, action: Action) -> Rule {
    Rule { name: format!("to {action}"), conditions, rewrite: Rewrite::default(), action }
}

/// All requests of one action.
pub fn all_to(action: Action) -> RouteTable {
    RouteTable::new(vec![rule(vec![], action)])
}

pub fn element(text: &str, priority: u16, weight: u16) -> ElementConfig {
    ElementConfig { priority, weight, ..ElementConfig::parse(text).unwrap() }
}

/// A group without heartbeat.
pub fn group(elements: Vec<ElementConfig>) -> GroupConfig {
    GroupConfig { heartbeat: None, elements, ..GroupConfig::named("recorders.example.com") }
}

/// Everything to one group.
pub fn grouped(elements: Vec<ElementConfig>) -> ProxyConfig {
    ProxyConfig {
        groups: vec![group(elements)],
        routes: all_to(Action::Group("recorders.example.com".into())),
        ..config()
    }
}

impl Bench {
    pub fn new(config: ProxyConfig) -> Bench {
        let now = Instant::now();
        let proxy =
            Proxy::new(config, Timers::default(), TransactionLimits { transactions: 10_000 }, now, 1_800_000_000, 7);
        let mut bench = Bench {
            now,
            start: now,
            proxy,
            sent: VecDeque::new(),
            done: vec![],
            events: vec![],
            asked: VecDeque::new(),
            rejected: vec![],
            names: vec![(address(CALLER), "caller".to_owned())],
            rungs: vec![],
        };
        bench.collect();
        bench
    }

    pub fn collect(&mut self) {
        while let Some(output) = self.proxy.poll_output() {
            match output {
                ProxyOutput::Transmit { to, bytes } => {
                    let flow = to.flow;
                    let message = Message::parse(bytes).unwrap();
                    self.rung("proxy", &self.name_of(flow.remote), &message);
                    self.sent.push_back(Sent { to: flow.remote, transport: flow.transport, message });
                }
                ProxyOutput::Locate { ticket, target } => self.asked.push_back((ticket, target)),
                ProxyOutput::Done(done) => self.done.push(*done),
                ProxyOutput::Group(event) => self.events.push(event),
                ProxyOutput::Rejected { reason, .. } => self.rejected.push(reason),
            }
        }
    }

    /// Gives an address a name on the ladder.
    pub fn name(&mut self, whom: &str, name: &str) {
        self.names.push((address(whom), name.to_owned()));
    }

    fn name_of(&self, whom: SocketAddr) -> String {
        self.names.iter().find(|(at, _)| *at == whom).map_or_else(|| whom.to_string(), |(_, name)| name.clone())
    }

    fn rung(&mut self, from: &str, to: &str, message: &Message) {
        if self.names.len() < 2 {
            return;
        }
        let cseq = message.header("CSeq").unwrap_or_default().into_owned();
        let what = message.status().map_or_else(
            || format!("{} {}", message.method(), message.request_uri().unwrap()),
            |status| format!("{status} ({cseq})"),
        );
        let at = self.now.duration_since(self.start).as_secs_f64();
        self.rungs.push(format!("{at:>8.3}  {from:>7} -> {to:<7}  {what}"));
    }

    /// What passed since somebody was named.
    pub fn ladder(&self) -> String {
        self.rungs.join("\n")
    }

    /// Nothing is left once all timers have run.
    pub fn settles(&mut self) {
        self.pass(Duration::from_secs(400));
        assert_eq!((self.proxy.open(), self.proxy.transactions()), (0, 0));
        self.clear();
    }

    /// Where the next request went, 100s left aside.
    pub fn next_request(&mut self) -> Sent {
        let at = self.sent.iter().position(|sent| sent.message.is_request()).expect("no request was sent");
        self.sent.remove(at).unwrap()
    }

    /// The next answer to the caller that is no 100.
    pub fn answered(&mut self) -> Sent {
        loop {
            let sent = self.to(CALLER);
            if sent.message.status() != Some(100) {
                return sent;
            }
        }
    }

    /// Status codes that the caller got, 100 left aside.
    pub fn statuses(&mut self) -> Vec<u16> {
        let (to_caller, others): (Vec<Sent>, Vec<Sent>) =
            self.sent.drain(..).partition(|sent| sent.to == address(CALLER));
        self.sent = others.into();
        to_caller.iter().filter_map(|sent| sent.message.status()).filter(|status| *status > 100).collect()
    }

    /// Hands a message over; true when the proxy took it.
    pub fn put(&mut self, from: &str, message: Message) -> bool {
        self.put_by(Transport::Udp, from, message)
    }

    pub fn put_by(&mut self, transport: Transport, from: &str, message: Message) -> bool {
        let remote = address(from);
        let local = if remote.is_ipv4() { US } else { "[fd00::5]:5060" };
        let flow =
            Flow { transport, local: address(local), remote, connection: u64::from(transport != Transport::Udp) };
        self.rung(&self.name_of(remote), "proxy", &message);
        let handled = self.proxy.handle_message(self.now, message, flow, |_| false);
        self.collect();
        matches!(handled, Handled::Taken)
    }

    /// Hands over text with bare line feeds.
    pub fn text(&mut self, from: &str, text: &str) -> bool {
        self.put(from, parse(text))
    }

    /// Moves time on, running what comes due at its time.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.proxy.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.proxy.handle_timeout(self.now);
            self.collect();
        }
        self.now = until;
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.pass(Duration::from_millis(ms));
    }

    /// The next message sent.
    pub fn next(&mut self) -> Sent {
        self.sent.pop_front().expect("nothing was sent")
    }

    /// The next message to somebody; others stay.
    pub fn to(&mut self, whom: &str) -> Sent {
        let at = self.sent.iter().position(|sent| sent.to == address(whom));
        let at = at.unwrap_or_else(|| panic!("nothing was sent to {whom}: {:?}", self.lines()));
        self.sent.remove(at).unwrap()
    }

    /// What waits in the list, as text.
    pub fn lines(&self) -> Vec<String> {
        self.sent.iter().map(|sent| format!("{} {}", sent.to, sent.line())).collect()
    }

    pub fn clear(&mut self) {
        self.sent.clear();
    }

    /// An element answers a request that was sent to it.
    pub fn answer(&mut self, request: &Sent, status: u16) {
        let response = response_to(request, status);
        self.put_by(request.transport, &request.to.to_string(), response);
    }

    pub fn unreachable(&mut self, sent: &Sent) {
        let local = if sent.to.is_ipv4() { US } else { "[fd00::5]:5060" };
        let flow = Flow { transport: sent.transport, local: address(local), remote: sent.to, connection: 0 };
        self.proxy.handle_transport_error(self.now, flow);
        self.collect();
    }

    pub fn located(&mut self, ticket: Ticket, hops: &[(&str, Transport)]) {
        let hops: Vec<Hop> = hops
            .iter()
            .map(|(at, transport)| Hop { address: address(at), transport: *transport, host: "x".into() })
            .collect();
        self.proxy.handle_located(self.now, ticket, Ok(hops));
        self.collect();
    }
}

/// An answer with another To tag and more header lines.
pub fn response_with(request: &Sent, status: u16, tag: &str, more: &[(&str, &str)]) -> Message {
    let mut response = Message::response(&request.message, status, None);
    response.set_to_tag(tag);
    for (name, value) in more {
        response.add_header(name, value);
    }
    Message::parse(response.to_bytes()).unwrap()
}

/// A response as text.
pub fn text_of(sent: &Sent) -> String {
    String::from_utf8(sent.message.to_bytes().to_vec()).unwrap()
}

/// A request of another call.
pub fn call(number: u32, method: &str, uri: &str) -> Message {
    let mut request = request_as(&format!("z9hG4bKcall{number}"), method, uri, "");
    request.replace_header("Call-ID", &format!("{number}@caller"));
    parse_bytes(&request)
}

pub fn parse_bytes(message: &Message) -> Message {
    Message::parse(message.to_bytes()).unwrap()
}

/// The ACK to a failure, as the caller sends it.
pub fn ack_to(request: &Message, answer: &Sent) -> Message {
    let mut ack = parse(&format!("ACK {} SIP/2.0\nX: y\n\n", request.request_uri().unwrap()));
    ack.remove_header("X");
    for name in ["Via", "From", "Call-ID"] {
        ack.copy_lines(request, name);
    }
    ack.copy_lines(&answer.message, "To");
    ack.add_header("CSeq", &format!("{} ACK", request.cseq().unwrap().number));
    parse_bytes(&ack)
}

/// The CANCEL of a request.
pub fn cancel_of(request: &Message) -> Message {
    let mut cancel = parse(&format!("CANCEL {} SIP/2.0\nX: y\n\n", request.request_uri().unwrap()));
    cancel.remove_header("X");
    for name in ["Via", "From", "To", "Call-ID", "Route", "Max-Forwards"] {
        cancel.copy_lines(request, name);
    }
    cancel.add_header("CSeq", &format!("{} CANCEL", request.cseq().unwrap().number));
    parse_bytes(&cancel)
}

/// An answer as an element gives it.
pub fn response_to(request: &Sent, status: u16) -> Message {
    let mut response = Message::response(&request.message, status, None);
    if status > 100 {
        response.set_to_tag(&format!("at{}", request.to.port()));
    }
    for route in request.message.headers("Record-Route") {
        response.add_header("Record-Route", &route);
    }
    Message::parse(response.to_bytes()).unwrap()
}

pub fn parse(text: &str) -> Message {
    Message::parse(Bytes::from(text.trim_start().replace('\n', "\r\n").into_bytes())).unwrap()
}

/// A request of the caller.
pub fn request(method: &str, uri: &str, more: &str) -> Message {
    request_as("z9hG4bKcaller1", method, uri, more)
}

pub fn request_as(branch: &str, method: &str, uri: &str, more: &str) -> Message {
    let to = if more.contains("To:") { String::new() } else { format!("To: <{}>\n", uri.split(';').next().unwrap()) };
    let hops = if more.contains("Max-Forwards") { "" } else { "Max-Forwards: 70\n" };
    parse(&format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP {CALLER};branch={branch};rport\n{hops}From: <sip:caller@example.net>;tag=c1\n{to}Call-ID: one@caller\nCSeq: 1 {method}\n{more}Content-Length: 0\n\n"
    ))
}
