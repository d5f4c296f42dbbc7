//! The spool's high-water mark: past it no new calls are taken, running ones go on.
//!
//! The mark is a share of the file system ("90%") or a number of bytes of
//! recordings. Once past it the gauge stays closed until the level has fallen
//! a twentieth below the mark, so that a spool at its edge does not take and
//! refuse calls in turn. The room above the mark is what running calls still
//! need.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::spool::{Spool, SpoolError, at};

/// `upload.spool_high_water`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HighWater {
    /// Share of the file system in use by anybody, in percent (1 to 100).
    Percent(u8),
    /// Bytes of recordings in the spool.
    Bytes(u64),
}

/// A text that is no high-water mark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a share such as 90% (1 to 100) nor a size such as 200 GiB")]
pub struct HighWaterError(String);

impl FromStr for HighWater {
    type Err = HighWaterError;

    fn from_str(text: &str) -> Result<HighWater, HighWaterError> {
        let error = || HighWaterError(text.to_owned());
        let trimmed = text.trim();
        if let Some(percent) = trimmed.strip_suffix('%') {
            let percent: u8 = percent.trim().parse().map_err(|_| error())?;
            return if (1..=100).contains(&percent) { Ok(HighWater::Percent(percent)) } else { Err(error()) };
        }
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        let scale: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(scale).filter(|bytes| *bytes > 0).map(HighWater::Bytes).ok_or_else(error)
    }
}

/// A reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Bytes of recordings in the spool.
    pub spool_bytes: u64,
    /// Size of the file system, without what is kept for root.
    pub disk_bytes: u64,
    /// What is left of it for us.
    pub available_bytes: u64,
    /// Whether new calls may be taken.
    pub open: bool,
}

impl Level {
    /// Share of the file system in use, in percent.
    pub fn used_percent(&self) -> f64 {
        if self.disk_bytes == 0 {
            return 100.0;
        }
        #[allow(clippy::cast_precision_loss)]
        let share = self.disk_bytes.saturating_sub(self.available_bytes) as f64 / self.disk_bytes as f64;
        share * 100.0
    }
}

/// Watches the spool's level. Share it in an `Arc`; `is_open` is one atomic load.
#[derive(Debug)]
pub struct SpoolGauge {
    spool: Spool,
    root: PathBuf,
    mark: HighWater,
    closed: AtomicBool,
    available: AtomicU64,
}

impl SpoolGauge {
    /// A gauge that is open until the first reading.
    pub fn new(spool: Spool, mark: HighWater) -> SpoolGauge {
        let root = spool.root().to_owned();
        SpoolGauge { spool, root, mark, closed: AtomicBool::new(false), available: AtomicU64::new(u64::MAX) }
    }

    /// Whether new calls may be taken, as of the last reading.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Bytes left on the file system, as of the last reading.
    pub fn available_bytes(&self) -> u64 {
        self.available.load(Ordering::Relaxed)
    }

    /// Closes the gauge at once, for a writer that met a full disk; the next reading decides anew.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Reads the level; call it about once a second, it costs one system call.
    ///
    /// # Errors
    /// The file system cannot be asked; the gauge stays as it was.
    pub fn read(&self) -> Result<Level, SpoolError> {
        let disk = nix::sys::statvfs::statvfs(&self.root).map_err(|errno| at("measure", &self.root)(errno.into()))?;
        let (block, available) = (disk.fragment_size(), disk.blocks_available());
        // What is kept for root is neither used nor ours: the share is that of `df`.
        let ours = disk.blocks().saturating_sub(disk.blocks_free()).saturating_add(available);
        Ok(self.judge(block.saturating_mul(ours), block.saturating_mul(available)))
    }

    fn judge(&self, disk_bytes: u64, available_bytes: u64) -> Level {
        let spool_bytes = self.spool.usage().bytes();
        let (level, mark) = match self.mark {
            HighWater::Percent(percent) => {
                let used = disk_bytes.saturating_sub(available_bytes);
                (u128::from(used) * 100, u128::from(disk_bytes) * u128::from(percent))
            }
            HighWater::Bytes(bytes) => (u128::from(spool_bytes), u128::from(bytes)),
        };
        let was_closed = self.closed.load(Ordering::Acquire);
        let closed = if was_closed { level * 20 > mark * 19 } else { level >= mark };
        self.closed.store(closed, Ordering::Release);
        self.available.store(available_bytes, Ordering::Relaxed);
        if closed != was_closed {
            tracing::warn!(spool_bytes, available_bytes, open = !closed, "the spool's high-water mark was crossed");
        }
        Level { spool_bytes, disk_bytes, available_bytes, open: !closed }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;

    fn gauge(mark: &str) -> (tempfile::TempDir, SpoolGauge) {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        (dir, SpoolGauge::new(spool, mark.parse().unwrap()))
    }

    #[test]
    fn marks_are_read_and_wrong_ones_named() {
        assert_eq!("90%".parse(), Ok(HighWater::Percent(90)));
        assert_eq!("200 GiB".parse(), Ok(HighWater::Bytes(200 << 30)));
        assert_eq!("5MB".parse(), Ok(HighWater::Bytes(5_000_000)));
        for wrong in ["", "0%", "101%", "x", "10 parsecs", "0", "99999999999 TiB", "-1"] {
            assert!(wrong.parse::<HighWater>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_closes_at_the_mark_and_opens_well_below_it() {
        let (_dir, gauge) = gauge("90%");
        for (available, open) in
            [(200, true), (101, true), (100, false), (120, false), (144, false), (145, true), (101, true)]
        {
            assert_eq!(gauge.judge(1000, available).open, open, "{available} left");
            assert_eq!(gauge.is_open(), open);
        }
    }

    #[test]
    fn bytes_count_what_lies_in_the_spool() {
        let (_dir, gauge) = gauge("1000");
        gauge.spool.usage().add_bytes(999);
        assert!(gauge.judge(1, 0).open);
        gauge.spool.usage().add_bytes(1);
        assert!(!gauge.judge(1, 1).open);
        gauge.spool.usage().remove_bytes(49);
        assert!(!gauge.judge(1, 1).open);
        gauge.spool.usage().remove_bytes(1);
        assert!(gauge.judge(1, 1).open);
    }

    #[test]
    fn a_full_disk_closes_it_at_once_and_a_reading_opens_it() {
        let (_dir, gauge) = gauge("100%");
        gauge.close();
        assert!(!gauge.is_open());
        let level = gauge.read().unwrap();
        assert!(level.disk_bytes > 0 && level.used_percent() <= 100.0);
        assert!(gauge.judge(1000, 500).open);
    }
}
