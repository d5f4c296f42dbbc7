//! Opens an EOPUS file with a tenant's private key, and says exactly where and how it is damaged.
//!
//! Push bytes in any portions into the [`Opener`]; it holds one segment at
//! most and appends plaintext to the caller's buffer. Each segment is
//! authenticated before one byte of it is passed on. On damage everything
//! before it has been passed on, the error names the segment and the byte of
//! the file where it begins, and the opener stays in that error.
//!
//! Whether a segment is the last shows only in its nonce: the opener tries
//! "not the last" first and "last" second, so it neither needs the file's
//! length nor trusts it. After the last segment nothing may follow; an end
//! without a last segment is a recording that was cut ([`OpenError::Cut`]).

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes128Gcm, Nonce, Tag};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::eopus::{Frame, FrameError, Framer, Header, KEY_WRAP, TAG, nonce};
use crate::keys::{KeyId, PrivateKey};

/// How far around its place a segment that does not open is looked for, to tell "moved" from "altered".
const MISPLACED_REACH: u32 = 256;

/// Why a file could not be opened to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Damage that shows without a key.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The file was sealed for other keys.
    #[error("the file was not sealed for key {given}; it opens with {}", list(.sealed_for))]
    NoRecipient {
        /// The key at hand.
        given: KeyId,
        /// The keys it was sealed for.
        sealed_for: Vec<KeyId>,
    },
    /// The header names this key, and the wrapped file key in it does not open.
    #[error("the file key wrapped for {kid} does not unwrap: the header was altered")]
    WrappedKey {
        /// The key at hand.
        kid: KeyId,
    },
    /// The first segment does not open, so nothing in the file does.
    #[error("segment 0 at byte {offset} does not open: the header or the segment was altered")]
    FirstSegment {
        /// Where its length field lies.
        offset: u64,
    },
    /// A segment does not open.
    #[error("segment {segment} at byte {offset} does not open: it was altered")]
    Altered {
        /// Counted from 0.
        segment: u32,
        /// Where its length field lies.
        offset: u64,
    },
    /// A segment opens, but in another place: segments were swapped, repeated or left out.
    #[error("at byte {offset}, where segment {segment} belongs, lies segment {actual}: segments were moved or removed")]
    Misplaced {
        /// Which belongs here, counted from 0.
        segment: u32,
        /// Where its length field lies.
        offset: u64,
        /// Which lies here.
        actual: u32,
    },
    /// The file ends within its header.
    #[error("the file ends within its header, at byte {bytes}")]
    CutHeader {
        /// The file's length.
        bytes: u64,
    },
    /// The file ends within a segment.
    #[error(
        "the file ends within segment {segment}, which begins at byte {offset}: at least {missing} bytes are missing"
    )]
    CutSegment {
        /// Counted from 0.
        segment: u32,
        /// Where its length field lies.
        offset: u64,
        /// Bytes that would complete it.
        missing: u64,
    },
    /// The file ends after a whole segment that is not the last.
    #[error(
        "the file ends after {segments} segments, at byte {bytes}, without its last segment: the recording was cut"
    )]
    Cut {
        /// Segments that opened.
        segments: u32,
        /// The file's length.
        bytes: u64,
    },
    /// Something follows the last segment.
    #[error("{bytes} or more bytes follow the last segment, which ends at byte {offset}")]
    Trailing {
        /// End of the last segment.
        offset: u64,
        /// Bytes seen beyond it.
        bytes: u64,
    },
}

fn list(ids: &[KeyId]) -> String {
    ids.iter().map(KeyId::as_str).collect::<Vec<_>>().join(", ")
}

/// A file that opened to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSummary {
    /// Segments, the last included.
    pub segments: u32,
    /// Bytes of the sealed file.
    pub bytes: u64,
    /// Bytes of plaintext.
    pub plaintext_bytes: u64,
}

struct Session {
    cipher: Aes128Gcm,
    nonce_prefix: [u8; 7],
    aad: [u8; 32],
}

/// Opens one file. Memory is bounded by one segment, whatever the file.
pub struct Opener<'k> {
    key: &'k PrivateKey,
    framer: Framer,
    header: Option<Box<Header>>,
    session: Option<Session>,
    last_seen: bool,
    plaintext_bytes: u64,
    error: Option<OpenError>,
}

