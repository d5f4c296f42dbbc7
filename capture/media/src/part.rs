//! The parts of a recording: one pair of sealed files each.
//!
//! A recording is what users see. It is written by one node as a rule; when that node is lost, the recording goes on at
//! another one as its next part. Each part is a pair of files with an id of its own, sealed, signed, spooled and stored
//! like any other, so that it opens and verifies alone; what makes several of them one recording is the id and the number
//! that each carries. Where two nodes record the same media, one of them writes a *copy*: the same recording and number,
//! another file.
//!
//! In JSON (headers, manifests, metadata, spool index) a part is four members of the document that it stands in:
//!
//! ```text
//! "id":        the files
//! "recording": the recording; absent = the same as "id"
//! "part":      1, 2, ...;     absent = 1
//! "copy":      true           absent = not one
//! ```
//!
//! The files of a first part have the recording's id, so a document with `id` alone is that of a first part, and most are.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which files of which recording these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Members", into = "Members")]
pub struct Part {
    /// Names the files: the folder in the spool, the key in the store.
    pub file: Uuid,
    /// The recording that they belong to.
    pub recording: Uuid,
    /// Which part of it, counted from 1.
    pub number: NonZeroU32,
    /// Another node records the same media, and its files go before these.
    pub copy: bool,
}

impl Part {
    /// The first part of a recording; most have no other.
    pub fn first(recording: Uuid) -> Part {
        Part { file: recording, recording, number: NonZeroU32::MIN, copy: false }
    }

    /// A later part, or a first one whose files have another name. Counting from 0 is not known here: 0 is taken for 1.
    pub fn new(recording: Uuid, number: u32, file: Uuid) -> Part {
        Part { file, recording, number: NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN), copy: false }
    }

    /// The same part, written a second time into other files.
    pub fn copied(self, file: Uuid) -> Part {
        Part { file, copy: true, ..self }
    }

    /// Whether something came before it.
    pub fn is_later(self) -> bool {
        self.number > NonZeroU32::MIN
    }
}

/// A part as members of a JSON document.
#[derive(Serialize, Deserialize)]
struct Members {
    id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recording: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    copy: bool,
}

impl From<Members> for Part {
    fn from(members: Members) -> Part {
        Part {
            file: members.id,
            recording: members.recording.unwrap_or(members.id),
            number: members.part.unwrap_or(NonZeroU32::MIN),
            copy: members.copy,
        }
    }
}

impl From<Part> for Members {
    fn from(part: Part) -> Members {
        let is_plain = part == Part::first(part.recording);
        Members {
            id: part.file,
            recording: (!is_plain).then_some(part.recording),
            part: (!is_plain).then_some(part.number),
            copy: part.copy,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Document {
        #[serde(flatten)]
        part: Part,
        tenant: String,
    }

    fn document(members: &str) -> serde_json::Result<Document> {
        serde_json::from_str(&format!("{{{members},\"tenant\":\"acme\"}}"))
    }

    const FILE: &str = r#""id":"00000000-0000-0000-0000-000000000007""#;

    #[test]
    fn a_document_of_before_is_a_recording_of_one_part() {
        assert_eq!(document(FILE).unwrap().part, Part::first(Uuid::from_u128(7)));
        assert!(document(&format!("{FILE},\"part\":0")).is_err());
        assert!(document(&format!("{FILE},\"part\":\"2\"")).is_err());
        assert!(document("\"part\":2").is_err());
    }

    #[test]
    fn a_part_comes_back_from_its_document() {
        let second = Part::new(Uuid::from_u128(7), 2, Uuid::from_u128(9));
        for part in [Part::first(Uuid::from_u128(7)), second, second.copied(Uuid::from_u128(11))] {
            let json = serde_json::to_string(&Document { part, tenant: "acme".into() }).unwrap();
            assert_eq!(serde_json::from_str::<Document>(&json).unwrap().part, part, "{json}");
            assert_eq!(json.contains("copy"), part.copy);
            assert_eq!(json.contains("recording"), part.file != part.recording, "a first part has its id only");
        }
        assert!(second.is_later() && !Part::first(Uuid::from_u128(7)).is_later());
    }
}
