//! The limits of the locator. Each is a key of the configuration.

use std::time::Duration;

use ferric_sip::Transport;

/// How long answers are kept and believed, and how much is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct LocatorConfig {
    /// How long the denial of a name never seen good is kept (RFC 2308).
    pub negative_ttl: Duration,
    /// A shorter TTL counts as this.
    pub min_ttl: Duration,
    /// A longer TTL counts as this.
    pub max_ttl: Duration,
    /// Part of the TTL after which an answer is asked for again.
    pub refresh_ahead: f64,
    /// How long past its TTL an answer is served while it cannot be refreshed (RFC 8767).
    pub serve_stale: Duration,
    /// How long the denial of a name that was good is not believed.
    pub distrust: Duration,
    /// Pause between questions while a denial is not believed.
    pub distrust_retry: Duration,
    /// First pause after a failed question; it doubles.
    pub retry_min: Duration,
    /// Longest pause after a failed question.
    pub retry_max: Duration,
    /// How long one step of a first look-up holds up the others: after this NAPTR is passed over, hosts without an
    /// address are left out, and an answer that ran out unrefreshed is served as it is (RFC 8767's client response timer).
    pub query_patience: Duration,
    /// How long anyone waits for a name that was never good.
    pub first_wait: Duration,
    /// How long a question may be out before it counts as lost; more than the shell's own time-outs.
    pub query_lost: Duration,
    /// Names and kinds kept; past this the one longest not asked for goes, those never good first.
    pub max_entries: usize,
    /// Look-ups that may wait at a time.
    pub max_waiting: usize,
    /// A name not asked for this long is forgotten unless pinned.
    pub forget_after: Duration,
    /// Ask for AAAA too.
    pub ipv6: bool,
    /// IPv6 addresses before IPv4 ones of the same host (RFC 7984, RFC 6724).
    pub ipv6_first: bool,
    /// Transports that we have, the ones we like best first.
    pub transports: Vec<Transport>,
}

impl Default for LocatorConfig {
    fn default() -> LocatorConfig {
        LocatorConfig {
            negative_ttl: Duration::from_secs(30),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(3600),
            refresh_ahead: 0.8,
            serve_stale: Duration::from_secs(24 * 3600),
            distrust: Duration::from_secs(60),
            distrust_retry: Duration::from_secs(5),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            query_patience: Duration::from_millis(400),
            first_wait: Duration::from_secs(2),
            query_lost: Duration::from_secs(30),
            max_entries: 10_000,
            max_waiting: 4_096,
            forget_after: Duration::from_secs(3600),
            ipv6: false,
            ipv6_first: true,
            transports: vec![Transport::Udp, Transport::Tcp, Transport::Tls],
        }
    }
}

impl LocatorConfig {
    /// The same with values that make no sense put right, so that nothing downstream divides or waits for ever.
    pub(crate) fn sane(mut self) -> LocatorConfig {
        self.refresh_ahead = if self.refresh_ahead.is_finite() { self.refresh_ahead.clamp(0.1, 1.0) } else { 0.8 };
        self.min_ttl = self.min_ttl.max(Duration::from_millis(100));
        self.max_ttl = self.max_ttl.max(self.min_ttl);
        self.negative_ttl = self.negative_ttl.max(self.min_ttl);
        self.retry_min = self.retry_min.max(Duration::from_millis(100));
        self.retry_max = self.retry_max.max(self.retry_min);
        self.distrust_retry = self.distrust_retry.max(self.retry_min);
        self.first_wait = self.first_wait.max(self.query_patience);
        self.query_lost = self.query_lost.max(self.first_wait);
        self.max_entries = self.max_entries.max(16);
        self
    }
}
