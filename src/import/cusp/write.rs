//! The result as TOML, with the lines of the source beside each part.

use std::fmt::Write as _;

use super::target::{Action, Ferric, Heartbeat, Match, Rewrite, Route, ServerGroup};
use crate::import::report::{Report, ranges};

/// The one file that the result names; all else is in it.
pub(super) const KEY_FILE: &str = "default.public.pem";
/// Where the API listens by default.
const CONSOLE_PORT: u16 = 8_080;
/// Senders that are trusted without any `[[sip.trust]]`, and no longer once there is one.
const USUAL: [&str; 4] = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];

pub(super) fn write(ferric: &Ferric, source: &str, report: &Report) -> String {
    let mut text = String::new();
    let source: String = source.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    line(&mut text, format_args!("# Made by `ferric import cusp` from {source}."));
    line(
        &mut text,
        format_args!(
            "# Numbers are lines of that file. Read it before it carries calls; `ferric check --config` says what it lacks."
        ),
    );
    line(
        &mut text,
        format_args!("# To record, put before all other routes one with match = {{ siprec = true }} and to = \"srs\"."),
    );
    line(&mut text, format_args!("#"));
    for told in report.to_string().lines() {
        line(&mut text, format_args!("# {}", comment(told)));
    }
    line(
        &mut text,
        format_args!(
            "\n# Recordings need somebody's key: `ferric keys new --out . --tenant default` makes {KEY_FILE}."
        ),
    );
    line(
        &mut text,
        format_args!("[[tenant]]\nname = \"default\"\npublic_keys = [\"{KEY_FILE}\"]\nstore = \"file://store\""),
    );
    for listener in &ferric.listeners {
        // Without a certificate a configuration with a TLS listener is refused.
        let off = if listener.transport == "tls" { "# " } else { "" };
        line(
            &mut text,
            format_args!("\n{off}[[sip.listen]]  # line {}: network {}", listener.line, comment(&listener.network)),
        );
        line(&mut text, format_args!("{off}transport = {}", quoted(&listener.transport)));
        line(&mut text, format_args!("{off}address = {}", quoted(&listener.address)));
    }
    if ferric.listeners.iter().any(|listener| listener.transport == "tls") {
        line(&mut text, format_args!("# [sip.tls]\n# certificate = \"sip.crt\"\n# private_key = \"sip.key\""));
    }
    // The console keeps away from the ports of SIP.
    let takes = |port: u16| ferric.listeners.iter().any(|listener| listener.address.ends_with(&format!(":{port}")));
    if takes(CONSOLE_PORT)
        && let Some(port) = (CONSOLE_PORT + 1..u16::MAX).find(|port| !takes(*port))
    {
        line(&mut text, format_args!("\n[console]\nlisten = \"127.0.0.1:{port}\""));
    }
    if !ferric.trust.is_empty() {
        line(
            &mut text,
            format_args!(
                "\n# CUSP takes requests from anybody. These may send; add every SBC and every proxy that does."
            ),
        );
        for usual in USUAL {
            line(&mut text, format_args!("[[sip.trust]]\nsource = {}", quoted(usual)));
        }
        for (source, lines) in &ferric.trust {
            line(
                &mut text,
                format_args!("[[sip.trust]]  # line {}\nsource = {}", ranges(&sorted(lines)), quoted(source)),
            );
        }
    }
    line(&mut text, format_args!("\n[proxy]"));
    if ferric.record_route.is_empty() {
        line(&mut text, format_args!("record_route = false"));
    } else {
        line(&mut text, format_args!("record_route = true  # line {}", ranges(&sorted(&ferric.record_route))));
    }
    if let Some((at, rate)) = ferric.calls_per_second {
        line(&mut text, format_args!("calls_per_second = {rate}  # line {at}"));
    }
    for group in &ferric.groups {
        server_group(&mut text, group);
    }
    for one in &ferric.routes {
        route(&mut text, one);
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn server_group(text: &mut String, group: &ServerGroup) {
    line(text, format_args!("\n# line {}: {}", ranges(&sorted(&group.lines)), comment(&group.from)));
    line(
        text,
        format_args!("[[proxy.server_group]]\nname = {}\npolicy = {}", quoted(&group.name), quoted(group.policy)),
    );
    match group.heartbeat {
        Heartbeat::Default => {}
        Heartbeat::Off => line(text, format_args!("heartbeat = false")),
        Heartbeat::Every { up_ms, down_ms, adaptive } => {
            let (up, down) = (duration(up_ms), duration(down_ms));
            line(text, format_args!("heartbeat = {{ up = {up}, down = {down}, misses = 3, adaptive = {adaptive} }}"));
        }
    }
    if let Some(codes) = &group.failover_codes {
        let codes: Vec<String> = codes.iter().map(u16::to_string).collect();
        line(text, format_args!("failover_codes = [{}]", codes.join(", ")));
    }
    if let Some(timeout_ms) = group.timeout_ms {
        line(text, format_args!("timeout = {}", duration(timeout_ms)));
    }
    line(text, format_args!("element = ["));
    for element in &group.elements {
        let address = quoted(&element.address);
        line(
            text,
            format_args!("  {{ address = {address}, priority = {}, weight = {} }},", element.priority, element.weight),
        );
    }
    line(text, format_args!("]"));
}

fn route(text: &mut String, route: &Route) {
    line(text, format_args!("\n# line {}: {}", ranges(&sorted(&route.lines)), comment(&route.from)));
    line(text, format_args!("[[proxy.route]]\nname = {}", quoted(&route.name)));
    line(text, format_args!("match = {}", wanted(&route.wanted)));
    match &route.action {
        Action::To(to) => line(text, format_args!("to = {}", quoted(to))),
        Action::Reject(code) => {
            line(text, format_args!("reject = {{ code = {code}, reason = {} }}", quoted(reason(*code))));
        }
        Action::Unknown => {
            line(
                text,
                format_args!("reject = {{ code = 500, reason = \"Route Not Carried Over\" }}  # write where it goes"),
            );
        }
    }
    if let Some(rewrite) = rewrite(&route.rewrite) {
        line(text, format_args!("rewrite = {rewrite}"));
    }
}

fn wanted(wanted: &Match) -> String {
    let mut parts = Vec::new();
    let mut add =
        |name: &str, value: Option<&str>| parts.extend(value.map(|value| format!("{name} = {}", quoted(value))));
    let user = wanted.user_regex();
    add("method", wanted.method.as_deref());
    add("user", user.as_deref());
    add("user_prefix", wanted.user_prefix());
    add("domain", wanted.domain.as_deref());
    add("from", wanted.from.as_deref());
    add("source", wanted.source.as_deref());
    add("listener", wanted.listener.as_deref());
    if let Some((name, value)) = &wanted.header {
        parts.push(format!("header = {{ name = {}, value = {} }}", quoted(name), quoted(value)));
    }
    inline(&parts)
}

fn rewrite(rewrite: &Rewrite) -> Option<String> {
    let mut parts = Vec::new();
    if let Some((strip, prefix)) = &rewrite.prefix {
        parts.push(format!("strip = {strip}"));
        if !prefix.is_empty() {
            parts.push(format!("prefix = {}", quoted(prefix)));
        }
    }
    if let Some((pattern, replace)) = &rewrite.regex {
        parts.push(format!("match = {}, replace = {}", quoted(pattern), quoted(replace)));
    }
    if let Some(host) = &rewrite.host {
        parts.push(format!("host = {}", quoted(host)));
    }
    (!parts.is_empty()).then(|| inline(&parts))
}

fn inline(parts: &[String]) -> String {
    if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) }
}

/// A basic string of TOML.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A comment stays on its line.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn duration(ms: u64) -> String {
    if ms > 0 && ms.is_multiple_of(1_000) { format!("\"{}s\"", ms / 1_000) } else { format!("\"{}ms\"", ms.max(1)) }
}

fn sorted(lines: &[u32]) -> Vec<u32> {
    let mut lines = lines.to_vec();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// The reason phrase of RFC 3261 where there is one.
fn reason(code: u16) -> &'static str {
    match code {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        480 => "Temporarily Unavailable",
        482 => "Loop Detected",
        484 => "Address Incomplete",
        486 => "Busy Here",
        488 => "Not Acceptable Here",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_those_of_toml() {
        for text in ["^\\+1(\\d*)$", "a \"b\"", "tab\tnul\u{0}", "ü"] {
            let table: toml::Table = format!("x = {}", quoted(text)).parse().unwrap_or_default();
            assert_eq!(table.get("x").and_then(toml::Value::as_str), Some(text));
        }
    }

    #[test]
    fn durations_have_the_unit_that_keeps_them_exact() {
        assert_eq!((duration(5_000).as_str(), duration(3_500).as_str()), ("\"5s\"", "\"3500ms\""));
    }
}
