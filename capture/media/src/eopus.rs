//! EOPUS version 1: the file format that the sealer writes and the opener reads (`docs/eopus.md`).
//!
//! ```text
//! file    = magic header_len header segment*
//! magic   = "EOPUS" 00 00 01                                  8 bytes
//! segment = u32 big endian length, ciphertext and 16-byte tag
//! nonce   = prefix (7) | segment counter u32 BE (4) | 01 on the last segment, else 00
//! aad     = SHA-256 of everything before the first segment
//! ```
//!
//! This module holds what both sides share and what needs no key: the header,
//! the limits, and the [`Framer`] that cuts a byte stream into header and
//! segments. The edge cannot open what it sealed, so the framer is also all
//! it has to judge a file that a crash cut off: whole segments are kept, the
//! torn tail goes.
//!
//! Invariants: the framer buffers at most one header or one segment, whatever
//! the input; no length read from a file is trusted before it is compared
//! with its limit; offsets are bytes from the start of the file.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::keys::KeyId;
use crate::part::Part;
use crate::timestamp::Timestamp;

/// The first 8 bytes of every file; the last of them is the version.
pub const MAGIC: [u8; 8] = *b"EOPUS\x00\x00\x01";
/// Largest header JSON, in bytes.
pub const MAX_HEADER: usize = 64 * 1024;
/// Largest plaintext of one segment, in bytes.
pub const MAX_SEGMENT: usize = 64 * 1024;
/// Bytes of the AES-GCM tag that follow the ciphertext of each segment.
pub const TAG: usize = 16;
/// Most keys that one file is wrapped for.
pub const MAX_RECIPIENTS: usize = 64;
/// The only `aead` value of version 1.
pub const AEAD: &str = "A128GCM-STREAM-BE32";
/// The only `alg` value of version 1.
pub const KEY_WRAP: &str = "RSA-OAEP-256";

/// What the plaintext is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// An Ogg Opus stream.
    #[serde(rename = "audio/ogg; codecs=opus")]
    OggOpus,
    /// A JSON document: the metadata.
    #[serde(rename = "application/json")]
    Json,
}

/// The clear header of a file. It names who can open it and tells nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Format version, 1.
    pub v: u32,
    /// Which files of which recording.
    #[serde(flatten)]
    pub part: Part,
    /// Whose it is.
    pub tenant: String,
    /// What the plaintext is.
    pub content: Content,
    /// When sealing began.
    pub created: Timestamp,
    /// Always [`AEAD`].
    pub aead: String,
    /// 7 random bytes, base64url without padding.
    pub nonce_prefix: String,
    /// The file key, wrapped once for each key that may open the file.
    pub recipients: Vec<WrappedKey>,
}

/// The file key wrapped for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The recipient's key.
    pub kid: KeyId,
    /// Always [`KEY_WRAP`].
    pub alg: String,
    /// RSAES-OAEP ciphertext of the 16-byte file key, base64url without padding.
    pub key: String,
}

/// Why bytes are not an EOPUS file, as far as that shows without a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not ours.
    #[error("not an EOPUS file: it begins with {found}")]
    Magic {
        /// The first bytes in hexadecimal.
        found: String,
    },
    /// The magic of a version this program does not know.
    #[error("EOPUS version {version}; this program reads version 1")]
    Version {
        /// The version byte.
        version: u8,
    },
    /// The header's length field is outside its limits.
    #[error("the header claims a length of {length} bytes; 2 to {MAX_HEADER} are allowed")]
    HeaderLength {
        /// The claim.
        length: u32,
    },
    /// The header is no JSON of the right shape.
    #[error("the header is damaged: {reason}")]
    Header {
        /// What is wrong with it.
        reason: String,
    },
    /// A segment's length field is outside its limits.
    #[error("segment {segment} at byte {offset} claims a length of {length} bytes; {TAG} to {} are allowed", MAX_SEGMENT + TAG)]
    SegmentLength {
        /// Counted from 0.
        segment: u32,
        /// Where its length field lies.
        offset: u64,
        /// The claim.
        length: u32,
    },
}

/// One piece of a file.
#[derive(Debug)]
pub enum Frame<'a> {
    /// Magic, length and header; always the first.
    Header {
        /// The parsed header.
        header: Box<Header>,
        /// SHA-256 of the file up to here: the associated data of every segment.
        aad: [u8; 32],
    },
    /// A segment, complete in length; whether it opens is another question.
    Segment {
        /// Counted from 0.
        index: u32,
        /// Where its length field lies, in bytes from the start of the file.
        offset: u64,
        /// Ciphertext and tag.
        sealed: &'a mut Vec<u8>,
    },
}

/// Where a framer stands, between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Whether the header was complete.
    pub header: bool,
    /// Whole segments so far.
    pub segments: u32,
    /// Bytes up to the end of the last whole piece.
    pub whole_bytes: u64,
    /// Bytes read beyond it: the beginning of a piece that is not complete.
    pub torn_bytes: u64,
    /// Bytes the incomplete piece still needs, as far as is known.
    pub missing_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Magic,
    HeaderLength,
    Header(usize),
    SegmentLength,
    Segment(usize),
}

