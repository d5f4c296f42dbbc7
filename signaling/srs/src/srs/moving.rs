//! Media that move: dialogs whose peer sends to sockets where nobody listens any more.
//!
//! A dialog is *behind* while its peer was told other sockets than capture has now. Whatever moves sockets (a lost
//! worker, a copy that took over) only says so to the recording; here the dialogs catch up, each by what comes first:
//! our answer to an offer of the peer's, or an offer of ours. That is UPDATE (RFC 3311) where the peer takes it, else
//! re-INVITE; it says what our last description said, with other sockets.
//!
//! ```text
//! behind -> queued -> offered --2xx--------> caught up
//!             ^          |----491, 5xx-----> later, then queued again (RFC 3261 14.1, Retry-After)
//!             |          |----405, 408, ...> (to an UPDATE) queued again, from now on by re-INVITE
//!             |          |----408, 481-----> the peer is gone
//!        not before      \----others-------> refused: it stays behind until the sockets change again
//!      the dialog is idle
//! ```
//!
//! Offers leave in the order in which the recordings were taken over and at a pace ([`TakeoverConfig::offers_per_second`]):
//! a worker has many calls, and their peers are often one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::Sdp;
use ferric_sip::siprec::read_body;
use rand::RngExt;

use super::answer::Description;
use super::{Deadline, Due, Purpose, Srs};
use crate::offer;
use crate::port::ReleaseCause;
use crate::recording::Step;
use crate::session::{Moving, Own, SessionKey};

/// Offers of one such span leave together.
const TICK: Duration = Duration::from_millis(10);
/// So often a peer may put an offer off.
const MOST_PUT_OFF: u32 = 10;
/// A peer that could not be reached is tried again after this.
const UNREACHABLE: Duration = Duration::from_secs(2);
/// A peer that names a longer time than this has refused.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(32);

