//! Both ends against each other, over a network that is a queue.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::directory::{Directory, LoadReport, Policy, WorkerId};
use super::holder::{GRACE, Holder, HolderConfig, HolderOutput, recording_of};
use super::switchboard::{PATIENCE, PROMOTION, SEARCH, Switchboard, SwitchboardOutput};
use super::wire::{Owned, ToServer, ToWorker};
use crate::port::{
    AssignedStream, CaptureEvent, Command, Part, RecordingId, RefuseReason, ReleaseCause, SessionInfo, TakenStream,
};

const MAX_CALL: Duration = Duration::from_secs(3_600);

/// A worker's node: the holder, and a capture that does what it is told and keeps a list.
struct Node {
    holder: Holder,
    /// Recordings that run, with their port.
    running: BTreeMap<RecordingId, u16>,
    /// Recordings of others that are copied here.
    copies: Vec<RecordingId>,
    done: Vec<String>,
    refuses: Option<RefuseReason>,
    next_port: u16,
    /// It hears everything and does nothing.
    is_stuck: bool,
}

impl Node {
    fn new(first_port: u16) -> Node {
        Node {
            holder: Holder::new(HolderConfig { max_call: MAX_CALL }),
            running: BTreeMap::new(),
            copies: Vec::new(),
            done: Vec::new(),
            refuses: None,
            next_port: first_port,
            is_stuck: false,
        }
    }

    /// Goes on with the copies of these that it has.
    fn promote(&mut self, now: Instant, owner: &str, recordings: Vec<Owned>) {
        let (copied, without): (Vec<Owned>, Vec<Owned>) =
            recordings.into_iter().partition(|owned| self.copies.contains(&owned.recording));
        for owned in copied {
            self.copies.retain(|copy| *copy != owned.recording);
            self.running.insert(owned.recording, self.next_port);
            self.holder.promoted(now, owner, owned, Uuid::from_u128(77), streams(self.next_port));
            self.next_port += 2;
        }
        self.holder.no_copy(owner, without);
    }

    fn perform(&mut self, command: Command) -> Option<CaptureEvent> {
        self.done.push(match &command {
            Command::Assign { part, .. } => format!("assign {}", part.number),
            Command::Change { .. } => "change".to_owned(),
            Command::Info { .. } => "info".to_owned(),
            Command::Park { .. } => "park".to_owned(),
            Command::Release { cause, .. } => format!("release {}", cause.as_str()),
        });
        let recording = recording_of(&command);
        match command {
            Command::Assign { part, .. } => {
                if let Some(reason) = self.refuses {
                    return Some(CaptureEvent::Refused { recording, part: part.number, reason });
                }
                let port = part.restore.first().map_or(self.next_port, |stream| stream.address.port());
                self.next_port += 2;
                self.running.insert(recording, port);
                Some(CaptureEvent::Ready { recording, part: part.number, streams: streams(port) })
            }
            Command::Release { .. } => {
                self.running.remove(&recording);
                None
            }
            Command::Change { .. } | Command::Info { .. } | Command::Park { .. } => None,
        }
    }
}

fn streams(port: u16) -> Vec<AssignedStream> {
    vec![AssignedStream { index: 0, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }]
}

/// SRS nodes, workers, and what is on its way between them.
struct World {
    now: Instant,
    servers: BTreeMap<&'static str, Switchboard>,
    workers: BTreeMap<&'static str, Node>,
    /// Pairs that cannot reach each other.
    cut: Vec<(&'static str, &'static str)>,
    told: Vec<(&'static str, String)>,
    events: Vec<CaptureEvent>,
}

impl World {
    fn new(servers: &[&'static str], workers: &[&'static str]) -> World {
        let mut world = World {
            now: Instant::now(),
            servers: BTreeMap::new(),
            workers: BTreeMap::new(),
            cut: Vec::new(),
            told: Vec::new(),
            events: Vec::new(),
        };
        for server in servers {
            world.servers.insert(server, World::switchboard(server, 1));
        }
        for (at, worker) in workers.iter().enumerate() {
            world.workers.insert(worker, Node::new(40_000 + u16::try_from(at).unwrap() * 1_000));
        }
        for server in servers {
            for worker in workers {
                world.link(server, worker);
            }
        }
        world
    }

