//! The small port between signalling and capture: ask for a capture, change it,
//! release it, hear what became of it. Connected in process or over the network.
//!
//! A recording is what users see; capture writes it in *parts*, one pair of files
//! each. A worker that is lost ends its part, and the recording goes on as the next
//! part with another worker:
//!
//! ```text
//! Assign 1 -> Ready 1 ... Lost 1 -> Assign 2 -> Ready 2 (the media move) ... Release
//! ```
//!
//! All of it has a serialised form (serde) that neighbouring versions understand:
//! unknown fields are ignored, fields that came later have a default, and a reason that is
//! not known here is [`ReleaseCause::Other`] or [`RefuseReason::Other`].

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use ferric_sip::sdp::{CryptoAttribute, Format};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A recording (UUIDv7): one for each communication session. Most often that is one for each dialog; a
/// dialog with several communication sessions has several, a pair of dialogs with one end each has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordingId(pub Uuid);

impl fmt::Display for RecordingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Keys of a stream under SRTP (RFC 4568).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamKeys {
    /// What the peer encrypts with: the line of its offer that we took.
    pub theirs: CryptoAttribute,
    /// What we encrypt our reports with.
    pub ours: CryptoAttribute,
}

/// One stream to be captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// Which stream of the recording; the index of the m-line where the recording has one dialog.
    pub index: usize,
    /// Where its audio goes: 0 is left, 1 is right.
    pub channel: u8,
    /// Its label.
    pub label: Option<String>,
    /// Everything that may arrive and can be decoded, and telephone-event; the answered codec first.
    pub formats: Vec<Format>,
    /// Where the peer says its RTP comes from.
    pub remote_rtp: Option<SocketAddr>,
    /// Where our receiver reports go.
    pub remote_rtcp: Option<SocketAddr>,
    /// RTCP on the RTP port.
    pub rtcp_mux: bool,
    /// False on hold: no packets are to be expected.
    pub active: bool,
    /// Its keys, where it is SRTP.
    pub keys: Option<StreamKeys>,
}

/// Which pair of files of a recording this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Counted from 1. A later part has a higher number; a number is left out where nothing came of it.
    pub number: u32,
    /// The name of its files (UUIDv7); that of the first part is the recording's.
    pub file: Uuid,
    /// The end of what the part before had, milliseconds since 1970, as far as the SRS knows: when its worker was lost.
    #[serde(default)]
    pub lost_unix_ms: Option<u64>,
    /// Addresses that the peer still sends to: only the worker that had them can take them (same ports). Empty: anywhere.
    #[serde(default)]
    pub restore: Vec<AssignedStream>,
}

impl Part {
    /// The part that a recording begins with.
    pub fn first(recording: RecordingId) -> Part {
        Part { number: 1, file: recording.0, lost_unix_ms: None, restore: Vec::new() }
    }
}

/// A stream that passes from one recording to another with its socket, so that the peer need not hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenStream {
    /// The recording that had it.
    pub from: RecordingId,
    /// Its index there.
    pub index: usize,
    /// Its index in the recording that takes it.
    pub becomes: usize,
}

/// A party as signalling knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParticipantInfo {
    /// The SRC's id.
    pub id: String,
    /// Name for display.
    pub name: Option<String>,
    /// Address of record.
    pub aor: Option<String>,
    /// Label of the stream that it sends.
    pub label: Option<String>,
    /// The stream that carries its voice, as far as it is known or could be guessed.
    pub stream: Option<usize>,
    /// Where its voice lies, also after its stream has gone: 0 is left, 1 is right.
    pub channel: Option<u8>,
    /// The communication session that it takes part in, by the SRC's id.
    pub communication_session: Option<String>,
    /// When it joined, as the SRC wrote it.
    pub joined: Option<String>,
    /// When it left, as the SRC wrote it.
    pub left: Option<String>,
    /// Milliseconds since 1970 by our clock at which the SRC first named it.
    pub seen_unix_ms: u64,
    /// Milliseconds since 1970 by our clock at which it had left.
    pub gone_unix_ms: Option<u64>,
}

