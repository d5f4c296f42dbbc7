//! When a shard visits which call next.
//!
//! A heap of due times with one live entry a call. Entries of calls that are
//! gone are skipped by generation when they come up, so removal costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A place in the shard's table, and which of its tenants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat {
    /// Index into the shard's table.
    pub(crate) index: usize,
    /// Tells successive calls on the same index apart.
    pub(crate) generation: u64,
}

/// Due times, earliest first.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Reverse<(Instant, Seat)>>,
}

impl Agenda {
    /// Nothing due.
    pub(crate) fn new() -> Agenda {
        Agenda::default()
    }

    /// Visit `seat` at `due`.
    pub(crate) fn push(&mut self, due: Instant, seat: Seat) {
        self.heap.push(Reverse((due, seat)));
    }

    /// The earliest due time.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// The next seat whose time has come at `now`, with the time it was due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Seat)> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn seats_come_up_in_order_of_their_time_and_not_before() {
        let start = Instant::now();
        let seat = |index| Seat { index, generation: 0 };
        let mut agenda = Agenda::new();
        agenda.push(start + Duration::from_millis(30), seat(3));
        agenda.push(start + Duration::from_millis(10), seat(1));
        agenda.push(start + Duration::from_millis(20), seat(2));
        assert_eq!(agenda.pop_due(start), None);
        let now = start + Duration::from_millis(20);
        assert_eq!(agenda.pop_due(now).map(|(_, seat)| seat.index), Some(1));
        assert_eq!(agenda.pop_due(now).map(|(_, seat)| seat.index), Some(2));
        assert_eq!(agenda.pop_due(now), None);
        assert_eq!(agenda.next_due(), Some(start + Duration::from_millis(30)));
    }
}
