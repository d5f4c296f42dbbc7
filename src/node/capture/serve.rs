//! The worker's end: what this node records for the SRS of others. It runs on a thread of its own, since an assignment makes
//! sockets and files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferric_cluster::{ClusterState, Kind};
use ferric_fabric::NodeId;
use ferric_srs::placement::{Holder, HolderConfig, HolderOutput, LoadReport, Owned, ToServer, ToWorker};
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId};
use ferric_worker::spool_gauge::SpoolGauge;
use ferric_worker::worker::Worker;
use tokio::sync::{mpsc, oneshot};

use super::local::Local;
use super::post::{Post, TO_SERVER};
use super::remote::News;
use super::report::Owners;
use crate::node::asks::Order;
use crate::node::cluster::{Cluster, Topic};

/// Inputs that wait; who has more waits with them.
const INPUTS: usize = 4_096;
/// The load is told this often, and sooner when it changed.
const REPORT: Duration = Duration::from_millis(500);
/// It is looked at this often.
const LOOK: Duration = Duration::from_millis(50);
/// A report in the shared state is good for this long.
const LIFE: Duration = Duration::from_secs(5);
/// A shard so late is too busy for another call, in microseconds: the measure of `pressure`.
const OVERLOADED_US: u64 = 400_000;

/// What a worker can take, read when it is asked for.
#[derive(Clone)]
pub(in crate::node) struct Load {
    pub(in crate::node) worker: Arc<Worker>,
    pub(in crate::node) gauge: Arc<SpoolGauge>,
    pub(in crate::node) standby: bool,
    pub(in crate::node) number: u64,
}

impl Load {
    /// The next report.
    pub(super) fn report(&mut self, seen: BTreeMap<String, u64>) -> LoadReport {
        self.number += 1;
        let stats = self.worker.stats();
        let lag = stats.shards.iter().map(|shard| shard.lag_us.load(Ordering::Relaxed)).min().unwrap_or(0);
        let pressure = u16::try_from((lag * 1_000 / OVERLOADED_US).min(1_000)).unwrap_or(1_000);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        LoadReport {
            number: self.number,
            calls: count(self.worker.call_count()),
            max_calls: count(self.worker.max_calls()),
            pressure,
            standby: self.standby,
            draining: self.worker.is_draining(),
            closed: !self.gauge.is_open() || stats.scribe.disk_refuses.load(Ordering::Relaxed),
            seen,
        }
    }
}

/// What the holder's thread is told.
#[derive(Debug)]
pub(in crate::node) enum Input {
    /// An SRS node can be reached.
    Up(NodeId),
    /// It cannot.
    Down(NodeId),
    /// It says something.
    Message(NodeId, Box<ToWorker>),
    /// The worker of this node says something.
    Capture(CaptureEvent),
    /// The API asks for the end of a call; `false`: it is none of those.
    Stop(RecordingId, oneshot::Sender<bool>),
    /// The SRS of this node takes over calls of a dead one.
    TakeOver(Vec<Owned>),
}

/// A way to the holder's thread; clones are the same.
#[derive(Clone)]
pub(in crate::node) struct Serve(mpsc::Sender<Input>);

/// The thread's end of it.
pub(in crate::node) struct Inputs(mpsc::Receiver<Input>);

impl Serve {
    pub(in crate::node) fn new() -> (Serve, Inputs) {
        let (sender, receiver) = mpsc::channel(INPUTS);
        (Serve(sender), Inputs(receiver))
    }

    async fn tell(&self, input: Input) {
        let _ = self.0.send(input).await;
    }

    /// Room for one input; `None`: the thread is gone.
    pub(super) async fn reserve(&self) -> Option<mpsc::OwnedPermit<Input>> {
        self.0.clone().reserve_owned().await.ok()
    }

    /// The worker of this node says something of a recording: of another node's, or of one of its own SRS.
    pub(in crate::node) async fn capture(&self, event: CaptureEvent) {
        self.tell(Input::Capture(event)).await;
    }

    /// Ends a call that is recorded here for another node.
    pub(super) async fn stop(&self, recording: RecordingId) -> bool {
        let (tell, told) = oneshot::channel();
        self.tell(Input::Stop(recording, tell)).await;
        told.await.unwrap_or(false)
    }

    /// From the signalling task, which does not wait: what is lost here is found by a search over the fabric's end of it.
    pub(super) fn take_over(&self, recordings: Vec<Owned>) {
        if self.0.try_send(Input::TakeOver(recordings)).is_err() {
            tracing::error!("recordings of this node could not be taken over");
        }
    }
}

/// The holder and what it works with.
pub(in crate::node) struct Server {
    pub(in crate::node) local: Arc<Local>,
    pub(in crate::node) load: Load,
    pub(in crate::node) orders: mpsc::UnboundedSender<Order>,
    pub(in crate::node) owners: Owners,
    pub(in crate::node) max_call: Duration,
}

struct State {
    server: Server,
    holder: Holder,
    post: Post,
    soft: ClusterState,
    node: String,
    servers: BTreeSet<NodeId>,
    told: Option<(Instant, LoadReport)>,
}

