//! Listeners, server groups and who may send.

use std::net::IpAddr;

use super::model::{Cusp, Destination, Group, Ping, RouteGroup, Test};
use super::target::{Action, Element, Ferric, Heartbeat, Listener, ServerGroup};
use crate::import::report::{Fate, Report};

/// How often an element that is up is probed where CUSP did so only while it was down.
const REACTIVE_UP_MS: u64 = 30_000;
/// Longest wait for an answer: timer B.
const MOST_TIMEOUT_MS: u64 = 32_000;

pub(super) fn listeners(cusp: &Cusp, report: &mut Report) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for listen in &cusp.listens {
        let what = format!("listener of network {}", listen.network);
        let host = match &listen.ip {
            Some(ip) if ip.contains(':') => format!("[{ip}]"),
            Some(ip) => ip.clone(),
            None => "0.0.0.0".to_owned(),
        };
        let (fate, advice) = match listen.ip {
            Some(_) => (Fate::Carried, ""),
            None => (Fate::Changed, "no address is named: write the node's, so that Via and Contact carry it"),
        };
        let listener = Listener {
            line: listen.line,
            network: listen.network.clone(),
            transport: listen.transport.clone(),
            address: format!("{host}:{}", listen.port),
        };
        if listeners.iter().any(|other| other.name() == listener.name()) {
            report.add(Fate::NotNeeded, &[listen.line], what, "the same listener stands above");
            continue;
        }
        report.add(fate, &[listen.line], what, advice);
        if listen.transport == "tls" {
            let advice = "TLS needs [sip.tls] with certificate and private_key, and `client_ca` for mutual TLS";
            report.add(Fate::Changed, &[listen.line], "listener for TLS", advice);
        }
        listeners.push(listener);
    }
    listeners
}

pub(super) fn record_route(cusp: &Cusp, report: &mut Report) -> Vec<u32> {
    let lines: Vec<u32> = cusp.record_routes.iter().map(|(line, _)| *line).collect();
    let all = cusp.networks.iter().all(|network| cusp.record_routes.iter().any(|(_, name)| *name == network.name));
    if !lines.is_empty() && all {
        report.add(Fate::Carried, &lines, "sip record-route", "");
    } else if !lines.is_empty() {
        report.add(Fate::Changed, &lines, "sip record-route", "not for some networks, but for all requests: proxy.record_route");
    }
    lines
}

pub(super) fn groups(cusp: &Cusp, report: &mut Report) -> Vec<ServerGroup> {
    let mut groups: Vec<ServerGroup> = Vec::new();
    for group in &cusp.groups {
        let what = format!("server group {}", group.name);
        if group.elements.is_empty() {
            let advice = "it has no elements: write them, or `dns = true` if they come from DNS SRV";
            report.add(Fate::LeftOut, &group.lines, what, advice);
            continue;
        }
        let name = name_of(cusp, group);
        if groups.iter().any(|other| other.name == name) {
            report.add(Fate::LeftOut, &group.lines, what, "a group of this name stands above");
            continue;
        }
        if name != group.name {
            report.add(Fate::Changed, &group.lines, what.clone(), format!("it is named {name} here"));
        }
        report.add(Fate::Carried, &group.lines, what, "");
        groups.push(ServerGroup {
            lines: group.lines.clone(),
            from: format!("server-group sip group {} {}", group.name, group.network),
            name,
            policy: policy(cusp, group, report),
            heartbeat: heartbeat(cusp, group, report),
            failover_codes: group.failover_codes.clone(),
            timeout_ms: timeout(cusp, group),
            elements: elements(cusp, group, report),
        });
    }
    groups
}

/// A host name; with its network where two groups share their name.
fn name_of(cusp: &Cusp, group: &Group) -> String {
    let first = cusp.groups.iter().find(|other| other.name == group.name).is_none_or(|first| std::ptr::eq(first, group));
    let name = if first { group.name.clone() } else { format!("{}.{}", group.name, group.network) };
    host_name(&name)
}

fn host_name(name: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(fine).collect();
    let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
    if labels.is_empty() { "unnamed".to_owned() } else { labels.join(".") }
}

fn balance<'a>(cusp: &'a Cusp, group: &'a Group) -> &'a str {
    match group.balance.as_ref().map(|(_, kind)| kind.as_str()) {
        Some("global") | None => cusp.global_balance.as_deref().unwrap_or("call-id"),
        Some(kind) => kind,
    }
}

