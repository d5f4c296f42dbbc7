//! The shell that asks DNS servers (tokio, hickory-resolver).
//!
//! ```text
//! driver: client.pump(now, &mut locator)            after anything that may have produced questions
//!         (id, result) = client.recv().await  ->  locator.handle_answer(now, id, result), then pump again
//! ```
//!
//! Questions stay in the locator until one of [`DnsConfig::concurrency`] places is free, so those that someone waits
//! for overtake refreshes; refreshes get three quarters of the places at most. Each question is a task that holds its
//! place until its answer is taken, so the channel never fills and nothing here waits for the driver. Nothing is asked
//! in a receive loop.
//!
//! hickory caches nothing here (`cache_size` 0): TTLs must reach the locator, which alone decides what is believed.
//!
//! All servers are asked at once, because one silent server at the head of the list would otherwise cost each look-up its
//! time-out. The first that has records wins. hickory's own pool takes the first answer of any kind, so that one broken
//! server which is quick with its SERVFAIL would hide all others: each server (the fifth shares with the first, and so
//! on) has a resolver of its own here. After a denial the others have a moment to know better, after SERVFAIL or
//! REFUSED a longer one; silence teaches nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Reply, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::locate::Locator;
use crate::record::{Answer, DnsFailure, Kind, Naptr, Query, QueryId, RecordData, Srv};

/// Servers asked at once.
const AT_ONCE: usize = 4;
/// After a denial the other servers have so long to know better: less than anyone waits for NAPTR.
const AFTER_DENIAL: Duration = Duration::from_millis(250);
/// After an answer that says nothing about the name, likewise.
const AFTER_TROUBLE: Duration = Duration::from_secs(1);

/// Whom to ask and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Servers with port; empty for those of `/etc/resolv.conf`, with its search list for names without a dot.
    pub servers: Vec<SocketAddr>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Attempts, the first one included.
    pub attempts: usize,
    /// Questions out at a time.
    pub concurrency: usize,
    /// Names in `/etc/hosts` (as it is now) need no server.
    pub hosts_file: bool,
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        let timeout = Duration::from_secs(2);
        DnsConfig { servers: Vec::new(), timeout, attempts: 2, concurrency: 64, hosts_file: true }
    }
}

/// Why the client cannot be made.
#[derive(Debug, Error)]
pub enum DnsError {
    /// `/etc/resolv.conf` cannot be read or names no server.
    #[error("the system's DNS configuration is of no use: {0}")]
    System(#[source] NetError),
    /// The resolver refuses the settings.
    #[error("the DNS resolver cannot be set up: {0}")]
    Setup(#[source] NetError),
    /// There is no tokio runtime to live in.
    #[error("the DNS client needs a tokio runtime")]
    Runtime,
}

/// The answer to a question, with the place it holds until it is taken.
type Outcome = (QueryId, Result<Answer, DnsFailure>, [Option<OwnedSemaphorePermit>; 2]);

/// Asks DNS servers. Lives in the tokio runtime in which it was made, wherever it is called from.
pub struct DnsClient {
    runtime: Handle,
    resolvers: Arc<[TokioResolver]>,
    /// Longest time of one question, whatever the resolver does.
    limit: Duration,
    places: Arc<Semaphore>,
    background_places: Arc<Semaphore>,
    outcomes: mpsc::Sender<Outcome>,
    answers: mpsc::Receiver<Outcome>,
}

impl std::fmt::Debug for DnsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsClient").field("free", &self.places.available_permits()).finish_non_exhaustive()
    }
}

impl DnsClient {
    /// Sets the resolver up; asks nothing yet.
    ///
    /// # Errors
    /// [`DnsError`] when no servers are given and the system has none, the resolver cannot be built, or there is no
    /// tokio runtime.
    pub fn new(config: DnsConfig) -> Result<DnsClient, DnsError> {
        let runtime = Handle::try_current().map_err(|_| DnsError::Runtime)?;
        let (system, options) = match config.servers.is_empty() {
            true => read_system_conf().map_err(DnsError::System)?,
            false => (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default()),
        };
        let mut servers: Vec<NameServerConfig> = config.servers.iter().map(server).collect();
        if servers.is_empty() {
            servers = system.name_servers().to_vec();
        }
        let attempts = config.attempts.max(1);
        let pools = servers.len().clamp(1, AT_ONCE);
        let resolvers: Result<Vec<TokioResolver>, NetError> = (0..pools)
            .map(|first| {
                let share = servers.iter().skip(first).step_by(pools).cloned().collect();
                let one = ResolverConfig::from_parts(system.domain().cloned(), system.search().to_vec(), share);
                let mut builder = TokioResolver::builder_with_config(one, TokioRuntimeProvider::default());
                *builder.options_mut() = options.clone();
                let options = builder.options_mut();
                options.timeout = config.timeout;
                options.attempts = attempts - 1;
                options.cache_size = 0;
                options.use_hosts_file = if config.hosts_file { ResolveHosts::Always } else { ResolveHosts::Never };
                builder.build()
            })
            .collect();
        let concurrency = config.concurrency.max(4);
        let (outcomes, answers) = mpsc::channel(concurrency);
        Ok(DnsClient {
            runtime,
            resolvers: resolvers.map_err(DnsError::Setup)?.into(),
            limit: config.timeout.saturating_mul(u32::try_from(attempts).unwrap_or(u32::MAX)) + Duration::from_secs(1),
            places: Arc::new(Semaphore::new(concurrency)),
            background_places: Arc::new(Semaphore::new(concurrency * 3 / 4)),
            outcomes,
            answers,
        })
    }

