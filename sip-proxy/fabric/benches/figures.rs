//! Prints what the fabric costs on loopback: `cargo bench -p ferric-fabric --profile release --bench figures [-- ROUNDS]`.
//!
//! Each node has a runtime of its own, so that one can end without a word, as a killed process does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_fabric::ca::ClusterCa;
use ferric_fabric::{
    ClusterName, Credentials, Fabric, FabricConfig, FabricEvent, Identity, Inbound, Inbox, Kind, NodeId, SendError,
    Site,
};
use tokio::runtime::Runtime;

const KIND: Kind = Kind::new(1, 1);

struct Node {
    runtime: Runtime,
    fabric: Fabric,
    inbox: Inbox,
}

impl Node {
    fn start(ca: &ClusterCa, name: &str, site: &str, seeds: Vec<SocketAddr>) -> Self {
        let identity = Identity { node: NodeId::new(name).unwrap(), site: Site::new(site).unwrap() };
        let pair = ca.issue(&identity, 1).unwrap();
        let pem = ca.pair().certificate;
        let credentials =
            Credentials::from_pem(pem.as_bytes(), pair.certificate.as_bytes(), pair.private_key.as_bytes()).unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let cluster = ClusterName::new("figures").unwrap();
        let config =
            FabricConfig { seeds, ..FabricConfig::new(cluster, identity.node, identity.site, listen, credentials) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (fabric, inbox) = runtime.block_on(async { Fabric::start(config) }).unwrap();
        Self { runtime, fabric, inbox }
    }

    fn wait(&mut self, fits: impl Fn(&FabricEvent) -> bool) -> Instant {
        loop {
            let event = self.runtime.block_on(self.inbox.events.recv()).unwrap();
            if fits(&event) {
                return Instant::now();
            }
        }
    }
}

fn pair(ca: &ClusterCa, site: &str) -> (Node, Node) {
    let mut a = Node::start(ca, "a", "east", vec![]);
    let b = Node::start(ca, "b", site, vec![a.fabric.local_address()]);
    a.wait(|event| matches!(event, FabricEvent::Up { .. }));
    (a, b)
}

fn show(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |part: usize| samples[(samples.len() * part / 100).min(samples.len() - 1)];
    println!("{what:44} p50 {:>9.3?}  p99 {:>9.3?}  worst {:>9.3?}", at(50), at(99), at(100));
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(20); // cargo adds `--bench`
    let ca = ClusterCa::create().unwrap();
    for (site, what) in [("east", "killed node noticed, inside a site"), ("west", "killed node noticed, between sites")]
    {
        let detect = |_| {
            let (mut a, b) = pair(&ca, site);
            std::thread::sleep(Duration::from_millis(rand::random_range(700..1200)));
            b.runtime.shutdown_background();
            let killed = Instant::now();
            a.wait(|event| matches!(event, FabricEvent::Down { .. })) - killed
        };
        show(what, (0..rounds).map(detect).collect());
    }

    let (a, b) = pair(&ca, "east");
    let Node { runtime, fabric: _b, inbox: Inbox { mut messages, mut datagrams, .. } } = b;
    let read = runtime.spawn(async move {
        let mut count = 0u64;
        while let Some(inbound) = messages.recv().await {
            match inbound {
                Inbound::Request { body, responder, .. } => responder.answer(body).unwrap(),
                Inbound::Message { body, .. } if body.is_empty() => break,
                Inbound::Message { .. } => count += 1,
            }
        }
        count
    });
    let to = NodeId::new("b").unwrap();
    let ask = || {
        let start = Instant::now();
        let answer = a.fabric.request(&to, KIND, vec![7; 200], Duration::from_secs(5));
        a.runtime.block_on(answer).unwrap();
        start.elapsed()
    };
    show("request and answer, 200 bytes", (0..5000).map(|_| ask()).collect());

    let (start, count) = (Instant::now(), 300_000u64);
    let body = bytes::Bytes::from(vec![7; 200]);
    for n in 0..=count {
        let body = if n == count { bytes::Bytes::new() } else { body.clone() };
        while a.fabric.send(&to, KIND, body.clone()) == Err(SendError::Full) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    assert_eq!(runtime.block_on(read).unwrap(), count);
    println!("{:44} {:.0} a second", "messages of 200 bytes, in order", per_second(count, start.elapsed()));

    let read = runtime.spawn(async move {
        let mut count = 0u64;
        while tokio::time::timeout(Duration::from_secs(1), datagrams.recv()).await.is_ok_and(|got| got.is_some()) {
            count += 1;
        }
        count
    });
    let (start, mut sent) = (Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(3) {
        match a.fabric.datagram(&to, 1, &[7; 180]) {
            Ok(()) => sent += 1,
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    let got = runtime.block_on(read).unwrap();
    println!(
        "{:44} {:.0} a second sent, {:.2} % lost",
        "datagrams of 180 bytes",
        per_second(sent, Duration::from_secs(3)),
        100.0 * per_second(sent - got, Duration::from_secs(3)) / per_second(sent, Duration::from_secs(3)),
    );
}

#[allow(clippy::cast_precision_loss)]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
