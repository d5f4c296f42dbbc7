//! Which node has copies of whose dialogs, and what the two say to each other.
//!
//! ```text
//! owner                                    partner
//!   | Batch (restart, all), Batch ... -------> Replicas
//!   | <------------------------------- Taken |
//!   | <--- Relay (a request that came there) |      the peer found the partner
//!   | Send (the answer) -------------------> |  ---> out, where the connection is
//!   X  down -------------------------------> | adopt
//!   :  is back, was only cut off: Batch ---> | Mine (its epoch is higher)
//!   | gives the dialogs up <-----------------|
//! ```
//!
//! - The partner is the one that the configuration names, else the next SRS node of the own site by id, else of another site;
//!   one that drains is none. It changes with who is there, and then everything is told anew to the new one.
//! - At most [`WINDOW`] batches are on their way. What changes meanwhile waits in the tables of the [`Srs`] and is told once.
//! - A node that says goodbye has ended its calls. One that was started anew is dead, whoever sees it so soon again.
//! - A request that was relayed to a node which then died is served here as soon as its dialog is.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::dialog::DialogId;
use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use serde::{Deserialize, Serialize};

use super::{Batch, Replicas, ReplicasLimits, Update};
use crate::event::InviteId;
use crate::port::{RecordingId, base64_text};
use crate::srs::{AdoptedRecording, Ownership, Srs};

/// Batches that are on their way.
const WINDOW: usize = 8;
/// About how long a batch is, in bytes.
const BATCH: usize = 32 << 10;
/// A relayed request is remembered for so long, unless it was answered.
const RELAYED_FOR: Duration = Duration::from_secs(3);
/// Relayed requests that are remembered.
const MOST_RELAYED: usize = 1_024;
/// Nodes that flows can lead through.
const MOST_NODES: usize = 0x7fff;

/// What nodes say about dialogs. JSON; unknown fields are ignored, fields that came later have a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Say {
    /// Keep this for me.
    Batch {
        /// Counts the batches to this node.
        number: u64,
        /// What changed.
        batch: Batch,
    },
    /// A batch was taken.
    Taken {
        /// Which.
        number: u64,
    },
    /// Another node keeps my dialogs now.
    Forget,
    /// This dialog is mine: you have it under a lower epoch.
    Mine {
        /// Which.
        dialog: DialogId,
        /// The INVITE that began it.
        invite: InviteId,
        /// My epoch.
        epoch: u32,
    },
    /// A request of a peer came here and is for a dialog of yours.
    Relay {
        /// How it came.
        flow: Flow,
        /// The message.
        #[serde(with = "base64_text")]
        message: Bytes,
    },
    /// Send this by a way of yours.
    Send {
        /// Which way.
        flow: Flow,
        /// The message.
        #[serde(with = "base64_text")]
        message: Bytes,
    },
}

/// What is to be done, in this order and before anything that the [`Srs`] wants.
#[derive(Debug, Clone, PartialEq)]
pub enum PairingOutput {
    /// A node hears this.
    Say {
        /// Which.
        to: String,
        /// What.
        say: Box<Say>,
    },
    /// Capture is told that these recordings are this node's now.
    Adopted(Vec<AdoptedRecording>),
    /// Capture is told that these are another node's.
    Forget(Vec<RecordingId>),
    /// The ledger is told that a node has the call of an INVITE.
    GivenUp {
        /// Which INVITE.
        invite: InviteId,
        /// Which node.
        to: String,
    },
    /// This goes out by a way of this node.
    Transmit {
        /// Which way.
        flow: Flow,
        /// What.
        bytes: Bytes,
    },
}

/// Another SRS node that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    site: String,
    draining: bool,
}

#[derive(Debug)]
struct Relayed {
    at: Instant,
    owner: String,
    flow: Flow,
    message: Message,
}

