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

/// Splits at `separator` outside of quotes and angle brackets.
pub(crate) fn split_outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped, mut depth) = (0, false, false, 0_u32);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if quoted {
            match c {
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
        } else {
            match c {
                '"' => quoted = true,
                '<' => depth += 1,
                '>' => depth = depth.saturating_sub(1),
                _ if c == separator && depth == 0 => {
                    parts.push(text.get(start..at).unwrap_or(""));
                    start = at + c.len_utf8();
                }
                _ => {}
            }
        }
    }
    parts.push(text.get(start..).unwrap_or(""));
    parts
}

/// True for the characters of a token (RFC 3261 25.1).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
        })
}
