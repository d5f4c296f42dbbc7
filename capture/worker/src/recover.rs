//! Start-up: what the last run left in the spool is finished, moved on or set aside.
//!
//! | found | what becomes of it |
//! | --- | --- |
//! | `sent/*` | deleted: it is verified in the store |
//! | `recording/*.new` | deleted: it holds no audio yet |
//! | `recording/<id>`, its manifest named by the chain | moved to `ready` |
//! | `recording/<id>`, index ended, all segments there | committed as `complete` |
//! | `recording/<id>`, anything else with a whole header | torn tail cut off, committed as `recovered` |
//! | `recording/<id>` of a copy, or of a mirrored recording that was cut off | moved to `held`, where it waits for its twin |
//! | `recording/<id>` without a readable audio header | set aside |
//! | `ready/<id>` whose manifest does not parse or is not this node's, or whose files have other lengths | set aside |
//! | names that are no recording | set aside |
//!
//! The edge holds no key, so "whole" means framed whole: the header parses and
//! every length field leads to the next. A segment altered in place shows when
//! it is opened, and the manifest's hash pins what was there at recovery.
//! Whole segments stay byte for byte as they are.
//!
//! The length comes from the index (see [`crate::spool_index`]); without a
//! usable one, from the time between the header's `created` and the file's last
//! change, which is right within about a second.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ferric_media::eopus::{Frame, Framer, Header};
use ferric_media::keys::NodeKey;
use ferric_media::manifest::{Digest, RecordingState, SignedManifest};
use ferric_media::part::Part;
use ferric_media::seal::SealSummary;
use ferric_media::timestamp::Timestamp;
use uuid::Uuid;

use crate::mirror::twin::{Role, Twin};
use crate::spool::{AUDIO, INDEX, MANIFEST, METADATA, Spool, SpoolError, Stage, at, recording_id};
use crate::spool_chain::{settle, store_head, stored_head};
use crate::spool_commit::{Committer, measure};
use crate::spool_index::{Index, RecordingStart};
use crate::spool_writer::FinishedRecording;

/// What a start-up found and did.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Recordings made ready now, with their manifests (for the catalogue).
    pub finished: Vec<SignedManifest>,
    /// Recordings that were ready before.
    pub ready: Vec<SignedManifest>,
    /// Held back for their twins now.
    pub held: Vec<Part>,
    /// What was set aside, with the reason.
    pub aside: Vec<(String, String)>,
    /// Recordings that the disk refuses to finish now; hand them to the [`crate::spool_commit::Finisher`],
    /// which tries until it can.
    pub failed: Vec<(FinishedRecording, SpoolError)>,
}

/// Recovers a spool and returns the committer for what comes. Run it before anything is recorded.
///
/// `node` is this node's id; `hint` is the last manifest that the catalogue knows of this node, used only
/// if the spool cannot tell.
///
/// # Errors
/// A folder of the spool cannot be read. One bad recording is no error.
pub fn recover(
    spool: &Spool,
    key: Arc<NodeKey>,
    node: &str,
    hint: Option<Digest>,
) -> Result<(Committer, Recovery), SpoolError> {
    let mut recovery = Recovery::default();
    for sent in spool.entries(Stage::Sent)? {
        if let Err(error) = fs::remove_dir_all(&sent) {
            tracing::warn!(%error, path = %sent.display(), "cannot delete what is safe in the store");
        }
    }
    tidy(spool, &mut recovery)?;
    let settled = settle(spool, hint)?;
    if let Some(head) = settled.head.filter(|head| stored_head(spool) != Some(*head)) {
        // Before the uploader may take away the manifests that it was read from.
        store_head(spool, head)?;
        spool.sync()?;
    }
    for folder in spool.entries(Stage::Ready)? {
        match check_ready(&folder, &key) {
            Ok(manifest) => recovery.ready.push(manifest),
            Err(reason) => set_aside(spool, &folder, &reason, &mut recovery),
        }
    }
    let mut committer = Committer::new(spool.clone(), key, settled.head);
    let mut batch = Vec::new();
    for folder in spool.entries(Stage::Recording)? {
        let kept = settled.kept.contains(&folder);
        match reopen(&folder, node, kept) {
            Ok(finished) => batch.push(finished),
            Err(reason) => set_aside(spool, &folder, &reason, &mut recovery),
        }
    }
    // In pieces, so that what a full disk refuses does not undo what it took.
    while !batch.is_empty() {
        let rest = batch.split_off(batch.len().min(64));
        let result = committer.commit(std::mem::replace(&mut batch, rest));
        recovery.held.extend(result.held);
        recovery.finished.extend(result.ready);
        recovery.failed.extend(result.failed);
    }
    Ok((committer, recovery))
}

