//! Keys: the tenant's RSA pair that opens recordings, the node's Ed25519 pair that signs manifests.
//!
//! * [`Recipient`] is all the edge ever holds of a tenant: the public key,
//!   to which each file key is wrapped with RSAES-OAEP (RFC 8017 7.1; SHA-256
//!   for the hash and for MGF1, empty label).
//! * [`PrivateKey`] exists where recordings are opened: `ferric decrypt`, and
//!   the key pair made for a first try. Its memory is zeroized on drop.
//! * [`NodeKey`] signs, [`NodePublicKey`] verifies (Ed25519, RFC 8032).
//!
//! Every key is named by the [`KeyId`] of its public half: SHA-256 of the DER
//! SubjectPublicKeyInfo (RFC 5280 4.1.2.7), base64url without padding (RFC
//! 4648 5). `openssl pkey -pubin -in K.pem -outform DER | sha256sum` gives the
//! same bytes.
//!
//! PEM labels are PKCS#8 `PRIVATE KEY` (RFC 5958) and SPKI `PUBLIC KEY`. What
//! people hand over by mistake (a certificate, the other half, PKCS#1, an
//! encrypted key) is named in the error together with what would be right.
//! Reading and writing files, with mode 0600 for private halves, is the caller's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand::CryptoRng;
use rsa::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
};
use rsa::traits::PublicKeyParts as _;
use rsa::{Oaep, RsaPrivateKey, RsaPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Smallest RSA modulus accepted, in bits.
pub const RSA_MIN_BITS: usize = 2048;
/// Largest RSA modulus accepted, in bits: a bound on what a header may make us compute.
pub const RSA_MAX_BITS: usize = 8192;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no PEM of the kind needed.
    #[error("{found}; needed is {needed}")]
    WrongKind {
        /// What the text seems to be.
        found: String,
        /// What is needed, with a command that makes it where there is one.
        needed: &'static str,
    },
    /// The PEM is of the right kind and its contents are broken or of another algorithm.
    #[error("the {what} cannot be read: {reason}")]
    Unreadable {
        /// Which key.
        what: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// The RSA modulus has the wrong size.
    #[error(
        "an RSA key of {bits} bits; needed are {RSA_MIN_BITS} to {RSA_MAX_BITS} bits (`ferric keys new` makes 2048)"
    )]
    Size {
        /// Its size in bits.
        bits: usize,
    },
    /// Key generation, wrapping or encoding failed.
    #[error("the cryptographic operation failed: {0}")]
    Operation(String),
}

/// Names a public key: SHA-256 of its SPKI DER, base64url without padding (43 characters).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    fn of_spki(der: &[u8]) -> KeyId {
        KeyId(URL_SAFE_NO_PAD.encode(Sha256::digest(der)))
    }

    /// The 43 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Somebody who will be able to open what is sealed: a tenant's RSA public key.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    id: KeyId,
    key: RsaPublicKey,
}

impl Recipient {
    /// Reads an SPKI PEM (`BEGIN PUBLIC KEY`).
    ///
    /// # Errors
    /// Not such a PEM, not RSA, or of a size outside [`RSA_MIN_BITS`] to [`RSA_MAX_BITS`].
    pub fn from_pem(pem: &str) -> Result<Recipient, KeyError> {
        expect_label(pem, "PUBLIC KEY", "an RSA public key in SPKI PEM (`openssl pkey -in PRIVATE.pem -pubout`)")?;
        let key = RsaPublicKey::from_public_key_pem(pem.trim())
            .map_err(|error| KeyError::Unreadable { what: "RSA public key", reason: error.to_string() })?;
        Recipient::new(key)
    }

    fn new(key: RsaPublicKey) -> Result<Recipient, KeyError> {
        let bits = bits(&key);
        if !(RSA_MIN_BITS..=RSA_MAX_BITS).contains(&bits) {
            return Err(KeyError::Size { bits });
        }
        let der = key.to_public_key_der().map_err(|error| KeyError::Operation(error.to_string()))?;
        Ok(Recipient { id: KeyId::of_spki(der.as_bytes()), key })
    }

    /// The key's name.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The SPKI PEM.
    ///
    /// # Errors
    /// The encoder fails, which a key that was read or made here does not cause.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        self.key.to_public_key_pem(LineEnding::LF).map_err(|error| KeyError::Operation(error.to_string()))
    }

    /// Wraps a file key (RSA-OAEP-256).
    pub(crate) fn wrap<R: CryptoRng + ?Sized>(&self, file_key: &[u8; 16], rng: &mut R) -> Result<Vec<u8>, KeyError> {
        self.key.encrypt(rng, Oaep::<Sha256>::new(), file_key).map_err(|error| KeyError::Operation(error.to_string()))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.id)
    }
}

