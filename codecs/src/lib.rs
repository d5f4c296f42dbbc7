//! Audio codecs, Ogg and signal levels: everything that touches samples.
//!
//! No I/O, no clocks, no dependency on the rest of the workspace; [`amr`] alone
//! looks for a library of the system. Samples are
//! signed 16-bit, mono unless a name says otherwise. Nothing here panics on
//! any payload: what cannot be decoded is an error, what is missing is concealed.

// Codec arithmetic runs over tables and windows of fixed size; every index here
// is bounded by construction and covered by tests on random input.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod amr;
pub mod comfort_noise;
pub mod decode;
pub mod g711;
pub mod g722;
pub mod g726;
pub mod g729;
pub mod gsm;
pub mod ilbc;
pub mod kind;
pub mod l16;
pub mod level;
pub mod ogg;
pub mod opus;
pub mod opus_packet;
pub mod party;
pub mod plc;
pub mod resample;
#[doc(hidden)]
pub mod testing;
