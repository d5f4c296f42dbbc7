//! Spectra: indices to line spectral frequencies, and those to one filter for each sub-frame (RFC 3951 3.2, 4.1).

use super::FrameSize;
use super::tables::{LSF_HIGH, LSF_LOW, LSF_MEAN, LSF_MIDDLE, ORDER, WEIGHT_20MS, WEIGHT_30MS};

/// One filter's coefficients after the leading one: the predictor with its sign changed.
pub(super) type Filter = [f32; ORDER];
/// Line spectral frequencies in 1/8192 rad.
type Spectrum = [f32; ORDER];

/// What a frame needs of the last one.
#[derive(Debug, Clone)]
pub(super) struct Spectra {
    last: Spectrum,
}

impl Default for Spectra {
    fn default() -> Spectra {
        Spectra { last: LSF_MEAN.map(f32::from) }
    }
}

impl Spectra {
    /// The filters of the sub-frames; those past the frame's length are of no meaning.
    pub(super) fn filters(&mut self, indices: &[[usize; 3]; 2], size: FrameSize) -> [Filter; 6] {
        let spectra = indices.map(dequantise);
        let old = std::mem::replace(&mut self.last, spectra[size.spectra() - 1]);
        let mut filters = [[0.0; ORDER]; 6];
        for (at, filter) in filters.iter_mut().enumerate().take(size.sub_frames()) {
            *filter = match size {
                FrameSize::Ms20 => to_filter(&mix(&old, &spectra[0], WEIGHT_20MS[at])),
                FrameSize::Ms30 if at == 0 => to_filter(&mix(&old, &spectra[0], WEIGHT_30MS[at])),
                FrameSize::Ms30 => to_filter(&mix(&spectra[0], &spectra[1], WEIGHT_30MS[at])),
            };
        }
        filters
    }
}

fn mix(older: &Spectrum, newer: &Spectrum, weight: f32) -> Spectrum {
    std::array::from_fn(|at| weight * older[at] + (1.0 - weight) * newer[at])
}

/// The spectrum of three indices, its frequencies kept 50 Hz apart.
fn dequantise(indices: [usize; 3]) -> Spectrum {
    let mut values = LSF_LOW[indices[0] & 63]
        .into_iter()
        .chain(LSF_MIDDLE[indices[1] & 127])
        .chain(LSF_HIGH[indices[2] & 127])
        .map(f32::from);
    let mut lsf: Spectrum = std::array::from_fn(|_| values.next().unwrap_or_default());
    const APART: f32 = 319.0;
    for _ in 0..2 {
        for at in 0..ORDER - 1 {
            let (low, high) = (lsf[at], lsf[at + 1]);
            if high < low {
                (lsf[at], lsf[at + 1]) = (low, low + APART / 2.0);
            } else if high - low < APART {
                (lsf[at], lsf[at + 1]) = (low - APART / 2.0, high + APART / 2.0);
            }
            lsf[at] = lsf[at].clamp(82.0, 25_723.0);
        }
    }
    lsf
}

/// The prediction filter with these line spectral frequencies: half the sum of a symmetric and an antisymmetric
/// polynomial, whose zeros are every other frequency.
fn to_filter(lsf: &Spectrum) -> Filter {
    let cosines = lsf.map(|frequency| (frequency / 8_192.0).cos());
    let polynomial = |first: usize, sign: f32| {
        let mut product = [0.0_f32; ORDER + 2];
        (product[0], product[1]) = (1.0, sign);
        for cosine in cosines.iter().skip(first).step_by(2) {
            for at in (1..product.len()).rev() {
                let before = at.checked_sub(2).map_or(0.0, |before| product[before]);
                product[at] += before - 2.0 * cosine * product[at - 1];
            }
        }
        product
    };
    let (symmetric, antisymmetric) = (polynomial(0, 1.0), polynomial(1, -1.0));
    std::array::from_fn(|at| (symmetric[at + 1] + antisymmetric[at + 1]) / 2.0)
}

/// The loudest a sample may be inside of the decoder; broken frames would go beyond.
pub(super) const LOUDEST: f32 = 65_536.0;

/// Filters `samples` in place as the vocal tract does; `memory` is its past output, the newest first.
pub(super) fn synthesise(filter: &Filter, memory: &mut [f32; ORDER], samples: &mut [f32]) {
    for sample in samples {
        let predicted: f32 = filter.iter().zip(memory.iter()).map(|(a, past)| a * past).sum();
        *sample = (*sample - predicted).clamp(-LOUDEST, LOUDEST);
        memory.copy_within(..ORDER - 1, 1);
        memory[0] = *sample;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evenly_spread_frequencies_are_a_flat_spectrum() {
        let even: Spectrum = std::array::from_fn(|at| (at + 1) as f32 * 8_192.0 * std::f32::consts::PI / 11.0);
        assert!(to_filter(&even).iter().all(|coefficient| coefficient.abs() < 1e-3), "{:?}", to_filter(&even));
    }

    #[test]
    fn a_filter_goes_from_the_last_spectrum_to_the_new_one() {
        let mut spectra = Spectra::default();
        let indices = [[5, 17, 101], [40, 90, 3]];
        let filters = spectra.filters(&indices, FrameSize::Ms20);
        assert_eq!(filters[3], to_filter(&dequantise(indices[0])));
        assert_ne!(filters[0], filters[3]);
        let filters = spectra.filters(&indices, FrameSize::Ms30);
        assert_eq!(filters[1], to_filter(&dequantise(indices[0])));
        assert_eq!(filters[5], to_filter(&dequantise(indices[1])));
    }
}
