//! How dialogs and recordings end.

use std::time::{Duration, Instant};

use ferric_sip::method::Method;
use ferric_sip::validate::Reject;

use super::{Deadline, Due, Purpose, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::port::{Command, RecordingId, ReleaseCause};
use crate::rescue;
use crate::session::{SessionKey, State};

/// A recording of one half of a call stays open this long for the other half.
pub(super) const LINGER: Duration = Duration::from_secs(5);

impl Srs {
    /// A CANCEL ends the call if its first INVITE still waits; a later INVITE is
    /// only taken back, and the recording goes on as it was.
    pub(super) fn handle_cancel(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        if session.state == State::Assigning {
            self.end(now, key, ReleaseCause::Cancelled, false);
        } else {
            self.answer_pending(now, key, &Reject::new(487));
            self.undo_change(now, key, None);
            self.catch_up(now, key);
        }
    }

    /// Refuses the request that waits, if one does.
    pub(super) fn answer_pending(&mut self, now: Instant, key: SessionKey, reject: &Reject) {
        let pending = self.sessions.get_mut(&key).and_then(|session| session.pending.take());
        if let Some(pending) = pending {
            self.by_invite.remove(&pending.transaction);
            let response = reject.response(&pending.request);
            self.respond(now, pending.transaction, &pending.request, response);
        }
    }

    /// Ends a dialog: tells capture, and the peer if `bye`.
    pub(super) fn end(&mut self, now: Instant, key: SessionKey, cause: ReleaseCause, bye: bool) {
        let Some(session) = self.sessions.get(&key) else { return };
        let (recorded, invite) = (session.state == State::Recording, session.invite);
        self.answer_pending(now, key, &rescue::ended(cause, recorded));
        if bye
            && recorded
            && let Some(session) = self.sessions.get_mut(&key)
        {
            let request = session.dialog.request(&Method::Bye);
            let flow = session.request_flow();
            self.send_own(now, key, request, flow, Purpose::Bye);
        }
        let recordings = self.sessions.get(&key).map(|session| session.recordings.clone()).unwrap_or_default();
        for id in recordings {
            self.leave(now, id, key, cause);
        }
        self.event(SrsEvent::Closed { invite, cause });
        self.forget(key);
    }

    /// A dialog feeds a recording no longer. With the last one the recording ends, at once or, when it has only one half
    /// of a call, a little later.
    pub(super) fn leave(&mut self, now: Instant, id: RecordingId, key: SessionKey, cause: ReleaseCause) {
        let unix_ms = self.unix_ms(now);
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        if let Some(session) = self.sessions.get(&key) {
            recording.leave(id, session, key, unix_ms);
        }
        if !recording.sessions().is_empty() {
            self.change(now, id, None, Vec::new());
            self.tell_recording(id);
            self.settle(now, id);
        } else if recording.pair.is_some()
            && recording.legs.len() == 1
            && recording.is_held()
            && cause == ReleaseCause::Bye
        {
            recording.takeover = None;
            self.outputs.push_back(SrsOutput::Capture(Command::Park { recording: id }));
            self.deadlines.set(Deadline::Linger(id), now + LINGER);
        } else {
            self.release(id, cause);
        }
    }

    /// Ends a recording.
    pub(super) fn release(&mut self, id: RecordingId, cause: ReleaseCause) {
        if self.drop_recording(id) {
            self.outputs.push_back(SrsOutput::Capture(Command::Release { recording: id, cause }));
            self.event(SrsEvent::Ended { recording: id, cause });
        }
    }

    /// Forgets a recording; true if it was known.
    pub(super) fn drop_recording(&mut self, id: RecordingId) -> bool {
        let Some(recording) = self.recordings.remove(&id) else { return false };
        if let Some(pair) = recording.pair.filter(|pair| self.halves.get(pair) == Some(&id)) {
            self.halves.remove(&pair);
        }
        self.deadlines.cancel(&Deadline::Linger(id));
        self.deadlines.cancel(&Deadline::Takeover(id));
        true
    }

    /// The API ends a recording: with the dialogs that feed nothing else.
    pub(super) fn stop_recording(&mut self, now: Instant, id: RecordingId) {
        let Some(recording) = self.recordings.get(&id) else { return };
        let legs: Vec<(SessionKey, Vec<usize>)> = recording
            .legs
            .iter()
            .filter(|leg| leg.over.is_none())
            .map(|leg| (leg.session, leg.lines.clone()))
            .collect();
        for (key, lines) in legs {
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            if session.recordings.as_slice() == [id] {
                self.end(now, key, ReleaseCause::Stopped, true);
                continue;
            }
            // The dialog goes on for its other recordings; these lines are refused from the next offer on.
            session.recordings.retain(|other| *other != id);
            session.communication_sessions.retain(|(_, of)| *of != id);
            session.streams.retain(|stream| !lines.contains(&stream.index));
            session.stopped.extend(lines);
        }
        self.release(id, ReleaseCause::Stopped);
    }

    /// Capture cannot go on: the SRC gets a BYE, so that it can turn to another recorder.
    pub(super) fn handle_death(&mut self, now: Instant, id: RecordingId) {
        let sessions = self.recordings.get(&id).map(crate::recording::Recording::sessions).unwrap_or_default();
        for key in sessions {
            self.end(now, key, ReleaseCause::CaptureFailed, true);
        }
        self.release(id, ReleaseCause::CaptureFailed);
    }

    /// The first RTP of a recording.
    pub(super) fn handle_media(&mut self, id: RecordingId) {
        let sessions = self.recordings.get(&id).map(crate::recording::Recording::sessions).unwrap_or_default();
        for key in sessions {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.heard = true;
            }
        }
    }

    /// No RTP. On hold that means nothing: the session timer watches then.
    pub(super) fn handle_silence(&mut self, now: Instant, id: RecordingId) {
        let sessions = self.recordings.get(&id).map(crate::recording::Recording::sessions).unwrap_or_default();
        for key in sessions {
            if self.sessions.get(&key).is_some_and(|session| !session.is_on_hold()) {
                self.probe(now, key);
            }
        }
    }

    pub(super) fn forget(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(&key) else { return };
        self.by_dialog.remove(&session.dialog.id);
        let call = (session.dialog.id.call_id, session.dialog.id.remote_tag);
        if self.by_call.get(&call) == Some(&key) {
            self.by_call.remove(&call);
        }
        if let Some(pending) = session.pending {
            self.by_invite.remove(&pending.transaction);
        }
        for due in [Due::Accepted, Due::Capture, Due::SessionTimer, Due::End, Due::Probe, Due::Move, Due::Announce] {
            self.deadlines.cancel(&Deadline::Session(key, due));
        }
    }
}
