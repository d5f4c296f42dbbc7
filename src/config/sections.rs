//! Section by section from the document to the configuration.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use ferric_codecs::opus::OpusSettings;
use ferric_sip::flow::Transport;
use toml::de::DeTable;

use super::document::{Collector, Complaints, Section};
use super::units::{host_port, parse_duration, parse_percent, parse_ports, parse_size};
use super::{
    Capture, Catalog, Config, Console, Homer, Node, Placement, Sip, SipListener, SipTls, Tenant, Upload, absolute,
    check, cluster, cross, proxy,
};

pub(super) const ROLES: [&str; 4] = ["proxy", "srs", "capture", "console"];
pub(super) const DURATION: &str = "a number and a unit, as in \"500ms\", \"60s\", \"10m\", \"2h\" or \"30d\"";

pub(super) fn read(file: &Path, folder: &Path, text: &str) -> Result<Config, Complaints> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut errors = Collector::new(file, text);
    for error in &syntax {
        errors.complain(&error.span().unwrap_or(0..1), error.message().to_owned());
    }
    if !syntax.is_empty() {
        errors.finish()?;
        return Err(Complaints { file: file.to_owned(), list: Vec::new() });
    }
    let table = document.get_ref();
    let mut root = Section::root(table);
    let errors_ref = &mut errors;
    let mut warnings: Vec<String> = Vec::new();
    let node = node(root.section("node", errors_ref), folder, &mut warnings, errors_ref);
    let mut config = Config { is_embedded: false, ..Config::embedded(&node.data_dir) };
    config.node = node;
    let is_clustered = table.contains_key("cluster");
    let needs = match (config.records(), !is_clustered || config.has_role("capture")) {
        (false, _) => Needs::Nothing,
        (true, false) => Needs::Names,
        (true, true) => Needs::All,
    };
    config.tenants = tenants(&mut root, folder, needs, &mut warnings, errors_ref);
    let mut listener_places = sip(root.section("sip", errors_ref), folder, &mut config, errors_ref);
    recording(root.section("recording", errors_ref), &mut config, errors_ref);
    capture(root.section("capture", errors_ref), &mut config.capture, errors_ref);
    opus(root.section("opus", errors_ref), &mut config.opus, errors_ref);
    if is_clustered {
        config.upload.segment = CLUSTERED_SEGMENT;
    }
    upload(root.section("upload", errors_ref), &mut config.upload, errors_ref);
    console(root.section("console", errors_ref), &mut config.console, errors_ref);
    catalog(root.section("catalog", errors_ref), folder, &mut config.catalog, errors_ref);
    let section = root.section("proxy", errors_ref);
    if section.is_present() {
        let read = proxy::read(section, folder, &mut warnings, errors_ref);
        let has_role = config.node.roles.iter().any(|role| role == "proxy");
        if !has_role {
            warnings.push("[proxy] has no effect: node.roles does not name \"proxy\"".to_owned());
        }
        config.proxy = has_role.then_some(read);
    }
    config.homer = homer(root.section("homer", errors_ref), errors_ref);
    config.cluster = cluster::read(&mut root, &config.node, folder, &mut warnings, errors_ref);
    if !config.speaks_sip() {
        if !listener_places.is_empty() {
            warnings.push("[[sip.listen]] has no effect: node.roles names neither \"proxy\" nor \"srs\"".to_owned());
        }
        config.sip.listeners.clear();
        listener_places.clear();
    }
    cross::check(&config, &listener_places, &mut warnings, errors_ref);
    root.finish(errors_ref);
    errors.finish()?;
    config.warnings = warnings;
    Ok(config)
}

