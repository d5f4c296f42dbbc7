//! The manifest of one recording: what lies in the store, signed by the node that made it, chained to the one before.
//!
//! It carries no personal data and needs no private key to be checked. The
//! signature (Ed25519) covers the *canonical JSON* of the document without its
//! `signature` member: members sorted by name, no white space, integers only,
//! strings with the shortest escapes. That is RFC 8785 restricted to integers,
//! and what `json.dumps(d, sort_keys=True, separators=(",", ":"),
//! ensure_ascii=False)` writes in Python. The file itself is canonical too,
//! signature included, so its SHA-256 is the `previous` of the next manifest
//! of the same node. A member that a later version adds is signed like the rest.
//!
//! The chain shows removal: whoever deletes a recording together with its
//! manifest leaves a manifest whose `previous` cannot be found, and whoever
//! makes two from one key leaves a fork. Retention deletes from the old end,
//! so one missing predecessor at the beginning is what a healthy store shows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::keys::{KeyId, NodeKey, NodePublicKey};
use crate::part::Part;
use crate::timestamp::Timestamp;

/// A SHA-256, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Digest> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        Some(Digest(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::from_hex(&text).ok_or_else(|| serde::de::Error::custom("not a SHA-256 in lower-case hexadecimal"))
    }
}

/// How a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordingState {
    /// The call ended and the file has its last segment.
    Complete,
    /// The node died during the call; the file is whole up to the last sealed second.
    Recovered,
    /// The node lived and could not store all of the call (the disk was full, for example).
    Partial,
}

impl RecordingState {
    /// The word in the manifest and in the catalogue.
    pub fn as_str(self) -> &'static str {
        match self {
            RecordingState::Complete => "complete",
            RecordingState::Recovered => "recovered",
            RecordingState::Partial => "partial",
        }
    }
}

/// Measures of `audio.eopus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioEntry {
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Whole segments in it.
    pub segments: u32,
}

/// Measures of `metadata.ejson`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataEntry {
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// What a manifest says, apart from its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which files of which recording.
    #[serde(flatten)]
    pub part: Part,
    /// Whose it is.
    pub tenant: String,
    /// The node that recorded it.
    pub node: String,
    /// How it ended.
    pub state: RecordingState,
    /// When the call's timeline begins.
    pub started_at: Timestamp,
    /// When it ends.
    pub ended_at: Timestamp,
    /// Length of the audio, in milliseconds.
    pub duration_ms: u64,
    /// The sealed audio.
    pub audio: AudioEntry,
    /// The sealed metadata; absent (`null`) only if a crash left none.
    pub metadata: Option<MetadataEntry>,
    /// SHA-256 of this node's previous manifest file; `null` in a node's first.
    pub previous: Option<Digest>,
    /// The node's signing key.
    pub key_id: KeyId,
}

/// A manifest as a file: signed, canonical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedManifest {
    /// What it says.
    pub manifest: Manifest,
    signature: Vec<u8>,
    signed: Vec<u8>,
    file: Vec<u8>,
}

/// Why a manifest is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or members are missing or of the wrong kind.
    #[error("the manifest is damaged: {0}")]
    Damaged(String),
    /// It was signed with another key.
    #[error("the manifest was signed with key {signed_by}; the certificate at hand is {given}")]
    OtherKey {
        /// What the manifest names.
        signed_by: KeyId,
        /// What it is checked against.
        given: KeyId,
    },
    /// The signature does not fit the text.
    #[error("the manifest's signature does not fit: it was altered after it was signed")]
    Signature,
    /// A file beside it is not the one it describes.
    #[error("{file}: {what} is {found}, the manifest says {expected}")]
    Mismatch {
        /// Which file.
        file: &'static str,
        /// Which measure.
        what: &'static str,
        /// The measure of the file.
        found: String,
        /// The measure in the manifest.
        expected: String,
    },
}

