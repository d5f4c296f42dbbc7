//! Anything may happen to calls in any order; what must hold always holds.
//!
//! - Every recording that was asked for ends: by one release, or by capture's refusal.
//! - Nothing is left when all is over: no session, no transaction, no deadline.
//! - Every INVITE gets exactly one final answer.

#![allow(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod rig;

use std::collections::HashMap;
use std::time::Duration;

use ferric_sip::{Message, Method};
use ferric_srs::SrsEvent;
use ferric_srs::event::InviteId;
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId, RefuseReason, StreamSpec};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rig::{Rig, SDP};

/// Capture as it might be: it remembers what it owes, and answers when it likes.
#[derive(Default)]
struct Capture {
    owed: Vec<(RecordingId, u32, Vec<StreamSpec>, bool)>,
    running: HashMap<RecordingId, Running>,
    assigned: usize,
    ended: usize,
    seen: usize,
}

/// A recording that was assigned and is not over.
#[derive(Default)]
struct Running {
    part: u32,
    /// Capture took it once.
    begun: bool,
    /// Nobody has it: its worker was lost, or what was to be its next part came to nothing.
    adrift: bool,
}

impl Capture {
    fn look(&mut self, rig: &Rig) {
        for command in &rig.commands[self.seen..] {
            match command {
                Command::Assign { recording, part, streams, takes, .. } => {
                    assert!(takes.iter().all(|taken| self.has(&taken.from)), "taken from what does not run");
                    let running = self.running.entry(*recording).or_insert_with(|| {
                        self.assigned += 1;
                        Running { adrift: true, ..Running::default() }
                    });
                    assert!(running.adrift && running.part < part.number, "assigned twice");
                    (running.part, running.adrift) = (part.number, false);
                    assert_eq!(part.file == recording.0, part.number == 1, "each part has a file of its own");
                    self.owed.push((*recording, part.number, streams.clone(), true));
                }
                Command::Change { recording, streams, takes } => {
                    assert!(takes.iter().all(|taken| self.has(&taken.from)), "taken from what does not run");
                    assert!(self.has(recording), "a change of what does not run");
                    let part = self.running[recording].part;
                    self.owed.push((*recording, part, streams.clone(), false));
                }
                Command::Info { recording, .. } => {
                    assert!(self.running.contains_key(recording), "news of what does not run")
                }
                Command::Park { recording } => assert!(self.running.contains_key(recording)),
                Command::Release { recording, cause } if cause.is_of_part() => {
                    assert!(self.has(recording), "a part that nobody has");
                    self.lose(*recording);
                }
                Command::Release { recording, .. } => {
                    assert!(self.running.remove(recording).is_some(), "released twice");
                    self.ended += 1;
                }
            }
        }
        self.seen = rig.commands.len();
    }

    /// True while somebody has it.
    fn has(&self, recording: &RecordingId) -> bool {
        self.running.get(recording).is_some_and(|running| !running.adrift)
    }

    /// Nobody has it any more; what was asked may be answered all the same.
    fn lose(&mut self, recording: RecordingId) {
        if let Some(running) = self.running.get_mut(&recording) {
            running.adrift = true;
        }
    }

    fn answer(&mut self, rig: &mut Rig, refuse: bool) {
        if self.owed.is_empty() {
            return;
        }
        let (recording, part, streams, assigned) = self.owed.remove(0);
        let current = self.running.get(&recording).is_some_and(|running| running.part == part);
        if refuse {
            if assigned && current {
                // Of a recording that ran before, only the part is refused; its number may come again.
                match self.running.get_mut(&recording) {
                    Some(running) if running.begun => (running.part, running.adrift) = (part - 1, true),
                    _ => {
                        self.running.remove(&recording);
                        self.ended += 1;
                    }
                }
            }
            rig.capture(CaptureEvent::Refused { recording, part, reason: RefuseReason::NoPorts });
        } else {
            if let Some(running) = self.running.get_mut(&recording).filter(|_| current) {
                running.begun = true;
            }
            let address = |stream: &StreamSpec| {
                let port = u16::try_from(40_000 + 2 * stream.index).unwrap();
                let host = u8::try_from(part % 200).unwrap();
                AssignedStream { index: stream.index, address: ([192, 0, 2, host], port).into() }
            };
            let streams = streams.iter().map(address).collect();
            rig.capture(CaptureEvent::Ready { recording, part, streams });
        }
    }

