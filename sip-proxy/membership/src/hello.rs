//! What is said on the control stream, the first stream of a connection: JSON objects, each after its length (u32, big
//! endian), told apart by `"say"`.
//!
//! ```text
//! dialler                         acceptor
//!   hello  ------------------------->
//!          <-------------------------  hello
//!      go  <-- the smaller id says it -->            the link is up
//!   profile, book  <------------------>  profile, book    now, and when they change
//!         leaving  <------------------>  leaving
//! ```
//!
//! JSON, because nodes of different versions have to understand each other's first word: fields that are not known are
//! passed over, frames that are not known are [`ControlFrame::Unknown`].

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::detector::Beat;
use crate::identity::{ClusterName, Incarnation, NodeId, Site};
use crate::protocol::ProtocolRange;

/// The longest frame, in bytes.
pub const MAX_FRAME: usize = 256 * 1024;
/// The most addresses of a node.
pub const MAX_ADDRESSES: usize = 8;
/// The most addresses at which a node serves others.
pub const MAX_SERVED: usize = 32;
const MAX_ROLES: usize = 32;
const MAX_TEXT: usize = 64;
const MAX_BOOK: usize = 1024;

/// A frame of the control stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ControlFrame {
    /// The first frame of each side.
    Hello(Box<Hello>),
    /// The link is up. The node with the smaller id says it.
    Go,
    /// What the sender says of itself has changed.
    Profile(Profile),
    /// Nodes the sender knows.
    Book {
        /// One entry a node.
        entries: Vec<BookEntry>,
    },
    /// The sender goes for good; the receiver closes the connection.
    Leaving,
    /// A frame of a later version.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Who speaks, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node, as in its certificate.
    pub node: NodeId,
    /// Its site, as in its certificate.
    pub site: Site,
    /// This run of it.
    pub incarnation: Incarnation,
    /// Versions it speaks.
    pub protocol: ProtocolRange,
    /// Its wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// Its heartbeats inside a site.
    pub inside: BeatOffer,
    /// Its heartbeats between sites.
    pub between: BeatOffer,
    /// What it says of itself.
    pub profile: Profile,
}

/// A [`Beat`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatOffer {
    interval_ms: u32,
    misses: u32,
}

impl From<Beat> for BeatOffer {
    fn from(beat: Beat) -> Self {
        Self { interval_ms: u32::try_from(beat.interval.as_millis()).unwrap_or(u32::MAX), misses: beat.misses }
    }
}

impl From<BeatOffer> for Beat {
    fn from(offer: BeatOffer) -> Self {
        Self::bounded(Duration::from_millis(offer.interval_ms.into()), offer.misses)
    }
}

/// What a node says of itself and may change while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// Its roles; the fabric gives them no meaning.
    pub roles: Vec<String>,
    /// Its software version.
    pub version: String,
    /// Where it can be dialled. Empty: where its packets come from.
    pub addresses: Vec<SocketAddr>,
    /// It takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// Where it serves others than nodes; the fabric gives it no meaning.
    #[serde(default)]
    pub serves: Vec<SocketAddr>,
}

/// A node that another one knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookEntry {
    /// The node.
    pub node: NodeId,
    /// Its site.
    pub site: Site,
    /// The run of it that was seen.
    pub incarnation: Incarnation,
    /// Where it can be dialled.
    pub addresses: Vec<SocketAddr>,
    /// How long ago the sender heard of it, in seconds; 0 while its link is up.
    #[serde(default)]
    pub silent_s: u64,
}

/// A frame that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is no frame.
    #[error("not understood: {0}")]
    Syntax(String),
    /// It says too much.
    #[error("{what}: {found}, at most {most} are taken")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many it says.
        found: usize,
        /// How many are allowed.
        most: usize,
    },
}

