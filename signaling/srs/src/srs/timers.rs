//! What happens because time passes, and answers to requests of ours.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::dialog::{AcceptedStep, DialogId, TimerEvent};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::transaction::ClientTransactionId;
use rand::RngExt;

use super::{Deadline, Due, Purpose, Srs};
use crate::event::SrsEvent;
use crate::port::ReleaseCause;
use crate::session::{Own, SessionKey, State};

/// A refresh that the peer refused is tried again after this.
const REFUSED_REFRESH_RETRY: Duration = Duration::from_secs(10);
/// A refresh that had to wait for an offer is tried again after this.
const REFRESH_RETRY: Duration = Duration::from_secs(2);

impl Srs {
    pub(super) fn handle_due(&mut self, now: Instant, key: SessionKey, due: Due) {
        match due {
            Due::Accepted => self.repeat_ok(now, key),
            Due::Capture => self.give_up_on_capture(now, key),
            Due::SessionTimer => {
                let event = self.sessions.get_mut(&key).and_then(|session| session.timer.as_mut()?.handle_timeout(now));
                match event {
                    Some(TimerEvent::Refresh) => self.refresh(now, key),
                    Some(TimerEvent::Expired) => {
                        self.end(now, key, ReleaseCause::SessionExpired, true);
                        return;
                    }
                    None => {}
                }
                if let Some(timer) = self.sessions.get(&key).and_then(|session| session.timer) {
                    self.deadlines.set(Deadline::Session(key, Due::SessionTimer), timer.poll_timeout());
                }
            }
            Due::Move => self.move_again(now, key),
            Due::End => self.end(now, key, ReleaseCause::TooLong, true),
            Due::Announce => self.announce(now, key),
            Due::Probe => {
                self.probe(now, key);
                if self.sessions.contains_key(&key) {
                    self.deadlines.set(Deadline::Session(key, Due::Probe), now + self.config.probe_interval);
                }
            }
        }
    }

    fn repeat_ok(&mut self, now: Instant, key: SessionKey) {
        let Some(accepted) = self.sessions.get_mut(&key).and_then(|session| session.accepted.as_mut()) else { return };
        match accepted.handle_timeout(now) {
            AcceptedStep::Retransmit(flow, bytes) => {
                let next = accepted.poll_timeout();
                self.outputs.push_back(super::SrsOutput::Transmit { flow, bytes });
                self.deadlines.set(Deadline::Session(key, Due::Accepted), next);
            }
            // What was recorded until here is kept.
            AcceptedStep::GaveUp => match self.sessions.get_mut(&key).filter(|session| session.heard) {
                // RTP goes to ports that only the 200 named: the call lives, and is recorded.
                Some(session) => {
                    session.accepted = None;
                    session.awaits_answer = false;
                    self.warn(key, "the 200 was never acknowledged; media come all the same");
                    self.catch_up(now, key);
                }
                None => self.end(now, key, ReleaseCause::NoAck, true),
            },
            AcceptedStep::Wait => {
                let next = accepted.poll_timeout();
                self.deadlines.set(Deadline::Session(key, Due::Accepted), next);
            }
        }
    }

    /// Asks the peer whether it still knows the call.
    pub(super) fn probe(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.state != State::Recording || std::mem::replace(&mut session.probing, true) {
            return;
        }
        let request = session.dialog.request(&Method::Options);
        let flow = session.request_flow();
        if let Some(recording) = session.recordings.first().copied() {
            self.event(SrsEvent::Probing { recording });
        }
        self.send_own(now, key, request, flow, Purpose::Probe);
    }

    /// Refreshes the session: UPDATE where the peer allows it, else re-INVITE with what stands.
    fn refresh(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.pending.is_some() || session.own.is_some() || session.awaits_answer {
            if let Some(timer) = session.timer.as_mut() {
                timer.refresh_again(now + REFRESH_RETRY);
            }
            return;
        }
        let method = if session.peer_allows_update { Method::Update } else { Method::Invite };
        self.send_refresh(now, key, &method, Purpose::Refresh);
    }

