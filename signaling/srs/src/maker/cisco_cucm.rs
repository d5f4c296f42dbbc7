//! Cisco Unified CM: the phone (built-in bridge) or a gateway forks the two
//! directions of a call into two calls of one stream each, both without an offer.
//! The From URI ties them together:
//!
//! ```text
//! <sip:2001@198.51.100.9;x-nearend;x-refci=24;x-nearendclusterid=c1;x-nearenddevice=SEP1;x-nearendaddr=2001
//!      ;x-farendrefci=23;x-farendclusterid=c1;x-farenddevice=SEP2;x-farendaddr=15550100>
//! ```
//!
//! `x-nearend` marks the voice of the recorded device, `x-farend` that of the other;
//! `x-refci` is the recorded end's leg of the call, the same in both. Media come from
//! the phone itself. Hold, transfer and conference end both calls and begin two new ones.

use ferric_sip::uri::Uri;

use super::{Clues, End, Findings, Half, Maker};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        let forked = clues.from.as_ref().is_some_and(|from| from.params.has("x-refci"));
        (forked || clues.product_has(&["cisco-cucm"])).then_some("cisco-cucm")
    },
    correlators: &[],
    metadata_ids: &["x-refci"],
    read,
};

/// Parameters of the From URI that other systems know the call by.
const IDS: [&str; 8] = [
    "x-refci",
    "x-nearendclusterid",
    "x-nearenddevice",
    "x-farendrefci",
    "x-farendclusterid",
    "x-farenddevice",
    "x-farendguid",
    "x-nearendguid",
];

fn read(clues: &Clues<'_>, found: &mut Findings) {
    let Some(from) = &clues.from else { return };
    let end = if from.params.has("x-nearend") {
        Some(End::Near)
    } else if from.params.has("x-farend") {
        Some(End::Far)
    } else {
        None
    };
    for name in IDS {
        if let Some(value) = from.params.get(name) {
            found.id(name, value);
        }
    }
    for (param, of) in [("x-nearendaddr", End::Near), ("x-farendaddr", End::Far)] {
        if let Some(address) = from.params.get(param) {
            found.party(address, None, (end == Some(of)).then_some(0));
        }
    }
    if let Some(end) = end {
        found.kind = Some(if end == End::Near { "cucm-near-end" } else { "cucm-far-end" });
        found.half = key(from).map(|key| Half { key, end });
    }
}

/// The recorded end's leg and the cluster that counts it; the other end's leg tells conferences apart.
fn key(from: &Uri) -> Option<String> {
    let param = |name: &str| from.params.get(name).unwrap_or_default().to_ascii_lowercase();
    let leg = param("x-refci");
    let other = param("x-farendrefci");
    (!leg.is_empty()).then(|| format!("cucm/{}/{leg}/{other}", param("x-nearendclusterid")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::findings;
    use super::*;

    fn from(marker: &str) -> Findings {
        let from = format!(
            "From: \"Ann\" <sip:2001@198.51.100.9;{marker};x-refci=24;x-nearendclusterid=C1;x-nearenddevice=SEP1;x-nearendaddr=2001\
             ;x-farendrefci=23;x-farendclusterid=C1;x-farendaddr=15550100>;tag=1\r\n"
        );
        findings(&from, "")
    }

    #[test]
    fn both_halves_have_one_key_and_each_its_end() {
        let (near, far) = (from("x-nearend"), from("x-farend"));
        let (a, b) = (near.half.clone().unwrap(), far.half.clone().unwrap());
        assert_eq!((&a.key, a.end, b.end), (&b.key, End::Near, End::Far));
        assert_eq!((near.kind, far.kind), (Some("cucm-near-end"), Some("cucm-far-end")));
        let lines = |found: &Findings| found.parties.iter().map(|party| party.line).collect::<Vec<_>>();
        assert_eq!((lines(&near), lines(&far)), (vec![Some(0), None], vec![None, Some(0)]));
        assert!(near.ids.contains(&("x-refci".to_owned(), "24".to_owned())));
    }

    #[test]
    fn an_ordinary_from_says_nothing() {
        let found = findings("From: <sip:2001@198.51.100.9>;tag=1\r\n", "");
        assert!(found.half.is_none() && found.parties.is_empty() && found.ids.is_empty());
        assert!(
            findings("From: <sip:2001@198.51.100.9;x-nearend>;tag=1\r\n", "").half.is_none(),
            "nothing to tie it by"
        );
    }
}
