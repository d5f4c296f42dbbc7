//! `ferric run`

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::logging;
use super::output::{complain, say};
use crate::config::Config;
use crate::node::Node;

pub(crate) fn run(file: Option<&Path>, data_dir: &Path) -> anyhow::Result<ExitCode> {
    logging::start("info");
    let config = match file {
        Some(file) => match Config::load(file) {
            Ok(config) => config,
            Err(complaints) => {
                complain!("{complaints}");
                return Ok(ExitCode::from(2));
            }
        },
        None => Config::embedded(data_dir),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(serve(config, file))
}

async fn serve(config: Config, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let drain_timeout = config.node.drain_timeout;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let node = Node::start(config).await?;
    announce(&node);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(file),
        }
    }
    node.drain();
    let calls = node.calls();
    if calls > 0 {
        say!("draining: no new calls; waiting up to {} s for {calls} running ones (once more ends them now)", drain_timeout.as_secs());
    }
    let deadline = Instant::now() + drain_timeout;
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while node.calls() > 0 && Instant::now() < deadline {
        tokio::select! {
            _ = look.tick() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    node.stop().await;
    say!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Checks the file and says what comes of it: this version applies it at the next start.
fn reload(file: Option<&Path>) {
    let Some(file) = file else {
        tracing::warn!("SIGHUP: there is no configuration file to read again");
        return;
    };
    match Config::load(file) {
        Ok(_) => tracing::warn!(file = %file.display(), "SIGHUP: the file is fine; restart to apply it (calls drain on SIGTERM)"),
        Err(complaints) => tracing::error!("SIGHUP: the file is not fine, nothing changes\n{complaints}"),
    }
}

fn announce(node: &Node) {
    let addresses = node.addresses();
    for (transport, address) in &addresses.sip {
        say!("sip   {} {address}", transport.as_str().to_ascii_lowercase());
    }
    say!("web   http://{}/", addresses.console);
    say!("data  {}", addresses.data_dir.display());
    say!("token {} (for the API)", addresses.token_file.display());
    if addresses.recovered > 0 {
        say!("{} recordings that had been cut off were finished as recovered", addresses.recovered);
    }
    say!("ready: point your SBC's SIPREC at this node; Ctrl-C drains and stops");
}
