//! The SIP proxy (RFC 3261 16, RFC 6026, RFC 3263), sans-IO.
//!
//! ```text
//! message -> validate -> preprocess -> target (routes) -> forward -> transactions -> out
//!                                         |                  ^
//!                                         v                  | next element
//!                                   groups, location     failover
//! response -> transactions -> respond -> response context -> best -> out
//! ```
//!
//! A file per phase of a request; each path ends in one [`RequestDone`]. What is meant for this node's own recorder is given
//! back to the caller untouched. Names are looked up outside: [`ProxyOutput::Locate`] asks, [`Proxy::handle_located`] hears.

mod branch;
mod config;
mod context;
mod done;
mod explain;
mod failover;
mod flow_token;
mod forward;
pub mod group;
mod identity;
mod location;
mod preprocess;
mod probe;
mod proxy;
mod rescue;
mod respond;
mod response_context;
pub mod routing;
mod shed;
mod stateless;
mod target;
mod unruled;
mod validate;
mod witnessed;

pub use config::{Fork, Listener, ProxyConfig};
pub use done::RequestDone;
pub use explain::{DecidedBy, Destination, Explanation};
pub use location::{Contact, Location};
pub use proxy::{Handled, Proxy, ProxyOutput};
pub use target::{LocateTarget, Ticket};
pub use unruled::{Defaults, Unruled};
