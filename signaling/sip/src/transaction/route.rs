//! Where a request came from, and where its responses go.
//!
//! `maddr` is not followed (RFC 3261 18.2.2): it would let any sender aim our
//! responses at a third party, and nothing that records uses it.

use std::net::SocketAddr;

use crate::flow::{Flow, Transport};
use crate::header::{Via, ViaParts};
use crate::message::Message;

/// The top Via with the true source noted (RFC 3261 18.2.1, RFC 3581 4); `None` when nothing changes.
pub(super) fn stamped(via: ViaParts<'_>, flow: &Flow) -> Option<Via> {
    let source = flow.remote.ip();
    let wants_port = via.param("rport") == Some("");
    if !wants_port && via.address() == Some(source) {
        return None;
    }
    let mut via = Via::from(via);
    if wants_port {
        via.params.set("rport", Some(&flow.remote.port().to_string()));
    }
    via.params.set("received", Some(&source.to_string()));
    Some(via)
}

/// Where responses go (RFC 3261 18.2.2, RFC 3581 4).
pub(super) fn response_flow(via: &ViaParts<'_>, flow: &Flow) -> Flow {
    if flow.transport != Transport::Udp || via.param("rport").is_some() {
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
    let port = message.with_top_via(|via| sent_by_port(&via, flow.transport)).ok()?;
    let remote = SocketAddr::new(flow.remote.ip(), port);
    Some(Flow { remote, connection: 0, ..*flow })
}

/// The port of sent-by, or the transport's own.
fn sent_by_port(via: &ViaParts<'_>, transport: Transport) -> u16 {
    via.port.unwrap_or(transport.default_port())
}
