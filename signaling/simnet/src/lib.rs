//! A simulated network for tests: its clock moves only when told to, its link
//! loses, delays, doubles and reorders packets from a seed, and what happened
//! can be read as a message ladder.
//!
//! - [`Clock`]: simulated time, starting at zero.
//! - [`Link`], [`LinkProfile`]: what becomes of a packet. The same seed gives the same run.
//! - [`Endpoint`], [`Pair`]: two sans-IO endpoints, driven from event to event.
//! - [`Ladder`]: the trace as plain text, fit for snapshots.
//!
//! A panic while a [`Pair`] lives prints the seed and the ladder, so that a run
//! that failed can be repeated and read.
//!
//! ```text
//! a.poll_transmit --> Link (lose? delay? double?) --> in flight --> b.handle_packet
//!                                                        |
//!                        clock jumps to the earliest of: arrival, a.poll_timeout, b.poll_timeout
//! ```

mod clock;
mod ladder;
mod link;
mod pair;

pub use clock::Clock;
pub use ladder::{Ladder, sip_label};
pub use link::{Link, LinkProfile, Packet};
pub use pair::{Endpoint, Pair};
