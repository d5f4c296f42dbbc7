//! multipart bodies (RFC 2046 5.1) as SRCs write them: any boundary, quoted or
//! not, a preamble, unknown parts, parts in any order, a missing closing
//! boundary, no blank behind a colon.

use bytes::Bytes;
use thiserror::Error;

use crate::header::ContentType;

/// Most parts read.
pub const MAX_PARTS: usize = 16;

/// A multipart body that cannot be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MultipartError {
    /// Content-Type without a boundary, and none to be seen in the body.
    #[error("the multipart body has no boundary parameter")]
    NoBoundary,
    /// The boundary does not appear.
    #[error("the multipart body does not hold its boundary")]
    NoParts,
    /// More parts than accepted.
    #[error("the multipart body has more than {MAX_PARTS} parts")]
    TooMany,
}

/// One part.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its Content-Type; `text/plain` when it names none.
    pub content_type: ContentType,
    /// Its body without the line end before the next boundary.
    pub body: Bytes,
}

/// Takes a multipart body apart.
///
/// # Errors
/// [`MultipartError`] when there are no parts to be found.
pub fn read_multipart(content_type: &ContentType, body: &Bytes) -> Result<Vec<Part>, MultipartError> {
    let named = content_type.params.get("boundary").map(str::trim).filter(|boundary| !boundary.is_empty());
    let delimiter = match named {
        Some(boundary) => format!("--{boundary}").into_bytes(),
        None => first_delimiter(body).ok_or(MultipartError::NoBoundary)?,
    };
    let mut starts = Vec::new();
    let mut parts_ends = Vec::new();
    let mut closed = false;
    let mut at = 0;
    while at < body.len() && !closed {
        let rest = body.get(at..).unwrap_or(&[]);
        let line_length = rest.iter().position(|&b| b == b'\n').map_or(rest.len(), |n| n + 1);
        let line = rest.get(..line_length).unwrap_or(&[]);
        if let Some(after) = line.strip_prefix(delimiter.as_slice()) {
            let after = after.trim_ascii();
            if after.is_empty() || after == b"--" {
                if !starts.is_empty() {
                    parts_ends.push(at);
                }
                closed = after == b"--";
                if !closed {
                    if starts.len() >= MAX_PARTS {
                        return Err(MultipartError::TooMany);
                    }
                    starts.push(at + line_length);
                }
            }
        }
        at += line_length;
    }
    if starts.is_empty() {
        return Err(MultipartError::NoParts);
    }
    if parts_ends.len() < starts.len() {
        parts_ends.push(body.len());
    }
    Ok(starts.into_iter().zip(parts_ends).map(|(start, end)| part(&body.slice(start.min(end)..end))).collect())
}

/// The first line that looks like a delimiter, for a Content-Type that names no boundary.
fn first_delimiter(body: &Bytes) -> Option<Vec<u8>> {
    let line = body.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_end).find(|line| line.starts_with(b"--"))?;
    (3..=72).contains(&line.len()).then(|| line.to_vec())
}

/// Splits the part's header from its body.
fn part(bytes: &Bytes) -> Part {
    let mut content_type = ContentType::parse("text/plain");
    let mut at = 0;
    let mut name_value: Option<String> = None;
    let mut take = |line: Option<String>| {
        if let Some((name, value)) = line.as_deref().and_then(|line| line.split_once(':'))
            && name.trim().eq_ignore_ascii_case("Content-Type")
        {
            content_type = ContentType::parse(value);
        }
    };
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == b'\n')) {
        let line = bytes.get(at..at + length).unwrap_or(&[]);
        at += length + 1;
        let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        if text.is_empty() {
            break;
        }
        if text.starts_with([' ', '\t']) {
            if let Some(have) = name_value.as_mut() {
                have.push_str(&text);
            }
        } else {
            take(name_value.replace(text));
        }
    }
    take(name_value);
    let body = bytes.slice(at.min(bytes.len())..);
    let end = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n")).unwrap_or(&body).len();
    Part { content_type, body: body.slice(..end) }
}

/// Writes a multipart/mixed body; each part is a media type, extra header lines and a body.
pub fn write_multipart(boundary: &str, parts: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (media_type, headers, body) in parts {
        out.extend_from_slice(format!("--{boundary}\r\nContent-Type: {media_type}\r\n{headers}\r\n").as_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn read(content_type: &str, body: &str) -> Result<Vec<(String, String)>, MultipartError> {
        let parts = read_multipart(&ContentType::parse(content_type), &Bytes::from(body.to_owned()))?;
        Ok(parts
            .into_iter()
            .map(|part| (part.content_type.essence, String::from_utf8(part.body.to_vec()).unwrap()))
            .collect())
    }

    #[test]
    fn what_is_written_is_read() {
        let body = write_multipart("b1", &[("application/sdp", "", b"v=0\r\n"), ("a/b", "X: y\r\n", b"<x/>")]);
        let text = String::from_utf8(body).unwrap();
        let parts = read("multipart/mixed; boundary=\"b1\"", &text).unwrap();
        assert_eq!(parts, [("application/sdp".into(), "v=0\r\n".into()), ("a/b".into(), "<x/>".into())]);
    }

    #[test]
    fn the_liberties_of_the_field_are_borne() {
        let parts = read(
            "Multipart/Mixed;boundary=uniqueBoundary ",
            "a preamble\r\n--uniqueBoundary  \r\nContent-TYPE:application/SDP\r\nContent-Length: 3\r\n\r\nv=0\r\n\
             --uniqueBoundary\r\n\r\nno type\r\n--uniqueBoundary\nContent-Type: application/gtd;\n x=y\n\nlast, unclosed",
        )
        .unwrap();
        let types: Vec<&str> = parts.iter().map(|(essence, _)| essence.as_str()).collect();
        assert_eq!(types, ["application/sdp", "text/plain", "application/gtd"]);
        assert_eq!(
            parts.iter().map(|(_, body)| body.as_str()).collect::<Vec<_>>(),
            ["v=0", "no type", "last, unclosed"]
        );
    }

    #[test]
    fn a_boundary_that_nobody_named_is_found_in_the_body() {
        let parts =
            read("multipart/mixed", "\r\n--here\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--here--\r\n").unwrap();
        assert_eq!(parts, [("application/sdp".to_owned(), "v=0".to_owned())]);
    }

    #[test]
    fn without_a_boundary_there_is_an_error() {
        assert_eq!(read("multipart/mixed", "x").unwrap_err(), MultipartError::NoBoundary);
        assert_eq!(read("multipart/mixed;boundary=b", "v=0\r\n").unwrap_err(), MultipartError::NoParts);
        assert_eq!(read("multipart/mixed;boundary=b", &"--b\r\n".repeat(40)).unwrap_err(), MultipartError::TooMany);
    }
}
