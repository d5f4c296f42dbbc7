//! From RTP to sealed segments, sans-IO.
