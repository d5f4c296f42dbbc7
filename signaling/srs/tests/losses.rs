//! The SRS, the switchboard and workers together: workers are killed and come back, and every call is heard where it is recorded.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod rig;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_sip::sdp::Sdp;
use ferric_sip::{Flow, Message, Method, Transport};
use ferric_srs::placement::{
    Directory, Holder, HolderConfig, HolderOutput, LoadReport, Policy, Switchboard, SwitchboardOutput, ToServer,
    WorkerId,
};
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId, StreamSpec};
use ferric_srs::{Srs, SrsEvent, SrsOutput};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rig::{SDP, config};

const SERVER: &str = "srs";
const WORKERS: u8 = 4;

/// A worker's node, with a capture that takes everything.
struct Worker {
    holder: Holder,
    up: bool,
    running: HashMap<RecordingId, Vec<AssignedStream>>,
    next_port: u16,
}

impl Worker {
    fn new() -> Worker {
        let holder = Holder::new(HolderConfig { max_call: Duration::from_secs(3_600) });
        Worker { holder, up: false, running: HashMap::new(), next_port: 40_000 }
    }

    fn sockets(&mut self, host: u8, had: &[AssignedStream], streams: &[StreamSpec]) -> Vec<AssignedStream> {
        let mut socket = |stream: &StreamSpec| {
            if let Some(known) = had.iter().find(|known| known.index == stream.index) {
                return *known;
            }
            self.next_port += 2;
            AssignedStream { index: stream.index, address: ([192, 0, 2, host], self.next_port).into() }
        };
        streams.iter().map(&mut socket).collect()
    }

    fn perform(&mut self, host: u8, part: &mut HashMap<RecordingId, u32>, command: Command) -> Option<CaptureEvent> {
        match command {
            Command::Assign { recording, part: of, streams, .. } => {
                assert!(
                    of.restore.iter().all(|stream| stream.address.to_string().starts_with(&format!("192.0.2.{host}:")))
                );
                part.insert(recording, of.number);
                let streams = self.sockets(host, &of.restore, &streams);
                self.running.insert(recording, streams.clone());
                Some(CaptureEvent::Ready { recording, part: of.number, streams })
            }
            Command::Change { recording, streams, .. } => {
                let had = self.running[&recording].clone();
                let streams = self.sockets(host, &had, &streams);
                self.running.insert(recording, streams.clone());
                Some(CaptureEvent::Ready { recording, part: part[&recording], streams })
            }
            Command::Release { recording, .. } => {
                self.running.remove(&recording);
                None
            }
            Command::Info { .. } | Command::Park { .. } => None,
        }
    }
}

#[derive(Default)]
struct Client {
    to_tag: String,
    sends_to: Vec<SocketAddr>,
    stays: bool,
    over: bool,
}

struct World {
    now: Instant,
    srs: Srs,
    switchboard: Switchboard,
    workers: BTreeMap<u8, Worker>,
    parts: HashMap<RecordingId, u32>,
    clients: Vec<Client>,
    moved: usize,
    stayed: usize,
}

fn id(worker: u8) -> WorkerId {
    WorkerId::new(&format!("w{worker}"))
}

fn sockets(message: &Message) -> Vec<SocketAddr> {
    let media = Sdp::parse(message.body()).unwrap().media;
    media.iter().filter_map(|media| media.rtp_address()).collect()
}

impl World {
    fn new(seed: u64) -> World {
        let now = Instant::now();
        let mut config = config();
        config.seed = seed;
        let directory = Directory::new(SERVER, "east", Policy::LeastLoaded, 1);
        let mut world = World {
            now,
            srs: Srs::new(config, now, SystemTime::UNIX_EPOCH),
            switchboard: Switchboard::new(directory, None, 1),
            workers: (20..20 + WORKERS).map(|host| (host, Worker::new())).collect(),
            parts: HashMap::new(),
            clients: Vec::new(),
            moved: 0,
            stayed: 0,
        };
        for host in 20..20 + WORKERS {
            world.start(host);
        }
        world
    }

