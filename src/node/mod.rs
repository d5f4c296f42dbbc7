//! A running node: every part started, wired and stopped in the right order.
//!
//! ```text
//! start: keys -> cluster (listens) -> spool (locked) -> catalogue -> recovery -> stores, uploader -> finisher, sync -> worker
//!        -> SIP -> console -> cluster (tells who is there)
//! SIP has a thread of its own: sockets, proxy and SRS share it, so that a message wakes nobody else. So has the fabric.
//! stop:  no new calls -> running calls -> SIP -> worker (files finished) -> finisher -> uploader -> goodbye to the cluster
//!        -> console
//! ```

mod asks;
mod assurance;
mod backend;
mod bridge;
mod capture;
mod catalogue;
mod cluster;
mod directory;
mod edge;
mod gate;
mod keys;
mod proxy_backend;
mod rebuild;
mod registrar;
mod request_log;
mod reserve;
mod route_test;
mod sight;
mod signalling;
mod steering;
mod thread;
mod watch;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use ferric_assurance::Ledger;
use ferric_media::keys::Recipient;
use ferric_media::manifest::RecordingState;
use ferric_media::part::Part;
use ferric_sip::dialog::SessionTimerConfig;
use ferric_sip::flow::Transport;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip_io::{ClientTls, IoLimits, ListenerConfig, SipSockets, client_config, server_config};
use ferric_srs::offer::MediaPolicy;
use ferric_srs::port::{CaptureEvent, RecordingId};
use ferric_srs::{Srs, SrsConfig, TakeoverConfig};
use ferric_worker::Ending;
use ferric_worker::call::WorkerEvent;
use ferric_worker::mirror::settle::Patience;
use ferric_worker::recover::recover;
use ferric_worker::spool::Spool;
use ferric_worker::spool_commit::Finisher;
use ferric_worker::spool_gauge::{HighWater, SpoolGauge};
use ferric_worker::spool_writer::FinishedRecording;
use ferric_worker::store::open_target;
use ferric_worker::sync::GroupSync;
use ferric_worker::upload::{Stores, UploadConfig, UploadEvent, UploadHandle, Uploader};
use ferric_worker::worker::{TenantKeys, Worker, WorkerConfig};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, SipListener, Source};
use crate::console::{BACKLOG, Console, Event};
use crate::metrics;
use asks::{Asks, Order};
pub(crate) use assurance::FOLDER as ASSURANCE;
use backend::NodeBackend;
use capture::report::Owners;
use catalogue::Bookkeeper;
use cluster::mirror::{self, Mirrors};
use cluster::{Admin, Cluster, Topic};
use gate::Gate;
pub(crate) use rebuild::rebuild_catalogue;
use signalling::{Signalling, SignallingStats};
use steering::Steering;
use thread::OwnThread;

/// Dirty files are synced at least this often.
const SYNC_INTERVAL: Duration = Duration::from_millis(700);
/// Dialogs without a session timer are probed this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(120 * 60);
/// Sessions of one SRS node in a cluster, whose workers say what they can take.
const CLUSTER_SESSIONS: usize = 50_000;
/// A stopping node waits this long for its last messages to leave.
const GOODBYE: Duration = Duration::from_millis(300);
/// A stopping node gives its last uploads this long; what is left goes on at the next start.
const LAST_UPLOADS: Duration = Duration::from_secs(5);

/// What a started node says of itself.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// SIP listeners with their true ports.
    pub sip: Vec<(Transport, SocketAddr)>,
    /// The HTTP listener.
    pub console: SocketAddr,
    /// Where things are kept.
    pub data_dir: PathBuf,
    /// The admin token's file.
    pub token_file: PathBuf,
    /// The node's public signing key.
    pub node_key: PathBuf,
    /// Recordings that a crash had cut off and that were finished now.
    pub recovered: usize,
    /// It records; one that does not forwards only.
    pub records: bool,
}

/// A running node.
pub struct Node {
    addresses: Addresses,
    worker: Arc<Worker>,
    finisher: Arc<Finisher>,
    sync: GroupSync,
    uploads: UploadHandle,
    orders: mpsc::UnboundedSender<Order>,
    signalling: Arc<SignallingStats>,
    books: Bookkeeper,
    ledger: Ledger,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    book_task: JoinHandle<()>,
    uploader: JoinHandle<()>,
    sip_thread: OwnThread,
    steering: Arc<Steering>,
    request_log: Option<request_log::RequestLog>,
    gate: Gate,
    /// Where recordings of other nodes are begun and ended.
    serve_thread: Option<OwnThread>,
}

