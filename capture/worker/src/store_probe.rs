//! Tries a store when it is configured: an error shows to the person who made it, not at the first call.
//!
//! A small object is put, read back, put again under the condition that it
//! does not exist, and deleted. What is learned:
//!
//! * whether the store can be reached and written at all (an error otherwise);
//! * whether put-if-absent is *honoured*. Some stores ignore the condition and
//!   say 200; it is only ever a second net, keys are unique by themselves;
//! * whether we may delete. A write-once store may refuse, which is fine.

use std::time::{Duration, Instant};

use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use crate::store::Target;

/// How long a probe may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a probe learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whether a conditional put of an existing key is refused.
    pub put_if_absent: bool,
    /// Why the probe's object could not be deleted, if so.
    pub delete_refused: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// An operation failed.
    #[error("cannot {action} {key}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// With which object.
        key: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The store returns something else than was put.
    #[error("{key} reads back as {found} bytes, {expected} other bytes were put")]
    Different {
        /// Which object.
        key: String,
        /// Bytes read.
        found: usize,
        /// Bytes put.
        expected: usize,
    },
    /// No answer in time.
    #[error("the store does not answer within {} s", PROBE_TIMEOUT.as_secs())]
    Timeout,
}

/// Probes a target and notes in it whether put-if-absent can be used.
///
/// # Errors
/// The store cannot be written or read.
pub async fn probe(target: &mut Target) -> Result<Probe, ProbeError> {
    let begun = Instant::now();
    let probe = tokio::time::timeout(PROBE_TIMEOUT, run(target)).await.map_err(|_| ProbeError::Timeout)??;
    target.put_if_absent = probe.put_if_absent;
    Ok(Probe { took: begun.elapsed(), ..probe })
}

async fn run(target: &Target) -> Result<Probe, ProbeError> {
    let key = target.prefix.clone().join("probe").join(format!("{}.txt", Uuid::now_v7()));
    let body = format!("Ferric tried this store with {key}.\n");
    let failed = |action: &'static str| {
        let key = key.to_string();
        move |source| ProbeError::Store { action, key, source }
    };
    let store = &target.store;
    store.put(&key, PutPayload::from(body.clone())).await.map_err(failed("put"))?;
    let read = store.get(&key).await.map_err(failed("get"))?.bytes().await.map_err(failed("read"))?;
    if read != body.as_bytes() {
        return Err(ProbeError::Different { key: key.to_string(), found: read.len(), expected: body.len() });
    }
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put_if_absent = match store.put_opts(&key, PutPayload::from(body), create).await {
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => true,
        Ok(_) => false,
        Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => false,
        Err(source) => return Err(failed("put conditionally")(source)),
    };
    let delete_refused = store.delete(&key).await.err().map(|error| error.to_string());
    Ok(Probe { put_if_absent, delete_refused, took: Duration::ZERO })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use futures::TryStreamExt as _;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_good_store_passes_and_nothing_is_left_in_it() {
        let store = Arc::new(InMemory::new());
        let mut target = Target::new(store.clone(), "acme").unwrap();
        let probe = probe(&mut target).await.unwrap();
        assert!(probe.put_if_absent && target.put_if_absent);
        assert_eq!(probe.delete_refused, None);
        use object_store::ObjectStore as _;
        assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_folder_passes_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = crate::store::open_target(&format!("file://{}", dir.path().display()), "acme").unwrap();
        assert!(probe(&mut target).await.unwrap().put_if_absent);
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_named() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut target = crate::store::open_target("http://127.0.0.1:1/dav", "acme").unwrap();
        let error = probe(&mut target).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot put acme/probe/"), "{error}");
    }
}
