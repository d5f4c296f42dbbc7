//! A thread with a runtime of its own: what runs on it waits for nothing else of the node.

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// It ends, with whatever runs on it, when it is dropped.
pub(super) struct OwnThread {
    /// Where to spawn.
    pub(super) handle: Handle,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OwnThread {
    pub(super) fn start(name: &str) -> anyhow::Result<OwnThread> {
        let failed = || format!("cannot start the thread \"{name}\"");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(failed)?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        let run = move || runtime.block_on(async move { stopped.cancelled().await });
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).with_context(failed)?;
        Ok(OwnThread { handle, stop, thread: Some(thread) })
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