/// A tenant's RSA private key: opens recordings.
pub struct PrivateKey {
    key: RsaPrivateKey,
    public: Recipient,
}

impl PrivateKey {
    /// Makes an RSA-2048 pair with public exponent 65537. Takes about a tenth of a second.
    ///
    /// # Errors
    /// The generator failed.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Result<PrivateKey, KeyError> {
        let key = RsaPrivateKey::new(rng, RSA_MIN_BITS).map_err(|error| KeyError::Operation(error.to_string()))?;
        PrivateKey::new(key)
    }

    /// Reads an unencrypted PKCS#8 PEM (`BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// Not such a PEM, not RSA, inconsistent, or of the wrong size.
    pub fn from_pem(pem: &str) -> Result<PrivateKey, KeyError> {
        expect_label(
            pem,
            "PRIVATE KEY",
            "an unencrypted RSA private key in PKCS#8 PEM (`openssl pkcs8 -topk8 -nocrypt -in OLD.pem`)",
        )?;
        let key = RsaPrivateKey::from_pkcs8_pem(pem.trim())
            .map_err(|error| KeyError::Unreadable { what: "RSA private key", reason: error.to_string() })?;
        PrivateKey::new(key)
    }

    fn new(key: RsaPrivateKey) -> Result<PrivateKey, KeyError> {
        let public = Recipient::new(key.to_public_key())?;
        Ok(PrivateKey { key, public })
    }

    /// The PKCS#8 PEM; keep it in a file of mode 0600.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        self.key.to_pkcs8_pem(LineEnding::LF).map_err(|error| KeyError::Operation(error.to_string()))
    }

    /// The public half.
    pub fn public(&self) -> &Recipient {
        &self.public
    }

    /// The pair's name.
    pub fn id(&self) -> &KeyId {
        &self.public.id
    }

    /// Unwraps a file key; `None` if it was wrapped for another key or altered.
    pub(crate) fn unwrap_key(&self, wrapped: &[u8]) -> Option<Zeroizing<[u8; 16]>> {
        let plain = Zeroizing::new(self.key.decrypt(Oaep::<Sha256>::new(), wrapped).ok()?);
        <[u8; 16]>::try_from(plain.as_slice()).ok().map(Zeroizing::new)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.id)
    }
}

/// The node's signing key (Ed25519).
pub struct NodeKey {
    key: SigningKey,
    public: NodePublicKey,
}

impl NodeKey {
    /// Makes a new pair.
    ///
    /// # Errors
    /// The public half cannot be encoded, which does not happen with a fresh key.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Result<NodeKey, KeyError> {
        NodeKey::new(SigningKey::generate(rng))
    }

    /// Reads a PKCS#8 PEM.
    ///
    /// # Errors
    /// Not such a PEM or not Ed25519.
    pub fn from_pem(pem: &str) -> Result<NodeKey, KeyError> {
        expect_label(
            pem,
            "PRIVATE KEY",
            "an Ed25519 private key in PKCS#8 PEM (`openssl genpkey -algorithm ed25519`)",
        )?;
        let key = SigningKey::from_pkcs8_pem(pem.trim())
            .map_err(|error| KeyError::Unreadable { what: "Ed25519 private key", reason: error.to_string() })?;
        NodeKey::new(key)
    }

    fn new(key: SigningKey) -> Result<NodeKey, KeyError> {
        let public = NodePublicKey::new(key.verifying_key())?;
        Ok(NodeKey { key, public })
    }

    /// The PKCS#8 PEM; keep it in a file of mode 0600.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        self.key.to_pkcs8_pem(LineEnding::LF).map_err(|error| KeyError::Operation(error.to_string()))
    }

    /// The public half.
    pub fn public(&self) -> &NodePublicKey {
        &self.public
    }

    /// The 64 signature bytes of a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.public.id)
    }
}

/// The public half of a node's signing key.
#[derive(Clone, PartialEq, Eq)]
pub struct NodePublicKey {
    id: KeyId,
    key: VerifyingKey,
}

impl NodePublicKey {
    fn new(key: VerifyingKey) -> Result<NodePublicKey, KeyError> {
        let der = key.to_public_key_der().map_err(|error| KeyError::Operation(error.to_string()))?;
        Ok(NodePublicKey { id: KeyId::of_spki(der.as_bytes()), key })
    }

    /// Reads an SPKI PEM.
    ///
    /// # Errors
    /// Not such a PEM or not Ed25519.
    pub fn from_pem(pem: &str) -> Result<NodePublicKey, KeyError> {
        expect_label(pem, "PUBLIC KEY", "an Ed25519 public key in SPKI PEM (the node writes it as node.pub)")?;
        let key = VerifyingKey::from_public_key_pem(pem.trim())
            .map_err(|error| KeyError::Unreadable { what: "Ed25519 public key", reason: error.to_string() })?;
        NodePublicKey::new(key)
    }

