//! Which recording each m-line of a dialog goes into.
//!
//! - A dialog has one recording, its main one, unless metadata tell of more.
//! - One half of a call joins the recording of the other half.
//! - Metadata may divide the streams among communication sessions. A session that
//!   runs beside another gets a recording of its own. One that follows another
//!   goes on in the same recording when it continues the call (a transfer: the same group, or somebody who
//!   stays), and gets its own when it is a new call of a dialog that outlives calls.
//! - A stream that changes its recording takes its socket along; the SRC does not hear of it.

use std::time::Instant;

use ferric_sip::siprec::Metadata;

use super::{Deadline, Srs};
use crate::event::SrsEvent;
use crate::parties::lines_of_streams;
use crate::port::{RecordingId, ReleaseCause, TakenStream};
use crate::recording::Recording;
use crate::session::{Before, Session, SessionKey};

/// Recordings that one dialog may feed at once.
const MAX_RECORDINGS: usize = 4;

/// Where a line goes.
enum Target {
    Have(RecordingId),
    /// Its communication session needs a recording of its own.
    New,
}

impl Srs {
    /// Gives a new dialog its recordings and asks capture for them.
    pub(super) fn place_new(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let tenant = session.info.tenant.clone();
        let half = session.half.clone();
        let lines: Vec<usize> = session.streams.iter().map(|stream| stream.index).collect();
        if let Some(half) = half {
            let pair = (tenant, half.key);
            let other = self.halves.get(&pair).copied().filter(|id| self.lacks(*id, half.end));
            let id = match other {
                Some(id) => id,
                None => {
                    let id = self.new_recording(now);
                    if let Some(recording) = self.recordings.get_mut(&id) {
                        recording.pair = Some(pair.clone());
                    }
                    self.halves.insert(pair, id);
                    id
                }
            };
            if let Some(recording) = self.recordings.get_mut(&id) {
                recording.join(key, Some(half.end), lines);
            }
            self.feed(key, id);
            if other.is_some() {
                self.deadlines.cancel(&Deadline::Linger(id));
                self.change(now, id, Some(key), Vec::new());
                self.tell_recording(id);
            } else {
                self.begin(now, id, Some(key), Vec::new());
            }
            return;
        }
        let main = self.new_recording(now);
        if let Some(recording) = self.recordings.get_mut(&main) {
            recording.join(key, None, Vec::new());
        }
        self.feed(key, main);
        self.place_lines(now, key);
        let all = self.sessions.get(&key).map(|session| session.recordings.clone()).unwrap_or_default();
        for id in all {
            self.begin(now, id, Some(key), Vec::new());
        }
    }

    /// True if a recording runs that has not had this end of its call at the moment.
    fn lacks(&self, id: RecordingId, end: crate::maker::End) -> bool {
        let has = |recording: &Recording| recording.legs.iter().any(|leg| leg.over.is_none() && leg.end == Some(end));
        self.recordings.get(&id).is_some_and(|recording| !has(recording))
    }

    fn new_recording(&mut self, now: Instant) -> RecordingId {
        let id = RecordingId(self.new_uuid(now));
        self.recordings.insert(id, Recording::new());
        id
    }

