//! The whole source against a server of a few lines, on real sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::load::{LoadCodec, LoadTransport, TlsClient, Trouble};
use bytes::Bytes;
use ferric_sip::framing::{Frame, StreamFramer};
use ferric_sip::{Message, Method};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Answers as a recorder would that has this Contact and these two ports; call 3 is refused.
fn answer(request: &Message, contact: &str, ports: [u16; 2]) -> Option<Message> {
    let method = request.method();
    if method == Method::Ack {
        return None;
    }
    let refused = method == Method::Invite && request.call_id().unwrap().contains("-3@");
    let mut response = Message::response(request, if refused { 503 } else { 200 }, None);
    response.set_to_tag("srs");
    if method == Method::Invite && !refused {
        response.add_header("Contact", contact);
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 0\r\na=rtcp-mux\r\n\
             a=recvonly\r\nm=audio {} RTP/AVP 0\r\na=rtcp-mux\r\na=recvonly\r\n",
            ports[0], ports[1]
        );
        response.set_body("application/sdp", Bytes::from(sdp));
    }
    Some(response)
}

/// Two sockets that count RTP packets.
async fn media() -> ([u16; 2], Arc<AtomicU64>) {
    let (mut ports, counter) = ([0; 2], Arc::new(AtomicU64::new(0)));
    for port in &mut ports {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        *port = socket.local_addr().unwrap().port();
        let counter = Arc::clone(&counter);
        tokio::spawn(async move {
            let mut buffer = [0; 2_000];
            while socket.recv(&mut buffer).await.is_ok() {
                counter.fetch_add(u64::from(buffer[1] & 0x7f < 72), Ordering::Relaxed);
            }
        });
    }
    (ports, counter)
}

async fn serve_stream(mut stream: impl AsyncRead + AsyncWrite + Unpin, contact: String, ports: [u16; 2]) {
    let (mut framer, mut buffer) = (StreamFramer::new(65_535), [0; 4_096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        framer.push(&buffer[..length]);
        while let Some(Frame::Message(bytes)) = framer.next_frame().unwrap() {
            if let Some(response) = answer(&Message::parse(bytes).unwrap(), &contact, ports) {
                stream.write_all(&response.to_bytes()).await.unwrap();
            }
        }
    }
}

fn config(to: SocketAddr, transport: LoadTransport) -> LoadConfig {
    let speech =
        [ferric_codecs::testing::syllables(8_000, 16_000, 1), ferric_codecs::testing::syllables(8_000, 16_000, 2)];
    LoadConfig {
        transport,
        calls: 8,
        rate_cps: 100.0,
        hold: Duration::from_millis(400),
        stagger: true,
        ..LoadConfig::new(to, speech, 8_000)
    }
}

fn check_report(report: &LoadReport, received: u64) {
    assert_eq!((report.calls.len(), report.answered, report.completed), (8, 7, 7), "{report}");
    assert_eq!(report.failures.get(&Outcome::Refused(503)), Some(&1));
    assert_eq!((report.packets, received), (7 * 2 * 20, 7 * 2 * 20));
    assert!(report.calls[3].set_up.is_none() && report.calls[3].packets == 0);
    assert_eq!(report.calls[2].speech_offset, Duration::from_millis(2 * 37 * 20));
}

#[tokio::test]
async fn calls_are_made_over_udp() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let (ports, received) = media().await;
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, from)) = server.recv_from(&mut buffer).await {
            let message = Message::parse(Bytes::copy_from_slice(&buffer[..length])).unwrap();
            if let Some(response) = answer(&message, &format!("<sip:srs@{to}>"), ports) {
                server.send_to(&response.to_bytes(), from).await.unwrap();
            }
        }
    });
    let mut last = Progress::default();
    let report = run(config(to, LoadTransport::Udp), |progress| last = progress).await.unwrap();
    check_report(&report, received.load(Ordering::Relaxed));
    assert_eq!(last, Progress { started: 8, talking: 0, completed: 7, failed: 1, packets: 280 });
}

#[tokio::test]
async fn calls_are_made_over_tcp_and_tls() {
    let certified = rcgen::generate_simple_self_signed(vec!["srs.example.com".to_owned()]).unwrap();
    let pem = certified.cert.pem().into_bytes();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certified.cert.der().clone()],
            rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let client = TlsClient { server_name: Some("srs.example.com".to_owned()), ca: Some(pem), identity: None };
    for transport in [LoadTransport::Tcp, LoadTransport::Tls(client), LoadTransport::Tls(TlsClient::default())] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let (ports, received) = media().await;
        let tls = matches!(transport, LoadTransport::Tls(_)).then(|| acceptor.clone());
        let contact = format!("<sip:srs@{to};transport={}>", if tls.is_some() { "tls" } else { "tcp" });
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            match tls {
                Some(acceptor) => serve_stream(acceptor.accept(stream).await.unwrap(), contact, ports).await,
                None => serve_stream(stream, contact, ports).await,
            }
        });
        let report = run(config(to, transport), |_| ()).await.unwrap();
        check_report(&report, received.load(Ordering::Relaxed));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_as_such() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for transport in [LoadTransport::Tcp, LoadTransport::Udp] {
        let report = run(config(closed, transport), |_| ()).await.unwrap();
        assert_eq!(report.failures.get(&Outcome::Unreachable), Some(&8), "{report}");
    }
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_is_sent() {
    let to = "127.0.0.1:9".parse().unwrap();
    let broken: [fn(&mut LoadConfig); 5] = [
        |config| config.calls = 0,
        |config| config.rate_cps = 0.0,
        |config| config.trouble = Trouble { loss: 1.5, ..Trouble::default() },
        |config| config.speech = [vec![], vec![]],
        |config| (config.marked, config.codec) = (true, LoadCodec::G722),
    ];
    for breaks in broken {
        let mut config = config(to, LoadTransport::Udp);
        breaks(&mut config);
        let result = run(config, |_| ()).await;
        assert!(matches!(result, Err(LoadError::Config(_))));
    }
}
