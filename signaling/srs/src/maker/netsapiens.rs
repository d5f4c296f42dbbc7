//! NetSapiens: every change of parties is a BYE and a new INVITE whose metadata name the same group; no RTP
//! comes unless our answer repeats the labels.

use super::{Maker, nothing};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| (clues.product_has(&["netsapiens"]) || clues.has_field("X-NetSapiens-")).then_some("netsapiens"),
    correlators: &[],
    metadata_ids: &["orig_callid", "term_callid", "cdr_id"],
    read: nothing,
};
