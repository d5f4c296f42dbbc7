//! Frames of the mirror as bytes (layout of the header: [`crate::mirror`]).
//!
//! A datagram in the body of a media frame:
//!
//! | bytes | field | |
//! | --- | --- | --- |
//! | 2 | stream | index |
//! | 1 | flags | 1 RTCP port, 2 source follows, 4 it is an IPv6 address |
//! | 4 | age | i32 µs by which it arrived before the frame's `at` |
//! | 2 | length | of the datagram |
//! | 6 or 18 | source | port, address; without it the source is that of the datagram before |
//! | length | datagram | as it came |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use uuid::Uuid;

use crate::rtp::StreamIndex;

/// The layout described here.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER: usize = 38;
/// Bytes of a datagram's fields, at most.
const ENTRY: usize = 9 + 18;

const RTCP: u8 = 1;
const SOURCE: u8 = 2;
const V6: u8 = 4;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends inside a field.
    #[error("a cut mirror frame")]
    Short,
    /// Of a version that is not known here.
    #[error("mirror frame of version {0}")]
    Version(u8),
    /// Of a kind that is not known here.
    #[error("mirror frame of kind {0}")]
    Kind(u8),
    /// Its first datagram names no source.
    #[error("a mirrored datagram without source")]
    NoSource,
}

/// Which of a stream's two ports a datagram came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The even one.
    Rtp,
    /// The odd one.
    Rtcp,
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams of a visit, with more to come.
    Media,
    /// The last datagrams of a visit: the recorder was advanced after them.
    VisitEnds,
    /// A control.
    Control,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Media => 1,
            Kind::VisitEnds => 2,
            Kind::Control => 3,
        }
    }

    fn from_code(code: u8) -> Result<Kind, FrameError> {
        match code {
            1 => Ok(Kind::Media),
            2 => Ok(Kind::VisitEnds),
            3 => Ok(Kind::Control),
            other => Err(FrameError::Kind(other)),
        }
    }
}

/// What precedes the body of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// The copy's file id.
    pub copy: Uuid,
    /// Counts all frames of the copy from 0.
    pub number: u32,
    /// Control frames before this one.
    pub controls: u32,
    /// Journal time in µs.
    pub at_us: i64,
    /// µs between the visit before and `at_us`.
    pub before_us: u32,
}

impl Header {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, self.kind.code()]);
        out.extend_from_slice(self.copy.as_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.controls.to_be_bytes());
        out.extend_from_slice(&self.at_us.to_be_bytes());
        out.extend_from_slice(&self.before_us.to_be_bytes());
    }

    /// The frame turned out to be the last of its visit.
    pub fn set_visit_ends(frame: &mut [u8]) {
        if let Some(kind) = frame.get_mut(1) {
            *kind = Kind::VisitEnds.code();
        }
    }

    /// Reads it, and gives the body.
    ///
    /// # Errors
    /// [`FrameError`]: cut, or of a later version.
    pub fn parse(frame: &Bytes) -> Result<(Header, Bytes), FrameError> {
        let mut reader = Reader(frame);
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let [kind] = reader.array()?;
        let header = Header {
            kind: Kind::from_code(kind)?,
            copy: Uuid::from_bytes(reader.array()?),
            number: u32::from_be_bytes(reader.array()?),
            controls: u32::from_be_bytes(reader.array()?),
            at_us: i64::from_be_bytes(reader.array()?),
            before_us: u32::from_be_bytes(reader.array()?),
        };
        Ok((header, frame.slice(HEADER..)))
    }
}

/// Which copy a frame is for; all that its way needs to know.
pub fn copy_of(frame: &[u8]) -> Option<Uuid> {
    let version = *frame.first()?;
    let id: [u8; 16] = frame.get(2..18)?.try_into().ok()?;
    (version == VERSION && frame.len() >= HEADER).then(|| Uuid::from_bytes(id))
}

/// A datagram that came to the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Of this stream.
    pub stream: StreamIndex,
    /// At this port of it.
    pub port: Port,
    /// When, journal time in µs.
    pub arrival_us: i64,
    /// Where from.
    pub source: SocketAddr,
    /// As it came.
    pub bytes: Bytes,
}

/// The room that a datagram takes in a body, at most.
pub fn room(length: usize) -> usize {
    ENTRY + length
}

