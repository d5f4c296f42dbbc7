//! TLS towards peers: who they must prove to be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, dead_code)]

mod rig;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip_io::{Inbound, InboundKind, IoLimits, ListenerConfig, SipSockets, client_config, server_config};
use rig::{Pki, next, next_failure, next_message, options};
use tokio::sync::mpsc::Receiver;

async fn element(pki: &Pki, certificate: &str) -> (SipSockets, Receiver<Inbound>, SocketAddr) {
    let config =
        server_config(&pki.file(&format!("{certificate}.crt")), &pki.file(&format!("{certificate}.key")), None);
    let listener = ListenerConfig {
        transport: Transport::Tls,
        address: "127.0.0.1:0".parse().unwrap(),
        tls: Some(config.unwrap()),
    };
    let (sockets, inbound) = SipSockets::bind(vec![listener], IoLimits::default(), None).await.unwrap();
    let address = sockets.listeners()[0].1;
    (sockets, inbound, address)
}

async fn edge(pki: &Pki) -> (SipSockets, Receiver<Inbound>) {
    SipSockets::bind(Vec::new(), IoLimits::default(), Some(client_config(&pki.file("ca.crt"), None).unwrap().into()))
        .await
        .unwrap()
}

fn to(remote: SocketAddr) -> Flow {
    Flow { transport: Transport::Tls, local: "127.0.0.1:5061".parse().unwrap(), remote, connection: 0 }
}

fn named(remote: SocketAddr, name: &str) -> Destination {
    Destination { flow: to(remote), server_name: Some(name.into()) }
}

#[tokio::test]
async fn a_peer_without_a_name_proves_its_address() {
    let pki = Pki::new();
    let (_element, mut got, address) = element(&pki, "server").await;
    let (edge, _inbound) = edge(&pki).await;
    edge.send(&to(address), Bytes::from(options("ip")));
    assert_eq!(next_message(&mut got).await.1.call_id().unwrap(), "ip");
}

#[tokio::test]
async fn a_peer_with_a_name_proves_that_name() {
    let pki = Pki::new();
    let (_element, mut got, address) = element(&pki, "named").await;
    let (edge, mut inbound) = edge(&pki).await;
    edge.send(&to(address), Bytes::from(options("address")));
    assert_eq!(next_failure(&mut inbound).await, to(address), "its certificate is for no address");
    edge.send(named(address, "other.example.com"), Bytes::from(options("other")));
    assert_eq!(next_failure(&mut inbound).await, to(address), "nor for that name");
    assert_eq!(edge.stats().handshakes_failed.load(Ordering::Relaxed), 2);
    edge.send(named(address, "sip.example.com"), Bytes::from(options("named")));
    edge.send(named(address, "sip.example.com"), Bytes::from(options("same")));
    for expected in ["named", "same"] {
        assert_eq!(next_message(&mut got).await.1.call_id().unwrap(), expected);
    }
    assert_eq!(edge.connections(), 1);
}

#[tokio::test]
async fn two_names_that_lead_to_one_address_do_not_disturb_each_other() {
    let pki = Pki::new();
    let (_element, mut got, address) = element(&pki, "named").await;
    let (edge, mut inbound) = edge(&pki).await;
    // Both wait for their connection at the same time, and each is asked for its own name.
    edge.send(named(address, "other.example.com"), Bytes::from(options("other")));
    edge.send(named(address, "sip.example.com"), Bytes::from(options("named")));
    edge.send(named(address, "other.example.com"), Bytes::from(options("again")));
    assert_eq!(next_message(&mut got).await.1.call_id().unwrap(), "named");
    let failed = next(&mut inbound).await;
    assert!(
        matches!(&failed.kind, InboundKind::TransportError { server_name: Some(name) } if **name == *"other.example.com"),
        "{:?}",
        failed.kind
    );
    // What was proven for one name is not taken for another.
    edge.send(named(address, "other.example.com"), Bytes::from(options("later")));
    assert_eq!(next_failure(&mut inbound).await, to(address));
    edge.send(named(address, "sip.example.com"), Bytes::from(options("still")));
    assert_eq!(next_message(&mut got).await.1.call_id().unwrap(), "still");
}

#[tokio::test]
async fn a_name_that_is_none_and_a_node_without_authorities_are_failures_not_hangs() {
    let pki = Pki::new();
    let (_element, _got, address) = element(&pki, "named").await;
    let (edge, mut inbound) = edge(&pki).await;
    edge.send(named(address, "not a name"), Bytes::from(options("n")));
    assert_eq!(next_failure(&mut inbound).await, to(address));
    let (bare, mut inbound) = SipSockets::bind(Vec::new(), IoLimits::default(), None).await.unwrap();
    bare.send(&to(address), Bytes::from(options("b")));
    assert_eq!(next_failure(&mut inbound).await, to(address));
}

#[tokio::test]
async fn the_systems_authorities_are_read_when_somebody_is_to_be_reached() {
    let pki = Pki::new();
    let (_element, _got, address) = element(&pki, "named").await;
    // Nobody vouches for it, or there is nobody to vouch: it fails either way, and both are tried again.
    let system = ferric_sip_io::ClientTls::of_system(None);
    let (edge, mut inbound) = SipSockets::bind(Vec::new(), IoLimits::default(), Some(system)).await.unwrap();
    for _ in 0..2 {
        edge.send(to(address), Bytes::from(options("s")));
        assert_eq!(next_failure(&mut inbound).await, to(address));
    }
}

#[test]
fn the_systems_authorities_are_used_or_their_absence_is_said() {
    match ferric_sip_io::system_client_config(None) {
        Ok(_) => {}
        Err(error) => assert!(error.to_string().contains("ca-certificates"), "{error}"),
    }
}
