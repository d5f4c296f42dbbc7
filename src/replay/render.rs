//! The report as a table for people.

use std::fmt;
use std::time::Duration;

use super::report::Report;

/// Rows of a table that are shown; JSON has all.
const SHOWN: usize = 40;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} lines, {} to {}", self.lines, self.from, self.to)?;
        writeln!(f, "{} requests began something, {} of them calls", self.requests, self.calls)?;
        self.routes(f)?;
        self.shares(f)?;
        self.fates(f)?;
        if self.unmatched > 0 {
            writeln!(f, "\nRequests that match no rule: {}", self.unmatched)?;
        }
        if self.late > 0 {
            writeln!(
                f,
                "\nLines that came too late to be put in order, taken at the time that was reached: {}",
                self.late
            )?;
        }
        if self.damaged.count > 0 {
            writeln!(f, "\nDamaged lines, left out: {}", self.damaged.count)?;
            for line in &self.damaged.first {
                writeln!(f, "  {line}")?;
            }
            rest(f, usize::try_from(self.damaged.count).unwrap_or(usize::MAX), self.damaged.first.len())?;
        }
        if !self.notes.is_empty() {
            writeln!(f, "\nNotes")?;
            for note in &self.notes {
                writeln!(f, "  {note}")?;
            }
        }
        let verdict = match self.new_failures {
            0 => "No request would fail that did not fail before.".to_owned(),
            count => format!("{count} requests WOULD FAIL that did not fail before."),
        };
        write!(f, "\n{verdict}")
    }
}

/// Says how many rows are not shown.
fn rest(f: &mut fmt::Formatter<'_>, all: usize, shown: usize) -> fmt::Result {
    if all > shown { writeln!(f, "  and {} more", all - shown) } else { Ok(()) }
}

fn width<'a>(texts: impl Iterator<Item = &'a str>, title: &str) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or(0).max(title.len())
}

impl Report {
    fn routes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = self.requests.saturating_sub(self.same_route);
        writeln!(f, "\nRoutes: {} requests take the same, {changed} another one", self.same_route)?;
        if self.routes.is_empty() {
            return Ok(());
        }
        let shown = || self.routes.iter().take(SHOWN);
        let wide = width(shown().map(|row| row.was.as_str()), "was");
        let wider = width(shown().map(|row| row.would_be.as_str()), "would be");
        writeln!(f, "  {:>9}  {:<wide$}  {:<wider$}  example", "requests", "was", "would be")?;
        for row in shown() {
            writeln!(f, "  {:>9}  {:<wide$}  {:<wider$}  {}", row.requests, row.was, row.would_be, row.example)?;
        }
        rest(f, self.routes.len(), SHOWN)
    }

    fn shares(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = || self.elements.iter().take(SHOWN);
        let group = width(shown().map(|row| row.group.as_str()), "group");
        let element = width(shown().map(|row| row.element.as_str()), "element");
        writeln!(f, "\nShares of all requests")?;
        writeln!(
            f,
            "  {:<group$}  {:<element$}  {:>9} {:>7}  {:>9} {:>7}  {:>15}  {:>9}",
            "group", "element", "before", "", "after", "", "peak/s", "time down"
        )?;
        for row in shown() {
            let peak = format!("{} -> {}", row.peak_before_per_s, row.peak_after_per_s);
            writeln!(
                f,
                "  {:<group$}  {:<element$}  {:>9} {:>7}  {:>9} {:>7}  {peak:>15}  {:>9}",
                row.group,
                row.element,
                row.before,
                percent(row.before, self.requests),
                row.after,
                percent(row.after, self.requests),
                time(row.down_ms),
            )?;
        }
        rest(f, self.elements.len(), SHOWN)
    }

    fn fates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nFailed before: {}; would fail: {}, of which {} did not fail before; {} would not fail any more",
            self.failed_before, self.failed_after, self.new_failures, self.healed
        )?;
        if !self.failures.is_empty() {
            let shown = || self.failures.iter().take(SHOWN);
            let route = width(shown().map(|row| row.route.as_str()), "route");
            let reason = width(shown().map(|row| row.reason.as_str()), "why");
            let at = 24;
            writeln!(
                f,
                "  {:>9}  {:<route$}  {:<reason$}  {:<at$}  {:<at$}  example",
                "requests", "route", "why", "first", "last"
            )?;
            for row in shown() {
                let (first, last) = (row.first.to_string(), row.last.to_string());
                writeln!(
                    f,
                    "  {:>9}  {:<route$}  {:<reason$}  {first:<at$}  {last:<at$}  {}",
                    row.requests, row.route, row.reason, row.example
                )?;
            }
            rest(f, self.failures.len(), SHOWN)?;
        }
        if !self.delayed.is_empty() {
            writeln!(f, "\nDelayed: they wait for an element that says nothing, before another one is asked")?;
            for row in self.delayed.iter().take(SHOWN) {
                writeln!(f, "  {:>9}  {} {}, at most {} ms", row.requests, row.group, row.element, row.longest_ms)?;
            }
            rest(f, self.delayed.len(), SHOWN)?;
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss)]
fn percent(part: u64, all: u64) -> String {
    if all == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / all as f64) }
}

/// `1:05:09`, `5:00`, `-`.
fn time(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs();
    match (ms, seconds / 3_600) {
        (0, _) => "-".to_owned(),
        (_, 0) => format!("{}:{:02}", seconds / 60, seconds % 60),
        (_, hours) => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}
