//! One header line: where its bytes are, how long its name is, and which field it is.
//!
//! A field that is asked for often has a number, found once when the line is made, so
//! that looking for a field compares numbers, whatever the line's spelling. Number 0 is
//! every other field: those are compared by name.

use std::borrow::Cow;

use bytes::Bytes;

/// Fields with a number, by the length of their name, with the compact form (RFC 3261 7.3.3 and the registry).
const FIELDS: [(&str, u8, u8); 36] = [
    ("To", b't', 1),
    ("Via", b'v', 2),
    ("From", b'f', 3),
    ("Date", 0, 4),
    ("CSeq", 0, 5),
    ("Path", 0, 6),
    ("RSeq", 0, 7),
    ("RAck", 0, 8),
    ("Route", 0, 9),
    ("Event", b'o', 10),
    ("Allow", 0, 11),
    ("Accept", 0, 12),
    ("Reason", 0, 13),
    ("Call-ID", b'i', 14),
    ("Contact", b'm', 15),
    ("Require", 0, 16),
    ("Subject", b's', 17),
    ("Expires", 0, 18),
    ("Refer-To", b'r', 19),
    ("Supported", b'k', 20),
    ("Timestamp", 0, 21),
    ("User-Agent", 0, 22),
    ("Referred-By", b'b', 23),
    ("Retry-After", 0, 24),
    ("Content-Type", b'c', 25),
    ("Max-Forwards", 0, 26),
    ("Max-Breadth", 0, 27),
    ("Record-Route", 0, 28),
    ("Proxy-Require", 0, 29),
    ("Authorization", 0, 30),
    ("Reject-Contact", b'j', 31),
    ("Content-Length", b'l', 32),
    ("Accept-Contact", b'a', 33),
    ("Session-Expires", b'x', 34),
    ("Content-Encoding", b'e', 35),
    ("Request-Disposition", b'd', 36),
];

/// Slots of [`TABLE`]; a power of two.
const SLOTS: usize = 256;

/// A slot by length, first and last letter, whatever their case. `spread` is such that no two fields share one.
#[allow(clippy::indexing_slicing)]
const fn slot(spread: u32, name: &[u8]) -> usize {
    let (first, last) = (name[0] | 0x20, name[name.len() - 1] | 0x20);
    let mixed = (((first as u32) << 16) | ((last as u32) << 8) | name.len() as u32).wrapping_mul(spread);
    (mixed >> 24) as usize % SLOTS
}

/// Where in [`FIELDS`] the field of a slot is, plus one; 0 for none.
struct Table {
    spread: u32,
    places: [u8; SLOTS],
}

static TABLE: Table = table();

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
const fn table() -> Table {
    let mut spread = 0x9e37_79b9_u32;
    loop {
        let (mut places, mut at) = ([0; SLOTS], 0);
        while at < FIELDS.len() {
            let slot = slot(spread, FIELDS[at].0.as_bytes());
            if places[slot] != 0 {
                break;
            }
            places[slot] = at as u8 + 1;
            at += 1;
        }
        if at == FIELDS.len() {
            return Table { spread, places };
        }
        spread = spread.wrapping_mul(0x01d0_9f35).wrapping_add(0x3c6e_f35f) | 1;
    }
}

/// The number of the field of that name, in any form; 0 when it has none.
fn number_of(name: &[u8]) -> u8 {
    match name {
        [] => 0,
        [letter] => {
            let letter = letter.to_ascii_lowercase();
            FIELDS.iter().find(|(_, compact, _)| *compact == letter).map_or(0, |(_, _, number)| *number)
        }
        _ => {
            let place = TABLE.places.get(slot(TABLE.spread, name)).copied().unwrap_or(0);
            let field = usize::from(place).checked_sub(1).and_then(|at| FIELDS.get(at));
            let is_it = |full: &[u8]| full == name || full.eq_ignore_ascii_case(name);
            field.filter(|(full, _, _)| is_it(full.as_bytes())).map_or(0, |(_, _, number)| *number)
        }
    }
}

/// A field that is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    name: &'a str,
    number: u8,
}

impl<'a> Field<'a> {
    pub(super) fn named(name: &'a str) -> Field<'a> {
        Field { name, number: number_of(name.as_bytes()) }
    }
}

/// Bytes of the received message, or bytes of our own.
#[derive(Debug, Clone)]
pub(super) enum Text {
    Raw(u32, u32),
    Own(Box<[u8]>),
}

impl Text {
    /// `None` beyond what a message can be.
    pub(super) fn raw(from: usize, to: usize) -> Option<Text> {
        Some(Text::Raw(u32::try_from(from).ok()?, u32::try_from(to).ok()?))
    }

