//! News for the catalogue, from those who must not wait for it.
//!
//! Capture and upload hand in news without ever blocking; one task writes them
//! in batches, in the order they came. A database that fails is tried again with
//! the same batch, after a wait that grows; what does not fit into the queue meanwhile
//! is dropped and counted, and the catalogue counts as stale until it has been
//! rebuilt ([`crate::catalog_rebuild`]), which needs no key. News that the database does not take
//! for what it is (and not for how things are) is left out and counted, and holds nobody up.
//!
//! A catalogue on this machine is written directly. Before one that is shared there
//! is a queue on disk ([`crate::catalog_outbox`]): the database may be away for as
//! long as the queue has room, and the node may be killed meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use ferric_media::part::Part;

use crate::catalog::{Catalog, CatalogError, RecordingUpdate, UploadState};
use crate::catalog_outbox::Outbox;
use crate::catalog_row::StoredNews;
use crate::upload::UploadEvent;

/// News that may wait.
const QUEUE: usize = 16_384;
/// News written in one transaction at most.
const BATCH: usize = 256;
/// First wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between tries of a database that fails.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// An idle catalogue is looked at this often.
const LOOK: Duration = Duration::from_secs(15);

/// Something the catalogue should know.
#[derive(Debug, Clone)]
pub enum News {
    /// A recording began, changed or ended.
    Recording(Box<RecordingUpdate>),
    /// The way of a part's files to the store.
    Upload {
        /// The files.
        file: Uuid,
        /// Where they stand.
        state: UploadState,
        /// Key of their folder in the store.
        key: Option<String>,
        /// The last error.
        error: Option<String>,
    },
    /// These files were deleted: others have what they had.
    Dropped(Part),
}

impl News {
    /// What an event of the uploader means to the catalogue.
    pub fn from_upload(event: &UploadEvent) -> Vec<News> {
        let upload = |file: Uuid, state, key: Option<&String>, error: Option<&String>| News::Upload {
            file,
            state,
            key: key.cloned(),
            error: error.cloned(),
        };
        match event {
            UploadEvent::Stored { manifest, key, .. } => vec![
                News::Recording(Box::new(RecordingUpdate::from_manifest(manifest, UploadState::Stored))),
                upload(manifest.manifest.part.file, UploadState::Stored, Some(key), None),
            ],
            UploadEvent::Failed { id, error, .. } => vec![upload(*id, UploadState::Failing, None, Some(error))],
            UploadEvent::Aside { id, reason, .. } => vec![upload(*id, UploadState::Aside, None, Some(reason))],
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
    queued: AtomicU64,
    stale: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Counters {
    fn failed(&self, error: &CatalogError, waiting: u64) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%error, waiting, "the catalogue cannot be written");
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    fn wrote(&self, news: u64) {
        self.written.fetch_add(news, Ordering::Relaxed);
        if let Some(error) = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::info!(error, "the catalogue is written again");
        }
    }

    fn lost(&self, counter: &AtomicU64, news: u64) {
        if news > 0 {
            counter.fetch_add(news, Ordering::Relaxed);
            self.stale.store(true, Ordering::Release);
        }
    }
}

/// Takes news, never blocks. Cheap to clone; the task ends when all clones are gone.
#[derive(Debug, Clone)]
pub struct CatalogWriter {
    sender: mpsc::Sender<News>,
    counters: Arc<Counters>,
}

impl CatalogWriter {
    /// Starts the task that writes news directly.
    pub fn start(catalog: Catalog) -> (CatalogWriter, tokio::task::JoinHandle<()>) {
        CatalogWriter::with_queue(catalog, QUEUE)
    }

    pub(crate) fn with_queue(catalog: Catalog, queue: usize) -> (CatalogWriter, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(queue);
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(write(catalog, receiver, Arc::clone(&counters)));
        (CatalogWriter { sender, counters }, task)
    }

    /// Starts the tasks that write news by way of a queue on disk of at most so many bytes.
    ///
    /// # Errors
    /// The queue cannot be opened.
    pub async fn start_queued(
        catalog: Catalog,
        queue: &Path,
        limit_bytes: u64,
    ) -> Result<(CatalogWriter, tokio::task::JoinHandle<()>), CatalogError> {
        let outbox = Outbox::open(queue, limit_bytes).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let counters = Arc::new(Counters::default());
        counters.queued.store(outbox.waiting(), Ordering::Relaxed);
        let task = tokio::spawn(write_queued(catalog, outbox, receiver, Arc::clone(&counters)));
        Ok((CatalogWriter { sender, counters }, task))
    }

    /// Hands news in; `false` if there was no room and it was dropped.
    pub fn tell(&self, news: News) -> bool {
        let told = self.sender.try_send(news).is_ok();
        if !told {
            self.counters.lost(&self.counters.dropped, 1);
        }
        told
    }

    /// News written since the start.
    pub fn written(&self) -> u64 {
        self.counters.written.load(Ordering::Relaxed)
    }

    /// News dropped since the start because there was no room.
    pub fn dropped(&self) -> u64 {
        self.counters.dropped.load(Ordering::Relaxed)
    }

    /// News left out since the start because the database does not take it.
    pub fn refused(&self) -> u64 {
        self.counters.refused.load(Ordering::Relaxed)
    }

