#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
#![allow(clippy::wildcard_enum_match_arm)]
//! Memberships on a simulated network: delay, loss, cuts, restarts, sleep, all from a seed.

use super::*;
use crate::admission::Own;
use crate::identity::{ClusterName, Identity, Incarnation, Site};
use crate::protocol::ProtocolRange;
use crate::redial::BackOff;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

const MS: Duration = Duration::from_millis(1);
const WALL: u64 = 1_700_000_000_000;

#[derive(Debug)]
enum Packet {
    Dial { from: usize, at: SocketAddr },
    Greeting(Box<Greeting>),
    Frame(LinkId, ControlFrame),
    Beat(LinkId, Heartbeat),
    Closed(LinkId, Option<CloseReason>),
}

struct Node {
    core: Membership,
    settings: Settings,
    address: SocketAddr,
    events: Vec<(Duration, Event)>,
    /// Process ended, or asleep until then.
    gone: bool,
    asleep: Option<Instant>,
    clock_ms: i64,
    inbox: Vec<Packet>,
}

struct Net {
    start: Instant,
    now: Instant,
    nodes: Vec<Node>,
    flight: Vec<(Instant, usize, Packet)>,
    links: HashMap<LinkId, (usize, usize)>,
    delay: Duration,
    loss: f64,
    cut: Vec<(usize, usize)>,
    random: SmallRng,
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(n).unwrap()], 59106))
}

/// `a1` is in site a.
fn settings(name: &str, n: usize, seeds: &[usize]) -> Settings {
    let identity = Identity { node: NodeId::new(name).unwrap(), site: Site::new(name.get(..1).unwrap()).unwrap() };
    let cluster = ClusterName::new("main").unwrap();
    Settings {
        own: Own { cluster, identity, incarnation: Incarnation(n as u64), protocol: ProtocolRange::OURS },
        profile: Profile { addresses: vec![address(n)], ..Profile::default() },
        inside: Beat::INSIDE,
        between: Beat::BETWEEN,
        seeds: seeds.iter().map(|n| address(*n)).collect(),
        max_members: 16,
        forget_after: Duration::from_secs(86_400),
        back_off: BackOff::default(),
        seed: n as u64,
    }
}

impl Net {
    fn new(seed: u64) -> Self {
        let start = Instant::now() + Duration::from_secs(1000);
        println!("seed {seed}");
        let random = SmallRng::seed_from_u64(seed);
        let (delay, cut, nodes, flight, links) = (MS, Vec::new(), Vec::new(), Vec::new(), HashMap::new());
        Self { start, now: start, nodes, flight, links, delay, loss: 0.0, cut, random }
    }

    fn add(&mut self, settings: Settings) -> usize {
        let core = Membership::new(self.now, settings.clone());
        let address = settings.profile.addresses[0];
        let (events, inbox) = (Vec::new(), Vec::new());
        self.nodes.push(Node { core, settings, address, events, gone: false, asleep: None, clock_ms: 0, inbox });
        self.nodes.len() - 1
    }

    /// A cluster that has come up; each node knows the first one only.
    fn cluster(seed: u64, names: &[&str]) -> Self {
        let mut net = Self::new(seed);
        for (n, name) in names.iter().enumerate() {
            net.add(settings(name, n, if n == 0 { &[] } else { &[0] }));
        }
        net.run(3000 * MS);
        net.assert_full_mesh();
        net.nodes.iter_mut().for_each(|node| node.events.clear());
        net
    }

    fn assert_full_mesh(&self) {
        for node in self.nodes.iter().filter(|node| !node.gone) {
            let up = node.core.members().iter().filter(|member| member.is_up()).count();
            let alive = self.nodes.iter().filter(|node| !node.gone).count();
            assert_eq!(up, alive - 1, "{}: {:?}", node.settings.own.identity.node, node.events);
            assert!(node.core.candidates.is_empty(), "{:?}", node.core.candidates);
        }
    }

    fn wall(&self, n: usize) -> u64 {
        let ms = u64::try_from((self.now - self.start).as_millis()).unwrap();
        (WALL + ms).checked_add_signed(self.nodes[n].clock_ms).unwrap()
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        if !self.is_cut(from, to) {
            let jitter = self.random.random_range(0..1000);
            self.flight.push((self.now + self.delay + Duration::from_micros(jitter), to, packet));
        }
    }

    /// Streams keep order and lose nothing while the path is there: their packets get no jitter.
    fn send_stream(&mut self, from: usize, to: usize, packet: Packet) {
        if !self.is_cut(from, to) {
            self.flight.push((self.now + self.delay, to, packet));
        }
    }

