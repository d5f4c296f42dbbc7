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

#[derive(Debug, Clone, Copy)]
struct Entry {
    element: ElementId,
    counted: bool,
    begun: Instant,
}

/// Calls by the hash of their Call-ID.
#[derive(Debug)]
pub(super) struct Dialogs {
    known: HashMap<u64, Entry>,
    order: VecDeque<(Instant, u64)>,
    longest: Duration,
}

impl Dialogs {
    pub(super) fn new(longest: Duration) -> Dialogs {
        Dialogs { known: HashMap::new(), order: VecDeque::new(), longest }
    }

    /// A call was answered. Returns elements whose counted calls are given up because they are too old.
    pub(super) fn begin(&mut self, now: Instant, call: u64, element: ElementId, counted: bool) -> Vec<ElementId> {
        let mut given_up = Vec::new();
        let entry = Entry { element, counted, begun: now };
        match self.known.insert(call, entry) {
            // A second 2xx of the same call, or an answer to its re-INVITE.
            Some(before) if before.counted => given_up.push(before.element),
            _ => {}
        }
        self.order.push_back((now, call));
        while let Some((begun, oldest)) = self.order.front().copied() {
            if self.order.len() <= MOST && now.saturating_duration_since(begun) < self.longest {
                break;
            }
            self.order.pop_front();
            // It may have begun anew since.
            if self.known.get(&oldest).is_some_and(|entry| entry.begun == begun)
                && let Some(entry) = self.known.remove(&oldest)
                && entry.counted
            {
                given_up.push(entry.element);
            }
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
