//! What the nodes of a cluster share. A single node has the same without a network.
//!
//! ```text
//!                      ClusterState
//!   soft state         documents            leases          events
//!   put get list       get compare_and_set  acquire         publish
//!       |                  |                  |               |
//!   own memory <-----> own memory             |          bounded queue
//!       |  core NATS       |  KV, watched     |               |
//!       |                  |  last-good file  |               |
//!   kept behind in         |                  |               |
//!   JetStream              +----- JetStream --+          core NATS
//! ```
//!
//! - **Reads** come from this node's memory, always. **Writes** of soft state and events change memory or a bounded queue and
//!   return; nothing of a call waits for NATS, be it dead, slow or cut off. Only [`ClusterState::compare_and_set`] and
//!   [`ClusterState::acquire`] wait, with a limit: they are an administrator's and a background job's.
//! - **Soft state** ([`ferric_state`]) travels by core publish/subscribe, and by a [`Carrier`] beside it where there is one,
//!   and repairs itself by digests. What JetStream keeps
//!   of it is one more copy, read when a node starts and finds nobody who has joined.
//! - **Documents** (configuration epochs, the directory) are written by compare-and-set on a revision and watched; since
//!   watchers were seen to stand still for 12 s after a leader's death, all are listed again now and then. The last state
//!   that was seen lies in a file, so a node starts without NATS.
//! - **Leases** are records with a time to live and a fence that only grows.
//! - [`ClusterState::health`] tells the state of the connection and what was dropped.
//!
//! Subjects, with `C` the name of the cluster: `ferric.C.soft.all`, `ferric.C.soft.to.NODE`, `ferric.C.kept.NODE.ID`,
//! `ferric.C.lease.NAME`, `ferric.C.events.KIND`. Streams: `FERRIC-C-KEPT`, `FERRIC-C-LEASES`; the KV bucket `ferric-C`.
//! NATS server 2.11 or newer, for the time to live of single messages.

mod carrier;
mod config;
mod documents;
mod error;
mod events;
mod files;
mod health;
mod keeper;
mod lease;
mod memory;
mod nats;
mod state;

pub use carrier::Carrier;
pub use config::{ClusterConfig, NatsConfig};
pub use documents::{Document, Space};
pub use error::{ClusterError, StoreError};
pub use events::EventKind;
pub use health::{Connection, Health};
pub use lease::Lease;
pub use memory::{Followed, Follower};
pub use state::ClusterState;

pub use ferric_state::{Change, Destination, Identity, Kind, Name, NodeId, PutError, SoftConfig, Stamp, View};
