//! Numbers are brought into the form that the next hop wants.
//!
//! In this order: so many characters are cut off the front of the user, the pattern is replaced, the prefix is put before
//! it; the host is replaced on its own. A `tel:` URI stays one unless a host is given, which makes it a `sip:` URI with
//! `user=phone` (RFC 3261 19.1.6).

use ferric_sip::uri::Uri;
use regex::Regex;

/// Changes of the Request-URI.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// Characters cut off the front of the user.
    pub strip: usize,
    /// Pattern and replacement (`$1` is the first group).
    pub replace: Option<(Regex, String)>,
    /// Put before the user.
    pub prefix: String,
    /// The new host, with a port if one is given.
    pub host: Option<String>,
}

impl Rewrite {
    /// True when nothing is changed.
    pub fn is_none(&self) -> bool {
        self.strip == 0 && self.replace.is_none() && self.prefix.is_empty() && self.host.is_none()
    }

    /// The Request-URI as it goes on; `None` when it stays as it is.
    pub fn apply(&self, uri: &Uri) -> Option<String> {
        if self.is_none() {
            return None;
        }
        let mut uri = uri.clone();
        let whole = super::user_of(&uri);
        let cut: String = whole.chars().skip(self.strip).collect();
        let replaced = match &self.replace {
            Some((pattern, with)) => pattern.replace(&cut, with.as_str()).into_owned(),
            None => cut,
        };
        let user = format!("{}{replaced}", self.prefix);
        let parameters = uri
            .user
            .as_deref()
            .filter(|_| uri.scheme == "tel")
            .and_then(|user| user.split_once(';'))
            .map(|(_, rest)| rest.to_owned());
        if user != whole {
            let escaped = escape(&user);
            uri.user = match &parameters {
                Some(parameters) => Some(format!("{escaped};{parameters}")),
                None => (!escaped.is_empty() || uri.user.is_some()).then_some(escaped),
            };
        }
        if let Some(host) = &self.host {
            if uri.scheme == "tel" {
                uri.scheme = "sip".to_owned();
                uri.user = Some(escape(&user));
                uri.params.set("user", Some("phone"));
            }
            let (name, port) = ferric_sip::uri::split_host_port(host).unwrap_or((host, None));
            (uri.host, uri.port) = (name.to_owned(), port);
        }
        Some(uri.to_string())
    }
}

/// Escapes what a user part must not hold (RFC 3261 25.1).
fn escape(user: &str) -> String {
    let mut out = String::with_capacity(user.len());
    for byte in user.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn apply(rewrite: &Rewrite, uri: &str) -> Option<String> {
        rewrite.apply(&Uri::parse(uri).unwrap())
    }

    #[test]
    fn numbers_take_the_form_that_is_asked_for() {
        let none = Rewrite::default();
        assert_eq!(apply(&none, "sip:0221@example.com"), None);
        let national = Rewrite { strip: 1, prefix: "+49".into(), ..Rewrite::default() };
        assert_eq!(
            apply(&national, "sip:0221123;x=y@example.com:5070;user=phone").unwrap(),
            "sip:+49221123;x=y@example.com:5070;user=phone"
        );
        let pattern = Rewrite { replace: Some((Regex::new("^00(.*)$").unwrap(), "+$1".into())), ..Rewrite::default() };
        assert_eq!(apply(&pattern, "sip:0049221@example.com").unwrap(), "sip:+49221@example.com");
        assert_eq!(apply(&pattern, "sip:221@example.com").unwrap(), "sip:221@example.com", "what does not match stays");
        let host = Rewrite { host: Some("pstn.example.com:5080".into()), ..Rewrite::default() };
        assert_eq!(
            apply(&host, "sip:221@example.com;transport=udp").unwrap(),
            "sip:221@pstn.example.com:5080;transport=udp"
        );
        assert_eq!(
            apply(&host, "tel:+1-555-0100;phone-context=x").unwrap(),
            "sip:+15550100@pstn.example.com:5080;user=phone"
        );
        assert_eq!(apply(&national, "tel:0221").unwrap(), "tel:+49221");
        let odd = Rewrite { prefix: "a b@".into(), ..Rewrite::default() };
        assert_eq!(apply(&odd, "sip:x@example.com").unwrap(), "sip:a%20b%40x@example.com");
    }
}
