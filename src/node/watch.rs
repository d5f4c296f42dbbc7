//! Once a second: the spool's level, the gauges, the alarms.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ferric_assurance::Ledger;
use ferric_proxy::group::{ElementState, GroupView};
use ferric_sip_io::SipSockets;
use ferric_worker::spool::{Spool, Stage};
use ferric_worker::spool_commit::Finisher;
use ferric_worker::spool_gauge::SpoolGauge;
use ferric_worker::store::Target;
use ferric_worker::store_probe::probe;
use ferric_worker::upload::{Stores, UploadEvent, UploadHandle};
use ferric_worker::worker::Worker;
use tokio_util::sync::CancellationToken;

use super::catalogue::Bookkeeper;
use super::cluster::Cluster;
use super::cluster::mirror::Mirrors;
use super::request_log::RequestLog;
use super::reserve::Reserve;
use super::signalling::SignallingStats;
use super::steering::Steering;
use crate::console::{Alarm, Readiness};
use crate::metrics;

const INTERVAL: Duration = Duration::from_secs(1);
/// An upload backlog older than this is worth an alarm.
const OLD_BACKLOG: Duration = Duration::from_secs(600);
/// An alarm about something that happened stands for this long.
const RECENT: Duration = Duration::from_secs(300);
/// A store that does not answer a probe is asked again after this.
const PROBE_AGAIN: Duration = Duration::from_secs(60);

/// What the watcher found last.
#[derive(Debug, Default)]
pub(super) struct State {
    alarms: Mutex<Vec<Alarm>>,
    not_ready: Mutex<Vec<String>>,
    watched: AtomicBool,
    /// Messages over the rate of their source so far, and when there were more.
    rate_limited: Mutex<(u64, Option<Instant>)>,
}

#[derive(Clone)]
pub(super) struct Watcher {
    pub(super) worker: Arc<Worker>,
    pub(super) spool: Spool,
    pub(super) gauge: Arc<SpoolGauge>,
    pub(super) uploads: UploadHandle,
    pub(super) finisher: Arc<Finisher>,
    pub(super) sockets: SipSockets,
    pub(super) signalling: Arc<SignallingStats>,
    pub(super) ledger: Ledger,
    pub(super) max_call: Duration,
    pub(super) state: Arc<State>,
    pub(super) steering: Arc<Steering>,
    pub(super) request_log: Option<RequestLog>,
    pub(super) books: Bookkeeper,
    pub(super) reserve: Reserve,
    pub(super) cluster: Cluster,
    pub(super) mirrors: Option<Mirrors>,
}

