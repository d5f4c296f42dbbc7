//! `[proxy]`: server groups, routes, registrar.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferric_proxy::group::{ElementConfig, GroupConfig, Heartbeat, Policy};
use ferric_proxy::routing::{Action, Condition, Rewrite, RouteTable, Rule};
use ferric_proxy::{Fork, ProxyConfig};
use ferric_registrar::Algorithm;
use ferric_sip::flow::Transport;
use ferric_sip::uri::{Uri, split_host_port};
use regex::Regex;

use super::check;
use super::document::{Collector, Section};
use super::sections::DURATION;
use super::units::parse_duration;
use super::users;

/// `[proxy]`
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Stay in the way of dialogs.
    pub record_route: bool,
    /// `[[proxy.server_group]]`
    pub groups: Vec<GroupConfig>,
    /// `[[proxy.route]]`
    pub routes: RouteTable,
    /// `[proxy.registrar]`
    pub registrar: Registrar,
    /// Larger requests go by TCP; 0 never.
    pub udp_mtu: usize,
    /// New calls a second over all.
    pub calls_per_second: Option<u32>,
    /// Requests under way at once.
    pub max_open: usize,
    /// Without any answer for this long the next address of a name is tried.
    pub timeout: Duration,
    /// Name servers; empty = those of the system.
    pub dns: Vec<std::net::SocketAddr>,
    /// The log of finished requests, in the data folder unless absolute; none = it is not written.
    pub request_log: Option<PathBuf>,
}

/// `[proxy.registrar]`
#[derive(Debug, Clone)]
pub struct Registrar {
    /// Its domains; none = no registrar.
    pub domains: Vec<String>,
    /// Who may register; without the file, everybody whom `[[sip.trust]]` names, without a password.
    pub users: Option<PathBuf>,
    /// Longest registration.
    pub max_expires: Duration,
    /// Shortest; shorter wishes get 423.
    pub min_expires: Duration,
    /// Of a registration that names none.
    pub default_expires: Duration,
    /// Contacts of one user.
    pub max_contacts: usize,
    /// Bindings of all users.
    pub max_bindings: usize,
    /// All contacts of one q at once, or one by one.
    pub fork: Fork,
    /// The only digest algorithm offered; none = SHA-256 and MD5, as far as every user can answer them.
    pub algorithm: Option<Algorithm>,
}

impl Proxy {
    /// Brings these settings into a proxy's configuration; what depends on the machine stays as it is.
    pub fn apply_to(&self, config: &mut ProxyConfig) {
        config.record_route = self.record_route;
        config.groups = self.groups.clone();
        config.routes = self.routes.clone();
        config.domains = self.registrar.domains.clone();
        config.fork = self.registrar.fork;
        config.authenticate = self.registrar.users.is_some();
        config.udp_mtu = self.udp_mtu;
        config.calls_per_second = self.calls_per_second;
        config.max_open = self.max_open;
        config.timeout = self.timeout;
    }
}

impl Default for Proxy {
    fn default() -> Proxy {
        Proxy {
            record_route: false,
            groups: Vec::new(),
            routes: RouteTable::default(),
            registrar: Registrar {
                domains: Vec::new(),
                users: None,
                max_expires: Duration::from_secs(3_600),
                min_expires: Duration::from_secs(60),
                default_expires: Duration::from_secs(3_600),
                max_contacts: 10,
                max_bindings: 1_000_000,
                fork: Fork::Parallel,
                algorithm: None,
            },
            udp_mtu: 1_300,
            calls_per_second: None,
            max_open: 50_000,
            timeout: Duration::from_secs(1),
            dns: Vec::new(),
            request_log: Some(PathBuf::from("log/requests.jsonl")),
        }
    }
}

const ACTIONS: &str =
    "a server group's name, \"srs\", \"registrar\", \"request-uri\" or a URI as in \"sip:10.0.0.9:5060;transport=tcp\"";
const METHOD: &str = "a method, as in \"INVITE\"";
const REGEX: &str = "a regular expression, as in \"^\\\\+1408\"";
const TIMEOUT: &str = "a time from \"50ms\" to \"32s\"";