fn node(mut section: Section<'_, '_>, folder: &Path, warnings: &mut Vec<String>, errors: &mut Collector<'_>) -> Node {
    let data_dir =
        section.text("data_dir", errors).map_or_else(|| folder.join("ferric-data"), |(text, _)| folder.join(text));
    let embedded = Config::embedded(&data_dir).node;
    let name = |text: &str| {
        let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        fine.then(|| text.to_owned())
    };
    let right = "letters, digits, dots, dashes and underscores";
    let id = section.parsed("id", right, errors, name).unwrap_or(embedded.id);
    let site = section.parsed("site", right, errors, name).unwrap_or(embedded.site);
    let drain_timeout =
        section.parsed("drain_timeout", DURATION, errors, parse_duration).unwrap_or(embedded.drain_timeout);
    let mut roles = embedded.roles;
    if let Some(listed) = section.texts("roles", errors) {
        for (role, span) in &listed {
            if !ROLES.contains(&role.as_str()) {
                errors.complain(span, format!("node.roles: \"{role}\" is no role; known are {}", ROLES.join(", ")));
            }
        }
        roles = listed.into_iter().map(|(role, _)| role).collect();
        let has = |role: &str| roles.iter().any(|listed| listed == role);
        if !has("console") {
            warnings.push("node.roles leaves out console; this version runs it all the same".to_owned());
        }
    }
    section.finish(errors);
    Node { id, site, data_dir, roles, drain_timeout }
}

/// Returns the places of the listeners.
fn sip(
    mut section: Section<'_, '_>,
    folder: &Path,
    config: &mut Config,
    errors: &mut Collector<'_>,
) -> Vec<Range<usize>> {
    let sip: &mut Sip = &mut config.sip;
    let listeners = section.sections("listen", errors);
    if !listeners.is_empty() {
        sip.listeners.clear();
    }
    let mut tls_listener = None;
    let mut places = Vec::new();
    for mut listener in listeners {
        let transport = listener.parsed("transport", "\"udp\", \"tcp\" or \"tls\"", errors, |text| match text {
            "udp" => Some(Transport::Udp),
            "tcp" => Some(Transport::Tcp),
            "tls" => Some(Transport::Tls),
            _ => None,
        });
        let address = address(&mut listener, "address", errors);
        let right = "a host and a port, as in \"sip1.example.com:5060\"";
        let advertise = listener.parsed("advertise", right, errors, |text| host_port(text).then(|| text.to_owned()));
        for (key, there) in
            [("transport", listener.get("transport").is_some()), ("address", listener.get("address").is_some())]
        {
            if !there {
                listener.missing(key, "a listener needs transport and address", errors);
            }
        }
        if let (Some(transport), Some(address)) = (transport, address) {
            let listener_config = SipListener { transport, address, advertise };
            let datagram = |t: Transport| t == Transport::Udp;
            let clash = |have: &SipListener| {
                have.address == address && address.port() != 0 && datagram(have.transport) == datagram(transport)
            };
            if sip.listeners.iter().any(clash) {
                errors.complain(&listener.span, format!("two listeners want {address}: give each its own port"));
            }
            if transport == Transport::Tls {
                tls_listener = Some(listener.span.clone());
            }
            sip.listeners.push(listener_config);
            places.push(listener.span.clone());
        }
        listener.finish(errors);
    }
    let mut tls = section.section("tls", errors);
    if tls.is_present() {
        let certificate = check::file(&mut tls, "certificate", folder, errors);
        let private_key = check::file(&mut tls, "private_key", folder, errors);
        let client_ca = check::optional_file(&mut tls, "client_ca", folder, errors);
        if let (Some(certificate), Some(private_key)) = (certificate, private_key) {
            if let Err(error) = ferric_sip_io::server_config(&certificate, &private_key, client_ca.as_deref()) {
                errors.complain(&tls.span, format!("sip.tls cannot be used: {error}"));
            }
            sip.tls = Some(SipTls { certificate, private_key, client_ca });
        }
    } else if let Some(span) = tls_listener {
        errors.complain(&span, "a tls listener needs [sip.tls] with certificate and private_key");
    }
    tls.finish(errors);
    if let Some(allowed) = section.flag("sdes_without_tls", errors) {
        sip.sdes_without_tls = allowed;
    }
    let mut limits = section.section("limits", errors);
    let size = limits.parsed("max_message", "a size from \"1 KiB\" to \"64 KiB\"", errors, |text| {
        parse_size(text).filter(|size| (1_024..=65_536).contains(size))
    });
    if let Some(size) = size.and_then(|size| usize::try_from(size).ok()) {
        sip.max_message = size.min(65_535);
    }
    if let Some(rate) = limits.number("requests_per_second_per_source", 1, 1_000_000, errors) {
        sip.requests_per_second_per_source = u32::try_from(rate).unwrap_or(u32::MAX);
    }
    if let Some(most) = limits.number("max_connections", 1, 1_000_000, errors) {
        sip.max_connections = usize::try_from(most).unwrap_or(sip.max_connections);
    }
    if let Some(most) = limits.number("max_connections_per_source", 1, 1_000_000, errors) {
        sip.max_connections_per_source = usize::try_from(most).unwrap_or(sip.max_connections_per_source);
    }
    limits.finish(errors);
    for mut trust in section.sections("trust", errors) {
        let network = trust.parsed("source", "a network, as in \"10.1.0.0/16\"", errors, |text| text.parse().ok());
        let tenant = trust.text("tenant", errors);
        if trust.get("source").is_none() {
            trust.missing("source", "which network may send?", errors);
        }
        let tenant = match tenant {
            Some((name, span)) => {
                if !config.tenants.iter().any(|tenant| tenant.name == name) {
                    let known: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
                    errors
                        .complain(&span, format!("no [[tenant]] is named \"{name}\"; there are {}", known.join(", ")));
                }
                name
            }
            None => config.tenants.first().map_or_else(String::new, |tenant| tenant.name.clone()),
        };
        let rate = trust.number("requests_per_second", 1, 1_000_000, errors).and_then(|rate| u32::try_from(rate).ok());
        if let Some(network) = network {
            config.sip.rates.extend(rate.map(|rate| (network, rate)));
            config.sip.trust.push((network, tenant));
        }
        trust.finish(errors);
    }
    section.finish(errors);
    places
}

