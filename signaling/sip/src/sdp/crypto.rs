//! SRTP keys in session descriptions: `a=crypto` (RFC 4568).
//!
//! ```text
//! a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:BASE64(key | salt)|2^31|1:4 WSH=128
//!          tag suite                 key parameters, `;` between several; lifetime and MKI may be absent
//! ```
//!
//! Session parameters that would change what is encrypted or authenticated make a
//! line unusable, and so does one that we do not know, unless its name begins with `-` (RFC 4568 6.3).
//! Key material is wiped from memory and never printed by `Debug`.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Keys in one line.
const MAX_KEYS: usize = 8;
/// Bytes of a key with its salt.
const MAX_KEY: usize = 64;

/// Base64 with or without padding, whatever the last bits are.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A line that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CryptoError {
    /// No tag, suite or key.
    #[error("a=crypto needs a tag, a suite and inline: keys")]
    Form,
    /// A key that is no base64, or too long.
    #[error("an inline: key of a=crypto is not base64")]
    Key,
    /// A master key identifier that is none.
    #[error("the MKI of a=crypto is not value:length")]
    Mki,
    /// A parameter that changes the protection, or an unknown one.
    #[error("a=crypto has a session parameter that is not supported")]
    Parameter,
}

/// A master key identifier (RFC 3711 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mki {
    /// Its value.
    pub value: u64,
    /// Its length in each packet, in bytes, 1 to 8.
    pub length: u8,
}

impl Mki {
    /// As it stands in packets.
    pub fn to_bytes(self) -> Vec<u8> {
        let bytes = self.value.to_be_bytes();
        bytes.get(8 - usize::from(self.length.min(8))..).unwrap_or_default().to_vec()
    }
}

/// One key.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyParameter {
    /// Master key, then master salt.
    pub key_salt: Vec<u8>,
    /// Packets that it may protect.
    #[zeroize(skip)]
    pub lifetime: Option<u64>,
    /// By which packets name it.
    #[zeroize(skip)]
    pub mki: Option<Mki>,
}

impl fmt::Debug for KeyParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyParameter({} secret bytes, mki {:?})", self.key_salt.len(), self.mki)
    }
}

/// An `a=crypto` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptoAttribute {
    /// Its number; an answer repeats that of the line it takes.
    pub tag: u32,
    /// Name of the suite: `AES_CM_128_HMAC_SHA1_80`, ...
    pub suite: String,
    /// The keys; several have MKIs.
    pub keys: Vec<KeyParameter>,
}

impl CryptoAttribute {
    /// A line with one key.
    pub fn new(tag: u32, suite: &str, key_salt: Vec<u8>) -> CryptoAttribute {
        CryptoAttribute {
            tag,
            suite: suite.to_owned(),
            keys: vec![KeyParameter { key_salt, lifetime: None, mki: None }],
        }
    }

    /// Reads the value of an attribute, without `crypto:`.
    ///
    /// # Errors
    /// [`CryptoError`] when the line cannot be used.
    pub fn parse(value: &str) -> Result<CryptoAttribute, CryptoError> {
        let mut words = value.split_ascii_whitespace();
        let tag = words.next().and_then(|tag| tag.parse().ok()).ok_or(CryptoError::Form)?;
        let suite = words.next().ok_or(CryptoError::Form)?.to_owned();
        let list = words.next().ok_or(CryptoError::Form)?;
        let keys: Vec<KeyParameter> =
            list.split(';').filter(|key| !key.is_empty()).take(MAX_KEYS).map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(CryptoError::Form);
        }
        for parameter in words {
            // The window only advises; a key derivation rate of 0 is the default.
            let upper = parameter.to_ascii_uppercase();
            if !(upper.starts_with('-') || upper.starts_with("WSH=") || upper == "KDR=0") {
                return Err(CryptoError::Parameter);
            }
        }
        Ok(CryptoAttribute { tag, suite, keys })
    }
}

impl fmt::Display for CryptoAttribute {
    /// The value of the attribute, keys and all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.tag, self.suite)?;
        for (number, key) in self.keys.iter().enumerate() {
            let separator = if number == 0 { "" } else { ";" };
            write!(f, "{separator}inline:{}", base64::engine::general_purpose::STANDARD.encode(&key.key_salt))?;
            if let Some(lifetime) = key.lifetime {
                write!(f, "|{lifetime}")?;
            }
            if let Some(mki) = key.mki {
                write!(f, "|{}:{}", mki.value, mki.length)?;
            }
        }
        Ok(())
    }
}

