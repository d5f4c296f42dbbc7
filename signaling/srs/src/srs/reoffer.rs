//! Offers, answers and metadata inside a dialog: re-INVITE, UPDATE, the answer in an ACK.

use std::time::Instant;

use ferric_sip::dialog::{DialogId, SessionTimer};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::Sdp;
use ferric_sip::siprec::{RecordingBody, read_body};
use ferric_sip::transaction::ServerTransactionId;
use rand::RngExt;

use super::{Due, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::offer;
use crate::port::{Command, SessionId};
use crate::rescue;
use crate::session::Pending;

impl Srs {
    /// re-INVITE or UPDATE: streams, metadata, session refresh, or all of them.
    pub(super) fn handle_reoffer(&mut self, now: Instant, id: ServerTransactionId, session_id: SessionId, request: Message) {
        let mut body = match read_body(&request) {
            Ok(body) => body,
            Err(error) => {
                self.reject(now, id, &request, &rescue::body(&error), "body");
                return;
            }
        };
        let config = self.config.session_timer;
        let wait = self.rng.random_range(1..10);
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        let is_invite = request.method() == Method::Invite;
        if body.sdp.is_some() || is_invite {
            let glare = if session.pending.is_some() {
                Some(rescue::glare(false, wait))
            } else if session.awaits_answer || session.own_offer {
                Some(rescue::glare(true, wait))
            } else {
                None
            };
            if let Some(reject) = glare {
                self.reject(now, id, &request, &reject, "glare");
                return;
            }
        }
        match SessionTimer::negotiate(now, &request, &config) {
            Ok(Some(timer)) => session.timer = Some(timer),
            Ok(None) => {
                if let Some(timer) = session.timer.as_mut() {
                    timer.refreshed(now);
                }
            }
            Err(reject) => {
                self.reject(now, id, &request, &reject, "session-timer");
                return;
            }
        }
        session.dialog.refresh_target(&request);
        if let Some(timer) = &session.timer {
            self.deadlines.set((session_id, Due::SessionTimer), timer.poll_timeout());
            self.deadlines.cancel(&(session_id, Due::Probe));
        }
        match body.sdp.take() {
            Some(sdp) => self.change_streams(now, id, session_id, request, sdp),
            None if is_invite => {
                session.pending = Some(Pending { transaction: id, request, offer: None });
                self.answer_offer(now, session_id);
            }
            None => {
                let response = self.ok(&request, session_id);
                self.respond(now, id, &request, response);
            }
        }
        // Behind the streams, so that the parties are tied to those that count from now on.
        self.take_metadata(now, session_id, &body, true);
    }

    fn change_streams(&mut self, now: Instant, id: ServerTransactionId, session_id: SessionId, request: Message, sdp: Sdp) {
        let streams = offer::plan(&sdp, self.config.storable);
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        let offers_audio = sdp.media.iter().any(|media| media.kind == "audio" && media.port != 0);
        if streams.is_empty() && offers_audio {
            let flow = session.flow;
            let reject = rescue::nothing_storable(&self.host(&flow), offer::why_unstorable(&sdp));
            self.reject(now, id, &request, &reject, "no-codec");
            return;
        }
        session.before = Some(std::mem::replace(&mut session.streams, streams.clone()));
        session.pending = Some(Pending { transaction: id, request, offer: Some(sdp) });
        self.by_invite.insert(id, session_id);
        self.ask_capture(now, session_id, Command::Change { session: session_id, streams });
        self.tie_parties(now, session_id);
    }

    /// The ACK to a 200 of ours; with the answer, when the offer was ours.
    pub(super) fn handle_ack(&mut self, now: Instant, request: &Message) {
        let Some(id) = DialogId::of_request(request).and_then(|dialog| self.by_dialog.get(&dialog).copied()) else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        if session.accepted.as_ref().is_none_or(|accepted| accepted.cseq() != number) {
            return;
        }
        session.accepted = None;
        self.deadlines.cancel(&(id, Due::Accepted));
        if !std::mem::take(&mut session.awaits_answer) {
            return;
        }
        match read_body(request) {
            Ok(RecordingBody { sdp: Some(sdp), metadata, .. }) => {
                let streams = offer::plan(&sdp, self.config.storable);
                session.streams.clone_from(&streams);
                self.ask_capture(now, id, Command::Change { session: id, streams });
                self.take_metadata(now, id, &RecordingBody { metadata, ..RecordingBody::default() }, true);
            }
            // We listen for everything that we offered all the same.
            Ok(_) => self.warn(id, "the ACK brought no answer to our offer"),
            Err(error) => self.warn(id, &format!("the answer in the ACK: {error}")),
        }
    }

    /// Notes metadata; tells capture unless the recording is only being asked for.
    pub(super) fn take_metadata(&mut self, now: Instant, id: SessionId, body: &RecordingBody, tell: bool) {
        if body.metadata.is_empty() {
            return;
        }
        let received = self.unix_ms(now);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let problems = session.take_metadata(&body.metadata, received);
        for problem in problems {
            self.event(SrsEvent::MetadataProblem { session: id, problem });
        }
        if tell {
            self.tell_info(id);
        }
    }

    /// The streams changed: whose voice is where may have changed with them.
    fn tie_parties(&mut self, now: Instant, id: SessionId) {
        let unix_ms = self.unix_ms(now);
        if self.sessions.get_mut(&id).is_some_and(|session| session.update_parties(unix_ms)) {
            self.tell_info(id);
        }
    }

    fn tell_info(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get(&id) {
            let info = session.info.clone();
            self.outputs.push_back(SrsOutput::Capture(Command::Info { session: id, info }));
        }
    }

    fn warn(&mut self, id: SessionId, text: &str) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.warn(text);
            self.tell_info(id);
        }
    }
}
