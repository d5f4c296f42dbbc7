#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation
)]
//! Who comes in, who goes, who is refused: real endpoints on loopback.

#[allow(dead_code)]
mod lab;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ferric_fabric::ca::ClusterCa;
use ferric_fabric::{
    Beat, ClusterName, Credentials, DownCause, Fabric, FabricConfig, FabricEvent, Identity, MemberState, Protocol,
    ProtocolRange, RefusalKind, RefusedBy, Site, StartError,
};
use lab::{Node, Relay, clock_off, config, id};

fn three(ca: &ClusterCa) -> [Node; 3] {
    let mut a = Node::start(config(ca, "a1", &[]));
    let mut b = Node::start(config(ca, "a2", &[a.address()]));
    a.wait_up("a2");
    b.wait_up("a1");
    let mut c = Node::start(config(ca, "b1", &[b.address()]));
    a.wait_up("b1");
    b.wait_up("b1");
    while c.fabric.members().iter().filter(|member| member.is_up()).count() < 2 {
        c.wait_for("another node up", |event| matches!(event, FabricEvent::Up { .. }).then_some(()));
    }
    [a, b, c]
}

#[test]
fn nodes_join_by_one_address_and_a_killed_one_is_missed() {
    let ca = ClusterCa::create().unwrap();
    let [mut a, mut b, mut c] = three(&ca);
    b.kill();
    assert!(matches!(a.wait_down("a2"), DownCause::Silent(_)));
    assert!(matches!(c.wait_down("a2"), DownCause::Silent(_)));
    let states: Vec<_> = a.fabric.members().into_iter().map(|member| (member.node, member.state)).collect();
    assert_eq!(states, [(id("a2"), MemberState::Dead), (id("b1"), MemberState::Alive)]);
}

#[test]
fn a_node_that_leaves_is_not_suspected_and_one_that_returns_is_up_again() {
    let ca = ClusterCa::create().unwrap();
    let [mut a, b, mut c] = three(&ca);
    b.block_on(b.fabric.shutdown());
    assert_eq!(a.wait_down("a2"), DownCause::Left);
    assert_eq!(c.wait_down("a2"), DownCause::Left);
    drop(b);
    let mut again = Node::start(config(&ca, "a2", &[a.address()]));
    a.wait_for("a2 again", |event| match event {
        FabricEvent::Up { node, restarted: true, .. } if node.as_str() == "a2" => Some(()),
        _ => None,
    });
    c.wait_up("a2");
    again.wait_up("a1");
    assert!(a.seen.iter().all(|event| !matches!(event, FabricEvent::Refused { .. })));
}

#[test]
fn a_node_whose_handles_are_dropped_is_dead_at_once() {
    let ca = ClusterCa::create().unwrap();
    let hour = Beat { interval: Duration::from_secs(10), misses: 100 };
    let patient = |name, seeds: &[_]| FabricConfig { inside: hour, ..config(&ca, name, seeds) };
    let mut a = Node::start(patient("a1", &[]));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let b = runtime.block_on(async { Fabric::start(patient("a2", &[a.address()])) }).unwrap();
    a.wait_up("a2");
    drop(b);
    assert_eq!(a.wait_down("a2"), DownCause::Closed);
    assert_eq!(a.fabric.members()[0].state, MemberState::Dead);
}

#[test]
fn what_a_node_says_of_itself_is_known_to_others() {
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(config(&ca, "a1", &[]));
    let roles = vec!["srs".to_owned(), "capture".to_owned()];
    let b = Node::start(FabricConfig {
        roles: roles.clone(),
        version: "1.2.3".to_owned(),
        ..config(&ca, "b1", &[a.address()])
    });
    a.wait_up("b1");
    b.block_on(b.fabric.set_draining(true));
    a.wait_for("a change of b1", |event| {
        matches!(event, FabricEvent::Changed { change: ferric_fabric::Change::Profile, .. }).then_some(())
    });
    let member = &a.fabric.members()[0];
    assert_eq!((&member.profile.roles, member.profile.version.as_str()), (&roles, "1.2.3"));
    assert_eq!((member.site.as_str(), member.profile.draining), ("b", true));
    assert_eq!(member.addresses, [b.address()]);
}

#[test]
fn a_foreign_ca_is_refused_and_both_sides_say_so() {
    let mut a = Node::start(config(&ClusterCa::create().unwrap(), "a1", &[]));
    let mut b = Node::start(config(&ClusterCa::create().unwrap(), "a2", &[a.address()]));
    let text = b.wait_refused(RefusedBy::Us, RefusalKind::ForeignCa);
    assert!(text.contains("not from this cluster's CA"), "{text}");
    a.wait_refused(RefusedBy::Peer, RefusalKind::ForeignCa);
    assert!(a.fabric.members().is_empty() && b.fabric.members().is_empty());
}

