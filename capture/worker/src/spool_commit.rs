//! Makes finished recordings ready for the store: the rest of the files, the manifest, the chain, one `rename`.
//!
//! [`Committer`] does it for a batch at a time: two syncs of the file system
//! serve all of them (see [`crate::spool_chain`] for the order and why).
//! [`Finisher`] is the thread that owns the committer: capture threads hand it
//! finished recordings and go on; what cannot be committed (the disk is full)
//! is kept and tried again until it can, or until the next start finishes it
//! from what lies on disk.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use sha2::{Digest as _, Sha256};

use ferric_media::eopus::{Framer, Position};
use ferric_media::keys::NodeKey;
use ferric_media::manifest::{AudioEntry, Digest, Manifest, MetadataEntry, SignedManifest};
use ferric_media::part::Part;

use crate::mirror::twin::{Outcome, Twin};
use crate::spool::{AUDIO, INDEX, MANIFEST, METADATA, Spool, SpoolError, Stage, at, create, folder_bytes, write_whole};
use crate::spool_chain::store_head;
use crate::spool_writer::FinishedRecording;

/// Recordings committed together at most.
const BATCH: usize = 64;
/// Pause before recordings that could not be committed are tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Recordings that may wait for a disk that refuses them; more are left to the next start.
const WAITING: usize = 16_384;

/// A step of a commit; a crash model stops after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Filled,
    Manifest,
    FirstSync,
    Moved,
    Head,
    SecondSync,
}

/// Signs and moves on finished recordings. One per spool.
#[derive(Debug)]
pub struct Committer {
    spool: Spool,
    key: Arc<NodeKey>,
    head: Option<Digest>,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct BatchResult {
    /// Ready for the store, with their manifests.
    pub ready: Vec<SignedManifest>,
    /// Held back for their twins.
    pub held: Vec<Part>,
    /// To be tried again, with the reason.
    pub failed: Vec<(FinishedRecording, SpoolError)>,
}

/// Measures of a sealed file on disk, as far as they show without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Where it is whole, in bytes and segments.
    pub position: Position,
    /// SHA-256 of the whole part.
    pub sha256: Digest,
    /// Whether something beyond the whole part cannot belong to such a file.
    pub damaged: bool,
}

impl Committer {
    pub(crate) fn new(spool: Spool, key: Arc<NodeKey>, head: Option<Digest>) -> Committer {
        Committer { spool, key, head }
    }

    /// SHA-256 of the node's last manifest.
    pub fn head(&self) -> Option<Digest> {
        self.head
    }

    /// The spool it works on.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Commits a batch; each recording succeeds or fails by itself, except that a failing disk fails all.
    pub fn commit(&mut self, batch: Vec<FinishedRecording>) -> BatchResult {
        self.commit_with(batch, &mut |_| Ok(()))
    }

    pub(crate) fn commit_with(
        &mut self,
        batch: Vec<FinishedRecording>,
        after: &mut dyn FnMut(Step) -> Result<(), SpoolError>,
    ) -> BatchResult {
        let spool = self.spool.clone();
        let _one_at_a_time = spool.chain_guard();
        let mut result = BatchResult::default();
        let mut signed = Vec::new();
        let mut head = self.head;
        for mut finished in batch {
            if let Some(manifest) = finished.signed.clone() {
                signed.push((finished, manifest));
                continue;
            }
            if finished.hold {
                match self.hold(&mut finished) {
                    Ok(()) => result.held.push(finished.start.part),
                    Err(error) => result.failed.push((finished, error)),
                }
                continue;
            }
            let manifest = fill(&mut finished).and_then(|(audio, metadata)| {
                after(Step::Filled)?;
                let manifest = self.sign(&finished, audio, metadata, head)?;
                write_whole(&finished.folder.join(MANIFEST), manifest.as_bytes())?;
                after(Step::Manifest)?;
                Ok(manifest)
            });
            match manifest {
                Ok(manifest) => {
                    head = Some(manifest.digest());
                    signed.push((finished, manifest));
                }
                Err(error) => result.failed.push((finished, error)),
            }
        }
        if signed.is_empty() {
            return result;
        }
        if let Err(error) = self.stand(head, after) {
            // The chain did not move: the manifests are made anew at the next try.
            let error = Arc::new(error);
            let failed = |finished| (finished, SpoolError::Batch(Arc::clone(&error)));
            result.failed.extend(signed.into_iter().map(|(finished, _)| failed(finished)));
            return result;
        }
        for (mut finished, manifest) in signed {
            let moved = self.move_on(&mut finished, Stage::Ready).and_then(|()| after(Step::Moved));
            finished.signed = Some(manifest.clone());
            match moved {
                Ok(()) => result.ready.push(manifest),
                Err(error) => result.failed.push((finished, error)),
            }
        }
        if let Err(error) = spool.sync().and_then(|()| after(Step::SecondSync)) {
            // They stand and have moved; what a power failure now could undo is only the move.
            tracing::error!(%error, "the spool's file system cannot be synced");
            spool.dirty().raise();
        }
        result
    }

