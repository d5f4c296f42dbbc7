//! What is known of makers' equipment: a small file each, and this table.
//!
//! A maker's file says how its messages are recognised, in which header fields
//! and metadata elements it names the call, and what it hides in places where
//! nobody else looks ([`Maker::read`]). Every file's reader looks at every call:
//! a field that one maker invented travels through the equipment of others.
//! Recognition only gives a name, for people.
//!
//! Nothing here decides whether a call is recorded. What is found makes parties,
//! ids, and pairs of dialogs that are one call; what is not found costs nothing.

mod audiocodes;
mod avaya;
mod broadworks;
mod cisco_cube;
mod cisco_cucm;
mod genesys;
mod metaswitch;
mod netsapiens;
mod opensource;
mod oracle;
mod ribbon;
mod standard;
mod webex;

use ferric_sip::message::Message;
use ferric_sip::uri::Uri;

/// Every maker, the more particular first.
const MAKERS: [&Maker; 13] = [
    &cisco_cucm::MAKER,
    &cisco_cube::MAKER,
    &webex::MAKER,
    &broadworks::MAKER,
    &genesys::MAKER,
    &oracle::MAKER,
    &audiocodes::MAKER,
    &ribbon::MAKER,
    &avaya::MAKER,
    &metaswitch::MAKER,
    &netsapiens::MAKER,
    &opensource::MAKER,
    &standard::MAKER,
];

/// What one maker's equipment does differently.
pub(crate) struct Maker {
    /// How the message is told from others'; a name for people.
    pub(crate) recognise: fn(&Clues<'_>) -> Option<&'static str>,
    /// Header fields that tie the call to other systems, besides every `X-` field.
    pub(crate) correlators: &'static [&'static str],
    /// Local names, in lower case, of metadata elements that do the same.
    pub(crate) metadata_ids: &'static [&'static str],
    /// Finds what else an INVITE tells.
    pub(crate) read: fn(&Clues<'_>, &mut Findings),
}

/// What makers' files look at.
pub(crate) struct Clues<'a> {
    /// The INVITE.
    pub(crate) request: &'a Message,
    /// User-Agent, or Server, in lower case.
    pub(crate) product: String,
    /// The beginning of its metadata, in lower case.
    pub(crate) metadata: String,
    /// From's URI.
    pub(crate) from: Option<Uri>,
}

/// Bytes of metadata that are looked at for a maker's name.
const METADATA_HEAD: usize = 16_384;

impl<'a> Clues<'a> {
    /// From an INVITE and its first metadata document.
    pub(crate) fn new(request: &'a Message, metadata: Option<&[u8]>) -> Clues<'a> {
        let product = request.header("User-Agent").or_else(|| request.header("Server")).unwrap_or_default();
        let metadata = metadata.unwrap_or_default();
        let head = metadata.get(..metadata.len().min(METADATA_HEAD)).unwrap_or(metadata);
        Clues {
            request,
            product: product.to_ascii_lowercase(),
            metadata: String::from_utf8_lossy(head).to_ascii_lowercase(),
            from: request.from().ok().and_then(|from| from.parsed_uri()),
        }
    }

    fn product_has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.product.contains(word))
    }

    fn metadata_has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.metadata.contains(word))
    }

    fn has_field(&self, prefix: &str) -> bool {
        let starts = |name: &str| name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
        self.request.header_names().any(|name| starts(&name))
    }
}

/// Which end of a call a dialog carries, where two dialogs with one stream each are one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The recorded device's own voice: left.
    Near,
    /// The other's voice: right.
    Far,
}

/// A dialog that is one half of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Half {
    /// The same in both halves, and nowhere else at the time.
    pub(crate) key: String,
    /// Which half.
    pub(crate) end: End,
}

/// A party that the header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedParty {
    /// Address as written.
    pub(crate) aor: String,
    /// Name for display.
    pub(crate) name: Option<String>,
    /// The m-line of its voice.
    pub(crate) line: Option<usize>,
}

/// What an INVITE tells beside session description and metadata.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// Whose dialect.
    pub(crate) maker: Option<&'static str>,
    /// How the call came, where it is not SIPREC.
    pub(crate) kind: Option<&'static str>,
    /// Parties.
    pub(crate) parties: Vec<NamedParty>,
    /// Ids, by the name under which people know them.
    pub(crate) ids: Vec<(String, String)>,
    /// One half of a call.
    pub(crate) half: Option<Half>,
}

