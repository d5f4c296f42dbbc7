//! The uploader: everything in the spool's `ready` folder goes to its tenant's store, for as long as it takes.
//!
//! The queue in memory ([`crate::upload_queue`]) is only an order of the spool's
//! folders and is rebuilt from them at every start, so a crash forgets nothing.
//! A recording leaves the spool when all its objects are verified in the store
//! ([`crate::upload_transfer`]), and in no other way: a conflict or a damaged
//! file sets it aside, anything else is tried again, for ever.
//!
//! [`Uploader::start`] spawns one task on the runtime it is called from; the
//! [`UploadHandle`] feeds it and asks it. Stores may be exchanged while it runs
//! ([`Stores::set`]); a tenant without one waits, and shows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use ferric_media::manifest::SignedManifest;
use ferric_media::timestamp::Timestamp;

use crate::spool::{MANIFEST, Spool, Stage};
use crate::store::Target;
use crate::upload_limit::{Bandwidth, Limiter, UploadWindow};
use crate::upload_queue::UploadQueue;
use crate::upload_transfer::{PART, Transfer, TransferError, Verify};

/// `[upload]`.
#[derive(Debug, Clone)]
pub struct UploadConfig {
    /// Recordings under way at a time.
    pub concurrency: usize,
    /// Limit for all of them together; `None` = none.
    pub bandwidth: Option<Bandwidth>,
    /// When uploads may run.
    pub window: UploadWindow,
    /// How an object is verified.
    pub verify: Verify,
    /// Recordings kept in order in memory; more stay in the spool until there is room.
    pub queue_limit: usize,
    /// Largest put in one piece, and size of a part, in bytes (S3 wants at least 5 MiB).
    pub part_bytes: usize,
}

impl Default for UploadConfig {
    fn default() -> UploadConfig {
        UploadConfig {
            concurrency: 8,
            bandwidth: None,
            window: UploadWindow::default(),
            verify: Verify::default(),
            queue_limit: 100_000,
            part_bytes: PART,
        }
    }
}

/// The stores of all tenants. Cheap to clone; changes are seen by the next attempt.
#[derive(Debug, Clone, Default)]
pub struct Stores(Arc<RwLock<HashMap<String, Arc<Target>>>>);

impl Stores {
    /// Gives a tenant a store, in place of the one before.
    pub fn set(&self, tenant: &str, target: Target) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.to_owned(), Arc::new(target));
    }

    /// Takes a tenant's store away; what it has in the spool waits.
    pub fn remove(&self, tenant: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    /// A tenant's store.
    pub fn get(&self, tenant: &str) -> Option<Arc<Target>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }
}

/// Something happened to a recording on its way.
#[derive(Debug, Clone)]
pub enum UploadEvent {
    /// It is verified in its store and gone from the spool.
    Stored {
        /// The recording's manifest.
        manifest: Arc<SignedManifest>,
        /// Key of its folder in the store.
        key: String,
        /// Bytes sent by the successful attempt.
        bytes: u64,
    },
    /// An attempt failed and will be repeated.
    Failed {
        /// The recording.
        id: Uuid,
        /// Whose it is.
        tenant: String,
        /// Why.
        error: String,
    },
    /// It was set aside and needs a person.
    Aside {
        /// The recording.
        id: Uuid,
        /// Whose it is.
        tenant: String,
        /// Why.
        reason: String,
    },
}

/// A tenant's part of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantStats {
    /// Whose.
    pub tenant: String,
    /// Recordings that wait or are under way.
    pub waiting: usize,
    /// Whether its store fails at the moment.
    pub failing: bool,
    /// The last failure since the last success.
    pub last_error: Option<String>,
}

/// Where the uploader stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadStats {
    /// Recordings that wait or are under way.
    pub waiting: usize,
    /// Bytes of them.
    pub waiting_bytes: u64,
    /// Recordings under way.
    pub under_way: usize,
    /// End of the oldest call that waits.
    pub oldest: Option<Timestamp>,
    /// Recordings stored since the start.
    pub stored: u64,
    /// Attempts that failed since the start.
    pub failures: u64,
    /// Recordings set aside since the start.
    pub aside: u64,
    /// Each tenant with something in the queue.
    pub tenants: Vec<TenantStats>,
}

