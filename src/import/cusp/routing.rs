//! The blocks that decide where a request goes: triggers, tables, policies.

use std::net::IpAddr;

use super::lexer::Line;
use super::model::{
    Condition, Cusp, Destination, Edit, Field, Key, KeyAction, Lookup, Normalization, RouteGroup, RouteGroupElement,
    Rule, Step, Table, Test, Trigger,
};
use super::read::{codes, is_host_name, thousandths};
use crate::import::report::{Fate, Report};

/// `trigger condition`, `trigger routing sequence`, `trigger pre-normalization sequence`, `trigger post-normalization sequence`.
pub(super) fn trigger(line: &Line, block: &[&Line], cusp: &mut Cusp, report: &mut Report) {
    if line.negated {
        report.add(Fate::NotNeeded, &[line.number], line.text(), "");
        return;
    }
    let wanted = |word: &str| line.after(word).map(str::to_owned);
    let trigger = || Trigger {
        line: line.number,
        sequence: wanted("sequence").and_then(|number| number.parse().ok()).unwrap_or(0),
        policy: wanted("policy"),
        condition: wanted("condition"),
    };
    let is_bypass = line.rest(0).iter().any(|word| matches!(word.as_str(), "by-pass" | "bypass"));
    match line.word(1) {
        "condition" => cusp.conditions.push(condition(line, block)),
        "routing" | "pre-normalization" | "post-normalization" if !is_bypass && wanted("policy").is_none() => {
            report.add(Fate::LeftOut, &[line.number], line.text(), "no policy is named: see what it did");
        }
        "routing" => cusp.routing.push(trigger()),
        "pre-normalization" => cusp.pre.push(trigger()),
        "post-normalization" => cusp.post.push(trigger()),
        _ => report.add(Fate::LeftOut, &[line.number], line.text(), "no such trigger is known"),
    }
}

fn condition(line: &Line, block: &[&Line]) -> Condition {
    let mut condition = Condition { line: line.number, name: line.word(2).to_owned(), sequences: Vec::new() };
    for line in block {
        if line.starts(&["sequence"]) {
            condition.sequences.push(Vec::new());
            continue;
        }
        if condition.sequences.is_empty() {
            condition.sequences.push(Vec::new());
        }
        if let Some(sequence) = condition.sequences.last_mut() {
            sequence.push((line.number, if line.negated { Test::Unknown(line.text()) } else { test(line) }));
        }
    }
    condition
}

fn test(line: &Line) -> Test {
    let value = line.word(1).to_owned();
    let unknown = || Test::Unknown(line.text());
    match line.word(0) {
        "in-network" => Test::InNetwork(value),
        "out-network" => Test::OutNetwork(value),
        "local-ip" => Test::LocalIp(value),
        "local-port" => value.parse().map_or_else(|_| unknown(), Test::LocalPort),
        "protocol" | "transport" => Test::Protocol(value.to_ascii_lowercase()),
        "remote-ip" => network(line.rest(1)).map_or_else(unknown, Test::RemoteIp),
        "method" => Test::Method(value.to_ascii_uppercase()),
        "mid-dialog" => Test::MidDialog,
        "message" if value == "request" => Test::IsRequest,
        "user-agent-hdr" => Test::Header { name: "User-Agent".to_owned(), part: None, pattern: value },
        "header" => header(line).unwrap_or_else(unknown),
        "request-uri" => match line.after("uri-component").map(str::to_owned).zip(line.rest(3).last().cloned()) {
            Some((part, pattern)) if line.rest(3).len() == 1 => Test::RequestUri { part, pattern },
            _ => unknown(),
        },
        _ => unknown(),
    }
}

