//! Who comes and goes, in order, for every part of the node that wants to know.
//!
//! The fabric's events have one reader, here. What it hears it tells the shared state first (the load of a dead worker is
//! hidden at once) and then everybody who follows. A follower that was too slow hears [`MemberEvent::Missed`] and looks at
//! all members.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ferric_cluster::ClusterState;
use ferric_fabric::{Change, DownCause, Fabric, FabricEvent, Incarnation, Member, NodeId, Site};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

use super::alarms::Heard;
use super::state_id;
use crate::console::Event;

/// Events a follower may be behind.
pub(super) const BACKLOG: usize = 1024;

/// What happened to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) enum MemberEvent {
    /// Its link is up. Messages before this are of an earlier link.
    Up(Box<Seen>),
    /// Its link is down; what was not delivered is lost.
    Down {
        /// The node.
        node: NodeId,
        /// Why.
        cause: DownCause,
    },
    /// It says something else of itself: it drains, or drains no more.
    Changed(Box<Seen>),
    /// Something was missed: all members are to be looked at.
    Missed,
}

/// A node that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Seen {
    /// The node.
    pub(in crate::node) node: NodeId,
    /// Where it stands.
    pub(in crate::node) site: Site,
    /// This run of it.
    pub(in crate::node) incarnation: Incarnation,
    /// What it does.
    pub(in crate::node) roles: Vec<String>,
    /// It takes nothing new.
    pub(in crate::node) draining: bool,
    /// Where it takes SIP.
    pub(in crate::node) serves: Vec<SocketAddr>,
    /// It was up before, in another run: what that run had is gone.
    pub(in crate::node) restarted: bool,
}

impl Seen {
    pub(super) fn new(member: &Member, restarted: bool) -> Seen {
        Seen {
            node: member.node.clone(),
            site: member.site.clone(),
            incarnation: member.incarnation,
            roles: member.profile.roles.clone(),
            draining: member.profile.draining,
            serves: member.profile.serves.clone(),
            restarted,
        }
    }
}

/// Hears of the other nodes.
#[derive(Debug)]
pub(in crate::node) struct Members {
    events: broadcast::Receiver<MemberEvent>,
}

#[allow(dead_code)]
impl Members {
    pub(super) fn new(events: broadcast::Receiver<MemberEvent>) -> Members {
        Members { events }
    }

    /// The next event; `None`: the node ends. A node without others waits for ever.
    pub(in crate::node) async fn next(&mut self) -> Option<MemberEvent> {
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(_)) => Some(MemberEvent::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Tells what the fabric says.
pub(super) struct Teller {
    pub(super) fabric: Fabric,
    pub(super) state: ClusterState,
    pub(super) heard: Arc<Heard>,
    pub(super) told: broadcast::Sender<MemberEvent>,
    /// Those who read the events of the API.
    pub(super) outside: broadcast::Sender<Event>,
}

impl Teller {
    /// Until the fabric ends.
    pub(super) async fn run(self, mut events: mpsc::Receiver<FabricEvent>) {
        while let Some(event) = events.recv().await {
            self.heard.note(Instant::now(), &event);
            self.handle(event);
        }
    }

    fn handle(&self, event: FabricEvent) {
        match event {
            FabricEvent::Up { node, restarted, .. } => {
                tell_state(&self.state, &node, true);
                self.state.set_beside(true);
                if let Some(member) = self.find(&node) {
                    self.tell(MemberEvent::Up(Box::new(Seen::new(&member, restarted))));
                }
                self.tell_outside("node.up", &node, None);
            }
            FabricEvent::Down { node, cause } => {
                tell_state(&self.state, &node, false);
                self.state.set_beside(self.fabric.members().iter().any(Member::is_up));
                self.tell_outside("node.down", &node, Some(why(cause)));
                self.tell(MemberEvent::Down { node, cause });
            }
            FabricEvent::Changed { node, change: Change::Profile } => {
                if let Some(member) = self.find(&node).filter(Member::is_up) {
                    let cause = if member.profile.draining { "draining" } else { "taking calls" };
                    self.tell_outside("node.changed", &node, Some(cause));
                    self.tell(MemberEvent::Changed(Box::new(Seen::new(&member, false))));
                }
            }
            FabricEvent::Changed { .. }
            | FabricEvent::Refused { .. }
            | FabricEvent::Clock { .. }
            | FabricEvent::Stalled(_) => {}
            FabricEvent::Lagged(_) => {
                for member in self.fabric.members() {
                    tell_state(&self.state, &member.node, member.is_up());
                }
                self.state.set_beside(self.fabric.members().iter().any(Member::is_up));
                self.tell(MemberEvent::Missed);
            }
        }
    }

    fn find(&self, node: &NodeId) -> Option<Member> {
        self.fabric.members().into_iter().find(|member| member.node == *node)
    }

    fn tell(&self, event: MemberEvent) {
        // Nobody follows: that is no error.
        let _ = self.told.send(event);
    }

    fn tell_outside(&self, name: &'static str, node: &NodeId, cause: Option<&str>) {
        let event = Event { node: Some(node.to_string()), cause: cause.map(str::to_owned), ..Event::new(name) };
        let _ = self.outside.send(event);
    }
}

fn why(cause: DownCause) -> &'static str {
    match cause {
        DownCause::Silent(_) => "silent",
        DownCause::Left => "left",
        DownCause::Closed => "closed",
        DownCause::PeerHeardNothing => "heard nothing of this node",
        DownCause::Replaced => "replaced",
    }
}

fn tell_state(state: &ClusterState, node: &NodeId, up: bool) {
    if let Some(node) = state_id(node) {
        state.node(&node, up);
    }
}