impl Node {
    /// Starts everything.
    ///
    /// # Errors
    /// Whatever cannot be had: a port, a key, the spool, the catalogue.
    pub async fn start(config: Config) -> anyhow::Result<Node> {
        Node::start_from(config, None).await
    }

    /// Starts everything; with a source the configuration can be changed while it runs.
    ///
    /// # Errors
    /// Whatever cannot be had: a port, a key, the spool, the catalogue.
    pub async fn start_from(config: Config, source: Option<Source>) -> anyhow::Result<Node> {
        raise_file_limit(config.capture.max_calls);
        let identity = keys::prepare(&config)?;
        let reserve = reserve::Reserve::open(&config.node.data_dir);
        let cluster = Cluster::start(&config)?;
        let spool_root = config.node.data_dir.join("spool");
        let spool =
            Spool::open(&spool_root).with_context(|| format!("the spool {} cannot be opened", spool_root.display()))?;
        let (books, book_task) = catalogue::open(&config, identity.party_key).await?;
        let hint = books.last_manifest(&config.node.id).await;
        let (committer, recovery) = recover(&spool, Arc::clone(&identity.node_key), &config.node.id, hint)
            .context("the spool cannot be read")?;
        for (folder, reason) in &recovery.aside {
            tracing::error!(folder, reason, "a damaged recording was set aside");
        }
        let (events, _) = broadcast::channel(BACKLOG);
        let ledger = assurance::open(&config, &identity, events.clone())?;
        let owners = Owners::open(&config.node.data_dir, config.cluster.is_some());
        for manifest in recovery.finished.iter().chain(&recovery.ready) {
            books.ready(manifest);
            owners.finished(manifest, assurance::finished(&ledger, manifest));
        }
        // In a cluster another node may have the calls of the last life: it is asked when it can be.
        let last_life = cluster.fabric().map(|_| cluster::LastLife {
            open: ledger.open_invites(),
            finished: recovery.finished.iter().chain(&recovery.ready).cloned().collect(),
            owners: owners.clone(),
        });
        if cluster.fabric().is_none() {
            let settled = ledger.settle("the node stopped", &config.node.id);
            if settled > 0 {
                tracing::warn!(settled, "calls of the node's last life have their outcome now");
            }
        }
        for _ in &recovery.finished {
            metrics::recording("recovered");
        }
        let stop = CancellationToken::new();
        let stores = Stores::default();
        for tenant in config.tenants.iter().filter(|tenant| !tenant.store.is_empty()) {
            let target = open_target(&tenant.store, &tenant.prefix)
                .with_context(|| format!("the store of tenant {}", tenant.name))?;
            stores.set(&tenant.name, target.clone());
            tokio::spawn(watch::probe_store(tenant.name.clone(), target, stores.clone()));
        }
        let upload_config = UploadConfig {
            concurrency: config.upload.concurrency,
            bandwidth: config.upload.bandwidth,
            window: config.upload.window,
            ..UploadConfig::default()
        };
        let upload_books = books.clone();
        let stored = events.clone();
        let mirrors_cell: Arc<OnceLock<Mirrors>> = Arc::default();
        let stored_mirrors = Arc::clone(&mirrors_cell);
        let upload_events = Box::new(move |event| {
            if let UploadEvent::Stored { manifest, .. } = &event {
                let _ = stored.send(part_event("recording.stored", manifest.manifest.part));
                if let Some(mirrors) = stored_mirrors.get() {
                    mirrors.stored(&manifest.manifest.tenant, manifest.manifest.part.file);
                }
            }
            watch::upload_event(&upload_books, event);
        });
        let (uploads, uploader) =
            Uploader::start(spool.clone(), stores.clone(), upload_config, upload_events, stop.child_token());
        let (ready_uploads, ready_books) = (uploads.clone(), books.clone());
        let (ready_ledger, ready_owners) = (ledger.clone(), owners.clone());
        let finisher = Arc::new(Finisher::start(committer, move |manifest| {
            ready_owners.finished(manifest, assurance::finished(&ready_ledger, manifest));
            ready_books.ready(manifest);
            ready_uploads.submit(manifest);
        })?);
        let sync = GroupSync::start(spool.clone(), SYNC_INTERVAL)?;
        let gauge = Arc::new(SpoolGauge::new(spool.clone(), HighWater::Percent(config.upload.spool_high_water)));
        let (submit, ended_ledger, ended_owners) = (Arc::clone(&finisher), ledger.clone(), owners.clone());
        let finish = move |finished: FinishedRecording, ending: &Ending| {
            let part = finished.start.part;
            let reason = (finished.state == RecordingState::Partial).then(|| ending.reason.to_string());
            if !finished.is_held() {
                let gaps = assurance::gaps(ending);
                ended_owners.details(part.file, &gaps, reason.clone());
                ended_ledger.details(part.recording, part.number.get(), gaps, reason);
            }
            submit.submit(finished);
        };
        let (worker, worker_events) = Worker::start(worker_config(&config)?, spool.clone(), finish)?;
        let max_call = config.recording.max_call;

        let sip_thread = OwnThread::start("sip")?;
        let bound = {
            let config = config.clone();
            sip_thread.handle.spawn(async move { bind_sip(&config).await }).await.context("the SIP thread is gone")?
        };
        let (sockets, inbound) = bound?;
        let sip = sockets.listeners().to_vec();
        let console_listener = TcpListener::bind(config.console.listen)
            .await
            .with_context(|| format!("cannot listen on {} for HTTP: set [console] listen", config.console.listen))?;
        let console_address = console_listener.local_addr()?;

        let (orders, order_receiver) = mpsc::unbounded_channel();
        let (asks, ask_receiver) = Asks::new();
        let signalling = Arc::new(SignallingStats::default());
        let srs = Srs::new(srs_config(&config, &sip), Instant::now(), SystemTime::now());
        let mut epoch = edge::epoch(&config, &sip)?;
        let registrations = steering::registrations(&config);
        if let Err(error) = epoch.open_registrar(&registrations) {
            tracing::error!(folder = %registrations.display(), %error, "there is no registrar: its folder cannot be used");
        }
        let registers = epoch.registers();
        let request_log = open_request_log(&config);
        let looks_on = sight::Sight::new(config.homer.as_ref(), request_log.clone());
        let ladders = looks_on.ladders();
        let last_good = config.node.data_dir.join("dns.json");
        let servers = config.proxy.as_ref().map_or_else(Vec::new, |proxy| proxy.dns.clone());
        let (transports, ipv6) = spoken(&sip);
        let directory = {
            let start =
                async move { directory::Directory::start(&servers, transports, ipv6, last_good, Instant::now()) };
            sip_thread.handle.spawn(start).await.context("the SIP thread is gone")??
        };
        let drained = steering::read_drained(&config);
        let edge = edge::Edge::new(
            epoch,
            drained,
            directory,
            identity.proxy_secret,
            registrar::shared::Sharing::start(&cluster),
            Instant::now(),
        );
        let mut tasks = Vec::new();
        let (released, dropped_books) = (Arc::clone(&finisher), books.clone());
        let mirrors = mirror::Parts {
            worker: Arc::clone(&worker),
            spool: spool.clone(),
            stores: stores.clone(),
            submit: Box::new(move |finished| released.submit(finished)),
            dropped: Box::new(move |part| dropped_books.dropped(part)),
            tenants: config.mirrors().map(|tenant| tenant.name.clone()).collect(),
            patience: Patience::default(),
        };
        let mirrors = Mirrors::start(mirrors, &cluster, stop.child_token(), &mut tasks);
        if let Some(mirrors) = &mirrors {
            let _ = mirrors_cell.set(mirrors.clone());
        }
        let parts = capture::Parts {
            cluster: cluster.clone(),
            worker: Arc::clone(&worker),
            gauge: Arc::clone(&gauge),
            books: books.clone(),
            ledger: ledger.clone(),
            owners,
            mirrors: mirrors.clone(),
            orders: orders.clone(),
            asks: asks.clone(),
        };
        let capture = parts.start(&config, &mut tasks)?;
        let pairs = cluster::Pairs::new(&cluster).filter(|_| config.is_srs());
        if let Some(topic) = cluster.topic(cluster::Topic::Replica).filter(|_| pairs.is_some()) {
            let read = cluster::read_pairs(cluster.clone(), topic, cluster.follow(), orders.clone(), ledger.clone());
            tasks.push(tokio::spawn(read));
        }
        if let Some(last) = last_life {
            tasks.push(tokio::spawn(cluster::settle_pairs(cluster.clone(), ledger.clone(), last)));
        }
        let task = Signalling::new(
            srs,
            edge,
            looks_on,
            sockets.clone(),
            capture.commands,
            pairs,
            Arc::clone(&signalling),
            ledger.clone(),
            events.clone(),
            config.is_srs(),
        );
        tasks.push(sip_thread.handle.spawn(task.run(inbound, order_receiver, ask_receiver)));
        tasks.push(tokio::spawn(capture_events(
            worker_events,
            capture.told,
            books.clone(),
            Arc::clone(&signalling),
            events.clone(),
        )));

        let is_proxy = config.node.roles.iter().any(|role| role == "proxy");
        let shared = steering::Shared::of(&cluster, is_proxy);
        let steering = Steering::open(&config, source, &sip, registers, asks, events.clone(), shared);
        tasks.push(tokio::spawn(Arc::clone(&steering).follow()));
        let watcher = watch::Watcher {
            worker: Arc::clone(&worker),
            spool,
            gauge,
            uploads: uploads.clone(),
            finisher: Arc::clone(&finisher),
            sockets,
            signalling: Arc::clone(&signalling),
            ledger: ledger.clone(),
            max_call,
            state: Arc::new(watch::State::default()),
            steering: Arc::clone(&steering),
            request_log: request_log.clone(),
            books: books.clone(),
            reserve,
            cluster: cluster.clone(),
            mirrors,
        };
        let gate = Gate { orders: orders.clone(), worker: Arc::clone(&worker), cluster: cluster.clone() };
        let admin = Admin {
            cluster: cluster.clone(),
            gate: gate.clone(),
            watcher: watcher.clone(),
            records: config.is_worker(),
            roles: config.node.roles.clone(),
            started: Instant::now(),
        };
        if let Some(asked) = cluster.topic(Topic::Admin) {
            tasks.push(tokio::spawn(admin.clone().serve(asked)));
        }
        let backend = NodeBackend {
            live: capture.live,
            books: books.clone(),
            stores,
            spool_root,
            watcher: watcher.clone(),
            ledger: ledger.clone(),
            node_key: identity.node_key.public().clone(),
            events: events.clone(),
            prometheus: metrics::install().ok(),
            steering: Arc::clone(&steering),
            ladders,
            admin,
        };
        tasks.push(tokio::spawn(watcher.run(stop.child_token())));
        let console_stop = stop.child_token();
        let console = Console::new(Arc::new(backend), &identity.admin_token);
        tasks.push(tokio::spawn(async move {
            if let Err(error) = console.serve(console_listener, async move { console_stop.cancelled().await }).await {
                tracing::error!(%error, "the HTTP listener failed");
            }
        }));
        let addresses = Addresses {
            sip,
            console: console_address,
            data_dir: config.node.data_dir.clone(),
            token_file: identity.token_file,
            node_key: identity.node_public_file,
            recovered: recovery.finished.len(),
            records: config.records(),
        };
        cluster.open(events);
        Ok(Node {
            addresses,
            worker,
            finisher,
            sync,
            uploads,
            orders,
            signalling,
            books,
            ledger,
            stop,
            tasks,
            book_task,
            uploader,
            sip_thread,
            steering,
            request_log,
            gate,
            serve_thread: capture.thread,
        })
    }