    fn other(&self, link: LinkId, n: usize) -> Option<usize> {
        self.links.get(&link).map(|(a, b)| if *a == n { *b } else { *a })
    }

    fn deliver(&mut self, n: usize, packet: Packet) {
        let (now, wall) = (self.now, self.wall(n));
        let core = &mut self.nodes[n].core;
        match packet {
            Packet::Dial { from, at } => {
                let link = LinkId(self.links.len() as u64 + 1);
                self.links.insert(link, (from, n));
                let greeting = |net: &Self, of: usize, dialled, remote| {
                    let hello = net.nodes[of].core.hello(net.wall(of));
                    let certificate = net.nodes[of].settings.own.identity.clone();
                    Box::new(Greeting { link, dialled, remote, certificate, hello, rtt: 2 * net.delay })
                };
                let to_dialler = greeting(self, n, Some(at), at);
                let to_acceptor = greeting(self, from, None, self.nodes[from].address);
                self.send_stream(n, from, Packet::Greeting(to_dialler));
                self.deliver(n, Packet::Greeting(to_acceptor));
            }
            Packet::Greeting(greeting) => core.handle_greeting(now, wall, *greeting),
            Packet::Frame(link, ControlFrame::Go) => core.handle_go(now, wall, link),
            Packet::Frame(link, ControlFrame::Profile(profile)) => core.handle_profile(now, link, profile),
            Packet::Frame(link, ControlFrame::Book { entries }) => core.handle_book(now, link, &entries),
            Packet::Frame(link, ControlFrame::Leaving) => core.handle_leaving(now, link),
            Packet::Frame(_, ControlFrame::Hello(_) | ControlFrame::Unknown) => {}
            Packet::Beat(link, beat) => core.handle_heartbeat(now, wall, link, &beat),
            Packet::Closed(link, reason) => core.handle_closed(now, wall, link, reason),
        }
    }