    /// Failed transactions since the start.
    pub fn failures(&self) -> u64 {
        self.counters.failures.load(Ordering::Relaxed)
    }

    /// News that wait, in memory and on disk.
    pub fn waiting(&self) -> u64 {
        let in_memory = self.sender.max_capacity().saturating_sub(self.sender.capacity());
        self.counters.queued.load(Ordering::Relaxed).saturating_add(in_memory as u64)
    }

    /// Why the catalogue cannot be written, while it cannot.
    pub fn trouble(&self) -> Option<String> {
        self.counters.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether news was lost since the start or the last rebuild.
    pub fn is_stale(&self) -> bool {
        self.counters.stale.load(Ordering::Acquire)
    }

    /// The catalogue has been rebuilt.
    pub fn mark_fresh(&self) {
        self.counters.stale.store(false, Ordering::Release);
    }
}

async fn write(catalog: Catalog, mut receiver: mpsc::Receiver<News>, counters: Arc<Counters>) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let news: Vec<StoredNews> = batch.drain(..).map(|news| StoredNews::new(&news, &catalog.parties)).collect();
        let mut wait = FIRST_WAIT;
        let written = loop {
            let error = match apply(&catalog, &news, &counters).await {
                Ok(written) => break written,
                Err(error) => error,
            };
            if matches!(error, CatalogError::Database(sqlx::Error::PoolClosed)) {
                return;
            }
            counters.failed(&error, receiver.len() as u64);
            // Nobody is left to wait for: what was handed in is in the manifests.
            if receiver.is_closed() && wait >= LONGEST_WAIT {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        };
        counters.wrote(written);
    }
}

/// Disk first, then the catalogue: the two run beside each other, so that a slow database keeps nothing in memory.
async fn write_queued(catalog: Catalog, outbox: Outbox, mut receiver: mpsc::Receiver<News>, counters: Arc<Counters>) {
    let outbox = Arc::new(tokio::sync::Mutex::new(outbox));
    let (more, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let forward = Forward { catalog: catalog.clone(), outbox: Arc::clone(&outbox), counters: Arc::clone(&counters) };
    let forward = tokio::spawn(forward.run(Arc::clone(&more), stop.clone()));
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let news: Vec<StoredNews> = batch.drain(..).map(|news| StoredNews::new(&news, &catalog.parties)).collect();
        let mut wait = FIRST_WAIT;
        loop {
            let mut outbox = outbox.lock().await;
            let pushed = outbox.push(&news).await;
            counters.queued.store(outbox.waiting(), Ordering::Relaxed);
            drop(outbox);
            match pushed {
                Ok(dropped) => break counters.lost(&counters.dropped, dropped),
                // A full disk: until there is room, news waits in memory.
                Err(error) => counters.failed(&error, receiver.len() as u64),
            }
            if receiver.is_closed() && wait >= LONGEST_WAIT {
                counters.lost(&counters.dropped, news.len() as u64);
                break;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        more.notify_one();
    }
    // The rest stays on disk if the catalogue does not take it at once.
    stop.cancel();
    let _ = forward.await;
    outbox.lock().await.close().await;
}

/// Brings what waits on disk to the catalogue, oldest first.
struct Forward {
    catalog: Catalog,
    outbox: Arc<tokio::sync::Mutex<Outbox>>,
    counters: Arc<Counters>,
}

impl Forward {
    /// Ends after `stop` when nothing waits, or the catalogue fails.
    async fn run(self, more: Arc<Notify>, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        loop {
            let is_last = stop.is_cancelled();
            let pause = match self.step().await {
                Ok(true) => {
                    wait = FIRST_WAIT;
                    continue;
                }
                Ok(false) => LOOK,
                Err(error) => {
                    self.counters.failed(&error, self.counters.queued.load(Ordering::Relaxed));
                    let pause = wait;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    pause
                }
            };
            if is_last {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // After a failure more news is no reason to try again at once.
                () = more.notified(), if pause == LOOK => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// One batch; `false` if nothing waits, and the catalogue is there.
    async fn step(&self) -> Result<bool, CatalogError> {
        let (news, place) = self.outbox.lock().await.oldest(BATCH as u32).await?;
        let Some(place) = place else {
            self.catalog.look().await?;
            self.counters.wrote(0);
            return Ok(false);
        };
        let written = apply(&self.catalog, &news, &self.counters).await?;
        self.counters.wrote(written);
        let mut outbox = self.outbox.lock().await;
        outbox.remove(place).await?;
        self.counters.queued.store(outbox.waiting(), Ordering::Relaxed);
        Ok(true)
    }
}

/// Writes a batch in one transaction; if the database refuses it, one by one and without what it does not take.
/// Returns how many were written.
async fn apply(catalog: &Catalog, news: &[StoredNews], counters: &Counters) -> Result<u64, CatalogError> {
    match catalog.apply(news).await {
        Ok(()) => return Ok(news.len() as u64),
        Err(error) if error.is_refusal() => {}
        Err(error) => return Err(error),
    }
    let mut written = 0;
    for one in news {
        match catalog.apply(std::slice::from_ref(one)).await {
            Ok(()) => written += 1,
            Err(error) if error.is_refusal() => {
                tracing::error!(recording = %one.recording(), %error, "the catalogue does not take this; it is left out");
                counters.lost(&counters.refused, 1);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
