//! What the registrar is told.

use std::time::Duration;

/// Limits and domains of a registrar.
#[derive(Debug, Clone)]
pub struct RegistrarConfig {
    /// Its domains, each a realm of its own.
    pub domains: Vec<String>,
    /// Longest registration; longer wishes are cut to it.
    pub max_expires: Duration,
    /// Shortest; shorter wishes get 423.
    pub min_expires: Duration,
    /// Of a contact that names none.
    pub default_expires: Duration,
    /// Contacts of one user.
    pub max_contacts: usize,
    /// Bindings of all users.
    pub max_bindings: usize,
    /// A challenge may be answered for this long.
    pub nonce_lifetime: Duration,
    /// Changes that wait to be fetched; beyond, they are given up for [`crate::Change::Lost`]. 0: nobody fetches them.
    pub max_changes: usize,
}

impl RegistrarConfig {
    /// For these domains, all else as by default.
    pub fn new<T: Into<String>>(domains: impl IntoIterator<Item = T>) -> RegistrarConfig {
        RegistrarConfig {
            domains: domains.into_iter().map(|domain| domain.into().to_ascii_lowercase()).collect(),
            max_expires: Duration::from_secs(3_600),
            min_expires: Duration::from_secs(60),
            default_expires: Duration::from_secs(3_600),
            max_contacts: 10,
            max_bindings: 1_000_000,
            nonce_lifetime: Duration::from_secs(300),
            max_changes: 0,
        }
    }

    /// The domain as configured, if it is one of ours.
    pub(crate) fn domain(&self, host: &str) -> Option<&str> {
        let host = host.trim_end_matches('.');
        self.domains.iter().find(|domain| domain.eq_ignore_ascii_case(host)).map(String::as_str)
    }
}
