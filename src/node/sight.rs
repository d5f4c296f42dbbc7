//! Who looks on: the last calls as ladders, copies to Homer, the log of finished requests, counters. Nothing here can hold
//! a call up.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use ferric_proxy::RequestDone;
use ferric_sight::{
    CallSummary, HepHandle, HepMessage, HepOptions, HepSender, Ladder, LadderLimits, LadderRing, Listener,
};
use ferric_sip::flow::Flow;
use ferric_sip::method::Method;

use super::request_log::RequestLog;
use crate::config::Homer;
use crate::metrics;

/// The ladders, for whoever asks.
pub(super) type Ladders = Arc<Mutex<LadderRing>>;

/// Watches signalling.
pub(super) struct Sight {
    ladders: Ladders,
    hep: Option<HepHandle>,
    log: Option<RequestLog>,
}

impl Sight {
    /// `homer` is looked up once, here; a collector that cannot be found is said and passed over.
    pub(super) fn new(homer: Option<&Homer>, log: Option<RequestLog>) -> Sight {
        let hep = homer.and_then(|homer| match start_hep(homer) {
            Ok(hep) => Some(hep),
            Err(error) => {
                tracing::error!(hep = homer.hep, error, "no copies of signalling are sent to Homer");
                None
            }
        });
        Sight { ladders: Arc::new(Mutex::new(LadderRing::new(LadderLimits::default()))), hep, log }
    }

    pub(super) fn ladders(&self) -> Ladders {
        Arc::clone(&self.ladders)
    }

    /// A message came or left.
    pub(super) fn message(&self, received: bool, is_request: bool, method: &Method, flow: &Flow, bytes: &Bytes) {
        let kind = match (received, is_request) {
            (true, true) => metrics::SipKind::Request,
            (true, false) => metrics::SipKind::Response,
            (false, true) => metrics::SipKind::RequestSent,
            (false, false) => metrics::SipKind::ResponseSent,
        };
        metrics::sip_message(flow.transport, kind, method);
        // Keep-alives and registrations would push out the calls.
        let is_call = !matches!(method, Method::Options | Method::Register);
        if !is_call && self.hep.is_none() {
            return;
        }
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if is_call {
            self.ladders.lock().unwrap_or_else(PoisonError::into_inner).note(at, received, flow, bytes);
        }
        if let Some(hep) = &self.hep {
            hep.send(HepMessage::on_flow(at, received, flow, bytes));
        }
    }

    /// A request of the proxy is over; `now` is when.
    pub(super) fn done(&self, now: Instant, done: &RequestDone) {
        metrics::proxy_request(done.side, done.status);
        tracing::debug!(
            method = done.method,
            status = done.status,
            side = done.side,
            rule = done.rule,
            element = done.element,
            "request answered"
        );
        let Some(log) = &self.log else { return };
        let ago = Instant::now().saturating_duration_since(now) + done.elapsed;
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        log.note(ferric_sight::RequestDone {
            at_unix: at.saturating_sub(ago),
            method: done.method.clone(),
            call_id: done.call_id.clone(),
            request_uri: done.request_uri.clone(),
            from_uri: (!done.from.is_empty()).then(|| done.from.clone()),
            source: done.source,
            listener: Listener { transport: done.transport, address: done.listener },
            siprec: done.is_recording,
            is_initial: done.is_initial,
            headers: done.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
            rule: done.rule.clone(),
            group: done.group.as_deref().map(str::to_owned),
            element: done.element.clone(),
            tries: u8::try_from(done.tries).unwrap_or(u8::MAX),
            status: done.status,
            elapsed: done.elapsed,
            cause: done.side.into(),
        });
    }

    /// Copies for Homer that are lost.
    pub(super) fn lost_copies(&self) -> u64 {
        self.hep.as_ref().map_or(0, |hep| hep.stats().dropped + hep.stats().failed)
    }

    /// Lines of the request log that are lost.
    pub(super) fn lost_lines(&self) -> u64 {
        self.log.as_ref().map_or(0, RequestLog::dropped)
    }
}

fn start_hep(homer: &Homer) -> Result<HepHandle, String> {
    let found: Option<SocketAddr> = homer.hep.to_socket_addrs().map_err(|error| error.to_string())?.next();
    let target = found.ok_or("its name leads nowhere")?;
    let options = HepOptions { node_id: homer.capture_id, ..HepOptions::default() };
    HepSender::start(target, options).map_err(|error| error.to_string())
}

/// The last calls, the newest first.
pub(super) fn list(ladders: &Ladders, limit: usize) -> Vec<CallSummary> {
    ladders.lock().unwrap_or_else(PoisonError::into_inner).list(limit)
}

/// One call.
pub(super) fn get(ladders: &Ladders, call_id: &str) -> Option<Ladder> {
    ladders.lock().unwrap_or_else(PoisonError::into_inner).get(call_id)
}
