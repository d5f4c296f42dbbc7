//! The bits of a frame: each parameter in up to three pieces, the more important the earlier (RFC 3951 3.8).
//!
//! All first pieces come in the order of the parameters, then all second, then all third ones; the last bit of the
//! frame tells that it is empty.

use super::FrameSize;

/// Samples of the scalar part of the start state at 30 ms, the longer of the two.
pub(super) const STATE_MOST: usize = 58;
/// Sub-frames with codebook vectors, the odd piece beside the start state counted: at most.
const VECTORS_MOST: usize = 5;

/// Bits of a parameter in the three classes.
type Pieces = [u32; 3];

const LSF: [Pieces; 3] = [[6, 0, 0], [7, 0, 0], [7, 0, 0]];
const STATE_FIRST: Pieces = [1, 0, 0];
const MAXIMUM: Pieces = [6, 0, 0];
const SAMPLE: Pieces = [0, 1, 2];

/// Pieces of the codebook indices and of the gains, three stages for each vector.
type Stages = [[Pieces; 3]];

const INDICES_20: &Stages =
    &[[[6, 0, 1], [0, 0, 7], [0, 0, 7]], [[7, 0, 1], [0, 0, 7], [0, 0, 7]], [[0, 0, 8], [0, 0, 8], [0, 0, 8]]];
const GAINS_20: &Stages =
    &[[[2, 0, 3], [1, 1, 2], [0, 0, 3]], [[1, 2, 2], [1, 1, 2], [0, 0, 3]], [[1, 1, 3], [0, 2, 2], [0, 0, 3]]];
const INDICES_30: &Stages = &[
    [[4, 2, 1], [0, 0, 7], [0, 0, 7]],
    [[6, 1, 1], [0, 0, 7], [0, 0, 7]],
    [[0, 7, 1], [0, 0, 8], [0, 0, 8]],
    [[0, 7, 1], [0, 0, 8], [0, 0, 8]],
    [[0, 7, 1], [0, 0, 8], [0, 0, 8]],
];
const GAINS_30: &Stages = &[
    [[1, 1, 3], [1, 1, 2], [0, 0, 3]],
    [[1, 2, 2], [1, 2, 1], [0, 0, 3]],
    [[0, 2, 3], [0, 2, 2], [0, 0, 3]],
    [[0, 1, 4], [0, 1, 3], [0, 0, 3]],
    [[0, 1, 4], [0, 1, 3], [0, 0, 3]],
];

/// What one codebook vector is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vector {
    /// Codebook index of each stage.
    pub(super) index: [usize; 3],
    /// Gain index of each stage.
    pub(super) gain: [usize; 3],
}

/// The parameters of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Indices of one spectrum (20 ms) or two.
    pub(super) lsf: [[usize; 3]; 2],
    /// The first of the two sub-frames that hold the start state, from 1.
    pub(super) start: usize,
    /// The scalar part of the start state comes before its adaptive part.
    pub(super) state_first: bool,
    /// Index of the largest amplitude of the start state.
    pub(super) maximum: usize,
    /// Indices of the start state's samples.
    pub(super) samples: [usize; STATE_MOST],
    /// The rest of the start state, then the sub-frames after it, then those before it.
    pub(super) vectors: [Vector; VECTORS_MOST],
}

/// Reads bits, most significant first; zeros past the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Moves the next bits to the end of `value`.
    fn append(&mut self, value: &mut usize, count: u32) {
        for _ in 0..count {
            let bit = self.bytes.get(self.at / 8).map_or(0, |byte| byte >> (7 - self.at % 8) & 1);
            *value = *value << 1 | usize::from(bit);
            self.at += 1;
        }
    }
}

/// The parameters of a frame; `None` for an empty frame and for one that cannot be.
pub(super) fn unpack(frame: &[u8], size: FrameSize) -> Option<Parameters> {
    let mut reader = Reader { bytes: frame, at: 0 };
    let (mut lsf, mut start, mut state_first, mut maximum) = ([[0; 3]; 2], 0, 0, 0);
    let mut samples = [0; STATE_MOST];
    let mut vectors = [Vector::default(); VECTORS_MOST];
    let (indices, gains, start_bits) = match size {
        FrameSize::Ms20 => (INDICES_20, GAINS_20, [2, 0, 0]),
        FrameSize::Ms30 => (INDICES_30, GAINS_30, [3, 0, 0]),
    };
    for class in 0..3 {
        for index in lsf.iter_mut().take(size.spectra()).flat_map(|set| set.iter_mut().zip(LSF)) {
            reader.append(index.0, index.1[class]);
        }
        reader.append(&mut start, start_bits[class]);
        reader.append(&mut state_first, STATE_FIRST[class]);
        reader.append(&mut maximum, MAXIMUM[class]);
        samples.iter_mut().take(size.state_samples()).for_each(|sample| reader.append(sample, SAMPLE[class]));
        // Indices and gains of the start state's rest, then all other indices, then all other gains.
        for range in [0..1, 1..indices.len()] {
            for at in range.clone() {
                vectors[at].index.iter_mut().zip(indices[at]).for_each(|(to, bits)| reader.append(to, bits[class]));
            }
            for at in range {
                vectors[at].gain.iter_mut().zip(gains[at]).for_each(|(to, bits)| reader.append(to, bits[class]));
            }
        }
    }
    let mut empty = 0;
    reader.append(&mut empty, 1);
    // The first whole sub-frame has a shorter codebook in its second and third stage: 7 bits for 8 (3.6.3).
    for index in &mut vectors[1].index[1..] {
        *index += match *index {
            44..108 => 64,
            108..128 => 128,
            _ => 0,
        };
    }
    let possible = empty == 0 && (1..size.sub_frames()).contains(&start);
    possible.then_some(Parameters { lsf, start, state_first: state_first == 1, maximum, samples, vectors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_fill_the_frame() {
        for (size, indices, gains, start) in
            [(FrameSize::Ms20, INDICES_20, GAINS_20, 2), (FrameSize::Ms30, INDICES_30, GAINS_30, 3)]
        {
            let stages: u32 = indices.iter().chain(gains).flatten().flatten().sum();
            let bits = 20 * size.spectra() + start + 1 + 6 + 3 * size.state_samples() + stages as usize + 1;
            assert_eq!(bits, size.bytes() * 8);
        }
    }

    #[test]
    fn empty_and_impossible_frames_are_told() {
        let mut frame = [0; 38];
        assert_eq!(unpack(&frame, FrameSize::Ms20), None);
        frame[2] = 0b0000_0100;
        assert!(unpack(&frame, FrameSize::Ms20).is_some_and(|read| read.start == 1));
        frame[37] = 1;
        assert_eq!(unpack(&frame, FrameSize::Ms20), None);
        assert_eq!(unpack(&[0xff; 50], FrameSize::Ms30), None);
    }
}
