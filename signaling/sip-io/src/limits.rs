//! Bounds on what peers can do, and counts of what they were denied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferric_sip::trust::Network;

/// Bounds on what peers can do. When a limit on connections is reached, new ones are
/// closed at once and those that are there stay. Connections that are opened from here
/// are counted apart, so that no crowd of peers keeps messages from leaving.
#[derive(Debug, Clone)]
pub struct IoLimits {
    /// Largest message in bytes.
    pub max_message: usize,
    /// Requests a second from one source, in bursts of one second's worth.
    pub messages_per_second: u32,
    /// Responses a second from one source: against floods only.
    pub responses_per_second: u32,
    /// Networks with a rate of requests of their own, `u32::MAX` for none; the first that holds counts.
    pub rates: Vec<(Network, u32)>,
    /// Connections at once: so many accepted ones, of which a quarter is kept for sources that are trusted, and so many
    /// opened ones.
    pub max_connections: usize,
    /// Accepted connections of one source at once: of an address, or of an IPv6 network of 64 bits.
    pub max_connections_per_source: usize,
    /// A TLS handshake, the first message of an accepted connection, the rest of a message that
    /// has begun, and what is written must each be through within this.
    pub patience: Duration,
    /// A connection that is opened must stand within this, TLS included.
    pub connect_timeout: Duration,
    /// A connection without a byte either way for this long is closed.
    pub idle: Duration,
    /// Messages that may wait on one connection, or for room in a UDP socket. A peer that lets more of them wait loses the
    /// connection, so this must hold all that one event may send at once.
    pub send_queue: usize,
}

impl Default for IoLimits {
    fn default() -> IoLimits {
        IoLimits {
            max_message: 65_535,
            messages_per_second: 200,
            responses_per_second: 20_000,
            rates: Vec::new(),
            max_connections: 8_192,
            max_connections_per_source: 1_024,
            patience: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            idle: Duration::from_secs(3_600),
            send_queue: 8_192,
        }
    }
}

/// Counts of what was dropped or failed here.
#[derive(Debug, Default)]
pub struct IoStats {
    /// Messages over the rate of their source.
    pub rate_limited: AtomicU64,
    /// Times that a UDP socket was not read on because the driver's queue was full; the kernel's buffer holds what comes.
    pub inbound_full: AtomicU64,
    /// Connections closed because their queue was full, and datagrams that found that of a UDP socket full.
    pub send_full: AtomicU64,
    /// Datagrams that had to wait for room in the socket.
    pub send_waited: AtomicU64,
    /// ICMP answers that told of a datagram that did not arrive.
    pub unreachable: AtomicU64,
    /// Connections refused at the limit.
    pub connections_refused: AtomicU64,
    /// Connections closed because the peer was too slow.
    pub connections_slow: AtomicU64,
    /// Connections that could not be opened.
    pub connects_failed: AtomicU64,
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
    /// Transport errors that the driver was too busy to hear of; its timers find them.
    pub reports_lost: AtomicU64,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
