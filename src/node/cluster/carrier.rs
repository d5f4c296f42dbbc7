//! Soft state over the fabric, beside NATS.

use bytes::Bytes;
use ferric_cluster::{Carrier, ClusterState, Destination};
use ferric_fabric::{Fabric, Inbound, Kind, Member, NodeId};
use tokio::sync::mpsc;

use super::Topic;

const MESSAGE: Kind = Topic::State.kind(1);

/// Sends soft state to the nodes that have a link.
#[derive(Debug)]
pub(super) struct Beside(pub(super) Fabric);

impl Carrier for Beside {
    fn send(&self, to: &Destination, message: &Bytes) -> bool {
        // A queue that is full has lost nothing that a digest does not find.
        let send = |node: &NodeId| self.0.send(node, MESSAGE, message.clone()).is_ok();
        match to {
            Destination::Node(node) => NodeId::new(node.as_str()).is_ok_and(|node| send(&node)),
            Destination::All => {
                let up: Vec<Member> = self.0.members().into_iter().filter(Member::is_up).collect();
                up.iter().filter(|member| send(&member.node)).count() > 0
            }
        }
    }
}

/// Takes what the others send, until the fabric ends.
pub(super) async fn receive(mut messages: mpsc::Receiver<Inbound>, state: ClusterState) {
    while let Some(inbound) = messages.recv().await {
        if let Inbound::Message { kind: MESSAGE, body, .. } = inbound {
            state.receive(&body);
        }
    }
}
