//! Seals a growing plaintext into an EOPUS file, segment by segment, while the call runs.
//!
//! The [`Sealer`] returns bytes to append and never wants them back: it keeps
//! the file key, a counter and a running SHA-256, a few hundred bytes a call.
//! The key exists only in here; once the sealer is dropped (its memory is
//! zeroized) nobody but a recipient can open the file, this process included.
//!
//! **The last segment.** A reader tells a whole file from a cut one by the
//! nonce of the last segment, whose final byte is 1. While a call runs nobody
//! knows which segment will be the last, so [`Sealer::seal`] always writes 0
//! and [`Sealer::finish`] writes the 1: on what plaintext is left, or, if all
//! was flushed before, on an empty segment of 16 bytes of tag.
//!
//! **Nonces.** The pair (counter, last flag) is used once under a key. Bytes
//! that could not be written may be written again *as they are*; sealing other
//! plaintext in their place is impossible by construction, because the
//! counter only moves forward.

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes128Gcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::eopus::{
    AEAD, Content, Header, KEY_WRAP, MAGIC, MAX_HEADER, MAX_RECIPIENTS, MAX_SEGMENT, TAG, WrappedKey, nonce,
};
use crate::keys::{KeyError, Recipient};
use crate::part::Part;
use crate::timestamp::Timestamp;

/// What the clear header of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealHeader {
    /// Which files of which recording.
    pub part: Part,
    /// Whose it is.
    pub tenant: String,
    /// What the plaintext is.
    pub content: Content,
    /// When sealing begins.
    pub created: Timestamp,
}

/// What was sealed so far; after [`Sealer::finish`], the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealSummary {
    /// Bytes of the file, header included.
    pub bytes: u64,
    /// SHA-256 of those bytes.
    pub sha256: [u8; 32],
    /// Segments in it.
    pub segments: u32,
}

/// Why nothing could be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A file without a recipient could never be opened.
    #[error("no public key to seal for")]
    NoRecipient,
    /// The header would not fit its limits.
    #[error(
        "{0} recipients make the header too long; at most {MAX_RECIPIENTS} keys and {MAX_HEADER} bytes are allowed"
    )]
    TooManyRecipients(usize),
    /// The file key could not be wrapped.
    #[error("cannot wrap the file key: {0}")]
    Key(#[from] KeyError),
    /// The segment counter is used up (2^32 segments).
    #[error("the file has as many segments as the format can count")]
    Exhausted,
    /// The last segment was sealed already.
    #[error("the file is finished")]
    Finished,
    /// The cipher refused, or the header could not be encoded.
    #[error("cannot seal: {0}")]
    Cipher(String),
}

/// Seals one file. Drop it to forget the key.
pub struct Sealer {
    cipher: Aes128Gcm,
    nonce_prefix: [u8; 7],
    aad: [u8; 32],
    segments: u32,
    finished: bool,
    bytes: u64,
    hash: Sha256,
}

impl Sealer {
    /// Begins a file: a fresh key and nonce prefix, the key wrapped for each recipient.
    /// Returns the first bytes of the file as well (magic, length, header).
    ///
    /// # Errors
    /// No recipient, too many, or the key cannot be wrapped.
    pub fn new<R: CryptoRng + ?Sized>(
        header: &SealHeader,
        recipients: &[Recipient],
        rng: &mut R,
    ) -> Result<(Sealer, Vec<u8>), SealError> {
        if recipients.is_empty() {
            return Err(SealError::NoRecipient);
        }
        if recipients.len() > MAX_RECIPIENTS {
            return Err(SealError::TooManyRecipients(recipients.len()));
        }
        let mut file_key = Zeroizing::new([0u8; 16]);
        rng.fill_bytes(file_key.as_mut_slice());
        let mut nonce_prefix = [0u8; 7];
        rng.fill_bytes(&mut nonce_prefix);
        let wrapped = recipients
            .iter()
            .map(|recipient| {
                let key = recipient.wrap(&file_key, rng)?;
                Ok(WrappedKey {
                    kid: recipient.id().clone(),
                    alg: KEY_WRAP.to_owned(),
                    key: URL_SAFE_NO_PAD.encode(key),
                })
            })
            .collect::<Result<Vec<_>, KeyError>>()?;
        let json = serde_json::to_vec(&Header {
            v: 1,
            part: header.part,
            tenant: header.tenant.clone(),
            content: header.content,
            created: header.created,
            aead: AEAD.to_owned(),
            nonce_prefix: URL_SAFE_NO_PAD.encode(nonce_prefix),
            recipients: wrapped,
        })
        .map_err(|error| SealError::Cipher(error.to_string()))?;
        let length = u32::try_from(json.len())
            .ok()
            .filter(|_| json.len() <= MAX_HEADER)
            .ok_or(SealError::TooManyRecipients(recipients.len()))?;
        let first = [&MAGIC[..], &length.to_be_bytes(), &json].concat();
        let hash = Sha256::new_with_prefix(&first);
        let sealer = Sealer {
            cipher: Aes128Gcm::new((&*file_key).into()),
            nonce_prefix,
            aad: hash.clone().finalize().into(),
            segments: 0,
            finished: false,
            bytes: first.len() as u64,
            hash,
        };
        Ok((sealer, first))
    }

