//! Copies of dialogs between SRS nodes: carries what [`Pairing`] says, and does what it wants.
//!
//! ```text
//! fabric, topic Replica --> read (off the SIP thread) --Order--> signalling: Pairs, beside the Srs
//! who comes and goes    -->  |                                     |
//!                                                  Post --> fabric <'
//! ```
//!
//! Copies hold SRTP keys: they travel over the fabric only, which is under mutual TLS, and lie in memory only.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_assurance::Ledger;
use ferric_fabric::{DownCause, Inbound, NodeId, Responder};
use ferric_media::manifest::SignedManifest;
use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_srs::Srs;
use ferric_srs::placement::Owned;
use ferric_srs::replica::ReplicasLimits;
use ferric_srs::replica::pairing::{Pairing, PairingOutput, Say};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Cluster, MemberEvent, Members, Seen, Topic};
use crate::metrics;
use crate::node::asks::Order;
use crate::node::capture::post::Post;
use crate::node::capture::remote::News;
use crate::node::capture::report::Owners;

/// What nodes say to each other: a [`Say`].
const SAY: u8 = 1;
/// Which of these INVITEs, a list of ids, did you take over? The answer is a list too.
const WHOSE: u8 = 2;
/// Whoever was asked answers within this.
const PATIENCE: Duration = Duration::from_secs(2);
/// A node that starts waits so long for others that may have its calls.
const COMPANY: Duration = Duration::from_secs(5);
/// INVITEs in one question.
const MOST_ASKED: usize = 2_000;

/// What signalling is told of other SRS nodes.
#[derive(Debug)]
pub(in crate::node) enum PairNews {
    /// Its link is up, or it says something else of itself.
    Up(Box<Seen>),
    /// Its link is another one; that it is up follows.
    Replaced(NodeId),
    /// Its link is down; `true`: it said goodbye.
    Down(NodeId, bool),
    /// It says something.
    Say(NodeId, Box<Say>),
}

/// What signalling does for it.
pub(in crate::node) enum Wanted {
    /// Capture is told.
    Capture(News),
    /// A node has the call of an INVITE.
    GivenUp(Uuid, String),
    /// This goes out.
    Transmit(Flow, Bytes),
}

/// This node's part, in the signalling task.
pub(in crate::node) struct Pairs {
    pairing: Pairing,
    post: Post,
    adopted: u64,
}

impl Pairs {
    /// `None` where there are no others.
    pub(in crate::node) fn new(cluster: &Cluster) -> Option<Pairs> {
        let fabric = cluster.fabric()?.clone();
        let named = cluster.settings().and_then(|settings| settings.partner.clone());
        let (node, site) = (cluster.node().as_str(), cluster.site().as_str());
        let pairing = Pairing::new(node, site, named, ReplicasLimits::default());
        Some(Pairs { pairing, post: Post::new(fabric, Topic::Replica.kind(SAY)), adopted: 0 })
    }

    /// Takes what happened elsewhere.
    pub(in crate::node) fn news(&mut self, now: Instant, srs: &mut Srs, news: PairNews) {
        let pairing = &mut self.pairing;
        match news {
            PairNews::Up(seen) => {
                let (node, site) = (seen.node.as_str(), seen.site.as_str());
                pairing.up(now, srs, node, site, seen.draining, seen.restarted);
            }
            PairNews::Replaced(node) => {
                self.post.forget(&node);
                pairing.replaced(srs, node.as_str());
            }
            PairNews::Down(node, left) => {
                self.post.forget(&node);
                pairing.down(now, srs, node.as_str(), left);
            }
            PairNews::Say(node, say) => pairing.handle(now, srs, node.as_str(), *say),
        }
        let adopted = pairing.adopted() - std::mem::replace(&mut self.adopted, pairing.adopted());
        if adopted > 0 {
            metrics::failovers("srs", adopted);
            tracing::warn!(calls = adopted, "calls of a lost node go on here");
        }
    }

