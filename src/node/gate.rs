//! Draining: this node takes nothing new, finishes what runs, and says so to the others.
//!
//! It ends with the process: a node that was drained, changed and started again takes calls.

use std::sync::Arc;

use ferric_worker::worker::Worker;
use tokio::sync::mpsc;

use super::asks::Order;
use super::cluster::Cluster;

/// Opens and closes the node for new calls.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) worker: Arc<Worker>,
    pub(super) cluster: Cluster,
}

impl Gate {
    /// Takes no new calls from now on, or takes them again. The others hear it first, so that they choose another node
    /// before this one refuses.
    pub(super) async fn set_draining(&self, draining: bool) {
        self.cluster.set_draining(draining).await;
        let _ = self.orders.send(Order::Drain(draining));
        self.worker.set_draining(draining);
    }

    /// Whether it takes no new calls.
    pub(super) fn is_draining(&self) -> bool {
        self.worker.is_draining()
    }
}
