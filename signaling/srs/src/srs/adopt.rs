//! Dialogs that change their node: taken over from one that is lost, given up to one that has them.
//!
//! ```text
//! partner: owner is down -> adopt: tables, deadlines, Change to capture -> announce, a few at a time
//! owner:   was only cut off, hears of a higher epoch -> give_away: no BYE, nothing to capture
//! ```
//!
//! The peer knows nothing of nodes. Where our Contact is a name, its next request finds whoever serves the name; where it was
//! the lost node's address, it must hear ours: each dialog that was taken over is refreshed once, by UPDATE or by a
//! re-INVITE with the description that stands (RFC 3261 12.2.1.2: the remote target follows).
//!
//! Sequence numbers skip ahead, above all that the lost node may have sent since its last replica. Should it live after
//! all, the peer refuses its requests from then on, for their numbers went back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferric_sip::dialog::{AcceptedInvite, DialogId, SessionTimer};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::method::Method;
use ferric_sip::siprec::{METADATA_TYPE, Metadata};
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;
use rand::RngExt;

use super::end::LINGER;
use super::{Deadline, Due, Purpose, Srs, SrsOutput};
use crate::event::{InviteId, SrsEvent};
use crate::port::{Command, RecordingId, ReleaseCause};
use crate::recording::{Leg, Recording};
use crate::replica::{Estate, RecordingReplica, SessionReplica};
use crate::session::{Moving, Session, SessionKey, State, port_of};

/// Sequence numbers left out.
const SKIP: u32 = 1_000;
/// Between the refreshes of two dialogs that were taken over together.
const PACE: Duration = Duration::from_millis(5);
/// A refresh that could not be sent, or found nobody, is tried again after this, then twice that, and so on.
const AGAIN: Duration = Duration::from_secs(2);
/// Attempts to tell a peer where its dialog is; after them its own next request has to find us.
const ATTEMPTS: u32 = 6;

/// A recording that came with its dialogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdoptedRecording {
    /// Which.
    pub recording: RecordingId,
    /// The part that some worker should have.
    pub part: u32,
    /// How often its dialogs changed their node.
    pub epoch: u32,
}

/// Whose a dialog is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// It is not known here.
    Unknown,
    /// It is served here, under this epoch.
    Ours(u32),
    /// It was, until now.
    GivenUp,
}

impl Srs {
    /// Goes on with the calls of a node that is lost. Capture must know whose these recordings are now before it
    /// is given what this puts out.
    pub fn adopt(&mut self, now: Instant, estate: Estate) -> Vec<AdoptedRecording> {
        let mut keys = HashMap::new();
        for (then, replica) in estate.sessions {
            if self.by_dialog.contains_key(&replica.dialog.id) {
                continue;
            }
            let invite = replica.invite;
            let at = now + PACE * u32::try_from(keys.len()).unwrap_or(u32::MAX).min(20_000);
            let key = self.revive_session(now, then, replica);
            self.deadlines.set(Deadline::Session(key, Due::Announce), at);
            keys.insert(invite, key);
        }
        let mut adopted = Vec::new();
        for replica in estate.recordings {
            adopted.extend(self.revive_recording(now, replica, &keys));
        }
        let mut revived: Vec<(InviteId, SessionKey)> = keys.into_iter().collect();
        revived.sort_by_key(|(_, key)| *key);
        for (invite, key) in revived {
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            session
                .recordings
                .retain(|id| self.recordings.get(id).is_some_and(|recording| recording.leg(key).is_some()));
            let (recordings, info) = (session.recordings.clone(), &session.info);
            let (tenant, call_id) = (info.tenant.clone(), info.sip_call_id.clone());
            let source_kind = info.source_kind.clone();
            self.event(SrsEvent::Adopted { invite, tenant, call_id, source_kind });
            if recordings.is_empty() {
                // Nothing of it is recorded any more: the SRC can turn to another recorder.
                self.end(now, key, ReleaseCause::CaptureFailed, true);
                continue;
            }
            for recording in recordings {
                self.event(SrsEvent::Feeds { invite, recording });
            }
        }
        self.drain_layer(now);
        adopted
    }

    /// Another node says that it has a dialog, under this epoch. Gives it up if that one has the better right; between
    /// equals `they_win` decides, which both must answer alike.
    pub fn compare_ownership(&mut self, now: Instant, dialog: &DialogId, epoch: u32, they_win: bool) -> Ownership {
        let Some(key) = self.by_dialog.get(dialog).copied() else { return Ownership::Unknown };
        let Some(own) = self.sessions.get(&key).map(|session| session.epoch) else { return Ownership::Unknown };
        if own > epoch || (own == epoch && !they_win) {
            return Ownership::Ours(own);
        }
        self.give_away(now, key);
        self.drain_layer(now);
        Ownership::GivenUp
    }

