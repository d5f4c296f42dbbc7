//! What nodes say to each other over the fabric: one topic for each part of a node, each with one reader.
//!
//! Messages of a topic arrive in order; topics do not wait for each other. Bodies are JSON: a reader passes over fields it
//! does not know and takes the default for those that are missing, so two neighbouring versions understand each other.
//! Mirrored RTP and soft state alone have layouts of their own.
//!
//! A number is never given to something else.

use ferric_fabric::Kind;

/// The channel of datagrams with mirrored RTP.
#[allow(dead_code)]
pub(in crate::node) const MIRRORED_RTP: u32 = 1;

/// A part of the node that others talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) enum Topic {
    /// Between an SRS and the workers of others: assign, change, release, and what comes back.
    Capture = 1,
    /// Copies of dialogs, to the partner.
    Replica = 2,
    /// What mirrors of recordings agree about.
    Mirror = 3,
    /// Draining, questions about a node.
    Admin = 4,
    /// What became of recordings, to the node that owns the call.
    Ledger = 5,
    /// Soft state, as it also travels by NATS: the bytes of `ferric-state`.
    State = 6,
}

impl Topic {
    /// All of them.
    pub(in crate::node) const ALL: [Topic; 6] =
        [Topic::Capture, Topic::Replica, Topic::Mirror, Topic::Admin, Topic::Ledger, Topic::State];

    /// Its number on the wire.
    pub(in crate::node) const fn number(self) -> u8 {
        self as u8
    }

    /// A kind of message in it.
    #[allow(dead_code)]
    pub(in crate::node) const fn kind(self, number: u8) -> Kind {
        Kind::new(self.number(), number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_keep_their_numbers() {
        assert_eq!(Topic::ALL.map(Topic::number), [1, 2, 3, 4, 5, 6]);
        assert_eq!((Topic::Mirror.kind(9).topic(), Topic::Mirror.kind(9).number()), (3, 9));
    }
}
