//! Step 3: where a request goes (RFC 3261 16.5).
//!
//! | request | goes |
//! | --- | --- |
//! | within a dialog, to our address or to a group's name, of a call that a group has | to the element that has it |
//! | within a dialog | along its Route, else along the flow that our Record-Route remembers, else to its Request-URI |
//! | along a Route that does not end here | along it |
//! | along a Route with the flow of a phone, which another node of the cluster made | along that flow, else 430 (RFC 5626 5.3) |
//! | any other that begins something | as the rules say |
//! | without a rule: asks for a recording | to this node's recorder |
//! | without a rule: to the name of a group | to the group |
//! | without a rule: to a domain of the registrar | to the registrar, or to the contacts |
//! | without a rule: to our own address | to this node's recorder, which answers OPTIONS as well |
//! | all else | 404 |
//!
//! Within a dialog is what has a To tag, and proves that it belongs to one where passwords are in force ([`crate::witnessed`]).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;

use crate::config::ProxyConfig;
use crate::group::{ElementId, Groups, Hop};
use crate::identity::Identity;
use crate::preprocess::{Preprocessed, uri_of};
use crate::rescue::Trouble;
use crate::routing::{Action, Incoming};
use crate::unruled::Unruled;
use crate::validate::is_known_scheme;

/// What is to be looked up (RFC 3263).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocateTarget {
    /// A name.
    pub host: String,
    /// Its port, if given.
    pub port: Option<u16>,
    /// Its transport, if given.
    pub transport: Option<Transport>,
    /// `sips`: TLS only.
    pub secure: bool,
}

/// A look-up that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Where one copy of a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Next {
    /// To an element of a group.
    Group(Arc<str>),
    /// To the element that has the call.
    Element(Arc<str>, ElementId),
    /// To these addresses, one after the other.
    Hops(Vec<Hop>),
    /// To a name.
    Name(LocateTarget),
    /// Back over the connection that somebody registered on.
    Flow(Flow),
}

/// One copy to be made.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The new Request-URI.
    pub(crate) uri: Option<String>,
    /// Put before the Route header fields (Path of a registration).
    pub(crate) routes: Vec<String>,
    pub(crate) next: Next,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// To this node's recorder.
    Local,
    /// Answered here.
    Reply(Box<Message>, &'static str),
    /// Refused here.
    Reject(Reject, &'static str),
    /// A REGISTER of our domains.
    Register,
    /// Forwarded: all of one set at once, the next set when they have refused.
    Forward(Vec<Vec<Target>>),
}

/// The decision and which rule made it.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    pub(crate) rule: Option<String>,
    pub(crate) before: Preprocessed,
    /// It begins something.
    pub(crate) is_initial: bool,
    /// It begins something that is to be recorded.
    pub(crate) is_recording: bool,
    /// It belongs to a dialog, as far as it is believed.
    pub(crate) in_dialog: bool,
    /// It proves that.
    pub(crate) is_proven: bool,
    /// Who sent it.
    pub(crate) source: IpAddr,
}

fn refuse(trouble: &Trouble, request: &Message) -> Decision {
    Decision::Reject(trouble.reject(request.method() == Method::Invite), trouble.as_str())
}

/// Where the rules and the table send a request.
pub(crate) struct Routed {
    /// `Err(uri)` asks the location service for the contacts of that address of record.
    pub(crate) decision: Result<Decision, Uri>,
    pub(crate) rule: Option<String>,
    pub(crate) is_initial: bool,
    pub(crate) is_recording: bool,
}

/// Everything that a decision needs.
pub(crate) struct Router<'a> {
    pub(crate) config: &'a ProxyConfig,
    pub(crate) identity: &'a Identity,
    pub(crate) groups: &'a Groups,
    /// Hash of the Call-ID.
    pub(crate) call: u64,
    /// The request belongs to a dialog.
    pub(crate) in_dialog: bool,
}

