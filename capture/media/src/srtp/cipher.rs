//! One packet under one master key: RTP and RTCP, AES-CM with HMAC-SHA1 and AES-GCM.

use aes_gcm::aead::{AeadInOut, KeyInit as _};
use aes_gcm::{Aes128Gcm, Aes256Gcm, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::keys::{SessionKeys, apply, derive};
use super::{SrtpKey, SrtpSuite};

/// Encrypted flag of SRTCP.
const ENCRYPTED: u32 = 0x8000_0000;
/// Bytes of an RTCP packet that stay in clear.
const RTCP_CLEAR: usize = 8;

/// A master key ready for use.
pub(super) struct Transform {
    suite: SrtpSuite,
    pub(super) mki: Vec<u8>,
    rtp: Half,
    rtcp: Half,
}

/// What protects RTP, or RTCP.
struct Half {
    keys: SessionKeys,
    mac: Option<Hmac<Sha1>>,
    gcm: Option<Gcm>,
}

enum Gcm {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl Gcm {
    fn open(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8], tag: &[u8; 16]) -> bool {
        let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag));
        match self {
            Gcm::Aes128(gcm) => gcm.decrypt_inout_detached(&nonce, aad, data.into(), &tag).is_ok(),
            Gcm::Aes256(gcm) => gcm.decrypt_inout_detached(&nonce, aad, data.into(), &tag).is_ok(),
        }
    }

    fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> Option<[u8; 16]> {
        let nonce = Nonce::from(*nonce);
        let tag = match self {
            Gcm::Aes128(gcm) => gcm.encrypt_inout_detached(&nonce, aad, data.into()).ok()?,
            Gcm::Aes256(gcm) => gcm.encrypt_inout_detached(&nonce, aad, data.into()).ok()?,
        };
        Some(tag.into())
    }
}

impl Half {
    fn new(suite: SrtpSuite, keys: SessionKeys) -> Option<Half> {
        let (mut mac, mut gcm) = (None, None);
        if suite.is_aead() {
            gcm = Some(match suite.key_len() {
                16 => Gcm::Aes128(Box::new(Aes128Gcm::new_from_slice(&keys.encryption).ok()?)),
                _ => Gcm::Aes256(Box::new(Aes256Gcm::new_from_slice(&keys.encryption).ok()?)),
            });
        } else {
            mac = Some(Hmac::new_from_slice(&keys.authentication).ok()?);
        }
        Some(Half { keys, mac, gcm })
    }

    /// Counter mode's start: salt, source and index, each in its place (RFC 3711 4.1.1).
    fn counter(&self, ssrc: u32, index: u64) -> [u8; 16] {
        let mut iv = (u128::from(ssrc) << 64 | u128::from(index) << 16).to_be_bytes();
        iv.iter_mut().zip(&self.keys.salt).for_each(|(iv, salt)| *iv ^= salt);
        iv
    }

    /// AES-GCM's nonce (RFC 7714 8.1, 9.1): two zero bytes, the source, and 48 bits of index.
    fn nonce(&self, ssrc: u32, index: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        let wide = (u128::from(ssrc) << 48 | u128::from(index & 0xffff_ffff_ffff)).to_be_bytes();
        nonce
            .iter_mut()
            .zip(wide.iter().skip(4))
            .zip(&self.keys.salt)
            .for_each(|((nonce, byte), salt)| *nonce = byte ^ salt);
        nonce
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; 20] {
        let Some(mut mac) = self.mac.clone() else { return [0; 20] };
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        let Some(mut mac) = self.mac.clone() else { return false };
        parts.iter().for_each(|part| mac.update(part));
        mac.verify_truncated_left(tag).is_ok()
    }
}

