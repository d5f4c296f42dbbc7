//! Which way a request takes: a list of rules, of which the first that matches decides.
//!
//! A rule looks at what [`Subject`] tells of a request: a message that is here, or a line of a request log that is played
//! again. [`RouteTable::explain`] walks the same conditions and notes what each of them saw.

mod condition;
mod rewrite;

pub use condition::{Condition, ConditionTrace};
pub use rewrite::Rewrite;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;

/// What routes ask about a request.
pub trait Subject {
    /// Method.
    fn method(&self) -> Cow<'_, str>;
    /// User of the Request-URI, unescaped; the number of a `tel:` URI.
    fn user(&self) -> Cow<'_, str>;
    /// Host of the Request-URI.
    fn domain(&self) -> Cow<'_, str>;
    /// URI of From.
    fn from(&self) -> Cow<'_, str>;
    /// Source address.
    fn source(&self) -> IpAddr;
    /// Listener that it came to.
    fn listener(&self) -> (Transport, SocketAddr);
    /// All values of a header field.
    fn header(&self, name: &str) -> Vec<String>;
    /// It asks for a recording.
    fn is_recording(&self) -> bool;
}

/// A message as a [`Subject`].
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The request.
    pub message: &'a Message,
    /// Its Request-URI.
    pub uri: &'a Uri,
    /// Where it came from.
    pub flow: &'a Flow,
    /// It asks for a recording.
    pub is_recording: bool,
}

impl Subject for Incoming<'_> {
    fn method(&self) -> Cow<'_, str> {
        Cow::Owned(self.message.method().as_str().to_owned())
    }

    fn user(&self) -> Cow<'_, str> {
        Cow::Owned(user_of(self.uri))
    }

    fn domain(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.uri.host)
    }

    fn from(&self) -> Cow<'_, str> {
        self.message.from_uri().unwrap_or_default()
    }

    fn source(&self) -> IpAddr {
        self.flow.remote.ip()
    }

    fn listener(&self) -> (Transport, SocketAddr) {
        (self.flow.transport, self.flow.local)
    }

    fn header(&self, name: &str) -> Vec<String> {
        self.message.headers(name).map(Cow::into_owned).collect()
    }

    fn is_recording(&self) -> bool {
        self.is_recording
    }
}

/// The user that rules look at; parameters of a `tel:` URI and visual separators of its number do not count.
pub fn user_of(uri: &Uri) -> String {
    let user = uri.user_unescaped().unwrap_or_default();
    if uri.scheme == "tel" {
        let number = user.split(';').next().unwrap_or("");
        return number.chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')')).collect();
    }
    user
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To an element of that group.
    Group(String),
    /// To that URI, whose host is looked up (RFC 3263).
    Uri(String),
    /// Where the Request-URI leads (RFC 3263).
    RequestUri,
    /// REGISTER is taken, others go to the registered contacts.
    Registrar,
    /// To this node's recorder.
    Srs,
    /// Refused.
    Reject {
        /// Status, 300 to 699.
        code: u16,
        /// Reason phrase; `None` takes the standard one.
        reason: Option<String>,
    },
    /// 302 with that Contact.
    Redirect(String),
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Action::Group(name) => write!(f, "group {name}"),
            Action::Uri(uri) => f.write_str(uri),
            Action::RequestUri => f.write_str("request-uri"),
            Action::Registrar => f.write_str("registrar"),
            Action::Srs => f.write_str("srs"),
            Action::Reject { code, .. } => write!(f, "reject {code}"),
            Action::Redirect(uri) => write!(f, "redirect {uri}"),
        }
    }
}

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// For people: its own name, or `route 3`.
    pub name: String,
    /// All must hold; none matches everything.
    pub conditions: Vec<Condition>,
    /// What is changed on the way.
    pub rewrite: Rewrite,
    /// Where it leads.
    pub action: Action,
}

/// How one rule looked upon a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTrace {
    /// The rule.
    pub rule: String,
    /// Each condition and what it saw; those behind the first that failed were not looked at.
    pub conditions: Vec<ConditionTrace>,
    /// It decided.
    pub matched: bool,
}

/// The rules in order.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    rules: Vec<Rule>,
}

impl RouteTable {
    /// From rules in order.
    pub fn new(rules: Vec<Rule>) -> RouteTable {
        RouteTable { rules }
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The first rule that matches.
    pub fn route(&self, subject: &dyn Subject) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.conditions.iter().all(|condition| condition.holds(subject)))
    }

    /// As [`RouteTable::route`], with what every rule up to the deciding one saw.
    pub fn explain(&self, subject: &dyn Subject) -> Vec<RuleTrace> {
        let mut traces = Vec::new();
        for rule in &self.rules {
            let mut conditions = Vec::new();
            for condition in &rule.conditions {
                let trace = condition.explain(subject);
                let holds = trace.holds;
                conditions.push(trace);
                if !holds {
                    break;
                }
            }
            let matched = conditions.iter().all(|trace| trace.holds);
            traces.push(RuleTrace { rule: rule.name.clone(), conditions, matched });
            if matched {
                break;
            }
        }
        traces
    }
}
