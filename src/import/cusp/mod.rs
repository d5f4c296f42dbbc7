//! Cisco Unified SIP Proxy, releases 8.5 to 10.2: the text of `show configuration active` or `show running-config`.
//!
//! | step | file |
//! | --- | --- |
//! | lines and words | `lexer` |
//! | blocks, and what has no counterpart | `read`, `routing` |
//! | what CUSP says, in its terms | `model` |
//! | listeners, server groups, route groups, who may send | `groups` |
//! | trigger conditions as matches | `condition` |
//! | triggers, policies and tables as routes | `translate` |
//! | normalization as rewrites | `rewrite`, `pattern` |
//! | what Ferric is to be told, and as TOML | `target`, `write` |
//!
//! CUSP decides in stages (normalise, look up, choose, normalise), Ferric by one list in which the first match wins. A route
//! is made only where it means the same as what it comes from; all else is left out and said.

mod condition;
mod groups;
mod lexer;
mod model;
mod pattern;
mod read;
mod rewrite;
mod routing;
mod target;
mod translate;
mod write;

#[cfg(test)]
mod tests;

use super::report::Report;

/// A configuration and what became of the one that it comes from.
#[derive(Debug)]
pub struct Imported {
    /// Ferric's, as TOML.
    pub toml: String,
    /// What became of each line.
    pub report: Report,
    /// How many server groups and routes there are.
    pub counts: (usize, usize),
}

/// The text is no configuration of CUSP.
#[derive(Debug, thiserror::Error)]
#[error(
    "this is no CUSP configuration: there is no `server-group sip`, `sip network`, `sip listen`, `trigger`, `route table` or \
     `policy` in it. Expected is what `show configuration active` prints in the CUSP command line (module> cusp)"
)]
pub struct NotCusp;

/// Turns a configuration of CUSP into one of Ferric. `source` names it in the result.
pub fn import(text: &str, source: &str) -> Result<Imported, NotCusp> {
    let lines = lexer::lines(text);
    let mut report = Report::default();
    let read::Read { cusp, recognised } = read::read(&lines, &mut report);
    if recognised == 0 {
        return Err(NotCusp);
    }
    let report_ref = &mut report;
    let mut ferric = target::Ferric {
        listeners: groups::listeners(&cusp, report_ref),
        record_route: groups::record_route(&cusp, report_ref),
        groups: groups::groups(&cusp, report_ref),
        ..target::Ferric::default()
    };
    for group in &cusp.route_groups {
        let made = groups::route_group(&cusp, &ferric.groups, group, report_ref);
        ferric.groups.extend(made);
    }
    groups::trust(&cusp, &mut ferric);
    ferric.routes = translate::routes(&cusp, &ferric, report_ref);
    let counts = (ferric.groups.len(), ferric.routes.len());
    Ok(Imported { toml: write::write(&ferric, source), report, counts })
}
