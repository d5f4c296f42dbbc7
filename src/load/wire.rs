//! The client side of SIP's transports: one socket for all calls of a run.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferric_sip::framing::{Frame, StreamFramer};
use ferric_sip::{Flow, Transport};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::config::{LoadError, LoadTransport, TlsClient};

/// Largest message taken from the server, in bytes.
const MAX_MESSAGE: usize = 65_535;
/// Messages that may wait in each direction before the other side has to.
const QUEUE: usize = 1_024;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the wire brought.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// The bytes of one message.
    Message(Bytes),
    /// A datagram could not be delivered; the socket goes on.
    Refused,
    /// The connection is over.
    Closed,
}

/// A socket with its tasks; they end with it.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) flow: Flow,
    outgoing: mpsc::Sender<Bytes>,
    incoming: mpsc::Receiver<WireEvent>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Wire {
    /// Connects; `number` tells this connection from earlier ones.
    pub(super) async fn connect(to: SocketAddr, transport: &LoadTransport, number: u64) -> Result<Wire, LoadError> {
        let reach = |error| LoadError::Connect { to, error };
        match transport {
            LoadTransport::Udp => Wire::udp(to).await.map_err(reach),
            LoadTransport::Tcp => {
                let stream = tcp(to).await.map_err(reach)?;
                let flow = flow(&stream, Transport::Tcp, number).map_err(reach)?;
                Ok(Wire::stream(stream, flow))
            }
            LoadTransport::Tls(client) => {
                let config = Arc::new(client_config(client)?);
                let name = match &client.server_name {
                    Some(name) => {
                        ServerName::try_from(name.clone()).map_err(|error| LoadError::Tls(error.to_string()))?
                    }
                    None => ServerName::IpAddress(to.ip().into()),
                };
                let stream = tcp(to).await.map_err(reach)?;
                let flow = flow(&stream, Transport::Tls, number).map_err(reach)?;
                let connect = tokio_rustls::TlsConnector::from(config).connect(name, stream);
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
                    .await
                    .map_err(|_| LoadError::Tls("the handshake takes too long".to_owned()))?
                    .map_err(|error| LoadError::Tls(error.to_string()))?;
                Ok(Wire::stream(stream, flow))
            }
        }
    }

    async fn udp(to: SocketAddr) -> io::Result<Wire> {
        let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let socket = Arc::new(UdpSocket::bind((any, 0)).await?);
        socket.connect(to).await?;
        let flow = Flow { transport: Transport::Udp, local: socket.local_addr()?, remote: to, connection: 0 };
        let (outgoing, mut to_send) = mpsc::channel::<Bytes>(QUEUE);
        let (received, incoming) = mpsc::channel(QUEUE);
        let (reader, refused) = (Arc::clone(&socket), received.clone());
        let read = tokio::spawn(async move {
            let mut buffer = vec![0; MAX_MESSAGE];
            loop {
                let event = match reader.recv(&mut buffer).await {
                    Ok(length) => WireEvent::Message(Bytes::copy_from_slice(buffer.get(..length).unwrap_or(&[]))),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => WireEvent::Refused,
                    Err(_) => WireEvent::Closed,
                };
                let over = matches!(event, WireEvent::Closed);
                if received.send(event).await.is_err() || over {
                    break;
                }
            }
        });
        let write = tokio::spawn(async move {
            while let Some(bytes) = to_send.recv().await {
                if socket.send(&bytes).await.is_err() && refused.send(WireEvent::Refused).await.is_err() {
                    break;
                }
            }
        });
        Ok(Wire { flow, outgoing, incoming, tasks: vec![read, write] })
    }

    fn stream<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, flow: Flow) -> Wire {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (outgoing, mut to_send) = mpsc::channel::<Bytes>(QUEUE);
        let (received, incoming) = mpsc::channel(QUEUE);
        let pong = outgoing.clone();
        let read = tokio::spawn(async move {
            let mut framer = StreamFramer::new(MAX_MESSAGE);
            let mut buffer = vec![0; 16 * 1_024];
            'connection: while let Ok(length @ 1..) = reader.read(&mut buffer).await {
                framer.push(buffer.get(..length).unwrap_or(&[]));
                loop {
                    let event = match framer.next_frame() {
                        Ok(Some(Frame::Message(bytes))) => WireEvent::Message(bytes),
                        Ok(Some(Frame::Ping)) => {
                            let _ = pong.try_send(Bytes::from_static(b"\r\n"));
                            continue;
                        }
                        Ok(Some(Frame::Pong)) => continue,
                        Ok(None) => break,
                        Err(error) => {
                            tracing::warn!(%error, "the server's stream cannot be read on");
                            break 'connection;
                        }
                    };
                    if received.send(event).await.is_err() {
                        return;
                    }
                }
            }
            let _ = received.send(WireEvent::Closed).await;
        });
        let write = tokio::spawn(async move {
            // When the peer is gone the reader tells; until then nothing more is written.
            while let Some(bytes) = to_send.recv().await {
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
            }
        });
        Wire { flow, outgoing, incoming, tasks: vec![read, write] }
    }

    /// Sends a message; waits while the socket does not take more.
    pub(super) async fn send(&self, bytes: Bytes) {
        // A closed queue is a broken connection, which `receive` tells.
        let _ = self.outgoing.send(bytes).await;
    }

    /// What comes next.
    pub(super) async fn receive(&mut self) -> WireEvent {
        self.incoming.recv().await.unwrap_or(WireEvent::Closed)
    }
}

async fn tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn flow(stream: &TcpStream, transport: Transport, connection: u64) -> io::Result<Flow> {
    Ok(Flow { transport, local: stream.local_addr()?, remote: stream.peer_addr()?, connection })
}

fn client_config(client: &TlsClient) -> Result<ClientConfig, LoadError> {
    let tls = |error: rustls::Error| LoadError::Tls(error.to_string());
    let pem = |error: rustls_pki_types::pem::Error| LoadError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(tls)?;
    let builder = match &client.ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(ca) {
                roots.add(certificate.map_err(pem)?).map_err(tls)?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider))),
    };
    match &client.identity {
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(pem)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(pem)?;
            builder.with_client_auth_cert(chain, key).map_err(tls)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Takes any certificate whose key the server holds.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn certificates_that_are_none_are_named_as_such() {
        assert!(client_config(&TlsClient::default()).is_ok());
        let broken = TlsClient { identity: Some((b"x".to_vec(), b"y".to_vec())), ..TlsClient::default() };
        assert!(matches!(client_config(&broken), Err(LoadError::Tls(_))));
    }

    #[tokio::test]
    async fn a_closed_stream_is_told_after_what_it_brought() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mut wire = Wire::connect(to, &LoadTransport::Tcp, 1).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        wire.send(Bytes::from_static(b"hello")).await;
        let mut hello = [0; 5];
        server.read_exact(&mut hello).await.unwrap();
        let options = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 0\r\n\r\n";
        server.write_all(options).await.unwrap();
        drop(server);
        assert!(matches!(wire.receive().await, WireEvent::Message(bytes) if bytes == options[..]));
        assert!(matches!(wire.receive().await, WireEvent::Closed));
    }
}
