//! The spool: what is recorded and not yet safe in the store. The place of a folder is its state.
//!
//! ```text
//! <root>/lock                       held by the process that uses the spool
//! <root>/chain                      SHA-256 of this node's last manifest, hexadecimal
//! <root>/recording/<id>.new/        being set up; holds no audio yet
//! <root>/recording/<id>/            a call is being recorded, or was when the node died
//!        audio.eopus                appended segment by segment
//!        metadata.ejson             last sealed version (temporary file + rename)
//!        index                      how long the audio is after which segment (see `spool_index`)
//!        manifest.json              written last, when the recording is finished
//!        twin.json                  of a mirrored recording: the other files of it (see `mirror::twin`)
//! <root>/held/<id>/                 ended; another node has the same recording and stores it, so it waits for that
//! <root>/ready/<id>/                finished and signed; waits for the store; never written again
//! <root>/sent/<id>/                 verified in the store; about to be deleted
//! <root>/aside/<id>/                damaged or refused; reason.txt says why; kept until a person decides
//! ```
//!
//! There is no ledger that could disagree with the files. A recording moves by
//! one `rename` of its folder, which a crash either does or does not do, and
//! every file in it is written once or replaced whole. One bad folder is set
//! aside and holds up nobody else.
//!
//! Nothing here can be read without the tenant's key: audio and metadata are
//! sealed before they arrive, the index and the manifest carry no personal
//! data. Files have mode 0600, folders 0700.
//!
//! All calls block; they belong on capture and finisher threads, not on an async runtime.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use uuid::Uuid;

use crate::sync::DirtyFlag;

/// The sealed audio of a recording.
pub const AUDIO: &str = "audio.eopus";
/// The sealed metadata.
pub const METADATA: &str = "metadata.ejson";
/// The signed manifest.
pub const MANIFEST: &str = "manifest.json";
/// Segment index of a running recording.
pub const INDEX: &str = "index";
/// Why a recording was set aside.
pub const REASON: &str = "reason.txt";

/// A spool operation that failed, with the path it failed on.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses this spool.
    #[error("the spool {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A recording with this id lies in the spool already.
    #[error("recording {0} is in the spool already")]
    Exists(Uuid),
    /// A file is not what it must be.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The batch it was committed with failed.
    #[error(transparent)]
    Batch(Arc<SpoolError>),
    /// The manifest could not be made.
    #[error("cannot sign the manifest: {0}")]
    Manifest(#[from] ferric_media::manifest::ManifestError),
}

impl SpoolError {
    /// Whether the disk is full or over its quota.
    pub fn is_disk_full(&self) -> bool {
        match self {
            SpoolError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            SpoolError::Batch(error) => error.is_disk_full(),
            SpoolError::Locked(_) | SpoolError::Exists(_) | SpoolError::Damaged { .. } | SpoolError::Manifest(_) => {
                false
            }
        }
    }
}

/// Adds the path to an I/O error.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { action, path, source }
}

/// Where a recording stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Being recorded, or cut off by a crash.
    Recording,
    /// Ended; waits until its twin on another node is stored, or known not to come.
    Held,
    /// Finished, waits for the store.
    Ready,
    /// In the store, about to be deleted here.
    Sent,
    /// Damaged or refused, kept for a person to look at.
    Aside,
}

impl Stage {
    /// All of them, in the order of a recording's life.
    pub const ALL: [Stage; 5] = [Stage::Recording, Stage::Held, Stage::Ready, Stage::Sent, Stage::Aside];

    /// The folder's name.
    pub fn folder(self) -> &'static str {
        match self {
            Stage::Recording => "recording",
            Stage::Held => "held",
            Stage::Ready => "ready",
            Stage::Sent => "sent",
            Stage::Aside => "aside",
        }
    }
}

/// What lies in the spool, for metrics and for the high-water mark.
#[derive(Debug, Default)]
pub struct Usage {
    bytes: AtomicU64,
    recordings: AtomicU64,
}

