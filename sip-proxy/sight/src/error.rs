//! The one error of this crate.

use std::io;

use thiserror::Error;

/// What can be wrong when something is started or read. Nothing here happens while messages pass.
#[derive(Debug, Error)]
pub enum SightError {
    /// No socket for HEP packets.
    #[error("cannot open a UDP socket for HEP: {0}")]
    Socket(#[source] io::Error),
    /// A password that does not fit into a packet beside a message.
    #[error("the HEP password has {length} bytes, {} are allowed", crate::hep::MAX_TEXT)]
    PasswordTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A line of the request log that cannot be read.
    #[error("this is no line of the request log: {0}")]
    Line(#[source] serde_json::Error),
    /// A listener that is not written as `udp:192.0.2.1:5060`.
    #[error("a listener is written as transport:address, as in udp:192.0.2.1:5060")]
    Listener,
}
