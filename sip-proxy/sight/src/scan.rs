//! Single values out of a message without parsing it.
//!
//! The parser of `ferric-sip` indexes every line; here one pass looks at the first byte of each line and stops at the
//! value. Compact names, blanks before the colon and folding are borne (RFC 3261 7.3.1, 7.3.3), and so are messages
//! that the parser refuses: those are the ones an administrator wants to see.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Compact names of the fields that are looked for.
const CALL_ID: (&str, Option<u8>) = ("Call-ID", Some(b'i'));
const FROM: (&str, Option<u8>) = ("From", Some(b'f'));
const TO: (&str, Option<u8>) = ("To", Some(b't'));
const CSEQ: (&str, Option<u8>) = ("CSeq", None);

/// The Call-ID; `None` when it is missing or empty.
pub(crate) fn call_id(message: &[u8]) -> Option<Cow<'_, str>> {
    usual_call_id(message).or_else(|| value(message, CALL_ID)).filter(|id| !id.is_empty())
}

/// The Call-ID as nearly everybody writes it; `None` where a closer look is needed. Several messages of each call come by
/// here, so it is looked for as one word and not line by line.
fn usual_call_id(message: &[u8]) -> Option<Cow<'_, str>> {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\nCall-ID:"));
    static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\n\r\n"));
    let at = NAME.find(message)?;
    let (before, rest) = message.split_at_checked(at + b"\nCall-ID:".len())?;
    // In a body, or behind keep-alives.
    if END.find(before).is_some() || memchr::memmem::find(before, b"\n\n").is_some() {
        return None;
    }
    let end = memchr::memchr(b'\n', rest)?;
    if matches!(rest.get(end + 1), None | Some(b' ' | b'\t')) {
        return None;
    }
    rest.get(..end).map(|line| String::from_utf8_lossy(line.trim_ascii()))
}

/// The From field.
pub(crate) fn from(message: &[u8]) -> Option<Cow<'_, str>> {
    value(message, FROM)
}

/// The To field.
pub(crate) fn to(message: &[u8]) -> Option<Cow<'_, str>> {
    value(message, TO)
}

/// The method: the first word of a request, the CSeq's of a response.
pub(crate) fn method(message: &[u8]) -> Option<Cow<'_, str>> {
    if status(message).is_none() {
        let word = first_line(message).split(|&b| b == b' ').next().filter(|word| !word.is_empty())?;
        return Some(String::from_utf8_lossy(word));
    }
    let cseq = value(message, CSEQ)?;
    cseq.split_ascii_whitespace().nth(1).map(|word| Cow::Owned(word.to_owned()))
}

/// The first line without its end; empty lines before it are keep-alives.
pub(crate) fn first_line(message: &[u8]) -> &[u8] {
    let start = without_keep_alives(message);
    let end = memchr::memchr(b'\n', start).unwrap_or(start.len());
    start.get(..end).unwrap_or(&[]).trim_ascii_end()
}

/// The status code, if this is a response.
pub(crate) fn status(message: &[u8]) -> Option<u16> {
    let line = without_keep_alives(message);
    let (version, rest) = line.split_at_checked(8)?;
    version.eq_ignore_ascii_case(b"SIP/2.0 ").then_some(())?;
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    Some(digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

/// True when there is a session description, alone or as a part: a line that begins with `m=`, behind the header.
pub(crate) fn has_sdp(message: &[u8]) -> bool {
    let mut lines = without_keep_alives(message).split(|&b| b == b'\n');
    lines.by_ref().find(|line| line.trim_ascii().is_empty());
    lines.any(|line| line.starts_with(b"m="))
}

fn without_keep_alives(message: &[u8]) -> &[u8] {
    let lead = message.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    message.get(lead..).unwrap_or(&[])
}

/// The length of the first line with its end.
fn line_length(bytes: &[u8]) -> usize {
    memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1)
}

/// The first field of that name, trimmed and unfolded.
fn value<'a>(message: &'a [u8], (full, compact): (&str, Option<u8>)) -> Option<Cow<'a, str>> {
    let mut rest = without_keep_alives(message);
    rest = rest.get(line_length(rest)..)?;
    loop {
        let end = line_length(rest);
        // An empty line ends the header.
        let line = rest.get(..end).filter(|line| !matches!(*line, [] | [b'\n'] | [b'\r', b'\n']))?;
        if let Some(colon) = field(line, full, compact) {
            let mut stop = end;
            while matches!(rest.get(stop), Some(b' ' | b'\t')) {
                stop += line_length(rest.get(stop..).unwrap_or(&[]));
            }
            return rest.get(colon + 1..stop).map(unfolded);
        }
        rest = rest.get(end..)?;
    }
}

