//! Triggers, lookup policies and tables as one list of routes.
//!
//! CUSP runs the first routing trigger whose condition is true; its policy looks into one table after the other, and a
//! table gives the exact or the longest key. First match wins in the list of routes too, so the order is: triggers by
//! sequence, steps by sequence, keys from the longest to `*`.

use std::collections::BTreeSet;

use ferric_sip::uri::Uri;

use super::condition::{Case, cases};
use super::groups::action;
use super::model::{Cusp, Destination, Key, KeyAction, Step, Table, Trigger};
use super::read::is_host_name;
use super::rewrite::Rewrites;
use super::target::{Action, Both, Ferric, Match, Route};
use crate::import::report::{Fate, Report};

/// So many policies lead from one to the next, and no more.
const MOST_POLICIES: usize = 8;
/// Most routes of a configuration; CUSP is sold for tables of some 10,000 keys.
const MOST_ROUTES: usize = 100_000;
const TOO_MANY: &str = "more than 100,000 routes come of it: the others are left out";
/// Where a request goes that no table is asked for.
const REQUEST_URI: &str = "request-uri";
const MID_DIALOG: &str = "requests within a dialog follow its route set, no table is asked";

pub(super) fn routes(cusp: &Cusp, ferric: &Ferric, report: &mut Report) -> Vec<Route> {
    let rewrites = Rewrites::new(cusp, ferric, report);
    let mut translator = Translator { cusp, ferric, report, used: BTreeSet::new(), made: 0 };
    let mut triggers: Vec<&Trigger> = cusp.routing.iter().collect();
    triggers.sort_by_key(|trigger| trigger.sequence);
    let all: Vec<(&Trigger, Vec<Case>)> =
        triggers.into_iter().map(|trigger| (trigger, translator.cases(trigger))).collect();
    let mut routes = Vec::new();
    for (place, (trigger, cases)) in all.iter().enumerate() {
        let later: Vec<&Case> = all.iter().skip(place + 1).flat_map(|(_, cases)| cases).collect();
        let of_trigger = translator.trigger(trigger, cases, &later);
        let wanted: Vec<Match> = cases.iter().map(|case| case.wanted.clone()).collect();
        routes.extend(rewrites.apply(of_trigger, &wanted, translator.report));
        if routes.len() > MOST_ROUTES {
            routes.truncate(MOST_ROUTES);
            translator.report.add(Fate::LeftOut, &[trigger.line], "trigger routing", TOO_MANY);
            break;
        }
    }
    translator.unused();
    unique(&mut routes);
    routes
}

/// What is looked up when no key of a policy fits: the next steps of the policy that led to it, and so on outwards.
#[derive(Clone, Copy)]
struct Beyond<'a> {
    routes: &'a [Route],
    outer: Option<&'a Beyond<'a>>,
}

pub(super) struct Translator<'a> {
    cusp: &'a Cusp,
    pub(super) ferric: &'a Ferric,
    pub(super) report: &'a mut Report,
    /// Lines of tables and policies that were looked into.
    used: BTreeSet<u32>,
    /// Routes made so far, those of nested policies once for each key that leads there.
    made: usize,
}