    /// Where it listens and keeps things.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Recordings that wait for the store or are under way.
    pub fn uploads_waiting(&self) -> usize {
        self.uploads.stats().waiting
    }

    /// Calls at the moment: recording sessions, and what passes through to others.
    pub fn calls(&self) -> usize {
        let of = |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::Relaxed);
        // What is recorded for other nodes has no session here.
        of(&self.signalling.sessions).max(self.worker.call_count()) + of(&self.signalling.passing)
    }

    /// Reads the configuration file again (SIGHUP); what comes of it is said in the log and shown by the API.
    pub async fn reload(&self) {
        let reload = |steering: &Steering| {
            steering.reload();
            Ok(())
        };
        if let Err(error) = self.steering.run(reload).await {
            tracing::error!(%error, "SIGHUP: the file was not read");
        }
    }

    /// Refuses new calls with 503, or takes them again.
    pub fn refuse(&self, refuse: bool) {
        let _ = self.orders.send(Order::Refuse(refuse));
    }

    /// Takes no new calls from now on.
    pub async fn drain(&self) {
        self.gate.set_draining(true).await;
    }

    /// Ends what still runs, finishes every file and stops.
    pub async fn stop(self) {
        let cluster = self.gate.cluster.clone();
        let _ = self.orders.send(Order::StopAll);
        tokio::time::sleep(GOODBYE).await;
        let worker = Arc::clone(&self.worker);
        let joined = tokio::task::spawn_blocking(move || worker.shut_down()).await;
        if joined.is_err() {
            tracing::error!("the capture worker did not stop cleanly");
        }
        // What the worker told last still reaches the books.
        tokio::time::sleep(GOODBYE).await;
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        // The worker's threads and our tasks are gone, and with them the other handles to the finisher.
        drop(self.worker);
        drop(self.gate);
        let (finisher, sync, request_log) = (self.finisher, self.sync, self.request_log);
        let threads = (self.sip_thread, self.serve_thread);
        let _ = tokio::task::spawn_blocking(move || {
            drop(threads);
            if let Some(log) = request_log {
                log.close();
            }
            drop(finisher);
            drop(sync);
        })
        .await;
        self.ledger.sync();
        // What a store takes now need not wait for the next start.
        let deadline = Instant::now() + LAST_UPLOADS;
        while self.uploads.stats().waiting > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.close().await;
        self.stop.cancel();
        let _ = self.uploader.await;
        self.books.close(self.book_task).await;
    }
}

