//! The members of the cluster as one node sees them: who may come in, who is up, whom to dial.
//!
//! # One link a pair
//!
//! Both nodes may dial, and both may do so at once. The node with the smaller id is the arbiter: a connection becomes the
//! link when the arbiter says `go`, and it says so only while it has no link to that node. So both sides always choose
//! the same connection, and none that carries messages is ever dropped for another one. If the arbiter says `go` while
//! the other side still believes in an older link, the arbiter has given that one up: it goes down first, then the new
//! one comes up. A hole in what was delivered is always between a `Down` and an `Up`.
//!
//! # The same id twice
//!
//! A second connection of a node in another run (another [`Incarnation`]) is a node that restarted, or two nodes with one
//! id. The next heartbeats of the old run tell: if one comes when the newcomer has waited for an interval, the newcomer
//! is refused; if the old run becomes suspect or its connection ends, the newcomer takes its place.
//!
//! # Time
//!
//! One deadline for all: [`Membership::poll_timeout`]. A look at the clock walks over all members, of which there are at
//! most [`Settings::max_members`], some dozens in practice, each with its next heartbeat some 100 ms away.

mod book;
mod event;
mod links;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::admission::{self, Admission};
use crate::clock::{self, ClockWatch};
use crate::detector::{Beat, Detector, Verdict};
use crate::heartbeat::Heartbeat;
use crate::hello::{BookEntry, ControlFrame, Hello, Profile};
use crate::identity::NodeId;
use crate::protocol::Protocol;
use crate::quality::QualityMeter;
use crate::redial::Redial;
use crate::refusal::{Refusal, RefusalKind};

pub use event::{
    Change, CloseReason, DownCause, Event, Greeting, LinkId, Member, MemberState, Output, RefusedBy, Settings,
};

/// The same refusal of the same address is said again after this.
const REFUSAL_QUIET: Duration = Duration::from_secs(30);
/// So many refusals are remembered in order not to repeat them.
const REFUSALS_REMEMBERED: usize = 256;
/// A node that woke later than this was asleep itself.
const STALL: Duration = Duration::from_millis(100);
/// A connection that waits for longer is given up.
const CANDIDATE_WAIT: Duration = Duration::from_secs(5);
/// So many connections of one node wait at once; a further one takes the place of the oldest.
const CANDIDATES_A_NODE: usize = 4;

/// The members of the cluster, without sockets and clocks.
#[derive(Debug)]
pub struct Membership {
    settings: Settings,
    profile: Profile,
    start: Instant,
    peers: BTreeMap<NodeId, Peer>,
    links: HashMap<LinkId, NodeId>,
    /// Connections whose hello was fine and that wait: for `go`, or for what becomes of the older run.
    candidates: BTreeMap<LinkId, Candidate>,
    redial: Redial,
    refusals: HashMap<(Option<NodeId>, IpAddr, RefusalKind, RefusedBy), Instant>,
    outputs: VecDeque<Output>,
    leaving: bool,
}

#[derive(Debug)]
struct Peer {
    member: Member,
    link: Option<Link>,
    /// When anybody heard of it, as far as this node knows.
    heard: Instant,
    linked_before: bool,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    detector: Detector,
    meter: QualityMeter,
    clock: ClockWatch,
    seq: u64,
    next_beat: Instant,
    echo: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Candidate {
    greeting: Greeting,
    protocol: Protocol,
    since: Instant,
    go: bool,
}

impl Membership {
    /// A membership that knows only itself and its seeds.
    pub fn new(now: Instant, settings: Settings) -> Self {
        let seeds: Vec<_> =
            settings.seeds.iter().filter(|at| !settings.profile.addresses.contains(at)).copied().collect();
        Self {
            profile: settings.profile.clone(),
            start: now,
            peers: BTreeMap::new(),
            links: HashMap::new(),
            candidates: BTreeMap::new(),
            redial: Redial::new(now, &seeds, settings.back_off, settings.seed),
            refusals: HashMap::new(),
            outputs: VecDeque::new(),
            leaving: false,
            settings,
        }
    }

    /// What this node says first on a connection.
    pub fn hello(&self, wall_ms: u64) -> Hello {
        let own = &self.settings.own;
        Hello {
            cluster: own.cluster.clone(),
            node: own.identity.node.clone(),
            site: own.identity.site.clone(),
            incarnation: own.incarnation,
            protocol: own.protocol,
            wall_ms,
            inside: self.settings.inside.into(),
            between: self.settings.between.into(),
            profile: self.profile.clone(),
        }
    }

    /// All other nodes that are known, by id.
    pub fn members(&self) -> Vec<Member> {
        let with_link = |peer: &Peer| {
            let mut member = peer.member.clone();
            if let Some(link) = &peer.link {
                member.quality = Some(link.meter.quality());
                member.clock_ahead_ms = link.clock.ahead_ms();
            }
            member
        };
        self.peers.values().map(with_link).collect()
    }

