//! Content-Type (RFC 3261 20.15).

use super::Params;

/// A media type with parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentType {
    /// `type/subtype` in lower case.
    pub essence: String,
    /// `boundary` and others.
    pub params: Params,
}

impl ContentType {
    /// Reads the value; the essence of nonsense matches nothing.
    pub fn parse(text: &str) -> ContentType {
        let (essence, params) = text.split_once(';').unwrap_or((text, ""));
        let essence: String = essence.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        ContentType { essence: essence.to_ascii_lowercase(), params: Params::parse(params) }
    }
}
