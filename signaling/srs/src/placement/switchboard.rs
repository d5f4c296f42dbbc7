//! The SRS node's end: where each recording is, and what waits for an answer.
//!
//! ```text
//!            Assign            Ready
//! (nowhere) -------> asked ---------> there --Down, unknown--> lost --Assign (next part)--> asked
//!    ^                 | Refused: the next worker, the same part
//!    |                 | silent, Down: Lost, the SRS begins the next part elsewhere
//!    \---- Release ----+----- from everywhere
//! ```
//!
//! - Where calls have mirrors, all workers are asked for a copy before a part is told as lost: one that goes on is the same part, and
//!   the media move there ([`CaptureEvent::Promoted`]). This node asks, and not the worker with the copy decides, because only a worker
//!   that is gone *for the SRS* has lost the recording.
//! - A part that a worker may have begun is never given to another one: a part has one pair of files. So only who *refused* is
//!   followed by the next candidate under the same name; silence and death are told as [`CaptureEvent::Lost`].
//! - What takes streams from another recording, or stands beside it, goes to the worker that has that one.
//! - A part with `restore` goes to the worker that had these very addresses.
//! - The worker of this node is asked by [`SwitchboardOutput::Local`], and answers before anything else happens.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ferric_sip::deadline::DeadlineQueue;

use super::directory::{Directory, WorkerId};
use super::holder::recording_of;
use super::wire::{Owned, ToServer, ToWorker};
use crate::port::{AssignedStream, CaptureEvent, Command, RecordingId, RefuseReason, ReleaseCause};

/// A worker answers an assignment within this; the SRS waits some seconds in all.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// A worker that is asked whether it has a recording answers within this.
pub const SEARCH: Duration = Duration::from_secs(2);
/// A worker that has a copy goes on with it within this.
pub const PROMOTION: Duration = Duration::from_millis(1_000);
/// Commands kept for a recording that is being searched.
const MOST_KEPT: usize = 16;
/// Workers that had a recording and were lost, remembered for each.
const MOST_HOMES: usize = 4;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchboardOutput {
    /// The worker of this node does this; its answer comes back by [`Switchboard::handle_local`].
    Local(Box<Command>),
    /// A worker hears this.
    Send {
        /// Which.
        to: WorkerId,
        /// What.
        message: ToWorker,
    },
    /// The worker of this node goes on with its copies of these; it answers by [`Switchboard::handle_local`] for each, or
    /// [`Switchboard::no_local_copy`].
    Promote(Vec<Owned>),
    /// The SRS hears this.
    Tell(CaptureEvent),
    /// The SRS is asked to end a call.
    Stop(RecordingId),
    /// A part is recorded.
    Placed {
        /// Of which recording.
        recording: RecordingId,
        /// Which part of it.
        part: u32,
        /// Where; empty: nobody who is there knows.
        worker: WorkerId,
    },
}

#[derive(Debug)]
enum State {
    /// An assignment waits for its answer.
    Asked {
        command: Box<Command>,
        serial: u64,
        tried: Vec<WorkerId>,
        pinned: bool,
    },
    There,
    /// Its SRS node died and this one has the call: the worker that has it is being searched.
    Searched {
        kept: Vec<Command>,
        /// Who has not said yet that it has it or not.
        asked: Vec<WorkerId>,
    },
    /// Its worker is gone, and these are asked for a copy.
    Copied {
        asked: Vec<WorkerId>,
        kept: Vec<Command>,
    },
    /// No worker has it.
    Lost,
}

#[derive(Debug)]
struct Place {
    worker: WorkerId,
    part: u32,
    epoch: u64,
    streams: Vec<AssignedStream>,
    state: State,
    /// Where the peer may still send to, oldest first.
    homes: VecDeque<Home>,
}

impl Place {
    fn owned(&self, recording: RecordingId) -> Owned {
        Owned { recording, part: self.part, epoch: self.epoch }
    }
}