    /// Relays a request to the owner of its dialog; gives it back where that is no other node.
    #[allow(clippy::result_large_err)]
    pub(in crate::node) fn relay(&mut self, now: Instant, message: Message, flow: Flow) -> Result<(), Message> {
        self.pairing.relay(now, message, flow)
    }

    /// Whether a request is for a dialog of another node.
    pub(in crate::node) fn is_for_another(&self, message: &Message) -> bool {
        self.pairing.is_for_another(message)
    }

    /// Sends by a way of another node; `false`: it is gone.
    pub(in crate::node) fn send_through(&mut self, node: u16, flow: Flow, bytes: Bytes) -> bool {
        self.pairing.send_through(node, flow, bytes)
    }

    /// Tells the partner what changed.
    pub(in crate::node) fn pump(&mut self, now: Instant, srs: &mut Srs) {
        self.pairing.pump(now, srs);
    }

    /// The next thing to do, before anything that the SRS wants.
    pub(in crate::node) fn poll(&mut self, now: Instant) -> Option<Wanted> {
        loop {
            match self.pairing.poll_output()? {
                PairingOutput::Say { to, say } => {
                    if let Ok(node) = NodeId::new(&to) {
                        // What does not arrive is told anew when the link is up again.
                        let _ = self.post.send(now, &node, &*say);
                    }
                }
                PairingOutput::Adopted(recordings) => {
                    let owned = recordings.iter().map(|adopted| Owned {
                        recording: adopted.recording,
                        part: adopted.part,
                        epoch: u64::from(adopted.epoch),
                    });
                    return Some(Wanted::Capture(News::Adopt(owned.collect())));
                }
                PairingOutput::Forget(recordings) => return Some(Wanted::Capture(News::Forget(recordings))),
                PairingOutput::GivenUp { invite, to } => return Some(Wanted::GivenUp(invite.0, to)),
                PairingOutput::Transmit { flow, bytes } => return Some(Wanted::Transmit(flow, bytes)),
            }
        }
    }

    /// When [`Pairs::handle_timeout`] is due.
    pub(in crate::node) fn poll_timeout(&self) -> Option<Instant> {
        self.post.poll_timeout()
    }

    /// Sends what waits.
    pub(in crate::node) fn handle_timeout(&mut self, now: Instant) {
        self.post.handle_timeout(now);
    }

    /// Once a second: numbers.
    #[allow(clippy::cast_precision_loss)]
    pub(in crate::node) fn export(&self, now: Instant) {
        let kept: usize = self.pairing.replicas().counts().map(|(_, count)| count).sum();
        metrics::set("ferric_cluster_replicas", kept as f64);
        metrics::set("ferric_cluster_replication_lag_seconds", self.pairing.lag(now).as_secs_f64());
        metrics::set("ferric_cluster_partner", f64::from(u8::from(self.pairing.partner().is_some())));
        metrics::total("ferric_cluster_replicas_refused_total", self.pairing.replicas().refused());
    }
}

