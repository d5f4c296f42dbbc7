//! Transactions (RFC 3261 17, corrected by RFC 6026).
//!
//! Each of the four machines is a small table in a file of its own: an input
//! gives [`Action`]s and maybe a new state. [`TransactionLayer`] matches
//! messages to machines, keeps their timers in one queue and carries the actions out.
//!
//! ```text
//! core --send_request--> client machine --Transmit--> flow
//!      <---Response-----                <--message---
//! core <---Request------ server machine <--message--- flow
//!      ----respond----->                --Transmit-->
//! ```

mod actions;
mod arrival;
mod carrier;
mod client_invite;
mod client_non_invite;
mod event;
mod key;
mod layer;
mod outgoing;
mod route;
mod server_invite;
mod server_non_invite;
mod timer;

pub use arrival::Arrival;
pub use event::{ClientTransactionId, ServerTransactionId, TransactionEvent, TransactionOutput};
pub use layer::{TransactionLayer, TransactionLimits};
pub use route::way_back;
pub use timer::{Timer, Timers};

use std::time::Duration;

use actions::Actions;

/// What a machine asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Send the request, or the last response, again.
    Retransmit,
    /// Send what the core handed over just now.
    Send,
    /// Acknowledge the final response that came just now (client INVITE).
    Acknowledge,
    /// Hand the message to the core.
    Deliver,
    /// Set a timer.
    Set(Timer, Duration),
    /// Stop a timer.
    Stop(Timer),
    /// Send a CANCEL (client INVITE).
    Cancel,
    /// Tell the core that nobody waits for the answer (server INVITE).
    Abandon,
    /// Tell the core that nothing came in time.
    TimedOut,
    /// Forget the transaction.
    Terminate,
}

/// The class of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// 100 of the next hop: it does not keep timer C alive (RFC 3261 16.7 step 2).
    Trying,
    /// 101 to 199; of our own responses 100 as well.
    Provisional,
    Success,
    Failure,
}

impl Class {
    fn of(status: u16) -> Class {
        match status {
            0..=199 => Class::Provisional,
            200..=299 => Class::Success,
            _ => Class::Failure,
        }
    }

    /// Of a response that came: 100 is told from the others.
    fn of_received(status: u16) -> Class {
        if status == 100 { Class::Trying } else { Class::of(status) }
    }

    fn is_final(self) -> bool {
        matches!(self, Class::Success | Class::Failure)
    }
}