pub(super) fn read(
    mut section: Section<'_, '_>,
    folder: &Path,
    warnings: &mut Vec<String>,
    errors: &mut Collector<'_>,
) -> Proxy {
    let mut proxy = Proxy::default();
    proxy.record_route = section.flag("record_route", errors).unwrap_or(false);
    if let Some(mtu) = section.number("udp_mtu", 0, 65_535, errors) {
        proxy.udp_mtu = usize::try_from(mtu).unwrap_or(0);
    }
    proxy.calls_per_second =
        section.number("calls_per_second", 1, 1_000_000, errors).and_then(|rate| u32::try_from(rate).ok());
    if let Some(most) = section.number("max_open", 1, 1_000_000, errors) {
        proxy.max_open = usize::try_from(most).unwrap_or(proxy.max_open);
    }
    proxy.timeout = section.parsed("timeout", TIMEOUT, errors, timeout).unwrap_or(proxy.timeout);
    for (text, span) in section.texts("dns", errors).unwrap_or_default() {
        let server = text.parse().ok().or_else(|| text.parse().ok().map(|ip| std::net::SocketAddr::new(ip, 53)));
        match server {
            Some(server) => proxy.dns.push(server),
            None => errors.complain(
                &span,
                format!("proxy.dns: \"{text}\" is no name server: write \"10.0.0.53\" or \"10.0.0.53:5353\""),
            ),
        }
    }
    if let Some(value) = section.get("request_log") {
        if value.get_ref().as_bool() == Some(false) {
            proxy.request_log = None;
        } else if let Some((file, _)) = section.text("request_log", errors) {
            proxy.request_log = Some(PathBuf::from(file));
        }
    }
    let mut fallbacks: Vec<(String, Range<usize>)> = Vec::new();
    for mut group in section.sections("server_group", errors) {
        let name = group.parsed("name", "a host name, as in \"recorders.example.com\"", errors, host);
        group.required("name", "a server group is known by its name", errors);
        let name = name.unwrap_or_default();
        if !name.is_empty() && proxy.groups.iter().any(|have| *have.name == *name) {
            errors.complain(&group.span, format!("two server groups are named \"{name}\""));
        }
        let read = server_group(&name, group, proxy.record_route, &mut fallbacks, errors);
        proxy.groups.push(read);
    }
    for (name, span) in fallbacks {
        if !proxy.groups.iter().any(|group| *group.name == *name) {
            errors.complain(&span, format!("no [[proxy.server_group]] is named \"{name}\""));
        }
    }
    circles(&proxy.groups, warnings);
    let mut rules = Vec::new();
    for (number, route) in section.sections("route", errors).into_iter().enumerate() {
        rules.push(rule(number + 1, route, &proxy.groups, errors));
    }
    for (at, rule) in rules.iter().enumerate() {
        if rule.conditions.is_empty() && at + 1 < rules.len() {
            warnings.push(format!("{} matches every request: the routes behind it are never reached", rule.name));
            break;
        }
    }
    proxy.routes = RouteTable::new(rules);
    proxy.registrar = registrar(section.section("registrar", errors), folder, warnings, errors);
    section.finish(errors);
    proxy
}

/// Fallbacks that lead back to where they began.
fn circles(groups: &[GroupConfig], warnings: &mut Vec<String>) {
    for group in groups {
        let mut at = group.fallback.as_deref();
        for _ in 0..groups.len() {
            if at == Some(&*group.name) {
                warnings.push(format!("the fallbacks of server group {} lead back to it", group.name));
                break;
            }
            at = at
                .and_then(|name| groups.iter().find(|group| *group.name == *name))
                .and_then(|group| group.fallback.as_deref());
        }
    }
}

fn timeout(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|time| (Duration::from_millis(50)..=Duration::from_secs(32)).contains(time))
}

fn policy(text: &str) -> Option<Policy> {
    Some(match text {
        "priority-weight" => Policy::PriorityWeight,
        "call-id-hash" => Policy::CallIdHash,
        "least-loaded" => Policy::LeastLoaded,
        "round-robin" => Policy::RoundRobin,
        _ => return None,
    })
}

fn transport(text: &str) -> Option<Transport> {
    Some(match text {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        "tls" => Transport::Tls,
        _ => return None,
    })
}

