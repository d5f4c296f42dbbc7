//! Which way a request would take, and why: the decision of [`Proxy::handle_message`] without its consequences.
//!
//! The same functions decide, so what is told here is what happens; nothing is counted, sent or remembered. A password that
//! may be asked for, and a loop that only the next hop would show, are left out.

use std::sync::Arc;
use std::time::Instant;

use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::group::{GroupShares, Hop};
use crate::location::Contact;
use crate::proxy::Proxy;
use crate::routing::{Action, Incoming, RuleTrace};
use crate::target::{Decision, LocateTarget, Next, Routed, Router, Target};

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// The sender is nobody whom we trust: the recorder refuses it.
    Stranger,
    /// A rule.
    Rule,
    /// The request's own Route header field.
    Route,
    /// It belongs to a dialog.
    Dialog,
    /// No rule matched: what the Request-URI names.
    Default,
}

impl DecidedBy {
    /// For the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DecidedBy::Stranger => "stranger",
            DecidedBy::Rule => "rule",
            DecidedBy::Route => "route-header",
            DecidedBy::Dialog => "dialog",
            DecidedBy::Default => "default",
        }
    }
}

/// Where it goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// To this node's recorder.
    Recorder,
    /// To a server group: the shares of the group, and of its fallbacks if they are needed.
    Group(String, Vec<GroupShares>),
    /// To the element that has the call.
    Element {
        /// Its group.
        group: Arc<str>,
        /// Its address.
        element: String,
    },
    /// To an address.
    Hop(Hop),
    /// To a name that is looked up (RFC 3263).
    Name(LocateTarget),
    /// A REGISTER that the registrar takes.
    Registrar,
    /// To the contacts of that address of record.
    Contacts(String, Vec<Contact>),
    /// Elsewhere by 302.
    Redirect(String),
    /// Refused.
    Reject {
        /// Status.
        status: u16,
        /// Reason phrase, if it is not the standard one.
        reason: Option<String>,
        /// Why, in a word.
        cause: &'static str,
    },
}

/// The way of one request.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// What decided.
    pub decided_by: DecidedBy,
    /// The rule that matched.
    pub rule: Option<String>,
    /// What every rule up to the deciding one saw; none when the rules were not asked.
    pub rules: Vec<RuleTrace>,
    /// The Request-URI that counts.
    pub uri: String,
    /// The Request-URI as it goes on, if it is another one.
    pub rewritten: Option<String>,
    /// Where it goes.
    pub destination: Destination,
}