    /// A worker can be reached: with nothing after it was killed, with all that it had when only its link was cut.
    fn start(&mut self, host: u8) {
        let worker = self.workers.get_mut(&host).unwrap();
        worker.up = true;
        worker.holder.handle_up(SERVER);
        self.switchboard.handle_up(id(host), "east");
        let load = LoadReport { number: 1, max_calls: 100, ..LoadReport::default() };
        self.switchboard.handle_message(self.now, &id(host), ToServer::Load { load });
        self.run();
    }

    fn kill(&mut self, host: u8) {
        self.workers.insert(host, Worker::new());
        self.switchboard.handle_down(self.now, &id(host));
        self.run();
    }

    /// It cannot be reached, and goes on.
    fn cut(&mut self, host: u8) {
        let worker = self.workers.get_mut(&host).unwrap();
        worker.up = false;
        worker.holder.handle_down(SERVER);
        self.switchboard.handle_down(self.now, &id(host));
        self.run();
    }

    fn send(&mut self, call: usize, method: &str, cseq: u32, body: &str) {
        let tag = &self.clients[call].to_tag;
        let tag = if tag.is_empty() { String::new() } else { format!(";tag={tag}") };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "{method} sip:srs@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/TCP 198.51.100.20:5060;branch=z9hG4bK{call}{method}{cseq};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:src@198.51.100.20>;tag=s{call}\r\nTo: <sip:srs@192.0.2.10>{tag}\r\nCall-ID: {call}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:src@198.51.100.20>;+sip.src\r\nAllow: INVITE, UPDATE\r\n{kind}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.arrive(Message::parse(Bytes::from(text)).unwrap());
    }

    fn arrive(&mut self, message: Message) {
        let flow = Flow {
            transport: Transport::Tcp,
            local: "192.0.2.10:5060".parse().unwrap(),
            remote: "198.51.100.20:5060".parse().unwrap(),
            connection: 1,
        };
        self.srs.handle_message(self.now, message, flow);
        self.run();
    }

    /// The client takes what the server sends.
    fn hear(&mut self, message: &Message) {
        let call: usize = message.call_id().unwrap().parse().unwrap();
        let client = &mut self.clients[call];
        if message.is_request() {
            if message.method() == Method::Ack {
                return;
            }
            let offers = !message.body().is_empty();
            let stays = offers && client.stays;
            let mut response = Message::response(message, if stays { 488 } else { 200 }, None);
            if offers && !stays {
                client.sends_to = sockets(message);
                response.set_body("application/sdp", Bytes::from(SDP));
            }
            client.over |= message.method() == Method::Bye;
            self.arrive(Message::parse(response.to_bytes()).unwrap());
        } else if message.method() == Method::Invite && message.status() == Some(200) {
            client.to_tag = message.to().unwrap().tag().unwrap().to_owned();
            client.sends_to = sockets(message);
            self.send(call, "ACK", message.cseq().unwrap().number, "");
        } else if message.method() == Method::Invite && message.status().is_some_and(|status| status >= 300) {
            client.over = true;
        }
    }

    /// Everything that is on its way arrives.
    fn run(&mut self) {
        loop {
            if let Some(output) = self.srs.poll_output() {
                match output {
                    SrsOutput::Transmit { bytes, .. } => self.hear(&Message::parse(bytes).unwrap()),
                    SrsOutput::Capture(command) => self.switchboard.handle_command(self.now, command),
                    SrsOutput::Event(SrsEvent::Moved { recording, .. }) => {
                        self.moved += 1;
                        self.switchboard.moved(recording);
                    }
                    SrsOutput::Event(SrsEvent::MoveRefused { .. }) => self.stayed += 1,
                    SrsOutput::Event(_) => {}
                }
            } else if let Some(output) = self.switchboard.poll_output() {
                match output {
                    SwitchboardOutput::Send { to, message } => {
                        let host: u8 = to.as_str()[1..].parse().unwrap();
                        let worker = self.workers.get_mut(&host).unwrap();
                        if worker.up {
                            worker.holder.handle_message(self.now, SERVER, message);
                        }
                    }
                    SwitchboardOutput::Tell(event) => self.srs.handle_capture(self.now, event),
                    SwitchboardOutput::Placed { .. } => {}
                    other @ (SwitchboardOutput::Local(_)
                    | SwitchboardOutput::Promote(_)
                    | SwitchboardOutput::Stop(_)) => {
                        panic!("no worker is here, and nobody stops a call: {other:?}")
                    }
                }
            } else if !self.run_workers() {
                return;
            }
        }
    }

