//! How large an installation must be: from agents or calls to nodes, bandwidth, disks and memory.
//!
//! Pure arithmetic on [`figures`], which are measured (`docs/performance.md`), fixed by a format, or rules of
//! thumb, and say which. [`Wish`] is what a person knows; [`Wish::demand`] turns it into calls and says what
//! contradicts itself; [`Demand::plan`] gives lines of an amount and the formula it came from, so that nobody has
//! to believe a number. `ferric size` prints them.
//!
//! ```text
//! Wish (agents, calls, minutes, ...) -> Demand (calls at once, calls an hour) -> Plan (sections of lines)
//! ```
//!
//! What is promised: one worker may be lost, and with several sites one whole site, and no call is refused for it.

mod amount;
mod demand;
pub mod figures;
mod plan;

pub use amount::{Amount, thousands};
pub use demand::{Codec, Demand, SizingError, Wish};
pub use plan::{Line, Plan, Section};
