//! From one element to the next, unseen by the caller.
//!
//! | what happens to an attempt | element | request |
//! | --- | --- | --- |
//! | no answer at all within the group's timeout | down, unless it was heard of meanwhile | next element; the late one is heard out: rung, it is cancelled |
//! | the same, sent by TCP for its size only | not touched | again by UDP, under the same branch |
//! | its connection is lost after a 100 | not touched | next element, and CANCEL over a new connection; without one it is waited for |
//! | its connection is lost while it rings | not touched | goes on: the answer comes over a new connection |
//! | cannot be sent, connection lost before any answer | down | next element |
//! | a failover code | a miss; 503 with Retry-After: rests | next element |
//! | any other answer | alive | the answer counts |
//!
//! When an element goes down, every request that waits for a first sign of it moves on at once; if it fell silent, those
//! with no more than a 100 as well. One that rings there moves on when a probe found the element dead too: a moment's
//! silence must not make a phone stop ringing. When there is no next one: an element that lives is waited for, else 503 with
//! Retry-After. A request that rings at an element that answers its probes is left there: it ends by its own answer, or by timer C.

use std::time::{Duration, Instant};

use ferric_sip::message::Message;
use ferric_sip::transaction::ClientTransactionId;

use crate::context::{Attempt, ContextId};
use crate::forward::Way;
use crate::group::{ElementId, Hop, Outcome};
use crate::proxy::Proxy;
use crate::rescue::Trouble;
use crate::response_context::Best;
use crate::target::{Next, Ticket};

/// What a client transaction of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// A copy of a request.
    Attempt(ContextId, usize),
    /// A copy that is not waited for any more, and the element that it went to. A success of it counts all the same.
    GivenUp(ContextId, Option<ElementId>),
    /// OPTIONS to an element.
    Probe(ElementId),
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A first answer should be there.
    Answer(ClientTransactionId),
    /// Another request than an INVITE gets a 100 if it has no answer by now (RFC 4320 4.1).
    Trying(ContextId),
}

/// How an element was lost, and so who moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It answers, and badly: whoever heard nothing of it.
    Refuses,
    /// A request found it silent or unreachable: a 100 of before is a promise that will not be kept.
    Silent,
    /// A probe found nobody there: all.
    Gone,
}

/// Why an attempt counts as silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// No answer within the time that one may take.
    Late,
    /// Its transaction is over.
    Over,
    /// Its element went down, or its connection.
    Left,
}

/// Addresses of one name that are tried at most.
const MOST_HOPS: usize = 8;
/// Elements tried for one request at most.
const MOST_TRIES: usize = 10;

/// What an attempt came to.
pub(crate) enum Failed {
    /// Nothing came in time.
    Silent,
    /// It could not be sent.
    Unreachable,
    /// An answer that is no success.
    Answered(Box<Message>),
}

impl Proxy {
    /// Sends a branch to its next address; ends it when there is none.
    pub(crate) fn advance(&mut self, now: Instant, id: ContextId, at: usize) {
        let Some(way) = self.next_way(now, id, at) else {
            self.end_branch(now, id, at, None);
            return;
        };
        self.send_copy(now, id, at, way);
    }

    /// The next address of a branch. `None` when there is none, or when a name is looked up first: then the branch waits.
    fn next_way(&mut self, now: Instant, id: ContextId, at: usize) -> Option<Way> {
        let context = self.contexts.get_mut(&id)?;
        let (call, begins_call) = (context.call, context.begins_call);
        let branch = context.branches.get_mut(at)?;
        if branch.tried.len() >= MOST_TRIES {
            return None;
        }
        match &mut branch.target.next {
            Next::Group(name) | Next::Element(name, _) => {
                let picked = self.groups.pick(now, name, &branch.tried, call, begins_call, &mut self.rng)?;
                Some(Way::Hop { hop: picked.hop, element: Some((picked.element, picked.group)), more: true })
            }
            Next::Hops(hops) => {
                // An address of a family that no listener has cannot be sent to.
                hops.retain(|hop| self.identity.reaches(hop.address));
                if hops.is_empty() {
                    return None;
                }
                let hop = hops.remove(0);
                Some(Way::Hop { hop, element: None, more: !hops.is_empty() })
            }
            Next::Flow(flow) => {
                let flow = *flow;
                branch.target.next = Next::Hops(Vec::new());
                Some(Way::Flow(flow))
            }
            Next::Name(_) => None,
        }
    }

