//! Avaya SBCE and the systems behind it: the UCID, twenty decimal digits, travels in
//! User-to-User as the hexadecimal `FA 08` element of Avaya's shared UUI, or in
//! `P-Charging-Vector`, or in the metadata. The first INVITE may name a dummy participant (`ASBCE@...`);
//! the real one comes in an UPDATE of metadata alone.

use super::{Clues, Findings, Maker};

pub(super) const MAKER: Maker = Maker {
    recognise: |clues| {
        let is = clues.product_has(&["avaya"]) || clues.metadata_has(&["asbce@", "avaya.com"]);
        is.then_some("avaya-sbce")
    },
    correlators: &["P-Charging-Vector", "AV-Global-Session-ID", "Av-Secure-Indication", "Global-Session-ID"],
    metadata_ids: &["avayaucid", "ucid", "avaya-ucid"],
    read,
};

fn read(clues: &Clues<'_>, found: &mut Findings) {
    for value in clues.request.headers("User-to-User").take(8) {
        let data = value.split(';').next().unwrap_or_default().trim().trim_matches('"');
        if let Some(ucid) = ucid(data) {
            found.id("UCID", &ucid);
        }
    }
}

/// The UCID of hexadecimal UUI: protocol discriminator, then elements of type, length, value; `FA` holds two
/// bytes of node, two of sequence, four of time.
fn ucid(hex: &str) -> Option<String> {
    let hex: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if hex.len() > 512 || hex.len() % 2 == 1 {
        return None;
    }
    let text = std::str::from_utf8(&hex).ok()?;
    let bytes: Option<Vec<u8>> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect();
    let bytes = bytes?;
    let mut rest = bytes.get(1..)?;
    while let [kind, length, tail @ ..] = rest {
        let (value, next) = tail.split_at_checked(usize::from(*length))?;
        if let (0xfa, [a, b, c, d, e, f, g, h]) = (*kind, value) {
            let node = u16::from_be_bytes([*a, *b]);
            let sequence = u16::from_be_bytes([*c, *d]);
            let time = u32::from_be_bytes([*e, *f, *g, *h]);
            return Some(format!("{node:05}{sequence:05}{time:010}"));
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::findings;
    use super::*;

    #[test]
    fn the_ucid_is_read_out_of_shared_uui() {
        assert_eq!(ucid("04FA080001000A6745230F").as_deref(), Some("00001000101732584207"));
        assert_eq!(ucid("04C80412345678FA080001000A6745230F").as_deref(), Some("00001000101732584207"));
        let found = findings("User-to-User: 04FA080001000A6745230F;encoding=hex\r\n", "");
        assert_eq!(found.ids, [("UCID".to_owned(), "00001000101732584207".to_owned())]);
    }

    #[test]
    fn other_uui_is_left_alone() {
        for text in ["", "04", "zz", "04FA08", "04FA0800", "plain text", "04C8021234", "é"] {
            assert_eq!(ucid(text), None, "{text}");
        }
    }
}
