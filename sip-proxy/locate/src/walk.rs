//! One walk from a target to its hops over what the cache knows (RFC 3263 4.1, 4.2).
//!
//! The walk asks for all that it finds missing on its way and never waits itself; it is walked again when an answer
//! came. How much it puts up with depends on its [`Pace`]:
//!
//! | what is missing | early | late (patience is over) | last (time is over) |
//! | --- | --- | --- | --- |
//! | NAPTR | wait | go on to SRV | go on to SRV |
//! | SRV | wait | wait, but take other transports' servers | fail, or take other transports' |
//! | some addresses | wait | leave those hosts out | leave those hosts out |
//! | all addresses | wait | wait | fail |
//!
//! Silence about SRV is not the absence of SRV: calls must not go to the web server that stands at the domain's own
//! address, so A/AAAA of the domain are used only after an answer (a denial, SERVFAIL or REFUSED).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_sip::Transport;
use rand::rngs::SmallRng;

use crate::cache::{Cache, Look};
use crate::config::LocatorConfig;
use crate::locate::{Hop, Located, Server, ServerSet, Want};
use crate::record::{DnsFailure, Kind, RecordData, Srv, normalise};
use crate::select::{naptr_groups, rfc2782_order, shuffle};
use crate::target::{LocateError, Plan, default_transport, service_name};

/// Hops of one look-up; more would outlast any transaction.
const MAX_HOPS: usize = 128;

/// How much a walk puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Early,
    Late,
    Last,
}

/// What one step found.
enum Step {
    Records(Arc<[RecordData]>),
    Absent(DnsFailure),
    /// Asked for; true when there is little hope.
    Unknown(bool),
}

/// What SRV said of one transport.
enum Service {
    Servers(Vec<Srv>),
    /// The one target ".".
    NotOffered,
    Absent(DnsFailure),
    Unknown,
}

