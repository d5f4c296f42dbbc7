//! Why a connection is refused. The kind travels as the application error code of QUIC's CONNECTION_CLOSE, the sentence
//! as its reason, so that both logs say the same.

use std::fmt;

/// The longest sentence taken from a peer, in bytes.
const MAX_TEXT: usize = 300;

/// The kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The certificate comes from another CA.
    ForeignCa,
    /// The certificate has expired or is not valid yet, by the clock of the one that says so.
    NotValidNow,
    /// The certificate is wrong in another way, or names no node.
    Certificate,
    /// The hello speaks for another node than the certificate.
    Identity,
    /// The node belongs to another cluster.
    Cluster,
    /// No protocol version in common.
    Protocol,
    /// The wall clocks differ too much.
    Clock,
    /// Two running nodes with one id.
    DuplicateId,
    /// The table of members is full.
    Full,
    /// The hello could not be understood.
    BadHello,
    /// A kind that a newer peer knows.
    Other,
}

impl RefusalKind {
    const CODES: [(Self, u32); 11] = [
        (Self::ForeignCa, 16),
        (Self::NotValidNow, 17),
        (Self::Certificate, 18),
        (Self::Identity, 19),
        (Self::Cluster, 20),
        (Self::Protocol, 21),
        (Self::Clock, 22),
        (Self::DuplicateId, 23),
        (Self::Full, 24),
        (Self::BadHello, 25),
        (Self::Other, 31),
    ];

    /// The code on the wire: 16 to 31.
    pub fn code(self) -> u32 {
        Self::CODES.iter().find(|(kind, _)| *kind == self).map_or(31, |(_, code)| *code)
    }

    /// The kind of a code; `None` if the code is no refusal.
    pub fn from_code(code: u64) -> Option<Self> {
        let known = Self::CODES.iter().find(|(_, known)| u64::from(*known) == code).map(|(kind, _)| *kind);
        known.or((16..32).contains(&code).then_some(Self::Other))
    }
}

/// A refusal: what it is, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it is.
    pub kind: RefusalKind,
    /// What is wrong and what helps.
    pub text: String,
}

impl Refusal {
    /// A refusal with its sentence, which is cut to 300 bytes: it may come from a peer.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = MAX_TEXT.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { kind, text: text.replace(char::is_control, " ") }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_back_to_kinds_and_unknown_ones_are_still_refusals() {
        for (kind, code) in RefusalKind::CODES {
            assert_eq!(kind.code(), code);
            assert_eq!(RefusalKind::from_code(u64::from(code)), Some(kind));
        }
        assert_eq!(RefusalKind::from_code(30), Some(RefusalKind::Other));
        assert_eq!(RefusalKind::from_code(0), None);
        assert_eq!(RefusalKind::from_code(u64::MAX), None);
    }

    #[test]
    fn a_sentence_from_outside_is_bounded_and_stays_on_its_line() {
        let refusal = Refusal::new(RefusalKind::Other, format!("a\nb{}", "é".repeat(1000)));
        assert!(refusal.text.len() <= MAX_TEXT && refusal.text.starts_with("a bé"), "{refusal}");
    }
}
