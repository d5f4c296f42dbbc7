//! The majority rule of exclusive roles. Soft state needs no majority: it is served on both sides of a split.
//!
//! Of the two sides of a split, side A stays active with at least half of the members, side B with more than half. Side A
//! is the side of the *anchor*: the first member, by id, of the preferred site (of all members, if nobody is there).
//!
//! One node and not a site's name marks side A, because a split may go through a site: then two groups with half of the
//! members each would both call themselves A. With one anchor at most one group of nodes that see each other holds:
//! two groups of which both have more than half share a member, and only one has the anchor.
//!
//! A network in which a sees b, b sees c, and a does not see c has groups that overlap, and two of them may hold. So an
//! exclusive role needs the majority *and* a lease with fencing: the majority says who may try.
//!
//! The members are all that belong to the cluster, dead ones too: who leaves in order is taken off by the caller.

use std::collections::BTreeSet;

use crate::identity::{NodeId, Site};

/// The rule for one set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    members: BTreeSet<NodeId>,
    anchor: Option<NodeId>,
}

impl Quorum {
    /// The rule for these members, this node among them. `preferred` is the site whose side wins when both have half.
    pub fn new(members: impl IntoIterator<Item = (NodeId, Site)>, preferred: &Site) -> Self {
        let mut all = BTreeSet::new();
        let mut there = BTreeSet::new();
        for (node, site) in members {
            if site == *preferred {
                there.insert(node.clone());
            }
            all.insert(node);
        }
        let anchor = there.first().or(all.first()).cloned();
        Self { members: all, anchor }
    }

    /// The member that makes a side the side A.
    pub fn anchor(&self) -> Option<&NodeId> {
        self.anchor.as_ref()
    }

    /// Whether the side that consists of these nodes may hold exclusive roles. The asking node counts itself; nodes that
    /// are no members do not count.
    pub fn holds<'a>(&self, side: impl IntoIterator<Item = &'a NodeId>) -> bool {
        let side: BTreeSet<_> = side.into_iter().filter(|node| self.members.contains(*node)).collect();
        let has_anchor = self.anchor.as_ref().is_some_and(|anchor| side.contains(anchor));
        let twice = side.len() * 2;
        twice > self.members.len() || (has_anchor && twice == self.members.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// Names begin with the letter of their site.
    fn quorum(names: &str) -> Quorum {
        let site = |name: &str| Site::new(name.get(..1).unwrap()).unwrap();
        Quorum::new(names.split(' ').map(|name| (node(name), site(name))), &Site::new("a").unwrap())
    }

    #[test]
    fn side_a_needs_half_and_side_b_more_than_half() {
        let table = [
            ("a1", "a1", true),
            ("a1 b1", "a1", true),
            ("a1 b1", "b1", false),
            ("a1 a2 b1 b2", "a1 a2", true),
            ("a1 a2 b1 b2", "b1 b2", false),
            ("a1 a2 b1 b2", "a2 b1 b2", true),
            ("a1 a2 b1 b2", "a1", false),
            ("a1 a2 b1 b2", "a1 b2", true),
            ("a1 a2 b1 b2", "a2 b1", false), // a split through site a: the anchor is on the other side
            ("a1 b1 b2", "a1", false),
            ("a1 b1 b2", "b1 b2", true),
            ("a1 a2 a3 b1 b2", "a1 a2", false),
            ("a1 a2 a3 b1 b2", "b1 b2 a3", true),
            ("b1 b2", "b1", true), // nobody in the preferred site: the first of all
            ("b1 b2", "b2", false),
            ("a1 b1", "a1 z9", true),
            ("a1 b1", "b1 z8 z9", false), // strangers do not count
        ];
        for (members, side, holds) in table {
            let side: Vec<_> = side.split(' ').map(node).collect();
            assert_eq!(quorum(members).holds(&side), holds, "{side:?} of {members}");
        }
        assert!(!quorum("a1").holds([]));
        assert!(!Quorum::new([], &Site::new("a").unwrap()).holds(&[node("a1")]));
    }

    #[test]
    fn every_split_in_two_leaves_exactly_one_side_active() {
        for members in ["a1 b1", "a1 a2 b1", "a1 a2 b1 b2", "a1 a2 a3 b1 b2 b3", "b1 b2 b3 c1 c2"] {
            let nodes: Vec<_> = members.split(' ').map(node).collect();
            let quorum = quorum(members);
            for split in 0u32..1 << nodes.len() {
                let (one, other): (Vec<_>, Vec<_>) = nodes.iter().enumerate().partition(|(n, _)| split & (1 << n) != 0);
                let side = |of: Vec<(usize, _)>| quorum.holds(of.into_iter().map(|(_, node)| node));
                assert!(side(one) != side(other), "{members} split {split:b}");
            }
        }
    }
}
