//! What a person should know about the cluster, as this node sees it.
//!
//! | alarm | stands while |
//! | --- | --- |
//! | `node-down` | a node is dead that did not say goodbye, or was never reached |
//! | `link-degraded` | heartbeats are lost, or take longer than the product is made for |
//! | `clock` | the wall clock of a node differs by more than 2 s |
//! | `node-refused` | a connection was refused in the last minutes, by this node or by the other one |
//! | `nats-away` | NATS does not answer, or refuses this node |
//! | `fabric-unread` | messages of the fabric found no reader of late |

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ferric_cluster::{Connection, Health};
use ferric_fabric::{FabricEvent, Member, MemberState, NodeId, RefusalKind, RefusedBy, Site};

use super::lock;
use crate::console::Alarm;

/// An alarm about something that happened stands for this long.
const RECENT: Duration = Duration::from_secs(300);
/// A node that others told of has this long to be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// NATS has this long to come back before anybody is told.
const NATS_WITHIN: Duration = Duration::from_secs(10);
/// Lost heartbeats among the last 128.
const MOST_LOSS: f64 = 0.05;
/// Round trips that the product is made for: within a site, and between sites.
const MOST_RTT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));
/// Refusals that are remembered.
const MOST_REFUSALS: usize = 64;

/// What was heard that no member shows.
#[derive(Debug, Default)]
pub(super) struct Heard {
    refusals: Mutex<BTreeMap<(IpAddr, &'static str, bool), Refused>>,
    clocks: Mutex<BTreeMap<NodeId, i64>>,
    nats_away: Mutex<Option<Instant>>,
    unread: Mutex<(u64, Option<Instant>)>,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    text: String,
}

impl Heard {
    /// Takes note of an event.
    pub(super) fn note(&self, now: Instant, event: &FabricEvent) {
        match event {
            FabricEvent::Refused { node, address, by, refusal } => {
                let who = node.as_ref().map_or("a node", NodeId::as_str);
                let text = match by {
                    RefusedBy::Us => format!("{who} at {address} was refused: {refusal}"),
                    RefusedBy::Peer => format!("{who} at {address} refuses this node: {refusal}"),
                };
                let mut refusals = lock(&self.refusals);
                refusals.retain(|_, refused| now.saturating_duration_since(refused.at) < RECENT);
                let key = (address.ip(), kind(refusal.kind), *by == RefusedBy::Us);
                if refusals.len() < MOST_REFUSALS || refusals.contains_key(&key) {
                    refusals.insert(key, Refused { at: now, text });
                }
            }
            FabricEvent::Clock { node, ahead_ms, alarm: true } => {
                lock(&self.clocks).insert(node.clone(), *ahead_ms);
            }
            FabricEvent::Clock { node, alarm: false, .. } | FabricEvent::Down { node, .. } => {
                lock(&self.clocks).remove(node);
            }
            FabricEvent::Up { .. } | FabricEvent::Changed { .. } | FabricEvent::Stalled(_) | FabricEvent::Lagged(_) => {
            }
        }
    }

