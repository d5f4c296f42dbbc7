//! The registrar of this node: users from their file, bindings that outlive the process.
//!
//! ```text
//! Registrar --changes--> queue (bounded, never waits) --> thread --> data_dir/registrar/bindings.jsonl
//! ```
//!
//! The file is a journal of JSON lines, `{"set":{...}}` and `{"remove":{...}}`; the last line about a binding counts. It
//! reaches the disk (fsync) within a second. When it has grown to several times of what it is about, the thread writes it
//! anew beside and renames: signalling takes no part. A line that cannot be read, as the last one after a crash, is left
//! out and blocks nothing.
//!
//! When changes were lost, because the queue was full or the disk failed, the registrar hands out all of its bindings
//! piece by piece between a `Begin` and an `End`, with the changes of that time in their order; the thread writes them to
//! a new file and renames it at the `End`.
//!
//! | file | |
//! | --- | --- |
//! | `bindings.jsonl` | the journal, mode 0600 |
//! | `bindings.jsonl.new` | one being written; whatever is in it at start is of no use |

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use ferric_proxy::{Contact, Location};
use ferric_registrar::{Change, Counters, Registrar, RegistrarConfig, Saved, SavedKey, Users};
use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;
use serde::{Deserialize, Serialize};

use crate::config;

pub(super) mod shared;

/// Changes that may wait for the disk.
const QUEUE: usize = 65_536;
/// Bindings handed out in one go when all are written anew, and the pause between.
const PIECE: usize = 500;
const PAUSE: Duration = Duration::from_millis(20);
/// After a failure the next attempt waits.
const RETRY: Duration = Duration::from_secs(5);
/// Changes are gathered for this long before they are written: one wake-up and one fsync for all of them.
const GATHER: Duration = Duration::from_millis(500);
/// The journal is written anew when it is longer than this and than [`GROWTH`] times its length when it was new.
const SMALL: u64 = 4 << 20;
const GROWTH: u64 = 4;

/// The core's settings.
pub(super) fn settings(config: &config::Registrar) -> RegistrarConfig {
    let mut settings = RegistrarConfig::new(config.domains.iter().cloned());
    settings.max_expires = config.max_expires;
    settings.min_expires = config.min_expires;
    settings.default_expires = config.default_expires;
    settings.max_contacts = config.max_contacts;
    settings.max_bindings = config.max_bindings;
    settings.max_changes = QUEUE;
    settings
}

/// A registrar whose bindings are kept on disk.
#[derive(Debug)]
pub(super) struct NodeRegistrar {
    core: Registrar,
    journal: Journal,
    /// Changes that other nodes are to hear; `None`: there are none.
    outbox: Option<Vec<Change>>,
}