fn policy(cusp: &Cusp, group: &Group, report: &mut Report) -> &'static str {
    let line = group.balance.as_ref().map_or_else(|| group.lines.first().copied(), |(line, _)| Some(*line)).unwrap_or_default();
    match balance(cusp, group) {
        "call-id" => "call-id-hash",
        "weight" | "highest-q" => "priority-weight",
        kind @ ("request-uri" | "to-uri") => {
            let advice = "shares by the Call-ID: evenly too, but two calls to one number may go to two elements";
            report.add(Fate::Changed, &[line], format!("lbtype {kind}"), advice);
            "call-id-hash"
        }
        kind => {
            report.add(Fate::Changed, &[line], format!("lbtype {kind}"), "not known: shares by priority and weight");
            "priority-weight"
        }
    }
}

/// Highest q first: 1, 2, ... Under `highest-q` the first element named takes all, so each has a priority of its own.
fn elements(cusp: &Cusp, group: &Group, report: &mut Report) -> Vec<Element> {
    let in_order = balance(cusp, group) == "highest-q";
    let mut sorted: Vec<_> = group.elements.iter().collect();
    sorted.sort_by_key(|element| std::cmp::Reverse(element.q));
    let (mut elements, mut priority, mut q): (Vec<Element>, u16, Option<u16>) = (Vec::new(), 0, None);
    for element in sorted {
        let host = if element.host.contains(':') && !element.host.starts_with('[') {
            format!("[{}]", element.host)
        } else {
            element.host.clone()
        };
        let address = format!("{host}:{};transport={}", element.port, element.transport);
        if elements.iter().any(|other| other.address == address) {
            report.add(Fate::NotNeeded, &[element.line], format!("element {address}"), "the same element stands above");
            continue;
        }
        if in_order || q != Some(element.q) {
            priority = priority.saturating_add(1);
        }
        q = Some(element.q);
        elements.push(Element { address, priority, weight: element.weight });
    }
    elements
}

fn heartbeat(cusp: &Cusp, group: &Group, report: &mut Report) -> Heartbeat {
    let (line, is_on) = group.ping.unwrap_or((group.lines.first().copied().unwrap_or_default(), true));
    if !is_on || cusp.global_ping == Some(false) {
        return Heartbeat::Off;
    }
    let Some(options) = cusp.pings.iter().find(|options| options.network == group.network) else {
        let advice = "CUSP does not ping without ping-options for the network; here elements are probed every 5 s. Not wanted: heartbeat = false";
        report.add(Fate::Changed, &[line], "ping of a server group", advice);
        return Heartbeat::Default;
    };
    let misses = "three missed heartbeats in a row take an element down, and silence to a request at once";
    match options.kind {
        Some(Ping::Proactive(every)) => {
            report.add(Fate::Changed, &[options.line], "ping-type proactive", misses);
            Heartbeat::Every { up_ms: every, down_ms: every, adaptive: false }
        }
        Some(Ping::Adaptive { up, down }) => {
            report.add(Fate::Changed, &[options.line], "ping-type adaptive", misses);
            Heartbeat::Every { up_ms: up, down_ms: down, adaptive: false }
        }
        Some(Ping::Reactive(down)) => {
            let advice = format!("elements that are up and idle are probed too, every {} s; {misses}", REACTIVE_UP_MS / 1_000);
            report.add(Fate::Changed, &[options.line], "ping-type reactive", advice);
            Heartbeat::Every { up_ms: REACTIVE_UP_MS.max(down), down_ms: down, adaptive: true }
        }
        None => {
            report.add(Fate::Changed, &[options.line], "ping-options without ping-type", "elements are probed every 5 s");
            Heartbeat::Default
        }
    }
}

/// Silence for as long as CUSP sends an INVITE again: T1 * (2^(n+1) - 1).
fn timeout(cusp: &Cusp, group: &Group) -> Option<u64> {
    let network = cusp.networks.iter().find(|network| network.name == group.network)?;
    let count = network.invite_retransmits?.min(7);
    let t1 = network.t1_ms.unwrap_or(500).clamp(1, 4_000);
    Some((t1 * ((1 << (count + 1)) - 1)).min(MOST_TIMEOUT_MS))
}

/// The group that a destination names.
fn named<'a>(cusp: &'a Cusp, destination: &Destination) -> Option<&'a Group> {
    let named = || cusp.groups.iter().filter(|group| group.name == destination.host && !group.elements.is_empty());
    named().find(|group| group.network == destination.network).or_else(|| named().next())
}

/// Where a destination leads.
pub(super) fn action(cusp: &Cusp, destination: &Destination, line: u32, report: &mut Report) -> Action {
    if destination.port.is_none() && let Some(group) = named(cusp, destination) {
        return Action::To(name_of(cusp, group));
    }
    if destination.host.parse::<IpAddr>().is_err() {
        let advice = "no server group with elements has this name: it is looked up in DNS";
        report.add(Fate::Changed, &[line], format!("target-destination {}", destination.host), advice);
    }
    Action::To(format!("sip:{}", address(destination, false)))
}

