//! `ferric run`

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::logging;
use super::output::{complain, say};
use crate::config::{Config, Source};
use crate::node::Node;

pub(crate) fn run(file: Option<&Path>, data_dir: &Path) -> anyhow::Result<ExitCode> {
    logging::start("info");
    let (config, source) = match Source::open(file, data_dir) {
        Ok(opened) => opened,
        Err(complaints) => {
            complain!("{complaints}");
            return Ok(ExitCode::from(2));
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(serve(config, source))
}

async fn serve(config: Config, source: Source) -> anyhow::Result<ExitCode> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let drain_timeout = config.node.drain_timeout;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let node = Node::start_from(config, Some(source)).await?;
    announce(&node);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => node.reload().await,
        }
    }
    node.drain().await;
    let calls = node.calls();
    if calls > 0 {
        say!(
            "draining: no new calls; waiting up to {} s for {calls} running ones (once more ends them now)",
            drain_timeout.as_secs()
        );
    }
    let deadline = Instant::now() + drain_timeout;
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while node.calls() > 0 && Instant::now() < deadline {
        tokio::select! {
            _ = look.tick() => {}
            _ = hang_up.recv() => node.reload().await,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    node.stop().await;
    say!("stopped");
    Ok(ExitCode::SUCCESS)
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
    let what = if addresses.records {
        "point your SBC's SIPREC at this node"
    } else {
        "this node forwards and does not record"
    };
    say!("ready: {what}; Ctrl-C drains and stops");
}
