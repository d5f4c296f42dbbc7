//! Which transaction a message belongs to (RFC 3261 17.1.3, 17.2.3).
//!
//! Keys are 128-bit keyed hashes: small, and nobody outside can aim for a collision.

use std::hash::{DefaultHasher, Hasher};

use smallvec::SmallVec;

use crate::header::ViaParts;
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

/// The parts of a key, one behind the other.
struct Parts(SmallVec<[u8; 256]>);

impl Parts {
    fn new(kind: u8) -> Parts {
        Parts(SmallVec::from_slice(&[kind]))
    }

    fn add(mut self, part: &[u8]) -> Parts {
        self.0.extend_from_slice(part);
        self.0.push(0xff);
        self
    }

    /// A part whose case does not matter.
    fn add_lower(mut self, part: &str) -> Parts {
        let from = self.0.len();
        self.0.extend_from_slice(part.as_bytes());
        self.0.get_mut(from..).unwrap_or_default().make_ascii_lowercase();
        self.0.push(0xff);
        self
    }
}

impl KeyMaker {
    fn hash(&self, parts: Parts) -> Key {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(self.secret ^ salt);
            hasher.write(&parts.0);
            u128::from(hasher.finish())
        };
        Key((half(0) << 64) | half(0x9e37_79b9_7f4a_7c15))
    }

    /// The server transaction of a request; `method` is INVITE for ACK and CANCEL's target.
    pub(super) fn server(&self, request: &Message, via: ViaParts<'_>, method: &Method) -> Key {
        let host = via.host;
        let port = via.port.unwrap_or(5060).to_be_bytes();
        let method = method.as_str().as_bytes();
        match via.branch().filter(|branch| branch.starts_with(COOKIE) && branch.len() > COOKIE.len()) {
            Some(branch) => self.hash(Parts::new(b's').add_lower(branch).add_lower(host).add(&port).add(method)),
            None => {
                // RFC 2543: no branch that could be trusted. The To tag is left
                // out, so that the ACK to a failure finds its INVITE.
                let uri = request.request_uri().unwrap_or_default();
                let from = request.from_tag().unwrap_or_default();
                let call_id = request.call_id().unwrap_or_default();
                let number = request.cseq().map_or(0, |cseq| cseq.number).to_be_bytes();
                let parts =
                    Parts::new(b'o').add(uri.as_bytes()).add(from.as_bytes()).add(call_id.as_bytes()).add(&number);
                self.hash(parts.add_lower(host).add(&port).add(method))
            }
        }
    }

    /// The client transaction of a branch that we made.
    pub(super) fn client(&self, branch: &str, method: &Method) -> Key {
        self.hash(Parts::new(b'c').add(branch.as_bytes()).add(method.as_str().as_bytes()))
    }

    /// What a forked request has in common on all its paths (RFC 3261 8.2.2.2);
    /// `None` inside a dialog.
    pub(super) fn merged(&self, request: &Message) -> Option<Key> {
        request.check_parties().ok()?;
        if request.to_tag().is_some() {
            return None;
        }
        let call_id = request.call_id()?;
        let tag = request.from_tag().unwrap_or_default();
        let parts =
            Parts::new(b'm').add(tag.as_bytes()).add(call_id.as_bytes()).add(request.header("CSeq")?.as_bytes());
        Some(self.hash(parts))
    }
}
