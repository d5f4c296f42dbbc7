//! The sums of digest authentication (RFC 7616 3.4).

use std::hint::black_box;

use md5::Md5;
use sha2::{Digest, Sha256};

/// A hash that we offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 8760.
    Sha256,
    /// RFC 2617; what most phones know.
    Md5,
}

impl Algorithm {
    /// The algorithm of that name; MD5 without one (RFC 7616 3.3).
    pub fn of(name: Option<&str>) -> Option<Algorithm> {
        match name {
            None => Some(Algorithm::Md5),
            Some(name) if name.eq_ignore_ascii_case("MD5") => Some(Algorithm::Md5),
            Some(name) if name.eq_ignore_ascii_case("SHA-256") => Some(Algorithm::Sha256),
            Some(_) => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Md5 => "MD5",
        }
    }
}

/// Hash of texts with colons between them.
pub(crate) fn digest_bytes(algorithm: Algorithm, parts: &[&str]) -> Vec<u8> {
    fn run<D: Digest>(parts: &[&str]) -> Vec<u8> {
        let mut digest = D::new();
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                digest.update(b":");
            }
            digest.update(part.as_bytes());
        }
        digest.finalize().to_vec()
    }
    match algorithm {
        Algorithm::Sha256 => run::<Sha256>(parts),
        Algorithm::Md5 => run::<Md5>(parts),
    }
}

/// `response` for qop=auth, in lower-case hex.
pub(crate) fn response(
    algorithm: Algorithm,
    ha1: &[u8],
    method: &str,
    uri: &str,
    nonce: &str,
    nc: &str,
    cnonce: &str,
) -> String {
    let ha2 = hex(&digest_bytes(algorithm, &[method, uri]));
    hex(&digest_bytes(algorithm, &[&hex(ha1), nonce, nc, cnonce, "auth", &ha2]))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

/// Appends lower-case hex.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'a' + half - 10 });
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
}

/// Compares in a time that tells only the lengths.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && black_box(a.iter().zip(b).fold(0, |difference, (a, b)| black_box(difference | (a ^ b)))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(algorithm: Algorithm, user: [&str; 3], method: &str, uri: &str, nonce: &str, cnonce: &str) -> String {
        response(algorithm, &digest_bytes(algorithm, &user), method, uri, nonce, "00000001", cnonce)
    }

    #[test]
    fn rfc_2617_3_5_example() {
        let user = ["Mufasa", "testrealm@host.com", "Circle Of Life"];
        let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
        assert_eq!(
            answer(Algorithm::Md5, user, "GET", "/dir/index.html", nonce, "0a4f113b"),
            "6629fae49393a05397450978507c4ef1"
        );
    }

    #[test]
    fn rfc_7616_3_9_1_examples() {
        let user = ["Mufasa", "http-auth@example.org", "Circle of Life"];
        let (nonce, cnonce) =
            ("7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ");
        let of = |algorithm| answer(algorithm, user, "GET", "/dir/index.html", nonce, cnonce);
        assert_eq!(of(Algorithm::Md5), "8ca523f5e9506fed4657c9700eebdbec");
        assert_eq!(of(Algorithm::Sha256), "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
    }

    #[test]
    fn names_are_read_without_case_and_md5_is_what_no_name_means() {
        assert_eq!(Algorithm::of(None), Some(Algorithm::Md5));
        assert_eq!(Algorithm::of(Some("sha-256")), Some(Algorithm::Sha256));
        for other in ["MD5-sess", "SHA-256-sess", "SHA-512-256", ""] {
            assert_eq!(Algorithm::of(Some(other)), None, "{other}");
        }
    }

    #[test]
    fn a_comparison_looks_at_everything() {
        assert!(equal(b"", b"") && equal(b"abc", b"abc"));
        assert!(!equal(b"abc", b"abd") && !equal(b"abc", b"Xbc") && !equal(b"abc", b"ab"));
    }
}
