//! The proxy before the recorder, with the directory that finds its names.
//!
//! ```text
//! message -> Edge::handle_message -> Taken             forwarded, answered, dropped
//!                                 -> Local(message)    the recorder's
//! Edge::drain: proxy and directory until both are quiet; bytes to the sockets, ends of requests to Sight
//! ```
//!
//! With nothing configured (no route, no group, no registrar) the node is a recorder and nothing else: all is local.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ferric_proxy::group::{DownCause, Drained, ElementState, GroupEvent, GroupShares, GroupView};
use ferric_proxy::routing::Action;
use ferric_proxy::{
    Explanation, Handled, Listener, LocateTarget, Location, Proxy, ProxyConfig, ProxyOutput, RequestDone,
};
use ferric_registrar::{Change, RegistrarConfig, Saved, SavedFlow, Users};
use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::Network;
use ferric_sip::uri::Uri;
use ferric_sip_io::SipSockets;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::directory::{Directory, DnsEvent};
use super::registrar::shared::{News, Sharing};
use super::registrar::{self, NodeRegistrar};
use super::sight::Sight;
use crate::config::{self, Complaints, Config};
use crate::metrics;

/// Transactions of the proxy at once. Two a call linger for 32 s (RFC 6026), so this is 15,000 calls a second, in some 500
/// MiB; memory is taken as they come.
const TRANSACTIONS: usize = 1_000_000;

/// What the edge tells besides bytes.
#[derive(Debug)]
pub(super) enum EdgeEvent {
    /// A recording was asked for, and no recorder took the call.
    Unrecorded {
        /// Whose call.
        tenant: String,
        /// What became of it.
        done: Box<RequestDone>,
    },
    /// An element came to life or died.
    Group(GroupEvent),
}

/// What the edge waits for.
#[derive(Debug)]
pub(super) enum EdgeInput {
    /// DNS answered.
    Dns(DnsEvent),
    /// Other nodes told something.
    News(News),
}

/// The proxy of this node.
pub(super) struct Edge {
    proxy: Proxy,
    directory: Directory,
    is_idle: bool,
    /// Elements that metrics know of.
    known: HashSet<(String, String)>,
    /// Registrations of other nodes.
    sharing: Option<Sharing>,
}

impl Edge {
    /// `drained` is what was drained before the start; `secret` outlives the process.
    pub(super) fn new(
        epoch: Epoch,
        drained: Drained,
        directory: Directory,
        secret: u64,
        sharing: Option<Sharing>,
        now: Instant,
    ) -> Edge {
        let is_idle = is_idle(&epoch.proxy);
        let limits = TransactionLimits { transactions: TRANSACTIONS };
        let proxy =
            Proxy::new(epoch.proxy, Timers::default(), limits, now, unix_s(), rand::random()).with_secret(secret);
        let mut edge = Edge { proxy, directory, is_idle, known: HashSet::new(), sharing };
        edge.proxy.groups().restore_drained(drained);
        edge.apply_registrar(now, epoch.registrar);
        edge.directory.keep_warm(now, &fixed_targets(edge.proxy.config()));
        edge.directory.watch(now, edge.proxy.groups());
        edge
    }

    /// Takes over another configuration. A registrar that ended by it is given back: letting go of it waits for its file.
    pub(super) fn apply(&mut self, now: Instant, epoch: Epoch) -> Option<Box<dyn Location>> {
        self.is_idle = is_idle(&epoch.proxy);
        self.proxy.apply(now, epoch.proxy);
        let ended = self.apply_registrar(now, epoch.registrar);
        self.directory.keep_warm(now, &fixed_targets(self.proxy.config()));
        self.directory.watch(now, self.proxy.groups());
        self.directory.update(now, self.proxy.groups());
        ended
    }

    /// Takes the registrar over, begins one, or ends it. No file is touched here.
    fn apply_registrar(&mut self, now: Instant, wanted: Registering) -> Option<Box<dyn Location>> {
        match wanted {
            Registering::Off => self.proxy.set_location(None),
            Registering::On(mut registrar) => {
                if let Some(sharing) = &mut self.sharing {
                    sharing.introduce(now, &mut registrar);
                }
                self.proxy.set_location(Some(registrar))
            }
            Registering::By(settings, users) => {
                match self.registrar() {
                    Some(registrar) => registrar.apply(*settings, users),
                    None => tracing::error!("there is no registrar to take over its settings"),
                }
                None
            }
        }
    }

    fn registrar(&mut self) -> Option<&mut NodeRegistrar> {
        registrar_of(&mut self.proxy)
    }

    /// Bindings of one user, or of all from a place on.
    pub(super) fn registrations(
        &mut self,
        now: Instant,
        aor: Option<&str>,
        from: u32,
        most: usize,
    ) -> (Vec<Saved>, Option<u32>) {
        self.registrar().map(|registrar| registrar.list(now, aor, from, most)).unwrap_or_default()
    }