    fn feed(&mut self, key: SessionKey, id: RecordingId) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.recordings.push(id);
            let invite = session.invite;
            self.event(SrsEvent::Feeds { invite, recording: id });
        }
    }

    /// Remembers how things are, before a change that may come to nothing.
    pub(super) fn remember(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let lines_of = |id: &RecordingId| Some((*id, self.recordings.get(id)?.leg(key)?.lines.clone()));
        let before = Before {
            streams: session.streams.clone(),
            lines: session.recordings.iter().filter_map(lines_of).collect(),
            communication_sessions: session.communication_sessions.clone(),
        };
        session.before = Some(before);
    }

    /// The lines changed with an offer: places them and asks capture.
    pub(super) fn place_again(&mut self, now: Instant, key: SessionKey) {
        let had: Vec<RecordingId> =
            self.sessions.get(&key).map(|session| session.recordings.clone()).unwrap_or_default();
        self.place_lines(now, key);
        let all = self.sessions.get(&key).map(|session| session.recordings.clone()).unwrap_or_default();
        for id in all {
            if had.contains(&id) {
                self.change(now, id, Some(key), Vec::new());
            } else {
                self.begin(now, id, Some(key), Vec::new());
            }
        }
    }

    /// Lines that stand go where metadata that came alone want them.
    pub(super) fn follow_metadata(&mut self, now: Instant, key: SessionKey) {
        let before = self.lines_by_recording(key);
        self.place_lines(now, key);
        let after = self.lines_by_recording(key);
        if before == after {
            self.close_over(key);
            return;
        }
        let owner = |table: &[(RecordingId, Vec<usize>)], line: usize| {
            table.iter().find(|(_, lines)| lines.contains(&line)).map(|(id, _)| *id)
        };
        let number = |srs: &Srs, id: RecordingId, line: usize| {
            srs.recordings.get(&id).and_then(|recording| recording.index(key, line))
        };
        for (id, lines) in &after {
            let take = |line: &usize| {
                let from = owner(&before, *line).filter(|from| from != id)?;
                // What no worker has cannot be passed on: the line gets another socket, and the peer hears of it.
                self.recordings.get(&from).filter(|recording| recording.is_held())?;
                Some(TakenStream { from, index: number(self, from, *line)?, becomes: number(self, *id, *line)? })
            };
            let takes: Vec<TakenStream> = lines.iter().filter_map(take).collect();
            if !before.iter().any(|(had, _)| had == id) {
                self.begin(now, *id, None, takes);
                self.event(SrsEvent::Started { recording: *id });
            } else if !takes.is_empty() {
                self.change(now, *id, None, takes);
            }
        }
        // Who gave lines away hears of it after who took them: a socket is never closed on the way.
        for (id, lines) in &before {
            let kept = after.iter().find(|(have, _)| have == id).map(|(_, lines)| lines);
            if kept.is_some_and(|kept| lines.iter().any(|line| !kept.contains(line))) {
                self.change(now, *id, None, Vec::new());
            }
        }
        for (id, _) in &after {
            self.tell_recording(*id);
        }
        self.close_over(key);
    }

    fn lines_by_recording(&self, key: SessionKey) -> Vec<(RecordingId, Vec<usize>)> {
        let recordings = self.sessions.get(&key).map(|session| session.recordings.as_slice()).unwrap_or_default();
        recordings.iter().filter_map(|id| Some((*id, self.recordings.get(id)?.leg(key)?.lines.clone()))).collect()
    }

    /// Ends recordings whose communication sessions are over and that have no lines left; the last one stays with the dialog.
    fn close_over(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        if session.recordings.len() < 2 {
            return;
        }
        let is_over = |id: &RecordingId| {
            let own = session.communication_sessions.iter().filter(|(_, of)| of == id);
            let over = own.clone().next().is_some() && own.clone().all(|(name, _)| !runs(&session.metadata, name));
            let idle = self.recordings.get(id).and_then(|recording| recording.leg(key)).is_some_and(|leg| {
                !session.streams.iter().any(|stream| leg.lines.contains(&stream.index) && stream.active)
            });
            over && idle
        };
        let mut over: Vec<RecordingId> = session.recordings.iter().copied().filter(is_over).collect();
        over.truncate(session.recordings.len() - 1);
        for id in over {
            let lines = self
                .recordings
                .get(&id)
                .and_then(|recording| recording.leg(key))
                .map(|leg| leg.lines.clone())
                .unwrap_or_default();
            if let Some(session) = self.sessions.get_mut(&key) {
                session.recordings.retain(|other| *other != id);
                session.communication_sessions.retain(|(_, of)| *of != id);
                // What still stands of it in the description, held, belongs to who stays.
                if let Some(main) = session.recordings.first()
                    && let Some(leg) = self.recordings.get_mut(main).and_then(|recording| recording.leg_mut(key))
                {
                    leg.lines.extend(lines);
                }
            }
            self.release(id, ReleaseCause::SessionOver);
        }
    }

    /// Divides the lines among recordings; new ones are made, capture is not told.
    fn place_lines(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let named = communication_sessions(session);
        let table = self.lines_by_recording(key);
        let is_half = session.half.is_some();
        let lines: Vec<usize> = session.streams.iter().map(|stream| stream.index).collect();
        let mut placed: Vec<(usize, RecordingId)> = Vec::new();
        for line in lines {
            let current = table.iter().find(|(_, lines)| lines.contains(&line)).map(|(id, _)| *id);
            let name = named.iter().find(|(of, _)| *of == line).map(|(_, name)| name.clone()).filter(|_| !is_half);
            let Some(session) = self.sessions.get(&key) else { return };
            let Some(owner) = current.or(session.recordings.first().copied()) else { return };
            let target = name.as_ref().map_or(Target::Have(owner), |name| target(session, &named, name, owner));
            let id = match target {
                Target::Have(id) => id,
                Target::New => {
                    let id = self.new_recording(now);
                    if let Some(recording) = self.recordings.get_mut(&id) {
                        recording.join(key, None, Vec::new());
                    }
                    self.feed(key, id);
                    id
                }
            };
            if let (Some(name), Some(session)) = (name, self.sessions.get_mut(&key))
                && !session.communication_sessions.iter().any(|(known, _)| *known == name)
            {
                session.communication_sessions.push((name, id));
            }
            placed.push((line, id));
        }
        let recordings = self.sessions.get(&key).map(|session| session.recordings.clone()).unwrap_or_default();
        for id in recordings {
            if let Some(leg) = self.recordings.get_mut(&id).and_then(|recording| recording.leg_mut(key)) {
                leg.lines = placed.iter().filter(|(_, of)| *of == id).map(|(line, _)| *line).collect();
            }
        }
    }
}

