//! Counting: each request that began something once before and once after.

use std::collections::HashMap;
use std::time::Duration;

use ferric_media::timestamp::Timestamp;

use super::names::Name;
use super::plan::Plan;
use super::record::{Goal, Kind, Record};
use super::report::{Delayed, ElementShare, FailureRow, Report, RouteChange};
use super::source::Read;

/// Kinds of failures told apart; what comes beyond is counted in the sum only.
const MOST_FAILURES: usize = 10_000;
/// Routes told apart, likewise.
const MOST_ROUTES: usize = 10_000;

/// Why a request comes to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Every element is dead, drained or full before it is asked.
    NoElement,
    /// Those that were asked said nothing, and nobody else is left.
    NoAnswer,
    /// The element died while the call rang there.
    Cut,
    /// The limit over all.
    Overload,
    /// With that status: by a rule, an element, or whoever is behind it.
    Status(u16),
}

impl Reason {
    fn text(self) -> String {
        match self {
            Reason::NoElement => "503 no element can take it".to_owned(),
            Reason::NoAnswer => "503 no element answers".to_owned(),
            Reason::Cut => "the element dies while it rings there".to_owned(),
            Reason::Overload => "503 over the limit of the node".to_owned(),
            Reason::Status(status) => format!("answered {status}"),
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Answered with this status.
    Status(u16),
    /// It came to nothing.
    Failed(Reason),
}

/// Most within a second of the clock.
#[derive(Debug, Default, Clone, Copy)]
struct Peak {
    second: u64,
    count: u32,
    most: u32,
}

impl Peak {
    fn add(&mut self, at: Duration) {
        let second = at.as_secs();
        self.count = if self.second == second { self.count + 1 } else { 1 };
        self.second = second;
        self.most = self.most.max(self.count);
    }
}

#[derive(Debug, Default)]
struct Row {
    before: u64,
    after: u64,
    peak_before: Peak,
    peak_after: Peak,
    down: Duration,
    delayed: u64,
    longest: Duration,
}

#[derive(Debug)]
struct Failure {
    count: u64,
    first: Duration,
    last: Duration,
    example: Box<str>,
}

/// A destination: group and element; an empty group for what is no element.
pub(super) type Place = (Name, Name);

/// Destinations that are no elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Labels {
    pub(super) nothing: Name,
    pub(super) refused: Name,
    pub(super) redirected: Name,
    pub(super) elsewhere: Name,
}

/// All counts.
#[derive(Debug)]
pub(super) struct Tally {
    labels: Labels,
    rows: HashMap<Place, Row>,
    routes: HashMap<(Name, Name), (u64, Box<str>)>,
    failures: HashMap<(Name, Reason), Failure>,
    first: Option<Duration>,
    last: Duration,
    requests: u64,
    calls: u64,
    same_route: u64,
    unmatched: u64,
    failed_before: u64,
    failed_after: u64,
    new_failures: u64,
    healed: u64,
}

impl Tally {
    pub(super) fn new(labels: Labels) -> Tally {
        Tally {
            labels,
            rows: HashMap::new(),
            routes: HashMap::new(),
            failures: HashMap::new(),
            first: None,
            last: Duration::ZERO,
            requests: 0,
            calls: 0,
            same_route: 0,
            unmatched: 0,
            failed_before: 0,
            failed_after: 0,
            new_failures: 0,
            healed: 0,
        }
    }

    /// A line of whatever kind.
    pub(super) fn line(&mut self, at: Duration) {
        self.first.get_or_insert(at);
        self.last = self.last.max(at);
    }

    /// When the last line was.
    pub(super) fn last(&self) -> Duration {
        self.last
    }

    /// A request that began something, as the log has it.
    pub(super) fn before(&mut self, record: &Record) {
        self.requests += 1;
        self.calls += u64::from(record.kind == Kind::Initial { invite: true });
        self.unmatched += u64::from(record.unmatched);
        self.failed_before += u64::from(record.status >= 400);
        let is_same = record.was_route == record.new_route;
        if is_same {
            self.same_route += 1;
        } else {
            let key = (record.was_route, record.new_route);
            if self.routes.len() < MOST_ROUTES || self.routes.contains_key(&key) {
                self.routes.entry(key).or_insert_with(|| (0, record.call_id.clone())).0 += 1;
            }
        }
        let place = record.was.unwrap_or_else(|| {
            let label = match (record.goal, record.status) {
                (Goal::Elsewhere(to), _) if is_same => to,
                (Goal::Refused(to, _), _) if is_same => to,
                (_, 300..400) => self.labels.redirected,
                (_, 400..) => self.labels.refused,
                (_, _) => self.labels.elsewhere,
            };
            (self.labels.nothing, label)
        });
        let row = self.rows.entry(place).or_default();
        row.before += 1;
        row.peak_before.add(record.at);
    }

