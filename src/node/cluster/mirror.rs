//! Mirrors in the cluster: who copies whose calls, and the way between them.
//!
//! ```text
//! a call is assigned here -> choose a worker (another site first) -> Worker::mirror_to(link)
//! link: media -> datagrams, channel 1;  controls, reports, refusals -> topic Mirror
//! frames for copies here  -> Worker::feed;  refused -> the original's node chooses another one
//! the original's node dies -> its SRS node asks us to promote;  nobody asks -> the copy ends
//! ```
//!
//! What is held for its twin is settled here too ([`ferric_worker::mirror::settle`]): the twin's node is asked over the
//! same topic.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_fabric::{Datagram, Fabric, Inbound, Member, NodeId, Site};
use ferric_media::mirror::{Begin, Control, Outgoing, Report, copy_of};
use ferric_worker::call::{Refusal, StreamAddress};
use ferric_worker::mirror::MirrorLink;
use ferric_worker::mirror::settle::{Ask, Dropped, Patience, SettleStats, Settler, Submit, Word};
use ferric_worker::spool::Spool;
use ferric_worker::upload::Stores;
use ferric_worker::upload_transfer::Verify;
use ferric_worker::worker::Worker;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Cluster, MIRRORED_RTP, MemberEvent, Members, Topic, lock};
use crate::console::Alarm;
use crate::metrics;

/// A frame of a mirror that must arrive.
const FRAME: u8 = 1;
/// JSON: [`Said`].
const SAID: u8 = 2;
/// A request, JSON: the file id; the answer is a [`Word`].
const ASK: u8 = 3;

/// A node answers about its spool within this.
const ANSWER: Duration = Duration::from_secs(2);
/// A copy whose original's node is down and that nobody promotes ends after this.
const ORPHAN: Duration = Duration::from_secs(90);
/// Nodes tried for one call.
const TRIES: usize = 4;
/// A call without a mirror looks for one again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Between two looks at what is missing.
const TICK: Duration = Duration::from_secs(1);

/// What two workers of a mirror say to each other besides frames.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
enum Said {
    /// How far a copy is.
    Report(Report),
    /// A copy cannot begin.
    Refused {
        /// Its file id.
        copy: Uuid,
        /// Why.
        why: String,
    },
    /// Files are verified in the store: whoever holds their twin may look.
    Stored {
        /// Their id.
        file: Uuid,
    },
}

/// The way to one node.
#[derive(Debug)]
struct Link {
    fabric: Fabric,
    node: NodeId,
}

impl Link {
    fn say(&self, said: &Said) -> bool {
        let Ok(json) = serde_json::to_vec(said) else { return false };
        self.fabric.send(&self.node, Topic::Mirror.kind(SAID), json).is_ok()
    }
}

impl MirrorLink for Link {
    fn frame(&self, frame: Outgoing) -> bool {
        match frame {
            Outgoing::Datagram(bytes) => self.fabric.datagram(&self.node, MIRRORED_RTP, &bytes).is_ok(),
            Outgoing::Message(bytes) => self.fabric.send(&self.node, Topic::Mirror.kind(FRAME), bytes).is_ok(),
        }
    }

    fn report(&self, report: &Report) -> bool {
        self.say(&Said::Report(report.clone()))
    }

    fn max_datagram(&self) -> usize {
        self.fabric.max_datagram(&self.node).unwrap_or(1_100)
    }
}

/// A call of this worker that is to have a mirror.
#[derive(Debug)]
struct Mirrored {
    /// Where its copy is, and the copy's file id.
    at: Option<(NodeId, Uuid)>,
    tried: Vec<NodeId>,
    look_at: Instant,
}

/// A copy that runs here.
#[derive(Debug, Clone)]
struct Copied {
    recording: Uuid,
    part: u32,
    tenant: String,
    /// The node of its original.
    from: NodeId,
}

/// A copy that goes on as the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Promoted {
    /// Its files.
    pub(in crate::node) file: Uuid,
    /// Which part it is.
    pub(in crate::node) part: u32,
    /// Where its peers are to send.
    pub(in crate::node) addresses: Vec<StreamAddress>,
}

/// The mirrors of a node; clones are the same.
#[derive(Clone)]
pub(in crate::node) struct Mirrors(Arc<Inner>);

