//! The chain of manifests of this node: which one is the last, whatever a crash did.
//!
//! Each manifest names the SHA-256 of the one before, so there must never be
//! two with the same predecessor, and none may vanish once another names it.
//! One committer at a time works under the spool's chain lock, in this order:
//!
//! 1. the batch's manifests are written beside their recordings, each naming
//!    the one before; all of it is synced;
//! 2. the file `chain` takes the hash of the last one: from here on the batch stands;
//! 3. the folders move from `recording` to `ready`; all is synced;
//! 4. only now does the uploader hear of them.
//!
//! A crash between any two steps, or a disk that kept the later of two writes
//! and lost the earlier, leaves one of few pictures, and [`settle`] reads them
//! all: a manifest that lies in `recording` is kept if the chain file or another
//! manifest names it, otherwise nobody has seen it and it is made anew; then
//! the head moves on from what the chain file says as far as manifests follow.
//!
//! If the chain file is lost the head is the one manifest in the spool that no
//! other names; if the spool is empty too, the caller may know it from the
//! catalogue; failing that the next manifest begins a chain (`previous: null`),
//! which a verifier shows as a second beginning.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use ferric_media::manifest::{Digest, SignedManifest};

use crate::spool::{MANIFEST, Spool, SpoolError, Stage, write_whole};

/// Name of the head's file in the spool's root.
pub const CHAIN: &str = "chain";

/// What the spool tells about the chain at start-up.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Hash of the node's last manifest.
    pub(crate) head: Option<Digest>,
    /// Folders in `recording` whose manifest stands: they only have to move on.
    pub(crate) kept: Vec<PathBuf>,
}

/// The head as the chain file tells it.
pub(crate) fn stored_head(spool: &Spool) -> Option<Digest> {
    Digest::from_hex(fs::read_to_string(spool.root().join(CHAIN)).ok()?.trim())
}

/// Writes the chain file; synced by the caller.
pub(crate) fn store_head(spool: &Spool, head: Digest) -> Result<(), SpoolError> {
    write_whole(&spool.root().join(CHAIN), format!("{head}\n").as_bytes())
}

/// Reads the chain out of the spool. `hint` is the last manifest the catalogue knows of.
pub(crate) fn settle(spool: &Spool, hint: Option<Digest>) -> Result<Settled, SpoolError> {
    let read = |folder: &PathBuf| {
        let manifest = SignedManifest::parse(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        Some((manifest.digest(), manifest.manifest.previous))
    };
    let mut links: HashMap<Digest, Option<Digest>> = HashMap::new();
    for stage in [Stage::Ready, Stage::Sent, Stage::Aside] {
        links.extend(spool.entries(stage)?.iter().filter_map(read));
    }
    let stored = stored_head(spool);
    let mut named: HashSet<Digest> = links.values().copied().flatten().chain(stored).chain(hint).collect();
    let mut open: Vec<(PathBuf, Digest, Option<Digest>)> = spool
        .entries(Stage::Recording)?
        .into_iter()
        .filter_map(|folder| read(&folder).map(|(digest, previous)| (folder, digest, previous)))
        .collect();
    let mut kept = Vec::new();
    while let Some(at) = open.iter().position(|(_, digest, _)| named.contains(digest)) {
        let (folder, digest, previous) = open.swap_remove(at);
        named.extend(previous);
        links.insert(digest, previous);
        kept.push(folder);
    }
    let mut head = stored.or_else(|| {
        let mut tails = links.keys().filter(|digest| !links.values().any(|previous| *previous == Some(**digest)));
        match (tails.next(), tails.next()) {
            (Some(tail), None) => Some(*tail),
            _ => hint,
        }
    });
    let followers: HashMap<Digest, Digest> =
        links.iter().filter_map(|(digest, previous)| previous.map(|previous| (previous, *digest))).collect();
    while let Some(next) = head.and_then(|head| followers.get(&head)) {
        head = Some(*next);
    }
    kept.sort();
    Ok(Settled { head, kept })
}
