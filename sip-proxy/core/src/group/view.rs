//! What a person sees of a group.

use std::time::{Duration, Instant};

use super::element::{Counters, Element, Health};
use super::{DownCause, GroupConfig};

/// State of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementState {
    /// Takes calls.
    Up,
    /// Dead.
    Down(DownCause),
    /// Asked for peace with Retry-After, for so long.
    Busy(Duration),
    /// No new calls by a person's wish.
    Drained,
    /// Its name leads nowhere yet.
    Unresolved,
}

impl ElementState {
    /// For the API and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ElementState::Up => "up",
            ElementState::Down(_) => "down",
            ElementState::Busy(_) => "busy",
            ElementState::Drained => "drained",
            ElementState::Unresolved => "unresolved",
        }
    }
}

/// An element with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementView {
    /// As configured.
    pub address: String,
    /// Priority.
    pub priority: u16,
    /// Weight.
    pub weight: u16,
    /// Its state; a dead one that is drained is called dead.
    pub state: ElementState,
    /// No new calls by a person's wish.
    pub drained: bool,
    /// For so long up after having been down, or down.
    pub since: Option<Duration>,
    /// The last sign of life, so long ago.
    pub alive: Option<Duration>,
    /// Calls at the moment, where their end is seen.
    pub calls: u32,
    /// Requests without a final response.
    pub open: u32,
    /// Counted since the start.
    pub counters: Counters,
}

/// A group with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// As configured.
    pub config: GroupConfig,
    /// Elements at work.
    pub elements: Vec<ElementView>,
}

pub(super) fn of(now: Instant, config: &GroupConfig, elements: &[Element]) -> GroupView {
    let elements = elements.iter().map(|element| {
        let busy = element.busy_until.filter(|until| *until > now).map(|until| until.saturating_duration_since(now));
        let (state, since) = match (element.health, busy) {
            (Health::Down { cause, since }, _) => (ElementState::Down(cause), Some(since)),
            (Health::Up { since }, _) if element.is_drained() => (ElementState::Drained, since),
            (Health::Up { since }, _) if element.addresses.is_empty() => (ElementState::Unresolved, since),
            (Health::Up { since }, Some(rest)) => (ElementState::Busy(rest), since),
            (Health::Up { since }, None) => (ElementState::Up, since),
        };
        ElementView {
            address: element.config.address.clone(),
            priority: element.config.priority,
            weight: element.config.weight,
            state,
            drained: element.is_drained(),
            since: since.map(|since| now.saturating_duration_since(since)),
            alive: element.alive_at.map(|alive| now.saturating_duration_since(alive)),
            calls: element.calls,
            open: element.open,
            counters: element.counters,
        }
    });
    GroupView { config: config.clone(), elements: elements.collect() }
}
