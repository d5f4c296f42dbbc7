//! What became of recordings, told to the ledgers of the nodes whose calls they were.
//!
//! ```text
//! begin (owner) -> owners/FILE.json -> finished (report in it) -> asked to take it -> taken: the owner is struck out -> gone
//! ```
//!
//! One file for each part that is recorded here for another node, made before there is anything of the part, so that a
//! node that dies tells at its next start what it could finish. A report is kept until every owner has it in its ledger, on
//! disk; an owner that is away is told when it is back. Where nobody knows whose a part is, such as a copy that is kept in place of
//! its original, every SRS node is told: a ledger takes what it waits for.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ferric_assurance::{Finished, GapEntry, Ledger};
use ferric_fabric::{Fabric, Inbound, NodeId};
use ferric_media::manifest::{Digest, RecordingState, SignedManifest};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::node::cluster::{Cluster, Seen, Topic};

/// In place of an owner: every SRS node that is up when it is told.
const EVERYBODY: &str = "*";
/// The folder in the data folder.
const FOLDER: &str = "owners";
/// Kind of message in its topic.
const REPORTS: u8 = 1;
/// Reports in one request.
const BATCH: usize = 100;
/// Gaps that a report lists.
const MOST_GAPS: usize = 256;
/// An owner that took no report is asked again after this.
const AGAIN: Duration = Duration::from_secs(2);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What nobody has taken for so long is given up.
const GIVE_UP: Duration = Duration::from_secs(30 * 86_400);

/// How a part ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Report {
    /// The part's files.
    file: Uuid,
    recording: Uuid,
    part: u32,
    state: RecordingState,
    duration_ms: u64,
    #[serde(default)]
    manifest: Option<Digest>,
    #[serde(default)]
    gaps: Vec<GapEntry>,
    #[serde(default)]
    reason: Option<String>,
}

/// What lies in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    recording: Uuid,
    owners: Vec<String>,
    #[serde(default)]
    report: Option<Report>,
}

#[derive(Default)]
struct Notes {
    by_file: BTreeMap<Uuid, Note>,
    /// Gaps and reason of parts that have ended and have no manifest yet.
    details: HashMap<Uuid, (Vec<GapEntry>, Option<String>)>,
}

/// Whose the parts are that this node records for others; clones are the same.
#[derive(Clone)]
pub(in crate::node) struct Owners(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    /// There are others to tell.
    in_cluster: bool,
    notes: Mutex<Notes>,
    news: Notify,
}

impl Owners {
    /// Reads what an earlier life left. A folder that cannot be used keeps no node from starting: the ledgers of others are told
    /// less then.
    pub(in crate::node) fn open(data_dir: &Path, in_cluster: bool) -> Owners {
        let folder = data_dir.join(FOLDER);
        let mut notes = Notes::default();
        if in_cluster && let Err(error) = read_notes(&folder, &mut notes) {
            tracing::error!(folder = %folder.display(), %error, "whose recordings those of earlier lives are cannot be read");
        }
        Owners(Arc::new(Inner { folder, in_cluster, notes: Mutex::new(notes), news: Notify::new() }))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, file: Uuid) -> PathBuf {
        self.0.folder.join(format!("{file}.json"))
    }

    fn write(&self, file: Uuid, note: &Note) {
        let write = || {
            let bytes = serde_json::to_vec(note)?;
            let temporary = self.0.folder.join(format!("{file}.new"));
            fs::write(&temporary, bytes)?;
            fs::rename(&temporary, self.path(file))
        };
        if let Err(error) = write() {
            tracing::error!(%file, %error, "whose recording this is cannot be written down");
        }
    }

    /// A part begins that is another node's.
    pub(super) fn begin(&self, file: Uuid, recording: Uuid, owner: &str) {
        let note = Note { recording, owners: vec![owner.to_owned()], report: None };
        self.write(file, &note);
        self.notes().by_file.insert(file, note);
    }

    /// Another node has the call of a recording too.
    pub(super) fn also(&self, recording: Uuid, owner: &str) {
        let mut changed = Vec::new();
        for (file, note) in &mut self.notes().by_file {
            if note.recording == recording && !note.owners.iter().any(|have| have == owner) {
                note.owners.push(owner.to_owned());
                changed.push((*file, note.clone()));
            }
        }
        for (file, note) in changed {
            self.write(file, &note);
        }
    }