/// Length of an RTP header with CSRCs and extension; `None` when the packet is shorter.
pub(super) fn header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    if first >> 6 != 2 {
        return None;
    }
    let fixed = 12 + 4 * usize::from(first & 0x0f);
    let length = if first & 0x10 == 0 {
        fixed
    } else {
        let words = packet.get(fixed + 2..fixed + 4)?;
        fixed + 4 + 4 * usize::from(u16::from_be_bytes(words.try_into().ok()?))
    };
    (length <= packet.len()).then_some(length)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Transform {
    /// `None` when the key has not the suite's length.
    pub(super) fn new(suite: SrtpSuite, key: &SrtpKey) -> Option<Transform> {
        let (rtp, rtcp) = derive(suite, &key.key_salt)?;
        let mki = key.mki.clone().unwrap_or_default();
        Some(Transform { suite, mki, rtp: Half::new(suite, rtp)?, rtcp: Half::new(suite, rtcp)? })
    }

    /// True when a packet could be under this key: long enough, and naming it.
    pub(super) fn fits(&self, packet: &[u8]) -> bool {
        let behind = if self.suite.is_aead() { 0 } else { self.suite.rtp_tag_len() };
        let named = packet.len().checked_sub(behind).and_then(|end| packet.get(end.checked_sub(self.mki.len())?..end));
        named == Some(&self.mki) && packet.len() >= 12 + self.mki.len() + self.suite.rtp_tag_len()
    }

    /// Opens an RTP packet whose 48-bit index is `index` into `out`; false when it does not authenticate.
    pub(super) fn open_rtp(&self, packet: &[u8], index: u64, out: &mut Vec<u8>) -> bool {
        self.try_open_rtp(packet, index, out).unwrap_or(false)
    }

    fn try_open_rtp(&self, packet: &[u8], index: u64, out: &mut Vec<u8>) -> Option<bool> {
        let header = header_len(packet)?;
        let ssrc = word(packet, 8)?;
        out.clear();
        if let Some(gcm) = &self.rtp.gcm {
            let body = packet.get(..packet.len().checked_sub(self.mki.len())?)?;
            let (data, tag) = body.split_at_checked(body.len().checked_sub(16)?)?;
            out.extend_from_slice(data);
            let (aad, payload) = out.split_at_mut_checked(header)?;
            return Some(gcm.open(&self.rtp.nonce(ssrc, index), aad, payload, tag.try_into().ok()?));
        }
        let (rest, tag) = packet.split_at_checked(packet.len().checked_sub(self.suite.rtp_tag_len())?)?;
        let data = rest.get(..rest.len().checked_sub(self.mki.len())?)?;
        let rollover = u32::try_from(index >> 16).ok()?.to_be_bytes();
        if data.len() < header || !self.rtp.verify(&[data, &rollover], tag) {
            return Some(false);
        }
        out.extend_from_slice(data);
        apply(&self.rtp.keys.encryption, &self.rtp.counter(ssrc, index), out.get_mut(header..)?);
        Some(true)
    }

    /// Protects an RTP packet.
    pub(super) fn seal_rtp(&self, packet: &[u8], index: u64) -> Option<Vec<u8>> {
        let header = header_len(packet)?;
        let ssrc = word(packet, 8)?;
        let mut out = packet.to_vec();
        if let Some(gcm) = &self.rtp.gcm {
            let (aad, payload) = out.split_at_mut_checked(header)?;
            let tag = gcm.seal(&self.rtp.nonce(ssrc, index), aad, payload)?;
            out.extend_from_slice(&tag);
            out.extend_from_slice(&self.mki);
            return Some(out);
        }
        apply(&self.rtp.keys.encryption, &self.rtp.counter(ssrc, index), out.get_mut(header..)?);
        let tag = self.rtp.tag(&[&out, &u32::try_from(index >> 16).ok()?.to_be_bytes()]);
        out.extend_from_slice(&self.mki);
        out.extend_from_slice(tag.get(..self.suite.rtp_tag_len())?);
        Some(out)
    }

    /// Opens an RTCP packet; `None` when it does not authenticate. The second value is its index.
    pub(super) fn open_rtcp(&self, packet: &[u8]) -> Option<(Vec<u8>, u32)> {
        let ssrc = word(packet, 4)?;
        if let Some(gcm) = &self.rtcp.gcm {
            let rest = packet.get(..packet.len().checked_sub(self.mki.len())?)?;
            let (body, index) = rest.split_at_checked(rest.len().checked_sub(4)?)?;
            let flagged = word(index, 0)?;
            let (data, tag) = body.split_at_checked(body.len().checked_sub(16)?)?;
            let nonce = self.rtcp.nonce(ssrc, u64::from(flagged & !ENCRYPTED));
            let mut out = data.to_vec();
            // Without encryption all of it is only authenticated (RFC 7714 9.3).
            let clear = if flagged & ENCRYPTED == 0 { out.len() } else { RTCP_CLEAR };
            let (head, secret) = out.split_at_mut_checked(clear)?;
            let aad = [head, index].concat();
            return gcm.open(&nonce, &aad, secret, tag.try_into().ok()?).then_some((out, flagged & !ENCRYPTED));
        }
        let (rest, tag) = packet.split_at_checked(packet.len().checked_sub(self.suite.rtcp_tag_len())?)?;
        let body = rest.get(..rest.len().checked_sub(self.mki.len())?)?;
        if !self.rtcp.verify(&[body], tag) {
            return None;
        }
        let (data, index) = body.split_at_checked(body.len().checked_sub(4)?)?;
        let flagged = word(index, 0)?;
        let mut out = data.to_vec();
        if flagged & ENCRYPTED != 0 {
            let counter = self.rtcp.counter(ssrc, u64::from(flagged & !ENCRYPTED));
            apply(&self.rtcp.keys.encryption, &counter, out.get_mut(RTCP_CLEAR..)?);
        }
        Some((out, flagged & !ENCRYPTED))
    }

    /// Protects an RTCP packet with its index.
    pub(super) fn seal_rtcp(&self, packet: &[u8], index: u32) -> Option<Vec<u8>> {
        let ssrc = word(packet, 4)?;
        let mut out = packet.to_vec();
        let flagged = (index | ENCRYPTED).to_be_bytes();
        if let Some(gcm) = &self.rtcp.gcm {
            let (head, secret) = out.split_at_mut_checked(RTCP_CLEAR)?;
            let aad = [&*head, &flagged].concat();
            let tag = gcm.seal(&self.rtcp.nonce(ssrc, u64::from(index)), &aad, secret)?;
            out.extend_from_slice(&tag);
            out.extend_from_slice(&flagged);
            out.extend_from_slice(&self.mki);
            return Some(out);
        }
        apply(&self.rtcp.keys.encryption, &self.rtcp.counter(ssrc, u64::from(index)), out.get_mut(RTCP_CLEAR..)?);
        out.extend_from_slice(&flagged);
        let tag = self.rtcp.tag(&[&out]);
        out.extend_from_slice(&self.mki);
        out.extend_from_slice(tag.get(..self.suite.rtcp_tag_len())?);
        Some(out)
    }
}
