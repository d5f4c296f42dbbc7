//! The plan: sections of lines, each an amount and the formula that it came from.
//!
//! Nodes are counted for the worst that is promised: with several sites the loss of a whole one, with one site the loss of
//! one node. A mirrored call takes a place on two workers, and does so as well when a site is lost: the mirror then runs between
//! workers of one site.

use serde::Serialize;

use super::amount::{Amount, thousands};
use super::demand::{Demand, up};
use super::figures as f;

/// What an installation takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// In the order in which a person asks.
    pub sections: Vec<Section>,
    /// What to know beside the numbers.
    pub notes: Vec<String>,
}

/// Lines about one matter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its name for machines.
    pub key: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// The result.
    #[serde(flatten)]
    pub amount: Amount,
    /// Where it came from, with the numbers put in.
    pub formula: String,
}

/// How many nodes there are, which most other lines need.
struct Nodes {
    workers_per_site: u64,
    workers: u64,
    /// Workers that are left after the worst that is promised.
    workers_left: u64,
    sip_per_site: u64,
    sip: u64,
}

impl Plan {
    pub(super) fn of(demand: &Demand) -> Plan {
        let nodes = nodes(demand);
        let sections = vec![
            calls(demand),
            machines(demand, &nodes),
            network(demand),
            storage(demand, &nodes),
            memory(demand),
            state(demand),
        ];
        Plan { sections, notes: notes(demand, &nodes) }
    }

    /// A line by its key.
    pub fn line(&self, key: &str) -> Option<&Line> {
        self.sections.iter().flat_map(|section| &section.lines).find(|line| line.key == key)
    }
}

fn line(key: &'static str, name: &'static str, amount: Amount, formula: impl Into<String>) -> Line {
    Line { key, name, amount, formula: formula.into() }
}

fn site_or_sites(count: u64) -> &'static str {
    if count == 1 { "site" } else { "sites" }
}

fn copies(demand: &Demand) -> u64 {
    if demand.wish.mirror { 2 } else { 1 }
}

fn nodes(demand: &Demand) -> Nodes {
    let (sites, room) = (demand.wish.sites, demand.calls_per_worker());
    let recorded = demand.calls * copies(demand);
    // Whatever is lost, a worker or a site: all that is recorded fits on the others.
    let for_a_worker = (recorded.div_ceil(room) + 1).div_ceil(sites);
    let for_a_site = if sites > 1 { recorded.div_ceil(room * (sites - 1)) } else { 0 };
    let workers_per_site = for_a_worker.max(for_a_site).max(1);
    let workers = workers_per_site * sites;
    let workers_left = if sites > 1 { workers - workers_per_site } else { workers - 1 };
    let setups = demand.wish.cores * f::SETUPS_PER_CORE;
    let sites_left = if sites > 1 { sites - 1 } else { 1 };
    let sip_per_site = demand.busy_hour_calls.div_ceil(3600 * setups * sites_left) + 1;
    Nodes { workers_per_site, workers, workers_left, sip_per_site, sip: sip_per_site * sites }
}

fn calls(demand: &Demand) -> Section {
    let mut lines = Vec::new();
    if let Some(agents) = demand.wish.agents {
        lines.push(line("agents", "agents", Amount::Count(agents), "given"));
    }
    lines.extend([
        line("concurrent_calls", "calls at once", Amount::Count(demand.calls), demand.calls_from.clone()),
        line("minutes_per_call", "length of a call", Amount::Minutes(demand.minutes), demand.minutes_from.clone()),
        line(
            "busy_hour_calls",
            "calls in the busy hour",
            Amount::Count(demand.busy_hour_calls),
            demand.busy_hour_from.clone(),
        ),
        line(
            "calls_per_second",
            "new calls",
            Amount::PerSecond(per_second(demand)),
            format!("{} an hour / 3,600", thousands(demand.busy_hour_calls)),
        ),
    ]);
    Section { title: "Calls", lines }
}

#[allow(clippy::cast_precision_loss)]
fn per_second(demand: &Demand) -> f64 {
    demand.busy_hour_calls as f64 / 3600.0
}

