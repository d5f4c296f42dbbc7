//! Which INVITEs are open, and what they still wait for. No files here.

use std::collections::{BTreeMap, HashMap};
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

/// A part of a recording: all its INVITEs wait for it.
#[derive(Debug, Default)]
struct Part {
    /// The node that records it, where it is known.
    node: Option<String>,
    done: Option<Done>,
}

/// A recording that open INVITEs feed.
#[derive(Debug, Default)]
struct Fed {
    invites: Vec<Uuid>,
    parts: BTreeMap<u32, Part>,
}

#[derive(Debug)]
struct Open {
    received: Timestamp,
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
    /// Recordings of open INVITEs.
    fed: HashMap<Uuid, Fed>,
    /// Outcomes that came for what had one.
    pub(crate) contradictions: u64,
    pub(crate) overflow: u64,
}

impl Book {
    /// Takes a line that was written, now or in an earlier life.
    pub(crate) fn take(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::Received | Kind::Adopted => {
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
                }
                let fed = self.fed.entry(recording).or_default();
                if !fed.invites.contains(&invite) {
                    fed.invites.push(invite);
                }
                let Some(node) = entry.node.clone() else {
                    // That it has a first part is known before anybody records it.
                    if fed.parts.is_empty() {
                        fed.parts.insert(1, Part::default());
                    }
                    return;
                };
                let number = entry.part.unwrap_or(1);
                // Nobody ever recorded the first part: the recording begins with this one.
                fed.parts.retain(|of, part| *of == number || part.node.is_some() || part.done.is_some());
                fed.parts.entry(number).or_default().node = Some(node);
            }
            Kind::Finished => {
                let (Some(recording), Some(outcome)) = (entry.recording, entry.outcome) else { return };
                let number = entry.part.unwrap_or(1);
                let Some(part) = self.fed.get_mut(&recording).and_then(|fed| fed.parts.get_mut(&number)) else {
                    return;
                };
                part.done.get_or_insert_with(|| Done {
                    outcome,
                    cause: entry.cause.clone(),
                    gaps: entry.gaps.clone(),
                    gap_count: entry.gap_count,
                });
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
                    let Some(fed) = self.fed.get_mut(&recording) else { continue };
                    fed.invites.retain(|invite| Some(*invite) != entry.invite);
                    if fed.invites.is_empty() {
                        self.fed.remove(&recording);
                    }
                }
            }
        }
    }

    fn part(&self, recording: Uuid, part: u32) -> Option<&Part> {
        self.fed.get(&recording)?.parts.get(&part)
    }

    /// The node that records a part, where that is known.
    pub(crate) fn node(&self, recording: Uuid, part: u32) -> Option<&str> {
        self.part(recording, part)?.node.as_deref()
    }

    /// True when some open INVITE feeds it and it is not finished.
    pub(crate) fn waits_for(&self, recording: Uuid, part: u32) -> bool {
        self.part(recording, part).is_some_and(|part| part.done.is_none())
    }

    pub(crate) fn is_open(&self, invite: Uuid) -> bool {
        self.open.contains_key(&invite)
    }

    /// The outcome of an INVITE that waits for nothing any more.
    pub(crate) fn outcome(&self, invite: Uuid, at: Timestamp) -> Option<Entry> {
        let open = self.open.get(&invite)?;
        let (_, ended) = open.ended.as_ref()?;
        let parts =
            open.recordings.iter().filter_map(|recording| self.fed.get(recording)).flat_map(|fed| fed.parts.values());
        let done: Vec<&Done> = parts.map(|part| part.done.as_ref()).collect::<Option<_>>()?;
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

    /// INVITEs that feed a recording, whose end may have settled them.
    pub(crate) fn feeding(&self, recording: Uuid) -> Vec<Uuid> {
        self.fed.get(&recording).map(|fed| fed.invites.clone()).unwrap_or_default()
    }

    /// What an open INVITE feeds.
    pub(crate) fn recordings_of(&self, invite: Uuid) -> Vec<Uuid> {
        self.open.get(&invite).map(|open| open.recordings.clone()).unwrap_or_default()
    }

    /// Every open INVITE.
    pub(crate) fn all_open(&self) -> Vec<Uuid> {
        let mut all: Vec<(Timestamp, Uuid)> = self.open.iter().map(|(invite, open)| (open.received, *invite)).collect();
        all.sort();
        all.into_iter().map(|(_, invite)| invite).collect()
    }

    /// Parts of recordings that an open INVITE waits for.
    pub(crate) fn unfinished(&self, invite: Uuid) -> Vec<(Uuid, u32)> {
        let recordings = self.open.get(&invite).map(|open| open.recordings.as_slice()).unwrap_or_default();
        let of = |recording: &Uuid| {
            let parts = self.fed.get(recording).map(|fed| &fed.parts);
            let open = parts.into_iter().flatten().filter(|(_, part)| part.done.is_none());
            open.map(|(number, _)| (*recording, *number)).collect::<Vec<_>>()
        };
        recordings.iter().flat_map(of).collect()
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
