//! What arrived of one synchronisation source: sequence numbers, loss, jitter
//! (RFC 3550 A.1, A.3, A.8).
//!
//! Sequence numbers are extended to 64 bits. Loss is told exactly: expected
//! less distinct packets received, whether in time or late; duplicates are
//! found in a window of the last 256 numbers. A jump that the elapsed time
//! cannot explain is not loss but a sender that began anew: the caller holds
//! such a packet until the next one confirms it.

use crate::rtcp::ReportBlock;
use crate::rtp::Ssrc;

/// A gap up to this is loss, beyond it a restart (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A step back up to this is reordering (RFC 3550 A.1).
const MAX_MISORDER: u16 = 256;
/// Gaps of fewer packets are believed without looking at the time.
const PLAIN_GAP: u16 = 50;
/// A gap may last this much longer than the time that passed, in µs.
const GAP_SLACK_US: i64 = 1_000_000;
/// Window in which duplicates are known.
const WINDOW: u64 = 256;

/// Where a sequence number stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Newer than all before; the extended number.
    Newer(u64),
    /// Older than the newest, not seen yet.
    Older(u64),
    /// Seen already.
    Duplicate,
    /// So far off that the sender has begun anew, if the next packet agrees.
    Jump,
}

/// Totals of one stream over all its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceptionTotals {
    /// Distinct packets.
    pub received: u64,
    /// Packets that their sequence numbers promised.
    pub expected: u64,
    /// Copies of packets received before.
    pub duplicate: u64,
}

impl ReceptionTotals {
    /// Packets that never came.
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.received)
    }
}

/// Reception state of the stream's current source.
#[derive(Debug, Clone)]
pub struct Reception {
    ssrc: Ssrc,
    lowest: u64,
    highest: u64,
    seen: [u64; 4],
    /// Of this source.
    current: ReceptionTotals,
    /// Of the sources before it.
    past: ReceptionTotals,
    /// Arrival and timestamp of the newest packet.
    last: Option<(i64, u32)>,
    /// Ticks between consecutive packets.
    step: u32,
    jitter_ticks: f64,
    clock_rate: u32,
    reported: ReceptionTotals,
    sender_report: Option<(u32, i64)>,
}

impl Reception {
    /// Before the first packet.
    pub fn new() -> Reception {
        Reception {
            ssrc: Ssrc(0),
            lowest: 0,
            highest: 0,
            seen: [0; 4],
            current: ReceptionTotals::default(),
            past: ReceptionTotals::default(),
            last: None,
            step: 0,
            jitter_ticks: 0.0,
            clock_rate: 8_000,
            reported: ReceptionTotals::default(),
            sender_report: None,
        }
    }

    /// A source begins, or begins anew: what `sequence` follows is not loss.
    pub fn restart(&mut self, ssrc: Ssrc, sequence: u16, clock_rate: u32) -> u64 {
        self.past = self.totals();
        let number = 0x1_0000 | u64::from(sequence);
        if ssrc != self.ssrc {
            self.sender_report = None;
            self.jitter_ticks = 0.0;
        }
        self.ssrc = ssrc;
        (self.lowest, self.highest) = (number, number);
        self.seen = [0; 4];
        self.mark(number);
        self.current = ReceptionTotals { received: 1, expected: 1, duplicate: 0 };
        self.reported = ReceptionTotals::default();
        self.last = None;
        self.clock_rate = clock_rate.max(1);
        number
    }

    /// The timestamps turned out to count at another rate.
    pub fn set_clock_rate(&mut self, clock_rate: u32) {
        self.clock_rate = clock_rate.max(1);
        self.jitter_ticks = 0.0;
        self.last = None;
    }

    /// Whose packets these are.
    pub fn ssrc(&self) -> Ssrc {
        self.ssrc
    }

    /// Where a packet of this source stands; arrival in µs. Changes nothing.
    pub fn place(&self, sequence: u16, arrival_us: i64) -> Place {
        let newest = u16::try_from(self.highest & 0xffff).unwrap_or(0);
        let ahead = sequence.wrapping_sub(newest);
        if ahead == 0 {
            return Place::Duplicate;
        }
        if ahead < MAX_DROPOUT {
            if ahead > PLAIN_GAP && !self.explains(ahead, arrival_us) {
                return Place::Jump;
            }
            return Place::Newer(self.highest + u64::from(ahead));
        }
        let behind = newest.wrapping_sub(sequence);
        if behind >= MAX_MISORDER {
            return Place::Jump;
        }
        let number = self.highest.saturating_sub(u64::from(behind));
        if self.is_marked(number) { Place::Duplicate } else { Place::Older(number) }
    }

