//! Who may send, and whose calls they are (`[[sip.trust]]`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// A range of addresses in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is no network: write an address with a prefix length, as in 10.1.0.0/16 or 2001:db8::/32")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.trim().parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(wrong)?,
            None => longest,
        };
        Ok(Network { address, prefix })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    /// True if `address` lies in it; an IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                let cut = |a: Ipv4Addr| u64::from(a.to_bits()) >> shift;
                cut(network) == cut(address)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                let cut = |a: Ipv6Addr| a.to_bits().checked_shr(shift).unwrap_or(0);
                cut(network) == cut(address)
            }
            _ => false,
        }
    }
}

/// Networks and tenants, the longest prefix first.
#[derive(Debug, Clone, Default)]
pub struct TrustTable {
    entries: Vec<(Network, String)>,
}

impl TrustTable {
    /// From networks with their tenants.
    pub fn new(mut entries: Vec<(Network, String)>) -> TrustTable {
        entries.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix));
        TrustTable { entries }
    }

    /// Loopback and the private ranges, all for one tenant.
    pub fn private(tenant: &str) -> TrustTable {
        let ranges =
            ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7", "fe80::/10"];
        TrustTable::new(ranges.iter().filter_map(|range| Some((range.parse().ok()?, tenant.to_owned()))).collect())
    }

    /// The tenant whose SBC has this address.
    pub fn tenant_of(&self, address: IpAddr) -> Option<&str> {
        self.entries.iter().find(|(network, _)| network.contains(address)).map(|(_, tenant)| tenant.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn the_narrowest_network_decides() {
        let table = TrustTable::new(vec![
            ("10.0.0.0/8".parse().unwrap(), "all".into()),
            ("10.1.0.0/16".parse().unwrap(), "acme".into()),
            ("2001:db8::/32".parse().unwrap(), "six".into()),
        ]);
        assert_eq!(table.tenant_of("10.1.2.3".parse().unwrap()), Some("acme"));
        assert_eq!(table.tenant_of("::ffff:10.2.2.3".parse().unwrap()), Some("all"));
        assert_eq!(table.tenant_of("2001:db8:1::5".parse().unwrap()), Some("six"));
        assert_eq!(table.tenant_of("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn loopback_and_private_ranges_are_trusted_by_default() {
        let table = TrustTable::private("default");
        assert_eq!(table.tenant_of("127.0.0.1".parse().unwrap()), Some("default"));
        assert_eq!(table.tenant_of("172.31.0.1".parse().unwrap()), Some("default"));
        assert_eq!(table.tenant_of("8.8.8.8".parse().unwrap()), None);
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "10.0.0.0/33", "example.com", "10.0.0.0/x"] {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains("10.1.0.0/16"), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("2001::1".parse().unwrap()));
    }
}
