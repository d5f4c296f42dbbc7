//! Quality of a stream over time, by the E-model (ITU-T G.107, G.107.1 for wideband codecs).
//!
//! ```text
//! R = R0 - Id(delay) - Ie_eff      Ie_eff = Ie + (95 - Ie) * Ppl / (Ppl / BurstR + Bpl)
//! ```
//!
//! R0 is 93.2, or 129 for wideband, whose R counts 1/1.29 when it becomes a score. Ppl is the share of packets lost or
//! late in percent, BurstR how much longer their runs are than at random (see [`crate::burst`]); Ie and Bpl are the
//! codec's (G.113 Appendices I and IV, as far as they have values). The delay is that of the reorder
//! buffer and half the round trip, where that is known; what the sender adds is not known to us.
//!
//! One value for each ten seconds of the recording, and one over all. Packets count where they were due: when an outage
//! ends, the loss that shows then is laid upon the intervals in which it happened.

use ferric_codecs::decode::CodecKind;

use crate::burst::Loss;

/// Length of an interval.
pub const INTERVAL_MS: u64 = 10_000;
/// Values kept: twelve hours.
const MAX_VALUES: usize = 4_320;
/// R of a connection without faults (G.107, default values).
const R0: f64 = 93.2;
/// The same for wideband (G.107.1).
const R0_WIDEBAND: f64 = 129.0;
/// Bpl of G.711 with packet loss concealment; ours stands in for codecs that have no value.
const CONCEALED: f64 = 25.1;

/// What a codec does to speech.
struct Impairment {
    /// Ie, or Ie,wb.
    equipment: f64,
    /// Bpl.
    robustness: f64,
    wideband: bool,
}

fn impairment(codec: Option<CodecKind>) -> Impairment {
    let narrow = |equipment, robustness| Impairment { equipment, robustness, wideband: false };
    let wide = |equipment| Impairment { equipment, robustness: CONCEALED, wideband: true };
    match codec {
        // G.729A with VAD.
        Some(CodecKind::G729) => narrow(11.0, 19.0),
        // No value in G.113: taken as hard on speech as G.729.
        Some(CodecKind::Ilbc { .. } | CodecKind::Amr { .. } | CodecKind::AmrWb { .. }) => narrow(11.0, CONCEALED),
        Some(CodecKind::Gsm) => narrow(20.0, CONCEALED),
        Some(CodecKind::G726 { bits, .. }) => match bits {
            2 => narrow(50.0, CONCEALED),
            3 => narrow(25.0, CONCEALED),
            4 => narrow(7.0, CONCEALED),
            _ => narrow(2.0, CONCEALED),
        },
        // At 64 kbit/s.
        Some(CodecKind::G722) => wide(13.0),
        // No value in G.113 for Opus: taken as transparent.
        Some(CodecKind::Opus) => wide(0.0),
        Some(CodecKind::L16 { rate, .. }) if rate >= 16_000 => wide(0.0),
        Some(CodecKind::Pcmu | CodecKind::Pcma | CodecKind::L16 { .. } | CodecKind::ComfortNoise) | None => {
            narrow(0.0, CONCEALED)
        }
    }
}

/// Mean opinion score, 1 to 4.5; `delay_ms` one way.
pub(crate) fn mos(codec: Option<CodecKind>, loss: Loss, delay_ms: f64) -> f64 {
    let Impairment { equipment: ie, robustness, wideband } = impairment(codec);
    if loss.expected > 0 && loss.gone >= loss.expected {
        return 1.0;
    }
    let percent = loss.share() * 100.0;
    let equipment = ie + (95.0 - ie) * percent / (percent / loss.burst_ratio() + robustness);
    let late = (delay_ms - 177.3).max(0.0);
    let delay = 0.024 * delay_ms + 0.11 * late;
    let r = if wideband { (R0_WIDEBAND - equipment - delay) / (R0_WIDEBAND / 100.0) } else { R0 - equipment - delay };
    let r = r.clamp(0.0, 100.0);
    let mos = 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6;
    (mos.clamp(1.0, 4.5) * 100.0).round() / 100.0
}

