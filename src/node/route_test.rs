//! Which way a pasted message would take: read, asked of the proxy, put into words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use ferric_proxy::group::{GroupShares, Policy};
use ferric_proxy::{DecidedBy, Destination, Explanation};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::{Message, ParseErrorKind};
use ferric_sip::method::Method;

use crate::console::{
    BackendError, ConditionView, ContactView, DestinationView, ListenerRef, PickView, RouteTest, RouteTestView,
    RuleView, ShareView, TextError,
};

/// What signalling tells of a message.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) explanation: Explanation,
    /// Nothing is configured: the recorder gets all.
    pub(super) is_idle: bool,
    /// It belongs to what the recorder has begun.
    pub(super) is_recorders: bool,
    /// There is a recorder at all.
    pub(super) records: bool,
}

/// Reads the message, and over which flow it is thought to come.
pub(super) fn read(test: &RouteTest, bound: &[(Transport, SocketAddr)]) -> Result<(Message, Flow), BackendError> {
    let message = Message::parse(as_sent(&test.message)).map_err(|error| {
        let line = match error.kind {
            ParseErrorKind::HeaderLine(number) => number + 1,
            ParseErrorKind::NotSip
            | ParseErrorKind::RequestLine(_)
            | ParseErrorKind::StatusLine
            | ParseErrorKind::Version => 1,
            ParseErrorKind::Unfinished
            | ParseErrorKind::TooLong(_)
            | ParseErrorKind::TooManyLines(_)
            | ParseErrorKind::ContentLength
            | ParseErrorKind::BodyCut { .. } => 0,
        };
        let source =
            line.checked_sub(1).and_then(|at| test.message.trim_start().lines().nth(at)).unwrap_or_default().to_owned();
        let at = TextError { line, column: usize::from(line > 0), message: error.to_string(), source };
        BackendError::Unreadable(format!("the message cannot be read: {error}"), vec![at])
    })?;
    if !message.is_request() {
        return Err(BackendError::Invalid("this is a response: routes are for requests".into()));
    }
    let via = message.top_via().ok();
    let spoken = via.as_ref().and_then(|via| transport(&via.transport));
    let local = match &test.listener {
        Some(listener) => {
            let wrong = || {
                BackendError::Invalid(
                    "listener is as in {\"transport\": \"udp\", \"address\": \"10.0.0.5:5060\"}".into(),
                )
            };
            (transport(&listener.transport).ok_or_else(wrong)?, listener.address.parse().map_err(|_| wrong())?)
        }
        None => {
            let fits = bound.iter().find(|(have, _)| spoken.is_none_or(|spoken| spoken == *have));
            fits.or(bound.first())
                .copied()
                .unwrap_or((Transport::Udp, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 5_060)))
        }
    };
    let remote = match &test.source {
        Some(text) => address(text)
            .ok_or_else(|| BackendError::Invalid(format!("source = \"{text}\" is no address: write 10.1.0.20:5060")))?,
        None => {
            let host = via.as_ref().and_then(|via| via.host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
            let port = via.as_ref().and_then(|via| via.port).unwrap_or(5_060);
            SocketAddr::new(host.unwrap_or(Ipv4Addr::LOCALHOST.into()), port)
        }
    };
    let flow = Flow { transport: local.0, local: local.1, remote, connection: 0 };
    Ok((message, flow))
}

/// A message as it would travel: pasted text has lost its line ends, and often the empty line and the length of its body.
fn as_sent(text: &str) -> Bytes {
    let text = text.trim_start();
    if text.contains("\r\n") {
        let end = if text.contains("\r\n\r\n") { "" } else { "\r\n\r\n" };
        let text = if end.is_empty() { text } else { text.trim_end() };
        return Bytes::from(format!("{text}{end}"));
    }
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let is_length = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().trim();
        !name.eq_ignore_ascii_case("Content-Length") && !name.eq_ignore_ascii_case("l")
    };
    let mut out: String = head.lines().filter(is_length).map(|line| format!("{line}\r\n")).collect();
    out.push_str("\r\n");
    out.push_str(&body.replace('\n', "\r\n"));
    Bytes::from(out)
}

fn transport(text: &str) -> Option<Transport> {
    [Transport::Udp, Transport::Tcp, Transport::Tls]
        .into_iter()
        .find(|transport| transport.as_str().eq_ignore_ascii_case(text))
}

fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 5_060)))
}

