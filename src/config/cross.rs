//! What several sections must agree about.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use ferric_sip::flow::Transport;

use super::Config;
use super::document::Collector;

/// First port of live monitoring (requirements: 49152-65535/udp).
const LIVE_FIRST: u16 = 49_152;
/// A usual call has two streams with an RTP and an RTCP port each.
const PORTS_PER_CALL: usize = 4;

/// The longest life of a registration on the other nodes of a cluster.
const SHARED_LIFE: Duration = Duration::from_secs(2 * 3600);

/// `places` are those of the listeners, in the order of `config.sip.listeners`.
pub(super) fn check(config: &Config, places: &[Range<usize>], warnings: &mut Vec<String>, errors: &mut Collector<'_>) {
    let (first, last) = config.capture.rtp_ports;
    for (listener, place) in config.sip.listeners.iter().zip(places) {
        let address = listener.address;
        let is_datagram = listener.transport == Transport::Udp;
        if is_datagram && (first..=last).contains(&address.port()) && overlap(address.ip(), config.capture.rtp_address)
        {
            // Media tries another pair, so no call is lost by it.
            let range = format!("capture.rtp_ports {first}-{last}");
            warnings.push(format!("SIP on {address} lies within {range}: that pair is lost to media"));
        }
        if !is_datagram && clash(address, config.console.listen) {
            errors.complain(place, format!("SIP and [console] both want {address}: give each its own port"));
        }
    }
    if last >= LIVE_FIRST {
        warnings.push(format!("capture.rtp_ports reaches {last}; live monitoring will use {LIVE_FIRST}-65535"));
    }
    let room = (usize::from(last - first) + 1) / PORTS_PER_CALL;
    if room < config.capture.max_calls {
        let wanted = config.capture.max_calls;
        warnings
            .push(format!("capture.rtp_ports has room for {room} calls of two streams, capture.max_calls is {wanted}"));
    }
    cluster(config, warnings);
    for (number, tenant) in config.tenants.iter().enumerate() {
        let same = |other: &&super::Tenant| (&other.store, &other.prefix) == (&tenant.store, &tenant.prefix);
        if let Some(other) = config.tenants.iter().take(number).find(same) {
            warnings.push(format!("tenants {} and {} put their recordings into one folder", other.name, tenant.name));
        }
    }
}

fn cluster(config: &Config, warnings: &mut Vec<String>) {
    if config.cluster.is_none() && config.has_role("srs") != config.has_role("capture") {
        warnings.push("node.roles names one of srs and capture; without [cluster] a node does both or none".to_owned());
    }
    let mirrors = config.recording.mirror || config.tenants.iter().any(|tenant| tenant.mirror == Some(true));
    if config.cluster.is_none() && mirrors {
        warnings.push("mirror has no effect: it needs a second worker, and there is no [cluster]".to_owned());
    }
    if config.cluster.is_some() && config.records() && config.catalog.url.starts_with("sqlite:") {
        let text =
            "catalog.url is SQLite: each node of the cluster sees its own recordings only; postgres:// is for all";
        warnings.push(text.to_owned());
    }
    let longest = config.proxy.as_ref().map(|proxy| proxy.registrar.max_expires);
    if config.cluster.is_some() && longest.is_some_and(|longest| longest > SHARED_LIFE) {
        let text = "proxy.registrar.max_expires is longer than 2h: the other nodes forget a registration that is not refreshed for so long";
        warnings.push(text.to_owned());
    }
}

fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && a.port() == b.port() && overlap(a.ip(), b.ip())
}
