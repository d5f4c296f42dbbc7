//! Capture as the SRS of a node sees it, wherever it is done.
//!
//! ```text
//! one node:    Srs --Command--> Local (a function call) --> Worker
//!
//! a cluster:   Srs --Command--> Remote (Switchboard) --Local--> Worker of this node
//!                                   |   ^
//!                        ToWorker   v   |  ToServer            (fabric, topic Capture)
//!                               Post   router <-------------------- other nodes
//!                                       |
//!                                       v
//!              Worker of this node <-- Serve (Holder): what this node records for others
//! ```
//!
//! - [`local`]: commands done by the worker of this node.
//! - [`remote`]: the SRS's end, in the signalling task: where each recording is.
//! - [`serve`]: the worker's end, on a thread of its own, since files and sockets are made there.
//! - [`router`]: the one reader of the topic: what is for which end, and who comes and goes.
//! - [`post`]: sends, and keeps what found no room.
//! - [`live`]: the API's questions about calls, at whichever worker they are.
//! - [`report`]: what became of recordings, told to the ledgers of the nodes whose calls they were.

pub(super) mod live;
pub(super) mod local;
pub(super) mod post;
pub(super) mod remote;
pub(super) mod report;
pub(super) mod router;
pub(super) mod serve;

use std::sync::Arc;
use std::time::Instant;

use ferric_assurance::Ledger;
use ferric_srs::port::{CaptureEvent, Command, RecordingId};
use ferric_worker::spool_gauge::SpoolGauge;
use ferric_worker::worker::Worker;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::asks::{Asks, Order};
use super::catalogue::Bookkeeper;
use super::cluster::mirror::Mirrors;
use super::cluster::{Cluster, Topic};
use super::thread::OwnThread;
use crate::config::Config;
use crate::metrics;
use live::{Here, Live};
use local::Local;
use remote::{News, Remote};
use report::Owners;
use router::Router;
use serve::{Load, Serve, Server};

/// Who does what the SRS wants.
pub(super) enum Capture {
    /// The worker of this node, and there are no others.
    Here(Arc<Local>),
    /// One of the cluster.
    Anywhere(Box<Remote>),
}

/// What the SRS hears.
pub(super) enum Heard {
    /// Of a recording.
    Event(CaptureEvent),
    /// Somebody asked elsewhere that a call be ended.
    Stop(RecordingId),
}

impl Capture {
    /// Does what the SRS wants; what comes of it at once.
    pub(super) fn command(&mut self, now: Instant, command: Command) -> Vec<Heard> {
        if let Command::Release { cause, .. } = &command
            && !cause.is_of_part()
        {
            metrics::call(if cause.as_str() == "cancelled" { "cancelled" } else { "recorded" });
        }
        match self {
            Capture::Here(local) => {
                let is_new = matches!(command, Command::Assign { .. });
                let event = local.perform(command);
                if is_new && matches!(event, Some(CaptureEvent::Refused { .. })) {
                    metrics::call("refused");
                }
                event.into_iter().map(Heard::Event).collect()
            }
            Capture::Anywhere(remote) => remote.command(now, command),
        }
    }

    /// Takes what other nodes say.
    pub(super) fn news(&mut self, now: Instant, news: News) -> Vec<Heard> {
        match self {
            Capture::Here(_) => Vec::new(),
            Capture::Anywhere(remote) => remote.news(now, news),
        }
    }

    /// When [`Capture::handle_timeout`] is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Capture::Here(_) => None,
            Capture::Anywhere(remote) => remote.poll_timeout(),
        }
    }

    /// Runs what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Heard> {
        match self {
            Capture::Here(_) => Vec::new(),
            Capture::Anywhere(remote) => remote.handle_timeout(now),
        }
    }
}

/// What it is made of.
pub(super) struct Parts {
    pub(super) cluster: Cluster,
    pub(super) worker: Arc<Worker>,
    pub(super) gauge: Arc<SpoolGauge>,
    pub(super) books: Bookkeeper,
    pub(super) ledger: Ledger,
    pub(super) owners: Owners,
    pub(super) mirrors: Option<Mirrors>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) asks: Asks,
}

/// What runs, for the parts of the node.
pub(super) struct Started {
    /// For signalling.
    pub(super) commands: Capture,
    /// For what the worker says.
    pub(super) told: Told,
    /// For the API.
    pub(super) live: Live,
    /// Where it is served to others.
    pub(super) thread: Option<OwnThread>,
}

/// Takes what the worker of this node says of recordings to whose they are.
#[derive(Clone)]
pub(super) enum Told {
    /// To the SRS of this node.
    Here(mpsc::UnboundedSender<Order>),
    /// To whoever has the call.
    Anywhere(Serve),
}

impl Told {
    /// Tells it.
    pub(super) async fn tell(&self, event: CaptureEvent) {
        match self {
            Told::Here(orders) => drop(orders.send(Order::Capture(event))),
            Told::Anywhere(serve) => serve.capture(event).await,
        }
    }
}

impl Parts {
    /// Starts what the roles of the node ask for.
    pub(super) fn start(self, config: &Config, tasks: &mut Vec<JoinHandle<()>>) -> anyhow::Result<Started> {
        let Parts { cluster, worker, gauge, books, ledger, owners, mirrors, orders, asks } = self;
        let node = cluster.node().to_string();
        let local = Arc::new(Local::new(Arc::clone(&worker), books.clone(), mirrors));
        let mut here = Here { node, worker: Arc::clone(&worker), books, asks, serve: None };
        let (Some(fabric), Some(topic), Some(reports)) =
            (cluster.fabric().cloned(), cluster.topic(Topic::Capture), cluster.topic(Topic::Ledger))
        else {
            return Ok(Started {
                commands: Capture::Here(local),
                told: Told::Here(orders),
                live: Live { here, cluster },
                thread: None,
            });
        };
        let standby = config.cluster.as_ref().is_some_and(|cluster| cluster.standby);
        let load = Load { worker, gauge, standby, number: 0 };
        let (mut told, mut thread) = (Told::Here(orders.clone()), None);
        if config.is_worker() {
            let (serve, inputs) = Serve::new();
            let server = Server {
                local: Arc::clone(&local),
                load: load.clone(),
                orders: orders.clone(),
                owners: owners.clone(),
                max_call: config.recording.max_call,
            };
            let own = OwnThread::start("serve")?;
            own.handle.spawn(server.run(cluster.clone(), inputs));
            tasks.push(tokio::spawn(owners.run(fabric, cluster.clone())));
            told = Told::Anywhere(serve.clone());
            (here.serve, thread) = (Some(serve), Some(own));
        }
        let of_own = config.is_worker().then(|| (Arc::clone(&local), load));
        let remote = Remote::new(config, &cluster, of_own, here.serve.clone(), ledger.clone());
        let commands = remote.map_or(Capture::Here(local), |remote| Capture::Anywhere(Box::new(remote)));
        tasks.push(tokio::spawn(report::take(reports, ledger)));
        let router = Router {
            orders: config.is_srs().then(|| orders.clone()),
            serve: here.serve.clone(),
            here: here.clone(),
            cluster: cluster.clone(),
            up: Default::default(),
            waiting: Default::default(),
        };
        tasks.push(tokio::spawn(router.run(topic, cluster.follow())));
        Ok(Started { commands, told, live: Live { here, cluster }, thread })
    }
}
