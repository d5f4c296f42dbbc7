//! The worker's end: what is recorded here for other nodes.
//!
//! Each recording has an owner, the SRS node that has its dialog.
//!
//! | what happens | what becomes of the recording |
//! | --- | --- |
//! | the owner dies | it goes on; another node may say that it is its own now |
//! | nobody owns it and no RTP comes (`rtp_timeout`) | it is finished |
//! | the owner is back as it was and does not name it | it is finished: the call goes on elsewhere |
//! | the owner was started anew | it is finished after [`GRACE`], unless somebody names it |
//! | it is older than `max_call` and a little | it is finished |
//!
//! Only the owner gives orders; another node says first that the recording is its own ([`ToWorker::Own`]), with a higher epoch, or
//! comes when the owner is dead. So one that was cut off and does not know that its calls are another's ends none of them.
//!
//! A request that comes twice is answered twice and done once: a recording, its part and the files of it are its name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::wire::{Owned, ToServer, ToWorker};
use uuid::Uuid;

use crate::port::{AssignedStream, CaptureEvent, Command, RecordingId, RefuseReason, ReleaseCause};

/// A node that takes over the calls of a dead one says so within this.
pub const GRACE: Duration = Duration::from_secs(10);
/// The owner ends calls that are too long; this is how late it may be.
const LATE: Duration = Duration::from_secs(60);