#[allow(clippy::cast_precision_loss)]
fn machines(demand: &Demand, nodes: &Nodes) -> Section {
    let (sites, cores, room) = (demand.wish.sites, demand.wish.cores, demand.calls_per_worker());
    let by_ports = f::RTP_PORTS / f::PORTS_PER_CALL;
    let room_from = format!(
        "the smaller of {cores} cores x {} and {} RTP ports / {}: [capture] max_calls",
        f::CALLS_PER_CORE,
        thousands(f::RTP_PORTS),
        f::PORTS_PER_CALL
    );
    let recorded = demand.calls * copies(demand);
    let what = if demand.wish.mirror { "calls x 2 (mirror)" } else { "calls" };
    let mut workers_from = format!("{} {what} / {room}, rounded up, and 1 that may be lost", thousands(demand.calls));
    if sites > 1 {
        workers_from = format!(
            "the larger of ({workers_from}) / {sites} sites, and {} {what} / {room} / {} {} left",
            thousands(demand.calls),
            sites - 1,
            site_or_sites(sites - 1)
        );
    }
    let load = recorded as f64 / (nodes.workers * room) as f64;
    let load_left = recorded as f64 / (nodes.workers_left * room) as f64;
    let setups = cores * f::SETUPS_PER_CORE;
    let lost = if sites > 1 { "with a site lost" } else { "with a worker lost" };
    let mut lines = vec![
        line("calls_per_worker", "calls of a worker", Amount::Count(room), room_from),
        line("workers_per_site", "workers in a site", Amount::Count(nodes.workers_per_site), workers_from),
        line(
            "workers",
            "workers",
            Amount::Count(nodes.workers),
            format!("{} x {sites} {}", nodes.workers_per_site, site_or_sites(sites)),
        ),
        line(
            "worker_load",
            "their places taken",
            Amount::Share(load),
            format!("{} {what} / ({} x {room})", thousands(demand.calls), nodes.workers),
        ),
        line(
            "worker_load_after_loss",
            if sites > 1 { "the same, a site lost" } else { "the same, a worker lost" },
            Amount::Share(load_left),
            format!("{} {what} / ({} workers left {lost} x {room})", thousands(demand.calls), nodes.workers_left),
        ),
        line(
            "sip_nodes_per_site",
            "proxy and SRS nodes in a site",
            Amount::Count(nodes.sip_per_site),
            format!(
                "{:.2} new calls/s / {setups} ({cores} cores x {}){}, rounded up, and 1 that may be lost",
                per_second(demand),
                f::SETUPS_PER_CORE,
                if sites > 1 { format!(" / {} {} left", sites - 1, site_or_sites(sites - 1)) } else { String::new() }
            ),
        ),
        line(
            "sip_nodes",
            "proxy and SRS nodes",
            Amount::Count(nodes.sip),
            format!("{} x {sites} {}", nodes.sip_per_site, site_or_sites(sites)),
        ),
    ];
    if room == by_ports
        && cores * f::CALLS_PER_CORE > by_ports
        && let Some(first) = lines.first_mut()
    {
        first.formula.push_str("; a wider rtp_ports lets more cores count");
    }
    Section { title: "Nodes", lines }
}

/// What SRTP adds to a packet, bytes.
const SRTP_TAG: u64 = 10;

/// Bits a second of one stream on the wire.
fn stream_bits(demand: &Demand, overhead: u64) -> u64 {
    let tag = if demand.wish.srtp { SRTP_TAG } else { 0 };
    (demand.wish.codec.payload_bytes() + overhead + tag) * f::PACKETS_PER_SECOND * 8
}

