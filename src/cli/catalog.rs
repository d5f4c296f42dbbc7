//! `ferric catalog`: the catalogue made again from what the tenants' stores hold.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ferric_media::keys::PrivateKey;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::say;
use crate::config::Config;
use crate::node::rebuild_catalogue;

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Read every manifest of the tenants' stores into the catalogue. Takes nothing away, may be repeated, may run beside
    /// nodes.
    Rebuild(RebuildArguments),
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArguments {
    /// Configuration file of a node: its catalogue and its tenants' stores.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A tenant's private key: parties, tags and ids are read from what it opens. Can be given several times.
    #[arg(long = "key", value_name = "PRIVATE.pem")]
    keys: Vec<PathBuf>,
}

pub(crate) fn run(command: &CatalogCommand) -> anyhow::Result<ExitCode> {
    let CatalogCommand::Rebuild(arguments) = command;
    let config = Config::load(&arguments.config)?;
    let keys = arguments.keys.iter().map(|file| {
        let pem =
            std::fs::read_to_string(file).with_context(|| format!("the key {} cannot be read", file.display()))?;
        PrivateKey::from_pem(&pem).with_context(|| format!("{}", file.display()))
    });
    let keys: Arc<[PrivateKey]> = keys.collect::<anyhow::Result<Vec<_>>>()?.into();
    let progress = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rebuilt = runtime.block_on(rebuild_catalogue(&config, keys, |tenant, sums| {
        progress.set_message(format!("{tenant}: {} manifests", sums.manifests));
        progress.tick();
    }));
    progress.finish_and_clear();
    let mut damaged = 0;
    for (tenant, sums) in rebuilt? {
        damaged += sums.damaged;
        say!(
            "{tenant}: {} recordings and parts written down, {} with parties and tags, {} manifests damaged",
            sums.manifests,
            sums.metadata,
            sums.damaged
        );
    }
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
