//! `ferric keys`

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use ferric_media::keys::PrivateKey;

use super::output::say;

pub(crate) fn new(folder: &Path, tenant: &str) -> anyhow::Result<ExitCode> {
    let (private, public) = write_pair(folder, tenant)?;
    say!("private key: {} (keep it with the tenant, not on the recording node)", private.display());
    say!("public key:  {} (name it in [[tenant]] public_keys)", public.display());
    Ok(ExitCode::SUCCESS)
}

/// Makes a pair and writes both files; never over files that are there.
pub(crate) fn write_pair(folder: &Path, tenant: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    if tenant.is_empty()
        || !tenant.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        || tenant.starts_with('.')
    {
        bail!("\"{tenant}\" cannot be a tenant's name: use letters, digits, dots, dashes and underscores");
    }
    make_folder(folder)?;
    let private_path = folder.join(format!("{tenant}.private.pem"));
    let public_path = folder.join(format!("{tenant}.public.pem"));
    for path in [&private_path, &public_path] {
        if path.exists() {
            bail!("{} is there already; recordings may depend on it. Choose another --out or --tenant", path.display());
        }
    }
    let key = PrivateKey::generate(&mut rand::rng())?;
    write(&private_path, key.to_pem()?.as_bytes(), 0o600)?;
    write(&public_path, key.public().to_pem()?.as_bytes(), 0o644)?;
    Ok((private_path, public_path))
}

/// Makes a folder for keys, if it is not there.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Writes a file that is not there yet.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_pair_is_made_once_and_the_private_half_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let (private, public) = write_pair(&folder.path().join("keys"), "acme").unwrap();
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        let key = PrivateKey::from_pem(&std::fs::read_to_string(private).unwrap()).unwrap();
        assert_eq!(key.public().to_pem().unwrap(), std::fs::read_to_string(public).unwrap());
        let again = write_pair(&folder.path().join("keys"), "acme").unwrap_err();
        assert!(again.to_string().contains("is there already"), "{again}");
        assert!(write_pair(folder.path(), "../evil").is_err());
    }
}
