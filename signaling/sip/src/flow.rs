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

/// Marks the number of a connection that another node has.
const RELAYED: u64 = 1 << 63;
/// Where the node stands in such a number.
const NODE: u32 = 48;

/// A path may lead through another node, which has the connection: messages from and to it are relayed. Which node that is
/// stands in the number of the connection, so that answers find their way back like any others.
impl Flow {
    /// The same path through another node, by the number that this one gave it.
    pub fn through(self, node: u16) -> Flow {
        let number = self.connection & ((1 << NODE) - 1);
        Flow { connection: RELAYED | (u64::from(node & 0x7fff) << NODE) | number, ..self }
    }

    /// The node that has it, and the path as that one knows it; `None`: this one has it.
    pub fn elsewhere(self) -> Option<(u16, Flow)> {
        if self.connection & RELAYED == 0 {
            return None;
        }
        let node = u16::try_from((self.connection & !RELAYED) >> NODE).unwrap_or(u16::MAX);
        Some((node, Flow { connection: self.connection & ((1 << NODE) - 1), ..self }))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_through_another_node_is_told_from_an_own_one() {
        let own = Flow {
            transport: Transport::Tcp,
            local: ([192, 0, 2, 1], 5060).into(),
            remote: ([192, 0, 2, 2], 5060).into(),
            connection: 77,
        };
        assert_eq!(own.elsewhere(), None);
        for node in [0, 1, 0x7fff] {
            assert_ne!(own.through(node), own);
            assert_eq!(own.through(node).elsewhere(), Some((node, own)));
        }
        let datagrams = Flow { connection: 0, ..own };
        assert_eq!(datagrams.through(3).elsewhere(), Some((3, datagrams)));
    }
}