    fn switchboard(name: &str, run: u64) -> Switchboard {
        Switchboard::new(Directory::new(name, "east", Policy::LeastLoaded, 1_000), None, run)
    }

    fn link(&mut self, server: &'static str, worker: &'static str) {
        self.workers.get_mut(worker).unwrap().holder.handle_up(server);
        let load = self.load(worker, 0);
        let switchboard = self.servers.get_mut(server).unwrap();
        switchboard.handle_up(WorkerId::new(worker), "east");
        switchboard.handle_message(self.now, &WorkerId::new(worker), ToServer::Load { load });
        self.run();
    }

    fn unlink(&mut self, server: &'static str, worker: &'static str) {
        if let Some(node) = self.workers.get_mut(worker) {
            node.holder.handle_down(server);
        }
        if let Some(switchboard) = self.servers.get_mut(server) {
            switchboard.handle_down(self.now, &WorkerId::new(worker));
        }
        self.run();
    }

    fn load(&self, worker: &str, number: u64) -> LoadReport {
        let node = &self.workers[worker];
        let calls = u32::try_from(node.running.len()).unwrap();
        LoadReport { number, calls, max_calls: 100, seen: node.holder.seen().clone(), ..LoadReport::default() }
    }

    /// Delivers until nothing is on its way.
    fn run(&mut self) {
        let mut to_workers: VecDeque<(&'static str, String, Vec<u8>)> = VecDeque::new();
        let mut to_servers: VecDeque<(&'static str, String, Vec<u8>)> = VecDeque::new();
        loop {
            for (name, server) in &mut self.servers {
                while let Some(output) = server.poll_output() {
                    match output {
                        SwitchboardOutput::Send { to, message } => {
                            to_workers.push_back((name, to.to_string(), serde_json::to_vec(&message).unwrap()));
                        }
                        SwitchboardOutput::Tell(event) => {
                            self.told.push((name, word(&event)));
                            self.events.push(event);
                        }
                        SwitchboardOutput::Stop(_) => self.told.push((name, "stop".to_owned())),
                        SwitchboardOutput::Placed { worker, .. } => self.told.push((name, format!("placed {worker}"))),
                        output @ (SwitchboardOutput::Local(_) | SwitchboardOutput::Promote(_)) => {
                            panic!("this node has no worker: {output:?}")
                        }
                    }
                }
            }
            for (name, node) in &mut self.workers {
                while let Some(output) = node.holder.poll_output() {
                    match output {
                        HolderOutput::Send { to, message } => {
                            to_servers.push_back((name, to, serde_json::to_vec(&message).unwrap()));
                        }
                        HolderOutput::Do(_) | HolderOutput::Promote { .. } if node.is_stuck => {}
                        HolderOutput::Promote { owner, recordings } => node.promote(self.now, &owner, recordings),
                        HolderOutput::Do(command) => {
                            if let Some(event) = node.perform(*command) {
                                node.holder.handle_capture(event);
                            }
                        }
                    }
                }
            }
            if let Some((from, to, bytes)) = to_workers.pop_front() {
                let is_cut = self.cut.iter().any(|(server, worker)| (*server, *worker) == (from, to.as_str()));
                if let Some(node) = self.workers.get_mut(to.as_str()).filter(|_| !is_cut) {
                    let message: ToWorker = serde_json::from_slice(&bytes).unwrap();
                    node.holder.handle_message(self.now, from, message);
                }
            } else if let Some((from, to, bytes)) = to_servers.pop_front() {
                let is_cut = self.cut.iter().any(|(server, worker)| (*server, *worker) == (to.as_str(), from));
                if let Some(server) = self.servers.get_mut(to.as_str()).filter(|_| !is_cut) {
                    let message: ToServer = serde_json::from_slice(&bytes).unwrap();
                    server.handle_message(self.now, &WorkerId::new(from), message);
                }
            } else {
                return;
            }
        }
    }

    fn command(&mut self, server: &'static str, command: Command) {
        let now = self.now;
        self.servers.get_mut(server).unwrap().handle_command(now, command);
        self.run();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        for server in self.servers.values_mut() {
            while server.poll_timeout().is_some_and(|due| due <= now) {
                server.handle_timeout(now);
            }
        }
        for node in self.workers.values_mut() {
            if node.holder.poll_timeout().is_some_and(|due| due <= now) {
                node.holder.handle_timeout(now);
            }
        }
        self.run();
    }

    fn told(&mut self) -> Vec<String> {
        self.told.drain(..).map(|(_, what)| what).collect()
    }

    /// Who has it.
    fn worker_of(&self, recording: RecordingId) -> &'static str {
        let has = |node: &Node| node.running.contains_key(&recording);
        let all: Vec<_> = self.workers.iter().filter(|(_, node)| has(node)).map(|(name, _)| *name).collect();
        assert_eq!(all.len(), 1, "one worker has it: {all:?}");
        all[0]
    }

    fn done(&mut self, worker: &str) -> Vec<String> {
        std::mem::take(&mut self.workers.get_mut(worker).unwrap().done)
    }
}

fn word(event: &CaptureEvent) -> String {
    match event {
        CaptureEvent::Ready { part, .. } => format!("ready {part}"),
        CaptureEvent::Refused { part, reason, .. } => format!("refused {part} {}", reason.as_str()),
        CaptureEvent::MediaHeard { .. } => "heard".to_owned(),
        CaptureEvent::MediaSilent { .. } => "silent".to_owned(),
        CaptureEvent::Died { .. } => "died".to_owned(),
        CaptureEvent::Lost { part, .. } => format!("lost {part}"),
        CaptureEvent::Returned { .. } => "returned".to_owned(),
        CaptureEvent::Promoted { part, .. } => format!("promoted {part}"),
    }
}

fn id(number: u128) -> RecordingId {
    RecordingId(Uuid::from_u128(number))
}

fn info() -> SessionInfo {
    let text = r#"{"tenant":"acme","sip_call_id":"1@a","from":"<sip:a@x>","to":"<sip:b@x>","user_agent":null,
        "source":"127.0.0.1:5060","maker":null,"source_kind":"siprec","related":[],"correlators":[],"participants":[],
        "documents":[],"warnings":[]}"#;
    serde_json::from_str(text).unwrap()
}

fn assign(recording: RecordingId, number: u32) -> Command {
    let part = Part { number, ..Part::first(recording) };
    Command::Assign { recording, part, streams: Vec::new(), takes: Vec::new(), beside: None, info: info() }
}

fn restore(recording: RecordingId, number: u32, port: u16) -> Command {
    let Command::Assign { mut part, streams: specs, takes, beside, info, .. } = assign(recording, number) else {
        panic!("assign makes an assignment")
    };
    part.restore = streams(port);
    Command::Assign { recording, part, streams: specs, takes, beside, info }
}

fn release(recording: RecordingId) -> Command {
    Command::Release { recording, cause: ReleaseCause::Bye }
}

fn own(recording: RecordingId, part: u32, epoch: u64) -> Owned {
    Owned { recording, part, epoch }
}

#[test]
fn a_call_is_recorded_elsewhere_and_its_commands_arrive_in_order() {
    let mut world = World::new(&["srs"], &["w1"]);
    world.command("srs", assign(id(1), 1));
    assert_eq!(world.told(), ["placed w1", "ready 1"]);
    let switchboard = world.servers.get_mut("srs").unwrap();
    switchboard.handle_command(world.now, Command::Info { recording: id(1), info: info() });
    let change = Command::Change { recording: id(1), streams: Vec::new(), takes: Vec::new() };
    switchboard.handle_command(world.now, change);
    switchboard.handle_command(world.now, Command::Park { recording: id(1) });
    switchboard.handle_command(world.now, release(id(1)));
    world.run();
    assert_eq!(world.done("w1"), ["assign 1", "info", "change", "park", "release bye"]);
    assert!(world.servers["srs"].is_empty() && world.workers["w1"].holder.is_empty());
}

#[test]
fn who_refuses_is_followed_by_the_next_before_the_srs_hears_of_it() {
    let mut world = World::new(&["srs"], &["w1", "w2", "w3"]);
    for worker in ["w1", "w2", "w3"] {
        world.workers.get_mut(worker).unwrap().refuses = Some(RefuseReason::NoPorts);
    }
    world.command("srs", assign(id(1), 1));
    assert_eq!(world.told(), ["refused 1 no-ports"]);
    assert!(world.servers["srs"].is_empty());
    world.workers.get_mut("w2").unwrap().refuses = None;
    world.command("srs", assign(id(2), 1));
    assert_eq!(world.told(), ["placed w2", "ready 1"]);
    let mut world = World::new(&["srs"], &[]);
    world.command("srs", assign(id(1), 1));
    assert_eq!(world.told(), ["refused 1 no-worker"]);
}

#[test]
fn a_dead_worker_costs_its_parts_and_the_calls_go_on_elsewhere() {
    let mut world = World::new(&["srs"], &["w1", "w2"]);
    for number in 1..=10 {
        world.command("srs", assign(id(number), 1));
    }
    let of_first: Vec<RecordingId> = (1..=10).map(id).filter(|id| world.worker_of(*id) == "w1").collect();
    assert_eq!(of_first.len(), 5);
    world.told();
    world.events.clear();
    world.workers.remove("w1");
    world.unlink("srs", "w1");
    assert_eq!(world.told(), ["lost 1"].repeat(5));
    let lost: Vec<RecordingId> = world
        .events
        .iter()
        .map(|event| if let CaptureEvent::Lost { recording, .. } = event { *recording } else { panic!("{event:?}") })
        .collect();
    assert_eq!(lost, of_first, "in order");
    for recording in lost {
        world.command("srs", assign(recording, 2));
        assert_eq!(world.worker_of(recording), "w2");
    }
    world.told();
    // It comes back empty: a peer that has not moved yet may need it.
    world.workers.insert("w1", Node::new(40_000));
    world.link("srs", "w1");
    assert_eq!(world.told(), ["returned"].repeat(5));
    for recording in &of_first {
        world.servers.get_mut("srs").unwrap().moved(*recording);
    }
    world.unlink("srs", "w1");
    world.link("srs", "w1");
    assert_eq!(world.told(), Vec::<String>::new());
    assert_eq!(world.servers["srs"].lost(), 5);
}

#[test]
fn a_peer_that_cannot_be_moved_gets_the_old_addresses_back() {
    let mut world = World::new(&["srs"], &["w1", "w2"]);
    world.workers.get_mut("w2").unwrap().refuses = Some(RefuseReason::Capacity);
    world.command("srs", assign(id(1), 1));
    let CaptureEvent::Ready { streams, .. } = world.events[0].clone() else { panic!("{:?}", world.events) };
    let port = streams[0].address.port();
    world.workers.get_mut("w2").unwrap().refuses = None;
    world.workers.remove("w1");
    world.unlink("srs", "w1");
    world.command("srs", assign(id(1), 2));
    world.command("srs", Command::Release { recording: id(1), cause: ReleaseCause::NotMoved });
    world.told();
    world.command("srs", restore(id(1), 3, port));
    assert_eq!(world.told(), ["refused 3 no-worker"], "nobody else can have them");
    world.workers.insert("w1", Node::new(50_000));
    world.link("srs", "w1");
    assert_eq!(world.told(), ["returned"]);
    world.command("srs", restore(id(1), 4, port));
    assert_eq!(world.told(), ["placed w1", "ready 4"]);
    assert_eq!(world.workers["w1"].running[&id(1)], port);
}

#[test]
fn a_worker_that_was_only_cut_off_ends_what_goes_on_elsewhere() {
    let mut world = World::new(&["srs"], &["w1", "w2"]);
    world.command("srs", assign(id(1), 1));
    world.command("srs", assign(id(2), 1));
    let (first, other) = (world.worker_of(id(1)), world.worker_of(id(2)));
    world.unlink("srs", first);
    world.command("srs", assign(id(1), 2));
    assert_eq!(world.workers[first].running.len(), 1, "it does not know better");
    world.link("srs", first);
    assert_eq!(world.done(first), ["assign 1"], "the peer may still send there");
    world.servers.get_mut("srs").unwrap().moved(id(1));
    world.run();
    assert_eq!(world.done(first), ["release not-moved"]);
    assert_eq!(world.worker_of(id(1)), other);
    // What is named no more is over when the link is back.
    world.unlink("srs", other);
    world.command("srs", release(id(1)));
    world.told();
    world.link("srs", other);
    assert_eq!(world.told(), ["returned"]);
    assert_eq!(world.done(other), ["assign 1", "assign 2", "release not-moved"]);
}

#[test]
fn a_peer_that_cannot_be_moved_goes_on_with_the_part_of_a_worker_that_was_cut_off() {
    let mut world = World::new(&["srs"], &["w1", "w2"]);
    world.command("srs", assign(id(1), 1));
    let (old, port) = (world.worker_of(id(1)), *world.workers[world.worker_of(id(1))].running.values().next().unwrap());
    world.unlink("srs", old);
    world.command("srs", assign(id(1), 2));
    world.link("srs", old);
    world.told();
    world.command("srs", Command::Release { recording: id(1), cause: ReleaseCause::NotMoved });
    assert_eq!(world.told(), ["returned"], "it is back already");
    // The next part may be refused; the old one is not touched by that.
    world.workers.get_mut(old).unwrap().refuses = Some(RefuseReason::NoPorts);
    world.command("srs", restore(id(1), 3, port));
    assert_eq!(world.told(), ["refused 3 no-ports"]);
    assert_eq!(world.worker_of(id(1)), old);
    world.workers.get_mut(old).unwrap().refuses = None;
    world.command("srs", restore(id(1), 4, port));
    assert_eq!(world.told(), [format!("placed {old}"), "ready 4".to_owned()]);
    world.command("srs", release(id(1)));
    assert_eq!(world.done(old), ["assign 1", "assign 3", "assign 4", "release bye"]);
}

#[test]
fn a_worker_that_says_nothing_is_left_and_avoided() {
    let mut world = World::new(&["srs"], &["w1", "w2"]);
    world.workers.get_mut("w1").unwrap().is_stuck = true;
    let mut stuck = None;
    for number in 1..=2 {
        world.command("srs", assign(id(number), 1));
        if world.servers["srs"].place(id(number)).is_none() {
            stuck = Some(id(number));
        }
    }
    let stuck = stuck.unwrap();
    assert_eq!(world.told(), ["placed w2", "ready 1"]);
    world.pass(PATIENCE);
    assert_eq!(world.told(), ["lost 1"]);
    assert!(world.workers["w1"].holder.is_empty(), "what it may have begun is over");
    for number in 3..=5 {
        world.command("srs", assign(id(number), 1));
    }
    world.command("srs", assign(stuck, 2));
    assert_eq!(
        world.told(),
        ["placed w2", "ready 1"].repeat(3).into_iter().chain(["placed w2", "ready 2"]).collect::<Vec<_>>()
    );
}

#[test]
fn a_worker_restarted_unseen_has_nothing_of_what_it_had() {
    let mut world = World::new(&["srs"], &["w1"]);
    world.command("srs", assign(id(1), 1));
    world.told();
    world.workers.insert("w1", Node::new(50_000));
    let now = world.now;
    world.servers.get_mut("srs").unwrap().handle_replaced(now, &WorkerId::new("w1"));
    world.link("srs", "w1");
    assert_eq!(world.told(), ["lost 1", "returned"]);
    // Also when it is only found by a command.
    world.command("srs", assign(id(1), 2));
    world.told();
    world.workers.insert("w1", Node::new(50_000));
    world.command("srs", Command::Info { recording: id(1), info: info() });
    assert_eq!(world.told(), ["lost 2", "returned"]);
}

#[test]
fn an_assignment_that_the_link_lost_is_lost_and_one_that_comes_twice_is_done_once() {
    let mut world = World::new(&["srs"], &["w1"]);
    world.cut.push(("srs", "w1"));
    world.command("srs", assign(id(1), 1));
    assert_eq!(world.told(), Vec::<String>::new());
    world.cut.clear();
    let now = world.now;
    world.servers.get_mut("srs").unwrap().handle_replaced(now, &WorkerId::new("w1"));
    world.run();
    assert_eq!(world.told(), ["lost 1"], "nobody knows whether it was begun");
    world.link("srs", "w1");
    world.command("srs", assign(id(1), 1));
    assert_eq!(world.told(), ["placed w1", "ready 1"]);
    world.now += Duration::from_secs(1);
    let command = Box::new(assign(id(1), 1));
    let again = ToWorker::Command { part: 1, serial: Some(7), command };
    world.workers.get_mut("w1").unwrap().holder.handle_message(world.now, "srs", again);
    world.run();
    assert_eq!(world.done("w1"), ["assign 1"]);
    assert_eq!(world.told(), ["ready 1"]);
}

#[test]
fn recordings_go_on_without_their_srs_and_its_partner_finds_them() {
    let mut world = World::new(&["srs", "twin"], &["w1", "w2"]);
    for number in 1..=4 {
        world.command("srs", assign(id(number), 1));
    }
    world.told();
    world.servers.remove("srs");
    world.unlink("srs", "w1");
    world.unlink("srs", "w2");
    let adopted: Vec<Owned> = (1..=4).map(|number| own(id(number), 1, 1)).collect();
    let now = world.now;
    let twin = world.servers.get_mut("twin").unwrap();
    twin.adopt(now, &adopted);
    // The peer says BYE before the worker was found.
    twin.handle_command(now, release(id(1)));
    twin.handle_command(now, Command::Info { recording: id(2), info: info() });
    world.run();
    assert!(!world.workers.values().any(|node| node.running.contains_key(&id(1))));
    assert!(world.workers.values().any(|node| node.done.contains(&"info".to_owned())));
    let ready = ["w1", "w2"].map(|worker| world.workers[worker].holder.owner(id(3)).map(str::to_owned));
    assert!(ready.contains(&Some("twin".to_owned())));
    world.pass(SEARCH);
    assert_eq!(world.told(), ["placed w1", "placed w2", "placed w2"], "the books hear where they are; none is lost");
    // The dead one comes back, knows nothing, and ends nothing that is the other's.
    world.servers.insert("srs", World::switchboard("srs", 2));
    world.link("srs", "w1");
    world.link("srs", "w2");
    world.pass(GRACE * 2);
    assert_eq!(world.workers.values().map(|node| node.running.len()).sum::<usize>(), 3);
    // One that was cut off and believes that the call is its own is too late as well.
    let claim = ToWorker::Own { recordings: vec![own(id(3), 1, 0)], run: 2, all: false };
    let worker = world.worker_of(id(3));
    world.workers.get_mut(worker).unwrap().holder.handle_message(now, "srs", claim);
    assert_eq!(world.workers[worker].holder.owner(id(3)), Some("twin"));
    // Nor does it end anything, or take it back with an order.
    for command in [release(id(3)), Command::Info { recording: id(3), info: info() }, assign(id(3), 2)] {
        let order = ToWorker::Command { part: 1, serial: None, command: Box::new(command) };
        world.workers.get_mut(worker).unwrap().holder.handle_message(now, "srs", order);
        world.run();
    }
    assert_eq!(world.workers[worker].holder.owner(id(3)), Some("twin"));
    assert_eq!(world.worker_of(id(3)), worker);
    assert_eq!(world.told(), Vec::<String>::new());
}

#[test]
fn what_no_worker_has_is_lost_as_soon_as_all_have_said_so() {
    let mut world = World::new(&["srs"], &["w1", "w2"]);
    let now = world.now;
    world.servers.get_mut("srs").unwrap().adopt(now, &[own(id(9), 3, 1)]);
    world.run();
    assert_eq!(world.told(), ["placed ", "lost 3"], "the books wait for that part");
    // One that is gone has said so too.
    world.unlink("srs", "w2");
    world.servers.get_mut("srs").unwrap().adopt(now, &[own(id(8), 1, 1)]);
    world.run();
    assert_eq!(world.told(), ["placed ", "lost 1"]);
}

#[test]
fn the_same_part_in_other_files_is_another_one() {
    let mut world = World::new(&["srs", "twin"], &["w1"]);
    world.command("srs", assign(id(1), 2));
    world.servers.remove("srs");
    world.unlink("srs", "w1");
    world.told();
    let Command::Assign { recording, mut part, streams, takes, beside, info } = assign(id(1), 2) else {
        panic!("assign makes an assignment")
    };
    part.file = Uuid::from_u128(99);
    world.command("twin", Command::Assign { recording, part, streams, takes, beside, info });
    assert_eq!(world.told(), ["placed w1", "ready 2"]);
    assert_eq!(world.done("w1"), ["assign 2", "assign 2"], "the second one ends the first");
    assert_eq!(world.workers["w1"].holder.owner(id(1)), Some("twin"));
}

#[test]
fn an_srs_started_anew_ends_after_a_while_what_nobody_names() {
    let mut world = World::new(&["srs"], &["w1"]);
    world.command("srs", assign(id(1), 1));
    world.unlink("srs", "w1");
    world.servers.insert("srs", World::switchboard("srs", 2));
    world.link("srs", "w1");
    world.pass(GRACE - Duration::from_millis(1));
    assert_eq!(world.workers["w1"].running.len(), 1);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.done("w1"), ["assign 1", "release orphaned"]);
}

