//! The `ferric` binary: wires the parts together and talks to people.
//!
//! - [`cli`]: a file for each subcommand.
//! - [`config`]: the configuration file.
//! - [`console`]: the HTTP API.
//! - [`node`]: a running node: SIP sockets, the SRS, the capture worker, the uploader.
//! - [`import`]: configurations of other products.
//! - [`load`]: a SIPREC load source.
//! - [`replay`]: recorded requests, decided once more by another configuration.
//! - [`sizing`]: how large an installation must be.
//! - [`metrics`]: every metric's name, in one place.

pub mod cli;
pub mod config;
pub mod console;
pub mod import;
pub mod load;
pub mod metrics;
pub mod node;
pub mod replay;
pub mod sizing;
pub mod speech;
