//! A shard: one thread that owns its calls, their sockets and their recorders.
//!
//! ```text
//! commands -> shard: [visit: recvmmsg each socket -> Recorder -> outputs] -> scribe (files)
//!                                                                        \-> events (signalling)
//! ```
//!
//! A call is visited when its [`Agenda`] entry comes up, some ten times a
//! second; one visit takes all packets that arrived since, with the kernel's
//! arrival stamps, and runs the recorder. Nothing here waits for a disk: files
//! are the scribe's business, behind a bounded queue. What is late by itself
//! (the machine is too busy) is measured, so that new calls can be refused
//! before quality suffers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use ferric_media::manifest::RecordingState;
use ferric_media::metadata::SessionInfo;
use ferric_media::mirror::{Control as Mirrored, Port, Report, Streams};
use ferric_media::part::Part;
use ferric_media::recorder::{Output, Recorder, RecorderEvent};
use ferric_media::rtp::StreamIndex;
use ferric_media::stats::StreamStats;
use ferric_media::stream::{StreamConfig, StreamEvent};
use uuid::Uuid;

use crate::agenda::{Agenda, Seat};
use crate::call::{CallSnapshot, Control, ControlError, ControlOutcome, Taken, WorkerEvent};
use crate::mirror::shard::MirrorOrder;
use crate::mirror::twin::Twin;
use crate::mirror::{Copies, Follower, MirrorStats, Original, Timeline};
use crate::ports::SocketPair;
use crate::scribe::{Ending, Entry};
use crate::socket::{ClockPair, ReceiveBatch};

/// Between two visits of a call.
const VISIT: Duration = Duration::from_millis(100);
/// RTCP is looked for once in so many visits; the stamps keep its timing exact.
const RTCP_EVERY: u32 = 8;
/// How long a shard without calls sleeps.
const IDLE: Duration = Duration::from_secs(1);

/// What a shard is told.
pub(crate) enum Command {
    Begin {
        recorder: Box<Recorder>,
        session: Box<SessionInfo>,
        streams: Vec<StreamConfig>,
        sockets: Vec<(StreamIndex, SocketPair)>,
        taken: Vec<Taken>,
    },
    Update {
        id: Uuid,
        streams: Vec<StreamConfig>,
        sockets: Vec<(StreamIndex, SocketPair)>,
        taken: Vec<Taken>,
    },
    Session {
        id: Uuid,
        session: Box<SessionInfo>,
    },
    Control {
        id: Uuid,
        control: Control,
        reply: Sender<Result<ControlOutcome, ControlError>>,
    },
    Park {
        id: Uuid,
    },
    Release {
        id: Uuid,
        reason: &'static str,
    },
    Snapshot {
        reply: Sender<Vec<CallSnapshot>>,
    },
    /// Tell a call to another node.
    Mirror(Box<MirrorOrder>),
    StopMirror {
        recording: Uuid,
    },
    /// Of a copy elsewhere.
    Report(Report),
    /// A copy begins here.
    Copy(Box<Call>),
    /// The original of a copy is gone; the answer is the copy's streams.
    CloseFeed {
        copy: Uuid,
        reply: Sender<Option<Vec<StreamIndex>>>,
    },
    /// The copy goes on with these sockets.
    Promote {
        copy: Uuid,
        sockets: Vec<(StreamIndex, SocketPair)>,
        delay: Duration,
    },
    EndCopy {
        copy: Uuid,
        reason: &'static str,
    },
    Shutdown,
}

/// What a shard measures.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Calls at the moment.
    pub calls: AtomicUsize,
    /// Packets received, RTP and RTCP.
    pub packets: AtomicU64,
    /// Packets of calls that ended, that belonged to them.
    pub packets_recorded: AtomicU64,
    /// Packets lost on the way, of calls that ended.
    pub packets_lost: AtomicU64,
    /// Late, double, foreign, malformed packets of calls that ended.
    pub packets_dropped: AtomicU64,
    /// Audio that is missing, in ms: concealed or silent for loss in calls that ended, and before parts that took over.
    pub lost_ms: AtomicU64,
    /// Longest delay of a visit in the last seconds, in µs: the measure of overload.
    pub lag_us: AtomicU64,
    /// Time spent in visits, in µs.
    pub busy_us: AtomicU64,
}

