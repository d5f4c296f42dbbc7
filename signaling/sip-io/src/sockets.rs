//! All listeners and connections of a node.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::{Message, ParseError};
use ferric_sip::method::Method;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

use crate::rate::RateLimit;
use crate::{connection, udp};

/// Messages that may wait for the driver.
const INBOUND_QUEUE: usize = 8_192;

/// One listener.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// udp, tcp or tls.
    pub transport: Transport,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Needed for TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// Bounds on what peers can do.
#[derive(Debug, Clone, Copy)]
pub struct IoLimits {
    /// Largest message in bytes.
    pub max_message: usize,
    /// Messages a second from one address.
    pub messages_per_second: u32,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one address at once.
    pub max_connections_per_source: usize,
    /// A TLS handshake, or the rest of a message that has begun, must come within this.
    pub patience: Duration,
    /// A connection without a byte for this long is closed.
    pub idle: Duration,
    /// Messages that may wait on one connection.
    pub send_queue: usize,
}

impl Default for IoLimits {
    fn default() -> IoLimits {
        IoLimits {
            max_message: 65_535,
            messages_per_second: 200,
            max_connections: 8_192,
            max_connections_per_source: 1_024,
            patience: Duration::from_secs(10),
            idle: Duration::from_secs(3_600),
            send_queue: 1_024,
        }
    }
}

/// What the driver hears.
#[derive(Debug)]
pub struct Inbound {
    /// Between whom.
    pub flow: Flow,
    /// When it came.
    pub at: Instant,
    /// What came.
    pub kind: InboundKind,
}

/// What came.
#[derive(Debug)]
pub enum InboundKind {
    /// A message.
    Message(Message),
    /// Bytes that are none; the answer, if one is due, is sent already.
    Malformed {
        /// What is wrong.
        error: String,
        /// Status of the answer sent.
        answered: Option<u16>,
        /// Call-ID, where it was an INVITE that would have begun a dialog.
        invite: Option<String>,
    },
    /// What was sent on this flow did not arrive.
    TransportError,
}

/// The Call-ID of the INVITE that an answer is for, if it would have begun a dialog.
pub(crate) fn invite_of(answer: &Message) -> Option<String> {
    let begins = answer.method() == Method::Invite && answer.to().is_ok_and(|to| to.tag().is_none());
    answer.call_id().filter(|_| begins).map(std::borrow::Cow::into_owned)
}

/// Counts of what was dropped here.
#[derive(Debug, Default)]
pub struct IoStats {
    /// Messages over the rate of their source.
    pub rate_limited: AtomicU64,
    /// Messages that found the driver's queue full (UDP).
    pub inbound_full: AtomicU64,
    /// Messages that found a connection's queue full.
    pub send_full: AtomicU64,
    /// Connections refused at the limit.
    pub connections_refused: AtomicU64,
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
}

/// A listener that cannot be had.
#[derive(Debug, Error)]
#[error("cannot listen on {transport} {address}: {problem}")]
pub struct BindError {
    transport: Transport,
    address: SocketAddr,
    problem: String,
}

pub(crate) struct Connection {
    pub(crate) flow: Flow,
    pub(crate) queue: mpsc::Sender<Bytes>,
}

