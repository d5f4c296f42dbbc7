//! What a node must have before it starts: folders, its signing key, its token,
//! and for the node without a file a tenant's key pair.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferric_media::keys::NodeKey;

use crate::config::Config;

/// The node's secrets.
pub(super) struct Identity {
    pub(super) node_key: Arc<NodeKey>,
    pub(super) node_public_file: PathBuf,
    pub(super) admin_token: String,
    pub(super) token_file: PathBuf,
    /// Key of the hashes of numbers in the catalogue.
    pub(super) party_key: [u8; 32],
    /// By which the proxy knows what it forwarded before a restart.
    pub(super) proxy_secret: u64,
}

pub(super) fn prepare(config: &Config) -> anyhow::Result<Identity> {
    let data_dir = &config.node.data_dir;
    let keys = data_dir.join("keys");
    for folder in [data_dir, &keys] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make {}: choose another data folder", folder.display()))?;
    }
    if config.is_embedded && !keys.join("default.public.pem").exists() {
        let (private, _) = crate::cli::write_key_pair(&keys, "default")?;
        tracing::warn!("made a key pair for tenant \"default\"; real tenants keep {} elsewhere", private.display());
    }
    let node_file = keys.join("node.private.pem");
    let node_public_file = keys.join("node.public.pem");
    let node_key = if node_file.exists() {
        let pem = read(&node_file)?;
        NodeKey::from_pem(&pem).with_context(|| format!("{}", node_file.display()))?
    } else {
        let key = NodeKey::generate(&mut rand::rng())?;
        write_secret(&node_file, key.to_pem()?.as_bytes())?;
        key
    };
    if !node_public_file.exists() {
        write_secret(&node_public_file, node_key.public().to_pem()?.as_bytes())?;
    }
    let token_file = data_dir.join("admin.token");
    let admin_token = secret(&token_file)?;
    let party_secret = secret(&keys.join("parties.key"))?;
    let party_key = <sha2::Sha256 as sha2::Digest>::digest(party_secret.as_bytes()).into();
    let proxy_secret: [u8; 32] =
        <sha2::Sha256 as sha2::Digest>::digest(secret(&keys.join("proxy.key"))?.as_bytes()).into();
    let proxy_secret = proxy_secret.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok(Identity { node_key: Arc::new(node_key), node_public_file, admin_token, token_file, party_key, proxy_secret })
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn write_secret(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("{} cannot be written", file.display());
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(failed)?;
    out.write_all(bytes).and_then(|()| out.sync_all()).with_context(failed)
}

/// A random text of 256 bits that is made once.
fn secret(file: &Path) -> anyhow::Result<String> {
    if !file.exists() {
        let random: [u8; 32] = rand::random();
        write_secret(file, format!("{}\n", URL_SAFE_NO_PAD.encode(random)).as_bytes())?;
    }
    let text = read(file)?.trim().to_owned();
    anyhow::ensure!(text.len() >= 16, "{} is too short for a secret: delete it, and a new one is made", file.display());
    Ok(text)
}