/// Reads the topic and follows who comes and goes, until the node ends.
pub(in crate::node) async fn read(
    cluster: Cluster,
    mut topic: mpsc::Receiver<Inbound>,
    mut members: Members,
    orders: mpsc::UnboundedSender<Order>,
    ledger: Ledger,
) {
    let tell = |news| orders.send(Order::Pair(news)).is_ok();
    let up = |seen: Seen| {
        if seen.roles.iter().any(|role| role == "srs") { tell(PairNews::Up(Box::new(seen))) } else { true }
    };
    loop {
        let goes_on = tokio::select! {
            biased;
            event = members.next() => match event {
                Some(MemberEvent::Up(seen) | MemberEvent::Changed(seen)) => up(*seen),
                Some(MemberEvent::Down { node, cause: DownCause::Replaced }) => tell(PairNews::Replaced(node)),
                Some(MemberEvent::Down { node, cause }) => tell(PairNews::Down(node, cause == DownCause::Left)),
                // Whatever was missed: each link is taken as a new one, and who is not there is down.
                Some(MemberEvent::Missed) => cluster.members().into_iter().all(|member| {
                    if member.is_up() {
                        tell(PairNews::Replaced(member.node))
                    } else {
                        tell(PairNews::Down(member.node, member.state == ferric_fabric::MemberState::Left))
                    }
                }) && cluster.seen().into_iter().all(up),
                None => false,
            },
            message = topic.recv() => match message {
                Some(Inbound::Message { from, kind, body, .. }) if kind.number() == SAY => {
                    match serde_json::from_slice(&body) {
                        Ok(say) => tell(PairNews::Say(from, Box::new(say))),
                        Err(error) => {
                            tracing::warn!(%from, %error, "what it says of its dialogs cannot be understood");
                            true
                        }
                    }
                }
                Some(Inbound::Request { kind, body, responder, .. }) if kind.number() == WHOSE => {
                    answer_whose(&ledger, &body, responder);
                    true
                }
                Some(Inbound::Message { .. } | Inbound::Request { .. }) => true,
                None => false,
            },
        };
        if !goes_on {
            return;
        }
    }
}

/// Reads files: not here.
fn answer_whose(ledger: &Ledger, body: &[u8], responder: Responder) {
    let Ok(wanted) = serde_json::from_slice::<Vec<Uuid>>(body) else { return };
    let ledger = ledger.clone();
    tokio::task::spawn_blocking(move || {
        ledger.sync();
        if let Ok(found) = ferric_assurance::adopted(&ledger.folder(), &wanted)
            && let Ok(answer) = serde_json::to_vec(&found)
        {
            let _ = responder.answer(answer);
        }
    });
}

/// What a start found of the node's last life.
pub(in crate::node) struct LastLife {
    /// INVITEs without an outcome.
    pub(in crate::node) open: Vec<Uuid>,
    /// What it had recorded and could finish.
    pub(in crate::node) finished: Vec<SignedManifest>,
    /// Who is told of them.
    pub(in crate::node) owners: Owners,
}

impl LastLife {
    /// Another node has the call: it hears what became of the parts that are here.
    fn hand_over(&self, ledger: &Ledger, invite: Uuid, node: &NodeId) {
        let fed = ledger.recordings_of(invite);
        for signed in &self.finished {
            let part = &signed.manifest.part;
            if fed.contains(&part.recording) || fed.contains(&part.file) {
                self.owners.owe(node.as_str(), signed);
            }
        }
        ledger.moved(invite, node.as_str());
    }
}

/// After a start: calls of this node's last life that others took over are theirs; the rest has its outcome now.
pub(in crate::node) async fn settle(cluster: Cluster, ledger: Ledger, last: LastLife) {
    let open = &last.open;
    if open.is_empty() {
        return;
    }
    let Some(fabric) = cluster.fabric().cloned() else { return };
    let mut asked: Vec<NodeId> = Vec::new();
    let mut moved = 0;
    let end = Instant::now() + COMPANY;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(250)).await;
        for seen in cluster.seen() {
            if asked.contains(&seen.node) || !seen.roles.iter().any(|role| role == "srs") {
                continue;
            }
            asked.push(seen.node.clone());
            for part in open.chunks(MOST_ASKED) {
                let Ok(body) = serde_json::to_vec(part) else { continue };
                let answer = fabric.request(&seen.node, Topic::Replica.kind(WHOSE), body, PATIENCE).await;
                let found = answer.ok().and_then(|answer| serde_json::from_slice::<Vec<Uuid>>(&answer).ok());
                for invite in found.unwrap_or_default() {
                    last.hand_over(&ledger, invite, &seen.node);
                    moved += 1;
                }
            }
        }
    }
    ledger.settle_these(open, "the node stopped", cluster.node().as_str());
    tracing::warn!(settled = open.len(), moved, "calls of the node's last life have their outcome now");
}
