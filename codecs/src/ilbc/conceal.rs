//! What stands in for lost frames: the last pitch cycles of the residual, mixed with noise the more the less periodic
//! they were, and faded out (RFC 3951 4.5).

use super::codebook::FRAME_MOST;

/// At full level for this many samples: 20 ms.
const HOLD: usize = 160;
/// The residual is silent from here on: 105 ms. The enhancer and the filter are a little later.
const SILENT: usize = 840;
/// Samples compared to find the lag.
const COMPARED: usize = 60;

/// The state of one gap.
#[derive(Debug, Clone)]
pub(super) struct Concealment {
    /// Samples made since the last good frame.
    pub(super) made: usize,
    lag: usize,
    /// Share of the repetition, the rest is noise.
    periodic: f32,
    seed: u16,
}

impl Default for Concealment {
    fn default() -> Concealment {
        Concealment { made: 0, lag: 120, periodic: 0.0, seed: 777 }
    }
}

impl Concealment {
    /// A residual of `length` samples after `past`, whose pitch has about the lag `about`.
    pub(super) fn residual(&mut self, past: &[f32], about: usize, length: usize) -> [f32; FRAME_MOST] {
        if self.made == 0 {
            self.listen(past, about);
        }
        // A single cycle over and over would buzz.
        let lag = if self.lag < 80 { 2 * self.lag } else { self.lag };
        let mut out = [0.0; FRAME_MOST];
        for at in 0..length.min(FRAME_MOST) {
            let before = |back: usize, out: &[f32; FRAME_MOST]| match at.checked_sub(back) {
                Some(at) => out[at],
                None => (past.len() + at).checked_sub(back).and_then(|at| past.get(at)).copied().unwrap_or_default(),
            };
            self.seed = self.seed.wrapping_mul(31_821).wrapping_add(13_849);
            let noise = before(53 + usize::from(self.seed & 63), &out);
            let level = level(self.made + at) / level((self.made + at).saturating_sub(lag)).max(1e-6);
            out[at] = level.min(1.0) * (self.periodic * before(lag, &out) + (1.0 - self.periodic) * noise);
        }
        self.made += length;
        out
    }

    /// Finds the lag near `about` at which the past resembles itself most, and how much it does.
    fn listen(&mut self, past: &[f32], about: usize) {
        let start = past.len().saturating_sub(COMPARED);
        let recent = past.get(start..).unwrap_or_default();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let mut best = (f32::MIN, about);
        for lag in about.saturating_sub(3).max(1)..=about + 3 {
            let Some(earlier) = start.checked_sub(lag).and_then(|from| past.get(from..from + COMPARED)) else {
                continue;
            };
            let likeness = dot(recent, earlier) / (dot(recent, recent) * dot(earlier, earlier)).sqrt().max(1e-9);
            if likeness > best.0 {
                best = (likeness, lag);
            }
        }
        self.lag = best.1;
        self.periodic = ((best.0.max(0.0).sqrt() - 0.4) / 0.3).clamp(0.0, 1.0);
    }
}

/// The level at a sample of the gap.
fn level(at: usize) -> f32 {
    let left = SILENT.saturating_sub(at) as f32 / (SILENT - HOLD) as f32;
    left.min(1.0).powi(3)
}
