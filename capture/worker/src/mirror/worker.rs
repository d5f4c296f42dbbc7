//! Mirrors, as the outside asks a worker for them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::bounded;
use ferric_media::mirror::{Begin, Control, Feed, Report, copy_of};
use ferric_media::part::Part;
use uuid::Uuid;

use super::shard::MirrorOrder;
use super::twin::{Role, Twin};
use super::{Follower, MirrorLink, MirrorStats};
use crate::call::{Assignment, Refusal, StreamAddress};
use crate::shard::Command;
use crate::worker::{PATIENCE, Placed, Worker, lock};

/// The copies of a worker by file id: of which recording, and on which shard.
#[derive(Debug, Default)]
pub(crate) struct Copies(Mutex<HashMap<Uuid, (Uuid, usize)>>);

impl Copies {
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    pub(crate) fn remove(&self, copy: Uuid) {
        lock(&self.0).remove(&copy);
    }

    fn insert(&self, copy: Uuid, recording: Uuid, shard: usize) {
        lock(&self.0).insert(copy, (recording, shard));
    }

    fn shard_of(&self, copy: Uuid) -> Option<usize> {
        lock(&self.0).get(&copy).map(|(_, shard)| *shard)
    }

    /// The newest copy of a recording: ids are UUIDv7.
    fn of(&self, recording: Uuid) -> Option<(Uuid, usize)> {
        let copies = lock(&self.0);
        let of = copies.iter().filter(|(_, (of, _))| *of == recording);
        of.map(|(copy, (_, shard))| (*copy, *shard)).max()
    }
}

impl Worker {
    /// Tells a call, from now on, to a copy of this file id at the node `to`.
    pub fn mirror_to(&self, recording: Uuid, copy: Uuid, to: &str, link: Arc<dyn MirrorLink>) {
        if let Some(shard) = self.shard_of(recording) {
            let node = self.config.node.clone();
            self.tell(shard, Command::Mirror(Box::new(MirrorOrder { recording, copy, to: to.to_owned(), node, link })));
        }
    }

    /// Ends the mirror of a call; the call goes on.
    pub fn stop_mirror(&self, recording: Uuid) {
        if let Some(shard) = self.shard_of(recording) {
            self.tell(shard, Command::StopMirror { recording });
        }
    }

    /// Takes a report of a copy elsewhere. Never waits; the next report replaces one that is lost here.
    pub fn mirror_report(&self, report: &Report) {
        for commands in &self.shards {
            if commands.try_send(Command::Report(report.clone())).is_err() {
                self.mirrors.crowded.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes a frame for a copy here; the first one of a copy begins it. Never waits. `link` is made for a copy that begins.
    ///
    /// # Errors
    /// The copy cannot begin; whoever sent the frame should be told, so that another node is asked.
    pub fn feed(
        &self,
        received: Instant,
        frame: Bytes,
        link: impl FnOnce() -> Arc<dyn MirrorLink>,
    ) -> Result<(), Refusal> {
        let Some(copy) = copy_of(&frame) else { return Ok(()) };
        let shard = match self.copies.shard_of(copy) {
            Some(shard) => shard,
            None => {
                let Some(begin) = Control::begin(&frame) else { return Ok(()) };
                self.open_copy(copy, begin, link())?
            }
        };
        let taken = self.frames.get(shard).map(|frames| frames.try_send((received, frame)));
        if !matches!(taken, Some(Ok(()))) {
            self.mirrors.crowded.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Begins a copy.
    ///
    /// # Errors
    /// [`Refusal`] says why not; nothing is left behind then.
    pub fn open_copy(&self, copy: Uuid, begin: Begin, link: Arc<dyn MirrorLink>) -> Result<usize, Refusal> {
        self.admit()?;
        if self.is_recording(begin.recording) {
            // A copy beside its original would die with it.
            return Err(Refusal::Broken);
        }
        let tenant = self.config.tenants.get(&begin.tenant).ok_or(Refusal::Broken)?;
        let shard = self.least_loaded();
        let base = Instant::now();
        let assignment = Assignment {
            part: Part::new(begin.recording, begin.part, begin.original).copied(copy),
            lost: None,
            tenant: begin.tenant.clone(),
            started: begin.started_at.into(),
            session: begin.session.clone(),
            streams: begin.streams.clone(),
            takes: Vec::new(),
            restore: Vec::new(),
            beside: None,
        };
        let (mut recorder, writer) = self.begin(base, assignment, tenant)?;
        for (name, value) in &begin.tags {
            recorder.add_tag(base, name, value);
        }
        if begin.paused {
            recorder.pause(base, None);
        }
        let twin = Twin {
            role: Role::Copy,
            file: begin.original,
            node: begin.node.clone(),
            started_at: begin.original_started_at,
            promoted: false,
            outcome: None,
        };
        let stats = Arc::clone(&self.mirrors);
        let follower = Follower::new(Feed::new(base, copy), base, begin.streams.clone(), link, stats);
        self.copies.insert(copy, begin.recording, shard);
        self.write(crate::scribe::Entry::Begin { writer: Box::new(writer) });
        self.write(crate::scribe::Entry::Twin { file: copy, twin });
        let streams = begin.streams.clone();
        let call = super::shard::copied_call(Box::new(recorder), begin, streams, follower);
        self.tell(shard, Command::Copy(Box::new(call)));
        Ok(shard)
    }

    /// Whether a copy of this recording runs here.
    pub fn has_copy(&self, recording: Uuid) -> bool {
        self.copies.of(recording).is_some()
    }

    /// The original is gone: the copy gets sockets and goes on as the recording. `delay` is what frames took on their way,
    /// at least.
    ///
    /// # Errors
    /// No copy that can go on, or no ports; the copy then stays as it is, to be tried again or ended.
    pub fn promote(&self, recording: Uuid, delay: Duration) -> Result<Vec<StreamAddress>, Refusal> {
        let (copy, shard) = self.copies.of(recording).ok_or(Refusal::Broken)?;
        let (reply, answer) = bounded(1);
        self.tell(shard, Command::CloseFeed { copy, reply });
        let streams = answer.recv_timeout(PATIENCE).ok().flatten().ok_or(Refusal::Broken)?;
        let sockets = self.bind(streams.into_iter(), &[])?;
        let addresses = self.addresses(&sockets);
        lock(&self.calls).insert(recording, Placed { shard, addresses: addresses.clone() });
        self.copies.remove(copy);
        self.tell(shard, Command::Promote { copy, sockets, delay });
        Ok(addresses)
    }

    /// Ends a copy that nobody will go on with, as of what it has.
    pub fn end_copy(&self, recording: Uuid, reason: &'static str) {
        if let Some((copy, shard)) = self.copies.of(recording) {
            self.tell(shard, Command::EndCopy { copy, reason });
        }
    }

    /// Counts of mirrors.
    pub fn mirror_stats(&self) -> &Arc<MirrorStats> {
        &self.mirrors
    }
}
