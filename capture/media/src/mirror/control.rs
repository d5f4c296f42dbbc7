//! What is not media: beginning, changes, pauses, tags, the end; and what the copy reports back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frame::{Header, Kind};
use super::wire;
use crate::metadata::SessionInfo;
use crate::stream::StreamConfig;
use crate::timestamp::Timestamp;

/// Everything a second worker needs to begin a copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// The recording.
    pub recording: Uuid,
    /// Which part of it.
    pub part: u32,
    /// The original's file id.
    pub original: Uuid,
    /// The node that has the original.
    pub node: String,
    /// Whose call.
    pub tenant: String,
    /// When the original's timeline began; its place in the store.
    pub original_started_at: Timestamp,
    /// The wall clock of the original's node at journal time zero.
    pub started_at: Timestamp,
    /// What signalling knows.
    pub session: SessionInfo,
    /// The streams.
    #[serde(with = "wire")]
    pub streams: Vec<StreamConfig>,
    /// Tags set before.
    #[serde(default)]
    pub tags: Vec<(String, String)>,
    /// It stands between pause and resume.
    #[serde(default)]
    pub paused: bool,
}

/// An input of the recorder that is no datagram. It happened at its frame's `at`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Always the first.
    Begin(Box<Begin>),
    /// The streams from now on.
    Streams(Streams),
    /// What signalling knows from now on.
    Session(Box<SessionInfo>),
    /// Silence from now on.
    Pause {
        /// Who asked.
        by: Option<String>,
    },
    /// Sound again.
    Resume,
    /// Tags were set.
    Tags(Vec<(String, String)>),
    /// The call is over. Always the last.
    Stop {
        /// Why.
        reason: String,
    },
}

impl Control {
    /// What a frame says that begins a copy; `None` for any other.
    pub fn begin(frame: &Bytes) -> Option<Begin> {
        let (header, body) = Header::parse(frame).ok()?;
        if header.kind != Kind::Control || header.number != 0 {
            return None;
        }
        match serde_json::from_slice(&body).ok()? {
            Control::Begin(begin) => Some(*begin),
            _ => None,
        }
    }
}

/// Streams with their keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Streams(#[serde(with = "wire")] pub Vec<StreamConfig>);

/// What the copy tells the original: how far it is, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The copy's file id.
    pub copy: Uuid,
    /// Frames before this one need not be kept.
    pub next: u32,
    /// Controls it has carried out.
    pub controls: u32,
    /// Numbers of frames that are missing: first and last, of each run.
    #[serde(default)]
    pub missing: Vec<(u32, u32)>,
    /// Media frames given up so far.
    #[serde(default)]
    pub given_up: u64,
    /// It has ended, by itself or because it cannot go on.
    #[serde(default)]
    pub ended: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rtp::StreamIndex;
    use crate::srtp::{SrtpConfig, SrtpKey, SrtpSuite};
    use crate::stats::Channel;
    use crate::stream::PayloadKind;
    use ferric_codecs::decode::CodecKind;

    fn streams() -> Vec<StreamConfig> {
        let key = |byte: u8, mki| SrtpKey { key_salt: vec![byte; 30], mki };
        let all = [
            CodecKind::Pcmu,
            CodecKind::L16 { rate: 16_000, channels: 2 },
            CodecKind::G726 { bits: 4, aal2: true },
            CodecKind::Ilbc { frame_ms: 30 },
            CodecKind::AmrWb { octet_aligned: false },
            CodecKind::ComfortNoise,
        ];
        let audio = all.into_iter().zip(96..).map(|(codec, number)| (number, PayloadKind::Audio(codec)));
        let event = (101, PayloadKind::TelephoneEvent { clock_rate: 16_000 });
        let plain = StreamConfig {
            index: StreamIndex(0),
            label: "1".into(),
            channel: Channel::Left,
            payloads: audio.chain([event]).collect(),
            active: false,
            expected_source: Some([10, 0, 0, 1].into()),
            srtp: None,
        };
        let keys = vec![key(1, Some(vec![0, 1])), key(2, None)];
        let srtp = SrtpConfig { suite: SrtpSuite::AesCm128HmacSha1_80, keys, ours: key(3, None) };
        let sealed = StreamConfig { index: StreamIndex(1), channel: Channel::Right, srtp: Some(srtp), ..plain.clone() };
        vec![plain, sealed]
    }

    #[test]
    fn streams_with_keys_come_back_as_they_were() {
        let told = Control::Streams(Streams(streams()));
        let json = serde_json::to_vec(&told).unwrap();
        assert_eq!(serde_json::from_slice::<Control>(&json).unwrap(), told);
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over_and_new_ones_have_defaults() {
        let json = r#"{"copy":"00000000-0000-0000-0000-000000000007","next":3,"controls":1,"mood":"fine"}"#;
        let report: Report = serde_json::from_str(json).unwrap();
        assert_eq!((report.next, report.controls, report.missing.len(), report.ended), (3, 1, 0, false));
        let unknown = r#"{"streams":[{"index":0,"label":"","left":true,"payloads":[],"active":true,
            "srtp":{"suite":"ROT13","theirs":[],"ours":{"key":""}}}]}"#;
        assert!(serde_json::from_str::<Control>(unknown).is_err());
    }
}
