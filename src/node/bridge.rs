//! Between signalling's words and capture's: the only place where both are known.

use std::time::{Duration, SystemTime};

use ferric_codecs::decode::CodecKind;
use ferric_media::metadata::{
    Channel as ChannelNote, Correlator, Interval, Participant, SessionInfo, SipIds, SrcMetadata,
};
use ferric_media::rtp::StreamIndex;
use ferric_media::srtp::{SrtpConfig, SrtpKey, SrtpSuite};
use ferric_media::stats::Channel;
use ferric_media::stream::{PayloadKind, StreamConfig};
use ferric_media::timestamp::Timestamp;
use ferric_sip::sdp::{Format, KeyParameter, Mki};
use ferric_srs::port::{
    AssignedStream, Part, RecordingId, RefuseReason, SessionInfo as Signalled, StreamKeys, StreamSpec, TakenStream,
};
use ferric_worker::call::{Refusal, StreamAddress, Taken};

/// What can be decrypted, with the length of key and salt.
pub(super) const SUITES: &[(&str, usize)] = &{
    let mut suites = [("", 0); SrtpSuite::ALL.len()];
    let mut at = 0;
    while at < suites.len() {
        let (suite, name) = SrtpSuite::ALL[at];
        suites[at] = (name, suite.key_len() + suite.salt_len());
        at += 1;
    }
    suites
};

/// Keys as capture wants them.
fn srtp(keys: &StreamKeys) -> Option<SrtpConfig> {
    let suite = SrtpSuite::from_name(&keys.theirs.suite)?;
    let key = |key: &KeyParameter| SrtpKey { key_salt: key.key_salt.clone(), mki: key.mki.map(Mki::to_bytes) };
    let ours = keys.ours.keys.first().map(key)?;
    Some(SrtpConfig { suite, keys: keys.theirs.keys.iter().map(key).collect(), ours })
}

/// What can be stored, and what decoding it costs: the SRS asks this of every codec in an offer.
pub(super) fn storable(format: &Format) -> Option<u32> {
    let kind = CodecKind::from_sdp(&format.name, format.clock_rate, format.channels, format.fmtp.as_deref())?;
    (kind != CodecKind::ComfortNoise).then(|| kind.decode_cost())
}

fn index(index: usize) -> StreamIndex {
    StreamIndex(u16::try_from(index).unwrap_or(u16::MAX))
}

/// Streams that pass from one recording to another.
pub(super) fn taken(takes: &[TakenStream]) -> Vec<Taken> {
    takes
        .iter()
        .map(|taken| Taken { from: taken.from.0, stream: index(taken.index), becomes: index(taken.becomes) })
        .collect()
}

/// Streams as capture wants them.
pub(super) fn streams(specs: &[StreamSpec]) -> Vec<StreamConfig> {
    specs
        .iter()
        .map(|spec| StreamConfig {
            index: index(spec.index),
            label: spec.label.clone().unwrap_or_default(),
            channel: if spec.channel == 0 { Channel::Left } else { Channel::Right },
            payloads: spec.formats.iter().filter_map(payload).collect(),
            active: spec.active,
            expected_source: spec.remote_rtp.map(|address| address.ip()),
            srtp: spec.keys.as_ref().and_then(srtp),
        })
        .collect()
}

fn payload(format: &ferric_sip::sdp::Format) -> Option<(u8, PayloadKind)> {
    let kind = if format.name.eq_ignore_ascii_case("telephone-event") {
        PayloadKind::TelephoneEvent { clock_rate: format.clock_rate }
    } else {
        PayloadKind::Audio(CodecKind::from_sdp(
            &format.name,
            format.clock_rate,
            format.channels,
            format.fmtp.as_deref(),
        )?)
    };
    Some((format.payload_type, kind))
}

/// Which files of which recording.
pub(super) fn part(recording: RecordingId, part: &Part) -> ferric_media::part::Part {
    ferric_media::part::Part::new(recording.0, part.number, part.file)
}

/// Addresses that streams had before.
pub(super) fn restore(streams: &[AssignedStream]) -> Vec<StreamAddress> {
    streams.iter().map(|had| StreamAddress { stream: index(had.index), address: had.address }).collect()
}

/// Addresses for the answer.
pub(super) fn addresses(addresses: &[StreamAddress]) -> Vec<AssignedStream> {
    addresses.iter().map(|have| AssignedStream { index: usize::from(have.stream.0), address: have.address }).collect()
}

