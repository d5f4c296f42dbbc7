//! The signalling task: sockets in, the proxy, the SRS, sockets out; commands to capture.
//!
//! ```text
//! sockets -> Edge (proxy) -> Local -> Srs -> capture
//!              |                       |
//!              v                       v
//!           sockets                 sockets
//! ```
//!
//! One task owns [`Edge`] and [`Srs`]; everything reaches it through channels ([`super::asks`]), so there is no lock around them. It shares a
//! thread with the SIP sockets, so that a message wakes nobody else. Capture ([`super::capture`]) is asked directly: an
//! assignment binds sockets and creates files, which takes a fraction of a millisecond, or is a message to another node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_assurance::Ledger;
use ferric_proxy::Handled;
use ferric_proxy::group::GroupEvent;
use ferric_sip::flow::{Destination, Flow};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip_io::{Inbound, InboundKind, SipSockets};
use ferric_srs::port::{Command, RefuseReason};
use ferric_srs::{Srs, SrsEvent, SrsOutput};
use tokio::sync::{broadcast, mpsc};
use tokio::time::sleep_until;
use uuid::Uuid;

use super::asks::{Ask, Order};
use super::capture::remote::News;
use super::capture::{Capture, Heard};
use super::cluster::{Pairs, Wanted};
use super::edge::{Edge, EdgeEvent};
use super::route_test::Told;
use super::sight::Sight;
use crate::console::Event;
use crate::metrics;

/// The SRS's idea of the wall clock is renewed this often.
const CLOCK: Duration = Duration::from_secs(10);
/// Gauges and counters of signalling are brought up to date this often.
const EXPORT: Duration = Duration::from_secs(1);
/// Messages taken before timers, others and the sockets get their turn.
const BATCH: usize = 64;
/// More messages than these wait (some ten milliseconds of work): calls that begin are turned away.
const CROWD: usize = 1_024;
/// Timers that are so late tell of a thread that stood still.
const STALL: Duration = Duration::from_millis(100);
/// What is due may be late by this, so that the timers of many calls share one wake-up.
const SLACK: Duration = Duration::from_millis(10);

/// Numbers that others read.
#[derive(Debug, Default)]
pub(super) struct SignallingStats {
    pub(super) sessions: AtomicUsize,
    pub(super) transactions: AtomicUsize,
    /// Requests and calls that pass through and are not over.
    pub(super) passing: AtomicUsize,
    /// Recordings whose SRTP cannot be opened at the moment; true: it looks like media in clear.
    undecryptable: Mutex<BTreeMap<Uuid, bool>>,
}

impl SignallingStats {
    pub(super) fn undecryptable(&self, id: Uuid, in_clear: bool) {
        metrics::undecryptable();
        self.undecryptable.lock().unwrap_or_else(PoisonError::into_inner).insert(id, in_clear);
    }

    pub(super) fn decryptable(&self, id: Uuid) {
        self.undecryptable.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Recordings whose SRTP cannot be opened.
    pub(super) fn unopened(&self) -> Vec<(Uuid, bool)> {
        let known = self.undecryptable.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(id, in_clear)| (*id, *in_clear)).collect()
    }
}

pub(super) struct Signalling {
    pub(super) srs: Srs,
    edge: Edge,
    sight: Sight,
    pub(super) sockets: SipSockets,
    capture: Capture,
    /// With other SRS nodes.
    pairs: Option<Pairs>,
    pub(super) stats: Arc<SignallingStats>,
    ledger: Ledger,
    events: broadcast::Sender<Event>,
    /// False: what is not forwarded has nowhere to go.
    records: bool,
}

impl Signalling {
    pub(super) fn new(
        srs: Srs,
        edge: Edge,
        sight: Sight,
        sockets: SipSockets,
        capture: Capture,
        pairs: Option<Pairs>,
        stats: Arc<SignallingStats>,
        ledger: Ledger,
        events: broadcast::Sender<Event>,
        records: bool,
    ) -> Signalling {
        Signalling { srs, edge, sight, sockets, capture, pairs, stats, ledger, events, records }
    }

