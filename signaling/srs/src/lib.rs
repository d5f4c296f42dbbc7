//! The session recording server (SRS) of RFC 7866, sans-IO.
//!
//! ```text
//! SIP in --> transactions --> Srs --Command--> capture
//!                              ^ \--Transmit--> SIP out
//!                              |  \--Event----> logs, counters
//!                              CaptureEvent
//! ```
//!
//! A recording session goes `offered -> assigning -> recording -> closing`. The
//! answer to the offer waits for the capture side, which names the addresses.
//! Metadata that is wrong never costs media; only a broken session description
//! is refused. [`rescue`] is the one table from what went wrong to a status code.

pub mod event;
mod maker;
pub mod offer;
mod parties;
pub mod placement;
pub mod port;
mod recording;
pub mod replica;
pub mod rescue;
mod session;
mod srs;
mod tracked;

pub use event::SrsEvent;
pub use session::asks_for_recording;
pub use srs::{AdoptedRecording, Ownership, Srs, SrsConfig, SrsOutput, TakeoverConfig};