pub(super) fn address(
    section: &mut Section<'_, '_>,
    key: &'static str,
    errors: &mut Collector<'_>,
) -> Option<SocketAddr> {
    section.parsed(key, "an address and a port, as in \"10.0.0.5:5060\" or \"[2001:db8::5]:5060\"", errors, |text| {
        text.parse().ok()
    })
}

fn recording(mut section: Section<'_, '_>, config: &mut Config, errors: &mut Collector<'_>) {
    let placement = section.parsed("placement", "\"round-robin\" or \"least-loaded\"", errors, |text| match text {
        "round-robin" => Some(Placement::RoundRobin),
        "least-loaded" => Some(Placement::LeastLoaded),
        _ => None,
    });
    config.recording.placement = placement.unwrap_or(config.recording.placement);
    config.recording.mirror = section.flag("mirror", errors).unwrap_or(config.recording.mirror);
    if let Some(max_call) = section.parsed("max_call", DURATION, errors, parse_duration) {
        config.recording.max_call = max_call;
    }
    let right = "a time of at least one second, as in \"60s\"";
    let timeout = section.parsed("rtp_timeout", right, errors, |text| {
        parse_duration(text).filter(|timeout| *timeout >= Duration::from_secs(1))
    });
    if let Some(timeout) = timeout {
        config.recording.rtp_timeout = timeout;
    }
    section.finish(errors);
}

fn capture(mut section: Section<'_, '_>, capture: &mut Capture, errors: &mut Collector<'_>) {
    let right = "two ports at least two apart, the lower first and above 1023, as in \"39500-43500\"";
    let ports = section.parsed("rtp_ports", right, errors, |text| {
        parse_ports(text).filter(|(first, last)| *first >= 1024 && u32::from(*last) > u32::from(*first) + 1)
    });
    capture.rtp_ports = ports.unwrap_or(capture.rtp_ports);
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let right = "an address of this host, as in \"10.0.0.5\"";
    if let Some(found) = section.parsed("rtp_address", right, errors, address) {
        capture.rtp_address = found;
    }
    capture.advertise = section.parsed("advertise", "an address, as in \"203.0.113.5\"", errors, address);
    if let Some(calls) = section.number("max_calls", 1, 100_000, errors) {
        capture.max_calls = usize::try_from(calls).unwrap_or(usize::MAX);
    }
    if capture.rtp_address.is_unspecified() && capture.advertise.is_none() && section.is_present() {
        section.missing("advertise", "with rtp_address = \"0.0.0.0\" the address for SDP must be told", errors);
    }
    section.finish(errors);
}

