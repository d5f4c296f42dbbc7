//! What differs between two configurations, in words: what a running node takes over, and what waits for a restart.

use std::fmt::Debug;

use super::proxy::Proxy;
use super::{Config, Registrar};

/// What a running node takes over: `[proxy]` and `[[sip.trust]]`.
pub fn between(old: &Config, new: &Config) -> Vec<String> {
    let mut words = Vec::new();
    let none = Proxy::default();
    let (before, after) = (old.proxy.as_ref().unwrap_or(&none), new.proxy.as_ref().unwrap_or(&none));
    for group in &after.groups {
        let name = &group.name;
        match before.groups.iter().find(|had| had.name == *name) {
            None => words.push(format!("server group {name} is new")),
            Some(had) if had != group => words.push(format!("server group {name}: {}", elements(had, group))),
            Some(_) => {}
        }
    }
    for group in before.groups.iter().filter(|had| !after.groups.iter().any(|group| group.name == had.name)) {
        words.push(format!("server group {} is gone", group.name));
    }
    let (had, has) = (before.routes.rules(), after.routes.rules());
    if differ(had, has) {
        words.push(format!("routes: {} rules, {} before", has.len(), had.len()));
    }
    let mut value = |name: &str, old: String, new: String| {
        if old != new {
            words.push(format!("{name}: {new}, {old} before"));
        }
    };
    value("proxy.record_route", before.record_route.to_string(), after.record_route.to_string());
    value("proxy.udp_mtu", before.udp_mtu.to_string(), after.udp_mtu.to_string());
    value("proxy.calls_per_second", limit(before.calls_per_second), limit(after.calls_per_second));
    value("proxy.max_open", before.max_open.to_string(), after.max_open.to_string());
    value("proxy.timeout", format!("{:?}", before.timeout), format!("{:?}", after.timeout));
    value("sip.trust", trust(old), trust(new));
    if differ(&before.registrar, &after.registrar) {
        words.push(format!("proxy.registrar: {}", registrar(&after.registrar)));
    }
    words
}

/// What a running node does not take over: all that differs from `started` elsewhere.
pub fn waiting(started: &Config, new: &Config) -> Vec<String> {
    let none = Proxy::default();
    let (before, after) = (started.proxy.as_ref().unwrap_or(&none), new.proxy.as_ref().unwrap_or(&none));
    let (a, b) = (&started.sip, &new.sip);
    let limits = |sip: &super::Sip| {
        (sip.max_message, sip.requests_per_second_per_source, sip.max_connections, sip.max_connections_per_source)
    };
    let checks = [
        ("node", differ(&started.node, &new.node)),
        ("sip.listen", differ(&a.listeners, &b.listeners)),
        ("sip.tls", differ(&a.tls, &b.tls)),
        ("sip.limits", limits(a) != limits(b)),
        ("sip.trust.requests_per_second", differ(&a.rates, &b.rates)),
        ("sip.sdes_without_tls", a.sdes_without_tls != b.sdes_without_tls),
        ("sip.trust, which names a tenant that is new", !knows_tenants(started, new)),
        ("proxy.dns", before.dns != after.dns),
        ("proxy.request_log", before.request_log != after.request_log),
        ("recording", differ(&started.recording, &new.recording)),
        ("capture", differ(&started.capture, &new.capture)),
        ("opus", differ(&started.opus, &new.opus)),
        ("tenant", differ(&started.tenants, &new.tenants)),
        ("upload", differ(&started.upload, &new.upload)),
        ("console", differ(&started.console, &new.console)),
        ("catalog", differ(&started.catalog, &new.catalog)),
        ("cluster", differ(&started.cluster, &new.cluster)),
        ("homer", started.homer != new.homer),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect()
}

/// What holds in a node that was started with `started` once it has taken over `new`.
pub fn in_force(started: &Config, applied: &Config, new: &Config) -> Config {
    let mut config = started.clone();
    config.proxy.clone_from(&new.proxy);
    let trust = if knows_tenants(started, new) { &new.sip.trust } else { &applied.sip.trust };
    config.sip.trust.clone_from(trust);
    config
}

/// Calls of a tenant that capture has no keys of would be refused one and all.
fn knows_tenants(started: &Config, new: &Config) -> bool {
    !started.records()
        || new.sip.trust.iter().all(|(_, tenant)| started.tenants.iter().any(|known| known.name == *tenant))
}

/// Configurations are plain values: what prints alike is alike.
fn differ<T: Debug + ?Sized>(a: &T, b: &T) -> bool {
    format!("{a:?}") != format!("{b:?}")
}

fn limit(limit: Option<u32>) -> String {
    limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string())
}

fn trust(config: &Config) -> String {
    let entries: Vec<String> = config.sip.trust.iter().map(|(network, tenant)| format!("{network} {tenant}")).collect();
    if entries.is_empty() { "private ranges".to_owned() } else { entries.join(", ") }
}

fn registrar(registrar: &Registrar) -> String {
    if registrar.domains.is_empty() { "none".to_owned() } else { format!("for {}", registrar.domains.join(", ")) }
}

fn elements(old: &ferric_proxy::group::GroupConfig, new: &ferric_proxy::group::GroupConfig) -> String {
    let mut words = Vec::new();
    for element in &new.elements {
        match old.elements.iter().find(|had| had.address == element.address) {
            None => words.push(format!("{} is new", element.address)),
            Some(had) if had != element => words.push(format!("{} changed", element.address)),
            Some(_) => {}
        }
    }
    for element in old.elements.iter().filter(|had| !new.elements.iter().any(|element| element.address == had.address))
    {
        words.push(format!("{} is gone", element.address));
    }
    if words.is_empty() { "settings changed".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    fn with(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::embedded(Path::new("data"));
        change(&mut config);
        config
    }

    fn group(address: &str) -> ferric_proxy::group::GroupConfig {
        let mut group = ferric_proxy::group::GroupConfig::named("pool");
        group.elements.extend(ferric_proxy::group::ElementConfig::parse(address));
        group
    }

    #[test]
    fn what_is_taken_over_is_told_apart_from_what_waits() {
        let started = with(|_| {});
        let new = with(|config| {
            config.proxy = Some(Proxy { groups: vec![group("10.0.0.1")], record_route: true, ..Proxy::default() });
            config.upload.concurrency = 1;
            config.sip.trust = vec![("10.0.0.0/8".parse().unwrap(), "default".into())];
        });
        let told = between(&started, &new);
        assert_eq!(
            told,
            [
                "server group pool is new",
                "proxy.record_route: true, false before",
                "sip.trust: 10.0.0.0/8 default, private ranges before"
            ]
        );
        assert_eq!(waiting(&started, &new), ["upload"]);
        let now = in_force(&started, &started, &new);
        assert_eq!((now.upload.concurrency, between(&now, &new)), (8, Vec::new()));
        let moved = with(|config| config.proxy = Some(Proxy { groups: vec![group("10.0.0.2")], ..Proxy::default() }));
        let told = between(&new, &moved);
        assert_eq!(told.first().unwrap(), "server group pool: 10.0.0.2 is new, 10.0.0.1 is gone");
        assert!(between(&moved, &started).contains(&"server group pool is gone".to_owned()));
    }

    #[test]
    fn trust_for_a_tenant_without_keys_waits() {
        let started = with(|_| {});
        let new = with(|config| config.sip.trust = vec![("10.0.0.0/8".parse().unwrap(), "other".into())]);
        assert_eq!(waiting(&started, &new), ["sip.trust, which names a tenant that is new"]);
        assert!(in_force(&started, &started, &new).sip.trust.is_empty());
    }
}