pub(crate) struct Call {
    pub(crate) recorder: Box<Recorder>,
    pub(crate) session: Box<SessionInfo>,
    pub(crate) streams: Vec<StreamConfig>,
    pub(crate) sockets: Vec<(StreamIndex, SocketPair)>,
    visits: u32,
    pub(crate) tags: Vec<(String, String)>,
    /// It stands still since then.
    parked: Option<Instant>,
    /// Something came to its sockets.
    pub(crate) heard: bool,
    /// It was a copy and goes on as the recording.
    pub(crate) promoted: bool,
    pub(crate) timeline: Timeline,
    /// It is told to another node.
    pub(crate) mirror: Option<Box<Original>>,
    /// To be noted once the copy follows.
    pub(crate) twin: Option<Twin>,
    /// It is told by another node, and has no sockets.
    pub(crate) copy: Option<Box<Follower>>,
}

pub(crate) struct Shard {
    pub(crate) commands: Receiver<Command>,
    pub(crate) scribe: Sender<Entry>,
    pub(crate) events: tokio::sync::mpsc::UnboundedSender<WorkerEvent>,
    pub(crate) returned_ports: Sender<u16>,
    /// For the copies here, with their arrival.
    pub(crate) frames: Receiver<(Instant, Bytes)>,
    pub(crate) copies: Arc<Copies>,
    pub(crate) stats: Arc<ShardStats>,
    pub(crate) mirror_stats: Arc<MirrorStats>,
}

/// The shard's own state, on its thread.
pub(crate) struct State {
    pub(crate) shard: Shard,
    pub(crate) seats: Vec<(u64, Option<Call>)>,
    free: Vec<usize>,
    agenda: Agenda,
    batch: ReceiveBatch,
    /// Copies by file id.
    pub(crate) copies: HashMap<Uuid, Seat>,
    /// Mirrors of calls that are over, and until when they are kept.
    pub(crate) lingering: Vec<(Instant, Box<Original>)>,
}

impl Shard {
    /// Runs until it is shut down or nobody can command it any more; calls that still run are ended.
    pub(crate) fn run(self) {
        let mut state = State {
            shard: self,
            seats: Vec::new(),
            free: Vec::new(),
            agenda: Agenda::new(),
            batch: ReceiveBatch::new(),
            copies: HashMap::new(),
            lingering: Vec::new(),
        };
        while state.wait() {
            state.visit_due();
        }
        state.end_all();
    }
}

impl State {
    /// Takes commands until a visit is due; false at the end.
    fn wait(&mut self) -> bool {
        loop {
            let now = Instant::now();
            let wait = self.agenda.next_due().map_or(IDLE, |due| due.saturating_duration_since(now));
            let command = if wait.is_zero() {
                match self.shard.commands.try_recv() {
                    Ok(command) => command,
                    Err(crossbeam_channel::TryRecvError::Empty) => return true,
                    Err(crossbeam_channel::TryRecvError::Disconnected) => return false,
                }
            } else {
                match self.shard.commands.recv_timeout(wait) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => return true,
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            };
            if matches!(command, Command::Shutdown) {
                return false;
            }
            self.handle(command);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Begin { recorder, session, streams, mut sockets, taken } => {
                sockets.extend(self.take(&taken));
                // Signalling gave this recording up once, and its peer never knew: what it sent is in the part before.
                if let Some(before) = self.find(recorder.id()) {
                    self.end(before, "the next part began");
                }
                self.begin(Call::new(recorder, session, sockets, streams));
            }
            Command::Update { id, streams, mut sockets, taken } => {
                sockets.extend(self.take(&taken));
                self.update(id, streams, sockets);
            }
            Command::Session { id, session } => {
                if let Some(call) = self.find(id).and_then(|seat| self.call(seat)) {
                    call.recorder.set_session((*session).clone());
                    call.tell_mirror(Instant::now(), || Mirrored::Session(session.clone()));
                    call.session = session;
                }
            }
            Command::Control { id, control, reply } => {
                let _ = reply.send(self.control(id, control));
            }
            Command::Park { id } => {
                if let Some(seat) = self.find(id) {
                    self.visit(seat, &ClockPair::read());
                    if let Some(call) = self.call(seat) {
                        call.parked = Some(Instant::now());
                    }
                }
            }
            Command::Release { id, reason } => {
                if let Some(seat) = self.find(id) {
                    self.end(seat, reason);
                }
            }
            Command::Mirror(order) => self.mirror(*order),
            Command::StopMirror { recording } => self.stop_mirror(recording),
            Command::Report(report) => self.report(&report),
            Command::Copy(call) => self.begin_copy(*call),
            Command::CloseFeed { copy, reply } => {
                let _ = reply.send(self.close_feed(copy));
            }
            Command::Promote { copy, sockets, delay } => self.promote(copy, sockets, delay),
            Command::EndCopy { copy, reason } => self.end_copy(copy, reason),
            Command::Snapshot { reply } => {
                let calls = self.seats.iter().filter_map(|(_, call)| call.as_ref().filter(|call| call.copy.is_none()));
                let _ = reply.send(calls.map(Call::snapshot).collect());
            }
            Command::Shutdown => {}
        }
    }

