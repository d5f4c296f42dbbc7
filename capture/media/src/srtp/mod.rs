//! SRTP with keys from signalling (RFC 3711, RFC 4568): what arrives is opened, our
//! receiver reports are sealed.
//!
//! ```text
//! SRTP   = RTP header | encrypted payload | [MKI] | tag       (AES-CM with HMAC-SHA1)
//!        = RTP header | encrypted payload and tag | [MKI]     (AES-GCM, RFC 7714)
//! SRTCP  = 8 bytes | encrypted rest | E and index | [MKI] | tag
//!        = 8 bytes | encrypted rest and tag | E and index | [MKI]
//! ```
//!
//! - [`suite`]: the suites and their lengths. [`keys`]: session keys out of master keys. [`cipher`]: one
//!   packet under one session key. [`receiver`]: rollover counters, replay, several keys, changes of keys.
//! - A packet that does not authenticate changes nothing: no source, no counter of a stream moves.
//! - Key material is wiped from memory and never printed.

mod cipher;
mod keys;
mod receiver;
mod sender;
mod suite;
#[cfg(test)]
mod vectors;

pub use receiver::{Opened, Reject, SrtpReceiver};
pub use sender::SrtpSender;
pub use suite::SrtpSuite;

use std::fmt;

use rand::Rng;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A master key with its salt.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SrtpKey {
    /// Key, then salt.
    pub key_salt: Vec<u8>,
    /// The identifier by which packets name it, as it stands in them.
    #[zeroize(skip)]
    pub mki: Option<Vec<u8>>,
}

impl fmt::Debug for SrtpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SrtpKey({} secret bytes, mki {:?})", self.key_salt.len(), self.mki)
    }
}

impl SrtpKey {
    /// A fresh key.
    pub fn random(suite: SrtpSuite, rng: &mut impl Rng) -> SrtpKey {
        let mut key_salt = vec![0; suite.key_len() + suite.salt_len()];
        rng.fill_bytes(&mut key_salt);
        SrtpKey { key_salt, mki: None }
    }
}

/// Keys of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrtpConfig {
    /// How it is protected.
    pub suite: SrtpSuite,
    /// The peer's keys: at least one, at most [`MAX_KEYS`] are used.
    pub keys: Vec<SrtpKey>,
    /// Our own, for reports.
    pub ours: SrtpKey,
}

/// Keys of a peer that are tried.
pub const MAX_KEYS: usize = 8;
