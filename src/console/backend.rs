//! What the console asks of a node.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::pin::Pin;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use uuid::Uuid;

use super::cluster_backend::ClusterBackend;
use super::proxy_backend::ProxyBackend;
use super::proxy_views::TextError;

/// A boxed future, as trait objects need it.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// What a node cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BackendError {
    /// Nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It does not go together with what is there.
    #[error("{text}")]
    Conflict {
        /// What does not, and what to do.
        text: String,
        /// What differs, as `diff -u` prints it.
        diff: Option<String>,
    },
    /// Meant for another version than the one in force.
    #[error("{0}")]
    Stale(String),
    /// A text that cannot be read.
    #[error("{0}")]
    Unreadable(String, Vec<TextError>),
    /// A configuration that is not fit to be put into force.
    #[error("{0}")]
    Refused(String, Vec<TextError>),
    /// Too many ask at once: the same request may be sent again in a second.
    #[error("{0}")]
    Busy(String),
    /// A part of the node, or the store, does not answer.
    #[error("{0}")]
    Unavailable(String),
}

/// One party of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParticipantView {
    /// Name for display.
    pub name: Option<String>,
    /// Address of record.
    pub aor: Option<String>,
    /// 0 = left, 1 = right.
    pub channel: Option<u8>,
}

/// One stream of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamView {
    /// Label of SDP and metadata.
    pub label: String,
    /// 0 = left, 1 = right.
    pub channel: u8,
    /// Codec of the last packet.
    pub codec: Option<String>,
    /// Packets received.
    pub packets: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Interarrival jitter.
    pub jitter_ms: f64,
    /// Estimated listening quality, 1 to 4.5.
    pub mos: Option<f64>,
    /// The same for each of the last ten-second intervals, at most 30; null where nothing came.
    pub mos_over_time: Vec<Option<f64>>,
    /// How much longer runs of lost packets are than at random loss; 1 is random.
    pub burst_ratio: f64,
    /// Packets that came too late.
    pub late: u64,
    /// The SRTP suite, where it is SRTP.
    pub srtp: Option<String>,
}

/// A live recording session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CallView {
    /// The recording's id.
    pub id: Uuid,
    /// Call-ID of the recording session.
    pub sip_call_id: String,
    /// Whose call.
    pub tenant: String,
    /// The node that records it.
    pub node: String,
    /// `recording` or `paused`.
    #[schema(value_type = String)]
    pub state: Cow<'static, str>,
    /// RFC 3339.
    pub started_at: String,
    /// Recorded so far.
    pub duration_ms: u64,
    /// The parties.
    pub participants: Vec<ParticipantView>,
    /// The streams.
    pub streams: Vec<StreamView>,
    /// Tags set while it runs.
    pub tags: std::collections::BTreeMap<String, String>,
}

/// The calls that run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CallsView {
    /// Those of every worker that answered, by id.
    pub calls: Vec<CallView>,
    /// Nodes that record and did not answer.
    pub missing: Vec<String>,
}

/// What a control did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControlView {
    /// The recording.
    pub id: Uuid,
    /// `recording`, `paused` or `stopped`.
    #[schema(value_type = String)]
    pub state: Cow<'static, str>,
    /// False when it was so already.
    pub changed: bool,
    /// Where on the recording's timeline, in ms.
    pub at_ms: u64,
}

/// A recording in the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RecordingView {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub tenant: String,
    /// `recording`, `complete`, `recovered` or `partial`.
    pub state: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339, once ended.
    pub ended_at: Option<String>,
    /// Time of which there is audio, once ended: what two parts have counts once, gaps do not count.
    pub duration_ms: Option<u64>,
    /// Audio missing between its parts.
    pub lost_ms: u64,
    /// Call-ID of the recording session.
    pub sip_call_id: Option<String>,
    /// Numbers or addresses, or their hashes.
    pub parties: Vec<String>,
    /// `name=value`.
    pub tags: Vec<String>,
    /// True when the store has verified all of it.
    pub stored: bool,
    /// What it consists of: one part, or more where it went on at another node.
    pub parts: Vec<PartView>,
}

/// A part of a recording: one pair of sealed files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartView {
    /// Which, counted from 1: the `part` of `/audio?part=`. A number is left out where nothing came of it.
    pub part: u32,
    /// Of its files; that of a first part is the recording's.
    pub id: Uuid,
    /// The node that wrote it.
    pub node: String,
    /// `recording`, `complete`, `recovered` or `partial`.
    pub state: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339, once ended.
    pub ended_at: Option<String>,
    /// Length, once ended.
    pub duration_ms: Option<u64>,
    /// Audio missing before it.
    pub gap_ms: u64,
    /// Written by a second node, and shown because the first has less.
    pub copy: bool,
    /// True when the store has verified it.
    pub stored: bool,
}

/// What became of one INVITE that asked for a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssuranceCall {
    /// Its id in the ledger.
    pub invite: Uuid,
    /// When it came, RFC 3339.
    pub received: String,
    /// Whose call.
    pub tenant: String,
    /// How it came: `siprec`, `plain`, `cucm-near-end`, ...
    pub source: String,
    /// `complete`, `recovered`, `partial`, `refused`, `moved` (another node has the call); absent while the call runs.
    pub outcome: Option<String>,
    /// Status code of a refusal.
    pub status: Option<u16>,
    /// Why.
    pub cause: Option<String>,
    /// The recordings that it fed.
    pub recordings: Vec<Uuid>,
    /// Where audio is missing, the first 32.
    pub gaps: Vec<AssuranceGap>,
    /// How many such stretches there are.
    pub gap_count: u64,
}

