//! Ogg pages (RFC 3533) carrying two mono Opus streams as two channels
//! (RFC 7845, channel mapping family 1: two streams, none coupled).
//!
//! ```text
//! page 0   OpusHead                       page 1   OpusTags
//! page 2.. packets: [party 1, self-delimited][party 2], granule at 48 kHz
//! ```
//!
//! The writer only joins packets into pages; it keeps no audio. The reader
//! takes bytes as they come, holds at most one page (64 KiB) and names damage.

use std::collections::VecDeque;

use thiserror::Error;

use crate::opus::PRE_SKIP_48K;

const CAPTURE: &[u8; 4] = b"OggS";
const HEADER: usize = 27;
const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
/// A page holds at most this many lacing values.
const MAX_LACING: usize = 255;
/// The longest packet that the reader puts together.
const MAX_PACKET: usize = 1 << 20;

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
    parts.iter().flat_map(|part| part.iter()).fold(0, |crc, &byte| {
        (crc << 8) ^ CRC[usize::from((crc >> 24) as u8 ^ byte)]
    })
}

/// Writes one logical stream of two mono Opus streams.
#[derive(Debug)]
pub struct OpusWriter {
    serial: u32,
    sequence: u32,
    /// End of the last packet pushed, at 48 kHz, pre-skip included.
    granule: u64,
    lacing: Vec<u8>,
    body: Vec<u8>,
}

impl OpusWriter {
    /// A stream with this serial number.
    pub fn new(serial: u32) -> OpusWriter {
        OpusWriter { serial, sequence: 0, granule: 0, lacing: Vec::new(), body: Vec::new() }
    }

    /// Appends both header pages. `input_rate` is informative, in Hz; each tag is `KEY=value`.
    pub fn headers(&mut self, input_rate: u32, tags: &[(&str, &str)], out: &mut Vec<u8>) {
        let mut head = Vec::with_capacity(21);
        head.extend_from_slice(b"OpusHead");
        head.push(1);
        head.push(2);
        head.extend_from_slice(&PRE_SKIP_48K.to_le_bytes());
        head.extend_from_slice(&input_rate.to_le_bytes());
        head.extend_from_slice(&0_i16.to_le_bytes());
        head.extend_from_slice(&[1, 2, 0, 0, 1]);
        self.push_bytes(&head);
        self.page(FIRST, 0, out);

        let mut comment = Vec::new();
        comment.extend_from_slice(b"OpusTags");
        push_string("Ferric", &mut comment);
        comment.extend_from_slice(&(tags.len() as u32).to_le_bytes());
        for (key, value) in tags {
            push_string(&format!("{key}={value}"), &mut comment);
        }
        self.push_bytes(&comment);
        self.page(0, 0, out);
    }

    /// Puts a packet of `samples_48k` on the page; a full page is appended to `out` first.
    pub fn push(&mut self, packet: &[u8], samples_48k: u32, out: &mut Vec<u8>) {
        if self.lacing.len() + packet.len() / 255 + 1 > MAX_LACING {
            self.flush(out);
        }
        self.push_bytes(packet);
        self.granule += u64::from(samples_48k);
    }

    /// Appends the page begun, if it holds anything.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.lacing.is_empty() {
            self.page(0, self.granule, out);
        }
    }

    /// Ends the stream after `length_48k` samples of audio (pre-skip not
    /// counted); what the packets hold beyond is cut by players.
    pub fn finish(&mut self, length_48k: u64, out: &mut Vec<u8>) {
        let end = (length_48k + u64::from(PRE_SKIP_48K)).min(self.granule);
        self.page(LAST, end, out);
    }

    /// Audio pushed so far at 48 kHz, pre-skip included.
    pub fn granule(&self) -> u64 {
        self.granule
    }

    fn push_bytes(&mut self, packet: &[u8]) {
        let mut left = packet.len();
        while left >= 255 {
            self.lacing.push(255);
            left -= 255;
        }
        self.lacing.push(left as u8);
        self.body.extend_from_slice(packet);
    }

    fn page(&mut self, flags: u8, granule: u64, out: &mut Vec<u8>) {
        let mut header = [0_u8; HEADER];
        header[..4].copy_from_slice(CAPTURE);
        header[5] = flags;
        header[6..14].copy_from_slice(&granule.to_le_bytes());
        header[14..18].copy_from_slice(&self.serial.to_le_bytes());
        header[18..22].copy_from_slice(&self.sequence.to_le_bytes());
        header[26] = self.lacing.len() as u8;
        let sum = crc(&[&header, &self.lacing, &self.body]);
        header[22..26].copy_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.lacing);
        out.extend_from_slice(&self.body);
        self.sequence += 1;
        self.lacing.clear();
        self.body.clear();
    }
}

