//! Several parties on one channel.
//!
//! Their samples are added up, all before any is limited: the order of the streams makes no difference. A sum
//! within three quarters of the range passes as it is; beyond, a curve that begins with the slope of 1 bends it below the
//! end of the range. It never wraps, never sticks at the limit, and has no edge that would click.

/// Sums up to here are left alone.
const KNEE: i32 = 24_576;
/// Sums approach this and stay below.
const CEILING: i32 = 32_767;

/// Sums of one frame.
#[derive(Debug, Default)]
pub(crate) struct Mix {
    sums: Vec<i32>,
    samples: Vec<i16>,
}

impl Mix {
    /// The next frame of a channel of so many samples: a party's own where one is alone, else the sum of all.
    pub(crate) fn frame<'a>(&'a mut self, mut parts: impl Iterator<Item = &'a [i16]>, samples: usize) -> &'a [i16] {
        let first = parts.next();
        let Some(second) = parts.next() else {
            return first.unwrap_or_else(|| {
                self.samples.clear();
                self.samples.resize(samples, 0);
                &self.samples
            });
        };
        self.sums.clear();
        self.sums.extend(first.unwrap_or_default().iter().map(|sample| i32::from(*sample)));
        for part in std::iter::once(second).chain(parts) {
            for (sum, sample) in self.sums.iter_mut().zip(part) {
                *sum += i32::from(*sample);
            }
        }
        self.samples.clear();
        self.samples.extend(self.sums.iter().map(|sum| limit(*sum)));
        &self.samples
    }
}

/// Bends what is too loud: with `d` beyond the knee of `r` left, `d * r / (d + r)` of it is used.
fn limit(sum: i32) -> i16 {
    let beyond = sum.abs() - KNEE;
    let limited = if beyond <= 0 {
        sum
    } else {
        let room = CEILING - KNEE;
        let bent = i64::from(beyond) * i64::from(room) / (i64::from(beyond) + i64::from(room));
        (KNEE + i32::try_from(bent).unwrap_or(room)) * sum.signum()
    };
    i16::try_from(limited).unwrap_or(if sum < 0 { i16::MIN } else { i16::MAX })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;

    fn mixed(parts: &[&[i16]]) -> Vec<i16> {
        Mix::default().frame(parts.iter().copied(), 4).to_vec()
    }

    #[test]
    fn one_party_passes_untouched_and_none_is_silence() {
        assert_eq!(mixed(&[&[i16::MAX, i16::MIN, 1, 0]]), [i16::MAX, i16::MIN, 1, 0]);
        assert_eq!(mixed(&[]), [0; 4]);
    }

    #[test]
    fn moderate_sums_are_exact_in_any_order() {
        let parts: [&[i16]; 3] = [&[30_000, -30_000, 100, 0], &[-29_000, 29_000, 50, 1], &[30, 2, -3, 4]];
        assert_eq!(mixed(&parts), [1_030, -998, 147, 5]);
        assert_eq!(mixed(&[parts[2], parts[0], parts[1]]), mixed(&parts));
    }

    #[test]
    fn the_curve_rises_without_a_step_and_never_wraps() {
        let reach = 32_768 * 32;
        let mut before = limit(-reach);
        for sum in -reach + 1..=reach {
            let here = limit(sum);
            assert!((0..=1).contains(&(i32::from(here) - i32::from(before))), "{sum}: {before} {here}");
            assert_eq!(here.signum(), sum.signum() as i16);
            before = here;
        }
        assert!(limit(reach) > 32_500 && limit(2 * 20_000) > 29_000);
    }

    #[test]
    fn three_loud_parties_at_once_make_no_click() {
        let wave = |hz: f64| -> Vec<i16> {
            (0..8_000)
                .map(|n| (20_000.0 * (2.0 * std::f64::consts::PI * hz * f64::from(n) / 8_000.0).sin()) as i16)
                .collect()
        };
        let parties = [wave(200.0), wave(300.0), wave(370.0)];
        let mut mix = Mix::default();
        let sum = mix.frame(parties.iter().map(Vec::as_slice), 8_000);
        let steepest = |samples: &[i16]| samples.windows(2).map(|pair| pair[0].abs_diff(pair[1])).max().unwrap();
        let allowed: u16 = parties.iter().map(|party| steepest(party)).sum();
        assert!(steepest(sum) <= allowed, "a step of {} where the parties make {allowed} at most", steepest(sum));
        assert!(sum.iter().any(|sample| sample.unsigned_abs() > 30_000));
    }
}