    /// Sends what refreshes a session and changes nothing: UPDATE, or re-INVITE with the description that stands.
    pub(super) fn send_refresh(&mut self, now: Instant, key: SessionKey, method: &Method, purpose: Purpose) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let mut request = session.dialog.request(method);
        request.add_header("Supported", "timer");
        if let Some(timer) = &session.timer {
            timer.write_refresh(&mut request);
        }
        session.own = Some(Own::Refresh);
        if *method == Method::Invite {
            session.own = Some(Own::Offer);
            request.set_body("application/sdp", Bytes::from(session.last_sdp.clone()));
        }
        let flow = session.request_flow();
        self.send_own(now, key, request, flow, purpose);
    }

    pub(super) fn handle_own_response(
        &mut self,
        now: Instant,
        transaction: ClientTransactionId,
        status: u16,
        response: Option<&Message>,
    ) {
        if status < 200 {
            return;
        }
        let ok = response.filter(|response| response.method() == Method::Invite && status < 300);
        let Some((key, purpose)) = self.own_requests.remove(&transaction) else {
            // The 2xx came again: our ACK was lost (RFC 3261 13.2.2.4).
            if let Some(ok) = ok {
                self.acknowledge(ok);
            }
            return;
        };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let mut own = None;
        match purpose {
            Purpose::Probe => session.probing = false,
            Purpose::Refresh | Purpose::Move | Purpose::Announce => own = session.own.take(),
            Purpose::Bye | Purpose::Snapshot => {}
        }
        if let Some(response) = response.filter(|_| status < 300 && own.is_some()) {
            session.dialog.refresh_target(response);
        }
        if let Some(ok) = ok {
            self.acknowledge(ok);
        }
        match (purpose, status) {
            // The peer does not know the call, or does not answer at all (RFC 3261 12.2.1.2).
            (Purpose::Probe | Purpose::Refresh, 408 | 481 | 503) => self.end(now, key, ReleaseCause::PeerGone, true),
            (Purpose::Refresh, 200..=299) => self.refreshed(now, key),
            // The peer lists UPDATE in Allow and does not serve it: by re-INVITE then.
            (Purpose::Refresh, 405 | 501)
                if self.sessions.get(&key).is_some_and(|session| session.peer_allows_update) =>
            {
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.peer_allows_update = false;
                }
                self.refresh(now, key);
            }
            (Purpose::Refresh, 491) => {
                // The Call-ID is the peer's: we try again within 2 s (RFC 3261 14.1).
                let wait = Duration::from_millis(self.rng.random_range(0..2_000));
                if let Some(timer) = self.sessions.get_mut(&key).and_then(|session| session.timer.as_mut()) {
                    timer.refresh_again(now + wait);
                    let next = timer.poll_timeout();
                    self.deadlines.set(Deadline::Session(key, Due::SessionTimer), next);
                }
            }
            // Alive, but not now: again while the interval lasts.
            (Purpose::Refresh, _) => {
                if let Some(timer) = self.sessions.get_mut(&key).and_then(|session| session.timer.as_mut()) {
                    timer.refresh_again(now + REFUSED_REFRESH_RETRY);
                    let next = timer.poll_timeout();
                    self.deadlines.set(Deadline::Session(key, Due::SessionTimer), next);
                }
            }
            (Purpose::Announce, _) => self.announced(now, key, status),
            (Purpose::Snapshot, 481) => self.end(now, key, ReleaseCause::PeerGone, true),
            (Purpose::Move, _) => self.handle_move_answer(now, key, own, status, response),
            (Purpose::Probe | Purpose::Bye | Purpose::Snapshot, _) => {}
        }
        if matches!(purpose, Purpose::Refresh | Purpose::Announce) {
            self.catch_up(now, key);
        }
    }

    /// A refresh of ours went through.
    pub(super) fn refreshed(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        // It named our Contact too.
        session.announcing = None;
        if let Some(timer) = session.timer.as_mut() {
            timer.refreshed(now);
            let next = timer.poll_timeout();
            self.deadlines.set(Deadline::Session(key, Due::SessionTimer), next);
        }
    }

    /// Sends the ACK to a 2xx of the peer's.
    fn acknowledge(&mut self, ok: &Message) {
        let (Ok(from), Ok(to), Some(call_id)) = (ok.from(), ok.to(), ok.call_id()) else { return };
        let dialog = DialogId {
            call_id: call_id.into_owned(),
            local_tag: from.tag().unwrap_or("").to_owned(),
            remote_tag: to.tag().unwrap_or("").to_owned(),
        };
        let Some(session) = self.by_dialog.get(&dialog).and_then(|key| self.sessions.get(key)) else { return };
        let ack = session.dialog.ack(ok.cseq().map_or(0, |cseq| cseq.number));
        let flow = session.request_flow();
        let host = self.host(&flow);
        self.layer.send_ack(ack, flow, Some(&host));
    }
}