fn push_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Damage in an Ogg stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OggError {
    /// The bytes at this offset are no page.
    #[error("no Ogg page at byte {at}")]
    NoPage {
        /// Offset of the bytes.
        at: u64,
    },
    /// A page's checksum is wrong.
    #[error("the Ogg page at byte {at} has a wrong checksum")]
    Checksum {
        /// Offset of the page.
        at: u64,
    },
    /// Pages are missing.
    #[error("Ogg page {wanted} is missing: page {found} follows")]
    Sequence {
        /// The page number that should have come.
        wanted: u32,
        /// The page number that came.
        found: u32,
    },
    /// A packet of over 1 MiB.
    #[error("an Ogg packet is longer than 1 MiB")]
    TooLong,
}

/// A packet with where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OggPacket {
    /// The packet's bytes.
    pub data: Vec<u8>,
    /// Granule position of the page that ended it, on the page's last packet.
    pub granule: Option<u64>,
    /// True for the stream's last packet.
    pub last: bool,
}

/// Reads one logical stream from bytes as they come.
#[derive(Debug, Default)]
pub struct OggReader {
    buffer: Vec<u8>,
    offset: u64,
    sequence: Option<u32>,
    partial: Vec<u8>,
    ready: VecDeque<OggPacket>,
}

impl OggReader {
    /// At the beginning of a stream.
    pub fn new() -> OggReader {
        OggReader::default()
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`OggError`] names damage; nothing can be read after it.
    pub fn next_packet(&mut self) -> Result<Option<OggPacket>, OggError> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Ok(Some(packet));
            }
            if !self.read_page()? {
                return Ok(None);
            }
        }
    }

    /// Bytes that belong to no whole page yet. Not 0 at the end of a file: it was cut.
    pub fn left_over(&self) -> usize {
        self.buffer.len()
    }

    fn read_page(&mut self) -> Result<bool, OggError> {
        let at = self.offset;
        let Some(header) = self.buffer.get(..HEADER) else { return Ok(false) };
        if &header[..4] != CAPTURE || header[4] != 0 {
            return Err(OggError::NoPage { at });
        }
        let segments = usize::from(header[26]);
        let Some(lacing) = self.buffer.get(HEADER..HEADER + segments) else { return Ok(false) };
        let body_length: usize = lacing.iter().map(|&l| usize::from(l)).sum();
        let start = HEADER + segments;
        let Some(body) = self.buffer.get(start..start + body_length) else { return Ok(false) };

        let mut unsummed = [0_u8; HEADER];
        unsummed.copy_from_slice(header);
        unsummed[22..26].fill(0);
        if crc(&[&unsummed, lacing, body]).to_le_bytes() != header[22..26] {
            return Err(OggError::Checksum { at });
        }
        let number = |range: std::ops::Range<usize>| {
            header[range].iter().rev().fold(0_u64, |value, &byte| (value << 8) | u64::from(byte))
        };
        let (granule, sequence, flags) = (number(6..14), number(18..22) as u32, header[5]);
        if let Some(wanted) = self.sequence.map(|last| last.wrapping_add(1))
            && wanted != sequence
        {
            return Err(OggError::Sequence { wanted, found: sequence });
        }
        self.sequence = Some(sequence);
        if flags & CONTINUED == 0 {
            self.partial.clear();
        }
        let mut position = 0;
        for &length in lacing {
            let end = position + usize::from(length);
            self.partial.extend_from_slice(&body[position..end]);
            position = end;
            if self.partial.len() > MAX_PACKET {
                return Err(OggError::TooLong);
            }
            if length < 255 {
                self.ready.push_back(OggPacket { data: std::mem::take(&mut self.partial), granule: None, last: false });
            }
        }
        if let Some(packet) = self.ready.back_mut() {
            packet.granule = Some(granule);
            packet.last = flags & LAST != 0;
        } else if flags & LAST != 0 {
            self.ready.push_back(OggPacket { data: Vec::new(), granule: Some(granule), last: true });
        }
        self.buffer.drain(..start + body_length);
        self.offset += (start + body_length) as u64;
        Ok(true)
    }
}

