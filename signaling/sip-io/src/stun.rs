//! STUN Binding for UDP keep-alives (RFC 5626 4.4.2, RFC 8489): a phone behind NAT
//! asks for its address as seen from here, and learns when the NAT gave it another one.
//!
//! ```text
//! request:  type 0x0001 | length | magic cookie | transaction id (12)  | attributes, not read
//! response: type 0x0101 | length | magic cookie | transaction id (12)
//!           attribute 0x0020 | length | 0 | family | port ^ cookie | address ^ (cookie + id)
//! ```

use std::net::{IpAddr, SocketAddr};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// True for what is STUN on a SIP port: no SIP message begins with these bits.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xc0 == 0) && datagram.get(4..8) == Some(&COOKIE[..])
}

/// The answer to a Binding request; `None` for everything else.
pub(crate) fn answer(datagram: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let (kind, length) = (datagram.get(..2)?, datagram.get(2..4)?);
    let (masked, rest) = datagram.get(4..)?.split_at_checked(16)?;
    let declared = usize::from(u16::from_be_bytes(length.try_into().ok()?));
    if kind != [0, 1] || declared != rest.len() || !masked.starts_with(&COOKIE) {
        return None;
    }
    let octets = match source.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let size = u8::try_from(octets.len()).ok()?;
    let mut answer = vec![1, 1, 0, size + 8];
    answer.extend_from_slice(masked);
    answer.extend_from_slice(&[0, 0x20, 0, size + 4, 0, if size == 4 { 1 } else { 2 }]);
    answer.extend(
        source.port().to_be_bytes().iter().chain(&octets).zip(COOKIE.iter().take(2).chain(masked)).map(|(a, b)| a ^ b),
    );
    Some(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const REQUEST: [u8; 20] =
        [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    /// The mapped addresses of RFC 5769 2.2 and 2.3 in their form on the wire.
    #[test]
    fn the_examples_of_rfc_5769_are_met() {
        let v4 = answer(&REQUEST, "192.0.2.1:32853".parse().unwrap()).unwrap();
        assert_eq!(v4.len(), 32);
        assert_eq!(v4.get(..4).unwrap(), [1, 1, 0, 12]);
        assert_eq!(v4.get(4..20).unwrap(), &REQUEST[4..]);
        assert_eq!(v4.get(20..).unwrap(), [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let v6 = answer(&REQUEST, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap()).unwrap();
        let address = [1, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9];
        assert_eq!(v6.get(20..28).unwrap(), [0, 0x20, 0, 20, 0, 2, 0xa1, 0x47]);
        assert_eq!(v6.get(28..).unwrap(), address);
    }

    #[test]
    fn what_is_no_binding_request_gets_nothing() {
        let source = "192.0.2.1:1".parse().unwrap();
        assert!(is_stun(&REQUEST) && !is_stun(b"OPTIONS sip:a SIP/2.0\r\n") && !is_stun(b"\r\n\r\n"));
        for (at, value) in [(0, 1), (1, 2), (3, 4), (4, 0)] {
            let mut changed = REQUEST;
            *changed.get_mut(at).unwrap() = value;
            assert_eq!(answer(&changed, source), None, "byte {at}");
        }
        for length in 0..20 {
            assert_eq!(answer(REQUEST.get(..length).unwrap(), source), None);
        }
    }
}
