//! Normalization policies as rewrites of routes.
//!
//! CUSP normalises before it looks up and again before it sends; of the triggers of one kind, the first whose condition is
//! true is run. Here a request is matched as it came and rewritten afterwards, so
//!
//! - what happens before the lookup is folded into the keys where it swaps one literal prefix for another: `9` taken off
//!   and key `1408` are a route for `91408` that strips one character;
//! - what happens after it goes to the routes that its condition allows; a route for which it is true at times only is
//!   split in two, the narrower first.

use super::condition::{Case, cases};
use super::model::{Cusp, Edit, Trigger};
use super::pattern::{checked, literal, prefix_swap, replacement};
use super::read::is_host_name;
use super::target::{Action, Both, Ferric, Match, Rewrite, Route, UserKey};
use crate::import::report::{Fate, Report};

/// A normalization with a case of its trigger.
#[derive(Debug)]
struct Plan {
    line: u32,
    case: Case,
    /// `None`: `by-pass`, which keeps later triggers away.
    user: Option<UserEdit>,
    host: Option<(u32, String)>,
}

#[derive(Debug, Clone)]
struct UserEdit {
    line: u32,
    swap: Option<(String, String)>,
    regex: (String, String),
}

/// Both kinds of normalization, ready to be applied.
#[derive(Debug)]
pub(super) struct Rewrites {
    pre: Vec<Plan>,
    post: Vec<Plan>,
}

impl Rewrites {
    pub(super) fn new(cusp: &Cusp, ferric: &Ferric, report: &mut Report) -> Rewrites {
        Rewrites { pre: plans(&cusp.pre, cusp, ferric, report), post: plans(&cusp.post, cusp, ferric, report) }
    }

    /// The routes of one routing trigger with what is rewritten on their way; `cases` is what the trigger asks for.
    pub(super) fn apply(&self, routes: Vec<Route>, cases: &[Match], report: &mut Report) -> Vec<Route> {
        let routes = fold(routes, cases, &self.pre, report);
        routes.into_iter().flat_map(|route| split(route, &self.post, report)).collect()
    }
}

fn plans(triggers: &[Trigger], cusp: &Cusp, ferric: &Ferric, report: &mut Report) -> Vec<Plan> {
    let mut sorted: Vec<&Trigger> = triggers.iter().collect();
    sorted.sort_by_key(|trigger| trigger.sequence);
    let mut plans = Vec::new();
    for trigger in sorted {
        let (mut user, mut host, mut domain) = (None, None, None);
        if let Some(name) = &trigger.policy {
            let Some(policy) = cusp.normalizations.iter().find(|policy| policy.name == *name) else {
                let what = format!("trigger with normalization {name}");
                report.add(Fate::LeftOut, &[trigger.line], what, "there is no such policy normalization");
                continue;
            };
            for edit in &policy.edits {
                let what = format!("uri-component update request-uri of normalization {name}");
                let why = match (edit.is_host, user.is_some(), host.is_some()) {
                    (true, _, false) if !is_host(&edit.replacement) => {
                        Some("this is no host: write rewrite = { host = ... }".to_owned())
                    }
                    (true, _, false) => host_edit(edit, &mut host, &mut domain).err(),
                    (false, false, _) => user_edit(edit).map(|edit| user = Some(edit)).err(),
                    _ => Some(
                        "a route rewrites the user once and the host once: put both into one expression".to_owned(),
                    ),
                };
                if let Some(why) = why {
                    report.add(Fate::LeftOut, &[edit.line], what, why);
                }
            }
            if user.is_none() && host.is_none() {
                report.add(
                    Fate::NotNeeded,
                    &[trigger.line],
                    format!("trigger with normalization {name}"),
                    "none of its edits is carried over",
                );
            }
        }
        for case in cases(trigger.condition.as_deref(), trigger.line, cusp, ferric, report) {
            let edits = user.iter().map(|edit: &UserEdit| edit.line).chain(host.iter().map(|(line, _)| *line));
            let lines: Vec<u32> = case.lines.iter().copied().chain([trigger.line]).chain(edits).collect();
            report.add(Fate::Carried, &lines, "triggers of normalization", "");
            let Some(domain) = &domain else {
                plans.push(Plan { line: trigger.line, case, user: user.clone(), host: host.clone() });
                continue;
            };
            // Only for that domain; a request for another one has had its trigger too.
            let asks = Match { domain: Some(domain.clone()), ..Match::default() };
            if let Both::One(wanted) = case.wanted.and(&asks) {
                let case = Case { wanted: *wanted, ..case.clone() };
                plans.push(Plan { line: trigger.line, case, user: user.clone(), host: host.clone() });
            }
            plans.push(Plan { line: trigger.line, case, user: user.clone(), host: None });
        }
    }
    plans
}

