#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
//! Nodes on loopback, as [`Cluster`] starts them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use ferric_fabric::Identity;
use ferric_fabric::ca::ClusterCa;

/// Nothing here takes so long; a test that waits for it has failed.
pub(in crate::node) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with the certificates of one cluster.
pub(in crate::node) struct Lab {
    pub(in crate::node) folder: tempfile::TempDir,
    ca: ClusterCa,
}

impl Lab {
    pub(in crate::node) fn new() -> Lab {
        let (folder, ca) = (tempfile::tempdir().unwrap(), ClusterCa::create().unwrap());
        std::fs::write(folder.path().join("ca.crt"), ca.pair().certificate.as_bytes()).unwrap();
        Lab { folder, ca }
    }

    /// The configuration of a node on a free port, which knows another one.
    pub(in crate::node) fn config(&self, id: &str, seed: Option<&Cluster>) -> Config {
        self.config_with(id, seed, "")
    }

    /// The same with more keys of `[cluster]`.
    fn config_with(&self, id: &str, seed: Option<&Cluster>, more: &str) -> Config {
        let at = |file: &str| self.folder.path().join(file);
        let pair =
            self.ca.issue(&Identity { node: NodeId::new(id).unwrap(), site: Site::new("east").unwrap() }, 30).unwrap();
        std::fs::write(at(&format!("{id}.crt")), pair.certificate.as_bytes()).unwrap();
        std::fs::write(at(&format!("{id}.key")), pair.private_key.as_bytes()).unwrap();
        let seeds = seed.map(|seed| format!("{:?}", seed.fabric().unwrap().local_address().to_string()));
        let text = format!(
            "[node]\nid = \"{id}\"\nsite = \"east\"\ndata_dir = \"{id}\"\nroles = [\"proxy\"]\n[cluster]\n\
             quic = \"127.0.0.1:0\"\nseeds = [{}]\nca = \"ca.crt\"\ncertificate = \"{id}.crt\"\nprivate_key = \"{id}.key\"\n\
             inside = {{ every = \"100ms\", misses = 30 }}\n{more}",
            seeds.unwrap_or_default()
        );
        Config::parse(&at("ferric.toml"), &text).unwrap()
    }
}

/// Nobody reads the events of the API here.
pub(in crate::node) fn outside() -> broadcast::Sender<Event> {
    broadcast::channel(16).0
}

pub(super) async fn next(members: &mut Members) -> MemberEvent {
    tokio::time::timeout(PATIENCE, members.next()).await.unwrap().unwrap()
}

/// The next node that comes up.
async fn up(members: &mut Members) -> Seen {
    loop {
        if let MemberEvent::Up(seen) = next(members).await {
            return *seen;
        }
    }
}

#[tokio::test]
async fn nodes_find_each_other_speak_and_part() {
    let lab = Lab::new();
    let a = Cluster::start(&lab.config("a", None)).unwrap();
    let b = Cluster::start(&lab.config("b", Some(&a))).unwrap();
    let (mut at_a, mut at_b) = (a.follow(), b.follow());
    let mut capture = b.topic(Topic::Capture).unwrap();
    assert!(b.topic(Topic::Capture).is_none(), "a topic has one reader");
    a.open(outside());
    b.open(outside());
    let seen = up(&mut at_a).await;
    assert_eq!((seen.node.as_str(), seen.roles.as_slice(), seen.draining), ("b", &["proxy".to_owned()][..], false));
    assert_eq!(seen.serves, ["127.0.0.1:5060".parse().unwrap()], "whoever sends calls there knows who takes them");
    assert_eq!(up(&mut at_b).await.node, *a.node());
    let fabric = a.fabric().unwrap();
    fabric.send(b.node(), Topic::Capture.kind(1), "{}").unwrap();
    let Inbound::Message { from, body, .. } = tokio::time::timeout(PATIENCE, capture.recv()).await.unwrap().unwrap()
    else {
        panic!("no request was sent")
    };
    assert_eq!((&from, &body[..]), (a.node(), &b"{}"[..]));
    // Nobody took that topic.
    assert!(fabric.request(b.node(), Topic::Mirror.kind(1), "{}", PATIENCE).await.is_err());
    b.set_draining(true).await;
    let MemberEvent::Changed(seen) = next(&mut at_a).await else { panic!("draining is a change") };
    assert!(seen.draining);
    b.close().await;
    let MemberEvent::Down { node, cause } = next(&mut at_a).await else { panic!("b is gone") };
    assert_eq!((node.as_str(), cause), ("b", ferric_fabric::DownCause::Left));
    // Again, as another run.
    let again = Cluster::start(&lab.config("b", Some(&a))).unwrap();
    again.open(outside());
    assert!(up(&mut at_a).await.restarted);
    again.close().await;
    a.close().await;
    assert_eq!(tokio::time::timeout(PATIENCE, capture.recv()).await.unwrap().map(|_| ()), None);
}

