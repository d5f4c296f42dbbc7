//! The shared state against real servers: three of them, three nodes, and what goes wrong.
//!
//! Nothing is asserted about time: each expectation is waited for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod servers;

use std::time::Duration;

use bytes::Bytes;
use ferric_cluster::{
    Change, ClusterState, Connection, EventKind, Followed, Kind, Lease, NatsConfig, NodeId, Space, StoreError,
};
use futures::StreamExt as _;
use servers::{Servers, config, until};

const HOUR: Duration = Duration::from_secs(3600);
const TTL: Duration = Duration::from_secs(15);

async fn three(servers: &Servers, incarnation: u64) -> Vec<ClusterState> {
    let nodes: Vec<ClusterState> = (0..3).map(|number| servers.node(number, incarnation)).collect();
    for node in &nodes {
        until("joined", || node.health().joined && node.health().connection == Connection::Up).await;
    }
    nodes
}

fn value(node: &ClusterState, kind: Kind, key: &str) -> Option<Bytes> {
    node.get(kind, key.as_bytes()).map(|view| view.value)
}

async fn everywhere(nodes: &[ClusterState], kind: Kind, key: &str, expected: Option<&'static str>) {
    for node in nodes {
        until(&format!("{key} is {expected:?}"), || value(node, kind, key) == expected.map(Bytes::from)).await;
    }
}

