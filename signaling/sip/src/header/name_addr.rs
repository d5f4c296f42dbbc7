//! From, To, Contact, Route and their like: `"Name" <uri>;params` or `uri;params`.

use std::fmt;

use super::params::find;
use super::{HeaderError, Params, cut};
use crate::uri::Uri;

/// A URI with an optional display name and header parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// Display name without quotes.
    pub display: Option<String>,
    /// The URI as written.
    pub uri: String,
    /// Parameters of the header field, not of the URI.
    pub params: Params,
}

/// The parts of a value where they stand.
struct Parts<'a> {
    /// In quotes: still escaped.
    quoted: Option<&'a str>,
    display: Option<&'a str>,
    uri: &'a str,
    params: &'a str,
}

impl<'a> Parts<'a> {
    fn of(name: &'static str, text: &'a str) -> Result<Parts<'a>, HeaderError> {
        let text = text.trim();
        let (quoted, display, rest) = if let Some(inside) = text.strip_prefix('"') {
            let end = closing_quote(inside).ok_or(HeaderError::malformed(name, "a quoted string does not end"))?;
            let (quoted, rest) = inside.split_at(end);
            (Some(quoted), None, rest.get(1..).unwrap_or("").trim_start())
        } else {
            match memchr::memchr(b'<', text.as_bytes()) {
                Some(0) | None => (None, None, text),
                Some(at) => {
                    let (display, rest) = text.split_at(at);
                    if display.contains('"') {
                        return Err(HeaderError::malformed(name, "a quoted string does not end"));
                    }
                    (None, Some(display.trim()), rest)
                }
            }
        };
        let (uri, params) = match rest.strip_prefix('<') {
            Some(inside) => cut(inside, b'>').unwrap_or((inside, "")),
            None => {
                let (uri, params) = cut(rest, b';').unwrap_or((rest, ""));
                if uri.contains('?') {
                    return Err(HeaderError::malformed(
                        name,
                        "a URI with a question mark must stand in angle brackets",
                    ));
                }
                (uri, params)
            }
        };
        let uri = uri.trim();
        if uri.is_empty() {
            return Err(HeaderError::malformed(name, "there is no URI"));
        }
        let after = params.trim_start();
        if !after.is_empty() && rest.starts_with('<') && !after.starts_with(';') {
            return Err(HeaderError::malformed(name, "what follows the URI is no parameter"));
        }
        Ok(Parts { quoted, display, uri, params })
    }
}

impl NameAddr {
    /// Reads one value of the header field `name`.
    ///
    /// Borne as the field sends it: blanks inside `< >`, an unclosed `<`,
    /// display names that are no token.
    ///
    /// # Errors
    /// [`HeaderError::Malformed`] on an open quote, no URI, or a `?` outside of `< >`.
    pub fn parse(name: &'static str, text: &str) -> Result<NameAddr, HeaderError> {
        let Parts { quoted, display, uri, params } = Parts::of(name, text)?;
        let unescaped = quoted.map(|text| text.replace("\\\"", "\"").replace("\\\\", "\\"));
        let display = unescaped.or_else(|| display.map(str::to_owned)).filter(|display| !display.is_empty());
        Ok(NameAddr { display, uri: uri.to_owned(), params: Params::parse(params) })
    }

    /// Whether [`NameAddr::parse`] would take it, for less.
    ///
    /// # Errors
    /// As [`NameAddr::parse`].
    pub fn check(name: &'static str, text: &str) -> Result<(), HeaderError> {
        Parts::of(name, text).map(|_| ())
    }

    /// The tag of a value that [`NameAddr::parse`] would take, for less.
    pub(crate) fn tag_of(text: &str) -> Option<&str> {
        find(Parts::of("", text).ok()?.params, "tag").filter(|tag| !tag.is_empty())
    }

    /// The URI of a value that [`NameAddr::parse`] would take, for less.
    pub(crate) fn uri_of<'a>(name: &'static str, text: &'a str) -> Result<&'a str, HeaderError> {
        Parts::of(name, text).map(|parts| parts.uri)
    }

    /// The `tag` parameter.
    pub fn tag(&self) -> Option<&str> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }

    /// The URI taken apart, if it can be.
    pub fn parsed_uri(&self) -> Option<Uri> {
        Uri::parse(&self.uri).ok()
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display) = &self.display {
            write!(f, "\"{}\" ", display.replace('\\', "\\\\").replace('"', "\\\""))?;
        }
        write!(f, "<{}>{}", self.uri, self.params)
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_forms_of_the_field_are_read() {
        let parse = |text| NameAddr::parse("From", text).unwrap();
        let value = parse("\"A. \\\"G.\\\" Bell\" <sip:agb@bell.example.com;x=1> ;tag=43");
        assert_eq!(value.display.as_deref(), Some("A. \"G.\" Bell"));
        assert_eq!(value.uri, "sip:agb@bell.example.com;x=1");
        assert_eq!(value.tag(), Some("43"));
        assert_eq!(parse("sip:a@b;tag=1").tag(), Some("1"));
        assert_eq!(parse("caller<sip:a@b>;tag=1").display.as_deref(), Some("caller"));
        assert_eq!(parse("<sip:a@b;+sip.src").uri, "sip:a@b;+sip.src");
        assert_eq!(parse("< sip:a@b >").uri, "sip:a@b");
        assert!(parse("<sip:a@b>;+sip.src").params.has("+SIP.SRC"));
        for text in
            ["<sip:a@b;tag=u>;x;TAG = 7", "\"x;tag=1\" <sip:a@b>;tag=", "sip:a@b;tag=1", "<sip:a@b>", "< sip:c@d >"]
        {
            let value = parse(text);
            assert_eq!(
                (NameAddr::tag_of(text), NameAddr::uri_of("From", text).ok()),
                (value.tag(), Some(value.uri.as_str())),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for text in ["\"open <sip:a@b>", "", "<>", "sip:a@b?Route=x", "<sip:a@b> junk", "J \"open <sip:a@b>"] {
            assert!(NameAddr::parse("To", text).is_err(), "{text}");
            assert_eq!((NameAddr::tag_of(text), NameAddr::uri_of("From", text).ok()), (None, None), "{text}");
        }
    }
}
