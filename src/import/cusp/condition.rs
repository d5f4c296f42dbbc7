//! Trigger conditions as matches.
//!
//! A condition is true if all tests of one of its sequences are: it becomes a match for each sequence, and several where
//! a network has several listeners. A sequence with a test that no match can ask for is left out as a whole, since
//! without that test it would take more than it should.

use super::model::{Condition, Cusp, Test};
use super::pattern::{checked, literal, over_uri};
use super::read::is_host_name;
use super::target::{Both, Ferric, Match};
use crate::import::report::{Fate, Report};

/// One way in which a condition is true.
#[derive(Debug, Clone, Default)]
pub(super) struct Case {
    pub(super) wanted: Match,
    /// The destination's network.
    pub(super) out_network: Option<String>,
    /// Only requests inside of a dialog.
    pub(super) mid_dialog: bool,
    pub(super) lines: Vec<u32>,
}

/// The cases of a condition by its name; no name is always true. What is left out is reported.
pub(super) fn cases(name: Option<&str>, at: u32, cusp: &Cusp, ferric: &Ferric, report: &mut Report) -> Vec<Case> {
    let Some(name) = name else { return vec![Case::default()] };
    let Some(condition) = cusp.conditions.iter().find(|condition| condition.name == name) else {
        report.add(
            Fate::LeftOut,
            &[at],
            format!("trigger with condition {name}"),
            "there is no such trigger condition",
        );
        return Vec::new();
    };
    let mut cases = Vec::new();
    if condition.sequences.is_empty() {
        report.add(
            Fate::LeftOut,
            &[condition.line, at],
            format!("trigger condition {name}"),
            "it has no tests: its triggers do not apply",
        );
    }
    for sequence in &condition.sequences {
        match sequence_cases(condition, sequence, ferric) {
            Ok(of_sequence) => cases.extend(of_sequence),
            Err((line, why)) => {
                let lines: Vec<u32> =
                    [condition.line, line].into_iter().chain(sequence.iter().map(|(line, _)| *line)).collect();
                let what = format!("a sequence of trigger condition {name}");
                report.add(Fate::LeftOut, &lines, what, format!("{why}; triggers do not apply in this case"));
            }
        }
    }
    cases
}

fn sequence_cases(
    condition: &Condition,
    sequence: &[(u32, Test)],
    ferric: &Ferric,
) -> Result<Vec<Case>, (u32, String)> {
    let mut case = Case { lines: vec![condition.line], ..Case::default() };
    // Listeners that all tests so far allow.
    let mut listeners: Vec<usize> = (0..ferric.listeners.len()).collect();
    for (line, test) in sequence {
        case.lines.push(*line);
        let fail = |why: String| (*line, why);
        let keep = |listeners: &mut Vec<usize>, fits: &dyn Fn(&super::target::Listener) -> bool| {
            listeners.retain(|place| ferric.listeners.get(*place).is_some_and(fits));
        };
        let wanted = match test {
            Test::IsRequest => continue,
            Test::MidDialog => {
                case.mid_dialog = true;
                continue;
            }
            Test::OutNetwork(network) => {
                case.out_network = Some(network.clone());
                continue;
            }
            Test::InNetwork(network) => {
                keep(&mut listeners, &|listener| listener.network == *network);
                continue;
            }
            Test::LocalIp(ip) => {
                let ip = literal(ip).unwrap_or_else(|| ip.clone());
                keep(&mut listeners, &|listener| {
                    listener.address.starts_with(&format!("{ip}:")) || listener.address.starts_with("0.0.0.0:")
                });
                continue;
            }
            Test::LocalPort(port) => {
                keep(&mut listeners, &|listener| listener.address.ends_with(&format!(":{port}")));
                continue;
            }
            Test::Protocol(transport) => {
                keep(&mut listeners, &|listener| listener.transport == *transport);
                continue;
            }
            Test::RemoteIp(network) => Match { source: Some(network.clone()), ..Match::default() },
            Test::Method(method) if !method.bytes().all(|b| b.is_ascii_uppercase()) || method.is_empty() => {
                return Err(fail("a method is a word".to_owned()));
            }
            Test::Method(method) => Match { method: Some(method.clone()), ..Match::default() },
            Test::Header { name, part, pattern } => header(name, part.as_deref(), pattern).map_err(fail)?,
            Test::RequestUri { part, pattern } => request_uri(part, pattern).map_err(fail)?,
            Test::Unknown(text) => return Err(fail(format!("a route cannot ask for `{text}`"))),
        };
        match case.wanted.and(&wanted) {
            Both::One(both) => case.wanted = *both,
            Both::Never => return Err(fail("its tests exclude each other".to_owned())),
            Both::Inexpressible(what) => return Err(fail(format!("a route cannot ask for {what}"))),
        }
    }
    let asks =
        |test: &Test| matches!(test, Test::InNetwork(_) | Test::LocalIp(_) | Test::LocalPort(_) | Test::Protocol(_));
    if let Some((line, _)) = sequence.iter().find(|(_, test)| asks(test)).filter(|_| listeners.is_empty()) {
        return Err((*line, "no `sip listen` fits it".to_owned()));
    }
    if listeners.len() == ferric.listeners.len() {
        return Ok(vec![case]);
    }
    let on = |place: &usize| {
        let mut case = case.clone();
        case.wanted.listener = ferric.listeners.get(*place).map(super::target::Listener::name);
        case
    };
    Ok(listeners.iter().map(on).collect())
}

fn header(name: &str, part: Option<&str>, pattern: &str) -> Result<Match, String> {
    let pattern = checked(pattern)?;
    let Some(part) = part else {
        return Ok(Match { header: Some((name.to_owned(), pattern.to_owned())), ..Match::default() });
    };
    let pattern = over_uri(part, pattern).ok_or_else(|| format!("a route cannot ask so for the {part} of {name}"))?;
    checked(&pattern)?;
    Ok(if name.eq_ignore_ascii_case("From") {
        Match { from: Some(pattern), ..Match::default() }
    } else {
        Match { header: Some((name.to_owned(), pattern)), ..Match::default() }
    })
}

fn request_uri(part: &str, pattern: &str) -> Result<Match, String> {
    match part {
        "user" | "phone" => Ok(Match { user: Some(checked(pattern)?.to_owned()), ..Match::default() }),
        "host" => match literal(pattern).filter(|domain| is_host_name(domain)) {
            Some(domain) => Ok(Match { domain: Some(domain), ..Match::default() }),
            None => Err(format!("a route asks for one domain, not for an expression like `{pattern}`")),
        },
        _ => Err(format!("a route cannot ask for the {part} of the request-URI")),
    }
}
