//! What the tests of the sockets share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip_io::{Inbound, InboundKind, IoLimits, ListenerConfig, SipSockets};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Nothing here takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A request.
pub(crate) fn options(call_id: &str) -> String {
    format!(
        "OPTIONS sip:srs@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK{call_id}\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:c@d>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A response.
pub(crate) fn response(call_id: &str) -> String {
    options(call_id).replace("OPTIONS sip:srs@127.0.0.1 SIP/2.0", "SIP/2.0 200 OK")
}

/// One listener on loopback.
pub(crate) async fn start(
    transport: Transport,
    address: &str,
    limits: IoLimits,
) -> (SipSockets, Receiver<Inbound>, SocketAddr) {
    let listener = ListenerConfig { transport, address: address.parse().unwrap(), tls: None };
    let (sockets, inbound) = SipSockets::bind(vec![listener], limits, None).await.unwrap();
    let address = sockets.listeners()[0].1;
    (sockets, inbound, address)
}

/// The next thing that the driver hears.
pub(crate) async fn next(inbound: &mut Receiver<Inbound>) -> Inbound {
    timeout(PATIENCE, inbound.recv()).await.expect("nothing came").expect("the sockets are gone")
}

/// The next thing, which must be a message.
pub(crate) async fn next_message(inbound: &mut Receiver<Inbound>) -> (Flow, Message) {
    let inbound = next(inbound).await;
    match inbound.kind {
        InboundKind::Message(message) => (inbound.flow, message),
        InboundKind::TransportError { .. } => panic!("a transport error of {:?}", inbound.flow),
        InboundKind::Malformed { error, .. } => panic!("{error}"),
    }
}

/// The next thing, which must be a transport error.
pub(crate) async fn next_failure(inbound: &mut Receiver<Inbound>) -> Flow {
    let inbound = next(inbound).await;
    match inbound.kind {
        InboundKind::TransportError { .. } => inbound.flow,
        InboundKind::Message(message) => panic!("{:?}", message.call_id()),
        InboundKind::Malformed { error, .. } => panic!("{error}"),
    }
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Certificates of one authority: `server` and `client` for 127.0.0.1, `named` for sip.example.com.
pub(crate) struct Pki {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        std::fs::write(path.join("ca.crt"), ca_certificate.pem()).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        for (name, subject) in [("server", "127.0.0.1"), ("client", "127.0.0.1"), ("named", "sip.example.com")] {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![subject.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(path.join(format!("{name}.crt")), certificate.pem()).unwrap();
            std::fs::write(path.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Pki { _folder: folder, path }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}
