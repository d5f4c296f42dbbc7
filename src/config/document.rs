//! A TOML document with the place of every key and value, and complaints about them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Line, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub text: String,
    /// The line itself.
    pub source: String,
    width: usize,
}

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaints {
    /// Which file.
    pub file: PathBuf,
    /// In the order of the file.
    pub list: Vec<Complaint>,
}

impl Complaints {
    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Complaints {
        let text = format!("the file cannot be read: {error}");
        Complaints {
            file: file.to_owned(),
            list: vec![Complaint { line: 0, column: 0, text, source: String::new(), width: 0 }],
        }
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for complaint in &self.list {
            if complaint.line == 0 {
                writeln!(f, "{}: {}", self.file.display(), complaint.text)?;
                continue;
            }
            let Complaint { line, column, text, source, width } = complaint;
            writeln!(f, "{}:{line}:{column}: {text}", self.file.display())?;
            if source.is_empty() {
                continue;
            }
            writeln!(f, "  | {source}")?;
            writeln!(f, "  | {}{}", " ".repeat(column - 1), "^".repeat((*width).max(1)))?;
        }
        let count = self.list.len();
        write!(f, "{count} {}", if count == 1 { "error" } else { "errors" })
    }
}

impl std::error::Error for Complaints {}

/// Collects complaints against one text.
pub(super) struct Collector<'t> {
    file: PathBuf,
    text: &'t str,
    /// Lines are shown with complaints.
    shows: bool,
    list: Vec<(usize, Complaint)>,
}

impl<'t> Collector<'t> {
    pub(super) fn new(file: &Path, text: &'t str) -> Collector<'t> {
        Collector { file: file.to_owned(), text, shows: true, list: Vec::new() }
    }

    /// Does not show the lines: there are secrets in them.
    pub(super) fn without_source(self) -> Collector<'t> {
        Collector { shows: false, ..self }
    }

    pub(super) fn complain(&mut self, span: &Range<usize>, text: impl Into<String>) {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let source = self.text.get(line_start..).unwrap_or("").lines().next().unwrap_or("").to_owned();
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        let room = source.chars().count().saturating_sub(column - 1);
        let width = self.text.get(span.clone()).map_or(1, |marked| marked.chars().count()).min(room);
        let source = if self.shows && !holds_password(&source) { source } else { String::new() };
        self.list.push((start, Complaint { line, column, text: text.into(), source, width }));
    }

    pub(super) fn finish(mut self) -> Result<(), Complaints> {
        if self.list.is_empty() {
            return Ok(());
        }
        self.list.sort_by_key(|(at, _)| *at);
        Err(Complaints { file: self.file, list: self.list.into_iter().map(|(_, complaint)| complaint).collect() })
    }
}

