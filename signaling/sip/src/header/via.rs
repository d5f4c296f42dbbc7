//! Via (RFC 3261 20.42, RFC 3581).

use std::fmt;
use std::net::IpAddr;

use super::params::find;
use super::{HeaderError, Params, is_token};
use crate::uri::split_host_port;

/// One value of a Via header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// Transport token in upper case.
    pub transport: String,
    /// Host of sent-by; an IPv6 reference with its brackets.
    pub host: String,
    /// Port of sent-by, if given.
    pub port: Option<u16>,
    /// branch, received, rport, maddr, ttl and others.
    pub params: Params,
}

/// The parts of a value where they stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ViaParts<'a> {
    transport: &'a str,
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
    params: &'a str,
}

impl<'a> ViaParts<'a> {
    /// Reads one value.
    pub(crate) fn of(text: &'a str) -> Result<ViaParts<'a>, HeaderError> {
        let wrong = |problem| HeaderError::malformed("Via", problem);
        let (head, params) = match memchr::memchr(b';', text.as_bytes()).and_then(|at| text.split_at_checked(at)) {
            Some((head, rest)) => (head, rest.get(1..).unwrap_or("")),
            None => (text, ""),
        };
        if !params.is_empty() && has_empty_item(params) {
            return Err(wrong("a semicolon without a parameter"));
        }
        let rest = after_protocol(head).ok_or(wrong("it begins with SIP/2.0/transport"))?.trim();
        let blank = rest.bytes().position(|byte| byte.is_ascii_whitespace());
        let (transport, sent_by) = blank.and_then(|at| rest.split_at_checked(at)).ok_or(wrong("sent-by is missing"))?;
        if !is_token(transport) {
            return Err(wrong("the transport is no token"));
        }
        let (host, port) = split_host_port(sent_by.trim()).map_err(|_| wrong("sent-by is no host and port"))?;
        Ok(ViaParts { transport, host, port, params })
    }

    /// The `branch` parameter.
    pub(crate) fn branch(&self) -> Option<&'a str> {
        self.param("branch").filter(|branch| !branch.is_empty())
    }

    /// The value of a parameter, as of [`Params::get`].
    pub(crate) fn param(&self, name: &str) -> Option<&'a str> {
        find(self.params, name)
    }

    /// The host as an address, if it is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        address_of(self.host)
    }

    /// The branch of a value whose other parts may be damaged.
    pub(crate) fn branch_of(text: &'a str) -> Option<&'a str> {
        let at = memchr::memchr(b';', text.as_bytes())?;
        ViaParts { transport: "", host: "", port: None, params: text.get(at + 1..)? }.branch()
    }
}

impl Via {
    /// Reads one value.
    ///
    /// # Errors
    /// [`HeaderError::Malformed`] says what is wrong.
    pub fn parse(text: &str) -> Result<Via, HeaderError> {
        ViaParts::of(text).map(Via::from)
    }

    /// The `branch` parameter.
    pub fn branch(&self) -> Option<&str> {
        self.params.get("branch").filter(|branch| !branch.is_empty())
    }

    /// `received` as an address, with or without brackets (RFC 5118 4.5).
    pub fn received(&self) -> Option<IpAddr> {
        self.params.get("received")?.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// The host as an address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        address_of(&self.host)
    }
}

impl From<ViaParts<'_>> for Via {
    fn from(parts: ViaParts<'_>) -> Via {
        Via {
            transport: parts.transport.to_ascii_uppercase(),
            host: parts.host.to_owned(),
            port: parts.port,
            params: Params::parse(parts.params),
        }
    }
}

fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What follows `SIP/2.0/`, which may have blanks between its parts.
fn after_protocol(head: &str) -> Option<&str> {
    if let Some(rest) = head.strip_prefix("SIP/2.0/") {
        return Some(rest);
    }
    let (name, rest) = head.split_once('/')?;
    let (version, rest) = rest.split_once('/')?;
    (name.trim().eq_ignore_ascii_case("SIP") && version.trim() == "2.0").then_some(rest)
}

/// True for two semicolons with nothing but blanks between them, or at either end.
fn has_empty_item(params: &str) -> bool {
    let mut empty = true;
    for byte in params.bytes() {
        match byte {
            b';' if empty => return true,
            b';' => empty = true,
            _ => empty &= byte.is_ascii_whitespace(),
        }
    }
    empty
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", self.params)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blanks_and_addresses_of_every_kind_are_read() {
        let via = Via::parse("SIP  / 2.0\t/ UDP  192.0.2.2:5060 ;branch=390skdjuw; rport").unwrap();
        assert_eq!((via.transport.as_str(), via.host.as_str(), via.port), ("UDP", "192.0.2.2", Some(5060)));
        assert_eq!(via.branch(), Some("390skdjuw"));
        assert!(via.params.has("rport"));
        let via = Via::parse("SIP/2.0/TLS [2001:db8::9:1]:5061;received=[2001:db8::9:255];branch=z9hG4bKas").unwrap();
        assert_eq!(via.received(), Some("2001:db8::9:255".parse().unwrap()));
        assert_eq!(via.to_string(), "SIP/2.0/TLS [2001:db8::9:1]:5061;received=[2001:db8::9:255];branch=z9hG4bKas");
    }

    #[test]
    fn broken_values_are_refused() {
        for text in ["", "SIP/2.0/UDP", "SIP/2.0/UDP 192.0.2.15;;,;,,", "SIP/3.0/UDP a", "SIP/2.0/U@P a"] {
            assert!(Via::parse(text).is_err(), "{text}");
        }
    }
}