#[test]
fn a_recording_without_owner_ends_with_its_media_or_its_time() {
    let mut world = World::new(&["srs"], &["w1"]);
    world.command("srs", assign(id(1), 1));
    world.command("srs", assign(id(2), 1));
    world.told();
    let holder = |world: &mut World, event| assert!(world.workers.get_mut("w1").unwrap().holder.handle_capture(event));
    holder(&mut world, CaptureEvent::MediaSilent { recording: id(1) });
    world.run();
    assert_eq!(world.told(), ["silent"], "its owner asks the peer");
    world.servers.remove("srs");
    world.unlink("srs", "w1");
    holder(&mut world, CaptureEvent::MediaHeard { recording: id(1) });
    holder(&mut world, CaptureEvent::MediaSilent { recording: id(1) });
    world.run();
    assert_eq!(world.done("w1"), ["assign 1", "assign 1", "release orphaned"]);
    world.pass(MAX_CALL);
    assert_eq!(world.workers["w1"].running.len(), 1);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.done("w1"), ["release too-long"]);
    let here = world.workers.get_mut("w1").unwrap();
    assert!(!here.holder.handle_capture(CaptureEvent::MediaHeard { recording: id(1) }), "of nobody");
}

#[test]
fn what_belongs_together_stays_together() {
    let mut world = World::new(&["srs"], &["w1", "w2", "w3"]);
    world.command("srs", assign(id(1), 1));
    let Command::Assign { part, streams, info, recording, .. } = assign(id(2), 1) else {
        panic!("assign makes an assignment")
    };
    let takes = vec![TakenStream { from: id(1), index: 1, becomes: 0 }];
    world.command("srs", Command::Assign { recording, part, streams, takes, beside: None, info });
    let Command::Assign { part, streams, info, recording, .. } = assign(id(3), 1) else {
        panic!("assign makes an assignment")
    };
    let beside = Some(id(1));
    world.command("srs", Command::Assign { recording, part, streams, takes: Vec::new(), beside, info });
    assert_eq!(world.worker_of(id(2)), world.worker_of(id(1)));
    assert_eq!(world.worker_of(id(3)), world.worker_of(id(1)));
}

