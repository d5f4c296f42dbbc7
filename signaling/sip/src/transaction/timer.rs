//! Timers A to M (RFC 3261 table 4, RFC 6026 8.11).

use std::time::Duration;

/// A transaction timer by its name in the RFCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// INVITE request retransmission (UDP).
    A,
    /// INVITE client gives up.
    B,
    /// INVITE client that rings for ever: cancelled.
    C,
    /// Wait for response retransmissions after a failure.
    D,
    /// Other request retransmission (UDP).
    E,
    /// Other client gives up.
    F,
    /// INVITE response retransmission.
    G,
    /// Wait for the ACK to a failure.
    H,
    /// Wait for ACK retransmissions.
    I,
    /// Wait for request retransmissions.
    J,
    /// Wait for response retransmissions.
    K,
    /// Server accepts: wait for INVITE retransmissions (RFC 6026).
    L,
    /// Client accepted: wait for more 2xx (RFC 6026).
    M,
    /// An INVITE unanswered for 200 ms gets a 100 (RFC 3261 17.2.1).
    Trying,
}

/// Durations of all timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Round-trip estimate, 500 ms; first interval of A, E and G.
    pub t1: Duration,
    /// Longest retransmission interval of E and G, 4 s.
    pub t2: Duration,
    /// Longest life of a message in the network, 5 s: timers I and K on UDP.
    pub t4: Duration,
    /// Timer B: 64*T1.
    pub b: Duration,
    /// Timer C: an INVITE that has only provisional responses for this long is
    /// cancelled; over 3 minutes (RFC 3261 16.8, here for every client).
    pub c: Duration,
    /// Timer D on UDP: at least 32 s; 0 on streams.
    pub d: Duration,
    /// Timer F: 64*T1.
    pub f: Duration,
    /// Timer H: 64*T1.
    pub h: Duration,
    /// Timer J on UDP: 64*T1; 0 on streams.
    pub j: Duration,
    /// Timer L: 64*T1.
    pub l: Duration,
    /// Timer M: 64*T1.
    pub m: Duration,
    /// An INVITE that the core leaves without response for this long gets a 100: 200 ms.
    pub trying: Duration,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers::with_t1(Duration::from_millis(500))
    }
}

impl Timers {
    /// The RFC's values for another T1.
    pub fn with_t1(t1: Duration) -> Timers {
        let long = t1 * 64;
        Timers {
            t1,
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            b: long,
            c: Duration::from_secs(181),
            d: Duration::from_secs(32),
            f: long,
            h: long,
            j: long,
            l: long,
            m: long,
            trying: Duration::from_millis(200),
        }
    }

    /// The retransmission interval after `last`: doubled, at most T2.
    pub(super) fn next_interval(&self, last: Duration) -> Duration {
        (last * 2).min(self.t2)
    }
}
