//! Names for the signalling task: between the proxy, which asks where to send, and the locator, which remembers
//! what DNS said (RFC 3263).
//!
//! ```text
//! ProxyOutput::Locate -> locate() ---------------------------> Some(found): from memory
//!                           \-> DNS -> recv() -> handle() ---> poll_found(): the rest, within two seconds
//! groups in force ----> watch()     names pinned: asked again ahead of their TTL, never forgotten
//!                       update() -> set_addresses(), set_elements(), when a pinned name became another
//! ```
//!
//! - One task owns it; there is no lock in it but the one of the file, which only threads that write take.
//! - After any call `poll_found` is drained, `update` is called, and `poll_timeout` says when to come back.
//! - **A hand-written element** with a name is looked up by A and AAAA only, with the port that it names or the
//!   transport's own: its place, priority and weight stand in the configuration, and SRV would bring others. A group with
//!   `dns = true` is what takes them from SRV.
//! - **A group from DNS** has an element for each SRV record, `host:port;transport=x`. TLS is checked against the
//!   group's name, not the SRV target (RFC 5922 7.1). When the records vanish the last set stays: only the target "."
//!   (RFC 2782: not offered) empties a group. An element whose address vanishes keeps the last one.
//! - What was good outlives a restart in a file of mode 0600, written whole or not at all: a minute apart at most when
//!   something changed, every quarter of an hour otherwise so that its TTLs do not look older than they are, and at the end.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use ferric_locate::{
    Answer, CacheStats, DnsClient, DnsConfig, DnsError, DnsFailure, LastGood, LocateError, Located, Locator,
    LocatorConfig, QueryId, ServerSet, Snapshot, Target,
};
use ferric_proxy::group::{ElementConfig, ElementId, Groups, Hop};
use ferric_proxy::{LocateTarget, Ticket};
use ferric_sip::flow::Transport;

/// A change is written after this long, with what else changed meanwhile.
const COLLECT: Duration = Duration::from_secs(5);
/// Between two writings of what changed.
const WRITE_APART: Duration = Duration::from_secs(60);
/// Between two writings of what did not.
const WRITE_AGAIN: Duration = Duration::from_secs(900);
/// A larger file is none of ours, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// What came of a look-up, as the proxy takes it: addresses, the best first, or whether the name may exist.
pub(super) type Found = Result<Vec<Hop>, bool>;

