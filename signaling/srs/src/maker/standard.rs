//! What no maker invented: the end-to-end session id (RFC 7989), and the identities that
//! a plain INVITE carries where nothing better names the parties.

use super::{Clues, Findings, Maker};

pub(super) const MAKER: Maker = Maker {
    recognise: |_| None,
    correlators: &[
        "Session-ID",
        "User-to-User",
        "P-Asserted-Identity",
        "Remote-Party-ID",
        "P-Called-Party-ID",
        "Diversion",
        "Call-Info",
    ],
    metadata_ids: &["callid", "call-id", "uniqueid", "correlationid"],
    read,
};

fn read(clues: &Clues<'_>, found: &mut Findings) {
    if let Some(value) = clues.request.header("Session-ID") {
        let mut parts = value.split(';');
        let local = parts.next().unwrap_or_default();
        let remote = parts.find_map(|part| part.trim().strip_prefix("remote="));
        for uuid in std::iter::once(local).chain(remote) {
            // The nil id says only that the other is not known yet (RFC 7989 5).
            if uuid.chars().any(|c| c != '0' && c != '-') {
                found.id("Session-ID", uuid);
            }
        }
    }
    if found.parties.is_empty() && is_plain(clues) {
        identities(clues, found);
    }
}

/// No metadata and no half of a pair: the header is all there is.
fn is_plain(clues: &Clues<'_>) -> bool {
    clues.metadata.is_empty()
}

fn identities(clues: &Clues<'_>, found: &mut Findings) {
    let asserted = clues.request.values("P-Asserted-Identity");
    let remote = clues.request.values("Remote-Party-ID");
    for value in asserted.iter().chain(&remote).take(4) {
        let (name, uri) = match value.split_once('<') {
            Some((name, rest)) => (name.trim().trim_matches('"'), rest.split('>').next().unwrap_or_default()),
            None => ("", value.split(';').next().unwrap_or_default()),
        };
        // An identity without a user is that of a machine.
        let has_user = uri.contains('@') || uri.to_ascii_lowercase().starts_with("tel:");
        if has_user && !found.parties.iter().any(|party| party.aor == uri) {
            found.party(uri, Some(name), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::findings;

    #[test]
    fn both_session_ids_count_and_the_nil_one_does_not() {
        let ids = |value: &str| {
            let found = findings(&format!("Session-ID: {value}\r\n"), "");
            found.ids.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(
            ids("ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000"),
            ["ab30317f1a784dc48ff824d0d3715d86"]
        );
        assert_eq!(ids("ab30;remote=cd40"), ["ab30", "cd40"]);
    }

    #[test]
    fn identities_name_parties_only_where_nothing_else_does() {
        let lines = "P-Asserted-Identity: \"Ann\" <sip:2001@example.com>, <sip:198.51.100.9>\r\nRemote-Party-ID: <sip:2001@example.com>;party=calling\r\n";
        let found = findings(lines, "");
        let parties: Vec<(&str, Option<&str>)> =
            found.parties.iter().map(|party| (party.aor.as_str(), party.name.as_deref())).collect();
        assert_eq!(parties, [("sip:2001@example.com", Some("Ann"))]);
        assert!(findings(lines, "<recording/>").parties.is_empty());
    }
}
