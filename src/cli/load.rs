//! `ferric load`
//!
//! With `--report` and `--marked` a run leaves behind what `--verify` needs to say of every 20 ms whether it is in the
//! recordings ([`super::load_verify`]).

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_media::keys::PrivateKey;
use ferric_media::timestamp::Timestamp;
use ferric_sip::Uri;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::api::Api;
use super::decrypt::decode_recording;
use super::load_verify::verify;
use super::output::say;
use crate::config::parse_duration;
use crate::load::{self, LoadCodec, LoadConfig, LoadReport, LoadTransport, TlsClient, Trouble};
use crate::speech;

/// How long the recordings may take to appear.
const PATIENCE: Duration = Duration::from_secs(120);
/// The node's clock may be this far from ours.
const CLOCKS_APART: Duration = Duration::from_secs(3_600);

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// The recorder, as sip:HOST:PORT, or a name whose SRV records say who it is.
    #[arg(long, value_name = "sip:HOST:PORT", required_unless_present = "verify")]
    to: Option<String>,
    /// Recording sessions.
    #[arg(long, value_name = "N", required_unless_present = "verify")]
    calls: Option<usize>,
    /// Asks this DNS server, as HOST:PORT, in place of the system's.
    #[arg(long, value_name = "HOST:PORT")]
    dns: Vec<SocketAddr>,
    /// When a server of a name is silent so long, the next one is tried, as in 500ms.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    patience: String,
    /// New calls a second.
    #[arg(long, value_name = "CPS", default_value_t = 10.0)]
    rate: f64,
    /// How long each call lasts, as in 30 or 2m.
    #[arg(long, value_name = "S", default_value = "30")]
    hold: String,
    /// pcmu, pcma, g722 or opus.
    #[arg(long, default_value = "pcmu")]
    codec: LoadCodec,
    /// udp, tcp or tls.
    #[arg(long, default_value = "udp", value_parser = ["udp", "tcp", "tls"])]
    transport: String,
    /// Share of RTP packets that are lost, from 0 to 1.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    loss: f64,
    /// Repeats the random choices of an earlier run: identifiers, SSRCs, which packets are lost.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Whether UPDATE is understood: yes or no.
    #[arg(long, default_value = "yes", value_parser = ["yes", "no"])]
    update: String,
    /// Refuses (488) whatever moves streams elsewhere.
    #[arg(long)]
    refuse_moves: bool,
    /// Sends, in place of speech, sound that tells call, party and time of every 20 ms (pcmu and pcma).
    #[arg(long)]
    marked: bool,
    /// Writes what became of each call, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Looks for the marked sound of an earlier run's --report in the recordings below --recordings.
    #[arg(long, value_name = "FILE", requires = "recordings", requires = "key", conflicts_with_all = ["to", "calls", "report", "api"])]
    verify: Option<PathBuf>,
    /// A folder with recordings as in a store.
    #[arg(long, value_name = "DIR", requires = "verify")]
    recordings: Option<PathBuf>,
    /// Says what was found as lines of JSON.
    #[arg(long, requires = "verify")]
    json: bool,
    /// PEM file of the authority that the server's certificate must come from (tls); without it any server is trusted.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The node's HTTP address: counts how many recordings came out whole. The token comes from FERRIC_TOKEN.
    #[arg(long, value_name = "URL", requires = "key")]
    api: Option<String>,
    /// The tenant's private key, to open the recordings.
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
}

/// The URI of the server, with a user if it has none.
fn server(text: &str) -> anyhow::Result<String> {
    let with_scheme = if text.starts_with("sip") { text.to_owned() } else { format!("sip:{text}") };
    let mut uri = Uri::parse(&with_scheme).with_context(|| format!("{text} is no address: write sip:HOST:PORT"))?;
    uri.user.get_or_insert_with(|| "srs".to_owned());
    Ok(uri.to_string())
}

