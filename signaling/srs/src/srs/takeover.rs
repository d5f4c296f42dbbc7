//! A worker is lost: its recordings go on as their next part with another, and the media move there.
//!
//! ```text
//!          Lost            Ready          a dialog moved
//!   held --------> asked --------> moving --------------> held
//!                  |   ^             | every dialog refused: Release (not-moved)
//!          Refused v   | 1 s         v
//!                waiting          stranded --Returned, or an offer of the peer's--> asked
//!                   \ unplaced        \ stranded too long
//!                    `-----------------`--> BYE, so that the SRC can turn to another recorder
//! ```
//!
//! The caller of a first INVITE that is still being assigned hears nothing of all this. What the peer asks for
//! meanwhile waits for the next part, as long as it would wait for any answer of capture. How the dialogs learn
//! of the new sockets stands in [`super::moving`].

use std::time::{Duration, Instant};

use super::answer::CAPTURE_TIMEOUT;
use super::{Deadline, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::port::{AssignedStream, Command, Part, RecordingId, ReleaseCause};
use crate::recording::{Recording, Step, Takeover};
use crate::session::{Moving, SessionKey};

/// What no worker took is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What happens to calls whose worker is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeoverConfig {
    /// Offers go by re-INVITE also to peers that allow UPDATE.
    pub by_invite: bool,
    /// Offers that leave in a second, at least 100.
    pub offers_per_second: u32,
    /// A recording that no worker takes ends after this.
    pub unplaced: Duration,
    /// A recording whose SRC does not move waits so long for its old worker.
    pub stranded: Duration,
}

impl Default for TakeoverConfig {
    fn default() -> TakeoverConfig {
        TakeoverConfig {
            by_invite: false,
            offers_per_second: 1_000,
            unplaced: Duration::from_secs(60),
            stranded: Duration::from_secs(300),
        }
    }
}

impl Srs {
    /// The worker of a recording is gone.
    pub(super) fn handle_lost(&mut self, now: Instant, id: RecordingId, part: u32) {
        let until = now + self.config.takeover.unplaced;
        let lost_unix_ms = self.unix_ms(now);
        let had_media = self.was_moved(id);
        let Some(recording) = self.recordings.get_mut(&id).filter(|recording| recording.part == part) else { return };
        if !recording.begun {
            self.begin_again(now, id);
            return;
        }
        // Who waits for a change waits for the next part.
        let waiting: Vec<SessionKey> = recording.questions.drain(..).flatten().collect();
        recording.later.extend(waiting);
        recording.assigned.clear();
        // Lost once more before any media came: the gap began with the first loss, and so did the search.
        let earlier = recording.takeover.take().filter(|_| !had_media);
        recording.takeover = Some(Takeover {
            step: Step::Stranded,
            unused: false,
            ..earlier.unwrap_or(Takeover::new(part, lost_unix_ms, until))
        });
        // One that waits parked for the other half of its call needs no worker before that comes.
        if !recording.sessions().is_empty() {
            self.ask_next(now, id, false);
        }
    }

    /// The worker is gone before it took the recording: another is asked, and the deadline of the caller stays.
    fn begin_again(&mut self, now: Instant, id: RecordingId) {
        let file = self.new_uuid(now);
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        recording.part += 1;
        let part = Part { number: recording.part, file, lost_unix_ms: None, restore: Vec::new() };
        if let Some(command) = self.assignment(id, part, Vec::new()) {
            self.outputs.push_back(SrsOutput::Capture(command));
        }
    }

    /// Asks capture for the next part; `restore`: with the sockets that the peers still send to.
    fn ask_next(&mut self, now: Instant, id: RecordingId, restore: bool) {
        let file = self.new_uuid(now);
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        let restore = if restore { recording.told(&self.sessions) } else { Vec::new() };
        let Some(takeover) = &mut recording.takeover else { return };
        takeover.step = Step::Asked;
        if !std::mem::take(&mut takeover.unused) {
            recording.part += 1;
        }
        let part = Part { number: recording.part, file, lost_unix_ms: Some(takeover.lost_unix_ms), restore };
        recording.outdated = false;
        recording.questions.push_back(None);
        self.deadlines.set(Deadline::Takeover(id), now + CAPTURE_TIMEOUT);
        if let Some(command) = self.assignment(id, part, Vec::new()) {
            self.outputs.push_back(SrsOutput::Capture(command));
        }
    }

    /// Capture took the next part; true if that was asked for.
    pub(super) fn taken_over(&mut self, id: RecordingId) -> bool {
        let Some(takeover) = self.recordings.get_mut(&id).and_then(|recording| recording.takeover.as_mut()) else {
            return false;
        };
        let was_asked = takeover.step == Step::Asked;
        if was_asked {
            takeover.step = Step::Moving;
            self.deadlines.cancel(&Deadline::Takeover(id));
        }
        was_asked
    }

