//! DNS as the locator sees it: names, the four kinds of records it asks for, questions and answers.
//!
//! A name is kept in lower case without the trailing dot, because DNS compares without case (RFC 4343) and the root
//! is implied. The replacement and target "." (RFC 2782, RFC 3403) are the empty name.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Records of one answer that are kept; the rest of a larger answer is dropped.
pub const MAX_RECORDS: usize = 256;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Rules that name the transports of a domain (RFC 3403).
    Naptr,
    /// Servers of one transport (RFC 2782).
    Srv,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

/// One NAPTR record (RFC 3403 4.1). The regular expression is kept only to know that there is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Naptr {
    /// Lower orders are binding before higher ones.
    pub order: u16,
    /// Lower preferences first within an order.
    pub preference: u16,
    /// `s` when the replacement is the name of an SRV record.
    pub flags: String,
    /// Such as `SIP+D2U`.
    pub service: String,
    /// Not used by SIP; a record that has one is passed over.
    pub regexp: String,
    /// The next name to ask for; empty for ".".
    pub replacement: String,
}

/// One SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Srv {
    /// Lower priorities first.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u16,
    /// Port of the server.
    pub port: u16,
    /// Host of the server; empty for ".", which says that the service is not offered.
    pub target: String,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordData {
    /// A rule.
    Naptr(Naptr),
    /// A server.
    Srv(Srv),
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
}

impl RecordData {
    /// The kind of question that this record answers.
    pub fn kind(&self) -> Kind {
        match self {
            RecordData::Naptr(_) => Kind::Naptr,
            RecordData::Srv(_) => Kind::Srv,
            RecordData::A(_) => Kind::A,
            RecordData::Aaaa(_) => Kind::Aaaa,
        }
    }

    /// The name that is asked for next; none for addresses and for ".".
    pub(crate) fn next_name(&self) -> Option<Arc<str>> {
        match self {
            RecordData::Naptr(naptr) => normalise(&naptr.replacement),
            RecordData::Srv(srv) => normalise(&srv.target),
            RecordData::A(_) | RecordData::Aaaa(_) => None,
        }
    }
}

/// Names a question to the shell and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub(crate) u64);

/// A question for the shell to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// To hand back with the answer.
    pub id: QueryId,
    /// Lower case, without the trailing dot.
    pub name: Arc<str>,
    /// What is asked for.
    pub kind: Kind,
    /// Someone waits for it; otherwise it refreshes what is served meanwhile.
    pub urgent: bool,
}

/// Records as a server gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// In any order; records of other kinds than asked for are passed over.
    pub records: Vec<RecordData>,
    /// The smallest TTL of them and of the aliases on the way.
    pub ttl: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Error, Serialize, Deserialize)]
pub enum DnsFailure {
    /// Nobody answered.
    #[error("no DNS server answered")]
    Timeout,
    /// A server could not.
    #[error("the DNS servers answered SERVFAIL")]
    ServFail,
    /// The name does not exist.
    #[error("the name does not exist")]
    NxDomain,
    /// The name exists without records of this kind.
    #[error("the name has no such records")]
    NoData,
    /// A server would not.
    #[error("the DNS servers answered REFUSED")]
    Refused,
}

impl DnsFailure {
    /// True for a statement about the name, false when nothing was learned.
    pub fn is_denial(self) -> bool {
        matches!(self, DnsFailure::NxDomain | DnsFailure::NoData)
    }
}

/// The name in the form in which it is kept; none for what no DNS name can be (RFC 1035 2.3.4 lengths).
pub(crate) fn normalise(name: &str) -> Option<Arc<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_trailing_dot() {
        assert_eq!(normalise("Example.COM."), normalise("example.com"));
        assert_eq!(normalise("_sip._udp.Example.com").as_deref(), Some("_sip._udp.example.com"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a.".repeat(127) + "a";
        for name in ["", ".", "a..b", ".a", "a b", "ü.de", &"x".repeat(64), &long] {
            assert_eq!(normalise(name), None, "{name}");
        }
    }
}
