//! Commands done by the worker of this node: for its own SRS by a function call, for others by [`super::serve`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ferric_media::part::Part;
use ferric_srs::placement::Owned;
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId, SessionInfo, StreamSpec};
use ferric_worker::call::{Assignment, Refusal};
use ferric_worker::worker::Worker;
use uuid::Uuid;

use crate::node::bridge;
use crate::node::catalogue::Bookkeeper;
use crate::node::cluster::mirror::{Mirrors, Promoted};

/// A recording of this worker, as signalling knows it.
struct Known {
    part: Part,
    /// All that it has had.
    streams: Vec<StreamSpec>,
    /// Not known yet of a copy that went on here.
    info: Option<SessionInfo>,
    started: SystemTime,
    started_unix_ms: u64,
}

/// The worker of this node, spoken to in signalling's words.
pub(in crate::node) struct Local {
    mirrors: Option<Mirrors>,
    worker: Arc<Worker>,
    books: Bookkeeper,
    known: Mutex<HashMap<RecordingId, Known>>,
}

impl Local {
    pub(in crate::node) fn new(worker: Arc<Worker>, books: Bookkeeper, mirrors: Option<Mirrors>) -> Local {
        Local { mirrors, worker, books, known: Mutex::default() }
    }

    /// Does it, and answers what asks for an answer. It makes sockets and files, which takes a fraction of a millisecond.
    pub(in crate::node) fn perform(&self, command: Command) -> Option<CaptureEvent> {
        match command {
            Command::Assign { .. } => self.assign(command),
            Command::Change { recording, streams, takes } => {
                let part = self.known().get(&recording).map_or(1, |known| known.part.number.get());
                let done = self.worker.update(recording.0, bridge::streams(&streams), &bridge::taken(&takes));
                Some(match done {
                    Ok(addresses) => {
                        if let Some(known) = self.known().get_mut(&recording) {
                            known.streams.retain(|had| !streams.iter().any(|stream| stream.index == had.index));
                            known.streams.extend(streams);
                            known.streams.sort_by_key(|stream| stream.index);
                        }
                        self.tell_capture(recording);
                        CaptureEvent::Ready { recording, part, streams: bridge::addresses(&addresses) }
                    }
                    Err(refusal) => refused(recording, part, refusal),
                })
            }
            Command::Info { recording, info } => {
                if let Some(known) = self.known().get_mut(&recording) {
                    known.info = Some(info);
                }
                self.tell_capture(recording);
                None
            }
            Command::Park { recording } => {
                self.worker.park(recording.0);
                None
            }
            Command::Release { recording, cause } => {
                self.known().remove(&recording);
                self.worker.release(recording.0, cause.as_str());
                None
            }
        }
    }

    /// Goes on with the copies of these that run here; the others are given back.
    pub(in crate::node) fn promote(
        &self,
        recordings: &[Owned],
    ) -> (Vec<(Owned, Uuid, Vec<AssignedStream>)>, Vec<Owned>) {
        let (mut promoted, mut without) = (Vec::new(), Vec::new());
        for owned in recordings {
            let went_on = self.mirrors.as_ref().and_then(|mirrors| mirrors.promote(owned.recording.0).ok());
            let Some(Promoted { file, part, addresses }) = went_on else {
                without.push(*owned);
                continue;
            };
            let started = SystemTime::now();
            let unix = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let started_unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
            let files = Part::new(owned.recording.0, part, owned.recording.0).copied(file);
            let known = Known { part: files, streams: Vec::new(), info: None, started, started_unix_ms };
            self.known().insert(owned.recording, known);
            promoted.push((Owned { part, ..*owned }, file, bridge::addresses(&addresses)));
        }
        (promoted, without)
    }

    fn assign(&self, command: Command) -> Option<CaptureEvent> {
        let Command::Assign { recording, part, streams, takes, beside, info } = command else { return None };
        let (number, files) = (part.number, bridge::part(recording, &part));
        let started = SystemTime::now();
        let unix = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let document = bridge::session(&info, &streams, started_unix_ms);
        let assignment = Assignment {
            part: files,
            lost: part.lost_unix_ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
            tenant: info.tenant.clone(),
            started,
            session: document.clone(),
            streams: bridge::streams(&streams),
            takes: bridge::taken(&takes),
            restore: bridge::restore(&part.restore),
            beside: beside.map(|beside| beside.0),
        };
        Some(match self.worker.assign(assignment) {
            Ok(addresses) => {
                self.books.running(files, &info.tenant, started, &document);
                if let Some(mirrors) = &self.mirrors {
                    mirrors.begin(recording.0, &info.tenant);
                }
                let known = Known { part: files, streams, info: Some(info), started, started_unix_ms };
                self.known().insert(recording, known);
                CaptureEvent::Ready { recording, part: number, streams: bridge::addresses(&addresses) }
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "a call is refused");
                refused(recording, number, refusal)
            }
        })
    }

    fn tell_capture(&self, recording: RecordingId) {
        let document = self.known().get(&recording).and_then(|known| {
            let info = known.info.as_ref()?;
            let document = bridge::session(info, &known.streams, known.started_unix_ms);
            self.books.running(known.part, &info.tenant, known.started, &document);
            Some(document)
        });
        if let Some(document) = document {
            self.worker.set_session(recording.0, document);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<RecordingId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(recording: RecordingId, part: u32, refusal: Refusal) -> CaptureEvent {
    CaptureEvent::Refused { recording, part, reason: bridge::refusal(refusal) }
}
