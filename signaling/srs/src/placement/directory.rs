//! A directory of capture workers with their load, and the choice among them.
//!
//! ```text
//! up, down --------\
//! LoadReport -------> Directory --choose--> worker, serial --Assign(serial)--> worker
//!     ^                                                                          |
//!     \----------------- every 500 ms, on change, and in each answer ------------/
//! ```
//!
//! **Who can be chosen**: a worker whose link is up, that has reported, that does not drain and is below its limit. First
//! those with a fresh report that do not owe an answer, then those of the own site, then active before standby ones; among equals by [`Policy`].
//!
//! **Load** is the share of a worker's limit that is taken, so that a large worker gets more than a small one. A worker that is short of
//! processor or disk counts as fuller than its calls say, once the shortage is past [`EASY`].
//!
//! **Between two reports** many calls may come, at several SRS nodes. What this node has assigned and the worker had not
//! seen when it reported is known exactly: an assignment has a serial number, and a report names the last one of each SRS node. What the other
//! nodes assign meanwhile is not known; they get about as much as this one, so each assignment of ours that is not
//! confirmed counts once for every SRS node. Reports that are late or lost make the count cautious, never blind.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A report that is older than this is not trusted; its worker is chosen only when no other can be.
pub const STALE: Duration = Duration::from_secs(3);
/// A worker that did not answer in time is chosen only when no other can be, for so long.
pub const SHY: Duration = Duration::from_secs(5);
/// A shortage of processor or disk up to this, in thousandths, is nobody's concern.
pub const EASY: u16 = 800;

/// The name of a worker: its node's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// The worker of a node.
    pub fn new(node: &str) -> WorkerId {
        WorkerId(node.into())
    }

    /// Its node's id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a worker is chosen among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One after the other.
    RoundRobin,
    /// The one with the smallest share of its limit taken.
    LeastLoaded,
}

/// What a worker says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadReport {
    /// Goes up with each report of a run; an older one that comes later is passed over.
    pub number: u64,
    /// Calls at the moment.
    pub calls: u32,
    /// Calls at most.
    pub max_calls: u32,
    /// How short it is of processor or of spool, whichever is shorter, in thousandths.
    pub pressure: u16,
    /// It gets calls only when no active one can take them.
    pub standby: bool,
    /// It takes no new calls.
    pub draining: bool,
    /// It refuses calls for now: its spool is full or its disk fails.
    pub closed: bool,
    /// The serial of the last assignment seen, by SRS node.
    pub seen: BTreeMap<String, u64>,
}

/// A worker as others may be shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Which.
    pub worker: WorkerId,
    /// Where it stands.
    pub site: String,
    /// Its last report; `None` before the first.
    pub report: Option<LoadReport>,
    /// Age of the report.
    pub age: Option<Duration>,
    /// Assignments of this node that it had not seen by then.
    pub unconfirmed: usize,
}

#[derive(Debug)]
struct Worker {
    site: String,
    report: Option<LoadReport>,
    reported: Option<Instant>,
    /// It owes an answer; until then it is avoided.
    silent_until: Option<Instant>,
    /// Serials of assignments that no report has confirmed, in order.
    unconfirmed: VecDeque<u64>,
}

impl Worker {
    /// The share of the limit that is taken, in millionths; `None`: it can take nothing.
    fn share(&self, servers: u64) -> Option<u64> {
        let report = self.report.as_ref()?;
        let (calls, most) = (u64::from(report.calls), u64::from(report.max_calls));
        let unconfirmed = self.unconfirmed.len() as u64;
        if report.draining || report.closed || calls + unconfirmed >= most {
            return None;
        }
        let by_calls = (calls + unconfirmed * servers) * 1_000_000 / most;
        let short = u64::from(report.pressure.saturating_sub(EASY)) * 1_000_000 / u64::from(1_000 - EASY);
        Some(by_calls.max(short))
    }

    fn is_doubtful(&self, now: Instant) -> bool {
        let is_stale = self.reported.is_none_or(|at| now.saturating_duration_since(at) > STALE);
        is_stale || self.silent_until.is_some_and(|until| now < until)
    }
}

/// The workers of the cluster, as one SRS node knows them.
#[derive(Debug)]
pub struct Directory {
    own: String,
    site: String,
    policy: Policy,
    servers: u64,
    workers: BTreeMap<WorkerId, Worker>,
    serial: u64,
    /// Moves on with each choice, so that equals take turns; SRS nodes begin at different places.
    turn: u64,
    last: Option<WorkerId>,
}

