//! What the outside says to and hears of a worker's calls.

use std::net::SocketAddr;
use std::time::SystemTime;

use ferric_media::manifest::RecordingState;
use ferric_media::metadata::SessionInfo;
use ferric_media::part::Part;
use ferric_media::rtp::StreamIndex;
use ferric_media::stats::RecordingStats;
use ferric_media::stream::StreamConfig;
use ferric_media::timestamp::Timestamp;
use thiserror::Error;
use uuid::Uuid;

use crate::scribe::Ending;

/// A call to record, or the next part of one.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Which recording, in which files. A later part ends the one before it, if this worker still has it.
    pub part: Part,
    /// When the part before was last known to be recorded, by the clock of `started`.
    pub lost: Option<SystemTime>,
    /// Whose call.
    pub tenant: String,
    /// The wall clock now.
    pub started: SystemTime,
    /// What signalling knows.
    pub session: SessionInfo,
    /// Its streams.
    pub streams: Vec<StreamConfig>,
    /// Those that another call of this worker had until now.
    pub takes: Vec<Taken>,
    /// Addresses that peers still send to: those streams get these ports or the call is refused; the others get any.
    pub restore: Vec<StreamAddress>,
    /// A call whose shard it should share, so that streams can pass between them.
    pub beside: Option<Uuid>,
}

/// A stream that passes from one call to another, with its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The call that had it.
    pub from: Uuid,
    /// Its index there.
    pub stream: StreamIndex,
    /// Its index in the call that takes it.
    pub becomes: StreamIndex,
}

/// The socket of a stream, as peers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamAddress {
    /// Which stream.
    pub stream: StreamIndex,
    /// RTP; RTCP is one port up.
    pub address: SocketAddr,
}

/// Why a call is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// `capture.max_calls` is reached, or the machine is too busy.
    #[error("no capacity for another call")]
    Capacity,
    /// The spool is past its high-water mark.
    #[error("the spool is full")]
    SpoolFull,
    /// No RTP port is free, or not the one that a peer sends to.
    #[error("no RTP port is free")]
    NoPorts,
    /// The worker drains.
    #[error("the worker drains")]
    Draining,
    /// Unknown tenant, unusable key, failing disk.
    #[error("recording is not possible")]
    Broken,
}

/// A control of a running recording.
#[derive(Debug, Clone)]
pub enum Control {
    /// True silence until resumed.
    Pause {
        /// Who asked.
        by: Option<String>,
    },
    /// Record again.
    Resume,
    /// Set tags.
    Tags(Vec<(String, String)>),
}

/// What a control did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlOutcome {
    /// False when it was so already.
    pub changed: bool,
    /// Whether the recording is paused now.
    pub paused: bool,
    /// Where on the timeline, in ms.
    pub at_ms: u64,
}

/// Why a control did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ControlError {
    /// No such call.
    #[error("no call with this id is being recorded")]
    NotFound,
}

/// A running call.
#[derive(Debug, Clone)]
pub struct CallSnapshot {
    /// The recording's id.
    pub id: Uuid,
    /// Which part of it runs here.
    pub part: Part,
    /// Whose.
    pub tenant: String,
    /// When its timeline begins.
    pub started_at: Timestamp,
    /// True between pause and resume.
    pub paused: bool,
    /// What signalling knows.
    pub session: SessionInfo,
    /// Tags set while it runs.
    pub tags: Vec<(String, String)>,
    /// Counts and quality.
    pub stats: RecordingStats,
}

/// What a worker tells.
#[derive(Debug, Clone)]
pub enum WorkerEvent {
    /// The first packet of a stream came.
    FirstMedia {
        /// Which recording.
        id: Uuid,
    },
    /// No RTP on any active stream.
    MediaSilent {
        /// Which recording.
        id: Uuid,
    },
    /// SRTP comes that cannot be opened, or media in clear in its place. Told again while it lasts.
    Undecryptable {
        /// Which recording.
        id: Uuid,
        /// It looks like RTP in clear.
        in_clear: bool,
    },
    /// SRTP can be opened after all.
    Decryptable {
        /// Which recording.
        id: Uuid,
    },
    /// A recording cannot go on.
    Failed {
        /// Which recording.
        id: Uuid,
    },
    /// A later part has its first packet, or ends without one.
    TookOver {
        /// Which.
        part: Part,
        /// Audio that nobody recorded before it, in ms.
        lost_ms: u64,
    },
    /// A part is over; its files are on their way to the store.
    Finished {
        /// Which.
        part: Part,
        /// Whose.
        tenant: String,
        /// How it ended.
        state: RecordingState,
        /// Everything about it.
        ending: Box<Ending>,
    },
    /// A capture thread is gone: the node should be restarted.
    ShardGone {
        /// Which.
        shard: usize,
    },
}
