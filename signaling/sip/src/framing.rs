//! Messages out of a byte stream (RFC 3261 18.3) and CRLF keep-alives (RFC 5626 3.5.1).
//!
//! The framer holds at most one message plus what one read brought; a peer that
//! sends a header without end, or a Content-Length beyond the limit, is told so
//! and the connection is over.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

/// What a stream brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The bytes of one message.
    Message(Bytes),
    /// A double CRLF: answer with one CRLF.
    Ping,
    /// A single CRLF: the answer to our ping.
    Pong,
}

/// A stream that cannot go on. The bytes, where there are any, hold the header for an answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// No end of the header within the limit.
    #[error("the header is longer than {limit} bytes")]
    HeaderTooLong {
        /// Bytes allowed.
        limit: usize,
        /// What came.
        header: Bytes,
    },
    /// Content-Length is missing or no number: nobody knows where the next message begins.
    #[error("Content-Length is missing or malformed on a stream")]
    NoLength {
        /// The header.
        header: Bytes,
    },
    /// More than accepted.
    #[error("the message has {length} bytes, {limit} are accepted")]
    TooLong {
        /// Header and body.
        length: usize,
        /// Bytes allowed.
        limit: usize,
        /// The header.
        header: Bytes,
    },
}

/// Cuts a stream into messages.
#[derive(Debug)]
pub struct StreamFramer {
    buffer: BytesMut,
    limit: usize,
    /// How far the end of the header was looked for already.
    searched: usize,
}

impl StreamFramer {
    /// Messages of at most `limit` bytes.
    pub fn new(limit: usize) -> StreamFramer {
        StreamFramer { buffer: BytesMut::new(), limit, searched: 0 }
    }

    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.searched == 0 {
            if self.buffer.starts_with(b"\r\n\r\n") {
                let _ = self.buffer.split_to(4);
                return Ok(Some(Frame::Ping));
            }
            if self.buffer.starts_with(b"\r\n") && self.buffer.len() > 2 && !matches!(self.buffer.get(2), Some(b'\r')) {
                let _ = self.buffer.split_to(2);
                return Ok(Some(Frame::Pong));
            }
            if &self.buffer[..] == b"\r\n" || &self.buffer[..] == b"\r" || &self.buffer[..] == b"\r\n\r" {
                return Ok(None);
            }
        }
        let from = self.searched.saturating_sub(4);
        let tail = self.buffer.get(from..).unwrap_or(&[]);
        let Some(end) = tail.windows(4).position(|w| w == b"\r\n\r\n").map(|at| from + at + 4) else {
            self.searched = self.buffer.len();
            if self.searched > self.limit {
                let header = self.buffer.split().freeze();
                return Err(FrameError::HeaderTooLong { limit: self.limit, header });
            }
            return Ok(None);
        };
        self.searched = end;
        let header = self.buffer.get(..end).unwrap_or(&[]);
        let Some(length) = content_length(header) else {
            return Err(FrameError::NoLength { header: Bytes::copy_from_slice(header) });
        };
        let total = end.saturating_add(length);
        if total > self.limit {
            return Err(FrameError::TooLong {
                length: total,
                limit: self.limit,
                header: Bytes::copy_from_slice(header),
            });
        }
        if self.buffer.len() < total {
            return Ok(None);
        }
        self.searched = 0;
        Ok(Some(Frame::Message(self.buffer.split_to(total).freeze())))
    }

    /// True in the middle of a message.
    pub fn is_midway(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// A lone CRLF at the end of a read is a pong.
    pub fn take_pong(&mut self) -> bool {
        let lone = &self.buffer[..] == b"\r\n";
        if lone {
            self.buffer.clear();
        }
        lone
    }
}

fn content_length(header: &[u8]) -> Option<usize> {
    let mut found = None;
    for line in header.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"Content-Length") || name.eq_ignore_ascii_case(b"l") {
            let digits = std::str::from_utf8(value.get(1..)?.trim_ascii()).ok()?;
            let number: usize = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
            if found.is_some_and(|have| have != number) {
                return None;
            }
            found = Some(number);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ONE: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc";

    fn frames(bytes: &[u8], step: usize) -> Vec<Frame> {
        let (mut framer, mut out) = (StreamFramer::new(1_000), Vec::new());
        for part in bytes.chunks(step) {
            framer.push(part);
            while let Some(frame) = framer.next_frame().unwrap() {
                out.push(frame);
            }
        }
        out
    }

    #[test]
    fn messages_come_out_whole_whatever_the_segments() {
        let stream = [ONE, b"\r\n\r\n", ONE, b"\r\n", ONE].concat();
        for step in [1, 2, 5, 17, stream.len()] {
            let frames = frames(&stream, step);
            let messages = frames.iter().filter(|f| **f == Frame::Message(Bytes::from_static(ONE))).count();
            assert_eq!(messages, 3, "step {step}");
            assert!(frames.contains(&Frame::Ping));
        }
    }

    #[test]
    fn a_header_without_end_is_over_at_the_limit() {
        let mut framer = StreamFramer::new(1_000);
        framer.push(&[b'a'; 1_001]);
        assert!(matches!(framer.next_frame(), Err(FrameError::HeaderTooLong { limit: 1_000, .. })));
    }

    #[test]
    fn a_length_that_is_none_or_too_much_ends_the_stream() {
        for (length, too_long) in [("-1", false), ("1e3", false), ("99999999999999999999", false), ("5000", true)] {
            let mut framer = StreamFramer::new(1_000);
            framer.push(format!("OPTIONS sip:a SIP/2.0\r\nl: {length}\r\n\r\n").as_bytes());
            let error = framer.next_frame().unwrap_err();
            assert_eq!(matches!(error, FrameError::TooLong { .. }), too_long, "{length}");
        }
    }

    #[test]
    fn a_lone_crlf_is_a_pong() {
        let mut framer = StreamFramer::new(1_000);
        framer.push(b"\r\n");
        assert_eq!(framer.next_frame().unwrap(), None);
        assert!(framer.take_pong());
        assert!(!framer.is_midway());
    }
}