/// A score in hundredths; 0 is none.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn hundredths(score: f64) -> u16 {
    (score.clamp(1.0, 4.5) * 100.0).round() as u16
}

/// How an interval is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    pub(crate) codec: Option<CodecKind>,
    /// One way.
    pub(crate) delay_ms: f64,
}

/// An interval in which something came.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: usize,
    loss: Loss,
    conditions: Conditions,
}

/// The values of one stream, two bytes each.
#[derive(Debug, Default)]
pub(crate) struct QualityTrack {
    values: Vec<u16>,
    before: Loss,
    last: Option<Heard>,
}

impl QualityTrack {
    /// The stream joins when so many intervals are over.
    pub(crate) fn new(intervals: u64) -> QualityTrack {
        let intervals = usize::try_from(intervals).unwrap_or(MAX_VALUES).min(MAX_VALUES);
        QualityTrack { values: vec![0; intervals], ..QualityTrack::default() }
    }

    /// An interval is over; without packets in it there is no value.
    pub(crate) fn close(&mut self, loss: Loss, conditions: Conditions) {
        let here = loss.since(self.before);
        self.before = loss;
        if self.values.len() >= MAX_VALUES {
            return;
        }
        if here.expected == 0 {
            return self.values.push(0);
        }
        self.last = Some(Heard { at: self.values.len(), loss: here, conditions });
        self.values.push(hundredths(mos(conditions.codec, here, conditions.delay_ms)));
    }

    /// A run of `gone` packets ends just before `at_us`; they were due `step_us` apart. Those due in intervals that are over
    /// count there. To be told before [`QualityTrack::close`] sees them.
    pub(crate) fn run_ends(&mut self, gone: u64, at_us: i64, step_us: i64, conditions: Conditions) {
        let interval_us = i64::try_from(INTERVAL_MS).unwrap_or(0) * 1_000;
        let begun_us = i64::try_from(self.values.len()).unwrap_or(0) * interval_us;
        let step_us = step_us.max(1);
        let here = u64::try_from((at_us - begun_us) / step_us).unwrap_or(0);
        let mut earlier = gone.saturating_sub(here);
        if earlier == 0 || self.values.len() >= MAX_VALUES {
            return;
        }
        self.before.expected += earlier;
        self.before.gone += earlier;
        let whole = u64::try_from(interval_us / step_us).unwrap_or(1).max(1);
        let heard = self.last.map_or(0, |last| last.at + 1);
        for value in self.values.iter_mut().skip(heard).rev() {
            if earlier < whole / 2 {
                break;
            }
            let all = Loss { expected: whole, gone: whole, runs: 1 };
            *value = hundredths(mos(conditions.codec, all, conditions.delay_ms));
            earlier = earlier.saturating_sub(whole);
        }
        let Some(last) = self.last.as_mut().filter(|_| earlier > 0) else { return };
        last.loss =
            Loss { expected: last.loss.expected + earlier, gone: last.loss.gone + earlier, runs: last.loss.runs + 1 };
        if let Some(value) = self.values.get_mut(last.at) {
            *value = hundredths(mos(last.conditions.codec, last.loss, last.conditions.delay_ms));
        }
    }

