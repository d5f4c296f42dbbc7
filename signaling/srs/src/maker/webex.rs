//! Webex Calling: BroadWorks' metadata with Opus at 48 kHz and rtcp-mux, always over TLS.

use super::{Maker, nothing};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| (clues.product_has(&["webex"]) || clues.metadata_has(&["webex"])).then_some("webex-calling"),
    correlators: &["Webex-Correlation-ID", "TrackingID"],
    metadata_ids: &["webexcallid", "remotecallid"],
    read: nothing,
};