#[test]
fn a_call_can_be_ended_from_the_worker() {
    let mut world = World::new(&["srs"], &["w1"]);
    world.command("srs", assign(id(1), 1));
    world.told();
    assert!(world.workers.get_mut("w1").unwrap().holder.stop(id(1)));
    assert!(!world.workers.get_mut("w1").unwrap().holder.stop(id(2)));
    world.run();
    assert_eq!(world.told(), ["stop"]);
    world.unlink("srs", "w1");
    assert!(world.workers.get_mut("w1").unwrap().holder.stop(id(1)));
    world.run();
    assert_eq!(world.done("w1"), ["assign 1", "release stopped"]);
}

#[test]
fn a_worker_changes_a_part_only_if_it_has_that_part() {
    let mut world = World::new(&["srs"], &["w1"]);
    world.command("srs", assign(id(1), 2));
    let old = ToWorker::Command { part: 1, serial: None, command: Box::new(release(id(1))) };
    let now = world.now;
    let holder = &mut world.workers.get_mut("w1").unwrap().holder;
    holder.handle_message(now, "srs", old);
    let older = ToWorker::Command { part: 1, serial: Some(9), command: Box::new(assign(id(1), 1)) };
    holder.handle_message(now, "srs", older);
    world.run();
    assert_eq!(world.done("w1"), ["assign 2"]);
    // Whoever begins the next part has left the one before.
    world.command("srs", assign(id(1), 3));
    assert_eq!(world.done("w1"), ["release not-moved", "assign 3"]);
    world.command("srs", release(id(1)));
    assert_eq!(world.done("w1"), ["release bye"]);
}

