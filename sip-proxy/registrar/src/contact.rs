//! The Contact header fields of a REGISTER (RFC 3261 10.2, RFC 5626 4.2).

use std::time::Duration;

use ferric_sip::header::NameAddr;
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;

use crate::config::RegistrarConfig;

/// Contacts of one request.
const MOST_CONTACTS: usize = 64;
/// Bytes of a URI, of an instance, and of all Path values.
const MOST_URI: usize = 1_024;
const MOST_INSTANCE: usize = 256;
const MOST_PATH: usize = 4_096;
/// What stands for an expiry that cannot be read (RFC 3261 10.3 step 7, 20.19).
const UNREADABLE_S: u64 = 3_600;

/// What a REGISTER wants.
#[derive(Debug)]
pub(crate) enum Contacts {
    /// To know the bindings.
    Query,
    /// All bindings gone.
    All,
    /// These set or gone.
    List(Vec<Wanted>),
}

/// One contact as asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) text: String,
    pub(crate) uri: Uri,
    /// Thousandths.
    pub(crate) q: Option<u16>,
    /// Whole seconds; 0 removes.
    pub(crate) expires: Duration,
    pub(crate) instance: Option<String>,
    pub(crate) reg_id: Option<u32>,
}

/// Reads and checks them, without a look at the bindings.
pub(crate) fn contacts(request: &Message, config: &RegistrarConfig) -> Result<Contacts, Reject> {
    let values = request.values("Contact");
    let header = request.header("Expires").map(|text| seconds(&text));
    if values.iter().any(|value| value == "*") {
        if values.len() > 1 {
            return Err(Reject::because(400, "Contact: * stands with other contacts"));
        }
        if header != Some(0) {
            return Err(Reject::because(400, "Contact: * needs Expires: 0"));
        }
        return Ok(Contacts::All);
    }
    if values.is_empty() {
        return Ok(Contacts::Query);
    }
    if values.len() > MOST_CONTACTS {
        return Err(Reject::because(403, format!("More than {MOST_CONTACTS} contacts in one request")));
    }
    let wanted: Vec<Wanted> = values.iter().map(|value| wanted(value, header, config)).collect::<Result<_, _>>()?;
    if wanted.iter().filter(|one| one.reg_id.is_some() && !one.expires.is_zero()).count() > 1 {
        return Err(Reject::because(400, "Contact: more than one with a reg-id"));
    }
    Ok(Contacts::List(wanted))
}

fn wanted(value: &str, header: Option<u64>, config: &RegistrarConfig) -> Result<Wanted, Reject> {
    let wrong = |what: &str| Reject::because(400, format!("Contact: {what}"));
    let contact = NameAddr::parse("Contact", value)?;
    if contact.uri.len() > MOST_URI {
        return Err(wrong("the URI is too long"));
    }
    let uri = Uri::parse(&contact.uri).map_err(|error| wrong(&error.to_string()))?;
    let q = match contact.params.get("q") {
        Some(text) => Some(
            preference(text)
                .ok_or_else(|| wrong("q is a number from 0 to 1 with at most three digits behind the point"))?,
        ),
        None => None,
    };
    let instance = contact.params.get("+sip.instance").filter(|text| !text.is_empty()).map(str::to_owned);
    if instance.as_ref().is_some_and(|text| text.len() > MOST_INSTANCE || text.contains(['"', '\\'])) {
        return Err(wrong("+sip.instance is too long or no URN"));
    }
    let reg_id = match contact.params.get("reg-id") {
        // Without an instance a reg-id means nothing (RFC 5626 4.2).
        Some(text) if instance.is_some() => {
            let number = text.parse().ok().filter(|number| *number > 0 && *number < 1 << 31);
            Some(number.ok_or_else(|| wrong("reg-id is a number from 1"))?)
        }
        Some(_) | None => None,
    };
    let asked = contact.params.get("expires").map(seconds).or(header);
    let expires = granted(asked, config)?;
    Ok(Wanted { text: contact.uri, uri, q, expires, instance, reg_id })
}

