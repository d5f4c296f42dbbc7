//! Who may connect: TLS 1.3 both ways, under the cluster's own CA and no other.
//!
//! A node's certificate has two names. The URI says who it is ([`Identity`]); the DNS name `node.ferric.internal` is the same in
//! all of them and says that it is a node's, so that the ordinary check of a server's name does its work although a
//! dialler does not know yet whom it will find at an address. Nothing is resumed: each connection shows its certificate.

use std::sync::Arc;
use std::time::Duration;

use ferric_membership::{Identity, Refusal, RefusalKind};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, IdleTimeout, TransportConfig, VarInt};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, RootCertStore, version::TLS13};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::{FabricConfig, Limits, StartError, WallClock};

/// The DNS name in the certificate of every node.
pub(crate) const NODE_NAME: &str = "node.ferric.internal";

const ALPN: &[u8] = b"ferric-fabric";

/// A node's certificate with its chain, its key, and the CA it trusts.
pub struct Credentials {
    ca: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads the three PEM files of `[cluster]`: `ca`, `certificate`, `private_key`.
    pub fn from_pem(ca: &[u8], certificate: &[u8], private_key: &[u8]) -> Result<Self, StartError> {
        let wrong = |what, problem: String| StartError::Pem { what, problem };
        let certificates = |what, pem| {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let all = all.map_err(|error| wrong(what, error.to_string()))?;
            if all.is_empty() { Err(wrong(what, "no certificate in it".to_owned())) } else { Ok(all) }
        };
        let ca = certificates("ca", ca)?;
        let chain = certificates("certificate", certificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(private_key).map_err(|error| wrong("private_key", error.to_string()))?;
        Ok(Self { ca, chain, key })
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { ca: self.ca.clone(), chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("identity", &identity_of(&self.chain)).finish_non_exhaustive()
    }
}

/// Both sides of QUIC for a node, after a check that others will let it in.
pub(crate) fn configs(config: &FabricConfig) -> Result<(quinn::ClientConfig, quinn::ServerConfig), StartError> {
    let Credentials { ca, chain, key } = config.credentials.clone();
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate)?;
    }
    let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
    check_own(config, &chain, &roots, &provider)?;
    let clock = Arc::new(Clock(config.wall_clock.clone()));

    let mut client = rustls::ClientConfig::builder_with_details(provider.clone(), clock.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), key.clone_key())?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();

    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| StartError::Pem { what: "ca", problem: error.to_string() })?;
    let mut server = rustls::ServerConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;

    let no_suite = |_| rustls::Error::General("QUIC needs AES-128-GCM, which TLS does not offer".to_owned());
    let transport = Arc::new(transport(config));
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).map_err(no_suite)?));
    client.transport_config(transport.clone());
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).map_err(no_suite)?));
    server.transport_config(transport).migration(false);
    Ok((client, server))
}

fn transport(config: &FabricConfig) -> TransportConfig {
    let Limits { requests_in_flight, queue_bytes, .. } = config.limits;
    let patience = config.inside.dead_after().max(config.between.dead_after()) * 2;
    let idle = IdleTimeout::try_from(patience.max(Duration::from_secs(10))).ok();
    let count = |n: usize| VarInt::try_from(u64::try_from(n).unwrap_or(u64::MAX)).unwrap_or(VarInt::MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(idle)
        .max_concurrent_bidi_streams(count(requests_in_flight.saturating_add(1)))
        .max_concurrent_uni_streams(count(256))
        .stream_receive_window(count(1024 * 1024))
        .receive_window(count(queue_bytes))
        .send_window(u64::try_from(queue_bytes).unwrap_or(u64::MAX))
        .datagram_receive_buffer_size(Some(1024 * 1024))
        // Short, because heartbeats wait in it behind whatever else is sent.
        .datagram_send_buffer_size(256 * 1024);
    transport
}

/// What others will find wrong with this node's certificate, found before they do.
fn check_own(
    config: &FabricConfig,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<(), StartError> {
    let own = |refusal| Err(StartError::OwnCertificate(refusal));
    let Some((end, intermediates)) = chain.split_first() else {
        return own(Refusal::new(RefusalKind::Certificate, "there is none"));
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| StartError::Pem { what: "ca", problem: error.to_string() })?;
    let name = ServerName::try_from(NODE_NAME).map_err(|error| rustls::Error::General(error.to_string()))?;
    let now = UnixTime::since_unix_epoch(config.wall_clock.since_1970());
    if let Err(error) = verifier.verify_server_cert(end, intermediates, &name, &[], now) {
        return own(refusal_of(&error));
    }
    let expected = Identity { node: config.node.clone(), site: config.site.clone() };
    match identity_of(chain) {
        Some(identity) if identity == expected => Ok(()),
        Some(identity) => own(Refusal::new(
            RefusalKind::Identity,
            format!(
                "it is for {} in {}, and the configuration says {} in {}",
                identity.node, identity.site, expected.node, expected.site
            ),
        )),
        None => own(no_identity()),
    }
}

/// The node that a certificate names.
pub(crate) fn identity_of(chain: &[CertificateDer<'_>]) -> Option<Identity> {
    let certificate = webpki::EndEntityCert::try_from(chain.first()?).ok()?;
    certificate.valid_uri_names().find_map(Identity::from_uri)
}

pub(crate) fn no_identity() -> Refusal {
    let text = "the certificate names no node: make one with `ferric keys cluster`";
    Refusal::new(RefusalKind::Certificate, text)
}

const FOREIGN: &str = "the certificate is not from this cluster's CA";
const NOT_NOW: &str = "the certificate has expired or is not valid yet; if its dates are right, the clocks differ";

fn refusal_of(error: &rustls::Error) -> Refusal {
    use CertificateError::{BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};
    use rustls::Error::InvalidCertificate;
    if let InvalidCertificate(UnknownIssuer | BadSignature) = error {
        Refusal::new(RefusalKind::ForeignCa, FOREIGN)
    } else if let InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }) = error
    {
        Refusal::new(RefusalKind::NotValidNow, format!("{NOT_NOW} ({error})"))
    } else {
        Refusal::new(RefusalKind::Certificate, error.to_string())
    }
}

/// The refusal in the end of a connection, if TLS refused it, and whether it was the peer that did. Either side says so
/// by the same TLS alert (RFC 8446 6.2, RFC 9001 4.8).
pub(crate) fn refusal_by_tls(error: &ConnectionError) -> Option<(bool, Refusal)> {
    let (by_peer, code, reason) = match error {
        ConnectionError::TransportError(error) => (false, u64::from(error.code), error.reason.clone()),
        ConnectionError::ConnectionClosed(close) => {
            (true, u64::from(close.error_code), String::from_utf8_lossy(&close.reason).into_owned())
        }
        ConnectionError::VersionMismatch
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => return None,
    };
    let alert = code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
    let (kind, text) = match alert {
        48 | 51 => (RefusalKind::ForeignCa, FOREIGN.to_owned()), // unknown_ca, decrypt_error
        45 => (RefusalKind::NotValidNow, format!("{NOT_NOW} ({reason})")), // certificate_expired
        _ => (RefusalKind::Certificate, format!("TLS alert {alert} ({reason})")),
    };
    Some((by_peer, Refusal::new(kind, text)))
}

#[derive(Debug)]
struct Clock(WallClock);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.since_1970()))
    }
}
