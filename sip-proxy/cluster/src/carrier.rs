//! Another way to the other nodes, beside NATS: what nodes say to each other directly.
//!
//! Soft state needs no NATS to spread: a message of it may be lost, doubled and late, whoever carries it. So each one takes
//! both ways where both are there, and a death of NATS is noticed by nobody who registers or calls. What is for one node
//! takes the direct way, and NATS only where there is none.

use bytes::Bytes;
use ferric_state::Destination;

/// Carries messages of soft state. What comes the other way is given to [`crate::ClusterState::receive`].
pub trait Carrier: std::fmt::Debug + Send + Sync {
    /// Sends at once or not at all; `false`: nobody gets it by this way.
    fn send(&self, to: &Destination, message: &Bytes) -> bool;
}
