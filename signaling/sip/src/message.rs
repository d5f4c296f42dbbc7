//! A SIP message that leaves as it came (RFC 3261 7).
//!
//! The received bytes stay; beside them lies an index of the header lines.
//! Nothing is decoded until asked for, so unknown header fields, odd spellings,
//! folding and bytes that are no UTF-8 pass through in order, case and form.
//! An edit replaces, adds or removes whole lines and shows at serialisation.
//!
//! ```text
//! raw:   INVITE sip:.. SIP/2.0 CRLF | Via: .. CRLF | f: .. CRLF SP folded CRLF | CRLF | body
//! index: start line                   line 0         line 1                            body
//! ```

mod error;
mod line;
mod parse;
mod peek;
mod reason;

pub use error::{ParseError, ParseErrorKind};
pub use peek::peek;
pub use reason::standard_reason;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use line::{Field, Line, Text, text_of};

use crate::header::{CSeq, ContentType, HeaderError, NameAddr, Via, ViaParts, first_value, split_outside_quotes};
use crate::method::Method;

/// Largest message accepted, in bytes (the size of a UDP datagram).
pub const MAX_MESSAGE: usize = 65_535;
/// Most header lines accepted.
pub const MAX_HEADER_LINES: usize = 256;

/// A request or a response.
#[derive(Debug, Clone)]
pub struct Message {
    raw: Bytes,
    start: StartLine,
    lines: Vec<Line>,
    body: Bytes,
    edited: bool,
}

/// The first line, of `raw` (received) or as text of ours.
#[derive(Debug, Clone)]
struct StartLine {
    text: Text,
    kind: StartKind,
}

#[derive(Debug, Clone)]
enum StartKind {
    Request { method: Method, uri: Range<usize> },
    Response { status: u16, reason: Range<usize> },
}

impl Message {
    /// Reads a datagram or one message of a stream. Octets behind the body that
    /// Content-Length tells are cut off (RFC 3261 18.3).
    ///
    /// # Errors
    /// [`ParseError`] knows the answer that a broken request gets.
    pub fn parse(bytes: Bytes) -> Result<Message, ParseError> {
        parse::parse(bytes)
    }

    /// A request without any header field.
    pub fn request(method: &Method, uri: &str) -> Message {
        let uri: String = uri.chars().filter(|c| !c.is_ascii_control() && *c != ' ').collect();
        let start = method.as_str().len() + 1;
        let range = start..start + uri.len();
        let text = format!("{method} {uri} SIP/2.0\r\n").into_bytes();
        Message::own(text, StartKind::Request { method: method.clone(), uri: range })
    }