impl ControlFrame {
    /// The bytes of the frame, without its length.
    pub fn encode(&self) -> Vec<u8> {
        // Only `Unknown` cannot be written, and nobody makes one to send it.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a frame and checks that it is within bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let frame: Self = serde_json::from_slice(bytes).map_err(|error| FrameError::Syntax(error.to_string()))?;
        match &frame {
            Self::Hello(hello) => check_profile(&hello.profile)?,
            Self::Profile(profile) => check_profile(profile)?,
            Self::Book { entries } => check_book(entries)?,
            Self::Go | Self::Leaving | Self::Unknown => {}
        }
        Ok(frame)
    }
}

fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), FrameError> {
    if found > most { Err(FrameError::TooMany { what, found, most }) } else { Ok(()) }
}

fn check_profile(profile: &Profile) -> Result<(), FrameError> {
    at_most("roles", profile.roles.len(), MAX_ROLES)?;
    at_most("addresses", profile.addresses.len(), MAX_ADDRESSES)?;
    at_most("served addresses", profile.serves.len(), MAX_SERVED)?;
    for text in profile.roles.iter().chain([&profile.version]) {
        at_most("bytes of a role or version", text.len(), MAX_TEXT)?;
    }
    Ok(())
}

fn check_book(entries: &[BookEntry]) -> Result<(), FrameError> {
    at_most("nodes", entries.len(), MAX_BOOK)?;
    entries.iter().try_for_each(|entry| at_most("addresses", entry.addresses.len(), MAX_ADDRESSES))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn profile() -> Profile {
        Profile {
            roles: vec!["srs".to_owned()],
            version: "1.2.3".to_owned(),
            addresses: vec!["10.0.0.5:59106".parse().unwrap()],
            draining: true,
            serves: vec!["10.0.0.5:5060".parse().unwrap()],
        }
    }

    #[test]
    fn frames_survive_the_wire() {
        let entry = BookEntry {
            node: NodeId::new("b").unwrap(),
            site: Site::new("west").unwrap(),
            incarnation: Incarnation(7),
            addresses: vec!["[2001:db8::1]:59106".parse().unwrap()],
            silent_s: 3,
        };
        let frames = [
            ControlFrame::Go,
            ControlFrame::Leaving,
            ControlFrame::Profile(profile()),
            ControlFrame::Book { entries: vec![entry] },
        ];
        for frame in frames {
            assert_eq!(ControlFrame::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn what_a_later_version_says_more_is_passed_over() {
        let later = br#"{"say":"rebalance","weight":5,"list":[1,{"a":2}]}"#;
        assert_eq!(ControlFrame::decode(later), Ok(ControlFrame::Unknown));
        let more = br#"{"say":"profile","roles":[],"version":"9","addresses":[],"rack":"r1"}"#;
        assert!(matches!(ControlFrame::decode(more), Ok(ControlFrame::Profile(p)) if p.version == "9" && !p.draining));
    }

    #[test]
    fn a_frame_out_of_bounds_is_an_error() {
        let long = Profile { version: "x".repeat(65), ..profile() };
        let many = Profile { roles: vec![String::new(); 33], ..profile() };
        let everywhere = Profile { serves: vec!["10.0.0.5:5060".parse().unwrap(); 33], ..profile() };
        for wrong in [long, many, everywhere] {
            let error = ControlFrame::decode(&ControlFrame::Profile(wrong).encode());
            assert!(matches!(error, Err(FrameError::TooMany { .. })), "{error:?}");
        }
        for wrong in [&b""[..], b"{", b"[]", b"{\"say\":\"profile\"}", b"\xff"] {
            assert!(matches!(ControlFrame::decode(wrong), Err(FrameError::Syntax(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_beat_from_outside_is_bounded() {
        let offer = BeatOffer { interval_ms: 0, misses: 0 };
        assert_eq!(Beat::from(offer), Beat { interval: Duration::from_millis(10), misses: 2 });
        assert_eq!(Beat::from(BeatOffer::from(Beat::INSIDE)), Beat::INSIDE);
    }
}
