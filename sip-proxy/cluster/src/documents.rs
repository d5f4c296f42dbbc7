//! Documents: configuration epochs and the directory, in this node's memory and in a file.
//!
//! ```text
//! data_dir/state/documents.json   { "version":1, "revision":R, "documents":[ {"key","revision","value":base64} ] }
//! ```
//!
//! With NATS the file is the last-known-good copy of a KV bucket: a node that starts without NATS works from it. A single
//! node has nothing else: there the file is written before a write is reported done. Revisions only grow.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::is_token;
use crate::error::StoreError;
use crate::files::{read, write_whole};
use crate::health::lock;

/// Longest value, in bytes.
pub(crate) const MOST_BYTES: usize = 512 << 10;

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Configuration epochs: the revision is the epoch.
    Config,
    /// The directory of nodes and capture workers.
    Directory,
}

impl Space {
    fn prefix(self) -> &'static str {
        match self {
            Space::Config => "config.",
            Space::Directory => "directory.",
        }
    }

    /// The key of a name in the store.
    pub(crate) fn key(self, name: &str) -> Result<String, StoreError> {
        if is_token(name) { Ok(format!("{}{name}", self.prefix())) } else { Err(StoreError::Name(name.to_owned())) }
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name in its space.
    pub name: String,
    /// Grows with each write of any document.
    pub revision: u64,
    /// What was written.
    pub value: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) revision: u64,
    pub(crate) value: Bytes,
}

#[derive(Serialize, Deserialize)]
struct FileForm {
    version: u32,
    revision: u64,
    documents: Vec<FileDocument>,
}

#[derive(Serialize, Deserialize)]
struct FileDocument {
    key: String,
    revision: u64,
    value: String,
}

#[derive(Debug, Default)]
struct State {
    all: BTreeMap<String, Stored>,
    /// The highest that was seen.
    revision: u64,
}

/// All documents that this node knows.
#[derive(Debug)]
pub(crate) struct Documents {
    state: Mutex<State>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
    file: PathBuf,
    current: AtomicBool,
    changed: watch::Sender<u64>,
}

impl Documents {
    /// Reads the file; one that cannot be understood is an error.
    pub(crate) fn open(data_dir: &Path) -> Result<Documents, (PathBuf, io::Error)> {
        let file = data_dir.join("state/documents.json");
        let state = match read(&file).and_then(|bytes| bytes.map(|bytes| understand(&bytes)).transpose()) {
            Ok(state) => state.unwrap_or_default(),
            Err(error) => return Err((file, error)),
        };
        Ok(Documents::with(file, state))
    }

    /// Knows nothing yet; the file is replaced by what is learned.
    pub(crate) fn empty(data_dir: &Path) -> Documents {
        Documents::with(data_dir.join("state/documents.json"), State::default())
    }

