//! The task that owns the membership: it gives it what comes, does what it says, and keeps its time.
//!
//! It never waits for the network or for a reader of events: connections are dialled and greeted by tasks of their own,
//! frames go into bounded queues, events into a bounded backlog.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ferric_membership::{
    CloseReason, ControlFrame, Event, Greeting, Heartbeat, Hello, LinkId, Membership, NodeId, Output,
};
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::backlog::Backlog;
use crate::config::WallClock;
use crate::greet::{self, Failure, Greeted};
use crate::inbound::{self, Sinks};
use crate::link::{self, Link};

/// Frames that wait on one control stream; a peer that reads none is cut off.
const CONTROL_QUEUE: usize = 1024;
/// Inputs that are taken between two looks at the clock, at most.
const INPUTS_A_TURN: usize = 1024;
/// How long a node that leaves waits for its peers to hear so.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// What tasks report.
#[derive(Debug)]
pub(crate) enum Input {
    Greeted(Box<Greeted>, Option<SocketAddr>),
    DialFailed(SocketAddr, Failure),
    AnswerFailed(SocketAddr, Failure),
    Control(LinkId, ControlFrame),
    Heartbeat(LinkId, Heartbeat),
    Closed(LinkId, Option<CloseReason>),
}

impl std::fmt::Debug for Greeted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeted").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What the handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    SetDraining(bool),
    Leave(oneshot::Sender<()>),
}

/// What the driver shares with the handle and with tasks.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) membership: Mutex<Membership>,
    pub(crate) links: RwLock<HashMap<NodeId, Arc<Link>>>,
    pub(crate) wall_clock: WallClock,
}

impl Shared {
    pub(crate) fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self) -> Hello {
        self.membership().hello(self.wall_clock.ms())
    }
}

#[derive(Debug)]
struct Wire {
    connection: Connection,
    control: mpsc::Sender<ControlFrame>,
}

pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) endpoint: Endpoint,
    pub(crate) sinks: Sinks,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Sender<Event>,
    wires: HashMap<LinkId, Wire>,
    last_link: u64,
    backlog: Backlog,
    leaving: Option<(Instant, oneshot::Sender<()>)>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        endpoint: Endpoint,
        sinks: Sinks,
        inputs: mpsc::Receiver<Input>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let backlog = Backlog::new(sinks.limits.events);
        Self {
            shared,
            endpoint,
            sinks,
            inputs,
            commands,
            events,
            wires: HashMap::new(),
            last_link: 0,
            backlog,
            leaving: None,
        }
    }

    /// Runs until the node leaves or nobody holds a handle any more.
    pub(crate) async fn run(mut self) {
        let accepting =
            self.sinks.runtime.spawn(accept(self.endpoint.clone(), self.shared.clone(), self.sinks.clone()));
        while self.turn().await {}
        accepting.abort();
        self.shared.links.write().unwrap_or_else(PoisonError::into_inner).clear();
        // Only who says that it leaves has left; a node whose handles were dropped has died.
        let (code, text) = if self.leaving.is_some() { (CloseReason::Leaving.code(), "leaving") } else { (0, "ended") };
        self.endpoint.close(VarInt::from_u32(code), text.as_bytes());
        let _ = tokio::time::timeout(LEAVE_WAIT, self.endpoint.wait_idle()).await;
        if let Some((_, done)) = self.leaving {
            let _ = done.send(());
        }
    }

    async fn turn(&mut self) -> bool {
        let (deadline, events) = (self.deadline(), self.events.clone());
        tokio::select! {
            Some(input) = self.inputs.recv() => self.take(input),
            command = self.commands.recv() => match command {
                None => return false,
                Some(Command::SetDraining(draining)) => self.shared.membership().set_draining(draining),
                Some(Command::Leave(done)) => {
                    self.shared.membership().leave();
                    self.leaving = Some((Instant::now() + LEAVE_WAIT, done));
                }
            },
            permit = events.reserve(), if !self.backlog.is_empty() => match permit {
                Ok(permit) => {
                    if let Some(event) = self.backlog.pop() {
                        permit.send(event);
                    }
                }
                Err(_) => self.backlog.clear(), // nobody listens
            },
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
        // What is here already counts before the clock is looked at.
        for _ in 0..INPUTS_A_TURN {
            let Ok(input) = self.inputs.try_recv() else { break };
            self.take(input);
        }
        self.perform();
        let now = Instant::now();
        if self.deadline() <= now {
            self.shared.membership().handle_timeout(now, self.shared.wall_clock.ms());
            self.perform();
        }
        let left = self.leaving.as_ref().is_some_and(|(until, _)| self.wires.is_empty() || *until <= now);
        !left
    }

    fn deadline(&self) -> Instant {
        let next = self.shared.membership().poll_timeout();
        let leave = self.leaving.as_ref().map(|(until, _)| *until);
        let never = || Instant::now() + Duration::from_secs(3600);
        next.into_iter().chain(leave).min().unwrap_or_else(never)
    }

    fn take(&mut self, input: Input) {
        let (now, wall_ms) = (Instant::now(), self.shared.wall_clock.ms());
        match input {
            Input::Greeted(greeted, dialled) => self.greeted(now, wall_ms, *greeted, dialled),
            Input::DialFailed(address, failure) => {
                debug!(%address, ?failure, "a dial failed");
                self.shared.membership().handle_dial_failed(now, address, failure.reason);
            }
            Input::AnswerFailed(address, failure) => {
                debug!(%address, ?failure, "a connection that came in failed");
                if let Some((by, CloseReason::Refused(refusal))) = failure.reason {
                    let node = failure.certificate.map(|identity| identity.node);
                    self.shared.membership().handle_refused(now, node, address, by, refusal);
                }
            }
            Input::Control(link, frame) => {
                let mut membership = self.shared.membership();
                match frame {
                    ControlFrame::Go => membership.handle_go(now, wall_ms, link),
                    ControlFrame::Profile(profile) => membership.handle_profile(now, link, profile),
                    ControlFrame::Book { entries } => membership.handle_book(now, link, &entries),
                    ControlFrame::Leaving => membership.handle_leaving(now, link),
                    ControlFrame::Hello(_) | ControlFrame::Unknown => {}
                }
            }
            Input::Heartbeat(link, beat) => {
                self.shared.membership().handle_heartbeat(now, wall_ms, link, &beat);
            }
            Input::Closed(link, reason) => {
                if self.wires.remove(&link).is_some() {
                    self.shared.membership().handle_closed(now, wall_ms, link, reason);
                }
            }
        }
        self.perform();
    }

    fn greeted(&mut self, now: Instant, wall_ms: u64, greeted: Greeted, dialled: Option<SocketAddr>) {
        let Greeted { connection, send, receive, certificate, hello } = greeted;
        self.last_link += 1;
        let link = LinkId(self.last_link);
        let (control, frames) = mpsc::channel(CONTROL_QUEUE);
        self.sinks.runtime.spawn(write_control(connection.clone(), send, frames));
        self.sinks.runtime.spawn(read_control(connection.clone(), receive, link, self.sinks.inputs.clone()));
        let (remote, rtt) = (connection.remote_address(), connection.rtt());
        self.wires.insert(link, Wire { connection, control });
        let greeting = Greeting { link, dialled, remote, certificate, hello, rtt };
        self.shared.membership().handle_greeting(now, wall_ms, greeting);
    }

    /// Does what the membership says.
    fn perform(&mut self) {
        loop {
            let Some(output) = self.shared.membership().poll_output() else { return };
            match output {
                Output::Dial(address) => {
                    let (endpoint, shared, sinks) = (self.endpoint.clone(), self.shared.clone(), self.sinks.clone());
                    self.sinks.runtime.spawn(dial(endpoint, shared, sinks, address));
                }
                Output::Up { link, node, protocol } => {
                    let Some(wire) = self.wires.get(&link) else { continue };
                    let (limits, runtime) = (self.sinks.limits, self.sinks.runtime.clone());
                    let sending = Link::new(node.clone(), wire.connection.clone(), protocol, limits, runtime);
                    inbound::spawn_readers(&wire.connection, link, &node, &self.sinks);
                    let mut links = self.shared.links.write().unwrap_or_else(PoisonError::into_inner);
                    links.insert(node, Arc::new(sending));
                }
                Output::Heartbeat(link, beat) => {
                    if let Some(wire) = self.wires.get(&link) {
                        link::send_heartbeat(&wire.connection, &beat);
                    }
                }
                Output::Frame(link, frame) => {
                    if let Some(wire) = self.wires.get(&link)
                        && wire.control.try_send(frame).is_err()
                    {
                        // It ends as if the peer had ended it, and the membership hears so.
                        greet::break_off(&wire.connection, "the control stream is not read");
                    }
                }
                Output::Close(link, reason) => {
                    if let Some(wire) = self.wires.remove(&link) {
                        greet::close(&wire.connection, &reason);
                    }
                }
                Output::Event(event) => self.tell(event),
            }
        }
    }

    /// Keeps an event for its reader.
    fn tell(&mut self, event: Event) {
        log(&event);
        if let Event::Down { node, .. } = &event {
            self.shared.links.write().unwrap_or_else(PoisonError::into_inner).remove(node);
        }
        self.backlog.push(event);
    }
}

