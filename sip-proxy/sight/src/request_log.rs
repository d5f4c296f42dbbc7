//! One JSON line for each request that was finished: what was decided, and what is needed to decide it again.
//!
//! ```text
//! {"t":1700000000.25,"m":"INVITE","id":"a@b","ru":"sip:+15550100@example.com","fu":"sip:alice@example.com",
//!  "src":"192.0.2.1:5060","on":"udp:192.0.2.10:5060","h":{"x-tenant":"blue"},
//!  "rule":"blue","grp":"pool-a","el":"sip:10.0.0.1:5060","n":2,"st":200,"ms":312.5,"why":"ok"}
//! ```
//!
//! | Key | Meaning | |
//! |---|---|---|
//! | `t` | when the request came, seconds since 1970, to the microsecond | |
//! | `m` | method | replayed |
//! | `id` | Call-ID | |
//! | `ru` | Request-URI | replayed |
//! | `fu` | From URI; left out when it could not be read | replayed |
//! | `src` | source address and port | replayed |
//! | `on` | listener: `udp:`, `tcp:` or `tls:` and its address | replayed |
//! | `rec` | `true` for SIPREC; left out otherwise | replayed |
//! | `mid` | `true` when it began nothing: within a dialog, along a Route; left out when the rules decided | replayed |
//! | `h` | values of the header fields that routes match on; left out when there are none | replayed |
//! | `rule`, `grp`, `el` | route, server group and element that were taken; left out when it did not get there | compared |
//! | `n` | elements that were tried | |
//! | `st` | the status that was answered | compared |
//! | `ms` | until that answer, in milliseconds, to the microsecond | |
//! | `why` | cause, a word of a fixed list | compared |
//!
//! A line has no line break in it. Keys that are not known are passed over, so that an older `ferric replay` reads the
//! lines of a newer node. Credentials never stand in a line: passwords of URIs and values of `Authorization` are `***`.
//! Lines do hold numbers and addresses of people; they belong into a file of their own, not into the diagnostic log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use ferric_sip::{Transport, Uri};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::SightError;
use crate::redact;

/// Where we listen: `udp:192.0.2.10:5060`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener {
    /// How messages come.
    pub transport: Transport,
    /// Our address.
    pub address: SocketAddr,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.as_str().to_ascii_lowercase(), self.address)
    }
}

impl FromStr for Listener {
    type Err = SightError;

    fn from_str(text: &str) -> Result<Listener, SightError> {
        let (transport, address) = text.split_once(':').ok_or(SightError::Listener)?;
        let transport = [Transport::Udp, Transport::Tcp, Transport::Tls]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(transport))
            .ok_or(SightError::Listener)?;
        Ok(Listener { transport, address: address.parse().map_err(|_| SightError::Listener)? })
    }
}

/// A request that was finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDone {
    /// When the request came, since 1970.
    #[serde(rename = "t", serialize_with = "as_seconds", deserialize_with = "from_seconds")]
    pub at_unix: Duration,
    /// Method.
    #[serde(rename = "m")]
    pub method: String,
    /// Call-ID.
    #[serde(rename = "id")]
    pub call_id: String,
    /// Request-URI as it came.
    #[serde(rename = "ru", serialize_with = "without_password")]
    pub request_uri: String,
    /// URI of the From field.
    #[serde(
        rename = "fu",
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "without_password_if_any"
    )]
    pub from_uri: Option<String>,
    /// Where it came from.
    #[serde(rename = "src")]
    pub source: SocketAddr,
    /// Where it came to; its transport is the request's.
    #[serde(rename = "on", serialize_with = "as_text", deserialize_with = "from_text")]
    pub listener: Listener,
    /// True for a recording session (SIPREC).
    #[serde(rename = "rec", default, skip_serializing_if = "is_false")]
    pub siprec: bool,
    /// It began something, and the rules decided; false within a dialog and along a Route.
    #[serde(
        rename = "mid",
        default = "yes",
        skip_serializing_if = "is_true",
        serialize_with = "negated",
        deserialize_with = "from_negated"
    )]
    pub is_initial: bool,
    /// Header fields that routes match on, by name in small letters.
    #[serde(rename = "h", default, skip_serializing_if = "BTreeMap::is_empty", serialize_with = "without_credentials")]
    pub headers: BTreeMap<String, String>,
    /// The route that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The server group.
    #[serde(rename = "grp", default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The element that gave the answer, or was tried last.
    #[serde(
        rename = "el",
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "without_password_if_any"
    )]
    pub element: Option<String>,
    /// Elements tried.
    #[serde(rename = "n", default)]
    pub tries: u8,
    /// The status that was answered.
    #[serde(rename = "st")]
    pub status: u16,
    /// From the request to that answer.
    #[serde(rename = "ms", serialize_with = "as_milliseconds", deserialize_with = "from_milliseconds")]
    pub elapsed: Duration,
    /// Why: a word of a fixed list, borrowed when written and owned when read.
    #[serde(rename = "why")]
    pub cause: Cow<'static, str>,
}