    /// A part that this node recorded for a call of its own, which another node has now.
    pub(in crate::node) fn owe(&self, owner: &str, signed: &SignedManifest) {
        let part = &signed.manifest.part;
        if self.notes().by_file.contains_key(&part.file) {
            self.also(part.recording, owner);
        } else {
            self.begin(part.file, part.recording, owner);
            self.finished(signed, true);
        }
    }

    /// Nothing came of it.
    pub(super) fn forget(&self, file: Uuid) {
        if self.notes().by_file.remove(&file).is_some() {
            let _ = fs::remove_file(self.path(file));
        }
    }

    /// What is known of a part whose call is over; told before [`Owners::finished`].
    pub(in crate::node) fn details(&self, file: Uuid, gaps: &[GapEntry], reason: Option<String>) {
        let mut notes = self.notes();
        if notes.by_file.contains_key(&file) {
            notes.details.insert(file, (gaps.iter().take(MOST_GAPS).cloned().collect(), reason));
        }
    }

    /// A part's manifest is on disk. `is_own`: the ledger of this node waited for it.
    pub(in crate::node) fn finished(&self, signed: &SignedManifest, is_own: bool) {
        let manifest = &signed.manifest;
        let (file, recording, part) = (manifest.part.file, manifest.part.recording, manifest.part.number.get());
        let note = {
            let mut notes = self.notes();
            let (gaps, reason) = notes.details.remove(&file).unwrap_or_default();
            if !notes.by_file.contains_key(&file) && self.0.in_cluster && !is_own {
                let note = Note { recording, owners: vec![EVERYBODY.to_owned()], report: None };
                notes.by_file.insert(file, note);
            }
            let Some(note) = notes.by_file.get_mut(&file).filter(|note| note.report.is_none()) else { return };
            let (state, duration_ms, manifest) = (manifest.state, manifest.duration_ms, Some(signed.digest()));
            note.report = Some(Report { file, recording, part, state, duration_ms, manifest, gaps, reason });
            note.clone()
        };
        self.write(file, &note);
        self.0.news.notify_one();
    }

    /// Who is to be told where nobody knows whose a part is.
    fn name_everybody(&self, servers: &[String]) {
        if servers.is_empty() {
            return;
        }
        for note in self.notes().by_file.values_mut() {
            if note.owners.iter().any(|owner| owner == EVERYBODY) {
                note.owners = servers.to_vec();
            }
        }
    }

    /// Reports that this node has not taken, at most a batch.
    fn waiting(&self, owner: &str) -> Vec<Report> {
        let is_owner = |note: &&Note| note.owners.iter().any(|have| have == owner);
        self.notes().by_file.values().filter(is_owner).filter_map(|note| note.report.clone()).take(BATCH).collect()
    }

    /// It has them.
    fn taken(&self, owner: &str, reports: &[Report]) {
        for report in reports {
            let left = {
                let mut notes = self.notes();
                let Some(note) = notes.by_file.get_mut(&report.file) else { continue };
                note.owners.retain(|have| have != owner);
                let left = (!note.owners.is_empty()).then(|| note.clone());
                if left.is_none() {
                    notes.by_file.remove(&report.file);
                }
                left
            };
            match left {
                Some(note) => self.write(report.file, &note),
                None => drop(fs::remove_file(self.path(report.file))),
            }
        }
    }

    /// Who is owed a report.
    fn owed(&self) -> Vec<String> {
        let notes = self.notes();
        let finished = notes.by_file.values().filter(|note| note.report.is_some());
        let mut owners: Vec<String> = finished.flat_map(|note| note.owners.iter().cloned()).collect();
        owners.sort();
        owners.dedup();
        owners
    }

