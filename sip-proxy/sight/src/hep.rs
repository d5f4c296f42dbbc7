//! HEP3, the encapsulation that SIP capture servers take (Homer, "EEP" in its specification), sans-IO.
//!
//! ```text
//! packet: "HEP3" | length of all, u16 | chunk | chunk | ...
//! chunk:  vendor u16 = 0 | type u16 | length u16, these six bytes included | value
//!
//!  1 family u8 (2 IPv4, 10 IPv6)     9 seconds since 1970, u32      14 password
//!  2 protocol u8 (17 UDP, 6 TCP)    10 microseconds, u32            15 the message
//!  3, 4 source, destination IPv4    11 kind u8, 1 = SIP             17 correlation id
//!  5, 6 the same in IPv6            12 id of the capturing node, u32
//!  7, 8 source, destination port u16
//! ```
//!
//! Numbers are big-endian. The message is the last chunk: where a packet would be longer than a datagram can be,
//! its end is cut, and the header, which is what collectors read, is there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ferric_sip::Transport;

/// Largest packet, in bytes: the payload of a UDP datagram over IPv4.
pub const MAX_PACKET: usize = 65_507;
/// Longest password and longest correlation id, in bytes.
pub const MAX_TEXT: usize = 1_024;

const HEADER: usize = 6;

/// One captured message.
#[derive(Debug, Clone, Copy)]
pub struct Capture<'a> {
    /// When, since 1970.
    pub at_unix: Duration,
    /// How it travelled; TLS counts as TCP.
    pub transport: Transport,
    /// Who sent it.
    pub source: SocketAddr,
    /// Who got it.
    pub destination: SocketAddr,
    /// The message.
    pub payload: &'a [u8],
    /// Number of the capturing node.
    pub node_id: u32,
    /// What the collector wants to see. Left out when longer than [`MAX_TEXT`].
    pub password: Option<&'a str>,
    /// By what messages of other dialogs or protocols belong to this one. Left out when longer than [`MAX_TEXT`].
    pub correlation: Option<&'a str>,
}

/// Writes the packet for one message into `out`, in place of what was there. Returns how many bytes of the message
/// had to be left out, nearly always 0.
pub fn encode(capture: &Capture<'_>, out: &mut Vec<u8>) -> usize {
    out.clear();
    out.extend_from_slice(b"HEP3\0\0");
    let (source, destination) = (capture.source, capture.destination);
    let protocol = match capture.transport {
        Transport::Udp => 17,
        Transport::Tcp | Transport::Tls => 6,
    };
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            chunk(out, 1, &[2]);
            chunk(out, 2, &[protocol]);
            chunk(out, 3, &from.octets());
            chunk(out, 4, &to.octets());
        }
        (from, to) => {
            chunk(out, 1, &[10]);
            chunk(out, 2, &[protocol]);
            chunk(out, 5, &as_v6(from));
            chunk(out, 6, &as_v6(to));
        }
    }
    chunk(out, 7, &source.port().to_be_bytes());
    chunk(out, 8, &destination.port().to_be_bytes());
    // The field ends in 2106.
    let seconds = u32::try_from(capture.at_unix.as_secs()).unwrap_or(u32::MAX);
    chunk(out, 9, &seconds.to_be_bytes());
    chunk(out, 10, &capture.at_unix.subsec_micros().to_be_bytes());
    chunk(out, 11, &[1]);
    chunk(out, 12, &capture.node_id.to_be_bytes());
    if let Some(password) = fitting(capture.password) {
        chunk(out, 14, password);
    }
    if let Some(correlation) = fitting(capture.correlation) {
        chunk(out, 17, correlation);
    }
    let room = MAX_PACKET.saturating_sub(out.len() + HEADER);
    let payload = capture.payload.get(..room).unwrap_or(capture.payload);
    chunk(out, 15, payload);
    let length = u16::try_from(out.len()).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(4..6) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    capture.payload.len() - payload.len()
}