#[allow(clippy::cast_precision_loss)]
fn network(demand: &Demand) -> Section {
    let (sites, wish) = (demand.wish.sites, &demand.wish);
    let srtp = if wish.srtp { " + 10 (SRTP)" } else { "" };
    let of_call = f::STREAMS_PER_CALL * stream_bits(demand, f::RTP_OVERHEAD);
    let calls = thousands(demand.calls);
    let mut lines = vec![
        line(
            "rtp_per_call",
            "RTP of a call",
            Amount::Bits(of_call as f64),
            format!(
                "{} streams x {}/s x ({} {} + {}{srtp} B of headers down to Ethernet) x 8",
                f::STREAMS_PER_CALL,
                f::PACKETS_PER_SECOND,
                wish.codec.payload_bytes(),
                wish.codec.name(),
                f::RTP_OVERHEAD
            ),
        ),
        line(
            "rtp_per_worker",
            "RTP into a full worker",
            Amount::Bits((of_call * demand.calls_per_worker()) as f64),
            format!("{} x {}", demand.calls_per_worker(), Amount::Bits(of_call as f64)),
        ),
        if sites > 1 {
            // With two sites the one that is left gets everything.
            let share = demand.calls.div_ceil(sites - 1);
            line(
                "rtp_per_site",
                "RTP into a site, another lost",
                Amount::Bits((of_call * share) as f64),
                format!("{calls} calls / {} x {}", sites - 1, Amount::Bits(of_call as f64)),
            )
        } else {
            line(
                "rtp_per_site",
                "RTP into the site",
                Amount::Bits((of_call * demand.calls) as f64),
                format!("{calls} calls x {}", Amount::Bits(of_call as f64)),
            )
        },
    ];
    if wish.mirror {
        // Packets travel as they came.
        let tag = if wish.srtp { SRTP_TAG } else { 0 };
        let bytes = wish.codec.payload_bytes() + 12 + tag + f::MIRROR_OVERHEAD;
        let of_mirror = f::STREAMS_PER_CALL * bytes * f::PACKETS_PER_SECOND * 8;
        let share = demand.calls.div_ceil(sites);
        lines.push(line(
            "mirror_per_site",
            if sites > 1 { "mirror out of a site, and into it" } else { "mirror between the workers" },
            Amount::Bits((of_mirror * share) as f64),
            format!(
                "{calls} calls / {sites} x {} streams x {}/s x ({} + 12 RTP{srtp} + {} fabric B) x 8",
                f::STREAMS_PER_CALL,
                f::PACKETS_PER_SECOND,
                wish.codec.payload_bytes(),
                f::MIRROR_OVERHEAD
            ),
        ));
    }
    let upload = demand.average_calls * f::SEALED_BITS_PER_SECOND as f64;
    let sealed = Amount::Bits(f::SEALED_BITS_PER_SECOND as f64);
    lines.push(line(
        "upload",
        "upload in the busy hour",
        Amount::Bits(upload),
        format!("{} calls x {sealed} sealed; a mirror's copy is not uploaded", thousands(up(demand.average_calls))),
    ));
    let verified = if wish.mirror {
        "the same twice: by who put it, and by who drops the copy"
    } else {
        "the same: what was put is verified"
    };
    lines.push(line("read_back", "read back from the store", Amount::Bits(upload * copies(demand) as f64), verified));
    if wish.store_outage_hours > 0.0 {
        lines.push(line(
            "upload_catching_up",
            "upload, catching up",
            Amount::Bits(2.0 * upload),
            "twice that: an outage is made good in the time that it took, calls going on",
        ));
    }
    Section { title: "Network", lines }
}

#[allow(clippy::cast_precision_loss)]
fn storage(demand: &Demand, nodes: &Nodes) -> Section {
    let wish = &demand.wish;
    let of_minute = f::SEALED_BITS_PER_SECOND as f64 * 60.0 / 8.0;
    let recordings = demand.busy_hour_calls as f64 * wish.hours_per_day;
    let day = recordings * (demand.minutes * of_minute + f::DOCUMENTS_BYTES as f64);
    let outage = day * wish.store_outage_hours / 24.0;
    // A mirror's copy waits until the store has the original.
    let spool = outage * copies(demand) as f64 / nodes.workers_left as f64 / (f::SPOOL_FILL_PERCENT as f64 / 100.0);
    let twice = if demand.wish.mirror { " x 2 (copies wait too)" } else { "" };
    Section {
        title: "Storage",
        lines: vec![
            line(
                "bytes_per_minute",
                "a minute of a call",
                Amount::Bytes(of_minute),
                format!("{} x 60 / 8; G.711 itself is 0.48 MB a party", Amount::Bits(f::SEALED_BITS_PER_SECOND as f64)),
            ),
            line(
                "recordings_per_day",
                "recordings a day",
                Amount::Count(up(recordings)),
                format!("{} an hour x {} h", thousands(demand.busy_hour_calls), wish.hours_per_day),
            ),
            line(
                "bytes_per_day",
                "into the store a day",
                Amount::Bytes(day),
                format!(
                    "{} x ({:.2} min x {} + {} of documents)",
                    thousands(up(recordings)),
                    demand.minutes,
                    Amount::Bytes(of_minute),
                    Amount::Bytes(f::DOCUMENTS_BYTES as f64)
                ),
            ),
            line(
                "bytes_kept",
                "in the store",
                Amount::Bytes(day * wish.retention_days),
                format!("{} x {} days", Amount::Bytes(day), wish.retention_days),
            ),
            line(
                "spool_per_worker",
                "spool of a worker",
                Amount::Bytes(spool),
                format!(
                    "{} x {} h without the store / 24{twice} / {} workers left / {} % (spool_high_water)",
                    Amount::Bytes(day),
                    wish.store_outage_hours,
                    nodes.workers_left,
                    f::SPOOL_FILL_PERCENT
                ),
            ),
        ],
    }
}

