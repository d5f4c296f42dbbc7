//! The keys of a table as matches, in the order in which they are asked for.

use std::collections::HashSet;

use super::model::{Field, Key, Rule, Step, Table};
use super::pattern::{checked, escape, over_uri};
use super::read::is_host_name;
use super::routing::network;
use super::target::{Match, UserKey};
use super::translate::Translator;
use crate::import::report::Fate;

impl Translator<'_> {
    /// The keys with what they ask for, the longest first and `*` last; of two that are equal the later counts.
    pub(super) fn in_order<'t>(&mut self, step: &Step, table: &'t Table) -> Vec<(&'t Key, Vec<Match>)> {
        let mut seen = HashSet::new();
        let (latest, hidden): (Vec<&Key>, Vec<&Key>) =
            table.keys.iter().rev().partition(|key| seen.insert(key.key.as_deref()));
        for key in hidden {
            let what = format!("key {} of route table {}", key.key.as_deref().unwrap_or("*"), table.name);
            self.report.add(Fate::NotNeeded, &[key.line], what, "a later line has the same key");
        }
        let mut keys = latest;
        keys.reverse();
        keys.sort_by_key(|key| match (&step.rule.1, &key.key) {
            (_, None) => (true, std::cmp::Reverse(0)),
            (Rule::Exact | Rule::Unknown(_), Some(_)) => (false, std::cmp::Reverse(usize::MAX)),
            (Rule::Subnet, Some(key)) => (false, std::cmp::Reverse(mask(key))),
            (Rule::Prefix | Rule::Subdomain | Rule::Fixed(_), Some(key)) => (false, std::cmp::Reverse(key.len())),
        });
        let mut found = Vec::new();
        for key in keys {
            match self.matches(step, key) {
                Ok(wanted) => {
                    self.report.add(Fate::Carried, &[key.line], format!("keys of route table {}", table.name), "");
                    found.push((key, wanted));
                }
                Err(why) => self.report.add(
                    Fate::LeftOut,
                    &[key.line, step.rule.0],
                    format!("keys of route table {}", table.name),
                    why,
                ),
            }
        }
        found
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
            let names: Vec<String> = self
                .ferric
                .listeners
                .iter()
                .filter(|listener| fits(listener))
                .map(super::target::Listener::name)
                .collect();
            match names.len() {
                0 => Err("no `sip listen` fits it".to_owned()),
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
                    let key =
                        UserKey { text: text.clone(), is_exact: *rule == Rule::Exact, any_plus: step.ignore_plus };
                    one(Match { key: Some(key), ..Match::default() })
                }
                _ => Err("a number has no domain and no network".to_owned()),
            },
            Field::RequestUri(part) if part == "host" || part == "host-port" => match rule {
                Rule::Exact | Rule::Subdomain => {
                    let (domain, port) =
                        text.split_once(':').map_or((text.as_str(), None), |(domain, port)| (domain, Some(port)));
                    if !is_host_name(domain) {
                        return Err("this is no domain".to_owned());
                    }
                    if port.is_some() {
                        self.report.add(
                            Fate::Changed,
                            &[key.line],
                            format!("key {text}"),
                            "a route asks for the host, whatever its port",
                        );
                    }
                    let below = (*rule == Rule::Subdomain).then(|| format!("*.{domain}"));
                    let asks = |domain: String| Match { domain: Some(domain), ..Match::default() };
                    Ok(std::iter::once(domain.to_owned()).chain(below).map(asks).collect())
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
                checked(&pattern)?;
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
}

fn mask(network: &str) -> usize {
    network.split_once('/').and_then(|(_, length)| length.parse().ok()).unwrap_or(128)
}
