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

    /// The command again, for people.
    pub(super) fn text(&self) -> String {
        let words = self.words.join(" ");
        if self.negated { format!("no {words}") } else { words }
    }
}

/// The commands of a file; empty lines and comments are not among them.
pub(super) fn lines(text: &str) -> Vec<Line> {
    (1_u32..).zip(text.lines()).filter_map(|(number, line)| read(number, line)).collect()
}

fn read(number: u32, line: &str) -> Option<Line> {
    let line = line.replace("--More--", "");
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

/// `se-192-0-2-1(cusp-config-sg)> element ...` is `element ...`.
fn without_prompt(line: &str) -> &str {
    let Some(end) = line.find(['>', '#']) else { return line };
    let (prompt, command) = line.split_at(end);
    let is_prompt = prompt.contains("(cusp") && prompt.ends_with(')') && !prompt.contains(' ');
    if is_prompt { command.get(1..).unwrap_or_default().trim_start() } else { line }
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
    fn quotes_hold_words_together_and_no_is_no_word() {
        let line = one("no policy normalization \"my policy\"");
        assert!(line.negated && line.starts(&["POLICY", "normalization"]));
        assert_eq!(line.after("normalization"), Some("my policy"));
        assert_eq!(split("a \"\" \"x\\\"y\""), ["a", "", "x\"y"]);
    }
}
