//! Where a SIP request goes (RFC 3263), answered from memory while DNS is slow, wrong or dead.
//!
//! ```text
//! Uri -> Target -> Locator::locate -> Ready(hops) | Wait(ticket) | Failed
//!                      |    ^
//!            poll_query|    |handle_answer            the only part with sockets:
//!                      v    |                         dns::DnsClient (tokio, hickory)
//!                  Query -> answers, bounded both ways
//! ```
//!
//! - [`target`]: what a URI asks for, and which look-ups that takes (RFC 3263 4.1, 4.2).
//! - [`cache`]: answers and how far they are believed: refreshed ahead, served stale, a sudden denial distrusted.
//! - [`select`]: the order of SRV records (RFC 2782) and of NAPTR records (RFC 3403).
//! - [`locate`]: the walk NAPTR -> SRV -> A/AAAA over the cache, and those who wait for it.
//! - [`last_good`]: the cache as records that outlive a restart.
//! - [`dns`]: the shell that asks real servers.
//!
//! All but [`dns`] are sans-IO: the time is an argument, randomness comes from a seed, nothing is sent. A name that
//! was good once is answered without waiting for DNS for as long as [`LocatorConfig::serve_stale`] says, so dead DNS
//! costs calls to known peers nothing; only a name that was never good waits, and at most
//! [`LocatorConfig::first_wait`].

pub mod cache;
pub mod config;
pub mod dns;
pub mod last_good;
pub mod locate;
pub mod record;
pub mod select;
pub mod target;
mod walk;

pub use cache::CacheStats;
pub use config::LocatorConfig;
pub use dns::{DnsClient, DnsConfig, DnsError};
pub use last_good::{LastGood, Record, Snapshot};
pub use locate::{Hop, Located, Locator, Server, ServerSet, Ticket};
pub use record::{Answer, DnsFailure, Kind, Naptr, Query, QueryId, RecordData, Srv};
pub use target::{LocateError, Target};