impl Server {
    /// Serves until the node ends.
    pub(in crate::node) async fn run(self, cluster: Cluster, mut inputs: Inputs) {
        let Some(fabric) = cluster.fabric().cloned() else { return };
        let mut state = State {
            holder: Holder::new(HolderConfig { max_call: self.max_call }),
            post: Post::new(fabric, Topic::Capture.kind(TO_SERVER)),
            soft: cluster.state().clone(),
            node: cluster.node().to_string(),
            servers: BTreeSet::new(),
            told: None,
            server: self,
        };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                input = inputs.0.recv() => match input {
                    Some(input) => state.take(input),
                    None => return,
                },
                _ = look.tick() => {}
            }
            state.turn();
        }
    }
}

impl State {
    fn take(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Up(node) => {
                self.holder.handle_up(node.as_str());
                self.servers.insert(node);
                // It has to know at once what can be taken here.
                self.told = None;
            }
            Input::Down(node) => {
                self.post.forget(&node);
                self.holder.handle_down(node.as_str());
                self.servers.remove(&node);
            }
            Input::Message(from, message) => {
                if let ToWorker::Own { recordings, all: false, .. } = &*message {
                    // Its ledger waits for them now, besides that of the node that had the calls before.
                    for owned in recordings {
                        self.server.owners.also(owned.recording.0, from.as_str());
                    }
                }
                self.holder.handle_message(now, from.as_str(), *message);
            }
            Input::Capture(event) => {
                if !self.holder.handle_capture(event.clone()) {
                    let _ = self.server.orders.send(Order::Capture(event));
                }
            }
            Input::Stop(recording, tell) => {
                let _ = tell.send(self.holder.stop(recording));
            }
            Input::TakeOver(recordings) => {
                let taken: Vec<(Owned, Vec<AssignedStream>)> = self.holder.take_over(&recordings);
                let have: Vec<Owned> = taken.into_iter().map(|(owned, _)| owned).collect();
                let is_missing = |owned: &Owned| !have.iter().any(|found| found.recording == owned.recording);
                let missing = recordings.into_iter().filter(is_missing).collect();
                let _ = self.server.orders.send(Order::Remote(News::FoundHere { have, missing }));
            }
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        if self.holder.poll_timeout().is_some_and(|due| due <= now) {
            self.holder.handle_timeout(now);
        }
        while let Some(output) = self.holder.poll_output() {
            match output {
                HolderOutput::Do(command) => self.perform(*command),
                HolderOutput::Promote { owner, recordings } => {
                    let (promoted, without) = self.server.local.promote(&recordings);
                    for (owned, file, streams) in promoted {
                        self.server.owners.begin(file, owned.recording.0, &owner);
                        self.holder.promoted(now, &owner, owned, file, streams);
                    }
                    self.holder.no_copy(&owner, without);
                }
                HolderOutput::Send { to, message } => self.send(now, &to, message),
            }
        }
        self.post.handle_timeout(now);
        self.report(now);
    }

    fn perform(&mut self, command: Command) {
        let part =
            if let Command::Assign { recording, part, .. } = &command { Some((*recording, part.file)) } else { None };
        // It is known whose it is before there is anything of it, so that also a node that dies now tells its end later.
        if let Some((recording, file)) = part
            && let Some(owner) = self.holder.owner(recording)
        {
            self.server.owners.begin(file, recording.0, owner);
        }
        let answer = self.server.local.perform(command);
        if let (Some((_, file)), Some(CaptureEvent::Refused { .. })) = (part, &answer) {
            self.server.owners.forget(file);
        }
        if let Some(event) = answer {
            self.holder.handle_capture(event);
        }
    }

    fn send(&mut self, now: Instant, to: &str, message: ToServer) {
        let Ok(node) = NodeId::new(to) else { return };
        let message = match message {
            ToServer::Event { event: event @ (CaptureEvent::Ready { .. } | CaptureEvent::Refused { .. }), .. } => {
                let load = Some(self.server.load.report(self.holder.seen().clone()));
                ToServer::Event { event, load }
            }
            other => other,
        };
        self.post.send(now, &node, &message);
    }

    /// Tells the load, if it is time or something changed that matters to who chooses.
    fn report(&mut self, now: Instant) {
        let load = self.server.load.report(BTreeMap::new());
        let is_due = self.told.as_ref().is_none_or(|(at, told)| {
            let moved = told.calls.abs_diff(load.calls) > (load.max_calls / 50).max(1);
            now.saturating_duration_since(*at) >= REPORT
                || moved
                || (told.draining, told.closed) != (load.draining, load.closed)
        });
        if !is_due {
            return;
        }
        self.told = Some((now, load.clone()));
        if let Ok(bytes) = serde_json::to_vec(&load)
            && let Err(error) = self.soft.put(Kind::Load, self.node.as_bytes(), &bytes, LIFE)
        {
            tracing::debug!(%error, "the load cannot be told to all");
        }
        let message = ToServer::Load { load: LoadReport { seen: self.holder.seen().clone(), ..load } };
        for node in self.servers.clone() {
            self.post.send(now, &node, &message);
        }
    }
}
