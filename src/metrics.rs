//! Every metric: name, kind, labels and meaning, in one table. The parts return
//! numbers; the node hands them over here.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// Name, kind, unit, meaning.
type Row = (&'static str, Kind, Unit, &'static str);

const TABLE: [Row; 20] = [
    ("ferric_calls_active", Kind::Gauge, Unit::Count, "Recording sessions at the moment"),
    ("ferric_calls_total", Kind::Counter, Unit::Count, "Recording sessions by result: recorded, refused, cancelled"),
    ("ferric_recordings_total", Kind::Counter, Unit::Count, "Finished recordings by state: complete, recovered, partial"),
    ("ferric_rtp_packets_total", Kind::Counter, Unit::Count, "RTP packets by result: received, lost, dropped"),
    ("ferric_audio_lost_ms_total", Kind::Counter, Unit::Milliseconds, "Audio concealed or silent because packets were lost"),
    ("ferric_encode_seconds_total", Kind::Counter, Unit::Seconds, "Time that shards spent on calls: receive, decode, encode, seal"),
    ("ferric_spool_bytes", Kind::Gauge, Unit::Bytes, "Bytes in the spool"),
    ("ferric_spool_recordings", Kind::Gauge, Unit::Count, "Recordings in the spool"),
    ("ferric_spool_open", Kind::Gauge, Unit::Count, "1 while the spool takes calls, 0 past its high-water mark"),
    ("ferric_uploads_total", Kind::Counter, Unit::Count, "Uploads by result: stored, failed"),
    ("ferric_upload_lag_seconds", Kind::Gauge, Unit::Seconds, "Age of the oldest recording that waits for the store"),
    ("ferric_sip_messages_total", Kind::Counter, Unit::Count, "SIP messages by transport, kind and method"),
    ("ferric_sip_transactions_active", Kind::Gauge, Unit::Count, "SIP transactions kept, lingering ones included"),
    ("ferric_sip_rejected_total", Kind::Counter, Unit::Count, "Requests refused, by reason"),
    ("ferric_sip_connections", Kind::Gauge, Unit::Count, "SIP stream connections"),
    ("ferric_shard_lag_seconds", Kind::Gauge, Unit::Seconds, "How late the busiest shard visits its calls"),
    ("ferric_rtp_ports_free", Kind::Gauge, Unit::Count, "RTP port pairs not in use"),
    ("ferric_srtp_undecryptable_total", Kind::Counter, Unit::Count, "Alarms about SRTP that no agreed key opens"),
    ("ferric_assurance_total", Kind::Counter, Unit::Count, "INVITEs for recording by outcome: complete, recovered, partial, refused"),
    ("ferric_alarms", Kind::Gauge, Unit::Count, "Alarms that stand"),
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
        if kind == Kind::Gauge {
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

/// A SIP message; methods outside of the registry count as `other`.
pub fn sip_message(transport: &'static str, kind: &'static str, method: &ferric_sip::Method) {
    use ferric_sip::Method as M;
    let method = match method {
        M::Invite => "INVITE",
        M::Ack => "ACK",
        M::Bye => "BYE",
        M::Cancel => "CANCEL",
        M::Register => "REGISTER",
        M::Options => "OPTIONS",
        M::Info => "INFO",
        M::Update => "UPDATE",
        M::Prack => "PRACK",
        M::Subscribe | M::Notify | M::Refer | M::Message | M::Publish | M::Other(_) => "other",
    };
    counter!("ferric_sip_messages_total", "transport" => transport, "kind" => kind, "method" => method).increment(1);
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
