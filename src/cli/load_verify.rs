//! `ferric load --verify`: what of a marked run is in its recordings, to 20 ms.
//!
//! The recordings are opened with the tenant's key and found by the Call-ID in their metadata; all parts of all recordings
//! of a call are laid on the clock by the start that their manifests tell. Copies of a mirror count like the first: what
//! either has is not lost, and what both have is not doubled.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ferric_media::keys::PrivateKey;
use ferric_media::open::Opener;
use ferric_media::timestamp::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::decrypt::decode_undamaged;
use super::output::say;
use crate::load::{Heard, Journal, Part, Said, listen, longest_ms, total_ms};

/// Folders below the one given.
const DEPTH: usize = 8;
/// Frames at the end of a call that its BYE may overtake.
const OVERTAKEN: u64 = 2;
/// Milliseconds by which a part may lie beside its place.
const ASTRAY_MS: u64 = 100;

/// One part of a recording, opened.
struct Opened {
    recording: String,
    part: u64,
    copy: bool,
    state: String,
    channels: [Part; 2],
}

/// What became of one call.
#[derive(Debug, Serialize)]
struct Verdict {
    call: u64,
    call_id: String,
    outcome: String,
    recordings: usize,
    parts: usize,
    copies: usize,
    states: Vec<String>,
    said_ms: [u64; 2],
    lost_ms: [u64; 2],
    longest_ms: u64,
    /// First and last lost frame of each run of each channel.
    lost: [Vec<(u64, u64)>; 2],
    doubled_ms: u64,
    strange_ms: u64,
    foreign_ms: u64,
    astray_ms: u64,
}

impl Verdict {
    fn is_whole(&self) -> bool {
        self.recordings == 1
            && self.lost_ms == [0, 0]
            && self.doubled_ms == 0
            && self.foreign_ms == 0
            && self.astray_ms <= ASTRAY_MS
    }
}

/// Compares the calls of a report with the recordings below a folder; true if each call is one recording without a fault.
pub(super) fn verify(report: &Path, folder: &Path, key: &Path, json: bool) -> anyhow::Result<bool> {
    let read =
        |path: &Path| std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()));
    let calls: Vec<Journal> = read(report)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no report of ferric load", report.display()))?;
    let key = PrivateKey::from_pem(&read(key)?)?;
    let mut opened: HashMap<String, Vec<Opened>> = HashMap::new();
    let mut folders = Vec::new();
    find(folder, 0, &mut folders);
    for place in folders {
        let (call_id, part) = open(&place, &key).with_context(|| format!("{}", place.display()))?;
        opened.entry(call_id).or_default().push(part);
    }
    let said: Vec<[Said; 2]> = calls.iter().map(said).collect::<anyhow::Result<_>>()?;
    let mut verdicts = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        let mut parts = opened.remove(&call.call_id).unwrap_or_default();
        parts.sort_by(|a, b| (&a.recording, a.part, a.copy).cmp(&(&b.recording, b.part, b.copy)));
        let others = said.iter().enumerate().filter(|(other, _)| *other != number);
        let others: Vec<Said> = others.flat_map(|(_, streams)| streams.clone()).collect();
        if let Some(own) = said.get(number) {
            verdicts.push(judge(call, own, &parts, &others));
        }
    }
    let whole = verdicts.iter().filter(|verdict| verdict.is_whole()).count();
    for verdict in &verdicts {
        if json {
            say!("{}", serde_json::to_string(verdict)?);
        } else if !verdict.is_whole() {
            say!("{}", describe(verdict));
        }
    }
    if !json {
        say!("{whole} of {} calls are whole", verdicts.len());
    }
    Ok(whole == verdicts.len())
}

fn describe(verdict: &Verdict) -> String {
    let Verdict { call, recordings, parts, lost_ms, longest_ms, doubled_ms, foreign_ms, astray_ms, .. } = verdict;
    format!(
        "call {call}: {recordings} recordings, {parts} parts, lost {} and {} ms (longest {longest_ms}), doubled \
         {doubled_ms} ms, of others {foreign_ms} ms, {astray_ms} ms beside its place",
        lost_ms[0], lost_ms[1]
    )
}

/// The streams of a call; nothing was said before it was answered.
fn said(call: &Journal) -> anyhow::Result<[Said; 2]> {
    let stream = |index: usize| {
        let mark = call.marks.get(index).context("the report is of a run without --marked")?;
        anyhow::Ok(Said {
            mark: u64::from_str_radix(mark, 16).context("a mark of the report is no number")?,
            began_us: call.media_started_us.unwrap_or(0),
            steps: match call.media_started_us {
                Some(_) => call.steps.get(index).copied().unwrap_or(0).saturating_sub(OVERTAKEN),
                None => 0,
            },
            held: call.held.get(index).cloned().unwrap_or_default(),
        })
    };
    Ok([stream(0)?, stream(1)?])
}

