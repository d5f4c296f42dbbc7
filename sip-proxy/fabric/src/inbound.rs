//! What is received: readers of one link, which end with its connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ferric_membership::{Heartbeat, LinkId, NodeId, Protocol};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config::Limits;
use crate::driver::Input;
use crate::frame::{self, Frame, Kind};
use crate::greet;
use crate::link::{HEARTBEAT, PAYLOAD, PAYLOAD_HEADER, SendError};

/// The code with which a request ends that was taken and not answered.
const UNANSWERED: u32 = 1;

/// Everything that comes to a node. Each of the three has its own way to be full: events are dropped and counted,
/// senders of messages wait, datagrams are dropped and counted.
#[derive(Debug)]
pub struct Inbox {
    /// Who came, who went, who was refused.
    pub events: mpsc::Receiver<ferric_membership::Event>,
    /// Messages and requests of all topics that are not in [`Inbox::topics`].
    pub messages: mpsc::Receiver<Inbound>,
    /// Messages and requests of the topics that [`crate::FabricConfig::topics`] names: a reader of one that is slow holds up
    /// no other topic. One that is dropped takes nothing any more: what comes is counted ([`crate::Fabric::unread`]).
    pub topics: BTreeMap<u8, mpsc::Receiver<Inbound>>,
    /// Payloads of datagrams.
    pub datagrams: mpsc::Receiver<Datagram>,
}

/// A message or a request.
#[derive(Debug)]
pub enum Inbound {
    /// A message; those of one topic of one node come in order.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it is.
        kind: Kind,
        /// The protocol in which its body is written.
        protocol: Protocol,
        /// The body.
        body: Bytes,
    },
    /// A request.
    Request {
        /// Who asks.
        from: NodeId,
        /// What it is.
        kind: Kind,
        /// The protocol in which its body is written, and the answer is to be.
        protocol: Protocol,
        /// The body.
        body: Bytes,
        /// Takes the answer.
        responder: Responder,
    },
}

/// The payload of a datagram.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// Who sent it.
    pub from: NodeId,
    /// The channel, which means what sender and receiver agree on.
    pub channel: u32,
    /// The payload.
    pub bytes: Bytes,
}

/// Takes the answer to a request. Dropped without one, it tells the asker so.
#[derive(Debug)]
pub struct Responder {
    stream: Option<SendStream>,
    max_body: usize,
    runtime: Handle,
}

impl Responder {
    /// Answers; does not wait for the answer to be read.
    pub fn answer(mut self, body: impl Into<Bytes>) -> Result<(), SendError> {
        let body = body.into();
        if body.len() > self.max_body {
            return Err(SendError::TooLarge { length: body.len(), most: self.max_body });
        }
        if let Some(mut stream) = self.stream.take() {
            self.runtime.spawn(async move {
                if stream.write_chunk(body).await.is_ok() {
                    let _ = stream.finish();
                }
            });
        }
        Ok(())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.reset(VarInt::from_u32(UNANSWERED));
        }
    }
}

/// Where readers put what they read.
#[derive(Debug, Clone)]
pub(crate) struct Sinks {
    pub(crate) messages: mpsc::Sender<Inbound>,
    pub(crate) topics: Arc<BTreeMap<u8, mpsc::Sender<Inbound>>>,
    pub(crate) datagrams: mpsc::Sender<Datagram>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) datagrams_dropped: Arc<AtomicU64>,
    pub(crate) unread: Arc<AtomicU64>,
    pub(crate) limits: Limits,
    pub(crate) runtime: Handle,
}

impl Sinks {
    /// Hands a message to the reader of its topic, and waits for room. Without a reader it is counted, and a request ends
    /// with its responder; the link goes on.
    async fn deliver(&self, kind: Kind, message: Inbound) {
        let queue = self.topics.get(&kind.topic()).unwrap_or(&self.messages);
        if queue.send(message).await.is_err() {
            self.unread.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Reads all that comes on a link.
pub(crate) fn spawn_readers(connection: &Connection, link: LinkId, node: &NodeId, sinks: &Sinks) {
    let start = || (connection.clone(), node.clone(), sinks.clone());
    let (c, n, s) = start();
    sinks.runtime.spawn(read_datagrams(c, link, n, s));
    let (c, n, s) = start();
    sinks.runtime.spawn(accept_topics(c, n, s));
    let (c, n, s) = start();
    sinks.runtime.spawn(accept_requests(c, n, s));
}

async fn read_datagrams(connection: Connection, link: LinkId, from: NodeId, sinks: Sinks) {
    while let Ok(bytes) = connection.read_datagram().await {
        match bytes.split_first() {
            Some((&HEARTBEAT, beat)) => {
                if let Some(beat) = Heartbeat::decode(beat)
                    && sinks.inputs.send(Input::Heartbeat(link, beat)).await.is_err()
                {
                    return;
                }
            }
            Some((&PAYLOAD, rest)) => {
                let Some((channel, _)) = rest.split_first_chunk() else { continue };
                let channel = u32::from_be_bytes(*channel);
                let datagram = Datagram { from: from.clone(), channel, bytes: bytes.slice(PAYLOAD_HEADER..) };
                if sinks.datagrams.try_send(datagram).is_err() {
                    sinks.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(_) | None => {} // of a later version
        }
    }
}

async fn accept_topics(connection: Connection, from: NodeId, sinks: Sinks) {
    while let Ok(stream) = connection.accept_uni().await {
        sinks.runtime.spawn(read_topic(connection.clone(), stream, from.clone(), sinks.clone()));
    }
}

async fn read_topic(connection: Connection, mut stream: RecvStream, from: NodeId, sinks: Sinks) {
    loop {
        let Frame { kind, protocol, body } = match frame::read(&mut stream, sinks.limits.max_body).await {
            Ok(frame) => frame,
            // Ends with the link, unless the peer breaks the rules; then the link ends with it.
            Err(problem) => return greet::break_off(&connection, &problem.to_string()),
        };
        sinks.deliver(kind, Inbound::Message { from: from.clone(), kind, protocol, body }).await;
    }
}

async fn accept_requests(connection: Connection, from: NodeId, sinks: Sinks) {
    while let Ok((send, receive)) = connection.accept_bi().await {
        sinks.runtime.spawn(read_request(send, receive, from.clone(), sinks.clone()));
    }
}

async fn read_request(send: SendStream, mut receive: RecvStream, from: NodeId, sinks: Sinks) {
    let responder = Responder { stream: Some(send), max_body: sinks.limits.max_body, runtime: sinks.runtime.clone() };
    if let Ok(Frame { kind, protocol, body }) = frame::read(&mut receive, sinks.limits.max_body).await {
        sinks.deliver(kind, Inbound::Request { from, kind, protocol, body, responder }).await;
    }
}
