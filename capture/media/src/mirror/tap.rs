//! The sending side: a recorder's inputs become frames.
//!
//! ```text
//! begin_visit, datagram ..., end_visit, control -> poll_output -> link
//!                                   handle_report -> poll_output (frames again)
//! ```
//!
//! Nothing here waits. Media frames stay in the ring for [`RING`] and are sent again when a report lacks them, the second
//! time by the way that loses nothing; controls stay until a report has passed them. A copy that never reports costs the ring and a bounded number of controls, then
//! the tap is [`Tap::is_broken`] and makes nothing more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::frame::{HEADER, Header, Kind, Port, room, write_datagram};
use super::{Control, RING, Report};
use crate::rtp::StreamIndex;

/// Bytes of media that wait to be sent again, at most.
const RING_BYTES: usize = 512 * 1024;
/// Controls and their bytes that wait to be confirmed, at most.
const CONTROLS: usize = 1_024;
const CONTROL_BYTES: usize = 16 * 1024 * 1024;
/// Frames sent again for one report, at most.
const AGAIN: usize = 512;
/// A visit without datagrams is told only this long after the last frame.
const IDLE: Duration = Duration::from_millis(500);

/// A frame on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// May be lost.
    Datagram(Bytes),
    /// Must arrive: a control, or too long for a datagram.
    Message(Bytes),
}

/// What a tap counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TapStats {
    /// Frames made.
    pub frames: u64,
    /// Datagrams in them.
    pub datagrams: u64,
    /// Frames sent again.
    pub again: u64,
    /// Frames asked for that were gone from the ring.
    pub too_late: u64,
    /// Media frames that the copy has given up.
    pub given_up: u64,
}

#[derive(Debug)]
struct Kept {
    number: u32,
    at: Instant,
    /// It was sent again before.
    again: bool,
    frame: Bytes,
}

#[derive(Debug)]
struct Visit {
    at: Instant,
    frame: Vec<u8>,
    /// Datagrams in the frame at hand.
    count: usize,
    /// Source of the last one.
    source: Option<SocketAddr>,
    /// Frames of this visit that are closed.
    closed: usize,
}

/// The mirror of one recording, at its original.
#[derive(Debug)]
pub struct Tap {
    copy: Uuid,
    zero: Instant,
    max_datagram: usize,
    number: u32,
    controls: u32,
    visit: Option<Visit>,
    /// The last visit, and the last one told.
    visited: Option<Instant>,
    told: Option<Instant>,
    ring: VecDeque<Kept>,
    ring_bytes: usize,
    unconfirmed: VecDeque<(u32, u32, Bytes)>,
    unconfirmed_bytes: usize,
    outputs: VecDeque<Outgoing>,
    /// The first frame since the last report.
    unheard: Option<Instant>,
    ended: bool,
    broken: bool,
    stats: TapStats,
}

impl Tap {
    /// A mirror that begins now; `zero` is journal time zero, `max_datagram` the longest frame that may be lost.
    pub fn new(copy: Uuid, zero: Instant, max_datagram: usize) -> Tap {
        Tap {
            copy,
            zero,
            max_datagram: max_datagram.max(HEADER + room(0)),
            number: 0,
            controls: 0,
            visit: None,
            visited: None,
            told: None,
            ring: VecDeque::new(),
            ring_bytes: 0,
            unconfirmed: VecDeque::new(),
            unconfirmed_bytes: 0,
            outputs: VecDeque::new(),
            unheard: None,
            ended: false,
            broken: false,
            stats: TapStats::default(),
        }
    }

    /// The copy's file id.
    pub fn copy(&self) -> Uuid {
        self.copy
    }

    /// Datagrams of a visit follow; the recorder is advanced to `now` after them.
    pub fn begin_visit(&mut self, now: Instant) {
        self.visit = Some(Visit { at: now, frame: Vec::new(), count: 0, source: None, closed: 0 });
    }

    /// A datagram that the recorder took.
    pub fn datagram(&mut self, arrival: Instant, stream: StreamIndex, port: Port, source: SocketAddr, bytes: &[u8]) {
        let Some(mut visit) = self.visit.take() else { return };
        if visit.count > 0 && visit.frame.len() + room(bytes.len()) > self.max_datagram {
            self.close(&mut visit, Kind::Media);
        }
        if visit.frame.is_empty() {
            self.header(visit.at, Kind::Media).write(&mut visit.frame);
        }
        let arrival_us = self.journal_us(arrival);
        let at_us = self.journal_us(visit.at);
        write_datagram(&mut visit.frame, at_us, visit.source, (stream, port, arrival_us), source, bytes);
        visit.source = Some(source);
        visit.count += 1;
        self.stats.datagrams += 1;
        self.visit = Some(visit);
    }

    /// The recorder was advanced.
    pub fn end_visit(&mut self) {
        let Some(mut visit) = self.visit.take() else { return };
        let quiet = visit.count == 0 && visit.closed == 0;
        let due = self.told.is_none_or(|told| visit.at.saturating_duration_since(told) >= IDLE);
        if !quiet || due {
            if visit.frame.is_empty() {
                self.header(visit.at, Kind::VisitEnds).write(&mut visit.frame);
            }
            self.close(&mut visit, Kind::VisitEnds);
            self.told = Some(visit.at);
        }
        self.visited = Some(visit.at);
    }