impl Usage {
    /// Bytes in files of running and waiting recordings.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Running and waiting recordings.
    pub fn recordings(&self) -> u64 {
        self.recordings.load(Ordering::Relaxed)
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_recording(&self) {
        self.recordings.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_bytes(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn remove(&self, bytes: u64) {
        self.remove_bytes(bytes);
        let one_less = |now: u64| Some(now.saturating_sub(1));
        let _ = self.recordings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }
}

/// A spool folder, locked for this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    usage: Usage,
    dirty: DirtyFlag,
    /// Held while recordings move from `recording` to `ready` and the chain's head follows.
    chain: Mutex<()>,
    _lock: Flock<File>,
}

impl Spool {
    /// Opens a spool, making it if need be, and counts what lies in it.
    ///
    /// # Errors
    /// Another process has it, or a folder cannot be made or read.
    pub fn open(root: &Path) -> Result<Spool, SpoolError> {
        for folder in [root.to_owned()].into_iter().chain(Stage::ALL.map(|stage| root.join(stage.folder()))) {
            make_dir(&folder)?;
        }
        let path = root.join("lock");
        let file = create(&path, true)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == nix::errno::Errno::EWOULDBLOCK {
                return SpoolError::Locked(root.to_owned());
            }
            SpoolError::Io { action: "lock", path, source: errno.into() }
        })?;
        let spool = Spool {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                usage: Usage::default(),
                dirty: DirtyFlag::default(),
                chain: Mutex::new(()),
                _lock: lock,
            }),
        };
        for stage in [Stage::Recording, Stage::Held, Stage::Ready] {
            for entry in spool.entries(stage)?.into_iter().filter(|entry| counts(entry)) {
                spool.usage().add_recording();
                spool.usage().add_bytes(folder_bytes(&entry));
            }
        }
        Ok(spool)
    }

    /// The spool's folder.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// What lies in it.
    pub fn usage(&self) -> &Usage {
        &self.inner.usage
    }

    /// Raised whenever something was written; [`crate::sync::GroupSync`] lowers it.
    pub fn dirty(&self) -> &DirtyFlag {
        &self.inner.dirty
    }

    /// The folder of a stage.
    pub fn stage(&self, stage: Stage) -> PathBuf {
        self.inner.root.join(stage.folder())
    }

    /// The folder of a recording in a stage, whether it exists or not.
    pub fn folder(&self, stage: Stage, id: Uuid) -> PathBuf {
        self.stage(stage).join(id.to_string())
    }

    /// Everything in a stage's folder, oldest id first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn entries(&self, stage: Stage) -> Result<Vec<PathBuf>, SpoolError> {
        let folder = self.stage(stage);
        let mut entries = fs::read_dir(&folder)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>())
            .map_err(at("list", &folder))?;
        entries.sort();
        Ok(entries)
    }

    /// Recordings that wait for the store, oldest first, with the bytes each holds.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn ready(&self) -> Result<Vec<(Uuid, u64)>, SpoolError> {
        // A recording is told of only after the chain's head covers it.
        let _covered = self.chain_guard();
        let entries = self.entries(Stage::Ready)?;
        Ok(entries.iter().filter_map(|path| Some((recording_id(path)?, folder_bytes(path)))).collect())
    }

    /// A recording is verified in the store: deletes it here.
    ///
    /// # Errors
    /// It cannot be moved or deleted; what was moved is deleted at the next start.
    pub fn remove_sent(&self, id: Uuid) -> Result<(), SpoolError> {
        self.remove(Stage::Ready, id)
    }

    /// The twin of a held recording is verified in the store: deletes it here.
    ///
    /// # Errors
    /// It cannot be moved or deleted; what was moved is deleted at the next start.
    pub fn remove_held(&self, id: Uuid) -> Result<(), SpoolError> {
        self.remove(Stage::Held, id)
    }

    fn remove(&self, stage: Stage, id: Uuid) -> Result<(), SpoolError> {
        let (from, to) = (self.folder(stage, id), self.folder(Stage::Sent, id));
        let bytes = folder_bytes(&from);
        fs::rename(&from, &to).map_err(at("move", &from))?;
        self.usage().remove(bytes);
        self.dirty().raise();
        fs::remove_dir_all(&to).map_err(at("delete", &to))
    }

    /// Takes a folder out of everybody's way, with the reason beside it. Nothing is deleted.
    ///
    /// # Errors
    /// It cannot be moved. A reason that cannot be written (the disk is full) is no error.
    pub fn set_aside(&self, folder: &Path, reason: &str) -> Result<PathBuf, SpoolError> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let counted = counts(folder).then(|| folder_bytes(folder));
        let to = (0..1000)
            .map(|n| if n == 0 { name.clone() } else { format!("{name}.{n}") })
            .map(|name| self.stage(Stage::Aside).join(name))
            .find(|to| !to.exists())
            .unwrap_or_else(|| self.stage(Stage::Aside).join(Uuid::now_v7().to_string()));
        if fs::symlink_metadata(folder).map_err(at("set aside", folder))?.is_dir() {
            fs::rename(folder, &to).map_err(at("set aside", folder))?;
        } else {
            make_dir(&to)?;
            fs::rename(folder, to.join(&name)).map_err(at("set aside", folder))?;
        }
        if let Some(bytes) = counted {
            self.usage().remove(bytes);
        }
        self.dirty().raise();
        tracing::error!(recording = %name, reason, "recording set aside");
        if let Err(error) = write_whole(&to.join(REASON), format!("{reason}\n").as_bytes()) {
            tracing::warn!(%error, "cannot write why a recording was set aside");
        }
        Ok(to)
    }

    /// Puts a recording that was set aside back in the queue.
    ///
    /// # Errors
    /// It has no manifest, or cannot be moved.
    pub fn requeue(&self, id: Uuid) -> Result<(), SpoolError> {
        let (from, to) = (self.folder(Stage::Aside, id), self.folder(Stage::Ready, id));
        if !from.join(MANIFEST).is_file() {
            return Err(SpoolError::Damaged {
                path: from,
                reason: "there is no manifest, so it cannot be uploaded".into(),
            });
        }
        fs::rename(&from, &to).map_err(at("move", &from))?;
        let _ = fs::remove_file(to.join(REASON));
        self.usage().add_recording();
        self.usage().add_bytes(folder_bytes(&to));
        self.dirty().raise();
        Ok(())
    }

    /// Writes everything of this file system to its disk.
    ///
    /// # Errors
    /// The disk failed; what was written before may be lost.
    pub fn sync(&self) -> Result<(), SpoolError> {
        let folder = File::open(&self.inner.root).map_err(at("open", &self.inner.root))?;
        nix::unistd::syncfs(&folder).map_err(|errno| at("sync", &self.inner.root)(errno.into()))
    }

    pub(crate) fn chain_guard(&self) -> MutexGuard<'_, ()> {
        // The guarded state is on disk and valid at every step, a panic elsewhere does not spoil it.
        self.inner.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The recording a folder belongs to, if its name is one.
