//! The capture worker: takes assignments, owns shards, ports and the scribe.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use ferric_codecs::opus::OpusSettings;
use ferric_media::keys::Recipient;
use ferric_media::metadata::SessionInfo;
use ferric_media::recorder::{Output, Recorder, RecorderConfig};
use ferric_media::rtp::StreamIndex;
use ferric_media::stream::StreamConfig;
use ferric_media::timestamp::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

use crate::call::{
    Assignment, CallSnapshot, Control, ControlError, ControlOutcome, Refusal, StreamAddress, Taken, WorkerEvent,
};
use crate::mirror::{Copies, MirrorStats};
use crate::ports::{PortPool, SocketPair};
use crate::scribe::{Ending, Entry, Scribe, ScribeStats};
use crate::shard::{Command, Shard, ShardStats};
use crate::spool::{Spool, SpoolError};
use crate::spool_index::RecordingStart;
use crate::spool_writer::{FinishedRecording, SpoolWriter};

/// Commands that may wait for a shard.
const COMMANDS: usize = 4_096;
/// Frames of mirrors that may wait for a shard: half a second of 400 copies.
const FRAMES: usize = 8_192;
/// Entries that may wait for the scribe: some seconds of a thousand calls.
const ENTRIES: usize = 16_384;
/// A shard this late is too busy for another call.
const OVERLOADED: Duration = Duration::from_millis(400);
/// A shard answers within this, or is counted as silent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A tenant as capture knows it.
#[derive(Debug, Clone)]
pub struct TenantKeys {
    /// Who can open.
    pub recipients: Vec<Recipient>,
    /// Keep the times of key presses and not the keys.
    pub mask_dtmf: bool,
}

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The node's id.
    pub node: String,
    /// Where RTP is received.
    pub rtp_address: IpAddr,
    /// The address for SDP, where it differs.
    pub advertise: Option<IpAddr>,
    /// First and last port.
    pub rtp_ports: (u16, u16),
    /// Calls at once.
    pub max_calls: usize,
    /// Encoder settings.
    pub opus: OpusSettings,
    /// Audio is sealed at least this often.
    pub segment: Duration,
    /// Silence of all active streams that is worth an event.
    pub rtp_timeout: Duration,
    /// Threads; one a core is right.
    pub shards: usize,
    /// Whose calls can be taken.
    pub tenants: HashMap<String, TenantKeys>,
}

/// What a worker measures.
#[derive(Debug)]
pub struct WorkerStats {
    /// Of each shard.
    pub shards: Vec<Arc<ShardStats>>,
    /// Of the scribe.
    pub scribe: Arc<ScribeStats>,
    /// Calls refused.
    pub refused: AtomicU64,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    pub(crate) config: WorkerConfig,
    spool: Spool,
    pub(crate) shards: Vec<Sender<Command>>,
    pub(crate) frames: Vec<Sender<(Instant, Bytes)>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    scribe: Mutex<Option<Sender<Entry>>>,
    /// The shard, and the sockets' addresses, of each call.
    pub(crate) calls: Mutex<HashMap<Uuid, Placed>>,
    /// Of calls that run elsewhere.
    pub(crate) copies: Arc<Copies>,
    pub(crate) mirrors: Arc<MirrorStats>,
    ports: Mutex<PortPool>,
    returned: Receiver<u16>,
    events: UnboundedSender<WorkerEvent>,
    stats: WorkerStats,
    spool_full: AtomicBool,
    draining: AtomicBool,
}

#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) shard: usize,
    pub(crate) addresses: Vec<StreamAddress>,
}

