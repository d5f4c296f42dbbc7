//! The metadata document of one recording: what `metadata.ejson` holds once opened.
//!
//! Two hands write it. The signalling side knows who speaks: it sends a whole
//! [`SessionInfo`] at the start and at every change, and the last one stands.
//! The capture side knows what arrived: [`StreamReport`]s, gaps, pauses, DTMF,
//! hand-overs. The document is sealed at the start and again at every change, so
//! that a recording cut short still knows its parties.
//!
//! Times within the call are milliseconds on the recording's timeline, 0 at
//! `started_at`; times of the outside world are RFC 3339. Members that are empty
//! are left out; readers ignore members they do not know. Texts of the far end
//! (names, AORs, XML) are kept as they came: metadata being wrong never costs audio.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::manifest::RecordingState;
use crate::part::Part;
use crate::stats::Bursts;
use crate::timestamp::Timestamp;

/// Version of this document's shape.
pub const METADATA_VERSION: u32 = 1;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordingMetadata {
    /// Shape version, [`METADATA_VERSION`].
    pub v: u32,
    /// Which files of which recording.
    #[serde(flatten)]
    pub part: Part,
    /// Whose it is.
    pub tenant: String,
    /// `recording` while the call runs, then how it ended.
    pub state: MetadataState,
    /// Zero of the timeline.
    pub started_at: Timestamp,
    /// End of the timeline, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Length of the audio, in milliseconds, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Why the recording ended, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// What signalling knows.
    #[serde(flatten)]
    pub session: SessionInfo,
    /// What arrived, a report per RTP stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamReport>,
    /// Stretches without audio that nobody asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Stretches in which recording was paused by a control.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pauses: Vec<Pause>,
    /// Stretches in which a stream was on hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
    /// True when key tones were taken out of the audio (`dtmf = "mask"`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dtmf_masked: bool,
    /// Key presses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dtmf: Vec<Dtmf>,
    /// Tags set by control while the call ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Nodes that wrote these files, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodePart>,
    /// How the recording came from one node to another, as far as this part knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hand_overs: Vec<HandOver>,
    /// What was odd and did not stop the recording.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl RecordingMetadata {
    /// The document of a recording that begins now.
    pub fn new(part: Part, tenant: &str, node: &str, started_at: Timestamp, session: SessionInfo) -> RecordingMetadata {
        RecordingMetadata {
            v: METADATA_VERSION,
            part,
            tenant: tenant.to_owned(),
            state: MetadataState::Recording,
            started_at,
            ended_at: None,
            duration_ms: None,
            end_reason: None,
            session,
            streams: Vec::new(),
            gaps: Vec::new(),
            pauses: Vec::new(),
            holds: Vec::new(),
            dtmf_masked: false,
            dtmf: Vec::new(),
            tags: Vec::new(),
            nodes: vec![NodePart { node: node.to_owned(), from: started_at, to: None, reason: None }],
            hand_overs: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The JSON that is sealed.
    ///
    /// # Errors
    /// A number that JSON cannot hold (a jitter that is not finite).
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads an opened `metadata.ejson`.
    ///
    /// # Errors
    /// Not JSON of this shape.
    pub fn from_json(json: &[u8]) -> Result<RecordingMetadata, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// Where a recording stands, as its metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetadataState {
    /// The call ran when this was sealed; the manifest tells how it ended.
    Recording,
    /// See [`RecordingState::Complete`].
    Complete,
    /// See [`RecordingState::Recovered`].
    Recovered,
    /// See [`RecordingState::Partial`].
    Partial,
}

impl From<RecordingState> for MetadataState {
    fn from(state: RecordingState) -> MetadataState {
        match state {
            RecordingState::Complete => MetadataState::Complete,
            RecordingState::Recovered => MetadataState::Recovered,
            RecordingState::Partial => MetadataState::Partial,
        }
    }
}

/// What the signalling side knows of a session. It sends the whole of it at every change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Ids of the SIP dialog and of the call it records.
    #[serde(default)]
    pub sip: SipIds,
    /// Who spoke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub participants: Vec<Participant>,
    /// What each channel of the file is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// The recording client's own metadata, every version, verbatim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub src_metadata: Vec<SrcMetadata>,
    /// The header of each INVITE that began a dialog of the call, verbatim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sip_headers: Vec<SrcMetadata>,
    /// The equipment that sent the call, as far as it told (User-Agent, vendor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whose dialect that equipment speaks, where it was recognised: `cisco-cube`, `oracle`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<String>,
    /// How the call came: `siprec`, `cube-network-based`, `cucm-near-end`, `plain`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_kind: Option<String>,
    /// Other recordings of the same call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Uuid>,
    /// What was odd in what the equipment told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signalling_warnings: Vec<String>,
}

/// Ids by which others know the call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipIds {
    /// Call-ID of the recording session's dialog.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub call_id: String,
    /// Tag of the recording client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_tag: Option<String>,
    /// Our tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_tag: Option<String>,
    /// Ids of the communication session and of its makers: Cisco-Guid, x-refci, UCID, Session-ID, group_id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub correlators: Vec<Correlator>,
}