/// Three calls at the first worker; the second one copies the first two.
fn mirrored() -> World {
    let mut world = World::new(&["srs"], &["w1"]);
    let server = world.servers.remove("srs").unwrap().with_mirrors(true);
    world.servers.insert("srs", server);
    (1..=3).for_each(|number| world.command("srs", assign(id(number), 1)));
    for (at, worker) in ["w2", "w3"].into_iter().enumerate() {
        world.workers.insert(worker, Node::new(50_000 + u16::try_from(at).unwrap() * 1_000));
        world.link("srs", worker);
    }
    world.workers.get_mut("w2").unwrap().copies = vec![id(1), id(2)];
    world.told();
    world
}

#[test]
fn copies_go_on_as_the_same_part_and_what_has_none_is_lost() {
    let mut world = mirrored();
    world.workers.remove("w1");
    world.unlink("srs", "w1");
    let mut told = world.told();
    told.sort();
    assert_eq!(told, ["lost 1", "promoted 1", "promoted 1"]);
    assert_eq!((world.worker_of(id(1)), world.worker_of(id(2))), ("w2", "w2"));
    world.command("srs", Command::Info { recording: id(1), info: info() });
    world.command("srs", Command::Release { recording: id(1), cause: ReleaseCause::Bye });
    assert_eq!(world.done("w2"), ["info", "release bye"]);
    // The next part of the one that was lost goes to any worker.
    world.command("srs", assign(id(3), 2));
    assert!(world.told().contains(&"ready 2".to_owned()));
}

