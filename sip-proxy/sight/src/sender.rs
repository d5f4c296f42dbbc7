//! The socket that takes captured messages to a HEP3 collector.
//!
//! ```text
//! HepHandle::send -> bounded queue -> one task: mask, encode -> UDP
//!        full: drop, count
//! ```
//!
//! Sending never waits and never fails for the caller: signalling is worth more than its picture. The socket is its
//! own and not connected, so that ICMP answers of an absent collector reach nobody; what the system refuses to send
//! is counted, and the next message is tried as if nothing had been.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferric_sip::{Flow, Transport};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::error::SightError;
use crate::hep::{self, Capture};
use crate::redact;

/// Messages taken out of the queue at once.
const BATCH: usize = 64;

/// How messages are captured.
#[derive(Clone)]
pub struct HepOptions {
    /// Number of this node in the collector.
    pub node_id: u32,
    /// What the collector wants to see, if it wants anything.
    pub password: Option<String>,
    /// Messages that may wait; the next ones are dropped.
    pub queue: usize,
    /// Puts asterisks over credentials and media keys ([`redact`]). Packets travel in the clear.
    pub mask_secrets: bool,
}

impl Default for HepOptions {
    fn default() -> HepOptions {
        HepOptions { node_id: 1, password: None, queue: 4_096, mask_secrets: true }
    }
}

/// One message on its way to the collector.
#[derive(Debug, Clone)]
pub struct HepMessage {
    /// When, since 1970.
    pub at_unix: Duration,
    /// How it travelled.
    pub transport: Transport,
    /// Who sent it.
    pub source: SocketAddr,
    /// Who got it.
    pub destination: SocketAddr,
    /// The message as on the wire.
    pub payload: Bytes,
    /// What it belongs to, if that is not its Call-ID (the call of a recording session, say).
    pub correlation: Option<Arc<str>>,
}

impl HepMessage {
    /// A message that came (`received`) or left on a flow.
    pub fn on_flow(at_unix: Duration, received: bool, flow: &Flow, payload: &Bytes) -> HepMessage {
        let (source, destination) = if received { (flow.remote, flow.local) } else { (flow.local, flow.remote) };
        HepMessage {
            at_unix,
            transport: flow.transport,
            source,
            destination,
            payload: payload.clone(),
            correlation: None,
        }
    }
}

/// What became of the messages so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HepStats {
    /// Handed to the system.
    pub sent: u64,
    /// Not queued, for the queue was full.
    pub dropped: u64,
    /// Refused by the system.
    pub failed: u64,
    /// Sent without their end, being longer than a datagram.
    pub cut: u64,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    cut: AtomicU64,
}

/// Takes messages; clones share the queue. The task ends when the last one is gone and the queue is empty.
#[derive(Clone)]
pub struct HepHandle {
    queue: mpsc::Sender<HepMessage>,
    counters: Arc<Counters>,
}

impl HepHandle {
    /// Queues a message, or drops it when the queue is full. Never waits.
    pub fn send(&self, message: HepMessage) {
        if self.queue.try_send(message).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counters now.
    pub fn stats(&self) -> HepStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { sent, dropped, failed, cut } = &*self.counters;
        HepStats { sent: read(sent), dropped: read(dropped), failed: read(failed), cut: read(cut) }
    }
}

/// Starts what [`HepHandle`] hands messages to.
pub struct HepSender {
    socket: UdpSocket,
    target: SocketAddr,
    options: HepOptions,
    counters: Arc<Counters>,
}

impl HepSender {
    /// Opens the socket and starts the task, on the tokio runtime that this is called in. The collector need not
    /// be there.
    ///
    /// # Errors
    /// [`SightError::Socket`] and [`SightError::PasswordTooLong`].
    pub fn start(target: SocketAddr, options: HepOptions) -> Result<HepHandle, SightError> {
        if let Some(length) = options.password.as_ref().map(String::len).filter(|&length| length > hep::MAX_TEXT) {
            return Err(SightError::PasswordTooLong { length });
        }
        let any = match target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = StdUdpSocket::bind(any).map_err(SightError::Socket)?;
        socket.set_nonblocking(true).map_err(SightError::Socket)?;
        let socket = UdpSocket::from_std(socket).map_err(SightError::Socket)?;
        let (queue, messages) = mpsc::channel(options.queue.clamp(1, 1 << 20));
        let counters = Arc::new(Counters::default());
        let sender = HepSender { socket, target, options, counters: counters.clone() };
        tokio::spawn(sender.run(messages));
        Ok(HepHandle { queue, counters })
    }

