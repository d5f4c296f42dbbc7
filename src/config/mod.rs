//! The configuration file (TOML): read, checked, complained about in full.
//!
//! ```text
//! text --document--> spans --sections--> values and complaints --check--> Config
//! ```
//!
//! Every error is collected, each with file, line, column, the line itself and
//! what would be right. Relative paths are taken from the file's folder. Without
//! a file there is [`Config::embedded`]: an all-in-one node on loopback.

pub mod changes;
mod check;
mod cluster;
mod cross;
mod diff;
mod document;
pub mod edit;
mod part;
pub(crate) mod proxy;
mod sections;
mod source;
mod units;
pub mod users;
pub mod versions;

pub use cluster::Cluster;
pub use diff::unified;
pub use document::{Complaint, Complaints};
pub use part::Part;
pub use proxy::{Proxy, Registrar};
pub use source::{OWN_FILE, Source};
pub use units::{parse_duration, parse_size};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferric_codecs::opus::OpusSettings;
use ferric_sip::flow::Transport;
use ferric_sip::trust::{Network, TrustTable};
use ferric_worker::upload_limit::{Bandwidth, UploadWindow};

/// `[node]`
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique in the cluster.
    pub id: String,
    /// Where it stands.
    pub site: String,
    /// Spool, keys, catalogue.
    pub data_dir: PathBuf,
    /// What it does: proxy, srs, capture, console.
    pub roles: Vec<String>,
    /// How long SIGTERM waits for running calls.
    pub drain_timeout: Duration,
}

/// One `[[sip.listen]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipListener {
    /// udp, tcp or tls.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
    /// `host:port` for Via and Contact.
    pub advertise: Option<String>,
}

/// `[sip.tls]`
#[derive(Debug, Clone)]
pub struct SipTls {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub private_key: PathBuf,
    /// Given: peers must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// `[sip]`
#[derive(Debug, Clone)]
pub struct Sip {
    /// At least one.
    pub listeners: Vec<SipListener>,
    /// For TLS listeners.
    pub tls: Option<SipTls>,
    /// Bytes.
    pub max_message: usize,
    /// Messages a second from one address.
    pub requests_per_second_per_source: u32,
    /// Stream connections at once.
    pub max_connections: usize,
    /// Stream connections of one address at once.
    pub max_connections_per_source: usize,
    /// Who may send, and for which tenant; empty = loopback and private ranges for the first tenant.
    pub trust: Vec<(Network, String)>,
    /// Networks with a rate of requests of their own, a second and address.
    pub rates: Vec<(Network, u32)>,
    /// SRTP keys in session descriptions are taken over UDP and TCP too, where anybody on the way can read them.
    pub sdes_without_tls: bool,
}

/// How a worker is chosen for a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// One after the other.
    RoundRobin,
    /// The one with the smallest share of its limit in use.
    LeastLoaded,
}

/// `[recording]`
#[derive(Debug, Clone)]
pub struct Recording {
    /// How a worker is chosen.
    pub placement: Placement,
    /// A second worker records the same RTP, unless a tenant says otherwise.
    pub mirror: bool,
    /// Calls end after this.
    pub max_call: Duration,
    /// Without RTP for this long, the peer is asked whether it is still there.
    pub rtp_timeout: Duration,
}

/// `[capture]`
#[derive(Debug, Clone)]
pub struct Capture {
    /// First and last port.
    pub rtp_ports: (u16, u16),
    /// Where RTP is received.
    pub rtp_address: IpAddr,
    /// The address written into SDP, where it differs.
    pub advertise: Option<IpAddr>,
    /// Calls at once; more get 503.
    pub max_calls: usize,
}

/// One `[[tenant]]`.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// PEM files; each can open.
    pub public_keys: Vec<PathBuf>,
    /// Where recordings go.
    pub store: String,
    /// Folder in the store.
    pub prefix: String,
    /// True: only the times of key presses are kept.
    pub mask_dtmf: bool,
    /// True: media in clear is refused.
    pub srtp_required: bool,
    /// Whether a second worker records the same RTP; `None`: as `[recording]` says.
    pub mirror: Option<bool>,
}

/// `[upload]`
#[derive(Debug, Clone)]
pub struct Upload {
    /// Recordings at once.
    pub concurrency: usize,
    /// Audio is sealed at least this often: each second, in a cluster five times a second.
    pub segment: Duration,
    /// `None` = as fast as it goes.
    pub bandwidth: Option<Bandwidth>,
    /// When uploads may run.
    pub window: UploadWindow,
    /// Share of the file system, in percent, above which calls are refused.
    pub spool_high_water: u8,
}

/// `[console]`
#[derive(Debug, Clone)]
pub struct Console {
    /// HTTP listener.
    pub listen: SocketAddr,
}

/// `[catalog]`
#[derive(Debug, Clone)]
pub struct Catalog {
    /// `sqlite:FILE` or `postgres://…`.
    pub url: String,
    /// Holds the password of the database; it goes before the one in the URL.
    pub password_file: Option<PathBuf>,
    /// True: keyed hashes instead of numbers.
    pub hashed: bool,
    /// Holds the key of the hashes that the nodes of one catalogue share.
    pub party_key: Option<PathBuf>,
    /// Bytes on disk for what a shared catalogue has not yet.
    pub queue_bytes: u64,
}

