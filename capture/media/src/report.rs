//! From counts to the metadata document: what the capture side knows of a recording.

use crate::gaps::GapCause;
use crate::metadata::{Dtmf, Gap, Hold, Interval, RecordingMetadata, StreamReport};
use crate::stats::{Channel, RecordingStats, StreamStats};

/// Replaces the capture side's part of the document.
/// `scores` are of the whole recording, in the order of the streams.
pub(crate) fn fill(
    metadata: &mut RecordingMetadata,
    stats: &RecordingStats,
    scores: Vec<Vec<Option<f64>>>,
    mask_dtmf: bool,
) {
    metadata.dtmf_masked = mask_dtmf;
    metadata.streams = stats.streams.iter().zip(scores).map(|(stats, scores)| stream(stats, scores)).collect();
    (metadata.gaps, metadata.holds, metadata.dtmf) = (Vec::new(), Vec::new(), Vec::new());
    for stream in &stats.streams {
        let number = channel(stream.channel);
        for gap in &stream.gaps {
            let at = Interval { from_ms: gap.start_ms, to_ms: Some(gap.end_ms) };
            match gap.cause {
                GapCause::Loss => metadata.gaps.push(Gap { channel: Some(number), at, reason: "loss".to_owned() }),
                GapCause::NoMedia => metadata.gaps.push(Gap { channel: Some(number), at, reason: "no-rtp".to_owned() }),
                GapCause::Hold => metadata.holds.push(Hold { channel: Some(number), at }),
                // Pauses are of the whole recording.
                GapCause::Pause => {}
            }
        }
        metadata.dtmf.extend(stream.telephone_events.iter().map(|event| Dtmf {
            channel: number,
            at: Interval { from_ms: event.at_ms, to_ms: Some(event.at_ms + u64::from(event.duration_ms)) },
            digit: event.digit.filter(|_| !mask_dtmf),
        }));
    }
    metadata.gaps.sort_by_key(|gap| gap.at.from_ms);
    metadata.holds.sort_by_key(|hold| hold.at.from_ms);
    metadata.dtmf.sort_by_key(|dtmf| dtmf.at.from_ms);
}

fn channel(channel: Channel) -> u8 {
    match channel {
        Channel::Left => 0,
        Channel::Right => 1,
    }
}

fn stream(stats: &StreamStats, mos_over_time: Vec<Option<f64>>) -> StreamReport {
    StreamReport {
        label: Some(stats.label.clone()).filter(|label| !label.is_empty()),
        channel: Some(channel(stats.channel)),
        codecs: stats.codecs.clone(),
        ssrcs: stats.ssrcs.clone(),
        source: stats.source.map(|source| source.to_string()),
        packets: stats.packets,
        lost: stats.lost,
        late: stats.late,
        duplicate: stats.duplicate,
        reordered: stats.reordered,
        jitter_ms: (stats.packets > 0).then_some(stats.jitter_ms),
        mos: stats.mos,
        mos_over_time,
        burst_ratio: (stats.packets > 0).then_some(stats.burst_ratio),
        bursts: stats.bursts.filter(|bursts| bursts.density + bursts.gap_density > 0.0),
        rtt_ms: stats.rtt_ms,
        srtp: stats.srtp.map(str::to_owned),
        undecryptable: stats.undecryptable + stats.unprotected,
        concealed_ms: stats.lost_ms,
        interval: stats.first_packet_ms.map(|from_ms| Interval { from_ms, to_ms: stats.last_packet_ms }),
    }
}