fn opus(mut section: Section<'_, '_>, opus: &mut OpusSettings, errors: &mut Collector<'_>) {
    if let Some(bitrate) = section.number("bitrate", 6_000, 128_000, errors) {
        opus.bitrate = u32::try_from(bitrate).unwrap_or(opus.bitrate);
    }
    if let Some(complexity) = section.number("complexity", 0, 10, errors) {
        opus.complexity = u8::try_from(complexity).unwrap_or(opus.complexity);
    }
    if let Some(value) = section.get("frame_ms") {
        let frame = value.get_ref().as_integer().and_then(|number| number.as_str().parse().ok());
        match frame.filter(|frame| [10, 20, 40, 60].contains(frame)) {
            Some(frame) => opus.frame_ms = frame,
            None => errors.complain(&value.span(), "opus.frame_ms is 10, 20, 40 or 60"),
        }
    }
    section.finish(errors);
}

/// What tenants must say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// The node forwards only; who is named is whole all the same.
    Nothing,
    /// Others record: who there is.
    Names,
    /// Who can open recordings, and where they go.
    All,
}

fn tenants(
    root: &mut Section<'_, '_>,
    folder: &Path,
    needs: Needs,
    warnings: &mut Vec<String>,
    errors: &mut Collector<'_>,
) -> Vec<Tenant> {
    let mut found: Vec<Tenant> = Vec::new();
    let sections = root.sections("tenant", errors);
    if sections.is_empty() && needs != Needs::Nothing {
        errors.complain(&(0..1), "there is no [[tenant]]: recordings need somebody's key and a store");
    }
    let is_whole = needs != Needs::Names;
    for mut section in sections {
        let name = section.parsed("name", "letters, digits, dots, dashes and underscores", errors, |text| {
            let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            fine.then(|| text.to_owned())
        });
        if section.get("name").is_none() {
            section.missing("name", "each tenant has a name", errors);
        }
        if let Some(name) = name.as_ref().filter(|name| found.iter().any(|tenant| tenant.name == **name)) {
            errors.complain(&section.span, format!("two tenants are named \"{name}\""));
        }
        let mut public_keys = Vec::new();
        match section.texts("public_keys", errors) {
            Some(keys) if !keys.is_empty() => {
                for (key, span) in keys {
                    let Some(file) = check::public_key(&folder.join(&key), &span, errors) else { continue };
                    if public_keys.contains(&file) {
                        errors.complain(&span, format!("tenant.public_keys names \"{key}\" twice"));
                    }
                    public_keys.push(file);
                }
            }
            Some(_) => {
                let place = section.get("public_keys").map_or(0..0, toml::Spanned::span);
                errors.complain(
                    &place,
                    "tenant.public_keys is empty: name at least one file; `ferric keys new` makes a pair",
                );
            }
            None if section.get("public_keys").is_none() && is_whole => {
                section.missing("public_keys", "name at least one file; `ferric keys new` makes a pair", errors);
            }
            None => {}
        }
        let store = match section.text("store", errors) {
            Some((store, span)) => check::store(&store, folder, &span, errors),
            None => {
                if section.get("store").is_none() && is_whole {
                    section.missing(
                        "store",
                        "where do recordings go? As in \"s3://bucket?region=us-east-1\" or \"file:///path\"",
                        errors,
                    );
                }
                None
            }
        };
        let right = "a folder without a slash at either end";
        let prefix = section.parsed("prefix", right, errors, |text| {
            let fine = !text.starts_with('/') && !text.ends_with('/') && !text.contains("..");
            fine.then(|| text.to_owned())
        });
        if section.parsed("retention", DURATION, errors, parse_duration).is_some() {
            warnings.push("tenant.retention is accepted; this version deletes nothing from a store".to_owned());
        }
        let dtmf = section.parsed("dtmf", "\"keep\" or \"mask\"", errors, |text| match text {
            "keep" => Some(false),
            "mask" => Some(true),
            _ => None,
        });
        let srtp = section.parsed("srtp", "\"allow\" or \"require\"", errors, |text| match text {
            "allow" => Some(false),
            "require" => Some(true),
            _ => None,
        });
        let mirror = section.flag("mirror", errors);
        section.finish(errors);
        let store = if is_whole { store } else { Some(store.unwrap_or_default()) };
        if let (Some(name), Some(store)) = (name, store) {
            let prefix = prefix.unwrap_or_else(|| name.clone());
            found.push(Tenant {
                name,
                public_keys,
                store,
                prefix,
                mask_dtmf: dtmf.unwrap_or(false),
                srtp_required: srtp.unwrap_or(false),
                mirror,
            });
        }
    }
    found
}