#[tokio::test]
async fn a_single_node_has_the_same_calls_and_no_fabric() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::embedded(&folder.path().join("data"));
    config.node.id = "edge.example.com".to_owned();
    let alone = Cluster::start(&config).unwrap();
    alone.open(outside());
    assert!(alone.fabric().is_none() && alone.members().is_empty() && alone.topic(Topic::Admin).is_none());
    alone.state().put(ferric_cluster::Kind::Load, b"w", b"1", Duration::from_secs(5)).unwrap();
    assert_eq!(alone.state().list(ferric_cluster::Kind::Load).len(), 1);
    alone.set_draining(true).await;
    alone.close().await;
    // Nothing of a cluster lies in its folder.
    assert!(!folder.path().join("data").exists());
}

/// A NATS server with JetStream, which ends with the test.
struct Nats {
    child: std::process::Child,
    port: u16,
}

impl Nats {
    fn start(folder: &std::path::Path) -> Nats {
        let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/nats-server");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = std::process::Command::new(program)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(folder.join("js"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("nats-server does not start: `.ci/setup test` installs it");
        Nats { child, port }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One node at work; two are an error.
struct Working(Arc<AtomicUsize>);

impl Working {
    fn new(together: &Arc<AtomicUsize>) -> Working {
        assert_eq!(together.fetch_add(1, Ordering::SeqCst), 0, "two at once");
        Working(Arc::clone(together))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Three nodes want to do a job for which they take turns; the one at work is stopped, and another goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_for_one_node_alone_is_done_by_one_and_goes_on_elsewhere() {
    let lab = Lab::new();
    let nats = Nats::start(lab.folder.path());
    let more = format!("nats = [\"nats://127.0.0.1:{}\"]\nreplicas = 1\n", nats.port);
    let first = Cluster::start(&lab.config_with("a", None, &more)).unwrap();
    let mut nodes = vec![first.clone()];
    for id in ["b", "c"] {
        nodes.push(Cluster::start(&lab.config_with(id, Some(&first), &more)).unwrap());
    }
    let at_work = Arc::new(Mutex::new(None::<usize>));
    let (fence, turns, together) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut jobs = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        node.open(outside());
        let (at_work, fence, turns, together) = (at_work.clone(), fence.clone(), turns.clone(), together.clone());
        let job = async move |own: u64| {
            let _working = Working::new(&together);
            assert!(fence.swap(own, Ordering::SeqCst) < own, "a fence only grows");
            *lock(&at_work) = Some(number);
            turns.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let exclusive = exclusive::Exclusive::new(node.clone(), "retention").trying_every(Duration::from_millis(50));
        jobs.push(tokio::spawn(exclusive.run(job)));
    }
    let reached = async |count: usize| {
        let started = Instant::now();
        while turns.load(Ordering::SeqCst) < count {
            assert!(started.elapsed() < PATIENCE, "no turn");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    reached(5).await;
    let holder = lock(&at_work).unwrap();
    jobs[holder].abort();
    nodes[holder].close().await;
    let before = turns.load(Ordering::SeqCst);
    reached(before + 5).await;
    assert_ne!(*lock(&at_work), Some(holder), "who has left has no turn");
    for (number, node) in nodes.iter().enumerate().filter(|(number, _)| *number != holder) {
        assert!(!jobs[number].is_finished(), "a job failed");
        jobs[number].abort();
        node.close().await;
    }
}