/// A worker that had a recording and was lost.
#[derive(Debug, Clone)]
struct Home {
    worker: WorkerId,
    part: u32,
    streams: Vec<AssignedStream>,
}

/// The recordings of one SRS node and the workers that have them.
#[derive(Debug)]
pub struct Switchboard {
    directory: Directory,
    /// The worker of this node.
    own: Option<WorkerId>,
    run: u64,
    /// There may be copies of recordings.
    mirrors: bool,
    places: HashMap<RecordingId, Place>,
    deadlines: DeadlineQueue<RecordingId>,
    outputs: VecDeque<SwitchboardOutput>,
    lost: u64,
}

impl Switchboard {
    /// A switchboard without recordings. `own`: the worker of this node, which is in the directory too. `run` differs from one start
    /// of this node to the next.
    pub fn new(directory: Directory, own: Option<WorkerId>, run: u64) -> Switchboard {
        Switchboard {
            directory,
            own,
            run,
            mirrors: false,
            places: HashMap::new(),
            deadlines: DeadlineQueue::default(),
            outputs: VecDeque::new(),
            lost: 0,
        }
    }

    /// Calls have mirrors, or some of them.
    #[must_use]
    pub fn with_mirrors(self, mirrors: bool) -> Switchboard {
        Switchboard { mirrors, ..self }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<SwitchboardOutput> {
        self.outputs.pop_front()
    }

    /// When [`Switchboard::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.deadlines.next_deadline()
    }

    /// The workers.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The workers, to be told of reports.
    pub fn directory_mut(&mut self) -> &mut Directory {
        &mut self.directory
    }

    /// The worker that has a recording, and the part it has; `None` while nobody is known to have it.
    pub fn place(&self, recording: RecordingId) -> Option<(&WorkerId, u32)> {
        let place = self.places.get(&recording)?;
        matches!(place.state, State::There).then_some((&place.worker, place.part))
    }

