//! The capture worker: media sockets and shards, spool, upload and catalogue.
//!
//! One shard a core owns its calls; everything that may block (files, object
//! store, database) happens on threads of its own behind bounded queues.

mod agenda;
pub mod call;
pub mod mirror;
pub mod ports;
mod scribe;
mod shard;
pub mod socket;
pub mod worker;

pub use scribe::{Ending, ScribeStats};
pub use shard::ShardStats;

pub mod catalog;
mod catalog_engine;
mod catalog_join;
mod catalog_outbox;
pub mod catalog_party;
pub mod catalog_rebuild;
mod catalog_row;
pub mod catalog_search;
mod catalog_update;
pub mod catalog_writer;
pub mod recover;
pub mod spool;
pub mod spool_chain;
pub mod spool_commit;
pub mod spool_gauge;
pub mod spool_index;
pub mod spool_writer;
pub mod store;
pub mod store_lookup;
pub mod store_probe;
pub mod sync;
pub mod upload;
pub mod upload_limit;
mod upload_queue;
pub mod upload_transfer;
