//! Requests from peers.

use std::time::Instant;

use ferric_sip::dialog::{Dialog, DialogId, SessionTimer};
use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::siprec::{ACCEPTED_TYPES, Metadata, RecordingBody, read_body};
use ferric_sip::transaction::ServerTransactionId;
use ferric_sip::validate::{Reject, validate_request, validate_require, validate_scheme};
use rand::RngExt;

use super::send::SUPPORTED;
use super::{Due, Srs};
use crate::offer;
use crate::port::{Command, RefuseReason, ReleaseCause, SessionId, StreamSpec};
use crate::rescue;
use crate::session::{Pending, Session, State, first_origin, info_of};

/// Option tags that a request may require.
const KNOWN_OPTIONS: [&str; 4] = ["siprec", "timer", "100rel", "record-aware"];

impl Srs {
    pub(super) fn handle_request(&mut self, now: Instant, id: ServerTransactionId, request: Message, flow: Flow) {
        let checked = validate_request(&request)
            .and_then(|()| validate_scheme(&request))
            .and_then(|()| validate_require(&request, &KNOWN_OPTIONS));
        if let Err(reject) = checked {
            self.reject(now, id, &request, &reject, "malformed");
            return;
        }
        let inside = DialogId::of_request(&request).map(|dialog| self.by_dialog.get(&dialog).copied());
        match inside {
            Some(Some(session)) => self.handle_in_dialog(now, id, session, request, flow),
            Some(None) if request.method() != Method::Options => {
                self.reject(now, id, &request, &Reject::new(481), "no-dialog");
            }
            Some(None) | None => self.handle_out_of_dialog(now, id, request, flow),
        }
    }

    fn handle_out_of_dialog(&mut self, now: Instant, id: ServerTransactionId, request: Message, flow: Flow) {
        match request.method() {
            Method::Invite => self.handle_invite(now, id, request, flow),
            Method::Options => self.answer_options(now, id, &request),
            Method::Bye | Method::Update | Method::Info | Method::Prack => {
                self.reject(now, id, &request, &Reject::new(481), "no-dialog");
            }
            Method::Register
            | Method::Subscribe
            | Method::Notify
            | Method::Refer
            | Method::Message
            | Method::Publish
            | Method::Ack
            | Method::Cancel => self.reject(now, id, &request, &rescue::method_not_allowed(), "method"),
            Method::Other(_) => self.reject(now, id, &request, &Reject::new(501).with("Allow", rescue::ALLOW), "method"),
        }
    }

    /// OPTIONS is how SBCs watch us: a node that takes no calls says so.
    fn answer_options(&mut self, now: Instant, id: ServerTransactionId, request: &Message) {
        let response = match self.closed() {
            Some(reason) => rescue::refused(reason).response(request),
            None => {
                let mut response = Message::response(request, 200, None);
                response.add_header("Allow", rescue::ALLOW);
                response.add_header("Accept", ACCEPTED_TYPES);
                response.add_header("Supported", SUPPORTED);
                response
            }
        };
        self.respond(now, id, request, response);
    }

    fn handle_invite(&mut self, now: Instant, id: ServerTransactionId, request: Message, flow: Flow) {
        if let Err((reject, reason)) = self.settle_with_earlier(now, &request) {
            self.reject(now, id, &request, &reject, reason);
            return;
        }
        match self.offered(now, &request, &flow) {
            Ok((session_id, session, body)) => {
                let streams = session.streams.clone();
                self.by_dialog.insert(session.dialog.id.clone(), session_id);
                self.by_invite.insert(id, session_id);
                self.by_call.insert((session.dialog.id.call_id.clone(), session.dialog.id.remote_tag.clone()), session_id);
                let ends_at = session.ends_at;
                let without_timer = session.timer.is_none();
                self.deadlines.set((session_id, Due::End), ends_at);
                if let Some(timer) = &session.timer {
                    self.deadlines.set((session_id, Due::SessionTimer), timer.poll_timeout());
                }
                if without_timer {
                    self.deadlines.set((session_id, Due::Probe), now + self.config.probe_interval);
                }
                self.sessions.insert(session_id, session);
                self.take_metadata(now, session_id, &body, false);
                let Some(session) = self.sessions.get_mut(&session_id) else { return };
                session.pending = Some(Pending { transaction: id, request, offer: body.sdp });
                let info = session.info.clone();
                self.ask_capture(now, session_id, Command::Assign { session: session_id, streams, info });
            }
            Err((reject, reason)) => self.reject(now, id, &request, &reject, reason),
        }
    }

    /// An INVITE may come once more: by another way (the same number: 482), or
    /// because the peer never saw our answer (a later number: the call that it
    /// did not acknowledge is over, this one counts).
    fn settle_with_earlier(&mut self, now: Instant, request: &Message) -> Result<(), (Reject, &'static str)> {
        let call_id = request.call_id().unwrap_or_default().into_owned();
        let tag = request.from().ok().and_then(|from| from.tag().map(str::to_owned)).unwrap_or_default();
        let Some(earlier) = self.by_call.get(&(call_id, tag)).copied() else { return Ok(()) };
        let Some(session) = self.sessions.get(&earlier) else { return Ok(()) };
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        if session.invite_cseq == number {
            return Err((rescue::merged(), "merged"));
        }
        if session.state == State::Assigning || session.accepted.is_some() {
            self.end(now, earlier, ReleaseCause::Superseded, false);
        }
        Ok(())
    }

