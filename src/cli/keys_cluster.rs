//! `ferric keys cluster`: the CA of a cluster and the certificates of its nodes, for `[cluster]`.
//!
//! The CA's key stays in the folder in which this runs and goes to no node: whoever has it can add nodes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_fabric::ca::{ClusterCa, Pair};
use ferric_fabric::{Identity, NodeId, Site};

use super::keys::{make_folder, write};
use super::output::say;

/// What `ferric keys cluster` takes.
#[derive(Debug, Args)]
pub(super) struct ClusterArguments {
    /// Folder for the files; made if it is not there. The CA in it is used again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The node's id, as in [node] id. Without it only the CA is made.
    #[arg(long, value_name = "ID", requires = "site")]
    node: Option<String>,
    /// The node's site, as in [node] site.
    #[arg(long, value_name = "SITE", requires = "node")]
    site: Option<String>,
    /// Days for which the node's certificate is good.
    #[arg(long, value_name = "DAYS", default_value_t = 1825, value_parser = clap::value_parser!(u16).range(1..=7300))]
    days: u16,
}

pub(super) fn run(arguments: &ClusterArguments) -> anyhow::Result<ExitCode> {
    // Names are checked before anything is written.
    let identity = match (&arguments.node, &arguments.site) {
        (Some(node), Some(site)) => Some(Identity { node: NodeId::new(node)?, site: Site::new(site)? }),
        _ => None,
    };
    make_folder(&arguments.out)?;
    let ca = open_or_make(&Files::of(&arguments.out, "cluster-ca"))?;
    if let Some(identity) = identity {
        let node = Files::of(&arguments.out, identity.node.as_str());
        node.must_not_be_there("choose another --node, or move it away to make a new one")?;
        let pair = ca.issue(&identity, arguments.days)?;
        node.write(&pair)?;
        say!("certificate: {} ([cluster] certificate)", node.certificate.display());
        say!("private key: {} ([cluster] private_key; keep it on the node)", node.key.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The CA of the folder; a new one if the folder has none.
fn open_or_make(files: &Files) -> anyhow::Result<ClusterCa> {
    match (files.certificate.exists(), files.key.exists()) {
        (true, true) => {
            let read =
                |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
            let ca = ClusterCa::from_pem(&read(&files.certificate)?, &read(&files.key)?);
            ca.with_context(|| format!("cannot use {}", files.key.display()))
        }
        (false, false) => {
            let ca = ClusterCa::create()?;
            files.write(&ca.pair())?;
            say!("cluster CA:  {} ([cluster] ca, on every node)", files.certificate.display());
            say!("CA's key:    {} (keep it off the nodes: it makes new ones)", files.key.display());
            Ok(ca)
        }
        (there, _) => {
            let (there, missing) =
                if there { (&files.certificate, &files.key) } else { (&files.key, &files.certificate) };
            bail!("{} is there, and {} is not: bring both, or choose another --out", there.display(), missing.display())
        }
    }
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(folder: &Path, name: &str) -> Self {
        Self { certificate: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) }
    }

    fn must_not_be_there(&self, else_do: &str) -> anyhow::Result<()> {
        for path in [&self.certificate, &self.key] {
            if path.exists() {
                bail!("{} is there already; {else_do}", path.display());
            }
        }
        Ok(())
    }

    fn write(&self, pair: &Pair) -> anyhow::Result<()> {
        write(&self.key, pair.private_key.as_bytes(), 0o600)?;
        write(&self.certificate, pair.certificate.as_bytes(), 0o644)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn arguments(out: &Path, node: &str, site: &str) -> ClusterArguments {
        ClusterArguments { out: out.to_owned(), node: Some(node.to_owned()), site: Some(site.to_owned()), days: 30 }
    }

    #[test]
    fn a_ca_is_made_once_and_a_certificate_for_each_node() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("keys");
        run(&arguments(&out, "edge-a1", "east")).unwrap();
        let ca = std::fs::read(out.join("cluster-ca.crt")).unwrap();
        run(&arguments(&out, "edge-b1", "west")).unwrap();
        assert_eq!(std::fs::read(out.join("cluster-ca.crt")).unwrap(), ca);
        for key in ["cluster-ca.key", "edge-a1.key", "edge-b1.key"] {
            assert_eq!(std::fs::metadata(out.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
        let read = |name: &str| std::fs::read(out.join(name)).unwrap();
        ferric_fabric::Credentials::from_pem(&ca, &read("edge-b1.crt"), &read("edge-b1.key")).unwrap();
    }

    #[test]
    fn wrong_input_is_named_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = |arguments: &ClusterArguments| format!("{:#}", run(arguments).unwrap_err());
        let out = folder.path().join("keys");
        assert!(wrong(&arguments(&out, "edge/a1", "east")).contains("\"edge/a1\" cannot be the name of a node"));
        assert!(wrong(&arguments(&out, "edge-a1", "")).contains("cannot be the name of a site"));
        assert!(!out.exists(), "nothing is written for wrong names");
        run(&arguments(&out, "edge-a1", "east")).unwrap();
        let before = std::fs::read(out.join("edge-a1.key")).unwrap();
        assert!(wrong(&arguments(&out, "edge-a1", "east")).contains("edge-a1.crt is there already"));
        assert!(wrong(&arguments(&out, "cluster-ca", "east")).contains("is there already"));
        assert_eq!(std::fs::read(out.join("edge-a1.key")).unwrap(), before);
        std::fs::write(out.join("cluster-ca.key"), "nonsense").unwrap();
        assert!(wrong(&arguments(&out, "edge-a2", "east")).contains("the CA's private key cannot be used"));
        std::fs::remove_file(out.join("cluster-ca.key")).unwrap();
        let error = wrong(&arguments(&out, "edge-a2", "east"));
        assert!(error.contains("cluster-ca.crt is there") && error.contains("cluster-ca.key is not"), "{error}");
        assert!(!out.join("edge-a2.crt").exists());
    }
}
