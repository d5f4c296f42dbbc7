//! Where the candidate sends a line: trust, routes, and the proxy's defaults where no rule matches.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use ferric_proxy::routing::{Action, Condition, RouteTable};
use ferric_proxy::{Defaults, ProxyConfig, Unruled};
use ferric_sight::RequestDone;
use ferric_sip::trust::TrustTable;
use ferric_sip::uri::Uri;

use super::names::{Name, Names, same_spelling};
use super::record::{Goal, How, Kind, Record};
use super::subject::{Asked, Line};

/// This node's recorder as a destination.
pub(super) const RECORDER: &str = "this node's recorder";
/// What strangers are told.
const FORBIDDEN: u16 = 403;

/// The stateless half of a configuration.
#[derive(Debug)]
pub(super) struct Plan {
    routes: RouteTable,
    trust: TrustTable,
    defaults: Defaults,
    /// Name and those of its fallbacks, for each group.
    groups: Vec<(String, Vec<String>)>,
    asked: Vec<Asked>,
    pub(super) names: Names,
    pub(super) redacted: u64,
}

/// A decision before it is compared with the recorded one.
struct Decided<'a> {
    rule: Option<&'a str>,
    /// What is behind the rule, as text.
    leads: String,
    to: To,
    unmatched: bool,
}

enum To {
    Group(usize),
    Elsewhere,
    Refused(u16),
}

impl Plan {
    pub(super) fn new(config: &ProxyConfig) -> Plan {
        let mut asked: Vec<Asked> = Vec::new();
        for condition in config.routes.rules().iter().flat_map(|rule| &rule.conditions) {
            if let Condition::Header(name, _) = condition
                && !asked.iter().any(|asked| asked.name.eq_ignore_ascii_case(name))
            {
                asked.push(Asked { name: name.to_ascii_lowercase(), in_vain: Cell::new(0), seen: Cell::new(false) });
            }
        }
        let chain = |first: &str| {
            let mut chain = vec![first.to_owned()];
            while let Some(next) =
                chain.last().and_then(|last| config.groups.iter().find(|group| *group.name == **last)?.fallback.clone())
                && !chain.contains(&next)
            {
                chain.push(next);
            }
            chain
        };
        Plan {
            routes: config.routes.clone(),
            trust: config.trust.clone(),
            defaults: Defaults::new(config.clone()),
            groups: config.groups.iter().map(|group| (group.name.to_string(), chain(&group.name))).collect(),
            asked,
            names: Names::default(),
            redacted: 0,
        }
    }

    /// Decides a line.
    pub(super) fn record(&mut self, line: RequestDone) -> Record {
        for asked in self.asked.iter().filter(|asked| !asked.seen.get()) {
            asked.seen.set(line.headers.keys().any(|have| have.eq_ignore_ascii_case(&asked.name)));
        }
        let kind = match line.method.as_str() {
            "BYE" => Kind::Bye,
            "ACK" | "CANCEL" | "PRACK" => Kind::Within,
            method if line.is_initial => Kind::Initial { invite: method == "INVITE" },
            _ => Kind::Within,
        };
        let mut hasher = DefaultHasher::new();
        line.call_id.hash(&mut hasher);
        let was = line.element.as_deref().map(|element| {
            (self.names.of(line.group.as_deref().unwrap_or("-")), self.names.of(&same_spelling(element)))
        });
        let how = How::of(&line.cause, was.is_some());
        let nothing = self.names.of("");
        let mut record = Record {
            at: line.at_unix,
            elapsed: line.elapsed,
            kind,
            call: hasher.finish(),
            call_id: Box::from(""),
            was,
            first_try: line.tries <= 1,
            how,
            status: line.status,
            was_route: nothing,
            new_route: nothing,
            goal: Goal::Elsewhere(nothing),
            unmatched: false,
            in_doubt: false,
        };
        if matches!(kind, Kind::Initial { .. }) {
            self.decide(&line, &mut record);
            record.call_id = line.call_id.into_boxed_str();
        }
        record
    }

    fn decide(&mut self, line: &RequestDone, record: &mut Record) {
        let uri = Uri::parse(&line.request_uri);
        let (decided, in_doubt) = match &uri {
            Ok(uri) => {
                let subject = Line::new(line, uri, &self.asked);
                let decided = self.way(&subject, uri, line);
                (decided, subject.in_doubt())
            }
            Err(_) => (
                Decided { rule: None, leads: ": bad Request-URI".to_owned(), to: To::Refused(400), unmatched: false },
                false,
            ),
        };
        let same = record.how == How::Request || self.is_same(&decided, line);
        let new = format!("{}{}", decided.rule.unwrap_or("no rule"), decided.leads);
        let destination = decided.leads.strip_prefix(" -> ").unwrap_or_default().to_owned();
        let (to, unmatched) = (decided.to, decided.unmatched);
        let new_route = self.names.of(&new);
        record.unmatched = unmatched;
        record.in_doubt = in_doubt;
        self.redacted += u64::from(in_doubt);
        record.new_route = new_route;
        record.was_route = if same { new_route } else { self.names.of(&was_route(line)) };
        record.goal = match to {
            _ if record.how == How::Request => {
                Goal::Refused(self.names.of("the request itself is refused"), line.status)
            }
            To::Group(place) => Goal::Group(place),
            To::Elsewhere => Goal::Elsewhere(self.names.of(&destination)),
            To::Refused(status) => Goal::Refused(
                self.names.of(if (300..400).contains(&status) { "redirected" } else { "refused" }),
                status,
            ),
        };
    }

