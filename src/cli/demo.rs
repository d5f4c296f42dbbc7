//! `ferric demo`: one call, from an SBC's INVITE to the opened recording.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_codecs::resample::Resampler;
use ferric_media::keys::{NodePublicKey, PrivateKey};
use ferric_media::metadata::RecordingMetadata;
use ferric_media::open::open_all;
use ferric_sip::flow::Transport;
use indicatif::{ProgressBar, ProgressStyle};

use super::{decrypt, logging, verify};
use crate::config::Config;
use crate::load::{self, CallReport, LoadCodec, LoadConfig, LoadReport, LoadTransport};
use crate::node::Node;
use crate::speech;

/// What was said and what was recorded are compared at this rate, in Hz.
const COMPARE_RATE: u32 = 8_000;
/// The recording may begin this much earlier than the speech, in samples.
const SEARCH: usize = COMPARE_RATE as usize * 3;
/// A channel that correlates less than this is wrong.
const GOOD_CORRELATION: f64 = 0.95;
/// Channels further apart than this are wrong, in ms.
const GOOD_OFFSET_MS: f64 = 20.0;

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// pcmu, pcma, g722 or opus.
    #[arg(long, default_value = "pcmu")]
    codec: LoadCodec,
    /// Where to keep everything; a new temporary folder without it.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    logging::start("warn");
    let folder = match &arguments.dir {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("ferric-demo-{}", std::process::id())),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let good = runtime.block_on(demo(&folder, arguments.codec))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn demo(folder: &Path, codec: LoadCodec) -> anyhow::Result<bool> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    super::write_key_pair(&folder.join("keys"), "default")?;
    let mut config = Config::embedded(folder);
    for listener in &mut config.sip.listeners {
        listener.address.set_port(0);
    }
    config.console.listen.set_port(0);
    config.node.id = "demo".to_owned();
    let node = Node::start(config).await?;
    let to =
        node.addresses().sip.iter().find(|(transport, _)| *transport == Transport::Tcp).map(|(_, address)| *address);
    let to = to.context("the node has no TCP listener")?;
    println!("node: SIP on {to} (TCP), data in {}", folder.display());

    let said = speech::conversation();
    let length = said.first().map_or(0, Vec::len);
    let seconds = Duration::from_millis(length as u64 * 1000 / u64::from(speech::RATE));
    let report = play(to, &said, codec, seconds).await?;
    let Some(call) = report.calls.first().filter(|_| report.is_clean()) else {
        node.stop().await;
        bail!("the call failed:\n{report}");
    };
    let stored = wait_for_upload(&node, folder).await;
    let node_key = node.addresses().node_key.clone();
    node.stop().await;
    let recording = stored?;
    compare(folder, &recording, &node_key, &said, call)
}

