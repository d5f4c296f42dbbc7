//! Every metric: name, kind, labels and meaning, in one table. The parts return
//! numbers; the node hands them over here.

use std::sync::OnceLock;
use std::time::Duration;

use ferric_sip::flow::Transport;
use metrics::{Counter, Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// Name, kind, unit, meaning.
type Row = (&'static str, Kind, Unit, &'static str);

const TABLE: [Row; 56] = [
    ("ferric_calls_active", Kind::Gauge, Unit::Count, "Recording sessions at the moment"),
    ("ferric_calls_total", Kind::Counter, Unit::Count, "Recording sessions by result: recorded, refused, cancelled"),
    (
        "ferric_recordings_total",
        Kind::Counter,
        Unit::Count,
        "Finished recordings by state: complete, recovered, partial",
    ),
    ("ferric_rtp_packets_total", Kind::Counter, Unit::Count, "RTP packets by result: received, lost, dropped"),
    (
        "ferric_audio_lost_ms_total",
        Kind::Counter,
        Unit::Milliseconds,
        "Audio concealed or silent because packets were lost",
    ),
    (
        "ferric_encode_seconds_total",
        Kind::Counter,
        Unit::Seconds,
        "Time that shards spent on calls: receive, decode, encode, seal",
    ),
    ("ferric_spool_bytes", Kind::Gauge, Unit::Bytes, "Bytes in the spool"),
    ("ferric_spool_recordings", Kind::Gauge, Unit::Count, "Recordings in the spool"),
    ("ferric_spool_open", Kind::Gauge, Unit::Count, "1 while the spool takes calls, 0 past its high-water mark"),
    ("ferric_uploads_total", Kind::Counter, Unit::Count, "Uploads by result: stored, failed"),
    ("ferric_upload_lag_seconds", Kind::Gauge, Unit::Seconds, "Age of the oldest recording that waits for the store"),
    ("ferric_catalog_waiting", Kind::Gauge, Unit::Count, "Entries that wait for the catalogue, in memory and on disk"),
    (
        "ferric_catalog_lost_total",
        Kind::Counter,
        Unit::Count,
        "Entries that the catalogue did not get: no room while it was away, or it did not accept them",
    ),
    ("ferric_sip_messages_total", Kind::Counter, Unit::Count, "SIP messages by transport, kind and method"),
    ("ferric_sip_transactions_active", Kind::Gauge, Unit::Count, "SIP transactions kept, lingering ones included"),
    ("ferric_sip_rejected_total", Kind::Counter, Unit::Count, "Requests refused, by reason"),
    (
        "ferric_proxy_requests_total",
        Kind::Counter,
        Unit::Count,
        "Requests that the proxy saw to their end, by side (upstream, or why we answered) and class of the answer",
    ),
    ("ferric_proxy_open", Kind::Gauge, Unit::Count, "Requests that the proxy has under way"),
    (
        "ferric_group_element_up",
        Kind::Gauge,
        Unit::Count,
        "1 while an element of a server group takes calls; NaN once it is no longer configured",
    ),
    (
        "ferric_group_calls_total",
        Kind::Counter,
        Unit::Count,
        "Requests to an element by result: answered, refused, failed_over",
    ),
    ("ferric_dns_silent", Kind::Gauge, Unit::Count, "1 while no name server answers; names known before are used on"),
    ("ferric_dns_waiting", Kind::Gauge, Unit::Count, "Requests that wait for a name never known before"),
    (
        "ferric_registrar_total",
        Kind::Counter,
        Unit::Count,
        "REGISTERs and bindings by what became of them: accepted, refused, challenged, stale, wrong_password, throttled, expired, flow_lost",
    ),
    ("ferric_registrations", Kind::Gauge, Unit::Count, "Contacts registered"),
    (
        "ferric_registrations_unshared_total",
        Kind::Counter,
        Unit::Count,
        "Registrations that the other nodes of the cluster were not told of: too long, or too many",
    ),
    ("ferric_request_log_lost_total", Kind::Counter, Unit::Count, "Finished requests that the log could not take"),
    ("ferric_hep_lost_total", Kind::Counter, Unit::Count, "Copies of signalling that did not get to Homer"),
    (
        "ferric_failovers_total",
        Kind::Counter,
        Unit::Count,
        "Work that moved to another place, by kind: element, worker, mirror (a copy went on)",
    ),
    (
        "ferric_sip_dropped_total",
        Kind::Counter,
        Unit::Count,
        "Messages dropped by a limit, and connections, by reason: rate, send_queue, connections, handshake, slow",
    ),
    ("ferric_sip_connections", Kind::Gauge, Unit::Count, "SIP stream connections"),
    ("ferric_shard_lag_seconds", Kind::Gauge, Unit::Seconds, "How late the busiest shard visits its calls"),
    ("ferric_rtp_ports_free", Kind::Gauge, Unit::Count, "RTP port pairs not in use"),
    ("ferric_srtp_undecryptable_total", Kind::Counter, Unit::Count, "Alarms about SRTP that no agreed key opens"),
    (
        "ferric_assurance_total",
        Kind::Counter,
        Unit::Count,
        "INVITEs for recording by outcome: complete, recovered, partial, refused",
    ),
    ("ferric_mirror_originals", Kind::Gauge, Unit::Count, "Calls here that a second worker copies"),
    ("ferric_mirror_copies", Kind::Gauge, Unit::Count, "Copies of other workers' calls that run here"),
    ("ferric_mirror_held", Kind::Gauge, Unit::Count, "Ended copies that wait until their original is stored"),
    ("ferric_mirror_promoted_total", Kind::Counter, Unit::Count, "Copies that went on as the recording"),
    ("ferric_mirror_frames_again_total", Kind::Counter, Unit::Count, "Frames sent again because a copy lacked them"),
    ("ferric_mirror_frames_lost_total", Kind::Counter, Unit::Count, "Frames that copies here never got"),
    ("ferric_mirror_dropped_total", Kind::Counter, Unit::Count, "Copies deleted, their original being in the store"),
    (
        "ferric_mirror_released_total",
        Kind::Counter,
        Unit::Count,
        "Copies stored in place of, or besides, their original",
    ),
    ("ferric_cluster_replicas", Kind::Gauge, Unit::Count, "Copies of other nodes' dialogs that this node keeps"),
    (
        "ferric_cluster_replication_lag_seconds",
        Kind::Gauge,
        Unit::Seconds,
        "Age of the oldest change that the partner has not confirmed",
    ),
    ("ferric_cluster_partner", Kind::Gauge, Unit::Count, "1 while another node keeps copies of this node's dialogs"),
    (
        "ferric_cluster_replicas_refused_total",
        Kind::Counter,
        Unit::Count,
        "Copies that were not kept, since their number or size was past its bound",
    ),
    ("ferric_cluster_node_up", Kind::Gauge, Unit::Count, "1 while this node has a link to the node, or is it"),
    ("ferric_cluster_link_rtt_seconds", Kind::Gauge, Unit::Seconds, "Smoothed round trip of heartbeats to a node"),
    ("ferric_cluster_link_jitter_seconds", Kind::Gauge, Unit::Seconds, "Smoothed jitter of heartbeats from a node"),
    (
        "ferric_cluster_link_loss_ratio",
        Kind::Gauge,
        Unit::Count,
        "Share of the last heartbeats of a node that did not come",
    ),
    ("ferric_cluster_clock_ahead_seconds", Kind::Gauge, Unit::Seconds, "By how much the clock of a node is ahead"),
    ("ferric_cluster_nats_up", Kind::Gauge, Unit::Count, "1 while NATS is connected"),
    ("ferric_cluster_fabric_unread_total", Kind::Counter, Unit::Count, "Messages of other nodes that found no reader"),
    (
        "ferric_cluster_fabric_datagrams_lost_total",
        Kind::Counter,
        Unit::Count,
        "Datagrams of other nodes not read in time",
    ),
    (
        "ferric_cluster_state_dropped_total",
        Kind::Counter,
        Unit::Count,
        "Messages of soft state not sent or kept at once",
    ),
    ("ferric_alarms", Kind::Gauge, Unit::Count, "Alarms that stand"),
];

/// Gauges with labels: they begin when there is something to tell.
const LABELLED: [&str; 6] = [
    "ferric_group_element_up",
    "ferric_cluster_node_up",
    "ferric_cluster_link_rtt_seconds",
    "ferric_cluster_link_jitter_seconds",
    "ferric_cluster_link_loss_ratio",
    "ferric_cluster_clock_ahead_seconds",
];

/// Installs the recorder of this process; a second call finds the first.
///
/// # Errors
/// When another recorder is installed already.
pub fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    for (name, kind, unit, help) in TABLE {
        match kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
        }
    }
    for (name, kind, ..) in TABLE {
        if kind == Kind::Gauge && !LABELLED.contains(&name) {
            gauge!(name).set(0.0);
        }
    }
    Ok(handle)
}

