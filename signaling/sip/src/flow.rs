//! Where a message came from and where it goes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A transport protocol of SIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream under TLS.
    Tls,
}

impl Transport {
    /// True when the transport retransmits by itself.
    pub fn is_reliable(self) -> bool {
        self != Transport::Udp
    }

    /// 5060, or 5061 under TLS (RFC 3261 19.1.2).
    pub fn default_port(self) -> u16 {
        if self == Transport::Tls { 5_061 } else { 5_060 }
    }

    /// The token of a Via header field.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One path between us and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// How it travels.
    pub transport: Transport,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Which stream connection; 0 for UDP, and for "open one when needed".
    #[serde(default)]
    pub connection: u64,
}

/// Where a message goes: a path and, under TLS, the host at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The path.
    pub flow: Flow,
    /// The host that a TLS peer must prove to be (RFC 5922 4): the name in the URI, before any look-up. Without one its
    /// certificate must hold the address itself. It counts where a connection is opened, or chosen among those that were.
    pub server_name: Option<Arc<str>>,
}

impl From<Flow> for Destination {
    fn from(flow: Flow) -> Destination {
        Destination { flow, server_name: None }
    }
}

impl From<&Flow> for Destination {
    fn from(flow: &Flow) -> Destination {
        Destination::from(*flow)
    }
}

impl From<&Destination> for Destination {
    fn from(to: &Destination) -> Destination {
        to.clone()
    }
}
