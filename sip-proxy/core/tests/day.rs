//! A day of mixed traffic in simulated time: calls through a group whose elements die and come back, calls to phones that
//! fork, other requests, registrations, names that DNS takes its time over, CANCELs at every moment, lost datagrams, and a
//! change of configuration every minute. Every request that arrives has exactly one end, and nothing is left.
//!
//! `FERRIC_DAY_HOURS` changes the length, `FERRIC_DAY_SEED` the dice; both are printed.

mod rig;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_proxy::group::{GroupConfig, Heartbeat, Hop};
use ferric_proxy::routing::{Action, Condition, RouteTable};
use ferric_proxy::{Handled, LocateTarget, Proxy, ProxyConfig, ProxyOutput, Ticket};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::transaction::{Timers, TransactionLimits};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rig::{CALLER, Phones, US, address, cancel_of, element, group, rule};

const PER_SECOND: f64 = 1.5;
const LOSS: f64 = 0.01;
const GROUP: &str = "recorders.example.com";
const ELEMENTS: [&str; 4] =
    ["192.168.2.1:5060", "192.168.2.2:5060;transport=tcp", "192.168.2.3:5060", "192.168.2.4:5060"];

enum Event {
    /// A new request of the caller's.
    Begin,
    ToProxy(Message, Flow),
    ToPeer(SocketAddr, Flow, Message),
    /// The caller repeats itself while nothing was heard, that often yet.
    Again(u64, &'static str, u32),
    Cancel(u64),
    Bye(u64),
    Located(Ticket, LocateTarget),
    /// An element dies or comes back.
    Flip,
    Change,
}

/// What the caller knows of a call.
struct Call {
    request: Message,
    heard: bool,
    ended: bool,
    answered: Option<String>,
}

struct World {
    rng: SmallRng,
    proxy: Proxy,
    start: Instant,
    now: Instant,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    events: HashMap<u64, Event>,
    next: u64,
    calls: HashMap<u64, Call>,
    next_call: u64,
    /// Dead elements; true when the machine says so by ICMP or reset.
    dead: HashMap<SocketAddr, bool>,
    /// What an element or phone said last to an INVITE, by branch.
    said: HashMap<String, (Instant, u16, Message)>,
    /// Requests that arrived, and how many ends they had.
    ends: HashMap<(String, String), u32>,
    begun: u64,
    ended: u64,
    sides: HashMap<(&'static str, u16), u64>,
    stopping: bool,
}

fn config(variant: u32) -> ProxyConfig {
    let mut elements: Vec<_> = ELEMENTS
        .iter()
        .enumerate()
        .map(|(at, text)| element(text, if at < 3 { 1 } else { 2 }, 10 + at as u16 * 10))
        .collect();
    match variant % 4 {
        1 => elements[0].weight = 90,
        2 => drop(elements.remove(2)),
        3 => elements[1].drain = true,
        _ => {}
    }
    let heartbeat =
        Some(Heartbeat { up: Duration::from_secs(5), down: Duration::from_secs(2), misses: 3, adaptive: true });
    let rules = vec![
        rule(vec![Condition::UserPrefix("9".into())], Action::Group(GROUP.into())),
        rule(vec![Condition::UserPrefix("n".into())], Action::RequestUri),
        rule(vec![], Action::Registrar),
    ];
    ProxyConfig {
        groups: vec![GroupConfig { heartbeat, slow_start: Duration::from_secs(20), ..group(elements) }],
        routes: RouteTable::new(rules),
        domains: vec!["example.com".into()],
        ..rig::config()
    }
}

impl World {
    fn new(seed: u64) -> World {
        let now = Instant::now();
        let mut proxy =
            Proxy::new(config(0), Timers::default(), TransactionLimits { transactions: 20_000 }, now, 0, seed);
        proxy.set_location(Some(Box::<Phones>::default()));
        World {
            rng: SmallRng::seed_from_u64(seed),
            proxy,
            start: now,
            now,
            due: BinaryHeap::new(),
            events: HashMap::new(),
            next: 0,
            calls: HashMap::new(),
            next_call: 0,
            dead: HashMap::new(),
            said: HashMap::new(),
            ends: HashMap::new(),
            begun: 0,
            ended: 0,
            sides: HashMap::new(),
            stopping: false,
        }
    }

