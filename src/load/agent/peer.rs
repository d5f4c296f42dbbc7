//! What servers ask of the source: requests in its dialogs, from whichever node they come.

use std::time::Instant;

use bytes::Bytes;
use ferric_sip::dialog::{AcceptedInvite, AcceptedStep, DialogId};
use ferric_sip::header::{Refresher, SessionExpires};
use ferric_sip::sdp::Direction;
use ferric_sip::transaction::ServerTransactionId;
use ferric_sip::{Flow, Message, Method};

use super::{Agent, AgentOutput, Call, CallNumber, Due, Outcome, State, targets};

impl Agent {
    pub(super) fn handle_ack(&mut self, ack: &Message) {
        let number = DialogId::of_request(ack).and_then(|id| self.dialogs.get(&id).copied());
        let Some((number, cseq)) = number.zip(ack.cseq().ok()) else { return };
        if let Some(call) = self.calls.get_mut(&number)
            && call.accepted.as_ref().is_some_and(|accepted| accepted.cseq() == cseq.number)
        {
            call.accepted = None;
            self.deadlines.cancel(&(number, Due::Accepted));
        }
    }

    pub(super) fn handle_request(&mut self, now: Instant, id: ServerTransactionId, request: &Message, flow: Flow) {
        let dialog = DialogId::of_request(request);
        let number = dialog.as_ref().and_then(|id| self.dialogs.get(id).copied());
        let Some((number, call)) = number.and_then(|number| Some((number, self.calls.get_mut(&number)?))) else {
            let status = if dialog.is_none() && request.method() == Method::Options { 200 } else { 481 };
            return self.layer.respond(now, id, Message::response(request, status, None));
        };
        if let Some(Err(reject)) = call.dialog.as_mut().map(|dialog| dialog.check_request(request)) {
            return self.layer.respond(now, id, reject.response(request));
        }
        call.known = Some(flow);
        let method = request.method();
        match method {
            Method::Bye => {
                self.layer.respond(now, id, Message::response(request, 200, None));
                // A BYE that crosses our own is no complaint.
                let leaving = matches!(call.state, State::Leaving(_));
                self.end(number, if leaving { Outcome::Completed } else { Outcome::EndedByServer });
            }
            Method::Invite => self.handle_change(now, id, number, request, flow),
            Method::Update if self.config.update => self.handle_change(now, id, number, request, flow),
            Method::Options | Method::Info => {
                let mut response = Message::response(request, 200, None);
                response.add_header("Allow", self.config.allow());
                self.layer.respond(now, id, response);
            }
            Method::Ack
            | Method::Cancel
            | Method::Register
            | Method::Prack
            | Method::Subscribe
            | Method::Notify
            | Method::Update
            | Method::Refer
            | Method::Message
            | Method::Publish
            | Method::Other(_) => {
                let mut response = Message::response(request, 405, None);
                response.add_header("Allow", self.config.allow());
                self.layer.respond(now, id, response);
            }
        }
    }

    /// A re-INVITE or an UPDATE: a session refresh, or the server moves or pauses streams.
    fn handle_change(
        &mut self,
        now: Instant,
        id: ServerTransactionId,
        number: CallNumber,
        request: &Message,
        flow: Flow,
    ) {
        let (contact, method) = (self.contact(), request.method());
        let is_invite = method == Method::Invite;
        let Some(call) = self.calls.get_mut(&number) else { return };
        let offered = targets(request.body(), flow.remote.ip()).filter(|_| !request.body().is_empty());
        if self.config.refuse_moves && offered.is_some() {
            self.layer.respond(now, id, Message::response(request, 488, None));
            return self.outputs.push_back(AgentOutput::Declined { call: number, method });
        }
        if let Some(dialog) = &mut call.dialog {
            dialog.refresh_target(request);
        }
        let mut response = Message::response(request, 200, None);
        response.add_header("Contact", &contact);
        response.add_header("Allow", self.config.allow());
        response.add_header("Supported", "timer");
        if let Some(expires) = request.header("Session-Expires").and_then(|text| SessionExpires::parse(&text)) {
            let refresher = Some(expires.refresher.unwrap_or(Refresher::Uac));
            response.add_header("Session-Expires", &SessionExpires { refresher, ..expires }.to_string());
        }
        if offered.is_some() || is_invite {
            let mut directions = [Direction::SendOnly; 2];
            if let Some(offered) = &offered {
                for (direction, target) in directions.iter_mut().zip(offered) {
                    *direction = if target.is_some() { Direction::SendOnly } else { Direction::Inactive };
                }
                call.sdp_version += 1;
            }
            let Call { identity, ports, sdp_version, .. } = call;
            let sdp = identity.sdp(*sdp_version, self.config.media_address, *ports, self.config.codec, directions);
            response.set_body("application/sdp", Bytes::from(sdp));
        }
        if is_invite && let Ok(cseq) = request.cseq() {
            let accepted = AcceptedInvite::new(now, cseq.number, flow, response.to_bytes(), &self.config.timers);
            self.deadlines.set((number, Due::Accepted), accepted.poll_timeout());
            call.accepted = Some(accepted);
        }
        self.layer.respond(now, id, response);
        if let Some(targets) = offered {
            self.outputs.push_back(AgentOutput::Changed { call: number, method, targets });
        }
    }

    /// The 2xx to a re-INVITE again, until its ACK comes.
    pub(super) fn repeat_accepted(&mut self, now: Instant, number: CallNumber) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let Some(accepted) = &mut call.accepted else { return };
        match accepted.handle_timeout(now) {
            AcceptedStep::Retransmit(flow, bytes) => {
                self.outputs.push_back(AgentOutput::Transmit { to: flow.into(), bytes });
            }
            AcceptedStep::GaveUp => {
                call.accepted = None;
                return;
            }
            AcceptedStep::Wait => {}
        }
        let due = accepted.poll_timeout();
        self.deadlines.set((number, Due::Accepted), due);
    }
}
