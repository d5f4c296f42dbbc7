//! TLS towards peers: who they must prove to be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, dead_code)]

mod rig;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use ferric_sip_io::{Inbound, IoLimits, ListenerConfig, SipSockets, client_config, server_config};
use rig::{Pki, next_failure, next_message, options};
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
    SipSockets::bind(Vec::new(), IoLimits::default(), Some(client_config(&pki.file("ca.crt"), None).unwrap()))
        .await
        .unwrap()
}

fn to(remote: SocketAddr) -> Flow {
    Flow { transport: Transport::Tls, local: "127.0.0.1:5061".parse().unwrap(), remote, connection: 0 }
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
    edge.set_server_name(address, "other.example.com".into());
    edge.send(&to(address), Bytes::from(options("other")));
    assert_eq!(next_failure(&mut inbound).await, to(address), "nor for that name");
    assert_eq!(edge.stats().handshakes_failed.load(Ordering::Relaxed), 2);
    edge.set_server_name(address, "sip.example.com".into());
    edge.send(&to(address), Bytes::from(options("named")));
    edge.send(&to(address), Bytes::from(options("same")));
    for expected in ["named", "same"] {
        assert_eq!(next_message(&mut got).await.1.call_id().unwrap(), expected);
    }
    assert_eq!(edge.connections(), 1);
    // What was proven for one name is not taken for another.
    edge.set_server_name(address, "other.example.com".into());
    edge.send(&to(address), Bytes::from(options("again")));
    assert_eq!(next_failure(&mut inbound).await, to(address));
}

#[tokio::test]
async fn a_name_that_is_none_and_a_node_without_authorities_are_failures_not_hangs() {
    let pki = Pki::new();
    let (_element, _got, address) = element(&pki, "named").await;
    let (edge, mut inbound) = edge(&pki).await;
    edge.set_server_name(address, "not a name".into());
    edge.send(&to(address), Bytes::from(options("n")));
    assert_eq!(next_failure(&mut inbound).await, to(address));
    let (bare, mut inbound) = SipSockets::bind(Vec::new(), IoLimits::default(), None).await.unwrap();
    bare.send(&to(address), Bytes::from(options("b")));
    assert_eq!(next_failure(&mut inbound).await, to(address));
}

#[test]
fn the_systems_authorities_are_used_or_their_absence_is_said() {
    match ferric_sip_io::system_client_config(None) {
        Ok(_) => {}
        Err(error) => assert!(error.to_string().contains("ca-certificates"), "{error}"),
    }
}