    /// A response to `request` with the fields that RFC 3261 8.2.6.2 asks for,
    /// as they came. `None` takes the standard phrase of the status.
    pub fn response(request: &Message, status: u16, reason: Option<&str>) -> Message {
        let mut reason = Cow::Borrowed(reason.unwrap_or_else(|| standard_reason(status)));
        if reason.bytes().any(|byte| byte.is_ascii_control()) {
            reason.to_mut().retain(|c| !c.is_ascii_control());
        }
        let text = ["SIP/2.0 ", &status.to_string(), " ", &reason, "\r\n"].concat().into_bytes();
        let range = 12..12 + reason.len();
        let mut response = Message::own(text, StartKind::Response { status, reason: range });
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            response.copy_lines(request, name);
        }
        if status == 100 {
            response.copy_lines(request, "Timestamp");
        }
        response.lines.push(Line::own("Content-Length", "0"));
        response
    }

    fn own(text: Vec<u8>, kind: StartKind) -> Message {
        Message {
            raw: Bytes::new(),
            start: StartLine { text: Text::Own(text.into()), kind },
            lines: Vec::with_capacity(12),
            body: Bytes::new(),
            edited: true,
        }
    }

    /// Appends every line of that name of another message, byte for byte.
    pub fn copy_lines(&mut self, from: &Message, name: &str) {
        let field = Field::named(name);
        if self.raw.is_empty() {
            // A message of our own keeps the other's bytes instead of copies of them.
            self.raw = from.raw.clone();
        }
        let same = std::ptr::eq(self.raw.as_ptr(), from.raw.as_ptr()) && self.raw.len() == from.raw.len();
        for line in from.lines.iter().filter(|line| line.is(&from.raw, field)) {
            self.edited = true;
            self.lines.push(if same { line.clone() } else { line.detached(&from.raw) });
        }
    }

    /// True for a request.
    pub fn is_request(&self) -> bool {
        matches!(self.start.kind, StartKind::Request { .. })
    }

    /// The request's method; of a response the CSeq's.
    pub fn method(&self) -> Method {
        match &self.start.kind {
            StartKind::Request { method, .. } => method.clone(),
            StartKind::Response { .. } => self.cseq().map_or(Method::Other("".into()), |cseq| cseq.method),
        }
    }

    /// The Request-URI as written.
    pub fn request_uri(&self) -> Option<Cow<'_, str>> {
        match &self.start.kind {
            StartKind::Request { uri, .. } => {
                Some(text_of(self.start.text.bytes(&self.raw).get(uri.clone()).unwrap_or(&[])))
            }
            StartKind::Response { .. } => None,
        }
    }

    /// The status code of a response.
    pub fn status(&self) -> Option<u16> {
        match self.start.kind {
            StartKind::Response { status, .. } => Some(status),
            StartKind::Request { .. } => None,
        }
    }

    /// The reason phrase of a response.
    pub fn reason(&self) -> Option<Cow<'_, str>> {
        match &self.start.kind {
            StartKind::Response { reason, .. } => {
                Some(text_of(self.start.text.bytes(&self.raw).get(reason.clone()).unwrap_or(&[])))
            }
            StartKind::Request { .. } => None,
        }
    }

    /// The first line of that name (compact forms and case do not matter), unfolded and trimmed.
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let field = Field::named(name);
        self.lines.iter().find(|line| line.is(&self.raw, field)).map(|line| line.value(&self.raw))
    }

    /// True if more than one line has that name.
    pub fn is_repeated(&self, name: &str) -> bool {
        let field = Field::named(name);
        self.lines.iter().filter(|line| line.is(&self.raw, field)).nth(1).is_some()
    }

    /// Every line of that name.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        let field = Field::named(name);
        self.lines.iter().filter(move |line| line.is(&self.raw, field)).map(|line| line.value(&self.raw))
    }

    /// Every value of that name: lines split at commas outside of quotes and `< >`.
    pub fn values(&self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        for line in self.headers(name) {
            let parts = split_outside_quotes(&line, ',');
            values.extend(parts.iter().map(|value| value.trim()).filter(|value| !value.is_empty()).map(str::to_owned));
        }
        values
    }

    /// The names of all lines, as written.
    pub fn header_names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.lines.iter().map(|line| text_of(line.name(&self.raw)))
    }

    /// The first Via value.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn top_via(&self) -> Result<Via, HeaderError> {
        let line = self.header("Via").ok_or(HeaderError::Missing("Via"))?;
        Via::parse(first_value(&line).trim())
    }

    /// The branch of the first Via value, without reading the rest of it.
    pub fn top_branch(&self) -> Option<Cow<'_, str>> {
        self.part_of("Via", |line| ViaParts::branch_of(first_value(line)))
    }

    /// A part of the first line of that name.
    fn part_of(&self, name: &str, find: impl FnOnce(&str) -> Option<&str>) -> Option<Cow<'_, str>> {
        match self.header(name)? {
            Cow::Borrowed(line) => find(line).map(Cow::Borrowed),
            Cow::Owned(line) => find(&line).map(|part| Cow::Owned(part.to_owned())),
        }
    }

    /// The tag of To, without reading the rest of it.
    pub fn to_tag(&self) -> Option<Cow<'_, str>> {
        self.part_of("To", NameAddr::tag_of)
    }

    /// The tag of From, without reading the rest of it.
    pub fn from_tag(&self) -> Option<Cow<'_, str>> {
        self.part_of("From", NameAddr::tag_of)
    }

    /// The URI of To as written, without reading the rest of it.
    ///
    /// # Errors
    /// As [`Message::to`].
    pub fn to_uri(&self) -> Result<Cow<'_, str>, HeaderError> {
        self.uri_in("To")
    }

    /// The URI of From as written, without reading the rest of it.
    ///
    /// # Errors
    /// As [`Message::from`].
    pub fn from_uri(&self) -> Result<Cow<'_, str>, HeaderError> {
        self.uri_in("From")
    }

    fn uri_in(&self, name: &'static str) -> Result<Cow<'_, str>, HeaderError> {
        match self.header(name).ok_or(HeaderError::Missing(name))? {
            Cow::Borrowed(line) => NameAddr::uri_of(name, line).map(Cow::Borrowed),
            Cow::Owned(line) => NameAddr::uri_of(name, &line).map(|uri| Cow::Owned(uri.to_owned())),
        }
    }

    /// The parts of the first Via value, without copies of them.
    pub(crate) fn with_top_via<T>(&self, look: impl FnOnce(ViaParts<'_>) -> T) -> Result<T, HeaderError> {
        let line = self.header("Via").ok_or(HeaderError::Missing("Via"))?;
        ViaParts::of(first_value(&line).trim()).map(look)
    }

    /// Whether [`Message::top_via`] would find one, for less.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn check_top_via(&self) -> Result<(), HeaderError> {
        self.with_top_via(|_| ())
    }

    /// From.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn from(&self) -> Result<NameAddr, HeaderError> {
        NameAddr::parse("From", &self.header("From").ok_or(HeaderError::Missing("From"))?)
    }

    /// To.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn to(&self) -> Result<NameAddr, HeaderError> {
        NameAddr::parse("To", &self.header("To").ok_or(HeaderError::Missing("To"))?)
    }

    /// Whether [`Message::from`] and [`Message::to`] would find something, for less.
    ///
    /// # Errors
    /// When one is missing or malformed.
    pub fn check_parties(&self) -> Result<(), HeaderError> {
        ["From", "To"]
            .into_iter()
            .try_for_each(|name| NameAddr::check(name, &self.header(name).ok_or(HeaderError::Missing(name))?))
    }

    /// Call-ID.
    pub fn call_id(&self) -> Option<Cow<'_, str>> {
        self.header("Call-ID").filter(|id| !id.is_empty())
    }

    /// CSeq.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn cseq(&self) -> Result<CSeq, HeaderError> {
        CSeq::parse(&self.header("CSeq").ok_or(HeaderError::Missing("CSeq"))?)
    }

    /// Every Contact but `*`.
    ///
    /// # Errors
    /// When one is malformed.
    pub fn contacts(&self) -> Result<Vec<NameAddr>, HeaderError> {
        let values = self.values("Contact");
        values.iter().filter(|value| *value != "*").map(|value| NameAddr::parse("Contact", value)).collect()
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Content-Type.
    pub fn content_type(&self) -> Option<ContentType> {
        self.header("Content-Type").map(|text| ContentType::parse(&text))
    }

    /// True if an option tag stands in the lists of that name (Require, Supported, ...).
    pub fn has_option(&self, name: &str, tag: &str) -> bool {
        self.headers(name)
            .any(|line| split_outside_quotes(&line, ',').iter().any(|value| value.trim().eq_ignore_ascii_case(tag)))
    }

    /// Replaces the first line of that name and removes the others; appends when there is none.
    pub fn set_header(&mut self, name: &str, value: &str) {
        self.edited = true;
        let (field, raw) = (Field::named(name), &self.raw);
        let mut line = Some(Line::own(name, value));
        self.lines.retain_mut(|have| {
            if !have.is(raw, field) {
                return true;
            }
            line.take().map(|line| *have = line).is_some()
        });
        self.lines.extend(line);
    }

    /// Replaces the Request-URI; nothing happens to a response.
    pub fn set_request_uri(&mut self, uri: &str) {
        if let StartKind::Request { method, .. } = &self.start.kind {
            let method = method.clone();
            self.start = Message::request(&method, uri).start;
            self.edited = true;
        }
    }

    /// Puts a line before the first of that name; without one, behind the Via lines that stand first.
    pub fn insert_header(&mut self, name: &str, value: &str) {
        self.edited = true;
        let (field, via) = (Field::named(name), Field::named("Via"));
        let same = self.lines.iter().position(|line| line.is(&self.raw, field));
        let vias = || self.lines.iter().take_while(|line| line.is(&self.raw, via)).count();
        let at = same.unwrap_or_else(vias);
        self.lines.insert(at, Line::own(name, value));
    }

    /// Removes the first value of a header field; values behind it on the same line stay.
    pub fn remove_first_value(&mut self, name: &'static str) {
        self.edit_first_value(name, None);
    }

    /// Removes the last value of a header field; values before it on the same line stay.
    pub fn remove_last_value(&mut self, name: &'static str) {
        let field = Field::named(name);
        let Some(at) = self.lines.iter().rposition(|line| line.is(&self.raw, field)) else { return };
        let Some(line) = self.lines.get(at) else { return };
        self.edited = true;
        let text = line.value(&self.raw).into_owned();
        let values = split_outside_quotes(&text, ',');
        match values.split_last() {
            Some((_, before)) if !before.is_empty() => {
                let kept: Vec<&str> = before.iter().map(|value| value.trim()).collect();
                if let Some(line) = self.lines.get_mut(at) {
                    *line = Line::own(name, &kept.join(", "));
                }
            }
            Some(_) | None => {
                self.lines.remove(at);
            }
        }
    }

    /// Replaces the value of one line of that name in its place; appends when there is none. Quicker than
    /// [`Message::set_header`] for fields that stand once.
    pub fn replace_header(&mut self, name: &str, value: &str) {
        self.edited = true;
        let field = Field::named(name);
        match self.lines.iter_mut().find(|line| line.is(&self.raw, field)) {
            Some(line) => *line = Line::own(name, value),
            None => self.lines.push(Line::own(name, value)),
        }
    }

    /// Length in bytes of [`Message::to_bytes`].
    pub fn wire_length(&self) -> usize {
        if !self.edited {
            return self.raw.len();
        }
        let lines: usize = self.lines.iter().map(|line| line.text.bytes(&self.raw).len()).sum();
        self.start.text.bytes(&self.raw).len() + lines + 2 + self.body.len()
    }

    /// Appends a line.
    pub fn add_header(&mut self, name: &str, value: &str) {
        self.edited = true;
        self.lines.push(Line::own(name, value));
    }

    /// Puts a line before all others.
    pub fn push_header_front(&mut self, name: &str, value: &str) {
        self.edited = true;
        self.lines.insert(0, Line::own(name, value));
    }

    /// Removes every line of that name.
    pub fn remove_header(&mut self, name: &str) {
        self.edited = true;
        let (field, raw) = (Field::named(name), &self.raw);
        self.lines.retain(|line| !line.is(raw, field));
    }

    /// Replaces the first Via value; values behind it on the same line stay.
    pub fn set_top_via(&mut self, value: &str) {
        self.edit_first_value("Via", Some(value));
    }

    /// Removes the first Via value; values behind it on the same line stay.
    pub fn remove_top_via(&mut self) {
        self.edit_first_value("Via", None);
    }

    fn edit_first_value(&mut self, name: &'static str, value: Option<&str>) {
        let field = Field::named(name);
        let Some(at) = self.lines.iter().position(|line| line.is(&self.raw, field)) else { return };
        let Some(line) = self.lines.get_mut(at) else { return };
        self.edited = true;
        let text = line.value(&self.raw);
        let others = text.get(first_value(&text).len() + 1..).unwrap_or("").trim();
        let changed = match (value, others) {
            (None, "") => None,
            (None, others) => Some(Line::own(name, others)),
            (Some(value), "") => Some(Line::own(name, value)),
            (Some(value), others) => Some(Line::own(name, &format!("{value}, {others}"))),
        };
        match changed {
            Some(changed) => *line = changed,
            None => {
                self.lines.remove(at);
            }
        }
    }

    /// Gives To a tag unless it has one.
    pub fn set_to_tag(&mut self, tag: &str) {
        let Some(text) = self.header("To").filter(|text| NameAddr::tag_of(text).is_none()) else { return };
        let tagged = [&text, ";tag=", tag].concat();
        self.set_header("To", &tagged);
    }

    /// Replaces body, Content-Type and Content-Length. An empty body has no type.
    pub fn set_body(&mut self, content_type: &str, body: Bytes) {
        if body.is_empty() {
            self.remove_header("Content-Type");
        } else {
            self.set_header("Content-Type", content_type);
        }
        self.set_header("Content-Length", &body.len().to_string());
        self.body = body;
    }

    /// The message as bytes: those that came, unless it was edited.
    pub fn to_bytes(&self) -> Bytes {
        if !self.edited {
            return self.raw.clone();
        }
        let start = self.start.text.bytes(&self.raw);
        let length: usize = self.lines.iter().map(|line| line.text.bytes(&self.raw).len()).sum();
        let mut out = Vec::with_capacity(start.len() + length + 2 + self.body.len());
        out.extend_from_slice(start);
        for line in &self.lines {
            out.extend_from_slice(line.text.bytes(&self.raw));
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const INVITE: &str = "INVITE sip:srs@192.0.2.10 SIP/2.0\r\n\
        v: SIP/2.0/UDP one.example.com;branch=z9hG4bK1, SIP/2.0/UDP two.example.com\r\n\
        Via: SIP/2.0/UDP three.example.com\r\n\
        f: \"A, B\" <sip:a@example.com>;tag=1\r\nTo: sip:b@example.com\r\n\
        CALL-id: x@y\r\nCSeq: 1\r\n  INVITE\r\nX-Odd:kept  \r\nl: 4\r\n\r\nbody";

    fn invite() -> Message {
        Message::parse(Bytes::from_static(INVITE.as_bytes())).unwrap()
    }

    #[test]
    fn an_unedited_message_leaves_as_it_came() {
        assert_eq!(invite().to_bytes(), INVITE.as_bytes());
    }

    #[test]
    fn values_are_found_whatever_their_form() {
        let message = invite();
        assert_eq!(message.values("Via").len(), 3);
        assert_eq!(message.cseq().unwrap().to_string(), "1 INVITE");
        assert_eq!(message.call_id().unwrap(), "x@y");
        assert_eq!(message.from().unwrap().display.as_deref(), Some("A, B"));
        assert_eq!(message.header("x-odd").unwrap(), "kept");
        assert_eq!(&message.body()[..], b"body");
    }

    #[test]
    fn the_top_branch_is_what_the_top_via_says() {
        let branches =
            ["z9hG4bK1", "\"z9hG4bK1;x\"", "", "a;branch=b", "z9;rport;received=1.1.1.1, SIP/2.0/UDP b;branch=c"];
        for (name, fold) in [("Via", ""), ("v", ""), ("VIA ", "\r\n ")] {
            for branch in branches {
                let text = format!(
                    "BYE sip:a SIP/2.0\r\n{name}: SIP/2.0/UDP a:5060;rport{fold};Branch = {branch}\r\nVia: x;branch=y\r\n\r\n"
                );
                let message = Message::parse(Bytes::from(text.clone())).unwrap();
                let via = message.top_via().unwrap();
                assert_eq!(message.top_branch().as_deref(), via.branch(), "{text}");
            }
        }
        assert_eq!(Message::request(&Method::Bye, "sip:a").top_branch(), None);
    }

    #[test]
    fn edits_touch_only_their_lines() {
        let mut message = invite();
        message.remove_top_via();
        message.set_to_tag("t1");
        message.set_to_tag("t2");
        message.add_header("X-New", "a\r\nEvil: b");
        let text = String::from_utf8(message.to_bytes().to_vec()).unwrap();
        assert!(text.contains("Via: SIP/2.0/UDP two.example.com\r\nVia: SIP/2.0/UDP three.example.com\r\n"));
        assert!(text.contains("To: sip:b@example.com;tag=t1\r\n"));
        assert!(text.contains("CSeq: 1\r\n  INVITE\r\nX-Odd:kept  \r\n"));
        assert!(text.contains("X-New: aEvil: b\r\n"));
        assert_eq!(message.to().unwrap().tag(), Some("t1"));
    }

    #[test]
    fn a_response_copies_the_lines_as_they_came() {
        let response = Message::response(&invite(), 486, None);
        let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
        assert!(text.starts_with("SIP/2.0 486 Busy Here\r\nv: SIP/2.0/UDP one"));
        assert!(text.contains("f: \"A, B\" <sip:a@example.com>;tag=1\r\n"));
        assert_eq!((response.status(), response.method()), (Some(486), Method::Invite));
        let again = Message::parse(response.to_bytes()).unwrap();
        assert_eq!(again.reason().unwrap(), "Busy Here");
    }
}