/// Many calls need many sockets: asks for all the file handles that the system allows.
fn raise_file_limit(max_calls: usize) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    // Two streams with two sockets each, two files, and some for connections.
    let wanted = u64::try_from(max_calls).unwrap_or(u64::MAX).saturating_mul(7).saturating_add(500);
    if hard < wanted {
        tracing::warn!(hard, wanted, "the limit of open files is too low for capture.max_calls; raise LimitNOFILE");
    }
}

fn worker_config(config: &Config) -> anyhow::Result<WorkerConfig> {
    let mut tenants = HashMap::new();
    // Who only signals needs nobody's key.
    for tenant in config.tenants.iter().filter(|_| config.is_worker()) {
        let mut recipients = Vec::new();
        for file in &tenant.public_keys {
            let pem = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
            recipients.push(Recipient::from_pem(&pem).with_context(|| format!("{}", file.display()))?);
        }
        if recipients.is_empty() {
            bail!("tenant {} has no public key", tenant.name);
        }
        tenants.insert(tenant.name.clone(), TenantKeys { recipients, mask_dtmf: tenant.mask_dtmf });
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(WorkerConfig {
        node: config.node.id.clone(),
        rtp_address: config.capture.rtp_address,
        advertise: config.capture.advertise,
        rtp_ports: config.capture.rtp_ports,
        max_calls: config.capture.max_calls,
        opus: config.opus,
        segment: config.upload.segment,
        rtp_timeout: config.recording.rtp_timeout,
        shards: if config.is_worker() { cores } else { 1 },
        tenants,
    })
}

async fn bind_sip(config: &Config) -> anyhow::Result<(SipSockets, mpsc::Receiver<ferric_sip_io::Inbound>)> {
    let (mut server_tls, mut client_tls) = (None, None);
    if let Some(tls) = &config.sip.tls {
        server_tls = Some(server_config(&tls.certificate, &tls.private_key, tls.client_ca.as_deref())?);
        if let Some(ca) = &tls.client_ca {
            client_tls = Some(client_config(ca, Some((&tls.certificate, &tls.private_key)))?.into());
        }
    }
    if client_tls.is_none() && config.proxy.is_some() {
        let identity = config.sip.tls.as_ref().map(|tls| (tls.certificate.clone(), tls.private_key.clone()));
        client_tls = Some(ClientTls::of_system(identity));
    }
    let listener = |listener: &SipListener| ListenerConfig {
        transport: listener.transport,
        address: listener.address,
        tls: server_tls.clone().filter(|_| listener.transport == Transport::Tls),
    };
    let limits = IoLimits {
        max_message: config.sip.max_message,
        messages_per_second: config.sip.requests_per_second_per_source,
        rates: config.sip.rates.clone(),
        max_connections: config.sip.max_connections,
        max_connections_per_source: config.sip.max_connections_per_source,
        ..IoLimits::default()
    };
    let listeners = config.sip.listeners.iter().map(listener).collect();
    let bound = SipSockets::bind(listeners, limits, client_tls).await;
    let (sockets, inbound) = bound.context("SIP: set [[sip.listen]] to another address")?;
    sockets.set_trust(config.trust_table());
    Ok((sockets, inbound))
}

/// The log of finished requests; without it the node runs all the same.
fn open_request_log(config: &Config) -> Option<request_log::RequestLog> {
    let file = config.proxy.as_ref()?.request_log.as_ref()?;
    let file = if file.is_absolute() { file.clone() } else { config.node.data_dir.join(file) };
    match request_log::RequestLog::open(&file) {
        Ok(log) => Some(log),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "the log of finished requests cannot be written");
            None
        }
    }
}