/// A name or an IPv4 address, with a port or without.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    is_host_name(host) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn host_edit(edit: &Edit, host: &mut Option<(u32, String)>, domain: &mut Option<String>) -> Result<(), String> {
    if let Some(pattern) = &edit.pattern {
        *domain = Some(
            literal(pattern)
                .filter(|domain| is_host_name(domain))
                .ok_or("a route's host is replaced as a whole: write rewrite = { host = ... } for each domain")?,
        );
    }
    *host = Some((edit.line, edit.replacement.clone()));
    Ok(())
}

fn user_edit(edit: &Edit) -> Result<UserEdit, String> {
    let Some(pattern) = &edit.pattern else {
        let regex = ("^.*$".to_owned(), edit.replacement.replace('$', "$$"));
        return Ok(UserEdit { line: edit.line, swap: None, regex });
    };
    checked(pattern)?;
    let regex = (pattern.clone(), replacement(&edit.replacement));
    Ok(UserEdit { line: edit.line, swap: prefix_swap(pattern, &edit.replacement), regex })
}

/// The route with the plan's condition, and whether that is the route itself; `None` if they never meet.
fn narrowed(route: &Route, plan: &Plan, report: &mut Report) -> Option<(Route, bool)> {
    match route.wanted.and(&plan.case.wanted) {
        Both::One(wanted) => {
            let always = *wanted == route.wanted;
            let mut narrow = Route { wanted: *wanted, ..route.clone() };
            narrow.lines.extend(&plan.case.lines);
            Some((narrow, always))
        }
        Both::Never => None,
        Both::Inexpressible(what) => {
            let advice = format!("not applied to route \"{}\": it cannot ask for {what}", route.name);
            report.add(Fate::LeftOut, &[plan.line], "a normalization", advice);
            None
        }
    }
}

/// Before the lookup: a section of routes for each plan, in order, then the routes for requests that no plan is for.
fn fold(routes: Vec<Route>, cases: &[Match], plans: &[Plan], report: &mut Report) -> Vec<Route> {
    let plans: Vec<&Plan> =
        plans.iter().filter(|plan| !plan.case.mid_dialog && plan.case.out_network.is_none()).collect();
    let mut folded = Vec::new();
    for (place, plan) in plans.iter().enumerate() {
        let (is_last, first) = (place + 1 == plans.len(), folded.len());
        let always = plan.case.wanted == Match::default();
        let swap = plan.user.as_ref().and_then(|user| user.swap.as_ref().map(|swap| (user.line, swap)));
        if let Some((line, (from, to))) = swap {
            swapped(&routes, cases, plan, (line, from, to), &mut folded, report);
        }
        // Those that the plan leaves as they are, or rewrites in what no key looks at.
        for route in &routes {
            let is_hidden = |key: &UserKey| swap.is_some_and(|(_, (from, _))| key.text.starts_with(from.as_str()));
            if always && route.wanted.key.as_ref().is_some_and(is_hidden) {
                continue;
            }
            let Some((mut narrow, _)) = narrowed(route, plan, report) else { continue };
            let is_plain = !beside(&mut narrow, plan, swap.is_some(), report);
            if !(is_plain && is_last && !always) {
                folded.push(narrow);
            }
        }
        if always {
            return folded;
        }
        // Those that the plan was for and no key fits must not come to the routes of a later plan.
        let ends = cases.iter().filter(|_| !is_last).filter_map(|case| match case.and(&plan.case.wanted) {
            Both::One(wanted) => Some(Route {
                lines: vec![plan.line],
                wanted: *wanted,
                action: Action::Reject(404),
                ..Route::new("no key after normalization", "no key fits the request once it is normalised")
            }),
            Both::Never | Both::Inexpressible(_) => None,
        });
        let ends: Vec<Route> =
            ends.filter(|end| !folded.iter().skip(first).any(|route| route.wanted == end.wanted)).collect();
        folded.extend(ends);
    }
    folded.extend(routes);
    folded
}

