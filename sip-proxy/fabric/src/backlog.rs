//! Events that wait for their reader: bounded, the oldest go first, and how many went is said in their place.

use std::collections::VecDeque;

use ferric_membership::Event;

/// A bounded queue of events.
#[derive(Debug)]
pub(crate) struct Backlog {
    events: VecDeque<Event>,
    /// Dropped since the reader heard of it last.
    dropped: u64,
    most: usize,
}

impl Backlog {
    pub(crate) fn new(most: usize) -> Self {
        Self { events: VecDeque::new(), dropped: 0, most: most.max(1) }
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > self.most {
            self.events.pop_front();
            self.dropped += 1;
        }
    }

    /// The next event; before the first one after a loss, how many were lost.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.dropped) {
            0 => self.events.pop_front(),
            lost => Some(Event::Lagged(lost)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_are_dropped_and_counted_in_their_place() {
        let event = |n| Event::Stalled(Duration::from_secs(n));
        let mut backlog = Backlog::new(3);
        (0..5).for_each(|n| backlog.push(event(n)));
        assert_eq!(backlog.pop(), Some(Event::Lagged(2)));
        assert_eq!(backlog.pop(), Some(event(2)));
        (5..7).for_each(|n| backlog.push(event(n)));
        let rest: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        assert_eq!(rest, [Event::Lagged(1), event(4), event(5), event(6)]);
        assert!(backlog.is_empty());
    }
}