/// Takes a held recording out of its wait, to be handed to the [`crate::spool_commit::Finisher`]. A crash before it is
/// committed puts it back.
///
/// # Errors
/// It cannot be moved, or is damaged; then it is set aside.
pub fn release_held(spool: &Spool, id: Uuid, node: &str) -> Result<FinishedRecording, SpoolError> {
    let (from, to) = (spool.folder(Stage::Held, id), spool.folder(Stage::Recording, id));
    fs::rename(&from, &to).map_err(at("move", &from))?;
    match reopen(&to, node, false) {
        Ok(mut finished) => {
            let outcome = Twin::load(&to).and_then(|twin| twin.outcome);
            finished.state = outcome.map_or(finished.state, |outcome| outcome.state);
            finished.hold = false;
            Ok(finished)
        }
        Err(reason) => {
            let path = spool.set_aside(&to, &reason)?;
            Err(SpoolError::Damaged { path, reason })
        }
    }
}

/// Removes what a crash left half made, and sets aside what is no recording.
fn tidy(spool: &Spool, recovery: &mut Recovery) -> Result<(), SpoolError> {
    for stage in [Stage::Recording, Stage::Ready] {
        for entry in spool.entries(stage)? {
            let is_setup = entry.extension().is_some_and(|extension| extension == "new");
            if stage == Stage::Recording && is_setup && recording_id(&entry.with_extension("")).is_some() {
                fs::remove_dir_all(&entry).map_err(at("delete", &entry))?;
                continue;
            }
            if !entry.is_dir() || recording_id(&entry).is_none() {
                set_aside(spool, &entry, "this is no recording", recovery);
                continue;
            }
            for file in fs::read_dir(&entry).into_iter().flatten().flatten() {
                if file.path().extension().is_some_and(|extension| extension == "tmp") {
                    let _ = fs::remove_file(file.path());
                }
            }
        }
    }
    Ok(())
}

fn set_aside(spool: &Spool, folder: &Path, reason: &str, recovery: &mut Recovery) {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match spool.set_aside(folder, reason) {
        Ok(_) => recovery.aside.push((name, reason.to_owned())),
        Err(error) => tracing::error!(%error, reason, "a damaged recording cannot be set aside"),
    }
}

/// Reads a manifest in `ready` and compares the lengths; the hashes are checked when it is uploaded.
fn check_ready(folder: &Path, key: &NodeKey) -> Result<SignedManifest, String> {
    let file = fs::read(folder.join(MANIFEST)).map_err(|error| format!("manifest.json cannot be read: {error}"))?;
    let manifest = SignedManifest::parse(&file).map_err(|error| error.to_string())?;
    // An earlier key of this node may have signed it; that is for `verify` to judge, not a reason to hold it back.
    if manifest.manifest.key_id == *key.public().id() {
        manifest.verify(key.public()).map_err(|error| error.to_string())?;
    }
    if recording_id(folder) != Some(manifest.manifest.part.file) {
        return Err(format!("the manifest is that of {}", manifest.manifest.part.file));
    }
    let length = |name: &str| fs::metadata(folder.join(name)).map(|file| file.len()).ok();
    let expected = [
        (AUDIO, Some(manifest.manifest.audio.bytes)),
        (METADATA, manifest.manifest.metadata.as_ref().map(|metadata| metadata.bytes)),
    ];
    for (name, expected) in expected {
        let found = length(name);
        if found != expected {
            let tell = |bytes: Option<u64>| bytes.map_or("missing".to_owned(), |bytes| format!("{bytes} bytes long"));
            return Err(format!("{name} is {}; the manifest says {}", tell(found), tell(expected)));
        }
    }
    Ok(manifest)
}

