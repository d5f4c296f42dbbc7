//! Ogg pages (RFC 3533) carrying two mono Opus streams as two channels
//! (RFC 7845, channel mapping family 1: two streams, none coupled).
//!
//! ```text
//! page 0   OpusHead                       page 1   OpusTags
//! page 2.. packets: [party 1, self-delimited][party 2], granule at 48 kHz
//!
//! page  = "OggS" 0 flags granule(8) serial(4) sequence(4) crc(4) count lacing(count) body
//! ```
//!
//! [`OpusWriter`] only joins packets into pages; it keeps no audio. [`OggReader`]
//! takes bytes as they come and names damage. [`OpusHead`] is the first packet.

mod head;
mod reader;
mod writer;

pub use head::OpusHead;
pub use reader::{OggError, OggPacket, OggReader};
pub use writer::OpusWriter;

const CAPTURE: &[u8; 4] = b"OggS";
/// Bytes of a page before its lacing values.
const HEADER: usize = 27;
const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
/// A page holds at most this many lacing values.
const MAX_LACING: usize = 255;
/// Granule position of a page on which no packet ends.
const NO_GRANULE: u64 = u64::MAX;

const CRC: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 0x8000_0000 != 0 { (value << 1) ^ 0x04c1_1db7 } else { value << 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

fn crc(parts: &[&[u8]]) -> u32 {
    parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(0, |crc, &byte| (crc << 8) ^ CRC[usize::from((crc >> 24) as u8 ^ byte)])
}
