//! One configuration of the edge for all nodes: server groups and routes are an epoch of the cluster.
//!
//! ```text
//! API, SIGHUP --> this node: checked, kept, written to the file --compare-and-set--> KV "edge" --watched--> other nodes
//!                                      \-- not taken: all of it is put back        (the revision is the epoch)
//! ```
//!
//! - The first epoch is what the first node's file says. From then on the cluster's is in force, and each node's file is
//!   written to say the same, so a node that starts alone runs by the last epoch that it saw.
//! - `data_dir/config/epoch.json` says which epoch the file is. A copy of the documents on the disk may be older than that:
//!   then the file counts until NATS itself says otherwise.
//! - A file that says something else when a node starts is older, or was edited while the node was away: the cluster's
//!   epoch wins, the file is rewritten, and what it said is a version that can be looked at and brought back.
//! - A file that is edited on a node in step with the cluster, and read by SIGHUP, is a change for the cluster like one over
//!   the API.
//! - Two changes at once: one of them is taken, the other one hears so and changes nothing.
//! - Without NATS no change of groups and routes is taken; all that is in force stays so. Changes of the rest of a file
//!   are a node's own and need no NATS.
//! - An epoch that a node cannot put into force is an alarm there; it goes on by the one before.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ferric_cluster::{ClusterState, Space, StoreError};
use ferric_media::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{State, Steering};
use crate::config::versions::{sha256, write_whole};
use crate::config::{Config, Part};
use crate::console::{BackendError, ConfigChange};
use crate::node::cluster::Cluster;

/// The name of the document.
const NAME: &str = "edge";
/// Between two looks, if nobody tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where epochs are.
#[derive(Debug)]
pub(in crate::node) struct Shared {
    state: ClusterState,
    node: String,
    runtime: Handle,
}

/// `epoch.json`: which epoch the groups and routes of the file are.
#[derive(Debug, Serialize, Deserialize)]
struct Adopted {
    epoch: u64,
    /// SHA-256 of the part.
    part: String,
}

impl Adopted {
    fn new(epoch: u64, part: &Part) -> Adopted {
        Adopted { epoch, part: sha256(&serde_json::to_string(part).unwrap_or_default()) }
    }
}

/// The document.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    #[serde(flatten)]
    part: Part,
    /// The node that wrote it.
    #[serde(default)]
    node: String,
    /// When, RFC 3339, by its clock.
    #[serde(default)]
    at: String,
    /// `start`, `sighup` or `api`.
    #[serde(default)]
    by: String,
    /// What changed, in words.
    #[serde(default)]
    changes: Vec<String>,
}

impl Shared {
    /// Epochs of the cluster, if there is one that has a place for them and this node is a proxy in it.
    pub(in crate::node) fn of(cluster: &Cluster, is_proxy: bool) -> Option<Shared> {
        let settings = cluster.settings().filter(|settings| is_proxy && !settings.nats.is_empty())?;
        tracing::debug!(cluster = settings.name, "server groups and routes are those of the cluster");
        Some(Shared { state: cluster.state().clone(), node: cluster.node().to_string(), runtime: Handle::current() })
    }

    /// Writes the next epoch; its number. Waits for NATS, which is not for an async thread.
    fn publish(&self, expected: u64, part: &Part, by: &str, changes: &[String]) -> Result<u64, StoreError> {
        let document = Document {
            part: part.clone(),
            node: self.node.clone(),
            at: Timestamp::from(SystemTime::now()).to_string(),
            by: by.to_owned(),
            changes: changes.to_vec(),
        };
        let value = serde_json::to_vec(&document).map_err(|error| StoreError::File(error.to_string()))?;
        self.runtime.block_on(self.state.compare_and_set(Space::Config, NAME, expected, Some(Bytes::from(value))))
    }

    /// The last epoch that is known.
    fn latest(&self) -> Result<Option<(u64, Document)>, String> {
        let Some(found) = self.state.document(Space::Config, NAME) else { return Ok(None) };
        let read = serde_json::from_slice(&found.value);
        let document = read.map_err(|error| format!("epoch {} cannot be read: {error}", found.revision))?;
        Ok(Some((found.revision, document)))
    }
}

/// The epoch that a text is, as far as this node noted it; 0: none.
pub(super) fn epoch_of(config: &Config, text: &str) -> u64 {
    let noted = std::fs::read(epoch_file(config)).ok();
    let noted = noted.and_then(|bytes| serde_json::from_slice::<Adopted>(&bytes).ok());
    let part = Part::of(text).ok();
    let (Some(Adopted { epoch, part: noted }), Some(part)) = (noted, part) else { return 0 };
    if Adopted::new(epoch, &part).part == noted { epoch } else { 0 }
}

fn epoch_file(config: &Config) -> PathBuf {
    super::folder(config).join("epoch.json")
}

impl Steering {
    /// Before a change is done: makes it one of the cluster, if it changes what is common. `Ok(None)`: it does not.
    pub(super) fn share(
        &self,
        before: Option<&str>,
        text: &str,
        by: &str,
        change: &ConfigChange,
    ) -> Result<Option<(u64, Part)>, BackendError> {
        let shared = self.shared.as_ref().filter(|_| by != "cluster");
        let (Some(shared), Some(before)) = (shared, before) else { return Ok(None) };
        let (before, part) = (Part::of(before)?, Part::of(text)?);
        if before == part {
            return Ok(None);
        }
        let published = shared.publish(self.epoch.load(Ordering::Relaxed), &part, by, &change.changes);
        published.map(|epoch| Some((epoch, part))).map_err(|error| match error {
            StoreError::Conflict => BackendError::Stale(
                "nothing changes: another node changed server groups or routes at the same time; look at what is in force now, \
                 and send the change again"
                    .to_owned(),
            ),
            StoreError::Unavailable(why) => BackendError::Unavailable(format!(
                "nothing changes: server groups and routes are the cluster's, and NATS does not take a change now ({why}); \
                 what is in force stays so, send it again when `nats-away` is over"
            )),
            error @ (StoreError::Name(_)
            | StoreError::TooLong { .. }
            | StoreError::ShortLease(_)
            | StoreError::File(_)) => BackendError::Refused(format!("nothing changes: {error}"), Vec::new()),
        })
    }

