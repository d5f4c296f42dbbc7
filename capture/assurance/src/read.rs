//! The reading side: what happened in a time, and whether the files are as they were written.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferric_media::keys::NodePublicKey;
use ferric_media::manifest::Digest;
use ferric_media::timestamp::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;
use uuid::Uuid;

use crate::entry::{Entry, GapEntry, Kind, Outcome};

/// The hash under which a Call-ID stands in the ledger.
pub fn call_hash(key: &[u8; 32], call_id: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(call_id.as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// The files of a folder, oldest first.
pub(crate) fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// One INVITE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// Which.
    pub invite: Uuid,
    /// When it came.
    pub received: Timestamp,
    /// Whose.
    pub tenant: String,
    /// Keyed hash of its Call-ID.
    pub call: String,
    /// How it came.
    pub source: String,
    /// It had come to another node.
    pub adopted: bool,
    /// What became of it; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// When that was known.
    pub settled: Option<Timestamp>,
    /// Status code of a refusal.
    pub status: Option<u16>,
    /// Why.
    pub cause: Option<String>,
    /// What it fed.
    pub recordings: Vec<Uuid>,
    /// Where audio is missing, the first 32.
    pub gaps: Vec<GapEntry>,
    /// How many there are.
    pub gap_count: u64,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// INVITEs that came.
    pub received: u64,
    /// Recorded whole.
    pub complete: u64,
    /// Finished after a crash.
    pub recovered: u64,
    /// Recorded in part.
    pub partial: u64,
    /// Not taken.
    pub refused: u64,
    /// Taken over by another node, whose ledger has the outcome.
    pub moved: u64,
    /// Taken over from another node; not among those that came.
    pub adopted: u64,
    /// Without an outcome yet.
    pub open: u64,
}

/// What happened in a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every INVITE, in order.
    pub calls: Vec<Call>,
    /// Sums.
    pub totals: Totals,
    /// Every INVITE has one outcome or is open, and no outcome is without its INVITE.
    pub adds_up: bool,
    /// What does not add up, and lines that are none.
    pub problems: Vec<String>,
}

/// Problems listed.
const MAX_PROBLEMS: usize = 100;

/// Every INVITE that came from `from` until before `to`, with its outcome.
///
/// # Errors
/// A file cannot be read.
pub fn read(folder: &Path, from: Timestamp, to: Timestamp) -> std::io::Result<Report> {
    let mut calls: BTreeMap<(Timestamp, Uuid), Call> = BTreeMap::new();
    let mut times: HashMap<Uuid, Timestamp> = HashMap::new();
    let mut report = Report::default();
    let first_day = from.to_string().get(..10).unwrap_or_default().to_owned();
    for path in files(folder)?
        .into_iter()
        .filter(|path| path.file_stem().is_some_and(|day| *day.to_string_lossy() >= *first_day))
    {
        each_line(&path, |number, line| {
            let Some(entry) = Entry::parse(line) else {
                note(&mut report.problems, format!("{} line {number} cannot be read", path.display()));
                return;
            };
            let Some(invite) = entry.invite else { return };
            match entry.kind {
                Kind::Received if entry.at >= from && entry.at < to => {
                    if times.insert(invite, entry.at).is_some() {
                        note(&mut report.problems, format!("INVITE {invite} was received twice"));
                    }
                    calls.insert((entry.at, invite), call(entry, invite));
                }
                Kind::Adopted if entry.at >= from && entry.at < to => match find(&mut calls, &times, invite) {
                    // It was this node's before.
                    Some(call) => call.outcome = None,
                    None => {
                        times.insert(invite, entry.at);
                        calls.insert((entry.at, invite), Call { adopted: true, ..call(entry, invite) });
                    }
                },
                Kind::Recording => {
                    if let (Some(call), Some(recording)) = (find(&mut calls, &times, invite), entry.recording) {
                        if !call.recordings.contains(&recording) {
                            call.recordings.push(recording);
                        }
                    }
                }
                Kind::Outcome => match find(&mut calls, &times, invite) {
                    Some(call) if call.outcome.is_some() => {
                        note(&mut report.problems, format!("INVITE {invite} has two outcomes"))
                    }
                    Some(call) => settle(call, entry),
                    // Of an INVITE that came before.
                    None => {}
                },
                Kind::Received | Kind::Adopted | Kind::Ended | Kind::Finished => {}
            }
        })?;
    }
    report.calls = calls.into_values().collect();
    let totals = &mut report.totals;
    for call in &report.calls {
        if call.adopted {
            totals.adopted += 1;
        } else {
            totals.received += 1;
        }
        match call.outcome {
            Some(Outcome::Complete) => totals.complete += 1,
            Some(Outcome::Recovered) => totals.recovered += 1,
            Some(Outcome::Partial) => totals.partial += 1,
            Some(Outcome::Refused) => totals.refused += 1,
            Some(Outcome::Moved) => totals.moved += 1,
            None => totals.open += 1,
        }
    }
    let sum = totals.complete + totals.recovered + totals.partial + totals.refused + totals.moved + totals.open;
    report.adds_up = report.problems.is_empty() && sum == totals.received + totals.adopted;
    Ok(report)
}

