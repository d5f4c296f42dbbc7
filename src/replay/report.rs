//! What would be different: a document for programs, of which `render` makes the table for people.

use ferric_media::timestamp::Timestamp;
use serde::Serialize;

/// Lines that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// How many.
    pub count: u64,
    /// The first of them: file, line, what is wrong.
    pub first: Vec<String>,
}

/// Requests that take another route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteChange {
    /// How many.
    pub requests: u64,
    /// The recorded route and what it led to.
    pub was: String,
    /// The candidate's.
    pub would_be: String,
    /// The Call-ID of one of them.
    pub example: String,
}

/// An element's part, or that of another destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElementShare {
    /// Server group; empty for what is no element.
    pub group: String,
    /// Element, or another destination.
    pub element: String,
    /// Requests that it answered, or that were tried there last, in the log.
    pub before: u64,
    /// In the replay.
    pub after: u64,
    /// Most requests within a second of the clock, in the log.
    pub peak_before_per_s: u32,
    /// Most that would be sent to it within one, tries that failed included.
    pub peak_after_per_s: u32,
    /// For so long the proxy takes it to be dead in the replay, in milliseconds.
    pub down_ms: u64,
}

/// Requests that succeeded and would fail, of one route and for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureRow {
    /// How many.
    pub requests: u64,
    /// The candidate's route and what it leads to.
    pub route: String,
    /// Why.
    pub reason: String,
    /// When the first came.
    pub first: Timestamp,
    /// When the last came.
    pub last: Timestamp,
    /// Call-ID of the first.
    pub example: String,
}

/// Requests that wait for an element that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delayed {
    /// The group.
    pub group: String,
    /// The element that is waited for.
    pub element: String,
    /// How many wait.
    pub requests: u64,
    /// The longest wait, in milliseconds.
    pub longest_ms: u64,
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When the first request came.
    pub from: Timestamp,
    /// When the last request came.
    pub to: Timestamp,
    /// Lines read.
    pub lines: u64,
    /// Requests that began something: those that routes decide.
    pub requests: u64,
    /// Of these, INVITEs.
    pub calls: u64,
    /// Requests that take the same route as before.
    pub same_route: u64,
    /// Requests that no rule of the candidate matches.
    pub unmatched: u64,
    /// Requests that were judged without a value that the log hides.
    pub redacted: u64,
    /// Lines that came too late to be put in order.
    pub late: u64,
    /// Lines that could not be read.
    pub damaged: Damaged,
    /// The other routes, the most frequent first.
    pub routes: Vec<RouteChange>,
    /// Who gets how much.
    pub elements: Vec<ElementShare>,
    /// Requests that were answered with 400 or more.
    pub failed_before: u64,
    /// That would be.
    pub failed_after: u64,
    /// Requests that did not fail and would.
    pub new_failures: u64,
    /// Requests that failed and would not.
    pub healed: u64,
    /// The new failures.
    pub failures: Vec<FailureRow>,
    /// Requests that wait for a dead element before another one takes them.
    pub delayed: Vec<Delayed>,
    /// What else must be known to judge this.
    pub notes: Vec<String>,
}
