//! Server groups: elements with priorities and weights behind one name, their health, and who gets the next request.
//!
//! - Active health: OPTIONS at the group's heartbeat, over the element's own transport; with `adaptive`, traffic that was
//!   answered stands for a probe. Passive health: what real requests meet.
//! - Any answer is a sign of life, unless its code is one of the group's failover codes: that is a miss, and the next element is
//!   asked. `misses` in a row take an element down; a request without any answer, and an unreachable port, at once.
//! - 503 with Retry-After is believed: the element rests for so long.
//! - A group whose elements are all unusable hands over to its `fallback`.
//!
//! Elements keep their identity, health and counters over a change of configuration as long as group and address stay. That
//! a person drained one outlives the element itself ([`Drained`]).

mod dialogs;
mod drained;
mod element;
mod pick;
mod share;
mod view;

pub use drained::Drained;
pub use element::{Counters, DownCause, ElementConfig};
pub use share::{GroupShares, Share};
pub use view::{ElementState, ElementView, GroupView};

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_sip::deadline::DeadlineQueue;
use ferric_sip::flow::{Destination, Flow, Transport};
use rand::Rng;
use smallvec::SmallVec;

use dialogs::Dialogs;
use element::Element;

/// A group names another one as its last resort, which may name another one: so far and no farther.
const MOST_FALLBACKS: usize = 8;
/// Longest rest that a Retry-After may ask for.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// Probes of elements that are new begin this far apart.
const SPREAD: Duration = Duration::from_millis(20);

/// An element of any group, for as long as it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElementId(u32);

/// How a group shares its requests out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// RFC 2782.
    #[default]
    PriorityWeight,
    /// The same element for the same Call-ID.
    CallIdHash,
    /// The element with the fewest calls for its weight.
    LeastLoaded,
    /// In turns.
    RoundRobin,
}

/// Probing by OPTIONS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Interval while an element is up.
    pub up: Duration,
    /// Interval while it is down.
    pub down: Duration,
    /// So many in a row without a good answer take it down.
    pub misses: u32,
    /// Traffic that was answered counts as an answered probe.
    pub adaptive: bool,
}

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        Heartbeat { up: Duration::from_secs(5), down: Duration::from_secs(5), misses: 3, adaptive: true }
    }
}

/// A server group as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// Its name, which is also a domain name where elements come from DNS.
    pub name: Arc<str>,
    /// Who gets the next request.
    pub policy: Policy,
    /// Probing; `None` looks at real requests only.
    pub heartbeat: Option<Heartbeat>,
    /// Without heartbeat: a dead element is tried again after this long.
    pub rest: Duration,
    /// Answers that make the next element be tried.
    pub failover_codes: Vec<u16>,
    /// Without any answer for this long the next element is tried.
    pub timeout: Duration,
    /// Time in which a revived element grows into its share.
    pub slow_start: Duration,
    /// The group that takes over when no element can.
    pub fallback: Option<String>,
    /// Elements by hand; none when they come from DNS.
    pub elements: Vec<ElementConfig>,
    /// Elements come from DNS SRV of this transport (RFC 3263).
    pub dns: Option<Transport>,
}

impl GroupConfig {
    /// A group without elements, all else as by default.
    pub fn named(name: &str) -> GroupConfig {
        GroupConfig {
            name: name.into(),
            policy: Policy::default(),
            heartbeat: Some(Heartbeat::default()),
            rest: Duration::from_secs(5),
            failover_codes: vec![408, 500, 502, 503, 504],
            timeout: Duration::from_secs(1),
            slow_start: Duration::ZERO,
            fallback: None,
            elements: Vec::new(),
            dns: None,
        }
    }
}

/// Where an element is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Address and port.
    pub address: SocketAddr,
    /// Transport.
    pub transport: Transport,
    /// The name that was looked up, for TLS.
    pub host: Arc<str>,
}

impl Hop {
    /// A message to it over that transport. An address that was given as such is proved as such.
    pub(crate) fn destination(&self, transport: Transport, local: SocketAddr) -> Destination {
        let is_name = || self.host.trim_matches(['[', ']']).parse::<IpAddr>().is_err();
        Destination {
            flow: Flow { transport, local, remote: self.address, connection: 0 },
            server_name: (transport == Transport::Tls && is_name()).then(|| Arc::clone(&self.host)),
        }
    }
}