    /// The worker of a recording goes, comes back, or leaves it to its copy.
    fn trouble(&mut self, rig: &mut Rig, recording: RecordingId, kind: u32) {
        let Running { part, adrift, .. } = self.running[&recording];
        match kind {
            0 | 1 if !adrift => {
                self.lose(recording);
                rig.capture(CaptureEvent::Lost { recording, part });
            }
            2 if !adrift && !self.owed.iter().any(|(owed, ..)| *owed == recording) => {
                let streams = (0..4).map(|index| AssignedStream {
                    index,
                    address: ([192, 0, 2, 250], 40_000 + 2 * index as u16).into(),
                });
                rig.capture(CaptureEvent::Promoted { recording, part, streams: streams.collect() });
            }
            _ => rig.capture(CaptureEvent::Returned { recording }),
        }
    }
}

/// Final answers by Call-ID, number and method, as the client counts them.
fn count_finals(finals: &mut HashMap<(String, String), Vec<(u16, String)>>, sent: &[Message]) {
    for message in sent.iter().filter(|message| message.status().is_some_and(|status| status >= 200)) {
        let key = (message.call_id().unwrap().into_owned(), message.cseq().unwrap().to_string());
        let tag = message.to().unwrap().tag().unwrap_or("").to_owned();
        let all = finals.entry(key).or_default();
        let this = (message.status().unwrap(), tag);
        // A 200 to an INVITE is repeated until its ACK; it must stay the same.
        if !all.contains(&this) {
            all.push(this);
        }
    }
}

/// Metadata with one stream a letter, labels from 1: the letter names its communication session.
fn communication_sessions(lines: &str) -> String {
    let mut text = "<recording><datamode>complete</datamode>".to_owned();
    for name in ["a", "b", "c"].iter().filter(|name| lines.contains(**name)) {
        text.push_str(&format!("<session session_id='{name}'/>"));
    }
    for (number, name) in lines.chars().enumerate() {
        text.push_str(&format!("<participant participant_id='p{number}'/><stream stream_id='t{number}' session_id='{name}'><label>{}</label></stream>", number + 1));
        text.push_str(&format!("<participantsessionassoc participant_id='p{number}' session_id='{name}'/>"));
        text.push_str(&format!(
            "<participantstreamassoc participant_id='p{number}'><send>t{number}</send></participantstreamassoc>"
        ));
    }
    text + "</recording>"
}

