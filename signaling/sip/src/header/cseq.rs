//! CSeq (RFC 3261 20.16).

use std::fmt;

use super::{HeaderError, is_token};
use crate::method::Method;

/// A sequence number with its method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CSeq {
    /// The number. RFC 3261 wants less than 2^31; some send more, which is borne up to 2^32.
    pub number: u32,
    /// The method.
    pub method: Method,
}

impl CSeq {
    /// Reads the value.
    ///
    /// # Errors
    /// [`HeaderError::Malformed`] says what is wrong.
    pub fn parse(text: &str) -> Result<CSeq, HeaderError> {
        let wrong = |problem| HeaderError::malformed("CSeq", problem);
        let (number, method) =
            text.trim().split_once(|c: char| c.is_ascii_whitespace()).ok_or(wrong("it is a number and a method"))?;
        let number = number.parse().map_err(|_| wrong("the number does not fit 32 bits"))?;
        let method = method.trim();
        if !is_token(method) {
            return Err(wrong("the method is no token"));
        }
        Ok(CSeq { number, method: Method::from_token(method) })
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}
