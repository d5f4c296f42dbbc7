//! Requests on their way: to the first server, and to the next one when that fails.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use ferric_sip::transaction::ClientTransactionId;
use ferric_sip::{Message, Method};

use super::ways::{Attempt, Found};
use super::{Agent, Call, CallNumber, Due, Outcome, Purpose, State};

impl Agent {
    /// Sends a request to the first place to which `next_hop` leads.
    pub(super) fn send(&mut self, now: Instant, call: CallNumber, purpose: Purpose, request: Message, next_hop: &str) {
        let known = self.calls.get(&call).and_then(|call| call.known).map(|flow| flow.remote);
        let attempt = Attempt { call, purpose, request, at: None, left: VecDeque::new() };
        match self.ways.find(now, next_hop, known, purpose == Purpose::Invite) {
            Found::Hops(left) => self.send_next(now, Attempt { left, ..attempt }),
            Found::Wait(ticket) => self.ways.wait(ticket, attempt, known),
            Found::Nowhere => self.give_up(attempt.call, attempt.purpose, Outcome::Unreachable),
        }
    }

    /// Sends what waited for DNS.
    pub(super) fn send_found(&mut self, now: Instant) {
        while let Some(attempt) = self.ways.poll_ready(now) {
            if attempt.left.is_empty() {
                self.give_up(attempt.call, attempt.purpose, Outcome::Unreachable);
            } else {
                self.send_next(now, attempt);
            }
        }
    }

    pub(super) fn send_next(&mut self, now: Instant, mut attempt: Attempt) {
        let Some(to) = attempt.left.pop_front() else { return };
        let (number, purpose) = (attempt.call, attempt.purpose);
        attempt.at = Some(to.flow.remote);
        if purpose == Purpose::Ack {
            // The connection that is there, rather than one to a host that would have to prove its name again.
            let known = self.calls.get(&number).and_then(|call| call.known);
            let flow = known.filter(|known| known.remote == to.flow.remote && known.transport == to.flow.transport);
            return self.layer.send_ack(attempt.request, flow.unwrap_or(to.flow), None);
        }
        let id = self.layer.send_request(now, attempt.request.clone(), to, None);
        if purpose == Purpose::Invite
            && let Some(call) = self.calls.get_mut(&number)
        {
            call.id = Some(id);
            if let State::Calling { ringing, .. } = &mut call.state {
                *ringing = false;
            }
        }
        if !attempt.left.is_empty() {
            self.deadlines.set((number, Due::Silent(id)), now + self.config.patience);
        }
        self.requests.insert(id, attempt);
    }

    /// Tries the next server, if there is one and the request is still wanted.
    pub(super) fn go_on(&mut self, now: Instant, id: ClientTransactionId) -> bool {
        let wanted = |calls: &HashMap<CallNumber, Call>, attempt: &Attempt| {
            let call = calls.get(&attempt.call);
            match attempt.purpose {
                Purpose::Invite => call.is_some_and(|call| {
                    matches!(call.state, State::Calling { cancelled: false, .. }) && call.id == Some(id)
                }),
                Purpose::Refresh => call.is_some_and(|call| call.state == State::Talking),
                Purpose::Bye => call.is_some(),
                Purpose::Cancel | Purpose::Ack | Purpose::Surplus => false,
            }
        };
        let Some(attempt) = self.requests.get_mut(&id) else { return false };
        if attempt.left.is_empty() || !wanted(&self.calls, attempt) {
            return false;
        }
        let (call, purpose, request) = (attempt.call, attempt.purpose, attempt.request.clone());
        let left = std::mem::take(&mut attempt.left);
        self.send_next(now, Attempt { call, purpose, request, at: None, left });
        true
    }

    /// A server says nothing: the next one is asked, and this one may still answer an INVITE.
    pub(super) fn handle_silence(&mut self, now: Instant, call: CallNumber, id: ClientTransactionId) {
        let ringing =
            matches!(self.calls.get(&call).map(|call| call.state), Some(State::Calling { ringing: true, .. }));
        // Who is slow is alive.
        if let Some(server) = self.requests.get(&id).and_then(|attempt| attempt.at).filter(|_| !ringing) {
            self.ways.avoid(now, server);
        }
        if !self.go_on(now, id) {
            return;
        }
        let Some(old) = self.requests.get_mut(&id) else { return };
        if old.purpose == Purpose::Invite {
            old.purpose = Purpose::Surplus;
            self.layer.quieten(id);
            self.cancel(now, call, id);
        } else {
            self.requests.remove(&id);
            self.layer.forget_client(id);
        }
    }

    pub(super) fn cancel(&mut self, now: Instant, call: CallNumber, invite: ClientTransactionId) {
        if let Some(id) = self.layer.send_cancel(now, invite) {
            let attempt = Attempt {
                call,
                purpose: Purpose::Cancel,
                request: Message::request(&Method::Cancel, &self.config.uri),
                at: None,
                left: VecDeque::new(),
            };
            self.requests.insert(id, attempt);
        }
    }

    pub(super) fn handle_failure(&mut self, now: Instant, id: ClientTransactionId, outcome: Outcome) {
        let Some((call, at)) = self.requests.get(&id).map(|attempt| (attempt.call, attempt.at)) else { return };
        self.deadlines.cancel(&(call, Due::Silent(id)));
        if let Some(server) = at {
            self.ways.avoid(now, server);
        }
        let goes_on = self.go_on(now, id);
        let Some(attempt) = self.requests.remove(&id).filter(|_| !goes_on) else { return };
        let current = self.calls.get(&call).is_some_and(|call| call.id == Some(id));
        if attempt.purpose != Purpose::Invite || current {
            self.give_up(call, attempt.purpose, outcome);
        }
    }

    /// No server is left for a request.
    pub(super) fn give_up(&mut self, call: CallNumber, purpose: Purpose, outcome: Outcome) {
        match purpose {
            Purpose::Invite => self.end(call, outcome),
            Purpose::Bye => self.end(call, Outcome::ByeFailed(408)),
            Purpose::Refresh | Purpose::Cancel | Purpose::Ack | Purpose::Surplus => {}
        }
    }
}
