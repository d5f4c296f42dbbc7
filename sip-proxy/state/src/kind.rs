//! The kinds of soft state, and how each of them behaves.
//!
//! ```text
//! kind          when its owner dies          kept in a store   written again by its owner   buckets
//! Registration  stays                        yes               no (the user's agent does)    0..768
//! Session       stays: another takes over    no                yes                           768..1008
//! Load          not shown any more           no                yes                           1008..1024
//! ```
//!
//! A number on the wire is never given to another kind. A node that knows fewer kinds or buckets than its peer passes
//! over what it does not know and compares what it does.

use std::ops::Range;

/// Buckets of all kinds.
pub const BUCKETS: u16 = 1024;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A binding of an address of record.
    Registration,
    /// A call that is recorded or carried now.
    Session,
    /// What a capture worker can take.
    Load,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Registration, Kind::Session, Kind::Load];

    /// Its number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Kind::Registration => 1,
            Kind::Session => 2,
            Kind::Load => 3,
        }
    }

    /// The kind of a number on the wire; `None`: of a newer version.
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The place in [`Kind::ALL`].
    pub(crate) fn place(self) -> usize {
        match self {
            Kind::Registration => 0,
            Kind::Session => 1,
            Kind::Load => 2,
        }
    }

    /// Whether it belongs to a running process: the owner writes it again in time for as long as it runs.
    pub fn with_owner(self) -> bool {
        match self {
            Kind::Registration => false,
            Kind::Session | Kind::Load => true,
        }
    }

    /// Whether it is hidden as soon as its owner is known to be dead or to have started anew.
    pub fn dies_with_owner(self) -> bool {
        match self {
            Kind::Registration | Kind::Session => false,
            Kind::Load => true,
        }
    }

    /// Whether it outlives a stop of the whole cluster.
    pub fn kept(self) -> bool {
        match self {
            Kind::Registration => true,
            Kind::Session | Kind::Load => false,
        }
    }

    /// The buckets of its entries.
    pub fn buckets(self) -> Range<u16> {
        match self {
            Kind::Registration => 0..768,
            Kind::Session => 768..1008,
            Kind::Load => 1008..BUCKETS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_numbers_and_buckets_of_their_own() {
        let mut next = 0;
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
            assert_eq!(kind.buckets().start, next, "{kind:?}");
            next = kind.buckets().end;
        }
        assert_eq!(next, BUCKETS);
        assert_eq!(Kind::from_number(0), None);
    }
}
