//! Listeners, server groups and who may send.

use std::collections::HashSet;
use std::net::IpAddr;

use super::lexer::shortened;
use super::model::{Cusp, Destination, Group, Ping, RouteGroup, Test};
use super::read::is_host_name;
use super::target::{Action, Element, Ferric, Heartbeat, Listener, ServerGroup};
use crate::import::report::{Fate, Report};

/// How often an element that is up is probed where CUSP did so only while it was down.
const REACTIVE_UP_MS: u64 = 30_000;
/// Shortest and longest pause between heartbeats.
const LEAST_INTERVAL_MS: u64 = 100;
const MOST_INTERVAL_MS: u64 = 86_400_000;
/// Most characters of a name.
const MOST_NAME: usize = 80;
/// Longest wait for an answer: timer B.
const LEAST_TIMEOUT_MS: u64 = 50;
const MOST_TIMEOUT_MS: u64 = 32_000;

pub(super) fn listeners(cusp: &Cusp, report: &mut Report) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    let is_datagram = |transport: &str| transport == "udp";
    for listen in &cusp.listens {
        let what = format!("listener of network {}", listen.network);
        let host = match &listen.ip {
            Some(ip) if ip.contains(':') => format!("[{ip}]"),
            Some(ip) => ip.clone(),
            None => "0.0.0.0".to_owned(),
        };
        let listener = Listener {
            line: listen.line,
            network: listen.network.clone(),
            transport: listen.transport.clone(),
            address: format!("{host}:{}", listen.port),
        };
        let same = |other: &&Listener| {
            other.address == listener.address && is_datagram(&other.transport) == is_datagram(&listener.transport)
        };
        match listeners.iter().find(same) {
            Some(other) if other.name() == listener.name() => {
                report.add(Fate::NotNeeded, &[listen.line], what, "the same listener stands above");
                continue;
            }
            Some(_) => {
                report.add(Fate::LeftOut, &[listen.line], what, "TCP and TLS cannot share a port: give it another");
                continue;
            }
            None => {}
        }
        match listen.ip {
            Some(_) => report.add(Fate::Carried, &[listen.line], what, ""),
            None => {
                let advice = "no address is named: write the node's, here and in routes that name the listener, so that Via carries it";
                report.add(Fate::Changed, &[listen.line], what, advice);
            }
        }
        if listen.transport == "tls" {
            let advice = "it stands there as a comment: give [sip.tls] a certificate and its key, then take the # away";
            report.add(Fate::LeftOut, &[listen.line], "listener for TLS", advice);
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
        report.add(
            Fate::Changed,
            &lines,
            "sip record-route",
            "not for some networks, but for all requests: proxy.record_route",
        );
    }
    lines
}

pub(super) fn groups(cusp: &Cusp, report: &mut Report) -> Vec<ServerGroup> {
    let mut groups: Vec<ServerGroup> = Vec::new();
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for group in &cusp.groups {
        let what = format!("server group {}", shortened(&group.name, MOST_NAME));
        if group.elements.is_empty() {
            let advice = "it has no elements: write them, or `dns = true` if they come from DNS SRV";
            report.add(Fate::LeftOut, &group.lines, what, advice);
            continue;
        }
        if !seen.insert((&group.name, &group.network)) {
            report.add(Fate::LeftOut, &group.lines, what, "a group of this name stands above: put both into one");
            continue;
        }
        let name = group.ours.clone();
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
            failover_codes: failover_codes(group, report),
            timeout_ms: timeout(cusp, group),
            elements: elements(cusp, group, report),
        });
    }
    groups
}

/// Gives every group and every route group a name of its own that a route can hold.
pub(super) fn name(cusp: &mut Cusp) {
    let mut taken: HashSet<String> = ["srs", "registrar", "request-uri"].map(str::to_owned).into();
    let mut own = |wanted: &str| {
        let base = shortened(&host_name(wanted), MOST_NAME).trim_end_matches('.').to_owned();
        let mut name = base.clone();
        for number in 2_u32.. {
            if taken.insert(name.to_ascii_lowercase()) {
                break;
            }
            name = format!("{base}-{number}");
        }
        name
    };
    let mut names: HashSet<&str> = HashSet::new();
    let mut ours = Vec::new();
    for group in &cusp.groups {
        let is_first = names.insert(&group.name);
        ours.push(if is_first { own(&group.name) } else { own(&format!("{}.{}", group.name, group.network)) });
    }
    for (group, name) in cusp.groups.iter_mut().zip(ours) {
        group.ours = name;
    }
    for group in &mut cusp.route_groups {
        group.ours = own(&group.name);
    }
}

fn host_name(name: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(fine).collect();
    let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
    if labels.is_empty() { "unnamed".to_owned() } else { labels.join(".") }
}

fn failover_codes(group: &Group, report: &mut Report) -> Option<Vec<u16>> {
    if group.failover_codes.is_none() {
        let advice = "no failover-resp-codes are named: those of Ferric are used, 408, 500 and 502 to 504";
        report.add(
            Fate::Changed,
            group.lines.get(..1).unwrap_or_default(),
            format!("failover of server group {}", group.ours),
            advice,
        );
    }
    group.failover_codes.clone()
}