    /// Moves the end of received text.
    pub(super) fn extend_to(&mut self, end: usize) -> Option<()> {
        let Text::Raw(_, to) = self else { return None };
        *to = u32::try_from(end).ok()?;
        Some(())
    }

    pub(super) fn bytes<'a>(&'a self, raw: &'a Bytes) -> &'a [u8] {
        match self {
            Text::Raw(from, to) => raw.get(*from as usize..*to as usize).unwrap_or(&[]),
            Text::Own(own) => own,
        }
    }
}

/// One header line with its folded continuation and its line end.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) text: Text,
    name: u32,
    number: u8,
}

impl Line {
    /// A line as it came; `name` is how it begins.
    pub(super) fn received(text: Text, name: &[u8]) -> Line {
        Line { text, name: u32::try_from(name.len()).unwrap_or(0), number: number_of(name) }
    }

    pub(super) fn own(name: &str, value: &str) -> Line {
        let mut text = Vec::with_capacity(name.len() + value.len() + 4);
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        // A line break inside a value would be a header of somebody else's choice.
        if value.bytes().any(|b| matches!(b, b'\r' | b'\n')) {
            text.extend(value.bytes().filter(|b| !matches!(b, b'\r' | b'\n')));
        } else {
            text.extend_from_slice(value.as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        Line::received(Text::Own(text.into()), name.as_bytes())
    }

    /// The same line where `raw` is another one.
    pub(super) fn detached(&self, raw: &Bytes) -> Line {
        Line { text: Text::Own(self.text.bytes(raw).into()), ..*self }
    }

    pub(super) fn name<'a>(&'a self, raw: &'a Bytes) -> &'a [u8] {
        self.text.bytes(raw).get(..self.name as usize).unwrap_or(&[])
    }

    pub(super) fn is(&self, raw: &Bytes, field: Field<'_>) -> bool {
        if field.number != 0 || self.number != 0 {
            return self.number == field.number;
        }
        self.name as usize == field.name.len() && self.name(raw).eq_ignore_ascii_case(field.name.as_bytes())
    }

    /// The value, unfolded and trimmed.
    pub(super) fn value<'a>(&'a self, raw: &'a Bytes) -> Cow<'a, str> {
        let bytes = self.text.bytes(raw);
        let after = bytes.get(self.name as usize..).unwrap_or(&[]);
        let colon = after.iter().position(|&b| b == b':').map_or(after.len(), |at| at + 1);
        let value = after.get(colon..).unwrap_or(&[]).trim_ascii();
        if memchr::memchr(b'\n', value).is_some() {
            let text = text_of(value);
            let parts: Vec<&str> = text.lines().map(str::trim).filter(|part| !part.is_empty()).collect();
            return Cow::Owned(parts.join(" "));
        }
        text_of(value)
    }
}

/// Bytes as text; what is no UTF-8 is replaced. Most are, which is seen faster than repaired.
pub(super) fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_field_is_found_in_all_its_forms_and_by_no_other_name() {
        for (name, compact, number) in FIELDS {
            assert_eq!(number_of(name.as_bytes()), number, "{name}");
            assert_eq!(number_of(name.to_ascii_uppercase().as_bytes()), number);
            if compact != 0 {
                assert_eq!(number_of(&[compact]), number);
                assert_eq!(number_of(&[compact.to_ascii_uppercase()]), number);
            }
            assert_eq!(number_of(format!("{name}s").as_bytes()), 0, "{name}");
        }
        let mut numbers: Vec<u8> = FIELDS.iter().map(|(_, _, number)| *number).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), FIELDS.len(), "in order, none twice");
        for name in ["", "q", "X-Unknown", "A-Name-Of-More-Than-Twenty-Letters"] {
            assert_eq!(number_of(name.as_bytes()), 0, "{name}");
        }
    }

    #[test]
    fn a_line_keeps_to_one_line() {
        let line = Line::own("X-A", "a\r\nb: c");
        assert_eq!(line.text.bytes(&Bytes::new()), b"X-A: ab: c\r\n");
        assert!(line.is(&Bytes::new(), Field::named("x-a")) && !line.is(&Bytes::new(), Field::named("X-B")));
    }

    #[test]
    fn a_line_takes_little_room() {
        assert!(std::mem::size_of::<Line>() <= 24, "{}", std::mem::size_of::<Line>());
    }
}
