//! What capture answers becomes what the peer is answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::dialog::AcceptedInvite;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::{AcceptedMedia, Direction, Sdp, write_answer, write_offer};

use super::{Deadline, Due, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::offer;
use crate::port::{AssignedStream, Command, Part, RecordingId, RefuseReason, ReleaseCause, StreamSpec, TakenStream};
use crate::rescue;
use crate::session::{Pending, Session, SessionKey, State};

/// A live call waits behind our answer: a capture that is silent for so long has refused.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(4);

impl Srs {
    /// Asks capture something that it answers by `Ready` or `Refused`; `who` waits for the answer.
    fn ask_capture(&mut self, now: Instant, id: RecordingId, who: Option<SessionKey>, command: Command) {
        if let Some(recording) = self.recordings.get_mut(&id) {
            recording.questions.push_back(who);
        }
        self.wait(now, who);
        self.outputs.push_back(SrsOutput::Capture(command));
    }

    fn wait(&mut self, now: Instant, who: Option<SessionKey>) {
        if let Some((key, session)) = who.and_then(|key| Some((key, self.sessions.get_mut(&key)?))) {
            session.waiting = session.waiting.saturating_add(1);
            self.deadlines.set(Deadline::Session(key, Due::Capture), now + CAPTURE_TIMEOUT);
        }
    }

    /// Has a recording begun.
    pub(super) fn begin(&mut self, now: Instant, id: RecordingId, who: Option<SessionKey>, takes: Vec<TakenStream>) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        let streams = recording.streams(&self.sessions);
        let Some(info) = recording.info(id, &self.sessions) else { return };
        let beside = recording.sessions().first().and_then(|key| self.sessions.get(key)?.recordings.first().copied());
        let beside = beside.filter(|other| *other != id);
        self.ask_capture(
            now,
            id,
            who,
            Command::Assign { recording: id, part: Part::first(id), streams, takes, beside, info },
        );
    }

    /// Tells capture which streams a recording has now.
    pub(super) fn change(&mut self, now: Instant, id: RecordingId, who: Option<SessionKey>, takes: Vec<TakenStream>) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        if !recording.begun && recording.questions.is_empty() {
            return;
        }
        if !recording.begun {
            // Not before capture has taken it: what it refuses cannot be changed.
            recording.later.extend(who);
            self.wait(now, who);
            return;
        }
        let streams = recording.streams(&self.sessions);
        self.ask_capture(now, id, who, Command::Change { recording: id, streams, takes });
    }

    pub(super) fn handle_ready(&mut self, now: Instant, id: RecordingId, assigned: Vec<AssignedStream>) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        recording.assigned = assigned;
        recording.begun = true;
        let who = recording.questions.pop_front().flatten();
        let later = std::mem::take(&mut recording.later);
        for key in later {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.waiting = session.waiting.saturating_sub(1);
                self.change(now, id, Some(key), Vec::new());
            }
        }
        if let Some(key) = who {
            self.hear(now, key);
        }
    }

    /// One answer less to wait for.
    fn hear(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.waiting = session.waiting.saturating_sub(1);
        if session.waiting > 0 {
            return;
        }
        self.deadlines.cancel(&Deadline::Session(key, Due::Capture));
        session.before = None;
        let first = session.state == State::Assigning;
        if first && self.assigned_to(key).is_empty() {
            // Nothing to put into an answer: as good as a refusal, but capture holds a recording.
            self.end(now, key, ReleaseCause::CaptureFailed, true);
            return;
        }
        self.answer_offer(now, key);
    }

    /// The sockets of a dialog's m-lines.
    fn assigned_to(&self, key: SessionKey) -> Vec<AssignedStream> {
        let recordings = self.sessions.get(&key).map(|session| session.recordings.as_slice()).unwrap_or_default();
        recordings
            .iter()
            .filter_map(|id| self.recordings.get(id))
            .flat_map(|recording| recording.assigned_to(key))
            .collect()
    }

    pub(super) fn handle_refused(&mut self, now: Instant, id: RecordingId, reason: RefuseReason) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        let who = recording.questions.pop_front().flatten();
        if recording.begun {
            if let Some(key) = who {
                self.refuse_change(now, key, reason, Some(id));
            }
            return;
        }
        let everybody = recording.sessions();
        for key in everybody {
            let is_main = self.sessions.get(&key).is_none_or(|session| session.recordings.first() == Some(&id));
            if is_main {
                self.refuse_call(now, key, id, reason);
            } else {
                self.fall_back(now, key, id, who == Some(key));
            }
        }
        self.drop_recording(id);
    }

    /// A call that capture does not take.
    fn refuse_call(&mut self, now: Instant, key: SessionKey, refused: RecordingId, reason: RefuseReason) {
        let reject = rescue::refused(reason);
        let detail = format!("capture refused: {}", reason.as_str());
        self.event(SrsEvent::Rejected { status: reject.status, reason: reason.as_str(), detail });
        self.answer_pending(now, key, &reject);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.recordings.retain(|id| *id != refused);
        let invite = session.invite;
        for other in session.recordings.clone() {
            self.leave(now, other, key, ReleaseCause::CaptureFailed);
        }
        self.event(SrsEvent::Refused { invite, status: reject.status, cause: reason.as_str() });
        self.forget(key);
    }

    /// A recording of its own for a second communication session cannot be had: its streams go into the main one.
    fn fall_back(&mut self, now: Instant, key: SessionKey, refused: RecordingId, waits: bool) {
        let lines = self
            .recordings
            .get(&refused)
            .and_then(|recording| recording.leg(key))
            .map(|leg| leg.lines.clone())
            .unwrap_or_default();
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.recordings.retain(|id| *id != refused);
        let Some(main) = session.recordings.first().copied() else { return };
        for (_, id) in &mut session.communication_sessions {
            if *id == refused {
                *id = main;
            }
        }
        session.warn("several communication sessions share one recording: there was no room for another");
        if waits {
            session.waiting = session.waiting.saturating_sub(1);
        }
        if let Some(leg) = self.recordings.get_mut(&main).and_then(|recording| recording.leg_mut(key)) {
            leg.lines.extend(lines);
        }
        self.change(now, main, waits.then_some(key), Vec::new());
    }

    /// Capture does not make a change: all goes on as it was.
    fn refuse_change(&mut self, now: Instant, key: SessionKey, reason: RefuseReason, refused_by: Option<RecordingId>) {
        let reject = rescue::change_refused(reason);
        let detail = format!("capture refused: {}", reason.as_str());
        self.event(SrsEvent::Rejected { status: reject.status, reason: reason.as_str(), detail });
        self.answer_pending(now, key, &reject);
        self.undo_change(now, key, refused_by);
    }

    /// Capture did not answer in time.
    pub(super) fn give_up_on_capture(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        if session.state == State::Assigning {
            self.end(now, key, ReleaseCause::CaptureFailed, true);
        } else {
            self.refuse_change(now, key, RefuseReason::Broken, None);
        }
    }

    /// Goes back to the streams before a change that came to nothing; capture may have made it already, unless
    /// `refused_by` says who did not.
    pub(super) fn undo_change(&mut self, now: Instant, key: SessionKey, refused_by: Option<RecordingId>) {
        self.wait_no_more(key);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(before) = session.before.take() else { return };
        session.streams = before.streams;
        session.communication_sessions = before.communication_sessions;
        let all = session.recordings.clone();
        for id in all {
            let lines = before.lines.iter().find(|(had, _)| *had == id).map(|(_, lines)| lines.clone());
            match lines {
                Some(lines) => {
                    if let Some(leg) = self.recordings.get_mut(&id).and_then(|recording| recording.leg_mut(key)) {
                        leg.lines = lines;
                    }
                    if refused_by != Some(id) {
                        self.change(now, id, None, Vec::new());
                    }
                }
                None => {
                    self.leave(now, id, key, ReleaseCause::CaptureFailed);
                    if let Some(session) = self.sessions.get_mut(&key) {
                        session.recordings.retain(|known| *known != id);
                    }
                }
            }
        }
    }

    /// Answers of capture that are still to come concern the session no more.
    fn wait_no_more(&mut self, key: SessionKey) {
        self.deadlines.cancel(&Deadline::Session(key, Due::Capture));
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.waiting = 0;
        for id in &session.recordings {
            if let Some(recording) = self.recordings.get_mut(id) {
                recording.later.retain(|later| *later != key);
                for who in &mut recording.questions {
                    *who = who.filter(|who| *who != key);
                }
            }
        }
    }

    /// Answers the INVITE or UPDATE that waits.
    pub(super) fn answer_offer(&mut self, now: Instant, key: SessionKey) {
        let assigned = self.assigned_to(key);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(pending) = session.pending.take() else { return };
        if let Some(address) = assigned.first().map(|stream| stream.address.ip()) {
            session.origin.address = address;
        }
        let policy = &self.config.media;
        let write = |session: &Session| match &pending.offer {
            Some(sdp) => {
                let answers = offer::answer(sdp, &session.streams, &assigned, policy);
                write_answer(sdp, &answers, &session.origin)
            }
            None => match Sdp::parse(session.last_sdp.as_bytes()) {
                Ok(last) => write_answer(&last, &offer::again(&last, policy), &session.origin),
                Err(_) => write_offer(&own_media(&session.streams, &assigned), &session.origin),
            },
        };
        // The version goes up with every change and stays otherwise (RFC 3264 8).
        let mut body = write(session);
        if body != session.last_sdp {
            session.origin.version += 1;
            body = write(session);
        }
        session.last_sdp.clone_from(&body);
        session.awaits_answer = pending.offer.is_none();
        let mut response = self.ok(&pending.request, key);
        response.set_body("application/sdp", Bytes::from(body));
        self.send_ok(now, key, &pending, response);
    }

    /// Sends the 2xx of an INVITE, or of an UPDATE with an offer.
    fn send_ok(&mut self, now: Instant, key: SessionKey, pending: &Pending, response: Message) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let first = session.state == State::Assigning;
        session.state = State::Recording;
        let recordings = session.recordings.clone();
        if pending.request.method() == Method::Invite {
            let flow = self.layer.flow_of(pending.transaction).unwrap_or(session.flow);
            let cseq = pending.request.cseq().map_or(0, |cseq| cseq.number);
            // What is repeated must be what was sent, Server field included.
            let sent = self.respond(now, pending.transaction, &pending.request, response);
            let accepted = AcceptedInvite::new(now, cseq, flow, sent, &self.config.timers);
            self.deadlines.set(Deadline::Session(key, Due::Accepted), accepted.poll_timeout());
            if let Some(session) = self.sessions.get_mut(&key) {
                session.accepted = Some(accepted);
            }
        } else {
            self.respond(now, pending.transaction, &pending.request, response);
        }
        self.by_invite.remove(&pending.transaction);
        if first {
            for recording in recordings {
                self.event(SrsEvent::Started { recording });
            }
        }
    }
}

/// Our first offer: what the streams were planned with.
fn own_media(streams: &[StreamSpec], assigned: &[AssignedStream]) -> Vec<AcceptedMedia> {
    let media = |stream: &StreamSpec| {
        let address = assigned.iter().find(|assigned| assigned.index == stream.index)?.address;
        Some(AcceptedMedia { address, formats: stream.formats.clone(), direction: Direction::RecvOnly, crypto: None })
    };
    streams.iter().filter_map(media).collect()
}
