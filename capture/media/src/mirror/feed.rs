//! The receiving side: frames in any order become a recorder's inputs in theirs.
//!
//! ```text
//! handle_frame -> [waiting, by number] -> poll_replay -> Recorder
//!                         \-> poll_report -> the original's Tap
//! ```
//!
//! The clocks of two nodes have nothing in common, so the journal's own clock drives the copy. Where that clock stands on
//! ours ([`Feed::zero`]) is needed only when the copy is promoted and hears for itself: it is the earliest that frames ever
//! arrive after their time, over the last ten to twenty seconds, so neither a delayed frame nor a drifting clock moves it far.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::frame::{Datagram, FrameError, Header, Kind, datagrams};
use super::{Control, GIVE_UP, Report};

/// Frames and bytes that wait for one that is missing, at most.
const WAITING: usize = 2_048;
const WAITING_BYTES: usize = 2 * 1024 * 1024;
/// A control that has not come so long after a later frame breaks the copy.
const CONTROL_PATIENCE: Duration = Duration::from_secs(10);
/// A frame so far ahead of what is known is not of this life.
const AHEAD: u32 = 1 << 16;
/// Runs of missing frames in one report.
const RUNS: usize = 64;
/// Between two reports while frames are missing, and otherwise.
const ASK: Duration = Duration::from_millis(100);
const TELL: Duration = Duration::from_secs(1);
/// The journal's clock is looked for in the last one to two of these.
const WINDOW: Duration = Duration::from_secs(10);

/// What the copy's recorder is to be told.
#[derive(Debug, Clone, PartialEq)]
pub enum Replay {
    /// A datagram.
    Datagram(Datagram),
    /// Advance to this journal time, in µs.
    Advance(i64),
    /// A control, and its journal time in µs.
    Control(i64, Control),
    /// The copy cannot follow any more; nothing comes after it.
    Broken(&'static str),
}

/// What a feed counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// Frames played.
    pub played: u64,
    /// Frames that came twice or too late.
    pub duplicate: u64,
    /// Frames given up.
    pub given_up: u64,
    /// Frames that could not be read.
    pub malformed: u64,
}

#[derive(Debug)]
struct Waiting {
    received: Instant,
    header: Header,
    body: Bytes,
}

/// The mirror of one recording, at its copy.
#[derive(Debug)]
pub struct Feed {
    copy: Uuid,
    next: u32,
    controls: u32,
    waiting: BTreeMap<u32, Waiting>,
    waiting_bytes: usize,
    advanced_us: Option<i64>,
    replay: VecDeque<Replay>,
    report_at: Instant,
    /// Something changed since the last report.
    news: bool,
    heard: Instant,
    zeros: [Option<Instant>; 2],
    window_ends: Instant,
    ended: bool,
    broken: bool,
    stats: FeedStats,
}

impl Feed {
    /// Waits for frame 0 of this copy.
    pub fn new(now: Instant, copy: Uuid) -> Feed {
        Feed {
            copy,
            next: 0,
            controls: 0,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            advanced_us: None,
            replay: VecDeque::new(),
            report_at: now,
            news: true,
            heard: now,
            zeros: [None; 2],
            window_ends: now + WINDOW,
            ended: false,
            broken: false,
            stats: FeedStats::default(),
        }
    }

    /// The copy's file id.
    pub fn copy(&self) -> Uuid {
        self.copy
    }

    /// Takes a frame that came at `received`.
    ///
    /// # Errors
    /// [`FrameError`]: it is counted and changes nothing.
    pub fn handle_frame(&mut self, received: Instant, frame: &Bytes) -> Result<(), FrameError> {
        let (header, body) = Header::parse(frame).inspect_err(|_| self.stats.malformed += 1)?;
        self.heard = received;
        let ahead = header.number.checked_sub(self.next);
        let foreign = header.copy != self.copy || self.ended || self.broken;
        if foreign || ahead.is_none_or(|ahead| ahead > AHEAD) || self.waiting.contains_key(&header.number) {
            self.stats.duplicate += 1;
            return Ok(());
        }
        if header.kind != Kind::Control {
            self.observe(received, header.at_us);
        }
        self.waiting_bytes += body.len();
        self.waiting.insert(header.number, Waiting { received, header, body });
        self.news = true;
        self.play(received);
        Ok(())
    }

    fn observe(&mut self, received: Instant, at_us: i64) {
        let us = Duration::from_micros(at_us.unsigned_abs());
        let zero = if at_us < 0 { received.checked_add(us) } else { received.checked_sub(us) };
        if received >= self.window_ends {
            self.zeros = [self.zeros[1], None];
            self.window_ends = received + WINDOW;
        }
        let [_, current] = &mut self.zeros;
        *current = match (*current, zero) {
            (Some(known), Some(zero)) => Some(known.min(zero)),
            (known, zero) => known.or(zero),
        };
    }