pub(super) fn refusal(refusal: Refusal) -> RefuseReason {
    match refusal {
        Refusal::Capacity => RefuseReason::Capacity,
        Refusal::SpoolFull => RefuseReason::SpoolFull,
        Refusal::NoPorts => RefuseReason::NoPorts,
        Refusal::Draining => RefuseReason::Draining,
        Refusal::Broken => RefuseReason::Broken,
    }
}

/// What signalling knows, as the metadata document wants it; `specs` are all streams that the recording has had. `started_unix_ms`
/// is the beginning of the recording's timeline.
pub(super) fn session(info: &Signalled, specs: &[StreamSpec], started_unix_ms: u64) -> SessionInfo {
    let participants = info
        .participants
        .iter()
        .map(|participant| {
            let since_start = |unix_ms: u64| unix_ms.saturating_sub(started_unix_ms);
            let interval = Interval {
                from_ms: since_start(participant.seen_unix_ms),
                to_ms: participant.gone_unix_ms.map(since_start),
            };
            let throughout = interval.from_ms < 1_000 && interval.to_ms.is_none();
            Participant {
                id: participant.id.clone(),
                name: participant.name.clone(),
                aor: participant.aor.clone(),
                channel: participant.channel,
                intervals: if throughout { Vec::new() } else { vec![interval] },
            }
        })
        .collect();
    let mixed = specs.len() == 1;
    let channels = specs
        .iter()
        .map(|spec| ChannelNote {
            channel: spec.channel,
            label: spec.label.clone(),
            note: if mixed { Some("mixed".to_owned()) } else { None },
        })
        .collect();
    let document = |document: &ferric_srs::port::MetadataDocument| {
        let received = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(document.received_unix_ms));
        SrcMetadata::new(received, &document.media_type, &document.body)
    };
    let (headers, documents): (Vec<_>, Vec<_>) =
        info.documents.iter().partition(|document| document.media_type == "message/sip");
    let tag = |value: &str| value.split(";tag=").nth(1).map(|tag| tag.split(';').next().unwrap_or(tag).to_owned());
    let correlators =
        info.correlators.iter().map(|(name, value)| Correlator { name: name.clone(), value: value.clone() });
    SessionInfo {
        sip: SipIds {
            call_id: info.sip_call_id.clone(),
            remote_tag: tag(&info.from),
            local_tag: tag(&info.to),
            correlators: correlators.collect(),
        },
        participants,
        channels,
        src_metadata: documents.into_iter().map(document).collect(),
        sip_headers: headers.into_iter().map(document).collect(),
        source: info.user_agent.clone(),
        maker: info.maker.as_deref().map(str::to_owned),
        source_kind: Some(info.source_kind.clone().into_owned()),
        related: info.related.iter().map(|related| related.0).collect(),
        signalling_warnings: info.warnings.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(index: usize, label: &str, name: &str, clock_rate: u32) -> StreamSpec {
        let format = Format { payload_type: 96, name: name.into(), clock_rate, channels: 1, fmtp: None };
        StreamSpec {
            index,
            label: Some(label.into()),
            formats: vec![format],
            remote_rtp: None,
            remote_rtcp: None,
            rtcp_mux: false,
            active: true,
            channel: u8::from(index > 1),
            keys: None,
        }
    }

    #[test]
    fn streams_keep_their_number_and_channel() {
        let configs = streams(&[
            spec(1, "10", "PCMU", 8_000),
            spec(3, "20", "telephone-event", 8_000),
            spec(4, "30", "opus", 48_000),
        ]);
        assert_eq!(
            configs.iter().map(|config| config.channel).collect::<Vec<_>>(),
            [Channel::Left, Channel::Right, Channel::Right]
        );
        assert_eq!(configs[0].index, StreamIndex(1));
        assert_eq!(configs[1].payloads, [(96, PayloadKind::TelephoneEvent { clock_rate: 8_000 })]);
    }

    #[test]
    fn what_capture_decodes_is_what_the_srs_accepts() {
        let stored = |name: &str, clock_rate, channels| {
            storable(&Format { payload_type: 96, name: name.to_owned(), clock_rate, channels, fmtp: None }).is_some()
        };
        assert!(stored("pcma", 8_000, 1) && stored("G722", 8_000, 1) && stored("opus", 48_000, 2));
        assert!(stored("L16", 16_000, 1));
        assert!(!stored("CN", 8_000, 1) && !stored("telephone-event", 8_000, 1));
    }
}
