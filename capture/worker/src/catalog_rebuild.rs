//! Making the catalogue again from the store.
//!
//! Every manifest of a target becomes a row: times, states, sizes, keys, and which part of which recording it is. That needs
//! no key. Parties, tags and ids stand in the sealed metadata: whoever has the tenant's key can have them read too. What
//! the catalogue knows already is kept; a rebuild may run while nodes write.

use std::sync::Arc;

use ferric_media::keys::PrivateKey;
use ferric_media::manifest::SignedManifest;
use ferric_media::metadata::RecordingMetadata;
use ferric_media::open::open_all;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogError, RecordingUpdate, UploadState};
use crate::catalog_row::StoredNews;
use crate::catalog_writer::News;
use crate::spool::{MANIFEST, METADATA};
use crate::store::Target;

/// Largest manifest that is read back; a real one has less than 2 KiB.
const MANIFEST_LIMIT: u64 = 64 * 1024;
/// Largest metadata that is read back.
const METADATA_LIMIT: u64 = 16 * 1024 * 1024;
/// Recordings read at once.
const AT_ONCE: usize = 16;
/// Rows written in one transaction.
const BATCH: usize = 256;

/// Why the catalogue could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(#[from] object_store::Error),
    /// The catalogue failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What a rebuild did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Manifests read and written down.
    pub manifests: u64,
    /// Of these, how many with their metadata.
    pub metadata: u64,
    /// Manifests that are none: they are left out, and the log names them.
    pub damaged: u64,
}

/// What lies in one folder.
struct Found {
    folder: String,
    signed: Option<SignedManifest>,
    metadata: Option<RecordingMetadata>,
}

/// Reads every manifest of a target into the catalogue, and the metadata that one of the `keys` opens. `progress` hears
/// the sums from time to time.
///
/// # Errors
/// The store cannot be listed or read, or the catalogue not be written.
pub async fn rebuild(
    catalog: &Catalog,
    target: &Target,
    keys: Arc<[PrivateKey]>,
    mut progress: impl FnMut(Rebuilt),
) -> Result<Rebuilt, RebuildError> {
    let mut sums = Rebuilt::default();
    let suffix = format!("/{MANIFEST}");
    let objects = target.store.list(Some(&target.prefix));
    let folders = objects.try_filter_map(|object| {
        let folder = object.location.as_ref().strip_suffix(&suffix).map(|folder| (folder.to_owned(), object.size));
        std::future::ready(Ok(folder))
    });
    let found = folders.map(|folder| async {
        let (folder, size) = folder?;
        look(target, folder, size, Arc::clone(&keys)).await
    });
    let mut batches = found.buffered(AT_ONCE).ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let mut news = Vec::with_capacity(batch.len() * 3);
        for found in batch {
            let found = found?;
            let Some(signed) = &found.signed else {
                sums.damaged += 1;
                continue;
            };
            let mut tell = |one: News| news.push(StoredNews::new(&one, &catalog.parties));
            if let Some(metadata) = &found.metadata {
                sums.metadata += 1;
                tell(News::Recording(Box::new(RecordingUpdate::from_metadata(metadata))));
            }
            tell(News::Recording(Box::new(RecordingUpdate::from_manifest(signed, UploadState::Stored))));
            let file = signed.manifest.part.file;
            tell(News::Upload { file, state: UploadState::Stored, key: Some(found.folder), error: None });
            sums.manifests += 1;
        }
        catalog.apply(&news).await?;
        progress(sums);
    }
    Ok(sums)
}

/// Reads what lies in a folder.
async fn look(
    target: &Target,
    folder: String,
    size: u64,
    keys: Arc<[PrivateKey]>,
) -> Result<Found, object_store::Error> {
    let path = Path::from(format!("{folder}/{MANIFEST}"));
    if size > MANIFEST_LIMIT {
        tracing::warn!(key = %path, size, "what should be a manifest is far too large for one");
        return Ok(Found { folder, signed: None, metadata: None });
    }
    let file = target.store.get(&path).await?.bytes().await?;
    let signed = SignedManifest::parse(&file)
        .inspect_err(|error| tracing::warn!(%error, key = %path, "a manifest in the store is damaged"))
        .ok();
    let named = signed.as_ref().and_then(|signed| signed.manifest.metadata.as_ref());
    let mut metadata = None;
    if let (false, Some(entry)) = (keys.is_empty(), named.filter(|entry| entry.bytes <= METADATA_LIMIT)) {
        let path = Path::from(format!("{folder}/{METADATA}"));
        let file = signed.as_ref().map(|signed| signed.manifest.part.file);
        match target.store.get(&path).await {
            Ok(sealed) if sealed.meta.size == entry.bytes => {
                let sealed = sealed.bytes().await?;
                let opened = tokio::task::spawn_blocking(move || open(&keys, &sealed));
                metadata = opened.await.ok().flatten().filter(|metadata| is_of(metadata, file));
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {
                tracing::warn!(key = %path, "the metadata is not what the manifest names");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Found { folder, signed, metadata })
}

fn open(keys: &[PrivateKey], sealed: &[u8]) -> Option<RecordingMetadata> {
    let json = keys.iter().find_map(|key| open_all(key, sealed).ok())?;
    RecordingMetadata::from_json(&json).ok()
}

fn is_of(metadata: &RecordingMetadata, file: Option<Uuid>) -> bool {
    Some(metadata.part.file) == file
}
