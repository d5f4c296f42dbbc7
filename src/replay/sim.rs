//! The proxy's server groups at work on the times of the log.
//!
//! What [`ferric_proxy::group::Groups`] does is not imitated: it is run. What stands around it in a node is played here, each with
//! the rule of the proxy: the first answer is waited for as long as the group says, then the next element is asked; who waits for
//! an element that goes down moves on at once; probes are answered as the element would.
//!
//! An element that dies says nothing any more (no ICMP, no reset): the slowest way to find out. A call that has rung there
//! is lost, one that was not heard of yet goes to the next element.
//!
//! Time is an `Instant` counted from the first line. Where nothing happens for long it is skipped, and probes with it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_proxy::ProxyConfig;
use ferric_proxy::group::{ElementId, GroupConfig, Groups, Outcome};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::behaviour::{Behaviour, Fate};
use super::members::Members;
use super::names::{Name, Names};
use super::plan::Plan;
use super::record::{Goal, How, Kind, Record};
use super::report::Report;
use super::source::Read;
use super::tally::{End, Labels, Place, Reason, Tally, timestamp};
use super::{ReplayError, Settings};

pub(super) use super::members::BY_DNS;

/// A call is remembered as long as by the proxy.
const LONGEST_CALL: Duration = Duration::from_secs(4 * 3_600);
/// The first sign of an INVITE that is not answered at once (100, RFC 3261 17.2.1 has 200 ms).
const FIRST_SIGN: Duration = Duration::from_millis(100);
/// No answer is waited for longer.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);
/// Elements asked for one request, as in the proxy.
const MOST_TRIES: usize = 10;
/// A gap of the log is played in full up to this length.
const GAP: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A provisional response.
    Sign { request: u64, stamp: u32 },
    /// A final one.
    Answer { request: u64, stamp: u32, status: u16 },
    /// Nothing came in time.
    NoAnswer { request: u64, stamp: u32 },
    /// A probe was not answered.
    NoProbe(ElementId),
}

/// A request under way.
#[derive(Debug)]
struct Open {
    record: Record,
    invite: bool,
    group: Arc<str>,
    tried: Vec<ElementId>,
    /// The attempt that counts; events of earlier ones are void.
    stamp: u32,
    at: Option<(ElementId, usize, Arc<GroupConfig>)>,
    sent: Instant,
    heard: bool,
    /// What the last one said: 0 for nothing.
    last: Option<u16>,
}

/// The stateful half of a configuration.
pub(super) struct Sim {
    groups: Groups,
    configs: Vec<GroupConfig>,
    record_route: bool,
    /// Calls are seen to end: limits of calls at once hold.
    sees_ends: bool,
    members: Members,
    behaviour: Behaviour,
    rng: SmallRng,
    begin: Instant,
    now: Instant,
    /// What the clock showed at `begin`.
    epoch: Option<Duration>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    open: HashMap<u64, Open>,
    /// Attempts without a sign of life, by element.
    waiting: BTreeSet<(usize, u64)>,
    next: u64,
    down: Vec<(super::Down, Vec<usize>)>,
    switches: VecDeque<(Duration, bool, Vec<usize>)>,
    rate: (Option<Instant>, u32),
    calls_per_second: Option<u32>,
    max_open: usize,
    labels: Labels,
    recorder: Name,
    tally: Tally,
    notes: Vec<String>,
}

impl Sim {
    pub(super) fn new(config: &ProxyConfig, settings: &Settings, names: &mut Names) -> Result<Sim, ReplayError> {
        let labels = Labels {
            nothing: names.of(""),
            refused: names.of("refused"),
            redirected: names.of("redirected"),
            elsewhere: names.of("elsewhere"),
        };
        let mut tally = Tally::new(labels);
        let (members, configs, notes) = Members::new(config, names);
        members.places().for_each(|place| tally.know(place));
        let down = settings.down.iter().map(|down| Ok((down.clone(), members.find(&down.elements(config)?))));
        let begin = Instant::now();
        let mut sim = Sim {
            groups: Groups::new(LONGEST_CALL),
            down: down.collect::<Result<_, ReplayError>>()?,
            configs,
            record_route: config.record_route,
            sees_ends: false,
            members,
            behaviour: Behaviour::default(),
            rng: SmallRng::seed_from_u64(settings.seed),
            begin,
            now: begin,
            epoch: None,
            events: BinaryHeap::new(),
            order: 0,
            open: HashMap::new(),
            waiting: BTreeSet::new(),
            next: 0,
            switches: VecDeque::new(),
            rate: (None, 0),
            calls_per_second: config.calls_per_second,
            max_open: config.max_open,
            labels,
            recorder: names.of(super::plan::RECORDER),
            tally,
            notes,
        };
        sim.apply();
        Ok(sim)
    }

