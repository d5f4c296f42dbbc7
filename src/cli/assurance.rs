//! `ferric assurance`: what became of every INVITE of a day, and the proof that it adds up.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_assurance::{Call, Depth, Outcome, call_hash, read, verify};
use ferric_media::keys::NodePublicKey;
use ferric_media::timestamp::Timestamp;

use super::output::say;
use super::spool::Place;

#[derive(Debug, Args)]
pub(crate) struct AssuranceArguments {
    #[command(flatten)]
    place: Place,
    /// A UTC day; today if nothing is said.
    #[arg(long, value_name = "YYYY-MM-DD", conflicts_with_all = ["from", "to"])]
    day: Option<String>,
    /// From this time on (RFC 3339).
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only the call with this Call-ID.
    #[arg(long, value_name = "ID")]
    call_id: Option<String>,
    /// Only calls that are not complete.
    #[arg(long)]
    wrong: bool,
    /// The node's public key, where it is not in the data folder.
    #[arg(long, value_name = "NODE.pub")]
    cert: Option<PathBuf>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &AssuranceArguments) -> anyhow::Result<ExitCode> {
    let data_dir = arguments.place.data_dir()?;
    let folder = data_dir.join(crate::node::ASSURANCE);
    if !folder.is_dir() {
        bail!("there is no ledger at {}: name the node's --config or --data-dir", folder.display());
    }
    let (from, to) = span(arguments)?;
    let mut report = read(&folder, from, to).with_context(|| format!("{} cannot be read", folder.display()))?;
    let cert = arguments.cert.clone().unwrap_or_else(|| data_dir.join("keys").join("node.public.pem"));
    let pem = std::fs::read_to_string(&cert)
        .with_context(|| format!("{} cannot be read: name the node's public key with --cert", cert.display()))?;
    let key = NodePublicKey::from_pem(&pem).with_context(|| format!("{}", cert.display()))?;
    let proof = verify(&folder, &key, None, Depth::Every)?;
    if let Some(call_id) = &arguments.call_id {
        let file = data_dir.join("keys").join("parties.key");
        let secret = std::fs::read_to_string(&file)
            .with_context(|| format!("{} cannot be read: Call-IDs are hashed with it", file.display()))?;
        let hash = call_hash(&<sha2::Sha256 as sha2::Digest>::digest(secret.trim().as_bytes()).into(), call_id);
        report.calls.retain(|call| call.call == hash);
    }
    if arguments.wrong {
        report.calls.retain(|call| call.outcome != Some(Outcome::Complete));
    }
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&serde_json::json!({ "report": report, "proof": proof }))?);
    } else {
        say!("{:<24}  {:<10}  {:<18}  {:<9}  {:>4}  cause", "received", "tenant", "came as", "outcome", "gaps");
        for call in &report.calls {
            say!("{}", row(call));
        }
        let totals = report.totals;
        say!(
            "\n{} INVITEs: {} complete, {} recovered, {} partial, {} refused, {} still open",
            totals.received,
            totals.complete,
            totals.recovered,
            totals.partial,
            totals.refused,
            totals.open
        );
        if totals.moved + totals.adopted > 0 {
            let (moved, adopted) = (totals.moved, totals.adopted);
            say!("Other nodes took {moved} of them over; {adopted} calls were taken over from other nodes.");
        }
        for problem in &report.problems {
            say!("  {problem}");
        }
        match &proof.broken {
            None => say!(
                "{} lines in {} files are as the node wrote them: hashes, order and signatures are right.",
                proof.lines,
                proof.files
            ),
            Some(broken) => say!("NOT as the node wrote it: {broken}."),
        }
        say!("{}", if report.adds_up { "It adds up." } else { "It does NOT add up." });
    }
    Ok(match (report.adds_up, &proof.broken) {
        (_, Some(_)) => ExitCode::from(3),
        (true, None) => ExitCode::SUCCESS,
        (false, None) => ExitCode::FAILURE,
    })
}

fn row(call: &Call) -> String {
    let outcome = call.outcome.map_or("open", Outcome::as_str);
    let status = call.status.map(|status| format!("{status} ")).unwrap_or_default();
    let cause = call.cause.as_deref().unwrap_or("");
    let recordings: Vec<String> = call.recordings.iter().map(ToString::to_string).collect();
    format!(
        "{:<24}  {:<10}  {:<18}  {outcome:<9}  {:>4}  {status}{cause}  {}",
        call.received.to_string(),
        call.tenant,
        call.source,
        call.gap_count,
        recordings.join(" ")
    )
}

fn span(arguments: &AssuranceArguments) -> anyhow::Result<(Timestamp, Timestamp)> {
    const DAY: Duration = Duration::from_secs(86_400);
    let time = |text: &str| -> anyhow::Result<Timestamp> {
        text.parse().map_err(|_| anyhow::anyhow!("\"{text}\" is no time such as 2026-01-31T08:00:00Z"))
    };
    if let Some(day) = &arguments.day {
        let from =
            time(&format!("{day}T00:00:00Z")).with_context(|| format!("\"{day}\" is no day such as 2026-01-31"))?;
        return Ok((from, from.plus(DAY)));
    }
    let today = Timestamp::from(SystemTime::now());
    let midnight = time(&format!("{}T00:00:00Z", today.to_string().get(..10).unwrap_or_default()))?;
    let from = arguments.from.as_deref().map(time).transpose()?.unwrap_or(midnight);
    let to = arguments.to.as_deref().map(time).transpose()?.unwrap_or_else(|| today.plus(DAY));
    Ok((from, to))
}
