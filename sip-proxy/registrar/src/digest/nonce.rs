//! Nonces that need no memory: `time (8 hex) number (16 hex) keyed hash of both and the realm (32 hex)`.
//!
//! The key is drawn at start, so the nonces of an earlier process are stale and not wrong.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::hash::{equal, hex};

/// Seconds by which a nonce may seem to come from the future, after a clock was set back.
const SLACK_S: u64 = 5;

/// A nonce that we gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonce {
    pub(super) id: u64,
    /// Seconds since 1970.
    pub(super) issued: u64,
}

/// Gives out nonces and knows its own.
#[derive(Clone)]
pub(super) struct Nonces {
    mac: Option<Hmac<Sha256>>,
    lifetime_s: u64,
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nonces").field("lifetime_s", &self.lifetime_s).finish_non_exhaustive()
    }
}

impl Nonces {
    pub(super) fn new(key: &[u8; 32], lifetime: Duration) -> Nonces {
        // HMAC takes a key of any length: there is always one.
        Nonces { mac: Hmac::new_from_slice(key).ok(), lifetime_s: lifetime.as_secs() }
    }

    pub(super) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime_s = lifetime.as_secs();
    }

    pub(super) fn issue(&self, realm: &str, unix_s: u64, id: u64) -> String {
        let head = format!("{:08x}{id:016x}", unix_s & 0xffff_ffff);
        let tail = self.tail(&head, realm);
        head + &tail
    }

    /// The nonce, if it is ours, of this realm, and young enough.
    pub(super) fn check(&self, text: &str, realm: &str, unix_s: u64) -> Option<Nonce> {
        let (head, tail) = text.split_at_checked(24)?;
        if !equal(self.tail(head, realm).as_bytes(), tail.as_bytes()) {
            return None;
        }
        let (issued, id) = head.split_at_checked(8)?;
        let issued = u64::from_str_radix(issued, 16).ok()?;
        let id = u64::from_str_radix(id, 16).ok()?;
        let now = unix_s & 0xffff_ffff;
        let is_young = issued <= now.saturating_add(SLACK_S) && now.saturating_sub(issued) <= self.lifetime_s;
        is_young.then_some(Nonce { id, issued: issued.min(now) })
    }

    fn tail(&self, head: &str, realm: &str) -> String {
        let Some(mut mac) = self.mac.clone() else { return String::new() };
        mac.update(head.as_bytes());
        mac.update(realm.as_bytes());
        let sum = mac.finalize().into_bytes();
        hex(sum.get(..16).unwrap_or(&[]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_nonce_is_ours_for_its_realm_and_its_time() {
        let nonces = Nonces::new(&[7; 32], Duration::from_secs(300));
        let text = nonces.issue("example.com", 1_000, 42);
        assert_eq!(nonces.check(&text, "example.com", 1_300), Some(Nonce { id: 42, issued: 1_000 }));
        assert_eq!(nonces.check(&text, "example.com", 1_301), None);
        assert_eq!(nonces.check(&text, "example.net", 1_000), None);
        assert_eq!(nonces.check(&text, "example.com", 996), Some(Nonce { id: 42, issued: 996 }));
        assert_eq!(nonces.check(&text, "example.com", 990), None);
        assert_eq!(Nonces::new(&[8; 32], Duration::from_secs(300)).check(&text, "example.com", 1_000), None);
        for wrong in ["", "0", &text.replacen('0', "1", 1), text.get(..40).unwrap(), &"é".repeat(40)] {
            assert_eq!(nonces.check(wrong, "example.com", 1_000), None, "{wrong}");
        }
    }
}
