//! Typed header field values (RFC 3261 20). Each is read from the text of one
//! value and tolerates what the field sends; what cannot be understood is a
//! [`HeaderError`] that names the field.

mod content_type;
mod cseq;
mod name_addr;
mod params;
mod session;
mod via;

pub use content_type::ContentType;
pub use cseq::CSeq;
pub use name_addr::NameAddr;
pub use params::Params;
pub use session::{Refresher, SessionExpires};
pub use via::Via;
pub(crate) use via::ViaParts;

use smallvec::SmallVec;
use thiserror::Error;

/// A header field that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// It is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// It is there and wrong.
    #[error("{name}: {problem}")]
    Malformed {
        /// The header field.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl HeaderError {
    pub(crate) fn malformed(name: &'static str, problem: &'static str) -> HeaderError {
        HeaderError::Malformed { name, problem }
    }
}

/// How much of `text` stands before the first `separator` outside of quotes and angle brackets.
fn part_length(text: &str, separator: u8) -> usize {
    // Most values have neither quotes nor brackets before the separator: one quick look tells.
    let Some(from) = memchr::memchr3(separator, b'"', b'<', text.as_bytes()) else { return text.len() };
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_u32);
    for (at, byte) in text.bytes().enumerate().skip(from) {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'<' => depth += 1,
            b'>' => depth = depth.saturating_sub(1),
            _ if byte == separator && depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

/// What stands before and behind the first `separator`, an ASCII character.
pub(crate) fn cut(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(separator, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// What stands before the first comma outside of quotes and angle brackets, untrimmed.
pub(crate) fn first_value(text: &str) -> &str {
    text.get(..part_length(text, b',')).unwrap_or(text)
}

/// The first part before `separator` outside of quotes and angle brackets, and what follows the separator.
pub(crate) fn next_part(text: &str, separator: u8) -> (&str, Option<&str>) {
    let (part, after) = text.split_at_checked(part_length(text, separator)).unwrap_or((text, ""));
    (part, after.get(1..))
}

/// Splits at `separator` (an ASCII character) outside of quotes and angle brackets.
pub(crate) fn split_outside_quotes(text: &str, separator: char) -> SmallVec<[&str; 8]> {
    let separator = u8::try_from(separator).unwrap_or(b',');
    let (mut parts, mut rest) = (SmallVec::new(), text);
    loop {
        let (part, after) = next_part(rest, separator);
        parts.push(part);
        match after {
            Some(after) => rest = after,
            None => return parts,
        }
    }
}

/// True for the characters of a token (RFC 3261 25.1).
pub(crate) fn is_token(text: impl AsRef<[u8]>) -> bool {
    let text = text.as_ref();
    !text.is_empty() && text.iter().all(|byte| TOKEN.get(usize::from(*byte)).is_some_and(|token| *token))
}

/// Which bytes may stand in a token.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let (letters, mut at) = (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.!%*_+`'~", 0);
    while at < letters.len() {
        table[letters[at] as usize] = true;
        at += 1;
    }
    table
};
