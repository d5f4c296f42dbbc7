//! Many nodes on a bus that loses, doubles, delays and cuts: in the end all have the same, nothing is missing that nobody
//! removed, and nothing removed is back.
//!
//! Time is simulated; a failure names its seed. What must be there is computed beside the nodes: of all writes of a key
//! the one with the latest stamp, unless its life is over.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_state::{Destination, Identity, Kind, NodeId, Output, Soft, SoftConfig, Stamp};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 5;
const KEYS: u32 = 120;

/// How bad the bus is.
#[derive(Clone, Copy)]
struct Bus {
    loss: f64,
    double: f64,
    delay_ms: u64,
}

const BAD: Bus = Bus { loss: 0.2, double: 0.2, delay_ms: 1500 };
const GOOD: Bus = Bus { loss: 0.0, double: 0.0, delay_ms: 5 };

/// The last write of a key.
struct Written {
    stamp: Stamp,
    /// Its value and when its life ends; `None`: removed.
    live: Option<(Bytes, Instant)>,
}

struct World {
    seed: u64,
    random: SmallRng,
    config: SoftConfig,
    start: Instant,
    now: Instant,
    nodes: Vec<Soft>,
    names: Vec<NodeId>,
    /// How far the wall clock of each node is behind that of the one before.
    skew_ms: u64,
    /// Nodes of one side hear one another.
    side: Vec<usize>,
    bus: Bus,
    on_the_way: BTreeMap<(Instant, u64), (usize, Bytes)>,
    sent: u64,
    written: BTreeMap<Bytes, Written>,
    kept: Vec<(Instant, Bytes)>,
}

impl World {
    fn new(seed: u64, config: SoftConfig, skew_ms: u64) -> World {
        let start = Instant::now();
        let names: Vec<NodeId> = (0..NODES).map(|number| NodeId::new(&format!("n{number}")).unwrap()).collect();
        let mut world = World {
            seed,
            random: SmallRng::seed_from_u64(seed),
            config,
            start,
            now: start,
            nodes: Vec::new(),
            skew_ms,
            side: vec![0; NODES],
            bus: GOOD,
            on_the_way: BTreeMap::new(),
            sent: 0,
            written: BTreeMap::new(),
            kept: Vec::new(),
            names,
        };
        for number in 0..NODES {
            let node = world.node(number, 1);
            world.nodes.push(node);
        }
        world
    }

    /// A process.
    fn node(&mut self, number: usize, incarnation: u64) -> Soft {
        let owner = Identity { node: self.names[number].clone(), incarnation };
        let wall_ms = 1_700_000_000_000 + u64::try_from((self.now - self.start).as_millis()).unwrap()
            - self.skew_ms * u64::try_from(number).unwrap();
        let mut soft = Soft::new(self.config.clone(), owner, self.now, wall_ms, self.random.random());
        soft.handle_link(self.now, true);
        soft
    }

    fn drain(&mut self, number: usize) {
        while let Some(output) = self.nodes[number].poll_output() {
            match output {
                Output::Send(Destination::All, bytes) => {
                    // A bus echoes.
                    (0..NODES).for_each(|to| self.carry(number, to, &bytes));
                }
                Output::Send(Destination::Node(node), bytes) => {
                    let to = self.names.iter().position(|name| *name == node).unwrap();
                    self.carry(number, to, &bytes);
                }
                Output::Keep { record, .. } => self.kept.push((self.now, record)),
                Output::Changed(..) | Output::Joined { .. } => {}
            }
        }
    }

