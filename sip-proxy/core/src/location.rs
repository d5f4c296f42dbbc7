//! The port to the registrar: who is registered where, and who may register.

use std::time::Instant;

use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;

/// One place where a user can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The URI as registered.
    pub uri: String,
    /// Preference in thousandths; higher is tried first.
    pub q: u16,
    /// The Path that requests must take (RFC 3327), in order.
    pub path: Vec<String>,
    /// The connection, or the address behind a NAT, that it registered over (RFC 5626).
    pub flow: Option<Flow>,
}

/// A registrar and location service.
pub trait Location: std::any::Any + std::fmt::Debug + Send {
    /// The challenge for a REGISTER that shows no password at all where one is needed. Nothing is kept of it: the same again
    /// is asked again (RFC 3261 8.2.7).
    fn challenge(&mut self, unix_s: u64, request: &Message, flow: &Flow) -> Option<Reject>;
    /// Answers any other REGISTER.
    fn register(&mut self, now: Instant, unix_s: u64, request: &Message, flow: &Flow) -> Message;
    /// The contacts of a user, the best first; `None` when there is no such user in our domains.
    fn lookup(&self, now: Instant, aor: &Uri) -> Option<Vec<Contact>>;
    /// Checks the password of a request that is none to register: the challenge or refusal, if it does not pass.
    fn authenticate(&mut self, now: Instant, unix_s: u64, request: &Message, flow: &Flow) -> Option<Message>;
    /// A connection is gone, and with it those who registered over it.
    fn flow_failed(&mut self, now: Instant, flow: &Flow);
    /// When [`Location::handle_timeout`] is due.
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// Runs what is due.
    fn handle_timeout(&mut self, now: Instant);
}
