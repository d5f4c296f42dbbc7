//! The port: what a node knows and tells, alone or in a cluster.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_state::{Kind, NodeId, PutError, Soft, View};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{ClusterConfig, NatsConfig, is_token};
use crate::documents::{Document, Documents, MOST_BYTES, Space};
use crate::error::{ClusterError, StoreError};
use crate::events::{self, EventKind, Queue, Waiting};
use crate::health::{Connection, Gauges, Health, lock};
use crate::keeper::Keeper;
use crate::lease::{LEAST_LIFE, Lease};
use crate::memory::{Follower, Memory};
use crate::nats::bus::Bus;
use crate::nats::keep::Keep;
use crate::nats::kv::Kv;
use crate::nats::leases::Leases;
use crate::nats::link::{self, Link};
use crate::nats::outward;

/// Between two writes of the last-known-good file.
const SAVE_PAUSE: Duration = Duration::from_millis(200);

/// The shared state of a node. Cheap to clone; when the last one is dropped, its tasks end.
#[derive(Clone)]
pub struct ClusterState {
    inner: Arc<Inner>,
}

struct Inner {
    memory: Arc<Memory>,
    documents: Arc<Documents>,
    keeper: Arc<Keeper>,
    gauges: Arc<Gauges>,
    events: Queue,
    store: Store,
    tasks: Mutex<JoinSet<()>>,
}

/// Where documents and leases are decided.
enum Store {
    Embedded,
    Nats { kv: Kv, leases: Leases, link: Link },
}

impl std::fmt::Debug for ClusterState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterState").field("connection", &self.inner.gauges.connection()).finish_non_exhaustive()
    }
}

impl ClusterState {
    /// Starts it within a tokio runtime. It does not wait for NATS: what this node knew last is there at once.
    ///
    /// # Errors
    /// When the configuration cannot be used, or a single node's file of documents cannot be read.
    pub fn start(config: ClusterConfig) -> Result<ClusterState, ClusterError> {
        config.check()?;
        let documents = match Documents::open(&config.data_dir) {
            Ok(documents) => documents,
            Err((file, error)) if config.nats.is_none() => return Err(ClusterError::File { file, error }),
            Err((file, error)) => {
                // It is a copy: the store has the original.
                tracing::error!(file = %file.display(), %error, "the last-known-good documents cannot be read");
                Documents::empty(&config.data_dir)
            }
        };
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(0);
        let soft = Soft::new(config.soft.clone(), config.identity.clone(), Instant::now(), wall_ms, rand::random());
        let alone = Connection::Embedded;
        let connection = config.nats.as_ref().map_or(alone, |_| Connection::Away("not connected yet".to_owned()));
        let (events, waiting) = events::queue();
        let mut started = Started {
            memory: Arc::new(Memory::new(soft)),
            documents: Arc::new(documents),
            keeper: Arc::default(),
            gauges: Arc::new(Gauges::new(connection)),
            tasks: JoinSet::new(),
        };
        let store = match &config.nats {
            None => started.embedded(&config, waiting),
            Some(nats) => started.nats(&config, nats, waiting),
        };
        let Started { memory, documents, keeper, gauges, tasks } = started;
        let tasks = Mutex::new(tasks);
        Ok(ClusterState { inner: Arc::new(Inner { memory, documents, keeper, gauges, events, store, tasks }) })
    }

    /// Writes an entry of soft state for all nodes; it lives for `life`, and as long as this process if its kind lives with
    /// its owner.
    ///
    /// # Errors
    /// When a limit is met.
    pub fn put(&self, kind: Kind, key: &[u8], value: &[u8], life: Duration) -> Result<(), PutError> {
        self.inner.memory.put(kind, key, value, life)
    }

    /// Removes an entry on all nodes; `false` when this one knows none.
    pub fn remove(&self, kind: Kind, key: &[u8]) -> bool {
        self.inner.memory.remove(kind, key)
    }

    /// An entry, from memory.
    pub fn get(&self, kind: Kind, key: &[u8]) -> Option<View> {
        self.inner.memory.get(kind, key)
    }

    /// Whether an entry is known to have been removed, or to have ended, for two hours and some minutes after that.
    pub fn is_removed(&self, kind: Kind, key: &[u8]) -> bool {
        self.inner.memory.is_removed(kind, key)
    }