fn log(event: &Event) {
    match event {
        Event::Up { node, protocol, restarted, .. } => info!(%node, %protocol, restarted, "node up"),
        Event::Down { node, cause } => warn!(%node, ?cause, "node down"),
        Event::Changed { node, change } => debug!(%node, ?change, "node changed"),
        Event::Refused { node, address, by, refusal } => {
            let node = node.as_ref().map_or("unknown", NodeId::as_str);
            warn!(node, %address, ?by, kind = ?refusal.kind, "connection refused: {refusal}");
        }
        Event::Clock { node, ahead_ms, alarm: true } => warn!(%node, ahead_ms, "wall clocks differ"),
        Event::Clock { node, ahead_ms, alarm: false } => info!(%node, ahead_ms, "wall clocks agree again"),
        Event::Stalled(late) => warn!(?late, "this node slept past its heartbeats"),
        Event::Lagged(count) => warn!(count, "events were not read in time"),
    }
}

async fn dial(endpoint: Endpoint, shared: Arc<Shared>, sinks: Sinks, address: SocketAddr) {
    let dialled =
        tokio::time::timeout(sinks.limits.handshake_timeout, greet::dial(&endpoint, address, || shared.hello()));
    let input = match dialled.await {
        Ok(Ok(greeted)) => Input::Greeted(Box::new(greeted), Some(address)),
        Ok(Err(failure)) => Input::DialFailed(address, failure),
        Err(_) => Input::DialFailed(address, Failure::SILENT),
    };
    let _ = sinks.inputs.send(input).await;
}

/// Takes connections that come in, a bounded number at a time. While half of the places are taken, an address has to
/// show that it is real (RFC 9000 8.1.2); past all of them it has to come again.
async fn accept(endpoint: Endpoint, shared: Arc<Shared>, sinks: Sinks) {
    let most = sinks.limits.handshakes.max(1);
    let places = Arc::new(Semaphore::new(most));
    while let Some(incoming) = endpoint.accept().await {
        if places.available_permits() <= most / 2 && !incoming.remote_address_validated() && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (shared, sinks) = (shared.clone(), sinks.clone());
        sinks.runtime.clone().spawn(async move {
            answer(incoming, shared, sinks).await;
            drop(place);
        });
    }
}

async fn answer(incoming: Incoming, shared: Arc<Shared>, sinks: Sinks) {
    let address = incoming.remote_address();
    let answered = tokio::time::timeout(sinks.limits.handshake_timeout, greet::answer(incoming, || shared.hello()));
    let input = match answered.await {
        Ok(Ok(greeted)) => Input::Greeted(Box::new(greeted), None),
        Ok(Err(failure)) => Input::AnswerFailed(address, failure),
        Err(_) => Input::AnswerFailed(address, Failure::SILENT),
    };
    let _ = sinks.inputs.send(input).await;
}

async fn write_control(connection: Connection, mut stream: SendStream, mut frames: mpsc::Receiver<ControlFrame>) {
    while let Some(frame) = frames.recv().await {
        if greet::write_frame(&mut stream, &frame).await.is_err() {
            return;
        }
    }
    // The driver has dropped this connection. If a peer is to close it, it does so now.
    connection.closed().await;
}

async fn read_control(connection: Connection, mut stream: RecvStream, link: LinkId, inputs: mpsc::Sender<Input>) {
    loop {
        match greet::read_frame(&mut stream).await {
            Ok(frame) => {
                if inputs.send(Input::Control(link, frame)).await.is_err() {
                    return;
                }
            }
            Err(problem) => {
                greet::break_off(&connection, &problem);
                let error = connection.closed().await;
                let _ = inputs.send(Input::Closed(link, greet::peer_reason(&error))).await;
                return;
            }
        }
    }
}
