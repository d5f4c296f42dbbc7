//! Messages on streams: `kind u16 | protocol u16 | length u32 | body`, big endian.

use bytes::Bytes;
use ferric_membership::Protocol;
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};

const HEADER: usize = 8;

/// What a body is, in the terms of those who use the fabric: a topic, whose messages keep their order, and a number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(u16);

impl Kind {
    /// A kind of a topic.
    pub const fn new(topic: u8, number: u8) -> Self {
        Self(u16::from_be_bytes([topic, number]))
    }

    /// The topic.
    pub const fn topic(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The number in its topic.
    pub const fn number(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

/// A stream that cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFrameError {
    #[error("the stream ended: {0}")]
    Ended(#[from] ReadExactError),
    #[error("a body of {0} bytes is longer than allowed")]
    TooLong(usize),
}

/// A message that was read.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) protocol: Protocol,
    pub(crate) body: Bytes,
}

pub(crate) async fn write(
    stream: &mut SendStream,
    kind: Kind,
    protocol: Protocol,
    body: Bytes,
) -> Result<(), WriteError> {
    let mut header = [0; HEADER];
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX); // bodies are bounded far below
    let fields = kind.0.to_be_bytes().into_iter().chain(protocol.0.to_be_bytes()).chain(length.to_be_bytes());
    header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    stream.write_all_chunks(&mut [Bytes::copy_from_slice(&header), body]).await
}

pub(crate) async fn read(stream: &mut RecvStream, max_body: usize) -> Result<Frame, ReadFrameError> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let [k0, k1, p0, p1, length @ ..] = header;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > max_body {
        return Err(ReadFrameError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let (kind, protocol) = (Kind(u16::from_be_bytes([k0, k1])), Protocol(u16::from_be_bytes([p0, p1])));
    Ok(Frame { kind, protocol, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_topic_and_its_number() {
        let kind = Kind::new(3, 250);
        assert_eq!((kind.topic(), kind.number(), kind.0), (3, 250, 0x03fa));
    }
}
