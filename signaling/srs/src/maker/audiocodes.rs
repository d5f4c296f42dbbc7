//! AudioCodes Mediant: a participant's id is its phone number; the first participant may send the second
//! label; `AvayaUCID` and `GenesysUUID` stand in the metadata when the SBC knows them.

use super::{Maker, nothing};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        (clues.product_has(&["mediant", "audiocodes"]) || clues.metadata_has(&["audiocodes"])).then_some("audiocodes")
    },
    correlators: &["AC-Session-ID"],
    metadata_ids: &["avayaucid", "genesysuuid", "ac-session-id"],
    read: nothing,
};
