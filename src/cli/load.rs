//! `ferric load`

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_media::keys::PrivateKey;
use ferric_media::timestamp::Timestamp;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::api::Api;
use super::decrypt::decode_recording;
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
    /// The recorder, as sip:HOST:PORT.
    #[arg(long, value_name = "sip:HOST:PORT")]
    to: String,
    /// Recording sessions.
    #[arg(long, value_name = "N")]
    calls: usize,
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
    /// PEM file of the authority that the server's certificate must come from (tls); without it any server is trusted.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The node's HTTP address: counts how many recordings came out whole. The token comes from FERRIC_TOKEN.
    #[arg(long, value_name = "URL", requires = "key")]
    api: Option<String>,
    /// The tenant's private key, to open the recordings.
    #[arg(long, value_name = "PEM", requires = "api")]
    key: Option<PathBuf>,
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let host_port = text.trim_start_matches("sips:").trim_start_matches("sip:");
    let host_port = host_port.rsplit('@').next().unwrap_or(host_port);
    let with_port = if host_port.ends_with(']') || !host_port.contains(':') {
        format!("{host_port}:5060")
    } else {
        host_port.to_owned()
    };
    let mut found =
        with_port.to_socket_addrs().with_context(|| format!("{text} is no address: write sip:HOST:PORT"))?;
    found.next().with_context(|| format!("{text} has no address"))
}

pub(crate) fn run(arguments: &LoadArguments) -> anyhow::Result<ExitCode> {
    let hold = arguments.hold.parse().ok().map(Duration::from_secs).or_else(|| parse_duration(&arguments.hold));
    let hold = hold.with_context(|| format!("--hold {} is no time: write 30 or 2m", arguments.hold))?;
    if !(0.0..=1.0).contains(&arguments.loss) {
        bail!("--loss is from 0 to 1, as in 0.05");
    }
    let ca = match &arguments.ca {
        Some(file) => Some(std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?),
        None => None,
    };
    let mut config = LoadConfig::new(address(&arguments.to)?, speech::conversation(), speech::RATE);
    config.transport = match arguments.transport.as_str() {
        "tcp" => LoadTransport::Tcp,
        "tls" => LoadTransport::Tls(TlsClient { server_name: None, ca, identity: None }),
        _ => LoadTransport::Udp,
    };
    config.calls = arguments.calls;
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