/// One id of the call in somebody else's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correlator {
    /// Header, parameter or element it came in, such as `Cisco-Guid`.
    pub name: String,
    /// Its text, unchanged.
    pub value: String,
}

/// Somebody who spoke.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// The recording client's id for them, opaque.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Address of record, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aor: Option<String>,
    /// Channel of the file that carries their voice, 0 = left; absent if nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
    /// When they took part; empty = throughout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
}

/// A stretch of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Its beginning, in ms.
    pub from_ms: u64,
    /// Its end, in ms; absent = to the end of the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u64>,
}

/// One channel of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// 0 = left, 1 = right.
    pub channel: u8,
    /// The `a=label` of its media line (RFC 4574).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What it carries, such as `mixed` where one line carries both parties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A metadata body of the recording client, verbatim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrcMetadata {
    /// When it arrived.
    pub received_at: Timestamp,
    /// Its Content-Type.
    pub content_type: String,
    /// The body. Bytes that are not UTF-8 are in `body_base64` instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64url, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl SrcMetadata {
    /// Keeps a body byte for byte.
    pub fn new(received_at: Timestamp, content_type: &str, body: &[u8]) -> SrcMetadata {
        use base64::Engine as _;
        let text = std::str::from_utf8(body).ok();
        SrcMetadata {
            received_at,
            content_type: content_type.to_owned(),
            body: text.map(str::to_owned),
            body_base64: text.is_none().then(|| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(body)),
        }
    }
}

/// What arrived of one RTP stream (one SSRC as a rule).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// The `a=label` of its media line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Channel of the file, 0 = left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
    /// Codec, as in an rtpmap: `PCMU/8000`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codecs: Vec<String>,
    /// Synchronisation sources seen, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssrcs: Vec<u32>,
    /// Address the packets came from, last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Packets that arrived and belonged here.
    pub packets: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Packets that came after their place had been played out.
    pub late: u64,
    /// Packets that came again.
    pub duplicate: u64,
    /// Packets out of order that were still in time.
    #[serde(default)]
    pub reordered: u64,
    /// Interarrival jitter (RFC 3550 6.4.1) at the end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<f64>,
    /// Estimated listening quality, 1.0 to 4.5 (ITU-T G.107).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos: Option<f64>,
    /// The same for each ten seconds of the timeline; null where nothing came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mos_over_time: Vec<Option<f64>>,
    /// How much longer runs of lost packets were than at random loss; 1 is random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_ratio: Option<f64>,
    /// Bursts of loss and the gaps between them (RFC 3611 4.7.2); absent where nothing was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bursts: Option<Bursts>,
    /// Mean round trip to the sender in ms, where its RTCP told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// The SRTP suite, by the name of `a=crypto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srtp: Option<String>,
    /// SRTP packets that no key opened, and packets in clear that came in their place.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub undecryptable: u64,
    /// Audio concealed or left silent because packets were missing, in milliseconds.
    #[serde(default)]
    pub concealed_ms: u64,
    /// First and last packet on the timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A stretch without audio that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Channel of the file; absent = both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
    /// Where it lies.
    #[serde(flatten)]
    pub at: Interval,
    /// Why, in a word: `loss`, `no-rtp`, `decode`, `disk`.
    pub reason: String,
}

/// A pause by control: true silence of the right length in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Where it lies.
    #[serde(flatten)]
    pub at: Interval,
    /// Who asked: a user, `src`, `api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A hold by the call's own signalling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Channel of the file; absent = both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
    /// Where it lies.
    #[serde(flatten)]
    pub at: Interval,
}

