//! When two URIs are the same (RFC 3261 19.1.4). The relation is not transitive: a parameter that only one of them has
//! mostly does not count.

use ferric_sip::uri::{Uri, unescape};

/// Parameters that must be in both or in none. The RFC's examples count transport among them.
const TELLING: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];

/// True if both name the same resource.
pub fn same_uri(a: &Uri, b: &Uri) -> bool {
    if a.scheme != b.scheme {
        return false;
    }
    if !a.is_sip() {
        return a.user == b.user;
    }
    let same_text =
        |a: &Option<String>, b: &Option<String>| a == b || a.as_deref().map(unescape) == b.as_deref().map(unescape);
    same_text(&a.user, &b.user)
        && same_text(&a.password, &b.password)
        && same_host(a, b)
        && a.port == b.port
        && same_params(a, b)
        && same_headers(a.headers.as_deref(), b.headers.as_deref())
}

fn same_host(a: &Uri, b: &Uri) -> bool {
    match (a.address(), b.address()) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.host.eq_ignore_ascii_case(&b.host),
        _ => false,
    }
}

fn same_params(a: &Uri, b: &Uri) -> bool {
    let folded = |value: Option<&str>| unescape(value.unwrap_or("")).to_ascii_lowercase();
    let covered = |one: &Uri, other: &Uri| {
        one.params.iter().all(|(name, value)| {
            match other.params.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)) {
                Some((_, theirs)) => folded(value) == folded(theirs),
                None => !TELLING.iter().any(|telling| telling.eq_ignore_ascii_case(name)),
            }
        })
    };
    covered(a, b) && covered(b, a)
}

fn same_headers(a: Option<&str>, b: Option<&str>) -> bool {
    let sorted = |text: Option<&str>| {
        let mut pairs: Vec<(String, String)> = text
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (unescape(name).to_ascii_lowercase(), unescape(value)))
            .collect();
        pairs.sort();
        pairs
    };
    a == b || sorted(a) == sorted(b)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        let (a, b) = (Uri::parse(a).unwrap(), Uri::parse(b).unwrap());
        let answer = same_uri(&a, &b);
        assert_eq!(answer, same_uri(&b, &a), "{a} and {b}, either way round");
        answer
    }

    #[test]
    fn the_examples_of_equal_uris() {
        for (a, b) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("sip:a@[2001:db8::1]", "sip:a@[2001:DB8:0::1]"),
        ] {
            assert!(same(a, b), "{a} = {b}");
        }
    }

    #[test]
    fn the_examples_of_different_uris() {
        for (a, b) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:a@host", "sips:a@host"),
            ("sip:a@host", "sip:a@host;maddr=192.0.2.1"),
            ("sip:a:one@host", "sip:a@host"),
            ("tel:+1555", "tel:+1556"),
        ] {
            assert!(!same(a, b), "{a} is not {b}");
        }
    }
}
