//! A run from its first call to its report: schedule, sockets, one loop.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ferric_locate::{DnsClient, DnsConfig};
use ferric_sip::flow::Destination;
use ferric_sip::transaction::Timers;
use ferric_sip::{Transport, Uri};
use ferric_sip_io::{ClientTls, Inbound, InboundKind, IoLimits, ListenerConfig, SipSockets};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc::Receiver;

use super::agent::{Agent, AgentConfig, AgentOutput, CallNumber, Ends, Targets};
use super::config::{LoadCodec, LoadConfig, LoadError, LoadTransport};
use super::journal::{Journal, MoveLine, unix_us};
use super::marks;
use super::media::{MediaEngine, StartMedia};
use super::offer::Identity;
use super::report::{CallReport, LoadReport, Outcome, Progress};
use super::speech::{FRAME_MS, Speech, Voice};
use super::tls::client_config;

/// How often the progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Messages taken in one go.
const BATCH: usize = 64;
/// Even ports below the usual ephemeral range, clear of what a recorder on the same host uses.
const RTP_PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Ports tried for one socket.
const PORT_TRIES: u32 = 200;
/// An address to look for a route to when the server has a name: nothing is sent there.
const ANYWHERE: &str = "192.0.2.1:9";

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
    let (ends, sockets, mut inbound) = listen(&config).await?;
    let dns = DnsConfig { servers: config.dns.clone(), ..DnsConfig::default() };
    // Addresses need no DNS, and some hosts have none.
    let mut dns = DnsClient::new(dns).inspect_err(|error| tracing::info!(%error, "names are not looked up")).ok();
    let mut runner = Runner::new(config, speech, ends)?;
    let mut stop = pin!(stop);
    let mut told = Instant::now();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let now = Instant::now();
        runner.begin_due(now);
        runner.carry_out(&sockets);
        if let Some(dns) = &dns {
            runner.agent.pump(now, dns);
        }
        if now.duration_since(told) >= PROGRESS_EVERY {
            told = now;
            progress(runner.progress());
        }
        if runner.is_finished() {
            break;
        }
        let wake = runner.poll_timeout().map_or(told + PROGRESS_EVERY, |due| due.min(told + PROGRESS_EVERY));
        tokio::select! {
            _ = inbound.recv_many(&mut batch, BATCH) => batch.drain(..).for_each(|one| runner.handle_inbound(one)),
            Some((id, answer)) = answered(&mut dns) => runner.agent.handle_answer(Instant::now(), id, answer),
            () = tokio::time::sleep_until(wake.into()) => runner.agent.handle_timeout(Instant::now()),
            () = &mut stop, if !runner.stopping => runner.stop(Instant::now()),
        }
    }
    // What the last call has still to send: the ACK or the answer to a BYE.
    runner.carry_out(&sockets);
    progress(runner.progress());
    runner.finish()
}

/// The next answer of DNS; none ever without DNS.
async fn answered(
    dns: &mut Option<DnsClient>,
) -> Option<(ferric_locate::QueryId, Result<ferric_locate::Answer, ferric_locate::DnsFailure>)> {
    match dns {
        Some(dns) => dns.recv().await,
        None => std::future::pending().await,
    }
}

/// Opens our sockets, on the address from which the server is reached.
async fn listen(config: &LoadConfig) -> Result<(Ends, SipSockets, Receiver<Inbound>), LoadError> {
    let uri = Uri::parse(&config.to).ok().filter(Uri::is_sip).ok_or_else(|| LoadError::To(config.to.clone()))?;
    let failed = |error: std::io::Error| LoadError::Listen(error.to_string());
    let server = match (uri.address(), config.dns.first()) {
        (Some(address), _) => SocketAddr::new(address, uri.port.unwrap_or(5_060)),
        // Whoever has a DNS server of its own lives in the same network.
        (None, Some(dns)) => *dns,
        (None, None) => (uri.host.as_str(), uri.port.unwrap_or(5_060))
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next())
            .or_else(|| ANYWHERE.parse().ok())
            .ok_or_else(|| LoadError::To(config.to.clone()))?,
    };
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = UdpSocket::bind(any).and_then(|probe| probe.connect(server).and(probe.local_addr())).map_err(failed)?;
    let address = SocketAddr::new(config.media_address.unwrap_or(probe.ip()), 0);
    let (transport, tls) = match &config.transport {
        LoadTransport::Udp => (Transport::Udp, None),
        LoadTransport::Tcp => (Transport::Tcp, None),
        LoadTransport::Tls(client) => (Transport::Tls, Some(ClientTls::from(Arc::new(client_config(client)?)))),
    };
    let listeners = [Transport::Udp, Transport::Tcp].map(|transport| ListenerConfig { transport, address, tls: None });
    let limits = IoLimits { messages_per_second: u32::MAX, responses_per_second: u32::MAX, ..IoLimits::default() };
    let (sockets, inbound) = SipSockets::bind(listeners.to_vec(), limits, tls)
        .await
        .map_err(|error| LoadError::Listen(error.to_string()))?;
    let bound = |wanted| sockets.listeners().iter().find(|(transport, _)| *transport == wanted).map(|(_, at)| *at);
    let (udp, tcp) = bound(Transport::Udp)
        .zip(bound(Transport::Tcp))
        .ok_or_else(|| LoadError::Listen("a listener has no address".to_owned()))?;
    Ok((Ends { transport, udp, tcp }, sockets, inbound))
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
    if config.marked && !matches!(config.codec, LoadCodec::Pcmu | LoadCodec::Pcma) {
        return Err(LoadError::Config("marked audio is sent as pcmu or pcma"));
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
    ended: Option<SystemTime>,
    offset: u64,
    moves: Vec<MoveLine>,
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
}

