//! A line of the request log, as routes look at it.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use ferric_proxy::routing::{Subject, user_of};
use ferric_sight::RequestDone;
use ferric_sip::flow::Transport;
use ferric_sip::uri::Uri;

/// What stands in the place of something that is not shown.
const MASK: &str = "***";

/// A header field that rules ask for. The log has those fields only that the rules of its time asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    /// Lines in which a rule asked for it in vain.
    pub(super) in_vain: Cell<u64>,
    /// Some line has it.
    pub(super) seen: Cell<bool>,
}

/// A line as a subject.
pub(super) struct Line<'a> {
    line: &'a RequestDone,
    uri: &'a Uri,
    asked: &'a [Asked],
    in_doubt: Cell<bool>,
}

impl<'a> Line<'a> {
    pub(super) fn new(line: &'a RequestDone, uri: &'a Uri, asked: &'a [Asked]) -> Line<'a> {
        Line { line, uri, asked, in_doubt: Cell::new(false) }
    }

    /// A rule looked at a value that is masked.
    pub(super) fn in_doubt(&self) -> bool {
        self.in_doubt.get()
    }

    fn look(&self, text: &str) {
        if text.contains(MASK) {
            self.in_doubt.set(true);
        }
    }
}

impl Subject for Line<'_> {
    fn method(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.line.method)
    }

    fn user(&self) -> Cow<'_, str> {
        let user = user_of(self.uri);
        self.look(&user);
        Cow::Owned(user)
    }

    fn domain(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.uri.host)
    }

    fn from(&self) -> Cow<'_, str> {
        let from = self.line.from_uri.as_deref().unwrap_or_default();
        // A masked password says nothing against the user.
        if from.contains(MASK)
            && let Some(user) = Uri::parse(from).ok().and_then(|uri| uri.user)
        {
            self.look(&user);
        }
        Cow::Borrowed(from)
    }

    fn source(&self) -> IpAddr {
        self.line.source.ip()
    }

    fn listener(&self) -> (Transport, SocketAddr) {
        (self.line.listener.transport, self.line.listener.address)
    }

    fn header(&self, name: &str) -> Vec<String> {
        let found = self.line.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        match found {
            Some((_, value)) => {
                self.look(value);
                vec![value.clone()]
            }
            None => {
                if let Some(asked) = self.asked.iter().find(|asked| asked.name.eq_ignore_ascii_case(name)) {
                    asked.in_vain.set(asked.in_vain.get() + 1);
                }
                Vec::new()
            }
        }
    }

    fn is_recording(&self) -> bool {
        self.line.siprec
    }
}
