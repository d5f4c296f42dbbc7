//! The one table from what went wrong to a status code.

use std::time::Duration;

use ferric_sip::validate::Reject;

/// Why a request was not forwarded, or came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No rule, no registrar domain, no address of ours.
    NoRoute,
    /// A rule names a group that is not there.
    NoGroup,
    /// Every element is dead, drained, busy or full.
    NoElement(Duration),
    /// The user is known and nowhere registered.
    NotRegistered,
    /// No such user in our domains.
    NoUser,
    /// A Route or Request-URI that cannot be followed.
    BadUri,
    /// The flow of a phone is gone.
    FlowFailed,
    /// A scheme that leads nowhere.
    Scheme,
    /// The name does not exist.
    NoSuchHost,
    /// DNS does not answer.
    DnsDown,
    /// Nobody answered in time.
    Timeout,
    /// It could not be sent.
    Unreachable,
    /// Too many requests at once, or too many new calls.
    Overload,
    /// The transport is not spoken here.
    Transport,
}

impl Trouble {
    /// The answer; `is_invite` because 408 is never sent to anything else (RFC 4320).
    pub(crate) fn reject(&self, is_invite: bool) -> Reject {
        match self {
            Trouble::NoRoute => Reject::because(404, "No Route"),
            Trouble::NoGroup => Reject::because(500, "No Such Server Group"),
            Trouble::NoElement(wait) => {
                Reject::because(503, "No Server Available").with("Retry-After", wait.as_secs().max(1).to_string())
            }
            Trouble::NotRegistered => Reject::new(480),
            Trouble::NoUser => Reject::new(404),
            Trouble::BadUri => Reject::because(400, "Bad Route Or Request-URI"),
            Trouble::FlowFailed => Reject::because(430, "Flow Failed"),
            Trouble::Scheme => Reject::new(416),
            Trouble::NoSuchHost => Reject::because(404, "Host Not Found"),
            Trouble::DnsDown => Reject::because(503, "Name Lookup Failed").with("Retry-After", "5"),
            Trouble::Timeout if is_invite => Reject::new(408),
            Trouble::Timeout => Reject::new(504),
            Trouble::Unreachable => Reject::because(500, "Next Hop Unreachable"),
            Trouble::Overload => Reject::because(503, "Overloaded").with("Retry-After", "1"),
            Trouble::Transport => Reject::because(500, "Transport Not Available"),
        }
    }

    /// For counters and the request log.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Trouble::NoRoute => "no-route",
            Trouble::NoGroup => "no-group",
            Trouble::NoElement(_) => "no-element",
            Trouble::NotRegistered => "not-registered",
            Trouble::NoUser => "no-user",
            Trouble::BadUri => "bad-uri",
            Trouble::FlowFailed => "flow-failed",
            Trouble::Scheme => "scheme",
            Trouble::NoSuchHost => "no-such-host",
            Trouble::DnsDown => "dns-down",
            Trouble::Timeout => "timeout",
            Trouble::Unreachable => "unreachable",
            Trouble::Overload => "overload",
            Trouble::Transport => "transport",
        }
    }
}