#[allow(clippy::cast_precision_loss)]
fn memory(demand: &Demand) -> Section {
    let room = demand.calls_per_worker();
    let ring = if demand.wish.mirror { f::MIRROR_RING_BYTES } else { 0 };
    let of_call = f::CALL_BYTES + f::SOCKET_BYTES + ring;
    let registrations = demand.wish.agents.unwrap_or(demand.calls);
    let kib = |bytes: u64| bytes >> 10;
    Section {
        title: "Memory in use",
        lines: vec![
            line(
                "memory_per_worker",
                "a full worker",
                Amount::Bytes((f::NODE_BYTES + room * of_call) as f64),
                format!(
                    "{} MiB + {room} x ({} KiB + {} KiB in sockets{})",
                    f::NODE_BYTES >> 20,
                    kib(f::CALL_BYTES),
                    kib(f::SOCKET_BYTES),
                    if ring > 0 { format!(" + {} KiB for the mirror", kib(ring)) } else { String::new() }
                ),
            ),
            line(
                "memory_per_sip_node",
                "a proxy and SRS node",
                Amount::Bytes(
                    (f::NODE_BYTES + demand.calls * f::SESSION_BYTES + registrations * f::REGISTRATION_BYTES) as f64,
                ),
                format!(
                    "{} MiB + {} calls x {} KiB + {} registrations x 1.4 KiB",
                    f::NODE_BYTES >> 20,
                    thousands(demand.calls),
                    kib(f::SESSION_BYTES),
                    thousands(registrations)
                ),
            ),
        ],
    }
}

#[allow(clippy::cast_precision_loss)]
fn state(demand: &Demand) -> Section {
    let recordings = demand.busy_hour_calls as f64 * demand.wish.hours_per_day;
    let kept = recordings * demand.wish.retention_days;
    Section {
        title: "State",
        lines: vec![
            line(
                "nats_servers",
                "NATS servers",
                Amount::Count(f::NATS_SERVERS),
                "one may be lost; each a core, 1 GB of memory, 10 GB of disk. Calls do not wait for them",
            ),
            line(
                "catalog_writes_per_second",
                "writes to the catalogue",
                Amount::PerSecond(per_second(demand) * f::CATALOG_WRITES as f64),
                format!("{:.2} calls/s x {}", per_second(demand), f::CATALOG_WRITES),
            ),
            line(
                "catalog_bytes",
                "catalogue on PostgreSQL",
                Amount::Bytes(kept * f::CATALOG_ROW_BYTES as f64),
                format!(
                    "{} recordings a day x {} days x {}",
                    thousands(up(recordings)),
                    demand.wish.retention_days,
                    Amount::Bytes(f::CATALOG_ROW_BYTES as f64)
                ),
            ),
        ],
    }
}

