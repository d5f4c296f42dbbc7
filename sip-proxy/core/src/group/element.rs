//! One element of a server group: whether it lives, and what it carries.
//!
//! ```text
//!            misses in a row, a request without any sign of life, unreachable
//!        Up ------------------------------------------------------------------> Down
//!         ^                                                                      |
//!         \---- one answer (OPTIONS, or a request of its own), or the rest ------/
//!               period of a group without heartbeat is over
//! ```
//!
//! *Away* is what the nodes of a cluster tell: it drains or is gone. Its health stays what it is, because the way to it may
//! be another one than theirs; it gets a request only if nobody else can. *Busy* lies across: it asked for peace with Retry-After. *Drained* as well: no new calls by a person's wish.
//! An element that comes back takes its share slowly: its weight grows from a tenth within [`GroupConfig::slow_start`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_sip::flow::Transport;
use ferric_sip::uri::split_host_port;
use smallvec::SmallVec;

use super::{GroupConfig, Heartbeat};

/// A second's calls are counted in such a window.
const SECOND: Duration = Duration::from_secs(1);
/// Without Record-Route nobody sees a call end: one that began counts as load for this long.
const LOAD_MEMORY: Duration = Duration::from_secs(60);
/// Share of its weight with which a revived element begins, in percent.
const SLOW_START_PERCENT: u128 = 10;

/// An element as configured, or as DNS named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementConfig {
    /// Its name in configuration, API and metrics: `10.0.0.11:5060;transport=tcp`.
    pub address: String,
    /// Host name or address.
    pub host: String,
    /// Port; `None` takes what DNS or the transport says.
    pub port: Option<u16>,
    /// How it is spoken to.
    pub transport: Transport,
    /// The lowest is used first (RFC 2782).
    pub priority: u16,
    /// Share within a priority (RFC 2782).
    pub weight: u16,
    /// Calls at once.
    pub max_calls: Option<u32>,
    /// New calls a second.
    pub calls_per_second: Option<u32>,
    /// Takes no new calls.
    pub drain: bool,
}

impl ElementConfig {
    /// Reads `10.0.0.11:5060;transport=tcp`, `sip1.example.com`, `[2001:db8::1]:5061;transport=tls`; all else as by default.
    pub fn parse(address: &str) -> Option<ElementConfig> {
        let (place, transport) = match address.split_once(";transport=") {
            Some((place, "udp")) => (place, Transport::Udp),
            Some((place, "tcp")) => (place, Transport::Tcp),
            Some((place, "tls")) => (place, Transport::Tls),
            Some(_) => return None,
            None => (address, Transport::Udp),
        };
        let (host, port) = split_host_port(place).ok()?;
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fine = match inside {
            Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_host(host),
        };
        (fine && port != Some(0)).then(|| ElementConfig {
            address: address.to_owned(),
            host: host.to_owned(),
            port,
            transport,
            priority: 1,
            weight: 50,
            max_calls: None,
            calls_per_second: None,
            drain: false,
        })
    }
}

/// A host name of letters, digits, dots and dashes; underscores are borne.
fn is_host(text: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.trim_end_matches('.').split('.').all(label)
}

/// Why an element counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownCause {
    /// OPTIONS or requests without a good answer, several in a row.
    Misses,
    /// A request without any answer, and nothing else heard of it meanwhile.
    Timeout,
    /// ICMP unreachable, connection refused or reset.
    Unreachable,
}

impl DownCause {
    /// For logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DownCause::Misses => "misses",
            DownCause::Timeout => "timeout",
            DownCause::Unreachable => "unreachable",
        }
    }
}

/// Whether it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Up { since: Option<Instant> },
    Down { since: Instant, cause: DownCause },
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent to it.
    pub requests: u64,
    /// Answered with 2xx.
    pub succeeded: u64,
    /// Answered with another final response.
    pub refused: u64,
    /// Tried in vain: the next element was asked.
    pub failed_over: u64,
    /// Times that it went down.
    pub downs: u64,
}

