//! The fabric between the nodes of a cluster: it carries bytes and knows who is there.
//!
//! ```text
//! Fabric (handle) --Command--> driver task: Membership (sans-IO), one timer
//!    |                            |  ^ greetings, heartbeats, closes
//!    | send, request, datagram    v  |
//!    +--> Link ------------> quinn connection, one a pair -----> readers --> Inbox
//! ```
//!
//! QUIC with mutual TLS 1.3 under the cluster's own CA. On a connection:
//!
//! | carrier | what | lost? |
//! | --- | --- | --- |
//! | first stream, both ways | control: hello, go, profile, book, leaving (JSON, [`ferric_membership::hello`]) | never while the link is up |
//! | one stream a topic, one way | messages; those of a topic arrive in order | only with the link: between `Down` and `Up` |
//! | one stream a request | request and answer | says so: [`RequestError`] |
//! | datagrams | `0`, heartbeat; `1`, channel u32, payload | yes |
//!
//! A message on a stream is `kind u16 | protocol u16 | length u32 | body`, big endian (`frame`). The fabric gives kinds
//! and bodies no meaning; the protocol is the version that both nodes speak on this link, so that a body can be read the
//! way it was written while a cluster is upgraded.
//!
//! - [`config`]: what a node needs; [`ca`]: the cluster's CA and certificates of nodes.
//! - `tls`: who may connect; `greet`: hellos on a fresh connection.
//! - `link`: what is sent; `inbound`: what is received.
//! - `driver`: the task that owns the membership.
//!
//! # Invariants
//!
//! - Nothing that is sent blocks its caller: a queue that is full is [`SendError::Full`], at once.
//! - Every queue, body, stream count and handshake count has a limit ([`Limits`]). A receiver that is slow slows the
//!   sender of its messages down, by QUIC's flow control; it never delays membership, which has a channel of its own.
//! - A message that was accepted arrives once and in order, or its link goes down.

mod backlog;
pub mod ca;
pub mod config;
mod driver;
mod fabric;
mod frame;
mod greet;
mod inbound;
mod link;
mod tls;

pub use config::{FabricConfig, Limits, StartError, WallClock};
pub use fabric::Fabric;
pub use ferric_membership as membership;
pub use ferric_membership::{
    Beat, Change, ClusterName, DownCause, Event as FabricEvent, Identity, Incarnation, LinkQuality, Member,
    MemberState, NodeId, Protocol, ProtocolRange, Quorum, Refusal, RefusalKind, RefusedBy, Site,
};
pub use frame::Kind;
pub use inbound::{Datagram, Inbound, Inbox, Responder};
pub use link::{RequestError, SendError};
pub use tls::Credentials;