    fn later(&mut self, ms: u64, event: Event) {
        self.next += 1;
        self.due.push(Reverse((self.now + Duration::from_millis(ms), self.next)));
        self.events.insert(self.next, event);
    }

    fn ms(&mut self, from: u64, to: u64) -> u64 {
        self.rng.random_range(from..=to)
    }

    fn flow(from: SocketAddr, transport: Transport) -> Flow {
        Flow { transport, local: address(US), remote: from, connection: u64::from(transport != Transport::Udp) }
    }

    /// On its way to the proxy, if it arrives.
    fn send(&mut self, from: SocketAddr, transport: Transport, message: &Message, after: u64) {
        if transport == Transport::Udp && self.rng.random_bool(LOSS) {
            return;
        }
        let delay = after + self.ms(1, 20);
        self.later(delay, Event::ToProxy(message.clone(), World::flow(from, transport)));
    }

    fn begin(&mut self) {
        self.next_call += 1;
        let call = self.next_call;
        let user = self.ms(0, 40);
        let (method, uri, more) = match self.ms(0, 99) {
            0..=49 => ("INVITE", format!("sip:9{user}@{GROUP}"), String::new()),
            50..=64 => ("INVITE", format!("sip:u{user}@example.com"), String::new()),
            65..=69 => ("INVITE", format!("sip:n{user}@host{user}.example.org"), String::new()),
            70..=74 => ("INVITE", format!("sip:9{user}@{GROUP}"), format!("X-Long: {}\n", "x".repeat(2_000))),
            75..=84 => ("MESSAGE", format!("sip:9{user}@{GROUP}"), String::new()),
            85..=89 => ("OPTIONS", format!("sip:u{user}@example.com"), String::new()),
            90 => ("MESSAGE", format!("sip:n{user}@host{user}.example.org"), String::new()),
            91 => ("INVITE", format!("sip:9{user}@{GROUP}"), "Max-Forwards: 0\n".to_owned()),
            _ => {
                let contacts: Vec<String> = (0..self.ms(1, 3))
                    .map(|n| format!("Contact: <sip:u{user}@192.168.3.{}>;q=0.{}\n", user + n, n.max(1)))
                    .collect();
                (
                    "REGISTER",
                    "sip:example.com".to_owned(),
                    format!("To: <sip:u{user}@example.com>\n{}", contacts.concat()),
                )
            }
        };
        let mut request = rig::request_as(&format!("z9hG4bKday{call}"), method, &uri, &more);
        request.replace_header("Call-ID", &format!("d{call}"));
        let request = rig::parse_bytes(&request);
        self.calls.insert(call, Call { request: request.clone(), heard: false, ended: false, answered: None });
        self.send(address(CALLER), Transport::Udp, &request, 0);
        self.later(500, Event::Again(call, "", 1));
        if method == "INVITE" && self.rng.random_bool(0.08) {
            let after = match self.ms(0, 2) {
                0 => self.ms(0, 40),
                1 => self.ms(0, 1_500),
                _ => self.ms(0, 30_000),
            };
            self.later(after, Event::Cancel(call));
        }
    }

    fn in_dialog(&self, call: u64, method: &str, cseq: u32) -> Option<Message> {
        let known = self.calls.get(&call)?;
        let to = known.answered.clone()?;
        let mut request =
            rig::request_as(&format!("z9hG4bKday{call}{method}"), method, &known.request.request_uri()?, "");
        request.replace_header("Call-ID", &format!("d{call}"));
        request.replace_header("To", &to);
        request.replace_header("CSeq", &format!("{cseq} {method}"));
        Some(rig::parse_bytes(&request))
    }

