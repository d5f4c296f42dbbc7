//! How a party is found again: normalised tokens, in clear or as keyed hashes.
//!
//! A number reaches us as `sip:+1-555-0100@sbc;user=phone`, `tel:00 1 555 0100`
//! or `15550100`; all of them give the token `15550100`. Rules, in order:
//! scheme, display brackets, URI parameters and headers go; `%`-escapes in the
//! user part are read; if what is left of the user part, apart from `+ - . ( )`
//! and blanks, is digits only (or `*` and `#`), the token is the digits without
//! a leading `00`. Anything else gives two tokens, `user` and `user@host`, in
//! lower case. A name gives its lower-case text.
//!
//! Under [`PartyPolicy::Hashed`] a token is stored as HMAC-SHA-256 (RFC 2104)
//! under the catalogue's key, in hexadecimal, and neither addresses nor
//! names are stored: equal numbers can be found, prefixes cannot. Numbers have
//! little entropy; the hash protects them only as long as the key is kept apart
//! from the catalogue.

use sha2::{Digest as _, Sha256};

/// Characters of a token in clear: an index takes no row of any length, and nobody's number is longer.
const LONGEST_TOKEN: usize = 256;

/// `catalog.parties`.
#[derive(Clone)]
pub enum PartyPolicy {
    /// Numbers, addresses and names as they are; prefix search.
    Clear,
    /// Keyed hashes; exact search only.
    Hashed(HashKey),
}

impl std::fmt::Debug for PartyPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PartyPolicy::Clear => "Clear",
            PartyPolicy::Hashed(_) => "Hashed",
        })
    }
}

/// The catalogue's hash key, 32 random bytes kept in a file of mode 0600.
#[derive(Clone)]
pub struct HashKey(pub [u8; 32]);

impl PartyPolicy {
    /// Turns a token into what is stored, and into what is looked for.
    pub(crate) fn stored(&self, token: &str) -> String {
        match self {
            PartyPolicy::Clear => token.chars().take(LONGEST_TOKEN).collect(),
            PartyPolicy::Hashed(key) => {
                hmac_sha256(&key.0, token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
            }
        }
    }

    /// By which nodes that share a catalogue see whether they write alike; it tells nothing of the key.
    pub(crate) fn mark(&self) -> String {
        match self {
            PartyPolicy::Clear => "clear".to_owned(),
            PartyPolicy::Hashed(key) => {
                let mac = hmac_sha256(&key.0, b"ferric catalogue: mark of the key");
                let mark: String = mac.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                format!("hashed:{mark}")
            }
        }
    }

    /// Whether texts about people may be stored as they are.
    pub(crate) fn is_clear(&self) -> bool {
        matches!(self, PartyPolicy::Clear)
    }
}

/// HMAC-SHA-256 (RFC 2104).
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut padded = [0u8; BLOCK];
    if key.len() > BLOCK {
        padded.iter_mut().zip(Sha256::digest(key)).for_each(|(to, from)| *to = from);
    } else {
        padded.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    }
    let pad = |with: u8| padded.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// The token of an id by which another system knows a call: ids are compared without regard to case.
pub fn correlator_token(value: &str) -> String {
    value.trim().to_lowercase()
}

/// Tokens of an address of record or a number.
pub fn address_tokens(address: &str) -> Vec<String> {
    let mut rest = address.trim();
    if let Some((_, inner)) = rest.rsplit_once('<') {
        rest = inner.trim_end_matches('>').trim();
    }
    for scheme in ["sips:", "sip:", "tel:"] {
        if rest.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
            rest = rest.get(scheme.len()..).unwrap_or_default();
        }
    }
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (user, host.split([';', '?', '>']).next().unwrap_or_default()),
        None => (rest.split(['?', '>']).next().unwrap_or_default(), ""),
    };
    // Parameters of the user part too: `+1555;phone-context=x@host`, `tel:+1555;ext=1`.
    let user = unescape(user.split(';').next().unwrap_or_default()).trim().to_lowercase();
    if user.is_empty() {
        return Vec::new();
    }
    let separator = |c: char| matches!(c, '+' | '-' | '.' | '(' | ')') || c.is_whitespace();
    let digits: String = user.chars().filter(|c| !separator(*c)).collect();
    if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '*' | '#')) {
        let digits = digits.strip_prefix("00").filter(|rest| !rest.is_empty()).unwrap_or(&digits);
        return vec![digits.to_owned()];
    }
    let host = host.trim().to_lowercase();
    if host.is_empty() { vec![user] } else { vec![format!("{user}@{host}"), user] }
}

/// Token of a display name, if it has any text.
pub fn name_token(name: &str) -> Option<String> {
    let name = name.trim().trim_matches('"').trim().to_lowercase();
    (!name.is_empty()).then_some(name)
}

fn unescape(text: &str) -> String {
    let hex = |at: usize| text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut skip = 0;
    for (at, byte) in text.bytes().enumerate() {
        if skip > 0 {
            skip -= 1;
        } else if let Some(value) = hex(at).filter(|_| byte == b'%') {
            bytes.push(value);
            skip = 2;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        for text in [
            "15550100",
            "+15550100",
            "0015550100",
            "sip:+1-555-0100@sbc.example;user=phone",
            "tel:+1(555)0100;ext=7",
            "\"Ann\" <sip:+15550100@10.0.0.1:5060>",
            "sips:15550100;phone-context=x@h",
            "SIP:%2B15550100@h",
            " 1 555 0100 ",
        ] {
            assert_eq!(address_tokens(text), ["15550100"], "{text}");
        }
        assert_eq!(address_tokens("*21#"), ["*21#"]);
        assert_eq!(address_tokens("00"), ["00"]);
    }

    #[test]
    fn an_address_is_found_with_and_without_its_host() {
        assert_eq!(address_tokens("sip:Ann.Lee@Example.com;transport=tcp?x=1"), ["ann.lee@example.com", "ann.lee"]);
        assert_eq!(address_tokens("anonymous"), ["anonymous"]);
        for nothing in ["", "sip:@host", "<>", "tel:"] {
            assert!(address_tokens(nothing).is_empty(), "{nothing}");
        }
        assert_eq!(name_token(" \"Ann Lee\" ").as_deref(), Some("ann lee"));
        assert_eq!(name_token("\"\""), None);
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac_sha256(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn hashes_depend_on_the_key_and_hide_the_number() {
        let (a, b) = (PartyPolicy::Hashed(HashKey([1; 32])), PartyPolicy::Hashed(HashKey([2; 32])));
        assert_eq!(a.stored("15550100"), a.stored("15550100"));
        assert_ne!(a.stored("15550100"), b.stored("15550100"));
        assert!(!a.stored("15550100").contains("5550100"));
        assert_eq!(PartyPolicy::Clear.stored("15550100"), "15550100");
        let marks = [a.mark(), b.mark(), PartyPolicy::Clear.mark()];
        assert!(marks[0] != marks[1] && marks[1] != marks[2] && marks[0] == a.clone().mark(), "{marks:?}");
        assert_eq!(PartyPolicy::Clear.stored(&"é".repeat(9000)), "é".repeat(LONGEST_TOKEN));
    }
}
