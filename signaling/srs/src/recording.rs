//! One recording and the dialogs that feed it.
//!
//! Most recordings have one dialog, a *leg*, with all its m-lines. A pair of
//! dialogs with one end of a call each makes one recording of two legs; a dialog
//! with several communication sessions feeds several recordings. Capture knows
//! streams by one number: leg times [`LINES`] plus m-line, so that a recording
//! with one dialog counts as its session description does.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use ferric_sip::sdp::MAX_MEDIA;

use crate::maker::End;
use crate::port::{AssignedStream, ParticipantInfo, RecordingId, SessionInfo, StreamSpec};
use crate::session::{Session, SessionKey};

/// Numbers of streams that a leg has.
const LINES: usize = MAX_MEDIA;
/// Participants of one recording.
const MAX_PARTIES: usize = 256;
/// Correlators of one recording.
const MAX_CORRELATORS: usize = 96;

/// A dialog's part in a recording.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) session: SessionKey,
    pub(crate) number: usize,
    pub(crate) end: Option<End>,
    /// Its m-lines that belong to this recording.
    pub(crate) lines: Vec<usize>,
    /// What was known of the call when the dialog ended.
    pub(crate) over: Option<SessionInfo>,
}

/// How far a recording is whose worker was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Capture was asked for the next part.
    Asked,
    /// No worker took it; it is asked again.
    Waiting,
    /// The next part is there; the dialogs are told where.
    Moving,
    /// No dialog moves, or there is none: only the old worker can go on, or a new offer of the peer's.
    Stranded,
}

/// A recording on its way from a lost worker to the next.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) step: Step,
    /// The last part that had media.
    pub(crate) from: u32,
    /// When its worker was lost, milliseconds since 1970.
    pub(crate) lost_unix_ms: u64,
    /// The recording is given up then.
    pub(crate) until: Instant,
    /// Nothing was begun under the number of the last part: it can be used again.
    pub(crate) unused: bool,
    /// The SRC did not move: without its old sockets it is of no use.
    pub(crate) refused: bool,
    /// The old worker is back.
    pub(crate) returned: bool,
}

impl Takeover {
    /// A part that had media was lost at this moment.
    pub(crate) fn new(from: u32, lost_unix_ms: u64, until: Instant) -> Takeover {
        Takeover { step: Step::Stranded, from, lost_unix_ms, until, unused: false, refused: false, returned: false }
    }
}

/// What users see as one recording; capture writes one part of it at a time.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) legs: Vec<Leg>,
    /// Questions that capture has not answered yet, with the session that waits for each.
    pub(crate) questions: VecDeque<Option<SessionKey>>,
    /// Capture took it.
    pub(crate) begun: bool,
    /// The part that capture was asked for last.
    pub(crate) part: u32,
    /// Its worker was lost, and not every dialog sends to another yet.
    pub(crate) takeover: Option<Takeover>,
    /// Sessions that wait until capture has taken it, with streams that it was not told of yet.
    pub(crate) later: Vec<SessionKey>,
    /// Streams went while nobody had it.
    pub(crate) outdated: bool,
    /// As capture said last.
    pub(crate) assigned: Vec<AssignedStream>,
    /// By which a second dialog finds it.
    pub(crate) pair: Option<(String, String)>,
    /// Channels of all streams that it has had, fixed when they came.
    channels: HashMap<usize, u8>,
}

impl Recording {
    pub(crate) fn new() -> Recording {
        Recording {
            legs: Vec::new(),
            questions: VecDeque::new(),
            begun: false,
            part: 1,
            takeover: None,
            later: Vec::new(),
            outdated: false,
            assigned: Vec::new(),
            pair: None,
            channels: HashMap::new(),
        }
    }

    /// True while a worker has it.
    pub(crate) fn is_held(&self) -> bool {
        self.begun && self.takeover.as_ref().is_none_or(|takeover| takeover.step == Step::Moving)
    }