pub(crate) struct Walk<'a> {
    cache: &'a mut Cache,
    config: &'a LocatorConfig,
    rng: &'a mut SmallRng,
    now: Instant,
    pace: Pace,
    /// Entries that hold the walk up.
    waits: Vec<u64>,
    /// Entries that hold it up only while nothing is found: they failed before, or are late already.
    hopeless: Vec<u64>,
    waited: bool,
    refused: bool,
    ttl_left: Duration,
    changed: u64,
    failure: Option<DnsFailure>,
    not_offered: bool,
    srv_found: bool,
    srv_silent: bool,
    hops: Vec<Hop>,
    host_name: Arc<str>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        cache: &'a mut Cache,
        config: &'a LocatorConfig,
        rng: &'a mut SmallRng,
        now: Instant,
        pace: Pace,
    ) -> Walk<'a> {
        Walk {
            cache,
            config,
            rng,
            now,
            pace,
            waits: Vec::new(),
            hopeless: Vec::new(),
            waited: false,
            refused: false,
            ttl_left: Duration::MAX,
            changed: 0,
            failure: None,
            not_offered: false,
            srv_found: false,
            srv_silent: false,
            hops: Vec::new(),
            host_name: "".into(),
        }
    }

    /// Walks; none when it has to wait.
    pub(crate) fn run(&mut self, want: &Want) -> Option<Located> {
        match want {
            Want::Hops { plan, host_name } => {
                self.host_name = host_name.clone();
                self.plan(plan);
                if self.must_wait(!self.hops.is_empty()) {
                    return None;
                }
                if self.hops.is_empty() {
                    return Some(Located::Failed(self.error()));
                }
                Some(Located::Ready(std::mem::take(&mut self.hops)))
            }
            Want::Servers { name, transport } => self.servers(name, *transport),
        }
    }

    /// True when something was missing that a walk with more time would have waited for.
    pub(crate) fn waited(&self) -> bool {
        self.waited
    }

    /// Has the ticket woken when one of the missing names is answered.
    pub(crate) fn wait(&mut self, ticket: u64) {
        for id in std::mem::take(&mut self.waits).into_iter().chain(std::mem::take(&mut self.hopeless)) {
            self.cache.wait_on(id, ticket);
        }
    }

    fn must_wait(&self, found: bool) -> bool {
        match self.pace {
            Pace::Early => !self.waits.is_empty() || (!found && !self.hopeless.is_empty()),
            Pace::Late => !found && !(self.waits.is_empty() && self.hopeless.is_empty()),
            Pace::Last => false,
        }
    }

    fn error(&self) -> LocateError {
        match self.failure {
            _ if self.refused => LocateError::Overloaded,
            _ if self.not_offered && !self.srv_found => LocateError::NotOffered,
            Some(failure) => LocateError::Dns(failure),
            None => LocateError::Dns(DnsFailure::Timeout),
        }
    }

    fn plan(&mut self, plan: &Plan) {
        match plan {
            Plan::Numeric(address, transport) => {
                self.ttl_left = self.config.max_ttl;
                self.hop(*address, *transport, 0, 0);
            }
            Plan::Hosts { name, port, transport } => self.host_hops(name, *port, *transport),
            Plan::Service { name, transport } => self.service_hops(name, &[*transport], *transport),
            Plan::Any { name, secure } => self.any(name, *secure),
        }
    }

    /// RFC 3263 4.1: neither port nor transport is given.
    fn any(&mut self, name: &Arc<str>, secure: bool) {
        let groups = match self.look(name, Kind::Naptr) {
            Step::Records(records) => naptr_groups(&records, secure, &self.config.transports),
            Step::Absent(_) => Vec::new(),
            Step::Unknown(false) if self.pace == Pace::Early => return,
            Step::Unknown(_) => Vec::new(),
        };
        // Only the first order that leads anywhere counts (RFC 3403 4.1).
        for group in &groups {
            for (transport, service) in group {
                self.srv_hops(service, *transport);
            }
            if !self.hops.is_empty() || (self.pace == Pace::Early && !self.waits.is_empty()) {
                return;
            }
        }
        if let Some((transport, _)) = groups.first().and_then(|group| group.first()) {
            self.fall_back(name, *transport);
            return;
        }
        let transports = match secure {
            true => vec![Transport::Tls],
            // A sip URI may be sent over TLS, but nothing says that the peer would want it unless SRV does.
            false => self.config.transports.clone(),
        };
        let default = if secure { Transport::Tls } else { default_transport(&self.config.transports) };
        self.service_hops(name, &transports, default);
    }

    /// SRV of each transport; A and AAAA of the name itself where there is none at all.
    fn service_hops(&mut self, name: &Arc<str>, transports: &[Transport], default: Transport) {
        for transport in transports {
            self.srv_hops(&service_name(name, *transport), *transport);
        }
        self.fall_back(name, default);
    }

    /// A and AAAA of the name itself, unless SRV led somewhere, said no or said nothing (RFC 3263 4.2).
    fn fall_back(&mut self, name: &Arc<str>, transport: Transport) {
        if !self.srv_found && !self.not_offered && !self.srv_silent {
            self.failure = None;
            self.host_hops(name, transport.default_port(), transport);
        }
    }

    /// The hops of one SRV name.
    fn srv_hops(&mut self, service: &Arc<str>, transport: Transport) {
        let servers = match self.service(service) {
            Service::Servers(servers) => servers,
            Service::NotOffered => {
                self.not_offered = true;
                return;
            }
            Service::Absent(failure) => {
                self.srv_silent |= failure == DnsFailure::Timeout;
                self.fail(failure);
                return;
            }
            Service::Unknown => {
                self.srv_silent = true;
                return;
            }
        };
        self.srv_found = true;
        for srv in rfc2782_order(servers, |srv| srv, self.rng) {
            let Some(host) = normalise(&srv.target) else { continue };
            for address in self.addresses(&host, true) {
                self.hop(SocketAddr::new(address, srv.port), transport, srv.priority, srv.weight);
            }
        }
    }

    fn host_hops(&mut self, name: &Arc<str>, port: u16, transport: Transport) {
        for address in self.addresses(name, true) {
            self.hop(SocketAddr::new(address, port), transport, 0, 0);
        }
    }

    fn servers(&mut self, name: &Arc<str>, transport: Transport) -> Option<Located> {
        let records = match self.service(&service_name(name, transport)) {
            Service::Servers(records) => records,
            Service::NotOffered => Vec::new(),
            Service::Absent(failure) => return Some(Located::Failed(LocateError::Dns(failure))),
            Service::Unknown if self.pace == Pace::Last => return Some(Located::Failed(self.error())),
            Service::Unknown => return None,
        };
        let mut servers = Vec::with_capacity(records.len());
        for srv in records {
            let Some(target) = normalise(&srv.target) else { continue };
            let addresses =
                self.addresses(&target, false).into_iter().map(|ip| SocketAddr::new(ip, srv.port)).collect();
            servers.push(Server { target, port: srv.port, priority: srv.priority, weight: srv.weight, addresses });
        }
        if self.must_wait(servers.iter().any(|server| !server.addresses.is_empty())) {
            return None;
        }
        Some(Located::Servers(ServerSet {
            name: name.clone(),
            transport,
            servers,
            generation: self.changed,
            ttl_left: self.ttl_left,
        }))
    }

    fn service(&mut self, service: &Arc<str>) -> Service {
        let records = match self.look(service, Kind::Srv) {
            Step::Records(records) => records,
            Step::Absent(failure) => return Service::Absent(failure),
            Step::Unknown(_) => return Service::Unknown,
        };
        let servers: Vec<Srv> = records
            .iter()
            .filter_map(|record| match record {
                RecordData::Srv(srv) if !matches!(srv.target.as_str(), "" | ".") => Some(srv.clone()),
                _ => None,
            })
            .collect();
        if servers.is_empty() { Service::NotOffered } else { Service::Servers(servers) }
    }

    /// The addresses of a host, in any order of each family when `shuffled`: DNS servers rotate them, a cache would not.
    fn addresses(&mut self, host: &Arc<str>, shuffled: bool) -> Vec<IpAddr> {
        let mut v4 = Vec::new();
        match self.look(host, Kind::A) {
            Step::Records(records) => v4.extend(records.iter().filter_map(address)),
            Step::Absent(failure) => self.fail(failure),
            Step::Unknown(_) => {}
        }
        let mut v6 = Vec::new();
        if self.config.ipv6 {
            match self.look(host, Kind::Aaaa) {
                Step::Records(records) => v6.extend(records.iter().filter_map(address)),
                Step::Absent(failure) if v4.is_empty() => self.fail(failure),
                Step::Absent(_) | Step::Unknown(_) => {}
            }
        }
        if shuffled {
            shuffle(&mut v4, self.rng);
            shuffle(&mut v6, self.rng);
        }
        let (mut first, second) = if self.config.ipv6_first { (v6, v4) } else { (v4, v6) };
        first.extend(second);
        first
    }

    fn look(&mut self, name: &Arc<str>, kind: Kind) -> Step {
        let ask = self.pace != Pace::Last;
        let held = match self.cache.look(self.now, name, kind, ask) {
            Look::Known(held) => held,
            Look::Checking(_, id) if self.pace == Pace::Early => {
                self.waits.push(id);
                self.waited = true;
                return Step::Unknown(false);
            }
            Look::Checking(held, _) => held,
            Look::Trouble(failure) => return Step::Absent(failure),
            Look::Pending(id, hopeless) => {
                if hopeless {
                    self.hopeless.push(id)
                } else {
                    self.waits.push(id)
                }
                self.waited = true;
                return Step::Unknown(hopeless);
            }
            Look::Nothing => {
                self.waited = true;
                self.refused |= ask;
                return Step::Unknown(true);
            }
        };
        self.changed = self.changed.max(held.changed);
        match held.value {
            Ok(records) => {
                self.ttl_left = self.ttl_left.min(held.ttl_left);
                Step::Records(records)
            }
            Err(failure) => Step::Absent(failure),
        }
    }

    /// Keeps the failure that says most about whether anyone was asked at all: silence, then trouble, then denial.
    fn fail(&mut self, failure: DnsFailure) {
        let rank = |failure| match failure {
            DnsFailure::Timeout => 0,
            DnsFailure::ServFail => 1,
            DnsFailure::Refused => 2,
            DnsFailure::NxDomain => 3,
            DnsFailure::NoData => 4,
        };
        if self.failure.is_none_or(|known| rank(failure) < rank(known)) {
            self.failure = Some(failure);
        }
    }

    fn hop(&mut self, address: SocketAddr, transport: Transport, priority: u16, weight: u16) {
        if self.hops.len() < MAX_HOPS {
            let host_name = self.host_name.clone();
            self.hops.push(Hop { address, transport, host_name, priority, weight, ttl_left: self.ttl_left });
        }
    }
}

fn address(record: &RecordData) -> Option<IpAddr> {
    match record {
        RecordData::A(ip) => Some(IpAddr::V4(*ip)),
        RecordData::Aaaa(ip) => Some(IpAddr::V6(*ip)),
        RecordData::Naptr(_) | RecordData::Srv(_) => None,
    }
}
