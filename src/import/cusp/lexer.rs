//! Lines and words of the CUSP command line.
//!
//! Taken as it comes out of a terminal: prompts before commands, a pager's `--More--`, typographic dashes of documents,
//! quoted arguments. `!` begins a comment line. Nothing is an error here.

/// A command with its place.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Its number in the file, from 1.
    pub(super) number: u32,
    /// It begins with `no`, which is not among the words.
    pub(super) negated: bool,
    words: Vec<String>,
}

impl Line {
    /// The word at a place, empty if there is none.
    pub(super) fn word(&self, place: usize) -> &str {
        self.words.get(place).map_or("", String::as_str)
    }

    /// The words from a place on.
    pub(super) fn rest(&self, place: usize) -> &[String] {
        self.words.get(place..).unwrap_or_default()
    }

    /// True if the words begin so, in any case of letters.
    pub(super) fn starts(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(place, word)| self.word(place).eq_ignore_ascii_case(word))
    }

    /// The word behind a keyword.
    pub(super) fn after(&self, keyword: &str) -> Option<&str> {
        let place = self.words.iter().position(|word| word.eq_ignore_ascii_case(keyword))?;
        self.words.get(place + 1).map(String::as_str)
    }

    /// The command again, for people: without what is secret in it, and not longer than a line.
    pub(super) fn text(&self) -> String {
        let mut words: Vec<&str> = if self.negated { vec!["no"] } else { Vec::new() };
        for (place, word) in self.words.iter().enumerate() {
            words.push(word);
            let word = word.to_ascii_lowercase();
            let is_secret = SECRETS.iter().any(|secret| word.contains(secret)) || (word == "key" && place > 0);
            if is_secret && place + 1 < self.words.len() {
                words.push("***");
                break;
            }
        }
        shortened(&words.join(" "), MOST_TEXT)
    }

    /// The first word if it looks like one of a command line: a line that is not understood may hold anything.
    pub(super) fn name(&self) -> String {
        let word = self.word(0);
        let is_word = word.len() <= 24
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let no = if self.negated { "no " } else { "" };
        if is_word { format!("{no}{word} ...") } else { "a line that begins with no command".to_owned() }
    }
}

/// The words behind one like these are never repeated.
const SECRETS: [&str; 8] =
    ["password", "passwd", "secret", "passphrase", "community", "private", "token", "credential"];
/// Most characters of a command in the report.
const MOST_TEXT: usize = 120;

/// At most so many characters of a text.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most).chain("...".chars()).collect() }
}

/// The commands of a file; empty lines and comments are not among them.
///
/// A text without a single line feed has carriage returns between its lines. Certificates and keys in PEM are skipped: in
/// the place of each stands the command `pem`.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let separator = if text.contains('\n') { '\n' } else { '\r' };
    let mut in_pem = false;
    let mut lines = Vec::new();
    for (number, line) in (1_u32..).zip(text.split(separator)) {
        let begins = line.contains("-----BEGIN ");
        if begins || in_pem {
            in_pem = !line.contains("-----END ") && (begins || in_pem);
            lines.push(Line { number, negated: false, words: vec![PEM.to_owned()] });
        } else {
            lines.extend(read(number, line));
        }
    }
    lines
}

/// The command that stands for a line of PEM.
pub(super) const PEM: &str = "pem";

fn read(number: u32, line: &str) -> Option<Line> {
    let line = without_escapes(line).replace("--More--", "");
    let clean: String = line
        .chars()
        .map(|c| if matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}') { '-' } else { c })
        .filter(|c| *c == '\t' || !(c.is_control() || *c == '\u{feff}'))
        .collect();
    let command = without_prompt(clean.trim());
    if command.is_empty() || command.starts_with(['!', '#']) {
        return None;
    }
    let mut words = split(command);
    let negated = words.first().is_some_and(|word| word.eq_ignore_ascii_case("no"));
    if negated {
        words.remove(0);
    }
    (!words.is_empty()).then_some(Line { number, negated, words })
}

/// `se-192-0-2-1(cusp-config-sg)> element ...` is `element ...`, `cusp1# show ...` is `show ...`.
fn without_prompt(line: &str) -> &str {
    let Some(end) = line.find(['>', '#']) else { return line };
    let (prompt, command) = line.split_at(end);
    let command = command.get(1..).unwrap_or_default();
    let is_name = !prompt.is_empty() && prompt.chars().all(|c| c.is_ascii_alphanumeric() || "-_.()/".contains(c));
    let is_prompt = is_name && (prompt.contains("(cusp") || command.is_empty() || command.starts_with(' '));
    if is_prompt { command.trim_start() } else { line }
}

/// Without what moves a terminal's cursor or colours its text (ECMA-48 control sequences).
fn without_escapes(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
        } else {
            text.push(c);
        }
    }
    text
}

fn split(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                any = true;
            }
            '\\' if quoted && chars.peek() == Some(&'"') => word.extend(chars.next()),
            c if c.is_whitespace() && !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn one(text: &str) -> Line {
        lines(text).pop().unwrap()
    }

    #[test]
    fn what_a_terminal_adds_is_taken_off() {
        assert_eq!(one("se-192-0-2-1(cusp-config-sg)>  lbtype weight").text(), "lbtype weight");
        assert_eq!(one(" --More-- \u{8}\u{8}  no sip logging\r").text(), "no sip logging");
        assert_eq!(one("\u{feff}server\u{2212}group sip global-ping").word(0), "server-group");
        assert_eq!(one("header add X-Note first \"a > b # c\"").word(4), "a > b # c");
        assert!(lines("!\n\n! a comment\n#\n").is_empty());
    }

    #[test]
    fn secrets_and_keys_are_not_repeated() {
        assert_eq!(one("username admin password 0 hunter2").text(), "username admin password ***");
        assert_eq!(one("radius-server key hunter2").text(), "radius-server key ***");
        assert_eq!(one("key 1408 target-destination a b").text(), "key 1408 target-destination a b");
        assert_eq!(one("frobnicate hunter2").name(), "frobnicate ...");
        assert_eq!(one("aGVsbG8K hunter2").name(), "a line that begins with no command");
        let pem = lines("x\n-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\ny\n");
        assert_eq!(pem.iter().map(|line| line.word(0)).collect::<Vec<_>>(), ["x", PEM, PEM, PEM, "y"]);
    }

    #[test]
    fn terminals_and_old_editors_leave_no_trace() {
        assert_eq!(one("\u{1b}[7m--More--\u{1b}[m\r        \rsip logging").text(), "sip logging");
        assert_eq!(one("\u{c}sip logging").text(), "sip logging");
        assert_eq!(one("cusp1# show configuration active").text(), "show configuration active");
        let old = lines("sip logging\rsip tls\r");
        assert_eq!(
            old.iter().map(|line| (line.number, line.text())).collect::<Vec<_>>(),
            [(1, "sip logging".into()), (2, "sip tls".into())]
        );
    }

    #[test]
    fn quotes_hold_words_together_and_no_is_no_word() {
        let line = one("no policy normalization \"my policy\"");
        assert!(line.negated && line.starts(&["POLICY", "normalization"]));
        assert_eq!(line.after("normalization"), Some("my policy"));
        assert_eq!(split("a \"\" \"x\\\"y\""), ["a", "", "x\"y"]);
    }
}