#[test]
fn a_worker_that_does_not_answer_about_its_copies_costs_a_second() {
    let mut world = mirrored();
    world.workers.get_mut("w2").unwrap().is_stuck = true;
    world.unlink("srs", "w1");
    assert_eq!(world.told(), Vec::<String>::new(), "two workers are asked, one is silent");
    world.command("srs", Command::Info { recording: id(1), info: info() });
    world.pass(PROMOTION);
    assert_eq!(world.told(), ["lost 1", "lost 1", "lost 1"]);
    world.command("srs", assign(id(1), 2));
    world.told();
    // It wakes up with a copy that nobody needs any more.
    let node = world.workers.get_mut("w2").unwrap();
    node.is_stuck = false;
    let owned = Owned { recording: id(2), part: 1, epoch: 0 };
    node.holder.promoted(world.now, "srs", owned, Uuid::from_u128(77), streams(50_100));
    world.run();
    assert_eq!(world.told(), Vec::<String>::new());
}

#[test]
fn the_death_of_the_last_one_asked_is_an_answer_and_what_was_said_meanwhile_is_kept() {
    let mut world = mirrored();
    for worker in ["w2", "w3"] {
        world.workers.get_mut(worker).unwrap().is_stuck = true;
    }
    world.unlink("srs", "w1");
    world.command("srs", Command::Info { recording: id(1), info: info() });
    world.unlink("srs", "w3");
    assert_eq!(world.told(), Vec::<String>::new());
    let owned = Owned { recording: id(1), part: 1, epoch: 0 };
    let node = world.workers.get_mut("w2").unwrap();
    node.is_stuck = false;
    node.holder.promoted(world.now, "srs", owned, Uuid::from_u128(77), streams(50_100));
    world.run();
    assert_eq!(world.told(), ["promoted 1"]);
    assert_eq!(world.done("w2"), ["info"]);
    world.unlink("srs", "w2");
    assert_eq!(world.told(), ["lost 1", "lost 1", "lost 1"]);
}

#[test]
fn a_call_that_ends_while_its_copies_are_sought_ends_everywhere() {
    let mut world = mirrored();
    world.cut = vec![("srs", "w2"), ("srs", "w3")];
    world.unlink("srs", "w1");
    world.cut.clear();
    world.command("srs", Command::Release { recording: id(1), cause: ReleaseCause::Bye });
    world.pass(PROMOTION);
    assert_eq!(world.told(), ["lost 1", "lost 1"], "the one that ended is not told of");
}
