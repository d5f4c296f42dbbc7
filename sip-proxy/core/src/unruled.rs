//! Where a request goes that begins something and that no rule matched.
//!
//! The table is the proxy's own ([`crate::Proxy`] asks here too), for those who decide without one: a log of requests that
//! is played again.

use ferric_sip::uri::Uri;

use crate::config::ProxyConfig;
use crate::identity::Identity;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unruled {
    /// It is for this node's recorder: it asks for a recording, or is addressed to us.
    Recorder,
    /// To the server group that the Request-URI names.
    Group,
    /// To the registrar, or to the contacts that are registered there.
    Registrar,
    /// Nowhere: 404.
    NoRoute,
}

/// The table; the first line that holds decides.
pub(crate) fn decide(
    config: &ProxyConfig,
    identity: &Identity,
    has_group: bool,
    uri: &Uri,
    is_recording: bool,
) -> Unruled {
    if is_recording {
        Unruled::Recorder
    } else if has_group {
        Unruled::Group
    } else if config.domains.iter().any(|domain| domain.eq_ignore_ascii_case(&uri.host)) {
        Unruled::Registrar
    } else if identity.is_own(uri) || identity.is_own_host(&uri.host) {
        Unruled::Recorder
    } else {
        Unruled::NoRoute
    }
}

/// The decisions of a configuration without a proxy at work.
#[derive(Debug, Clone)]
pub struct Defaults {
    config: ProxyConfig,
    identity: Identity,
}

impl Defaults {
    /// Of that configuration.
    pub fn new(config: ProxyConfig) -> Defaults {
        Defaults { identity: Identity::new(&config), config }
    }

    /// Where a request goes when no rule matches it.
    pub fn decide(&self, uri: &Uri, is_recording: bool) -> Unruled {
        let has_group = self.config.groups.iter().any(|group| *group.name == *uri.host);
        decide(&self.config, &self.identity, has_group, uri, is_recording)
    }

    /// The status with which a URI that cannot be followed is refused; `None` when it can.
    pub fn refusal(uri: &Uri) -> Option<u16> {
        crate::target::next_of(uri).err().map(|trouble| trouble.reject(true).status)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ferric_sip::flow::Transport;
    use ferric_sip::trust::TrustTable;

    use super::*;
    use crate::config::Listener;
    use crate::group::GroupConfig;

    #[test]
    fn without_a_rule_the_first_line_of_the_table_that_holds_decides() {
        let address = "10.0.0.5:5060".parse().unwrap();
        let listeners = vec![Listener { transport: Transport::Udp, address, advertise: None }];
        let mut config = ProxyConfig::new(listeners, TrustTable::default(), |_| false);
        config.domains = vec!["example.com".into()];
        config.groups = vec![GroupConfig::named("pool.example.com")];
        let defaults = Defaults::new(config);
        for (uri, is_recording, wanted) in [
            ("sip:x@elsewhere.example", true, Unruled::Recorder),
            ("sip:x@pool.example.com", true, Unruled::Recorder),
            ("sip:x@pool.example.com", false, Unruled::Group),
            ("sip:alice@Example.com", false, Unruled::Registrar),
            ("sip:10.0.0.5:9999", false, Unruled::Recorder),
            ("sip:x@elsewhere.example", false, Unruled::NoRoute),
        ] {
            assert_eq!(defaults.decide(&Uri::parse(uri).unwrap(), is_recording), wanted, "{uri}");
        }
        let refusal = |uri: &str| Defaults::refusal(&Uri::parse(uri).unwrap());
        assert_eq!(
            (refusal("tel:+1555"), refusal("sip:x@y;transport=sctp"), refusal("sip:x@y")),
            (Some(416), Some(500), None)
        );
    }
}