/// A stretch without audio that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssuranceGap {
    /// 0 = left, 1 = right.
    pub channel: u8,
    /// In ms of the recording.
    pub from_ms: u64,
    /// In ms of the recording.
    pub to_ms: u64,
    /// `loss` or `no-rtp`.
    pub reason: String,
}

/// How many INVITEs came to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssuranceTotals {
    /// INVITEs that came.
    pub received: u64,
    /// Recorded whole.
    pub complete: u64,
    /// Finished after a crash.
    pub recovered: u64,
    /// Recorded in part.
    pub partial: u64,
    /// Not taken.
    pub refused: u64,
    /// Taken over by another node, whose ledger has the outcome.
    pub moved: u64,
    /// Taken over from another node; not among those that came.
    pub adopted: u64,
    /// Without an outcome yet.
    pub open: u64,
}

/// The ledger of a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssuranceView {
    /// From here, RFC 3339.
    pub from: String,
    /// To before here, RFC 3339.
    pub to: String,
    /// Sums over the whole time.
    pub totals: AssuranceTotals,
    /// Every INVITE has one outcome or is open.
    pub adds_up: bool,
    /// The files are as the node wrote them: hashes, order, signatures.
    pub intact: bool,
    /// What is wrong, if anything.
    pub problems: Vec<String>,
    /// The INVITEs, in order.
    pub calls: Vec<AssuranceCall>,
    /// For the next page.
    pub next_cursor: Option<String>,
}

/// Which part of the ledger.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct AssuranceQuery {
    /// From here (RFC 3339); a day ago if absent.
    pub from: Option<String>,
    /// To before here (RFC 3339); now if absent.
    pub to: Option<String>,
    /// Calls in the answer, at most 10,000.
    pub limit: Option<usize>,
    /// Of the page before.
    pub cursor: Option<String>,
}

/// A page of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RecordingsPage {
    /// Newest first.
    pub recordings: Vec<RecordingView>,
    /// For the next page; absent on the last.
    pub next_cursor: Option<String>,
}

/// What to look for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingsQuery {
    /// Not before, RFC 3339.
    pub from: Option<String>,
    /// Before, RFC 3339.
    pub to: Option<String>,
    /// A number or address of either party.
    pub party: Option<String>,
    /// Whose.
    pub tenant: Option<String>,
    /// An id by which another system knows the call (Cisco-Guid, UCID, Session-ID, ...), whole.
    pub correlator: Option<String>,
    /// `name` or `name=value`.
    pub tag: Option<String>,
    /// How it ended.
    pub state: Option<String>,
    /// At most so many, 1 to 1000.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Which object of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// `audio.eopus`
    Audio,
    /// `metadata.ejson`
    Metadata,
    /// `manifest.json`
    Manifest,
}

/// The uploads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct UploadsView {
    /// Recordings that wait or are under way.
    pub waiting: u64,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// Age of the oldest that waits, in seconds.
    pub lag_seconds: f64,
    /// Stored since the start.
    pub stored: u64,
    /// Failed attempts since the start.
    pub failed: u64,
    /// The last thing a store said.
    pub last_error: Option<String>,
}

/// Something a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Alarm {
    /// Short name.
    pub name: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: &'static str,
}

/// Whether calls can be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// True when they can.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// A node as the console sees it.
pub trait Backend: ProxyBackend + ClusterBackend {
    /// Live calls of all workers.
    fn calls(&self) -> Answer<'_, CallsView>;
    /// Pause.
    fn pause(&self, id: Uuid) -> Answer<'_, ControlView>;
    /// Resume.
    fn resume(&self, id: Uuid) -> Answer<'_, ControlView>;
    /// End the recording.
    fn stop(&self, id: Uuid) -> Answer<'_, ControlView>;
    /// Set tags.
    fn tag(&self, id: Uuid, tags: Vec<(String, String)>) -> Answer<'_, ControlView>;
    /// Search the catalogue.
    fn recordings(&self, query: RecordingsQuery) -> Answer<'_, RecordingsPage>;
    /// One recording.
    fn recording(&self, id: Uuid) -> Answer<'_, RecordingView>;
    /// A sealed object of a part, from the spool or the store.
    fn object(&self, id: Uuid, part: NonZeroU32, kind: ObjectKind) -> Answer<'_, Bytes>;
    /// What became of the INVITEs of a time.
    fn assurance(&self, query: AssuranceQuery) -> Answer<'_, AssuranceView>;

    /// What happens from now on.
    fn events(&self) -> tokio::sync::broadcast::Receiver<super::Event>;
    /// The uploads.
    fn uploads(&self) -> UploadsView;
    /// What stands.
    fn alarms(&self) -> Vec<Alarm>;
    /// Whether calls can be taken.
    fn readiness(&self) -> Readiness;
    /// Prometheus text.
    fn metrics(&self) -> String;
}
