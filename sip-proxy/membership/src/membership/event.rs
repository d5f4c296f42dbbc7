//! What [`Membership`](super::Membership) takes, answers and shows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::admission::Own;
use crate::detector::Beat;
use crate::hello::{ControlFrame, Hello, Profile};
use crate::identity::{Identity, Incarnation, NodeId, Site};
use crate::protocol::Protocol;
use crate::quality::LinkQuality;
use crate::redial::BackOff;
use crate::refusal::Refusal;

/// A connection, by the number its owner gave it; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What a membership is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub own: Own,
    /// What it says of itself at first.
    pub profile: Profile,
    /// Heartbeats to nodes of the own site.
    pub inside: Beat,
    /// Heartbeats to nodes of other sites.
    pub between: Beat,
    /// Addresses from the configuration.
    pub seeds: Vec<SocketAddr>,
    /// The most other nodes that are known at once.
    pub max_members: usize,
    /// A dead node of which nobody has heard for so long is forgotten.
    pub forget_after: Duration,
    /// Waits between dials.
    pub back_off: BackOff,
    /// The seed of all randomness.
    pub seed: u64,
}

/// A connection on which both hellos were said.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The connection.
    pub link: LinkId,
    /// The address this node dialled; `None` if the peer dialled.
    pub dialled: Option<SocketAddr>,
    /// Where the peer's packets come from.
    pub remote: SocketAddr,
    /// What the peer's certificate says.
    pub certificate: Identity,
    /// What the peer says.
    pub hello: Hello,
    /// The round trip of the handshake.
    pub rtt: Duration,
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Dial this address, and report with `handle_greeting` or `handle_dial_failed`.
    Dial(SocketAddr),
    /// The connection is the link to this node now: it may be used.
    Up {
        /// The connection.
        link: LinkId,
        /// The node.
        node: NodeId,
        /// What both speak.
        protocol: Protocol,
    },
    /// Send this heartbeat as a datagram.
    Heartbeat(LinkId, [u8; crate::heartbeat::Heartbeat::LEN]),
    /// Say this on the control stream.
    Frame(LinkId, ControlFrame),
    /// Close the connection; it will not be named again.
    Close(LinkId, CloseReason),
    /// Tell whoever uses the fabric.
    Event(Event),
}

/// Why a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The node that closes goes for good, or has heard that the other does.
    Leaving,
    /// Nothing was heard for too long.
    Silent,
    /// There is a link to this node already.
    Duplicate,
    /// Another connection has taken its place.
    Replaced,
    /// A node dialled itself.
    Myself,
    /// The node may not come in.
    Refused(Refusal),
}

impl CloseReason {
    /// The application error code on the wire.
    pub fn code(&self) -> u32 {
        match self {
            Self::Leaving => 1,
            Self::Silent => 2,
            Self::Duplicate => 3,
            Self::Replaced => 4,
            Self::Myself => 5,
            Self::Refused(refusal) => refusal.kind.code(),
        }
    }

    /// The sentence on the wire.
    pub fn text(&self) -> &str {
        match self {
            Self::Leaving => "leaving",
            Self::Silent => "nothing heard",
            Self::Duplicate => "linked already",
            Self::Replaced => "replaced by another connection",
            Self::Myself => "this is myself",
            Self::Refused(refusal) => &refusal.text,
        }
    }

    /// The reason of a close that came from a peer; `None` for a code that says nothing.
    pub fn from_wire(code: u64, text: &str) -> Option<Self> {
        use crate::refusal::RefusalKind;
        Some(match code {
            1 => Self::Leaving,
            2 => Self::Silent,
            3 => Self::Duplicate,
            4 => Self::Replaced,
            5 => Self::Myself,
            _ => Self::Refused(Refusal::new(RefusalKind::from_code(code)?, text)),
        })
    }
}

/// Who refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedBy {
    /// This node refused the peer.
    Us,
    /// The peer refused this node.
    Peer,
}

/// Why a node went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownCause {
    /// Nothing was heard for this long.
    Silent(Duration),
    /// It said that it goes.
    Left,
    /// Its connection ended: the process ended, or the peer gave the connection up.
    Closed,
    /// The peer had heard nothing of us.
    PeerHeardNothing,
    /// A new run of the node, or a new connection to it, has taken its place; an `Up` follows.
    Replaced,
}

/// What changed of a node that did not go up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was heard of for the first time.
    Known,
    /// It is silent for longer than it should be.
    Suspect,
    /// It is heard again.
    Recovered,
    /// It says something else of itself.
    Profile,
    /// It was forgotten.
    Forgotten,
}

/// What users of the fabric hear.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The link to a node is up. Messages before this are of an earlier link.
    Up {
        /// The node.
        node: NodeId,
        /// Its run.
        incarnation: Incarnation,
        /// What both speak.
        protocol: Protocol,
        /// It was linked before, in another run.
        restarted: bool,
    },
    /// The link is down; what was not delivered is lost.
    Down {
        /// The node.
        node: NodeId,
        /// Why.
        cause: DownCause,
    },
    /// Something else changed; `members()` has it.
    Changed {
        /// The node.
        node: NodeId,
        /// What.
        change: Change,
    },
    /// A connection was refused. Said once in a while for each address and kind.
    Refused {
        /// The node, if a certificate said one.
        node: Option<NodeId>,
        /// Its address.
        address: SocketAddr,
        /// Which side refused.
        by: RefusedBy,
        /// Why.
        refusal: Refusal,
    },
    /// The wall clock of a node differs by more than 2 s, or does so no longer.
    Clock {
        /// The node.
        node: NodeId,
        /// Ahead of ours, in milliseconds.
        ahead_ms: i64,
        /// Whether that is an alarm.
        alarm: bool,
    },
    /// This node itself slept past its heartbeats for this long.
    Stalled(Duration),
    /// So many events were dropped because nobody read them: look at `members()`.
    Lagged(u64),
}

/// The state of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Heard of, never linked.
    Known,
    /// Its link is up.
    Alive,
    /// Its link is up, and it is silent.
    Suspect,
    /// Its link is down.
    Dead,
    /// It said that it goes.
    Left,
}

/// A node as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its site.
    pub site: Site,
    /// Its last run that was seen or heard of.
    pub incarnation: Incarnation,
    /// Its state.
    pub state: MemberState,
    /// Since when it is up or not up.
    pub since: Instant,
    /// What both speak; `None` while it was never linked.
    pub protocol: Option<Protocol>,
    /// What it says of itself.
    pub profile: Profile,
    /// Where it can be dialled.
    pub addresses: Vec<SocketAddr>,
    /// The link, while it is up.
    pub quality: Option<LinkQuality>,
    /// Its clock ahead of ours at the last heartbeat, in milliseconds.
    pub clock_ahead_ms: i64,
}

impl Member {
    /// Whether its link is up.
    pub fn is_up(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Suspect)
    }
}