/// As the text of the attribute.
impl Serialize for CryptoAttribute {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CryptoAttribute {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<CryptoAttribute, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        CryptoAttribute::parse(&text).map_err(D::Error::custom)
    }
}

fn key(text: &str) -> Result<KeyParameter, CryptoError> {
    let (method, rest) = text.split_once(':').ok_or(CryptoError::Form)?;
    if !method.eq_ignore_ascii_case("inline") {
        return Err(CryptoError::Form);
    }
    let mut parts = rest.split('|');
    let encoded = parts.next().unwrap_or_default();
    let key_salt = LENIENT.decode(encoded).map_err(|_| CryptoError::Key)?;
    if key_salt.is_empty() || key_salt.len() > MAX_KEY {
        return Err(CryptoError::Key);
    }
    let mut parameter = KeyParameter { key_salt, lifetime: None, mki: None };
    for part in parts.filter(|part| !part.is_empty()) {
        match part.split_once(':') {
            Some((value, length)) => {
                let length: u8 =
                    length.parse().ok().filter(|length| (1..=128).contains(length)).ok_or(CryptoError::Mki)?;
                // Longer ones would have to be carried whole; nobody was seen to send more than four bytes.
                let value = value.parse().map_err(|_| CryptoError::Mki)?;
                if length > 8 {
                    return Err(CryptoError::Mki);
                }
                parameter.mki = Some(Mki { value, length });
            }
            None => parameter.lifetime = lifetime(part),
        }
    }
    Ok(parameter)
}

/// `2^31` or a number.
fn lifetime(text: &str) -> Option<u64> {
    match text.split_once('^') {
        Some((base, power)) => base.parse::<u64>().ok()?.checked_pow(power.parse().ok()?),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

    #[test]
    fn the_forms_of_the_rfc_are_read() {
        let line =
            CryptoAttribute::parse(&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:4 WSH=64 -x=1")).unwrap();
        assert_eq!((line.tag, line.suite.as_str(), line.keys[0].key_salt.len()), (1, "AES_CM_128_HMAC_SHA1_80", 30));
        assert_eq!((line.keys[0].lifetime, line.keys[0].mki), (Some(1 << 20), Some(Mki { value: 1, length: 4 })));
        assert_eq!(line.keys[0].mki.unwrap().to_bytes(), [0, 0, 0, 1]);
        let two =
            CryptoAttribute::parse(&format!("2 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^20|1:4;inline:{KEY}|2^20|2:4"))
                .unwrap();
        assert_eq!(two.keys.len(), 2);
        let again = CryptoAttribute::parse(&two.to_string()).unwrap();
        assert_eq!(again, two);
    }

    #[test]
    fn padding_may_be_absent_and_secrets_are_not_printed() {
        for text in ["3 AEAD_AES_256_GCM inline:AAECAwQ=", "3 AEAD_AES_256_GCM inline:AAECAwQ"] {
            let line = CryptoAttribute::parse(text).unwrap();
            assert_eq!(line.keys[0].key_salt, [0, 1, 2, 3, 4]);
            assert!(!format!("{line:?}").contains("AAEC") && !format!("{line:?}").contains("[0, 1"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_apart() {
        let error = |text: &str| CryptoAttribute::parse(text).unwrap_err();
        assert_eq!(error(""), CryptoError::Form);
        assert_eq!(error("1 SUITE"), CryptoError::Form);
        assert_eq!(error("x SUITE inline:AAAA"), CryptoError::Form);
        assert_eq!(error("1 SUITE uri:AAAA"), CryptoError::Form);
        assert_eq!(error("1 SUITE inline:***"), CryptoError::Key);
        assert_eq!(error("1 SUITE inline:AAAA|1:900"), CryptoError::Mki);
        for parameter in ["UNENCRYPTED_SRTP", "unauthenticated_srtp", "KDR=5", "FEC_ORDER=FEC_SRTP", "NEW=1"] {
            assert_eq!(error(&format!("1 SUITE inline:AAAA {parameter}")), CryptoError::Parameter);
        }
    }
}
