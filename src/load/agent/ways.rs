//! Where requests go, and where they go next when nothing answers there (RFC 3263 4.3).
//!
//! The next hop of a request is a URI: the server that was given, or what the dialog says (RFC 3261 12.2.1.1). An
//! address is used as it is; a name is looked up, and its servers are tried in their order. A server that answered in
//! the dialog before is tried first, one that failed of late last.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_locate::{Answer, DnsClient, DnsFailure, Located, Locator, LocatorConfig, QueryId, Target, Ticket};
use ferric_sip::flow::Destination;
use ferric_sip::header::NameAddr;
use ferric_sip::{Flow, Message, Transport, Uri};

use super::{CallNumber, Purpose};

/// How long a server that failed is tried last.
const AVOID: Duration = Duration::from_secs(5);

/// Our own sockets: what Via and Contact name.
#[derive(Debug, Clone, Copy)]
pub(in crate::load) struct Ends {
    /// The transport of the run.
    pub(in crate::load) transport: Transport,
    /// Datagrams.
    pub(in crate::load) udp: SocketAddr,
    /// Connections that servers open.
    pub(in crate::load) tcp: SocketAddr,
}

impl Ends {
    /// Our end of one transport.
    pub(in crate::load) fn of(&self, transport: Transport) -> SocketAddr {
        if transport == Transport::Udp { self.udp } else { self.tcp }
    }
}

/// A request and the places where it has not been yet.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) call: CallNumber,
    pub(super) purpose: Purpose,
    /// Without Via.
    pub(super) request: Message,
    /// Where it is now.
    pub(super) at: Option<SocketAddr>,
    pub(super) left: VecDeque<Destination>,
}

/// What a look-up came to.
pub(super) enum Found {
    /// Best first, not empty.
    Hops(VecDeque<Destination>),
    /// [`Ways::poll_ready`] tells.
    Wait(Ticket),
    Nowhere,
}

/// All look-ups of a run.
#[derive(Debug)]
pub(super) struct Ways {
    locator: Locator,
    ends: Ends,
    /// The name that servers must prove under TLS, if it is not that of the URI.
    server_name: Option<Arc<str>>,
    failed: HashMap<SocketAddr, Instant>,
    waiting: HashMap<Ticket, (Attempt, Option<SocketAddr>)>,
}

impl Ways {
    pub(super) fn new(ends: Ends, server_name: Option<Arc<str>>, seed: u64) -> Ways {
        let mut transports = vec![ends.transport];
        transports.extend(
            [Transport::Udp, Transport::Tcp, Transport::Tls].into_iter().filter(|other| *other != ends.transport),
        );
        Ways {
            locator: Locator::new(LocatorConfig { transports, ..LocatorConfig::default() }, seed),
            ends,
            server_name,
            failed: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    pub(super) fn ends(&self) -> Ends {
        self.ends
    }

    /// Where a request to this URI or Route value goes; `known` is who answered last.
    pub(super) fn find(&mut self, now: Instant, next_hop: &str, known: Option<SocketAddr>, default: bool) -> Found {
        let route = || NameAddr::parse("Route", next_hop).ok().and_then(|route| route.parsed_uri());
        let uri = Uri::parse(next_hop).ok().or_else(route);
        let Some(mut target) = uri.and_then(|uri| Target::of_uri(&uri).ok()) else { return Found::Nowhere };
        if default && !target.secure {
            target.transport = target.transport.or(Some(self.ends.transport));
        }
        let located = self.locator.locate(now, &target);
        self.found(now, located, known)
    }

    fn found(&mut self, now: Instant, located: Located, known: Option<SocketAddr>) -> Found {
        let hops = match located {
            Located::Ready(hops) => hops,
            Located::Wait(ticket) => return Found::Wait(ticket),
            Located::Servers(_) => return Found::Nowhere,
            Located::Failed(error) => {
                tracing::warn!(%error, "nowhere to send to");
                return Found::Nowhere;
            }
        };
        self.failed.retain(|_, until| *until > now);
        let mut left: Vec<Destination> = hops
            .into_iter()
            .map(|hop| {
                let flow = Flow {
                    transport: hop.transport,
                    local: self.ends.of(hop.transport),
                    remote: hop.address,
                    connection: 0,
                };
                let name = self.server_name.clone().or(Some(hop.host_name));
                let name = name.filter(|name| name.parse::<std::net::IpAddr>().is_err());
                Destination { flow, server_name: name.filter(|_| hop.transport == Transport::Tls) }
            })
            .collect();
        // Stable: what is equal keeps the order that DNS and its weights gave.
        left.sort_by_key(|to| (self.failed.contains_key(&to.flow.remote), Some(to.flow.remote) != known));
        if left.is_empty() { Found::Nowhere } else { Found::Hops(left.into()) }
    }

    /// Keeps a request until its look-up is done.
    pub(super) fn wait(&mut self, ticket: Ticket, attempt: Attempt, known: Option<SocketAddr>) {
        self.waiting.insert(ticket, (attempt, known));
    }

    /// A request whose look-up is done; its places are empty when there is nowhere to send it.
    pub(super) fn poll_ready(&mut self, now: Instant) -> Option<Attempt> {
        loop {
            let (ticket, located) = self.locator.poll_ready()?;
            let Some((mut attempt, known)) = self.waiting.remove(&ticket) else { continue };
            if let Found::Hops(left) = self.found(now, located, known) {
                attempt.left = left;
            }
            return Some(attempt);
        }
    }

    /// Nothing answers there.
    pub(super) fn avoid(&mut self, now: Instant, server: SocketAddr) {
        self.failed.insert(server, now + AVOID);
    }

    /// Asks what is to be known.
    pub(super) fn pump(&mut self, now: Instant, dns: &DnsClient) {
        dns.pump(now, &mut self.locator);
    }

    pub(super) fn handle_answer(&mut self, now: Instant, id: QueryId, answer: Result<Answer, DnsFailure>) {
        self.locator.handle_answer(now, id, answer);
    }

    /// The next question, for tests that have no DNS.
    #[cfg(test)]
    pub(super) fn poll_query(&mut self, now: Instant) -> Option<ferric_locate::Query> {
        self.locator.poll_query(now)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.locator.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.locator.poll_timeout()
    }
}