impl NodeRegistrar {
    /// A registrar with the bindings that `folder` holds; their number.
    ///
    /// # Errors
    /// When the folder or the journal cannot be had.
    pub(super) fn open(
        settings: RegistrarConfig,
        users: Option<Users>,
        folder: &Path,
        now: Instant,
    ) -> io::Result<(NodeRegistrar, usize)> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let file = folder.join("bindings.jsonl");
        let mut core = Registrar::new(settings, users, &rand::random());
        let unix_s = unix_s();
        let (saved, broken) = read(&file, unix_s)?;
        let known = saved.len();
        let restored = saved.into_iter().filter(|saved| core.restore(now, unix_s, saved.clone())).count();
        if broken > 0 {
            tracing::warn!(file = %file.display(), lines = broken, "registrations: lines that cannot be read are left out");
        }
        if restored < known {
            tracing::info!(
                restored,
                dropped = known - restored,
                "registrations: those whose connection or user is gone are dropped"
            );
        }
        let journal = Journal::start(file)?;
        Ok((NodeRegistrar { core, journal, outbox: None }, restored))
    }

    /// Takes over another configuration and other users.
    pub(super) fn apply(&mut self, settings: RegistrarConfig, users: Option<Users>) {
        self.core.apply(settings, users);
        // Each node reads its own file of users.
        self.take(false);
    }

    /// From now on changes are for other nodes, too.
    fn share(&mut self) {
        self.outbox.get_or_insert_default();
    }

    /// Changes that other nodes are to hear.
    pub(super) fn take_outbox(&mut self) -> Vec<Change> {
        self.outbox.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Other nodes are to hear of a binding as it is.
    fn tell(&mut self, saved: Saved) {
        self.post(Change::Set(Box::new(saved)));
    }

    fn post(&mut self, change: Change) {
        let Some(outbox) = &mut self.outbox else { return };
        if outbox.len() >= QUEUE {
            *outbox = vec![Change::Lost];
        }
        outbox.push(change);
    }

    /// Passes on what changed; `is_own`: it happened here.
    fn take(&mut self, is_own: bool) {
        while let Some(change) = self.core.poll_change() {
            if is_own && self.outbox.is_some() {
                self.post(change.clone());
            }
            self.journal.keep(change);
        }
        self.journal.look();
    }

    /// Bindings of one user, or of all from a place on and the place to go on from.
    pub(super) fn list(&self, now: Instant, aor: Option<&str>, from: u32, most: usize) -> (Vec<Saved>, Option<u32>) {
        match aor {
            Some(aor) => (self.core.bindings(now, unix_s(), aor), None),
            None => self.core.export(now, unix_s(), from, most),
        }
    }

    /// Bindings.
    pub(super) fn len(&self) -> usize {
        self.core.len()
    }

    /// What happened since the start.
    pub(super) fn counters(&self) -> Counters {
        self.core.counters()
    }
}

impl Location for NodeRegistrar {
    fn register(&mut self, now: Instant, unix_s: u64, request: &Message, flow: &Flow) -> Message {
        let response = self.core.register(now, unix_s, request, flow);
        self.take(true);
        response
    }

    fn challenge(&mut self, unix_s: u64, request: &Message, flow: &Flow) -> Option<Reject> {
        self.core.challenge(unix_s, request, flow)
    }

    fn lookup(&self, now: Instant, aor: &Uri) -> Option<Vec<Contact>> {
        self.core.lookup(now, aor)
    }

    fn authenticate(&mut self, now: Instant, unix_s: u64, request: &Message, flow: &Flow) -> Option<Message> {
        self.core.authenticate(now, unix_s, request, flow)
    }

    fn flow_failed(&mut self, now: Instant, flow: &Flow) {
        self.core.flow_failed(now, flow);
        self.take(true);
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        [self.core.poll_timeout(), self.journal.due].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.core.handle_timeout(now);
        self.take(true);
        self.journal.handle_timeout(now, &self.core);
    }
}

/// What goes to the thread.
#[derive(Debug)]
enum Entry {
    Line(Line),
    /// All bindings follow.
    Begin,
    /// These were all.
    End,
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Set(Box<Saved>),
    Remove(SavedKey),
}

/// What waits for the thread. It is woken for the first entry only, and takes all that came until then.
#[derive(Debug)]
struct Queue {
    room: usize,
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    closed: bool,
}

impl Queue {
    fn new(room: usize) -> Queue {
        Queue { room, waiting: Mutex::default(), wake: Condvar::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when it is full.
    fn push(&self, entry: Entry) -> bool {
        let mut waiting = self.waiting();
        if waiting.entries.len() >= self.room {
            return false;
        }
        waiting.entries.push(entry);
        if waiting.entries.len() == 1 {
            self.wake.notify_one();
        }
        true
    }

    fn close(&self) {
        self.waiting().closed = true;
        self.wake.notify_one();
    }

    /// Waits for entries and gathers more; whether these are the last.
    fn take(&self) -> (Vec<Entry>, bool) {
        let idle = |waiting: &mut Waiting| waiting.entries.is_empty() && !waiting.closed;
        let waiting = self.wake.wait_while(self.waiting(), idle).unwrap_or_else(PoisonError::into_inner);
        let gathers = |waiting: &mut Waiting| !waiting.closed;
        let (mut waiting, _) =
            self.wake.wait_timeout_while(waiting, GATHER, gathers).unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut waiting.entries), waiting.closed)
    }
}

