//! The writing side: one file a day, one line at a time.
//!
//! ```text
//! received, refused, ... --lock--> book, signed line --write--> file of the day ... unsynced
//! thread, sync()         --one at a time--> takes what is unsynced (lock) --fdatasync, no lock--> confirmed
//! ```
//!
//! Signalling tells each INVITE, so nobody waits for a disk while the lock is held: what a sync has under way, and all that is
//! told meanwhile, are two things. What could not be synced stays unsynced and is tried again.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use ferric_media::keys::NodeKey;
use ferric_media::manifest::{Digest, RecordingState};
use ferric_media::timestamp::Timestamp;
use thiserror::Error;
use uuid::Uuid;

use crate::book::{Book, Overdue};
use crate::entry::{Entry, GapEntry, Kind, MAX_GAPS, Outcome};
use crate::read::{call_hash, files};

/// Lines are synced this often.
const SYNC: Duration = Duration::from_millis(500);
/// Files that are read at the start: every start settles what it finds, and no call runs over two midnights.
const DAYS: usize = 3;
/// Lines that wait for a disk that refuses them.
const MAX_WAITING: usize = 100_000;
/// An INVITE whose dialog is over has its outcome by then.
const GRACE: Duration = Duration::from_secs(300);

/// Why there is no ledger.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// A file or folder.
    #[error("the ledger {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a recording ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Which part of the recording, counted from 1.
    pub part: u32,
    /// As its manifest says.
    pub state: RecordingState,
    /// Length of the audio.
    pub duration_ms: u64,
    /// SHA-256 of its manifest.
    pub manifest: Option<Digest>,
}

/// The number of a part as lines have it: that of a first one is left out.
fn later(part: u32) -> Option<u32> {
    (part > 1).then_some(part)
}

/// Counts outcomes; called with each.
pub type OnOutcome = Box<dyn Fn(&Entry) + Send>;

struct Inner {
    folder: PathBuf,
    key: Arc<NodeKey>,
    call_key: [u8; 32],
    on_outcome: OnOutcome,
    book: Book,
    /// What is known of the gaps of recordings that are not finished yet.
    details: std::collections::HashMap<(Uuid, u32), (Vec<GapEntry>, u64, Option<String>)>,
    files: Files,
    seq: u64,
    previous: Option<Digest>,
    waiting: VecDeque<(String, Vec<u8>)>,
    failed: u64,
}

/// Brings a file to the disk.
type Disk = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

struct Shared {
    inner: Mutex<Inner>,
    /// Held while the disk is waited for, and taken before the lock of `inner`, never behind it: who comes second finds all
    /// synced that was told before it came. True while the disk fails.
    syncing: Mutex<bool>,
    disk: Disk,
}

/// The ledger of a node; clones share it.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits and brings it to the disk.
    fn sync(&self) {
        let mut is_failing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let unsynced = {
            let mut inner = self.lock();
            inner.flush();
            std::mem::take(&mut inner.files.unsynced)
        };
        let (mut left, mut why) = (Vec::new(), None);
        for file in unsynced {
            if let Err(error) = (self.disk)(&file) {
                left.push(file);
                why = Some(error);
            }
        }
        match why {
            Some(error) => {
                if !std::mem::replace(&mut *is_failing, true) {
                    tracing::error!(%error, "the ledger cannot be synced; it is tried again");
                }
                let mut inner = self.lock();
                left.into_iter().for_each(|file| inner.files.note(file));
            }
            None => *is_failing = false,
        }
    }
}

impl Ledger {
    /// Opens the ledger of a folder and reads what is open in it.
    ///
    /// # Errors
    /// The folder cannot be made, or a file of it not be read.
    pub fn open(
        folder: &Path,
        key: Arc<NodeKey>,
        call_key: [u8; 32],
        on_outcome: OnOutcome,
    ) -> Result<Ledger, LedgerError> {
        Ledger::open_on(folder, key, call_key, on_outcome, Box::new(File::sync_data))
    }

