//! SIP over UDP, TCP and TLS sockets: the thin shell around the sans-IO crates.
//!
//! ```text
//! socket -> framing -> rate limit -> parse -> Inbound (bounded channel) -> driver
//! driver -> SipSockets::send -> socket, or the connection's bounded queue
//! ```
//!
//! Malformed requests are answered here. Sending never waits: a peer that does
//! not read its connection loses the connection, not our time.

mod connection;
mod rate;
mod sockets;
mod tls;
mod udp;

pub use sockets::{BindError, Inbound, InboundKind, IoLimits, IoStats, ListenerConfig, SipSockets};
pub use tls::{TlsError, client_config, server_config};