/// The expiry that is granted; 423 when it is too short (RFC 3261 10.3 step 7).
fn granted(asked: Option<u64>, config: &RegistrarConfig) -> Result<Duration, Reject> {
    let most = config.max_expires.as_secs().max(1);
    let least = config.min_expires.as_secs().min(most);
    match asked {
        None => Ok(Duration::from_secs(config.default_expires.as_secs().clamp(least.max(1), most))),
        Some(0) => Ok(Duration::ZERO),
        // An hour is never too short, whatever the limit.
        Some(asked) if asked < least && asked < 3_600 => {
            Err(Reject::because(423, "Interval Too Brief").with("Min-Expires", least.to_string()))
        }
        Some(asked) => Ok(Duration::from_secs(asked.min(most))),
    }
}

fn seconds(text: &str) -> u64 {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return UNREADABLE_S;
    }
    text.parse().unwrap_or(u64::MAX)
}

/// `0.7` as thousandths (RFC 3261 25.1: qvalue).
fn preference(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{part:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1_000),
        _ => None,
    }
}

/// A preference as text, without needless digits.
pub(crate) fn preference_text(thousandths: u16) -> String {
    if thousandths >= 1_000 {
        return "1".to_owned();
    }
    let text = format!("0.{thousandths:03}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The values of Path (RFC 3327); each must hold a URI.
pub(crate) fn path(request: &Message) -> Result<Vec<String>, Reject> {
    let values = request.values("Path");
    if values.iter().map(String::len).sum::<usize>() > MOST_PATH {
        return Err(Reject::because(400, "Path is too long"));
    }
    for value in &values {
        let uri = NameAddr::parse("Path", value)?.parsed_uri();
        if uri.is_none_or(|uri| !uri.is_sip()) {
            return Err(Reject::because(400, "Path: a value without a SIP URI"));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rfc3261_25_1_qvalues() {
        for (text, thousandths) in
            [("0", 0), ("0.", 0), ("0.5", 500), ("0.07", 70), ("0.123", 123), ("1", 1_000), ("1.000", 1_000)]
        {
            assert_eq!(preference(text), Some(thousandths), "{text}");
        }
        for wrong in ["", ".5", "1.1", "1.001", "0.1234", "2", "-0", "0.x", "0,5"] {
            assert_eq!(preference(wrong), None, "{wrong}");
        }
        for (thousandths, text) in [(0, "0"), (500, "0.5"), (70, "0.07"), (123, "0.123"), (1_000, "1")] {
            assert_eq!(preference_text(thousandths), text);
        }
    }

    #[test]
    fn rfc3261_10_3_step_7_expiry() {
        let config = RegistrarConfig::new(["example.com"]);
        let granted = |asked| granted(asked, &config).map(|time| time.as_secs());
        assert_eq!(granted(None), Ok(3_600));
        assert_eq!(granted(Some(0)), Ok(0));
        assert_eq!(granted(Some(59)).unwrap_err().status, 423);
        assert_eq!(granted(Some(59)).unwrap_err().headers, [("Min-Expires", "60".to_owned())]);
        assert_eq!(granted(Some(60)), Ok(60));
        assert_eq!(granted(Some(u64::MAX)), Ok(3_600));
        assert_eq!(
            (seconds("120 "), seconds("soon"), seconds(""), seconds("-1"), seconds("99999999999999999999")),
            (120, 3_600, 3_600, 3_600, u64::MAX)
        );
    }

    #[test]
    fn an_hour_is_not_too_brief_for_any_limit() {
        let mut config = RegistrarConfig::new(["example.com"]);
        (config.min_expires, config.max_expires) = (Duration::from_secs(7_200), Duration::from_secs(14_400));
        assert_eq!(granted(Some(3_600), &config), Ok(Duration::from_secs(3_600)));
        assert_eq!(granted(Some(3_599), &config).unwrap_err().status, 423);
    }
}