/// A document about the call as it came: recording metadata, or the header of an INVITE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataDocument {
    /// Milliseconds since 1970 at which it came.
    pub received_unix_ms: u64,
    /// Its media type.
    pub media_type: Cow<'static, str>,
    /// Verbatim.
    #[serde(with = "base64_text")]
    pub body: Bytes,
}

/// What signalling knows of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Whose call it is.
    pub tenant: String,
    /// Call-ID of the (first) recording session.
    pub sip_call_id: String,
    /// From of the INVITE.
    pub from: String,
    /// To of the INVITE.
    pub to: String,
    /// User-Agent of the SRC.
    pub user_agent: Option<String>,
    /// Where the INVITE came from.
    pub source: SocketAddr,
    /// Whose dialect the SRC speaks, where it was recognised.
    pub maker: Option<Cow<'static, str>>,
    /// How the call came: `siprec`, `cube-network-based`, `cucm-near-end`, `plain`, ...
    pub source_kind: Cow<'static, str>,
    /// Other recordings of the same call.
    pub related: Vec<RecordingId>,
    /// What ties the call to other systems: header fields as they came, ids that makers
    /// hide in them, and ids out of the metadata under `metadata/...`.
    pub correlators: Vec<(String, String)>,
    /// The parties.
    pub participants: Vec<ParticipantInfo>,
    /// Metadata verbatim, oldest first, bounded.
    pub documents: Vec<MetadataDocument>,
    /// What was wrong with metadata.
    pub warnings: Vec<String>,
}

/// Why a recording was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseCause {
    /// The SRC said BYE.
    Bye,
    /// The SRC cancelled its INVITE.
    Cancelled,
    /// Somebody stopped it through the API.
    Stopped,
    /// No refresh within the session interval.
    SessionExpired,
    /// No RTP, and no answer to OPTIONS.
    PeerGone,
    /// No ACK to our 200.
    NoAck,
    /// Longer than a call may be.
    TooLong,
    /// The SRC began the same call anew before it had acknowledged this one.
    Superseded,
    /// Capture could not go on with it.
    CaptureFailed,
    /// The communication session is over; its dialog goes on with another.
    SessionOver,
    /// Only this part is over: the SRC does not send to the addresses of its worker. The recording may go on.
    NotMoved,
    /// Its worker was lost, and no other could take it over in time.
    Orphaned,
    /// For a reason that a later version knows: it is over all the same.
    #[serde(other)]
    Other,
}

impl ReleaseCause {
    /// A word for logs and metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            ReleaseCause::Bye => "bye",
            ReleaseCause::Cancelled => "cancelled",
            ReleaseCause::Stopped => "stopped",
            ReleaseCause::SessionExpired => "session-expired",
            ReleaseCause::PeerGone => "peer-gone",
            ReleaseCause::NoAck => "no-ack",
            ReleaseCause::TooLong => "too-long",
            ReleaseCause::Superseded => "superseded",
            ReleaseCause::CaptureFailed => "capture-failed",
            ReleaseCause::SessionOver => "session-over",
            ReleaseCause::NotMoved => "not-moved",
            ReleaseCause::Orphaned => "orphaned",
            ReleaseCause::Other => "other",
        }
    }

    /// True when a part ends and its recording may go on as another.
    pub fn is_of_part(self) -> bool {
        self == ReleaseCause::NotMoved
    }
}

