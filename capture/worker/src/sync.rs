//! Group sync: one thread that brings what all calls wrote to the disk, at most every 0.7 s.
//!
//! Each call appends a few kilobytes a second. An `fdatasync` a call would be
//! hundreds of disk flushes a second for the same data; one `syncfs` serves
//! them all. What a power failure can cost is the unsealed second plus the
//! interval plus the length of one sync; the end of the process alone costs
//! nothing that was written.
//!
//! A sync that fails is counted and reported, and tried again at the next
//! interval even if nothing new was written: the system tells an error once,
//! and the next success covers only what was still in memory, so the count is
//! an alarm and not a hiccup.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::spool::{Spool, SpoolError};

/// Time between the ends of two syncs while something is dirty.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(700);

/// "Something was written." Cheap to clone; raising it is one atomic store.
#[derive(Debug, Clone, Default)]
pub struct DirtyFlag(Arc<AtomicBool>);

impl DirtyFlag {
    /// Something was written.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Lowers the flag; whether it was up.
    pub fn lower(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// What the sync thread did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Syncs that failed.
    pub failures: u64,
    /// Duration of the last one, in microseconds.
    pub last_us: u64,
}

#[derive(Debug, Default)]
struct Shared {
    syncs: AtomicU64,
    failures: AtomicU64,
    last_us: AtomicU64,
    stop: Mutex<bool>,
    woken: Condvar,
}

/// The running thread. Dropping it syncs once more and waits for the end.
#[derive(Debug)]
pub struct GroupSync {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl GroupSync {
    /// Starts the thread for a spool.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(spool: Spool, interval: Duration) -> std::io::Result<GroupSync> {
        let dirty = spool.dirty().clone();
        GroupSync::with(dirty, interval, move || spool.sync())
    }

    /// As [`GroupSync::start`], with the sync itself handed in.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn with(
        dirty: DirtyFlag,
        interval: Duration,
        mut sync: impl FnMut() -> Result<(), SpoolError> + Send + 'static,
    ) -> std::io::Result<GroupSync> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("spool-sync".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                loop {
                    let stop = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
                    let (stop, _) = shared
                        .woken
                        .wait_timeout_while(stop, interval, |stop| !*stop)
                        .unwrap_or_else(PoisonError::into_inner);
                    let last = *stop;
                    drop(stop);
                    if dirty.lower() {
                        let begun = Instant::now();
                        match sync() {
                            Ok(()) => {
                                shared.syncs.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                shared.failures.fetch_add(1, Ordering::Relaxed);
                                tracing::error!(%error, "the spool's file system cannot be synced");
                                dirty.raise();
                            }
                        }
                        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                        shared.last_us.store(took, Ordering::Relaxed);
                    }
                    if last {
                        return;
                    }
                }
            }
        })?;
        Ok(GroupSync { shared, thread: Some(thread) })
    }

    /// What it did so far.
    pub fn stats(&self) -> SyncStats {
        SyncStats {
            syncs: self.shared.syncs.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            last_us: self.shared.last_us.load(Ordering::Relaxed),
        }
    }
}

impl Drop for GroupSync {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.woken.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
    use crossbeam_channel::{Receiver, unbounded};

    fn counted(fail_first: bool) -> (DirtyFlag, GroupSync, Receiver<()>) {
        let dirty = DirtyFlag::default();
        let (sender, receiver) = unbounded();
        let mut fail = fail_first;
        let sync = GroupSync::with(dirty.clone(), Duration::from_millis(1), move || {
            let _ = sender.send(());
            if std::mem::take(&mut fail) {
                return Err(SpoolError::Locked("x".into()));
            }
            Ok(())
        })
        .unwrap();
        (dirty, sync, receiver)
    }

    #[test]
    fn one_sync_covers_many_writes_and_idle_costs_none() {
        let (dirty, sync, syncs) = counted(false);
        dirty.raise();
        dirty.raise();
        syncs.recv().unwrap();
        drop(sync);
        assert!(syncs.try_recv().is_err());
    }

    #[test]
    fn a_failed_sync_is_counted_and_tried_again() {
        let (dirty, sync, syncs) = counted(true);
        dirty.raise();
        syncs.recv().unwrap();
        syncs.recv().unwrap();
        let shared = Arc::clone(&sync.shared);
        drop(sync);
        assert_eq!(shared.failures.load(Ordering::Relaxed), 1);
        assert_eq!(shared.syncs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_end_syncs_what_is_left() {
        let dirty = DirtyFlag::default();
        let (sender, syncs) = unbounded();
        let sync = GroupSync::with(dirty.clone(), Duration::from_secs(3600), move || {
            let _ = sender.send(());
            Ok(())
        })
        .unwrap();
        dirty.raise();
        drop(sync);
        assert_eq!(syncs.len(), 1);
    }

    #[test]
    fn a_real_file_system_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        Spool::open(dir.path()).unwrap().sync().unwrap();
    }
}
