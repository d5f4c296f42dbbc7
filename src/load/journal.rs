//! What became of one call, as a line of JSON: `ferric load --report` writes it, `ferric load --verify` reads it.
//!
//! Packet `n` of both streams was due at `media_started_us + n * 20 ms`, so the line says of every packet when it was sent,
//! to whom, and by the marks what was in it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// One call. Times are microseconds since 1970 of this host's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Its number in the run.
    pub call: u64,
    /// SIP Call-ID.
    pub call_id: String,
    /// When the INVITE was sent first.
    pub started_us: u64,
    /// From INVITE to 200.
    pub set_up_us: Option<u64>,
    /// When packet 0 of both streams was due.
    pub media_started_us: Option<u64>,
    /// When the call was over.
    pub ended_us: u64,
    /// How it ended: `completed`, or what went wrong.
    pub outcome: String,
    /// What the server asked of the streams, in order.
    pub moves: Vec<MoveLine>,
    /// The marks of both streams, in hexadecimal; empty when speech was sent.
    pub marks: Vec<String>,
    /// For each stream the packets that had their time.
    pub steps: [u64; 2],
    /// For each stream first and last of the runs of packets that were not sent, as the server wanted none.
    pub held: [Vec<(u64, u64)>; 2],
}

/// Where the server wanted the streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveLine {
    /// When.
    pub at_us: u64,
    /// ANSWER (the first one), INVITE or UPDATE.
    pub method: String,
    /// Address of each stream; none for a stream that is not wanted.
    pub to: [Option<String>; 2],
    /// It was refused.
    pub refused: bool,
}

/// Microseconds since 1970.
pub(super) fn unix_us(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
