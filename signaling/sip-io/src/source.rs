//! Who counts as one source of messages and connections.

use std::net::{IpAddr, Ipv6Addr};

/// The part of an IPv6 address that names a network: whoever has one has all addresses in it (RFC 4291 2.5.4).
const NETWORK: u128 = u128::MAX << 64;

/// What stands for the source at an address: the address itself, of IPv6 its network of 64 bits.
pub(crate) fn of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_source_and_so_is_an_address_of_ipv4_in_either_form() {
        for (address, source) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(of(address.parse().unwrap()), source.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