/// Plays the call as an SBC would, with a progress bar.
async fn play(
    to: std::net::SocketAddr,
    said: &[Vec<i16>; 2],
    codec: LoadCodec,
    seconds: Duration,
) -> anyhow::Result<LoadReport> {
    let mut config = LoadConfig::new(to, said.clone(), speech::RATE);
    config.transport = LoadTransport::Tcp;
    config.calls = 1;
    config.hold = seconds;
    config.codec = codec;
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal { ProgressBar::new(seconds.as_secs()) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("call: {bar:40} {pos} of {len} s  {msg}") {
        bar.set_style(style);
    }
    if !terminal {
        println!("call: {} s of conversation, two RTP streams", seconds.as_secs());
    }
    let report = load::run(config, |progress| {
        bar.set_position(progress.packets / 100);
        bar.set_message(format!("{} packets", progress.packets));
    })
    .await?;
    bar.finish_and_clear();
    Ok(report)
}

/// The folder of the recording in the store, once its manifest is there.
async fn wait_for_upload(node: &Node, folder: &Path) -> anyhow::Result<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Some(found) = find_manifest(&folder.join("store"), 0)
            && node.uploads_waiting() == 0
        {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!(
        "the recording did not reach the store within 30 s; `ferric spool ls --data-dir {}` shows where it is",
        folder.display()
    )
}

fn find_manifest(folder: &Path, depth: usize) -> Option<PathBuf> {
    if folder.join("manifest.json").is_file() {
        return Some(folder.to_owned());
    }
    if depth > 6 {
        return None;
    }
    let entries = std::fs::read_dir(folder).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .find_map(|path| find_manifest(&path, depth + 1))
}

fn at_compare_rate(samples: &[i16], from: u32) -> Vec<f64> {
    let mut resampler = Resampler::new(from, COMPARE_RATE);
    let mut out = Vec::new();
    resampler.process(samples, &mut out);
    resampler.process(&vec![0; 400], &mut out);
    out.iter().skip(resampler.delay_samples()).map(|&sample| f64::from(sample)).collect()
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0, 1e-9, 1e-9);
    for (x, y) in a.iter().zip(b) {
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    ab / (aa * bb).sqrt()
}

/// The shift of `recorded` against `said`, in samples, and the correlation there.
fn best_shift(said: &[f64], recorded: &[f64]) -> (usize, f64) {
    let coarse = |shift: usize, step: usize| {
        let tail = recorded.get(shift..).unwrap_or(&[]);
        let pick = |signal: &[f64]| -> Vec<f64> { signal.iter().step_by(step).copied().collect() };
        correlation(&pick(said), &pick(tail))
    };
    // Speech has little above 1 kHz to lose by looking at every third sample first.
    let near =
        (0..SEARCH.min(recorded.len())).step_by(2).max_by(|&a, &b| coarse(a, 3).total_cmp(&coarse(b, 3))).unwrap_or(0);
    let best =
        (near.saturating_sub(8)..near + 8).max_by(|&a, &b| coarse(a, 1).total_cmp(&coarse(b, 1))).unwrap_or(near);
    (best, coarse(best, 1))
}

#[allow(clippy::cast_precision_loss)]
fn compare(
    folder: &Path,
    recording: &Path,
    node_key: &Path,
    said: &[Vec<i16>; 2],
    call: &CallReport,
) -> anyhow::Result<bool> {
    let private = folder.join("keys/default.private.pem");
    let key = PrivateKey::from_pem(&std::fs::read_to_string(&private)?)?;
    let sealed = std::fs::read(recording.join("audio.eopus"))?;
    let recorded = decrypt::decode_recording(&key, &sealed)?;
    let metadata = RecordingMetadata::from_json(&open_all(&key, &std::fs::read(recording.join("metadata.ejson"))?)?)?;
    let node_key = NodePublicKey::from_pem(&std::fs::read_to_string(node_key)?)?;
    let verified = verify::check(recording, Some(&node_key));

    println!();
    println!(
        "{:<8} {:<22} {:>12} {:>10} {:>8} {:>6}",
        "channel", "party", "correlation", "begins at", "packets", "lost"
    );
    let mut good = true;
    let mut starts = Vec::new();
    for (number, (said, recorded)) in said.iter().zip(&recorded).enumerate() {
        let said = at_compare_rate(said, speech::RATE);
        let (shift, likeness) = best_shift(&said, &at_compare_rate(recorded, 16_000));
        let milliseconds = shift as f64 * 1000.0 / f64::from(COMPARE_RATE);
        starts.push(milliseconds);
        good &= likeness >= GOOD_CORRELATION;
        let channel = u8::try_from(number).unwrap_or(u8::MAX);
        let party = metadata.session.participants.iter().find(|participant| participant.channel == Some(channel));
        let name =
            party.and_then(|party| party.name.clone().or(party.aor.clone())).unwrap_or_else(|| "unknown".to_owned());
        let stream = metadata.streams.iter().find(|stream| stream.channel == Some(channel));
        let (packets, lost) = stream.map_or((0, 0), |stream| (stream.packets, stream.lost));
        let side = if number == 0 { "left" } else { "right" };
        println!("{side:<8} {name:<22} {likeness:>12.3} {milliseconds:>7.0} ms {packets:>8} {lost:>6}");
    }
    let apart = (starts.first().unwrap_or(&0.0) - starts.last().unwrap_or(&0.0)).abs();
    let manifest = verified.as_ref().map(|manifest| &manifest.manifest);
    let duration = manifest.map_or(0, |manifest| manifest.duration_ms) as f64 / 1000.0;
    good &= apart <= GOOD_OFFSET_MS && verified.is_ok();
    println!();
    println!(
        "set up in {:.1} ms; {duration:.2} s recorded; channels {apart:.1} ms apart",
        call.set_up.unwrap_or_default().as_secs_f64() * 1000.0
    );
    match &verified {
        Ok(_) => println!("manifest: hashes, signature and length are right"),
        Err(error) => println!("manifest: WRONG: {error:#}"),
    }
    println!(
        "sealed:   {} ({} bytes; nobody without the private key can open it)",
        recording.join("audio.eopus").display(),
        sealed.len()
    );
    println!("key:      {}", private.display());
    println!(
        "open it:  ferric decrypt --wav --key {} {} -o call.wav",
        private.display(),
        recording.join("audio.eopus").display()
    );
    println!("{}", if good { "what was recorded is what was said" } else { "DIFFERENT from what was said" });
    Ok(good)
}