    /// All entries of a kind, from memory.
    pub fn list(&self, kind: Kind) -> Vec<View> {
        self.inner.memory.list(kind)
    }

    /// Hears what other nodes change from now on, and what ends.
    pub fn follow(&self) -> Follower {
        self.inner.memory.follow()
    }

    /// A node is known to be dead or alive: its load is hidden or shown.
    pub fn node(&self, node: &NodeId, up: bool) {
        self.inner.memory.node(node, up);
    }

    /// A message of soft state that came by the way beside NATS.
    pub fn receive(&self, message: &[u8]) {
        self.inner.memory.received(message);
    }

    /// Somebody is reached by the way beside NATS, or nobody is.
    pub fn set_beside(&self, up: bool) {
        self.inner.memory.beside(up);
    }

    /// A document, from memory.
    pub fn document(&self, space: Space, name: &str) -> Option<Document> {
        let stored = self.inner.documents.get(&space.key(name).ok()?)?;
        Some(Document { name: name.to_owned(), revision: stored.revision, value: stored.value })
    }

    /// All documents of a space, from memory.
    pub fn documents(&self, space: Space) -> Vec<Document> {
        self.inner.documents.list(space)
    }

    /// Told whenever a document changed: then read what is of interest.
    pub fn watch_documents(&self) -> watch::Receiver<u64> {
        self.inner.documents.watch()
    }

    /// Writes a document (`None`: removes it) if its revision is still `expected`, 0 for one that is not there. The new
    /// revision. It waits for the store, at most some seconds: no call does this.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else wrote it, and when the store does not answer: then it may have been written
    /// all the same.
    pub async fn compare_and_set(
        &self,
        space: Space,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<u64, StoreError> {
        let key = space.key(name)?;
        let bytes = value.as_ref().map_or(0, Bytes::len);
        if bytes > MOST_BYTES {
            return Err(StoreError::TooLong { bytes, most: MOST_BYTES });
        }
        match &self.inner.store {
            Store::Embedded => {
                let documents = Arc::clone(&self.inner.documents);
                blocking(move || documents.write_here(&key, expected, value)).await
            }
            Store::Nats { kv, link, .. } => {
                let client = link.borrow().clone();
                let revision = kv.write(client, &key, expected, value.clone()).await?;
                // The watch may be late: whoever wrote reads what was written.
                self.inner.documents.apply(&key, revision, value);
                Ok(revision)
            }
        }
    }

    /// Takes a lease for an exclusive job; `None`: another node holds it. `ttl`: how long it outlives its holder, at least
    /// 15 s.
    ///
    /// # Errors
    /// When the store does not answer: then nobody may do the job.
    pub async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        if !is_token(name) {
            return Err(StoreError::Name(name.to_owned()));
        }
        if ttl < LEAST_LIFE {
            return Err(StoreError::ShortLease(LEAST_LIFE));
        }
        match &self.inner.store {
            Store::Embedded => {
                let documents = Arc::clone(&self.inner.documents);
                let fence = blocking(move || documents.fence_here()).await?;
                Ok(Some(Lease::endless(name.to_owned(), fence)))
            }
            Store::Nats { leases, .. } => leases.acquire(name, ttl).await,
        }
    }

    /// Tells other systems of an event; `false`: it was dropped, and counted. A single node has nobody to tell.
    pub fn publish(&self, kind: EventKind, payload: &[u8]) -> bool {
        events::push(&self.inner.events, &self.inner.gauges, kind, payload)
    }

    /// How it is doing.
    pub fn health(&self) -> Health {
        let Inner { memory, documents, keeper, gauges, .. } = &*self.inner;
        let (joined, soft, peers) = memory.ask(|soft| {
            let peers = soft.peers().map(|(node, incarnation)| (node.to_string(), incarnation)).collect();
            (soft.is_joined(), soft.counters(), peers)
        });
        Health {
            connection: gauges.connection(),
            joined,
            documents_current: documents.is_current(),
            connects: gauges.connects.get(),
            sends_dropped: gauges.sends_dropped.get(),
            slow: gauges.slow.get(),
            keep_waiting: u64::try_from(keeper.waiting()).unwrap_or(u64::MAX),
            kept: gauges.kept.get(),
            keep_dropped: gauges.keep_dropped.get(),
            restored: gauges.restored.get(),
            events: gauges.events.get(),
            events_dropped: gauges.events_dropped.get(),
            documents_reseeded: gauges.documents_reseeded.get(),
            soft,
            peers,
        }
    }

