//! The configuration of Ferric as it is put together, before it is written.

use super::pattern::escape;

/// The parts of a configuration that come from CUSP.
#[derive(Debug, Default)]
pub(super) struct Ferric {
    pub(super) listeners: Vec<Listener>,
    pub(super) record_route: Vec<u32>,
    pub(super) calls_per_second: Option<(u32, u32)>,
    pub(super) groups: Vec<ServerGroup>,
    pub(super) routes: Vec<Route>,
    /// Who may send: networks beside the default's, with the lines that name them.
    pub(super) trust: Vec<(String, Vec<u32>)>,
}

/// A `[[sip.listen]]`.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) line: u32,
    pub(super) network: String,
    pub(super) transport: String,
    pub(super) address: String,
}

impl Listener {
    /// As a route names it.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.transport, self.address)
    }
}

/// A `[[proxy.server_group]]`.
#[derive(Debug)]
pub(super) struct ServerGroup {
    pub(super) lines: Vec<u32>,
    pub(super) from: String,
    pub(super) name: String,
    pub(super) policy: &'static str,
    pub(super) heartbeat: Heartbeat,
    /// `None`: those of Ferric.
    pub(super) failover_codes: Option<Vec<u16>>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) elements: Vec<Element>,
}

/// How a group's elements are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heartbeat {
    /// As by default.
    Default,
    Off,
    Every {
        up_ms: u64,
        down_ms: u64,
        adaptive: bool,
    },
}

/// An element of a server group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) address: String,
    pub(super) priority: u16,
    pub(super) weight: u16,
}

/// A `[[proxy.route]]`.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) lines: Vec<u32>,
    pub(super) from: String,
    pub(super) name: String,
    pub(super) wanted: Match,
    pub(super) action: Action,
    pub(super) rewrite: Rewrite,
    /// CUSP's network of the destination, for conditions that ask for it.
    pub(super) network: String,
}

impl Route {
    /// A route for every request, refused so far.
    pub(super) fn new(name: &str, from: &str) -> Route {
        Route {
            lines: Vec::new(),
            from: from.to_owned(),
            name: name.to_owned(),
            wanted: Match::default(),
            action: Action::Unknown,
            rewrite: Rewrite::default(),
            network: String::new(),
        }
    }
}

/// What becomes of a request that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A group's name, a URI or `request-uri`.
    To(String),
    Reject(u16),
    /// Its destination is not carried over: refused until somebody writes it.
    Unknown,
}

/// A `rewrite`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rewrite {
    /// So many characters off, then this before the rest.
    pub(super) prefix: Option<(usize, String)>,
    /// An expression and what replaces it.
    pub(super) regex: Option<(String, String)>,
    pub(super) host: Option<String>,
}

/// A key that is compared with the request-URI's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserKey {
    pub(super) text: String,
    pub(super) is_exact: bool,
    /// A `+` in front does not count.
    pub(super) any_plus: bool,
}

/// A `match`. Empty: any request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) method: Option<String>,
    pub(super) key: Option<UserKey>,
    /// An expression over the user, out of a trigger condition.
    pub(super) user: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) from: Option<String>,
    pub(super) source: Option<String>,
    pub(super) listener: Option<String>,
    pub(super) header: Option<(String, String)>,
}

/// What two matches come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Both {
    /// One match that asks for both.
    One(Box<Match>),
    /// No request fits both.
    Never,
    /// One route cannot ask for both; what it is that collides.
    Inexpressible(&'static str),
}

impl Match {
    /// The match that asks for this and for `other`.
    pub(super) fn and(&self, other: &Match) -> Both {
        let mut both = self.clone();
        // Two different values of these exclude each other.
        match (&both.domain, &other.domain) {
            (Some(mine), Some(theirs)) => match narrower_domain(mine, theirs) {
                Some(domain) => both.domain = Some(domain),
                None => return Both::Never,
            },
            (None, Some(_)) => both.domain.clone_from(&other.domain),
            _ => {}
        }
        for (mine, theirs) in [(&mut both.method, &other.method), (&mut both.listener, &other.listener)] {
            match (&mine, theirs) {
                (Some(mine), Some(theirs)) if mine != theirs => return Both::Never,
                (None, Some(_)) => mine.clone_from(theirs),
                _ => {}
            }
        }
        // Two different expressions may both be true, and a route takes one.
        for (mine, theirs, what) in [
            (&mut both.user, &other.user, "two expressions over the user"),
            (&mut both.from, &other.from, "two expressions over From"),
            (&mut both.source, &other.source, "two networks of senders"),
        ] {
            match (&mine, theirs) {
                (Some(mine), Some(theirs)) if mine != theirs => return Both::Inexpressible(what),
                (None, Some(_)) => mine.clone_from(theirs),
                _ => {}
            }
        }
        match (&both.header, &other.header) {
            (Some(mine), Some(theirs)) if mine != theirs => return Both::Inexpressible("two headers"),
            (None, Some(_)) => both.header.clone_from(&other.header),
            _ => {}
        }
        match (&both.key, &other.key) {
            (Some(mine), Some(theirs)) => match narrower(mine, theirs) {
                Some(key) => both.key = Some(key),
                None => return Both::Never,
            },
            (None, Some(_)) => both.key.clone_from(&other.key),
            _ => {}
        }
        if both.user.is_some() && both.key.as_ref().is_some_and(|key| key.is_exact || key.any_plus) {
            return Both::Inexpressible("an expression over the user beside an exact number");
        }
        Both::One(Box::new(both))
    }