/// The communication session of each m-line, as far as metadata know both.
fn communication_sessions(session: &Session) -> Vec<(usize, String)> {
    let metadata = &session.metadata;
    let (lines, _) = lines_of_streams(metadata, &session.streams);
    let is_known = |name: &&String| metadata.sessions.iter().any(|known| known.id == **name && !known.id.is_empty());
    let of = |(stream, line): (&ferric_sip::siprec::StreamElement, &Option<usize>)| {
        Some(((*line)?, stream.session.as_ref().filter(is_known)?.clone()))
    };
    metadata.streams.iter().zip(&lines).filter_map(of).collect()
}

/// Where the lines of a communication session go.
fn target(session: &Session, named: &[(usize, String)], name: &str, owner: RecordingId) -> Target {
    let known = &session.communication_sessions;
    if let Some((_, id)) = known.iter().find(|(have, _)| have == name) {
        return Target::Have(*id);
    }
    let earlier: Vec<&str> = known.iter().filter(|(_, of)| *of == owner).map(|(name, _)| name.as_str()).collect();
    let Some(last) = earlier.last() else { return Target::Have(owner) };
    let beside =
        earlier.iter().any(|earlier| named.iter().any(|(_, of)| of == earlier) && runs(&session.metadata, earlier));
    if session.recordings.len() >= MAX_RECORDINGS || (!beside && continues(session, last, name)) {
        return Target::Have(owner);
    }
    Target::New
}

/// True while a communication session is named and has not been ended.
fn runs(metadata: &Metadata, name: &str) -> bool {
    metadata.sessions.iter().any(|session| session.id == name && session.stop.is_none())
}

/// Whether `next` is the same call as `last`, which is over, for people.
fn continues(session: &Session, last: &str, next: &str) -> bool {
    let find = |name: &str| session.metadata.sessions.iter().find(|session| session.id == name);
    let group = |name: &str| find(name).and_then(|session| session.group.clone());
    match (group(last), group(next)) {
        (Some(a), Some(b)) => return a == b,
        // Ended in so many words, and nothing that ties the two.
        _ if find(last).is_some_and(|last| last.stop.is_some()) => return false,
        _ => {}
    }
    let of_next =
        session.metadata.session_associations.iter().filter(|association| association.session.as_deref() == Some(next));
    let newcomers: Vec<&str> = of_next.map(|association| association.participant.as_str()).collect();
    let stays = |id: &str| {
        session
            .info
            .participants
            .iter()
            .any(|party| party.id == id && party.seen_unix_ms < party.gone_unix_ms.unwrap_or(u64::MAX))
    };
    // Where nobody is tied to sessions there is no telling: one file loses nothing.
    newcomers.is_empty() || newcomers.iter().any(|id| stays(id))
}
