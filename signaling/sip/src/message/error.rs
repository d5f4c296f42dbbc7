//! Why bytes are no message, and what the sender is told.

use thiserror::Error;

use super::Message;

/// What is wrong with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseErrorKind {
    /// Nothing that resembles a SIP start line.
    #[error("this is no SIP message")]
    NotSip,
    /// A request line that is not `METHOD URI SIP/2.0`.
    #[error("malformed request line: {0}")]
    RequestLine(&'static str),
    /// A status line that is not `SIP/2.0 CODE REASON`.
    #[error("malformed status line")]
    StatusLine,
    /// Another version of SIP.
    #[error("SIP version is not 2.0")]
    Version,
    /// A header line without a name and a colon.
    #[error("malformed header line {0}")]
    HeaderLine(usize),
    /// The header does not end.
    #[error("the header does not end with an empty line")]
    Unfinished,
    /// Longer than accepted.
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
    /// More lines than accepted.
    #[error("the header has more than {0} lines")]
    TooManyLines(usize),
    /// Content-Length is no number, or several that differ.
    #[error("malformed Content-Length")]
    ContentLength,
    /// The body is shorter than Content-Length says.
    #[error("Content-Length is {declared}, but only {present} bytes came")]
    BodyCut {
        /// What Content-Length says.
        declared: usize,
        /// Bytes behind the header.
        present: usize,
    },
}

/// Bytes that are no acceptable message.
#[derive(Debug, Clone, Error)]
#[error("{kind}")]
pub struct ParseError {
    /// What is wrong.
    pub kind: ParseErrorKind,
    /// What could be read of it.
    pub(super) partial: Option<Box<Message>>,
}

impl ParseError {
    /// What could be read of the message.
    pub fn into_partial(self) -> Option<Message> {
        self.partial.map(|message| *message)
    }

    /// The status code for the sender.
    pub fn status(&self) -> u16 {
        match self.kind {
            ParseErrorKind::Version => 505,
            ParseErrorKind::TooLong(_) | ParseErrorKind::TooManyLines(_) => 513,
            ParseErrorKind::NotSip
            | ParseErrorKind::RequestLine(_)
            | ParseErrorKind::StatusLine
            | ParseErrorKind::HeaderLine(_)
            | ParseErrorKind::Unfinished
            | ParseErrorKind::ContentLength
            | ParseErrorKind::BodyCut { .. } => 400,
        }
    }

    /// The answer to a broken request, if enough of it could be read to send
    /// one. Broken responses and ACKs get none: they are dropped.
    pub fn answer(&self) -> Option<Message> {
        let request = self.partial.as_deref()?;
        let readable = request.is_request()
            && request.method().as_str() != "ACK"
            && request.header("Via").is_some()
            && request.header("From").is_some()
            && request.header("To").is_some()
            && request.header("Call-ID").is_some()
            && request.header("CSeq").is_some();
        if !readable {
            return None;
        }
        let reason = match &self.kind {
            ParseErrorKind::Version => None,
            kind => Some(kind.to_string()),
        };
        Some(Message::response(request, self.status(), reason.as_deref()))
    }
}
