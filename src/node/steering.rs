//! Changes while the node runs: the configuration in force, and how another one takes its place.
//!
//! ```text
//! SIGHUP: file ------\                                 refused: nothing changes, the complaints are told
//!                     read, checked whole -> Config --<
//! API: text in force -/    edited                      taken:   version kept -> file written (API) -> one swap in signalling
//! ```
//!
//! - Changes wait for each other. A change over the API may name the version that it is meant for.
//! - `[proxy]` and `[[sip.trust]]` are swapped as one: a request sees the old or the new, and those under way end as they began.
//!   All else that differs waits for a restart, and is told.
//! - The file on the disk is what a person edits: a change over the API does not overwrite what was not read yet.
//! - What was drained is known to the groups themselves, over changes; `data_dir/config/drained.json` keeps it for the next start.
//! - A registrar is opened and let go of here, files and all: signalling only swaps it.
//! - In a cluster, server groups and routes are an epoch of all nodes: [`shared`].
//! - Versions that cannot be kept are no reason to refuse what a person puts into the file; each change tries again.
//!
//! All of it blocks (files, fsync): it runs beside the async threads.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferric_proxy::group::{Drained, GroupView};
use ferric_sip::flow::Transport;
use tokio::sync::broadcast;

use super::asks::{Ask, Asks};
use super::edge;
use crate::config::versions::{MOST_BYTES, Versions, replace_file, sha256, write_whole};
use crate::config::{Complaints, Config, Source, changes, unified};
use crate::console::{BackendError, ConfigChange, ConfigCheck, Event, TextError};

mod shared;

pub(super) use shared::Shared;

/// `drained.json`: group, element, whether it is drained.
type DrainedFile = BTreeMap<String, BTreeMap<String, bool>>;

/// What a change makes of the text in force: the new text, and whether something is new in it.
pub(super) type Edited = Result<(String, bool), BackendError>;

pub(super) struct State {
    /// None in a node that was started from values.
    pub(super) source: Option<Source>,
    pub(super) versions: Option<Versions>,
    /// The configuration that the text in force says.
    config: Config,
    /// What of it holds.
    applied: Config,
    /// A registrar runs.
    registers: bool,
}

impl State {
    /// The version in force; 0 where none are kept.
    pub(super) fn number(&self) -> u64 {
        self.versions.as_ref().and_then(Versions::last).map_or(0, |last| last.number)
    }

    /// The text in force.
    pub(super) fn text(&self) -> &str {
        self.source.as_ref().map_or("", |source| &source.text)
    }
}

/// The one place where configurations change.
pub(super) struct Steering {
    pub(super) asks: Asks,
    events: broadcast::Sender<Event>,
    /// Listeners as they are.
    pub(super) bound: Vec<(Transport, SocketAddr)>,
    started: Config,
    state: Mutex<State>,
    /// Why the file was refused last.
    refused: Mutex<Option<String>>,
    /// Why versions are not kept.
    unversioned: Mutex<Option<String>>,
    has_groups: AtomicBool,
    /// Where server groups and routes are the cluster's.
    shared: Option<Shared>,
    /// The epoch of the cluster in force; 0: none yet. Changes while the state is locked.
    epoch: AtomicU64,
    /// Why this node does not run by the cluster's epoch.
    behind: Mutex<Option<String>>,
}

