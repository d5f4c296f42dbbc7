//! What became of every line of a configuration that was read.

use std::fmt;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It means the same in the result.
    Carried,
    /// It is in the result, and means something a little different there.
    Changed,
    /// It is not in the result.
    LeftOut,
    /// It needs no counterpart: a default, a switch that is off, something that is tuned otherwise.
    NotNeeded,
}

impl Fate {
    const ALL: [Fate; 4] = [Fate::Carried, Fate::Changed, Fate::LeftOut, Fate::NotNeeded];

    fn title(self) -> &'static str {
        match self {
            Fate::Carried => "carried over",
            Fate::Changed => "changed meaning",
            Fate::LeftOut => "left out",
            Fate::NotNeeded => "not needed",
        }
    }
}

/// One thing to know about some lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What became of them.
    pub fate: Fate,
    /// Their numbers, from 1, in order.
    pub lines: Vec<u32>,
    /// What they are.
    pub what: String,
    /// What differs and what to do; empty where there is nothing to do.
    pub advice: String,
}

/// All that is to be known, as a table for a person.
#[derive(Debug, Default)]
pub struct Report {
    notes: Vec<Note>,
}

impl Report {
    /// Adds lines to the note that says the same of other lines, or a note.
    pub fn add(&mut self, fate: Fate, lines: &[u32], what: impl Into<String>, advice: impl Into<String>) {
        let (what, advice) = (what.into(), advice.into());
        let same = |note: &&mut Note| note.fate == fate && note.what == what && note.advice == advice;
        if let Some(note) = self.notes.iter_mut().find(same) {
            note.lines.extend_from_slice(lines);
            note.lines.sort_unstable();
            note.lines.dedup();
        } else {
            let mut lines = lines.to_vec();
            lines.sort_unstable();
            lines.dedup();
            self.notes.push(Note { fate, lines, what, advice });
        }
    }

    /// The notes of one kind, by their first line.
    pub fn notes(&self, fate: Fate) -> Vec<&Note> {
        let mut notes: Vec<&Note> = self.notes.iter().filter(|note| note.fate == fate).collect();
        notes.sort_by_key(|note| note.lines.first().copied());
        notes
    }

    /// True if something has no counterpart in the result.
    pub fn has_left_out(&self) -> bool {
        self.notes.iter().any(|note| note.fate == Fate::LeftOut)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fate in Fate::ALL {
            let notes = self.notes(fate);
            let count: usize = notes.iter().map(|note| note.lines.len()).sum();
            let (title, plural) = (fate.title(), if count == 1 { "" } else { "s" });
            writeln!(f, "{title}: {count} line{plural}")?;
            for note in notes {
                writeln!(f, "  {:<16}  {}", ranges(&note.lines), note.what)?;
                if !note.advice.is_empty() {
                    writeln!(f, "  {:<16}  -> {}", "", note.advice)?;
                }
            }
        }
        Ok(())
    }
}

/// `3, 7-9`: line numbers as a person writes them.
pub fn ranges(lines: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for line in lines {
        match parts.last_mut() {
            Some((_, last)) if *line == *last || *line == *last + 1 => *last = *line,
            _ => parts.push((*line, *line)),
        }
    }
    let part = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_is_one_note_with_all_its_lines() {
        let mut report = Report::default();
        report.add(Fate::LeftOut, &[9, 3], "sip queue", "nothing to do");
        report.add(Fate::LeftOut, &[4], "sip queue", "nothing to do");
        report.add(Fate::Carried, &[1], "sip listen", "");
        assert_eq!(report.notes(Fate::LeftOut).len(), 1);
        assert!(report.has_left_out());
        let text = report.to_string();
        assert!(text.contains("left out: 3 lines\n  3-4, 9            sip queue\n"), "{text}");
        assert!(text.starts_with("carried over: 1 line\n"), "{text}");
    }

    #[test]
    fn line_numbers_are_folded() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
        assert_eq!(ranges(&[]), "");
    }
}