    /// A request is sent to an element.
    pub(super) fn sent(&mut self, place: Place, at: Duration) {
        self.rows.entry(place).or_default().peak_after.add(at);
    }

    /// A request waited in vain for an element.
    pub(super) fn delayed(&mut self, place: Place, wait: Duration) {
        let row = self.rows.entry(place).or_default();
        row.delayed += 1;
        row.longest = row.longest.max(wait);
    }

    /// The proxy took an element to be dead for so long.
    pub(super) fn down(&mut self, place: Place, time: Duration) {
        self.rows.entry(place).or_default().down += time;
    }

    /// An element that is there, used or not.
    pub(super) fn know(&mut self, place: Place) {
        self.rows.entry(place).or_default();
    }

    /// A request ended; `place` is who answered or was tried last.
    pub(super) fn end(&mut self, record: Record, place: Option<Place>, end: End) {
        let place = place.unwrap_or((self.labels.nothing, self.labels.refused));
        self.rows.entry(place).or_default().after += 1;
        let reason = match end {
            End::Failed(reason) => Some(reason),
            End::Status(status) => (status >= 400).then_some(Reason::Status(status)),
        };
        let failed_before = record.status >= 400;
        self.failed_after += u64::from(reason.is_some());
        self.healed += u64::from(failed_before && reason.is_none());
        let Some(reason) = reason.filter(|_| !failed_before) else { return };
        self.new_failures += 1;
        let key = (record.new_route, reason);
        if self.failures.len() >= MOST_FAILURES && !self.failures.contains_key(&key) {
            return;
        }
        let failure = self.failures.entry(key).or_insert_with(|| Failure {
            count: 0,
            first: record.at,
            last: record.at,
            example: record.call_id,
        });
        failure.count += 1;
        if record.at < failure.first {
            failure.first = record.at;
        }
        failure.last = failure.last.max(record.at);
    }

    /// The document.
    pub(super) fn report(self, plan: &Plan, read: Read, notes: Vec<String>) -> Report {
        let text = |name: Name| plan.text(name).to_owned();
        let mut routes: Vec<RouteChange> = self
            .routes
            .into_iter()
            .map(|((was, new), (requests, example))| RouteChange {
                requests,
                was: text(was),
                would_be: text(new),
                example: example.into(),
            })
            .collect();
        routes.sort_by(|a, b| {
            b.requests.cmp(&a.requests).then_with(|| (&a.was, &a.would_be).cmp(&(&b.was, &b.would_be)))
        });
        let mut failures: Vec<((Name, Reason), FailureRow)> = self
            .failures
            .into_iter()
            .map(|(key, failure)| {
                let row = FailureRow {
                    requests: failure.count,
                    route: text(key.0),
                    reason: key.1.text(),
                    first: timestamp(failure.first),
                    last: timestamp(failure.last),
                    example: failure.example.into(),
                };
                (key, row)
            })
            .collect();
        failures.sort_by(|(a, one), (b, other)| {
            other.requests.cmp(&one.requests).then_with(|| (&one.route, a.1).cmp(&(&other.route, b.1)))
        });
        let mut elements = Vec::new();
        let mut delayed = Vec::new();
        for ((group, element), row) in self.rows {
            if row.delayed > 0 {
                delayed.push(Delayed {
                    group: text(group),
                    element: text(element),
                    requests: row.delayed,
                    longest_ms: milliseconds(row.longest),
                });
            }
            elements.push(ElementShare {
                group: text(group),
                element: text(element),
                before: row.before,
                after: row.after,
                peak_before_per_s: row.peak_before.most,
                peak_after_per_s: row.peak_after.most,
                down_ms: milliseconds(row.down),
            });
        }
        elements.sort_by(|a, b| {
            (a.group.is_empty(), &a.group, &a.element).cmp(&(b.group.is_empty(), &b.group, &b.element))
        });
        delayed.sort_by(|a, b| (&a.group, &a.element).cmp(&(&b.group, &b.element)));
        Report {
            from: timestamp(self.first.unwrap_or_default()),
            to: timestamp(self.last),
            lines: read.lines,
            requests: self.requests,
            calls: self.calls,
            same_route: self.same_route,
            unmatched: self.unmatched,
            redacted: plan.redacted,
            late: read.late,
            damaged: read.damaged,
            routes,
            elements,
            failed_before: self.failed_before,
            failed_after: self.failed_after,
            new_failures: self.new_failures,
            healed: self.healed,
            failures: failures.into_iter().map(|(_, row)| row).collect(),
            delayed,
            notes,
        }
    }
}

/// A time of the log.
pub(super) fn timestamp(at: Duration) -> Timestamp {
    Timestamp::from_unix_ms(i64::try_from(at.as_millis()).unwrap_or(i64::MAX))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
