//! Who belongs to the cluster, who is alive, and who may decide: the sans-IO core of the fabric between nodes.
//!
//! ```text
//! hello of a connection --> admission --> Membership <-- heartbeats, closes, addresses heard of
//!                             |              |
//!                          Refusal           +--> Detector, QualityMeter, ClockWatch (one each a link)
//!                                            +--> Redial (one for all addresses)
//!                                            v
//!                      poll_output: Dial, Up, Heartbeat, Frame, Close, Event
//! ```
//!
//! - [`identity`]: node, site, cluster, incarnation, and how a certificate carries the first two.
//! - [`protocol`]: which protocol version two nodes speak.
//! - [`refusal`]: why a connection is refused, with its code on the wire.
//! - [`hello`]: what is said on the control stream; [`heartbeat`]: the datagram.
//! - [`admission`]: the checks of a hello, in order.
//! - [`detector`]: alive, suspect, dead, and what a node does that was itself asleep.
//! - [`quality`]: round trip, jitter, loss; [`clock`]: wall clocks that differ.
//! - [`redial`]: addresses, back-off, jitter.
//! - [`membership`]: all of it together.
//! - [`quorum`]: the majority rule of exclusive roles.
//!
//! # Invariants
//!
//! - A node judges by its own link only: what others say of a third node is an address, never a death.
//! - Between two nodes at most one link is up, and the node with the smaller id says which (see [`membership`]).
//! - Everything that one node knows of others is bounded by [`Settings::max_members`].
//! - The time is an argument and only moves forward; randomness comes from a seed.

pub mod admission;
pub mod clock;
pub mod detector;
pub mod heartbeat;
pub mod hello;
pub mod identity;
pub mod membership;
pub mod protocol;
pub mod quality;
pub mod quorum;
pub mod redial;
pub mod refusal;

pub use detector::Beat;
pub use heartbeat::Heartbeat;
pub use hello::{BookEntry, ControlFrame, Hello, Profile};
pub use identity::{ClusterName, Identity, Incarnation, NameError, NodeId, Site};
pub use membership::{
    Change, CloseReason, DownCause, Event, Greeting, LinkId, Member, MemberState, Membership, Output, RefusedBy,
    Settings,
};
pub use protocol::{Protocol, ProtocolRange};
pub use quality::LinkQuality;
pub use quorum::Quorum;
pub use refusal::{Refusal, RefusalKind};
