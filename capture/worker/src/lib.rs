//! The capture worker: media sockets and shards, spool, upload and catalogue.
//!
//! One shard a core owns its calls; everything that may block (files, object
//! store, database) happens on threads of its own behind bounded queues.

pub mod ports;
pub mod socket;
