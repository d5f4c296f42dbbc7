//! Where a request came from, and where its responses go.
//!
//! `maddr` is not followed (RFC 3261 18.2.2): it would let any sender aim our
//! responses at a third party, and nothing that records uses it.

use std::net::SocketAddr;

use crate::flow::{Flow, Transport};
use crate::header::Via;

/// Notes the true source in the top Via (RFC 3261 18.2.1, RFC 3581 4); true if it changed.
pub(super) fn stamp_via(via: &mut Via, flow: &Flow) -> bool {
    let source = flow.remote.ip();
    let wants_port = via.params.has("rport") && via.params.get("rport") == Some("");
    if wants_port {
        via.params.set("rport", Some(&flow.remote.port().to_string()));
    }
    let differs = via.address() != Some(source);
    if differs || wants_port {
        via.params.set("received", Some(&source.to_string()));
    }
    differs || wants_port
}

/// Where responses go (RFC 3261 18.2.2, RFC 3581 4).
pub(super) fn response_flow(via: &Via, flow: &Flow) -> Flow {
    if flow.transport != Transport::Udp || via.params.has("rport") {
        return *flow;
    }
    Flow { remote: SocketAddr::new(flow.remote.ip(), sent_by_port(via, flow.transport)), ..*flow }
}

/// Where responses go when the connection of the request is gone: a new one to the
/// source address and the port of sent-by (RFC 3261 18.2.2).
pub(super) fn reopened_flow(flow: &Flow, port: u16) -> Flow {
    Flow { remote: SocketAddr::new(flow.remote.ip(), port), connection: 0, ..*flow }
}

/// The port of sent-by, or the transport's own.
pub(super) fn sent_by_port(via: &Via, transport: Transport) -> u16 {
    via.port.unwrap_or(if transport == Transport::Tls { 5_061 } else { 5_060 })
}
