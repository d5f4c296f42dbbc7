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

mod client_invite;
mod client_non_invite;
mod key;
mod layer;
mod route;
mod server_invite;
mod server_non_invite;
mod timer;

pub use layer::{
    ClientTransactionId, ServerTransactionId, TransactionEvent, TransactionLayer, TransactionLimits, TransactionOutput,
};
pub use timer::{Timer, Timers};

use std::time::Duration;

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
    /// Tell the core that nothing came in time.
    TimedOut,
    /// Forget the transaction.
    Terminate,
}

/// The class of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
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
}
