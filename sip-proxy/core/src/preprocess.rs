//! Step 2: what the Route header fields mean for us (RFC 3261 16.4).
//!
//! Nothing is changed here: a request may turn out to be for this node's recorder, which gets it as it came.

use std::net::SocketAddr;

use ferric_sip::header::NameAddr;
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;

use crate::identity::{Identity, TWIN};

/// What is to be done to a request before it is routed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preprocessed {
    /// A strict router put our URI into the Request-URI: the last Route value is the true one.
    pub(crate) last_route_is_target: bool,
    /// So many Route values at the front are ours.
    pub(crate) own_routes: usize,
    /// The Request-URI that counts.
    pub(crate) target: String,
    /// The next Route value that is not ours.
    pub(crate) next_route: Option<String>,
    /// The listener that a twin Record-Route named for the other side.
    pub(crate) leaves_by: Option<SocketAddr>,
    /// It came along a route that leads over us.
    pub(crate) is_routed: bool,
}

/// Looks at the Route values of a request.
pub(crate) fn preprocess(request: &Message, identity: &Identity) -> Preprocessed {
    let target = request.request_uri().unwrap_or_default().into_owned();
    let mut routes: Vec<String> = if request.header("Route").is_some() { request.values("Route") } else { Vec::new() };
    let mut found = Preprocessed { target, ..Preprocessed::default() };
    if routes.is_empty() {
        return found;
    }
    let own = |uri: &str| Uri::parse(uri).ok().filter(|uri| identity.is_own(uri));
    // Only a URI that we put into a Record-Route carries `lr`; a strict router moves it here and forgets nothing.
    if own(&found.target).is_some_and(|uri| uri.params.has("lr"))
        && let Some(last) = routes.pop()
    {
        found.last_route_is_target = true;
        found.target = uri_of(&last);
        found.is_routed = true;
    }
    for route in &routes {
        let Some(uri) = own(&uri_of(route)) else { break };
        if found.own_routes > 0 && !uri.params.has(TWIN) {
            // Two hops over us that are no twins are a spiral: one a time.
            break;
        }
        if found.own_routes == 1 {
            found.leaves_by = identity.listener_of(&uri);
        }
        found.own_routes += 1;
        found.is_routed = true;
        if found.own_routes == 2 || !uri.params.has(TWIN) {
            break;
        }
    }
    found.next_route = routes.get(found.own_routes).cloned();
    found
}

impl Preprocessed {
    /// Does it to the request.
    pub(crate) fn apply(&self, request: &mut Message) {
        if self.last_route_is_target {
            request.remove_last_value("Route");
            request.set_request_uri(&self.target);
        }
        for _ in 0..self.own_routes {
            request.remove_first_value("Route");
        }
    }
}

/// The URI of a Route value.
pub(crate) fn uri_of(route: &str) -> String {
    NameAddr::parse("Route", route).map_or_else(|_| route.to_owned(), |route| route.uri)
}