impl Manifest {
    /// Signs it. `key_id` must already be that of `key`.
    ///
    /// # Errors
    /// `key_id` names another key, or the document cannot be encoded.
    pub fn sign(self, key: &NodeKey) -> Result<SignedManifest, ManifestError> {
        if self.key_id != *key.public().id() {
            return Err(ManifestError::OtherKey { signed_by: self.key_id, given: key.public().id().clone() });
        }
        let mut value = serde_json::to_value(&self).map_err(|error| ManifestError::Damaged(error.to_string()))?;
        let signed = canonical_json(&value)?;
        let signature = key.sign(&signed).to_vec();
        if let Value::Object(members) = &mut value {
            members.insert("signature".to_owned(), Value::String(URL_SAFE_NO_PAD.encode(&signature)));
        }
        let file = canonical_json(&value)?;
        Ok(SignedManifest { manifest: self, signature, signed, file })
    }
}

impl SignedManifest {
    /// Reads a `manifest.json`; its signature is not checked yet.
    ///
    /// # Errors
    /// Not JSON of the right shape.
    pub fn parse(file: &[u8]) -> Result<SignedManifest, ManifestError> {
        let damaged = |error: serde_json::Error| ManifestError::Damaged(error.to_string());
        let manifest: Manifest = serde_json::from_slice(file).map_err(damaged)?;
        let mut value: Value = serde_json::from_slice(file).map_err(damaged)?;
        let signature = match &mut value {
            Value::Object(members) => members.remove("signature"),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
        };
        let signature = signature
            .as_ref()
            .and_then(Value::as_str)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .ok_or_else(|| ManifestError::Damaged("`signature` is missing or not base64url".to_owned()))?;
        Ok(SignedManifest { manifest, signature, signed: canonical_json(&value)?, file: file.to_vec() })
    }

    /// The bytes of `manifest.json`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.file
    }

    /// SHA-256 of the file: the `previous` of the node's next manifest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.file)
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// Signed with another key, or altered.
    pub fn verify(&self, key: &NodePublicKey) -> Result<(), ManifestError> {
        if self.manifest.key_id != *key.id() {
            return Err(ManifestError::OtherKey { signed_by: self.manifest.key_id.clone(), given: key.id().clone() });
        }
        key.verifies(&self.signed, &self.signature).then_some(()).ok_or(ManifestError::Signature)
    }

    /// Compares the sealed audio's measures; `segments` where they were counted.
    ///
    /// # Errors
    /// The first measure that differs.
    pub fn check_audio(&self, bytes: u64, sha256: Digest, segments: Option<u32>) -> Result<(), ManifestError> {
        let entry = &self.manifest.audio;
        same("audio.eopus", "its length in bytes", bytes, entry.bytes)?;
        same("audio.eopus", "its SHA-256", sha256, entry.sha256)?;
        segments.map_or(Ok(()), |found| same("audio.eopus", "its number of segments", found, entry.segments))
    }

    /// Compares the sealed metadata's measures; `None` if there is no such file.
    ///
    /// # Errors
    /// The first measure that differs.
    pub fn check_metadata(&self, found: Option<(u64, Digest)>) -> Result<(), ManifestError> {
        let (file, what) = ("metadata.ejson", "its presence");
        match (found, &self.manifest.metadata) {
            (None, None) => Ok(()),
            (Some((bytes, sha256)), Some(entry)) => {
                same(file, "its length in bytes", bytes, entry.bytes)?;
                same(file, "its SHA-256", sha256, entry.sha256)
            }
            (found, expected) => same(file, what, found.is_some(), expected.is_some()),
        }
    }
}

fn same<T: PartialEq + fmt::Display>(
    file: &'static str,
    what: &'static str,
    found: T,
    expected: T,
) -> Result<(), ManifestError> {
    if found == expected {
        return Ok(());
    }
    Err(ManifestError::Mismatch { file, what, found: found.to_string(), expected: expected.to_string() })
}

/// Canonical JSON: members sorted by name, no white space, integers only.
///
/// # Errors
/// The document holds a number that is no integer.
pub fn canonical_json(value: &Value) -> Result<Vec<u8>, ManifestError> {
    let mut out = Vec::new();
    write_canonical(value, &mut out)?;
    Ok(out)
}

fn write_canonical(value: &Value, out: &mut Vec<u8>) -> Result<(), ManifestError> {
    let scalar = |value: &Value, out: &mut Vec<u8>| {
        serde_json::to_writer(&mut *out, value).map_err(|error| ManifestError::Damaged(error.to_string()))
    };
    match value {
        Value::Object(members) => {
            // Sorted here, because a build of serde_json may keep the order of insertion.
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            out.push(b'{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                scalar(&Value::String(name.clone()), out)?;
                out.push(b':');
                write_canonical(member, out)?;
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out)?;
            }
            out.push(b']');
        }
        Value::Number(number) if number.is_f64() => {
            return Err(ManifestError::Damaged(format!("{number} is no integer")));
        }
        Value::Number(_) | Value::Null | Value::Bool(_) | Value::String(_) => scalar(value, out)?,
    }
    Ok(())
}

