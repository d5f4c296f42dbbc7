//! What became of every line of a configuration that was read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// What became of a line, from the least grave to the gravest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It needs no counterpart: a default, a switch that is off, something that is tuned otherwise.
    NotNeeded,
    /// It means the same in the result.
    Carried,
    /// It is in the result, and means something a little different there.
    Changed,
    /// It is not in the result; there is something to do by hand.
    LeftOut,
}

impl Fate {
    /// As they are told: what there is to do comes first.
    const ALL: [Fate; 4] = [Fate::LeftOut, Fate::Changed, Fate::Carried, Fate::NotNeeded];

    fn title(self) -> &'static str {
        match self {
            Fate::Carried => "carried over",
            Fate::Changed => "carried over with a change",
            Fate::LeftOut => "could not be carried over",
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
    /// Where the note is that says this.
    places: HashMap<(Fate, String, String), usize>,
}

impl Report {
    /// Adds lines to the note that says the same of other lines, or a note.
    pub fn add(&mut self, fate: Fate, lines: &[u32], what: impl Into<String>, advice: impl Into<String>) {
        let (what, advice) = (what.into(), advice.into());
        let next = self.notes.len();
        let place = *self.places.entry((fate, what.clone(), advice.clone())).or_insert(next);
        if place == next {
            self.notes.push(Note { fate, lines: Vec::new(), what, advice });
        }
        let Some(note) = self.notes.get_mut(place) else { return };
        for line in lines {
            if let Err(at) = note.lines.binary_search(line) {
                note.lines.insert(at, *line);
            }
        }
    }

    /// The notes of one kind, by their first line.
    pub fn notes(&self, fate: Fate) -> Vec<&Note> {
        let mut notes: Vec<&Note> = self.notes.iter().filter(|note| note.fate == fate).collect();
        notes.sort_by_key(|note| note.lines.first().copied());
        notes
    }

    /// Gives every line one fate: the gravest that was said of it. What a lesser fate said of it goes along where it
    /// holds advice and would be lost. Lines of `all` that nobody spoke of get the fate and the words of `rest`.
    pub fn settle(&mut self, all: &[u32], rest: impl Fn(u32) -> (Fate, String, String)) {
        let mut gravest: BTreeMap<u32, Fate> = BTreeMap::new();
        for note in &self.notes {
            for line in &note.lines {
                let fate = gravest.entry(*line).or_insert(note.fate);
                *fate = (*fate).max(note.fate);
            }
        }
        for line in all.iter().filter(|line| !gravest.contains_key(line)) {
            let (fate, what, advice) = rest(*line);
            self.add(fate, &[*line], what, advice);
        }
        let mut moved = Vec::new();
        for note in &mut self.notes {
            let own = note.fate;
            let (kept, gone): (Vec<u32>, Vec<u32>) =
                note.lines.iter().partition(|line| gravest.get(line).is_none_or(|fate| *fate == own));
            note.lines = kept;
            if note.lines.is_empty() && !note.advice.is_empty() {
                for fate in gone.iter().filter_map(|line| gravest.get(line)).copied().collect::<BTreeSet<Fate>>() {
                    let lines: Vec<u32> =
                        gone.iter().filter(|line| gravest.get(line) == Some(&fate)).copied().collect();
                    moved.push((fate, lines, note.what.clone(), note.advice.clone()));
                }
            }
        }
        self.notes.retain(|note| !note.lines.is_empty());
        let key = |(place, note): (usize, &Note)| ((note.fate, note.what.clone(), note.advice.clone()), place);
        self.places = self.notes.iter().enumerate().map(key).collect();
        for (fate, lines, what, advice) in moved {
            self.add(fate, &lines, what, advice);
        }
    }

    /// The fate of a line: after [`Report::settle`] there is just one.
    pub fn fates(&self, line: u32) -> BTreeSet<Fate> {
        self.notes.iter().filter(|note| note.lines.contains(&line)).map(|note| note.fate).collect()
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
        assert!(text.starts_with("could not be carried over: 3 lines\n  3-4, 9            sip queue\n"), "{text}");
        assert!(text.contains("\ncarried over: 1 line\n"), "{text}");
    }

    #[test]
    fn a_line_has_the_gravest_fate_and_no_advice_is_lost() {
        let mut report = Report::default();
        report.add(Fate::Carried, &[1, 2, 3], "group", "");
        report.add(Fate::Changed, &[2], "balance", "look at it");
        report.add(Fate::LeftOut, &[2], "element", "write it");
        report.add(Fate::NotNeeded, &[3], "again", "");
        report.settle(&[1, 2, 3, 4], |_| (Fate::LeftOut, "?".to_owned(), String::new()));
        let fates: Vec<_> = (1..=4).map(|line| report.fates(line).into_iter().collect::<Vec<_>>()).collect();
        assert_eq!(fates, [vec![Fate::Carried], vec![Fate::LeftOut], vec![Fate::Carried], vec![Fate::LeftOut]]);
        let told: Vec<_> = report.notes(Fate::LeftOut).iter().map(|note| note.what.clone()).collect();
        assert_eq!(told, ["element", "balance", "?"]);
    }

    #[test]
    fn line_numbers_are_folded() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
        assert_eq!(ranges(&[]), "");
    }
}
