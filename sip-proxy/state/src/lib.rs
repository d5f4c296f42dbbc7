//! Soft state of the cluster, sans-IO: registrations, the load of workers and live sessions, in every node's memory.
//!
//! ```text
//! put, remove --> Table <-- Changes -- other nodes          get, iter: from the table, nothing else
//!    |              |
//!    |              +--Output::Changed----> whoever follows (a registrar, a router)
//!    +--Output::Send(All, Changes)--------> every node, by a bus that may lose, double and reorder
//!    +--Output::Keep----------------------> a store that is written behind and never waited for
//!
//! Digest (each node, now and then) --differs--> Have (what I hold of these buckets) --> Changes + Want + Done
//! ```
//!
//! - **Order.** Each write has a [`Stamp`]: a hybrid logical clock, then node, incarnation, sequence. Of two writes the
//!   later stamp wins on every node alike. A wall clock that is wrong moves the logical clock, it never undoes a write
//!   that was seen.
//! - **Life.** Each entry has a remaining life, at most [`SoftConfig::life`] of its kind, and it travels as what remains:
//!   no node believes another's wall clock. What must live longer is written again in time: this crate does that for
//!   kinds which live with their owner ([`Kind::with_owner`]).
//! - **Removal.** A removed entry leaves a tombstone that lives longer than any copy of what it removed could, so a node
//!   that was cut off for any time brings nothing back.
//! - **Repair.** Nothing depends on a message that arrives: buckets of entries are compared by digests, and what differs is
//!   exchanged in bounded steps. The snapshot on join is the same exchange over an empty table.
//! - **Bounds.** Entries, tombstones, peers, key and value lengths, the size of a message, the steps of an exchange and the
//!   work of one timeout have limits; what meets one is counted ([`Counters`]).
//!
//! Keys and values are opaque bytes. The contract is that of every core here: `handle_x(now, input)`, drain
//! [`Soft::poll_output`], then [`Soft::poll_timeout`].
//!
//! - [`kind`]: the kinds and how each behaves. [`stamp`]: the order of writes. [`entry`]: names and entries.
//! - [`table`]: entries by bucket, with digests and deadlines. [`wire`]: the messages.
//! - [`soft`]: the state machine; its exchange with one peer is in `soft/sync.rs`.

pub mod entry;
pub mod kind;
pub mod soft;
pub mod stamp;
pub mod table;
pub mod wire;

pub use entry::{Name, View};
pub use kind::Kind;
pub use soft::{Change, Counters, Destination, Output, PutError, Soft, SoftConfig};
pub use stamp::{Identity, NodeId, Stamp};