/// An answer from DNS.
#[derive(Debug)]
pub(super) struct DnsEvent(QueryId, Result<Answer, DnsFailure>);

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DirectoryStats {
    /// Of the cache.
    pub(super) cache: CacheStats,
    /// Look-ups that wait for DNS now.
    pub(super) waiting: usize,
    /// Questions out now.
    pub(super) in_flight: usize,
    /// Nobody answered the last question.
    pub(super) is_silent: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Directory {
    client: DnsClient,
    locator: Locator,
    waiting: HashMap<ferric_locate::Ticket, Ticket>,
    pinned: BTreeSet<String>,
    warm: Vec<Target>,
    /// Elements of groups from DNS, as they were set.
    sets: HashMap<String, Vec<ElementConfig>>,
    /// The locator's pinned generation that the groups have.
    applied: Option<u64>,
    /// Groups changed then, and have not been brought up to date.
    behind: Option<Instant>,
    silent: bool,
    keeper: Keeper,
}

impl Directory {
    /// Starts the DNS client and takes in what was good before. Without `servers` the system's are asked.
    /// Lives within a tokio runtime.
    pub(super) fn start(
        servers: &[SocketAddr],
        transports: Vec<Transport>,
        ipv6: bool,
        file: PathBuf,
        now: Instant,
    ) -> anyhow::Result<Directory> {
        let config = |servers: &[SocketAddr]| DnsConfig { servers: servers.to_vec(), ..DnsConfig::default() };
        let client = match DnsClient::new(config(servers)) {
            // As resolv.conf(5) says. A node that looks nothing up needs no DNS.
            Err(DnsError::System(error)) => {
                tracing::warn!(%error, "the system names no DNS server: 127.0.0.1 is asked");
                DnsClient::new(config(&[(Ipv4Addr::LOCALHOST, 53).into()]))
            }
            made => made,
        };
        let client = client.context("the DNS client cannot be started")?;
        let mut locator = Locator::new(LocatorConfig { transports, ipv6, ..LocatorConfig::default() }, rand::random());
        if let Some(last) = read(&file) {
            let names = locator.import(now, unix_now(), &last);
            tracing::info!(names, "names known from before");
        }
        let keeper = Keeper {
            written: locator.generation(),
            write_at: now + WRITE_AGAIN,
            last: None,
            next: AtomicU64::new(1),
            file: Arc::new(LastGoodFile { path: file, newest: Mutex::new(0) }),
        };
        let mut directory = Directory {
            client,
            locator,
            waiting: HashMap::new(),
            pinned: BTreeSet::new(),
            warm: Vec::new(),
            sets: HashMap::new(),
            applied: None,
            behind: None,
            silent: false,
            keeper,
        };
        directory.pump(now);
        Ok(directory)
    }

    /// Answers at once from memory, or later through [`Directory::poll_found`].
    pub(super) fn locate(&mut self, now: Instant, ticket: Ticket, target: &LocateTarget) -> Option<Found> {
        let located = self.locator.locate(now, &target_of(target));
        self.pump(now);
        match located {
            Located::Wait(waits) => {
                self.waiting.insert(waits, ticket);
                None
            }
            located => Some(found(located)),
        }
    }

    /// The groups now in force: their names are pinned, those of others no more. [`Directory::update`] brings the
    /// addresses; `poll_timeout` is due until it was called.
    pub(super) fn watch(&mut self, now: Instant, groups: &Groups) {
        let from_dns: HashSet<&str> = groups.dns_groups().map(|(name, _)| name).collect();
        let by_hand = groups.names().map(|(_, element)| element.host.as_str());
        let wanted: BTreeSet<String> = by_hand.chain(from_dns.iter().copied()).map(str::to_owned).collect();
        self.pin(wanted, self.warm.clone());
        self.sets.clear();
        self.applied = None;
        self.behind = Some(now);
        self.pump(now);
    }

    /// Fixed targets of rules, which are kept known like the names of groups.
    pub(super) fn keep_warm(&mut self, now: Instant, targets: &[LocateTarget]) {
        let warm: Vec<Target> = targets.iter().map(target_of).collect();
        let before = self.warm.iter().map(|target| &target.host);
        let wanted = self.pinned.iter().filter(|name| !before.clone().any(|host| host == *name)).cloned().collect();
        self.pin(wanted, warm);
        self.applied = None;
        self.behind = Some(now);
        self.pump(now);
    }

    /// Pins the names and those of `warm`, and unpins all others.
    fn pin(&mut self, mut wanted: BTreeSet<String>, warm: Vec<Target>) {
        wanted.extend(warm.iter().map(|target| target.host.clone()));
        wanted.difference(&self.pinned).for_each(|name| self.locator.pin(name));
        self.pinned.difference(&wanted).for_each(|name| self.locator.unpin(name));
        self.pinned = wanted;
        self.warm = warm;
    }

    /// Waits for an answer from DNS. Cancel safe.
    pub(super) async fn recv(&mut self) -> DnsEvent {
        match self.client.recv().await {
            Some((id, result)) => DnsEvent(id, result),
            None => std::future::pending().await,
        }
    }

    /// Takes an answer.
    pub(super) fn handle(&mut self, now: Instant, event: DnsEvent) {
        let DnsEvent(id, result) = event;
        self.locator.handle_answer(now, id, result);
        // What else has come is one batch with it: groups are looked at once.
        while let Some((id, result)) = self.client.try_recv() {
            self.locator.handle_answer(now, id, result);
        }
        self.pump(now);
    }

    /// When to call [`Directory::handle_timeout`].
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        [self.locator.poll_timeout(), self.behind, Some(self.keeper.write_at)].into_iter().flatten().min()
    }

    /// Does what is due. The file is written in the background.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.locator.handle_timeout(now);
        self.pump(now);
        if now >= self.keeper.write_at {
            self.keeper.written = self.locator.generation();
            self.keeper.last = Some(now);
            self.keeper.write_at = now + WRITE_AGAIN;
            let (number, file) = (self.keeper.number(), Arc::clone(&self.keeper.file));
            let snapshot = self.locator.snapshot(now, unix_now());
            tokio::task::spawn_blocking(move || file.write(number, &snapshot));
        }
    }

    /// The next look-up that waited.
    pub(super) fn poll_found(&mut self) -> Option<(Ticket, Found)> {
        while let Some((waited, located)) = self.locator.poll_ready() {
            if let Some(ticket) = self.waiting.remove(&waited) {
                return Some((ticket, found(located)));
            }
        }
        None
    }

    /// Brings what became another into the groups. Costs a comparison when nothing did.
    pub(super) fn update(&mut self, now: Instant, groups: &mut Groups) {
        if self.applied == Some(self.locator.pinned_generation()) {
            return;
        }
        self.applied = Some(self.locator.pinned_generation());
        self.behind = None;
        let from_dns: Vec<(String, Transport)> = groups.dns_groups().map(|(name, by)| (name.to_owned(), by)).collect();
        let mut addresses: HashMap<(String, String), Vec<SocketAddr>> = HashMap::new();
        for (name, transport) in from_dns {
            let Some(Located::Servers(set)) = self.locator.peek_srv(now, &name, transport) else { continue };
            let mut elements = Vec::with_capacity(set.servers.len());
            for (element, leads_to) in elements_of(&name, &set) {
                if addresses.insert((name.clone(), element.address.clone()), leads_to).is_none() {
                    elements.push(element);
                }
            }
            if self.sets.get(&name) != Some(&elements) {
                tracing::info!(group = name, elements = elements.len(), "elements from DNS");
                groups.set_elements(now, &name, elements.clone());
                self.sets.insert(name, elements);
            }
        }
        let named: Vec<(ElementId, ElementConfig)> =
            groups.names().map(|(id, element)| (id, element.clone())).collect();
        for (id, element) in named {
            let group = groups.group_of(id).map(|name| name.to_string()).unwrap_or_default();
            let leads_to = match groups.dns_groups().any(|(name, _)| name == group) {
                true => addresses.remove(&(group, element.address)).unwrap_or_default(),
                false => {
                    self.locator.peek_host(now, &element.host, element.port.unwrap_or(element.transport.default_port()))
                }
            };
            groups.set_addresses(id, &leads_to);
        }
        for target in &self.warm {
            self.locator.warm(now, target);
        }
        self.pump(now);
    }

    /// Writes what is known, and waits until it is on disk. For the end.
    pub(super) fn save(&self) {
        let snapshot = self.locator.snapshot(Instant::now(), unix_now());
        self.keeper.file.write(self.keeper.number(), &snapshot);
    }

    /// For the metrics.
    pub(super) fn stats(&self) -> DirectoryStats {
        DirectoryStats {
            cache: self.locator.stats(),
            waiting: self.locator.waiting(),
            in_flight: self.client.in_flight(),
            is_silent: self.locator.is_silent(),
        }
    }

    /// Hands questions on, and plans the next writing.
    fn pump(&mut self, now: Instant) {
        self.client.pump(now, &mut self.locator);
        self.keeper.plan(now, self.locator.generation());
        if self.silent != self.locator.is_silent() {
            self.silent = self.locator.is_silent();
            match self.silent {
                true => tracing::warn!("no DNS server answers: names are served from memory"),
                false => tracing::info!("DNS answers again"),
            }
        }
    }
}

