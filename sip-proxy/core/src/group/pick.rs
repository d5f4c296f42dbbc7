//! Which element gets a request: the policies.
//!
//! Of the elements that may be asked those of the lowest priority are looked at, and among them
//!
//! | policy | takes |
//! | --- | --- |
//! | `priority-weight` | by chance, in proportion to the weights: RFC 2782's rule, in which weight 0 has a very small chance beside others |
//! | `round-robin` | in turns, as often as the weights say, spread evenly |
//! | `call-id-hash` | always the same one for a Call-ID, by rendezvous hashing: one that goes moves its own calls only |
//! | `least-loaded` | the one with the fewest calls for its weight |

use std::hash::{DefaultHasher, Hasher};
use std::time::Instant;

use rand::{Rng, RngExt};
use smallvec::SmallVec;

use super::element::Element;
use super::{GroupConfig, Policy};

/// Places of elements in their group.
type Places = SmallVec<[usize; 8]>;

/// Chooses among `elements`; `tried` are left out. `call` is a hash of the Call-ID.
pub(super) fn pick<R: Rng + ?Sized>(
    now: Instant,
    group: &GroupConfig,
    elements: &mut [Element],
    tried: &[usize],
    call: u64,
    sees_ends: bool,
    rng: &mut R,
) -> Option<usize> {
    let usable = |(place, element): (usize, &Element)| {
        (!tried.contains(&place) && element.is_usable(now, group)).then_some((element.rank(), place))
    };
    let lowest = elements.iter().enumerate().filter_map(usable).map(|(rank, _)| rank).min()?;
    let places: Places = elements
        .iter()
        .enumerate()
        .filter_map(usable)
        .filter(|(rank, _)| *rank == lowest)
        .map(|(_, place)| place)
        .collect();
    if let [only] = places.as_slice() {
        return Some(*only);
    }
    match group.policy {
        Policy::PriorityWeight => by_weight(now, group, elements, &places, rng),
        Policy::RoundRobin => in_turn(now, group, elements, &places),
        Policy::CallIdHash => by_call(now, group, elements, &places, call),
        Policy::LeastLoaded => least_loaded(now, group, elements, &places, sees_ends, rng),
    }
}

/// Weights; in thousandths while one of them comes back slowly.
pub(super) fn weights(now: Instant, group: &GroupConfig, elements: &[Element], places: &[usize]) -> SmallVec<[u64; 8]> {
    weights_in(false, now, group, elements, places)
}

/// As [`weights`]; always in thousandths if `fine`.
fn weights_in(
    fine: bool,
    now: Instant,
    group: &GroupConfig,
    elements: &[Element],
    places: &[usize],
) -> SmallVec<[u64; 8]> {
    let of = |place: &usize| elements.get(*place);
    let slow: SmallVec<[Option<u64>; 8]> =
        places.iter().map(|place| of(place).and_then(|element| element.slow_weight(now, group.slow_start))).collect();
    let any = fine || slow.iter().any(Option::is_some);
    let full =
        |place: &usize| of(place).map_or(0, |element| u64::from(element.config.weight)) * if any { 1_000 } else { 1 };
    places.iter().zip(&slow).map(|(place, slow)| slow.unwrap_or_else(|| full(place))).collect()
}

/// RFC 2782: those of weight 0 first, running sums, a random number from 0 to the sum, the first sum that reaches it. Without
/// any of weight 0 the number 0 would go to whoever stands first, so it is not drawn.
fn by_weight<R: Rng + ?Sized>(
    now: Instant,
    group: &GroupConfig,
    elements: &[Element],
    places: &[usize],
    rng: &mut R,
) -> Option<usize> {
    let weights = weights(now, group, elements, places);
    let sum: u64 = weights.iter().sum();
    if sum == 0 {
        return places.get(rng.random_range(0..places.len())).copied();
    }
    let zeros: SmallVec<[usize; 8]> =
        places.iter().zip(&weights).filter(|(_, weight)| **weight == 0).map(|(place, _)| *place).collect();
    let drawn = rng.random_range(u64::from(zeros.is_empty())..=sum);
    if drawn == 0 {
        return zeros.get(rng.random_range(0..zeros.len())).copied();
    }
    let mut running = 0;
    places.iter().zip(&weights).filter(|(_, weight)| **weight > 0).find_map(|(place, weight)| {
        running += weight;
        (running >= drawn).then_some(*place)
    })
}

/// Smooth weighted round robin: each gains its weight, the richest pays the sum.
fn in_turn(now: Instant, group: &GroupConfig, elements: &mut [Element], places: &[usize]) -> Option<usize> {
    // What an element is owed lasts from pick to pick, so its unit must not change with the slow start of another.
    let weights = weights_in(true, now, group, elements, places);
    let all_zero = weights.iter().all(|weight| *weight == 0);
    let mut sum = 0;
    let mut best: Option<(i64, usize)> = None;
    for (place, weight) in places.iter().zip(&weights) {
        let Some(element) = elements.get_mut(*place) else { continue };
        let gain = if all_zero { 1 } else { i64::try_from(*weight).unwrap_or(i64::MAX) };
        element.turn = element.turn.saturating_add(gain);
        sum += gain;
        if best.is_none_or(|(turn, _)| element.turn > turn) {
            best = Some((element.turn, *place));
        }
    }
    let (_, place) = best?;
    elements.get_mut(place)?.turn -= sum;
    Some(place)
}

/// Weighted rendezvous hashing: the highest score `-weight / ln(hash)` wins.
fn by_call(now: Instant, group: &GroupConfig, elements: &[Element], places: &[usize], call: u64) -> Option<usize> {
    let weights = weights(now, group, elements, places);
    let score = |(place, weight): (&usize, &u64)| {
        let element = elements.get(*place)?;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(call);
        hasher.write(element.config.address.as_bytes());
        // 52 bits, in the open interval from 0 to 1.
        let unit = ((hasher.finish() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        Some((-((*weight).max(1) as f64) / unit.ln(), *place))
    };
    places.iter().zip(&weights).filter_map(score).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, place)| place)
}

/// The fewest calls for its weight; by chance among equals.
fn least_loaded<R: Rng + ?Sized>(
    now: Instant,
    group: &GroupConfig,
    elements: &[Element],
    places: &[usize],
    sees_ends: bool,
    rng: &mut R,
) -> Option<usize> {
    let weights = weights(now, group, elements, places);
    let load = |(place, weight): (&usize, &u64)| {
        elements
            .get(*place)
            .map_or(f64::MAX, |element| (element.load(now, sees_ends) as f64 + 1.0) / (*weight).max(1) as f64)
    };
    let least = places.iter().zip(&weights).map(load).min_by(f64::total_cmp)?;
    let near = |pair: &(&usize, &u64)| load(*pair) <= least * (1.0 + 1e-9);
    let equal: Places = places.iter().zip(&weights).filter(near).map(|(place, _)| *place).collect();
    equal.get(rng.random_range(0..equal.len().max(1))).copied()
}
