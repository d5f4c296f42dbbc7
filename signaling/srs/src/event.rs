//! What logs and counters hear of the SRS.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::port::{RecordingId, ReleaseCause};

/// One INVITE that asked for a recording, for the books (UUIDv7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InviteId(pub uuid::Uuid);

/// Something worth a log line, a count or an entry in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SrsEvent {
    /// An INVITE asks for a recording. Exactly one `Refused` or `Closed` follows.
    Offered {
        /// Which.
        invite: InviteId,
        /// Whose call it is.
        tenant: String,
        /// Its Call-ID.
        call_id: String,
        /// How it came: `siprec`, `plain`, ...
        source_kind: Cow<'static, str>,
    },
    /// What the INVITE brought goes into this recording; told once for each.
    Feeds {
        /// Which.
        invite: InviteId,
        /// Into which.
        recording: RecordingId,
    },
    /// The INVITE was refused; nothing is recorded of it.
    Refused {
        /// Which.
        invite: InviteId,
        /// Status code.
        status: u16,
        /// Short word.
        cause: &'static str,
    },
    /// The dialog that the INVITE began came here from a node that is lost. One `Closed` or `GivenUp` follows.
    Adopted {
        /// Which.
        invite: InviteId,
        /// Whose call it is.
        tenant: String,
        /// Its Call-ID.
        call_id: String,
        /// How it came: `siprec`, `plain`, ...
        source_kind: Cow<'static, str>,
    },
    /// The dialog that the INVITE began is another node's, which took it over.
    GivenUp {
        /// Which.
        invite: InviteId,
    },
    /// The dialog that the INVITE began is over.
    Closed {
        /// Which.
        invite: InviteId,
        /// Why.
        cause: ReleaseCause,
    },
    /// A call is recorded: its 200 was sent.
    Started {
        /// Which.
        recording: RecordingId,
    },
    /// A call is no longer recorded.
    Ended {
        /// Which.
        recording: RecordingId,
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
        /// Whose.
        invite: InviteId,
        /// What is wrong.
        problem: String,
    },
    /// A recording goes on with another worker, or with its own after that had been lost: the media come again.
    Moved {
        /// Which.
        recording: RecordingId,
        /// The last part before that had media.
        from_part: u32,
        /// The part from now on; the same when a copy took over.
        to_part: u32,
        /// From the loss of the worker until the peer knew where to send, in ms; capture measures what is missing.
        lost_ms: u64,
    },
    /// The SRC does not send to another worker; the dialog stays, and the recording waits for its old one.
    MoveRefused {
        /// Which.
        recording: RecordingId,
        /// The part that came to nothing.
        part: u32,
        /// Status code of its answer.
        status: u16,
    },
    /// No RTP; the peer was asked whether it is still there.
    Probing {
        /// Which call.
        recording: RecordingId,
    },
}