/// What signalling asks of capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Begin a part of a recording: the first, or the next when the worker that had the one before is lost.
    Assign {
        /// The recording's name.
        recording: RecordingId,
        /// Which part of it.
        part: Part,
        /// Its streams.
        streams: Vec<StreamSpec>,
        /// Those of its streams that another recording had until now.
        takes: Vec<TakenStream>,
        /// A recording of the same dialog: what takes the one takes the other, so that streams can pass between them.
        beside: Option<RecordingId>,
        /// What is known of the call.
        info: SessionInfo,
    },
    /// The streams have changed; the list is complete.
    Change {
        /// Which recording.
        recording: RecordingId,
        /// Its streams from now on.
        streams: Vec<StreamSpec>,
        /// Those of its streams that another recording had until now.
        takes: Vec<TakenStream>,
    },
    /// More is known of the call.
    Info {
        /// Which recording.
        recording: RecordingId,
        /// All that is known now.
        info: SessionInfo,
    },
    /// The recording stands still at this moment: a `Change` lets it go on, a `Release` ends it as of now.
    Park {
        /// Which recording.
        recording: RecordingId,
    },
    /// End a recording.
    Release {
        /// Which.
        recording: RecordingId,
        /// Why.
        cause: ReleaseCause,
    },
}

/// The capture's socket for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedStream {
    /// Index of the stream.
    pub index: usize,
    /// RTP address for the answer.
    pub address: SocketAddr,
}

/// Why capture takes no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefuseReason {
    /// `capture.max_calls` is reached.
    Capacity,
    /// The spool is past its high-water mark.
    SpoolFull,
    /// No RTP port is free.
    NoPorts,
    /// The node drains.
    Draining,
    /// The spool or another part fails.
    Broken,
    /// No worker is there that could take it.
    NoWorker,
    /// A reason that a later version knows.
    #[serde(other)]
    Other,
}

impl RefuseReason {
    /// A word for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            RefuseReason::Capacity => "capacity",
            RefuseReason::SpoolFull => "spool-full",
            RefuseReason::NoPorts => "no-ports",
            RefuseReason::Draining => "draining",
            RefuseReason::Broken => "broken",
            RefuseReason::NoWorker => "no-worker",
            RefuseReason::Other => "other",
        }
    }
}

/// What capture tells signalling. Each [`Command::Assign`] and [`Command::Change`]
/// is answered by one `Ready` or `Refused`, in order; silence of some seconds counts
/// as a refusal. What is said of a part that the SRS has left behind is ignored, so
/// whatever was not answered when a part is lost or released need not be answered.
/// From `Lost` to the next `Assign` other commands for the recording mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum CaptureEvent {
    /// The part runs, or its streams are as asked for.
    Ready {
        /// Which recording.
        recording: RecordingId,
        /// Which part.
        part: u32,
        /// Its sockets.
        streams: Vec<AssignedStream>,
    },
    /// It cannot be taken, or not be changed so.
    Refused {
        /// Which recording.
        recording: RecordingId,
        /// Which part.
        part: u32,
        /// Why.
        reason: RefuseReason,
    },
    /// The worker that has the part is gone; nothing of it can be reached. The SRS assigns the next part and moves the media.
    Lost {
        /// Which recording.
        recording: RecordingId,
        /// Which part.
        part: u32,
    },
    /// A worker that had the recording and was lost is back, empty-handed: a part with `restore` can go there.
    Returned {
        /// Which recording.
        recording: RecordingId,
    },
    /// The worker is gone, and the copy that another made goes on as this part: the media move to its sockets.
    /// What was asked and is not answered yet, the other answers.
    Promoted {
        /// Which recording.
        recording: RecordingId,
        /// Which part.
        part: u32,
        /// Its sockets from now on.
        streams: Vec<AssignedStream>,
    },
    /// The first RTP packet of a recording came.
    MediaHeard {
        /// Which.
        recording: RecordingId,
    },
    /// No RTP on any active stream for `recording.rtp_timeout`; told again each time that long passes.
    MediaSilent {
        /// Which.
        recording: RecordingId,
    },
    /// The recording cannot go on. What was recorded is kept; the SRC gets a BYE,
    /// so that it can turn to another recorder.
    Died {
        /// Which.
        recording: RecordingId,
    },
}

/// Bytes as base64 text: a list of numbers would be four times as long.
pub(crate) mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}
