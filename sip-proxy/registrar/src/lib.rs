//! Registrar and location service (RFC 3261 10), sans-IO.
//!
//! ```text
//! REGISTER --Registrar::register--> domain -> options -> password -> own address -> contacts -> bindings -> 200
//!                                             (digest/)              (aor)          (contact,   (table)
//!                                                                                    reach)
//! a call   --Registrar::lookup----> the bindings of the address of record, best q first, then the latest
//! bindings --poll_change----------> whoever keeps them: a journal, other nodes
//! ```
//!
//! - A REGISTER is taken as a whole or not at all: every contact is checked before the first binding changes.
//! - One deadline an address of record, set again when it fires too early: a refresh costs the queue nothing.
//! - Nothing grows without a bound: bindings of all and of one user, contacts and lengths of one request, nonces that
//!   were used, names that failed, changes that nobody fetched.
//! - Whether a user exists is not told to anybody without a password: the answers and the work for a name that is not
//!   there are those for a wrong password.
//!
//! RFC 3261 10 and 19.1.4, RFC 3327 (Path), RFC 5626 (outbound), RFC 7616 and 8760 (digest). What is not done is listed
//! in `docs/registrar.md`.

mod aor;
mod binding;
mod changes;
mod config;
mod contact;
mod date;
mod digest;
mod equal;
mod reach;
mod register;
mod registrar;
mod shared;
mod table;
mod users;

pub use binding::{Saved, SavedFlow, SavedHome, SavedKey};
pub use changes::Change;
pub use config::RegistrarConfig;
pub use digest::Algorithm;
pub use equal::same_uri;
pub use registrar::{Counters, Registrar};
pub use users::{Secret, Users};