    fn drain(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].core.poll_output() {
            match output {
                Output::Dial(at) => match self.nodes.iter().position(|node| node.address == at && !node.gone) {
                    Some(to) if !self.is_cut(n, to) => self.send_stream(n, to, Packet::Dial { from: n, at }),
                    _ => self.nodes[n].core.handle_dial_failed(self.now, at, None),
                },
                Output::Heartbeat(link, bytes) => {
                    let lost = self.random.random_bool(self.loss);
                    if let (Some(to), false) = (self.other(link, n), lost) {
                        self.send(n, to, Packet::Beat(link, Heartbeat::decode(&bytes).unwrap()));
                    }
                }
                Output::Frame(link, frame) => {
                    let frame = ControlFrame::decode(&frame.encode()).unwrap();
                    if let Some(to) = self.other(link, n) {
                        self.send_stream(n, to, Packet::Frame(link, frame));
                    }
                }
                Output::Close(link, reason) => {
                    if let Some(to) = self.other(link, n) {
                        let reason = CloseReason::from_wire(reason.code().into(), reason.text());
                        self.send_stream(n, to, Packet::Closed(link, reason));
                    }
                }
                Output::Up { .. } => {}
                Output::Event(event) => {
                    let at = self.now - self.start;
                    self.nodes[n].events.push((at, event));
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += MS;
            let (due, rest) = std::mem::take(&mut self.flight).into_iter().partition(|(at, ..)| *at <= self.now);
            self.flight = rest;
            for (_, to, packet) in due {
                if !self.nodes[to].gone {
                    self.nodes[to].inbox.push(packet);
                }
            }
            for n in 0..self.nodes.len() {
                if self.nodes[n].gone || self.nodes[n].asleep.is_some_and(|until| self.now < until) {
                    continue;
                }
                // A node that wakes finds its timers first: the worst order.
                if self.nodes[n].core.poll_timeout().is_some_and(|at| at <= self.now) {
                    let (now, wall) = (self.now, self.wall(n));
                    self.nodes[n].core.handle_timeout(now, wall);
                    self.drain(n);
                }
                for packet in std::mem::take(&mut self.nodes[n].inbox) {
                    self.deliver(n, packet);
                    self.drain(n);
                }
            }
        }
    }

    fn downs(&self, n: usize) -> Vec<(Duration, NodeId, DownCause)> {
        let down = |(at, event): &(Duration, Event)| match event {
            Event::Down { node, cause } => Some((*at, node.clone(), *cause)),
            _ => None,
        };
        self.nodes[n].events.iter().filter_map(down).collect()
    }

    fn refusals(&self, n: usize) -> Vec<(RefusedBy, RefusalKind)> {
        let refused = |(_, event): &(Duration, Event)| match event {
            Event::Refused { by, refusal, .. } => Some((*by, refusal.kind)),
            _ => None,
        };
        self.nodes[n].events.iter().filter_map(refused).collect()
    }

    fn state(&self, n: usize, name: &str) -> MemberState {
        let members = self.nodes[n].core.members();
        members.iter().find(|member| member.node.as_str() == name).unwrap().state
    }
}

#[test]
fn nodes_that_know_one_address_find_each_other() {
    for seed in 0..20 {
        let net = Net::cluster(seed, &["a3", "a1", "b2", "b1", "a2"]);
        for node in &net.nodes {
            assert!(node.core.members().iter().all(|member| member.state == MemberState::Alive));
        }
    }
}

#[test]
fn nodes_that_all_dial_each_other_come_up_once_and_stay() {
    for seed in 0..50 {
        let mut net = Net::new(seed);
        net.delay = 30 * MS;
        for (n, name) in ["a2", "a1", "b1", "a3"].into_iter().enumerate() {
            net.add(settings(name, n, &[0, 1, 2, 3]));
        }
        net.run(Duration::from_secs(10));
        net.assert_full_mesh();
        for n in 0..4 {
            let ups = net.nodes[n].events.iter().filter(|(_, event)| matches!(event, Event::Up { .. })).count();
            assert_eq!((ups, net.downs(n)), (3, vec![]), "one link a pair, never replaced");
            assert_eq!(net.refusals(n), []);
        }
    }
}

#[test]
fn a_node_that_dies_is_dead_in_five_heartbeats() {
    let mut net = Net::cluster(1, &["a1", "a2", "b1"]);
    let killed = net.now - net.start;
    net.nodes[1].gone = true;
    net.run(Duration::from_secs(4));
    for (n, most) in [(0, 510), (2, 2010)] {
        let downs = net.downs(n);
        let [(at, node, DownCause::Silent(_))] = &downs[..] else { panic!("{downs:?}") };
        assert_eq!(node.as_str(), "a2");
        assert!(*at - killed <= most * MS && *at - killed >= (most - 10) * 4 / 5 * MS, "{:?}", *at - killed);
        assert_eq!(net.state(n, "a2"), MemberState::Dead);
        let suspect = Event::Changed { node: node.clone(), change: Change::Suspect };
        assert!(net.nodes[n].events.iter().any(|(_, event)| *event == suspect));
    }
}

#[test]
fn an_ended_process_is_dead_at_once_and_a_leaving_one_is_no_death() {
    let mut net = Net::cluster(2, &["a1", "a2", "a3"]);
    let link = *net.nodes[0].core.links.iter().find(|(_, node)| node.as_str() == "a2").unwrap().0;
    net.nodes[1].gone = true;
    let (now, wall) = (net.now, net.wall(0));
    net.nodes[0].core.handle_closed(now, wall, link, None);
    net.drain(0);
    assert!(matches!(&net.downs(0)[..], [(_, _, DownCause::Closed)]));

    net.nodes[2].core.leave();
    net.drain(2);
    net.run(Duration::from_secs(1));
    assert!(matches!(&net.downs(0)[1..], [(_, _, DownCause::Left)]));
    assert_eq!(net.state(0, "a3"), MemberState::Left);
    net.nodes[2].gone = true;
    net.run(Duration::from_secs(20));
    assert_eq!(net.downs(0).len(), 2);
    assert!(!net.nodes[0].core.book(net.now).iter().any(|entry| entry.node.as_str() == "a3"));
}

#[test]
fn a_node_that_slept_declares_nobody_dead_and_comes_back() {
    for nap in [150, 400, 5000, 60_000] {
        let mut net = Net::cluster(3, &["a1", "a2", "a3", "b1"]);
        net.nodes[0].asleep = Some(net.now + nap * MS);
        net.run((nap + 6000) * MS);
        let silent: Vec<_> =
            net.downs(0).into_iter().filter(|(_, _, cause)| matches!(cause, DownCause::Silent(_))).collect();
        assert_eq!(silent, [], "after {nap} ms");
        assert!(!net.nodes[0].events.iter().any(|(_, event)| matches!(event, Event::Clock { .. })));
        let stalled =
            |(_, event): &(Duration, Event)| matches!(event, Event::Stalled(late) if *late + 100 * MS >= nap * MS);
        assert!(nap == 150 || net.nodes[0].events.iter().any(stalled), "{:?}", net.nodes[0].events);
        net.assert_full_mesh();
        for (at, node, _) in net.downs(1) {
            assert_eq!(node.as_str(), "a1", "others stay at {at:?}");
        }
    }
}

#[test]
fn loss_is_measured_and_does_not_kill() {
    let mut net = Net::cluster(4, &["a1", "b1"]);
    net.loss = 0.1;
    net.delay = 40 * MS;
    net.run(Duration::from_secs(120));
    assert_eq!(net.downs(0), []);
    let quality = net.nodes[0].core.members()[0].quality.unwrap();
    assert!(quality.loss > 0.02 && quality.loss < 0.25, "{quality:?}");
    let rtt = quality.rtt.unwrap();
    assert!(rtt >= 80 * MS && rtt <= 85 * MS, "{quality:?}");
}

#[test]
fn a_cut_between_sites_makes_two_halves_that_heal() {
    for seed in 0..10 {
        let mut net = Net::cluster(seed, &["a1", "a2", "b1", "b2"]);
        net.cut = vec![(0, 2), (0, 3), (1, 2), (1, 3)];
        net.run(Duration::from_secs(300));
        for n in 0..4 {
            assert_eq!(net.nodes[n].core.members().iter().filter(|member| member.is_up()).count(), 1);
        }
        net.cut.clear();
        net.run(Duration::from_secs(6));
        net.assert_full_mesh();
    }
}

#[test]
fn a_node_that_restarts_takes_its_place_without_a_refusal() {
    for seed in 0..20 {
        for old in ["a1", "a3"] {
            let mut net = Net::cluster(seed, &["a2", old]);
            net.nodes[1].gone = true;
            let mut again = settings(old, 1, &[0]);
            again.own.incarnation = Incarnation(77);
            net.run(u32::try_from(seed).unwrap() * MS);
            net.add(again);
            net.run(Duration::from_secs(3));
            assert_eq!(net.refusals(0), []);
            assert_eq!(net.state(0, old), MemberState::Alive);
            assert_eq!(net.nodes[0].core.members()[0].incarnation, Incarnation(77));
            let causes: Vec<_> = net.downs(0).into_iter().map(|(_, _, cause)| cause).collect();
            assert_eq!(causes, [DownCause::Replaced], "known before its heartbeats would have been missed");
            assert!(net.nodes[0].events.iter().any(|(_, e)| matches!(e, Event::Up { restarted: true, .. })));
        }
    }
}

#[test]
fn a_second_running_node_with_the_same_id_is_refused_and_the_first_stays() {
    for twin in ["a1", "a3"] {
        let mut net = Net::cluster(5, &["a2", twin]);
        let mut second = settings(twin, 9, &[0]);
        second.own.incarnation = Incarnation(77);
        net.add(second);
        net.run(Duration::from_secs(60));
        assert_eq!(net.downs(0), [], "the first one is undisturbed");
        assert!(net.refusals(0).contains(&(RefusedBy::Us, RefusalKind::DuplicateId)), "{:?}", net.nodes[0].events);
        assert!(net.refusals(2).contains(&(RefusedBy::Peer, RefusalKind::DuplicateId)), "{:?}", net.nodes[2].events);
        let dials = net.links.values().filter(|(from, _)| *from == 2).count();
        assert!(dials < 12, "it does not hammer: {dials}");
    }
}

#[test]
fn wrong_clocks_alarm_and_refuse() {
    let mut net = Net::cluster(6, &["a1", "a2"]);
    net.nodes[1].clock_ms = 3000;
    net.run(Duration::from_secs(4));
    assert!(
        net.nodes[0].events.iter().any(|(_, e)| matches!(e, Event::Clock { alarm: true, ahead_ms: 2990..=3010, .. }))
    );
    net.nodes[1].clock_ms = -120_000;
    net.run(Duration::from_secs(5));
    assert_eq!(net.downs(0), [], "a link that is up stays up");
    let late = net.add(settings("a3", 2, &[0]));
    net.nodes[late].clock_ms = -120_000;
    net.run(Duration::from_secs(5));
    assert!(net.refusals(0).contains(&(RefusedBy::Us, RefusalKind::Clock)));
    assert!(net.nodes[0].core.members().iter().all(|member| member.node.as_str() != "a3"));
}

#[test]
fn another_cluster_and_another_protocol_stay_out_and_the_next_version_is_spoken() {
    let mut net = Net::new(7);
    net.add(settings("a1", 0, &[]));
    let mut lab = settings("a2", 1, &[0]);
    lab.own.cluster = ClusterName::new("lab").unwrap();
    let mut far = settings("a3", 2, &[0]);
    far.own.protocol = ProtocolRange { min: Protocol(2), max: Protocol(3) };
    let mut next = settings("a4", 3, &[0]);
    next.own.protocol = ProtocolRange { min: Protocol(1), max: Protocol(2) };
    for settings in [lab, far, next] {
        net.add(settings);
    }
    net.run(Duration::from_secs(5));
    let refused = net.refusals(0);
    assert!(refused.contains(&(RefusedBy::Us, RefusalKind::Cluster)), "{refused:?}");
    assert!(refused.contains(&(RefusedBy::Us, RefusalKind::Protocol)), "{refused:?}");
    let members = net.nodes[0].core.members();
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].node.as_str(), members[0].protocol), ("a4", Some(Protocol(1))));
}