impl Proxy {
    /// Tells which way a request would take that comes over `flow`.
    pub fn explain(&mut self, now: Instant, request: &Message, flow: &Flow) -> Explanation {
        let before = self.preprocessed(request);
        let mut told = Explanation {
            decided_by: DecidedBy::Stranger,
            rule: None,
            rules: Vec::new(),
            uri: before.target.clone(),
            rewritten: None,
            destination: Destination::Recorder,
        };
        if self.is_stranger(flow) {
            told.destination = Destination::Reject { status: 403, reason: None, cause: "untrusted" };
            return told;
        }
        let call = self.call_hash(request);
        let router = Router {
            config: &self.config,
            identity: &self.identity,
            groups: &self.groups,
            call,
            in_dialog: self.belonging(request, flow, &before).0,
        };
        let Routed { decision, rule, is_initial, is_recording } = router.decide(request, flow, &before);
        told.decided_by = match (&rule, is_initial, &before.next_route) {
            (Some(_), ..) => DecidedBy::Rule,
            (None, true, _) => DecidedBy::Default,
            (None, false, Some(_)) => DecidedBy::Route,
            (None, false, None) => DecidedBy::Dialog,
        };
        let uri = Uri::parse(&before.target).ok();
        if let Some(uri) = uri.as_ref().filter(|_| is_initial) {
            let subject = Incoming { message: request, uri, flow, is_recording };
            told.rules = self.config.routes.explain(&subject);
        }
        let action = rule.as_ref().and_then(|name| self.config.routes.rules().iter().find(|rule| rule.name == *name));
        let redirect = action.and_then(|rule| match &rule.action {
            Action::Redirect(to) => Some(to.clone()),
            Action::Group(_)
            | Action::Uri(_)
            | Action::RequestUri
            | Action::Registrar
            | Action::Srs
            | Action::Reject { .. } => None,
        });
        told.rule = rule;
        let last_hop = request.header("Max-Forwards").is_some_and(|hops| hops.trim().parse() == Ok(0_u8));
        told.destination = match decision {
            Ok(Decision::Local) => Destination::Recorder,
            _ if last_hop => Destination::Reject { status: 483, reason: None, cause: "invalid" },
            Ok(Decision::Register) => Destination::Registrar,
            Ok(Decision::Reject(..)) if redirect.is_some() => Destination::Redirect(redirect.unwrap_or_default()),
            Ok(Decision::Reject(reject, cause)) => {
                Destination::Reject { status: reject.status, reason: reject.reason, cause }
            }
            Ok(Decision::Reply(..)) => Destination::Reject { status: 407, reason: None, cause: "challenge" },
            Ok(Decision::Forward(sets)) => match sets.into_iter().flatten().next() {
                Some(Target { uri, next, .. }) => {
                    told.rewritten = uri;
                    self.onward(now, next, call)
                }
                None => Destination::Reject { status: 404, reason: None, cause: "no-route" },
            },
            Err(aor) => {
                let contacts = self.location().and_then(|location| location.lookup(now, &aor));
                contacts.map_or(Destination::Reject { status: 404, reason: None, cause: "no-user" }, |contacts| {
                    Destination::Contacts(aor.to_string(), contacts)
                })
            }
        };
        told
    }

