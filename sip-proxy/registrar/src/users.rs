//! Who may register. Passwords are not kept, only what digest needs of them: a hash of name, realm and password.

use std::collections::HashMap;
use std::fmt;

use crate::digest::{Algorithm, digest_bytes};

/// What proves a user in one realm.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    md5: Option<[u8; 16]>,
    sha256: Option<[u8; 32]>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// From a password; both algorithms can be used.
    pub fn of_password(name: &str, realm: &str, password: &str) -> Secret {
        let parts = [name, realm, password];
        Secret {
            md5: digest_bytes(Algorithm::Md5, &parts).try_into().ok(),
            sha256: digest_bytes(Algorithm::Sha256, &parts).try_into().ok(),
        }
    }

    /// From the hashes of `name:realm:password`; only those given can be used.
    pub fn of_hashes(md5: Option<[u8; 16]>, sha256: Option<[u8; 32]>) -> Secret {
        Secret { md5, sha256 }
    }

    pub(crate) fn ha1(&self, algorithm: Algorithm) -> Option<&[u8]> {
        match algorithm {
            Algorithm::Md5 => self.md5.as_ref().map(<[u8; 16]>::as_slice),
            Algorithm::Sha256 => self.sha256.as_ref().map(<[u8; 32]>::as_slice),
        }
    }
}

/// What a realm can offer to all of its users.
#[derive(Debug, Clone, Copy, Default)]
struct Realm {
    without_md5: bool,
    without_sha256: bool,
}

/// The users of all domains.
#[derive(Clone, Default)]
pub struct Users {
    /// By `name@realm`.
    secrets: HashMap<Box<str>, Secret>,
    realms: HashMap<String, Realm>,
    /// The only algorithm that is offered, by whose wish however.
    only: Option<Algorithm>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.secrets.len())
    }
}

impl Users {
    /// Adds a user of a domain; false when it is there already.
    pub fn add(&mut self, name: &str, domain: &str, secret: Secret) -> bool {
        let domain = domain.to_ascii_lowercase();
        let key = format!("{name}@{domain}").into_boxed_str();
        if self.secrets.contains_key(&key) {
            return false;
        }
        let realm = self.realms.entry(domain).or_default();
        realm.without_md5 |= secret.md5.is_none();
        realm.without_sha256 |= secret.sha256.is_none();
        self.secrets.insert(key, secret);
        true
    }

    /// Offers nothing but this algorithm: there are phones that look at the first challenge only.
    pub fn offer_only(&mut self, algorithm: Option<Algorithm>) {
        self.only = algorithm;
    }

    /// Users, counted once for each domain.
    pub fn len(&self) -> usize {
        self.secrets.len()
    }

    /// True without any user.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// True if there is a user with this address of record (`name@domain`).
    pub(crate) fn knows(&self, aor: &str) -> bool {
        self.secrets.contains_key(aor)
    }

    pub(crate) fn secret(&self, name: &str, realm: &str) -> Option<&Secret> {
        self.secrets.get([name, "@", realm].concat().as_str())
    }

    /// Algorithms of a challenge, the best first. It is made before anybody knows for whom, so one that some user cannot
    /// answer is left out, unless nothing would be left.
    pub(crate) fn offers(&self, realm: &str) -> &'static [Algorithm] {
        match self.only {
            Some(Algorithm::Md5) => return &[Algorithm::Md5],
            Some(Algorithm::Sha256) => return &[Algorithm::Sha256],
            None => {}
        }
        let Realm { without_md5, without_sha256 } = self.realms.get(realm).copied().unwrap_or_default();
        match (without_sha256, without_md5) {
            (true, false) => &[Algorithm::Md5],
            (false, true) => &[Algorithm::Sha256],
            (true, true) | (false, false) => &[Algorithm::Sha256, Algorithm::Md5],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_offers_what_all_of_its_users_can_answer() {
        let mut users = Users::default();
        assert_eq!(users.offers("a"), [Algorithm::Sha256, Algorithm::Md5]);
        assert!(users.add("alice", "A", Secret::of_password("alice", "a", "secret")));
        assert!(!users.add("alice", "a", Secret::of_password("alice", "a", "other")));
        assert_eq!(users.offers("a"), [Algorithm::Sha256, Algorithm::Md5]);
        users.add("bob", "a", Secret::of_hashes(Some([1; 16]), None));
        assert_eq!(users.offers("a"), [Algorithm::Md5]);
        users.add("carol", "a", Secret::of_hashes(None, Some([1; 32])));
        assert_eq!(users.offers("a"), [Algorithm::Sha256, Algorithm::Md5]);
        users.offer_only(Some(Algorithm::Md5));
        assert_eq!(users.offers("a"), [Algorithm::Md5]);
        assert!(users.knows("alice@a") && !users.knows("alice@b"));
    }

    #[test]
    fn nothing_prints_a_secret() {
        let mut users = Users::default();
        users.add("alice", "a", Secret::of_hashes(Some([0xab; 16]), None));
        assert_eq!(format!("{users:?} {:?}", Secret::of_hashes(Some([0xab; 16]), None)), "Users(1) Secret");
    }
}