/// One node's part in the pairs.
#[derive(Debug)]
pub struct Pairing {
    node: String,
    site: String,
    /// The partner that the configuration names.
    named: Option<String>,
    peers: BTreeMap<String, Peer>,
    partner: Option<String>,
    /// A partner before, that keeps its copies until the new one has all.
    former: Option<String>,
    number: u64,
    /// Batches that were not taken yet, with when they went.
    waiting: VecDeque<(u64, Instant)>,
    replicas: Replicas,
    relayed: VecDeque<Relayed>,
    /// Nodes by the number that stands in flows through them.
    numbers: Vec<String>,
    adopted: u64,
    outputs: VecDeque<PairingOutput>,
}

impl Pairing {
    /// A node without others.
    pub fn new(node: &str, site: &str, named: Option<String>, limits: ReplicasLimits) -> Pairing {
        Pairing {
            node: node.to_owned(),
            site: site.to_owned(),
            named,
            peers: BTreeMap::new(),
            partner: None,
            former: None,
            number: 0,
            waiting: VecDeque::new(),
            replicas: Replicas::new(limits),
            relayed: VecDeque::new(),
            numbers: Vec::new(),
            adopted: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<PairingOutput> {
        self.outputs.pop_front()
    }

    /// Who has copies of this node's dialogs.
    pub fn partner(&self) -> Option<&str> {
        self.partner.as_deref()
    }

    /// How long the oldest batch waits to be taken.
    pub fn lag(&self, now: Instant) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at))
    }

    /// Copies that are kept for others.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// Dialogs taken over since the start.
    pub fn adopted(&self) -> u64 {
        self.adopted
    }

    /// The link to an SRS node is up, or it says something else of itself. `restarted`: its run before is dead.
    pub fn up(&mut self, now: Instant, srs: &mut Srs, node: &str, site: &str, draining: bool, restarted: bool) {
        if restarted {
            self.adopt(now, srs, node);
        }
        self.peers.insert(node.to_owned(), Peer { site: site.to_owned(), draining });
        self.choose(srs);
    }

    /// The link to a node is another one: that it is up follows.
    pub fn replaced(&mut self, srs: &mut Srs, node: &str) {
        self.peers.remove(node);
        self.choose(srs);
    }

    /// The link to a node is down. `left`: it said goodbye.
    pub fn down(&mut self, now: Instant, srs: &mut Srs, node: &str, left: bool) {
        self.peers.remove(node);
        if left {
            self.replicas.forget(node);
        } else {
            self.adopt(now, srs, node);
        }
        self.choose(srs);
    }

    /// Takes what a node says.
    pub fn handle(&mut self, now: Instant, srs: &mut Srs, from: &str, say: Say) {
        match say {
            Say::Batch { number, batch } => {
                for update in &batch.updates {
                    if let Update::Session(replica) = update {
                        let (dialog, invite) = (replica.dialog.id.clone(), replica.invite);
                        self.compare(now, srs, from, &dialog, invite, replica.epoch);
                    }
                }
                self.replicas.take(now, from, batch);
                self.say(from, Say::Taken { number });
            }
            Say::Taken { number } => {
                if self.partner.as_deref() == Some(from) {
                    self.waiting.retain(|(waiting, _)| *waiting > number);
                }
            }
            Say::Forget => self.replicas.forget(from),
            Say::Mine { dialog, invite, epoch } => self.compare(now, srs, from, &dialog, invite, epoch),
            Say::Relay { flow, message } => {
                let Some(node) = self.number_of(from) else { return };
                if let Ok(message) = Message::parse(message) {
                    srs.handle_message(now, message, flow.through(node));
                }
            }
            Say::Send { flow, message } => {
                self.note_answer(&message);
                self.outputs.push_back(PairingOutput::Transmit { flow, bytes: message });
            }
        }
    }

    /// Relays a request to the owner of its dialog; gives it back where that is no other node.
    ///
    /// # Errors
    /// The message, if it is not relayed.
    #[allow(clippy::result_large_err)]
    pub fn relay(&mut self, now: Instant, message: Message, flow: Flow) -> Result<(), Message> {
        let Some(owner) = self.replicas.owner_of(&message).filter(|owner| self.peers.contains_key(*owner)) else {
            return Err(message);
        };
        let owner = owner.to_owned();
        self.say(&owner, Say::Relay { flow, message: message.to_bytes() });
        while self.relayed.len() >= MOST_RELAYED
            || self.relayed.front().is_some_and(|first| now.saturating_duration_since(first.at) > RELAYED_FOR)
        {
            self.relayed.pop_front();
        }
        self.relayed.push_back(Relayed { at: now, owner, flow, message });
        Ok(())
    }

    /// Whether a message is for a dialog of another node.
    pub fn is_for_another(&self, message: &Message) -> bool {
        self.replicas.owner_of(message).is_some()
    }

    /// Sends by a way of another node; `false`: it is not there any more.
    pub fn send_through(&mut self, node: u16, flow: Flow, bytes: Bytes) -> bool {
        let Some(to) = self.numbers.get(usize::from(node)).filter(|node| self.peers.contains_key(*node)) else {
            return false;
        };
        let to = to.clone();
        self.say(&to, Say::Send { flow, message: bytes });
        true
    }

    /// Tells the partner what changed, as far as there is room. To be called when the [`Srs`] has done something.
    pub fn pump(&mut self, now: Instant, srs: &mut Srs) {
        let Some(partner) = self.partner.clone() else { return };
        while self.waiting.len() < WINDOW {
            let Some(batch) = srs.poll_replicas(now, BATCH) else { return };
            self.number += 1;
            self.waiting.push_back((self.number, now));
            let caught_up = batch.caught_up;
            self.say(&partner, Say::Batch { number: self.number, batch });
            if caught_up && let Some(former) = self.former.take() {
                self.say(&former, Say::Forget);
            }
        }
    }

    fn say(&mut self, to: &str, say: Say) {
        self.outputs.push_back(PairingOutput::Say { to: to.to_owned(), say: Box::new(say) });
    }

    /// Chooses the partner anew; one that has another link hears everything anew.
    fn choose(&mut self, srs: &mut Srs) {
        let next = partner_of(&self.node, &self.site, self.named.as_deref(), &self.peers);
        if self.former.as_ref().is_some_and(|former| !self.peers.contains_key(former)) {
            self.former = None;
        }
        if next == self.partner {
            return;
        }
        let before = std::mem::replace(&mut self.partner, next);
        self.waiting.clear();
        srs.set_replicating(self.partner.is_some());
        // Who had copies keeps them until the new partner has all; who had them before that one no longer.
        for former in [self.former.take(), before].into_iter().flatten() {
            let is_up = self.peers.contains_key(&former) && self.partner.as_ref() != Some(&former);
            if is_up && let Some(earlier) = self.former.replace(former) {
                self.say(&earlier, Say::Forget);
            }
        }
        if self.partner.is_none()
            && let Some(former) = self.former.take()
        {
            self.say(&former, Say::Forget);
        }
    }

    /// Goes on with everything of a node that is lost.
    fn adopt(&mut self, now: Instant, srs: &mut Srs, node: &str) {
        let estate = self.replicas.surrendered_by(node);
        if estate.sessions.is_empty() && estate.recordings.is_empty() {
            return;
        }
        self.adopted += estate.sessions.len() as u64;
        let recordings = srs.adopt(now, estate);
        self.outputs.push_back(PairingOutput::Adopted(recordings));
        let (again, others) = std::mem::take(&mut self.relayed).into_iter().partition(|relayed| relayed.owner == node);
        self.relayed = others;
        let again: VecDeque<Relayed> = again;
        for Relayed { at, flow, message, .. } in again {
            if now.saturating_duration_since(at) <= RELAYED_FOR {
                srs.handle_message(now, message, flow);
            }
        }
    }

    /// Sees to it that a dialog has one node.
    fn compare(&mut self, now: Instant, srs: &mut Srs, with: &str, dialog: &DialogId, invite: InviteId, epoch: u32) {
        // Both answer alike.
        let they_win = with < self.node.as_str();
        let recordings = srs.recordings_of(dialog);
        match srs.compare_ownership(now, dialog, epoch, they_win) {
            Ownership::Unknown => {}
            Ownership::Ours(epoch) => self.say(with, Say::Mine { dialog: dialog.clone(), invite, epoch }),
            Ownership::GivenUp => {
                let gone: Vec<RecordingId> = recordings.into_iter().filter(|id| !srs.has_recording(*id)).collect();
                self.outputs.push_back(PairingOutput::Forget(gone));
                self.outputs.push_back(PairingOutput::GivenUp { invite, to: with.to_owned() });
            }
        }
    }

    /// The owner answered a request that was relayed to it.
    fn note_answer(&mut self, message: &Bytes) {
        if self.relayed.is_empty() {
            return;
        }
        let Ok(answer) = Message::parse(message.clone()) else { return };
        if answer.status().is_some_and(|status| status >= 200) {
            let same = |relayed: &Relayed| {
                relayed.message.call_id() == answer.call_id()
                    && relayed.message.cseq().ok().map(|cseq| cseq.to_string())
                        == answer.cseq().ok().map(|cseq| cseq.to_string())
            };
            self.relayed.retain(|relayed| !same(relayed));
        }
    }

    fn number_of(&mut self, node: &str) -> Option<u16> {
        let known = self.numbers.iter().position(|known| known == node);
        let at = match known {
            Some(at) => at,
            None if self.numbers.len() < MOST_NODES => {
                self.numbers.push(node.to_owned());
                self.numbers.len() - 1
            }
            None => return None,
        };
        u16::try_from(at).ok()
    }
}