fn server_group(
    name: &str,
    mut section: Section<'_, '_>,
    record_route: bool,
    fallbacks: &mut Vec<(String, Range<usize>)>,
    errors: &mut Collector<'_>,
) -> GroupConfig {
    let mut group = GroupConfig::named(name);
    let right = "\"priority-weight\", \"call-id-hash\", \"least-loaded\" or \"round-robin\"";
    group.policy = section.parsed("policy", right, errors, policy).unwrap_or_default();
    if let Some(value) = section.get("heartbeat") {
        if value.get_ref().as_table().is_some() {
            let mut wanted = section.section("heartbeat", errors);
            let mut heartbeat = Heartbeat::default();
            heartbeat.up = wanted.parsed("up", DURATION, errors, interval).unwrap_or(heartbeat.up);
            heartbeat.down = wanted.parsed("down", DURATION, errors, interval).unwrap_or(heartbeat.down);
            heartbeat.misses =
                wanted.number("misses", 1, 100, errors).and_then(|n| u32::try_from(n).ok()).unwrap_or(heartbeat.misses);
            heartbeat.adaptive = wanted.flag("adaptive", errors).unwrap_or(heartbeat.adaptive);
            wanted.finish(errors);
            group.heartbeat = Some(heartbeat);
        } else if value.get_ref().as_bool() == Some(false) {
            group.heartbeat = None;
        } else {
            let right = "{ up = \"5s\", down = \"5s\", misses = 3 } or false";
            errors.complain(&value.span(), format!("proxy.server_group.heartbeat is {right}"));
        }
    }
    if let Some(codes) = section.numbers("failover_codes", 300, 699, errors) {
        group.failover_codes = codes.into_iter().filter_map(|code| u16::try_from(code).ok()).collect();
    }
    group.timeout = section.parsed("timeout", TIMEOUT, errors, timeout).unwrap_or(group.timeout);
    group.rest = section.parsed("rest", DURATION, errors, parse_duration).unwrap_or(group.rest);
    group.slow_start = section.parsed("slow_start", DURATION, errors, parse_duration).unwrap_or(group.slow_start);
    if let Some((fallback, span)) = section.text("fallback", errors) {
        fallbacks.push((fallback.clone(), span));
        group.fallback = Some(fallback);
    }
    let is_dns = section.flag("dns", errors) == Some(true);
    let wanted = section.parsed("transport", "\"udp\", \"tcp\" or \"tls\"", errors, transport);
    if is_dns {
        group.dns = Some(wanted.unwrap_or(Transport::Udp));
    } else if wanted.is_some() {
        let place = section.get("transport").map_or(0..0, toml::Spanned::span);
        errors.complain(&place, "transport is for groups with dns = true; an element says it in its address: \"10.0.0.11:5060;transport=tcp\"");
    }
    for element in section.sections("element", errors) {
        let span = element.span.clone();
        let Some(read) = element_config(element, record_route, errors) else { continue };
        if group.elements.iter().any(|have| have.address == read.address) {
            errors.complain(&span, format!("two elements have the address {}", read.address));
        }
        group.elements.push(read);
    }
    match (is_dns, section.get("element").is_some()) {
        (true, true) => errors.complain(&section.span, "a server group has elements or dns = true, not both"),
        (false, false) => section.missing("element", "list elements, or write dns = true", errors),
        _ => {}
    }
    section.finish(errors);
    group
}

fn interval(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|time| *time >= Duration::from_millis(100))
}

fn element_config(
    mut section: Section<'_, '_>,
    record_route: bool,
    errors: &mut Collector<'_>,
) -> Option<ElementConfig> {
    let right = "an address with an optional transport, as in \"10.0.0.11:5060;transport=tcp\"";
    let found = section.parsed("address", right, errors, ElementConfig::parse);
    section.required("address", "where is this element?", errors);
    let priority = section.number("priority", 0, 65_535, errors);
    let weight = section.number("weight", 0, 65_535, errors);
    let max_calls = section.number("max_calls", 1, 1_000_000, errors);
    if max_calls.is_some() && !record_route {
        let place = section.get("max_calls").map_or(0..0, toml::Spanned::span);
        errors.complain(&place, "max_calls needs [proxy] record_route = true: without it nobody here sees a call end; calls_per_second works without");
    }
    let rate = section.number("calls_per_second", 1, 1_000_000, errors);
    let drain = section.flag("drain", errors).unwrap_or(false);
    section.finish(errors);
    let found = found?;
    let small = |number: Option<u64>, otherwise: u16| number.and_then(|n| u16::try_from(n).ok()).unwrap_or(otherwise);
    Some(ElementConfig {
        priority: small(priority, found.priority),
        weight: small(weight, found.weight),
        max_calls: max_calls.and_then(|n| u32::try_from(n).ok()),
        calls_per_second: rate.and_then(|n| u32::try_from(n).ok()),
        drain,
        ..found
    })
}

