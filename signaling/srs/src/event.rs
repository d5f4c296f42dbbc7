//! What logs and counters hear of the SRS.

use std::net::IpAddr;

use crate::port::{ReleaseCause, SessionId};

/// Something worth a log line or a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SrsEvent {
    /// A call is recorded: its 200 was sent.
    Started {
        /// Which.
        session: SessionId,
    },
    /// A call is no longer recorded.
    Ended {
        /// Which.
        session: SessionId,
        /// Why.
        cause: ReleaseCause,
    },
    /// A request was answered with a final response: one each.
    RequestDone {
        /// Method.
        method: String,
        /// Status code.
        status: u16,
    },
    /// A request was refused; `reason` is a short word for counters.
    Rejected {
        /// Status code.
        status: u16,
        /// Short word.
        reason: &'static str,
        /// For the log.
        detail: String,
    },
    /// A source that nobody trusts.
    Untrusted {
        /// Its address.
        source: IpAddr,
    },
    /// Metadata that could not be read to its end; the call is recorded all the same.
    MetadataProblem {
        /// Which call.
        session: SessionId,
        /// What is wrong.
        problem: String,
    },
    /// No RTP; the peer was asked whether it is still there.
    Probing {
        /// Which call.
        session: SessionId,
    },
}
