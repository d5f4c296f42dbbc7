//! Metaswitch: bare numbers as AORs, both parties send and receive the same one stream; ports and lists of payload
//! types change at each re-INVITE; a Contact whose `<` is not closed.

use super::{Maker, nothing};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        let organization = clues.request.header("Organization").unwrap_or_default().to_ascii_lowercase();
        let is = clues.product_has(&["metaswitch", "perimeta"]) || organization.contains("metaswitch");
        is.then_some("metaswitch")
    },
    correlators: &[],
    metadata_ids: &[],
    read: nothing,
};
