//! Which URIs are ours.

use std::net::{IpAddr, SocketAddr};

use ferric_sip::flow::{Flow, Transport};
use ferric_sip::trust::Network;
use ferric_sip::uri::{Uri, split_host_port};

use crate::config::{Listener, ProxyConfig};

/// Marks a Record-Route that has a twin for the other side (RFC 5658).
pub(crate) const TWIN: &str = "twin";

/// Names and addresses of this node.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    listeners: Vec<Listener>,
    /// Host in lower case, port; of listeners and what they advertise.
    own: Vec<(String, u16)>,
    sent_by: Vec<String>,
    /// Networks that this machine is in, by its address there.
    networks: Vec<(IpAddr, Network)>,
    /// Domains that this node serves.
    domains: Vec<String>,
}

impl Identity {
    pub(crate) fn new(config: &ProxyConfig) -> Identity {
        let mut own = Vec::new();
        for listener in &config.listeners {
            own.push((host_text(listener.address), listener.address.port()));
            if listener.address.ip().is_unspecified() {
                let same = config.own_hosts.iter().filter(|host| host.is_ipv4() == listener.address.is_ipv4());
                own.extend(same.map(|host| (host_text(SocketAddr::new(*host, 0)), listener.address.port())));
            }
            if let Some(advertise) = &listener.advertise
                && let Ok((host, port)) = split_host_port(advertise)
            {
                own.push((host.to_ascii_lowercase(), port.unwrap_or(listener.transport.default_port())));
            }
        }
        let sent_by = config.listeners.iter().map(Listener::sent_by).collect();
        Identity {
            listeners: config.listeners.clone(),
            own,
            sent_by,
            networks: config.networks.clone(),
            domains: config.domains.clone(),
        }
    }

    /// The host and port of a URI are this node's.
    pub(crate) fn is_own(&self, uri: &Uri) -> bool {
        let secure = uri.scheme == "sips" || uri.params.get("transport").is_some_and(|t| t.eq_ignore_ascii_case("tls"));
        let port = uri.port.unwrap_or(if secure { 5_061 } else { 5_060 });
        self.is_own_at(&uri.host, port)
    }

    /// A Route that leads over this node: by its address, or by a domain that it serves, which is what a phone knows it by.
    pub(crate) fn is_own_route(&self, uri: &Uri) -> bool {
        let serves = |port: u16| self.listeners.iter().any(|listener| listener.address.port() == port);
        self.is_own(uri)
            || uri.port.is_none_or(serves) && self.domains.iter().any(|domain| domain.eq_ignore_ascii_case(&uri.host))
    }

    /// There is a listener of that address family to send from.
    pub(crate) fn reaches(&self, remote: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| listener.address.is_ipv4() == remote.is_ipv4())
    }

    /// The host is this node's, whatever the port.
    pub(crate) fn is_own_host(&self, host: &str) -> bool {
        self.own.iter().any(|(have, _)| have.eq_ignore_ascii_case(host))
    }

    /// As sent-by of a Via.
    pub(crate) fn is_own_at(&self, host: &str, port: u16) -> bool {
        self.own.iter().any(|(have, at)| *at == port && have.eq_ignore_ascii_case(host))
    }

    /// The listener from which a request goes out: the one in the network of the next hop, the one it came to, any that can
    /// reach it at all.
    pub(crate) fn outgoing(
        &self,
        transport: Transport,
        remote: SocketAddr,
        came: Option<&Flow>,
        hint: Option<SocketAddr>,
    ) -> (SocketAddr, &str) {
        let fits =
            |listener: &Listener| listener.transport == transport && listener.address.is_ipv4() == remote.is_ipv4();
        let at = |address: SocketAddr| {
            self.listeners.iter().position(|listener| fits(listener) && listener.address == address)
        };
        let came_to = |flow: &Flow| {
            // An accepted connection has the listener's port and the address that the peer meant.
            at(flow.local).or_else(|| {
                self.listeners.iter().position(|have| fits(have) && have.address.port() == flow.local.port())
            })
        };
        let came = came.filter(|flow| flow.transport == transport).and_then(came_to);
        let is_beside =
            |place: &usize| self.listeners.get(*place).is_some_and(|have| self.is_beside(have, remote.ip()));
        // From a loopback address nothing leaves this machine.
        let reaches = |have: &Listener| !have.address.ip().is_loopback() || remote.ip().is_loopback();
        let place = hint
            .and_then(at)
            .or_else(|| came.filter(is_beside))
            .or_else(|| self.listeners.iter().position(|have| fits(have) && self.is_beside(have, remote.ip())))
            .or_else(|| came.filter(|place| self.listeners.get(*place).is_some_and(reaches)))
            .or_else(|| self.listeners.iter().position(|have| fits(have) && reaches(have)))
            .or_else(|| self.listeners.iter().position(fits))
            .or_else(|| self.listeners.iter().position(|have| have.address.is_ipv4() == remote.is_ipv4()))
            .unwrap_or(0);
        let address = self.listeners.get(place).map_or(remote, |listener| listener.address);
        (address, self.sent_by.get(place).map_or("", String::as_str))
    }

    /// The listener at which other nodes hand over what is for a flow: by TLS what came by it, else by UDP, else by TCP. Its
    /// name, and the transport as a parameter of a URI.
    pub(crate) fn hand_over(&self, flow: &Flow) -> Option<(&str, &'static str)> {
        let wanted: &[Transport] = match flow.transport {
            Transport::Tls => &[Transport::Tls],
            Transport::Udp | Transport::Tcp => &[Transport::Udp, Transport::Tcp],
        };
        let fits = |transport: &Transport| {
            let same = |have: &Listener| have.transport == *transport && have.address.is_ipv4() == flow.local.is_ipv4();
            let of_flow = |have: &Listener| same(have) && have.address.ip() == flow.local.ip();
            self.listeners.iter().position(of_flow).or_else(|| self.listeners.iter().position(same))
        };
        let place = wanted.iter().find_map(fits)?;
        let parameter = match self.listeners.get(place)?.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        };
        Some((self.sent_by.get(place)?, parameter))
    }

    /// The listener's address lies in a network with another one.
    fn is_beside(&self, listener: &Listener, other: IpAddr) -> bool {
        self.networks.iter().any(|(own, network)| *own == listener.address.ip() && network.contains(other))
    }

    /// The listener that an own URI names.
    pub(crate) fn listener_of(&self, uri: &Uri) -> Option<SocketAddr> {
        let transport = match uri.params.get("transport") {
            _ if uri.scheme == "sips" => Transport::Tls,
            Some(name) if name.eq_ignore_ascii_case("tcp") => Transport::Tcp,
            Some(name) if name.eq_ignore_ascii_case("tls") => Transport::Tls,
            _ => Transport::Udp,
        };
        let port = uri.port.unwrap_or(transport.default_port());
        let named = |listener: &&Listener| {
            let own = (host_text(listener.address), listener.address.port());
            let known = listener.advertise.as_deref().and_then(|name| split_host_port(name).ok());
            let matches = own.0.eq_ignore_ascii_case(&uri.host) && own.1 == port
                || known.is_some_and(|(host, at)| host.eq_ignore_ascii_case(&uri.host) && at.unwrap_or(port) == port);
            listener.transport == transport && matches
        };
        self.listeners.iter().find(named).map(|listener| listener.address)
    }
}

