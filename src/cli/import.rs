//! `ferric import`: configurations of other products, turned into one of Ferric.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::output::{complain, say};
use crate::import::cusp;

/// The exit code of a file that is something else.
const NOT_UNDERSTOOD: u8 = 2;
/// The largest tables of an appliance are a tenth of it.
const MOST_BYTES: usize = 8 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Cisco Unified SIP Proxy: what `show configuration active` prints.
    Cusp(CuspArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CuspArguments {
    /// The configuration of CUSP; - is standard input.
    file: PathBuf,
    /// Where to write Ferric's, readable by its owner alone; standard output without it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    /// Exit 1 if a line could not be carried over.
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
    match &arguments.output {
        Some(output) => {
            write(output, &imported.toml, arguments.force)?;
            complain!("{}{groups} server groups and {routes} routes written to {}", imported.report, output.display());
        }
        None => {
            say!("{}", imported.toml.trim_end());
            complain!("{}{groups} server groups and {routes} routes", imported.report);
        }
    }
    let failed = arguments.strict && imported.report.has_left_out();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The text, and what to call it.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    let (name, bytes) = if file.as_os_str() == "-" {
        ("standard input".to_owned(), limited(std::io::stdin().lock()).context("standard input cannot be read")?)
    } else {
        let failed = || format!("{} cannot be read", file.display());
        let open = File::open(file).with_context(failed)?;
        if open.metadata().with_context(failed)?.is_dir() {
            bail!("{} is a folder", file.display());
        }
        let name =
            file.file_name().map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into_owned());
        (name, limited(open).with_context(failed)?)
    };
    if bytes.len() > MOST_BYTES {
        bail!("{name} is larger than {} MiB: that is no configuration of CUSP", MOST_BYTES >> 20);
    }
    Ok((decoded(&bytes), name))
}

fn limited(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// UTF-8, and UTF-16 where a byte order mark says so, as editors of Windows write it.
fn decoded(bytes: &[u8]) -> String {
    let wide = |from: fn([u8; 2]) -> u16| {
        let units = bytes.get(2..).unwrap_or_default().as_chunks::<2>().0.iter().map(|pair| from(*pair));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// All of the file or nothing, and never over one that is there unless that is wanted: it may be the configuration of a
/// running node. The text goes to a file beside it first, which then takes the name.
fn write(output: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", output.display());
    let name = output.file_name().with_context(failed)?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    let beside = output.with_file_name(beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).with_context(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| {
        if force {
            std::fs::rename(&beside, output)
        } else {
            // A link, other than a rename, is refused where the name is taken.
            std::fs::hard_link(&beside, output).and_then(|()| std::fs::remove_file(&beside))
        }
    });
    if let Err(error) = written {
        // What is left of it is of no use; that it stays is the lesser evil.
        let _ = std::fs::remove_file(&beside);
        if error.kind() == ErrorKind::AlreadyExists {
            bail!("{} is there already and is not overwritten: name another -o, or add --force", output.display());
        }
        return Err(error).with_context(failed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const CUSP: &str = "sip listen n udp 192.0.2.5 5060\nsip alias x.example.com\nend\n";

    fn exit(file: &Path, output: Option<PathBuf>, force: bool, strict: bool) -> anyhow::Result<ExitCode> {
        cusp(&CuspArguments { file: file.to_owned(), output, force, strict })
    }

    #[test]
    fn the_exit_code_says_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("cusp.txt"), folder.path().join("bad.txt"));
        std::fs::write(&good, CUSP).unwrap();
        std::fs::write(&bad, [0xff, b'x', 0, b'\n']).unwrap();
        let out = |name: &str| Some(folder.path().join(name));
        assert_eq!(exit(&good, out("a.toml"), false, false).unwrap(), ExitCode::SUCCESS);
        assert_eq!(exit(&good, out("b.toml"), false, true).unwrap(), ExitCode::FAILURE, "an alias is left out");
        assert_eq!(exit(&bad, out("c.toml"), false, false).unwrap(), ExitCode::from(NOT_UNDERSTOOD));
        assert!(!folder.path().join("c.toml").exists());
        assert!(
            exit(&folder.path().join("none"), None, false, false).unwrap_err().to_string().contains("cannot be read")
        );
        assert!(exit(folder.path(), None, false, false).unwrap_err().to_string().contains("is a folder"));
        std::fs::write(&bad, vec![b'!'; MOST_BYTES + 1]).unwrap();
        assert!(exit(&bad, None, false, false).unwrap_err().to_string().contains("larger than 8 MiB"));
    }

    #[test]
    fn a_file_that_is_there_is_only_replaced_by_force_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("cusp.txt"), folder.path().join("a.toml"));
        std::fs::write(&input, CUSP).unwrap();
        std::fs::write(&output, "mine").unwrap();
        let refused = exit(&input, Some(output.clone()), false, false).unwrap_err();
        assert!(refused.to_string().contains("is not overwritten"), "{refused}");
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
        exit(&input, Some(output.clone()), true, false).unwrap();
        assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(exit(&input, Some(folder.path().join("no/such/a.toml")), false, false).is_err());
    }

    #[test]
    fn texts_of_windows_are_read() {
        let wide: Vec<u8> = "\u{feff}sip tls\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decoded(&wide), "sip tls\r\n");
        assert_eq!(decoded(b"caf\xe9"), "caf\u{fffd}");
    }
}