    /// Begins a branch: a name is looked up first.
    pub(crate) fn begin_branch(&mut self, now: Instant, id: ContextId, at: usize) {
        let name = self.contexts.get_mut(&id).and_then(|context| context.branch(at)).and_then(|branch| {
            match &branch.target.next {
                Next::Name(name) => Some(name.clone()),
                Next::Group(_) | Next::Element(..) | Next::Hops(_) | Next::Flow(_) => None,
            }
        });
        match name {
            Some(name) => self.look_up(name, crate::stateless::Lookup::Branch(id, at)),
            None => self.advance(now, id, at),
        }
    }

    /// A name that a branch goes to was looked up.
    pub(crate) fn branch_located(&mut self, now: Instant, id: ContextId, at: usize, found: Result<Vec<Hop>, Trouble>) {
        // Meanwhile the caller may have given up.
        let Some(branch) =
            self.contexts.get_mut(&id).and_then(|context| context.branch(at)).filter(|branch| !branch.done)
        else {
            return;
        };
        match found {
            Ok(mut hops) => {
                hops.truncate(MOST_HOPS);
                branch.target.next = Next::Hops(hops);
                self.advance(now, id, at);
            }
            Err(trouble) => self.end_branch(now, id, at, Some(trouble)),
        }
    }

    /// A branch is over without a response of its own; `None` when there was nobody to ask any more.
    fn end_branch(&mut self, now: Instant, id: ContextId, at: usize, trouble: Option<Trouble>) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let is_invite = context.is_invite;
        let Some(branch) = context.branches.get_mut(at) else { return };
        branch.done = true;
        branch.attempt = None;
        let trouble = trouble.unwrap_or_else(|| match &branch.target.next {
            Next::Group(name) | Next::Element(name, _) => Trouble::NoElement(self.groups.retry_after(now, name)),
            Next::Hops(_) | Next::Name(_) | Next::Flow(_) => Trouble::Unreachable,
        });
        if context.stopped {
            Best::add_cancelled(&mut context.best);
        } else {
            Best::add_trouble(&mut context.best, &trouble, is_invite);
        }
        self.settle(now, id);
    }

    /// The first answer should be there, and is not.
    pub(crate) fn handle_no_answer(&mut self, now: Instant, client: ClientTransactionId) {
        match self.clients.get(&client).copied() {
            Some(Client::Attempt(id, at)) => self.silent(now, client, id, at, Silence::Late),
            Some(Client::Probe(element)) => {
                // An answer that comes late is a sign of life all the same.
                self.layer.quieten(client);
                self.probe_missed(now, element);
            }
            Some(Client::GivenUp(..)) | None => {}
        }
    }

    /// Nobody answered a probe.
    pub(crate) fn probe_missed(&mut self, now: Instant, element: ElementId) {
        self.groups.note_probe(now, element, None);
        if !self.groups.is_up(element) {
            self.leave(now, element, Loss::Gone);
        }
    }

    /// No answer came.
    pub(crate) fn silent(&mut self, now: Instant, client: ClientTransactionId, id: ContextId, at: usize, why: Silence) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let stopped = context.stopped;
        let Some(attempt) = context.branches.get_mut(at).and_then(|branch| branch.attempt.as_mut()) else { return };
        if attempt.client != client {
            return;
        }
        let (element, sent, heard) = (attempt.element, attempt.sent, attempt.heard);
        if why == Silence::Late && attempt.oversize.is_some() && !stopped {
            self.send_as_datagram(now, id, at);
            return;
        }
        let mut down = None;
        if let Some(element) = element.filter(|_| !std::mem::replace(&mut attempt.noted, true) && why != Silence::Left)
            && self.groups.note_outcome(now, element, Outcome::Silence { sent })
        {
            down = Some(element);
        }
        if why == Silence::Over {
            self.fail(now, id, at, Failed::Silent);
        } else if stopped {
            // Its copy may be on the way still: what rings then is cancelled.
            self.give_up(now, id, at);
            self.end_branch(now, id, at, None);
        } else {
            match self.next_way(now, id, at) {
                Some(way) => {
                    self.give_up(now, id, at);
                    self.send_copy(now, id, at, way);
                }
                // Nobody else: one that lives may still answer, and so may one that promised to.
                None if heard || element.is_none_or(|element| self.groups.is_up(element)) => {}
                None => {
                    self.give_up(now, id, at);
                    self.end_branch(now, id, at, None);
                }
            }
        }
        if let Some(element) = down {
            self.leave(now, element, Loss::Silent);
        }
    }

    /// Takes an attempt off all lists; its element is not released.
    fn take_off(&mut self, id: ContextId, at: usize) -> Option<Attempt> {
        let attempt = self.contexts.get_mut(&id)?.branch(at)?.attempt.take()?;
        if let Some(element) = attempt.element {
            self.waiting.remove(&(element, attempt.client));
        }
        self.deadlines.cancel(&Due::Answer(attempt.client));
        Some(attempt)
    }

    /// An attempt is over: its element is free of it.
    pub(crate) fn take_attempt(&mut self, id: ContextId, at: usize) -> Option<Attempt> {
        let attempt = self.take_off(id, at)?;
        if let Some(element) = attempt.element {
            self.groups.release(element);
        }
        Some(attempt)
    }

    /// Heard out, no longer waited for; cancelled if it may be by now.
    fn hear_out(&mut self, now: Instant, id: ContextId, attempt: &Attempt) {
        if let Some(known) = self.clients.get_mut(&attempt.client) {
            *known = Client::GivenUp(id, attempt.element);
        }
        self.layer.quieten(attempt.client);
        if attempt.heard {
            self.layer.send_cancel(now, attempt.client);
        }
    }

    /// The attempt of a branch is not waited for any more.
    pub(crate) fn give_up(&mut self, now: Instant, id: ContextId, at: usize) {
        if let Some(attempt) = self.take_attempt(id, at) {
            self.hear_out(now, id, &attempt);
        }
    }

    /// The connection of an INVITE is gone that was heard of. One that rings is answered over another; one that was only
    /// taken note of may as well be lost with its element.
    pub(crate) fn connection_lost(&mut self, now: Instant, client: ClientTransactionId) {
        let Some(Client::Attempt(id, at)) = self.clients.get(&client).copied() else { return };
        let Some(context) = self.contexts.get_mut(&id).filter(|context| !context.stopped) else { return };
        let attempt = context.branch(at).and_then(|branch| branch.attempt.as_ref());
        if attempt.is_some_and(|attempt| !attempt.rings) {
            self.silent(now, client, id, at, Silence::Left);
        }
    }

    /// Nobody there takes a stream: the large request goes as a datagram after all (RFC 3261 18.1.1). That is no fault of
    /// the element's, which may speak UDP only. Should the first one arrive too, both are one transaction to it.
    fn send_as_datagram(&mut self, now: Instant, id: ContextId, at: usize) {
        let Some(attempt) = self.take_off(id, at) else { return };
        self.clients.remove(&attempt.client);
        self.layer.forget_client(attempt.client);
        let (Some(hop), Some(name)) = (attempt.hop, attempt.oversize) else { return };
        self.note_without_tcp(now, hop.address);
        if let Some(branch) = self.contexts.get_mut(&id).and_then(|context| context.branch(at))
            && attempt.element.is_some()
        {
            branch.tried.pop();
        }
        let more =
            match self.contexts.get_mut(&id).and_then(|context| context.branch(at)).map(|branch| &branch.target.next) {
                Some(Next::Hops(hops)) => !hops.is_empty(),
                Some(Next::Group(_) | Next::Element(..) | Next::Name(_) | Next::Flow(_)) | None => false,
            };
        let way = Way::Hop { hop, element: attempt.element.zip(attempt.group), more };
        self.send_copy_as(now, id, at, way, name);
    }

    /// An element is down: whoever waits for it in vain moves on.
    pub(crate) fn leave(&mut self, now: Instant, element: ElementId, loss: Loss) {
        let low = ClientTransactionId::MIN;
        let waiting: Vec<ClientTransactionId> = self
            .waiting
            .range((element, low)..)
            .take_while(|(of, _)| *of == element)
            .map(|(_, client)| *client)
            .collect();
        for client in waiting {
            let Some(Client::Attempt(id, at)) = self.clients.get(&client).copied() else { continue };
            let attempt = self
                .contexts
                .get_mut(&id)
                .and_then(|context| context.branch(at))
                .and_then(|branch| branch.attempt.as_ref());
            let moves_on = |attempt: &Attempt| match loss {
                Loss::Refuses => !attempt.heard,
                Loss::Silent => !attempt.rings,
                Loss::Gone => true,
            };
            if attempt.is_some_and(moves_on) {
                self.silent(now, client, id, at, Silence::Left);
            }
        }
    }

    /// An attempt is over without success: the next address, or the end of the branch.
    pub(crate) fn fail(&mut self, now: Instant, id: ContextId, at: usize, failed: Failed) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let (is_invite, stopped) = (context.is_invite, context.stopped);
        let Some(attempt) = context.branches.get(at).and_then(|branch| branch.attempt.as_ref()) else { return };
        if matches!(failed, Failed::Unreachable) && attempt.oversize.is_some() && !stopped {
            self.send_as_datagram(now, id, at);
            return;
        }
        let Some(attempt) = self.take_attempt(id, at) else { return };
        let mut down = None;
        let mut loss = Loss::Silent;
        let moves_on = match (&failed, attempt.element) {
            // It rang, and nobody came: no fault of the element, and no reason to ring at the next one.
            (Failed::Answered(response), Some(element))
                if attempt.rings && matches!(response.status(), Some(408 | 504)) =>
            {
                self.groups.note_alive(now, element);
                false
            }
            (Failed::Answered(response), Some(element)) => {
                let status = response.status().unwrap_or(500);
                let outcome = Outcome::Answered { status, retry_after: retry_after(response) };
                loss = Loss::Refuses;
                down = self.groups.note_outcome(now, element, outcome).then_some(element);
                attempt.group.as_ref().is_some_and(|group| group.failover_codes.contains(&status))
            }
            (Failed::Answered(response), None) => response.status() == Some(503),
            (Failed::Unreachable, Some(element)) => {
                down = self.groups.note_outcome(now, element, Outcome::Unreachable).then_some(element);
                true
            }
            // What was heard of has been waited for long enough: timer C, or 64*T1.
            (Failed::Silent, Some(element)) => {
                if !attempt.noted {
                    down = self
                        .groups
                        .note_outcome(now, element, Outcome::Silence { sent: attempt.sent })
                        .then_some(element);
                }
                !attempt.heard
            }
            (Failed::Silent, None) => !attempt.heard,
            (Failed::Unreachable, None) => true,
        };
        let way = if moves_on && !stopped { self.next_way(now, id, at) } else { None };
        match way {
            Some(way) => self.send_copy(now, id, at, way),
            None => {
                if let Some(context) = self.contexts.get_mut(&id) {
                    let in_group = attempt.element.is_some();
                    match failed {
                        _ if stopped && !matches!(failed, Failed::Answered(_)) => {
                            Best::add_cancelled(&mut context.best)
                        }
                        Failed::Answered(response) => {
                            Best::add_response(&mut context.best, *response, in_group && moves_on, attempt.element)
                        }
                        Failed::Silent => Best::add_trouble(&mut context.best, &Trouble::Timeout, is_invite),
                        Failed::Unreachable if in_group => {
                            let name = attempt.group.as_ref().map_or("", |group| &*group.name);
                            let trouble = Trouble::NoElement(self.groups.retry_after(now, name));
                            Best::add_trouble(&mut context.best, &trouble, is_invite);
                        }
                        Failed::Unreachable => Best::add_trouble(&mut context.best, &Trouble::Unreachable, is_invite),
                    }
                    if let Some(branch) = context.branches.get_mut(at) {
                        branch.done = true;
                    }
                }
                self.settle(now, id);
            }
        }
        if let Some(element) = down {
            self.leave(now, element, loss);
        }
    }

    /// A look-up's ticket; they are never used again.
    pub(crate) fn new_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }
}

/// Seconds of Retry-After; a comment or parameters behind them do not matter (RFC 3261 20.33).
fn retry_after(response: &Message) -> Option<Duration> {
    let text = response.header("Retry-After")?;
    let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(Duration::from_secs)
}
