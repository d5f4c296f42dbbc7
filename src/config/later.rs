//! Sections of the contract that this version checks and does not act on yet:
//! `[cluster]`. A mistake in it shows now and not on the day it begins to matter;
//! that it has no effect is said as a warning.

use std::net::IpAddr;
use std::path::Path;

use super::check;
use super::document::{Collector, Section};
use super::proxy::host;
use super::sections::address;

pub(super) fn read(root: &mut Section<'_, '_>, folder: &Path, warnings: &mut Vec<String>, errors: &mut Collector<'_>) {
    let sections = [("cluster", cluster as fn(Section<'_, '_>, &Path, &mut Collector<'_>))];
    for (name, read) in sections {
        let section = root.section(name, errors);
        if section.is_present() {
            warnings.push(format!("[{name}] is accepted and not used by this version"));
            read(section, folder, errors);
        }
    }
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
    }
}
