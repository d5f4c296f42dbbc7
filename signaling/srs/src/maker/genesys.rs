//! Genesys media servers: no mark of SIPREC at all. The call's UUID stands in the
//! Request-URI (`call_uuid=`, or the user part `record=...`) and in `X-Genesys-` fields; the
//! streams carry `a=record:on`.

use super::{Clues, Findings, Maker};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| clues.has_field("X-Genesys-").then_some("genesys"),
    correlators: &[],
    metadata_ids: &["genesysuuid", "calluuid"],
    read,
};

fn read(clues: &Clues<'_>, found: &mut Findings) {
    if !clues.has_field("X-Genesys-") {
        return;
    }
    if let Some(uuid) = clues.request.header("X-Genesys-CallUUID") {
        found.id("Genesys-CallUUID", &uuid);
        found.kind = Some("genesys");
    }
    let uri = clues.request.request_uri().unwrap_or_default();
    for param in uri.split(';').skip(1) {
        if let Some((name, value)) = param.split_once('=')
            && name.to_ascii_lowercase().replace(['_', '-'], "").ends_with("uuid")
        {
            found.id("Genesys-CallUUID", value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::findings;

    #[test]
    fn the_uuid_is_found_once() {
        let found = findings("X-Genesys-CallUUID: 0A1B\r\n", "");
        assert_eq!(found.ids, [("Genesys-CallUUID".to_owned(), "0A1B".to_owned())]);
        assert!(findings("", "").ids.is_empty());
    }
}
