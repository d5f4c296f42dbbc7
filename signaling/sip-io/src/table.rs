//! Which connections there are, found without a walk: by their number, by peer, and
//! counted by source.
//!
//! A connection is entered before it stands: what is sent meanwhile waits in its queue,
//! so a peer never gets a second one. It leaves the table before its queue is closed;
//! all under one lock, so that a message is either in the queue of a connection (and
//! told of, should that one fail) or finds none there. One that is taken out while it
//! stands is closed by that.
//!
//! Sources that nobody trusts get three quarters of the accepted connections at most.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip::trust::TrustTable;
use tokio::sync::{mpsc, oneshot};

use crate::limits::IoLimits;
use crate::source;

/// A message, and where it was sent to: a failure is told of that.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) to: Destination,
    pub(crate) bytes: Bytes,
}

/// What a connection has of its place in the table.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) messages: mpsc::Receiver<Outgoing>,
    /// Ends when the connection is taken out of the table.
    pub(crate) closed: oneshot::Receiver<Infallible>,
}

/// Who began a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The peer.
    Accepted,
    /// We did, to a host of this name where there is one (TLS).
    Opened(Option<Arc<str>>),
}

#[derive(Debug)]
struct Entry {
    flow: Flow,
    origin: Origin,
    is_stranger: bool,
    queue: mpsc::Sender<Outgoing>,
    _open: oneshot::Sender<Infallible>,
}

/// All stream connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable {
    by_number: HashMap<u64, Entry>,
    /// Most have one; names under TLS, or several listeners, make more.
    by_peer: HashMap<(Transport, SocketAddr), Vec<u64>>,
    accepted_from: HashMap<IpAddr, usize>,
    accepted: usize,
    /// Accepted from sources that nobody trusts.
    strangers: usize,
    trust: TrustTable,
    last: u64,
}

impl ConnectionTable {
    /// Enters a connection and gives it a number; `None` at a limit.
    pub(crate) fn admit(&mut self, limits: &IoLimits, wanted: Flow, origin: Origin) -> Option<(Flow, Queue)> {
        let source = source::of(wanted.remote.ip());
        let is_stranger = origin == Origin::Accepted && self.trust.tenant_of(wanted.remote.ip()).is_none();
        if origin == Origin::Accepted {
            let from_there = self.accepted_from.get(&source).copied().unwrap_or(0);
            if self.accepted >= limits.max_connections || from_there >= limits.max_connections_per_source {
                return None;
            }
            if is_stranger && self.strangers >= limits.max_connections - limits.max_connections / 4 {
                return None;
            }
            self.accepted += 1;
            self.strangers += usize::from(is_stranger);
            self.accepted_from.insert(source, from_there + 1);
        } else if self.by_number.len() - self.accepted >= limits.max_connections {
            return None;
        }
        self.last += 1;
        let flow = Flow { connection: self.last, ..wanted };
        let (queue, messages) = mpsc::channel(limits.send_queue.max(1));
        let (open, closed) = oneshot::channel();
        self.by_number.insert(flow.connection, Entry { flow, origin, is_stranger, queue, _open: open });
        self.by_peer.entry((flow.transport, flow.remote)).or_default().push(flow.connection);
        Some((flow, Queue { messages, closed }))
    }

    /// Who is trusted from now on; connections that are there stay what they were.
    pub(crate) fn set_trust(&mut self, trust: TrustTable) {
        self.trust = trust;
    }