    /// Recordings that are somewhere, or on their way.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Parts lost with their worker since the start.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Does what the SRS wants.
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        let recording = recording_of(&command);
        if matches!(command, Command::Assign { .. }) {
            self.assign(now, recording, command);
            return;
        }
        let Some(place) = self.places.get_mut(&recording) else { return };
        if let Command::Release { cause, .. } = command {
            self.release(recording, cause);
            return;
        }
        match &mut place.state {
            State::There => self.pass(recording, command),
            State::Asked { .. } => self.pass(recording, command),
            State::Searched { kept, .. } | State::Copied { kept, .. } if kept.len() < MOST_KEPT => kept.push(command),
            State::Searched { .. } | State::Copied { .. } | State::Lost => {}
        }
    }

    fn assign(&mut self, now: Instant, recording: RecordingId, command: Command) {
        let Command::Assign { part, takes, beside, .. } = &command else { return };
        let (number, restore) = (part.number, &part.restore);
        let mut homes = VecDeque::new();
        if let Some(before) = self.places.get(&recording) {
            if matches!(before.state, State::There | State::Asked { .. }) {
                // The SRS has left this part behind.
                self.pass(recording, Command::Release { recording, cause: ReleaseCause::NotMoved });
            }
            homes = self.places.remove(&recording).map(|place| place.homes).unwrap_or_default();
        }
        let home = restore.first().map(|wanted| {
            let had = |home: &&Home| home.streams.iter().any(|stream| stream.address == wanted.address);
            homes.iter().find(had).map(|home| home.worker.clone())
        });
        let partner = takes.iter().map(|taken| taken.from).chain(*beside).find_map(|id| self.there(id));
        let pin = home.unwrap_or(partner);
        let must = !restore.is_empty();
        let place =
            Place { worker: WorkerId::new(""), part: number, epoch: 0, streams: Vec::new(), state: State::Lost, homes };
        self.places.insert(recording, place);
        let pin = pin.filter(|worker| self.directory.is_up(worker));
        if must && pin.is_none() {
            self.refuse(recording, RefuseReason::NoWorker);
            return;
        }
        self.ask(now, recording, Box::new(command), Vec::new(), pin, RefuseReason::NoWorker);
    }

    fn there(&self, recording: RecordingId) -> Option<WorkerId> {
        let place = self.places.get(&recording)?;
        matches!(place.state, State::There | State::Asked { .. }).then(|| place.worker.clone())
    }

    /// Asks the next worker; `why`: what the last one said.
    fn ask(
        &mut self,
        now: Instant,
        recording: RecordingId,
        command: Box<Command>,
        tried: Vec<WorkerId>,
        pin: Option<WorkerId>,
        why: RefuseReason,
    ) {
        let pinned = pin.is_some();
        let chosen = match pin {
            Some(worker) => Some((self.directory.take(&worker), worker)),
            None => self.directory.choose(now, &tried).map(|(worker, serial)| (serial, worker)),
        };
        let Some((serial, worker)) = chosen else {
            self.refuse(recording, why);
            return;
        };
        let Some(place) = self.places.get_mut(&recording) else { return };
        place.worker = worker.clone();
        place.state = State::Asked { command: command.clone(), serial, tried, pinned };
        let part = place.part;
        if self.own.as_ref() == Some(&worker) {
            self.outputs.push_back(SwitchboardOutput::Local(command));
            return;
        }
        self.set_deadline(recording, Some(now + PATIENCE));
        let message = ToWorker::Command { part, serial: Some(serial), command };
        self.outputs.push_back(SwitchboardOutput::Send { to: worker, message });
    }

    /// No worker takes it.
    fn refuse(&mut self, recording: RecordingId, reason: RefuseReason) {
        let Some(place) = self.places.get_mut(&recording) else { return };
        place.state = State::Lost;
        let part = place.part;
        if place.homes.is_empty() {
            self.places.remove(&recording);
        }
        self.set_deadline(recording, None);
        self.tell(CaptureEvent::Refused { recording, part, reason });
    }

    /// Passes a command to the worker that has the recording.
    fn pass(&mut self, recording: RecordingId, command: Command) {
        let Some(place) = self.places.get(&recording) else { return };
        if self.own.as_ref() == Some(&place.worker) {
            self.outputs.push_back(SwitchboardOutput::Local(Box::new(command)));
        } else {
            let message = ToWorker::Command { part: place.part, serial: None, command: Box::new(command) };
            self.outputs.push_back(SwitchboardOutput::Send { to: place.worker.clone(), message });
        }
    }

    fn release(&mut self, recording: RecordingId, cause: ReleaseCause) {
        let Some(place) = self.places.get_mut(&recording) else { return };
        match &mut place.state {
            State::There | State::Asked { .. } => {
                self.pass(recording, Command::Release { recording, cause });
            }
            State::Searched { .. } | State::Copied { .. } => {
                let owned = vec![Owned { recording, part: 0, epoch: place.epoch }];
                // Whoever has it is told that nobody names it any more: first that it is ours, then that it is over.
                let part = place.part;
                for to in self.directory.workers().into_iter().filter(|worker| self.own.as_ref() != Some(worker)) {
                    let own = ToWorker::Own { recordings: owned.clone(), run: self.run, all: false };
                    let command = Box::new(Command::Release { recording, cause });
                    let message = ToWorker::Command { part, serial: None, command };
                    self.outputs.push_back(SwitchboardOutput::Send { to: to.clone(), message: own });
                    self.outputs.push_back(SwitchboardOutput::Send { to, message });
                }
            }
            State::Lost => {}
        }
        self.set_deadline(recording, None);
        let Some(place) = self.places.get_mut(&recording) else { return };
        if !cause.is_of_part() {
            self.leave_homes(recording, cause);
            self.places.remove(&recording);
            return;
        }
        // The recording may go on as another part, where the peer sends to.
        place.state = State::Lost;
        let is_back = place.homes.iter().any(|home| self.directory.is_up(&home.worker));
        if is_back {
            self.tell(CaptureEvent::Returned { recording });
        }
    }

    /// The peer sends to the part that is recorded now: what lost workers may have of earlier ones is over.
    pub fn moved(&mut self, recording: RecordingId) {
        self.leave_homes(recording, ReleaseCause::NotMoved);
    }

    fn leave_homes(&mut self, recording: RecordingId, cause: ReleaseCause) {
        let Some(place) = self.places.get_mut(&recording) else { return };
        for Home { worker, part, .. } in std::mem::take(&mut place.homes) {
            let here = worker == place.worker && matches!(place.state, State::There | State::Asked { .. });
            if !here && self.directory.is_up(&worker) {
                let command = Box::new(Command::Release { recording, cause });
                let message = ToWorker::Command { part, serial: None, command };
                self.outputs.push_back(SwitchboardOutput::Send { to: worker, message });
            }
        }
    }

    /// What the worker of this node answers.
    pub fn handle_local(&mut self, now: Instant, event: CaptureEvent) {
        if let Some(own) = self.own.clone() {
            self.handle_event(now, &own, event);
        }
    }

    /// Takes what a worker says.
    pub fn handle_message(&mut self, now: Instant, from: &WorkerId, message: ToServer) {
        match message {
            ToServer::Event { event, load } => {
                if let Some(load) = load {
                    self.directory.report(now, from, load);
                }
                self.handle_event(now, from, event);
            }
            ToServer::Load { load } => self.directory.report(now, from, load),
            ToServer::Stop { recording } => {
                if self.places.contains_key(&recording) {
                    self.outputs.push_back(SwitchboardOutput::Stop(recording));
                }
            }
            ToServer::Owned { have, missing } => self.handle_owned(now, from, &have, &missing),
            ToServer::NoCopy { recordings } => self.handle_no_copy(from, &recordings),
        }
    }

    fn handle_event(&mut self, now: Instant, from: &WorkerId, event: CaptureEvent) {
        match event {
            CaptureEvent::Ready { recording, part, streams } => self.handle_ready(from, recording, part, streams),
            CaptureEvent::Refused { recording, part, reason } => {
                self.handle_refused(now, from, recording, part, reason);
            }
            CaptureEvent::Promoted { recording, part, streams } => {
                self.handle_promoted(from, recording, part, streams);
            }
            CaptureEvent::MediaHeard { recording } => {
                self.tell_of(from, recording, CaptureEvent::MediaHeard { recording });
            }
            CaptureEvent::MediaSilent { recording } => {
                self.tell_of(from, recording, CaptureEvent::MediaSilent { recording });
            }
            CaptureEvent::Died { recording } => self.tell_of(from, recording, CaptureEvent::Died { recording }),
            // These are said here, and not by workers.
            CaptureEvent::Lost { .. } | CaptureEvent::Returned { .. } => {}
        }
    }

    fn tell_of(&mut self, from: &WorkerId, recording: RecordingId, event: CaptureEvent) {
        if self.places.get(&recording).is_some_and(|place| place.worker == *from) {
            self.tell(event);
        }
    }

    fn handle_ready(&mut self, from: &WorkerId, recording: RecordingId, part: u32, streams: Vec<AssignedStream>) {
        let Some(place) = self.places.get_mut(&recording) else { return };
        if place.worker != *from || place.part != part || matches!(place.state, State::Lost) {
            return;
        }
        place.streams.clone_from(&streams);
        if let State::Asked { .. } = std::mem::replace(&mut place.state, State::There) {
            self.set_deadline(recording, None);
            self.outputs.push_back(SwitchboardOutput::Placed { recording, part, worker: from.clone() });
        }
        self.tell(CaptureEvent::Ready { recording, part, streams });
    }

    fn handle_refused(
        &mut self,
        now: Instant,
        from: &WorkerId,
        recording: RecordingId,
        part: u32,
        reason: RefuseReason,
    ) {
        let Some(place) = self.places.get_mut(&recording) else { return };
        if place.worker != *from || place.part != part {
            return;
        }
        match std::mem::replace(&mut place.state, State::Lost) {
            State::Asked { command, serial, mut tried, pinned } => {
                self.directory.withdraw(from, serial);
                if pinned {
                    self.refuse(recording, reason);
                    return;
                }
                tried.push(from.clone());
                self.ask(now, recording, command, tried, None, reason);
            }
            // A change: the recording goes on as it was.
            state @ (State::There | State::Searched { .. } | State::Copied { .. } | State::Lost) => {
                place.state = state;
                self.tell(CaptureEvent::Refused { recording, part, reason });
            }
        }
    }

    /// A worker can be reached: it is asked what it has of ours.
    pub fn handle_up(&mut self, worker: WorkerId, site: &str) {
        self.directory.up(worker.clone(), site);
        // Its part, or the one that it had when it was lost and that may go on with its sockets.
        let part = |place: &Place| {
            let is_current = match place.state {
                State::There | State::Asked { .. } => place.worker == worker,
                State::Searched { .. } => true,
                State::Copied { .. } | State::Lost => false,
            };
            let home = || place.homes.iter().rev().find(|home| home.worker == worker).map(|home| home.part);
            if is_current { Some(place.part) } else { home() }
        };
        let owned = |(id, place): (&RecordingId, &Place)| {
            Some(Owned { recording: *id, part: part(place)?, epoch: place.epoch })
        };
        let mut recordings: Vec<Owned> = self.places.iter().filter_map(owned).collect();
        recordings.sort_by_key(|owned| owned.recording);
        let message = ToWorker::Own { recordings, run: self.run, all: true };
        self.outputs.push_back(SwitchboardOutput::Send { to: worker, message });
    }

    /// The link to a worker is another one now; that it is up follows, and then it is asked what it has. What it was asked for and
    /// has not answered is lost: a worker that was started anew may have begun it in its life before.
    pub fn handle_replaced(&mut self, now: Instant, worker: &WorkerId) {
        self.directory.down(worker);
        self.lose_all(now, |place| place.worker == *worker && matches!(place.state, State::Asked { .. }));
    }

    /// A worker is gone, with what it had.
    pub fn handle_down(&mut self, now: Instant, worker: &WorkerId) {
        self.directory.down(worker);
        self.lose_all(now, |place| {
            place.worker == *worker && matches!(place.state, State::There | State::Asked { .. })
        });
        let asked = |place: &Place| matches!(&place.state, State::Copied { asked, .. } if asked.contains(worker));
        let without: Vec<Owned> =
            self.places.iter().filter(|(_, place)| asked(place)).map(|(id, place)| place.owned(*id)).collect();
        self.handle_no_copy(worker, &without);
        self.not_with(now, worker, |_| true);
    }

    /// Some that are searched are not with a worker. Those that nobody has are lost at once.
    fn not_with(&mut self, now: Instant, worker: &WorkerId, is_meant: impl Fn(RecordingId) -> bool) {
        for (_, place) in self.places.iter_mut().filter(|(id, _)| is_meant(**id)) {
            if let State::Searched { asked, .. } = &mut place.state {
                asked.retain(|asked| asked != worker);
            }
        }
        self.lose_all(now, |place| matches!(&place.state, State::Searched { asked, .. } if asked.is_empty()));
    }

    /// In order, so that calls that came first are moved first.
    fn lose_all(&mut self, now: Instant, is_lost: impl Fn(&Place) -> bool) {
        let mut lost: Vec<RecordingId> =
            self.places.iter().filter(|(_, place)| is_lost(place)).map(|(id, _)| *id).collect();
        lost.sort();
        self.look_for_copies(now, lost);
    }

    /// Nobody has these any more, unless as a copy.
    fn look_for_copies(&mut self, now: Instant, recordings: Vec<RecordingId>) {
        let asked = if self.mirrors { self.directory.workers() } else { Vec::new() };
        let mut sought = Vec::new();
        for recording in recordings {
            let Some(place) = self.places.get_mut(&recording) else { continue };
            let kept = match &mut place.state {
                State::There => Vec::new(),
                State::Searched { kept, .. } => std::mem::take(kept),
                State::Asked { .. } | State::Copied { .. } | State::Lost => {
                    self.lose(recording);
                    continue;
                }
            };
            if asked.is_empty() {
                self.lose(recording);
                continue;
            }
            place.state = State::Copied { asked: asked.clone(), kept };
            sought.push(place.owned(recording));
            self.set_deadline(recording, Some(now + PROMOTION));
        }
        if sought.is_empty() {
            return;
        }
        for to in asked {
            self.outputs.push_back(if self.own.as_ref() == Some(&to) {
                SwitchboardOutput::Promote(sought.clone())
            } else {
                SwitchboardOutput::Send { to, message: ToWorker::Promote { recordings: sought.clone() } }
            });
        }
    }

    /// The worker of this node has no copy of these.
    pub fn no_local_copy(&mut self, recordings: &[Owned]) {
        if let Some(own) = self.own.clone() {
            self.handle_no_copy(&own, recordings);
        }
    }

    fn handle_no_copy(&mut self, from: &WorkerId, recordings: &[Owned]) {
        for owned in recordings {
            let Some(place) = self.places.get_mut(&owned.recording) else { continue };
            let State::Copied { asked, .. } = &mut place.state else { continue };
            asked.retain(|worker| worker != from);
            if asked.is_empty() {
                self.lose_for_good(owned.recording);
            }
        }
    }

    /// There is no copy. The worker that had it may be back already.
    fn lose_for_good(&mut self, recording: RecordingId) {
        self.lose(recording);
        let back = |place: &Place| place.homes.iter().any(|home| self.directory.is_up(&home.worker));
        if self.places.get(&recording).is_some_and(back) {
            self.tell(CaptureEvent::Returned { recording });
        }
    }

    /// A copy goes on as the recording.
    fn handle_promoted(&mut self, from: &WorkerId, recording: RecordingId, part: u32, streams: Vec<AssignedStream>) {
        let Some(place) = self.places.get_mut(&recording).filter(|place| place.part == part || place.part == 0) else {
            return;
        };
        let State::Copied { kept, .. } = &mut place.state else { return };
        let kept = std::mem::take(kept);
        // What it copied is the same part: the first worker has nothing that could go on.
        (place.worker, place.part, place.state) = (from.clone(), part, State::There);
        place.streams.clone_from(&streams);
        self.set_deadline(recording, None);
        self.tell(CaptureEvent::Promoted { recording, part, streams });
        for command in kept {
            self.pass(recording, command);
        }
    }

    fn lose(&mut self, recording: RecordingId) {
        let Some(place) = self.places.get_mut(&recording) else { return };
        let (worker, part, streams) = (place.worker.clone(), place.part, std::mem::take(&mut place.streams));
        if !streams.is_empty() {
            if place.homes.len() >= MOST_HOMES {
                place.homes.pop_front();
            }
            place.homes.push_back(Home { worker, part, streams });
        }
        place.state = State::Lost;
        // Adopted, and found nowhere: whoever has that part tells of it when it is back, and the books wait for it.
        let unseen = part > 0 && place.worker.as_str().is_empty();
        self.lost += 1;
        self.set_deadline(recording, None);
        if unseen {
            self.outputs.push_back(SwitchboardOutput::Placed { recording, part, worker: WorkerId::new("") });
        }
        self.tell(CaptureEvent::Lost { recording, part });
    }

    /// A worker says what it has of ours.
    fn handle_owned(&mut self, now: Instant, from: &WorkerId, have: &[Owned], missing: &[Owned]) {
        for owned in have {
            let Some(place) = self.places.get_mut(&owned.recording) else { continue };
            let State::Searched { kept, .. } = &mut place.state else { continue };
            let kept = std::mem::take(kept);
            (place.worker, place.part, place.state) = (from.clone(), owned.part, State::There);
            let (recording, part) = (owned.recording, owned.part);
            self.outputs.push_back(SwitchboardOutput::Placed { recording, part, worker: from.clone() });
            self.set_deadline(owned.recording, None);
            for command in kept {
                self.pass(owned.recording, command);
            }
        }
        for owned in missing {
            let Some(place) = self.places.get(&owned.recording) else { continue };
            if place.worker != *from || place.part != owned.part {
                continue;
            }
            match &place.state {
                State::There | State::Asked { .. } => self.look_for_copies(now, vec![owned.recording]),
                State::Searched { .. } | State::Copied { .. } | State::Lost => {}
            }
        }
        self.not_with(now, from, |id| missing.iter().any(|owned| owned.recording == id));
        // Also while the next part is on its way to be taken elsewhere: the SRS knows whether it needs to hear of it.
        let is_home = |place: &Place| {
            let is_elsewhere = match place.state {
                State::Searched { .. } | State::Copied { .. } => false,
                State::Lost => true,
                State::Asked { .. } | State::There => place.worker != *from,
            };
            is_elsewhere && place.homes.iter().any(|home| home.worker == *from)
        };
        let mut back: Vec<RecordingId> =
            self.places.iter().filter(|(_, place)| is_home(place)).map(|(id, _)| *id).collect();
        back.sort();
        for recording in back {
            self.tell(CaptureEvent::Returned { recording });
        }
    }

    /// This node has the calls of a dead one: their recordings are searched. `part` 0 where it is not known.
    pub fn adopt(&mut self, now: Instant, recordings: &[Owned]) {
        let asked = self.directory.workers();
        for owned in recordings {
            let place = Place {
                worker: WorkerId::new(""),
                part: owned.part,
                epoch: owned.epoch,
                streams: Vec::new(),
                state: State::Searched { kept: Vec::new(), asked: asked.clone() },
                homes: VecDeque::new(),
            };
            self.places.insert(owned.recording, place);
            self.set_deadline(owned.recording, Some(now + SEARCH));
        }
        for to in asked.into_iter().filter(|worker| self.own.as_ref() != Some(worker)) {
            let message = ToWorker::Own { recordings: recordings.to_vec(), run: self.run, all: false };
            self.outputs.push_back(SwitchboardOutput::Send { to, message });
        }
    }

    /// Some of those that were adopted are with the worker of this node, and the others are not.
    pub fn found_here(&mut self, now: Instant, have: &[Owned], missing: &[Owned]) {
        if let Some(own) = self.own.clone() {
            self.handle_owned(now, &own, have, missing);
        }
    }

    /// Another node has these calls now: they are forgotten here, and their worker hears nothing of it.
    pub fn forget(&mut self, recordings: &[RecordingId]) {
        for recording in recordings {
            self.set_deadline(*recording, None);
            self.places.remove(recording);
        }
    }

    /// The SRS has ended a recording.
    pub fn ended(&mut self, recording: RecordingId) {
        if self.places.get(&recording).is_some_and(|place| matches!(place.state, State::Lost)) {
            self.places.remove(&recording);
        }
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(recording) = self.deadlines.pop_due(now) {
            let Some(place) = self.places.get_mut(&recording) else { continue };
            match &place.state {
                State::Asked { serial, .. } => {
                    let (worker, serial) = (place.worker.clone(), *serial);
                    self.directory.withdraw(&worker, serial);
                    self.directory.silent(now, &worker);
                    // It may have begun it all the same.
                    self.pass(recording, Command::Release { recording, cause: ReleaseCause::NotMoved });
                    self.lose(recording);
                }
                State::Searched { .. } => self.look_for_copies(now, vec![recording]),
                State::Copied { .. } => self.lose_for_good(recording),
                State::There | State::Lost => {}
            }
        }
    }

    fn set_deadline(&mut self, recording: RecordingId, at: Option<Instant>) {
        match at {
            Some(at) => self.deadlines.set(recording, at),
            None => self.deadlines.cancel(&recording),
        }
    }

    fn tell(&mut self, event: CaptureEvent) {
        self.outputs.push_back(SwitchboardOutput::Tell(event));
    }
}
