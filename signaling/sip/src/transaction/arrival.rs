//! What the top Via of a request says, read once: whose request it is, where its responses go, and what is to be noted in
//! it on the way in.

use crate::flow::Flow;
use crate::header::HeaderError;
use crate::message::Message;
use crate::method::Method;

use super::key::{Key, KeyMaker};
use super::route::{response_flow, stamped};

/// A request at the door of a [`TransactionLayer`](super::TransactionLayer); of use to the layer that made it, and for
/// that request as it came.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub(super) method: Method,
    /// Its transaction; of an ACK that of its INVITE.
    pub(super) key: Key,
    /// Of a CANCEL: what it cancels.
    pub(super) invite: Option<Key>,
    /// Where responses go.
    pub(super) reply_to: Flow,
    /// The top Via with the true source, where that changes it.
    stamp: Option<String>,
}

impl Arrival {
    pub(super) fn of(keys: &KeyMaker, request: &Message, flow: &Flow) -> Result<Arrival, HeaderError> {
        let method = request.method();
        request.with_top_via(|via| {
            let key = |method: &Method| keys.server(request, via, method);
            let own = if method == Method::Ack { Method::Invite } else { method.clone() };
            Arrival {
                key: key(&own),
                invite: (method == Method::Cancel).then(|| key(&Method::Invite)),
                reply_to: response_flow(&via, flow),
                stamp: stamped(via, flow).map(|via| via.to_string()),
                method,
            }
        })
    }

    /// A To tag for a response outside of any state: the same for a request that comes again (RFC 3261 8.2.7).
    pub fn tag(&self) -> String {
        self.key.tag()
    }

    /// Notes the true source in the request (RFC 3261 18.2.1).
    pub(super) fn stamp(&self, request: &mut Message) {
        if let Some(via) = &self.stamp {
            request.set_top_via(via);
        }
    }
}