    /// The caller hears something.
    fn hear(&mut self, message: &Message) {
        let Some(number) = message.call_id().and_then(|id| id.get(1..).and_then(|id| id.parse::<u64>().ok())) else {
            return;
        };
        let Some(call) = self.calls.get_mut(&number) else { return };
        let (status, method) = (message.status().unwrap(), message.cseq().unwrap().method);
        if method != call.request.method() {
            return;
        }
        call.heard = true;
        if status < 200 {
            return;
        }
        let first = !std::mem::replace(&mut call.ended, true);
        if method.as_str() != "INVITE" {
            return;
        }
        if status >= 300 {
            let sent = rig::Sent { to: address(CALLER), transport: Transport::Udp, message: message.clone() };
            let ack = rig::ack_to(&call.request, &sent);
            self.send(address(CALLER), Transport::Udp, &ack, 0);
            return;
        }
        if call.answered.is_none() {
            call.answered = message.header("To").map(|to| to.into_owned());
        }
        let (is_group, _) = (call.request.request_uri().unwrap().contains(GROUP), first);
        if is_group && let Some(ack) = self.in_dialog(number, "ACK", 1) {
            self.send(address(CALLER), Transport::Udp, &ack, 0);
            if first {
                let length = self.ms(100, 120_000);
                self.later(length, Event::Bye(number));
            }
        }
    }

