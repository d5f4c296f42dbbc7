//! The locator: look-ups that are answered at once, and those that wait.
//!
//! Contract: `locate`, `locate_srv`, `handle_answer` and `handle_timeout` change things; then `poll_query` (as far as
//! the shell can take questions) and `poll_ready` are drained, and `poll_timeout` says when to come back. Time only
//! moves forward.
//!
//! A look-up that waits is walked again whenever a name it waits for is answered. It has two marks: after
//! [`LocatorConfig::query_patience`] it takes what there is (see [`crate::walk`]), after [`LocatorConfig::first_wait`]
//! it ends. Each ticket comes out of `poll_ready` exactly once unless it is cancelled.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_sip::Transport;
use ferric_sip::deadline::DeadlineQueue;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::cache::{Cache, CacheStats};
use crate::config::LocatorConfig;
use crate::record::{Answer, DnsFailure, Query, QueryId, normalise};
use crate::target::{LocateError, Plan, Target};
use crate::walk::{Pace, Walk};

/// One place to send a request to. Those of a list are tried in its order (RFC 3263 4.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Where to.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
    /// The host of the URI, for SNI and to verify the certificate against (RFC 5922 7.1): not the SRV target, which an
    /// attacker of DNS chooses.
    pub host_name: Arc<str>,
    /// Of the SRV record; 0 without one.
    pub priority: u16,
    /// Of the SRV record; 0 without one.
    pub weight: u16,
    /// How long this is good for; zero when served past its TTL.
    pub ttl_left: Duration,
}

/// A server of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host, in lower case.
    pub target: Arc<str>,
    /// Port.
    pub port: u16,
    /// Lower ones first.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u16,
    /// Its addresses; none when DNS has none now.
    pub addresses: Vec<SocketAddr>,
}

/// The servers of one transport of a domain, not shuffled: ascending priority, then as sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSet {
    /// The domain, without `_sip._udp`.
    pub name: Arc<str>,
    /// Transport of all of them.
    pub transport: Transport,
    /// Empty when the domain says that it does not offer the service.
    pub servers: Vec<Server>,
    /// Rises when servers or addresses become others, and only then.
    pub generation: u64,
    /// Until the first of the answers runs out; zero when served past its TTL.
    pub ttl_left: Duration,
}

/// Names a look-up that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// What came of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Where to send, best first; never empty. Of [`Locator::locate`].
    Ready(Vec<Hop>),
    /// The servers of a group. Of [`Locator::locate_srv`].
    Servers(ServerSet),
    /// Not known yet: comes out of [`Locator::poll_ready`] under this ticket.
    Wait(Ticket),
    /// Nowhere to send to.
    Failed(LocateError),
}

/// What a look-up is for.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    Hops { plan: Plan, host_name: Arc<str> },
    Servers { name: Arc<str>, transport: Transport },
}

#[derive(Debug)]
struct Waiting {
    want: Want,
    patience_at: Instant,
    deadline: Instant,
}

/// Server location with a memory. See the module and the crate.
#[derive(Debug)]
pub struct Locator {
    pub(crate) config: LocatorConfig,
    pub(crate) cache: Cache,
    rng: SmallRng,
    waiting: HashMap<u64, Waiting>,
    marks: DeadlineQueue<u64>,
    ready: VecDeque<(Ticket, Located)>,
    next_ticket: u64,
}

