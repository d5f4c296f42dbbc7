//! Requests as [`Subject`]s, and for each file of `testdata/cusp` the elements that CUSP would choose for some of them.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ferric_proxy::routing::{Action, Subject};
use ferric_sip::flow::Transport;
use ferric_sip::uri::Uri;

use super::{load, testdata};
use crate::config::Proxy;

/// A request as routes see it.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) user: String,
    pub(super) domain: &'static str,
    pub(super) source: IpAddr,
    pub(super) listener: (Transport, SocketAddr),
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Subject for Call {
    fn method(&self) -> Cow<'_, str> {
        self.method.into()
    }
    fn user(&self) -> Cow<'_, str> {
        self.user.as_str().into()
    }
    fn domain(&self) -> Cow<'_, str> {
        self.domain.into()
    }
    fn from(&self) -> Cow<'_, str> {
        self.header("From").first().map_or("", |_| "sip:4711@pbx.example").into()
    }
    fn source(&self) -> IpAddr {
        self.source
    }
    fn listener(&self) -> (Transport, SocketAddr) {
        self.listener
    }
    fn header(&self, name: &str) -> Vec<String> {
        self.headers
            .iter()
            .filter(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.clone())
            .collect()
    }
    fn is_recording(&self) -> bool {
        false
    }
}

impl Call {
    pub(super) fn new(method: &'static str, user: &str, listener: &str, source: &str) -> Call {
        let (kind, address) = listener.split_once(':').unwrap();
        let kind = match kind {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            _ => Transport::Tls,
        };
        Call {
            method,
            user: user.to_owned(),
            domain: "proxy.example",
            source: source.parse().unwrap(),
            listener: (kind, address.parse().unwrap()),
            headers: Vec::new(),
        }
    }
}

/// Where it goes and with which user: `a b | c` are two elements of the first priority and one of the second.
pub(super) fn way(proxy: &Proxy, call: &Call) -> (String, String) {
    let Some(rule) = proxy.routes.route(call) else { return ("none".to_owned(), call.user.clone()) };
    let uri = Uri::parse(&format!("sip:{}@{}", call.user, call.domain)).unwrap();
    let to = rule.rewrite.apply(&uri).map_or(uri, |uri| Uri::parse(&uri).unwrap());
    let way = match &rule.action {
        Action::Group(name) => {
            let group = proxy.groups.iter().find(|group| *group.name == **name).unwrap();
            let mut priorities: Vec<u16> = group.elements.iter().map(|element| element.priority).collect();
            priorities.sort_unstable();
            priorities.dedup();
            let hosts = |priority: &u16| {
                let of = group.elements.iter().filter(|element| element.priority == *priority);
                of.map(|element| element.host.as_str()).collect::<Vec<_>>().join(" ")
            };
            priorities.iter().map(hosts).collect::<Vec<_>>().join(" | ")
        }
        Action::Reject { code, .. } => code.to_string(),
        other => other.to_string(),
    };
    (way, to.user_unescaped().unwrap_or_default())
}