    /// An element or a phone hears something.
    fn serve(&mut self, at: SocketAddr, flow: Flow, message: &Message) {
        if let Some(noisy) = self.dead.get(&at).copied() {
            if noisy {
                let now = self.now;
                self.proxy.handle_transport_error(now, flow);
            }
            return;
        }
        // Phones that nobody has plugged in.
        if at.ip().to_string().ends_with('7') {
            return;
        }
        let transport = flow.transport;
        let answer = |status: u16| {
            let mut response = Message::response(message, status, None);
            if status > 100 {
                response.set_to_tag("t");
            }
            rig::parse_bytes(&response)
        };
        match message.method().as_str() {
            "ACK" => {}
            "INVITE" => {
                let branch = message.top_via().unwrap().branch().unwrap().to_owned();
                let now = self.now;
                if let Some(last) = self.said.get(&branch).map(|(_, last, _)| *last) {
                    self.send(at, transport, &answer(last), 0);
                    return;
                }
                let (mut ring, mut last) = (self.ms(5, 2_500), 200);
                match self.ms(0, 99) {
                    0..=5 => last = 486,
                    6..=8 => last = 503,
                    9 => last = 603,
                    10 => last = 500,
                    // It answers after it was given up.
                    11..=12 => ring = self.ms(900, 6_000),
                    // It rings, and that is all.
                    13 => last = 180,
                    // It never says a word.
                    14 => return,
                    _ => {}
                }
                self.said.insert(branch.clone(), (now, 180, message.clone()));
                if self.rng.random_bool(0.85) {
                    self.send(at, transport, &answer(100), 0);
                }
                if self.rng.random_bool(0.5) {
                    self.send(at, transport, &answer(180), 10);
                }
                if last >= 200 {
                    self.said.insert(branch, (now, last, message.clone()));
                    for again in [0, 500, 1_500] {
                        self.send(at, transport, &answer(last), ring + again);
                    }
                }
            }
            "CANCEL" => {
                self.send(at, transport, &answer(200), 0);
                let branch = message.top_via().unwrap().branch().unwrap().to_owned();
                if let Some((_, last, invite)) = self.said.get_mut(&branch).filter(|(_, last, _)| *last < 200) {
                    *last = 487;
                    let mut response = Message::response(invite, 487, None);
                    response.set_to_tag("t");
                    self.send(at, transport, &rig::parse_bytes(&response), 0);
                }
            }
            "OPTIONS" if self.rng.random_bool(0.01) => self.send(at, transport, &answer(503), 0),
            _ if self.rng.random_bool(0.01) => {}
            _ => self.send(at, transport, &answer(200), 0),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Begin => {
                self.begin();
                if !self.stopping {
                    let gap = -(1.0 - self.rng.random::<f64>()).ln() / PER_SECOND * 1_000.0;
                    self.later(gap as u64, Event::Begin);
                }
            }
            Event::ToProxy(message, flow) => {
                if message.is_request() && message.method().as_str() != "ACK" && message.method().as_str() != "CANCEL" {
                    let key = (message.call_id().unwrap().into_owned(), message.method().as_str().to_owned());
                    if !self.ends.contains_key(&key) {
                        self.ends.insert(key, 0);
                        self.begun += 1;
                    }
                }
                let now = self.now;
                let what = format!("{:?}", message.request_uri());
                let handled = self.proxy.handle_message(now, message, flow, |_| false);
                assert!(matches!(handled, Handled::Taken), "{what}");
            }
            Event::ToPeer(at, flow, message) => {
                if at == address(CALLER) {
                    self.hear(&message)
                } else {
                    self.serve(at, flow, &message)
                }
            }
            Event::Again(call, method, count) => {
                let message = if method == "BYE" {
                    self.in_dialog(call, "BYE", 2)
                } else {
                    self.calls.get(&call).filter(|call| !call.heard).map(|call| call.request.clone())
                };
                if let Some(message) = message.filter(|_| count < 5) {
                    self.send(address(CALLER), Transport::Udp, &message, 0);
                    if method.is_empty() {
                        self.later(500 << count, Event::Again(call, method, count + 1));
                    }
                }
            }
            Event::Cancel(call) => {
                if let Some(cancel) =
                    self.calls.get(&call).filter(|call| !call.ended).map(|call| cancel_of(&call.request))
                {
                    self.send(address(CALLER), Transport::Udp, &cancel, 0);
                }
            }
            Event::Bye(call) => {
                if let Some(bye) = self.in_dialog(call, "BYE", 2) {
                    self.send(address(CALLER), Transport::Udp, &bye, 0);
                    self.later(500, Event::Again(call, "BYE", 1));
                }
            }
            Event::Located(ticket, target) => {
                let host: u64 =
                    target.host.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
                let hop = |n: u64| Hop {
                    address: address(&format!("192.168.5.{}:5060", n % 200)),
                    transport: Transport::Udp,
                    host: "x".into(),
                };
                let found = match host % 10 {
                    0 => Err(true),
                    1 => Err(false),
                    _ => Ok(vec![hop(host), hop(host + 1)]),
                };
                let now = self.now;
                self.proxy.handle_located(now, ticket, found);
            }
            Event::Flip => {
                let text = ELEMENTS[self.rng.random_range(0..ELEMENTS.len())];
                let at = address(text.split(';').next().unwrap());
                if self.dead.remove(&at).is_none() && self.rng.random_bool(0.6) {
                    let noisy = self.rng.random();
                    self.dead.insert(at, noisy);
                }
                if !self.stopping {
                    let next = self.ms(10_000, 300_000);
                    self.later(next, Event::Flip);
                }
            }
            Event::Change => {
                let variant = self.rng.random();
                let now = self.now;
                self.proxy.apply(now, config(variant));
                if !self.stopping {
                    self.later(60_000, Event::Change);
                }
            }
        }
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(output) = self.proxy.poll_output() {
            match output {
                ProxyOutput::Transmit { to, bytes } => {
                    let flow = to.flow;
                    if flow.transport == Transport::Udp && self.rng.random_bool(LOSS) {
                        continue;
                    }
                    let message = Message::parse(bytes).unwrap();
                    let delay = self.ms(1, 20);
                    self.later(delay, Event::ToPeer(flow.remote, flow, message));
                }
                ProxyOutput::Locate { ticket, target } => {
                    let delay = if self.rng.random_bool(0.1) { self.ms(1_000, 8_000) } else { self.ms(1, 50) };
                    self.later(delay, Event::Located(ticket, target));
                }
                ProxyOutput::Done(done) => {
                    let ends = self.ends.get_mut(&(done.call_id.clone(), done.method.clone())).expect("it arrived");
                    *ends += 1;
                    assert_eq!(*ends, 1, "one end each: {done:?}");
                    assert!((200..700).contains(&done.status) && !done.side.is_empty(), "{done:?}");
                    self.ended += 1;
                    *self.sides.entry((done.side, done.status)).or_default() += 1;
                }
                ProxyOutput::Group(_) => {}
                ProxyOutput::Rejected { reason, .. } => panic!("{reason}"),
            }
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let timer = self.proxy.poll_timeout();
            let event = self.due.peek().map(|Reverse((at, _))| *at);
            let Some(next) = timer.into_iter().chain(event).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if timer.is_some_and(|timer| timer <= self.now) {
                let now = self.now;
                self.proxy.handle_timeout(now);
                self.collect();
            }
            if event.is_some_and(|event| event <= self.now)
                && let Some(Reverse((_, id))) = self.due.pop()
                && let Some(event) = self.events.remove(&id)
            {
                self.step(event);
            }
        }
        self.now = end;
    }