/// How a worker treats recordings of others.
#[derive(Debug, Clone, Copy)]
pub struct HolderConfig {
    /// `recording.max_call`.
    pub max_call: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HolderOutput {
    /// Capture does this; its answer comes back by [`Holder::handle_capture`].
    Do(Box<Command>),
    /// Capture goes on with its copies of these; the answers are [`Holder::promoted`] and [`Holder::no_copy`].
    Promote {
        /// The node that asks.
        owner: String,
        /// Which.
        recordings: Vec<Owned>,
    },
    /// A node hears this.
    Send {
        /// Which.
        to: String,
        /// What.
        message: ToServer,
    },
}

#[derive(Debug)]
struct Held {
    owner: String,
    part: u32,
    file: Uuid,
    epoch: u64,
    /// Its sockets; `None` until capture has answered.
    streams: Option<Vec<AssignedStream>>,
    /// The part that goes on if capture refuses this one, and its sockets.
    before: Option<Before>,
    since: Instant,
    /// It is finished then, unless somebody names it.
    finish_at: Option<Instant>,
}

#[derive(Debug)]
struct Before {
    part: u32,
    file: Uuid,
    streams: Vec<AssignedStream>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Server {
    /// Its run, as it said last.
    run: Option<u64>,
    is_up: bool,
}

/// The recordings that a worker has for other nodes.
#[derive(Debug)]
pub struct Holder {
    config: HolderConfig,
    held: HashMap<RecordingId, Held>,
    servers: HashMap<String, Server>,
    seen: BTreeMap<String, u64>,
    outputs: VecDeque<HolderOutput>,
}

impl Holder {
    /// A worker that records nothing for others.
    pub fn new(config: HolderConfig) -> Holder {
        Holder {
            config,
            held: HashMap::new(),
            servers: HashMap::new(),
            seen: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<HolderOutput> {
        self.outputs.pop_front()
    }

    /// When [`Holder::handle_timeout`] is due. A walk over all: it is asked about once a second.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.held.values().map(|held| self.due(held)).min()
    }

    fn due(&self, held: &Held) -> Instant {
        let end = held.since + self.config.max_call + LATE;
        held.finish_at.map_or(end, |at| at.min(end))
    }

    /// Recordings held for others.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The owner of a recording that is held for another node.
    pub fn owner(&self, recording: RecordingId) -> Option<&str> {
        self.held.get(&recording).map(|held| held.owner.as_str())
    }

    /// The serial of the last assignment seen, by SRS node.
    pub fn seen(&self) -> &BTreeMap<String, u64> {
        &self.seen
    }

    /// A node can be reached.
    pub fn handle_up(&mut self, node: &str) {
        self.servers.entry(node.to_owned()).or_default().is_up = true;
    }

    /// A node cannot be reached. Its recordings go on.
    pub fn handle_down(&mut self, node: &str) {
        if let Some(server) = self.servers.get_mut(node) {
            server.is_up = false;
        }
    }

    /// Takes what a node says.
    pub fn handle_message(&mut self, now: Instant, from: &str, message: ToWorker) {
        match message {
            ToWorker::Command { part, serial, command } => {
                if let Some(serial) = serial {
                    self.seen.insert(from.to_owned(), serial);
                }
                self.handle_command(now, from, part, *command);
            }
            ToWorker::Own { recordings, run, all } => self.handle_own(now, from, &recordings, run, all),
            ToWorker::Promote { recordings } => {
                // What is recorded here already is no copy.
                let (held, sought): (Vec<Owned>, Vec<Owned>) =
                    recordings.into_iter().partition(|owned| self.held.contains_key(&owned.recording));
                if !held.is_empty() {
                    self.no_copy(from, held);
                }
                self.outputs.push_back(HolderOutput::Promote { owner: from.to_owned(), recordings: sought });
            }
        }
    }

    fn handle_command(&mut self, now: Instant, from: &str, part: u32, command: Command) {
        let recording = recording_of(&command);
        if matches!(command, Command::Assign { .. }) {
            self.handle_assign(now, from, recording, part, command);
            return;
        }
        if !self.may(from, recording) {
            return;
        }
        let Some(held) = self.held.get_mut(&recording).filter(|held| held.part == part) else {
            if !matches!(command, Command::Release { .. }) {
                let missing = vec![Owned { recording, part, epoch: 0 }];
                self.send(from, ToServer::Owned { have: Vec::new(), missing });
            }
            return;
        };
        from.clone_into(&mut held.owner);
        held.finish_at = None;
        if matches!(command, Command::Release { .. }) {
            self.held.remove(&recording);
        }
        self.outputs.push_back(HolderOutput::Do(Box::new(command)));
    }

    /// A copy goes on as this recording, in these files, for the node that asked.
    pub fn promoted(&mut self, now: Instant, owner: &str, owned: Owned, file: Uuid, streams: Vec<AssignedStream>) {
        let Owned { recording, part, epoch } = owned;
        let held = Held {
            owner: owner.to_owned(),
            part,
            file,
            epoch,
            streams: Some(streams.clone()),
            before: None,
            since: now,
            finish_at: None,
        };
        self.held.insert(recording, held);
        self.tell(owner, CaptureEvent::Promoted { recording, part, streams });
    }

    /// There is no copy of these.
    pub fn no_copy(&mut self, owner: &str, recordings: Vec<Owned>) {
        self.send(owner, ToServer::NoCopy { recordings });
    }

    /// Whether this node may command: it has the call, or whoever had it is dead.
    fn may(&self, from: &str, recording: RecordingId) -> bool {
        self.owner(recording).is_none_or(|owner| owner == from || !self.is_up(owner))
    }

    fn handle_assign(&mut self, now: Instant, from: &str, recording: RecordingId, number: u32, command: Command) {
        let Command::Assign { part, .. } = &command else { return };
        let file = part.file;
        if !self.may(from, recording) {
            return;
        }
        match self.held.get_mut(&recording) {
            Some(held) if held.part == number && held.file == file => {
                from.clone_into(&mut held.owner);
                held.finish_at = None;
                if let Some(streams) = held.streams.clone() {
                    self.tell(from, CaptureEvent::Ready { recording, part: number, streams });
                }
                return;
            }
            Some(held) if held.part > number => {
                self.tell(from, CaptureEvent::Refused { recording, part: number, reason: RefuseReason::Broken });
                return;
            }
            Some(_) | None => {}
        }
        // Capture ends the part before when it begins the next, which may have its sockets.
        let (mut since, mut epoch, mut before) = (now, 0, None);
        if let Some(had) = self.held.remove(&recording) {
            (since, epoch) = (had.since, had.epoch);
            let (part, file) = (had.part, had.file);
            before = had.streams.map(|streams| Before { part, file, streams }).or(had.before);
        }
        let owner = from.to_owned();
        let held = Held { owner, part: number, file, epoch, streams: None, before, since, finish_at: None };
        self.held.insert(recording, held);
        self.outputs.push_back(HolderOutput::Do(Box::new(command)));
    }

    fn handle_own(&mut self, now: Instant, from: &str, recordings: &[Owned], run: u64, all: bool) {
        let (mut have, mut missing) = (Vec::new(), Vec::new());
        for owned in recordings {
            match self.held.get_mut(&owned.recording) {
                Some(held) if held.part == owned.part || owned.part == 0 => {
                    if owned.epoch >= held.epoch {
                        from.clone_into(&mut held.owner);
                        (held.epoch, held.finish_at) = (owned.epoch, None);
                    }
                    have.push(Owned { recording: owned.recording, part: held.part, epoch: held.epoch });
                }
                Some(_) | None => missing.push(*owned),
            }
        }
        let was = self.servers.entry(from.to_owned()).or_default().run.replace(run);
        if all {
            self.leave(now, from, recordings, was.is_some_and(|was| was != run));
        }
        self.send(from, ToServer::Owned { have, missing });
    }

    /// What a node does not name and had is over; at once if the node knows what it says, and after a while if it was
    /// started anew: another one may have its calls.
    fn leave(&mut self, now: Instant, from: &str, named: &[Owned], is_new: bool) {
        let is_left = |(id, held): &(&RecordingId, &mut Held)| {
            held.owner == from && held.finish_at.is_none() && !named.iter().any(|owned| owned.recording == **id)
        };
        let mut over = Vec::new();
        for (id, held) in self.held.iter_mut().filter(is_left) {
            if is_new {
                held.finish_at = Some(now + GRACE);
            } else {
                over.push(*id);
            }
        }
        over.sort();
        for id in over {
            self.finish(id, ReleaseCause::NotMoved);
        }
    }

    /// This node's own SRS takes these over; the answer: those that are here.
    pub fn take_over(&mut self, recordings: &[Owned]) -> Vec<(Owned, Vec<AssignedStream>)> {
        let mut taken = Vec::new();
        for owned in recordings {
            let here = self.held.get(&owned.recording).filter(|held| held.part == owned.part || owned.part == 0);
            if here.is_some_and(|held| owned.epoch >= held.epoch)
                && let Some(held) = self.held.remove(&owned.recording)
            {
                taken.push((Owned { part: held.part, ..*owned }, held.streams.unwrap_or_default()));
            }
        }
        taken
    }

    /// Takes what capture says of a recording; `false`: it is none of those held for others.
    pub fn handle_capture(&mut self, event: CaptureEvent) -> bool {
        let recording = match &event {
            CaptureEvent::Ready { recording, .. }
            | CaptureEvent::Refused { recording, .. }
            | CaptureEvent::MediaHeard { recording }
            | CaptureEvent::MediaSilent { recording }
            | CaptureEvent::Died { recording }
            | CaptureEvent::Lost { recording, .. }
            | CaptureEvent::Returned { recording }
            | CaptureEvent::Promoted { recording, .. } => *recording,
        };
        let Some(held) = self.held.get_mut(&recording) else { return false };
        let owner = held.owner.clone();
        match &event {
            CaptureEvent::Ready { streams, .. } => {
                held.streams = Some(streams.clone());
                held.before = None;
            }
            // What was refused a change goes on as it was.
            CaptureEvent::Refused { .. } if held.streams.is_none() => match held.before.take() {
                Some(Before { part, file, streams }) => {
                    (held.part, held.file, held.streams) = (part, file, Some(streams));
                }
                None => drop(self.held.remove(&recording)),
            },
            CaptureEvent::MediaSilent { .. } | CaptureEvent::Died { .. } if !self.is_up(&owner) => {
                self.finish(recording, ReleaseCause::Orphaned);
                return true;
            }
            CaptureEvent::Refused { .. }
            | CaptureEvent::MediaHeard { .. }
            | CaptureEvent::MediaSilent { .. }
            | CaptureEvent::Died { .. }
            | CaptureEvent::Lost { .. }
            | CaptureEvent::Returned { .. }
            | CaptureEvent::Promoted { .. } => {}
        }
        self.tell(&owner, event);
        true
    }

    /// Somebody asks at this node that a call be ended; `false`: it is not held here.
    pub fn stop(&mut self, recording: RecordingId) -> bool {
        let Some(owner) = self.owner(recording).map(str::to_owned) else { return false };
        if self.is_up(&owner) {
            self.send(&owner, ToServer::Stop { recording });
        } else {
            self.finish(recording, ReleaseCause::Stopped);
        }
        true
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut due: Vec<RecordingId> =
            self.held.iter().filter(|(_, held)| self.due(held) <= now).map(|(id, _)| *id).collect();
        due.sort();
        for id in due {
            let is_old = self.held.get(&id).is_some_and(|held| held.since + self.config.max_call + LATE <= now);
            self.finish(id, if is_old { ReleaseCause::TooLong } else { ReleaseCause::Orphaned });
        }
    }

    fn finish(&mut self, recording: RecordingId, cause: ReleaseCause) {
        self.held.remove(&recording);
        self.outputs.push_back(HolderOutput::Do(Box::new(Command::Release { recording, cause })));
    }

    fn is_up(&self, node: &str) -> bool {
        self.servers.get(node).is_some_and(|server| server.is_up)
    }

    fn tell(&mut self, to: &str, event: CaptureEvent) {
        self.send(to, ToServer::Event { event, load: None });
    }

    fn send(&mut self, to: &str, message: ToServer) {
        self.outputs.push_back(HolderOutput::Send { to: to.to_owned(), message });
    }
}

/// What a command is about.
pub(super) fn recording_of(command: &Command) -> RecordingId {
    match command {
        Command::Assign { recording, .. }
        | Command::Change { recording, .. }
        | Command::Info { recording, .. }
        | Command::Park { recording }
        | Command::Release { recording, .. } => *recording,
    }
}