    /// Limits of calls at once wait until the log shows that it knows the ends of calls.
    fn apply(&mut self) {
        let mut configs = self.configs.clone();
        if !self.sees_ends {
            configs.iter_mut().flat_map(|group| &mut group.elements).for_each(|element| element.max_calls = None);
        }
        self.groups.apply(self.now, configs, self.record_route);
        self.members.resolve(&mut self.groups);
    }

    /// Takes the next line.
    pub(super) fn handle(&mut self, record: Record) {
        if self.epoch.is_none() {
            self.epoch = Some(record.at);
            self.plan_switches(record.at);
        }
        self.run_to(record.at);
        self.tally.line(record.at);
        match record.kind {
            Kind::Initial { invite } => self.begin(record, invite),
            Kind::Bye => {
                if !self.sees_ends && self.record_route {
                    self.sees_ends = true;
                    self.apply();
                }
                self.groups.end_call(record.call);
            }
            Kind::Within => {}
        }
        self.hear();
    }

    fn plan_switches(&mut self, first: Duration) {
        let mut switches = Vec::new();
        for (down, members) in &self.down {
            let (from, to) = down.span(first);
            switches.push((from, true, members.clone()));
            switches.extend(to.map(|to| (to, false, members.clone())));
            let until = to.map_or("the end".to_owned(), |to| timestamp(to).to_string());
            self.notes.push(format!("{}: dead from {} to {until}", down.text(), timestamp(from)));
        }
        switches.sort_by_key(|(at, dies, _)| (*at, *dies));
        self.switches = switches.into();
    }

    fn clock(&self) -> Duration {
        self.epoch.unwrap_or_default() + self.now.saturating_duration_since(self.begin)
    }

    /// Lets everything happen that is due before that time of the log.
    fn run_to(&mut self, at: Duration) {
        while let Some((due, dies, members)) = self.switches.pop_front() {
            if due > at {
                self.switches.push_front((due, dies, members));
                break;
            }
            self.advance(due);
            for member in members {
                if dies { self.kill(member) } else { self.members.set_dead(member, false) }
            }
            self.hear();
        }
        self.advance(at);
    }

    fn advance(&mut self, at: Duration) {
        loop {
            let left = at.saturating_sub(self.clock());
            if left <= GAP {
                return self.play(self.now + left);
            }
            self.play(self.now + GAP);
            if self.open.is_empty() {
                // Nothing is under way: the rest of the gap passes without probes.
                self.epoch = Some(self.epoch.unwrap_or_default() + (left - GAP));
            }
        }
    }

    fn play(&mut self, until: Instant) {
        loop {
            let event = self.events.peek().map(|Reverse((due, ..))| *due);
            let probe = self.groups.poll_timeout();
            let Some(due) = [event, probe].into_iter().flatten().min().filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            if event == Some(due) {
                if let Some(Reverse((.., event))) = self.events.pop() {
                    self.happen(event);
                }
            } else {
                self.probe();
            }
            self.hear();
        }
        self.now = self.now.max(until);
    }