    /// Asks what the locator wants to know, as far as there are places.
    pub fn pump(&self, now: Instant, locator: &mut Locator) {
        while let Ok(place) = self.places.clone().try_acquire_owned() {
            if let Some(query) = locator.poll_urgent_query(now) {
                self.ask(query, [Some(place), None]);
                continue;
            }
            let Ok(background) = self.background_places.clone().try_acquire_owned() else { return };
            let Some(query) = locator.poll_query(now) else { return };
            self.ask(query, [Some(place), Some(background)]);
        }
    }

    /// The next answer, for [`Locator::handle_answer`]. Cancel safe. None never comes while the client lives.
    pub async fn recv(&mut self) -> Option<(QueryId, Result<Answer, DnsFailure>)> {
        self.answers.recv().await.map(|(id, result, _place)| (id, result))
    }

    /// The next answer if one is there.
    pub fn try_recv(&mut self) -> Option<(QueryId, Result<Answer, DnsFailure>)> {
        self.answers.try_recv().ok().map(|(id, result, _place)| (id, result))
    }

    /// Questions out, and answers not yet taken.
    pub fn in_flight(&self) -> usize {
        self.answers.max_capacity() - self.places.available_permits()
    }

    fn ask(&self, query: Query, places: [Option<OwnedSemaphorePermit>; 2]) {
        let (resolvers, outcomes, limit) = (self.resolvers.clone(), self.outcomes.clone(), self.limit);
        self.runtime.spawn(async move {
            let result = match tokio::time::timeout(limit, ask_all(resolvers, &query)).await {
                Ok(result) => result,
                Err(_) => Err(DnsFailure::Timeout),
            };
            tracing::trace!(name = %query.name, kind = ?query.kind, ok = result.is_ok(), "DNS answer");
            // Fails only when the client is gone, and then nobody wants to know.
            let _ = outcomes.send((query.id, result, places)).await;
        });
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), false, connections.into())
}

/// Asks all servers; see the module.
async fn ask_all(resolvers: Arc<[TokioResolver]>, query: &Query) -> Result<Answer, DnsFailure> {
    if let [only] = &*resolvers {
        return look_up(only, query).await;
    }
    let mut asked = JoinSet::new();
    for at in 0..resolvers.len() {
        let (resolvers, query) = (resolvers.clone(), query.clone());
        asked.spawn(async move {
            match resolvers.get(at) {
                Some(resolver) => look_up(resolver, &query).await,
                None => Err(DnsFailure::Timeout),
            }
        });
    }
    let mut best = DnsFailure::Timeout;
    let mut until: Option<Instant> = None;
    loop {
        let next = match until {
            Some(until) => timeout_at(until.into(), asked.join_next()).await.unwrap_or(None),
            None => asked.join_next().await,
        };
        let failure = match next {
            None => return Err(best),
            Some(Ok(Ok(answer))) => return Ok(answer),
            Some(Ok(Err(failure))) => failure,
            Some(Err(_)) => DnsFailure::Timeout,
        };
        let patience = match failure {
            DnsFailure::Timeout => continue,
            DnsFailure::ServFail | DnsFailure::Refused => AFTER_TROUBLE,
            DnsFailure::NxDomain | DnsFailure::NoData => AFTER_DENIAL,
        };
        // What is said of the name outweighs what is said of the server.
        if failure.is_denial() || !best.is_denial() {
            best = failure;
        }
        let at = Instant::now() + patience;
        until = Some(until.map_or(at, |until| until.min(at)));
    }
}

async fn look_up(resolver: &TokioResolver, query: &Query) -> Result<Answer, DnsFailure> {
    let mut name = Name::from_ascii(&*query.name).map_err(|_| DnsFailure::NxDomain)?;
    // Only a bare host name goes through the search list: a domain is what it says.
    name.set_fqdn(query.name.contains('.'));
    let record_type = match query.kind {
        Kind::Naptr => RecordType::NAPTR,
        Kind::Srv => RecordType::SRV,
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
    };
    match resolver.lookup(name, record_type).await {
        Ok(lookup) => {
            let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
            let records = lookup.answers().iter().filter_map(record).collect();
            Ok(Answer { records, ttl: Duration::from_secs(ttl.into()) })
        }
        Err(error) => {
            let failure = failure(&error);
            tracing::debug!(name = %query.name, kind = ?query.kind, %error, "DNS look-up failed");
            Err(failure)
        }
    }
}

fn record(record: &Record) -> Option<RecordData> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "DNS has dozens of record types; we ask for four")]
    match &record.data {
        RData::A(address) => Some(RecordData::A(address.0)),
        RData::AAAA(address) => Some(RecordData::Aaaa(address.0)),
        RData::SRV(srv) => Some(RecordData::Srv(Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: plain(&srv.target),
        })),
        RData::NAPTR(naptr) => Some(RecordData::Naptr(Naptr {
            order: naptr.order,
            preference: naptr.preference,
            flags: text(&naptr.flags),
            service: text(&naptr.services),
            regexp: text(&naptr.regexp),
            replacement: plain(&naptr.replacement),
        })),
        _ => None,
    }
}

/// Lower case without the trailing dot; empty for the root.
fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn failure(error: &NetError) -> DnsFailure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow; what is unknown teaches nothing of a name")]
    match error {
        NetError::Dns(Reply::NoRecordsFound(none)) => code(none.response_code),
        NetError::Dns(Reply::ResponseCode(response)) => code(*response),
        NetError::Dns(_) | NetError::Proto(_) => DnsFailure::ServFail,
        _ => DnsFailure::Timeout,
    }
}

fn code(code: ResponseCode) -> DnsFailure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are failures of the server")]
    match code {
        ResponseCode::NoError => DnsFailure::NoData,
        ResponseCode::NXDomain => DnsFailure::NxDomain,
        ResponseCode::Refused => DnsFailure::Refused,
        _ => DnsFailure::ServFail,
    }
}
