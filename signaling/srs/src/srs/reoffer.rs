//! Offers, answers and metadata inside a dialog: re-INVITE, UPDATE, the answer in an ACK.

use std::time::Instant;

use bytes::Bytes;
use ferric_sip::dialog::{DialogId, SessionTimer};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::Sdp;
use ferric_sip::siprec::{Metadata, RecordingBody, read_body};
use ferric_sip::transaction::ServerTransactionId;
use rand::RngExt;

use super::{Deadline, Due, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::offer;
use crate::port::{Command, RecordingId};
use crate::rescue;
use crate::session::{Pending, SessionKey};

impl Srs {
    /// re-INVITE or UPDATE: streams, metadata, session refresh, or all of them.
    pub(super) fn handle_reoffer(&mut self, now: Instant, id: ServerTransactionId, key: SessionKey, request: Message) {
        let mut body = match read_body(&request) {
            Ok(body) => body,
            Err(error) => {
                self.reject(now, id, &request, &rescue::body(&error), "body");
                return;
            }
        };
        let config = self.config.session_timer;
        let wait = self.rng.random_range(1..10);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let is_invite = request.method() == Method::Invite;
        if body.sdp.is_some() || is_invite {
            let glare = if session.pending.is_some() {
                Some(rescue::glare(false, wait))
            } else if session.awaits_answer || session.offers() {
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
            self.deadlines.set(Deadline::Session(key, Due::SessionTimer), timer.poll_timeout());
            self.deadlines.cancel(&Deadline::Session(key, Due::Probe));
        }
        self.note_metadata(now, key, &body.metadata);
        self.note_header(now, key, &request);
        match body.sdp.take() {
            Some(sdp) => self.change_streams(now, id, key, request, sdp),
            None if is_invite => {
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.pending = Some(Pending { transaction: id, request, offer: None });
                }
                self.answer_offer(now, key);
            }
            None => {
                let response = self.ok(&request, key);
                self.respond(now, id, &request, response);
            }
        }
        // Behind the streams, so that the parties are tied to those that count from now on.
        self.use_metadata(now, key, &body.metadata);
    }

    fn change_streams(&mut self, now: Instant, id: ServerTransactionId, key: SessionKey, request: Message, sdp: Sdp) {
        let Some(session) = self.sessions.get(&key) else { return };
        let (flow, stopped) = (session.flow, session.stopped.clone());
        let mut streams = offer::plan(
            &sdp,
            &self.config.media.for_call(&session.info.tenant, &flow),
            &mut self.keys,
            &session.streams,
        );
        streams.retain(|stream| !stopped.contains(&stream.index));
        let offers_audio = sdp.media.iter().any(|media| media.kind == "audio" && media.port != 0);
        if streams.is_empty() && offers_audio {
            let why = offer::why_unstorable(&sdp, &self.config.media.for_call(&session.info.tenant, &flow));
            let reject = rescue::nothing_storable(&self.host(&flow), why);
            self.reject(now, id, &request, &reject, "no-codec");
            return;
        }
        self.remember(key);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.streams = streams;
            session.pending = Some(Pending { transaction: id, request, offer: Some(sdp) });
        }
        self.by_invite.insert(id, key);
        self.place_again(now, key);
        self.tie_parties(now, key);
    }

    /// The ACK to a 200 of ours; with the answer, when the offer was ours.
    pub(super) fn handle_ack(&mut self, now: Instant, request: &Message) {
        let Some(key) = DialogId::of_request(request).and_then(|dialog| self.by_dialog.get(&dialog).copied()) else {
            return;
        };
        self.acknowledged(now, key, request);
        self.catch_up(now, key);
    }

    fn acknowledged(&mut self, now: Instant, key: SessionKey, request: &Message) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        let matches = session.accepted.as_ref().is_some_and(|accepted| accepted.cseq() == number);
        // Some count their ACKs anew. It is ours all the same, unless an answer is awaited and this one has none.
        let is_stray = !matches && (session.accepted.is_none() || (session.awaits_answer && request.body().is_empty()));
        if is_stray {
            return;
        }
        session.accepted = None;
        self.deadlines.cancel(&Deadline::Session(key, Due::Accepted));
        if !std::mem::take(&mut session.awaits_answer) {
            return;
        }
        let (flow, tenant) = (session.flow, session.info.tenant.clone());
        match read_body(request) {
            Ok(RecordingBody { sdp: Some(sdp), metadata, .. }) => {
                let policy = self.config.media.for_call(&tenant, &flow);
                let mut streams = offer::answered(&sdp, &policy, &mut self.keys, &session.streams);
                streams.retain(|stream| !session.stopped.contains(&stream.index));
                session.streams = streams;
                self.note_metadata(now, key, &metadata);
                self.place_again(now, key);
                self.use_metadata(now, key, &metadata);
            }
            // We listen for everything that we offered all the same.
            Ok(_) => self.warn(key, "the ACK brought no answer to our offer"),
            Err(error) => self.warn(key, &format!("the answer in the ACK: {error}")),
        }
    }

    /// Metadata outside of offers: in INFO, BYE, and UPDATE without a description.
    pub(super) fn take_metadata(&mut self, now: Instant, key: SessionKey, documents: &[Bytes]) {
        self.note_metadata(now, key, documents);
        self.use_metadata(now, key, documents);
    }

    /// Notes metadata; capture does not hear of it yet.
    pub(super) fn note_metadata(&mut self, now: Instant, key: SessionKey, documents: &[Bytes]) {
        if documents.is_empty() {
            return;
        }
        let received = self.unix_ms(now);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let invite = session.invite;
        for problem in session.take_metadata(documents, received) {
            self.event(SrsEvent::MetadataProblem { invite, problem });
        }
    }

    /// Lets new metadata have their effect on a call that is recorded.
    fn use_metadata(&mut self, now: Instant, key: SessionKey, documents: &[Bytes]) {
        if documents.is_empty() {
            return;
        }
        let partial = documents.iter().any(|document| Metadata::parse(document).0.partial);
        let waits = self.sessions.get(&key).is_some_and(|session| session.waiting > 0);
        if !waits {
            self.follow_metadata(now, key);
        }
        self.ask_for_snapshot(now, key, partial);
        self.tell_info(key);
    }

    pub(super) fn note_header(&mut self, now: Instant, key: SessionKey, request: &Message) {
        let unix_ms = self.unix_ms(now);
        if self.sessions.get_mut(&key).is_some_and(|session| session.take_header(request, unix_ms)) {
            self.tell_info(key);
        }
    }

    /// The streams changed: whose voice is where may have changed with them.
    fn tie_parties(&mut self, now: Instant, key: SessionKey) {
        let unix_ms = self.unix_ms(now);
        if self.sessions.get_mut(&key).is_some_and(|session| session.update_parties(unix_ms)) {
            self.tell_info(key);
        }
    }

    fn tell_info(&mut self, key: SessionKey) {
        let recordings = self.sessions.get(&key).map(|session| session.recordings.clone()).unwrap_or_default();
        for id in recordings {
            self.tell_recording(id);
        }
    }

    /// Tells capture what is known of the call of a recording.
    pub(super) fn tell_recording(&mut self, id: RecordingId) {
        let Some(recording) = self.recordings.get(&id) else { return };
        // Before capture was asked for it, and while nobody has it, the question itself will tell.
        if (!recording.begun && recording.questions.is_empty()) || recording.is_adrift() {
            return;
        }
        if let Some(info) = recording.info(id, &self.sessions) {
            self.outputs.push_back(SrsOutput::Capture(Command::Info { recording: id, info }));
        }
    }

    pub(super) fn warn(&mut self, key: SessionKey, text: &str) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.warn(text);
            self.tell_info(key);
        }
    }
}
