//! The writing side: one file a day, one line at a time.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
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
        source: std::io::Error,
    },
}

/// How a recording ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// As its manifest says.
    pub state: RecordingState,
    /// Length of the audio.
    pub duration_ms: u64,
    /// SHA-256 of its manifest.
    pub manifest: Option<Digest>,
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
    details: std::collections::HashMap<Uuid, (Vec<GapEntry>, u64, Option<String>)>,
    file: Option<(String, File)>,
    seq: u64,
    previous: Option<Digest>,
    waiting: VecDeque<(String, Vec<u8>)>,
    dirty: bool,
    failed: u64,
}

/// The ledger of a node; clones share it.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
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
            file: None,
            seq,
            previous,
            waiting: VecDeque::new(),
            dirty: false,
            failed: 0,
        };
        let inner = Arc::new(Mutex::new(inner));
        let weak = Arc::downgrade(&inner);
        std::thread::Builder::new().name("ledger".into()).spawn(move || sync(&weak)).map_err(io(folder))?;
        Ok(Ledger { inner })
    }

    /// An INVITE came.
    pub fn received(&self, invite: Uuid, tenant: &str, call_id: &str, source: &str) {
        let mut inner = lock(&self.inner);
        let mut entry = inner.entry(Kind::Received);
        entry.invite = Some(invite);
        entry.tenant = Some(tenant.to_owned());
        entry.call = Some(call_hash(&inner.call_key, call_id));
        entry.source = Some(source.to_owned());
        inner.write(entry);
    }

    /// It goes into a recording.
    pub fn recorded_by(&self, invite: Uuid, recording: Uuid) {
        let mut inner = lock(&self.inner);
        let mut entry = inner.entry(Kind::Recording);
        entry.invite = Some(invite);
        entry.recording = Some(recording);
        inner.write(entry);
    }

    /// It was refused.
    pub fn refused(&self, invite: Uuid, status: u16, cause: &str) {
        let mut inner = lock(&self.inner);
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
        let mut inner = lock(&self.inner);
        if !inner.book.is_open(invite) || inner.book.has_ended(invite) {
            return;
        }
        let mut entry = inner.entry(Kind::Ended);
        entry.invite = Some(invite);
        entry.cause = Some(cause.to_owned());
        inner.write(entry);
        inner.conclude(invite);
    }

    /// Where audio of a recording is missing, and why it ended; told before [`Ledger::finished`].
    pub fn details(&self, recording: Uuid, gaps: Vec<GapEntry>, reason: Option<String>) {
        let mut inner = lock(&self.inner);
        let count = gaps.len() as u64;
        if inner.book.waits_for(recording) {
            inner.details.insert(recording, (gaps.into_iter().take(MAX_GAPS).collect(), count, reason));
        }
    }

    /// A recording's manifest is on disk. Told again, it changes nothing.
    pub fn finished(&self, recording: Uuid, finished: &Finished) {
        let mut inner = lock(&self.inner);
        if !inner.book.waits_for(recording) {
            return;
        }
        let (gaps, count, reason) = inner.details.remove(&recording).unwrap_or_default();
        let mut entry = inner.entry(Kind::Finished);
        entry.recording = Some(recording);
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
    }

    /// After a start, once every recording of earlier lives was told: nothing of those lives stays open.
    /// Returns how many outcomes were written.
    pub fn settle(&self, cause: &str) -> usize {
        let mut inner = lock(&self.inner);
        let open = inner.book.all_open();
        for invite in &open {
            if !inner.book.has_ended(*invite) {
                let mut entry = inner.entry(Kind::Ended);
                entry.invite = Some(*invite);
                entry.cause = Some(cause.to_owned());
                inner.write(entry);
            }
            for recording in inner.book.unfinished(*invite) {
                // It was asked for, and the spool knows nothing of it: it never began, or it is gone.
                let mut entry = inner.entry(Kind::Finished);
                entry.recording = Some(recording);
                entry.outcome = Some(Outcome::Partial);
                entry.cause = Some(format!("{cause}; the spool has nothing of it"));
                entry.duration_ms = Some(0);
                inner.write(entry);
            }
            inner.conclude(*invite);
        }
        open.len()
    }

    /// What should have an outcome and has none.
    pub fn overdue(&self, max_call: Duration) -> Vec<Overdue> {
        let inner = lock(&self.inner);
        inner.book.overdue(Timestamp::from(SystemTime::now()), max_call, GRACE)
    }

    /// INVITEs without an outcome at the moment, lines that the disk has not taken, and contradictions since the start.
    pub fn health(&self) -> (usize, usize, u64) {
        let inner = lock(&self.inner);
        let lost = inner.failed + inner.book.overflow;
        (inner.book.count(), inner.waiting.len(), inner.book.contradictions + lost)
    }

    /// The folder.
    pub fn folder(&self) -> PathBuf {
        lock(&self.inner).folder.clone()
    }

    /// The key of the hashes of Call-IDs.
    pub fn call_key(&self) -> [u8; 32] {
        lock(&self.inner).call_key
    }

    /// Writes what waits and syncs it.
    pub fn sync(&self) {
        lock(&self.inner).flush(true);
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
        self.flush(false);
    }

    fn flush(&mut self, sync: bool) {
        while let Some((day, line)) = self.waiting.front() {
            match append(&self.folder, &mut self.file, day, line) {
                Ok(()) => {
                    self.dirty = true;
                    self.waiting.pop_front();
                }
                Err(error) => {
                    tracing::error!(%error, waiting = self.waiting.len(), "the disk refuses the ledger; its lines wait in memory");
                    break;
                }
            }
        }
        if sync
            && std::mem::take(&mut self.dirty)
            && let Some((_, file)) = &self.file
            && let Err(error) = file.sync_data()
        {
            tracing::error!(%error, "the ledger cannot be synced");
        }
    }
}

/// Appends a line; what was written of it in part is taken back.
fn append(folder: &Path, file: &mut Option<(String, File)>, day: &str, line: &[u8]) -> std::io::Result<()> {
    if file.as_ref().is_none_or(|(of, _)| of != day) {
        if let Some((_, old)) = file.take() {
            old.sync_data()?;
        }
        let path = folder.join(format!("{day}.jsonl"));
        *file = Some((day.to_owned(), OpenOptions::new().append(true).create(true).mode(0o600).open(path)?));
    }
    let Some((_, file)) = file else { return Ok(()) };
    let before = file.metadata()?.len();
    file.write_all(line).inspect_err(|_| {
        let _ = file.set_len(before);
    })
}

/// The file's whole lines; what a crash left of a last one is cut off.
fn cut_torn_end(path: &Path) -> std::io::Result<Vec<u8>> {
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

fn sync(inner: &Weak<Mutex<Inner>>) {
    while let Some(inner) = inner.upgrade() {
        lock(&inner).flush(true);
        drop(inner);
        std::thread::sleep(SYNC);
    }
}
