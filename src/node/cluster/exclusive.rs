//! Jobs that one node at a time may do.
//!
//! Two things are asked for, because each alone is not enough. The *majority* ([`Quorum`]): of the two sides of a split
//! only one tries. The *lease* ([`Lease`]): of those who try only one does it, and its fence, which only grows, lets
//! whatever it writes refuse one who believes too long that the lease is still his. When either is lost the job is
//! dropped where it stands, so it does its work in steps that may be done again.
//!
//! A single node does everything. A cluster without NATS has no leases: there these jobs do not run, which the
//! configuration says as a warning.

use std::time::Duration;

use ferric_cluster::Lease;
use ferric_fabric::{Member, MemberState, NodeId, Quorum, Site};

use super::{Cluster, MemberEvent};

/// How long a lease outlives a holder that died.
const LIFE: Duration = Duration::from_secs(20);
/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// One job.
pub(in crate::node) struct Exclusive {
    cluster: Cluster,
    /// Letters, digits, `-` and `_`.
    name: &'static str,
    again_after: Duration,
}

impl Exclusive {
    /// The job of this name; the same on all nodes.
    pub(in crate::node) fn new(cluster: Cluster, name: &'static str) -> Exclusive {
        Exclusive { cluster, name, again_after: AGAIN_AFTER }
    }

    #[cfg(test)]
    pub(super) fn trying_every(self, again_after: Duration) -> Exclusive {
        Exclusive { again_after, ..self }
    }

    /// Does the job whenever it is this node's turn, for as long as this is awaited. The job gets the fence; when it
    /// returns, the turn is over and another node may have the next one.
    pub(in crate::node) async fn run(self, mut job: impl AsyncFnMut(u64)) {
        loop {
            if let Some(mut lease) = self.turn().await {
                let fence = lease.fence();
                tracing::debug!(job = self.name, fence, "this node's turn");
                let mut members = self.cluster.follow();
                tokio::select! {
                    () = job(fence) => {}
                    () = lease.lost() => tracing::warn!(job = self.name, "the lease is lost: another node goes on"),
                    () = self.outvoted(&mut members) => tracing::warn!(job = self.name, "the majority is lost"),
                }
            }
            tokio::time::sleep(self.again_after).await;
        }
    }

    async fn turn(&self) -> Option<Lease> {
        if !self.may_try() {
            return None;
        }
        match self.cluster.state().acquire(self.name, LIFE).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::debug!(job = self.name, %error, "no lease");
                None
            }
        }
    }

    async fn outvoted(&self, members: &mut super::Members) {
        while let Some(event) = members.next().await {
            if matches!(event, MemberEvent::Down { .. } | MemberEvent::Missed) && !self.may_try() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Whether this side of a split may have a turn.
    fn may_try(&self) -> bool {
        let Some(settings) = self.cluster.settings() else { return true };
        let own = (self.cluster.node().clone(), self.cluster.site().clone());
        !settings.nats.is_empty() && has_majority(own, &self.cluster.members(), settings.preferred_site.as_deref())
    }
}

fn has_majority(own: (NodeId, Site), members: &[Member], preferred: Option<&str>) -> bool {
    let node = own.0.clone();
    let belong = members.iter().filter(|member| member.state != MemberState::Left);
    let all: Vec<(NodeId, Site)> =
        belong.map(|member| (member.node.clone(), member.site.clone())).chain([own]).collect();
    let named = preferred.and_then(|site| Site::new(site).ok());
    let Some(preferred) = named.or_else(|| all.iter().map(|(_, site)| site.clone()).min()) else { return false };
    let up = members.iter().filter(|member| member.is_up()).map(|member| &member.node);
    Quorum::new(all, &preferred).holds(up.chain([&node]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ferric_fabric::Incarnation;
    use ferric_fabric::membership::Profile;
    use std::time::Instant;

    fn identity(name: &str) -> (NodeId, Site) {
        (NodeId::new(name).unwrap(), Site::new(name.get(..1).unwrap()).unwrap())
    }

    fn member(name: &str, state: MemberState) -> Member {
        let (node, site) = identity(name);
        Member {
            node,
            site,
            incarnation: Incarnation(1),
            state,
            since: Instant::now(),
            protocol: None,
            profile: Profile::default(),
            addresses: Vec::new(),
            quality: None,
            clock_ahead_ms: 0,
        }
    }

    #[test]
    fn one_side_of_a_split_tries_and_who_left_does_not_count() {
        use MemberState::{Alive, Dead, Known, Left, Suspect};
        let table: [(&str, &[(&str, MemberState)], Option<&str>, bool); 8] = [
            ("a1", &[], None, true),
            ("a1", &[("a2", Alive), ("b1", Dead), ("b2", Dead)], None, true), // half, with the anchor
            ("b1", &[("b2", Alive), ("a1", Dead), ("a2", Dead)], None, false),
            ("b1", &[("b2", Alive), ("a1", Dead), ("a2", Dead)], Some("b"), true),
            ("a1", &[("a2", Alive), ("b1", Dead), ("b2", Dead)], Some("b"), false),
            ("b1", &[("a1", Dead), ("b2", Suspect)], None, true),
            ("b1", &[("a1", Left), ("a2", Left)], None, true),
            ("b1", &[("a1", Known), ("a2", Known)], None, false),
        ];
        for (own, others, preferred, expected) in table {
            let members: Vec<Member> = others.iter().map(|(name, state)| member(name, *state)).collect();
            assert_eq!(has_majority(identity(own), &members, preferred), expected, "{own} {others:?} {preferred:?}");
        }
    }
}
