//! The checks of a hello, in the order in which a person would want to hear of them. TLS has proven by then that the
//! certificate is of our CA and valid now.

use std::time::Duration;

use crate::clock;
use crate::hello::Hello;
use crate::identity::{ClusterName, Identity, Incarnation};
use crate::protocol::{Protocol, ProtocolRange};
use crate::refusal::{Refusal, RefusalKind};

/// What a node knows of itself.
#[derive(Debug, Clone)]
pub struct Own {
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// Its node and site.
    pub identity: Identity,
    /// This run of it.
    pub incarnation: Incarnation,
    /// Versions it speaks.
    pub protocol: ProtocolRange,
}

/// What a hello leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The node may come in; both speak this version.
    Welcome(Protocol),
    /// It is this node itself: an address of its own was dialled.
    Myself,
    /// It may not.
    Refused(Refusal),
}

/// Judges the hello of a node with this certificate; `rtt` is the round trip of its connection.
pub fn judge(own: &Own, certificate: &Identity, hello: &Hello, wall_ms: u64, rtt: Duration) -> Admission {
    let refused = |kind, text: String| Admission::Refused(Refusal::new(kind, text));
    let said = Identity { node: hello.node.clone(), site: hello.site.clone() };
    if said != *certificate {
        let text = format!(
            "the node says it is {} in {}, its certificate says {} in {}",
            said.node, said.site, certificate.node, certificate.site
        );
        return refused(RefusalKind::Identity, text);
    }
    if hello.cluster != own.cluster {
        let text = format!("{} is of the cluster {}, this is {}", said.node, hello.cluster, own.cluster);
        return refused(RefusalKind::Cluster, text);
    }
    if said.node == own.identity.node {
        if hello.incarnation == own.incarnation {
            return Admission::Myself;
        }
        let text =
            format!("another running node has the id {}: give each node an id and a certificate of its own", said.node);
        return refused(RefusalKind::DuplicateId, text);
    }
    let Some(protocol) = own.protocol.common(hello.protocol) else {
        let text = format!(
            "{} speaks protocol {}, {} speaks {}: upgrade one release at a time",
            said.node, hello.protocol, own.identity.node, own.protocol
        );
        return refused(RefusalKind::Protocol, text);
    };
    let ahead_ms = clock::ahead_ms(hello.wall_ms, wall_ms, rtt);
    if clock::exceeds(ahead_ms, clock::REFUSE) {
        let text = format!(
            "the clock of {} is {} s {} that of {}: set both by NTP",
            said.node,
            ahead_ms.unsigned_abs() / 1000,
            if ahead_ms > 0 { "ahead of" } else { "behind" },
            own.identity.node,
        );
        return refused(RefusalKind::Clock, text);
    }
    Admission::Welcome(protocol)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::detector::Beat;
    use crate::hello::Profile;
    use crate::identity::{NodeId, Site};

    fn identity(node: &str) -> Identity {
        Identity { node: NodeId::new(node).unwrap(), site: Site::new("east").unwrap() }
    }

    fn hello(node: &str) -> Hello {
        Hello {
            cluster: ClusterName::new("main").unwrap(),
            node: identity(node).node,
            site: identity(node).site,
            incarnation: Incarnation(2),
            protocol: ProtocolRange::OURS,
            wall_ms: 1_000_000,
            inside: Beat::INSIDE.into(),
            between: Beat::BETWEEN.into(),
            profile: Profile::default(),
        }
    }

    #[test]
    fn each_wrong_hello_has_its_own_refusal() {
        let own = Own {
            cluster: ClusterName::new("main").unwrap(),
            identity: identity("a"),
            incarnation: Incarnation(1),
            protocol: ProtocolRange { min: Protocol(1), max: Protocol(2) },
        };
        let at =
            |certificate: &str, hello: &Hello| judge(&own, &identity(certificate), hello, 1_000_000, Duration::ZERO);
        assert_eq!(at("b", &hello("b")), Admission::Welcome(Protocol(1)));
        assert_eq!(at("a", &Hello { incarnation: Incarnation(1), ..hello("a") }), Admission::Myself);
        let new = ProtocolRange { min: Protocol(3), max: Protocol(4) };
        let table = [
            ("c", hello("b"), RefusalKind::Identity, "says it is b in east, its certificate says c"),
            ("b", Hello { site: Site::new("west").unwrap(), ..hello("b") }, RefusalKind::Identity, "b in west"),
            (
                "b",
                Hello { cluster: ClusterName::new("lab").unwrap(), ..hello("b") },
                RefusalKind::Cluster,
                "cluster lab",
            ),
            ("a", hello("a"), RefusalKind::DuplicateId, "another running node has the id a"),
            ("b", Hello { protocol: new, ..hello("b") }, RefusalKind::Protocol, "3 to 4, a speaks 1 to 2"),
            ("b", Hello { wall_ms: 1_120_000, ..hello("b") }, RefusalKind::Clock, "120 s ahead of"),
            ("b", Hello { wall_ms: 880_000, ..hello("b") }, RefusalKind::Clock, "120 s behind"),
        ];
        for (certificate, hello, kind, words) in table {
            let Admission::Refused(refusal) = at(certificate, &hello) else { panic!("{kind:?} was let in") };
            assert_eq!(refusal.kind, kind);
            assert!(refusal.text.contains(words), "{refusal}");
        }
        let minute = Hello { wall_ms: 1_060_000, ..hello("b") };
        assert_eq!(at("b", &minute), Admission::Welcome(Protocol(1)), "a minute is the limit");
    }
}