/// A key press (RFC 4733 telephone-event).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dtmf {
    /// Channel of the file.
    pub channel: u8,
    /// Where it lies.
    #[serde(flatten)]
    pub at: Interval,
    /// Which key; absent under `dtmf = "mask"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digit: Option<char>,
}

/// A tag set by control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Its value; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// When it was set, in ms on the timeline.
    pub at_ms: u64,
}

/// A node's part in the recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePart {
    /// The node.
    pub node: String,
    /// From when.
    pub from: Timestamp,
    /// Until when; absent = to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// Why it took over, for all but the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A recording went on at another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The part that began with it.
    pub part: u32,
    /// The node that took over.
    pub node: String,
    /// When it was ready to.
    pub at: Timestamp,
    /// Audio that nobody recorded, in ms: from when the node before was last known to record to the first packet here, by
    /// this node's clock. Absent while no packet has come, or if nobody knows when the other one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<u64>,
    /// Why, in a word: `worker-lost`.
    pub cause: String,
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;

    fn document() -> RecordingMetadata {
        let session = SessionInfo {
            sip: SipIds {
                call_id: "a84b4c76e66710@sbc.example".into(),
                correlators: vec![Correlator { name: "Cisco-Guid".into(), value: "1-2-3-4".into() }],
                ..SipIds::default()
            },
            participants: vec![Participant {
                id: "p1".into(),
                name: Some("Ann".into()),
                aor: Some("sip:+15550001@sbc.example".into()),
                channel: Some(0),
                intervals: vec![Interval { from_ms: 0, to_ms: None }],
            }],
            src_metadata: vec![
                SrcMetadata::new(Timestamp::from_unix_ms(5), "application/rs-metadata+xml", "<a>\r\n é</a>".as_bytes()),
                SrcMetadata::new(Timestamp::from_unix_ms(6), "application/rs-metadata", &[0xff, 0xfe]),
            ],
            ..SessionInfo::default()
        };
        RecordingMetadata::new(Part::first(Uuid::from_u128(3)), "acme", "edge-a1", Timestamp::from_unix_ms(0), session)
    }

    #[test]
    fn a_full_document_comes_back() {
        let mut metadata = document();
        metadata.state = RecordingState::Recovered.into();
        metadata.streams.push(StreamReport {
            label: Some("1".into()),
            codecs: vec!["PCMU/8000".into()],
            packets: 500,
            lost: 3,
            jitter_ms: Some(1.25),
            mos: Some(4.2),
            ..StreamReport::default()
        });
        metadata.gaps.push(Gap {
            channel: Some(1),
            at: Interval { from_ms: 10, to_ms: Some(70) },
            reason: "loss".into(),
        });
        metadata.pauses.push(Pause { at: Interval { from_ms: 100, to_ms: None }, by: Some("api".into()) });
        metadata.dtmf.push(Dtmf { channel: 0, at: Interval { from_ms: 5, to_ms: Some(9) }, digit: Some('#') });
        metadata.tags.push(Tag { name: "case".into(), value: "12".into(), at_ms: 4 });
        let json = metadata.to_json().unwrap();
        assert_eq!(RecordingMetadata::from_json(&json).unwrap(), metadata);
    }

    #[test]
    fn members_have_the_names_of_the_contract_and_empty_ones_are_left_out() {
        let value: serde_json::Value = serde_json::from_slice(&document().to_json().unwrap()).unwrap();
        let names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            ["id", "nodes", "participants", "sip", "src_metadata", "started_at", "state", "tenant", "v"]
        );
        assert_eq!(value["state"], "recording");
        assert_eq!(value["src_metadata"][0]["body"], "<a>\r\n é</a>");
        assert_eq!(value["src_metadata"][1]["body_base64"], "__4");
    }

    #[test]
    fn a_masked_digit_keeps_its_time_only() {
        let json =
            serde_json::to_string(&Dtmf { channel: 1, at: Interval { from_ms: 5, to_ms: Some(9) }, digit: None })
                .unwrap();
        assert_eq!(json, r#"{"channel":1,"from_ms":5,"to_ms":9}"#);
    }

    #[test]
    fn members_of_a_later_version_are_ignored() {
        let mut value: serde_json::Value = serde_json::from_slice(&document().to_json().unwrap()).unwrap();
        value["mood"] = "good".into();
        assert!(RecordingMetadata::from_json(&serde_json::to_vec(&value).unwrap()).is_ok());
    }
}