pub(crate) fn run(arguments: &LoadArguments) -> anyhow::Result<ExitCode> {
    if let (Some(report), Some(recordings), Some(key)) = (&arguments.verify, &arguments.recordings, &arguments.key) {
        let whole = verify(report, recordings, key, arguments.json)?;
        return Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let hold = arguments.hold.parse().ok().map(Duration::from_secs).or_else(|| parse_duration(&arguments.hold));
    let hold = hold.with_context(|| format!("--hold {} is no time: write 30 or 2m", arguments.hold))?;
    let patience = parse_duration(&arguments.patience)
        .with_context(|| format!("--patience {} is no time: write 500ms or 2s", arguments.patience))?;
    if !(0.0..=1.0).contains(&arguments.loss) {
        bail!("--loss is from 0 to 1, as in 0.05");
    }
    let ca = match &arguments.ca {
        Some(file) => Some(std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?),
        None => None,
    };
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut config = LoadConfig::new(unspecified, speech::conversation(), speech::RATE);
    config.to = server(arguments.to.as_deref().unwrap_or_default())?;
    config.dns.clone_from(&arguments.dns);
    config.patience = patience;
    config.update = arguments.update == "yes";
    config.refuse_moves = arguments.refuse_moves;
    config.marked = arguments.marked;
    config.transport = match arguments.transport.as_str() {
        "tcp" => LoadTransport::Tcp,
        "tls" => LoadTransport::Tls(TlsClient { server_name: None, ca, identity: None }),
        _ => LoadTransport::Udp,
    };
    config.calls = arguments.calls.unwrap_or(0);
    config.rate_cps = arguments.rate;
    config.hold = hold;
    config.codec = arguments.codec;
    config.trouble = Trouble { loss: arguments.loss, ..Trouble::default() };
    // Calls with the identifiers of an earlier run would be taken for its copies (482).
    config.seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let seed = config.seed;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let started = SystemTime::now();
    let report = runtime.block_on(send(config))?;
    say!("{report}");
    say!("seed           {seed}, which --seed repeats");
    if let Some(file) = &arguments.report {
        let lines: Result<Vec<String>, _> =
            report.calls.iter().map(|call| serde_json::to_string(&call.journal)).collect();
        std::fs::write(file, lines?.join("\n") + "\n")
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    let mut clean = report.is_clean();
    if let (Some(api), Some(key)) = (&arguments.api, &arguments.key) {
        clean &= check(api, key, &report, started)?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn send(config: LoadConfig) -> anyhow::Result<LoadReport> {
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new(config.calls as u64) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} calls  {msg}") {
        bar.set_style(style);
    }
    let report = load::run(config, |progress| {
        bar.set_position((progress.completed + progress.failed) as u64);
        bar.set_message(format!(
            "{} talking, {} failed, {} packets",
            progress.talking, progress.failed, progress.packets
        ));
    })
    .await?;
    bar.finish_and_clear();
    Ok(report)
}

/// Waits for the recordings of a run and opens each.
fn check(api: &str, key: &Path, report: &LoadReport, started: SystemTime) -> anyhow::Result<bool> {
    let token =
        std::env::var("FERRIC_TOKEN").context("set FERRIC_TOKEN to the node's token (ferric-data/admin.token)")?;
    let api = Api::new(api, token.trim())?;
    let key = PrivateKey::from_pem(
        &std::fs::read_to_string(key).with_context(|| format!("{} cannot be read", key.display()))?,
    )?;
    let wanted: HashSet<&str> = report.calls.iter().map(|call| call.call_id.as_str()).collect();
    let from = Timestamp::from(started.checked_sub(CLOCKS_APART).unwrap_or(started));
    let deadline = Instant::now() + PATIENCE;
    let mut found = HashMap::new();
    loop {
        for recording in api.recordings(from)? {
            let text = |name: &str| recording.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
            let stored = recording.get("stored").and_then(Value::as_bool) == Some(true);
            let call_id = text("sip_call_id");
            if stored && wanted.contains(call_id.as_str()) {
                found.insert(call_id, text("id"));
            }
        }
        if found.len() >= wanted.len() || Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let mut whole = 0;
    for id in found.values() {
        match api.object(id, "audio").and_then(|sealed| decode_recording(&key, &sealed)) {
            Ok([left, _]) if !left.is_empty() => whole += 1,
            Ok(_) => say!("recording {id} is empty"),
            Err(error) => say!("recording {id}: {error:#}"),
        }
    }
    let missing = wanted.len().saturating_sub(found.len());
    if missing > 0 {
        say!("{missing} recordings were not in the store after {} s", PATIENCE.as_secs());
    }
    say!("{whole} of {} recordings came out whole", wanted.len());
    Ok(whole == wanted.len())
}