/// The fields of an OpusHead packet that a player needs (RFC 7845 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpusHead {
    /// Channels of the output.
    pub channels: u8,
    /// Samples at 48 kHz to drop at the beginning.
    pub pre_skip: u16,
    /// Channel mapping family.
    pub family: u8,
    /// Streams in each packet.
    pub streams: u8,
    /// Streams that are stereo.
    pub coupled: u8,
}

impl OpusHead {
    /// Reads the packet; `None` when it is not an OpusHead that we know.
    pub fn read(packet: &[u8]) -> Option<OpusHead> {
        let fields = packet.strip_prefix(b"OpusHead")?;
        if fields.len() < 11 || fields[0] >> 4 != 0 {
            return None;
        }
        let (channels, family) = (fields[1], fields[10]);
        let (streams, coupled) = if family == 0 { (1, channels.saturating_sub(1)) } else { (*fields.get(11)?, *fields.get(12)?) };
        Some(OpusHead { channels, pre_skip: u16::from_le_bytes([fields[2], fields[3]]), family, streams, coupled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(packets: usize) -> Vec<u8> {
        let mut writer = OpusWriter::new(7);
        let mut out = Vec::new();
        writer.headers(8_000, &[("TITLE", "x")], &mut out);
        for n in 0..packets {
            writer.push(&vec![n as u8; 10 + n * 13 % 600], 960, &mut out);
            if n % 50 == 49 {
                writer.flush(&mut out);
            }
        }
        writer.finish(packets as u64 * 960 - 400, &mut out);
        out
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<OggPacket>, OggError> {
        let (mut reader, mut packets) = (OggReader::new(), Vec::new());
        for part in bytes.chunks(step) {
            reader.push(part);
            while let Some(packet) = reader.next_packet()? {
                packets.push(packet);
            }
        }
        Ok(packets)
    }

    #[test]
    fn what_is_written_is_read_whatever_the_chunks() {
        let bytes = file(120);
        for step in [1, 7, 4_096, bytes.len()] {
            let packets = read(&bytes, step).unwrap();
            assert_eq!(packets.len(), 122);
            assert_eq!(packets[2 + 77].data, vec![77; 10 + 77 * 13 % 600]);
            let head = OpusHead::read(&packets[0].data).unwrap();
            assert_eq!(head, OpusHead { channels: 2, pre_skip: 312, family: 1, streams: 2, coupled: 0 });
            let last = packets.last().unwrap();
            assert!(last.last);
            assert_eq!(last.granule, Some(120 * 960 - 400 + 312));
        }
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let bytes = file(120);
        let second = 4 + bytes[4..].windows(4).position(|w| w == CAPTURE).unwrap();
        let mut flipped = bytes.clone();
        flipped[second + 40] ^= 1;
        assert_eq!(read(&flipped, 999).unwrap_err(), OggError::Checksum { at: second as u64 });
        let third = second + 4 + bytes[second + 4..].windows(4).position(|w| w == CAPTURE).unwrap();
        let without = [&bytes[..second], &bytes[third..]].concat();
        assert_eq!(read(&without, 999).unwrap_err(), OggError::Sequence { wanted: 1, found: 2 });
        assert_eq!(read(b"RIFF....WAVE...................", 999).unwrap_err(), OggError::NoPage { at: 0 });
        let mut reader = OggReader::new();
        reader.push(&bytes[..bytes.len() - 5]);
        while reader.next_packet().unwrap().is_some() {}
        assert!(reader.left_over() > 0);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, 64);
            let _ = read(&[&b"OggS\0"[..], &bytes].concat(), 64);
            let _ = OpusHead::read(&[&b"OpusHead"[..], &bytes].concat());
        }
    }
}
