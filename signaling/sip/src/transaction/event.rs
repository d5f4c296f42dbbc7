//! What the layer says: to the sockets, and to the core above it.

use bytes::Bytes;

use crate::flow::{Destination, Flow};
use crate::message::Message;

/// A transaction that we began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientTransactionId(pub(super) u64);

impl ClientTransactionId {
    /// Smaller than every other one; where a range begins.
    pub const MIN: ClientTransactionId = ClientTransactionId(0);
}

/// A transaction that a peer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerTransactionId(pub(super) u64);

/// What the layer wants done.
#[derive(Debug)]
pub enum TransactionOutput {
    /// Send bytes.
    Transmit {
        /// Where.
        to: Destination,
        /// What.
        bytes: Bytes,
    },
    /// Tell the core.
    Event(TransactionEvent),
}

/// What the core must know.
#[derive(Debug)]
pub enum TransactionEvent {
    /// A new request.
    Request {
        /// To respond with.
        id: ServerTransactionId,
        /// With `received` and `rport` in its top Via.
        request: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// Nobody wants the answer of an INVITE any more that has no final response yet: a CANCEL came, which is answered
    /// already, or the ACK to a refusal of another copy of it, which was turned away without a transaction.
    Cancel {
        /// The INVITE's transaction.
        id: ServerTransactionId,
        /// The CANCEL, or the ACK.
        request: Message,
    },
    /// The ACK to a 2xx.
    Ack {
        /// The ACK.
        request: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// A response to a request of ours.
    Response {
        /// Which request.
        id: ClientTransactionId,
        /// The response.
        response: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// A response that belongs to nothing.
    StrayResponse {
        /// The response.
        response: Message,
        /// Where it came from.
        flow: Flow,
    },
    /// No final response came in time (408).
    TimedOut {
        /// Which request.
        id: ClientTransactionId,
    },
    /// The request could not be sent (503).
    TransportError {
        /// Which request.
        id: ClientTransactionId,
    },
    /// The connection of an INVITE that was heard of is gone. Its answer may come over another one: the transaction lives,
    /// and is told of this once.
    ConnectionLost {
        /// Which INVITE.
        id: ClientTransactionId,
    },
    /// No ACK to a failure came.
    AckTimedOut {
        /// Which INVITE.
        id: ServerTransactionId,
    },
    /// A request was refused here because the table is full.
    Overloaded,
}