impl Steering {
    /// Takes note of what the node was started with.
    pub(super) fn open(
        config: &Config,
        source: Option<Source>,
        bound: &[(Transport, SocketAddr)],
        registers: bool,
        asks: Asks,
        events: broadcast::Sender<Event>,
        shared: Option<Shared>,
    ) -> Arc<Steering> {
        let mut state = State { source, versions: None, config: config.clone(), applied: config.clone(), registers };
        let unversioned = Mutex::new(state.open_versions(config));
        let has_groups = AtomicBool::new(has_groups(config));
        let epoch = shared.as_ref().map_or(0, |_| shared::epoch_of(config, state.text()));
        Arc::new(Steering {
            asks,
            events,
            bound: bound.to_vec(),
            started: config.clone(),
            state: Mutex::new(state),
            refused: Mutex::new(None),
            unversioned,
            has_groups,
            shared,
            epoch: AtomicU64::new(epoch),
            behind: Mutex::new(None),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what blocks away from the async threads.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Steering) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let steering = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&steering)).await;
        done.map_err(|_| BackendError::Unavailable("the node is stopping".into()))?
    }

    /// The groups, for the alarms; none are asked for while none are configured. `None` when signalling does not answer.
    pub(super) async fn groups(&self) -> Option<Vec<GroupView>> {
        if !self.has_groups.load(Ordering::Relaxed) {
            return Some(Vec::new());
        }
        self.asks.ask_in_turn(Ask::Groups).await
    }

    /// Why the file was refused when it was read last.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn behind(&self) -> MutexGuard<'_, Option<String>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why versions are not kept, if they are not.
    pub(super) fn unversioned(&self) -> Option<String> {
        self.unversioned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What waits for a restart.
    pub(super) fn waiting(&self, state: &State) -> Vec<String> {
        changes::waiting(&self.started, &state.config)
    }

    /// Reads the file again (SIGHUP) and says what comes of it.
    pub(super) fn reload(&self) {
        let mut state = self.lock();
        let Some(source) = state.source.clone() else {
            tracing::warn!("SIGHUP: there is no configuration file to read again");
            return;
        };
        let text = match std::fs::read_to_string(&source.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && source.on_disk.is_none() => {
                tracing::warn!(file = %source.file.display(), "SIGHUP: there is no configuration file yet; the first change over the API makes it");
                return;
            }
            Err(error) => return self.refuse(format!("{} cannot be read: {error}", source.file.display())),
        };
        let config = match source.parse(&text) {
            Ok(config) => config,
            Err(complaints) => return self.refuse(complaints.to_string()),
        };
        if let Err(error) = self.take(&mut state, text, config, "sighup", None) {
            self.refuse(error.to_string());
        }
    }

    fn refuse(&self, why: String) {
        tracing::error!("SIGHUP: the file is not fine, nothing changes\n{why}");
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Makes another text of the one in force, checks it, writes it to the file and puts it into force.
    pub(super) fn change(
        &self,
        wanted: Option<u64>,
        note: Option<String>,
        edit: impl FnOnce(&State) -> Edited,
    ) -> Result<ConfigChange, BackendError> {
        let mut state = self.lock();
        let Some(source) = state.source.clone() else {
            let text = "this node was started from values, not from a configuration: `ferric run` starts one that can be changed";
            return Err(BackendError::Conflict { text: text.to_owned(), diff: None });
        };
        let number = state.number();
        if let Some(wanted) = wanted.filter(|wanted| *wanted != number) {
            return Err(BackendError::Stale(format!(
                "version {number} is in force, not {wanted}: look at it, and send the change again"
            )));
        }
        untouched(&source)?;
        let (text, created) = edit(&state)?;
        let config = self.judge(&source, &text)?;
        let mut change = self.take(&mut state, text, config, "api", note)?;
        change.created = created;
        Ok(change)
    }

    /// Reads a text as the file is read.
    fn judge(&self, source: &Source, text: &str) -> Result<Config, BackendError> {
        if text.len() > MOST_BYTES {
            return Err(BackendError::Refused(format!("a configuration has at most {MOST_BYTES} bytes"), Vec::new()));
        }
        source.parse(text).map_err(|complaints| {
            let count = match complaints.list.len() {
                1 => "one error".to_owned(),
                many => format!("{many} errors"),
            };
            let first = complaints.list.first().map_or("", |first| &first.text);
            BackendError::Refused(format!("nothing changes, {count}: {first}"), places(&complaints))
        })
    }

    /// What would come of a text.
    pub(super) fn check(&self, text: &str) -> ConfigCheck {
        let state = self.lock();
        let source = state.source.clone();
        let judged = match &source {
            Some(source) => self.judge(source, text),
            None => Err(BackendError::Refused(
                "this node was started from values, not from a configuration".to_owned(),
                Vec::new(),
            )),
        };
        match judged {
            Ok(config) => ConfigCheck {
                ok: true,
                errors: Vec::new(),
                changes: words(&state.config, &config, text == state.text()),
                needs_restart: changes::waiting(&self.started, &config),
                warnings: config.warnings,
            },
            Err(BackendError::Refused(detail, errors)) if errors.is_empty() => ConfigCheck {
                errors: vec![TextError { line: 0, column: 0, message: detail, source: String::new() }],
                ..ConfigCheck::default()
            },
            Err(BackendError::Refused(_, errors)) => ConfigCheck { errors, ..ConfigCheck::default() },
            Err(other) => ConfigCheck {
                errors: vec![TextError { line: 0, column: 0, message: other.to_string(), source: String::new() }],
                ..ConfigCheck::default()
            },
        }
    }

    /// Puts a checked configuration into force.
    fn take(
        &self,
        state: &mut State,
        text: String,
        config: Config,
        by: &str,
        note: Option<String>,
    ) -> Result<ConfigChange, BackendError> {
        if state.versions.is_none() {
            *self.unversioned.lock().unwrap_or_else(PoisonError::into_inner) = state.open_versions(&self.started);
        }
        let mut change = ConfigChange {
            changed: text != state.text(),
            needs_restart: changes::waiting(&self.started, &config),
            warnings: config.warnings.clone(),
            ..ConfigChange::default()
        };
        let in_force = changes::in_force(&self.started, &state.applied, &config);
        let unusable = |complaints: Complaints| BackendError::Unavailable(format!("nothing changes: {complaints}"));
        let mut epoch = edge::epoch(&in_force, &self.bound).map_err(unusable)?;
        let registers = epoch.registers();
        if !state.registers {
            let folder = registrations(&self.started);
            epoch.open_registrar(&folder).map_err(|error| {
                let folder = folder.display();
                BackendError::Unavailable(format!("nothing changes: the registrar cannot use {folder}: {error}"))
            })?;
        }
        if change.changed {
            change.changes = note.into_iter().chain(words(&state.config, &config, false)).collect();
            let before = state.source.as_ref().map(|source| (source.text.clone(), source.on_disk.clone()));
            self.keep(state, &text, by, &change)?;
            match self.share(before.as_ref().map(|(text, _)| text.as_str()), &text, by, &change) {
                Ok(Some((epoch, part))) => self.note_epoch(epoch, &part),
                Ok(None) => {}
                Err(error) => {
                    self.put_back(state, before, by);
                    return Err(error);
                }
            }
        }
        let ended = self.asks.ask_now(|done| Ask::Apply(Box::new(epoch), done))?;
        state.registers = registers;
        // One that ended writes what it has, before another one reads it.
        drop(ended);
        self.has_groups.store(has_groups(&in_force), Ordering::Relaxed);
        state.applied = in_force;
        state.config = config;
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
        change.version = state.number();
        for warning in &change.warnings {
            tracing::warn!("{warning}");
        }
        let (version, what) = (change.version, change.changes.join("; "));
        if change.changed {
            tracing::info!(version, by, what, "another configuration is in force");
        } else {
            tracing::info!(version, by, "the configuration is the one in force");
        }
        if !change.needs_restart.is_empty() {
            tracing::warn!(
                sections = change.needs_restart.join(", "),
                "these differ from what the node runs by: they wait for a restart"
            );
        }
        if change.changed {
            let _ = self.events.send(Event {
                version: Some(version),
                cause: Some(by.to_owned()),
                ..Event::new("config.applied")
            });
        }
        Ok(change)
    }

    /// Keeps the text as a version, and writes it to the file if it does not come from there.
    fn keep(&self, state: &mut State, text: &str, by: &str, change: &ConfigChange) -> Result<(), BackendError> {
        let State { source: Some(source), versions, .. } = state else { return Ok(()) };
        if let Some(versions) = versions {
            let added = versions.add(text, by, change.changes.clone(), change.needs_restart.clone());
            added.map_err(|error| {
                BackendError::Unavailable(format!("the version cannot be kept, nothing changes: {error}"))
            })?;
        }
        if by != "sighup"
            && let Err(error) = replace_file(&source.file, text)
        {
            if let Some(versions) = versions {
                versions.take_back();
            }
            let file = source.file.display();
            let text = format!(
                "{file} cannot be written, nothing changes: {error}; the node needs the right to write the file and its folder"
            );
            return Err(BackendError::Conflict { text, diff: None });
        }
        source.on_disk = Some(text.to_owned());
        text.clone_into(&mut source.text);
        Ok(())
    }

    /// What was kept did not come into force after all.
    fn put_back(&self, state: &mut State, before: Option<(String, Option<String>)>, by: &str) {
        let State { source: Some(source), versions, .. } = state else { return };
        let Some((text, on_disk)) = before else { return };
        if let Some(versions) = versions {
            versions.take_back();
        }
        if by == "sighup" {
            // The file is a person's: it waits for the next SIGHUP.
            source.text = text;
            return;
        }
        let done = match &on_disk {
            Some(on_disk) => replace_file(&source.file, on_disk),
            None => std::fs::remove_file(&source.file),
        };
        if let Err(error) = done {
            tracing::error!(file = %source.file.display(), %error, "the file says what is not in force, and cannot be put back");
        }
        (source.text, source.on_disk) = (text, on_disk);
    }

    /// Drains an element, or takes it back; false when there is none of that name.
    pub(super) fn set_drained(&self, group: &str, element: &str, drained: bool) -> Result<bool, BackendError> {
        // One after the other, so that the file says what the last one said.
        let _state = self.lock();
        let (of, name) = (group.to_owned(), element.to_owned());
        let Some(all) = self.asks.ask_now(|tell| Ask::Drained { group: of, element: name, drained, tell })? else {
            return Ok(false);
        };
        let written = serde_json::to_vec_pretty(&DrainedFile::from(all)).map_err(io::Error::from);
        if let Err(error) = written.and_then(|bytes| write_whole(&drained_file(&self.started), &bytes, 0o600)) {
            tracing::error!(%error, "what is drained cannot be kept for the next start");
        }
        tracing::info!(group, element, drained, "an element is drained or taken back");
        Ok(true)
    }
}

/// The text on the disk is the one that was read.
fn untouched(source: &Source) -> Result<(), BackendError> {
    let now = match std::fs::read_to_string(&source.file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(BackendError::Unavailable(format!("{} cannot be read: {error}", source.file.display())));
        }
    };
    if now == source.on_disk {
        return Ok(());
    }
    let diff =
        unified(source.on_disk.as_deref().unwrap_or(""), now.as_deref().unwrap_or(""), "in force", "on the disk");
    let file = source.file.display();
    let text = format!(
        "{file} was changed on the disk and is not in force: send SIGHUP to take it over, or put it back; then send the change again"
    );
    Err(BackendError::Conflict { text, diff: Some(diff) })
}