fn address(destination: &Destination, always_port: bool) -> String {
    let is_address = destination.host.parse::<IpAddr>().is_ok();
    let port = destination.port.or((is_address || always_port).then_some(5_060));
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let transport = destination.transport.as_ref().map_or_else(String::new, |transport| format!(";transport={transport}"));
    format!("{}{port}{transport}", destination.host)
}

/// The name of the server group that a route group became.
pub(super) fn route_group_name(cusp: &Cusp, name: &str) -> String {
    let taken = cusp.groups.iter().any(|group| group.name == name);
    host_name(&if taken { format!("{name}-routes") } else { name.to_owned() })
}

/// A route group as one server group: what it tries first gets the first priorities, and so on.
pub(super) fn route_group(cusp: &Cusp, groups: &[ServerGroup], wanted: &RouteGroup, report: &mut Report) -> Option<ServerGroup> {
    let what = format!("route group {}", wanted.name);
    let mut sorted: Vec<_> = wanted.elements.iter().collect();
    sorted.sort_by_key(|element| std::cmp::Reverse(element.q));
    let (mut elements, mut codes, mut members): (Vec<Element>, Vec<u16>, Vec<&ServerGroup>) = (Vec::new(), Vec::new(), Vec::new());
    let (mut base, mut used, mut q) = (0_u16, 0_u16, None);
    for element in sorted {
        if q != Some(element.q) {
            base = used;
        }
        q = Some(element.q);
        codes.extend(&element.failover_codes);
        let member = named(cusp, &element.destination).filter(|_| element.destination.port.is_none());
        let member = member.and_then(|group| groups.iter().find(|other| other.name == name_of(cusp, group)));
        let one = [Element { address: address(&element.destination, true), priority: 1, weight: element.weight.unwrap_or(1) }];
        if let Some(member) = member {
            codes.extend(&member.failover_codes);
            members.push(member);
        }
        for element in member.map_or(one.as_slice(), |member| &member.elements) {
            if elements.iter().any(|other| other.address == element.address) {
                continue;
            }
            let priority = base.saturating_add(element.priority);
            used = used.max(priority);
            elements.push(Element { priority, ..element.clone() });
        }
    }
    let first = elements.first().map(|element| element.address.clone());
    if first.is_none() {
        report.add(Fate::LeftOut, &wanted.lines, what, "it has no destinations that are understood");
        return None;
    }
    codes.sort_unstable();
    codes.dedup();
    let policy = members.first().map_or("priority-weight", |member| member.policy);
    let mixed = members.iter().any(|member| member.policy != policy);
    let advice = if mixed {
        "one server group with the elements of all, in the order of q; its members shared in different ways: see its policy"
    } else {
        "one server group with the elements of all its members, in the order of q; each is probed here again"
    };
    report.add(Fate::Changed, &wanted.lines, what, advice);
    Some(ServerGroup {
        lines: wanted.lines.clone(),
        from: format!("route group {}", wanted.name),
        name: route_group_name(cusp, &wanted.name),
        policy: if mixed { "priority-weight" } else { policy },
        heartbeat: members.first().map_or(Heartbeat::Default, |member| member.heartbeat),
        failover_codes: codes,
        timeout_ms: members.first().and_then(|member| member.timeout_ms),
        elements,
    })
}

/// Networks beside loopback and the private ones that send, as far as the configuration names them.
pub(super) fn trust(cusp: &Cusp, ferric: &mut Ferric) {
    let mut add = |source: String, line: u32| match ferric.trust.iter_mut().find(|(other, _)| *other == source) {
        Some((_, lines)) => lines.push(line),
        None => ferric.trust.push((source, vec![line])),
    };
    for element in cusp.groups.iter().flat_map(|group| &group.elements) {
        match element.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if !(ip.is_private() || ip.is_loopback()) => add(format!("{ip}/32"), element.line),
            Ok(IpAddr::V6(ip)) if !ip.is_loopback() => add(format!("{ip}/128"), element.line),
            _ => {}
        }
    }
    for (line, test) in cusp.conditions.iter().flat_map(|condition| condition.sequences.iter().flatten()) {
        if let Test::RemoteIp(network) = test {
            add(network.clone(), *line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_host_names() {
        assert_eq!(host_name("cucm.example.com"), "cucm.example.com");
        assert_eq!(host_name("my group/1"), "my-group-1");
        assert_eq!(host_name("a..b."), "a.b");
        assert_eq!(host_name(""), "unnamed");
    }
}
