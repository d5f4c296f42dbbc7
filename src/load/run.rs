//! A run from its first call to its report: schedule, sockets, one loop.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ferric_sip::Message;
use ferric_sip::transaction::Timers;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::agent::{Agent, AgentConfig, AgentOutput, CallNumber};
use super::config::{LoadConfig, LoadError};
use super::media::{MediaEngine, StartMedia};
use super::offer::Identity;
use super::report::{CallReport, LoadReport, Outcome, Progress};
use super::speech::{FRAME_MS, Speech};
use super::wire::{Wire, WireEvent};

/// How often the progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Tries to get a lost connection back.
const RECONNECTS: u32 = 5;
/// Even ports below the usual ephemeral range, clear of what a recorder on the same host uses.
const RTP_PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Ports tried for one socket.
const PORT_TRIES: u32 = 200;

/// Makes all calls and tells how they went.
///
/// # Errors
/// When the run cannot begin; calls that fail are part of the report.
pub async fn run(config: LoadConfig, progress: impl FnMut(Progress)) -> Result<LoadReport, LoadError> {
    run_until(config, std::future::pending(), progress).await
}

/// Like [`run`], but when `stop` is ready no call begins any more and those that run are ended.
///
/// # Errors
/// When the run cannot begin; calls that fail are part of the report.
pub async fn run_until(
    config: LoadConfig,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(Progress),
) -> Result<LoadReport, LoadError> {
    check(&config)?;
    raise_file_limit();
    let speech = Arc::new(encode(&config).await?);
    let mut wire = Wire::connect(config.to, &config.transport, 1).await?;
    let mut runner = Runner::new(config, speech, &wire)?;
    let mut stop = pin!(stop);
    let mut told = Instant::now();
    loop {
        let now = Instant::now();
        runner.begin_due(now);
        runner.carry_out(&wire).await;
        if now.duration_since(told) >= PROGRESS_EVERY {
            told = now;
            progress(runner.progress());
        }
        if runner.is_finished() {
            break;
        }
        let wake = runner.poll_timeout().map_or(told + PROGRESS_EVERY, |due| due.min(told + PROGRESS_EVERY));
        tokio::select! {
            event = wire.receive() => match event {
                WireEvent::Message(bytes) => runner.handle_bytes(Instant::now(), bytes),
                WireEvent::Refused => runner.agent.handle_broken(Instant::now(), wire.flow),
                WireEvent::Closed => runner.reconnect(&mut wire).await,
            },
            () = tokio::time::sleep_until(wake.into()) => runner.agent.handle_timeout(Instant::now()),
            () = &mut stop, if !runner.stopping => runner.stop(Instant::now()),
        }
    }
    // What the last call has still to send: the ACK or the answer to a BYE.
    runner.carry_out(&wire).await;
    progress(runner.progress());
    runner.finish()
}

fn check(config: &LoadConfig) -> Result<(), LoadError> {
    let probability = |p: f64| (0.0..=1.0).contains(&p);
    if config.calls == 0 {
        return Err(LoadError::Config("at least one call is needed"));
    }
    if !(config.rate_cps > 0.0 && config.rate_cps.is_finite()) {
        return Err(LoadError::Config("the rate is a number of calls per second above 0"));
    }
    let trouble = config.trouble;
    if ![trouble.loss, trouble.reorder, trouble.duplicate].into_iter().all(probability) {
        return Err(LoadError::Config("loss, reordering and doubling are probabilities from 0 to 1"));
    }
    if config.speech_rate == 0 {
        return Err(LoadError::Config("the speech needs a sample rate"));
    }
    Ok(())
}

async fn encode(config: &LoadConfig) -> Result<Speech, LoadError> {
    let (speech, rate, codec) = (config.speech.clone(), config.speech_rate, config.codec);
    tokio::task::spawn_blocking(move || Speech::encode(&speech, rate, codec))
        .await
        .map_err(|error| LoadError::Broken(error.to_string()))?
}

/// Two sockets a call: the usual 1,024 files are soon used up.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// What is known of a call while the run goes on.
#[derive(Debug)]
struct Record {
    call_id: String,
    started: SystemTime,
    media_started: Option<SystemTime>,
    set_up: Option<Duration>,
    outcome: Option<Outcome>,
    offset: u64,
}

struct Runner {
    config: LoadConfig,
    speech: Arc<Speech>,
    agent: Agent,
    media: MediaEngine,
    media_address: IpAddr,
    rng: SmallRng,
    begun: Instant,
    records: Vec<Record>,
    /// Sockets of calls that are not answered yet.
    sockets: HashMap<CallNumber, [UdpSocket; 2]>,
    talking: usize,
    stopping: bool,
    next_port: u16,
    connections: u64,
}

impl Runner {
    fn new(config: LoadConfig, speech: Arc<Speech>, wire: &Wire) -> Result<Runner, LoadError> {
        let media_address = config.media_address.unwrap_or(wire.flow.local.ip());
        let agent = AgentConfig {
            uri: config.request_uri.clone().unwrap_or_else(|| format!("sip:srs@{}", config.to)),
            codec: config.codec,
            media_address,
            hold: config.hold,
            calls: config.calls,
            timers: Timers::default(),
            seed: config.seed,
        };
        let media = MediaEngine::new(config.media_threads, &speech, config.trouble)?;
        let mut rng = SmallRng::seed_from_u64(config.seed);
        Ok(Runner {
            agent: Agent::new(agent, wire.flow),
            media,
            media_address,
            speech,
            begun: Instant::now(),
            records: Vec::with_capacity(config.calls.min(100_000)),
            sockets: HashMap::new(),
            talking: 0,
            stopping: false,
            next_port: RTP_PORTS.start + rng.random_range(0..(RTP_PORTS.end - RTP_PORTS.start) / 2) * 2,
            connections: 1,
            rng,
            config,
        })
    }