impl UploadStats {
    /// How long ago the oldest waiting call ended; zero if none waits.
    pub fn lag(&self, now: Timestamp) -> Duration {
        self.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest))
    }
}

struct Shared {
    stats: Mutex<UploadStats>,
    rescan: AtomicBool,
    notify: Notify,
}

enum Order {
    New(Box<(String, Uuid, u64, Timestamp)>),
    RetryNow(Option<Uuid>),
}

/// Feeds and asks a running uploader. Cheap to clone.
#[derive(Clone)]
pub struct UploadHandle {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

impl UploadHandle {
    /// A recording lies in `ready`. Never blocks: if the channel is full the spool is read instead.
    pub fn submit(&self, manifest: &SignedManifest) {
        let entry = &manifest.manifest;
        let bytes = entry.audio.bytes + entry.metadata.as_ref().map_or(0, |metadata| metadata.bytes);
        let order = Order::New(Box::new((entry.tenant.clone(), entry.part.file, bytes, entry.ended_at)));
        if self.orders.try_send(order).is_err() {
            self.shared.rescan.store(true, Ordering::Release);
            self.shared.notify.notify_one();
        }
    }

    /// Tries everything, or one recording, at once instead of waiting out its backoff.
    pub fn retry_now(&self, only: Option<Uuid>) {
        if self.orders.try_send(Order::RetryNow(only)).is_err() {
            tracing::warn!("the uploader is too busy to be told to retry");
        }
    }

    /// Looks into the spool again, for recordings that came back from `aside`.
    pub fn rescan(&self) {
        self.shared.rescan.store(true, Ordering::Release);
        self.shared.notify.notify_one();
    }

    /// Where it stands.
    pub fn stats(&self) -> UploadStats {
        lock(&self.shared.stats).clone()
    }
}

impl std::fmt::Debug for UploadHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadHandle").field("stats", &self.stats()).finish()
    }
}

fn lock(stats: &Mutex<UploadStats>) -> MutexGuard<'_, UploadStats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the uploader tells its events to; must not block.
pub type EventSink = Box<dyn FnMut(UploadEvent) + Send>;

/// A clock; tests hand in their own.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The uploader's task.
pub struct Uploader {
    spool: Spool,
    stores: Stores,
    config: UploadConfig,
    queue: UploadQueue,
    limiter: Arc<Limiter>,
    orders: mpsc::Receiver<Order>,
    shared: Arc<Shared>,
    events: EventSink,
    clock: WallClock,
    rng: SmallRng,
    running: JoinSet<Outcome>,
    tried: std::collections::HashSet<Uuid>,
}

struct Outcome {
    tenant: Arc<str>,
    id: Uuid,
    result: Result<(Arc<SignedManifest>, String, u64), Failure>,
}

enum Failure {
    Transfer(TransferError),
    /// Nothing of it is in `ready` any more: a look into the spool found it, and it was stored, before its order came.
    Gone,
    Other(String),
}

impl Uploader {
    /// Starts uploading what lies in the spool and what comes, until `stop` is cancelled. Attempts under way are then
    /// dropped; the next start repeats them.
    pub fn start(
        spool: Spool,
        stores: Stores,
        config: UploadConfig,
        events: EventSink,
        stop: CancellationToken,
    ) -> (UploadHandle, tokio::task::JoinHandle<()>) {
        Uploader::start_with(spool, stores, config, events, stop, Arc::new(|| SystemTime::now().into()), rand::random())
    }

