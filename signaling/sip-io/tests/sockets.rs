//! The shell on loopback: what goes in comes out parsed, what is broken is
//! answered, what is too much is bounded.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ferric_sip::flow::Transport;
use ferric_sip::message::Message;
use ferric_sip_io::{Inbound, InboundKind, IoLimits, ListenerConfig, SipSockets, client_config, server_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

fn options(call_id: &str) -> String {
    format!(
        "OPTIONS sip:srs@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK{call_id}\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:c@d>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

async fn start(transport: Transport, limits: IoLimits) -> (SipSockets, Receiver<Inbound>, SocketAddr) {
    let listener = ListenerConfig { transport, address: "127.0.0.1:0".parse().unwrap(), tls: None };
    let (sockets, inbound) = SipSockets::bind(vec![listener], limits, None).await.unwrap();
    let address = sockets.listeners()[0].1;
    (sockets, inbound, address)
}

async fn next(inbound: &mut Receiver<Inbound>) -> Inbound {
    timeout(PATIENCE, inbound.recv()).await.unwrap().unwrap()
}

/// Connections that ended before are passed over.
async fn next_message(inbound: &mut Receiver<Inbound>) -> (ferric_sip::Flow, Message) {
    loop {
        let inbound = next(inbound).await;
        match inbound.kind {
            InboundKind::Message(message) => return (inbound.flow, message),
            InboundKind::TransportError { .. } => {}
            other @ InboundKind::Malformed { .. } => panic!("{other:?}"),
        }
    }
}

async fn read_some(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut buffer = vec![0; 4_096];
    let length = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test]
async fn a_datagram_is_answered_from_the_socket_that_got_it() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = ListenerConfig { transport: Transport::Udp, address: address.parse().unwrap(), tls: None };
        let (sockets, mut inbound) = SipSockets::bind(vec![listener], IoLimits::default(), None).await.unwrap();
        let peer = UdpSocket::bind(address).await.unwrap();
        peer.send_to(b"\r\n\r\n", sockets.listeners()[0].1).await.unwrap();
        peer.send_to(options("u1").as_bytes(), sockets.listeners()[0].1).await.unwrap();
        let (flow, message) = next_message(&mut inbound).await;
        sockets.send(&flow, Message::response(&message, 200, None).to_bytes());
        let mut buffer = [0; 2_048];
        let (length, from) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert!(buffer[..length].starts_with(b"SIP/2.0 200 OK"));
        assert_eq!(from, sockets.listeners()[0].1);
    }
}

#[tokio::test]
async fn a_stream_in_pieces_with_keep_alives_gives_whole_messages() {
    let (sockets, mut inbound, address) = start(Transport::Tcp, IoLimits::default()).await;
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.set_nodelay(true).unwrap();
    peer.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(read_some(&mut peer).await, "\r\n");
    let text = options("t1") + &options("t2");
    for piece in text.as_bytes().chunks(50) {
        peer.write_all(piece).await.unwrap();
    }
    assert_eq!(next_message(&mut inbound).await.1.call_id().unwrap(), "t1");
    let (flow, second) = next_message(&mut inbound).await;
    sockets.send(&flow, Message::response(&second, 200, None).to_bytes());
    assert!(read_some(&mut peer).await.starts_with("SIP/2.0 200 OK"));
}

#[tokio::test]
async fn broken_requests_are_answered_and_a_stream_without_length_is_closed() {
    let (_sockets, mut inbound, address) = start(Transport::Tcp, IoLimits::default()).await;
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(options("x").replace("SIP/2.0\r\nVia", "SIP/7.0\r\nVia").as_bytes()).await.unwrap();
    assert!(read_some(&mut peer).await.starts_with("SIP/2.0 505"));
    assert!(matches!(next(&mut inbound).await.kind, InboundKind::Malformed { answered: Some(505), .. }));
    peer.write_all(options("y").replace("Content-Length: 0\r\n", "").as_bytes()).await.unwrap();
    assert!(read_some(&mut peer).await.starts_with("SIP/2.0 400"));
    assert_eq!(read_some(&mut peer).await, "", "the connection is closed");
}

#[tokio::test]
async fn a_megabyte_of_header_ends_the_connection_and_not_the_memory() {
    let (_sockets, mut inbound, address) = start(Transport::Tcp, IoLimits::default()).await;
    let mut peer = TcpStream::connect(address).await.unwrap();
    let big = format!("OPTIONS sip:a SIP/2.0\r\nX: {}", "a".repeat(1 << 20));
    // The connection may be closed while we still write.
    let _ = peer.write_all(big.as_bytes()).await;
    assert!(matches!(next(&mut inbound).await.kind, InboundKind::Malformed { .. }));
}

#[tokio::test]
async fn a_source_that_sends_too_much_is_slowed_down() {
    let limits = IoLimits { messages_per_second: 5, ..IoLimits::default() };
    let (sockets, mut inbound, address) = start(Transport::Tcp, limits).await;
    let mut peer = TcpStream::connect(address).await.unwrap();
    for n in 0..50 {
        peer.write_all(options(&format!("r{n}")).as_bytes()).await.unwrap();
    }
    next_message(&mut inbound).await;
    let limited = async {
        while sockets.stats().rate_limited.load(Ordering::Relaxed) < 30 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, limited).await.unwrap();
}

#[tokio::test]
async fn connections_of_one_source_are_counted() {
    let limits = IoLimits { max_connections_per_source: 2, ..IoLimits::default() };
    let (sockets, _inbound, address) = start(Transport::Tcp, limits).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(read_some(peers.last_mut().unwrap()).await, "", "the third is closed");
    assert_eq!(sockets.connections(), 2);
}

#[tokio::test]
async fn a_connection_is_opened_for_a_peer_that_has_none_and_its_failure_is_told() {
    let (sockets, mut inbound, _) = start(Transport::Tcp, IoLimits::default()).await;
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flow = ferric_sip::Flow {
        transport: Transport::Tcp,
        local: sockets.listeners()[0].1,
        remote: peer.local_addr().unwrap(),
        connection: 0,
    };
    sockets.send(&flow, Bytes::from(options("o1")));
    let (mut stream, _) = timeout(PATIENCE, peer.accept()).await.unwrap().unwrap();
    assert!(read_some(&mut stream).await.starts_with("OPTIONS"));
    drop((stream, peer));
    let lost = next(&mut inbound).await;
    assert!(
        matches!(lost.kind, InboundKind::TransportError { .. })
            && lost.flow.remote == flow.remote
            && lost.flow.connection != 0
    );
    let nobody = TcpStreamAddress::unused().await;
    sockets.send(&ferric_sip::Flow { remote: nobody, ..flow }, Bytes::from(options("o2")));
    let failed = next(&mut inbound).await;
    assert!(matches!(failed.kind, InboundKind::TransportError { .. }) && failed.flow.remote == nobody);
}

struct TcpStreamAddress;

impl TcpStreamAddress {
    async fn unused() -> SocketAddr {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }
}

struct Pki {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn pki() -> Pki {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    std::fs::write(path.join("ca.crt"), ca_certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(path.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(path.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    Pki { _folder: folder, path }
}

#[tokio::test]
async fn tls_works_and_mutual_tls_wants_a_certificate() {
    let pki = pki();
    let file = |name: &str| pki.path.join(name);
    for mutual in [false, true] {
        let ca = file("ca.crt");
        let config = server_config(&file("server.crt"), &file("server.key"), mutual.then_some(ca.as_path())).unwrap();
        let listener =
            ListenerConfig { transport: Transport::Tls, address: "127.0.0.1:0".parse().unwrap(), tls: Some(config) };
        let (sockets, mut inbound) = SipSockets::bind(vec![listener], IoLimits::default(), None).await.unwrap();
        let address = sockets.listeners()[0].1;
        for with_certificate in [false, true] {
            let (certificate, key) = (file("client.crt"), file("client.key"));
            let identity = with_certificate.then_some((certificate.as_path(), key.as_path()));
            let client = client_config(&ca, identity).unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
            let mut stream = tokio_rustls::TlsConnector::from(Arc::clone(&client)).connect(name, stream).await.unwrap();
            let _ = stream.write_all(options("tls").as_bytes()).await;
            if mutual && !with_certificate {
                let mut buffer = [0; 100];
                let read = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
                assert!(matches!(read, Err(_) | Ok(0)), "the handshake is refused");
                continue;
            }
            let (flow, message) = next_message(&mut inbound).await;
            assert_eq!(flow.transport, Transport::Tls);
            sockets.send(&flow, Message::response(&message, 200, None).to_bytes());
            assert!(read_some(&mut stream).await.starts_with("SIP/2.0 200 OK"));
        }
    }
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named() {
    let pki = pki();
    let missing = server_config(&pki.path.join("none.crt"), &pki.path.join("server.key"), None).unwrap_err();
    assert!(missing.to_string().contains("none.crt"));
    let swapped = server_config(&pki.path.join("server.key"), &pki.path.join("server.key"), None).unwrap_err();
    assert!(swapped.to_string().contains("server.key"));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let (_sockets, _inbound, address) = start(Transport::Tcp, IoLimits::default()).await;
    let listener = ListenerConfig { transport: Transport::Tcp, address, tls: None };
    let Err(error) = SipSockets::bind(vec![listener], IoLimits::default(), None).await else { panic!("bound twice") };
    assert!(error.to_string().contains(&address.to_string()));
}