    /// Tells until the node ends.
    pub(in crate::node) async fn run(self, fabric: Fabric, cluster: Cluster) {
        loop {
            let is_srs = |seen: &Seen| seen.roles.iter().any(|role| role == "srs");
            let servers: Vec<String> =
                cluster.seen().iter().filter(|seen| is_srs(seen)).map(|seen| seen.node.to_string()).collect();
            self.name_everybody(&servers);
            for owner in self.owed() {
                let Ok(node) = NodeId::new(&owner) else { continue };
                loop {
                    let reports = self.waiting(&owner);
                    let Ok(body) = serde_json::to_vec(&reports) else { break };
                    if reports.is_empty()
                        || fabric.request(&node, Topic::Ledger.kind(REPORTS), body, PATIENCE).await.is_err()
                    {
                        break;
                    }
                    self.taken(&owner, &reports);
                }
            }
            tokio::select! {
                () = self.0.news.notified() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

fn read_notes(folder: &Path, notes: &mut Notes) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let file = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| Uuid::try_parse(stem).ok());
        let age = |at: SystemTime| SystemTime::now().duration_since(at).unwrap_or_default();
        let is_old = fs::metadata(&path).and_then(|meta| meta.modified()).is_ok_and(|at| age(at) > GIVE_UP);
        let note = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
        let is_whole = path.extension().is_some_and(|extension| extension == "json");
        if let (Some(file), Some(note), true, false) = (file, note, is_whole, is_old) {
            notes.by_file.insert(file, note);
        } else {
            tracing::warn!(file = %path.display(), "whose recording that was cannot be told any more");
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Takes reports of workers into the ledger of this node. An answer says that they are on disk.
pub(in crate::node) async fn take(mut topic: mpsc::Receiver<Inbound>, ledger: Ledger) {
    while let Some(message) = topic.recv().await {
        let Inbound::Request { from, kind, body, responder, .. } = message else { continue };
        if kind.number() != REPORTS {
            continue;
        }
        let reports: Vec<Report> = match serde_json::from_slice(&body) {
            Ok(reports) => reports,
            Err(error) => {
                tracing::warn!(%from, %error, "a report of recordings cannot be understood");
                continue;
            }
        };
        let ledger = ledger.clone();
        let written = tokio::task::spawn_blocking(move || {
            for Report { recording, part, state, duration_ms, manifest, gaps, reason, .. } in reports {
                ledger.details(recording, part, gaps, reason);
                ledger.finished(recording, &Finished { part, state, duration_ms, manifest });
            }
            ledger.sync();
        });
        if written.await.is_ok() {
            let _ = responder.answer(b"{}".as_slice());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn report(file: Uuid) -> Report {
        Report {
            file,
            recording: file,
            part: 1,
            state: RecordingState::Complete,
            duration_ms: 5,
            manifest: None,
            gaps: Vec::new(),
            reason: None,
        }
    }

    fn finish(owners: &Owners, file: Uuid) {
        let note = {
            let mut notes = owners.notes();
            let note = notes.by_file.get_mut(&file).unwrap();
            note.report = Some(report(file));
            note.clone()
        };
        owners.write(file, &note);
    }

    #[test]
    fn a_report_is_kept_over_a_restart_until_every_owner_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let (recording, file) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let owners = Owners::open(folder.path(), true);
        owners.begin(file, recording, "srs");
        assert!(owners.owed().is_empty(), "it still runs");
        owners.also(recording, "twin");
        owners.also(recording, "twin");
        finish(&owners, file);
        let owners = Owners::open(folder.path(), true);
        assert_eq!(owners.owed(), ["srs", "twin"]);
        let waiting = owners.waiting("srs");
        assert_eq!(waiting, [report(file)]);
        owners.taken("srs", &waiting);
        let owners = Owners::open(folder.path(), true);
        assert_eq!(owners.owed(), ["twin"]);
        owners.taken("twin", &waiting);
        assert!(Owners::open(folder.path(), true).owed().is_empty());
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn what_is_nobodys_is_told_to_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let owners = Owners::open(folder.path(), true);
        let file = Uuid::from_u128(2);
        owners.begin(file, Uuid::from_u128(1), EVERYBODY);
        finish(&owners, file);
        owners.name_everybody(&[]);
        assert_eq!(owners.owed(), [EVERYBODY], "nobody is there yet");
        owners.name_everybody(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(owners.owed(), ["a", "b"]);
    }

    #[test]
    fn what_came_to_nothing_and_what_cannot_be_read_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let owners = Owners::open(folder.path(), true);
        owners.begin(Uuid::from_u128(2), Uuid::from_u128(1), "srs");
        owners.forget(Uuid::from_u128(2));
        fs::write(folder.path().join(FOLDER).join("rubbish.json"), "{").unwrap();
        let owners = Owners::open(folder.path(), true);
        assert!(owners.notes().by_file.is_empty());
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 0);
    }
}
