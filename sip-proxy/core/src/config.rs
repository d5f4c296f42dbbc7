//! What the proxy is told: one epoch of configuration, swapped as a whole.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ferric_sip::flow::Transport;
use ferric_sip::message::Message;
use ferric_sip::trust::{Network, TrustTable};

use crate::group::GroupConfig;
use crate::routing::RouteTable;

/// How several contacts of a user are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fork {
    /// All of one q value at once, the next value when they have refused (RFC 3261 16.6).
    #[default]
    Parallel,
    /// One by one.
    Sequential,
}

/// A listener of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Transport.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
    /// `host:port` that others know it by.
    pub advertise: Option<String>,
}

impl Listener {
    /// Host and port for Via and Record-Route.
    pub fn sent_by(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.address.to_string())
    }
}

/// One epoch of configuration.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// The node's listeners.
    pub listeners: Vec<Listener>,
    /// Addresses of this machine, where a listener takes whatever comes to any of them.
    pub own_hosts: Vec<IpAddr>,
    /// Networks that this machine is in, by its address there: who is in one of them is asked from that address.
    pub networks: Vec<(IpAddr, Network)>,
    /// Stay in the way of dialogs.
    pub record_route: bool,
    /// The rules.
    pub routes: RouteTable,
    /// The server groups.
    pub groups: Vec<GroupConfig>,
    /// Domains of the registrar.
    pub domains: Vec<String>,
    /// Contacts at once or one by one.
    pub fork: Fork,
    /// Who may send.
    pub trust: TrustTable,
    /// Requests of that domain and source need a password: every request that begins something at the registrar's domains.
    pub authenticate: bool,
    /// Larger requests go over TCP instead of UDP; 0 never (RFC 3261 18.1.1).
    pub udp_mtu: usize,
    /// New calls a second over all; beyond, 503.
    pub calls_per_second: Option<u32>,
    /// Requests under way at once; beyond, 503.
    pub max_open: usize,
    /// Without any answer for this long the next address of a name is tried.
    pub timeout: Duration,
    /// Senders whose User-Agent begins so are not answered.
    pub scanners: Vec<String>,
    /// Tells whether a request asks for a recording.
    pub is_recording: fn(&Message) -> bool,
}

impl ProxyConfig {
    /// No rules, no groups, and all else as by default.
    pub fn new(listeners: Vec<Listener>, trust: TrustTable, is_recording: fn(&Message) -> bool) -> ProxyConfig {
        ProxyConfig {
            listeners,
            own_hosts: Vec::new(),
            networks: Vec::new(),
            record_route: false,
            routes: RouteTable::default(),
            groups: Vec::new(),
            domains: Vec::new(),
            fork: Fork::default(),
            trust,
            authenticate: false,
            udp_mtu: 1_300,
            calls_per_second: None,
            max_open: 50_000,
            timeout: Duration::from_secs(1),
            scanners: SCANNERS.iter().map(|name| (*name).to_owned()).collect(),
            is_recording,
        }
    }
}

impl ProxyConfig {
    /// A To tag alone shows nothing: see [`crate::witnessed`].
    pub(crate) fn wants_proof(&self) -> bool {
        self.authenticate || self.calls_per_second.is_some()
    }
}

/// Tools that look for servers to abuse, by the names that they give themselves.
const SCANNERS: [&str; 10] = [
    "friendly-scanner",
    "friendly-request",
    "sipvicious",
    "sipsak",
    "sip-scan",
    "sundayddr",
    "iWar",
    "pplsip",
    "VaxSIPUserAgent",
    "eyeBeam release 3006o",
];