/// `header NAME [first|last|all] [uri-component PART] PATTERN`
fn header(line: &Line) -> Option<Test> {
    let name = field_name(line.word(1));
    let rest = match line.word(2) {
        "first" | "last" | "all" | "any" => line.rest(3),
        _ => line.rest(2),
    };
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let (part, pattern) = match *words.as_slice() {
        ["uri-component", part, pattern] => (Some(part.to_owned()), pattern),
        ["value" | "regex" | "header-value", pattern] | [pattern] => (None, pattern),
        _ => return None,
    };
    Some(Test::Header { name, part, pattern: pattern.to_owned() })
}

/// `p-asserted-identity` as RFCs write it.
pub(super) fn field_name(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "paid" => return "P-Asserted-Identity".to_owned(),
        "rpid" => return "Remote-Party-ID".to_owned(),
        "call-id" => return "Call-ID".to_owned(),
        "remote-party-id" => return "Remote-Party-ID".to_owned(),
        _ => {}
    }
    let capital = |part: &str| {
        let mut chars = part.chars();
        chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
    };
    if name.chars().any(|c| c.is_ascii_uppercase()) && name.chars().any(|c| c.is_ascii_lowercase()) {
        return name.to_owned();
    }
    name.to_ascii_lowercase().split('-').map(capital).collect::<Vec<_>>().join("-")
}

/// An address, an address and its mask, or CIDR: in CIDR form.
pub(super) fn network(words: &[String]) -> Option<String> {
    let text = words.first()?;
    if let Some((ip, length)) = text.split_once('/') {
        let most = if ip.parse::<IpAddr>().ok()?.is_ipv4() { 32 } else { 128 };
        return length.parse::<u8>().ok().filter(|length| *length <= most).map(|length| format!("{ip}/{length}"));
    }
    let ip: IpAddr = text.parse().ok()?;
    match words.get(1).map(|mask| mask.parse::<std::net::Ipv4Addr>()) {
        Some(Ok(mask)) if ip.is_ipv4() => {
            let bits = u32::from(mask);
            (bits.leading_ones() + bits.trailing_zeros() >= 32).then(|| format!("{ip}/{}", bits.leading_ones()))
        }
        Some(_) => None,
        None => Some(format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })),
    }
}

/// `route table` and `route group`.
pub(super) fn route(line: &Line, block: &[&Line], cusp: &mut Cusp, report: &mut Report) {
    let name = line.word(2).to_owned();
    if line.word(1) == "table" {
        let place = cusp.tables.iter().position(|table| table.name == name).unwrap_or(cusp.tables.len());
        if place == cusp.tables.len() {
            cusp.tables.push(Table { line: line.number, name, keys: Vec::new() });
        } else {
            report.add(Fate::Carried, &[line.number], line.text(), "");
        }
        let Some(table) = cusp.tables.get_mut(place) else { return };
        for line in block {
            match key(line) {
                Some(key) if !line.negated => table.keys.push(key),
                _ if line.negated && line.starts(&["key"]) => {
                    report.add(Fate::NotNeeded, &[line.number], line.text(), "it takes a key away");
                    let gone = |key: &Key| key.key.as_deref().unwrap_or("*") == line.word(1);
                    for key in table.keys.extract_if(.., |key| gone(key)) {
                        report.add(
                            Fate::NotNeeded,
                            &[key.line],
                            format!("key {}", line.word(1)),
                            "a later line takes it away",
                        );
                    }
                }
                _ if line.starts(&["file"]) => {
                    let advice =
                        "the keys are in a file on the appliance: put them here as `key` lines and import again";
                    report.add(Fate::LeftOut, &[line.number], line.text(), advice);
                }
                _ => report.add(
                    Fate::LeftOut,
                    &[line.number],
                    line.text(),
                    "this kind of key is not known: write a [[proxy.route]]",
                ),
            }
        }
        return;
    }
    let mut group = RouteGroup { lines: vec![line.number], name, ours: String::new(), elements: Vec::new() };
    for line in block {
        group.lines.push(line.number);
        match (line.word(0), group.elements.last_mut()) {
            ("element", _) if line.word(1) == "target-destination" => match destination(line.word(2), line.word(3)) {
                Some(destination) => group.elements.push(RouteGroupElement {
                    destination,
                    q: line
                        .after("q-value")
                        .or(line.rest(4).first().map(String::as_str))
                        .and_then(thousandths)
                        .unwrap_or(1_000),
                    weight: line.after("weight").and_then(|weight| weight.parse().ok()),
                    failover_codes: Vec::new(),
                }),
                None => report.add(Fate::LeftOut, &[line.number], line.text(), "the destination is not understood"),
            },
            ("failover-codes" | "failover-resp-codes", Some(element)) => element.failover_codes = codes(line.rest(1)),
            ("weight", Some(element)) => element.weight = line.word(1).parse().ok(),
            ("time-policy", _) => {
                let advice = "routes do not know the time of day: this element is asked at any time";
                report.add(Fate::LeftOut, &[line.number], line.text(), advice);
            }
            _ if line.negated => report.add(Fate::NotNeeded, &[line.number], line.text(), ""),
            _ => report.add(
                Fate::LeftOut,
                &[line.number],
                line.text(),
                "this element is not a target-destination: add it by hand",
            ),
        }
    }
    cusp.route_groups.push(group);
}