    /// From here on the batch's manifests stand.
    fn stand(
        &mut self,
        head: Option<Digest>,
        after: &mut dyn FnMut(Step) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        let Some(new) = head.filter(|_| head != self.head) else { return Ok(()) };
        self.spool.sync()?;
        after(Step::FirstSync)?;
        store_head(&self.spool, new)?;
        self.head = head;
        after(Step::Head)
    }

    /// Writes what is left and puts the files where they wait for their twin: unsigned, so that the chain never names what
    /// may be dropped.
    fn hold(&self, finished: &mut FinishedRecording) -> Result<(), SpoolError> {
        fill(finished)?;
        if let Some(twin) = Twin::load(&finished.folder) {
            let outcome =
                Outcome { state: finished.state, started_at: finished.start.started_at, ended_at: finished.ended_at };
            Twin { outcome: Some(outcome), ..twin }.store(&finished.folder)?;
        }
        self.move_on(finished, Stage::Held)?;
        self.spool.dirty().raise();
        Ok(())
    }

    fn move_on(&self, finished: &mut FinishedRecording, stage: Stage) -> Result<(), SpoolError> {
        let bytes = folder_bytes(&finished.folder);
        let to = self.spool.folder(stage, finished.start.part.file);
        fs::rename(&finished.folder, &to).map_err(at("move", &finished.folder))?;
        self.spool.usage().add_bytes(bytes);
        self.spool.usage().remove_bytes(finished.counted);
        Ok(())
    }

    fn sign(
        &self,
        finished: &FinishedRecording,
        audio: AudioEntry,
        metadata: Option<MetadataEntry>,
        previous: Option<Digest>,
    ) -> Result<SignedManifest, SpoolError> {
        let manifest = Manifest {
            part: finished.start.part,
            tenant: finished.start.tenant.clone(),
            node: finished.start.node.clone(),
            state: finished.state,
            started_at: finished.start.started_at,
            ended_at: finished.ended_at,
            duration_ms: finished.duration_ms,
            audio,
            metadata,
            previous,
            key_id: self.key.public().id().clone(),
        };
        Ok(manifest.sign(&self.key)?)
    }
}

/// Writes what is left of a finished recording and measures its files.
fn fill(finished: &mut FinishedRecording) -> Result<(AudioEntry, Option<MetadataEntry>), SpoolError> {
    if let Some(pending) = &finished.pending {
        append_at(&finished.folder.join(INDEX), pending.index_from, pending.index.as_bytes())?;
        append_at(&finished.folder.join(AUDIO), pending.audio_from, &pending.audio)?;
        if let Some(metadata) = &pending.metadata {
            write_whole(&finished.folder.join(METADATA), metadata)?;
        }
        finished.pending = None;
    }
    let path = finished.folder.join(AUDIO);
    let length = fs::metadata(&path).map_err(at("read", &path))?.len();
    let audio = match finished.summary.filter(|summary| summary.bytes == length) {
        Some(summary) => AudioEntry { bytes: length, sha256: Digest(summary.sha256), segments: summary.segments },
        None => {
            let measured = measure(&path)?;
            AudioEntry {
                bytes: measured.position.whole_bytes,
                sha256: measured.sha256,
                segments: measured.position.segments,
            }
        }
    };
    let path = finished.folder.join(METADATA);
    let metadata = match fs::read(&path) {
        Ok(bytes) => Some(MetadataEntry { bytes: bytes.len() as u64, sha256: Digest::of(&bytes) }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(at("read", &path)(error)),
    };
    Ok((audio, metadata))
}

/// Makes a file end with `bytes` from byte `from` on, whatever an earlier try left there.
fn append_at(path: &Path, from: u64, bytes: &[u8]) -> Result<(), SpoolError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut file = create(path, true)?;
    file.set_len(from).and_then(|()| file.write_all(bytes)).map_err(at("append to", path))
}