    /// Both hellos were said on a connection.
    pub fn handle_greeting(&mut self, now: Instant, wall_ms: u64, greeting: Greeting) {
        if self.leaving {
            return self.outputs.push_back(Output::Close(greeting.link, CloseReason::Leaving));
        }
        let node = greeting.hello.node.clone();
        let own = &self.settings.own;
        let protocol = match admission::judge(own, &greeting.certificate, &greeting.hello, wall_ms, greeting.rtt) {
            Admission::Welcome(protocol) => protocol,
            Admission::Myself => {
                if let Some(at) = greeting.dialled {
                    self.redial.is_own(at);
                }
                return self.outputs.push_back(Output::Close(greeting.link, CloseReason::Myself));
            }
            Admission::Refused(refusal) => return self.refuse(now, &greeting, refusal),
        };
        if !self.make_room(now, &greeting) {
            let text = format!("{} members are known already", self.settings.max_members);
            return self.refuse(now, &greeting, Refusal::new(RefusalKind::Full, text));
        }
        if let Some(at) = greeting.dialled {
            self.redial.reached(now, at, &node);
        }
        let running = self.peers.get(&node).filter(|peer| peer.link.is_some());
        let same_run = running.is_some_and(|peer| peer.member.incarnation == greeting.hello.incarnation);
        let running = running.is_some();
        let link = greeting.link;
        let candidate = Candidate { greeting, protocol, since: now, go: false };
        if running && same_run && self.is_arbiter(&node) {
            self.outputs.push_back(Output::Close(link, CloseReason::Duplicate));
        } else if running || !self.is_arbiter(&node) {
            self.wait(candidate);
        } else {
            self.up(now, wall_ms, candidate);
        }
    }

    /// The peer said `go`.
    pub fn handle_go(&mut self, now: Instant, wall_ms: u64, link: LinkId) {
        let Some(candidate) = self.candidates.get_mut(&link) else { return };
        let node = candidate.greeting.hello.node.clone();
        if node > self.settings.own.identity.node {
            return; // only the arbiter's word counts
        }
        candidate.go = true;
        let run = candidate.greeting.hello.incarnation;
        let older = self.peers.get(&node).filter(|peer| peer.link.is_some()).map(|peer| peer.member.incarnation);
        match older {
            Some(older) if older != run => {} // its own heartbeats decide
            Some(_) => self.replace(now, wall_ms, &node),
            None => self.promote(now, wall_ms, &node),
        }
    }

    /// A heartbeat came on a link.
    pub fn handle_heartbeat(&mut self, now: Instant, wall_ms: u64, link: LinkId, beat: &Heartbeat) {
        let Some(node) = self.links.get(&link).cloned() else { return };
        let now_us = micros(now.saturating_duration_since(self.start));
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(link) = &mut peer.link else { return };
        peer.heard = now;
        if link.detector.handle_heartbeat(now) {
            peer.member.state = MemberState::Alive;
            self.outputs.push_back(changed(&node, Change::Recovered));
        }
        if link.meter.handle_heartbeat(now_us, beat) {
            link.echo = Some((beat.sent_us, now));
            let rtt = link.meter.quality().rtt.unwrap_or_default();
            let ahead_ms = clock::ahead_ms(beat.wall_ms, wall_ms, rtt);
            if let Some(alarm) = link.clock.handle_reading(now, ahead_ms) {
                self.outputs.push_back(Output::Event(Event::Clock { node: node.clone(), ahead_ms, alarm }));
            }
        }
        let interval = link.detector.beat().interval;
        let run = peer.member.incarnation;
        self.refuse_challenger(now, &node, run, interval);
    }

    /// A peer says something else of itself.
    pub fn handle_profile(&mut self, now: Instant, link: LinkId, profile: Profile) {
        let Some(node) = self.links.get(&link).cloned() else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.member.profile == profile {
            return;
        }
        if !profile.addresses.is_empty() && profile.addresses != peer.member.addresses {
            peer.member.addresses.clone_from(&profile.addresses);
            self.redial.set_addresses(now, &node, &profile.addresses);
            peer.member.profile = profile;
            self.tell_others(&node);
        } else {
            peer.member.profile = profile;
        }
        self.outputs.push_back(changed(&node, Change::Profile));
    }

    /// A peer tells of nodes it knows.
    pub fn handle_book(&mut self, now: Instant, link: LinkId, entries: &[BookEntry]) {
        if self.links.contains_key(&link) {
            self.learn(now, entries);
        }
    }

    /// A peer goes for good.
    pub fn handle_leaving(&mut self, now: Instant, link: LinkId) {
        if let Some(node) = self.links.get(&link).cloned() {
            self.down(now, &node, DownCause::Left, Some(CloseReason::Leaving));
        }
    }