    /// Everything about a first INVITE that can be said without capture.
    fn offered(&mut self, now: Instant, request: &Message, flow: &Flow) -> Result<(SessionId, Session, RecordingBody), (Reject, &'static str)> {
        if let Some(reason) = self.closed() {
            return Err((rescue::refused(reason), reason.as_str()));
        }
        if self.sessions.len() >= self.config.max_sessions {
            return Err((rescue::refused(RefuseReason::Capacity), "capacity"));
        }
        let body = read_body(request).map_err(|error| (rescue::body(&error), "body"))?;
        let host = self.host(flow);
        let streams = match &body.sdp {
            Some(sdp) => {
                let streams = offer::plan(sdp, self.config.storable);
                if streams.is_empty() {
                    return Err((rescue::nothing_storable(&host, offer::why_unstorable(sdp)), "no-codec"));
                }
                streams
            }
            None if body.metadata.is_empty() || request.body().is_empty() => vec![self.own_stream()],
            None => return Err((Reject::because(400, "The INVITE has recording metadata but no session description"), "no-sdp")),
        };
        let timer = SessionTimer::negotiate(now, request, &self.config.session_timer).map_err(|reject| (reject, "session-timer"))?;
        let tag = format!("{:016x}", self.rng.random::<u64>());
        let first_cseq = self.rng.random_range(1..0x4000_0000);
        let dialog = Dialog::uas(request, &tag, first_cseq).map_err(|error| (error.into(), "malformed"))?;
        let tenant = self.config.trust.tenant_of(flow.remote.ip()).unwrap_or("").to_owned();
        let session = Session {
            state: State::Assigning,
            dialog,
            flow: *flow,
            pending: None,
            accepted: None,
            awaits_answer: false,
            own_offer: false,
            probing: false,
            invite_cseq: request.cseq().map_or(0, |cseq| cseq.number),
            timer,
            origin: first_origin(u64::from(self.rng.random::<u32>()), flow.local.ip()),
            streams,
            before: None,
            unanswered: 0,
            assigned: Vec::new(),
            last_sdp: String::new(),
            info: info_of(request, &tenant, flow.remote, self.unix_ms(now)),
            metadata: Metadata::default(),
            peer_allows_update: request.values("Allow").iter().any(|method| method == "UPDATE"),
            ends_at: now + self.config.max_call,
        };
        Ok((self.new_session_id(now), session, body))
    }

    /// The stream of an offer of ours.
    fn own_stream(&self) -> StreamSpec {
        StreamSpec {
            index: 0,
            label: Some("1".to_owned()),
            formats: offer::own_formats(self.config.storable),
            remote_rtp: None,
            remote_rtcp: None,
            rtcp_mux: false,
            active: true,
        }
    }

    fn handle_in_dialog(&mut self, now: Instant, id: ServerTransactionId, session_id: SessionId, request: Message, flow: Flow) {
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        if let Err(reject) = session.dialog.check_request(&request) {
            self.reject(now, id, &request, &reject, "cseq");
            return;
        }
        session.flow = flow;
        // Who goes on within the dialog has had our 200, whatever became of the ACK.
        if !session.awaits_answer && session.accepted.take().is_some() {
            self.deadlines.cancel(&(session_id, Due::Accepted));
        }
        if session.timer.is_none() {
            self.deadlines.set((session_id, Due::Probe), now + self.config.probe_interval);
        }
        match request.method() {
            Method::Invite | Method::Update => self.handle_reoffer(now, id, session_id, request),
            Method::Bye => {
                if let Ok(body) = read_body(&request) {
                    self.take_metadata(now, session_id, &body, true);
                }
                let response = Message::response(&request, 200, None);
                self.respond(now, id, &request, response);
                self.end(now, session_id, ReleaseCause::Bye, false);
            }
            Method::Info => {
                if let Ok(body) = read_body(&request) {
                    self.take_metadata(now, session_id, &body, true);
                }
                let response = Message::response(&request, 200, None);
                self.respond(now, id, &request, response);
            }
            Method::Options => {
                let mut response = self.ok(&request, session_id);
                response.add_header("Accept", ACCEPTED_TYPES);
                self.respond(now, id, &request, response);
            }
            // We never send provisional responses that would have to be acknowledged.
            Method::Prack => self.reject(now, id, &request, &Reject::new(481), "no-prack"),
            Method::Ack | Method::Cancel => {}
            Method::Register
            | Method::Subscribe
            | Method::Notify
            | Method::Refer
            | Method::Message
            | Method::Publish => self.reject(now, id, &request, &rescue::method_not_allowed(), "method"),
            Method::Other(_) => self.reject(now, id, &request, &Reject::new(501).with("Allow", rescue::ALLOW), "method"),
        }
    }
}