fn rule(number: usize, mut section: Section<'_, '_>, groups: &[GroupConfig], errors: &mut Collector<'_>) -> Rule {
    let name = section.text("name", errors).map_or_else(|| format!("route {number}"), |(name, _)| name);
    let conditions = conditions(section.section("match", errors), errors);
    let rewrite = rewrite(section.section("rewrite", errors), errors);
    let mut actions = Vec::new();
    if let Some((to, span)) = section.text("to", errors) {
        actions.push(destination(&to, &span, groups, errors));
    }
    let mut reject = section.section("reject", errors);
    if reject.is_present() {
        let code = reject.number("code", 300, 699, errors).and_then(|code| u16::try_from(code).ok());
        let reason = reject.text("reason", errors).map(|(reason, _)| reason);
        reject.required("code", "a status from 300 to 699", errors);
        actions.push(Action::Reject { code: code.unwrap_or(403), reason });
    }
    reject.finish(errors);
    if let Some(uri) = section.parsed("redirect", "a URI, as in \"sip:other.example.com\"", errors, |text| {
        Uri::parse(text).ok().map(|_| text.to_owned())
    }) {
        actions.push(Action::Redirect(uri));
    }
    if actions.len() != 1 && !(actions.is_empty() && section.get("redirect").is_some()) {
        section.missing("to", &format!("a route has one of `to`, `reject` and `redirect`; `to` is {ACTIONS}"), errors);
    }
    let action = actions.into_iter().next().unwrap_or(Action::Reject { code: 500, reason: None });
    section.finish(errors);
    Rule { name, conditions, rewrite, action }
}

fn destination(to: &str, span: &Range<usize>, groups: &[GroupConfig], errors: &mut Collector<'_>) -> Action {
    match to {
        "srs" => return Action::Srs,
        "registrar" => return Action::Registrar,
        "request-uri" => return Action::RequestUri,
        _ => {}
    }
    if groups.iter().any(|group| *group.name == *to) {
        return Action::Group(to.to_owned());
    }
    match Uri::parse(to) {
        Ok(uri) if uri.is_sip() => Action::Uri(to.to_owned()),
        _ => {
            let names: Vec<&str> = groups.iter().map(|group| &*group.name).collect();
            let known =
                if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", names.join(", ")) };
            errors.complain(span, format!("no [[proxy.server_group]] is named \"{to}\"; {known}. `to` is {ACTIONS}"));
            Action::Group(to.to_owned())
        }
    }
}

fn conditions(mut section: Section<'_, '_>, errors: &mut Collector<'_>) -> Vec<Condition> {
    let regex = |text: &str| Regex::new(text).ok();
    let mut found = Vec::new();
    let method = section.parsed("method", METHOD, errors, |text| {
        let methods: Vec<String> = text.split(['|', ',']).map(|method| method.trim().to_owned()).collect();
        methods
            .iter()
            .all(|method| !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase()))
            .then_some(methods)
    });
    found.extend(method.map(Condition::Method));
    found.extend(section.parsed("user", REGEX, errors, regex).map(Condition::User));
    found.extend(section.text("user_prefix", errors).map(|(prefix, _)| Condition::UserPrefix(prefix)));
    found.extend(
        section
            .parsed("domain", "a domain, as in \"example.com\" or \"*.example.com\"", errors, domain)
            .map(Condition::Domain),
    );
    found.extend(section.parsed("from", REGEX, errors, regex).map(Condition::From));
    found.extend(
        section
            .parsed("source", "a network, as in \"10.1.0.0/16\"", errors, |text| text.parse().ok())
            .map(Condition::Source),
    );
    let right = "a listener, as in \"udp:10.0.0.5:5060\"";
    let listener = section.parsed("listener", right, errors, |text| {
        let (kind, address) = text.split_once(':')?;
        Some(Condition::Listener(transport(kind)?, address.parse().ok()?))
    });
    found.extend(listener);
    let mut header = section.section("header", errors);
    if header.is_present() {
        let name = header.text("name", errors).map(|(name, _)| name);
        let value = header.parsed("value", REGEX, errors, regex);
        header.required("name", "which header field?", errors);
        found.extend(name.map(|name| Condition::Header(name, value)));
    }
    header.finish(errors);
    found.extend(section.flag("siprec", errors).map(Condition::Recording));
    section.finish(errors);
    found
}

