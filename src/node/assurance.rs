//! The ledger of recording assurance, wired to the node.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use ferric_assurance::{Call, Depth, Finished, GapEntry, Ledger, Outcome};
use ferric_media::gaps::GapCause;
use ferric_media::keys::NodePublicKey;
use ferric_media::manifest::SignedManifest;
use ferric_media::stats::Channel;
use ferric_media::timestamp::Timestamp;
use ferric_worker::Ending;
use tokio::sync::broadcast;

use super::keys::Identity;
use crate::config::Config;
use crate::console::{
    AssuranceCall, AssuranceGap, AssuranceQuery, AssuranceTotals, AssuranceView, BackendError, Event,
};
use crate::metrics;

/// The ledger's folder in the data folder.
pub(crate) const FOLDER: &str = "assurance";

pub(super) fn open(config: &Config, identity: &Identity, events: broadcast::Sender<Event>) -> anyhow::Result<Ledger> {
    let folder = config.node.data_dir.join(FOLDER);
    let tell = move |entry: &ferric_assurance::Entry| {
        let outcome = entry.outcome.map_or("", ferric_assurance::Outcome::as_str);
        metrics::assurance(outcome);
        let recording = entry.recordings.first().copied();
        let event = Event {
            invite: entry.invite,
            recording,
            outcome: Some(outcome),
            cause: entry.cause.clone(),
            ..Event::new("assurance.outcome")
        };
        let _ = events.send(event);
        let (invite, cause) = (entry.invite.unwrap_or_default(), entry.cause.as_deref().unwrap_or(""));
        tracing::info!(%invite, outcome, cause, gaps = entry.gap_count, "outcome of a call");
    };
    Ledger::open(&folder, identity.node_key.clone(), identity.party_key, Box::new(tell))
        .context("the ledger of recording assurance cannot be opened")
}

/// A manifest is on disk; `false`: it is of no call of this node.
pub(super) fn finished(ledger: &Ledger, signed: &SignedManifest) -> bool {
    let manifest = &signed.manifest;
    let finished = Finished {
        part: manifest.part.number.get(),
        state: manifest.state,
        duration_ms: manifest.duration_ms,
        manifest: Some(signed.digest()),
    };
    ledger.finished(manifest.part.recording, &finished)
}

/// What capture knows of the gaps of a recording that just ended.
pub(super) fn gaps(ending: &Ending) -> Vec<GapEntry> {
    let gaps = ending.quality.streams.iter().flat_map(|stream| {
        let channel = u8::from(stream.channel == Channel::Right);
        stream.gaps.iter().filter_map(move |gap| {
            let reason = match gap.cause {
                GapCause::Loss => "loss",
                GapCause::NoMedia => "no-rtp",
                GapCause::Hold | GapCause::Pause => return None,
            };
            Some(GapEntry { channel, from_ms: gap.start_ms, to_ms: gap.end_ms, reason: reason.to_owned() })
        })
    });
    gaps.collect()
}

/// Calls of a page if nobody asks for a number, and the most.
const DEFAULT_LIMIT: usize = 1_000;
const MAX_LIMIT: usize = 10_000;

/// What the API tells of a time.
pub(super) fn view(
    ledger: &Ledger,
    key: &NodePublicKey,
    query: &AssuranceQuery,
) -> Result<AssuranceView, BackendError> {
    let time = |text: &Option<String>, name: &str| -> Result<Option<Timestamp>, BackendError> {
        let wrong =
            |text: &str| BackendError::Invalid(format!("{name} = \"{text}\" is no time such as 2026-01-31T08:00:00Z"));
        text.as_ref().map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    };
    let to = time(&query.to, "to")?.unwrap_or_else(|| Timestamp::from(SystemTime::now() + Duration::from_secs(1)));
    let day_before = Timestamp::from_unix_ms(to.unix_ms() - 86_400_000);
    let from = time(&query.from, "from")?.unwrap_or(day_before);
    let skip: usize = match &query.cursor {
        Some(cursor) => {
            cursor.parse().map_err(|_| BackendError::Invalid(format!("`{cursor}` is no cursor of a previous page")))?
        }
        None => 0,
    };
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(BackendError::Invalid(format!("limit is from 1 to {MAX_LIMIT}")));
    }
    ledger.sync();
    let folder = ledger.folder();
    let unreadable = |error: std::io::Error| BackendError::Unavailable(format!("the ledger cannot be read: {error}"));
    let report = ferric_assurance::read(&folder, from, to).map_err(unreadable)?;
    let day = |time: Timestamp| time.to_string().get(..10).unwrap_or_default().to_owned();
    let days = (day(from), day(to));
    let proof = ferric_assurance::verify(&folder, key, Some((&days.0, &days.1)), Depth::Last).map_err(unreadable)?;
    let totals = report.totals;
    let more = report.calls.len() > skip.saturating_add(limit);
    let mut problems = report.problems;
    problems.extend(proof.broken.clone());
    Ok(AssuranceView {
        from: from.to_string(),
        to: to.to_string(),
        totals: AssuranceTotals {
            received: totals.received,
            complete: totals.complete,
            recovered: totals.recovered,
            partial: totals.partial,
            refused: totals.refused,
            moved: totals.moved,
            adopted: totals.adopted,
            open: totals.open,
        },
        adds_up: report.adds_up,
        intact: proof.broken.is_none(),
        problems,
        calls: report.calls.into_iter().skip(skip).take(limit).map(call_view).collect(),
        next_cursor: more.then(|| (skip + limit).to_string()),
    })
}

fn call_view(call: Call) -> AssuranceCall {
    AssuranceCall {
        invite: call.invite,
        received: call.received.to_string(),
        tenant: call.tenant,
        source: call.source,
        outcome: call.outcome.map(Outcome::as_str).map(str::to_owned),
        status: call.status,
        cause: call.cause,
        recordings: call.recordings,
        gaps: call
            .gaps
            .into_iter()
            .map(|gap| AssuranceGap {
                channel: gap.channel,
                from_ms: gap.from_ms,
                to_ms: gap.to_ms,
                reason: gap.reason,
            })
            .collect(),
        gap_count: call.gap_count,
    }
}