/// Values are shorter than a packet, so that the length always fits.
fn chunk(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

fn fitting(text: Option<&str>) -> Option<&[u8]> {
    text.map(str::as_bytes).filter(|text| !text.is_empty() && text.len() <= MAX_TEXT)
}

fn as_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A reader that knows the layout and nothing of the encoder.
    fn decode(packet: &[u8]) -> BTreeMap<u16, Vec<u8>> {
        let u16_at = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        assert_eq!(&packet[..4], b"HEP3");
        assert_eq!(usize::from(u16_at(4)), packet.len());
        let mut chunks = BTreeMap::new();
        let mut at = 6;
        while at < packet.len() {
            assert_eq!(u16_at(at), 0, "vendor");
            let length = usize::from(u16_at(at + 4));
            assert!(chunks.insert(u16_at(at + 2), packet[at + 6..at + length].to_vec()).is_none());
            at += length;
        }
        assert_eq!(at, packet.len());
        chunks
    }

    fn capture(payload: &[u8]) -> Capture<'_> {
        Capture {
            at_unix: Duration::new(1_700_000_000, 123_456_789),
            transport: Transport::Udp,
            source: "192.0.2.1:5060".parse().unwrap(),
            destination: "198.51.100.7:5080".parse().unwrap(),
            payload,
            node_id: 2_001,
            password: Some("myHep"),
            correlation: Some("a@b"),
        }
    }

    #[test]
    fn every_chunk_is_where_the_specification_wants_it() {
        let mut out = b"old".to_vec();
        assert_eq!(encode(&capture(b"OPTIONS"), &mut out), 0);
        let chunks = decode(&out);
        let expected: [(u16, &[u8]); 13] = [
            (1, &[2]),
            (2, &[17]),
            (3, &[192, 0, 2, 1]),
            (4, &[198, 51, 100, 7]),
            (7, &[0x13, 0xc4]),
            (8, &[0x13, 0xd8]),
            (9, &1_700_000_000_u32.to_be_bytes()),
            (10, &123_456_u32.to_be_bytes()),
            (11, &[1]),
            (12, &[0, 0, 7, 0xd1]),
            (14, b"myHep"),
            (15, b"OPTIONS"),
            (17, b"a@b"),
        ];
        assert_eq!(chunks, expected.into_iter().map(|(kind, value)| (kind, value.to_vec())).collect());
    }

    #[test]
    fn ipv6_has_its_own_chunks_and_mapped_addresses_are_ipv4() {
        let mut out = Vec::new();
        let v6 = Capture {
            source: "[2001:db8::1]:5061".parse().unwrap(),
            transport: Transport::Tls,
            password: None,
            ..capture(b"x")
        };
        encode(&v6, &mut out);
        let chunks = decode(&out);
        assert_eq!((&chunks[&1][..], &chunks[&2][..], chunks.contains_key(&14)), (&[10][..], &[6][..], false));
        assert_eq!(chunks[&5][..4], [0x20, 1, 0x0d, 0xb8]);
        assert_eq!(chunks[&6][10..], [0xff, 0xff, 198, 51, 100, 7]);
        encode(&Capture { source: "[::ffff:192.0.2.9]:1".parse().unwrap(), ..capture(b"x") }, &mut out);
        assert_eq!(decode(&out)[&3], [192, 0, 2, 9]);
    }

    proptest! {
        #[test]
        fn no_packet_is_longer_than_a_datagram(length in prop_oneof![0usize..70_000, 65_000usize..66_000], text in 0usize..2_000) {
            let (payload, text) = (vec![b'x'; length], "p".repeat(text));
            let mut out = Vec::new();
            let cut = encode(&Capture { password: Some(&text), correlation: Some(&text), ..capture(&payload) }, &mut out);
            prop_assert!(out.len() <= MAX_PACKET);
            prop_assert_eq!(decode(&out)[&15].len() + cut, length);
            prop_assert!(cut == 0 || out.len() == MAX_PACKET);
        }
    }
}
