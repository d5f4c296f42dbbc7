//! The suites (RFC 4568 6.2, RFC 6188, RFC 7714).

/// How a stream is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpSuite {
    /// `AES_CM_128_HMAC_SHA1_80`.
    AesCm128HmacSha1_80,
    /// `AES_CM_128_HMAC_SHA1_32`: a short tag on RTP, the long one on RTCP.
    AesCm128HmacSha1_32,
    /// `AES_256_CM_HMAC_SHA1_80`.
    AesCm256HmacSha1_80,
    /// `AES_256_CM_HMAC_SHA1_32`.
    AesCm256HmacSha1_32,
    /// `AEAD_AES_128_GCM`.
    AeadAes128Gcm,
    /// `AEAD_AES_256_GCM`.
    AeadAes256Gcm,
}

impl SrtpSuite {
    /// All, with the names that `a=crypto` has for them.
    pub const ALL: [(SrtpSuite, &'static str); 6] = [
        (SrtpSuite::AesCm128HmacSha1_80, "AES_CM_128_HMAC_SHA1_80"),
        (SrtpSuite::AesCm128HmacSha1_32, "AES_CM_128_HMAC_SHA1_32"),
        (SrtpSuite::AesCm256HmacSha1_80, "AES_256_CM_HMAC_SHA1_80"),
        (SrtpSuite::AesCm256HmacSha1_32, "AES_256_CM_HMAC_SHA1_32"),
        (SrtpSuite::AeadAes128Gcm, "AEAD_AES_128_GCM"),
        (SrtpSuite::AeadAes256Gcm, "AEAD_AES_256_GCM"),
    ];

    /// By the name of `a=crypto`, in any case.
    pub fn from_name(name: &str) -> Option<SrtpSuite> {
        SrtpSuite::ALL.into_iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(suite, _)| suite)
    }

    /// The name of `a=crypto`.
    pub fn name(self) -> &'static str {
        SrtpSuite::ALL.into_iter().find(|(suite, _)| *suite == self).map_or("", |(_, name)| name)
    }

    /// Master key, in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            SrtpSuite::AesCm128HmacSha1_80 | SrtpSuite::AesCm128HmacSha1_32 | SrtpSuite::AeadAes128Gcm => 16,
            SrtpSuite::AesCm256HmacSha1_80 | SrtpSuite::AesCm256HmacSha1_32 | SrtpSuite::AeadAes256Gcm => 32,
        }
    }

    /// Master salt, in bytes.
    pub const fn salt_len(self) -> usize {
        if self.is_aead() { 12 } else { 14 }
    }

    /// Tag behind an RTP packet, in bytes.
    pub const fn rtp_tag_len(self) -> usize {
        match self {
            SrtpSuite::AesCm128HmacSha1_32 | SrtpSuite::AesCm256HmacSha1_32 => 4,
            SrtpSuite::AesCm128HmacSha1_80 | SrtpSuite::AesCm256HmacSha1_80 => 10,
            SrtpSuite::AeadAes128Gcm | SrtpSuite::AeadAes256Gcm => 16,
        }
    }

    /// Tag behind an RTCP packet, in bytes.
    pub const fn rtcp_tag_len(self) -> usize {
        if self.is_aead() { 16 } else { 10 }
    }

    /// AES-GCM, which encrypts and authenticates at once.
    pub const fn is_aead(self) -> bool {
        matches!(self, SrtpSuite::AeadAes128Gcm | SrtpSuite::AeadAes256Gcm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lengths_are_those_of_the_registry() {
        for (suite, name) in SrtpSuite::ALL {
            assert_eq!((SrtpSuite::from_name(&name.to_ascii_lowercase()), suite.name()), (Some(suite), name));
        }
        assert_eq!(SrtpSuite::from_name("F8_128_HMAC_SHA1_80"), None);
        let suite = SrtpSuite::AesCm128HmacSha1_32;
        assert_eq!((suite.key_len(), suite.salt_len(), suite.rtp_tag_len(), suite.rtcp_tag_len()), (16, 14, 4, 10));
        let suite = SrtpSuite::AeadAes256Gcm;
        assert_eq!((suite.key_len(), suite.salt_len(), suite.rtp_tag_len(), suite.rtcp_tag_len()), (32, 12, 16, 16));
    }
}
