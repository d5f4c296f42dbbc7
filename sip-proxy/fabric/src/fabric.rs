//! The handle to the fabric.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_membership::admission::Own;
use ferric_membership::redial::BackOff;
use ferric_membership::{Identity, Incarnation, Member, Membership, NodeId, Profile, Settings};
use quinn::Endpoint;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::config::{FabricConfig, StartError};
use crate::driver::{Command, Driver, Shared};
use crate::frame::Kind;
use crate::inbound::{Inbox, Sinks};
use crate::link::{Link, RequestError, SendError};
use crate::tls;

/// Inputs that wait for the driver; their tasks wait then.
const INPUTS: usize = 4096;
const COMMANDS: usize = 16;

/// A node's part of the fabric; clones are the same part. When the last one is dropped without
/// [`Fabric::shutdown`], the node has died for its peers, at once.
#[derive(Debug, Clone)]
pub struct Fabric(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    address: SocketAddr,
    datagrams_dropped: Arc<AtomicU64>,
    unread: Arc<AtomicU64>,
}

impl Fabric {
    /// Listens, dials its seeds, and goes on by itself in tasks of the current tokio runtime, whose threads must not be
    /// blocked: heartbeats are sent from them.
    pub fn start(config: FabricConfig) -> Result<(Self, Inbox), StartError> {
        let (client, server) = tls::configs(&config)?;
        let listen = |problem| StartError::Listen { address: config.listen, problem };
        let mut endpoint = Endpoint::server(server, config.listen).map_err(listen)?;
        endpoint.set_default_client_config(client);
        let address = endpoint.local_addr().map_err(listen)?;

        let limits = config.limits;
        let (inputs, from_tasks) = mpsc::channel(INPUTS);
        let (commands, from_handle) = mpsc::channel(COMMANDS);
        let (to_events, events) = mpsc::channel(limits.events.max(1));
        let (to_messages, messages) = mpsc::channel(limits.messages.max(1));
        let (mut to_topics, mut topics) = (BTreeMap::new(), BTreeMap::new());
        for topic in &config.topics {
            let (to_topic, waiting) = mpsc::channel(limits.messages.max(1));
            to_topics.insert(*topic, to_topic);
            topics.insert(*topic, waiting);
        }
        let (to_datagrams, datagrams) = mpsc::channel(limits.datagrams.max(1));
        let (datagrams_dropped, unread) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let runtime = Handle::current();
        let sinks = Sinks {
            messages: to_messages,
            topics: Arc::new(to_topics),
            datagrams: to_datagrams,
            inputs,
            datagrams_dropped: datagrams_dropped.clone(),
            unread: unread.clone(),
            limits,
            runtime: runtime.clone(),
        };
        let shared = Arc::new(Shared {
            wall_clock: config.wall_clock.clone(),
            membership: Mutex::new(Membership::new(Instant::now(), settings(config, address))),
            links: RwLock::default(),
        });
        runtime.spawn(Driver::new(shared.clone(), endpoint, sinks, from_tasks, from_handle, to_events).run());
        let inner = Inner { shared, commands, address, datagrams_dropped, unread };
        Ok((Self(Arc::new(inner)), Inbox { events, messages, topics, datagrams }))
    }

    /// The address on which it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.0.address
    }

    /// All other nodes that are known, by id.
    pub fn members(&self) -> Vec<Member> {
        self.0.shared.membership().members()
    }

    /// Sends a message. Those of one topic arrive in order; each arrives once, or the link goes down.
    pub fn send(&self, node: &NodeId, kind: Kind, body: impl Into<Bytes>) -> Result<(), SendError> {
        self.link(node)?.send(kind, body.into())
    }

    /// Sends a request and waits for its answer. Requests keep no order among each other.
    pub async fn request(
        &self,
        node: &NodeId,
        kind: Kind,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        self.link(node)?.request(kind, body.into(), timeout).await
    }

    /// Sends a payload that may be lost, in one datagram.
    pub fn datagram(&self, node: &NodeId, channel: u32, payload: &[u8]) -> Result<(), SendError> {
        self.link(node)?.datagram(channel, payload)
    }

    /// The longest payload of a datagram to this node, in bytes; 1,100 at least, more once the path is known.
    pub fn max_datagram(&self, node: &NodeId) -> Result<usize, SendError> {
        Ok(self.link(node)?.max_datagram())
    }

    /// Datagrams that came and were dropped because nobody read them.
    pub fn datagrams_dropped(&self) -> u64 {
        self.0.datagrams_dropped.load(Ordering::Relaxed)
    }

    /// Messages and requests that came for a queue whose reader is gone; who asked was told so.
    pub fn unread(&self) -> u64 {
        self.0.unread.load(Ordering::Relaxed)
    }

    /// Tells all others that this node takes nothing new, or does so again.
    pub async fn set_draining(&self, draining: bool) {
        let _ = self.0.commands.send(Command::SetDraining(draining)).await;
    }

    /// Tells all others that this node goes, and ends; nobody suspects it. Waits for them for a second at most.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.0.commands.send(Command::Leave(done)).await.is_ok() {
            let _ = ended.await;
        }
    }

    fn link(&self, node: &NodeId) -> Result<Arc<Link>, SendError> {
        let links = self.0.shared.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(node).cloned().ok_or_else(|| SendError::NoLink(node.clone()))
    }
}

fn settings(config: FabricConfig, address: SocketAddr) -> Settings {
    let started = || Incarnation(u64::try_from(config.wall_clock.since_1970().as_micros()).unwrap_or(u64::MAX));
    let incarnation = config.incarnation.unwrap_or_else(started);
    let mut addresses = config.advertise;
    if addresses.is_empty() && !address.ip().is_unspecified() {
        addresses.push(address);
    }
    Settings {
        own: Own {
            cluster: config.cluster,
            identity: Identity { node: config.node, site: config.site },
            incarnation,
            protocol: config.protocol,
        },
        profile: Profile {
            roles: config.roles,
            version: config.version,
            addresses,
            draining: false,
            serves: config.serves,
        },
        inside: config.inside,
        between: config.between,
        seeds: config.seeds,
        max_members: config.limits.max_members,
        forget_after: config.limits.forget_after,
        back_off: BackOff::default(),
        seed: rand::random(),
    }
}
