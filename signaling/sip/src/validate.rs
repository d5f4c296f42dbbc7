//! What every request must have before anything else looks at it
//! (RFC 3261 8.1.1, 8.2 and 16.3; RFC 4475 3.1.2 and 3.3).

use crate::header::{HeaderError, Via};
use crate::message::Message;
use crate::method::Method;
use crate::uri::Uri;

/// A refusal: the response to send instead of going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Status code.
    pub status: u16,
    /// Reason phrase; the standard one if `None`.
    pub reason: Option<String>,
    /// Header fields that go with it.
    pub headers: Vec<(&'static str, String)>,
}

impl Reject {
    /// With the standard phrase.
    pub fn new(status: u16) -> Reject {
        Reject { status, reason: None, headers: Vec::new() }
    }

    /// With a phrase that says what is wrong.
    pub fn because(status: u16, reason: impl Into<String>) -> Reject {
        Reject { status, reason: Some(reason.into()), headers: Vec::new() }
    }

    /// With another header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reject {
        self.headers.push((name, value.into()));
        self
    }

    /// The response to `request`.
    pub fn response(&self, request: &Message) -> Message {
        let mut response = Message::response(request, self.status, self.reason.as_deref());
        for (name, value) in &self.headers {
            response.add_header(name, value);
        }
        response
    }
}

impl From<HeaderError> for Reject {
    fn from(error: HeaderError) -> Reject {
        Reject::because(400, error.to_string())
    }
}

/// Header fields that may stand only once.
const SINGLE: [&str; 6] = ["From", "To", "Call-ID", "CSeq", "Max-Forwards", "Content-Type"];

/// Checks the form of a request, whoever it is for.
///
/// # Errors
/// The refusal to send.
pub fn validate_request(request: &Message) -> Result<(), Reject> {
    for name in SINGLE {
        if request.is_repeated(name) {
            return Err(Reject::because(400, format!("{name} appears more than once")));
        }
    }
    for via in request.values("Via") {
        Via::parse(&via)?;
    }
    request.top_via()?;
    request.from()?;
    request.to()?;
    request.call_id().ok_or(HeaderError::Missing("Call-ID"))?;
    let cseq = request.cseq()?;
    let method = request.method();
    if cseq.method != method {
        return Err(Reject::because(400, "CSeq names another method than the request line"));
    }
    request.contacts()?;
    if let Some(hops) = request.header("Max-Forwards")
        && hops.parse::<u16>().ok().filter(|hops| *hops <= 255).is_none()
    {
        return Err(Reject::because(400, "Max-Forwards is not a number from 0 to 255"));
    }
    Ok(())
}

/// The scheme of the Request-URI for a server that serves `sip` and `sips` (RFC 3261 8.2.2.1).
///
/// # Errors
/// 416 for any other scheme.
pub fn validate_scheme(request: &Message) -> Result<(), Reject> {
    let uri = request.request_uri().unwrap_or_default();
    match Uri::parse(&uri) {
        Ok(uri) if uri.is_sip() => Ok(()),
        Ok(_) => Err(Reject::new(416)),
        Err(error) => Err(Reject::because(400, error.to_string())),
    }
}

/// The option tags of Require against those that we know (RFC 3261 8.2.2.3).
/// Proxy-Require is not for a server: BroadWorks sends `Proxy-Require: privacy` with calls to be recorded.
///
/// # Errors
/// 420 with Unsupported.
pub fn validate_require(request: &Message, known: &[&str]) -> Result<(), Reject> {
    let unknown: Vec<String> = request
        .values("Require")
        .into_iter()
        .filter(|tag| !known.iter().any(|have| have.eq_ignore_ascii_case(tag)))
        .collect();
    if unknown.is_empty() || matches!(request.method(), Method::Ack | Method::Cancel) {
        return Ok(());
    }
    Err(Reject::new(420).with("Unsupported", unknown.join(", ")))
}
