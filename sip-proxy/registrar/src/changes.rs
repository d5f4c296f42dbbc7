//! What changed, for whoever keeps bindings: a journal on disk, other nodes.
//!
//! Changes wait in a bounded queue. When it is full they are given up and [`Change::Lost`] says so: whoever reads it
//! takes everything anew with `Registrar::export`.

use std::collections::VecDeque;

use crate::binding::{Saved, SavedKey};

/// One change of the bindings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A binding is new, or takes the place of the one with the same key.
    Set(Box<Saved>),
    /// A binding is gone.
    Remove(SavedKey),
    /// The life of a binding is over: whoever else has it finds so by itself.
    Expired(SavedKey),
    /// Changes were not fetched in time; those before this one are missing.
    Lost,
}

/// The queue of changes.
#[derive(Debug)]
pub(crate) struct Changes {
    queue: VecDeque<Change>,
    most: usize,
}

impl Changes {
    pub(crate) fn new(most: usize) -> Changes {
        Changes { queue: VecDeque::new(), most }
    }

    pub(crate) fn set_limit(&mut self, most: usize) {
        self.most = most;
        if most == 0 {
            self.queue.clear();
        }
    }

    /// True when somebody reads them.
    pub(crate) fn is_wanted(&self) -> bool {
        self.most > 0
    }

    pub(crate) fn push(&mut self, change: Change) {
        if self.most == 0 {
            return;
        }
        if self.queue.len() >= self.most {
            self.queue.clear();
            self.queue.push_back(Change::Lost);
        }
        self.queue.push_back(change);
    }

    pub(crate) fn pop(&mut self) -> Option<Change> {
        self.queue.pop_front()
    }
}