    /// Journal time zero on our clock, later by the shortest way that a frame took; `None` before the first.
    pub fn zero(&self) -> Option<Instant> {
        self.zeros.iter().flatten().min().copied()
    }

    /// Plays all that can be played at `now`.
    fn play(&mut self, now: Instant) {
        while !self.ended && !self.broken {
            if let Some(found) = self.waiting.remove(&self.next) {
                self.waiting_bytes -= found.body.len();
                self.next += 1;
                self.one(&found.header, &found.body);
                continue;
            }
            // A later frame is there: this one is missing since then.
            let Some((&first, frame)) = self.waiting.first_key_value() else { return };
            let control = frame.header.controls > self.controls;
            let since = self.waiting.values().map(|waiting| waiting.received).min().unwrap_or(now);
            let waited = now.saturating_duration_since(since);
            let full = self.waiting.len() > WAITING || self.waiting_bytes > WAITING_BYTES;
            if control && (full || waited >= CONTROL_PATIENCE) {
                self.fail("a control of the mirror was lost");
            } else if !control && (full || waited >= GIVE_UP) {
                self.skip_to(first);
            } else {
                return;
            }
        }
    }

    fn skip_to(&mut self, number: u32) {
        self.stats.given_up += u64::from(number - self.next);
        self.next = number;
        self.news = true;
    }

    fn fail(&mut self, why: &'static str) {
        self.broken = true;
        (self.waiting, self.waiting_bytes) = (BTreeMap::new(), 0);
        self.news = true;
        self.replay.push_back(Replay::Broken(why));
    }

    fn one(&mut self, header: &Header, body: &Bytes) {
        self.stats.played += 1;
        // Visits in which nothing came are not told each, and the frame that ended one may be lost.
        let before_us = header.at_us.saturating_sub(header.before_us.into());
        if header.before_us > 0 && self.advanced_us.is_none_or(|advanced| advanced < before_us) {
            self.advance(before_us);
        }
        if header.kind == Kind::Control {
            match serde_json::from_slice(body) {
                Ok(control) => {
                    self.controls += 1;
                    self.ended = matches!(control, Control::Stop { .. });
                    self.news |= self.ended;
                    self.replay.push_back(Replay::Control(header.at_us, control));
                }
                Err(_) => self.fail("a control of the mirror is not known here"),
            }
            return;
        }
        match datagrams(header, body) {
            Ok(all) => self.replay.extend(all.into_iter().map(Replay::Datagram)),
            Err(_) => self.stats.malformed += 1,
        }
        if header.kind == Kind::VisitEnds {
            self.advance(header.at_us);
        }
    }

    fn advance(&mut self, at_us: i64) {
        self.advanced_us = Some(at_us);
        self.replay.push_back(Replay::Advance(at_us));
    }

    /// Time has passed: what was waited for long enough is given up.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.play(now);
    }

    /// The original is gone: all that is here is played, nothing more is waited for.
    pub fn close(&mut self) {
        while let Some((&first, _)) = self.waiting.first_key_value().filter(|_| !self.ended && !self.broken) {
            self.skip_to(first);
            let Some(found) = self.waiting.remove(&first) else { return };
            self.waiting_bytes -= found.body.len();
            self.next += 1;
            self.one(&found.header, &found.body);
        }
        self.ended = true;
    }

    /// The next input of the recorder.
    pub fn poll_replay(&mut self) -> Option<Replay> {
        self.replay.pop_front()
    }

    /// What to tell the original, when it is time to.
    pub fn poll_report(&mut self, now: Instant) -> Option<Report> {
        let missing = !self.waiting.is_empty();
        let over = (self.ended || self.broken) && self.news;
        if now < self.report_at && !over {
            return None;
        }
        if !missing && !self.news {
            return None;
        }
        self.report_at = now + if missing { ASK } else { TELL };
        self.news = false;
        let mut runs = Vec::new();
        let mut next = self.next;
        for &number in self.waiting.keys() {
            if number > next && runs.len() < RUNS {
                runs.push((next, number - 1));
            }
            next = number + 1;
        }
        Some(Report {
            copy: self.copy,
            next: self.next,
            controls: self.controls,
            missing: runs,
            given_up: self.stats.given_up,
            ended: self.ended || self.broken,
        })
    }

    /// When the last frame came, or the beginning.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// The journal time to which the recorder was advanced last, in µs.
    pub fn advanced_us(&self) -> Option<i64> {
        self.advanced_us
    }

    /// The end came, or [`Feed::close`].
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Counts.
    pub fn stats(&self) -> FeedStats {
        self.stats
    }
}

#[cfg(test)]
mod tests;
