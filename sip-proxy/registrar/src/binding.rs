//! A binding, and its form outside of memory.
//!
//! | | |
//! | --- | --- |
//! | identity | instance and reg-id for outbound (RFC 5626 6), else the URI (RFC 3261 19.1.4) |
//! | order rule | Call-ID as a 64-bit hash that is the same on every node and after a restart, and CSeq |
//! | recency | a number that only grows, made from the wall clock so that it goes on after a restart |
//! | flow | the connection or the address behind a NAT that requests go to instead of where the URI points |

use std::net::SocketAddr;
use std::time::Instant;

use ferric_sip::flow::{Flow, Transport};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// No q was given.
pub(crate) const NO_Q: u16 = u16::MAX;

/// One contact of one address of record.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) uri: Box<str>,
    pub(crate) call: u64,
    pub(crate) expires: Instant,
    /// Later is larger.
    pub(crate) order: u64,
    pub(crate) flow: Option<Box<Flow>>,
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) cseq: u32,
    /// Thousandths, or [`NO_Q`].
    pub(crate) q: u16,
    /// Bound by instance and reg-id.
    pub(crate) outbound: bool,
    /// The URI leads to the contact without the flow.
    pub(crate) reachable: bool,
}

/// What most contacts do not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Extra {
    /// `+sip.instance` with its angle brackets.
    pub(crate) instance: Option<Box<str>>,
    pub(crate) reg_id: Option<u32>,
    /// Values of Path, in order.
    pub(crate) path: Box<[Box<str>]>,
    /// The node of the cluster that has the flow, if it is another one.
    pub(crate) home: Option<Home>,
}

/// Another node, and the Route over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) node: Box<str>,
    pub(crate) hop: Box<str>,
}

impl Binding {
    pub(crate) fn instance(&self) -> Option<&str> {
        self.extra.as_ref()?.instance.as_deref()
    }

    pub(crate) fn reg_id(&self) -> Option<u32> {
        self.extra.as_ref()?.reg_id
    }

    pub(crate) fn path(&self) -> &[Box<str>] {
        self.extra.as_ref().map_or(&[], |extra| &extra.path)
    }

    pub(crate) fn home(&self) -> Option<&Home> {
        self.extra.as_ref()?.home.as_ref()
    }

    /// Preference in thousandths.
    pub(crate) fn preference(&self) -> u16 {
        if self.q == NO_Q { 1_000 } else { self.q }
    }

    /// The stream connection that requests go along.
    pub(crate) fn connection(&self) -> Option<u64> {
        self.flow
            .as_ref()
            .filter(|flow| flow.transport.is_reliable() && flow.connection != 0)
            .map(|flow| flow.connection)
    }

    /// Without its connection nobody could reach it (RFC 5626 5.3).
    pub(crate) fn dies_with_flow(&self) -> bool {
        self.outbound || !self.reachable
    }

    /// Seconds left, rounded up; 0 when over.
    pub(crate) fn remaining(&self, now: Instant) -> u64 {
        let left = self.expires.saturating_duration_since(now);
        left.as_secs() + u64::from(left.subsec_nanos() > 0)
    }

    /// The identity.
    pub(crate) fn key(&self, aor: &str) -> SavedKey {
        let reg_id = self.reg_id().filter(|_| self.outbound);
        SavedKey {
            aor: aor.to_owned(),
            contact: self.instance().filter(|_| reg_id.is_some()).unwrap_or(&self.uri).to_owned(),
            reg_id,
        }
    }

    pub(crate) fn save(&self, aor: &str, now: Instant, unix_s: u64) -> Saved {
        Saved {
            aor: aor.to_owned(),
            uri: self.uri.to_string(),
            expires: unix_s + self.remaining(now),
            q: (self.q != NO_Q).then_some(self.q),
            call: self.call,
            cseq: self.cseq,
            order: self.order,
            instance: self.instance().map(str::to_owned),
            reg_id: self.reg_id(),
            path: self.path().iter().map(|value| value.to_string()).collect(),
            flow: self.flow.as_deref().map(SavedFlow::of),
            home: self.home().map(|home| SavedHome { node: home.node.to_string(), hop: home.hop.to_string() }),
            outbound: self.outbound,
            reachable: self.reachable,
        }
    }
}

/// The Call-ID for the order rule. A hash keeps a binding small; two of one user that agree by chance are one in 2^64.
pub(crate) fn call_hash(call_id: &str) -> u64 {
    let digest = Sha256::digest(call_id.as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// What tells a binding from the others of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SavedKey {
    /// `user@domain`.
    pub aor: String,
    /// The URI as registered; with a reg-id the instance.
    pub contact: String,
    /// reg-id of an outbound binding (RFC 5626).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reg_id: Option<u32>,
}

/// A binding in a form that outlives the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// `user@domain`.
    pub aor: String,
    /// The URI as registered.
    pub uri: String,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// Preference in thousandths, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<u16>,
    /// Hash of the Call-ID.
    pub call: u64,
    /// CSeq.
    pub cseq: u32,
    /// Later is larger.
    pub order: u64,
    /// `+sip.instance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// reg-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reg_id: Option<u32>,
    /// Values of Path (RFC 3327), in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    /// Where requests go instead of where the URI points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<SavedFlow>,
    /// The node of the cluster that has the flow; absent: the one that keeps this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<SavedHome>,
    /// Bound by instance and reg-id.
    #[serde(default, skip_serializing_if = "is_false")]
    pub outbound: bool,
    /// The URI leads to the contact without the flow.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reachable: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Saved {
    /// The identity.
    pub fn key(&self) -> SavedKey {
        let reg_id = self.reg_id.filter(|_| self.outbound && self.instance.is_some());
        let contact = self.instance.as_ref().filter(|_| reg_id.is_some()).unwrap_or(&self.uri).clone();
        SavedKey { aor: self.aor.clone(), contact, reg_id }
    }
}

/// A flow in a form that outlives the process; the number of a connection does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFlow {
    /// `UDP`, `TCP` or `TLS`.
    pub transport: String,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The number of the connection in this process; 0: a datagram flow, or one of another process.
    #[serde(skip)]
    pub connection: u64,
}

/// The node that has a flow, and how others reach the flow over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedHome {
    /// The node.
    pub node: String,
    /// A value of Route.
    pub hop: String,
}

impl SavedFlow {
    fn of(flow: &Flow) -> SavedFlow {
        let Flow { transport, local, remote, connection } = *flow;
        SavedFlow { transport: transport.as_str().to_owned(), local, remote, connection }
    }

    /// The flow, while it is there.
    pub fn live(&self) -> Option<Flow> {
        let known = [Transport::Udp, Transport::Tcp, Transport::Tls];
        let transport = known.into_iter().find(|known| known.as_str() == self.transport)?;
        let is_there = transport == Transport::Udp || self.connection != 0;
        is_there.then_some(Flow { transport, local: self.local, remote: self.remote, connection: self.connection })
    }

    /// The flow, when it can be used after a restart: datagrams only.
    pub(crate) fn revive(&self) -> Option<Flow> {
        let udp = self.transport == Transport::Udp.as_str();
        udp.then_some(Flow { transport: Transport::Udp, local: self.local, remote: self.remote, connection: 0 })
    }
}
