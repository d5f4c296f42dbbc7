//! Values with units: `2h`, `500ms`, `64 KiB`, `50 Mbit/s`, `90%`.

use std::time::Duration;

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// `500ms`, `5s`, `10m`, `2h`, `365d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// `512 B`, `64 KiB`, `10 MiB`, `1 GiB`; also `kB`, `MB`, `GB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: f64 = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    whole(number * factor)
}

/// `64 kbit/s`, `50 Mbit/s`, `1 Gbit/s`, in bits a second.
pub fn parse_bit_rate(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "bit/s" => 1.0,
        "kbit/s" => 1e3,
        "Mbit/s" => 1e6,
        "Gbit/s" => 1e9,
        _ => return None,
    };
    whole(number * factor).filter(|rate| *rate > 0)
}

/// `90%`.
pub(super) fn parse_percent(text: &str) -> Option<u8> {
    text.trim().strip_suffix('%')?.trim().parse().ok().filter(|percent| (1..=100).contains(percent))
}

/// `39500-43500`.
pub(super) fn parse_ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// `22:00-06:00`, in minutes of the day; `24:00` is the end of the day.
pub(super) fn parse_window(text: &str) -> Option<(u16, u16)> {
    let minute = |text: &str| -> Option<u16> {
        let (hours, minutes) = text.trim().split_once(':')?;
        let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours <= 24 && minutes < 60 && hours * 60 + minutes <= 1440).then_some((hours * 60 + minutes) % 1440)
    };
    let (from, to) = text.split_once('-')?;
    Some((minute(from)?, minute(to)?))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> Option<u64> {
    (value.is_finite() && (0.0..9e15).contains(&value)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_nonsense_is_not() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("2 weeks"), None);
        assert_eq!(parse_duration("2"), None);
        assert_eq!(parse_size("64 KiB"), Some(65_536));
        assert_eq!(parse_size("64 kib"), None);
        assert_eq!(parse_bit_rate("50 Mbit/s"), Some(50_000_000));
        assert_eq!(parse_percent("90%"), Some(90));
        assert_eq!(parse_percent("190%"), None);
        assert_eq!(parse_ports("39500-43500"), Some((39_500, 43_500)));
        assert_eq!(parse_window("00:00-24:00"), Some((0, 0)));
        assert_eq!(parse_window("22:30-06:00"), Some((1350, 360)));
        assert_eq!(parse_window("25:00-06:00"), None);
    }
}
