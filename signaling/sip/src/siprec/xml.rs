//! A bounded reader of XML into a small tree, by local names.
//!
//! Entities beyond the five predefined ones and character references are
//! refused, so a document cannot grow while it is read. What was read before an
//! error is kept.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Largest document read, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting read.
const MAX_DEPTH: usize = 32;
/// Most elements read.
const MAX_ELEMENTS: usize = 10_000;

/// One element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Local name in lower case.
    pub(super) name: String,
    /// Local attribute names in lower case, and values.
    pub(super) attributes: Vec<(String, String)>,
    /// Text of its own, trimmed.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    pub(super) fn attribute(&self, names: &[&str]) -> Option<&str> {
        self.attributes.iter().find(|(have, _)| names.contains(&have.as_str())).map(|(_, value)| value.as_str())
    }

    pub(super) fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(super) fn child_text(&self, name: &str) -> Option<&str> {
        self.children
            .iter()
            .find(|child| child.name == name)
            .map(|child| child.text.as_str())
            .filter(|text| !text.is_empty())
    }

    /// The text of the element, or of its `<id>` child.
    pub(super) fn reference(&self) -> Option<&str> {
        self.child_text("id").or(Some(self.text.as_str()).filter(|text| !text.is_empty()))
    }
}

/// Reads a document; beside the root comes what was wrong, if anything.
pub(super) fn read(bytes: &[u8]) -> (Option<Element>, Option<String>) {
    if bytes.len() > MAX_BYTES {
        return (None, Some(format!("the document is longer than {MAX_BYTES} bytes")));
    }
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader::from_str(&text);
    reader.config_mut().check_end_names = false;
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut count = 0;
    let problem = loop {
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(error) => break Some(error.to_string()),
        };
        match event {
            Event::Start(tag) | Event::Empty(tag) if count >= MAX_ELEMENTS || open.len() >= MAX_DEPTH => {
                drop(tag);
                break Some("too many or too deeply nested elements".to_owned());
            }
            // `<sip:ann@example.com>` in the middle of a text: somebody forgot to escape it.
            Event::Start(tag) if is_address(tag.name().as_ref()) => add_text(&mut open, &format!("<{}>", &*tag)),
            Event::Start(tag) => {
                count += 1;
                open.push(element(&tag));
            }
            Event::Empty(tag) => {
                count += 1;
                close(element(&tag), &mut open, &mut root);
            }
            Event::End(tag) => {
                // What was never closed ends with its parent; what was never opened ends nothing.
                let name = local(tag.name().as_ref());
                if let Some(at) = open.iter().rposition(|element| element.name == name) {
                    while open.len() > at
                        && let Some(element) = open.pop()
                    {
                        close(element, &mut open, &mut root);
                    }
                }
            }
            Event::Text(text) => add_text(&mut open, &text),
            Event::CData(text) => add_text(&mut open, &text),
            Event::GeneralRef(name) => match resolve(&name) {
                Some(c) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push(c);
                    }
                }
                None => break Some("an entity that XML does not define".to_owned()),
            },
            Event::DocType(_) => break Some("a document type definition".to_owned()),
            Event::Eof => break (!open.is_empty()).then(|| "the document ends in the middle".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    };
    while let Some(element) = open.pop() {
        close(element, &mut open, &mut root);
    }
    (root, problem)
}

fn local(name: &str) -> String {
    name.rsplit(':').next().unwrap_or("").to_ascii_lowercase()
}

fn is_address(name: &str) -> bool {
    name.contains('@') || name.starts_with("sip:") || name.starts_with("sips:") || name.starts_with("tel:")
}

fn element(tag: &quick_xml::events::BytesStart<'_>) -> Element {
    let attributes = tag
        .attributes()
        .with_checks(false)
        .flatten()
        .take(64)
        .map(|attribute| (local(attribute.key.as_ref()), unescape(attribute.value.trim())))
        .collect();
    Element { name: local(tag.name().as_ref()), attributes, ..Element::default() }
}

fn add_text(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn close(mut element: Element, open: &mut [Element], root: &mut Option<Element>) {
    element.text = element.text.trim().to_owned();
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None => {
            root.get_or_insert(element);
        }
    }
}

fn resolve(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        match after.split_once(';').and_then(|(name, tail)| Some((resolve(name.get(1..)?)?, tail))) {
            Some((c, tail)) => {
                out.push(c);
                rest = tail;
            }
            None => {
                out.push('&');
                rest = after.get(1..).unwrap_or("");
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn prefixes_case_and_cdata_do_not_matter() {
        let (root, problem) =
            read(b"<?xml version='1.0'?><tns:Recording xmlns:tns='x'><tns:A tns:ID=' &lt;1&#62; '>a <![CDATA[<b>]]></tns:A></tns:Recording>");
        assert_eq!(problem, None);
        let root = root.unwrap();
        assert_eq!(root.name, "recording");
        assert_eq!(root.children[0].attribute(&["id"]), Some("<1>"));
        assert_eq!(root.children[0].text, "a <b>");
    }

    #[test]
    fn blanks_beside_an_entity_stay() {
        let (root, _) = read(b"<name>\r\n  Smith &amp; Sons  </name>");
        assert_eq!(root.unwrap().text, "Smith & Sons");
    }

    #[test]
    fn a_cut_document_keeps_what_was_read() {
        let (root, problem) = read(b"<recording><a>1</a><b>2");
        assert!(problem.is_some());
        assert_eq!(root.unwrap().children.len(), 2);
    }

    #[test]
    fn unescaped_addresses_and_forgotten_ends_do_not_shift_the_rest() {
        let (root, problem) = read(
            b"<recording><a><name>Bob <sip:bob@example.com></name><b>never closed</a><c>1</c></stray><d/></recording>",
        );
        assert_eq!(problem, None);
        let root = root.unwrap();
        assert_eq!(root.children.iter().map(|child| child.name.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
        assert_eq!(root.children[0].child_text("name"), Some("Bob <sip:bob@example.com>"));
        assert_eq!(root.children[0].child_text("b"), Some("never closed"));
    }

    #[test]
    fn bombs_are_refused_and_not_expanded() {
        let bomb = b"<!DOCTYPE r [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><r>&b;</r>";
        assert!(read(bomb).1.is_some());
        assert!(read(b"<r>&b;</r>").1.is_some());
        let deep = "<a>".repeat(100_000);
        assert!(read(deep.as_bytes()).1.is_some());
        let wide = format!("<r>{}</r>", "<a/>".repeat(20_000));
        assert!(read(wide.as_bytes()).1.is_some());
        assert!(read(&vec![b' '; MAX_BYTES + 1]).1.is_some());
    }
}
