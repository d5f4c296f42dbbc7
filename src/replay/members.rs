//! The elements of the candidate: how they are found, and whether they are dead by the user's wish.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ferric_proxy::ProxyConfig;
use ferric_proxy::group::{ElementConfig, ElementId, GroupConfig, GroupEvent, Groups};
use ferric_sip::flow::Transport;

use super::behaviour::Behaviour;
use super::names::{Name, Names, same_spelling};
use super::tally::Place;

/// Stands for the elements of a group that come from DNS.
pub(super) const BY_DNS: &str = "(by DNS)";
/// Where names lead: nothing is sent there (RFC 5737).
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5_060);

#[derive(Debug)]
struct Member {
    address: String,
    place: Place,
    dead: bool,
    down_since: Option<Duration>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
    by_name: HashMap<(String, String), usize>,
    by_id: HashMap<ElementId, usize>,
}

impl Members {
    /// The elements, the groups as they are run, and what must be said about them.
    pub(super) fn new(config: &ProxyConfig, names: &mut Names) -> (Members, Vec<GroupConfig>, Vec<String>) {
        let mut found = Members { members: Vec::new(), by_name: HashMap::new(), by_id: HashMap::new() };
        let (mut configs, mut notes) = (config.groups.clone(), Vec::new());
        for group in &mut configs {
            if group.dns.take().is_some() {
                group.elements = vec![by_dns()];
                notes.push(format!(
                    "{} takes its elements from DNS, which is not asked: taken as one that lives",
                    group.name
                ));
            }
            for element in &group.elements {
                let place = (names.of(&group.name), names.of(&same_spelling(&element.address)));
                found.by_name.insert((group.name.to_string(), element.address.clone()), found.members.len());
                found.members.push(Member { address: element.address.clone(), place, dead: false, down_since: None });
            }
        }
        (found, configs, notes)
    }

    /// Gives names an address, so that they are asked.
    pub(super) fn resolve(&self, groups: &mut Groups) {
        let named: Vec<ElementId> = groups.names().map(|(id, _)| id).collect();
        for id in named {
            groups.set_addresses(id, &[NOWHERE]);
        }
    }

    /// Places of elements by group and address.
    pub(super) fn find(&self, wanted: &[(String, String)]) -> Vec<usize> {
        wanted.iter().filter_map(|key| self.by_name.get(key).copied()).collect()
    }

    /// The member that the groups know by that id.
    pub(super) fn of(&mut self, groups: &Groups, id: ElementId) -> Option<usize> {
        if let Some(member) = self.by_id.get(&id) {
            return Some(*member);
        }
        let key = (groups.group_of(id)?.to_string(), groups.address(id)?.to_owned());
        let member = *self.by_name.get(&key)?;
        self.by_id.insert(id, member);
        Some(member)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.members.iter().map(|member| member.place)
    }

    /// Group and element.
    pub(super) fn place(&self, member: usize) -> Place {
        self.members.get(member).map_or_else(Place::default, |member| member.place)
    }

    /// The element in the spelling of the log.
    pub(super) fn element(&self, member: usize) -> Name {
        self.place(member).1
    }

    pub(super) fn is_dead(&self, member: usize) -> bool {
        self.members.get(member).is_some_and(|member| member.dead)
    }

    pub(super) fn set_dead(&mut self, member: usize, dead: bool) {
        if let Some(member) = self.members.get_mut(member) {
            member.dead = dead;
        }
    }

    /// An element came or went; returns how long one was down that is back.
    pub(super) fn hear(&mut self, event: &GroupEvent, clock: Duration) -> Option<(Place, Duration)> {
        let (group, element, up) = match event {
            GroupEvent::Up { group, element } => (group, element, true),
            GroupEvent::Down { group, element, .. } => (group, element, false),
        };
        let member = *self.by_name.get(&(group.to_string(), element.clone()))?;
        let member = self.members.get_mut(member)?;
        if up {
            return member.down_since.take().map(|since| (member.place, clock.saturating_sub(since)));
        }
        member.down_since.get_or_insert(clock);
        None
    }

    /// Those that are down at the end.
    pub(super) fn still_down(&mut self, end: Duration) -> Vec<(Place, Duration)> {
        let down = |member: &mut Member| Some((member.place, end.saturating_sub(member.down_since.take()?)));
        self.members.iter_mut().filter_map(down).collect()
    }

    /// Elements that the log does not know.
    pub(super) fn not_in(&self, behaviour: &Behaviour) -> Vec<String> {
        let unknown = self.members.iter().filter(|member| member.address != BY_DNS && !behaviour.knows(member.place.1));
        unknown.map(|member| member.address.clone()).collect()
    }
}

fn by_dns() -> ElementConfig {
    ElementConfig {
        address: BY_DNS.to_owned(),
        host: NOWHERE.ip().to_string(),
        port: None,
        transport: Transport::Udp,
        priority: 1,
        weight: 1,
        max_calls: None,
        calls_per_second: None,
        drain: false,
    }
}
