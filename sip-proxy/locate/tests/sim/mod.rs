//! A locator with simulated time, and DNS that is a table: up, slow, silent, or answering the wrong thing.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferric_locate::{
    Answer, DnsFailure, Kind, Located, Locator, LocatorConfig, Naptr, Query, RecordData, Srv, Target, Ticket,
};
use ferric_sip::{Transport, Uri};

/// What DNS does at the moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Dns {
    Up,
    /// The truth, but late.
    Slow(Duration),
    /// Nobody answers; the shell reports it after four seconds.
    Dead,
    /// Each question fails so, at once.
    Fails(DnsFailure),
}

pub struct Sim {
    pub locator: Locator,
    pub start: Instant,
    pub now: Instant,
    pub dns: Dns,
    /// What one kind of question gets, whatever the rest gets.
    pub by_kind: HashMap<Kind, Dns>,
    pub zone: HashMap<(String, Kind), (Duration, Vec<RecordData>)>,
    pub asked: Vec<String>,
    pub ready: Vec<(Ticket, Located)>,
    under_way: Vec<(Instant, Query, Result<Answer, DnsFailure>)>,
}

pub const SECOND: Duration = Duration::from_secs(1);

impl Sim {
    /// Lines of a zone: `name ttl KIND data`.
    pub fn new(config: LocatorConfig, zone: &str) -> Sim {
        let start = Instant::now() + Duration::from_secs(200_000);
        let mut sim = Sim {
            locator: Locator::new(config, 1),
            start,
            now: start,
            dns: Dns::Up,
            by_kind: HashMap::new(),
            zone: HashMap::new(),
            asked: Vec::new(),
            ready: Vec::new(),
            under_way: Vec::new(),
        };
        sim.add(zone);
        sim
    }

    pub fn add(&mut self, zone: &str) {
        for line in zone.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, ttl, kind, data @ ..] = words.as_slice() else { panic!("{line}") };
            let record = match (*kind, data) {
                ("A", [ip]) => RecordData::A(ip.parse().unwrap()),
                ("AAAA", [ip]) => RecordData::Aaaa(ip.parse().unwrap()),
                ("SRV", [priority, weight, port, target]) => RecordData::Srv(Srv {
                    priority: priority.parse().unwrap(),
                    weight: weight.parse().unwrap(),
                    port: port.parse().unwrap(),
                    target: target.trim_end_matches('.').into(),
                }),
                ("NAPTR", [order, preference, flags, service, replacement]) => RecordData::Naptr(Naptr {
                    order: order.parse().unwrap(),
                    preference: preference.parse().unwrap(),
                    flags: (*flags).into(),
                    service: (*service).into(),
                    regexp: String::new(),
                    replacement: replacement.trim_end_matches('.').into(),
                }),
                _ => panic!("{line}"),
            };
            let ttl = Duration::from_secs(ttl.parse().unwrap());
            let key = ((*name).to_owned(), record.kind());
            self.zone.entry(key).or_insert_with(|| (ttl, Vec::new())).1.push(record);
        }
    }

    /// Takes away all records of a name.
    pub fn remove(&mut self, name: &str) {
        self.zone.retain(|(known, _), _| known != name);
    }

    fn truth(&self, query: &Query) -> Result<Answer, DnsFailure> {
        match self.zone.get(&(query.name.to_string(), query.kind)) {
            Some((ttl, records)) => Ok(Answer { records: records.clone(), ttl: *ttl }),
            None if self.zone.keys().any(|(name, _)| **name == *query.name) => Err(DnsFailure::NoData),
            None => Err(DnsFailure::NxDomain),
        }
    }

    /// Asks all that is to be asked and answers what is due now.
    pub fn settle(&mut self) {
        loop {
            while let Some(query) = self.locator.poll_query(self.now) {
                self.asked.push(format!("{:?} {}", query.kind, query.name));
                let (after, result) = match *self.by_kind.get(&query.kind).unwrap_or(&self.dns) {
                    Dns::Up => (Duration::ZERO, self.truth(&query)),
                    Dns::Slow(after) => (after, self.truth(&query)),
                    Dns::Dead => (4 * SECOND, Err(DnsFailure::Timeout)),
                    Dns::Fails(failure) => (Duration::ZERO, Err(failure)),
                };
                self.under_way.push((self.now + after, query, result));
            }
            while let Some(ready) = self.locator.poll_ready() {
                self.ready.push(ready);
            }
            let Some(at) = self.under_way.iter().position(|(at, ..)| *at <= self.now) else { return };
            let (_, query, result) = self.under_way.remove(at);
            self.locator.handle_answer(self.now, query.id, result);
        }
    }

    /// Lets time go by, with all that happens on the way.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            self.settle();
            let next = self.under_way.iter().map(|(at, ..)| *at).chain(self.locator.poll_timeout()).min();
            match next {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.locator.handle_timeout(self.now);
                }
                _ => break,
            }
        }
        self.now = end;
        self.locator.handle_timeout(end);
        self.settle();
    }

    /// Locates without giving DNS a chance to answer.
    pub fn now(&mut self, uri: &str) -> Located {
        let target = Target::of_uri(&Uri::parse(uri).unwrap()).unwrap();
        self.locator.locate(self.now, &target)
    }

    /// Locates and waits as long as it takes; the result and how long it took.
    pub fn locate(&mut self, uri: &str) -> (String, Duration) {
        let begin = self.now;
        let located = self.now(uri);
        self.finish(located, begin)
    }

    pub fn locate_srv(&mut self, name: &str, transport: Transport) -> (Located, Duration) {
        let begin = self.now;
        let located = self.locator.locate_srv(self.now, name, transport);
        self.wait(located, begin)
    }

    fn finish(&mut self, located: Located, begin: Instant) -> (String, Duration) {
        let (located, took) = self.wait(located, begin);
        (show(&located), took)
    }

    fn wait(&mut self, located: Located, begin: Instant) -> (Located, Duration) {
        let Located::Wait(ticket) = located else { return (located, Duration::ZERO) };
        for _ in 0..1_000 {
            self.settle();
            if let Some(at) = self.ready.iter().position(|(ready, _)| *ready == ticket) {
                return (self.ready.remove(at).1, self.now - begin);
            }
            self.advance(Duration::from_millis(10));
        }
        panic!("{ticket:?} never came");
    }
}

/// `UDP 192.0.2.1:5060, ...`
pub fn show(located: &Located) -> String {
    match located {
        Located::Ready(hops) => {
            hops.iter().map(|hop| format!("{} {}", hop.transport, hop.address)).collect::<Vec<_>>().join(", ")
        }
        Located::Servers(set) => set
            .servers
            .iter()
            .map(|server| {
                format!(
                    "{}:{} {}/{} {:?}",
                    server.target, server.port, server.priority, server.weight, server.addresses
                )
            })
            .collect::<Vec<_>>()
            .join(", "),
        Located::Wait(_) => "wait".into(),
        Located::Failed(error) => format!("failed: {error}"),
    }
}
