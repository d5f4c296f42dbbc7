//! Values with units: `2h`, `500ms`, `64 KiB`, `90%`.

use std::net::IpAddr;
use std::time::Duration;

use super::proxy::host;

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

/// `90%`.
pub(super) fn parse_percent(text: &str) -> Option<u8> {
    text.trim().strip_suffix('%')?.trim().parse().ok().filter(|percent| (1..=100).contains(percent))
}

/// `39500-43500`.
pub(super) fn parse_ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> Option<u64> {
    (value.is_finite() && (0.0..9e15).contains(&value)).then_some(value as u64)
}

/// `10.0.0.5:5060`, `[2001:db8::5]:5060`, `sip1.example.com:5060`.
pub(super) fn host_port(text: &str) -> bool {
    let Some((name, port)) = text.rsplit_once(':') else { return false };
    let is_v6 = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .is_some_and(|name| name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()));
    (is_v6 || host(name).is_some()) && port.parse::<u16>().is_ok_and(|port| port > 0)
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
        assert_eq!(parse_percent("90%"), Some(90));
        assert_eq!(parse_percent("190%"), None);
        assert_eq!(parse_ports("39500-43500"), Some((39_500, 43_500)));
    }

    #[test]
    fn addresses_are_told_from_other_texts() {
        for right in ["10.0.0.5:5060", "[2001:db8::5]:5060", "sip1.example.com:5060", "localhost:1"] {
            assert!(host_port(right), "{right}");
        }
        for wrong in [
            "10.0.0.5",
            "a b:5060",
            "2001:db8::5:5060",
            "host:0",
            "host:70000",
            ":5060",
            "a..b:1",
            "host:5060\r\nVia: x",
        ] {
            assert!(!host_port(wrong), "{wrong}");
        }
    }
}
