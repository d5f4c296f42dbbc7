//! Step 2: what the Route header fields mean for us (RFC 3261 16.4).
//!
//! Nothing is changed here: a request may turn out to be for this node's recorder, which gets it as it came.

use std::net::SocketAddr;

use ferric_sip::flow::Flow;
use ferric_sip::header::NameAddr;
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;

use crate::flow_token::is_hop;
use crate::identity::{Identity, TWIN};
use crate::witnessed::SEAL;

/// What is to be done to a request before it is routed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preprocessed {
    /// A strict router put our URI into the Request-URI: the last Route value is the true one.
    pub(crate) last_route_is_target: bool,
    /// The Request-URI is replaced by `target`.
    pub(crate) changes_target: bool,
    /// So many Route values at the front are ours.
    pub(crate) own_routes: usize,
    /// The Request-URI that counts.
    pub(crate) target: String,
    /// The next Route value that is not ours.
    pub(crate) next_route: Option<String>,
    /// The listener that a twin Record-Route named for the other side.
    pub(crate) leaves_by: Option<SocketAddr>,
    /// What stands before its host: maybe a flow.
    pub(crate) token: Option<String>,
    /// What stands before the host of a Route that another node of the cluster made: the flow of a phone.
    pub(crate) hop: Option<String>,
    /// The seal of a Record-Route of ours.
    pub(crate) seal: Option<String>,
    /// The flow to the other side, which takes the place of the target.
    pub(crate) along: Option<Flow>,
}

/// Looks at the Route values of a request.
pub(crate) fn preprocess(request: &Message, identity: &Identity) -> Preprocessed {
    let target = request.request_uri().unwrap_or_default().into_owned();
    let mut routes: Vec<String> = if request.header("Route").is_some() { request.values("Route") } else { Vec::new() };
    let mut found = Preprocessed { target, ..Preprocessed::default() };
    let own = |uri: &str| Uri::parse(uri).ok().filter(|uri| identity.is_own_route(uri));
    // Only a URI that we put into a Record-Route carries `lr`; a strict router moves it here and forgets nothing.
    if !routes.is_empty()
        && let Some(here) = Uri::parse(&found.target).ok().filter(|uri| uri.params.has("lr") && identity.is_own(uri))
        && let Some(last) = routes.pop()
    {
        found.seal = here.params.get(SEAL).map(str::to_owned);
        found.last_route_is_target = true;
        found.changes_target = true;
        found.target = uri_of(&last);
    }
    if let Some(target) = without_own_maddr(&found.target, identity) {
        found.changes_target = true;
        found.target = target;
    }
    for route in &routes {
        let Some(uri) = own(&uri_of(route)) else { break };
        if found.own_routes > 0 && !uri.params.has(TWIN) {
            // Two hops over us that are no twins are a spiral: one a time.
            break;
        }
        found.seal = found.seal.or_else(|| uri.params.get(SEAL).map(str::to_owned));
        if found.own_routes == 1 {
            found.leaves_by = identity.listener_of(&uri);
            found.token = uri.user.as_deref().map(str::to_owned);
        }
        if found.own_routes == 0 && !uri.params.has(TWIN) {
            found.hop = uri.user.as_deref().filter(|user| is_hop(user)).map(str::to_owned);
        }
        found.own_routes += 1;
        if found.own_routes == 2 || !uri.params.has(TWIN) {
            break;
        }
    }
    found.next_route = routes.get(found.own_routes).cloned();
    found
}

impl Preprocessed {
    /// It comes from another node of the cluster, along the flow of a phone that registered here.
    pub(crate) fn is_hop(&self) -> bool {
        self.hop.is_some() && self.along.is_some()
    }

    /// Does it to the request.
    pub(crate) fn apply(&self, request: &mut Message) {
        if self.last_route_is_target {
            request.remove_last_value("Route");
        }
        if self.changes_target {
            request.set_request_uri(&self.target);
        }
        for _ in 0..self.own_routes {
            request.remove_first_value("Route");
        }
    }
}

/// A target whose `maddr` is ours was sent here by it and goes on without it, and without the port and transport that went
/// with it (16.4).
fn without_own_maddr(target: &str, identity: &Identity) -> Option<String> {
    if !target.contains("maddr") {
        return None;
    }
    let mut uri = Uri::parse(target).ok()?;
    let here = Uri { host: uri.params.get("maddr")?.to_owned(), user: None, ..uri.clone() };
    if !identity.is_own(&here) {
        return None;
    }
    uri.params.remove("maddr");
    uri.params.remove("transport");
    uri.port = None;
    Some(uri.to_string())
}

/// The URI of a Route value.
pub(crate) fn uri_of(route: &str) -> String {
    NameAddr::parse("Route", route).map_or_else(|_| route.to_owned(), |route| route.uri)
}
