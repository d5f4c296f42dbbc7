//! Authorization and Proxy-Authorization (RFC 3261 20.7, RFC 7616 3.4): `Digest name=value, name="value", ...`.

/// Digest credentials as they came; what is missing is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Credentials<'a> {
    pub(crate) username: &'a str,
    pub(crate) realm: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) uri: &'a str,
    pub(crate) response: &'a str,
    pub(crate) algorithm: Option<&'a str>,
    pub(crate) qop: Option<&'a str>,
    pub(crate) nc: &'a str,
    pub(crate) cnonce: Option<&'a str>,
    /// The name is hashed (RFC 7616 3.4.4): never asked for.
    pub(crate) userhash: bool,
}

impl<'a> Credentials<'a> {
    /// `None` for another scheme.
    pub(crate) fn parse(text: &'a str) -> Option<Credentials<'a>> {
        let (scheme, rest) = text.trim().split_once(|c: char| c.is_ascii_whitespace())?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let names = ["username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce", "userhash"];
        let mut values = [None; 10];
        for (name, value) in items(rest) {
            let at = names.iter().position(|have| have.eq_ignore_ascii_case(name));
            if let Some(place) = at.and_then(|at| values.get_mut(at)) {
                *place = Some(value);
            }
        }
        let [username, realm, nonce, uri, response, algorithm, qop, nc, cnonce, userhash] = values;
        Some(Credentials {
            username: username.unwrap_or_default(),
            realm: realm.unwrap_or_default(),
            nonce: nonce.unwrap_or_default(),
            uri: uri.unwrap_or_default(),
            response: response.unwrap_or_default(),
            algorithm,
            qop,
            nc: nc.unwrap_or_default(),
            cnonce,
            userhash: userhash.is_some_and(|value| value.eq_ignore_ascii_case("true")),
        })
    }

    /// The quality of protection that we ask for (RFC 7616 3.4).
    pub(crate) fn is_auth(&self) -> bool {
        self.qop.is_some_and(|qop| qop.eq_ignore_ascii_case("auth"))
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
    let mut rest = Some(text);
    let parts = std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let comma = text.bytes().position(|byte| {
            let was_escaped = std::mem::take(&mut escaped);
            match byte {
                b'\\' if quoted => escaped = !was_escaped,
                b'"' if !was_escaped => quoted = !quoted,
                _ => {}
            }
            byte == b',' && !quoted
        });
        rest = comma.and_then(|at| text.get(at + 1..));
        text.get(..comma.unwrap_or(text.len()))
    });
    parts.filter_map(|item| {
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
        assert_eq!((read.username, read.nonce, read.cnonce), ("al,ice", "n=1,2", Some("a\\\"b,c")));
        assert_eq!((read.is_auth(), read.count(), read.algorithm), (true, Some(10), Some("MD5")));
        assert_eq!(Credentials::parse("Basic YTpi"), None);
        assert_eq!(Credentials::parse("Digest"), None);
    }

    #[test]
    fn a_count_is_one_to_eight_hexadecimal_digits_and_not_zero() {
        let count = |nc: &str| Credentials { nc, ..Credentials::default() }.count();
        assert_eq!((count("00000001"), count("1"), count("ffffffff")), (Some(1), Some(1), Some(u32::MAX)));
        for wrong in ["", "00000000", "+1", "000000001", "g"] {
            assert_eq!(count(wrong), None, "{wrong}");
        }
    }
}
