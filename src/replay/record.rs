//! What is kept of a line until its turn comes: small, because minutes of traffic wait at once.

use std::time::Duration;

use super::names::Name;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Begins something; routed by the rules.
    Initial {
        /// An INVITE.
        invite: bool,
    },
    /// Ends a call.
    Bye,
    /// Anything else within a dialog.
    Within,
}

/// Who or what made the answer that the log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The element, or the one behind it; or the caller hung up.
    Answered,
    /// The element was asked and said nothing.
    Silent,
    /// The request itself was at fault: it fares the same everywhere.
    Request,
    /// The node, before anybody was asked.
    Here,
}

impl How {
    /// From the cause of a line; `has_element` when somebody was asked.
    pub(super) fn of(cause: &str, has_element: bool) -> How {
        match cause {
            "timeout" | "no-element" | "unreachable" if has_element => How::Silent,
            "invalid" | "challenge" => How::Request,
            "rule" | "no-route" | "no-group" | "no-element" | "not-registered" | "no-user" | "bad-uri" | "scheme"
            | "no-such-host" | "dns-down" | "timeout" | "unreachable" | "overload" | "transport" | "registrar" => {
                How::Here
            }
            _ => How::Answered,
        }
    }
}

/// Where the candidate sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// To the server group in that place of the configuration.
    Group(usize),
    /// Somewhere that is not looked into: a URI, the registrar, the recorder.
    Elsewhere(Name),
    /// It is refused, or redirected, with that status.
    Refused(Name, u16),
}

/// A line.
#[derive(Debug)]
pub(super) struct Record {
    /// When the request came, since 1970.
    pub(super) at: Duration,
    /// From the request to the answer.
    pub(super) elapsed: Duration,
    pub(super) kind: Kind,
    /// Hash of the Call-ID.
    pub(super) call: u64,
    pub(super) call_id: Box<str>,
    /// Where it went: group and element, if it got there.
    pub(super) was: Option<(Name, Name)>,
    /// One element was asked, not several.
    pub(super) first_try: bool,
    pub(super) how: How,
    pub(super) status: u16,
    /// The route and what is behind it: as recorded, and as the candidate has it; the same when nothing changes.
    pub(super) was_route: Name,
    pub(super) new_route: Name,
    pub(super) goal: Goal,
    /// No rule of the candidate matched.
    pub(super) unmatched: bool,
    /// A rule looked at something that the log does not show.
    pub(super) in_doubt: bool,
}
