//! What kind of message bytes are, without reading them as one: for counters.

use crate::header::is_token;
use crate::method::Method;

/// Whether it is a request, and its method: for a response that of CSeq. `None` for what is no message.
/// Meant for messages that this crate made or parsed; costs a scan up to the CSeq line, and no memory.
pub fn peek(bytes: &[u8]) -> Option<(bool, Method)> {
    let (start, mut rest) = next_line(bytes)?;
    if !start.get(..4)?.eq_ignore_ascii_case(b"SIP/") {
        let method = start.get(..memchr::memchr(b' ', start)?)?;
        return Some((true, method_of(method)?));
    }
    loop {
        let (line, after) = next_line(rest)?;
        if line.is_empty() {
            return None;
        }
        if let Some(value) = value_of(line) {
            // Whatever follows, folded or not, begins with the method once the number is read.
            let number = value.iter().take_while(|b| b.is_ascii_digit()).count();
            let method = value.get(number..)?.trim_ascii();
            let method = if method.is_empty() { folded(after)? } else { method };
            return Some((false, method_of(method)?));
        }
        rest = after;
    }
}

/// A line without its end, and what follows it.
fn next_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (line, rest) = bytes.split_at_checked(memchr::memchr(b'\n', bytes)?)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..)?))
}

/// The value, if it is the CSeq line.
fn value_of(line: &[u8]) -> Option<&[u8]> {
    let (name, rest) = line.split_at_checked(4)?;
    if !name.eq_ignore_ascii_case(b"CSeq") {
        return None;
    }
    rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii)
}

/// The text of a continuation line.
fn folded(bytes: &[u8]) -> Option<&[u8]> {
    let (line, _) = next_line(bytes)?;
    matches!(line.first(), Some(b' ' | b'\t')).then(|| line.trim_ascii())
}

fn method_of(token: &[u8]) -> Option<Method> {
    std::str::from_utf8(token).ok().filter(|token| is_token(token)).map(Method::from_token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_and_responses_are_told_apart_and_their_method_is_found() {
        let cases: [(&str, Option<(bool, Method)>); 12] = [
            ("INVITE sip:a SIP/2.0\r\nCSeq: 1 BYE\r\n\r\n", Some((true, Method::Invite))),
            ("FOO sip:a SIP/2.0\r\n\r\n", Some((true, Method::Other("FOO".into())))),
            ("SIP/2.0 200 OK\r\nVia: x\r\nCSeq: 17 INVITE\r\n\r\n", Some((false, Method::Invite))),
            ("SIP/2.0 200 OK\r\ncseq :17\tOPTIONS \r\n\r\n", Some((false, Method::Options))),
            ("SIP/2.0 200 OK\nCSEQ:1 ACK\n\n", Some((false, Method::Ack))),
            ("SIP/2.0 200 OK\r\nCSeq: 1\r\n  BYE\r\n\r\n", Some((false, Method::Bye))),
            ("SIP/2.0 200 OK\r\nCSeq: 1\r\nVia: x\r\n\r\n", None),
            ("SIP/2.0 200 OK\r\nCSeqX: 1 BYE\r\n\r\nCSeq: 1 BYE\r\n", None),
            ("SIP/2.0 200 OK\r\nX: CSeq: 1 BYE\r\nCSeq: 2 INFO\r\n\r\n", Some((false, Method::Info))),
            ("SIP/2.0 200 OK\r\n", None),
            ("\r\n\r\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(peek(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn it_says_what_the_parser_says() {
        for method in ["INVITE", "ACK", "BYE", "X-Y"] {
            let text = format!(
                "{method} sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
                 Call-ID: 1\r\nCSeq: 4 {method}\r\nContent-Length: 0\r\n\r\n"
            );
            let request = crate::Message::parse(bytes::Bytes::from(text)).unwrap();
            assert_eq!(peek(&request.to_bytes()), Some((true, request.method())));
            let response = crate::Message::response(&request, 200, None);
            assert_eq!(peek(&response.to_bytes()), Some((false, response.method())));
        }
    }
}