    /// A connection ended by itself; `reason` is what the peer said, if it said something.
    pub fn handle_closed(&mut self, now: Instant, wall_ms: u64, link: LinkId, reason: Option<CloseReason>) {
        if let Some(candidate) = self.candidates.remove(&link) {
            if let Some(CloseReason::Refused(refusal)) = reason {
                let greeting = candidate.greeting;
                self.failed(now, greeting.dialled, true);
                self.say_refused(now, Some(greeting.hello.node), greeting.remote, RefusedBy::Peer, refusal);
            }
            return;
        }
        let Some(node) = self.links.get(&link).cloned() else { return };
        let cause = match &reason {
            Some(CloseReason::Leaving) => DownCause::Left,
            Some(CloseReason::Silent) => DownCause::PeerHeardNothing,
            Some(CloseReason::Replaced) => DownCause::Replaced,
            Some(CloseReason::Duplicate | CloseReason::Myself | CloseReason::Refused(_)) | None => DownCause::Closed,
        };
        self.down(now, &node, cause, None);
        if let Some(CloseReason::Refused(refusal)) = reason {
            self.redial.refused(now, &node);
            let address = self.peers.get(&node).and_then(|peer| peer.member.addresses.first()).copied();
            if let Some(address) = address {
                self.say_refused(now, Some(node.clone()), address, RefusedBy::Peer, refusal);
            }
        }
        self.promote(now, wall_ms, &node);
    }

    /// A dial led to no greeting; `reason` is what the peer said, or why this node did not want it.
    pub fn handle_dial_failed(&mut self, now: Instant, address: SocketAddr, reason: Option<(RefusedBy, CloseReason)>) {
        match reason {
            Some((by, CloseReason::Refused(refusal))) => {
                self.failed(now, Some(address), true);
                self.say_refused(now, None, address, by, refusal);
            }
            Some((_, CloseReason::Myself)) => self.redial.is_own(address),
            _ => self.failed(now, Some(address), false),
        }
    }

    /// A connection that came in was refused before its greeting, by TLS or for what it said.
    pub fn handle_refused(
        &mut self,
        now: Instant,
        node: Option<NodeId>,
        address: SocketAddr,
        by: RefusedBy,
        why: Refusal,
    ) {
        self.say_refused(now, node, address, by, why);
    }

    /// This node takes nothing new, or does so again.
    pub fn set_draining(&mut self, draining: bool) {
        if std::mem::replace(&mut self.profile.draining, draining) != draining {
            for link in self.links_in_order() {
                self.outputs.push_back(Output::Frame(link, ControlFrame::Profile(self.profile.clone())));
            }
        }
    }

    /// This node goes for good: its peers hear so and close. Nothing is dialled or let in from now on.
    pub fn leave(&mut self) {
        self.leaving = true;
        for link in std::mem::take(&mut self.candidates).into_keys() {
            self.outputs.push_back(Output::Close(link, CloseReason::Leaving));
        }
        for link in self.links_in_order() {
            self.outputs.push_back(Output::Frame(link, ControlFrame::Leaving));
        }
    }

    /// Looks at the clock: heartbeats, verdicts, dials.
    pub fn handle_timeout(&mut self, now: Instant, wall_ms: u64) {
        self.forgive_own_sleep(now);
        self.expire_candidates(now);
        for node in self.peers.keys().cloned().collect::<Vec<_>>() {
            self.beat(now, wall_ms, &node);
            self.judge(now, wall_ms, &node);
        }
        if !self.leaving {
            let (peers, candidates) = (&self.peers, &self.candidates);
            let due = self.redial.due(now, |node| is_wanted(peers, candidates, node));
            self.outputs.extend(due.into_iter().map(Output::Dial));
        }
    }

