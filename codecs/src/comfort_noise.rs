//! Comfort noise (RFC 3389): the sender is silent and tells how loud its
//! background is. Only the level is followed, not the spectrum.

/// Noise at the level that a payload told; silence before the first one.
#[derive(Debug, Clone)]
pub struct Noise {
    amplitude: f64,
    state: u32,
}

impl Default for Noise {
    fn default() -> Noise {
        Noise { amplitude: 0.0, state: 0x2545_f491 }
    }
}

impl Noise {
    /// Takes a CN payload: its first byte is the level in -dBov.
    pub fn set(&mut self, payload: &[u8]) {
        let level = payload.first().map_or(127, |byte| byte & 0x7f);
        // Uniform noise of amplitude A has a power of A*A/3.
        self.amplitude = 32_768.0 * 3.0_f64.sqrt() * 10.0_f64.powf(-f64::from(level) / 20.0);
    }

    /// Appends `samples` samples.
    pub fn fill(&mut self, samples: usize, out: &mut Vec<i16>) {
        out.extend((0..samples).map(|_| {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 17;
            self.state ^= self.state << 5;
            let unit = f64::from(self.state) / f64::from(u32::MAX) * 2.0 - 1.0;
            (unit * self.amplitude).clamp(-32_768.0, 32_767.0) as i16
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::dbfs;

    #[test]
    fn the_level_is_the_one_told_and_the_reserved_bit_is_ignored() {
        for (payload, wanted) in [(&[30_u8][..], -30.0), (&[50, 7, 9], -50.0), (&[0x80 | 40], -40.0)] {
            let (mut noise, mut out) = (Noise::default(), Vec::new());
            noise.set(payload);
            noise.fill(16_000, &mut out);
            assert!((dbfs(&out) - wanted).abs() < 0.5, "{:.1} for {wanted}", dbfs(&out));
        }
    }

    #[test]
    fn before_the_first_payload_and_after_an_empty_one_there_is_silence() {
        let (mut noise, mut out) = (Noise::default(), Vec::new());
        noise.fill(100, &mut out);
        noise.set(&[]);
        noise.fill(100, &mut out);
        assert_eq!(out, vec![0; 200]);
    }
}