    /// Takes sockets from other calls of this shard. What has arrived on them belongs to those.
    fn take(&mut self, taken: &[Taken]) -> Vec<(StreamIndex, SocketPair)> {
        let clock = ClockPair::read();
        let mut sockets = Vec::new();
        for taken in taken {
            let Some(seat) = self.find(taken.from) else { continue };
            self.visit(seat, &clock);
            let Some(call) = self.call(seat) else { continue };
            if let Some(position) = call.sockets.iter().position(|(index, _)| *index == taken.stream) {
                let (_, pair) = call.sockets.remove(position);
                sockets.push((taken.becomes, pair));
            }
        }
        sockets
    }

    pub(crate) fn begin(&mut self, call: Call) -> Option<Seat> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.seats.push((0, None));
                self.seats.len() - 1
            }
        };
        let (generation, place) = self.seats.get_mut(index)?;
        *generation += 1;
        *place = Some(call);
        let seat = Seat { index, generation: *generation };
        self.shard.stats.calls.fetch_add(1, Ordering::Relaxed);
        self.drain(seat);
        // Calls that began together are spread over the interval.
        let spread = VISIT.mul_f64((index % 16) as f64 / 16.0);
        self.agenda.push(Instant::now() + spread, seat);
        Some(seat)
    }

    fn update(&mut self, id: Uuid, streams: Vec<StreamConfig>, sockets: Vec<(StreamIndex, SocketPair)>) {
        let Some(seat) = self.find(id) else { return };
        let ports = self.shard.returned_ports.clone();
        let Some(call) = self.call(seat) else { return };
        call.parked = None;
        call.sockets.extend(sockets);
        let gone = |index: &StreamIndex| !streams.iter().any(|stream| stream.index == *index);
        let mut kept = Vec::new();
        for (index, pair) in call.sockets.drain(..) {
            if gone(&index) {
                give_back(pair, &ports);
            } else {
                kept.push((index, pair));
            }
        }
        call.sockets = kept;
        let now = Instant::now();
        call.streams.clone_from(&streams);
        call.tell_mirror(now, || Mirrored::Streams(Streams(streams.clone())));
        call.recorder.update_streams(call.timeline.now(now), streams);
        self.drain(seat);
    }

    fn control(&mut self, id: Uuid, control: Control) -> Result<ControlOutcome, ControlError> {
        let seat = self.find(id).ok_or(ControlError::NotFound)?;
        let call = self.call(seat).ok_or(ControlError::NotFound)?;
        let local = Instant::now();
        let now = call.timeline.now(local);
        let told = match &control {
            Control::Pause { by } => Mirrored::Pause { by: by.clone() },
            Control::Resume => Mirrored::Resume,
            Control::Tags(tags) => Mirrored::Tags(tags.clone()),
        };
        let recorder = &mut call.recorder;
        let done = match control {
            Control::Pause { by } => recorder.pause(now, by.as_deref()),
            Control::Resume => recorder.resume(now),
            Control::Tags(tags) => {
                let mut all = true;
                for (name, value) in tags {
                    all &= recorder.add_tag(now, &name, &value);
                    call.tags.retain(|(have, _)| *have != name);
                    call.tags.push((name, value));
                }
                all
            }
        };
        let outcome =
            ControlOutcome { changed: done, paused: recorder.is_paused(), at_ms: recorder.stats().duration_ms };
        // What was asked for is on disk soon, not at the next visit.
        recorder.advance(now);
        call.tell_mirror(local, || told);
        if let Some(mirror) = &mut call.mirror {
            mirror.tap.begin_visit(local);
            mirror.tap.end_visit();
        }
        self.drain(seat);
        Ok(outcome)
    }

    fn visit_due(&mut self) {
        self.take_frames();
        let began = Instant::now();
        let mut worst = Duration::ZERO;
        let mut visited = false;
        let clock = ClockPair::read();
        while let Some((due, seat)) = self.agenda.pop_due(clock.now) {
            worst = worst.max(clock.now.saturating_duration_since(due));
            visited = true;
            if self.visit(seat, &clock) {
                self.agenda.push((due + VISIT).max(clock.now), seat);
            }
        }
        if visited {
            let spent = u64::try_from(began.elapsed().as_micros()).unwrap_or(0);
            self.shard.stats.busy_us.fetch_add(spent, Ordering::Relaxed);
            let lag = u64::try_from(worst.as_micros()).unwrap_or(u64::MAX);
            let old = self.shard.stats.lag_us.load(Ordering::Relaxed);
            self.shard.stats.lag_us.store(lag.max(old - old / 8), Ordering::Relaxed);
        }
    }

    /// False when the call is gone.
    fn visit(&mut self, seat: Seat, clock: &ClockPair) -> bool {
        let State { seats, batch, shard, .. } = self;
        let Some(call) = call_at(seats, seat) else { return false };
        if call.copy.is_some() {
            return self.follow(seat, clock.now);
        }
        if call.parked.is_some() {
            return true;
        }
        let Call { recorder, sockets, visits, timeline, mirror, .. } = call;
        *visits = visits.wrapping_add(1);
        if let Some(mirror) = mirror {
            mirror.tap.begin_visit(clock.now);
        }
        let mut take = |at: Instant, stream: StreamIndex, port: Port, source: SocketAddr, bytes: &[u8]| {
            if let Some(mirror) = mirror {
                mirror.tap.datagram(at, stream, port, source, bytes);
            }
            match port {
                Port::Rtp => recorder.handle_rtp(timeline.arrival(at), stream, source, bytes),
                Port::Rtcp => recorder.handle_rtcp(timeline.arrival(at), stream, source, bytes),
            }
        };
        let mut packets = 0;
        for (stream, pair) in sockets.iter() {
            packets += pair.rtp.receive(clock, batch, |at, source, bytes| take(at, *stream, Port::Rtp, source, bytes));
            if visits.is_multiple_of(RTCP_EVERY) {
                packets +=
                    pair.rtcp.receive(clock, batch, |at, source, bytes| take(at, *stream, Port::Rtcp, source, bytes));
            }
        }
        if let Some(mirror) = mirror {
            mirror.tap.end_visit();
            mirror.flush(clock.now);
        }
        call.heard |= packets > 0;
        shard.stats.packets.fetch_add(packets as u64, Ordering::Relaxed);
        call.recorder.advance(call.timeline.now(clock.now));
        self.drain(seat);
        true
    }

    /// Carries out what the recorder wants.
    pub(crate) fn drain(&mut self, seat: Seat) {
        let State { seats, shard, .. } = self;
        let Some(call) = call_at(seats, seat) else { return };
        let part = call.recorder.part();
        let file = part.file;
        // A copy answers nobody and is told to nobody.
        let quiet = call.copy.is_some();
        while let Some(output) = call.recorder.poll_output() {
            match output {
                Output::Audio(bytes) => {
                    let (segments, duration) = call.recorder.sealed();
                    let _ = shard.scribe.send(Entry::Audio { file, bytes, segments, duration });
                }
                Output::Metadata(bytes) => {
                    let _ = shard.scribe.send(Entry::Metadata { file, bytes });
                }
                Output::Rtcp { .. } | Output::Event(_) if quiet => {}
                Output::Rtcp { stream, to, muxed, bytes } => {
                    let pair = call.sockets.iter().find(|(index, _)| *index == stream);
                    if let Some((_, pair)) = pair {
                        let socket = if muxed { &pair.rtp } else { &pair.rtcp };
                        let _ = socket.send_to(&bytes, to);
                    }
                }
                Output::Frame(_) => {}
                Output::Event(event) => tell(shard, part, event),
            }
        }
    }

    fn end(&mut self, seat: Seat, reason: &'static str) {
        // What has arrived and was not looked at yet belongs to the call.
        let clock = ClockPair::read();
        self.visit(seat, &clock);
        if let Some(copy) = self.call(seat).and_then(|call| call.copy.as_ref()) {
            // The call goes on elsewhere: what it was told is all that this has.
            let reached = copy.reached();
            return self.finish(seat, reached, reason.into(), RecordingState::Partial);
        }
        let Some(call) = call_at(&mut self.seats, seat) else { return };
        let at = call.parked.unwrap_or(clock.now);
        call.tell_mirror(at, || Mirrored::Stop { reason: reason.to_owned() });
        let at = call.timeline.now(at);
        self.finish(seat, at, reason.into(), RecordingState::Complete);
    }

    /// Stops a call's recorder, and takes it off the shard. `state` is the best that it can be.
    pub(crate) fn finish(&mut self, seat: Seat, at: Instant, reason: Cow<'static, str>, state: RecordingState) {
        let Some(call) = call_at(&mut self.seats, seat) else { return };
        let (state, reason) = match verdict(&call.recorder.stats().streams) {
            Some(short) if state == RecordingState::Complete => (RecordingState::Partial, Cow::Borrowed(short)),
            Some(_) | None => (state, reason),
        };
        call.recorder.stop(at, state, &reason);
        self.drain(seat);
        let place = self.seats.get_mut(seat.index).and_then(|(_, place)| place.take());
        let Some(mut call) = place else { return };
        self.free.push(seat.index);
        self.count(&call);
        let file = call.recorder.part().file;
        if let Some(mirror) = call.mirror.take() {
            self.linger(mirror);
        }
        if call.copy.is_some() {
            self.copies.remove(&file);
            self.shard.copies.remove(file);
        }
        if let Some(totals) = call.recorder.totals() {
            let ending = Ending {
                state,
                reason,
                totals: totals.clone(),
                session: call.session,
                tags: call.tags,
                quality: call.recorder.stats(),
                lost_ms: call.recorder.lost_ms(),
            };
            let _ = self.shard.scribe.send(Entry::Finish { file, ending: Box::new(ending) });
        }
        for (_, pair) in call.sockets {
            give_back(pair, &self.shard.returned_ports);
        }
    }

    fn count(&self, call: &Call) {
        let stats = &self.shard.stats;
        stats.calls.fetch_sub(1, Ordering::Relaxed);
        if call.copy.is_some() {
            // They are counted where they came to.
            return;
        }
        for stream in &call.recorder.stats().streams {
            stats.packets_recorded.fetch_add(stream.packets, Ordering::Relaxed);
            stats.packets_lost.fetch_add(stream.lost, Ordering::Relaxed);
            let dropped =
                stream.late + stream.duplicate + stream.stranger + stream.malformed + stream.wrong_payload_type;
            stats.packets_dropped.fetch_add(dropped + stream.other_ssrc + stream.overflow, Ordering::Relaxed);
            stats.lost_ms.fetch_add(stream.lost_ms, Ordering::Relaxed);
        }
    }

    fn end_all(&mut self) {
        for index in 0..self.seats.len() {
            if let Some((generation, Some(_))) = self.seats.get(index) {
                let seat = Seat { index, generation: *generation };
                self.end(seat, "node shut down");
            }
        }
    }

    pub(crate) fn find(&self, id: Uuid) -> Option<Seat> {
        self.seats.iter().enumerate().find_map(|(index, (generation, call))| {
            let call = call.as_ref().filter(|call| call.copy.is_none())?;
            (call.recorder.id() == id).then_some(Seat { index, generation: *generation })
        })
    }

    pub(crate) fn call(&mut self, seat: Seat) -> Option<&mut Call> {
        call_at(&mut self.seats, seat)
    }
}