/// An address as a URI's host.
fn host_text(address: SocketAddr) -> String {
    if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ferric_sip::trust::TrustTable;

    #[test]
    fn listeners_and_what_they_advertise_are_ours() {
        let listener = |transport, address: &str, advertise: Option<&str>| Listener {
            transport,
            address: address.parse().unwrap(),
            advertise: advertise.map(str::to_owned),
        };
        let listeners = vec![
            listener(Transport::Udp, "10.0.0.5:5060", Some("sip1.example.com:5070")),
            listener(Transport::Tls, "10.0.0.5:5061", None),
            listener(Transport::Udp, "[2001:db8::5]:5060", None),
        ];
        let identity = Identity::new(&ProxyConfig::new(listeners, TrustTable::default(), |_| false));
        for (uri, own) in [
            ("sip:10.0.0.5", true),
            ("sip:10.0.0.5:5061", true),
            ("sips:10.0.0.5", true),
            ("sip:SIP1.example.com:5070;lr", true),
            ("sip:sip1.example.com", false),
            ("sip:[2001:db8::5];transport=udp", true),
            ("sip:10.0.0.6", false),
        ] {
            assert_eq!(identity.is_own(&Uri::parse(uri).unwrap()), own, "{uri}");
        }
        let (local, sent_by) = identity.outgoing(Transport::Udp, "192.0.2.1:5060".parse().unwrap(), None, None);
        assert_eq!((local.to_string().as_str(), sent_by), ("10.0.0.5:5060", "sip1.example.com:5070"));
        let (local, _) = identity.outgoing(Transport::Udp, "[2001:db8::9]:5060".parse().unwrap(), None, None);
        assert_eq!(local.to_string(), "[2001:db8::5]:5060");
    }

    #[test]
    fn a_request_leaves_by_the_listener_in_the_network_of_the_next_hop() {
        let listener =
            |address: &str| Listener { transport: Transport::Udp, address: address.parse().unwrap(), advertise: None };
        let listeners = ["127.0.0.1:5060", "203.0.113.5:5060", "10.0.0.5:5060"].map(listener).to_vec();
        let mut config = ProxyConfig::new(listeners, TrustTable::default(), |_| false);
        config.networks =
            [("127.0.0.1", "127.0.0.0/8"), ("203.0.113.5", "203.0.113.0/24"), ("10.0.0.5", "10.0.0.0/16")]
                .map(|(own, network)| (own.parse().unwrap(), network.parse().unwrap()))
                .to_vec();
        let identity = Identity::new(&config);
        let came = |local: &str| Flow {
            transport: Transport::Udp,
            local: local.parse().unwrap(),
            remote: "10.0.0.9:5060".parse().unwrap(),
            connection: 0,
        };
        let from = |remote: &str, came: Option<Flow>| {
            identity.outgoing(Transport::Udp, remote.parse().unwrap(), came.as_ref(), None).0.to_string()
        };
        for (remote, came_to, leaves) in [
            ("10.0.3.4:5060", None, "10.0.0.5:5060"),
            ("10.0.3.4:5060", Some("203.0.113.5:5060"), "10.0.0.5:5060"),
            ("203.0.113.77:5060", Some("10.0.0.5:5060"), "203.0.113.5:5060"),
            ("127.0.0.1:5070", Some("10.0.0.5:5060"), "127.0.0.1:5060"),
            // Behind a router: the way that it came, but never from the loopback.
            ("198.51.100.1:5060", Some("10.0.0.5:5060"), "10.0.0.5:5060"),
            ("198.51.100.1:5060", Some("127.0.0.1:5060"), "203.0.113.5:5060"),
            ("198.51.100.1:5060", None, "203.0.113.5:5060"),
        ] {
            assert_eq!(from(remote, came_to.map(came)), leaves, "{remote} {came_to:?}");
        }
    }
}
