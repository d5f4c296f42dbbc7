//! Audio of which every 20 ms tell which call, which party and when.
//!
//! A frame is noise that follows from the stream's mark and the frame's number alone, so whoever knows the mark can say of
//! any piece of a recording which frame it is, to the sample, and no two frames of a run resemble each other. Noise has
//! no memory: a frame that is lost spoils none beside it. Low notes are left out and neighbours are joined smoothly,
//! because speech codecs keep that best.

/// Samples of a frame: 20 ms at 8 kHz.
pub(crate) const FRAME: usize = 160;

/// Loud as a voice close to the microphone, far from clipping.
const AMPLITUDE: f32 = 9_000.0;

/// The mark of one stream of a run.
pub(crate) fn mark(seed: u64, call: u64, party: u64) -> u64 {
    mix(mix(mix(seed) ^ call) ^ party)
}

/// The samples of frame `index`.
pub(crate) fn frame(mark: u64, index: u64) -> [i16; FRAME] {
    let mut state = mix(mark ^ mix(index));
    let mut low = 0.0_f32;
    let mut samples = [0; FRAME];
    for sample in &mut samples {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // 24 bits are exact in an f32.
        #[allow(clippy::cast_precision_loss)]
        let white = (mix(state) >> 40) as f32 / 8_388_608.0 - 1.0;
        // A gentle low pass: most of the energy lies where a speech codec spends its bits.
        low += 0.55 * (white - low);
        #[allow(clippy::cast_possible_truncation)]
        {
            *sample = (low * AMPLITUDE) as i16;
        }
    }
    samples
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness(a: &[i16], b: &[i16]) -> f64 {
        let dot = |x: &[i16], y: &[i16]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn a_frame_is_itself_and_nobody_else() {
        let own = mark(7, 3, 0);
        assert_eq!(frame(own, 40), frame(own, 40));
        let others = (0..200).flat_map(|n| [(own, n + 100), (mark(7, 3, 1), n), (mark(7, n + 4, 0), 40)]);
        let nearest = others.map(|(mark, index)| likeness(&frame(own, 40), &frame(mark, index)).abs());
        assert!(nearest.fold(0.0, f64::max) < 0.45);
        let loudest = frame(own, 1).iter().map(|sample| sample.unsigned_abs()).max();
        assert!(loudest.is_some_and(|loudest| (2_000..9_001).contains(&loudest)), "{loudest:?}");
    }
}