/// An element that was chosen.
#[derive(Debug, Clone)]
pub struct Picked {
    /// Which.
    pub element: ElementId,
    /// Its group, which may be a fallback.
    pub group: Arc<GroupConfig>,
    /// Where.
    pub hop: Hop,
}

/// Something to say about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// An element came to life.
    Up {
        /// Group.
        group: Arc<str>,
        /// Element.
        element: String,
    },
    /// An element died.
    Down {
        /// Group.
        group: Arc<str>,
        /// Element.
        element: String,
        /// Why.
        cause: DownCause,
    },
}

/// How an attempt at an element ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With this final status; `retry_after` as the answer said.
    Answered {
        /// Status.
        status: u16,
        /// Of a 503.
        retry_after: Option<Duration>,
    },
    /// Not at all, since it was sent at that moment.
    Silence {
        /// When.
        sent: Instant,
    },
    /// It could not be reached.
    Unreachable,
}

#[derive(Debug)]
struct Group {
    config: Arc<GroupConfig>,
    elements: Vec<Element>,
    ids: Vec<ElementId>,
}

/// All groups of a node.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Group>,
    by_name: HashMap<String, usize>,
    places: HashMap<ElementId, (usize, usize)>,
    probes: DeadlineQueue<ElementId>,
    dialogs: Dialogs,
    drained: Drained,
    /// Addresses of nodes that drain or are gone.
    away: HashSet<SocketAddr>,
    sees_ends: bool,
    next_id: u32,
    events: VecDeque<GroupEvent>,
}

impl Groups {
    /// No groups. `longest_call` bounds how long a call is remembered.
    pub fn new(longest_call: Duration) -> Groups {
        Groups {
            groups: Vec::new(),
            by_name: HashMap::new(),
            places: HashMap::new(),
            probes: DeadlineQueue::default(),
            dialogs: Dialogs::new(longest_call),
            drained: Drained::default(),
            away: HashSet::new(),
            sees_ends: false,
            next_id: 0,
            events: VecDeque::new(),
        }
    }

    /// Takes over a configuration; `sees_ends` when calls end in our sight (Record-Route).
    pub fn apply(&mut self, now: Instant, configs: Vec<GroupConfig>, sees_ends: bool) {
        self.sees_ends = sees_ends;
        let mut old: HashMap<Arc<str>, Group> =
            self.groups.drain(..).map(|group| (Arc::clone(&group.config.name), group)).collect();
        for config in configs {
            let before = old.remove(&config.name);
            let heartbeat = before.as_ref().and_then(|group| group.config.heartbeat);
            let wanted = match (&config.dns, &before) {
                (Some(_), Some(group)) => group.elements.iter().map(|element| element.config.clone()).collect(),
                _ => config.elements.clone(),
            };
            let mut group =
                before.unwrap_or_else(|| Group { config: Arc::new(config.clone()), elements: vec![], ids: vec![] });
            group.config = Arc::new(config);
            self.fit(now, &mut group, wanted, heartbeat);
            self.groups.push(group);
        }
        for id in old.into_values().flat_map(|group| group.ids) {
            self.probes.cancel(&id);
        }
        self.index();
    }

    /// The elements of a group whose elements come from DNS.
    pub fn set_elements(&mut self, now: Instant, name: &str, wanted: Vec<ElementConfig>) {
        let Some(mut group) = self.at(name).and_then(|at| self.groups.get_mut(at)).map(|group| Group {
            config: Arc::clone(&group.config),
            elements: std::mem::take(&mut group.elements),
            ids: std::mem::take(&mut group.ids),
        }) else {
            return;
        };
        let heartbeat = group.config.heartbeat;
        self.fit(now, &mut group, wanted, heartbeat);
        if let Some(place) = self.at(name).and_then(|at| self.groups.get_mut(at)) {
            *place = group;
        }
        self.index();
    }

