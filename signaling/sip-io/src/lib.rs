//! SIP over UDP, TCP and TLS sockets: the thin shell around the sans-IO crates.
//!
//! ```text
//! udp:     recvmmsg -> rate -> parse -\
//! streams: framing  -> rate -> parse --+-> Inbound (bounded channel) -> driver
//! ICMP, lost connections --------------/
//! driver -> SipSockets::send -> UDP socket            -> (no room) bounded queue
//!                            -> connection's bounded queue -> several messages a write
//! ```
//!
//! - Malformed requests are answered here. Sending never waits: a peer that does
//!   not read its connection loses the connection, not our time.
//! - A driver that is behind is not buried: UDP stays in the kernel's buffer, streams
//!   are not read on.
//! - A response whose connection is gone goes over a new one, to the source of its request
//!   and the port of the Via (RFC 3261 18.2.2).
//! - Whatever did not arrive, as far as anybody can know, comes back as
//!   [`InboundKind::TransportError`] of the flow it was sent on.
//! - Keep-alives are answered here: CRLF on streams, STUN on UDP (RFC 5626).

mod connection;
mod inbound;
mod limits;
mod rate;
mod recent;
mod sockets;
mod source;
mod stream;
mod stun;
mod table;
mod tls;
mod udp;

pub use inbound::{Inbound, InboundKind};
pub use limits::{IoLimits, IoStats};
pub use sockets::{BindError, ListenerConfig, SipSockets};
pub use tls::{ClientTls, TlsError, client_config, server_config, system_client_config};