    fn way<'a>(&'a self, subject: &Line<'_>, uri: &Uri, line: &RequestDone) -> Decided<'a> {
        if self.trust.tenant_of(line.source.ip()).is_none() {
            let leads = format!(": {} is not in [[sip.trust]]", line.source.ip());
            return Decided { rule: None, leads, to: To::Refused(FORBIDDEN), unmatched: false };
        }
        let Some(rule) = self.routes.route(subject) else {
            let (leads, to) = match self.defaults.decide(uri, line.siprec) {
                Unruled::Recorder => (format!(" -> {RECORDER}"), To::Elsewhere),
                Unruled::Group => self.group(&uri.host),
                Unruled::Registrar => (" -> registrar".to_owned(), To::Elsewhere),
                Unruled::NoRoute => (": 404".to_owned(), To::Refused(404)),
            };
            return Decided { rule: None, leads, to, unmatched: true };
        };
        let followed = |target: &Uri, text: String| match Defaults::refusal(target) {
            Some(status) => (format!(" -> {text}: {status}"), To::Refused(status)),
            None => (format!(" -> {text}"), To::Elsewhere),
        };
        let (leads, to) = match &rule.action {
            Action::Group(name) => self.group(name),
            Action::Uri(text) => match Uri::parse(text) {
                Ok(target) => followed(&target, text.clone()),
                Err(_) => (format!(" -> {text}: 400"), To::Refused(400)),
            },
            Action::RequestUri => {
                let changed = rule.rewrite.apply(uri).and_then(|text| Uri::parse(&text).ok());
                followed(changed.as_ref().unwrap_or(uri), "request-uri".to_owned())
            }
            Action::Registrar => (" -> registrar".to_owned(), To::Elsewhere),
            Action::Srs => (format!(" -> {RECORDER}"), To::Elsewhere),
            Action::Reject { code, .. } => (format!(": reject {code}"), To::Refused(*code)),
            Action::Redirect(to) => (format!(": redirect to {to}"), To::Refused(302)),
        };
        Decided { rule: Some(&rule.name), leads, to, unmatched: false }
    }

    fn group(&self, name: &str) -> (String, To) {
        match self.groups.iter().position(|(have, _)| have.eq_ignore_ascii_case(name)) {
            Some(place) => (format!(" -> {name}"), To::Group(place)),
            None => (format!(" -> {name}: 500"), To::Refused(500)),
        }
    }

    /// The recorded route was the same, as far as the line tells.
    fn is_same(&self, decided: &Decided<'_>, line: &RequestDone) -> bool {
        if decided.rule != line.rule.as_deref() {
            return false;
        }
        let refused_here = matches!(&*line.cause, "rule" | "no-route" | "no-group" | "scheme" | "bad-uri");
        match decided.to {
            To::Group(place) => match &line.group {
                Some(was) => self
                    .groups
                    .get(place)
                    .is_some_and(|(_, chain)| chain.iter().any(|name| name.eq_ignore_ascii_case(was))),
                None => !refused_here && line.cause != "registrar",
            },
            To::Elsewhere => line.group.is_none() && !refused_here,
            To::Refused(status) => refused_here && line.status == status,
        }
    }

    /// What must be said about the log.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.redacted > 0 {
            notes.push(format!(
                "{} lines hide (***) a user or a value that a rule looks at: they were judged without it and may take another route",
                self.redacted
            ));
        }
        for asked in self.asked.iter().filter(|asked| !asked.seen.get() && asked.in_vain.get() > 0) {
            notes.push(format!(
                "no line of the log has {}: the log keeps the header fields that its own rules asked for. {} requests were judged as if they had none",
                asked.name,
                asked.in_vain.get()
            ));
        }
        notes
    }

    pub(super) fn text(&self, name: Name) -> &str {
        self.names.text(name)
    }
}

/// The recorded route in words.
fn was_route(line: &RequestDone) -> String {
    let rule = line.rule.as_deref().unwrap_or("no rule");
    match (&line.group, &*line.cause) {
        (Some(group), _) => format!("{rule} -> {group}"),
        (None, "rule") if (300..400).contains(&line.status) => format!("{rule}: redirect"),
        (None, "rule") => format!("{rule}: reject {}", line.status),
        (None, "no-route" | "no-group" | "scheme" | "bad-uri") => format!("{rule}: {}", line.status),
        (None, "registrar") => format!("{rule} -> registrar"),
        (None, _) => rule.to_owned(),
    }
}