/// Where the colon stands, if the line is that field.
fn field(line: &[u8], full: &str, compact: Option<u8>) -> Option<usize> {
    let full = full.as_bytes();
    let first = line.first()?.to_ascii_lowercase();
    let long = full.first()?.to_ascii_lowercase() == first;
    if !long && compact != Some(first) {
        return None;
    }
    let colon = line.iter().take(full.len() + 16).position(|&b| b == b':')?;
    let name = line.get(..colon)?.trim_ascii_end();
    let found = name.eq_ignore_ascii_case(full) || (name.len() == 1 && compact == Some(first));
    found.then_some(colon)
}

fn unfolded(value: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(value.trim_ascii());
    if !text.contains('\n') {
        return text;
    }
    let parts: Vec<&str> = text.lines().map(str::trim).filter(|part| !part.is_empty()).collect();
    Cow::Owned(parts.join(" "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_id_is_found_in_every_form() {
        for line in
            ["Call-ID: a@b", "call-id:a@b", "CALL-ID \t: a@b ", "i:a@b", "I : a@b", "Call-ID:\r\n  a@b", "i:\r\n\ta@b"]
        {
            let message = format!(
                "\r\n\r\nINVITE sip:x SIP/2.0\r\nVia: y\r\nInfo: no\r\n{line}\r\nCall-Info: no\r\n\r\nCall-ID: no\r\n"
            );
            assert_eq!(call_id(message.as_bytes()).unwrap(), "a@b", "{line}");
        }
        for message in [
            "",
            "\r\n\r\n",
            "INVITE sip:x SIP/2.0\r\n\r\nCall-ID: body\r\n",
            "INVITE\r\nCall-ID:\r\n\r\n",
            "Call-ID: a",
        ] {
            assert_eq!(call_id(message.as_bytes()), None, "{message}");
        }
    }

    #[test]
    fn what_the_parser_reads_is_read_alike() {
        let text =
            "SIP/2.0 200 Fine\r\nf: <sip:a@b>\r\nTo: \"X\"\r\n <sip:c@d>\r\ncseq: 7\r\n BYE\r\ni: q\r\nl: 0\r\n\r\n";
        let parsed = ferric_sip::Message::parse(bytes::Bytes::from(text)).unwrap();
        assert_eq!(from(text.as_bytes()), parsed.header("From"));
        assert_eq!(to(text.as_bytes()), parsed.header("To"));
        assert_eq!(call_id(text.as_bytes()), parsed.call_id());
        assert_eq!(status(text.as_bytes()), parsed.status());
        assert_eq!(method(text.as_bytes()).unwrap(), parsed.method().as_str());
    }

    #[test]
    fn descriptions_are_seen_in_bodies_only() {
        assert!(has_sdp(b"INVITE x SIP/2.0\r\n\r\n--b\r\n\r\nv=0\r\nm=audio 1 RTP/AVP 0\r\n"));
        assert!(!has_sdp(b"INVITE x SIP/2.0\r\nm=5\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b':'), Just(b'i'), Just(b' ')], 0..200)) {
            for message in [bytes.clone(), [b"INVITE sip:x SIP/2.0\r\n".to_vec(), bytes].concat()] {
                let _ = (call_id(&message), from(&message), to(&message), method(&message), status(&message));
                let _ = (first_line(&message), has_sdp(&message));
            }
        }
    }
}
