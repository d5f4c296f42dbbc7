//! The log: to standard error, for people on a terminal, else plain lines or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` chooses what (`info` by default), `FERRIC_LOG_FORMAT=json` the form.
pub(crate) fn start(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start (in tests) keeps the first.
    let _ = if std::env::var("FERRIC_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().try_init()
    } else {
        builder.with_target(false).try_init()
    };
}
