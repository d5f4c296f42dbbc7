//! A ladder in plain text.
//!
//! ```text
//!         ms   192.0.2.1              us            198.51.100.1
//!              :5060 UDP          :5060 UDP          :5060 UDP
//!        0.0       |----- INVITE ----->|                   |
//!        0.4       |                   |----- INVITE ----->|
//! ```
//!
//! Whoever spoke to us first stands to the left, whom we spoke to first to the right, in the order of appearance. An arrow
//! that passes a column crosses it with `+`, and its label stands beside the peer. More than [`MAX_PEERS`] peers share
//! the last column. A message that passed before says so at the end of its row. Addresses too long for a column are
//! cut there and told in full above.

use std::fmt;
use std::net::SocketAddr;

use super::view::{Ladder, LadderMessage};

/// Peers with a column of their own.
pub(super) const MAX_PEERS: usize = 6;
/// Cells of a row that headings may fill.
const WIDTH: usize = 180;
/// Fewest and most cells from column to column. Between them: what the longest label needs, and what `WIDTH` leaves.
const PITCH: (usize, usize) = (22, 40);
/// Cells of an arrow beside its label: a blank and a dash on each side, and the head.
const SHAFT: usize = 5;
/// The time stands before the first column.
const TIME: usize = 10;
const OTHERS: &str = "others";

/// The columns from left to right.
struct Layout {
    left: Vec<SocketAddr>,
    right: Vec<SocketAddr>,
    others: bool,
    pitch: usize,
}

impl Layout {
    fn of(messages: &[LadderMessage]) -> Layout {
        let mut layout = Layout { left: Vec::new(), right: Vec::new(), others: false, pitch: 0 };
        for message in messages {
            let peer = message.peer();
            if layout.left.contains(&peer) || layout.right.contains(&peer) {
                continue;
            }
            if layout.left.len() + layout.right.len() == MAX_PEERS {
                layout.others = true;
            } else if message.received {
                layout.left.push(peer);
            } else {
                layout.right.push(peer);
            }
        }
        let longest = messages.iter().map(|message| message.label().chars().count()).max().unwrap_or(0);
        let (least, most) = PITCH;
        let room = ((WIDTH - TIME) / layout.columns()).clamp(least, most);
        layout.pitch = (longest + SHAFT + 1).clamp(least, room);
        layout
    }

    fn us(&self) -> usize {
        self.left.len()
    }

    fn columns(&self) -> usize {
        self.left.len() + 1 + self.right.len() + usize::from(self.others)
    }

    fn column(&self, peer: SocketAddr) -> usize {
        let find = |side: &[SocketAddr]| side.iter().position(|&have| have == peer);
        let right = || find(&self.right).map(|at| self.us() + 1 + at);
        find(&self.left).or_else(right).unwrap_or(self.columns() - 1)
    }

    /// Cells before the first column: room for the time and for half a heading.
    fn margin(&self) -> usize {
        TIME + self.pitch / 2
    }

    fn at(&self, column: usize) -> usize {
        self.margin() + column * self.pitch
    }

    /// A row with nothing but the columns.
    fn empty_row(&self) -> Vec<char> {
        let mut row = vec![' '; self.at(self.columns() - 1) + 1];
        for column in 0..self.columns() {
            put(&mut row, self.at(column), "|");
        }
        row
    }

    /// Two lines over the columns; addresses that had to be cut go to `cut`.
    fn headings(&self, messages: &[LadderMessage], cut: &mut Vec<String>) -> [String; 2] {
        let mut rows = [const { Vec::new() }; 2];
        let mut heading = |column: usize, texts: [String; 2]| {
            for (row, text) in rows.iter_mut().zip(texts) {
                let start = self.at(column).saturating_sub(text.chars().count() / 2);
                row.resize(row.len().max(start + text.chars().count()), ' ');
                put(row, start, &text);
            }
        };
        let mut address = |address: SocketAddr| {
            let ip = address.ip().to_string();
            let (short, whole) = middle_cut(&ip, self.pitch - 2);
            if !whole {
                cut.push(format!("{short} = {ip}"));
            }
            short
        };
        let mut ours: Vec<SocketAddr> = messages.iter().map(LadderMessage::us).collect();
        ours.sort_unstable();
        ours.dedup();
        let whole = match ours.as_slice() {
            [only] => only.to_string(),
            several => format!("{} addresses", several.len()),
        };
        let (short, fits) = middle_cut(&whole, self.pitch - 2);
        heading(self.us(), ["us".to_owned(), short.clone()]);
        for &peer in self.left.iter().chain(&self.right) {
            let mut transports: Vec<&str> =
                messages.iter().filter(|m| m.peer() == peer).map(|m| m.transport.as_str()).collect();
            transports.sort_unstable();
            transports.dedup();
            heading(self.column(peer), [address(peer), format!(":{} {}", peer.port(), transports.join("/"))]);
        }
        if !fits {
            cut.push(format!("{short} = {whole}"));
        }
        if self.others {
            heading(self.columns() - 1, [OTHERS.to_owned(), String::new()]);
        }
        let [first, _] = &mut rows;
        put(first, TIME - 2, "ms");
        rows.map(|row| row.into_iter().collect())
    }

