//! Triggers, lookup policies and tables as one list of routes.
//!
//! CUSP runs the first routing trigger whose condition is true; its policy looks into one table after the other, and a
//! table gives the exact or the longest key. First match wins in the list of routes too, so the order is: triggers by
//! sequence, steps by sequence, keys from the longest to `*`.

use std::collections::BTreeSet;

use super::condition::{Case, cases};
use super::groups::{action, route_group_name};
use super::model::{Cusp, Destination, Field, Key, KeyAction, Rule, Step, Table, Trigger};
use super::pattern::{escape, over_uri};
use super::rewrite::Rewrites;
use super::routing::network;
use super::target::{Action, Both, Ferric, Match, Rewrite, Route, UserKey};
use crate::import::report::{Fate, Report};

/// So many policies lead from one to the next, and no more.
const MOST_POLICIES: usize = 8;
const MID_DIALOG: &str = "requests within a dialog follow its route set, no table is asked";

pub(super) fn routes(cusp: &Cusp, ferric: &Ferric, report: &mut Report) -> Vec<Route> {
    let rewrites = Rewrites::new(cusp, ferric, report);
    let mut translator = Translator { cusp, ferric, report, used: BTreeSet::new() };
    let mut triggers: Vec<&Trigger> = cusp.routing.iter().collect();
    triggers.sort_by_key(|trigger| trigger.sequence);
    let all: Vec<(&Trigger, Vec<Case>)> =
        triggers.into_iter().map(|trigger| (trigger, translator.cases(trigger))).collect();
    let mut routes = Vec::new();
    for (place, (trigger, cases)) in all.iter().enumerate() {
        let later: Vec<&Case> = all.iter().skip(place + 1).flat_map(|(_, cases)| cases).collect();
        let of_trigger = translator.trigger(trigger, cases, &later);
        routes.extend(rewrites.apply(of_trigger, translator.report));
    }
    translator.unused();
    unique(&mut routes);
    routes
}

struct Translator<'a> {
    cusp: &'a Cusp,
    ferric: &'a Ferric,
    report: &'a mut Report,
    /// Lines of tables and policies that were looked into.
    used: BTreeSet<u32>,
}

