//! An amount with its unit, for people and for machines.

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

/// A number and what it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Things: calls, nodes.
    Count(u64),
    /// Things a second.
    PerSecond(f64),
    /// Minutes.
    Minutes(f64),
    /// Bits a second.
    Bits(f64),
    /// Bytes.
    Bytes(f64),
    /// A share, 1.0 = all.
    Share(f64),
}

impl Amount {
    /// The bare number, in the unit of [`unit`](Self::unit).
    #[allow(clippy::cast_precision_loss)]
    pub fn number(self) -> f64 {
        match self {
            Self::Count(count) => count as f64,
            Self::PerSecond(number)
            | Self::Minutes(number)
            | Self::Bits(number)
            | Self::Bytes(number)
            | Self::Share(number) => number,
        }
    }

    /// The unit of [`number`](Self::number), empty for things.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Count(_) | Self::Share(_) => "",
            Self::PerSecond(_) => "1/s",
            Self::Minutes(_) => "min",
            Self::Bits(_) => "bit/s",
            Self::Bytes(_) => "B",
        }
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match *self {
            Self::Count(count) => thousands(count),
            Self::PerSecond(number) => format!("{}/s", short(number)),
            Self::Minutes(number) => format!("{} min", short(number)),
            Self::Bits(number) => scaled(number, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]),
            Self::Bytes(number) => scaled(number, &["B", "kB", "MB", "GB", "TB", "PB"]),
            Self::Share(number) => format!("{:.0} %", number * 100.0),
        };
        f.pad(&text)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        // Whole things are no floating-point numbers.
        if let Self::Count(count) = self {
            map.serialize_entry("value", count)?;
        } else {
            map.serialize_entry("value", &self.number())?;
        }
        map.serialize_entry("unit", self.unit())?;
        map.end()
    }
}

/// `28800` as `28,800`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three figures, and no zeros after the point.
fn short(number: f64) -> String {
    let places = match number.abs() {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{number:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn scaled(number: f64, units: &[&str]) -> String {
    let mut number = number;
    let mut units = units.iter().peekable();
    while let Some(unit) = units.next() {
        // 999.7 is shown as 1000, which the next unit says better.
        if number < 999.5 || units.peek().is_none() {
            return format!("{} {unit}", short(number));
        }
        number /= 1000.0;
    }
    short(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amounts_are_written_as_people_write_them() {
        for (amount, text) in [
            (Amount::Count(0), "0"),
            (Amount::Count(999), "999"),
            (Amount::Count(28_800), "28,800"),
            (Amount::Count(1_234_567), "1,234,567"),
            (Amount::PerSecond(8.0), "8/s"),
            (Amount::PerSecond(0.126), "0.13/s"),
            (Amount::Minutes(4.1667), "4.17 min"),
            (Amount::Bits(0.0), "0 bit/s"),
            (Amount::Bits(174_400.0), "174 kbit/s"),
            (Amount::Bits(34e6), "34 Mbit/s"),
            (Amount::Bits(999_700.0), "1 Mbit/s"),
            (Amount::Bytes(44.67e12), "44.7 TB"),
            (Amount::Bytes(5e18), "5000 PB"),
            (Amount::Share(0.833), "83 %"),
        ] {
            assert_eq!(amount.to_string(), text);
        }
    }

    #[test]
    fn machines_get_the_plain_number_and_its_unit() {
        let json = |amount: Amount| serde_json::to_string(&amount).unwrap();
        assert_eq!(json(Amount::Count(28_800)), r#"{"value":28800,"unit":""}"#);
        assert_eq!(json(Amount::Bits(34e6)), r#"{"value":34000000.0,"unit":"bit/s"}"#);
    }
}