impl Router<'_> {
    /// Decides all but the contacts of a user.
    pub(crate) fn decide(&self, request: &Message, flow: &Flow, before: &Preprocessed) -> Routed {
        let in_dialog = self.in_dialog;
        let fixed =
            |decision: Decision| Routed { decision: Ok(decision), rule: None, is_initial: false, is_recording: false };
        let Ok(uri) = Uri::parse(&before.target) else { return fixed(refuse(&Trouble::BadUri, request)) };
        if !is_known_scheme(&uri.scheme) {
            return fixed(refuse(&Trouble::Scheme, request));
        }
        if let Some(route) = &before.next_route {
            let forward = self.by_route(route, request);
            return fixed(forward);
        }
        if before.hop.is_some() {
            // The contact counts for what is recorded of the way: it may lead nowhere else.
            return fixed(match before.along {
                Some(flow) => {
                    let uri = Some(before.target.clone());
                    Decision::Forward(vec![vec![Target { uri, routes: vec![], next: Next::Flow(flow) }]])
                }
                None => refuse(&Trouble::FlowFailed, request),
            });
        }
        if in_dialog && let Some(flow) = before.along {
            return fixed(Decision::Forward(vec![vec![Target { uri: None, routes: vec![], next: Next::Flow(flow) }]]));
        }
        if in_dialog {
            return fixed(self.within_dialog(&uri, request));
        }
        let is_recording = (self.config.is_recording)(request);
        let subject = Incoming { message: request, uri: &uri, flow, is_recording };
        let (decision, rule) = match self.config.routes.route(&subject) {
            Some(rule) => {
                let changed = rule.rewrite.apply(&uri);
                (self.act(&rule.action, &uri, changed, request), Some(rule.name.clone()))
            }
            None => (self.without_rule(&uri, request, is_recording), None),
        };
        Routed { decision, rule, is_initial: true, is_recording }
    }

    fn within_dialog(&self, uri: &Uri, request: &Message) -> Decision {
        let is_group = self.groups.has(&uri.host);
        if self.identity.is_own(uri) || is_group {
            return match self.groups.call(self.call) {
                Some((group, element)) => Decision::Forward(vec![vec![Target {
                    uri: None,
                    routes: vec![],
                    next: Next::Element(group, element),
                }]]),
                None if is_group => Decision::Forward(vec![vec![group(&uri.host, None)]]),
                None => Decision::Local,
            };
        }
        self.to_uri(uri, None, request)
    }

    fn by_route(&self, route: &str, request: &Message) -> Decision {
        match Uri::parse(&uri_of(route)) {
            Ok(uri) => self.to_uri(&uri, None, request),
            Err(_) => refuse(&Trouble::BadUri, request),
        }
    }

    fn without_rule(&self, uri: &Uri, request: &Message, is_recording: bool) -> Result<Decision, Uri> {
        let has_group = self.groups.has(&uri.host);
        match crate::unruled::decide(self.config, self.identity, has_group, uri, is_recording) {
            Unruled::Recorder => Ok(Decision::Local),
            Unruled::Group => Ok(Decision::Forward(vec![vec![group(&uri.host, None)]])),
            Unruled::Registrar => self.registrar(uri, request),
            Unruled::NoRoute => Ok(refuse(&Trouble::NoRoute, request)),
        }
    }

    fn registrar(&self, uri: &Uri, request: &Message) -> Result<Decision, Uri> {
        if request.method() == Method::Register { Ok(Decision::Register) } else { Err(uri.clone()) }
    }

    fn act(&self, action: &Action, uri: &Uri, changed: Option<String>, request: &Message) -> Result<Decision, Uri> {
        Ok(match action {
            Action::Group(name) if self.groups.has(name) => Decision::Forward(vec![vec![group(name, changed)]]),
            Action::Group(_) => refuse(&Trouble::NoGroup, request),
            Action::Uri(target) => match Uri::parse(target) {
                Ok(target) => self.to_uri(&target, changed, request),
                Err(_) => refuse(&Trouble::BadUri, request),
            },
            Action::RequestUri => {
                let target = changed.as_deref().and_then(|text| Uri::parse(text).ok());
                self.to_uri(&target.unwrap_or_else(|| uri.clone()), changed, request)
            }
            Action::Registrar => {
                let target = changed.as_deref().and_then(|text| Uri::parse(text).ok());
                return self.registrar(&target.unwrap_or_else(|| uri.clone()), request);
            }
            Action::Srs => Decision::Local,
            Action::Reject { code, reason } => {
                let reject = Reject { status: *code, reason: reason.clone(), headers: Vec::new() };
                Decision::Reject(reject, "rule")
            }
            Action::Redirect(to) => Decision::Reject(Reject::new(302).with("Contact", format!("<{to}>")), "rule"),
        })
    }

    /// To a URI: to a group if it names one, else the name is looked up.
    fn to_uri(&self, uri: &Uri, changed: Option<String>, request: &Message) -> Decision {
        if uri.port.is_none() && self.groups.has(&uri.host) {
            return Decision::Forward(vec![vec![group(&uri.host, changed)]]);
        }
        match next_of(uri) {
            Ok(next) => Decision::Forward(vec![vec![Target { uri: changed, routes: vec![], next }]]),
            Err(trouble) => refuse(&trouble, request),
        }
    }
}

fn group(name: &str, uri: Option<String>) -> Target {
    Target { uri, routes: vec![], next: Next::Group(name.into()) }
}

/// The next hop that a URI names.
pub(crate) fn next_of(uri: &Uri) -> Result<Next, Trouble> {
    if !uri.is_sip() {
        return Err(Trouble::Scheme);
    }
    let secure = uri.scheme == "sips";
    let transport = match uri.params.get("transport").map(str::to_ascii_lowercase).as_deref() {
        None if secure => Some(Transport::Tls),
        None => None,
        // What is meant to be secret does not go in clear (RFC 3261 26.2.2).
        Some("udp") if secure => return Err(Trouble::Transport),
        Some("udp") => Some(Transport::Udp),
        Some("tcp") if secure => Some(Transport::Tls),
        Some("tcp") => Some(Transport::Tcp),
        Some("tls") => Some(Transport::Tls),
        Some(_) => return Err(Trouble::Transport),
    };
    // `maddr` stands for the host (RFC 3263 4).
    let host = uri.params.get("maddr").filter(|maddr| !maddr.is_empty()).unwrap_or(&uri.host);
    match host.trim_matches(['[', ']']).parse() {
        Ok(ip) => {
            let transport = transport.unwrap_or(Transport::Udp);
            let address = SocketAddr::new(ip, uri.port.unwrap_or(transport.default_port()));
            Ok(Next::Hops(vec![Hop { address, transport, host: host.into() }]))
        }
        Err(_) => Ok(Next::Name(LocateTarget { host: host.to_owned(), port: uri.port, transport, secure })),
    }
}

/// A contact as Request-URI: header fields and a method are for those who click on it (RFC 3261 19.1.1 table 1).
pub(crate) fn as_request_uri(contact: String) -> String {
    if !contact.contains(['?']) && !contact.contains(";method=") {
        return contact;
    }
    let Ok(mut uri) = Uri::parse(&contact) else { return contact };
    uri.headers = None;
    uri.params.remove("method");
    uri.to_string()
}

/// Text of the header fields that rules look at, for the request log.
pub(crate) fn headers_of(request: &Message, names: &[String]) -> Vec<(String, String)> {
    names
        .iter()
        .flat_map(|name| request.headers(name).map(|value| (name.clone(), Cow::into_owned(value))).collect::<Vec<_>>())
        .collect()
}
