//! Ribbon (Sonus) SBCs: every element with the prefix `tns:`, `callData` in a namespace of its own with GCID and
//! both numbers, a clock that may stand at 1970, labels that cross, no closing boundary.

use super::{Maker, nothing};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        (clues.product_has(&["sonus", "ribbon"]) || clues.metadata_has(&["sonusnet", "ribboncommunications"]))
            .then_some("ribbon")
    },
    correlators: &[],
    metadata_ids: &["gcid", "globalcallid"],
    read: nothing,
};