/// An element at work.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) config: ElementConfig,
    pub(super) addresses: SmallVec<[SocketAddr; 2]>,
    pub(super) health: Health,
    pub(super) misses: u32,
    /// Its node drains or is gone, as nodes of the cluster tell: it is asked when nobody else can be.
    pub(super) away: bool,
    /// Drained by a person, beside what the file says.
    pub(super) drained: Option<bool>,
    pub(super) busy_until: Option<Instant>,
    /// The last request, or its failure.
    tried_at: Option<Instant>,
    /// The last sign of life.
    pub(super) alive_at: Option<Instant>,
    /// Traffic was answered since the last probe.
    pub(super) proven: bool,
    /// Calls of which the end will be seen.
    pub(super) calls: u32,
    /// Requests without a final response.
    pub(super) open: u32,
    recent: [u32; 2],
    recent_from: Option<Instant>,
    window: (Option<Instant>, u32),
    /// Smooth weighted round robin.
    pub(super) turn: i64,
    pub(super) counters: Counters,
}

impl Element {
    pub(super) fn new(config: ElementConfig) -> Element {
        let addresses = config.host.trim_matches(['[', ']']).parse().ok();
        let port = config.port.unwrap_or(if config.transport == Transport::Tls { 5_061 } else { 5_060 });
        Element {
            addresses: addresses.map(|ip| SocketAddr::new(ip, port)).into_iter().collect(),
            config,
            health: Health::Up { since: None },
            misses: 0,
            away: false,
            drained: None,
            busy_until: None,
            tried_at: None,
            alive_at: None,
            proven: false,
            calls: 0,
            open: 0,
            recent: [0; 2],
            recent_from: None,
            window: (None, 0),
            turn: 0,
            counters: Counters::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.health, Health::Up { .. })
    }

    /// Who is asked first: those that are there, then by priority.
    pub(super) fn rank(&self) -> (bool, u16) {
        (self.away, self.config.priority)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.unwrap_or(self.config.drain)
    }

    /// May it get a new call?
    pub(super) fn is_usable(&self, now: Instant, group: &GroupConfig) -> bool {
        let rested = match (self.health, group.heartbeat) {
            (Health::Up { .. }, _) => true,
            // Nobody asks it: after a rest a request tries whether it is back.
            (Health::Down { since, .. }, None) => {
                let last = self.tried_at.map_or(since, |tried| tried.max(since));
                now.saturating_duration_since(last) >= group.rest
            }
            (Health::Down { .. }, Some(_)) => false,
        };
        rested
            && !self.addresses.is_empty()
            && !self.is_drained()
            && self.busy_until.is_none_or(|until| until <= now)
            && self.config.max_calls.is_none_or(|most| self.calls.saturating_add(self.open) < most)
            && self.config.calls_per_second.is_none_or(|most| self.calls_in_window(now) < most)
    }

    fn calls_in_window(&self, now: Instant) -> u32 {
        match self.window {
            (Some(from), count) if now.saturating_duration_since(from) < SECOND => count,
            _ => 0,
        }
    }

    /// A request goes to it. One that lies down and is tried again is tried by one request a rest.
    pub(super) fn note_sent(&mut self, now: Instant, begins_call: bool) {
        self.tried_at = Some(now);
        self.counters.requests += 1;
        self.open += 1;
        if !begins_call {
            return;
        }
        let count = self.calls_in_window(now);
        self.window = if count == 0 { (Some(now), 1) } else { (self.window.0, count + 1) };
        let from = *self.recent_from.get_or_insert(now);
        let past = now.saturating_duration_since(from);
        if past >= LOAD_MEMORY {
            let [_, newer] = self.recent;
            let is_old = past >= 2 * LOAD_MEMORY;
            self.recent = if is_old { [0, 0] } else { [newer, 0] };
            self.recent_from = Some(if is_old { now } else { from + LOAD_MEMORY });
        }
        let [_, newer] = &mut self.recent;
        *newer += 1;
    }

