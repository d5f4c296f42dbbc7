//! How sessions end.

use std::time::Instant;

use ferric_sip::method::Method;
use ferric_sip::validate::Reject;

use super::{Due, Purpose, Srs, SrsOutput};
use crate::event::SrsEvent;
use crate::port::{Command, ReleaseCause, SessionId};
use crate::rescue;
use crate::session::State;

impl Srs {
    /// A CANCEL ends the call if its first INVITE still waits; a later INVITE is
    /// only taken back, and the recording goes on as it was.
    pub(super) fn handle_cancel(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.state == State::Assigning {
            self.end(now, id, ReleaseCause::Cancelled, false);
        } else {
            self.answer_pending(now, id, &Reject::new(487));
            self.undo_change(id);
        }
    }

    /// Refuses the request that waits, if one does.
    pub(super) fn answer_pending(&mut self, now: Instant, id: SessionId, reject: &Reject) {
        let pending = self.sessions.get_mut(&id).and_then(|session| session.pending.take());
        if let Some(pending) = pending {
            self.by_invite.remove(&pending.transaction);
            let response = reject.response(&pending.request);
            self.respond(now, pending.transaction, &pending.request, response);
        }
    }

    /// Ends a session: tells capture, and the peer if `bye`.
    pub(super) fn end(&mut self, now: Instant, id: SessionId, cause: ReleaseCause, bye: bool) {
        let Some(session) = self.sessions.get(&id) else { return };
        let recorded = session.state == State::Recording;
        self.answer_pending(now, id, &rescue::ended(cause, recorded));
        if bye && recorded && let Some(session) = self.sessions.get_mut(&id) {
            let request = session.dialog.request(&Method::Bye);
            let flow = session.request_flow();
            self.send_own(now, id, request, flow, Purpose::Bye);
        }
        self.outputs.push_back(SrsOutput::Capture(Command::Release { session: id, cause }));
        self.event(SrsEvent::Ended { session: id, cause });
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.by_dialog.remove(&session.dialog.id);
        let call = (session.dialog.id.call_id, session.dialog.id.remote_tag);
        if self.by_call.get(&call) == Some(&id) {
            self.by_call.remove(&call);
        }
        if let Some(pending) = session.pending {
            self.by_invite.remove(&pending.transaction);
        }
        for due in [Due::Accepted, Due::Capture, Due::SessionTimer, Due::End, Due::Probe] {
            self.deadlines.cancel(&(id, due));
        }
    }
}
