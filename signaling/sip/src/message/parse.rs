//! Bytes to index. One pass, no copies.

use std::ops::Range;

use bytes::Bytes;

use super::error::{ParseError, ParseErrorKind as Kind};
use super::line::{Line, Text, text_of};
use super::{MAX_HEADER_LINES, MAX_MESSAGE, Message, StartKind, StartLine};
use crate::header::is_token;
use crate::method::Method;
use crate::uri::Uri;

/// A line's content without its end, and the offset behind its end.
fn line_at(bytes: &[u8], from: usize) -> Option<(Range<usize>, usize)> {
    let length = memchr::memchr(b'\n', bytes.get(from..)?)?;
    let end = from + length;
    let content_end = if length > 0 && bytes.get(end - 1) == Some(&b'\r') { end - 1 } else { end };
    Some((from..content_end, end + 1))
}

pub(super) fn parse(bytes: Bytes) -> Result<Message, ParseError> {
    // Empty lines before a message are keep-alives (RFC 3261 7.5).
    let lead = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let bytes = if lead == 0 { bytes } else { bytes.slice(lead..) };
    let fail = |kind, partial| Err(ParseError { kind, partial });

    let Some((start, mut at)) = line_at(&bytes, 0) else { return fail(Kind::NotSip, None) };
    let line = bytes.get(start).unwrap_or(&[]);
    let (kind, mut problem) = match start_line(line) {
        Ok(parsed) => parsed,
        Err(kind) => return fail(kind, None),
    };
    if bytes.len() > MAX_MESSAGE {
        problem = problem.or(Some(Kind::TooLong(MAX_MESSAGE)));
    }
    let Some(first) = Text::raw(0, at) else { return fail(Kind::TooLong(MAX_MESSAGE), None) };

    let mut lines: Vec<Line> = Vec::with_capacity(20);
    let mut finished = false;
    while let Some((content, next)) = line_at(&bytes, at) {
        if content.is_empty() {
            at = next;
            finished = true;
            break;
        }
        let text = bytes.get(content).unwrap_or(&[]);
        let number = lines.len() + 1;
        if matches!(text.first(), Some(b' ' | b'\t')) {
            // A continuation belongs to the line before it.
            match lines.last_mut().and_then(|line| line.text.extend_to(next)) {
                Some(()) => {}
                None => problem = problem.or(Some(Kind::HeaderLine(number))),
            }
        } else if number > MAX_HEADER_LINES {
            problem = problem.or(Some(Kind::TooManyLines(MAX_HEADER_LINES)));
        } else {
            match header_name(text).zip(Text::raw(at, next)) {
                Some((name, range)) => lines.push(Line::received(range, name)),
                None => problem = problem.or(Some(Kind::HeaderLine(number))),
            }
        }
        at = next;
    }
    if !finished {
        problem = problem.or(Some(Kind::Unfinished));
    }
    let mut message =
        Message { raw: bytes, start: StartLine { text: first, kind }, lines, body: Bytes::new(), edited: false };
    if problem.is_none() {
        problem = body(&mut message, at).err();
    }
    match problem {
        Some(kind) => fail(kind, Some(Box::new(message))),
        None => Ok(message),
    }
}

/// The name of a header line; `None` when it has none.
fn header_name(line: &[u8]) -> Option<&[u8]> {
    let name = line.get(..memchr::memchr(b':', line)?)?.trim_ascii_end();
    is_token(name).then_some(name)
}

/// Finds the body behind the header, which ends at `at`.
fn body(message: &mut Message, at: usize) -> Result<(), Kind> {
    let mut declared = None;
    for value in message.headers("Content-Length") {
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let number = value.parse::<usize>().ok().filter(|_| digits).ok_or(Kind::ContentLength)?;
        if declared.is_some_and(|have| have != number) {
            return Err(Kind::ContentLength);
        }
        declared = Some(number);
    }
    let present = message.raw.len().saturating_sub(at);
    let length = declared.unwrap_or(present);
    if length > present {
        return Err(Kind::BodyCut { declared: length, present });
    }
    if length < present {
        message.raw.truncate(at + length);
    }
    if length > 0 {
        message.body = message.raw.slice(at..);
    }
    Ok(())
}

/// The start line, and what is wrong with it if it can still be answered.
fn start_line(line: &[u8]) -> Result<(StartKind, Option<Kind>), Kind> {
    if line.len() >= 4 && line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/")) {
        return status_line(line).map(|kind| (kind, None)).ok_or(Kind::StatusLine);
    }
    // Trailing blanks are borne; they are common.
    let line = line.trim_ascii_end();
    let first = line.iter().position(|&b| b == b' ').ok_or(Kind::NotSip)?;
    let last = line.iter().rposition(|&b| b == b' ').ok_or(Kind::NotSip)?;
    let method =
        line.get(..first).filter(|m| is_token(m)).and_then(|m| std::str::from_utf8(m).ok()).ok_or(Kind::NotSip)?;
    let version = line.get(last + 1..).unwrap_or(&[]);
    let (major, minor) = version_numbers(version).ok_or(Kind::NotSip)?;
    let uri = first + 1..last.max(first + 1);
    let text = line.get(uri.clone()).unwrap_or(&[]);
    let problem = if (major, minor) != (2, 0) {
        Some(Kind::Version)
    } else if text.is_empty() || text.contains(&b' ') || text.contains(&b'\t') {
        Some(Kind::RequestLine("it has white space in wrong places"))
    } else {
        match Uri::check(&text_of(text)) {
            Ok(()) => None,
            Err(_) => Some(Kind::RequestLine("the Request-URI is malformed")),
        }
    };
    Ok((StartKind::Request { method: Method::from_token(method), uri }, problem))
}

fn version_numbers(text: &[u8]) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (name, numbers) = text.split_once('/')?;
    let (major, minor) = numbers.split_once('.')?;
    name.eq_ignore_ascii_case("SIP").then_some(())?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn status_line(line: &[u8]) -> Option<StartKind> {
    let (version, rest) = line.split_at_checked(7)?;
    (version_numbers(version)? == (2, 0)).then_some(())?;
    let rest = rest.strip_prefix(b" ")?;
    let digits = rest.get(..3)?;
    let status: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let well_formed = (100..700).contains(&status) && matches!(rest.get(3), None | Some(b' '));
    let from = 12.min(line.len());
    well_formed.then_some(StartKind::Response { status, reason: from..line.len() })
}
