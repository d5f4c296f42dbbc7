//! The bindings of all users.
//!
//! ```text
//! index: "alice@example.com" -> slot     slots: [ aor, bindings, armed ]     deadlines: slot -> first expiry
//! connections: { (connection, slot) }, so that a broken one finds its users without a walk
//! ```
//!
//! A slot's deadline is armed for its first expiry and left alone when that moves later; firing early, it is armed again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use ferric_sip::deadline::DeadlineQueue;

use crate::binding::Binding;

/// One address of record with bindings.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) aor: Arc<str>,
    pub(crate) bindings: Vec<Binding>,
    armed: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    index: HashMap<Arc<str>, u32>,
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
    deadlines: DeadlineQueue<u32>,
    connections: BTreeSet<(u64, u32)>,
    bindings: usize,
}

impl Table {
    /// Bindings, those included that are over and not yet removed.
    pub(crate) fn len(&self) -> usize {
        self.bindings
    }

    /// Addresses of record.
    pub(crate) fn aors(&self) -> usize {
        self.index.len()
    }

    /// The bindings of an address of record, in no order.
    pub(crate) fn get(&self, aor: &str) -> &[Binding] {
        self.index.get(aor).and_then(|slot| self.slot(*slot)).map_or(&[], |record| &record.bindings)
    }

    /// The record of a slot.
    pub(crate) fn slot(&self, slot: u32) -> Option<&Record> {
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    /// Slots, the empty ones included.
    pub(crate) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Changes the bindings of an address of record as `edit` does; without any left the record goes.
    pub(crate) fn edit<T>(&mut self, aor: &str, edit: impl FnOnce(&mut Vec<Binding>) -> T) -> T {
        match self.index.get(aor).copied() {
            Some(slot) => self.edit_slot(slot, edit).1,
            None => {
                let mut bindings = Vec::new();
                let result = edit(&mut bindings);
                if !bindings.is_empty() {
                    self.insert(aor, bindings);
                }
                result
            }
        }
    }

    fn insert(&mut self, aor: &str, mut bindings: Vec<Binding>) {
        bindings.shrink_to_fit();
        let aor: Arc<str> = aor.into();
        let slot = match self.free.pop() {
            Some(slot) => slot,
            // The limit on bindings keeps this far below 2^32.
            None => {
                self.slots.push(None);
                self.slots().saturating_sub(1)
            }
        };
        self.bindings += bindings.len();
        for connection in bindings.iter().filter_map(Binding::connection) {
            self.connections.insert((connection, slot));
        }
        if let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)) {
            *place = Some(Record { aor: aor.clone(), bindings, armed: None });
            self.index.insert(aor, slot);
        }
        self.arm(slot);
    }

    /// As [`Table::edit`], by slot; with the address of record, if there is one.
    pub(crate) fn edit_slot<T>(
        &mut self,
        slot: u32,
        edit: impl FnOnce(&mut Vec<Binding>) -> T,
    ) -> (Option<Arc<str>>, T) {
        let record = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)).and_then(Option::as_mut);
        let Some(record) = record else { return (None, edit(&mut Vec::new())) };
        for connection in record.bindings.iter().filter_map(Binding::connection) {
            self.connections.remove(&(connection, slot));
        }
        self.bindings -= record.bindings.len();
        let result = edit(&mut record.bindings);
        record.bindings.shrink_to_fit();
        self.bindings += record.bindings.len();
        for connection in record.bindings.iter().filter_map(Binding::connection) {
            self.connections.insert((connection, slot));
        }
        let aor = record.aor.clone();
        if record.bindings.is_empty() {
            self.index.remove(&aor);
            self.deadlines.cancel(&slot);
            if let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)) {
                *place = None;
            }
            self.free.push(slot);
        } else {
            self.arm(slot);
        }
        (Some(aor), result)
    }

    /// Sets the slot's deadline, unless an earlier one is set.
    fn arm(&mut self, slot: u32) {
        let record = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)).and_then(Option::as_mut);
        let Some(record) = record else { return };
        let Some(first) = record.bindings.iter().map(|binding| binding.expires).min() else { return };
        if record.armed.is_none_or(|armed| first < armed) {
            record.armed = Some(first);
            self.deadlines.set(slot, first);
        }
    }

    /// A slot whose deadline has come. It must be edited, which arms it again.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let slot = self.deadlines.pop_due(now)?;
        if let Some(record) =
            usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)).and_then(Option::as_mut)
        {
            record.armed = None;
        }
        Some(slot)
    }

    /// The next deadline.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        self.deadlines.next_deadline()
    }

    /// Slots with bindings that go along a connection.
    pub(crate) fn along(&self, connection: u64) -> Vec<u32> {
        self.connections.range((connection, 0)..=(connection, u32::MAX)).map(|(_, slot)| *slot).collect()
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.deadlines.len(), self.connections.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    use crate::binding::NO_Q;

    fn binding(expires: Instant, connection: u64) -> Binding {
        let flow = ferric_sip::flow::Flow {
            transport: ferric_sip::flow::Transport::Tcp,
            local: "10.0.0.5:5060".parse().unwrap(),
            remote: "10.0.0.7:40001".parse().unwrap(),
            connection,
        };
        Binding {
            uri: "sip:a@10.0.0.7".into(),
            call: 0,
            expires,
            order: 0,
            flow: Some(Box::new(flow)),
            extra: None,
            cseq: 0,
            q: NO_Q,
            outbound: false,
            reachable: false,
        }
    }

    #[test]
    fn refreshes_leave_one_deadline_and_one_connection_and_an_end_leaves_nothing() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut table = Table::default();
        for n in 0..1_000 {
            table.edit("a@b", |bindings| *bindings = vec![binding(at(100 + n), n)]);
        }
        assert_eq!((table.len(), table.aors(), table.waiting()), (1, 1, (1, 1)));
        assert_eq!((table.along(998), table.along(999)), (vec![], vec![0]));
        assert_eq!(table.next_deadline(), Some(at(100)), "the first one, set again when it fires");
        assert_eq!(table.pop_due(at(100)), Some(0));
        table.edit_slot(0, |bindings| bindings.retain(|binding| binding.expires > at(100)));
        assert_eq!(table.next_deadline(), Some(at(1_099)));
        table.edit("a@b", |bindings| bindings.push(binding(at(500), 7)));
        assert_eq!(table.next_deadline(), Some(at(500)), "an earlier one counts at once");
        table.edit("a@b", Vec::clear);
        assert_eq!((table.len(), table.aors(), table.waiting(), table.next_deadline()), (0, 0, (0, 0), None));
        table.edit("c@d", |bindings| bindings.push(binding(at(500), 7)));
        assert_eq!(table.slots(), 1, "the slot is used again");
    }
}
