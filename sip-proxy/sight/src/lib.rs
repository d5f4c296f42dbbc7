//! What a telephony administrator sees of signalling.
//!
//! ```text
//!                      +-> LadderRing  -> list, one call as a ladder in text or JSON
//! message on a socket -+
//!                      +-> HepHandle   -> queue -> HepSender -> UDP -> Homer, or another HEP3 collector
//! request finished -----> RequestDone  -> one JSON line -> `ferric replay`
//! ```
//!
//! - [`hep`]: the encoder of HEP3 packets, sans-IO.
//! - [`sender`]: the socket for them; it drops rather than waits.
//! - [`ladder`]: the last calls in memory, bounded by number and bytes, sans-IO.
//! - [`request_log`]: what was decided for a request, and what is needed to decide it again.
//! - [`redact`]: which bytes of a message are secrets. Ladders, request lines and (unless told otherwise) HEP packets
//!   leave without them.
//!
//! None of it is needed for a call: whatever fails here is counted and goes no further.

mod error;
pub mod hep;
pub mod ladder;
pub mod redact;
pub mod request_log;
mod scan;
pub mod sender;

pub use error::SightError;
pub use hep::Capture;
pub use ladder::{CallSummary, Ladder, LadderLimits, LadderMessage, LadderRing};
pub use request_log::{Listener, RequestDone};
pub use sender::{HepHandle, HepMessage, HepOptions, HepSender, HepStats};
