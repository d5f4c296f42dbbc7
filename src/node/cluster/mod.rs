//! The node among others: the fabric that carries bytes between them, and what all of them share.
//!
//! ```text
//!                     Cluster
//!   topic(Topic) <---- fabric (a thread of its own, so that heartbeats never wait for calls)
//!   follow()     <---- members: who comes and goes --told to--> state (load of the dead is hidden)
//!   state()      ----> ferric-cluster: soft state, documents, leases, events (NATS, or embedded)
//! ```
//!
//! Without `[cluster]` there is no fabric and no thread: the state is embedded, nobody ever comes, and everything else
//! works on the same calls.
//!
//! # Start and stop
//!
//! [`Cluster::start`] listens and dials, and messages wait in their queues. The parts of the node take their topics
//! ([`Cluster::topic`]) and follow the members; then [`Cluster::open`] begins to tell who is there. So nobody misses the
//! first `Up`. A topic that no part took is closed: requests to it end unanswered at once, messages are counted.
//! [`Cluster::close`] says goodbye, so nobody suspects a node that was stopped; it comes after the last message that
//! others wait for and before the process ends.

mod admin;
mod alarms;
mod carrier;
#[allow(dead_code)]
mod exclusive;
mod incarnation;
mod members;
pub(super) mod mirror;
mod outward;
mod pairs;
#[cfg(test)]
pub(super) mod tests;
mod topic;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ferric_cluster::{Carrier, ClusterConfig, ClusterState, Connection, NatsConfig, SoftConfig};
use ferric_fabric::membership::hello::MAX_SERVED;
use ferric_fabric::{Datagram, Fabric, FabricConfig, FabricEvent, Inbound, Incarnation, Limits, Member, NodeId, Site};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use super::thread::OwnThread;
use crate::config::{self, Config};
use crate::console::{Alarm, Event};
use crate::metrics;
use alarms::Heard;
use carrier::Beside;

pub(super) use admin::Admin;
#[allow(unused_imports)]
pub(super) use members::{MemberEvent, Members, Seen};
#[allow(unused_imports)]
pub(super) use pairs::{LastLife, PairNews, Pairs, Wanted, read as read_pairs, settle as settle_pairs};
pub(super) use topic::{MIRRORED_RTP, Topic};

/// A message between nodes, in bytes: all that is known of a call, with up to 1 MiB of documents as base64, and more to come.
const MOST_BODY: usize = 4 << 20;
/// How long a stopping node waits until what it wrote of soft state is kept.
const KEEP_WITHIN: Duration = Duration::from_secs(2);

/// This node's part of the cluster; clones are the same part.
#[derive(Clone)]
pub(super) struct Cluster(Arc<Inner>);

struct Inner {
    node: NodeId,
    site: Site,
    incarnation: u64,
    settings: Option<config::Cluster>,
    fabric: Option<Fabric>,
    state: ClusterState,
    members: broadcast::Sender<MemberEvent>,
    heard: Arc<Heard>,
    queues: Mutex<Queues>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Dropped last: the fabric runs on it.
    thread: Mutex<Option<OwnThread>>,
}

/// What comes from others and was not taken by its reader yet.
#[derive(Default)]
struct Queues {
    topics: BTreeMap<u8, mpsc::Receiver<Inbound>>,
    datagrams: Option<mpsc::Receiver<Datagram>>,
    events: Option<mpsc::Receiver<FabricEvent>>,
}

#[allow(dead_code)]
impl Cluster {
    /// Listens for others and dials them, if the configuration names a cluster. Within a tokio runtime.
    ///
    /// # Errors
    /// A certificate, the UDP port, or a file in the data folder cannot be used.
    pub(super) fn start(config: &Config) -> anyhow::Result<Cluster> {
        let incarnation = match config.cluster {
            Some(_) => incarnation::next(&config.node.data_dir),
            None => 1,
        };
        let (mut fabric, mut queues, mut thread) = (None, Queues::default(), None);
        if let Some(settings) = &config.cluster {
            let wanted = fabric_config(config, settings, incarnation)?;
            let own = OwnThread::start("fabric")?;
            let started = {
                let _within = own.handle.enter();
                Fabric::start(wanted)
            };
            let (started, inbox) = started.context("[cluster]")?;
            tracing::info!(address = %started.local_address(), node = config.node.id, site = config.node.site, "the fabric listens");
            // What comes for a topic that nobody knows yet has no reader: it is counted.
            queues = Queues { topics: inbox.topics, datagrams: Some(inbox.datagrams), events: Some(inbox.events) };
            (fabric, thread) = (Some(started), Some(own));
        }
        let beside = fabric.clone().map(|fabric| Arc::new(Beside(fabric)) as Arc<dyn Carrier>);
        let state = ClusterState::start(state_config(config, incarnation, beside)?);
        let state = state.context("the shared state cannot start")?;
        let inner = Inner {
            node: NodeId::new(&config.node.id).or_else(|_| NodeId::new(&token(&config.node.id)))?,
            site: Site::new(&config.node.site)?,
            incarnation,
            settings: config.cluster.clone(),
            fabric,
            state,
            members: broadcast::channel(members::BACKLOG).0,
            heard: Arc::default(),
            queues: Mutex::new(queues),
            tasks: Mutex::default(),
            thread: Mutex::new(thread),
        };
        Ok(Cluster(Arc::new(inner)))
    }

