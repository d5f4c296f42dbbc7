//! The owner's side of replication: what has changed of its dialogs and recordings.
//!
//! Nothing is built before somebody asks: whoever carries the replicas takes as much as its link has room for, and what
//! changed twice meanwhile is told once. What was told last is remembered, so that a dialog that was only looked at costs a
//! comparison. While no partner wants replicas, all of it costs one comparison for each change of a table.

use std::collections::HashMap;
use std::time::Instant;

use ferric_sip::dialog::SessionTimer;

use super::Srs;
use crate::port::{RecordingId, SessionInfo};
use crate::recording::Leg;
use crate::replica::{Batch, Documents, HalfReplica, LegReplica, RecordingReplica, SessionReplica, Update};
use crate::session::{Session, SessionKey, State};

/// Bytes of documents in one update; the rest follows in the next. A document alone may be longer.
const DOCUMENT_BYTES: usize = 48 << 10;
/// A longer document is not replicated: no message between nodes would hold it.
const LONGEST_DOCUMENT: usize = 96 << 10;
/// Bytes of the documents that a dialog which is over leaves to its recording.
const LEGACY_BYTES: usize = 48 << 10;
/// What a record without its documents counts for, in bytes.
const RECORD_BYTES: usize = 4 << 10;

/// What the partner was told.
#[derive(Debug, Default)]
pub(super) struct Replication {
    on: bool,
    /// The next batch begins anew.
    restart: bool,
    /// A batch that says that all was told is owed.
    owes_end: bool,
    sessions: HashMap<SessionKey, Told>,
    recordings: HashMap<RecordingId, RecordingReplica>,
}

/// A dialog as it was told, with moments instead of remaining times, and without documents.
#[derive(Debug, PartialEq)]
struct Told {
    replica: SessionReplica,
    accepted: Option<u32>,
    timer: Option<SessionTimer>,
    ends_at: Instant,
    /// When each document came, and its length.
    documents: Vec<(u64, usize)>,
}

impl Srs {
    /// Tells a partner everything from now on, from the beginning; or tells nobody.
    pub fn set_replicating(&mut self, on: bool) {
        self.sessions.follow(on);
        self.recordings.follow(on);
        self.replication = Replication { on, restart: on, owes_end: on, ..Replication::default() };
    }

    /// What changed since the last batch, up to about `most` bytes; `None`: nothing did, or nobody wants to know.
    pub fn poll_replicas(&mut self, now: Instant, most: usize) -> Option<Batch> {
        if !self.replication.on {
            return None;
        }
        if self.sessions.has_overflowed() || self.recordings.has_overflowed() {
            self.set_replicating(true);
        }
        let mut updates = Vec::new();
        let mut bytes = 0;
        while bytes < most {
            if let Some(key) = self.sessions.next_touched() {
                bytes += self.tell_session(now, key, &mut updates);
            } else if let Some(id) = self.recordings.next_touched() {
                bytes += self.tell_replica(id, &mut updates);
            } else {
                break;
            }
        }
        let restart = std::mem::take(&mut self.replication.restart);
        let caught_up = !self.sessions.is_touched() && !self.recordings.is_touched();
        let ends = caught_up && std::mem::take(&mut self.replication.owes_end);
        (restart || ends || !updates.is_empty()).then_some(Batch { restart, caught_up, updates })
    }

    /// Returns about how many bytes it added.
    fn tell_session(&mut self, now: Instant, key: SessionKey, updates: &mut Vec<Update>) -> usize {
        let Some(session) = self.sessions.get(&key) else {
            let told = self.replication.sessions.remove(&key);
            let Some(told) = told else { return 0 };
            updates.push(Update::SessionOver(told.replica.invite));
            return RECORD_BYTES / 16;
        };
        if session.state != State::Recording {
            return 0;
        }
        let begun = |id: &RecordingId| self.recordings.get(id).is_some_and(|recording| recording.begun);
        let mut told = Told {
            replica: replica_of(session, begun),
            accepted: session.accepted.as_ref().map(|accepted| accepted.cseq()),
            timer: session.timer,
            ends_at: session.ends_at,
            documents: session.info.documents.iter().map(|have| (have.received_unix_ms, have.body.len())).collect(),
        };
        let known = self.replication.sessions.get(&key);
        if known == Some(&told) {
            return 0;
        }
        let known = known.map(|known| known.documents.as_slice()).unwrap_or_default();
        let from = known.iter().zip(&told.documents).take_while(|(a, b)| a == b).count();
        let mut bytes = 0;
        let mut list = Vec::new();
        for document in session.info.documents.iter().skip(from) {
            if bytes > DOCUMENT_BYTES {
                break;
            }
            let mut document = document.clone();
            if document.body.len() > LONGEST_DOCUMENT {
                document.body.clear();
            }
            bytes += document.body.len();
            list.push(document);
        }
        let replica = SessionReplica {
            accepted: session.accepted.as_ref().map(|accepted| accepted.state(now)),
            timer: session.timer.map(|timer| timer.state(now)),
            ends_in_ms: millis_until(now, session.ends_at),
            documents: Documents { from, list },
            ..told.replica.clone()
        };
        let recordings = session.recordings.clone();
        let sent = from + replica.documents.list.len();
        let is_cut = sent < told.documents.len();
        told.documents.truncate(sent);
        self.replication.sessions.insert(key, told);
        updates.push(Update::Session(Box::new(replica)));
        bytes += RECORD_BYTES;
        for id in recordings {
            bytes += self.tell_replica(id, updates);
        }
        if is_cut {
            self.sessions.touch(key);
        }
        bytes
    }

