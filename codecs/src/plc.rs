//! Concealment of lost packets for codecs that have none of their own.
//!
//! The last pitch period is repeated, as ITU-T G.711 Appendix I does, and faded:
//! full for 10 ms, silent after 80 ms. The first good samples are cross-faded
//! with the repetition so that the join does not click.

/// Full level for this long.
const HOLD_MS: usize = 10;
/// Silent from here on.
const SILENT_MS: usize = 80;
/// Cross-fade back into good audio.
const JOIN_MS: usize = 4;
/// What is kept of the past.
const HISTORY_MS: usize = 40;

/// Concealment state of one stream.
#[derive(Debug, Clone)]
pub struct Plc {
    per_ms: usize,
    history: Vec<i16>,
    /// Samples of the gap filled so far; 0 outside a gap.
    filled: usize,
    lag: usize,
}

impl Plc {
    /// For audio at `rate` Hz.
    pub fn new(rate: u32) -> Plc {
        Plc { per_ms: (rate / 1000) as usize, history: Vec::new(), filled: 0, lag: 0 }
    }

    /// Tells of good audio; smooths its beginning after a gap, in place.
    pub fn good(&mut self, samples: &mut [i16]) {
        if self.filled > 0 {
            let join = (JOIN_MS * self.per_ms).min(samples.len());
            for (n, sample) in samples.iter_mut().take(join).enumerate() {
                let old = i32::from(self.synthesise(self.filled + n));
                let weight = (n + 1) as i32;
                let total = join as i32 + 1;
                let mixed = (i32::from(*sample) * weight + old * (total - weight)) / total;
                *sample = mixed as i16;
            }
            self.filled = 0;
        }
        let keep = HISTORY_MS * self.per_ms;
        if samples.len() >= keep {
            self.history.clear();
            self.history.extend_from_slice(&samples[samples.len() - keep..]);
        } else {
            let excess = (self.history.len() + samples.len()).saturating_sub(keep);
            self.history.drain(..excess);
            self.history.extend_from_slice(samples);
        }
    }

    /// Appends `count` samples in place of lost ones.
    pub fn conceal(&mut self, count: usize, out: &mut Vec<i16>) {
        if self.filled == 0 {
            self.lag = self.find_pitch();
        }
        let audible = (SILENT_MS * self.per_ms).saturating_sub(self.filled).min(count);
        for n in 0..audible {
            out.push(self.synthesise(self.filled + n));
        }
        out.resize(out.len() + count - audible, 0);
        self.filled += count;
    }

    /// Sample `n` of the gap.
    fn synthesise(&self, n: usize) -> i16 {
        let silent = SILENT_MS * self.per_ms;
        if self.lag == 0 || n >= silent || self.history.len() < self.lag {
            return 0;
        }
        let hold = HOLD_MS * self.per_ms;
        let value = i64::from(self.history[self.history.len() - self.lag + n % self.lag]);
        if n < hold {
            return value as i16;
        }
        (value * (silent - n) as i64 / (silent - hold) as i64) as i16
    }

    /// The lag (2.5 to 15 ms) at which the past resembles itself most.
    fn find_pitch(&self) -> usize {
        let (shortest, longest) = (self.per_ms * 5 / 2, self.per_ms * 15);
        let window = self.per_ms * 10;
        let length = self.history.len();
        if length < longest + window {
            return length.min(longest);
        }
        let recent = &self.history[length - window..];
        let mut best = (f64::MIN, longest);
        for lag in shortest..=longest {
            let past = &self.history[length - window - lag..length - lag];
            let (mut cross, mut energy) = (0_i64, 1_i64);
            for (&a, &b) in recent.iter().zip(past) {
                cross += i64::from(a) * i64::from(b);
                energy += i64::from(b) * i64::from(b);
            }
            let score = cross as f64 / (energy as f64).sqrt();
            if score > best.0 {
                best = (score, lag);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::dbfs;
    use crate::testing::{chirp, correlation, syllables};

    #[test]
    fn a_lost_packet_of_a_steady_tone_is_hardly_noticed() {
        let tone = chirp(8_000, 800, 200.0, 200.0, 8_000.0);
        let mut plc = Plc::new(8_000);
        plc.good(&mut tone[..400].to_vec());
        let mut filled = Vec::new();
        plc.conceal(80, &mut filled);
        assert!(correlation(&filled, &tone[400..480]) > 0.98);
    }

    #[test]
    fn a_long_gap_fades_to_true_silence() {
        let mut plc = Plc::new(8_000);
        plc.good(&mut chirp(8_000, 800, 200.0, 250.0, 8_000.0));
        let mut filled = Vec::new();
        for _ in 0..10 {
            plc.conceal(160, &mut filled);
        }
        assert_eq!(filled.len(), 1_600);
        assert!(dbfs(&filled[..80]) > -20.0);
        assert!(filled[640..].iter().all(|&s| s == 0));
    }

    #[test]
    fn the_join_after_a_gap_has_no_step() {
        let tone = chirp(8_000, 960, 200.0, 200.0, 8_000.0);
        let mut plc = Plc::new(8_000);
        plc.good(&mut tone[..400].to_vec());
        let mut all = tone[..400].to_vec();
        plc.conceal(160, &mut all);
        let mut next = tone[560..720].to_vec();
        plc.good(&mut next);
        all.extend(next);
        let step = all.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max();
        assert!(step < Some(2_600), "{step:?}");
    }

    #[test]
    fn no_join_of_a_gap_in_speech_clicks() {
        let curvature = |samples: &[i16]| {
            samples
                .windows(3)
                .map(|w| (i32::from(w[0]) - 2 * i32::from(w[1]) + i32::from(w[2])).abs())
                .max()
                .unwrap_or(0)
        };
        for seed in 1..6 {
            let speech = syllables(8_000, 24_000, seed);
            for at in (800..22_000).step_by(487) {
                let mut plc = Plc::new(8_000);
                let mut all = speech[at - 800..at].to_vec();
                plc.good(&mut all);
                plc.conceal(160, &mut all);
                let mut next = speech[at + 160..at + 320].to_vec();
                plc.good(&mut next);
                all.extend(next);
                // What speech does by itself around there, with room for a hiss.
                let natural = curvature(&speech[at - 800..at + 320]);
                let heard = curvature(&all[700..]);
                assert!(heard <= natural * 2 + 200, "seed {seed} at {at}: {heard}, natural {natural}");
            }
        }
    }

    #[test]
    fn a_gap_before_any_audio_is_silence() {
        let mut filled = Vec::new();
        Plc::new(16_000).conceal(320, &mut filled);
        assert_eq!(filled, vec![0; 320]);
    }
}