/// How the manifests of one node hang together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Files in chain order; one run per unbroken stretch, longest unbroken first to last.
    pub runs: Vec<Vec<Uuid>>,
    /// Manifests whose predecessor is not among those given. One, the oldest, is normal where retention deletes.
    pub missing: Vec<(Uuid, Digest)>,
    /// Manifests that share a predecessor with another: two histories from one key.
    pub forks: Vec<(Digest, Vec<Uuid>)>,
}

impl Chain {
    /// Whether nothing is missing between the given manifests and none is there twice.
    pub fn is_whole(&self) -> bool {
        self.forks.is_empty() && self.runs.len() <= 1
    }
}

/// Checks every signature and orders the manifests of one node, given in any order.
///
/// # Errors
/// The first manifest that is not signed by `key`, with the id of its files.
pub fn verify_chain(manifests: &[SignedManifest], key: &NodePublicKey) -> Result<Chain, (Uuid, ManifestError)> {
    let mut followers: HashMap<Option<Digest>, Vec<(Digest, Uuid)>> = HashMap::new();
    let mut known = HashSet::new();
    for signed in manifests {
        signed.verify(key).map_err(|error| (signed.manifest.part.file, error))?;
        let digest = signed.digest();
        // The same file found twice (spool and store) is one manifest.
        if known.insert(digest) {
            followers.entry(signed.manifest.previous).or_default().push((digest, signed.manifest.part.file));
        }
    }
    let mut chain = Chain::default();
    let mut starts: Vec<(Digest, Uuid)> = Vec::new();
    for (previous, next) in &mut followers {
        next.sort_by_key(|(_, id)| *id);
        let reachable = previous.is_some_and(|previous| known.contains(&previous));
        if next.len() > 1 {
            chain.forks.push((previous.unwrap_or(Digest([0; 32])), next.iter().map(|(_, id)| *id).collect()));
        }
        if !reachable {
            if let Some(previous) = previous {
                chain.missing.extend(next.iter().map(|(_, id)| (*id, *previous)));
            }
            starts.extend(next.iter().copied());
        } else {
            starts.extend(next.iter().skip(1).copied());
        }
    }
    starts.sort_by_key(|(_, id)| *id);
    chain.missing.sort();
    chain.forks.sort();
    for (mut digest, id) in starts {
        let mut run = vec![id];
        while let Some((next, id)) = followers.get(&Some(digest)).and_then(|next| next.first()) {
            run.push(*id);
            digest = *next;
        }
        chain.runs.push(run);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn node(seed: u64) -> NodeKey {
        NodeKey::generate(&mut StdRng::seed_from_u64(seed)).unwrap()
    }

    fn manifest(number: u128, previous: Option<Digest>, key: &NodeKey) -> SignedManifest {
        Manifest {
            part: Part::first(Uuid::from_u128(number)),
            tenant: "acme \"é\"\n".into(),
            node: "edge-a1".into(),
            state: RecordingState::Complete,
            started_at: Timestamp::from_unix_ms(1_000),
            ended_at: Timestamp::from_unix_ms(63_000),
            duration_ms: 62_000,
            audio: AudioEntry { bytes: 10, sha256: Digest::of(b"audio"), segments: 3 },
            metadata: Some(MetadataEntry { bytes: 4, sha256: Digest::of(b"meta") }),
            previous,
            key_id: key.public().id().clone(),
        }
        .sign(key)
        .unwrap()
    }

    fn chain_of(count: u128, key: &NodeKey) -> Vec<SignedManifest> {
        let mut manifests: Vec<SignedManifest> = Vec::new();
        for number in 0..count {
            let previous = manifests.last().map(SignedManifest::digest);
            manifests.push(manifest(number, previous, key));
        }
        manifests
    }

    #[test]
    fn a_manifest_comes_back_from_its_file_and_verifies() {
        let key = node(1);
        let signed = manifest(1, Some(Digest::of(b"before")), &key);
        let read = SignedManifest::parse(signed.as_bytes()).unwrap();
        assert_eq!(read, signed);
        read.verify(key.public()).unwrap();
        assert!(matches!(read.verify(node(2).public()), Err(ManifestError::OtherKey { .. })));
        read.check_audio(10, Digest::of(b"audio"), Some(3)).unwrap();
        read.check_metadata(Some((4, Digest::of(b"meta")))).unwrap();
        let error = read.check_audio(11, Digest::of(b"audio"), None).unwrap_err();
        assert_eq!(error.to_string(), "audio.eopus: its length in bytes is 11, the manifest says 10");
        assert!(read.check_metadata(None).is_err());
    }

    #[test]
    fn the_file_is_canonical() {
        let signed = manifest(1, None, &node(1));
        let text = std::str::from_utf8(signed.as_bytes()).unwrap();
        assert!(text.starts_with(r#"{"audio":{"bytes":10,"segments":3,"sha256":""#), "{text}");
        assert!(
            text.contains(r#""previous":null,"signature":""#) && text.contains(r#""tenant":"acme \"é\"\n"}"#),
            "{text}"
        );
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(canonical_json(&value).unwrap(), signed.as_bytes());
        assert!(canonical_json(&serde_json::json!({"a": 1.5})).is_err());
    }

    #[test]
    fn later_parts_and_copies_say_so_in_their_manifest() {
        let key = node(1);
        let original = manifest(1, None, &key).manifest;
        let part = original.part.copied(Uuid::from_u128(2));
        let signed = Manifest { part, ..original }.sign(&key).unwrap();
        let read = SignedManifest::parse(signed.as_bytes()).unwrap();
        read.verify(key.public()).unwrap();
        assert_eq!((read.manifest.part, read.manifest.part.recording), (part, Uuid::from_u128(1)));
        assert!(std::str::from_utf8(signed.as_bytes()).unwrap().contains(r#""copy":true"#));
    }

    #[test]
    fn any_edit_of_the_text_is_found() {
        let key = node(1);
        let file = manifest(1, None, &key).as_bytes().to_vec();
        for at in 0..file.len() {
            let mut edited = file.clone();
            edited[at] ^= 1;
            let verified = SignedManifest::parse(&edited).is_ok_and(|read| read.verify(key.public()).is_ok());
            assert!(!verified, "byte {at}: {}", String::from_utf8_lossy(&edited));
        }
        let added = [b"{\"note\":1,", &file[1..]].concat();
        assert_eq!(SignedManifest::parse(&added).unwrap().verify(key.public()), Err(ManifestError::Signature));
    }

    #[test]
    fn a_chain_is_ordered_and_its_gaps_and_forks_are_named() {
        let key = node(1);
        let mut all = chain_of(5, &key);
        let ids = |numbers: &[u128]| numbers.iter().map(|n| Uuid::from_u128(*n)).collect::<Vec<_>>();
        all.reverse();
        all.push(all[0].clone());
        let whole = verify_chain(&all, key.public()).unwrap();
        assert_eq!(whole, Chain { runs: vec![ids(&[0, 1, 2, 3, 4])], ..Chain::default() });
        assert!(whole.is_whole());

        let chain = chain_of(5, &key);
        let gap = [&chain[..2], &chain[3..]].concat();
        let broken = verify_chain(&gap, key.public()).unwrap();
        assert_eq!(broken.runs, [ids(&[0, 1]), ids(&[3, 4])]);
        assert_eq!(broken.missing, [(Uuid::from_u128(3), chain[2].digest())]);
        assert!(!broken.is_whole());
        assert!(verify_chain(&chain[2..], key.public()).unwrap().is_whole(), "retention deletes the old end");

        let mut forked = chain.clone();
        forked.push(manifest(9, Some(chain[1].digest()), &key));
        let fork = verify_chain(&forked, key.public()).unwrap();
        assert_eq!(fork.forks, [(chain[1].digest(), ids(&[2, 9]))]);
        assert!(!fork.is_whole());

        let mut foreign = chain;
        foreign.push(manifest(10, None, &node(2)));
        assert_eq!(verify_chain(&foreign, key.public()).unwrap_err().0, Uuid::from_u128(10));
    }
}
