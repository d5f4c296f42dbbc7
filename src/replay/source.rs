//! Lines of logs, in order of the time at which requests came.
//!
//! A line is written when its request is finished, so a call that rang for a minute stands a minute too late. Lines wait until
//! nothing older can come any more: [`REACH`] behind the newest end of a request, and at most [`MOST_WAITING`] of them. What
//! comes later than that is counted and taken at the time that was reached. Several logs are merged by time, be they of several
//! nodes or the parts of one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufRead, Read as _};
use std::time::Duration;

use ferric_sight::RequestDone;

use super::ReplayError;
use super::plan::Plan;
use super::record::Record;
use super::report::Damaged;

/// Logs at once.
pub const MOST_LOGS: usize = 64;
/// A request is finished within this time at the latest, but for a few: timer C is three minutes (RFC 3261 16.6).
const REACH: Duration = Duration::from_secs(240);
/// Lines of all logs that wait for their turn.
const MOST_WAITING: usize = 262_144;
/// Bytes of a line; a longer one is damaged.
const MOST_LINE: u64 = 1 << 18;
/// A file without a good line so far is given up after so many.
const PATIENCE: u64 = 1_000;
/// Damaged lines that are named.
const NAMED: usize = 10;

/// A log to be read.
pub struct Input {
    /// For messages.
    pub name: String,
    /// The text.
    pub reader: Box<dyn BufRead>,
}

struct Waiting(Duration, u64, Record);

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) lines: u64,
    pub(super) damaged: Damaged,
    pub(super) late: u64,
}

struct Source {
    input: Input,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// The newest end of a request.
    newest: Duration,
    lines: u64,
    good: u64,
    first_bad: Option<(u64, String)>,
    at_end: bool,
}

/// All logs as one.
pub(super) struct Merged {
    sources: Vec<Source>,
    most: usize,
    reached: Duration,
    buffer: Vec<u8>,
    read: Read,
}

impl Merged {
    pub(super) fn new(inputs: Vec<Input>) -> Result<Merged, ReplayError> {
        if inputs.len() > MOST_LOGS {
            return Err(ReplayError::TooMany);
        }
        let most = MOST_WAITING / inputs.len().max(1);
        let source = |input| Source {
            input,
            waiting: BinaryHeap::new(),
            newest: Duration::ZERO,
            lines: 0,
            good: 0,
            first_bad: None,
            at_end: false,
        };
        let sources = inputs.into_iter().map(source).collect();
        Ok(Merged { sources, most, reached: Duration::ZERO, buffer: Vec::new(), read: Read::default() })
    }

    /// The next request by time.
    pub(super) fn next(
        &mut self,
        plan: &mut Plan,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Record>, ReplayError> {
        for source in &mut self.sources {
            source.fill(self.most, plan, &mut self.buffer, &mut self.read, progress)?;
        }
        let first = |source: &Source| source.waiting.peek().map(|Reverse(waiting)| waiting.0);
        let Some(source) =
            self.sources.iter_mut().filter(|source| !source.waiting.is_empty()).min_by_key(|source| first(source))
        else {
            return Ok(None);
        };
        let Some(Reverse(Waiting(at, _, mut record))) = source.waiting.pop() else { return Ok(None) };
        if at < self.reached {
            self.read.late += 1;
            record.at = self.reached;
        }
        self.reached = record.at;
        Ok(Some(record))
    }

    /// What was read in all.
    pub(super) fn finish(self) -> Result<Read, ReplayError> {
        if self.sources.iter().all(|source| source.good == 0) { Err(ReplayError::Empty) } else { Ok(self.read) }
    }
}

impl Source {
    /// Reads until the first that waits can be taken.
    fn fill(
        &mut self,
        most: usize,
        plan: &mut Plan,
        buffer: &mut Vec<u8>,
        read: &mut Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ReplayError> {
        while !self.at_end && self.waiting.len() < most {
            let is_due = self.waiting.peek().is_some_and(|Reverse(first)| first.0 + REACH <= self.newest);
            if is_due {
                break;
            }
            let whole = self.line(buffer, progress)?;
            let Some(whole) = whole else {
                self.at_end = true;
                return self.judge();
            };
            self.lines += 1;
            let text = buffer.trim_ascii();
            if text.is_empty() {
                continue;
            }
            read.lines += 1;
            let parsed = match (whole, std::str::from_utf8(text)) {
                (false, _) => Err(format!("it is longer than {MOST_LINE} bytes")),
                (true, Err(_)) => Err("it is no text in UTF-8".to_owned()),
                (true, Ok(text)) => RequestDone::parse_line(text).map_err(|error| error.to_string()),
            };
            match parsed {
                Ok(line) => {
                    self.good += 1;
                    self.newest = self.newest.max(line.at_unix.saturating_add(line.elapsed));
                    let record = plan.record(line);
                    self.waiting.push(Reverse(Waiting(record.at, self.lines, record)));
                }
                Err(error) => {
                    read.damaged.count += 1;
                    if read.damaged.first.len() < NAMED {
                        read.damaged.first.push(format!("{}:{}: {error}", self.input.name, self.lines));
                    }
                    self.first_bad.get_or_insert((self.lines, error));
                    if self.lines >= PATIENCE {
                        self.judge()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A file of which no line is good is something else.
    fn judge(&mut self) -> Result<(), ReplayError> {
        match self.first_bad.take().filter(|_| self.good == 0) {
            Some((line, error)) => {
                Err(ReplayError::NoLog { name: self.input.name.clone(), lines: self.lines, line, error })
            }
            None => Ok(()),
        }
    }

    /// Reads a line; `false` when it was too long, `None` at the end.
    fn line(&mut self, buffer: &mut Vec<u8>, progress: &mut dyn FnMut(u64)) -> Result<Option<bool>, ReplayError> {
        buffer.clear();
        let name = &self.input.name;
        let wrong = |error| ReplayError::Read { name: name.clone(), error };
        let mut length = (&mut self.input.reader).take(MOST_LINE).read_until(b'\n', buffer).map_err(wrong)? as u64;
        let mut whole = true;
        while length >= MOST_LINE && !buffer.ends_with(b"\n") {
            whole = false;
            buffer.clear();
            let more = (&mut self.input.reader).take(MOST_LINE).read_until(b'\n', buffer).map_err(wrong)? as u64;
            progress(more);
            if more < MOST_LINE {
                // What is left of it must not look like an empty line.
                buffer.push(b'.');
                break;
            }
        }
        progress(std::mem::take(&mut length).min(MOST_LINE));
        Ok(if buffer.is_empty() { None } else { Some(whole) })
    }
}