struct Inner {
    fabric: Fabric,
    site: Site,
    worker: Arc<Worker>,
    spool: Spool,
    tenants: BTreeSet<String>,
    calls: Mutex<HashMap<Uuid, Mirrored>>,
    /// Nodes of originals that are down, and since when.
    down: Mutex<HashMap<NodeId, Instant>>,
    /// Copies here, by file id.
    copies: Mutex<HashMap<Uuid, Copied>>,
    turn: std::sync::atomic::AtomicUsize,
    nudge: Arc<Notify>,
    settled: Arc<SettleStats>,
}

/// What the mirrors need of the node.
pub(in crate::node) struct Parts {
    pub(in crate::node) worker: Arc<Worker>,
    pub(in crate::node) spool: Spool,
    pub(in crate::node) stores: Stores,
    /// Takes what is to be stored after all.
    pub(in crate::node) submit: Submit,
    /// Hears of files that were deleted because their twin is stored.
    pub(in crate::node) dropped: Dropped,
    /// Tenants whose calls are mirrored.
    pub(in crate::node) tenants: BTreeSet<String>,
    pub(in crate::node) patience: Patience,
}

impl Mirrors {
    /// Starts what mirrors need. Without a cluster only what is still held is settled, and there are no mirrors.
    pub(in crate::node) fn start(
        parts: Parts,
        cluster: &Cluster,
        stop: CancellationToken,
        tasks: &mut Vec<JoinHandle<()>>,
    ) -> Option<Mirrors> {
        let Parts { worker, spool, stores, submit, dropped, tenants, patience } = parts;
        let (nudge, settled) = (Arc::new(Notify::new()), Arc::new(SettleStats::default()));
        let settler = Settler {
            spool: spool.clone(),
            stores,
            verify: Verify::default(),
            node: cluster.node().to_string(),
            patience,
            ask: asker(cluster.fabric().cloned()),
            submit,
            dropped,
            clock: Arc::new(|| std::time::SystemTime::now().into()),
            stats: Arc::clone(&settled),
        };
        tasks.push(tokio::spawn(settler.run(Arc::clone(&nudge), stop)));
        let fabric = cluster.fabric()?.clone();
        let (topic, datagrams) = (cluster.topic(Topic::Mirror)?, cluster.datagrams()?);
        let mirrors = Mirrors(Arc::new(Inner {
            fabric,
            site: cluster.site().clone(),
            worker,
            spool,
            tenants,
            calls: Mutex::default(),
            down: Mutex::default(),
            copies: Mutex::default(),
            turn: 0.into(),
            nudge,
            settled,
        }));
        tasks.push(tokio::spawn(mirrors.clone().run(topic, cluster.follow())));
        tasks.push(tokio::spawn(mirrors.clone().carry(datagrams)));
        Some(mirrors)
    }

    /// A call was assigned to the worker here: it gets a mirror if its tenant wants that.
    pub(in crate::node) fn begin(&self, recording: Uuid, tenant: &str) {
        if self.0.tenants.contains(tenant) {
            let now = Instant::now();
            lock(&self.0.calls).insert(recording, Mirrored { at: None, tried: Vec::new(), look_at: now });
            self.find_one(now, recording);
        }
    }

    /// The original of a copy here is gone: it goes on with sockets of its own, and gets a mirror in its turn.
    pub(in crate::node) fn promote(&self, recording: Uuid) -> Result<Promoted, Refusal> {
        let newest = {
            let copies = lock(&self.0.copies);
            let of = copies.iter().filter(|(_, copy)| copy.recording == recording);
            of.max_by_key(|(file, _)| **file).map(|(file, copy)| (*file, copy.clone()))
        };
        let (file, copy) = newest.ok_or(Refusal::Broken)?;
        // What frames took on their way is half of what it took there and back.
        let member = self.0.fabric.members().into_iter().find(|member| member.node == copy.from);
        let delay = member.and_then(|member| member.quality?.rtt).unwrap_or_default() / 2;
        let addresses = self.0.worker.promote(recording, delay)?;
        lock(&self.0.copies).remove(&file);
        self.begin(recording, &copy.tenant);
        Ok(Promoted { file, part: copy.part, addresses })
    }

    /// Files of this node are verified in the store.
    pub(in crate::node) fn stored(&self, tenant: &str, file: Uuid) {
        if !self.0.tenants.contains(tenant) {
            return;
        }
        for member in self.0.fabric.members().into_iter().filter(|member| is_worker(member) && member.is_up()) {
            Link { fabric: self.0.fabric.clone(), node: member.node }.say(&Said::Stored { file });
        }
    }