/// Why a call is partial: what should have been heard and was not.
fn verdict(streams: &[StreamStats]) -> Option<&'static str> {
    let nothing = |stream: &&StreamStats| stream.packets == 0;
    if streams.iter().any(|stream| nothing(&stream) && stream.undecryptable + stream.unprotected > 0) {
        Some("SRTP could not be opened")
    } else if streams.iter().all(|stream| nothing(&stream)) {
        let unknown = streams.iter().any(|stream| stream.wrong_payload_type > 0);
        Some(if unknown { "media came in payload types that were not agreed" } else { "no media came" })
    } else {
        None
    }
}

fn call_at(seats: &mut [(u64, Option<Call>)], seat: Seat) -> Option<&mut Call> {
    let (generation, call) = seats.get_mut(seat.index)?;
    if *generation == seat.generation { call.as_mut() } else { None }
}

fn give_back(pair: SocketPair, ports: &Sender<u16>) {
    let port = pair.port;
    drop(pair);
    let _ = ports.send(port);
}

/// Tells signalling and the log.
fn tell(shard: &Shard, part: Part, event: RecorderEvent) {
    let id = part.recording;
    match event {
        RecorderEvent::MediaSilent => {
            tracing::info!(recording = %id, "no RTP on any active stream");
            let _ = shard.events.send(WorkerEvent::MediaSilent { id });
        }
        RecorderEvent::TookOver { lost_ms } => {
            tracing::info!(recording = %id, part = part.number, lost_ms, "the recording goes on here");
            shard.stats.lost_ms.fetch_add(lost_ms, Ordering::Relaxed);
            let _ = shard.events.send(WorkerEvent::TookOver { part, lost_ms });
        }
        RecorderEvent::MediaBack => tracing::info!(recording = %id, "RTP is back"),
        RecorderEvent::Failed(error) => {
            tracing::error!(recording = %id, %error, "the recording cannot go on");
            let _ = shard.events.send(WorkerEvent::Failed { id });
        }
        RecorderEvent::Stream(event) => match event {
            StreamEvent::FirstMedia { stream, from } => {
                log_source("first RTP", id, stream, from);
                let _ = shard.events.send(WorkerEvent::FirstMedia { id });
            }
            StreamEvent::SourceMoved { stream, to, .. } => log_source("RTP comes from another address", id, stream, to),
            StreamEvent::Undecryptable { stream, in_clear, .. } => {
                let why =
                    if in_clear { "media in clear where SRTP was agreed" } else { "SRTP packets that no key opens" };
                tracing::error!(recording = %id, stream = stream.0, "{why}: this side of the call is not being recorded");
                let _ = shard.events.send(WorkerEvent::Undecryptable { id, in_clear });
            }
            StreamEvent::Decryptable { stream } => {
                tracing::info!(recording = %id, stream = stream.0, "SRTP packets can be opened now");
                let _ = shard.events.send(WorkerEvent::Decryptable { id });
            }
            StreamEvent::StrangerDropped { stream, from } => {
                log_source("RTP of a stranger is dropped", id, stream, from)
            }
        },
    }
}

