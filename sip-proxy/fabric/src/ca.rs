//! The cluster's CA and the certificates of nodes.
//!
//! The CA's name holds a part of its key's SHA-256, so that two CAs never have one name and a certificate of a foreign
//! one is told as such. It is rebuilt from the key, hence only a CA that was made here can issue here; certificates of
//! another tool's CA are fine for the fabric as long as they name the node ([`Identity`]) and
//! `node.ferric.internal`, and are good for both ends of TLS.

use ferric_membership::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use webpki::KeyUsage;

use crate::tls::NODE_NAME;

/// A CA is good for 20 years.
const CA_DAYS: i64 = 20 * 365;
/// Certificates begin an hour early: the clock of a node that is set up may be wrong still.
const EARLY: Duration = Duration::hours(1);

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The key of the CA cannot be used.
    #[error("the CA's private key cannot be used: {0}")]
    Key(String),
    /// Certificate and key of the CA do not belong together.
    #[error("the CA's certificate and private key do not belong together, or were not made by `ferric keys cluster`")]
    Mismatch,
    /// A certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PKCS#8 PEM; for a file of mode 0600.
    pub private_key: String,
}

/// The CA of a cluster.
pub struct ClusterCa {
    certificate: String,
    key: KeyPair,
}

impl ClusterCa {
    /// A new CA.
    pub fn create() -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = params(&key);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, CA_DAYS);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key })
    }

    /// The CA of these files.
    pub fn from_pem(certificate: &str, private_key: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(private_key).map_err(|error| CaError::Key(error.to_string()))?;
        Ok(Self { certificate: certificate.to_owned(), key })
    }

    /// Certificate and key of the CA.
    pub fn pair(&self) -> Pair {
        Pair { certificate: self.certificate.clone(), private_key: self.key.serialize_pem() }
    }

    /// A certificate for a node, good for so many days from now.
    pub fn issue(&self, node: &Identity, days: u16) -> Result<Pair, CaError> {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec![NODE_NAME.to_owned()])?;
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, node.node.as_str());
        leaf.subject_alt_names.push(SanType::URI(node.to_uri().try_into()?));
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        valid_for(&mut leaf, i64::from(days));
        let issued = leaf.signed_by(&key, &Issuer::new(params(&self.key), &self.key))?;
        self.verify(issued.der())?;
        Ok(Pair { certificate: issued.pem(), private_key: key.serialize_pem() })
    }

    /// Checks what was issued against the certificate that nodes will have.
    fn verify(&self, issued: &CertificateDer<'_>) -> Result<(), CaError> {
        let mismatch = |_| CaError::Mismatch;
        let ca = CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|_| CaError::Mismatch)?;
        let anchor = webpki::anchor_from_trusted_cert(&ca).map_err(mismatch)?;
        let leaf = webpki::EndEntityCert::try_from(issued).map_err(mismatch)?;
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let usage = KeyUsage::server_auth();
        leaf.verify_for_usage(algorithms, &[anchor], &[], UnixTime::now(), usage, None, None)
            .map(|_| ())
            .map_err(mismatch)
    }
}

/// What makes a CA's name, from its key.
fn params(key: &KeyPair) -> CertificateParams {
    let digest = Sha256::digest(key.public_key_raw());
    let part: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Ferric cluster CA {part}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - EARLY;
    params.not_after = now + Duration::days(days);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::identity_of;
    use ferric_membership::{NodeId, Site};

    fn identity() -> Identity {
        Identity { node: NodeId::new("edge_a1.example").unwrap(), site: Site::new("east").unwrap() }
    }

    #[test]
    fn a_certificate_names_its_node_and_a_ca_read_back_issues_too() {
        let made = ClusterCa::create().unwrap().pair();
        let ca = ClusterCa::from_pem(&made.certificate, &made.private_key).unwrap();
        let node = ca.issue(&identity(), 30).unwrap();
        let der = CertificateDer::from_pem_slice(node.certificate.as_bytes()).unwrap();
        assert_eq!(identity_of(&[der]), Some(identity()));
        assert!(node.private_key.starts_with("-----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn a_key_of_another_ca_and_no_key_are_errors() {
        let (one, other) = (ClusterCa::create().unwrap().pair(), ClusterCa::create().unwrap().pair());
        let mixed = ClusterCa::from_pem(&one.certificate, &other.private_key).unwrap();
        assert!(matches!(mixed.issue(&identity(), 30), Err(CaError::Mismatch)));
        assert!(matches!(ClusterCa::from_pem(&one.certificate, &one.certificate), Err(CaError::Key(_))));
        assert!(matches!(
            ClusterCa::from_pem("", &one.private_key).unwrap().issue(&identity(), 30),
            Err(CaError::Mismatch)
        ));
    }
}