/// Files that may hold what was taken over since the last start of another node.
const LATEST: usize = 3;

/// Those of some INVITEs whose calls were taken over from another node.
///
/// # Errors
/// A file cannot be read.
pub fn adopted(folder: &Path, wanted: &[Uuid]) -> std::io::Result<Vec<Uuid>> {
    let mut found = Vec::new();
    for path in files(folder)?.into_iter().rev().take(LATEST) {
        each_line(&path, |_, line| {
            let entry = Entry::parse(line).filter(|entry| entry.kind == Kind::Adopted);
            if let Some(invite) = entry.and_then(|entry| entry.invite).filter(|invite| wanted.contains(invite)) {
                found.push(invite);
            }
        })?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn find<'a>(
    calls: &'a mut BTreeMap<(Timestamp, Uuid), Call>,
    times: &HashMap<Uuid, Timestamp>,
    invite: Uuid,
) -> Option<&'a mut Call> {
    calls.get_mut(&(*times.get(&invite)?, invite))
}

fn call(entry: Entry, invite: Uuid) -> Call {
    Call {
        invite,
        received: entry.at,
        tenant: entry.tenant.unwrap_or_default(),
        call: entry.call.unwrap_or_default(),
        source: entry.source.unwrap_or_default(),
        adopted: false,
        outcome: None,
        settled: None,
        status: None,
        cause: None,
        recordings: Vec::new(),
        gaps: Vec::new(),
        gap_count: 0,
    }
}

fn settle(call: &mut Call, entry: Entry) {
    call.outcome = entry.outcome;
    call.settled = Some(entry.at);
    call.status = entry.status;
    call.cause = entry.cause;
    call.gaps = entry.gaps;
    call.gap_count = entry.gap_count;
}

fn note(problems: &mut Vec<String>, problem: String) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(problem);
    }
}

fn each_line(path: &Path, mut found: impl FnMut(usize, &[u8])) -> std::io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        // A line without an end is being written.
        if line.pop() == Some(b'\n') && !line.is_empty() {
            found(number, &line);
        }
    }
}

/// Whether files are as the node wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Files read.
    pub files: usize,
    /// Lines that are right.
    pub lines: u64,
    /// The first thing that is wrong, with file and line.
    pub broken: Option<String>,
}

/// Which lines' signatures are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Of every line.
    Every,
    /// Of the last line of each file: it holds the hash of the line before it, and so of all of them.
    Last,
}

/// Checks hashes, numbers and signatures of the files of a folder, those of the days `from` to `to` (as `2026-03-01`) if
/// they are named.
///
/// # Errors
/// A file cannot be read.
pub fn verify(
    folder: &Path,
    key: &NodePublicKey,
    days: Option<(&str, &str)>,
    depth: Depth,
) -> std::io::Result<Verification> {
    let mut done = Verification::default();
    let mut before: Option<(u64, Digest)> = None;
    let in_days = |path: &PathBuf| {
        let day = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        days.is_none_or(|(from, to)| day.as_str() >= from && day.as_str() <= to)
    };
    for path in files(folder)?.into_iter().filter(in_days) {
        done.files += 1;
        let mut last: Option<(usize, Entry)> = None;
        each_line(&path, |number, line| {
            if done.broken.is_some() {
                return;
            }
            let place = format!("{} line {number}", path.display());
            let Some(entry) = Entry::parse(line) else {
                done.broken = Some(format!("{place} is no line of a ledger"));
                return;
            };
            let follows = match (before, entry.previous) {
                (None, _) => true,
                (Some((seq, digest)), Some(previous)) => digest == previous && entry.seq == seq + 1,
                (Some(_), None) => false,
            };
            if depth == Depth::Every && !entry.is_signed(key) {
                done.broken = Some(format!("{place} is not signed by this node, or was changed"));
            } else if !follows {
                done.broken =
                    Some(format!("{place} does not follow the line before it: a line was taken out or put in"));
            } else {
                done.lines += 1;
            }
            before = Some((entry.seq, Digest::of(line)));
            if depth == Depth::Last {
                last = Some((number, entry));
            }
        })?;
        if let Some((number, _)) = last.filter(|(_, entry)| !entry.is_signed(key)) {
            done.broken
                .get_or_insert(format!("{} line {number} is not signed by this node, or was changed", path.display()));
        }
    }
    Ok(done)
}