/// The signalling side of the journal.
#[derive(Debug)]
struct Journal {
    queue: Option<Arc<Queue>>,
    thread: Option<JoinHandle<()>>,
    /// The thread could not write: the file lacks something.
    failed: Arc<AtomicBool>,
    /// Where handing out all bindings goes on.
    from: Option<u32>,
    /// When it does, or begins.
    due: Option<Instant>,
}

impl Journal {
    fn start(file: PathBuf) -> io::Result<Journal> {
        let queue = Arc::new(Queue::new(QUEUE));
        let entries = Arc::clone(&queue);
        let failed = Arc::new(AtomicBool::new(false));
        let mut writer = Writer::open(file)?;
        let flag = Arc::clone(&failed);
        let thread = std::thread::Builder::new()
            .name("registrations".to_owned())
            .spawn(move || run(&mut writer, &entries, &flag))?;
        Ok(Journal { queue: Some(queue), thread: Some(thread), failed, from: None, due: None })
    }

    /// Passes a change on.
    fn keep(&mut self, change: Change) {
        // All bindings are to be written soon: what changes until then is among them.
        if self.due.is_some() && self.from.is_none() {
            return;
        }
        match change {
            Change::Set(saved) => {
                self.send(Entry::Line(Line::Set(saved)));
            }
            Change::Remove(key) | Change::Expired(key) => {
                self.send(Entry::Line(Line::Remove(key)));
            }
            Change::Lost => self.give_up(),
        }
    }

    /// Whether the thread could write.
    fn look(&mut self) {
        if self.failed.swap(false, Ordering::Relaxed) {
            self.give_up();
        }
    }

    /// False when the queue was full.
    fn send(&mut self, entry: Entry) -> bool {
        let Some(queue) = &self.queue else { return false };
        if queue.push(entry) {
            return true;
        }
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            tracing::error!("registrations: the thread that keeps them is gone; a restart will know only older ones");
            (self.queue, self.from, self.due) = (None, None, None);
        } else {
            self.give_up();
        }
        false
    }

    /// Something is missing in the file: all is written anew, a little later.
    fn give_up(&mut self) {
        if self.queue.is_some() {
            (self.from, self.due) = (None, Some(Instant::now() + RETRY));
        }
    }

    fn handle_timeout(&mut self, now: Instant, core: &Registrar) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        if self.from.is_none() && !self.send(Entry::Begin) {
            return;
        }
        let from = *self.from.get_or_insert(0);
        let (piece, next) = core.export(now, unix_s(), from, PIECE);
        for saved in piece {
            if !self.send(Entry::Line(Line::Set(Box::new(saved)))) {
                return;
            }
        }
        match next {
            Some(next) => (self.from, self.due) = (Some(next), Some(now + PAUSE)),
            None if self.send(Entry::End) => (self.from, self.due) = (None, None),
            None => {}
        }
    }
}

impl Drop for Journal {
    /// What waits is written before the process goes on to end.
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.close();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(writer: &mut Writer, queue: &Queue, failed: &AtomicBool) {
    let mut was_failing = false;
    loop {
        let (entries, is_last) = queue.take();
        let mut done = Ok(());
        for entry in entries {
            // One that cannot be written keeps none of the others away.
            done = done.and(writer.handle(entry));
        }
        match done.and(writer.sync()) {
            Ok(()) if was_failing => {
                was_failing = false;
                tracing::info!("registrations: written again");
            }
            Ok(()) => {}
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                if !was_failing {
                    tracing::error!(%error, "registrations: not written; calls and registrations go on");
                }
                was_failing = true;
            }
        }
        if is_last {
            return;
        }
    }
}

