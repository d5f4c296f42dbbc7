//! What a node needs to take part, and why it may fail to start.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ferric_membership::{Beat, ClusterName, Incarnation, NodeId, ProtocolRange, Refusal, Site};

use crate::tls::{self, Credentials};

/// Everything a node needs to take part.
#[derive(Debug, Clone)]
pub struct FabricConfig {
    /// The cluster; nodes of another one are refused.
    pub cluster: ClusterName,
    /// This node, as in its certificate.
    pub node: NodeId,
    /// Its site, as in its certificate.
    pub site: Site,
    /// This run of it, unlike any before. `None`: the microseconds since 1970.
    pub incarnation: Option<Incarnation>,
    /// Where it listens, and from where it dials (UDP).
    pub listen: SocketAddr,
    /// Where others can dial it. Empty: the address it listens on, or, if that is a wildcard, the one they see.
    pub advertise: Vec<SocketAddr>,
    /// Addresses of other nodes; one that is up is enough to join.
    pub seeds: Vec<SocketAddr>,
    /// Certificate, key and CA.
    pub credentials: Credentials,
    /// Its roles, for others to read.
    pub roles: Vec<String>,
    /// Its software version, for others to read.
    pub version: String,
    /// Where it serves others than nodes, for others to read; at most 32.
    pub serves: Vec<SocketAddr>,
    /// Heartbeats to nodes of its site.
    pub inside: Beat,
    /// Heartbeats to nodes of other sites.
    pub between: Beat,
    /// Protocol versions it speaks.
    pub protocol: ProtocolRange,
    /// Topics that are read apart from the others, each from a queue of its own ([`crate::Inbox::topics`]).
    pub topics: Vec<u8>,
    /// Bounds.
    pub limits: Limits,
    /// The wall clock, which is compared with those of others and dates certificates.
    pub wall_clock: WallClock,
}

impl FabricConfig {
    /// A node with defaults for everything else.
    pub fn new(cluster: ClusterName, node: NodeId, site: Site, listen: SocketAddr, credentials: Credentials) -> Self {
        Self {
            cluster,
            node,
            site,
            incarnation: None,
            listen,
            advertise: Vec::new(),
            seeds: Vec::new(),
            credentials,
            roles: Vec::new(),
            version: String::new(),
            serves: Vec::new(),
            inside: Beat::INSIDE,
            between: Beat::BETWEEN,
            protocol: ProtocolRange::OURS,
            topics: Vec::new(),
            limits: Limits::default(),
            wall_clock: WallClock::default(),
        }
    }

    /// Looks at the certificate, its key and the CA the way other nodes will.
    pub fn check(&self) -> Result<(), StartError> {
        tls::configs(self).map(drop)
    }
}

/// Bounds of one node's fabric.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Other nodes that are known at once.
    pub max_members: usize,
    /// A body of a message, request or answer, in bytes.
    pub max_body: usize,
    /// Messages that wait for one node, a topic.
    pub queue_messages: usize,
    /// Bytes of bodies that wait for one node.
    pub queue_bytes: usize,
    /// Requests to one node that wait for their answer.
    pub requests_in_flight: usize,
    /// Events that wait to be read; past it they are dropped and counted.
    pub events: usize,
    /// Messages and requests that wait in one queue to be read; past it their senders wait.
    pub messages: usize,
    /// Datagrams that wait to be read; past it they are dropped and counted.
    pub datagrams: usize,
    /// Handshakes of connections that come in, at once.
    pub handshakes: usize,
    /// A connection that has not said its hello after this is closed.
    pub handshake_timeout: Duration,
    /// A dead node of which nobody has heard for so long is forgotten.
    pub forget_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_members: 256,
            max_body: 256 * 1024,
            queue_messages: 1024,
            queue_bytes: 8 * 1024 * 1024,
            requests_in_flight: 256,
            events: 1024,
            messages: 1024,
            datagrams: 4096,
            handshakes: 64,
            handshake_timeout: Duration::from_secs(3),
            forget_after: Duration::from_secs(30 * 86_400),
        }
    }
}

/// Reads the wall clock.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl WallClock {
    /// A clock of the caller's.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time since 1970.
    pub fn since_1970(&self) -> Duration {
        (self.0)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// Milliseconds since 1970.
    pub(crate) fn ms(&self) -> u64 {
        u64::try_from(self.since_1970().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A PEM file does not hold what it should.
    #[error("{what}: {problem}")]
    Pem {
        /// Which one.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The node's own certificate would be refused by every other node.
    #[error("this node's own certificate: {0}")]
    OwnCertificate(Refusal),
    /// Certificate, key and TLS do not fit together.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The address cannot be used.
    #[error("cannot listen on {address} (UDP): {problem}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        problem: std::io::Error,
    },
}