    /// The proxy itself.
    pub(super) fn proxy(&mut self) -> &mut Proxy {
        &mut self.proxy
    }

    /// Whether requests that come over a flow are taken.
    pub(super) fn is_trusted(&self, flow: &Flow) -> bool {
        self.proxy.config().trust.tenant_of(flow.remote.ip()).is_some()
    }

    /// What the server groups look like.
    pub(super) fn groups(&mut self, now: Instant) -> Vec<GroupView> {
        self.proxy.groups().view(now)
    }

    /// The same, with how calls that begin now would be shared out.
    pub(super) fn shares(&mut self, now: Instant) -> Vec<GroupShares> {
        let names: Vec<_> = self.proxy.config().groups.iter().map(|group| Arc::clone(&group.name)).collect();
        let groups = self.proxy.groups();
        names
            .iter()
            .filter_map(|name| groups.preview(now, name, 0, &mut SmallRng::seed_from_u64(0)).into_iter().next())
            .collect()
    }

    /// Which way a message would take, and whether nothing is configured.
    pub(super) fn explain(&mut self, now: Instant, message: &Message, flow: &Flow) -> (Explanation, bool) {
        (self.proxy.explain(now, message, flow), self.is_idle)
    }

    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
        flow: Flow,
        expected: impl Fn(&Message) -> bool,
    ) -> Handled {
        // What was begun before the last rule went away still comes to its end.
        if self.is_idle && self.proxy.transactions() == 0 {
            return Handled::Local(message);
        }
        self.proxy.handle_message(now, message, flow, expected)
    }

    pub(super) fn handle_transport_error(&mut self, now: Instant, to: &Destination) {
        self.proxy.handle_transport_error(now, to);
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let sharing = self.sharing.as_ref().and_then(Sharing::poll_timeout);
        [self.proxy.poll_timeout(), self.directory.poll_timeout(), sharing].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.proxy.poll_timeout().is_some_and(|due| due <= now) {
            self.proxy.handle_timeout(now);
        }
        if self.directory.poll_timeout().is_some_and(|due| due <= now) {
            self.directory.handle_timeout(now);
            self.directory.update(now, self.proxy.groups());
        }
        if let Some(sharing) = &mut self.sharing {
            sharing.handle_timeout(now, registrar_of(&mut self.proxy));
        }
    }

    /// Waits for DNS, and for news of other nodes.
    pub(super) async fn recv(&mut self) -> EdgeInput {
        let Some(sharing) = &mut self.sharing else { return EdgeInput::Dns(self.directory.recv().await) };
        tokio::select! {
            event = self.directory.recv() => EdgeInput::Dns(event),
            news = sharing.recv() => EdgeInput::News(news),
        }
    }

    pub(super) fn handle(&mut self, now: Instant, input: EdgeInput) {
        match input {
            EdgeInput::Dns(event) => {
                self.directory.handle(now, event);
                self.directory.update(now, self.proxy.groups());
            }
            EdgeInput::News(News::Away(addresses, away)) => {
                let groups = self.proxy.groups();
                addresses.into_iter().for_each(|address| groups.set_away(address, away));
            }
            EdgeInput::News(news) => {
                if let Some(sharing) = &mut self.sharing {
                    sharing.handle(now, news, registrar_of(&mut self.proxy));
                }
            }
        }
    }

    /// Tells the other nodes what was registered here.
    fn share(&mut self, now: Instant) {
        let Some(sharing) = &mut self.sharing else { return };
        let Some(changes) = registrar_of(&mut self.proxy).map(NodeRegistrar::take_outbox) else { return };
        for change in changes {
            match change {
                Change::Set(saved) => {
                    let flow = saved.flow.as_ref().and_then(SavedFlow::live);
                    let hop = flow.and_then(|flow| self.proxy.hop(&flow));
                    sharing.put(*saved, hop);
                }
                Change::Remove(key) => sharing.remove(&key),
                Change::Expired(_) => {}
                Change::Lost => sharing.tell_all(now),
            }
        }
    }

    pub(super) fn set_clock(&mut self, now: Instant) {
        self.proxy.set_clock(now, unix_s());
    }

    /// Does what proxy and directory want, until they want nothing more.
    pub(super) fn drain(
        &mut self,
        now: Instant,
        sockets: &SipSockets,
        sight: &Sight,
        tell: &mut impl FnMut(EdgeEvent),
    ) {
        self.share(now);
        loop {
            while let Some(output) = self.proxy.poll_output() {
                match output {
                    ProxyOutput::Transmit { to, bytes } => {
                        if let Some((is_request, method)) = ferric_sip::message::peek(&bytes) {
                            sight.message(false, is_request, &method, &to.flow, &bytes);
                        }
                        sockets.send(to, bytes);
                    }
                    ProxyOutput::Locate { ticket, target } => {
                        if let Some(found) = self.directory.locate(now, ticket, &target) {
                            self.proxy.handle_located(now, ticket, found);
                        }
                    }
                    ProxyOutput::Done(done) => {
                        if done.tries > 1 {
                            metrics::failovers("element", u64::from(done.tries - 1));
                        }
                        sight.done(now, &done);
                        if is_unrecorded(&done) {
                            let tenant =
                                self.proxy.config().trust.tenant_of(done.source.ip()).unwrap_or_default().to_owned();
                            tell(EdgeEvent::Unrecorded { tenant, done });
                        }
                    }
                    ProxyOutput::Group(event) => {
                        say(&event);
                        tell(EdgeEvent::Group(event));
                    }
                    ProxyOutput::Rejected { reason, source } => {
                        metrics::rejected(reason);
                        tracing::debug!(%source, reason, "request dropped");
                    }
                }
            }
            let Some((ticket, found)) = self.directory.poll_found() else { break };
            self.proxy.handle_located(now, ticket, found);
        }
    }

    /// Once a second: the numbers of groups and registrar into the metrics.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn export(&mut self, now: Instant) {
        let dns = self.directory.stats();
        metrics::set("ferric_dns_silent", f64::from(u8::from(dns.is_silent)));
        metrics::set("ferric_dns_waiting", dns.waiting as f64);
        if let Some(counters) = self.registrar().map(|registrar| registrar.counters()) {
            metrics::registrar([
                ("accepted", counters.accepted),
                ("refused", counters.refused),
                ("challenged", counters.challenged),
                ("stale", counters.stale),
                ("wrong_password", counters.wrong_password),
                ("throttled", counters.throttled),
                ("expired", counters.expired),
                ("flow_lost", counters.flow_lost),
            ]);
        }
        metrics::set("ferric_registrations", self.registrar().map_or(0, |registrar| registrar.len()) as f64);
        let mut seen = HashSet::new();
        for group in self.proxy.groups().view(now) {
            let name = group.config.name.to_string();
            for element in group.elements {
                let up = matches!(element.state, ElementState::Up | ElementState::Busy(_));
                let counters = element.counters;
                let results = [
                    ("answered", counters.succeeded),
                    ("refused", counters.refused),
                    ("failed_over", counters.failed_over),
                ];
                metrics::element(&name, &element.address, up, results);
                seen.insert((name.clone(), element.address));
            }
        }
        for (group, element) in self.known.difference(&seen) {
            metrics::element_gone(group, element);
        }
        self.known = seen;
        metrics::set("ferric_proxy_open", self.proxy.open() as f64);
    }

    /// Keeps what DNS said for the next start.
    pub(super) fn save(&self) {
        self.directory.save();
    }
}