impl Translator<'_> {
    /// The cases in which requests are routed by a trigger.
    fn cases(&mut self, trigger: &Trigger) -> Vec<Case> {
        let cases = cases(trigger.condition.as_deref(), trigger.line, self.cusp, self.ferric, self.report);
        let condition = trigger.condition.as_deref().unwrap_or_default();
        if cases.is_empty() {
            let what = format!("trigger with condition {condition}");
            self.report.add(
                Fate::LeftOut,
                &[trigger.line],
                what,
                "no route can ask for its condition: write its routes by hand, before those of later triggers",
            );
        }
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
        if cases.is_empty() {
            return Vec::new();
        }
        let Some(policy) = trigger.policy.as_deref() else {
            self.report.add(Fate::Carried, &[trigger.line], "by-pass of routing: by the request-URI and DNS", "");
            let by_uri =
                Route { action: Action::To(REQUEST_URI.to_owned()), ..Route::new("by-pass", "by-pass of routing") };
            return cases
                .iter()
                .filter_map(|case| self.narrowed(&by_uri, &case.wanted, &with(&case.lines, trigger.line)))
                .collect();
        };
        let drafts = self.policy(policy, trigger.line, &mut Vec::new(), None);
        if !self.cusp.lookups.iter().any(|lookup| lookup.name == policy) {
            let unknown = Route::new(&format!("{policy} missing"), &format!("policy {policy}, which is not there"));
            return cases
                .iter()
                .filter_map(|case| self.narrowed(&unknown, &case.wanted, &with(&case.lines, trigger.line)))
                .collect();
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
                wanted: case.wanted.clone(),
                ..nothing_fits(policy)
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

    /// The routes of a policy; `stack` has those policies that led here.
    fn policy(&mut self, name: &str, at: u32, stack: &mut Vec<String>, beyond: Option<&Beyond<'_>>) -> Vec<Route> {
        let cusp = self.cusp;
        let Some(policy) = cusp.lookups.iter().find(|policy| policy.name == name) else {
            self.report.add(
                Fate::LeftOut,
                &[at],
                format!("policy {name}"),
                "there is no such policy lookup: its calls are refused with 500 until you write where they go",
            );
            return Vec::new();
        };
        if stack.iter().any(|led| led == name) || stack.len() >= MOST_POLICIES {
            self.report.add(
                Fate::LeftOut,
                &[at],
                format!("policy {name}"),
                "policies lead from one to the other without end",
            );
            return Vec::new();
        }
        self.used.insert(policy.line);
        stack.push(name.to_owned());
        // From the last step to the first: a key may need what comes behind its table.
        let mut routes = Vec::new();
        for step in policy.steps.iter().rev() {
            match cusp.tables.iter().find(|table| table.name == step.table) {
                Some(table) => routes = self.step(name, step, table, routes, stack, beyond),
                None => self.report.add(
                    Fate::LeftOut,
                    &step.lines,
                    format!("step of policy {name}"),
                    format!("there is no route table {}: write its routes by hand", step.table),
                ),
            }
        }
        stack.pop();
        routes
    }

    /// The routes of a table before those of the steps behind it.
    fn step(
        &mut self,
        policy: &str,
        step: &Step,
        table: &Table,
        behind: Vec<Route>,
        stack: &mut Vec<String>,
        beyond: Option<&Beyond<'_>>,
    ) -> Vec<Route> {
        self.used.insert(table.line);
        let keeps_value = |text: &str| text.contains("tel-sep");
        if let Some((line, text)) = step.modifiers.iter().find(|(_, text)| !keeps_value(text)) {
            let lines =
                [step.lines.clone(), vec![*line, table.line], table.keys.iter().map(|key| key.line).collect()].concat();
            let advice = format!("`{text}` changes the value before it is looked up: write these routes by hand");
            self.report.add(
                Fate::LeftOut,
                &lines,
                format!("step of policy {policy} with table {}", table.name),
                advice,
            );
            return behind;
        }
        for (line, text) in &step.modifiers {
            self.report.add(
                Fate::Changed,
                &[*line],
                text.clone(),
                "numbers are compared as they came, dashes and dots too",
            );
        }
        self.report.add(Fate::Carried, &step.lines, format!("steps of policy {policy}"), "");
        self.report.add(Fate::Carried, &[table.line], format!("keys of route table {}", table.name), "");
        let mut routes: Vec<Route> = Vec::new();
        let keys = self.in_order(step, table);
        for (place, (key, wanted)) in keys.iter().enumerate() {
            if self.made > MOST_ROUTES {
                self.report.add(Fate::LeftOut, &[key.line], format!("keys of route table {}", table.name), TOO_MANY);
                continue;
            }
            let beyond = Beyond { routes: &behind, outer: beyond };
            let targets = self.targets(table, key, stack, &beyond);
            let line = [step.line];
            for wanted in wanted {
                for target in &targets {
                    routes.extend(self.narrowed(target, wanted, &line));
                }
                if matches!(key.action, KeyAction::Policy(_)) {
                    let shorter = keys.iter().skip(place + 1).flat_map(|(_, others)| others);
                    let is_in_the_way = shorter.into_iter().any(|other| other.and(wanted) != Both::Never);
                    if is_in_the_way && !targets.iter().any(|target| target.wanted == Match::default()) {
                        routes.extend(self.after_nested(policy, wanted, &beyond, key.line));
                    }
                }
            }
            self.made = self.made.saturating_add(targets.len() * wanted.len());
        }
        routes.extend(behind);
        routes
    }

    /// A nested policy in which no key fits leads to the next step, not to a shorter key of the same table.
    fn after_nested(&mut self, policy: &str, wanted: &Match, beyond: &Beyond<'_>, line: u32) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        let mut at = Some(beyond);
        while let Some(here) = at {
            routes.extend(here.routes.iter().filter_map(|route| self.narrowed(route, wanted, &[line])));
            at = here.outer;
        }
        self.made = self.made.saturating_add(routes.len());
        if !routes.iter().any(|route| route.wanted == *wanted) {
            routes.push(Route { lines: vec![line], wanted: wanted.clone(), ..nothing_fits(policy) });
        }
        routes
    }

    /// Where a key leads: one route, or those of a nested policy.
    ///
    /// A key whose destination is not carried over keeps its place: without it, its requests would go to a shorter key.
    fn targets(&mut self, table: &Table, key: &Key, stack: &mut Vec<String>, beyond: &Beyond<'_>) -> Vec<Route> {
        let text = key.key.as_deref().unwrap_or("*");
        let what = format!("key {text} of route table {}", table.name);
        let route = |action: Action, network: &str| Route {
            lines: vec![key.line],
            action,
            network: network.to_owned(),
            ..Route::new(&format!("{} {text}", table.name), &what)
        };
        let (found, network, why) = match &key.action {
            KeyAction::Destination(destination) => {
                let found = action(self.cusp, destination, key.line, self.report);
                (found, destination.network.as_str(), "there is no server group of that name")
            }
            KeyAction::RouteUri { uri, network } => {
                let found = plain_uri(uri);
                if found.is_some() {
                    self.report.add(
                        Fate::Changed,
                        &[key.line],
                        what.clone(),
                        "sent to that place without a Route header",
                    );
                }
                (found.map(Action::To), network.as_str(), "this is no URI of SIP")
            }
            KeyAction::Group(name) => {
                let group = self.cusp.route_groups.iter().find(|group| group.name == *name);
                let made = group.filter(|group| self.ferric.groups.iter().any(|made| made.name == group.ours));
                let first = made.and_then(|group| group.elements.first());
                let network = first.map_or("", |element| element.destination.network.as_str());
                let plain = Destination { host: name.clone(), port: None, transport: None, network: String::new() };
                let is_group =
                    || self.cusp.groups.iter().any(|group| group.name == *name && !group.elements.is_empty());
                let found = match made {
                    Some(group) => Some(Action::To(group.ours.clone())),
                    None if is_group() => action(self.cusp, &plain, key.line, self.report),
                    None => None,
                };
                (found, network, "there is no route group of that name with destinations")
            }
            KeyAction::Policy(nested) => {
                let mut routes = self.policy(nested, key.line, stack, Some(beyond));
                for route in &mut routes {
                    route.lines.push(key.line);
                }
                return routes;
            }
            KeyAction::Response(code) => {
                let found = (400..700).contains(code).then_some(Action::Reject(*code));
                (
                    found,
                    "",
                    "a route refuses with 400 to 699; to send the caller elsewhere write redirect = \"sip:...\"",
                )
            }
            KeyAction::Default => (Some(Action::To(REQUEST_URI.to_owned())), "", ""),
        };
        if found.is_none() {
            self.report.add(
                Fate::LeftOut,
                &[key.line],
                what.clone(),
                format!("{why}; its calls are refused with 500 until you write `to`"),
            );
        }
        vec![route(found.unwrap_or(Action::Unknown), network)]
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
                let lines =
                    with(&policy.steps.iter().flat_map(|step| step.lines.clone()).collect::<Vec<_>>(), policy.line);
                self.report.add(
                    Fate::NotNeeded,
                    &lines,
                    format!("policy lookup {}", policy.name),
                    "no trigger leads to it",
                );
            }
        }
        for condition in &cusp.conditions {
            if !triggers().any(|trigger| trigger.condition.as_ref() == Some(&condition.name)) {
                let tests = condition.sequences.iter().flatten().map(|(line, _)| *line).collect::<Vec<_>>();
                let what = format!("trigger condition {}", condition.name);
                self.report.add(Fate::NotNeeded, &with(&tests, condition.line), what, "no trigger asks for it");
            }
        }
        for policy in &cusp.normalizations {
            let is_run = cusp.pre.iter().chain(&cusp.post).any(|trigger| trigger.policy.as_ref() == Some(&policy.name));
            let edits: Vec<u32> = policy.edits.iter().map(|edit| edit.line).collect();
            let what = format!("policy normalization {}", policy.name);
            if is_run {
                self.report.add(Fate::Carried, &[policy.line], what, "");
            } else {
                self.report.add(Fate::NotNeeded, &with(&edits, policy.line), what, "no trigger leads to it");
            }
        }
    }
}