/// A `sips` URI says TLS by itself: only without a transport may NAPTR say where its servers are.
fn target_of(target: &LocateTarget) -> Target {
    Target {
        host: target.host.clone(),
        port: target.port,
        transport: target.transport.filter(|_| !target.secure),
        secure: target.secure,
    }
}

fn found(located: Located) -> Found {
    match located {
        Located::Ready(hops) => Ok(hops
            .into_iter()
            .map(|hop| Hop { address: hop.address, transport: hop.transport, host: hop.host_name })
            .collect()),
        Located::Failed(error) => Err(match error {
            LocateError::Overloaded => true,
            LocateError::Dns(failure) => !failure.is_denial(),
            LocateError::Scheme | LocateError::Transport | LocateError::Name | LocateError::NotOffered => false,
        }),
        // Neither comes out of a look-up of hops.
        Located::Servers(_) | Located::Wait(_) => Err(true),
    }
}

/// The elements of a group from DNS, with their addresses. Of servers that stand there twice the first counts.
fn elements_of(group: &str, set: &ServerSet) -> Vec<(ElementConfig, Vec<SocketAddr>)> {
    let element = |server: &ferric_locate::Server| ElementConfig {
        address: format!(
            "{}:{};transport={}",
            server.target,
            server.port,
            set.transport.to_string().to_ascii_lowercase()
        ),
        host: group.to_owned(),
        port: Some(server.port),
        transport: set.transport,
        priority: server.priority,
        weight: server.weight,
        max_calls: None,
        calls_per_second: None,
        drain: false,
    };
    set.servers.iter().map(|server| (element(server), server.addresses.clone())).collect()
}

/// When to write.
#[derive(Debug)]
struct Keeper {
    /// The locator's generation that the file has.
    written: u64,
    write_at: Instant,
    last: Option<Instant>,
    next: AtomicU64,
    file: Arc<LastGoodFile>,
}

impl Keeper {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn plan(&mut self, now: Instant, generation: u64) {
        if generation != self.written {
            let earliest = self.last.map_or(now, |last| last + WRITE_APART);
            self.write_at = self.write_at.min(earliest.max(now + COLLECT));
        }
    }
}

/// The file, written by one thread at a time.
#[derive(Debug)]
struct LastGoodFile {
    path: PathBuf,
    /// Number of the newest that was written: an older one comes too late.
    newest: Mutex<u64>,
}

impl LastGoodFile {
    fn write(&self, number: u64, snapshot: &Snapshot) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if number <= *newest {
            return;
        }
        match write_whole(&self.path, &snapshot.last_good()) {
            Ok(()) => *newest = number,
            Err(error) => tracing::warn!(file = %self.path.display(), %error, "what DNS said cannot be kept"),
        }
    }
}

/// To a file beside it, to disk, then in its place.
fn write_whole(path: &Path, last: &LastGood) -> std::io::Result<()> {
    let beside = path.with_extension("tmp");
    let bytes = serde_json::to_vec(last)?;
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path))
}

/// What the file says; a broken one is as none.
fn read(path: &Path) -> Option<LastGood> {
    let read = || -> anyhow::Result<LastGood> {
        anyhow::ensure!(std::fs::metadata(path)?.len() <= MOST_BYTES, "it is too large");
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    };
    match read() {
        Ok(last) => Some(last),
        Err(error) => {
            let missing =
                error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound);
            if !missing {
                tracing::warn!(file = %path.display(), %error, "what DNS said before is not taken in");
            }
            None
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
