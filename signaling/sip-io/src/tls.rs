//! TLS settings (RFC 3261 26.2.1, RFC 5922): TLS 1.2 and up, through rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::sync::OnceCell;

/// Certificates or keys that cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file cannot be read as PEM.
    #[error("{}: no {what} in PEM form can be read: {problem}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// What went wrong.
        problem: String,
    },
    /// rustls refused the combination.
    #[error("{}: {problem}", file.display())]
    Refused {
        /// Which file.
        file: PathBuf,
        /// What rustls said.
        problem: String,
    },
    /// The system has no authorities that could be trusted.
    #[error(
        "no certificate authorities of the system can be read ({problem}): install them (ca-certificates), or set [sip.tls] client_ca"
    )]
    NoSystemRoots {
        /// What went wrong.
        problem: String,
    },
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |problem: String| TlsError::File { file: file.to_owned(), what: "certificate", problem };
    let found: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("the file holds none".into())) } else { Ok(found) }
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store
            .add(certificate)
            .map_err(|error| TlsError::Refused { file: file.to_owned(), problem: error.to_string() })?;
    }
    Ok(store)
}

/// Settings of a listener. With `client_ca`, peers must show a certificate of that authority.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn server_config(
    certificate: &Path,
    private_key: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(|error| TlsError::File {
        file: private_key.to_owned(),
        what: "private key",
        problem: error.to_string(),
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let refused = |file: &Path, problem: String| TlsError::Refused { file: file.to_owned(), problem };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| refused(certificate, error.to_string()))?;
    let builder = match client_ca {
        Some(file) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(file)?), provider)
                .build()
                .map_err(|error| refused(file, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| refused(private_key, error.to_string()))?;
    Ok(Arc::new(config))
}

/// Settings for connections that we open, trusting the authority in `ca`;
/// `identity` is our certificate and key where the peer wants one.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn client_config(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, TlsError> {
    client_with(roots(ca)?, ca, identity)
}

/// As [`client_config`], trusting the authorities that the system trusts
/// (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others). Peers are known by their host
/// names then: see [`ferric_sip::flow::Destination`].
///
/// # Errors
/// [`TlsError::NoSystemRoots`], or the file of the identity.
pub fn system_client_config(identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Some systems hold roots that nobody can read; the others count.
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added == 0 {
        let problem = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(TlsError::NoSystemRoots { problem });
    }
    client_with(store, Path::new("system roots"), identity)
}

/// Settings for connections that we open. Reading all authorities of a system takes longer than a call; it is done for the
/// first connection by TLS, and not on the thread that serves the sockets.
#[derive(Debug)]
pub struct ClientTls {
    identity: Option<(PathBuf, PathBuf)>,
    made: OnceCell<Arc<ClientConfig>>,
}

impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> ClientTls {
        ClientTls { identity: None, made: OnceCell::from(config) }
    }
}

impl ClientTls {
    /// As [`system_client_config`] will make them.
    pub fn of_system(identity: Option<(PathBuf, PathBuf)>) -> ClientTls {
        ClientTls { identity, made: OnceCell::new() }
    }

    /// The settings. What could not be read is tried again for the next connection.
    pub(crate) async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let make = || async {
            let identity = self.identity.clone();
            let read = move || {
                let identity = identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
                system_client_config(identity).map_err(|error| error.to_string())
            };
            tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
        };
        self.made.get_or_try_init(make).await.cloned()
    }
}

fn client_with(
    store: RootCertStore,
    ca: &Path,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let refused = |problem: String| TlsError::Refused { file: ca.to_owned(), problem };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| refused(error.to_string()))?
        .with_root_certificates(store);
    let config = match identity {
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
                file: key.to_owned(),
                what: "private key",
                problem: error.to_string(),
            })?;
            builder.with_client_auth_cert(chain, private_key).map_err(|error| refused(error.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}
