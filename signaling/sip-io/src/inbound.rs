//! What the driver hears of the sockets.

use std::sync::Arc;
use std::time::Instant;

use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::method::Method;

/// What the driver hears.
#[derive(Debug)]
pub struct Inbound {
    /// Between whom.
    pub flow: Flow,
    /// When it came.
    pub at: Instant,
    /// What came.
    pub kind: InboundKind,
}

/// What came.
#[derive(Debug)]
pub enum InboundKind {
    /// A message.
    Message(Message),
    /// Bytes that are none; the answer, if one is due, is sent already.
    Malformed {
        /// What is wrong.
        error: String,
        /// Status of the answer sent.
        answered: Option<u16>,
        /// Call-ID, where it was an INVITE that would have begun a dialog.
        invite: Option<String>,
    },
    /// The flow is no more: what was sent on it and is not answered may not have arrived. Told of
    /// a message that could not leave, of an ICMP answer to a datagram, and of every connection
    /// that ends after it carried messages, in order or not: whoever waits on it waits in vain.
    TransportError {
        /// The host that the peer had to prove to be, where there was one.
        server_name: Option<Arc<str>>,
    },
}

/// The Call-ID of the INVITE that an answer is for, if it would have begun a dialog.
pub(crate) fn invite_of(answer: &Message) -> Option<String> {
    let begins = answer.method() == Method::Invite && answer.to().is_ok_and(|to| to.tag().is_none());
    answer.call_id().filter(|_| begins).map(std::borrow::Cow::into_owned)
}