fn rewrite(mut section: Section<'_, '_>, errors: &mut Collector<'_>) -> Rewrite {
    let mut rewrite = Rewrite::default();
    rewrite.strip = section.number("strip", 0, 64, errors).and_then(|strip| usize::try_from(strip).ok()).unwrap_or(0);
    rewrite.prefix = section.text("prefix", errors).map(|(prefix, _)| prefix).unwrap_or_default();
    let pattern = section.parsed("match", REGEX, errors, |text| Regex::new(text).ok());
    let with = section.text("replace", errors);
    match (pattern, with) {
        (Some(pattern), Some((with, _))) => rewrite.replace = Some((pattern, with)),
        (Some(_), None) => section.missing("replace", "what stands in the place of what matches?", errors),
        (None, Some((_, span))) if section.get("match").is_none() => {
            errors.complain(&span, "proxy.route.rewrite.replace needs `match`, a regular expression")
        }
        (None, _) => {}
    }
    let right = "a host with an optional port, as in \"pstn.example.com:5060\"";
    rewrite.host = section.parsed("host", right, errors, |text| split_host_port(text).ok().map(|_| text.to_owned()));
    section.finish(errors);
    rewrite
}

fn registrar(
    mut section: Section<'_, '_>,
    folder: &Path,
    warnings: &mut Vec<String>,
    errors: &mut Collector<'_>,
) -> Registrar {
    let mut registrar = Proxy::default().registrar;
    for (text, span) in section.texts("domains", errors).unwrap_or_default() {
        match host(&text) {
            Some(name) => registrar.domains.push(name),
            None => errors.complain(&span, format!("proxy.registrar.domains: \"{text}\" is no domain name")),
        }
    }
    if section.is_present() && registrar.domains.is_empty() {
        section.missing("domains", "for which domains may users register? As in [\"example.com\"]", errors);
    }
    registrar.users = check::optional_file(&mut section, "users", folder, errors);
    if let Some(file) = &registrar.users
        && let Err(complaints) = users::load(file, &registrar.domains, warnings)
    {
        let place = section.get("users").map_or(0..0, toml::Spanned::span);
        for wrong in &complaints.list {
            errors.complain(&place, format!("{}:{}:{}: {}", file.display(), wrong.line, wrong.column, wrong.text));
        }
    }
    registrar.max_expires =
        section.parsed("max_expires", DURATION, errors, parse_duration).unwrap_or(registrar.max_expires);
    registrar.min_expires =
        section.parsed("min_expires", DURATION, errors, parse_duration).unwrap_or(registrar.min_expires);
    let default = registrar.default_expires.min(registrar.max_expires);
    registrar.default_expires = section.parsed("default_expires", DURATION, errors, parse_duration).unwrap_or(default);
    if registrar.min_expires > registrar.max_expires {
        errors.complain(&section.span, "proxy.registrar: min_expires is longer than max_expires");
    }
    if let Some(most) = section.number("max_contacts", 1, 100, errors) {
        registrar.max_contacts = usize::try_from(most).unwrap_or(10);
    }
    if let Some(most) = section.number("max_bindings", 1, 10_000_000, errors) {
        registrar.max_bindings = usize::try_from(most).unwrap_or(registrar.max_bindings);
    }
    let fork = section.parsed("fork", "\"parallel\" or \"sequential\"", errors, |text| match text {
        "parallel" => Some(Fork::Parallel),
        "sequential" => Some(Fork::Sequential),
        _ => None,
    });
    registrar.fork = fork.unwrap_or_default();
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for (text, span) in section.texts("algorithms", errors).unwrap_or_default() {
        match Algorithm::of(Some(&text)) {
            Some(algorithm) if !algorithms.contains(&algorithm) => algorithms.push(algorithm),
            Some(_) => errors.complain(&span, format!("proxy.registrar.algorithms names {text} twice")),
            None => errors.complain(&span, "proxy.registrar.algorithms holds \"SHA-256\", \"MD5\" or both"),
        }
    }
    registrar.algorithm = algorithms.first().copied().filter(|_| algorithms.len() == 1);
    section.finish(errors);
    registrar
}

fn domain(text: &str) -> Option<String> {
    host(text.strip_prefix("*.").unwrap_or(text)).map(|_| text.to_owned())
}

/// A host name of letters, digits, dots and dashes.
pub(super) fn host(text: &str) -> Option<String> {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.trim_end_matches('.').split('.').all(label).then(|| text.to_owned())
}
