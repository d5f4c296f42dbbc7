//! What a recording should have heard and did not.
//!
//! Silence is part of the contract: a side that sends nothing is silent in the file, which has its length, and its gap
//! says `no-rtp`. But a call of which nothing at all was heard, or a side that was there and could not be
//! understood, is not recorded as the tenant expects: it ends as `partial`, with the reason.

use std::time::Duration;

use crate::stats::{RecordingStats, StreamStats};

/// Media of a stream is expected within this time at the latest.
const EXPECTED_WITHIN: Duration = Duration::from_secs(3);
/// Fewer packets than this say nothing: anybody may send one to an open port.
const TELLING: u64 = 10;

/// Why a recording is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// No packet of any stream came, though signalling had one active.
    NoMedia,
    /// A stream came in payload types that were not agreed, or that its codec refused, and in no other.
    Undecodable,
    /// A stream came in SRTP that no key opened, or in clear where SRTP was agreed, and in no other way.
    Undecryptable,
}

impl Shortfall {
    /// In a few words, as in the metadata's `end_reason`.
    pub fn text(self) -> &'static str {
        match self {
            Shortfall::NoMedia => "no media came",
            Shortfall::Undecodable => "media came in payload types that were not agreed",
            Shortfall::Undecryptable => "SRTP could not be opened",
        }
    }
}

/// The worst shortfall of a recording up to now; `rtp_timeout` as configured.
pub fn shortfall(stats: &RecordingStats, rtp_timeout: Duration) -> Option<Shortfall> {
    let streams = || stats.streams.iter().filter(|stream| stream.active_ms > 0);
    if streams().any(|stream| stream.packets == 0 && closed(stream) >= TELLING) {
        return Some(Shortfall::Undecryptable);
    }
    if streams().any(|stream| heard(stream) == 0 && not_understood(stream) >= TELLING) {
        return Some(Shortfall::Undecodable);
    }
    let patience = u64::try_from(EXPECTED_WITHIN.min(rtp_timeout).as_millis()).unwrap_or(u64::MAX);
    let expected = streams().any(|stream| stream.active_ms > patience);
    let nothing = stats.streams.iter().all(|stream| heard(stream) == 0);
    (expected && nothing).then_some(Shortfall::NoMedia)
}

/// Packets that were understood.
fn heard(stream: &StreamStats) -> u64 {
    stream.packets.saturating_sub(stream.undecodable)
}

/// Packets that were not understood.
fn not_understood(stream: &StreamStats) -> u64 {
    stream.wrong_payload_type + stream.undecodable
}

/// Packets that no key opened, or that were not locked.
fn closed(stream: &StreamStats) -> u64 {
    stream.undecryptable + stream.unprotected
}

/// What is worth a line in the metadata although the recording goes on.
pub(crate) fn warnings(stats: &RecordingStats) -> Vec<String> {
    let mut all = Vec::new();
    for stream in &stats.streams {
        let mut tell = |count: u64, what: &str| {
            if count >= TELLING {
                all.push(format!("stream {}: {count} packets {what}", stream.label));
            }
        };
        tell(stream.wrong_payload_type, "of payload types that were not agreed, not recorded");
        tell(stream.undecodable, "that their codec refused");
        tell(stream.undecryptable, "that no SRTP key opened");
        tell(stream.unprotected, "in clear where SRTP was agreed, not recorded");
        tell(stream.stranger, "from addresses that do not hold the stream, not recorded");
        tell(stream.other_ssrc, "of other synchronisation sources at the same time, not recorded");
        tell(stream.overflow, "too many at once");
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
    use std::time::Instant;

    use super::*;
    use crate::pipeline::{MediaPipeline, PipelineConfig};
    use crate::rtp::StreamIndex;
    use crate::stats::Channel;
    use crate::stream::StreamConfig;

    fn stats() -> RecordingStats {
        let stream = |index, channel| StreamConfig {
            index: StreamIndex(index),
            label: (index + 1).to_string(),
            channel,
            payloads: Vec::new(),
            active: true,
            expected_source: None,
            srtp: None,
        };
        let streams = vec![stream(0, Channel::Left), stream(1, Channel::Right)];
        let now = Instant::now();
        let mut pipeline = MediaPipeline::new(now, PipelineConfig::default(), streams);
        pipeline.finish(now + Duration::from_secs(10), &mut |_| {});
        pipeline.stats()
    }

    fn judged(change: impl FnOnce(&mut [StreamStats])) -> Option<Shortfall> {
        let mut stats = stats();
        change(&mut stats.streams);
        shortfall(&stats, Duration::from_secs(60))
    }

    #[test]
    fn a_call_of_which_nothing_came_is_partial() {
        assert_eq!(judged(|_| ()), Some(Shortfall::NoMedia));
        assert_eq!(judged(|streams| streams[0].packets = 1), None, "one side alone is a recording");
        assert_eq!(
            judged(|streams| streams.iter_mut().for_each(|stream| stream.active_ms = 0)),
            None,
            "on hold throughout"
        );
        assert_eq!(
            judged(|streams| streams.iter_mut().for_each(|stream| stream.active_ms = 2_900)),
            None,
            "too short to tell"
        );
    }

    #[test]
    fn a_side_that_cannot_be_understood_makes_it_partial() {
        let with = |change: fn(&mut StreamStats)| {
            judged(|streams| {
                streams[0].packets = 500;
                change(&mut streams[1]);
            })
        };
        assert_eq!(with(|stream| stream.wrong_payload_type = 500), Some(Shortfall::Undecodable));
        assert_eq!(with(|stream| (stream.packets, stream.undecodable) = (500, 500)), Some(Shortfall::Undecodable));
        assert_eq!(with(|stream| stream.undecryptable = 500), Some(Shortfall::Undecryptable));
        assert_eq!(with(|stream| stream.unprotected = 500), Some(Shortfall::Undecryptable));
        assert_eq!(with(|stream| stream.wrong_payload_type = 3), None, "a few strays are nothing");
        assert_eq!(with(|stream| (stream.packets, stream.undecryptable) = (400, 100)), None, "keys that came late");
    }

    #[test]
    fn what_was_left_out_is_said() {
        let mut stats = stats();
        assert!(warnings(&stats).is_empty());
        stats.streams[1].wrong_payload_type = 40;
        assert_eq!(warnings(&stats), ["stream 2: 40 packets of payload types that were not agreed, not recorded"]);
    }
}
