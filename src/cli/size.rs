//! `ferric size`: what an installation takes, with the formulas (`src/sizing`).

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::output::say;
use crate::config::parse_duration;
use crate::sizing::{Codec, Plan, Wish};

#[derive(Debug, Args)]
#[command(after_help = "Example: `ferric size --agents 2000 --sites 2 --mirror --explain`")]
pub(super) struct SizeArguments {
    /// People who talk; each is in a call all through the busy hour.
    #[arg(long, value_name = "N")]
    agents: Option<u64>,
    /// Calls at once, when they are known.
    #[arg(long, value_name = "N")]
    calls: Option<u64>,
    /// Length of a call in minutes [4.17 without --busy-hour-calls].
    #[arg(long, value_name = "M")]
    minutes_per_call: Option<f64>,
    /// New calls in the busiest hour.
    #[arg(long, value_name = "N")]
    busy_hour_calls: Option<u64>,
    /// Sites; with two or more, any one may be lost.
    #[arg(long, value_name = "N", default_value_t = 1)]
    sites: u64,
    /// A second worker records every call too ([recording] mirror).
    #[arg(long)]
    mirror: bool,
    /// What the SBC sends.
    #[arg(long, value_enum, default_value_t = CodecName::Pcmu)]
    codec: CodecName,
    /// The SBC sends SRTP.
    #[arg(long)]
    srtp: bool,
    /// How long recordings are kept.
    #[arg(long, value_name = "TIME", default_value = "365d")]
    retention: String,
    /// Hours a day with as many calls as the busy hour.
    #[arg(long, value_name = "H", default_value_t = 8.0)]
    hours_per_day: f64,
    /// How long the store may be away.
    #[arg(long, value_name = "TIME", default_value = "72h")]
    store_outage: String,
    /// Cores of a node.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cores: u64,
    /// Show the formula of each line.
    #[arg(long)]
    explain: bool,
    /// JSON instead of a table; formulas are in it.
    #[arg(long, conflicts_with = "explain")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CodecName {
    Pcmu,
    Pcma,
    G722,
    G729,
    Opus,
}

pub(super) fn run(arguments: &SizeArguments) -> anyhow::Result<ExitCode> {
    let plan = wish(arguments)?.demand()?.plan();
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&plan)?);
    } else {
        say!("{}", table(&plan, arguments.explain));
        if !arguments.explain {
            say!("--explain shows the formula of each line.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn wish(arguments: &SizeArguments) -> anyhow::Result<Wish> {
    let hours = |name: &str, text: &str| match parse_duration(text) {
        Some(time) => Ok(time.as_secs_f64() / 3600.0),
        None => Err(anyhow::anyhow!("{name} \"{text}\" is no time such as 72h or 365d")),
    };
    Ok(Wish {
        agents: arguments.agents,
        calls: arguments.calls,
        minutes_per_call: arguments.minutes_per_call,
        busy_hour_calls: arguments.busy_hour_calls,
        sites: arguments.sites,
        mirror: arguments.mirror,
        codec: match arguments.codec {
            CodecName::Pcmu => Codec::Pcmu,
            CodecName::Pcma => Codec::Pcma,
            CodecName::G722 => Codec::G722,
            CodecName::G729 => Codec::G729,
            CodecName::Opus => Codec::Opus,
        },
        srtp: arguments.srtp,
        retention_days: hours("--retention", &arguments.retention)? / 24.0,
        hours_per_day: arguments.hours_per_day,
        store_outage_hours: hours("--store-outage", &arguments.store_outage)?,
        cores: arguments.cores,
    })
}

/// Names to the left, amounts to the right in one column; with `explain` what they came from behind them.
fn table(plan: &Plan, explain: bool) -> String {
    let lines = || plan.sections.iter().flat_map(|section| &section.lines);
    let name = lines().map(|line| line.name.len()).max().unwrap_or(0);
    let amount = lines().map(|line| line.amount.to_string().len()).max().unwrap_or(0);
    let mut text = String::new();
    for section in &plan.sections {
        let _ = writeln!(text, "{}", section.title);
        for line in &section.lines {
            let _ = write!(text, "  {:<name$}  {:>amount$}", line.name, line.amount);
            let _ = if explain { writeln!(text, "   {}", line.formula) } else { writeln!(text) };
        }
        text.push('\n');
    }
    for note in &plan.notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: SizeArguments,
    }

    fn arguments(line: &str) -> SizeArguments {
        Line::try_parse_from(std::iter::once("size").chain(line.split_whitespace())).unwrap().arguments
    }

    #[test]
    fn the_reference_reads_well() {
        let plan = wish(&arguments("--agents 2000 --sites 2 --mirror")).unwrap().demand().unwrap().plan();
        insta::assert_snapshot!(table(&plan, false));
        insta::assert_snapshot!(table(&plan, true));
    }

    #[test]
    fn times_that_are_none_are_named() {
        for (line, name) in
            [("--agents 5 --retention 365", "--retention"), ("--agents 5 --store-outage soon", "--store-outage")]
        {
            let error = wish(&arguments(line)).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.ends_with("is no time such as 72h or 365d"), "{error}");
        }
        assert!(run(&arguments("")).unwrap_err().to_string().starts_with("how many calls?"));
    }
}
