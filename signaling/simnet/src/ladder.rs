//! What happened, as a message ladder in plain text.
//!
//! ```text
//!            uac                              uas
//!    0.000    |------------ INVITE 1 --------->|
//!    0.010    |<--------- 100 INVITE 1 --------|
//!    0.020    |  * answered                    |
//!    0.520    |------------- ACK 1 --------x   |
//! ```
//!
//! A row stands where the packet was sent; an `x` instead of an arrow head is a lost packet.

use std::fmt;
use std::time::Duration;

const WIDTH: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Row {
    Packet { at: Duration, to_right: bool, label: String, lost: bool },
    Note { at: Duration, text: String },
}

/// The trace of a run between a left and a right endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ladder {
    left: String,
    right: String,
    rows: Vec<Row>,
}

impl Ladder {
    /// An empty ladder between two names.
    pub fn new(left: &str, right: &str) -> Ladder {
        Ladder { left: left.to_owned(), right: right.to_owned(), rows: Vec::new() }
    }

    /// Adds a packet.
    pub fn packet(&mut self, at: Duration, to_right: bool, label: &str, lost: bool) {
        self.rows.push(Row::Packet { at, to_right, label: label.to_owned(), lost });
    }

    /// Adds a remark.
    pub fn note(&mut self, at: Duration, text: &str) {
        self.rows.push(Row::Note { at, text: text.to_owned() });
    }

    /// The labels of all packets from the left (`true`) or from the right, lost ones included.
    pub fn labels(&self, to_right: bool) -> Vec<&str> {
        let mut labels = Vec::new();
        for row in &self.rows {
            if let Row::Packet { to_right: direction, label, .. } = row
                && *direction == to_right
            {
                labels.push(label.as_str());
            }
        }
        labels
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>11}{:^5}{:width$}{:^5}", "", self.left, "", self.right, width = WIDTH - 3)?;
        for row in &self.rows {
            match row {
                Row::Packet { at, to_right, label, lost } => {
                    let line = format!("{:-^width$}", format!(" {label} "), width = WIDTH - 4);
                    let line = match (to_right, lost) {
                        (true, false) => format!("---{line}>"),
                        (true, true) => format!("{line}x   "),
                        (false, false) => format!("<{line}---"),
                        (false, true) => format!("   x{line}"),
                    };
                    writeln!(f, "{:>9.3}    |{line}|", at.as_secs_f64())?;
                }
                Row::Note { at, text } => {
                    writeln!(f, "{:>9.3}    |{:width$}|", at.as_secs_f64(), format!("  * {text}"), width = WIDTH)?;
                }
            }
        }
        Ok(())
    }
}

/// The label of a SIP message: `INVITE 1`, or `200 INVITE 1` for a response.
pub fn sip_label(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("");
    let cseq = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("CSeq"))
        .map_or("", |(_, value)| value.trim());
    let (number, method) = cseq.split_once(' ').unwrap_or(("?", "?"));
    match first.strip_prefix("SIP/2.0 ") {
        Some(status) => format!("{} {method} {number}", status.split(' ').next().unwrap_or("")),
        None => format!("{} {number}", first.split(' ').next().unwrap_or("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ladder_reads_from_top_to_bottom() {
        let mut ladder = Ladder::new("uac", "uas");
        let ms = Duration::from_millis;
        ladder.packet(ms(0), true, "INVITE 1", true);
        ladder.packet(ms(500), true, "INVITE 1", false);
        ladder.packet(ms(510), false, "200 INVITE 1", false);
        ladder.packet(ms(511), false, "200 INVITE 1", true);
        ladder.note(ms(12_600), "gone");
        let expected = "            uac                               uas \n    \
0.000    |--------- INVITE 1 ---------x   |\n    \
0.500    |------------ INVITE 1 --------->|\n    \
0.510    |<------- 200 INVITE 1 ----------|\n    \
0.511    |   x------- 200 INVITE 1 -------|\n   \
12.600    |  * gone                        |\n";
        assert_eq!(ladder.to_string(), expected, "\n{ladder}");
        assert_eq!(ladder.labels(false), ["200 INVITE 1", "200 INVITE 1"]);
    }

    #[test]
    fn messages_are_named_by_method_status_and_number() {
        assert_eq!(sip_label(b"BYE sip:a SIP/2.0\r\nVia: x\r\nCSeq: 12 BYE\r\n\r\n"), "BYE 12");
        assert_eq!(sip_label(b"SIP/2.0 491 Request Pending\r\ncseq:7 INVITE\r\n\r\n"), "491 INVITE 7");
        assert_eq!(sip_label(b""), " ?");
    }
}