fn registrar_of(proxy: &mut Proxy) -> Option<&mut NodeRegistrar> {
    let location: &mut dyn Any = proxy.location()?;
    location.downcast_mut()
}

/// A challenge is no refusal: the call comes again with a password.
fn is_unrecorded(done: &RequestDone) -> bool {
    done.is_recording && done.method == "INVITE" && done.status >= 300 && !matches!(done.status, 401 | 407)
}

/// Names that rules lead to, which are known before the first call asks.
fn fixed_targets(config: &ProxyConfig) -> Vec<LocateTarget> {
    let uris = config.routes.rules().iter().filter_map(|rule| match &rule.action {
        Action::Uri(uri) => Uri::parse(uri).ok(),
        Action::Group(_)
        | Action::RequestUri
        | Action::Registrar
        | Action::Srs
        | Action::Reject { .. }
        | Action::Redirect(_) => None,
    });
    let target = |uri: Uri| {
        let transport = match uri.params.get("transport").map(str::to_ascii_lowercase).as_deref() {
            Some("udp") => Some(Transport::Udp),
            Some("tcp") => Some(Transport::Tcp),
            Some("tls") => Some(Transport::Tls),
            Some(_) | None => None,
        };
        LocateTarget { secure: uri.scheme == "sips", port: uri.port, transport, host: uri.host }
    };
    uris.map(target).filter(|target| target.host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()).collect()
}

fn say(event: &GroupEvent) {
    match event {
        GroupEvent::Up { group, element } => tracing::info!(%group, element, "element is up"),
        GroupEvent::Down { group, element, cause } => {
            let cause = match cause {
                DownCause::Misses => "too many missed or bad answers",
                DownCause::Timeout => "no answer",
                DownCause::Unreachable => "unreachable",
            };
            tracing::warn!(%group, element, cause, "element is down");
        }
    }
}

