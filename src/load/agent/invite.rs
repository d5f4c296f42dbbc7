//! What comes of an INVITE: the first 2xx of any server makes the call (RFC 3261 13.2.2.4).

use std::collections::VecDeque;
use std::time::Instant;

use ferric_sip::dialog::Dialog;
use ferric_sip::transaction::ClientTransactionId;
use ferric_sip::{Flow, Message, Method};

use super::ways::Attempt;
use super::{
    Agent, AgentOutput, BecauseOf, CallNumber, Due, HEARD_PATIENCE, Outcome, Purpose, State, refresh_interval, targets,
};

impl Agent {
    pub(super) fn handle_invite_response(
        &mut self,
        now: Instant,
        number: CallNumber,
        id: ClientTransactionId,
        status: u16,
        response: &Message,
        flow: Flow,
    ) {
        if status >= 200 {
            self.deadlines.cancel(&(number, Due::Silent(id)));
        }
        let Some(call) = self.calls.get_mut(&number) else {
            return if (200..300).contains(&status) {
                self.end_surplus(now, number, response, flow)
            };
        };
        let current = call.id == Some(id);
        match (call.state, status) {
            (State::Calling { ringing, cancelled }, 0..200) if current => {
                call.state = State::Calling { ringing: true, cancelled };
                if cancelled && !ringing {
                    self.cancel(now, number, id);
                }
                if self.requests.get(&id).is_some_and(|attempt| !attempt.left.is_empty()) {
                    self.deadlines.set((number, Due::Silent(id)), now + self.config.patience * HEARD_PATIENCE);
                }
            }
            // An INVITE that was left behind is heard of after all.
            (_, 0..200) => self.cancel(now, number, id),
            (State::Calling { cancelled, .. }, 200..300) => {
                call.known = Some(flow);
                self.answered(now, number, response, cancelled);
            }
            (State::Calling { cancelled, .. }, _) if current => {
                self.end(number, if cancelled { Outcome::Cancelled } else { Outcome::Refused(status) });
            }
            (State::Talking | State::Leaving(_), 200..300) => {
                let tag = response.to().ok().and_then(|to| to.tag().map(str::to_owned));
                if call.dialog.as_ref().map(|dialog| dialog.id.remote_tag.as_str()) == tag.as_deref() {
                    // The 2xx came again: its ACK was lost.
                    self.acknowledge(now, number);
                } else {
                    self.end_surplus(now, number, response, flow);
                }
            }
            _ => {}
        }
    }

    /// A second server answered the same INVITE: its dialog is acknowledged and ended, over the flow by which it came.
    pub(super) fn end_surplus(&mut self, now: Instant, call: CallNumber, response: &Message, flow: Flow) {
        let mut invite = Message::request(&Method::Invite, &self.config.uri);
        let Ok(cseq) = response.cseq() else { return };
        invite.add_header("CSeq", &cseq.to_string());
        let Ok(mut dialog) = Dialog::uac(&invite, response) else { return };
        self.layer.send_ack(dialog.ack(cseq.number), flow, None);
        let request = dialog.request(&Method::Bye);
        let id = self.layer.send_request(now, request.clone(), flow, None);
        let attempt = Attempt { call, purpose: Purpose::Surplus, request, at: None, left: VecDeque::new() };
        self.requests.insert(id, attempt);
    }

    pub(super) fn answered(&mut self, now: Instant, number: CallNumber, response: &Message, cancelled: bool) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let fallback = call.known.map_or(self.config.media_address, |flow| flow.remote.ip());
        let set_up = now.duration_since(call.started);
        let Ok(dialog) = Dialog::uac(&call.invite, response) else {
            return self.end(number, Outcome::BadAnswer);
        };
        self.dialogs.insert(dialog.id.clone(), number);
        call.dialog = Some(dialog);
        call.state = State::Talking;
        call.refresh_every = refresh_interval(response);
        let refresh_every = call.refresh_every;
        let targets = targets(response.body(), fallback);
        self.acknowledge(now, number);
        if cancelled {
            return self.hang_up(now, number, BecauseOf::Cancelled);
        }
        let Some(targets) = targets.filter(|targets| targets.iter().any(Option::is_some)) else {
            return self.hang_up(now, number, BecauseOf::BadAnswer);
        };
        if let Some(every) = refresh_every {
            self.deadlines.set((number, Due::Refresh), now + every);
        }
        self.deadlines.set((number, Due::HangUp), now + self.config.hold);
        self.outputs.push_back(AgentOutput::Answered { call: number, set_up, targets });
    }

    pub(super) fn acknowledge(&mut self, now: Instant, number: CallNumber) {
        let Some(call) = self.calls.get(&number) else { return };
        if let (Some(dialog), Ok(cseq)) = (&call.dialog, call.invite.cseq()) {
            let (ack, next_hop) = (dialog.ack(cseq.number), dialog.next_hop().to_owned());
            self.send(now, number, Purpose::Ack, ack, &next_hop);
        }
    }
}
