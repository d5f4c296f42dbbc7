//! Which INVITEs are open, and what they still wait for. No files here.

use std::collections::HashMap;
use std::time::Duration;

use ferric_media::timestamp::Timestamp;
use uuid::Uuid;

use crate::entry::{Entry, GapEntry, Kind, MAX_GAPS, Outcome};

/// INVITEs open at once; more are a fault, and are said to be.
const MAX_OPEN: usize = 200_000;

/// A finished recording.
#[derive(Debug, Clone)]
struct Done {
    outcome: Outcome,
    cause: Option<String>,
    gaps: Vec<GapEntry>,
    gap_count: u64,
}

#[derive(Debug)]
struct Placed {
    node: String,
    of: Option<Uuid>,
}

#[derive(Debug)]
struct Open {
    received: Timestamp,
    /// Recordings, and parts of them that have names of their own.
    recordings: Vec<Uuid>,
    ended: Option<(Timestamp, String)>,
}

/// An INVITE that should have an outcome by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// Which.
    pub invite: Uuid,
    /// When it came.
    pub received: Timestamp,
    /// True when its dialog is over and a recording of it is not finished.
    pub ended: bool,
}

/// Open INVITEs and the recordings that they wait for.
#[derive(Debug, Default)]
pub(crate) struct Book {
    open: HashMap<Uuid, Open>,
    /// Recordings of open INVITEs, with those that feed them.
    fed: HashMap<Uuid, Vec<Uuid>>,
    done: HashMap<Uuid, Done>,
    /// Where they are recorded, as far as it is known.
    placed: HashMap<Uuid, Placed>,
    /// The last part of a recording that has another name.
    last: HashMap<Uuid, Uuid>,
    /// Outcomes that came for what had one.
    pub(crate) contradictions: u64,
    pub(crate) overflow: u64,
}

