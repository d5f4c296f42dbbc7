//! A lease: the right to do what only one node may do.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Leases live at least as long: the death of a leader stops writes for up to 5 s.
pub(crate) const LEAST_LIFE: Duration = Duration::from_secs(15);

/// A lease that is held, renewed until it is dropped. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    name: String,
    fence: u64,
    /// Until when it is certain; `None`: lost, or never to end.
    until: watch::Receiver<Option<Instant>>,
    endless: bool,
    renewing: Option<AbortHandle>,
    release: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Lease {
    /// Of a node that has no others.
    pub(crate) fn endless(name: String, fence: u64) -> Lease {
        let until = watch::Sender::new(None).subscribe();
        Lease { name, fence, until, endless: true, renewing: None, release: None }
    }

    /// Renewed by a task, which gives it back when `release` is told or dropped.
    pub(crate) fn renewed(
        name: String,
        fence: u64,
        until: watch::Receiver<Option<Instant>>,
        renewing: AbortHandle,
        release: tokio::sync::oneshot::Sender<()>,
    ) -> Lease {
        Lease { name, fence, until, endless: false, renewing: Some(renewing), release: Some(release) }
    }

    /// What it is for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Larger than that of every holder before. Whatever is written under the lease carries it, and whoever receives that
    /// refuses a smaller one than the largest it has seen.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Whether it is certain that nobody else holds it now, by this node's own monotonic clock.
    pub fn is_held(&self) -> bool {
        self.endless || self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it is lost.
    pub async fn lost(&mut self) {
        if self.endless {
            return std::future::pending().await;
        }
        loop {
            let Some(until) = *self.until.borrow_and_update() else { return };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                changed = self.until.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(release) = self.release.take()
            && release.send(()).is_err()
            && let Some(renewing) = &self.renewing
        {
            renewing.abort();
        }
    }
}
