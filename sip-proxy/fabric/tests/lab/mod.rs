//! Nodes on loopback, each with a runtime of its own, so that one can be killed without a word; and a relay that loses
//! and delays datagrams.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ferric_fabric::ca::ClusterCa;
use ferric_fabric::{
    Beat, ClusterName, Credentials, Datagram, DownCause, Fabric, FabricConfig, FabricEvent, Identity, Inbound, Inbox,
    NodeId, RefusalKind, RefusedBy, Site, WallClock,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Nothing here takes so long; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn config(ca: &ClusterCa, name: &str, seeds: &[SocketAddr]) -> FabricConfig {
    let identity = Identity { node: id(name), site: Site::new(&name[..1]).unwrap() };
    let pair = ca.issue(&identity, 30).unwrap();
    let ca = ca.pair().certificate;
    let credentials =
        Credentials::from_pem(ca.as_bytes(), pair.certificate.as_bytes(), pair.private_key.as_bytes()).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let cluster = ClusterName::new("main").unwrap();
    // Patient, so that a busy machine kills nobody.
    let beat = Beat { interval: Duration::from_millis(100), misses: 30 };
    FabricConfig {
        seeds: seeds.to_vec(),
        inside: beat,
        between: beat,
        ..FabricConfig::new(cluster, identity.node, identity.site, listen, credentials)
    }
}

/// A clock that is wrong by so many seconds.
pub(crate) fn clock_off(seconds: i64) -> WallClock {
    WallClock::new(move || {
        let off = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { SystemTime::now() - off } else { SystemTime::now() + off }
    })
}

pub(crate) struct Node {
    runtime: Option<Runtime>,
    pub(crate) fabric: Fabric,
    inbox: Inbox,
    pub(crate) seen: Vec<FabricEvent>,
}

impl Node {
    pub(crate) fn start(config: FabricConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (fabric, inbox) = runtime.block_on(async { Fabric::start(config) }).unwrap();
        Self { runtime: Some(runtime), fabric, inbox, seen: Vec::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.fabric.local_address()
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// The process is gone: its tasks and its socket end, and nobody is told.
    pub(crate) fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Reads events until one fits.
    pub(crate) fn wait_for<T>(&mut self, what: &str, fits: impl Fn(&FabricEvent) -> Option<T>) -> T {
        let runtime = self.runtime.as_ref().unwrap();
        let end = Instant::now() + PATIENCE;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let next = runtime.block_on(async { tokio::time::timeout(left, self.inbox.events.recv()).await });
            let Ok(Some(event)) = next else { break };
            let found = fits(&event);
            self.seen.push(event);
            if let Some(found) = found {
                return found;
            }
        }
        panic!("no {what}; there was {:#?}", self.seen);
    }

    pub(crate) fn wait_up(&mut self, name: &str) {
        self.wait_for(&format!("{name} up"), |event| match event {
            FabricEvent::Up { node, .. } if node.as_str() == name => Some(()),
            _ => None,
        });
    }

    pub(crate) fn wait_down(&mut self, name: &str) -> DownCause {
        self.wait_for(&format!("{name} down"), |event| match event {
            FabricEvent::Down { node, cause } if node.as_str() == name => Some(*cause),
            _ => None,
        })
    }

    pub(crate) fn wait_refused(&mut self, by: RefusedBy, kind: RefusalKind) -> String {
        self.wait_for(&format!("refusal {kind:?} by {by:?}"), |event| match event {
            FabricEvent::Refused { by: who, refusal, .. } if *who == by && refusal.kind == kind => {
                Some(refusal.text.clone())
            }
            _ => None,
        })
    }

    pub(crate) fn message(&mut self) -> Inbound {
        let runtime = self.runtime.as_ref().unwrap();
        let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.inbox.messages.recv()).await });
        next.expect("no message came").expect("the fabric ended")
    }

    pub(crate) fn take_topics(&mut self) -> BTreeMap<u8, mpsc::Receiver<Inbound>> {
        std::mem::take(&mut self.inbox.topics)
    }

    pub(crate) fn datagram(&mut self) -> Datagram {
        let runtime = self.runtime.as_ref().unwrap();
        let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.inbox.datagrams.recv()).await });
        next.expect("no datagram came").expect("the fabric ended")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A path to an address that loses one of so many datagrams and delays the others.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) cut: Arc<AtomicBool>,
    pub(crate) to: Arc<AtomicU64>,
}

impl Relay {
    /// The port to relay to on loopback can be set later by `to`.
    pub(crate) fn start(delay: Duration, lose_one_of: u64) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let (cut, to) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_cut, target) = (cut.clone(), to.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        front.set_nonblocking(true).unwrap();
        std::thread::spawn(move || runtime.block_on(relay(front, is_cut, target, delay, lose_one_of)));
        Self { address, cut, to }
    }
}

async fn relay(front: UdpSocket, cut: Arc<AtomicBool>, to: Arc<AtomicU64>, delay: Duration, lose_one_of: u64) {
    let front = Arc::new(tokio::net::UdpSocket::from_std(front).unwrap());
    let mut backs: Vec<(SocketAddr, Arc<tokio::net::UdpSocket>)> = Vec::new();
    let count = Arc::new(AtomicU64::new(0));
    let passes = move |cut: &AtomicBool| {
        !cut.load(Ordering::Relaxed) && count.fetch_add(1, Ordering::Relaxed) % lose_one_of != lose_one_of - 1
    };
    let mut buffer = vec![0; 2048];
    loop {
        let (length, from) = front.recv_from(&mut buffer).await.unwrap();
        let back = match backs.iter().find(|(client, _)| *client == from) {
            Some((_, back)) => back.clone(),
            None => {
                let back = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
                backs.push((from, back.clone()));
                let (front, back_reader, cut, passes) = (front.clone(), back.clone(), cut.clone(), passes.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![0; 2048];
                    loop {
                        let Ok(length) = back_reader.recv(&mut buffer).await else { continue };
                        if passes(&cut) {
                            let (front, bytes) = (front.clone(), buffer[..length].to_vec());
                            tokio::spawn(async move {
                                tokio::time::sleep(delay).await;
                                let _ = front.send_to(&bytes, from).await;
                            });
                        }
                    }
                });
                back
            }
        };
        if passes(&cut) {
            let (bytes, to) = (buffer[..length].to_vec(), to.load(Ordering::Relaxed));
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = back.send_to(&bytes, SocketAddr::from(([127, 0, 0, 1], to as u16))).await;
            });
        }
    }
}
