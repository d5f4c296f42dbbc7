//! `ferric drain`: a node takes no new calls, so that it can be stopped without losing one.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::api::{Api, ApiArguments};
use super::output::say;
use crate::console::NodeView;

/// Between two looks with `--wait`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What `ferric drain` takes.
#[derive(Debug, Args)]
pub(super) struct DrainArguments {
    /// The node's id; any node of the cluster can be asked.
    node: String,
    /// Let it take calls again.
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    /// Come back when its last call is over.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    api: ApiArguments,
}

pub(super) fn run(arguments: &DrainArguments) -> anyhow::Result<ExitCode> {
    let (api, id) = (arguments.api.open()?, &arguments.node);
    let what = if arguments.undo { "enable" } else { "drain" };
    let node: NodeView = serde_json::from_slice(&api.post(&format!("/api/v1/nodes/{id}/{what}"))?)?;
    if arguments.undo {
        say!("{id} takes calls again");
        return Ok(ExitCode::SUCCESS);
    }
    let left = running(&node).context("the node did not say how many calls it has")?;
    say!("{id} takes no new calls; {}", told(left));
    if arguments.wait {
        wait(&api, id, left)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn wait(api: &Api, id: &str, mut left: u64) -> anyhow::Result<()> {
    while left > 0 {
        std::thread::sleep(LOOK_EVERY);
        let node: NodeView = serde_json::from_slice(&api.get(&format!("/api/v1/nodes/{id}"))?)?;
        if matches!(node.state.as_str(), "left" | "down") {
            say!("{id} has ended");
            return Ok(());
        }
        // One that does not answer at the moment is asked again.
        let Some(now) = running(&node) else { continue };
        if now != left {
            say!("{id}: {}", told(now));
            left = now;
        }
    }
    Ok(())
}

fn running(node: &NodeView) -> Option<u64> {
    // A node of an older version does not say what is `running`.
    node.status.as_ref().map(|status| status.load.running.max(status.load.calls + status.load.passing))
}

fn told(left: u64) -> String {
    match left {
        0 => "no call runs on it: it can be stopped".to_owned(),
        1 => "1 call runs on".to_owned(),
        more => format!("{more} calls run on"),
    }
}
