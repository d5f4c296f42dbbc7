//! `ferric interop`: a self-test for SBCs. The admin points one at it and makes a call;
//! it says whose dialect it heard, what works, what had to be bent, and what to change on the SBC.
//!
//! It is a whole node in a folder of its own: what it says of a call is what it would have recorded.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_assurance::Outcome;
use ferric_media::keys::PrivateKey;
use ferric_media::metadata::RecordingMetadata;
use ferric_media::open::open_all;
use ferric_media::timestamp::Timestamp;
use ferric_sip::flow::Transport;
use tokio::signal::unix::{SignalKind, signal};

use super::interop_report::{Call, report};
use super::logging;
use super::output::say;
use crate::config::{Config, SipListener};
use crate::node::Node;

/// What came is looked for this often.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(crate) struct InteropArguments {
    /// Address for SIP over UDP and TCP. Media use the same host.
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Networks that may send; all if none is named, for the test only.
    #[arg(long, value_name = "NETWORK")]
    trust: Vec<String>,
    /// Refuse the first call with 503, and see how soon the SBC comes back.
    #[arg(long)]
    refuse_first: bool,
    /// End after so many calls.
    #[arg(long, value_name = "N")]
    calls: Option<usize>,
    /// Where the test's recordings are kept; a new temporary folder without it.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &InteropArguments) -> anyhow::Result<ExitCode> {
    logging::start("error");
    let folder = arguments
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("ferric-interop-{}", std::process::id())));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let good = runtime.block_on(listen(arguments, &folder))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn listen(arguments: &InteropArguments, folder: &Path) -> anyhow::Result<bool> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    super::write_key_pair(&folder.join("keys"), "default")?;
    let node = Node::start(config(arguments, folder)?).await?;
    let began = Timestamp::from(SystemTime::now());
    say!("listening for an SBC, UDP and TCP:");
    for (transport, address) in &node.addresses().sip {
        say!("  sip:{address};transport={}", transport.as_str().to_ascii_lowercase());
    }
    say!("Make it the recording server of your SBC and make a call of ten seconds or more. Ctrl-C ends the test.");
    if arguments.refuse_first {
        node.refuse(true);
        say!("The first call is refused with 503, to see what the SBC does.");
    }
    let mut watch = Watch { folder: folder.to_owned(), began, seen: HashSet::new(), refused_at: None, good: 0, bad: 0 };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = ticks.tick() => {}
        }
        if watch.look()? && arguments.refuse_first {
            node.refuse(false);
        }
        if arguments.calls.is_some_and(|calls| watch.good + watch.bad >= calls) {
            break;
        }
    }
    node.stop().await;
    watch.look()?;
    say!("\n{} calls recorded, {} not. Everything of the test is in {}.", watch.good, watch.bad, folder.display());
    Ok(watch.good > 0 && watch.bad == 0)
}

fn config(arguments: &InteropArguments, folder: &Path) -> anyhow::Result<Config> {
    let mut config = Config::embedded(folder);
    config.node.id = "interop".to_owned();
    let listener = |transport| SipListener { transport, address: arguments.listen, advertise: None };
    config.sip.listeners = vec![listener(Transport::Udp), listener(Transport::Tcp)];
    let tenant = config.tenants.first().map(|tenant| tenant.name.clone()).unwrap_or_default();
    let networks: Vec<String> =
        if arguments.trust.is_empty() { vec!["0.0.0.0/0".into(), "::/0".into()] } else { arguments.trust.clone() };
    for text in networks {
        let network = text.parse().map_err(|error| anyhow::anyhow!("--trust: {error}"))?;
        config.sip.trust.push((network, tenant.clone()));
    }
    // Keys in clear are taken here, and the report says what is wrong with that.
    config.sip.sdes_without_tls = true;
    if arguments.listen.ip().is_unspecified() {
        bail!("--listen needs an address of this machine: the SBC sends its media to it");
    }
    config.capture.rtp_address = arguments.listen.ip();
    config.capture.max_calls = 20;
    config.console.listen.set_port(0);
    Ok(config)
}

/// What was seen so far.
struct Watch {
    folder: PathBuf,
    began: Timestamp,
    seen: HashSet<uuid::Uuid>,
    refused_at: Option<Timestamp>,
    good: usize,
    bad: usize,
}

impl Watch {
    /// Tells of calls that have come to their end; true when one was refused.
    fn look(&mut self) -> anyhow::Result<bool> {
        let until = Timestamp::from(SystemTime::now() + Duration::from_secs(60));
        let ledger = ferric_assurance::read(&self.folder.join(crate::node::ASSURANCE), self.began, until)?;
        let mut refused = false;
        for call in ledger.calls {
            let Some(outcome) = call.outcome.filter(|_| !self.seen.contains(&call.invite)) else { continue };
            if outcome == Outcome::Refused {
                self.seen.insert(call.invite);
                refused = true;
                let (status, cause) = (call.status.unwrap_or(0), call.cause.unwrap_or_default());
                if status == 503 {
                    self.refused_at = call.settled;
                    say!("\nA call was refused with 503 as it should be; now see whether the SBC tries again.");
                } else {
                    self.bad += 1;
                    say!(
                        "\nA call was refused: {status}, {cause}.\n{}",
                        super::interop_report::advice_for_refusal(&cause)
                    );
                }
                continue;
            }
            let opened: Option<Vec<RecordingMetadata>> = call.recordings.iter().map(|id| self.open(*id)).collect();
            // Not on its way to the store yet: at the next look.
            let Some(recordings) = opened else { continue };
            self.seen.insert(call.invite);
            if recordings.iter().all(|metadata| metadata.streams.iter().any(|stream| stream.packets > 0)) {
                self.good += 1;
            } else {
                self.bad += 1;
            }
            let came_back = self.refused_at.take().map(|refused| call.received.since(refused));
            say!("{}", report(&Call { outcome, cause: call.cause, recordings, came_back }));
        }
        Ok(refused)
    }

    fn open(&self, id: uuid::Uuid) -> Option<RecordingMetadata> {
        let file = find(&self.folder.join("store"), &id.to_string(), 5)?.join("metadata.ejson");
        let pem = std::fs::read_to_string(self.folder.join("keys").join("default.private.pem")).ok()?;
        let key = PrivateKey::from_pem(&pem).ok()?;
        let plain = open_all(&key, &std::fs::read(file).ok()?).ok()?;
        RecordingMetadata::from_json(&plain).ok()
    }
}

/// A folder of this name that holds a manifest.
fn find(folder: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy() == name && path.join("manifest.json").exists() {
            return Some(path);
        }
        if depth > 0 && path.is_dir() {
            if let Some(found) = find(&path, name, depth - 1) {
                return Some(found);
            }
        }
    }
    None
}