/// Puts it into words.
pub(super) fn view(message: &Message, flow: &Flow, told: Told) -> RouteTestView {
    let Told { explanation, is_idle, is_recorders, records } = told;
    let Explanation { decided_by, rule, rules, uri, rewritten, destination } = explanation;
    let is_stranger = decided_by == DecidedBy::Stranger;
    let siprec = ferric_srs::asks_for_recording(message);
    let (decided_by, why, destination, rules, rule, rewritten) = if is_stranger {
        let why = format!("{} lies in no network of [[sip.trust]]", flow.remote.ip());
        (decided_by.as_str(), why, destination, Vec::new(), None, None)
    } else if is_recorders {
        (
            "dialog",
            "it belongs to what the recorder has begun".to_owned(),
            Destination::Recorder,
            Vec::new(),
            None,
            None,
        )
    } else if is_idle {
        let why = "no server group, route or registrar is configured: all requests are for the recorder".to_owned();
        ("unconfigured", why, Destination::Recorder, Vec::new(), None, None)
    } else {
        let why = why(decided_by, rule.as_deref(), &destination, siprec);
        (decided_by.as_str(), why, destination, rules, rule, rewritten)
    };
    // A node with the proxy's role alone answers OPTIONS and nothing else.
    let is_lost = !records && matches!(destination, Destination::Recorder) && message.method() != Method::Options;
    let destination = if is_lost {
        Destination::Reject { status: 404, reason: Some("No Route".to_owned()), cause: "no-recorder" }
    } else {
        destination
    };
    let conditions = |rule: &ferric_proxy::routing::RuleTrace| {
        let view = |seen: &ferric_proxy::routing::ConditionTrace| ConditionView {
            condition: seen.condition.clone(),
            saw: seen.saw.clone(),
            holds: seen.holds,
        };
        rule.conditions.iter().map(view).collect()
    };
    RouteTestView {
        method: message.method().as_str().to_owned(),
        request_uri: uri,
        source: flow.remote.to_string(),
        listener: ListenerRef {
            transport: flow.transport.as_str().to_ascii_lowercase(),
            address: flow.local.to_string(),
        },
        siprec,
        decided_by,
        rule,
        why,
        rules: rules
            .iter()
            .map(|rule| RuleView { name: rule.rule.clone(), matched: rule.matched, conditions: conditions(rule) })
            .collect(),
        rewritten_uri: rewritten,
        destination: shown(destination),
    }
}

fn why(decided_by: DecidedBy, rule: Option<&str>, destination: &Destination, siprec: bool) -> String {
    match (decided_by, destination) {
        (DecidedBy::Rule, _) => {
            format!("\"{}\" is the first rule of which every condition holds", rule.unwrap_or_default())
        }
        (DecidedBy::Route, _) => "its own Route header field says where it goes".to_owned(),
        (DecidedBy::Dialog, Destination::Element { .. }) => {
            "it belongs to a dialog: the element that has the call gets it".to_owned()
        }
        (DecidedBy::Dialog, _) => "it belongs to a dialog: it goes where its Request-URI leads".to_owned(),
        (DecidedBy::Default | DecidedBy::Stranger, destination) => {
            let what = match destination {
                Destination::Recorder if siprec => "it asks for a recording",
                Destination::Recorder => "it is addressed to this node",
                Destination::Group(..) => "the Request-URI names a server group",
                Destination::Registrar | Destination::Contacts(..) => {
                    "the Request-URI lies in a domain of the registrar"
                }
                Destination::Element { .. }
                | Destination::Hop(_)
                | Destination::Name(_)
                | Destination::Redirect(_)
                | Destination::Reject { .. } => "the Request-URI names nothing that is configured here",
            };
            format!("no rule matched, and {what}")
        }
    }
}

fn shown(destination: Destination) -> DestinationView {
    let told = |kind: &'static str, text: String| DestinationView { kind, text, ..DestinationView::default() };
    match destination {
        Destination::Recorder => told("recorder", "this node's recorder".to_owned()),
        Destination::Group(name, groups) => {
            let picked =
                groups.iter().find_map(|shares| Some((Some(shares.picked.clone()?), shares.group.name.to_string())));
            let text = match &picked {
                Some((element, group)) if *group == name => {
                    format!("server group {name}, now {}", element.as_deref().unwrap_or_default())
                }
                Some((element, group)) => {
                    format!(
                        "server group {name}, of which no element takes calls; its fallback {group}, now {}",
                        element.as_deref().unwrap_or_default()
                    )
                }
                None => format!("server group {name}, of which no element takes calls: 503"),
            };
            let status = picked.is_none().then_some(503);
            let element = picked.and_then(|(element, _)| element);
            DestinationView { element, status, groups: groups.iter().map(pick).collect(), ..told("group", text) }
        }
        Destination::Element { group, element } => DestinationView {
            element: Some(element.clone()),
            ..told("element", format!("element {element} of server group {group}"))
        },
        Destination::Hop(hop) => {
            told("address", format!("{} {}", hop.transport.as_str().to_ascii_lowercase(), hop.address))
        }
        Destination::Name(name) => {
            let port = name.port.map_or_else(String::new, |port| format!(":{port}"));
            let transport = name
                .transport
                .map_or_else(String::new, |transport| format!(" {}", transport.as_str().to_ascii_lowercase()));
            told("name", format!("{}{port}{transport}, as DNS says", name.host))
        }
        Destination::Registrar => told("registrar", "the registrar takes it".to_owned()),
        Destination::Contacts(aor, contacts) => {
            let contacts: Vec<ContactView> = contacts
                .into_iter()
                .map(|contact| ContactView { uri: contact.uri, q: contact.q, path: contact.path })
                .collect();
            let status = contacts.is_empty().then_some(480);
            DestinationView { status, ..told("contacts", format!("the {} contacts of {aor}", contacts.len())) }
                .with_contacts(contacts)
        }
        Destination::Redirect(to) => DestinationView { status: Some(302), ..told("redirect", format!("302 to {to}")) },
        Destination::Reject { status, reason, cause } => {
            let reason = reason.map_or_else(String::new, |reason| format!(" {reason}"));
            DestinationView { status: Some(status), ..told("reject", format!("{status}{reason} ({cause})")) }
        }
    }
}