/// The thread's side of the journal.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    length: u64,
    /// When it was new.
    base: u64,
    /// All bindings are being written.
    anew: Option<BufWriter<File>>,
    /// The last line may be half there.
    broken: bool,
}

impl Writer {
    fn open(path: PathBuf) -> io::Result<Writer> {
        let file = append(&path)?;
        let length = file.metadata()?.len();
        // A line may have been cut by a crash: the next one must not continue it.
        let mut writer = Writer { path, file: BufWriter::new(file), length, base: 0, anew: None, broken: true };
        if let Err(error) = writer.compact() {
            tracing::warn!(%error, "registrations: the journal is not written anew");
        }
        Ok(writer)
    }

    fn handle(&mut self, entry: Entry) -> io::Result<()> {
        match entry {
            Entry::Line(line) => {
                let mut text = serde_json::to_vec(&line)?;
                text.push(b'\n');
                match &mut self.anew {
                    Some(anew) => anew.write_all(&text),
                    None => self.append(&text),
                }
            }
            Entry::Begin => {
                self.anew = Some(BufWriter::new(create(&self.new_path())?));
                Ok(())
            }
            Entry::End => match self.anew.take() {
                Some(anew) => self.replace(anew),
                // It could not be begun.
                None => Err(io::Error::other("the new journal is missing")),
            },
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if std::mem::replace(&mut self.broken, true) {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(text)?;
        self.length += text.len() as u64;
        self.broken = false;
        Ok(())
    }

    /// To the disk; a journal that has grown too long is written anew.
    fn sync(&mut self) -> io::Result<()> {
        if let Some(anew) = &mut self.anew {
            return anew.flush();
        }
        if let Err(error) = self.file.flush().and_then(|()| self.file.get_ref().sync_data()) {
            // What the buffer holds is written once more otherwise, behind half of itself.
            self.file = BufWriter::new(append(&self.path)?);
            self.broken = true;
            return Err(error);
        }
        if self.length > SMALL.max(GROWTH * self.base) { self.compact() } else { Ok(()) }
    }

    /// Writes what the file says, and nothing twice, to a new one.
    fn compact(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let (saved, _) = read(&self.path, unix_s())?;
        let mut anew = BufWriter::new(create(&self.new_path())?);
        for saved in saved {
            serde_json::to_writer(&mut anew, &Line::Set(Box::new(saved)))?;
            anew.write_all(b"\n")?;
        }
        self.replace(anew)
    }

    fn replace(&mut self, mut anew: BufWriter<File>) -> io::Result<()> {
        anew.flush()?;
        anew.get_ref().sync_all()?;
        let length = anew.get_ref().metadata()?.len();
        std::fs::rename(self.new_path(), &self.path)?;
        // From here on this is the journal, whatever else fails: a line written to the old one would be lost.
        (self.length, self.base, self.file, self.broken) = (length, length, anew, false);
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn new_path(&self) -> PathBuf {
        self.path.with_extension("jsonl.new")
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => append(path),
    }
}

/// The bindings of a journal that are not over, the oldest first, and how many lines cannot be read.
fn read(path: &Path, unix_s: u64) -> io::Result<(Vec<Saved>, usize)> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(error),
    };
    let mut found: HashMap<SavedKey, Saved> = HashMap::new();
    let mut broken = 0;
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Set(saved)) => {
                found.insert(saved.key(), *saved);
            }
            Ok(Line::Remove(key)) => {
                found.remove(&key);
            }
            Err(_) => broken += 1,
        }
    }
    let mut saved: Vec<Saved> = found.into_values().filter(|saved| saved.expires > unix_s).collect();
    saved.sort_by_key(|saved| saved.order);
    Ok((saved, broken))
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests;
