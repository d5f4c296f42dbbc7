//! What can go wrong, by boundary.

use std::path::PathBuf;

/// Why the shared state cannot start. NATS that is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The name fits no subject.
    #[error("the cluster's name has 1 to 64 letters, digits, `-` and `_`: `{0}` has not")]
    ClusterName(String),
    /// No server, or no number of replicas.
    #[error("a cluster names at least one NATS server and 1 to 5 replicas")]
    Servers,
    /// Not an address.
    #[error("`{0}` is no NATS server: nats://HOST:PORT or tls://HOST:PORT")]
    Server(String),
    /// The last-known-good file cannot be had.
    #[error("{file}: {error}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Why a document or a lease was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote since: read again and decide anew.
    #[error("the revision is not the expected one: somebody else wrote it")]
    Conflict,
    /// The name cannot be used.
    #[error("`{0}` is no name: 1 to 64 letters, digits, `-` and `_`")]
    Name(String),
    /// The value is too long.
    #[error("a document has at most {most} bytes, this one has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The time to live is too short to survive the death of a leader.
    #[error("a lease lives at least {0:?}")]
    ShortLease(std::time::Duration),
    /// The store is away, or did not answer in time. What was asked may have been done all the same.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// The file cannot be written.
    #[error("the file cannot be written: {0}")]
    File(String),
}