    /// What comes for a topic. Each has one reader, which takes it before [`Cluster::open`]; `None`: it is taken, or there
    /// are no others.
    pub(super) fn topic(&self, topic: Topic) -> Option<mpsc::Receiver<Inbound>> {
        self.queues().topics.remove(&topic.number())
    }

    /// Datagrams of all channels; one reader, as for a topic.
    pub(super) fn datagrams(&self) -> Option<mpsc::Receiver<Datagram>> {
        self.queues().datagrams.take()
    }

    /// Hears who comes and goes from now on; before [`Cluster::open`] that is everything.
    pub(super) fn follow(&self) -> Members {
        Members::new(self.0.members.subscribe())
    }

    /// Everybody has taken what is theirs: what comes is told now, also to those who read the events of the API, and what
    /// nobody took is closed.
    pub(super) fn open(&self, outside: broadcast::Sender<Event>) {
        let Queues { events, mut topics, .. } = std::mem::take(&mut *self.queues());
        if let (Some(events), Some(fabric)) = (events, self.0.fabric.clone()) {
            let teller = members::Teller {
                fabric,
                state: self.0.state.clone(),
                heard: Arc::clone(&self.0.heard),
                told: self.0.members.clone(),
                outside,
            };
            let heard = teller.outside.subscribe();
            let mut tasks = lock(&self.0.tasks);
            tasks.push(tokio::spawn(outward::run(heard, self.0.state.clone(), self.0.node.to_string())));
            if let Some(messages) = topics.remove(&Topic::State.number()) {
                tasks.push(tokio::spawn(carrier::receive(messages, self.0.state.clone())));
            }
            tasks.push(tokio::spawn(teller.run(events)));
        }
    }

    /// What a person should know.
    pub(super) fn find_alarms(&self, alarms: &mut Vec<Alarm>) {
        if let Some(fabric) = &self.0.fabric {
            let (members, health) = (fabric.members(), self.0.state.health());
            self.0.heard.find(Instant::now(), &self.0.site, &members, &health, fabric.unread(), alarms);
        }
    }

    /// Once a second: numbers of nodes and links into the metrics.
    pub(super) fn export(&self) {
        let Some(fabric) = &self.0.fabric else { return };
        metrics::node_up(self.0.node.as_str(), true);
        for member in fabric.members() {
            let node = member.node.as_str();
            metrics::node_up(node, member.is_up());
            if let Some(quality) = member.quality {
                metrics::link(node, quality.rtt, quality.jitter, quality.loss, member.clock_ahead_ms);
            }
        }
        let health = self.0.state.health();
        let is_up = f64::from(u8::from(health.connection == Connection::Up));
        metrics::set("ferric_cluster_nats_up", is_up);
        metrics::total("ferric_cluster_fabric_unread_total", fabric.unread());
        metrics::total("ferric_cluster_fabric_datagrams_lost_total", fabric.datagrams_dropped());
        metrics::total("ferric_cluster_state_dropped_total", health.sends_dropped + health.keep_dropped);
    }

    /// This node.
    pub(super) fn node(&self) -> &NodeId {
        &self.0.node
    }

    /// The number of this run of it.
    pub(super) fn incarnation(&self) -> u64 {
        self.0.incarnation
    }

    /// Where it stands.
    pub(super) fn site(&self) -> &Site {
        &self.0.site
    }

    /// What `[cluster]` says; `None`: a single node.
    pub(super) fn settings(&self) -> Option<&config::Cluster> {
        self.0.settings.as_ref()
    }

