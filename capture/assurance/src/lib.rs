//! Recording assurance: each INVITE that asked for a recording gets exactly one outcome.
//!
//! ```text
//! received -> recording*  -> ended    \
//!                finished* (manifest) --> outcome: complete | recovered | partial (gaps, cause)
//!          -> refused                  -> outcome: refused (status, cause)
//! ```
//!
//! The ledger is a folder of files, one for each UTC day, of JSON lines. A line holds the
//! SHA-256 of the line before it and the node's Ed25519 signature, so that a line
//! taken out, changed or put in shows. Lines hold no personal data: a Call-ID stands there as a
//! keyed hash, by which somebody who knows it finds the call.
//!
//! - A line is written when it is told, and synced within half a second: a process that dies loses nothing,
//!   a power failure half a second.
//! - An outcome is written when the dialog is over and every recording that it fed is finished (its manifest is on
//!   disk). A second one is never written.
//! - What has no outcome after a restart gets one then ([`Ledger::settle`]); what has none for too long while the node runs is
//!   an alarm ([`Ledger::overdue`]).

mod book;
mod entry;
mod ledger;
mod read;

pub use book::Overdue;
pub use entry::{Entry, GapEntry, Kind, Outcome};
pub use ledger::{Finished, Ledger, LedgerError, OnOutcome};
pub use read::{Call, Depth, Report, Totals, Verification, adopted, call_hash, read, verify};
