//! One recording into its store: each file put and verified, the manifest last.
//!
//! For every file, in the order audio, metadata, manifest:
//!
//! 1. **Is it there already?** After a restart or a lost answer it may be. An
//!    identical object is success. One that is a beginning of ours is our own
//!    put, broken off in a store that shows half objects (WebDAV): it is
//!    overwritten. Any other is somebody else's: [`TransferError::Conflict`],
//!    nothing is overwritten and the recording is set aside.
//!    On the first attempt a store that honours put-if-absent answers this
//!    itself with the put; otherwise it is asked first.
//! 2. **Put.** Up to [`PART`] bytes in one piece, more as a multipart upload.
//!    The bytes are hashed as they are read; a file that is no longer the one
//!    its manifest describes is [`TransferError::Damaged`] and never completed.
//! 3. **Verify.** The length from the store's own listing, then the object is
//!    read back and hashed. Checksums that travel with the request (S3 gets
//!    `x-amz-checksum-sha256`) help where a store honours them, but that is its
//!    word; what makes us delete the only other copy is bytes we have read.
//!    [`Verify::Length`] trades that for the read-back's traffic.
//!
//! The manifest is put only when the others are verified: it is the commit mark.

use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{GetResult, MultipartUpload as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use ferric_media::manifest::{Digest, SignedManifest};

use crate::spool::{AUDIO, MANIFEST, METADATA};
use crate::store::Target;
use crate::upload_limit::Limiter;

/// Largest object put in one piece, and the size of a part of a larger one, in bytes.
pub const PART: usize = 8 * 1024 * 1024;
/// Time a request may take beyond what its bytes need.
const PATIENCE: Duration = Duration::from_secs(30);
/// The slowest store that is still waited for, in bytes per second.
const SLOWEST: u64 = 32 * 1024;

/// How an object is verified after the put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Its length, and SHA-256 of what the store returns.
    #[default]
    ReadBack,
    /// Its length only.
    Length,
}

/// Why a recording is not in its store.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store failed; to be tried again.
    #[error("cannot {action} {key}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// With which object.
        key: Path,
        /// What the store said.
        source: object_store::Error,
    },
    /// The store did not answer in time; to be tried again.
    #[error("the store did not {action} {key} in time")]
    Timeout {
        /// What was tried.
        action: &'static str,
        /// With which object.
        key: Path,
    },
    /// What the store holds after the put is not what was put; to be tried again.
    #[error("{key} was put and reads back different: {reason}")]
    Verify {
        /// Which object.
        key: Path,
        /// How it differs.
        reason: String,
    },
    /// Another object has our name; set aside.
    #[error("{key} exists in the store with other contents ({found} bytes, ours has {ours})")]
    Conflict {
        /// Which object.
        key: Path,
        /// Its length.
        found: u64,
        /// Length of ours.
        ours: u64,
    },
    /// The file in the spool is not the one its manifest describes; set aside.
    #[error("{file}: {reason}")]
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file in the spool cannot be read; to be tried again.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Which file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl TransferError {
    /// Whether trying again is no use until a person has looked at it.
    pub fn is_final(&self) -> bool {
        matches!(self, TransferError::Conflict { .. } | TransferError::Damaged { .. })
    }
}

/// One recording's way into its store.
pub(crate) struct Transfer<'a> {
    pub(crate) target: &'a Target,
    pub(crate) limiter: &'a Limiter,
    pub(crate) verify: Verify,
    /// An earlier attempt may have left objects.
    pub(crate) again: bool,
    pub(crate) part: usize,
}

/// A file that is to become an object.
struct Object<'a> {
    file: &'a FilePath,
    key: Path,
    bytes: u64,
    sha256: Digest,
}