fn is_idle(config: &ProxyConfig) -> bool {
    config.routes.rules().is_empty() && config.groups.is_empty() && config.domains.is_empty()
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `host:port` by which others know a listener, where it is not simply its address.
pub(super) fn advertised(config: &Config, bound: &[(Transport, SocketAddr)]) -> BTreeMap<usize, String> {
    let known_as = bound.iter().zip(&config.sip.listeners).enumerate().filter_map(|(at, ((_, address), listener))| {
        let host = listener.advertise.clone().or_else(|| {
            // A wildcard address means nothing to a peer; the media address is at least ours.
            let ip = config.capture.advertise.unwrap_or(config.capture.rtp_address);
            address.ip().is_unspecified().then(|| SocketAddr::new(ip, address.port()).to_string())
        })?;
        Some((at, host))
    });
    known_as.collect()
}

/// One configuration of the edge, swapped in as a whole.
#[derive(Debug)]
pub(super) struct Epoch {
    pub(super) proxy: ProxyConfig,
    pub(super) registrar: Registering,
}

/// What becomes of the registrar.
#[derive(Debug)]
pub(super) enum Registering {
    /// There is none.
    Off,
    /// The one that runs takes over these settings and users; [`Epoch::open_registrar`] makes one where none runs.
    By(Box<RegistrarConfig>, Option<Users>),
    /// This one begins.
    On(Box<NodeRegistrar>),
}

impl Epoch {
    /// Whether there is a registrar.
    pub(super) fn registers(&self) -> bool {
        !matches!(self.registrar, Registering::Off)
    }

    /// Where no registrar runs and one is wanted: opens it with the registrations that `folder` holds. Reads and writes files,
    /// which is not for the SIP thread.
    ///
    /// # Errors
    /// The folder cannot be used; there is no registrar then.
    pub(super) fn open_registrar(&mut self, folder: &Path) -> io::Result<()> {
        self.registrar = match std::mem::replace(&mut self.registrar, Registering::Off) {
            Registering::By(settings, users) => {
                let (registrar, restored) = NodeRegistrar::open(*settings, users, folder, Instant::now())?;
                tracing::info!(restored, "the registrar is ready");
                Registering::On(Box::new(registrar))
            }
            other @ (Registering::Off | Registering::On(_)) => other,
        };
        Ok(())
    }
}

/// The edge's part of a configuration.
///
/// # Errors
/// What is wrong with the file of users.
pub(super) fn epoch(config: &Config, bound: &[(Transport, SocketAddr)]) -> Result<Epoch, Complaints> {
    let wanted = config.proxy.as_ref().map(|proxy| &proxy.registrar).filter(|registrar| !registrar.domains.is_empty());
    let registrar = match wanted {
        None => Registering::Off,
        Some(registrar) => {
            let load = |file: &PathBuf| config::users::load(file, &registrar.domains, &mut Vec::new());
            let mut users = registrar.users.as_ref().map(load).transpose()?;
            users.iter_mut().for_each(|users| users.offer_only(registrar.algorithm));
            Registering::By(Box::new(registrar::settings(registrar)), users)
        }
    };
    Ok(Epoch { proxy: proxy_config(config, bound), registrar })
}

/// The proxy's part of a configuration.
fn proxy_config(config: &Config, bound: &[(Transport, SocketAddr)]) -> ProxyConfig {
    let names = advertised(config, bound);
    let listeners = bound.iter().enumerate().map(|(at, (transport, address))| Listener {
        transport: *transport,
        address: *address,
        advertise: names.get(&at).cloned(),
    });
    let mut proxy = ProxyConfig::new(listeners.collect(), config.trust_table(), ferric_srs::asks_for_recording);
    proxy.networks = interfaces();
    if bound.iter().any(|(_, address)| address.ip().is_unspecified()) {
        proxy.own_hosts = proxy.networks.iter().map(|(address, _)| *address).collect();
    }
    if let Some(settings) = &config.proxy {
        settings.apply_to(&mut proxy);
    }
    proxy
}

/// Addresses of this machine, each with its network.
fn interfaces() -> Vec<(IpAddr, Network)> {
    let Ok(found) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
    };
    let ones = |mask: IpAddr| match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    let network = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address.and_then(ip)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = interface.netmask.and_then(ip).map_or(longest, ones);
        Some((address, format!("{address}/{prefix}").parse().ok()?))
    };
    let mut networks: Vec<(IpAddr, Network)> = found.filter_map(network).collect();
    networks.sort_by_key(|(address, _)| *address);
    networks.dedup_by_key(|(address, _)| *address);
    networks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_machine_has_at_least_its_loopback() {
        let found = interfaces();
        let (_, network) = found.iter().find(|(address, _)| address.is_loopback()).unwrap();
        assert!(
            network.contains(IpAddr::from([127, 1, 2, 3])) || network.contains(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))
        );
    }
}
