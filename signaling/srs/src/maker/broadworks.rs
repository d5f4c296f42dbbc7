//! BroadWorks: root `recording_metadata`, ids as `urn:uuid`, an `aor` element, one mono m-line although labels 1 and 2
//! are listed, no Require; pause is a re-INVITE of SDP alone with address 0.0.0.0. `extTrackingID` and `callID` name the
//! call half; after a redirection `newExtTrackingID` names the next.

use super::{Maker, nothing};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        let is = clues.has_field("X-BroadWorks-") || clues.metadata_has(&["broadsoft", "broadworks", "exttrackingid"]);
        is.then_some("broadworks")
    },
    correlators: &[],
    metadata_ids: &["exttrackingid", "newexttrackingid", "callid"],
    read: nothing,
};