fn notes(demand: &Demand, nodes: &Nodes) -> Vec<String> {
    let mut notes = Vec::new();
    let sites = demand.wish.sites;
    if nodes.workers_per_site <= nodes.sip_per_site {
        notes.push(format!(
            "So few workers may be the same machines as the proxy and SRS nodes: {} a site with all roles.",
            nodes.workers_per_site.max(nodes.sip_per_site)
        ));
    }
    if sites == 1 {
        notes.push("One site: its loss is not survived. --sites 2 shows what that takes.".to_owned());
    }
    if sites == 2 {
        notes
            .push("The third NATS server belongs in a third place, so that either site keeps two of three.".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::demand::{Codec, Wish};
    use super::*;

    fn reference() -> Wish {
        Wish { agents: Some(2_000), sites: 2, ..Wish::default() }
    }

    fn value(wish: &Wish, key: &str) -> f64 {
        wish.demand().unwrap().plan().line(key).unwrap_or_else(|| panic!("{key}")).amount.number()
    }

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= wanted.abs() * 1e-6, "{found} is not {wanted}");
    }

    /// Reckoned by hand: 28,800 / 3,600 = 8 calls/s. A worker takes 800; 2,000 / 800 = 2.5, so one site alone needs 3.
    #[test]
    fn the_reference_in_two_sites() {
        for (key, wanted) in [
            ("calls_per_second", 8.0),
            ("calls_per_worker", 800.0),
            ("workers_per_site", 3.0),
            ("workers", 6.0),
            ("worker_load", 2_000.0 / 4_800.0),
            ("worker_load_after_loss", 2_000.0 / 2_400.0),
            // 8 calls/s are less than the 200 of one node: 1, and 1 spare.
            ("sip_nodes_per_site", 2.0),
            ("sip_nodes", 4.0),
            // 2 x 50 x (160 + 58) x 8
            ("rtp_per_call", 174_400.0),
            ("rtp_per_worker", 139_520_000.0),
            ("rtp_per_site", 348_800_000.0),
            // 2,000 x 17 kbit/s
            ("upload", 34e6),
            ("upload_catching_up", 68e6),
            // 17,000 x 60 / 8
            ("bytes_per_minute", 127_500.0),
            ("recordings_per_day", 230_400.0),
            // 230,400 x (25/6 min x 127,500 + 6,000) = 230,400 x 537,250
            ("bytes_per_day", 123_782_400_000.0),
            ("bytes_kept", 123_782_400_000.0 * 365.0),
            // Three days on the 3 workers of one site, 90 % full: as much as one day / 0.9.
            ("spool_per_worker", 123_782_400_000.0 / 0.9),
            // 35 MiB + 800 x (103 + 125) KiB
            ("memory_per_worker", 223_477_760.0),
            ("catalog_writes_per_second", 40.0),
        ] {
            near(value(&reference(), key), wanted);
        }
    }

    #[test]
    fn a_mirror_takes_places_and_bandwidth_and_no_upload() {
        let mirrored = Wish { mirror: true, ..reference() };
        // 4,000 places / 800 = 5 in either site, when the other is lost.
        near(value(&mirrored, "workers_per_site"), 5.0);
        near(value(&mirrored, "worker_load"), 4_000.0 / 8_000.0);
        near(value(&mirrored, "worker_load_after_loss"), 1.0);
        near(value(&mirrored, "upload"), 34e6);
        // 1,000 calls x 2 x 50 x (160 + 12 + 40) x 8
        near(value(&mirrored, "mirror_per_site"), 169_600_000.0);
        // Two copies for three days on five workers, 90 % full.
        near(value(&mirrored, "spool_per_worker"), 123_782_400_000.0 * 3.0 * 2.0 / 5.0 / 0.9);
        assert!(reference().demand().unwrap().plan().line("mirror_per_site").is_none());
        let alone = Wish { mirror: true, sites: 1, ..reference() };
        near(value(&alone, "workers"), 6.0);
    }

    #[test]
    fn one_worker_and_one_site_may_always_be_lost() {
        for sites in 1..=5 {
            for calls in [1, 799, 800, 801, 1_600, 5_000, 40_000] {
                for mirror in [false, true] {
                    let wish = Wish { calls: Some(calls), sites, mirror, ..Wish::default() };
                    let demand = wish.demand().unwrap();
                    let nodes = nodes(&demand);
                    let room = demand.calls_per_worker();
                    let recorded = calls * copies(&demand);
                    assert!((nodes.workers - 1) * room >= recorded, "{wish:?}");
                    assert!(nodes.workers_left * room >= recorded, "{wish:?}");
                    assert!(nodes.sip_per_site >= 2);
                    // One less in each site would break one of the promises.
                    let fewer = (nodes.workers_per_site - 1) * sites;
                    let is_least = fewer == 0
                        || (fewer - 1) * room < recorded
                        || (sites > 1 && (nodes.workers_per_site - 1) * (sites - 1) * room < recorded);
                    assert!(is_least, "{wish:?}: {} workers a site", nodes.workers_per_site);
                }
            }
        }
    }

    #[test]
    fn codecs_and_ports_count() {
        // 2 x 50 x (20 + 58 + 10) x 8
        near(value(&Wish { codec: Codec::G729, srtp: true, ..reference() }, "rtp_per_call"), 70_400.0);
        // 4,001 ports / 4, however many cores.
        near(value(&Wish { cores: 16, ..reference() }, "calls_per_worker"), 1_000.0);
        near(value(&Wish { cores: 1, ..reference() }, "calls_per_worker"), 400.0);
    }

    #[test]
    fn keys_stand_once_and_every_line_says_where_it_came_from() {
        let plan = Wish { mirror: true, ..reference() }.demand().unwrap().plan();
        let mut keys: Vec<_> = plan.sections.iter().flat_map(|section| &section.lines).map(|line| line.key).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert!(plan.sections.iter().flat_map(|section| &section.lines).all(|line| !line.formula.is_empty()));
    }

    #[test]
    fn the_largest_plan_overflows_nothing() {
        let wish = Wish {
            calls: Some(10_000_000),
            agents: Some(1_000_000_000),
            minutes_per_call: Some(0.02),
            mirror: true,
            cores: 256,
            ..Wish::default()
        };
        let plan = Wish { sites: 64, retention_days: 36_500.0, hours_per_day: 24.0, ..wish }.demand().unwrap().plan();
        assert!(plan.sections.iter().flat_map(|section| &section.lines).all(|line| line.amount.number().is_finite()));
    }
}