pub fn recording_id(folder: &Path) -> Option<Uuid> {
    folder.file_name()?.to_str()?.parse().ok()
}

/// Whether a folder is counted as a recording.
fn counts(folder: &Path) -> bool {
    recording_id(folder).is_some() && folder.is_dir()
}

/// Bytes of the files in a folder; 0 if it cannot be read.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}

/// Makes a folder of mode 0700, with its parents, unless it exists.
pub(crate) fn make_dir(path: &Path) -> Result<(), SpoolError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("make", path))
}

/// Opens a new file of mode 0600 for appending; an old one is an error unless allowed.
pub(crate) fn create(path: &Path, may_exist: bool) -> Result<File, SpoolError> {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600);
    if may_exist {
        options.create(true)
    } else {
        options.create_new(true)
    };
    options.open(path).map_err(at("create", path))
}

/// Writes a file whole or not at all: temporary file, then rename. Not yet on disk when it returns.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let temporary = path.with_extension("tmp");
    let _ = fs::remove_file(&temporary);
    let result = create(&temporary, false)
        .and_then(|mut file| file.write_all(bytes).map_err(at("write", &temporary)))
        .and_then(|()| fs::rename(&temporary, path).map_err(at("replace", path)));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn ready_recording(spool: &Spool, id: Uuid) -> PathBuf {
        let folder = spool.folder(Stage::Ready, id);
        make_dir(&folder).unwrap();
        write_whole(&folder.join(AUDIO), b"12345").unwrap();
        write_whole(&folder.join(MANIFEST), b"{}").unwrap();
        folder
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Spool::open(&dir.path().join("spool")).unwrap();
        assert!(matches!(Spool::open(first.root()), Err(SpoolError::Locked(_))));
        let root = first.root().to_owned();
        drop(first);
        Spool::open(&root).unwrap();
    }

    #[test]
    fn nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool")).unwrap();
        let folder = ready_recording(&spool, Uuid::from_u128(1));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(spool.root()), 0o700);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(AUDIO)), 0o600);
    }

    #[test]
    fn sent_recordings_go_and_the_count_follows() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        ready_recording(&spool, Uuid::from_u128(2));
        ready_recording(&spool, Uuid::from_u128(1));
        drop(spool);
        let spool = Spool::open(dir.path()).unwrap();
        assert_eq!((spool.usage().recordings(), spool.usage().bytes()), (2, 14));
        assert_eq!(spool.ready().unwrap(), [(Uuid::from_u128(1), 7), (Uuid::from_u128(2), 7)], "oldest first");
        spool.remove_sent(Uuid::from_u128(1)).unwrap();
        assert_eq!((spool.usage().recordings(), spool.usage().bytes()), (1, 7));
        assert!(spool.entries(Stage::Sent).unwrap().is_empty());
        assert!(spool.remove_sent(Uuid::from_u128(1)).is_err());
    }

    #[test]
    fn what_is_set_aside_is_kept_with_its_reason_and_can_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let id = Uuid::from_u128(3);
        let first = ready_recording(&spool, id);
        let to = spool.set_aside(&first, "torn").unwrap();
        assert_eq!(fs::read_to_string(to.join(REASON)).unwrap(), "torn\n");
        assert_eq!(fs::read(to.join(AUDIO)).unwrap(), b"12345");
        let second = ready_recording(&spool, id);
        assert_ne!(spool.set_aside(&second, "again").unwrap(), to, "one does not hide the other");
        let stray = spool.stage(Stage::Ready).join("stray");
        fs::write(&stray, b"x").unwrap();
        spool.set_aside(&stray, "no recording").unwrap();
        assert!(spool.ready().unwrap().is_empty());
        spool.requeue(id).unwrap();
        assert_eq!(spool.ready().unwrap().len(), 1);
    }
}
