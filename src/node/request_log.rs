//! The log of finished requests: one line each, for `ferric replay` and for whoever asks what became of a call.
//!
//! ```text
//! signalling -> queue (bounded, drops rather than waits) -> thread -> requests.jsonl -> requests.jsonl.1 -> ... .4
//! ```
//!
//! Lines hold numbers of people: files are 0600, a file is at most [`MOST_BYTES`] long, and [`KEPT`] old ones are kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ferric_sight::RequestDone;

/// Lines that may wait for the disk.
const QUEUE: usize = 8_192;
/// A file is followed by the next one at this size.
const MOST_BYTES: u64 = 64 << 20;
/// Old files kept.
const KEPT: usize = 4;
/// What is written reaches the file after this at the latest.
const FLUSH: Duration = Duration::from_millis(500);

/// A handle to the log; clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct RequestLog {
    queue: SyncSender<RequestDone>,
    dropped: Arc<AtomicU64>,
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
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new().name("request-log".to_owned()).spawn(move || run(writer, &lines, &lost))?;
        Ok(RequestLog { queue, dropped })
    }

    /// Notes a request; never waits.
    pub(super) fn note(&self, done: RequestDone) {
        if self.queue.try_send(done).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that found the queue full, or the disk.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn run(mut writer: Writer, lines: &Receiver<RequestDone>, dropped: &AtomicU64) {
    loop {
        let done = match lines.recv_timeout(FLUSH) {
            Ok(done) => Some(done),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let written = match done {
            Some(done) => writer.write(done.to_line().as_bytes()),
            None => writer.flush(),
        };
        if let Err(error) = written {
            dropped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "a line of the request log is lost");
        }
    }
    let _ = writer.flush();
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
        self.length += waiting.len() as u64;
        self.file.write_all(&waiting)?;
        if self.length >= MOST_BYTES {
            self.turn()?;
        }
        Ok(())
    }

    /// Begins a new file; the oldest goes.
    fn turn(&mut self) -> io::Result<()> {
        let old = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..KEPT).rev() {
            let _ = std::fs::rename(old(number), old(number + 1));
        }
        std::fs::rename(&self.path, old(1))?;
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
        let mut names: Vec<String> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let expected: Vec<String> =
            std::iter::once("requests.jsonl".to_owned()).chain((1..=KEPT).map(|n| format!("requests.jsonl.{n}"))).collect();
        assert_eq!(names, expected);
        assert_eq!(std::fs::read_to_string(folder.path().join("requests.jsonl.1")).unwrap(), format!("{}\n", KEPT + 1));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
