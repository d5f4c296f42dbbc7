//! What another node needs to go on with a call: the *replica* of a dialog and of the recordings that it feeds.
//!
//! ```text
//! owner:   Srs::poll_replicas --Batch--> (fabric) --> partner: Replicas::take
//! partner: Replicas::surrendered_by(owner) --Estate--> Srs::adopt
//! ```
//!
//! - A [`Batch`] is consistent in itself: a dialog comes with its recordings. An update stands for the whole of
//!   its record; only documents, which are large and never change, are sent once each ([`Documents`]).
//! - Only what the peer has agreed to is replicated. A call whose first INVITE is not answered yet is none:
//!   its peer tries again elsewhere. A change that waits for capture is not in the replica either: its request is repeated.
//! - Time travels as what is left of it: clocks of nodes differ.
//! - SRTP keys are in replicas. They travel under mutual TLS only, live in memory only, and `Debug` never prints them.
//! - All of it has a serialised form that neighbouring versions understand: unknown fields are ignored, later ones have
//!   defaults.

pub mod pairing;
mod store;

pub use store::{Estate, Replicas, ReplicasLimits};

use std::fmt;

use ferric_sip::dialog::{AcceptedState, Dialog, SessionTimerState};
use ferric_sip::flow::Flow;
use ferric_sip::sdp::Origin;
use serde::{Deserialize, Serialize};

use crate::event::InviteId;
use crate::maker::{End, Half};
use crate::port::{AssignedStream, MetadataDocument, RecordingId, SessionInfo, StreamSpec};

/// What changed since the batch before, in order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Batch {
    /// Everything is told anew from here on: what is not told again until [`Batch::caught_up`] is gone.
    #[serde(default)]
    pub restart: bool,
    /// Nothing else has changed at the moment.
    #[serde(default)]
    pub caught_up: bool,
    /// The changes.
    #[serde(default)]
    pub updates: Vec<Update>,
}

/// One record, as it is from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// A dialog is so.
    Session(Box<SessionReplica>),
    /// A dialog is over.
    SessionOver(InviteId),
    /// A recording is so.
    Recording(Box<RecordingReplica>),
    /// A recording is over.
    RecordingOver(RecordingId),
}

/// A dialog.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionReplica {
    /// The INVITE that began it: its name among nodes.
    pub invite: InviteId,
    /// How often the dialog changed its node. Of two nodes that think that it is theirs, the one with more is right.
    #[serde(default)]
    pub epoch: u32,
    /// Ids, routes, target, sequence numbers.
    pub dialog: Dialog,
    /// CSeq number of the first INVITE.
    pub invite_cseq: u32,
    /// How the peer was reached; the number of a connection means nothing elsewhere.
    pub flow: Flow,
    /// The 200 that waits for its ACK.
    #[serde(default)]
    pub accepted: Option<AcceptedState>,
    /// The answer to an offer of ours comes with that ACK.
    #[serde(default)]
    pub awaits_answer: bool,
    /// The session timer.
    #[serde(default)]
    pub timer: Option<SessionTimerState>,
    /// Our `o=` line.
    pub origin: Origin,
    /// Its streams by m-line.
    pub streams: Vec<StreamSpec>,
    /// M-lines whose recording was stopped.
    #[serde(default)]
    pub stopped: Vec<usize>,
    /// What it feeds, the main one first.
    pub recordings: Vec<RecordingId>,
    /// Communication sessions by the SRC's id, and the recording of each.
    #[serde(default)]
    pub communication_sessions: Vec<(String, RecordingId)>,
    /// It is one end of a call whose other end has a dialog of its own.
    #[serde(default)]
    pub half: Option<HalfReplica>,
    /// The description that we sent last.
    pub last_sdp: String,
    /// What is known of the call, without its documents.
    pub info: SessionInfo,
    /// The documents.
    #[serde(default)]
    pub documents: Documents,
    /// The sockets that the peer sends to, by m-line.
    #[serde(default)]
    pub told: Vec<AssignedStream>,
    /// The peer takes no offer in an UPDATE.
    #[serde(default)]
    pub offers_by_invite: bool,
    /// The peer serves UPDATE.
    #[serde(default)]
    pub peer_allows_update: bool,
    /// The peer takes requests for metadata snapshots.
    #[serde(default)]
    pub peer_gives_snapshots: bool,
    /// RTP came.
    #[serde(default)]
    pub heard: bool,
    /// Until the call is too long, in ms.
    pub ends_in_ms: u64,
}

/// Keys are in the descriptions and under the streams.
impl fmt::Debug for SessionReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionReplica")
            .field("invite", &self.invite)
            .field("epoch", &self.epoch)
            .field("dialog", &self.dialog.id)
            .field("recordings", &self.recordings)
            .finish_non_exhaustive()
    }
}

/// The end of a list: what was before `from` is known already.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Documents {
    /// The number of the first of these.
    pub from: usize,
    /// From there on, all.
    pub list: Vec<MetadataDocument>,
}

/// Which half of a call a dialog carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfReplica {
    /// The same in both halves.
    pub key: String,
    /// The near end, and not the far one.
    pub near: bool,
}

impl HalfReplica {
    pub(crate) fn of(half: &Half) -> HalfReplica {
        HalfReplica { key: half.key.clone(), near: half.end == End::Near }
    }

    pub(crate) fn half(self) -> Half {
        Half { key: self.key, end: end_of(self.near) }
    }
}

fn end_of(near: bool) -> End {
    if near { End::Near } else { End::Far }
}

/// A recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordingReplica {
    /// Its name.
    pub recording: RecordingId,
    /// The part that runs.
    #[serde(default)]
    pub part: u32,
    /// The dialogs that feed it or did.
    pub legs: Vec<LegReplica>,
    /// As capture said last.
    pub assigned: Vec<AssignedStream>,
    /// Tenant and key by which a second dialog finds it.
    #[serde(default)]
    pub pair: Option<(String, String)>,
    /// The channels of all streams that it has had.
    pub channels: Vec<(usize, u8)>,
}

/// A dialog's part in a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LegReplica {
    /// The dialog; `None` when it is over.
    #[serde(default)]
    pub session: Option<InviteId>,
    /// Its number in the recording.
    pub number: usize,
    /// Which end of the call.
    #[serde(default)]
    pub near: Option<bool>,
    /// Its m-lines in this recording.
    #[serde(default)]
    pub lines: Vec<usize>,
    /// What was known of the call when the dialog ended.
    #[serde(default)]
    pub over: Option<SessionInfo>,
}

impl LegReplica {
    pub(crate) fn end(&self) -> Option<End> {
        self.near.map(end_of)
    }
}
