//! A proxy on a table: messages are handed to it as text, what it sends lies in a list, time is moved by hand.
#![allow(dead_code, unreachable_pub, clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_proxy::group::{ElementConfig, GroupConfig, GroupEvent, Hop};
use ferric_proxy::routing::{Action, Condition, Rewrite, RouteTable, Rule};
use ferric_proxy::{Handled, Listener, LocateTarget, Proxy, ProxyConfig, ProxyOutput, RequestDone, Ticket};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::TrustTable;

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
    let (host_port, transport) = match text.split_once(";transport=") {
        Some((at, "tcp")) => (at, Transport::Tcp),
        Some((at, _)) => (at, Transport::Tls),
        None => (text, Transport::Udp),
    };
    let (host, port) = host_port.rsplit_once(':').unwrap();
    ElementConfig {
        address: text.to_owned(),
        host: host.to_owned(),
        port: port.parse().ok(),
        transport,
        priority,
        weight,
        max_calls: None,
        calls_per_second: None,
        drain: false,
    }
}

/// A group without heartbeat.
pub fn group(elements: Vec<ElementConfig>) -> GroupConfig {
    GroupConfig { heartbeat: None, elements, ..GroupConfig::named("recorders.example.com") }
}

/// Everything to one group.
pub fn grouped(elements: Vec<ElementConfig>) -> ProxyConfig {
    ProxyConfig { groups: vec![group(elements)], routes: all_to(Action::Group("recorders.example.com".into())), ..config() }
}

impl Bench {
    pub fn new(config: ProxyConfig) -> Bench {
        let now = Instant::now();
        let proxy = Proxy::new(config, Timers::default(), TransactionLimits { transactions: 10_000 }, now, 1_800_000_000, 7);
        let mut bench = Bench {
            now,
            start: now,
            proxy,
            sent: VecDeque::new(),
            done: vec![],
            events: vec![],
            asked: VecDeque::new(),
            rejected: vec![],
        };
        bench.collect();
        bench
    }

    pub fn collect(&mut self) {
        while let Some(output) = self.proxy.poll_output() {
            match output {
                ProxyOutput::Transmit { flow, bytes } => {
                    let message = Message::parse(bytes).unwrap();
                    self.sent.push_back(Sent { to: flow.remote, transport: flow.transport, message });
                }
                ProxyOutput::Locate { ticket, target } => self.asked.push_back((ticket, target)),
                ProxyOutput::Done(done) => self.done.push(*done),
                ProxyOutput::Group(event) => self.events.push(event),
                ProxyOutput::Rejected { reason, .. } => self.rejected.push(reason),
            }
        }
    }

    /// Hands a message over; true when the proxy took it.
    pub fn put(&mut self, from: &str, message: Message) -> bool {
        self.put_by(Transport::Udp, from, message)
    }

    pub fn put_by(&mut self, transport: Transport, from: &str, message: Message) -> bool {
        let remote = address(from);
        let local = if remote.is_ipv4() { US } else { "[fd00::5]:5060" };
        let flow = Flow { transport, local: address(local), remote, connection: u64::from(transport != Transport::Udp) };
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
        self.proxy.handle_transport_error(self.now, &flow);
        self.collect();
    }

    pub fn located(&mut self, ticket: Ticket, hops: &[(&str, Transport)]) {
        let hops: Vec<Hop> =
            hops.iter().map(|(at, transport)| Hop { address: address(at), transport: *transport, host: "x".into() }).collect();
        self.proxy.handle_located(self.now, ticket, Ok(hops));
        self.collect();
    }
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