impl Want {
    fn bytes(self) -> usize {
        match self {
            Want::Magic => MAGIC.len(),
            Want::HeaderLength | Want::SegmentLength => 4,
            Want::Header(length) | Want::Segment(length) => length,
        }
    }
}

/// Cuts a stream of bytes into header and segments, holding one of them at most.
#[derive(Debug)]
pub struct Framer {
    want: Want,
    buffer: Vec<u8>,
    hash: Option<Sha256>,
    header: bool,
    segments: u32,
    whole_bytes: u64,
    read_bytes: u64,
    /// The buffer holds a segment that the caller had, and may have shortened.
    handed_out: bool,
    error: Option<FrameError>,
}

impl Default for Framer {
    fn default() -> Framer {
        Framer::new()
    }
}

impl Framer {
    /// A framer at the start of a file.
    pub fn new() -> Framer {
        Framer {
            want: Want::Magic,
            buffer: Vec::new(),
            hash: Some(Sha256::new()),
            header: false,
            segments: 0,
            whole_bytes: 0,
            read_bytes: 0,
            handed_out: false,
            error: None,
        }
    }

    /// Takes bytes off the front of `input` until a piece is complete, or until all are taken (`None`).
    ///
    /// # Errors
    /// The bytes cannot belong to an EOPUS file. The error is final: it comes again at each further call.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Frame<'a>>, FrameError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        loop {
            if std::mem::take(&mut self.handed_out) {
                self.buffer.clear();
            }
            let missing = self.want.bytes().saturating_sub(self.buffer.len());
            let (taken, rest) = input.split_at(missing.min(input.len()));
            self.buffer.extend_from_slice(taken);
            self.read_bytes += taken.len() as u64;
            *input = rest;
            // A wrong first byte is told before eight have come.
            if self.want == Want::Magic {
                self.check_magic()?;
            }
            if self.buffer.len() < self.want.bytes() {
                return Ok(None);
            }
            if let Some(hash) = &mut self.hash {
                hash.update(&self.buffer);
            }
            match self.want {
                Want::Magic => {
                    self.buffer.clear();
                    self.want = Want::HeaderLength;
                }
                Want::HeaderLength => {
                    let length = self.length();
                    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
                    if !(2..=MAX_HEADER).contains(&wanted) {
                        return Err(self.fail(FrameError::HeaderLength { length }));
                    }
                    self.buffer.clear();
                    self.want = Want::Header(wanted);
                }
                Want::Header(_) => {
                    let header = match parse_header(&self.buffer) {
                        Ok(header) => header,
                        Err(reason) => return Err(self.fail(FrameError::Header { reason })),
                    };
                    self.buffer.clear();
                    self.header = true;
                    self.whole_bytes = self.read_bytes;
                    self.want = Want::SegmentLength;
                    let aad = self.hash.take().unwrap_or_default().finalize().into();
                    return Ok(Some(Frame::Header { header: Box::new(header), aad }));
                }
                Want::SegmentLength => {
                    let length = self.length();
                    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
                    if !(TAG..=MAX_SEGMENT + TAG).contains(&wanted) {
                        let (segment, offset) = (self.segments, self.whole_bytes);
                        return Err(self.fail(FrameError::SegmentLength { segment, offset, length }));
                    }
                    self.buffer.clear();
                    self.want = Want::Segment(wanted);
                }
                Want::Segment(_) => {
                    let (index, offset) = (self.segments, self.whole_bytes);
                    // A counter that wraps fails to open; the format ends at 2^32 segments.
                    self.segments = self.segments.wrapping_add(1);
                    self.handed_out = true;
                    self.whole_bytes = self.read_bytes;
                    self.want = Want::SegmentLength;
                    return Ok(Some(Frame::Segment { index, offset, sealed: &mut self.buffer }));
                }
            }
        }
    }

    /// How far the file is whole.
    pub fn position(&self) -> Position {
        let torn_bytes = self.read_bytes - self.whole_bytes;
        let missing = match torn_bytes {
            0 if self.header => 0,
            _ => self.want.bytes().saturating_sub(self.buffer.len()),
        };
        Position {
            header: self.header,
            segments: self.segments,
            whole_bytes: self.whole_bytes,
            torn_bytes,
            missing_bytes: missing as u64,
        }
    }

    fn length(&self) -> u32 {
        self.buffer.as_slice().try_into().map_or(u32::MAX, u32::from_be_bytes)
    }

    fn check_magic(&mut self) -> Result<(), FrameError> {
        let name = 7.min(self.buffer.len());
        if self.buffer.get(..name) != MAGIC.get(..name) {
            let found = self.buffer.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            return Err(self.fail(FrameError::Magic { found }));
        }
        match self.buffer.get(7) {
            Some(&version) if Some(&version) != MAGIC.last() => Err(self.fail(FrameError::Version { version })),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        self.error = Some(error.clone());
        error
    }
}