impl Locator {
    /// An empty one. The seed decides the order of records of equal rank.
    pub fn new(config: LocatorConfig, seed: u64) -> Locator {
        let config = config.sane();
        Locator {
            cache: Cache::new(config.clone()),
            config,
            rng: SmallRng::seed_from_u64(seed),
            waiting: HashMap::new(),
            marks: DeadlineQueue::default(),
            ready: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// Where a request to this target goes (RFC 3263 4.1, 4.2). Each call draws the order anew.
    pub fn locate(&mut self, now: Instant, target: &Target) -> Located {
        match target.plan(&self.config.transports) {
            Ok(plan) => {
                let inside = target.host.trim_start_matches('[').trim_end_matches(']');
                let host_name = normalise(inside).unwrap_or_else(|| inside.to_ascii_lowercase().into());
                self.start(now, Want::Hops { plan, host_name })
            }
            Err(error) => Located::Failed(error),
        }
    }

    /// The servers of a domain for one transport: SRV and their addresses, without NAPTR and without a fallback.
    pub fn locate_srv(&mut self, now: Instant, name: &str, transport: Transport) -> Located {
        match normalise(name) {
            Some(name) => self.start(now, Want::Servers { name, transport }),
            None => Located::Failed(LocateError::Name),
        }
    }

    /// What [`Locator::locate_srv`] would say by what is known now. What is missing is asked for, nobody waits for it;
    /// none as long as it is not known. Servers whose addresses are missing stand there without.
    pub fn peek_srv(&mut self, now: Instant, name: &str, transport: Transport) -> Option<Located> {
        match normalise(name) {
            Some(name) => self.peek(now, &Want::Servers { name, transport }),
            None => Some(Located::Failed(LocateError::Name)),
        }
    }

    /// The addresses of a host by what is known now, best first, likewise without waiting; none as long as none is known.
    pub fn peek_host(&mut self, now: Instant, name: &str, port: u16) -> Vec<SocketAddr> {
        let Some(name) = normalise(name) else { return Vec::new() };
        let plan = Plan::Hosts { name: name.clone(), port, transport: Transport::Udp };
        match self.peek(now, &Want::Hops { plan, host_name: name }) {
            Some(Located::Ready(hops)) => hops.into_iter().map(|hop| hop.address).collect(),
            Some(Located::Servers(_) | Located::Wait(_) | Located::Failed(_)) | None => Vec::new(),
        }
    }

    /// Has everything asked for that [`Locator::locate`] would need, if it is not known.
    pub fn warm(&mut self, now: Instant, target: &Target) {
        if let Ok(plan) = target.plan(&self.config.transports) {
            self.peek(now, &Want::Hops { plan, host_name: "".into() });
        }
    }

    fn peek(&mut self, now: Instant, want: &Want) -> Option<Located> {
        Walk::new(&mut self.cache, &self.config, &mut self.rng, now, Pace::Late).run(want)
    }

    /// Forgets a look-up that waits: nobody wants it any more.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket.0);
        self.marks.cancel(&ticket.0);
        self.ready.retain(|(ready, _)| *ready != ticket);
    }

    /// Keeps a domain, its service names and all that they lead to, refreshed and never forgotten.
    pub fn pin(&mut self, name: &str) {
        self.pinned_names(name).iter().for_each(|name| self.cache.pin(name));
    }

    /// Takes one [`Locator::pin`] back.
    pub fn unpin(&mut self, name: &str) {
        self.pinned_names(name).iter().for_each(|name| self.cache.unpin(name));
    }

    /// The next question, those that someone waits for first.
    pub fn poll_query(&mut self, now: Instant) -> Option<Query> {
        self.cache.poll_query(now, false)
    }

    /// The next question that someone waits for.
    pub fn poll_urgent_query(&mut self, now: Instant) -> Option<Query> {
        self.cache.poll_query(now, true)
    }

    /// Takes the answer to a question. Answers to questions that nobody remembers are passed over.
    pub fn handle_answer(&mut self, now: Instant, id: QueryId, result: Result<Answer, DnsFailure>) {
        let woken = self.cache.handle_answer(now, id, result);
        self.wake(now, woken);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let woken = self.cache.handle_timeout(now);
        self.wake(now, woken);
        while let Some(ticket) = self.marks.pop_due(now) {
            self.step(now, ticket);
        }
    }

    /// When to call [`Locator::handle_timeout`].
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        [self.cache.poll_timeout(), self.marks.next_deadline()].into_iter().flatten().min()
    }

    /// The next look-up that waits no longer.
    pub fn poll_ready(&mut self) -> Option<(Ticket, Located)> {
        self.ready.pop_front()
    }

    /// Rises whenever anything known becomes another: server groups look at their sets again.
    pub fn generation(&self) -> u64 {
        self.cache.changes()
    }

    /// Rises whenever a pinned name, or one that a pinned name leads to, becomes another.
    pub fn pinned_generation(&self) -> u64 {
        self.cache.pinned_changes()
    }

    /// True from a question that nobody answered until the next answer, whatever it says.
    pub fn is_silent(&self) -> bool {
        self.cache.is_silent()
    }

    /// Counters for the metrics.
    pub fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Look-ups that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn pinned_names(&self, name: &str) -> Vec<Arc<str>> {
        let Some(name) = normalise(name) else { return Vec::new() };
        let services = [Transport::Udp, Transport::Tcp, Transport::Tls];
        let mut names: Vec<Arc<str>> =
            services.iter().map(|transport| crate::target::service_name(&name, *transport)).collect();
        names.push(name);
        names
    }

    fn start(&mut self, now: Instant, want: Want) -> Located {
        let pace = if self.waiting.len() < self.config.max_waiting { Pace::Early } else { Pace::Last };
        let mut walk = Walk::new(&mut self.cache, &self.config, &mut self.rng, now, pace);
        match walk.run(&want) {
            Some(Located::Failed(_)) if pace == Pace::Last && walk.waited() => Located::Failed(LocateError::Overloaded),
            Some(located) => located,
            None => {
                self.next_ticket += 1;
                let ticket = self.next_ticket;
                walk.wait(ticket);
                let patience_at = now + self.config.query_patience;
                let deadline = now + self.config.first_wait;
                self.waiting.insert(ticket, Waiting { want, patience_at, deadline });
                self.marks.set(ticket, patience_at);
                Located::Wait(Ticket(ticket))
            }
        }
    }

    fn wake(&mut self, now: Instant, tickets: Vec<u64>) {
        for ticket in tickets {
            self.step(now, ticket);
        }
    }

    /// Walks a look-up that waits once more.
    fn step(&mut self, now: Instant, ticket: u64) {
        let Some(waiting) = self.waiting.get(&ticket) else { return };
        let pace = match now {
            now if now >= waiting.deadline => Pace::Last,
            now if now >= waiting.patience_at => Pace::Late,
            _ => Pace::Early,
        };
        let mut walk = Walk::new(&mut self.cache, &self.config, &mut self.rng, now, pace);
        match walk.run(&waiting.want) {
            Some(located) => {
                self.waiting.remove(&ticket);
                self.marks.cancel(&ticket);
                self.ready.push_back((Ticket(ticket), located));
            }
            None => {
                walk.wait(ticket);
                let mark = if pace == Pace::Early { waiting.patience_at } else { waiting.deadline };
                self.marks.set(ticket, mark);
            }
        }
    }
}
