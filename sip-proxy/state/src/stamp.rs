//! The order of writes: a hybrid logical clock, then node, incarnation and sequence.
//!
//! ```text
//! logical (u64) = milliseconds of a wall clock << 16 | counter
//! ```
//!
//! The clock of a node is the largest of what it has seen, what it has issued, and its own time; so a write that was made
//! after another was seen has the later stamp, whatever the wall clocks say. A clock that runs ahead pulls the others
//! along; it counts on from there and loses nothing but the closeness to real time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest name of a node, in bytes.
pub const MOST_NODE_BYTES: usize = 64;
/// No clock shows more (the year 6429): a stamp beyond it is refused by every node alike.
pub const MOST_LOGICAL: u64 = 1 << 63;

/// The name of a node, unique in the cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Letters, digits, `-` and `_`, at most [`MOST_NODE_BYTES`]; `None` for anything else.
    pub fn new(name: &str) -> Option<NodeId> {
        let fine = !name.is_empty()
            && name.len() <= MOST_NODE_BYTES
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        fine.then(|| NodeId(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A running node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its name.
    pub node: NodeId,
    /// Larger at each start of this node.
    pub incarnation: u64,
}

/// When a write was made, and by whom: unique, and of the same order on all nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The hybrid logical clock.
    pub logical: u64,
    /// The writer.
    pub owner: Identity,
    /// Counts the writes of an incarnation.
    pub sequence: u64,
}

/// The clock of one node.
#[derive(Debug)]
pub(crate) struct Clock {
    owner: Identity,
    start: Instant,
    start_ms: u64,
    last: u64,
    sequence: u64,
}

impl Clock {
    /// `wall_ms`: milliseconds since 1970 at `now`, by this node's clock. It is asked once: what an operator sets later
    /// moves nothing.
    pub(crate) fn new(owner: Identity, now: Instant, wall_ms: u64) -> Clock {
        Clock { owner, start: now, start_ms: wall_ms, last: 0, sequence: 0 }
    }

    /// A stamp later than all that were seen.
    pub(crate) fn stamp(&mut self, now: Instant) -> Stamp {
        // The counter runs over into the milliseconds, which is as good as any order.
        self.last = self.own(now).max(self.last + 1).min(MOST_LOGICAL);
        self.sequence += 1;
        Stamp { logical: self.last, owner: self.owner.clone(), sequence: self.sequence }
    }

    /// Sees a stamp of another; how far it is ahead of this node's own time.
    pub(crate) fn observe(&mut self, now: Instant, logical: u64) -> Duration {
        self.last = self.last.max(logical);
        Duration::from_millis((logical >> 16).saturating_sub(self.own(now) >> 16))
    }

    /// The node this is.
    pub(crate) fn owner(&self) -> &Identity {
        &self.owner
    }

    fn own(&self, now: Instant) -> u64 {
        let run = u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX);
        self.start_ms.saturating_add(run).min(MOST_LOGICAL >> 16) << 16
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
    use super::*;

    fn clock(name: &str, now: Instant, wall_ms: u64) -> Clock {
        Clock::new(Identity { node: NodeId::new(name).unwrap(), incarnation: 1 }, now, wall_ms)
    }

    #[test]
    fn a_write_after_a_seen_one_is_later_though_the_wall_clock_is_behind() {
        let now = Instant::now();
        let (mut ahead, mut behind) = (clock("a", now, 10_000_000), clock("b", now, 1_000));
        let first = ahead.stamp(now);
        assert_eq!(behind.observe(now, first.logical), Duration::from_millis(9_999_000));
        let second = behind.stamp(now);
        assert!(second > first);
        assert_eq!(ahead.observe(now, second.logical), Duration::ZERO);
        assert!(ahead.stamp(now) > second);
    }

    #[test]
    fn more_than_65536_writes_in_a_millisecond_keep_their_order() {
        let now = Instant::now();
        let mut clock = clock("a", now, 5);
        let mut last = clock.stamp(now);
        for _ in 0..70_000 {
            let next = clock.stamp(now);
            assert!(next > last);
            last = next;
        }
        assert!(clock.stamp(now + Duration::from_millis(1)) > last);
    }

    #[test]
    fn a_clock_at_its_end_still_tells_writes_apart() {
        let now = Instant::now();
        let mut clock = clock("a", now, u64::MAX);
        assert!(clock.stamp(now) < clock.stamp(now));
    }

    #[test]
    fn names_of_nodes_fit_a_subject() {
        for bad in ["", "a.b", "a b", "*", ">", "ä", &"x".repeat(65)] {
            assert_eq!(NodeId::new(bad), None, "{bad}");
        }
        assert_eq!(NodeId::new("edge-a1").unwrap().as_str(), "edge-a1");
    }
}
