//! All listeners and connections of a node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::transaction::way_back;
use ferric_sip::trust::TrustTable;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::inbound::{Inbound, InboundKind, invite_of};
use crate::limits::{IoLimits, IoStats, count};
use crate::rate::RateLimit;
use crate::stream::Left;
use crate::table::{ConnectionTable, Origin, Outgoing, Queue};
use crate::tls::ClientTls;
use crate::udp::{Sent, UdpPort};
use crate::{connection, udp};

/// Messages that may wait for the driver.
const INBOUND_QUEUE: usize = 8_192;
/// Transport errors that may wait beside a full queue.
const REPORTS: usize = 1_024;

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

/// A listener that cannot be had.
#[derive(Debug, Error)]
#[error("cannot listen on {transport} {address}: {problem}")]
pub struct BindError {
    transport: Transport,
    address: SocketAddr,
    problem: String,
}

pub(crate) struct Shared {
    pub(crate) limits: IoLimits,
    pub(crate) stats: IoStats,
    pub(crate) inbound: mpsc::Sender<Inbound>,
    pub(crate) client_tls: Option<ClientTls>,
    rate: RateLimit,
    connections: Mutex<ConnectionTable>,
    udp: Vec<Arc<UdpPort>>,
    late_reports: AtomicUsize,
}

impl Shared {
    pub(crate) fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the source may send another one.
    pub(crate) fn allows(&self, source: IpAddr, is_request: bool, now: Instant) -> bool {
        let allowed = self.rate.allows(source, is_request, now);
        if !allowed {
            count(&self.stats.rate_limited);
        }
        allowed
    }

    /// Parses, and answers what is malformed. `None` for what is over the source's rate.
    pub(crate) fn read(self: &Arc<Shared>, flow: Flow, at: Instant, bytes: Bytes) -> Option<Inbound> {
        let is_response = bytes.trim_ascii_start().get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"));
        if !self.allows(flow.remote.ip(), !is_response, at) {
            return None;
        }
        let (length, most) = (bytes.len(), self.limits.max_message);
        let kind = match Message::parse(bytes) {
            // Streams are cut off long before; a datagram is here as a whole.
            Ok(message) if length > most => {
                let error = format!("the message has {length} bytes, {most} are accepted");
                let is_answered =
                    message.is_request() && message.method() != Method::Ack && message.header("Via").is_some();
                self.malformed(
                    &flow,
                    is_answered.then(|| Message::response(&message, 513, Some(&error))),
                    error,
                    length,
                )
            }
            Ok(message) => InboundKind::Message(message),
            Err(error) => self.malformed(&flow, error.answer(), error.to_string(), length),
        };
        Some(Inbound { flow, at, kind })
    }

    /// Answers a request that cannot be taken; over UDP never with more bytes than it had, as its source may be forged.
    fn malformed(
        self: &Arc<Shared>,
        flow: &Flow,
        answer: Option<Message>,
        error: String,
        length: usize,
    ) -> InboundKind {
        let (mut answered, mut invite) = (None, None);
        if let Some(mut answer) = answer {
            invite = invite_of(&answer);
            answer.set_to_tag("malformed");
            let bytes = answer.to_bytes();
            if flow.transport != Transport::Udp || bytes.len() <= length {
                answered = answer.status();
                self.send(flow.into(), bytes);
            }
        }
        InboundKind::Malformed { error, answered, invite }
    }

    pub(crate) fn send(self: &Arc<Shared>, to: Destination, bytes: Bytes) {
        let flow = &to.flow;
        if flow.transport == Transport::Udp {
            let sent = self.udp_port(flow).map(|port| port.send(bytes, flow.remote, self.limits.send_queue));
            match sent {
                Some(Sent::Yes) => {}
                Some(Sent::Later) => count(&self.stats.send_waited),
                // Our own shortage says nothing about the peer: to the transactions it is a lost datagram.
                Some(Sent::Full) => count(&self.stats.send_full),
                Some(Sent::Refused) | None => self.report(to),
            }
            return;
        }
        let mut outgoing = Outgoing { to, bytes };
        let mut table = self.table();
        if outgoing.to.flow.connection != 0
            && !table.has(outgoing.to.flow.connection)
            && let Some(back) = back(&outgoing)
        {
            outgoing.to = back;
        }
        if let Some((number, queue)) = table.queue_of(&outgoing.to) {
            match queue.try_send(outgoing) {
                Ok(()) => return,
                // A peer that does not read loses its connection: to keep that and lose single messages would leave
                // requests without an end, and nobody would know which.
                Err(TrySendError::Full(lost)) => {
                    table.remove(number);
                    drop(table);
                    count(&self.stats.send_full);
                    self.report(lost.to);
                    return;
                }
                Err(TrySendError::Closed(given_back)) => outgoing = given_back,
            }
        }
        let Destination { flow, server_name } = outgoing.to.clone();
        let Some((opened, queue)) = table.admit(&self.limits, flow, Origin::Opened(server_name.clone())) else {
            drop(table);
            count(&self.stats.connections_refused);
            self.report(outgoing.to);
            return;
        };
        let opened = Destination { flow: opened, server_name };
        // The queue is empty: this cannot fail.
        let _ = table.queue_of(&opened).map(|(_, queue)| queue.try_send(outgoing));
        drop(table);
        connection::open(Arc::clone(self), opened, queue);
    }

