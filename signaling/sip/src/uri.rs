//! URIs (RFC 3261 19.1). A `sip:` or `sips:` URI is taken apart; any other
//! scheme keeps its text.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

use crate::header::{Params, cut};

/// What is wrong with a URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UriError {
    /// No `scheme:`.
    #[error("a URI begins with a scheme and a colon")]
    Scheme,
    /// Host missing or with characters that no host has.
    #[error("the URI's host is not a name, an IPv4 address or an [IPv6] reference")]
    Host,
    /// Not a port number.
    #[error("the URI's port is not a number from 0 to 65535")]
    Port,
    /// White space or angle brackets inside.
    #[error("the URI holds a character that must be escaped")]
    Character,
}

/// A URI taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// In lower case.
    pub scheme: String,
    /// Part before the `@`, still escaped; for other schemes than SIP all after the colon.
    pub user: Option<String>,
    /// Password, still escaped.
    pub password: Option<String>,
    /// Host as written; an IPv6 reference with its brackets. Empty for other schemes than SIP.
    pub host: String,
    /// Port, if given.
    pub port: Option<u16>,
    /// Parameters behind the host.
    pub params: Params,
    /// Text behind the `?`.
    pub headers: Option<String>,
}

/// The parts of a URI where they stand.
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    password: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
    params: &'a str,
    headers: Option<&'a str>,
}

/// White space, control characters and delimiters: a URI holds them escaped.
#[allow(clippy::indexing_slicing)] // while the program is compiled
const FORBIDDEN: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte <= b' ' {
        table[byte as usize] = true;
        byte += 1;
    }
    table[b'<' as usize] = true;
    table[b'>' as usize] = true;
    table[b'"' as usize] = true;
    table[0x7f] = true;
    table
};

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Parts<'a>, UriError> {
        if text.bytes().any(|byte| FORBIDDEN.get(usize::from(byte)).is_some_and(|forbidden| *forbidden)) {
            return Err(UriError::Character);
        }
        let (scheme, rest) = cut(text, b':').ok_or(UriError::Scheme)?;
        let mut letters = scheme.bytes();
        if !letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            || !letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            return Err(UriError::Scheme);
        }
        if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
            return Ok(Parts {
                scheme,
                user: Some(rest),
                password: None,
                host: "",
                port: None,
                params: "",
                headers: None,
            });
        }
        let (user, password, rest) = match cut(rest, b'@') {
            Some((userinfo, rest)) => match cut(userinfo, b':') {
                Some((user, password)) => (Some(user), Some(password), rest),
                None => (Some(userinfo), None, rest),
            },
            None => (None, None, rest),
        };
        let (rest, headers) = match cut(rest, b'?') {
            Some((rest, headers)) => (rest, Some(headers)),
            None => (rest, None),
        };
        let (host_port, params) = cut(rest, b';').unwrap_or((rest, ""));
        let (host, port) = split_host_port(host_port)?;
        Ok(Parts { scheme, user, password, host, port, params, headers })
    }
}

impl Uri {
    /// Takes a URI apart.
    ///
    /// # Errors
    /// [`UriError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Uri, UriError> {
        let parts = Parts::of(text)?;
        Ok(Uri {
            scheme: parts.scheme.to_ascii_lowercase(),
            user: parts.user.map(str::to_owned),
            password: parts.password.map(str::to_owned),
            host: parts.host.to_owned(),
            port: parts.port,
            params: if parts.params.is_empty() { Params::default() } else { Params::parse(parts.params) },
            headers: parts.headers.map(str::to_owned),
        })
    }

    /// Whether [`Uri::parse`] would take it, for less.
    ///
    /// # Errors
    /// [`UriError`] says which part is wrong.
    pub fn check(text: &str) -> Result<(), UriError> {
        Parts::of(text).map(|_| ())
    }

    /// True for `sip:` and `sips:`.
    pub fn is_sip(&self) -> bool {
        self.scheme == "sip" || self.scheme == "sips"
    }

    /// The host as an address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// The user part with `%xx` resolved; bytes that are no UTF-8 are replaced.
    pub fn user_unescaped(&self) -> Option<String> {
        self.user.as_deref().map(unescape)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if let Some(user) = &self.user {
            f.write_str(user)?;
            if let Some(password) = &self.password {
                write!(f, ":{password}")?;
            }
            if self.is_sip() {
                f.write_str("@")?;
            }
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", self.params)?;
        match &self.headers {
            Some(headers) => write!(f, "?{headers}"),
            None => Ok(()),
        }
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
///
/// # Errors
/// [`UriError`] when one of them is none.
pub fn split_host_port(text: &str) -> Result<(&str, Option<u16>), UriError> {
    let (host, port) = if let Some(inside) = text.strip_prefix('[') {
        let end = inside.find(']').ok_or(UriError::Host)?;
        let (address, after) = inside.split_at(end);
        // One colon too many is a known bug in the field (RFC 5118 4.10) and must be borne.
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'%')) {
            return Err(UriError::Host);
        }
        let host = text.get(..end + 2).ok_or(UriError::Host)?;
        let after = after.get(1..).unwrap_or("").trim_start();
        (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(UriError::Host)?) })
    } else {
        match cut(text, b':') {
            Some((host, port)) => (host.trim_end(), Some(port)),
            None => (text, None),
        }
    };
    if !host.starts_with('[') {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(UriError::Host);
        }
    }
    let port = match port.map(str::trim) {
        None => None,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| UriError::Port)?)
        }
        Some(_) => return Err(UriError::Port),
    };
    Ok((host, port))
}

/// Resolves `%xx`; a `%` that escapes nothing stays.
pub fn unescape(text: &str) -> String {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [a, b, ..] if *first == b'%' => hex(*a).zip(hex(*b)).map(|(a, b)| a * 16 + b),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or(&[]);
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_uri_comes_apart_and_together() {
        for text in [
            "sip:alice:secret@atlanta.example.com:5062;transport=tcp;lr?Subject=x",
            "sips:[2001:db8::1]:5061",
            "sip:192.0.2.1",
            "tel:+15551234;phone-context=example.com",
            "sip:user;par=u%40example.net@example.com",
        ] {
            assert_eq!(Uri::parse(text).unwrap().to_string(), text);
        }
        let uri = Uri::parse("SIP:%61lice@[::1]:5060;Transport=TCP").unwrap();
        assert_eq!(uri.user_unescaped().unwrap(), "alice");
        assert_eq!(uri.address(), Some("::1".parse().unwrap()));
        assert_eq!(uri.port, Some(5060));
        assert_eq!(uri.params.get("transport"), Some("TCP"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Uri::parse("alice").unwrap_err(), UriError::Scheme);
        assert_eq!(Uri::parse("sip:alice@").unwrap_err(), UriError::Host);
        assert_eq!(Uri::parse("sip:2001:db8::10").unwrap_err(), UriError::Port);
        assert_eq!(Uri::parse("sip:a@host:99999").unwrap_err(), UriError::Port);
        for forbidden in (0..=0x20).chain([0x22, 0x3c, 0x3e, 0x7f]).map(char::from) {
            assert_eq!(Uri::parse(&format!("sip:a{forbidden}@host")).unwrap_err(), UriError::Character);
        }
        assert!(Uri::parse("sip:a!#'~\u{e9}@host").is_ok());
    }

    #[test]
    fn a_percent_sign_that_escapes_nothing_stays() {
        assert_eq!(unescape("%zz%4"), "%zz%4");
        assert_eq!(unescape("a%00b"), "a\0b");
    }
}