impl Directory {
    /// A directory without workers, of the SRS node `own` of a site. `first` is larger than the serials of this node's
    /// earlier lives, such as microseconds since 1970.
    pub fn new(own: &str, site: &str, policy: Policy, first: u64) -> Directory {
        let turn = own.bytes().fold(first, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Directory {
            own: own.to_owned(),
            site: site.to_owned(),
            policy,
            servers: 1,
            workers: BTreeMap::new(),
            serial: first,
            turn,
            last: None,
        }
    }

    /// How many SRS nodes place calls, this one included.
    pub fn set_servers(&mut self, servers: usize) {
        self.servers = u64::try_from(servers.max(1)).unwrap_or(1);
    }

    /// A worker can be reached from now on. What was sent to it earlier is not under way any more.
    pub fn up(&mut self, worker: WorkerId, site: &str) {
        let unconfirmed = VecDeque::new();
        let fresh = Worker { site: site.to_owned(), report: None, reported: None, silent_until: None, unconfirmed };
        self.workers.insert(worker, fresh);
    }

    /// A worker cannot be reached.
    pub fn down(&mut self, worker: &WorkerId) {
        self.workers.remove(worker);
    }

    /// A worker tells its load.
    pub fn report(&mut self, now: Instant, worker: &WorkerId, report: LoadReport) {
        let Some(known) = self.workers.get_mut(worker) else { return };
        if known.report.as_ref().is_some_and(|had| had.number > report.number) {
            return;
        }
        let seen = report.seen.get(&self.own).copied().unwrap_or(0);
        known.unconfirmed.retain(|serial| *serial > seen);
        known.reported = Some(now);
        known.report = Some(report);
    }

    /// The worker of this very node tells its load: it has seen whatever was given to it.
    pub fn report_own(&mut self, now: Instant, worker: &WorkerId, report: LoadReport) {
        if let Some(known) = self.workers.get_mut(worker) {
            known.unconfirmed.clear();
            known.reported = Some(now);
            known.report = Some(report);
        }
    }

    /// Chooses a worker that is none of `tried`. The serial goes with the assignment.
    pub fn choose(&mut self, now: Instant, tried: &[WorkerId]) -> Option<(WorkerId, u64)> {
        let rank = |worker: &Worker| {
            let is_standby = worker.report.as_ref().is_some_and(|report| report.standby);
            (worker.is_doubtful(now), worker.site != self.site, is_standby)
        };
        let able = |(id, worker): (&WorkerId, &Worker)| {
            let share = worker.share(self.servers).filter(|_| !tried.contains(id))?;
            Some((rank(worker), share, id.clone()))
        };
        let mut able: Vec<_> = self.workers.iter().filter_map(|(id, worker)| able((id, worker))).collect();
        let best = able.iter().map(|(rank, ..)| *rank).min()?;
        able.retain(|(rank, ..)| *rank == best);
        let chosen = match self.policy {
            Policy::RoundRobin => {
                let next = able.iter().find(|(.., id)| self.last.as_ref().is_some_and(|last| id > last));
                next.or(able.first()).map(|(.., id)| id.clone())
            }
            Policy::LeastLoaded => {
                let count = able.len() as u64;
                let place = |at: usize| (at as u64).wrapping_add(self.turn) % count.max(1);
                let order = |a: &(usize, &(_, u64, WorkerId)), b: &(usize, &(_, u64, WorkerId))| -> Ordering {
                    (a.1.1, place(a.0)).cmp(&(b.1.1, place(b.0)))
                };
                able.iter().enumerate().min_by(order).map(|(_, (.., id))| id.clone())
            }
        }?;
        self.last = Some(chosen.clone());
        Some((chosen.clone(), self.take(&chosen)))
    }

    /// Puts an assignment to a worker that is given: the one that has something that belongs to the call.
    pub fn take(&mut self, worker: &WorkerId) -> u64 {
        self.serial += 1;
        self.turn = self.turn.wrapping_add(1);
        if let Some(known) = self.workers.get_mut(worker) {
            known.unconfirmed.push_back(self.serial);
        }
        self.serial
    }

    /// An assignment did not reach its worker, or nobody waits for it any more.
    pub fn withdraw(&mut self, worker: &WorkerId, serial: u64) {
        if let Some(known) = self.workers.get_mut(worker) {
            known.unconfirmed.retain(|of| *of != serial);
        }
    }

    /// A worker did not answer in time.
    pub fn silent(&mut self, now: Instant, worker: &WorkerId) {
        if let Some(known) = self.workers.get_mut(worker) {
            known.silent_until = Some(now + SHY);
        }
    }

    /// All workers that can be reached.
    pub fn workers(&self) -> Vec<WorkerId> {
        self.workers.keys().cloned().collect()
    }

    /// Whether a worker can be reached.
    pub fn is_up(&self, worker: &WorkerId) -> bool {
        self.workers.contains_key(worker)
    }

    /// Every worker that can be reached, by name.
    pub fn view(&self, now: Instant) -> Vec<WorkerView> {
        let view = |(id, worker): (&WorkerId, &Worker)| WorkerView {
            worker: id.clone(),
            site: worker.site.clone(),
            report: worker.report.clone(),
            age: worker.reported.map(|at| now.saturating_duration_since(at)),
            unconfirmed: worker.unconfirmed.len(),
        };
        self.workers.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
    use super::*;

    fn report(number: u64, calls: u32, max_calls: u32) -> LoadReport {
        LoadReport { number, calls, max_calls, ..LoadReport::default() }
    }

    /// A directory of the site `east`, with workers of this name, site and share of a limit of 1,000.
    fn directory(policy: Policy, now: Instant, workers: &[(&str, &str, u32)]) -> Directory {
        let mut directory = Directory::new("srs", "east", policy, 1_000);
        for (name, site, calls) in workers {
            directory.up(WorkerId::new(name), site);
            directory.report(now, &WorkerId::new(name), report(1, *calls, 1_000));
        }
        directory
    }

    fn chosen(directory: &mut Directory, now: Instant) -> Option<String> {
        directory.choose(now, &[]).map(|(worker, _)| worker.to_string())
    }

    #[test]
    fn the_emptiest_is_chosen_by_its_share_and_not_by_its_calls() {
        let now = Instant::now();
        let mut directory = directory(Policy::LeastLoaded, now, &[("a", "east", 0), ("b", "east", 0)]);
        directory.report(now, &WorkerId::new("a"), report(2, 10, 100));
        directory.report(now, &WorkerId::new("b"), report(2, 50, 1_000));
        assert_eq!(chosen(&mut directory, now).unwrap(), "b");
    }

    #[test]
    fn one_after_the_other_passes_over_who_is_full() {
        let now = Instant::now();
        let workers = [("a", "east", 3), ("b", "east", 1_000), ("c", "east", 900)];
        let mut directory = directory(Policy::RoundRobin, now, &workers);
        let order: Vec<String> = (0..4).map(|_| chosen(&mut directory, now).unwrap()).collect();
        assert_eq!(order, ["a", "c", "a", "c"]);
    }

    #[test]
    fn a_worker_is_passed_over_for_a_reason() {
        let now = Instant::now();
        let full = report(2, 1_000, 1_000);
        let draining = LoadReport { draining: true, ..report(2, 0, 1_000) };
        let closed = LoadReport { closed: true, ..report(2, 0, 1_000) };
        for policy in [Policy::LeastLoaded, Policy::RoundRobin] {
            for reason in [&full, &draining, &closed] {
                let mut directory = directory(policy, now, &[("a", "east", 0), ("b", "east", 990)]);
                directory.report(now, &WorkerId::new("a"), (*reason).clone());
                assert_eq!(chosen(&mut directory, now).unwrap(), "b", "{reason:?}");
                directory.report(now, &WorkerId::new("b"), (*reason).clone());
                assert_eq!(chosen(&mut directory, now), None, "{reason:?}");
            }
        }
        let mut directory = Directory::new("srs", "east", Policy::LeastLoaded, 1);
        directory.up(WorkerId::new("a"), "east");
        assert_eq!(chosen(&mut directory, now), None, "it has not said what it can take");
    }

    #[test]
    fn the_last_place_is_given_once_however_late_the_report() {
        let now = Instant::now();
        let mut directory = directory(Policy::LeastLoaded, now, &[("a", "east", 998)]);
        assert!(chosen(&mut directory, now).is_some() && chosen(&mut directory, now).is_some());
        assert_eq!(chosen(&mut directory, now), None);
        let seen = BTreeMap::from([("srs".to_owned(), 1_002)]);
        directory.report(now, &WorkerId::new("a"), LoadReport { seen, ..report(2, 999, 1_000) });
        assert!(chosen(&mut directory, now).is_some(), "one of the two has ended meanwhile");
    }

    #[test]
    fn the_own_site_goes_first_and_then_active_ones() {
        let now = Instant::now();
        let mut directory =
            directory(Policy::LeastLoaded, now, &[("a", "west", 0), ("b", "east", 900), ("c", "east", 0)]);
        let standby = LoadReport { standby: true, ..report(2, 0, 1_000) };
        directory.report(now, &WorkerId::new("c"), standby);
        assert_eq!(chosen(&mut directory, now).unwrap(), "b");
        directory.report(now, &WorkerId::new("b"), report(2, 1_000, 1_000));
        assert_eq!(chosen(&mut directory, now).unwrap(), "c", "before a call goes to another site");
        directory.down(&WorkerId::new("c"));
        assert_eq!(chosen(&mut directory, now).unwrap(), "a");
        directory.down(&WorkerId::new("a"));
        assert_eq!(chosen(&mut directory, now), None);
    }

    #[test]
    fn who_has_not_reported_for_long_is_the_last_resort() {
        let now = Instant::now();
        let mut directory = directory(Policy::LeastLoaded, now, &[("a", "east", 0), ("b", "west", 500)]);
        let later = now + STALE + Duration::from_millis(1);
        directory.report(later, &WorkerId::new("b"), report(2, 500, 1_000));
        assert_eq!(chosen(&mut directory, later).unwrap(), "b");
        directory.report(later, &WorkerId::new("b"), LoadReport { draining: true, ..report(3, 500, 1_000) });
        assert_eq!(chosen(&mut directory, later).unwrap(), "a");
    }

    #[test]
    fn a_worker_that_refused_is_not_asked_again() {
        let now = Instant::now();
        let mut directory = directory(Policy::LeastLoaded, now, &[("a", "east", 0), ("b", "east", 500)]);
        let (first, serial) = directory.choose(now, &[]).unwrap();
        directory.withdraw(&first, serial);
        let (second, _) = directory.choose(now, std::slice::from_ref(&first)).unwrap();
        assert_ne!(first, second);
        assert_eq!(directory.choose(now, &[first.clone(), second]), None);
        assert_eq!(directory.view(now).iter().find(|view| view.worker == first).unwrap().unconfirmed, 0);
    }

    #[test]
    fn a_worker_short_of_processor_or_disk_counts_as_fuller() {
        let now = Instant::now();
        let mut directory = directory(Policy::LeastLoaded, now, &[("a", "east", 100), ("b", "east", 400)]);
        directory.report(now, &WorkerId::new("a"), LoadReport { pressure: EASY, ..report(2, 100, 1_000) });
        assert_eq!(chosen(&mut directory, now).unwrap(), "a");
        directory.report(now, &WorkerId::new("a"), LoadReport { pressure: 900, ..report(3, 100, 1_000) });
        assert_eq!(chosen(&mut directory, now).unwrap(), "b");
    }

    #[test]
    fn an_old_report_changes_nothing() {
        let now = Instant::now();
        let mut directory = directory(Policy::LeastLoaded, now, &[("a", "east", 0)]);
        directory.report(now, &WorkerId::new("a"), report(5, 1_000, 1_000));
        directory.report(now, &WorkerId::new("a"), report(4, 0, 1_000));
        assert_eq!(chosen(&mut directory, now), None);
    }

    #[test]
    fn a_link_that_ended_has_nothing_under_way() {
        let now = Instant::now();
        let mut directory = directory(Policy::LeastLoaded, now, &[("a", "east", 0)]);
        assert!(chosen(&mut directory, now).is_some());
        directory.up(WorkerId::new("a"), "east");
        assert_eq!(chosen(&mut directory, now), None, "its report is of another time");
        directory.report(now, &WorkerId::new("a"), report(1, 0, 1_000));
        assert_eq!(directory.view(now)[0].unconfirmed, 0);
    }

    #[test]
    fn a_report_of_another_version_is_understood() {
        let text = r#"{"number":7,"calls":3,"max_calls":9,"moon":"full"}"#;
        let read: LoadReport = serde_json::from_str(text).unwrap();
        assert_eq!(read, report(7, 3, 9));
    }
}