/// The routes for numbers whose prefix is swapped before the lookup, as they came.
fn swapped(
    routes: &[Route],
    cases: &[Match],
    plan: &Plan,
    swap: (u32, &str, &str),
    folded: &mut Vec<Route>,
    report: &mut Report,
) {
    let (line, from, to) = swap;
    let first = folded.len();
    let mut is_user_asked = false;
    for route in routes {
        let Some((mut narrow, _)) = narrowed(route, plan, report) else { continue };
        if route.wanted.user.is_some() {
            is_user_asked = true;
            continue;
        }
        let Some(key) = unswapped(route.wanted.key.as_ref(), from, to) else { continue };
        narrow.wanted.key = Some(key);
        narrow.lines.push(line);
        if !matches!(narrow.action, Action::Reject(_) | Action::Unknown) {
            narrow.rewrite.prefix = Some((from.chars().count(), to.to_owned()));
            set_host(&mut narrow, plan, report);
        }
        folded.push(narrow);
    }
    if is_user_asked {
        let advice = "its routing trigger looks at the user by an expression, after the edit: write the route by hand";
        report.add(Fate::LeftOut, &[line, plan.line], "an edit of the number before the lookup", advice);
        return;
    }
    report.add(
        Fate::Changed,
        &[line, plan.line],
        "an edit of the number before the lookup",
        "folded into the routes: they match the number as it came",
    );
    // A number that fits no key once it is rewritten must not fit one as it came.
    let made: Vec<Match> = folded.iter().skip(first).map(|route| route.wanted.clone()).collect();
    let prefix = UserKey { text: from.to_owned(), is_exact: false, any_plus: false };
    let asks = Match { key: Some(prefix), ..Match::default() };
    for case in cases {
        let Both::One(wanted) = case.and(&plan.case.wanted) else { continue };
        let Both::One(wanted) = wanted.and(&asks) else { continue };
        if !made.contains(&wanted) && routes.iter().any(|route| route.wanted.and(&wanted) != Both::Never) {
            folded.push(Route {
                lines: vec![line, plan.line],
                wanted: *wanted,
                action: Action::Reject(404),
                ..Route::new(&format!("{from} taken off"), "no key fits the number once it is rewritten")
            });
        }
    }
}

/// The plan's edits on a route that looks at nothing of what they change; false if none is made.
fn beside(route: &mut Route, plan: &Plan, is_swapped: bool, report: &mut Report) -> bool {
    if matches!(route.action, Action::Reject(_) | Action::Unknown) {
        return false;
    }
    let user = plan.user.as_ref().filter(|_| !is_swapped);
    if let Some(user) = user
        && (route.wanted.key.is_some() || route.wanted.user.is_some())
    {
        let advice = "the number is rewritten by an expression before it is looked up, routes match it as it came: change their keys";
        report.add(Fate::LeftOut, &[user.line, plan.line], "an edit of the number before the lookup", advice);
        return false;
    }
    if let Some((line, _)) = &plan.host
        && route.wanted.domain != plan.case.wanted.domain
    {
        let advice = "the host is rewritten before it is looked up, routes match it as it came: change their `domain`";
        report.add(Fate::LeftOut, &[*line, plan.line], "an edit of the host before the lookup", advice);
        return false;
    }
    if is_swapped {
        set_host(route, plan, report);
        return plan.host.is_some();
    }
    attach(route, plan, report);
    plan.user.is_some() || plan.host.is_some()
}

/// The key of numbers as they came, that is `key` once `from` in front is `to`.
fn unswapped(key: Option<&UserKey>, from: &str, to: &str) -> Option<UserKey> {
    let Some(key) = key else {
        return Some(UserKey { text: from.to_owned(), is_exact: false, any_plus: false });
    };
    let trimmed = |text: &str| if key.any_plus { text.trim_start_matches('+').to_owned() } else { text.to_owned() };
    let (wanted, to) = (trimmed(&key.text), trimmed(to));
    let text = match wanted.strip_prefix(&to) {
        Some(rest) => format!("{from}{rest}"),
        None if !key.is_exact && to.starts_with(&wanted) => from.to_owned(),
        None => return None,
    };
    Some(UserKey { text, is_exact: key.is_exact, any_plus: false })
}

