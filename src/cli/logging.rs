//! The log: to standard error, for people on a terminal, else plain lines or JSON.
//!
//! A line that cannot be written is dropped: the log never stops the node.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::output::{LogWriter, complain};

/// Starts logging. `RUST_LOG` chooses what (`info` by default), `FERRIC_LOG_FORMAT=json` the form.
pub(crate) fn start(default: &str) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(default))
        .with_writer(|| LogWriter)
        // Its own report of a failed write goes through `eprintln!`, which panics.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start (in tests) keeps the first.
    let _ = if std::env::var("FERRIC_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().try_init()
    } else {
        builder.with_target(false).try_init()
    };
}

fn filter(default: &str) -> EnvFilter {
    let Some(wanted) = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.trim().is_empty()) else {
        return EnvFilter::new(default);
    };
    EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        complain!("ferric: RUST_LOG=\"{wanted}\" is not understood ({error}); using \"{default}\". Write for example info or ferric=debug");
        EnvFilter::new(default)
    })
}
