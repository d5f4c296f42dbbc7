//! Connections on their way to being a link, and links on their way out.

use std::time::{Duration, Instant};

use super::{
    CANDIDATE_WAIT, CANDIDATES_A_NODE, Candidate, CloseReason, DownCause, Event, Greeting, Link, Member, MemberState,
    Membership, Output, Peer,
};
use crate::clock::{self, ClockWatch};
use crate::detector::Detector;
use crate::hello::ControlFrame;
use crate::identity::{Incarnation, NodeId};
use crate::quality::QualityMeter;
use crate::refusal::{Refusal, RefusalKind};

impl Membership {
    /// A connection becomes the link to its node.
    pub(super) fn up(&mut self, now: Instant, wall_ms: u64, candidate: Candidate) {
        let Candidate { greeting: Greeting { link, remote, hello, rtt, .. }, protocol, .. } = candidate;
        let node = hello.node.clone();
        let beat = self.beat_with(&hello);
        let addresses = if hello.profile.addresses.is_empty() { vec![remote] } else { hello.profile.addresses.clone() };
        let before = self.peers.remove(&node);
        let restarted =
            before.as_ref().is_some_and(|peer| peer.linked_before && peer.member.incarnation != hello.incarnation);
        let news = before.as_ref().is_none_or(|peer| peer.member.addresses != addresses);
        let ahead_ms = clock::ahead_ms(hello.wall_ms, wall_ms, rtt);
        let mut watch = ClockWatch::default();
        watch.handle_reading(now, ahead_ms);
        let link_state = Link {
            id: link,
            detector: Detector::new(now, beat),
            meter: QualityMeter::default(),
            clock: watch,
            seq: 0,
            next_beat: now,
            echo: None,
        };
        let member = Member {
            node: node.clone(),
            site: hello.site,
            incarnation: hello.incarnation,
            state: MemberState::Alive,
            since: now,
            protocol: Some(protocol),
            profile: hello.profile,
            addresses: addresses.clone(),
            quality: None,
            clock_ahead_ms: ahead_ms,
        };
        self.peers.insert(node.clone(), Peer { member, link: Some(link_state), heard: now, linked_before: true });
        self.links.insert(link, node.clone());
        self.redial.set_addresses(now, &node, &addresses);
        if self.is_arbiter(&node) {
            self.outputs.push_back(Output::Frame(link, ControlFrame::Go));
        }
        // Said now and not in the hello: what changes until the link is up would be told to nobody.
        self.outputs.push_back(Output::Frame(link, ControlFrame::Profile(self.profile.clone())));
        self.outputs.push_back(Output::Frame(link, ControlFrame::Book { entries: self.book(now) }));
        self.outputs.push_back(Output::Up { link, node: node.clone(), protocol });
        let incarnation = hello.incarnation;
        self.outputs.push_back(Output::Event(Event::Up { node: node.clone(), incarnation, protocol, restarted }));
        if news {
            self.tell_others(&node);
        }
    }

    /// The link to a node is no more; `close` if it is this node that ends it.
    pub(super) fn down(&mut self, now: Instant, node: &NodeId, cause: DownCause, close: Option<CloseReason>) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(link) = peer.link.take() else { return };
        self.links.remove(&link.id);
        peer.member.state = if cause == DownCause::Left { MemberState::Left } else { MemberState::Dead };
        peer.member.since = now;
        peer.member.clock_ahead_ms = link.clock.ahead_ms();
        if let Some(reason) = close {
            self.outputs.push_back(Output::Close(link.id, reason));
        }
        if cause == DownCause::Left {
            self.redial.forget(now, node);
        } else {
            self.redial.hurry(now, node);
        }
        self.outputs.push_back(Output::Event(Event::Down { node: node.clone(), cause }));
    }

    /// The candidate of a node takes the place of its link.
    pub(super) fn replace(&mut self, now: Instant, wall_ms: u64, node: &NodeId) {
        self.down(now, node, DownCause::Replaced, Some(CloseReason::Replaced));
        self.promote(now, wall_ms, node);
    }

    /// The candidate of a node without link becomes its link, if the arbiter agrees.
    pub(super) fn promote(&mut self, now: Instant, wall_ms: u64, node: &NodeId) {
        let arbiter = self.is_arbiter(node);
        let ready = self.candidates.iter().find(|(_, c)| c.greeting.hello.node == *node && (arbiter || c.go));
        if let Some(link) = ready.map(|(link, _)| *link)
            && let Some(candidate) = self.candidates.remove(&link)
        {
            self.up(now, wall_ms, candidate);
        }
    }

    /// Keeps a connection until it is decided.
    pub(super) fn wait(&mut self, candidate: Candidate) {
        let same = |other: &Candidate| other.greeting.hello.node == candidate.greeting.hello.node;
        let waiting: Vec<_> = self.candidates.iter().filter(|(_, other)| same(other)).map(|(link, _)| *link).collect();
        if waiting.len() >= CANDIDATES_A_NODE
            && let Some(oldest) = waiting.first()
        {
            self.candidates.remove(oldest);
            self.outputs.push_back(Output::Close(*oldest, CloseReason::Duplicate));
        }
        self.candidates.insert(candidate.greeting.link, candidate);
    }

    /// Gives up connections that have waited for too long.
    pub(super) fn expire_candidates(&mut self, now: Instant) {
        let outputs = &mut self.outputs;
        self.candidates.retain(|link, candidate| {
            let keep = now.saturating_duration_since(candidate.since) < CANDIDATE_WAIT;
            if !keep {
                outputs.push_back(Output::Close(*link, CloseReason::Duplicate));
            }
            keep
        });
    }

    /// The run that is linked lives: a newcomer with its id that has waited for an interval is refused.
    pub(super) fn refuse_challenger(&mut self, now: Instant, node: &NodeId, run: Incarnation, interval: Duration) {
        let challenger = self.candidates.iter().find(|(_, candidate)| {
            let hello = &candidate.greeting.hello;
            hello.node == *node
                && hello.incarnation != run
                && now.saturating_duration_since(candidate.since) >= interval
        });
        if let Some(link) = challenger.map(|(link, _)| *link)
            && let Some(candidate) = self.candidates.remove(&link)
        {
            let text =
                format!("another running node has the id {node}: give each node an id and a certificate of its own");
            self.refuse(now, &candidate.greeting, Refusal::new(RefusalKind::DuplicateId, text));
        }
    }
}
