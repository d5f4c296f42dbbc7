//! Levels, and the gate that tells a silent party from a speaking one.

/// Mean power below which a frame is silence: -65 dBFS, 18 steps of 16 bits.
/// Quiet speech lies 20 dB and more above; comfort noise and the idle noise of
/// a G.711 line (8 steps) below.
const SILENCE_POWER: f64 = 32_768.0 * 32_768.0 * 3.162_277_66e-7;

/// Mean square of the samples.
pub fn power(samples: &[i16]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let sum: i64 = samples.iter().map(|&s| i64::from(i32::from(s) * i32::from(s))).sum();
    sum as f64 / samples.len() as f64
}

/// Level in dB relative to full scale; silence is -96.
pub fn dbfs(samples: &[i16]) -> f64 {
    let power = power(samples);
    if power < 1.0 { -96.0 } else { 10.0 * (power / (32_768.0 * 32_768.0)).log10() }
}

/// Speech activity of one party, decided frame by frame.
///
/// Conservative: whatever is louder than -65 dBFS is speech, and the gate stays
/// open for the hang-over after it. It opens on the very frame that is louder,
/// so no onset is cut.
#[derive(Debug, Clone)]
pub struct Gate {
    hang_over_frames: u32,
    left: u32,
}

impl Gate {
    /// A closed gate that stays open for `hang_over_frames` after speech.
    pub fn new(hang_over_frames: u32) -> Gate {
        Gate { hang_over_frames, left: 0 }
    }

    /// True while the frame, or a recent one, holds speech.
    pub fn is_open(&mut self, frame: &[i16]) -> bool {
        if is_speech(frame) {
            self.left = self.hang_over_frames;
            true
        } else if self.left > 0 {
            self.left -= 1;
            true
        } else {
            false
        }
    }
}

/// Power about the mean: the offset that some gateways add is no speech.
fn is_speech(frame: &[i16]) -> bool {
    let mean = frame.iter().map(|&s| i64::from(s)).sum::<i64>() as f64 / frame.len().max(1) as f64;
    power(frame) - mean * mean > SILENCE_POWER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfort_noise::Noise;
    use crate::testing::chirp;

    #[test]
    fn full_scale_is_0_and_silence_minus_96() {
        assert!(dbfs(&[32_767; 160]).abs() < 0.01);
        assert!((dbfs(&[0; 160]) + 96.0).abs() < f64::EPSILON);
        assert!((dbfs(&[]) + 96.0).abs() < f64::EPSILON);
    }

    #[test]
    fn faint_speech_opens_the_gate_at_once_and_idle_noise_does_not() {
        let mut gate = Gate::new(15);
        assert!(!gate.is_open(&[0; 160]));
        assert!(!gate.is_open(&[8; 160]), "A-law idle value");
        let idle: Vec<i16> = (0..160).map(|n| if n * 7 % 11 < 5 { 8 } else { -8 }).collect();
        assert!(!gate.is_open(&idle), "idle line noise");
        assert!(!gate.is_open(&[-120; 160]), "an offset without a signal");
        let faint = chirp(8_000, 160, 300.0, 900.0, 40.0);
        assert!(dbfs(&faint) < -60.0);
        assert!(gate.is_open(&faint));
    }

    #[test]
    fn comfort_noise_below_65_dbfs_is_silence_and_louder_noise_is_not() {
        for (level, open) in [(70_u8, false), (67, false), (63, true), (50, true)] {
            let (mut noise, mut frame) = (Noise::default(), Vec::new());
            noise.set(&[level]);
            let mut gate = Gate::new(0);
            for _ in 0..100 {
                frame.clear();
                noise.fill(160, &mut frame);
                assert_eq!(gate.is_open(&frame), open, "-{level} dBFS");
            }
        }
    }

    #[test]
    fn the_gate_stays_open_for_the_hang_over_and_then_closes() {
        let mut gate = Gate::new(15);
        assert!(gate.is_open(&chirp(8_000, 160, 300.0, 900.0, 4_000.0)));
        for frame in 0..15 {
            assert!(gate.is_open(&[0; 160]), "frame {frame}");
        }
        assert!(!gate.is_open(&[0; 160]));
    }
}
