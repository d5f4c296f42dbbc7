//! What the files of a mirrored recording know of each other: `twin.json` in the spool's folder.
//!
//! ```text
//! {"v":1,"role":"copy","file":"<file id of the twin>","node":"edge-a1","started_at":"2026-03-01T08:09:10.250Z"}
//! ```
//!
//! `file`, and the day of `started_at`, give the twin's place in the store. No personal data.

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use ferric_media::manifest::RecordingState;
use ferric_media::timestamp::Timestamp;

use crate::spool::{SpoolError, write_whole};

/// The file's name.
pub const TWIN: &str = "twin.json";

/// Which of the two these files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Recorded from the sockets.
    Original,
    /// Recorded from the mirror.
    Copy,
}

/// The other files of the same part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// What these files are.
    pub role: Role,
    /// The twin's file id.
    pub file: Uuid,
    /// The node that has it.
    pub node: String,
    /// When the twin's timeline began.
    pub started_at: Timestamp,
    /// These files were a copy and went on as the recording.
    #[serde(default)]
    pub promoted: bool,
    /// How these files ended; absent while they grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What some files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How they ended.
    pub state: RecordingState,
    /// From when.
    pub started_at: Timestamp,
    /// To when.
    pub ended_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    #[serde(flatten)]
    twin: Twin,
}

impl Twin {
    /// Writes it into a recording's folder, in place of the one before.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn store(&self, folder: &Path) -> Result<(), SpoolError> {
        let json = serde_json::to_vec(&Versioned { v: 1, twin: self.clone() }).unwrap_or_default();
        write_whole(&folder.join(TWIN), &json)
    }

    /// Reads it; `None` if there is none that can be read.
    pub fn load(folder: &Path) -> Option<Twin> {
        let json = std::fs::read(folder.join(TWIN)).ok()?;
        serde_json::from_slice::<Versioned>(&json).ok().filter(|read| read.v == 1).map(|read| read.twin)
    }
}
