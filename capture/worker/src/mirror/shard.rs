//! What a shard does for mirrors: it sends frames of its calls, and plays those of its copies.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferric_media::manifest::RecordingState;
use ferric_media::mirror::{Begin, Control, Replay, Report, Tap, copy_of, moment, play};
use ferric_media::rtp::StreamIndex;
use ferric_media::stream::StreamConfig;
use uuid::Uuid;

use super::twin::{Role, Twin};
use super::{Follower, MirrorLink, Original};
use crate::agenda::Seat;
use crate::ports::SocketPair;
use crate::scribe::Entry;
use crate::shard::{Call, State};

/// A mirror whose call is over is kept so long for what the copy still lacks.
const LINGER: Duration = Duration::from_secs(10);
/// Calls that are over and linger, at most.
const LINGERING: usize = 1_024;
/// A copy that has heard nothing for so long ends: a call that stands still says nothing, but not for ever.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Frames taken at once.
const FRAMES: usize = 4_096;

/// A call to tell to another node.
#[derive(Debug)]
pub(crate) struct MirrorOrder {
    pub(crate) recording: Uuid,
    pub(crate) copy: Uuid,
    /// The node of the copy.
    pub(crate) to: String,
    /// This node.
    pub(crate) node: String,
    pub(crate) link: Arc<dyn MirrorLink>,
}

impl State {
    /// A call is told to another node from now on.
    pub(crate) fn mirror(&mut self, order: MirrorOrder) {
        let (now, stats) = (Instant::now(), Arc::clone(&self.shard.mirror_stats));
        let Some(call) = self.find(order.recording).and_then(|seat| self.call(seat)) else { return };
        let recorder = &call.recorder;
        // While nothing was heard the copy can begin where the original did.
        let from_start = !call.heard && !call.promoted;
        let zero = if from_start { recorder.start() } else { now };
        let elapsed = call.timeline.now(zero).saturating_duration_since(recorder.start());
        let part = recorder.part();
        let begin = Begin {
            recording: part.recording,
            part: part.number.get(),
            original: part.file,
            node: order.node,
            tenant: recorder.tenant().to_owned(),
            original_started_at: recorder.started_at(),
            started_at: recorder.started_at().plus(elapsed),
            session: (*call.session).clone(),
            streams: call.streams.clone(),
            tags: call.tags.clone(),
            paused: recorder.is_paused(),
        };
        let mut tap = Tap::new(order.copy, zero, order.link.max_datagram());
        let twin = Twin {
            role: Role::Original,
            file: order.copy,
            node: order.to,
            started_at: begin.started_at,
            promoted: false,
            outcome: None,
        };
        tap.control(zero, &Control::Begin(Box::new(begin)));
        let mut original = Original::new(tap, order.link, stats);
        original.flush(now);
        call.mirror = Some(Box::new(original));
        call.twin = Some(twin);
    }

    /// The mirror of a call ends; the call goes on.
    pub(crate) fn stop_mirror(&mut self, recording: Uuid) {
        if let Some(call) = self.find(recording).and_then(|seat| self.call(seat)) {
            call.mirror = None;
        }
    }

    /// A copy tells how far it is.
    pub(crate) fn report(&mut self, report: &Report) {
        let now = Instant::now();
        let of = |call: &Call| call.mirror.as_ref().is_some_and(|mirror| mirror.tap.copy() == report.copy);
        let call = self.seats.iter_mut().filter_map(|(_, call)| call.as_mut()).find(|call| of(call));
        if let Some(call) = call {
            let Some(mirror) = &mut call.mirror else { return };
            mirror.report(now, report);
            if mirror.followed
                && let Some(twin) = call.twin.take()
            {
                let _ = self.shard.scribe.send(Entry::Twin { file: call.recorder.part().file, twin });
            }
            if mirror.tap.is_broken() {
                tracing::warn!(recording = %call.recorder.id(), copy = %report.copy, "the copy cannot follow; the mirror ends");
                call.mirror = None;
            }
        } else if let Some((_, mirror)) = self.lingering.iter_mut().find(|(_, mirror)| mirror.tap.copy() == report.copy)
        {
            mirror.report(now, report);
        }
        self.lingering.retain(|(until, mirror)| now < *until && !mirror.tap.is_done());
    }

    /// A mirrored call is over: what its copy still lacks is sent when it asks.
    pub(crate) fn linger(&mut self, mirror: Box<Original>) {
        let now = Instant::now();
        self.lingering.retain(|(until, _)| now < *until);
        if self.lingering.len() < LINGERING {
            self.lingering.push((now + LINGER, mirror));
        }
    }

