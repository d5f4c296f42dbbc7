//! Step 4: the copy that is sent (RFC 3261 16.6).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferric_sip::flow::{Destination, Flow, Transport};
use ferric_sip::header::NameAddr;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::uri::Uri;

use crate::branch::Branches;
use crate::config::ProxyConfig;
use crate::context::{Attempt, ContextId};
use crate::failover::{Client, Due};
use crate::flow_token;
use crate::group::{ElementId, GroupConfig, Hop};
use crate::identity::TWIN;
use crate::preprocess::uri_of;
use crate::proxy::Proxy;
use crate::target::{Next, Target};
use crate::validate::HOPS;
use crate::witnessed::{self, SEAL};

/// What a Via of ours adds to a request, at most.
const VIA_ROOM: usize = 130;
/// Hops that are known to take no TCP, at most; beyond, they are asked again.
const MOST_WITHOUT_TCP: usize = 10_000;
/// A hop that did not take TCP is not asked for it again for this long.
pub(crate) const NO_TCP: std::time::Duration = std::time::Duration::from_secs(300);

/// Where an attempt goes.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// To an address, maybe an element of a group.
    Hop { hop: Hop, element: Option<(ElementId, std::sync::Arc<GroupConfig>)>, more: bool },
    /// Along a flow.
    Flow(Flow),
}

/// Max-Forwards counts down; a request without one gets it (16.6 step 3).
pub(crate) fn count_hop(request: &mut Message) {
    let hops = request.header("Max-Forwards").and_then(|hops| hops.parse::<u8>().ok());
    match hops {
        Some(hops) => request.replace_header("Max-Forwards", &hops.saturating_sub(1).to_string()),
        None => request.insert_header("Max-Forwards", &HOPS.to_string()),
    }
}

/// A strict router wants itself in the Request-URI, and the target at the end of the Route (16.6 step 6).
pub(crate) fn suit_strict_router(request: &mut Message) {
    let Some(first) =
        request.header("Route").map(|_| request.values("Route")).and_then(|routes| routes.into_iter().next())
    else {
        return;
    };
    let uri = uri_of(&first);
    let is_loose = Uri::parse(&uri).is_ok_and(|uri| uri.params.has("lr"))
        || NameAddr::parse("Route", &first).is_ok_and(|route| route.params.has("lr"));
    if is_loose {
        return;
    }
    let target = request.request_uri().unwrap_or_default().into_owned();
    request.remove_first_value("Route");
    request.add_header("Route", &format!("<{target}>"));
    request.set_request_uri(&uri);
}

/// Whether a request of that size goes over TCP though its way would be a datagram (RFC 3261 18.1.1). `mtu` 0 is none;
/// who takes no TCP is in `without_tcp`.
pub(crate) fn needs_stream(
    mtu: usize,
    without_tcp: &HashMap<SocketAddr, Instant>,
    now: Instant,
    request: &Message,
    hop: &Hop,
) -> bool {
    hop.transport == Transport::Udp
        && mtu > 0
        && request.wire_length() + VIA_ROOM > mtu
        && !without_tcp.get(&hop.address).is_some_and(|until| *until > now)
}

/// One side of a dialog, as a Record-Route names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Side<'a> {
    pub(crate) host: &'a str,
    pub(crate) transport: Transport,
    /// The flow to a peer whose contact leads nowhere.
    pub(crate) token: Option<String>,
}

/// Our Record-Route; two when the sides differ, each with its own address (RFC 5658).
pub(crate) fn record_route(request: &mut Message, came: Side<'_>, leaves: Side<'_>, seal: Option<&str>) {
    // A request to a SIPS URI keeps to it where the side is TLS (16.6 step 4).
    let sips = request
        .request_uri()
        .is_some_and(|uri| uri.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sips:")));
    let uri = |Side { host, transport, token }: &Side<'_>, twin: bool| {
        let (scheme, transport) = match transport {
            Transport::Udp => ("sip", ""),
            Transport::Tcp => ("sip", ";transport=tcp"),
            Transport::Tls if sips => ("sips", ""),
            Transport::Tls => ("sip", ";transport=tls"),
        };
        let twin = if twin { format!(";{TWIN}") } else { String::new() };
        let token = token.as_ref().map_or_else(String::new, |token| format!("{token}@"));
        let seal = seal.map_or_else(String::new, |seal| format!(";{SEAL}={seal}"));
        format!("<{scheme}:{token}{host}{transport};lr{twin}{seal}>")
    };
    if came == leaves && came.token.is_none() {
        request.insert_header("Record-Route", &uri(&came, false));
    } else {
        request.insert_header("Record-Route", &uri(&came, true));
        request.insert_header("Record-Route", &uri(&leaves, true));
    }
}

/// A phone of our domains that calls directly, from behind a NAT.
fn caller_token(config: &ProxyConfig, branches: &Branches, request: &Message, flow: &Flow) -> Option<String> {
    let from = request.from().ok().and_then(|from| Uri::parse(&from.uri).ok())?;
    let is_user = config.domains.iter().any(|domain| domain.eq_ignore_ascii_case(&from.host));
    if !is_user || request.values("Via").len() != 1 || request.header("Record-Route").is_some() {
        return None;
    }
    let contact = request.values("Contact").into_iter().next().map(|contact| uri_of(&contact))?;
    flow_token::is_hidden(&contact, flow).then(|| flow_token::seal(branches, flow))
}