    async fn run(self, mut messages: mpsc::Receiver<HepMessage>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut packet = Vec::with_capacity(2_048);
        while messages.recv_many(&mut batch, BATCH).await > 0 {
            for message in batch.drain(..) {
                self.send(&message, &mut packet).await;
            }
        }
    }

    async fn send(&self, message: &HepMessage, packet: &mut Vec<u8>) {
        let payload = if self.options.mask_secrets {
            redact::masked(&message.payload)
        } else {
            std::borrow::Cow::Borrowed(&message.payload[..])
        };
        let capture = Capture {
            at_unix: message.at_unix,
            transport: message.transport,
            source: message.source,
            destination: message.destination,
            payload: &payload,
            node_id: self.options.node_id,
            password: self.options.password.as_deref(),
            correlation: message.correlation.as_deref(),
        };
        if hep::encode(&capture, packet) > 0 {
            self.counters.cut.fetch_add(1, Ordering::Relaxed);
        }
        let counter = match self.socket.send_to(packet, self.target).await {
            Ok(_) => &self.counters.sent,
            Err(_) => &self.counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONGEST: Duration = Duration::from_secs(20);

    fn message(text: &'static str) -> HepMessage {
        let flow = Flow {
            transport: Transport::Udp,
            local: "192.0.2.1:5060".parse().unwrap(),
            remote: "192.0.2.2:5060".parse().unwrap(),
            connection: 0,
        };
        HepMessage::on_flow(Duration::from_secs(1), true, &flow, &Bytes::from_static(text.as_bytes()))
    }

    async fn until(handle: &HepHandle, reached: impl Fn(HepStats) -> bool) {
        let wait = async {
            while !reached(handle.stats()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONGEST, wait).await.unwrap();
    }

    #[tokio::test]
    async fn messages_arrive_without_their_secrets() {
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let handle = HepSender::start(collector.local_addr().unwrap(), HepOptions::default()).unwrap();
        handle.send(message("REGISTER sip:x SIP/2.0\r\nAuthorization: s3cret\r\n\r\n"));
        let mut packet = [0; 2_048];
        let length = tokio::time::timeout(LONGEST, collector.recv(&mut packet)).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(packet.get(..length).unwrap()).into_owned();
        assert!(text.starts_with("HEP3") && text.ends_with("SIP/2.0\r\nAuthorization: ******\r\n\r\n"), "{text:?}");
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let options = HepOptions { queue: 4, ..HepOptions::default() };
        let handle = HepSender::start(collector.local_addr().unwrap(), options).unwrap();
        // The task cannot run before this one waits.
        for _ in 0..10 {
            handle.send(message("OPTIONS sip:x SIP/2.0\r\n\r\n"));
        }
        assert_eq!(handle.stats().dropped, 6);
        until(&handle, |stats| stats.sent == 4).await;
    }

    #[tokio::test]
    async fn an_absent_collector_disturbs_nothing() {
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let handle = HepSender::start(closed, HepOptions::default()).unwrap();
        for number in 1..=20 {
            handle.send(message("OPTIONS sip:x SIP/2.0\r\n\r\n"));
            until(&handle, |stats| stats.sent + stats.failed == number).await;
        }
        assert_eq!(handle.stats(), HepStats { sent: 20, ..HepStats::default() });
        assert!(matches!(
            HepSender::start(closed, HepOptions { password: Some("x".repeat(2_000)), ..HepOptions::default() }),
            Err(SightError::PasswordTooLong { length: 2_000 })
        ));
    }
}