fn parse_header(bytes: &[u8]) -> Result<Header, String> {
    let header: Header = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if header.v != 1 {
        return Err(format!("\"v\" is {}, not 1", header.v));
    }
    if header.aead != AEAD {
        return Err(format!("\"aead\" is not {AEAD}"));
    }
    if header.recipients.is_empty() || header.recipients.len() > MAX_RECIPIENTS {
        return Err(format!("{} recipients; 1 to {MAX_RECIPIENTS} are allowed", header.recipients.len()));
    }
    Ok(header)
}

/// The nonce of a segment.
pub(crate) fn nonce(prefix: &[u8; 7], counter: u32, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    for (to, from) in nonce.iter_mut().zip(prefix.iter().copied().chain(counter.to_be_bytes()).chain([u8::from(last)]))
    {
        *to = from;
    }
    nonce
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

    fn preamble(json: &str) -> Vec<u8> {
        [&MAGIC[..], &(json.len() as u32).to_be_bytes(), json.as_bytes()].concat()
    }

    const HEADER: &str = r#"{"v":1,"id":"018f5c9a-0000-7000-8000-000000000001","tenant":"t","content":"application/json",
        "created":"2026-01-01T00:00:00.000Z","aead":"A128GCM-STREAM-BE32","nonce_prefix":"AAAAAAAAAA",
        "recipients":[{"kid":"k","alg":"RSA-OAEP-256","key":"AA"}],"later":true}"#;

    fn file() -> Vec<u8> {
        let mut file = preamble(HEADER);
        for length in [16usize, 40, 20] {
            file.extend((length as u32).to_be_bytes());
            file.extend(vec![length as u8; length]);
        }
        file
    }

    fn walk(bytes: &[u8], step: usize) -> (Vec<(u32, u64, usize)>, Framer, Option<FrameError>) {
        let mut framer = Framer::new();
        let mut seen = Vec::new();
        for mut chunk in bytes.chunks(step) {
            loop {
                match framer.next(&mut chunk) {
                    Ok(Some(Frame::Segment { index, offset, sealed })) => seen.push((index, offset, sealed.len())),
                    Ok(Some(Frame::Header { .. })) => {}
                    Ok(None) => break,
                    Err(error) => return (seen, framer, Some(error)),
                }
            }
        }
        (seen, framer, None)
    }

    #[test]
    fn pieces_are_the_same_however_the_bytes_arrive() {
        let file = file();
        let start = preamble(HEADER).len() as u64;
        for step in [1, 2, 3, 7, 100, 10_000] {
            let (seen, framer, error) = walk(&file, step);
            assert_eq!(error, None);
            assert_eq!(seen, [(0, start, 16), (1, start + 20, 40), (2, start + 64, 20)]);
            assert_eq!(framer.position().whole_bytes, file.len() as u64);
            assert_eq!(framer.position().torn_bytes, 0);
        }
    }

    #[test]
    fn a_torn_tail_is_measured_at_every_cut() {
        let file = file();
        for cut in 0..file.len() {
            let (seen, framer, error) = walk(&file[..cut], 64);
            assert_eq!(error, None);
            let position = framer.position();
            assert_eq!(position.segments as usize, seen.len());
            assert_eq!(position.whole_bytes + position.torn_bytes, cut as u64);
            assert!(position.torn_bytes == 0 || position.missing_bytes > 0, "cut at {cut}: {position:?}");
        }
    }

    #[test]
    fn lengths_beyond_their_limits_are_refused_at_once() {
        let (_, _, error) = walk(b"RIFF", 4);
        assert_eq!(error, Some(FrameError::Magic { found: "52 49 46 46".into() }));
        let (_, _, error) = walk(b"EOPUS\0\0\x02", 8);
        assert_eq!(error, Some(FrameError::Version { version: 2 }));
        let (_, _, error) = walk(&[&MAGIC[..], &[255; 4]].concat(), 64);
        assert_eq!(error, Some(FrameError::HeaderLength { length: u32::MAX }));
        let start = preamble(HEADER).len() as u64;
        for length in [15u32, 65_553] {
            let (_, mut framer, error) = walk(&[&preamble(HEADER)[..], &length.to_be_bytes()].concat(), 64);
            assert_eq!(error, Some(FrameError::SegmentLength { segment: 0, offset: start, length }));
            assert!(framer.next(&mut &b"more"[..]).is_err(), "the error is final");
        }
        for json in ["{}", "[1]", &HEADER.replace("\"v\":1", "\"v\":2"), &HEADER.replace("BE32", "BE64")] {
            assert!(matches!(walk(&preamble(json), 64).2, Some(FrameError::Header { .. })), "{json}");
        }
    }

    #[test]
    fn nonces_never_repeat_within_a_file() {
        assert_eq!(nonce(&[1, 2, 3, 4, 5, 6, 7], 0x0102_0304, true), [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 1]);
        assert_ne!(nonce(&[0; 7], 1, false), nonce(&[0; 7], 1, true));
    }
}