    fn carry(&mut self, from: usize, to: usize, bytes: &Bytes) {
        if self.side[from] != self.side[to] || self.random.random_bool(self.bus.loss) {
            return;
        }
        for _ in 0..1 + usize::from(self.random.random_bool(self.bus.double)) {
            let delay = Duration::from_millis(self.random.random_range(1..=self.bus.delay_ms));
            self.sent += 1;
            self.on_the_way.insert((self.now + delay, self.sent), (to, bytes.clone()));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            (0..NODES).for_each(|number| self.drain(number));
            let arrival = self.on_the_way.first_key_value().map(|((at, _), _)| *at);
            let due = self.nodes.iter().filter_map(Soft::poll_timeout).min();
            let Some(next) = [arrival, due].into_iter().flatten().min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            while let Some(arrived) = self.on_the_way.first_entry().filter(|first| first.key().0 <= self.now) {
                let (to, bytes) = arrived.remove();
                self.nodes[to].handle_message(self.now, &bytes);
            }
            for node in &mut self.nodes {
                if node.poll_timeout().is_some_and(|at| at <= self.now) {
                    node.handle_timeout(self.now);
                }
            }
        }
        self.now = end;
    }

    /// A random write somewhere.
    fn write(&mut self, most_life_s: u64) {
        let number = self.random.random_range(0..NODES);
        let key = Bytes::from(format!("user{}", self.random.random_range(0..KEYS)));
        let node = &mut self.nodes[number];
        let live = if self.random.random_bool(0.3) {
            if !node.remove(self.now, Kind::Registration, &key) {
                return;
            }
            None
        } else {
            let value = Bytes::from(self.random.random::<u64>().to_string());
            let life = Duration::from_secs(self.random.random_range(1..=most_life_s));
            node.put(self.now, Kind::Registration, &key, &value, life).unwrap();
            Some((value, self.now + life))
        };
        let stamp = node.stamp(Kind::Registration, &key).unwrap().clone();
        let last = self.written.get(&key);
        if last.is_none_or(|last| last.stamp < stamp) {
            self.written.insert(key, Written { stamp, live });
        }
    }

    fn cut(&mut self) {
        for side in &mut self.side {
            *side = self.random.random_range(0..3);
        }
    }

    fn heal(&mut self) {
        self.side.fill(0);
        self.bus = GOOD;
    }

    /// All nodes have what was written last, as far as it lives, give or take `slack` at the end of a life.
    fn check(&self, what: &str, slack: Duration) {
        let seed = self.seed;
        for (number, node) in self.nodes.iter().enumerate() {
            for (key, last) in &self.written {
                let found = node.get(self.now, Kind::Registration, key).map(|view| view.value);
                match &last.live {
                    None => assert_eq!(found, None, "seed {seed}, {what}: {key:?} is back at n{number}"),
                    Some((_, ends)) if *ends + slack < self.now => {
                        assert_eq!(found, None, "seed {seed}, {what}: {key:?} lives too long at n{number}");
                    }
                    Some((_, ends)) if *ends <= self.now + slack => {}
                    Some((value, _)) => {
                        assert_eq!(found.as_ref(), Some(value), "seed {seed}, {what}: {key:?} at n{number}");
                    }
                }
            }
        }
    }

    fn check_alike(&self, what: &str) {
        for node in &self.nodes {
            assert!(node.digests() == self.nodes[0].digests(), "seed {}, {what}: nodes differ", self.seed);
        }
    }
}

#[test]
fn after_loss_and_partitions_all_have_the_same_and_the_last_write_stands() {
    for seed in 0..20 {
        let mut world = World::new(seed, SoftConfig::default(), 90_000);
        for _ in 0..6 {
            world.bus = BAD;
            world.cut();
            for _ in 0..100 {
                world.write(7_000);
                let pause = Duration::from_millis(world.random.random_range(0..300));
                world.run(pause);
            }
        }
        world.heal();
        world.run(60 * SECOND);
        world.check_alike("healed");
        world.check("healed", Duration::ZERO);
        assert!(world.nodes[0].live(Kind::Registration) > 40 && world.nodes[0].left() > 10, "seed {seed}");
        // Nothing is exchanged any more when nothing differs.
        let before = world.nodes[0].counters().exchanges;
        world.run(30 * SECOND);
        assert_eq!(world.nodes[0].counters().exchanges, before, "seed {seed}");
    }
}