fn key(line: &Line) -> Option<Key> {
    let (first, second) = (line.word(3), line.word(4));
    let action = match line.word(2) {
        "target-destination" => KeyAction::Destination(destination(first, second)?),
        "route-uri" if !first.is_empty() => KeyAction::RouteUri { uri: first.to_owned(), network: second.to_owned() },
        "group" if !first.is_empty() => KeyAction::Group(first.to_owned()),
        "policy" if !first.is_empty() => KeyAction::Policy(first.to_owned()),
        "response" => KeyAction::Response(first.parse().ok()?),
        "default-sip" => KeyAction::Default,
        _ => return None,
    };
    let key = line.word(1);
    line.starts(&["key"]).then(|| Key { line: line.number, key: (key != "*").then(|| key.to_owned()), action })
}

/// `HOST`, `HOST:PORT` or `HOST:PORT:TRANSPORT`, and a network.
fn destination(text: &str, network: &str) -> Option<Destination> {
    let mut parts = text.split(':');
    let host = parts.next().filter(|host| !host.is_empty())?.to_owned();
    let port = parts.next().map(str::parse).transpose().ok()?;
    let transport = parts.next().map(str::to_ascii_lowercase);
    // The name of a server group may hold anything, an address is one of a host.
    let fine = (is_host_name(&host) || port.is_none() && transport.is_none())
        && transport.as_deref().is_none_or(|transport| ["udp", "tcp", "tls"].contains(&transport))
        && port != Some(0);
    (fine && parts.next().is_none()).then(|| Destination { host, port, transport, network: network.to_owned() })
}

/// `policy lookup` and `policy normalization`.
pub(super) fn policy(line: &Line, block: &[&Line], cusp: &mut Cusp, report: &mut Report) {
    let name = line.word(2).to_owned();
    if line.word(1) == "lookup" {
        let mut lookup = Lookup { line: line.number, name, steps: Vec::new() };
        for line in block {
            step(line, &mut lookup, report);
        }
        lookup.steps.sort_by_key(|step| step.sequence);
        cusp.lookups.push(lookup);
        return;
    }
    let mut normalization = Normalization { line: line.number, name, edits: Vec::new() };
    for line in block {
        match edit(line) {
            Some(edit) => normalization.edits.push(edit),
            None => report.add(Fate::LeftOut, &[line.number], line.text(), advice_for_edit(line)),
        }
    }
    cusp.normalizations.push(normalization);
}