    /// True while no worker has it, and none was asked.
    pub(crate) fn is_adrift(&self) -> bool {
        self.takeover.as_ref().is_some_and(|takeover| matches!(takeover.step, Step::Waiting | Step::Stranded))
    }

    /// One that another node began.
    pub(crate) fn revived(
        part: u32,
        legs: Vec<Leg>,
        assigned: Vec<AssignedStream>,
        channels: Vec<(usize, u8)>,
    ) -> Recording {
        Recording { part, legs, assigned, begun: true, channels: channels.into_iter().collect(), ..Recording::new() }
    }

    /// The channels of all streams that it has had, by number of stream.
    pub(crate) fn channels(&self) -> Vec<(usize, u8)> {
        let mut all: Vec<(usize, u8)> = self.channels.iter().map(|(index, channel)| (*index, *channel)).collect();
        all.sort_unstable();
        all
    }

    /// Adds a dialog with its lines.
    pub(crate) fn join(&mut self, session: SessionKey, end: Option<End>, lines: Vec<usize>) {
        let number = self.legs.len();
        self.legs.push(Leg { session, number, end, lines, over: None });
    }

    /// The part of a dialog that still runs.
    pub(crate) fn leg(&self, session: SessionKey) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.session == session && leg.over.is_none())
    }

    /// The part of a dialog that still runs.
    pub(crate) fn leg_mut(&mut self, session: SessionKey) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.session == session && leg.over.is_none())
    }

    /// Dialogs that still run.
    pub(crate) fn sessions(&self) -> Vec<SessionKey> {
        self.legs.iter().filter(|leg| leg.over.is_none()).map(|leg| leg.session).collect()
    }

    /// Capture's number for an m-line of a dialog.
    pub(crate) fn index(&self, session: SessionKey, line: usize) -> Option<usize> {
        self.leg(session).map(|leg| leg.number * LINES + line)
    }

    /// The sockets of a dialog's lines, by m-line.
    pub(crate) fn assigned_to(&self, session: SessionKey) -> Vec<AssignedStream> {
        let Some(leg) = self.leg(session) else { return Vec::new() };
        let own = |line: &usize| {
            let index = leg.number * LINES + line;
            let found = self.assigned.iter().find(|stream| stream.index == index)?;
            Some(AssignedStream { index: *line, address: found.address })
        };
        leg.lines.iter().filter_map(own).collect()
    }

    /// Where its dialogs send, under capture's numbers.
    pub(crate) fn told(&self, sessions: &HashMap<SessionKey, Session>) -> Vec<AssignedStream> {
        let of_leg = |leg: &Leg| {
            let told = sessions.get(&leg.session).map(|session| session.told.as_slice()).unwrap_or_default();
            let own = told.iter().filter(|stream| leg.lines.contains(&stream.index));
            own.map(|stream| AssignedStream { index: leg.number * LINES + stream.index, ..*stream }).collect::<Vec<_>>()
        };
        self.legs.iter().filter(|leg| leg.over.is_none()).flat_map(of_leg).collect()
    }

    /// All its streams as capture should have them. The first labelled stream goes left, all others right; of a
    /// pair of dialogs the near end goes left. What has a channel keeps it.
    pub(crate) fn streams(&mut self, sessions: &HashMap<SessionKey, Session>) -> Vec<StreamSpec> {
        let mut streams = Vec::new();
        let mut ends = Vec::new();
        for leg in self.legs.iter().filter(|leg| leg.over.is_none()) {
            let Some(session) = sessions.get(&leg.session) else { continue };
            for stream in session.streams.iter().filter(|stream| leg.lines.contains(&stream.index)) {
                let mut stream = stream.clone();
                stream.index += leg.number * LINES;
                ends.push(leg.end);
                streams.push(stream);
            }
        }
        let mut left_is_free = !streams.iter().any(|stream| self.channels.get(&stream.index) == Some(&0));
        let is_new = |stream: &StreamSpec| !self.channels.contains_key(&stream.index);
        let labelled = streams.iter().find(|stream| is_new(stream) && stream.label.is_some());
        let first = labelled.or_else(|| streams.iter().find(|stream| is_new(stream))).map(|stream| stream.index);
        for (stream, end) in streams.iter_mut().zip(ends) {
            stream.channel = *self.channels.entry(stream.index).or_insert_with(|| match end {
                Some(End::Near) => 0,
                Some(End::Far) => 1,
                None => u8::from(!(first == Some(stream.index) && std::mem::take(&mut left_is_free))),
            });
        }
        streams
    }

    /// What is known of the call: of the first dialog, with what the others add.
    pub(crate) fn info(&self, id: RecordingId, sessions: &HashMap<SessionKey, Session>) -> Option<SessionInfo> {
        let of_leg = |leg: &Leg| match &leg.over {
            Some(info) => Some(info.clone()),
            None => sessions.get(&leg.session).map(|session| leg_info(leg, id, session, &self.channels)),
        };
        self.legs.iter().filter_map(of_leg).reduce(merge)
    }

    /// A dialog ended: what was known of the call stays.
    pub(crate) fn leave(&mut self, id: RecordingId, session: &Session, key: SessionKey, unix_ms: u64) {
        let channels = self.channels.clone();
        let Some(leg) = self.leg_mut(key) else { return };
        let mut info = leg_info(leg, id, session, &channels);
        for party in &mut info.participants {
            party.gone_unix_ms.get_or_insert(unix_ms);
        }
        leg.over = Some(info);
        leg.lines.clear();
        self.later.retain(|later| *later != key);
    }
}

