//! `ferric verify`: what can be checked without any private key.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_media::eopus::Framer;
use ferric_media::keys::NodePublicKey;
use ferric_media::manifest::{Digest, SignedManifest, verify_chain};
use ferric_worker::spool::{AUDIO, MANIFEST, METADATA, recording_id};
use sha2::{Digest as _, Sha256};

use super::output::say;
use super::verify_parts;

/// The exit code that means something is wrong with a recording.
const DAMAGED: u8 = 3;
/// Deepest folder below PATH in which recordings are looked for.
const DEPTH: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The node's public signing key (PEM): checks signatures and the chain too.
    #[arg(long, value_name = "NODE.pub")]
    cert: Option<PathBuf>,
    /// A recording's folder, its manifest.json, or a folder above many recordings.
    path: PathBuf,
}

pub(crate) fn run(arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    let key = match &arguments.cert {
        Some(file) => {
            let pem = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
            Some(NodePublicKey::from_pem(&pem).with_context(|| format!("{}", file.display()))?)
        }
        None => None,
    };
    let start = match arguments.path.file_name() {
        Some(name) if name == MANIFEST => arguments.path.parent().unwrap_or(Path::new(".")).to_owned(),
        _ => arguments.path.clone(),
    };
    let mut found = Found::default();
    find(&start, 0, &mut found)?;
    found.recordings.sort();
    found.unfinished.sort();
    if found.recordings.is_empty() && found.unfinished.is_empty() {
        bail!("there is no recording at or below {}", start.display());
    }
    let (mut bad, mut manifests) = (0, Vec::new());
    for folder in &found.unfinished {
        bad += 1;
        say!(
            "WRONG {}: there is no manifest.json: the recording was never finished, or its manifest was taken away",
            folder.display()
        );
    }
    for folder in &found.recordings {
        match check(folder, key.as_ref()) {
            Ok(manifest) => {
                let about = &manifest.manifest;
                say!(
                    "ok    {}  {}  {:.1} s  {}",
                    about.part.file,
                    about.state.as_str(),
                    seconds(about.duration_ms),
                    folder.display()
                );
                manifests.push(manifest);
            }
            Err(error) => {
                bad += 1;
                say!("WRONG {}: {error:#}", folder.display());
            }
        }
    }
    for verdict in verify_parts::check(&manifests) {
        bad += usize::from(verdict.is_wrong);
        say!("{}", verdict.text);
    }
    match &key {
        Some(key) => bad += tell_chain(&manifests, key),
        None => say!("signatures not checked: give --cert with the node's public key"),
    }
    say!("{} recordings, {bad} wrong", found.recordings.len() + found.unfinished.len());
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

/// Says how the manifests hang together; returns how much of it is wrong.
fn tell_chain(manifests: &[SignedManifest], key: &NodePublicKey) -> usize {
    let chain = match verify_chain(manifests, key) {
        Ok(chain) => chain,
        Err((id, error)) => {
            say!("WRONG chain at {id}: {error}");
            return 1;
        }
    };
    for (previous, recordings) in &chain.forks {
        let names: Vec<String> = recordings.iter().map(ToString::to_string).collect();
        say!("WRONG chain: {} all follow manifest {previous}: one node signed two histories", names.join(" and "));
    }
    if chain.is_whole() {
        say!("chain whole: {} manifests", manifests.len());
    } else if chain.forks.is_empty() {
        // A store holds one tenant's recordings; the chain of a node runs through all of them.
        say!(
            "chain: {} links lead to manifests that are not here; they lie with another tenant or are gone",
            chain.missing.len()
        );
    }
    chain.forks.len()
}

#[allow(clippy::cast_precision_loss)]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// What lies below a path.
#[derive(Default)]
struct Found {
    /// Folders with a manifest.
    recordings: Vec<PathBuf>,
    /// Folders with sealed files and no manifest.
    unfinished: Vec<PathBuf>,
}

fn find(folder: &Path, depth: usize, found: &mut Found) -> anyhow::Result<()> {
    if folder.join(MANIFEST).is_file() {
        found.recordings.push(folder.to_owned());
        return Ok(());
    }
    if folder.join(AUDIO).is_file() || folder.join(METADATA).is_file() {
        found.unfinished.push(folder.to_owned());
        return Ok(());
    }
    if depth >= DEPTH {
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

/// Checks one recording's files against its manifest, and the signature if there is a key.
pub(crate) fn check(folder: &Path, key: Option<&NodePublicKey>) -> anyhow::Result<SignedManifest> {
    let manifest = std::fs::read(folder.join(MANIFEST)).context("manifest.json cannot be read")?;
    let manifest = SignedManifest::parse(&manifest)?;
    // A folder under another recording's name would pass every hash.
    if let Some(name) = recording_id(folder).filter(|name| *name != manifest.manifest.part.file) {
        bail!("the folder is named for {name}, and its manifest belongs to {}", manifest.manifest.part.file);
    }
    if let Some(key) = key {
        manifest.verify(key)?;
    }
    let (bytes, sha256, segments) = measure(&folder.join(AUDIO), true)?;
    manifest.check_audio(bytes, sha256, segments)?;
    let metadata = folder.join(METADATA);
    let found = if metadata.exists() { Some(measure(&metadata, false)?) } else { None };
    manifest.check_metadata(found.map(|(bytes, sha256, _)| (bytes, sha256)))?;
    Ok(manifest)
}

fn measure(file: &Path, count: bool) -> anyhow::Result<(u64, Digest, Option<u32>)> {
    let cannot = || format!("{} cannot be read", file.display());
    let mut input = File::open(file).with_context(cannot)?;
    let (mut hasher, mut framer, mut length) = (Sha256::new(), Framer::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = input.read(&mut buffer).with_context(cannot)?;
        if read == 0 {
            break;
        }
        let mut piece = buffer.get(..read).unwrap_or(&[]);
        length += read as u64;
        hasher.update(piece);
        while count && framer.next(&mut piece).with_context(|| format!("{}", file.display()))?.is_some() {}
    }
    let segments = count.then(|| framer.position().segments);
    Ok((length, Digest(hasher.finalize().into()), segments))
}
