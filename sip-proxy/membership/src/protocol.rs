//! Which protocol version two nodes speak.
//!
//! Each side says the oldest and the newest it knows, and both speak the newest that both know. A release that brings
//! version n keeps n-1, so that a cluster is upgraded node by node.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of what is said on links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Protocol(pub u16);

/// The versions a node can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// The oldest one.
    pub min: Protocol,
    /// The newest one.
    pub max: Protocol,
}

impl ProtocolRange {
    /// What this release speaks.
    pub const OURS: Self = Self { min: Protocol(1), max: Protocol(1) };

    /// The newest version both know.
    pub fn common(self, other: Self) -> Option<Protocol> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> ProtocolRange {
        ProtocolRange { min: Protocol(min), max: Protocol(max) }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let table = [
            (range(1, 1), range(1, 1), Some(1)),
            (range(1, 2), range(2, 3), Some(2)),
            (range(1, 3), range(2, 5), Some(3)),
            (range(1, 1), range(2, 3), None),
            (range(3, 1), range(1, 3), None), // upside down: a broken peer
        ];
        for (one, other, common) in table {
            assert_eq!(one.common(other), common.map(Protocol), "{one} and {other}");
            assert_eq!(other.common(one), common.map(Protocol), "{other} and {one}");
        }
    }
}
