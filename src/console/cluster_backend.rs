//! What the console asks of the cluster.

use super::backend::Answer;
use super::cluster_views::{NodeView, NodesView, WorkerView};

/// The cluster as a node sees it.
pub trait ClusterBackend: Send + Sync + 'static {
    /// All nodes.
    fn nodes(&self) -> Answer<'_, NodesView>;
    /// The workers of capture, by node.
    fn workers(&self) -> Answer<'_, Vec<WorkerView>>;
    /// A node takes nothing new, or takes calls again. Any node passes it on.
    fn set_node_draining(&self, id: String, draining: bool) -> Answer<'_, NodeView>;
}
