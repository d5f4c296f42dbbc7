//! Which element a call went to, for as long as the call may last.
//!
//! A mid-dialog request usually carries its way in Route or Request-URI and needs nobody's memory. One that is addressed
//! to the group once more, by a peer that does not keep to Contact, must reach the element that has the dialog, drained
//! or not. With Record-Route the end of each call is seen, and this is also the count of calls an element has.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::ElementId;

/// Calls remembered at once; the oldest go first.
const MOST: usize = 500_000;
/// Places in the order beyond the calls that are known before those of ended calls are taken out.
const SLACK: usize = 1_024;

#[derive(Debug, Clone, Copy)]
struct Entry {
    element: ElementId,
    counted: bool,
    /// Which place in the order is its own.
    place: u64,
}

/// Calls by the hash of their Call-ID.
#[derive(Debug)]
pub(super) struct Dialogs {
    known: HashMap<u64, Entry>,
    /// By age. A call that ended leaves its place behind for a while.
    order: VecDeque<(Instant, u64, u64)>,
    next: u64,
    most: usize,
    longest: Duration,
}

impl Dialogs {
    pub(super) fn new(longest: Duration) -> Dialogs {
        Dialogs { known: HashMap::new(), order: VecDeque::new(), next: 0, most: MOST, longest }
    }

    /// A call was answered. Returns elements whose counted calls are given up because they are too old.
    pub(super) fn begin(&mut self, now: Instant, call: u64, element: ElementId, counted: bool) -> Vec<ElementId> {
        let mut given_up = Vec::new();
        self.next += 1;
        // A second 2xx of the same call replaces the first.
        given_up.extend(
            self.known
                .insert(call, Entry { element, counted, place: self.next })
                .filter(|before| before.counted)
                .map(|before| before.element),
        );
        self.order.push_back((now, call, self.next));
        while let Some((begun, oldest, place)) = self.order.front().copied() {
            let is_known = self.known.get(&oldest).is_some_and(|entry| entry.place == place);
            if is_known && self.known.len() <= self.most && now.saturating_duration_since(begun) < self.longest {
                break;
            }
            self.order.pop_front();
            if is_known {
                given_up.extend(self.end(oldest));
            }
        }
        if self.order.len() > 2 * self.known.len() + SLACK {
            let known = &self.known;
            self.order.retain(|(_, call, place)| known.get(call).is_some_and(|entry| entry.place == *place));
        }
        given_up
    }

    pub(super) fn element(&self, call: u64) -> Option<ElementId> {
        self.known.get(&call).map(|entry| entry.element)
    }

    /// A BYE was seen: the element that has one call less.
    pub(super) fn end(&mut self, call: u64) -> Option<ElementId> {
        self.known.remove(&call).filter(|entry| entry.counted).map(|entry| entry.element)
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn calls_that_ended_push_no_running_call_out_and_take_no_room() {
        let now = Instant::now();
        let mut dialogs = Dialogs { most: 100, ..Dialogs::new(Duration::from_secs(3_600)) };
        assert!(dialogs.begin(now, 0, ElementId(1), true).is_empty());
        for call in 1..100_000 {
            assert!(dialogs.begin(now, call, ElementId(2), true).is_empty());
            assert_eq!(dialogs.end(call), Some(ElementId(2)));
        }
        assert_eq!(dialogs.element(0), Some(ElementId(1)));
        assert!(dialogs.order.len() <= SLACK + 4, "{}", dialogs.order.len());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_last_too_long() {
        let now = Instant::now();
        let mut dialogs = Dialogs { most: 2, ..Dialogs::new(Duration::from_secs(10)) };
        dialogs.begin(now, 1, ElementId(1), true);
        dialogs.begin(now, 2, ElementId(2), false);
        assert_eq!(dialogs.begin(now, 3, ElementId(3), true), [ElementId(1)]);
        assert_eq!(dialogs.begin(now, 3, ElementId(4), true), [ElementId(3)], "answered twice, counted once");
        assert_eq!(dialogs.begin(now + Duration::from_secs(10), 5, ElementId(5), true), [ElementId(4)]);
        assert_eq!(dialogs.len(), 1);
    }
}
