//! Bodies of the fuzz targets: whatever datagrams come, nothing panics and nothing grows
//! without bound. `make fuzz` explores, the tests replay the corpus.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_codecs::decode::CodecKind;

use crate::pipeline::{MediaPipeline, PipelineConfig};
use crate::rtcp;
use crate::rtp::{RtpPacket, StreamIndex};
use crate::srtp::{Opened, SrtpConfig, SrtpKey, SrtpReceiver, SrtpSuite};
use crate::stats::Channel;
use crate::stream::{PayloadKind, StreamConfig};

/// Datagrams of the input: a byte of length before each, times sixteen up to 4 kB.
fn datagrams(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = data.split_first()?;
        let (datagram, rest) = rest.split_at(rest.len().min(usize::from(length) + 1));
        data = rest;
        Some(datagram)
    })
}

/// RTP into a recording with every codec; `start` is any moment.
pub fn rtp(start: Instant, data: &[u8]) {
    let kinds = [
        (0, CodecKind::Pcmu),
        (3, CodecKind::Gsm),
        (8, CodecKind::Pcma),
        (9, CodecKind::G722),
        (18, CodecKind::G729),
        (96, CodecKind::Opus),
        (97, CodecKind::L16 { rate: 16_000, channels: 2 }),
        (98, CodecKind::G726 { bits: 4, aal2: false }),
    ];
    let mut payloads: Vec<(u8, PayloadKind)> =
        kinds.into_iter().map(|(number, kind)| (number, PayloadKind::Audio(kind))).collect();
    payloads.push((101, PayloadKind::TelephoneEvent { clock_rate: 8_000 }));
    let stream = StreamConfig {
        index: StreamIndex(0),
        label: String::new(),
        channel: Channel::Left,
        payloads,
        active: true,
        expected_source: None,
        srtp: None,
    };
    let config = PipelineConfig { mask_dtmf: data.len() % 2 == 1, ..PipelineConfig::default() };
    let mut pipeline = MediaPipeline::new(start, config, vec![stream]);
    let from = SocketAddr::from(([127, 0, 0, 1], 4_000));
    let mut frames = 0_u64;
    for (number, datagram) in datagrams(data).enumerate() {
        let _ = RtpPacket::parse(datagram);
        let now = start + Duration::from_millis(20) * u32::try_from(number).unwrap_or(u32::MAX);
        pipeline.handle_rtp(now, StreamIndex(0), from, datagram, &mut |_| ());
        if number % 5 == 0 {
            pipeline.advance(now, &mut |_| frames += 1);
        }
    }
    pipeline.finish(start + Duration::from_secs(6), &mut |_| frames += 1);
    assert!(frames >= 300, "the recording has its length, whatever came");
}

/// RTCP.
pub fn rtcp(data: &[u8]) {
    for datagram in datagrams(data) {
        let mut items = 0;
        rtcp::parse(datagram, |_| items += 1);
        assert!(items <= datagram.len(), "no more items than bytes");
    }
}

/// SRTP and SRTCP under keys that the input does not know: nothing authenticates.
pub fn srtp(start: Instant, data: &[u8]) {
    for (suite, _) in SrtpSuite::ALL {
        let key = SrtpKey { key_salt: vec![7; suite.key_len() + suite.salt_len()], mki: Some(vec![1]) };
        let mut receiver = SrtpReceiver::new(SrtpConfig { suite, keys: vec![key.clone()], ours: key });
        let mut out = Vec::new();
        for datagram in datagrams(data) {
            let opened = receiver.open_rtp(start, datagram, &mut out);
            assert!(matches!(opened, Opened::Dropped(_) | Opened::Alarm(_)), "forged under {}", suite.name());
            assert!(receiver.open_rtcp(datagram).is_none(), "forged under {}", suite.name());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn replay(target: &str, body: impl Fn(&[u8])) {
        let folder = format!("{}/../../testdata/fuzz/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 3, "{count} inputs for {target}");
    }

    #[test]
    fn the_corpus_of_rtp_does_no_harm() {
        replay("rtp", |data| rtp(Instant::now(), data));
    }

    #[test]
    fn the_corpus_of_rtcp_does_no_harm() {
        replay("rtcp", rtcp);
    }

    #[test]
    fn the_corpus_of_srtp_does_no_harm() {
        replay("srtp", |data| srtp(Instant::now(), data));
    }
}
