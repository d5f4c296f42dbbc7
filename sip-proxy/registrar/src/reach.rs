//! How a contact is reached: where its URI points, or back along the flow it registered over.
//!
//! | REGISTER | contact | requests go |
//! | --- | --- | --- |
//! | through a proxy (more than one Via) | any | along Path, else where the URI points |
//! | TCP, TLS | the sender's own | along the connection |
//! | TCP, TLS | the sender's own, in reach, with `transport=udp` | where the URI points |
//! | UDP | the sender's own, and the source differs from it | to the source (a NAT stands between) |
//! | any | somebody else's | where the URI points |
//!
//! A contact is the sender's own when its host is the one in Via or the source, when it is private and the source is
//! not, or when the name ends in `.invalid`. "Differs" is another address; another port counts when the sender says, by
//! Via and rport, that it sends from the port in its contact.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferric_sip::flow::{Flow, Transport};
use ferric_sip::header::Via;
use ferric_sip::uri::Uri;

/// The way to a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Instead of where the URI points.
    pub(crate) flow: Option<Flow>,
    /// The URI would do without the flow.
    pub(crate) reachable: bool,
}

/// The way to a contact that was registered directly, without a proxy between.
pub(crate) fn direct(contact: &Uri, via: &Via, flow: &Flow, is_outbound: bool) -> Reach {
    let by_uri = Reach { flow: None, reachable: true };
    let source = flow.remote.ip().to_canonical();
    let address = contact.address().map(|address| address.to_canonical());
    let is_nowhere = contact.host.trim_end_matches('.').to_ascii_lowercase().ends_with(".invalid");
    let as_in_via = contact.host.eq_ignore_ascii_case(&via.host) || address.is_some() && address == via.address();
    let hidden = address.is_some_and(is_private) && !is_private(source);
    let is_own = is_outbound || is_nowhere || as_in_via || address == Some(source) || hidden;
    if !is_own {
        return by_uri;
    }
    let transport = contact.params.get("transport");
    let secure = contact.scheme == "sips" || transport.is_some_and(|name| name.eq_ignore_ascii_case("tls"));
    let port = contact.port.unwrap_or(if secure { 5_061 } else { 5_060 });
    let elsewhere = is_nowhere || address.is_some_and(|address| address != source);
    if flow.transport.is_reliable() {
        // A connection's own port is no listener, unless it is the port of one.
        let reachable = !elsewhere && (port != flow.remote.port() || matches!(port, 5_060 | 5_061));
        let wants_udp = transport.is_some_and(|name| name.eq_ignore_ascii_case("udp"));
        let along = !(reachable && wants_udp && !is_outbound);
        return Reach { flow: along.then_some(*flow), reachable };
    }
    let sends_from = via.params.has("rport") && via.port.unwrap_or(5_060) == port;
    let translated = elsewhere || (address.is_some() && port != flow.remote.port() && sends_from);
    let flow = Flow { transport: Transport::Udp, connection: 0, ..*flow };
    if translated { Reach { flow: Some(flow), reachable: false } } else { by_uri }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_shared = v4.to_bits() & 0xffc0_0000 == Ipv4Addr::new(100, 64, 0, 0).to_bits();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || is_shared
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || Ipv6Addr::is_unicast_link_local(&v6)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn way(contact: &str, via: &str, transport: Transport, remote: &str) -> (bool, bool) {
        let connection = u64::from(transport.is_reliable());
        let flow =
            Flow { transport, local: "10.0.0.5:5060".parse().unwrap(), remote: remote.parse().unwrap(), connection };
        let reach = direct(&Uri::parse(contact).unwrap(), &Via::parse(via).unwrap(), &flow, false);
        assert!(reach.flow.is_none_or(|used| used == flow));
        (reach.flow.is_some(), reach.reachable)
    }

    #[test]
    fn over_udp_the_source_is_used_when_something_translates() {
        let udp = |contact, via, remote| way(contact, via, Transport::Udp, remote);
        let home = "SIP/2.0/UDP 192.168.1.7:5060;branch=z9hG4bK1;rport";
        assert_eq!(udp("sip:a@192.168.1.7:5060", home, "192.168.1.7:5060"), (false, true));
        assert_eq!(udp("sip:a@192.168.1.7", home, "192.168.1.7:5060"), (false, true));
        assert_eq!(udp("sip:a@192.168.1.7:5060", home, "203.0.113.9:40001"), (true, false));
        assert_eq!(udp("sip:a@192.168.1.7:5060", home, "10.0.0.1:40001"), (true, false));
        assert_eq!(udp("sip:a@192.168.1.7:5060", home, "192.168.1.7:40001"), (true, false));
        // No rport: it may listen on the one port and send from the other.
        assert_eq!(
            udp("sip:a@192.168.1.7:5060", "SIP/2.0/UDP 192.168.1.7:5060;branch=z9hG4bK1", "192.168.1.7:40001"),
            (false, true)
        );
        // It knows its outside address; its own port is no business of the source's.
        assert_eq!(udp("sip:a@203.0.113.9:40001", home, "203.0.113.9:40001"), (false, true));
        // Somebody else's contact.
        assert_eq!(udp("sip:+1555@198.51.100.4", home, "203.0.113.9:40001"), (false, true));
        assert_eq!(udp("sip:a@carrier.example.net", home, "203.0.113.9:40001"), (false, true));
        assert_eq!(udp("sip:a@x7.invalid", home, "203.0.113.9:40001"), (true, false));
        let six = "SIP/2.0/UDP [fd00::7]:5060;branch=z9hG4bK1;rport";
        assert_eq!(udp("sip:a@[FD00:0::7]:5060", six, "[2001:db8::1]:5060"), (true, false));
    }

    #[test]
    fn over_streams_the_connection_is_used_for_what_is_the_senders_own() {
        let tcp = |contact, via, remote| way(contact, via, Transport::Tcp, remote);
        let via = "SIP/2.0/TCP 192.168.1.7:5060;branch=z9hG4bK1";
        assert_eq!(tcp("sip:a@192.168.1.7:5060;transport=tcp", via, "192.168.1.7:40001"), (true, true));
        assert_eq!(tcp("sip:a@192.168.1.7:40001;transport=tcp", via, "192.168.1.7:40001"), (true, false));
        assert_eq!(tcp("sip:a@192.168.1.7:5060;transport=tcp", via, "203.0.113.9:40001"), (true, false));
        assert_eq!(tcp("sip:a@192.168.1.7:5060;transport=udp", via, "192.168.1.7:40001"), (false, true));
        assert_eq!(tcp("sip:a@192.168.1.7:5060;transport=udp", via, "203.0.113.9:40001"), (true, false));
        assert_eq!(tcp("sip:a@gateway.example.net", via, "192.168.1.7:40001"), (false, true));
    }
}
