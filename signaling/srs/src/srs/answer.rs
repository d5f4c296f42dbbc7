//! What capture answers becomes what the peer is answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::dialog::AcceptedInvite;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::{AcceptedMedia, Direction, Sdp, write_answer, write_offer};

use super::{Due, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::offer;
use crate::port::{AssignedStream, Command, RefuseReason, ReleaseCause, SessionId, StreamSpec};
use crate::rescue;
use crate::session::{Pending, Session, State};

/// A live call waits behind our answer: a capture that is silent for so long has refused.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(4);

impl Srs {
    /// Asks capture something that it answers by `Ready` or `Refused`.
    pub(super) fn ask_capture(&mut self, now: Instant, id: SessionId, command: Command) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.unanswered = session.unanswered.saturating_add(1);
            self.deadlines.set((id, Due::Capture), now + CAPTURE_TIMEOUT);
        }
        self.outputs.push_back(SrsOutput::Capture(command));
    }

    /// True when the answer to the newest command is there.
    fn is_settled(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        session.unanswered = session.unanswered.saturating_sub(1);
        if session.unanswered == 0 {
            self.deadlines.cancel(&(id, Due::Capture));
        }
        session.unanswered == 0
    }

    pub(super) fn handle_ready(&mut self, now: Instant, id: SessionId, assigned: Vec<AssignedStream>) {
        let settled = self.is_settled(id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.assigned = assigned;
        if !settled {
            return;
        }
        session.before = None;
        if session.state == State::Assigning && session.assigned.is_empty() {
            // Nothing to put into an answer: as good as a refusal, but capture holds a recording.
            self.end(now, id, ReleaseCause::CaptureFailed, true);
            return;
        }
        self.answer_offer(now, id);
    }

    pub(super) fn handle_refused(&mut self, now: Instant, id: SessionId, reason: RefuseReason) {
        if !self.is_settled(id) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let first = session.state == State::Assigning;
        if let Some(before) = session.before.take() {
            session.streams = before;
        }
        let reject = if first { rescue::refused(reason) } else { rescue::change_refused(reason) };
        let detail = format!("capture refused: {}", reason.as_str());
        self.event(SrsEvent::Rejected { status: reject.status, reason: reason.as_str(), detail });
        self.answer_pending(now, id, &reject);
        if first {
            self.forget(id);
        }
    }

    /// Capture did not answer in time.
    pub(super) fn give_up_on_capture(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.unanswered = 0;
        if session.state == State::Assigning {
            self.end(now, id, ReleaseCause::CaptureFailed, true);
            return;
        }
        self.answer_pending(now, id, &rescue::change_refused(RefuseReason::Broken));
        self.undo_change(id);
    }

    /// Goes back to the streams before a change that came to nothing; capture may have made it already.
    pub(super) fn undo_change(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(before) = session.before.take() else { return };
        session.streams = before;
        // Nobody waits for the answer: a later question has its own.
        session.unanswered = session.unanswered.saturating_add(1);
        let streams = session.streams.clone();
        self.outputs.push_back(SrsOutput::Capture(Command::Change { session: id, streams }));
    }

    /// Answers the INVITE or UPDATE that waits.
    pub(super) fn answer_offer(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(pending) = session.pending.take() else { return };
        if let Some(address) = session.assigned.first().map(|stream| stream.address.ip()) {
            session.origin.address = address;
        }
        let storable = self.config.storable;
        let write = |session: &Session| match &pending.offer {
            Some(sdp) => {
                let answers = offer::answer(sdp, &session.streams, &session.assigned, storable);
                write_answer(sdp, &answers, &session.origin)
            }
            None => match Sdp::parse(session.last_sdp.as_bytes()) {
                Ok(last) => write_answer(&last, &offer::again(&last, storable), &session.origin),
                Err(_) => write_offer(&own_media(&session.streams, &session.assigned), &session.origin),
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
        let mut response = self.ok(&pending.request, id);
        response.set_body("application/sdp", Bytes::from(body));
        self.send_ok(now, id, &pending, response);
    }

    /// Sends the 2xx of an INVITE, or of an UPDATE with an offer.
    fn send_ok(&mut self, now: Instant, id: SessionId, pending: &Pending, response: Message) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let first = session.state == State::Assigning;
        session.state = State::Recording;
        if pending.request.method() == Method::Invite {
            let flow = self.layer.flow_of(pending.transaction).unwrap_or(session.flow);
            let cseq = pending.request.cseq().map_or(0, |cseq| cseq.number);
            // What is repeated must be what was sent, Server field included.
            let sent = self.respond(now, pending.transaction, &pending.request, response);
            let accepted = AcceptedInvite::new(now, cseq, flow, sent, &self.config.timers);
            self.deadlines.set((id, Due::Accepted), accepted.poll_timeout());
            if let Some(session) = self.sessions.get_mut(&id) {
                session.accepted = Some(accepted);
            }
        } else {
            self.respond(now, pending.transaction, &pending.request, response);
        }
        self.by_invite.remove(&pending.transaction);
        if first {
            self.event(SrsEvent::Started { session: id });
        }
    }
}

/// Our first offer: what the streams were planned with.
fn own_media(streams: &[StreamSpec], assigned: &[AssignedStream]) -> Vec<AcceptedMedia> {
    let media = |stream: &StreamSpec| {
        let address = assigned.iter().find(|assigned| assigned.index == stream.index)?.address;
        Some(AcceptedMedia { address, formats: stream.formats.clone(), direction: Direction::RecvOnly })
    };
    streams.iter().filter_map(media).collect()
}
