//! `ferric import`: configurations of other products, turned into one of Ferric.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::output::{complain, say};
use crate::import::cusp;

/// The exit code of a file that is something else.
const NOT_UNDERSTOOD: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Cisco Unified SIP Proxy: what `show configuration active` prints.
    Cusp(CuspArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CuspArguments {
    /// The configuration of CUSP; - is standard input.
    file: PathBuf,
    /// Where to write Ferric's; standard output without it, and the summary on standard error.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Exit 1 if anything was left out.
    #[arg(long)]
    strict: bool,
}

pub(crate) fn run(command: &ImportCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImportCommand::Cusp(arguments) => cusp(arguments),
    }
}

fn cusp(arguments: &CuspArguments) -> anyhow::Result<ExitCode> {
    let (text, name) = read(&arguments.file)?;
    let imported = match cusp::import(&text, &name) {
        Ok(imported) => imported,
        Err(error) => {
            complain!("ferric: {name}: {error}");
            return Ok(ExitCode::from(NOT_UNDERSTOOD));
        }
    };
    let (groups, routes) = imported.counts;
    let summary = format!("{}{groups} server groups and {routes} routes", imported.report);
    match &arguments.output {
        Some(output) => {
            write(output, &imported.toml)?;
            say!("{summary} written to {}", output.display());
        }
        None => {
            say!("{}", imported.toml.trim_end());
            complain!("{summary}");
        }
    }
    let failed = arguments.strict && imported.report.has_left_out();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The text, whatever its encoding, and what to call it.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
        return Ok((String::from_utf8_lossy(&bytes).into_owned(), "standard input".to_owned()));
    }
    let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let name = file.file_name().map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into_owned());
    Ok((String::from_utf8_lossy(&bytes).into_owned(), name))
}

/// Never over a file that is there: it may be the configuration of a running node.
fn write(output: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(output) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already and is not overwritten: name another -o", output.display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot write {}", output.display())),
    };
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", output.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CUSP: &str = "sip listen n udp 192.0.2.5 5060\nsip alias x.example.com\nend\n";

    fn exit(file: &Path, output: Option<PathBuf>, strict: bool) -> anyhow::Result<ExitCode> {
        cusp(&CuspArguments { file: file.to_owned(), output, strict })
    }

    #[test]
    fn the_exit_code_says_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("cusp.txt"), folder.path().join("bad.txt"));
        std::fs::write(&good, CUSP).unwrap();
        std::fs::write(&bad, [0xff, b'x', 0, b'\n']).unwrap();
        let out = |name: &str| Some(folder.path().join(name));
        assert_eq!(exit(&good, out("a.toml"), false).unwrap(), ExitCode::SUCCESS);
        assert_eq!(exit(&good, out("b.toml"), true).unwrap(), ExitCode::FAILURE, "an alias is left out");
        assert_eq!(exit(&bad, out("c.toml"), false).unwrap(), ExitCode::from(NOT_UNDERSTOOD));
        assert!(!folder.path().join("c.toml").exists());
        let again = exit(&good, out("a.toml"), false).unwrap_err();
        assert!(again.to_string().contains("is not overwritten"), "{again}");
        assert!(exit(&folder.path().join("none"), None, false).unwrap_err().to_string().contains("cannot be read"));
    }
}