    /// True while the connection of that number is here.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.by_number.contains_key(&number)
    }

    /// The number and queue of the flow's connection, or of the newest to the same peer: under TLS an
    /// opened one must be for the host of that name.
    pub(crate) fn queue_of(&self, to: &Destination) -> Option<(u64, &mpsc::Sender<Outgoing>)> {
        let (flow, name) = (&to.flow, to.server_name.as_ref());
        if let Some(entry) = self.by_number.get(&flow.connection) {
            return Some((flow.connection, &entry.queue));
        }
        let numbers = self.by_peer.get(&(flow.transport, flow.remote))?;
        let mut entries = numbers.iter().rev().filter_map(|number| self.by_number.get(number));
        let fits = |entry: &&Entry| match &entry.origin {
            // Who opened it was not asked for that name (RFC 5923 4); over TCP nobody is.
            Origin::Accepted => flow.transport != Transport::Tls,
            Origin::Opened(verified) => verified.as_ref() == name,
        };
        entries.find(fits).map(|entry| (entry.flow.connection, &entry.queue))
    }

    /// Takes a connection out.
    pub(crate) fn remove(&mut self, number: u64) {
        let Some(entry) = self.by_number.remove(&number) else { return };
        let peer = (entry.flow.transport, entry.flow.remote);
        if let Some(numbers) = self.by_peer.get_mut(&peer) {
            numbers.retain(|have| *have != number);
            if numbers.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
        if entry.origin == Origin::Accepted {
            self.accepted = self.accepted.saturating_sub(1);
            self.strangers = self.strangers.saturating_sub(usize::from(entry.is_stranger));
            let source = source::of(entry.flow.remote.ip());
            if let Some(count) = self.accepted_from.get_mut(&source) {
                *count -= 1;
                if *count == 0 {
                    self.accepted_from.remove(&source);
                }
            }
        }
    }

    /// Connections, those that are being opened included.
    pub(crate) fn len(&self) -> usize {
        self.by_number.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn flow(remote: &str) -> Flow {
        Flow {
            transport: Transport::Tls,
            local: "192.0.2.1:5061".parse().unwrap(),
            remote: remote.parse().unwrap(),
            connection: 0,
        }
    }

    #[test]
    fn a_connection_is_found_by_its_number_and_by_its_peer() {
        let (mut table, limits) = (ConnectionTable::default(), IoLimits::default());
        let (first, _keep) = table.admit(&limits, flow("192.0.2.9:40000"), Origin::Accepted).unwrap();
        let (second, _keep) = table.admit(&limits, flow("192.0.2.8:5061"), Origin::Opened(None)).unwrap();
        assert_ne!(first.connection, second.connection);
        let found = |table: &ConnectionTable, flow: &Flow| table.queue_of(&flow.into()).is_some();
        assert!(found(&table, &first) && found(&table, &flow("192.0.2.8:5061")));
        assert!(!found(&table, &flow("192.0.2.9:40000")), "whoever opened it did not prove a name");
        assert!(!found(&table, &flow("192.0.2.9:40001")));
        assert!(!found(&table, &Flow { transport: Transport::Tcp, ..flow("192.0.2.8:5061") }));
        let gone = Flow { connection: 99, ..flow("192.0.2.8:5061") };
        assert!(found(&table, &gone), "another connection to the same peer serves as well");
        table.remove(second.connection);
        assert!(!found(&table, &second) && !found(&table, &gone) && found(&table, &first));
        table.remove(first.connection);
        assert!(table.len() == 0 && table.by_peer.is_empty() && table.accepted_from.is_empty());
    }

    #[test]
    fn a_connection_verified_for_one_name_is_not_used_for_another() {
        let (mut table, limits) = (ConnectionTable::default(), IoLimits::default());
        let (one, two): (Arc<str>, Arc<str>) = ("one.example".into(), "two.example".into());
        let peer = flow("192.0.2.8:5061");
        let (_, _keep) = table.admit(&limits, peer, Origin::Opened(Some(Arc::clone(&one)))).unwrap();
        let found = |name: Option<&Arc<str>>| {
            table.queue_of(&Destination { flow: peer, server_name: name.map(Arc::clone) }).is_some()
        };
        assert!(found(Some(&one)) && !found(Some(&two)) && !found(None));
    }

    #[test]
    fn limits_hold_and_accepted_connections_take_no_room_from_opened_ones() {
        let limits = IoLimits { max_connections: 3, max_connections_per_source: 2, ..IoLimits::default() };
        let mut table = ConnectionTable::default();
        let mut accept = |remote: &str| table.admit(&limits, flow(remote), Origin::Accepted);
        let (first, _) = accept("192.0.2.9:1").unwrap();
        assert!(accept("192.0.2.9:2").is_some() && accept("192.0.2.9:3").is_none());
        assert!(accept("192.0.2.8:1").is_some() && accept("192.0.2.7:1").is_none());
        for port in 1..=3 {
            let remote = format!("192.0.2.5:{port}");
            assert!(table.admit(&limits, flow(&remote), Origin::Opened(None)).is_some());
        }
        assert!(table.admit(&limits, flow("192.0.2.5:4"), Origin::Opened(None)).is_none());
        table.remove(first.connection);
        assert!(table.admit(&limits, flow("192.0.2.9:3"), Origin::Accepted).is_some());
    }
    #[test]
    fn strangers_leave_room_for_those_who_are_trusted() {
        let limits = IoLimits { max_connections: 8, max_connections_per_source: 8, ..IoLimits::default() };
        let mut table = ConnectionTable::default();
        table.set_trust(TrustTable::new(vec![("192.0.2.0/24".parse().unwrap(), "acme".into())]));
        let mut kept = Vec::new();
        for port in 1..=6 {
            kept.push(table.admit(&limits, flow(&format!("203.0.113.{port}:{port}")), Origin::Accepted).unwrap());
        }
        assert!(table.admit(&limits, flow("203.0.113.9:7"), Origin::Accepted).is_none());
        for port in 1..=2 {
            kept.push(table.admit(&limits, flow(&format!("192.0.2.9:{port}")), Origin::Accepted).unwrap());
        }
        assert!(table.admit(&limits, flow("192.0.2.9:3"), Origin::Accepted).is_none(), "the limit over all");
        table.remove(kept[0].0.connection);
        assert!(table.admit(&limits, flow("203.0.113.9:7"), Origin::Accepted).is_some());
    }

    #[test]
    fn the_addresses_of_one_network_of_ipv6_are_one_source() {
        let limits = IoLimits { max_connections_per_source: 2, ..IoLimits::default() };
        let mut table = ConnectionTable::default();
        let mut accept = |remote: &str| table.admit(&limits, flow(remote), Origin::Accepted);
        let (first, _) = accept("[2001:db8:0:1::1]:1").unwrap();
        assert!(accept("[2001:db8:0:1:ffff::2]:1").is_some() && accept("[2001:db8:0:1::3]:1").is_none());
        assert!(accept("[2001:db8:0:2::3]:1").is_some());
        table.remove(first.connection);
        assert!(table.admit(&limits, flow("[2001:db8:0:1::3]:1"), Origin::Accepted).is_some());
    }
}
