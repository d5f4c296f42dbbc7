//! The pace of all RTP: a few threads, each with its streams in a heap by the
//! instant at which their next packet is due.
//!
//! Deadlines are absolute, so a thread that woke late catches up and the streams
//! do not drift; how late the worst packet was is part of the report.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::agent::{CallNumber, Target, Targets};
use super::config::{LoadError, Trouble};
use super::rtp::{Packetizer, StreamCount};
use super::speech::{FRAME_MS, Speech, Voice};

/// One packet's time.
const FRAME: Duration = Duration::from_millis(FRAME_MS as u64);
/// A sender report every 250 packets = 5 s; the first after half a second.
const REPORT_EVERY: u64 = 250;
const FIRST_REPORT: u64 = 25;
/// How long an idle thread waits for a command.
const IDLE: Duration = Duration::from_millis(200);

/// A call's two streams.
#[derive(Debug)]
pub(super) struct StartMedia {
    pub(super) call: CallNumber,
    pub(super) sockets: [UdpSocket; 2],
    pub(super) targets: Targets,
    /// When packet 0 of both is due.
    pub(super) start: Instant,
    /// Packets of each stream.
    pub(super) packets: u64,
    pub(super) voices: [Voice; 2],
    pub(super) seed: u64,
}

enum Command {
    Start(Box<StartMedia>),
    Retarget(CallNumber, Targets),
    Stop(CallNumber),
}

/// What all threads share.
#[derive(Debug, Default)]
struct Shared {
    packets: AtomicU64,
    latest_us: AtomicU64,
}

/// All RTP of a run.
#[derive(Debug)]
pub(super) struct MediaEngine {
    threads: Vec<(Sender<Command>, JoinHandle<()>)>,
    shared: Arc<Shared>,
    counts: Receiver<(StreamKey, StreamCount)>,
}

