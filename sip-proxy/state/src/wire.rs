//! The messages between nodes.
//!
//! ```text
//! message = version u8 | type u8 | from: node, incarnation u64 | body         integers big endian
//! node    = length u8, bytes
//! stamp   = logical u64 | node | incarnation u64 | sequence u64
//! entry   = length u32, then: kind u8 | state u8 (1 live, 2 removed) | key: u16, bytes | stamp | remaining u64 (ms)
//!           | value: u32, bytes (live only)
//!
//! 1 Changes  count u32, entries
//! 2 Digest   joining u8 | count u16, a u64 for each bucket
//! 3 Have     round u32 | count u16, buckets: number u16 | count u32, (id u128, stamp)
//! 4 Want     count u32, (bucket u16, id u128)
//! 5 Done     round u32
//! ```
//!
//! `version` is the lowest that can read the message. What a newer version adds stands at the end of a body or of an entry
//! and is passed over here, as are entries of a kind that is not known. A message that is cut or too long is no message.

use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::entry::{Entry, MOST_KEY_BYTES, MOST_VALUE_BYTES, Name, State};
use crate::kind::{BUCKETS, Kind};
use crate::stamp::{Identity, MOST_LOGICAL, NodeId, Stamp};

/// The version this code writes and reads.
pub const VERSION: u8 = 1;
/// No life is longer, whatever a message says.
pub const MOST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A message and who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) from: Identity,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Changes(Vec<Sent>),
    Digest { joining: bool, buckets: Vec<u64> },
    Have { round: u32, buckets: Vec<Held> },
    Want(Vec<(u16, u128)>),
    Done { round: u32 },
}

/// An entry on its way: what remains of its life, not when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) name: Name,
    pub(crate) stamp: Stamp,
    /// `None`: removed.
    pub(crate) value: Option<Bytes>,
    pub(crate) remaining: Duration,
}

/// What a node holds of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bucket: u16,
    pub(crate) stamps: Vec<(u128, Stamp)>,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It needs a newer reader.
    #[error("the message needs version {0}, this node reads {VERSION}")]
    Newer(u8),
    /// A type that is not known.
    #[error("a message of type {0} is not known")]
    Type(u8),
    /// Cut, or a length or value that cannot be.
    #[error("the message is cut or damaged")]
    Damaged,
}

/// The entry as it is sent at `now`; `None` when its life is over.
pub(crate) fn sent(now: Instant, name: &Name, entry: &Entry) -> Option<Sent> {
    let remaining = entry.ends.saturating_duration_since(now);
    let value = match &entry.state {
        State::Live(value) => Some(value.clone()),
        State::Removed => None,
        State::Spent => return None,
    };
    (remaining.as_millis() > 0).then(|| Sent { name: name.clone(), stamp: entry.stamp.clone(), value, remaining })
}

/// About how many bytes it takes.
pub(crate) fn size(sent: &Sent) -> usize {
    48 + sent.name.key.len() + sent.stamp.owner.node.as_str().len() + sent.value.as_ref().map_or(0, Bytes::len)
}

impl Message {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u8(match self.body {
            Body::Changes(_) => 1,
            Body::Digest { .. } => 2,
            Body::Have { .. } => 3,
            Body::Want(_) => 4,
            Body::Done { .. } => 5,
        });
        put_owner(&mut out, &self.from);
        match &self.body {
            Body::Changes(entries) => {
                out.put_u32(count(entries.len()));
                for sent in entries {
                    put_entry(&mut out, sent);
                }
            }
            Body::Digest { joining, buckets } => {
                out.put_u8(u8::from(*joining));
                out.put_u16(count(buckets.len()));
                for bucket in buckets {
                    out.put_u64(*bucket);
                }
            }
            Body::Have { round, buckets } => {
                out.put_u32(*round);
                out.put_u16(count(buckets.len()));
                for held in buckets {
                    out.put_u16(held.bucket);
                    out.put_u32(count(held.stamps.len()));
                    for (id, stamp) in &held.stamps {
                        out.put_u128(*id);
                        put_stamp(&mut out, stamp);
                    }
                }
            }
            Body::Want(names) => {
                out.put_u32(count(names.len()));
                for (bucket, id) in names {
                    out.put_u16(*bucket);
                    out.put_u128(*id);
                }
            }
            Body::Done { round } => out.put_u32(*round),
        }
        out.freeze()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Message, WireError> {
        let mut from = bytes;
        let version = from.try_get_u8().map_err(|_| WireError::Damaged)?;
        if version > VERSION {
            return Err(WireError::Newer(version));
        }
        let kind = from.try_get_u8().map_err(|_| WireError::Damaged)?;
        if !(1..=5).contains(&kind) {
            return Err(WireError::Type(kind));
        }
        read(kind, &mut from).ok_or(WireError::Damaged)
    }
}