/// Whether a line has a URL with a password: `//user:password@`.
fn holds_password(line: &str) -> bool {
    line.split("//").skip(1).any(|rest| rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')))
}

/// One table being read: keys are taken out; those left over are unknown.
pub(super) struct Section<'a, 'i> {
    name: String,
    table: Option<&'a DeTable<'i>>,
    pub(super) span: Range<usize>,
    asked: Vec<&'static str>,
}

impl<'a, 'i> Section<'a, 'i> {
    pub(super) fn root(table: &'a DeTable<'i>) -> Section<'a, 'i> {
        Section { name: String::new(), table: Some(table), span: 0..0, asked: Vec::new() }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// True if the section stands in the file.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.asked.push(key);
        self.table?.get(key)
    }

    /// A sub-table; an absent one reads as empty.
    pub(super) fn section(&mut self, key: &'static str, errors: &mut Collector<'_>) -> Section<'a, 'i> {
        let name = self.path(key);
        let found = self.get(key);
        let table = found.and_then(|value| value.get_ref().as_table());
        if let Some(value) = found.filter(|_| table.is_none()) {
            errors.complain(&value.span(), format!("{name} is a section: write [{name}]"));
        }
        Section { name, table, span: found.map_or(0..0, Spanned::span), asked: Vec::new() }
    }

    /// Where a key of a sub-table stands, if it is there.
    pub(super) fn place_of(&self, section: &str, key: &str) -> Option<Range<usize>> {
        Some(self.table?.get(section)?.get_ref().as_table()?.get(key)?.span())
    }

    /// The tables of `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str, errors: &mut Collector<'_>) -> Vec<Section<'a, 'i>> {
        let name = self.path(key);
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            errors.complain(&value.span(), format!("{name} may stand several times: write [[{name}]]"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_table() {
                Some(table) => {
                    found.push(Section {
                        name: name.clone(),
                        table: Some(table),
                        span: entry.span(),
                        asked: Vec::new(),
                    });
                }
                None => errors.complain(&entry.span(), format!("{name} holds tables: write [[{name}]]")),
            }
        }
        found
    }

    /// A text with its place.
    pub(super) fn text(&mut self, key: &'static str, errors: &mut Collector<'_>) -> Option<(String, Range<usize>)> {
        let name = self.path(key);
        let value = self.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some((text.to_owned(), value.span())),
            None => {
                let found = value.get_ref().type_str();
                errors.complain(&value.span(), format!("{name} is a text in quotes, not {found}"));
                None
            }
        }
    }

    /// A text that `read` understands; `right` says what would be right.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        right: &str,
        errors: &mut Collector<'_>,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let name = self.path(key);
        let (text, span) = self.text(key, errors)?;
        let value = read(&text);
        if value.is_none() {
            errors.complain(&span, format!("{name} = \"{text}\" is not understood: write {right}"));
        }
        value
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, key: &'static str, from: u64, to: u64, errors: &mut Collector<'_>) -> Option<u64> {
        let name = self.path(key);
        let value = self.get(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok());
        let number = number.filter(|number| (from..=to).contains(number));
        if number.is_none() {
            errors.complain(&value.span(), format!("{name} is a whole number from {from} to {to}"));
        }
        number
    }

    /// A list of whole numbers within bounds; those that are not are left out.
    pub(super) fn numbers(
        &mut self,
        key: &'static str,
        from: u64,
        to: u64,
        errors: &mut Collector<'_>,
    ) -> Option<Vec<u64>> {
        let name = self.path(key);
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            errors.complain(&value.span(), format!("{name} is a list of whole numbers: write [{from}, ...]"));
            return None;
        };
        let mut found = Vec::new();
        for entry in array.iter() {
            let number = entry.get_ref().as_integer().and_then(|number| number.as_str().parse().ok());
            match number.filter(|number: &u64| (from..=to).contains(number)) {
                Some(number) => found.push(number),
                None => errors.complain(&entry.span(), format!("{name} holds whole numbers from {from} to {to}")),
            }
        }
        Some(found)
    }

    /// true or false.
    pub(super) fn flag(&mut self, key: &'static str, errors: &mut Collector<'_>) -> Option<bool> {
        let name = self.path(key);
        let value = self.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            errors.complain(&value.span(), format!("{name} is true or false, without quotes"));
        }
        flag
    }

    /// A list of texts with their places.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        errors: &mut Collector<'_>,
    ) -> Option<Vec<(String, Range<usize>)>> {
        let name = self.path(key);
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            errors.complain(&value.span(), format!("{name} is a list of texts: write [\"...\", \"...\"]"));
            return None;
        };
        let mut found = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_str() {
                Some(text) => found.push((text.to_owned(), entry.span())),
                None => errors.complain(&entry.span(), format!("{name} holds texts in quotes")),
            }
        }
        Some(found)
    }

    /// Complains if a key is not there.
    pub(super) fn required(&mut self, key: &'static str, right: &str, errors: &mut Collector<'_>) {
        if self.get(key).is_none() {
            self.missing(key, right, errors);
        }
    }

    /// Where a required key is missing.
    pub(super) fn missing(&self, key: &str, right: &str, errors: &mut Collector<'_>) {
        let end = self.span.start + self.span.len().min(1);
        errors.complain(&(self.span.start..end), format!("{} is missing: {right}", self.path(key)));
    }

    /// Complains about keys that nobody asked for.
    pub(super) fn finish(self, errors: &mut Collector<'_>) {
        let Some(table) = self.table else { return };
        for (key, _) in table.iter().filter(|(key, _)| !self.asked.contains(&key.get_ref().as_ref())) {
            let name = self.path(key.get_ref());
            let near = self.asked.iter().min_by_key(|known| distance(known, key.get_ref()));
            let hint = match near.filter(|known| distance(known, key.get_ref()) <= 3) {
                Some(known) => format!("did you mean {known}?"),
                None => {
                    let mut known = self.asked.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("known here: {}", known.join(", "))
                }
            };
            errors.complain(&key.span(), format!("{name} is not a setting; {hint}"));
        }
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut previous = i;
        let mut next = vec![i + 1];
        for (cb, above) in b.iter().zip(row.iter().skip(1)) {
            let last = next.last().copied().unwrap_or(0);
            next.push((previous + usize::from(ca != *cb)).min(above + 1).min(last + 1));
            previous = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_password_is_not_repeated() {
        assert!(holds_password("url = \"postgres://ferric:se/c@ret@db.example/ferric\""));
        for open in [
            "url = \"postgres://ferric@db.example:5432/ferric\"",
            "store = \"https://s3.example:9000/a\"",
            "x = \"a:b@c\"",
        ] {
            assert!(!holds_password(open), "{open}");
        }
    }
}