    fn row(&self, message: &LadderMessage) -> String {
        let (us, peer) = (self.us(), self.column(message.peer()));
        let mut row = self.empty_row();
        put(&mut row, 0, &format!("{:>TIME$.1}", message.after.as_secs_f64() * 1_000.0));
        let (low, high) = (us.min(peer), us.max(peer));
        for cell in row.iter_mut().take(self.at(high)).skip(self.at(low) + 1) {
            *cell = if *cell == '|' { '+' } else { '-' };
        }
        let to_right = message.received == (peer < us);
        let head = if to_right { self.at(high) - 1 } else { self.at(low) + 1 };
        put(&mut row, head, if to_right { ">" } else { "<" });
        let (span, segment) = ((high - low) * self.pitch - 1, self.pitch - 1);
        let mut label = printable(&message.label());
        if label.chars().count() + SHAFT > span {
            label = label.chars().take(span - SHAFT - 1).chain(['…']).collect();
        }
        let label = format!(" {label} ");
        let length = label.chars().count();
        // In the middle of the cells beside the peer, or as near to it as a dash and a head allow.
        let inset = (segment.saturating_sub(length) / 2).max(1 + usize::from(!message.received));
        let start = if peer > us { self.at(high) - inset - length } else { self.at(low) + 1 + inset };
        put(&mut row, start, &label);
        let mut line: String = row.into_iter().collect();
        if message.retransmission {
            line.push_str("  retransmission");
        }
        line
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Call-ID  {}", printable(&self.summary.call_id))?;
        writeln!(f, "From     {}", printable(&self.summary.from))?;
        writeln!(f, "To       {}", printable(&self.summary.to))?;
        writeln!(f, "Began    {}", utc(self.summary.started_at.as_millis()))?;
        let layout = Layout::of(&self.messages);
        let mut cut = Vec::new();
        let headings = layout.headings(&self.messages, &mut cut);
        for line in cut {
            writeln!(f, "         {line}")?;
        }
        writeln!(f)?;
        for line in headings {
            writeln!(f, "{}", line.trim_end())?;
        }
        for (number, message) in self.messages.iter().enumerate() {
            if self.omitted > 0 && number == self.omitted_before {
                writeln!(f, "{:>TIME$}   {} messages left out", "...", self.omitted)?;
            }
            writeln!(f, "{}", layout.row(message))?;
        }
        Ok(())
    }
}

fn put(row: &mut [char], at: usize, text: &str) {
    for (cell, sign) in row.iter_mut().skip(at).zip(text.chars()) {
        *cell = sign;
    }
}

/// What a peer wrote must not steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The text without its middle, if it is too long, and whether it is whole. The text is ASCII.
fn middle_cut(text: &str, width: usize) -> (String, bool) {
    if text.len() <= width {
        return (text.to_owned(), true);
    }
    let half = (width - 1) / 2;
    let (begin, end) = (text.get(..half).unwrap_or(""), text.get(text.len() - half..).unwrap_or(""));
    (format!("{begin}…{end}"), false)
}

/// A time since 1970 as date and time (the proleptic Gregorian calendar, in eras of 400 years from March 1st).
fn utc(milliseconds: u128) -> String {
    let seconds = milliseconds / 1_000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u128::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03} UTC", milliseconds % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(utc(951_782_400_123), "2000-02-29 00:00:00.123 UTC");
        assert_eq!(utc(1_735_689_599_999), "2024-12-31 23:59:59.999 UTC");
    }

    #[test]
    fn long_addresses_lose_their_middle() {
        assert_eq!(middle_cut("2001:db8:1111:2222:3333:4444:5555:6666", 20), ("2001:db8:…5555:6666".to_owned(), false));
        assert_eq!(middle_cut("192.0.2.1", 20), ("192.0.2.1".to_owned(), true));
    }
}
