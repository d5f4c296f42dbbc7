//! What capture answers becomes what the peer is answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::dialog::AcceptedInvite;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::{AcceptedMedia, Direction, MediaAnswer, Origin, Sdp, write_answer, write_offer};

use super::{Deadline, Due, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::offer;
use crate::port::{AssignedStream, Command, Part, RecordingId, RefuseReason, ReleaseCause, StreamSpec, TakenStream};
use crate::rescue;
use crate::session::{Pending, SessionKey, State};

/// A live call waits behind our answer: a capture that is silent for so long has refused.
pub(super) const CAPTURE_TIMEOUT: Duration = Duration::from_secs(4);

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
        if let Some(command) = self.assignment(id, Part::first(id), takes) {
            self.ask_capture(now, id, who, command);
        }
    }

    /// A part of a recording with all that is known now.
    pub(super) fn assignment(&mut self, id: RecordingId, part: Part, takes: Vec<TakenStream>) -> Option<Command> {
        let recording = self.recordings.get_mut(&id)?;
        let streams = recording.streams(&self.sessions);
        let info = recording.info(id, &self.sessions)?;
        let beside = recording.sessions().first().and_then(|key| self.sessions.get(key)?.recordings.first().copied());
        let beside = beside.filter(|other| *other != id);
        Some(Command::Assign { recording: id, part, streams, takes, beside, info })
    }

    /// Tells capture which streams a recording has now.
    pub(super) fn change(&mut self, now: Instant, id: RecordingId, who: Option<SessionKey>, takes: Vec<TakenStream>) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        if !recording.begun && recording.questions.is_empty() {
            return;
        }
        if !recording.is_held() {
            // Not before capture has taken it: what it refuses cannot be changed.
            recording.later.extend(who);
            recording.outdated = true;
            self.wait(now, who);
            if who.is_some() {
                self.want_again(now, id);
            }
            return;
        }
        let streams = recording.streams(&self.sessions);
        self.ask_capture(now, id, who, Command::Change { recording: id, streams, takes });
    }

    pub(super) fn handle_ready(&mut self, now: Instant, id: RecordingId, part: u32, assigned: Vec<AssignedStream>) {
        let Some(recording) = self.recordings.get_mut(&id).filter(|recording| recording.part == part) else { return };
        recording.assigned = assigned;
        recording.begun = true;
        let who = recording.questions.pop_front().flatten();
        let anew = self.taken_over(id);
        self.tell_later(now, id);
        if let Some(key) = who {
            self.hear(now, key);
        }
        self.catch_up_all(now, id, anew);
    }

    /// What had to wait until capture has the recording.
    fn tell_later(&mut self, now: Instant, id: RecordingId) {
        let Some(recording) = self.recordings.get_mut(&id) else { return };
        let later = std::mem::take(&mut recording.later);
        let outdated = std::mem::take(&mut recording.outdated);
        if later.is_empty() && outdated {
            self.change(now, id, None, Vec::new());
        }
        for key in later {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.waiting = session.waiting.saturating_sub(1);
                self.change(now, id, Some(key), Vec::new());
            }
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
        self.catch_up(now, key);
    }

    /// The sockets of a dialog's m-lines.
    pub(super) fn assigned_to(&self, key: SessionKey) -> Vec<AssignedStream> {
        let recordings = self.sessions.get(&key).map(|session| session.recordings.as_slice()).unwrap_or_default();
        recordings
            .iter()
            .filter_map(|id| self.recordings.get(id))
            .flat_map(|recording| recording.assigned_to(key))
            .collect()
    }

    pub(super) fn handle_refused(&mut self, now: Instant, id: RecordingId, part: u32, reason: RefuseReason) {
        let Some(recording) = self.recordings.get_mut(&id).filter(|recording| recording.part == part) else { return };
        let who = recording.questions.pop_front().flatten();
        if recording.begun && !recording.is_held() {
            self.not_taken_over(now, id, true);
            return;
        }
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
        self.catch_up(now, key);
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
        let is_first = session.last_sdp.is_empty();
        if let Some(address) = assigned.first().map(|stream| stream.address.ip()).filter(|_| is_first) {
            session.origin.address = address;
        }
        let policy = &self.config.media;
        let mut last = Sdp::parse(session.last_sdp.as_bytes()).unwrap_or_default();
        let description = match &pending.offer {
            Some(sdp) => Description::Answer(sdp, offer::answer(sdp, &session.streams, &assigned, policy)),
            None if is_first => Description::Offer(own_media(&session.streams, &assigned)),
            None => {
                offer::relocate(&mut last, &assigned, &session.stopped);
                Description::Answer(&last, offer::again(&last, policy))
            }
        };
        let (body, origin) = description.after(&session.last_sdp, session.origin);
        session.told = description.sockets();
        session.origin = origin;
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

/// What we say of a session.
pub(super) enum Description<'a> {
    /// With the m-lines of another description: of the peer's offer, or of what we said last.
    Answer(&'a Sdp, Vec<MediaAnswer>),
    /// Our first offer.
    Offer(Vec<AcceptedMedia>),
}

impl Description<'_> {
    /// Its text, when `last` was said before. The version goes up with every change and stays otherwise (RFC 3264 8).
    pub(super) fn after(&self, last: &str, mut origin: Origin) -> (String, Origin) {
        let same = self.write(&origin);
        if same == last {
            return (same, origin);
        }
        origin.version += 1;
        (self.write(&origin), origin)
    }

    fn write(&self, origin: &Origin) -> String {
        match self {
            Description::Answer(of, answers) => write_answer(of, answers, origin),
            Description::Offer(media) => write_offer(media, origin),
        }
    }

    /// Where it has the peer send, by m-line.
    pub(super) fn sockets(&self) -> Vec<AssignedStream> {
        let socket = |(index, media): (usize, &AcceptedMedia)| AssignedStream { index, address: media.address };
        match self {
            Description::Answer(_, answers) => {
                let lines = answers.iter().enumerate();
                let accepted = lines.filter_map(|(index, answer)| match answer {
                    MediaAnswer::Accept(media) => Some((index, media)),
                    MediaAnswer::Refuse => None,
                });
                accepted.map(socket).collect()
            }
            Description::Offer(media) => media.iter().enumerate().map(socket).collect(),
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
