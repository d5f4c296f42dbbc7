//! Cisco Unified SIP Proxy, releases 8.5 to 10.2: the text of `show configuration active` or `show running-config`.
//!
//! | step | file |
//! | --- | --- |
//! | lines and words | `lexer` |
//! | blocks, and what has no counterpart | `read`, `routing` |
//! | what CUSP says, in its terms | `model` |
//! | listeners, server groups, route groups, who may send | `groups` |
//! | trigger conditions as matches | `condition` |
//! | triggers, policies and tables as routes | `translate`, `keys` |
//! | normalization as rewrites | `rewrite`, `pattern` |
//! | what Ferric is to be told, and as TOML | `target`, `write` |
//!
//! CUSP decides in stages (normalise, look up, choose, normalise), Ferric by one list in which the first match wins. A route
//! is made only where it means the same as what it comes from; all else is left out and said.

mod condition;
mod groups;
mod keys;
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

use std::path::Path;

use super::report::{Fate, Report};
use crate::config::Config;

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

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a text.
    #[error("this is no text: there are zero bytes in it. {EXPECTED}")]
    Binary,
    /// Nothing but white space and comments.
    #[error("there is nothing in it. {EXPECTED}")]
    Empty,
    /// Something else.
    #[error(
        "this is no CUSP configuration: there is no `server-group sip`, `sip network`, `sip listen`, `trigger`, `route table` or \
         `policy` in it. {EXPECTED}"
    )]
    NotCusp,
    /// The result would not be accepted.
    #[error("the result would not be accepted, so nothing is written: {0}")]
    Refused(String),
}

const EXPECTED: &str = "Expected is what `show configuration active` prints in the CUSP command line (module> cusp)";

/// Turns a configuration of CUSP into one of Ferric. `source` names it in the result.
///
/// # Errors
/// The text is something else, or the result would not load.
pub fn import(text: &str, source: &str) -> Result<Imported, Error> {
    if text.contains('\0') {
        return Err(Error::Binary);
    }
    let lines = lexer::lines(text);
    if lines.is_empty() {
        return Err(Error::Empty);
    }
    let mut report = Report::default();
    let read::Read { mut cusp, recognised } = read::read(&lines, &mut report);
    if recognised == 0 {
        return Err(Error::NotCusp);
    }
    groups::name(&mut cusp);
    let report_ref = &mut report;
    let mut ferric = target::Ferric {
        listeners: groups::listeners(&cusp, report_ref),
        record_route: groups::record_route(&cusp, report_ref),
        calls_per_second: cusp.calls_per_second,
        groups: groups::groups(&cusp, report_ref),
        ..target::Ferric::default()
    };
    for group in &cusp.route_groups {
        let made = groups::route_group(&cusp, &ferric.groups, group, report_ref);
        ferric.groups.extend(made);
    }
    groups::trust(&cusp, &mut ferric);
    ferric.routes = translate::routes(&cusp, &ferric, report_ref);
    let numbers: Vec<u32> = lines.iter().map(|line| line.number).collect();
    report.settle(&numbers, |number| unspoken(&lines, number));
    let toml = write::write(&ferric, source, &report);
    loads(&toml)?;
    Ok(Imported { toml, report, counts: (ferric.groups.len(), ferric.routes.len()) })
}

/// True to the promise that what is written loads, but for the tenant's key, which is made afterwards.
fn loads(toml: &str) -> Result<(), Error> {
    let Err(complaints) = Config::parse(Path::new("imported.toml"), toml) else { return Ok(()) };
    let other: Vec<String> = complaints
        .list
        .iter()
        .filter(|complaint| !complaint.text.contains(write::KEY_FILE))
        .map(|complaint| format!("line {}: {}", complaint.line, complaint.text))
        .collect();
    if other.is_empty() { Ok(()) } else { Err(Error::Refused(other.join("; "))) }
}

/// The frame of blocks needs no counterpart. All else is spoken of where it is read; if it were not, a person is to know.
fn unspoken(lines: &[lexer::Line], number: u32) -> (Fate, String, String) {
    let line = lines.binary_search_by_key(&number, |line| line.number).ok().and_then(|place| lines.get(place));
    match line {
        Some(line) if matches!(line.word(0), "end" | "sequence") => (Fate::NotNeeded, FRAME.to_owned(), String::new()),
        Some(line) => (Fate::LeftOut, line.name(), "nothing was made of it: see what it did".to_owned()),
        None => (Fate::NotNeeded, FRAME.to_owned(), String::new()),
    }
}

const FRAME: &str = "beginnings and ends of blocks";