impl Book {
    /// Takes a line that was written, now or in an earlier life.
    pub(crate) fn take(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::Received => {
                let Some(invite) = entry.invite else { return };
                if self.open.len() >= MAX_OPEN {
                    self.overflow += 1;
                    return;
                }
                self.open.insert(invite, Open { received: entry.at, recordings: Vec::new(), ended: None });
            }
            Kind::Recording => {
                let (Some(invite), Some(recording)) = (entry.invite, entry.recording) else { return };
                let Some(open) = self.open.get_mut(&invite) else { return };
                if !open.recordings.contains(&recording) {
                    open.recordings.push(recording);
                    self.fed.entry(recording).or_default().push(invite);
                }
                if let Some(node) = entry.node.clone() {
                    self.placed.insert(recording, Placed { node, of: entry.of });
                }
                let Some(of) = entry.of else { return };
                self.last.insert(of, recording);
                // Nobody ever recorded the first part: the recording begins with this one.
                if !self.placed.contains_key(&of) && !self.done.contains_key(&of) {
                    if let Some(open) = self.open.get_mut(&invite) {
                        open.recordings.retain(|have| *have != of);
                    }
                    self.unfeed(of, Some(invite));
                }
            }
            Kind::Finished => {
                let (Some(recording), Some(outcome)) = (entry.recording, entry.outcome) else { return };
                if self.fed.contains_key(&recording) {
                    let done = Done {
                        outcome,
                        cause: entry.cause.clone(),
                        gaps: entry.gaps.clone(),
                        gap_count: entry.gap_count,
                    };
                    self.done.entry(recording).or_insert(done);
                }
            }
            Kind::Ended => {
                let Some(open) = entry.invite.and_then(|invite| self.open.get_mut(&invite)) else { return };
                let cause = entry.cause.clone().unwrap_or_default();
                open.ended.get_or_insert((entry.at, cause));
            }
            Kind::Outcome => {
                let Some(open) = entry.invite.and_then(|invite| self.open.remove(&invite)) else {
                    self.contradictions += 1;
                    return;
                };
                for recording in open.recordings {
                    self.unfeed(recording, entry.invite);
                }
            }
        }
    }

    fn unfeed(&mut self, recording: Uuid, invite: Option<Uuid>) {
        let Some(feeds) = self.fed.get_mut(&recording) else { return };
        feeds.retain(|have| Some(*have) != invite);
        if feeds.is_empty() {
            self.fed.remove(&recording);
            self.done.remove(&recording);
            let of = self.placed.remove(&recording).and_then(|placed| placed.of);
            if let Some(of) = of.filter(|of| self.last.get(of) == Some(&recording)) {
                self.last.remove(&of);
            }
        }
    }

    /// The node that records it, where that is known.
    pub(crate) fn node(&self, recording: Uuid) -> Option<&str> {
        self.placed.get(&recording).map(|placed| placed.node.as_str())
    }

    /// True when some open INVITE feeds it and it is not finished.
    pub(crate) fn waits_for(&self, recording: Uuid) -> bool {
        self.fed.contains_key(&recording) && !self.done.contains_key(&recording)
    }

    pub(crate) fn is_open(&self, invite: Uuid) -> bool {
        self.open.contains_key(&invite)
    }

    /// The outcome of an INVITE that waits for nothing any more.
    pub(crate) fn outcome(&self, invite: Uuid, at: Timestamp) -> Option<Entry> {
        let open = self.open.get(&invite)?;
        let (_, ended) = open.ended.as_ref()?;
        let done: Vec<&Done> =
            open.recordings.iter().map(|recording| self.done.get(recording)).collect::<Option<_>>()?;
        let mut entry = Entry::new(Kind::Outcome, at);
        entry.invite = Some(invite);
        entry.recordings.clone_from(&open.recordings);
        // Nothing was recorded at all: a call cancelled before it began, or a node that died at its very beginning.
        let worst = done.iter().map(|done| done.outcome).max();
        entry.outcome = Some(worst.unwrap_or(if ended == "cancelled" { Outcome::Refused } else { Outcome::Partial }));
        let cause = done.iter().filter(|done| Some(done.outcome) == worst).find_map(|done| done.cause.clone());
        entry.cause = Some(cause.unwrap_or_else(|| ended.clone()));
        entry.gaps = done.iter().flat_map(|done| done.gaps.iter().cloned()).take(MAX_GAPS).collect();
        entry.gap_count = done.iter().map(|done| done.gap_count).sum();
        Some(entry)
    }

    /// INVITEs that feed any part of a recording.
    pub(crate) fn feeding_any(&self, recording: Uuid) -> Vec<Uuid> {
        let feeds = self.fed.get(&recording).or_else(|| self.fed.get(self.last.get(&recording)?));
        feeds.cloned().unwrap_or_default()
    }

    /// INVITEs that a recording's end may have settled.
    pub(crate) fn feeding(&self, recording: Uuid) -> Vec<Uuid> {
        self.fed.get(&recording).cloned().unwrap_or_default()
    }

    /// Every open INVITE.
    pub(crate) fn all_open(&self) -> Vec<Uuid> {
        let mut all: Vec<(Timestamp, Uuid)> = self.open.iter().map(|(invite, open)| (open.received, *invite)).collect();
        all.sort();
        all.into_iter().map(|(_, invite)| invite).collect()
    }

    /// Recordings that open INVITEs wait for.
    pub(crate) fn unfinished(&self, invite: Uuid) -> Vec<Uuid> {
        let recordings = self.open.get(&invite).map(|open| open.recordings.as_slice()).unwrap_or_default();
        recordings.iter().copied().filter(|recording| !self.done.contains_key(recording)).collect()
    }

    pub(crate) fn has_ended(&self, invite: Uuid) -> bool {
        self.open.get(&invite).is_some_and(|open| open.ended.is_some())
    }

    pub(crate) fn overdue(&self, now: Timestamp, max_call: Duration, grace: Duration) -> Vec<Overdue> {
        let late = |(invite, open): (&Uuid, &Open)| {
            let ended = open.ended.as_ref().map(|(at, _)| *at);
            let is_late = match ended {
                Some(at) => now.since(at) > grace,
                None => now.since(open.received) > max_call + grace,
            };
            is_late.then_some(Overdue { invite: *invite, received: open.received, ended: ended.is_some() })
        };
        let mut found: Vec<Overdue> = self.open.iter().filter_map(late).collect();
        found.sort_by_key(|overdue| overdue.received);
        found
    }

    /// INVITEs without an outcome.
    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }
}