    fn onward(&self, now: Instant, next: Next, call: u64) -> Destination {
        match next {
            // A fixed seed, so that asking draws nothing from the dice of true calls.
            Next::Group(name) => {
                let shares = self.groups.preview(now, &name, call, &mut SmallRng::seed_from_u64(call));
                Destination::Group(name.to_string(), shares)
            }
            Next::Element(group, id) => {
                let element = self.groups.address(id).unwrap_or_default().to_owned();
                Destination::Element { group, element }
            }
            Next::Hops(hops) => match hops.into_iter().next() {
                Some(hop) => Destination::Hop(hop),
                None => Destination::Reject { status: 404, reason: None, cause: "no-such-host" },
            },
            Next::Name(name) => Destination::Name(name),
            Next::Flow(flow) => Destination::Hop(Hop {
                address: flow.remote,
                transport: flow.transport,
                host: flow.remote.ip().to_string().into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use bytes::Bytes;
    use ferric_sip::flow::Transport;
    use ferric_sip::transaction::{Timers, TransactionLimits};
    use ferric_sip::trust::TrustTable;
    use regex::Regex;

    use super::*;
    use crate::config::{Listener, ProxyConfig};
    use crate::group::{ElementConfig, GroupConfig};
    use crate::routing::{Condition, Rewrite, RouteTable, Rule};

    fn proxy(now: Instant) -> Proxy {
        let listener =
            Listener { transport: Transport::Udp, address: "10.0.0.5:5060".parse().unwrap(), advertise: None };
        let trust = TrustTable::new(vec![("10.0.0.0/8".parse().unwrap(), "acme".into())]);
        let mut config = ProxyConfig::new(vec![listener], trust, |message| message.header("Require").is_some());
        let element = ElementConfig::parse("10.0.0.11:5060").unwrap();
        config.groups = vec![GroupConfig { elements: vec![element], ..GroupConfig::named("pstn") }];
        let rule = |name: &str, conditions, rewrite, action| Rule { name: name.into(), conditions, rewrite, action };
        let national = Rewrite { strip: 1, prefix: "+49".into(), ..Rewrite::default() };
        config.routes = RouteTable::new(vec![
            rule("recorded", vec![Condition::Recording(true)], Rewrite::default(), Action::Srs),
            rule("out", vec![Condition::User(Regex::new("^0").unwrap())], national, Action::Group("pstn".into())),
            rule(
                "gone",
                vec![Condition::UserPrefix("9".into())],
                Rewrite::default(),
                Action::Redirect("sip:x@y.example".into()),
            ),
            rule(
                "closed",
                vec![Condition::UserPrefix("8".into())],
                Rewrite::default(),
                Action::Reject { code: 603, reason: None },
            ),
        ]);
        Proxy::new(config, Timers::default(), TransactionLimits::default(), now, 0, 1)
    }

    fn ask(uri: &str, extra: &str, source: &str) -> Explanation {
        let now = Instant::now();
        let text = format!(
            "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 10.1.1.1;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
             Call-ID: 1\r\nCSeq: 1 INVITE\r\n{extra}\r\n"
        );
        let message = Message::parse(Bytes::from(text)).unwrap();
        let (local, remote) = ("10.0.0.5:5060".parse().unwrap(), source.parse().unwrap());
        proxy(now).explain(now, &message, &Flow { transport: Transport::Udp, local, remote, connection: 0 })
    }

    #[test]
    fn a_rule_is_told_with_all_that_were_looked_at_before_it() {
        let told = ask("sip:0221@10.0.0.5", "", "10.1.1.1:5060");
        assert_eq!((told.decided_by, told.rule.as_deref()), (DecidedBy::Rule, Some("out")));
        assert_eq!(told.rewritten.as_deref(), Some("sip:+49221@10.0.0.5"));
        let seen: Vec<(&str, bool)> = told.rules.iter().map(|rule| (rule.rule.as_str(), rule.matched)).collect();
        assert_eq!(seen, [("recorded", false), ("out", true)]);
        assert_eq!(told.rules[1].conditions[0].saw, "0221");
        let Destination::Group(name, shares) = told.destination else { panic!("{told:?}") };
        assert_eq!(
            (name.as_str(), shares[0].picked.as_deref(), shares[0].shares[0].permille),
            ("pstn", Some("10.0.0.11:5060"), 1_000)
        );
    }

    #[test]
    fn every_other_end_is_told_as_well() {
        let end = |uri: &str, extra: &str, source: &str| {
            let told = ask(uri, extra, source);
            (
                told.decided_by,
                match told.destination {
                    Destination::Recorder => "recorder".to_owned(),
                    Destination::Group(name, _) => name,
                    Destination::Hop(hop) => hop.address.to_string(),
                    Destination::Name(name) => name.host,
                    Destination::Redirect(to) => to,
                    Destination::Reject { status, cause, .. } => format!("{status} {cause}"),
                    other @ (Destination::Element { .. } | Destination::Registrar | Destination::Contacts(..)) => {
                        format!("{other:?}")
                    }
                },
            )
        };
        let from = "10.1.1.1:5060";
        assert_eq!(end("sip:1@10.0.0.5", "Require: siprec\r\n", from), (DecidedBy::Rule, "recorder".into()));
        assert_eq!(end("sip:9@10.0.0.5", "", from), (DecidedBy::Rule, "sip:x@y.example".into()));
        assert_eq!(end("sip:8@10.0.0.5", "", from), (DecidedBy::Rule, "603 rule".into()));
        assert_eq!(end("sip:0@10.0.0.5", "Max-Forwards: 0\r\n", from), (DecidedBy::Rule, "483 invalid".into()));
        assert_eq!(end("sip:1@10.0.0.5", "", from), (DecidedBy::Default, "recorder".into()));
        assert_eq!(end("sip:1@pstn", "", from), (DecidedBy::Default, "pstn".into()));
        assert_eq!(end("sip:1@elsewhere.example", "", from), (DecidedBy::Default, "404 no-route".into()));
        assert_eq!(
            end("sip:0@10.0.0.5", "Route: <sip:10.9.9.9:5070;lr>\r\n", from),
            (DecidedBy::Route, "10.9.9.9:5070".into())
        );
        assert_eq!(end("sip:0@10.0.0.5", "", "192.0.2.1:5060"), (DecidedBy::Stranger, "403 untrusted".into()));
    }
}