/// Most parties and ids that a header may name.
const MAX_FOUND: usize = 64;

impl Findings {
    fn id(&mut self, name: &str, value: &str) {
        let value = value.trim();
        if !value.is_empty()
            && self.ids.len() < MAX_FOUND
            && !self.ids.iter().any(|(have, known)| have == name && known == value)
        {
            self.ids.push((name.to_owned(), value.to_owned()));
        }
    }

    fn party(&mut self, aor: &str, name: Option<&str>, line: Option<usize>) {
        let aor = aor.trim();
        if !aor.is_empty() && self.parties.len() < MAX_FOUND {
            let name = name.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
            self.parties.push(NamedParty { aor: aor.to_owned(), name, line });
        }
    }
}

/// Reads an INVITE with all files.
pub(crate) fn read(clues: &Clues<'_>) -> Findings {
    let mut found = Findings::default();
    for maker in MAKERS {
        (maker.read)(clues, &mut found);
        found.maker = found.maker.or_else(|| (maker.recognise)(clues));
    }
    found
}

/// True for a header field that ties a call to other systems.
pub(crate) fn is_correlator(field: &str) -> bool {
    let is_private = field.get(..2).is_some_and(|head| head.eq_ignore_ascii_case("x-"));
    is_private || MAKERS.iter().any(|maker| maker.correlators.iter().any(|known| known.eq_ignore_ascii_case(field)))
}

/// True for a metadata element (local name in lower case) that ties a call to other systems.
pub(crate) fn is_metadata_id(name: &str) -> bool {
    MAKERS.iter().any(|maker| maker.metadata_ids.contains(&name))
}

fn nothing(_: &Clues<'_>, _: &mut Findings) {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use bytes::Bytes;

    pub(super) fn invite(lines: &str) -> Message {
        let text = format!("INVITE sip:srs@192.0.2.10 SIP/2.0\r\n{lines}Content-Length: 0\r\n\r\n");
        Message::parse(Bytes::from(text)).unwrap()
    }

    pub(super) fn findings(lines: &str, metadata: &str) -> Findings {
        let request = invite(lines);
        read(&Clues::new(&request, Some(metadata.as_bytes())))
    }

    #[test]
    fn makers_are_told_by_what_they_alone_write() {
        let cases = [
            ("User-Agent: Cisco-SIPGateway/IOS-17.9\r\n", "", Some("cisco-cube")),
            (
                "From: <sip:2001@198.51.100.9;x-nearend;x-refci=7>;tag=1\r\nUser-Agent: Cisco-CUCM14.0\r\n",
                "",
                Some("cisco-cucm"),
            ),
            ("X-BroadWorks-Correlation-Info: 1-2\r\n", "", Some("broadworks")),
            ("X-Genesys-CallUUID: 77\r\n", "", Some("genesys")),
            ("", "<recording xmlns:apkt='http://acmepacket.com/siprec/extensiondata'/>", Some("oracle")),
            ("User-Agent: Mediant VE SBC/v.7.40\r\n", "", Some("audiocodes")),
            ("", "<tns:recording xmlns:ns1='http://sonusnet.com/siprec'/>", Some("ribbon")),
            ("User-Agent: Avaya SBC 10\r\n", "", Some("avaya-sbce")),
            ("Organization: Metaswitch Networks\r\n", "", Some("metaswitch")),
            ("User-Agent: OpenSIPS (3.4.2)\r\n", "", Some("opensips")),
            ("User-Agent: jambonz-siprec-client\r\n", "", Some("jambonz")),
            ("User-Agent: ACME 1\r\n", "<recording/>", None),
        ];
        for (lines, metadata, maker) in cases {
            assert_eq!(findings(lines, metadata).maker, maker, "{lines}{metadata}");
        }
    }

    #[test]
    fn fields_and_elements_of_all_makers_count_for_every_call() {
        for field in
            ["X-Anything", "x-genesys-calluuid", "Cisco-Guid", "session-id", "User-to-User", "Recording-Session"]
        {
            assert_eq!(is_correlator(field), field != "Recording-Session", "{field}");
        }
        assert!(is_metadata_id("avayaucid") && is_metadata_id("exttrackingid") && !is_metadata_id("label"));
    }

    #[test]
    fn what_a_header_names_is_bounded() {
        let lines = "X-Cisco-Recording-Participant: sip:1@example.com;media-index=\"0\"\r\n".repeat(200);
        assert_eq!(findings(&lines, "").parties.len(), MAX_FOUND);
    }
}
