//! Clients of open projects. OpenSIPS ends the call unless labels come back; jambonz and SEMS cannot read a multipart
//! answer; SEMS sends its last metadata in the BYE.

use super::{Clues, Maker, nothing};

pub(super) const MAKER: Maker = Maker { recognise, correlators: &[], metadata_ids: &[], read: nothing };

fn recognise(clues: &Clues<'_>) -> Option<&'static str> {
    let known = [
        ("opensips", "opensips"),
        ("jambonz", "jambonz"),
        ("drachtio", "drachtio"),
        ("sems", "sems"),
        ("frafos", "frafos"),
        ("abc sbc", "frafos"),
        ("freeswitch", "freeswitch"),
        ("asterisk", "asterisk"),
        ("kamailio", "kamailio"),
        ("rtpengine", "rtpengine"),
    ];
    known.iter().find(|(word, _)| clues.product.contains(word)).map(|(_, name)| *name)
}
