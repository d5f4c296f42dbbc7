//! The mirror of a call, at both of its workers (what travels between them: [`ferric_media::mirror`]).
//!
//! ```text
//! original's shard: visit -> Original (Tap) -> MirrorLink ~~> Worker::feed -> copy's shard: Follower (Feed) -> Recorder
//!                               ^ Worker::mirror_report <~~ MirrorLink::report <---------------/
//! ```
//!
//! - [`Worker::mirror_to`]: a call that runs here is told to another node from now on; from its beginning, if nothing
//!   was heard yet.
//! - [`Worker::open_copy`], [`Worker::feed`]: a copy runs here. It has no sockets, answers nobody and is told to nobody:
//!   it is no call of this worker, but it counts as one when another asks for room.
//! - [`Worker::promote`]: the original is gone. The copy gets sockets and is a call like any other from then on.
//!
//! # Invariants
//!
//! - A link never waits. What it cannot take is dropped, counted, and asked for again by the copy; the original's recording
//!   does not notice.
//! - Without a mirror a packet costs one branch.
//!
//! - `original`: a tap with its link. `follower`: a feed with its recorder's clock. `timeline`: local time to a
//!   recorder's time. `shard`: what a shard does for both. `worker`: the calls above. `twin`: what the files know of each
//!   other. `settle`: which of them is stored.

mod follower;
mod original;
pub mod settle;
pub(crate) mod shard;
mod timeline;
pub mod twin;
mod worker;

use ferric_media::mirror::{Outgoing, Report};

pub(crate) use follower::Follower;
pub(crate) use original::Original;
pub(crate) use timeline::Timeline;
pub(crate) use worker::Copies;

/// The way to the other node of a mirror. Neither call waits; false when nothing was sent.
pub trait MirrorLink: std::fmt::Debug + Send + Sync {
    /// Sends a frame to the copy.
    fn frame(&self, frame: Outgoing) -> bool;
    /// Sends a report to the original.
    fn report(&self, report: &Report) -> bool;
    /// The longest frame that goes as a datagram, in bytes.
    fn max_datagram(&self) -> usize;
}

/// What a worker counts of its mirrors.
#[derive(Debug, Default)]
pub struct MirrorStats {
    /// Calls that are told to another node.
    pub originals: std::sync::atomic::AtomicUsize,
    /// Copies that run here.
    pub copies: std::sync::atomic::AtomicUsize,
    /// Frames that a link did not take.
    pub unsent: std::sync::atomic::AtomicU64,
    /// Frames sent again.
    pub again: std::sync::atomic::AtomicU64,
    /// Frames that copies here have given up.
    pub given_up: std::sync::atomic::AtomicU64,
    /// Frames dropped because a shard was busy.
    pub crowded: std::sync::atomic::AtomicU64,
    /// Copies that became originals.
    pub promoted: std::sync::atomic::AtomicU64,
    /// Mirrors that broke: the copy could not follow.
    pub broken: std::sync::atomic::AtomicU64,
    /// Mirrors whose copy has said nothing for [`BEHIND`].
    pub behind: std::sync::atomic::AtomicUsize,
}

/// A copy that is silent for so long is behind.
pub const BEHIND: std::time::Duration = std::time::Duration::from_secs(3);
