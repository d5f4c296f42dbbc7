//! Which bytes of a message are secrets, and the message without them.
//!
//! | Where | What is hidden |
//! |---|---|
//! | `Authorization`, `Proxy-Authorization` | the whole value, folded lines included |
//! | `a=crypto` (RFC 4568) | each key; tag, suite, lifetime and MKI stay readable |
//! | `a=key-mgmt` (RFC 4567), `a=ice-pwd` (RFC 8839), `k=` (RFC 4566) | the whole value |
//! | `sip:user:password@host`, `https://user:password@host` | the password |
//!
//! Lines are looked at one by one wherever they stand, so that a part of a multipart body, a `message/sipfrag` and a
//! message without an end of its header are treated alike. In doubt a value is hidden. Bodies that are compressed or
//! in base64 are not opened.

use std::borrow::Cow;
use std::ops::Range;

const HIDDEN: &[u8] = b"***";
const HIDDEN_FIELDS: [&[u8]; 2] = [b"authorization", b"proxy-authorization"];
const HIDDEN_ATTRIBUTES: [&[u8]; 3] = [b"a=key-mgmt:", b"a=ice-pwd:", b"k="];
const CRYPTO: &[u8] = b"a=crypto";
/// Session parameters of `a=crypto` that are no keys (RFC 4568 6.3). `FEC_KEY` is one.
const OPEN_PARAMETERS: [&[u8]; 6] =
    [b"KDR=", b"WSH=", b"FEC_ORDER=", b"UNENCRYPTED_SRTP", b"UNENCRYPTED_SRTCP", b"UNAUTHENTICATED_SRTP"];

/// True if the value of this header field is never shown.
pub fn is_hidden_field(name: &str) -> bool {
    HIDDEN_FIELDS.iter().any(|hidden| hidden.eq_ignore_ascii_case(name.trim().as_bytes()))
}

/// The message as text, with `***` for each secret.
pub fn text(message: &[u8]) -> String {
    let mut out = Vec::with_capacity(message.len());
    let mut from = 0;
    for secret in secrets(message) {
        out.extend_from_slice(message.get(from..secret.start).unwrap_or(&[]));
        out.extend_from_slice(HIDDEN);
        from = secret.end;
    }
    out.extend_from_slice(message.get(from..).unwrap_or(&[]));
    String::from_utf8_lossy(&out).into_owned()
}

/// The message with asterisks over each secret: as long as before, so that Content-Length still holds.
pub fn masked(message: &[u8]) -> Cow<'_, [u8]> {
    let secrets = secrets(message);
    if secrets.is_empty() {
        return Cow::Borrowed(message);
    }
    let mut out = message.to_vec();
    for secret in secrets {
        for byte in out.get_mut(secret).unwrap_or(&mut []) {
            if !byte.is_ascii_whitespace() {
                *byte = b'*';
            }
        }
    }
    Cow::Owned(out)
}

/// Where the secrets are, in order and without overlap.
pub fn secrets(message: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut in_hidden_field = false;
    let mut at = 0;
    for line in message.split_inclusive(|&b| b == b'\n') {
        let content = line.trim_ascii_end();
        let folded = matches!(line.first(), Some(b' ' | b'\t'));
        if in_hidden_field && folded {
            if let Some(last) = found.last_mut() {
                last.end = last.end.max(at + content.len());
            }
        } else {
            in_hidden_field = in_line(content, at, &mut found);
        }
        at += line.len();
    }
    found.retain(|secret| !secret.is_empty());
    found
}

/// Looks at one line; true if it is a field that goes on in folded lines. A lone CR ends a line for some readers.
fn in_line(line: &[u8], offset: usize, found: &mut Vec<Range<usize>>) -> bool {
    let end = offset + line.len();
    let mut at = offset;
    for piece in line.split_inclusive(|&b| b == b'\r') {
        let indent = piece.len() - piece.trim_ascii_start().len();
        let text = piece.trim_ascii();
        let start = at + indent;
        at += piece.len();
        if let Some(colon) = text.iter().position(|&b| b == b':')
            && let Some(name) = text.get(..colon).map(<[u8]>::trim_ascii_end)
            && HIDDEN_FIELDS.iter().any(|hidden| hidden.eq_ignore_ascii_case(name))
        {
            let value = text.get(colon + 1..).unwrap_or(&[]);
            let blanks = value.len() - value.trim_ascii_start().len();
            found.push((start + colon + 1 + blanks).min(end)..end);
            return true;
        }
        if let Some(prefix) = HIDDEN_ATTRIBUTES.iter().find(|prefix| begins(text, prefix)) {
            found.push(start + prefix.len()..start + text.len());
        } else if begins(text, CRYPTO) {
            in_crypto(text, start, found);
        } else {
            in_uris(text, start, found);
        }
    }
    false
}