/// How a CA is replaced while the cluster runs: first every node trusts both.
#[test]
fn while_nodes_trust_two_authorities_certificates_of_either_are_good() {
    let [old, new] = [ClusterCa::create().unwrap(), ClusterCa::create().unwrap()];
    let both = old.pair().certificate + &new.pair().certificate;
    let trusting_both = |ca: &ClusterCa, name: &str, seeds: &[std::net::SocketAddr]| {
        let config = config(ca, name, seeds);
        let identity = Identity { node: config.node.clone(), site: config.site.clone() };
        let pair = ca.issue(&identity, 30).unwrap();
        let (certificate, key) = (pair.certificate.as_bytes(), pair.private_key.as_bytes());
        FabricConfig { credentials: Credentials::from_pem(both.as_bytes(), certificate, key).unwrap(), ..config }
    };
    let mut a = Node::start(trusting_both(&old, "a1", &[]));
    let mut b = Node::start(trusting_both(&new, "a2", &[a.address()]));
    a.wait_up("a2");
    b.wait_up("a1");
}

#[test]
fn a_client_with_a_foreign_certificate_is_refused_by_the_one_it_dials() {
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(config(&ca, "a1", &[]));
    // It trusts the cluster's CA, so it is the other side that has to find out.
    let ended = client(&ca, &ClusterCa::create().unwrap(), a.address(), b"");
    a.wait_refused(RefusedBy::Us, RefusalKind::ForeignCa);
    let error = ended.join().unwrap();
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error:?}");
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(config(&ca, "a1", &[]));
    let firsts: [&'static [u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x05hello", b"\xff\xff\xff\xff", b"\0\0\0\x0c{\"say\":\"go\"}"];
    for first in firsts {
        let error = client(&ca, &ca, a.address(), first).join().unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = error else { panic!("{first:?}: {error:?}") };
        assert_eq!(close.error_code.into_inner(), u64::from(RefusalKind::BadHello.code()));
    }
    a.wait_refused(RefusedBy::Us, RefusalKind::BadHello);
    assert!(a.fabric.members().is_empty());
}

/// Dials with a certificate of `issuer`, says something, and waits for how it ends.
fn client(
    trusted: &ClusterCa,
    issuer: &ClusterCa,
    at: std::net::SocketAddr,
    first: &'static [u8],
) -> std::thread::JoinHandle<quinn::ConnectionError> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let pair = issuer.issue(&Identity { node: id("a2"), site: Site::new("a").unwrap() }, 30).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pair().certificate.as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(pair.private_key.as_bytes()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![b"ferric-fabric".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            endpoint.set_default_client_config(quinn::ClientConfig::new(std::sync::Arc::new(crypto)));
            let connection = match endpoint.connect(at, "node.ferric.internal").unwrap().await {
                Ok(connection) => connection,
                Err(error) => return error,
            };
            if let Ok((mut send, _receive)) = connection.open_bi().await {
                let _ = send.write_all(first).await;
                return connection.closed().await;
            }
            connection.closed().await
        })
    })
}

#[test]
fn a_second_node_with_the_same_id_is_refused_and_the_first_stays() {
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(config(&ca, "a2", &[]));
    let mut first = Node::start(config(&ca, "a1", &[a.address()]));
    a.wait_up("a1");
    first.wait_up("a2");
    let mut second = Node::start(config(&ca, "a1", &[a.address()]));
    let text = a.wait_refused(RefusedBy::Us, RefusalKind::DuplicateId);
    assert!(text.contains("a1"), "{text}");
    second.wait_refused(RefusedBy::Peer, RefusalKind::DuplicateId);
    assert!(a.seen.iter().all(|event| !matches!(event, FabricEvent::Down { .. })), "{:?}", a.seen);
    assert!(a.fabric.members()[0].is_up());
}

#[test]
fn another_cluster_is_refused() {
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(config(&ca, "a1", &[]));
    let lab = ClusterName::new("lab").unwrap();
    let _b = Node::start(FabricConfig { cluster: lab, ..config(&ca, "a2", &[a.address()]) });
    assert!(a.wait_refused(RefusedBy::Us, RefusalKind::Cluster).contains("lab"));
}

#[test]
fn a_protocol_too_old_is_refused_and_the_one_before_is_spoken() {
    let range = |min, max| ProtocolRange { min: Protocol(min), max: Protocol(max) };
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(FabricConfig { protocol: range(2, 3), ..config(&ca, "a1", &[]) });
    let mut old = Node::start(FabricConfig { protocol: range(1, 1), ..config(&ca, "a2", &[a.address()]) });
    let text = a.wait_refused(RefusedBy::Us, RefusalKind::Protocol);
    assert!(text.contains("1 to 1") && text.contains("2 to 3"), "{text}");
    // Both judge alike, and whoever is first closes: the other one reads it from the wire or says it itself.
    old.wait_for("a refusal", |event| match event {
        FabricEvent::Refused { refusal, .. } if refusal.kind == RefusalKind::Protocol => Some(()),
        _ => None,
    });
    let _before = Node::start(FabricConfig { protocol: range(1, 2), ..config(&ca, "a3", &[a.address()]) });
    let protocol = a.wait_for("a3 up", |event| match event {
        FabricEvent::Up { node, protocol, .. } if node.as_str() == "a3" => Some(*protocol),
        _ => None,
    });
    assert_eq!(protocol, Protocol(2));
}

