//! The log of finished requests: one line each, for `ferric replay` and for whoever asks what became of a call.
//!
//! ```text
//! signalling -> queue (bounded, drops rather than waits) -> thread -> requests.jsonl -> requests.jsonl.1 -> ... .4
//! ```
//!
//! Nobody is woken for a line: the thread looks twice a second. A wake-up for each costs signalling more than the call.
//!
//! Lines hold numbers of people: files are 0600, a file is at most [`MOST_BYTES`] long, and [`KEPT`] old ones are kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ferric_sight::RequestDone;

/// Lines that may wait for the disk.
const QUEUE: usize = 32_768;
/// A file is followed by the next one at this size.
const MOST_BYTES: u64 = 64 << 20;
/// Old files kept.
const KEPT: usize = 4;
/// What is noted reaches the file after this at the latest.
const FLUSH: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Vec<RequestDone>>,
    dropped: AtomicU64,
    closed: AtomicBool,
}

/// A handle to the log; clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct RequestLog {
    queue: Arc<Queue>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl RequestLog {
    /// Opens `file`, whose folder is made.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(super) fn open(file: &Path) -> io::Result<RequestLog> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let writer = Writer::open(file.to_owned())?;
        let queue = Arc::new(Queue::default());
        let taken = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("request-log".to_owned()).spawn(move || run(writer, &taken))?;
        Ok(RequestLog { queue, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Writes what waits and ends the thread; what is noted later is lost.
    pub(super) fn close(&self) {
        self.queue.closed.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }

    /// Notes a request; never waits for the disk.
    pub(super) fn note(&self, done: RequestDone) {
        let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < QUEUE {
            waiting.push(done);
        } else {
            self.queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that found the queue full, or the disk.
    pub(super) fn dropped(&self) -> u64 {
        self.queue.dropped.load(Ordering::Relaxed)
    }
}

fn run(mut writer: Writer, queue: &Queue) {
    loop {
        std::thread::park_timeout(FLUSH);
        // Looked at before the queue is emptied: what was noted before is still written.
        let is_last = queue.closed.load(Ordering::Acquire);
        let waiting = std::mem::take(&mut *queue.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let count = waiting.len() as u64;
        let written =
            waiting.iter().try_for_each(|done| writer.write(done.to_line().as_bytes())).and_then(|()| writer.flush());
        if let Err(error) = written {
            queue.dropped.fetch_add(count, Ordering::Relaxed);
            tracing::debug!(%error, "lines of the request log are lost");
        }
        if is_last {
            return;
        }
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: File,
    length: u64,
    waiting: Vec<u8>,
}

impl Writer {
    fn open(path: PathBuf) -> io::Result<Writer> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Writer { path, file, length, waiting: Vec::new() })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(line);
        self.waiting.push(b'\n');
        if self.waiting.len() >= 64 << 10 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        if let Err(error) = self.file.write_all(&waiting) {
            // What reached the file may have no end: the next line begins anew.
            self.waiting.push(b'\n');
            return Err(error);
        }
        self.length += waiting.len() as u64;
        if self.length >= MOST_BYTES {
            // One that cannot be begun is tried again after as much as it would hold; lines go where they went.
            self.length = 0;
            self.turn()?;
        }
        Ok(())
    }

    /// Begins a new file; the oldest goes.
    fn turn(&mut self) -> io::Result<()> {
        let old = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        // Somebody else may have moved the file away: then there is nothing to shift.
        if self.path.exists() {
            for number in (1..KEPT).rev() {
                let _ = std::fs::rename(old(number), old(number + 1));
            }
            std::fs::rename(&self.path, old(1))?;
        }
        *self = Writer::open(self.path.clone())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_follow_one_another_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        let mut writer = Writer::open(path.clone()).unwrap();
        for turn in 0..KEPT + 2 {
            writer.write(format!("{turn}").as_bytes()).unwrap();
            writer.flush().unwrap();
            writer.turn().unwrap();
        }
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected: Vec<String> = std::iter::once("requests.jsonl".to_owned())
            .chain((1..=KEPT).map(|n| format!("requests.jsonl.{n}")))
            .collect();
        assert_eq!(names, expected);
        assert_eq!(std::fs::read_to_string(folder.path().join("requests.jsonl.1")).unwrap(), format!("{}\n", KEPT + 1));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
