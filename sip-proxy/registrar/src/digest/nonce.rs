//! Nonces that need no memory.
//!
//! ```text
//! time (8 hex) | number (16 hex) | short keyed hash of the source (8 hex) | HMAC of all this and the realm (32 hex)
//! ```
//!
//! The HMAC is what nobody forges. The hash only tells sources apart, within what the HMAC vouches for.
//!
//! The key is drawn at start, so the nonces of an earlier process are stale and not wrong. A nonce may come back from
//! another source, as when two edges stand before us; only the counting of failures asks whether it did.

use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::hash::{equal, push_hex};

/// Seconds by which a nonce may seem to come from the future, after a clock was set back.
const SLACK_S: u64 = 5;

/// Hexadecimal digits before the HMAC, and of it.
const HEAD: usize = 32;
const TAIL: usize = 32;

/// A nonce that we gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonce {
    pub(super) id: u64,
    /// Seconds since 1970.
    pub(super) issued: u64,
    /// It may still be used.
    pub(super) is_young: bool,
    /// It was given to the source that it came back from.
    pub(super) is_own: bool,
}

/// Gives out nonces and knows its own.
#[derive(Clone)]
pub(super) struct Nonces {
    mac: Option<Hmac<Sha256>>,
    /// Hashes of sources go on from here.
    sources: DefaultHasher,
    lifetime_s: u64,
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nonces").field("lifetime_s", &self.lifetime_s).finish_non_exhaustive()
    }
}

impl Nonces {
    pub(super) fn new(key: &[u8; 32], sources: &[u8; 32], lifetime: Duration) -> Nonces {
        let mut hasher = DefaultHasher::new();
        hasher.write(sources);
        // HMAC takes a key of any length: there is always one.
        Nonces { mac: Hmac::new_from_slice(key).ok(), sources: hasher, lifetime_s: lifetime.as_secs() }
    }

    pub(super) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime_s = lifetime.as_secs();
    }

    pub(super) fn issue(&self, realm: &str, source: IpAddr, unix_s: u64, id: u64) -> String {
        let mut text = String::with_capacity(HEAD + TAIL);
        let [.., a, b, c, d] = unix_s.to_be_bytes();
        push_hex(&mut text, &[a, b, c, d]);
        push_hex(&mut text, &id.to_be_bytes());
        push_hex(&mut text, &self.source(source));
        let tail = self.tail(&text, realm);
        text + &tail
    }

    /// The nonce, if it is ours and of this realm.
    pub(super) fn check(&self, text: &str, realm: &str, source: IpAddr, unix_s: u64) -> Option<Nonce> {
        let (head, tail) = text.split_at_checked(HEAD)?;
        if !equal(self.tail(head, realm).as_bytes(), tail.as_bytes()) {
            return None;
        }
        let (issued, id) = head.split_at_checked(8)?;
        let issued = u64::from_str_radix(issued, 16).ok()?;
        let (id, given_to) = id.split_at_checked(16)?;
        let id = u64::from_str_radix(id, 16).ok()?;
        let given_to = u32::from_str_radix(given_to, 16).ok()?.to_be_bytes();
        let now = unix_s & 0xffff_ffff;
        let is_young = issued <= now.saturating_add(SLACK_S) && now.saturating_sub(issued) <= self.lifetime_s;
        Some(Nonce { id, issued: issued.min(now), is_young, is_own: given_to == self.source(source) })
    }

    fn tail(&self, head: &str, realm: &str) -> String {
        let mut text = String::with_capacity(TAIL);
        if let Some(mut mac) = self.mac.clone() {
            [b"nonce", head.as_bytes(), realm.as_bytes()].iter().for_each(|part| mac.update(part));
            let sum = mac.finalize().into_bytes();
            push_hex(&mut text, sum.get(..TAIL / 2).unwrap_or(&[]));
        }
        text
    }

    fn source(&self, source: IpAddr) -> [u8; 4] {
        let mut hasher = self.sources.clone();
        match source.to_canonical() {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_nonce_is_ours_for_its_realm_and_its_time() {
        let nonces = Nonces::new(&[7; 32], &[1; 32], Duration::from_secs(300));
        let (here, there) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let text = nonces.issue("example.com", here, 1_000, 42);
        let found = Nonce { id: 42, issued: 1_000, is_young: true, is_own: true };
        let at = |unix_s| nonces.check(&text, "example.com", here, unix_s);
        assert_eq!(at(1_300), Some(found));
        assert_eq!(at(1_301), Some(Nonce { is_young: false, ..found }));
        assert_eq!(at(996), Some(Nonce { issued: 996, ..found }));
        assert_eq!(at(990), Some(Nonce { issued: 990, is_young: false, ..found }));
        assert_eq!(nonces.check(&text, "example.com", there, 1_000), Some(Nonce { is_own: false, ..found }));
        assert_eq!(nonces.check(&text, "example.net", here, 1_000), None);
        assert_eq!(
            Nonces::new(&[8; 32], &[1; 32], Duration::from_secs(300)).check(&text, "example.com", here, 1_000),
            None
        );
        for wrong in ["", "0", &text.replacen('0', "1", 1), text.get(..40).unwrap(), &"é".repeat(40)] {
            assert_eq!(nonces.check(wrong, "example.com", here, 1_000), None, "{wrong}");
        }
    }
}
