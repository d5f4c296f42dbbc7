//! Recorded requests, decided once more by another configuration.
//!
//! ```text
//! files -> source (lines, put in order of time) -> plan (the candidate's routes) -> sim (its server groups) -> tally -> Report
//! ```
//!
//! - `source`: a line at a time; only what came within a few minutes is held, so that a log may be longer than memory.
//! - `plan`: the routes, the trust and the defaults of the proxy itself, asked about a line instead of a message.
//! - `sim`: the proxy's own server groups, driven by the times of the log: shares, limits, health, failover, fallback.
//! - `behaviour`: what an element did in the log, it does again.
//! - `down`: elements that are taken to be dead for a while.
//! - `tally`, `report`: what is different, for people and as JSON.
//!
//! Invariants: a request that began something ends exactly once, so that the shares before and after sum up to the same number;
//! the same log, configuration and seed give the same report.

mod behaviour;
mod down;
mod members;
mod names;
mod plan;
mod record;
mod render;
mod report;
mod sim;
mod source;
mod subject;
mod tally;
#[cfg(test)]
mod tests;

pub use down::{Down, DownError};
pub use report::{Damaged, Delayed, ElementShare, FailureRow, Report, RouteChange};
pub use source::{Input, MOST_LOGS};

use std::io;

use ferric_proxy::ProxyConfig;
use thiserror::Error;

use plan::Plan;
use sim::Sim;
use source::Merged;

/// Why nothing can be said.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// A log that cannot be read.
    #[error("{name} cannot be read: {error}")]
    Read {
        /// Which.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// A file that is something else.
    #[error("{name} is no log of finished requests: none of its first {lines} lines is one; line {line}: {error}")]
    NoLog {
        /// Which.
        name: String,
        /// Lines that were looked at.
        lines: u64,
        /// The first of them.
        line: u64,
        /// What is wrong with it.
        error: String,
    },
    /// Not one line.
    #[error("there is nothing to replay: the log is empty")]
    Empty,
    /// More files than are held open at once.
    #[error("at most {MOST_LOGS} logs can be replayed at once")]
    TooMany,
    /// An element that is taken to be dead and is not there.
    #[error(transparent)]
    Down(#[from] DownError),
}

/// What may be chosen.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Chance of the shares: the same seed gives the same report.
    pub seed: u64,
    /// Elements that are taken to be dead for a while.
    pub down: Vec<Down>,
}

/// Replays logs with a candidate configuration. `progress` hears how many bytes were read.
///
/// # Errors
/// [`ReplayError`] when a log cannot be read or is none, or an element of `settings` is not in the configuration.
pub fn run(
    candidate: &ProxyConfig,
    settings: &Settings,
    inputs: Vec<Input>,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, ReplayError> {
    let mut plan = Plan::new(candidate);
    let mut sim = Sim::new(candidate, settings, &mut plan.names)?;
    let mut merged = Merged::new(inputs)?;
    while let Some(record) = merged.next(&mut plan, progress)? {
        sim.handle(record);
    }
    let read = merged.finish()?;
    let notes = plan.notes();
    Ok(sim.finish(&plan, read, notes))
}
