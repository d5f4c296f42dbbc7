//! Which transaction a message belongs to (RFC 3261 17.1.3, 17.2.3).
//!
//! Keys are 128-bit keyed hashes: small, and nobody outside can aim for a collision.

use std::hash::{DefaultHasher, Hasher};

use crate::header::Via;
use crate::message::Message;
use crate::method::Method;

const COOKIE: &str = "z9hG4bK";

/// A hashed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

impl Key {
    /// A To tag for a response outside of any state: the same for a request that comes again.
    pub(super) fn tag(self) -> String {
        format!("{:016x}", self.0 >> 64)
    }
}

/// Makes keys under one secret.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyMaker {
    pub(super) secret: u64,
}

impl KeyMaker {
    fn hash(&self, parts: &[&str]) -> Key {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(self.secret ^ salt);
            for part in parts {
                hasher.write(part.as_bytes());
                hasher.write_u8(0xff);
            }
            u128::from(hasher.finish())
        };
        Key((half(0) << 64) | half(0x9e37_79b9_7f4a_7c15))
    }

    /// The server transaction of a request; `method` is INVITE for ACK and CANCEL's target.
    pub(super) fn server(&self, request: &Message, via: &Via, method: &Method) -> Key {
        let port = via.port.unwrap_or(5060).to_string();
        let host = via.host.to_ascii_lowercase();
        match via.branch().filter(|branch| branch.starts_with(COOKIE) && branch.len() > COOKIE.len()) {
            Some(branch) => self.hash(&["s", &branch.to_ascii_lowercase(), &host, &port, method.as_str()]),
            None => {
                // RFC 2543: no branch that could be trusted. The To tag is left
                // out, so that the ACK to a failure finds its INVITE.
                let uri = request.request_uri().unwrap_or_default();
                let from = request.from().ok().and_then(|from| from.tag().map(str::to_owned)).unwrap_or_default();
                let call_id = request.call_id().unwrap_or_default();
                let number = request.cseq().map_or(0, |cseq| cseq.number).to_string();
                self.hash(&["s2543", &uri, &from, &call_id, &number, &host, &port, method.as_str()])
            }
        }
    }

    /// The client transaction of a branch that we made.
    pub(super) fn client(&self, branch: &str, method: &Method) -> Key {
        self.hash(&["c", branch, method.as_str()])
    }

    /// What a forked request has in common on all its paths (RFC 3261 8.2.2.2);
    /// `None` inside a dialog.
    pub(super) fn merged(&self, request: &Message) -> Option<Key> {
        if request.to().ok()?.tag().is_some() {
            return None;
        }
        let from = request.from().ok()?;
        let call_id = request.call_id()?;
        Some(self.hash(&["m", from.tag().unwrap_or(""), &call_id, &request.header("CSeq")?]))
    }
}
