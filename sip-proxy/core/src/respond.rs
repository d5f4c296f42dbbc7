//! Step 5: what comes back (RFC 3261 16.7, 16.10).
//!
//! | response | goes |
//! | --- | --- |
//! | 100 | nowhere: it says that the next hop lives |
//! | 101 to 199 of an INVITE | to the caller at once; of anything else nowhere (RFC 4320 4.1) |
//! | the first 2xx | to the caller at once; all other copies are cancelled |
//! | every further 2xx of an INVITE | to the caller, over the transaction of its INVITE (RFC 6026) |
//! | 6xx | waits for the others, which are cancelled |
//! | 300 to 599 | the best one, when no copy is under way and nobody is left to ask |

use std::time::Instant;

use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::transaction::{ClientTransactionId, ServerTransactionId};
use rand::RngExt;
use smallvec::SmallVec;

use crate::context::{Branch, ContextId};
use crate::failover::{Client, Due, Failed, Loss};
use crate::group::{ElementId, Outcome};
use crate::proxy::{Proxy, ProxyOutput};
use crate::rescue::Trouble;
use crate::response_context::Best;
use crate::validate::{BREADTH, breadth_of};
use crate::witnessed::dialog_of;

impl Proxy {
    /// Sends a request to the next targets, so many of them as it may have copies; the rest of the set comes after them.
    pub(crate) fn next_set(&mut self, now: Instant, id: ContextId) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let Some(mut set) = context.sets.pop_front() else { return };
        let said = breadth_of(&context.request);
        let breadth = said.unwrap_or(BREADTH).max(1);
        if set.len() > breadth {
            context.sets.push_front(set.split_off(breadth));
        }
        let (first, count) = (context.branches.len(), set.len());
        context.branches.extend(set.into_iter().enumerate().map(|(place, target)| {
            let share = breadth / count.max(1) + usize::from(place < breadth % count.max(1));
            Branch {
                target,
                attempt: None,
                tried: SmallVec::new(),
                breadth: (count > 1 && said != Some(share)).then_some(share),
                done: false,
            }
        }));
        for at in first..first + count {
            self.begin_branch(now, id, at);
        }
    }

    pub(crate) fn handle_response(&mut self, now: Instant, client: ClientTransactionId, response: Message) {
        let status = response.status().unwrap_or(500);
        let (is_final, is_success) = (status >= 200, (200..300).contains(&status));
        match self.clients.get(&client).copied() {
            Some(Client::Probe(element)) => {
                if is_final {
                    self.clients.remove(&client);
                    self.deadlines.cancel(&Due::Answer(client));
                    if self.groups.note_probe(now, element, Some(status)) {
                        self.leave(now, element, Loss::Refuses);
                    }
                }
            }
            Some(Client::Attempt(id, at)) if !is_final => {
                self.handle_provisional(now, id, at, client, response, status)
            }
            Some(Client::Attempt(id, at)) => {
                self.clients.remove(&client);
                if is_success {
                    let element = self.take_attempt(id, at).and_then(|attempt| attempt.element);
                    self.succeed(now, id, element, response, status);
                } else {
                    self.fail(now, id, at, Failed::Answered(Box::new(response)));
                }
            }
            Some(Client::GivenUp(_, element)) if !is_final => {
                // It lives after all, and nobody waits for it.
                if let Some(element) = element {
                    self.groups.note_alive(now, element);
                }
                self.layer.send_cancel(now, client);
            }
            Some(Client::GivenUp(id, element)) => {
                self.clients.remove(&client);
                if let Some(element) = element.filter(|_| status < 500 && status != 408) {
                    self.groups.note_alive(now, element);
                }
                if is_success && self.contexts.contains_key(&id) {
                    self.succeed(now, id, element, response, status);
                } else if is_success && response.method() == Method::Invite {
                    self.pass_on(response);
                }
            }
            // Another 2xx of a fork farther on, or one that is repeated, goes through (RFC 6026).
            None if is_success && response.method() == Method::Invite => self.pass_on(response),
            None => {}
        }
    }

    fn handle_provisional(
        &mut self,
        now: Instant,
        id: ContextId,
        at: usize,
        client: ClientTransactionId,
        mut response: Message,
        status: u16,
    ) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let (stopped, server, is_invite) = (context.stopped, context.server, context.is_invite);
        let Some(attempt) = context.branches.get_mut(at).and_then(|branch| branch.attempt.as_mut()) else { return };
        let first = !std::mem::replace(&mut attempt.heard, true);
        attempt.rings |= status > 100;
        if let Some(element) = attempt.element {
            self.groups.note_alive(now, element);
        }
        if first {
            self.deadlines.cancel(&Due::Answer(client));
        }
        if stopped && first {
            self.layer.send_cancel(now, client);
        }
        if status > 100 && is_invite {
            response.remove_top_via();
            self.layer.respond(now, server, response);
        }
    }

    /// A 2xx of a request that has no final answer yet.
    fn succeed(&mut self, now: Instant, id: ContextId, element: Option<ElementId>, mut response: Message, status: u16) {
        if self.config.wants_proof()
            && self.contexts.get(&id).is_some_and(|context| makes_dialog(&context.request.method()))
            && let Some(dialog) = dialog_of(&self.branches, &response)
        {
            self.witnessed.note(now, dialog);
        }
        if let Some(element) = element {
            self.groups.note_outcome(now, element, Outcome::Answered { status, retry_after: None });
            if let Some(call) = self.contexts.get(&id).filter(|context| context.begins_call).map(|context| context.call)
            {
                self.groups.begin_call(now, call, element);
            }
        }
        response.remove_top_via();
        self.finish(now, id, response, "upstream", element);
    }

    /// The answer is there: it goes back, what is still under way is cancelled, or when something is heard of it.
    fn finish(
        &mut self,
        now: Instant,
        id: ContextId,
        mut response: Message,
        side: &'static str,
        element: Option<ElementId>,
    ) {
        let count = self.contexts.get(&id).map_or(0, |context| context.branches.len());
        for at in 0..count {
            self.give_up(now, id, at);
        }
        let Some(context) = self.contexts.remove(&id) else { return };
        self.by_server.remove(&context.server);
        self.deadlines.cancel(&Due::Trying(id));
        let status = response.status().unwrap_or(500);
        let elapsed = now.saturating_duration_since(context.received);
        if !context.is_invite && elapsed >= self.timers.f {
            // Whoever asked gave up a moment ago, by the same timer (RFC 4320 4.2).
            self.layer.forget(context.server);
        } else {
            let tag: u64 = self.rng.random();
            response.set_to_tag(&format!("{tag:016x}"));
            self.layer.respond(now, context.server, response);
        }
        // Who says goodbye is gone, whether the other side hears it or not; unless a password is wanted first.
        if context.request.method() == Method::Bye && !matches!(status, 401 | 407) {
            self.groups.end_call(context.call);
            if let Some(dialog) = dialog_of(&self.branches, &context.request) {
                self.witnessed.forget(dialog);
            }
        }
        let mut done = context.done;
        let asked_last = || context.branches.last().and_then(|branch| branch.tried.last().copied());
        if let Some(element) = element.or_else(asked_last) {
            done.element = self.groups.address(element).map(str::to_owned);
            done.group = self.groups.group_of(element);
        }
        (done.status, done.side, done.elapsed) = (status, side, elapsed);
        self.outputs.push_back(ProxyOutput::Done(Box::new(done)));
    }

    /// Nobody else is asked any more. CANCEL for every copy that something was heard of; for the others when it is (RFC 3261 9.1).
    fn stop(&mut self, now: Instant, id: ContextId) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        context.stopped = true;
        context.sets.clear();
        for branch in &mut context.branches {
            // A name is being looked up still: nothing was sent, nothing is waited for.
            branch.done |= branch.attempt.is_none();
        }
        let heard: SmallVec<[ClientTransactionId; 2]> = context
            .branches
            .iter()
            .filter_map(|branch| branch.attempt.as_ref())
            .filter(|attempt| attempt.heard)
            .map(|attempt| attempt.client)
            .collect();
        for client in heard {
            self.layer.send_cancel(now, client);
        }
    }

    pub(crate) fn handle_cancel(&mut self, now: Instant, server: ServerTransactionId) {
        let Some(id) = self.by_server.get(&server).copied() else { return };
        self.stop(now, id);
        if let Some(context) = self.contexts.get_mut(&id).filter(|context| context.is_idle()) {
            Best::add_cancelled(&mut context.best);
        }
        self.settle(now, id);
    }

    /// Still without an answer: the caller hears that it need not repeat itself so often.
    pub(crate) fn send_trying(&mut self, now: Instant, id: ContextId) {
        if let Some(context) = self.contexts.get(&id) {
            let trying = Message::response(&context.request, 100, None);
            self.layer.respond(now, context.server, trying);
        }
    }

    /// Goes on with the next targets, or answers, when nothing is under way any more (16.7 steps 5 to 7).
    pub(crate) fn settle(&mut self, now: Instant, id: ContextId) {
        let Some(context) = self.contexts.get(&id) else { return };
        if context.best.as_ref().is_some_and(Best::is_global) && !context.stopped {
            self.stop(now, id);
        }
        let Some(context) = self.contexts.get_mut(&id).filter(|context| context.is_idle()) else { return };
        if !context.sets.is_empty() {
            self.next_set(now, id);
            return;
        }
        let is_invite = context.is_invite;
        if context.best.is_none() {
            Best::add_trouble(&mut context.best, &Trouble::NotRegistered, is_invite);
        }
        let Some(best) = context.best.take() else { return };
        let (response, side, element) = best.into_response(&context.request, is_invite);
        self.finish(now, id, response, side, element);
    }
}

/// A success of it begins a dialog, or goes on with one.
fn makes_dialog(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Subscribe | Method::Refer)
}