/// Makes a recording that was cut off ready to be committed.
fn reopen(folder: &Path, node: &str, kept: bool) -> Result<FinishedRecording, String> {
    let path = folder.join(AUDIO);
    let tell = |error: SpoolError| error.to_string();
    if kept {
        let file = fs::read(folder.join(MANIFEST)).map_err(|error| error.to_string())?;
        let signed = SignedManifest::parse(&file).map_err(|error| error.to_string())?;
        let manifest = signed.manifest.clone();
        return Ok(FinishedRecording {
            start: RecordingStart {
                part: manifest.part,
                tenant: manifest.tenant,
                node: manifest.node,
                started_at: manifest.started_at,
            },
            state: manifest.state,
            duration_ms: manifest.duration_ms,
            ended_at: manifest.ended_at,
            folder: folder.to_owned(),
            summary: None,
            pending: None,
            counted: crate::spool::folder_bytes(folder),
            hold: false,
            signed: Some(signed),
        });
    }
    if !path.is_file() {
        return Err("there is no audio.eopus".to_owned());
    }
    let header = read_header(&path)?;
    if recording_id(folder) != Some(header.part.file) {
        return Err(format!("audio.eopus is that of {}", header.part.file));
    }
    let measured = measure(&path).map_err(tell)?;
    let position = measured.position;
    let changed =
        fs::metadata(&path).and_then(|file| file.modified()).map(Timestamp::from).map_err(|e| e.to_string())?;
    if fs::metadata(&path).map_err(|error| error.to_string())?.len() > position.whole_bytes {
        let file = fs::OpenOptions::new().write(true).open(&path).map_err(|error| error.to_string())?;
        file.set_len(position.whole_bytes).map_err(|error| format!("the torn end cannot be cut off: {error}"))?;
        let torn = position.torn_bytes;
        tracing::info!(file = %header.part.file, torn, segments = position.segments, "cut off a torn segment");
    }
    let index = fs::read(folder.join(INDEX)).map(|bytes| Index::parse(&bytes)).unwrap_or_default();
    let start = index.start.clone().filter(|start| start.part == header.part).unwrap_or_else(|| RecordingStart {
        part: header.part,
        tenant: header.tenant.clone(),
        node: node.to_owned(),
        started_at: header.created,
    });
    let ended = index.end.filter(|(mark, _)| mark.segments == position.segments && !measured.damaged);
    let (state, duration_ms, ended_at) = match ended {
        Some((mark, ended_at)) => (RecordingState::Complete, mark.duration_ms, ended_at),
        None => {
            let duration_ms = index.duration_ms(position.segments).unwrap_or_else(|| {
                let lasted = changed.since(start.started_at).as_millis();
                if position.segments == 0 { 0 } else { u64::try_from(lasted).unwrap_or(0) }
            });
            let lasted = std::time::Duration::from_millis(duration_ms);
            (RecordingState::Recovered, duration_ms, start.started_at.plus(lasted))
        }
    };
    let mut start = start;
    let hold = match Twin::load(folder) {
        Some(twin) if twin.promoted => {
            start.part.copy = false;
            false
        }
        Some(Twin { role: Role::Copy, .. }) => true,
        Some(Twin { role: Role::Original, .. }) => state == RecordingState::Recovered,
        None => false,
    };
    let summary = SealSummary { bytes: position.whole_bytes, sha256: measured.sha256.0, segments: position.segments };
    Ok(FinishedRecording {
        start,
        state,
        duration_ms,
        ended_at,
        folder: folder.to_owned(),
        summary: Some(summary),
        pending: None,
        counted: crate::spool::folder_bytes(folder),
        hold,
        signed: None,
    })
}

/// Whose recording lies in a folder.
pub(crate) fn tenant_of(folder: &Path) -> Option<String> {
    read_header(&folder.join(AUDIO)).ok().map(|header| header.tenant)
}

/// Which files of which recording lie in a folder.
pub(crate) fn part_of(folder: &Path) -> Option<Part> {
    read_header(&folder.join(AUDIO)).ok().map(|header| header.part)
}

fn read_header(path: &Path) -> Result<Header, String> {
    use std::io::Read as _;
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut first = Vec::new();
    let limit = ferric_media::eopus::MAX_HEADER as u64 + 12;
    file.take(limit).read_to_end(&mut first).map_err(|error| error.to_string())?;
    match Framer::new().next(&mut first.as_slice()) {
        Ok(Some(Frame::Header { header, .. })) => Ok(*header),
        Ok(_) => Err("audio.eopus ends within its header: nothing was recorded yet".to_owned()),
        Err(error) => Err(format!("audio.eopus: {error}")),
    }
}

#[cfg(test)]
mod tests;
