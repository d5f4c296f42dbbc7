//! Nodes that keep copies of each other's dialogs, over links that are slow, end, and come back.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod rig;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_sip::{Flow, Message, Method, Transport};
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId, StreamSpec};
use ferric_srs::replica::ReplicasLimits;
use ferric_srs::replica::pairing::{Pairing, PairingOutput, Say};
use ferric_srs::{Srs, SrsConfig, SrsOutput};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rig::{Rig, SDP, config};

const ALLOW: (&str, &str) = ("Allow", "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE");
/// Between two nodes.
const DELAY: Duration = Duration::from_millis(3);
/// Until a dead node is noticed.
const NOTICED: Duration = Duration::from_millis(480);

struct Node {
    srs: Srs,
    pairing: Pairing,
    address: String,
}

/// Nodes, one SBC, and capture, which does all that it is asked.
struct World {
    rig: Rig,
    nodes: BTreeMap<&'static str, Node>,
    wires: VecDeque<(Instant, String, String, Say)>,
    cut: BTreeSet<(String, String)>,
    /// What the SBC got, and from which node.
    heard: Vec<(&'static str, Message)>,
    /// Who has which recording, as capture knows.
    owners: BTreeMap<RecordingId, &'static str>,
    released: Vec<RecordingId>,
    given_up: usize,
    seed: u64,
}

impl World {
    fn new(names: &[&'static str], seed: u64) -> World {
        let mut world = World {
            rig: Rig::new(),
            nodes: BTreeMap::new(),
            wires: VecDeque::new(),
            cut: BTreeSet::new(),
            heard: Vec::new(),
            owners: BTreeMap::new(),
            released: Vec::new(),
            given_up: 0,
            seed,
        };
        for name in names {
            world.start(name);
        }
        world
    }

    fn now(&self) -> Instant {
        self.rig.now()
    }

    fn start(&mut self, name: &'static str) {
        self.seed += 1;
        let address = format!("192.0.2.{}:5060", 10 + name.as_bytes()[1] - b'0');
        let listeners = vec![(Transport::Tcp, address.parse().unwrap()), (Transport::Udp, address.parse().unwrap())];
        let config = SrsConfig { seed: self.seed, listeners, max_sessions: 1_000, ..config() };
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_438_400);
        let srs = Srs::new(config, self.now(), wall);
        let pairing = Pairing::new(name, &name[..1], None, ReplicasLimits::default());
        self.nodes.insert(name, Node { srs, pairing, address });
        let others: Vec<&'static str> = self.nodes.keys().copied().filter(|other| *other != name).collect();
        for other in others {
            self.link(name, other, true);
        }
    }

    /// A link comes up; `restarted`: the second hears that the first was started anew.
    fn link(&mut self, one: &'static str, two: &'static str, restarted: bool) {
        let now = self.now();
        for (at, other, restarted) in [(one, two, false), (two, one, restarted)] {
            let node = self.nodes.get_mut(at).unwrap();
            node.pairing.up(now, &mut node.srs, other, &other[..1], false, restarted);
        }
        self.run(Duration::ZERO);
    }

    fn unlink(&mut self, at: &'static str, from: &str, left: bool) {
        let now = self.now();
        self.wires.retain(|(_, one, two, _)| !((one == at && two == from) || (two == at && one == from)));
        if let Some(node) = self.nodes.get_mut(at) {
            node.pairing.down(now, &mut node.srs, from, left);
        }
    }

    /// A node dies. The others notice a little later.
    fn kill(&mut self, name: &'static str) {
        self.nodes.remove(name);
        self.wires.retain(|(_, one, two, _)| one != name && two != name);
        self.run(NOTICED);
        let others: Vec<&'static str> = self.nodes.keys().copied().collect();
        for other in others {
            self.unlink(other, name, false);
        }
        self.run(Duration::ZERO);
    }

    /// Two nodes do not reach each other any more, and notice.
    fn cut(&mut self, one: &'static str, two: &'static str) {
        self.cut.extend([(one.to_owned(), two.to_owned()), (two.to_owned(), one.to_owned())]);
        self.run(NOTICED);
        self.unlink(one, two, false);
        self.unlink(two, one, false);
        self.run(Duration::ZERO);
    }

    fn heal(&mut self, one: &'static str, two: &'static str) {
        self.cut.clear();
        self.link(one, two, false);
        self.run(Duration::from_millis(50));
    }