    /// Takes the frames that came for the copies here.
    pub(crate) fn take_frames(&mut self) {
        for _ in 0..FRAMES {
            let Ok((received, frame)) = self.shard.frames.try_recv() else { return };
            let seat = copy_of(&frame).and_then(|copy| self.copies.get(&copy).copied());
            let follower = seat.and_then(|seat| self.call(seat)).and_then(|call| call.copy.as_mut());
            if let Some(follower) = follower
                && let Err(error) = follower.feed.handle_frame(received, &frame)
            {
                tracing::debug!(copy = %follower.feed.copy(), %error, "a frame of a mirror is not understood");
            }
        }
    }

    /// Begins a copy.
    pub(crate) fn begin_copy(&mut self, call: Call) {
        let copy = call.recorder.part().file;
        if let Some(seat) = self.begin(call) {
            self.copies.insert(copy, seat);
        }
    }

    /// Plays what has come of a copy; false when it is over.
    pub(crate) fn follow(&mut self, seat: Seat, now: Instant) -> bool {
        let Some(call) = self.call(seat) else { return false };
        let Some(follower) = &mut call.copy else { return false };
        follower.feed.handle_timeout(now);
        let mut end = None;
        while let Some(input) = follower.feed.poll_replay() {
            match &input {
                Replay::Control(at, Control::Stop { reason }) => {
                    end = Some((moment(follower.base, *at), Cow::Owned(reason.clone()), RecordingState::Complete));
                    break;
                }
                Replay::Broken(why) => {
                    end = Some((follower.reached(), Cow::Borrowed(*why), RecordingState::Partial));
                    break;
                }
                Replay::Control(_, Control::Streams(streams)) => follower.streams.clone_from(&streams.0),
                Replay::Control(_, Control::Session(session)) => call.session.clone_from(session),
                Replay::Control(_, Control::Tags(tags)) => {
                    for (name, value) in tags {
                        call.tags.retain(|(have, _)| have != name);
                        call.tags.push((name.clone(), value.clone()));
                    }
                }
                Replay::Control(..) | Replay::Datagram(_) | Replay::Advance(_) => {}
            }
            play(&mut call.recorder, follower.base, &input);
        }
        follower.report(now);
        if end.is_none() && now.saturating_duration_since(follower.feed.heard()) >= FORGOTTEN {
            end = Some((follower.reached(), "the mirror said nothing more".into(), RecordingState::Partial));
        }
        self.drain(seat);
        let Some((at, reason, state)) = end else { return true };
        self.finish(seat, at, reason, state);
        false
    }

    /// The original is gone: plays what is here of a copy, and tells its streams.
    pub(crate) fn close_feed(&mut self, copy: Uuid) -> Option<Vec<StreamIndex>> {
        let seat = self.copies.get(&copy).copied()?;
        self.take_frames();
        let call = self.call(seat)?;
        call.copy.as_mut()?.feed.close();
        if !self.follow(seat, Instant::now()) {
            return None;
        }
        let follower = self.call(seat)?.copy.as_ref()?;
        Some(follower.streams.iter().map(|stream| stream.index).collect())
    }

    /// A copy goes on as a call, with sockets of its own.
    pub(crate) fn promote(&mut self, copy: Uuid, sockets: Vec<(StreamIndex, SocketPair)>, delay: Duration) {
        let now = Instant::now();
        let seat = self.copies.remove(&copy);
        let Some(call) = seat.and_then(|seat| self.call(seat)) else { return };
        let Some(follower) = call.copy.take() else { return };
        call.timeline = follower.timeline(now, delay);
        call.streams.clone_from(&follower.streams);
        call.sockets = sockets;
        (call.promoted, call.heard) = (true, true);
        call.recorder.promote(call.timeline.now(now));
        let part = call.recorder.part();
        tracing::info!(recording = %part.recording, part = part.number, file = %part.file, "a copy goes on as the recording");
        self.shard.mirror_stats.promoted.fetch_add(1, Ordering::Relaxed);
        let _ = self.shard.scribe.send(Entry::Promoted { file: part.file });
    }

    /// Nobody goes on with a copy whose original is gone: it ends where it is.
    pub(crate) fn end_copy(&mut self, copy: Uuid, reason: &'static str) {
        let Some(seat) = self.copies.get(&copy).copied() else { return };
        let Some(call) = self.call(seat) else { return };
        let Some(follower) = &mut call.copy else { return };
        follower.feed.close();
        if self.follow(seat, Instant::now()) {
            let at = self.call(seat).and_then(|call| call.copy.as_ref().map(|follower| follower.reached()));
            self.finish(seat, at.unwrap_or_else(Instant::now), reason.into(), RecordingState::Partial);
        }
    }
}

/// What is known of a call besides its recorder and its media.
pub(crate) fn copied_call(
    recorder: Box<ferric_media::recorder::Recorder>,
    begin: Begin,
    streams: Vec<StreamConfig>,
    follower: Follower,
) -> Call {
    let mut call = Call::new(recorder, Box::new(begin.session), Vec::new(), streams);
    call.tags = begin.tags;
    call.copy = Some(Box::new(follower));
    call
}
