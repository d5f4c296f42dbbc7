//! Sections of the contract that this version checks and does not act on yet:
//! `[proxy]`, `[cluster]`, `[homer]`. A mistake in them shows now and not on the
//! day they begin to matter; that they have no effect is said as a warning.

use std::net::IpAddr;
use std::path::Path;

use super::check;
use super::document::{Collector, Section};
use super::sections::{DURATION, address};
use super::units::parse_duration;

const POLICIES: [&str; 4] = ["priority-weight", "call-id-hash", "least-loaded", "round-robin"];
const HOST_PORT: &str = "a host and a port, as in \"10.0.0.9:9060\" or \"sip1.example.com:5060\"";

pub(super) fn read(root: &mut Section<'_, '_>, folder: &Path, warnings: &mut Vec<String>, errors: &mut Collector<'_>) {
    let sections =
        [("proxy", proxy as fn(Section<'_, '_>, &Path, &mut Collector<'_>)), ("cluster", cluster), ("homer", homer)];
    for (name, read) in sections {
        let section = root.section(name, errors);
        if section.is_present() {
            warnings.push(format!("[{name}] is accepted and not used by this version"));
            read(section, folder, errors);
        }
    }
}

fn proxy(mut section: Section<'_, '_>, folder: &Path, errors: &mut Collector<'_>) {
    section.flag("record_route", errors);
    let mut groups: Vec<String> = Vec::new();
    for mut group in section.sections("server_group", errors) {
        let name = group.parsed("name", "a host name, as in \"recorders.example.com\"", errors, host);
        group.required("name", "a server group is known by its name", errors);
        if let Some(name) = name {
            if groups.contains(&name) {
                errors.complain(&group.span, format!("two server groups are named \"{name}\""));
            } else {
                groups.push(name);
            }
        }
        server_group(group, errors);
    }
    for mut route in section.sections("route", errors) {
        let mut wanted = route.section("match", errors);
        wanted.text("method", errors);
        wanted.text("user", errors);
        wanted.flag("siprec", errors);
        wanted.finish(errors);
        if let Some((to, span)) = route.text("to", errors)
            && !groups.contains(&to)
        {
            let known =
                if groups.is_empty() { "there is none".to_owned() } else { format!("there are {}", groups.join(", ")) };
            errors.complain(&span, format!("no [[proxy.server_group]] is named \"{to}\"; {known}"));
        }
        route.required("to", "name the server group that takes these requests", errors);
        route.finish(errors);
    }
    let mut registrar = section.section("registrar", errors);
    registrar.texts("domains", errors);
    check::optional_file(&mut registrar, "users", folder, errors);
    registrar.parsed("max_expires", DURATION, errors, parse_duration);
    registrar.finish(errors);
    section.finish(errors);
}

fn server_group(mut group: Section<'_, '_>, errors: &mut Collector<'_>) {
    let right = "\"priority-weight\", \"call-id-hash\", \"least-loaded\" or \"round-robin\"";
    group.parsed("policy", right, errors, |text| POLICIES.contains(&text).then_some(()));
    if let Some(value) = group.get("heartbeat") {
        if value.get_ref().as_table().is_some() {
            let mut heartbeat = group.section("heartbeat", errors);
            heartbeat.parsed("up", DURATION, errors, parse_duration);
            heartbeat.parsed("down", DURATION, errors, parse_duration);
            heartbeat.number("misses", 1, 100, errors);
            heartbeat.finish(errors);
        } else if value.get_ref().as_bool() != Some(false) {
            let right = "{ up = \"5s\", down = \"5s\", misses = 3 } or false";
            errors.complain(&value.span(), format!("proxy.server_group.heartbeat is {right}"));
        }
    }
    group.numbers("failover_codes", 300, 699, errors);
    let is_dns = group.flag("dns", errors) == Some(true);
    let mut known: Vec<String> = Vec::new();
    for mut element in group.sections("element", errors) {
        let right = "an address with an optional transport, as in \"10.0.0.11:5060;transport=tcp\"";
        if let Some(address) = element.parsed("address", right, errors, element_address) {
            if known.contains(&address) {
                errors.complain(&element.span, format!("two elements have the address {address}"));
            }
            known.push(address);
        }
        element.required("address", "where is this element?", errors);
        element.number("priority", 0, 65_535, errors);
        element.number("weight", 0, 65_535, errors);
        element.finish(errors);
    }
    match (is_dns, group.get("element").is_some()) {
        (true, true) => errors.complain(&group.span, "a server group has elements or dns = true, not both"),
        (false, false) => group.missing("element", "list elements, or write dns = true", errors),
        _ => {}
    }
    group.finish(errors);
}

fn cluster(mut section: Section<'_, '_>, folder: &Path, errors: &mut Collector<'_>) {
    for (text, span) in section.texts("nats", errors).unwrap_or_default() {
        let url = url::Url::parse(&text).ok().filter(|url| ["nats", "tls"].contains(&url.scheme()));
        if url.is_none_or(|url| url.host_str().is_none_or(str::is_empty)) {
            errors
                .complain(&span, format!("cluster.nats: \"{text}\" is not understood: write \"nats://10.0.0.5:4222\""));
        }
    }
    address(&mut section, "quic", errors);
    check::optional_file(&mut section, "ca", folder, errors);
    let has_certificate = check::optional_file(&mut section, "certificate", folder, errors).is_some();
    let has_key = check::optional_file(&mut section, "private_key", folder, errors).is_some();
    if has_certificate && !has_key {
        section.required("private_key", "a certificate needs its key", errors);
    }
    section.finish(errors);
}

fn homer(mut section: Section<'_, '_>, _: &Path, errors: &mut Collector<'_>) {
    section.parsed("hep", HOST_PORT, errors, |text| host_port(text).then_some(()));
    section.required("hep", "where does Homer listen?", errors);
    section.finish(errors);
}

fn element_address(text: &str) -> Option<String> {
    let (address, transport) = match text.split_once(';') {
        Some((address, parameter)) => (address, Some(parameter.strip_prefix("transport=")?)),
        None => (text, None),
    };
    let fine = host_port(address) && transport.is_none_or(|transport| ["udp", "tcp", "tls"].contains(&transport));
    fine.then(|| text.to_owned())
}

/// A host name of letters, digits, dots and dashes.
fn host(text: &str) -> Option<String> {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.trim_end_matches('.').split('.').all(label).then(|| text.to_owned())
}

/// `10.0.0.5:5060`, `[2001:db8::5]:5060`, `sip1.example.com:5060`.
pub(super) fn host_port(text: &str) -> bool {
    let Some((name, port)) = text.rsplit_once(':') else { return false };
    let is_v6 = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .is_some_and(|name| name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()));
    (is_v6 || host(name).is_some()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_texts() {
        for right in ["10.0.0.5:5060", "[2001:db8::5]:5060", "sip1.example.com:5060", "localhost:1"] {
            assert!(host_port(right), "{right}");
        }
        for wrong in [
            "10.0.0.5",
            "a b:5060",
            "2001:db8::5:5060",
            "host:0",
            "host:70000",
            ":5060",
            "a..b:1",
            "host:5060\r\nVia: x",
        ] {
            assert!(!host_port(wrong), "{wrong}");
        }
        assert!(element_address("10.0.0.11:5060;transport=tcp").is_some());
        assert!(element_address("10.0.0.11:5060;transport=sctp").is_none());
        assert!(element_address("10.0.0.11:5060;lr").is_none());
    }
}
