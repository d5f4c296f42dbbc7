//! What an SRS node and a worker say to each other. JSON; unknown fields are ignored, fields that came later have a default.

use serde::{Deserialize, Serialize};

use super::LoadReport;
use crate::port::{CaptureEvent, Command, RecordingId};

/// A recording that an SRS node counts among its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Which.
    pub recording: RecordingId,
    /// Which part of it the worker should have; 0: whichever it has.
    pub part: u32,
    /// How often the call has changed its SRS node: of two that claim it the higher is right.
    #[serde(default)]
    pub epoch: u64,
}

/// To a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToWorker {
    /// Do this.
    Command {
        /// The part that is meant: what the worker has as another part is left alone.
        part: u32,
        /// Number of an assignment.
        #[serde(default)]
        serial: Option<u64>,
        /// What.
        command: Box<Command>,
    },
    /// These recordings are mine: which of them do you have?
    Own {
        /// Which.
        recordings: Vec<Owned>,
        /// The run of the node: differs from one start of it to the next.
        run: u64,
        /// There are no others of mine.
        #[serde(default)]
        all: bool,
    },
    /// The worker that had these recordings is gone: whoever has a copy of one goes on with it.
    Promote {
        /// Which; part 0: whichever it was.
        recordings: Vec<Owned>,
    },
}

/// To an SRS node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToServer {
    /// What capture tells, of a recording of that node.
    Event {
        /// What.
        event: CaptureEvent,
        /// With the answer to an assignment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        load: Option<LoadReport>,
    },
    /// Answer to [`ToWorker::Own`], and to commands for what is not there.
    Owned {
        /// What is here.
        have: Vec<Owned>,
        /// What is not.
        missing: Vec<Owned>,
    },
    /// Answer to [`ToWorker::Promote`]: there is no copy of these here that could go on.
    NoCopy {
        /// Which.
        recordings: Vec<Owned>,
    },
    /// Somebody asked here that the call be ended.
    Stop {
        /// Which.
        recording: RecordingId,
    },
    /// What the worker can take.
    Load {
        /// How much.
        load: LoadReport,
    },
}