impl Watcher {
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut seconds = 0_u64;
        let mut groups = Vec::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            // Alarms about groups stand as they were while signalling is too busy to tell.
            if let Some(now) = self.steering.groups().await {
                groups = now;
            }
            self.look(seconds.is_multiple_of(10), &groups);
            seconds += 1;
            if seconds.is_multiple_of(60) {
                self.reserve.keep();
            }
        }
    }

    fn look(&self, rescan: bool, groups: &[GroupView]) {
        let level = self.gauge.read();
        self.worker.set_spool_full(!self.gauge.is_open());
        if rescan {
            // Recordings that a person put back from `aside` are found so.
            self.uploads.rescan();
        }
        self.export(level.as_ref().map_or(0, |level| level.spool_bytes));
        let mut alarms = self.find_alarms(level.err().map(|error| error.to_string()));
        self.books.find_alarms(&mut alarms);
        self.cluster.find_alarms(&mut alarms);
        if let Some(mirrors) = &self.mirrors {
            mirrors.find_alarms(&mut alarms);
        }
        self.cluster.export();
        self.find_proxy_alarms(groups, &mut alarms);
        metrics::set("ferric_alarms", f64::from(u32::try_from(alarms.len()).unwrap_or(u32::MAX)));
        let mut not_ready = Vec::new();
        if !self.gauge.is_open() {
            not_ready.push("the spool is past its high-water mark".to_owned());
        }
        let stats = self.worker.stats();
        if stats.scribe.disk_refuses.load(Ordering::Relaxed) {
            not_ready.push("the spool's disk refuses writes".to_owned());
        }
        if self.worker.is_draining() {
            not_ready.push("the node drains".to_owned());
        }
        if self.worker.call_count() >= self.worker.max_calls() {
            not_ready.push("capture.max_calls is reached".to_owned());
        }
        *self.state.alarms.lock().unwrap_or_else(PoisonError::into_inner) = alarms;
        *self.state.not_ready.lock().unwrap_or_else(PoisonError::into_inner) = not_ready;
        self.state.watched.store(true, Ordering::Relaxed);
    }

    #[allow(clippy::cast_precision_loss)]
    fn export(&self, spool_bytes: u64) {
        let stats = self.worker.stats();
        let sum = |of: fn(&ferric_worker::ShardStats) -> u64| stats.shards.iter().map(|shard| of(shard)).sum::<u64>();
        metrics::set("ferric_calls_active", self.worker.call_count() as f64);
        metrics::set("ferric_sip_transactions_active", self.signalling.transactions.load(Ordering::Relaxed) as f64);
        metrics::set("ferric_sip_connections", self.sockets.connections() as f64);
        metrics::set("ferric_spool_bytes", spool_bytes as f64);
        metrics::set("ferric_spool_recordings", self.spool.usage().recordings() as f64);
        metrics::set("ferric_spool_open", f64::from(u8::from(self.gauge.is_open())));
        metrics::set("ferric_upload_lag_seconds", self.uploads.stats().lag(SystemTime::now().into()).as_secs_f64());
        let (waiting, lost) = self.books.backlog();
        metrics::set("ferric_catalog_waiting", waiting as f64);
        metrics::total("ferric_catalog_lost_total", lost);
        metrics::set("ferric_rtp_ports_free", self.worker.free_ports().0 as f64);
        let lag = stats.shards.iter().map(|shard| shard.lag_us.load(Ordering::Relaxed)).max().unwrap_or(0);
        metrics::set("ferric_shard_lag_seconds", lag as f64 / 1e6);
        metrics::rtp_packets("received", sum(|shard| shard.packets.load(Ordering::Relaxed)));
        metrics::rtp_packets("lost", sum(|shard| shard.packets_lost.load(Ordering::Relaxed)));
        metrics::rtp_packets("dropped", sum(|shard| shard.packets_dropped.load(Ordering::Relaxed)));
        metrics::total("ferric_audio_lost_ms_total", sum(|shard| shard.lost_ms.load(Ordering::Relaxed)));
        metrics::total("ferric_encode_seconds_total", sum(|shard| shard.busy_us.load(Ordering::Relaxed)) / 1_000_000);
    }

    fn find_alarms(&self, level_error: Option<String>) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        if let Some(error) = level_error {
            alarms.push(Alarm {
                name: "spool-unreadable",
                text: error,
                advice: "Check the disk that holds the data folder.",
            });
        }
        if !self.gauge.is_open() {
            let text = format!(
                "{} bytes are left for the spool; new calls are refused with 503",
                self.gauge.available_bytes()
            );
            alarms.push(Alarm {
                name: "spool-full",
                text,
                advice: "Free space, or see why the store does not take recordings.",
            });
        }
        let stats = self.worker.stats();
        if stats.scribe.disk_refuses.load(Ordering::Relaxed) {
            let text = "the disk refuses audio of running calls; it is kept in memory for some seconds".to_owned();
            alarms.push(Alarm {
                name: "disk-refuses",
                text,
                advice: "Free space at once: running recordings are cut otherwise.",
            });
        }
        let cut = stats.scribe.cut_short.load(Ordering::Relaxed);
        if cut > 0 {
            let text = format!("{cut} recordings were cut short since the start because the disk refused them");
            alarms.push(Alarm { name: "recordings-cut", text, advice: "They are marked partial; the log names them." });
        }
        let overdue = self.ledger.overdue(self.max_call);
        if let Some(first) = overdue.first() {
            let text = format!(
                "{} calls have no outcome although they should be over (the first came at {})",
                overdue.len(),
                first.received
            );
            let advice = "`ferric assurance` lists them; the log tells what became of their recordings.";
            alarms.push(Alarm { name: "assurance-overdue", text, advice });
        }
        let (_, waiting, faults) = self.ledger.health();
        if waiting > 0 || faults > 0 {
            let text = format!(
                "the ledger of recording assurance has {waiting} lines that the disk refuses, and {faults} faults"
            );
            alarms.push(Alarm {
                name: "assurance-ledger",
                text,
                advice: "Check the disk that holds the data folder; `ferric assurance` names faults.",
            });
        }
        if self.is_rate_limited() {
            let limited = self.sockets.stats().rate_limited.load(Ordering::Relaxed);
            let text = format!(
                "{limited} SIP messages were dropped since the start: their sources sent more requests a second than they may"
            );
            let advice = "If that is one of your SBCs, give its [[sip.trust]] a requests_per_second, or raise [sip.limits] requests_per_second_per_source.";
            alarms.push(Alarm { name: "sip-rate", text, advice });
        }
        let unopened = self.signalling.unopened();
        if let Some((id, in_clear)) = unopened.first() {
            let what = if *in_clear {
                "media comes in clear where SRTP was agreed"
            } else {
                "SRTP comes that none of the agreed keys opens"
            };
            let text = format!("{} calls are not being recorded whole: {what} (recording {id})", unopened.len());
            let advice =
                "Check the SBC's SRTP settings: the keys of a=crypto, its suite, and whether a proxy rewrites the SDP.";
            alarms.push(Alarm { name: "srtp-undecryptable", text, advice });
        }
        let waiting = self.finisher.stats().waiting.load(Ordering::Relaxed);
        if waiting > 0 {
            let text = format!("{waiting} finished recordings wait because the disk refuses their manifests");
            alarms.push(Alarm {
                name: "finish-waits",
                text,
                advice: "Free space; they are finished by themselves then.",
            });
        }
        let uploads = self.uploads.stats();
        for tenant in uploads.tenants.iter().filter(|tenant| tenant.failing) {
            let said = tenant.last_error.as_deref().unwrap_or("no reason given");
            let text =
                format!("the store of tenant {} fails ({} recordings wait): {said}", tenant.tenant, tenant.waiting);
            alarms.push(Alarm {
                name: "store-fails",
                text,
                advice: "Check the store, its address and its credentials.",
            });
        }
        if uploads.lag(SystemTime::now().into()) > OLD_BACKLOG {
            let text = format!("{} recordings wait for their store, the oldest for over ten minutes", uploads.waiting);
            alarms.push(Alarm { name: "upload-backlog", text, advice: "Check the store and the bandwidth limit." });
        }
        if let Ok(aside) = self.spool.entries(Stage::Aside)
            && !aside.is_empty()
        {
            let text = format!("{} recordings were set aside and wait for a person", aside.len());
            alarms.push(Alarm {
                name: "set-aside",
                text,
                advice: "`ferric spool ls` names the reasons; `ferric spool retry` puts them back.",
            });
        }
        alarms
    }

    fn find_proxy_alarms(&self, groups: &[GroupView], alarms: &mut Vec<Alarm>) {
        group_alarms(groups, alarms);
        if let Some(why) = self.steering.refused() {
            let text = format!(
                "the configuration file was refused when it was read last, and what was in force before still is: {why}"
            );
            let advice = "Correct the file (`ferric check` shows what is wrong) and send SIGHUP again.";
            alarms.push(Alarm { name: "config-refused", text, advice });
        }
        if let Some(why) = self.steering.epoch_missing() {
            let text = format!("this node does not run by the cluster's server groups and routes: {why}");
            let advice =
                "Correct what the text names on this node, or change the configuration so that every node can take it.";
            alarms.push(Alarm { name: "config-behind", text, advice });
        }
        if let Some(why) = self.steering.unversioned() {
            let text = format!("versions of the configuration are not kept, so none can be taken back: {why}");
            let advice =
                "Free space, or mend the folder `config` in the data folder; the next change, or SIGHUP, tries again.";
            alarms.push(Alarm { name: "config-versions", text, advice });
        }
        let lost = self.request_log.as_ref().map_or(0, RequestLog::dropped);
        if lost > 0 {
            let text = format!("{lost} finished requests since the start are missing in the request log");
            alarms.push(Alarm {
                name: "request-log-lost",
                text,
                advice: "The disk of the request log is too slow, or full.",
            });
        }
    }

    /// Messages were dropped of late because their source sent too many.
    fn is_rate_limited(&self) -> bool {
        let count = self.sockets.stats().rate_limited.load(Ordering::Relaxed);
        let mut known = self.state.rate_limited.lock().unwrap_or_else(PoisonError::into_inner);
        if count > known.0 {
            *known = (count, Some(Instant::now()));
        }
        known.1.is_some_and(|at| at.elapsed() < RECENT)
    }

    pub(super) fn alarms(&self) -> Vec<Alarm> {
        self.state.alarms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn readiness(&self) -> Readiness {
        let mut reasons = self.state.not_ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !self.state.watched.load(Ordering::Relaxed) {
            reasons.push("the node is starting".to_owned());
        }
        Readiness { ready: reasons.is_empty(), reasons }
    }
}

