//! Where a request came from, and where its responses go.
//!
//! `maddr` is not followed (RFC 3261 18.2.2): it would let any sender aim our
//! responses at a third party, and nothing that records uses it.

use std::net::SocketAddr;

use crate::flow::{Flow, Transport};
use crate::header::Via;
use crate::message::Message;

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

/// Where a response goes when the connection of its request is gone: over a new one to the source address and the port of
/// sent-by (RFC 3261 18.2.2). `None` for a request, and for what came as a datagram.
pub fn way_back(message: &Message, flow: &Flow) -> Option<Flow> {
    if message.is_request() || !flow.transport.is_reliable() {
        return None;
    }
    let via = message.top_via().ok()?;
    let remote = SocketAddr::new(flow.remote.ip(), sent_by_port(&via, flow.transport));
    Some(Flow { remote, connection: 0, ..*flow })
}

/// The port of sent-by, or the transport's own.
fn sent_by_port(via: &Via, transport: Transport) -> u16 {
    via.port.unwrap_or(transport.default_port())
}
