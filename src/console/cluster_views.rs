//! The cluster as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The cluster as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodesView {
    /// Its name; absent: a single node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The node that was asked.
    pub seen_from: String,
    /// All nodes, by id; the one that was asked is among them.
    pub nodes: Vec<NodeView>,
}

/// A node of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub site: String,
    /// What it does.
    pub roles: Vec<String>,
    /// Its software.
    pub version: String,
    /// `up`, `suspect` (silent for longer than it should be), `down`, `left` (stopped in order), `known` (never reached).
    pub state: String,
    /// Since when it is up or not up (RFC 3339).
    pub since: String,
    /// It is the one that was asked.
    pub this: bool,
    /// It takes nothing new.
    pub draining: bool,
    /// Where others reach it.
    pub addresses: Vec<String>,
    /// The version of the protocol that both speak.
    pub protocol: Option<u16>,
    /// By how many milliseconds its clock is ahead of that of the node that was asked.
    pub clock_ahead_ms: Option<i64>,
    /// The link from the node that was asked, while it is up.
    pub link: Option<LinkView>,
    /// What it says of itself; absent when it does not answer.
    pub status: Option<NodeStatus>,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeStatus {
    /// It takes nothing new.
    pub draining: bool,
    /// Whether calls can be taken, and why not.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What it carries.
    pub load: LoadView,
    /// Its connection to NATS.
    pub nats: NatsView,
    /// The epoch of server groups and routes in force; absent: its configuration is its own.
    pub config_epoch: Option<u64>,
    /// Its links to the others.
    pub links: Vec<LinkView>,
    /// Messages of the fabric that nobody read.
    pub fabric_unread: u64,
    /// Datagrams of the fabric that were dropped because nobody read them in time.
    pub fabric_datagrams_dropped: u64,
}

/// What a node carries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LoadView {
    /// Calls that it records.
    pub calls: u64,
    /// The most that it records at once; 0: it does not record.
    pub max_calls: u64,
    /// Requests and calls that pass through it.
    pub passing: u64,
    /// All that is not over, also calls of its own that another node records: with none it can be stopped.
    pub running: u64,
    /// How late its busiest thread of capture visits its calls, in milliseconds.
    pub lag_ms: f64,
    /// Bytes in its spool.
    pub spool_bytes: u64,
    /// Recordings that wait for their store.
    pub uploads_waiting: u64,
}

/// A worker of capture as all nodes hear of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WorkerView {
    /// Its node.
    pub node: String,
    /// Where it stands; absent when this node does not know it.
    pub site: Option<String>,
    /// As of a node: `up`, `suspect`, `down`.
    pub state: String,
    /// Calls at the moment.
    pub calls: u32,
    /// Calls at most.
    pub max_calls: u32,
    /// How short it is of processor or spool, from 0 to 1.
    pub pressure: f64,
    /// It gets calls only when no active one can take them.
    pub standby: bool,
    /// It takes no new calls.
    pub draining: bool,
    /// It refuses calls for now: its spool is full or its disk fails.
    pub closed: bool,
}

/// The connection of a node to NATS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NatsView {
    /// `none` (not configured), `up`, `away`, `refused`.
    pub state: String,
    /// Why it is away, as far as that is known.
    pub detail: Option<String>,
    /// The configuration is that of NATS; false: the last one that was seen.
    pub documents_current: bool,
}

/// A link as one of its ends measures it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LinkView {
    /// The other end.
    pub to: String,
    /// Round trip, smoothed, in milliseconds; absent until it was measured.
    pub rtt_ms: Option<f64>,
    /// Smoothed change of the way's length, in milliseconds.
    pub jitter_ms: f64,
    /// Share of the last heartbeats that did not come, from 0 to 1.
    pub loss: f64,
}
