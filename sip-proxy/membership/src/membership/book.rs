//! Addresses of nodes: what is told to others, and what is learned from them.

use std::time::{Duration, Instant};

use super::{Change, Greeting, Member, MemberState, Membership, Output, Peer, changed};
use crate::hello::{BookEntry, ControlFrame, MAX_ADDRESSES, Profile};
use crate::identity::NodeId;

impl Membership {
    /// The nodes that can be told of: all that did not leave.
    pub(super) fn book(&self, now: Instant) -> Vec<BookEntry> {
        let known = |peer: &&Peer| peer.member.state != MemberState::Left && !peer.member.addresses.is_empty();
        self.peers.values().filter(known).map(|peer| entry(now, peer)).collect()
    }

    /// Tells all others where a node is.
    pub(super) fn tell_others(&mut self, node: &NodeId) {
        let Some(peer) = self.peers.get(node) else { return };
        let entries = vec![entry(peer.heard, peer)];
        for link in self.links_in_order().into_iter().filter(|link| self.links.get(link) != Some(node)) {
            self.outputs.push_back(Output::Frame(link, ControlFrame::Book { entries: entries.clone() }));
        }
    }

    /// Takes in what a peer told of others. What this node knows of its own links is not touched.
    pub(super) fn learn(&mut self, now: Instant, entries: &[BookEntry]) {
        for entry in entries {
            let silent = Duration::from_secs(entry.silent_s);
            if entry.node == self.settings.own.identity.node || silent >= self.settings.forget_after {
                continue;
            }
            let heard = now.checked_sub(silent).unwrap_or(self.start);
            let addresses: Vec<_> = entry.addresses.iter().take(MAX_ADDRESSES).copied().collect();
            if let Some(peer) = self.peers.get_mut(&entry.node) {
                let stale = peer.member.state == MemberState::Left && peer.member.incarnation == entry.incarnation;
                if peer.link.is_some() || stale {
                    continue;
                }
                peer.heard = peer.heard.max(heard);
                if peer.member.state == MemberState::Left {
                    peer.member.state = MemberState::Known;
                    peer.member.incarnation = entry.incarnation;
                }
                peer.member.addresses.clone_from(&addresses);
            } else if self.peers.len() < self.settings.max_members {
                let member = Member {
                    node: entry.node.clone(),
                    site: entry.site.clone(),
                    incarnation: entry.incarnation,
                    state: MemberState::Known,
                    since: now,
                    protocol: None,
                    profile: Profile::default(),
                    addresses: addresses.clone(),
                    quality: None,
                    clock_ahead_ms: 0,
                };
                self.peers.insert(entry.node.clone(), Peer { member, link: None, heard, linked_before: false });
                self.outputs.push_back(changed(&entry.node, Change::Known));
            } else {
                continue;
            }
            self.redial.set_addresses(now, &entry.node, &addresses);
        }
    }

    /// Makes room for a newcomer: who left goes first, then who has been dead for longest.
    pub(super) fn make_room(&mut self, now: Instant, greeting: &Greeting) -> bool {
        if self.peers.contains_key(&greeting.hello.node) || self.peers.len() < self.settings.max_members {
            return true;
        }
        let gone = self.peers.values().filter(|peer| peer.link.is_none());
        let least =
            gone.max_by_key(|peer| (peer.member.state == MemberState::Left, now.saturating_duration_since(peer.heard)));
        let Some(node) = least.map(|peer| peer.member.node.clone()) else { return false };
        self.peers.remove(&node);
        self.redial.forget(now, &node);
        self.outputs.push_back(changed(&node, Change::Forgotten));
        true
    }
}

fn entry(now: Instant, peer: &Peer) -> BookEntry {
    let member = &peer.member;
    let silent = if member.is_up() { Duration::ZERO } else { now.saturating_duration_since(peer.heard) };
    BookEntry {
        node: member.node.clone(),
        site: member.site.clone(),
        incarnation: member.incarnation,
        addresses: member.addresses.clone(),
        silent_s: silent.as_secs(),
    }
}