#[test]
fn the_table_is_bounded_and_the_longest_dead_makes_room() {
    let mut net = Net::new(8);
    net.add(Settings { max_members: 3, ..settings("a0", 0, &[]) });
    for (n, name) in ["a1", "a2", "a3", "a4"].into_iter().enumerate() {
        net.add(settings(name, n + 1, &[0]));
    }
    net.run(Duration::from_secs(3));
    assert_eq!(net.nodes[0].core.members().len(), 3);
    assert!(net.refusals(0).contains(&(RefusedBy::Us, RefusalKind::Full)));
    for n in 1..5 {
        net.nodes[n].gone = true;
    }
    net.run(Duration::from_secs(3));
    net.add(settings("a5", 5, &[0]));
    net.run(Duration::from_secs(3));
    assert_eq!(net.nodes[0].core.members().len(), 3);
    assert_eq!(net.state(0, "a5"), MemberState::Alive);
}

#[test]
fn draining_and_new_addresses_are_told() {
    let mut net = Net::cluster(9, &["a1", "a2", "a3"]);
    net.nodes[1].core.set_draining(true);
    net.nodes[1].core.set_draining(true);
    net.drain(1);
    net.run(10 * MS);
    let changes =
        net.nodes[0].events.iter().filter(|(_, e)| matches!(e, Event::Changed { change: Change::Profile, .. }));
    assert_eq!(changes.count(), 1);
    assert!(net.nodes[0].core.members()[0].profile.draining);
}

