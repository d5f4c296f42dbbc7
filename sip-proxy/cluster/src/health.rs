//! How the shared state is doing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ferric_state::soft::Counters;

/// The connection to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// There is none to have: a single node.
    Embedded,
    /// Not connected yet, or not any more; tried again. Why, as far as it is known.
    Away(String),
    /// Connected.
    Up,
    /// A server is there and refuses this node: credentials or certificates are wrong. Tried again, slowly.
    Refused(String),
}

/// What [`crate::ClusterState::health`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The connection.
    pub connection: Connection,
    /// Whether soft state was fetched from another node, or nobody was there.
    pub joined: bool,
    /// Whether documents are those of the store; `false`: the last ones that were known.
    pub documents_current: bool,
    /// How often the connection was made.
    pub connects: u64,
    /// Messages between nodes that were not sent: no connection, or a slow one. Digests make up for them.
    pub sends_dropped: u64,
    /// Messages that this node read too slowly.
    pub slow: u64,
    /// Records that wait to be kept in JetStream.
    pub keep_waiting: u64,
    /// Records that are kept.
    pub kept: u64,
    /// Records that found no room to wait.
    pub keep_dropped: u64,
    /// Records read back.
    pub restored: u64,
    /// Events published.
    pub events: u64,
    /// Events that found no room to wait.
    pub events_dropped: u64,
    /// Whether the store lost its documents at some time, and this node wrote them anew.
    pub documents_reseeded: u64,
    /// Soft state.
    pub soft: Counters,
    /// Nodes that are heard, with their incarnations.
    pub peers: Vec<(String, u64)>,
}

/// The numbers behind it.
#[derive(Debug)]
pub(crate) struct Gauges {
    connection: Mutex<Connection>,
    pub(crate) connects: Count,
    pub(crate) sends_dropped: Count,
    pub(crate) slow: Count,
    pub(crate) kept: Count,
    pub(crate) keep_dropped: Count,
    pub(crate) restored: Count,
    pub(crate) events: Count,
    pub(crate) events_dropped: Count,
    pub(crate) documents_reseeded: Count,
}

impl Gauges {
    pub(crate) fn new(connection: Connection) -> Gauges {
        Gauges {
            connection: Mutex::new(connection),
            connects: Count::default(),
            sends_dropped: Count::default(),
            slow: Count::default(),
            kept: Count::default(),
            keep_dropped: Count::default(),
            restored: Count::default(),
            events: Count::default(),
            events_dropped: Count::default(),
            documents_reseeded: Count::default(),
        }
    }

    pub(crate) fn connection(&self) -> Connection {
        lock(&self.connection).clone()
    }

    pub(crate) fn set_connection(&self, connection: Connection) {
        let mut current = lock(&self.connection);
        if *current != connection {
            match &connection {
                Connection::Embedded => {}
                Connection::Up => tracing::info!("NATS: connected"),
                Connection::Away(why) => {
                    tracing::warn!(%why, "NATS: not connected; this node goes on with what it knows")
                }
                Connection::Refused(why) => tracing::error!(%why, "NATS refuses this node"),
            }
            *current = connection;
        }
    }
}

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Locks; what a panic elsewhere left is as whole as any: nothing here is half changed between two lines.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
