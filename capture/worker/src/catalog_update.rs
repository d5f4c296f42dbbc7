//! News of a recording, as capture and upload tell it.

use serde::{Deserialize, Serialize};

use ferric_media::manifest::{Digest, SignedManifest};
use ferric_media::metadata::{Correlator, MetadataState, RecordingMetadata};
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;

/// Where a recording stands on its way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadState {
    /// The call still runs.
    None,
    /// It waits in the spool.
    Waiting,
    /// It is verified in the store.
    Stored,
    /// The last attempt failed; it will be repeated.
    Failing,
    /// It was set aside and needs a person.
    Aside,
}

impl UploadState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            UploadState::None => "none",
            UploadState::Waiting => "waiting",
            UploadState::Stored => "stored",
            UploadState::Failing => "failing",
            UploadState::Aside => "aside",
        }
    }
}

/// A participant as the catalogue shows them; nobody is shown where parties are hashed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Address of record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aor: Option<String>,
    /// Channel of the file, 0 = left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
}

/// Reception of all streams together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Packets received.
    pub packets: u64,
    /// Packets lost.
    pub lost: u64,
    /// Worst interarrival jitter, in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Worst estimated listening quality, 1.0 to 4.5.
    pub mos: Option<f64>,
}

/// News of a part of a recording. What is `None` stays as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingUpdate {
    /// Which files of which recording.
    pub part: Part,
    /// Whose it is.
    pub tenant: String,
    /// The node that records it.
    pub node: String,
    /// Running, or how it ended.
    pub state: MetadataState,
    /// When its timeline begins.
    pub started_at: Timestamp,
    /// When it ends.
    pub ended_at: Option<Timestamp>,
    /// Length of the audio, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Audio that nobody recorded before this part, in milliseconds, as it measured it.
    pub lost_ms: Option<u64>,
    /// Length of the sealed audio, in bytes.
    pub audio_bytes: Option<u64>,
    /// Call-ID of the recording session.
    pub sip_call_id: Option<String>,
    /// Who spoke.
    pub parties: Option<Vec<Party>>,
    /// Tags, all of them.
    pub tags: Option<Vec<(String, String)>>,
    /// Ids by which others know the call.
    pub correlators: Option<Vec<Correlator>>,
    /// Reception.
    pub quality: Option<Quality>,
    /// SHA-256 of the manifest, and of the one before.
    pub manifest: Option<(Digest, Option<Digest>)>,
    /// Where it stands on its way to the store.
    pub upload: Option<UploadState>,
}

impl RecordingUpdate {
    /// What the metadata document tells.
    pub fn from_metadata(metadata: &RecordingMetadata) -> RecordingUpdate {
        let session = &metadata.session;
        let party = |participant: &ferric_media::metadata::Participant| Party {
            name: participant.name.clone(),
            aor: participant.aor.clone(),
            channel: participant.channel,
        };
        let tag = |tag: &ferric_media::metadata::Tag| (tag.name.clone(), tag.value.clone());
        let streams = &metadata.streams;
        let worst = |values: &mut dyn Iterator<Item = f64>, sign: f64| {
            values.map(|value| value * sign).reduce(f64::max).map(|value| value * sign)
        };
        let quality = (!streams.is_empty()).then(|| Quality {
            packets: streams.iter().map(|stream| stream.packets).sum(),
            lost: streams.iter().map(|stream| stream.lost).sum(),
            jitter_ms: worst(&mut streams.iter().filter_map(|stream| stream.jitter_ms), 1.0),
            mos: worst(&mut streams.iter().filter_map(|stream| stream.mos), -1.0),
        });
        RecordingUpdate {
            part: metadata.part,
            tenant: metadata.tenant.clone(),
            node: metadata.nodes.last().map(|part| part.node.clone()).unwrap_or_default(),
            state: metadata.state,
            started_at: metadata.started_at,
            ended_at: metadata.ended_at,
            duration_ms: metadata.duration_ms,
            lost_ms: metadata.hand_overs.last().and_then(|hand_over| hand_over.lost_ms),
            audio_bytes: None,
            sip_call_id: Some(session.sip.call_id.clone()).filter(|id| !id.is_empty()),
            parties: Some(session.participants.iter().map(party).collect()),
            tags: Some(metadata.tags.iter().map(tag).collect()),
            correlators: Some(session.sip.correlators.clone()),
            quality,
            manifest: None,
            upload: None,
        }
    }

    /// What the manifest tells; `upload` is where its files are.
    pub fn from_manifest(signed: &SignedManifest, upload: UploadState) -> RecordingUpdate {
        let manifest = &signed.manifest;
        RecordingUpdate {
            part: manifest.part,
            tenant: manifest.tenant.clone(),
            node: manifest.node.clone(),
            state: manifest.state.into(),
            started_at: manifest.started_at,
            ended_at: Some(manifest.ended_at),
            duration_ms: Some(manifest.duration_ms),
            lost_ms: None,
            audio_bytes: Some(manifest.audio.bytes),
            sip_call_id: None,
            parties: None,
            tags: None,
            correlators: None,
            quality: None,
            manifest: Some((signed.digest(), manifest.previous)),
            upload: Some(upload),
        }
    }
}