/// Transports that this node can send by, and whether it has IPv6.
fn spoken(bound: &[(Transport, SocketAddr)]) -> (Vec<Transport>, bool) {
    let mut transports: Vec<Transport> = bound.iter().map(|(transport, _)| *transport).collect();
    transports.sort();
    transports.dedup();
    (transports, bound.iter().any(|(_, address)| address.is_ipv6()))
}

fn srs_config(config: &Config, bound: &[(Transport, SocketAddr)]) -> SrsConfig {
    let names = edge::advertised(config, bound);
    let advertise = bound
        .iter()
        .enumerate()
        .filter_map(|(at, (transport, address))| Some((*transport, *address, names.get(&at)?.clone())));
    SrsConfig {
        timers: Timers::default(),
        limits: TransactionLimits::default(),
        trust: config.trust_table(),
        media: MediaPolicy {
            storable: bridge::storable,
            suites: bridge::SUITES,
            srtp_required: config
                .tenants
                .iter()
                .filter(|tenant| tenant.srtp_required)
                .map(|tenant| tenant.name.clone())
                .collect(),
            sdes_without_tls: config.sip.sdes_without_tls,
        },
        session_timer: SessionTimerConfig::default(),
        max_call: config.recording.max_call,
        probe_interval: PROBE_INTERVAL,
        // Capture refuses with a reason; this bound only keeps the table finite.
        max_sessions: match config.cluster {
            None => config.capture.max_calls.saturating_mul(2).max(64),
            Some(_) => CLUSTER_SESSIONS,
        },
        takeover: TakeoverConfig {
            by_invite: config.cluster.as_ref().is_some_and(|cluster| cluster.moves_by_invite),
            ..TakeoverConfig::default()
        },
        advertise: advertise.collect(),
        contact: config.cluster.as_ref().and_then(|cluster| cluster.contact.clone()),
        listeners: bound.to_vec(),
        seed: rand::random(),
        key_seed: rand::random(),
    }
}