impl DestinationView {
    fn with_contacts(self, contacts: Vec<ContactView>) -> DestinationView {
        DestinationView { contacts, ..self }
    }
}

fn pick(shares: &GroupShares) -> PickView {
    let elements = shares.shares.iter().map(|share| ShareView {
        address: share.element.address.clone(),
        state: share.element.state.as_str(),
        share_percent: f64::from(share.permille) / 10.0,
    });
    PickView {
        group: shares.group.name.to_string(),
        policy: match shares.group.policy {
            Policy::PriorityWeight => "priority-weight",
            Policy::CallIdHash => "call-id-hash",
            Policy::LeastLoaded => "least-loaded",
            Policy::RoundRobin => "round-robin",
        },
        picked: shares.picked.clone(),
        elements: elements.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const BOUND: [(Transport, &str); 2] = [(Transport::Udp, "10.0.0.5:5060"), (Transport::Tcp, "10.0.0.5:5060")];

    fn ask(test: RouteTest) -> Result<(Message, Flow), BackendError> {
        let bound = BOUND.map(|(transport, address)| (transport, address.parse().unwrap()));
        read(&test, &bound)
    }

    fn pasted(message: &str) -> RouteTest {
        RouteTest { message: message.into(), ..RouteTest::default() }
    }

    #[test]
    fn pasted_text_is_understood_without_line_ends_empty_line_and_length() {
        let text = "\nINVITE sip:1@x SIP/2.0\nVia: SIP/2.0/TCP 10.1.0.9:5070\nCall-ID: 1\nContent-Length: 900\n\nv=0\n";
        let (message, flow) = ask(pasted(text)).unwrap();
        assert_eq!((&message.body()[..], flow.transport), (&b"v=0\r\n"[..], Transport::Tcp));
        assert_eq!(flow.remote.to_string(), "10.1.0.9:5070");
        let (message, flow) = ask(pasted("OPTIONS sip:x SIP/2.0\r\nCall-ID: 1")).unwrap();
        assert_eq!((message.call_id().as_deref(), flow.remote.to_string().as_str()), (Some("1"), "127.0.0.1:5060"));
    }

    #[test]
    fn what_is_asked_for_goes_before_what_is_assumed() {
        let listener = Some(ListenerRef { transport: "tls".into(), address: "10.0.0.5:5061".into() });
        let test = RouteTest {
            source: Some("10.2.0.1".into()),
            listener,
            ..pasted("OPTIONS sip:x SIP/2.0\nVia: SIP/2.0/UDP 10.1.0.9\n")
        };
        let (_, flow) = ask(test.clone()).unwrap();
        assert_eq!(
            (flow.transport, flow.local.to_string().as_str(), flow.remote.to_string().as_str()),
            (Transport::Tls, "10.0.0.5:5061", "10.2.0.1:5060")
        );
        assert!(matches!(
            ask(RouteTest { source: Some("there".into()), ..test.clone() }),
            Err(BackendError::Invalid(_))
        ));
        let listener = Some(ListenerRef { transport: "sctp".into(), address: "10.0.0.5:5061".into() });
        assert!(matches!(ask(RouteTest { listener, ..test }), Err(BackendError::Invalid(_))));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let place = |text: &str| match ask(pasted(text)) {
            Err(BackendError::Unreadable(_, errors)) => (errors[0].line, errors[0].source.clone()),
            other => panic!("{other:?}"),
        };
        assert_eq!(place("INVITE sip:1@x SIP/2.0\nVia: x\nnonsense\n"), (3, "nonsense".into()));
        assert_eq!(place("hello\n").0, 1);
        assert!(matches!(ask(pasted("SIP/2.0 200 OK\nCall-ID: 1\n")), Err(BackendError::Invalid(_))));
    }
}