    fn run_workers(&mut self) -> bool {
        for (host, worker) in &mut self.workers {
            if let Some(output) = worker.holder.poll_output() {
                match output {
                    HolderOutput::Do(command) => {
                        if let Some(event) = worker.perform(*host, &mut self.parts, *command) {
                            worker.holder.handle_capture(event);
                        }
                    }
                    // Nothing is mirrored here.
                    HolderOutput::Promote { owner, recordings } => worker.holder.no_copy(&owner, recordings),
                    HolderOutput::Send { message, .. } => {
                        self.switchboard.handle_message(self.now, &id(*host), message);
                    }
                }
                return true;
            }
        }
        false
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = [self.srs.poll_timeout(), self.switchboard.poll_timeout()].into_iter().flatten().min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.srs.handle_timeout(self.now);
            self.switchboard.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    fn call(&mut self, stays: bool) {
        self.clients.push(Client { stays, ..Client::default() });
        self.send(self.clients.len() - 1, "INVITE", 1, SDP);
    }

    /// Every call that is not over sends to where it is recorded.
    fn assert_heard(&self, what: &str) {
        let running: Vec<SocketAddr> = self
            .workers
            .values()
            .flat_map(|worker| worker.running.values().flatten())
            .map(|stream| stream.address)
            .collect();
        for (call, client) in self.clients.iter().enumerate().filter(|(_, client)| !client.over) {
            assert!(
                client.sends_to.iter().all(|socket| running.contains(socket)),
                "{what}: call {call} {:?}",
                client.sends_to
            );
        }
        assert_eq!(
            running.len(),
            2 * self.clients.iter().filter(|client| !client.over).count(),
            "{what}: nothing else runs"
        );
    }
}

#[test]
fn the_calls_of_a_killed_worker_go_to_the_others_and_those_that_stay_get_theirs_back() {
    let mut world = World::new(1);
    for call in 0..80 {
        world.call(call % 10 == 0);
    }
    world.assert_heard("before");
    let theirs = world.workers[&20].running.len();
    assert!((15..=25).contains(&theirs));
    world.kill(20);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.moved + world.stayed, theirs);
    world.pass(Duration::from_secs(30));
    world.start(20);
    world.assert_heard("after");
    assert_eq!((world.moved, world.workers[&20].running.len()), (theirs, world.stayed));
    for call in 0..80 {
        world.send(call, "BYE", 2, "");
        world.clients[call].over = true;
    }
    world.assert_heard("at the end");
    assert_eq!((world.srs.sessions(), world.switchboard.len()), (0, 0));
}

#[test]
fn workers_come_and_go_at_random_and_every_call_is_heard_in_the_end() {
    let (mut moved, mut stayed) = (0, 0);
    for seed in 0..100 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = World::new(seed);
        for _ in 0..60 {
            match rng.random_range(0..10) {
                0..=3 => world.call(rng.random_bool(0.2)),
                4 => world.kill(20 + rng.random_range(0..WORKERS)),
                5 => world.cut(20 + rng.random_range(0..WORKERS)),
                6 | 7 => {
                    let host = 20 + rng.random_range(0..WORKERS);
                    if !world.workers[&host].up {
                        world.start(host);
                    }
                }
                8 if !world.clients.is_empty() => {
                    let call = rng.random_range(0..world.clients.len());
                    if !world.clients[call].over {
                        world.send(call, "BYE", 2, "");
                        world.clients[call].over = true;
                    }
                }
                _ => world.pass(Duration::from_millis(rng.random_range(0..2_000))),
            }
        }
        for host in 20..20 + WORKERS {
            if !world.workers[&host].up {
                world.start(host);
            }
        }
        world.pass(Duration::from_secs(10));
        world.assert_heard(&format!("seed {seed}"));
        (moved, stayed) = (moved + world.moved, stayed + world.stayed);
    }
    assert!(moved > 300 && stayed > 30, "{moved} {stayed}");
}