    /// What a dialog feeds.
    pub fn recordings_of(&self, dialog: &DialogId) -> Vec<RecordingId> {
        let session = self.by_dialog.get(dialog).and_then(|key| self.sessions.get(key));
        session.map(|session| session.recordings.clone()).unwrap_or_default()
    }

    /// True while a recording is fed from here.
    pub fn has_recording(&self, recording: RecordingId) -> bool {
        self.recordings.contains_key(&recording)
    }

    /// Forgets a dialog that is another node's: the peer is not told, and what capture has is the other's.
    fn give_away(&mut self, now: Instant, key: SessionKey) {
        let elsewhere = Reject::because(500, "The call is served by another node").with("Retry-After", "1");
        self.answer_pending(now, key, &elsewhere);
        let Some(session) = self.sessions.get(&key) else { return };
        let (invite, recordings) = (session.invite, session.recordings.clone());
        for id in recordings {
            let Some(recording) = self.recordings.get_mut(&id) else { continue };
            recording.legs.retain(|leg| leg.session != key);
            if recording.sessions().is_empty() {
                self.drop_recording(id);
            }
        }
        self.event(SrsEvent::GivenUp { invite });
        self.forget(key);
    }

    fn revive_session(&mut self, now: Instant, then: Instant, replica: SessionReplica) -> SessionKey {
        self.next_session += 1;
        let key = SessionKey(self.next_session);
        let mut dialog = replica.dialog;
        dialog.skip_ahead(SKIP);
        let flow = self.way_to(&replica.flow, dialog.next_hop());
        let resume = |state| AcceptedInvite::resume(now, then, state, flow, &self.config.timers);
        let mut metadata = Metadata::default();
        for document in replica.documents.list.iter().filter(|document| document.media_type == METADATA_TYPE) {
            metadata.apply(Metadata::parse(&document.body).0);
        }
        let mut info = replica.info;
        info.documents = replica.documents.list;
        let session = Session {
            state: State::Recording,
            invite: replica.invite,
            epoch: replica.epoch.saturating_add(1),
            announcing: Some(0),
            dialog,
            invite_cseq: replica.invite_cseq,
            flow,
            pending: None,
            accepted: replica.accepted.as_ref().map(resume),
            awaits_answer: replica.awaits_answer,
            own: None,
            told: replica.told,
            moving: Moving::Still,
            put_off: 0,
            probing: false,
            timer: replica.timer.map(|state| SessionTimer::resume(then, &state)),
            origin: replica.origin,
            streams: replica.streams,
            stopped: replica.stopped,
            before: None,
            waiting: 0,
            recordings: replica.recordings,
            communication_sessions: replica.communication_sessions,
            half: replica.half.map(crate::replica::HalfReplica::half),
            last_sdp: replica.last_sdp,
            info,
            metadata,
            peer_allows_update: replica.peer_allows_update,
            offers_by_invite: replica.offers_by_invite,
            heard: replica.heard,
            peer_gives_snapshots: replica.peer_gives_snapshots,
            snapshots: (None, 0),
            ends_at: then + Duration::from_millis(replica.ends_in_ms).min(self.config.max_call),
        };
        self.by_dialog.insert(session.dialog.id.clone(), key);
        self.by_call.insert((session.dialog.id.call_id.clone(), session.dialog.id.remote_tag.clone()), key);
        self.deadlines.set(Deadline::Session(key, Due::End), session.ends_at);
        match &session.timer {
            Some(timer) => self.deadlines.set(Deadline::Session(key, Due::SessionTimer), timer.poll_timeout()),
            None => self.deadlines.set(Deadline::Session(key, Due::Probe), now + self.config.probe_interval),
        }
        if let Some(accepted) = &session.accepted {
            self.deadlines.set(Deadline::Session(key, Due::Accepted), accepted.poll_timeout());
        }
        self.sessions.insert(key, session);
        key
    }

