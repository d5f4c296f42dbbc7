//! `ferric spool`: a look into the local spool, also while a node runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ferric_worker::spool::{REASON, Stage, recording_id};

use super::output::say;
use super::verify;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum SpoolCommand {
    /// List what is being recorded, what waits for the store, and what was set aside.
    Ls(Place),
    /// Put recordings that were set aside back in line for the store.
    Retry {
        #[command(flatten)]
        place: Place,
        /// Only this recording.
        id: Option<String>,
    },
    /// Check the finished recordings in the spool against their manifests.
    Verify(Place),
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Configuration file of the node.
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    config: Option<PathBuf>,
    /// Data folder of the node.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// The node's data folder.
    pub(crate) fn data_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(match (&self.config, &self.data_dir) {
            (Some(file), _) => Config::load(file)?.node.data_dir,
            (None, Some(folder)) => folder.clone(),
            (None, None) => PathBuf::from("ferric-data"),
        })
    }

    fn spool(&self) -> anyhow::Result<PathBuf> {
        let spool = self.data_dir()?.join("spool");
        if !spool.is_dir() {
            bail!("there is no spool at {}: name the node's --config or --data-dir", spool.display());
        }
        Ok(spool)
    }
}

fn entries(spool: &Path, stage: Stage) -> anyhow::Result<Vec<PathBuf>> {
    let folder = spool.join(stage.folder());
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(found) };
    for entry in entries {
        found.push(entry.with_context(|| format!("{} cannot be read", folder.display()))?.path());
    }
    found.sort();
    Ok(found)
}

pub(crate) fn run(command: &SpoolCommand) -> anyhow::Result<ExitCode> {
    match command {
        SpoolCommand::Ls(place) => list(&place.spool()?),
        SpoolCommand::Retry { place, id } => retry(&place.spool()?, id.as_deref()),
        SpoolCommand::Verify(place) => verify_ready(&place.spool()?),
    }
}

fn list(spool: &Path) -> anyhow::Result<ExitCode> {
    let mut count = 0;
    for stage in Stage::ALL {
        for folder in entries(spool, stage)? {
            let size: u64 = std::fs::read_dir(&folder)
                .map(|files| {
                    files.flatten().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
                })
                .unwrap_or(0);
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let reason = std::fs::read_to_string(folder.join(REASON)).unwrap_or_default();
            say!("{:<10} {name}  {:>10} bytes  {}", stage.folder(), size, reason.trim());
            count += 1;
        }
    }
    if count == 0 {
        say!("the spool is empty: nothing is being recorded and nothing waits");
    }
    Ok(ExitCode::SUCCESS)
}

fn retry(spool: &Path, wanted: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut moved = 0;
    for folder in entries(spool, Stage::Aside)? {
        let Some(id) = recording_id(&folder) else { continue };
        if wanted.is_some_and(|wanted| wanted != id.to_string()) {
            continue;
        }
        if let Err(error) = verify::check(&folder, None) {
            say!("{id} stays aside: {error:#}");
            continue;
        }
        let _ = std::fs::remove_file(folder.join(REASON));
        let to = spool.join(Stage::Ready.folder()).join(id.to_string());
        std::fs::rename(&folder, &to).with_context(|| format!("{} cannot be moved", folder.display()))?;
        say!("{id} waits for the store again");
        moved += 1;
    }
    if let (Some(wanted), 0) = (wanted, moved) {
        bail!("no recording {wanted} was put back; `ferric spool ls` shows what is there");
    }
    say!("{moved} put back; a running node looks for them by itself");
    Ok(ExitCode::SUCCESS)
}

fn verify_ready(spool: &Path) -> anyhow::Result<ExitCode> {
    let (mut good, mut bad) = (0, 0);
    for folder in entries(spool, Stage::Ready)? {
        match verify::check(&folder, None) {
            Ok(_) => good += 1,
            Err(error) => {
                bad += 1;
                say!("WRONG {}: {error:#}", folder.display());
            }
        }
    }
    say!("{good} whole, {bad} wrong");
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