fn begins(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

/// `a=crypto:1 SUITE inline:KEY|2^31|1:4;inline:KEY WSH=64`. What is not known to be harmless is a key.
fn in_crypto(line: &[u8], offset: usize, found: &mut Vec<Range<usize>>) {
    let mut at = offset + CRYPTO.len();
    let words = line.get(CRYPTO.len()..).unwrap_or(&[]).split_inclusive(u8::is_ascii_whitespace);
    let mut number = 0;
    for padded in words {
        let word = padded.trim_ascii_end();
        let start = at;
        at += padded.len();
        if word.is_empty() {
            continue;
        }
        let harmless = match number {
            0 => word.iter().all(|b| b.is_ascii_digit() || *b == b':'),
            // Every registered suite has an underscore, which base64 has not.
            1 => word.contains(&b'_') && word.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')),
            _ => OPEN_PARAMETERS.iter().any(|open| begins(word, open)),
        };
        number += 1;
        if !harmless {
            in_keys(word, start, found);
        }
    }
}

/// The parts of `inline:KEY|2^31|1:4;inline:KEY`.
fn in_keys(word: &[u8], offset: usize, found: &mut Vec<Range<usize>>) {
    let mut at = offset;
    for padded in word.split_inclusive(|b| matches!(b, b'|' | b';')) {
        let part = padded.strip_suffix(b"|").or_else(|| padded.strip_suffix(b";")).unwrap_or(padded);
        let method =
            part.windows(7).position(|window| window.eq_ignore_ascii_case(b"inline:")).map_or(0, |found| found + 7);
        let lifetime = part.len() <= 16 && part.iter().all(|b| b.is_ascii_digit() || matches!(b, b'^' | b':'));
        if !lifetime {
            found.push(at + method..at + part.len());
        }
        at += padded.len();
    }
}

/// Passwords between a colon and the `@` of a URI (RFC 3261 19.1.1 advises against them; they occur).
fn in_uris(line: &[u8], offset: usize, found: &mut Vec<Range<usize>>) {
    let mut from = 0;
    while let Some(colon) = line.get(from..).and_then(|rest| rest.iter().position(|&b| b == b':')).map(|at| from + at) {
        from = colon + 1;
        let before = line.get(..colon).unwrap_or(&[]);
        let after = line.get(from..).unwrap_or(&[]);
        let ends = |scheme: &[u8]| {
            before
                .len()
                .checked_sub(scheme.len())
                .and_then(|at| before.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(scheme))
        };
        let skip = if after.starts_with(b"//") {
            2
        } else if ends(b"sip") || ends(b"sips") {
            0
        } else {
            continue;
        };
        let user = after.get(skip..).unwrap_or(&[]);
        let stop = user.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'@' | b'<' | b'>' | b'"'));
        let Some(stop) = stop.filter(|&stop| user.get(stop) == Some(&b'@')) else { continue };
        let user = user.get(..stop).unwrap_or(&[]);
        if let Some(password) = user.iter().position(|&b| b == b':') {
            found.push(offset + from + skip + password + 1..offset + from + skip + stop);
            from += skip + stop;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

    #[test]
    fn fields_with_credentials_are_hidden_however_they_are_written() {
        for field in [
            "Authorization: Digest username=\"a\", response=\"s3cret\"",
            "authorization:Digest s3cret",
            "Proxy-Authorization : Basic s3cret",
            "PROXY-AUTHORIZATION:\r\n  Digest username=\"a\",\r\n\tresponse=\"s3cret\"",
            " Authorization: s3cret",
            "Subject: x\rAuthorization: y\rs3cret",
            "Authorization: y\rs3cret",
        ] {
            let message = format!("REGISTER sip:x SIP/2.0\r\n{field}\r\nContact: <sip:a@b>\r\n\r\n");
            let shown = text(message.as_bytes());
            assert!(!shown.contains("s3cret") && shown.contains("***\r\nContact: <sip:a@b>\r\n\r\n"), "{shown}");
            let masked = masked(message.as_bytes());
            assert_eq!(masked.len(), message.len());
            assert!(!String::from_utf8_lossy(&masked).contains("s3cret"));
        }
    }

    #[test]
    fn keys_of_descriptions_are_hidden_and_the_rest_stays() {
        let shown = |line: &str| text(format!("INVITE sip:x SIP/2.0\r\n\r\n--b\r\n{line}\r\nm=x\r\n").as_bytes());
        let suite = "AES_CM_128_HMAC_SHA1_80";
        for (line, expected) in [
            (
                format!("a=crypto:1 {suite} inline:{KEY}|2^20|1:4"),
                format!("a=crypto:1 {suite} inline:***|2^20|1:4\r\n"),
            ),
            (
                format!("a=crypto:1 {suite} INLINE:{KEY}|2^20|1:4;inline:{KEY}|2:4 WSH=64"),
                format!("1 {suite} INLINE:***|2^20|1:4;inline:***|2:4 WSH=64\r\n"),
            ),
            (format!("A=Crypto:1 {suite} inline: {KEY}"), format!("1 {suite} inline: ***\r\n")),
            (format!("a=crypto:1 {suite} inline:AAAA;{KEY}"), "inline:***;***\r\n".to_owned()),
            (
                format!("a=crypto:1 {suite} inline:AAAA FEC_KEY=inline:{KEY}"),
                "inline:*** FEC_KEY=inline:***\r\n".to_owned(),
            ),
            (format!("a=crypto:1 {KEY}"), "a=crypto:1 ***\r\n".to_owned()),
            (format!("a=crypto:inline:{KEY}"), "a=crypto:inline:***\r\n".to_owned()),
            (format!(" a=crypto:1 {suite} inline:{KEY}"), "inline:***\r\n".to_owned()),
            (format!("k=base64:{KEY}"), "k=***\r\n".to_owned()),
            (format!("a=key-mgmt:mikey {KEY}"), "a=key-mgmt:***\r\n".to_owned()),
            (format!("a=ice-pwd:{KEY}"), "a=ice-pwd:***\r\n".to_owned()),
        ] {
            let shown = shown(&line);
            assert!(shown.contains(&expected) && !shown.contains(KEY), "{line}\n{shown}");
        }
    }

    #[test]
    fn passwords_of_uris_are_hidden() {
        let shown = text(b"INVITE sips:alice:pw1@host:5061 SIP/2.0\r\nFrom: \"a:b\" <SIP:bob:pw2@h>;x=http://u:pw3@h\r\nTo: <sip:c@h:5060>\r\n");
        let expected = "INVITE sips:alice:***@host:5061 SIP/2.0\r\nFrom: \"a:b\" <SIP:bob:***@h>;x=http://u:***@h\r\nTo: <sip:c@h:5060>\r\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_message_without_secrets_is_not_copied() {
        let message = b"OPTIONS sip:a@[2001:db8::1]:5060 SIP/2.0\r\nVia: SIP/2.0/UDP [2001:db8::1]:5060\r\n\r\n";
        assert!(matches!(masked(message), Cow::Borrowed(_)));
        assert_eq!(text(message).as_bytes(), message);
    }

    proptest! {
        #[test]
        fn ranges_are_in_order_whatever_the_bytes(pieces in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..6),
            prop::sample::select(vec!["Authorization", ":", "\r\n", "\n", "\r", " ", "a=crypto:", "inline:", "|", ";", "sip:", "@", "//", "k="])
                .prop_map(|text| text.as_bytes().to_vec()),
        ], 0..40)) {
            let message = pieces.concat();
            let mut from = 0;
            for secret in secrets(&message) {
                prop_assert!(from <= secret.start && secret.start < secret.end && secret.end <= message.len());
                from = secret.end;
            }
            prop_assert_eq!(masked(&message).len(), message.len());
            let _ = text(&message);
        }
    }
}
