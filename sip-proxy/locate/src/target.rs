//! What a URI asks for, and which look-ups that takes (RFC 3263 4.1 and 4.2).
//!
//! | host | port | transport | look-ups |
//! | --- | --- | --- | --- |
//! | address | any | any | none; TLS for `sips`, otherwise as given, otherwise UDP |
//! | name | given | any | A/AAAA |
//! | name | none | given | SRV of that transport, A/AAAA where there is none |
//! | name | none | none | NAPTR, SRV of what it names; SRV of all we have; A/AAAA |
//!
//! `maddr` is not followed: it would let a request choose an address past the names that policy is written for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ferric_sip::{Transport, Uri};
use thiserror::Error;

use crate::record::{DnsFailure, normalise};

/// Where a request shall go, before anything is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name, an IPv4 address or an IPv6 address with or without brackets.
    pub host: String,
    /// Port, if given.
    pub port: Option<u16>,
    /// Transport, if given.
    pub transport: Option<Transport>,
    /// A `sips` URI: TLS and nothing else.
    pub secure: bool,
}

/// Why there is nowhere to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum LocateError {
    /// A URI that is neither `sip` nor `sips`.
    #[error("only sip and sips URIs name a server")]
    Scheme,
    /// A transport that we do not have, or UDP for a `sips` URI.
    #[error("the URI's transport cannot be used")]
    Transport,
    /// A host that is no DNS name.
    #[error("the host is not a DNS name")]
    Name,
    /// The domain says that it does not offer the service (target "." in RFC 2782).
    #[error("the domain does not offer SIP")]
    NotOffered,
    /// DNS gave nothing to send to.
    #[error("{0}")]
    Dns(#[from] DnsFailure),
    /// Too many wait for DNS, or the cache is full of pinned names.
    #[error("too many look-ups wait for DNS")]
    Overloaded,
}

/// The look-ups that a target takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// None.
    Numeric(SocketAddr, Transport),
    /// A and AAAA.
    Hosts { name: Arc<str>, port: u16, transport: Transport },
    /// SRV of one transport, then A and AAAA.
    Service { name: Arc<str>, transport: Transport },
    /// NAPTR, SRV of each transport, A and AAAA.
    Any { name: Arc<str>, secure: bool },
}

impl Target {
    /// The target of a `sip` or `sips` URI: host, port and the `transport` parameter.
    ///
    /// # Errors
    /// [`LocateError::Scheme`] for other URIs, [`LocateError::Transport`] for a transport we do not know.
    pub fn of_uri(uri: &Uri) -> Result<Target, LocateError> {
        if !uri.is_sip() {
            return Err(LocateError::Scheme);
        }
        let transport = match uri.params.get("transport").map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("udp") => Some(Transport::Udp),
            Some("tcp") => Some(Transport::Tcp),
            Some("tls") => Some(Transport::Tls),
            Some(_) => return Err(LocateError::Transport),
        };
        Ok(Target { host: uri.host.clone(), port: uri.port, transport, secure: uri.scheme == "sips" })
    }

    /// Which look-ups the target takes, given the transports that we have.
    pub(crate) fn plan(&self, available: &[Transport]) -> Result<Plan, LocateError> {
        let given = match (self.secure, self.transport) {
            // A sips URI with transport=tcp means TLS over TCP (RFC 3261 26.2.2).
            (true, None | Some(Transport::Tcp | Transport::Tls)) => Some(Transport::Tls),
            (true, Some(Transport::Udp)) => return Err(LocateError::Transport),
            (false, given) => given,
        };
        if given.is_some_and(|given| !available.contains(&given)) || available.is_empty() {
            return Err(LocateError::Transport);
        }
        // Without NAPTR and SRV: UDP for sip, TLS for sips; what we have when we do not have that.
        let transport = given.unwrap_or_else(|| default_transport(available));
        let inside = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host);
        if let Ok(ip) = inside.parse::<IpAddr>() {
            let port = self.port.unwrap_or(transport.default_port());
            return Ok(Plan::Numeric(SocketAddr::new(ip, port), transport));
        }
        let name = normalise(&self.host).ok_or(LocateError::Name)?;
        Ok(match (self.port, given) {
            (Some(port), _) => Plan::Hosts { name, port, transport },
            (None, Some(transport)) if self.transport.is_some() => Plan::Service { name, transport },
            (None, _) => Plan::Any { name, secure: self.secure },
        })
    }
}