    /// Seals plaintext into as many segments as it needs (none if it is empty) and appends them to `out`.
    ///
    /// # Errors
    /// The file is finished or its counter used up; `out` then holds the segments before.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        plaintext.chunks(MAX_SEGMENT).try_for_each(|chunk| self.segment(chunk, false, out))
    }

    /// Seals what is left, the final segment marked as the last, and tells the measures of the whole file.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn finish(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<SealSummary, SealError> {
        let mut chunks = plaintext.chunks(MAX_SEGMENT).peekable();
        while let Some(chunk) = chunks.next() {
            self.segment(chunk, chunks.peek().is_none(), out)?;
        }
        if plaintext.is_empty() {
            self.segment(&[], true, out)?;
        }
        Ok(self.summary())
    }

    /// What was sealed so far.
    pub fn summary(&self) -> SealSummary {
        SealSummary { bytes: self.bytes, sha256: self.hash.clone().finalize().into(), segments: self.segments }
    }

    /// Segments sealed so far.
    pub fn segments(&self) -> u32 {
        self.segments
    }

    fn segment(&mut self, plaintext: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        if self.finished {
            return Err(SealError::Finished);
        }
        // The final counter value is kept for the last segment.
        if self.segments == u32::MAX && !last {
            return Err(SealError::Exhausted);
        }
        let length = u32::try_from(plaintext.len() + TAG).map_err(|_| SealError::Exhausted)?;
        let nonce = Nonce::from(nonce(&self.nonce_prefix, self.segments, last));
        let start = out.len();
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(plaintext);
        let body = out.get_mut(start + 4..).unwrap_or_default();
        match self.cipher.encrypt_inout_detached(&nonce, &self.aad, body.into()) {
            Ok(tag) => out.extend_from_slice(&tag),
            Err(error) => {
                out.truncate(start);
                return Err(SealError::Cipher(error.to_string()));
            }
        }
        let sealed = out.get(start..).unwrap_or_default();
        self.hash.update(sealed);
        self.bytes += sealed.len() as u64;
        self.segments = self.segments.saturating_add(1);
        self.finished = last;
        Ok(())
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} segments, {} bytes)", self.segments, self.bytes)
    }
}