    /// What is long over is forgotten, or the day would not fit into memory.
    fn forget(&mut self) {
        let oldest = self.next_call.saturating_sub(3_000);
        self.calls.retain(|call, _| *call > oldest);
        let now = self.now;
        self.said.retain(|_, (at, _, _)| now.duration_since(*at) < Duration::from_secs(600));
        self.ends.retain(|(id, _), ends| *ends == 0 || id[1..].parse::<u64>().unwrap() > oldest);
    }
}

fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn every_request_of_a_day_has_one_end() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (hours, seed) = (number("FERRIC_DAY_HOURS", 24), number("FERRIC_DAY_SEED", 7));
    println!("{hours} hours, seed {seed}");
    let mut world = World::new(seed);
    world.later(0, Event::Begin);
    world.later(1_000, Event::Flip);
    world.later(60_000, Event::Change);
    let (mut early_kib, mut most) = (0, 0);
    for minute in 1..=hours * 60 {
        let end = world.start + Duration::from_secs(minute * 60);
        world.run_until(end);
        world.forget();
        most = most.max(world.proxy.transactions());
        if minute == 60 {
            early_kib = resident_kib();
        }
    }
    let late_kib = resident_kib();
    let mut sides: Vec<_> = world.sides.iter().collect();
    sides.sort();
    println!(
        "{} requests, {most} transactions at once, {early_kib} KiB after an hour, {late_kib} KiB at the end, {sides:?}",
        world.begun
    );
    // All come back, nobody calls any more.
    world.stopping = true;
    world.dead.clear();
    let end = world.now + Duration::from_secs(1_200);
    world.run_until(end);
    assert_eq!(
        world.begun,
        world.ended,
        "{:?}",
        world.ends.iter().filter(|(_, ends)| **ends == 0).take(5).collect::<Vec<_>>()
    );
    let now = world.now;
    let open: Vec<_> = world
        .proxy
        .groups()
        .view(now)
        .into_iter()
        .flat_map(|group| group.elements)
        .map(|element| (element.address, element.open))
        .collect();
    assert!(open.iter().all(|(_, open)| *open == 0), "{open:?}");
    let dialogs = world.proxy.groups().dialogs() as u64;
    assert!(dialogs * 20 < world.begun, "{dialogs} calls without an end");
    // Without groups there is no heartbeat: what is left now would be left for ever.
    world.proxy.apply(now, rig::config());
    let end = world.now + Duration::from_secs(400);
    world.run_until(end);
    let left: Vec<_> =
        world.proxy.tables().into_iter().filter(|(name, count)| *count > 0 && *name != "without-tcp").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(world.proxy.poll_timeout(), None, "no timer is left");
    assert!(hours < 3 || late_kib < early_kib + early_kib / 2 + 20_000, "memory grows: {early_kib} to {late_kib} KiB");
}