    fn open_on(
        folder: &Path,
        key: Arc<NodeKey>,
        call_key: [u8; 32],
        on_outcome: OnOutcome,
        disk: Disk,
    ) -> Result<Ledger, LedgerError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
        let mut book = Book::default();
        let (mut seq, mut previous) = (0, None);
        let all = files(folder).map_err(io(folder))?;
        for path in all.iter().skip(all.len().saturating_sub(DAYS)) {
            let text = cut_torn_end(path).map_err(io(path))?;
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                previous = Some(Digest::of(line));
                match Entry::parse(line) {
                    Some(entry) => {
                        seq = seq.max(entry.seq);
                        book.take(&entry);
                    }
                    None => {
                        tracing::error!(file = %path.display(), "the ledger has a line that is none: `ferric assurance` names it")
                    }
                }
            }
        }
        let inner = Inner {
            folder: folder.to_owned(),
            key,
            call_key,
            on_outcome,
            book,
            details: std::collections::HashMap::new(),
            files: Files::default(),
            seq,
            previous,
            waiting: VecDeque::new(),
            failed: 0,
        };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), syncing: Mutex::new(false), disk });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new().name("ledger".into()).spawn(move || keep_synced(&weak)).map_err(io(folder))?;
        Ok(Ledger { shared })
    }

    /// An INVITE came.
    pub fn received(&self, invite: Uuid, tenant: &str, call_id: &str, source: &str) {
        let mut inner = self.shared.lock();
        let mut entry = inner.entry(Kind::Received);
        entry.invite = Some(invite);
        entry.tenant = Some(tenant.to_owned());
        entry.call = Some(call_hash(&inner.call_key, call_id));
        entry.source = Some(source.to_owned());
        inner.write(entry);
    }

    /// It goes into a recording.
    pub fn recorded_by(&self, invite: Uuid, recording: Uuid) {
        let mut inner = self.shared.lock();
        let mut entry = inner.entry(Kind::Recording);
        entry.invite = Some(invite);
        entry.recording = Some(recording);
        inner.write(entry);
    }

    /// A part of a recording is recorded by a node. INVITEs wait for each part that they fed.
    pub fn placed(&self, recording: Uuid, part: u32, node: &str) {
        let mut inner = self.shared.lock();
        for invite in inner.book.feeding(recording) {
            let mut entry = inner.entry(Kind::Recording);
            entry.invite = Some(invite);
            entry.recording = Some(recording);
            entry.part = later(part);
            entry.node = Some(node.to_owned());
            inner.write(entry);
        }
    }

    /// An INVITE that had come to another node, which was lost: its call is this node's from now on.
    pub fn adopted(&self, invite: Uuid, tenant: &str, call_id: &str, source: &str) {
        let mut inner = self.shared.lock();
        let mut entry = inner.entry(Kind::Adopted);
        entry.invite = Some(invite);
        entry.tenant = Some(tenant.to_owned());
        entry.call = Some(call_hash(&inner.call_key, call_id));
        entry.source = Some(source.to_owned());
        inner.write(entry);
    }

    /// Another node has its call, and tells what becomes of it. Changes nothing where that is known already.
    pub fn moved(&self, invite: Uuid, node: &str) {
        let mut inner = self.shared.lock();
        if !inner.book.is_open(invite) {
            return;
        }
        let mut entry = inner.entry(Kind::Outcome);
        entry.invite = Some(invite);
        entry.outcome = Some(Outcome::Moved);
        entry.cause = Some(format!("taken over by {node}"));
        entry.node = Some(node.to_owned());
        inner.write(entry);
    }

    /// What an INVITE without an outcome feeds: recordings, and parts of them.
    pub fn recordings_of(&self, invite: Uuid) -> Vec<Uuid> {
        self.shared.lock().book.recordings_of(invite)
    }

    /// INVITEs without an outcome, oldest first.
    pub fn open_invites(&self) -> Vec<Uuid> {
        self.shared.lock().book.all_open()
    }

    /// It was refused.
    pub fn refused(&self, invite: Uuid, status: u16, cause: &str) {
        let mut inner = self.shared.lock();
        if !inner.book.is_open(invite) {
            inner.book.contradictions += 1;
            return;
        }
        let mut entry = inner.entry(Kind::Outcome);
        entry.invite = Some(invite);
        entry.outcome = Some(Outcome::Refused);
        entry.status = Some(status);
        entry.cause = Some(cause.to_owned());
        inner.write(entry);
    }

    /// Its dialog is over.
    pub fn ended(&self, invite: Uuid, cause: &str) {
        let mut inner = self.shared.lock();
        if !inner.book.is_open(invite) || inner.book.has_ended(invite) {
            return;
        }
        let mut entry = inner.entry(Kind::Ended);
        entry.invite = Some(invite);
        entry.cause = Some(cause.to_owned());
        inner.write(entry);
        inner.conclude(invite);
    }

    /// Where audio of a part is missing, and why it ended; told before [`Ledger::finished`].
    pub fn details(&self, recording: Uuid, part: u32, gaps: Vec<GapEntry>, reason: Option<String>) {
        let mut inner = self.shared.lock();
        let count = gaps.len() as u64;
        if inner.book.waits_for(recording, part) {
            inner.details.insert((recording, part), (gaps.into_iter().take(MAX_GAPS).collect(), count, reason));
        }
    }

    /// A part's manifest is on disk. Told again, it changes nothing. `false`: no INVITE of this ledger waits for it.
    pub fn finished(&self, recording: Uuid, finished: &Finished) -> bool {
        let mut inner = self.shared.lock();
        if !inner.book.waits_for(recording, finished.part) {
            return false;
        }
        let (gaps, count, reason) = inner.details.remove(&(recording, finished.part)).unwrap_or_default();
        let mut entry = inner.entry(Kind::Finished);
        entry.recording = Some(recording);
        entry.part = later(finished.part);
        entry.outcome = Some(match finished.state {
            RecordingState::Complete => Outcome::Complete,
            RecordingState::Recovered => Outcome::Recovered,
            RecordingState::Partial => Outcome::Partial,
        });
        entry.cause = match finished.state {
            RecordingState::Complete => None,
            RecordingState::Recovered => Some(reason.unwrap_or_else(|| "the node died during the call".to_owned())),
            RecordingState::Partial => Some(reason.unwrap_or_else(|| "part of the call is missing".to_owned())),
        };
        entry.duration_ms = Some(finished.duration_ms);
        entry.manifest = finished.manifest;
        entry.gaps = gaps;
        entry.gap_count = count;
        inner.write(entry);
        for invite in inner.book.feeding(recording) {
            inner.conclude(invite);
        }
        true
    }

    /// After a start, once every recording of earlier lives was told: nothing of those lives stays open on this node, which is
    /// `own`. What another node records stays open until that one tells. Returns how many INVITEs were open.
    pub fn settle(&self, cause: &str, own: &str) -> usize {
        let open = self.open_invites();
        self.settle_these(&open, cause, own);
        open.len()
    }

    /// The same for some INVITEs; those that have their outcome keep it.
    pub fn settle_these(&self, invites: &[Uuid], cause: &str, own: &str) {
        let mut inner = self.shared.lock();
        for invite in invites {
            if !inner.book.is_open(*invite) {
                continue;
            }
            if !inner.book.has_ended(*invite) {
                let mut entry = inner.entry(Kind::Ended);
                entry.invite = Some(*invite);
                entry.cause = Some(cause.to_owned());
                inner.write(entry);
            }
            for (recording, part) in inner.book.unfinished(*invite) {
                if inner.book.node(recording, part).is_some_and(|node| node != own) {
                    continue;
                }
                // It was asked for, and the spool knows nothing of it: it never began, or it is gone.
                let mut entry = inner.entry(Kind::Finished);
                entry.recording = Some(recording);
                entry.part = later(part);
                entry.outcome = Some(Outcome::Partial);
                entry.cause = Some(format!("{cause}; the spool has nothing of it"));
                entry.duration_ms = Some(0);
                inner.write(entry);
            }
            inner.conclude(*invite);
        }
    }

    /// What should have an outcome and has none.
    pub fn overdue(&self, max_call: Duration) -> Vec<Overdue> {
        let inner = self.shared.lock();
        inner.book.overdue(Timestamp::from(SystemTime::now()), max_call, GRACE)
    }

    /// INVITEs without an outcome at the moment, lines that the disk has not taken, and contradictions since the start.
    pub fn health(&self) -> (usize, usize, u64) {
        let inner = self.shared.lock();
        let lost = inner.failed + inner.book.overflow;
        (inner.book.count(), inner.waiting.len(), inner.book.contradictions + lost)
    }

    /// The folder.
    pub fn folder(&self) -> PathBuf {
        self.shared.lock().folder.clone()
    }

    /// The key of the hashes of Call-IDs.
    pub fn call_key(&self) -> [u8; 32] {
        self.shared.lock().call_key
    }

    /// Writes what waits and syncs it: all that was told before is on the disk afterwards, if the disk takes it.
    pub fn sync(&self) {
        self.shared.sync();
    }
}