    fn tell_replica(&mut self, id: RecordingId, updates: &mut Vec<Update>) -> usize {
        let Some(recording) = self.recordings.get(&id) else {
            let told = self.replication.recordings.remove(&id);
            let Some(told) = told else { return 0 };
            updates.push(Update::RecordingOver(told.recording));
            return RECORD_BYTES / 16;
        };
        if !recording.begun {
            return 0;
        }
        let replica = RecordingReplica {
            recording: id,
            part: recording.part,
            legs: recording.legs.iter().map(|leg| self.leg_replica(id, leg)).collect(),
            assigned: recording.assigned.clone(),
            pair: recording.pair.clone(),
            channels: recording.channels(),
        };
        if self.replication.recordings.get(&id) == Some(&replica) {
            return 0;
        }
        self.replication.recordings.insert(id, replica.clone());
        updates.push(Update::Recording(Box::new(replica)));
        RECORD_BYTES
    }

    /// A leg with the lines that the peer has agreed to.
    fn leg_replica(&self, id: RecordingId, leg: &Leg) -> LegReplica {
        let session = self.sessions.get(&leg.session).filter(|_| leg.over.is_none());
        let before = session.and_then(|session| session.before.as_ref());
        let had = before.and_then(|before| before.lines.iter().find(|(of, _)| *of == id));
        LegReplica {
            session: session.map(|session| session.invite),
            number: leg.number,
            near: leg.end.map(|end| end == crate::maker::End::Near),
            lines: had.map_or(&leg.lines, |(_, lines)| lines).clone(),
            over: leg.over.as_ref().map(legacy),
        }
    }
}

/// A dialog as the peer has agreed to it, without times and documents.
fn replica_of(session: &Session, begun: impl Fn(&RecordingId) -> bool) -> SessionReplica {
    let before = session.before.as_ref();
    SessionReplica {
        invite: session.invite,
        epoch: session.epoch,
        dialog: session.dialog.clone(),
        invite_cseq: session.invite_cseq,
        flow: session.flow,
        accepted: None,
        awaits_answer: session.awaits_answer,
        timer: None,
        origin: session.origin,
        streams: before.map_or(&session.streams, |before| &before.streams).clone(),
        stopped: session.stopped.clone(),
        recordings: session.recordings.iter().copied().filter(begun).collect(),
        communication_sessions: before
            .map_or(&session.communication_sessions, |before| &before.communication_sessions)
            .clone(),
        half: session.half.as_ref().map(HalfReplica::of),
        last_sdp: session.last_sdp.clone(),
        info: SessionInfo { documents: Vec::new(), ..session.info.clone() },
        documents: Documents::default(),
        told: session.told.clone(),
        peer_allows_update: session.peer_allows_update,
        offers_by_invite: session.offers_by_invite,
        peer_gives_snapshots: session.peer_gives_snapshots,
        heard: session.heard,
        ends_in_ms: 0,
    }
}

/// What a dialog that is over leaves, with the last of its documents.
fn legacy(info: &SessionInfo) -> SessionInfo {
    let mut room = LEGACY_BYTES;
    let mut documents: Vec<_> = info
        .documents
        .iter()
        .rev()
        .take_while(|document| {
            let fits = document.body.len() <= room;
            room = room.saturating_sub(document.body.len());
            fits
        })
        .cloned()
        .collect();
    documents.reverse();
    SessionInfo { documents, ..info.clone() }
}

fn millis_until(now: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
}
