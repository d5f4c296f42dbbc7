//! Digest authentication (RFC 7616, RFC 8760, RFC 3261 22): challenge and check.
//!
//! ```text
//! credentials -> form (qop=auth only) -> too many failures? -> response right? -> nonce ours and young? -> count unused?
//!  none: 401         wrong: 400             403                  401              401 stale=true         401 stale=true
//! ```
//!
//! - Every challenge offers SHA-256 before MD5, unless no user of the realm could answer one of them.
//! - A nonce is a time and a number under a keyed hash: nothing is kept for a challenge that nobody answers.
//! - The response is judged before the nonce, so that `stale=true` means "the password was right" (RFC 7616 3.3): after a
//!   restart phones go on without asking their users.
//! - A name that is not there is checked against a secret that no password has; the work and the answers are the same.

mod credentials;
mod hash;
mod nonce;
mod replay;
mod throttle;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Instant;

use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use crate::config::RegistrarConfig;
use crate::equal::same_uri;
use crate::users::{Secret, Users};

pub(crate) use credentials::Credentials;
pub use hash::Algorithm;
pub(crate) use hash::{digest_bytes, equal};

use nonce::Nonces;
use replay::Replay;
use throttle::Throttle;

/// Which pair of header fields is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// 401, WWW-Authenticate, Authorization.
    Server,
    /// 407, Proxy-Authenticate, Proxy-Authorization.
    Proxy,
}

impl Side {
    fn names(self) -> (u16, &'static str, &'static str) {
        match self {
            Side::Server => (401, "WWW-Authenticate", "Authorization"),
            Side::Proxy => (407, "Proxy-Authenticate", "Proxy-Authorization"),
        }
    }
}

/// Why somebody was not let in.
#[derive(Debug)]
pub(crate) enum Denied {
    /// No credentials for this realm.
    Asked(Reject),
    /// The password was right, the nonce was not.
    Stale(Reject),
    /// A wrong password, or a name that is not there.
    Wrong(Reject),
    /// Too many wrong ones; not looked at.
    Throttled(Reject),
    /// Credentials that cannot be understood.
    Malformed(Reject),
}

impl Denied {
    pub(crate) fn into_reject(self) -> Reject {
        match self {
            Denied::Asked(reject)
            | Denied::Stale(reject)
            | Denied::Wrong(reject)
            | Denied::Throttled(reject)
            | Denied::Malformed(reject) => reject,
        }
    }
}

/// Challenges and checks.
#[derive(Debug)]
pub(crate) struct Authenticator {
    nonces: Nonces,
    replay: Replay,
    throttle: Throttle,
    rng: SmallRng,
    opaque: String,
    /// Stands in for users that are not there.
    nobody: Secret,
}

impl Authenticator {
    pub(crate) fn new(seed: &[u8; 32], config: &RegistrarConfig) -> Authenticator {
        let derived =
            |label: &[u8]| -> [u8; 32] { Sha256::new().chain_update(seed).chain_update(label).finalize().into() };
        let nobody = derived(b"nobody");
        let mut half = [0; 16];
        half.iter_mut().zip(nobody).for_each(|(to, from)| *to = from);
        Authenticator {
            nonces: Nonces::new(&derived(b"nonce"), &derived(b"sources"), config.nonce_lifetime),
            replay: Replay::new(config.nonce_lifetime),
            throttle: Throttle::default(),
            rng: SmallRng::from_seed(derived(b"numbers")),
            opaque: hash::hex(derived(b"opaque").get(..8).unwrap_or(&[])),
            nobody: Secret::of_hashes(Some(half), Some(nobody)),
        }
    }

    pub(crate) fn apply(&mut self, config: &RegistrarConfig) {
        self.nonces.set_lifetime(config.nonce_lifetime);
        self.replay.set_lifetime(config.nonce_lifetime);
    }