/// Alarms about elements, a group of many at a time: at most so many.
const MOST_ELEMENT_ALARMS: usize = 50;

/// Elements that are down, and groups of which no element takes calls.
fn group_alarms(groups: &[GroupView], alarms: &mut Vec<Alarm>) {
    for group in groups {
        let name = &group.config.name;
        if !group.elements.iter().any(|element| element.state == ElementState::Up) {
            let states: Vec<String> = group
                .elements
                .iter()
                .map(|element| format!("{} is {}", element.address, element.state.as_str()))
                .collect();
            let states = if states.is_empty() { "it has no elements".to_owned() } else { states.join(", ") };
            let then = match &group.config.fallback {
                Some(fallback) => format!("its fallback {fallback} is asked"),
                None => "callers get 503".to_owned(),
            };
            let text = format!("no element of server group {name} takes calls ({states}): {then}");
            alarms.push(Alarm {
                name: "group-dead",
                text,
                advice: "See why the elements do not answer, and whether they are drained.",
            });
        }
    }
    let down = groups.iter().flat_map(|group| {
        group.elements.iter().filter_map(move |element| match element.state {
            ElementState::Down(cause) => Some((group, element, cause)),
            ElementState::Up | ElementState::Busy(_) | ElementState::Drained | ElementState::Unresolved => None,
        })
    });
    for (group, element, cause) in down.take(MOST_ELEMENT_ALARMS) {
        let seconds = element.since.map_or(0, |since| since.as_secs());
        let text = format!(
            "{} of server group {} is down for {seconds} s ({})",
            element.address,
            group.config.name,
            cause.as_str()
        );
        alarms.push(Alarm {
            name: "element-down",
            text,
            advice: "See whether it runs and answers OPTIONS; one answer brings it back.",
        });
    }
}

