//! The Date header field (RFC 3261 20.17): `Sat, 13 Nov 2010 23:29:00 GMT`.

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The text of a moment, in seconds since 1970.
pub(crate) fn date(unix_s: u64) -> String {
    let days = unix_s / 86_400;
    let second = unix_s % 86_400;
    let (mut year, mut rest) = (1970_u64, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole Gregorian cycles first: the loop is short for any clock.
    year += 400 * (rest / 146_097);
    rest %= 146_097;
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = MONTHS[0];
    for (name, length) in MONTHS.iter().zip(lengths) {
        month = name;
        if rest < length {
            break;
        }
        rest -= length;
    }
    let weekday = DAYS.iter().cycle().nth(usize::try_from(days % 7).unwrap_or(0)).copied().unwrap_or("Thu");
    format!(
        "{weekday}, {:02} {month} {year} {:02}:{:02}:{:02} GMT",
        rest + 1,
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_289_690_940, "Sat, 13 Nov 2010 23:29:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(date(unix_s), text);
        }
    }
}