    /// Checks the credentials of a request for `realm`; the name that they prove.
    #[allow(clippy::too_many_arguments)] // each is a fact of its own about the request
    pub(crate) fn check(
        &mut self,
        now: Instant,
        unix_s: u64,
        side: Side,
        users: &Users,
        config: &RegistrarConfig,
        realm: &str,
        request: &Message,
        source: IpAddr,
    ) -> Result<String, Denied> {
        let (_, _, header) = side.names();
        let lines: Vec<Cow<'_, str>> = request.headers(header).collect();
        let mut shown = lines.iter().filter_map(|text| Credentials::parse(text));
        let Some(credentials) = shown.find(|credentials| credentials.realm == realm) else {
            return Err(Denied::Asked(self.challenge(side, users, realm, source, unix_s, false)));
        };
        let malformed = |what: &str| Denied::Malformed(Reject::because(400, what));
        let Some(algorithm) = Algorithm::of(credentials.algorithm) else {
            return Err(Denied::Asked(self.challenge(side, users, realm, source, unix_s, false)));
        };
        let (true, Some(count), Some(cnonce)) = (credentials.is_auth(), credentials.count(), credentials.cnonce) else {
            return Err(malformed("Digest credentials need qop=auth, nc and cnonce"));
        };
        // What a REGISTER does is decided by its To, not by its Request-URI, and there are phones that write the server's
        // address there; a nonce is taken once all the same.
        if request.method() != Method::Register && !meant(credentials.uri, request, config) {
            return Err(malformed("Digest credentials are for another URI"));
        }
        let nonce = self.nonces.check(credentials.nonce, realm, source, unix_s);
        let is_own = nonce.is_some_and(|nonce| nonce.is_own);
        if self.throttle.is_blocked(now, credentials.username, source, is_own) {
            // Whoever is really there gets a nonce of its own by the challenge, and is judged by that.
            let reject = if is_own {
                Reject::because(403, "Too many wrong passwords, wait a minute")
            } else {
                self.challenge(side, users, realm, source, unix_s, false)
            };
            return Err(Denied::Throttled(reject));
        }
        let offered = users.offers(realm).contains(&algorithm);
        let known = users.secret(credentials.username, realm).filter(|_| offered && !credentials.userhash);
        let ha1 = known.and_then(|secret| secret.ha1(algorithm));
        let stand_in = self.nobody.ha1(algorithm).unwrap_or_default();
        let expected = hash::response(
            algorithm,
            ha1.unwrap_or(stand_in),
            request.method().as_str(),
            credentials.uri,
            credentials.nonce,
            credentials.nc,
            cnonce,
        );
        let right = equal(expected.as_bytes(), credentials.response.to_ascii_lowercase().as_bytes());
        if !(right && ha1.is_some()) {
            self.throttle.note_failure(now, credentials.username, source, is_own);
            return Err(Denied::Wrong(self.challenge(side, users, realm, source, unix_s, false)));
        }
        let fresh =
            nonce.is_some_and(|nonce| nonce.is_young && self.replay.admit(now, nonce.id, nonce.issued, unix_s, count));
        if !fresh {
            return Err(Denied::Stale(self.challenge(side, users, realm, source, unix_s, true)));
        }
        self.throttle.note_success(now, credentials.username, source, is_own);
        Ok(credentials.username.to_owned())
    }

    /// What a request without a right answer gets.
    pub(crate) fn challenge(
        &mut self,
        side: Side,
        users: &Users,
        realm: &str,
        source: IpAddr,
        unix_s: u64,
        stale: bool,
    ) -> Reject {
        let (status, header, _) = side.names();
        let nonce = self.nonces.issue(realm, source, unix_s, self.rng.random());
        let opaque = &self.opaque;
        let stale = if stale { ", stale=true" } else { "" };
        users.offers(realm).iter().fold(Reject::new(status), |reject, algorithm| {
            let text = format!(
                r#"Digest realm="{realm}", nonce="{nonce}", opaque="{opaque}", algorithm={}, qop="auth"{stale}"#,
                algorithm.as_str()
            );
            reject.with(header, text)
        })
    }
}

/// The credentials' URI is the request's, or near enough: what stands before us may have written another host or
/// parameters into the Request-URI.
fn meant(uri: &str, request: &Message, config: &RegistrarConfig) -> bool {
    let asked = request.request_uri().unwrap_or_default();
    if *asked == *uri {
        return true;
    }
    let (Ok(uri), Ok(asked)) = (Uri::parse(uri), Uri::parse(&asked)) else { return false };
    let same_user = uri.user_unescaped() == asked.user_unescaped();
    let near = uri.host.eq_ignore_ascii_case(&asked.host) || config.domain(&uri.host).is_some();
    same_uri(&uri, &asked) || (same_user && near)
}