/// Seals a document that is known whole, such as the metadata.
///
/// # Errors
/// As [`Sealer::new`].
pub fn seal_document<R: CryptoRng + ?Sized>(
    header: &SealHeader,
    recipients: &[Recipient],
    plaintext: &[u8],
    rng: &mut R,
) -> Result<(Vec<u8>, SealSummary), SealError> {
    let (mut sealer, mut file) = Sealer::new(header, recipients, rng)?;
    let summary = sealer.finish(plaintext, &mut file)?;
    Ok((file, summary))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use crate::keys::tests::test_key;
    use crate::open::open_all;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use uuid::Uuid;

    fn header() -> SealHeader {
        SealHeader {
            part: Part::first(Uuid::from_u128(1)),
            tenant: "acme".into(),
            content: Content::OggOpus,
            created: Timestamp::from_unix_ms(0),
        }
    }

    fn sealer() -> (Sealer, Vec<u8>) {
        Sealer::new(&header(), &[test_key().public().clone()], &mut StdRng::seed_from_u64(2)).unwrap()
    }

    #[test]
    fn plaintext_is_cut_at_64_kib_and_comes_back() {
        for size in [0, 1, MAX_SEGMENT - 1, MAX_SEGMENT, MAX_SEGMENT + 1, 3 * MAX_SEGMENT] {
            let plain: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let (mut a, mut file) = sealer();
            a.seal(&plain, &mut file).unwrap();
            let summary = a.finish(&[], &mut file).unwrap();
            assert_eq!(summary.segments as usize, size.div_ceil(MAX_SEGMENT) + 1);
            assert_eq!((summary.bytes, summary.sha256), (file.len() as u64, Sha256::digest(&file).into()));
            assert_eq!(open_all(test_key(), &file).unwrap(), plain);

            let (mut b, mut file) = sealer();
            let summary = b.finish(&plain, &mut file).unwrap();
            assert_eq!(
                summary.segments as usize,
                size.div_ceil(MAX_SEGMENT).max(1),
                "no empty segment when something is left"
            );
            assert_eq!(open_all(test_key(), &file).unwrap(), plain);
        }
    }

    #[test]
    fn nothing_is_sealed_after_the_last_segment() {
        let (mut sealer, mut file) = sealer();
        sealer.finish(b"end", &mut file).unwrap();
        let length = file.len();
        assert_eq!(sealer.seal(b"more", &mut file), Err(SealError::Finished));
        assert_eq!(sealer.finish(b"", &mut file), Err(SealError::Finished));
        assert_eq!(file.len(), length);
    }

    #[test]
    fn the_last_counter_value_is_kept_for_the_end() {
        let (mut sealer, mut file) = sealer();
        sealer.segments = u32::MAX;
        assert_eq!(sealer.seal(b"x", &mut file), Err(SealError::Exhausted));
        assert!(sealer.finish(b"x", &mut file).is_ok());
    }

    #[test]
    fn every_recipient_can_open_and_none_is_refused() {
        let other = crate::keys::PrivateKey::generate(&mut StdRng::seed_from_u64(11)).unwrap();
        let both = [test_key().public().clone(), other.public().clone()];
        let (file, _) = seal_document(&header(), &both, b"{}", &mut StdRng::seed_from_u64(4)).unwrap();
        assert_eq!(open_all(test_key(), &file).unwrap(), b"{}");
        assert_eq!(open_all(&other, &file).unwrap(), b"{}");
        assert_eq!(
            seal_document(&header(), &[], b"", &mut StdRng::seed_from_u64(4)).unwrap_err(),
            SealError::NoRecipient
        );
        let many = vec![test_key().public().clone(); 65];
        assert_eq!(
            seal_document(&header(), &many, b"", &mut StdRng::seed_from_u64(4)).unwrap_err(),
            SealError::TooManyRecipients(65)
        );
    }

    #[test]
    fn two_files_share_neither_key_nor_nonce() {
        let mut rng = StdRng::seed_from_u64(2);
        let recipients = [test_key().public().clone()];
        let (mut a, first_a) = Sealer::new(&header(), &recipients, &mut rng).unwrap();
        let (mut b, first_b) = Sealer::new(&header(), &recipients, &mut rng).unwrap();
        assert_ne!(first_a, first_b);
        let (mut out_a, mut out_b) = (Vec::new(), Vec::new());
        a.seal(&[0; 64], &mut out_a).unwrap();
        b.seal(&[0; 64], &mut out_b).unwrap();
        assert_ne!(out_a, out_b);
    }

    /// The vector of docs/eopus.md, section 1.
    #[test]
    fn the_published_vector_holds() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let json = concat!(
            r#"{"v":1,"id":"0199c1f0-7c1e-7d3a-b0f1-3c5d9a1e2b4c","tenant":"acme","content":"audio/ogg; codecs=opus","#,
            r#""created":"2026-03-01T08:09:10.250Z","aead":"A128GCM-STREAM-BE32","nonce_prefix":"AAECAwQFBg","#,
            r#""recipients":[{"kid":"AAAA","alg":"RSA-OAEP-256","key":"AAAA"}]}"#
        );
        let header: Header = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&header).unwrap(), json, "the header is written in this order");
        let first = [&MAGIC[..], &(json.len() as u32).to_be_bytes(), json.as_bytes()].concat();
        let file_key: [u8; 16] = std::array::from_fn(|at| at as u8);
        let hash = Sha256::new_with_prefix(&first);
        let mut sealer = Sealer {
            cipher: Aes128Gcm::new((&file_key).into()),
            nonce_prefix: std::array::from_fn(|at| at as u8),
            aad: hash.clone().finalize().into(),
            segments: 0,
            finished: false,
            bytes: first.len() as u64,
            hash,
        };
        assert_eq!(hex(&sealer.aad), "5e5a2cb22edccf3ae57597af62d1f80cd5a22a276b3ff00bc7cc644264b74b4a");
        let mut out = Vec::new();
        sealer.seal(b"Ogg", &mut out).unwrap();
        assert_eq!(hex(&out), "000000135c7e5a8017007b278adb834e6256a628ec7c38");
        out.clear();
        sealer.finish(b"S", &mut out).unwrap();
        assert_eq!(hex(&out), "0000001140ebd4c509b7e094b7ee36c92554908f86");
        let document = include_str!("../../../docs/eopus.md");
        assert!(document.contains(json) && document.contains(&hex(&out)), "the document and this test agree");
    }
}