    /// The alarms that stand.
    pub(super) fn find(
        &self,
        now: Instant,
        site: &Site,
        members: &[Member],
        health: &Health,
        unread: u64,
        alarms: &mut Vec<Alarm>,
    ) {
        for member in members {
            let (node, away) = (&member.node, now.saturating_duration_since(member.since));
            match member.state {
                MemberState::Dead => alarms.push(Alarm {
                    name: "node-down",
                    text: format!("node {node} ({}) is down for {} s", member.site, away.as_secs()),
                    advice: "See whether the machine, its process and its network are well; its log tells why it stopped.",
                }),
                MemberState::Known if away >= REACHED_WITHIN => alarms.push(Alarm {
                    name: "node-down",
                    text: format!("node {node} ({}) was told of by others and is not reached from here", member.site),
                    advice: "See whether it runs, and whether UDP passes between the two ([cluster] quic, advertise).",
                }),
                MemberState::Known | MemberState::Alive | MemberState::Suspect | MemberState::Left => {}
            }
            if let Some(text) = degraded(site, member) {
                let advice = "Look at the network between the two: calls go on, and a node may be given up wrongly.";
                alarms.push(Alarm { name: "link-degraded", text, advice });
            }
        }
        for (node, ahead_ms) in &*lock(&self.clocks) {
            let (side, off) = (if *ahead_ms > 0 { "ahead" } else { "behind" }, ahead_ms.unsigned_abs());
            alarms.push(Alarm {
                name: "clock",
                text: format!("the clock of node {node} is {off} ms {side} of this one's"),
                advice: "Let NTP set the clocks of all nodes: a node that is a minute off is refused when it comes again.",
            });
        }
        let mut refusals = lock(&self.refusals);
        refusals.retain(|_, refused| now.saturating_duration_since(refused.at) < RECENT);
        for refused in refusals.values() {
            let advice = "The text says what is wrong: certificate, id, site, clock, cluster or version of that node.";
            alarms.push(Alarm { name: "node-refused", text: refused.text.clone(), advice });
        }
        self.find_nats(now, health, alarms);
        self.find_unread(now, unread, alarms);
    }

    fn find_nats(&self, now: Instant, health: &Health, alarms: &mut Vec<Alarm>) {
        let mut since = lock(&self.nats_away);
        let (text, at_once) = match &health.connection {
            Connection::Embedded | Connection::Up => {
                *since = None;
                return;
            }
            Connection::Away(why) => (format!("NATS is away: {why}"), false),
            Connection::Refused(why) => (format!("NATS refuses this node: {why}"), true),
        };
        let away = now.saturating_duration_since(*since.get_or_insert(now));
        if at_once || away >= NATS_WITHIN {
            alarms.push(Alarm {
                name: "nats-away",
                text: format!("{text} (for {} s); calls and registrations go on", away.as_secs()),
                advice: "See [cluster] nats; until it is back no change of the configuration is taken.",
            });
        }
    }