    /// Chooses a worker for the mirror of a call and begins it there.
    fn find_one(&self, now: Instant, recording: Uuid) {
        let mut calls = lock(&self.0.calls);
        let Some(call) = calls.get_mut(&recording) else { return };
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let Some(node) = choose(&self.0.fabric.members(), &self.0.site, &call.tried, turn) else {
            (call.look_at, call.tried) = (now + LOOK_AGAIN, Vec::new());
            return;
        };
        let copy = Uuid::now_v7();
        call.tried.push(node.clone());
        call.at = Some((node.clone(), copy));
        if call.tried.len() > TRIES {
            call.tried.remove(0);
        }
        let link = Arc::new(Link { fabric: self.0.fabric.clone(), node: node.clone() });
        self.0.worker.mirror_to(recording, copy, node.as_str(), link);
    }

    /// Carries mirrored RTP to the copies here.
    async fn carry(self, mut datagrams: mpsc::Receiver<Datagram>) {
        while let Some(Datagram { from, channel, bytes }) = datagrams.recv().await {
            if channel == MIRRORED_RTP {
                self.frame(&from, bytes);
            }
        }
    }

    fn frame(&self, from: &NodeId, frame: Bytes) {
        let Some(copy) = copy_of(&frame) else { return };
        let link = || -> Arc<dyn MirrorLink> { Arc::new(Link { fabric: self.0.fabric.clone(), node: from.clone() }) };
        let begins = Control::begin(&frame);
        match self.0.worker.feed(Instant::now(), frame, link) {
            Ok(()) => {
                if let Some(Begin { recording, part, tenant, .. }) = begins {
                    let copied = Copied { recording, part, tenant, from: from.clone() };
                    lock(&self.0.copies).insert(copy, copied);
                }
            }
            Err(refusal) => {
                let said = Said::Refused { copy, why: refusal.to_string() };
                Link { fabric: self.0.fabric.clone(), node: from.clone() }.say(&said);
            }
        }
    }

