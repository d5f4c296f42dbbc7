//! Calls turned away before anything is done for them, while more messages wait than there should.
//!
//! An element that is asked for more than it can do does less: what it began is given up by those who wait, and comes
//! again. So new calls get 503 without a transaction or a look at the rules, which costs a small part of a call, and
//! everything that belongs to a call that runs is served. Calls that are to be recorded are taken all the same, and so is
//! what comes again (the caller looks for its transaction before).

use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::transaction::Arrival;

use crate::proxy::{Proxy, ProxyOutput};
use crate::rescue::Trouble;

/// The To tag of these answers: the ACK to one is known by it, and goes nowhere.
const TAG: &str = "overload";

impl Proxy {
    /// Turns away what there is no time for; gives anything else back.
    pub(crate) fn shed(&mut self, request: Message, flow: &Flow, arrival: Option<&Arrival>) -> Option<Message> {
        let method = request.method();
        if method == Method::Ack && is_ours(&request) {
            return None;
        }
        if !self.crowded
            || method != Method::Invite
            || request.to_tag().is_some()
            || (self.config.is_recording)(&request)
        {
            return Some(request);
        }
        if let Some(arrival) = arrival {
            self.layer.respond_stateless(request, arrival, |request| {
                let mut response = Trouble::Overload.reject(true).response(request);
                response.set_to_tag(TAG);
                response
            });
        }
        self.outputs.push_back(ProxyOutput::Rejected { reason: "overload", source: flow.remote.ip() });
        None
    }
}

fn is_ours(ack: &Message) -> bool {
    ack.to_tag().is_some_and(|tag| tag == TAG)
}
