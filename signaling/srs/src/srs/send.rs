//! Messages of ours: what every response and request carries.

use std::time::Instant;

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::transaction::ServerTransactionId;
use ferric_sip::validate::Reject;
use rand::RngExt;

use super::{Purpose, Srs};
use crate::event::SrsEvent;
use crate::rescue;
use crate::session::SessionKey;

/// Our name in Server and User-Agent.
const PRODUCT: &str = concat!("Ferric/", env!("CARGO_PKG_VERSION"));
/// Extensions that we know (RFC 7866, RFC 4028).
pub(super) const SUPPORTED: &str = "siprec, timer";

impl Srs {
    /// A 2xx with what every 2xx of a dialog carries.
    pub(super) fn ok(&self, request: &Message, key: SessionKey) -> Message {
        let mut response = Message::response(request, 200, None);
        response.copy_lines(request, "Record-Route");
        if let Some(session) = self.sessions.get(&key) {
            response.set_to_tag(&session.dialog.id.local_tag);
            response.add_header("Contact", &self.contact(&session.flow));
            if let Some(timer) = &session.timer {
                timer.write(&mut response);
            }
        }
        response.add_header("Allow", rescue::ALLOW);
        response.add_header("Supported", SUPPORTED);
        response
    }

    /// Our Contact. The feature tag stands outside of the brackets: it belongs to the field, not to the URI.
    fn contact(&self, flow: &Flow) -> String {
        // A name without a port is looked up as SRV records, so any node behind it will do (RFC 3263 4.2).
        if let Some(name) = &self.config.contact {
            let transport = flow.transport.as_str().to_ascii_lowercase();
            return format!("<sip:srs@{name};transport={transport}>;+sip.srs");
        }
        let transport = match flow.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        };
        format!("<sip:srs@{}{transport}>;+sip.srs", self.host(flow))
    }

    /// Host and port by which the peer reaches the listener of a flow.
    pub(super) fn host(&self, flow: &Flow) -> String {
        let same = |local: &std::net::SocketAddr| {
            local.port() == flow.local.port() && (local.ip() == flow.local.ip() || local.ip().is_unspecified())
        };
        let named =
            self.config.advertise.iter().find(|(transport, local, _)| *transport == flow.transport && same(local));
        named.map_or_else(|| flow.local.to_string(), |(_, _, host)| host.clone())
    }

    /// Sends a response; returns its bytes.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        transaction: ServerTransactionId,
        request: &Message,
        mut response: Message,
    ) -> Bytes {
        let tag = format!("{:016x}", self.rng.random::<u64>());
        response.set_to_tag(&tag);
        response.add_header("Server", PRODUCT);
        let status = response.status().unwrap_or(500);
        let bytes = response.to_bytes();
        self.event(SrsEvent::RequestDone { method: request.method().to_string(), status });
        self.layer.respond(now, transaction, response);
        bytes
    }

    /// Refuses a request; `reason` is a short word for counters.
    pub(super) fn reject(
        &mut self,
        now: Instant,
        transaction: ServerTransactionId,
        request: &Message,
        reject: &Reject,
        reason: &'static str,
    ) {
        let detail = reject.reason.clone().unwrap_or_default();
        self.event(SrsEvent::Rejected { status: reject.status, reason, detail });
        self.respond(now, transaction, request, reject.response(request));
    }

    /// Sends a request of a dialog.
    pub(super) fn send_own(
        &mut self,
        now: Instant,
        key: SessionKey,
        mut request: Message,
        flow: Flow,
        purpose: Purpose,
    ) {
        if purpose != Purpose::Bye {
            request.add_header("Contact", &self.contact(&flow));
        }
        request.add_header("User-Agent", PRODUCT);
        let host = self.host(&flow);
        let transaction = self.layer.send_request(now, request, flow, Some(&host));
        self.own_requests.insert(transaction, (key, purpose));
    }
}
