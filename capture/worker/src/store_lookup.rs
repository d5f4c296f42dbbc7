//! Whether some files are in their store: asked of the store itself.
//!
//! The manifest is put last, so it is there only when everything else was; all the same the audio is looked at again, as
//! thoroughly as after a put: by its length, and read back and hashed unless only lengths are wanted. On the answer other
//! files may be deleted.

use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use ferric_media::manifest::{Digest, SignedManifest};
use ferric_media::timestamp::Timestamp;

use crate::mirror::twin::Outcome;
use crate::spool::{AUDIO, MANIFEST, METADATA};
use crate::store::Target;
use crate::upload_transfer::Verify;

/// The store answers within this, and sends at least so many bytes a second.
const PATIENCE: Duration = Duration::from_secs(30);
const SLOWEST: u64 = 32 * 1024;

/// What the store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// They are there and whole.
    Stored(Outcome),
    /// They are not there, or are not what their manifest says.
    Absent,
    /// It does not say.
    Unknown,
}

/// Looks for the files `id` of a recording that began at `started_at`.
pub async fn look_up(target: &Target, started_at: Timestamp, id: Uuid, verify: Verify) -> Found {
    let key = |file: &str| target.key(started_at, id, file);
    let manifest = match read(target, &key(MANIFEST), 0).await {
        Ok((bytes, _)) => bytes,
        Err(gone) => return gone,
    };
    let Some(manifest) = SignedManifest::parse(&manifest).ok().filter(|signed| signed.manifest.part.file == id) else {
        tracing::warn!(file = %id, "the store's manifest of a twin cannot be read");
        return Found::Absent;
    };
    let entry = &manifest.manifest;
    let metadata = entry.metadata.as_ref().map(|metadata| (METADATA, metadata.bytes, metadata.sha256));
    for (file, bytes, sha256) in [(AUDIO, entry.audio.bytes, entry.audio.sha256)].into_iter().chain(metadata) {
        let whole = match verify {
            Verify::Length => length(target, &key(file)).await.map(|found| found == bytes),
            Verify::ReadBack => read(target, &key(file), bytes).await.map(|(_, digest)| digest == sha256),
        };
        match whole {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(file = %id, object = file, "a twin in the store is not what its manifest says");
                return Found::Absent;
            }
            Err(gone) => return gone,
        }
    }
    Found::Stored(Outcome { state: entry.state, started_at: entry.started_at, ended_at: entry.ended_at })
}

async fn length(target: &Target, key: &Path) -> Result<u64, Found> {
    match tokio::time::timeout(PATIENCE, target.store.head(key)).await {
        Ok(Ok(meta)) => Ok(meta.size),
        Ok(Err(error)) => Err(not_there(&error)),
        Err(_) => Err(Found::Unknown),
    }
}

/// An object's hash; its bytes only if they are few (`expected` is 0).
async fn read(target: &Target, key: &Path, expected: u64) -> Result<(Vec<u8>, Digest), Found> {
    let reading = async {
        let mut stream = target.store.get(key).await?.into_stream();
        let (mut hash, mut kept) = (Sha256::new(), Vec::new());
        while let Some(chunk) = stream.try_next().await? {
            hash.update(&chunk);
            if expected == 0 && kept.len() + chunk.len() <= MOST {
                kept.extend_from_slice(&chunk);
            }
        }
        Ok::<_, object_store::Error>((kept, Digest(hash.finalize().into())))
    };
    match tokio::time::timeout(PATIENCE + Duration::from_secs(expected / SLOWEST), reading).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(not_there(&error)),
        Err(_) => Err(Found::Unknown),
    }
}

/// A manifest is no longer than this.
const MOST: usize = 64 * 1024;

fn not_there(error: &object_store::Error) -> Found {
    if matches!(error, object_store::Error::NotFound { .. }) { Found::Absent } else { Found::Unknown }
}