    /// Makes a group's elements those that are wanted; the ones that stay keep what is known of them, and the time of their
    /// next probe as long as the heartbeat is the one of `before`: changes in quick succession must not put probes off.
    fn fit(&mut self, now: Instant, group: &mut Group, wanted: Vec<ElementConfig>, before: Option<Heartbeat>) {
        let mut old: Vec<(ElementId, Element)> = group.ids.drain(..).zip(group.elements.drain(..)).collect();
        for config in wanted {
            let drained = self.drained.of(&group.config.name, &config.address);
            let same = old.iter().position(|(_, element)| element.config.address == config.address);
            let (id, mut element) = match same {
                Some(at) => {
                    let (id, mut element) = old.swap_remove(at);
                    element.config = config;
                    (id, element)
                }
                None => {
                    self.next_id += 1;
                    (ElementId(self.next_id), Element::new(config))
                }
            };
            element.drained = drained;
            element.away = is_away(&self.away, &element);
            match group.config.heartbeat {
                Some(_) if same.is_some() && before == group.config.heartbeat => {}
                Some(_) if same.is_none() => self.probes.set(id, now + SPREAD * (self.next_id % 50)),
                Some(heartbeat) => {
                    let interval = if element.is_up() { heartbeat.up } else { heartbeat.down };
                    self.probes.set(id, now + interval);
                }
                None => self.probes.cancel(&id),
            }
            group.ids.push(id);
            group.elements.push(element);
        }
        for (id, _) in old {
            self.probes.cancel(&id);
        }
    }

    fn index(&mut self) {
        self.by_name =
            self.groups.iter().enumerate().map(|(at, group)| (group.config.name.to_ascii_lowercase(), at)).collect();
        self.places = self
            .groups
            .iter()
            .enumerate()
            .flat_map(|(at, group)| group.ids.iter().enumerate().map(move |(place, id)| (*id, (at, place))))
            .collect();
    }

    fn element(&mut self, id: ElementId) -> Option<(&GroupConfig, &mut Element)> {
        let (group, place) = self.places.get(&id).copied()?;
        let group = self.groups.get_mut(group)?;
        Some((&group.config, group.elements.get_mut(place)?))
    }

