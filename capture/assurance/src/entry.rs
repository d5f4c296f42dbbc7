//! One line of the ledger.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferric_media::keys::{NodeKey, NodePublicKey};
use ferric_media::manifest::{Digest, canonical_json};
use ferric_media::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Gaps that a line lists; their number is told whole.
pub(crate) const MAX_GAPS: usize = 32;

/// What became of an INVITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All of it is recorded.
    Complete,
    /// The node died and finished the recording at its next start.
    Recovered,
    /// Some of it is missing; the cause says why.
    Partial,
    /// It was not taken; the cause says why.
    Refused,
    /// Another node took the call over: its ledger has what became of it. The cause names it.
    Moved,
}

impl Outcome {
    /// As in the files.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Recovered => "recovered",
            Outcome::Partial => "partial",
            Outcome::Refused => "refused",
            Outcome::Moved => "moved",
        }
    }
}

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An INVITE came.
    Received,
    /// An INVITE had come to another node, which was lost; its call is this one's now.
    Adopted,
    /// It goes into a recording, or into another part of it; told again with the node that records it.
    Recording,
    /// A recording is finished: its manifest is on disk.
    Finished,
    /// The INVITE's dialog is over.
    Ended,
    /// What became of the INVITE.
    Outcome,
}

/// A stretch without audio that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapEntry {
    /// 0 is left, 1 is right.
    pub channel: u8,
    /// From, in ms of the recording.
    pub from_ms: u64,
    /// To, in ms of the recording.
    pub to_ms: u64,
    /// `loss`, `no-rtp`.
    pub reason: String,
}

/// A line. Members that do not apply are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts the node's lines from 1.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What it tells.
    pub kind: Kind,
    /// SHA-256 of the line before; absent in the very first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// Which INVITE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<Uuid>,
    /// Which recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Uuid>,
    /// Which part of the recording; absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    /// The node that records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whose call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Keyed hash of the Call-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// How it came: `siprec`, `plain`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What became of it, or of the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Status code of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// All recordings that the INVITE fed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recordings: Vec<Uuid>,
    /// Length of the audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// SHA-256 of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Where audio is missing, the first 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<GapEntry>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gap_count: u64,
    /// Ed25519 over the canonical JSON of everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Entry {
    pub(crate) fn new(kind: Kind, at: Timestamp) -> Entry {
        Entry {
            seq: 0,
            at,
            kind,
            previous: None,
            invite: None,
            recording: None,
            part: None,
            node: None,
            tenant: None,
            call: None,
            source: None,
            outcome: None,
            status: None,
            cause: None,
            recordings: Vec::new(),
            duration_ms: None,
            manifest: None,
            gaps: Vec::new(),
            gap_count: 0,
            signature: None,
        }
    }

    fn canonical(&self) -> Option<Vec<u8>> {
        let mut value = serde_json::to_value(self).ok()?;
        if let Value::Object(members) = &mut value {
            members.remove("signature");
        }
        canonical_json(&value).ok()
    }

    /// The line, signed, without its end.
    pub(crate) fn line(mut self, key: &NodeKey) -> Option<Vec<u8>> {
        let message = self.canonical()?;
        self.signature = Some(URL_SAFE_NO_PAD.encode(key.sign(&message)));
        canonical_json(&serde_json::to_value(&self).ok()?).ok()
    }

    /// Reads a line.
    pub(crate) fn parse(line: &[u8]) -> Option<Entry> {
        serde_json::from_slice(line).ok()
    }

    /// True when the node that holds `key` wrote it so.
    pub(crate) fn is_signed(&self, key: &NodePublicKey) -> bool {
        let signature = self.signature.as_deref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let message = self.canonical();
        signature.zip(message).is_some_and(|(signature, message)| key.verifies(&message, &signature))
    }
}
