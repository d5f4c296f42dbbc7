//! News for the catalogue, from those who must not wait for it; and making it again from the manifests.
//!
//! Capture and upload hand in news without ever blocking; one task writes them
//! in batches, in the order they came. A database that is locked or broken is
//! tried again with the same batch; what does not fit into the queue meanwhile
//! is dropped and counted, and the catalogue counts as stale until it has been
//! rebuilt ([`rebuild`]), which needs no key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use object_store::ObjectStore as _;
use object_store::ObjectStoreExt as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use ferric_media::manifest::SignedManifest;

use crate::catalog::{Catalog, CatalogError, RecordingUpdate, UploadState};
use crate::spool::MANIFEST;
use crate::store::Target;
use crate::upload::UploadEvent;

/// News that may wait.
const QUEUE: usize = 16_384;
/// News written in one transaction at most.
const BATCH: usize = 256;
/// Longest wait between tries of a database that fails.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Largest manifest that is read back; a real one has less than 2 KiB.
const MANIFEST_LIMIT: u64 = 64 * 1024;

/// Something the catalogue should know.
#[derive(Debug, Clone)]
pub enum News {
    /// A recording began, changed or ended.
    Recording(Box<RecordingUpdate>),
    /// A recording's way to the store.
    Upload {
        /// The recording.
        id: Uuid,
        /// Where it stands.
        state: UploadState,
        /// Key of its folder in the store.
        key: Option<String>,
        /// The last error.
        error: Option<String>,
    },
}

impl News {
    /// What an uploader's event means to the catalogue.
    pub fn from_upload(event: &UploadEvent) -> Vec<News> {
        match event {
            UploadEvent::Stored { manifest, key, .. } => vec![
                News::Recording(Box::new(RecordingUpdate::from_manifest(manifest, UploadState::Stored))),
                News::Upload {
                    id: manifest.manifest.id,
                    state: UploadState::Stored,
                    key: Some(key.clone()),
                    error: None,
                },
            ],
            UploadEvent::Failed { id, error, .. } => {
                vec![News::Upload { id: *id, state: UploadState::Failing, key: None, error: Some(error.clone()) }]
            }
            UploadEvent::Aside { id, reason, .. } => {
                vec![News::Upload { id: *id, state: UploadState::Aside, key: None, error: Some(reason.clone()) }]
            }
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
    stale: AtomicBool,
}

/// Takes news, never blocks. Cheap to clone; the task ends when all clones are gone.
#[derive(Debug, Clone)]
pub struct CatalogWriter {
    sender: mpsc::Sender<News>,
    counters: Arc<Counters>,
}

impl CatalogWriter {
    /// Starts the writing task.
    pub fn start(catalog: Catalog) -> (CatalogWriter, tokio::task::JoinHandle<()>) {
        CatalogWriter::with_queue(catalog, QUEUE)
    }

    pub(crate) fn with_queue(catalog: Catalog, queue: usize) -> (CatalogWriter, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(queue);
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(write(catalog, receiver, Arc::clone(&counters)));
        (CatalogWriter { sender, counters }, task)
    }

    /// Hands news in; `false` if there was no room and it was dropped.
    pub fn tell(&self, news: News) -> bool {
        let told = self.sender.try_send(news).is_ok();
        if !told {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            self.counters.stale.store(true, Ordering::Release);
        }
        told
    }

    /// News written since the start.
    pub fn written(&self) -> u64 {
        self.counters.written.load(Ordering::Relaxed)
    }

    /// News dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.counters.dropped.load(Ordering::Relaxed)
    }

    /// Failed transactions since the start.
    pub fn failures(&self) -> u64 {
        self.counters.failures.load(Ordering::Relaxed)
    }

    /// Whether news was dropped since the start or the last rebuild.
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
        let mut wait = Duration::from_millis(100);
        while let Err(error) = apply(&catalog, &batch).await {
            counters.failures.fetch_add(1, Ordering::Relaxed);
            if matches!(error, CatalogError::Database(sqlx::Error::PoolClosed)) {
                return;
            }
            tracing::warn!(%error, waiting = receiver.len(), "the catalogue cannot be written");
            // Nobody is left to wait for: what was handed in is in the manifests.
            if receiver.is_closed() && wait >= LONGEST_WAIT {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        counters.written.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.clear();
    }
}

/// Applies a batch in order; recordings that lie next to each other share a transaction.
async fn apply(catalog: &Catalog, batch: &[News]) -> Result<(), CatalogError> {
    let mut updates = Vec::new();
    for news in batch {
        match news {
            News::Recording(update) => updates.push((**update).clone()),
            News::Upload { id, state, key, error } => {
                catalog.upsert(&std::mem::take(&mut updates)).await?;
                catalog.set_upload(*id, *state, key.as_deref(), error.as_deref()).await?;
            }
        }
    }
    if updates.is_empty() { Ok(()) } else { catalog.upsert(&updates).await }
}

/// Reads every manifest of a target into the catalogue. Parties, tags and ids that the catalogue has are kept;
/// what it lacks of those is in the sealed metadata. Returns how many manifests were read and how many were damaged.
///
/// # Errors
/// The store cannot be listed or the catalogue not be written.
pub async fn rebuild(catalog: &Catalog, target: &Target) -> Result<(u64, u64), RebuildError> {
    let mut objects = target.store.list(Some(&target.prefix));
    let (mut read, mut damaged) = (0, 0);
    while let Some(object) = objects.next().await {
        let object = object?;
        let Some(folder) = object.location.as_ref().strip_suffix(&format!("/{MANIFEST}")) else { continue };
        if object.size > MANIFEST_LIMIT {
            damaged += 1;
            continue;
        }
        let file = target.store.get(&object.location).await?.bytes().await?;
        match SignedManifest::parse(&file) {
            Ok(signed) => {
                catalog.upsert(&[RecordingUpdate::from_manifest(&signed, UploadState::Stored)]).await?;
                catalog.set_upload(signed.manifest.id, UploadState::Stored, Some(folder), None).await?;
                read += 1;
            }
            Err(error) => {
                tracing::warn!(%error, key = %object.location, "a manifest in the store is damaged");
                damaged += 1;
            }
        }
    }
    Ok((read, damaged))
}

/// Why the catalogue could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(#[from] object_store::Error),
    /// The catalogue failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}
