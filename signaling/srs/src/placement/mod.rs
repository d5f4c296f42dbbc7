//! Which worker records a call, and the way to it: sans-IO, both ends.
//!
//! ```text
//! SRS node                                                    worker's node
//! Srs --Command--> Switchboard --ToWorker--> (fabric, in order) --> Holder --Command--> capture
//!  ^                |  Directory                                     |                     |
//!  \--CaptureEvent--/ <------ToServer------- (fabric, in order) <----/ <----CaptureEvent---/
//! ```
//!
//! - [`directory`]: the workers with their load, and the choice among them.
//! - [`wire`]: what the two ends say to each other.
//! - [`switchboard`]: the SRS node's end: where each recording is, what waits for an answer, who was lost.
//! - [`holder`]: the worker's end: what it records, for whom, and what it does when that node dies.
//!
//! Both ends rely on this: messages of a link arrive in order and once, or the link ends and both hear so. After a link
//! came up the SRS node says which recordings it believes to be there ([`wire::ToWorker::Own`]), and the worker says which of
//! them it has; that settles whatever was lost with the link before.

pub mod directory;
pub mod holder;
pub mod switchboard;
pub mod wire;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use directory::{Directory, LoadReport, Policy, WorkerId, WorkerView};
pub use holder::{Holder, HolderConfig, HolderOutput};
pub use switchboard::{Switchboard, SwitchboardOutput};
pub use wire::{Owned, ToServer, ToWorker};
