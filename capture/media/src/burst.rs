//! Runs and bursts of packets that were not there when their turn came (RFC 3611 4.7, ITU-T G.107).
//!
//! Packets are told in order of sequence, each there or gone; gone is lost or too late. Two views of it:
//!
//! - *BurstR* (G.107): the mean run of gone packets against that of random loss of the same share.
//! - *Bursts and gaps* (RFC 3611 4.7.2 with Gmin 16): a burst begins and ends with a gone packet, and fewer than 16
//!   in a row are there within it; a single gone packet among many belongs to the gap. Gaps are what
//!   lies between bursts, before the first and behind the last.
//!
//! A packet costs two additions, a loss a few more.

/// So many packets in a row that are there end a burst (the default of RFC 3611 4.7.2).
const GMIN: u64 = 16;

/// Packets up to some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Loss {
    /// Packets whose turn came.
    pub(crate) expected: u64,
    /// Packets of these that were not there.
    pub(crate) gone: u64,
    /// Runs of packets that were gone one after the other.
    pub(crate) runs: u64,
}

impl Loss {
    /// What came after an earlier moment.
    pub(crate) fn since(self, before: Loss) -> Loss {
        Loss {
            expected: self.expected.saturating_sub(before.expected),
            gone: self.gone.saturating_sub(before.gone),
            runs: self.runs.saturating_sub(before.runs),
        }
    }

    /// 0 to 1.
    pub(crate) fn share(self) -> f64 {
        if self.expected == 0 { 0.0 } else { (self.gone as f64 / self.expected as f64).min(1.0) }
    }

    /// BurstR of G.107: the mean run of lost packets, against the mean of random loss; 1 without loss.
    pub(crate) fn burst_ratio(self) -> f64 {
        if self.runs == 0 {
            return 1.0;
        }
        (self.gone as f64 / self.runs as f64 * (1.0 - self.share())).max(1.0)
    }
}

/// A stretch that begins and ends with a gone packet.
#[derive(Debug, Clone, Copy, Default)]
struct Cluster {
    packets: u64,
    gone: u64,
}

/// Packets in order.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LossCounter {
    loss: Loss,
    /// There since the last gone one.
    there: u64,
    open: Cluster,
    bursts: u64,
    /// Of all bursts that are over.
    closed: Cluster,
}

/// Bursts and gaps; densities are shares of 0 to 1, lengths in packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BurstCounts {
    pub(crate) bursts: u64,
    pub(crate) burst_density: f64,
    pub(crate) gap_density: f64,
    pub(crate) mean_burst: f64,
    pub(crate) mean_gap: f64,
}

impl LossCounter {
    /// The next packet is there.
    pub(crate) fn there(&mut self) {
        self.loss.expected += 1;
        self.there += 1;
    }

    /// The next packets are not.
    pub(crate) fn gone(&mut self, packets: u64) {
        if packets == 0 {
            return;
        }
        if self.there > 0 || self.loss.gone == 0 {
            self.loss.runs += 1;
        }
        self.loss.expected += packets;
        self.loss.gone += packets;
        if self.open.gone > 0 && self.there < GMIN {
            self.open.packets += self.there + packets;
            self.open.gone += packets;
        } else {
            self.close();
            self.open = Cluster { packets, gone: packets };
        }
        self.there = 0;
    }

    fn close(&mut self) {
        if self.open.gone > 1 {
            self.bursts += 1;
            self.closed.packets += self.open.packets;
            self.closed.gone += self.open.gone;
        }
    }

    /// Up to now.
    pub(crate) fn loss(&self) -> Loss {
        self.loss
    }

    /// Up to now; `None` before the first packet.
    pub(crate) fn bursts(&self) -> Option<BurstCounts> {
        let mut all = *self;
        all.close();
        let ratio = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let Cluster { packets, gone } = all.closed;
        let calm = self.loss.expected.saturating_sub(packets);
        (self.loss.expected > 0).then(|| BurstCounts {
            bursts: all.bursts,
            burst_density: ratio(gone, packets),
            gap_density: ratio(self.loss.gone.saturating_sub(gone), calm),
            mean_burst: ratio(packets, all.bursts),
            mean_gap: ratio(calm, all.bursts + 1),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// A picture: `.` is there, `x` is gone.
    fn counted(picture: &str) -> LossCounter {
        let mut counter = LossCounter::default();
        for packet in picture.chars() {
            if packet == '.' { counter.there() } else { counter.gone(1) }
        }
        counter
    }

    fn calm(packets: usize) -> String {
        ".".repeat(packets)
    }

    #[test]
    fn runs_are_told_from_single_losses() {
        for (picture, loss) in [
            (".....", Loss { expected: 5, gone: 0, runs: 0 }),
            ("..x..", Loss { expected: 5, gone: 1, runs: 1 }),
            ("..xx.x", Loss { expected: 6, gone: 3, runs: 2 }),
            ("x.x", Loss { expected: 3, gone: 2, runs: 2 }),
        ] {
            assert_eq!(counted(picture).loss(), loss, "{picture}");
        }
        let mut at_once = LossCounter::default();
        at_once.there();
        at_once.gone(2);
        at_once.gone(1);
        assert_eq!(at_once.loss(), Loss { expected: 4, gone: 3, runs: 1 });
    }

    #[test]
    fn a_burst_is_what_sixteen_good_packets_end() {
        // 100 good, a burst of ten with five gone, 15 would still be the burst, 16 are not.
        let picture = [calm(100), "xx.x..x..x".into(), calm(16), "x".into(), calm(50)].concat();
        let bursts = counted(&picture).bursts().unwrap();
        assert_eq!((bursts.bursts, bursts.mean_burst, bursts.burst_density), (1, 10.0, 0.5));
        assert!((bursts.gap_density - 1.0 / 167.0).abs() < 1e-9, "the lone loss belongs to the gap: {bursts:?}");
        assert!((bursts.mean_gap - 83.5).abs() < 1e-9);
        let longer = [calm(100), "x".into(), calm(15), "x".into(), calm(50)].concat();
        let bursts = counted(&longer).bursts().unwrap();
        assert_eq!((bursts.bursts, bursts.mean_burst), (1, 17.0));
    }

    #[test]
    fn without_loss_all_is_one_gap() {
        let bursts = counted(&calm(40)).bursts().unwrap();
        assert_eq!(
            bursts,
            BurstCounts { bursts: 0, burst_density: 0.0, gap_density: 0.0, mean_burst: 0.0, mean_gap: 40.0 }
        );
        assert!(LossCounter::default().bursts().is_none());
    }

    #[test]
    fn the_burst_ratio_is_one_at_random_loss() {
        let random = Loss { expected: 1_000, gone: 50, runs: 48 };
        let bursts = Loss { expected: 1_000, gone: 50, runs: 5 };
        assert!((random.burst_ratio() - 1.0).abs() < 0.02);
        assert!((bursts.burst_ratio() - 9.5).abs() < 0.01);
        assert!((Loss::default().burst_ratio() - 1.0).abs() < 1e-9);
    }
}