impl Transfer<'_> {
    /// Puts and verifies all of a recording; returns bytes sent.
    pub(crate) async fn run(&self, folder: &FilePath, manifest: &SignedManifest) -> Result<u64, TransferError> {
        let entry = &manifest.manifest;
        let key = |file: &str| self.target.key(entry.started_at, entry.part.file, file);
        let path = |file: &str| folder.join(file);
        let (audio, metadata, signed) = (path(AUDIO), path(METADATA), path(MANIFEST));
        let own = manifest.as_bytes();
        let mut objects =
            vec![Object { file: &audio, key: key(AUDIO), bytes: entry.audio.bytes, sha256: entry.audio.sha256 }];
        if let Some(entry) = &entry.metadata {
            objects.push(Object { file: &metadata, key: key(METADATA), bytes: entry.bytes, sha256: entry.sha256 });
        }
        let (bytes, sha256) = (own.len() as u64, manifest.digest());
        objects.push(Object { file: &signed, key: key(MANIFEST), bytes, sha256 });
        let mut sent = 0;
        for object in &objects {
            sent += self.ensure(object).await?;
        }
        Ok(sent)
    }

    /// Sees to it that an object is in the store and is ours.
    async fn ensure(&self, object: &Object<'_>) -> Result<u64, TransferError> {
        let single = object.bytes <= self.part as u64;
        let conditional = self.target.put_if_absent && single && !self.again;
        if !conditional && self.already_there(object).await? {
            return Ok(0);
        }
        let mode = if conditional { PutMode::Create } else { PutMode::Overwrite };
        let put = if single { self.put_single(object, mode).await } else { self.put_parts(object).await };
        match put {
            Ok(()) => {}
            Err(TransferError::Store {
                source: object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
                ..
            }) if conditional => {
                if !self.already_there(object).await? {
                    self.put_single(object, PutMode::Overwrite).await?;
                }
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = self.verify_put(object).await {
            if matches!(error, TransferError::Verify { .. }) {
                // What the store spoiled is ours; left there, the next attempt would take it for somebody else's.
                let _ = tokio::time::timeout(PATIENCE, self.target.store.delete(&object.key)).await;
            }
            return Err(error);
        }
        Ok(object.bytes)
    }

    /// Whether an identical object is there; an error if a foreign one is.
    async fn already_there(&self, object: &Object<'_>) -> Result<bool, TransferError> {
        let found = match self.timed("look for", object, 0, self.target.store.head(&object.key)).await {
            Ok(meta) => meta.size,
            Err(TransferError::Store { source: object_store::Error::NotFound { .. }, .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let conflict = || TransferError::Conflict { key: object.key.clone(), found, ours: object.bytes };
        if found > object.bytes {
            return Err(conflict());
        }
        let remote = match self.read_back(object).await {
            Ok((_, digest)) => digest,
            Err(TransferError::Store { source: object_store::Error::NotFound { .. }, .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        // Our own beginning: the same as the first `found` bytes of the file.
        if remote != self.hash_file(object, found).await? {
            return Err(conflict());
        }
        Ok(found == object.bytes)
    }

    async fn put_single(&self, object: &Object<'_>, mode: PutMode) -> Result<(), TransferError> {
        let body = tokio::fs::read(object.file).await.map_err(|source| unreadable(object, source))?;
        self.check_file(object, body.len() as u64, Digest::of(&body))?;
        self.limiter.take(object.bytes).await;
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.target.store.put_opts(&object.key, PutPayload::from(body), options);
        self.timed("put", object, object.bytes, put).await.map(drop)
    }

    async fn put_parts(&self, object: &Object<'_>) -> Result<(), TransferError> {
        let begun = self.timed("begin", object, 0, self.target.store.put_multipart(&object.key)).await;
        let mut upload = match begun {
            Ok(upload) => upload,
            Err(TransferError::Store {
                source: object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. },
                ..
            }) => return self.put_single(object, PutMode::Overwrite).await,
            Err(error) => return Err(error),
        };
        let parts = async {
            let mut file = tokio::fs::File::open(object.file).await.map_err(|source| unreadable(object, source))?;
            let (mut hash, mut length) = (Sha256::new(), 0u64);
            loop {
                let mut part = Vec::with_capacity(self.part.min(PART));
                let limit = self.part as u64;
                (&mut file).take(limit).read_to_end(&mut part).await.map_err(|source| unreadable(object, source))?;
                if part.is_empty() {
                    break;
                }
                hash.update(&part);
                length += part.len() as u64;
                let bytes = part.len() as u64;
                self.limiter.take(bytes).await;
                self.timed("put a part of", object, bytes, upload.put_part(PutPayload::from(part))).await?;
            }
            self.check_file(object, length, Digest(hash.finalize().into()))?;
            self.timed("complete", object, object.bytes, upload.complete()).await.map(drop)
        };
        let result = parts.await;
        if result.is_err() {
            // Parts that nobody aborts cost storage; a store that refuses this too has rules for them.
            let _ = tokio::time::timeout(PATIENCE, upload.abort()).await;
        }
        result
    }

    async fn verify_put(&self, object: &Object<'_>) -> Result<(), TransferError> {
        let differs = |reason: String| TransferError::Verify { key: object.key.clone(), reason };
        let meta = self.timed("look for", object, 0, self.target.store.head(&object.key)).await?;
        if meta.size != object.bytes {
            return Err(differs(format!("{} bytes instead of {}", meta.size, object.bytes)));
        }
        if self.verify == Verify::ReadBack {
            let (length, digest) = self.read_back(object).await?;
            if digest != object.sha256 {
                return Err(differs(format!("SHA-256 of its {length} bytes is {digest}, of ours {}", object.sha256)));
            }
        }
        Ok(())
    }

    /// Length and hash of what the store returns.
    async fn read_back(&self, object: &Object<'_>) -> Result<(u64, Digest), TransferError> {
        let got: GetResult = self.timed("read", object, 0, self.target.store.get(&object.key)).await?;
        let mut stream = got.into_stream();
        let (mut hash, mut length) = (Sha256::new(), 0u64);
        while let Some(chunk) = self.timed_next(object, &mut stream).await? {
            length += chunk.len() as u64;
            hash.update(&chunk);
        }
        Ok((length, Digest(hash.finalize().into())))
    }

    async fn timed_next(
        &self,
        object: &Object<'_>,
        stream: &mut (impl futures::Stream<Item = object_store::Result<Bytes>> + Unpin),
    ) -> Result<Option<Bytes>, TransferError> {
        match tokio::time::timeout(PATIENCE, stream.next()).await {
            Err(_) => Err(TransferError::Timeout { action: "read", key: object.key.clone() }),
            Ok(chunk) => chunk.transpose().map_err(|source| TransferError::Store {
                action: "read",
                key: object.key.clone(),
                source,
            }),
        }
    }

    async fn hash_file(&self, object: &Object<'_>, first: u64) -> Result<Digest, TransferError> {
        let file = tokio::fs::File::open(object.file).await.map_err(|source| unreadable(object, source))?;
        let mut file = file.take(first);
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
        loop {
            let read = file.read(&mut buffer).await.map_err(|source| unreadable(object, source))?;
            if read == 0 {
                return Ok(Digest(hash.finalize().into()));
            }
            hash.update(buffer.get(..read).unwrap_or_default());
        }
    }

    fn check_file(&self, object: &Object<'_>, length: u64, digest: Digest) -> Result<(), TransferError> {
        let damaged = |reason: String| TransferError::Damaged { file: name(object), reason };
        if length != object.bytes {
            return Err(damaged(format!("{length} bytes long, the manifest says {}", object.bytes)));
        }
        if digest != object.sha256 {
            return Err(damaged(format!("its SHA-256 is {digest}, the manifest says {}", object.sha256)));
        }
        Ok(())
    }

    async fn timed<T>(
        &self,
        action: &'static str,
        object: &Object<'_>,
        bytes: u64,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, TransferError> {
        let limit = PATIENCE + Duration::from_secs(bytes / SLOWEST);
        match tokio::time::timeout(limit, operation).await {
            Err(_) => Err(TransferError::Timeout { action, key: object.key.clone() }),
            Ok(result) => result.map_err(|source| TransferError::Store { action, key: object.key.clone(), source }),
        }
    }
}

fn name(object: &Object<'_>) -> String {
    object.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn unreadable(object: &Object<'_>, source: std::io::Error) -> TransferError {
    if source.kind() == std::io::ErrorKind::NotFound {
        return TransferError::Damaged { file: name(object), reason: "it is missing".to_owned() };
    }
    TransferError::Read { file: name(object), source }
}

#[cfg(test)]
mod tests;
