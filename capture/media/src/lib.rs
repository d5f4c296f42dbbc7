//! From RTP to sealed segments, sans-IO.

pub mod eopus;
pub mod keys;
pub mod manifest;
pub mod metadata;
pub mod open;
pub mod seal;
pub mod timestamp;