    async fn run(self, mut topic: mpsc::Receiver<Inbound>, mut members: Members) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                event = members.next() => match event {
                    Some(event) => self.member(event),
                    None => return,
                },
                message = topic.recv() => match message {
                    Some(message) => self.message(message).await,
                    None => return,
                },
                _ = tick.tick() => self.look(Instant::now()),
            }
        }
    }

    fn member(&self, event: MemberEvent) {
        match event {
            MemberEvent::Up(seen) => {
                lock(&self.0.down).remove(&seen.node);
                self.0.nudge.notify_one();
            }
            MemberEvent::Down { node, .. } => {
                let now = Instant::now();
                lock(&self.0.down).entry(node.clone()).or_insert(now);
                self.lost_copies(now, &node);
            }
            MemberEvent::Changed(_) | MemberEvent::Missed => {}
        }
    }

    /// A node is gone that had copies of calls here: they get others.
    fn lost_copies(&self, now: Instant, node: &NodeId) {
        let at = |call: &Mirrored| call.at.as_ref().is_some_and(|(at, _)| at == node);
        let lost: Vec<Uuid> = lock(&self.0.calls).iter().filter(|(_, call)| at(call)).map(|(id, _)| *id).collect();
        for recording in lost {
            self.0.worker.stop_mirror(recording);
            if let Some(call) = lock(&self.0.calls).get_mut(&recording) {
                (call.at, call.look_at) = (None, now);
            }
            self.find_one(now, recording);
        }
    }

    async fn message(&self, message: Inbound) {
        match message {
            Inbound::Message { from, kind, body, .. } => match kind.number() {
                FRAME => self.frame(&from, body),
                SAID => match serde_json::from_slice(&body) {
                    Ok(said) => self.said(&from, said),
                    Err(error) => tracing::debug!(%from, %error, "a word about a mirror is not understood"),
                },
                number => tracing::debug!(%from, number, "a message of another version"),
            },
            Inbound::Request { kind, body, responder, .. } => {
                if kind.number() == ASK
                    && let Ok(file) = serde_json::from_slice::<Uuid>(&body)
                {
                    let spool = self.0.spool.clone();
                    let word = tokio::task::spawn_blocking(move || Word::of(&spool, file)).await;
                    if let Ok(json) = serde_json::to_vec(&word.unwrap_or(Word::Coming)) {
                        let _ = responder.answer(json);
                    }
                }
            }
        }
    }

    fn said(&self, from: &NodeId, said: Said) {
        match said {
            Said::Report(report) => self.0.worker.mirror_report(&report),
            Said::Stored { .. } => self.0.nudge.notify_one(),
            Said::Refused { copy, why } => {
                let of = |call: &Mirrored| call.at.as_ref() == Some(&(from.clone(), copy));
                let found = lock(&self.0.calls).iter().find(|(_, call)| of(call)).map(|(id, _)| *id);
                if let Some(recording) = found {
                    tracing::info!(%recording, node = %from, why, "no copy there; another worker is asked");
                    self.0.worker.stop_mirror(recording);
                    if let Some(call) = lock(&self.0.calls).get_mut(&recording) {
                        call.at = None;
                    }
                    self.find_one(Instant::now(), recording);
                }
            }
        }
    }

    /// Forgets calls that are over, looks for mirrors that are missing, ends copies that nobody goes on with.
    fn look(&self, now: Instant) {
        let worker = &self.0.worker;
        let missing: Vec<Uuid> = {
            let mut calls = lock(&self.0.calls);
            calls.retain(|recording, _| worker.is_recording(*recording));
            calls.iter().filter(|(_, call)| call.at.is_none() && now >= call.look_at).map(|(id, _)| *id).collect()
        };
        missing.into_iter().for_each(|recording| self.find_one(now, recording));
        let orphaned = |node: &NodeId| {
            lock(&self.0.down).get(node).is_some_and(|since| now.saturating_duration_since(*since) >= ORPHAN)
        };
        lock(&self.0.copies).retain(|_, copy| {
            if orphaned(&copy.from) {
                worker.end_copy(copy.recording, "the original was lost and nobody went on");
            }
            worker.has_copy(copy.recording)
        });
    }

    /// What stands wrong with mirrors; tells the metrics as well.
    pub(in crate::node) fn find_alarms(&self, alarms: &mut Vec<Alarm>) {
        let stats = self.0.worker.mirror_stats();
        let behind = stats.behind.load(Ordering::Relaxed);
        let without = lock(&self.0.calls).values().filter(|call| call.at.is_none()).count();
        metrics::set("ferric_mirror_originals", stats.originals.load(Ordering::Relaxed) as f64);
        metrics::set("ferric_mirror_copies", stats.copies.load(Ordering::Relaxed) as f64);
        metrics::set("ferric_mirror_held", self.0.settled.held.load(Ordering::Relaxed) as f64);
        metrics::total("ferric_mirror_promoted_total", stats.promoted.load(Ordering::Relaxed));
        metrics::total("ferric_mirror_frames_again_total", stats.again.load(Ordering::Relaxed));
        metrics::total("ferric_mirror_frames_lost_total", stats.given_up.load(Ordering::Relaxed));
        metrics::total("ferric_mirror_dropped_total", self.0.settled.dropped.load(Ordering::Relaxed));
        metrics::total("ferric_mirror_released_total", self.0.settled.released.load(Ordering::Relaxed));
        if behind > 0 {
            let text = format!("{behind} mirrored calls: the second worker has not confirmed anything for 3 s");
            let advice = "look at the link between the workers and at the load of the second one";
            alarms.push(Alarm { name: "mirror-behind", text, advice });
        }
        if without > 0 {
            let text = format!("{without} calls should have a mirror and no other worker takes one");
            let advice = "start another worker, or raise max_calls: these calls have one recording only";
            alarms.push(Alarm { name: "mirror-missing", text, advice });
        }
    }
}

fn is_worker(member: &Member) -> bool {
    member.profile.roles.iter().any(|role| role == "capture")
}

/// The worker for the next mirror: one of another site first, each in its turn, none that drains or refused already.
fn choose(members: &[Member], own: &Site, tried: &[NodeId], turn: usize) -> Option<NodeId> {
    let fits = |member: &&Member| {
        is_worker(member) && member.is_up() && !member.profile.draining && !tried.contains(&member.node)
    };
    let (away, here): (Vec<&Member>, Vec<&Member>) = members.iter().filter(fits).partition(|one| one.site != *own);
    let best = if away.is_empty() { here } else { away };
    best.get(turn % best.len().max(1)).map(|member| member.node.clone())
}

fn asker(fabric: Option<Fabric>) -> Ask {
    Arc::new(move |node, file| {
        let fabric = fabric.clone();
        Box::pin(async move {
            let (Some(fabric), Ok(node), Ok(body)) = (fabric, NodeId::new(&node), serde_json::to_vec(&file)) else {
                return Word::Silent;
            };
            let answer = fabric.request(&node, Topic::Mirror.kind(ASK), body, ANSWER).await;
            answer.ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or(Word::Silent)
        })
    })
}
