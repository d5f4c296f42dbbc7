//! `ferric nodes`: the nodes of the cluster as one of them sees them.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use ferric_media::timestamp::Timestamp;

use super::api::{Api, ApiArguments};
use super::output::{complain, say};
use crate::console::{NodeView, NodesView};

/// Between two looks with `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What `ferric nodes` takes.
#[derive(Debug, Args)]
pub(super) struct NodesArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Look again every second until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

pub(super) fn run(arguments: &NodesArguments) -> anyhow::Result<ExitCode> {
    let api = arguments.api.open()?;
    loop {
        match look(&api, arguments) {
            Ok(text) if arguments.watch => say!("\x1b[H\x1b[2J{text}"),
            Ok(text) => {
                say!("{text}");
                return Ok(ExitCode::SUCCESS);
            }
            // A node that restarts is no reason to look away.
            Err(error) if arguments.watch => complain!("ferric: {error:#}"),
            Err(error) => return Err(error),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn look(api: &Api, arguments: &NodesArguments) -> anyhow::Result<String> {
    let body = api.get("/api/v1/nodes")?;
    if arguments.json {
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    let view: NodesView = serde_json::from_slice(&body)?;
    Ok(table(&view, Timestamp::from(SystemTime::now())))
}

const HEADER: [&str; 12] =
    ["NODE", "SITE", "ROLES", "STATE", "FOR", "CALLS", "PASSING", "SPOOL", "LINK", "CLOCK", "NATS", "VERSION"];

/// The table, each column as wide as it has to be.
pub(super) fn table(view: &NodesView, now: Timestamp) -> String {
    let mut rows: Vec<Vec<String>> = vec![HEADER.map(str::to_owned).to_vec()];
    rows.extend(view.nodes.iter().map(|node| row(node, now)));
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..HEADER.len()).map(|column| width(column).unwrap_or(0)).collect();
    let up = view.nodes.iter().filter(|node| node.state == "up").count();
    let name = view.cluster.as_deref().map_or_else(|| "a single node".to_owned(), |name| format!("cluster {name}"));
    let mut lines = vec![format!("{name}: {up} of {} nodes up, seen from {}", view.nodes.len(), view.seen_from)];
    lines.push(String::new());
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
        lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    for node in &view.nodes {
        let reasons = node.status.iter().flat_map(|status| &status.reasons).filter(|_| node.state == "up");
        lines.extend(reasons.map(|reason| format!("{}: {reason}", node.id)));
    }
    lines.join("\n")
}

fn row(node: &NodeView, now: Timestamp) -> Vec<String> {
    let nothing = || "-".to_owned();
    let status = node.status.as_ref();
    let state = if node.draining && node.state == "up" { "draining" } else { &node.state };
    let since: Option<Timestamp> = node.since.parse().ok();
    let link = node.link.as_ref().map(|link| {
        let rtt = link.rtt_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1} ms"));
        if link.loss > 0.0 { format!("{rtt}, {:.0} % lost", (link.loss * 100.0).max(1.0)) } else { rtt }
    });
    let calls = status.map(|status| match status.load.max_calls {
        0 => "-".to_owned(),
        most => format!("{}/{most}", status.load.calls),
    });
    vec![
        if node.this { format!("{} *", node.id) } else { node.id.clone() },
        node.site.clone(),
        node.roles.join(","),
        state.to_owned(),
        since.map_or_else(nothing, |since| span(now.since(since))),
        calls.unwrap_or_else(nothing),
        status.map_or_else(nothing, |status| status.load.passing.to_string()),
        status.map_or_else(nothing, |status| size(status.load.spool_bytes)),
        link.unwrap_or_else(nothing),
        node.clock_ahead_ms.map_or_else(nothing, |ms| format!("{ms:+} ms")),
        status.map_or_else(nothing, |status| status.nats.state.clone()),
        if node.version.is_empty() { nothing() } else { node.version.clone() },
    ]
}

/// `12 s`, `5 min`, `3 h 07 min`, `12 d 4 h`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=3_599 => format!("{} min", seconds / 60),
        3_600..=86_399 => format!("{} h {:02} min", seconds / 3_600, seconds % 3_600 / 60),
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[allow(clippy::cast_precision_loss)]
fn size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1_024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1_024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::console::{LinkView, LoadView, NatsView, NodeStatus};

    #[test]
    fn a_person_sees_who_is_there_and_how_they_are() {
        let node = |id: &str, state: &str, since: &str| NodeView {
            id: id.to_owned(),
            site: "east".to_owned(),
            roles: vec!["proxy".to_owned(), "srs".to_owned()],
            version: "0.1.0".to_owned(),
            state: state.to_owned(),
            since: since.to_owned(),
            ..NodeView::default()
        };
        let status = |calls, reasons: &[&str]| {
            Some(NodeStatus {
                load: LoadView { calls, max_calls: 800, passing: 3, spool_bytes: 5 << 20, ..LoadView::default() },
                nats: NatsView { state: "up".to_owned(), ..NatsView::default() },
                reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
                ..NodeStatus::default()
            })
        };
        let link = LinkView { to: "edge-a2".to_owned(), rtt_ms: Some(0.42), jitter_ms: 0.1, loss: 0.02 };
        let view = NodesView {
            cluster: Some("ferric".to_owned()),
            seen_from: "edge-a1".to_owned(),
            nodes: vec![
                NodeView { this: true, status: status(120, &[]), ..node("edge-a1", "up", "2026-01-30T08:00:00Z") },
                NodeView {
                    draining: true,
                    link: Some(link),
                    clock_ahead_ms: Some(-12),
                    status: status(7, &["the node drains"]),
                    ..node("edge-a2", "up", "2026-01-31T08:59:00Z")
                },
                node("west-1", "down", "2026-01-31T08:59:48Z"),
            ],
        };
        insta::assert_snapshot!(table(&view, "2026-01-31T09:00:00Z".parse().unwrap()));
    }

    #[test]
    fn times_and_sizes_are_short() {
        let spans = [5, 119, 120, 11_220, 1_051_200].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["5 s", "119 s", "2 min", "3 h 07 min", "12 d 4 h"]);
        assert_eq!([0, 1_023, 1_536, 3 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]);
    }
}
