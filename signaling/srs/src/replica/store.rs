//! The partner's side: replicas of others' dialogs, until they are needed or gone.

use std::collections::HashMap;
use std::time::Instant;

use ferric_sip::dialog::DialogId;
use ferric_sip::message::Message;

use super::{Batch, RecordingReplica, SessionReplica, Update};
use crate::event::InviteId;
use crate::port::RecordingId;

/// How much is kept for others.
#[derive(Debug, Clone, Copy)]
pub struct ReplicasLimits {
    /// Dialogs, of all owners; further ones are not kept.
    pub sessions: usize,
    /// Bytes of documents, of all owners; further ones are left out.
    pub document_bytes: usize,
}

impl Default for ReplicasLimits {
    fn default() -> ReplicasLimits {
        ReplicasLimits { sessions: 20_000, document_bytes: 256 << 20 }
    }
}

/// What a lost owner leaves: each dialog with the moment at which it was so.
#[derive(Debug, Default)]
pub struct Estate {
    /// Its dialogs.
    pub sessions: Vec<(Instant, SessionReplica)>,
    /// Its recordings.
    pub recordings: Vec<RecordingReplica>,
}

#[derive(Debug)]
struct Kept<T> {
    generation: u64,
    replica: T,
}

#[derive(Debug, Default)]
struct Held {
    sessions: HashMap<InviteId, Kept<(Instant, SessionReplica)>>,
    recordings: HashMap<RecordingId, Kept<RecordingReplica>>,
    /// Counts how often the owner began anew.
    generation: u64,
    /// Some of it may be of an earlier generation.
    mixed: bool,
}

/// Replicas of the dialogs of other nodes.
#[derive(Debug, Default)]
pub struct Replicas {
    limits: ReplicasLimits,
    owners: HashMap<String, Held>,
    by_dialog: HashMap<DialogId, (String, InviteId)>,
    sessions: usize,
    document_bytes: usize,
    refused: u64,
}

impl Replicas {
    /// Nothing yet.
    pub fn new(limits: ReplicasLimits) -> Replicas {
        Replicas { limits, ..Replicas::default() }
    }

    /// Takes what an owner says of its dialogs.
    pub fn take(&mut self, now: Instant, owner: &str, batch: Batch) {
        let held = self.owners.entry(owner.to_owned()).or_default();
        if batch.restart {
            held.generation += 1;
            held.mixed = true;
        }
        for update in batch.updates {
            match update {
                Update::Session(replica) => self.put_session(now, owner, *replica),
                Update::SessionOver(invite) => self.drop_session(owner, invite),
                Update::Recording(replica) => {
                    if let Some(held) = self.owners.get_mut(owner)
                        && (held.recordings.len() < self.limits.sessions
                            || held.recordings.contains_key(&replica.recording))
                    {
                        let kept = Kept { generation: held.generation, replica: *replica };
                        held.recordings.insert(kept.replica.recording, kept);
                    }
                }
                Update::RecordingOver(recording) => {
                    if let Some(held) = self.owners.get_mut(owner) {
                        held.recordings.remove(&recording);
                    }
                }
            }
        }
        if batch.caught_up {
            self.sweep(owner);
        }
    }

    /// The owner of the dialog that a request belongs to.
    pub fn owner_of(&self, request: &Message) -> Option<&str> {
        if self.by_dialog.is_empty() || !request.is_request() {
            return None;
        }
        let dialog = DialogId::of_request(request)?;
        self.by_dialog.get(&dialog).map(|(owner, _)| owner.as_str())
    }

    /// Everything of an owner that is lost; its replicas are gone from here.
    pub fn surrendered_by(&mut self, owner: &str) -> Estate {
        let Some(mut held) = self.owners.remove(owner) else { return Estate::default() };
        for kept in held.sessions.values() {
            let (_, replica) = &kept.replica;
            self.sessions -= 1;
            self.document_bytes -= bytes_of(replica);
            unindex(&mut self.by_dialog, &replica.dialog.id, owner);
        }
        let mut estate = Estate {
            sessions: held.sessions.drain().map(|(_, kept)| kept.replica).collect(),
            recordings: held.recordings.drain().map(|(_, kept)| kept.replica).collect(),
        };
        // In the order in which the calls began, so that the oldest is seen to first.
        estate.sessions.sort_by_key(|(_, replica)| replica.invite.0);
        estate.recordings.sort_by_key(|replica| replica.recording);
        estate
    }