/// After the lookup: the route, or the route for some requests before the route for all others.
fn split(mut route: Route, plans: &[Plan], report: &mut Report) -> Vec<Route> {
    let mut routes = Vec::new();
    if matches!(route.action, Action::Reject(_) | Action::Unknown) {
        return vec![route];
    }
    for plan in plans {
        let elsewhere = plan.case.out_network.as_ref().is_some_and(|network| *network != route.network);
        if elsewhere || plan.case.mid_dialog {
            continue;
        }
        if route.rewrite != Rewrite::default() && (plan.case.wanted.user.is_some() || plan.case.wanted.domain.is_some())
        {
            let advice =
                format!("route \"{}\" rewrites before the condition looks: write the edit there by hand", route.name);
            report.add(Fate::LeftOut, &[plan.line], "a normalization", advice);
            continue;
        }
        match narrowed(&route, plan, report) {
            None => {}
            Some((narrow, true)) => {
                route.lines = narrow.lines;
                attach(&mut route, plan, report);
                break;
            }
            Some((mut narrow, false)) => {
                attach(&mut narrow, plan, report);
                routes.push(narrow);
            }
        }
    }
    routes.push(route);
    routes
}

fn attach(route: &mut Route, plan: &Plan, report: &mut Report) {
    if let Some(user) = &plan.user {
        if route.rewrite.prefix.is_some() || route.rewrite.regex.is_some() {
            let advice = format!("route \"{}\" rewrites the user already: put both into one expression", route.name);
            report.add(Fate::LeftOut, &[user.line], "a second edit of the number", advice);
        } else if let Some(found) = rewrite_user(&route.wanted, user) {
            route.rewrite.prefix = found.prefix;
            route.rewrite.regex = found.regex;
            route.lines.push(user.line);
            let what = "uri-component update request-uri user";
            if route.rewrite.regex.is_some() && !user.regex.0.starts_with('^') {
                let advice = "the expression has no ^ and may match in several places: see which one is meant";
                report.add(Fate::Changed, &[user.line, plan.line], what, advice);
            } else {
                report.add(Fate::Carried, &[user.line, plan.line], what, "");
            }
        }
    }
    set_host(route, plan, report);
}

fn rewrite_user(wanted: &Match, user: &UserEdit) -> Option<Rewrite> {
    let regex = Rewrite { regex: Some(user.regex.clone()), ..Rewrite::default() };
    let (Some((from, to)), Some(key)) = (&user.swap, &wanted.key) else { return Some(regex) };
    if key.any_plus {
        return Some(regex);
    }
    if key.text.starts_with(from.as_str()) {
        return Some(Rewrite { prefix: Some((from.chars().count(), to.clone())), ..Rewrite::default() });
    }
    (!key.is_exact && from.starts_with(&key.text)).then_some(regex)
}

fn set_host(route: &mut Route, plan: &Plan, report: &mut Report) {
    let Some((line, host)) = &plan.host else { return };
    if route.rewrite.host.is_none() {
        route.rewrite.host = Some(host.clone());
        route.lines.push(*line);
        report.add(Fate::Carried, &[*line, plan.line], "uri-component update request-uri host", "");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(text: &str, is_exact: bool) -> UserKey {
        UserKey { text: text.to_owned(), is_exact, any_plus: false }
    }

    #[test]
    fn a_prefix_swapped_before_the_lookup_is_undone_in_the_key() {
        let of = |key: &UserKey, from: &str, to: &str| unswapped(Some(key), from, to).map(|key| key.text);
        assert_eq!(of(&key("1408", false), "9", "").as_deref(), Some("91408"));
        assert_eq!(of(&key("+1408", false), "9", "+").as_deref(), Some("91408"));
        assert_eq!(of(&key("+", false), "00", "+49").as_deref(), Some("00"));
        assert_eq!(of(&key("+4989", true), "0", "+49").as_deref(), Some("089"));
        assert_eq!(of(&key("1408", false), "0", "+49"), None);
        assert_eq!(of(&key("+4", true), "0", "+49"), None);
        assert_eq!(unswapped(None, "9", "").unwrap().text, "9");
    }

    #[test]
    fn a_known_prefix_is_stripped_and_an_unknown_one_is_an_expression() {
        let user = UserEdit { line: 1, swap: Some(("00".into(), "+".into())), regex: ("^00".into(), "+".into()) };
        let with = |text: &str, is_exact| Match { key: Some(key(text, is_exact)), ..Match::default() };
        assert_eq!(rewrite_user(&with("0049", false), &user).unwrap().prefix, Some((2, "+".to_owned())));
        assert!(rewrite_user(&with("0", false), &user).unwrap().regex.is_some());
        assert!(rewrite_user(&Match::default(), &user).unwrap().regex.is_some());
        assert_eq!(rewrite_user(&with("1408", false), &user), None);
    }
}
