//! Record-Routes that remember a flow (RFC 5626 5.3, RFC 5658): the way back to a phone whose contact leads nowhere.
//!
//! A phone behind a NAT gives an address of its own network as contact. It is called along the flow that it registered
//! over, and whatever follows in the dialog must take that flow, too: it stands in the user part of the Record-Route that
//! points to the phone's side.
//!
//! ```text
//! f  tt  pppp  nnnnnnnnnnnnnnnn  aaaaaaaa or 32 digits  cccccccccccccccc
//!    |   port  connection        address                keyed check of all before
//!    transport
//! ```
//!
//! A hop (`h` in place of `f`) is the same for a Route to this node that another node of the cluster puts before a request to
//! a phone that registered here: a request that begins something may take that one only. What is seen by phones, the `f`,
//! begins nothing.
//!
//! The check keeps others from naming flows. That of a connection ends with this process, as the connection does; then the
//! contact is all there is. That of a datagram flow lasts as long as the proxy's secret.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ferric_sip::flow::{Flow, Transport};
use ferric_sip::uri::Uri;

use crate::branch::Branches;

const CHECK: usize = 16;
const FIXED: usize = 2 + 4 + 16;

/// The user part that stands for a flow within a dialog.
pub(crate) fn seal(branches: &Branches, flow: &Flow) -> String {
    format!("f{}", sealed(branches, flow, ""))
}

/// The user part that stands for the flow of a phone, for other nodes.
pub(crate) fn seal_hop(branches: &Branches, flow: &Flow) -> String {
    format!("h{}", sealed(branches, flow, HOP))
}

/// Makes the check of a hop another one.
const HOP: &str = " hop";

fn sealed(branches: &Branches, flow: &Flow, purpose: &str) -> String {
    let transport = match flow.transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
    };
    let address = match flow.remote.ip() {
        IpAddr::V4(v4) => format!("{:08x}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:032x}", v6.to_bits()),
    };
    let text = format!("{transport:02x}{:04x}{:016x}{address}", flow.remote.port(), flow.connection);
    let check = check(branches, &text, purpose);
    format!("{text}{check:016x}")
}

/// Connections are numbered anew by each process.
fn check(branches: &Branches, text: &str, purpose: &str) -> u64 {
    let life = if text.starts_with("00") { String::new() } else { format!(" {:x}", branches.life()) };
    branches.keyed(&[text, &life, purpose].concat())
}

/// The flow that a user part stands for within a dialog, without its local end.
pub(crate) fn open(branches: &Branches, user: &str) -> Option<(Transport, SocketAddr, u64)> {
    opened(branches, user.strip_prefix('f')?, "")
}

/// The flow of a phone that a hop stands for.
pub(crate) fn open_hop(branches: &Branches, user: &str) -> Option<(Transport, SocketAddr, u64)> {
    opened(branches, user.strip_prefix('h')?, HOP)
}

/// A user part that looks like a hop, whoever made it.
pub(crate) fn is_hop(user: &str) -> bool {
    let digits = user.strip_prefix('h').filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    digits.is_some_and(|text| [FIXED + 8 + CHECK, FIXED + 32 + CHECK].contains(&text.len()))
}

fn opened(branches: &Branches, text: &str, purpose: &str) -> Option<(Transport, SocketAddr, u64)> {
    let (text, check) = text.split_at_checked(text.len().checked_sub(CHECK)?)?;
    if u64::from_str_radix(check, 16).ok()? != self::check(branches, text, purpose) {
        return None;
    }
    let transport = match text.get(..2)? {
        "00" => Transport::Udp,
        "01" => Transport::Tcp,
        "02" => Transport::Tls,
        _ => return None,
    };
    let port = u16::from_str_radix(text.get(2..6)?, 16).ok()?;
    let connection = u64::from_str_radix(text.get(6..FIXED)?, 16).ok()?;
    let address = text.get(FIXED..)?;
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from_bits(u32::from_str_radix(address, 16).ok()?).into(),
        32 => Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?).into(),
        _ => return None,
    };
    Some((transport, SocketAddr::new(ip, port), connection))
}

/// A contact gives another address than the one that its flow comes from.
pub(crate) fn is_hidden(contact: &str, flow: &Flow) -> bool {
    let Ok(uri) = Uri::parse(contact) else { return false };
    match uri.address() {
        Some(ip) => ip.to_canonical() != flow.remote.ip().to_canonical(),
        None => uri.host.trim_end_matches('.').to_ascii_lowercase().ends_with(".invalid"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn flow(transport: Transport, remote: &str) -> Flow {
        Flow { transport, local: "10.0.0.5:5060".parse().unwrap(), remote: remote.parse().unwrap(), connection: 77 }
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_secret_only() {
        let (ours, others) = (Branches::new(1, 0), Branches::new(2, 0));
        for (transport, remote) in [
            (Transport::Udp, "192.0.2.9:40000"),
            (Transport::Tcp, "[2001:db8::9]:1"),
            (Transport::Tls, "192.0.2.9:65535"),
        ] {
            let token = seal(&ours, &flow(transport, remote));
            assert!(token.bytes().all(|b| b.is_ascii_alphanumeric()));
            assert_eq!(open(&ours, &token), Some((transport, remote.parse().unwrap(), 77)));
            assert_eq!(open(&others, &token), None);
            let hop = seal_hop(&ours, &flow(transport, remote));
            assert_eq!(open_hop(&ours, &hop), Some((transport, remote.parse().unwrap(), 77)));
            assert!(
                is_hop(&hop) && !is_hop(&token) && open(&ours, &hop).is_none() && open_hop(&others, &hop).is_none()
            );
            assert_eq!(open_hop(&ours, &token.replacen('f', "h", 1)), None, "what phones see begins nothing");
            for at in 0..token.len() {
                let other = if &token[at..=at] == "0" { "1" } else { "0" };
                assert_eq!(open(&ours, &format!("{}{other}{}", &token[..at], &token[at + 1..])), None, "{at}");
            }
        }
        for nonsense in ["", "f", "alice", "f0123456789abcdef", "fé0123456789abcdef0123456789abcdef"] {
            assert_eq!(open(&ours, nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn hidden_is_who_gives_another_address_than_his_own() {
        let flow = flow(Transport::Tcp, "192.0.2.9:40000");
        for (contact, hidden) in [
            ("sip:a@192.0.2.9:5060", false),
            ("sip:a@[::ffff:192.0.2.9]", false),
            ("sip:a@10.1.1.1:5060;transport=tcp", true),
            ("sip:a@xyz.invalid", true),
            ("sip:a@pbx.example.com", false),
        ] {
            assert_eq!(is_hidden(contact, &flow), hidden, "{contact}");
        }
    }
}
