//! Our branches (RFC 3261 8.1.1.7, 16.6 step 8; RFC 5393 4.2).
//!
//! ```text
//! z9hG4bKf- uuuuuuuuuuuuuuuu llllllllllllllll cccccccc
//!           unique: life,    of the fields    keyed check of both,
//!           number           that decide      so that only our own branches
//!                            the way          are followed back
//! ```
//!
//! The secret may outlive the process: then the answer to a request that was forwarded before a restart still finds its
//! way. The first half of the unique number tells the lives apart.

use std::hash::{DefaultHasher, Hasher};

use ferric_sip::flow::Flow;
use ferric_sip::message::Message;

use crate::routing::{Condition, RouteTable};

/// Begins every branch of ours; no other element of this program uses it.
pub(crate) const COOKIE: &str = "z9hG4bKf-";
/// The part of the unique number that stays while the process lives.
const LIFE: u64 = 0xffff_ffff_0000_0000;
const LENGTH: usize = COOKIE.len() + 16 + 16 + 8;

/// What the rules look at beside the fields that every request has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deciding {
    /// Header fields.
    pub(crate) headers: Vec<String>,
    source: bool,
    listener: bool,
}

impl Deciding {
    pub(crate) fn of(routes: &RouteTable) -> Deciding {
        let mut found = Deciding::default();
        for condition in routes.rules().iter().flat_map(|rule| &rule.conditions) {
            match condition {
                Condition::Header(name, _) => found.headers.push(name.clone()),
                Condition::Source(_) => found.source = true,
                Condition::Listener(..) => found.listener = true,
                Condition::Method(_)
                | Condition::User(_)
                | Condition::UserPrefix(_)
                | Condition::Domain(_)
                | Condition::From(_)
                | Condition::Recording(_) => {}
            }
        }
        found.headers.sort();
        found.headers.dedup();
        found
    }
}

/// Makes and recognises branches under one secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Branches {
    secret: u64,
    next: u64,
}

impl Branches {
    pub(crate) fn new(secret: u64, first: u64) -> Branches {
        Branches { secret, next: first & LIFE }
    }

    /// The same life under another secret.
    pub(crate) fn under(self, secret: u64) -> Branches {
        Branches { secret, ..self }
    }

    /// Tells this life of the process from others.
    pub(crate) fn life(&self) -> u64 {
        self.next & LIFE
    }

    /// A branch of ours that was made before the last restart.
    pub(crate) fn is_of_another_life(&self, branch: &str) -> bool {
        let unique = branch.strip_prefix(COOKIE).and_then(|rest| u64::from_str_radix(rest.get(..16)?, 16).ok());
        self.read(branch).is_some() && unique.is_some_and(|unique| unique & LIFE != self.life())
    }

    fn hash(&self, salt: u64) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write_u64(salt);
        hasher
    }

    /// A hash that nobody outside can aim at.
    pub(crate) fn keyed(&self, text: &str) -> u64 {
        let mut hasher = self.hash(1);
        hasher.write(text.as_bytes());
        hasher.finish()
    }

    /// What decides where a request goes: the same again means that it went in a circle (RFC 5393 4.2.1).
    pub(crate) fn way_of(&self, request: &Message, flow: &Flow, deciding: &Deciding) -> u64 {
        let mut hasher = self.hash(2);
        let mut field = |value: &str| {
            hasher.write(value.as_bytes());
            hasher.write_u8(0xff);
        };
        field(&request.request_uri().unwrap_or_default());
        field(&request.call_id().unwrap_or_default());
        field(&request.header("CSeq").unwrap_or_default());
        field(&request.header("From").unwrap_or_default());
        field(&request.header("To").unwrap_or_default());
        for name in ["Route", "Proxy-Require", "Proxy-Authorization"]
            .into_iter()
            .chain(deciding.headers.iter().map(String::as_str))
        {
            for value in request.headers(name) {
                field(&value);
            }
        }
        if deciding.source {
            field(&flow.remote.ip().to_string());
        }
        if deciding.listener {
            field(&format!("{} {}", flow.transport, flow.local));
        }
        hasher.finish()
    }

    fn check(&self, unique: u64, way: u64) -> u32 {
        let mut hasher = self.hash(3);
        hasher.write_u64(unique);
        hasher.write_u64(way);
        (hasher.finish() >> 32) as u32
    }

    fn text(&self, unique: u64, way: u64) -> String {
        format!("{COOKIE}{unique:016x}{way:016x}{:08x}", self.check(unique, way))
    }

    /// A branch for a request that goes that way.
    pub(crate) fn make(&mut self, way: u64) -> String {
        self.next = self.life() | (self.next.wrapping_add(1) & !LIFE);
        self.text(self.next, way)
    }

    /// The branch of a request that is forwarded without state: the same whenever it comes again (RFC 3261 16.11).
    pub(crate) fn stateless(&self, received: &str, way: u64) -> String {
        self.text(self.keyed(received), way)
    }

    /// The way that a branch of ours was made for; `None` for anybody else's.
    pub(crate) fn read(&self, branch: &str) -> Option<u64> {
        let rest = branch.strip_prefix(COOKIE).filter(|_| branch.len() == LENGTH)?;
        let number = |from: usize, to: usize| u64::from_str_radix(rest.get(from..to)?, 16).ok();
        let (unique, way, check) = (number(0, 16)?, number(16, 32)?, number(32, 40)?);
        (u64::from(self.check(unique, way)) == check).then_some(way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_branches_are_read() {
        let mut ours = Branches::new(7, 1);
        let branch = ours.make(42);
        assert_eq!(branch.len(), LENGTH);
        assert_eq!(ours.read(&branch), Some(42));
        assert_ne!(ours.make(42), branch);
        assert_eq!(Branches::new(8, 1).read(&branch), None);
        assert_eq!(ours.read(&branch.replace("z9hG4bKf-0", "z9hG4bKf-1")), None);
        assert_eq!(ours.stateless("z9hG4bKx", 1), ours.stateless("z9hG4bKx", 1));
    }

    #[test]
    fn a_branch_tells_its_life() {
        let mut before = Branches::new(1, 7 << 32);
        let mut now = Branches::new(3, 8 << 32).under(1);
        let (old, new) = (before.make(5), now.make(5));
        assert!(now.is_of_another_life(&old) && !now.is_of_another_life(&new));
        assert!(!now.is_of_another_life("z9hG4bKelse") && !Branches::new(9, 8 << 32).is_of_another_life(&old));
        now.next |= !LIFE;
        now.make(5);
        assert_eq!(now.life(), 8 << 32, "so many requests change nothing");
    }
}