#[test]
fn what_changes_while_a_link_comes_up_is_told() {
    let mut net = Net::new(12);
    net.delay = 20 * MS;
    for (n, name) in ["a1", "a2"].into_iter().enumerate() {
        net.add(settings(name, n, &[0]));
    }
    net.run(30 * MS); // the hellos are said, `go` is on its way
    assert!(net.nodes[1].core.members().is_empty());
    net.nodes[1].core.set_draining(true);
    net.run(Duration::from_secs(1));
    assert!(net.nodes[0].core.members()[0].profile.draining);
}

#[test]
fn a_dead_node_is_forgotten_in_the_end_and_is_not_learned_again() {
    let mut net = Net::new(10);
    let soon = Duration::from_secs(30);
    net.add(settings("a1", 0, &[]));
    net.add(Settings { forget_after: soon, ..settings("a2", 1, &[0]) });
    net.add(settings("a3", 2, &[0]));
    net.run(Duration::from_secs(3));
    net.nodes[2].gone = true;
    net.run(Duration::from_secs(60));
    net.add(Settings { forget_after: soon, ..settings("a4", 3, &[0]) });
    net.run(Duration::from_secs(3));
    let known = |n: usize| net.nodes[n].core.members().iter().any(|member| member.node.as_str() == "a3");
    let for_a_moment =
        |(_, event): &(Duration, Event)| matches!(event, Event::Changed { node, .. } if node.as_str() == "a3");
    assert!(!net.nodes[3].events.iter().any(for_a_moment));
    assert_eq!([0, 1, 3].map(known), [true, false, false], "it has been silent for longer than two of them remember");
}

#[test]
fn own_address_is_dialled_once() {
    let mut net = Net::new(11);
    let n = net.add(settings("a1", 0, &[]));
    net.nodes[n].core = Membership::new(net.now, Settings { seeds: vec![address(9)], ..settings("a1", 0, &[]) });
    net.nodes[n].address = address(9); // the seed leads back here by another address
    net.run(Duration::from_secs(30));
    assert_eq!(net.links.len(), 1);
    assert!(net.nodes[n].events.is_empty(), "{:?}", net.nodes[n].events);
}