impl Inner {
    fn entry(&self, kind: Kind) -> Entry {
        Entry::new(kind, Timestamp::from(SystemTime::now()))
    }

    /// Writes the outcome of an INVITE that waits for nothing any more.
    fn conclude(&mut self, invite: Uuid) {
        let at = Timestamp::from(SystemTime::now());
        if let Some(entry) = self.book.outcome(invite, at) {
            self.write(entry);
        }
    }

    fn write(&mut self, mut entry: Entry) {
        self.seq += 1;
        entry.seq = self.seq;
        entry.previous = self.previous;
        let day = entry.at.to_string().get(..10).unwrap_or("unknown").to_owned();
        self.book.take(&entry);
        if entry.kind == Kind::Outcome {
            (self.on_outcome)(&entry);
        }
        let Some(mut line) = entry.line(&self.key) else {
            self.failed += 1;
            return;
        };
        self.previous = Some(Digest::of(&line));
        line.push(b'\n');
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.failed += 1;
        }
        self.waiting.push_back((day, line));
        self.flush();
    }

    /// Writes what waits.
    fn flush(&mut self) {
        while let Some((day, line)) = self.waiting.front() {
            if let Err(error) = self.files.append(&self.folder, day, line) {
                tracing::error!(%error, waiting = self.waiting.len(), "the disk refuses the ledger; its lines wait in memory");
                break;
            }
            self.waiting.pop_front();
        }
    }
}