/// What changes, in words.
fn words(old: &Config, new: &Config, is_same: bool) -> Vec<String> {
    if is_same {
        return Vec::new();
    }
    let mut words = changes::between(old, new);
    words.extend(
        changes::waiting(old, new).into_iter().map(|section| format!("{section} changed: it waits for a restart")),
    );
    if words.is_empty() {
        words.push("comments or order".to_owned());
    }
    words
}

impl State {
    /// Opens the versions, with the text in force as the last one; without them the node runs all the same. What is wrong
    /// with them.
    fn open_versions(&mut self, started: &Config) -> Option<String> {
        let source = self.source.as_ref()?;
        let folder = folder(started);
        match versions(&folder, &self.config, source) {
            Ok(versions) => {
                self.versions = Some(versions);
                None
            }
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "versions of the configuration cannot be kept");
                Some(format!("{}: {error}", folder.display()))
            }
        }
    }
}

fn versions(folder: &Path, config: &Config, source: &Source) -> io::Result<Versions> {
    let mut versions = Versions::open(folder)?;
    let last = versions.last().map(|last| (last.number, last.sha256 == sha256(&source.text)));
    let changes = match last {
        Some((_, true)) => return Ok(versions),
        Some((number, false)) => {
            let before = versions.get(number).ok().flatten().and_then(|(_, text)| source.parse(&text).ok());
            before.map_or_else(
                || vec!["the version before cannot be read".to_owned()],
                |before| words(&before, config, false),
            )
        }
        None => vec!["the first one".to_owned()],
    };
    versions.add(&source.text, "start", changes, Vec::new())?;
    Ok(versions)
}

/// Where registrations are kept.
pub(super) fn registrations(config: &Config) -> PathBuf {
    config.node.data_dir.join("registrar")
}

/// What was drained before the start.
pub(super) fn read_drained(config: &Config) -> Drained {
    let file = drained_file(config);
    let read = std::fs::read(&file).and_then(|bytes| Ok(serde_json::from_slice::<DrainedFile>(&bytes)?));
    match read {
        Ok(drained) => drained.into(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Drained::default(),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "what was drained before the start cannot be read");
            Drained::default()
        }
    }
}

fn folder(config: &Config) -> PathBuf {
    config.node.data_dir.join("config")
}

fn drained_file(config: &Config) -> PathBuf {
    folder(config).join("drained.json")
}

fn has_groups(config: &Config) -> bool {
    config.proxy.as_ref().is_some_and(|proxy| !proxy.groups.is_empty())
}

fn places(complaints: &Complaints) -> Vec<TextError> {
    let place = |complaint: &crate::config::Complaint| TextError {
        line: complaint.line,
        column: complaint.column,
        message: complaint.text.clone(),
        source: complaint.source.clone(),
    };
    complaints.list.iter().map(place).collect()
}

#[cfg(test)]
mod tests;