#[test]
fn a_part_that_was_cut_off_longer_than_tombstones_live_brings_nothing_back() {
    let life = 60 * SECOND;
    for seed in 0..20 {
        let config = SoftConfig { life: [life; 3], grace: 20 * SECOND, ..SoftConfig::default() };
        // Of writes on both sides of a cut the later one is known for as long as its tombstone only: here the latest stamp
        // must be the latest write.
        let mut world = World::new(seed, config, 0);
        for _ in 0..150 {
            world.write(60);
            world.run(SECOND / 10);
        }
        world.bus = BAD;
        for _ in 0..4 {
            world.cut();
            let cut_off = 40 * SECOND * world.random.random_range(1..6);
            let until = world.now + cut_off;
            while world.now < until {
                world.write(60);
                world.run(SECOND);
            }
            world.heal();
            world.run(20 * SECOND);
            world.check("healed", 3 * SECOND);
            world.bus = BAD;
        }
        world.heal();
        world.run(life * 4);
        for node in &world.nodes {
            assert_eq!((node.live(Kind::Registration), node.left()), (0, 0), "seed {seed}: everything ends");
        }
    }
}

#[test]
fn nodes_that_start_anew_have_it_from_the_others_and_all_together_from_what_was_kept() {
    for seed in 0..10 {
        let mut world = World::new(seed, SoftConfig::default(), 90_000);
        for _ in 0..200 {
            world.write(7_000);
            world.run(SECOND / 20);
        }
        world.run(10 * SECOND);
        for number in 0..NODES {
            world.bus = Bus { loss: 0.1, ..BAD };
            world.nodes[number] = world.node(number, 2);
            world.run(40 * SECOND);
            world.heal();
            world.run(20 * SECOND);
            assert!(world.nodes[number].is_joined(), "seed {seed}");
            world.check("one started anew", Duration::ZERO);
        }
        for number in 0..NODES {
            world.nodes[number] = world.node(number, 3);
        }
        world.on_the_way.clear();
        // Each reads a part of what was kept, in any order, some of it twice.
        for _ in 0..world.kept.len() * 4 {
            let (at, record) = world.kept[world.random.random_range(0..world.kept.len())].clone();
            let number = world.random.random_range(0..NODES);
            let age = world.now - at;
            world.nodes[number].restore(world.now, &record, age);
        }
        for (at, record) in world.kept.clone() {
            let age = world.now - at;
            world.nodes[0].restore(world.now, &record, age);
        }
        world.run(60 * SECOND);
        world.check_alike("all started anew");
        world.check("all started anew", Duration::ZERO);
    }
}

#[test]
fn sessions_live_with_their_process_through_loss_and_end_after_it() {
    for seed in 0..10 {
        let mut world = World::new(seed, SoftConfig::default(), 90_000);
        world.bus = Bus { loss: 0.2, ..GOOD };
        let now = world.now;
        world.nodes[0].put(now, Kind::Session, b"call", b"at n0", 60 * SECOND).unwrap();
        world.nodes[0].put(now, Kind::Load, b"n0", b"1 call", 15 * SECOND).unwrap();
        for _ in 0..30 {
            world.run(20 * SECOND);
            for node in &world.nodes {
                assert_eq!(node.iter(world.now, Kind::Session).count(), 1, "seed {seed}");
                assert_eq!(node.iter(world.now, Kind::Load).count(), 1, "seed {seed}");
            }
        }
        world.nodes[0] = world.node(0, 2);
        world.run(30 * SECOND);
        for node in &world.nodes {
            assert_eq!(node.iter(world.now, Kind::Load).count(), 0, "seed {seed}");
            assert_eq!(node.iter(world.now, Kind::Session).count(), 1, "seed {seed}: it may be taken over");
        }
        world.run(60 * SECOND);
        assert!(world.nodes.iter().all(|node| node.live(Kind::Session) == 0), "seed {seed}");
    }
}
