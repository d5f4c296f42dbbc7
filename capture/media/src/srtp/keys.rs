//! Session keys out of a master key (RFC 3711 4.3, RFC 6188 3, RFC 7714 11), with a key derivation rate of 0.

use aes::cipher::{KeyIvInit, StreamCipher};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::SrtpSuite;

const RTP_ENCRYPTION: u8 = 0;
const RTP_AUTHENTICATION: u8 = 1;
const RTP_SALT: u8 = 2;
const RTCP_ENCRYPTION: u8 = 3;
const RTCP_AUTHENTICATION: u8 = 4;
const RTCP_SALT: u8 = 5;

/// HMAC-SHA1 keys, in bytes.
const AUTH_LEN: usize = 20;

/// Keys for RTP or RTCP.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct SessionKeys {
    pub(super) encryption: Vec<u8>,
    pub(super) authentication: Vec<u8>,
    /// 14 bytes, or 12 with AES-GCM.
    pub(super) salt: Vec<u8>,
}

/// Keys for RTP and for RTCP; `None` when the master key has a wrong length.
pub(super) fn derive(suite: SrtpSuite, key_salt: &[u8]) -> Option<(SessionKeys, SessionKeys)> {
    if key_salt.len() != suite.key_len() + suite.salt_len() {
        return None;
    }
    let (key, salt) = key_salt.split_at_checked(suite.key_len())?;
    let keys = |encryption, authentication, of_salt| SessionKeys {
        encryption: stream(key, salt, encryption, suite.key_len()),
        authentication: if suite.is_aead() { Vec::new() } else { stream(key, salt, authentication, AUTH_LEN) },
        salt: stream(key, salt, of_salt, suite.salt_len()),
    };
    Some((keys(RTP_ENCRYPTION, RTP_AUTHENTICATION, RTP_SALT), keys(RTCP_ENCRYPTION, RTCP_AUTHENTICATION, RTCP_SALT)))
}

/// AES in counter mode over zeros: the salt, with the label in its seventh byte from the end, is the counter's
/// upper part. A salt of 12 bytes is filled up to 14.
fn stream(key: &[u8], salt: &[u8], label: u8, length: usize) -> Vec<u8> {
    let mut iv = [0_u8; 16];
    iv.iter_mut().zip(salt).for_each(|(iv, salt)| *iv = *salt);
    if let Some(byte) = iv.get_mut(7) {
        *byte ^= label;
    }
    let mut out = vec![0; length];
    apply(key, &iv, &mut out);
    out
}

/// AES-CTR with a key of 16 or 32 bytes.
pub(super) fn apply(key: &[u8], iv: &[u8; 16], data: &mut [u8]) {
    if let Ok(mut cipher) = ctr::Ctr128BE::<aes::Aes128>::new_from_slices(key, iv) {
        cipher.apply_keystream(data);
    } else if let Ok(mut cipher) = ctr::Ctr128BE::<aes::Aes256>::new_from_slices(key, iv) {
        cipher.apply_keystream(data);
    }
}
