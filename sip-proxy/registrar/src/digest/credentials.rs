//! Authorization and Proxy-Authorization (RFC 3261 20.7, RFC 7616 3.4): `Digest name=value, name="value", ...`.

/// Digest credentials as they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) realm: String,
    pub(crate) nonce: String,
    pub(crate) uri: String,
    pub(crate) response: String,
    pub(crate) algorithm: Option<String>,
    pub(crate) qop: Option<String>,
    pub(crate) nc: String,
    pub(crate) cnonce: Option<String>,
    /// The name is hashed (RFC 7616 3.4.4): never asked for.
    pub(crate) userhash: bool,
}

impl Credentials {
    /// `None` for another scheme.
    pub(crate) fn parse(text: &str) -> Option<Credentials> {
        let (scheme, rest) = text.trim().split_once(|c: char| c.is_ascii_whitespace())?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let mut credentials = Credentials::default();
        for (name, value) in items(rest) {
            let value = value.to_owned();
            match name.to_ascii_lowercase().as_str() {
                "username" => credentials.username = value,
                "realm" => credentials.realm = value,
                "nonce" => credentials.nonce = value,
                "uri" => credentials.uri = value,
                "response" => credentials.response = value,
                "algorithm" => credentials.algorithm = Some(value),
                "qop" => credentials.qop = Some(value.to_ascii_lowercase()),
                "nc" => credentials.nc = value,
                "cnonce" => credentials.cnonce = Some(value),
                "userhash" => credentials.userhash = value.eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        Some(credentials)
    }

    /// `nc` as a number: eight hexadecimal digits, fewer are borne.
    pub(crate) fn count(&self) -> Option<u32> {
        let fine = (1..=8).contains(&self.nc.len()) && self.nc.bytes().all(|b| b.is_ascii_hexdigit());
        u32::from_str_radix(&self.nc, 16).ok().filter(|count| fine && *count > 0)
    }
}

/// Names and values, split at commas outside of quotes. A backslash keeps what it escapes from ending the value and stays
/// itself: the sums are made over the text between the quotes.
fn items(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c: char| {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted => escaped = !was_escaped,
            '"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        c == ',' && !quoted
    })
    .filter_map(|item| {
        let (name, value) = item.split_once('=')?;
        let value = value.trim();
        let inside = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some((name.trim(), inside.unwrap_or(value)))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_are_read_in_any_order_case_and_spacing() {
        let text = "DIGEST Username=\"al,ice\" ,realm=\"example.com\",nonce=\"n=1,2\",  uri=\"sip:example.com\",response=\"00\", nc=0000000A, \
                    algorithm=MD5,qop=\"Auth\",cnonce=\"a\\\"b,c\",opaque=\"\"";
        let read = Credentials::parse(text).unwrap();
        assert_eq!(
            (read.username.as_str(), read.nonce.as_str(), read.cnonce.as_deref()),
            ("al,ice", "n=1,2", Some("a\\\"b,c"))
        );
        assert_eq!(
            (read.qop.as_deref(), read.count(), read.algorithm.as_deref()),
            (Some("auth"), Some(10), Some("MD5"))
        );
        assert_eq!(Credentials::parse("Basic YTpi"), None);
        assert_eq!(Credentials::parse("Digest"), None);
    }

    #[test]
    fn a_count_is_one_to_eight_hexadecimal_digits_and_not_zero() {
        let count = |nc: &str| Credentials { nc: nc.to_owned(), ..Credentials::default() }.count();
        assert_eq!((count("00000001"), count("1"), count("ffffffff")), (Some(1), Some(1), Some(u32::MAX)));
        for wrong in ["", "00000000", "+1", "000000001", "g"] {
            assert_eq!(count(wrong), None, "{wrong}");
        }
    }
}
