//! Cisco CUBE (IOS gateways): SIPREC with boundary `uniqueBoundary` and a third part of
//! `application/gtd`; and network-based recording, a plain INVITE with
//!
//! ```text
//! X-Cisco-Recording-Participant: sip:2001@198.51.100.9;media-index="0 2"
//! ```
//!
//! once a party: who speaks on which m-lines. A transfer is a re-INVITE with other parties.
//! `Cisco-Guid` is the call's id in all Cisco systems, four decimal words.

use super::{Clues, Findings, Maker};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        let is =
            clues.product_has(&["cisco-sipgateway", "cube-ua"]) || clues.has_field("X-Cisco-Recording-Participant");
        is.then_some("cisco-cube")
    },
    correlators: &["Cisco-Guid", "Cisco-Gucid", "Cisco-Gcid"],
    metadata_ids: &["guid", "gucid", "gcid"],
    read,
};

fn read(clues: &Clues<'_>, found: &mut Findings) {
    for value in clues.request.headers("X-Cisco-Recording-Participant").take(super::MAX_FOUND) {
        let (address, params) = value.split_once(";media-index=").unwrap_or((&value, ""));
        let line = params.trim_matches('"').split_ascii_whitespace().next().and_then(|index| index.parse().ok());
        found.party(address.trim().trim_start_matches('<').trim_end_matches('>'), None, line);
        found.kind = Some("cube-network-based");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::findings;

    #[test]
    fn parties_name_their_lines() {
        let found = findings(
            "X-Cisco-Recording-Participant: sip:2001@198.51.100.9;media-index=\"0 2\"\r\n\
             X-Cisco-Recording-Participant: <sip:+15550100@example.com>;media-index=\"1\"\r\n\
             X-Cisco-Recording-Participant: sip:3@example.com\r\n",
            "",
        );
        let parties: Vec<(&str, Option<usize>)> =
            found.parties.iter().map(|party| (party.aor.as_str(), party.line)).collect();
        let expected =
            [("sip:2001@198.51.100.9", Some(0)), ("sip:+15550100@example.com", Some(1)), ("sip:3@example.com", None)];
        assert_eq!(parties, expected);
        assert_eq!(found.kind, Some("cube-network-based"));
    }
}