/// What one dialog knows of the call, under capture's numbers. Where it feeds other recordings too, only the parties
/// count whose voice or communication session is in this one.
fn leg_info(leg: &Leg, id: RecordingId, session: &Session, channels: &HashMap<usize, u8>) -> SessionInfo {
    let mut info = session.info.clone();
    if session.recordings.len() > 1 {
        info.participants.retain(|party| session.takes_part(party, id, &leg.lines));
    }
    info.related.extend(session.recordings.iter().copied().filter(|other| *other != id));
    for party in &mut info.participants {
        party.channel = party.stream.and_then(|line| channels.get(&(leg.number * LINES + line)).copied());
        party.stream = party.stream.filter(|line| leg.lines.contains(line)).map(|line| leg.number * LINES + line);
    }
    info
}

/// Adds what another dialog of the same call knows.
fn merge(mut whole: SessionInfo, other: SessionInfo) -> SessionInfo {
    if whole.correlators.len() < MAX_CORRELATORS && other.sip_call_id != whole.sip_call_id {
        whole.correlators.push(("Call-ID".to_owned(), other.sip_call_id));
    }
    for pair in other.correlators {
        if whole.correlators.len() < MAX_CORRELATORS && !whole.correlators.contains(&pair) {
            whole.correlators.push(pair);
        }
    }
    for party in other.participants {
        merge_party(&mut whole.participants, party);
    }
    whole.documents.extend(other.documents);
    for warning in other.warnings {
        if !whole.warnings.contains(&warning) {
            whole.warnings.push(warning);
        }
    }
    for related in other.related {
        if !whole.related.contains(&related) {
            whole.related.push(related);
        }
    }
    whole
}

/// Both dialogs of a pair name both parties, each knows the stream of one.
fn merge_party(known: &mut Vec<ParticipantInfo>, party: ParticipantInfo) {
    let room = known.len() < MAX_PARTIES;
    match known.iter_mut().find(|have| have.id == party.id && have.aor == party.aor) {
        Some(have) => {
            have.stream = have.stream.or(party.stream);
            have.channel = have.channel.or(party.channel);
            have.name = have.name.take().or(party.name);
            have.seen_unix_ms = have.seen_unix_ms.min(party.seen_unix_ms);
            have.gone_unix_ms = have.gone_unix_ms.zip(party.gone_unix_ms).map(|(a, b)| a.max(b));
        }
        None if room => known.push(party),
        None => {}
    }
}