/// Reads a sealed file through and tells how far it is whole.
///
/// # Errors
/// It cannot be read.
pub fn measure(path: &Path) -> Result<Measured, SpoolError> {
    let mut file = File::open(path).map_err(at("open", path))?;
    let mut framer = Framer::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut damaged = false;
    while !damaged {
        let read = file.read(&mut buffer).map_err(at("read", path))?;
        let mut input = buffer.get(..read).unwrap_or_default();
        if input.is_empty() {
            break;
        }
        loop {
            match framer.next(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    damaged = true;
                    break;
                }
            }
        }
    }
    let position = framer.position();
    // The whole part's hash is only known once its end is, so it is read again.
    file.seek(SeekFrom::Start(0)).map_err(at("read", path))?;
    let mut whole = file.take(position.whole_bytes);
    let mut hash = Sha256::new();
    loop {
        let read = whole.read(&mut buffer).map_err(at("read", path))?;
        if read == 0 {
            break;
        }
        hash.update(buffer.get(..read).unwrap_or_default());
    }
    Ok(Measured { position, sha256: Digest(hash.finalize().into()), damaged })
}

/// What the finisher thread did so far.
#[derive(Debug, Default)]
pub struct FinisherStats {
    /// Recordings made ready.
    pub ready: AtomicU64,
    /// Recordings that wait because the disk refused them.
    pub waiting: AtomicU64,
    /// Recordings left to the next start because too many waited.
    pub left: AtomicU64,
}

/// The thread that commits finished recordings. Dropping it commits what it has and ends.
#[derive(Debug)]
pub struct Finisher {
    sender: Option<Sender<FinishedRecording>>,
    thread: Option<JoinHandle<Committer>>,
    stats: Arc<FinisherStats>,
}

impl Finisher {
    /// Starts it. `ready` is told of each recording that waits for the store from now on; it must not block long.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        committer: Committer,
        ready: impl FnMut(&SignedManifest) + Send + 'static,
    ) -> std::io::Result<Finisher> {
        let (sender, receiver) = bounded(WAITING);
        let stats = Arc::new(FinisherStats::default());
        let thread = std::thread::Builder::new().name("spool-finish".to_owned()).spawn({
            let stats = Arc::clone(&stats);
            move || run(committer, &receiver, ready, &stats)
        })?;
        Ok(Finisher { sender: Some(sender), thread: Some(thread), stats })
    }

    /// Hands a finished recording over; never blocks.
    pub fn submit(&self, finished: FinishedRecording) {
        let Some(sender) = &self.sender else { return };
        if let Err(TrySendError::Full(finished) | TrySendError::Disconnected(finished)) = sender.try_send(finished) {
            self.stats.left.fetch_add(1, Ordering::Relaxed);
            tracing::error!(file = %finished.start.part.file, "too many finished recordings wait; the next start finishes this one");
        }
    }

    /// What it did so far.
    pub fn stats(&self) -> &FinisherStats {
        &self.stats
    }

    /// Commits what it has, ends, and gives the committer back.
    pub fn stop(mut self) -> Option<Committer> {
        self.sender = None;
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    mut committer: Committer,
    receiver: &Receiver<FinishedRecording>,
    mut ready: impl FnMut(&SignedManifest),
    stats: &FinisherStats,
) -> Committer {
    let mut waiting: Vec<FinishedRecording> = Vec::new();
    let mut retry_at = Instant::now();
    let mut open = true;
    while open {
        let mut batch = Vec::new();
        let pause = if waiting.is_empty() {
            Duration::from_secs(3600)
        } else {
            retry_at.saturating_duration_since(Instant::now())
        };
        match receiver.recv_timeout(pause) {
            Ok(finished) => batch.push(finished),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => open = false,
        }
        if !open || Instant::now() >= retry_at {
            batch.append(&mut waiting);
        }
        batch.extend(receiver.try_iter().take(BATCH.saturating_sub(batch.len())));
        if batch.is_empty() {
            continue;
        }
        let result = committer.commit(batch);
        stats.ready.fetch_add(result.ready.len() as u64, Ordering::Relaxed);
        result.ready.iter().for_each(&mut ready);
        if !result.failed.is_empty() {
            retry_at = Instant::now() + RETRY;
        }
        for (finished, error) in result.failed {
            tracing::error!(file = %finished.start.part.file, %error, "a finished recording cannot be made ready yet");
            if waiting.len() < WAITING {
                waiting.push(finished);
            } else {
                stats.left.fetch_add(1, Ordering::Relaxed);
            }
        }
        stats.waiting.store(waiting.len() as u64, Ordering::Relaxed);
    }
    committer
}