fn step(line: &Line, lookup: &mut Lookup, report: &mut Report) {
    match (line.word(0), lookup.steps.last_mut()) {
        ("sequence", _) => lookup.steps.push(Step {
            line: line.number,
            lines: Vec::new(),
            sequence: line.word(1).parse().unwrap_or(0),
            table: line.word(2).to_owned(),
            field: field(line),
            rule: (line.number, Rule::Exact),
            ignore_plus: false,
            modifiers: Vec::new(),
        }),
        ("rule", Some(step)) => {
            let rule = match line.word(1) {
                "exact" => Rule::Exact,
                "prefix" => Rule::Prefix,
                "subdomain" => Rule::Subdomain,
                "subnet" => Rule::Subnet,
                "fixed" => {
                    line.rest(1).last().and_then(|n| n.parse().ok()).map_or(Rule::Unknown(line.text()), Rule::Fixed)
                }
                _ => Rule::Unknown(line.text()),
            };
            step.rule = (line.number, rule);
        }
        ("ignore-plus", Some(step)) => step.ignore_plus = true,
        ("key-modifier", Some(step)) if line.word(1) == "ignore-plus" => step.ignore_plus = true,
        ("ignore-tel-separators" | "ignore-tel-seperators" | "modify-key" | "key-modifier", Some(step)) => {
            step.modifiers.push((line.number, line.text()));
        }
        _ => {
            report.add(Fate::LeftOut, &[line.number], line.text(), "no such step of a lookup is known");
            return;
        }
    }
    if let Some(step) = lookup.steps.last_mut() {
        step.lines.push(line.number);
    }
}

fn field(line: &Line) -> Field {
    let part = || line.after("uri-component").map(str::to_owned);
    let unknown = || Field::Unknown(line.rest(3).join(" "));
    match (line.word(3), line.word(4)) {
        ("request-uri", "uri-component") => part().map_or_else(unknown, Field::RequestUri),
        ("header", name) => part().map_or_else(unknown, |part| Field::Header { name: field_name(name), part }),
        ("field", "in-network") | ("in-network", _) => Field::InNetwork,
        ("field", "remote-ip-address" | "remote-ip") => Field::RemoteIp,
        ("field", "local-ip-address" | "local-ip") => Field::LocalIp,
        _ => unknown(),
    }
}

/// `uri-component update request-uri user|host ... REPLACEMENT`; all other edits have no counterpart.
fn edit(line: &Line) -> Option<Edit> {
    if line.negated || !line.starts(&["uri-component", "update", "request-uri"]) || line.rest(4).len() != 2 {
        return None;
    }
    let is_host = match line.word(3) {
        "user" | "phone" => false,
        "host" => true,
        _ => return None,
    };
    let pattern = (line.word(4) != "all").then(|| line.word(4).to_owned());
    Some(Edit { line: line.number, is_host, pattern, replacement: line.word(5).to_owned() })
}

fn advice_for_edit(line: &Line) -> &'static str {
    match line.word(0) {
        "uri-component" if line.word(2) == "request-uri" => "a route rewrites the request-URI's user and host only",
        "sip-to-tel" | "tel-to-sip" | "uri-conversion" => "URIs keep their scheme: let the sender write sip:",
        _ => "headers go through as they came: change them at the SBC or at the destination",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_cidr() {
        let of = |text: &str| network(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("192.0.2.7").as_deref(), Some("192.0.2.7/32"));
        assert_eq!(of("192.0.2.0/24").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(of("198.51.100.0 255.255.255.128").as_deref(), Some("198.51.100.0/25"));
        assert_eq!(of("2001:db8::1").as_deref(), Some("2001:db8::1/128"));
        for wrong in ["192.0.2.0/33", "192.0.2.*", "192.0.2.0 255.0.255.0", "x"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_of_fields_are_the_rfcs() {
        assert_eq!(field_name("p-asserted-identity"), "P-Asserted-Identity");
        assert_eq!(field_name("DIVERSION"), "Diversion");
        assert_eq!(field_name("X-MyHeader"), "X-MyHeader");
        assert_eq!(field_name("paid"), "P-Asserted-Identity");
    }
}