    /// As [`Uploader::start`], with the clock and the seed of the jitter handed in.
    pub fn start_with(
        spool: Spool,
        stores: Stores,
        config: UploadConfig,
        events: EventSink,
        stop: CancellationToken,
        clock: WallClock,
        seed: u64,
    ) -> (UploadHandle, tokio::task::JoinHandle<()>) {
        let (sender, orders) = mpsc::channel(1024);
        let shared = Arc::new(Shared {
            stats: Mutex::new(UploadStats::default()),
            rescan: AtomicBool::new(true),
            notify: Notify::new(),
        });
        let handle = UploadHandle { orders: sender, shared: Arc::clone(&shared) };
        let uploader = Uploader {
            queue: UploadQueue::new(config.concurrency, config.queue_limit),
            limiter: Arc::new(Limiter::new(config.bandwidth)),
            spool,
            stores,
            config,
            orders,
            shared,
            events,
            clock,
            rng: SmallRng::seed_from_u64(seed),
            running: JoinSet::new(),
            tried: std::collections::HashSet::new(),
        };
        (handle, tokio::spawn(uploader.run(stop)))
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            if self.shared.rescan.swap(false, Ordering::AcqRel) || (self.queue.overflowed && self.queue.has_room()) {
                self.rescan().await;
            }
            let window = self.config.window.opens_in((self.clock)());
            if window.is_zero() {
                while let Some((tenant, id)) = self.queue.next(Instant::now()) {
                    self.begin(tenant, id);
                }
            }
            self.publish();
            let now = Instant::now();
            let wake = if window.is_zero() {
                self.queue.next_wake(now).unwrap_or(now + Duration::from_secs(60))
            } else {
                // The wall clock may be set; it is looked at again every minute.
                now + window.min(Duration::from_secs(60))
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some(outcome) = self.running.join_next() => match outcome {
                    Ok(outcome) => self.finish(outcome).await,
                    Err(error) => tracing::error!(%error, "an upload ended abnormally"),
                },
                Some(order) = self.orders.recv() => self.obey(order),
                () = self.shared.notify.notified() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.running.shutdown().await;
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::New(new) => {
                let (tenant, id, bytes, ended_at) = *new;
                self.queue.push(&tenant, id, bytes, ended_at);
            }
            Order::RetryNow(only) => self.queue.retry_now(only),
        }
    }

    /// Reads the spool's `ready` folder into the queue, oldest first.
    async fn rescan(&mut self) {
        self.queue.overflowed = false;
        let spool = self.spool.clone();
        // Those that are in the queue already cost nothing but their name.
        let known: std::collections::HashSet<Uuid> =
            self.queue.lanes.values().flat_map(|lane| lane.entries.keys().copied()).collect();
        let room = self.config.queue_limit.saturating_sub(self.queue.len());
        let read = tokio::task::spawn_blocking(move || {
            let ready = spool.ready()?;
            let mut found = Vec::new();
            let mut bad = Vec::new();
            let mut more = false;
            for (id, bytes) in ready.into_iter().filter(|(id, _)| !known.contains(id)) {
                if found.len() >= room {
                    more = true;
                    break;
                }
                let path = spool.folder(Stage::Ready, id).join(MANIFEST);
                match std::fs::read(&path)
                    .map_err(|error| error.to_string())
                    .and_then(|file| SignedManifest::parse(&file).map_err(|error| error.to_string()))
                {
                    Ok(signed) => found.push((signed.manifest.tenant, id, bytes, signed.manifest.ended_at)),
                    Err(reason) => bad.push((id, reason)),
                }
            }
            Ok::<_, crate::spool::SpoolError>((found, bad, more))
        });
        match read.await {
            Ok(Ok((found, bad, more))) => {
                for (tenant, id, bytes, ended_at) in found {
                    self.queue.push(&tenant, id, bytes, ended_at);
                }
                for (id, reason) in bad {
                    self.set_aside("", id, format!("manifest.json: {reason}")).await;
                }
                self.queue.overflowed |= more;
            }
            Ok(Err(error)) => tracing::error!(%error, "the spool cannot be read"),
            Err(error) => tracing::error!(%error, "reading the spool ended abnormally"),
        }
    }

