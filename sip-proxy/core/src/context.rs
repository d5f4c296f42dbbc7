//! The response context of one request: its copies on their way, and the best answer so far (RFC 3261 16.6, 16.7).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::transaction::{ClientTransactionId, ServerTransactionId};
use smallvec::SmallVec;

use crate::done::RequestDone;
use crate::group::{ElementId, GroupConfig, Hop};
use crate::response_context::Best;
use crate::target::Target;

/// One request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ContextId(pub(crate) u64);

/// A copy that was sent and has no final answer.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) client: ClientTransactionId,
    pub(crate) element: Option<ElementId>,
    pub(crate) group: Option<Arc<GroupConfig>>,
    pub(crate) hop: Option<Hop>,
    pub(crate) sent: Instant,
    /// A provisional response came: it may be cancelled.
    pub(crate) heard: bool,
    /// More than 100 came: somebody behind the next hop is at work.
    pub(crate) rings: bool,
    /// Its branch, if it goes by TCP only because of its size: as a datagram it is the same request.
    pub(crate) oversize: Option<String>,
    /// Its element heard of its silence already.
    pub(crate) noted: bool,
}

/// One target with the addresses that it may be reached at.
#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) target: Target,
    pub(crate) attempt: Option<Attempt>,
    /// Elements that were asked.
    pub(crate) tried: SmallVec<[ElementId; 2]>,
    /// Its Max-Breadth (RFC 5393 5.3).
    pub(crate) breadth: Option<usize>,
    /// It came to its end.
    pub(crate) done: bool,
}

/// A request and all that became of it.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) server: ServerTransactionId,
    /// As it is forwarded, but for what differs from copy to copy.
    pub(crate) request: Message,
    pub(crate) flow: Flow,
    pub(crate) received: Instant,
    pub(crate) is_invite: bool,
    /// It begins a call.
    pub(crate) begins_call: bool,
    /// Hash of the Call-ID.
    pub(crate) call: u64,
    /// The fields that decided its way, hashed.
    pub(crate) way: u64,
    /// The listener that it must leave by.
    pub(crate) leaves_by: Option<std::net::SocketAddr>,
    pub(crate) records_route: bool,
    pub(crate) sets: VecDeque<Vec<Target>>,
    pub(crate) branches: SmallVec<[Branch; 1]>,
    pub(crate) best: Option<Best>,
    /// Nobody else is asked any more: the caller gave up, or a 6xx came.
    pub(crate) stopped: bool,
    /// What is told when it is over.
    pub(crate) done: RequestDone,
}

impl Context {
    pub(crate) fn branch(&mut self, at: usize) -> Option<&mut Branch> {
        self.branches.get_mut(at)
    }

    /// No copy is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.branches.iter().all(|branch| branch.done)
    }
}
