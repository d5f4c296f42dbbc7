//! Who comes and goes, in order, for every part of the node that wants to know.
//!
//! The fabric's events have one reader, here. What it hears it tells the shared state first (the load of a dead worker is
//! hidden at once) and then everybody who follows. A follower that was too slow hears [`MemberEvent::Missed`] and looks at
//! all members.

use ferric_cluster::ClusterState;
use ferric_fabric::{Change, DownCause, Fabric, FabricEvent, Incarnation, Member, NodeId, Site};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

use super::state_id;

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
    /// It was up before, in another run: what that run had is gone.
    pub(in crate::node) restarted: bool,
}

impl Seen {
    fn new(member: &Member, restarted: bool) -> Seen {
        Seen {
            node: member.node.clone(),
            site: member.site.clone(),
            incarnation: member.incarnation,
            roles: member.profile.roles.clone(),
            draining: member.profile.draining,
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

/// Tells what the fabric says, until it ends.
pub(super) async fn run(
    mut events: mpsc::Receiver<FabricEvent>,
    fabric: Fabric,
    state: ClusterState,
    told: broadcast::Sender<MemberEvent>,
) {
    // Nobody follows: that is no error.
    let tell = |event| drop(told.send(event));
    let find = |node: &NodeId| fabric.members().into_iter().find(|member| member.node == *node);
    while let Some(event) = events.recv().await {
        match event {
            FabricEvent::Up { node, restarted, .. } => {
                tell_state(&state, &node, true);
                if let Some(member) = find(&node) {
                    tell(MemberEvent::Up(Box::new(Seen::new(&member, restarted))));
                }
            }
            FabricEvent::Down { node, cause } => {
                tell_state(&state, &node, false);
                tell(MemberEvent::Down { node, cause });
            }
            FabricEvent::Changed { node, change: Change::Profile } => {
                if let Some(member) = find(&node).filter(Member::is_up) {
                    tell(MemberEvent::Changed(Box::new(Seen::new(&member, false))));
                }
            }
            FabricEvent::Changed { .. }
            | FabricEvent::Refused { .. }
            | FabricEvent::Clock { .. }
            | FabricEvent::Stalled(_) => {}
            FabricEvent::Lagged(_) => {
                for member in fabric.members() {
                    tell_state(&state, &member.node, member.is_up());
                }
                tell(MemberEvent::Missed);
            }
        }
    }
}

fn tell_state(state: &ClusterState, node: &NodeId, up: bool) {
    if let Some(node) = state_id(node) {
        state.node(&node, up);
    }
}