    /// Place of the group of that name; names are those of hosts, in which case does not count.
    fn at(&self, name: &str) -> Option<usize> {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.by_name.get(&name.to_ascii_lowercase()).copied();
        }
        self.by_name.get(name).copied()
    }

    /// True if there is a group of that name.
    pub fn has(&self, name: &str) -> bool {
        self.at(name).is_some()
    }

    /// The group and the element that have a call.
    pub fn call(&self, call: u64) -> Option<(Arc<str>, ElementId)> {
        let id = self.dialogs.element(call)?;
        let (group, _) = self.places.get(&id)?;
        Some((Arc::clone(&self.groups.get(*group)?.config.name), id))
    }

    /// Whether an element lives.
    pub fn is_up(&self, id: ElementId) -> bool {
        let element = self.places.get(&id).and_then(|(group, place)| self.groups.get(*group)?.elements.get(*place));
        element.is_some_and(Element::is_up)
    }

    /// Where an element is.
    pub fn hop(&self, id: ElementId) -> Option<Hop> {
        let (group, place) = self.places.get(&id)?;
        let element = self.groups.get(*group)?.elements.get(*place)?;
        Some(Hop {
            address: *element.addresses.first()?,
            transport: element.config.transport,
            host: element.config.host.as_str().into(),
        })
    }

    /// Name of the group that an element is in.
    pub fn group_of(&self, id: ElementId) -> Option<Arc<str>> {
        let (group, _) = self.places.get(&id)?;
        Some(Arc::clone(&self.groups.get(*group)?.config.name))
    }

    /// Name of an element as configured.
    pub fn address(&self, id: ElementId) -> Option<&str> {
        let (group, place) = self.places.get(&id)?;
        Some(&self.groups.get(*group)?.elements.get(*place)?.config.address)
    }

    /// Chooses who gets a request, `tried` left out. `begins_call` for an INVITE outside of a dialog; `call` is the hash
    /// of the Call-ID. Within a dialog the element that has the call is asked first, drained or down: nobody else knows the
    /// dialog, and a dead element costs no more than the group's timeout. Each pick is given back with [`Groups::release`].
    pub fn pick<R: Rng + ?Sized>(
        &mut self,
        now: Instant,
        name: &str,
        tried: &[ElementId],
        call: u64,
        begins_call: bool,
        rng: &mut R,
    ) -> Option<Picked> {
        if !begins_call
            && let Some(id) = self.dialogs.element(call).filter(|id| !tried.contains(id))
            && let Some((group, place)) = self.places.get(&id).copied()
            && let Some(group) = self.groups.get(group)
            && group.elements.get(place).is_some_and(|element| !element.addresses.is_empty())
        {
            return self.take(now, id, false);
        }
        let mut at = self.at(name)?;
        for _ in 0..MOST_FALLBACKS {
            let group = self.groups.get_mut(at)?;
            let tried: SmallVec<[usize; 4]> =
                tried.iter().filter_map(|id| group.ids.iter().position(|have| have == id)).collect();
            let config = Arc::clone(&group.config);
            let chosen = pick::pick(now, &config, &mut group.elements, &tried, call, self.sees_ends, rng);
            if let Some(id) = chosen.and_then(|place| group.ids.get(place).copied()) {
                return self.take(now, id, begins_call);
            }
            at = self.at(config.fallback.as_deref()?)?;
        }
        None
    }

    fn take(&mut self, now: Instant, id: ElementId, begins_call: bool) -> Option<Picked> {
        let (group, place) = self.places.get(&id).copied()?;
        let group = self.groups.get_mut(group)?;
        let element = group.elements.get_mut(place)?;
        element.note_sent(now, begins_call);
        let hop = Hop {
            address: *element.addresses.first()?,
            transport: element.config.transport,
            host: element.config.host.as_str().into(),
        };
        Some(Picked { element: id, group: Arc::clone(&group.config), hop })
    }

    /// How long a caller that found no element should wait: until the first may be back.
    pub fn retry_after(&self, now: Instant, name: &str) -> Duration {
        let group = self.at(name).and_then(|at| self.groups.get(at));
        let busy = group.into_iter().flat_map(|group| &group.elements).filter_map(|element| element.busy_until).min();
        let heartbeat =
            group.and_then(|group| group.config.heartbeat).map_or(Duration::from_secs(5), |heartbeat| heartbeat.down);
        busy.map_or(heartbeat, |until| until.saturating_duration_since(now)).max(Duration::from_secs(1))
    }

    /// A sign of life that is no final answer.
    pub fn note_alive(&mut self, now: Instant, id: ElementId) {
        let Some((_, element)) = self.element(id) else { return };
        if element.note_sign(now) {
            self.tell_up(now, id);
        }
    }

    /// A request that went to an element is over, or waited for no longer: once for every [`Groups::pick`].
    pub fn release(&mut self, id: ElementId) {
        if let Some((_, element)) = self.element(id) {
            element.open = element.open.saturating_sub(1);
        }
    }

    /// What became of an attempt. Returns true when the element went down by it.
    pub fn note_outcome(&mut self, now: Instant, id: ElementId, outcome: Outcome) -> bool {
        let Some((group, element)) = self.element(id) else { return false };
        let (heartbeat, failed) = match outcome {
            Outcome::Answered { status, .. } => (group.heartbeat, group.failover_codes.contains(&status)),
            Outcome::Silence { .. } | Outcome::Unreachable => (group.heartbeat, false),
        };
        let (mut up, mut down) = (false, None);
        match outcome {
            Outcome::Answered { status, retry_after } => {
                match status {
                    200..=299 => element.counters.succeeded += 1,
                    _ if failed => element.counters.failed_over += 1,
                    _ => element.counters.refused += 1,
                }
                if let Some(rest) = retry_after.filter(|_| status == 503) {
                    element.busy_until = Some(now + rest.min(MOST_RETRY_AFTER));
                }
                if !failed {
                    up = element.note_alive(now);
                } else if element.note_miss(now, heartbeat) {
                    down = Some(DownCause::Misses);
                }
            }
            Outcome::Silence { sent } => {
                element.counters.failed_over += 1;
                let heard = element.alive_at.is_some_and(|alive| alive >= sent);
                if !heard && element.take_down(now, DownCause::Timeout) {
                    down = Some(DownCause::Timeout);
                }
            }
            Outcome::Unreachable => {
                element.counters.failed_over += 1;
                let several = element.addresses.len() > 1;
                element.addresses.rotate_left(usize::from(several));
                if element.take_down(now, DownCause::Unreachable) {
                    down = Some(DownCause::Unreachable);
                }
            }
        }
        if up {
            self.tell_up(now, id);
        }
        if let Some(cause) = down {
            self.tell_down(now, id, cause);
        }
        down.is_some()
    }

    /// A call was answered by that element.
    pub fn begin_call(&mut self, now: Instant, call: u64, id: ElementId) {
        let counted = self.sees_ends;
        if counted && let Some((_, element)) = self.element(id) {
            element.calls += 1;
        }
        for given_up in self.dialogs.begin(now, call, id, counted) {
            self.end_counted(given_up);
        }
    }

    /// A BYE passed.
    pub fn end_call(&mut self, call: u64) {
        if let Some(id) = self.dialogs.end(call) {
            self.end_counted(id);
        }
    }

    fn end_counted(&mut self, id: ElementId) {
        if let Some((_, element)) = self.element(id) {
            element.calls = element.calls.saturating_sub(1);
        }
    }

    /// Calls remembered.
    pub fn dialogs(&self) -> usize {
        self.dialogs.len()
    }

    fn tell_up(&mut self, now: Instant, id: ElementId) {
        let Some((group, element)) = self.element(id) else { return };
        let (name, address, heartbeat) = (Arc::clone(&group.name), element.config.address.clone(), group.heartbeat);
        self.events.push_back(GroupEvent::Up { group: name, element: address });
        if let Some(heartbeat) = heartbeat {
            self.probes.set(id, now + heartbeat.up);
        }
    }

    fn tell_down(&mut self, now: Instant, id: ElementId, cause: DownCause) {
        let Some((group, element)) = self.element(id) else { return };
        let (name, address, heartbeat) = (Arc::clone(&group.name), element.config.address.clone(), group.heartbeat);
        self.events.push_back(GroupEvent::Down { group: name, element: address, cause });
        if let Some(heartbeat) = heartbeat {
            self.probes.set(id, now + heartbeat.down);
        }
    }

    /// When [`Groups::poll_probe`] has something.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.probes.next_deadline()
    }

    /// The next element to ask by OPTIONS. Its answer goes to [`Groups::note_probe`], which plans the next one.
    pub fn poll_probe(&mut self, now: Instant) -> Option<(ElementId, Hop, Duration)> {
        while let Some(id) = self.probes.pop_due(now) {
            let Some((group, element)) = self.element(id) else { continue };
            let Some(heartbeat) = group.heartbeat else { continue };
            let timeout = group.timeout;
            let spared = heartbeat.adaptive && element.is_up() && std::mem::take(&mut element.proven);
            let hop = element.addresses.first().map(|address| Hop {
                address: *address,
                transport: element.config.transport,
                host: element.config.host.as_str().into(),
            });
            match hop {
                Some(hop) if !spared => return Some((id, hop, timeout)),
                Some(_) | None => self.probes.set(id, now + heartbeat.up.max(SPREAD)),
            }
        }
        None
    }

    /// What came of a probe: a status, or `None` for silence or an unreachable port. True when the element went down by it.
    pub fn note_probe(&mut self, now: Instant, id: ElementId, status: Option<u16>) -> bool {
        let Some((group, element)) = self.element(id) else { return false };
        let Some(heartbeat) = group.heartbeat else { return false };
        let (mut up, mut down) = (false, false);
        match status {
            Some(status) if !group.failover_codes.contains(&status) => {
                up = element.note_alive(now);
                element.proven = false;
            }
            Some(_) | None => down = element.note_miss(now, Some(heartbeat)),
        }
        let interval = if element.is_up() { heartbeat.up } else { heartbeat.down };
        self.probes.set(id, now + interval.max(SPREAD));
        if up {
            self.tell_up(now, id);
        }
        if down {
            self.tell_down(now, id, DownCause::Misses);
        }
        down
    }

    /// Elements whose host is a name, and groups from DNS: the shell looks them up and calls
    /// [`Groups::set_addresses`] and [`Groups::set_elements`].
    pub fn names(&self) -> impl Iterator<Item = (ElementId, &ElementConfig)> {
        let named = |(id, element): (&ElementId, &_)| {
            let element: &Element = element;
            let numeric = element.config.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
            (!numeric).then_some(*id)
        };
        self.groups.iter().flat_map(move |group| {
            let ids = group.ids.iter().zip(&group.elements);
            ids.filter_map(move |(id, element)| named((id, element)).map(|id| (id, &element.config)))
        })
    }

    /// An element lives at that address.
    pub fn has_element_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.groups
            .iter()
            .flat_map(|group| &group.elements)
            .any(|element| element.addresses.iter().any(|have| have.ip().to_canonical() == address))
    }

    /// Where the elements are, all addresses of each.
    pub fn hops(&self) -> impl Iterator<Item = Hop> {
        self.groups.iter().flat_map(|group| &group.elements).flat_map(|element| {
            let config = &element.config;
            element.addresses.iter().map(|address| Hop {
                address: *address,
                transport: config.transport,
                host: config.host.as_str().into(),
            })
        })
    }

    /// Groups whose elements come from DNS.
    pub fn dns_groups(&self) -> impl Iterator<Item = (&str, Transport)> {
        self.groups.iter().filter_map(|group| Some((&*group.config.name, group.config.dns?)))
    }

    /// Where an element's name leads. The one in use stays the first as long as the name still leads there.
    pub fn set_addresses(&mut self, id: ElementId, addresses: &[SocketAddr]) {
        if let Some((_, element)) = self.element(id)
            && !addresses.is_empty()
        {
            let used = element.addresses.first().copied().filter(|used| addresses.contains(used));
            let others = addresses.iter().copied().filter(|address| Some(*address) != used);
            element.addresses = used.into_iter().chain(others).collect();
        }
        self.mark_away();
    }

    /// The node that serves at an address drains or is gone, or is there again. Elements of it are asked when nobody else
    /// can be.
    pub fn set_away(&mut self, address: SocketAddr, away: bool) {
        let changed = if away { self.away.insert(address) } else { self.away.remove(&address) };
        if changed {
            self.mark_away();
        }
    }

    fn mark_away(&mut self) {
        for element in self.groups.iter_mut().flat_map(|group| &mut group.elements) {
            element.away = is_away(&self.away, element);
        }
    }

    /// A person drains an element, or takes it back; false when there is none.
    pub fn set_drained(&mut self, name: &str, address: &str, drained: bool) -> bool {
        let Some(group) = self.at(name).and_then(|at| self.groups.get_mut(at)) else { return false };
        let Some(element) = group.elements.iter_mut().find(|element| element.config.address == address) else {
            return false;
        };
        element.drained = Some(drained);
        self.drained.set(&group.config.name, address, drained);
        let groups = &self.groups;
        let group = |name: &str| groups.iter().find(|group| *group.config.name == *name);
        let has = |group: &Group, address: &str| group.elements.iter().any(|have| have.config.address == address);
        self.drained.tidy(
            |name, address| group(name).is_some_and(|group| has(group, address)),
            |name| group(name).is_some_and(|group| group.config.dns.is_some()),
        );
        true
    }

    /// What a person drained or took back, for the next start.
    pub fn drained(&self) -> &Drained {
        &self.drained
    }

    /// Takes up what was drained before the start; elements that DNS has yet to name are drained when it does.
    pub fn restore_drained(&mut self, drained: Drained) {
        self.drained = drained;
        for group in &mut self.groups {
            for element in &mut group.elements {
                element.drained = self.drained.of(&group.config.name, &element.config.address);
            }
        }
    }

    /// The next thing to say.
    pub fn poll_event(&mut self) -> Option<GroupEvent> {
        self.events.pop_front()
    }

    /// What a person sees of the groups.
    pub fn view(&self, now: Instant) -> Vec<GroupView> {
        self.groups.iter().map(|group| view::of(now, &group.config, &group.elements)).collect()
    }
}

/// All that an element has is away.
fn is_away(away: &HashSet<SocketAddr>, element: &Element) -> bool {
    !element.addresses.is_empty() && element.addresses.iter().all(|address| away.contains(address))
}