    /// Lets time pass.
    fn run(&mut self, span: Duration) {
        let end = self.now() + span;
        loop {
            while self.drain() {}
            let timers = self.nodes.values_mut().filter_map(|node| node.srs.poll_timeout());
            let next = timers.chain(self.wires.front().map(|wire| wire.0)).min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.rig.clock.advance_to(next.max(self.now()));
            let now = self.now();
            while self.wires.front().is_some_and(|wire| wire.0 <= now) {
                let (_, from, to, say) = self.wires.pop_front().unwrap();
                if let Some(node) =
                    self.nodes.get_mut(to.as_str()).filter(|_| !self.cut.contains(&(from.clone(), to.clone())))
                {
                    node.pairing.handle(now, &mut node.srs, &from, say);
                }
            }
            for node in self.nodes.values_mut() {
                node.srs.handle_timeout(now);
            }
        }
        self.rig.clock.advance_to(end);
    }

    /// Does what nodes want; true if there was anything.
    fn drain(&mut self) -> bool {
        let now = self.now();
        let names: Vec<&'static str> = self.nodes.keys().copied().collect();
        let mut any = false;
        for name in names {
            let Some(node) = self.nodes.get_mut(name) else { continue };
            node.pairing.pump(now, &mut node.srs);
            while let Some(output) = node.pairing.poll_output() {
                any = true;
                match output {
                    PairingOutput::Say { to, say } => {
                        let text = serde_json::to_string(&say).unwrap();
                        assert!(text.len() < 250_000);
                        self.wires.push_back((now + DELAY, name.to_owned(), to, serde_json::from_str(&text).unwrap()));
                    }
                    PairingOutput::Adopted(recordings) => {
                        for adopted in recordings {
                            self.owners.insert(adopted.recording, name);
                        }
                    }
                    PairingOutput::Forget(_) => {}
                    PairingOutput::GivenUp { .. } => self.given_up += 1,
                    PairingOutput::Transmit { flow, bytes } => {
                        assert_eq!(flow.elsewhere(), None);
                        self.heard.push((name, Message::parse(bytes).unwrap()));
                    }
                }
            }
            while let Some(output) = node.srs.poll_output() {
                any = true;
                match output {
                    SrsOutput::Transmit { flow, bytes } => match flow.elsewhere() {
                        Some((number, flow)) => assert!(node.pairing.send_through(number, flow, bytes)),
                        None => self.heard.push((name, Message::parse(bytes).unwrap())),
                    },
                    SrsOutput::Capture(command) => {
                        let (recording, streams, part) = match command {
                            Command::Assign { recording, streams, part, .. } => {
                                self.owners.insert(recording, name);
                                (recording, streams, part.number)
                            }
                            Command::Change { recording, streams, .. } => (recording, streams, 1),
                            Command::Release { recording, .. } => {
                                assert_eq!(self.owners.remove(&recording), Some(name), "released by another");
                                self.released.push(recording);
                                continue;
                            }
                            Command::Info { .. } | Command::Park { .. } => continue,
                        };
                        let address = |stream: &StreamSpec| AssignedStream {
                            index: stream.index,
                            address: ([192, 0, 2, 99], 40_000 + 2 * stream.index as u16).into(),
                        };
                        let streams = streams.iter().map(address).collect();
                        node.srs.handle_capture(now, CaptureEvent::Ready { recording, part, streams });
                    }
                    SrsOutput::Event(_) => {}
                }
            }
        }
        any
    }

    /// The SBC sends a message to a node, which serves it or relays it.
    fn send(&mut self, to: &'static str, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        let text = text.replacen("Content-Length: AUTO", &format!("Content-Length: {body}"), 1);
        let message = Message::parse(Bytes::from(text)).unwrap();
        let now = self.now();
        let Some(node) = self.nodes.get_mut(to) else { return };
        let flow = Flow {
            transport: Transport::Tcp,
            local: node.address.parse().unwrap(),
            remote: "198.51.100.20:5060".parse().unwrap(),
            connection: 5,
        };
        let relayed =
            if node.srs.expects(&message, &flow) { Err(message) } else { node.pairing.relay(now, message, flow) };
        if let Err(message) = relayed {
            node.srs.handle_message(now, message, flow);
        }
        self.run(Duration::ZERO);
    }

    fn request(&mut self, to: &'static str, method: &str, body: &str) {
        let text = self.rig.request_text(method, &[ALLOW], body);
        self.send(to, &text);
    }

    /// The final answer to the last request, and the node from which it came.
    fn answer(&mut self) -> Option<(&'static str, Message)> {
        let at = self.heard.iter().rposition(|(_, message)| message.status().is_some_and(|status| status >= 200))?;
        Some(self.heard.remove(at))
    }

    fn ask(&mut self, to: &'static str, method: &str, body: &str) -> (&'static str, u16) {
        self.obey();
        self.heard.clear();
        self.request(to, method, body);
        self.run(Duration::from_millis(20));
        let (from, answer) = self.answer().unwrap_or_else(|| panic!("no answer to {method}"));
        (from, answer.status().unwrap())
    }

