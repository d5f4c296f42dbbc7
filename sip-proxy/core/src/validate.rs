//! Step 1: is it fit to be forwarded? (RFC 3261 16.3)

use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::validate::{Reject, validate_request};

use crate::branch::{Branches, COOKIE};

/// Max-Forwards of a request that has none.
pub(crate) const HOPS: u8 = 70;
/// Option tags that a proxy is asked for and this one honours. `privacy` (RFC 3323) asks for nothing that the header fields
/// of a message that passes untouched would break; `siprec` comes from makers that mistake the header field.
const KNOWN: [&str; 3] = ["siprec", "privacy", "path"];

/// Checks a request that is to be forwarded.
pub(crate) fn validate(request: &Message, branches: &Branches) -> Result<(), Reject> {
    validate_request(request)?;
    let hops = request.header("Max-Forwards").and_then(|hops| hops.parse::<u8>().ok());
    if hops == Some(0) {
        return Err(Reject::new(483));
    }
    let unknown: Vec<String> = request
        .values("Proxy-Require")
        .into_iter()
        .filter(|tag| !KNOWN.iter().any(|known| known.eq_ignore_ascii_case(tag)))
        .collect();
    if !unknown.is_empty() && !matches!(request.method(), Method::Ack | Method::Cancel) {
        return Err(Reject::new(420).with("Unsupported", unknown.join(", ")));
    }
    if is_loop(request, branches) {
        return Err(Reject::new(482));
    }
    Ok(())
}

/// It came by here before, and nothing that decides its way has changed since. One that comes back changed is a spiral, which is fine.
fn is_loop(request: &Message, branches: &Branches) -> bool {
    if !request.headers("Via").any(|line| line.contains(COOKIE)) {
        return false;
    }
    let way = branches.way_of(request);
    let own = |via: &String| via.split(";branch=").nth(1).and_then(|rest| rest.split([';', ' ', ',']).next()).and_then(|branch| branches.read(branch));
    request.values("Via").iter().filter_map(own).any(|before| before == way)
}