/// A call's result.
pub fn call(result: &'static str) {
    counter!("ferric_calls_total", "result" => result).increment(1);
}

/// A finished recording.
pub fn recording(state: &'static str) {
    counter!("ferric_recordings_total", "state" => state).increment(1);
}

/// An upload's result.
pub fn upload(result: &'static str) {
    counter!("ferric_uploads_total", "result" => result).increment(1);
}

/// Which way a SIP message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SipKind {
    /// A request came.
    Request,
    /// A response came.
    Response,
    /// A request left.
    RequestSent,
    /// A response left.
    ResponseSent,
}

const KINDS: [&str; 4] = ["request", "response", "request_sent", "response_sent"];
const METHODS: [&str; 10] =
    ["INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "INFO", "UPDATE", "PRACK", "other"];
const TRANSPORTS: [&str; 3] = ["udp", "tcp", "tls"];
/// Handles are kept: looking one up by its labels costs more than reading the message.
static MESSAGES: [[[OnceLock<Counter>; METHODS.len()]; KINDS.len()]; TRANSPORTS.len()] =
    [const { [const { [const { OnceLock::new() }; METHODS.len()] }; KINDS.len()] }; TRANSPORTS.len()];

/// A SIP message; methods outside of the registry count as `other`.
pub fn sip_message(transport: Transport, kind: SipKind, method: &ferric_sip::Method) {
    use ferric_sip::Method as M;
    let method = match method {
        M::Invite => 0,
        M::Ack => 1,
        M::Bye => 2,
        M::Cancel => 3,
        M::Register => 4,
        M::Options => 5,
        M::Info => 6,
        M::Update => 7,
        M::Prack => 8,
        M::Subscribe | M::Notify | M::Refer | M::Message | M::Publish | M::Other(_) => 9,
    };
    let transport = match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
    };
    let kind = match kind {
        SipKind::Request => 0,
        SipKind::Response => 1,
        SipKind::RequestSent => 2,
        SipKind::ResponseSent => 3,
    };
    let (Some(way), Some(kind_name), Some(method_name)) =
        (TRANSPORTS.get(transport), KINDS.get(kind), METHODS.get(method))
    else {
        return;
    };
    let place = MESSAGES.get(transport).and_then(|kinds| kinds.get(kind)).and_then(|methods| methods.get(method));
    if let Some(place) = place {
        let new = || counter!("ferric_sip_messages_total", "transport" => *way, "kind" => *kind_name, "method" => *method_name);
        place.get_or_init(new).increment(1);
    }
}