    /// What it carries, for `least-loaded`; `sees_ends` when calls are counted to their end.
    pub(super) fn load(&self, now: Instant, sees_ends: bool) -> u64 {
        let calls = if sees_ends { u64::from(self.calls) } else { self.recent_calls(now) };
        calls + u64::from(self.open)
    }

    /// Calls that began of late. They fade with time, also while nothing is sent to it: what it once had must not keep
    /// calls away from it.
    fn recent_calls(&self, now: Instant) -> u64 {
        let Some(from) = self.recent_from else { return 0 };
        let [older, newer] = self.recent.map(u128::from);
        let (past, window) = (now.saturating_duration_since(from).as_millis(), LOAD_MEMORY.as_millis());
        let faded = match past {
            _ if past < window => newer + older * (window - past) / window,
            _ => newer * (2 * window).saturating_sub(past) / window,
        };
        u64::try_from(faded).unwrap_or(u64::MAX)
    }

    /// Its weight in thousandths while it comes back slowly; `None` when it has its full share.
    pub(super) fn slow_weight(&self, now: Instant, slow_start: Duration) -> Option<u64> {
        let Health::Up { since: Some(since) } = self.health else { return None };
        let past = now.saturating_duration_since(since);
        if past >= slow_start {
            return None;
        }
        let grown = past.as_millis() * (100 - SLOW_START_PERCENT) / slow_start.as_millis().max(1);
        let percent = u64::try_from(SLOW_START_PERCENT + grown).unwrap_or(100);
        Some(u64::from(self.config.weight) * percent * 10)
    }

    /// A good answer; true when that revives it.
    pub(super) fn note_alive(&mut self, now: Instant) -> bool {
        self.misses = 0;
        self.note_sign(now)
    }

    /// A sign of life that promises nothing of the answer; true when that revives it.
    pub(super) fn note_sign(&mut self, now: Instant) -> bool {
        self.alive_at = Some(now);
        self.proven = true;
        let revived = !self.is_up();
        if revived {
            self.misses = 0;
            self.health = Health::Up { since: Some(now) };
        }
        revived
    }

    /// An answer that does not count as life, or an OPTIONS without answer; true when it is dead now.
    pub(super) fn note_miss(&mut self, now: Instant, heartbeat: Option<Heartbeat>) -> bool {
        self.misses = self.misses.saturating_add(1);
        self.misses >= heartbeat.map_or(3, |heartbeat| heartbeat.misses) && self.take_down(now, DownCause::Misses)
    }

    /// True when it was up until now. One that was tried again in vain rests anew, and is down since it went down.
    pub(super) fn take_down(&mut self, now: Instant, cause: DownCause) -> bool {
        let (was_up, since) = match self.health {
            Health::Up { .. } => (true, now),
            Health::Down { since, .. } => (false, since),
        };
        self.counters.downs += u64::from(was_up);
        self.health = Health::Down { since, cause };
        self.tried_at = Some(now);
        self.turn = 0;
        was_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_hosts_with_an_optional_port_and_transport() {
        for (text, host, port, transport) in [
            ("10.0.0.11:5060;transport=tcp", "10.0.0.11", Some(5060), Transport::Tcp),
            ("sip1.example.com", "sip1.example.com", None, Transport::Udp),
            ("[2001:db8::1]:5061;transport=tls", "[2001:db8::1]", Some(5061), Transport::Tls),
        ] {
            let read = ElementConfig::parse(text).map(|read| (read.host, read.port, read.transport));
            assert_eq!(read, Some((host.to_owned(), port, transport)), "{text}");
        }
        for wrong in ["10.0.0.11:5060;transport=sctp", "10.0.0.11:5060;lr", "a b", "host:0", "a..b:1", "host:70000"] {
            assert_eq!(ElementConfig::parse(wrong), None, "{wrong}");
        }
    }
}