/// The file of the day, and what the disk does not have yet.
#[derive(Default)]
struct Files {
    today: Option<(String, Arc<File>)>,
    /// Files with lines that are not synced, and the folder while it has a new one: two or three.
    unsynced: Vec<Arc<File>>,
}

impl Files {
    /// Appends a line; what was written of it in part is taken back.
    fn append(&mut self, folder: &Path, day: &str, line: &[u8]) -> io::Result<()> {
        let file = match &self.today {
            Some((of, file)) if of == day => Arc::clone(file),
            Some(_) | None => {
                let path = folder.join(format!("{day}.jsonl"));
                let file = Arc::new(OpenOptions::new().append(true).create(true).mode(0o600).open(path)?);
                // The name of a new file is on the disk when its folder is.
                self.note(Arc::new(File::open(folder)?));
                self.today = Some((day.to_owned(), Arc::clone(&file)));
                file
            }
        };
        let before = file.metadata()?.len();
        (&*file).write_all(line).inspect_err(|_| {
            let _ = file.set_len(before);
        })?;
        self.note(file);
        Ok(())
    }

    fn note(&mut self, file: Arc<File>) {
        if !self.unsynced.iter().any(|have| Arc::ptr_eq(have, &file)) {
            self.unsynced.push(file);
        }
    }
}

/// The file's whole lines; what a crash left of a last one is cut off.
fn cut_torn_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        tracing::warn!(file = %path.display(), bytes = text.len() - whole, "the ledger's last line was cut off by a crash");
        text.truncate(whole);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        file.sync_all()?;
    }
    Ok(text)
}

fn keep_synced(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.sync();
        drop(shared);
        std::thread::sleep(SYNC);
    }
}

#[cfg(test)]
mod tests;