    /// Capture did not take the next part: it refused, or said nothing.
    pub(super) fn not_taken_over(&mut self, now: Instant, id: RecordingId, refused: bool) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        let Some(takeover) = &mut recording.takeover else { return };
        recording.questions.clear();
        takeover.unused = refused;
        takeover.returned = false;
        takeover.step = if takeover.refused { Step::Stranded } else { Step::Waiting };
        let next = if takeover.refused { takeover.until } else { takeover.until.min(now + ASK_AGAIN) };
        self.deadlines.set(Deadline::Takeover(id), next);
        if !refused {
            // It may have begun all the same.
            let cause = ReleaseCause::NotMoved;
            self.outputs.push_back(SrsOutput::Capture(Command::Release { recording: id, cause }));
        }
        // Other recordings of its dialogs need not wait for this one.
        self.catch_up_all(now, id, false);
    }

    /// The next attempt is due, or the last has failed.
    pub(super) fn take_over_again(&mut self, now: Instant, id: RecordingId) {
        let Some(takeover) = self.recordings.get(&id).and_then(|recording| recording.takeover.as_ref()) else { return };
        match takeover.step {
            Step::Asked => self.not_taken_over(now, id, false),
            Step::Waiting | Step::Stranded if now >= takeover.until => self.give_up(now, id),
            Step::Waiting => self.ask_next(now, id, false),
            Step::Moving | Step::Stranded => {}
        }
    }

    /// The peer wants something of a recording that nobody has: whoever takes it now is told to the peer in the answer.
    pub(super) fn want_again(&mut self, now: Instant, id: RecordingId) {
        let takeover = self.recordings.get(&id).and_then(|recording| recording.takeover.as_ref());
        if takeover.is_some_and(|takeover| takeover.step == Step::Stranded) {
            self.ask_next(now, id, false);
        }
    }

    /// The old worker is back; it matters while no other has the recording, or if the SRC will not move.
    pub(super) fn handle_returned(&mut self, now: Instant, id: RecordingId) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        let is_fed = !recording.sessions().is_empty();
        let Some(takeover) = &mut recording.takeover else { return };
        takeover.returned = true;
        if is_fed && matches!(takeover.step, Step::Waiting | Step::Stranded) {
            self.ask_next(now, id, true);
        }
    }

    /// A copy goes on with the recording: only its sockets are others.
    pub(super) fn handle_promoted(&mut self, now: Instant, id: RecordingId, part: u32, streams: Vec<AssignedStream>) {
        let until = now + self.config.takeover.unplaced;
        let lost_unix_ms = self.unix_ms(now);
        let had_media = self.was_moved(id);
        let Some(recording) = self.recordings.get_mut(&id).filter(|recording| recording.part == part) else { return };
        // What was asked is answered by who made the copy; before that, nobody was told of any socket.
        if !recording.is_held() {
            return;
        }
        recording.assigned = streams;
        if recording.sessions().is_empty() {
            return;
        }
        let earlier = recording.takeover.take().filter(|_| !had_media);
        recording.takeover =
            Some(Takeover { step: Step::Moving, ..earlier.unwrap_or(Takeover::new(part, lost_unix_ms, until)) });
        self.catch_up_all(now, id, true);
    }

    /// Lets the dialogs of a recording follow its sockets; `anew`: whatever they refused before.
    pub(super) fn catch_up_all(&mut self, now: Instant, id: RecordingId, anew: bool) {
        let sessions = self.recordings.get(&id).map(Recording::sessions).unwrap_or_default();
        for key in sessions {
            if anew {
                self.catch_up_anew(now, key);
            } else {
                self.catch_up(now, key);
            }
        }
    }

    /// True if a dialog sends to where capture has the recording at present.
    fn was_moved(&self, id: RecordingId) -> bool {
        let Some(recording) = self.recordings.get(&id) else { return false };
        recording.told(&self.sessions).iter().any(|told| recording.assigned.contains(told))
    }

    /// Sees whether a takeover has come to its end: with one dialog that moved it has succeeded.
    pub(super) fn settle(&mut self, now: Instant, id: RecordingId) {
        let Some(recording) = self.recordings.get(&id) else { return };
        let Some(takeover) = recording.takeover.as_ref().filter(|takeover| takeover.step == Step::Moving) else {
            return;
        };
        let (from_part, to_part, lost_unix_ms) = (takeover.from, recording.part, takeover.lost_unix_ms);
        let mut refused = None;
        let mut moved = false;
        for key in recording.sessions() {
            let Some(session) = self.sessions.get(&key) else { continue };
            match session.moving {
                _ if !self.is_behind(key) => moved = true,
                Moving::Refused(status) if session.pending.is_none() && session.waiting == 0 => refused = Some(status),
                Moving::Refused(_) | Moving::Still | Moving::Queued | Moving::Later => return,
            }
        }
        if moved {
            if let Some(recording) = self.recordings.get_mut(&id) {
                recording.takeover = None;
            }
            let lost_ms = self.unix_ms(now).saturating_sub(lost_unix_ms);
            self.event(SrsEvent::Moved { recording: id, from_part, to_part, lost_ms });
        } else if let Some(status) = refused {
            self.event(SrsEvent::MoveRefused { recording: id, part: to_part, status });
            self.strand(now, id);
        }
    }

    /// Nobody sends to the next part: it ends, and the old worker is waited for.
    fn strand(&mut self, now: Instant, id: RecordingId) {
        let until = now + self.config.takeover.stranded;
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        let Some(takeover) = &mut recording.takeover else { return };
        takeover.step = Step::Stranded;
        takeover.refused = true;
        takeover.until = until;
        let is_back = takeover.returned;
        recording.assigned.clear();
        recording.questions.clear();
        self.deadlines.set(Deadline::Takeover(id), until);
        let cause = ReleaseCause::NotMoved;
        self.outputs.push_back(SrsOutput::Capture(Command::Release { recording: id, cause }));
        if is_back {
            self.ask_next(now, id, true);
        }
    }

    /// No worker in time.
    fn give_up(&mut self, now: Instant, id: RecordingId) {
        let sessions = self.recordings.get(&id).map(Recording::sessions).unwrap_or_default();
        for key in sessions {
            self.end(now, key, ReleaseCause::Orphaned, true);
        }
        self.release(id, ReleaseCause::Orphaned);
    }
}
