//! Addresses of record in one form (RFC 3261 10.3 step 5): the user with its escapes resolved, the domain as configured,
//! nothing else. `sip:` and `sips:` name the same.

use ferric_sip::uri::Uri;

use crate::config::RegistrarConfig;

/// A user of one of our domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aor {
    /// `user@domain`.
    pub(crate) key: String,
    /// Where the domain begins.
    at: usize,
}

impl Aor {
    /// `None` when the URI names no user of one of our domains.
    pub(crate) fn of(uri: &Uri, config: &RegistrarConfig) -> Option<Aor> {
        if !uri.is_sip() {
            return None;
        }
        let domain = config.domain(&uri.host)?;
        let user = uri.user_unescaped().filter(|user| !user.is_empty() && !user.contains(char::is_control))?;
        Some(Aor { key: [&user, "@", domain].concat(), at: user.len() + 1 })
    }

    /// The part before the `@`.
    pub(crate) fn user(&self) -> &str {
        self.key.get(..self.at - 1).unwrap_or("")
    }

    /// The realm of the user.
    pub(crate) fn domain(&self) -> &str {
        self.key.get(self.at..).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parameters_escapes_and_the_domains_case_make_no_difference() {
        let config = RegistrarConfig::new(["Example.com"]);
        let of = |text: &str| Aor::of(&Uri::parse(text).unwrap(), &config);
        for text in
            ["sip:alice@example.com", "sips:%61lice@EXAMPLE.com:5061;transport=tls", "sip:alice:pw@example.com.?x=y"]
        {
            let aor = of(text).unwrap();
            assert_eq!(
                (aor.key.as_str(), aor.user(), aor.domain()),
                ("alice@example.com", "alice", "example.com"),
                "{text}"
            );
        }
        assert_ne!(of("sip:Alice@example.com"), of("sip:alice@example.com"));
        for none in ["sip:example.com", "sip:alice@example.net", "tel:+1555", "sip:a%0Ab@example.com"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
