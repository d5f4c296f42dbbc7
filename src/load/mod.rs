//! A SIPREC load source: many recording sessions with real RTP, as a session
//! border controller would send them (RFC 7866, RFC 7865). `ferric load` and
//! `ferric demo` use it; it shares sockets and transactions with our own server and
//! knows nothing else of it.
//!
//! ```text
//!  speech --encode once--> Speech (shared by all calls)
//!                             |
//!  schedule -> Agent (sans-IO: INVITE, ACK, answers, UPDATE, BYE) <-> sockets (udp | tcp | tls), DNS
//!                 | Answered { where the RTP goes }
//!                 v
//!              MediaEngine: few threads, absolute deadlines, one UDP socket a stream
//! ```
//!
//! - [`agent`]: all calls of one run as a state machine without I/O.
//! - [`offer`]: the INVITE: SDP with two labelled sendonly streams, complete metadata.
//! - [`speech`]: payloads, encoded before the first call.
//! - [`marks`]: audio of which every 20 ms tell call, party and time.
//! - [`rtp`], [`media`]: packets and their pace; loss, reordering and doubling from a seed.
//! - [`tls`]: whom we trust.
//! - [`report`], [`journal`]: what came of it, for people and line by line for programs.
//! - [`heard`]: what of marked audio came out in recordings.
//!
//! RTP runs on the monotonic clock from the instant of the 200: packet `n` of a
//! stream is due at `start + n * 20 ms`, however late its predecessors were, so that
//! the load never drifts. The BYE follows when the last packet of the hold time is sent.

mod agent;
mod config;
mod heard;
mod journal;
mod marks;
mod media;
mod offer;
mod report;
mod rtp;
mod run;
mod speech;
mod tls;

pub use config::{LoadCodec, LoadConfig, LoadError, LoadTransport, TlsClient, Trouble};
pub(crate) use heard::{Heard, Part, Said, listen, longest_ms, total_ms};
pub use journal::{Journal, MoveLine};
pub use report::{CallReport, LoadReport, Outcome, Progress, SetUpTimes};
pub use run::{run, run_until};
