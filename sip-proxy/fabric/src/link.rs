//! What is sent to one node. A link is one connection: when it ends, whatever waits in it is lost, and says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use ferric_membership::{Heartbeat, NodeId, Protocol};
use quinn::{Connection, ReadToEndError, SendDatagramError};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use crate::config::Limits;
use crate::frame::{self, Kind};
use crate::greet;

/// The first byte of a datagram.
pub(crate) const HEARTBEAT: u8 = 0;
pub(crate) const PAYLOAD: u8 = 1;
/// What precedes a payload in its datagram: the first byte, and the channel.
pub(crate) const PAYLOAD_HEADER: usize = 5;
/// Room for heartbeats that payloads leave in the queue of datagrams, in bytes.
const HEARTBEAT_ROOM: usize = 4096;

/// Why something was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no link to the node.
    #[error("no link to {0}")]
    NoLink(NodeId),
    /// Too much waits for the node already; later it may go.
    #[error("too much waits for this node already")]
    Full,
    /// It is too large, now and later.
    #[error("{length} bytes, at most {most} can be sent")]
    TooLarge {
        /// Its length.
        length: usize,
        /// The longest that can be sent.
        most: usize,
    },
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It was not sent: the peer has not seen it.
    #[error(transparent)]
    Send(#[from] SendError),
    /// No answer in time; the peer may have done it.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The peer has taken it and gave no answer.
    #[error("the peer gave no answer")]
    Unanswered,
    /// The link ended; the peer may have done it.
    #[error("the link ended before the answer")]
    LinkLost,
}

/// The sending half of the link to a node.
#[derive(Debug)]
pub(crate) struct Link {
    node: NodeId,
    connection: Connection,
    protocol: Protocol,
    limits: Limits,
    runtime: Handle,
    topics: Mutex<HashMap<u8, mpsc::Sender<Outgoing>>>,
    bytes: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

#[derive(Debug)]
struct Outgoing {
    kind: Kind,
    body: Bytes,
    /// Its share of what may wait, given back when it is on its way.
    _share: OwnedSemaphorePermit,
}

impl Link {
    pub(crate) fn new(
        node: NodeId,
        connection: Connection,
        protocol: Protocol,
        limits: Limits,
        runtime: Handle,
    ) -> Self {
        Self {
            node,
            connection,
            protocol,
            limits,
            runtime,
            topics: Mutex::default(),
            bytes: Arc::new(Semaphore::new(limits.queue_bytes.min(Semaphore::MAX_PERMITS))),
            requests: Arc::new(Semaphore::new(limits.requests_in_flight)),
        }
    }

    /// Puts a message into the queue of its topic.
    pub(crate) fn send(&self, kind: Kind, body: Bytes) -> Result<(), SendError> {
        let share = self.share(&body)?;
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = topics.entry(kind.topic()).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(self.limits.queue_messages.max(1));
            self.runtime.spawn(write_topic(self.connection.clone(), self.protocol, waiting));
            queue
        });
        queue.try_send(Outgoing { kind, body, _share: share }).map_err(|error| match error {
            TrySendError::Full(_) => SendError::Full,
            TrySendError::Closed(_) => SendError::NoLink(self.node.clone()),
        })
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn request(&self, kind: Kind, body: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        let _share = self.share(&body)?;
        let _slot = self.requests.try_acquire().map_err(|_| SendError::Full)?;
        let answer = tokio::time::timeout(timeout, self.exchange(kind, body)).await;
        answer.unwrap_or(Err(RequestError::Timeout(timeout)))
    }

    async fn exchange(&self, kind: Kind, body: Bytes) -> Result<Bytes, RequestError> {
        let opened = self.connection.open_bi().await;
        let (mut send, mut receive) = opened.map_err(|_| SendError::NoLink(self.node.clone()))?;
        // A peer that stops reading may still say why, so the answer is looked for all the same.
        if frame::write(&mut send, kind, self.protocol, body).await.is_ok() {
            let _ = send.finish();
        }
        match receive.read_to_end(self.limits.max_body).await {
            Ok(answer) => Ok(answer.into()),
            Err(ReadToEndError::TooLong) => Err(RequestError::Unanswered),
            Err(ReadToEndError::Read(quinn::ReadError::Reset(_))) => Err(RequestError::Unanswered),
            Err(ReadToEndError::Read(_)) => Err(RequestError::LinkLost),
        }
    }

    /// Sends a datagram at once or not at all.
    pub(crate) fn datagram(&self, channel: u32, payload: &[u8]) -> Result<(), SendError> {
        let most = self.max_datagram();
        if payload.len() > most {
            return Err(SendError::TooLarge { length: payload.len(), most });
        }
        if self.connection.datagram_send_buffer_space() < payload.len() + PAYLOAD_HEADER + HEARTBEAT_ROOM {
            return Err(SendError::Full);
        }
        let mut bytes = BytesMut::with_capacity(PAYLOAD_HEADER + payload.len());
        bytes.put_u8(PAYLOAD);
        bytes.put_u32(channel);
        bytes.put_slice(payload);
        self.connection.send_datagram(bytes.freeze()).map_err(|error| match error {
            SendDatagramError::TooLarge => SendError::TooLarge { length: payload.len(), most: self.max_datagram() },
            SendDatagramError::UnsupportedByPeer
            | SendDatagramError::Disabled
            | SendDatagramError::ConnectionLost(_) => SendError::NoLink(self.node.clone()),
        })
    }

    /// The longest payload of a datagram, in bytes; it may grow while the path is explored (RFC 8899).
    pub(crate) fn max_datagram(&self) -> usize {
        self.connection.max_datagram_size().unwrap_or(0).saturating_sub(PAYLOAD_HEADER)
    }

    /// The room that a body takes among what waits for this node.
    fn share(&self, body: &Bytes) -> Result<OwnedSemaphorePermit, SendError> {
        let (length, most) = (body.len(), self.limits.max_body);
        let share = u32::try_from(length.max(1)).ok().filter(|_| length <= most);
        let share = share.ok_or(SendError::TooLarge { length, most })?;
        self.bytes.clone().try_acquire_many_owned(share).map_err(|error| match error {
            TryAcquireError::NoPermits => SendError::Full,
            TryAcquireError::Closed => SendError::NoLink(self.node.clone()),
        })
    }
}

/// Sends a heartbeat; if it cannot go, the peer misses it, which is what it should do.
pub(crate) fn send_heartbeat(connection: &Connection, beat: &[u8; Heartbeat::LEN]) {
    let mut bytes = BytesMut::with_capacity(1 + Heartbeat::LEN);
    bytes.put_u8(HEARTBEAT);
    bytes.put_slice(beat);
    let _ = connection.send_datagram(bytes.freeze());
}

/// One stream for one topic, for as long as the link is up.
async fn write_topic(connection: Connection, protocol: Protocol, mut waiting: mpsc::Receiver<Outgoing>) {
    let Ok(mut stream) = connection.open_uni().await else { return };
    while let Some(Outgoing { kind, body, _share }) = waiting.recv().await {
        if frame::write(&mut stream, kind, protocol, body).await.is_err() {
            // The peer gave up a stream it has to read: what is lost must be known to be lost.
            greet::break_off(&connection, "a topic could not be written");
            return;
        }
    }
}