impl MediaEngine {
    /// Starts the threads.
    pub(super) fn new(threads: usize, speech: &Arc<Speech>, trouble: Trouble) -> Result<MediaEngine, LoadError> {
        let shared = Arc::new(Shared::default());
        let (counts_in, counts) = mpsc::channel();
        let spawn = |number: usize| {
            let (commands_in, commands) = mpsc::channel();
            let pacer = Pacer {
                commands,
                counts: counts_in.clone(),
                shared: Arc::clone(&shared),
                speech: Arc::clone(speech),
                trouble,
                streams: HashMap::new(),
                due: BinaryHeap::new(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("load-rtp-{number}"))
                .spawn(move || pacer.run())
                .map_err(|error| LoadError::Broken(error.to_string()))?;
            Ok((commands_in, thread))
        };
        let threads = (0..threads.max(1)).map(spawn).collect::<Result<_, LoadError>>()?;
        Ok(MediaEngine { threads, shared, counts })
    }

    fn command(&self, call: CallNumber, command: Command) {
        if let Some((commands, _)) = self.threads.get(call % self.threads.len().max(1)) {
            // A thread that is gone has panicked; `finish` tells.
            let _ = commands.send(command);
        }
    }

    /// Begins to send.
    pub(super) fn start(&self, media: StartMedia) {
        self.command(media.call, Command::Start(Box::new(media)));
    }

    /// Sends elsewhere, or not at all for a while.
    pub(super) fn retarget(&self, call: CallNumber, targets: Targets) {
        self.command(call, Command::Retarget(call, targets));
    }

    /// Ends a call's streams, if they have not ended by themselves.
    pub(super) fn stop(&self, call: CallNumber) {
        self.command(call, Command::Stop(call));
    }

    /// Packets sent so far.
    pub(super) fn packets(&self) -> u64 {
        self.shared.packets.load(Ordering::Relaxed)
    }

    /// Ends all streams; what each call has sent, and how late the latest packet was.
    pub(super) fn finish(self) -> Result<(HashMap<CallNumber, [StreamCount; 2]>, Duration), LoadError> {
        for (commands, thread) in self.threads {
            drop(commands);
            thread.join().map_err(|_| LoadError::Broken("a thread that sends RTP panicked".to_owned()))?;
        }
        let mut counts: HashMap<CallNumber, [StreamCount; 2]> = HashMap::new();
        for ((call, index), count) in self.counts.try_iter() {
            if let Some(stream) = counts.entry(call).or_default().get_mut(index) {
                *stream = count;
            }
        }
        Ok((counts, Duration::from_micros(self.shared.latest_us.load(Ordering::Relaxed))))
    }
}

type StreamKey = (CallNumber, usize);

struct Stream {
    socket: UdpSocket,
    target: Option<Target>,
    /// The last target that there was, for the final report.
    last: Option<Target>,
    packetizer: Packetizer,
    start: Instant,
    packets: u64,
    cname: String,
}

/// One thread.
struct Pacer {
    commands: Receiver<Command>,
    counts: Sender<(StreamKey, StreamCount)>,
    shared: Arc<Shared>,
    speech: Arc<Speech>,
    trouble: Trouble,
    streams: HashMap<StreamKey, Stream>,
    due: BinaryHeap<Reverse<(Instant, StreamKey)>>,
}

impl Pacer {
    fn run(mut self) {
        loop {
            let wait = self.due.peek().map_or(IDLE, |Reverse((at, _))| at.saturating_duration_since(Instant::now()));
            match self.commands.recv_timeout(wait.min(IDLE)) {
                Ok(command) => self.handle_command(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(command) = self.commands.try_recv() {
                self.handle_command(command);
            }
            let now = Instant::now();
            while let Some(Reverse((at, key))) = self.due.peek().copied() {
                if at > now {
                    break;
                }
                self.due.pop();
                self.step(now, at, key);
            }
        }
        let keys: Vec<StreamKey> = self.streams.keys().copied().collect();
        keys.into_iter().for_each(|key| self.end(key));
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Start(media) => {
                let StartMedia { call, sockets, targets, start, packets, voices, seed } = *media;
                let streams = sockets.into_iter().zip(targets).zip(voices);
                for (index, ((socket, target), voice)) in streams.enumerate() {
                    let seed = seed.wrapping_mul(2).wrapping_add(index as u64);
                    let stream = Stream {
                        socket,
                        target,
                        last: target,
                        packetizer: Packetizer::new(voice, self.trouble, seed),
                        start,
                        packets,
                        cname: format!("party{}-{call}@load", index + 1),
                    };
                    self.streams.insert((call, index), stream);
                    self.due.push(Reverse((start, (call, index))));
                }
            }
            Command::Retarget(call, targets) => {
                for (index, target) in targets.into_iter().enumerate() {
                    if let Some(stream) = self.streams.get_mut(&(call, index)) {
                        stream.target = target;
                        stream.last = target.or(stream.last);
                    }
                }
            }
            Command::Stop(call) => [0, 1].into_iter().for_each(|index| self.end((call, index))),
        }
    }

    fn step(&mut self, now: Instant, at: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let late = u64::try_from(now.duration_since(at).as_micros()).unwrap_or(u64::MAX);
        self.shared.latest_us.fetch_max(late, Ordering::Relaxed);
        match stream.target {
            Some(target) => {
                let (socket, shared) = (&stream.socket, &self.shared);
                stream.packetizer.advance(&self.speech, |packet| {
                    // A send that fails is a packet lost on the way; the server's counters tell.
                    if socket.send_to(packet, target.rtp).is_ok() {
                        shared.packets.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            None => stream.packetizer.skip(),
        }
        let index = stream.packetizer.next_index();
        if index % REPORT_EVERY == FIRST_REPORT {
            stream.report(&self.speech, now, false);
        }
        if index >= stream.packets {
            self.end(key);
        } else {
            let next = stream.start + FRAME * u32::try_from(index).unwrap_or(u32::MAX);
            self.due.push(Reverse((next, key)));
        }
    }

    fn end(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.remove(&key) {
            stream.report(&self.speech, Instant::now(), true);
            let _ = self.counts.send((key, stream.packetizer.count()));
        }
    }
}

impl Stream {
    fn report(&self, speech: &Speech, now: Instant, end: bool) {
        let Some(target) = self.last else { return };
        let since_start = now.saturating_duration_since(self.start);
        let report = self.packetizer.report(speech, SystemTime::now(), since_start, &self.cname, end);
        let _ = self.socket.send_to(&report, target.rtcp);
        // Receiver reports of the server: taken off, so that the socket's buffer does not fill.
        let mut buffer = [0; 1_500];
        while self.socket.recv(&mut buffer).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::load::config::LoadCodec;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn packets_come_at_their_pace_and_the_streams_say_goodbye() {
        let speech = Arc::new(Speech::encode(&[vec![1; 800], vec![2; 800]], 8_000, LoadCodec::Pcma).unwrap());
        let engine = MediaEngine::new(1, &speech, Trouble::default()).unwrap();
        let (receiver, other) = (socket(), socket());
        let target = |socket: &UdpSocket| {
            let address = socket.local_addr().unwrap();
            Some(Target { rtp: address, rtcp: address })
        };
        let sockets = [socket(), socket()];
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let targets = [target(&receiver), target(&other)];
        let voices = [Voice::Party { party: 0, offset: 0 }, Voice::Party { party: 1, offset: 0 }];
        let start = Instant::now();
        engine.start(StartMedia { call: 3, sockets, targets, start, packets: 10, voices, seed: 1 });
        let mut buffer = [0; 1_500];
        let mut kinds = Vec::new();
        while kinds.last() != Some(&200) {
            let length = receiver.recv(&mut buffer).unwrap();
            kinds.push(if buffer[1] == 200 { 200 } else { length });
        }
        assert!(start.elapsed() >= Duration::from_millis(180), "{:?}", start.elapsed());
        assert_eq!(kinds, [[172; 10].as_slice(), &[200]].concat());
        let (counts, _) = engine.finish().unwrap();
        assert_eq!(counts[&3].each_ref().map(|stream| (stream.packets, stream.steps)), [(10, 10); 2]);
    }
}