    fn find_unread(&self, now: Instant, count: u64, alarms: &mut Vec<Alarm>) {
        let mut known = lock(&self.unread);
        if count > known.0 {
            *known = (count, Some(now));
        }
        if known.1.is_some_and(|at| now.saturating_duration_since(at) < RECENT) {
            alarms.push(Alarm {
                name: "fabric-unread",
                text: format!("{count} messages of other nodes found no reader since the start"),
                advice: "Nodes of different versions or roles talk past each other: see `ferric nodes`.",
            });
        }
    }
}

fn degraded(site: &Site, member: &Member) -> Option<String> {
    let quality = member.quality.filter(|_| member.is_up())?;
    let most = if member.site == *site { MOST_RTT.0 } else { MOST_RTT.1 };
    let node = &member.node;
    if quality.loss > MOST_LOSS {
        return Some(format!("the link to node {node} loses {:.0} % of heartbeats", quality.loss * 100.0));
    }
    let rtt = quality.rtt.filter(|rtt| *rtt > most)?;
    Some(format!(
        "the link to node {node} takes {} ms there and back, at most {} ms are good",
        rtt.as_millis(),
        most.as_millis()
    ))
}

/// Texts are a peer's; kinds are few.
fn kind(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::ForeignCa => "foreign CA",
        RefusalKind::NotValidNow => "dates",
        RefusalKind::Certificate => "certificate",
        RefusalKind::Identity => "identity",
        RefusalKind::Cluster => "cluster",
        RefusalKind::Protocol => "protocol",
        RefusalKind::Clock => "clock",
        RefusalKind::DuplicateId => "id",
        RefusalKind::Full => "full",
        RefusalKind::BadHello => "hello",
        RefusalKind::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ferric_cluster::Health;
    use ferric_fabric::membership::Profile;
    use ferric_fabric::{Incarnation, LinkQuality, Refusal};

    fn member(state: MemberState, since: Instant, quality: Option<LinkQuality>) -> Member {
        Member {
            node: NodeId::new("edge-a2").unwrap(),
            site: Site::new("east").unwrap(),
            incarnation: Incarnation(1),
            state,
            since,
            protocol: None,
            profile: Profile::default(),
            addresses: Vec::new(),
            quality,
            clock_ahead_ms: 0,
        }
    }

    fn health(connection: Connection) -> Health {
        Health {
            connection,
            joined: true,
            documents_current: true,
            connects: 0,
            sends_dropped: 0,
            slow: 0,
            keep_waiting: 0,
            kept: 0,
            keep_dropped: 0,
            restored: 0,
            events: 0,
            events_dropped: 0,
            documents_reseeded: 0,
            soft: Default::default(),
            peers: Vec::new(),
        }
    }

    #[test]
    fn each_cause_has_its_alarm_and_it_ends_with_the_cause() {
        let (heard, start, site) = (Heard::default(), Instant::now(), Site::new("east").unwrap());
        let names = |now: Instant, members: &[Member], connection: Connection, unread: u64| {
            let mut alarms = Vec::new();
            heard.find(now, &site, members, &health(connection), unread, &mut alarms);
            alarms.iter().map(|alarm| alarm.name).collect::<Vec<_>>()
        };
        let away = || Connection::Away("10.0.0.5: refused".to_owned());
        let lossy = LinkQuality { rtt: Some(Duration::from_millis(1)), jitter: Duration::ZERO, loss: 0.2 };
        let slow = LinkQuality { rtt: Some(Duration::from_millis(150)), loss: 0.0, ..lossy };
        let fine = LinkQuality { rtt: Some(Duration::from_millis(90)), ..slow };
        assert_eq!(names(start, &[member(MemberState::Dead, start, None)], Connection::Up, 0), ["node-down"]);
        assert!(names(start, &[member(MemberState::Left, start, None)], Connection::Up, 0).is_empty());
        assert!(names(start, &[member(MemberState::Known, start, None)], Connection::Up, 0).is_empty());
        let later = start + REACHED_WITHIN;
        assert_eq!(names(later, &[member(MemberState::Known, start, None)], Connection::Up, 0), ["node-down"]);
        for (quality, degraded) in [(lossy, true), (slow, true), (fine, false)] {
            let found = names(start, &[member(MemberState::Alive, start, Some(quality))], Connection::Up, 0);
            assert_eq!(found == ["link-degraded"], degraded, "{quality:?} {found:?}");
        }
        assert!(names(start, &[], away(), 0).is_empty(), "a moment without NATS is nobody's business");
        assert_eq!(names(start + NATS_WITHIN, &[], away(), 0), ["nats-away"]);
        assert!(names(start + NATS_WITHIN, &[], Connection::Up, 0).is_empty());
        assert_eq!(names(start, &[], Connection::Refused("token".to_owned()), 0), ["nats-away"]);
        let node = NodeId::new("edge-a2").unwrap();
        heard.note(start, &FabricEvent::Clock { node: node.clone(), ahead_ms: -2500, alarm: true });
        let refusal = Refusal::new(RefusalKind::ForeignCa, "not from this cluster's CA");
        let address = "10.0.0.9:59106".parse().unwrap();
        heard.note(start, &FabricEvent::Refused { node: None, address, by: RefusedBy::Us, refusal });
        assert_eq!(names(start, &[], Connection::Up, 3), ["clock", "node-refused", "fabric-unread"]);
        heard.note(start, &FabricEvent::Clock { node, ahead_ms: 0, alarm: false });
        assert!(names(start + RECENT, &[], Connection::Up, 3).is_empty());
    }

    #[test]
    fn a_flood_of_refusals_is_bounded() {
        let (heard, now) = (Heard::default(), Instant::now());
        for n in 0..200_u8 {
            let refusal = Refusal::new(RefusalKind::ForeignCa, "foreign");
            let address = std::net::SocketAddr::from(([10, 0, 0, n], 1));
            heard.note(now, &FabricEvent::Refused { node: None, address, by: RefusedBy::Us, refusal });
        }
        assert_eq!(lock(&heard.refusals).len(), MOST_REFUSALS);
    }
}
