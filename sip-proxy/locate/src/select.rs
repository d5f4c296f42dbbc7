//! The order in which the records of one answer are tried.
//!
//! SRV (RFC 2782 "Usage rules"): lowest priority first; within a priority each next one is drawn with a chance
//! proportional to its weight among those left. Records of weight 0 stand first in the running sum, so that they have
//! the small chance the RFC wants for them. Where a priority has none of weight 0 the draw begins at 1 instead of 0:
//! read literally the RFC gives the extra slot at 0 to whichever record happens to stand first, which turns two
//! records of weight 1 into shares of two thirds and one third.
//!
//! NAPTR (RFC 3403 4.1, RFC 3263 4.1): rules of services and flags we do not use are dropped before order counts;
//! then orders ascend, preferences ascend within an order.

use std::sync::Arc;

use ferric_sip::Transport;
use rand::{Rng, RngExt};

use crate::record::{RecordData, Srv, normalise};

/// Puts SRV records into the order in which they are tried once. `items` carry anything beside their record.
pub fn rfc2782_order<T>(mut items: Vec<T>, srv: impl Fn(&T) -> &Srv, rng: &mut impl Rng) -> Vec<T> {
    // Records of weight 0 are alike among each other, so a draw at 0 must not always find the same one.
    shuffle(&mut items, rng);
    items.sort_by_key(|item| (srv(item).priority, srv(item).weight != 0));
    let mut ordered = Vec::with_capacity(items.len());
    let mut rest = items.into_iter().peekable();
    while let Some(first) = rest.next() {
        let priority = srv(&first).priority;
        let mut group = vec![first];
        while let Some(item) = rest.next_if(|item| srv(item).priority == priority) {
            group.push(item);
        }
        while group.len() > 1 {
            let at = draw(group.iter().map(|item| srv(item).weight), rng);
            ordered.push(group.remove(at));
        }
        ordered.append(&mut group);
    }
    ordered
}

/// The place of the one drawn among weights whose zeros stand first.
fn draw(weights: impl Iterator<Item = u16> + Clone, rng: &mut impl Rng) -> usize {
    let sum: u64 = weights.clone().map(u64::from).sum();
    if sum == 0 {
        return 0;
    }
    let lowest = u64::from(weights.clone().next() != Some(0));
    let drawn = rng.random_range(lowest..=sum);
    let mut running = 0;
    for (at, weight) in weights.enumerate() {
        running += u64::from(weight);
        if running >= drawn {
            return at;
        }
    }
    0
}

/// Fisher and Yates: every order as likely.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.random_range(0..=last));
    }
}

