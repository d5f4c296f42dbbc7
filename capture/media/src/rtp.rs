//! RTP packets: RFC 3550 5.1 on the wire, RFC 5761 to tell RTCP apart.
//!
//! ```text
//!  0                   1                   2                   3
//! |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//! |                           timestamp                           |
//! |                             SSRC                              |
//! |               CSRC, 4 bytes each, CC of them                  |
//! |   X: profile (2)   |   length in words (2)   |  words ...     |
//! |  payload ...            P: padding, its last byte the count   |
//! ```
//!
//! Parsing borrows and never copies; every length is checked against what came.

use std::fmt;

use thiserror::Error;

/// The version of RFC 3550.
const VERSION: u8 = 2;
/// Bytes of the fixed header.
pub const FIXED_HEADER: usize = 12;

/// A synchronisation source identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ssrc(pub u32);

impl fmt::Display for Ssrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A media stream of a recording: the position of its m-line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamIndex(pub u16);

/// Why a datagram is no RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RtpError {
    /// It ends inside its header.
    #[error("cut RTP header")]
    Short,
    /// Its version is not 2.
    #[error("not RTP version 2")]
    Version,
    /// The padding is longer than what there is, or of length 0.
    #[error("bad RTP padding")]
    Padding,
}

/// A parsed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpPacket<'a> {
    /// First packet after a pause, for audio.
    pub marker: bool,
    /// 0 to 127.
    pub payload_type: u8,
    /// Grows by one a packet.
    pub sequence: u16,
    /// Ticks of the payload's clock.
    pub timestamp: u32,
    /// Whose packet it is.
    pub ssrc: Ssrc,
    /// Without padding.
    pub payload: &'a [u8],
}

impl<'a> RtpPacket<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`RtpError`]; such a datagram is counted and dropped.
    pub fn parse(bytes: &'a [u8]) -> Result<RtpPacket<'a>, RtpError> {
        let (&header, rest) = bytes.split_first_chunk::<FIXED_HEADER>().ok_or(RtpError::Short)?;
        let [first, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] = header;
        if first >> 6 != VERSION {
            return Err(RtpError::Version);
        }
        let contributors = usize::from(first & 0x0f) * 4;
        let mut payload = rest.get(contributors..).ok_or(RtpError::Short)?;
        if first & 0x10 != 0 {
            let (&[_, _, high, low], after) = payload.split_first_chunk::<4>().ok_or(RtpError::Short)?;
            let length = usize::from(u16::from_be_bytes([high, low])) * 4;
            payload = after.get(length..).ok_or(RtpError::Short)?;
        }
        if first & 0x20 != 0 {
            let count = usize::from(*payload.last().ok_or(RtpError::Padding)?);
            let kept = payload.len().checked_sub(count).filter(|_| count > 0).ok_or(RtpError::Padding)?;
            payload = payload.get(..kept).ok_or(RtpError::Padding)?;
        }
        Ok(RtpPacket {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: Ssrc(u32::from_be_bytes([i0, i1, i2, i3])),
            payload,
        })
    }

    /// Appends the packet in wire form, without extension or padding.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(VERSION << 6);
        out.push(u8::from(self.marker) << 7 | self.payload_type & 0x7f);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.ssrc.0.to_be_bytes());
        out.extend_from_slice(self.payload);
    }
}

/// True when a datagram on a shared port is RTCP: packet types 192 to 223 (RFC 5761 4).
pub fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [first, 192..=223, ..] if first >> 6 == VERSION)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let packet = RtpPacket {
            marker: true,
            payload_type: 8,
            sequence: 65_535,
            timestamp: 0xfedc_ba98,
            ssrc: Ssrc(7),
            payload,
        };
        packet.write(&mut out);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = packet(&[1, 2, 3]);
        let read = RtpPacket::parse(&bytes).unwrap();
        assert!(read.marker);
        assert_eq!((read.payload_type, read.sequence, read.timestamp, read.ssrc), (8, 65_535, 0xfedc_ba98, Ssrc(7)));
        assert_eq!(read.payload, [1, 2, 3]);
        assert!(!is_rtcp(&bytes));
    }

    #[test]
    fn contributors_extension_and_padding_are_no_payload() {
        let mut bytes = packet(&[]);
        bytes[0] = 0x80 | 0x20 | 0x10 | 2;
        bytes.extend([9; 8]);
        bytes.extend([0xbe, 0xde, 0, 1, 5, 5, 5, 5]);
        bytes.extend([1, 2, 3, 0, 0, 3]);
        assert_eq!(RtpPacket::parse(&bytes).unwrap().payload, [1, 2, 3]);
    }

    #[test]
    fn lengths_beyond_the_datagram_are_refused() {
        for (first, tail, error) in [
            (0x8f, &[0_u8; 59][..], RtpError::Short),
            (0x90, &[0, 0, 0, 2, 1, 2, 3, 4][..], RtpError::Short),
            (0x90, &[0, 0, 0][..], RtpError::Short),
            (0xa0, &[1, 2, 4][..], RtpError::Padding),
            (0xa0, &[1, 2, 0][..], RtpError::Padding),
            (0xa0, &[][..], RtpError::Padding),
            (0x40, &[1][..], RtpError::Version),
        ] {
            let mut bytes = packet(tail);
            bytes[0] = first;
            assert_eq!(RtpPacket::parse(&bytes), Err(error), "{first:x} {tail:?}");
        }
        assert_eq!(RtpPacket::parse(&packet(&[])[..11]), Err(RtpError::Short));
    }

    #[test]
    fn rtcp_on_a_shared_port_is_told_apart() {
        assert!(is_rtcp(&[0x80, 200, 0, 6]));
        assert!(!is_rtcp(&[0x80, 0x80 | 96, 0, 6]));
        assert!(!is_rtcp(&[]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = RtpPacket::parse(&bytes) {
                prop_assert!(packet.payload.len() + FIXED_HEADER <= bytes.len());
            }
        }
    }
}
