//! The scribe: the one thread of a worker that touches the spool while calls run.
//!
//! Shards hand it sealed bytes over a bounded queue and go on, so a slow disk
//! delays files and not packets. When the queue is full the shards wait, and
//! their sockets hold some seconds of packets for them. A disk that is full
//! costs nothing while the backlogs of the writers hold; an alarm stands as
//! long as one of them is not empty.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ferric_media::manifest::RecordingState;
use ferric_media::metadata::SessionInfo;
use ferric_media::recorder::RecordingTotals;
use ferric_media::seal::SealSummary;
use ferric_media::stats::RecordingStats;
use uuid::Uuid;

use crate::call::WorkerEvent;
use crate::mirror::twin::Twin;
use crate::spool_writer::{AppendError, FinishedRecording, RecordingEnd, SpoolWriter};

/// While something waits for the disk, it is tried again this often.
const RETRY: Duration = Duration::from_millis(500);

/// How a recording ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Complete, or partial when no media ever came.
    pub state: RecordingState,
    /// Why, in a few words.
    pub reason: Cow<'static, str>,
    /// Lengths and hashes.
    pub totals: RecordingTotals,
    /// The last that signalling knew.
    pub session: Box<SessionInfo>,
    /// Tags.
    pub tags: Vec<(String, String)>,
    /// Counts and quality.
    pub quality: RecordingStats,
    /// Audio that nobody recorded before this part, in ms; `None` where nothing was before it, or nobody knows.
    pub lost_ms: Option<u64>,
}

/// What the scribe is handed. It knows files: a recording may begin its next part while the one before is finished.
pub(crate) enum Entry {
    Begin { writer: Box<SpoolWriter> },
    Twin { file: Uuid, twin: Twin },
    Promoted { file: Uuid },
    Audio { file: Uuid, bytes: Vec<u8>, segments: u32, duration: Duration },
    Metadata { file: Uuid, bytes: Vec<u8> },
    Finish { file: Uuid, ending: Box<Ending> },
}

/// What the scribe measures.
#[derive(Debug, Default)]
pub struct ScribeStats {
    /// True while the disk refuses something.
    pub disk_refuses: AtomicBool,
    /// Recordings that a refusing disk has cut short.
    pub cut_short: AtomicU64,
}

struct Page {
    writer: SpoolWriter,
    /// Metadata that the disk refused; the newest counts.
    metadata: Option<Vec<u8>>,
    /// The other files of a mirrored recording.
    twin: Option<Twin>,
    delayed: bool,
    ended: bool,
}

impl Page {
    /// A disk that refuses it loses no audio: without it, files are stored a second time at worst.
    fn store_twin(&self) {
        if let Some(Err(error)) = self.twin.as_ref().map(|twin| twin.store(self.writer.folder())) {
            tracing::warn!(recording = %self.writer.part().recording, %error, "the mirror is not noted beside its files");
        }
    }
}

/// Where finished recordings go.
pub(crate) type Finish = Box<dyn Fn(FinishedRecording, &Ending) + Send>;

pub(crate) struct Scribe {
    pub(crate) entries: Receiver<Entry>,
    pub(crate) events: tokio::sync::mpsc::UnboundedSender<WorkerEvent>,
    pub(crate) finish: Finish,
    pub(crate) stats: Arc<ScribeStats>,
}

impl Scribe {
    /// Runs until every shard is gone and all is written.
    pub(crate) fn run(self) {
        let mut pages: HashMap<Uuid, Page> = HashMap::new();
        let mut retry_at = Instant::now() + RETRY;
        loop {
            let wait = retry_at.saturating_duration_since(Instant::now());
            match self.entries.recv_timeout(wait) {
                Ok(entry) => self.take(&mut pages, entry),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= retry_at {
                self.retry(&mut pages);
                retry_at = Instant::now() + RETRY;
            }
        }
    }

    fn take(&self, pages: &mut HashMap<Uuid, Page>, entry: Entry) {
        match entry {
            Entry::Begin { writer } => {
                pages.insert(
                    writer.part().file,
                    Page { writer: *writer, metadata: None, twin: None, delayed: false, ended: false },
                );
            }
            Entry::Audio { file, bytes, segments, duration } => {
                if let Some(page) = pages.get_mut(&file) {
                    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                    self.append(page, bytes, segments, duration_ms);
                }
            }
            Entry::Metadata { file, bytes } => {
                if let Some(page) = pages.get_mut(&file) {
                    page.metadata = page.writer.put_metadata(&bytes).err().map(|error| {
                        tracing::warn!(%file, %error, "metadata waits for the disk");
                        bytes
                    });
                }
            }
            Entry::Twin { file, twin } => {
                if let Some(page) = pages.get_mut(&file) {
                    page.twin = Some(twin);
                    page.store_twin();
                }
            }
            Entry::Promoted { file } => {
                if let Some(page) = pages.get_mut(&file) {
                    page.writer.promote();
                    if let Some(twin) = &mut page.twin {
                        twin.promoted = true;
                    }
                    page.store_twin();
                }
            }
            Entry::Finish { file, ending } => {
                if let Some(page) = pages.remove(&file) {
                    self.finish(page, *ending);
                }
            }
        }
    }

    fn append(&self, page: &mut Page, bytes: Vec<u8>, segments: u32, duration_ms: u64) {
        match page.writer.append(bytes, segments, duration_ms) {
            Ok(()) => page.delayed = false,
            Err(error @ AppendError::Delayed { .. }) => {
                if !std::mem::replace(&mut page.delayed, true) {
                    tracing::warn!(recording = %page.writer.part().recording, %error, "audio waits for the disk");
                    self.stats.disk_refuses.store(true, Ordering::Relaxed);
                }
            }
            Err(error @ AppendError::Ended { .. }) => {
                if !std::mem::replace(&mut page.ended, true) {
                    tracing::error!(recording = %page.writer.part().recording, %error, "a recording is cut short");
                    self.stats.cut_short.fetch_add(1, Ordering::Relaxed);
                    let _ = self.events.send(WorkerEvent::Failed { id: page.writer.part().recording });
                }
            }
        }
    }

    fn retry(&self, pages: &mut HashMap<Uuid, Page>) {
        if !self.stats.disk_refuses.load(Ordering::Relaxed) {
            return;
        }
        for page in pages.values_mut().filter(|page| page.delayed && !page.ended) {
            self.append(page, Vec::new(), 0, 0);
        }
        for page in pages.values_mut() {
            if let Some(bytes) = page.metadata.take() {
                page.metadata = page.writer.put_metadata(&bytes).err().map(|_| bytes);
            }
        }
        let refuses = pages.values().any(|page| page.delayed || page.metadata.is_some());
        self.stats.disk_refuses.store(refuses, Ordering::Relaxed);
    }

    fn finish(&self, page: Page, ending: Ending) {
        let totals = &ending.totals;
        let mut finished = page.writer.finish(RecordingEnd {
            sealed: Vec::new(),
            summary: SealSummary {
                bytes: totals.audio.bytes,
                sha256: totals.audio.sha256.0,
                segments: totals.audio.segments,
            },
            duration_ms: totals.duration_ms,
            ended_at: totals.ended_at,
            metadata: page.metadata,
        });
        if ending.state != RecordingState::Complete {
            finished.state = ending.state;
        }
        let (part, tenant, state) = (finished.start.part, finished.start.tenant.clone(), finished.state);
        let held = finished.hold;
        (self.finish)(finished, &ending);
        if held {
            return;
        }
        let event = WorkerEvent::Finished { part, tenant, state, ending: Box::new(ending) };
        let _ = self.events.send(event);
    }
}