impl Translator<'_> {
    /// The cases in which requests are routed by a trigger.
    fn cases(&mut self, trigger: &Trigger) -> Vec<Case> {
        let cases = cases(trigger.condition.as_deref(), trigger.line, self.cusp, self.ferric, self.report);
        let condition = trigger.condition.as_deref().unwrap_or_default();
        let mut kept = Vec::new();
        for case in cases {
            let mut lines = case.lines.clone();
            lines.push(trigger.line);
            if case.mid_dialog {
                let what = format!("routing of requests within a dialog (condition {condition})");
                let fate = if trigger.policy.is_none() { Fate::Carried } else { Fate::Changed };
                self.report.add(fate, &lines, what, MID_DIALOG);
            } else if case.out_network.is_some() {
                let advice = "the destination's network is not known before routing: in CUSP this is never true here";
                self.report.add(Fate::LeftOut, &lines, format!("routing by condition {condition}"), advice);
            } else if trigger.policy.is_none() {
                let advice = "CUSP sends these by their request-URI; write a [[proxy.route]] that names the destination";
                self.report.add(Fate::LeftOut, &lines, format!("by-pass of routing (condition {condition})"), advice);
            } else {
                if trigger.condition.is_some() {
                    self.report.add(Fate::Carried, &case.lines, format!("trigger condition {condition}"), "");
                }
                kept.push(case);
            }
        }
        kept
    }

    fn trigger(&mut self, trigger: &Trigger, cases: &[Case], later: &[&Case]) -> Vec<Route> {
        let Some(policy) = trigger.policy.as_deref().filter(|_| !cases.is_empty()) else { return Vec::new() };
        let drafts = self.policy(policy, trigger.line, 0);
        if drafts.is_empty() {
            self.report.add(Fate::LeftOut, &[trigger.line], format!("trigger with policy {policy}"), "nothing of its policy is carried over");
            return Vec::new();
        }
        self.report.add(Fate::Carried, &[trigger.line], "trigger routing", "");
        let mut routes = Vec::new();
        for draft in &drafts {
            for case in cases {
                routes.extend(self.narrowed(draft, &case.wanted, &with(&case.lines, trigger.line)));
            }
        }
        let meets = |case: &Case| later.iter().any(|later| case.wanted.and(&later.wanted) != Both::Never);
        if !drafts.iter().any(|draft| draft.wanted == Match::default()) && cases.iter().any(meets) {
            let what = format!("the end of policy {policy}");
            let advice = "CUSP asks no later trigger when no key fits: a route that answers 404 stands behind its keys";
            self.report.add(Fate::Changed, &[trigger.line], what, advice);
            routes.extend(cases.iter().map(|case| Route {
                lines: with(&case.lines, trigger.line),
                from: format!("no key of policy {policy}"),
                name: format!("{policy} else"),
                wanted: case.wanted.clone(),
                action: Action::Reject(404),
                rewrite: Rewrite::default(),
                network: String::new(),
            }));
        }
        routes
    }

    /// The route that asks for `wanted` too.
    fn narrowed(&mut self, route: &Route, wanted: &Match, lines: &[u32]) -> Option<Route> {
        match route.wanted.and(wanted) {
            Both::One(wanted) => {
                let mut route = Route { wanted: *wanted, ..route.clone() };
                route.lines.extend(lines);
                Some(route)
            }
            Both::Never => None,
            Both::Inexpressible(what) => {
                let advice = format!("a route cannot ask for {what}: write the route by hand");
                self.report.add(Fate::LeftOut, &route.lines, route.from.clone(), advice);
                None
            }
        }
    }

    fn policy(&mut self, name: &str, at: u32, depth: usize) -> Vec<Route> {
        let cusp = self.cusp;
        let Some(policy) = cusp.lookups.iter().find(|policy| policy.name == name) else {
            self.report.add(Fate::LeftOut, &[at], format!("policy {name}"), "there is no such policy lookup");
            return Vec::new();
        };
        if depth >= MOST_POLICIES {
            self.report.add(Fate::LeftOut, &[at], format!("policy {name}"), "policies lead from one to the other without end");
            return Vec::new();
        }
        self.used.insert(policy.line);
        let mut routes = Vec::new();
        for step in &policy.steps {
            match cusp.tables.iter().find(|table| table.name == step.table) {
                Some(table) => routes.extend(self.step(name, step, table, depth)),
                None => self.report.add(Fate::LeftOut, &[step.line], format!("step of policy {name}"), format!("there is no route table {}", step.table)),
            }
        }
        routes
    }

    fn step(&mut self, policy: &str, step: &Step, table: &Table, depth: usize) -> Vec<Route> {
        self.used.insert(table.line);
        let keeps_value = |text: &str| text.contains("tel-sep");
        if let Some((line, text)) = step.modifiers.iter().find(|(_, text)| !keeps_value(text)) {
            let lines = [vec![step.line, *line, table.line], table.keys.iter().map(|key| key.line).collect()].concat();
            let advice = format!("`{text}` changes the value before it is looked up: write these routes by hand");
            self.report.add(Fate::LeftOut, &lines, format!("step of policy {policy} with table {}", table.name), advice);
            return Vec::new();
        }
        for (line, text) in &step.modifiers {
            self.report.add(Fate::Changed, &[*line], text.clone(), "numbers are compared as they came, dashes and dots too");
        }
        self.report.add(Fate::Carried, &[step.line, step.rule.0], format!("steps of policy {policy}"), "");
        let mut keys: Vec<&Key> = table.keys.iter().collect();
        keys.sort_by_key(|key| match (&step.rule.1, &key.key) {
            (_, None) => (true, std::cmp::Reverse(0)),
            (Rule::Exact | Rule::Unknown(_), Some(_)) => (false, std::cmp::Reverse(usize::MAX)),
            (Rule::Subnet, Some(key)) => (false, std::cmp::Reverse(mask(key))),
            (Rule::Prefix | Rule::Subdomain | Rule::Fixed(_), Some(key)) => (false, std::cmp::Reverse(key.len())),
        });
        let mut routes = Vec::new();
        for key in keys {
            let what = format!("keys of route table {}", table.name);
            match self.matches(step, key) {
                Ok(wanted) => {
                    let targets = self.targets(policy, table, key, depth);
                    if !targets.is_empty() {
                        self.report.add(Fate::Carried, &[table.line, key.line], what, "");
                    }
                    for target in &targets {
                        for wanted in &wanted {
                            routes.extend(self.narrowed(target, wanted, &[step.line]));
                        }
                    }
                }
                Err(why) => self.report.add(Fate::LeftOut, &[key.line, step.rule.0], what, why),
            }
        }
        routes
    }

    /// What a key asks for; several matches where a network has several listeners.
    fn matches(&mut self, step: &Step, key: &Key) -> Result<Vec<Match>, String> {
        let Some(text) = &key.key else { return Ok(vec![Match::default()]) };
        let rule = &step.rule.1;
        if let Rule::Unknown(rule) = rule {
            return Err(format!("`{rule}` is not known: write these routes by hand"));
        }
        let one = |wanted: Match| Ok(vec![wanted]);
        let on = |fits: &dyn Fn(&super::target::Listener) -> bool| {
            let names: Vec<String> = self.ferric.listeners.iter().filter(|listener| fits(listener)).map(super::target::Listener::name).collect();
            match names.len() {
                0 => Err("no listener fits it".to_owned()),
                all if all == self.ferric.listeners.len() => Ok(vec![Match::default()]),
                _ => Ok(names.into_iter().map(|name| Match { listener: Some(name), ..Match::default() }).collect()),
            }
        };
        match &step.field {
            Field::RequestUri(part) if part == "user" || part == "phone" => match rule {
                Rule::Fixed(length) if *length != text.chars().count() => {
                    Err(format!("the first {length} characters are never equal to a key of another length"))
                }
                Rule::Exact | Rule::Prefix | Rule::Fixed(_) => {
                    let key = UserKey { text: text.clone(), is_exact: *rule == Rule::Exact, any_plus: step.ignore_plus };
                    one(Match { key: Some(key), ..Match::default() })
                }
                _ => Err("a number has no domain and no network".to_owned()),
            },
            Field::RequestUri(part) if part == "host" || part == "host-port" => match rule {
                Rule::Exact | Rule::Subdomain => {
                    if *rule == Rule::Subdomain {
                        let advice = "the domain itself only: write a route for each of its subdomains";
                        self.report.add(Fate::Changed, &[step.rule.0], "rule subdomain", advice);
                    }
                    let domain = text.split(':').next().unwrap_or(text).to_owned();
                    one(Match { domain: Some(domain), ..Match::default() })
                }
                _ => Err("a route asks for one domain: write a route for each".to_owned()),
            },
            Field::Header { name, part } => {
                let text = if step.ignore_plus { text.trim_start_matches('+') } else { text };
                let plus = if step.ignore_plus { "\\+?" } else { "" };
                let literal = escape(text);
                let pattern = match (rule, part.as_str()) {
                    (Rule::Exact | Rule::Prefix, "uri") => literal,
                    (Rule::Exact, _) => format!("^{plus}{literal}$"),
                    (Rule::Prefix, _) => format!("^{plus}{literal}"),
                    (Rule::Fixed(length), _) if *length == text.chars().count() => format!("^{plus}{literal}"),
                    (Rule::Subdomain, "host") => format!("^(?:[^:;>]*\\.)?{literal}$"),
                    _ => return Err(format!("a route cannot compare the {part} of {name} so")),
                };
                let Some(pattern) = over_uri(part, &pattern) else {
                    return Err(format!("a route cannot ask for the {part} of {name}"));
                };
                one(if name.eq_ignore_ascii_case("From") {
                    Match { from: Some(pattern), ..Match::default() }
                } else {
                    Match { header: Some((name.clone(), pattern)), ..Match::default() }
                })
            }
            Field::InNetwork => on(&|listener| listener.network == *text),
            Field::LocalIp => on(&|listener| listener.address.starts_with(&format!("{text}:"))),
            Field::RemoteIp => match network(std::slice::from_ref(text)) {
                Some(source) => one(Match { source: Some(source), ..Match::default() }),
                None => Err("this is no network of senders".to_owned()),
            },
            Field::RequestUri(part) => Err(format!("a route cannot ask for the {part} of the request-URI")),
            Field::Unknown(what) => Err(format!("a route cannot ask for `{what}`")),
        }
    }

    /// Where a key leads: one route, those of a nested policy, or none.
    fn targets(&mut self, policy: &str, table: &Table, key: &Key, depth: usize) -> Vec<Route> {
        let text = key.key.as_deref().unwrap_or("*");
        let route = |action: Action, network: &str| Route {
            lines: vec![key.line],
            from: format!("key {text} of route table {}", table.name),
            name: format!("{} {text}", table.name),
            wanted: Match::default(),
            action,
            rewrite: Rewrite::default(),
            network: network.to_owned(),
        };
        let what = format!("key {text} of route table {}", table.name);
        match &key.action {
            KeyAction::Destination(destination) => {
                vec![route(action(self.cusp, destination, key.line, self.report), &destination.network)]
            }
            KeyAction::RouteUri { uri, network } => {
                let uri = uri.trim_matches(['<', '>']).replace(";lr", "");
                let uri = if uri.contains("sip") { uri } else { format!("sip:{uri}") };
                self.report.add(Fate::Changed, &[key.line], what, "sent to that place without a Route header");
                vec![route(Action::To(uri), network)]
            }
            KeyAction::Group(name) => {
                let target = route_group_name(self.cusp, name);
                if self.ferric.groups.iter().any(|group| group.name == target) {
                    let network = |name: &str| self.cusp.route_groups.iter().find(|group| group.name == name);
                    let first = network(name).and_then(|group| group.elements.first());
                    let network = first.map_or("", |element| element.destination.network.as_str());
                    return vec![route(Action::To(target), network)];
                }
                let plain = Destination { host: name.clone(), port: None, transport: None, network: String::new() };
                if self.cusp.groups.iter().any(|group| group.name == *name) {
                    return vec![route(action(self.cusp, &plain, key.line, self.report), "")];
                }
                self.report.add(Fate::LeftOut, &[key.line], what, format!("there is no route group {name}"));
                Vec::new()
            }
            KeyAction::Policy(nested) => {
                if nested == policy {
                    self.report.add(Fate::LeftOut, &[key.line], what, "it leads to its own policy");
                    return Vec::new();
                }
                let mut routes = self.policy(nested, key.line, depth + 1);
                for route in &mut routes {
                    route.lines.push(key.line);
                }
                routes
            }
            KeyAction::Response(code) if (400..700).contains(code) => vec![route(Action::Reject(*code), "")],
            KeyAction::Response(_) => {
                let advice = "a route answers with 400 to 699; to send the caller elsewhere write redirect = \"sip:...\"";
                self.report.add(Fate::LeftOut, &[key.line], what, advice);
                Vec::new()
            }
            KeyAction::Default => {
                let advice = "CUSP follows the request-URI through DNS; name the destination: to = \"sip:...\"";
                self.report.add(Fate::LeftOut, &[key.line], what, advice);
                Vec::new()
            }
        }
    }

    /// Says which tables, policies and conditions lead nowhere.
    fn unused(&mut self) {
        let cusp = self.cusp;
        let triggers = || cusp.routing.iter().chain(&cusp.pre).chain(&cusp.post);
        for table in cusp.tables.iter().filter(|table| !self.used.contains(&table.line)) {
            let lines = with(&table.keys.iter().map(|key| key.line).collect::<Vec<_>>(), table.line);
            self.report.add(Fate::NotNeeded, &lines, format!("route table {}", table.name), "no trigger leads to it");
        }
        for policy in &cusp.lookups {
            if self.used.contains(&policy.line) {
                self.report.add(Fate::Carried, &[policy.line], format!("steps of policy {}", policy.name), "");
            } else {
                let lines = with(&policy.steps.iter().map(|step| step.line).collect::<Vec<_>>(), policy.line);
                self.report.add(Fate::NotNeeded, &lines, format!("policy lookup {}", policy.name), "no trigger leads to it");
            }
        }
        for condition in &cusp.conditions {
            if !triggers().any(|trigger| trigger.condition.as_ref() == Some(&condition.name)) {
                let tests = condition.sequences.iter().flatten().map(|(line, _)| *line).collect::<Vec<_>>();
                let what = format!("trigger condition {}", condition.name);
                self.report.add(Fate::NotNeeded, &with(&tests, condition.line), what, "no trigger asks for it");
            }
        }
    }
}

fn with(lines: &[u32], line: u32) -> Vec<u32> {
    lines.iter().copied().chain([line]).collect()
}

fn mask(network: &str) -> usize {
    network.split_once('/').and_then(|(_, length)| length.parse().ok()).unwrap_or(128)
}

/// A number behind names that occur again.
fn unique(routes: &mut [Route]) {
    let mut seen: std::collections::HashMap<String, u32> = std::collections::HashMap::new();
    for route in routes {
        route.lines.sort_unstable();
        route.lines.dedup();
        let count = seen.entry(route.name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            route.name = format!("{} ({count})", route.name);
        }
    }
}
