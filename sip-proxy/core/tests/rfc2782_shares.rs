//! RFC 2782: who gets how many of 100,000 requests, by priority and weight, while elements go up and down.
//!
//! The rule is worked out here on its own: of the elements that are up those of the lowest priority number share the
//! requests in proportion to their weights. Beside others, all of weight 0 together are drawn by the number 0 of those from
//! 0 to the sum; among themselves they share alike. In turns, they have none beside others.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ferric_proxy::group::{ElementConfig, ElementId, GroupConfig, Groups, Outcome, Policy};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const PICKS: usize = 100_000;
const NAME: &str = "g.example.com";

fn element(number: usize, priority: u16, weight: u16) -> ElementConfig {
    ElementConfig { priority, weight, ..ElementConfig::parse(&format!("192.168.2.{}:5060", number + 1)).unwrap() }
}

/// The shares that the rule gives, by the elements' places.
fn rule(policy: Policy, elements: &[(u16, u16)], up: &[bool]) -> Vec<f64> {
    let mut shares = vec![0.0; elements.len()];
    let Some(lowest) = (0..elements.len()).filter(|at| up[*at]).map(|at| elements[at].0).min() else { return shares };
    let chosen: Vec<usize> = (0..elements.len()).filter(|at| up[*at] && elements[*at].0 == lowest).collect();
    let sum: f64 = chosen.iter().map(|at| f64::from(elements[*at].1)).sum();
    let zeros = chosen.iter().filter(|at| elements[**at].1 == 0).count();
    let numbers = sum + f64::from(u8::from(policy == Policy::PriorityWeight && zeros > 0));
    for at in &chosen {
        shares[*at] = match elements[*at].1 {
            _ if sum == 0.0 => 1.0 / chosen.len() as f64,
            0 => (numbers - sum) / numbers / zeros as f64,
            weight => f64::from(weight) / numbers,
        };
    }
    shares
}

struct Run {
    groups: Groups,
    now: Instant,
    ids: Vec<ElementId>,
    rng: SmallRng,
    /// Requests under way: each lasts for as many picks.
    open: VecDeque<ElementId>,
}

impl Run {
    fn new(policy: Policy, elements: &[(u16, u16)], seed: u64) -> Run {
        let now = Instant::now();
        let mut groups = Groups::new(Duration::from_secs(60));
        let config = GroupConfig {
            policy,
            heartbeat: None,
            rest: Duration::from_secs(1_000_000),
            elements: elements
                .iter()
                .enumerate()
                .map(|(at, (priority, weight))| element(at, *priority, *weight))
                .collect(),
            ..GroupConfig::named(NAME)
        };
        groups.apply(now, vec![config], false);
        let mut run = Run { groups, now, ids: vec![], rng: SmallRng::seed_from_u64(seed), open: VecDeque::new() };
        // Identities, by leaving out who was found.
        let mut found: Vec<ElementId> = Vec::new();
        while let Some(picked) = run.groups.pick(now, NAME, &found, 0, false, &mut run.rng) {
            found.push(picked.element);
            run.groups.release(picked.element);
        }
        run.ids = (0..elements.len())
            .map(|at| {
                *found
                    .iter()
                    .find(|id| run.groups.address(**id) == Some(&format!("192.168.2.{}:5060", at + 1)))
                    .unwrap()
            })
            .collect();
        run
    }

    fn set(&mut self, at: usize, up: bool) {
        if up {
            self.groups.note_alive(self.now, self.ids[at]);
        } else {
            self.groups.note_outcome(self.now, self.ids[at], Outcome::Unreachable);
        }
    }

    fn pick(&mut self, begins_call: bool) -> Option<usize> {
        let call = self.rng.random();
        let picked = self.groups.pick(self.now, NAME, &[], call, begins_call, &mut self.rng)?;
        self.open.push_back(picked.element);
        if self.open.len() > 500 {
            let over = self.open.pop_front().unwrap();
            self.groups.release(over);
        }
        self.ids.iter().position(|id| *id == picked.element)
    }
}

