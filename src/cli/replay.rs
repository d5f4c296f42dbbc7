//! `ferric replay`: what another configuration would do with recorded traffic.

use std::fs::File;
use std::io::{BufReader, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ferric_proxy::{Listener, ProxyConfig};
use indicatif::{ProgressBar, ProgressStyle};

use super::output::{complain, say};
use crate::config::Config;
use crate::replay::{self, Down, Input, ReplayError, Report, Settings};

/// The exit code of a configuration or a log that cannot be used.
const UNUSABLE: u8 = 2;
/// Bytes read at once.
const BUFFER: usize = 256 << 10;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when no request would fail that did not fail before, 1 when one would, 2 when the \
                        configuration or a log cannot be used."
)]
pub(crate) struct ReplayArguments {
    /// The candidate configuration (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A log of finished requests; - is standard input. Several are merged by time.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    log: Vec<PathBuf>,
    /// What if that element dies: 10.0.0.11:5060@10:05, pool/*@10:05-10:20, or with dates (RFC 3339). Times of day are UTC.
    #[arg(long, value_name = "ELEMENT@FROM[-TO]")]
    down: Vec<Down>,
    /// Chance of the shares by weight: the same seed gives the same result.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &ReplayArguments) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(complaints) => {
            complain!("{complaints}");
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let Some(candidate) = candidate(&config) else {
        complain!("ferric: {} has no [proxy] at work: there are no routes to replay with", arguments.config.display());
        return Ok(ExitCode::from(UNUSABLE));
    };
    let settings = Settings { seed: arguments.seed, down: arguments.down.clone() };
    match replay(&candidate, &settings, &arguments.log) {
        Ok(report) => {
            if arguments.json {
                say!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                say!("{} with {}", names(&arguments.log), arguments.config.display());
                say!("{report}");
            }
            Ok(if report.new_failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => {
            complain!("ferric: {error}");
            Ok(ExitCode::from(UNUSABLE))
        }
    }
}

fn replay(candidate: &ProxyConfig, settings: &Settings, logs: &[PathBuf]) -> Result<Report, ReplayError> {
    let mut inputs = Vec::new();
    let mut length = Some(0);
    let mut logs: Vec<&PathBuf> = logs.iter().collect();
    // Standard input can be had once, and the same file twice is a slip.
    logs.sort();
    logs.dedup();
    for log in logs {
        let (input, bytes) = open(log)?;
        inputs.push(input);
        length = length.zip(bytes).map(|(sum, bytes)| sum + bytes);
    }
    let bar = progress(length);
    let report = replay::run(candidate, settings, inputs, &mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    report
}

/// A log, and its length when it is a file.
fn open(log: &Path) -> Result<(Input, Option<u64>), ReplayError> {
    if log.as_os_str() == "-" {
        return Ok((Input { name: "standard input".to_owned(), reader: Box::new(std::io::stdin().lock()) }, None));
    }
    let name = log.display().to_string();
    let wrong = |error| ReplayError::Read { name: name.clone(), error };
    let file = File::open(log).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Input { name, reader: Box::new(BufReader::with_capacity(BUFFER, file)) }, length))
}

fn progress(length: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() || length.is_some_and(|length| length < 4 << 20) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:40} {bytes}/{total_bytes} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn names(logs: &[PathBuf]) -> String {
    let names: Vec<String> = logs
        .iter()
        .map(|log| if log.as_os_str() == "-" { "standard input".to_owned() } else { log.display().to_string() })
        .collect();
    names.join(", ")
}

/// The proxy's part of a configuration; addresses are those of the file, nothing is bound.
fn candidate(config: &Config) -> Option<ProxyConfig> {
    let proxy = config.proxy.as_ref()?;
    let media = config.capture.advertise.unwrap_or(config.capture.rtp_address);
    let listeners = config.sip.listeners.iter().map(|listener| {
        // The machine that the file is for is not this one: a wildcard address stands for the one that it shows to others.
        let shown =
            listener.address.ip().is_unspecified().then(|| SocketAddr::new(media, listener.address.port()).to_string());
        Listener {
            transport: listener.transport,
            address: listener.address,
            advertise: listener.advertise.clone().or(shown),
        }
    });
    let mut candidate = ProxyConfig::new(listeners.collect(), config.trust_table(), |_| false);
    proxy.apply_to(&mut candidate);
    Some(candidate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TENANT: &str = "[[tenant]]\nname = \"acme\"\npublic_keys = [\"acme.public.pem\"]\nstore = \"file://store\"\n";
    const POOL: &str = "[proxy]\n[[proxy.server_group]]\nname = \"pool\"\nelement = [{ address = \"10.0.0.1\" }]\n\
                        [[proxy.route]]\nname = \"calls\"\nto = \"pool\"\n";
    const LINE: &str = r#"{"t":1700000000,"m":"INVITE","id":"a@b","ru":"sip:1@example.com","src":"10.9.9.9:5060","on":"udp:10.0.0.5:5060","rule":"calls","grp":"pool","el":"10.0.0.1","n":1,"st":200,"ms":20,"why":"upstream"}"#;

    #[test]
    fn the_exit_code_says_what_would_happen() {
        let folder = tempfile::tempdir().unwrap();
        let key = ferric_media::keys::PrivateKey::generate(&mut rand::rng()).unwrap();
        std::fs::write(folder.path().join("acme.public.pem"), key.public().to_pem().unwrap()).unwrap();
        let (file, log) = (folder.path().join("new.toml"), folder.path().join("requests.jsonl"));
        let exit = |config: &str, lines: &str, down: &[&str]| {
            std::fs::write(&file, config).unwrap();
            std::fs::write(&log, lines).unwrap();
            let down = down.iter().map(|text| text.parse().unwrap()).collect();
            run(&ReplayArguments { config: file.clone(), log: vec![log.clone()], down, seed: 1, json: true }).unwrap()
        };
        let good = format!("{TENANT}{POOL}");
        assert_eq!(exit(&good, LINE, &[]), ExitCode::SUCCESS);
        assert_eq!(exit(&good, LINE, &["pool/*@00:00"]), ExitCode::FAILURE);
        assert_eq!(exit(&good, "no log", &[]), ExitCode::from(UNUSABLE));
        assert_eq!(exit(&good, LINE, &["10.0.0.2@00:00"]), ExitCode::from(UNUSABLE));
        assert_eq!(exit(TENANT, LINE, &[]), ExitCode::from(UNUSABLE), "no [proxy]");
        assert_eq!(exit("[proxy", LINE, &[]), ExitCode::from(UNUSABLE));
        let none = run(&ReplayArguments {
            config: file,
            log: vec![folder.path().join("none")],
            down: vec![],
            seed: 1,
            json: false,
        });
        assert_eq!(none.unwrap(), ExitCode::from(UNUSABLE));
    }
}