    /// An input that is no datagram, and that the recorder took at `now`.
    pub fn control(&mut self, now: Instant, control: &Control) {
        if self.ended || self.broken {
            return;
        }
        let mut frame = Vec::with_capacity(256);
        self.header(now, Kind::Control).write(&mut frame);
        if serde_json::to_writer(&mut frame, control).is_err() {
            self.broken = true;
            return;
        }
        let frame = Bytes::from(frame);
        self.unconfirmed_bytes += frame.len();
        self.unconfirmed.push_back((self.controls, self.number, frame.clone()));
        if self.unconfirmed.len() > CONTROLS || self.unconfirmed_bytes > CONTROL_BYTES {
            self.broken = true;
        }
        self.controls += 1;
        self.number += 1;
        self.stats.frames += 1;
        self.ended = matches!(control, Control::Stop { .. });
        self.unheard.get_or_insert(now);
        self.outputs.push_back(Outgoing::Message(frame));
    }

    fn header(&self, at: Instant, kind: Kind) -> Header {
        let before = self.visited.map_or(Duration::ZERO, |visited| at.saturating_duration_since(visited));
        Header {
            kind,
            copy: self.copy,
            number: self.number,
            controls: self.controls,
            at_us: self.journal_us(at),
            before_us: u32::try_from(before.as_micros()).unwrap_or(u32::MAX),
        }
    }

    fn close(&mut self, visit: &mut Visit, kind: Kind) {
        let mut frame = std::mem::take(&mut visit.frame);
        if kind == Kind::VisitEnds {
            // The header was written before this was known to be the last.
            Header::set_visit_ends(&mut frame);
        }
        (visit.count, visit.source) = (0, None);
        visit.closed += 1;
        if self.ended || self.broken {
            return;
        }
        let frame = Bytes::from(frame);
        self.ring_bytes += frame.len();
        self.ring.push_back(Kept { number: self.number, at: visit.at, again: false, frame: frame.clone() });
        self.number += 1;
        self.stats.frames += 1;
        while self
            .ring
            .front()
            .is_some_and(|kept| self.ring_bytes > RING_BYTES || visit.at.saturating_duration_since(kept.at) > RING)
        {
            self.forget_first();
        }
        self.unheard.get_or_insert(visit.at);
        let long = frame.len() > self.max_datagram;
        self.outputs.push_back(if long { Outgoing::Message(frame) } else { Outgoing::Datagram(frame) });
    }

    fn forget_first(&mut self) {
        if let Some(gone) = self.ring.pop_front() {
            self.ring_bytes -= gone.frame.len();
        }
    }

    /// Takes what the copy tells.
    pub fn handle_report(&mut self, report: &Report) {
        self.unheard = None;
        self.stats.given_up = report.given_up;
        self.broken |= report.ended && !self.ended;
        while self.ring.front().is_some_and(|kept| kept.number < report.next) {
            self.forget_first();
        }
        while let Some((_, _, confirmed)) = self.unconfirmed.pop_front_if(|(ordinal, ..)| *ordinal < report.controls) {
            self.unconfirmed_bytes -= confirmed.len();
        }
        let missing = report.missing.iter().flat_map(|(first, last)| *first..=*last);
        for number in missing.take(AGAIN) {
            if let Ok(at) = self.ring.binary_search_by_key(&number, |kept| kept.number) {
                let Some(kept) = self.ring.get_mut(at) else { continue };
                let sure = std::mem::replace(&mut kept.again, true) || kept.frame.len() > self.max_datagram;
                let frame = kept.frame.clone();
                self.stats.again += 1;
                self.outputs.push_back(if sure { Outgoing::Message(frame) } else { Outgoing::Datagram(frame) });
            } else if let Some((_, _, frame)) = self.unconfirmed.iter().find(|(_, have, _)| *have == number) {
                self.stats.again += 1;
                self.outputs.push_back(Outgoing::Message(frame.clone()));
            } else {
                self.stats.too_late += 1;
            }
        }
    }

    /// The next frame to send.
    pub fn poll_output(&mut self) -> Option<Outgoing> {
        self.outputs.pop_front()
    }

    /// How long the copy has said nothing to what it was sent.
    pub fn silent_for(&self, now: Instant) -> Duration {
        self.unheard.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The copy cannot go on: it said so, or too much waits for it.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The end was sent and confirmed.
    pub fn is_done(&self) -> bool {
        self.ended && self.unconfirmed.is_empty() || self.broken
    }

    /// Counts.
    pub fn stats(&self) -> TapStats {
        self.stats
    }

    /// Bytes that could be sent again.
    pub fn kept_bytes(&self) -> usize {
        self.ring_bytes + self.unconfirmed_bytes
    }

    fn journal_us(&self, at: Instant) -> i64 {
        let us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4);
        match at.checked_duration_since(self.zero) {
            Some(after) => us(after),
            None => -us(self.zero.saturating_duration_since(at)),
        }
    }
}