/// Appends a datagram; `last` is the source of the one before in the same frame.
pub fn write_datagram(
    out: &mut Vec<u8>,
    at_us: i64,
    last: Option<SocketAddr>,
    (stream, port, arrival_us): (StreamIndex, Port, i64),
    source: SocketAddr,
    bytes: &[u8],
) {
    let Ok(length) = u16::try_from(bytes.len()) else { return };
    let told = last == Some(source);
    let v6 = source.is_ipv6();
    let flags = if port == Port::Rtcp { RTCP } else { 0 } | if told { 0 } else { SOURCE } | if v6 { V6 } else { 0 };
    let age = i32::try_from((at_us - arrival_us).clamp(i32::MIN.into(), i32::MAX.into())).unwrap_or(0);
    out.extend_from_slice(&stream.0.to_be_bytes());
    out.push(flags);
    out.extend_from_slice(&age.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    if !told {
        out.extend_from_slice(&source.port().to_be_bytes());
        match source.ip() {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend_from_slice(bytes);
}

/// The datagrams of a body.
///
/// # Errors
/// The body is cut or names no source.
pub fn datagrams(header: &Header, body: &Bytes) -> Result<Vec<Datagram>, FrameError> {
    let mut reader = Reader(body);
    let mut source = None;
    let mut all = Vec::new();
    while !reader.0.is_empty() {
        let stream = StreamIndex(u16::from_be_bytes(reader.array()?));
        let [flags] = reader.array()?;
        let age = i64::from(i32::from_be_bytes(reader.array()?));
        let length = usize::from(u16::from_be_bytes(reader.array()?));
        if flags & SOURCE != 0 {
            let port = u16::from_be_bytes(reader.array()?);
            let ip = if flags & V6 != 0 {
                IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?))
            } else {
                IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?))
            };
            source = Some(SocketAddr::new(ip, port));
        }
        let bytes = reader.take(length)?;
        all.push(Datagram {
            stream,
            port: if flags & RTCP != 0 { Port::Rtcp } else { Port::Rtp },
            arrival_us: header.at_us.saturating_sub(age),
            source: source.ok_or(FrameError::NoSource)?,
            bytes: body.slice_ref(bytes),
        });
    }
    Ok(all)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            kind: Kind::VisitEnds,
            copy: Uuid::from_u128(7),
            number: 9,
            controls: 2,
            at_us: 1_000_000,
            before_us: 100_000,
        }
    }

    #[test]
    fn a_frame_says_again_what_came_when_and_from_where() {
        let v4: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:5000".parse().unwrap();
        let came = [
            (StreamIndex(0), Port::Rtp, 950_000, v4, &b"first"[..]),
            (StreamIndex(0), Port::Rtp, 970_000, v4, b"second"),
            (StreamIndex(1), Port::Rtcp, 1_000_004, v6, b""),
            (StreamIndex(1), Port::Rtp, -20_000, v4, b"before the beginning"),
        ];
        let mut frame = Vec::new();
        header().write(&mut frame);
        assert_eq!(frame.len(), HEADER);
        let mut last = None;
        for (stream, port, at, source, bytes) in came {
            let before = frame.len();
            write_datagram(&mut frame, 1_000_000, last, (stream, port, at), source, bytes);
            assert!(frame.len() - before <= room(bytes.len()));
            last = Some(source);
        }
        let frame = Bytes::from(frame);
        assert_eq!(copy_of(&frame), Some(Uuid::from_u128(7)));
        let (read, body) = Header::parse(&frame).unwrap();
        assert_eq!(read, header());
        let read = datagrams(&read, &body).unwrap();
        let told: Vec<_> =
            read.iter().map(|one| (one.stream, one.port, one.arrival_us, one.source, &one.bytes[..])).collect();
        assert_eq!(told, came);
    }

    #[test]
    fn a_later_version_and_a_foreign_kind_are_named() {
        let mut frame = Vec::new();
        header().write(&mut frame);
        frame[1] = 9;
        assert_eq!(Header::parse(&Bytes::from(frame.clone())), Err(FrameError::Kind(9)));
        frame[0] = 2;
        assert_eq!(copy_of(&frame), None);
        assert_eq!(Header::parse(&Bytes::from(frame)), Err(FrameError::Version(2)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), forge in any::<bool>()) {
            let mut frame = Vec::new();
            if forge {
                header().write(&mut frame);
            }
            frame.extend(bytes);
            let _ = copy_of(&frame);
            if let Ok((header, body)) = Header::parse(&Bytes::from(frame)) {
                let _ = datagrams(&header, &body);
            }
        }
    }
}
