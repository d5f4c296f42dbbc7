//! Quality of a stream over time, by the E-model (ITU-T G.107).
//!
//! ```text
//! R = 93.2 - Id(delay) - Ie_eff      Ie_eff = Ie + (95 - Ie) * Ppl / (Ppl / BurstR + Bpl)
//! ```
//!
//! Ppl is the share of packets lost or late in percent; Ie and Bpl are the codec's (G.113 Appendix I, as far as it
//! has values: others count as G.711 with concealment). BurstR is how much longer runs of
//! lost packets are than they were if losses came at random: 1 is random, more is bursty.
//! One value every ten seconds, and one over all.

use ferric_codecs::decode::CodecKind;

/// Length of an interval.
pub const INTERVAL_MS: u64 = 10_000;
/// Values kept: twelve hours.
const MAX_VALUES: usize = 4_320;

/// What the network did to a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Loss {
    /// Packets that should have come.
    pub(crate) expected: u64,
    /// Packets lost or too late.
    pub(crate) gone: u64,
    /// Runs of packets that were gone one after the other.
    pub(crate) runs: u64,
}

impl Loss {
    fn since(self, before: Loss) -> Loss {
        Loss {
            expected: self.expected.saturating_sub(before.expected),
            gone: self.gone.saturating_sub(before.gone),
            runs: self.runs.saturating_sub(before.runs),
        }
    }

    fn share(self) -> f64 {
        if self.expected == 0 { 0.0 } else { (self.gone as f64 / self.expected as f64).min(1.0) }
    }

    /// BurstR of G.107: the mean run of lost packets, against the mean of random loss; 1 without loss.
    pub(crate) fn burst_ratio(self) -> f64 {
        if self.runs == 0 {
            return 1.0;
        }
        (self.gone as f64 / self.runs as f64 * (1.0 - self.share())).max(1.0)
    }
}

/// Equipment impairment and loss robustness of a codec.
fn impairment(codec: Option<CodecKind>) -> (f64, f64) {
    match codec {
        Some(CodecKind::G729) => (11.0, 19.0),
        // No value in G.113: taken as hard on speech as G.729.
        Some(CodecKind::Ilbc { .. }) => (11.0, 25.1),
        Some(CodecKind::Gsm) => (20.0, 25.1),
        Some(CodecKind::G726 { bits, .. }) => match bits {
            2 => (50.0, 25.1),
            3 => (25.0, 25.1),
            4 => (7.0, 25.1),
            _ => (2.0, 25.1),
        },
        Some(CodecKind::Pcmu | CodecKind::Pcma | CodecKind::G722 | CodecKind::L16 { .. } | CodecKind::Opus | CodecKind::ComfortNoise) | None => {
            (0.0, 25.1)
        }
    }
}

/// Mean opinion score, 1 to 4.5; `delay_ms` one way.
pub(crate) fn mos(codec: Option<CodecKind>, loss: Loss, delay_ms: f64) -> f64 {
    let (ie, robustness) = impairment(codec);
    let percent = loss.share() * 100.0;
    let equipment = ie + (95.0 - ie) * percent / (percent / loss.burst_ratio() + robustness);
    let late = (delay_ms - 177.3).max(0.0);
    let delay = 0.024 * delay_ms + 0.11 * late;
    let r = (93.2 - equipment - delay).clamp(0.0, 100.0);
    let mos = 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6;
    (mos.clamp(1.0, 4.5) * 100.0).round() / 100.0
}

/// The values of one stream.
#[derive(Debug, Default)]
pub(crate) struct QualityTrack {
    values: Vec<Option<f64>>,
    before: Loss,
}

impl QualityTrack {
    /// An interval is over; without packets in it there is no value.
    pub(crate) fn close(&mut self, codec: Option<CodecKind>, loss: Loss, delay_ms: f64) {
        let here = loss.since(self.before);
        self.before = loss;
        if self.values.len() < MAX_VALUES {
            self.values.push((here.expected > 0).then(|| mos(codec, here, delay_ms)));
        }
    }

    pub(crate) fn values(&self) -> &[Option<f64>] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

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
    fn losses_in_bursts_are_worse() {
        let (random, bursts) = (loss(1_000, 50, 48), loss(1_000, 50, 5));
        assert!((random.burst_ratio() - 1.0).abs() < 0.02);
        assert!((bursts.burst_ratio() - 9.5).abs() < 0.01);
        assert!(mos(None, bursts, 20.0) < mos(None, random, 20.0));
    }

    #[test]
    fn each_interval_has_its_own_value_and_silence_none() {
        let mut track = QualityTrack::default();
        track.close(None, loss(500, 0, 0), 20.0);
        track.close(None, loss(1_000, 100, 50), 20.0);
        track.close(None, loss(1_000, 100, 50), 20.0);
        track.close(None, loss(1_500, 100, 50), 20.0);
        let values = track.values();
        assert_eq!((values[0], values[2], values[3]), (values[3], None, values[0]));
        assert!(values[1].unwrap() < 3.0);
    }
}
