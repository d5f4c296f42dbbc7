//! Conditions of a rule.

use std::net::SocketAddr;

use ferric_sip::flow::Transport;
use ferric_sip::trust::Network;
use regex::Regex;

use super::Subject;

/// One condition; texts are compared as SIP compares them: hosts and header names without case, users with it.
#[derive(Debug, Clone)]
pub enum Condition {
    /// The method is one of these.
    Method(Vec<String>),
    /// The user of the Request-URI matches.
    User(Regex),
    /// The user of the Request-URI begins so.
    UserPrefix(String),
    /// The host of the Request-URI is this, or lies below it for `*.example.com`.
    Domain(String),
    /// The URI of From matches.
    From(Regex),
    /// It comes from there.
    Source(Network),
    /// It came to this listener.
    Listener(Transport, SocketAddr),
    /// A header field is there, and one of its values matches if there is a pattern.
    Header(String, Option<Regex>),
    /// It asks for a recording, or does not.
    Recording(bool),
}

/// What a condition saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionTrace {
    /// The condition as text.
    pub condition: String,
    /// What the request had.
    pub saw: String,
    /// Whether it holds.
    pub holds: bool,
}

impl Condition {
    /// Whether it holds.
    pub fn holds(&self, subject: &dyn Subject) -> bool {
        match self {
            Condition::Method(methods) => {
                let method = subject.method();
                methods.iter().any(|have| *have == *method)
            }
            Condition::User(pattern) => pattern.is_match(&subject.user()),
            Condition::UserPrefix(prefix) => subject.user().starts_with(prefix.as_str()),
            Condition::Domain(domain) => is_domain(domain, &subject.domain()),
            Condition::From(pattern) => pattern.is_match(&subject.from()),
            Condition::Source(network) => network.contains(subject.source()),
            Condition::Listener(transport, address) => subject.listener() == (*transport, *address),
            Condition::Header(name, None) => !subject.header(name).is_empty(),
            Condition::Header(name, Some(pattern)) => subject.header(name).iter().any(|value| pattern.is_match(value)),
            Condition::Recording(wanted) => subject.is_recording() == *wanted,
        }
    }

    pub(super) fn explain(&self, subject: &dyn Subject) -> ConditionTrace {
        let (condition, saw) = match self {
            Condition::Method(methods) => (format!("method = {}", methods.join(" or ")), subject.method().into_owned()),
            Condition::User(pattern) => (format!("user matches {pattern}"), subject.user().into_owned()),
            Condition::UserPrefix(prefix) => (format!("user begins with {prefix}"), subject.user().into_owned()),
            Condition::Domain(domain) => (format!("domain = {domain}"), subject.domain().into_owned()),
            Condition::From(pattern) => (format!("From matches {pattern}"), subject.from().into_owned()),
            Condition::Source(network) => (format!("source in {network}"), subject.source().to_string()),
            Condition::Listener(transport, address) => {
                let (had, at) = subject.listener();
                (format!("listener = {transport} {address}"), format!("{had} {at}"))
            }
            Condition::Header(name, pattern) => {
                let values = subject.header(name);
                let saw = if values.is_empty() { "not there".to_owned() } else { values.join(" | ") };
                (
                    pattern
                        .as_ref()
                        .map_or_else(|| format!("{name} is there"), |pattern| format!("{name} matches {pattern}")),
                    saw,
                )
            }
            Condition::Recording(wanted) => (format!("siprec = {wanted}"), subject.is_recording().to_string()),
        };
        ConditionTrace { condition, saw, holds: self.holds(subject) }
    }
}

fn is_domain(wanted: &str, have: &str) -> bool {
    match wanted.strip_prefix("*.") {
        Some(parent) => {
            have.len() > parent.len()
                && have.get(have.len() - parent.len()..).is_some_and(|end| end.eq_ignore_ascii_case(parent))
                && have.as_bytes().get(have.len() - parent.len() - 1) == Some(&b'.')
        }
        None => wanted.eq_ignore_ascii_case(have),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_compared_without_case_and_stars_want_a_label() {
        assert!(is_domain("Example.com", "example.COM"));
        assert!(is_domain("*.example.com", "pbx.Example.com"));
        assert!(!is_domain("*.example.com", "example.com"));
        assert!(!is_domain("*.example.com", "badexample.com"));
    }
}
