//! Requests from peers.

use std::time::Instant;

use ferric_sip::dialog::{Dialog, DialogId, SessionTimer};
use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::siprec::{ACCEPTED_TYPES, Metadata, RecordingBody, SNAPSHOT_REQUEST_TYPE, read_body};
use ferric_sip::transaction::ServerTransactionId;
use ferric_sip::validate::{Reject, validate_request, validate_require, validate_scheme};
use rand::RngExt;

use super::send::SUPPORTED;
use super::{Deadline, Due, Srs};
use crate::event::{InviteId, SrsEvent};
use crate::maker::Half;
use crate::offer;
use crate::port::{RefuseReason, ReleaseCause, SessionInfo, StreamSpec};
use crate::rescue;
use crate::session::{Moving, Pending, Session, SessionKey, State, first_origin, info_of};

/// Option tags that a request may require.
const KNOWN_OPTIONS: [&str; 4] = ["siprec", "timer", "100rel", "record-aware"];

impl Srs {
    pub(super) fn handle_request(&mut self, now: Instant, id: ServerTransactionId, request: Message, flow: Flow) {
        let checked = validate_request(&request)
            .and_then(|()| validate_scheme(&request))
            .and_then(|()| validate_require(&request, &KNOWN_OPTIONS));
        // A call that its client ends is over, however badly it says so.
        let ends = request.method() == Method::Bye
            && DialogId::of_request(&request).is_some_and(|dialog| self.by_dialog.contains_key(&dialog));
        if let Err(reject) = checked.or_else(|reject| if ends { Ok(()) } else { Err(reject) }) {
            if request.method() == Method::Invite && DialogId::of_request(&request).is_none() {
                let invite = self.note_offer(now, &request, &flow, "unknown".into());
                self.event(SrsEvent::Refused { invite, status: reject.status, cause: "malformed" });
            }
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
            Method::Other(_) => {
                self.reject(now, id, &request, &Reject::new(501).with("Allow", rescue::ALLOW), "method")
            }
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
        let body = read_body(&request);
        let metadata = body.as_ref().ok().and_then(|body| body.metadata.first());
        let tenant = self.config.trust.tenant_of(flow.remote.ip()).unwrap_or("").to_owned();
        let (info, half) =
            info_of(&request, metadata.map(|document| document.as_ref()), &tenant, flow.remote, self.unix_ms(now));
        let invite = self.note_offer(now, &request, &flow, info.source_kind.clone());
        let offered = self
            .settle_with_earlier(now, &request)
            .and_then(|()| body.map_err(|error| (rescue::body(&error), "body")))
            .and_then(|body| Ok((self.offered(now, &request, &flow, invite, (info, half), &body)?, body)));
        let (session, body) = match offered {
            Ok(offered) => offered,
            Err((reject, cause)) => {
                self.event(SrsEvent::Refused { invite, status: reject.status, cause });
                self.reject(now, id, &request, &reject, cause);
                return;
            }
        };
        self.next_session += 1;
        let key = SessionKey(self.next_session);
        self.by_dialog.insert(session.dialog.id.clone(), key);
        self.by_invite.insert(id, key);
        self.by_call.insert((session.dialog.id.call_id.clone(), session.dialog.id.remote_tag.clone()), key);
        self.deadlines.set(Deadline::Session(key, Due::End), session.ends_at);
        match &session.timer {
            Some(timer) => self.deadlines.set(Deadline::Session(key, Due::SessionTimer), timer.poll_timeout()),
            None => self.deadlines.set(Deadline::Session(key, Due::Probe), now + self.config.probe_interval),
        }
        self.sessions.insert(key, session);
        self.note_metadata(now, key, &body.metadata);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.pending = Some(Pending { transaction: id, request, offer: body.sdp });
        }
        self.place_new(now, key);
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
    fn offered(
        &mut self,
        now: Instant,
        request: &Message,
        flow: &Flow,
        invite: InviteId,
        (mut info, half): (SessionInfo, Option<Half>),
        body: &RecordingBody,
    ) -> Result<Session, (Reject, &'static str)> {
        if let Some(reason) = self.closed() {
            return Err((rescue::refused(reason), reason.as_str()));
        }
        if self.sessions.len() >= self.config.max_sessions {
            return Err((rescue::refused(RefuseReason::Capacity), "capacity"));
        }
        let host = self.host(flow);
        let policy = self.config.media.for_call(&info.tenant, flow);
        let streams = match &body.sdp {
            Some(sdp) => {
                let streams = offer::plan(sdp, &policy, &mut self.keys, &[]);
                if streams.is_empty() {
                    return Err((rescue::nothing_storable(&host, offer::why_unstorable(sdp, &policy)), "no-codec"));
                }
                streams
            }
            None => self.own_streams(body, &mut info),
        };
        let timer = SessionTimer::negotiate(now, request, &self.config.session_timer)
            .map_err(|reject| (reject, "session-timer"))?;
        let tag = format!("{:016x}", self.rng.random::<u64>());
        let first_cseq = self.rng.random_range(1..0x4000_0000);
        let dialog = Dialog::uas(request, &tag, first_cseq).map_err(|error| (error.into(), "malformed"))?;
        let accepts = request.values("Accept");
        Ok(Session {
            state: State::Assigning,
            invite,
            epoch: 0,
            announcing: None,
            dialog,
            flow: *flow,
            pending: None,
            accepted: None,
            awaits_answer: false,
            own: None,
            told: Vec::new(),
            moving: Moving::Still,
            put_off: 0,
            probing: false,
            invite_cseq: request.cseq().map_or(0, |cseq| cseq.number),
            timer,
            origin: first_origin(u64::from(self.rng.random::<u32>()), flow.local.ip()),
            streams,
            stopped: Vec::new(),
            before: None,
            waiting: 0,
            recordings: Vec::new(),
            communication_sessions: Vec::new(),
            half,
            last_sdp: String::new(),
            info,
            metadata: Metadata::default(),
            offers_by_invite: false,
            peer_allows_update: request.values("Allow").iter().any(|method| method == "UPDATE"),
            heard: false,
            peer_gives_snapshots: accepts
                .iter()
                .any(|media_type| media_type.trim().eq_ignore_ascii_case(SNAPSHOT_REQUEST_TYPE)),
            snapshots: (None, 0),
            ends_at: now + self.config.max_call,
        })
    }

    /// The streams of an offer of ours: one, or as many as the metadata have labels.
    fn own_streams(&self, body: &RecordingBody, info: &mut SessionInfo) -> Vec<StreamSpec> {
        let mut labels: Vec<String> = Vec::new();
        for document in &body.metadata {
            let named = Metadata::parse(document).0.streams.into_iter().filter_map(|stream| stream.label);
            for label in named {
                if !labels.contains(&label) && labels.len() < offer::MAX_STREAMS {
                    labels.push(label);
                }
            }
        }
        if !body.metadata.is_empty() {
            info.warnings
                .push("the INVITE has recording metadata and no session description: the offer is ours".to_owned());
        }
        if labels.is_empty() {
            labels.push("1".to_owned());
        }
        let stream = |(index, label): (usize, String)| StreamSpec {
            index,
            channel: 0,
            label: Some(label),
            formats: offer::own_formats(&self.config.media),
            remote_rtp: None,
            remote_rtcp: None,
            rtcp_mux: false,
            active: true,
            keys: None,
        };
        labels.into_iter().enumerate().map(stream).collect()
    }

    fn handle_in_dialog(
        &mut self,
        now: Instant,
        id: ServerTransactionId,
        key: SessionKey,
        request: Message,
        flow: Flow,
    ) {
        self.serve(now, id, key, request, flow);
        self.catch_up(now, key);
    }

    fn serve(&mut self, now: Instant, id: ServerTransactionId, key: SessionKey, request: Message, flow: Flow) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if let Err(reject) = session.dialog.check_request(&request)
            && request.method() != Method::Bye
        {
            self.reject(now, id, &request, &reject, "cseq");
            return;
        }
        // Requests of ours go by a way of our own: their answers come to us.
        if flow.elsewhere().is_none() {
            session.flow = flow;
        }
        // Who goes on within the dialog has had our 200, whatever became of the ACK.
        if !session.awaits_answer && session.accepted.take().is_some() {
            self.deadlines.cancel(&Deadline::Session(key, Due::Accepted));
        }
        if session.timer.is_none() {
            self.deadlines.set(Deadline::Session(key, Due::Probe), now + self.config.probe_interval);
        }
        match request.method() {
            Method::Invite | Method::Update => self.handle_reoffer(now, id, key, request),
            Method::Bye => {
                if let Ok(body) = read_body(&request) {
                    self.take_metadata(now, key, &body.metadata);
                }
                let response = Message::response(&request, 200, None);
                self.respond(now, id, &request, response);
                self.end(now, key, ReleaseCause::Bye, false);
            }
            Method::Info => {
                self.note_header(now, key, &request);
                if let Ok(body) = read_body(&request) {
                    self.take_metadata(now, key, &body.metadata);
                }
                let response = Message::response(&request, 200, None);
                self.respond(now, id, &request, response);
            }
            Method::Options => {
                let mut response = self.ok(&request, key);
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
            Method::Other(_) => {
                self.reject(now, id, &request, &Reject::new(501).with("Allow", rescue::ALLOW), "method")
            }
        }
    }
}