    /// Runs until nobody has orders for it any more.
    pub(super) async fn run(
        mut self,
        mut inbound: mpsc::Receiver<Inbound>,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut asks: mpsc::Receiver<Ask>,
    ) {
        let mut clock = tokio::time::interval(CLOCK);
        let mut export = tokio::time::interval(EXPORT);
        export.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let timer = sleep_until(tokio::time::Instant::now());
        tokio::pin!(timer);
        let mut armed: Option<Instant> = None;
        let mut batch = Vec::with_capacity(BATCH);
        let mut crowded = false;
        let mut due = self.poll_timeout();
        loop {
            // A timer that fires for nothing costs less than one that is moved with every message: it is moved to earlier only.
            if let Some(due) = due.map(|due| due + SLACK)
                && armed.is_none_or(|armed| due < armed)
            {
                timer.as_mut().reset(due.into());
                armed = Some(due);
            }
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => break,
                },
                _ = export.tick() => self.export(),
                _ = clock.tick() => {
                    self.srs.set_clock(Instant::now(), SystemTime::now());
                    self.edge.set_clock(Instant::now());
                }
                input = self.edge.recv() => self.edge.handle(Instant::now(), input),
                () = &mut timer, if armed.is_some() => armed = None,
                count = inbound.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    // It is over when most is done, so that what comes again meets the answer that it met before.
                    let bound = if crowded { CROWD / 4 } else { CROWD };
                    crowded = self.sockets.waiting() > bound;
                    self.edge.proxy().set_crowded(crowded);
                    for received in batch.drain(..) {
                        self.receive(received);
                    }
                    // SIP goes first, and one question is heard all the same while messages come and come.
                    if let Ok(ask) = asks.try_recv() {
                        self.answer(ask);
                    }
                    if count == BATCH {
                        // The sockets share this thread: what the kernel holds for them is little.
                        tokio::task::yield_now().await;
                    }
                }
                Some(ask) = asks.recv() => self.answer(ask),
            }
            let mut now = Instant::now();
            self.drain(now);
            due = self.poll_timeout();
            if due.is_some_and(|due| due + STALL < now) {
                // This thread stood still. What came meanwhile is in the sockets, which share it: answers before the timers
                // that would say that there were none.
                tokio::task::yield_now().await;
                while let Ok(received) = inbound.try_recv() {
                    self.receive(received);
                }
                due = self.poll_timeout();
            }
            // The timer fires a little late at times; what is due is compared with the clock.
            while due.is_some_and(|due| due <= now) {
                self.srs.handle_timeout(now);
                self.edge.handle_timeout(now);
                let heard = self.capture.handle_timeout(now);
                self.hear(now, heard);
                if let Some(pairs) = &mut self.pairs {
                    pairs.handle_timeout(now);
                }
                self.drain(now);
                now = Instant::now();
                due = self.poll_timeout();
            }
            self.tell_partner(now);
            self.stats.sessions.store(self.srs.sessions(), Ordering::Relaxed);
            self.stats.passing.store(self.edge.proxy().unfinished(), Ordering::Relaxed);
        }
        self.edge.save();
    }

    /// Numbers for others, once a second.
    fn export(&mut self) {
        self.stats.transactions.store(self.srs.transactions() + self.edge.proxy().transactions(), Ordering::Relaxed);
        self.edge.export(Instant::now());
        if let Some(pairs) = &self.pairs {
            pairs.export(Instant::now());
        }
        let stats = self.sockets.stats();
        let dropped = [
            ("rate", &stats.rate_limited),
            ("send_queue", &stats.send_full),
            ("connections", &stats.connections_refused),
            ("handshake", &stats.handshakes_failed),
            ("slow", &stats.connections_slow),
        ];
        for (reason, count) in dropped {
            metrics::dropped(reason, count.load(Ordering::Relaxed));
        }
        metrics::total("ferric_request_log_lost_total", self.sight.lost_lines());
        metrics::total("ferric_hep_lost_total", self.sight.lost_copies());
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let pairs = self.pairs.as_ref().and_then(Pairs::poll_timeout);
        let own = [self.srs.poll_timeout(), self.edge.poll_timeout(), self.capture.poll_timeout(), pairs];
        own.into_iter().flatten().min()
    }

    /// Takes what came, and does what it leads to.
    fn receive(&mut self, inbound: Inbound) {
        let now = Instant::now();
        match inbound.kind {
            InboundKind::Message(message) => {
                self.sight.message(true, message.is_request(), &message.method(), &inbound.flow, &message.to_bytes());
                tracing::trace!(flow = ?inbound.flow, method = %message.method(), "received");
                let (srs, pairs) = (&self.srs, &self.pairs);
                let flow = inbound.flow;
                let is_for_another =
                    |message: &Message| pairs.as_ref().is_some_and(|pairs| pairs.is_for_another(message));
                let expects = |message: &Message| srs.expects(message, &flow) || is_for_another(message);
                match self.edge.handle_message(now, message, flow, expects) {
                    Handled::Taken => {}
                    Handled::Local(message) if self.records || message.method() == Method::Options => {
                        if let Err(message) = self.relay(now, message, flow) {
                            self.srs.handle_message(now, message, flow);
                        }
                    }
                    Handled::Local(message) => self.turn_away(&message, inbound.flow),
                }
            }
            InboundKind::Malformed { error, answered, invite } => {
                if let (Some(call_id), Some(status)) = (invite, answered) {
                    self.srs.note_malformed(now, &call_id, status, &inbound.flow);
                }
                metrics::rejected("malformed");
                tracing::debug!(source = %inbound.flow.remote.ip(), error, ?answered, "malformed message");
            }
            InboundKind::TransportError { server_name } => {
                let to = Destination { flow: inbound.flow, server_name };
                self.srs.handle_transport_error(now, &to);
                self.edge.handle_transport_error(now, &to);
            }
        }
        self.drain(now);
    }

    /// Relays a request to the node that has its dialog; gives it back where that is this one, or nobody.
    #[allow(clippy::result_large_err)]
    fn relay(&mut self, now: Instant, message: Message, flow: Flow) -> Result<(), Message> {
        match &mut self.pairs {
            Some(pairs) if pairs.is_for_another(&message) && !self.srs.expects(&message, &flow) => {
                pairs.relay(now, message, flow)
            }
            Some(_) | None => Err(message),
        }
    }

    /// A request that is for a recorder, where none is. No state: it is answered the same however often it comes.
    fn turn_away(&self, message: &Message, flow: Flow) {
        if !message.is_request() || message.method() == Method::Ack {
            return;
        }
        metrics::rejected("no-recorder");
        let status = if self.edge.is_trusted(&flow) { 404 } else { 403 };
        let mut response = Message::response(message, status, (status == 404).then_some("No Route"));
        response.set_to_tag("no-recorder");
        self.sockets.send(&flow, response.to_bytes());
    }

    fn obey(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Capture(event) => self.srs.handle_capture(now, event),
            Order::Remote(news) => {
                let heard = self.capture.news(now, news);
                self.hear(now, heard);
            }
            Order::Pair(news) => {
                if let Some(pairs) = &mut self.pairs {
                    pairs.news(now, &mut self.srs, news);
                }
            }
            Order::Refuse(refuse) => self.srs.set_refusing(refuse.then_some(RefuseReason::Capacity)),
            Order::Drain(draining) => {
                self.srs.set_draining(draining);
                self.edge.proxy().set_draining(draining);
            }
            Order::StopAll => {
                self.srs.stop_all(now);
                // The task is ended from outside a moment later.
                self.edge.save();
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        let now = Instant::now();
        match ask {
            Ask::Stop(session, done) => {
                self.srs.stop(now, session);
                let _ = done.send(());
            }
            Ask::Apply(epoch, done) => {
                self.srs.set_trust(epoch.proxy.trust.clone());
                self.sockets.set_trust(epoch.proxy.trust.clone());
                let _ = done.send(self.edge.apply(now, *epoch));
            }
            Ask::Groups(tell) => {
                let _ = tell.send(self.edge.groups(now));
            }
            Ask::Registrations { aor, from, most, tell } => {
                let _ = tell.send(self.edge.registrations(now, aor.as_deref(), from, most));
            }
            Ask::Shares(tell) => {
                let _ = tell.send(self.edge.shares(now));
            }
            Ask::Explain { message, flow, tell } => {
                let (explanation, is_idle) = self.edge.explain(now, &message, &flow);
                let _ = tell.send(Box::new(Told {
                    explanation,
                    is_idle,
                    is_recorders: self.srs.expects(&message, &flow),
                    records: self.records,
                }));
            }
            Ask::Drained { group, element, drained, tell } => {
                let groups = self.edge.proxy().groups();
                let found = groups.set_drained(&group, &element, drained);
                let _ = tell.send(found.then(|| groups.drained().clone()));
            }
        }
    }

    /// Does what proxy and SRS want, until they want nothing more.
    fn drain(&mut self, now: Instant) {
        let (edge, sight, ledger, events) = (&mut self.edge, &self.sight, &self.ledger, &self.events);
        edge.drain(now, &self.sockets, sight, &mut |event| match event {
            // Nobody else heard of it: it is in the books of this node.
            EdgeEvent::Unrecorded { tenant, done } => {
                let invite = Uuid::now_v7();
                ledger.received(invite, &tenant, &done.call_id, "forwarded");
                ledger.refused(invite, done.status, done.side);
            }
            EdgeEvent::Group(event) => {
                let _ = events.send(group_event(event));
            }
        });
        self.drain_pairs(now);
        while let Some(output) = self.srs.poll_output() {
            match output {
                SrsOutput::Transmit { flow, bytes } => {
                    if let Some((node, flow)) = flow.elsewhere() {
                        self.send_through(now, node, flow, bytes);
                        continue;
                    }
                    if let Some((is_request, method)) = ferric_sip::message::peek(&bytes) {
                        self.sight.message(false, is_request, &method, &flow, &bytes);
                    }
                    self.sockets.send(&flow, bytes);
                }
                SrsOutput::Capture(command) => self.command(now, command),
                SrsOutput::Event(event) => {
                    if let SrsEvent::Moved { recording, .. } = &event {
                        let heard = self.capture.news(now, News::Moved(*recording));
                        self.hear(now, heard);
                    }
                    self.note(&event);
                    log(event);
                }
            }
        }
    }

    /// By a way that another node has.
    fn send_through(&mut self, now: Instant, node: u16, flow: Flow, bytes: Bytes) {
        let sent = self.pairs.as_mut().is_some_and(|pairs| pairs.send_through(node, flow, bytes));
        if !sent {
            self.srs.handle_transport_error(now, &Destination::from(flow.through(node)));
        }
    }

    /// Tells the partner what changed: once for all that came in one go.
    fn tell_partner(&mut self, now: Instant) {
        if let Some(pairs) = &mut self.pairs {
            pairs.pump(now, &mut self.srs);
            self.drain_pairs(now);
        }
    }

    /// Does what other SRS nodes lead to.
    fn drain_pairs(&mut self, now: Instant) {
        while let Some(wanted) = self.pairs.as_mut().and_then(|pairs| pairs.poll(now)) {
            match wanted {
                Wanted::Capture(news) => {
                    let heard = self.capture.news(now, news);
                    self.hear(now, heard);
                }
                Wanted::GivenUp(invite, node) => self.ledger.moved(invite, &node),
                Wanted::Transmit(flow, bytes) => {
                    if let Some((is_request, method)) = ferric_sip::message::peek(&bytes) {
                        self.sight.message(false, is_request, &method, &flow, &bytes);
                    }
                    self.sockets.send(&flow, bytes);
                }
            }
        }
    }

    /// The ledger hears of every INVITE.
    fn note(&self, event: &SrsEvent) {
        match event {
            SrsEvent::Offered { invite, tenant, call_id, source_kind } => {
                self.ledger.received(invite.0, tenant, call_id, source_kind)
            }
            SrsEvent::Adopted { invite, tenant, call_id, source_kind } => {
                self.ledger.adopted(invite.0, tenant, call_id, source_kind)
            }
            SrsEvent::Feeds { invite, recording } => self.ledger.recorded_by(invite.0, recording.0),
            SrsEvent::Refused { invite, status, cause } => self.ledger.refused(invite.0, *status, cause),
            SrsEvent::Closed { invite, cause } => self.ledger.ended(invite.0, cause.as_str()),
            SrsEvent::Started { recording } => {
                let _ = self.events.send(Event { recording: Some(recording.0), ..Event::new("call.started") });
            }
            SrsEvent::Ended { recording, cause } => {
                let cause = Some(cause.as_str().to_owned());
                let _ = self.events.send(Event { recording: Some(recording.0), cause, ..Event::new("call.ended") });
            }
            // Who has it is told beside it.
            SrsEvent::GivenUp { .. }
            | SrsEvent::RequestDone { .. }
            | SrsEvent::Rejected { .. }
            | SrsEvent::Untrusted { .. }
            | SrsEvent::MetadataProblem { .. }
            | SrsEvent::Probing { .. }
            | SrsEvent::Moved { .. }
            | SrsEvent::MoveRefused { .. } => {}
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        let heard = self.capture.command(now, command);
        self.hear(now, heard);
    }

    /// What capture says goes to the SRS.
    fn hear(&mut self, now: Instant, heard: Vec<Heard>) {
        for heard in heard {
            match heard {
                Heard::Event(event) => self.srs.handle_capture(now, event),
                Heard::Stop(recording) => self.srs.stop(now, recording),
            }
        }
    }
}

/// What others hear of an element.
fn group_event(event: GroupEvent) -> Event {
    let (name, group, element, cause) = match event {
        GroupEvent::Up { group, element } => ("element.up", group, element, None),
        GroupEvent::Down { group, element, cause } => ("element.down", group, element, Some(cause.as_str().to_owned())),
    };
    Event { group: Some(group.to_string()), element: Some(element), cause, ..Event::new(name) }
}

fn log(event: SrsEvent) {
    match event {
        SrsEvent::Offered { invite, source_kind, .. } => {
            tracing::debug!(invite = %invite.0, %source_kind, "a recording is asked for")
        }
        SrsEvent::Adopted { invite, .. } => {
            tracing::info!(invite = %invite.0, "a call was taken over from a lost node")
        }
        SrsEvent::GivenUp { invite } => tracing::info!(invite = %invite.0, "a call is another node's now"),
        SrsEvent::Feeds { invite, recording } => tracing::debug!(invite = %invite.0, %recording, "recorded as"),
        SrsEvent::Refused { invite, status, cause } => {
            tracing::info!(invite = %invite.0, status, cause, "not recorded")
        }
        SrsEvent::Closed { invite, cause } => {
            tracing::debug!(invite = %invite.0, cause = cause.as_str(), "dialog over")
        }
        SrsEvent::Started { recording } => tracing::info!(%recording, "call recorded from here"),
        SrsEvent::Ended { recording, cause } => tracing::info!(%recording, cause = cause.as_str(), "call ended"),
        SrsEvent::RequestDone { method, status } => tracing::debug!(method, status, "request answered"),
        SrsEvent::Rejected { status, reason, detail } => {
            metrics::rejected(reason);
            tracing::info!(status, reason, detail, "request refused");
        }
        SrsEvent::Untrusted { source } => {
            metrics::rejected("untrusted");
            tracing::info!(%source, "request of a source that no [[sip.trust]] names");
        }
        SrsEvent::MetadataProblem { invite, problem } => {
            tracing::warn!(invite = %invite.0, problem, "recording metadata is damaged; the call is recorded all the same");
        }
        SrsEvent::Probing { recording } => {
            tracing::info!(%recording, "no RTP: asking the peer whether it is still there")
        }
        SrsEvent::Moved { recording, from_part, to_part, lost_ms } => {
            tracing::warn!(%recording, from_part, to_part, lost_ms, "worker lost: the recording goes on elsewhere");
        }
        SrsEvent::MoveRefused { recording, part, status } => {
            tracing::error!(%recording, part, status, "worker lost, and the SRC does not send to another: waiting for the old one");
        }
    }
}