/// An event of a part of a recording.
fn part_event(name: &'static str, part: Part) -> Event {
    let number = part.is_later().then_some(part.number.get());
    Event { recording: Some(part.recording), part: number, ..Event::new(name) }
}

/// What capture tells, to whom it concerns.
async fn capture_events(
    mut events: mpsc::UnboundedReceiver<WorkerEvent>,
    told_by: capture::Told,
    books: Bookkeeper,
    signalling: Arc<SignallingStats>,
    told: broadcast::Sender<Event>,
) {
    while let Some(event) = events.recv().await {
        match event {
            WorkerEvent::FirstMedia { id } => {
                told_by.tell(CaptureEvent::MediaHeard { recording: RecordingId(id) }).await;
            }
            WorkerEvent::MediaSilent { id } => {
                told_by.tell(CaptureEvent::MediaSilent { recording: RecordingId(id) }).await;
            }
            WorkerEvent::Undecryptable { id, in_clear } => signalling.undecryptable(id, in_clear),
            WorkerEvent::Decryptable { id } => signalling.decryptable(id),
            WorkerEvent::Failed { id } => {
                told_by.tell(CaptureEvent::Died { recording: RecordingId(id) }).await;
            }
            WorkerEvent::TookOver { part, lost_ms } => {
                metrics::failovers("worker", 1);
                let _ = told.send(Event { lost_ms: Some(lost_ms), ..part_event("recording.handed-over", part) });
            }
            WorkerEvent::Finished { part, tenant, state, ending } => {
                let id = part.recording;
                metrics::recording(state.as_str());
                books.finished(part, &tenant, &ending);
                let outcome = Some(state.as_str());
                let _ = told.send(Event { outcome, ..part_event("recording.finished", part) });
                signalling.decryptable(id);
                tracing::info!(recording = %id, state = state.as_str(), ms = ending.totals.duration_ms, "recording finished");
            }
            WorkerEvent::ShardGone { shard } => tracing::error!(shard, "a capture thread is gone: restart the node"),
        }
    }
}
