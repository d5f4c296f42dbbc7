//! SIP, SDP and SIPREC as bytes and state machines, without any I/O.
//!
//! - [`message`]: a message keeps the bytes it came in; values are parsed when asked for.
//! - [`uri`], [`header`]: typed values (RFC 3261 19, 20).
//! - [`framing`]: messages out of a byte stream (RFC 3261 18.3, RFC 5626 keep-alives).
//! - [`transaction`]: RFC 3261 17 with RFC 6026.
//! - [`dialog`]: RFC 3261 12, offer/answer, session timers (RFC 4028).
//! - [`deadline`], [`ids`]: timers and maps of what this process numbers itself.
//! - [`trust`]: who may send, by networks.
//! - [`sdp`], [`siprec`]: bodies (RFC 8866, 3264, 7865, 7866).
//!
//! Every type takes the time as an argument and yields what to do; nothing here
//! reads a clock, opens a socket or starts a thread.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod deadline;
pub mod dialog;
pub mod flow;
pub mod framing;
pub mod fuzz;
pub mod header;
pub mod ids;
pub mod message;
pub mod method;
pub mod sdp;
pub mod siprec;
pub mod transaction;
pub mod trust;
pub mod uri;
pub mod validate;

pub use flow::{Flow, Transport};
pub use message::{Message, ParseError};
pub use method::Method;
pub use uri::Uri;