    /// All of them, or the `most` last ones.
    pub(crate) fn values(&self, most: usize) -> Vec<Option<f64>> {
        let skipped = self.values.len().saturating_sub(most);
        self.values.iter().skip(skipped).map(|value| (*value > 0).then(|| f64::from(*value) / 100.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const CLEAR: Conditions = Conditions { codec: Some(CodecKind::Pcmu), delay_ms: 20.0 };

    fn loss(expected: u64, gone: u64, runs: u64) -> Loss {
        Loss { expected, gone, runs }
    }

    #[test]
    fn the_score_falls_with_loss_delay_and_dear_codecs() {
        let g711 = |gone, delay| mos(Some(CodecKind::Pcmu), loss(1_000, gone, gone), delay);
        assert!((g711(0, 20.0) - 4.40).abs() < 0.02);
        assert!(g711(10, 20.0) > 4.2);
        assert!((g711(50, 20.0) - 3.8).abs() < 0.2);
        assert!(g711(50, 300.0) < g711(50, 20.0));
        assert!((g711(1_000, 1_000.0) - 1.0).abs() < 0.05);
        assert!((mos(Some(CodecKind::G729), loss(1_000, 0, 0), 20.0) - 4.1).abs() < 0.1);
    }

    #[test]
    fn wideband_is_judged_on_its_own_scale() {
        let score = |codec, gone| mos(Some(codec), loss(1_000, gone, gone), 20.0);
        let wide = CodecKind::L16 { rate: 16_000, channels: 1 };
        assert!(score(wide, 0) > score(CodecKind::Pcmu, 0), "{} {}", score(wide, 0), score(CodecKind::Pcmu, 0));
        assert!((score(CodecKind::G722, 0) - 4.3).abs() < 0.05, "{}", score(CodecKind::G722, 0));
        assert!(score(CodecKind::G722, 50) < 4.1 && score(CodecKind::Opus, 50) > score(CodecKind::G722, 50));
    }

    #[test]
    fn losses_in_bursts_are_worse() {
        assert!(mos(None, loss(1_000, 50, 5), 20.0) < mos(None, loss(1_000, 50, 48), 20.0));
    }

    #[test]
    fn each_interval_has_its_own_value_and_silence_none() {
        let mut track = QualityTrack::default();
        for (expected, gone, runs) in [(500, 0, 0), (1_000, 100, 50), (1_000, 100, 50), (1_500, 100, 50)] {
            track.close(loss(expected, gone, runs), CLEAR);
        }
        let values = track.values(usize::MAX);
        assert_eq!((values[0], values[2], values[3]), (values[3], None, values[0]));
        assert!(values[1].unwrap() < 3.0);
        assert_eq!(track.values(2), values[2..]);
    }

    #[test]
    fn a_stream_that_joins_late_has_its_values_at_their_time() {
        let mut track = QualityTrack::new(3);
        track.close(loss(500, 0, 0), CLEAR);
        let values = track.values(usize::MAX);
        assert_eq!(values[..3], [None, None, None]);
        assert!(values[3].is_some());
    }

    #[test]
    fn an_outage_counts_where_it_was() {
        let mut track = QualityTrack::default();
        // Ten good seconds, five more, then nothing until 42 s: 1,350 packets, which show at once.
        track.close(loss(500, 0, 0), CLEAR);
        track.close(loss(750, 0, 0), CLEAR);
        track.close(loss(750, 0, 0), CLEAR);
        track.close(loss(750, 0, 0), CLEAR);
        assert_eq!(track.values(2), [None, None]);
        track.run_ends(1_350, 42_000_000, 20_000, CLEAR);
        track.close(loss(2_500, 1_350, 1), CLEAR);
        let values: Vec<f64> = track.values(usize::MAX).into_iter().flatten().collect();
        assert_eq!(values.len(), 5);
        assert!(values[0] > 4.3 && values[1] < 2.5, "{values:?}");
        assert_eq!(values[2..4], [1.0, 1.0]);
        assert!((1.1..3.0).contains(&values[4]), "two seconds of ten are missing: {values:?}");
    }

    #[test]
    fn twelve_hours_are_kept_and_no_more() {
        let mut track = QualityTrack::default();
        for n in 1..=10_000 {
            track.close(loss(n * 500, 0, 0), CLEAR);
            track.run_ends(3_000, i64::try_from(n).unwrap() * 10_000_000, 20_000, CLEAR);
        }
        assert_eq!(track.values(usize::MAX).len(), MAX_VALUES);
    }
}