impl<'k> Opener<'k> {
    /// An opener at the start of a file.
    pub fn new(key: &'k PrivateKey) -> Opener<'k> {
        Opener {
            key,
            framer: Framer::new(),
            header: None,
            session: None,
            last_seen: false,
            plaintext_bytes: 0,
            error: None,
        }
    }

    /// The header, once it was read. It is authentic as soon as a segment has opened.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_deref()
    }

    /// Bytes of plaintext passed on so far.
    pub fn plaintext_bytes(&self) -> u64 {
        self.plaintext_bytes
    }

    /// Takes the next bytes of the file and appends the plaintext of each segment they complete to `out`.
    ///
    /// # Errors
    /// The damage; `out` holds everything before it. Every later call returns the same error.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        self.guarded(|opener| opener.push_inner(input, out))
    }

    /// The file has ended.
    ///
    /// # Errors
    /// An earlier damage, or the file was cut.
    pub fn finish(&mut self) -> Result<OpenSummary, OpenError> {
        self.guarded(|opener| {
            let position = opener.framer.position();
            if !position.header {
                return Err(OpenError::CutHeader { bytes: position.torn_bytes });
            }
            if position.torn_bytes > 0 {
                return Err(OpenError::CutSegment {
                    segment: position.segments,
                    offset: position.whole_bytes,
                    missing: position.missing_bytes,
                });
            }
            if !opener.last_seen {
                return Err(OpenError::Cut { segments: position.segments, bytes: position.whole_bytes });
            }
            Ok(OpenSummary {
                segments: position.segments,
                bytes: position.whole_bytes,
                plaintext_bytes: opener.plaintext_bytes,
            })
        })
    }

    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, OpenError>) -> Result<T, OpenError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        step(self).inspect_err(|error| self.error = Some(error.clone()))
    }

    fn push_inner(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        loop {
            if self.last_seen {
                if input.is_empty() {
                    return Ok(());
                }
                return Err(OpenError::Trailing {
                    offset: self.framer.position().whole_bytes,
                    bytes: input.len() as u64,
                });
            }
            match self.framer.next(&mut input)? {
                None => return Ok(()),
                Some(Frame::Header { header, aad }) => {
                    let session = unwrap_session(self.key, &header, aad)?;
                    self.header = Some(header);
                    self.session = Some(session);
                }
                Some(Frame::Segment { index, offset, sealed }) => {
                    let Some(session) = &self.session else {
                        return Err(OpenError::FirstSegment { offset });
                    };
                    self.last_seen = open_segment(session, index, offset, sealed)?;
                    self.plaintext_bytes += sealed.len() as u64;
                    out.extend_from_slice(sealed);
                }
            }
        }
    }
}

impl std::fmt::Debug for Opener<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({:?})", self.framer.position())
    }
}

fn unwrap_session(key: &PrivateKey, header: &Header, aad: [u8; 32]) -> Result<Session, OpenError> {
    let damaged = |reason: &str| OpenError::Frame(FrameError::Header { reason: reason.to_owned() });
    let nonce_prefix = URL_SAFE_NO_PAD
        .decode(&header.nonce_prefix)
        .ok()
        .and_then(|bytes| <[u8; 7]>::try_from(bytes).ok())
        .ok_or_else(|| damaged("\"nonce_prefix\" is not 7 bytes in base64url"))?;
    let Some(wrapped) = header.recipients.iter().find(|wrapped| wrapped.kid == *key.id()) else {
        return Err(OpenError::NoRecipient {
            given: key.id().clone(),
            sealed_for: header.recipients.iter().map(|wrapped| wrapped.kid.clone()).collect(),
        });
    };
    if wrapped.alg != KEY_WRAP {
        return Err(damaged("\"alg\" is not RSA-OAEP-256"));
    }
    let file_key = URL_SAFE_NO_PAD
        .decode(&wrapped.key)
        .ok()
        .and_then(|bytes| key.unwrap_key(&bytes))
        .ok_or_else(|| OpenError::WrappedKey { kid: key.id().clone() })?;
    Ok(Session { cipher: Aes128Gcm::new((&*file_key).into()), nonce_prefix, aad })
}

