//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Set up, held, and its BYE answered.
    Completed,
    /// The INVITE got this status.
    Refused(u16),
    /// The INVITE got no final answer.
    NoAnswer,
    /// The request could not be sent, or the connection broke before the answer.
    Unreachable,
    /// The 200 took none of the streams, or was no SDP.
    BadAnswer,
    /// The server sent BYE before the hold time was over.
    EndedByServer,
    /// The BYE got this status, or nothing (408).
    ByeFailed(u16),
    /// No socket for its RTP.
    NoSocket,
    /// The run was stopped before it was answered.
    Cancelled,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Completed => f.write_str("completed"),
            Outcome::Refused(status) => write!(f, "refused with {status}"),
            Outcome::NoAnswer => f.write_str("no answer to INVITE"),
            Outcome::Unreachable => f.write_str("server not reachable"),
            Outcome::BadAnswer => f.write_str("unusable SDP answer"),
            Outcome::EndedByServer => f.write_str("ended by the server"),
            Outcome::ByeFailed(408) => f.write_str("no answer to BYE"),
            Outcome::ByeFailed(status) => write!(f, "BYE refused with {status}"),
            Outcome::NoSocket => f.write_str("no RTP socket"),
            Outcome::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// One call of a run.
#[derive(Debug, Clone)]
pub struct CallReport {
    /// SIP Call-ID.
    pub call_id: String,
    /// When the INVITE was sent.
    pub started: SystemTime,
    /// When packet 0 of both streams was due.
    pub media_started: Option<SystemTime>,
    /// From INVITE to 200.
    pub set_up: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
    /// Where in the speech its streams began.
    pub speech_offset: Duration,
    /// RTP packets sent on both streams.
    pub packets: u64,
    /// RTP packets that the simulated network lost.
    pub lost: u64,
    /// The same for programs, and more.
    pub journal: super::Journal,
}

/// Set-up times of the answered calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetUpTimes {
    /// Half of the calls were faster.
    pub p50: Duration,
    /// One in twenty was slower.
    pub p95: Duration,
    /// The slowest.
    pub max: Duration,
}

impl SetUpTimes {
    fn of(mut times: Vec<Duration>) -> SetUpTimes {
        times.sort_unstable();
        // Nearest rank: the smallest value that at least `percent` of all do not exceed.
        let rank = |percent: usize| {
            let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(at).copied().unwrap_or_default()
        };
        SetUpTimes { p50: rank(50), p95: rank(95), max: rank(100) }
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Of the answered calls.
    pub set_up: SetUpTimes,
    /// Calls that were answered.
    pub answered: usize,
    /// Calls that went well to the end.
    pub completed: usize,
    /// Calls that did not, by reason.
    pub failures: BTreeMap<Outcome, usize>,
    /// RTP packets sent.
    pub packets: u64,
    /// RTP packets that the simulated network lost.
    pub lost: u64,
    /// The most that an RTP packet was late against its deadline: how far to trust the pace.
    pub latest_packet: Duration,
    /// Wall time of the run.
    pub elapsed: Duration,
    /// Every call, in the order in which they began.
    pub calls: Vec<CallReport>,
}

impl LoadReport {
    pub(super) fn of(calls: Vec<CallReport>, latest_packet: Duration, elapsed: Duration) -> LoadReport {
        let times: Vec<Duration> = calls.iter().filter_map(|call| call.set_up).collect();
        let mut failures = BTreeMap::new();
        for call in calls.iter().filter(|call| call.outcome != Outcome::Completed) {
            *failures.entry(call.outcome.clone()).or_default() += 1;
        }
        LoadReport {
            answered: times.len(),
            set_up: SetUpTimes::of(times),
            completed: calls.iter().filter(|call| call.outcome == Outcome::Completed).count(),
            failures,
            packets: calls.iter().map(|call| call.packets).sum(),
            lost: calls.iter().map(|call| call.lost).sum(),
            latest_packet,
            elapsed,
            calls,
        }
    }

    /// True if every call went well.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        writeln!(f, "calls          {} ({} answered, {} completed)", self.calls.len(), self.answered, self.completed)?;
        for (outcome, count) in &self.failures {
            writeln!(f, "  {count:>6}       {outcome}")?;
        }
        let SetUpTimes { p50, p95, max } = self.set_up;
        writeln!(f, "set-up         p50 {:.1} ms, p95 {:.1} ms, max {:.1} ms", ms(p50), ms(p95), ms(max))?;
        writeln!(f, "RTP            {} packets sent, {} dropped on purpose", self.packets, self.lost)?;
        writeln!(f, "latest packet  {:.1} ms behind its time", ms(self.latest_packet))?;
        write!(f, "took           {:.1} s", self.elapsed.as_secs_f64())
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Calls begun.
    pub started: usize,
    /// Calls that send RTP now.
    pub talking: usize,
    /// Calls that ended well.
    pub completed: usize,
    /// Calls that did not.
    pub failed: usize,
    /// RTP packets sent.
    pub packets: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn call(set_up_ms: Option<u64>, outcome: Outcome) -> CallReport {
        CallReport {
            call_id: "c".to_owned(),
            started: SystemTime::UNIX_EPOCH,
            media_started: None,
            set_up: set_up_ms.map(Duration::from_millis),
            outcome,
            speech_offset: Duration::ZERO,
            packets: 10,
            lost: 1,
            journal: super::super::Journal::default(),
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times = |n: u64| SetUpTimes::of((1..=n).map(Duration::from_millis).collect());
        let ms = Duration::from_millis;
        assert_eq!(times(100), SetUpTimes { p50: ms(50), p95: ms(95), max: ms(100) });
        assert_eq!(times(1), SetUpTimes { p50: ms(1), p95: ms(1), max: ms(1) });
        assert_eq!(times(0), SetUpTimes::default());
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let mut calls: Vec<CallReport> = (1..=8).map(|n| call(Some(n), Outcome::Completed)).collect();
        calls.extend([
            call(None, Outcome::Refused(503)),
            call(None, Outcome::Refused(503)),
            call(None, Outcome::NoAnswer),
        ]);
        let report = LoadReport::of(calls, Duration::ZERO, Duration::from_secs(1));
        assert_eq!((report.answered, report.completed, report.packets), (8, 8, 110));
        assert_eq!(report.failures.get(&Outcome::Refused(503)), Some(&2));
        assert!(!report.is_clean());
        assert!(report.to_string().contains("     2       refused with 503\n"), "{report}");
    }
}
