//! From RTP to sealed segments, sans-IO.
//!
//! ```text
//! datagram -> rtp, rtcp -> source (address lock) -> stream (SSRC, segments) -> reception (loss, jitter)
//!          -> clock_map (timestamp to call time) -> jitter (reorder) -> voice (decode, conceal) -> track (one
//!          sample for every moment) -> pipeline (two encoders, a frame each 20 ms) -> recorder (Ogg, seal, metadata)
//! ```
//!
//! [`recorder::Recorder`] is the whole of it: datagrams in, bytes of two sealed
//! files out. [`pipeline::MediaPipeline`] is the part that knows no files.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod eopus;
pub mod keys;
pub mod manifest;
pub mod metadata;
pub mod mirror;
pub mod open;
pub mod part;
pub mod seal;
pub mod timestamp;

mod audio_file;
mod burst;
pub mod clock_map;
mod dtmf_mask;
pub mod fuzz;
pub mod gaps;
pub mod jitter;
mod mix;
pub mod pipeline;
pub mod quality;
pub mod reception;
pub mod recorder;
mod report;
mod round_trip;
pub mod rtcp;
pub mod rtp;
pub mod sender_clock;
pub mod source;
pub mod srtp;
pub mod stats;
pub mod stream;
mod stream_config;
mod telephone_event;
pub mod track;
pub mod verdict;
mod voice;