/// Replaces the sealed bytes by their plaintext; `true` if this was the last segment.
fn open_segment(session: &Session, index: u32, offset: u64, sealed: &mut Vec<u8>) -> Result<bool, OpenError> {
    let body = sealed.len().saturating_sub(TAG);
    let tag = sealed.get(body..).and_then(|tag| <[u8; TAG]>::try_from(tag).ok()).map(Tag::from);
    let Some(tag) = tag else { return Err(OpenError::Altered { segment: index, offset }) };
    let opens = |bytes: &mut [u8], counter: u32, last: bool| {
        let nonce = Nonce::from(nonce(&session.nonce_prefix, counter, last));
        // The tag is checked before anything is decrypted, so a failed try leaves the bytes as they are.
        session.cipher.decrypt_inout_detached(&nonce, &session.aad, bytes.into(), &tag).is_ok()
    };
    let bytes = sealed.get_mut(..body).unwrap_or_default();
    for last in [false, true] {
        if opens(bytes, index, last) {
            sealed.truncate(body);
            return Ok(last);
        }
    }
    let around = index.saturating_sub(MISPLACED_REACH)..=index.saturating_add(MISPLACED_REACH);
    for actual in around.filter(|actual| *actual != index) {
        if opens(bytes, actual, false) || opens(bytes, actual, true) {
            return Err(OpenError::Misplaced { segment: index, offset, actual });
        }
    }
    Err(match index {
        0 => OpenError::FirstSegment { offset },
        segment => OpenError::Altered { segment, offset },
    })
}