#[test]
fn a_wrong_clock_is_refused_and_a_slightly_wrong_one_is_an_alarm() {
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(config(&ca, "a1", &[]));
    let _far = Node::start(FabricConfig { wall_clock: clock_off(-120), ..config(&ca, "a2", &[a.address()]) });
    let text = a.wait_refused(RefusedBy::Us, RefusalKind::Clock);
    assert!(text.contains("behind") && text.contains("NTP"), "{text}");
    let _near = Node::start(FabricConfig { wall_clock: clock_off(5), ..config(&ca, "a3", &[a.address()]) });
    let ahead_ms = a.wait_for("a clock alarm", |event| match event {
        FabricEvent::Clock { ahead_ms, alarm: true, .. } => Some(*ahead_ms),
        _ => None,
    });
    assert!(ahead_ms > 2000, "{ahead_ms}");
}

#[test]
fn a_certificate_outside_its_dates_is_refused_and_the_clocks_are_named() {
    let ca = ClusterCa::create().unwrap();
    // By the clock of this node all is in the future: certificates of 30 days have ended in 60, its own of 90 has not.
    let identity = Identity { node: id("a1"), site: Site::new("a").unwrap() };
    let long = ca.issue(&identity, 90).unwrap();
    let pem = ca.pair().certificate;
    let credentials =
        ferric_fabric::Credentials::from_pem(pem.as_bytes(), long.certificate.as_bytes(), long.private_key.as_bytes());
    let mut a = Node::start(FabricConfig {
        credentials: credentials.unwrap(),
        wall_clock: clock_off(60 * 86_400),
        ..config(&ca, "a1", &[])
    });
    let mut b = Node::start(config(&ca, "a2", &[a.address()]));
    let text = a.wait_refused(RefusedBy::Us, RefusalKind::NotValidNow);
    assert!(text.contains("clocks differ"), "{text}");
    b.wait_refused(RefusedBy::Peer, RefusalKind::NotValidNow);
}

#[test]
fn a_node_does_not_start_with_a_certificate_that_others_would_refuse() {
    let ca = ClusterCa::create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = |config| runtime.block_on(async { Fabric::start(config) }).err().unwrap();
    let refused = |config, kind| match start(config) {
        StartError::OwnCertificate(refusal) if refusal.kind == kind => {}
        other => panic!("{other}"),
    };
    refused(FabricConfig { node: id("a9"), ..config(&ca, "a1", &[]) }, RefusalKind::Identity);
    refused(FabricConfig { wall_clock: clock_off(40 * 86_400), ..config(&ca, "a1", &[]) }, RefusalKind::NotValidNow);
    refused(FabricConfig { wall_clock: clock_off(-7200), ..config(&ca, "a1", &[]) }, RefusalKind::NotValidNow);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = start(FabricConfig { listen: taken.local_addr().unwrap(), ..config(&ca, "a1", &[]) });
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
}

#[test]
fn over_a_path_that_loses_and_delays_the_link_is_measured_and_a_cut_heals() {
    let ca = ClusterCa::create().unwrap();
    let delay = Duration::from_millis(20);
    let (to_a, to_b) = (Relay::start(delay, 20), Relay::start(delay, 20));
    let beat = Beat { interval: Duration::from_millis(20), misses: 50 };
    let through = |relay: &Relay, name, seeds: &[_]| FabricConfig {
        advertise: vec![relay.address],
        between: beat,
        ..config(&ca, name, seeds)
    };
    let mut a = Node::start(through(&to_a, "a1", &[]));
    to_a.to.store(a.address().port().into(), Ordering::Relaxed);
    let mut b = Node::start(through(&to_b, "b1", &[to_a.address]));
    to_b.to.store(b.address().port().into(), Ordering::Relaxed);
    a.wait_up("b1");
    b.wait_up("a1");
    let measured = |node: &Node| {
        let quality = node.fabric.members()[0].quality;
        quality.filter(|quality| quality.loss > 0.0 && quality.rtt.is_some())
    };
    let end = std::time::Instant::now() + lab::PATIENCE;
    let quality = loop {
        assert!(std::time::Instant::now() < end, "never measured: {:?}", a.fabric.members());
        match measured(&a) {
            Some(quality) => break quality,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(quality.rtt.unwrap() >= delay * 2 && quality.loss < 0.5, "{quality:?}");

    for relay in [&to_a, &to_b] {
        relay.cut.store(true, Ordering::Relaxed);
    }
    assert!(matches!(a.wait_down("b1"), DownCause::Silent(_)));
    assert!(matches!(b.wait_down("a1"), DownCause::Silent(_)));
    for relay in [&to_a, &to_b] {
        relay.cut.store(false, Ordering::Relaxed);
    }
    a.wait_up("b1");
    b.wait_up("a1");
}
