//! Configurations of other products, turned into one of Ferric.
//!
//! - [`report`]: what became of every line: carried over, changed in meaning, left out, not needed.
//! - [`cusp`]: Cisco Unified SIP Proxy, releases 8.5 to 10.2.
//!
//! An importer never fails on a line that it does not know. It says so, with the line's number and what to do, since a
//! person reads the result before it carries calls.

pub mod cusp;
pub mod report;
