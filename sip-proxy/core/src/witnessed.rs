//! Dialogs that were seen to begin, and what proves that a request belongs to one.
//!
//! A To tag says that a request belongs to a dialog; anybody can write one. Where senders must show a password, or calls
//! are limited, what could begin something is believed only if
//!
//! - it comes from an element of ours, or
//! - Call-ID and both tags are those of a dialog whose success passed here, or
//! - it carries a Record-Route of ours whose seal fits Call-ID and the tag of the side that began: the seal outlives this
//!   process, and dialogs forgotten here.
//!
//! Anything else goes the way of a request that begins something: password, limits, rules. Dialogs are kept as hashes in two
//! generations; one that is used moves to the younger.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use ferric_sip::ids::IdMap;
use ferric_sip::message::Message;
use ferric_sip::method::Method;

use crate::branch::Branches;

/// The parameter of a Record-Route that holds the seal.
pub(crate) const SEAL: &str = "in";
/// Dialogs of one generation.
const MOST: usize = 250_000;
/// A dialog without a request is known for one to two of these.
const AGE: Duration = Duration::from_secs(4 * 3_600);

/// Dialogs seen here.
#[derive(Debug, Default)]
pub(crate) struct Witnessed {
    young: IdMap<u64, ()>,
    old: IdMap<u64, ()>,
    since: Option<Instant>,
}

impl Witnessed {
    /// A dialog began, or was used.
    pub(crate) fn note(&mut self, now: Instant, dialog: u64) {
        let since = *self.since.get_or_insert(now);
        if self.young.len() >= MOST || now.saturating_duration_since(since) >= AGE {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
        self.young.insert(dialog, ());
    }

    /// A dialog is over.
    pub(crate) fn forget(&mut self, dialog: u64) {
        self.young.remove(&dialog);
        self.old.remove(&dialog);
    }

    pub(crate) fn has(&self, dialog: u64) -> bool {
        self.young.contains_key(&dialog) || self.old.contains_key(&dialog)
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// The method means something outside of dialogs; the others are answered with 481 by whoever knows of none.
pub(crate) fn may_begin(method: &Method) -> bool {
    !matches!(
        method,
        Method::Ack | Method::Bye | Method::Cancel | Method::Info | Method::Notify | Method::Prack | Method::Update
    )
}

/// What stands for the dialog of a request or response, from whichever side it comes; `None` outside of one.
pub(crate) fn dialog_of(branches: &Branches, message: &Message) -> Option<u64> {
    let (from, to) = (message.from_tag()?, message.to_tag()?);
    let side = |tag: &str| branches.keyed(&format!("{} {tag}", message.call_id().unwrap_or_default()));
    Some(side(&from).wrapping_add(side(&to)))
}

/// The seal of a dialog that a request of that tag begins.
pub(crate) fn seal(branches: &Branches, message: &Message, tag: &str) -> String {
    let text = format!("seal {} {tag}", message.call_id().unwrap_or_default());
    format!("{:08x}", branches.keyed(&text) >> 32)
}

/// The seal is that of the dialog to which a request says it belongs.
pub(crate) fn is_sealed(branches: &Branches, request: &Message, found: &str) -> bool {
    let fits = |tag: Cow<'_, str>| seal(branches, request, &tag) == found;
    request.from_tag().is_some_and(fits) || request.to_tag().is_some_and(fits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn request(from: &str, to: &str) -> Message {
        let text =
            format!("INVITE sip:x@y SIP/2.0\r\nFrom: <sip:a@b>{from}\r\nTo: <sip:c@d>{to}\r\nCall-ID: one\r\n\r\n");
        Message::parse(text.into_bytes().into()).unwrap()
    }

    #[test]
    fn a_dialog_is_the_same_from_both_sides_and_another_with_other_tags() {
        let branches = Branches::new(1, 0);
        let of = |from: &str, to: &str| dialog_of(&branches, &request(from, to));
        assert!(of(";tag=1", ";tag=2").is_some());
        assert_eq!(of(";tag=1", ";tag=2"), of(";tag=2", ";tag=1"));
        assert_ne!(of(";tag=1", ";tag=2"), of(";tag=1", ";tag=3"));
        assert_eq!(of(";tag=1", ""), None);
        let seal = seal(&branches, &request(";tag=1", ""), "1");
        assert!(is_sealed(&branches, &request(";tag=1", ";tag=2"), &seal));
        assert!(is_sealed(&branches, &request(";tag=2", ";tag=1"), &seal));
        assert!(!is_sealed(&branches, &request(";tag=2", ";tag=3"), &seal));
        assert!(!is_sealed(&Branches::new(2, 0), &request(";tag=1", ";tag=2"), &seal));
    }

    #[test]
    fn dialogs_that_are_not_used_are_forgotten_and_their_number_is_bounded() {
        let (mut seen, now) = (Witnessed::default(), Instant::now());
        seen.note(now, 1);
        for dialog in 2..MOST as u64 * 3 {
            seen.note(now, dialog);
            if dialog % 1_000 == 0 {
                seen.note(now, 1);
            }
        }
        assert!(seen.has(1) && !seen.has(2) && seen.len() <= 2 * MOST, "{}", seen.len());
        seen.note(now + AGE, 5);
        seen.note(now + AGE * 2, 5);
        assert!(!seen.has(1) && seen.has(5));
        seen.forget(5);
        assert!(!seen.has(5));
    }
}