/// The route for requests that no key of a policy fits: CUSP answers 404.
fn nothing_fits(policy: &str) -> Route {
    Route {
        action: Action::Reject(404),
        ..Route::new(&format!("{policy} else"), &format!("no key of policy {policy}"))
    }
}

/// A URI for `to`: host, port and transport of a URI of SIP; its user, its password and `lr` have no place there.
fn plain_uri(text: &str) -> Option<String> {
    let text = text.trim_matches(['<', '>']);
    let with_scheme =
        if text.starts_with("sip:") || text.starts_with("sips:") { text.to_owned() } else { format!("sip:{text}") };
    let uri = Uri::parse(&with_scheme).ok().filter(Uri::is_sip)?;
    let is_host = is_host_name(&uri.host) || uri.host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>().is_ok();
    let port = uri.port.map_or_else(String::new, |port| format!(":{port}"));
    let known = |transport: &&str| ["udp", "tcp", "tls"].iter().any(|known| known.eq_ignore_ascii_case(transport));
    let transport = uri
        .params
        .get("transport")
        .filter(known)
        .map_or_else(String::new, |transport| format!(";transport={transport}"));
    is_host.then(|| format!("{}:{}{port}{transport}", uri.scheme, uri.host))
}

fn with(lines: &[u32], line: u32) -> Vec<u32> {
    lines.iter().copied().chain([line]).collect()
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