    /// Forgets everything of an owner that is gone for good, or has another partner.
    pub fn forget(&mut self, owner: &str) {
        let _ = self.surrendered_by(owner);
    }

    /// Dialogs that are kept, those of each owner apart.
    pub fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.owners.iter().map(|(owner, held)| (owner.as_str(), held.sessions.len()))
    }

    /// Dialogs that were not kept, because there was no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn put_session(&mut self, now: Instant, owner: &str, mut replica: SessionReplica) {
        let Some(held) = self.owners.get_mut(owner) else { return };
        let before = held.sessions.remove(&replica.invite).map(|kept| kept.replica.1);
        match &before {
            Some(before) => {
                self.sessions -= 1;
                self.document_bytes -= bytes_of(before);
            }
            None if self.sessions >= self.limits.sessions => {
                self.refused += 1;
                return;
            }
            None => {}
        }
        let newer = std::mem::take(&mut replica.documents);
        let mut documents = before.map(|before| before.documents.list).unwrap_or_default();
        documents.truncate(newer.from);
        documents.extend(newer.list);
        replica.documents.list = documents;
        let room = self.limits.document_bytes.saturating_sub(self.document_bytes);
        while bytes_of(&replica) > room {
            replica.documents.list.pop();
        }
        self.sessions += 1;
        self.document_bytes += bytes_of(&replica);
        let place = (owner.to_owned(), replica.invite);
        let is_older = self.by_dialog.get(&replica.dialog.id).is_some_and(|(other, invite)| {
            other != owner && self.owners.get(other).is_some_and(|held| held.epoch(invite) > replica.epoch)
        });
        if !is_older {
            self.by_dialog.insert(replica.dialog.id.clone(), place);
        }
        if let Some(held) = self.owners.get_mut(owner) {
            let kept = Kept { generation: held.generation, replica: (now, replica) };
            held.sessions.insert(kept.replica.1.invite, kept);
        }
    }

    fn drop_session(&mut self, owner: &str, invite: InviteId) {
        let Some(kept) = self.owners.get_mut(owner).and_then(|held| held.sessions.remove(&invite)) else { return };
        let (_, replica) = kept.replica;
        self.sessions -= 1;
        self.document_bytes -= bytes_of(&replica);
        unindex(&mut self.by_dialog, &replica.dialog.id, owner);
    }

    /// Everything was told anew: what was not is gone.
    fn sweep(&mut self, owner: &str) {
        let Some(held) = self.owners.get_mut(owner) else { return };
        if !std::mem::take(&mut held.mixed) {
            return;
        }
        let generation = held.generation;
        held.recordings.retain(|_, kept| kept.generation == generation);
        let stale = held.sessions.iter().filter(|(_, kept)| kept.generation != generation);
        let stale: Vec<InviteId> = stale.map(|(invite, _)| *invite).collect();
        for invite in stale {
            self.drop_session(owner, invite);
        }
    }
}

impl Held {
    fn epoch(&self, invite: &InviteId) -> u32 {
        self.sessions.get(invite).map_or(0, |kept| kept.replica.1.epoch)
    }
}

/// Takes a dialog out of the index, unless another owner claims it.
fn unindex(by_dialog: &mut HashMap<DialogId, (String, InviteId)>, dialog: &DialogId, owner: &str) {
    if by_dialog.get(dialog).is_some_and(|(known, _)| known == owner) {
        by_dialog.remove(dialog);
    }
}

fn bytes_of(replica: &SessionReplica) -> usize {
    replica.documents.list.iter().map(|document| document.body.len()).sum()
}