/// `[homer]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homer {
    /// `host:port` of the collector.
    pub hep: String,
    /// The id of this node in Homer.
    pub capture_id: u32,
}

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[sip]`
    pub sip: Sip,
    /// `[recording]`
    pub recording: Recording,
    /// `[capture]`
    pub capture: Capture,
    /// `[opus]`
    pub opus: OpusSettings,
    /// `[[tenant]]`, at least one.
    pub tenants: Vec<Tenant>,
    /// `[upload]`
    pub upload: Upload,
    /// `[console]`
    pub console: Console,
    /// `[catalog]`
    pub catalog: Catalog,
    /// `[proxy]`, if it is there and the node has the role.
    pub proxy: Option<Proxy>,
    /// `[cluster]`; `None`: a single node.
    pub cluster: Option<Cluster>,
    /// `[homer] hep`: where copies of all signalling go, `host:port`.
    pub homer: Option<Homer>,
    /// True without a file: keys are made on first start.
    pub is_embedded: bool,
    /// What the file asks for and this version does not do.
    pub warnings: Vec<String>,
}

impl Config {
    /// Who may send: loopback and private ranges where nobody is named.
    pub fn trust_table(&self) -> TrustTable {
        if self.sip.trust.is_empty() {
            TrustTable::private(self.tenants.first().map_or("", |tenant| &tenant.name))
        } else {
            TrustTable::new(self.sip.trust.clone())
        }
    }

    /// True for a node that takes part in recording; one with the proxy's role alone forwards only.
    pub fn records(&self) -> bool {
        self.has_role("srs") || self.has_role("capture")
    }

    /// The tenants whose calls a second worker copies.
    pub fn mirrors(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.iter().filter(|tenant| tenant.mirror.unwrap_or(self.recording.mirror))
    }

    /// True for a node that answers those who want to be recorded. A single node does both or none.
    pub fn is_srs(&self) -> bool {
        self.has_role("srs") || (self.cluster.is_none() && self.has_role("capture"))
    }

    /// True for a node that records.
    pub fn is_worker(&self) -> bool {
        self.has_role("capture") || (self.cluster.is_none() && self.has_role("srs"))
    }

    /// True for a node that listens for SIP.
    pub fn speaks_sip(&self) -> bool {
        self.is_srs() || self.has_role("proxy")
    }

    pub(crate) fn has_role(&self, role: &str) -> bool {
        self.node.roles.iter().any(|listed| listed == role)
    }

    /// The all-in-one node that runs without a file.
    pub fn embedded(data_dir: &Path) -> Config {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = |transport| SipListener { transport, address: SocketAddr::new(loopback, 5060), advertise: None };
        Config {
            node: Node {
                id: host_name(),
                site: "default".to_owned(),
                data_dir: data_dir.to_owned(),
                roles: sections::ROLES.map(str::to_owned).to_vec(),
                drain_timeout: Duration::from_secs(2 * 3600),
            },
            sip: Sip {
                listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
                tls: None,
                max_message: 65_535,
                requests_per_second_per_source: 200,
                max_connections: 8_192,
                max_connections_per_source: 1_024,
                trust: Vec::new(),
                rates: Vec::new(),
                sdes_without_tls: false,
            },
            recording: Recording {
                placement: Placement::LeastLoaded,
                mirror: false,
                max_call: Duration::from_secs(12 * 3600),
                rtp_timeout: Duration::from_secs(60),
            },
            capture: Capture { rtp_ports: (39_500, 43_500), rtp_address: loopback, advertise: None, max_calls: 800 },
            opus: OpusSettings::default(),
            tenants: vec![Tenant {
                name: "default".to_owned(),
                public_keys: vec![data_dir.join("keys/default.public.pem")],
                store: format!("file://{}", absolute(&data_dir.join("store")).display()),
                prefix: "default".to_owned(),
                mask_dtmf: false,
                srtp_required: false,
                mirror: None,
            }],
            upload: Upload {
                concurrency: 8,
                segment: Duration::from_secs(1),
                bandwidth: None,
                window: UploadWindow::default(),
                spool_high_water: 90,
            },
            console: Console { listen: SocketAddr::new(loopback, 8080) },
            catalog: Catalog {
                url: "sqlite:catalog.db".to_owned(),
                password_file: None,
                hashed: false,
                party_key: None,
                queue_bytes: 1 << 30,
            },
            proxy: None,
            cluster: None,
            homer: None,
            is_embedded: true,
            warnings: Vec::new(),
        }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// All [`Complaints`] at once.
    pub fn load(file: &Path) -> Result<Config, Complaints> {
        Config::read(file).map(|(config, _)| config)
    }

    /// Reads and checks a file, and keeps its text.
    ///
    /// # Errors
    /// All [`Complaints`] at once.
    pub fn read(file: &Path) -> Result<(Config, String), Complaints> {
        let text = std::fs::read_to_string(file).map_err(|error| Complaints::unreadable(file, &error))?;
        Ok((Config::parse(file, &text)?, text))
    }

    /// Reads and checks a file's text; `file` gives names to complaints and a folder to relative paths.
    ///
    /// # Errors
    /// All [`Complaints`] at once.
    pub fn parse(file: &Path, text: &str) -> Result<Config, Complaints> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sections::read(file, folder, text)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "ferric".to_owned())
}

#[cfg(test)]
mod tests;