/// `upload.segment` where others go on with a dead worker's calls: what it had not sealed is much of what its death costs.
const CLUSTERED_SEGMENT: Duration = Duration::from_millis(200);

fn upload(mut section: Section<'_, '_>, upload: &mut Upload, errors: &mut Collector<'_>) {
    if let Some(concurrency) = section.number("concurrency", 1, 256, errors) {
        upload.concurrency = usize::try_from(concurrency).unwrap_or(8);
    }
    let right = "a time from \"100ms\" to \"10s\"";
    let segment = section.parsed("segment", right, errors, |text| {
        parse_duration(text).filter(|segment| (Duration::from_millis(100)..=Duration::from_secs(10)).contains(segment))
    });
    upload.segment = segment.unwrap_or(upload.segment);
    upload.bandwidth = section.parsed("bandwidth", "a rate, as in \"50 Mbit/s\"", errors, |text| text.parse().ok());
    let window =
        section.parsed("window", "two times of day in UTC, as in \"22:00-06:00\"", errors, |text| text.parse().ok());
    upload.window = window.unwrap_or(upload.window);
    let water = section.parsed("spool_high_water", "a share, as in \"90%\"", errors, parse_percent);
    upload.spool_high_water = water.unwrap_or(upload.spool_high_water);
    section.finish(errors);
}

fn console(mut section: Section<'_, '_>, console: &mut Console, errors: &mut Collector<'_>) {
    if let Some(listen) = address(&mut section, "listen", errors) {
        console.listen = listen;
    }
    section.finish(errors);
}

fn homer(mut section: Section<'_, '_>, errors: &mut Collector<'_>) -> Option<Homer> {
    let right = "a host and a port, as in \"10.0.0.9:9060\"";
    let hep = section.parsed("hep", right, errors, |text| host_port(text).then(|| text.to_owned()));
    if section.is_present() {
        section.required("hep", "where does Homer listen?", errors);
    }
    let id = section.number("capture_id", 0, u64::from(u32::MAX), errors).and_then(|id| u32::try_from(id).ok());
    section.finish(errors);
    hep.map(|hep| Homer { hep, capture_id: id.unwrap_or(0) })
}

fn catalog(mut section: Section<'_, '_>, folder: &Path, catalog: &mut Catalog, errors: &mut Collector<'_>) {
    let mut place = 0..0;
    if let Some((url, span)) = section.text("url", errors) {
        // The text itself is not shown: it may hold a password.
        if let Err(error) = ferric_worker::catalog::Catalog::check_url(&url) {
            errors.complain(&span, error.to_string());
        }
        (catalog.url, place) = (url, span);
    }
    catalog.password_file = check::optional_file(&mut section, "password_file", folder, errors);
    let hashed = section.parsed("parties", "\"clear\" or \"hashed\"", errors, |text| match text {
        "clear" => Some(false),
        "hashed" => Some(true),
        _ => None,
    });
    catalog.hashed = hashed.unwrap_or(catalog.hashed);
    catalog.party_key = check::optional_file(&mut section, "party_key", folder, errors);
    if catalog.hashed && catalog.party_key.is_none() && ferric_worker::catalog::Catalog::is_shared(&catalog.url) {
        let text = "nodes that share a catalogue must make the same hashes: name in catalog.party_key a file with a secret \
                    that all of them have, as `openssl rand -base64 32` makes it";
        errors.complain(&place, text);
    }
    let queue = section.parsed("queue", "a size from \"1 MiB\", as in \"1 GiB\"", errors, |text| {
        parse_size(text).filter(|bytes| *bytes >= 1 << 20)
    });
    catalog.queue_bytes = queue.unwrap_or(catalog.queue_bytes);
    section.finish(errors);
}

/// A file store's folder as an absolute path, so that it does not move with the working directory.
pub(super) fn file_store(path: &str, folder: &Path) -> String {
    format!("file://{}", absolute(&folder.join(path)).display())
}