/// Learns what a store can do; a store that is away is asked again, and used meanwhile as the weakest kind.
pub(super) async fn probe_store(tenant: String, mut target: Target, stores: Stores) {
    loop {
        match probe(&mut target).await {
            Ok(found) => {
                tracing::info!(tenant, put_if_absent = found.put_if_absent, "the store answers");
                if let Some(refused) = found.delete_refused {
                    tracing::warn!(tenant, refused, "the store does not let us delete our probe");
                }
                stores.set(&tenant, target);
                return;
            }
            Err(error) => {
                tracing::warn!(tenant, %error, "the store does not answer; recordings wait in the spool");
                tokio::time::sleep(PROBE_AGAIN).await;
            }
        }
    }
}

/// Counts and notes what became of an upload.
pub(super) fn upload_event(books: &Bookkeeper, event: UploadEvent) {
    books.upload(&event);
    match event {
        UploadEvent::Stored { manifest, key, bytes } => {
            metrics::upload("stored");
            tracing::info!(recording = %manifest.manifest.part.recording, key, bytes, "recording stored");
        }
        UploadEvent::Failed { id, tenant, error } => {
            metrics::upload("failed");
            tracing::warn!(recording = %id, tenant, error, "upload failed; it is tried again");
        }
        UploadEvent::Aside { id, tenant, reason } => {
            metrics::upload("aside");
            tracing::error!(recording = %id, tenant, reason, "recording set aside");
        }
    }
}