    /// The `user` that is written: of the condition, or the key's where `user_prefix` does not say it.
    pub(super) fn user_regex(&self) -> Option<String> {
        let of_key = |key: &UserKey| {
            let (plus, end) = (if key.any_plus { "\\+?" } else { "" }, if key.is_exact { "$" } else { "" });
            let text = if key.any_plus { key.text.trim_start_matches('+') } else { &key.text };
            (key.is_exact || key.any_plus).then(|| format!("^{plus}{}{end}", escape(text)))
        };
        self.key.as_ref().and_then(of_key).or_else(|| self.user.clone())
    }

    /// The `user_prefix` that is written.
    pub(super) fn user_prefix(&self) -> Option<&str> {
        self.key.as_ref().filter(|key| !key.is_exact && !key.any_plus).map(|key| key.text.as_str())
    }
}

/// The domain that both allow; `*.` in front stands for everything below.
fn narrower_domain(a: &str, b: &str) -> Option<String> {
    let below =
        |domain: &str, star: &str| star.strip_prefix('*').is_some_and(|end| domain.ends_with(end) && domain != star);
    if a == b || below(a, b) { Some(a.to_owned()) } else { below(b, a).then(|| b.to_owned()) }
}

/// The key that both keys allow.
fn narrower(a: &UserKey, b: &UserKey) -> Option<UserKey> {
    let (a, b) = (&like(a, b), &like(b, a));
    let (long, short) = if a.text.len() >= b.text.len() { (a, b) } else { (b, a) };
    let fits = if short.is_exact { long.text == short.text } else { long.text.starts_with(&short.text) };
    let is_exact = long.is_exact || short.is_exact;
    fits.then(|| UserKey { text: long.text.clone(), is_exact, any_plus: a.any_plus && b.any_plus })
}

/// The key as it is compared beside another: where that one counts the plus in front, this one has it or not.
fn like(key: &UserKey, other: &UserKey) -> UserKey {
    let text = key.text.trim_start_matches('+');
    match (key.any_plus, other.any_plus) {
        (true, true) => UserKey { text: text.to_owned(), ..key.clone() },
        (true, false) if other.text.starts_with('+') => {
            UserKey { text: format!("+{text}"), any_plus: false, ..key.clone() }
        }
        (true, false) => UserKey { text: text.to_owned(), any_plus: false, ..key.clone() },
        (false, _) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, is_exact: bool) -> Match {
        Match { key: Some(UserKey { text: text.to_owned(), is_exact, any_plus: false }), ..Match::default() }
    }

    #[test]
    fn two_keys_are_one_or_exclude_each_other() {
        assert_eq!(key("14", false).and(&key("1408", false)), Both::One(Box::new(key("1408", false))));
        assert_eq!(key("1408", true).and(&key("14", false)), Both::One(Box::new(key("1408", true))));
        assert_eq!(key("14", true).and(&key("1408", false)), Both::Never);
        assert_eq!(key("15", false).and(&key("1408", false)), Both::Never);
    }

    #[test]
    fn a_plus_that_does_not_count_is_like_the_other_keys() {
        let loose = |text: &str| UserKey { text: text.to_owned(), is_exact: false, any_plus: true };
        let strict = |text: &str| UserKey { any_plus: false, ..loose(text) };
        assert_eq!(narrower(&loose("800"), &strict("8001")), Some(strict("8001")));
        assert_eq!(narrower(&strict("+8"), &loose("800")), Some(strict("+800")));
        assert_eq!(narrower(&loose("+800"), &loose("8")), Some(loose("800")));
        assert_eq!(narrower(&loose("9"), &strict("+8")), None);
    }

    #[test]
    fn what_one_route_cannot_ask_for_is_said() {
        let with = |user: &str| Match { user: Some(user.to_owned()), ..Match::default() };
        assert!(matches!(with("^1").and(&with("2$")), Both::Inexpressible(_)));
        assert!(matches!(with("^1").and(&key("1", true)), Both::Inexpressible(_)));
        assert!(matches!(with("^1").and(&key("1", false)), Both::One(_)));
        let method = |name: &str| Match { method: Some(name.to_owned()), ..Match::default() };
        assert_eq!(method("INVITE").and(&method("OPTIONS")), Both::Never);
    }

    #[test]
    fn keys_are_written_as_literals() {
        assert_eq!(key("+1*", true).user_regex().as_deref(), Some("^\\+1\\*$"));
        assert_eq!(key("+1", false).user_prefix(), Some("+1"));
        assert_eq!(key("+1", false).user_regex(), None);
        let loose = UserKey { text: "+1".to_owned(), is_exact: false, any_plus: true };
        let loose = Match { key: Some(loose), ..Match::default() };
        assert_eq!((loose.user_regex().as_deref(), loose.user_prefix()), (Some("^\\+?1"), None));
    }
}
