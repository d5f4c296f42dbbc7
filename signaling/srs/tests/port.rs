//! The serialised form of the port: what one version writes, its neighbours read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use bytes::Bytes;
use ferric_sip::sdp::{CryptoAttribute, Format};
use ferric_srs::port::{
    AssignedStream, CaptureEvent, Command, MetadataDocument, Part, ParticipantInfo, RecordingId, RefuseReason,
    ReleaseCause, SessionInfo, StreamKeys, StreamSpec, TakenStream,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

fn recording() -> RecordingId {
    RecordingId(Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001))
}

fn stream() -> StreamSpec {
    let pcmu = Format { payload_type: 0, name: "PCMU".into(), clock_rate: 8_000, channels: 1, fmtp: None };
    let keys = |line: &str| CryptoAttribute::parse(line).unwrap();
    StreamSpec {
        index: 1,
        channel: 1,
        label: Some("2".into()),
        formats: vec![pcmu],
        remote_rtp: Some("198.51.100.20:16000".parse().unwrap()),
        remote_rtcp: Some("[2001:db8::1]:16001".parse().unwrap()),
        rtcp_mux: true,
        active: false,
        keys: Some(StreamKeys {
            theirs: keys(&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:4;inline:{KEY}|2^20|2:4")),
            ours: keys(&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")),
        }),
    }
}

fn info() -> SessionInfo {
    SessionInfo {
        tenant: "acme".into(),
        sip_call_id: "a@b".into(),
        from: "<sip:a@b>;tag=1".into(),
        to: "<sip:c@d>".into(),
        user_agent: Some("SBC".into()),
        source: "198.51.100.20:5060".parse().unwrap(),
        maker: Some("oracle".into()),
        source_kind: "siprec".into(),
        related: vec![recording()],
        correlators: vec![("X-Ucid".into(), "7".into())],
        participants: vec![ParticipantInfo {
            id: "p".into(),
            name: Some("Alice".into()),
            aor: None,
            label: Some("1".into()),
            stream: Some(0),
            channel: Some(1),
            communication_session: None,
            joined: None,
            left: None,
            seen_unix_ms: 5,
            gone_unix_ms: None,
        }],
        documents: vec![MetadataDocument {
            received_unix_ms: 9,
            media_type: "message/sip".into(),
            // Not text: peers send what they like.
            body: Bytes::from_static(b"\xff\x00\r\n"),
        }],
        warnings: vec!["odd".into()],
    }
}

/// Writes and reads it, then reads it with a field more everywhere, as from a later version.
fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> serde_json::Value {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{text}");
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    add_unknown(&mut json);
    assert_eq!(serde_json::from_value::<T>(json.clone()).unwrap(), *value, "{json}");
    serde_json::from_str(&text).unwrap()
}

fn add_unknown(json: &mut serde_json::Value) {
    if let Some(map) = json.as_object_mut() {
        map.values_mut().for_each(add_unknown);
        map.insert("of_tomorrow".into(), serde_json::json!([1, { "a": null }]));
    } else if let Some(list) = json.as_array_mut() {
        list.iter_mut().for_each(add_unknown);
    }
}

#[test]
fn commands_survive_the_way() {
    let restore = vec![AssignedStream { index: 0, address: "192.0.2.10:40000".parse().unwrap() }];
    let part = Part { number: 2, file: Uuid::from_u128(7), lost_unix_ms: Some(1), restore };
    let takes = vec![TakenStream { from: recording(), index: 1, becomes: 0 }];
    let (streams, beside) = (vec![stream()], Some(recording()));
    let commands = [
        Command::Assign {
            recording: recording(),
            part,
            streams: streams.clone(),
            takes: takes.clone(),
            beside,
            info: info(),
        },
        Command::Change { recording: recording(), streams, takes },
        Command::Info { recording: recording(), info: info() },
        Command::Park { recording: recording() },
        Command::Release { recording: recording(), cause: ReleaseCause::NotMoved },
    ];
    let json: Vec<serde_json::Value> = commands.iter().map(there_and_back).collect();
    assert_eq!(json[0]["command"], "assign");
    assert_eq!(json[0]["recording"], recording().to_string());
    assert_eq!(json[4]["cause"], "not-moved");
}

#[test]
fn events_survive_the_way() {
    let (recording, part) = (recording(), 3);
    let streams = vec![AssignedStream { index: 33, address: "[2001:db8::2]:40000".parse().unwrap() }];
    let events = [
        CaptureEvent::Ready { recording, part, streams: streams.clone() },
        CaptureEvent::Refused { recording, part, reason: RefuseReason::NoWorker },
        CaptureEvent::Lost { recording, part },
        CaptureEvent::Returned { recording },
        CaptureEvent::Promoted { recording, part, streams },
        CaptureEvent::MediaHeard { recording },
        CaptureEvent::MediaSilent { recording },
        CaptureEvent::Died { recording },
    ];
    let json: Vec<serde_json::Value> = events.iter().map(there_and_back).collect();
    assert_eq!((&json[1]["event"], &json[1]["reason"]), (&"refused".into(), &"no-worker".into()));
}

#[test]
fn fields_that_came_later_have_a_default() {
    let part: Part = serde_json::from_str(&format!(r#"{{"number":1,"file":"{}"}}"#, recording())).unwrap();
    assert_eq!(part, Part::first(recording()));
}

/// An unreadable `Release` would leave a recording open until it is too long.
#[test]
fn a_reason_of_a_later_version_is_understood_as_another_one() {
    let json = format!(r#"{{"command":"release","recording":"{}","cause":"of-tomorrow"}}"#, recording());
    let release: Command = serde_json::from_str(&json).unwrap();
    assert_eq!(release, Command::Release { recording: recording(), cause: ReleaseCause::Other });
    let json = format!(r#"{{"event":"refused","recording":"{}","part":2,"reason":"of-tomorrow"}}"#, recording());
    let refused: CaptureEvent = serde_json::from_str(&json).unwrap();
    assert_eq!(refused, CaptureEvent::Refused { recording: recording(), part: 2, reason: RefuseReason::Other });
}

#[test]
fn words_are_the_same_on_the_wire_and_in_logs() {
    for reason in [
        RefuseReason::Capacity,
        RefuseReason::SpoolFull,
        RefuseReason::NoPorts,
        RefuseReason::Draining,
        RefuseReason::Broken,
        RefuseReason::NoWorker,
        RefuseReason::Other,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
    for cause in [
        ReleaseCause::Bye,
        ReleaseCause::Cancelled,
        ReleaseCause::Stopped,
        ReleaseCause::SessionExpired,
        ReleaseCause::PeerGone,
        ReleaseCause::NoAck,
        ReleaseCause::TooLong,
        ReleaseCause::Superseded,
        ReleaseCause::CaptureFailed,
        ReleaseCause::SessionOver,
        ReleaseCause::NotMoved,
        ReleaseCause::Orphaned,
        ReleaseCause::Other,
    ] {
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        assert_eq!(cause.is_of_part(), cause == ReleaseCause::NotMoved);
    }
}

#[test]
fn damaged_keys_and_bodies_are_refused() {
    let mut json = serde_json::to_value(stream()).unwrap();
    json["keys"]["theirs"] = "1 AES_CM_128_HMAC_SHA1_80 inline:***".into();
    assert!(serde_json::from_value::<StreamSpec>(json).is_err());
    let mut json = serde_json::to_value(info()).unwrap();
    json["documents"][0]["body"] = "*".into();
    assert!(serde_json::from_value::<SessionInfo>(json).is_err());
}
