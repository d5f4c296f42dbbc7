//! `;name=value` lists. Names are compared without case; order and form stay.

use std::fmt;

use smallvec::SmallVec;

use super::{cut, next_part};

/// Parameters in the order in which they came: one text, and where in it each one lies.
#[derive(Debug, Clone, Default)]
pub struct Params {
    text: String,
    items: SmallVec<[Item; 4]>,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    name: Span,
    value: Option<Span>,
}

/// From, to: bytes of the text.
type Span = (u32, u32);

/// What [`Params::get`] would tell of a list, without reading all of it.
pub(super) fn find<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = Some(list);
    while let Some(text) = rest {
        let (item, after) = next_part(text, b';');
        let (have, value) = cut(item, b'=').unwrap_or((item, ""));
        if have.trim().eq_ignore_ascii_case(name) {
            return Some(unquoted(value.trim()));
        }
        rest = after;
    }
    None
}

fn unquoted(value: &str) -> &str {
    let quoted = value.starts_with('"') || value.ends_with('"');
    if quoted { value.trim_matches('"') } else { value }
}

impl Params {
    /// Reads `a=b;c;d="e f"`, with or without a leading semicolon.
    pub fn parse(text: &str) -> Params {
        let mut params = Params { text: String::with_capacity(text.len()), items: SmallVec::new() };
        let mut rest = Some(text).filter(|text| !text.is_empty());
        while let Some(text) = rest {
            let (item, after) = next_part(text, b';');
            rest = after;
            let item = item.trim();
            if item.is_empty() {
                continue;
            }
            match cut(item, b'=') {
                Some((name, value)) => params.add(name.trim(), Some(value.trim())),
                None => params.add(item, None),
            }
        }
        params
    }

    fn add(&mut self, name: &str, value: Option<&str>) {
        let name = self.keep(name);
        let value = value.map(|value| self.keep(value));
        self.items.push(Item { name, value });
    }

    fn keep(&mut self, text: &str) -> Span {
        let from = self.text.len();
        self.text.push_str(text);
        // No message is that long.
        (u32::try_from(from).unwrap_or(u32::MAX), u32::try_from(self.text.len()).unwrap_or(u32::MAX))
    }

    fn at(&self, span: Span) -> &str {
        self.text.get(span.0 as usize..span.1 as usize).unwrap_or("")
    }

    /// The value of `name`, quotes removed; empty for a parameter without one.
    pub fn get(&self, name: &str) -> Option<&str> {
        Some(unquoted(self.raw(name)?.unwrap_or("")))
    }

    /// True if `name` is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Sets or replaces `name`.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        match self.items.iter().position(|item| self.at(item.name).eq_ignore_ascii_case(name)) {
            Some(at) => {
                let value = value.map(|value| self.keep(value));
                if let Some(item) = self.items.get_mut(at) {
                    item.value = value;
                }
            }
            None => self.add(name, value),
        }
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.items.retain(|item| {
            !text.get(item.name.0 as usize..item.name.1 as usize).unwrap_or("").eq_ignore_ascii_case(name)
        });
    }

    /// All parameters as they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.items.iter().map(|item| (self.at(item.name), item.value.map(|value| self.at(value))))
    }

    fn raw(&self, name: &str) -> Option<Option<&str>> {
        self.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl PartialEq for Params {
    fn eq(&self, other: &Params) -> bool {
        self.items.len() == other.items.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Params {}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(name, value)| match value {
            Some(value) => write!(f, ";{name}={value}"),
            None => write!(f, ";{name}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_changed_and_written_in_their_order() {
        let mut params = Params::parse(";a=1; B ;c=\"x;y\";d=");
        assert_eq!(params.get("A"), Some("1"));
        assert_eq!((params.get("b"), params.get("c"), params.get("d")), (Some(""), Some("x;y"), Some("")));
        assert_eq!(params.to_string(), ";a=1;B;c=\"x;y\";d=");
        params.set("A", Some("22"));
        params.set("b", None);
        params.set("e", Some("5"));
        params.remove("C");
        assert_eq!(params.to_string(), ";a=22;B;d=;e=5");
        assert_eq!(params, Params::parse("a=22;B;d=;e=5"), "however it came to be");
        assert_ne!(params, Params::parse("a=22;B;d;e=5"));
        assert!(!params.has("c") && params.has("D"));
        for text in ["", ";a", "a=1;A=2", ";x ; B = \" 2;a=3\" ; a=4", "a=\"", ";=1;a=b=c"] {
            for name in ["a", "B", "x", ""] {
                assert_eq!(
                    find(text, name).filter(|_| !name.is_empty()),
                    Params::parse(text).get(name).filter(|_| !name.is_empty()),
                    "{name} in {text}"
                );
            }
        }
        assert_eq!(Params::parse(" ; ;"), Params::default());
    }
}