    /// When the next call begins.
    fn next_start(&self) -> Option<Instant> {
        let more = !self.stopping && self.records.len() < self.config.calls;
        #[allow(clippy::cast_precision_loss)]
        more.then(|| self.begun + Duration::from_secs_f64(self.records.len() as f64 / self.config.rate_cps))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        [self.agent.poll_timeout(), self.next_start()].into_iter().flatten().min()
    }

    fn is_finished(&self) -> bool {
        self.agent.len() == 0 && self.next_start().is_none()
    }

    fn begin_due(&mut self, now: Instant) {
        while self.next_start().is_some_and(|at| at <= now) {
            let number = self.records.len();
            let identity = Identity::new(number, &mut self.rng);
            let wall = SystemTime::now();
            // A prime step spreads the calls over the speech.
            let offset = if self.config.stagger { number as u64 * 37 % self.speech.len() as u64 } else { 0 };
            let sockets = self.bind().and_then(|first| Some([first, self.bind()?]));
            self.records.push(Record {
                call_id: identity.call_id.clone(),
                started: wall,
                media_started: None,
                set_up: None,
                outcome: sockets.is_none().then_some(Outcome::NoSocket),
                offset,
            });
            if let Some(sockets) = sockets {
                let ports = sockets.each_ref().map(|socket| socket.local_addr().map_or(0, |address| address.port()));
                self.sockets.insert(number, sockets);
                self.agent.start(now, wall, number, identity, ports);
            }
        }
    }

    fn bind(&mut self) -> Option<UdpSocket> {
        for _ in 0..PORT_TRIES {
            let port = self.next_port;
            self.next_port = if port + 2 < RTP_PORTS.end { port + 2 } else { RTP_PORTS.start };
            if let Ok(socket) = UdpSocket::bind((self.media_address, port))
                && socket.set_nonblocking(true).is_ok()
            {
                return Some(socket);
            }
        }
        None
    }

    fn handle_bytes(&mut self, now: Instant, bytes: bytes::Bytes) {
        match Message::parse(bytes) {
            Ok(message) => self.agent.handle_message(now, message),
            Err(error) => tracing::warn!(%error, "the server sent what is no SIP message"),
        }
    }

    fn stop(&mut self, now: Instant) {
        self.stopping = true;
        self.agent.stop(now);
    }

    async fn reconnect(&mut self, wire: &mut Wire) {
        for attempt in 0..RECONNECTS {
            tokio::time::sleep(Duration::from_millis(100) * 2_u32.pow(attempt)).await;
            self.connections += 1;
            if let Ok(new) = Wire::connect(self.config.to, &self.config.transport, self.connections).await {
                *wire = new;
                self.agent.handle_broken(Instant::now(), wire.flow);
                return;
            }
        }
        self.stopping = true;
        self.agent.abandon();
    }

    async fn carry_out(&mut self, wire: &Wire) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                AgentOutput::Transmit(bytes) => wire.send(bytes).await,
                AgentOutput::Answered { call, set_up, targets } => {
                    self.talking += 1;
                    let start = Instant::now();
                    let Some(record) = self.records.get_mut(call) else { continue };
                    record.set_up = Some(set_up);
                    record.media_started = Some(SystemTime::now());
                    if let Some(sockets) = self.sockets.remove(&call) {
                        let packets = self.config.hold.as_millis() / u128::from(FRAME_MS);
                        self.media.start(StartMedia {
                            call,
                            sockets,
                            targets,
                            start,
                            packets: u64::try_from(packets).unwrap_or(u64::MAX),
                            offset: record.offset,
                            seed: self.config.seed ^ self.rng.random::<u64>(),
                        });
                    }
                }
                AgentOutput::Changed { call, targets } => self.media.retarget(call, targets),
                AgentOutput::Ended { call, outcome } => {
                    self.sockets.remove(&call);
                    self.media.stop(call);
                    if let Some(record) = self.records.get_mut(call) {
                        self.talking -= usize::from(record.media_started.is_some());
                        record.outcome = Some(outcome);
                    }
                }
            }
        }
    }

    fn progress(&self) -> Progress {
        let ended = self.records.iter().filter_map(|record| record.outcome.as_ref());
        let (completed, failed): (Vec<_>, Vec<_>) = ended.partition(|outcome| **outcome == Outcome::Completed);
        Progress {
            started: self.records.len(),
            talking: self.talking,
            completed: completed.len(),
            failed: failed.len(),
            packets: self.media.packets(),
        }
    }

    fn finish(self) -> Result<LoadReport, LoadError> {
        let (counts, latest_packet) = self.media.finish()?;
        let frame = Duration::from_millis(u64::from(FRAME_MS));
        let report = |(number, record): (usize, Record)| {
            let count = counts.get(&number).copied().unwrap_or_default();
            CallReport {
                call_id: record.call_id,
                started: record.started,
                media_started: record.media_started,
                set_up: record.set_up,
                outcome: record.outcome.unwrap_or(Outcome::Cancelled),
                speech_offset: frame * u32::try_from(record.offset).unwrap_or(0),
                packets: count.packets,
                lost: count.lost,
            }
        };
        let calls = self.records.into_iter().enumerate().map(report).collect();
        Ok(LoadReport::of(calls, latest_packet, self.begun.elapsed()))
    }
}

#[cfg(test)]
mod tests;