    /// The way to other nodes; `None`: there are none.
    pub(super) fn fabric(&self) -> Option<&Fabric> {
        self.0.fabric.as_ref()
    }

    /// What all nodes share.
    pub(super) fn state(&self) -> &ClusterState {
        &self.0.state
    }

    /// All other nodes that are known, by id.
    pub(super) fn members(&self) -> Vec<Member> {
        self.0.fabric.as_ref().map(Fabric::members).unwrap_or_default()
    }

    /// All other nodes that are up.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.members().iter().filter(|member| member.is_up()).map(|member| Seen::new(member, false)).collect()
    }

    /// Tells the others that this node takes nothing new, or does so again.
    pub(super) async fn set_draining(&self, draining: bool) {
        if let Some(fabric) = &self.0.fabric {
            fabric.set_draining(draining).await;
        }
    }

    /// Says goodbye to the others and ends.
    pub(super) async fn close(&self) {
        if let Some(fabric) = &self.0.fabric {
            fabric.shutdown().await;
        }
        let tasks = std::mem::take(&mut *lock(&self.0.tasks));
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        self.0.state.shutdown(KEEP_WITHIN).await;
        let thread = lock(&self.0.thread).take();
        // Its end is waited for, which is not for a thread that others share.
        let _ = tokio::task::spawn_blocking(move || drop(thread)).await;
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        lock(&self.0.queues)
    }
}

/// Where this node takes SIP, so that others know whom they send to: its listeners, as far as they have addresses.
fn serves(config: &Config) -> Vec<SocketAddr> {
    let media = config.capture.advertise.unwrap_or(config.capture.rtp_address);
    let listeners = config.sip.listeners.iter().flat_map(|listener| {
        let own = match listener.address {
            wildcard if wildcard.ip().is_unspecified() => SocketAddr::new(media, wildcard.port()),
            address => address,
        };
        let advertised = listener.advertise.as_deref().and_then(|name| name.parse().ok());
        [Some(own), advertised]
    });
    let known: BTreeSet<SocketAddr> = listeners.flatten().filter(|address| address.port() != 0).collect();
    known.into_iter().take(MAX_SERVED).collect()
}

/// The name under which the shared state knows a node; `None`: none of its members.
pub(super) fn state_id(node: &NodeId) -> Option<ferric_cluster::NodeId> {
    ferric_cluster::NodeId::new(node.as_str())
}

fn fabric_config(config: &Config, settings: &config::Cluster, incarnation: u64) -> anyhow::Result<FabricConfig> {
    Ok(FabricConfig {
        incarnation: Some(Incarnation(incarnation)),
        roles: config.node.roles.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        serves: serves(config),
        topics: Topic::ALL.map(Topic::number).to_vec(),
        limits: Limits { max_body: MOST_BODY, queue_bytes: 16 * MOST_BODY, ..Limits::default() },
        ..settings.fabric(&config.node.id, &config.node.site).context("[cluster]")?
    })
}

fn state_config(config: &Config, incarnation: u64, beside: Option<Arc<dyn Carrier>>) -> anyhow::Result<ClusterConfig> {
    let id = token(&config.node.id);
    let node = ferric_cluster::NodeId::new(&id).context("node.id cannot be used")?;
    let settings = config.cluster.as_ref();
    let nats = match settings.filter(|settings| !settings.nats.is_empty()) {
        None => None,
        Some(settings) => {
            let ca = settings.nats_ca.as_ref().unwrap_or(&settings.ca);
            let identity = Some((settings.certificate.as_path(), settings.private_key.as_path()));
            let tls = ferric_sip_io::client_config(ca, identity).context("[cluster] nats_ca")?;
            Some(NatsConfig { servers: settings.nats.clone(), tls: Some(tls), replicas: settings.replicas })
        }
    };
    Ok(ClusterConfig {
        cluster: settings.map_or_else(|| "ferric".to_owned(), |settings| settings.name.clone()),
        identity: ferric_cluster::Identity { node, incarnation },
        data_dir: config.node.data_dir.clone(),
        soft: soft_config(config),
        nats,
        beside,
    })
}

fn soft_config(config: &Config) -> SoftConfig {
    let mut soft = SoftConfig::default();
    if let (Some(proxy), [registrations, ..]) = (&config.proxy, &mut soft.most) {
        *registrations = (*registrations).max(proxy.registrar.max_bindings);
    }
    soft
}

/// The id of a single node may be any host name; the names of the shared state are narrower.
fn token(id: &str) -> String {
    let narrow = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = id.chars().take(64).map(narrow).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