    fn revive_recording(
        &mut self,
        now: Instant,
        replica: RecordingReplica,
        keys: &HashMap<InviteId, SessionKey>,
    ) -> Option<AdoptedRecording> {
        let id = replica.recording;
        if self.recordings.contains_key(&id) {
            return None;
        }
        let leg = |leg: crate::replica::LegReplica| {
            let key = leg.session.and_then(|invite| keys.get(&invite).copied());
            let is_known = key.is_some() || leg.over.is_some();
            // A dialog that is over has a key that no other has or will have.
            let session = key.unwrap_or(SessionKey(0));
            let end = leg.end();
            is_known.then_some(Leg { session, number: leg.number, end, lines: leg.lines, over: leg.over })
        };
        let legs: Vec<Leg> = replica.legs.into_iter().filter_map(leg).collect();
        let feeds = |key: &SessionKey| self.sessions.get(key).is_some_and(|session| session.recordings.contains(&id));
        let mut recording = Recording::revived(replica.part, legs, replica.assigned, replica.channels);
        let is_fed = recording.sessions().iter().any(feeds);
        if !is_fed && replica.pair.is_none() {
            return None;
        }
        let epochs = recording.sessions().into_iter().filter_map(|key| Some(self.sessions.get(&key)?.epoch));
        let epoch = epochs.max().unwrap_or(1);
        recording.pair.clone_from(&replica.pair);
        self.recordings.insert(id, recording);
        if let Some(pair) = replica.pair {
            self.halves.insert(pair, id);
        }
        if is_fed {
            // What the lost node may have changed without its peer's knowledge is as the peer has it again.
            self.change(now, id, None, Vec::new());
        } else {
            // It waits for the other half of its call, as it did.
            self.outputs.push_back(SrsOutput::Capture(Command::Park { recording: id }));
            self.deadlines.set(Deadline::Linger(id), now + LINGER);
        }
        Some(AdoptedRecording { recording: id, part: replica.part, epoch })
    }

    /// The way to a peer from here: by a listener of ours, over a connection that is opened when needed.
    fn way_to(&self, flow: &Flow, hop: &str) -> Flow {
        let fits = |(transport, local): &&(Transport, std::net::SocketAddr)| {
            *transport == flow.transport && local.is_ipv4() == flow.remote.is_ipv4()
        };
        let same_port = |listener: &&(Transport, std::net::SocketAddr)| listener.1.port() == flow.local.port();
        let listeners = &self.config.listeners;
        let own = listeners.iter().filter(fits).find(same_port).or_else(|| listeners.iter().find(fits));
        let local = own.map_or(flow.local, |(_, local)| *local);
        let mut remote = flow.remote;
        if flow.transport.is_reliable() {
            // The port that the peer's own connection came from takes none.
            let uri = hop.trim().trim_start_matches('<').split('>').next().unwrap_or("");
            remote.set_port(Uri::parse(uri).map_or(flow.transport.default_port(), |uri| port_of(&uri, flow.transport)));
        }
        Flow { transport: flow.transport, local, remote, connection: 0 }
    }

    /// Tells the peer where its dialog is now.
    pub(super) fn announce(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(attempt) = session.announcing else { return };
        let method = if session.peer_allows_update { Method::Update } else { Method::Invite };
        let waits = session.pending.is_some() || session.own.is_some() || session.awaits_answer;
        // Before the ACK no other INVITE may go out (RFC 3261 14.1).
        if waits || (method == Method::Invite && session.accepted.is_some()) {
            self.deadlines.set(Deadline::Session(key, Due::Announce), now + AGAIN);
            return;
        }
        session.announcing = (attempt < ATTEMPTS).then_some(attempt + 1);
        self.send_refresh(now, key, &method, Purpose::Announce);
    }

    /// What the peer says to it.
    pub(super) fn announced(&mut self, now: Instant, key: SessionKey, status: u16) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let attempt = session.announcing.unwrap_or(ATTEMPTS);
        let again = match status {
            200..=299 => {
                // Who goes on within the dialog has had our 200.
                if !session.awaits_answer && session.accepted.take().is_some() {
                    self.deadlines.cancel(&Deadline::Session(key, Due::Accepted));
                }
                self.refreshed(now, key);
                return;
            }
            // The peer ended the call while nobody served it.
            481 => {
                self.end(now, key, ReleaseCause::PeerGone, false);
                return;
            }
            405 | 501 if session.peer_allows_update => {
                session.peer_allows_update = false;
                Duration::ZERO
            }
            491 => Duration::from_millis(self.rng.random_range(0..2_000)),
            // It may be reached by its own next request only; whether it is there, the usual signs of life tell.
            _ => AGAIN * 2_u32.saturating_pow(attempt.min(8)),
        };
        if session.announcing.is_some() {
            self.deadlines.set(Deadline::Session(key, Due::Announce), now + again);
        }
    }
}
