//! What is forwarded without a transaction (RFC 3261 16.11): the ACK to a 2xx, a CANCEL of nothing that is known here and
//! its response, a 2xx that comes late. Every other response that belongs to nothing is dropped (RFC 6026 7.3).

use std::net::SocketAddr;
use std::time::Instant;

use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::method::Method;

use crate::context::ContextId;
use crate::forward::{count_hop, needs_stream, suit_strict_router};
use crate::group::Hop;
use crate::preprocess::Preprocessed;
use crate::proxy::{Proxy, ProxyOutput};
use crate::rescue::Trouble;
use crate::target::{Decision, LocateTarget, Next, Target, Ticket};

/// Requests without state that may wait for DNS at once.
const MOST_WAITING: usize = 1_000;

/// Who waits for a name.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// A branch of a request.
    Branch(ContextId, usize),
    /// A request without state.
    Stateless(Box<(Message, Flow, u64)>),
}

impl Proxy {
    /// Asks for a name's addresses.
    pub(crate) fn look_up(&mut self, target: LocateTarget, lookup: Lookup) {
        let ticket = self.new_ticket();
        self.lookups.insert(ticket, lookup);
        self.outputs.push_back(ProxyOutput::Locate { ticket, target });
    }

    /// Addresses of a name, the best first; or why there are none.
    pub fn handle_located(&mut self, now: Instant, ticket: Ticket, found: Result<Vec<Hop>, bool>) {
        let found = match found {
            Ok(hops) if hops.is_empty() => Err(Trouble::NoSuchHost),
            Ok(hops) => Ok(hops),
            Err(exists) => Err(if exists { Trouble::DnsDown } else { Trouble::NoSuchHost }),
        };
        match self.lookups.remove(&ticket) {
            Some(Lookup::Branch(id, at)) => self.branch_located(now, id, at, found),
            Some(Lookup::Stateless(waiting)) => {
                self.stateless_lookups = self.stateless_lookups.saturating_sub(1);
                let (request, flow, way) = *waiting;
                if let Some(hop) = found.ok().and_then(|hops| hops.into_iter().next()) {
                    self.send_stateless(now, request, &flow, &hop, way);
                }
            }
            None => {}
        }
        self.drain(now);
    }

    /// Forwards an ACK, or a CANCEL of nothing that is known here.
    pub(crate) fn forward_stateless(
        &mut self,
        now: Instant,
        mut request: Message,
        flow: Flow,
        decision: Decision,
        before: &Preprocessed,
    ) {
        let Decision::Forward(sets) = decision else { return };
        let Some(Target { uri, next, .. }) = sets.into_iter().flatten().next() else { return };
        let way = self.branches.way_of(&request, &flow, &self.deciding);
        before.apply(&mut request);
        count_hop(&mut request);
        if let Some(uri) = uri {
            request.set_request_uri(&uri);
        }
        suit_strict_router(&mut request);
        match next {
            Next::Hops(hops) => {
                if let Some(hop) = hops.into_iter().next() {
                    self.send_stateless(now, request, &flow, &hop, way);
                }
            }
            Next::Element(_, element) => {
                if let Some(hop) = self.groups.hop(element) {
                    self.send_stateless(now, request, &flow, &hop, way);
                }
            }
            Next::Name(name) => {
                if self.stateless_lookups < MOST_WAITING {
                    self.stateless_lookups += 1;
                    self.look_up(name, Lookup::Stateless(Box::new((request, flow, way))));
                }
            }
            Next::Flow(to) => {
                let (_, sent_by) = self.identity.outgoing(to.transport, to.remote, Some(&to), Some(to.local));
                let sent_by = sent_by.to_owned();
                self.send_stateless_along(request, to.into(), &sent_by, way);
            }
            // Nobody knows which element would be meant.
            Next::Group(_) => {}
        }
        self.drain(now);
    }

    /// A large one takes a stream like any request; nobody is told when none is to be had, but it comes again, and then as
    /// a datagram.
    fn send_stateless(&mut self, now: Instant, request: Message, came: &Flow, hop: &Hop, way: u64) {
        let is_large = needs_stream(self.config.udp_mtu, &self.without_tcp, now, &request, hop);
        let transport = if is_large { Transport::Tcp } else { hop.transport };
        let (local, sent_by) = self.identity.outgoing(transport, hop.address, Some(came), None);
        let sent_by = sent_by.to_owned();
        self.send_stateless_along(request, hop.destination(transport, local), &sent_by, way);
    }

    fn send_stateless_along(&mut self, mut request: Message, to: Destination, sent_by: &str, way: u64) {
        let received = request.top_via().ok().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
        let branch = self.branches.stateless(&received, way);
        let transport = to.flow.transport;
        request.push_header_front("Via", &format!("SIP/2.0/{transport} {sent_by};branch={branch};rport"));
        self.send_as_is(request, to);
    }

    fn send_as_is(&mut self, mut message: Message, to: impl Into<Destination>) {
        let to = to.into();
        if to.flow.transport.is_reliable() && message.header("Content-Length").is_none() {
            let length = message.body().len().to_string();
            message.add_header("Content-Length", &length);
        }
        self.outputs.push_back(ProxyOutput::Transmit { to, bytes: message.to_bytes() });
    }

    /// The response to a CANCEL that went on without state, and the final one to an INVITE that was forwarded before this
    /// process began: its caller heard our 100 and does not ask again. All others are dropped (RFC 6026 7.2).
    pub(crate) fn respond_stateless(&mut self, response: Message) {
        let survives = || {
            let is_final = response.method() == Method::Invite && response.status().is_some_and(|status| status >= 200);
            is_final
                && response
                    .top_via()
                    .is_ok_and(|via| via.branch().is_some_and(|branch| self.branches.is_of_another_life(branch)))
        };
        if response.method() == Method::Cancel || survives() {
            self.pass_on(response);
        }
    }

    /// Sends a response on to where its request came from: over the transaction of that request while it is there, else by
    /// its next Via. Only one whose top Via is ours, with a branch of ours.
    pub(crate) fn pass_on(&mut self, mut response: Message) {
        let ours = response.top_via().ok().and_then(|via| self.branches.read(via.branch()?));
        if ours.is_none() {
            return;
        }
        response.remove_top_via();
        if let Some(flow) = self.layer.flow_for(&response) {
            self.send_as_is(response, flow);
            return;
        }
        let Ok(via) = response.top_via() else { return };
        let transport = match via.transport.as_str() {
            "UDP" => Transport::Udp,
            "TCP" => Transport::Tcp,
            "TLS" => Transport::Tls,
            _ => return,
        };
        let Some(ip) = via.received().or_else(|| via.address()) else { return };
        let rport = via.params.get("rport").and_then(|port| port.parse().ok());
        let remote = SocketAddr::new(ip, rport.or(via.port).unwrap_or(transport.default_port()));
        let (local, _) = self.identity.outgoing(transport, remote, None, None);
        let flow = Flow { transport, local, remote, connection: 0 };
        self.send_as_is(response, flow);
    }
}