impl RequestDone {
    /// The line, without a line break.
    pub fn to_line(&self) -> String {
        // Keys are strings and numbers are finite: nothing of it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a line. Times come back in whole microseconds, and credentials do not.
    ///
    /// # Errors
    /// [`SightError::Line`] when it is no JSON object with the values that every line has.
    pub fn parse_line(line: &str) -> Result<RequestDone, SightError> {
        serde_json::from_str(line.trim()).map_err(SightError::Line)
    }

    /// The user of the From URI.
    pub fn from_user(&self) -> Option<String> {
        Uri::parse(self.from_uri.as_deref()?).ok()?.user_unescaped()
    }
}

/// [`RequestDone::parse_line`].
///
/// # Errors
/// As there.
pub fn parse_line(line: &str) -> Result<RequestDone, SightError> {
    RequestDone::parse_line(line)
}

pub(crate) fn as_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_micros() as f64 / 1e6)
}

pub(crate) fn as_milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_micros() as f64 / 1e3)
}

pub(crate) fn as_token<S: Serializer>(transport: &Transport, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(transport.as_str())
}

fn from_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    to_microsecond(f64::deserialize(deserializer)?)
}

fn from_milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    to_microsecond(f64::deserialize(deserializer)? / 1e3)
}

fn to_microsecond<E: de::Error>(seconds: f64) -> Result<Duration, E> {
    let time = Duration::try_from_secs_f64(seconds).map_err(E::custom)?;
    u64::try_from((time.as_nanos() + 500) / 1_000).map(Duration::from_micros).map_err(E::custom)
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn from_text<'de, T: FromStr<Err = SightError>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn without_password<S: Serializer>(uri: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redact::text(uri.as_bytes()))
}

fn without_password_if_any<S: Serializer>(uri: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    uri.as_ref().map(|uri| redact::text(uri.as_bytes())).serialize(serializer)
}

