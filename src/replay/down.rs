//! `ELEMENT@FROM[-TO]`: an element that is taken to be dead for a while.

use std::str::FromStr;
use std::time::Duration;

use ferric_media::timestamp::Timestamp;
use ferric_proxy::ProxyConfig;
use thiserror::Error;

use super::names::same_spelling;

const DAY: Duration = Duration::from_secs(86_400);

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DownError {
    /// Not written as it should be.
    #[error(
        "\"{0}\" says nobody and no time: write 10.0.0.11:5060@10:05, group/*@10:05-10:20 or an element@2026-01-31T10:05:00Z"
    )]
    Form(String),
    /// It is over before it begins.
    #[error("\"{0}\" ends before it begins")]
    Order(String),
    /// No such element.
    #[error("no server group has an element {what}; there are {known}")]
    Unknown {
        /// What was asked for.
        what: String,
        /// Those that there are.
        known: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Since 1970.
    At(Duration),
    /// Of the day, in UTC.
    OfDay(Duration),
}

/// An element, or all of a group, and when it is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    text: String,
    what: String,
    from: When,
    to: Option<When>,
}

impl FromStr for Down {
    type Err = DownError;

    fn from_str(text: &str) -> Result<Down, DownError> {
        let form = || DownError::Form(text.to_owned());
        let (what, times) = text.rsplit_once('@').ok_or_else(form)?;
        let what = what.trim();
        if what.is_empty() {
            return Err(form());
        }
        // Dashes stand in dates too.
        let split = times
            .match_indices('-')
            .find_map(|(at, _)| Some((when(times.get(..at)?)?, Some(when(times.get(at + 1..)?)?))));
        let (from, to) = split.or_else(|| Some((when(times)?, None))).ok_or_else(form)?;
        if let (When::At(from), Some(When::At(to))) = (from, to)
            && to <= from
        {
            return Err(DownError::Order(text.to_owned()));
        }
        Ok(Down { text: text.to_owned(), what: what.to_owned(), from, to })
    }
}

fn when(text: &str) -> Option<When> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(When::At(Duration::from_millis(u64::try_from(time.unix_ms()).ok()?)));
    }
    let mut numbers = text.split(':');
    let mut number = |below: u64| {
        let digits = numbers.next().filter(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<u64>().ok().filter(|number| *number < below)
    };
    let (hours, minutes) = (number(24)?, number(60)?);
    let seconds = if text.len() > 5 { number(60)? } else { 0 };
    numbers.next().is_none().then(|| When::OfDay(Duration::from_secs(hours * 3_600 + minutes * 60 + seconds)))
}

impl Down {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// From when to when, since 1970; `first` is when the log begins. A time of day is one of the log's first day, and an end
    /// that lies before the begin is one of the day after.
    pub(super) fn span(&self, first: Duration) -> (Duration, Option<Duration>) {
        let midnight = |time: Duration| Duration::from_secs(time.as_secs() / DAY.as_secs() * DAY.as_secs());
        let from = match self.from {
            When::At(at) => at,
            When::OfDay(of_day) => midnight(first) + of_day,
        };
        let to = self.to.map(|to| match to {
            When::At(at) => at,
            When::OfDay(of_day) if midnight(from) + of_day > from => midnight(from) + of_day,
            When::OfDay(of_day) => midnight(from) + DAY + of_day,
        });
        (from, to)
    }

    /// The elements that are meant, as group and address.
    pub(super) fn elements(&self, config: &ProxyConfig) -> Result<Vec<(String, String)>, DownError> {
        let all = || {
            config
                .groups
                .iter()
                .flat_map(|group| group.elements.iter().map(move |element| (&*group.name, element.address.as_str())))
        };
        let owned = |(group, element): (&str, &str)| (group.to_owned(), element.to_owned());
        if let Some(name) = self.what.strip_suffix("/*")
            && let Some(group) = config.groups.iter().find(|group| group.name.eq_ignore_ascii_case(name))
        {
            let from_dns = group.dns.is_some().then(|| (group.name.to_string(), super::sim::BY_DNS.to_owned()));
            return Ok(all().filter(|(of, _)| *of == &*group.name).map(owned).chain(from_dns).collect());
        }
        let wanted = same_spelling(&self.what);
        let found: Vec<(String, String)> =
            all().filter(|(_, address)| same_spelling(address) == wanted).map(owned).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let mut known: Vec<String> = all().map(|(_, address)| address.to_owned()).collect();
        known.extend(config.groups.iter().map(|group| format!("{}/*", group.name)));
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(DownError::Unknown { what: self.what.clone(), known })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NINE: Duration = Duration::from_secs(1_700_000_000 / 86_400 * 86_400 + 9 * 3_600);

    fn span(text: &str) -> (u64, Option<u64>) {
        let (from, to) = text.parse::<Down>().unwrap().span(NINE);
        let hours = |time: Duration| (time.as_secs() + 9 * 3_600 - NINE.as_secs()) / 60;
        (hours(from), to.map(hours))
    }

    #[test]
    fn times_are_of_the_first_day_or_have_a_date() {
        assert_eq!(span("10.0.0.1@10:05"), (605, None));
        assert_eq!(span("10.0.0.1:5060;transport=tcp@10:05-10:20:00"), (605, Some(620)));
        assert_eq!(span("pool/*@23:00-01:00"), (1_380, Some(1_500)), "over midnight");
        assert_eq!(span("a@2023-11-14T11:05:00+01:00-2023-11-14T10:20:00Z"), (605, Some(620)));
        assert_eq!(span("a@2023-11-14T10:05:00Z-10:20"), (605, Some(620)));
        let down: Down = "[2001:db8::1]:5060@10:05".parse().unwrap();
        assert_eq!(down.what, "[2001:db8::1]:5060");
    }

    #[test]
    fn what_is_no_element_and_time_is_refused() {
        for text in ["10.0.0.1", "@10:05", "a@25:00", "a@10:5", "a@10:05-", "a@noon", "a@10:05:00:00", "a@"] {
            assert_eq!(text.parse::<Down>(), Err(DownError::Form(text.to_owned())), "{text}");
        }
        let order = "a@2023-11-14T10:05:00Z-2023-11-14T10:05:00Z";
        assert_eq!(order.parse::<Down>(), Err(DownError::Order(order.to_owned())));
    }
}
