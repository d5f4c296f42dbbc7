//! Streams of a recording as JSON, keys included: the fabric's TLS protects them, and nothing else prints them.
//!
//! The types of [`crate::stream`] and [`crate::srtp`] cannot be serialised themselves, so that no key comes into a log or
//! a document by accident.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferric_codecs::decode::CodecKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::rtp::StreamIndex;
use crate::srtp::{SrtpConfig, SrtpKey, SrtpSuite};
use crate::stats::Channel;
use crate::stream::{PayloadKind, StreamConfig};

#[derive(Serialize, Deserialize)]
struct Stream {
    index: u16,
    label: String,
    left: bool,
    payloads: Vec<(u8, Payload)>,
    active: bool,
    #[serde(default)]
    expected_source: Option<IpAddr>,
    #[serde(default)]
    srtp: Option<Keys>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Payload {
    Audio(#[serde(with = "Codec")] CodecKind),
    TelephoneEvent { clock_rate: u32 },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "CodecKind", rename_all = "snake_case")]
enum Codec {
    Pcmu,
    Pcma,
    G722,
    L16 { rate: u32, channels: u8 },
    Opus,
    G729,
    Gsm,
    G726 { bits: u8, aal2: bool },
    Ilbc { frame_ms: u8 },
    Amr { octet_aligned: bool },
    AmrWb { octet_aligned: bool },
    ComfortNoise,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    suite: String,
    theirs: Vec<Key>,
    ours: Key,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Key {
    key: String,
    #[serde(default)]
    #[zeroize(skip)]
    mki: Option<Vec<u8>>,
}

impl From<&SrtpKey> for Key {
    fn from(key: &SrtpKey) -> Key {
        Key { key: STANDARD.encode(&key.key_salt), mki: key.mki.clone() }
    }
}

impl Key {
    fn read(&self) -> Option<SrtpKey> {
        Some(SrtpKey { key_salt: STANDARD.decode(&self.key).ok()?, mki: self.mki.clone() })
    }
}

impl From<&StreamConfig> for Stream {
    fn from(config: &StreamConfig) -> Stream {
        let payload = |kind: &PayloadKind| match *kind {
            PayloadKind::Audio(codec) => Payload::Audio(codec),
            PayloadKind::TelephoneEvent { clock_rate } => Payload::TelephoneEvent { clock_rate },
        };
        Stream {
            index: config.index.0,
            label: config.label.clone(),
            left: config.channel == Channel::Left,
            payloads: config.payloads.iter().map(|(number, kind)| (*number, payload(kind))).collect(),
            active: config.active,
            expected_source: config.expected_source,
            srtp: config.srtp.as_ref().map(|keys| Keys {
                suite: keys.suite.name().to_owned(),
                theirs: keys.keys.iter().map(Key::from).collect(),
                ours: Key::from(&keys.ours),
            }),
        }
    }
}

impl Stream {
    fn read(self) -> Option<StreamConfig> {
        let kind = |payload: Payload| match payload {
            Payload::Audio(codec) => PayloadKind::Audio(codec),
            Payload::TelephoneEvent { clock_rate } => PayloadKind::TelephoneEvent { clock_rate },
        };
        let keys = |keys: Keys| {
            Some(SrtpConfig {
                suite: SrtpSuite::from_name(&keys.suite)?,
                keys: keys.theirs.iter().map(Key::read).collect::<Option<_>>()?,
                ours: keys.ours.read()?,
            })
        };
        Some(StreamConfig {
            index: StreamIndex(self.index),
            label: self.label,
            channel: if self.left { Channel::Left } else { Channel::Right },
            payloads: self.payloads.into_iter().map(|(number, payload)| (number, kind(payload))).collect(),
            active: self.active,
            expected_source: self.expected_source,
            srtp: match self.srtp {
                Some(sealed) => Some(keys(sealed)?),
                None => None,
            },
        })
    }
}

/// For `#[serde(serialize_with)]`.
pub(super) fn serialize<S: Serializer>(streams: &[StreamConfig], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(streams.iter().map(Stream::from))
}

/// For `#[serde(deserialize_with)]`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<StreamConfig>, D::Error> {
    let streams = Vec::<Stream>::deserialize(deserializer)?;
    let read: Option<Vec<StreamConfig>> = streams.into_iter().map(Stream::read).collect();
    read.ok_or_else(|| serde::de::Error::custom("keys of a stream that are not known here"))
}