fn without_credentials<S: Serializer>(headers: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| {
        let value = if redact::is_hidden_field(name) { "***".to_owned() } else { redact::text(value.as_bytes()) };
        (name, value)
    }))
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_true(flag: &bool) -> bool {
    *flag
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn negated<S: Serializer>(flag: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(!flag)
}

fn from_negated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    bool::deserialize(deserializer).map(|flag| !flag)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn request() -> RequestDone {
        RequestDone {
            at_unix: Duration::from_micros(1_700_000_000_123_457),
            method: "INVITE".into(),
            call_id: "a@b".into(),
            request_uri: "sip:+15550100@example.com".into(),
            from_uri: Some("sip:%61lice@example.com".into()),
            source: "192.0.2.1:5060".parse().unwrap(),
            listener: "udp:192.0.2.10:5060".parse().unwrap(),
            siprec: true,
            is_initial: true,
            headers: BTreeMap::from([("x-tenant".into(), "blue".into())]),
            rule: Some("blue".into()),
            group: Some("pool-a".into()),
            element: Some("sip:10.0.0.1:5060".into()),
            tries: 2,
            status: 200,
            elapsed: Duration::from_micros(312_500),
            cause: "ok".into(),
        }
    }

    #[test]
    fn the_line_is_short_and_comes_back() {
        let line = request().to_line();
        insta::assert_snapshot!(line, @r#"{"t":1700000000.123457,"m":"INVITE","id":"a@b","ru":"sip:+15550100@example.com","fu":"sip:%61lice@example.com","src":"192.0.2.1:5060","on":"udp:192.0.2.10:5060","rec":true,"h":{"x-tenant":"blue"},"rule":"blue","grp":"pool-a","el":"sip:10.0.0.1:5060","n":2,"st":200,"ms":312.5,"why":"ok"}"#);
        let again = parse_line(&format!("{line}\n")).unwrap();
        assert_eq!(again, request());
        assert_eq!(again.from_user().as_deref(), Some("alice"));
    }

    #[test]
    fn what_is_not_there_is_left_out_and_what_is_not_known_passed_over() {
        let line = r#"{"t":1,"m":"OPTIONS","id":"x","ru":"sip:x","src":"[2001:db8::1]:9","on":"tls:[::1]:5061","st":404,"ms":0,"why":"no_route","new":[1]}"#;
        let request = parse_line(line).unwrap();
        assert_eq!(request.listener.to_string(), "tls:[::1]:5061");
        assert_eq!(
            (request.siprec, request.rule.as_deref(), request.tries, request.from_user()),
            (false, None, 0, None)
        );
        assert_eq!(parse_line(&request.to_line()).unwrap(), request);
        assert!(!request.to_line().contains("null"));
    }

    #[test]
    fn a_request_within_a_dialog_says_so_and_all_others_begin_something() {
        let mut bye = request();
        (bye.method, bye.is_initial) = ("BYE".into(), false);
        let line = bye.to_line();
        assert!(line.contains(r#""mid":true"#) && !request().to_line().contains("mid"), "{line}");
        assert_eq!(parse_line(&line).unwrap(), bye);
        assert!(parse_line(&line.replace(r#""mid":true"#, r#""mid":false"#)).unwrap().is_initial);
    }

    #[test]
    fn broken_lines_are_errors() {
        let line = request().to_line();
        for (from, to) in [
            ("\"t\":1700000000.123457", "\"t\":-1"),
            ("udp:", "smtp:"),
            ("\"n\":2", "\"n\":300"),
            ("\"m\":", "\"mm\":"),
            ("312.5", "1e300"),
        ] {
            assert!(line.contains(from) && parse_line(&line.replace(from, to)).is_err(), "{to}");
        }
        assert!(parse_line("").is_err() && parse_line(line.get(..40).unwrap()).is_err());
        assert!("192.0.2.1:5060".parse::<Listener>().is_err());
    }

    #[test]
    fn credentials_never_stand_in_a_line() {
        let mut request = request();
        request.request_uri = "sip:bob:s3cret@x".into();
        request.from_uri = Some("sips:a:s3cret@x".into());
        request.headers.insert("Proxy-Authorization".into(), "Digest s3cret".into());
        request.headers.insert("referred-by".into(), "<sip:a:s3cret@x>".into());
        let line = request.to_line();
        assert!(!line.contains("s3cret") && line.matches("***").count() == 4, "{line}");
    }

    proptest! {
        #[test]
        fn every_line_comes_back(micros in 0u64..4_000_000_000_000_000, elapsed in 0u64..1_000_000_000_000, id in "\\PC*", value in any::<String>(), status: u16, tries: u8) {
            let mut request = request();
            request.at_unix = Duration::from_micros(micros);
            request.elapsed = Duration::from_micros(elapsed);
            request.call_id = id;
            request.rule = Some(value);
            (request.status, request.tries) = (status, tries);
            let line = request.to_line();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(parse_line(&line).unwrap(), request);
        }

        #[test]
        fn no_line_makes_it_panic(line in any::<String>()) {
            let _ = parse_line(&line);
        }
    }
}