/// A length that is in its limits by what made the message.
fn count<N: TryFrom<usize> + Default>(length: usize) -> N {
    N::try_from(length).unwrap_or_default()
}

fn put_owner(out: &mut BytesMut, owner: &Identity) {
    let name = owner.node.as_str().as_bytes();
    out.put_u8(count(name.len()));
    out.put_slice(name);
    out.put_u64(owner.incarnation);
}

fn put_stamp(out: &mut BytesMut, stamp: &Stamp) {
    out.put_u64(stamp.logical);
    put_owner(out, &stamp.owner);
    out.put_u64(stamp.sequence);
}

fn put_entry(out: &mut BytesMut, sent: &Sent) {
    let at = out.len();
    out.put_u32(0);
    out.put_u8(sent.name.kind.number());
    out.put_u8(if sent.value.is_some() { 1 } else { 2 });
    out.put_u16(count(sent.name.key.len()));
    out.put_slice(&sent.name.key);
    put_stamp(out, &sent.stamp);
    out.put_u64(u64::try_from(sent.remaining.as_millis()).unwrap_or(u64::MAX));
    if let Some(value) = &sent.value {
        out.put_u32(count(value.len()));
        out.put_slice(value);
    }
    let length: u32 = count(out.len() - at - 4);
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn read(kind: u8, from: &mut &[u8]) -> Option<Message> {
    let sender = owner(from)?;
    let body = match kind {
        1 => {
            let entries = from.try_get_u32().ok()?;
            let mut list = Vec::new();
            for _ in 0..entries {
                let length = usize::try_from(from.try_get_u32().ok()?).ok()?;
                let mut one = from.split_off(..length)?;
                if let Some(sent) = entry(&mut one)? {
                    list.push(sent);
                }
            }
            Body::Changes(list)
        }
        2 => {
            let joining = from.try_get_u8().ok()? != 0;
            let buckets = from.try_get_u16().ok()?;
            let buckets = (0..buckets).map(|_| from.try_get_u64().ok()).collect::<Option<Vec<_>>>()?;
            Body::Digest { joining, buckets }
        }
        3 => {
            let round = from.try_get_u32().ok()?;
            let mut buckets = Vec::new();
            for _ in 0..from.try_get_u16().ok()? {
                let bucket = from.try_get_u16().ok()?;
                let entries = from.try_get_u32().ok()?;
                let mut stamps = Vec::new();
                for _ in 0..entries {
                    stamps.push((from.try_get_u128().ok()?, stamp(from)?));
                }
                if bucket < BUCKETS {
                    buckets.push(Held { bucket, stamps });
                }
            }
            Body::Have { round, buckets }
        }
        4 => {
            let names = from.try_get_u32().ok()?;
            let mut list = Vec::new();
            for _ in 0..names {
                list.push((from.try_get_u16().ok()?, from.try_get_u128().ok()?));
            }
            Body::Want(list)
        }
        _ => Body::Done { round: from.try_get_u32().ok()? },
    };
    Some(Message { from: sender, body })
}

fn owner(from: &mut &[u8]) -> Option<Identity> {
    let length = usize::from(from.try_get_u8().ok()?);
    let name = from.split_off(..length)?;
    let node = NodeId::new(std::str::from_utf8(name).ok()?)?;
    Some(Identity { node, incarnation: from.try_get_u64().ok()? })
}

fn stamp(from: &mut &[u8]) -> Option<Stamp> {
    let logical = from.try_get_u64().ok().filter(|logical| *logical <= MOST_LOGICAL)?;
    Some(Stamp { logical, owner: owner(from)?, sequence: from.try_get_u64().ok()? })
}

/// An entry; `Some(None)`: of a kind or state that is not known.
fn entry(from: &mut &[u8]) -> Option<Option<Sent>> {
    let kind = Kind::from_number(from.try_get_u8().ok()?);
    let state = from.try_get_u8().ok()?;
    let (Some(kind), true) = (kind, (1..=2).contains(&state)) else { return Some(None) };
    let length = usize::from(from.try_get_u16().ok()?);
    // Copied: a slice would keep the whole message for one key.
    let key = Bytes::copy_from_slice(from.split_off(..length).filter(|key| key.len() <= MOST_KEY_BYTES)?);
    let stamp = stamp(from)?;
    let remaining = Duration::from_millis(from.try_get_u64().ok()?).min(MOST_LIFE);
    let value = if state == 1 {
        let length = usize::try_from(from.try_get_u32().ok()?).ok().filter(|length| *length <= MOST_VALUE_BYTES)?;
        Some(Bytes::copy_from_slice(from.split_off(..length)?))
    } else {
        None
    };
    Some(Some(Sent { name: Name { kind, key }, stamp, value, remaining }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]
    use super::*;
    use proptest::prelude::*;

    fn all() -> Vec<Message> {
        let from = Identity { node: NodeId::new("edge-a1").unwrap(), incarnation: 7 };
        let stamp = Stamp { logical: 99 << 16, owner: from.clone(), sequence: 3 };
        let name = Name { kind: Kind::Session, key: Bytes::from_static(b"call") };
        let live = Sent {
            name: name.clone(),
            stamp: stamp.clone(),
            value: Some(Bytes::from_static(b"value")),
            remaining: Duration::from_millis(1500),
        };
        let gone = Sent { value: None, ..live.clone() };
        [
            Body::Changes(vec![live, gone]),
            Body::Digest { joining: true, buckets: (0..u64::from(BUCKETS)).collect() },
            Body::Have { round: 5, buckets: vec![Held { bucket: name.bucket(), stamps: vec![(name.id(), stamp)] }] },
            Body::Want(vec![(name.bucket(), name.id())]),
            Body::Done { round: 5 },
        ]
        .map(|body| Message { from: from.clone(), body })
        .to_vec()
    }

    #[test]
    fn each_message_is_read_as_it_was_written_and_never_when_cut() {
        for message in all() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for length in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..length]), Err(WireError::Damaged), "{length}");
            }
            let mut longer = bytes.to_vec();
            longer.extend_from_slice(b"of a newer version");
            assert!(Message::decode(&longer).is_ok());
        }
    }

    #[test]
    fn what_is_newer_is_named_or_passed_over() {
        let mut bytes = all()[0].encode().to_vec();
        bytes[0] = 2;
        assert_eq!(Message::decode(&bytes), Err(WireError::Newer(2)));
        bytes[0] = 1;
        bytes[1] = 9;
        assert_eq!(Message::decode(&bytes), Err(WireError::Type(9)));
        // version, type, length and "edge-a1", incarnation, count, length of the first entry, then its kind.
        bytes[1] = 1;
        let kind = 2 + 8 + 8 + 4 + 4;
        assert_eq!(bytes[kind], Kind::Session.number());
        bytes[kind] = 77;
        let read = Message::decode(&bytes).unwrap().body;
        let Body::Changes(left) = &read else { panic!("read as {read:?}") };
        assert_eq!(left.len(), 1, "the entry of an unknown kind is passed over, the next one is read");
    }

    proptest! {
        #[test]
        fn no_bytes_harm_the_reader(which in 0usize..5, at in 0usize..200, byte: u8, noise: Vec<u8>) {
            let mut bytes = all()[which].encode().to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = Message::decode(&bytes);
            let _ = Message::decode(&noise);
        }
    }
}
