//! Who would get the next call, and how the calls would be shared out: the pick, tried on a copy. Nothing is counted.

use std::sync::Arc;
use std::time::Instant;

use rand::Rng;
use smallvec::SmallVec;

use super::element::Element;
use super::{ElementView, GroupConfig, Groups, MOST_FALLBACKS, Policy, pick, view};

/// An element with its part of the new calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The element.
    pub element: ElementView,
    /// Of the calls that begin now, in thousandths.
    pub permille: u32,
}

/// How one group would share new calls out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupShares {
    /// The group.
    pub group: Arc<GroupConfig>,
    /// Its elements.
    pub shares: Vec<Share>,
    /// The element that would be asked first; none when no element takes calls, and the fallback is asked.
    pub picked: Option<String>,
}

impl Groups {
    /// The shares of a group, and of its fallbacks as far as they would be needed. `call` is the hash of the Call-ID.
    pub fn preview<R: Rng + ?Sized>(&self, now: Instant, name: &str, call: u64, rng: &mut R) -> Vec<GroupShares> {
        let mut found: Vec<GroupShares> = Vec::new();
        let mut wanted = Some(name.to_owned());
        while let Some(name) = wanted.take().filter(|_| found.len() < MOST_FALLBACKS) {
            let group = self.groups.iter().find(|group| group.config.name.eq_ignore_ascii_case(&name));
            let Some(group) = group else { break };
            let mut copy = group.elements.clone();
            let picked = pick::pick(now, &group.config, &mut copy, &[], call, self.sees_ends, rng);
            if picked.is_none() {
                wanted = group.config.fallback.clone();
            }
            found.push(GroupShares {
                group: Arc::clone(&group.config),
                shares: shares(now, &group.config, &group.elements),
                picked: picked.and_then(|place| Some(group.elements.get(place)?.config.address.clone())),
            });
        }
        found
    }
}

fn shares(now: Instant, config: &GroupConfig, elements: &[Element]) -> Vec<Share> {
    let usable = |element: &&Element| element.is_usable(now, config);
    let lowest = elements.iter().filter(usable).map(Element::rank).min();
    let takes = |element: &Element| Some(element.rank()) == lowest && usable(&element);
    let places: SmallVec<[usize; 8]> =
        elements.iter().enumerate().filter(|(_, element)| takes(element)).map(|(place, _)| place).collect();
    let mut weights = pick::weights(now, config, elements, &places);
    let hashed = matches!(config.policy, Policy::CallIdHash | Policy::LeastLoaded);
    if hashed || weights.iter().all(|weight| *weight == 0) {
        weights.iter_mut().for_each(|weight| *weight = (*weight).max(1));
    }
    let sum: u64 = weights.iter().sum();
    let permille = |place: usize| {
        let weight = places.iter().position(|have| *have == place).and_then(|at| weights.get(at)).copied().unwrap_or(0);
        u32::try_from((weight * 1_000 + sum / 2) / sum.max(1)).unwrap_or(0)
    };
    let seen = view::of(now, config, elements).elements.into_iter().enumerate();
    seen.map(|(place, element)| Share { element, permille: permille(place) }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::group::ElementConfig;

    fn element(host: &str, priority: u16, weight: u16) -> ElementConfig {
        ElementConfig { priority, weight, ..ElementConfig::parse(&format!("{host}:5060")).unwrap() }
    }

    #[test]
    fn shares_follow_priority_weight_and_drain_and_nothing_is_counted() {
        let now = Instant::now();
        let mut groups = Groups::new(Duration::from_secs(60));
        let elements = vec![element("10.0.0.1", 1, 30), element("10.0.0.2", 1, 10), element("10.0.0.3", 2, 50)];
        let main = GroupConfig { elements, fallback: Some("last".into()), ..GroupConfig::named("main") };
        let last = GroupConfig { elements: vec![element("10.0.0.9", 1, 0)], ..GroupConfig::named("last") };
        groups.apply(now, vec![main, last], false);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut look = |groups: &Groups| groups.preview(now, "main", 7, &mut rng);
        let permille = |found: &GroupShares| found.shares.iter().map(|share| share.permille).collect::<Vec<_>>();
        let found = look(&groups);
        assert_eq!((found.len(), permille(&found[0])), (1, vec![750, 250, 0]));
        assert!(["10.0.0.1:5060", "10.0.0.2:5060"].contains(&found[0].picked.as_deref().unwrap()));
        assert!(groups.view(now)[0].elements.iter().all(|element| element.open == 0 && element.counters.requests == 0));
        groups.set_drained("main", "10.0.0.1:5060", true);
        groups.set_drained("main", "10.0.0.2:5060", true);
        let found = look(&groups);
        assert_eq!((permille(&found[0]), found[0].picked.as_deref()), (vec![0, 0, 1_000], Some("10.0.0.3:5060")));
        groups.set_drained("main", "10.0.0.3:5060", true);
        let found = look(&groups);
        assert_eq!(
            (found.len(), found[0].picked.as_deref(), found[1].picked.as_deref()),
            (2, None, Some("10.0.0.9:5060"))
        );
        assert_eq!(permille(&found[1]), [1_000], "weight 0 alone takes all");
        assert!(look(&groups).len() == 2 && groups.preview(now, "none", 7, &mut SmallRng::seed_from_u64(1)).is_empty());
    }
}