    /// The SBC answers every request that it got.
    fn obey(&mut self) {
        let asked: Vec<(&'static str, Message)> =
            self.heard.iter().filter(|(_, message)| message.is_request()).cloned().collect();
        self.heard.retain(|(_, message)| !message.is_request());
        for (from, request) in asked.into_iter().filter(|(_, request)| request.method() != Method::Ack) {
            let mut response = Message::response(&request, 200, None);
            if request.method() == Method::Invite {
                response.set_body("application/sdp", Bytes::from(SDP));
            }
            let text = String::from_utf8_lossy(&response.to_bytes()).into_owned();
            self.send(from, &text);
        }
    }

    /// A call that a node records.
    fn call(&mut self, to: &'static str) {
        self.rig.next_call();
        self.heard.clear();
        self.request(to, "INVITE", SDP);
        let (_, ok) = self.answer().unwrap();
        assert_eq!(ok.status(), Some(200));
        self.rig.established(&ok);
        self.request(to, "ACK", "");
    }

    fn sessions(&self) -> Vec<(&'static str, usize)> {
        self.nodes.iter().map(|(name, node)| (*name, node.srs.sessions())).collect()
    }

    /// Everything is over, and nothing is left.
    fn check_empty(&mut self) {
        self.obey();
        self.run(Duration::from_secs(200));
        for (name, node) in &mut self.nodes {
            assert_eq!((node.srs.sessions(), node.srs.recordings(), node.srs.transactions()), (0, 0, 0), "{name}");
            assert_eq!(node.srs.poll_timeout(), None, "{name}");
            assert!(node.pairing.replicas().counts().all(|(_, count)| count == 0), "{name}");
            assert_eq!(node.pairing.lag(self.rig.clock.now()), Duration::ZERO);
        }
        assert_eq!(self.owners.len(), 0, "a recording without end");
    }
}

#[test]
fn a_request_that_comes_to_the_partner_is_served_by_the_owner() {
    let mut world = World::new(&["a1", "a2"], 1);
    world.call("a1");
    world.run(Duration::from_millis(20));
    assert_eq!(world.ask("a2", "OPTIONS", ""), ("a2", 200));
    assert_eq!(world.ask("a2", "INVITE", &SDP.replace("sendonly", "inactive")), ("a2", 200));
    world.request("a2", "ACK", "");
    world.run(Duration::from_secs(40));
    assert_eq!(world.sessions(), [("a1", 1), ("a2", 0)], "the ACK came through too");
    assert!(world.heard.iter().all(|(_, message)| message.status() != Some(200)), "no 200 is repeated");
    assert_eq!(world.ask("a2", "BYE", ""), ("a2", 200));
    assert_eq!(world.released.len(), 1);
    world.check_empty();
}

#[test]
fn a_dead_node_s_calls_go_on_and_a_request_on_its_way_is_served() {
    let mut world = World::new(&["a1", "a2"], 1);
    for _ in 0..5 {
        world.call("a1");
    }
    world.run(Duration::from_millis(20));
    // The BYE meets the partner while the owner is dead and nobody knows.
    world.nodes.remove("a1");
    world.heard.clear();
    world.request("a2", "BYE", "");
    assert!(world.answer().is_none());
    world.kill("a1");
    assert_eq!(world.answer().map(|(_, answer)| answer.status()), Some(Some(200)));
    world.run(Duration::from_secs(1));
    assert_eq!((world.sessions(), world.released.len()), (vec![("a2", 4)], 1));
    assert_eq!(world.nodes["a2"].pairing.adopted(), 5);
    let updates: Vec<&Message> = world.heard.iter().map(|(_, message)| message).filter(|m| m.is_request()).collect();
    assert_eq!(updates.len(), 4);
    assert!(updates.iter().all(|update| update.header("Contact").unwrap().contains("192.0.2.12")));
    // It is started anew, and leaves the calls where they are; now it is the partner.
    world.start("a1");
    world.run(Duration::from_millis(50));
    assert_eq!(world.nodes["a1"].pairing.replicas().counts().collect::<Vec<_>>(), [("a2", 4)]);
    world.kill("a2");
    assert_eq!(world.sessions(), [("a1", 4)]);
}

#[test]
fn after_a_split_each_dialog_has_one_node() {
    for seed in 0..6 {
        let mut world = World::new(&["a1", "a2"], seed);
        world.call("a1");
        world.run(Duration::from_millis(20));
        world.cut("a1", "a2");
        assert_eq!(world.sessions(), [("a1", 1), ("a2", 1)], "neither knows better");
        world.run(Duration::from_secs(5));
        world.obey();
        world.heal("a1", "a2");
        assert_eq!((world.sessions(), world.given_up), (vec![("a1", 0), ("a2", 1)], 1));
        assert_eq!(world.released.len(), 0);
        assert_eq!(world.ask("a1", "OPTIONS", ""), ("a1", 200), "through the one to the other");
        assert_eq!(world.ask("a1", "BYE", ""), ("a1", 200));
        assert_eq!(world.released.len(), 1);
        world.check_empty();
    }
}

#[test]
fn who_says_goodbye_leaves_nothing_and_a_draining_node_is_no_partner() {
    let mut world = World::new(&["a1", "a2", "b1"], 1);
    world.call("a1");
    world.run(Duration::from_millis(20));
    assert_eq!(world.nodes["a1"].pairing.partner(), Some("a2"));
    let now = world.now();
    let node = world.nodes.get_mut("a1").unwrap();
    node.pairing.up(now, &mut node.srs, "a2", "a", true, false);
    world.run(Duration::from_millis(50));
    assert_eq!(world.nodes["a1"].pairing.partner(), Some("b1"));
    assert_eq!(world.nodes["a2"].pairing.replicas().counts().count(), 0, "the former partner forgot");
    assert_eq!(world.nodes["b1"].pairing.replicas().counts().collect::<Vec<_>>(), [("a1", 1)]);
    world.unlink("b1", "a1", true);
    assert_eq!(world.sessions(), [("a1", 1), ("a2", 0), ("b1", 0)]);
    assert_eq!(world.nodes["b1"].pairing.replicas().counts().count(), 0);
}

#[test]
fn a_slow_partner_slows_nobody_and_gets_the_newest() {
    let mut world = World::new(&["a1", "a2"], 1);
    world.cut.insert(("a2".to_owned(), "a1".to_owned()));
    for _ in 0..400 {
        world.call("a1");
    }
    world.run(Duration::from_secs(1));
    let now = world.now();
    assert!(world.nodes["a1"].pairing.lag(now) >= Duration::from_secs(1), "nothing was said to have arrived");
    let kept: usize = world.nodes["a2"].pairing.replicas().counts().map(|(_, count)| count).sum();
    assert!(kept < 400, "the window is full: {kept}");
    world.cut.clear();
    world.unlink("a1", "a2", false);
    world.unlink("a2", "a1", true);
    world.link("a1", "a2", false);
    world.run(Duration::from_secs(1));
    assert_eq!(world.nodes["a2"].pairing.replicas().counts().collect::<Vec<_>>(), [("a1", 400)]);
    assert_eq!(world.nodes["a1"].pairing.lag(world.now()), Duration::ZERO);
}

/// Nodes die, are cut off, come back; the SBC asks whoever lives. No call is lost that was replicated, and each ends once.
#[test]
fn whatever_happens_to_nodes_each_call_ends_once() {
    for seed in 0..40_u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = World::new(&["a1", "a2", "b1"], seed);
        for round in 0..6 {
            let first = ["a1", "a2", "b1"][rng.random_range(0..3)];
            world.call(first);
            world.run(Duration::from_millis(30));
            let released = world.released.len();
            for _ in 0..rng.random_range(1..6) {
                match rng.random_range(0..4) {
                    0 => {
                        let dead = ["a1", "a2", "b1"][rng.random_range(0..3)];
                        world.kill(dead);
                        world.run(Duration::from_millis(rng.random_range(0..800)));
                        world.obey();
                        world.start(dead);
                    }
                    1 => {
                        world.cut("a1", "a2");
                        world.run(Duration::from_millis(rng.random_range(0..3_000)));
                        world.obey();
                        world.heal("a1", "a2");
                    }
                    2 => {
                        let to = ["a1", "a2", "b1"][rng.random_range(0..3)];
                        let (_, status) = world.ask(to, "OPTIONS", "");
                        // A third node that holds no copy does not know the call, and says so to OPTIONS as to any.
                        assert_eq!(status, 200, "seed {seed} round {round}");
                    }
                    _ => world.obey(),
                }
                world.run(Duration::from_millis(60));
            }
            world.obey();
            world.run(Duration::from_millis(60));
            let holders: Vec<(&str, usize)> = world.sessions().into_iter().filter(|(_, count)| *count > 0).collect();
            assert_eq!(
                holders.iter().map(|(_, count)| count).sum::<usize>(),
                1,
                "seed {seed} round {round}: {holders:?}"
            );
            let holder = *world.nodes.keys().find(|name| **name == holders[0].0).unwrap();
            assert_eq!(world.ask(holder, "BYE", ""), (holder, 200), "seed {seed} round {round}");
            assert_eq!(world.released.len(), released + 1);
        }
        world.check_empty();
    }
}
