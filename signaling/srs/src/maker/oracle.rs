//! Oracle (Acme Packet) SBCs: `id` and `session` attributes, labels of eight digits, `send` inside of the
//! participant, `apkt:` extensions under two spellings of their namespace (with the UCID among them), and
//! unescaped `<sip:...>` inside the XML. The first INVITE may have one m-line; RTP ports must be even.

use super::{Maker, nothing};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        let is = clues.metadata_has(&["acmepacket", "apkt"])
            || clues.product_has(&["oracle", "acme packet"])
            || clues.has_field("X-Acme-");
        is.then_some("oracle")
    },
    correlators: &["P-Acme-VSA", "P-OCSBC-Call-ID"],
    metadata_ids: &["ucid", "acmecallid", "extensionheaders"],
    read: nothing,
};