    fn begin(&mut self, tenant: Arc<str>, id: Uuid) {
        let folder = self.spool.folder(Stage::Ready, id);
        let target = self.stores.get(&tenant);
        let limiter = Arc::clone(&self.limiter);
        let (verify, part) = (self.config.verify, self.config.part_bytes.max(1));
        // An earlier run may have tried too; a store that refuses duplicates says so at the first put, any other is asked.
        let again = !self.tried.insert(id);
        self.running.spawn(async move {
            let result = async {
                let Some(target) = target else {
                    return Err(Failure::Other(format!("tenant {tenant} has no store")));
                };
                let damaged =
                    |reason: String| Failure::Transfer(TransferError::Damaged { file: MANIFEST.to_owned(), reason });
                let file = match tokio::fs::read(folder.join(MANIFEST)).await {
                    Ok(file) => file,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        let there = tokio::fs::try_exists(&folder).await.unwrap_or(true);
                        return Err(if there { damaged("it is missing".to_owned()) } else { Failure::Gone });
                    }
                    Err(error) => return Err(Failure::Other(format!("cannot read {MANIFEST}: {error}"))),
                };
                let manifest = SignedManifest::parse(&file).map_err(|error| damaged(error.to_string()))?;
                let transfer = Transfer { target: &target, limiter: &limiter, verify, again, part };
                let bytes = transfer.run(&folder, &manifest).await.map_err(Failure::Transfer)?;
                let key = target.key(manifest.manifest.started_at, id, "").to_string();
                Ok((Arc::new(manifest), key.trim_end_matches('/').to_owned(), bytes))
            };
            let result = result.await;
            Outcome { tenant, id, result }
        });
    }

    async fn finish(&mut self, outcome: Outcome) {
        let Outcome { tenant, id, result } = outcome;
        match result {
            Ok((manifest, key, bytes)) => {
                let spool = self.spool.clone();
                let removed = tokio::task::spawn_blocking(move || spool.remove_sent(id)).await;
                if let Ok(Err(error)) = removed {
                    if self.spool.folder(Stage::Ready, id).exists() {
                        // The next attempt finds its objects in the store and only has to delete.
                        self.failed(&tenant, id, &format!("stored, but {error}"));
                        return;
                    }
                    tracing::warn!(%error, recording = %id, "the next start deletes what is safe in the store");
                }
                self.tried.remove(&id);
                self.queue.done(&tenant, id, true);
                lock(&self.shared.stats).stored += 1;
                (self.events)(UploadEvent::Stored { manifest, key, bytes });
            }
            Err(Failure::Transfer(error)) if error.is_final() => {
                self.tried.remove(&id);
                self.set_aside(&tenant, id, error.to_string()).await;
            }
            Err(Failure::Gone) => {
                tracing::debug!(recording = %id, "it was stored already");
                self.tried.remove(&id);
                self.queue.done(&tenant, id, false);
            }
            Err(Failure::Transfer(error)) => self.failed(&tenant, id, &error.to_string()),
            Err(Failure::Other(error)) => self.failed(&tenant, id, &error),
        }
    }

    fn failed(&mut self, tenant: &str, id: Uuid, error: &str) {
        tracing::warn!(recording = %id, tenant, error, "an upload failed and will be repeated");
        self.queue.failed(tenant, id, error, Instant::now(), &mut self.rng);
        lock(&self.shared.stats).failures += 1;
        (self.events)(UploadEvent::Failed { id, tenant: tenant.to_owned(), error: error.to_owned() });
    }

    async fn set_aside(&mut self, tenant: &str, id: Uuid, reason: String) {
        let (spool, folder, why) = (self.spool.clone(), self.spool.folder(Stage::Ready, id), reason.clone());
        let moved = tokio::task::spawn_blocking(move || spool.set_aside(&folder, &why)).await;
        if let Ok(Err(error)) = moved {
            self.failed(tenant, id, &format!("{reason}; and {error}"));
            return;
        }
        self.queue.done(tenant, id, false);
        lock(&self.shared.stats).aside += 1;
        (self.events)(UploadEvent::Aside { id, tenant: tenant.to_owned(), reason });
    }

    fn publish(&self) {
        let mut stats = lock(&self.shared.stats);
        let lanes = self.queue.lanes.iter();
        stats.waiting = self.queue.len();
        stats.under_way = self.running.len();
        stats.waiting_bytes = 0;
        stats.oldest = None;
        stats.tenants = lanes
            .map(|(tenant, lane)| {
                stats.waiting_bytes += lane.bytes;
                let oldest = lane.entries.values().next().map(|entry| entry.ended_at);
                stats.oldest = stats.oldest.into_iter().chain(oldest).min();
                TenantStats {
                    tenant: tenant.to_string(),
                    waiting: lane.entries.len(),
                    failing: lane.failing(),
                    last_error: lane.last_error.as_deref().map(str::to_owned),
                }
            })
            .collect();
    }
}

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
pub(crate) mod tests;