fn log_source(what: &str, id: Uuid, stream: StreamIndex, from: SocketAddr) {
    tracing::debug!(recording = %id, stream = stream.0, port = from.port(), "{what}");
}

impl Call {
    pub(crate) fn new(
        recorder: Box<Recorder>,
        session: Box<SessionInfo>,
        sockets: Vec<(StreamIndex, SocketPair)>,
        streams: Vec<StreamConfig>,
    ) -> Call {
        Call {
            recorder,
            session,
            streams,
            sockets,
            visits: 0,
            tags: Vec::new(),
            parked: None,
            heard: false,
            promoted: false,
            timeline: Timeline::default(),
            mirror: None,
            twin: None,
            copy: None,
        }
    }

    /// Tells the copy, if there is one, what the recorder was told at `now`.
    fn tell_mirror(&mut self, now: Instant, control: impl FnOnce() -> Mirrored) {
        if let Some(mirror) = &mut self.mirror {
            mirror.tap.control(now, &control());
            mirror.flush(now);
        }
    }

    fn snapshot(&self) -> CallSnapshot {
        CallSnapshot {
            id: self.recorder.id(),
            part: self.recorder.part(),
            tenant: self.recorder.tenant().to_owned(),
            started_at: self.recorder.started_at(),
            paused: self.recorder.is_paused(),
            session: (*self.session).clone(),
            tags: self.tags.clone(),
            stats: self.recorder.stats(),
        }
    }
}
