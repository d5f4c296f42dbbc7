//! The index of a running recording: how long its audio is after which segment.
//!
//! The edge cannot look into what it sealed, so the true length of a recording
//! that a crash cut off must be told beside it. The index is a text file that
//! grows by a line whenever the audio grows; a line is written *before* the
//! segments it announces, so whatever audio survives has its line.
//!
//! ```text
//! {"v":1,"id":"...","tenant":"acme","node":"edge-a1","started_at":"2026-03-01T08:09:10.250Z"}
//! 12 11980 5d41402a                 after 12 segments the audio is 11,980 ms long
//! end 13 12460 1772352550710 9e107d9d   13 segments are all of it; the call ended at that Unix time in ms
//! ```
//!
//! The last word of a line is the first 8 hexadecimal digits of the SHA-256 of
//! the text before it (without the blank). A line that does not check is left
//! out: after a power failure a file may end in zeros or in half a line. No
//! personal data: ids, times and counts only.

use serde::{Deserialize, Serialize};

use ferric_media::manifest::Digest;
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;

/// Who a recording belongs to and when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingStart {
    /// Which files of which recording.
    #[serde(flatten)]
    pub part: Part,
    /// Whose it is.
    pub tenant: String,
    /// The node that records it.
    pub node: String,
    /// Zero of its timeline.
    pub started_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct FirstLine {
    v: u32,
    #[serde(flatten)]
    start: RecordingStart,
}

/// How long the audio is after a number of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Whole segments in the file.
    pub segments: u32,
    /// Length of the audio in them, in milliseconds.
    pub duration_ms: u64,
}

/// What an index says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// The first line, if it is whole.
    pub start: Option<RecordingStart>,
    /// The marks, in order.
    pub marks: Vec<Mark>,
    /// The last line of a recording that was finished: its final mark and when the call ended.
    pub end: Option<(Mark, Timestamp)>,
}

/// The first line.
pub(crate) fn first_line(start: &RecordingStart) -> String {
    let line = serde_json::to_string(&FirstLine { v: 1, start: start.clone() }).unwrap_or_default();
    format!("{line}\n")
}

/// The line of a mark.
pub(crate) fn mark_line(mark: Mark) -> String {
    checked(format!("{} {}", mark.segments, mark.duration_ms))
}

/// The line that ends an index.
pub(crate) fn end_line(mark: Mark, ended_at: Timestamp) -> String {
    checked(format!("end {} {} {}", mark.segments, mark.duration_ms, ended_at.unix_ms()))
}

fn checked(text: String) -> String {
    let check = check(&text);
    format!("{text} {check}\n")
}

fn check(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string().chars().take(8).collect()
}

impl Index {
    /// Reads what is whole and leaves out the rest.
    pub fn parse(bytes: &[u8]) -> Index {
        let mut index = Index::default();
        // Without its line end a line may be half of itself and still check by chance.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
        for (number, line) in lines.enumerate() {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            if number == 0 {
                index.start =
                    serde_json::from_str::<FirstLine>(line).ok().filter(|first| first.v == 1).map(|first| first.start);
                continue;
            }
            let Some((text, sum)) = line.rsplit_once(' ') else { continue };
            if sum != check(text) {
                continue;
            }
            let words: Vec<&str> = text.split(' ').collect();
            match words.as_slice() {
                ["end", segments, duration_ms, ended_at] => {
                    if let (Some(mark), Ok(ended_at)) = (mark(segments, duration_ms), ended_at.parse()) {
                        index.end = Some((mark, Timestamp::from_unix_ms(ended_at)));
                    }
                }
                [segments, duration_ms] => index.marks.extend(mark(segments, duration_ms)),
                _ => {}
            }
        }
        index
    }

    /// Length of the audio in the first `segments` segments, in milliseconds: that of the last
    /// mark that lies within them.
    pub fn duration_ms(&self, segments: u32) -> Option<u64> {
        let end = self.end.iter().map(|(mark, _)| mark);
        self.marks.iter().chain(end).filter(|mark| mark.segments <= segments).map(|mark| mark.duration_ms).max()
    }
}

fn mark(segments: &str, duration_ms: &str) -> Option<Mark> {
    Some(Mark { segments: segments.parse().ok()?, duration_ms: duration_ms.parse().ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use uuid::Uuid;

    fn start() -> RecordingStart {
        RecordingStart {
            part: Part::new(Uuid::from_u128(1), 2, Uuid::from_u128(9)),
            tenant: "acme".into(),
            node: "n".into(),
            started_at: Timestamp::from_unix_ms(1_772_352_538_250),
        }
    }

    fn file() -> Vec<u8> {
        let mark = |segments, duration_ms| Mark { segments, duration_ms };
        let ended_at = Timestamp::from_unix_ms(1_772_352_540_000);
        [first_line(&start()), mark_line(mark(1, 980)), mark_line(mark(3, 1980)), end_line(mark(4, 2100), ended_at)]
            .concat()
            .into_bytes()
    }

    #[test]
    fn an_index_comes_back() {
        let index = Index::parse(&file());
        assert_eq!(index.start, Some(start()));
        assert_eq!(index.marks.len(), 2);
        assert_eq!(index.end.unwrap().0, Mark { segments: 4, duration_ms: 2100 });
        let durations = [0, 1, 2, 3, 4, 9].map(|segments| Index::parse(&file()).duration_ms(segments));
        assert_eq!(durations, [None, Some(980), Some(980), Some(1980), Some(2100), Some(2100)]);
    }

    #[test]
    fn a_cut_index_never_tells_more_than_was_written() {
        let (file, whole) = (file(), Index::parse(&file()));
        for cut in 0..file.len() {
            let index = Index::parse(&file[..cut]);
            assert!(index.marks.len() <= whole.marks.len() && whole.marks.starts_with(&index.marks), "cut at {cut}");
            assert!(index.start.is_none() || index.start == whole.start);
            assert!(index.end.is_none());
            let mut zeros = file[..cut].to_vec();
            zeros.extend([0; 40]);
            assert!(whole.marks.starts_with(&Index::parse(&zeros).marks));
        }
    }

    #[test]
    fn an_altered_line_is_left_out() {
        let file = file();
        let second = file.iter().position(|b| *b == b'\n').unwrap() + 1;
        for at in second..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1;
            let index = Index::parse(&altered);
            assert!(index.marks.len() + usize::from(index.end.is_some()) <= 3);
            assert!(index.marks.iter().all(|mark| [(1, 980), (3, 1980)].contains(&(mark.segments, mark.duration_ms))));
        }
    }
}
