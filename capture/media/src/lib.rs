//! From RTP to sealed segments, sans-IO.

pub mod eopus;
pub mod keys;
pub mod manifest;
pub mod metadata;
pub mod open;
pub mod seal;
pub mod timestamp;

mod audio_file;
pub mod clock_map;
pub mod gaps;
pub mod jitter;
pub mod pipeline;
pub mod reception;
pub mod recorder;
mod report;
pub mod rtcp;
pub mod rtp;
pub mod sender_clock;
pub mod source;
pub mod stats;
pub mod stream;
mod stream_config;
mod telephone_event;
pub mod track;
mod voice;