/// A phone that is called along its flow.
fn callee_token(branches: &Branches, target: &Target, way: &Way) -> Option<String> {
    let Way::Flow(flow) = way else { return None };
    let contact = target.uri.as_deref()?;
    flow_token::is_hidden(contact, flow).then(|| flow_token::seal(branches, flow))
}

impl Proxy {
    /// Sends a copy.
    pub(crate) fn send_copy(&mut self, now: Instant, id: ContextId, at: usize, way: Way) {
        let Some(context) = self.contexts.get(&id) else { return };
        let name = self.branches.make(context.way);
        self.send_copy_as(now, id, at, way, name);
    }

    /// Sends a copy under a branch: a new one, or that of the same copy by another transport.
    pub(crate) fn send_copy_as(&mut self, now: Instant, id: ContextId, at: usize, way: Way, name: String) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let Some(branch) = context.branches.get_mut(at) else { return };
        let mut copy = context.request.clone();
        if let Some(uri) = &branch.target.uri {
            copy.set_request_uri(uri);
        }
        for route in branch.target.routes.iter().rev() {
            copy.insert_header("Route", route);
        }
        suit_strict_router(&mut copy);
        if let Some(breadth) = branch.breadth {
            copy.replace_header("Max-Breadth", &breadth.to_string());
        }
        let (remote, transport) = match &way {
            Way::Hop { hop, .. } => (hop.address, hop.transport),
            Way::Flow(flow) => (flow.remote, flow.transport),
        };
        let oversize = matches!(&way, Way::Hop { hop, .. } if needs_stream(self.config.udp_mtu, &self.without_tcp, now, &copy, hop));
        let transport = if oversize { Transport::Tcp } else { transport };
        // Along a flow everything later must take the listener that the flow came to: a NAT knows no other.
        let (local, sent_by) = match &way {
            Way::Hop { .. } => self.identity.outgoing(transport, remote, Some(&context.flow), context.leaves_by),
            Way::Flow(flow) => self.identity.outgoing(transport, remote, Some(flow), Some(flow.local)),
        };
        if context.records_route {
            let (_, came) =
                self.identity.outgoing(context.flow.transport, context.flow.remote, Some(&context.flow), None);
            let (to_caller, to_callee) = (
                caller_token(&self.config, &self.branches, &context.request, &context.flow),
                callee_token(&self.branches, &branch.target, &way),
            );
            let came = Side { host: came, transport: context.flow.transport, token: to_caller };
            let tag = context.request.from().ok().and_then(|from| from.tag().map(str::to_owned));
            let seal = tag
                .filter(|_| self.config.wants_proof())
                .map(|tag| witnessed::seal(&self.branches, &context.request, &tag));
            let leaves = Side { host: sent_by, transport, token: to_callee };
            record_route(&mut copy, came, leaves, seal.as_deref());
        }
        let to = match &way {
            Way::Hop { hop, .. } => hop.destination(transport, local),
            Way::Flow(flow) => Destination::from(flow),
        };
        let patience = if answers_at_once(&copy, &branch.target.next) { Duration::ZERO } else { self.timers.t1 * 7 };
        let sent_by = sent_by.to_owned();
        let client = self.layer.send_request_as(now, copy, to, Some(&sent_by), &name);
        let (hop, element, group, wait) = match way {
            Way::Hop { hop, element: Some((element, group)), .. } => {
                (Some(hop), Some(element), Some(group.clone()), Some(patience.max(group.timeout)))
            }
            Way::Hop { hop, element: None, more } => {
                (Some(hop), None, None, (more || oversize).then_some(patience.max(self.config.timeout)))
            }
            Way::Flow(_) => (None, None, None, None),
        };
        if let Some(wait) = wait {
            self.deadlines.set(Due::Answer(client), now + wait);
        }
        if let Some(element) = element {
            self.waiting.insert((element, client));
            branch.tried.push(element);
        }
        context.done.tries += 1;
        branch.attempt = Some(Attempt {
            client,
            element,
            group,
            hop,
            sent: now,
            heard: false,
            rings: false,
            oversize: oversize.then_some(name),
            noted: false,
        });
        self.clients.insert(client, Client::Attempt(id, at));
    }

    /// That peer does not take TCP: for large requests UDP will do.
    pub(crate) fn note_without_tcp(&mut self, now: Instant, remote: SocketAddr) {
        if self.without_tcp.len() >= MOST_WITHOUT_TCP {
            self.without_tcp.retain(|_, until| *until > now);
        }
        if self.without_tcp.len() < MOST_WITHOUT_TCP {
            self.without_tcp.insert(remote, now + NO_TCP);
        }
    }
}

/// A server says something at once: 100 to an INVITE, its own answer to what is for itself. What goes on to somebody behind
/// it may take its time in silence, as no 100 is allowed before 3.5 s (RFC 4320 4.1); and within a dialog another element
/// knows nothing of it.
fn answers_at_once(request: &Message, next: &Next) -> bool {
    let is_for_server =
        matches!(request.method(), Method::Invite | Method::Register | Method::Options | Method::Publish);
    is_for_server && !matches!(next, Next::Element(..))
}