/// How many offers may leave at present.
#[derive(Debug)]
pub(super) struct Pace {
    tick_ends: Instant,
    left: u32,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { tick_ends: now, left: 0 }
    }

    /// Takes leave for one offer.
    fn take(&mut self, now: Instant, per_second: u32) -> bool {
        if now >= self.tick_ends {
            self.tick_ends = now + TICK;
            self.left = (per_second / 100).max(1);
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// What the peer said to an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Taken,
    Later(Duration),
    ByInvite,
    Gone,
    Refused,
}

impl Srs {
    /// True while the peer sends to other sockets than capture has.
    pub(super) fn is_behind(&self, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get(&key).filter(|session| !session.told.is_empty()) else { return false };
        let assigned = self.assigned_to(key);
        let differs = |told: &crate::port::AssignedStream| {
            assigned.iter().any(|now| now.index == told.index && now.address != told.address)
        };
        session.told.iter().any(differs)
    }

    /// True while a worker was asked for another recording of the dialog: one offer is to move them all.
    fn is_awaited(&self, key: SessionKey) -> bool {
        let recordings = self.sessions.get(&key).map(|session| session.recordings.as_slice()).unwrap_or_default();
        let takeovers = recordings.iter().filter_map(|id| self.recordings.get(id)?.takeover.as_ref());
        takeovers.into_iter().any(|takeover| takeover.step == Step::Asked)
    }

    /// Looks whether a dialog is behind, when that or its idleness may have changed, and lets it catch up.
    pub(super) fn catch_up(&mut self, now: Instant, key: SessionKey) {
        let is_behind = self.is_behind(key);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if is_behind {
            if session.moving == Moving::Still && !session.is_busy() && !self.is_awaited(key) {
                let Some(session) = self.sessions.get_mut(&key) else { return };
                session.moving = Moving::Queued;
                self.moves.push_back(key);
                self.send_moves(now);
            }
            return;
        }
        if matches!(session.moving, Moving::Later | Moving::Refused(_)) {
            session.moving = Moving::Still;
            self.deadlines.cancel(&Deadline::Session(key, Due::Move));
        }
        session.put_off = 0;
        for id in session.recordings.clone() {
            self.settle(now, id);
        }
    }

    /// The sockets of a dialog changed anew: what the peer refused before counts no more.
    pub(super) fn catch_up_anew(&mut self, now: Instant, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.put_off = 0;
            if matches!(session.moving, Moving::Refused(_)) {
                session.moving = Moving::Still;
            }
        }
        self.catch_up(now, key);
    }

    /// Sends the offers whose turn it is.
    pub(super) fn send_moves(&mut self, now: Instant) {
        while !self.moves.is_empty() {
            if !self.pace.take(now, self.config.takeover.offers_per_second) {
                self.deadlines.set(Deadline::Pace, self.pace.tick_ends);
                return;
            }
            let Some(key) = self.moves.pop_front() else { return };
            if let Some(session) = self.sessions.get_mut(&key).filter(|session| session.moving == Moving::Queued) {
                session.moving = Moving::Still;
                self.offer_move(now, key);
            }
        }
    }

    /// A peer that put our offer off may take it now.
    pub(super) fn move_again(&mut self, now: Instant, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key).filter(|session| session.moving == Moving::Later) {
            session.moving = Moving::Still;
        }
        self.catch_up(now, key);
    }

    fn offer_move(&mut self, now: Instant, key: SessionKey) {
        if !self.is_behind(key) || self.is_awaited(key) {
            return;
        }
        let assigned = self.assigned_to(key);
        let by_invite = self.config.takeover.by_invite;
        let Some(session) = self.sessions.get_mut(&key).filter(|session| !session.is_busy()) else { return };
        let Ok(mut last) = Sdp::parse(session.last_sdp.as_bytes()) else { return };
        offer::relocate(&mut last, &assigned, &session.stopped);
        let description = Description::Answer(&last, offer::as_it_stands(&last));
        let (sdp, origin) = description.after(&session.last_sdp, session.origin);
        let is_update = session.peer_allows_update && !session.offers_by_invite && !by_invite;
        let mut request = session.dialog.request(if is_update { &Method::Update } else { &Method::Invite });
        // Without these fields the session timer would end with this request (RFC 4028 7.4).
        if let Some(timer) = &session.timer {
            request.add_header("Supported", "timer");
            timer.write_refresh(&mut request);
        }
        request.set_body("application/sdp", Bytes::from(sdp.clone()));
        session.own = Some(Own::Move { sdp, origin, told: description.sockets(), by_update: is_update });
        let flow = session.request_flow();
        self.send_own(now, key, request, flow, Purpose::Move);
    }

    /// The peer answered our offer; `response` is absent when it did not and `status` says how that was found out.
    pub(super) fn handle_move_answer(
        &mut self,
        now: Instant,
        key: SessionKey,
        own: Option<Own>,
        status: u16,
        response: Option<&Message>,
    ) {
        let Some(Own::Move { sdp, origin, told, by_update: is_update }) = own else { return };
        let answer = response.and_then(|response| read_body(response).ok()?.sdp);
        let verdict = verdict(status, response, is_update, answer.as_ref());
        let wait = Duration::from_millis(self.rng.random_range(0..200) * 10);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        match verdict {
            Verdict::Taken => {
                session.last_sdp = sdp;
                session.origin = origin;
                session.told = told;
                self.refreshed(now, key);
                match answer {
                    Some(answer) => self.take_answer(now, key, &answer),
                    None => self.warn(key, "the answer to our offer has no session description"),
                }
            }
            Verdict::Later(after) if session.put_off < MOST_PUT_OFF => {
                session.put_off += 1;
                session.moving = Moving::Later;
                let after = if status == 491 { wait } else { after };
                self.deadlines.set(Deadline::Session(key, Due::Move), now + after);
            }
            Verdict::ByInvite => session.offers_by_invite = true,
            Verdict::Gone => {
                self.end(now, key, ReleaseCause::PeerGone, true);
                return;
            }
            Verdict::Later(_) | Verdict::Refused => {
                session.moving = Moving::Refused(status);
                for id in session.recordings.clone() {
                    self.settle(now, id);
                }
            }
        }
        self.catch_up(now, key);
    }

    /// The peer's answer to an offer of ours: capture hears of it when it changes anything.
    fn take_answer(&mut self, now: Instant, key: SessionKey, answer: &Sdp) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let policy = self.config.media.for_call(&session.info.tenant, &session.flow);
        let mut streams = offer::answered(answer, &policy, &mut self.keys, &session.streams);
        streams.retain(|stream| !session.stopped.contains(&stream.index));
        // Capture goes on listening for all that it listened for.
        for stream in &mut streams {
            let stood = session.streams.iter().find(|stood| stood.index == stream.index);
            if let Some(stood) = stood.filter(|stood| stream.formats.iter().all(|kept| stood.formats.contains(kept))) {
                stream.formats.clone_from(&stood.formats);
            }
        }
        if streams != session.streams {
            session.streams = streams;
            self.place_again(now, key);
        }
    }
}

fn verdict(status: u16, response: Option<&Message>, is_update: bool, answer: Option<&Sdp>) -> Verdict {
    let takes_none = || answer.is_some_and(|answer| answer.media.iter().all(|media| media.port == 0));
    let retry_after = || {
        let text = response?.header("Retry-After")?;
        let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
        let after = Duration::from_secs(digits.parse().ok()?);
        (after <= LONGEST_RETRY_AFTER).then_some(after.max(Duration::from_millis(500)))
    };
    match status {
        // An UPDATE that is answered without a description was taken for a mere refresh.
        200..=299 if is_update && answer.is_none() => Verdict::ByInvite,
        200..=299 if takes_none() => Verdict::Refused,
        200..=299 => Verdict::Taken,
        // Some list UPDATE in Allow and drop it without a word.
        408 if is_update => Verdict::ByInvite,
        // Nothing came back in all that time, or there is no such call (RFC 3261 12.2.1.2).
        408 | 481 => Verdict::Gone,
        // It could not be sent: a peer that lost its connection makes another.
        503 if response.is_none() => Verdict::Later(UNREACHABLE),
        491 => Verdict::Later(Duration::ZERO),
        405 | 501 if is_update => Verdict::ByInvite,
        500..=599 if retry_after().is_some() => Verdict::Later(retry_after().unwrap_or_default()),
        // What it refuses in an UPDATE, it may take in a re-INVITE.
        _ if is_update => Verdict::ByInvite,
        _ => Verdict::Refused,
    }
}