/// What a part of this recording still listens on here and its next part is to have.
fn restored(id: Uuid, before: &Placed, restore: &[StreamAddress]) -> Vec<Taken> {
    let passes = |have: &StreamAddress| {
        let wanted = restore.iter().find(|wanted| wanted.address == have.address)?;
        Some(Taken { from: id, stream: have.stream, becomes: wanted.stream })
    };
    before.addresses.iter().filter_map(passes).collect()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// Starts the threads. `finish` takes each recording whose call is over.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        config: WorkerConfig,
        spool: Spool,
        finish: impl Fn(FinishedRecording, &Ending) + Send + 'static,
    ) -> std::io::Result<(Arc<Worker>, UnboundedReceiver<WorkerEvent>)> {
        let (events, receiver) = unbounded_channel();
        let (scribe, entries) = bounded(ENTRIES);
        let (returned_ports, returned) = unbounded();
        let scribe_stats = Arc::new(ScribeStats::default());
        let mut threads = Vec::new();
        let thread = |name: String| std::thread::Builder::new().name(name);
        let writer =
            Scribe { entries, events: events.clone(), finish: Box::new(finish), stats: Arc::clone(&scribe_stats) };
        threads.push(thread("scribe".into()).spawn(move || writer.run())?);
        let (mut shards, mut frames, mut shard_stats) = (Vec::new(), Vec::new(), Vec::new());
        let (copies, mirrors) = (Arc::new(Copies::default()), Arc::new(MirrorStats::default()));
        for number in 0..config.shards.max(1) {
            let (commands, receiver) = bounded(COMMANDS);
            let (to_frames, from_frames) = bounded(FRAMES);
            let stats = Arc::new(ShardStats::default());
            let shard = Shard {
                commands: receiver,
                scribe: scribe.clone(),
                events: events.clone(),
                returned_ports: returned_ports.clone(),
                frames: from_frames,
                copies: Arc::clone(&copies),
                mirror_stats: Arc::clone(&mirrors),
                stats: Arc::clone(&stats),
            };
            threads.push(thread(format!("shard-{number}")).spawn(move || shard.run())?);
            shards.push(commands);
            frames.push(to_frames);
            shard_stats.push(stats);
        }
        let ports = PortPool::new(config.rtp_address, config.rtp_ports.0, config.rtp_ports.1);
        let ports = ports.rotated(usize::from(rand::random::<u16>()));
        let worker = Worker {
            spool,
            shards,
            frames,
            threads: Mutex::new(threads),
            scribe: Mutex::new(Some(scribe)),
            calls: Mutex::new(HashMap::new()),
            copies,
            mirrors,
            ports: Mutex::new(ports),
            returned,
            events,
            stats: WorkerStats { shards: shard_stats, scribe: scribe_stats, refused: AtomicU64::new(0) },
            spool_full: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            config,
        };
        Ok((Arc::new(worker), receiver))
    }

    /// Takes a call, or the next part of one that ends what this worker still has of it: binds its sockets, sets up its files, starts its recorder.
    ///
    /// # Errors
    /// [`Refusal`] says why not; nothing is left behind then.
    pub fn assign(&self, assignment: Assignment) -> Result<Vec<StreamAddress>, Refusal> {
        self.place(assignment).inspect_err(|_| {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn place(&self, assignment: Assignment) -> Result<Vec<StreamAddress>, Refusal> {
        self.admit()?;
        let tenant = self.config.tenants.get(&assignment.tenant).ok_or(Refusal::Broken)?;
        let id = assignment.part.recording;
        let before = lock(&self.calls).get(&id).cloned();
        let beside = || assignment.beside.and_then(|beside| self.shard_of(beside));
        let shard = before.as_ref().map(|before| before.shard).or_else(beside);
        let shard = shard.unwrap_or_else(|| self.least_loaded());
        let mut takes = assignment.takes.clone();
        takes.extend(before.iter().flat_map(|before| restored(id, before, &assignment.restore)));
        let (taken, mut addresses) = self.taken(&takes, shard);
        let is_new = |stream: &&StreamConfig| !taken.iter().any(|taken| taken.becomes == stream.index);
        let new = assignment.streams.iter().filter(is_new).map(|stream| stream.index);
        let sockets = self.bind(new, &assignment.restore)?;
        addresses.extend(self.addresses(&sockets));
        let session = Box::new(assignment.session.clone());
        let streams = assignment.streams.clone();
        let (recorder, writer) = match self.begin(Instant::now(), assignment, tenant) {
            Ok(begun) => begun,
            Err(refusal) => {
                self.give_back(sockets);
                return Err(refusal);
            }
        };
        self.hand_over(&taken);
        lock(&self.calls).insert(id, Placed { shard, addresses: addresses.clone() });
        self.write(Entry::Begin { writer: Box::new(writer) });
        self.tell(shard, Command::Begin { recorder: Box::new(recorder), session, streams, sockets, taken });
        Ok(addresses)
    }

    /// Which streams can pass to a call of this shard, and their addresses there.
    fn taken(&self, takes: &[Taken], shard: usize) -> (Vec<Taken>, Vec<StreamAddress>) {
        let calls = lock(&self.calls);
        let find = |taken: &Taken| {
            let placed = calls.get(&taken.from).filter(|placed| placed.shard == shard)?;
            let have = placed.addresses.iter().find(|have| have.stream == taken.stream)?;
            Some((*taken, StreamAddress { stream: taken.becomes, address: have.address }))
        };
        takes.iter().filter_map(find).unzip()
    }

    /// The sockets of these streams are others' from now on.
    fn hand_over(&self, taken: &[Taken]) {
        let mut calls = lock(&self.calls);
        for taken in taken {
            if let Some(placed) = calls.get_mut(&taken.from) {
                placed.addresses.retain(|have| have.stream != taken.stream);
            }
        }
    }

    /// Whether another call can be taken at all.
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::Draining);
        }
        if self.spool_full.load(Ordering::Relaxed) || self.stats.scribe.disk_refuses.load(Ordering::Relaxed) {
            return Err(Refusal::SpoolFull);
        }
        let lag = self.stats.shards.iter().map(|shard| shard.lag_us.load(Ordering::Relaxed)).min().unwrap_or(0);
        if lock(&self.calls).len() + self.copies.len() >= self.config.max_calls
            || u128::from(lag) > OVERLOADED.as_micros()
        {
            return Err(Refusal::Capacity);
        }
        Ok(())
    }

    /// The recorder and its files.
    pub(crate) fn begin(
        &self,
        now: Instant,
        assignment: Assignment,
        tenant: &TenantKeys,
    ) -> Result<(Recorder, SpoolWriter), Refusal> {
        let (part, id) = (assignment.part, assignment.part.recording);
        let mut config =
            RecorderConfig::new(id, &assignment.tenant, &self.config.node, tenant.recipients.clone(), rand::random());
        config.part = part;
        config.lost_at = assignment.lost.map(Timestamp::from);
        config.opus = self.config.opus;
        config.segment = self.config.segment;
        config.rtp_timeout = self.config.rtp_timeout;
        config.mask_dtmf = tenant.mask_dtmf;
        config.session = assignment.session;
        let mut recorder = Recorder::new(now, assignment.started, config, assignment.streams).map_err(|error| {
            tracing::error!(recording = %id, %error, "a recording cannot begin");
            Refusal::Broken
        })?;
        let (mut header, mut metadata) = (Vec::new(), Vec::new());
        while let Some(output) = recorder.poll_output() {
            match output {
                Output::Audio(bytes) => header.extend_from_slice(&bytes),
                Output::Metadata(bytes) => metadata = bytes,
                Output::Rtcp { .. } | Output::Frame(_) | Output::Event(_) => {}
            }
        }
        let start = RecordingStart {
            part,
            tenant: assignment.tenant,
            node: self.config.node.clone(),
            started_at: Timestamp::from(assignment.started),
        };
        let writer = self.spool.begin(start, &header, &metadata).map_err(|error: SpoolError| {
            tracing::error!(recording = %id, %error, "the spool takes no recording");
            if error.is_disk_full() { Refusal::SpoolFull } else { Refusal::Broken }
        })?;
        Ok((recorder, writer))
    }

    /// Sockets for streams: those of `restore` on their ports, the others on any.
    pub(crate) fn bind(
        &self,
        streams: impl Iterator<Item = StreamIndex>,
        restore: &[StreamAddress],
    ) -> Result<Vec<(StreamIndex, SocketPair)>, Refusal> {
        if restore.iter().any(|wanted| wanted.address.ip() != self.ip()) {
            tracing::warn!("streams of another address cannot be restored here");
            return Err(Refusal::NoPorts);
        }
        let mut ports = lock(&self.ports);
        for port in self.returned.try_iter() {
            ports.give_back(port);
        }
        let mut sockets = Vec::new();
        for stream in streams {
            let wanted = restore.iter().find(|wanted| wanted.stream == stream);
            let pair = match wanted {
                Some(wanted) => ports.take_exactly(wanted.address.port()),
                None => ports.take(),
            };
            match pair {
                Ok(pair) => sockets.push((stream, pair)),
                Err(error) => {
                    tracing::warn!(%error, "no RTP port");
                    drop(ports);
                    self.give_back(sockets);
                    return Err(Refusal::NoPorts);
                }
            }
        }
        Ok(sockets)
    }

    fn give_back(&self, sockets: Vec<(StreamIndex, SocketPair)>) {
        let mut ports = lock(&self.ports);
        for (_, pair) in sockets {
            let port = pair.port;
            drop(pair);
            ports.give_back(port);
        }
    }

    pub(crate) fn addresses(&self, sockets: &[(StreamIndex, SocketPair)]) -> Vec<StreamAddress> {
        let address = |port| SocketAddr::new(self.ip(), port);
        sockets.iter().map(|(stream, pair)| StreamAddress { stream: *stream, address: address(pair.port) }).collect()
    }

    /// The address that peers send to.
    fn ip(&self) -> IpAddr {
        self.config.advertise.unwrap_or(self.config.rtp_address)
    }

    pub(crate) fn least_loaded(&self) -> usize {
        let load = |(_, stats): &(usize, &Arc<ShardStats>)| stats.calls.load(Ordering::Relaxed);
        self.stats.shards.iter().enumerate().min_by_key(load).map_or(0, |(index, _)| index)
    }

    /// Gives a call other streams; those that stay keep their sockets, and so do those taken from another call.
    ///
    /// # Errors
    /// [`Refusal`] when a new stream gets no port; the call goes on as it was.
    pub fn update(&self, id: Uuid, streams: Vec<StreamConfig>, takes: &[Taken]) -> Result<Vec<StreamAddress>, Refusal> {
        let mut placed = lock(&self.calls).get(&id).cloned().ok_or(Refusal::Broken)?;
        let (taken, passed) = self.taken(takes, placed.shard);
        placed.addresses.extend(passed);
        let is_new = |stream: &&StreamConfig| !placed.addresses.iter().any(|have| have.stream == stream.index);
        let sockets = self.bind(streams.iter().filter(is_new).map(|stream| stream.index), &[])?;
        self.hand_over(&taken);
        let mut addresses = placed.addresses;
        addresses.extend(self.addresses(&sockets));
        addresses.retain(|have| streams.iter().any(|stream| stream.index == have.stream));
        if let Some(placed) = lock(&self.calls).get_mut(&id) {
            placed.addresses.clone_from(&addresses);
        }
        self.tell(placed.shard, Command::Update { id, streams, sockets, taken });
        Ok(addresses)
    }

    /// More is known of a call.
    pub fn set_session(&self, id: Uuid, session: SessionInfo) {
        if let Some(shard) = self.shard_of(id) {
            self.tell(shard, Command::Session { id, session: Box::new(session) });
        }
    }

    /// Lets a call stand still: [`Worker::update`] lets it go on, [`Worker::release`] ends it as of now.
    pub fn park(&self, id: Uuid) {
        if let Some(shard) = self.shard_of(id) {
            self.tell(shard, Command::Park { id });
        }
    }

    /// Ends a call; its recording is finished behind.
    pub fn release(&self, id: Uuid, reason: &'static str) {
        let placed = lock(&self.calls).remove(&id);
        if let Some(placed) = placed {
            self.tell(placed.shard, Command::Release { id, reason });
        }
    }

    /// Pause, resume, tags. Blocks until the shard has done it.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] when there is no such call.
    pub fn control(&self, id: Uuid, control: Control) -> Result<ControlOutcome, ControlError> {
        let shard = self.shard_of(id).ok_or(ControlError::NotFound)?;
        let (reply, answer) = bounded(1);
        self.tell(shard, Command::Control { id, control, reply });
        answer.recv_timeout(PATIENCE).unwrap_or(Err(ControlError::NotFound))
    }

    /// Every running call. Blocks until all shards have answered.
    pub fn calls(&self) -> Vec<CallSnapshot> {
        let mut answers = VecDeque::new();
        for shard in 0..self.shards.len() {
            let (reply, answer) = bounded(1);
            self.tell(shard, Command::Snapshot { reply });
            answers.push_back(answer);
        }
        answers.into_iter().filter_map(|answer| answer.recv_timeout(PATIENCE).ok()).flatten().collect()
    }

    /// True while the call runs.
    pub fn is_recording(&self, id: Uuid) -> bool {
        lock(&self.calls).contains_key(&id)
    }

    /// Calls at the moment.
    pub fn call_count(&self) -> usize {
        lock(&self.calls).len()
    }

    /// Port pairs not in use, and all.
    pub fn free_ports(&self) -> (usize, usize) {
        let mut ports = lock(&self.ports);
        for port in self.returned.try_iter() {
            ports.give_back(port);
        }
        (ports.free(), ports.total())
    }

    /// `capture.max_calls`.
    pub fn max_calls(&self) -> usize {
        self.config.max_calls
    }

    /// Whether new calls are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Counts.
    pub fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// Whether the spool is past its mark: new calls are refused then.
    pub fn set_spool_full(&self, full: bool) {
        self.spool_full.store(full, Ordering::Relaxed);
    }

    /// Takes no new calls from now on, or takes them again.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Ends every call, writes everything, and returns when the threads are done.
    pub fn shut_down(&self) {
        self.set_draining(true);
        for shard in 0..self.shards.len() {
            self.tell(shard, Command::Shutdown);
        }
        lock(&self.calls).clear();
        lock(&self.scribe).take();
        let threads: Vec<JoinHandle<()>> = lock(&self.threads).drain(..).collect();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a capture thread had panicked");
            }
        }
    }

    pub(crate) fn shard_of(&self, id: Uuid) -> Option<usize> {
        lock(&self.calls).get(&id).map(|placed| placed.shard)
    }

    pub(crate) fn tell(&self, shard: usize, command: Command) {
        let sent = self.shards.get(shard).map(|commands| commands.send(command));
        if !matches!(sent, Some(Ok(()))) {
            tracing::error!(shard, "a shard is gone");
            let _ = self.events.send(WorkerEvent::ShardGone { shard });
        }
    }

    pub(crate) fn write(&self, entry: Entry) {
        let scribe = lock(&self.scribe).clone();
        if scribe.is_none_or(|scribe| scribe.send(entry).is_err()) {
            tracing::error!("the scribe is gone");
        }
    }
}
