//! What a machine asks for by one step: a few actions in their order, without memory of their own.

use std::ops::Deref;

use smallvec::SmallVec;

use super::Action;

/// No step asks for more.
const MOST: usize = 6;

/// The actions of one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Actions(SmallVec<[Action; MOST]>);

impl Actions {
    pub(super) fn none() -> Actions {
        Actions::default()
    }

    pub(super) fn push(&mut self, action: Action) {
        self.0.push(action);
    }

    /// These, and others after them.
    pub(super) fn then(mut self, others: impl Into<Actions>) -> Actions {
        self.0.extend(others.into().0);
        self
    }
}

impl<const N: usize> From<[Action; N]> for Actions {
    fn from(actions: [Action; N]) -> Actions {
        Actions(actions.into_iter().collect())
    }
}

impl Deref for Actions {
    type Target = [Action];

    fn deref(&self) -> &[Action] {
        &self.0
    }
}

impl IntoIterator for Actions {
    type Item = Action;
    type IntoIter = smallvec::IntoIter<[Action; MOST]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<const N: usize> PartialEq<[Action; N]> for Actions {
    fn eq(&self, other: &[Action; N]) -> bool {
        **self == *other
    }
}