impl Runner {
    fn new(config: LoadConfig, speech: Arc<Speech>, ends: Ends) -> Result<Runner, LoadError> {
        let media_address = config.media_address.unwrap_or(ends.udp.ip());
        let server_name = match &config.transport {
            LoadTransport::Tls(client) => client.server_name.as_deref().map(Arc::from),
            LoadTransport::Udp | LoadTransport::Tcp => None,
        };
        let agent = AgentConfig {
            uri: config.to.clone(),
            server_name,
            patience: config.patience,
            update: config.update,
            refuse_moves: config.refuse_moves,
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
            agent: Agent::new(agent, ends),
            media,
            media_address,
            speech,
            begun: Instant::now(),
            records: Vec::with_capacity(config.calls.min(100_000)),
            sockets: HashMap::new(),
            talking: 0,
            stopping: false,
            next_port: RTP_PORTS.start + rng.random_range(0..(RTP_PORTS.end - RTP_PORTS.start) / 2) * 2,
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
                ended: None,
                offset,
                moves: Vec::new(),
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

    fn handle_inbound(&mut self, inbound: Inbound) {
        let Inbound { flow, at, kind } = inbound;
        match kind {
            InboundKind::Message(message) => self.agent.handle_message(at, message, flow),
            InboundKind::Malformed { error, .. } => tracing::warn!(%error, "the server sent what is no SIP message"),
            InboundKind::TransportError { server_name } => {
                self.agent.handle_broken(at, Destination { flow, server_name });
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        self.stopping = true;
        self.agent.stop(now);
    }

    /// What a stream of a call says.
    fn voices(&self, call: CallNumber, offset: u64) -> [Voice; 2] {
        [0, 1].map(|party: usize| match self.config.marked {
            true => Voice::Marked(marks::mark(self.config.seed, call as u64, party as u64)),
            false => Voice::Party { party, offset },
        })
    }

    fn carry_out(&mut self, sip: &SipSockets) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                AgentOutput::Transmit { to, bytes } => sip.send(to, bytes),
                AgentOutput::Answered { call, set_up, targets } => {
                    self.talking += 1;
                    let start = Instant::now();
                    let Some(record) = self.records.get_mut(call) else { continue };
                    record.set_up = Some(set_up);
                    record.media_started = Some(SystemTime::now());
                    record.moves.push(moved("ANSWER", Some(targets)));
                    let offset = record.offset;
                    if let Some(sockets) = self.sockets.remove(&call) {
                        let packets = self.config.hold.as_millis() / u128::from(FRAME_MS);
                        self.media.start(StartMedia {
                            call,
                            sockets,
                            targets,
                            start,
                            packets: u64::try_from(packets).unwrap_or(u64::MAX),
                            voices: self.voices(call, offset),
                            seed: self.config.seed ^ self.rng.random::<u64>(),
                        });
                    }
                }
                AgentOutput::Changed { call, method, targets } => {
                    self.media.retarget(call, targets);
                    if let Some(record) = self.records.get_mut(call) {
                        record.moves.push(moved(method.as_str(), Some(targets)));
                    }
                }
                AgentOutput::Declined { call, method } => {
                    if let Some(record) = self.records.get_mut(call) {
                        record.moves.push(moved(method.as_str(), None));
                    }
                }
                AgentOutput::Ended { call, outcome } => {
                    self.sockets.remove(&call);
                    self.media.stop(call);
                    if let Some(record) = self.records.get_mut(call) {
                        self.talking -= usize::from(record.media_started.is_some());
                        record.outcome = Some(outcome);
                        record.ended = Some(SystemTime::now());
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
        let (seed, marked) = (self.config.seed, self.config.marked);
        let report = |(number, record): (usize, Record)| {
            let [first, second] = counts.get(&number).cloned().unwrap_or_default();
            let outcome = record.outcome.unwrap_or(Outcome::Cancelled);
            let mark = |party| format!("{:016x}", marks::mark(seed, number as u64, party));
            CallReport {
                journal: Journal {
                    call: number as u64,
                    call_id: record.call_id.clone(),
                    started_us: unix_us(record.started),
                    set_up_us: record.set_up.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
                    media_started_us: record.media_started.map(unix_us),
                    ended_us: unix_us(record.ended.unwrap_or_else(SystemTime::now)),
                    outcome: outcome.to_string(),
                    moves: record.moves,
                    marks: if marked { vec![mark(0), mark(1)] } else { Vec::new() },
                    steps: [first.steps, second.steps],
                    held: [first.held, second.held],
                },
                call_id: record.call_id,
                started: record.started,
                media_started: record.media_started,
                set_up: record.set_up,
                outcome,
                speech_offset: frame * u32::try_from(record.offset).unwrap_or(0),
                packets: first.packets + second.packets,
                lost: first.lost + second.lost,
            }
        };
        let calls = self.records.into_iter().enumerate().map(report).collect();
        Ok(LoadReport::of(calls, latest_packet, self.begun.elapsed()))
    }
}

/// Where the server wants the streams now; without targets it was refused.
fn moved(method: &str, targets: Option<Targets>) -> MoveLine {
    let to = targets.unwrap_or_default().map(|target| target.map(|target| target.rtp.to_string()));
    MoveLine { at_us: unix_us(SystemTime::now()), method: method.to_owned(), to, refused: targets.is_none() }
}

#[cfg(test)]
mod tests;