/// The partner of a node among those that are up.
fn partner_of(node: &str, site: &str, named: Option<&str>, peers: &BTreeMap<String, Peer>) -> Option<String> {
    if let Some(named) = named.filter(|named| peers.get(*named).is_some_and(|peer| !peer.draining)) {
        return Some(named.to_owned());
    }
    let next = |in_site: bool| {
        let fits = |(_, peer): &(&String, &Peer)| !peer.draining && (peer.site == site) == in_site;
        let mut ring = peers.iter().filter(fits);
        let after = ring.clone().find(|(name, _)| name.as_str() > node);
        after.or_else(|| ring.next()).map(|(name, _)| name.clone())
    };
    next(true).or_else(|| next(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(list: &[(&str, &str, bool)]) -> BTreeMap<String, Peer> {
        let peer = |(name, site, draining): &(&str, &str, bool)| {
            ((*name).to_owned(), Peer { site: (*site).to_owned(), draining: *draining })
        };
        list.iter().map(peer).collect()
    }

    #[test]
    fn the_partner_is_the_next_of_the_site_and_another_site_s_if_there_is_none() {
        let all = peers(&[("a1", "a", false), ("a3", "a", false), ("b1", "b", false), ("b2", "b", false)]);
        let of = |node: &str, named: Option<&str>, peers: &BTreeMap<String, Peer>| partner_of(node, "a", named, peers);
        assert_eq!(of("a2", None, &all).as_deref(), Some("a3"));
        assert_eq!(of("a4", None, &all).as_deref(), Some("a1"), "a ring");
        assert_eq!(of("a2", Some("b2"), &all).as_deref(), Some("b2"));
        assert_eq!(of("a2", Some("gone"), &all).as_deref(), Some("a3"));
        let draining = peers(&[("a3", "a", true), ("b1", "b", false), ("b2", "b", true)]);
        assert_eq!(of("a2", Some("b2"), &draining).as_deref(), Some("b1"));
        assert_eq!(of("a2", None, &peers(&[])), None);
    }
}