/// The SRV names that NAPTR rules lead to, in groups of the same order, best first (RFC 3263 4.1).
///
/// Dropped: services of transports that we have not, anything but SIPS+D2T for a `sips` URI, flags other than `s`,
/// rules with a regular expression or without a replacement.
pub(crate) fn naptr_groups(
    records: &[RecordData],
    secure: bool,
    available: &[Transport],
) -> Vec<Vec<(Transport, Arc<str>)>> {
    let mut usable = Vec::new();
    for record in records {
        let RecordData::Naptr(naptr) = record else { continue };
        let service = naptr.service.to_ascii_uppercase();
        let transport = match service.as_str() {
            "SIP+D2U" if !secure => Transport::Udp,
            "SIP+D2T" if !secure => Transport::Tcp,
            "SIPS+D2T" => Transport::Tls,
            _ => continue,
        };
        if !available.contains(&transport) || !naptr.flags.eq_ignore_ascii_case("s") || !naptr.regexp.is_empty() {
            continue;
        }
        if let Some(name) = normalise(&naptr.replacement) {
            usable.push((naptr.order, naptr.preference, transport, name));
        }
    }
    usable.sort();
    usable
        .chunk_by(|a, b| a.0 == b.0)
        .map(|group| group.iter().map(|(_, _, transport, name)| (*transport, name.clone())).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::record::Naptr;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const ORDERS: u32 = 100_000;

    fn srv(priority: u16, weight: u16, port: u16) -> Srv {
        Srv { priority, weight, port, target: "h".into() }
    }

    /// How often each record stands first in its priority, by its port.
    fn firsts(records: &[Srv], seed: u64) -> Vec<f64> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut count = vec![0_u32; records.len()];
        for _ in 0..ORDERS {
            let order = rfc2782_order(records.iter().collect(), |srv| srv, &mut rng);
            assert!(order.is_sorted_by_key(|srv| srv.priority));
            assert_eq!(order.len(), records.len());
            for group in order.chunk_by(|a, b| a.priority == b.priority) {
                count[usize::from(group[0].port)] += 1;
            }
        }
        count.iter().map(|count| f64::from(*count) / f64::from(ORDERS)).collect()
    }

    /// The chance of each record to stand first in its priority.
    fn chances(records: &[Srv]) -> Vec<f64> {
        let chance = |record: &Srv| {
            let group = records.iter().filter(|other| other.priority == record.priority);
            let zeros = group.clone().filter(|other| other.weight == 0).count() as f64;
            let slots = group.map(|other| f64::from(other.weight)).sum::<f64>() + zeros.min(1.0);
            if record.weight == 0 { 1.0 / zeros / slots } else { f64::from(record.weight) / slots }
        };
        records.iter().map(chance).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn shares_follow_the_weights_within_two_percent(
            raw in prop::collection::vec((0_u16..3, prop_oneof![1 => Just(0_u16), 4 => 1_u16..200, 1 => any::<u16>()]), 1..8),
            seed: u64,
        ) {
            let records: Vec<Srv> =
                raw.iter().zip(0..).map(|((priority, weight), port)| srv(*priority, *weight, port)).collect();
            for (share, chance) in firsts(&records, seed).iter().zip(chances(&records)) {
                prop_assert!((share - chance).abs() < 0.02, "{share} is not {chance} of {records:?}");
            }
        }
    }

    #[test]
    fn the_second_is_drawn_by_the_weights_that_are_left() {
        let records = [srv(1, 60, 0), srv(1, 30, 1), srv(1, 10, 2)];
        let mut rng = SmallRng::seed_from_u64(7);
        let (mut after_first, mut second) = (0, 0);
        for _ in 0..ORDERS {
            let order = rfc2782_order(records.iter().collect(), |srv| srv, &mut rng);
            if order[0].port == 0 {
                after_first += 1;
                second += u32::from(order[1].port == 1);
            }
        }
        assert!((f64::from(second) / f64::from(after_first) - 0.75).abs() < 0.02);
    }

    #[test]
    fn two_of_equal_weight_share_evenly() {
        for share in firsts(&[srv(0, 1, 0), srv(0, 1, 1)], 3) {
            assert!((share - 0.5).abs() < 0.01, "{share}");
        }
    }

    #[test]
    fn weight_zero_has_a_small_chance() {
        let shares = firsts(&[srv(0, 0, 0), srv(0, 99, 1)], 4);
        assert!(shares[0] > 0.007 && shares[0] < 0.013, "{shares:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let records: Vec<Srv> = (0..20).map(|port| srv(port % 3, port * 5, port)).collect();
        let order = |seed| rfc2782_order(records.clone(), |srv| srv, &mut SmallRng::seed_from_u64(seed));
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn naptr_rules_we_cannot_use_are_dropped_before_the_order_counts() {
        let rule = |order, preference, flags: &str, service: &str, replacement: &str| {
            RecordData::Naptr(Naptr {
                order,
                preference,
                flags: flags.into(),
                service: service.into(),
                regexp: String::new(),
                replacement: replacement.into(),
            })
        };
        let mut records = vec![
            rule(90, 2, "S", "sip+d2u", "_sip._udp.example.com."),
            rule(90, 1, "s", "SIP+D2T", "_sip._tcp.other.example"),
            rule(50, 1, "s", "SIPS+D2T", "_sips._tcp.example.com"),
            rule(10, 1, "s", "SIP+D2S", "_sip._sctp.example.com"),
            rule(10, 1, "u", "SIP+D2U", "a.example.com"),
            rule(10, 1, "s", "SIP+D2U", "."),
        ];
        if let RecordData::Naptr(naptr) = &mut records[5] {
            naptr.regexp = "!^.*$!sip:x@y!".into();
        }
        let names = |secure, available: &[Transport]| {
            let groups = naptr_groups(&records, secure, available);
            groups
                .iter()
                .map(|group| group.iter().map(|(t, name)| format!("{t} {name}")).collect())
                .collect::<Vec<Vec<_>>>()
        };
        use Transport::{Tcp, Tls, Udp};
        assert_eq!(
            names(false, &[Udp, Tcp, Tls]),
            [vec!["TLS _sips._tcp.example.com"], vec!["TCP _sip._tcp.other.example", "UDP _sip._udp.example.com"]]
        );
        assert_eq!(names(false, &[Udp]), [vec!["UDP _sip._udp.example.com"]]);
        assert_eq!(names(true, &[Udp, Tcp, Tls]), [vec!["TLS _sips._tcp.example.com"]]);
        assert!(names(true, &[Udp]).is_empty());
    }
}