/// UDP where we have it, otherwise what we like best.
pub(crate) fn default_transport(available: &[Transport]) -> Transport {
    let first = available.first().copied().unwrap_or(Transport::Udp);
    if available.contains(&Transport::Udp) { Transport::Udp } else { first }
}

/// The name under which a domain's servers of one transport are found (RFC 3263 4.1).
pub(crate) fn service_name(name: &str, transport: Transport) -> Arc<str> {
    let prefix = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tcp => "_sip._tcp",
        Transport::Tls => "_sips._tcp",
    };
    format!("{prefix}.{name}").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

    fn plan(uri: &str) -> String {
        let target = match Target::of_uri(&Uri::parse(uri).unwrap()) {
            Ok(target) => target,
            Err(error) => return format!("{error:?}"),
        };
        match target.plan(&ALL) {
            Ok(Plan::Numeric(address, transport)) => format!("{transport} {address}"),
            Ok(Plan::Hosts { name, port, transport }) => format!("A {transport} {name} {port}"),
            Ok(Plan::Service { name, transport }) => format!("SRV {}", service_name(&name, transport)),
            Ok(Plan::Any { name, secure }) => format!("NAPTR {name} {secure}"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn each_form_of_a_uri_has_its_look_ups() {
        let rows = [
            ("sip:192.0.2.1", "UDP 192.0.2.1:5060"),
            ("sip:192.0.2.1;transport=tcp", "TCP 192.0.2.1:5060"),
            ("sip:192.0.2.1;transport=TLS", "TLS 192.0.2.1:5061"),
            ("sip:a@[2001:db8::1]:5070", "UDP [2001:db8::1]:5070"),
            ("sips:192.0.2.1", "TLS 192.0.2.1:5061"),
            ("sips:[2001:db8::1];transport=tcp", "TLS [2001:db8::1]:5061"),
            ("sip:Example.com:5070", "A UDP example.com 5070"),
            ("sip:example.com:5070;transport=tcp", "A TCP example.com 5070"),
            ("sips:example.com:5070", "A TLS example.com 5070"),
            ("sip:example.com;transport=udp", "SRV _sip._udp.example.com"),
            ("sip:example.com;transport=tcp", "SRV _sip._tcp.example.com"),
            ("sip:example.com;transport=tls", "SRV _sips._tcp.example.com"),
            ("sips:example.com;transport=tcp", "SRV _sips._tcp.example.com"),
            ("sip:example.com", "NAPTR example.com false"),
            ("sips:example.com", "NAPTR example.com true"),
            ("sip:example.com;maddr=192.0.2.9", "NAPTR example.com false"),
            ("sips:example.com;transport=udp", "Transport"),
            ("sip:example.com;transport=sctp", "Transport"),
            ("sip:a..b", "Name"),
            ("tel:+4930", "Scheme"),
        ];
        for (uri, expected) in rows {
            assert_eq!(plan(uri), expected, "{uri}");
        }
    }

    #[test]
    fn without_udp_the_default_is_what_we_like_best() {
        let target = Target { host: "192.0.2.1".into(), port: None, transport: None, secure: false };
        let tcp = Plan::Numeric("192.0.2.1:5060".parse().unwrap(), Transport::Tcp);
        assert_eq!(target.plan(&[Transport::Tcp, Transport::Tls]), Ok(tcp));
        assert_eq!(target.plan(&[]), Err(LocateError::Transport));
    }
}