/// Opens a file that lies in memory.
///
/// # Errors
/// The damage; use an [`Opener`] to get what lies before it.
pub fn open_all(key: &PrivateKey, file: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut opener = Opener::new(key);
    let mut plaintext = Vec::new();
    opener.push(file, &mut plaintext)?;
    opener.finish()?;
    Ok(plaintext)
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
    use crate::eopus::Content;
    use crate::keys::tests::test_key;
    use crate::part::Part;
    use crate::seal::{SealHeader, Sealer};
    use crate::timestamp::Timestamp;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use uuid::Uuid;

    const PARTS: [&[u8]; 4] = [b"the first", b"the second part", b"3", b"the last of them"];

    /// A file of four segments and the byte at which each begins (and the end).
    fn file() -> (Vec<u8>, Vec<usize>) {
        let header = SealHeader {
            part: Part::first(Uuid::from_u128(5)),
            tenant: "acme".into(),
            content: Content::Json,
            created: Timestamp::default(),
        };
        let (mut sealer, mut file) =
            Sealer::new(&header, &[test_key().public().clone()], &mut StdRng::seed_from_u64(9)).unwrap();
        let mut starts = vec![file.len()];
        for (i, part) in PARTS.iter().enumerate() {
            if i + 1 < PARTS.len() {
                sealer.seal(part, &mut file).unwrap()
            } else {
                sealer.finish(part, &mut file).map(drop).unwrap()
            }
            starts.push(file.len());
        }
        (file, starts)
    }

    fn open(bytes: &[u8]) -> (Vec<u8>, Result<OpenSummary, OpenError>) {
        let mut opener = Opener::new(test_key());
        let mut out = Vec::new();
        let result = opener.push(bytes, &mut out).and_then(|()| opener.finish());
        assert_eq!(opener.finish().is_err(), result.is_err(), "an error stays");
        (out, result)
    }

    #[test]
    fn a_whole_file_opens_in_any_portions() {
        let (file, _) = file();
        for step in [1, 3, 50, file.len()] {
            let mut opener = Opener::new(test_key());
            let mut out = Vec::new();
            file.chunks(step).for_each(|chunk| opener.push(chunk, &mut out).unwrap());
            let summary = opener.finish().unwrap();
            assert_eq!(out, PARTS.concat());
            assert_eq!(
                (summary.segments, summary.bytes, summary.plaintext_bytes),
                (4, file.len() as u64, out.len() as u64)
            );
            assert_eq!(opener.header().unwrap().tenant, "acme");
        }
    }

    #[test]
    fn every_truncation_yields_what_is_whole_and_names_the_cut() {
        let (file, starts) = file();
        for cut in 0..file.len() {
            let (out, result) = open(&file[..cut]);
            let whole = starts[1..].iter().filter(|end| **end <= cut).count();
            assert_eq!(out, PARTS[..whole].concat(), "cut at {cut}");
            let expected = if cut < starts[0] {
                OpenError::CutHeader { bytes: cut as u64 }
            } else if cut == starts[whole] {
                OpenError::Cut { segments: whole as u32, bytes: cut as u64 }
            } else {
                let (segment, offset) = (whole as u32, starts[whole] as u64);
                match result {
                    Err(OpenError::CutSegment { missing, .. }) => {
                        assert!(missing > 0 && missing <= (starts[whole + 1] - cut) as u64, "cut at {cut}");
                        OpenError::CutSegment { segment, offset, missing }
                    }
                    ref other => panic!("cut at {cut}: {other:?}"),
                }
            };
            assert_eq!(result, Err(expected), "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_byte_is_found_in_its_segment() {
        let (file, starts) = file();
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 0x10;
            let (out, result) = open(&altered);
            let error = result.expect_err(&format!("byte {at}"));
            let Some(hit) = starts.iter().rposition(|start| *start <= at) else {
                assert_eq!(out, b"", "byte {at} of the header: {error}");
                continue;
            };
            assert_eq!(out, PARTS[..hit].concat(), "byte {at}: {error}");
            let named = match error {
                OpenError::FirstSegment { .. } => 0,
                OpenError::Altered { segment, .. }
                | OpenError::CutSegment { segment, .. }
                | OpenError::Frame(FrameError::SegmentLength { segment, .. }) => segment,
                other => panic!("byte {at}: {other}"),
            };
            assert_eq!(named as usize, hit, "byte {at}");
        }
    }

    #[test]
    fn swapped_repeated_and_missing_segments_are_told_apart_from_altered_ones() {
        let (file, s) = file();
        let part = |i: usize| &file[s[i]..s[i + 1]];
        let swapped = [&file[..s[1]], part(2), part(1), part(3)].concat();
        assert_eq!(
            open(&swapped),
            (PARTS[0].to_vec(), Err(OpenError::Misplaced { segment: 1, offset: s[1] as u64, actual: 2 }))
        );
        let repeated = [&file[..s[2]], part(1)].concat();
        assert_eq!(open(&repeated).1, Err(OpenError::Misplaced { segment: 2, offset: s[2] as u64, actual: 1 }));
        let missing = [&file[..s[1]], part(3)].concat();
        assert_eq!(open(&missing).1, Err(OpenError::Misplaced { segment: 1, offset: s[1] as u64, actual: 3 }));
    }

    #[test]
    fn nothing_may_follow_the_last_segment() {
        let (mut file, s) = file();
        file.push(0);
        assert_eq!(open(&file), (PARTS.concat(), Err(OpenError::Trailing { offset: s[4] as u64, bytes: 1 })));
    }

    #[test]
    fn a_wrong_key_is_named_beside_the_right_one() {
        let (file, _) = file();
        let other = PrivateKey::generate(&mut StdRng::seed_from_u64(77)).unwrap();
        let error = open_all(&other, &file).unwrap_err();
        assert_eq!(
            error,
            OpenError::NoRecipient { given: other.id().clone(), sealed_for: vec![test_key().id().clone()] }
        );
        let text = error.to_string();
        assert!(text.contains(other.id().as_str()) && text.contains(test_key().id().as_str()), "{text}");
    }

    #[test]
    fn an_edited_header_shows_at_the_first_segment() {
        let (file, s) = file();
        let at = file.windows(4).position(|w| w == b"acme").unwrap();
        let mut edited = file.clone();
        edited[at] = b'A';
        assert_eq!(open(&edited), (Vec::new(), Err(OpenError::FirstSegment { offset: s[0] as u64 })));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), graft in 0usize..1200) {
            let (file, _) = file();
            bytes.splice(0..0, file[..graft.min(file.len())].iter().copied());
            prop_assert!(open(&bytes).1.is_err() || bytes == file);
        }
    }
}
