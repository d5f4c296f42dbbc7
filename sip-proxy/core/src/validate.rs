//! Step 1: is it fit to be forwarded? (RFC 3261 16.3, RFC 5393)
//!
//! Only what forwarding needs is looked at: a Contact or Date that nobody can read is none of a proxy's business, and goes
//! on as it came. What is answered here rather than forwarded needs no hops left.

use ferric_sip::header::HeaderError;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::validate::Reject;

use crate::branch::{Branches, COOKIE};

/// Max-Forwards of a request that has none.
pub(crate) const HOPS: u8 = 70;
/// Max-Breadth of a request that has none (RFC 5393 5).
pub(crate) const BREADTH: usize = 60;
/// Schemes that rules may send somewhere; every other one is refused with 416.
const SCHEMES: [&str; 6] = ["sip", "sips", "tel", "urn", "im", "pres"];
/// Option tags that a proxy is asked for and this one honours. `privacy` (RFC 3323) asks for nothing that the header fields
/// of a message that passes untouched would break; `siprec` comes from makers that mistake the header field.
const KNOWN: [&str; 3] = ["siprec", "privacy", "path"];
/// Header fields that decide which request this is, and stand only once.
const SINGLE: [&str; 5] = ["From", "To", "Call-ID", "CSeq", "Max-Forwards"];

/// The scheme of a Request-URI leads somewhere.
pub(crate) fn is_known_scheme(scheme: &str) -> bool {
    SCHEMES.contains(&scheme)
}

/// Whether a transaction can be made of it (16.3 step 1).
pub(crate) fn well_formed(request: &Message) -> Result<(), Reject> {
    for name in SINGLE {
        if request.is_repeated(name) {
            return Err(Reject::because(400, format!("{name} appears more than once")));
        }
    }
    request.check_top_via()?;
    request.check_parties()?;
    request.call_id().ok_or(HeaderError::Missing("Call-ID"))?;
    if request.cseq()?.method != request.method() {
        return Err(Reject::because(400, "CSeq names another method than the request line"));
    }
    if request.header("Max-Forwards").is_some_and(|hops| hops.parse::<u8>().is_err()) {
        return Err(Reject::because(400, "Max-Forwards is not a number from 0 to 255"));
    }
    Ok(())
}

/// Checks a well-formed request that is to be forwarded; `way` is what [`Branches::way_of`] says of it.
pub(crate) fn fit_to_forward(request: &Message, branches: &Branches, way: impl FnOnce() -> u64) -> Result<(), Reject> {
    if request.header("Max-Forwards").is_some_and(|hops| hops.parse() == Ok(0_u8)) {
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
    if is_loop(request, branches, way) {
        return Err(Reject::new(482));
    }
    if breadth_of(request) == Some(0) {
        return Err(Reject::because(440, "Max-Breadth Exceeded"));
    }
    Ok(())
}

/// Copies that may be under way at once, if the request says so (RFC 5393 5).
pub(crate) fn breadth_of(request: &Message) -> Option<usize> {
    request.header("Max-Breadth")?.parse().ok()
}

/// It came by here before, and nothing that decides its way has changed since. One that comes back changed is a spiral, which is fine.
fn is_loop(request: &Message, branches: &Branches, way: impl FnOnce() -> u64) -> bool {
    if !request.headers("Via").any(|line| line.contains(COOKIE)) {
        return false;
    }
    let way = way();
    let own = |via: &String| {
        via.split(";branch=")
            .nth(1)
            .and_then(|rest| rest.split([';', ' ', ',']).next())
            .and_then(|branch| branches.read(branch))
    };
    request.values("Via").iter().filter_map(own).any(|before| before == way)
}