/// Why the servers refuse a node, as soon as they do; the connection may be in another state the moment after.
async fn refusal(node: &ClusterState) -> String {
    let mut found = None;
    until("refused", || {
        if let Connection::Refused(why) = node.health().connection {
            found = Some(why);
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Tries until the store answers.
async fn set(node: &ClusterState, name: &str, expected: u64, text: &'static str) -> u64 {
    let started = std::time::Instant::now();
    loop {
        match node.compare_and_set(Space::Config, name, expected, Some(text.into())).await {
            Ok(revision) => return revision,
            // It was written though the answer was lost.
            Err(StoreError::Conflict) if node.document(Space::Config, name).is_some_and(|it| it.value == text) => {
                return node.document(Space::Config, name).unwrap().revision;
            }
            Err(error) => assert!(started.elapsed() < Duration::from_secs(90), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Asks for a lease until the store answers and, if it is to be had in the end, until it is free.
async fn lease(node: &ClusterState, until_free: bool) -> Option<Lease> {
    let started = std::time::Instant::now();
    loop {
        match node.acquire("retention", TTL).await {
            Ok(lease) if lease.is_some() || !until_free => return lease,
            Ok(_) | Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(started.elapsed() < Duration::from_secs(90), "the store does not answer, or the lease is never free");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_writes_all_have_through_the_death_of_a_server_and_of_all() {
    let mut servers = Servers::start(3);
    let nodes = three(&servers, 1).await;
    let mut follower = nodes[2].follow();

    nodes[0].put(Kind::Registration, b"alice", b"phone", HOUR).unwrap();
    nodes[1].put(Kind::Load, b"w1", b"3 calls", Duration::from_secs(15)).unwrap();
    everywhere(&nodes, Kind::Registration, "alice", Some("phone")).await;
    everywhere(&nodes, Kind::Load, "w1", Some("3 calls")).await;
    let heard = follower.next().await.unwrap();
    assert!(matches!(heard, Followed::Changed { change: Change::Set, .. }), "{heard:?}");

    // The nearest server of node 0.
    servers.kill(0);
    nodes[0].put(Kind::Registration, b"bob", b"phone", HOUR).unwrap();
    nodes[1].remove(Kind::Registration, b"alice");
    everywhere(&nodes, Kind::Registration, "bob", Some("phone")).await;
    everywhere(&nodes, Kind::Registration, "alice", None).await;

    servers.kill_all();
    for node in &nodes {
        until("away", || matches!(node.health().connection, Connection::Away(_))).await;
        assert_eq!(value(node, Kind::Registration, "bob"), Some("phone".into()));
    }
    nodes[0].put(Kind::Registration, b"carol", b"at 0", HOUR).unwrap();
    nodes[1].put(Kind::Registration, b"dave", b"at 1", HOUR).unwrap();
    nodes[2].remove(Kind::Registration, b"bob");
    tokio::time::sleep(Duration::from_secs(5)).await;
    servers.run_all();
    everywhere(&nodes, Kind::Registration, "carol", Some("at 0")).await;
    everywhere(&nodes, Kind::Registration, "dave", Some("at 1")).await;
    everywhere(&nodes, Kind::Registration, "bob", None).await;
    // Load lives with its process: it was written again meanwhile.
    everywhere(&nodes, Kind::Load, "w1", Some("3 calls")).await;
    nodes[0].node(&NodeId::new("n1").unwrap(), false);
    assert_eq!(nodes[0].list(Kind::Load).len(), 0);
    assert!(nodes[0].health().connects >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_come_back_when_everything_was_stopped() {
    let mut servers = Servers::start(3);
    let nodes = three(&servers, 1).await;
    for number in 0..300 {
        nodes[number % 3].put(Kind::Registration, format!("user{number}").as_bytes(), b"contact", HOUR).unwrap();
    }
    nodes[0].put(Kind::Session, b"call", b"at 0", Duration::from_secs(60)).unwrap();
    everywhere(&nodes, Kind::Registration, "user299", Some("contact")).await;
    everywhere(&nodes, Kind::Registration, "user0", Some("contact")).await;
    // Removed by another node than the one that wrote it.
    assert!(nodes[1].remove(Kind::Registration, b"user0"));
    for node in &nodes {
        until("all is kept", || node.health().keep_waiting == 0 && node.health().kept >= 100).await;
        node.shutdown(Duration::from_secs(5)).await;
    }
    drop(nodes);
    servers.kill_all();
    servers.run_all();
    let nodes = three(&servers, 2).await;
    for node in &nodes {
        until("registrations are back", || node.list(Kind::Registration).len() == 299).await;
        assert_eq!(value(node, Kind::Registration, "user0"), None);
        assert_eq!(node.list(Kind::Session).len(), 0);
        let view = node.get(Kind::Registration, b"user7").unwrap();
        assert!(view.remaining <= HOUR && view.remaining > HOUR / 2);
    }
    // A node that comes later has it from the others.
    let late = servers.node(3, 1);
    until("the late one has it", || late.list(Kind::Registration).len() == 299).await;
    assert_eq!(late.health().restored, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_written_by_one_and_known_without_nats() {
    let mut servers = Servers::start(3);
    let nodes = three(&servers, 1).await;
    let first = set(&nodes[0], "edge", 0, "one").await;
    for node in &nodes {
        until("seen", || node.document(Space::Config, "edge").is_some_and(|it| it.revision == first)).await;
    }
    // Of two that decide on the same state one wins.
    let (one, other) = tokio::join!(
        nodes[1].compare_and_set(Space::Config, "edge", first, Some("from 1".into())),
        nodes[2].compare_and_set(Space::Config, "edge", first, Some("from 2".into())),
    );
    assert!(
        matches!((&one, &other), (Ok(_), Err(StoreError::Conflict)) | (Err(StoreError::Conflict), Ok(_))),
        "{one:?} {other:?}"
    );
    let second = one.or(other).unwrap();
    assert!(second > first);
    set(&nodes[0], "gone", 0, "x").await;
    let gone = nodes[0].document(Space::Config, "gone").unwrap().revision;
    let stale = nodes[0].compare_and_set(Space::Config, "gone", gone - 1, None).await;
    assert_eq!(stale, Err(StoreError::Conflict));
    nodes[0].compare_and_set(Space::Config, "gone", gone, None).await.unwrap();
    // What was deleted may be written again, and deleted again.
    let back = nodes[1].compare_and_set(Space::Config, "gone", 0, Some("back".into())).await.unwrap();
    nodes[1].compare_and_set(Space::Config, "gone", back, None).await.unwrap();
    for node in &nodes {
        until("second", || node.document(Space::Config, "edge").is_some_and(|it| it.revision == second)).await;
        until("removed", || node.document(Space::Config, "gone").is_none()).await;
        node.shutdown(Duration::ZERO).await;
    }
    drop(nodes);

    servers.kill_all();
    let node = servers.node(0, 2);
    let known = node.document(Space::Config, "edge").unwrap();
    assert_eq!(known.revision, second);
    assert!(!node.health().documents_current);
    let written = node.compare_and_set(Space::Config, "edge", second, Some("three".into())).await;
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    servers.run_all();
    until("current again", || node.health().documents_current).await;
    let third = set(&node, "edge", second, "three").await;

    // The leader dies: reading goes on, writing does so soon.
    let leader = servers.leader("KV_ferric-east").await;
    servers.kill(leader);
    assert_eq!(node.document(Space::Config, "edge").unwrap().value, "three");
    set(&node, "edge", third, "four").await;
    assert_eq!(node.document(Space::Config, "edge").unwrap().value, "four");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_everything_is_filled_from_the_nodes() {
    let servers = Servers::start(1);
    let node = servers.node(0, 1);
    until("up", || node.health().documents_current).await;
    let first = set(&node, "edge", 0, "one").await;
    let second = set(&node, "edge", first, "two").await;
    until("listed", || node.document(Space::Config, "edge").is_some_and(|it| it.revision == second)).await;
    let context = async_nats::jetstream::new(servers.client().await);
    context.delete_key_value("ferric-east").await.unwrap();
    until("written anew", || node.health().documents_reseeded == 1).await;
    assert_eq!(node.document(Space::Config, "edge").unwrap().value, "two");
    let store = context.get_key_value("ferric-east").await.unwrap();
    assert_eq!(store.get("config.edge").await.unwrap(), Some("two".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_one_holder_and_a_fence_that_grows() {
    let mut servers = Servers::start(3);
    let nodes = three(&servers, 1).await;
    assert!(matches!(nodes[0].acquire("retention", TTL / 2).await, Err(StoreError::ShortLease(_))));
    assert!(matches!(nodes[0].acquire("a.b", TTL).await, Err(StoreError::Name(_))));
    let (a, b, c) = tokio::join!(lease(&nodes[0], false), lease(&nodes[1], false), lease(&nodes[2], false));
    let mut held: Vec<Lease> = [a, b, c].into_iter().flatten().collect();
    assert_eq!(held.len(), 1, "one of three has it");
    let first = held.pop().unwrap();
    assert!(first.is_held());
    // It is renewed through the death of the leader, for longer than its life.
    let leader = servers.leader("FERRIC-east-LEASES").await;
    servers.kill(leader);
    tokio::time::sleep(TTL + TTL / 2).await;
    assert!(first.is_held());
    for node in &nodes {
        assert!(lease(node, false).await.is_none());
    }
    // Given back, it is free at once; the trap of a key that was deleted is that it then never ends.
    let fence = first.fence();
    drop(first);
    let mut second = lease(&nodes[1], true).await.unwrap();
    assert!(second.fence() > fence);
    // Without a store nobody is sure of it, and the record ends by itself.
    servers.kill_all();
    second.lost().await;
    assert!(!second.is_held());
    assert!(matches!(nodes[0].acquire("retention", TTL).await, Err(StoreError::Unavailable(_))));
    servers.run_all();
    let third = lease(&nodes[2], true).await.unwrap();
    assert!(third.fence() > second.fence());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_out_and_wait_while_nats_is_away() {
    let mut servers = Servers::start(1);
    let node = servers.node(0, 1);
    until("up", || node.health().connection == Connection::Up).await;
    let client = servers.client().await;
    let mut heard = client.subscribe("ferric.east.events.>").await.unwrap();
    client.flush().await.unwrap();
    assert!(node.publish(EventKind::CallStarted, b"{\"id\":1}"));
    let first = heard.next().await.unwrap();
    assert_eq!((first.subject.as_str(), &first.payload[..]), ("ferric.east.events.call.started", &b"{\"id\":1}"[..]));
    servers.kill_all();
    until("away", || matches!(node.health().connection, Connection::Away(_))).await;
    assert!(node.publish(EventKind::RecordingStored, b"{\"id\":2}"));
    assert_eq!(node.health().events, 1);
    servers.run_all();
    until("sent", || node.health().events == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_stand_still_hold_nobody_up() {
    let servers = Servers::start(3);
    let nodes = three(&servers, 1).await;
    (0..3).for_each(|number| servers.stand_still(number, true));
    // The connections are there still: what is sent into them goes nowhere.
    for number in 0..2000 {
        nodes[number % 3].put(Kind::Registration, format!("user{number}").as_bytes(), &[7; 4000], HOUR).unwrap();
        nodes[0].publish(EventKind::CallStarted, &[7; 1000]);
    }
    assert_eq!(nodes[0].list(Kind::Registration).len(), 667);
    for node in &nodes {
        until("away", || matches!(node.health().connection, Connection::Away(_))).await;
    }
    assert!(nodes[1].remove(Kind::Registration, b"user1"));
    (0..3).for_each(|number| servers.stand_still(number, false));
    for node in &nodes {
        until("all is known", || node.list(Kind::Registration).len() == 1999).await;
    }
    until("all is kept", || nodes.iter().all(|node| node.health().keep_waiting == 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_checked_both_ways() {
    let issuer = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate.pem(), certificate.der().clone(), rcgen::Issuer::new(parameters, key))
    };
    let (ca_pem, ca, issuing) = issuer("cluster");
    let (_, foreign, _) = issuer("foreign");
    let sign = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &issuing).unwrap(), key)
    };
    let (server, server_key) = sign("127.0.0.1");
    let (client, client_key) = sign("n0");
    let servers = Servers::start_with(1, |folder| {
        let write = |name: &str, text: String| {
            std::fs::write(folder.join(name), text).unwrap();
            folder.join(name).display().to_string()
        };
        format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
            write("server.crt", server.pem()),
            write("server.key", server_key.serialize_pem()),
            write("ca.crt", ca_pem.clone()),
        )
    });
    let start = |number: usize, trusted: &rustls::pki_types::CertificateDer<'static>| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(client_key.serialize_der()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![client.der().clone()], key)
            .unwrap();
        let servers_named = vec![format!("tls://ferric:p%40ss@127.0.0.1:{}", servers.port(0))];
        let nats = NatsConfig { servers: servers_named, tls: Some(std::sync::Arc::new(tls)), replicas: 1 };
        ClusterState::start(config(servers.folder.path(), number, 1, Some(nats))).unwrap()
    };
    let node = start(0, &ca);
    until("up", || node.health().connection == Connection::Up).await;
    let stranger = start(1, &foreign);
    let why = refusal(&stranger).await;
    assert!(why.contains("TLS") && why.contains("127.0.0.1"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_named_and_the_node_works_on_its_own() {
    let servers = Servers::start(1);
    let nats = NatsConfig { servers: servers.urls(0, "ferric:wrong"), tls: None, replicas: 1 };
    let node = ClusterState::start(config(servers.folder.path(), 0, 1, Some(nats))).unwrap();
    let why = refusal(&node).await;
    assert!(why.contains("password") && !why.contains("wrong"), "{why}");
    node.put(Kind::Registration, b"alice", b"phone", HOUR).unwrap();
    assert_eq!(value(&node, Kind::Registration, "alice"), Some("phone".into()));
}

#[tokio::test]
async fn a_single_node_has_the_same_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let node = ClusterState::start(config(folder.path(), 0, 1, None)).unwrap();
    assert_eq!(node.health().connection, Connection::Embedded);
    node.put(Kind::Session, b"call", b"here", Duration::from_secs(60)).unwrap();
    assert_eq!(node.list(Kind::Session).len(), 1);
    assert!(node.publish(EventKind::CallEnded, b"{}"));
    let first = node.compare_and_set(Space::Directory, "w1", 0, Some("here".into())).await.unwrap();
    let again = node.compare_and_set(Space::Directory, "w1", 0, Some("there".into())).await;
    assert_eq!(again, Err(StoreError::Conflict));
    let lease = node.acquire("retention", Duration::from_secs(15)).await.unwrap().unwrap();
    assert!(lease.is_held() && lease.fence() > first);
    node.shutdown(Duration::ZERO).await;
    let node = ClusterState::start(config(folder.path(), 0, 2, None)).unwrap();
    assert_eq!(node.documents(Space::Directory)[0].value, "here");
    assert!(node.acquire("retention", Duration::from_secs(15)).await.unwrap().unwrap().fence() > lease.fence());
    std::fs::write(folder.path().join("node0/state/documents.json"), "{").unwrap();
    let damaged = ClusterState::start(config(folder.path(), 0, 3, None)).unwrap_err().to_string();
    assert!(damaged.contains("documents.json"), "{damaged}");
}