    fn probe(&mut self) {
        while let Some((id, _, timeout)) = self.groups.poll_probe(self.now) {
            let Some(member) = self.members.of(&self.groups, id) else { continue };
            let status = if self.members.is_dead(member) {
                None
            } else {
                self.behaviour.probe(self.members.element(member), &mut self.rng)
            };
            match status {
                Some(status) => {
                    if self.groups.note_probe(self.now, id, Some(status)) {
                        self.leave(member);
                    }
                }
                None => self.after(timeout, Event::NoProbe(id)),
            }
        }
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now + time, self.order, event)));
    }

    fn begin(&mut self, record: Record, invite: bool) {
        self.tally.before(&record);
        self.behaviour.note(&record);
        let at = self.clock();
        match record.goal {
            Goal::Refused(label, status) => {
                let label = if record.how == How::Request {
                    label
                } else if status < 400 {
                    self.labels.redirected
                } else {
                    self.labels.refused
                };
                self.tally.end(record, Some((self.labels.nothing, label)), End::Status(status));
            }
            Goal::Elsewhere(to) if to == self.recorder || !self.is_too_much(invite) => {
                let place = (self.labels.nothing, to);
                let is_known = record.how != How::Here || record.was_route == record.new_route;
                let status = if is_known { record.status } else { 200 };
                self.tally.sent(place, at);
                self.tally.end(record, Some(place), End::Status(status));
            }
            Goal::Group(group) if !self.is_too_much(invite) => {
                let Some(name) = self.configs.get(group).map(|group| Arc::clone(&group.name)) else { return };
                self.next += 1;
                let (now, id) = (self.now, self.next);
                let open = Open {
                    record,
                    invite,
                    group: name,
                    tried: Vec::new(),
                    stamp: 0,
                    at: None,
                    sent: now,
                    heard: false,
                    last: None,
                };
                self.ask(id, open);
            }
            Goal::Elsewhere(_) | Goal::Group(_) => self.tally.end(record, None, End::Failed(Reason::Overload)),
        }
    }

    /// The limits over all, as the proxy counts.
    fn is_too_much(&mut self, invite: bool) -> bool {
        if self.open.len() >= self.max_open {
            return true;
        }
        let Some(most) = self.calls_per_second.filter(|_| invite) else { return false };
        let (from, count) = &mut self.rate;
        if from.is_none_or(|from| self.now.saturating_duration_since(from) >= SECOND) {
            (*from, *count) = (Some(self.now), 0);
        }
        *count += 1;
        *count > most
    }

    /// Sends a request to the next element, or ends it.
    fn ask(&mut self, id: u64, mut open: Open) {
        let picked = if open.tried.len() < MOST_TRIES {
            self.groups.pick(self.now, &open.group, &open.tried, open.record.call, open.invite, &mut self.rng)
        } else {
            None
        };
        let found = picked.and_then(|picked| Some((self.members.of(&self.groups, picked.element)?, picked)));
        let Some((member, picked)) = found else {
            let end = match open.last {
                None => End::Failed(Reason::NoElement),
                Some(0) => End::Failed(Reason::NoAnswer),
                Some(status) => End::Status(status),
            };
            return self.over(open, end);
        };
        open.tried.push(picked.element);
        open.stamp += 1;
        (open.sent, open.heard) = (self.now, false);
        let timeout = picked.group.timeout;
        let at = self.clock();
        self.tally.sent(self.members.place(member), at);
        let fate = if self.members.is_dead(member) {
            Fate::Silence
        } else {
            let element = self.members.element(member);
            self.behaviour.fate(&open.record, element, &picked.group.failover_codes, &mut self.rng)
        };
        let stamp = open.stamp;
        match fate {
            Fate::Answer(status, after) if open.invite || after <= timeout => {
                if open.invite && after > FIRST_SIGN {
                    self.after(FIRST_SIGN.min(timeout / 2), Event::Sign { request: id, stamp });
                }
                self.after(after.min(LONGEST_ANSWER), Event::Answer { request: id, stamp, status });
            }
            Fate::Answer(..) | Fate::Silence => self.after(timeout, Event::NoAnswer { request: id, stamp }),
        }
        open.at = Some((picked.element, member, picked.group));
        self.waiting.insert((member, id));
        self.open.insert(id, open);
    }

    fn over(&mut self, open: Open, end: End) {
        let place: Option<Place> = open.at.as_ref().map(|(_, member, _)| self.members.place(*member));
        self.tally.end(open.record, place, end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Sign { request, stamp } => {
                if let Some(open) = self.open.get_mut(&request).filter(|open| open.stamp == stamp)
                    && let Some((element, member, _)) = &open.at
                {
                    open.heard = true;
                    self.waiting.remove(&(*member, request));
                    self.groups.note_alive(self.now, *element);
                }
            }
            Event::Answer { request, stamp, status } => self.answered(request, stamp, status),
            Event::NoAnswer { request, stamp } => {
                if self.open.get(&request).is_some_and(|open| open.stamp == stamp) {
                    self.silent(request);
                }
            }
            Event::NoProbe(id) => {
                if self.groups.note_probe(self.now, id, None)
                    && let Some(member) = self.members.of(&self.groups, id)
                {
                    self.leave(member);
                }
            }
        }
    }

    fn answered(&mut self, request: u64, stamp: u32, status: u16) {
        if self.open.get(&request).is_none_or(|open| open.stamp != stamp) {
            return;
        }
        let Some(mut open) = self.open.remove(&request) else { return };
        let Some((element, member, group)) = open.at.clone() else { return };
        self.waiting.remove(&(member, request));
        let went_down = self.groups.note_outcome(self.now, element, Outcome::Answered { status, retry_after: None });
        self.groups.release(element);
        if group.failover_codes.contains(&status) {
            open.last = Some(status);
            self.ask(request, open);
        } else {
            if open.invite && (200..300).contains(&status) {
                self.groups.begin_call(self.now, open.record.call, element);
            }
            self.over(open, End::Status(status));
        }
        if went_down {
            self.leave(member);
        }
    }

    /// Nothing was heard of an attempt: the next element.
    fn silent(&mut self, request: u64) {
        let Some(mut open) = self.open.remove(&request) else { return };
        let Some((element, member, _)) = open.at.clone() else { return };
        self.waiting.remove(&(member, request));
        self.tally.delayed(self.members.place(member), self.now.saturating_duration_since(open.sent));
        let went_down = self.groups.note_outcome(self.now, element, Outcome::Silence { sent: open.sent });
        self.groups.release(element);
        open.last = Some(0);
        self.ask(request, open);
        if went_down {
            self.leave(member);
        }
    }

    /// An element went down: whoever waits for a sign of it moves on.
    fn leave(&mut self, member: usize) {
        let waiting: Vec<u64> =
            self.waiting.range((member, 0)..=(member, u64::MAX)).map(|(_, request)| *request).collect();
        for request in waiting {
            self.silent(request);
        }
    }

    /// An element dies by the user's wish.
    fn kill(&mut self, member: usize) {
        self.members.set_dead(member, true);
        let there = |open: &Open| open.at.as_ref().is_some_and(|(_, at, _)| *at == member);
        let mut requests: Vec<u64> = self.open.iter().filter(|(_, open)| there(open)).map(|(id, _)| *id).collect();
        requests.sort_unstable();
        for request in requests {
            let Some(open) = self.open.get_mut(&request) else { continue };
            let Some((element, _, group)) = open.at.clone() else { continue };
            if open.heard {
                self.groups.release(element);
                if let Some(open) = self.open.remove(&request) {
                    self.over(open, End::Failed(Reason::Cut));
                }
                continue;
            }
            open.stamp += 1;
            let (stamp, left) = (open.stamp, (open.sent + group.timeout).saturating_duration_since(self.now));
            self.after(left, Event::NoAnswer { request, stamp });
        }
    }

    /// What the groups tell: who came and went.
    fn hear(&mut self) {
        while let Some(event) = self.groups.poll_event() {
            let clock = self.clock();
            if let Some((place, time)) = self.members.hear(&event, clock) {
                self.tally.down(place, time);
            }
        }
    }

    /// Lets what is under way come to its end, and counts.
    pub(super) fn finish(mut self, plan: &Plan, read: Read, notes: Vec<String>) -> Report {
        let last = self.tally.last();
        for (place, time) in self.members.still_down(last) {
            self.tally.down(place, time);
        }
        while !self.open.is_empty()
            && let Some(Reverse((due, ..))) = self.events.peek()
        {
            self.play(*due);
        }
        for (at, ..) in &self.switches {
            self.notes.push(format!("{} lies behind the end of the log: --down has no effect then", timestamp(*at)));
        }
        if self.record_route
            && !self.sees_ends
            && self.configs.iter().flat_map(|group| &group.elements).any(|element| element.max_calls.is_some())
        {
            self.notes.push("the log has no BYE, so that no call ends in it: max_calls was not judged".to_owned());
        }
        let unknown = self.members.not_in(&self.behaviour);
        if !unknown.is_empty() {
            self.notes.push(format!("not in the log, taken to be healthy: {}", unknown.join(", ")));
        }
        self.notes.extend(notes);
        self.tally.report(plan, read, self.notes)
    }
}
