//! How much and when: the bandwidth limit and the time window of uploads.

use std::str::FromStr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use ferric_media::timestamp::Timestamp;

/// A rate, `upload.bandwidth`, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth(pub u64);

/// When uploads may run, `upload.window`, in minutes of the UTC day. May wrap around midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadWindow {
    from_min: u64,
    to_min: u64,
}

/// A text that is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// No rate.
    #[error("`{0}` is no bandwidth such as 50 Mbit/s or 6 MB/s")]
    Bandwidth(String),
    /// No window.
    #[error("`{0}` is no time window such as 22:00-06:00 (UTC) or 00:00-24:00")]
    Window(String),
}

impl FromStr for Bandwidth {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Bandwidth, LimitError> {
        let error = || LimitError::Bandwidth(text.to_owned());
        let digits = text.trim().bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.trim().split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        let (scale, bits): (u64, bool) = match unit.trim() {
            "bit/s" => (1, true),
            "kbit/s" => (1_000, true),
            "Mbit/s" => (1_000_000, true),
            "Gbit/s" => (1_000_000_000, true),
            "B/s" => (1, false),
            "kB/s" => (1_000, false),
            "MB/s" => (1_000_000, false),
            "GB/s" => (1_000_000_000, false),
            _ => return Err(error()),
        };
        let scaled = number.checked_mul(scale).ok_or_else(error)?;
        let bytes = if bits { scaled / 8 } else { scaled };
        if bytes == 0 { Err(error()) } else { Ok(Bandwidth(bytes)) }
    }
}

impl FromStr for UploadWindow {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<UploadWindow, LimitError> {
        let error = || LimitError::Window(text.to_owned());
        let minutes = |clock: &str| -> Option<u64> {
            let (hours, minutes) = clock.trim().split_once(':')?;
            let two = |part: &str| (part.len() == 2).then(|| part.parse::<u64>().ok())?;
            let total = two(hours)? * 60 + two(minutes).filter(|minutes| *minutes < 60)?;
            (total <= 24 * 60).then_some(total)
        };
        let (from, to) = text.split_once('-').ok_or_else(error)?;
        let (from_min, to_min) = (minutes(from).ok_or_else(error)?, minutes(to).ok_or_else(error)?);
        if from_min == to_min {
            return Err(error());
        }
        Ok(UploadWindow { from_min, to_min })
    }
}

impl Default for UploadWindow {
    fn default() -> UploadWindow {
        UploadWindow { from_min: 0, to_min: 24 * 60 }
    }
}

impl UploadWindow {
    /// Time until the window opens; zero if it is open.
    pub fn opens_in(&self, now: Timestamp) -> Duration {
        let day = Duration::from_secs(24 * 3600);
        let (from, to) = (Duration::from_secs(self.from_min * 60), Duration::from_secs(self.to_min * 60));
        let clock = now.time_of_day();
        let open = if from < to { (from..to).contains(&clock) } else { clock >= from || clock < to };
        if open {
            Duration::ZERO
        } else if clock < from {
            from - clock
        } else {
            day - clock + from
        }
    }
}

/// A token bucket of one second's worth. Whoever takes more than is there waits until the debt is paid.
#[derive(Debug)]
pub struct Limiter {
    rate: Option<u64>,
    /// When the bucket will be level; further in the past than a second counts as a second.
    level_at: Mutex<Option<Instant>>,
}

impl Limiter {
    /// A limiter; `None` never waits.
    pub fn new(bandwidth: Option<Bandwidth>) -> Limiter {
        Limiter { rate: bandwidth.map(|bandwidth| bandwidth.0.max(1)), level_at: Mutex::new(None) }
    }

    /// Waits until so many bytes may be sent. Waiters are served in the order they came.
    pub async fn take(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let mut level_at = self.level_at.lock().await;
        let now = Instant::now();
        let full = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let from = level_at.map_or(full, |at| at.max(full));
        let micros = u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
        let until = from + Duration::from_micros(micros);
        *level_at = Some(until);
        drop(level_at);
        if until > now {
            tokio::time::sleep_until(until).await;
        }
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

    #[test]
    fn rates_are_read() {
        assert_eq!("50 Mbit/s".parse(), Ok(Bandwidth(6_250_000)));
        assert_eq!("3MB/s".parse(), Ok(Bandwidth(3_000_000)));
        for wrong in ["", "50", "fast", "0 Mbit/s", "7 bit/s", "50 Mbit", "99999999999999 Gbit/s"] {
            assert!(wrong.parse::<Bandwidth>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn windows_open_and_wrap_around_midnight() {
        let opens = |window: &str, time: &str| {
            let window: UploadWindow = window.parse().unwrap();
            window.opens_in(format!("2026-05-05T{time}Z").parse().unwrap()).as_secs()
        };
        assert_eq!(opens("00:00-24:00", "23:59:59"), 0);
        assert_eq!(opens("08:00-12:00", "08:00:00"), 0);
        assert_eq!(opens("08:00-12:00", "07:59:00"), 60);
        assert_eq!(opens("08:00-12:00", "12:00:00"), 20 * 3600);
        assert_eq!(opens("22:00-06:00", "23:00:00"), 0);
        assert_eq!(opens("22:00-06:00", "05:59:59"), 0);
        assert_eq!(opens("22:00-06:00", "06:00:00"), 16 * 3600);
        for wrong in ["", "8-12", "08:00", "08:60-09:00", "25:00-26:00", "08:00-08:00"] {
            assert!(wrong.parse::<UploadWindow>().is_err(), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_time_and_a_second_may_come_at_once() {
        let limiter = Limiter::new(Some(Bandwidth(1000)));
        let begun = Instant::now();
        limiter.take(1000).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            limiter.take(500).await;
        }
        assert_eq!(begun.elapsed().as_millis(), 5000);
        tokio::time::advance(Duration::from_secs(60)).await;
        limiter.take(1000).await;
        assert_eq!(begun.elapsed().as_secs(), 65, "idle time is not saved up beyond a second");
        limiter.take(1000).await;
        assert_eq!(begun.elapsed().as_secs(), 66);
    }
}