    fn with(file: PathBuf, state: State) -> Documents {
        let changed = watch::Sender::new(state.revision);
        Documents { state: Mutex::new(state), writing: Mutex::new(()), file, current: AtomicBool::new(false), changed }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Stored> {
        lock(&self.state).all.get(key).cloned()
    }

    pub(crate) fn list(&self, space: Space) -> Vec<Document> {
        let state = lock(&self.state);
        let of_space = state.all.iter().filter_map(|(key, stored)| {
            let name = key.strip_prefix(space.prefix())?.to_owned();
            Some(Document { name, revision: stored.revision, value: stored.value.clone() })
        });
        of_space.collect()
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Stored> {
        lock(&self.state).all.clone()
    }

    /// The highest revision that was seen.
    pub(crate) fn revision(&self) -> u64 {
        lock(&self.state).revision
    }

    /// Told whenever something changed; the value says nothing but that.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    pub(crate) fn set_current(&self, current: bool) {
        self.current.store(current, Ordering::Relaxed);
    }

    /// Takes what the store says of one key; older news are passed over.
    pub(crate) fn apply(&self, key: &str, revision: u64, value: Option<Bytes>) {
        let mut state = lock(&self.state);
        if state.all.get(key).is_some_and(|known| known.revision >= revision) {
            return;
        }
        match value {
            Some(value) => state.all.insert(key.to_owned(), Stored { revision, value }),
            None => state.all.remove(key),
        };
        state.revision = state.revision.max(revision);
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes a whole list, made when the store was at `revision`: what is not in it and not newer is gone.
    pub(crate) fn replace(&self, list: &BTreeMap<String, Stored>, revision: u64) {
        let gone: Vec<String> = {
            let state = lock(&self.state);
            let missing =
                state.all.iter().filter(|(key, stored)| !list.contains_key(*key) && stored.revision <= revision);
            missing.map(|(key, _)| key.clone()).collect()
        };
        if !gone.is_empty() {
            lock(&self.state).all.retain(|key, _| !gone.contains(key));
            self.changed.send_modify(|count| *count += 1);
        }
        for (key, stored) in list {
            self.apply(key, stored.revision, Some(stored.value.clone()));
        }
    }

    /// The store began anew: what is known was written to it again under other revisions.
    pub(crate) fn renumber(&self, list: BTreeMap<String, Stored>) {
        let mut state = lock(&self.state);
        state.revision = list.values().map(|stored| stored.revision).max().unwrap_or(0);
        state.all = list;
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Writes by compare-and-set where the file is all there is. `expected`: 0 for a key that is not there.
    pub(crate) fn write_here(&self, key: &str, expected: u64, value: Option<Bytes>) -> Result<u64, StoreError> {
        let _writing = lock(&self.writing);
        let mut next = {
            let state = lock(&self.state);
            if state.all.get(key).map_or(0, |stored| stored.revision) != expected {
                return Err(StoreError::Conflict);
            }
            State { all: state.all.clone(), revision: state.revision + 1 }
        };
        let revision = next.revision;
        match value {
            Some(value) => next.all.insert(key.to_owned(), Stored { revision, value }),
            None => next.all.remove(key),
        };
        let bytes = form(&next).map_err(|error| StoreError::File(error.to_string()))?;
        write_whole(&self.file, &bytes).map_err(|error| StoreError::File(error.to_string()))?;
        *lock(&self.state) = next;
        self.changed.send_modify(|count| *count += 1);
        Ok(revision)
    }

    /// A number larger than all before, kept in the file.
    pub(crate) fn fence_here(&self) -> Result<u64, StoreError> {
        // A document that is never there takes the number.
        self.write_here("fence", 0, None)
    }

    /// Writes the file as of now.
    pub(crate) fn save(&self) -> io::Result<()> {
        let _writing = lock(&self.writing);
        let bytes = form(&lock(&self.state))?;
        write_whole(&self.file, &bytes)
    }
}

fn form(state: &State) -> io::Result<Vec<u8>> {
    let documents = state.all.iter().map(|(key, stored)| FileDocument {
        key: key.clone(),
        revision: stored.revision,
        value: STANDARD.encode(&stored.value),
    });
    let form = FileForm { version: 1, revision: state.revision, documents: documents.collect() };
    Ok(serde_json::to_vec_pretty(&form)?)
}

fn understand(bytes: &[u8]) -> io::Result<State> {
    let form: FileForm = serde_json::from_slice(bytes)?;
    if form.version != 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("version {} is not known", form.version)));
    }
    let mut state = State { all: BTreeMap::new(), revision: form.revision };
    for document in form.documents {
        let value = STANDARD
            .decode(&document.value)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        state.all.insert(document.key, Stored { revision: document.revision, value: value.into() });
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn stored(revision: u64, value: &'static str) -> Stored {
        Stored { revision, value: Bytes::from_static(value.as_bytes()) }
    }

    #[test]
    fn a_write_needs_the_revision_and_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let documents = Documents::open(folder.path()).unwrap();
        let key = Space::Config.key("edge").unwrap();
        let first = documents.write_here(&key, 0, Some("one".into())).unwrap();
        assert_eq!(documents.write_here(&key, 0, Some("two".into())), Err(StoreError::Conflict));
        let second = documents.write_here(&key, first, Some("two".into())).unwrap();
        assert!(documents.fence_here().unwrap() > second && second > first);
        let again = Documents::open(folder.path()).unwrap();
        assert_eq!(again.all(), documents.all());
        assert!(again.fence_here().unwrap() > documents.revision());
        assert_eq!(again.list(Space::Config).len(), 1);
        assert_eq!(again.list(Space::Directory).len(), 0);
        assert!(Space::Config.key("a.b").is_err());
    }

    #[test]
    fn what_the_store_says_is_taken_in_the_order_of_revisions() {
        let folder = tempfile::tempdir().unwrap();
        let documents = Documents::empty(folder.path());
        documents.apply("config.a", 5, Some("five".into()));
        documents.apply("config.a", 4, Some("four".into()));
        assert_eq!(documents.get("config.a"), Some(stored(5, "five")));
        documents.apply("config.b", 6, Some("six".into()));
        documents.apply("config.c", 9, Some("nine".into()));
        // A list as of revision 7 knows nothing of 9.
        documents.replace(&BTreeMap::from([("config.a".to_owned(), stored(7, "seven"))]), 7);
        let keys: Vec<String> = documents.all().into_keys().collect();
        assert_eq!(keys, ["config.a", "config.c"]);
        assert_eq!((documents.get("config.a"), documents.revision()), (Some(stored(7, "seven")), 9));
        documents.apply("config.c", 10, None);
        assert_eq!(documents.get("config.c"), None);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        Documents::empty(folder.path()).save().unwrap();
        let file = folder.path().join("state/documents.json");
        for bad in ["{", "{\"version\":2,\"revision\":1,\"documents\":[]}"] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(Documents::open(folder.path()).unwrap_err().0, file);
        }
    }
}