fn compare(policy: Policy, elements: &[(u16, u16)], flips: &[(usize, bool)], seed: u64) {
    let mut run = Run::new(policy, elements, seed);
    let mut up = vec![true; elements.len()];
    let (mut had, mut due) = (vec![0_usize; elements.len()], vec![0.0; elements.len()]);
    let stretches = flips.len() + 1;
    let mut picks = 0;
    for stretch in 0..stretches {
        let shares = rule(policy, elements, &up);
        for _ in 0..PICKS / stretches {
            let got = run.pick(false);
            assert_eq!(got.is_none(), up.iter().all(|up| !up));
            let Some(got) = got else { continue };
            assert!(up[got], "a dead one was asked");
            assert!(
                shares
                    .iter()
                    .zip(&up)
                    .zip(elements)
                    .any(|((_, up), (priority, _))| *up && *priority == elements[got].0),
                "priority"
            );
            had[got] += 1;
            picks += 1;
        }
        for (due, share) in due.iter_mut().zip(&shares) {
            *due += share * (PICKS / stretches) as f64;
        }
        if let Some((at, alive)) = flips.get(stretch) {
            let at = at % elements.len();
            up[at] = *alive;
            run.set(at, *alive);
        }
    }
    for (at, (had, due)) in had.iter().zip(&due).enumerate() {
        let off = (*had as f64 - due).abs() / (picks.max(1) as f64);
        assert!(off < 0.02, "{policy:?}: element {at} of {elements:?} had {had}, due {due:.0}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_are_those_of_the_rule(
        elements in prop::collection::vec((1_u16..=3, prop_oneof![Just(0_u16), 1_u16..=100]), 2..7),
        flips in prop::collection::vec((0_usize..7, any::<bool>()), 0..12),
        seed in any::<u64>(),
    ) {
        for policy in [Policy::PriorityWeight, Policy::RoundRobin] {
            compare(policy, &elements, &flips, seed);
        }
    }

    #[test]
    fn hashes_are_shared_out_by_weight_as_well(
        elements in prop::collection::vec((1_u16..=3, 10_u16..=100), 2..7),
        flips in prop::collection::vec((0_usize..7, any::<bool>()), 0..12),
        seed in any::<u64>(),
    ) {
        compare(Policy::CallIdHash, &elements, &flips, seed);
    }

    #[test]
    fn load_settles_by_weight(
        elements in prop::collection::vec((1_u16..=3, 10_u16..=100), 2..7),
        seed in any::<u64>(),
    ) {
        compare(Policy::LeastLoaded, &elements, &[], seed);
    }
}

#[test]
fn small_weights_are_shared_out_exactly_too() {
    for elements in [vec![(1, 1), (1, 1)], vec![(1, 1), (1, 2)], vec![(1, 1), (1, 1), (1, 1)], vec![(1, 0), (1, 0)]] {
        for policy in [Policy::PriorityWeight, Policy::RoundRobin, Policy::LeastLoaded] {
            compare(policy, &elements, &[(0, false), (0, true), (1, false), (1, true)], 11);
        }
    }
}

#[test]
fn weight_zero_beside_others_has_a_very_small_chance() {
    let mut run = Run::new(Policy::PriorityWeight, &[(1, 0), (1, 50), (1, 49)], 5);
    let zero = (0..PICKS).filter(|_| run.pick(false) == Some(0)).count();
    assert!((700..1_300).contains(&zero), "one in a hundred (the sum and one): {zero}");
}

#[test]
fn a_hash_keeps_its_element_while_others_come_and_go() {
    let mut run = Run::new(Policy::CallIdHash, &[(1, 50), (1, 50), (1, 50)], 5);
    let pick = |run: &mut Run, call: u64| {
        let picked = run.groups.pick(run.now, NAME, &[], call, false, &mut run.rng).unwrap();
        run.groups.release(picked.element);
        run.ids.iter().position(|id| *id == picked.element).unwrap()
    };
    let before: Vec<usize> = (0..3_000).map(|call| pick(&mut run, call * 0x9e37_79b9)).collect();
    run.set(1, false);
    for (call, had) in before.iter().enumerate() {
        let now = pick(&mut run, call as u64 * 0x9e37_79b9);
        assert!(now == *had || *had == 1, "only the dead one's calls move");
    }
    run.set(1, true);
    assert_eq!(before, (0..3_000).map(|call| pick(&mut run, call * 0x9e37_79b9)).collect::<Vec<_>>());
}