    /// The SPKI PEM.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        self.key.to_public_key_pem(LineEnding::LF).map_err(|error| KeyError::Operation(error.to_string()))
    }

    /// The key's name.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Whether the signature is this key's over that message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Debug for NodePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodePublicKey({})", self.id)
    }
}

fn bits(key: &RsaPublicKey) -> usize {
    usize::try_from(key.n().bits()).unwrap_or(usize::MAX)
}

/// Refuses what is not a PEM of `label`, naming what it is.
fn expect_label(pem: &str, label: &'static str, needed: &'static str) -> Result<(), KeyError> {
    let found = pem
        .trim_start()
        .strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.split("-----").next())
        .filter(|found| found.len() <= 64 && !found.contains('\n'));
    match found {
        Some(found) if found == label => Ok(()),
        Some(found) => {
            let article = if found.starts_with(['A', 'E', 'I', 'O', 'R']) { "an" } else { "a" };
            Err(KeyError::WrongKind { found: format!("{article} {found} was given"), needed })
        }
        None => Err(KeyError::WrongKind { found: "the text does not begin with a PEM line".to_owned(), needed }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use std::sync::OnceLock;

    /// One pair for all tests of the crate: generation is the slow part.
    pub(crate) fn test_key() -> &'static PrivateKey {
        static KEY: OnceLock<PrivateKey> = OnceLock::new();
        KEY.get_or_init(|| PrivateKey::generate(&mut StdRng::seed_from_u64(7)).unwrap())
    }

    #[test]
    fn a_pair_survives_its_pem_and_unwraps_what_it_wrapped() {
        let key = test_key();
        let again = PrivateKey::from_pem(&key.to_pem().unwrap()).unwrap();
        let public = Recipient::from_pem(&key.public().to_pem().unwrap()).unwrap();
        assert_eq!(again.id(), public.id());
        assert_eq!(public.id().as_str().len(), 43);
        let wrapped = public.wrap(&[9; 16], &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(wrapped.len(), 256);
        assert_eq!(again.unwrap_key(&wrapped).unwrap().as_slice(), &[9; 16]);
        let mut altered = wrapped;
        altered.iter_mut().for_each(|byte| *byte ^= 1);
        assert!(again.unwrap_key(&altered).is_none());
    }

    #[test]
    fn node_keys_sign_and_refuse() {
        let mut rng = StdRng::seed_from_u64(3);
        let (node, other) = (NodeKey::generate(&mut rng).unwrap(), NodeKey::generate(&mut rng).unwrap());
        let public = NodePublicKey::from_pem(&node.public().to_pem().unwrap()).unwrap();
        let signature = NodeKey::from_pem(&node.to_pem().unwrap()).unwrap().sign(b"text");
        assert!(public.verifies(b"text", &signature));
        assert!(!public.verifies(b"tex", &signature));
        assert!(!other.public().verifies(b"text", &signature));
        assert!(!public.verifies(b"text", &signature[..10]));
    }

    #[test]
    fn mistaken_files_are_named() {
        let private = test_key().to_pem().unwrap();
        let public = test_key().public().to_pem().unwrap();
        let node = NodeKey::generate(&mut StdRng::seed_from_u64(3)).unwrap();
        let say = |error: KeyError| error.to_string();
        assert!(
            say(Recipient::from_pem(&private).unwrap_err())
                .starts_with("a PRIVATE KEY was given; needed is an RSA public")
        );
        assert!(say(PrivateKey::from_pem(&public).unwrap_err()).starts_with("a PUBLIC KEY was given"));
        assert!(say(PrivateKey::from_pem("-----BEGIN RSA PRIVATE KEY-----\n").unwrap_err()).contains("openssl pkcs8"));
        assert!(say(Recipient::from_pem("").unwrap_err()).starts_with("the text does not begin"));
        assert!(matches!(Recipient::from_pem(&node.public().to_pem().unwrap()), Err(KeyError::Unreadable { .. })));
        assert!(matches!(PrivateKey::from_pem(&node.to_pem().unwrap()), Err(KeyError::Unreadable { .. })));
        assert!(matches!(NodePublicKey::from_pem(&public), Err(KeyError::Unreadable { .. })));
    }

    #[test]
    fn a_small_rsa_key_is_refused() {
        let small = RsaPrivateKey::new(&mut StdRng::seed_from_u64(5), 1024).unwrap();
        let pem = small.to_public_key().to_public_key_pem(LineEnding::LF).unwrap();
        assert_eq!(Recipient::from_pem(&pem).unwrap_err(), KeyError::Size { bits: 1024 });
    }
}