fn balance<'a>(cusp: &'a Cusp, group: &'a Group) -> &'a str {
    match group.balance.as_ref().map(|(_, kind)| kind.as_str()) {
        Some("global") | None => cusp.global_balance.as_deref().unwrap_or("call-id"),
        Some(kind) => kind,
    }
}

fn policy(cusp: &Cusp, group: &Group, report: &mut Report) -> &'static str {
    let line = group
        .balance
        .as_ref()
        .map_or_else(|| group.lines.first().copied(), |(line, _)| Some(*line))
        .unwrap_or_default();
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
    report.add(Fate::Carried, &[options.line], "server-group sip ping-options", "");
    // Intervals that a heartbeat takes.
    let every = |up: u64, down: u64, adaptive| Heartbeat::Every {
        up_ms: up.clamp(LEAST_INTERVAL_MS, MOST_INTERVAL_MS),
        down_ms: down.clamp(LEAST_INTERVAL_MS, MOST_INTERVAL_MS),
        adaptive,
    };
    match options.kind {
        Some((at, Ping::Proactive(interval))) => {
            report.add(Fate::Changed, &[at], "ping-type proactive", misses);
            every(interval, interval, false)
        }
        Some((at, Ping::Adaptive { up, down })) => {
            report.add(Fate::Changed, &[at], "ping-type adaptive", misses);
            every(up, down, false)
        }
        Some((at, Ping::Reactive(down))) => {
            let advice =
                format!("elements that are up and idle are probed too, every {} s; {misses}", REACTIVE_UP_MS / 1_000);
            report.add(Fate::Changed, &[at], "ping-type reactive", advice);
            every(REACTIVE_UP_MS.max(down), down, true)
        }
        None => {
            report.add(
                Fate::Changed,
                &[options.line],
                "ping-options without ping-type",
                "elements are probed every 5 s",
            );
            Heartbeat::Default
        }
    }
}

/// Silence for as long as CUSP sends an INVITE again: T1 * (2^(n+1) - 1).
fn timeout(cusp: &Cusp, group: &Group) -> Option<u64> {
    let network = cusp.networks.iter().find(|network| network.name == group.network)?;
    let count = network.invite_retransmits?.min(7);
    let t1 = network.t1_ms.unwrap_or(500).clamp(1, 4_000);
    Some((t1 * ((1 << (count + 1)) - 1)).clamp(LEAST_TIMEOUT_MS, MOST_TIMEOUT_MS))
}

/// The group that a destination names.
fn named<'a>(cusp: &'a Cusp, destination: &Destination) -> Option<&'a Group> {
    let named = || cusp.groups.iter().filter(|group| group.name == destination.host && !group.elements.is_empty());
    let found = named().find(|group| group.network == destination.network).or_else(|| named().next());
    found.filter(|_| destination.port.is_none())
}

/// Where a destination leads; what is neither a group nor an address leads nowhere.
pub(super) fn action(cusp: &Cusp, destination: &Destination, line: u32, report: &mut Report) -> Option<Action> {
    if let Some(group) = named(cusp, destination) {
        return Some(Action::To(group.ours.clone()));
    }
    if !is_host_name(&destination.host) {
        return None;
    }
    if destination.host.parse::<IpAddr>().is_err() {
        let advice = "no server group with elements has this name: it is looked up in DNS";
        report.add(Fate::Changed, &[line], format!("target-destination {}", destination.host), advice);
    }
    Some(Action::To(format!("sip:{}", address(destination, false))))
}

fn address(destination: &Destination, always_port: bool) -> String {
    let is_address = destination.host.parse::<IpAddr>().is_ok();
    let port = destination.port.or((is_address || always_port).then_some(5_060));
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let transport =
        destination.transport.as_ref().map_or_else(String::new, |transport| format!(";transport={transport}"));
    format!("{}{port}{transport}", destination.host)
}

/// A route group as one server group: what it tries first gets the first priorities, and so on.
pub(super) fn route_group(
    cusp: &Cusp,
    groups: &[ServerGroup],
    wanted: &RouteGroup,
    report: &mut Report,
) -> Option<ServerGroup> {
    let what = format!("route group {}", shortened(&wanted.name, MOST_NAME));
    let mut sorted: Vec<_> = wanted.elements.iter().collect();
    sorted.sort_by_key(|element| std::cmp::Reverse(element.q));
    let (mut elements, mut codes, mut members): (Vec<Element>, Vec<u16>, Vec<&ServerGroup>) =
        (Vec::new(), Vec::new(), Vec::new());
    let (mut base, mut used, mut q) = (0_u16, 0_u16, None);
    for element in sorted {
        if q != Some(element.q) {
            base = used;
        }
        q = Some(element.q);
        codes.extend(&element.failover_codes);
        let member =
            named(cusp, &element.destination).and_then(|group| groups.iter().find(|other| other.name == group.ours));
        let one = [Element {
            address: address(&element.destination, true),
            priority: 1,
            weight: element.weight.unwrap_or(1),
        }];
        if let Some(member) = member {
            codes.extend(member.failover_codes.iter().flatten());
            members.push(member);
        } else if !is_host_name(&element.destination.host) {
            report.add(Fate::LeftOut, &wanted.lines, what.clone(), "a member is neither a server group nor an address");
            continue;
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
    let codes = (!codes.is_empty() || members.iter().all(|member| member.failover_codes.is_some())).then_some(codes);
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
        name: wanted.ours.clone(),
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