/// A request of the proxy is over: who answered it, and the class of the answer.
pub fn proxy_request(side: &'static str, status: u16) {
    let class = match status {
        0..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        600.. => "6xx",
    };
    counter!("ferric_proxy_requests_total", "side" => side, "class" => class).increment(1);
}

/// An element of a server group: whether it takes calls, and its running totals.
pub fn element(group: &str, element: &str, up: bool, results: [(&'static str, u64); 3]) {
    let labels = [("group", group.to_owned()), ("element", element.to_owned())];
    gauge!("ferric_group_element_up", &labels).set(if up { 1.0 } else { 0.0 });
    for (result, count) in results {
        let [a, b] = labels.clone();
        counter!("ferric_group_calls_total", &[a, b, ("result", result.to_owned())]).absolute(count);
    }
}

/// Messages that a limit dropped, as a running total.
pub fn dropped(reason: &'static str, count: u64) {
    counter!("ferric_sip_dropped_total", "reason" => reason).absolute(count);
}

/// What became of REGISTERs and bindings, as running totals.
pub fn registrar(results: [(&'static str, u64); 8]) {
    for (result, count) in results {
        counter!("ferric_registrar_total", "result" => result).absolute(count);
    }
}

/// Whether a node of the cluster is there.
pub fn node_up(node: &str, up: bool) {
    gauge!("ferric_cluster_node_up", "node" => node.to_owned()).set(f64::from(u8::from(up)));
}

/// The link to a node.
#[allow(clippy::cast_precision_loss)]
pub fn link(node: &str, rtt: Option<Duration>, jitter: Duration, loss: f64, clock_ahead_ms: i64) {
    let of = |name: &'static str| gauge!(name, "node" => node.to_owned());
    if let Some(rtt) = rtt {
        of("ferric_cluster_link_rtt_seconds").set(rtt.as_secs_f64());
    }
    of("ferric_cluster_link_jitter_seconds").set(jitter.as_secs_f64());
    of("ferric_cluster_link_loss_ratio").set(loss);
    of("ferric_cluster_clock_ahead_seconds").set(clock_ahead_ms as f64 / 1_000.0);
}

/// Work that moved to another place.
pub fn failovers(kind: &'static str, count: u64) {
    counter!("ferric_failovers_total", "kind" => kind).increment(count);
}

/// An element that is no longer configured.
pub fn element_gone(group: &str, element: &str) {
    gauge!("ferric_group_element_up", &[("group", group.to_owned()), ("element", element.to_owned())]).set(f64::NAN);
}

/// A request refused.
pub fn rejected(reason: &'static str) {
    counter!("ferric_sip_rejected_total", "reason" => reason).increment(1);
}

/// SRTP that cannot be opened.
pub fn undecryptable() {
    counter!("ferric_srtp_undecryptable_total").increment(1);
}

/// The outcome of an INVITE.
pub fn assurance(outcome: &'static str) {
    counter!("ferric_assurance_total", "outcome" => outcome).increment(1);
}

/// A gauge of the table.
pub fn set(name: &'static str, value: f64) {
    debug_assert!(TABLE.iter().any(|row| row.0 == name && row.1 == Kind::Gauge), "{name} is not in the table");
    gauge!(name).set(value);
}

/// A counter of the table that is measured elsewhere as a running total.
pub fn total(name: &'static str, value: u64) {
    debug_assert!(TABLE.iter().any(|row| row.0 == name && row.1 == Kind::Counter), "{name} is not in the table");
    counter!(name).absolute(value);
}

/// RTP packets as running totals by result.
pub fn rtp_packets(result: &'static str, value: u64) {
    counter!("ferric_rtp_packets_total", "result" => result).absolute(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_prefix_and_stand_once() {
        let mut names: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
        assert!(names.iter().all(|name| name.starts_with("ferric_")));
        assert!(TABLE.iter().all(|row| (row.1 == Kind::Counter) == row.0.ends_with("_total")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