fn check(name: &str, listener: &str, expected: &[(&'static str, &str, &str, &str, &str)]) {
    let proxy = load(&testdata(name));
    for (method, user, source, wanted, sent) in expected {
        let call = Call::new(method, user, listener, source);
        assert_eq!(
            way(&proxy, &call),
            ((*wanted).to_owned(), (*sent).to_owned()),
            "{name}: {method} {user} from {source} to {listener}"
        );
    }
}

#[test]
fn a_branch_sends_by_the_longest_key() {
    let pbx = "10.20.0.11 10.20.0.12 | 10.20.9.11";
    // highest-q: the first of them takes all, the second only without it.
    let gateways = "10.20.0.21 | 10.20.0.22";
    check(
        "branch-8.5.txt",
        "udp:10.20.0.5:5060",
        &[
            ("INVITE", "2001", "10.20.0.99", pbx, "2001"),
            ("OPTIONS", "2", "10.20.0.99", pbx, "2"),
            ("INVITE", "2999", "10.20.0.99", "480", "2999"),
            ("INVITE", "29991", "10.20.0.99", "480", "29991"),
            ("INVITE", "2998", "10.20.0.99", pbx, "2998"),
            ("INVITE", "90221123", "10.20.0.99", gateways, "90221123"),
            ("INVITE", "3000", "10.20.0.99", "404", "3000"),
            ("INVITE", "", "10.20.0.99", "404", ""),
        ],
    );
}

#[test]
fn a_contact_centre_tells_its_two_sides_apart() {
    let (cucm, cvp) = ("192.0.2.11 192.0.2.12 | 192.0.2.13", "192.0.2.21 192.0.2.22");
    let outbound = "198.51.100.21 | 198.51.100.22 | 198.51.100.99";
    let carrier = "198.51.100.9";
    check(
        "centre-10.1.txt",
        "udp:198.51.100.5:5060",
        &[
            ("INVITE", "14085550", carrier, cvp, "14085550"),
            ("INVITE", "+14085550", carrier, cvp, "+14085550"),
            ("INVITE", "1408999", carrier, cucm, "1408999"),
            ("INVITE", "19005", carrier, "403", "19005"),
            // A policy leads on to the next table; 8003 fits none of its keys and no shorter key of the first.
            ("INVITE", "8001", carrier, cvp, "8001"),
            ("INVITE", "8002", carrier, "sip:vvb.centre.example", "8002"),
            ("INVITE", "8003", carrier, "404", "8003"),
            // Not carried over: it keeps its place.
            ("INVITE", "3001", carrier, "500", "3001"),
            ("INVITE", "7", carrier, "sip:192.0.2.40:5060", "7"),
            ("INVITE", "9", carrier, "request-uri", "9"),
            ("INVITE", "5", carrier, "404", "5"),
            // The trigger asks for INVITE, or for a sender of that network.
            ("SUBSCRIBE", "1408999", carrier, cucm, "1408999"),
            ("SUBSCRIBE", "1408999", "198.51.100.200", "none", "1408999"),
        ],
    );
    check(
        "centre-10.1.txt",
        "udp:192.0.2.5:5060",
        &[
            // The 9 goes before the lookup, so 911 is looked up as 11.
            ("INVITE", "911", "192.0.2.11", outbound, "11"),
            ("INVITE", "9911", "192.0.2.11", outbound, "911"),
            ("INVITE", "12345", "192.0.2.11", outbound, "12345"),
            ("INVITE", "022155", "192.0.2.11", outbound, "+4922155"),
        ],
    );
}

#[test]
fn a_domain_has_its_own_route() {
    let proxy = load(&testdata("centre-10.1.txt"));
    for (domain, wanted) in
        [("apps.example", "sip:192.0.2.60:5060"), ("a.apps.example", "sip:192.0.2.60:5060"), ("badapps.example", "404")]
    {
        let call = Call { domain, ..Call::new("INVITE", "x", "udp:198.51.100.5:5060", "198.51.100.9") };
        assert_eq!(way(&proxy, &call).0, wanted, "{domain}");
    }
}

#[test]
fn a_voice_portal_routes_labels_and_agents() {
    let (agents, portal, browsers) =
        ("192.0.2.11 192.0.2.12 192.0.2.13", "192.0.2.21 | 192.0.2.22", "192.0.2.31 192.0.2.32");
    check(
        "voice-portal-9.1.txt",
        "udp:192.0.2.200:5060",
        &[
            ("INVITE", "1001", "192.0.2.21", agents, "1001"),
            ("INVITE", "1004", "192.0.2.21", "sip:192.0.2.84:5060", "1004"),
            ("INVITE", "2001", "192.0.2.21", agents, "2001"),
            ("INVITE", "7001", "192.0.2.21", browsers, "7001"),
            ("INVITE", "700", "192.0.2.21", browsers, "700"),
            ("INVITE", "700012", "192.0.2.21", "sip:192.0.2.41:5060", "700012"),
            ("INVITE", "7006991234", "192.0.2.21", portal, "7006991234"),
            ("INVITE", "777333", "192.0.2.21", portal, "777333"),
            ("INVITE", "71051", "192.0.2.21", "sip:dialer-gws", "71051"),
            ("INVITE", "8005550100", "192.0.2.99", portal, "8005550100"),
            ("INVITE", "91", "192.0.2.21", browsers, "91"),
            ("INVITE", "3", "192.0.2.21", "none", "3"),
        ],
    );
}
