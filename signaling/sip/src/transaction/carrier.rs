//! Which requests of ours hang on which connection, so that a broken one costs what hung on it, not a walk over everything.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::flow::{Destination, Transport};

/// What breaks as a whole: a connection, or the way to a peer where there is none yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Carrier {
    Connection(u64),
    Peer(Transport, SocketAddr, Option<Arc<str>>),
}

impl Carrier {
    fn of(to: &Destination) -> Carrier {
        match to.flow.connection {
            0 => Carrier::peer(to),
            connection => Carrier::Connection(connection),
        }
    }

    fn peer(to: &Destination) -> Carrier {
        Carrier::Peer(to.flow.transport, to.flow.remote, to.server_name.clone())
    }
}

/// Client transactions without a final response, by what carries them.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<Carrier, BTreeSet<u64>>);

impl Waiting {
    pub(super) fn insert(&mut self, to: &Destination, id: u64) {
        self.0.entry(Carrier::of(to)).or_default().insert(id);
    }

    pub(super) fn remove(&mut self, to: &Destination, id: u64) {
        let carrier = Carrier::of(to);
        if let Some(waiting) = self.0.get_mut(&carrier) {
            waiting.remove(&id);
            if waiting.is_empty() {
                self.0.remove(&carrier);
            }
        }
    }

    /// What hangs on a path that broke, oldest first.
    pub(super) fn on(&self, to: &Destination) -> BTreeSet<u64> {
        // Opened for the first request to a peer, a connection is known to that request as the peer only.
        let carriers = [Carrier::of(to), Carrier::peer(to)];
        carriers.iter().filter_map(|carrier| self.0.get(carrier)).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::flow::Flow;

    #[test]
    fn a_broken_connection_takes_what_was_sent_over_it_or_opened_it_and_nothing_else() {
        let on = |connection: u64, name: Option<&str>| Destination {
            flow: Flow {
                transport: Transport::Tls,
                local: "192.0.2.1:5061".parse().unwrap(),
                remote: "192.0.2.9:5061".parse().unwrap(),
                connection,
            },
            server_name: name.map(Arc::from),
        };
        let mut waiting = Waiting::default();
        for (id, to) in [(1, on(0, Some("a"))), (2, on(7, Some("a"))), (3, on(0, Some("b"))), (4, on(8, Some("a")))] {
            waiting.insert(&to, id);
        }
        assert_eq!(Vec::from_iter(waiting.on(&on(7, Some("a")))), [1, 2]);
        waiting.remove(&on(7, Some("a")), 2);
        assert_eq!(Vec::from_iter(waiting.on(&on(7, Some("a")))), [1]);
        waiting.remove(&on(0, Some("a")), 1);
        assert!(waiting.on(&on(7, Some("a"))).is_empty());
        assert_eq!(waiting.0.len(), 2, "nothing is left of what is over");
    }
}
