//! The mirror of a recording: what one worker's recorder was told, told again to a recorder on another node.
//!
//! ```text
//! original:  sockets, signalling -> Recorder            copy:  Recorder -> its own sealed files
//!                    \-> Tap -> frames ~~ fabric ~~> frames -> Feed -/
//!                         ^------------ Report <------------/
//! ```
//!
//! The mirror is a *journal of a recorder's inputs*: datagrams with their arrival and source, the moments to which it was
//! advanced, and every change, pause, tag and end, in one order. A recorder is sans-IO and has no clock, so the same
//! inputs make the same audio: same packets of Opus, same gaps, same statistics. What differs is the file's id and key.
//!
//! Datagrams travel as they came. SRTP stays sealed; the keys are part of the streams ([`Control`]) and change where they
//! changed in the original. So the copy's receiver has the rollover counters, the source lock and the state of the jitter
//! buffer that the original had, and goes on from there when it is promoted.
//!
//! # Frames
//!
//! | bytes | field | |
//! | --- | --- | --- |
//! | 1 | version | 1 |
//! | 1 | kind | 1 media, 2 media that ends a visit, 3 control |
//! | 16 | copy | the copy's file id |
//! | 4 | number | of the frame, from 0 |
//! | 4 | controls | control frames before this one |
//! | 8 | at | journal time, i64 µs, of the visit or the control |
//! | 4 | before | µs by which the visit before lies earlier than `at`, if there was one |
//! | | body | datagrams ([`frame`]), or a [`Control`] as JSON |
//!
//! All integers are big endian. Journal time is zero where the copy's timeline begins.
//!
//! # Invariants
//!
//! - A frame is played once and in order. One that is missing is asked for; after [`GIVE_UP`] media goes on without it, as
//!   after a loss on the way to the original.
//! - A control is never passed over: media that was recorded behind a pause or a change of keys does not play before it.
//!   One that stays away breaks the copy ([`Replay::Broken`]), which ends there.
//! - The sender never waits. Its ring holds [`RING`] of frames and bounded bytes; what falls out is lost for the copy only.

mod control;
mod feed;
pub mod frame;
mod play;
mod tap;
mod wire;

use std::time::Duration;

pub use control::{Begin, Control, Report, Streams};
pub use feed::{Feed, FeedStats, Replay};
pub use frame::{FrameError, Port, copy_of};
pub use play::{moment, play};
pub use tap::{Outgoing, Tap, TapStats};

/// Frames younger than this can be sent again.
pub const RING: Duration = Duration::from_secs(2);
/// A frame of media that has not come so long after a later one is given up.
pub const GIVE_UP: Duration = Duration::from_millis(1_500);