    /// Ends its tasks, after what waits to be kept had a chance, at most `within`.
    pub async fn shutdown(&self, within: Duration) {
        let until = Instant::now() + within;
        while self.inner.keeper.waiting() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        tasks.shutdown().await;
        if matches!(self.inner.store, Store::Nats { .. }) {
            save(&self.inner.documents).await;
        }
    }
}

/// What is made before the rest.
struct Started {
    memory: Arc<Memory>,
    documents: Arc<Documents>,
    keeper: Arc<Keeper>,
    gauges: Arc<Gauges>,
    tasks: JoinSet<()>,
}

impl Started {
    fn bus(&self, config: &ClusterConfig) -> (Bus, mpsc::Receiver<()>) {
        let (alone, asked) = mpsc::channel(1);
        let bus = Bus {
            memory: Arc::clone(&self.memory),
            keeper: Arc::clone(&self.keeper),
            gauges: Arc::clone(&self.gauges),
            prefix: format!("ferric.{}.soft.", config.cluster),
            node: config.identity.node.clone(),
            beside: config.beside.clone(),
            alone,
        };
        (bus, asked)
    }

    fn embedded(&mut self, config: &ClusterConfig, mut waiting: Waiting) -> Store {
        self.documents.set_current(true);
        let (bus, _) = self.bus(config);
        self.tasks.spawn(bus.run_alone());
        self.tasks.spawn(async move { while waiting.recv().await.is_some() {} });
        // The registrar's own journal keeps what a single node must not forget.
        let keeper = Arc::clone(&self.keeper);
        self.tasks.spawn(async move {
            loop {
                keeper.woken().await;
                while !keeper.take(1000).is_empty() {}
            }
        });
        Store::Embedded
    }

    fn nats(&mut self, config: &ClusterConfig, nats: &NatsConfig, waiting: Waiting) -> Store {
        let cluster = &config.cluster;
        let replicas = nats.replicas;
        let (sender, link) = watch::channel(None);
        let name = format!("ferric {}", config.identity.node);
        self.tasks.spawn(link::run(nats.clone(), name, sender, Arc::clone(&self.gauges)));
        let (bus, asked) = self.bus(config);
        self.tasks.spawn(bus.run(link.clone()));
        let keep = Keep {
            keeper: Arc::clone(&self.keeper),
            memory: Arc::clone(&self.memory),
            gauges: Arc::clone(&self.gauges),
            stream: format!("FERRIC-{cluster}-KEPT"),
            prefix: format!("ferric.{cluster}.kept."),
            node: config.identity.node.to_string(),
            replicas,
        };
        self.tasks.spawn(keep.clone().run_writing(link.clone()));
        self.tasks.spawn(keep.run_reading(link.clone(), asked));
        let kv = Kv {
            documents: Arc::clone(&self.documents),
            gauges: Arc::clone(&self.gauges),
            bucket: format!("ferric-{cluster}"),
            replicas,
        };
        self.tasks.spawn(kv.clone().run(link.clone()));
        self.tasks.spawn(keep_file(Arc::clone(&self.documents)));
        let outward =
            outward::run(waiting, link.clone(), format!("ferric.{cluster}.events."), Arc::clone(&self.gauges));
        self.tasks.spawn(outward);
        let leases = Leases {
            identity: config.identity.clone(),
            stream: format!("FERRIC-{cluster}-LEASES"),
            prefix: format!("ferric.{cluster}.lease."),
            replicas,
            link: link.clone(),
            seen: Arc::default(),
            held: Arc::default(),
        };
        Store::Nats { kv, leases, link }
    }
}

/// Writes the last-known-good file after changes.
async fn keep_file(documents: Arc<Documents>) {
    let mut changed = documents.watch();
    while changed.changed().await.is_ok() {
        save(&documents).await;
        tokio::time::sleep(SAVE_PAUSE).await;
    }
}

async fn save(documents: &Arc<Documents>) {
    let writing = Arc::clone(documents);
    let saved = blocking(move || writing.save().map_err(|error| StoreError::File(error.to_string()))).await;
    if let Err(error) = saved {
        tracing::error!(%error, "the last-known-good documents");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::File(error.to_string())))
}
