//! What a person drained or took back, by group and element.
//!
//! It is kept beside the elements and not in them: one that leaves DNS or the configuration and comes back is as drained as
//! before, from its first call on. What is configured no more is forgotten with the next wish, so that the list stays as
//! long as the configuration; a group from DNS keeps what DNS does not name at the moment, [`MOST_GONE`] in all.

use std::collections::BTreeMap;

/// Elements of groups from DNS that are remembered although DNS does not name them.
const MOST_GONE: usize = 1_000;

/// Group, address of the element as configured or as DNS names it, whether it is drained.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drained(BTreeMap<String, BTreeMap<String, bool>>);

impl Drained {
    /// The person's wish about an element, if there is one.
    pub(super) fn of(&self, group: &str, address: &str) -> Option<bool> {
        self.0.get(group)?.get(address).copied()
    }

    /// Remembers a wish.
    pub fn set(&mut self, group: &str, address: &str, drained: bool) {
        self.0.entry(group.to_owned()).or_default().insert(address.to_owned(), drained);
    }

    /// Forgets what is not `configured`; what `may_return` stays as long as there is room.
    pub(super) fn tidy(&mut self, configured: impl Fn(&str, &str) -> bool, may_return: impl Fn(&str) -> bool) {
        let mut room = MOST_GONE;
        self.0.retain(|group, elements| {
            elements.retain(|address, _| {
                if configured(group, address) {
                    return true;
                }
                let stays = room > 0 && may_return(group);
                room -= usize::from(stays);
                stays
            });
            !elements.is_empty()
        });
    }

    /// All wishes: group, element, whether it is drained.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        self.0.iter().flat_map(|(group, elements)| {
            elements.iter().map(move |(address, drained)| (group.as_str(), address.as_str(), *drained))
        })
    }
}

impl From<BTreeMap<String, BTreeMap<String, bool>>> for Drained {
    fn from(wishes: BTreeMap<String, BTreeMap<String, bool>>) -> Drained {
        Drained(wishes)
    }
}

impl From<Drained> for BTreeMap<String, BTreeMap<String, bool>> {
    fn from(drained: Drained) -> BTreeMap<String, BTreeMap<String, bool>> {
        drained.0
    }
}