fn judge(call: &Journal, said: &[Said; 2], parts: &[Opened], others: &[Said]) -> Verdict {
    let mut recordings: Vec<&str> = parts.iter().map(|part| part.recording.as_str()).collect();
    recordings.dedup();
    let heard: Vec<Heard> = said
        .iter()
        .enumerate()
        .map(|(index, said)| {
            let of = |copy: bool| -> Vec<Part> {
                parts
                    .iter()
                    .filter(|part| part.copy == copy)
                    .filter_map(|part| part.channels.get(index).cloned())
                    .collect()
            };
            let (mut first, copies) = (listen(said, &of(false), others), of(true));
            if !copies.is_empty() {
                // What the copy lacks too is lost.
                let copy = listen(said, &copies, others);
                let both = |frame: u64| copy.lost.iter().any(|(from, to)| (*from..=*to).contains(&frame));
                let lost: Vec<u64> =
                    first.lost.iter().flat_map(|(from, to)| *from..=*to).filter(|f| both(*f)).collect();
                first.lost = lost.into_iter().fold(Vec::new(), |mut runs: Vec<(u64, u64)>, frame| {
                    match runs.last_mut() {
                        Some((_, last)) if *last + 1 == frame => *last = frame,
                        _ => runs.push((frame, frame)),
                    }
                    runs
                });
            }
            first
        })
        .collect();
    let each = |of: &dyn Fn(&Heard) -> u64| heard.iter().map(of).collect::<Vec<u64>>();
    let pair = |values: Vec<u64>| [values.first().copied().unwrap_or(0), values.get(1).copied().unwrap_or(0)];
    let lost = |index: usize| heard.get(index).map(|heard| heard.lost.clone()).unwrap_or_default();
    Verdict {
        call: call.call,
        call_id: call.call_id.clone(),
        outcome: call.outcome.clone(),
        recordings: recordings.len(),
        parts: parts.iter().filter(|part| !part.copy).count(),
        copies: parts.iter().filter(|part| part.copy).count(),
        states: parts.iter().map(|part| part.state.clone()).collect(),
        said_ms: said.each_ref().map(|said| (said.steps - held(said)) * 20),
        lost_ms: pair(each(&|heard| total_ms(&heard.lost))),
        longest_ms: each(&|heard| longest_ms(&heard.lost)).into_iter().max().unwrap_or(0),
        lost: [lost(0), lost(1)],
        doubled_ms: each(&|heard| total_ms(&heard.doubled)).iter().sum(),
        strange_ms: each(&|heard| heard.strange_ms).iter().sum(),
        foreign_ms: each(&|heard| heard.foreign_ms).iter().sum(),
        astray_ms: each(&|heard| heard.astray_ms).into_iter().max().unwrap_or(0),
    }
}

fn held(said: &Said) -> u64 {
    said.held.iter().map(|(first, last)| last - first + 1).sum()
}

/// All folders that hold a manifest.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if folder.join("manifest.json").is_file() {
        return found.push(folder.to_owned());
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    if depth < DEPTH {
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .for_each(|path| find(&path, depth + 1, found));
    }
}

/// The Call-ID and the sound of one part.
fn open(place: &Path, key: &PrivateKey) -> anyhow::Result<(String, Opened)> {
    let file = |name: &str| std::fs::read(place.join(name)).with_context(|| format!("{name} cannot be read"));
    let manifest: Value = serde_json::from_slice(&file("manifest.json")?).context("manifest.json")?;
    let text = |name: &str| manifest.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut plain = Vec::new();
    let mut opener = Opener::new(key);
    opener.push(&file("metadata.ejson")?, &mut plain)?;
    opener.finish()?;
    let metadata: Value = serde_json::from_slice(&plain).context("metadata.ejson")?;
    let call_id = metadata.pointer("/sip/call_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let began: Timestamp = text("started_at").parse().ok().context("manifest.json says not when it began")?;
    let began_us = u64::try_from(began.unix_ms()).unwrap_or(0) * 1_000;
    let (channels, _) = decode_undamaged(key, &file("audio.eopus")?)?;
    // Twice the rate that marks have, and nothing in the upper half: every second sample says it all.
    let channels =
        channels.map(|samples| Part { began_us, samples: samples.into_iter().step_by(2).map(f32::from).collect() });
    let recording = Some(text("recording")).filter(|id| !id.is_empty()).unwrap_or_else(|| text("id"));
    let opened = Opened {
        recording,
        part: manifest.get("part").and_then(Value::as_u64).unwrap_or(1),
        copy: manifest.get("copy").and_then(Value::as_bool).unwrap_or(false),
        state: text("state"),
        channels,
    };
    Ok((call_id, opened))
}