/// One run, with workers that are lost if `losses`; returns how many recordings were asked for, changed and refused by capture,
/// and how many moved and would not.
fn run(seed: u64, losses: bool) -> [usize; 5] {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut rig = Rig::new();
    let mut capture = Capture::default();
    let mut finals = HashMap::new();
    let mut invites: Vec<(String, String)> = Vec::new();
    let held = SDP.replace("sendonly", "inactive");
    let metadata = "<recording><participant participant_id='p'/></recording>";
    // Communication sessions beside and after one another, on one to four lines.
    let sessions: Vec<String> =
        ["ab", "aabb", "abab", "cc", "acac", "b"].iter().map(|lines| communication_sessions(lines)).collect();
    let four = format!(
        "{SDP}{}",
        SDP.split_once("m=")
            .map(|(_, lines)| format!("m={lines}"))
            .unwrap()
            .replace("label:1", "label:3")
            .replace("label:2", "label:4")
    );
    for _ in 0..if losses { 240 } else { 120 } {
        let divided = sessions[rng.random_range(0..sessions.len())].as_str();
        let bodies = [SDP, SDP, held.as_str(), four.as_str(), divided, metadata, "", "v=0\r\nm=audio 1 RTP/AVP 18\r\n"];
        let body = bodies[rng.random_range(0..bodies.len())];
        let headers: &[(&str, &str)] = if rng.random_bool(0.3) {
            &[("Supported", "timer"), ("Session-Expires", "90;refresher=uas"), ("Allow", "UPDATE")]
        } else {
            &[]
        };
        match rng.random_range(0..if losses { 20 } else { 14 }) {
            0..=3 => {
                rig.request("INVITE", headers, body);
                invites.push(rig.last_request("INVITE"));
            }
            4 => rig.request("ACK", &[], body),
            5 => rig.request("CANCEL", &[], ""),
            6 => rig.request("UPDATE", headers, body),
            7 => rig.request("INFO", &[], if rng.random_bool(0.3) { metadata } else { divided }),
            8 if rng.random_bool(0.2) => rig.request("BYE", &[], ""),
            9 if rng.random_bool(0.25) => {
                rig.next_call();
                // One of two halves of a call at times.
                let pair = rng.random_range(0..3);
                rig.from = match rng.random_range(0..4) {
                    0 => format!("sip:1@198.51.100.20;x-nearend;x-refci={pair}"),
                    1 => format!("sip:1@198.51.100.20;x-farend;x-refci={pair}"),
                    _ => "sip:src@198.51.100.20".to_owned(),
                };
            }
            13 if rng.random_bool(0.1) => {
                let owner = capture.running.keys().min().copied();
                if let Some(recording) = owner {
                    rig.srs.stop(rig.now(), recording);
                    rig.ask_nothing();
                }
            }
            10 => {
                let owner = capture.running.keys().min().copied();
                if let Some(session) = owner {
                    let event = if rng.random_bool(0.2) {
                        CaptureEvent::Died { recording: session }
                    } else {
                        CaptureEvent::MediaSilent { recording: session }
                    };
                    rig.capture(event);
                }
            }
            14..=16 => {
                let mut running: Vec<RecordingId> = capture.running.keys().copied().collect();
                running.sort();
                if !running.is_empty() {
                    let recording = running[rng.random_range(0..running.len())];
                    capture.trouble(&mut rig, recording, rng.random_range(0..4));
                }
            }
            11 => rig.wait(Duration::from_millis(rng.random_range(0..60_000))),
            _ => {
                let refuse = rng.random_bool(0.15);
                capture.answer(&mut rig, refuse);
            }
        }
        capture.look(&rig);
        let sent = std::mem::take(&mut rig.sent);
        count_finals(&mut finals, &sent);
        for message in sent {
            let established = message.status() == Some(200) && message.method() == Method::Invite;
            if established && rng.random_bool(0.8) {
                rig.established(&message);
            }
            // What the server asks is answered at times, in one way or another.
            if message.is_request() && message.method() != Method::Ack && rng.random_bool(0.7) {
                let status = [200, 200, 200, 405, 488, 491, 501, 481][rng.random_range(0..8)];
                rig.respond(&message, status, if rng.random_bool(0.5) { SDP } else { "" });
            }
        }
        capture.look(&rig);
    }
    // Long after: every call has found its end, whatever was left open.
    rig.wait(Duration::from_secs(13 * 3_600));
    capture.look(&rig);
    count_finals(&mut finals, &std::mem::take(&mut rig.sent));
    assert_eq!(
        (rig.srs.sessions(), rig.srs.recordings(), rig.srs.transactions()),
        (0, 0, 0),
        "seed {seed}\n{}",
        rig.trace
    );
    assert_eq!((capture.assigned, capture.running.len()), (capture.ended, 0), "seed {seed}\n{}", rig.trace);
    assert_eq!(rig.srs.poll_timeout(), None, "seed {seed}");
    for invite in invites {
        let answers = finals.get(&invite).map_or(0, Vec::len);
        assert_eq!(answers, 1, "seed {seed}: {invite:?} {:?}\n{}", finals.get(&invite), rig.trace);
    }
    books_are_closed(&rig, seed);
    let changed = rig.commands.iter().filter(|command| matches!(command, Command::Change { .. })).count();
    let released = rig.released().len();
    let count = |of: fn(&SrsEvent) -> bool| rig.events.iter().filter(|event| of(event)).count();
    let moved = count(|event| matches!(event, SrsEvent::Moved { .. }));
    let stayed = count(|event| matches!(event, SrsEvent::MoveRefused { .. }));
    [capture.assigned, changed, capture.assigned.saturating_sub(released), moved, stayed]
}

/// Each INVITE that asked for a recording was refused once, or closed once; whatever fed a recording was told.
fn books_are_closed(rig: &Rig, seed: u64) {
    let mut open: HashMap<InviteId, usize> = HashMap::new();
    for event in &rig.events {
        match event {
            SrsEvent::Offered { invite, .. } => assert!(open.insert(*invite, 0).is_none()),
            SrsEvent::Refused { invite, .. } | SrsEvent::Closed { invite, .. } => *open.get_mut(invite).unwrap() += 1,
            SrsEvent::Feeds { invite, .. } => assert_eq!(open[invite], 0, "seed {seed}: after its end"),
            _ => {}
        }
    }
    assert!(open.values().all(|ends| *ends == 1), "seed {seed}: {open:?}");
}

#[test]
fn whatever_happens_every_call_ends_and_every_invite_is_answered_once() {
    let mut totals = [0; 5];
    for seed in 0..400 {
        let counts = run(seed, false);
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    assert!(totals[0] > 1_000 && totals[1] > 300 && totals[2] > 50, "the runs reach what they are for: {totals:?}");
    assert_eq!(totals[3..], [0, 0]);
}

#[test]
fn whatever_happens_to_workers_every_call_ends_and_every_invite_is_answered_once() {
    let mut totals = [0; 5];
    for seed in 0..1_000 {
        let counts = run(seed, true);
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    assert!(totals[3] > 300 && totals[4] > 30, "the runs reach what they are for: {totals:?}");
}