    /// Whether the time since the newest packet is long enough for `packets` of them.
    fn explains(&self, packets: u16, arrival_us: i64) -> bool {
        let Some((last_us, _)) = self.last else { return true };
        let implied_us = i64::from(packets) * i64::from(self.step) * 1_000_000 / i64::from(self.clock_rate);
        implied_us <= 2 * (arrival_us - last_us).max(0) + GAP_SLACK_US
    }

    /// Counts a packet that [`Reception::place`] put somewhere.
    pub fn count(&mut self, place: Place) {
        match place {
            Place::Newer(number) => {
                for skipped in (self.highest + 1).max(number.saturating_sub(WINDOW))..number {
                    self.unmark(skipped);
                }
                self.highest = number;
                self.mark(number);
                self.current.received += 1;
            }
            Place::Older(number) => {
                self.lowest = self.lowest.min(number);
                self.mark(number);
                self.current.received += 1;
            }
            Place::Duplicate => self.current.duplicate += 1,
            Place::Jump => {}
        }
        self.current.expected = self.highest - self.lowest + 1;
    }

    /// Jitter and packet spacing (RFC 3550 A.8); for packets whose timestamp is their time of sending.
    pub fn observe(&mut self, arrival_us: i64, timestamp: u32, consecutive: bool) {
        if let Some((last_us, last_timestamp)) = self.last {
            let ticks = timestamp.wrapping_sub(last_timestamp).cast_signed();
            let arrived = (arrival_us - last_us) as f64 * f64::from(self.clock_rate) / 1e6;
            let deviation = (arrived - f64::from(ticks)).abs();
            // A jump of the clock is no jitter.
            if deviation < f64::from(self.clock_rate) {
                self.jitter_ticks += (deviation - self.jitter_ticks) / 16.0;
            }
            if consecutive && ticks > 0 && i64::from(ticks) <= i64::from(self.clock_rate) / 5 {
                self.step = ticks.unsigned_abs();
            }
        }
        self.last = Some((arrival_us, timestamp));
    }

    /// Ticks between consecutive packets; 0 while unknown.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// The same in µs; that of the usual 20 ms while unknown.
    pub fn step_us(&self) -> i64 {
        if self.step == 0 { 20_000 } else { i64::from(self.step) * 1_000_000 / i64::from(self.clock_rate) }
    }

    /// The newest extended sequence number.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Interarrival jitter in ms.
    pub fn jitter_ms(&self) -> f64 {
        self.jitter_ticks * 1_000.0 / f64::from(self.clock_rate)
    }

    /// Counts of all sources so far.
    pub fn totals(&self) -> ReceptionTotals {
        ReceptionTotals {
            received: self.past.received + self.current.received,
            expected: self.past.expected + self.current.expected,
            duplicate: self.past.duplicate + self.current.duplicate,
        }
    }

    /// Remembers a sender report for LSR and DLSR.
    pub fn sender_report(&mut self, middle: u32, arrival_us: i64) {
        self.sender_report = Some((middle, arrival_us));
    }

