//! Names that stand in many lines, kept once.

use std::collections::HashMap;

use ferric_sip::uri::split_host_port;

/// Names kept; what comes beyond is called by one name.
const MOST: usize = 20_000;
const OTHERS: &str = "(others)";

/// A name, by its place.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name(u32);

/// All names.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Vec<Box<str>>,
    places: HashMap<Box<str>, u32>,
}

impl Names {
    /// The name of a text.
    pub(super) fn of(&mut self, text: &str) -> Name {
        if let Some(place) = self.places.get(text) {
            return Name(*place);
        }
        let text = if self.texts.len() < MOST { text } else { OTHERS };
        if let Some(place) = self.places.get(text) {
            return Name(*place);
        }
        let place = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.into());
        self.places.insert(text.into(), place);
        Name(place)
    }

    /// Its text.
    pub(super) fn text(&self, name: Name) -> &str {
        usize::try_from(name.0).ok().and_then(|place| self.texts.get(place)).map_or(OTHERS, |text| text)
    }
}

/// An element's address in one spelling: no scheme, host in small letters, a port, the transport unless it is UDP.
pub(super) fn same_spelling(address: &str) -> String {
    let text = address.trim();
    let (text, secure) = match (text.strip_prefix("sips:"), text.strip_prefix("sip:")) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        (None, None) => (text, false),
    };
    let (host_port, parameters) = text.split_once(';').unwrap_or((text, ""));
    let named =
        parameters.split(';').find_map(|parameter| parameter.strip_prefix("transport=")).map(str::to_ascii_lowercase);
    let transport = named.unwrap_or_else(|| if secure { "tls" } else { "udp" }.to_owned());
    let Ok((host, port)) = split_host_port(host_port) else { return address.to_owned() };
    let port = port.unwrap_or(if transport == "tls" { 5_061 } else { 5_060 });
    let ending = if transport == "udp" { String::new() } else { format!(";transport={transport}") };
    format!("{}:{port}{ending}", host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        for (written, wanted) in [
            ("10.0.0.1", "10.0.0.1:5060"),
            ("sip:10.0.0.1:5060", "10.0.0.1:5060"),
            ("10.0.0.1:5060;transport=udp", "10.0.0.1:5060"),
            ("SIP1.example.com;transport=TCP", "sip1.example.com:5060;transport=tcp"),
            ("sips:[2001:db8::1]", "[2001:db8::1]:5061;transport=tls"),
            ("(by DNS)", "(by DNS)"),
        ] {
            assert_eq!(same_spelling(written), wanted);
        }
    }

    #[test]
    fn names_are_bounded() {
        let mut names = Names::default();
        let first = names.of("a");
        for number in 0..2 * MOST {
            names.of(&number.to_string());
        }
        assert_eq!((names.of("a"), names.text(first)), (first, "a"));
        let late = names.of("never seen");
        assert_eq!(names.text(late), OTHERS);
        assert!(names.texts.len() <= MOST + 1);
    }
}
