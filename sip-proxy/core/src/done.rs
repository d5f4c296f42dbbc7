//! The one record of a request that is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ferric_sip::flow::Transport;

/// A request, finished: one log line, one counter.
#[derive(Debug, Clone)]
pub struct RequestDone {
    /// Method.
    pub method: String,
    /// Call-ID.
    pub call_id: String,
    /// From URI.
    pub from: String,
    /// Request-URI as it came.
    pub request_uri: String,
    /// Where it came from.
    pub source: SocketAddr,
    /// Over which transport.
    pub transport: Transport,
    /// To which listener.
    pub listener: SocketAddr,
    /// It asked for a recording.
    pub is_recording: bool,
    /// It began something: it was routed by the rules.
    pub is_initial: bool,
    /// Values of the header fields that rules look at.
    pub headers: Vec<(String, String)>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The group that it ended at.
    pub group: Option<Arc<str>>,
    /// The element that answered.
    pub element: Option<String>,
    /// Elements or addresses that were tried.
    pub tries: u32,
    /// Status of the answer.
    pub status: u16,
    /// Who made the answer: `upstream` (the element), or why we did.
    pub side: &'static str,
    /// From request to answer.
    pub elapsed: Duration,
}