    /// The report block of this moment; the next one covers the time from here.
    pub fn report(&mut self, now_us: i64) -> ReportBlock {
        let expected = self.current.expected - self.reported.expected.min(self.current.expected);
        let with_copies = |totals: &ReceptionTotals| totals.received + totals.duplicate;
        let received = with_copies(&self.current).saturating_sub(with_copies(&self.reported));
        let lost = expected.saturating_sub(received);
        let fraction = (lost * 256).checked_div(expected).unwrap_or(0).min(255);
        self.reported = self.current;
        let cumulative = self.current.expected.cast_signed() - with_copies(&self.current).cast_signed();
        let (last_sender_report, delay_since_last) = self.sender_report.map_or((0, 0), |(middle, at)| {
            (middle, u32::try_from((now_us - at).max(0) * 65_536 / 1_000_000).unwrap_or(u32::MAX))
        });
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(255),
            cumulative_lost: i32::try_from(cumulative.clamp(-0x80_0000, 0x7f_ffff)).unwrap_or(0),
            highest_sequence: u32::try_from(self.highest.saturating_sub(0x1_0000) & 0xffff_ffff).unwrap_or(0),
            jitter: whole(self.jitter_ticks),
            last_sender_report,
            delay_since_last,
        }
    }

    fn slot(number: u64) -> (usize, u64) {
        let bit = number % WINDOW;
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = Reception::slot(number);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
    }

    fn unmark(&mut self, number: u64) {
        let (word, bit) = Reception::slot(number);
        if let Some(word) = self.seen.get_mut(word) {
            *word &= !bit;
        }
    }

    fn is_marked(&self, number: u64) -> bool {
        let (word, bit) = Reception::slot(number);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// A jitter in whole ticks; a deviation is at most a second, so it fits.
#[allow(clippy::cast_possible_truncation)]
fn whole(ticks: f64) -> u32 {
    ticks.max(0.0) as u32
}

impl Default for Reception {
    fn default() -> Reception {
        Reception::new()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn feed(reception: &mut Reception, sequences: &[u16]) -> Vec<Place> {
        sequences
            .iter()
            .map(|&sequence| {
                let place = reception.place(sequence, 0);
                reception.count(place);
                place
            })
            .collect()
    }

    fn started(sequence: u16) -> Reception {
        let mut reception = Reception::new();
        reception.restart(Ssrc(1), sequence, 8_000);
        reception
    }

    #[test]
    fn a_wrap_is_no_loss() {
        let mut reception = started(65_533);
        feed(&mut reception, &[65_534, 65_535, 0, 1, 2]);
        assert_eq!(reception.totals(), ReceptionTotals { received: 6, expected: 6, duplicate: 0 });
        assert_eq!(reception.report(0).highest_sequence, 0x1_0002);
    }

    #[test]
    fn loss_is_what_never_came() {
        let mut reception = started(100);
        // 102 and 105 missing, 104 late, 103 twice.
        let places = feed(&mut reception, &[101, 103, 106, 104, 103, 106]);
        assert_eq!(places[3], Place::Older(0x1_0000 + 104));
        assert_eq!(places[4], Place::Duplicate);
        assert_eq!(reception.totals(), ReceptionTotals { received: 5, expected: 7, duplicate: 2 });
        assert_eq!(reception.totals().lost(), 2);
    }

    #[test]
    fn a_packet_before_the_first_extends_what_was_expected() {
        let mut reception = started(10);
        feed(&mut reception, &[9, 11]);
        assert_eq!(reception.totals(), ReceptionTotals { received: 3, expected: 3, duplicate: 0 });
    }

    #[test]
    fn a_jump_needs_the_callers_word() {
        let mut reception = started(10);
        assert_eq!(feed(&mut reception, &[30_000])[0], Place::Jump);
        assert_eq!(reception.totals().expected, 1);
        reception.restart(Ssrc(1), 30_000, 8_000);
        feed(&mut reception, &[30_001]);
        assert_eq!(reception.totals(), ReceptionTotals { received: 3, expected: 3, duplicate: 0 });
    }

    #[test]
    fn a_gap_that_time_does_not_explain_is_a_jump() {
        let mut reception = started(10);
        reception.observe(0, 0, false);
        let place = reception.place(11, 20_000);
        reception.count(place);
        reception.observe(20_000, 160, true);
        assert_eq!(reception.place(511, 40_000), Place::Jump);
        assert_eq!(reception.place(511, 10_000_000), Place::Newer(0x1_0000 + 511));
    }

    #[test]
    fn the_window_survives_long_gaps() {
        let mut reception = started(0);
        feed(&mut reception, &[1, 2, 3, 2_000, 1_999, 1_800, 1_800]);
        assert_eq!(reception.totals(), ReceptionTotals { received: 7, expected: 2_001, duplicate: 1 });
    }

    #[test]
    fn a_report_tells_the_interval() {
        let mut reception = started(0);
        feed(&mut reception, &[1, 3]);
        reception.sender_report(0xaabb_ccdd, 1_000_000);
        let block = reception.report(1_500_000);
        assert_eq!((block.fraction_lost, block.cumulative_lost), (64, 1));
        assert_eq!((block.last_sender_report, block.delay_since_last), (0xaabb_ccdd, 32_768));
        feed(&mut reception, &[4, 5]);
        assert_eq!(reception.report(2_000_000).fraction_lost, 0);
    }

    #[test]
    fn jitter_is_the_mean_deviation() {
        let mut reception = started(0);
        for packet in 0..2_000_i64 {
            let late = if packet % 2 == 0 { 0 } else { 10_000 };
            reception.observe(packet * 20_000 + late, u32::try_from(packet * 160).unwrap(), true);
        }
        assert!((reception.jitter_ms() - 10.0).abs() < 0.5, "{}", reception.jitter_ms());
        assert_eq!(reception.step(), 160);
    }
}