    fn udp_port(&self, flow: &Flow) -> Option<&Arc<UdpPort>> {
        let exact = self.udp.iter().find(|port| port.local == flow.local);
        let similar = || self.udp.iter().find(|port| port.local.is_ipv4() == flow.remote.is_ipv4());
        exact.or_else(similar)
    }

    /// Tells the driver that a flow failed, now or as soon as it has room.
    pub(crate) fn report(self: &Arc<Shared>, to: Destination) {
        let report = failure(to);
        let Err(TrySendError::Full(report)) = self.inbound.try_send(report) else { return };
        if self.late_reports.fetch_add(1, Ordering::Relaxed) >= REPORTS {
            self.late_reports.fetch_sub(1, Ordering::Relaxed);
            count(&self.stats.reports_lost);
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let _ = shared.inbound.send(report).await;
            shared.late_reports.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// A connection is over, or never came to be: everybody who waits for it hears so, once, and responses that did not
    /// leave take another one.
    pub(crate) async fn finish(self: &Arc<Shared>, connection: Destination, mut queue: Queue, left: Left) {
        self.table().remove(connection.flow.connection);
        queue.messages.close();
        let mut failed: Vec<Destination> = Vec::new();
        if left.used {
            failed.push(connection.clone());
        }
        let queued = std::iter::from_fn(|| queue.messages.try_recv().ok());
        for lost in left.unsent.into_iter().chain(queued) {
            if lost.to.flow.connection != 0
                && let Some(back) = back(&lost)
            {
                self.send(back, lost.bytes);
                continue;
            }
            // What was sent on the connection itself, or to its peer, is covered by the first.
            let is_covered = left.used
                && lost.to.flow.connection == 0
                && lost.to.flow.remote == connection.flow.remote
                && lost.to.server_name == connection.server_name;
            if !is_covered && !failed.contains(&lost.to) {
                failed.push(lost.to);
            }
        }
        for to in failed {
            let _ = self.inbound.send(failure(to)).await;
        }
    }
}

/// Where a response goes whose connection is gone.
fn back(lost: &Outgoing) -> Option<Destination> {
    let message = Message::parse(lost.bytes.clone()).ok()?;
    way_back(&message, &lost.to.flow).map(Destination::from)
}

fn failure(to: Destination) -> Inbound {
    let kind = InboundKind::TransportError { server_name: to.server_name };
    Inbound { flow: to.flow, at: Instant::now(), kind }
}

/// A handle to all sockets; clones are cheap.
#[derive(Clone)]
pub struct SipSockets {
    shared: Arc<Shared>,
    listeners: Vec<(Transport, SocketAddr)>,
}

impl SipSockets {
    /// Binds every listener and starts receiving. The driver takes what comes from the receiver,
    /// best with `recv_many`: messages are put there in batches as they lie in the sockets.
    ///
    /// # Errors
    /// [`BindError`] names the listener.
    pub async fn bind(
        listeners: Vec<ListenerConfig>,
        limits: IoLimits,
        client_tls: Option<ClientTls>,
    ) -> Result<(SipSockets, mpsc::Receiver<Inbound>), BindError> {
        let (inbound, receiver) = mpsc::channel(INBOUND_QUEUE);
        let (mut ports, mut streams, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for listener in listeners {
            let failed =
                |problem: String| BindError { transport: listener.transport, address: listener.address, problem };
            let io_failed = |error: io::Error| failed(error.to_string());
            if listener.transport == Transport::Udp {
                let port = UdpPort::bind(listener.address).map_err(io_failed)?;
                bound.push((Transport::Udp, port.local));
                ports.push(Arc::new(port));
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
            rate: RateLimit::new(limits.messages_per_second, limits.responses_per_second, limits.rates.clone()),
            limits,
            stats: IoStats::default(),
            inbound,
            client_tls,
            connections: Mutex::default(),
            udp: ports,
            late_reports: AtomicUsize::new(0),
        });
        for port in &shared.udp {
            tokio::spawn(udp::receive(Arc::clone(&shared), Arc::clone(port)));
            tokio::spawn(udp::send_waiting(Arc::clone(&shared), Arc::clone(port)));
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
    pub fn send(&self, to: impl Into<Destination>, bytes: Bytes) {
        self.shared.send(to.into(), bytes);
    }

    /// Whose connections find room when strangers hold all that they may have.
    pub fn set_trust(&self, trust: TrustTable) {
        self.shared.table().set_trust(trust);
    }

    /// Connections at the moment, those that are being opened included.
    pub fn connections(&self) -> usize {
        self.shared.table().len()
    }

    /// Messages that wait for the driver.
    pub fn waiting(&self) -> usize {
        self.shared.inbound.max_capacity() - self.shared.inbound.capacity()
    }

    /// What was dropped.
    pub fn stats(&self) -> &IoStats {
        &self.shared.stats
    }
}