pub(crate) struct Shared {
    pub(crate) limits: IoLimits,
    pub(crate) rate: RateLimit,
    pub(crate) stats: IoStats,
    pub(crate) inbound: mpsc::Sender<Inbound>,
    pub(crate) client_tls: Option<Arc<ClientConfig>>,
    connections: Mutex<HashMap<u64, Connection>>,
    next_connection: AtomicU64,
    udp: Vec<(SocketAddr, Arc<UdpSocket>)>,
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection; `None` at a limit.
    pub(crate) fn admit(&self, transport: Transport, local: SocketAddr, remote: SocketAddr) -> Option<(Flow, mpsc::Receiver<Bytes>)> {
        let mut connections = self.connections();
        let from_there = connections.values().filter(|have| have.flow.remote.ip() == remote.ip()).count();
        if connections.len() >= self.limits.max_connections || from_there >= self.limits.max_connections_per_source {
            self.stats.connections_refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let flow = Flow { transport, local, remote, connection };
        let (queue, receiver) = mpsc::channel(self.limits.send_queue);
        connections.insert(connection, Connection { flow, queue });
        Some((flow, receiver))
    }

    pub(crate) fn dismiss(&self, flow: &Flow) {
        self.connections().remove(&flow.connection);
    }

    /// The queue of the flow's connection, or of another one to the same peer.
    fn queue_of(&self, flow: &Flow) -> Option<mpsc::Sender<Bytes>> {
        let connections = self.connections();
        let same = || {
            connections.values().find(|have| have.flow.transport == flow.transport && have.flow.remote == flow.remote)
        };
        connections.get(&flow.connection).or_else(same).map(|have| have.queue.clone())
    }

    /// Parses, answers what is malformed, and hands the rest to the driver.
    /// False when the connection should be closed.
    pub(crate) async fn take(self: &Arc<Shared>, flow: Flow, at: Instant, bytes: Bytes) -> bool {
        if !self.rate.allows(flow.remote.ip(), at) {
            self.stats.rate_limited.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let kind = match Message::parse(bytes) {
            Ok(message) => InboundKind::Message(message),
            Err(error) => self.malformed(&flow, &error),
        };
        let inbound = Inbound { flow, at, kind };
        if flow.transport == Transport::Udp {
            if self.inbound.try_send(inbound).is_err() {
                self.stats.inbound_full.fetch_add(1, Ordering::Relaxed);
            }
            return true;
        }
        self.inbound.send(inbound).await.is_ok()
    }

    /// Answers a request that cannot be parsed.
    pub(crate) fn malformed(self: &Arc<Shared>, flow: &Flow, error: &ParseError) -> InboundKind {
        let (mut answered, mut invite) = (None, None);
        if let Some(mut answer) = error.answer() {
            invite = invite_of(&answer);
            answer.set_to_tag("malformed");
            answered = answer.status();
            self.send(flow, answer.to_bytes());
        }
        InboundKind::Malformed { error: error.to_string(), answered, invite }
    }

    pub(crate) fn send(self: &Arc<Shared>, flow: &Flow, bytes: Bytes) {
        if flow.transport == Transport::Udp {
            let sent = self.udp_socket(flow).is_some_and(|socket| socket.try_send_to(&bytes, flow.remote).is_ok());
            if !sent {
                self.report(flow);
            }
            return;
        }
        match self.queue_of(flow) {
            Some(queue) => {
                if queue.try_send(bytes).is_err() {
                    self.stats.send_full.fetch_add(1, Ordering::Relaxed);
                    self.report(flow);
                }
            }
            None => connection::open(Arc::clone(self), *flow, bytes),
        }
    }

    fn udp_socket(&self, flow: &Flow) -> Option<&Arc<UdpSocket>> {
        let exact = self.udp.iter().find(|(local, _)| *local == flow.local);
        let similar = || self.udp.iter().find(|(local, _)| local.is_ipv4() == flow.remote.is_ipv4());
        exact.or_else(similar).map(|(_, socket)| socket)
    }

    pub(crate) fn report(&self, flow: &Flow) {
        let _ = self.inbound.try_send(Inbound { flow: *flow, at: Instant::now(), kind: InboundKind::TransportError });
    }
}

/// A handle to all sockets; clones are cheap.
#[derive(Clone)]
pub struct SipSockets {
    shared: Arc<Shared>,
    listeners: Vec<(Transport, SocketAddr)>,
}

impl SipSockets {
    /// Binds every listener and starts receiving.
    ///
    /// # Errors
    /// [`BindError`] names the listener.
    pub async fn bind(
        listeners: Vec<ListenerConfig>,
        limits: IoLimits,
        client_tls: Option<Arc<ClientConfig>>,
    ) -> Result<(SipSockets, mpsc::Receiver<Inbound>), BindError> {
        let (inbound, receiver) = mpsc::channel(INBOUND_QUEUE);
        let (mut udp_sockets, mut streams, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for listener in listeners {
            let failed = |problem: String| BindError { transport: listener.transport, address: listener.address, problem };
            let io_failed = |error: io::Error| failed(error.to_string());
            if listener.transport == Transport::Udp {
                let socket = udp::bind(listener.address).map_err(io_failed)?;
                let local = socket.local_addr().map_err(io_failed)?;
                udp_sockets.push((local, Arc::new(socket)));
                bound.push((Transport::Udp, local));
            } else {
                if listener.transport == Transport::Tls && listener.tls.is_none() {
                    return Err(failed("a TLS listener needs [sip.tls] certificate and private_key".into()));
                }
                let socket = TcpListener::bind(listener.address).await.map_err(io_failed)?;
                let local = socket.local_addr().map_err(io_failed)?;
                bound.push((listener.transport, local));
                streams.push((socket, listener.tls.filter(|_| listener.transport == Transport::Tls)));
            }
        }
        let shared = Arc::new(Shared {
            limits,
            rate: RateLimit::new(limits.messages_per_second),
            stats: IoStats::default(),
            inbound,
            client_tls,
            connections: Mutex::new(HashMap::new()),
            next_connection: AtomicU64::new(1),
            udp: udp_sockets,
        });
        for (local, socket) in shared.udp.clone() {
            tokio::spawn(udp::receive(Arc::clone(&shared), local, socket));
        }
        for (socket, tls) in streams {
            tokio::spawn(connection::accept(Arc::clone(&shared), socket, tls));
        }
        Ok((SipSockets { shared, listeners: bound }, receiver))
    }

    /// The listeners with their true ports.
    pub fn listeners(&self) -> &[(Transport, SocketAddr)] {
        &self.listeners
    }

    /// Sends without waiting. What cannot be sent comes back as
    /// [`InboundKind::TransportError`] of the flow.
    pub fn send(&self, flow: &Flow, bytes: Bytes) {
        self.shared.send(flow, bytes);
    }

    /// Connections at the moment.
    pub fn connections(&self) -> usize {
        self.shared.connections().len()
    }

    /// What was dropped.
    pub fn stats(&self) -> &IoStats {
        &self.shared.stats
    }
}