    /// What to do next; call until `None` after each input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let peers = self.peers.values().filter_map(|peer| match &peer.link {
            Some(link) => Some(link.next_beat.min(link.detector.poll_timeout())),
            None => peer.heard.checked_add(self.settings.forget_after),
        });
        let wanted = |node: &NodeId| is_wanted(&self.peers, &self.candidates, node);
        let dial = (!self.leaving).then(|| self.redial.poll_timeout(wanted)).flatten();
        let waiting = self.candidates.values().map(|candidate| candidate.since + CANDIDATE_WAIT);
        peers.chain(waiting).chain(dial).min()
    }

    fn is_arbiter(&self, node: &NodeId) -> bool {
        self.settings.own.identity.node < *node
    }

    fn beat_with(&self, hello: &Hello) -> Beat {
        if hello.site == self.settings.own.identity.site {
            self.settings.inside.agree(hello.inside.into())
        } else {
            self.settings.between.agree(hello.between.into())
        }
    }

    fn links_in_order(&self) -> Vec<LinkId> {
        self.peers.values().filter_map(|peer| peer.link.as_ref()).map(|link| link.id).collect()
    }

    /// Sends a heartbeat if it is time.
    fn beat(&mut self, now: Instant, wall_ms: u64, node: &NodeId) {
        let sent_us = micros(now.saturating_duration_since(self.start));
        let Some(link) = self.peers.get_mut(node).and_then(|peer| peer.link.as_mut()) else { return };
        if now < link.next_beat {
            return;
        }
        let interval = link.detector.beat().interval;
        // In step with the clock, but no heartbeats are made up for a time slept through.
        link.next_beat = (link.next_beat + interval).max(now + interval / 2);
        link.seq += 1;
        let (echo_us, held) = link.echo.map_or((0, Duration::ZERO), |(us, at)| (us, now.saturating_duration_since(at)));
        let held_us = u32::try_from(held.as_micros()).unwrap_or(u32::MAX);
        let echo_us = if held_us == u32::MAX { 0 } else { echo_us };
        let beat = Heartbeat { seq: link.seq, sent_us, echo_us, held_us, wall_ms };
        self.outputs.push_back(Output::Heartbeat(link.id, beat.encode()));
    }

    /// Judges the silence of a node.
    fn judge(&mut self, now: Instant, wall_ms: u64, node: &NodeId) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(link) = &mut peer.link else {
            if now.saturating_duration_since(peer.heard) >= self.settings.forget_after {
                self.peers.remove(node);
                self.redial.forget(now, node);
                self.outputs.push_back(changed(node, Change::Forgotten));
            }
            return;
        };
        match link.detector.handle_timeout(now) {
            None => {}
            Some(Verdict::Suspect) => {
                peer.member.state = MemberState::Suspect;
                let run = peer.member.incarnation;
                let other_run = |c: &Candidate| c.greeting.hello.node == *node && c.greeting.hello.incarnation != run;
                if self.candidates.values().any(other_run) {
                    self.replace(now, wall_ms, node);
                } else {
                    self.outputs.push_back(changed(node, Change::Suspect));
                }
            }
            Some(Verdict::Dead { silent }) => {
                self.down(now, node, DownCause::Silent(silent), Some(CloseReason::Silent));
                self.promote(now, wall_ms, node);
            }
        }
    }

    /// If this node woke late, the time it slept is nobody's silence.
    fn forgive_own_sleep(&mut self, now: Instant) {
        let due = self.peers.values().filter_map(|peer| peer.link.as_ref()).map(|link| link.next_beat).min();
        let Some(late) = due.map(|due| now.saturating_duration_since(due)).filter(|late| *late > STALL) else { return };
        for link in self.peers.values_mut().filter_map(|peer| peer.link.as_mut()) {
            link.detector.forgive(now, late);
        }
        self.outputs.push_back(Output::Event(Event::Stalled(late)));
    }

    fn refuse(&mut self, now: Instant, greeting: &Greeting, refusal: Refusal) {
        self.failed(now, greeting.dialled, true);
        self.outputs.push_back(Output::Close(greeting.link, CloseReason::Refused(refusal.clone())));
        let node = Some(greeting.certificate.node.clone());
        self.say_refused(now, node, greeting.remote, RefusedBy::Us, refusal);
    }

    fn failed(&mut self, now: Instant, dialled: Option<SocketAddr>, refused: bool) {
        if let Some(at) = dialled {
            self.redial.failed(now, at, refused);
        }
    }

    /// Says a refusal, unless it was said a moment ago: who is refused dials again and again.
    fn say_refused(
        &mut self,
        now: Instant,
        node: Option<NodeId>,
        address: SocketAddr,
        by: RefusedBy,
        refusal: Refusal,
    ) {
        self.refusals.retain(|_, said| now.saturating_duration_since(*said) < REFUSAL_QUIET);
        let key = (node.clone(), address.ip(), refusal.kind, by);
        if self.refusals.contains_key(&key) || self.refusals.len() >= REFUSALS_REMEMBERED {
            return;
        }
        self.refusals.insert(key, now);
        self.outputs.push_back(Output::Event(Event::Refused { node, address, by, refusal }));
    }
}

/// Whether a link to this node is missing and none is about to come up.
fn is_wanted(peers: &BTreeMap<NodeId, Peer>, candidates: &BTreeMap<LinkId, Candidate>, node: &NodeId) -> bool {
    peers.get(node).is_none_or(|peer| peer.link.is_none())
        && !candidates.values().any(|candidate| candidate.greeting.hello.node == *node)
}

fn changed(node: &NodeId, change: Change) -> Output {
    Output::Event(Event::Changed { node: node.clone(), change })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