    /// Puts the cluster's epoch into force, if this node is behind; makes the first one if there is none.
    pub(in crate::node) fn adopt(&self) {
        let Some(shared) = &self.shared else { return };
        let mut state = self.lock();
        match shared.latest() {
            Ok(None) => self.seed(shared, &state),
            Ok(Some((epoch, _))) if epoch == self.epoch.load(Ordering::Relaxed) => *self.behind() = None,
            // A copy that is older than this node's file; NATS has the last word.
            Ok(Some((epoch, _)))
                if epoch < self.epoch.load(Ordering::Relaxed) && !shared.state.health().documents_current => {}
            Ok(Some((epoch, document))) => {
                let done = self.adopt_epoch(&mut state, epoch, document);
                *self.behind() = done.err().map(|why| {
                    tracing::error!(epoch, %why, "an epoch of the cluster is not in force on this node");
                    format!("epoch {epoch}: {why}")
                });
            }
            Err(why) => *self.behind() = Some(why),
        }
    }

    fn adopt_epoch(&self, state: &mut State, epoch: u64, document: Document) -> Result<(), BackendError> {
        let Document { part, node, at, by, changes } = document;
        if Part::of(state.text())? == part {
            self.note_epoch(epoch, &part);
            return Ok(());
        }
        if self.epoch.load(Ordering::Relaxed) == 0 {
            tracing::warn!(
                epoch,
                node,
                at,
                "the file's server groups and routes are not those of the cluster: the cluster's are in force, the file is \
                 rewritten, and what it said is a version of its own"
            );
        }
        let Some(source) = state.source.clone() else { return Ok(()) };
        let text = part.put_into(state.text())?;
        let config = self.judge(&source, &text)?;
        let note = format!("epoch {epoch} of node {node} ({by}, {at}): {}", changes.join("; "));
        self.take(state, text, config, "cluster", Some(note))?;
        self.note_epoch(epoch, &part);
        Ok(())
    }

    /// The first epoch is what this node's file says, unless another node is faster.
    fn seed(&self, shared: &Shared, state: &State) {
        let part = match Part::of(state.text()) {
            Ok(part) if !part.is_empty() && shared.state.health().documents_current => part,
            Ok(_) | Err(_) => return,
        };
        match shared.publish(0, &part, "start", &["the first epoch".to_owned()]) {
            Ok(epoch) => {
                self.epoch.store(epoch, Ordering::Relaxed);
                tracing::info!(
                    epoch,
                    "the server groups and routes of this node's file are the first epoch of the cluster"
                );
            }
            Err(error) => tracing::debug!(%error, "the first epoch is not this node's"),
        }
    }

    /// The groups and routes in force are that epoch, also after a restart.
    pub(super) fn note_epoch(&self, epoch: u64, part: &Part) {
        self.epoch.store(epoch, Ordering::Relaxed);
        let written = serde_json::to_vec(&Adopted::new(epoch, part)).map_err(io::Error::from);
        let file = epoch_file(&self.started);
        if let Err(error) = written.and_then(|bytes| write_whole(&file, &bytes, 0o600)) {
            tracing::error!(file = %file.display(), %error, "which epoch is in force cannot be kept for the next start");
        }
    }

    /// Why this node does not run by the cluster's epoch.
    pub(in crate::node) fn epoch_missing(&self) -> Option<String> {
        self.behind().clone()
    }

    /// The epoch in force; `None`: this node's configuration is its own.
    pub(in crate::node) fn epoch(&self) -> Option<u64> {
        self.shared.as_ref().map(|_| self.epoch.load(Ordering::Relaxed))
    }

    /// Follows the epochs of the cluster for as long as the node runs.
    pub(in crate::node) async fn follow(self: Arc<Steering>) {
        let Some(shared) = &self.shared else { return };
        let mut changed = shared.state.watch_documents();
        loop {
            let adopt = |steering: &Steering| {
                steering.adopt();
                Ok(())
            };
            if self.run(adopt).await.is_err() {
                return;
            }
            tokio::select! {
                told = changed.changed() => if told.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_an_epoch_until_its_groups_or_routes_are_edited() {
        let home = tempfile::tempdir().unwrap();
        let config = Config::embedded(home.path());
        let text = "[node]\nid = \"a\"\n[[proxy.route]]\nto = \"srs\"\n";
        assert_eq!(epoch_of(&config, text), 0, "none was noted");
        let noted = serde_json::to_vec(&Adopted::new(7, &Part::of(text).unwrap())).unwrap();
        std::fs::create_dir_all(super::super::folder(&config)).unwrap();
        write_whole(&epoch_file(&config), &noted, 0o600).unwrap();
        assert_eq!(epoch_of(&config, text), 7);
        assert_eq!(epoch_of(&config, &text.replace("\"a\"", "\"b\" # mine")), 7, "that is no business of the cluster");
        assert_eq!(epoch_of(&config, &text.replace("srs", "registrar")), 0);
        std::fs::write(epoch_file(&config), "{").unwrap();
        assert_eq!(epoch_of(&config, text), 0);
    }
}
